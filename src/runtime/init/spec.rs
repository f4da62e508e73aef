//! From what a container is asked to be to an OCI runtime specification: a pure function, so that every default that
//! protects the host can be read and tested as data.
//!
//! The defaults are stricter than usual ones where common images still run; each has a field that lifts it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxSeccomp, Spec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::runtime::cgroup::DEFAULT_PROCESSES;
use crate::runtime::userns::IdRange;

/// What a container is asked to be, with the image's own wishes already mixed in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    pub args: Vec<String>,
    /// `KEY=VALUE`; an entry without `=` is dropped, it never takes the engine's own value.
    pub env: Vec<String>,
    pub cwd: String,
    pub hostname: String,
    pub domainname: String,
    pub terminal: bool,
    pub read_only: bool,
    pub privileged: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub no_new_privileges: bool,
    pub seccomp_unconfined: bool,
    /// Its own filter of system calls, instead of the engine's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<LinuxSeccomp>,
    pub systempaths_unconfined: bool,
    /// The AppArmor profile; unset it is the host's default, but for who is privileged.
    pub apparmor: Option<String>,
    /// Which profile containers have on this host that name none.
    #[serde(skip)]
    pub default_profile: Option<String>,
    /// What this host shows of itself below /proc and /sys and others do not, to be masked like what all show.
    #[serde(skip)]
    pub hidden: Vec<PathBuf>,
    /// How many ids the engine itself has, where these are not all of the host's.
    #[serde(skip)]
    pub engine_ids: Option<u32>,
    /// Name without `RLIMIT_` in lower case → soft and hard.
    pub ulimits: BTreeMap<String, (i64, i64)>,
    pub mounts: Vec<Mount>,
    pub sysctls: BTreeMap<String, String>,
    pub devices: Vec<Device>,
    /// Further rules of which devices may be opened, as docker writes them: `c 1:3 mr`.
    pub device_rules: Vec<String>,
    /// For whoever reads the specification.
    pub annotations: BTreeMap<String, String>,
    pub network: Namespace,
    /// The network namespace is another container's: its settings are not this one's to make.
    pub network_shared: bool,
    pub pid: Namespace,
    pub ipc: Namespace,
    pub uts_host: bool,
    /// The ids of the host that a user namespace of the container's own has; without it the host's is the container's.
    pub users: Option<IdRange>,
    pub limits: Limits,
    /// Bytes of /dev/shm; 64 MiB when unset.
    pub shm_size: Option<u64>,
    pub oom_score_adj: Option<i32>,
}

impl Request {
    /// Has this host name from now on, where its own is told as well.
    pub fn take_hostname(&mut self, hostname: &str) {
        let own = format!("HOSTNAME={}", self.hostname);
        if let Some(entry) = self.env.iter_mut().find(|entry| **entry == own) {
            *entry = format!("HOSTNAME={hostname}");
        }
        hostname.clone_into(&mut self.hostname);
    }
}

/// One mount of the container, after those that every container has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    pub target: PathBuf,
    pub read_only: bool,
    #[serde(flatten)]
    pub source: MountSource,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum MountSource {
    Bind {
        source: PathBuf,
        /// mount(8)'s word for how mounts below are shared; `rprivate` when unset.
        #[serde(default)]
        propagation: Option<String>,
        /// In a user namespace: the ids on the disk are the container's. Not so for what was made for this container
        /// with ids of the host.
        #[serde(default)]
        mapped: bool,
    },
    Tmpfs {
        size: Option<u64>,
        mode: Option<u32>,
        /// Others, in mount(8)'s words; `exec`, `suid` and `dev` lift what is forbidden otherwise.
        #[serde(default)]
        options: Vec<String>,
    },
    /// The files of another image, never to be written.
    Image {
        /// The digest of its configuration.
        id: String,
        /// Its unpacked layers, the lowest first.
        layers: Vec<PathBuf>,
        subpath: Option<PathBuf>,
    },
}

/// A device node of the host, given to the container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// The node on the host.
    #[serde(default)]
    pub source: PathBuf,
    pub path: PathBuf,
    /// `c` or `b`.
    pub kind: char,
    pub major: i64,
    pub minor: i64,
    /// Of `rwm`.
    pub access: String,
    /// Permissions and owner of the node; everybody's where they are not known.
    #[serde(default)]
    pub mode: Option<u32>,
    #[serde(default)]
    pub uid: u32,
    #[serde(default)]
    pub gid: u32,
}

/// Whose namespace the container lives in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    #[default]
    New,
    Host,
    Path(PathBuf),
    /// Of the container with this name, as it is when this one starts.
    Container(String),
}

/// Bytes, nanosecond CPUs, counts. Unset is unlimited, but for `pids`: 4096.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    pub memory: Option<u64>,
    pub memory_reservation: Option<u64>,
    /// Memory and swap together; -1 is unlimited.
    pub memory_swap: Option<i64>,
    pub nano_cpus: Option<u64>,
    /// Microseconds of run time in each period, where `nano_cpus` does not say it; -1 is unlimited.
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub cpu_shares: Option<u64>,
    pub cpuset: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset_mems: Option<String>,
    /// 10 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blkio_weight: Option<u16>,
    pub pids: Option<i64>,
    /// 0 to 100; version 1 alone.
    pub memory_swappiness: Option<u8>,
    /// Processes wait for memory instead of being killed; version 1 alone.
    pub oom_kill_disable: bool,
}

/// The capabilities of a container that asks for none: Docker's without NET_RAW, MKNOD and AUDIT_WRITE.
pub const DEFAULT_CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// All that Linux 5.9 and later know, by number.
pub const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const MASKED_SYS: &str = "/sys/devices/virtual/powercap";
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// No limit, to setrlimit(2).
const INFINITE: i64 = -1;
const MIB: i64 = 1 << 20;

/// Soft and hard limit of each resource, for a container that asks for none. They are the kernel's own of process 1, as
/// Linux 5.16 and later have them, but for files, of which a program may want many, and dumps, which fill a disk.
/// Processes are counted by the control group.
const DEFAULT_RLIMITS: [(&str, (i64, i64)); 16] = [
    ("as", (INFINITE, INFINITE)),
    ("core", (0, 0)),
    ("cpu", (INFINITE, INFINITE)),
    ("data", (INFINITE, INFINITE)),
    ("fsize", (INFINITE, INFINITE)),
    ("locks", (INFINITE, INFINITE)),
    ("memlock", (8 * MIB, 8 * MIB)),
    ("msgqueue", (819_200, 819_200)),
    ("nice", (0, 0)),
    ("nofile", (65_536, 1_048_576)),
    ("nproc", (INFINITE, INFINITE)),
    ("rss", (INFINITE, INFINITE)),
    ("rtprio", (0, 0)),
    ("rttime", (INFINITE, INFINITE)),
    ("sigpending", (65_536, 65_536)),
    ("stack", (8 * MIB, INFINITE)),
];

/// Why a request can't become a specification.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BuildError {
    #[error("unknown capability {0:?}")]
    Capability(String),
    #[error("unknown resource limit {0:?}")]
    Ulimit(String),
    #[error("device rule {0:?}: expected a kind, numbers and access, such as `c 1:3 mr` or `b 8:* r`")]
    DeviceRule(String),
    #[error("`pid: host` needs root: in a user namespace the host's processes are not shown")]
    HostProcesses,
    #[error("the specification is not valid: {0}")]
    Spec(String),
}

/// The specification that [`super::launch`] executes.
///
/// # Errors
/// Where a capability or limit has a name that Linux does not know.
pub fn build(request: &Request) -> Result<Spec, BuildError> {
    let capabilities = capabilities(request)?;
    if request.engine_ids.is_some() && request.pid == Namespace::Host {
        return Err(BuildError::HostProcesses);
    }
    let tree = json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": request.terminal,
            "user": {"uid": 0, "gid": 0},
            "args": request.args,
            "env": request.env.iter().filter(|entry| entry.contains('=')).collect::<Vec<_>>(),
            "cwd": if request.cwd.is_empty() { "/" } else { &request.cwd },
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                             "inheritable": [], "ambient": []},
            "rlimits": rlimits(request)?,
            "noNewPrivileges": request.no_new_privileges,
            "apparmorProfile": profile(request),
            "oomScoreAdj": request.oom_score_adj.unwrap_or(0),
        },
        "root": {"path": "rootfs", "readonly": request.read_only},
        "hostname": request.hostname,
        "domainname": request.domainname,
        "mounts": mounts(request),
        "annotations": annotations(request),
        "linux": {
            "namespaces": namespaces(request),
            "uidMappings": id_mappings(request),
            "gidMappings": id_mappings(request),
            "sysctl": sysctls(request),
            "devices": devices(request),
            "resources": with_devices(resources(&request.limits), request)?,
            "seccomp": request.seccomp,
            "maskedPaths": masked_paths(request),
            "readonlyPaths": if unmasked(request) { &[][..] } else { &READONLY_PATHS[..] },
        },
    });
    serde_json::from_value(tree).map_err(|error| BuildError::Spec(error.to_string()))
}

/// Marks a container without a system call filter. The engine's own is built from the capabilities when the process is
/// made, and is not part of the specification's text.
pub const UNCONFINED: &str = "stack.seccomp.unconfined";

fn annotations(request: &Request) -> BTreeMap<String, String> {
    let mut annotations = request.annotations.clone();
    // Whoever may write annotations does not switch the filter off by one.
    annotations.remove(UNCONFINED);
    if request.seccomp.is_none() && (request.seccomp_unconfined || request.privileged) {
        annotations.insert(UNCONFINED.to_owned(), "true".to_owned());
    }
    annotations
}

/// Whether processes of this container get the system call filter.
pub fn is_confined(spec: &Spec) -> bool {
    !spec.annotations().as_ref().is_some_and(|notes| notes.contains_key(UNCONFINED))
}

fn profile(request: &Request) -> Option<&str> {
    let default = request.default_profile.as_deref().filter(|_| !request.privileged);
    request.apparmor.as_deref().or(default)
}

/// Whether processes of this container may look into others that they see, whoever those are.
pub fn may_trace(request: &Request) -> bool {
    capabilities(request).is_ok_and(|all| all.contains("CAP_SYS_PTRACE"))
}

fn unmasked(request: &Request) -> bool {
    request.privileged || request.systempaths_unconfined
}

fn masked_paths(request: &Request) -> Vec<&Path> {
    if unmasked(request) {
        return Vec::new();
    }
    let always = MASKED_PATHS.into_iter().chain([MASKED_SYS]).map(Path::new);
    always.chain(request.hidden.iter().map(PathBuf::as_path)).collect()
}

/// `net_admin`, `NET_ADMIN` and `CAP_NET_ADMIN` are one.
fn capability(name: &str) -> Result<String, BuildError> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    if ALL_CAPABILITIES.contains(&full.as_str()) { Ok(full) } else { Err(BuildError::Capability(name.to_owned())) }
}

/// Those that its processes may ever have.
///
/// # Errors
/// Where one has a name that Linux does not know.
pub fn capabilities(request: &Request) -> Result<BTreeSet<String>, BuildError> {
    let is_all = |name: &String| name.eq_ignore_ascii_case("all");
    let named = |names: &[String]| {
        names.iter().filter(|n| !is_all(n)).map(|n| capability(n)).collect::<Result<BTreeSet<_>, _>>()
    };
    let all = || ALL_CAPABILITIES.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    if request.privileged {
        return Ok(all());
    }
    let base = if request.cap_add.iter().any(is_all) {
        all()
    } else if request.cap_drop.iter().any(is_all) {
        BTreeSet::new()
    } else {
        DEFAULT_CAPABILITIES.iter().map(|name| (*name).to_owned()).collect()
    };
    let kept: BTreeSet<_> = base.difference(&named(&request.cap_drop)?).cloned().collect();
    Ok(kept.union(&named(&request.cap_add)?).cloned().collect())
}

/// Fixed whatever started the engine, so that a container runs the same from a shell, from boot and from cron.
fn rlimits(request: &Request) -> Result<Vec<Value>, BuildError> {
    let mut limits = DEFAULT_RLIMITS.to_vec();
    for (name, limit) in &request.ulimits {
        let known = limits.iter_mut().find(|(known, _)| known == name);
        known.ok_or_else(|| BuildError::Ulimit(name.clone()))?.1 = *limit;
    }
    let entry = |(name, (soft, hard)): (&str, (i64, i64))| json!({"type": format!("RLIMIT_{}", name.to_ascii_uppercase()), "soft": soft as u64, "hard": hard as u64});
    Ok(limits.into_iter().map(entry).collect())
}

fn namespaces(request: &Request) -> Vec<Value> {
    let one = |kind: &str, namespace: &Namespace| match namespace {
        // One that is another container's has a path by the time it counts.
        Namespace::New | Namespace::Container(_) => Some(json!({"type": kind})),
        Namespace::Host => None,
        Namespace::Path(path) => Some(json!({"type": kind, "path": path})),
    };
    let uts = (!request.uts_host).then(|| json!({"type": "uts"}));
    let user = request.users.map(|_| json!({"type": "user"}));
    let always = ["mount", "cgroup"].map(|kind| json!({"type": kind}));
    [one("network", &request.network), one("ipc", &request.ipc), one("pid", &request.pid), uts, user]
        .into_iter()
        .flatten()
        .chain(always)
        .collect()
}

fn id_mappings(request: &Request) -> Vec<Value> {
    let mapping = |ids: IdRange| json!({"containerID": 0, "hostID": ids.first, "size": ids.size});
    request.users.into_iter().map(mapping).collect()
}

/// Ping and low ports without a capability, where the network namespace is the container's own.
fn sysctls(request: &Request) -> BTreeMap<String, String> {
    let own = request.network != Namespace::Host && !request.network_shared;
    let ids = request.users.map(|ids| ids.size).or(request.engine_ids);
    let largest = ids.map_or(i32::MAX as u32, |size| size.saturating_sub(1));
    let ours = [
        ("net.ipv4.ping_group_range", format!("0 {largest}")),
        ("net.ipv4.ip_unprivileged_port_start", "0".to_owned()),
    ];
    let defaults = ours.into_iter().filter(|_| own).map(|(key, value)| (key.to_owned(), value));
    defaults.chain(request.sysctls.clone()).collect()
}

/// Which devices may be opened: those that every container has, terminals, and those that it was given. Making nodes is
/// left to the capability.
fn with_devices(mut resources: Value, request: &Request) -> Result<Value, BuildError> {
    let any = json!({"allow": request.privileged, "access": "rwm"});
    let rule = |kind: char, major: i64, minor: Option<i64>, access: &str| json!({"allow": true, "type": kind.to_string(), "major": major, "minor": minor, "access": access});
    let every = ['c', 'b'].map(|kind| json!({"allow": true, "type": kind.to_string(), "access": "m"}));
    let common = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];
    let common = common.map(|(major, minor)| rule('c', major, Some(minor), "rwm"));
    let given = request.devices.iter().map(|one| rule(one.kind, one.major, Some(one.minor), &one.access));
    let rules = every.into_iter().chain(common).chain([rule('c', 136, None, "rwm")]).chain(given);
    let more = request.device_rules.iter().map(|text| device_rule(text)).collect::<Result<Vec<_>, _>>()?;
    resources["devices"] = [any].into_iter().chain(rules.chain(more).filter(|_| !request.privileged)).collect();
    Ok(resources)
}

/// `c 1:3 mr`: kind, numbers or `*`, access.
fn device_rule(text: &str) -> Result<Value, BuildError> {
    let wrong = || BuildError::DeviceRule(text.to_owned());
    let [kind @ ("a" | "b" | "c"), numbers, access] = text.split_whitespace().collect::<Vec<_>>()[..] else {
        return Err(wrong());
    };
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits => digits.parse::<u32>().map(Some).map_err(|_| wrong()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(wrong)?;
    let (major, minor) = (number(major)?, number(minor)?);
    if access.is_empty() || !access.chars().all(|letter| "rwm".contains(letter)) {
        return Err(wrong());
    }
    Ok(json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": access}))
}

/// In a user namespace nobody may make nodes: the host's own are mounted there.
fn devices(request: &Request) -> Vec<Value> {
    if request.users.is_some() { Vec::new() } else { request.devices.iter().map(device).collect() }
}

fn device(device: &Device) -> Value {
    json!({"path": device.path, "type": device.kind.to_string(), "major": device.major, "minor": device.minor,
           "fileMode": device.mode.unwrap_or(0o666), "uid": device.uid, "gid": device.gid})
}

/// The limits in the specification's words. A CPU is 100,000 µs of quota in 100,000 µs.
pub fn resources(limits: &Limits) -> Value {
    let quota = limits.nano_cpus.map(|cpus| (cpus / 10_000) as i64);
    let (quota, period) = match quota {
        Some(quota) => (Some(quota), Some(100_000)),
        None if limits.cpu_quota_us.is_some() => (limits.cpu_quota_us, Some(limits.cpu_period_us.unwrap_or(100_000))),
        None => (None, limits.cpu_period_us),
    };
    json!({
        "memory": {"limit": limits.memory.map(|bytes| bytes as i64),
                   "reservation": limits.memory_reservation.map(|bytes| bytes as i64),
                   "swap": limits.memory_swap.or(limits.memory.map(|bytes| 2 * bytes as i64)),
                   "swappiness": limits.memory_swappiness,
                   "disableOOMKiller": limits.oom_kill_disable.then_some(true)},
        "cpu": {"shares": limits.cpu_shares, "quota": quota, "period": period,
                "cpus": limits.cpuset, "mems": limits.cpuset_mems},
        "blockIO": limits.blkio_weight.map(|weight| json!({"weight": weight})),
        "pids": {"limit": limits.pids.unwrap_or(DEFAULT_PROCESSES)},
    })
}

fn mounts(request: &Request) -> Vec<Value> {
    let shm = format!("size={}", request.shm_size.unwrap_or(64 << 20));
    let sysfs: &[&str] =
        if request.privileged { &["nosuid", "noexec", "nodev"] } else { &["nosuid", "noexec", "nodev", "ro"] };
    // Who shares messages with the host shares its memory, too.
    let memory = match request.ipc {
        Namespace::Host => {
            json!({"destination": "/dev/shm", "type": "bind", "source": "/dev/shm", "options": ["rbind", "nosuid", "noexec", "nodev"]})
        }
        _ => {
            json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", shm]})
        }
    };
    // The group of terminals, where there is such an id.
    let group = request.engine_ids.is_none_or(|size| size > 5).then_some("gid=5");
    let terminals: Vec<&str> =
        ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"].into_iter().chain(group).collect();
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": sysfs}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": sysfs}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": terminals}),
        memory,
    ];
    // The host's queues are not an ordinary user's to mount.
    if request.engine_ids.is_none() || request.ipc != Namespace::Host {
        mounts.push(json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}));
    }
    let mut own: Vec<Mount> = request.mounts.clone();
    if request.users.is_some() {
        own.extend(request.devices.iter().map(device_mount));
    }
    // A mount below another's target must come after it, or it would be hidden.
    own.sort_by_key(|mount| mount.target.components().count());
    mounts.extend(own.iter().map(mount));
    mounts
}

fn device_mount(device: &Device) -> Mount {
    let source = MountSource::Bind { source: device.source.clone(), propagation: None, mapped: false };
    Mount { target: device.path.clone(), read_only: false, source }
}

fn mount(mount: &Mount) -> Value {
    let access = if mount.read_only { "ro" } else { "rw" };
    match &mount.source {
        MountSource::Bind { source, propagation, mapped } => {
            let propagation = propagation.as_deref().unwrap_or("rprivate");
            let map = mapped.then_some("ridmap");
            let options: Vec<&str> = ["rbind", propagation, access].into_iter().chain(map).collect();
            json!({"destination": mount.target, "type": "bind", "source": source, "options": options})
        }
        MountSource::Tmpfs { size, mode, options } => {
            let size = size.map(|bytes| format!("size={bytes}"));
            let forbidden = ["nosuid", "noexec", "nodev"].into_iter();
            let lifted = |word: &&str| options.iter().any(|option| word.strip_prefix("no") == Some(option));
            let words = forbidden.filter(|word| !lifted(word)).chain([access]).map(str::to_owned);
            let mode = format!("mode={:o}", mode.unwrap_or(0o1777));
            let own = options.iter().filter(|option| !["exec", "suid", "dev"].contains(&option.as_str())).cloned();
            json!({"destination": mount.target, "type": "tmpfs", "source": "tmpfs",
                   "options": words.chain([mode]).chain(size).chain(own).collect::<Vec<_>>()})
        }
        // Whoever starts the container has made it.
        MountSource::Image { id, .. } => {
            json!({"destination": mount.target, "type": "bind", "source": id, "options": ["rbind", "rprivate", "ro"]})
        }
    }
}
