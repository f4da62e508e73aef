//! Volumes: directories that outlive containers.
//!
//! A volume is `ROOT/volumes/NAME` with the record `volume.json` and the data in `_data`. The record is written last and
//! removed first, so that a directory without one is the rest of a `create` or `remove` that was cut short; the next
//! call of either clears it. Data is never removed by anything but [`remove`] and the end of its time in the trash
//! ([`trash`]), and never through a mount: a volume whose `driver_opts` mount a directory or a server is unmounted, and
//! what was mounted stays as it is. What it held at some moment can be kept beside it ([`snapshot`]).
//!
//! Who uses a volume and who consented to its loss is known to the caller.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::runtime::events::{self, Event};
use crate::runtime::roots::Roots;
use crate::runtime::state::{self, Contention, Lock};
use crate::runtime::sys;

pub(in crate::runtime) mod attributes;
mod copy;
pub mod driver;
mod file_system;
mod loop_device;
mod mounting;
mod options;
mod populate;
mod quota;
pub mod snapshot;
#[cfg(test)]
mod tests;
pub mod trash;

pub use copy::{disk_use, tree as copy_tree};
pub use file_system::Refusal;
pub use mounting::{let_go, mount, mounts_below, unmount};
pub use options::{Backing, MountOptions, OptionsError};
pub use populate::{Populated, populate};
pub use quota::QuotaError;

/// The format of `volume.json` that this program writes and reads.
const VERSION: u32 = 1;
const VOLUMES: &str = "volumes";
const RECORD: &str = "volume.json";
const DATA: &str = "_data";

/// What is asked of a volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeConfig {
    /// Letters, digits, `_`, `.` and `-`, the first a letter or digit; unique in the root.
    pub name: String,
    /// The plugin that makes it; empty or `local` where none does.
    pub driver: String,
    /// As docker's local driver: `type`, `o` and `device`, or `size`. Empty for a plain directory.
    pub driver_opts: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// [`remove`] refuses as long as this is set.
    pub protect: bool,
    /// What the layer above asked for; kept, never read here.
    pub declared: serde_json::Value,
}

/// A volume that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    pub config: VolumeConfig,
    /// Seconds since 1970.
    pub created: u64,
    /// The directory to mount into containers, after [`mount`].
    pub data: PathBuf,
}

/// `volume.json`.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    created: u64,
    #[serde(flatten)]
    config: VolumeConfig,
}

/// Why a volume is not as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{name:?} can't name a volume\n  help: use letters, digits, `_`, `.` and `-`, beginning with a letter or digit, at most 200"
    )]
    Name { name: String },
    #[error("volume {name}: {source}")]
    Options { name: String, source: OptionsError },
    #[error("volume {name}: {source}")]
    Quota { name: String, source: QuotaError },
    #[error("volume {name} is not known\n  help: create it first")]
    Unknown { name: String },
    #[error("volume {name}: {source}")]
    Plugin { name: String, source: crate::runtime::plugin::Error },
    #[error(
        "volume {name}: its driver mounts it at {} for one user and at {} for another\n  help: use it in one container at a time",
        first.display(), second.display()
    )]
    Elsewhere { name: String, first: PathBuf, second: PathBuf },
    #[error("volume {name} is of driver {has:?}, asked for {asked:?}\n  help: remove it first, or choose another name")]
    Driver { name: String, has: String, asked: String },
    #[error("volume {name} exists with other driver_opts: {has:?}, asked for {asked:?}")]
    Differs { name: String, has: BTreeMap<String, String>, asked: BTreeMap<String, String> },
    #[error("volume {name} is used by {}\n  help: remove these containers first", users.join(", "))]
    InUse { name: String, users: Vec<String> },
    #[error("volume {name} is protected\n  help: set `protect: false` first")]
    Protected { name: String },
    #[error("volume {name}: {} is a mount on the host\n  help: unmount it", path.display())]
    Mounted { name: String, path: PathBuf },
    #[error("volume {name}: its record is of version {version}, and this program knows {VERSION}")]
    Version { name: String, version: u32 },
    #[error("volume {name}: mounting {device}: {source}")]
    Mount { name: String, device: String, source: io::Error },
    #[error("volume {name}: {source}")]
    Refused { name: String, source: Refusal },
    #[error("volume {name}: unmounting: {source}")]
    Unmount { name: String, source: io::Error },
    #[error("volume {name} exists\n  help: choose another name, or remove that one first")]
    Exists { name: String },
    #[error("volume {name} is there again\n  help: `stack volume undelete {id} --as NAME` gives it another name")]
    Taken { name: String, id: String },
    #[error("no volume {word:?} is in the trash\n  help: `stack volume ls --trash` lists what is")]
    NotInTrash { word: String },
    #[error("volume {name} has no snapshot {snapshot:?}\n  help: {}", Self::snapshots(known))]
    NoSnapshot { name: String, snapshot: String, known: Vec<String> },
    #[error(
        "volume {name} has a snapshot {snapshot:?} already\n  help: choose another name, or `stack volume rm-snapshot {name} {snapshot}`"
    )]
    SnapshotExists { name: String, snapshot: String },
    #[error(
        "volume {name} is {device}, mounted: what it held can't be kept beside it\n  help: `stack volume export` writes it to a file"
    )]
    Backed { name: String, device: String },
    #[error("volume {name} is in use: {} run\n  help: stop these containers first", users.join(", "))]
    Running { name: String, users: Vec<String> },
    #[error("{}: {reason}\n  help: it may say `trash_hours = 72`", path.display())]
    Settings { path: PathBuf, reason: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    State(#[from] state::Error),
}

impl VolumeConfig {
    /// The plugin that makes it, where one does.
    pub fn plugin(&self) -> Option<&str> {
        Some(self.driver.as_str()).filter(|driver| !driver.is_empty() && *driver != driver::LOCAL)
    }

    /// What an existing volume with this configuration is not as `asked`.
    fn differs(&self, asked: &Self) -> Option<Error> {
        if self.plugin() != asked.plugin() {
            let word = |one: &Self| one.plugin().unwrap_or(driver::LOCAL).to_owned();
            return Some(Error::Driver { name: asked.name.clone(), has: word(self), asked: word(asked) });
        }
        let (has, asked_for) = (self.driver_opts.clone(), asked.driver_opts.clone());
        (has != asked_for).then(|| Error::Differs { name: asked.name.clone(), has, asked: asked_for })
    }

    /// Where its data is.
    ///
    /// # Errors
    /// Where the options of the local driver make no sense.
    pub fn backing(&self) -> Result<Backing, OptionsError> {
        match self.plugin() {
            Some(driver) => Ok(Backing::Plugin(driver.to_owned())),
            None => options::parse(&self.driver_opts),
        }
    }
}

impl Error {
    fn snapshots(known: &[String]) -> String {
        if known.is_empty() {
            "`stack volume snapshot` makes one".to_owned()
        } else {
            format!("it has {}", known.join(", "))
        }
    }
}

/// What becomes of a volume that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It can be brought back for some time, see [`trash`].
    Trash,
    /// It is deleted.
    Now,
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// Makes the volume, or finds it as asked. Labels, protection and the declaration of one that exists are left alone;
/// see [`update`].
///
/// # Errors
/// [`Error::Differs`] where a volume of this name has other `driver_opts`; [`Error::Options`] where they make no sense.
pub fn create(roots: &Roots, config: &VolumeConfig) -> Result<Volume, Error> {
    check_name(&config.name)?;
    config.backing().map_err(|source| Error::Options { name: config.name.clone(), source })?;
    let _lock = lock(roots, &config.name)?;
    sweep(roots, &config.name)?;
    if let Some(volume) = get(roots, &config.name)? {
        return volume.config.differs(config).map_or(Ok(volume), Err);
    }
    if let Some(plugin) = config.plugin() {
        driver::create(roots, &config.name, plugin, &config.driver_opts)?;
    }
    let directory = directory(roots, &config.name);
    make_data(&directory)?;
    if let Err(refused) = limit(roots, config, &directory.join(DATA)) {
        sweep(roots, &config.name)?;
        return Err(refused);
    }
    let created = now_ms() / 1000;
    let made = write(&directory, &Record { version: VERSION, created, config: config.clone() })?;
    tell(roots, "create", config);
    Ok(made)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// For who follows what happens.
fn tell(roots: &Roots, action: &str, config: &VolumeConfig) {
    let event = Event::now(events::Kind::Volume, action, &config.name, &config.name);
    events::record(roots, &event.with_labels(&config.labels));
}

/// Puts labels, protection and declaration as in `config`.
///
/// # Errors
/// [`Error::Unknown`], and [`Error::Differs`] where `driver_opts` would change.
pub fn update(roots: &Roots, config: &VolumeConfig) -> Result<Volume, Error> {
    let _lock = lock(roots, &config.name)?;
    let volume = existing(roots, &config.name)?;
    if let Some(differs) = volume.config.differs(config) {
        return Err(differs);
    }
    let record = Record { version: VERSION, created: volume.created, config: config.clone() };
    write(&directory(roots, &config.name), &record)
}

/// Removes the volume with its data and snapshots; `false` when there was none. `users` are the containers that mount
/// it. Also deletes what has been in the trash for too long.
///
/// # Errors
/// [`Error::InUse`] unless `users` is empty, [`Error::Protected`], [`Error::Mounted`] where something is mounted in it
/// that this program did not mount.
pub fn remove(roots: &Roots, name: &str, users: &[String], removal: Removal) -> Result<bool, Error> {
    check_name(name)?;
    let _lock = lock(roots, name)?;
    let Some(volume) = get(roots, name)? else {
        sweep(roots, name)?;
        return Ok(false);
    };
    if !users.is_empty() {
        return Err(Error::InUse { name: name.to_owned(), users: users.to_vec() });
    }
    if volume.config.protect {
        return Err(Error::Protected { name: name.to_owned() });
    }
    match volume.config.plugin() {
        // What the driver removes can't be kept here.
        Some(_) => driver::remove_locked(roots, &volume)?,
        None => mounting::unmount_locked(roots, &volume)?,
    }
    refuse_mounts(roots, name)?;
    let (kept, now) = (trash::time_to_live(roots)?, now_ms());
    if removal == Removal::Trash && !kept.is_zero() && volume.config.plugin().is_none() {
        trash::put(roots, name, now)?;
    } else {
        let record = directory(roots, name).join(RECORD);
        fs::remove_file(&record).map_err(io_at(&record))?;
        sweep(roots, name)?;
    }
    tell(roots, "destroy", &volume.config);
    trash::purge(roots, now.saturating_sub(u64::try_from(kept.as_millis()).unwrap_or(u64::MAX)))?;
    Ok(true)
}

/// All volumes, by name. One whose record can't be read is an error: it may hold data.
pub fn list(roots: &Roots) -> Result<Vec<Volume>, Error> {
    let all = roots.durable(VOLUMES);
    let entries = match fs::read_dir(&all) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_at(&all)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(io_at(&all))?.file_name());
    }
    names.sort();
    let named = names.iter().filter_map(|name| name.to_str()).filter(|name| check_name(name).is_ok());
    named.filter_map(|name| get(roots, name).transpose()).collect()
}

/// The volume of this name.
pub fn get(roots: &Roots, name: &str) -> Result<Option<Volume>, Error> {
    check_name(name)?;
    let directory = directory(roots, name);
    let Some(record) = state::read_json::<Record>(&directory.join(RECORD))? else { return Ok(None) };
    if record.version != VERSION {
        return Err(Error::Version { name: name.to_owned(), version: record.version });
    }
    Ok(Some(Volume { config: record.config, created: record.created, data: directory.join(DATA) }))
}

/// The bytes that the volume's data takes on disk. Files that vanish while counting are not counted.
pub fn size(roots: &Roots, name: &str) -> Result<u64, Error> {
    Ok(copy::disk_use(&existing(roots, name)?.data))
}

fn existing(roots: &Roots, name: &str) -> Result<Volume, Error> {
    get(roots, name)?.ok_or_else(|| Error::Unknown { name: name.to_owned() })
}

fn directory(roots: &Roots, name: &str) -> PathBuf {
    roots.durable("volumes").join(name)
}

/// One at a time may change a volume. The lock's file outlives the volume: one that is removed while somebody waits for
/// it would be held twice.
fn lock(roots: &Roots, name: &str) -> Result<Lock, Error> {
    check_name(name)?;
    Ok(Lock::take(&roots.durable("volumes").join(".locks").join(name), Contention::Wait)?)
}

/// A name becomes a directory's; it never leaves `ROOT/volumes`.
fn check_name(name: &str) -> Result<(), Error> {
    let begins = name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
    let rest = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if begins && rest && name.len() <= 200 { Ok(()) } else { Err(Error::Name { name: name.to_owned() }) }
}

/// A source of a mount that lies in a volume, opened. Containers write there: what was a directory when the mount was
/// declared may be a link to files of the host by now, and is refused then. `None` for what is in no volume.
///
/// # Errors
/// Also where a symbolic link is on the way.
pub fn open_inside(roots: &Roots, source: &Path) -> io::Result<Option<OwnedFd>> {
    let Ok(below) = source.strip_prefix(roots.durable(VOLUMES)) else { return Ok(None) };
    let mut parts = below.components();
    let (Some(name), Some(data)) = (parts.next(), parts.next()) else { return Ok(None) };
    let inside = parts.as_path();
    if data.as_os_str() != DATA || inside.as_os_str().is_empty() {
        return Ok(None);
    }
    let volume = File::open(roots.durable(VOLUMES).join(name).join(data))?;
    sys::open_without_links(volume.as_fd(), inside, libc::O_PATH).map(Some)
}

/// The directories of a volume. The data's mode is that of any directory: who may enter is for the container to say.
fn make_data(directory: &Path) -> Result<(), Error> {
    state::make_directory(directory)?;
    let data = directory.join(DATA);
    match fs::DirBuilder::new().mode(0o755).create(&data) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io_at(&data)(error)),
        _ => {}
    }
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).map_err(io_at(&data))
}

/// Holds the volume's data, an empty directory yet, to the size that is asked for.
fn limit(roots: &Roots, config: &VolumeConfig, data: &Path) -> Result<(), Error> {
    if config.plugin().is_some() {
        return Ok(());
    }
    let name = || config.name.clone();
    match options::size(&config.driver_opts).map_err(|source| Error::Options { name: name(), source })? {
        Some(bytes) => quota::limit(roots, data, bytes).map_err(|source| Error::Quota { name: name(), source }),
        None => Ok(()),
    }
}

fn write(directory: &Path, record: &Record) -> Result<Volume, Error> {
    state::write_json(&directory.join(RECORD), record)?;
    Ok(Volume { config: record.config.clone(), created: record.created, data: directory.join(DATA) })
}

/// Clears what a `create` or `remove` that was cut short has left: a directory without a record.
fn sweep(roots: &Roots, name: &str) -> Result<(), Error> {
    let directory = directory(roots, name);
    if directory.join(RECORD).exists() || !directory.exists() {
        return Ok(());
    }
    refuse_mounts(roots, name)?;
    fs::remove_dir_all(&directory).map_err(io_at(&directory))
}

/// Removing a tree goes through mounts into what is mounted; so nothing may be.
fn refuse_mounts(roots: &Roots, name: &str) -> Result<(), Error> {
    let directory = directory(roots, name);
    let device = fs::symlink_metadata(roots.durable("volumes")).map(|volumes| volumes.dev()).ok();
    let own = fs::symlink_metadata(directory.join(DATA)).map(|data| data.dev()).ok();
    let mounted = mounting::mounts_below(&directory).map_err(io_at(&directory))?.into_iter().next();
    match mounted {
        Some(path) => Err(Error::Mounted { name: name.to_owned(), path }),
        None if own.is_some() && own != device => {
            Err(Error::Mounted { name: name.to_owned(), path: directory.join(DATA) })
        }
        None => Ok(()),
    }
}
