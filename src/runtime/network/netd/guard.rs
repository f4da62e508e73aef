//! Puts back what somebody takes from the host's links and rules, as soon as the kernel tells: a flushed table would
//! leave published ports shut, and what keeps others out open. Nobody else has to run for that.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::runtime::network::{mend, netlink};
use crate::runtime::roots::Roots;

/// Changes come in bursts; after this long without one it is time to look.
const QUIET: Duration = Duration::from_millis(50);
/// But not later than this after the first.
const AT_LAST: Duration = Duration::from_millis(500);
/// The rest after something was put back, doubled each time that it is lost again soon.
const REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// What is lost later than this after it was put back is lost anew.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Watches in a thread of its own until the process ends.
pub fn spawn(roots: &Roots) -> io::Result<()> {
    let roots = roots.clone();
    // Before the thread, so that nothing goes unheard from now on.
    let changes = [netlink::changes_of_links()?, netlink::changes_of_rules()?];
    thread::Builder::new().name("guard".into()).spawn(move || guard(&roots, &changes)).map(drop)
}

fn guard(roots: &Roots, changes: &[OwnedFd]) -> io::Result<()> {
    let (mut rest, mut last) = (REST, None::<Instant>);
    // Whoever started the server makes links at this moment, and needs the lock.
    wait_until_quiet(changes)?;
    loop {
        // What can't be put back now is tried again after a rest.
        let changed = mend(roots).unwrap_or(true);
        if changed {
            rest = if last.is_some_and(|last| last.elapsed() < FORGOTTEN) { rest * 2 } else { REST };
            last = Some(Instant::now());
            wait(&[], Some(rest.min(LONGEST_REST)))?;
        } else {
            wait(changes, None)?;
        }
        wait_until_quiet(changes)?;
    }
}

fn wait_until_quiet(changes: &[OwnedFd]) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        changes.iter().for_each(netlink::drain);
        if begun.elapsed() >= AT_LAST || !wait(changes, Some(QUIET))? {
            return Ok(());
        }
    }
}

/// Whether something happened, and not the time was up.
fn wait(changes: &[OwnedFd], limit: Option<Duration>) -> io::Result<bool> {
    let mut waiting: Vec<PollFd<'_>> = changes.iter().map(|one| PollFd::new(one.as_fd(), PollFlags::POLLIN)).collect();
    let limit = limit.map_or(PollTimeout::NONE, |limit| PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX));
    match poll(&mut waiting, limit) {
        Ok(count) => Ok(count > 0),
        Err(nix::Error::EINTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
