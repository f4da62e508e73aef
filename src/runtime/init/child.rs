//! What the child does, as a list of named steps. The order is the security: what needs privilege comes before the
//! privilege goes, and the filter is last.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use super::credentials::{self, Identity};
use super::labels::{self, Labels};
use super::{
    ASKED, Channel, InitError, JoinChild, LaunchChild, MOUNTED, READY, Stdio, clocks, exactly, files, has_namespace,
    launcher, letter, mounts, namespace_path, terminal, users,
};
use crate::runtime::network::sandbox;
use crate::runtime::sys;

/// Becomes the container's program, or returns why not.
pub fn run(request: LaunchChild<'_>, stdio: Stdio, channel: &Channel) -> InitError {
    let Err(error) = try_run(request, stdio, channel);
    error
}

/// Becomes a further program of the container, or returns why not.
pub fn join(request: &JoinChild<'_>, pidfd: &OwnedFd, stdio: Stdio, channel: &Channel) -> InitError {
    let Err(error) = try_join(request, pidfd, stdio, channel);
    error
}

fn at<T>(step: &str, result: io::Result<T>) -> Result<T, InitError> {
    result.map_err(InitError::step(step))
}

fn try_run(request: LaunchChild<'_>, stdio: Stdio, channel: &Channel) -> Result<Infallible, InitError> {
    let spec = request.spec;
    let process = process(spec)?;
    at("hide the engine's arguments", sys::hide_arguments())?;
    at("wait for the starter", go(channel))?;
    at("out-of-memory score", credentials::set_oom_score(process))?;
    at("lead a session", session())?;
    let labels = prepare_labels(process, request.hold.is_some())?;
    at("root of the user namespace", own_root(spec))?;
    at("control group namespace", new_cgroup_namespace(spec))?;
    at("network namespace", furnish_network(spec, request.hold.is_some()))?;
    if let Some(namespace) = &request.mounts_of {
        at("mount namespace", setns(namespace, CloneFlags::CLONE_NEWNS).map_err(io::Error::from))?;
    }
    at("stop mounts from leaking", mounts::make_private())?;
    let mut prepared = request.prepared;
    let root = match prepared.root.take() {
        Some(root) => at("root file system", mounts::attach_root(root))?,
        None => at("root file system", mounts::bind_root(request.rootfs))?,
    };
    let letter = if request.hold.is_some() { mounts::Letter::Exact } else { mounts::Letter::Own };
    let proc = mounts::mount_all(spec, root.as_fd(), request.cgroup, &prepared, letter)?;
    files::make_devices(spec, root.as_fd())?;
    let slave = open_terminal(&stdio, &root, channel, request.hold.is_some_and(|hold| hold.plain_lines))?;
    if let Some(slave) = &slave {
        at("make /dev/console", files::make_console(root.as_fd(), slave.as_fd()))?;
    }
    if request.hold.is_some() {
        at("write-protect /dev", letter::finish_dev(spec, root.as_fd()))?;
    }
    let identity = match request.hold {
        Some(_) => exactly::identity(root.as_fd(), process)?,
        None => credentials::lookup(root.as_fd(), request.user, request.groups, users::ids(spec))?,
    };
    if let Some(hold) = request.hold {
        at("say that the mounts are made", say(channel, MOUNTED))?;
        at("wait for the starter", go(channel))?;
        (hold.before_pivot)()?;
    }
    let cwd = process.cwd().clone();
    at(&format!("make the working directory {}", cwd.display()), files::make_directory(root.as_fd(), &cwd))?;
    at("change the root directory", mounts::pivot(&root))?;
    drop(root);
    at("host name", files::set_names(spec))?;
    if let Some(proc) = &proc {
        files::set_sysctls(spec, proc.as_fd())?;
    }
    mounts::restrict_paths(spec, proc.as_ref())?;
    drop(proc);
    at("read-only root", mounts::restrict_root(spec))?;
    if request.hold.is_some() {
        at("linux.rootfsPropagation", letter::set_root_propagation(spec))?;
    }
    at("stdio", attach(stdio, slave, &identity))?;
    if let Some(hold) = request.hold {
        exactly::restrict(process, &identity, spec, hold.preserved, channel)?;
        at("say that it is ready", say(channel, READY))?;
        return exactly::wait_and_exec(process, &identity, channel, hold, labels);
    }
    let place = if request.reaper { Place::BehindReaper } else { Place::First };
    become_program(process, &identity, spec, channel, place, request.lasting)
}

fn say(channel: &Channel, word: u8) -> io::Result<()> {
    File::from(channel.errors.try_clone()?).write_all(&[word])
}

/// Has the starter take the descriptor on which the kernel asks, and keeps none: where nobody has it any more, the
/// kernel answers by itself.
pub fn give_listener(channel: &Channel, listener: OwnedFd) -> io::Result<()> {
    let mut words = vec![ASKED];
    words.extend(listener.as_raw_fd().to_ne_bytes());
    // One write: the filter that holds by now may have somebody asked about any other call.
    nix::unistd::write(&channel.errors, &words)?;
    go(channel)?;
    drop(listener);
    Ok(())
}

fn try_join(
    request: &JoinChild<'_>,
    pidfd: &OwnedFd,
    stdio: Stdio,
    channel: &Channel,
) -> Result<Infallible, InitError> {
    let process = match request.exactly {
        Some(exactly) => exactly.process.clone(),
        None => exec_process(request)?,
    };
    at("hide the engine's arguments", sys::hide_arguments())?;
    at("wait for the starter", go(channel))?;
    at("limits and out-of-memory score", credentials::take_from_host(&process))?;
    at("lead a session", session())?;
    let labels = prepare_labels(&process, request.exactly.is_some())?;
    let mut all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWCGROUP;
    all.set(CloneFlags::CLONE_NEWUSER, has_namespace(request.spec, LinuxNamespaceType::User));
    all.set(clocks::CLONE_NEWTIME, has_namespace(request.spec, LinuxNamespaceType::Time));
    at("join the container", setns(pidfd.as_fd(), all).map_err(io::Error::from))?;
    at("root of the user namespace", own_root(request.spec))?;
    let root = at("root directory", open_directory(Path::new("/")))?;
    let slave = open_terminal(&stdio, &root, channel, request.exactly.is_some_and(|exactly| exactly.plain_lines))?;
    let identity = match request.exactly {
        Some(exactly) => exactly::identity(root.as_fd(), exactly.process)?,
        None => credentials::lookup(root.as_fd(), request.user, request.groups, users::ids(request.spec))?,
    };
    drop(root);
    at("stdio", attach(stdio, slave, &identity))?;
    if let Some(exactly) = request.exactly {
        exactly::restrict(&process, &identity, request.spec, exactly.preserved, channel)?;
        at("process.apparmorProfile and selinuxLabel", labels.write())?;
        return files::exec(&process, &identity, channel, &channel.errors, launcher::Mode::Exec);
    }
    become_program(&process, &identity, request.spec, channel, Place::Further, true)
}

/// Those of a bundle are written after its hooks; those of the engine's own container at once, and count from its first
/// program on all the same.
fn prepare_labels(process: &Process, later: bool) -> Result<Labels, InitError> {
    let prepared = at("process.apparmorProfile and selinuxLabel", Labels::prepare(process))?;
    if later {
        return Ok(prepared);
    }
    labels::check(process).map_err(|(step, reason)| InitError::Step { step: step.to_owned(), reason })?;
    at("security_opt", prepared.write())?;
    Ok(Labels::default())
}

fn process(spec: &Spec) -> Result<&Process, InitError> {
    let missing = || InitError::Step { step: "specification".into(), reason: "it has no process".into() };
    spec.process().as_ref().ok_or_else(missing)
}

/// The container's own process with other words: its capabilities, limits and filter hold for this one too.
fn exec_process(request: &JoinChild<'_>) -> Result<Process, InitError> {
    let mut process = process(request.spec)?.clone();
    process.set_args(Some(request.args.to_vec()));
    process.set_env(Some(request.env.to_vec()));
    process.set_cwd(PathBuf::from(request.cwd));
    Ok(process)
}

fn go(channel: &Channel) -> io::Result<()> {
    let mut byte = [0];
    File::from(channel.go.try_clone()?).read_exact(&mut byte)
}

/// Also leaves the engine's session keyring, and its mask for new files.
fn session() -> io::Result<()> {
    nix::unistd::setsid()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    match sys::new_session_keyring() {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other,
    }
}

/// A user namespace knows nothing of the ids that its processes had outside.
fn own_root(spec: &Spec) -> io::Result<()> {
    if !has_namespace(spec, LinuxNamespaceType::User) {
        return Ok(());
    }
    users::check(spec)?;
    credentials::become_root()
}

/// Made from inside the container's group, so that the group is its root.
fn new_cgroup_namespace(spec: &Spec) -> io::Result<()> {
    let kind = LinuxNamespaceType::Cgroup;
    let wanted = has_namespace(spec, kind) && namespace_path(spec, kind).is_none();
    if wanted { Ok(unshare(CloneFlags::CLONE_NEWCGROUP)?) } else { Ok(()) }
}

/// Only one that was made for this container: what a path names was furnished by its maker.
fn furnish_network(spec: &Spec, exactly: bool) -> io::Result<()> {
    let own = has_namespace(spec, LinuxNamespaceType::Network);
    match own && namespace_path(spec, LinuxNamespaceType::Network).is_none() {
        true if exactly => sandbox::set_loopback_up(),
        true => sandbox::furnish(),
        false => Ok(()),
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty())?)
}

fn open_terminal(
    stdio: &Stdio,
    root: &OwnedFd,
    channel: &Channel,
    plain_lines: bool,
) -> Result<Option<OwnedFd>, InitError> {
    match stdio {
        Stdio::Terminal { rows, columns } => {
            let slave = at("terminal", terminal::open(root.as_fd(), *rows, *columns, channel.terminal.as_fd()))?;
            if plain_lines {
                at("terminal", terminal::end_lines_plainly(&slave))?;
            }
            Ok(Some(slave))
        }
        Stdio::Pipes { .. } => Ok(None),
    }
}

fn attach(stdio: Stdio, slave: Option<OwnedFd>, identity: &Identity) -> io::Result<()> {
    if let Some(slave) = slave {
        terminal::control(&slave)?;
        own(&slave, identity)?;
        return three(&slave, &slave, &slave);
    }
    let Stdio::Pipes { stdin, stdout, stderr } = stdio else { return Ok(()) };
    // So that a user other than root can open /dev/stderr.
    for end in stdin.iter().chain([&stdout, &stderr]) {
        own(end, identity)?;
    }
    let stdin = stdin.map_or_else(files::open_null, Ok)?;
    three(&stdin, &stdout, &stderr)
}

/// Gives a pipe or terminal, and nothing else, to the program's user.
fn own(end: &OwnedFd, identity: &Identity) -> io::Result<()> {
    let is_terminal = nix::unistd::isatty(end).unwrap_or(false);
    let kind = nix::sys::stat::fstat(end)?.st_mode & libc::S_IFMT;
    if identity.uid == 0 || !(is_terminal || kind == libc::S_IFIFO) {
        return Ok(());
    }
    Ok(nix::unistd::fchown(end, Some(nix::unistd::Uid::from_raw(identity.uid)), None)?)
}

fn three(stdin: &OwnedFd, stdout: &OwnedFd, stderr: &OwnedFd) -> io::Result<()> {
    nix::unistd::dup2_stdin(stdin)?;
    nix::unistd::dup2_stdout(stdout)?;
    nix::unistd::dup2_stderr(stderr)?;
    Ok(())
}

/// Which process of the container the program becomes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    First,
    BehindReaper,
    Further,
}

/// The last steps, the same for the first process and for further ones. What is not `lasting` ends with its starter.
fn become_program(
    process: &Process,
    identity: &Identity,
    spec: &Spec,
    channel: &Channel,
    place: Place,
    lasting: bool,
) -> Result<Infallible, InitError> {
    let cwd = process.cwd();
    at("close descriptors", sys::close_on_exec_from(3))?;
    at(&format!("working directory {}", cwd.display()), files::enter(cwd))?;
    credentials::set_rlimits(process)?;
    at("signals", credentials::reset_signals())?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    credentials::drop_privileges(process, identity, spec)?;
    if !lasting {
        // After the change of user, which would clear it again.
        at("end with the supervisor", credentials::die_with_parent())?;
    }
    let mode = if place == Place::BehindReaper { launcher::Mode::Reap } else { launcher::Mode::Exec };
    files::exec(process, identity, channel, &channel.errors, mode)
}
