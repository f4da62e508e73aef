//! Containers by the OCI runtime specification's own life cycle, for engines that bring a bundle: a directory with
//! `config.json` and a root file system. What is made of it is by [`super::init`], as for the engine's own containers,
//! but taken to the letter; nobody supervises it but whoever asked for it.
//!
//! What is known of a container is one directory, `ROOT/ID`: `state.json` ([`State`]), `config.json` as it was when the
//! container was made, and two fifos: `gate`, at which the first process waits from `create` to `start`, and `outcome`,
//! by which it says what became of its program. `gate` is there as long as nobody has started the container.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Process, Spec};

use super::init::{self, InitError, Launched, Stdio};
use super::roots::Roots;
use super::{cgroup, state as files, sys, systemd};

mod config;
mod create;
mod follow;
mod hooks;
mod limits;
mod listener;
mod scope;
mod state;
mod stats;
mod users;

pub use config::{process as read_process, read as read_config};
pub use create::{Create, create, start};
pub use scope::Scope;
pub use state::{State, Status};

/// The version of the specification that this program knows.
pub const VERSION: &str = "1.2.1";
/// How long the end of killed processes is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What failed with which container.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("container {0:?} does not exist")]
    NotFound(String),
    #[error("container with id {0:?} exists already")]
    Exists(String),
    #[error("{0:?} is not a container's id: letters, digits, and `_+-.`, and neither `.` nor `..`")]
    Id(String),
    #[error("{path}: {reason}")]
    Config { path: PathBuf, reason: String },
    #[error("{field} is not supported: {reason}")]
    Unsupported { field: String, reason: String },
    #[error("container not running: {id:?} is {status}")]
    NotRunning { id: String, status: Status },
    #[error("cannot {what} container {id:?}: it is {status}")]
    Wrong { what: &'static str, id: String, status: Status },
    #[error("container's cgroup is not empty: there are processes in {group:?}, linux.cgroupsPath")]
    Used { group: String },
    #[error("container's cgroup unexpectedly frozen: nothing would run in {group:?}, linux.cgroupsPath")]
    Frozen { group: String },
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    Paused,
    #[error("error running {kind} hook #{number}: {path}: {reason}")]
    Hook { kind: &'static str, number: usize, path: PathBuf, reason: String },
    #[error("unable to start container process: {0}")]
    Start(#[from] InitError),
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    #[error(transparent)]
    Systemd(#[from] super::systemd::Error),
    #[error(transparent)]
    File(#[from] files::Error),
    #[error("{about}: {source}")]
    Io { about: String, source: io::Error },
}

fn io_at(about: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let about = about.into();
    move |source| Error::Io { about, source }
}

/// A further process of a container.
pub struct Exec<'a> {
    pub process: &'a Process,
    pub stdio: Stdio,
    /// How many descriptors from 3 on it is to find open.
    pub preserved: u32,
    /// As [`init::Hold::plain_lines`].
    pub plain_lines: bool,
    /// A container that is suspended takes it too; it is suspended with it.
    pub ignore_paused: bool,
    /// Groups below the container's, as [`cgroup::Cgroup::below_named`] has them.
    pub groups: &'a [String],
}

/// Where containers are known.
#[derive(Clone, Debug)]
pub struct Room {
    root: PathBuf,
}

impl Room {
    /// The directory need not exist yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn directory(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    fn launcher(&self) -> Result<PathBuf, Error> {
        files::make_directory(&self.root)?;
        let roots = Roots::new(&self.root, &self.root);
        init::launcher::ensure(&roots).map_err(io_at(self.root.display().to_string()))
    }

    /// The container with this id.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get(&self, id: &str) -> Result<State, Error> {
        check_id(id)?;
        let found = files::read_json(&self.directory(id).join("state.json"))?;
        found.ok_or_else(|| Error::NotFound(id.to_owned()))
    }

    /// How the container is now.
    pub fn status(&self, state: &State) -> Status {
        if !state.process.is_alive() {
            Status::Stopped
        } else if self.directory(&state.id).join("gate").exists() {
            Status::Created
        } else if state.group().is_frozen() {
            Status::Paused
        } else {
            Status::Running
        }
    }

    /// All containers, by id.
    ///
    /// # Errors
    /// Where the directory can't be read.
    pub fn list(&self) -> Result<Vec<State>, Error> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io_at(self.root.display().to_string()))?,
        };
        let names = entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
        let mut all: Vec<State> = names.filter_map(|name| self.get(&name).ok()).collect();
        all.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(all)
    }

    fn spec(&self, id: &str) -> Result<Spec, Error> {
        let found = files::read_json(&self.directory(id).join("config.json"))?;
        found.ok_or_else(|| Error::NotFound(id.to_owned()))
    }

    /// Sends a signal to the first process, or to all of the container's. Without a pid namespace of the container's own
    /// the end of the first one ends no other: KILL is meant for all then.
    ///
    /// # Errors
    /// [`Error::NotRunning`], unless all are meant: there may be processes when the first one has ended.
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<(), Error> {
        let state = self.get(id)?;
        let status = self.status(&state);
        if all || (signal == libc::SIGKILL && shares_processes(&self.spec(id)?)) {
            return kill_all(&state, signal);
        }
        let gone = || Error::NotRunning { id: id.to_owned(), status: Status::Stopped };
        if status == Status::Stopped {
            return Err(gone());
        }
        let process = sys::pidfd_open(state.process.pid).map_err(|_| gone())?;
        // The number may have been given to another process before the descriptor was ours.
        if !state.process.is_alive() {
            return Err(gone());
        }
        sys::pidfd_send_signal(process.as_fd(), signal).map_err(|_| gone())?;
        if signal == libc::SIGKILL && status == Status::Paused {
            // In version 1 the frozen take no signal, not even this one.
            state.group().freeze(false)?;
        }
        Ok(())
    }

    /// Takes all away that `create` made. One that runs is killed where that is forced.
    ///
    /// # Errors
    /// [`Error::Wrong`] where it runs. A hook after the end that fails is only written to the log, as the specification
    /// has it.
    pub fn delete(&self, id: &str, force: bool) -> Result<(), Error> {
        let state = match self.get(id) {
            Err(Error::NotFound(_)) if force => return self.remove(id),
            found => found?,
        };
        match self.status(&state) {
            Status::Running | Status::Paused if !force => {
                return Err(Error::Wrong { what: "delete", id: id.to_owned(), status: self.status(&state) });
            }
            Status::Stopped => {}
            _ => end(&state)?,
        }
        let spec = self.spec(id)?;
        // A container without a pid namespace of its own can leave processes behind.
        state.group().remove()?;
        if let Some(unit) = &state.scope {
            systemd::stop(unit)?;
        }
        self.remove(id)?;
        let text = state.text(Status::Stopped);
        if let Err(error) = hooks::run(hooks::of(&spec, hooks::Kind::Poststop), hooks::Kind::Poststop, &text, &[]) {
            tracing::warn!(%error, "after the end");
        }
        Ok(())
    }

    fn remove(&self, id: &str) -> Result<(), Error> {
        check_id(id)?;
        match fs::remove_dir_all(self.directory(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_at(self.directory(id).display().to_string())(error))
            }
            _ => Ok(()),
        }
    }

    /// Suspends all processes, or lets them go on.
    ///
    /// # Errors
    /// [`Error::Wrong`] where it is not running, or not suspended.
    pub fn freeze(&self, id: &str, frozen: bool) -> Result<(), Error> {
        let state = self.get(id)?;
        let status = self.status(&state);
        let what = if frozen { "pause" } else { "resume" };
        match (status, frozen) {
            (Status::Running | Status::Created, true) | (Status::Paused, false) => Ok(state.group().freeze(frozen)?),
            _ => Err(Error::Wrong { what, id: id.to_owned(), status }),
        }
    }

    /// Puts these limits in place; what they do not name stays.
    ///
    /// # Errors
    /// [`Error::NotRunning`], or what the kernel refuses.
    pub fn update(&self, id: &str, resources: &LinuxResources) -> Result<(), Error> {
        let state = self.get(id)?;
        let status = self.status(&state);
        if status == Status::Stopped {
            return Err(Error::NotRunning { id: id.to_owned(), status });
        }
        limits::check(resources)?;
        // Who may open which device is said once.
        let mut wanted = limits::meant(resources);
        wanted.set_devices(None);
        if let Some(unit) = &state.scope {
            systemd::set(unit, &systemd::properties_of(&wanted, true))?;
        }
        Ok(state.group().limit(&wanted)?)
    }

    /// The processes of the container.
    pub fn processes(&self, id: &str) -> Result<Vec<i32>, Error> {
        Ok(self.get(id)?.group().processes())
    }

    /// Starts a further process in the container. Must be called from a process with one thread.
    ///
    /// # Errors
    /// [`Error::Wrong`] where the container is not running, [`Error::Start`].
    pub fn exec(&self, id: &str, exec: Exec<'_>) -> Result<Launched, Error> {
        let (process, state) = (exec.process, self.get(id)?);
        let status = self.status(&state);
        if status == Status::Paused && !exec.ignore_paused {
            return Err(Error::Paused);
        }
        if status == Status::Stopped {
            return Err(Error::Wrong { what: "exec in", id: id.to_owned(), status });
        }
        config::check_process(process)?;
        let gone = || Error::NotRunning { id: id.to_owned(), status: Status::Stopped };
        let pidfd = sys::pidfd_open(state.process.pid).map_err(|_| gone())?;
        if !state.process.is_alive() {
            return Err(gone());
        }
        let spec = self.spec(id)?;
        let asked = |pid: i32, descriptor: OwnedFd| listener::tell(&spec, &state, Status::Running, pid, &descriptor);
        let join = init::Join {
            spec: &spec,
            pidfd: &pidfd,
            pid: state.process.pid,
            cgroup: &state
                .group()
                .below_named(exec.groups)
                .map_err(|reason| Error::Unsupported { field: "--cgroup".into(), reason })?,
            stdio: exec.stdio,
            launcher: &self.launcher()?,
            args: &[],
            env: &[],
            cwd: "",
            user: "",
            groups: &[],
            exactly: Some(init::Exactly {
                process,
                when_asked: &asked,
                preserved: exec.preserved,
                plain_lines: exec.plain_lines,
            }),
        };
        Ok(init::join(join)?)
    }

    /// The process that the container was made with, for one that is to be like it.
    pub fn process_of(&self, id: &str) -> Result<Process, Error> {
        let missing = || Error::Unsupported { field: "process".into(), reason: "the container has none".into() };
        self.spec(id)?.process().clone().ok_or_else(missing)
    }
}

fn check_id(id: &str) -> Result<(), Error> {
    let is_fit = |letter: char| letter.is_ascii_alphanumeric() || "_+-.".contains(letter);
    if id.is_empty() || id == "." || id == ".." || !id.chars().all(is_fit) {
        return Err(Error::Id(id.to_owned()));
    }
    Ok(())
}

fn shares_processes(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    !namespaces.iter().any(|one| one.typ() == LinuxNamespaceType::Pid && one.path().is_none())
}

fn kill_all(state: &State, signal: i32) -> Result<(), Error> {
    let group = state.group();
    if signal == libc::SIGKILL {
        return Ok(group.kill_all()?);
    }
    let opened = group.processes().into_iter().filter_map(|pid| Some((pid, sys::pidfd_open(pid).ok()?)));
    let opened: Vec<(i32, OwnedFd)> = opened.collect();
    let still = group.processes();
    for (_, process) in opened.iter().filter(|(pid, _)| still.contains(pid)) {
        // It may have ended by itself.
        drop(sys::pidfd_send_signal(process.as_fd(), signal));
    }
    Ok(())
}

/// Kills the first process, and with it, most often, all others; waits for its end.
fn end(state: &State) -> Result<(), Error> {
    let about = format!("end process {}", state.process.pid);
    let Ok(process) = sys::pidfd_open(state.process.pid) else { return Ok(()) };
    if !state.process.is_alive() {
        return Ok(());
    }
    match sys::pidfd_send_signal(process.as_fd(), libc::SIGKILL) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(io_at(about)(error)),
        _ => {}
    }
    state.group().freeze(false).or_else(|error| if error.is_absent() { Ok(()) } else { Err(error) })?;
    let mut polled = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    match poll(&mut polled, patience) {
        Ok(0) => Err(io_at(about)(io::ErrorKind::TimedOut.into())),
        Ok(_) => Ok(()),
        Err(error) => Err(io_at(about)(error.into())),
    }
}
