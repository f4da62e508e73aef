//! Reading a mapping key by key. A key is known because something takes it, so the table of known keys cannot disagree
//! with what is read; what nobody took is an error with the nearest known word.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::diagnostics::{Diagnostic, Span, did_you_mean, nearest};
use super::lower::Context;
use super::schema::Shape;
use super::stack::{Format, NotHonoured};
use super::tree::{Entry, Node, Value, parse_bool};
use super::units;

/// One mapping that is being read.
pub struct Fields {
    /// In native words: `containers.web`.
    pub path: String,
    pub span: Span,
    own: Table,
    /// `x-stack` of a Compose file, where our words live. Unused in the native format.
    ours: Table,
    native: bool,
}

#[derive(Default)]
struct Table {
    entries: Vec<Entry>,
    known: Vec<&'static str>,
}

impl Table {
    fn take(&mut self, key: &'static str) -> Option<Node> {
        self.known.push(key);
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(at).value).filter(|node| !node.is_null())
    }

    fn finish(self, cx: &mut Context<'_>, path: &str) {
        for entry in self.entries.iter().filter(|entry| !entry.key.starts_with("x-")) {
            if self.known.contains(&entry.key.as_str()) {
                continue;
            }
            let mut diagnostic =
                Diagnostic::error(format!("unknown key `{}`{}", entry.key, place(path, cx.format)), entry.key_span);
            diagnostic.help = did_you_mean(&entry.key, self.known.iter().copied());
            cx.diagnostics.push(diagnostic);
        }
    }
}

/// ` in service `web`` and the like.
fn place(path: &str, format: Format) -> String {
    let words: Vec<&str> = path.splitn(3, '.').collect();
    match words[..] {
        ["containers", name] => format!(" in {} `{name}`", format.container_word()),
        ["containers", name, rest] => format!(" in `{rest}` of {} `{name}`", format.container_word()),
        [""] => String::new(),
        _ => format!(" in `{path}`"),
    }
}

/// How the mapping is written that was meant, where that can be guessed.
fn mapping_help(path: &str, node: &Node) -> Option<String> {
    let name = path.strip_prefix("containers.").filter(|name| !name.contains('.'))?;
    node.text().map(|image| format!("write `{name}: {{image: {image}}}`"))
}

impl Fields {
    /// Whether an unknown key was meant to be this one.
    pub fn misspells(&self, key: &'static str) -> bool {
        self.own.entries.iter().any(|entry| nearest(&entry.key, [key]).is_some())
    }

    /// Opens `node`, which must be a mapping (or null, which is an empty one).
    pub fn open(node: Node, path: &str, cx: &mut Context<'_>) -> Option<Self> {
        let span = node.span;
        let mut own = match node.value {
            Value::Mapping(entries) => Table { entries, known: Vec::new() },
            Value::Null => Table::default(),
            _ => {
                let message = format!("expected a mapping{}, found {}", place(path, cx.format), node.kind());
                cx.diagnostics.push(Diagnostic { help: mapping_help(path, &node), ..Diagnostic::error(message, span) });
                return None;
            }
        };
        let native = cx.format == Format::Native;
        let mut ours = Table::default();
        if !native && let Some(node) = own.take("x-stack") {
            match node.value {
                Value::Mapping(entries) => ours.entries = entries,
                _ => cx.expected("a mapping", &node),
            }
        }
        Some(Self { path: path.to_owned(), span, own, ours, native })
    }

    /// Reports what nobody took.
    pub fn finish(self, cx: &mut Context<'_>) {
        if let Some(keys) = &mut cx.keys {
            for key in &self.own.known {
                keys.note(&self.path, key, Shape::Anything);
            }
        }
        self.own.finish(cx, &self.path);
        self.ours.finish(cx, &format!("{}.x-stack", self.path));
    }

    /// Where the value of `key` is written.
    pub fn span_of(&self, key: &str) -> Option<Span> {
        self.own.entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.span)
    }

    /// Declares `key` known without reading it.
    pub fn skip(&mut self, key: &'static str) {
        self.own.take(key);
    }

    pub fn take(&mut self, key: &'static str) -> Option<Node> {
        self.own.take(key)
    }

    /// A key that Compose does not have: under its own name in the native format, below `x-stack` in a Compose file.
    pub fn take_ours(&mut self, key: &'static str) -> Option<Node> {
        if self.native { self.own.take(key) } else { self.ours.take(key) }
    }

    /// For the schema: as what the key is read.
    fn note(&self, key: &str, shape: impl FnOnce() -> Shape, cx: &mut Context<'_>) {
        if let Some(keys) = &mut cx.keys {
            keys.note(&self.path, key, shape());
        }
    }

    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub fn text(&mut self, key: &'static str, cx: &mut Context<'_>) -> Option<String> {
        self.note(key, || Shape::Text, cx);
        let node = self.take(key)?;
        cx.text(&node)
    }

    /// Like [`Fields::text`], where nothing between the quotes means nothing written.
    pub fn word(&mut self, key: &'static str, cx: &mut Context<'_>) -> Option<String> {
        self.text(key, cx).filter(|text| !text.is_empty())
    }

    pub fn flag(&mut self, key: &'static str, cx: &mut Context<'_>) -> Option<bool> {
        self.note(key, || Shape::Flag, cx);
        let node = self.take(key)?;
        cx.flag(&node)
    }

    pub fn number<T: std::str::FromStr>(&mut self, key: &'static str, cx: &mut Context<'_>) -> Option<T> {
        self.note(key, || Shape::Number, cx);
        let node = self.take(key)?;
        cx.number(&node)
    }

    pub fn bytes(&mut self, key: &'static str, cx: &mut Context<'_>) -> Option<u64> {
        self.note(key, || Shape::Amount, cx);
        let node = self.take(key)?;
        cx.bytes(&node)
    }

    pub fn duration(&mut self, key: &'static str, cx: &mut Context<'_>) -> Option<u64> {
        self.note(key, || Shape::Amount, cx);
        let node = self.take(key)?;
        cx.duration(&node)
    }

    /// A list of strings, or one string.
    pub fn list(&mut self, key: &'static str, cx: &mut Context<'_>) -> Vec<String> {
        self.note(key, || Shape::List, cx);
        self.take(key).map(|node| cx.list(node)).unwrap_or_default()
    }

    /// Items of a list.
    pub fn items(&mut self, key: &'static str, cx: &mut Context<'_>) -> Vec<Node> {
        self.note(key, || Shape::Items, cx);
        self.take(key).map(|node| cx.items(node)).unwrap_or_default()
    }

    /// A mapping of strings, or a list of `key=value`.
    pub fn map(&mut self, key: &'static str, cx: &mut Context<'_>) -> BTreeMap<String, String> {
        self.note(key, || Shape::Pairs, cx);
        let node = self.take(key);
        node.map(|node| cx.pairs(node))
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, value.unwrap_or_default()))
            .collect()
    }

    /// Reads a key as one of the `words`; the value is what stands beside the word.
    pub fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)], cx: &mut Context<'_>) -> Option<T> {
        self.note(key, || Shape::Words(words.iter().map(|(word, _)| (*word).to_owned()).collect()), cx);
        let node = self.take(key)?;
        cx.choice(&node, words)
    }

    /// An absolute path; a relative one is resolved against the directory of the file it is written in.
    pub fn file(&mut self, key: &'static str, cx: &mut Context<'_>) -> Option<PathBuf> {
        self.note(key, || Shape::Text, cx);
        let node = self.take(key)?;
        cx.file(&node)
    }

    /// Notes that `key`, if written, has no effect.
    pub fn not_honoured(&mut self, key: &'static str, reason: &str, cx: &mut Context<'_>) {
        if let Some(node) = self.take(key) {
            let path = self.path_of(key);
            cx.not_honoured(path, node.span, reason);
        }
    }
}

impl Context<'_> {
    pub fn error(&mut self, message: impl Into<String>, span: Span) {
        self.diagnostics.push(Diagnostic::error(message, span));
    }

    pub fn error_help(&mut self, message: impl Into<String>, span: Span, help: impl Into<String>) {
        self.diagnostics.push(Diagnostic::error(message, span).help(help));
    }

    pub fn expected(&mut self, what: &str, node: &Node) {
        self.error(format!("expected {what}, found {}", node.kind()), node.span);
    }

    pub fn not_honoured(&mut self, path: String, span: Span, reason: &str) {
        let location = Some(self.sources.locate(span));
        self.not_honoured.push(NotHonoured { path, location, reason: reason.to_owned() });
    }

    pub fn text(&mut self, node: &Node) -> Option<String> {
        let text = node.text().map(str::to_owned);
        if text.is_none() {
            self.expected("a string", node);
        }
        text
    }

    /// Reads a scalar with `parse`; `what` describes what is right.
    pub fn parsed<T>(&mut self, node: &Node, what: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let Some(text) = node.text() else {
            self.expected(what, node);
            return None;
        };
        let value = parse(text);
        if value.is_none() {
            self.error(format!("expected {what}, found `{text}`"), node.span);
        }
        value
    }

    pub fn flag(&mut self, node: &Node) -> Option<bool> {
        self.parsed(node, "true or false", parse_bool)
    }

    pub fn number<T: std::str::FromStr>(&mut self, node: &Node) -> Option<T> {
        self.parsed(node, "a whole number", |text| text.trim().replace('_', "").parse().ok())
    }

    pub fn bytes(&mut self, node: &Node) -> Option<u64> {
        self.parsed(node, "a size such as 512m or 1.5g", units::bytes)
    }

    pub fn duration(&mut self, node: &Node) -> Option<u64> {
        if let Some(text) = node.text()
            && text.parse::<f64>().is_ok_and(|number| number > 0.0)
        {
            self.error_help(
                format!("the duration `{text}` has no unit"),
                node.span,
                format!("write `{text}s` for seconds"),
            );
            return None;
        }
        self.parsed(node, "a duration such as 10s or 1m30s", units::duration_ms)
    }

    pub fn choice<T: Copy>(&mut self, node: &Node, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let all: Vec<String> =
            words.iter().filter(|(word, _)| !word.is_empty()).map(|(word, _)| format!("`{word}`")).collect();
        let mut diagnostic = Diagnostic::error(format!("`{text}` is not one of {}", all.join(", ")), node.span);
        diagnostic.help = did_you_mean(&text, words.iter().map(|(word, _)| *word));
        self.diagnostics.push(diagnostic);
        None
    }

    pub fn items(&mut self, node: Node) -> Vec<Node> {
        match node.value {
            Value::Sequence(items) => items,
            Value::Null => Vec::new(),
            Value::Scalar { text, quoted } => {
                let item = if quoted || text.contains([':', '{', '[']) { format!("\"{text}\"") } else { text };
                let kind = if quoted { "a string" } else { "one value" };
                self.error_help(format!("expected a list, found {kind}"), node.span, format!("write `[{item}]`"));
                Vec::new()
            }
            Value::Mapping(_) => {
                self.expected("a list", &node);
                Vec::new()
            }
        }
    }

    pub fn list(&mut self, node: Node) -> Vec<String> {
        match node.value {
            Value::Scalar { text, .. } => vec![text],
            _ => self.items(node).iter().filter_map(|item| self.text(item)).collect(),
        }
    }

    /// A mapping with string values (null: no value), or a list of `key=value` or `key`.
    pub fn pairs(&mut self, node: Node) -> Vec<(String, Option<String>)> {
        let mut pairs = Vec::new();
        match node.value {
            Value::Mapping(entries) => {
                for entry in entries {
                    let value = if entry.value.is_null() { None } else { self.text(&entry.value) };
                    let plain = matches!(entry.value.value, Value::Scalar { quoted: false, .. });
                    let value = value.map(|text| if plain { units::as_text(text) } else { text });
                    pairs.push((entry.key, value));
                }
            }
            Value::Sequence(items) => {
                for item in items {
                    if let Some([entry]) = item.entries() {
                        let (key, value) = (&entry.key, entry.value.text().unwrap_or_default());
                        let help = format!("write `{key}={value}`, or a mapping without the list");
                        self.error_help("expected key=value, found a mapping", item.span, help);
                        continue;
                    }
                    let Some(text) = self.text(&item) else { continue };
                    match text.split_once('=') {
                        Some((key, value)) => pairs.push((key.to_owned(), Some(value.to_owned()))),
                        None => pairs.push((text, None)),
                    }
                }
            }
            Value::Null => {}
            Value::Scalar { .. } => self.expected("a mapping or a list of key=value", &node),
        }
        pairs
    }

    pub fn file(&mut self, node: &Node) -> Option<PathBuf> {
        let text = self.text(node)?;
        if text.is_empty() {
            self.error("a path is missing", node.span);
            return None;
        }
        Some(self.resolve(&text, node.span))
    }

    /// `text` as an absolute path without `.` and `..`; `~` is the home directory of the caller.
    pub fn resolve(&self, text: &str, span: Span) -> PathBuf {
        let home = || self.environment.get("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let expanded = match text.strip_prefix('~') {
            Some("") => home(),
            Some(rest) => rest.strip_prefix('/').and_then(|rest| home().map(|home| home.join(rest))),
            None => None,
        };
        let path = expanded.unwrap_or_else(|| PathBuf::from(text));
        super::load::normalise(&self.sources.directory(span).join(path))
    }
}
