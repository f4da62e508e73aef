//! Whoever holds the place of a process that is still to come: a scope that nobody is in ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, pause};

use crate::runtime::{init, sys};

/// A process that does nothing, and ends with this value or with whoever made it.
pub struct Placeholder {
    pid: i32,
    process: OwnedFd,
}

impl Placeholder {
    /// Of a process that may have further threads: the copy makes system calls alone.
    ///
    /// # Errors
    /// Where there can be no further process.
    pub fn new() -> io::Result<Self> {
        let own = Pid::this();
        let Some((pid, process)) = sys::clone_process(CloneFlags::empty(), None)? else {
            // Its maker may have ended before it could be told to end with it.
            while init::die_with_parent().is_ok() && Pid::parent() == own {
                pause();
            }
            sys::end_at_once(1)
        };
        Ok(Self { pid, process })
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Placeholder {
    /// By a signal: what the container's first process has open before it runs its program is a copy of all that is open
    /// here, so that no end of a pipe would tell.
    fn drop(&mut self) {
        let ended = sys::pidfd_send_signal(self.process.as_fd(), libc::SIGKILL)
            .and_then(|()| Ok(waitid(Id::PIDFd(self.process.as_fd()), WaitPidFlag::WEXITED)?));
        if let Err(error) = ended {
            tracing::warn!(%error, "end the scope's first process");
        }
    }
}
