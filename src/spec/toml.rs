//! TOML text → the same tree as YAML's.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostic, Span};
use super::tree::{Entry, MAX_DEPTH, Node, Value};

/// Parses `text`; all syntax errors are reported.
pub fn parse(text: &str, source: usize, diagnostics: &mut Vec<Diagnostic>) -> Option<Node> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let range = error.span().unwrap_or(0..0);
        let span = Span { source, start: range.start.min(text.len()), end: range.end.min(text.len()) };
        diagnostics.push(Diagnostic::error(format!("this is not valid TOML: {}", error.message()), span));
    }
    if !errors.is_empty() {
        return None;
    }
    let span = Span { source, start: 0, end: text.trim_end().len() };
    let entries = mapping(table.get_ref(), source, 0, diagnostics);
    Some(Node::new(span, Value::Mapping(entries)))
}

fn mapping(table: &DeTable<'_>, source: usize, depth: usize, diagnostics: &mut Vec<Diagnostic>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            key_span: span(key, source),
            value: node(value, source, depth + 1, diagnostics),
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    entries
}

fn node(value: &Spanned<DeValue<'_>>, source: usize, depth: usize, diagnostics: &mut Vec<Diagnostic>) -> Node {
    let span = span(value, source);
    if depth > MAX_DEPTH {
        diagnostics.push(Diagnostic::error(format!("this is nested more than {MAX_DEPTH} levels deep"), span));
        return Node::null(span);
    }
    let plain = |text: String| Value::Scalar { text, quoted: false };
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Scalar { text: text.to_string(), quoted: true },
        DeValue::Integer(number) => plain(integer(number.as_str(), number.radix())),
        DeValue::Float(number) => plain(number.as_str().to_owned()),
        DeValue::Boolean(flag) => plain(flag.to_string()),
        DeValue::Datetime(time) => plain(time.to_string()),
        DeValue::Array(items) => {
            Value::Sequence(items.iter().map(|item| node(item, source, depth + 1, diagnostics)).collect())
        }
        DeValue::Table(table) => Value::Mapping(mapping(table, source, depth, diagnostics)),
    };
    Node::new(span, value)
}

/// Octal stays recognisable as such: modes are written that way.
fn integer(digits: &str, radix: u32) -> String {
    match radix {
        8 => format!("0o{digits}"),
        16 => u64::from_str_radix(digits, 16).map_or_else(|_| format!("0x{digits}"), |number| number.to_string()),
        2 => u64::from_str_radix(digits, 2).map_or_else(|_| format!("0b{digits}"), |number| number.to_string()),
        _ => digits.to_owned(),
    }
}

fn span<T>(spanned: &Spanned<T>, source: usize) -> Span {
    let range = spanned.span();
    Span { source, start: range.start, end: range.end }
}
