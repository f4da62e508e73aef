//! `stack.lock`: for what content the tags of a stack stand. It lies beside the stack's first file, is written by
//! commands that say so, and belongs in version control with the files.
//!
//! ```toml
//! version = 1
//!
//! [images]
//! "nginx:1.27" = "sha256:…"
//! ```
//!
//! The names are those of the stack's files, letter by letter; the digest is the one that the registry knows the tag by,
//! an index where there is one, so that the lock is the same for every platform.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::diagnostics::Source;
use super::fields::Fields;
use super::load::{read_text, unreadable};
use super::lower::{Context, is_digest};
use super::stack::{Image, ImageSource, Stack};
use super::toml;
use super::tree::Value;

/// The file's name.
pub const FILE: &str = "stack.lock";
const VERSION: u64 = 1;
const HEADER: &str = "# The content that each tag stands for. Written by `stack apply` and moved by `stack pull --update`;\n\
                      # keep it in version control beside the stack's file.\n";

/// The content of a lock file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Lock {
    /// Name of an image as the stack writes it → `sha256:…`.
    pub images: BTreeMap<String, String>,
}

impl Lock {
    /// The file's text: sorted, so that two of them are compared and merged line by line.
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADER}version = {VERSION}\n\n[images]\n");
        for (name, digest) in &self.images {
            text.push_str(&format!("\"{name}\" = \"{digest}\"\n"));
        }
        text
    }
}

impl Stack {
    /// Where this stack's lock is, or would be.
    pub fn lock_path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Accepts no other content for these names than these digests. What the file itself pins stays.
    pub fn pin(&mut self, pins: &BTreeMap<String, String>) {
        self.pins.extend(pins.iter().map(|(name, digest)| (name.clone(), digest.clone())));
        let images = self.containers.values_mut().map(|container| &mut container.image);
        images.chain(self.images.values_mut()).for_each(|image| image.pin(pins));
    }
}

impl Image {
    /// As [`Stack::pin`].
    pub fn pin(&mut self, pins: &BTreeMap<String, String>) {
        if let ImageSource::Pull { reference, digest: digest @ None } = &mut self.source {
            *digest = pins.get(reference).cloned();
        }
    }
}

/// The lock in this directory, where there is one. What is wrong with it is an error of the stack.
pub fn read(directory: &Path, cx: &mut Context<'_>) -> Option<Lock> {
    let path = directory.join(FILE);
    cx.files.watch(&path);
    if !cx.files.exists(&path) {
        return None;
    }
    let text = match read_text(cx.files, &path) {
        Ok(text) => text,
        Err(error) => {
            let diagnostic = unreadable(error, &path, None, cx);
            cx.diagnostics.push(diagnostic);
            return None;
        }
    };
    let source = cx.sources.add(Source::new(cx.files.display(&path), text.clone(), directory.to_owned()));
    let before = cx.diagnostics.len();
    let lock = parse(&text, source, cx);
    for diagnostic in &mut cx.diagnostics[before..] {
        let help = "mend it, take it from version control, or remove it and let `stack pull --update` write a new one";
        diagnostic.help.get_or_insert_with(|| help.to_owned());
    }
    lock
}

fn parse(text: &str, source: usize, cx: &mut Context<'_>) -> Option<Lock> {
    let root = toml::parse(text, source, &mut cx.diagnostics)?;
    let whole = root.span;
    let mut fields = Fields::open(root, FILE, cx)?;
    match fields.take("version") {
        None => cx.error(format!("expected `version = {VERSION}`"), whole),
        Some(node) => {
            let known = |text: &str| (text == VERSION.to_string()).then_some(());
            cx.parsed(&node, &format!("version {VERSION}, the one that this program reads"), known);
        }
    }
    let images = fields.take("images");
    fields.finish(cx);
    let mut lock = Lock::default();
    let Some(images) = images else { return Some(lock) };
    let Value::Mapping(entries) = images.value else {
        cx.expected("a table", &images);
        return None;
    };
    for entry in entries {
        let digest = cx.parsed(&entry.value, "a digest such as sha256:… with 64 digits", |text| {
            is_digest(text).then(|| text.to_owned())
        });
        if entry.key.chars().any(|c| c.is_control() || c == '"' || c == '\\') {
            cx.error(format!("{:?} is not the name of an image", entry.key), entry.key_span);
        }
        lock.images.extend(digest.map(|digest| (entry.key, digest)));
    }
    Some(lock)
}
