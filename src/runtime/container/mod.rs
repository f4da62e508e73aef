//! Containers: made, started, stopped, looked at and removed. Knows images only as directories and networks only as
//! the path of a namespace.
//!
//! What is durable is one directory a container, `containers/NAME` below the durable root: `config.json`, the overlay's
//! `upper` and `work`, `log`. What lives until the next boot is in the directory of the same name below the volatile
//! root; of a container that goes with its end, that is the record too (`paths`). A running container is held by its supervisor ([`super::shim`]); every call here works without one, and
//! cleans up behind one that was killed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::cgroup::Cgroup;
use super::events::{self, Event};
use super::home::{self, Home};
use super::init::{InitError, spec};
use super::roots::Roots;
use super::state::{self, Contention, Lock};
use super::sys;

mod adopt;
pub mod aside;
mod changes;
pub mod config;
pub mod exec;
pub mod ids;
mod kin;
mod logging;
pub mod logs;
mod observe;
mod paths;
mod probe;
mod rebind;
mod remove;
mod skeleton;
mod start;
mod stop;
mod tree;

pub use adopt::{adopt, adopt_after_loss, adopt_all, bury};
pub use changes::{Change, changes};
pub use config::{
    Budget, Checked, Config, Container, Declared, Health, HealthCheck, OnUnhealthy, Phase, ProcessId, Removal, Restart,
    Start, State, Status,
};
pub use logging::{
    Log, LogFiles, LogForm, LogLoss, LogService, Syslog, SyslogAddress, SyslogForm, SyslogTls, plugin_pipe, tag,
};
pub(super) use observe::processes_of;
pub use observe::{Stats, get, list, processes, stats, wait, wait_completed, wait_healthy, written_bytes};
pub use paths::Paths;
pub use probe::{Place, Probe};
pub use rebind::rebind;
pub use remove::{Over, over, remove, sweep, vacate};
pub use start::{Supervision, start};
pub use stop::{Stop, halt, kill, pause, rename, restart, stop, unpause, update};
pub use tree::{CopyError, Tree};

use config::Record;

pub(super) const VERSION: u32 = 1;

/// What failed with which container.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no container {0:?}\n  help: `stack ps -a` lists those that there are")]
    NotFound(String),
    #[error("the ids of {names} all begin with {id:?}\n  help: give more of the id, or the name")]
    Ambiguous { id: String, names: String },
    #[error("container {0:?} is not running\n  help: `stack start {0}` starts it")]
    NotRunning(String),
    #[error("container {0:?} is paused\n  help: `stack unpause {0}` lets it go on")]
    Paused(String),
    #[error("container {0:?} is not paused")]
    NotPaused(String),
    #[error("container {0:?} is just being started again\n  help: try again when it runs")]
    Between(String),
    #[error("container {0:?} is running\n  help: stop it first, or add --force")]
    Running(String),
    #[error("a container {0:?} is there already\n  help: remove it first, or choose another name")]
    Exists(String),
    #[error("container name {0:?}: letters, digits, `_`, `.` and `-` only, first a letter or digit, 128 at most")]
    Name(String),
    #[error("container {name:?}: {source}")]
    Start { name: String, source: InitError },
    #[error("container {name:?}: its supervisor {reason}\n  help: `stack start {name}` begins anew")]
    Supervisor { name: String, reason: String },
    #[error("container {name:?}: its supervisor says: {reason}")]
    Refused { name: String, reason: String },
    #[error("container {name:?}: {what} within {seconds} s")]
    Timeout { name: String, what: &'static str, seconds: u64 },
    #[error(
        "container {name:?} ended with code {code} before it was healthy\n  help: `stack logs {name}` shows what it wrote"
    )]
    Ended { name: String, code: i32 },
    #[error("container {name:?} is unhealthy{said}\n  help: `stack logs {name}` shows what it wrote")]
    Unhealthy { name: String, said: String },
    #[error(
        "container {name:?} keeps ending, {times} times by now, last with code {code}\n  help: `stack logs {name}` shows what it wrote"
    )]
    KeepsEnding { name: String, times: u32, code: i32 },
    #[error("container {name:?}: {} can't be exchanged while it runs: {source}\n  help: `stack restart {name}` brings what is there now", target.display())]
    Rebind { name: String, target: PathBuf, source: io::Error },
    #[error(transparent)]
    State(#[from] state::Error),
    #[error(transparent)]
    Cgroup(#[from] super::cgroup::Error),
    #[error(transparent)]
    Home(#[from] home::Error),
    #[error(transparent)]
    Spec(#[from] spec::BuildError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

fn io_at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { path, source }
}

/// Docker's rule for names; they become directories, so nothing else may pass.
pub fn is_name(name: &str) -> bool {
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    first && name.len() <= 128 && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// The group of a container, whether or not it exists. Named by the id: it keeps that when the container gets another
/// name, and its successor has a group of its own beside it.
pub(super) fn cgroup(roots: &Roots, config: &Config) -> Cgroup {
    Cgroup::named(&cgroup_name(roots, config))
}

/// Below each hierarchy.
pub(super) fn cgroup_name(roots: &Roots, config: &Config) -> String {
    let id = config.id.get(..12).unwrap_or(&config.name);
    let home = Home::of(roots, &config.cgroup_parent).filter(|_| Cgroup::named("").is_unified());
    let home = home.map(|home| home.path());
    let above = home.as_deref().unwrap_or(config.cgroup_parent.trim_matches('/'));
    let slash = if above.is_empty() { "" } else { "/" };
    format!("{above}{slash}stack-{}-{id}", roots.key())
}

/// Whether its processes can be suspended.
pub fn can_pause(roots: &Roots, container: &Container) -> bool {
    !cgroup(roots, &container.config).is_nowhere()
}

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

pub(super) fn lock(paths: &Paths) -> Result<Lock, Error> {
    Ok(Lock::take(&paths.lock, Contention::Wait)?)
}

/// Makes the container, without starting it. Made again from the same configuration, or after a crash half way, the
/// result is the same; `id` and time of the first making are kept.
///
/// # Errors
/// [`Error::Exists`] where another container has the name.
pub fn create(roots: &Roots, config: &Config) -> Result<Container, Error> {
    if !is_name(&config.name) {
        return Err(Error::Name(config.name.clone()));
    }
    spec::build(&config.request)?;
    let _lock = lock(&Paths::durable(roots, &config.name))?;
    let before = observe::read_record(&Paths::of(roots, &config.name))?;
    if let Some(Record { phase: Phase::Created, config: present, .. }) = before {
        let same = Config { id: present.id.clone(), created_ms: present.created_ms, ..config.clone() } == present;
        return if same { get(roots, &config.name) } else { Err(Error::Exists(config.name.clone())) };
    }
    let mut config = config.clone();
    if config.id.is_empty() {
        config.id = new_id()?;
    }
    config.created_ms = now_ms();
    let record = Record::new(config);
    match record.config.removal {
        Removal::Nobody => make_durable(roots, &record)?,
        Removal::Maker | Removal::Supervisor => make_transient(roots, &record)?,
    }
    events::record(roots, &event(&record.config, "create"));
    Ok(Container { phase: Phase::Created, config: record.config, status: Status::default() })
}

/// What happens to this container now.
pub fn event(config: &Config, action: &str) -> Event {
    let event = Event::now(events::Kind::Container, action, &config.id, &config.name);
    event.with("image", &config.image).with_labels(&config.labels)
}

/// Made under another name: a container is there whole, or not at all.
fn make_durable(roots: &Roots, record: &Record) -> Result<(), Error> {
    let paths = Paths::durable(roots, &record.config.name);
    remove::discard(&paths.making)?;
    make_directories(&paths.making, &["", "upper", "work", "log"])?;
    state::write_json(&paths.making.join("config.json"), record)?;
    // In the place of one that is half made, at one moment: while there is none of the name, nobody knows what is its.
    if paths.config.exists() && sys::exchange(&paths.making, &paths.directory).is_ok() {
        return remove::discard(&paths.making);
    }
    remove::discard(&paths.directory)?;
    fs::rename(&paths.making, &paths.directory).map_err(io_at(&paths.directory))
}

/// The record comes last: without it the directory is anybody's to sweep away.
fn make_transient(roots: &Roots, record: &Record) -> Result<(), Error> {
    let paths = Paths::transient(roots, &record.config.name);
    for rest in [&paths.run, &paths.directory, &Paths::durable(roots, &record.config.name).directory] {
        remove::discard(rest)?;
    }
    make_directories(&paths.directory, &["", "upper", "work"])?;
    state::make_directory(&paths.run)?;
    let maker = ProcessId::of(std::process::id() as i32);
    Ok(state::write_json_volatile(&paths.config, &Record { maker, ..record.clone() })?)
}

fn make_directories(above: &Path, names: &[&str]) -> Result<(), Error> {
    for name in names {
        state::make_directory(&above.join(name))?;
    }
    // The root directory of the container is the upper one's: it must be readable by every user in it.
    let upper = above.join("upper");
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&upper, readable).map_err(io_at(&upper))
}

/// 256 random bits as text.
fn new_id() -> Result<String, Error> {
    let mut bytes = [0_u8; 32];
    let mut file = fs::File::open("/dev/urandom").map_err(io_at("/dev/urandom"))?;
    io::Read::read_exact(&mut file, &mut bytes).map_err(io_at("/dev/urandom"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_not_leave_their_directory() {
        for name in ["web", "shop-web-1", "a.b_c", "0"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", "-a", "a/b", "a b", "a\n", &"a".repeat(129)] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
