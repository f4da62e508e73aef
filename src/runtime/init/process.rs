//! Making and ending the child: the calls around fork.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use super::{InitError, clocks, credentials, namespace_path};
use crate::runtime::{sys, userns};

/// Where a child is to be born.
pub struct Birth {
    /// Namespaces to make new.
    pub flags: CloneFlags,
    /// Namespaces of others to be in: the descriptor of a namespace, or of a process that is in it.
    pub join: Vec<(OwnedFd, CloneFlags)>,
    /// A group of version 2 to be in from the first instruction.
    pub cgroup: Option<OwnedFd>,
    /// The user namespace to be in; what is made new belongs to it.
    pub users: Option<OwnedFd>,
    /// Who the child becomes, where it needs rights for that which a user namespace takes from it.
    pub process: Option<Process>,
}

/// Forks; the child, for which this returns `None`, is in its namespaces and group. The parent gets a descriptor that
/// stands for the child from the first moment, and is itself where it was before.
pub fn fork_into(birth: &Birth) -> io::Result<Option<(i32, OwnedFd)>> {
    match &birth.users {
        Some(users) => fork_through(birth, Some(users)),
        // An ordinary user's process could not come back to namespaces that are root's.
        None if !birth.join.is_empty() && userns::own_size().is_some() => fork_through(birth, None),
        None => fork_from_here(birth),
    }
}

/// Other's namespaces are entered by the parent, for a moment: only children can be in another pid namespace.
fn fork_from_here(birth: &Birth) -> io::Result<Option<(i32, OwnedFd)>> {
    let own = |(_, kind): &(OwnedFd, CloneFlags)| Ok((File::open(own_path(*kind))?.into(), *kind));
    let own = birth.join.iter().map(own).collect::<io::Result<Vec<_>>>()?;
    let group = birth.cgroup.as_ref().map(AsFd::as_fd);
    let child = enter(&birth.join).and_then(|()| sys::clone_process(birth.flags, group));
    if matches!(child, Ok(None)) {
        return child;
    }
    // Or the next container of this process would be born in these, or in what is left of them.
    enter(&own)?;
    child
}

/// Nobody comes back from a user namespace, nor to one of somebody else's: a messenger enters it, and makes the child
/// there, which is not the messenger's but this process's (`CLONE_PARENT`).
fn fork_through(birth: &Birth, users: Option<&OwnedFd>) -> io::Result<Option<(i32, OwnedFd)>> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let Some((_, messenger)) = sys::clone_process(CloneFlags::empty(), None)? else {
        return match fork_inside(birth, users) {
            Ok(None) => Ok(None),
            Ok(Some((pid, _))) => tell(&write, pid),
            Err(error) => tell(&write, -error.raw_os_error().unwrap_or(libc::EIO)),
        };
    };
    drop(write);
    let mut bytes = [0; 4];
    let heard = File::from(read).read_exact(&mut bytes);
    waitid(Id::PIDFd(messenger.as_fd()), WaitPidFlag::WEXITED)?;
    heard?;
    match i32::from_ne_bytes(bytes) {
        error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
        // It is ours to wait for, so nobody else can have the number yet.
        pid => Ok(Some((pid, sys::pidfd_open(pid)?))),
    }
}

fn fork_inside(birth: &Birth, users: Option<&OwnedFd>) -> io::Result<Option<(i32, OwnedFd)>> {
    enter(&birth.join)?;
    if let Some(users) = users {
        birth.process.as_ref().map_or(Ok(()), credentials::take_from_host)?;
        setns(users, CloneFlags::CLONE_NEWUSER)?;
    }
    // The kernel makes no sibling in a new pid namespace, but one for whose maker it was new.
    unshare(birth.flags & CloneFlags::CLONE_NEWPID)?;
    let flags = (birth.flags - CloneFlags::CLONE_NEWPID) | CloneFlags::CLONE_PARENT;
    sys::clone_process(flags, birth.cgroup.as_ref().map(AsFd::as_fd))
}

fn tell(write: &OwnedFd, word: i32) -> ! {
    // Its parent may have been killed; then the child hears that by itself.
    let told = nix::unistd::write(write, &word.to_ne_bytes());
    sys::exit_now(i32::from(told.is_err()))
}

fn enter(namespaces: &[(OwnedFd, CloneFlags)]) -> io::Result<()> {
    for (namespace, kind) in namespaces {
        setns(namespace, *kind)?;
    }
    Ok(())
}

fn own_path(kind: CloneFlags) -> &'static str {
    match kind {
        CloneFlags::CLONE_NEWPID => "/proc/self/ns/pid",
        CloneFlags::CLONE_NEWNET => "/proc/self/ns/net",
        CloneFlags::CLONE_NEWIPC => "/proc/self/ns/ipc",
        CloneFlags::CLONE_NEWCGROUP => "/proc/self/ns/cgroup",
        clocks::CLONE_NEWTIME => "/proc/self/ns/time",
        _ => "/proc/self/ns/uts",
    }
}

/// The namespaces of others that the child is born in: those that the specification names by path, and its clocks. The
/// kernel refuses a file of another kind than was meant.
pub fn namespaces_to_join(spec: &Spec) -> Result<Vec<(OwnedFd, CloneFlags)>, InitError> {
    let kinds = [
        (LinuxNamespaceType::Time, clocks::CLONE_NEWTIME),
        (LinuxNamespaceType::Cgroup, CloneFlags::CLONE_NEWCGROUP),
        (LinuxNamespaceType::Network, CloneFlags::CLONE_NEWNET),
        (LinuxNamespaceType::Ipc, CloneFlags::CLONE_NEWIPC),
        (LinuxNamespaceType::Uts, CloneFlags::CLONE_NEWUTS),
        (LinuxNamespaceType::Pid, CloneFlags::CLONE_NEWPID),
    ];
    let named = kinds.into_iter().filter_map(|(kind, flag)| Some((namespace_path(spec, kind)?, flag)));
    let mut all = named.map(|(path, flag)| Ok((open(path)?, flag))).collect::<Result<Vec<_>, InitError>>()?;
    all.extend(clocks::namespace(spec)?.map(|clocks| (clocks, clocks::CLONE_NEWTIME)));
    Ok(all)
}

fn open(path: &Path) -> Result<OwnedFd, InitError> {
    let opened = File::open(path).map_err(InitError::step(format!("open the namespace {}", path.display())))?;
    Ok(opened.into())
}

/// The mount namespace that the specification names by path, whose root becomes the container's: never this process's.
pub fn mounts_by_path(spec: &Spec) -> Result<Option<OwnedFd>, InitError> {
    let Some(path) = namespace_path(spec, LinuxNamespaceType::Mount) else { return Ok(None) };
    let namespace = open(path)?;
    let number = |file: &OwnedFd| Ok::<_, io::Error>(nix::sys::stat::fstat(file)?.st_ino);
    let is_own = number(&open(Path::new("/proc/self/ns/mnt"))?).and_then(|own| Ok(own == number(&namespace)?));
    match is_own.map_err(InitError::step("mount namespace"))? {
        true => Err(InitError::step("mount namespace")(io::Error::other("it is the host's own"))),
        false => Ok(Some(namespace)),
    }
}

/// The child's last words.
pub fn report_and_exit(errors: &OwnedFd, error: &InitError) -> ! {
    let text = serde_json::to_vec(error).unwrap_or_default();
    if let Ok(copy) = errors.try_clone() {
        // When the starter is gone there is nobody to tell.
        drop(File::from(copy).write_all(&text));
    }
    sys::exit_now(i32::from(error.exit_code()))
}

/// Kills the child and takes its exit, so that no zombie stays.
pub fn end(pidfd: &OwnedFd) {
    // It may have ended by itself.
    drop(sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL));
    if let Err(error) = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
        tracing::debug!(%error, "take the exit of a child that failed");
    }
}
