//! The types of one container (Compose: service) of a stack.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::Serialize;

use super::probe::{Budget, Probe};
use super::reaction::Reaction;
use super::stack::Image;

/// One declared container, possibly with several replicas.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Container {
    pub image: Image,
    pub pull_policy: PullPolicy,
    /// `os/architecture[/variant]`.
    pub platform: Option<String>,
    /// `None` = the image's. `Some([])` = cleared.
    pub command: Option<Vec<String>>,
    /// `None` = the image's. `Some([])` = cleared. When set, the image's command is not used (Docker's rule).
    pub entrypoint: Option<Vec<String>>,
    /// `env_file` merged below `environment`; names without a value are already taken from the caller's environment,
    /// and absent when unset there.
    pub environment: BTreeMap<String, String>,
    /// `uid|name[:gid|name]`.
    pub user: Option<String>,
    pub group_add: Vec<String>,
    pub working_dir: Option<String>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    /// A fixed name on the host instead of `{stack}-{container}-{n}`.
    pub container_name: Option<String>,
    /// Number of copies: `replicas` (native), `scale` or `deploy.replicas`. 0 is allowed.
    pub replicas: u32,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub profiles: Vec<String>,
    /// Includes what `links`, `volumes_from`, `network_mode: service:` and the like imply.
    pub depends_on: BTreeMap<String, Dependency>,

    pub ports: Vec<Port>,
    /// Ours: what the host's own firewall has to say on `ports`.
    #[serde(skip_serializing_if = "Publish::is_default")]
    pub publish: Publish,
    pub expose: Vec<ExposedPort>,
    pub network_mode: NetworkMode,
    /// Networks to join (keys of `Stack::networks`); empty unless `network_mode` is [`NetworkMode::Bridge`].
    pub networks: BTreeMap<String, NetworkAttachment>,
    pub mac_address: Option<String>,
    pub links: Vec<Link>,
    pub external_links: Vec<String>,
    pub dns: Vec<IpAddr>,
    pub dns_search: Vec<String>,
    pub dns_opt: Vec<String>,
    pub extra_hosts: BTreeMap<String, Vec<HostAddress>>,

    /// `volumes` and `tmpfs`, in the order written.
    pub mounts: Vec<Mount>,
    pub volumes_from: Vec<VolumesFrom>,
    pub configs: Vec<FileGrant>,
    pub secrets: Vec<FileGrant>,
    pub devices: Vec<Device>,
    pub device_cgroup_rules: Vec<String>,
    pub shm_size_bytes: Option<u64>,
    pub storage_opt: BTreeMap<String, String>,
    pub read_only: bool,

    pub restart: Restart,
    pub healthcheck: Option<Healthcheck>,
    pub stop_signal: Option<String>,
    pub stop_grace_period_ms: Option<u64>,
    pub init: Option<bool>,
    pub tty: bool,
    pub stdin_open: bool,
    pub attach: bool,
    pub logging: Option<Logging>,
    pub pre_start: Vec<Hook>,
    pub post_start: Vec<Hook>,
    pub pre_stop: Vec<Hook>,

    /// Effective limits: the flat keys (`mem_limit`, `cpus`, …) and `deploy.resources` are one here.
    pub resources: Resources,
    pub ulimits: BTreeMap<String, Ulimit>,
    pub sysctls: BTreeMap<String, String>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub privileged: bool,
    pub security_opt: Vec<SecurityOption>,
    pub pid: Option<NamespaceMode>,
    pub ipc: Option<NamespaceMode>,
    pub uts: Option<NamespaceMode>,
    pub cgroup: Option<NamespaceMode>,
    pub userns_mode: Option<UsersMode>,
    pub cgroup_parent: Option<String>,
    /// Name of an external OCI runtime; `None` = our own.
    pub runtime: Option<String>,
    pub gpus: Vec<DeviceRequest>,

    pub deploy: Deploy,
    /// Effective update rule: `update` (native) or `deploy.update_config`.
    pub update: UpdateConfig,
}

impl Default for Image {
    fn default() -> Self {
        let source = super::stack::ImageSource::Pull { reference: String::new(), digest: None };
        Self { reference: String::new(), source }
    }
}

/// When to look for the image in its registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    Always,
    Never,
    /// Only when it is not in the store.
    #[default]
    Missing,
    /// Build it, also when it is in the store.
    Build,
    /// When the copy in the store is older than this.
    Every {
        interval_ms: u64,
    },
}

/// What a dependent waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dependency {
    pub condition: Condition,
    /// Restart the dependent when an apply recreates or restarts the dependency.
    pub restart: bool,
    /// `false`: the dependent starts even when the dependency is not active (its profiles are not) or fails.
    pub required: bool,
}

impl Default for Dependency {
    fn default() -> Self {
        Self { condition: Condition::Started, restart: false, required: true }
    }
}

/// State of a dependency that lets its dependents start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    Started,
    Healthy,
    CompletedSuccessfully,
}

/// One container port that is published. Ranges of container ports are expanded: one value a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Port {
    /// Address to listen on. `None` = all addresses (Compose's default); the native format's default is 127.0.0.1.
    pub host_ip: Option<IpAddr>,
    /// Host port. `None` = the engine chooses; a range of more than one = the engine chooses one in it.
    pub published: Option<PortRange>,
    pub target: u16,
    pub protocol: Protocol,
    pub mode: PortMode,
    pub app_protocol: Option<String>,
    pub name: Option<String>,
}

impl Port {
    /// What the host is asked for: `127.0.0.1:8080/tcp`.
    pub fn place(&self) -> String {
        let address = match self.host_ip {
            Some(IpAddr::V6(ip)) => format!("[{ip}]:"),
            Some(IpAddr::V4(ip)) => format!("{ip}:"),
            None => String::new(),
        };
        let published = self.published.map_or_else(|| "any".to_owned(), |range| range.to_string());
        format!("{address}{published}/{}", self.protocol)
    }
}

/// Whether the host's own firewall is asked who may reach a published port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Publish {
    /// What it drops of what is for the host itself, it drops of what is for the port.
    #[default]
    Obey,
    /// It is not asked, as with Docker.
    Bypass,
}

impl Publish {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// An inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PortRange {
    pub start: u16,
    pub end: u16,
}

impl PortRange {
    pub fn is_single(self) -> bool {
        self.start == self.end
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_single() { write!(f, "{}", self.start) } else { write!(f, "{}-{}", self.start, self.end) }
    }
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// Compose's `mode` of a port; the same thing on one host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PortMode {
    #[default]
    Ingress,
    Host,
}

/// A port (or range) that containers of the same networks may use; documentation only, nothing is blocked without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ExposedPort {
    pub ports: PortRange,
    pub protocol: Protocol,
}

/// Which network namespace the container lives in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// Its own, joined to `Container::networks`.
    #[default]
    Bridge,
    /// Its own, with loopback only.
    None,
    Host,
    /// That of a container by its name on the host.
    Container(String),
    /// That of another container of this stack.
    Service(String),
}

/// How a container joins one network.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NetworkAttachment {
    pub aliases: Vec<String>,
    pub ipv4_address: Option<Ipv4Addr>,
    pub ipv6_address: Option<Ipv6Addr>,
    pub link_local_ips: Vec<IpAddr>,
    pub mac_address: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    /// Higher = connected earlier.
    pub priority: i64,
    /// Highest = supplies the default route.
    pub gw_priority: i64,
    pub interface_name: Option<String>,
}

/// `links: ["container:alias"]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    pub container: String,
    pub alias: String,
}

/// The address side of `extra_hosts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostAddress {
    Ip(IpAddr),
    /// The host as seen from the container.
    HostGateway,
}

/// One mount, from `volumes` (short and long syntax) or `tmpfs`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mount {
    /// Absolute path in the container.
    pub target: String,
    pub read_only: bool,
    /// Ours: when a single file that is bound changes.
    #[serde(skip_serializing_if = "Reaction::is_default")]
    pub on_change: Reaction,
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    Volume {
        /// Key of `Stack::volumes`; `None` = anonymous.
        name: Option<String>,
        /// Do not fill an empty volume from the image.
        nocopy: bool,
        subpath: Option<String>,
        labels: BTreeMap<String, String>,
    },
    Bind {
        /// Absolute path on the host.
        source: PathBuf,
        /// Make a directory when the source is missing (in Compose files unless they say no, in ours where they say so);
        /// otherwise a missing source is an error.
        create_host_path: bool,
        propagation: Propagation,
        recursive: BindRecursive,
        selinux: Option<SelinuxLabel>,
    },
    Tmpfs {
        size_bytes: Option<u64>,
        /// Permission bits.
        mode: Option<u32>,
        /// Other mount options as written: `noexec`, `uid=1000`, …
        options: Vec<String>,
    },
    /// An image as a read-only file system.
    Image { reference: String, subpath: Option<String> },
}

/// mount(8)'s shared-subtree modes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    Private,
    #[default]
    Rprivate,
    Shared,
    Rshared,
    Slave,
    Rslave,
}

/// How mounts below a bind source are treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BindRecursive {
    #[default]
    Enabled,
    Disabled,
    Writable,
    Readonly,
}

/// `z` / `Z` of the short mount syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SelinuxLabel {
    Shared,
    Private,
}

/// `volumes_from`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumesFrom {
    pub source: ContainerReference,
    pub read_only: bool,
}

/// Another container: of this stack, or any by its name on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerReference {
    Service(String),
    Container(String),
}

/// A config or secret that a container (or build) sees as a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileGrant {
    /// Key of `Stack::configs` or `Stack::secrets`.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Ours; unset is what the config or secret itself says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_change: Option<Reaction>,
}

/// A host device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    pub source: PathBuf,
    pub target: String,
    /// Letters of `rwm`.
    pub permissions: String,
}

/// `gpus` and `deploy.resources.reservations.devices`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DeviceRequest {
    pub driver: Option<String>,
    /// `None` = all.
    pub count: Option<u64>,
    pub device_ids: Vec<String>,
    pub capabilities: Vec<String>,
    pub options: BTreeMap<String, String>,
}

/// What happens when a container exits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Restart {
    pub policy: RestartPolicy,
    /// From `deploy.restart_policy`: pause before a restart; `None` = the engine's back-off.
    pub delay_ms: Option<u64>,
    /// From `deploy.restart_policy`: time up after which a start counts as a success.
    pub window_ms: Option<u64>,
}

/// Docker's restart policies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    #[default]
    No,
    Always,
    OnFailure {
        max_retries: Option<u32>,
    },
    UnlessStopped,
}

impl std::fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::Always => f.write_str("always"),
            Self::OnFailure { max_retries: None } => f.write_str("on-failure"),
            Self::OnFailure { max_retries: Some(count) } => write!(f, "on-failure:{count}"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

/// How health is probed. `None` fields: the image's value, then Docker's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Healthcheck {
    pub test: HealthTest,
    pub interval_ms: Option<u64>,
    pub timeout_ms: Option<u64>,
    pub retries: Option<u32>,
    pub start_period_ms: Option<u64>,
    pub start_interval_ms: Option<u64>,
    /// Our word: what to do about a container that turned unhealthy.
    pub on_failure: HealthAction,
    /// How often at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure_budget: Option<Budget>,
}

/// The probe itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthTest {
    #[default]
    FromImage,
    Disabled,
    Exec(Vec<String>),
    /// Run by the image's shell (`/bin/sh -c`).
    Shell(String),
    /// Asked by the engine, with nothing of the image.
    Probe(Probe),
}

/// What happens to an unhealthy container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthAction {
    /// It is only reported.
    #[default]
    None,
    Restart,
    /// A new one is made in its place, by who watches or applies next.
    Recreate,
    /// Stop it; the restart policy then does not apply.
    Stop,
}

/// Where output goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Logging {
    pub driver: Option<String>,
    pub options: BTreeMap<String, String>,
}

/// A command that runs at a point of a container's life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Hook {
    pub command: Option<Vec<String>>,
    /// `pre_start` only: an image of its own.
    pub image: Option<String>,
    pub user: Option<String>,
    pub privileged: bool,
    pub working_dir: Option<String>,
    pub environment: BTreeMap<String, String>,
    /// `pre_start` only: once a replica instead of once a container.
    pub per_replica: bool,
    /// Ours: how long it may take before it is killed and has failed.
    pub timeout_ms: Option<u64>,
}

/// A number of something, or no limit (`-1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    Unlimited,
    Of(u64),
}

/// A resource limit of setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ulimit {
    pub soft: Limit,
    pub hard: Limit,
}

/// Limits enforced by cgroups and the OOM killer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Resources {
    pub memory_bytes: Option<u64>,
    pub memory_reservation_bytes: Option<u64>,
    /// Memory plus swap, Docker's meaning.
    pub memory_swap_bytes: Option<Limit>,
    /// 0–100.
    pub memory_swappiness: Option<u8>,
    /// Billionths of a CPU.
    pub nano_cpus: Option<u64>,
    /// Billionths of a CPU.
    pub nano_cpus_reservation: Option<u64>,
    pub cpu_shares: Option<u64>,
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    /// `0-3,5`.
    pub cpuset: Option<String>,
    pub pids: Option<Limit>,
    /// -1000–1000.
    pub oom_score_adj: Option<i16>,
    pub oom_kill_disable: bool,
}

/// `security_opt`, one entry each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityOption {
    NoNewPrivileges(bool),
    /// `None` = unconfined. Absolute path of a profile, or the word `builtin`.
    Seccomp(Option<String>),
    /// A profile name or `unconfined`.
    Apparmor(String),
    /// SELinux `label=…`, the part after the `=`.
    Label(String),
    /// `systempaths=unconfined`.
    SystemPathsUnconfined,
    /// `writable-cgroups=…`.
    WritableCgroups(bool),
}

/// `pid`, `ipc`, `uts`, `cgroup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceMode {
    Private,
    Host,
    /// `ipc` only: others may join it.
    Shareable,
    /// `ipc` only: private without /dev/shm.
    None,
    Service(String),
    Container(String),
}

/// `userns_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UsersMode {
    Host,
    /// A user namespace of its own, with ids that nobody else has. Also `auto`.
    Private,
}

/// `deploy`, as far as one host has a meaning for it. Resources, replicas and restart are folded into [`Container`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Deploy {
    pub mode: DeployMode,
    pub endpoint_mode: Option<String>,
    /// Labels of the service object (Swarm), not of its containers.
    pub labels: BTreeMap<String, String>,
    pub update_config: Option<UpdateConfig>,
    pub rollback_config: Option<UpdateConfig>,
    pub placement: Placement,
    pub reserved_devices: Vec<DeviceRequest>,
}

/// `deploy.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeployMode {
    #[default]
    Replicated,
    Global,
    ReplicatedJob,
    GlobalJob,
}

/// `deploy.placement`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Placement {
    pub constraints: Vec<String>,
    /// Each the `spread` descriptor.
    pub preferences: Vec<String>,
    pub max_replicas_per_node: Option<u64>,
}

/// How a replaced container gives way to its successor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UpdateConfig {
    pub order: UpdateOrder,
    /// Replicas replaced at once. `None` = 1; 0 = all.
    pub parallelism: Option<u32>,
    pub delay_ms: Option<u64>,
    pub failure_action: FailureAction,
    pub monitor_ms: Option<u64>,
    /// Millionths.
    pub max_failure_ratio_millionths: Option<u32>,
}

/// Which of the two runs alone for a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    #[default]
    StopFirst,
    StartFirst,
}

/// `failure_action` of an update.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureAction {
    #[default]
    Pause,
    Continue,
    Rollback,
}
