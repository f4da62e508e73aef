//! YAML text → tree. Anchors, aliases and `<<` are resolved here; nothing later knows of them.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span as YamlSpan, Tag};

use super::diagnostics::{Diagnostic, Span};
use super::tree::{Entry, MAX_DEPTH, MAX_NODES, MergeTag, Node, Value};

/// Parses the one document of `text`. An empty text is a null node.
///
/// Duplicate keys are reported and parsing goes on; a syntax error ends it, because what follows it has no meaning.
pub fn parse(text: &str, source: usize, diagnostics: &mut Vec<Diagnostic>) -> Option<Node> {
    let mut builder = Builder {
        text,
        source,
        offsets: Offsets::new(text),
        frames: Vec::new(),
        root: None,
        documents: 0,
        anchors: HashMap::new(),
        nodes: 0,
        diagnostics,
    };
    for event in Parser::new_from_str(text) {
        let step = match event {
            Ok((event, span)) => builder.event(event, span),
            Err(error) => {
                let at = builder.offsets.byte(error.marker().index());
                let diagnostic =
                    Diagnostic::error(format!("this is not valid YAML: {}", error.info()), builder.point(at));
                Err(Diagnostic { help: syntax_help(text, at, error.info()), ..diagnostic })
            }
        };
        if let Err(diagnostic) = step {
            builder.diagnostics.push(diagnostic);
            return None;
        }
    }
    let end = Span { source, start: 0, end: 0 };
    Some(builder.root.unwrap_or(Node::null(end)))
}

/// What most often is the matter, by what the parser says and what stands there.
fn syntax_help(text: &str, at: usize, said: &str) -> Option<String> {
    let start = text.get(..at)?.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    let help = if said.contains("tab") || line.starts_with('\t') {
        "YAML is indented with spaces, never with tabs"
    } else if line.contains("${") && said.contains("flow") {
        "between `{ }` and `[ ]`, write \"${…}\" in quotes"
    } else if said.contains("flow") {
        "a bracket is not closed, or a value with one of `, [ ] { }` has no quotes"
    } else if said.contains("mapping values") {
        "a value with `: ` in it is written in quotes; a key inside another stands on a line of its own, further in"
    } else if said.contains("block mapping") || said.contains("block collection") || said.contains("simple key") {
        "this line is not indented like those that it belongs to, or lacks a colon"
    } else if said.contains("quoted") {
        "a quote is not closed"
    } else if said.contains("anchor") || said.contains("alias") {
        "an anchor (`&name`) stands before each alias (`*name`)"
    } else {
        return None;
    };
    Some(help.to_owned())
}

/// Character index → byte offset; the parser counts characters.
struct Offsets(Option<Vec<usize>>, usize);

impl Offsets {
    fn new(text: &str) -> Self {
        let table = (!text.is_ascii()).then(|| text.char_indices().map(|(at, _)| at).collect());
        Self(table, text.len())
    }

    fn byte(&self, index: usize) -> usize {
        match &self.0 {
            None => index.min(self.1),
            Some(table) => table.get(index).copied().unwrap_or(self.1),
        }
    }
}

/// A collection that has begun and not ended.
struct Frame {
    start: Span,
    anchor: usize,
    tag: Option<MergeTag>,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping {
        entries: Vec<Entry>,
        /// The key whose value comes next. `None` inside: the key was not a scalar and its value is dropped.
        key: Option<Option<(String, Span)>>,
        /// Values of `<<`, first wins.
        merges: Vec<Node>,
    },
}

struct Builder<'a> {
    text: &'a str,
    source: usize,
    offsets: Offsets,
    frames: Vec<Frame>,
    root: Option<Node>,
    documents: usize,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: YamlSpan) -> Result<(), Diagnostic> {
        let span = self.span(span);
        match event {
            Event::DocumentStart(_) => self.document(span),
            Event::Alias(id) => {
                let (node, size) = self
                    .anchors
                    .get(&id)
                    .cloned()
                    .ok_or_else(|| Diagnostic::error("an alias cannot stand inside its own anchor", span))?;
                self.count(size, span)?;
                self.push(node)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, span)?;
                let node = self.scalar(&text, style, tag, span);
                self.finish(node, anchor)
            }
            Event::SequenceStart(anchor, tag) => self.begin(span, anchor, tag, Content::Sequence(Vec::new())),
            Event::MappingStart(anchor, tag) => {
                self.begin(span, anchor, tag, Content::Mapping { entries: Vec::new(), key: None, merges: Vec::new() })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn document(&mut self, span: Span) -> Result<(), Diagnostic> {
        self.documents += 1;
        if self.documents == 1 {
            return Ok(());
        }
        Err(Diagnostic::error("a file holds one YAML document, and here a second begins", span)
            .help("put it into a file of its own and name both files"))
    }

    fn begin(
        &mut self,
        start: Span,
        anchor: usize,
        tag: Option<Cow<'_, Tag>>,
        content: Content,
    ) -> Result<(), Diagnostic> {
        self.count(1, start)?;
        if self.frames.len() >= MAX_DEPTH {
            return Err(Diagnostic::error(format!("this is nested more than {MAX_DEPTH} levels deep"), start));
        }
        let tag = self.tag(tag, start);
        self.frames.push(Frame { start, anchor, tag, content });
        Ok(())
    }

    fn end(&mut self, span: Span) -> Result<(), Diagnostic> {
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        let end = trim_end(self.text, frame.start.start, span.end);
        let whole = Span { end, ..frame.start };
        let value = match frame.content {
            Content::Sequence(items) => Value::Sequence(items),
            Content::Mapping { entries, merges, .. } => Value::Mapping(self.merged(entries, merges)?),
        };
        let node = Node { span: whole, value, tag: frame.tag };
        self.finish(node, frame.anchor)
    }

    /// Remembers an anchored node and puts it where it belongs.
    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Diagnostic> {
        if anchor > 0 {
            let size = node.size();
            self.anchors.insert(anchor, (node.clone(), size));
        }
        self.push(node)
    }

    fn push(&mut self, node: Node) -> Result<(), Diagnostic> {
        let Some(frame) = self.frames.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut frame.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping { entries, key, merges } => match key.take() {
                None => *key = Some(read_key(&node, self.diagnostics)),
                Some(None) => {}
                Some(Some((name, _))) if name == "<<" => merges.push(node),
                Some(Some((name, key_span))) => insert(entries, name, key_span, node, self.diagnostics),
            },
        }
        Ok(())
    }

    /// Adds what `<<` brings below the keys that are written out.
    fn merged(&mut self, mut entries: Vec<Entry>, merges: Vec<Node>) -> Result<Vec<Entry>, Diagnostic> {
        let mut sources = Vec::new();
        for node in merges {
            match node.value {
                Value::Sequence(items) => sources.extend(items),
                _ => sources.push(node),
            }
        }
        for node in sources {
            let Value::Mapping(inherited) = node.value else {
                self.diagnostics.push(Diagnostic::error("`<<` takes a mapping or a list of mappings", node.span));
                continue;
            };
            for entry in inherited {
                if !entries.iter().any(|own| own.key == entry.key) {
                    entries.push(entry);
                }
            }
        }
        Ok(entries)
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<Cow<'_, Tag>>, span: Span) -> Node {
        let string = tag.as_ref().is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
        let quoted = style != ScalarStyle::Plain || string;
        let value = match text {
            "" | "~" | "null" | "Null" | "NULL" if !quoted => Value::Null,
            _ => Value::Scalar { text: text.to_owned(), quoted },
        };
        Node { span, value, tag: self.tag(tag, span) }
    }

    fn tag(&mut self, tag: Option<Cow<'_, Tag>>, span: Span) -> Option<MergeTag> {
        let tag = tag?;
        match (tag.handle.as_str(), tag.suffix.as_str()) {
            ("!", "reset") => Some(MergeTag::Reset),
            ("!", "override") => Some(MergeTag::Override),
            _ if tag.is_yaml_core_schema() || tag.suffix.is_empty() => None,
            (handle, suffix) => {
                let message = format!("the tag `{handle}{suffix}` means nothing here");
                self.diagnostics.push(Diagnostic::error(message, span).help("the tags are `!reset` and `!override`"));
                None
            }
        }
    }

    /// Bounds what aliases can blow up to.
    fn count(&mut self, added: usize, span: Span) -> Result<(), Diagnostic> {
        self.nodes = self.nodes.saturating_add(added);
        if self.nodes <= MAX_NODES {
            return Ok(());
        }
        Err(Diagnostic::error(format!("with its aliases expanded this file has more than {MAX_NODES} values"), span))
    }

    fn span(&self, span: YamlSpan) -> Span {
        let start = self.offsets.byte(span.start.index());
        let end = self.offsets.byte(span.end.index()).max(start);
        Span { source: self.source, start, end: trim_end(self.text, start, end) }
    }

    fn point(&self, at: usize) -> Span {
        Span { source: self.source, start: at, end: at }
    }
}

fn read_key(node: &Node, diagnostics: &mut Vec<Diagnostic>) -> Option<(String, Span)> {
    match node.text() {
        Some(text) => Some((text.to_owned(), node.span)),
        None => {
            diagnostics.push(Diagnostic::error(format!("a key must be a word, this is {}", node.kind()), node.span));
            None
        }
    }
}

fn insert(entries: &mut Vec<Entry>, key: String, key_span: Span, value: Node, diagnostics: &mut Vec<Diagnostic>) {
    if let Some(first) = entries.iter().find(|entry| entry.key == key) {
        let diagnostic = Diagnostic::error(format!("the key `{key}` is written twice"), key_span).label("again here");
        diagnostics.push(diagnostic.related(first.key_span, "first here"));
        return;
    }
    entries.push(Entry { key, key_span, value });
}

/// Block collections and block scalars end where the next token begins; a caret should not cover the blanks before it.
fn trim_end(text: &str, start: usize, end: usize) -> usize {
    text.get(start..end).map_or(end, |slice| start + slice.trim_end().len())
}
