//! Patterns of paths, as `.dockerignore`, `--exclude` and sources of `COPY` have them: Go's `filepath.Match` for each
//! component (`*`, `?`, `[a-z]`, `[^a]`, `\x`), and `**` for any number of components. Pure.

/// One pattern, by components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Vec<char>>);

/// Whether the text has any character that makes it more than a name.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

/// The path without empty components and `.`, and with `..` resolved; what leads out of the root ends at it.
pub fn clean(path: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts
}

impl Pattern {
    /// `None` where a bracket is not closed.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<Vec<char>> = clean(text).into_iter().map(|part| part.chars().collect()).collect();
        parts.iter().all(|part| is_good(part)).then_some(Self(parts))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it matches this path, whole.
    pub fn matches(&self, path: &[&str]) -> bool {
        components(&self.0, path)
    }

    /// Whether it matches this path or a directory that the path is in.
    pub fn covers(&self, path: &[&str]) -> bool {
        (1..=path.len()).any(|length| self.matches(&path[..length]))
    }

    /// Whether something below this directory may match.
    pub fn may_match_below(&self, directory: &[&str]) -> bool {
        let mut pattern = self.0.iter();
        for part in directory {
            match pattern.next() {
                Some(wanted) if is_any(wanted) => return true,
                Some(wanted) if component(wanted, &part.chars().collect::<Vec<_>>()) => {}
                _ => return false,
            }
        }
        pattern.next().is_some()
    }
}

fn is_any(part: &[char]) -> bool {
    part == ['*', '*']
}

/// Whether the pattern's components from some on match the path's from some on, from the ends to the beginnings.
fn components(pattern: &[Vec<char>], path: &[&str]) -> bool {
    let names: Vec<Vec<char>> = path.iter().map(|name| name.chars().collect()).collect();
    let mut rest: Vec<bool> = (0..=names.len()).map(|at| at == names.len()).collect();
    for (number, part) in pattern.iter().enumerate().rev() {
        let mut here = vec![false; names.len() + 1];
        for at in (0..=names.len()).rev() {
            here[at] = match is_any(part) {
                // At the end it stands for something, not for nothing.
                true if number + 1 == pattern.len() => at < names.len(),
                true => rest[at] || (at < names.len() && here[at + 1]),
                false => at < names.len() && rest[at + 1] && component(part, &names[at]),
            };
        }
        rest = here;
    }
    rest[0]
}

/// One name against one component; goes back to the last star only.
fn component(pattern: &[char], name: &[char]) -> bool {
    let (mut at, mut seen, mut star) = (0, 0, None);
    while seen < name.len() {
        if pattern.get(at) == Some(&'*') {
            star = Some((at, seen));
            at += 1;
            continue;
        }
        match one(&pattern[at..], name[seen]) {
            Some(length) => {
                at += length;
                seen += 1;
            }
            None => {
                let Some((before, taken)) = star else { return false };
                star = Some((before, taken + 1));
                (at, seen) = (before + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

/// How many characters of the pattern match this one.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['\\', literal, ..] => (*literal == c).then_some(2),
        ['[', ..] => {
            let (length, matched) = class(pattern, c)?;
            matched.then_some(length)
        }
        [literal, ..] => (*literal == c).then_some(1),
        [] => None,
    }
}

/// `[a-z]`: its length, and whether it holds the character. `None` where it is not closed.
fn class(pattern: &[char], c: char) -> Option<(usize, bool)> {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&'^');
    at += usize::from(negated);
    let (first, mut holds) = (at, false);
    loop {
        let low = match pattern.get(at)? {
            ']' if at > first => return Some((at + 1, holds != negated)),
            '\\' => {
                at += 1;
                *pattern.get(at)?
            }
            low => *low,
        };
        at += 1;
        let mut high = low;
        if pattern.get(at) == Some(&'-') && pattern.get(at + 1).is_some_and(|next| *next != ']') {
            high = *pattern.get(at + 1)?;
            at += 2;
        }
        holds |= (low..=high).contains(&c);
    }
}

fn is_good(part: &[char]) -> bool {
    let mut at = 0;
    while at < part.len() {
        at += match part[at] {
            '[' => match class(&part[at..], ' ') {
                Some((length, _)) => length,
                None => return false,
            },
            '\\' => 2,
            _ => 1,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_docker_has_it() {
        for (pattern, path, expected) in [
            ("a", "a", true),
            ("a", "b/a", false),
            ("*.o", "x.o", true),
            ("*.o", "d/x.o", false),
            ("*/*.o", "d/x.o", true),
            ("**/*.o", "x.o", true),
            ("**/*.o", "a/b/x.o", true),
            ("a/**", "a", false),
            ("a/**", "a/b/c", true),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/b/b/c", true),
            ("**", "x/y", true),
            ("/a/./b/../c/", "a/c", true),
            ("?x", "äx", true),
            ("[a-c]1", "b1", true),
            ("[^a-c]1", "b1", false),
            ("[]a]", "]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a*b*c", "aXbXbYc", true),
            ("a*b*c", "aXbXbY", false),
            ("*", "", false),
        ] {
            let parsed = Pattern::parse(pattern).unwrap();
            assert_eq!(parsed.matches(&clean(path)), expected, "{pattern} {path}");
        }
        assert_eq!(Pattern::parse("[a"), None);
        assert!(Pattern::parse("a").unwrap().covers(&["a", "b"]));
        assert!(Pattern::parse("a/b/c").unwrap().may_match_below(&["a", "b"]));
        assert!(!Pattern::parse("a/b").unwrap().may_match_below(&["a", "b"]));
        assert!(Pattern::parse("**/x").unwrap().may_match_below(&["q", "r"]));
    }

    #[test]
    fn a_nasty_pattern_takes_no_time() {
        let pattern = Pattern::parse(&("*a".repeat(50) + "b")).unwrap();
        assert!(!pattern.matches(&[&"a".repeat(5000)]));
        let deep = Pattern::parse(&("**/a/".repeat(20) + "b")).unwrap();
        assert!(!deep.matches(&["a"; 200]));
    }
}
