//! `--name=value` in front of an instruction's arguments.

use crate::diagnostics::{Diagnostic, Span, nearest};

use super::Word;
use super::lines::Text;

/// How often a flag may be given, and whether it has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Value,
    Values,
    /// Alone, or `=true`, `=false`.
    Switch,
}

/// The flags of one instruction.
#[derive(Debug, Default)]
pub struct Flags {
    given: Vec<(String, Option<Word>, Span)>,
}

impl Flags {
    /// The last value; a flag that may be given once is given once.
    pub fn value(&mut self, name: &str) -> Option<Word> {
        self.values(name).pop()
    }

    pub fn values(&mut self, name: &str) -> Vec<Word> {
        let mut values = Vec::new();
        self.given.retain_mut(|(given, value, _)| {
            let taken = given == name;
            if taken {
                values.extend(value.take());
            }
            !taken
        });
        values
    }

    /// `None` where it is not given.
    pub fn switch(&mut self, name: &str, found: &mut Vec<Diagnostic>) -> Option<bool> {
        let at = self.given.iter().position(|(given, ..)| given == name)?;
        let (_, value, span) = self.given.remove(at);
        match value.as_ref().map(|value| value.text.as_str()) {
            None | Some("true") => Some(true),
            Some("false") => Some(false),
            Some(other) => {
                found.push(Diagnostic::error(format!("`{other}`: expected `true` or `false`"), span));
                None
            }
        }
    }
}

/// Takes the flags off the front of `text`, from `from` on. Returns them and where the rest begins.
pub fn take(
    text: &Text,
    from: usize,
    known: &[(&'static str, Form)],
    escape: char,
    found: &mut Vec<Diagnostic>,
) -> (Flags, usize) {
    let mut flags = Flags::default();
    let mut at = from;
    loop {
        let rest = &text.text[at..];
        let start = at + (rest.len() - rest.trim_start().len());
        if !text.text[start..].starts_with("--") {
            return (flags, start);
        }
        let end = end_of_flag(&text.text, start, escape);
        let word = &text.text[start + 2..end];
        if word.is_empty() {
            // `--` alone ends the flags.
            return (flags, end + text.text[end..].len() - text.text[end..].trim_start().len());
        }
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        let span = text.span(start..start + 2 + name.len());
        let value = value.map(|value| {
            let begins = end - value.len();
            Word { text: value.to_owned(), span: text.span(begins..end) }
        });
        one(&mut flags, name, value, span, known, found);
        at = end;
    }
}

fn end_of_flag(text: &str, start: usize, escape: char) -> usize {
    let mut quote = None;
    let mut chars = text[start..].char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => return start + at,
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), c) if c == escape => drop(chars.next()),
            _ => {}
        }
    }
    text.len()
}

fn one(
    flags: &mut Flags,
    name: &str,
    value: Option<Word>,
    span: Span,
    known: &[(&'static str, Form)],
    found: &mut Vec<Diagnostic>,
) {
    let Some((_, form)) = known.iter().find(|(known, _)| *known == name) else {
        let mut error = Diagnostic::error(format!("unknown flag `--{name}`"), span);
        let names = known.iter().map(|(name, _)| *name);
        if let Some(nearest) = nearest(name, names.clone()) {
            error.help = Some(format!("did you mean `--{nearest}`?"));
        } else {
            let names: Vec<String> = names.map(|name| format!("--{name}")).collect();
            error.help = Some(match names.is_empty() {
                true => "this instruction has no flags".to_owned(),
                false => format!("there is {}", names.join(", ")),
            });
        }
        found.push(error);
        return;
    };
    if *form != Form::Values && flags.given.iter().any(|(given, ..)| given == name) {
        found.push(Diagnostic::error(format!("`--{name}` is given twice"), span));
        return;
    }
    if *form != Form::Switch && value.as_ref().is_none_or(|value| value.text.is_empty()) {
        found.push(Diagnostic::error(format!("`--{name}` needs a value"), span).help(format!("write `--{name}=…`")));
        return;
    }
    flags.given.push((name.to_owned(), value, span));
}
