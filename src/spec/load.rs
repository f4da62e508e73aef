//! From files on disk to a [`Stack`]. The one place of this room that reads the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::diagnostics::{Diagnostic, Diagnostics, Severity, Source, Sources, Span};
use super::document::Loader;
use super::lower::{self, Context, Lowered};
use super::schema::Keys;
use super::stack::*;
use super::tree::{MAX_BYTES, Node};
use super::write::Document;
use super::{discover, dotenv, lock, merge, validate};

/// What to load and in which surroundings. Nothing else is consulted: no process environment, no current directory.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Files as the user named them, merged in this order; a directory is searched for the usual names, `-` is
    /// [`LoadOptions::stdin`]. Empty = discovery from [`LoadOptions::start`] upwards.
    pub files: Vec<PathBuf>,
    /// Absolute directory where the user stands.
    pub start: PathBuf,
    /// `-p/--project-name`; wins over the file's `name:`.
    pub project_name: Option<String>,
    /// Active profiles, besides those of `COMPOSE_PROFILES`; `*` is all.
    pub profiles: Vec<String>,
    /// Instead of `.env` beside the file.
    pub env_files: Vec<PathBuf>,
    /// The caller's environment; wins over `.env`.
    pub environment: BTreeMap<String, String>,
    /// Text for `-`.
    pub stdin: Option<String>,
}

/// A stack and how it came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// With [`Stack::not_honoured`].
    pub stack: Stack,
    /// Every file whose content matters, to watch: stack files, `.env`, env files, files of configs and secrets.
    pub files: Vec<PathBuf>,
    /// Nothing that stops an apply; render them on stderr.
    pub warnings: Diagnostics,
}

/// What is wrong with a stack, found when its text had been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where its cause is written, in native words: `containers.web.ports`.
    pub path: String,
    pub message: String,
    pub help: Option<String>,
}

impl Fault {
    /// From the text of an error, which may end with a line of help.
    pub fn new(path: impl Into<String>, text: &str) -> Self {
        let (message, help) =
            text.split_once("\n  help: ").map_or((text, None), |(message, help)| (message, Some(help.to_owned())));
        Self { path: path.into(), message: message.to_owned(), help }
    }
}

impl Loaded {
    /// The faults, each at its place in the files.
    pub fn diagnostics(&self, faults: Vec<Fault>) -> Diagnostics {
        let at = |fault: Fault| Diagnostic {
            help: fault.help,
            ..Diagnostic::error(fault.message, self.stack.spans.find(&fault.path))
        };
        Diagnostics::new(faults.into_iter().map(at).collect(), self.warnings.sources.clone())
    }

    /// What is wrong with the stack as it has become since it was read.
    pub fn faults(&self) -> Diagnostics {
        let mut found = Vec::new();
        validate::validate(&self.stack, &BTreeMap::new(), &mut found);
        found.retain(|one| one.severity == Severity::Error);
        Diagnostics::new(found, self.warnings.sources.clone())
    }

    /// Where `path` is written, in native words.
    pub fn locate(&self, path: &str) -> Option<Location> {
        self.stack.spans.find(path).map(|span| self.warnings.sources.locate(span))
    }
}

/// Where files come from.
pub trait Files {
    fn read(&mut self, path: &Path) -> std::io::Result<Vec<u8>>;
    fn exists(&mut self, path: &Path) -> bool;
    fn is_directory(&mut self, path: &Path) -> bool;
    /// Notes that the content of `path` matters, also when it is not there yet.
    fn watch(&mut self, path: &Path);
    /// The path as the user would write it.
    fn display(&self, path: &Path) -> String;
}

/// Why a text cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("there is no such file")]
    Missing,
    #[error("{0}")]
    Io(std::io::Error),
    #[error("it is larger than {} MiB", MAX_BYTES >> 20)]
    TooBig,
    #[error("it is a directory")]
    Directory,
    /// With the text as far as it can be shown, and where in it the first wrong byte stands.
    #[error("it is not UTF-8 text")]
    NotText { shown: String, at: usize, byte: u8 },
}

/// Reads a whole file as text.
pub fn read_text(files: &mut dyn Files, path: &Path) -> Result<String, ReadError> {
    let bytes = files.read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ReadError::Missing,
        std::io::ErrorKind::FileTooLarge => ReadError::TooBig,
        std::io::ErrorKind::IsADirectory => ReadError::Directory,
        _ => ReadError::Io(error),
    })?;
    if bytes.len() > MAX_BYTES {
        return Err(ReadError::TooBig);
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let shown = String::from_utf8_lossy(error.as_bytes()).into_owned();
        ReadError::NotText { shown, at, byte: error.as_bytes()[at] }
    })
}

/// What is to be said about a file that cannot be read; `asked` is where it was named.
pub fn unreadable(error: ReadError, path: &Path, asked: Option<Span>, cx: &mut Context<'_>) -> Diagnostic {
    let name = cx.files.display(path);
    let ReadError::NotText { shown, at, byte } = error else {
        return Diagnostic::error(format!("{name} cannot be read: {error}"), asked);
    };
    let wide = shown.starts_with('\u{fffd}') && shown.contains('\0');
    let directory = path.parent().unwrap_or(path).to_owned();
    let source = cx.sources.add(Source::new(name, shown, directory));
    let width = char::REPLACEMENT_CHARACTER.len_utf8();
    let diagnostic = Diagnostic::error("this file is not UTF-8 text", Span { source, start: at, end: at + width })
        .label(format!("the byte {byte:02x} does not belong here"))
        .help(if wide { "it looks like UTF-16: save it as UTF-8" } else { "save it as UTF-8" });
    match asked {
        Some(span) => diagnostic.related(span, "it is named here"),
        None => diagnostic,
    }
}

/// The real disk.
struct Disk {
    start: PathBuf,
    seen: BTreeSet<PathBuf>,
}

impl Files for Disk {
    fn read(&mut self, path: &Path) -> std::io::Result<Vec<u8>> {
        self.watch(path);
        // A device or pipe has length 0 and could be endless.
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(
            &mut std::io::Read::take(std::fs::File::open(path)?, MAX_BYTES as u64 + 1),
            &mut bytes,
        )?;
        Ok(bytes)
    }

    fn exists(&mut self, path: &Path) -> bool {
        path.exists() && !path.is_dir()
    }

    fn is_directory(&mut self, path: &Path) -> bool {
        path.is_dir()
    }

    fn watch(&mut self, path: &Path) {
        self.seen.insert(path.to_owned());
    }

    fn display(&self, path: &Path) -> String {
        path.strip_prefix(&self.start).unwrap_or(path).display().to_string()
    }
}

/// Reads, merges, checks. All errors of all files are returned at once.
pub fn load(options: &LoadOptions) -> Result<Loaded, Diagnostics> {
    let mut disk = Disk { start: options.start.clone(), seen: BTreeSet::new() };
    let result = load_from(options, &mut disk);
    let files: Vec<PathBuf> = disk.seen.into_iter().collect();
    match result {
        Ok((stack, warnings)) => Ok(Loaded { stack, files, warnings }),
        Err(diagnostics) => Err(Diagnostics { files, ..diagnostics }),
    }
}

/// As [`load`], with the one document that all files together are.
pub fn resolve(options: &LoadOptions) -> Result<(Loaded, Document), Diagnostics> {
    let mut disk = Disk { start: options.start.clone(), seen: BTreeSet::new() };
    let mut document = None;
    let (stack, warnings) = load_with(options, &mut disk, &mut |tree| document = Some(tree.clone()))?;
    let document = Document::new(document.unwrap_or_else(|| Node::null(Span::default())), &stack);
    Ok((Loaded { stack, files: disk.seen.into_iter().collect(), warnings }, document))
}

/// [`load`] with the disk as an argument.
pub fn load_from(options: &LoadOptions, files: &mut dyn Files) -> Result<(Stack, Diagnostics), Diagnostics> {
    load_with(options, files, &mut |_| {})
}

/// Every key that is asked for when these files are read, whatever is wrong with them.
pub fn load_with_keys(options: &LoadOptions, files: &mut dyn Files) -> Keys {
    let mut cx = context(options, files);
    cx.keys = Some(Keys::default());
    read_stack(options, &mut cx, &mut |_| {});
    cx.keys.unwrap_or_default()
}

fn context<'a>(options: &LoadOptions, files: &'a mut dyn Files) -> Context<'a> {
    Context {
        sources: Sources::default(),
        files,
        diagnostics: Vec::new(),
        not_honoured: Vec::new(),
        environment: options.environment.clone(),
        format: Format::Compose,
        project: String::new(),
        places: BTreeMap::new(),
        faulty: Vec::new(),
        keys: None,
    }
}

/// `look` is shown the whole tree, before it is taken to pieces.
pub fn load_with(
    options: &LoadOptions,
    files: &mut dyn Files,
    look: &mut dyn FnMut(&Node),
) -> Result<(Stack, Diagnostics), Diagnostics> {
    let mut cx = context(options, files);
    let stack = read_stack(options, &mut cx, look);
    cx.drop_consequences();
    let diagnostics = Diagnostics::new(cx.diagnostics, cx.sources);
    let wrong = diagnostics.list.iter().any(|one| one.severity == Severity::Error);
    match stack {
        Some(stack) if !wrong => Ok((stack, diagnostics)),
        _ => Err(diagnostics),
    }
}

fn read_stack(options: &LoadOptions, cx: &mut Context<'_>, look: &mut dyn FnMut(&Node)) -> Option<Stack> {
    let found = match discover::find(options, cx) {
        Ok(found) => found,
        Err(diagnostic) => {
            cx.diagnostics.push(diagnostic);
            return None;
        }
    };
    read_env_files(options, &found.directory, cx);
    let mut loader = Loader::new(cx);
    let documents = loader.read_all(&found, options)?;
    let format = loader.format?;
    cx.format = format;
    cx.project = project_name(options, &found.directory, &documents, cx);
    cx.environment.insert("COMPOSE_PROJECT_NAME".into(), cx.project.clone());
    let tree = Loader::with_format(cx, format).combine_all(documents)?;
    look(&tree);
    let mut paths = Vec::new();
    merge::paths(&tree, "", &mut paths);
    let mut paths: BTreeMap<String, Span> = paths.into_iter().collect();
    let lowered = lower::lower(tree, cx);
    paths.append(&mut cx.places);
    let mut stack = assemble(lowered, &found, options, &paths, cx);
    stack.lock = lock::read(&found.directory, cx);
    if let Some(lock) = stack.lock.clone() {
        stack.pin(&lock.images);
    }
    validate::validate(&stack, &paths, &mut cx.diagnostics);
    find_images(&stack, cx);
    Some(stack)
}

/// The archives and root file systems that containers use are there.
fn find_images(stack: &Stack, cx: &mut Context<'_>) {
    for (key, image) in &stack.images {
        let (word, path) = match &image.source {
            ImageSource::Archive(path) if !cx.files.exists(path) => ("archive", path),
            ImageSource::Rootfs(path) if !cx.files.exists(path) && !cx.files.is_directory(path) => ("rootfs", path),
            _ => continue,
        };
        if !stack.containers.values().any(|container| container.image == *image) {
            continue;
        }
        let is_directory = cx.files.is_directory(path);
        let reason = if is_directory { "is a directory, not a file" } else { "is not there" };
        let help = if is_directory { "a directory is taken by `rootfs:`" } else { "make it, or correct the path" };
        let message = format!("the {word} {} of image `{key}` {reason}", cx.files.display(path));
        let span = stack.spans.find(&format!("images.{key}.{word}"));
        cx.diagnostics.push(Diagnostic::error(message, span).help(help));
    }
}

/// Puts `.env` (or the files named instead) below the caller's environment.
fn read_env_files(options: &LoadOptions, directory: &Path, cx: &mut Context<'_>) {
    let named = !options.env_files.is_empty();
    let disabled =
        cx.environment.get("COMPOSE_DISABLE_ENV_FILE").is_some_and(|word| super::tree::parse_bool(word) == Some(true));
    let paths = match (named, disabled) {
        (true, _) => options.env_files.iter().map(|path| normalise(&options.start.join(path))).collect(),
        (false, true) => Vec::new(),
        (false, false) => vec![directory.join(".env")],
    };
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for path in paths {
        cx.files.watch(&path);
        if !named && !cx.files.exists(&path) {
            continue;
        }
        found.extend(read_env_file(&path, &found, cx));
    }
    for (name, value) in found {
        cx.environment.entry(name).or_insert(value);
    }
}

/// The assignments of one `.env`; those of `before` can be used in it.
pub fn read_env_file(path: &Path, before: &BTreeMap<String, String>, cx: &mut Context<'_>) -> BTreeMap<String, String> {
    let text = match read_text(cx.files, path) {
        Ok(text) => text,
        Err(error) => {
            let diagnostic = unreadable(error, path, None, cx);
            cx.diagnostics.push(diagnostic);
            return BTreeMap::new();
        }
    };
    let directory = path.parent().unwrap_or(path).to_owned();
    let source = cx.sources.add(Source::new(cx.files.display(path), text.clone(), directory));
    let environment = &cx.environment;
    let lookup = |name: &str| environment.get(name).or_else(|| before.get(name)).cloned();
    let assignments = dotenv::parse(&text, source, &lookup, &|_| None, &mut cx.diagnostics);
    assignments.into_iter().filter_map(|one| one.value.map(|value| (one.name, value))).collect()
}

/// The name of a stack whose own is wrong, which has been said; so that what else is wrong is said, too.
const STAND_IN: &str = "fault";

/// `-p`, then `COMPOSE_PROJECT_NAME`, then `name:` of the last file that has one, then the directory's name.
fn project_name(options: &LoadOptions, directory: &Path, documents: &[Node], cx: &mut Context<'_>) -> String {
    let given = options
        .project_name
        .clone()
        .or_else(|| cx.environment.get("COMPOSE_PROJECT_NAME").cloned())
        .filter(|name| !name.is_empty());
    let written = documents.iter().rev().find_map(|node| node.get("name"));
    let written = written.filter(|node| !node.is_null() && node.text() != Some(""));
    let (name, span) = match (given, written) {
        (Some(name), _) => (name, None),
        (None, Some(node)) => {
            let environment = cx.environment.clone();
            let lookup = |name: &str| environment.get(name).cloned();
            let text = cx.text(node).unwrap_or(STAND_IN.into());
            let name = super::interpolate::interpolate(&text, &lookup, &mut Vec::new());
            // A fault is reported when the whole tree is interpolated.
            (name.unwrap_or(STAND_IN.into()), Some(node.span))
        }
        (None, None) => {
            let name = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            (normalise_name(&name), None)
        }
    };
    if is_project_name(&name) {
        return name;
    }
    // A name that is written in a Compose file is mended, as Compose does.
    let mended = normalise_name(&name);
    if cx.format == Format::Compose
        && let Some(span) = span
        && is_project_name(&mended)
    {
        cx.diagnostics.push(Diagnostic::warning(format!("the stack is called `{mended}`"), span));
        return mended;
    }
    let message = match name.as_str() {
        "" => "the stack has no name: the directory's name has no letters or digits".to_owned(),
        name => format!("`{name}` is not a good name of a stack"),
    };
    let help = match normalise_name(&name).as_str() {
        "" => "write `name:` in the file, or give --project-name; names have lower case letters, digits, `-` and `_`"
            .to_owned(),
        better => format!("names have lower case letters, digits, `-` and `_`, such as `{better}`"),
    };
    cx.diagnostics.push(Diagnostic::error(message, span).help(help));
    STAND_IN.to_owned()
}

fn is_project_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && normalise_name(name) == name
        && name.len() <= 100
}

/// Compose's rule for a directory's name: lower case, letters, digits, `-` and `_` only, none of the two first.
fn normalise_name(name: &str) -> String {
    let lower = name.to_lowercase();
    let kept: String =
        lower.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(*c)).collect();
    kept.trim_start_matches(['_', '-']).to_owned()
}

fn assemble(
    lowered: Lowered,
    found: &discover::Found,
    options: &LoadOptions,
    paths: &BTreeMap<String, Span>,
    cx: &mut Context<'_>,
) -> Stack {
    let listed = cx.environment.get("COMPOSE_PROFILES").map(String::as_str).unwrap_or_default();
    let active: BTreeSet<&str> = options
        .profiles
        .iter()
        .map(String::as_str)
        .chain(listed.split(',').map(str::trim))
        .filter(|name| !name.is_empty())
        .collect();
    let enabled = |container: &Container| {
        let profiles = &container.profiles;
        profiles.is_empty() || active.contains("*") || profiles.iter().any(|profile| active.contains(profile.as_str()))
    };
    let (containers, disabled): (BTreeMap<_, _>, BTreeMap<_, _>) =
        lowered.containers.into_iter().partition(|(_, container)| enabled(container));
    let mut networks = lowered.networks;
    if containers.values().any(|container| container.networks.contains_key("default")) {
        let default = || Network { name: format!("{}_default", cx.project), ..Network::default() };
        networks.entry("default".into()).or_insert_with(default);
    }
    let disabled: Vec<String> = disabled.into_keys().collect();
    let mut not_honoured = std::mem::take(&mut cx.not_honoured);
    not_honoured.retain(|one| !disabled.iter().any(|name| one.path.starts_with(&format!("containers.{name}."))));
    Stack {
        name: cx.project.clone(),
        format: cx.format,
        images: lowered.images,
        containers,
        disabled,
        networks,
        volumes: lowered.volumes,
        configs: lowered.configs,
        secrets: lowered.secrets,
        not_honoured,
        directory: found.directory.clone(),
        files: found.paths(),
        policy: lowered.policy,
        lock: None,
        pins: BTreeMap::new(),
        spans: Spans(paths.clone()),
    }
}

/// Without `.`, `..` and repeated slashes; symbolic links are not looked at.
pub fn normalise(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(out.pop()),
            other => out.push(other),
        }
    }
    out
}
