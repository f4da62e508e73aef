//! From a Dockerfile's text to logical lines: parser directives, comments, continuation, here-documents. Every byte of
//! a logical line knows where in the file it was written.

use std::ops::Range;

use crate::diagnostics::{Diagnostic, Span};

/// What the comments at the very top may say (Dockerfile reference, "Parser directives").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    /// `\` unless the file says otherwise.
    pub escape: char,
    /// Named, and never executed: this program is the only front end.
    pub syntax: Option<String>,
    pub check: Option<String>,
}

/// A text that was put together from pieces of the source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    pub text: String,
    /// Where in `text` each piece begins, and where it was in the source.
    pieces: Vec<(usize, usize)>,
    source: usize,
}

/// One instruction as it is written, on however many lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub text: Text,
    pub heredocs: Vec<Heredoc>,
}

/// `<<NAME` and what follows up to a line that is NAME.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    pub name: String,
    pub content: String,
    /// The name was not quoted: variables count.
    pub expand: bool,
    pub span: Span,
    /// The word as written, by which the instruction refers to it.
    pub word: String,
    /// The lines as written, up to and with the terminator.
    pub verbatim: String,
}

impl Text {
    /// All of one source text, or a piece of it that begins at `at`.
    pub fn new(source: usize, text: &str, at: usize) -> Self {
        Self { text: text.to_owned(), pieces: vec![(0, at)], source }
    }

    fn push(&mut self, piece: &str, at: usize) {
        self.pieces.push((self.text.len(), at));
        self.text.push_str(piece);
    }

    fn offset(&self, at: usize) -> usize {
        let piece = self.pieces.iter().rev().find(|(start, _)| *start <= at);
        piece.map_or(0, |(start, source)| source + (at - start))
    }

    /// Where these bytes were written; the first and the last may be on different lines.
    pub fn span(&self, range: Range<usize>) -> Span {
        let last = range.end.saturating_sub(1).max(range.start);
        let end = if range.is_empty() { self.offset(range.start) } else { self.offset(last) + 1 };
        Span { source: self.source, start: self.offset(range.start), end }
    }

    /// From the first byte to the last.
    pub fn whole(&self) -> Span {
        self.span(0..self.text.len())
    }
}

/// A line of the file without its end.
#[derive(Clone, Copy)]
struct Physical<'a> {
    text: &'a str,
    start: usize,
}

fn physical(text: &str) -> Vec<Physical<'_>> {
    let mut lines = Vec::new();
    let mut start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    while start < text.len() {
        let end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let line = &text[start..end];
        lines.push(Physical { text: line.strip_suffix('\r').unwrap_or(line), start });
        start = end + 1;
    }
    lines
}

/// The file as directives and logical lines. What is wrong is reported, and reading goes on.
pub fn read(text: &str, source: usize, found: &mut Vec<Diagnostic>) -> (Directives, Vec<Line>) {
    let lines = physical(text);
    let directives = directives(&lines, source, found);
    let mut reader = Reader { lines: &lines, next: 0, source, escape: directives.escape, found };
    let mut logical = Vec::new();
    while let Some(line) = reader.line() {
        logical.push(line);
    }
    (directives, logical)
}

fn directives(lines: &[Physical<'_>], source: usize, found: &mut Vec<Diagnostic>) -> Directives {
    let mut directives = Directives { escape: '\\', syntax: None, check: None };
    let mut seen = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        if number == 0 && line.text.starts_with("#!") {
            continue;
        }
        let written = line.text.trim().strip_prefix('#').and_then(|rest| rest.split_once('='));
        let Some((key, value)) = written.map(|(key, value)| (key.trim().to_lowercase(), value.trim())) else { break };
        let span = Span { source, start: line.start, end: line.start + line.text.len() };
        match key.as_str() {
            "escape" if value == "\\" || value == "`" => directives.escape = value.chars().next().unwrap_or('\\'),
            "escape" => found.push(
                Diagnostic::error(format!("`{value}` can't be the escape character"), span)
                    .help("it is a backslash or a backquote"),
            ),
            "syntax" => directives.syntax = Some(value.to_owned()),
            "check" => directives.check = Some(value.to_owned()),
            // An ordinary comment, which ends the directives.
            _ => break,
        }
        if seen.contains(&key) {
            found.push(Diagnostic::error(format!("directive `{key}` is given twice"), span));
        }
        seen.push(key);
    }
    directives
}

struct Reader<'a> {
    lines: &'a [Physical<'a>],
    next: usize,
    source: usize,
    escape: char,
    found: &'a mut Vec<Diagnostic>,
}

fn is_comment(text: &str) -> bool {
    text.trim_start().starts_with('#')
}

impl Reader<'_> {
    fn line(&mut self) -> Option<Line> {
        while self.lines.get(self.next).is_some_and(|line| is_comment(line.text) || line.text.trim().is_empty()) {
            self.next += 1;
        }
        let mut text = Text { source: self.source, ..Text::default() };
        let first = *self.lines.get(self.next)?;
        let indent = first.text.len() - first.text.trim_start().len();
        let mut line = Physical { text: &first.text[indent..], start: first.start + indent };
        loop {
            self.next += 1;
            let Some(kept) = continued(line.text, self.escape) else {
                text.push(line.text, line.start);
                break;
            };
            text.push(kept, line.start);
            // Comments and empty lines within an instruction are no part of it.
            while self.lines.get(self.next).is_some_and(|line| is_comment(line.text) || line.text.trim().is_empty()) {
                self.next += 1;
            }
            match self.lines.get(self.next) {
                Some(next) => line = *next,
                None => break,
            }
        }
        let heredocs = self.heredocs(&text);
        Some(Line { text, heredocs })
    }

    fn heredocs(&mut self, text: &Text) -> Vec<Heredoc> {
        let (word, rest) = text.text.split_once(char::is_whitespace).unwrap_or((&text.text, ""));
        let takes = ["RUN", "COPY", "ADD"].iter().any(|known| known.eq_ignore_ascii_case(word));
        if !takes || is_list(rest) {
            return Vec::new();
        }
        let mut heredocs = Vec::new();
        for range in words(&text.text, self.escape) {
            if let Some(mark) = Mark::of(&text.text[range.clone()]) {
                let span = text.span(range.clone());
                heredocs.extend(self.heredoc(&mark, &text.text[range], span));
            }
        }
        heredocs
    }

    fn heredoc(&mut self, mark: &Mark, word: &str, span: Span) -> Option<Heredoc> {
        let (mut content, mut verbatim) = (String::new(), String::new());
        while let Some(line) = self.lines.get(self.next) {
            self.next += 1;
            verbatim.push_str(line.text);
            verbatim.push('\n');
            let line = if mark.strip_tabs { line.text.trim_start_matches('\t') } else { line.text };
            if line == mark.name {
                let (name, expand) = (mark.name.clone(), mark.expand);
                return Some(Heredoc { name, content, expand, span, word: word.to_owned(), verbatim });
            }
            content.push_str(line);
            content.push('\n');
        }
        let message = format!("here-document `{}` does not end", mark.name);
        self.found.push(
            Diagnostic::error(message, span).help(format!("put `{}` alone on the line after its last", mark.name)),
        );
        None
    }
}

/// The line without its sign of continuation, where it has one. Two of them are a character of the line.
fn continued(line: &str, escape: char) -> Option<&str> {
    let kept = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!kept.ends_with(escape)).then_some(kept)
}

/// The exec form: a JSON list of strings.
pub fn list(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    if text.starts_with('[') { serde_json::from_str(text).ok() } else { None }
}

fn is_list(text: &str) -> bool {
    list(text).is_some()
}

/// The words of a line, divided by white space that is not quoted.
pub fn words(text: &str, escape: char) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if c.is_whitespace() && quote.is_none() {
            words.extend(start.take().map(|start| start..at));
            continue;
        }
        start.get_or_insert(at);
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), c) if c == escape => drop(chars.next()),
            _ => {}
        }
    }
    words.extend(start.map(|start| start..text.len()));
    words
}

/// `<<NAME`, `<<-NAME`, `3<<"NAME"`.
struct Mark {
    name: String,
    strip_tabs: bool,
    expand: bool,
}

impl Mark {
    fn of(word: &str) -> Option<Self> {
        let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
        let (rest, strip_tabs) = rest.strip_prefix('-').map_or((rest, false), |rest| (rest, true));
        let name: String = rest.chars().filter(|c| !matches!(c, '"' | '\'' | '\\')).collect();
        let good = !name.is_empty() && !rest.contains('<');
        good.then(|| Self { expand: name == rest, name, strip_tabs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        let (_, lines) = read(text, 0, &mut found);
        assert!(found.is_empty(), "{found:?}");
        lines.into_iter().map(|line| line.text.text).collect()
    }

    #[test]
    fn lines_are_joined_and_comments_left_out() {
        for (text, expected) in [
            ("FROM a\nRUN b\n", vec!["FROM a", "RUN b"]),
            ("\u{feff}FROM a\r\n  RUN b \\\r\n c", vec!["FROM a", "RUN b  c"]),
            ("RUN a \\\n# no\n\n  # nor this\n  b # this\n", vec!["RUN a   b # this"]),
            ("RUN a\\  \n\\\nb", vec!["RUN ab"]),
            ("RUN a \\\\\nRUN b", vec!["RUN a \\\\", "RUN b"]),
            ("# escape=`\nRUN c:\\ `\n d", vec!["RUN c:\\  d"]),
            ("#\n# escape=`\nRUN c `\nRUN d", vec!["RUN c `", "RUN d"]),
            ("RUN a \\", vec!["RUN a "]),
        ] {
            assert_eq!(texts(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_byte_knows_where_it_was_written() {
        let text = "FROM x\nRUN a \\\n  # no\n  bcd\n";
        let (_, lines) = read(text, 0, &mut Vec::new());
        let line = &lines[1].text;
        let at = line.text.find("bcd").unwrap();
        let span = line.span(at..at + 3);
        assert_eq!(&text[span.start..span.end], "bcd");
        let whole = line.whole();
        assert_eq!(&text[whole.start..whole.end], "RUN a \\\n  # no\n  bcd");
    }

    #[test]
    fn here_documents_end_where_they_say() {
        let text =
            "RUN <<EOF cat 3<<-'B' \"<<C\" $((1<<2))\na $x\nEOF\n\tb\n\tB\nRUN [\"<<D\"]\nCOPY <<E <<F /\n1\nE\n2\nF\n";
        let (_, lines) = read(text, 0, &mut Vec::new());
        let of = |line: &Line| -> Vec<(String, String, bool)> {
            line.heredocs.iter().map(|one| (one.name.clone(), one.content.clone(), one.expand)).collect()
        };
        let one = |name: &str, content: &str, expand| (name.to_owned(), content.to_owned(), expand);
        assert_eq!(of(&lines[0]), [one("EOF", "a $x\n", true), one("B", "b\n", false)]);
        assert_eq!(of(&lines[1]), []);
        assert_eq!(of(&lines[2]), [one("E", "1\n", true), one("F", "2\n", true)]);
        let mut found = Vec::new();
        read("RUN <<EOF\nx\n", 0, &mut found);
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn directives_stand_at_the_top_only() {
        let of = |text: &str| read(text, 0, &mut Vec::new()).0;
        let all = of("#!/x\n# syntax = docker/dockerfile:1\n# Escape=`\n# check=skip=all\nFROM a");
        assert_eq!((all.escape, all.syntax.as_deref()), ('`', Some("docker/dockerfile:1")));
        assert_eq!(all.check.as_deref(), Some("skip=all"));
        assert_eq!(of("# hello\n# escape=`\n").escape, '\\');
        assert_eq!(of("\n# escape=`\n").escape, '\\');
        for text in ["# escape=x\n", "# escape=`\n# escape=`\n"] {
            let mut found = Vec::new();
            read(text, 0, &mut found);
            assert_eq!(found.len(), 1, "{text:?}");
        }
    }
}
