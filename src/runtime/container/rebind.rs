//! Another file in the place of one that is bound into a container that runs: its mount namespace is joined by a thread,
//! which does not come back, and the mount in it is exchanged. At no moment is there nothing.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::thread;

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;

use super::{Error, ProcessId, get};
use crate::runtime::init::spec::MountSource;
use crate::runtime::roots::Roots;
use crate::runtime::{init, sys, volume};

/// Shows at the target what its source on this host is by now.
///
/// # Errors
/// [`Error::NotRunning`]; [`Error::Rebind`] where the container has no such mount, or the kernel says no.
pub fn rebind(roots: &Roots, name: &str, target: &Path) -> Result<(), Error> {
    let container = get(roots, name)?;
    let process = container.status.process;
    if !container.is_running() || !process.is_alive() {
        return Err(Error::NotRunning(name.to_owned()));
    }
    let failed = |source| Error::Rebind { name: name.to_owned(), target: target.to_owned(), source };
    let mount = container.config.request.mounts.iter().find(|mount| mount.target == target);
    let Some((source, mapped, read_only)) = mount.and_then(|mount| match &mount.source {
        MountSource::Bind { source, mapped, .. } => Some((source, *mapped, mount.read_only)),
        _ => None,
    }) else {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "nothing is bound there")));
    };
    let users = match container.config.request.users.filter(|_| mapped) {
        Some(_) => Some(namespace(process, "user").map_err(failed)?),
        None => None,
    };
    let inside = volume::open_inside(roots, source).map_err(failed)?;
    let path = inside.as_ref().map(|inside| format!("/proc/self/fd/{}", inside.as_raw_fd()));
    let source = path.as_ref().map_or(source.as_path(), Path::new);
    let made = init::bind(source, read_only, users.as_ref()).map_err(failed)?;
    exchange(process, made, target).map_err(failed)
}

/// The namespace of this very process, not of a later one that was given its number.
fn namespace(process: ProcessId, kind: &str) -> io::Result<OwnedFd> {
    let path = format!("/proc/{}/ns/{kind}", process.pid);
    let opened = open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    if process.is_alive() { Ok(opened) } else { Err(io::Error::other("it has ended")) }
}

fn exchange(process: ProcessId, mount: OwnedFd, target: &Path) -> io::Result<()> {
    let theirs = namespace(process, "mnt")?;
    // What the thread has open of /proc there is not ours.
    let proc = open("/proc", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let target = target.strip_prefix("/").unwrap_or(target).to_owned();
    let thread = thread::Builder::new().name("rebind".into()).spawn(move || {
        unshare(CloneFlags::CLONE_FS)?;
        setns(theirs, CloneFlags::CLONE_NEWNS)?;
        inside(&mount, &target, &proc)
    });
    thread?.join().map_err(|_| io::Error::other("the thread in its mount namespace failed"))?
}

/// In the container's mount namespace. The path is resolved inside its root, as at the start.
fn inside(mount: &OwnedFd, target: &Path, proc: &OwnedFd) -> io::Result<()> {
    let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let old = sys::open_in_root(root.as_fd(), target, libc::O_PATH, 0)?;
    let is_mounted = sys::is_root_of_mount(old.as_fd())?;
    match is_mounted.then(|| sys::attach_mount_beneath(mount.as_fd(), old.as_fd())) {
        Some(Ok(())) => {}
        // Nothing is there any more; or Linux before 6.5: the old one stays below.
        _ => return sys::attach_mount(mount.as_fd(), old.as_fd()),
    }
    nix::unistd::fchdir(proc)?;
    // By its descriptor: the container has no say in what that path leads to.
    Ok(umount2(format!("self/fd/{}", old.as_raw_fd()).as_str(), MntFlags::MNT_DETACH)?)
}
