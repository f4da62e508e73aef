//! What a build is made from, read from the host: the Dockerfile, the context, and one digest for each, so that a stack
//! can tell whether its image is still the one that its files describe.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::dockerfile::expand::{self, Quotes};
use super::dockerfile::{self, Dockerfile, Kind, MountKind, Word};
use super::ignore::Ignore;
use super::scope::Given;
use super::tree::{Source, Tree, TreeError};
use super::{Context, DockerfileSource, Error, NamedContext, Request, execute, io_at};
use crate::runtime::image::Digest;

/// The largest Dockerfile and `.dockerignore` that are read, in bytes.
const LARGEST: u64 = 8 << 20;

/// The content of all that a build reads of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    pub dockerfile: String,
    /// Of the files of the context that the target's instructions take, as far as that can be told without building.
    pub context: String,
}

fn read(path: &Path) -> Result<String, Error> {
    let size = fs::metadata(path).map_err(io_at(path))?.len();
    if size > LARGEST {
        return Err(Error::Input { path: path.to_owned(), reason: "it is larger than 8 MiB".into() });
    }
    fs::read_to_string(path).map_err(io_at(path))
}

fn read_if_there(path: &Path) -> Result<Option<String>, Error> {
    match read(path) {
        Err(Error::Io { source, .. })
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// `Dockerfile`, or `Containerfile` where there is only that.
pub fn default_dockerfile(context: &Path) -> PathBuf {
    let (usual, other) = (context.join("Dockerfile"), context.join("Containerfile"));
    if !usual.exists() && other.exists() { other } else { usual }
}

/// The Dockerfile's name, for people, and its text.
pub(super) fn dockerfile(request: &Request) -> Result<(String, String), Error> {
    match &request.dockerfile {
        DockerfileSource::Text(text) => Ok(("Dockerfile".to_owned(), text.clone())),
        DockerfileSource::File(path) => {
            let shown = match &request.context {
                Context::Directory(context) => path.strip_prefix(context).unwrap_or(path),
                Context::Nothing => path,
            };
            Ok((shown.display().to_string(), read(path)?))
        }
    }
}

/// The context without what its `.dockerignore` leaves out; one that stands beside the Dockerfile, under its name,
/// comes first.
pub(super) fn context(request: &Request) -> Result<Option<Arc<Tree>>, Error> {
    let Context::Directory(path) = &request.context else { return Ok(None) };
    let beside = match &request.dockerfile {
        DockerfileSource::File(file) => {
            let mut name = file.clone().into_os_string();
            name.push(".dockerignore");
            read_if_there(Path::new(&name))?.map(|text| (PathBuf::from(name), text))
        }
        DockerfileSource::Text(_) => None,
    };
    let found = match beside {
        Some(found) => Some(found),
        None => {
            let own = path.join(".dockerignore");
            read_if_there(&own)?.map(|text| (own, text))
        }
    };
    let ignore = match found {
        Some((file, text)) => {
            Ignore::parse(&text).map_err(|error| Error::Input { path: file, reason: error.to_string() })?
        }
        None => Ignore::default(),
    };
    Ok(Some(Tree::of_directory(path, "the context", ignore)?.into()))
}

/// A further context that is a directory.
pub(super) fn named(path: &Path, name: &str) -> Result<Tree, Error> {
    let own = path.join(".dockerignore");
    let text = read_if_there(&own)?.unwrap_or_default();
    let ignore = Ignore::parse(&text).map_err(|error| Error::Input { path: own, reason: error.to_string() })?;
    Ok(Tree::of_directory(path, format!("context {name}"), ignore)?)
}

/// The digests of all that the build reads of the host. Nothing is built, and no image is looked at.
///
/// # Errors
/// Where the Dockerfile is wrong, or something can't be read.
pub fn inputs(request: &Request) -> Result<Inputs, Error> {
    let (name, text) = dockerfile(request)?;
    let file = dockerfile::parse(&name, &text).map_err(|found| Error::Dockerfile(Box::new(found)))?;
    let (given, graph) = execute::plan(request, &file)?;
    let stages: Vec<usize> = graph.nodes.iter().map(|node| node.stage).collect();
    let mut parts = Vec::new();
    if let Some(tree) = context(request)? {
        parts.push(digest(&tree, &reads(&file, &stages, &given, None))?);
    }
    for (name, place) in &request.contexts {
        if let NamedContext::Directory(path) = place {
            let reads = reads(&file, &stages, &given, Some(name));
            parts.push(digest(&named(path, name)?, &reads)?);
        }
    }
    let parts: Vec<&str> = parts.iter().map(Digest::as_str).collect();
    Ok(Inputs {
        dockerfile: Digest::of(text.as_bytes()).to_string(),
        context: Digest::of(parts.join("\n").as_bytes()).to_string(),
    })
}

/// The sources that instructions take of a context (`None`: the build's own). `None` where a variable of an image
/// decides about it: then everything counts.
fn reads(file: &Dockerfile, stages: &[usize], given: &Given, context: Option<&str>) -> Option<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for stage in stages.iter().map(|index| &file.stages[*index]) {
        let mut known = given.globals.clone();
        for one in &stage.instructions {
            match &one.kind {
                Kind::Arg(arguments) => {
                    for argument in arguments {
                        let default = argument.default.as_ref().and_then(|word| value(word, &known, given.escape));
                        let name = &argument.name;
                        let value = given.arguments.get(name).cloned().or(default);
                        let value = value.or_else(|| known.get(name).or_else(|| given.known.get(name)).cloned());
                        known.extend(value.map(|value| (name.clone(), value)));
                    }
                }
                Kind::Env(pairs) => {
                    for (key, word) in pairs {
                        match value(word, &known, given.escape) {
                            Some(value) => drop(known.insert(key.text.clone(), value)),
                            None => drop(known.remove(&key.text)),
                        }
                    }
                }
                Kind::Copy(copy) if is(copy.from.as_ref(), context) => {
                    for word in &copy.sources {
                        found.insert(value(word, &known, given.escape)?);
                    }
                }
                Kind::Run(run) => {
                    for mount in &run.mounts {
                        if let MountKind::Bind { from, source, .. } = &mount.kind
                            && is(from.as_ref(), context)
                        {
                            found.insert(match source {
                                Some(word) => value(word, &known, given.escape)?,
                                None => String::new(),
                            });
                        }
                    }
                }
                // What an image asks of those who build on it is not known here; its own files are.
                _ => {}
            }
        }
    }
    Some(found)
}

fn is(from: Option<&Word>, context: Option<&str>) -> bool {
    from.map(|word| word.text.as_str()).filter(|name| *name != "context") == context
}

/// `None` where it has a variable whose value is not known.
fn value(word: &Word, known: &std::collections::BTreeMap<String, String>, escape: char) -> Option<String> {
    let unknown = std::cell::Cell::new(false);
    let lookup = |name: &str| {
        let value = known.get(name).cloned();
        unknown.set(unknown.get() || value.is_none());
        value
    };
    let value = expand::expand(&word.text, escape, Quotes::Word, &lookup).ok()?;
    (!unknown.get()).then_some(value)
}

/// A source that is not there counts as nothing: the build will say so.
fn digest(tree: &Tree, reads: &Option<BTreeSet<String>>) -> Result<Digest, Error> {
    let all = BTreeSet::from([String::new()]);
    let mut sources: Vec<Source> = Vec::new();
    for source in reads.as_ref().unwrap_or(&all) {
        match tree.find(source, &Ignore::default()) {
            Ok(found) => sources.extend(found),
            Err(TreeError::Missing { .. } | TreeError::Ignored { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(tree.digest(&sources)?)
}
