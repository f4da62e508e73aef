//! The trash: volumes that were removed, whole, until their time is over.
//!
//! A volume goes there, and comes back, by one rename(2): no crash can halve it. It is `ROOT/volumes/.trash/NAME@TIME`
//! then, TIME being when it was removed, in milliseconds since 1970. A directory without a record is the rest of a
//! removal that was cut short, and goes with the next one; so does `.new`, in which what a restore replaced is wrapped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::{DATA, Error, RECORD, Record, VERSION, Volume, check_name, directory, get, io_at, lock, sweep, write};
use crate::runtime::roots::Roots;
use crate::runtime::state::{self, Contention, Lock};

const NEW: &str = ".new";

/// A volume that was removed.
#[derive(Clone, Debug, PartialEq)]
pub struct Trashed {
    /// `NAME@TIME`, of one only.
    pub id: String,
    pub removed_ms: u64,
    pub volume: Volume,
}

/// `volumes.toml` of the host.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    trash_hours: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { trash_hours: 72 }
    }
}

/// How long what was removed is kept: what `/etc/stack/volumes.toml` says, or three days. Zero: not at all.
///
/// # Errors
/// [`Error::Settings`] where the file is there and can't be understood.
pub fn time_to_live(roots: &Roots) -> Result<Duration, Error> {
    let path = roots.etc.join("stack/volumes.toml");
    let settings = match fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).map_err(|error| Error::Settings { path, reason: error.message().to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Settings::default()),
        Err(error) => Err(io_at(&path)(error)),
    };
    Ok(Duration::from_secs(settings?.trash_hours.saturating_mul(3600)))
}

/// What is in the trash, by name, what was removed last first.
pub fn list(roots: &Roots) -> Result<Vec<Trashed>, Error> {
    let mut found = Vec::new();
    for id in ids(roots)? {
        found.extend(look(roots, &id)?);
    }
    found.sort_by(|a, b| (&a.volume.config.name, b.removed_ms).cmp(&(&b.volume.config.name, a.removed_ms)));
    Ok(found)
}

/// Brings a volume back, the one of this id or the last one of this name; under the name `new` where that is given.
///
/// # Errors
/// [`Error::NotInTrash`], and [`Error::Taken`] where there is a volume of the name.
pub fn undelete(roots: &Roots, word: &str, new: Option<&str>) -> Result<Volume, Error> {
    let unknown = || Error::NotInTrash { word: word.to_owned() };
    let is_meant = |one: &Trashed| one.id == word || one.volume.config.name == word;
    let found = list(roots)?.into_iter().find(is_meant).ok_or_else(unknown)?;
    let mut config = found.volume.config;
    config.name = new.map_or(config.name, str::to_owned);
    let _lock = lock(roots, &config.name)?;
    let _all = lock_all(roots)?;
    sweep(roots, &config.name)?;
    if get(roots, &config.name)?.is_some() {
        return Err(Error::Taken { name: config.name, id: found.id });
    }
    let place = place(roots).join(&found.id);
    if !place.join(RECORD).exists() {
        // Its time was over meanwhile.
        return Err(unknown());
    }
    write(&place, &Record { version: VERSION, created: found.volume.created, config: config.clone() })?;
    let target = directory(roots, &config.name);
    fs::rename(&place, &target).map_err(io_at(&place))?;
    sync(&roots.durable("volumes"))?;
    super::tell(roots, "create", &config);
    get(roots, &config.name)?.ok_or_else(unknown)
}

/// Deletes what was removed at this time or before, and what is left of deletions that were cut short. Returns what went
/// and the bytes that it took.
pub fn purge(roots: &Roots, until_ms: u64) -> Result<(Vec<Trashed>, u64), Error> {
    let _all = lock_all(roots)?;
    let (mut gone, mut bytes) = (Vec::new(), 0);
    for id in ids(roots)? {
        let path = place(roots).join(&id);
        if let Some(found) = look(roots, &id)? {
            if found.removed_ms > until_ms {
                continue;
            }
            bytes += super::copy::disk_use(&path);
            // What is half deleted must not be taken for a volume.
            fs::remove_file(path.join(RECORD)).map_err(io_at(&path))?;
            gone.push(found);
        }
        fs::remove_dir_all(&path).map_err(io_at(&path))?;
    }
    Ok((gone, bytes))
}

/// Moves the volume there. To be called with its lock held, and with nothing mounted in it.
pub(super) fn put(roots: &Roots, name: &str, now_ms: u64) -> Result<(), Error> {
    let _all = lock_all(roots)?;
    let from = directory(roots, name);
    move_in(roots, &from, name, now_ms)
}

/// Moves what a volume had held there, as a volume of its own.
pub(super) fn put_data(roots: &Roots, volume: &Volume, data: &Path, now_ms: u64) -> Result<(), Error> {
    let _all = lock_all(roots)?;
    let new = place(roots).join(NEW);
    clear(&new)?;
    state::make_directory(&new)?;
    write(&new, &Record { version: VERSION, created: volume.created, config: volume.config.clone() })?;
    fs::rename(data, new.join(DATA)).map_err(io_at(data))?;
    move_in(roots, &new, &volume.config.name, now_ms)
}

fn move_in(roots: &Roots, from: &Path, name: &str, now_ms: u64) -> Result<(), Error> {
    let place = place(roots);
    state::make_directory(&place)?;
    let free = (now_ms..).map(|time| place.join(format!("{name}@{time}"))).find(|path| !path.exists());
    let to = free.expect("some millisecond has nothing of this name");
    fs::rename(from, &to).map_err(io_at(from))?;
    sync(&place)?;
    sync(&roots.durable("volumes"))
}

fn place(roots: &Roots) -> PathBuf {
    roots.durable("volumes").join(".trash")
}

/// Everything that lies there, also what is no volume.
fn ids(roots: &Roots) -> Result<Vec<String>, Error> {
    let place = place(roots);
    let entries = match fs::read_dir(&place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_at(&place))?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        ids.extend(entry.map_err(io_at(&place))?.file_name().into_string().ok());
    }
    Ok(ids)
}

/// `None` where there is no whole volume.
fn look(roots: &Roots, id: &str) -> Result<Option<Trashed>, Error> {
    let Some((name, time)) = id.rsplit_once('@') else { return Ok(None) };
    let Some(removed_ms) = time.parse().ok().filter(|_| check_name(name).is_ok()) else { return Ok(None) };
    let directory = place(roots).join(id);
    let Some(record) = state::read_json::<Record>(&directory.join(RECORD))? else { return Ok(None) };
    if record.version != VERSION {
        return Err(Error::Version { name: name.to_owned(), version: record.version });
    }
    // One that was about to come back under another name has that one in its record.
    let config = super::VolumeConfig { name: name.to_owned(), ..record.config };
    let volume = Volume { config, created: record.created, data: directory.join(DATA) };
    Ok(Some(Trashed { id: id.to_owned(), removed_ms, volume }))
}

fn lock_all(roots: &Roots) -> Result<Lock, Error> {
    Ok(Lock::take(&roots.durable("volumes").join(".locks").join(".trash"), Contention::Wait)?)
}

pub(super) fn clear(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}

/// What was renamed into or out of the directory is so after a power cut, too.
pub(super) fn sync(directory: &Path) -> Result<(), Error> {
    fs::File::open(directory).and_then(|opened| opened.sync_all()).map_err(io_at(directory))
}
