//! What there is: read from the files of containers and checked against the kernel. Cheap: no process is started, and
//! no supervisor is asked.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::config::Record;
use super::kin;
use super::{Config, Container, Error, Health, Paths, Phase, ProcessId, State, Status, cgroup, io_at};
use crate::runtime::cgroup::Cgroup;
use crate::runtime::roots::Roots;
use crate::runtime::{shim, state, sys};

/// Figures of a container at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    pub memory_limit: Option<u64>,
    pub processes: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
}

pub(super) fn read_record(paths: &Paths) -> Result<Option<Record>, Error> {
    Ok(state::read_json(&paths.config)?)
}

/// When the process with this number began, in clock ticks since boot; `None` when there is none, or only a zombie.
pub fn start_time(pid: i32) -> Option<u64> {
    // The kernel gives all of it at once.
    let mut room = [0; 2048];
    let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut room).ok()?;
    let text = String::from_utf8_lossy(&room[..length]);
    // The second field is the program's name in brackets and may hold anything.
    let mut fields = text[text.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    (state != "Z" && state != "X").then_some(start)
}

impl ProcessId {
    /// The process with this number, now.
    pub fn of(pid: i32) -> Self {
        Self { pid, start: start_time(pid).unwrap_or(0) }
    }

    pub fn is_alive(self) -> bool {
        self.pid > 0 && start_time(self.pid) == Some(self.start)
    }
}

/// The least that must be typed of an id: fewer characters are more likely a slip.
const SHORTEST_ID: usize = 3;

/// The container with this name, or the only one whose id begins so.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Ambiguous`].
pub fn get(roots: &Roots, name: &str) -> Result<Container, Error> {
    let by_name = if super::is_name(name) { read(roots, name)? } else { None };
    if let Some(container) = by_name {
        return Ok(container);
    }
    let by_id = |container: &Container| name.len() >= SHORTEST_ID && container.config.id.starts_with(name);
    let mut found: Vec<_> = list(roots)?.into_iter().filter(by_id).collect();
    match (found.pop(), found.is_empty()) {
        (Some(container), true) => Ok(container),
        (None, _) => Err(Error::NotFound(name.to_owned())),
        (Some(last), false) => {
            let names = found.into_iter().chain([last]).map(|container| container.config.name);
            Err(Error::Ambiguous { id: name.to_owned(), names: names.collect::<Vec<_>>().join(", ") })
        }
    }
}

/// The bytes that the container has written to its own layer, as they lie on the disk.
pub fn written_bytes(roots: &Roots, name: &str) -> Result<u64, Error> {
    Ok(crate::runtime::volume::disk_use(&Paths::of(roots, &get(roots, name)?.config.name).upper))
}

/// All containers of these roots, by name; half-made ones too.
pub fn list(roots: &Roots) -> Result<Vec<Container>, Error> {
    let mut names: BTreeSet<String> = names_in(&roots.durable("containers"))?.into_iter().collect();
    names.extend(names_in(&roots.volatile("containers"))?);
    // One that is removed meanwhile is simply not listed.
    names.iter().filter(|name| super::is_name(name)).filter_map(|name| read(roots, name).transpose()).collect()
}

/// What is in the directory; nothing where there is none.
pub(super) fn names_in(directory: &Path) -> Result<Vec<String>, Error> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io_at(directory)(error)),
    }
}

/// A directory without a configuration is the rest of a create or a removal that was killed.
fn read(roots: &Roots, name: &str) -> Result<Option<Container>, Error> {
    let paths = Paths::of(roots, name);
    let Some(record) = read_record(&paths)? else {
        let half = Config { name: name.to_owned(), ..Config::default() };
        let rest = Container { phase: Phase::Creating, config: half, status: Status::default() };
        return Ok(paths.directory.is_dir().then_some(rest));
    };
    let status = match state::read_json::<Status>(&paths.status)? {
        Some(status) => status,
        None => of_earlier_boot(&paths)?,
    };
    // The directory says what it is called; the record may be from before a change of name.
    let config = Config { name: name.to_owned(), ..record.config };
    let status = checked(status, &config);
    Ok(Some(Container { phase: record.phase, config, status }))
}

/// Docker's code for what a daemon finds dead.
const LOST: i32 = 255;

/// Of a container without a word of this boot.
fn of_earlier_boot(paths: &Paths) -> Result<Status, Error> {
    // It is just being started.
    if paths.start.exists() {
        return Ok(Status::default());
    }
    if let Some(ended) = state::read_json::<Status>(&paths.ended)? {
        return Ok(ended);
    }
    // overlayfs makes it with the first mount.
    let has_run = paths.work.join("work").exists();
    let error = Some("the host went down while it ran".to_owned());
    let lost = || Status { state: State::Exited, exit_code: LOST, interrupted: true, error, ..Status::default() };
    Ok(if has_run { lost() } else { Status::default() })
}

/// What the supervisor wrote last holds only while it lives; but the program may go on without one.
fn checked(status: Status, config: &Config) -> Status {
    let supervised = matches!(status.state, State::Running | State::Paused | State::Restarting);
    if !supervised || status.shim.is_alive() {
        return status;
    }
    if status.process.is_alive() {
        return Status { abandoned: true, ..status };
    }
    let (exit_code, error) = match status.state {
        // It had ended before, with that code.
        State::Restarting => (status.exit_code, "its supervisor was killed before it was started again"),
        _ if shim::outlives(config) => (shim::UNKNOWN, shim::UNSEEN),
        _ => (shim::KILLED.0, shim::KILLED.1),
    };
    let (state, error) = (State::Exited, Some(error.to_owned()));
    // When it ended nobody knows; not before it was started.
    let finished_ms = status.finished_ms.max(status.started_ms);
    Status { state, exit_code, error, finished_ms, process: ProcessId::default(), abandoned: true, ..status }
}

impl Container {
    pub fn is_running(&self) -> bool {
        matches!(self.status.state, State::Running | State::Paused | State::Restarting)
    }
}

/// What it uses now.
pub fn stats(roots: &Roots, name: &str) -> Result<Stats, Error> {
    let container = get(roots, name)?;
    let group = cgroup(roots, &container.config);
    if group.is_nowhere() {
        return Ok(kin::stats(container.status.process));
    }
    let now = group.stats();
    Ok(Stats {
        cpu_ns: now.cpu_ns,
        memory_bytes: now.memory_bytes,
        memory_limit: container.config.request.limits.memory,
        processes: now.processes,
        read_bytes: now.read_bytes,
        written_bytes: now.written_bytes,
    })
}

/// The processes of the container, by their numbers on the host.
pub fn processes(roots: &Roots, name: &str) -> Result<Vec<i32>, Error> {
    let container = get(roots, name)?;
    Ok(processes_of(&cgroup(roots, &container.config), container.status.process))
}

/// The processes of the group, whose first one this is; of a host without groups those that belong to it otherwise.
pub(in crate::runtime) fn processes_of(group: &Cgroup, first: ProcessId) -> Vec<i32> {
    if group.is_nowhere() { kin::of(first) } else { group.processes() }
}

/// Waits until the container has ended for good, and gives its exit code. `deadline` is from now.
pub fn wait(roots: &Roots, name: &str, deadline: Option<Duration>) -> Result<i32, Error> {
    let ended = |container: &Container| match container.status.state {
        State::Running | State::Paused | State::Restarting => None,
        State::Created | State::Exited => Some(Ok(container.status.exit_code)),
    };
    watch(roots, name, deadline, "it did not end", ended)
}

/// As [`wait`], of a container that others wait for: one that its policy starts again and again never completes.
///
/// # Errors
/// [`Error::KeepsEnding`].
pub fn wait_completed(roots: &Roots, name: &str, deadline: Option<Duration>) -> Result<i32, Error> {
    let before = get(roots, name)?.status.restarts;
    watch(roots, name, deadline, "it did not end", |container| match container.status.state {
        State::Running | State::Paused | State::Restarting => keeps_ending(container, before).map(Err),
        State::Created | State::Exited => Some(Ok(container.status.exit_code)),
    })
}

/// Waits until the container's check has passed.
///
/// # Errors
/// [`Error::Ended`] and [`Error::KeepsEnding`] when it ends first, [`Error::Unhealthy`] when the check says so,
/// [`Error::Timeout`] when the time is up.
pub fn wait_healthy(roots: &Roots, name: &str, deadline: Option<Duration>) -> Result<(), Error> {
    let before = get(roots, name)?.status.restarts;
    watch(roots, name, deadline, "it did not become healthy", |container| match container.status.state {
        State::Exited | State::Created => {
            let code = container.status.exit_code;
            Some(Err(Error::Ended { name: container.config.name.clone(), code }))
        }
        _ if container.status.health == Health::Healthy => Some(Ok(())),
        _ if container.status.health == Health::Unhealthy => Some(Err(unhealthy(container))),
        _ => keeps_ending(container, before).map(Err),
    })
}

fn unhealthy(container: &Container) -> Error {
    let last = container.status.health_log.last().map_or("", |check| &check.output);
    let last = last.lines().rfind(|line| !line.trim().is_empty());
    let said = last.map(|line| format!(": {}", line.trim())).unwrap_or_default();
    Error::Unhealthy { name: container.config.name.clone(), said }
}

/// Half a minute of its policy's pauses: what has not come up by then does not.
const MOST_RESTARTS: u32 = 8;

fn keeps_ending(container: &Container, before: u32) -> Option<Error> {
    let times = container.status.restarts.saturating_sub(before);
    (times >= MOST_RESTARTS).then(|| Error::KeepsEnding {
        name: container.config.name.clone(),
        times,
        code: container.status.exit_code,
    })
}

/// Looks at the container each time its supervisor has written, until `done` says something.
fn watch<T>(
    roots: &Roots,
    name: &str,
    deadline: Option<Duration>,
    what: &'static str,
    done: impl Fn(&Container) -> Option<Result<T, Error>>,
) -> Result<T, Error> {
    let begun = Instant::now();
    let name = get(roots, name)?.config.name;
    let paths = Paths::of(roots, &name);
    state::make_directory(&paths.run)?;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
    let inotify = inotify.map_err(|error| io_at("inotify")(error.into()))?;
    let added = inotify.add_watch(&paths.run, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE_SELF);
    added.map_err(|error| io_at(&paths.run)(error.into()))?;
    loop {
        let container = get(roots, &name)?;
        if super::adopt(roots, &container)? {
            continue;
        }
        if let Some(result) = done(&container) {
            return result;
        }
        let left = deadline.map(|deadline| deadline.saturating_sub(begun.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Error::Timeout { name, what, seconds: deadline.unwrap_or_default().as_secs() });
        }
        // The supervisor's own end is an event too: it may have been killed without a last word.
        let shim = sys::pidfd_open(container.status.shim.pid).ok();
        let mut fds = vec![PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        fds.extend(shim.as_ref().map(|shim| PollFd::new(shim.as_fd(), PollFlags::POLLIN)));
        let timeout = left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(io_at("poll")(error.into())),
        }
        // What the events were is read from the state itself.
        drop(inotify.read_events());
    }
}

/// Waits until the process is gone.
pub(super) fn wait_for_end(pid: i32) -> Result<(), Error> {
    let Ok(pidfd) = sys::pidfd_open(pid) else { return Ok(()) };
    match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(error) => Err(io_at(format!("process {pid}"))(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_number_and_start() {
        let own = ProcessId::of(std::process::id() as i32);
        assert!(own.is_alive());
        assert!(!ProcessId { start: own.start + 1, ..own }.is_alive());
        assert!(!ProcessId::default().is_alive());
    }
}
