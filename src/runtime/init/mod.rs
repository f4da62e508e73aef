//! Executes an OCI runtime specification: the privileged steps between "a container is wanted" and its program's first
//! instruction, and those by which a further process joins a running one.
//!
//! Both [`launch`] and [`join`] must be called from a process with one thread (the shim, or a child made for it), since
//! the child goes on running this program until it becomes the container's. Any step that fails ends the child; the
//! step, what it was about and why reach the caller through a pipe that the container's program never sees. Nothing
//! here decides: the specification, built by [`spec::build`], has said everything.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use serde::{Deserialize, Serialize};

use super::cgroup::Cgroup;
use super::sys;

mod affinity;
mod child;
mod clocks;
pub(super) mod credentials;
mod exactly;
mod files;
mod labels;
pub mod launcher;
mod letter;
mod mounts;
mod options;
mod process;
mod processors;
mod scheduling;
pub mod spec;
mod terminal;
mod users;

pub use affinity::check as check_processors;
pub use credentials::{Identity, attainable, become_nobody, die_with_parent, held_of, keep_capabilities};
pub use labels::check as check_labels;
pub use mounts::{attach, bind, bound, groups_beside, map_ids};
pub use options::WORDS as MOUNT_OPTIONS;
pub use processors::thermal_counters;
pub use terminal::{receive as receive_terminal, resize, size as terminal_size};
pub use users::{listed as mappings, with_files_of_root};

/// What the first process of a container is made from.
pub struct Launch<'a> {
    pub spec: &'a Spec,
    /// The mounted root file system.
    pub rootfs: &'a Path,
    pub cgroup: &'a Cgroup,
    pub stdio: Stdio,
    /// The file of [`launcher::ensure`].
    pub launcher: &'a Path,
    /// Name or id, and group: `app`, `1000:1000`; empty is root. Looked up in the container's own files.
    pub user: &'a str,
    /// Further groups, by name or id.
    pub groups: &'a [String],
    /// Put a small process 1 in front, that passes signals on and reaps orphans.
    pub reaper: bool,
    /// It goes on when this process has ended.
    pub lasting: bool,
    /// The user namespace, where the specification asks for one; it has the ids that are written there.
    pub users: Option<&'a OwnedFd>,
    /// Mounts that were made beforehand, attached nowhere yet, by where they belong: there instead of what the
    /// specification says.
    pub mounts: Vec<(PathBuf, OwnedFd)>,
    /// Where the specification is somebody else's: see [`Hold`].
    pub hold: Option<Hold<'a>>,
}

/// A process that is made now and let go later, by whoever comes then; made as its specification says to the letter:
/// user, capabilities, system call filter and all else are its alone, and it does not end with its maker.
pub struct Hold<'a> {
    /// What it waits at for a byte.
    pub gate: OwnedFd,
    /// Takes the launcher's words once it was let go, for [`outcome`].
    pub outcome: OwnedFd,
    /// Called when its mounts are made and before its root is changed, with its number.
    pub when_mounted: &'a dyn Fn(i32) -> Result<(), InitError>,
    /// What it is to run itself, in its own namespaces: before the root is changed, and before its program, whose
    /// variables these are.
    pub before_pivot: &'a dyn Fn() -> Result<(), InitError>,
    pub before_program: &'a dyn Fn(&[String]) -> Result<(), InitError>,
    /// Called with its number and with the descriptor on which the kernel asks what its filter does not decide.
    pub when_asked: &'a Listener<'a>,
    /// How many descriptors from 3 on it is to find open.
    pub preserved: u32,
    /// Its terminal ends lines as the program ends them, for whoever reads it and has none.
    pub plain_lines: bool,
}

/// Who is handed the descriptor on which the kernel asks what a filter does not decide, with the process's number.
pub type Listener<'a> = dyn Fn(i32, OwnedFd) -> Result<(), InitError> + 'a;

/// A further process of a running container.
pub struct Join<'a> {
    /// The container's specification; its capabilities, filter and limits hold for the new process too.
    pub spec: &'a Spec,
    /// The container's first process.
    pub pidfd: &'a OwnedFd,
    pub pid: i32,
    pub cgroup: &'a Cgroup,
    pub stdio: Stdio,
    /// The file of [`launcher::ensure`].
    pub launcher: &'a Path,
    pub args: &'a [String],
    pub env: &'a [String],
    pub cwd: &'a str,
    pub user: &'a str,
    pub groups: &'a [String],
    /// To the letter what it is to be, in the place of what is said above.
    pub exactly: Option<Exactly<'a>>,
}

/// A further process as somebody else's specification says it to the letter.
#[derive(Clone, Copy)]
pub struct Exactly<'a> {
    pub process: &'a Process,
    /// As [`Hold::when_asked`].
    pub when_asked: &'a Listener<'a>,
    /// How many descriptors from 3 on it is to find open.
    pub preserved: u32,
    /// As [`Hold::plain_lines`].
    pub plain_lines: bool,
}

/// Where the process reads and writes.
pub enum Stdio {
    /// Without `stdin` it reads end of file.
    Pipes { stdin: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd },
    /// A terminal of the container's own, this large at first.
    Terminal { rows: u16, columns: u16 },
}

/// A process that runs its own program by now.
#[derive(Debug)]
pub struct Launched {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// The engine's end of its terminal.
    pub terminal: Option<OwnedFd>,
}

/// Why a process did not come to run its program.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitError {
    /// The program is not there (`ENOENT`) or can't be executed.
    #[error("exec {program:?}: {reason}")]
    Exec { program: String, reason: String, found: bool },
    /// A step before it failed; the container can't be trusted without that step.
    #[error("{step}: {reason}")]
    Step { step: String, reason: String },
    #[error("user {user:?}: {reason}")]
    User { user: String, reason: String },
}

impl InitError {
    /// As docker's: 127 not found, 126 not executable, 125 everything before that.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exec { found: false, .. } => 127,
            Self::Exec { found: true, .. } => 126,
            Self::Step { .. } | Self::User { .. } => 125,
        }
    }

    fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |error| Self::Step { step, reason: error.to_string() }
    }
}

/// Starts the container's first process; returns when it has become its program.
///
/// # Errors
/// See [`InitError`]; the process is gone then.
pub fn launch(launch: Launch<'_>) -> Result<Launched, InitError> {
    let join = process::namespaces_to_join(launch.spec)?;
    let users = users::namespace(launch.spec, launch.users)?;
    let letter = if launch.hold.is_some() { mounts::Letter::Exact } else { mounts::Letter::Own };
    let prepared = mounts::prepare(launch.spec, launch.rootfs, users.as_ref(), launch.mounts, letter)?;
    let process = launch.spec.process().clone();
    let birth = process::Birth { flags: new_namespaces(launch.spec), join, cgroup: None, users, process };
    let request = LaunchChild {
        spec: launch.spec,
        rootfs: launch.rootfs,
        prepared,
        mounts_of: process::mounts_by_path(launch.spec)?,
        cgroup: launch.cgroup,
        user: launch.user,
        groups: launch.groups,
        reaper: launch.reaper,
        lasting: launch.lasting,
        hold: launch.hold.as_ref(),
    };
    let program = first_word(launch.spec.process().as_ref().and_then(|process| process.args().as_deref()));
    let start = Start {
        cgroup: launch.cgroup,
        spec: launch.spec,
        birth,
        launcher: launch.launcher,
        program,
        processors: launch.hold.as_ref().map(|_| affinity::Processors::default()),
        when_mounted: launch.hold.as_ref().map(|hold| hold.when_mounted),
        when_asked: launch.hold.as_ref().map(|hold| hold.when_asked),
    };
    start.go(launch.stdio, |stdio, channel| child::run(request, stdio, channel))
}

/// Starts a further process in a running container; returns when it has become its program.
///
/// # Errors
/// See [`InitError`]; the process is gone then.
pub fn join(join: Join<'_>) -> Result<Launched, InitError> {
    let pidfd = join.pidfd;
    let container = pidfd.try_clone().map_err(InitError::step("join the pid namespace"))?;
    let join_pid = vec![(container, CloneFlags::CLONE_NEWPID)];
    let birth = process::Birth { flags: CloneFlags::empty(), join: join_pid, cgroup: None, users: None, process: None };
    let request = JoinChild {
        spec: join.spec,
        args: join.args,
        env: join.env,
        cwd: join.cwd,
        user: join.user,
        groups: join.groups,
        exactly: join.exactly,
    };
    let exactly = join.exactly.map(|exactly| exactly.process);
    let start = Start {
        cgroup: join.cgroup,
        spec: join.spec,
        birth,
        launcher: join.launcher,
        program: first_word(exactly.map_or(Some(join.args), |process| process.args().as_deref())),
        processors: exactly.map(|process| process.exec_cpu_affinity().as_ref().into()),
        when_mounted: None,
        when_asked: join.exactly.map(|exactly| exactly.when_asked),
    };
    start.go(join.stdio, |stdio, channel| child::join(&request, pidfd, stdio, channel))
}

fn first_word(args: Option<&[String]>) -> String {
    args.and_then(<[String]>::first).cloned().unwrap_or_default()
}

/// What the child of [`launch`] works on.
struct LaunchChild<'a> {
    spec: &'a Spec,
    rootfs: &'a Path,
    prepared: mounts::Prepared,
    /// The mount namespace of others that it enters.
    mounts_of: Option<OwnedFd>,
    cgroup: &'a Cgroup,
    user: &'a str,
    groups: &'a [String],
    reaper: bool,
    lasting: bool,
    hold: Option<&'a Hold<'a>>,
}

/// What the child of [`join`] works on.
struct JoinChild<'a> {
    spec: &'a Spec,
    args: &'a [String],
    env: &'a [String],
    cwd: &'a str,
    user: &'a str,
    groups: &'a [String],
    exactly: Option<Exactly<'a>>,
}

/// What the child says on the pipe of its starter, beside the launcher's words and its own last ones: that its mounts
/// are made, which descriptor the kernel asks on, in four bytes, and that it waits at the gate.
const MOUNTED: u8 = b'm';
const ASKED: u8 = b'l';
const READY: u8 = b'r';

/// The child's end of the conversation with its starter.
struct Channel {
    /// Says "go on" by one byte: once the ids of a new user namespace are mapped, after [`MOUNTED`] and after [`ASKED`].
    go: OwnedFd,
    /// Takes what the launcher says right before the program, then is closed by that; or takes the error.
    errors: OwnedFd,
    /// Takes the terminal.
    terminal: OwnedFd,
    /// What becomes the program.
    launcher: OwnedFd,
}

/// A process that is to be made.
struct Start<'a> {
    cgroup: &'a Cgroup,
    spec: &'a Spec,
    birth: process::Birth,
    launcher: &'a Path,
    /// What errors are to call the program.
    program: String,
    /// Where somebody else says it.
    processors: Option<affinity::Processors<'a>>,
    when_mounted: Option<&'a dyn Fn(i32) -> Result<(), InitError>>,
    when_asked: Option<&'a Listener<'a>>,
}

impl Start<'_> {
    /// Forks into new namespaces; the child enters the group before it does anything. Waits for exec, for the gate, or
    /// for the error.
    fn go<F>(mut self, stdio: Stdio, body: F) -> Result<Launched, InitError>
    where
        F: FnOnce(Stdio, &Channel) -> InitError,
    {
        // The child is in sight of the container before its first instruction; it must be closed to it by then.
        credentials::not_dumpable().map_err(InitError::step("protect this process"))?;
        let mut entrance = self.cgroup.entrance().map_err(group_failed)?;
        self.birth.cgroup = entrance.birth.take();
        users::give(self.spec, &stdio).map_err(InitError::step("give the streams to the user namespace"))?;
        let launcher = launcher::open(self.launcher).map_err(InitError::step("seal the launcher"))?;
        let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from);
        let (go_read, go_write) = pipe().map_err(InitError::step("pipe"))?;
        let (errors_read, errors_write) = pipe().map_err(InitError::step("pipe"))?;
        let (terminal, terminal_child) = terminal::channel().map_err(InitError::step("socketpair"))?;
        let wants_terminal = matches!(stdio, Stdio::Terminal { .. });
        let forked = match self.processors {
            Some(processors) => processors.fork(|| process::fork_into(&self.birth)),
            None => process::fork_into(&self.birth),
        };
        let forked = forked.map_err(InitError::step("clone into new namespaces"))?;
        let Some((pid, pidfd)) = forked else {
            drop((go_write, errors_read, terminal));
            let channel = Channel { go: go_read, errors: errors_write, terminal: terminal_child, launcher };
            let entered = entrance.enter().map_err(group_failed).and_then(|()| {
                let settled = self.processors.map_or(Ok(()), affinity::Processors::settle);
                settled.map_err(InitError::step("process.execCPUAffinity.final"))
            });
            let error = entered.map_or_else(|error| error, |()| body(stdio, &channel));
            process::report_and_exit(&channel.errors, &error);
        };
        drop((go_read, errors_write, terminal_child, stdio, entrance, launcher));
        let child = (pid, pidfd.as_fd());
        let finished = self.supervise(child, go_write, errors_read).and_then(|()| match wants_terminal {
            true => terminal::receive(terminal.as_fd()).map(Some).map_err(InitError::step("receive the terminal")),
            false => Ok(None),
        });
        match finished {
            Ok(terminal) => Ok(Launched { pid, pidfd, terminal }),
            Err(error) => {
                process::end(&pidfd);
                Err(error)
            }
        }
    }

    /// Lets the child go on, and answers it until its program runs or waits at the gate.
    fn supervise(&self, child: (i32, BorrowedFd<'_>), go: OwnedFd, errors: OwnedFd) -> Result<(), InitError> {
        let (mut go, mut errors) = (File::from(go), File::from(errors));
        let mut go_on = || go.write_all(b"g").map_err(InitError::step("let the process go on"));
        go_on()?;
        let mut words = Vec::new();
        loop {
            let mut word = [0];
            match errors.read(&mut word).map_err(InitError::step("wait for the program"))? {
                0 => return outcome(&words, &self.program),
                _ if word == [MOUNTED] && words.is_empty() => {
                    self.when_mounted.map_or(Ok(()), |action| action(child.0))?;
                    go_on()?;
                }
                _ if word == [ASKED] && words.is_empty() => {
                    let listener = take_listener(child.1, &mut errors);
                    let listener = listener.map_err(InitError::step("take the descriptor of linux.seccomp"))?;
                    self.when_asked.map_or(Ok(()), |action| action(child.0, listener))?;
                    go_on()?;
                }
                _ if word == [READY] && words.is_empty() => return Ok(()),
                _ => {
                    words.extend(word);
                    errors.read_to_end(&mut words).map_err(InitError::step("wait for the program"))?;
                }
            }
        }
    }
}

/// A copy of the descriptor that the child says the number of.
fn take_listener(child: BorrowedFd<'_>, errors: &mut File) -> io::Result<OwnedFd> {
    let mut number = [0; 4];
    errors.read_exact(&mut number)?;
    sys::pidfd_getfd(child, i32::from_ne_bytes(number))
}

fn group_failed(error: crate::runtime::cgroup::Error) -> InitError {
    InitError::Step { step: "control group".into(), reason: error.to_string() }
}

/// What all that a process or its launcher said until its program ran means.
///
/// # Errors
/// Why the program does not run.
pub fn outcome(words: &[u8], program: &str) -> Result<(), InitError> {
    if words.is_empty() {
        // One that was killed is not to look like one whose pipe was closed by exec.
        return Err(InitError::Step { step: "start".into(), reason: "the process was killed on its way".into() });
    }
    if let Some(outcome) = launcher::outcome(words, program) {
        return outcome;
    }
    let lost = |error: serde_json::Error| InitError::Step { step: "start".into(), reason: error.to_string() };
    Err(serde_json::from_slice(words).map_err(lost)?)
}

/// The namespaces that the specification asks to be new. The control group's comes later: it must be made from inside
/// the container's group. That of users is there already.
fn new_namespaces(spec: &Spec) -> CloneFlags {
    let wanted = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let flag = |kind: LinuxNamespaceType| match kind {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        _ => CloneFlags::empty(),
    };
    let new = wanted.into_iter().flatten().filter(|namespace| namespace.path().is_none());
    new.fold(CloneFlags::empty(), |flags, namespace| flags | flag(namespace.typ()))
}

/// Whether the container has a namespace of this kind that is not the host's: new or by path.
pub fn has_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let wanted = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    wanted.into_iter().flatten().any(|namespace| namespace.typ() == kind)
}

/// The path of the namespace of this kind, where the specification names one.
fn namespace_path(spec: &Spec, kind: LinuxNamespaceType) -> Option<&Path> {
    let wanted = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    wanted.into_iter().flatten().find(|namespace| namespace.typ() == kind)?.path().as_deref()
}

/// The engine's own binary behind a read-only mount of its own, which is attached nowhere: what a shim is executed from
/// (`/proc/self/fd/N`), so that not even a container that may look into the engine's processes can write to the engine
/// through `/proc/PID/exe` (CVE-2019-5736).
///
/// # Errors
/// Where the kernel refuses to clone the mount, as without CAP_SYS_ADMIN.
pub fn sealed_engine(program: &Path) -> io::Result<OwnedFd> {
    let binary = sys::clone_mount(program)?;
    sys::restrict_mount(binary.as_fd(), mounts::READ_ONLY, true)?;
    Ok(binary)
}

/// Whether options of a mount can be done, as somebody else's specification has them; and whether they map ids.
///
/// # Errors
/// The word that can't.
pub fn check_mount_options(words: &[&str]) -> Result<bool, String> {
    options::parse(words).map(|options| options.ids.is_some())
}

/// The ids of `user[:group]`, looked up in the files of this root as for a container's process.
///
/// # Errors
/// [`InitError::User`].
pub fn ids_of(root: BorrowedFd<'_>, user: &str) -> Result<(u32, u32), InitError> {
    credentials::lookup(root, user, &[], None).map(|identity| (identity.uid, identity.gid))
}

/// Whether `user[:group]` and the further groups are known to the files of this root, as for a container's process.
///
/// # Errors
/// [`InitError::User`].
pub fn knows(root: BorrowedFd<'_>, user: &str, groups: &[String]) -> Result<(), InitError> {
    credentials::lookup(root, user, groups, None).map(drop)
}

/// Who `user[:group]` with the further groups is by the files of this root, within the ids that the specification has.
///
/// # Errors
/// [`InitError::User`].
pub fn identity(
    root: std::os::fd::BorrowedFd<'_>,
    user: &str,
    groups: &[String],
    spec: &Spec,
) -> Result<Identity, InitError> {
    credentials::lookup(root, user, groups, users::ids(spec))
}

/// The words by which the launcher, under this name, stays in front of the program as process 1. It looks for the program
/// where the variables say, and has nobody to tell of it but by its exit code.
pub fn reaper_arguments<'a>(launcher: &str, args: &[String], env: impl Iterator<Item = &'a String>) -> Vec<String> {
    let program = args.first().map_or("", String::as_str);
    let path = env.filter_map(|entry| entry.strip_prefix("PATH=")).last().unwrap_or(files::DEFAULT_PATH);
    let candidates: Vec<String> =
        files::candidates(program, path).iter().map(|path| path.display().to_string()).collect();
    let first = [launcher, "reap", "-1"].map(str::to_owned).into_iter();
    first.chain([candidates.len().to_string()]).chain(candidates).chain(args.iter().cloned()).collect()
}

/// A signal to the process, for callers that hold a [`Launched`].
///
/// # Errors
/// `ESRCH` when it has ended.
pub fn signal(launched: &Launched, signal: i32) -> io::Result<()> {
    sys::pidfd_send_signal(launched.pidfd.as_fd(), signal)
}

impl Launched {
    /// For poll(2): readable when the process has ended.
    pub fn raw_pidfd(&self) -> i32 {
        self.pidfd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests;
