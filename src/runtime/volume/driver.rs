//! Volumes of plugins: made, mounted and removed by a driver that is a program of others ([`crate::runtime::plugin`]).
//!
//! The volume's record is here as any other's; its data is where the driver says at each mount, and bound to `_data`
//! meanwhile, so that containers always find it at the same place. A driver is told of each user by an id, a container's
//! own, and unmounts when the last has gone. Who has been told of is written down before the driver is
//! (`RUN/volumes/NAME.json`): a mount that was cut short is undone and done again by the next user, and one whose user
//! has gone by the next command ([`settle`]). All of it is gone at a reboot, as mounts are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::MntFlags;
use serde::{Deserialize, Serialize};

use super::{Error, Volume, existing, get, io_at, lock, mounting};
use crate::runtime::container::ProcessId;
use crate::runtime::plugin::managed;
use crate::runtime::plugin::volume::VolumeDriver;
use crate::runtime::roots::Roots;
use crate::runtime::{state, sys};

/// Docker's word for volumes that no plugin makes.
pub const LOCAL: &str = "local";
const VERSION: u32 = 1;

/// `RUN/volumes/NAME.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Mounts {
    version: u32,
    /// Where the driver has mounted it.
    place: PathBuf,
    /// By the id that the driver knows.
    users: BTreeMap<String, User>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct User {
    /// The driver has mounted it for this one.
    mounted: bool,
    /// Who needs it until a container with this id runs, or for its own purposes.
    process: ProcessId,
}

/// Mounts the volume for this user and gives the directory; for one that has it mounted already, sees to it that it still
/// is. This process counts as the user until it ends, or says that another is ([`hand_over`]).
///
/// # Errors
/// Where the driver can't be reached, refuses, or mounts it elsewhere than for the users that there are.
pub fn acquire(roots: &Roots, name: &str, id: &str) -> Result<PathBuf, Error> {
    let _lock = lock(roots, name)?;
    let volume = existing(roots, name)?;
    let driver = driver(roots, &volume)?;
    let mut mounts = read(roots, name)?;
    if let Some(known) = mounts.users.get(id).copied() {
        if known.mounted && mounting::is_mounted(&volume.data)? {
            return write_user(roots, name, &mut mounts, id, true).map(|()| volume.data);
        }
        // It may or may not have been told: twice told is nothing to it, twice mounted may be.
        forgive(driver.unmount(name, id))?;
    }
    write_user(roots, name, &mut mounts, id, false)?;
    let place = driver.mount(name, id)?;
    if mounting::is_mounted(&volume.data)? && mounts.place != place {
        driver.unmount(name, id)?;
        drop_user(roots, name, &mut mounts, id)?;
        return Err(Error::Elsewhere { name: name.to_owned(), first: mounts.place, second: place });
    }
    bind(&volume, &place, driver.0.process())?;
    mounts.place = place;
    write_user(roots, name, &mut mounts, id, true)?;
    Ok(volume.data)
}

/// From now on the volume is this user's as long as the container of that id runs, and no longer this process's.
///
/// # Errors
/// Where it can't be written down.
pub fn hand_over(roots: &Roots, name: &str, id: &str) -> Result<(), Error> {
    let _lock = lock(roots, name)?;
    let mut mounts = read(roots, name)?;
    if let Some(user) = mounts.users.get_mut(id) {
        user.process = ProcessId::default();
        write(roots, name, &mounts)?;
    }
    Ok(())
}

/// Unmounts it for this user; for one that has nothing mounted, does nothing.
///
/// # Errors
/// Where the driver can't be reached: it is told the next time.
pub fn release(roots: &Roots, name: &str, id: &str) -> Result<(), Error> {
    let _lock = lock(roots, name)?;
    match get(roots, name)? {
        Some(volume) => release_locked(roots, &volume, id),
        None => Ok(state::remove(&file(roots, name))?),
    }
}

fn release_locked(roots: &Roots, volume: &Volume, id: &str) -> Result<(), Error> {
    let name = &volume.config.name;
    let mut mounts = read(roots, name)?;
    if !mounts.users.contains_key(id) {
        return Ok(());
    }
    if mounts.users.len() == 1 {
        unbind(volume)?;
    }
    forgive(driver(roots, volume)?.unmount(name, id))?;
    drop_user(roots, name, &mut mounts, id)
}

/// Unmounts what nobody uses any more: of users that are neither containers that run (`runs` says so of an id) nor
/// processes that are alive. A driver that can't be told is only spoken of: it is told the next time.
///
/// # Errors
/// Where what is written down can't be read.
pub fn settle(roots: &Roots, runs: impl Fn(&str) -> bool) -> Result<(), Error> {
    for name in names(roots)? {
        let gone = |(id, user): (&String, &User)| (!runs(id) && !user.process.is_alive()).then(|| id.clone());
        for id in read(roots, &name)?.users.iter().filter_map(gone).collect::<Vec<_>>() {
            if let Err(error) = release(roots, &name, &id) {
                tracing::warn!("volume {name}: still mounted: {error}");
                break;
            }
        }
    }
    Ok(())
}

/// Whether a driver has something mounted, or may have.
pub fn is_any_mounted(roots: &Roots) -> bool {
    names(roots).is_ok_and(|names| !names.is_empty())
}

/// What is wrong with the mount of a volume that is in use; `None` where nothing is.
///
/// # Errors
/// Where the mounts of this host can't be read.
pub fn drift(roots: &Roots, volume: &Volume) -> Result<Option<String>, Error> {
    let mounts = read(roots, &volume.config.name)?;
    if !mounts.users.values().any(|user| user.mounted) {
        return Ok(None);
    }
    if !mounting::is_mounted(&volume.data)? {
        return Ok(Some("its mount is gone".to_owned()));
    }
    Ok(fs::metadata(&volume.data).err().map(|error| format!("its mount is dead: {error}")))
}

/// Puts the mount of a volume in use back.
///
/// # Errors
/// As [`acquire`].
pub fn repair(roots: &Roots, name: &str) -> Result<(), Error> {
    let users = {
        let _lock = lock(roots, name)?;
        let volume = existing(roots, name)?;
        if drift(roots, &volume)?.is_none() {
            return Ok(());
        }
        unbind(&volume)?;
        read(roots, name)?.users
    };
    for (id, user) in users {
        acquire(roots, name, &id)?;
        if !user.process.is_alive() {
            hand_over(roots, name, &id)?;
        }
    }
    Ok(())
}

/// Asks the driver to make it.
pub(super) fn create(roots: &Roots, name: &str, kind: &str, options: &BTreeMap<String, String>) -> Result<(), Error> {
    let driver = VolumeDriver::open(roots, kind).map_err(|source| of(name, source))?;
    driver.create(name, options).map_err(|source| of(name, source))
}

/// Asks the driver to remove it, after all that was mounted for whom nobody remembers.
pub(super) fn remove_locked(roots: &Roots, volume: &Volume) -> Result<(), Error> {
    for id in read(roots, &volume.config.name)?.users.into_keys() {
        release_locked(roots, volume, &id)?;
    }
    let name = &volume.config.name;
    driver(roots, volume)?.0.remove(name).map_err(|source| of(name, source))
}

/// What the driver says of its volume now: its status, and whether it is known everywhere (`global`) or here.
///
/// # Errors
/// Where it can't be asked.
pub fn status(roots: &Roots, volume: &Volume) -> Result<(Option<serde_json::Value>, String), Error> {
    let name = &volume.config.name;
    let driver = driver(roots, volume)?.0;
    let described = driver.get(name).map_err(|source| of(name, source))?;
    let scope = driver.scope().map_err(|source| of(name, source))?;
    Ok((described.map(|described| described.status), scope))
}

/// A driver whose errors name the volume.
struct Named(VolumeDriver);

impl Named {
    fn mount(&self, name: &str, id: &str) -> Result<PathBuf, Error> {
        self.0.mount(name, id).map_err(|source| of(name, source))
    }

    fn unmount(&self, name: &str, id: &str) -> Result<(), Error> {
        self.0.unmount(name, id).map_err(|source| of(name, source))
    }
}

fn driver(roots: &Roots, volume: &Volume) -> Result<Named, Error> {
    let name = &volume.config.name;
    VolumeDriver::open(roots, &volume.config.driver).map(Named).map_err(|source| of(name, source))
}

fn of(name: &str, source: crate::runtime::plugin::Error) -> Error {
    Error::Plugin { name: name.to_owned(), source }
}

/// A driver that has nothing mounted for this user says so by an error.
fn forgive(unmounted: Result<(), Error>) -> Result<(), Error> {
    match unmounted {
        Err(Error::Plugin { source, .. }) if source.is_refusal() => {
            tracing::info!("{source}");
            Ok(())
        }
        done => done,
    }
}

/// What the driver has mounted, on the volume's own directory; of a driver that this engine runs, out of its view.
fn bind(volume: &Volume, place: &Path, driver: Option<ProcessId>) -> Result<(), Error> {
    if mounting::is_mounted(&volume.data)? {
        return Ok(());
    }
    let attached = match driver {
        Some(process) => managed::mounts::take(process, place),
        None => copy_of(place),
    };
    let failed =
        |source| Error::Mount { name: volume.config.name.clone(), device: place.display().to_string(), source };
    let onto = File::open(&volume.data).map_err(io_at(&volume.data))?;
    attached.and_then(|copy| sys::attach_mount(copy.as_fd(), onto.as_fd())).map_err(failed)
}

/// What is unmounted of it later must not be unmounted where the driver has it.
fn copy_of(place: &Path) -> io::Result<OwnedFd> {
    let copy = sys::clone_mount(place)?;
    sys::set_propagation(copy.as_fd(), libc::MS_PRIVATE)?;
    Ok(copy)
}

fn unbind(volume: &Volume) -> Result<(), Error> {
    while mounting::is_mounted(&volume.data)? {
        // Detached: what is mounted below goes with it, and who still looks at it does not hold it.
        nix::mount::umount2(&volume.data, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)
            .map_err(|error| Error::Unmount { name: volume.config.name.clone(), source: error.into() })?;
    }
    Ok(())
}

fn file(roots: &Roots, name: &str) -> PathBuf {
    roots.volatile("volumes").join(format!("{name}.json"))
}

fn read(roots: &Roots, name: &str) -> Result<Mounts, Error> {
    let none = Mounts { version: VERSION, place: PathBuf::new(), users: BTreeMap::new() };
    let found: Mounts = state::read_json(&file(roots, name))?.unwrap_or(none);
    if found.version != VERSION {
        return Err(Error::Version { name: format!("{name}, its mounts"), version: found.version });
    }
    Ok(found)
}

fn write(roots: &Roots, name: &str, mounts: &Mounts) -> Result<(), Error> {
    let file = file(roots, name);
    if mounts.users.is_empty() {
        return Ok(state::remove(&file)?);
    }
    state::make_directory(&roots.volatile("volumes"))?;
    Ok(state::write_json_volatile(&file, mounts)?)
}

fn write_user(roots: &Roots, name: &str, mounts: &mut Mounts, id: &str, mounted: bool) -> Result<(), Error> {
    let process = ProcessId::of(std::process::id() as i32);
    mounts.users.insert(id.to_owned(), User { mounted, process });
    write(roots, name, mounts)
}

fn drop_user(roots: &Roots, name: &str, mounts: &mut Mounts, id: &str) -> Result<(), Error> {
    mounts.users.remove(id);
    write(roots, name, mounts)
}

/// The volumes that something is written down of.
fn names(roots: &Roots) -> Result<Vec<String>, Error> {
    let folder = roots.volatile("volumes");
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_at(&folder))?,
    };
    let name = |entry: io::Result<fs::DirEntry>| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        name.strip_suffix(".json").filter(|name| !name.starts_with('.')).map(str::to_owned)
    };
    Ok(entries.filter_map(name).collect())
}
