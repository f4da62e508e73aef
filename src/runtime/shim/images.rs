//! Images that a container mounts: their layers as one tree that nobody can write to, made anew at each start and held by
//! nothing but the container's mounts.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::{directory, let_go, mapped_all, scratch, step};
use crate::runtime::container::Paths;
use crate::runtime::init::InitError;
use crate::runtime::init::spec::{MountSource, Request};
use crate::runtime::{overlay, sys};

/// `MOUNT_ATTR_RDONLY` and `MOUNT_ATTR_NODEV` of mount_setattr(2).
const ATTRIBUTES: u64 = 1 | 4;

/// All of them, by where they belong. In a user namespace the ids on the disk are the container's own.
///
/// # Errors
/// The mount that can't be made.
pub fn mounts(request: &Request, paths: &Paths, users: Option<&OwnedFd>) -> Result<Vec<(PathBuf, OwnedFd)>, InitError> {
    let mut made = Vec::new();
    for mount in &request.mounts {
        let MountSource::Image { layers, subpath, .. } = &mount.source else { continue };
        let failed = |error| step(&format!("mount {}", mount.target.display()), error);
        let scratch = scratch(paths).map_err(failed)?;
        let tree = one(&scratch, layers, subpath.as_deref(), users);
        let_go(&scratch).map_err(failed)?;
        made.push((mount.target.clone(), tree.map_err(failed)?));
    }
    Ok(made)
}

fn one(scratch: &Path, layers: &[PathBuf], subpath: Option<&Path>, users: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let layers = match users {
        Some(users) => mapped_all(scratch, &overlay::distinct(layers), users)?,
        None => layers.to_vec(),
    };
    let place = scratch.join("tree");
    fs::create_dir(&place)?;
    tree(&layers, subpath, &place)
}

/// What is meant of an image, as a mount that is attached nowhere yet. The image as a whole is attached at the place,
/// which is of a mount namespace that nobody else sees. Links on the way to the part lead to files of the image only.
///
/// # Errors
/// Where the image has no such file, or can't be mounted.
pub fn tree(layers: &[PathBuf], subpath: Option<&Path>, place: &Path) -> io::Result<OwnedFd> {
    let tree = match overlay::distinct(layers).as_slice() {
        [only] => sys::clone_mount(only)?,
        layers => overlay::open(layers, None)?,
    };
    let made = match subpath {
        None => tree,
        Some(subpath) => {
            let about =
                |error: io::Error| io::Error::new(error.kind(), format!("{} in the image: {error}", subpath.display()));
            // Linux before 6.15 copies no mount that is attached nowhere.
            sys::attach_mount(tree.as_fd(), directory(place)?.as_fd())?;
            let inside = subpath.strip_prefix("/").unwrap_or(subpath);
            let found = sys::open_in_root(directory(place)?.as_fd(), inside, libc::O_PATH, 0).map_err(about)?;
            sys::clone_mount_of(found.as_fd())?
        }
    };
    sys::set_propagation(made.as_fd(), libc::MS_PRIVATE)?;
    sys::restrict_mount(made.as_fd(), ATTRIBUTES, true)?;
    Ok(made)
}
