//! Variables in words of instructions (Dockerfile reference, "Environment replacement"): `$x`, `${x}`, `${x:-w}`, `${x-w}`,
//! `${x:+w}`, `${x+w}`, `${x:?w}`, `${x?w}`, `${x#p}`, `${x##p}`, `${x%p}`, `${x%%p}`, `${x/p/r}`, `${x//p/r}`. Pure.

/// Deeper nesting of `${…}` than anybody writes.
const DEEPEST: usize = 32;

/// What quotes and escapes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotes {
    /// They protect, and are taken away.
    Word,
    /// As in a here-document of a shell: quotes are characters, and only `\$`, `` \` `` and `\\` are escapes.
    Document,
}

/// Why a word has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    Syntax(String),
    /// `${x:?…}` of a variable that is not set.
    #[error("{0}")]
    Required(String),
}

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The word with its variables replaced by what `lookup` says of them.
///
/// # Errors
/// See [`Problem`].
pub fn expand(text: &str, escape: char, quotes: Quotes, lookup: Lookup<'_>) -> Result<String, Problem> {
    let mut expander = Expander { chars: text.chars().collect(), at: 0, depth: 0, escape, quotes, lookup };
    expander.until(None)
}

/// Whether the word can be understood, whatever its variables are.
pub fn check(text: &str, escape: char) -> Result<(), Problem> {
    for value in [None, Some(String::from("x"))] {
        match expand(text, escape, Quotes::Word, &|_| value.clone()) {
            Err(problem @ Problem::Syntax(_)) => return Err(problem),
            Err(Problem::Required(_)) | Ok(_) => {}
        }
    }
    Ok(())
}

struct Expander<'a> {
    chars: Vec<char>,
    at: usize,
    depth: usize,
    escape: char,
    quotes: Quotes,
    lookup: Lookup<'a>,
}

fn syntax(message: impl Into<String>) -> Problem {
    Problem::Syntax(message.into())
}

impl Expander<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += usize::from(next.is_some());
        next
    }

    fn takes(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    /// Up to and with `stop`, or to the end where there is none.
    fn until(&mut self, stop: Option<char>) -> Result<String, Problem> {
        let mut out = String::new();
        while let Some(c) = self.next() {
            match c {
                _ if Some(c) == stop => return Ok(out),
                '\'' if self.quotes == Quotes::Word => self.single_quoted(&mut out)?,
                '"' if self.quotes == Quotes::Word => self.double_quoted(&mut out)?,
                '$' => out.push_str(&self.dollar()?),
                _ if c == self.escape => self.escaped(&mut out),
                _ => out.push(c),
            }
        }
        match stop {
            None => Ok(out),
            Some(stop) => Err(syntax(format!("`{stop}` is missing"))),
        }
    }

    fn escaped(&mut self, out: &mut String) {
        match (self.next(), self.quotes) {
            (Some(c), Quotes::Document) if !matches!(c, '$' | '`' | '\\') => out.extend([self.escape, c]),
            (Some(c), _) => out.push(c),
            (None, Quotes::Document) => out.push(self.escape),
            (None, Quotes::Word) => {}
        }
    }

    fn single_quoted(&mut self, out: &mut String) -> Result<(), Problem> {
        loop {
            match self.next() {
                Some('\'') => return Ok(()),
                Some(c) => out.push(c),
                None => return Err(syntax("a single quote is not closed")),
            }
        }
    }

    fn double_quoted(&mut self, out: &mut String) -> Result<(), Problem> {
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some('$') => out.push_str(&self.dollar()?),
                Some(c) if c == self.escape => match self.next() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => out.push(next),
                    Some(next) => out.extend([c, next]),
                    None => break,
                },
                Some(c) => out.push(c),
                None => break,
            }
        }
        Err(syntax("a double quote is not closed"))
    }

    fn dollar(&mut self) -> Result<String, Problem> {
        if self.takes('{') {
            self.depth += 1;
            if self.depth > DEEPEST {
                return Err(syntax("`${…}` is nested too deeply"));
            }
            let value = self.braces();
            self.depth -= 1;
            return value;
        }
        let name = self.name();
        if name.is_empty() { Ok("$".to_owned()) } else { Ok((self.lookup)(&name).unwrap_or_default()) }
    }

    /// A variable's name, or one of the shell's parameters, which are never set here.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.peek() {
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                while let Some(c) = self.peek().filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                    self.at += 1;
                }
            }
            Some(c) if c.is_ascii_digit() || "@*#?-$!".contains(c) => {
                name.push(c);
                self.at += 1;
            }
            _ => {}
        }
        name
    }

    /// What stands behind `${`.
    fn braces(&mut self) -> Result<String, Problem> {
        let name = self.name();
        if name.is_empty() {
            return Err(syntax("`${` is followed by no variable's name"));
        }
        let value = (self.lookup)(&name);
        match self.next() {
            Some('}') => Ok(value.unwrap_or_default()),
            Some(':') => match self.next() {
                Some(c @ ('-' | '+' | '?')) => self.alternative(&name, value.filter(|value| !value.is_empty()), c),
                Some(c) => Err(syntax(format!("`:{c}` behind a variable's name is not known"))),
                None => Err(syntax("`}` is missing")),
            },
            Some(c @ ('-' | '+' | '?')) => self.alternative(&name, value, c),
            Some(c @ ('#' | '%')) => {
                let longest = self.takes(c);
                let pattern: Vec<char> = self.until(Some('}'))?.chars().collect();
                let value: Vec<char> = value.unwrap_or_default().chars().collect();
                Ok(trim(&value, &pattern, c == '#', longest))
            }
            Some('/') => {
                let all = self.takes('/');
                let pattern: Vec<char> = self.until(Some('/'))?.chars().collect();
                let replacement = self.until(Some('}'))?;
                let value: Vec<char> = value.unwrap_or_default().chars().collect();
                Ok(replace(&value, &pattern, &replacement, all))
            }
            Some(c) => Err(syntax(format!("`{c}` behind a variable's name is not known"))),
            None => Err(syntax("`}` is missing")),
        }
    }

    fn alternative(&mut self, name: &str, value: Option<String>, kind: char) -> Result<String, Problem> {
        let word = self.until(Some('}'))?;
        match (kind, value) {
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            ('?', None) if word.is_empty() => Err(Problem::Required(format!("variable `{name}` is not set"))),
            ('?', None) => Err(Problem::Required(format!("variable `{name}`: {word}"))),
            _ => Ok(word),
        }
    }
}

/// `*` and `?` of a shell's pattern. Goes back to the last star only: the time is bounded by the product of both lengths.
fn matches(pattern: &[char], text: &[char]) -> bool {
    let (mut at, mut seen, mut star) = (0, 0, None);
    while seen < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(c) if *c == '?' || *c == text[seen] => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((before, taken)) = star else { return false };
                star = Some((before, taken + 1));
                at = before + 1;
                seen = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

/// Without the shortest or longest beginning or end that the pattern matches.
fn trim(value: &[char], pattern: &[char], start: bool, longest: bool) -> String {
    let mut lengths: Vec<usize> = (0..=value.len()).collect();
    if longest {
        lengths.reverse();
    }
    for length in lengths {
        let (part, rest) = match start {
            true => value.split_at(length),
            false => {
                let (rest, part) = value.split_at(value.len() - length);
                (part, rest)
            }
        };
        if matches(pattern, part) {
            return rest.iter().collect();
        }
    }
    value.iter().collect()
}

/// The first or every longest part that the pattern matches, replaced.
fn replace(value: &[char], pattern: &[char], replacement: &str, all: bool) -> String {
    let (mut out, mut at, mut done) = (String::new(), 0, false);
    while at < value.len() {
        let length = (1..=value.len() - at).rev().find(|length| matches(pattern, &value[at..at + length]));
        match length.filter(|_| all || !done) {
            Some(length) => {
                out.push_str(replacement);
                at += length;
                done = true;
            }
            None => {
                out.push(value[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        let known = [("a", "1"), ("empty", ""), ("p", "/usr/local/lib.so.1"), ("name", "foo bar")];
        known.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn words_are_expanded() {
        for (text, expected) in [
            ("plain", "plain"),
            ("$a-${a}b$a", "1-1b1"),
            ("$unset|${unset}", "|"),
            ("${unset:-x}${empty:-y}${empty-z}${unset-w}", "xyw"),
            ("${a:+x}${empty:+y}${empty+z}${unset+w}", "xz"),
            ("${unset:-${a:-q}}", "1"),
            ("${a:?no}", "1"),
            ("'$a' \"$a\" \"'$a'\"", "$a 1 '1'"),
            ("\\$a \\\\ a\\ b", "$a \\ a b"),
            ("\"\\$a \\n \\\\\"", "$a \\n \\"),
            ("a$ $$ $1", "a$  "),
            ("${p#*/}|${p##*/}|${p%.*}|${p%%.*}", "usr/local/lib.so.1|lib.so.1|/usr/local/lib.so|/usr/local/lib"),
            ("${name/o/0}|${name//o/0}|${name//[/x}", "f0o bar|f00 bar|foo bar"),
            ("${name// /_}", "foo_bar"),
            ("ä${a}ö", "ä1ö"),
        ] {
            assert_eq!(expand(text, '\\', Quotes::Word, &lookup).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(expand("c:\\x `$a", '`', Quotes::Word, &lookup).as_deref(), Ok("c:\\x $a"));
        let document = "'$a' \"x\" \\$a \\n \\\\";
        assert_eq!(expand(document, '\\', Quotes::Document, &lookup).as_deref(), Ok("'1' \"x\" $a \\n \\"));
    }

    #[test]
    fn what_has_no_value_says_why() {
        for (text, expected) in [
            ("${unset:?must be}", "variable `unset`: must be"),
            ("${unset?}", "variable `unset` is not set"),
            ("${", "`${` is followed by no variable's name"),
            ("${a", "`}` is missing"),
            ("${a:-x", "`}` is missing"),
            ("${a:=x}", "`:=` behind a variable's name is not known"),
            ("${a!}", "`!` behind a variable's name is not known"),
            ("'a", "a single quote is not closed"),
            ("\"a", "a double quote is not closed"),
        ] {
            let problem = expand(text, '\\', Quotes::Word, &lookup).unwrap_err();
            assert_eq!(problem.to_string(), expected, "{text}");
            assert_eq!(check(text, '\\').is_err(), matches!(problem, Problem::Syntax(_)), "{text}");
        }
        assert!(check(&"${a:-".repeat(1000), '\\').is_err());
    }
}
