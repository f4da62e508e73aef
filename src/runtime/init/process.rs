//! Making and ending the child: the calls around fork.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::{InitError, namespace_path};
use crate::runtime::sys;

/// Forks; the child, for which this returns `None`, is in the new namespaces. The parent gets a descriptor that stands
/// for the child from the first moment.
pub fn fork_into(flags: CloneFlags) -> io::Result<Option<(i32, OwnedFd)>> {
    let mut pidfd: i32 = -1;
    // SAFETY: clone_args is plain data for which all zeroes is a valid value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags.bits() as u64 | libc::CLONE_PIDFD as u64;
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

/// Later children of this process are made in the pid namespace that the specification names, if it does.
pub fn enter_pid_namespace(spec: &Spec) -> io::Result<()> {
    match namespace_path(spec, LinuxNamespaceType::Pid) {
        Some(path) => Ok(setns(File::open(path)?, CloneFlags::CLONE_NEWPID)?),
        None => Ok(()),
    }
}

/// Later children of this process are made in the pid namespace of that process.
pub fn enter_pid_namespace_of(pidfd: &OwnedFd) -> io::Result<()> {
    Ok(setns(pidfd.as_fd(), CloneFlags::CLONE_NEWPID)?)
}

/// Later children of this process are made where it is itself again.
pub fn leave_pid_namespace() -> io::Result<()> {
    Ok(setns(File::open("/proc/self/ns/pid")?, CloneFlags::CLONE_NEWPID)?)
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
    waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED).ok();
}
