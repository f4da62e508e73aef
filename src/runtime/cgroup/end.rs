//! Freezing, killing and removing a group: all wait for the kernel to have done it, for a bounded time.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Cgroup, Error, MOUNT, TRACKING, children};
use crate::runtime::sys;

/// How long any of these waits at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to let the kernel work where version 1 has no event to wait for.
const PAUSE: Duration = Duration::from_millis(1);

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error { path, source }
}

/// Stops every process, or lets them go on, and returns when that is so.
pub fn freeze(group: &Cgroup, frozen: bool) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    if group.is_unified() {
        group.write("cgroup.freeze", if frozen { "1" } else { "0" })?;
        let path = group.file("cgroup.events");
        let wanted = if frozen { "frozen 1" } else { "frozen 0" };
        return wait_for_event(&path, wanted, deadline).map_err(failed(&path));
    }
    let wanted = if frozen { "FROZEN" } else { "THAWED" };
    let path = group.file("freezer.state");
    loop {
        // Writing again helps version 1 with processes that were forked meanwhile.
        fs::write(&path, wanted).map_err(failed(&path))?;
        let state = fs::read_to_string(&path).map_err(failed(&path))?;
        if state.trim() == wanted {
            return Ok(());
        }
        pause(deadline).map_err(failed(&path))?;
    }
}

fn pause(deadline: Instant) -> io::Result<()> {
    if Instant::now() >= deadline {
        return Err(io::ErrorKind::TimedOut.into());
    }
    std::thread::sleep(PAUSE);
    Ok(())
}

fn left(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now());
    PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)
}

/// Waits until the file holds this line; version 2 tells of each change by poll(2).
fn wait_for_event(path: &Path, line: &str, deadline: Instant) -> io::Result<()> {
    let mut file = File::open(path)?;
    loop {
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        if text.lines().any(|found| found == line) {
            return Ok(());
        }
        let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        if poll(&mut polled, left(deadline))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// So many processes leave the one that is to end little time to do so.
const CROWD: usize = 64;

/// Kills every process of the group where there are so many that they are in each other's way, and does not wait for
/// their ends.
pub fn kill_crowd(group: &Cgroup) -> Result<(), Error> {
    if group.processes().len() < CROWD { Ok(()) } else { kill_once(group) }
}

/// Kills every process of the group and waits for their ends.
pub fn kill_all(group: &Cgroup) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    let path = group.hierarchies.first().map(|one| one.directory.clone()).unwrap_or_default();
    loop {
        let found = group.processes();
        let Some(first) = found.first() else { return Ok(()) };
        // What can't be opened is about to vanish from the list.
        let process = sys::pidfd_open(*first).ok();
        kill_once(group)?;
        if let Some(process) = process {
            let mut polled = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            let ended = poll(&mut polled, left(deadline)).map_err(|error| failed(&path)(error.into()))?;
            if ended == 0 {
                return Err(failed(&path)(io::ErrorKind::TimedOut.into()));
            }
        }
        // The others end at the same time, or were forked meanwhile.
        pause(deadline).map_err(failed(&path))?;
    }
}

/// Version 2 kills all at once. In version 1 the group is frozen, so that none can fork away.
fn kill_once(group: &Cgroup) -> Result<(), Error> {
    if group.is_unified() {
        match group.write("cgroup.kill", "1") {
            // Linux before 5.14.
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
    }
    let frozen = freeze(group, true);
    if frozen.is_ok() {
        signal_frozen(group);
    } else {
        signal_each(group);
    }
    // Frozen processes take the signal only when they run again; a host without a freezer has just done its best.
    let thawed = freeze(group, false);
    match frozen.and(thawed) {
        Err(error) if error.source.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// None of them can end, so that no number becomes another process's meanwhile.
fn signal_frozen(group: &Cgroup) {
    for pid in group.processes() {
        // It may have ended just before it was frozen.
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
}

/// A number could pass to another process between reading the list and opening it.
fn signal_each(group: &Cgroup) {
    for pid in group.processes() {
        let Ok(process) = sys::pidfd_open(pid) else { continue };
        if group.processes().contains(&pid) {
            // It may have ended by itself, which is what is wanted.
            drop(sys::pidfd_send_signal(process.as_fd(), libc::SIGKILL));
        }
    }
}

/// Removes the group in every hierarchy; goes on to the end, and says the first failure.
pub fn remove(group: &Cgroup) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    let mut first = kill_all(group);
    for one in &group.hierarchies {
        first = first.and(remove_tree(&one.directory, deadline).map_err(failed(&one.directory)));
    }
    first
}

/// Removes the group of this name, in which nobody is any more, from hierarchies without controllers.
///
/// # Errors
/// Where the kernel does not let go of it.
pub fn remove_apart(name: &str) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    let places = TRACKING.map(|hierarchy| Path::new(MOUNT).join(hierarchy).join(name));
    places.iter().try_for_each(|path| remove_tree(path, deadline).map_err(failed(path)))
}

fn remove_tree(directory: &Path, deadline: Instant) -> io::Result<()> {
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                let below = children(directory);
                for child in &below {
                    remove_tree(child, deadline)?;
                }
                // The last process has ended, but the kernel still lets go of it.
                if below.is_empty() {
                    pause(deadline).map_err(|_| error)?;
                }
            }
            Err(error) => return Err(error),
        }
    }
}
