//! What the engine mounts for a runtime that only binds it: read-only to the last mount below, from another container, or
//! nothing but the container's own control groups, which not every runtime can do, or does in the same way.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use oci_spec::runtime::Spec;

use crate::runtime::cgroup::Cgroup;
use crate::runtime::init::{self, InitError};
use crate::runtime::state;

/// Attached below one directory of this process's mount namespace, until the runtime has them.
pub struct Attached {
    directory: PathBuf,
    root: OwnedFd,
    /// Where each is, by where it belongs in the container.
    pub places: Vec<(PathBuf, PathBuf)>,
}

impl Attached {
    /// Attaches them below the directory, which is made.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn at(directory: &Path, mounts: &[(PathBuf, OwnedFd)]) -> io::Result<Self> {
        state::make_directory(directory).map_err(io::Error::other)?;
        // A file system of their own: whoever removes the directory later does not meet what was attached.
        mount(Some("mounts"), directory, Some("tmpfs"), MsFlags::empty(), Some("size=1m,mode=700"))?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(directory, flags, Mode::empty())?;
        let mut attached = Self { directory: directory.to_owned(), root, places: Vec::new() };
        for (target, made) in mounts {
            let place = attached.next();
            init::attach(made, attached.root.as_fd(), &place)?;
            attached.places.push((target.clone(), directory.join(place)));
        }
        Ok(attached)
    }

    /// Adds the container's control groups, as it is to see them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_groups(&mut self, spec: &Spec, group: &Cgroup) -> Result<(), InitError> {
        let place = self.next();
        let target = init::groups_beside(spec, self.root.as_fd(), &place, group)?;
        self.places.extend(target.map(|target| (target, self.directory.join(place))));
        Ok(())
    }

    fn next(&self) -> PathBuf {
        PathBuf::from(self.places.len().to_string())
    }

    /// Takes them away again, with their directory.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn detach(self) -> io::Result<()> {
        umount2(&self.directory, MntFlags::MNT_DETACH)?;
        fs::remove_dir(&self.directory)
    }
}
