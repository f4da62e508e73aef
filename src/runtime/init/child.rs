//! What the child does, as a list of named steps. The order is the security: what needs privilege comes before the
//! privilege goes, and the filter is last.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use super::credentials::{self, Identity};
use super::{Channel, InitError, JoinChild, LaunchChild, Stdio, files, mounts, namespace_path, terminal};
use crate::runtime::sys;

/// Becomes the container's program, or returns why not.
pub fn run(request: &LaunchChild<'_>, stdio: Stdio, channel: &Channel) -> InitError {
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

fn try_run(request: &LaunchChild<'_>, stdio: Stdio, channel: &Channel) -> Result<Infallible, InitError> {
    let spec = request.spec;
    let process = process(spec)?;
    at("wait for the control group", go(channel))?;
    at("lead a session", session())?;
    join_namespaces(spec)?;
    at("control group namespace", new_cgroup_namespace(spec))?;
    at("stop mounts from leaking", mounts::make_private())?;
    let root = at("root file system", mounts::bind_root(request.rootfs))?;
    mounts::mount_all(spec, root.as_fd())?;
    files::make_devices(spec, root.as_fd())?;
    let slave = open_terminal(&stdio, &root, channel)?;
    let identity = credentials::lookup(root.as_fd(), request.user, request.groups)?;
    at("change the root directory", mounts::pivot(&root))?;
    drop(root);
    at("host name", files::set_names(spec))?;
    files::set_sysctls(spec)?;
    mounts::restrict_paths(spec)?;
    at("read-only root", mounts::restrict_root(spec))?;
    let cwd = process.cwd().clone();
    at(&format!("working directory {}", cwd.display()), files::make_directory(&cwd))?;
    at("stdio", attach(stdio, slave))?;
    at("close descriptors", sys::close_on_exec_from(3))?;
    if request.reaper {
        at("process 1", super::reaper::split(channel.errors.as_raw_fd()))?;
    }
    become_program(process, &identity, &cwd, !request.reaper, super::spec::is_confined(spec))
}

fn try_join(
    request: &JoinChild<'_>,
    pidfd: &OwnedFd,
    stdio: Stdio,
    channel: &Channel,
) -> Result<Infallible, InitError> {
    at("wait for the control group", go(channel))?;
    // From here until exec a process of the container could see this one, which still has the host's program mapped
    // and host descriptors open (CVE-2016-9962, CVE-2019-5736): no one in there may trace or open it.
    at("protect this process", credentials::not_dumpable())?;
    at("lead a session", session())?;
    let all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWCGROUP;
    at("join the container", setns(pidfd.as_fd(), all).map_err(io::Error::from))?;
    let root = at("root directory", open_directory(Path::new("/")))?;
    let slave = open_terminal(&stdio, &root, channel)?;
    let identity = credentials::lookup(root.as_fd(), request.user, request.groups)?;
    drop(root);
    at("stdio", attach(stdio, slave))?;
    at("close descriptors", sys::close_on_exec_from(3))?;
    let process = exec_process(request)?;
    let cwd = process.cwd().clone();
    become_program(&process, &identity, &cwd, false, super::spec::is_confined(request.spec))
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

fn session() -> io::Result<()> {
    Ok(nix::unistd::setsid().map(drop)?)
}

fn join_namespaces(spec: &Spec) -> Result<(), InitError> {
    for kind in [LinuxNamespaceType::Network, LinuxNamespaceType::Ipc, LinuxNamespaceType::Uts] {
        if let Some(path) = namespace_path(spec, kind) {
            let joined = File::open(path).and_then(|file| Ok(setns(file, flag(kind))?));
            at(&format!("join the namespace {}", path.display()), joined)?;
        }
    }
    Ok(())
}

/// The kernel refuses a descriptor of another kind than was meant.
fn flag(kind: LinuxNamespaceType) -> CloneFlags {
    match kind {
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        _ => CloneFlags::CLONE_NEWUTS,
    }
}

/// Made from inside the container's group, so that the group is its root.
fn new_cgroup_namespace(spec: &Spec) -> io::Result<()> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let wanted = namespaces.is_some_and(|all| all.iter().any(|one| one.typ() == LinuxNamespaceType::Cgroup));
    if wanted { Ok(unshare(CloneFlags::CLONE_NEWCGROUP)?) } else { Ok(()) }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty())?)
}

fn open_terminal(stdio: &Stdio, root: &OwnedFd, channel: &Channel) -> Result<Option<OwnedFd>, InitError> {
    match stdio {
        Stdio::Terminal { rows, columns } => {
            let slave = at("terminal", terminal::open(root.as_fd(), *rows, *columns, channel.terminal.as_fd()))?;
            Ok(Some(slave))
        }
        Stdio::Pipes { .. } => Ok(None),
    }
}

fn attach(stdio: Stdio, slave: Option<OwnedFd>) -> io::Result<()> {
    if let Some(slave) = slave {
        terminal::control(&slave)?;
        return three(&slave, &slave, &slave);
    }
    let Stdio::Pipes { stdin, stdout, stderr } = stdio else { return Ok(()) };
    let stdin = stdin.map_or_else(|| File::open("/dev/null").map(OwnedFd::from), Ok)?;
    three(&stdin, &stdout, &stderr)
}

fn three(stdin: &OwnedFd, stdout: &OwnedFd, stderr: &OwnedFd) -> io::Result<()> {
    nix::unistd::dup2_stdin(stdin)?;
    nix::unistd::dup2_stdout(stdout)?;
    nix::unistd::dup2_stderr(stderr)?;
    Ok(())
}

/// The last steps, the same for the first process and for further ones.
fn become_program(
    process: &Process,
    identity: &Identity,
    cwd: &Path,
    ends_with_us: bool,
    confined: bool,
) -> Result<Infallible, InitError> {
    at("out-of-memory score", credentials::set_oom_score(process))?;
    credentials::set_rlimits(process)?;
    at("signals", credentials::reset_signals())?;
    credentials::drop_privileges(process, identity, confined)?;
    at(&format!("working directory {}", cwd.display()), files::enter(cwd))?;
    if ends_with_us {
        // After the change of user, which would clear it again.
        at("end with the supervisor", credentials::die_with_parent())?;
    }
    files::exec(process, identity)
}
