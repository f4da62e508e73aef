//! Containers whose supervisor was killed: each is given another one, by the next command that looks.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::start::{hear, spawn};
use super::{Container, Error, Paths, State, Status, get, io_at, list, lock};
use crate::runtime::roots::Roots;
use crate::runtime::shim;
use crate::runtime::{state, sys};

/// How long a killed supervisor may take to be gone. One that is alive has closed the connection for a reason of its own.
const GOING_MS: u16 = 1000;

impl Container {
    /// Whether nobody supervises it though it runs, or is to be started again.
    fn needs_supervisor(&self) -> bool {
        let status = &self.status;
        let comes_back = || {
            let code = status.exit_code;
            shim::restart_after(&self.config, code, status.by_hand, status.restarts, 0).is_some()
        };
        status.abandoned && (self.is_running() || comes_back())
    }
}

/// Gives the container a supervisor where its own was killed; whether it did. What the program wrote meanwhile is not
/// lost; how it ended meanwhile is not known, and its restart policy holds.
///
/// # Errors
/// Where there can be no further process.
pub fn adopt(roots: &Roots, found: &Container) -> Result<bool, Error> {
    if !found.needs_supervisor() {
        return Ok(false);
    }
    let name = found.config.name.as_str();
    let _lock = lock(&Paths::of(roots, name))?;
    adopt_locked(roots, name)
}

/// As [`adopt`], for who has lost the connection to the supervisor: one that was killed closes it a moment before it is
/// gone.
///
/// # Errors
/// As [`adopt`].
pub fn adopt_after_loss(roots: &Roots, name: &str) -> Result<bool, Error> {
    let found = match get(roots, name) {
        Err(Error::NotFound(_)) => return Ok(false),
        found => found?,
    };
    let is_lost = !found.status.abandoned && found.is_running();
    if is_lost && let Ok(shim) = sys::pidfd_open(found.status.shim.pid) {
        let mut end = [PollFd::new(shim.as_fd(), PollFlags::POLLIN)];
        poll(&mut end, PollTimeout::from(GOING_MS)).map_err(|error| io_at("poll")(error.into()))?;
    }
    match get(roots, name) {
        Err(Error::NotFound(_)) => Ok(false),
        found => adopt(roots, &found?),
    }
}

/// As [`adopt`], for who holds the container's lock.
pub(super) fn adopt_locked(roots: &Roots, name: &str) -> Result<bool, Error> {
    // Another command may have done it, or removed the container, before the lock was ours.
    let found = match get(roots, name) {
        Ok(found) if found.needs_supervisor() => found,
        Ok(_) | Err(Error::NotFound(_)) => return Ok(false),
        Err(error) => return Err(error),
    };
    let name = found.config.name.as_str();
    state::make_directory(&Paths::of(roots, name).run)?;
    let lost = |source| Error::Supervisor { name: name.to_owned(), reason: format!("can't be replaced: {source}") };
    hear(name, &spawn(roots, name, &[shim::ADOPT], || ()).map_err(lost)?)?;
    Ok(true)
}

/// Has those without a supervisor be ended for good, as after a boot: the namespaces and mounts that they were in are
/// gone, whatever their policy says.
///
/// # Errors
/// Where what is written of them can't be read or written.
pub fn bury(roots: &Roots) -> Result<(), Error> {
    for lost in list(roots)?.into_iter().filter(|one| one.status.abandoned) {
        let status = Status { state: State::Exited, abandoned: false, ..lost.status };
        state::write_json_volatile(&Paths::of(roots, &lost.config.name).status, &status)?;
    }
    Ok(())
}

/// As they are when each has its supervisor again.
///
/// # Errors
/// As [`adopt`].
pub fn adopt_all(roots: &Roots, found: Vec<Container>) -> Result<Vec<Container>, Error> {
    let again = |one: Container| match adopt(roots, &one)? {
        true => get(roots, &one.config.name),
        false => Ok(one),
    };
    found.into_iter().map(again).collect()
}
