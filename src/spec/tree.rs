//! A document as a tree in which every value knows where it was written. YAML and TOML both become this, and
//! interpolation, merging and `extends` work on it, so that an error found at the very end still points into the file.

use super::diagnostics::Span;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub span: Span,
    pub value: Value,
    /// How the value behaves when it is merged over another.
    pub tag: Option<MergeTag>,
}

/// What a node holds. Scalars stay text: their meaning depends on the key they stand under.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Scalar { text: String, quoted: bool },
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// Compose's `!reset` and `!override`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeTag {
    /// The value is removed.
    Reset,
    /// The value replaces what it is merged over.
    Override,
}

/// One key of a mapping. Keys are unique.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    pub key_span: Span,
    pub value: Node,
}

impl Node {
    pub fn new(span: Span, value: Value) -> Self {
        Self { span, value, tag: None }
    }

    pub fn null(span: Span) -> Self {
        Self::new(span, Value::Null)
    }

    pub fn scalar(span: Span, text: impl Into<String>) -> Self {
        Self::new(span, Value::Scalar { text: text.into(), quoted: true })
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Mapping(entries) => Some(entries),
            _ => None,
        }
    }

    pub fn items(&self) -> Option<&[Node]> {
        match &self.value {
            Value::Sequence(items) => Some(items),
            _ => None,
        }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries()?.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The value under `key`, which leaves the mapping.
    pub fn take(&mut self, key: &str) -> Option<Node> {
        let Value::Mapping(entries) = &mut self.value else { return None };
        let at = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(at).value)
    }

    /// What the user would call it.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar { quoted: true, .. } => "a string",
            Value::Scalar { text, .. } if parse_bool(text).is_some() => "a boolean",
            Value::Scalar { text, .. } if text.parse::<f64>().is_ok() => "a number",
            Value::Scalar { .. } => "a string",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }

    /// Number of values in it, itself included.
    pub fn size(&self) -> usize {
        1 + match &self.value {
            Value::Null | Value::Scalar { .. } => 0,
            Value::Sequence(items) => items.iter().map(Node::size).sum::<usize>(),
            Value::Mapping(entries) => entries.iter().map(|entry| entry.value.size()).sum(),
        }
    }
}

/// The words that Compose accepts for a boolean.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "y" | "on" | "1" | "t" => Some(true),
        "false" | "no" | "n" | "off" | "0" | "f" => Some(false),
        _ => None,
    }
}

/// Levels of nesting that a document may have. The deepest path that means anything has about ten.
pub const MAX_DEPTH: usize = 64;

/// Values that a document may have once aliases are expanded; far above any real file, far below a bomb's.
pub const MAX_NODES: usize = 200_000;

/// Bytes that one file may have.
pub const MAX_BYTES: usize = 8 << 20;
