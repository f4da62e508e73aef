//! A container's control group as a unit of systemd.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, pause};
use oci_spec::runtime::LinuxResources;

use super::{Error, io_at};
use crate::runtime::{init, sys, systemd};

/// `slice:prefix:name` of `linux.cgroupsPath`, where systemd makes the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub slice: String,
    pub unit: String,
}

impl Scope {
    /// Starts it, with these limits and a process that holds its place until the container's own is there: a scope that
    /// nobody is in ends.
    pub(super) fn start(&self, id: &str, resources: &LinuxResources) -> Result<Placeholder, Error> {
        let holder = Placeholder::new().map_err(io_at("hold a place in the scope"))?;
        systemd::start(systemd::Scope {
            unit: &self.unit,
            slice: &self.slice,
            description: &format!("container {id}"),
            pid: holder.pid,
            more: systemd::properties_of(resources, true),
        })?;
        Ok(holder)
    }
}

/// A process that does nothing, and ends with this value or with whoever made it.
pub(super) struct Placeholder {
    pid: i32,
    process: OwnedFd,
}

impl Placeholder {
    fn new() -> io::Result<Self> {
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
