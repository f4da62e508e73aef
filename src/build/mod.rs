//! Dockerfile → build graph → image, run by this engine's own runtime. Knows the host's runtime; knows no stacks, and
//! no registries: images to build on are handed in.
//!
//! ```text
//! text ─[dockerfile]─▶ stages ─[graph]─▶ what the target needs ─[execute: a thread a stage]─▶ steps ─▶ layers ─▶ image
//! ```
//!
//! # Promises
//!
//! - A step runs only where its inputs are new: the layers below it, the instruction with its variables replaced, and
//!   the content, modes and (from stages) owners of the files that it takes; never times.
//! - The same inputs give the same image again, as long as the steps are remembered; with an epoch
//!   (`SOURCE_DATE_EPOCH`) also where nothing is.
//! - A `RUN` is an ordinary container. Files are taken from contexts and put into images by openat2(2) only.
//! - A build that ends, fails or is killed leaves no container, mount or file ([`workshop`]).

pub mod copy;
pub mod dockerfile;
mod draft;
mod execute;
mod graph;
pub mod ignore;
mod inputs;
pub mod mode;
mod mounts;
pub mod pattern;
pub mod run;
mod scope;
mod stage;
mod steps;
pub mod tree;
pub mod units;
mod users;
pub mod workshop;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

pub use execute::build;
pub use inputs::{Inputs, default_dockerfile, inputs};
pub use run::Network;
pub use workshop::sweep;

use crate::diagnostics::{Diagnostic, Diagnostics, Sources};
use crate::runtime::image::{self, Image};
use workshop::WorkshopError;

/// What to build, with every path absolute.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub context: Context,
    pub dockerfile: DockerfileSource,
    /// The stage to build; the last one where none is named.
    pub target: Option<String>,
    /// `--build-arg`.
    pub arguments: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// `--build-context`: further places for `FROM` and `--from`.
    pub contexts: BTreeMap<String, NamedContext>,
    pub secrets: BTreeMap<String, Secret>,
    /// Of steps that do not say otherwise.
    pub network: Network,
    pub no_cache: bool,
    /// Stages whose steps are done anew.
    pub no_cache_filter: BTreeSet<String>,
    /// Ask for the images to build on also where they are here.
    pub pull: bool,
    /// Name and address, `host-gateway` for this host.
    pub extra_hosts: Vec<(String, String)>,
    pub shm_size: Option<u64>,
    pub ulimits: BTreeMap<String, (i64, i64)>,
    /// The image's names; it is listed under its id where there are none.
    pub names: Vec<String>,
    /// `SOURCE_DATE_EPOCH`: the time of everything that is made, in seconds since 1970.
    pub epoch: Option<u64>,
    /// Kept with the image for whoever asked for it.
    pub declared: Value,
    /// Steps at a time; 0 is a default.
    pub parallel: usize,
}

/// Where files come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Context {
    #[default]
    Nothing,
    Directory(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerfileSource {
    File(PathBuf),
    /// The text itself.
    Text(String),
}

impl Default for DockerfileSource {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    Directory(PathBuf),
    Image(String),
}

/// What a step may see, and nothing keeps.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    File(PathBuf),
    Value(Vec<u8>),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Value(_) => f.write_str("Value"),
        }
    }
}

/// Gives an image to build on, by its name; the flag asks for the newest.
pub type Provide<'a> = &'a (dyn Fn(&str, bool) -> Result<Image, image::Error> + Sync);

/// A step as people see it: `[build 2/5] RUN make`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepName {
    pub stage: String,
    pub number: usize,
    pub total: usize,
    pub text: String,
}

impl StepName {
    /// `[build 2/5]`.
    pub fn tag(&self) -> String {
        let space = if self.stage.is_empty() { "" } else { " " };
        format!("[{}{space}{}/{}]", self.stage, self.number, self.total)
    }
}

/// What happens, as it happens; steps of several stages at once.
#[derive(Debug)]
pub enum Event<'a> {
    /// It is carried out.
    Started(&'a StepName),
    /// It is known what it makes.
    Cached(&'a StepName),
    Output {
        step: &'a StepName,
        stderr: bool,
        bytes: &'a [u8],
    },
    Finished {
        step: &'a StepName,
        took: Duration,
    },
    /// Something about the file or the request that is no error.
    Warning(&'a Diagnostics),
}

/// What was built, and how much there was to do.
#[derive(Clone, Debug)]
pub struct Built {
    pub image: Image,
    pub executed: usize,
    pub cached: usize,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is wrong with the file, or which of its instructions failed and why.
    #[error("{0}")]
    Dockerfile(Box<Diagnostics>),
    /// A program of a step failed; the last of what it wrote.
    #[error("{log}{diagnostics}")]
    Failed { log: String, diagnostics: Box<Diagnostics> },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: {reason}")]
    Input { path: PathBuf, reason: String },
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error(transparent)]
    Workshop(#[from] WorkshopError),
    #[error(transparent)]
    Tree(#[from] tree::TreeError),
    /// Another stage failed first.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    fn at(sources: &Sources, diagnostic: Diagnostic) -> Self {
        Self::Dockerfile(Box::new(Diagnostics::new(vec![diagnostic], sources.clone())))
    }

    /// For people; `color` adds terminal escapes.
    pub fn render(&self, color: bool) -> String {
        match self {
            Self::Dockerfile(found) => found.render(color),
            Self::Failed { log, diagnostics } => format!("{log}{}", diagnostics.render(color)),
            other => other.to_string(),
        }
    }
}

/// Whether `linux/amd64` or the like is this host's platform.
pub fn is_host(platform: &str) -> bool {
    scope::Platform::host().is(platform)
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}
