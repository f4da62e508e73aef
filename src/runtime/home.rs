//! Where an engine's groups and processes are on a host whose control groups systemd manages: in one delegated scope of
//! its own, which systemd leaves alone below its top (systemd.scope(5), `Delegate=`). In the topmost group, where they
//! would be otherwise, a reload may switch controllers off; and in the group of whoever typed a command, its processes
//! would end with that session or service. The scope is there as long as anybody is in it.
//!
//! With version 2 the containers' groups are there, each with all of its controllers, and the engine's own processes in
//! one beside them. With version 1 the groups are where they always are, in hierarchies that are nobody's; only in those
//! by which systemd knows processes do the engine's, and with them all that they start, go into the scope.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::cgroup::{Cgroup, TRACKING};
use super::roots::Roots;
use super::state::{self, Contention, Lock};
use super::systemd::{self, Placeholder};
use super::userns;

const MOUNT: &str = "/sys/fs/cgroup";
/// The group of the engine's own processes: a group that has others below it has none itself.
const OWN: &str = "engine";

/// What failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Systemd(#[from] systemd::Error),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error("control group {path}: {source}")]
    Group { path: PathBuf, source: io::Error },
}

/// The scope of one engine, in one slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    unit: String,
    slice: String,
}

impl Home {
    /// For containers whose group is to be in this one; `None` where nobody manages groups, where the engine is in a user
    /// namespace and has what was delegated to its user, and for a group by path, which is what its owner says.
    pub fn of(roots: &Roots, parent: &str) -> Option<Self> {
        let is_managed = systemd::is_running() && userns::own_size().is_none();
        if is_managed { Self::named(&roots.key(), parent) } else { None }
    }

    fn named(key: &str, parent: &str) -> Option<Self> {
        if parent.is_empty() {
            return Some(Self { unit: format!("stack-{key}.scope"), slice: "system.slice".to_owned() });
        }
        let stem = parent.strip_suffix(".slice").filter(|stem| !stem.contains('/'))?;
        Some(Self { unit: format!("stack-{key}-{stem}.scope"), slice: parent.to_owned() })
    }

    /// Its group, below the hierarchy.
    pub fn path(&self) -> String {
        systemd::path(&self.slice, &self.unit)
    }

    fn directory(&self) -> PathBuf {
        let unified = Cgroup::named("").is_unified();
        let hierarchy = if unified { PathBuf::from(MOUNT) } else { Path::new(MOUNT).join(TRACKING[0]) };
        hierarchy.join(self.path())
    }

    /// Whether the scope is there.
    pub fn exists(&self) -> bool {
        self.directory().is_dir()
    }

    /// Has the scope there for as long as the value is, for what is to be started in it.
    ///
    /// # Errors
    /// What systemd or the kernel says.
    pub fn hold(&self, roots: &Roots) -> Result<Placeholder, Error> {
        let holder = Placeholder::new().map_err(|source| Error::Group { path: self.directory(), source })?;
        self.take_in(roots, holder.pid())?;
        Ok(holder)
    }

    /// Moves this process there.
    ///
    /// # Errors
    /// What systemd or the kernel says.
    pub fn enter(&self, roots: &Roots) -> Result<(), Error> {
        self.take_in(roots, std::process::id() as i32)
    }

    fn take_in(&self, roots: &Roots, pid: i32) -> Result<(), Error> {
        if self.join(pid)? {
            return Ok(());
        }
        let _lock = Lock::take(&roots.volatile("locks").join("systemd"), Contention::Wait)?;
        if self.join(pid)? {
            return Ok(());
        }
        // The one before it may just be ending.
        systemd::stop(&self.unit)?;
        let description = format!("containers of {}", roots.root.display());
        let (unit, slice) = (self.unit.as_str(), self.slice.as_str());
        systemd::start(systemd::Scope { unit, slice, description: &description, pid, more: Vec::new() })?;
        match self.join(pid)? {
            true => Ok(()),
            false => Err(Error::Group { path: self.directory(), source: io::ErrorKind::NotFound.into() }),
        }
    }

    /// Whether the process could be moved: there may be no scope, or none any more.
    fn join(&self, pid: i32) -> Result<bool, Error> {
        if Cgroup::named("").is_unified() {
            return join(&self.directory(), Some(OWN), pid);
        }
        let groups = TRACKING.map(|name| Path::new(MOUNT).join(name).join(self.path()));
        let mut joined = false;
        for group in &groups {
            joined |= join(group, None, pid)?;
        }
        Ok(joined)
    }
}

fn join(home: &Path, below: Option<&str>, pid: i32) -> Result<bool, Error> {
    let group = below.map_or(home.to_owned(), |below| home.join(below));
    let made = match (home.is_dir(), below) {
        (false, _) => return Ok(false),
        (true, None) => Ok(()),
        (true, Some(_)) => fs::create_dir(&group),
    };
    let written = match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::write(group.join("cgroup.procs"), pid.to_string()),
    };
    match written {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(false),
        Err(source) => Err(Error::Group { path: group, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_has_a_scope_of_its_own() {
        let path = |parent: &str| Home::named("abc123", parent).map(|home| home.path());
        assert_eq!(path(""), Some("system.slice/stack-abc123.scope".to_owned()));
        assert_eq!(path("a-b.slice"), Some("a.slice/a-b.slice/stack-abc123-a-b.scope".to_owned()));
        assert_eq!(path("/above"), None);
        assert_eq!(path("above/b.slice"), None);
    }
}
