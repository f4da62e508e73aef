//! The first use of an empty volume fills it with what the image has at the place where it is mounted.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::{Error, copy, directory, existing, io_at, lock, mounting};
use crate::runtime::roots::Roots;
use crate::runtime::state::{self, Durability};
use crate::runtime::sys;

/// Says that a copy has begun. While it is there, what the volume holds is half a copy and nobody's data.
const MARKER: &str = "populating";

/// What [`populate`] has found or done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Populated {
    /// The image's files are in the volume.
    Copied,
    /// The volume has content, which stays.
    HadContent,
    /// The image has no directory there.
    NothingToCopy,
}

/// Mounts the volume and, where it is empty, copies into it what `image` (the root directory of a mounted image) has at
/// `target`, with owners, modes, times, links and extended attributes; `target` can't leave `image` through symbolic
/// links. To be called before the first container that uses the volume starts. A copy that was cut short is done again.
///
/// # Errors
/// [`Error::Io`] where copying fails; the volume then is to be treated as not ready, and the next call begins anew.
pub fn populate(roots: &Roots, name: &str, image: &Path, target: &Path) -> Result<Populated, Error> {
    let _lock = lock(roots, name)?;
    let volume = existing(roots, name)?;
    mounting::mount_locked(&volume)?;
    let marker = directory(roots, name).join(MARKER);
    if marker.exists() {
        empty(&volume.data)?;
    } else if has_content(&volume.data)? {
        return Ok(Populated::HadContent);
    }
    let source = match open_source(image, target) {
        Ok(source) => source,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            return Ok(Populated::NothingToCopy);
        }
        Err(error) => return Err(io_at(&image.join(target))(error)),
    };
    state::replace(&marker, b"", Durability::Durable).map_err(io_at(&marker))?;
    let data = File::open(&volume.data).map_err(io_at(&volume.data))?;
    copy::tree(source.as_fd(), data.as_fd()).map_err(io_at(&volume.data))?;
    sync(&data).map_err(io_at(&volume.data))?;
    fs::remove_file(&marker).map_err(io_at(&marker))?;
    Ok(Populated::Copied)
}

fn open_source(image: &Path, target: &Path) -> io::Result<std::os::fd::OwnedFd> {
    let root = File::open(image)?;
    sys::open_in_root(root.as_fd(), target, libc::O_RDONLY | libc::O_DIRECTORY, 0)
}

/// `lost+found` is what a fresh ext4 has.
fn has_content(data: &Path) -> Result<bool, Error> {
    for entry in fs::read_dir(data).map_err(io_at(data))? {
        if entry.map_err(io_at(data))?.file_name() != "lost+found" {
            return Ok(true);
        }
    }
    Ok(false)
}

fn empty(data: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(data).map_err(io_at(data))? {
        let entry = entry.map_err(io_at(data))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(io_at(&path))?;
        let removed = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(io_at(&path))?;
    }
    Ok(())
}

/// The copy must be on disk before the marker goes.
fn sync(data: &File) -> io::Result<()> {
    nix::unistd::syncfs(data).map_err(io::Error::from)
}
