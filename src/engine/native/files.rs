//! Configs and secrets: copied to files of the container's own, with the owner and mode asked for. They lie below the
//! volatile root and are gone at reboot. A start after that copies them anew; what a config's content in the stack's own
//! file was is kept with the container, and what a secret's was is nowhere: it needs another apply.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::containers::Error;
use crate::reconcile::resource::{ContainerConfig, FileMount, FileSource};
use crate::runtime::container::Paths;
use crate::runtime::init::spec::{Mount, MountSource};
use crate::runtime::roots::Roots;
use crate::runtime::state::{self, Durability};
use crate::runtime::userns::IdRange;

fn directory(roots: &Roots, container: &str) -> PathBuf {
    roots.volatile("files").join(container)
}

/// Where the file with this index is.
pub fn written(roots: &Roots, container: &str, index: usize) -> PathBuf {
    directory(roots, container).join(index.to_string())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Path { what: "file for the container", path, source }
}

/// Writes all files of the container; they belong to ids of its user namespace, where it has one. Returns them by
/// target.
pub fn write(
    roots: &Roots,
    wanted: &ContainerConfig,
    users: Option<IdRange>,
) -> Result<BTreeMap<String, PathBuf>, Error> {
    let mut written = BTreeMap::new();
    for (number, file) in wanted.files.iter().enumerate() {
        let directory = directory(roots, &wanted.name);
        state::make_directory(&directory).map_err(crate::runtime::container::Error::from)?;
        let path = self::written(roots, &wanted.name, number);
        match content(file)? {
            Some(bytes) => put(&path, &bytes, file, users)?,
            None if file.secret && path.exists() => {}
            None if file.secret => return Err(Error::ContentLost(file.name.clone())),
            None if path.exists() => keep(&path, &kept(roots, &wanted.name, number))?,
            None => match fs::read(kept(roots, &wanted.name, number)) {
                Ok(bytes) => put(&path, &bytes, file, users)?,
                Err(_) => return Err(Error::ContentLost(file.name.clone())),
            },
        }
        written.insert(file.target.clone(), path);
    }
    Ok(written)
}

/// Where the content of a config outlives the boot.
fn kept(roots: &Roots, container: &str, index: usize) -> PathBuf {
    Paths::of(roots, container).directory.join("files").join(index.to_string())
}

fn keep(path: &Path, kept: &Path) -> Result<(), Error> {
    let bytes = fs::read(path).map_err(at(path))?;
    if fs::read(kept).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let directory = kept.parent().unwrap_or(kept);
    state::make_directory(directory).map_err(crate::runtime::container::Error::from)?;
    state::replace(kept, &bytes, Durability::Durable).map_err(at(kept))
}

/// `None` where the content was in the declaration, and the declaration is not at hand.
fn content(file: &FileMount) -> Result<Option<Vec<u8>>, Error> {
    match &file.source {
        FileSource::File(path) => fs::read(path).map(Some).map_err(at(path)),
        FileSource::Content(text) if text.is_empty() => Ok(None),
        FileSource::Content(text) => Ok(Some(text.clone().into_bytes())),
    }
}

/// In place: a container that runs has this very file mounted.
fn put(path: &Path, bytes: &[u8], file: &FileMount, users: Option<IdRange>) -> Result<(), Error> {
    let outside = |id: u32| users.map_or(Some(id), |ids| ids.outside(id));
    let (Some(uid), Some(gid)) = (outside(file.uid), outside(file.gid)) else {
        return Err(Error::Owner { name: file.name.clone(), uid: file.uid, gid: file.gid });
    };
    fs::write(path, bytes).map_err(at(path))?;
    chown(path, Some(uid), Some(gid)).map_err(at(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(file.mode)).map_err(at(path))
}

/// They are those of a container of another name from now on.
pub fn rename(roots: &Roots, container: &str, new: &str) -> Result<(), Error> {
    let (from, to) = (directory(roots, container), directory(roots, new));
    match fs::rename(&from, &to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&from)(error)),
        _ => Ok(()),
    }
}

/// Says where they are now, for the next start.
pub fn moved(roots: &Roots, container: &str, new: &str, mounts: &mut [Mount]) {
    let (from, to) = (directory(roots, container), directory(roots, new));
    for mount in mounts {
        if let MountSource::Bind { source, .. } = &mut mount.source
            && let Ok(file) = source.strip_prefix(&from)
        {
            *source = to.join(file);
        }
    }
}

/// Takes them away.
pub fn remove(roots: &Roots, container: &str) -> Result<(), Error> {
    let directory = directory(roots, container);
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&directory)(error)),
        _ => Ok(()),
    }
}
