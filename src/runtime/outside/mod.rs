//! Runtimes of others: a container that names one is the engine's own in everything but the making of its processes,
//! which `runc`, `crun`, `youki`, `runsc` or another program with runc's command line does from a bundle written here.
//!
//! What the engine has of such a container is one directory, `outside/ID` below the volatile root: `config.json` (with the
//! directory, the bundle), `state` (the runtime's `--root`), and files of single calls, which go with these. It is named
//! by the container's id, since that stays when the container gets another name.
//!
//! Root file system, network namespace, control group and what is bound are made by the engine before; the runtime gets
//! their paths. It is told nothing that it could leave out unnoticed ([`bundle`]).

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use oci_spec::runtime::{Process, Spec};
use serde::{Deserialize, Serialize};

use super::cgroup;
use super::container::{self, Config};
use super::init::{self, InitError, Launched, Stdio};
use super::roots::Roots;
use super::{state, sys};

pub mod bundle;
mod call;
mod find;
mod mounts;

pub use find::{FindError, find};
pub use mounts::Attached;

use call::{Call, Failed};

/// A runtime of this host, as a container's record has it: found when the container was made, so that whoever starts it
/// again needs no settings and no PATH.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// As it was asked for.
    pub name: String,
    pub path: PathBuf,
    /// Before all others.
    #[serde(default)]
    pub args: Vec<String>,
}

/// One container's part of its runtime.
#[derive(Clone, Debug)]
pub struct Outside {
    program: Program,
    id: String,
    directory: PathBuf,
    /// Below each hierarchy of control groups.
    group: String,
}

impl Outside {
    /// Where the container names a runtime.
    pub fn of(roots: &Roots, config: &Config) -> Option<Self> {
        let program = config.runtime.clone()?;
        let short = config.id.get(..12).unwrap_or(&config.name);
        // Sockets are in it, whose paths must be short.
        let directory = roots.volatile("outside").join(short);
        Some(Self { program, id: config.id.clone(), directory, group: container::cgroup_name(roots, config) })
    }

    /// The bundle.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where mounts for it are attached while it makes the container.
    pub fn mounts(&self) -> PathBuf {
        self.directory.join("mounts")
    }

    /// Makes the first process, which waits to be started. It is a child of this process then, whatever the runtime is.
    ///
    /// # Errors
    /// What the runtime says; nothing of the container is left then.
    pub fn create(&self, spec: &Spec, stdio: Stdio) -> Result<Launched, InitError> {
        self.prepare(spec).map_err(|error| self.failed("bundle", &error))?;
        let process = spec.process().as_ref();
        let made = self.with_process(Verb::Create, process, stdio);
        if made.is_err()
            && let Err(error) = self.delete()
        {
            tracing::warn!(%error, "remove what was made");
        }
        made
    }

    fn prepare(&self, spec: &Spec) -> io::Result<()> {
        state::make_directory(&self.directory.join("state")).map_err(io::Error::other)?;
        state::write_json_volatile(&self.directory.join("config.json"), spec).map_err(io::Error::other)
    }

    /// Lets the first process run its program.
    ///
    /// # Errors
    /// What the runtime says.
    pub fn start(&self) -> Result<(), InitError> {
        let started = self.call(&[OsStr::new("start"), self.id()]);
        started.map_err(|failed| self.failed("start", &failed))
    }

    /// A signal to the first process.
    ///
    /// # Errors
    /// What the runtime says, as when there is no such process any more.
    pub fn kill(&self, signal: i32) -> Result<(), InitError> {
        let killed = self.call(&[OsStr::new("kill"), self.id(), OsStr::new(&signal.to_string())]);
        killed.map_err(|failed| self.failed("kill", &failed))
    }

    /// Takes away all that the runtime has of the container, whose processes are killed. One that it does not know is
    /// fine, and so is a runtime that is gone: its files are ours to remove.
    ///
    /// # Errors
    /// Where files, or control groups that the engine would not make itself, can't be removed.
    pub fn delete(&self) -> io::Result<()> {
        if !self.directory.exists() {
            return Ok(());
        }
        if let Err(failed) = self.call(&[OsStr::new("delete"), OsStr::new("--force"), self.id()]) {
            tracing::debug!(%failed, "delete");
        }
        cgroup::remove_apart(&self.group).map_err(io::Error::other)?;
        self.remove_files()
    }

    /// Never below `mounts`: what is attached there is somebody's data.
    fn remove_files(&self) -> io::Result<()> {
        let absent = |error: io::Error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) };
        fs::remove_dir_all(self.directory.join("state")).or_else(absent)?;
        fs::remove_dir(self.mounts()).or_else(absent)?;
        for entry in fs::read_dir(&self.directory)? {
            fs::remove_file(entry?.path()).or_else(absent)?;
        }
        fs::remove_dir(&self.directory).or_else(absent)
    }

    /// Makes a further process of the container, which runs its program by then and is a child of this process.
    ///
    /// # Errors
    /// What the runtime says.
    pub fn exec(&self, process: &Process, stdio: Stdio) -> Result<Launched, InitError> {
        let files = Files::of(&self.directory);
        let written = state::write_json_volatile(&files.process, process);
        let launched = match written {
            Ok(()) => self.with_process(Verb::Exec(&files.process), Some(process), stdio),
            Err(error) => Err(self.failed("exec", &error)),
        };
        if let Err(error) = state::remove(&files.process) {
            tracing::debug!(%error, "remove what was written for the runtime");
        }
        launched
    }

    fn id(&self) -> &OsStr {
        OsStr::new(&self.id)
    }

    fn call(&self, words: &[&OsStr]) -> Result<(), Failed> {
        let log = Files::of(&self.directory).log;
        let root = self.directory.join("state");
        Call { program: &self.program, root: &root, log: &log, words: words.iter().map(OsString::from).collect() }
            .run(None)
    }

    fn with_process(&self, verb: Verb<'_>, process: Option<&Process>, stdio: Stdio) -> Result<Launched, InitError> {
        let files = Files::of(&self.directory);
        let launched = self.launch(verb, &files, stdio);
        for path in [&files.pid, &files.socket] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::debug!(%error, "remove {path:?}"),
                _ => {}
            }
        }
        let program = process.and_then(|process| process.args().as_ref()?.first()).map_or("", String::as_str);
        launched.map_err(|failed| failed.about(&self.program.name, verb.word(), program))
    }

    fn launch(&self, verb: Verb<'_>, files: &Files, stdio: Stdio) -> Result<Launched, Failed> {
        let mut words: Vec<OsString> = vec![verb.word().into(), "--pid-file".into(), files.pid.clone().into()];
        let (streams, console) = match stdio {
            Stdio::Terminal { rows, columns } => {
                let listener = UnixListener::bind(&files.socket)?;
                words.extend(["--console-socket".into(), files.socket.clone().into()]);
                (None, Some((listener, rows, columns)))
            }
            Stdio::Pipes { stdin, stdout, stderr } => (Some((stdin, stdout, stderr)), None),
        };
        match verb {
            Verb::Create => words.extend(["--bundle".into(), self.directory.clone().into()]),
            Verb::Exec(process) => words.extend(["--detach".into(), "--process".into(), process.into()]),
        }
        words.push(self.id().into());
        let root = self.directory.join("state");
        let call = Call { program: &self.program, root: &root, log: &files.log, words };
        let (pid, pidfd) = with_orphans(|| {
            call.run(streams)?;
            let text = fs::read_to_string(&files.pid)?;
            let pid: i32 = text.trim().parse().map_err(|_| io::Error::other(format!("process number {text:?}")))?;
            // It is this process's to collect by now, so that nobody else has its number.
            Ok((pid, sys::pidfd_open(pid)?))
        })?;
        reap_but(pid)?;
        let terminal = console.map(|(listener, rows, columns)| {
            // The runtime has sent it before it ended.
            listener.set_nonblocking(true)?;
            let terminal = init::receive_terminal(listener.accept()?.0.as_fd())?;
            init::resize(&terminal, rows, columns)?;
            Ok::<OwnedFd, io::Error>(terminal)
        });
        Ok(Launched { pid, pidfd, terminal: terminal.transpose()? })
    }

    fn failed(&self, verb: &str, reason: &dyn std::fmt::Display) -> InitError {
        InitError::Step { step: format!("runtime {} {verb}", self.program.name), reason: reason.to_string() }
    }
}

/// What makes a process.
#[derive(Clone, Copy)]
enum Verb<'a> {
    Create,
    Exec(&'a Path),
}

impl Verb<'_> {
    fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Exec(_) => "exec",
        }
    }
}

/// The files of one call: those of this process, since others may call at the same time.
struct Files {
    pid: PathBuf,
    socket: PathBuf,
    process: PathBuf,
    log: PathBuf,
}

impl Files {
    fn of(directory: &Path) -> Self {
        let own = std::process::id();
        let file = |kind: &str| directory.join(format!("{kind}-{own}"));
        Self { pid: file("pid"), socket: file("tty"), process: file("process"), log: file("log") }
    }
}

/// Runs this while all whose parents end become children of this process.
fn with_orphans<T>(action: impl FnOnce() -> Result<T, Failed>) -> Result<T, Failed> {
    let set = |on| nix::sys::prctl::set_child_subreaper(on).map_err(io::Error::from);
    set(true)?;
    let result = action();
    // Processes of a container without a pid namespace of its own are not ours to collect.
    set(false)?;
    result
}

/// Collects what else the runtime left behind that has ended.
fn reap_but(kept: i32) -> io::Result<()> {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        match waitid(Id::All, look) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) if pid.as_raw() != kept => {
                waitid(Id::Pid(pid), WaitPidFlag::WEXITED)?;
            }
            Ok(_) | Err(nix::Error::ECHILD) => return Ok(()),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
