//! Hearing of it when the kernel runs out of what a group may have of memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Cgroup, Error};

/// Open for as long as somebody wants to hear.
#[derive(Debug)]
pub struct OomWatch {
    group: Cgroup,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Version 2: `memory.events` with the kills that were heard of. A change of the file is urgent to poll(2).
    File { file: File, kills: u64 },
    /// Version 1: a descriptor that the kernel counts up.
    Event(EventFd),
}

impl OomWatch {
    /// # Errors
    /// Where memory is not controlled.
    pub fn of(group: &Cgroup) -> Result<Self, Error> {
        let kind = if group.is_unified() { file(group) } else { event(group) };
        Ok(Self { group: group.clone(), kind: kind? })
    }

    /// To wait by.
    pub fn poll_fd(&self) -> PollFd<'_> {
        match &self.kind {
            Kind::File { file, .. } => PollFd::new(file.as_fd(), PollFlags::POLLPRI),
            Kind::Event(event) => PollFd::new(event.as_fd(), PollFlags::POLLIN),
        }
    }

    /// Whether it happened since this was asked last.
    pub fn heard(&mut self) -> bool {
        match &mut self.kind {
            Kind::File { kills, .. } => {
                let now = self.group.oom_kills();
                std::mem::replace(kills, now) < now
            }
            // The end of the group is told as well.
            Kind::Event(event) => event.read().is_ok() && self.group.has("memory.oom_control"),
        }
    }
}

fn file(group: &Cgroup) -> Result<Kind, Error> {
    let path = group.file("memory.events");
    let file = File::open(&path).map_err(|source| Error { path, source })?;
    Ok(Kind::File { file, kills: group.oom_kills() })
}

fn event(group: &Cgroup) -> Result<Kind, Error> {
    let path = group.file("memory.oom_control");
    let told = || {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let about = File::open(&path)?;
        let number = |fd: BorrowedFd<'_>| fd.as_raw_fd();
        let line = format!("{} {}", number(event.as_fd()), number(about.as_fd()));
        std::fs::write(path.with_file_name("cgroup.event_control"), line)?;
        Ok::<_, io::Error>(event)
    };
    told().map(Kind::Event).map_err(|source| Error { path: path.clone(), source })
}
