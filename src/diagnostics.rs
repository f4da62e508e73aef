//! What is wrong with a file, where, and what to do about it.
//!
//! Every stage of loading reports into one [`Diagnostics`] and goes on, so a user sees all errors of all files at once.

use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

/// A place in a file, for humans and for the causes in plans. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Location {
    pub file: String,
    pub line: usize,
    pub column: usize,
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Bytes `start..end` of one source text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Index into [`Sources`].
    pub source: usize,
    pub start: usize,
    pub end: usize,
}

/// One text that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// As shown to the user: the path relative to where the user stands, or `<stdin>`.
    pub name: String,
    pub text: String,
    /// Absolute directory that relative paths written in this text mean.
    pub directory: PathBuf,
    /// Offsets at which lines begin.
    lines: Vec<usize>,
}

impl Source {
    pub fn new(name: String, text: String, directory: PathBuf) -> Self {
        let after = |(at, byte)| (byte == b'\n').then_some(at + 1);
        let lines = std::iter::once(0).chain(text.bytes().enumerate().filter_map(after)).collect();
        Self { name, text, directory, lines }
    }
}

/// All texts that were read, so that a [`Span`] can be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// Adds a text; the index goes into the spans of it.
    pub fn add(&mut self, source: Source) -> usize {
        self.0.push(source);
        self.0.len() - 1
    }

    pub fn get(&self, index: usize) -> Option<&Source> {
        self.0.get(index)
    }

    /// The directory that a relative path written at `span` is resolved against.
    pub fn directory(&self, span: Span) -> &Path {
        self.get(span.source).map_or(Path::new("/"), |source| &source.directory)
    }

    /// Line and column of the start of `span`.
    pub fn locate(&self, span: Span) -> Location {
        let Some(source) = self.get(span.source) else {
            return Location { file: String::new(), line: 1, column: 1 };
        };
        let at = floor_boundary(&source.text, span.start);
        let line = source.lines.partition_point(|start| *start <= at).max(1);
        let start = source.lines.get(line - 1).copied().unwrap_or_default();
        Location { file: source.name.clone(), line, column: source.text[start..at].chars().count() + 1 }
    }
}

/// How much a diagnostic matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Error,
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// One sentence without a full stop.
    pub message: String,
    /// `None`: it concerns no place in a file, such as a file that is not there.
    pub span: Option<Span>,
    /// What stands at the caret.
    pub label: Option<String>,
    /// Other places that explain it.
    pub related: Vec<(Span, String)>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn error(message: impl Into<String>, span: impl Into<Option<Span>>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            span: span.into(),
            label: None,
            related: Vec::new(),
            help: None,
        }
    }

    pub fn warning(message: impl Into<String>, span: impl Into<Option<Span>>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(message, span) }
    }

    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }
}

/// Everything that is wrong, in the order of files and places, with the texts needed to show it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics {
    pub list: Vec<Diagnostic>,
    pub sources: Sources,
    /// Files that were read up to here; a watcher keeps an eye on them also when they are wrong.
    pub files: Vec<PathBuf>,
}

impl Diagnostics {
    /// Sorts by place and drops repetitions, which aliases and several profiles cause.
    pub fn new(mut list: Vec<Diagnostic>, sources: Sources) -> Self {
        list.sort_by_key(|one| (one.span.is_none(), one.span, one.severity));
        let mut seen = std::collections::HashSet::new();
        list.retain(|one| seen.insert((one.span, one.message.clone())));
        Self { list, sources, files: Vec::new() }
    }

    /// Human form with source lines and carets; `color` adds terminal escapes.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let rendered = self.list.iter().map(|one| match (&one.help, self.sources_of(one).is_empty()) {
            // Without a place in a text there is nothing that the help would have to stand out from.
            (Some(help), true) => {
                let bare = Diagnostic { help: None, ..one.clone() };
                format!("{}\n  help: {help}", renderer.render(&self.groups(&bare)))
            }
            _ => renderer.render(&self.groups(one)),
        });
        rendered.collect::<Vec<_>>().join("\n\n")
    }

    /// One JSON object a diagnostic, for editors and scripts.
    pub fn to_json(&self) -> Vec<serde_json::Value> {
        self.list.iter().map(|one| self.json(one)).collect()
    }

    fn json(&self, one: &Diagnostic) -> serde_json::Value {
        let related: Vec<_> = one
            .related
            .iter()
            .map(|(span, label)| serde_json::json!({"location": self.sources.locate(*span), "label": label}))
            .collect();
        serde_json::json!({
            "severity": one.severity,
            "message": one.message,
            "location": one.span.map(|span| self.sources.locate(span)),
            "end": one.span.map(|span| self.sources.locate(Span { start: span.end, ..span })),
            "label": one.label,
            "related": related,
            "help": one.help,
        })
    }

    fn groups<'a>(&'a self, one: &'a Diagnostic) -> Vec<Group<'a>> {
        let level = match one.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(one.message.as_str()));
        for index in self.sources_of(one) {
            let Some(source) = self.sources.get(index) else { continue };
            let mut snippet = Snippet::source(source.text.as_str()).path(source.name.as_str());
            if let Some(span) = one.span.filter(|span| span.source == index) {
                let annotation = AnnotationKind::Primary.span(visible(&source.text, span)).label(one.label.as_deref());
                snippet = snippet.annotation(annotation);
            }
            for (span, label) in one.related.iter().filter(|(span, _)| span.source == index) {
                snippet = snippet
                    .annotation(AnnotationKind::Context.span(visible(&source.text, *span)).label(label.as_str()));
            }
            group = group.element(snippet);
        }
        if let Some(help) = &one.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        vec![group]
    }

    /// Sources that `one` shows, that of the caret first.
    fn sources_of(&self, one: &Diagnostic) -> Vec<usize> {
        let mut indexes: Vec<usize> = one.span.iter().map(|span| span.source).collect();
        for (span, _) in &one.related {
            if !indexes.contains(&span.source) {
                indexes.push(span.source);
            }
        }
        indexes
    }
}

impl std::fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// The part of `span` on its first line: a mapping's span may cover pages.
fn visible(text: &str, span: Span) -> Range<usize> {
    let start = floor_boundary(text, span.start);
    let end = floor_boundary(text, span.end).max(start);
    let line_end = text[start..end].find('\n').map_or(end, |at| start + at);
    start..line_end
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The word of `known` that `word` most likely means.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    // One letter is as near to every other one.
    let allowed = match word.chars().count() {
        0 | 1 => 0,
        length => (length / 3).clamp(1, 3),
    };
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// `did you mean …?`, when a known word is near.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, known).map(|candidate| format!("did you mean `{candidate}`?"))
}
