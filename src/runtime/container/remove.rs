//! Removing containers, and what is left of makers and removers that were killed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::config::Record;
use super::observe::{self, names_in};
use super::paths::{GOING, MAKING, TRANSIENT};
use super::{Config, Error, Paths, Phase, ProcessId, State, Stop, get, io_at, lock, stop};
use crate::runtime::events;
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
    let held = lock(&Paths::of(roots, name))?;
    match get(roots, name) {
        // Somebody may have started it again before the lock was ours.
        Ok(again) if again.is_running() && !force => Err(Error::Running(name.to_owned())),
        Ok(again) if again.config.id == container.config.id => remove_held(roots, &again.config, held),
        // Somebody removed it, and it may be another one's name by now.
        _ => Ok(()),
    }
}

/// Away in one step, files of this boot first and then the rest: nobody ever sees half of it.
fn remove_held(roots: &Roots, config: &Config, held: Lock) -> Result<(), Error> {
    let name = config.name.as_str();
    let paths = Paths::of(roots, name);
    end_supervisor(roots, name)?;
    super::start::clean(roots, config)?;
    for (from, to) in [(&paths.run, &paths.run_going), (&paths.directory, &paths.going)] {
        discard(to)?;
        match fs::rename(from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_at(from)(error)),
            _ => {}
        }
        discard(to)?;
    }
    super::ids::release(roots, config)?;
    events::record(roots, &super::event(config, "destroy"));
    Ok(held.remove()?)
}

/// Removes all that is the container's but its name, its ids and its record, which says that it is half made: until it is
/// made whole or removed. One that is not there, or is half made already, is fine.
///
/// # Errors
/// [`Error::Running`].
pub fn vacate(roots: &Roots, name: &str) -> Result<(), Error> {
    let paths = Paths::durable(roots, name);
    let _held = lock(&paths)?;
    let Some(record) = observe::read_record(&paths)? else { return Ok(()) };
    let config = Config { name: name.to_owned(), ..record.config.clone() };
    if get(roots, name)?.is_running() {
        return Err(Error::Running(name.to_owned()));
    }
    end_supervisor(roots, name)?;
    super::start::clean(roots, &config)?;
    if record.phase == Phase::Created {
        state::write_json(&paths.config, &Record { phase: Phase::Creating, ..record })?;
        events::record(roots, &super::event(&config, "destroy"));
    }
    discard(&paths.run_going)?;
    match fs::rename(&paths.run, &paths.run_going) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_at(&paths.run)(error)),
        _ => discard(&paths.run_going)?,
    }
    let kept = paths.config.file_name().and_then(|name| name.to_str());
    for rest in names_in(&paths.directory)?.iter().filter(|rest| Some(rest.as_str()) != kept) {
        discard(&paths.directory.join(rest))?;
    }
    Ok(())
}

/// The supervisor writes its last word just before it ends; its mount holds the overlay until then.
pub(super) fn end_supervisor(roots: &Roots, name: &str) -> Result<(), Error> {
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
    let durable = names_in(&roots.durable("containers"))?;
    let volatile = names_in(&roots.volatile("containers"))?;
    let rest = |name: &String| {
        let rest = [MAKING, GOING, TRANSIENT].iter().find_map(|word| name.strip_prefix(word));
        rest.map(str::to_owned)
    };
    for name in durable.iter().chain(&volatile).filter_map(rest).collect::<BTreeSet<String>>() {
        let paths = Paths::transient(roots, &name);
        if paths.config.exists() {
            continue;
        }
        let Ok(held) = Lock::take(&paths.lock, Contention::Refuse) else { continue };
        // Somebody may just have made one of this name.
        if !paths.config.exists() {
            for rest in [&paths.directory, &paths.making, &paths.going, &paths.run_going] {
                discard(rest)?;
            }
        }
        if get(roots, &name).is_err() {
            held.remove()?;
        }
    }
    Ok(())
}

/// A container that should have gone with its end, since nobody is left to remove it. Nobody else touches it meanwhile.
pub struct Over {
    pub name: String,
    held: Lock,
}

impl Over {
    /// Removes it.
    pub fn remove(self, roots: &Roots) -> Result<(), Error> {
        let config = get(roots, &self.name)?.config;
        remove_held(roots, &config, self.held)
    }
}

/// The containers that should have gone with their end, and whose removers were killed.
pub fn over(roots: &Roots) -> Result<Vec<Over>, Error> {
    let names = names_in(&roots.durable("containers"))?;
    let transient = names.iter().filter_map(|name| name.strip_prefix(TRANSIENT));
    let claim = |name: &str| {
        let held = Lock::take(&Paths::transient(roots, name).lock, Contention::Refuse).ok()?;
        // Somebody may have removed it, and made another of its name, before the lock was ours.
        is_over(roots, name).then(|| Over { name: name.to_owned(), held })
    };
    Ok(transient.filter(|name| is_over(roots, name)).filter_map(claim).collect())
}

fn is_over(roots: &Roots, name: &str) -> bool {
    let record = observe::read_record(&Paths::transient(roots, name));
    let Ok(Some(record)) = record else { return false };
    let Ok(found) = get(roots, name) else { return false };
    let supervised = found.is_running() || found.status.shim.is_alive();
    let has_run = found.status.shim != ProcessId::default();
    !supervised && !record.is_attended() && (has_run || !record.maker.is_alive())
}

/// Removes the directory and all in it, or the file. One that is not there is fine.
pub(super) fn discard(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(state::remove(path)?),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}
