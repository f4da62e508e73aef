//! What a stack asks for, as resources: every default resolved, every name final, every replica a container of its own.
//!
//! Pure. Files whose content counts are read beforehand: [`files`] tells which, [`super::facts::collect`] reads them.

mod build;
mod container;
mod lower;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub(crate) use lower::clash;
pub use lower::{files, lower};

use serde::{Deserialize, Serialize};

use super::engine::{Condition, StackName};
use super::history::Places;
use super::resource::{Config, ContainerConfig, ImageConfig, Kind, ResourceId};

/// All that one stack asks of one engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    pub stack: StackName,
    #[serde(with = "as_list")]
    pub resources: BTreeMap<ResourceId, DesiredResource>,
    /// Networks and volumes that somebody else keeps and that containers of this stack use: kind and name.
    pub external: Vec<(Kind, String)>,
    /// What the file asks for and the engine does not do, one line each; shown in every plan.
    pub not_honoured: Vec<String>,
    /// What else every plan says of it, one line each.
    pub notes: Vec<String>,
    /// Names of images that stand for a digest because the lock says so, not the file.
    pub locked: BTreeSet<String>,
    /// Where in the files it is declared, to be told.
    #[serde(skip)]
    pub places: Places,
}

/// One resource as it is asked for, and how it depends on others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DesiredResource {
    pub config: Config,
    /// For containers: the containers of the stack that it needs.
    pub depends_on: Vec<Edge>,
    /// Its successor is started before it is stopped, where nothing forbids two at once.
    pub start_first: bool,
    /// How many replicas of a service are replaced at once; 0: all.
    pub parallelism: u32,
    /// Where in the file it is declared, in native words: `containers.web`.
    pub place: String,
}

/// "This container needs that one." A service with replicas gives an edge to each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    pub on: ResourceId,
    pub condition: Condition,
    /// The dependent is restarted when an apply replaces or restarts `on`.
    pub restart: bool,
    /// `false`: the dependent starts even when `on` fails.
    pub required: bool,
}

/// JSON has names for keys only.
mod as_list {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::{DesiredResource, ResourceId};

    pub fn serialize<S: Serializer>(
        map: &BTreeMap<ResourceId, DesiredResource>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map.iter())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<ResourceId, DesiredResource>, D::Error> {
        Ok(Vec::<(ResourceId, DesiredResource)>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// A stack that can't be held by this engine, although its file is well-formed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LowerError {
    #[error("`{0}` is not a stack's name: lower-case letters, digits, `-` and `_`, the first a letter or digit")]
    StackName(String),
    #[error("container {container}: the context of its image's build is not a directory of this host")]
    Build { container: String },
    #[error("container {container}: {what} `{name}` is not declared")]
    Undeclared { container: String, what: &'static str, name: String },
    #[error("container {container}: {what} `{name}` can't be read: {path}: {reason}")]
    Unreadable { container: String, what: &'static str, name: String, path: PathBuf, reason: String },
    #[error(
        "container {container}: image `{name}` is built in another way by another container\n  help: give one of them another `image:`"
    )]
    SameImage { container: String, name: String },
    #[error("container {container}: {what} {path}: no such file or directory\n  help: {}", cure(what))]
    Missing { container: String, what: &'static str, index: usize, path: PathBuf },
    #[error(
        "container {container}: platform {platform}: images are built, and built in, for {host} only\n  help: take `platform` away, or name an image of a registry"
    )]
    Platform { container: String, platform: String, host: String },
    #[error("containers {first} and {second} would both be named `{name}`")]
    SameName { first: String, second: String, name: String },
    #[error("containers {first} and {second} both want the host's port {port}")]
    SamePort { first: String, second: String, port: String },
    #[error("container {container}: `container_name` gives one name, but there are {replicas} replicas")]
    NamedReplicas { container: String, replicas: u32 },
}

impl Desired {
    /// A stack that asks for nothing.
    pub fn nothing(stack: &StackName) -> Self {
        Self {
            stack: stack.clone(),
            resources: BTreeMap::new(),
            external: Vec::new(),
            not_honoured: Vec::new(),
            notes: Vec::new(),
            locked: BTreeSet::new(),
            places: Places::default(),
        }
    }

    /// The containers and where they are declared.
    pub fn containers(&self) -> impl Iterator<Item = (&ContainerConfig, &str)> {
        self.resources.values().filter_map(|resource| match &resource.config {
            Config::Container(container) => Some((container.as_ref(), resource.place.as_str())),
            _ => None,
        })
    }

    /// The images and where they are declared, to have what they are made from looked at.
    pub fn images_mut(&mut self) -> impl Iterator<Item = (&mut ImageConfig, &str)> {
        self.resources.values_mut().filter_map(|resource| match &mut resource.config {
            Config::Image(image) => Some((image, resource.place.as_str())),
            _ => None,
        })
    }
}

impl LowerError {
    /// Where in the file the cause is written, in native words: for finding its line.
    pub fn path(&self) -> String {
        match self {
            Self::StackName(_) => "name".to_owned(),
            Self::Build { container } | Self::SameImage { container, .. } => format!("containers.{container}.build"),
            Self::Undeclared { container, what, .. } => format!("containers.{container}.{what}s"),
            Self::Unreadable { what, name, .. } => format!("{what}s.{name}"),
            Self::Missing { container, what: "device", index, .. } => format!("containers.{container}.devices.{index}"),
            Self::Missing { container, what: "seccomp profile", index, .. } => {
                format!("containers.{container}.security_opt.{index}")
            }
            Self::Missing { container, index, .. } => format!("containers.{container}.volumes.{index}"),
            Self::Platform { container, .. } => format!("containers.{container}.platform"),
            Self::SameName { second, .. } => format!("containers.{}.container_name", service(second)),
            Self::SamePort { second, .. } => format!("containers.{}.ports", service(second)),
            Self::NamedReplicas { container, .. } => format!("containers.{container}.container_name"),
        }
    }
}

/// What to do about a [`LowerError::Missing`].
fn cure(what: &str) -> &'static str {
    match what {
        "bind mount" => "make it, correct the path, or have a directory made with `bind: {create_host_path: true}`",
        _ => "make it, or correct the path",
    }
}

/// `web` of `web-1`.
fn service(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(service, _)| service)
}
