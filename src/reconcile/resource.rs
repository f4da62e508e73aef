//! The resources that an engine holds, as values: what a stack asks for and what a host has are both made of these.
//!
//! A configuration is compared field by field as its JSON tree, so a field added here is diffed, shown in the plan and
//! kept by the engine without further code. Every map is ordered: the same stack gives the same bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::spec::probe::{Budget, Probe};
use crate::spec::reaction::{Encryption, Reaction};

/// The kinds of resource, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Image,
    Network,
    Volume,
    Container,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::Container => "container",
        })
    }
}

/// Names one resource of a stack: `container/web-1`, `network/back`. The name is the one within the stack.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceId {
    pub kind: Kind,
    pub name: String,
}

impl ResourceId {
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// One resource as it is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Config {
    Image(ImageConfig),
    Network(NetworkConfig),
    Volume(VolumeConfig),
    Container(Box<ContainerConfig>),
}

/// An image that must be in the store before the containers that use it are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The name that containers use, and that the store lists it under.
    pub reference: String,
    pub source: ImageSource,
    pub pull_policy: PullPolicy,
    pub platform: Option<String>,
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// A registry; the digest, where given, is the only content that is accepted.
    Pull {
        reference: String,
        digest: Option<String>,
    },
    /// A docker or OCI archive.
    Archive(HostContent),
    /// A directory, or a tar of one.
    Rootfs(HostContent),
    Builtin(String),
    /// A Dockerfile.
    Build(Box<BuildConfig>),
}

impl ImageSource {
    /// Made from files of this host, whose content counts.
    pub fn is_of_host(&self) -> bool {
        matches!(self, Self::Archive(_) | Self::Rootfs(_) | Self::Build(_))
    }
}

/// A file or directory of the host whose content is the image's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostContent {
    /// Absolute.
    pub path: PathBuf,
    /// Its digest, so that changed content is a change; empty until somebody has looked.
    pub digest: String,
}

/// How an image is built. Paths are absolute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildConfig {
    pub context: PathBuf,
    /// Unset is the usual one in the context.
    pub dockerfile: Option<PathBuf>,
    pub dockerfile_inline: Option<String>,
    pub target: Option<String>,
    pub args: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Further places to take files from, by name.
    pub contexts: BTreeMap<String, BuildContext>,
    /// By the id that steps know them by.
    pub secrets: BTreeMap<String, FileSource>,
    /// `default`, `none` or `host`.
    pub network: Option<String>,
    pub no_cache: bool,
    pub no_cache_filter: Vec<String>,
    /// Ask for newer images to build on, each time.
    pub pull: bool,
    pub extra_hosts: Vec<(String, String)>,
    pub shm_size: Option<u64>,
    pub ulimits: BTreeMap<String, (i64, i64)>,
    /// Further names of the image.
    pub tags: Vec<String>,
    /// What is read of the host, so that changed files are a change.
    pub content: BuildContent,
}

/// Digests of what a build reads; empty until somebody has looked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildContent {
    pub dockerfile: String,
    /// Of the files that the instructions take.
    pub context: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BuildContext {
    Directory(PathBuf),
    /// An image, by its name in the store.
    Image(String),
}

/// When a registry is asked although the image is in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    Always,
    #[default]
    Missing,
    Never,
}

/// A network: one layer-2 segment that containers share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// The name on the engine, `STACK_NAME` unless the file names it.
    pub name: String,
    pub driver: String,
    pub options: BTreeMap<String, String>,
    pub internal: bool,
    /// `false`: it has IPv6 alone.
    #[serde(default = "yes")]
    pub ipv4: bool,
    /// The three of IPv4.
    pub subnet: Option<String>,
    pub ip_range: Option<String>,
    pub gateway: Option<String>,
    /// Whether it has IPv6 too.
    #[serde(default)]
    pub ipv6: bool,
    #[serde(default)]
    pub ipv6_subnet: Option<String>,
    #[serde(default)]
    pub ipv6_range: Option<String>,
    #[serde(default)]
    pub ipv6_gateway: Option<String>,
    /// Addresses of either family that somebody else has, by what they are for.
    #[serde(default)]
    pub aux_addresses: BTreeMap<String, String>,
    /// Containers of no stack may join it, which they always may; kept for who asks.
    #[serde(default)]
    pub attachable: bool,
    /// Made and kept by somebody else: looked for, never made, changed or removed.
    pub external: bool,
    pub labels: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

/// IPv4 alone, in any free subnet.
impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            driver: String::new(),
            options: BTreeMap::new(),
            internal: false,
            ipv4: true,
            subnet: None,
            ip_range: None,
            gateway: None,
            ipv6: false,
            ipv6_subnet: None,
            ipv6_range: None,
            ipv6_gateway: None,
            aux_addresses: BTreeMap::new(),
            attachable: false,
            external: false,
            labels: BTreeMap::new(),
        }
    }
}

/// A volume: a directory that outlives containers. Removed only with consent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeConfig {
    pub name: String,
    pub driver: String,
    pub driver_opts: BTreeMap<String, String>,
    /// Never removed, whatever is consented to, until the file says otherwise.
    pub protect: bool,
    pub external: bool,
    pub labels: BTreeMap<String, String>,
}

/// A container, with everything resolved: no variable, no default of the file format is left open.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// The name on the engine: `{stack}-{service}-{n}` or `container_name`.
    pub name: String,
    /// The name in the file.
    pub service: String,
    /// 1 for the first replica.
    pub number: u32,
    /// The reference of the image, as in [`ImageConfig::reference`].
    pub image: String,
    /// Which content the reference stood for when this was planned or made. Empty in a desired container until the
    /// image is known; then an image that moved is a change like any other.
    pub image_digest: String,
    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub environment: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub user: Option<String>,
    pub group_add: Vec<String>,
    pub working_dir: Option<String>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub tty: bool,
    pub stdin_open: bool,
    pub init: bool,
    pub read_only: bool,
    pub privileged: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub security_opt: Vec<String>,
    /// SHA-256 of the profile that `security_opt` names: changed content is a change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp_content: Option<String>,
    pub devices: Vec<DeviceMapping>,
    pub device_cgroup_rules: Vec<String>,
    pub sysctls: BTreeMap<String, String>,
    pub ulimits: BTreeMap<String, (i64, i64)>,
    pub mounts: Vec<Mount>,
    pub files: Vec<FileMount>,
    pub network: NetworkMode,
    pub ports: Vec<Port>,
    pub expose: Vec<String>,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_opt: Vec<String>,
    pub extra_hosts: Vec<(String, String)>,
    pub pid: NamespaceMode,
    pub ipc: NamespaceMode,
    pub uts_host: bool,
    /// Whose ids it has: `private` or `host`. Where nothing is said the engine chooses; of what is observed it tells what
    /// that was, after [`CHOSEN`].
    pub userns: Option<String>,
    pub cgroup_host: bool,
    /// Who makes its processes, where it is not the engine.
    pub runtime: Option<String>,
    pub restart: Restart,
    /// The pause before a restart; unset: the engine's back-off.
    pub restart_delay_ms: Option<u64>,
    /// How long a start must hold to count as a success; unset: the engine's rule.
    pub restart_window_ms: Option<u64>,
    pub healthcheck: Option<Healthcheck>,
    pub on_unhealthy: OnUnhealthy,
    /// How often at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_unhealthy_budget: Option<Budget>,
    /// When those before it were replaced because their check failed, as far as the budget counts it; milliseconds since
    /// 1970. Never declared: the plan hands it from one container to the next.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recreated_ms: Vec<u64>,
    pub stop_signal: Option<String>,
    pub stop_grace_ms: Option<u64>,
    pub logging: Logging,
    pub resources: Resources,
    pub shm_size: Option<u64>,
    pub oom_score_adj: Option<i32>,
    pub oom_kill_disable: bool,
    pub cgroup_parent: Option<String>,
    /// Containers that run to their end before the start.
    pub pre_start: Vec<Hook>,
    /// Programs that run in it after the start, one after the other.
    pub post_start: Vec<Hook>,
    /// Programs that run in it before it is stopped by command.
    pub pre_stop: Vec<Hook>,
    /// Hashes of single files that are bind-mounted, by target: changed content is a change.
    pub bind_contents: BTreeMap<String, String>,
}

impl ContainerConfig {
    /// The identity of this container within its stack. Every engine derives it by this one rule.
    ///
    /// A container that gives way to its successor (`update: {order: start-first}`) is renamed with
    /// [`RETIRED_SUFFIX`], and is another resource from then on: one that nobody declares.
    pub fn id(&self) -> ResourceId {
        let retired = if self.is_retired() { RETIRED_SUFFIX } else { "" };
        ResourceId::new(Kind::Container, format!("{}-{}{retired}", self.service, self.number))
    }

    /// The file that its filter of system calls is in, where it has one of its own.
    pub fn seccomp_profile(&self) -> Option<PathBuf> {
        let value =
            |option: &String| option.strip_prefix("seccomp=").or(option.strip_prefix("seccomp:")).map(PathBuf::from);
        let named = self.security_opt.iter().filter_map(value).next_back();
        named.filter(|path| !["unconfined", "builtin"].iter().any(|word| path.as_os_str() == *word))
    }

    /// Its successor is being started, or already runs.
    pub fn is_retired(&self) -> bool {
        self.name.ends_with(RETIRED_SUFFIX)
    }
}

/// Begins what an engine has chosen where nothing was said.
pub const CHOSEN: &str = "default: ";

/// What the engine's own runtime is called where one is named; docker's usual one, by containerd's name, is no other.
pub const OWN_RUNTIMES: [&str; 2] = ["stack", "io.containerd.runc.v2"];

/// Ends the name of a container whose successor is being started beside it.
pub const RETIRED_SUFFIX: &str = ".old";

/// A command at a point of a container's life. What is unset is the container's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// Empty: the image's.
    pub command: Vec<String>,
    /// Of another container's, by its name in the store; before a start only.
    pub image: Option<String>,
    pub user: Option<String>,
    pub privileged: bool,
    pub working_dir: Option<String>,
    /// Added to the container's own.
    pub environment: BTreeMap<String, String>,
    /// With each replica instead of the first alone; before a start only.
    pub per_replica: bool,
    /// How long it may take; what takes longer is killed, and has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceMapping {
    pub source: String,
    pub target: String,
    /// `rwm` or fewer of these.
    pub permissions: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    pub target: String,
    pub read_only: bool,
    /// When a single file that is bound changes.
    #[serde(default, skip_serializing_if = "Reaction::is_default")]
    pub on_change: Reaction,
    #[serde(flatten)]
    pub source: MountSource,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum MountSource {
    /// `volume` is the name on the engine, as in [`VolumeConfig::name`]. Without a name: one that lives and dies with
    /// the container.
    Volume {
        volume: Option<String>,
        nocopy: bool,
        subpath: Option<String>,
    },
    Bind {
        source: PathBuf,
        create: bool,
        propagation: Option<String>,
    },
    Tmpfs {
        size: Option<u64>,
        mode: Option<u32>,
        /// Options beside these two, as mount(8) writes them: `exec`, `uid=1000`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        options: Vec<String>,
    },
    /// The files of another image, never to be written.
    Image {
        /// As in [`ImageConfig::reference`].
        image: String,
        /// Which content that stood for, as [`ContainerConfig::image_digest`].
        digest: String,
        subpath: Option<String>,
    },
}

impl ContainerConfig {
    /// What is done when this field changes, where it is the content of a file that the container has.
    pub fn reaction(&self, field: &str) -> Option<&Reaction> {
        if let Some(target) = field.strip_prefix("bind_contents.") {
            return self.mounts.iter().find(|mount| mount.target == target).map(|mount| &mount.on_change);
        }
        let target = field.strip_prefix("files.")?.strip_suffix(".content_hash")?;
        self.files.iter().find(|file| file.target == target).map(|file| &file.on_change)
    }

    /// The images that it mounts, and the content of each.
    pub fn mounted_images_mut(&mut self) -> impl Iterator<Item = (&str, &mut String)> {
        self.mounts.iter_mut().filter_map(|mount| match &mut mount.source {
            MountSource::Image { image, digest, .. } => Some((image.as_str(), digest)),
            _ => None,
        })
    }

    /// The names of the images that it mounts.
    pub fn mounted_images(&self) -> impl Iterator<Item = &str> {
        self.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Image { image, .. } => Some(image.as_str()),
            _ => None,
        })
    }
}

/// A config or a secret: a file whose content the engine puts there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileMount {
    pub name: String,
    pub target: String,
    /// Unset: the container's user.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mode: u32,
    /// Never shown, never in a place that survives a reboot.
    pub secret: bool,
    pub source: FileSource,
    /// A hash of the content, so that changed content is a change. That of a secret an engine makes with a salt of its
    /// own: it tells nobody whether a guess is right.
    pub content_hash: String,
    #[serde(default, skip_serializing_if = "Reaction::is_default")]
    pub on_change: Reaction,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileSource {
    File(PathBuf),
    /// Held in memory only, filled in when acting; skipped when this is written down.
    Content(#[serde(skip)] String),
    /// Decrypted in memory when it is used.
    Encrypted {
        path: PathBuf,
        encryption: Encryption,
        /// The file of identities that decrypt it.
        keys: Option<PathBuf>,
    },
    /// Kept by the engine under this name.
    External(String),
}

/// How a container reaches the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Keyed by the network's name on the engine.
    Networks(BTreeMap<String, Endpoint>),
    None,
    Host,
    /// The namespace of the container with this name on the engine.
    Container(String),
}

impl Default for NetworkMode {
    fn default() -> Self {
        Self::Networks(BTreeMap::new())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    pub aliases: Vec<String>,
    pub ipv4_address: Option<String>,
    #[serde(default)]
    pub ipv6_address: Option<String>,
    /// Further ones, that count on the link alone.
    #[serde(default)]
    pub link_local_ips: Vec<String>,
    pub mac_address: Option<String>,
    pub gw_priority: i64,
    /// Higher is connected earlier, and so has the lower interface number.
    #[serde(default)]
    pub priority: i64,
    pub interface_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    pub host_ip: Option<String>,
    /// 0: any free port.
    pub published: u16,
    pub target: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The host's own firewall is not asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bypass: bool,
}

impl fmt::Display for Port {
    /// As in the file: `127.0.0.1:8080:80/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ip) = &self.host_ip {
            write!(f, "{ip}:")?;
        }
        if self.published != 0 || self.host_ip.is_some() {
            write!(f, "{}:", self.published)?;
        }
        write!(f, "{}/{}", self.target, self.protocol)
    }
}

/// Whose process or IPC namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceMode {
    #[default]
    Private,
    Host,
    Container(String),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnhealthy {
    #[default]
    None,
    Restart,
    /// By the next plan: a new one in its place.
    Recreate,
    /// For good: as if by command.
    Stop,
}

/// Unset fields take the image's value, then Docker's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// As in Compose: `["CMD", …]`, `["CMD-SHELL", …]`, `["NONE"]`; empty takes the image's.
    pub test: Vec<String>,
    /// Asked by the engine itself, instead of a test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    pub interval_ms: Option<u64>,
    pub timeout_ms: Option<u64>,
    pub start_period_ms: Option<u64>,
    pub start_interval_ms: Option<u64>,
    pub retries: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Logging {
    pub driver: Option<String>,
    pub options: BTreeMap<String, String>,
}

/// Limits. Bytes, nanosecond CPUs (1 CPU = 1,000,000,000), counts; unset means unlimited or the engine's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    pub memory: Option<u64>,
    pub memory_reservation: Option<u64>,
    /// Memory plus swap; -1 is unlimited.
    pub memory_swap: Option<i64>,
    pub nano_cpus: Option<u64>,
    pub cpu_shares: Option<u64>,
    pub cpuset: Option<String>,
    pub pids: Option<i64>,
    /// 0-100.
    #[serde(default)]
    pub memory_swappiness: Option<u8>,
    #[serde(default)]
    pub cpu_quota_us: Option<i64>,
    #[serde(default)]
    pub cpu_period_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuset_mems: Option<String>,
    /// 10-1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blkio_weight: Option<u16>,
}

/// The labels that make a resource ours. Compose's own are written too: other tools key on them.
pub mod label {
    /// What all of them begin with.
    pub const PREFIX: &str = "com.docker.compose.";
    pub const STACK: &str = "com.docker.compose.project";
    pub const SERVICE: &str = "com.docker.compose.service";
    pub const NUMBER: &str = "com.docker.compose.container-number";
    pub const NETWORK: &str = "com.docker.compose.network";
    pub const VOLUME: &str = "com.docker.compose.volume";
    pub const ONEOFF: &str = "com.docker.compose.oneoff";
    pub const CONFIG_HASH: &str = "com.docker.compose.config-hash";
    pub const WORKING_DIR: &str = "com.docker.compose.project.working_dir";
    pub const CONFIG_FILES: &str = "com.docker.compose.project.config_files";
    /// `db:service_healthy:false,cache:service_started:true`: service, condition, restart; a fourth word `optional`, which
    /// is ours alone, where the dependent starts without it.
    pub const DEPENDS_ON: &str = "com.docker.compose.depends_on";
}
