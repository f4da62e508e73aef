//! Stopping, removing, and changing what runs.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use super::config::Record;
use super::{Config, Container, Error, Paths, Start, State, Supervision, cgroup, get, io_at, lock};
use crate::runtime::events;
use crate::runtime::init::spec;
use crate::runtime::roots::Roots;
use crate::runtime::shim::client::{self, Request};
use crate::runtime::{state, sys};

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
    match ask(roots, &container, &request) {
        // It may have ended between the look and the question.
        Err(Error::NotRunning(_)) => Ok(()),
        other => other.map(|()| events::record(roots, &super::event(&container.config, "stop"))),
    }
}

/// Ends the container as the end of the host does: its supervisor is told to end, and with it goes the program, in its own
/// time. Returns when it has. The next boot brings it back.
pub fn halt(roots: &Roots, name: &str) -> Result<(), Error> {
    let found = get(roots, name)?;
    if !found.is_running() {
        return Ok(());
    }
    let found = if super::adopt(roots, &found)? { get(roots, name)? } else { found };
    let shim = found.status.shim;
    // Its number may have become another process's before it was open.
    let Some(pidfd) = sys::pidfd_open(shim.pid).ok().filter(|_| shim.is_alive()) else { return Ok(()) };
    match sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGTERM) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(io_at(format!("process {}", shim.pid))(error)),
        _ => super::observe::wait_for_end(shim.pid),
    }
}

/// Asks the supervisor; another one where it was killed before, or while it was asked.
fn ask(roots: &Roots, container: &Container, request: &Request) -> Result<(), Error> {
    let name = container.config.name.as_str();
    let adopted = super::adopt(roots, container)?;
    let asked = if adopted { get(roots, name)?.status.shim.pid } else { container.status.shim.pid };
    let paths = Paths::of(roots, name);
    match client::ask(&paths, name, request) {
        Err(Error::Supervisor { .. } | Error::NotRunning(_)) if has_another(roots, name, asked)? => {
            client::ask(&paths, name, request)
        }
        other => other,
    }
}

/// Whether the supervisor that was asked is no longer the container's: this command has replaced it, or another one that
/// lost it too.
fn has_another(roots: &Roots, name: &str, asked: i32) -> Result<bool, Error> {
    let is_another = || match get(roots, name) {
        Err(Error::NotFound(_)) => Ok(false),
        found => found.map(|found| found.status.shim.pid != asked),
    };
    Ok(is_another()? || super::adopt_after_loss(roots, name)? || is_another()?)
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
    ask(roots, &container, request)
}

/// Suspends every process of the container.
///
/// # Errors
/// [`Error::Paused`] where they are: whoever did that counts on it.
pub fn pause(roots: &Roots, name: &str) -> Result<(), Error> {
    if get(roots, name)?.status.state == State::Paused {
        return Err(Error::Paused(name.to_owned()));
    }
    ask_running(roots, name, &Request::Pause)
}

/// Lets them go on.
///
/// # Errors
/// [`Error::NotPaused`] where they do.
pub fn unpause(roots: &Roots, name: &str) -> Result<(), Error> {
    let container = get(roots, name)?;
    if container.is_running() && container.status.state != State::Paused {
        return Err(Error::NotPaused(name.to_owned()));
    }
    ask_running(roots, name, &Request::Resume)
}

/// Stops and starts it, in the same network namespace.
pub fn restart(roots: &Roots, name: &str, how: &Stop) -> Result<(), Error> {
    stop(roots, name, how)?;
    let container = get(roots, name)?;
    let start = state::read_json::<Start>(&Paths::of(roots, &container.config.name).start)?.unwrap_or_default();
    super::start(roots, &container, &start, Supervision::Anew, || ())
}

/// Applies what may change while it runs: limits, labels, policies, the check, and what is declared. All other fields
/// of `config` must be as they are.
pub fn update(roots: &Roots, config: &Config) -> Result<(), Error> {
    let paths = Paths::of(roots, &config.name);
    let held = lock(&paths)?;
    let present = get(roots, &config.name)?;
    let spec = spec::build(&config.request)?;
    if let Some(resources) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) {
        cgroup(roots, config).check(resources)?;
    }
    let config = Config { id: present.config.id.clone(), created_ms: present.config.created_ms, ..config.clone() };
    state::write_json(&paths.config, &Record::new(config))?;
    drop(held);
    if !present.is_running() {
        return Ok(());
    }
    let asked = ask(roots, &present, &Request::Reload);
    if let Err(Error::Refused { .. }) = &asked {
        // What the kernel refuses is no limit of the container's; the next start would fail of it.
        let _held = lock(&paths)?;
        state::write_json(&paths.config, &Record::new(present.config))?;
    }
    asked
}

/// Gives a container another name, whether it runs or not; one that runs goes on. `netns` is where its network
/// namespace is held under the new name. One that has that name already, and no other, is fine.
pub fn rename(roots: &Roots, name: &str, new: &str, netns: Option<PathBuf>) -> Result<(), Error> {
    if !super::is_name(new) {
        return Err(Error::Name(new.to_owned()));
    }
    let container = match get(roots, name) {
        Err(Error::NotFound(_)) if get(roots, new).is_ok() => return Ok(()),
        found => found?,
    };
    let (from, to) = (Paths::of(roots, &container.config.name), Paths::of(roots, new));
    let held = lock(&from)?;
    let _to = lock(&to)?;
    if to.directory.exists() {
        return Err(Error::Exists(new.to_owned()));
    }
    super::remove::discard(&to.run)?;
    super::ids::rename(roots, &container.config, new)?;
    if get(roots, &container.config.name)?.is_running() {
        let request = Request::Rename { name: new.to_owned(), netns };
        client::ask(&from, &container.config.name, &request)?;
    } else {
        from.move_to(&to).map_err(io_at(&to.directory))?;
    }
    let renamed = Config { name: new.to_owned(), ..container.config.clone() };
    events::record(roots, &super::event(&renamed, "rename").with("oldName", name));
    Ok(held.remove()?)
}
