//! What a container has changed of its image's files: read off the upper directory of its overlay.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Error, Paths, get, io_at};
use crate::runtime::roots::Roots;
use crate::runtime::volume::attributes;
use crate::runtime::{overlay, sys};

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    Added,
    Changed,
    Deleted,
}

/// Every file that differs from the image's, by its path in the container, in order. Mounts are not looked into.
///
/// # Errors
/// Where the container's own files can't be read.
pub fn changes(roots: &Roots, name: &str) -> Result<Vec<(PathBuf, Change)>, Error> {
    let container = get(roots, name)?;
    let paths = Paths::of(roots, &container.config.name);
    let layers = [std::slice::from_ref(&paths.skeleton), container.config.layers.as_slice()].concat();
    let layers: Vec<PathBuf> = layers.into_iter().filter(|layer| layer.is_dir()).collect();
    let image = match layers.is_empty() {
        true => None,
        false => Some(overlay::open(&layers, None).map_err(io_at(&paths.upper))?),
    };
    let mut found = Vec::new();
    let walk = Walk { upper: &paths.upper, image: image.as_ref().map(AsFd::as_fd) };
    walk.directory(Path::new(""), &mut found).map_err(io_at(&paths.upper))?;
    found.sort();
    Ok(found)
}

struct Walk<'a> {
    upper: &'a Path,
    image: Option<BorrowedFd<'a>>,
}

impl Walk<'_> {
    fn directory(&self, path: &Path, found: &mut Vec<(PathBuf, Change)>) -> io::Result<()> {
        let here = self.upper.join(path);
        let mut names = Vec::new();
        for entry in fs::read_dir(&here)? {
            let entry = entry?;
            let inner = path.join(entry.file_name());
            // It may be gone by now: the container runs.
            let Ok(data) = entry.metadata() else { continue };
            names.push(inner.file_name().unwrap_or_default().to_owned());
            let shown = Path::new("/").join(&inner);
            if data.file_type().is_char_device() && data.rdev() == 0 {
                found.push((shown, Change::Deleted));
                continue;
            }
            found.push((shown, if self.is_of_image(&inner) { Change::Changed } else { Change::Added }));
            if data.is_dir() {
                self.directory(&inner, found)?;
            }
        }
        if is_opaque(&here)? {
            self.hidden(path, &names, found);
        }
        Ok(())
    }

    fn is_of_image(&self, path: &Path) -> bool {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        self.image.is_some_and(|image| sys::open_in_root(image, path, flags, 0).is_ok())
    }

    /// What the image has in a directory that was removed and made again.
    fn hidden(&self, path: &Path, present: &[std::ffi::OsString], found: &mut Vec<(PathBuf, Change)>) {
        let Some(image) = self.image else { return };
        let open = sys::open_in_root(image, path, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0);
        let Ok(directory) = open.and_then(|fd| Ok(nix::dir::Dir::from_fd(fd)?)) else { return };
        for entry in directory.into_iter().flatten() {
            let name = std::os::unix::ffi::OsStrExt::from_bytes(entry.file_name().to_bytes());
            let name: &OsStr = name;
            if name != "." && name != ".." && !present.iter().any(|one| one == name) {
                found.push((Path::new("/").join(path).join(name), Change::Deleted));
            }
        }
    }
}

fn is_opaque(directory: &Path) -> io::Result<bool> {
    let directory = File::open(directory)?;
    Ok(attributes::get(directory.as_fd(), overlay::Marks::own().opaque()).is_ok_and(|value| value == b"y"))
}
