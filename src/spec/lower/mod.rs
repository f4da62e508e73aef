//! The merged tree → the types of a stack. Each key is read once, here; what is wrong is reported and reading goes on.

mod attach;
mod container;
mod deploy;
mod image;
mod mount;
mod object;
mod policy;
mod port;
mod probe;
mod process;
mod reaction;
mod words;

use std::collections::BTreeMap;

use super::diagnostics::{Diagnostic, Source, Sources, Span};
use super::fields::Fields;
use super::load::Files;
use super::schema::Keys;
use super::stack::*;
use super::tree::Node;

pub use image::is_digest;
pub use object::contains;

/// What reading a tree needs and fills.
pub struct Context<'a> {
    pub sources: Sources,
    pub files: &'a mut dyn Files,
    pub diagnostics: Vec<Diagnostic>,
    pub not_honoured: Vec<NotHonoured>,
    /// The caller's environment over `.env`.
    pub environment: BTreeMap<String, String>,
    pub format: Format,
    /// The stack's name.
    pub project: String,
    /// Places of values that are written as parts of others, by a path of their own.
    pub places: BTreeMap<String, Span>,
    /// Scalars whose interpolation failed.
    pub faulty: Vec<Span>,
    /// Every key that is asked for, where somebody wants to know.
    pub keys: Option<Keys>,
}

impl Context<'_> {
    /// Keeps the first fault of a scalar whose interpolation failed; the others come of it being empty.
    pub fn drop_consequences(&mut self) {
        let (scalars, mut told) = (std::mem::take(&mut self.faulty), Vec::new());
        let inside = |inner: Span, outer: &Span| {
            inner.source == outer.source && inner.start >= outer.start && inner.end <= outer.end
        };
        self.diagnostics.retain(|one| {
            let scalar = one.span.and_then(|span| scalars.iter().position(|scalar| inside(span, scalar)));
            let first = scalar.is_none_or(|scalar| !told.contains(&scalar));
            told.extend(scalar);
            first
        });
    }

    /// Reads a text file that a value names; a file that cannot be read is an error at that value.
    pub fn read(&mut self, path: &std::path::Path, span: Span) -> Option<usize> {
        match super::load::read_text(self.files, path) {
            Ok(text) => {
                let directory = path.parent().unwrap_or(path).to_owned();
                Some(self.sources.add(Source::new(self.files.display(path), text, directory)))
            }
            Err(reason) => {
                let diagnostic = super::load::unreadable(reason, path, Some(span), self);
                self.diagnostics.push(diagnostic);
                None
            }
        }
    }
}

/// The sections of a file, each with everything it declares.
#[derive(Default)]
pub struct Lowered {
    pub images: BTreeMap<String, Image>,
    pub containers: BTreeMap<String, Container>,
    pub networks: BTreeMap<String, Network>,
    pub volumes: BTreeMap<String, Volume>,
    pub configs: BTreeMap<String, FileObject>,
    pub secrets: BTreeMap<String, FileObject>,
    pub policy: Option<Policy>,
}

/// Reads the whole tree, in native words.
pub fn lower(root: Node, cx: &mut Context<'_>) -> Lowered {
    let Some(mut fields) = Fields::open(root, "", cx) else { return Lowered::default() };
    for key in ["version", "name", "include"] {
        fields.skip(key);
    }
    let images = match fields.take_ours("images") {
        Some(node) => section(node, "images", cx, image::declared),
        None => BTreeMap::new(),
    };
    let policy = fields.take_ours("policy").and_then(|node| policy::policy(node, cx));
    let mut read = |key: &'static str| fields.take(key);
    let (containers, networks, volumes) = (read("containers"), read("networks"), read("volumes"));
    let (configs, secrets) = (read("configs"), read("secrets"));
    let lowered = Lowered {
        containers: containers
            .map(|node| {
                section(node, "containers", cx, |node, path, name, cx| {
                    container::container(node, path, name, &images, cx)
                })
            })
            .unwrap_or_default(),
        networks: networks.map(|node| section(node, "networks", cx, object::network)).unwrap_or_default(),
        volumes: volumes.map(|node| section(node, "volumes", cx, object::volume)).unwrap_or_default(),
        configs: configs.map(|node| section(node, "configs", cx, object::file_object)).unwrap_or_default(),
        secrets: secrets.map(|node| section(node, "secrets", cx, object::file_object)).unwrap_or_default(),
        images,
        policy,
    };
    fields.not_honoured("models", "AI models are not supported", cx);
    fields.finish(cx);
    lowered
}

/// Reads every entry of a section with `read(node, path, name, context)`.
fn section<T>(
    node: Node,
    path: &str,
    cx: &mut Context<'_>,
    mut read: impl FnMut(Node, &str, &str, &mut Context<'_>) -> Option<T>,
) -> BTreeMap<String, T> {
    let mut found = BTreeMap::new();
    let super::tree::Value::Mapping(entries) = node.value else {
        if !node.is_null() {
            let key = if path == "containers" { cx.format.containers_key() } else { path };
            let help = format!("`{key}:` gives each one a name, followed by a colon and what it is");
            cx.error_help(format!("expected a mapping, found {}", node.kind()), node.span, help);
        }
        return found;
    };
    for entry in entries.into_iter().filter(|entry| !entry.key.starts_with("x-")) {
        if !is_name(&entry.key) {
            let message = format!("`{}` is not a good name", entry.key);
            cx.error_help(
                message,
                entry.key_span,
                "names have letters, digits and `_ . -`, and begin with a letter or digit",
            );
            continue;
        }
        let path = format!("{path}.{}", entry.key);
        if let Some(value) = read(entry.value, &path, &entry.key, cx) {
            found.insert(entry.key, value);
        }
    }
    found
}

/// Docker's rule for names of things on a host.
pub fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    // Compose also lets keys begin with `_` and `.`; the names on the host begin with the stack's name.
    chars.next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        && text.len() <= 200
}
