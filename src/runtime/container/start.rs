//! Starting: the files that a start brings along, and the supervisor that does the rest.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Config, Container, Error, Paths, ProcessId, Start, cgroup, get, io_at, lock, skeleton};
use crate::runtime::apparmor;
use crate::runtime::home::Home;
use crate::runtime::init::{self, InitError, spec};
use crate::runtime::outside::Outside;
use crate::runtime::roots::Roots;
use crate::runtime::shim::{self, STARTED};
use crate::runtime::{state, sys};

/// Where a supervisor comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supervision {
    /// This program, started again: small for as long as the container runs.
    Anew,
    /// As `Anew`, for a caller that attaches to the container next: all that it writes goes to that.
    Awaited,
    /// As `Awaited`, by a fork of this process where it has one thread and the container can't look into its processes:
    /// quick, for a caller that stays until the container's end.
    Forked,
}

/// Starts the container under a supervisor of its own; returns when its program runs. One that runs already is left
/// alone. While the supervisor works, `meanwhile` is done.
///
/// # Errors
/// [`Error::Start`] says which step failed, or that the program is not there.
pub fn start(
    roots: &Roots,
    container: &Container,
    start: &Start,
    supervision: Supervision,
    meanwhile: impl FnOnce(),
) -> Result<(), Error> {
    let name = container.config.name.as_str();
    let paths = Paths::of(roots, name);
    let _lock = lock(&paths)?;
    // It may have been started, or removed, before the lock was ours.
    let container = get(roots, name)?;
    if container.status.abandoned {
        super::adopt::adopt_locked(roots, name)?;
    }
    if get(roots, name)?.is_running() {
        return Ok(());
    }
    clean(roots, &container.config)?;
    apparmor::ensure(roots);
    let homes = ["", &container.config.cgroup_parent].into_iter().filter_map(|parent| Home::of(roots, parent));
    let _held = homes.map(|home| home.hold(roots)).collect::<Result<Vec<_>, _>>()?;
    skeleton::ensure(&paths.skeleton)?;
    state::make_directory(&paths.run)?;
    state::remove_durably(&paths.ended)?;
    let awaited = (supervision != Supervision::Anew).then(|| ProcessId::of(std::process::id() as i32));
    state::write_json_volatile(&paths.start, &Start { awaited, ..start.clone() })?;
    let request = &container.config.request;
    for (path, text) in [
        (&paths.hosts, start.hosts.clone()),
        (&paths.resolv_conf, start.resolv_conf.clone()),
        (&paths.hostname, format!("{}\n", start.hostname.as_ref().unwrap_or(&request.hostname))),
    ] {
        fs::write(path, text).map_err(io_at(path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(io_at(path))?;
        if let Some(ids) = request.users {
            chown(path, Some(ids.first), Some(ids.first)).map_err(io_at(path))?;
        }
    }
    let lost =
        |source: io::Error| Error::Supervisor { name: name.to_owned(), reason: format!("can't be started: {source}") };
    let words = match supervision {
        Supervision::Forked if is_alone() && !spec::may_trace(request) => fork(roots, name, meanwhile),
        Supervision::Forked | Supervision::Awaited | Supervision::Anew => spawn(roots, name, &[], meanwhile),
    };
    hear(name, &words.map_err(lost)?)
}

/// Whether this process has one thread, as fork(2) asks for.
fn is_alone() -> bool {
    fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

/// Ends what a killed supervisor left behind: processes and their group. Its mounts ended with it.
pub(super) fn clean(roots: &Roots, config: &Config) -> Result<(), Error> {
    if let Some(outside) = Outside::of(roots, config) {
        outside.delete().map_err(io_at(outside.directory()))?;
    }
    let cgroup = cgroup(roots, config);
    loop {
        let processes = cgroup.processes();
        if processes.is_empty() {
            break;
        }
        for pid in processes {
            end(pid)?;
        }
    }
    Ok(cgroup.remove()?)
}

/// Kills one process and waits until it is gone.
fn end(pid: i32) -> Result<(), Error> {
    let Ok(pidfd) = sys::pidfd_open(pid) else { return Ok(()) };
    match sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(io_at(format!("process {pid}"))(error)),
        _ => {}
    }
    match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::from(5000_u16)) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(error) => Err(io_at(format!("process {pid}"))(error.into())),
    }
}

/// Forks the supervisor off this process, and reads what it says of the start.
fn fork(roots: &Roots, name: &str, meanwhile: impl FnOnce()) -> io::Result<String> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    shim::fork_off(roots, name, write)?;
    meanwhile();
    let mut text = String::new();
    File::from(read).read_to_string(&mut text)?;
    Ok(text)
}

/// Runs this program as the supervisor, and reads what it says of the start on its standard output. The supervisor's
/// children are in sight of the container.
pub(super) fn spawn(roots: &Roots, name: &str, further: &[&str], meanwhile: impl FnOnce()) -> io::Result<String> {
    let sealed = init::sealed_engine(&roots.program)?;
    let mut child = Command::new(format!("/proc/self/fd/{}", sealed.as_raw_fd()))
        .arg0("stack")
        .arg("shim")
        .arg("--root")
        .arg(&roots.root)
        .arg("--run-root")
        .arg(&roots.run)
        .arg(name)
        .args(further)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    meanwhile();
    let mut text = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut text)?;
    }
    child.wait()?;
    Ok(text)
}

/// What the supervisor's words mean.
pub(super) fn hear(name: &str, text: &str) -> Result<(), Error> {
    if text.trim() == STARTED {
        return Ok(());
    }
    let silent = || "ended before it said whether the container runs".to_owned();
    match serde_json::from_str::<InitError>(text) {
        Ok(source) => Err(Error::Start { name: name.to_owned(), source }),
        Err(_) => Err(Error::Supervisor { name: name.to_owned(), reason: silent() }),
    }
}
