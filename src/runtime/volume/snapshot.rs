//! Snapshots: what a volume held at some moment, kept beside it.
//!
//! One is `ROOT/volumes/NAME/snapshots/SNAPSHOT` with the data in `_data` and the record `snapshot.json`, which is
//! written last, once all else is on disk: a directory without one is no snapshot, and the next change of the volume
//! clears it. Snapshots belong to their volume: they go into the trash with it and come back with it.
//!
//! Files share their blocks with the volume's where the file system can do that (FICLONE: btrfs, xfs); else they are
//! copied, and the caller asks before that. Whoever writes meanwhile is the caller's affair, too.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::options::Backing;
use super::{
    DATA, Error, RECORD, Record, VERSION, Volume, VolumeConfig, check_name, copy, directory, existing, get, io_at,
    lock, make_data, sweep, tell, trash, write,
};
use crate::runtime::roots::Roots;
use crate::runtime::{state, sys};

const SNAPSHOTS: &str = "snapshots";
const SNAPSHOT: &str = "snapshot.json";
/// What is about to become the volume's data, and what has just ceased to be it.
const RESTORING: &str = "restoring";

/// What a volume held once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub name: String,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    pub data: PathBuf,
}

/// `snapshot.json`.
#[derive(Serialize, Deserialize)]
struct Taken {
    version: u32,
    created_ms: u64,
}

/// What a copy of a volume costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Nothing at first: files share their blocks until one of them is written to.
    Shared,
    /// So many bytes of disk.
    Copied(u64),
}

/// What a copy of what is in this directory costs on its own disk.
///
/// # Errors
/// Where nothing can be written there.
pub fn cost(data: &Path) -> Result<Cost, Error> {
    if shares_blocks(data).map_err(io_at(data))? { Ok(Cost::Shared) } else { Ok(Cost::Copied(copy::disk_use(data))) }
}

/// Tried with two files that have no names.
fn shares_blocks(directory: &Path) -> io::Result<bool> {
    let unnamed = || File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).open(directory);
    let (Ok(from), Ok(to)) = (unnamed(), unnamed()) else { return Ok(false) };
    from.write_all_at(&[1; 4096], 0)?;
    Ok(sys::share_blocks(from.as_fd(), to.as_fd()).is_ok())
}

/// All snapshots of the volume, the oldest first.
pub fn list(roots: &Roots, volume: &str) -> Result<Vec<Snapshot>, Error> {
    existing(roots, volume)?;
    let place = directory(roots, volume).join(SNAPSHOTS);
    let entries = match fs::read_dir(&place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_at(&place))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_at(&place))?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let Some(taken) = state::read_json::<Taken>(&entry.path().join(SNAPSHOT))? else { continue };
        if taken.version != VERSION {
            return Err(Error::Version { name: format!("{volume}, snapshot {name}"), version: taken.version });
        }
        found.push(Snapshot { name, created_ms: taken.created_ms, data: entry.path().join(DATA) });
    }
    found.sort_by(|a, b| (a.created_ms, &a.name).cmp(&(b.created_ms, &b.name)));
    Ok(found)
}

/// The snapshot of this name.
///
/// # Errors
/// [`Error::NoSnapshot`], with the names of those that there are.
pub fn find(roots: &Roots, volume: &str, name: &str) -> Result<Snapshot, Error> {
    let all = list(roots, volume)?;
    let known = all.iter().map(|one| one.name.clone()).collect();
    let unknown = || Error::NoSnapshot { name: volume.to_owned(), snapshot: name.to_owned(), known };
    all.into_iter().find(|one| one.name == name).ok_or_else(unknown)
}

/// Keeps what the volume holds now.
///
/// # Errors
/// [`Error::SnapshotExists`], and [`Error::Backed`] for a volume whose data is somewhere else.
pub fn take(roots: &Roots, volume: &str, name: &str, now_ms: u64) -> Result<Snapshot, Error> {
    check_name(name)?;
    let _lock = lock(roots, volume)?;
    let found = own(roots, volume)?;
    clear(roots, volume)?;
    let place = directory(roots, volume).join(SNAPSHOTS).join(name);
    if place.exists() {
        return Err(Error::SnapshotExists { name: volume.to_owned(), snapshot: name.to_owned() });
    }
    state::make_directory(&place)?;
    copied(&found.data, &place.join(DATA), |_| Ok(()))?;
    state::write_json(&place.join(SNAPSHOT), &Taken { version: VERSION, created_ms: now_ms })?;
    tell(roots, "snapshot", &found.config);
    Ok(Snapshot { name: name.to_owned(), created_ms: now_ms, data: place.join(DATA) })
}

/// Forgets the snapshot; the volume stays as it is.
///
/// # Errors
/// [`Error::NoSnapshot`].
pub fn remove(roots: &Roots, volume: &str, name: &str) -> Result<(), Error> {
    let _lock = lock(roots, volume)?;
    find(roots, volume, name)?;
    let place = directory(roots, volume).join(SNAPSHOTS).join(name);
    fs::remove_file(place.join(SNAPSHOT)).map_err(io_at(&place))?;
    clear(roots, volume)
}

/// Puts back what the snapshot has; what the volume held until now goes into the trash. `running` are the containers
/// that run with the volume: they would go on in the old data.
///
/// # Errors
/// [`Error::Running`] unless there are none, and as [`take`].
pub fn restore(roots: &Roots, volume: &str, name: &str, running: &[String], now_ms: u64) -> Result<(), Error> {
    let _lock = lock(roots, volume)?;
    let found = own(roots, volume)?;
    if !running.is_empty() {
        return Err(Error::Running { name: volume.to_owned(), users: running.to_vec() });
    }
    super::refuse_mounts(roots, volume)?;
    clear(roots, volume)?;
    let snapshot = find(roots, volume, name)?;
    let new = directory(roots, volume).join(RESTORING);
    copied(&snapshot.data, &new, |new| super::limit(roots, &found.config, new))?;
    // At any moment one or the other is there, and whole.
    sys::exchange(&new, &found.data).map_err(io_at(&found.data))?;
    trash::sync(&directory(roots, volume))?;
    if trash::time_to_live(roots)?.is_zero() {
        trash::clear(&new)?;
    } else {
        trash::put_data(roots, &found, &new, now_ms)?;
    }
    tell(roots, "restore", &found.config);
    Ok(())
}

/// Makes a volume as `config` says with what another one holds, or one of its snapshots.
///
/// # Errors
/// [`Error::Exists`] where there is a volume of this name.
pub fn clone(roots: &Roots, config: &VolumeConfig, data: &Path) -> Result<Volume, Error> {
    fill(roots, config, |target| copy_into(data, target))
}

/// Makes a volume that is there only once `fill` has put its content into the directory that it is given.
///
/// # Errors
/// [`Error::Exists`] where there is a volume of this name, and what `fill` says.
pub fn fill(
    roots: &Roots,
    config: &VolumeConfig,
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<Volume, Error> {
    let _lock = lock(roots, &config.name)?;
    sweep(roots, &config.name)?;
    if get(roots, &config.name)?.is_some() {
        return Err(Error::Exists { name: config.name.clone() });
    }
    let place = directory(roots, &config.name);
    make_data(&place)?;
    let data = place.join(DATA);
    let filled = super::limit(roots, config, &data).and_then(|()| fill(&data)).and_then(|()| synced(&data));
    if let Err(error) = filled {
        sweep(roots, &config.name)?;
        return Err(error);
    }
    let created = super::now_ms() / 1000;
    debug_assert!(!place.join(RECORD).exists(), "the record is what makes it a volume");
    let made = write(&place, &Record { version: VERSION, created, config: config.clone() })?;
    tell(roots, "create", config);
    Ok(made)
}

/// A volume whose data is its own directory.
fn own(roots: &Roots, volume: &str) -> Result<Volume, Error> {
    let found = existing(roots, volume)?;
    match found.config.backing() {
        Ok(Backing::Directory) => Ok(found),
        Ok(Backing::Plugin(driver)) => {
            Err(Error::Backed { name: volume.to_owned(), device: format!("of plugin {driver}") })
        }
        Ok(Backing::Mount(mount)) => Err(Error::Backed { name: volume.to_owned(), device: mount.device }),
        Err(source) => Err(Error::Options { name: volume.to_owned(), source }),
    }
}

/// Takes away what was cut short.
fn clear(roots: &Roots, volume: &str) -> Result<(), Error> {
    let top = directory(roots, volume);
    trash::clear(&top.join(RESTORING))?;
    let entries = match fs::read_dir(top.join(SNAPSHOTS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(io_at(&top))?,
    };
    for entry in entries {
        let path = entry.map_err(io_at(&top))?.path();
        if !path.join(SNAPSHOT).exists() {
            trash::clear(&path)?;
        }
    }
    Ok(())
}

/// A new directory with everything that is in the other one, and on disk. `limit` is shown it while it is empty.
fn copied(source: &Path, target: &Path, limit: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    fs::DirBuilder::new().mode(0o700).create(target).map_err(io_at(target))?;
    limit(target)?;
    copy_into(source, target)?;
    synced(target)
}

fn copy_into(source: &Path, target: &Path) -> Result<(), Error> {
    let (from, to) = (File::open(source).map_err(io_at(source))?, File::open(target).map_err(io_at(target))?);
    copy::tree(from.as_fd(), to.as_fd()).map_err(io_at(source))
}

fn synced(directory: &Path) -> Result<(), Error> {
    let opened = File::open(directory).map_err(io_at(directory))?;
    nix::unistd::syncfs(&opened).map_err(|error| io_at(directory)(error.into()))
}
