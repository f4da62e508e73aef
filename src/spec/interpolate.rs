//! `$VAR`, `${VAR}` and its forms `:- - :? ? :+ +`, nested, with `$$` for a dollar sign, as Compose defines them.
//! Only values are interpolated, never keys. A dollar sign that begins none of these stands for itself, as in Compose:
//! scripts for awk and sed are full of them.

use std::ops::Range;

use super::diagnostics::{Diagnostic, Sources, Span};
use super::tree::{Node, Value};

/// What is wrong with an expression and where in the text it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub message: String,
    pub range: Range<usize>,
    pub help: Option<String>,
}

/// Value of a variable, `None` when it is not set.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expressions inside expressions; each level costs stack.
const MAX_NESTING: usize = 32;

/// `text` with all variables replaced. Names of plain variables that were not set are added to `unset`.
pub fn interpolate(text: &str, lookup: Lookup<'_>, unset: &mut Vec<(String, Range<usize>)>) -> Result<String, Fault> {
    if !text.contains('$') {
        return Ok(text.to_owned());
    }
    let mut expander = Expander { text, lookup, unset };
    expander.expand(0..text.len(), 0)
}

struct Expander<'a> {
    text: &'a str,
    lookup: Lookup<'a>,
    unset: &'a mut Vec<(String, Range<usize>)>,
}

impl Expander<'_> {
    fn expand(&mut self, range: Range<usize>, depth: usize) -> Result<String, Fault> {
        let mut out = String::new();
        let mut at = range.start;
        while let Some(found) = self.text[at..range.end].find('$') {
            let dollar = at + found;
            out.push_str(&self.text[at..dollar]);
            let rest = &self.text[dollar + 1..range.end];
            if rest.starts_with('$') {
                out.push('$');
                at = dollar + 2;
            } else if rest.starts_with('{') {
                let close = closing(self.text, dollar + 2, range.end).ok_or_else(|| unclosed(dollar..range.end))?;
                out.push_str(&self.braced(dollar..close + 1, depth)?);
                at = close + 1;
            } else {
                let length = name_length(rest);
                match length {
                    0 => out.push('$'),
                    _ => out.push_str(&self.plain(&rest[..length], dollar..dollar + 1 + length)),
                }
                at = dollar + 1 + length;
            }
        }
        out.push_str(&self.text[at..range.end]);
        Ok(out)
    }

    fn plain(&mut self, name: &str, range: Range<usize>) -> String {
        (self.lookup)(name).unwrap_or_else(|| {
            self.unset.push((name.to_owned(), range));
            String::new()
        })
    }

    /// `range` covers `${…}`.
    fn braced(&mut self, range: Range<usize>, depth: usize) -> Result<String, Fault> {
        if depth >= MAX_NESTING {
            return Err(Fault { message: "variables are nested too deep".into(), range, help: None });
        }
        let inner = range.start + 2..range.end - 1;
        let body = &self.text[inner.clone()];
        let length = name_length(body);
        if length == 0 {
            let message = format!("`${{{body}}}` does not name a variable");
            return Err(Fault { message, range, help: Some("a name has letters, digits and `_`".into()) });
        }
        let (name, rest) = body.split_at(length);
        if rest.is_empty() {
            return Ok(self.plain(name, range));
        }
        let (empty_counts, operator) = match rest.strip_prefix(':') {
            Some(tail) => (true, tail),
            None => (false, rest),
        };
        let value = (self.lookup)(name).filter(|value| !(empty_counts && value.is_empty()));
        let word = inner.start + length + usize::from(empty_counts) + 1..inner.end;
        match operator.chars().next() {
            Some('-') => value.map_or_else(|| self.expand(word, depth + 1), Ok),
            Some('+') => {
                if value.is_some() {
                    self.expand(word, depth + 1)
                } else {
                    Ok(String::new())
                }
            }
            Some('?') => match value {
                Some(value) => Ok(value),
                None => {
                    let reason = self.expand(word, depth + 1)?;
                    Err(required(name, &reason, range))
                }
            },
            _ => {
                let message = format!("`${{{body}}}` is not a form of interpolation");
                let help = "the forms are ${VAR} ${VAR:-default} ${VAR-default} ${VAR:?error} ${VAR?error} ${VAR:+value} ${VAR+value}";
                Err(Fault { message, range, help: Some(help.into()) })
            }
        }
    }
}

/// The `}` that closes a `${` whose body begins at `start`.
fn closing(text: &str, start: usize, end: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut depth = 0usize;
    let mut at = start;
    while at < end {
        match bytes[at] {
            b'$' if bytes.get(at + 1) == Some(&b'$') && at + 1 < end => at += 1,
            b'$' if bytes.get(at + 1) == Some(&b'{') && at + 1 < end => {
                depth += 1;
                at += 1;
            }
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    None
}

fn name_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_') {
        return 0;
    }
    bytes.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count()
}

fn unclosed(range: Range<usize>) -> Fault {
    Fault { message: "`${` is not closed".into(), range, help: Some("add `}`, or write `$$` for a dollar sign".into()) }
}

fn required(name: &str, reason: &str, range: Range<usize>) -> Fault {
    let message = match reason {
        "" => format!("the variable `{name}` must be set"),
        reason => format!("the variable `{name}` must be set: {reason}"),
    };
    Fault { message, range, help: Some(format!("set {name} in the environment or in .env")) }
}

/// Where faults of interpolation go.
pub struct Faults<'a> {
    pub found: &'a mut Vec<Diagnostic>,
    /// The scalars that have one: what else is wrong with these is its consequence.
    pub scalars: &'a mut Vec<Span>,
}

/// Interpolates every scalar below `node`. Extensions (`x-…`) other than ours are left alone: what aliases take from
/// them stands in the tree where it is used.
pub fn interpolate_tree(node: &mut Node, sources: &Sources, lookup: Lookup<'_>, faults: &mut Faults<'_>) {
    match &mut node.value {
        Value::Null => {}
        Value::Scalar { text, quoted } => {
            // What comes out of variables is text, whatever it looks like.
            *quoted |= text.contains('$');
            let mut unset = Vec::new();
            match interpolate(text, lookup, &mut unset) {
                Ok(value) => {
                    for (name, range) in unset {
                        let span = within(sources, node.span, text, range);
                        let message = format!("the variable `{name}` is not set, so it is taken as empty");
                        faults.found.push(Diagnostic::warning(message, span));
                    }
                    *text = value;
                }
                Err(fault) => {
                    let mut diagnostic =
                        Diagnostic::error(fault.message, within(sources, node.span, text, fault.range));
                    diagnostic.help = fault.help;
                    faults.found.push(diagnostic);
                    faults.scalars.push(node.span);
                    text.clear();
                }
            }
        }
        Value::Sequence(items) => items.iter_mut().for_each(|item| interpolate_tree(item, sources, lookup, faults)),
        Value::Mapping(entries) => {
            for entry in entries.iter_mut().filter(|entry| !entry.key.starts_with("x-") || entry.key == "x-stack") {
                interpolate_tree(&mut entry.value, sources, lookup, faults);
            }
        }
    }
}

/// The place of `range` of the scalar's `text` in the file, when the scalar stands there as it is.
fn within(sources: &Sources, span: Span, text: &str, range: Range<usize>) -> Span {
    let written = sources.get(span.source).and_then(|source| source.text.get(span.start..span.end));
    match written.and_then(|written| written.find(text)) {
        Some(at) => Span { start: span.start + at + range.start, end: span.start + at + range.end, ..span },
        None => span,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Result<String, String> {
        let lookup = |name: &str| match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        interpolate(text, &lookup, &mut Vec::new()).map_err(|fault| fault.message)
    }

    #[test]
    fn every_form() {
        let table = [
            ("plain", "plain"),
            ("$SET", "value"),
            ("${SET}", "value"),
            ("a${SET}b$SET-c", "avaluebvalue-c"),
            ("$UNSET|${UNSET}", "|"),
            ("${UNSET:-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${UNSET-d}", "d"),
            ("${SET:-d}", "value"),
            ("${SET:?no}", "value"),
            ("${EMPTY?no}", ""),
            ("${SET:+r}", "r"),
            ("${EMPTY:+r}", ""),
            ("${EMPTY+r}", "r"),
            ("${UNSET+r}", ""),
            ("${UNSET:-${SET}}", "value"),
            ("${UNSET:-a${UNSET:-${SET}}b}c", "avaluebc"),
            ("${UNSET:-$SET}", "value"),
            ("${SET:+${UNSET:-x}}", "x"),
            ("$$SET", "$SET"),
            ("$${SET}", "${SET}"),
            ("$$$SET", "$value"),
            ("${UNSET:-a$$b}", "a$b"),
            ("${UNSET:-}", ""),
            ("${UNSET:-http://x:80/?a=b}", "http://x:80/?a=b"),
            ("ü${SET}ü", "üvalueü"),
            ("$", "$"),
            ("{print $1} a$ $-", "{print $1} a$ $-"),
        ];
        for (text, expected) in table {
            assert_eq!(expand(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn faults() {
        let table = [
            ("${5}", "`${5}` does not name a variable"),
            ("${SET", "`${` is not closed"),
            ("${}", "`${}` does not name a variable"),
            ("${SET!x}", "`${SET!x}` is not a form of interpolation"),
            ("${SET:x}", "`${SET:x}` is not a form of interpolation"),
            ("${UNSET:?say who}", "the variable `UNSET` must be set: say who"),
            ("${EMPTY:?}", "the variable `EMPTY` must be set"),
            ("${UNSET?need $SET}", "the variable `UNSET` must be set: need value"),
        ];
        for (text, expected) in table {
            assert_eq!(expand(text), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = format!("{}{}", "${A:-".repeat(5000), "}".repeat(5000));
        assert_eq!(expand(&deep), Err("variables are nested too deep".to_owned()));
    }
}
