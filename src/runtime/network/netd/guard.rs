//! Puts back what somebody takes from the host's links and rules, and from the inside of containers' namespaces, as soon as
//! the kernel tells: a flushed table would leave published ports shut, and what keeps others out open. Nobody else has to
//! run for that.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::runtime::network::{Ear, listen, mend, netlink};
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
    let host = [netlink::changes_of_links()?, netlink::changes_of_rules()?];
    let ears = Ears { host, inside: BTreeMap::new() };
    thread::Builder::new().name("guard".into()).spawn(move || guard(&roots, ears)).map(drop)
}

fn guard(roots: &Roots, mut ears: Ears) -> io::Result<()> {
    let (mut rest, mut last) = (REST, None::<Instant>);
    // Whoever started the server makes links at this moment, and needs the lock.
    let mut changed_inside = ears.wait_until_quiet()?;
    loop {
        // Whose namespace can't be listened to is looked at when something else happens.
        changed_inside.extend(listen(roots, &mut ears.inside).unwrap_or_default());
        // What can't be put back now is tried again after a rest.
        let changed = mend(roots, &changed_inside).unwrap_or(true);
        if changed {
            rest = if last.is_some_and(|last| last.elapsed() < FORGOTTEN) { rest * 2 } else { REST };
            last = Some(Instant::now());
            wait(&[], Some(rest.min(LONGEST_REST)))?;
        } else {
            changed_inside.clear();
            wait(&ears.all(), None)?;
        }
        changed_inside.extend(ears.wait_until_quiet()?);
    }
}

/// What the kernel tells of the host, and of namespaces of containers.
struct Ears {
    host: [OwnedFd; 2],
    inside: BTreeMap<String, Ear>,
}

impl Ears {
    fn all(&self) -> Vec<&OwnedFd> {
        self.host.iter().chain(self.inside.values().map(|ear| &ear.changes)).collect()
    }

    /// The containers inside whose namespaces something has happened.
    fn wait_until_quiet(&self) -> io::Result<BTreeSet<String>> {
        let begun = Instant::now();
        let mut changed = BTreeSet::new();
        loop {
            for one in &self.host {
                netlink::drain(one);
            }
            let told = self.inside.iter().filter(|(_, ear)| netlink::drain(&ear.changes));
            changed.extend(told.map(|(container, _)| container.clone()));
            if begun.elapsed() >= AT_LAST || !wait(&self.all(), Some(QUIET))? {
                return Ok(changed);
            }
        }
    }
}

/// Whether something happened, and not the time was up.
fn wait(changes: &[&OwnedFd], limit: Option<Duration>) -> io::Result<bool> {
    let mut waiting: Vec<PollFd<'_>> = changes.iter().map(|one| PollFd::new(one.as_fd(), PollFlags::POLLIN)).collect();
    let limit = limit.map_or(PollTimeout::NONE, |limit| PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX));
    match poll(&mut waiting, limit) {
        Ok(count) => Ok(count > 0),
        Err(nix::Error::EINTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
