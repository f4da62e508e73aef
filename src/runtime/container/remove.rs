//! Removing containers, and what is left of makers and removers that were killed.

use std::fs;
use std::io;
use std::path::Path;

use super::{Error, Paths, State, Stop, get, io_at, lock, observe, stop};
use crate::runtime::roots::Roots;
use crate::runtime::state::{self, Contention, Lock};

/// Removes the container and all that is its own. `force` kills it first. One that is not there is fine.
///
/// # Errors
/// [`Error::Running`] without `force`.
pub fn remove(roots: &Roots, name: &str, force: bool) -> Result<(), Error> {
    let container = match get(roots, name) {
        Ok(container) => container,
        Err(Error::NotFound(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    if container.is_running() {
        if !force {
            return Err(Error::Running(name.to_owned()));
        }
        stop(roots, &container.config.name, &Stop::at_once())?;
    }
    let name = container.config.name.as_str();
    let paths = Paths::of(roots, name);
    let held = lock(&paths)?;
    // Somebody may have started it again before the lock was ours.
    if get(roots, name).is_ok_and(|again| again.is_running() && !force) {
        return Err(Error::Running(name.to_owned()));
    }
    end_supervisor(roots, name)?;
    super::start::clean(roots, name)?;
    discard(&paths.run)?;
    // Away in one step: nobody ever sees half of it.
    discard(&paths.going)?;
    match fs::rename(&paths.directory, &paths.going) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_at(&paths.directory)(error)),
        _ => {}
    }
    discard(&paths.going)?;
    drop(held);
    match fs::remove_file(&paths.lock) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(&paths.lock)(error)),
        _ => Ok(()),
    }
}

/// The supervisor writes its last word just before it ends; its mount holds the overlay until then.
fn end_supervisor(roots: &Roots, name: &str) -> Result<(), Error> {
    let Some(status) = state::read_json::<super::Status>(&Paths::of(roots, name).status)? else { return Ok(()) };
    if !status.shim.is_alive() {
        return Ok(());
    }
    if status.state == State::Exited {
        return observe::wait_for_end(status.shim.pid);
    }
    Err(Error::Running(name.to_owned()))
}

/// Removes what killed makers and removers left, unless somebody is at it now.
pub fn sweep(roots: &Roots) -> Result<(), Error> {
    let directory = roots.durable("containers");
    let Ok(entries) = fs::read_dir(&directory) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(".making-").or(name.strip_prefix(".going-")));
        let Some(container) = rest else { continue };
        let paths = Paths::of(roots, container);
        if let Ok(_held) = Lock::take(&paths.lock, Contention::Refuse) {
            discard(&paths.making)?;
            discard(&paths.going)?;
        }
    }
    Ok(())
}

/// Removes the directory and all in it. One that is not there is fine.
pub(super) fn discard(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}
