//! Stopping, removing, and changing what runs.

use std::fs;
use std::io;
use std::time::Duration;

use super::config::Record;
use super::{Config, Error, Paths, Phase, Start, State, VERSION, get, io_at, lock, observe};
use crate::runtime::init::spec;
use crate::runtime::roots::Roots;
use crate::runtime::shim::client::{self, Request};
use crate::runtime::state;

/// How to stop; unset fields take what the container's configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stop {
    pub signal: Option<String>,
    pub grace: Option<Duration>,
}

impl Stop {
    /// Without asking.
    pub fn at_once() -> Self {
        Self { signal: Some("KILL".to_owned()), grace: Some(Duration::ZERO) }
    }
}

/// Asks the program to end, and kills it when its time is up. One that does not run is left alone. Its restart policy
/// does not bring it back.
pub fn stop(roots: &Roots, name: &str, how: &Stop) -> Result<(), Error> {
    let container = get(roots, name)?;
    if !container.is_running() {
        return Ok(());
    }
    let grace_ms = how.grace.map_or(container.config.stop_grace_ms, |grace| grace.as_millis() as u64);
    let request = Request::Stop { signal: how.signal.clone(), grace_ms };
    match client::ask(&Paths::of(roots, &container.config.name), &container.config.name, &request) {
        // It may have ended between the look and the question.
        Err(Error::NotRunning(_)) => Ok(()),
        other => other,
    }
}

/// Sends a signal to the container's first process.
pub fn kill(roots: &Roots, name: &str, signal: &str) -> Result<(), Error> {
    let request = Request::Kill { signal: signal.to_owned() };
    ask_running(roots, name, &request)
}

fn ask_running(roots: &Roots, name: &str, request: &Request) -> Result<(), Error> {
    let container = get(roots, name)?;
    if !container.is_running() {
        return Err(Error::NotRunning(name.to_owned()));
    }
    client::ask(&Paths::of(roots, &container.config.name), &container.config.name, request)
}

/// Suspends every process of the container.
pub fn pause(roots: &Roots, name: &str) -> Result<(), Error> {
    ask_running(roots, name, &Request::Pause)
}

/// Lets them go on.
pub fn unpause(roots: &Roots, name: &str) -> Result<(), Error> {
    ask_running(roots, name, &Request::Resume)
}

/// Stops and starts it, in the same network namespace.
pub fn restart(roots: &Roots, name: &str, how: &Stop) -> Result<(), Error> {
    stop(roots, name, how)?;
    let name = get(roots, name)?.config.name;
    let start = state::read_json::<Start>(&Paths::of(roots, &name).start)?.unwrap_or_default();
    super::start(roots, &name, &start)
}

/// Applies what may change while it runs: limits, labels, policies, the check, and what is declared. All other fields
/// of `config` must be as they are.
pub fn update(roots: &Roots, config: &Config) -> Result<(), Error> {
    let paths = Paths::of(roots, &config.name);
    let held = lock(&paths)?;
    let present = get(roots, &config.name)?;
    spec::build(&config.request)?;
    let config = Config { id: present.config.id.clone(), created_ms: present.config.created_ms, ..config.clone() };
    let name = config.name.clone();
    state::write_json(&paths.config, &Record { version: VERSION, phase: Phase::Created, config })?;
    drop(held);
    if present.is_running() { client::ask(&paths, &name, &Request::Reload) } else { Ok(()) }
}

/// Gives a stopped container another name. (One that runs keeps its socket and group, and so its name.)
pub fn rename(roots: &Roots, name: &str, new: &str) -> Result<(), Error> {
    if !super::is_name(new) {
        return Err(Error::Name(new.to_owned()));
    }
    let container = get(roots, name)?;
    if container.is_running() {
        return Err(Error::Running(name.to_owned()));
    }
    let (from, to) = (Paths::of(roots, &container.config.name), Paths::of(roots, new));
    let (_from, _to) = (lock(&from)?, lock(&to)?);
    if to.directory.exists() {
        return Err(Error::Exists(new.to_owned()));
    }
    let mut config = container.config;
    config.name = new.to_owned();
    fs::rename(&from.directory, &to.directory).map_err(io_at(&to.directory))?;
    state::write_json(&to.config, &Record { version: VERSION, phase: Phase::Created, config })?;
    remove_directory(&from.run)
}

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
    remove_directory(&paths.run)?;
    // Without its configuration a directory is known to be the rest of a removal.
    for path in [&paths.config, &paths.directory] {
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_at(path)(error)),
            _ => {}
        }
    }
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

fn remove_directory(path: &std::path::Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}
