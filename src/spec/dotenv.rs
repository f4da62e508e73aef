//! `.env` and `env_file`, as docker compose reads them.
//!
//! A line is `[export ]NAME=value` (or `NAME: value`). Without quotes the value ends at ` #`; in double quotes `\n` and
//! friends are escapes and the value may go over lines; single quotes are literal. Variables are interpolated except
//! in single quotes. `NAME` alone takes the value from the surroundings.

use super::diagnostics::{Diagnostic, Span};
use super::interpolate::{Lookup, interpolate};

/// One assignment. `value` is `None` for a name alone that the surroundings do not set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub name: String,
    pub value: Option<String>,
    pub span: Span,
}

/// Parses `text`; `lookup` is consulted before the names set further up in the file, `fallback` after them.
pub fn parse(
    text: &str,
    source: usize,
    lookup: Lookup<'_>,
    fallback: Lookup<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Assignment> {
    let mut reader = Reader { text, at: 0, source, fallback };
    if text.starts_with('\u{feff}') {
        reader.at = '\u{feff}'.len_utf8();
    }
    let mut found: Vec<Assignment> = Vec::new();
    while reader.skip_blank() {
        match reader.assignment(lookup, &found) {
            Ok(assignment) => found.push(assignment),
            Err(diagnostic) => {
                diagnostics.push(diagnostic);
                reader.skip_line();
            }
        }
    }
    found
}

/// `format: raw`: each line is `NAME=value`, taken as it is.
pub fn parse_raw(text: &str, source: usize) -> Vec<Assignment> {
    let mut found = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches(['\n', '\r']);
        if let Some((name, value)) = content.split_once('=').filter(|_| !content.trim_start().starts_with('#')) {
            let span = Span { source, start: at, end: at + content.len() };
            found.push(Assignment { name: name.trim().to_owned(), value: Some(value.to_owned()), span });
        }
        at += line.len();
    }
    found
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    source: usize,
    fallback: Lookup<'a>,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn span(&self, start: usize, end: usize) -> Span {
        Span { source: self.source, start, end }
    }

    /// Skips empty lines and comments; false at the end.
    fn skip_blank(&mut self) -> bool {
        loop {
            self.at += self.rest().len() - self.rest().trim_start().len();
            if self.rest().starts_with('#') {
                self.skip_line();
            } else {
                return !self.rest().is_empty();
            }
        }
    }

    fn skip_line(&mut self) {
        self.at = self.rest().find('\n').map_or(self.text.len(), |end| self.at + end + 1);
    }

    fn line_end(&self) -> usize {
        self.rest().find('\n').map_or(self.text.len(), |end| self.at + end)
    }

    fn assignment(&mut self, lookup: Lookup<'_>, before: &[Assignment]) -> Result<Assignment, Diagnostic> {
        if let Some(tail) = self.rest().strip_prefix("export").filter(|tail| tail.starts_with([' ', '\t'])) {
            self.at += "export".len() + tail.len() - tail.trim_start_matches([' ', '\t']).len();
        }
        let start = self.at;
        let end = self.line_end();
        let line = &self.text[start..end];
        let stop = line.find(['=', ':']).unwrap_or(line.len());
        let name = line[..stop].trim();
        let good = |c: char| c.is_alphanumeric() || "_.-[]".contains(c);
        if let Some(bad) = name.find(|c: char| !good(c)) {
            let at = start + bad;
            let length = name[bad..].chars().next().map_or(1, char::len_utf8);
            return Err(Diagnostic::error(
                "a variable name has letters, digits and `_ . -`",
                self.span(at, at + length),
            )
            .help("a line is NAME=value; comments begin with `#`"));
        }
        if name.is_empty() {
            return Err(Diagnostic::error("a variable name is missing", self.span(start, start + stop.max(1))));
        }
        let span = self.span(start, start + line[..stop].trim_end().len());
        let find = |name: &str| lookup(name).or_else(|| set_before(before, name)).or_else(|| (self.fallback)(name));
        if stop == line.len() {
            self.at = end;
            return Ok(Assignment { value: lookup(name), name: name.to_owned(), span });
        }
        self.at = start + stop + 1;
        let value = self.value(&find)?;
        Ok(Assignment { name: name.to_owned(), value: Some(value), span })
    }

    fn value(&mut self, find: Lookup<'_>) -> Result<String, Diagnostic> {
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t']).len();
        match self.rest().chars().next() {
            Some(quote @ ('"' | '\'')) => self.quoted(quote, find),
            _ => self.unquoted(find),
        }
    }

    fn unquoted(&mut self, find: Lookup<'_>) -> Result<String, Diagnostic> {
        let (start, end) = (self.at, self.line_end());
        let line = &self.text[start..end];
        let comment = line.char_indices().zip(std::iter::once(' ').chain(line.chars()));
        let comment = comment.filter(|((_, c), before)| *c == '#' && *before == ' ').map(|((at, _), _)| at).next();
        let value = line[..comment.unwrap_or(line.len())].trim_end();
        self.at = end;
        self.expand(&value.replace("\\$", "$$"), find, start, start + value.len())
    }

    fn quoted(&mut self, quote: char, find: Lookup<'_>) -> Result<String, Diagnostic> {
        let start = self.at;
        let body = &self.text[start + 1..];
        let Some(length) = closing_quote(body, quote) else {
            let line_end = self.line_end();
            self.at = self.text.len();
            return Err(Diagnostic::error(
                format!("the value begins with {quote} but never ends with one"),
                self.span(start, line_end),
            ));
        };
        self.at = start + length + 2;
        let end = self.line_end();
        let tail = self.text[self.at..end].trim();
        if !tail.is_empty() && !tail.starts_with('#') {
            let span = self.span(self.at, end);
            return Err(
                Diagnostic::error("text after the closing quote", span).help("put the quotes around the whole value")
            );
        }
        self.at = end;
        let value = &body[..length];
        match quote {
            '\'' => Ok(value.replace("\\'", "'")),
            _ => self.expand(&unescape(value), find, start, start + length + 2),
        }
    }

    fn expand(&self, value: &str, find: Lookup<'_>, start: usize, end: usize) -> Result<String, Diagnostic> {
        interpolate(value, find, &mut Vec::new()).map_err(|fault| {
            let mut diagnostic = Diagnostic::error(fault.message, self.span(start, end));
            diagnostic.help = fault.help.map(|help| format!("{help}; single quotes keep a value as it is"));
            diagnostic
        })
    }
}

fn set_before(before: &[Assignment], name: &str) -> Option<String> {
    before.iter().rev().find(|one| one.name == name).and_then(|one| one.value.clone())
}

fn closing_quote(body: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at),
            _ => {}
        }
    }
    None
}

/// Escapes of double quotes. `\$` becomes `$$`, which interpolation turns into a dollar sign.
fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('$') => out.push_str("$$"),
            Some(other @ ('"' | '\\' | '\'')) => out.push(other),
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<(String, Option<String>)>, Vec<String>) {
        let lookup = |name: &str| (name == "OUTER").then(|| "outer".to_owned());
        let mut diagnostics = Vec::new();
        let found = parse(text, 0, &lookup, &|_| None, &mut diagnostics);
        (
            found.into_iter().map(|one| (one.name, one.value)).collect(),
            diagnostics.into_iter().map(|one| one.message).collect(),
        )
    }

    #[test]
    fn values() {
        let table: [(&str, &str); 20] = [
            ("A=b", "b"),
            ("A = b ", "b"),
            ("export A=b", "b"),
            ("A: b", "b"),
            ("A=b # comment", "b"),
            ("A=b#no", "b#no"),
            ("A=b\t#no", "b\t#no"),
            ("A=# comment", ""),
            ("A=", ""),
            ("A='$OUTER #'  # c", "$OUTER #"),
            ("A=\"a\\nb $OUTER\"", "a\nb outer"),
            ("A=\"x\ny\"", "x\ny"),
            ("A=\"\\$OUTER\"", "$OUTER"),
            ("A=$OUTER", "outer"),
            ("A=${NONE:-d}", "d"),
            ("A=$$5", "$5"),
            ("\n\n# c\nA=b", "b"),
            ("\u{feff}A=b\r\n", "b"),
            ("A=postgres://u:p@h/db?x=1", "postgres://u:p@h/db?x=1"),
            ("A=\"{\\\"k\\\": 1}\"", "{\"k\": 1}"),
        ];
        for (text, expected) in table {
            assert_eq!(read(text), (vec![("A".to_owned(), Some(expected.to_owned()))], vec![]), "{text}");
        }
    }

    #[test]
    fn names_alone_and_earlier_names() {
        let (found, _) = read("OUTER\nINNER\nA=1\nB=${A}2\nOUTER2=$OUTER");
        let expected =
            [("OUTER", Some("outer")), ("INNER", None), ("A", Some("1")), ("B", Some("12")), ("OUTER2", Some("outer"))];
        let expected: Vec<_> =
            expected.iter().map(|(name, value)| (name.to_string(), value.map(str::to_owned))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn faults_do_not_stop_the_rest() {
        let (found, faults) = read("A B=1\nC=2\n=3\nD='x' y\nE=\"open\n");
        assert_eq!(found, vec![("C".to_owned(), Some("2".to_owned()))]);
        assert_eq!(faults.len(), 4, "{faults:?}");
    }

    #[test]
    fn raw_keeps_everything() {
        let found = parse_raw("A='x' # $B\n#C=1\nD=\n", 0);
        let found: Vec<_> = found.into_iter().map(|one| (one.name, one.value.unwrap_or_default())).collect();
        assert_eq!(found, vec![("A".into(), "'x' # $B".into()), ("D".into(), String::new())]);
    }
}
