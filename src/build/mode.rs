//! `--chmod`: octal, or the form of chmod(1).

use serde::Serialize;

/// What to make of a file's mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Mode {
    Octal(u32),
    /// Clauses, one after another.
    Symbolic(Vec<Clause>),
}

/// `ug+x` as: whose bits, how, which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clause {
    /// Of `ugo`; all three for `a` and for none.
    who: String,
    how: char,
    /// Of `rwxXst`.
    what: String,
}

impl Mode {
    /// `None` where it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)?;
            return Some(Self::Octal(mode));
        }
        text.split(',').map(clause).collect::<Option<Vec<_>>>().map(Self::Symbolic)
    }

    /// The mode that a file of this mode gets.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Octal(octal) => *octal,
            Self::Symbolic(clauses) => clauses.iter().fold(mode, |mode, clause| clause.apply(mode, is_directory)),
        }
    }
}

fn clause(text: &str) -> Option<Clause> {
    let at = text.find(['+', '-', '='])?;
    let (who, rest) = text.split_at(at);
    let (how, what) = (rest.chars().next()?, &rest[1..]);
    let known = who.chars().all(|c| "ugoa".contains(c)) && what.chars().all(|c| "rwxXst".contains(c));
    let who = if who.is_empty() || who.contains('a') { "ugo" } else { who };
    known.then(|| Clause { who: who.to_owned(), how, what: what.to_owned() })
}

impl Clause {
    fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let mut bits = 0;
        let mut mask = 0;
        for who in self.who.chars() {
            let (shift, special) = match who {
                'u' => (6, 0o4000),
                'g' => (3, 0o2000),
                _ => (0, 0),
            };
            mask |= 0o7 << shift | special;
            for what in self.what.chars() {
                bits |= match what {
                    'r' => 4 << shift,
                    'w' => 2 << shift,
                    'x' => 1 << shift,
                    'X' if is_directory || mode & 0o111 != 0 => 1 << shift,
                    's' => special,
                    't' => 0o1000,
                    _ => 0,
                };
            }
        }
        match self.how {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => mode & !mask | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_chmod() {
        for (text, mode, is_directory, expected) in [
            ("0755", 0o600, false, 0o755),
            ("644", 0o777, true, 0o644),
            ("u+x", 0o644, false, 0o744),
            ("a+rX", 0o600, false, 0o644),
            ("+X", 0o700, false, 0o711),
            ("go=", 0o777, true, 0o700),
            ("u=rwx,g=rx,o-r", 0o007, false, 0o753),
            ("g+s,+t", 0o755, true, 0o3755),
        ] {
            assert_eq!(Mode::parse(text).unwrap().apply(mode, is_directory), expected, "{text}");
        }
        for text in ["", "999", "77777", "x", "u+q", "z+x", "+x,"] {
            assert_eq!(Mode::parse(text), None, "{text}");
        }
    }
}
