//! What is others' and what this container lives in: namespaces of another container, and directories in volumes that
//! others write to, too. They are looked up at each start: the other one may have been started again meanwhile, and has
//! new namespaces then; and what was a directory may be a link. Images that it mounts are made here, too.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use super::images;
use crate::runtime::container::{self, Paths, ProcessId};
use crate::runtime::init::InitError;
use crate::runtime::init::spec::{MountSource, Namespace, Request};
use crate::runtime::roots::Roots;
use crate::runtime::{sys, userns, volume};

const SHARED_MEMORY: &str = "/dev/shm";

/// What is held of others until the container has started.
#[derive(Default)]
pub struct Joined {
    held: Vec<OwnedFd>,
    /// Mounts, by where they belong.
    pub mounts: Vec<(PathBuf, OwnedFd)>,
}

/// Turns containers that the request names into namespaces, and directories in volumes into what they are now. Who shares messages with another shares its /dev/shm, too.
///
/// # Errors
/// Where the other container does not run, or a link is on the way to a directory in a volume.
pub fn resolve(
    roots: &Roots,
    paths: &Paths,
    request: &mut Request,
    users: Option<&OwnedFd>,
) -> Result<Joined, InitError> {
    let mut joined = Joined::default();
    if let Namespace::Container(name) = &request.pid {
        request.pid = joined.hold(roots, name, "pid")?;
    }
    if let Namespace::Container(name) = &request.ipc {
        let memory = at(name, "ipc", shared_memory(process(roots, name, "ipc")?))?;
        joined.mounts.push((PathBuf::from(SHARED_MEMORY), memory));
        request.ipc = joined.hold(roots, name, "ipc")?;
    }
    joined.mounts.extend(images::mounts(request, paths, users)?);
    for mount in &mut request.mounts {
        let MountSource::Bind { source, .. } = &mut mount.source else { continue };
        let opened = volume::open_inside(roots, source);
        let step = || format!("mount {}: source {}", mount.target.display(), source.display());
        let opened = opened.map_err(|error| InitError::Step { step: step(), reason: error.to_string() })?;
        if let Some(opened) = opened {
            *source = descriptor(&opened);
            joined.held.push(opened);
        }
    }
    Ok(joined)
}

/// The user namespace of the container whose processes or messages this one shares; `None` where it shares none, or is
/// on the host's ids.
///
/// # Errors
/// Where the other does not run, or has other ids.
pub fn users(roots: &Roots, request: &Request) -> Result<Option<OwnedFd>, InitError> {
    let Some(ids) = request.users else { return Ok(None) };
    let other = [(&request.pid, "pid"), (&request.ipc, "ipc")].into_iter().find_map(|(one, kind)| match one {
        Namespace::Container(name) => Some((name, kind)),
        _ => None,
    });
    let Some((name, kind)) = other else { return Ok(None) };
    let users = at(name, kind, namespace(process(roots, name, kind)?, "user"))?;
    match userns::has(users.as_fd(), ids) {
        true => Ok(Some(users)),
        false => {
            Err(failed(name, kind, &"it has other ids than this one was made with; remove this one and make it anew"))
        }
    }
}

impl Joined {
    fn hold(&mut self, roots: &Roots, name: &str, kind: &str) -> Result<Namespace, InitError> {
        let namespace = at(name, kind, namespace(process(roots, name, kind)?, kind))?;
        let path = descriptor(&namespace);
        self.held.push(namespace);
        Ok(Namespace::Path(path))
    }
}

/// Names what is open, whatever becomes of its path.
fn descriptor(opened: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()))
}

fn at<T>(name: &str, kind: &str, result: io::Result<T>) -> Result<T, InitError> {
    result.map_err(|error| failed(name, kind, &error))
}

fn failed(name: &str, kind: &str, reason: &dyn std::fmt::Display) -> InitError {
    InitError::Step { step: format!("join the {kind} namespace of container {name:?}"), reason: reason.to_string() }
}

fn process(roots: &Roots, name: &str, kind: &str) -> Result<ProcessId, InitError> {
    let other = container::get(roots, name).map_err(|error| failed(name, kind, &error))?;
    let process = other.status.process;
    if other.is_running() && process.is_alive() { Ok(process) } else { Err(failed(name, kind, &"it does not run")) }
}

/// The namespace of this very process, not of a later one that was given its number.
fn namespace(process: ProcessId, kind: &str) -> io::Result<OwnedFd> {
    let opened = File::open(format!("/proc/{}/ns/{kind}", process.pid))?;
    if process.is_alive() { Ok(opened.into()) } else { Err(io::Error::other("it has ended")) }
}

/// A copy of the mount at /dev/shm of that process. It can be taken only from inside its mount namespace, where a thread
/// goes and does not come back from.
fn shared_memory(process: ProcessId) -> io::Result<OwnedFd> {
    let theirs = namespace(process, "mnt")?;
    let thread = thread::Builder::new().name("shm".into()).spawn(move || {
        unshare(CloneFlags::CLONE_FS)?;
        setns(theirs, CloneFlags::CLONE_NEWNS)?;
        take_memory()
    });
    thread?.join().map_err(|_| io::Error::other("the thread in its mount namespace failed"))?
}

fn take_memory() -> io::Result<OwnedFd> {
    let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let memory = sys::open_without_links(root.as_fd(), Path::new("dev/shm"), flags)?;
    if fstatfs(&memory)?.filesystem_type() != TMPFS_MAGIC {
        return Err(io::Error::other("its /dev/shm is not a tmpfs"));
    }
    sys::clone_mount_of(memory.as_fd())
}
