//! THE SEAM. Everything that can hold a stack implements [`Engine`]; nothing above it knows which one it is.
//!
//! It is at the level of resources and actions, not of syscalls, so that an engine which is itself a reconciler fits.

use std::collections::BTreeMap;
use std::future::Future;

use serde::{Deserialize, Serialize};
use tokio_stream::Stream;

use super::history::Memory;
use super::resource::{Config, ContainerConfig, ImageConfig, Kind, NetworkConfig, ResourceId};
use crate::spec;

/// The name of a stack: lower-case letters, digits, `-` and `_`, first a letter or digit, as Compose has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StackName(String);

impl StackName {
    /// `None` where the text is not a stack's name.
    pub fn new(text: &str) -> Option<Self> {
        let first = text.chars().next()?;
        let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        ((first.is_ascii_lowercase() || first.is_ascii_digit()) && text.chars().all(rest))
            .then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What changing a field costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The engine can apply it to what runs.
    InPlace,
    /// The same container must be stopped and started.
    Restart,
    /// A new one must be made.
    Replace,
    /// It can't be done without losing data; refused without consent.
    LosesData,
}

/// What an engine holds and how it changes; constant, so that planning stays pure.
#[derive(Clone)]
pub struct Capabilities {
    /// Shown in plans and errors.
    pub name: &'static str,
    /// What changing this field of this kind costs. The field is a dotted path, `resources.memory`.
    pub change: fn(Kind, &str) -> Change,
    /// What its containers run on where nothing else is asked for: `linux/amd64`.
    pub platform: String,
    /// Containers can be renamed while they run, so that a successor can be started beside them.
    pub renames: bool,
    /// Keys of the file that this engine does not carry out, whatever they say.
    pub not_honoured: Vec<Ignored>,
    /// What of this resource the engine does not carry out although it holds such resources.
    pub unsupported: fn(&Config) -> Vec<Unsupported>,
}

/// A key of a container that an engine does nothing with.
#[derive(Clone, Copy, Debug)]
pub struct Ignored {
    /// As the file writes it.
    pub key: &'static str,
    /// Whether the container says anything by it.
    pub is_set: fn(&spec::Container) -> bool,
    pub reason: &'static str,
}

/// A value that an engine takes and does nothing with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// The key below its container, network or volume, as the file writes it: `logging.driver`.
    pub key: String,
    pub reason: String,
}

/// What a change costs on an engine of single containers over Linux: limits, labels, restart policy, health check and
/// places in networks in place, content of files by a restart, data of volumes never. For engines to use or to refine.
pub fn linux_change(kind: Kind, field: &str) -> Change {
    const IN_PLACE: [&str; 12] = [
        "labels",
        "restart",
        "restart_delay_ms",
        "restart_window_ms",
        "healthcheck",
        "on_unhealthy",
        "on_unhealthy_budget",
        "resources",
        "stop_grace_ms",
        "stop_signal",
        "pre_stop",
        "annotations",
    ];
    let first = field.split('.').next().unwrap_or(field);
    match kind {
        Kind::Image => Change::InPlace,
        Kind::Network if first == "labels" || first == "attachable" => Change::InPlace,
        Kind::Network => Change::Replace,
        Kind::Volume if first == "labels" || first == "protect" => Change::InPlace,
        Kind::Volume => Change::LosesData,
        Kind::Container if IN_PLACE.contains(&first) || is_place(field) => Change::InPlace,
        Kind::Container if field.contains(".on_change") => Change::InPlace,
        Kind::Container if first == "bind_contents" || field.ends_with(".content_hash") => Change::Restart,
        Kind::Container => Change::Replace,
    }
}

/// A container's place in a network: its cable is plugged and unplugged while the program runs. Which number an interface
/// gets is settled when the first one is made.
fn is_place(field: &str) -> bool {
    field.strip_prefix("network.networks.").is_some_and(|rest| !rest.ends_with(".priority"))
}

/// How far the making of a resource got. `Creating` is durable before the first effect, `Created` after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Creating,
    Created,
}

/// What a container does at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Made, never started.
    Created,
    Running {
        health: Health,
    },
    Paused,
    Restarting,
    /// It ran when the host went down, or its supervisor was told to end: neither stopped by command nor ended by itself.
    Interrupted,
    Exited {
        code: i32,
        /// Somebody stopped it by command: a restart policy does not bring it back.
        by_hand: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No check is declared.
    None,
    Starting,
    Healthy,
    Unhealthy,
}

/// One resource as the host has it.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedResource {
    pub phase: Phase,
    /// What it was made from (and updated to).
    pub config: Config,
    /// For containers only.
    pub run: Option<RunState>,
    /// What the host lost of it since: `link gone`, `rule flushed`. Mended by [`Action::Repair`].
    pub drift: Vec<String>,
}

/// All resources of one stack, whole or half made. Images are listed when the store has them under a name that the
/// stack uses; `config.image_digest` of containers and `digests` tell which content.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    pub resources: BTreeMap<ResourceId, ObservedResource>,
    /// Reference → digest of the content that it stands for in the store now.
    pub digests: BTreeMap<String, String>,
    /// Reference → what the image was made from, of those that were built here or came from a file of the host.
    pub made: BTreeMap<String, ImageConfig>,
    /// When it was looked, by the engine's clock, in milliseconds since 1970.
    pub now_ms: u64,
}

/// The condition that a dependent waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It runs, or has run and completed.
    Started,
    /// Its health check passes; where it has none: it runs, or completed with 0.
    Healthy,
    CompletedSuccessfully,
}

/// Something that can be looked at before anything running is touched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The host can give these ports to this container (those it holds itself count as free, as do those of `freed`,
    /// containers that this plan stops first).
    PortsFree { container: Box<ContainerConfig>, freed: Vec<String> },
    /// Sources of bind mounts exist, files of configs and secrets can be read, and devices are devices.
    SourcesReadable { container: Box<ContainerConfig> },
    /// The container's image, which is present by now, knows its user and its groups.
    UserKnown { container: Box<ContainerConfig> },
    /// The container's image, which is present by now, has the program that the container is to run.
    ProgramPresent { container: Box<ContainerConfig> },
    /// The host has what a network is made of that is not a bridge: its parent, its configuration.
    NetworkPossible { network: Box<NetworkConfig> },
    /// A network or volume that somebody else keeps is there.
    External { kind: Kind, name: String },
}

impl Action {
    /// The resource that is acted on; `None` for checks.
    pub fn id(&self) -> Option<&ResourceId> {
        match self {
            Self::Create { id, .. }
            | Self::Update { id, .. }
            | Self::Repair { id, .. }
            | Self::Remove { id, .. }
            | Self::Vacate { id, .. }
            | Self::Start { id, .. }
            | Self::Stop { id, .. }
            | Self::Halt { id, .. }
            | Self::Rename { id, .. }
            | Self::Wait { id, .. } => Some(id),
            Self::Check { .. } => None,
        }
    }
}

/// One effect. Performing it again, or after a crash half way, ends in the same state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Makes it (finishing a half-made one), without starting a container. A container's `image_digest` is set by the
    /// engine to what the image stands for at this moment. An image is pulled or loaded, also when it is there already.
    Create { id: ResourceId, config: Config },
    /// Applies the new configuration. `fields` are the dotted paths that differ; where one of them costs more than
    /// [`Change::InPlace`], the container was stopped by an earlier step and is started by a later one.
    Update { id: ResourceId, config: Config, fields: Vec<String> },
    /// Puts back what the host lost; a container goes on running.
    Repair { id: ResourceId, config: Config },
    /// What is gone already is fine. A container is stopped before, by another step.
    Remove { id: ResourceId, config: Config },
    /// As [`Action::Remove`] of a container, but what it has of the network is kept for its successor: the namespace, with
    /// who else lives in it, addresses, names and ports. It counts as half made from then on. `config` is the
    /// successor's, which has the same name.
    Vacate { id: ResourceId, config: Box<ContainerConfig> },
    /// What runs already is fine.
    Start { id: ResourceId, name: String },
    /// What does not run, or is gone, is fine. Counts as stopped by hand until started again.
    Stop { id: ResourceId, name: String },
    /// As [`Action::Stop`], for who shuts the host down: counts as [`RunState::Interrupted`].
    Halt { id: ResourceId, name: String },
    /// Gives a container another name on the engine, whether it runs or not, so that its successor can be made beside
    /// it. Already renamed is fine. From then on [`ContainerConfig::id`] of what is observed follows the new name.
    Rename { id: ResourceId, from: String, to: String },
    /// Returns when the condition holds; an error when it can no longer hold.
    Wait { id: ResourceId, name: String, condition: Condition },
    /// Looks, changes nothing.
    Check { check: Check },
}

/// What went wrong in one action: what, where, and what to do.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum EngineError {
    #[error("{subject}: {reason}{}", help.as_ref().map(|h| format!("\n  help: {h}")).unwrap_or_default())]
    Failed { subject: String, reason: String, help: Option<String> },
    /// A check found that the action can't work; nothing was changed.
    #[error("{subject}: {reason}{}", help.as_ref().map(|h| format!("\n  help: {h}")).unwrap_or_default())]
    Refused { subject: String, reason: String, help: Option<String> },
}

/// Who can hold a stack: this host, a world in memory, later others.
pub trait Engine: Memory + Send + Sync {
    /// What this engine holds and how it changes; constant.
    fn capabilities(&self) -> &Capabilities;
    /// All resources that carry the stack's label, whole or half made. May be stale, never partial by choice.
    fn observe(&self, stack: &StackName) -> impl Future<Output = Result<Observed, EngineError>> + Send;
    /// Performs one action. Performing it again, or after a crash half way, ends in the same state.
    fn perform(&self, action: &Action) -> impl Future<Output = Result<(), EngineError>> + Send;
    /// "Look again": may be late, lost or repeated; the controller also looks on a timer.
    fn hints(&self, stack: &StackName) -> impl Stream<Item = ()> + Send;
}
