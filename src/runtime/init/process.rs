//! Making and ending the child: the calls around fork.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::{InitError, namespace_path};
use crate::runtime::sys;

/// linux/sched.h; libc's has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Where a child is to be born.
pub struct Birth {
    /// Namespaces to make new.
    pub flags: CloneFlags,
    /// Namespaces of others to be in: the descriptor of a namespace, or of a process that is in it.
    pub join: Vec<(OwnedFd, CloneFlags)>,
    /// A group of version 2 to be in from the first instruction.
    pub cgroup: Option<OwnedFd>,
}

/// Forks; the child, for which this returns `None`, is in its namespaces and group. The parent gets a descriptor that
/// stands for the child from the first moment, and is itself where it was before.
///
/// Other's namespaces are entered by the parent, for a moment: only children can be in another pid namespace, and a
/// child in a user namespace of its own may not enter what belongs to the host.
pub fn fork_into(birth: &Birth) -> io::Result<Option<(i32, OwnedFd)>> {
    let own = |(_, kind): &(OwnedFd, CloneFlags)| Ok((File::open(own_path(*kind))?.into(), *kind));
    let own = birth.join.iter().map(own).collect::<io::Result<Vec<_>>>()?;
    let child = enter(&birth.join).and_then(|()| clone3(birth));
    if matches!(child, Ok(None)) {
        return child;
    }
    // Or the next container of this process would be born in these, or in what is left of them.
    enter(&own)?;
    child
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
        _ => "/proc/self/ns/uts",
    }
}

fn clone3(birth: &Birth) -> io::Result<Option<(i32, OwnedFd)>> {
    let mut pidfd: i32 = -1;
    // SAFETY: clone_args is plain data for which all zeroes is a valid value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = birth.flags.bits() as u64 | libc::CLONE_PIDFD as u64;
    if let Some(cgroup) = &birth.cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM the child has its own copy of memory, as after fork(2); the caller has one thread, so no
    // lock can be held by a thread that the child lacks. The arguments outlive the call and their size is passed.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, std::mem::size_of_val(&arguments)) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        // SAFETY: the kernel has put a new descriptor there, and nobody else knows it.
        pid => Ok(Some((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))),
    }
}

/// The namespaces that the specification names by path. The kernel refuses a file of another kind than was meant.
pub fn namespaces_by_path(spec: &Spec) -> Result<Vec<(OwnedFd, CloneFlags)>, InitError> {
    let kinds = [
        (LinuxNamespaceType::Network, CloneFlags::CLONE_NEWNET),
        (LinuxNamespaceType::Ipc, CloneFlags::CLONE_NEWIPC),
        (LinuxNamespaceType::Uts, CloneFlags::CLONE_NEWUTS),
        (LinuxNamespaceType::Pid, CloneFlags::CLONE_NEWPID),
    ];
    let named = kinds.into_iter().filter_map(|(kind, flag)| Some((namespace_path(spec, kind)?, flag)));
    let open = |(path, flag): (&Path, CloneFlags)| {
        let opened = File::open(path).map_err(InitError::step(format!("open the namespace {}", path.display())))?;
        Ok((opened.into(), flag))
    };
    named.map(open).collect()
}

/// Says which ids of the host the ids of a new user namespace are. Nothing to say where the specification has none.
pub fn map_ids(spec: &Spec, pid: i32) -> Result<(), InitError> {
    let Some(linux) = spec.linux().as_ref().filter(|_| super::has_namespace(spec, LinuxNamespaceType::User)) else {
        return Ok(());
    };
    for (file, mappings) in [("uid_map", linux.uid_mappings()), ("gid_map", linux.gid_mappings())] {
        let lines = mappings.iter().flatten();
        let lines = lines.map(|one| format!("{} {} {}\n", one.container_id(), one.host_id(), one.size()));
        // One write: the kernel takes no second one.
        let written = std::fs::write(format!("/proc/{pid}/{file}"), lines.collect::<String>());
        written.map_err(InitError::step(format!("write {file}")))?;
    }
    Ok(())
}

/// The child's last words.
pub fn report_and_exit(errors: &OwnedFd, error: &InitError) -> ! {
    let text = serde_json::to_vec(error).unwrap_or_default();
    if let Ok(copy) = errors.try_clone() {
        // When the starter is gone there is nobody to tell.
        drop(File::from(copy).write_all(&text));
    }
    // SAFETY: ends this process only, without running the parent's exit handlers.
    unsafe { libc::_exit(i32::from(error.exit_code())) }
}

/// Kills the child and takes its exit, so that no zombie stays.
pub fn end(pidfd: &OwnedFd) {
    // It may have ended by itself.
    drop(sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL));
    if let Err(error) = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
        tracing::debug!(%error, "take the exit of a child that failed");
    }
}
