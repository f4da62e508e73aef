//! What a container uses, time and again, and what happens to it meanwhile.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Error, Room, State, Status, io_at, stats};
use crate::runtime::cgroup::OomWatch;
use crate::runtime::sys;

impl Room {
    fn running(&self, id: &str) -> Result<State, Error> {
        let state = self.get(id)?;
        match self.status(&state) {
            Status::Stopped => Err(Error::NotRunning { id: id.to_owned(), status: Status::Stopped }),
            _ => Ok(state),
        }
    }

    /// What it uses now: an event of the kind `stats`.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn statistics(&self, id: &str) -> Result<String, Error> {
        self.running(id).map(|state| stats::statistics(&state).line())
    }

    /// Tells what it uses now and each time that the interval has gone by, and at once that the kernel has killed a
    /// process of it for want of memory, until the container has ended or the listener wants no more.
    ///
    /// # Errors
    /// [`Error::NotRunning`] where it had ended before.
    pub fn follow(&self, id: &str, interval: Duration, mut listener: impl FnMut(String) -> bool) -> Result<(), Error> {
        let state = self.running(id)?;
        let gone = || Error::NotRunning { id: id.to_owned(), status: Status::Stopped };
        let process = sys::pidfd_open(state.process.pid).map_err(|_| gone())?;
        let mut kills = OomWatch::of(&state.group())?;
        let mut next = Instant::now();
        loop {
            if Instant::now() >= next {
                if !listener(stats::statistics(&state).line()) {
                    return Ok(());
                }
                next += interval;
            }
            let ended = wait(&process, &kills, next)?;
            if kills.heard() && !listener(stats::out_of_memory(&state).line()) || ended {
                return Ok(());
            }
        }
    }
}

/// Until the process has ended, for which this is true, or something is to be heard, or it is time.
fn wait(process: &impl AsFd, kills: &OomWatch, next: Instant) -> Result<bool, Error> {
    let mut polled = [PollFd::new(process.as_fd(), PollFlags::POLLIN), kills.poll_fd()];
    let left = next.saturating_duration_since(Instant::now());
    // A part of a millisecond more, or it would be asked in a circle until the time has come.
    let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut polled, timeout) {
        Ok(_) => Ok(polled[0].any().unwrap_or(false)),
        Err(nix::Error::EINTR) => Ok(false),
        Err(error) => Err(io_at("wait for the container")(error.into())),
    }
}
