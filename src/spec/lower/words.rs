//! Splitting a command line into words the way a shell quotes them; nothing is expanded.

use crate::spec::lower::Context;
use crate::spec::tree::Node;

impl Context<'_> {
    /// `command` and `entrypoint`: a list, or a string that is split into words.
    pub fn command(&mut self, node: Node) -> Option<Vec<String>> {
        match node.text() {
            Some(text) => {
                let words = split(text);
                if words.is_none() {
                    self.error_help("a quote in this command is not closed", node.span, "write the command as a list");
                }
                words
            }
            None => Some(self.list(node)),
        }
    }
}

/// The words of `text`; `None` when a quote or escape is not closed.
pub fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => single_quoted(&mut chars, word.get_or_insert_default())?,
            '"' => double_quoted(&mut chars, word.get_or_insert_default())?,
            '\\' => word.get_or_insert_default().push(chars.next()?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

fn single_quoted(chars: &mut std::str::Chars<'_>, word: &mut String) -> Option<()> {
    loop {
        match chars.next()? {
            '\'' => return Some(()),
            c => word.push(c),
        }
    }
}

fn double_quoted(chars: &mut std::str::Chars<'_>, word: &mut String) -> Option<()> {
    loop {
        match chars.next()? {
            '"' => return Some(()),
            '\\' => match chars.next()? {
                c @ ('"' | '\\' | '$' | '`') => word.push(c),
                '\n' => {}
                c => word.extend(['\\', c]),
            },
            c => word.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let table: [(&str, Option<&[&str]>); 10] = [
            ("", Some(&[])),
            ("  a  b ", Some(&["a", "b"])),
            ("sh -c 'echo \"x\" $y'", Some(&["sh", "-c", "echo \"x\" $y"])),
            ("a\"b c\"d", Some(&["ab cd"])),
            ("''", Some(&[""])),
            ("a\\ b", Some(&["a b"])),
            ("\"a\\\"b\\n\"", Some(&["a\"b\\n"])),
            ("a\nb", Some(&["a", "b"])),
            ("'open", None),
            ("open\\", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|words| words.iter().map(|word| word.to_string()).collect::<Vec<_>>());
            assert_eq!(split(text), expected, "{text}");
        }
    }
}
