//! What a container is made from, and what is written down about it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::logging::{Log, LogLoss};
use super::probe::Probe;
use crate::runtime::init::spec::Request;
use crate::runtime::outside::Program;

/// All that a container needs, with the image's own wishes mixed in. Kept at `containers/NAME/config.json` below the
/// durable root, so that a restart after a reboot asks nobody; below the volatile root where it goes with its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub name: String,
    /// 64 hexadecimal characters, new for each container.
    pub id: String,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    pub image: String,
    pub image_id: String,
    /// The image's unpacked layers, the lowest first.
    pub layers: Vec<PathBuf>,
    pub request: Request,
    /// `user[:group]`, by name or id, as the container's files know them.
    pub user: String,
    pub groups: Vec<String>,
    /// The control group above the engine's; empty is the topmost one.
    pub cgroup_parent: String,
    /// Who makes its processes; `None`: the engine itself.
    pub runtime: Option<Program>,
    /// A small process 1 in front of the program.
    pub init: bool,
    /// Keep standard input open for a client that attaches.
    pub stdin_open: bool,
    /// It ends with the input of the first client that says so.
    pub stdin_once: bool,
    pub restart: Restart,
    /// The pause before each restart; unset: the back-off.
    pub restart_delay_ms: Option<u64>,
    /// How long a run must last to count as a success; unset: the back-off's own.
    pub restart_window_ms: Option<u64>,
    pub health: Option<HealthCheck>,
    pub on_unhealthy: OnUnhealthy,
    pub on_unhealthy_budget: Option<Budget>,
    /// When those that it replaces were given up because their check failed; milliseconds since 1970.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recreated_ms: Vec<u64>,
    /// A signal's name or number; SIGTERM when empty.
    pub stop_signal: String,
    pub stop_grace_ms: u64,
    pub log: Log,
    pub labels: BTreeMap<String, String>,
    pub removal: Removal,
    /// A process that it belongs to: killed and removed when that one has ended.
    pub owner: Option<ProcessId>,
    /// Why it lives on the host's ids; empty where it does not, and where nobody has asked.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host_ids: String,
    pub declared: Declared,
}

/// What the layer above asked for: its own text, not looked at here.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Declared(Box<RawValue>);

impl Declared {
    /// The value's text.
    ///
    /// # Errors
    /// Where it can't be written as JSON.
    pub fn new(value: &impl Serialize) -> serde_json::Result<Self> {
        to_raw_value(value).map(Self)
    }

    /// The value again.
    ///
    /// # Errors
    /// Where the text is another type's.
    pub fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.0.get())
    }
}

impl Default for Declared {
    fn default() -> Self {
        Self(RawValue::NULL.to_owned())
    }
}

impl PartialEq for Declared {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// Who removes the container when it has ended (`--rm`). One that somebody does goes with the end of the boot, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Removal {
    #[default]
    Nobody,
    /// The process that made it, as long as it lives: it still wants the exit code and the last lines.
    Maker,
    Supervisor,
}

/// What is done about a container whose check fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnUnhealthy {
    #[default]
    None,
    Restart,
    /// Nothing here: who declared it makes another one.
    Recreate,
    /// For good, as by command.
    Stop,
}

/// How often something is done about a container whose check fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    pub max: u32,
    /// In this time; without it since the start by command, or since it was declared so where it is made anew.
    pub within_ms: Option<u64>,
}

/// When an ended container is started again. See docker's `--restart`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    #[default]
    No,
    Always,
    UnlessStopped,
    OnFailure {
        max_retries: Option<u32>,
    },
}

/// How health is found out; docker's meaning of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Instead of a program.
    #[serde(default)]
    pub probe: Option<Probe>,
    pub interval_ms: u64,
    pub timeout_ms: u64,
    pub start_period_ms: u64,
    pub start_interval_ms: u64,
    pub retries: u32,
}

/// `Creating` is durable before the first effect of a create, `Created` after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Creating,
    Created,
}

/// The file `config.json`, format 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    pub phase: Phase,
    pub config: Config,
    /// Who made one that goes with its end.
    #[serde(default)]
    pub maker: ProcessId,
}

impl Record {
    /// Whether the process that made it still sees to its removal.
    pub fn is_attended(&self) -> bool {
        self.config.removal == Removal::Maker && self.maker.is_alive()
    }

    /// Of a container that is made whole.
    pub fn new(config: Config) -> Self {
        Self { version: super::VERSION, phase: Phase::Created, config, maker: ProcessId::default() }
    }
}

/// What one start needs and may change between starts; kept at `containers/NAME/start.json` below the volatile root.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The network namespace to live in; without it the request's own word counts.
    pub netns: Option<PathBuf>,
    /// The host name of the container whose network this one shares.
    #[serde(default)]
    pub hostname: Option<String>,
    /// The text of /etc/hosts and /etc/resolv.conf; empty leaves the image's.
    pub hosts: String,
    pub resolv_conf: String,
    /// Who starts it and attaches to it at once: until then nothing that it writes is read, nor its end noticed.
    #[serde(default)]
    pub awaited: Option<ProcessId>,
}

/// What a container does at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    #[default]
    Created,
    Running,
    Paused,
    Restarting,
    Exited,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// There is no check.
    #[default]
    None,
    Starting,
    Healthy,
    Unhealthy,
}

impl Health {
    /// In docker's words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// A process that can't be mistaken for a later one of the same number: `start` is field 22 of /proc/PID/stat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    pub start: u64,
}

/// How one check of a container's health ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Milliseconds since 1970.
    pub begun_ms: u64,
    pub ended_ms: u64,
    /// -1 where it did not come to an end of its own.
    pub code: i32,
    /// The first 4096 bytes of what it wrote, or why it came to nothing.
    pub output: String,
}

/// What the supervisor writes down at each change; `containers/NAME/status.json` below the volatile root. How a container
/// has ended by itself or by command is at `containers/NAME/ended.json` below the durable root, too: a reboot is no reason
/// to do its work again, nor to start what was stopped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub state: State,
    pub shim: ProcessId,
    /// The first process, while there is one.
    pub process: ProcessId,
    /// Milliseconds since 1970; 0 is never.
    pub started_ms: u64,
    pub finished_ms: u64,
    pub exit_code: i32,
    pub oom_killed: bool,
    /// The pipes that its program writes to, by their numbers in the kernel; 0 is none.
    pub pipes: [u64; 2],
    /// Why the last start failed.
    pub error: Option<String>,
    /// Output that its log has not got.
    pub log_loss: LogLoss,
    /// Ended by command.
    pub by_hand: bool,
    /// Its supervisor was told to end, as when the host goes down, or the host went down with it.
    pub interrupted: bool,
    /// How often the policy started it again.
    pub restarts: u32,
    pub health: Health,
    pub failing_streak: u32,
    /// The last checks, the newest last.
    pub health_log: Vec<Checked>,
    /// When it was started again because its check failed, as far as the budget counts it.
    pub cured_ms: Vec<u64>,
    /// The check fails, and nothing more is done about it.
    pub budget_spent: bool,
    /// Not written down: its supervisor was killed, and another is to take over (`adopt`).
    #[serde(skip)]
    pub abandoned: bool,
}

/// A container as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub phase: Phase,
    pub config: Config,
    pub status: Status,
}
