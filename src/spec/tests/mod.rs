//! Whole files in, stacks or diagnostics out. The body of a test is data.

mod arbitrary;
mod as_compose;
mod files;
mod good;
mod merging;
mod wrong;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::load::{Files, LoadOptions, load_from, normalise};
use super::{Diagnostics, Stack};

/// Files in memory, below `/srv/shop`.
#[derive(Default)]
pub struct Memory {
    files: BTreeMap<PathBuf, Vec<u8>>,
    watched: BTreeSet<PathBuf>,
}

pub const START: &str = "/srv/shop";

impl Memory {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let place = |name: &str| normalise(&Path::new(START).join(name));
        let files = files.iter().map(|(name, text)| (place(name), text.as_bytes().to_vec())).collect();
        Self { files, watched: BTreeSet::new() }
    }

    /// A file of any bytes.
    pub fn put(&mut self, name: &str, bytes: &[u8]) {
        self.files.insert(normalise(&Path::new(START).join(name)), bytes.to_vec());
    }
}

impl Files for Memory {
    fn read(&mut self, path: &Path) -> std::io::Result<Vec<u8>> {
        self.watch(path);
        self.files.get(path).cloned().ok_or(std::io::ErrorKind::NotFound.into())
    }

    fn exists(&mut self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    fn is_directory(&mut self, path: &Path) -> bool {
        self.files.keys().any(|file| file.starts_with(path) && file != path)
    }

    fn watch(&mut self, path: &Path) {
        self.watched.insert(path.to_owned());
    }

    fn display(&self, path: &Path) -> String {
        path.strip_prefix(START).unwrap_or(path).display().to_string()
    }
}

pub fn options() -> LoadOptions {
    let environment = [("HOME", "/home/ann"), ("TAG", "1.27"), ("TOKEN", "s3cret")];
    LoadOptions {
        start: START.into(),
        environment: environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        ..LoadOptions::default()
    }
}

pub fn load_files(files: &[(&str, &str)], options: &LoadOptions) -> Result<(Stack, Diagnostics), Diagnostics> {
    load_from(options, &mut Memory::new(files))
}

/// The stack of files that must be right.
pub fn stack_of(files: &[(&str, &str)]) -> Stack {
    match load_files(files, &options()) {
        Ok((stack, _)) => stack,
        Err(diagnostics) => panic!("{diagnostics}"),
    }
}

/// What is said about files that must be wrong.
pub fn faults_of(files: &[(&str, &str)]) -> String {
    match load_files(files, &options()) {
        Ok((stack, _)) => panic!("this was loaded: {stack:#?}"),
        Err(diagnostics) => diagnostics.to_string(),
    }
}

/// JSON without what is null, false, empty or the common default, so that a golden text shows what was said.
pub fn brief(stack: &impl serde::Serialize) -> String {
    let mut value = serde_json::to_value(stack).expect("a stack serialises");
    prune(&mut value);
    serde_json::to_string_pretty(&value).expect("a value serialises")
}

fn prune(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|_, value| !is_dull(value));
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

fn is_dull(value: &serde_json::Value) -> bool {
    use serde_json::Value;
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => matches!(text.as_str(), "missing" | "stop-first" | "pause" | "replicated" | "bridge"),
        _ => false,
    }
}
