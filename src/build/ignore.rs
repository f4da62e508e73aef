//! `.dockerignore`: what of a context no instruction gets to see. Pure.

use super::pattern::{Pattern, clean};

/// The rules of one file, or of several `--exclude`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignore {
    /// Pattern, and whether it is an exception (`!`); a later one wins.
    rules: Vec<(Pattern, bool)>,
}

/// A line that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{text}` is not a pattern: a bracket is not closed")]
pub struct IgnoreError {
    pub line: usize,
    pub text: String,
}

/// A bracket is not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPattern;

impl Ignore {
    /// Reads the lines of a `.dockerignore`.
    ///
    /// # Errors
    /// The first line that is no pattern.
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut ignore = Self::default();
        for (number, line) in text.lines().enumerate() {
            if !line.starts_with('#') {
                ignore.add(line).map_err(|NoPattern| IgnoreError { line: number + 1, text: line.trim().to_owned() })?;
            }
        }
        Ok(ignore)
    }

    /// Adds one rule.
    ///
    /// # Errors
    /// Where it is no pattern.
    pub fn add(&mut self, line: &str) -> Result<(), NoPattern> {
        let line = line.trim();
        let (text, exception) = line.strip_prefix('!').map_or((line, false), |rest| (rest.trim(), true));
        let pattern = Pattern::parse(text).ok_or(NoPattern)?;
        if !pattern.is_empty() {
            self.rules.push((pattern, exception));
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether this path is left out. The last rule that says something of it, or of a directory it is in, decides.
    pub fn excludes(&self, path: &str) -> bool {
        let parts = clean(path);
        let last = self.rules.iter().rev().find(|(pattern, _)| pattern.covers(&parts));
        last.is_some_and(|(_, exception)| !exception)
    }

    /// Whether something below a directory that is left out may be let in again.
    pub fn has_exceptions_below(&self, directory: &str) -> bool {
        let parts = clean(directory);
        self.rules.iter().any(|(pattern, exception)| *exception && pattern.may_match_below(&parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_decides() {
        let text = "# comment\n\n*.md\n!README.md\n /target/ \nnode_modules\n**/*.tmp\ndocs\n!docs/keep/**\n";
        let ignore = Ignore::parse(text).unwrap();
        for (path, expected) in [
            ("a.md", true),
            ("README.md", false),
            ("sub/a.md", false),
            ("target", true),
            ("target/x/y", true),
            ("sub/target", false),
            ("node_modules/a", true),
            ("sub/x.tmp", true),
            ("docs/a", true),
            ("docs/keep/a", false),
            ("src/main.rs", false),
        ] {
            assert_eq!(ignore.excludes(path), expected, "{path}");
        }
        assert!(ignore.has_exceptions_below("docs"));
        assert!(!ignore.has_exceptions_below("target"));
        assert_eq!(Ignore::parse("a\n[b").unwrap_err().line, 2);
    }

    #[test]
    fn everything_but_a_list() {
        let ignore = Ignore::parse("**\n!/src\n!Cargo.*\n").unwrap();
        assert!(ignore.excludes("a/b") && ignore.excludes("README"));
        assert!(!ignore.excludes("src/a/b.rs") && !ignore.excludes("Cargo.lock"));
    }
}
