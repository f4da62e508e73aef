//! Configs and secrets: copied to files of the container's own, with the owner and mode asked for. They lie below the
//! volatile root, in memory, and are gone at reboot. A start after that copies them anew; what a config's content in the
//! stack's own file was is kept with the container, and what a secret's was is nowhere: it needs another apply.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::containers::Error;
use super::declared;
use crate::reconcile::resource::{ContainerConfig, FileMount, FileSource};
use crate::runtime::container::{self, Paths};
use crate::runtime::init::spec::{Mount, MountSource};
use crate::runtime::objects::{self, Kind};
use crate::runtime::roots::Roots;
use crate::runtime::sealed;
use crate::runtime::state::{self, Contention, Durability, Lock};
use crate::runtime::userns::IdRange;
use crate::spec::reaction::Encryption;

const FILES: &str = "files";

fn directory(roots: &Roots, container: &str) -> PathBuf {
    roots.volatile(FILES).join(container)
}

/// Where the file with this index is.
pub fn written(roots: &Roots, container: &str, index: usize) -> PathBuf {
    directory(roots, container).join(index.to_string())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Path { what: "file for the container", path, source }
}

/// Writes all files of the container; they belong to ids of its user namespace, where it has one. `user` is asked for
/// the ids of its user. Returns them by target.
pub fn write(
    roots: &Roots,
    wanted: &ContainerConfig,
    users: Option<IdRange>,
    user: impl Fn() -> (u32, u32),
) -> Result<BTreeMap<String, PathBuf>, Error> {
    let mut written = BTreeMap::new();
    if wanted.files.is_empty() {
        return Ok(written);
    }
    make_directory(roots, &wanted.name)?;
    for (number, file) in wanted.files.iter().enumerate() {
        let path = self::written(roots, &wanted.name, number);
        let put = |bytes: &[u8]| put(&path, bytes, file, owner(file, users, &user)?);
        match content(roots, file)? {
            Some(bytes) => put(&bytes)?,
            None if file.secret && path.exists() => {}
            None if file.secret => return Err(Error::ContentLost(file.name.clone())),
            None if path.exists() => keep(&path, &kept(roots, &wanted.name, number))?,
            None => match fs::read(kept(roots, &wanted.name, number)) {
                Ok(bytes) => put(&bytes)?,
                Err(_) => return Err(Error::ContentLost(file.name.clone())),
            },
        }
        written.insert(file.target.clone(), path);
    }
    Ok(written)
}

/// Nobody who takes the last one away has the memory let go of meanwhile.
fn lock(roots: &Roots) -> Result<Lock, Error> {
    Ok(Lock::take(&roots.volatile("locks").join(FILES), Contention::Wait)?)
}

/// The container's own, in memory: where the volatile root is on a disk, something in memory is mounted there, not to be
/// swapped out where the kernel knows how (Linux 6.4).
fn make_directory(roots: &Roots, container: &str) -> Result<(), Error> {
    let (all, own) = (roots.volatile(FILES), directory(roots, container));
    if own.is_dir() {
        return Ok(());
    }
    let _lock = lock(roots)?;
    state::make_directory(&all)?;
    let kind = statfs(&all).map_err(|error| at(&all)(error.into()))?.filesystem_type();
    if kind != TMPFS_MAGIC {
        let make = |data: &str| {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("stack-files"), &all, Some("tmpfs"), flags, Some(data))
        };
        let made = make("mode=0700,noswap").or_else(|_| make("mode=0700"));
        made.map_err(|error| at(&all)(error.into()))?;
    }
    Ok(state::make_directory(&own)?)
}

/// Where the content of a config outlives the boot.
fn kept(roots: &Roots, container: &str, index: usize) -> PathBuf {
    Paths::of(roots, container).directory.join(FILES).join(index.to_string())
}

fn keep(path: &Path, kept: &Path) -> Result<(), Error> {
    let bytes = fs::read(path).map_err(at(path))?;
    if fs::read(kept).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let directory = kept.parent().unwrap_or(kept);
    state::make_directory(directory)?;
    state::replace(kept, &bytes, Durability::Durable).map_err(at(kept))
}

/// `None` where the content was in the declaration, and the declaration is not at hand.
pub fn content(roots: &Roots, file: &FileMount) -> Result<Option<Vec<u8>>, Error> {
    let kind = if file.secret { Kind::Secret } else { Kind::Config };
    match &file.source {
        FileSource::Content(text) if text.is_empty() => Ok(None),
        FileSource::Content(text) => Ok(Some(text.clone().into_bytes())),
        other => bytes(roots, other, kind).map(Some),
    }
}

/// What a source holds that is not in the declaration itself.
pub fn bytes(roots: &Roots, source: &FileSource, kind: Kind) -> Result<Vec<u8>, Error> {
    match source {
        FileSource::File(path) => fs::read(path).map_err(at(path)),
        FileSource::Content(text) => Ok(text.clone().into_bytes()),
        FileSource::External(name) => Ok(objects::read(roots, kind, name)?),
        FileSource::Encrypted { path, encryption, keys } => {
            let encryption = match encryption {
                Encryption::Age => sealed::Encryption::Age,
                Encryption::Sops => sealed::Encryption::Sops,
            };
            Ok(sealed::open(path, encryption, keys.as_deref())?)
        }
    }
}

/// The containers that have what the engine keeps under this name.
///
/// # Errors
/// Where containers can't be listed.
pub fn users(roots: &Roots, kind: Kind, name: &str) -> Result<Vec<String>, Error> {
    let is_it = |file: &FileMount| {
        (file.secret == (kind == Kind::Secret)) && matches!(&file.source, FileSource::External(own) if own == name)
    };
    let all = container::list(roots)?.into_iter();
    let users = all.filter(|one| declared(one).is_some_and(|wanted| wanted.files.iter().any(is_it)));
    Ok(users.map(|one| one.config.name).collect())
}

/// As the host knows the owner.
fn owner(file: &FileMount, users: Option<IdRange>, user: impl Fn() -> (u32, u32)) -> Result<(u32, u32), Error> {
    let (uid, gid) = match (file.uid, file.gid) {
        (Some(uid), Some(gid)) => (uid, gid),
        (uid, gid) => {
            let own = user();
            (uid.unwrap_or(own.0), gid.unwrap_or(own.1))
        }
    };
    let outside = |id: u32| users.map_or(Some(id), |ids| ids.outside(id));
    outside(uid).zip(outside(gid)).ok_or_else(|| Error::Owner { name: file.name.clone(), uid, gid })
}

/// Another file under the same name: a container that runs has the old one until it is shown the new one.
fn put(path: &Path, bytes: &[u8], file: &FileMount, (uid, gid): (u32, u32)) -> Result<(), Error> {
    let is_same = |found: fs::Metadata| {
        found.mode() & 0o7777 == file.mode
            && (found.uid(), found.gid()) == (uid, gid)
            && found.len() == bytes.len() as u64
    };
    if fs::symlink_metadata(path).is_ok_and(is_same) && fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let new = path.with_extension("new");
    let mut opened =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(at(&new))?;
    opened.write_all(bytes).map_err(at(&new))?;
    chown(&new, Some(uid), Some(gid)).map_err(at(&new))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(file.mode)).map_err(at(&new))?;
    fs::rename(&new, path).map_err(at(path))
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

/// Takes them away, and with the last ones what was mounted for them.
pub fn remove(roots: &Roots, container: &str) -> Result<(), Error> {
    let (all, own) = (roots.volatile(FILES), directory(roots, container));
    if !own.exists() {
        return Ok(());
    }
    let _lock = lock(roots)?;
    match fs::remove_dir_all(&own) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&own)(error)),
        _ => {}
    }
    let is_last = fs::read_dir(&all).map_err(at(&all))?.next().is_none();
    if !is_last {
        return Ok(());
    }
    match umount2(&all, MntFlags::UMOUNT_NOFOLLOW) {
        // It is no mount, since the volatile root is in memory itself; or somebody looks at it at this moment.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::EBUSY) => Ok(()),
        Err(error) => Err(at(&all)(error.into())),
    }
}
