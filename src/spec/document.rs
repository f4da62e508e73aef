//! Reading whole documents: parsing, the words of the two formats, interpolation, `include`, `extends`, merging.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::diagnostics::{Diagnostic, Source, Span, did_you_mean};
use super::discover::{Found, Input};
use super::load::{LoadOptions, normalise, read_env_file, read_text, unreadable};
use super::lower::Context;
use super::stack::Format;
use super::tree::{Entry, Node, Value};
use super::{interpolate, merge, toml, yaml};

/// Files that pull in files; a chain this long is a mistake.
const MAX_CHAIN: usize = 32;

/// Turns files into one tree in native words.
pub struct Loader<'a, 'b> {
    cx: &'a mut Context<'b>,
    /// That of the first file which shows one.
    pub format: Option<Format>,
    cache: HashMap<(PathBuf, PathBuf), Option<Node>>,
    /// Files that are being included, outermost first.
    including: Vec<PathBuf>,
}

impl<'a, 'b> Loader<'a, 'b> {
    pub fn new(cx: &'a mut Context<'b>) -> Self {
        Self { cx, format: None, cache: HashMap::new(), including: Vec::new() }
    }

    pub fn with_format(cx: &'a mut Context<'b>, format: Format) -> Self {
        Self { format: Some(format), ..Self::new(cx) }
    }

    /// Parses the stack's own files. `None` when one has no tree; the others are parsed all the same.
    pub fn read_all(&mut self, found: &Found, options: &LoadOptions) -> Option<Vec<Node>> {
        let mut documents = Vec::new();
        for input in &found.inputs {
            documents.push(match input {
                Input::File(path) => self.read(path, &found.directory, None),
                Input::Stdin => self.read_stdin(options, &found.directory),
            });
        }
        let documents: Option<Vec<Node>> = documents.into_iter().collect();
        if self.format.is_none()
            && let Some(documents) = &documents
        {
            self.no_containers(documents.first().map(|node| node.span));
        }
        documents
    }

    /// A file without any, or that was emptied by mistake, must not be taken for the wish to remove everything.
    fn no_containers(&mut self, span: Option<Span>) {
        let help = match self.format {
            Some(format) => {
                let key = format.containers_key();
                format!("write them under `{key}:`; `{key}: {{}}` says that there shall be none")
            }
            None => "write them under `containers:` (or `services:` in a Compose file)".to_owned(),
        };
        let word = self.format.map_or("containers", Format::containers_key);
        self.cx.diagnostics.push(Diagnostic::error(format!("this file declares no {word}"), span).help(help));
    }

    fn read_stdin(&mut self, options: &LoadOptions, directory: &Path) -> Option<Node> {
        let Some(text) = options.stdin.clone() else {
            self.cx.diagnostics.push(Diagnostic::error("nothing came on stdin", None));
            return None;
        };
        self.parse("<stdin>".into(), text, directory, Path::new("-"))
    }

    /// Parses one file; `asked` is where it was named.
    fn read(&mut self, path: &Path, directory: &Path, asked: Option<Span>) -> Option<Node> {
        let key = (path.to_owned(), directory.to_owned());
        if let Some(node) = self.cache.get(&key) {
            return node.clone();
        }
        let name = self.cx.files.display(path);
        let node = match read_text(self.cx.files, path) {
            Ok(text) => self.parse(name, text, directory, path),
            Err(error) => {
                let diagnostic = unreadable(error, path, asked, self.cx);
                self.cx.diagnostics.push(diagnostic);
                None
            }
        };
        self.cache.insert(key, node.clone());
        node
    }

    fn parse(&mut self, name: String, text: String, directory: &Path, path: &Path) -> Option<Node> {
        let source = self.cx.sources.add(Source::new(name, text.clone(), directory.to_owned()));
        let diagnostics = &mut self.cx.diagnostics;
        let node = match path.extension().is_some_and(|extension| extension == "toml") {
            true => toml::parse(&text, source, diagnostics)?,
            false => yaml::parse(&text, source, diagnostics)?,
        };
        let node = match node.value {
            Value::Null => Node::new(node.span, Value::Mapping(Vec::new())),
            _ => node,
        };
        if node.entries().is_none() {
            self.cx.error(format!("a stack file is a mapping, this is {}", node.kind()), node.span);
            return None;
        }
        self.native_words(node, path)
    }

    /// `services:` becomes `containers:`; which of the two was written says which format it is.
    fn native_words(&mut self, mut node: Node, path: &Path) -> Option<Node> {
        let Value::Mapping(entries) = &mut node.value else { return None };
        let find = |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| entry.key_span);
        let (containers, services) = (find("containers"), find("services"));
        if let (Some(containers), Some(services)) = (containers, services) {
            let diagnostic =
                Diagnostic::error("`containers` and `services` are the same thing in two formats", containers);
            self.cx.diagnostics.push(diagnostic.related(services, "the Compose format").help("use one of them"));
            return None;
        }
        let format = match (containers, services) {
            (Some(_), _) => Some(Format::Native),
            (_, Some(_)) => Some(Format::Compose),
            (None, None) => by_name(path).filter(|_| self.format.is_none()),
        };
        if let (Some(first), Some(this)) = (self.format, format)
            && first != this
        {
            let span = containers.or(services).unwrap_or(node.span);
            let message =
                format!("this file says `{}`, the one before says `{}`", this.containers_key(), first.containers_key());
            self.cx.error_help(message, span, "files that are merged are in the same format");
            return None;
        }
        self.format = self.format.or(format);
        for entry in entries.iter_mut().filter(|entry| entry.key == "services") {
            entry.key = "containers".into();
        }
        Some(node)
    }

    /// Interpolates, extends and merges the documents.
    pub fn combine(&mut self, documents: Vec<Node>) -> Option<Node> {
        let mut whole: Option<Node> = None;
        for node in documents {
            let mut node = self.prepare(node);
            // Into the document that asks for it: later documents override what is included, too.
            if let Some(include) = node.take("include").filter(|include| !include.is_null()) {
                node = self.include(include, node);
            }
            whole = Some(match whole {
                None => node,
                Some(base) => merge::merge(base, node),
            });
        }
        whole.map(merge::settle)
    }

    /// As [`Loader::combine`], for the stack's own documents, which declare at least that there are no containers.
    pub fn combine_all(&mut self, documents: Vec<Node>) -> Option<Node> {
        let whole = self.combine(documents)?;
        match whole.entries().unwrap_or_default().iter().find(|entry| entry.key == "containers") {
            Some(entry) if entry.value.is_null() => self.no_containers(Some(entry.key_span)),
            None => self.no_containers(Some(Span { end: whole.span.start, ..whole.span })),
            Some(_) => {}
        }
        Some(whole)
    }

    fn prepare(&mut self, mut node: Node) -> Node {
        self.interpolate(&mut node);
        self.extend_all(node)
    }

    fn interpolate(&mut self, node: &mut Node) {
        let environment = &self.cx.environment;
        let lookup = |name: &str| environment.get(name).cloned();
        let mut faults = interpolate::Faults { found: &mut self.cx.diagnostics, scalars: &mut self.cx.faulty };
        interpolate::interpolate_tree(node, &self.cx.sources, &lookup, &mut faults);
    }

    /// Resolves `extends` of every container of a document.
    fn extend_all(&mut self, node: Node) -> Node {
        let names: Vec<String> = node
            .get("containers")
            .and_then(Node::entries)
            .unwrap_or_default()
            .iter()
            .map(|entry| entry.key.clone())
            .collect();
        let mut extended = node.clone();
        for name in names {
            let Some(container) = self.extended(&node, &name, &mut Vec::new()) else { continue };
            if let Some(slot) = get_mut(&mut extended, &["containers", &name]) {
                *slot = container;
            }
        }
        extended
    }

    /// Container `name` of `document` with what it extends below it. `chain`: the containers on the way here.
    fn extended(&mut self, document: &Node, name: &str, chain: &mut Vec<(Span, String)>) -> Option<Node> {
        let mut container = document.get("containers")?.get(name)?.clone();
        let Some(extends) = container.take("extends").filter(|node| !node.is_null()) else { return Some(container) };
        if chain.iter().any(|(span, _)| *span == container.span) || chain.len() >= MAX_CHAIN {
            let words: Vec<&str> = chain.iter().map(|(_, name)| name.as_str()).chain([name]).collect();
            self.cx.error(format!("`extends` goes in a circle: {}", words.join(" → ")), extends.span);
            return Some(container);
        }
        let Some((base_name, file)) = self.read_extends(&extends) else { return Some(container) };
        let other = match file {
            None => None,
            Some((path, span)) => {
                let directory = path.parent().unwrap_or(&path).to_owned();
                let Some(mut other) = self.read(&path, &directory, Some(span)) else { return Some(container) };
                self.interpolate(&mut other);
                Some(other)
            }
        };
        let document = other.as_ref().unwrap_or(document);
        chain.push((container.span, name.to_owned()));
        let base = self.extended(document, &base_name, chain);
        chain.pop();
        match base {
            Some(base) => Some(merge::merge_container(base, container)),
            None => {
                self.unknown_base(document, &base_name, extends.span);
                Some(container)
            }
        }
    }

    fn unknown_base(&mut self, document: &Node, name: &str, span: Span) {
        let known = document.get("containers").and_then(Node::entries).unwrap_or_default();
        let word = self.format.unwrap_or(Format::Compose).container_word();
        let mut diagnostic = Diagnostic::error(format!("there is no {word} `{name}` to extend"), span);
        diagnostic.help = did_you_mean(name, known.iter().map(|entry| entry.key.as_str()));
        self.cx.diagnostics.push(diagnostic);
    }

    /// Name and file of `extends`.
    fn read_extends(&mut self, node: &Node) -> Option<(String, Option<(PathBuf, Span)>)> {
        if let Some(name) = node.text() {
            return Some((name.to_owned(), None));
        }
        for entry in node.entries().unwrap_or_default() {
            if !matches!(entry.key.as_str(), "service" | "container" | "file") {
                let mut diagnostic =
                    Diagnostic::error(format!("unknown key `{}` in `extends`", entry.key), entry.key_span);
                diagnostic.help = did_you_mean(&entry.key, ["service", "file"]);
                self.cx.diagnostics.push(diagnostic);
            }
        }
        let name = node.get("service").or_else(|| node.get("container")).and_then(Node::text);
        let Some(name) = name else {
            self.cx.error_help("`extends` needs a name", node.span, "write `extends: {service: NAME, file: PATH}`");
            return None;
        };
        let file = node.get("file").filter(|node| !node.is_null());
        let file = file.and_then(|node| self.cx.file(node).map(|path| (path, node.span)));
        Some((name.to_owned(), file))
    }

    /// Puts what `include` names below `whole`. The same name in both is an error.
    fn include(&mut self, include: Node, mut whole: Node) -> Node {
        let span = include.span;
        let items = if include.items().is_some() { self.cx.items(include) } else { vec![include] };
        for item in items {
            if self.including.len() >= MAX_CHAIN {
                self.cx.error("files include each other without end", span);
                break;
            }
            if let Some(tree) = self.included(item) {
                self.import(&mut whole, tree, span);
            }
        }
        whole
    }

    /// One item of `include`, as a tree of its own.
    fn included(&mut self, item: Node) -> Option<Node> {
        let span = item.span;
        let list = |cx: &mut Context<'_>, node: &Node| -> Vec<(PathBuf, Span)> {
            let nodes = node.items().map_or_else(|| vec![node.clone()], <[Node]>::to_vec);
            nodes.iter().filter_map(|node| cx.file(node).map(|path| (path, node.span))).collect()
        };
        let (paths, directory, env_files) = match item.entries() {
            None => (list(self.cx, &item), None, Vec::new()),
            Some(entries) => {
                for entry in entries
                    .iter()
                    .filter(|entry| !matches!(entry.key.as_str(), "path" | "project_directory" | "env_file"))
                {
                    let mut diagnostic =
                        Diagnostic::error(format!("unknown key `{}` in `include`", entry.key), entry.key_span);
                    diagnostic.help = did_you_mean(&entry.key, ["path", "project_directory", "env_file"]);
                    self.cx.diagnostics.push(diagnostic);
                }
                let paths = item.get("path").map(|node| list(self.cx, node)).unwrap_or_default();
                let directory = item.get("project_directory").and_then(|node| self.cx.file(node));
                (paths, directory, item.get("env_file").map(|node| list(self.cx, node)).unwrap_or_default())
            }
        };
        let Some((first, _)) = paths.first() else {
            self.cx.error("`include` needs a path", span);
            return None;
        };
        if let Some((path, span)) = paths.iter().find(|(path, _)| self.including.contains(path)) {
            let name = self.cx.files.display(path);
            self.cx.error(format!("{name} includes itself"), *span);
            return None;
        }
        let directory = directory.unwrap_or_else(|| first.parent().unwrap_or(first).to_owned());
        self.with_env(&directory, env_files, |loader| {
            let documents: Option<Vec<Node>> =
                paths.iter().map(|(path, span)| loader.read(path, &normalise(&directory), Some(*span))).collect();
            loader.including.extend(paths.iter().map(|(path, _)| path.clone()));
            let tree = documents.and_then(|documents| loader.combine(documents));
            loader.including.truncate(loader.including.len() - paths.len());
            tree
        })
    }

    /// Runs `read` with the included files' own `.env` below the environment.
    fn with_env<T>(&mut self, directory: &Path, files: Vec<(PathBuf, Span)>, read: impl FnOnce(&mut Self) -> T) -> T {
        let outer = self.cx.environment.clone();
        let named = !files.is_empty();
        let files =
            if named { files.into_iter().map(|(path, _)| path).collect() } else { vec![directory.join(".env")] };
        for path in files {
            if named || self.cx.files.exists(&path) {
                for (name, value) in read_env_file(&path, &Default::default(), self.cx) {
                    self.cx.environment.entry(name).or_insert(value);
                }
            }
        }
        let result = read(self);
        self.cx.environment = outer;
        result
    }

    fn import(&mut self, whole: &mut Node, tree: Node, span: Span) {
        let Value::Mapping(sections) = tree.value else { return };
        for section in sections {
            if matches!(section.key.as_str(), "name" | "version") || section.key.starts_with("x-") {
                continue;
            }
            let Value::Mapping(own_sections) = &mut whole.value else { return };
            match own_sections.iter().position(|own| own.key == section.key) {
                None => own_sections.push(section),
                Some(at) => {
                    let conflicts = import_section(&mut own_sections[at].value, section.value);
                    for (key, own, other) in conflicts {
                        let diagnostic =
                            Diagnostic::error(format!("`{key}` is declared here and in an included file"), own);
                        self.cx
                            .diagnostics
                            .push(diagnostic.related(other, "the other one").related(span, "included here"));
                    }
                }
            }
        }
    }
}

/// Adds the entries of `other` that `own` does not have; those that differ are returned.
fn import_section(own: &mut Node, other: Node) -> Vec<(String, Span, Span)> {
    let mut conflicts = Vec::new();
    let (Value::Mapping(own), Value::Mapping(other)) = (&mut own.value, other.value) else { return conflicts };
    for entry in other {
        match own.iter().find(|mine| mine.key == entry.key) {
            None => own.push(entry),
            Some(mine) if same(&mine.value, &entry.value) => {}
            Some(mine) => conflicts.push((entry.key, mine.key_span, entry.key_span)),
        }
    }
    conflicts
}

/// Equal but for the places.
fn same(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::Null, Value::Null) => true,
        (Value::Scalar { text: a, .. }, Value::Scalar { text: b, .. }) => a == b,
        (Value::Sequence(a), Value::Sequence(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Mapping(a), Value::Mapping(b)) => {
            a.len() == b.len()
                && a.iter().all(|one| b.iter().any(|other| one.key == other.key && same(&one.value, &other.value)))
        }
        _ => false,
    }
}

fn get_mut<'n>(node: &'n mut Node, path: &[&str]) -> Option<&'n mut Node> {
    path.iter().try_fold(node, |node, key| match &mut node.value {
        Value::Mapping(entries) => {
            entries.iter_mut().find(|entry: &&mut Entry| entry.key == *key).map(|entry| &mut entry.value)
        }
        _ => None,
    })
}

/// A file that shows no containers is in the format that its name says.
fn by_name(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?;
    match name {
        _ if name.starts_with("stack.") => Some(Format::Native),
        _ if name.contains("compose") => Some(Format::Compose),
        _ => None,
    }
}
