//! What the engine mounts for a runtime that only binds it: with mapped ids, read-only to the last mount below, or from
//! another container, which not every runtime can do.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use crate::runtime::init;

/// Attached below one directory of this process's mount namespace, until the runtime has them.
pub struct Attached {
    directory: PathBuf,
    /// Where each is, by where it belongs in the container.
    pub places: Vec<(PathBuf, PathBuf)>,
}

impl Attached {
    /// Attaches them below the directory, which is made.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn at(directory: &Path, mounts: &[(PathBuf, OwnedFd)]) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        // A file system of their own: whoever removes the directory later does not meet what was attached.
        mount(Some("mounts"), directory, Some("tmpfs"), MsFlags::empty(), Some("size=1m,mode=700"))?;
        let mut attached = Self { directory: directory.to_owned(), places: Vec::new() };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(directory, flags, Mode::empty())?;
        for (number, (target, made)) in mounts.iter().enumerate() {
            let name = number.to_string();
            init::attach(made, root.as_fd(), Path::new(&name))?;
            attached.places.push((target.clone(), directory.join(name)));
        }
        Ok(attached)
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
