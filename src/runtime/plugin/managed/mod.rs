//! Managed plugins: fetched from a registry, with the consent of the host's owner to what they ask for, and run by this
//! engine.
//!
//! They live below `ROOT/plugins`, which is the root of an engine of their own: their layers are images there, each runs as
//! a container of that engine, and nothing of it is in the lists of this one. What is written down of each is
//! `ROOT/plugins/records/ID.json`; what it keeps for its volumes `ROOT/plugins/data/ID`. One that is enabled is started at
//! boot, by its supervisor when it fails, and by whoever needs it.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::runtime::container::{self, ProcessId, now_ms};
use crate::runtime::image::plugin::{self as remote, Offered};
use crate::runtime::image::{self, Digest, ImageReference, PullOptions, Store};
use crate::runtime::roots::Roots;
use crate::runtime::state::{self, Contention, Lock};
use crate::runtime::volume;

mod config;
pub(in crate::runtime) mod mounts;
mod run;

pub use config::{Config, Privilege, Settings};

const VERSION: u32 = 1;
/// How long one may take to listen.
pub const START: Duration = Duration::from_secs(30);

/// Why a managed plugin is not as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no plugin {name:?} is installed\n  help: `stack plugin ls` lists those that are")]
    Unknown { name: String },
    #[error(
        "plugin {name} is installed already\n  help: `stack plugin upgrade {name}`, or give it another name by --alias"
    )]
    Exists { name: String },
    #[error("plugin {name} is enabled\n  help: `stack plugin disable {name}` first")]
    Enabled { name: String },
    #[error("plugin {name} is disabled\n  help: `stack plugin enable {name}`")]
    Disabled { name: String },
    #[error("plugin {name} is used by {}\n  help: remove these volumes first, or add --force", users.join(", "))]
    InUse { name: String, users: Vec<String> },
    #[error("plugin {name}: {reason}")]
    Setting { name: String, reason: String },
    #[error("plugin {name}: its configuration is of no use: {reason}\n  help: tell its makers, or use another one")]
    Configuration { name: String, reason: String },
    #[error("plugin {name} is not whole\n  help: `stack plugin rm --force {name}`, and install it again")]
    Incomplete { name: String },
    #[error("plugin {name} does not start: {reason}\n  help: what it wrote is in {}", log.display())]
    NotStarted { name: String, reason: String, log: PathBuf },
    #[error("plugin {name}: its record is of version {version}, and this program knows {VERSION}")]
    Version { name: String, version: u32 },
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error(transparent)]
    Container(#[from] container::Error),
    #[error(transparent)]
    Volume(#[from] Box<volume::Error>),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// A plugin that is installed.
#[derive(Clone, Debug)]
pub struct Managed {
    /// 64 hexadecimal characters.
    pub id: String,
    /// With its tag: `vieux/sshfs:latest`.
    pub name: String,
    /// Where it came from.
    pub reference: String,
    /// Of its manifest; empty for one that was made here.
    pub digest: String,
    /// The image of its root file system, in the plugins' own store.
    pub image: String,
    pub enabled: bool,
    pub created_ms: u64,
    pub settings: Settings,
    pub config: Config,
    /// The very text that the configuration was read from.
    pub text: String,
}

/// `records/ID.json`.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    id: String,
    name: String,
    reference: String,
    digest: String,
    image: String,
    enabled: bool,
    created_ms: u64,
    settings: Settings,
    text: String,
}

impl Managed {
    fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    fn record(&self) -> Record {
        let one = self.clone();
        Record {
            version: VERSION,
            id: one.id,
            name: one.name,
            reference: one.reference,
            digest: one.digest,
            image: one.image,
            enabled: one.enabled,
            created_ms: one.created_ms,
            settings: one.settings,
            text: one.text,
        }
    }

    fn of(record: Record) -> Result<Self, Error> {
        if record.version != VERSION {
            return Err(Error::Version { name: record.name, version: record.version });
        }
        let config = parse(&record.name, record.text.as_bytes())?;
        Ok(Self {
            id: record.id,
            name: record.name,
            reference: record.reference,
            digest: record.digest,
            image: record.image,
            enabled: record.enabled,
            created_ms: record.created_ms,
            settings: record.settings,
            config,
            text: record.text,
        })
    }
}

fn parse(name: &str, text: &[u8]) -> Result<Config, Error> {
    Config::parse(text).map_err(|reason| Error::Configuration { name: name.to_owned(), reason })
}

/// The roots of the plugins' own engine.
pub fn engine(roots: &Roots) -> Roots {
    Roots { root: roots.durable("plugins"), run: roots.volatile("plugins"), ..roots.clone() }
}

fn records(roots: &Roots) -> PathBuf {
    engine(roots).durable("records")
}

fn write(roots: &Roots, plugin: &Managed) -> Result<(), Error> {
    let folder = records(roots);
    state::make_directory(&folder)?;
    Ok(state::write_json(&folder.join(format!("{}.json", plugin.id)), &plugin.record())?)
}

/// One command at a time changes what is installed.
fn lock(roots: &Roots) -> Result<Lock, Error> {
    Ok(Lock::take(&engine(roots).durable(".lock"), Contention::Wait)?)
}

/// With the tag that docker fills in.
fn full(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') { name.to_owned() } else { format!("{name}:latest") }
}

/// All that are installed, by name.
pub fn list(roots: &Roots) -> Result<Vec<Managed>, Error> {
    let folder = records(roots);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_at(&folder))?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(io_at(&folder))?.path();
        if path.extension().is_some_and(|extension| extension == "json")
            && let Some(record) = state::read_json::<Record>(&path)?
        {
            all.push(Managed::of(record)?);
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// The one of this name, with or without its tag, or whose id begins so.
///
/// # Errors
/// [`Error::Unknown`].
pub fn get(roots: &Roots, name: &str) -> Result<Managed, Error> {
    look(roots, name)?.ok_or_else(|| Error::Unknown { name: name.to_owned() })
}

/// As [`get`]; `None` where there is none.
pub fn look(roots: &Roots, name: &str) -> Result<Option<Managed>, Error> {
    let all = list(roots)?;
    let by_id = |one: &&Managed| name.len() >= 4 && one.id.starts_with(name);
    let found = all.iter().find(|one| one.name == full(name)).or_else(|| all.iter().find(by_id));
    Ok(found.cloned())
}

/// Where an enabled plugin listens.
pub fn socket(roots: &Roots, plugin: &Managed) -> PathBuf {
    run::socket(roots, plugin)
}

/// What a registry offers under this reference.
///
/// # Errors
/// Where it can't be reached, or has no plugin there.
pub fn offered(roots: &Roots, place: &ImageReference, options: &PullOptions<'_>) -> Result<(Offered, Config), Error> {
    let offered = remote::offered(&Store::open(&engine(roots)), place, options)?;
    let config = parse(&place.familiar(), &offered.config)?;
    Ok((offered, config))
}

/// Installs what was offered, disabled. What it asks for has been consented to.
///
/// # Errors
/// [`Error::Exists`], and where the layers can't be had or a setting not be set.
pub fn install(
    roots: &Roots,
    offered: &Offered,
    place: &ImageReference,
    name: &str,
    settings: &[String],
    options: &PullOptions<'_>,
) -> Result<Managed, Error> {
    let name = full(name);
    let _lock = lock(roots)?;
    if look(roots, &name)?.is_some() {
        return Err(Error::Exists { name });
    }
    let config = parse(&name, &offered.config)?;
    let settings = set_all(Settings::default(), &config, &name, settings)?;
    let id = new_id()?;
    let image = remote::fetch(&Store::open(&engine(roots)), offered, place, &image_name(&id), options)?;
    let text = String::from_utf8_lossy(&offered.config).into_owned();
    let reference = place.familiar();
    let digest = offered.digest.to_string();
    keep(
        roots,
        Managed {
            id,
            name,
            reference,
            digest,
            image: image.reference,
            enabled: false,
            created_ms: now_ms(),
            settings,
            config,
            text,
        },
    )
}

fn keep(roots: &Roots, plugin: Managed) -> Result<Managed, Error> {
    write(roots, &plugin)?;
    Ok(plugin)
}

fn set_all(mut settings: Settings, config: &Config, name: &str, texts: &[String]) -> Result<Settings, Error> {
    for text in texts {
        settings.set(config, text).map_err(|reason| Error::Setting { name: name.to_owned(), reason })?;
    }
    Ok(settings)
}

/// Names in the plugins' store are not for people.
fn image_name(id: &str) -> String {
    format!("plugin-{}:latest", id.get(..12).unwrap_or(id))
}

/// Makes a plugin of a folder with `config.json` and `rootfs`, disabled.
///
/// # Errors
/// [`Error::Exists`], and where the folder does not hold that.
pub fn create(roots: &Roots, name: &str, folder: &Path) -> Result<Managed, Error> {
    let name = full(name);
    let _lock = lock(roots)?;
    if look(roots, &name)?.is_some() {
        return Err(Error::Exists { name });
    }
    let (path, rootfs) = (folder.join("config.json"), folder.join("rootfs"));
    let written = fs::read(&path).map_err(io_at(&path))?;
    let wrong = |reason: String| Error::Configuration { name: name.clone(), reason };
    parse(&name, &written)?;
    fs::metadata(&rootfs).map_err(io_at(&rootfs))?;
    let id = new_id()?;
    let image = Store::open(&engine(roots)).import_rootfs(&rootfs, &image_name(&id))?;
    let mut value: serde_json::Value = serde_json::from_slice(&written).map_err(|error| wrong(error.to_string()))?;
    value["rootfs"] = serde_json::json!({"type": "layers", "diff_ids": image.diff_ids});
    let text = value.to_string();
    let config = parse(&name, text.as_bytes())?;
    let (reference, digest) = (name.clone(), String::new());
    keep(
        roots,
        Managed {
            id,
            name,
            reference,
            digest,
            image: image.reference,
            enabled: false,
            created_ms: now_ms(),
            settings: Settings::default(),
            config,
            text,
        },
    )
}

/// Sends the plugin to where its name says.
///
/// # Errors
/// Where the registry refuses.
pub fn push(roots: &Roots, name: &str, options: &PullOptions<'_>) -> Result<Digest, Error> {
    let plugin = get(roots, name)?;
    let store = Store::open(&engine(roots));
    let image = store.get(&plugin.image)?.ok_or_else(|| Error::Incomplete { name: plugin.name.clone() })?;
    let place = ImageReference::parse(&plugin.name).map_err(image::Error::from)?;
    Ok(remote::send(&store, &image, plugin.text.as_bytes(), &place, options)?)
}

/// Starts it, now and from now on.
///
/// # Errors
/// Where it does not listen within this time: it stays disabled.
pub fn enable(roots: &Roots, name: &str, within: Duration) -> Result<Managed, Error> {
    let _lock = lock(roots)?;
    let plugin = Managed { enabled: true, ..get(roots, name)? };
    if let Err(error) = run::ensure(roots, &plugin, within) {
        run::remove(roots, &plugin)?;
        return Err(error);
    }
    write(roots, &plugin)?;
    Ok(plugin)
}

/// Ends it, until it is enabled.
///
/// # Errors
/// [`Error::InUse`] without `force`.
pub fn disable(roots: &Roots, name: &str, force: bool) -> Result<Managed, Error> {
    let _lock = lock(roots)?;
    let plugin = Managed { enabled: false, ..get(roots, name)? };
    refuse_users(roots, &plugin, force)?;
    write(roots, &plugin)?;
    run::stop(roots, &plugin)?;
    Ok(plugin)
}

/// Sets what it lets be set.
///
/// # Errors
/// [`Error::Enabled`], [`Error::Setting`].
pub fn set(roots: &Roots, name: &str, texts: &[String]) -> Result<Managed, Error> {
    let _lock = lock(roots)?;
    let plugin = disabled(roots, name)?;
    let settings = set_all(plugin.settings.clone(), &plugin.config, &plugin.name, texts)?;
    // What it has written into its own root goes: the container is made from what is set.
    run::remove(roots, &plugin)?;
    keep(roots, Managed { settings, ..plugin })
}

fn disabled(roots: &Roots, name: &str) -> Result<Managed, Error> {
    let plugin = get(roots, name)?;
    if plugin.enabled { Err(Error::Enabled { name: plugin.name }) } else { Ok(plugin) }
}

/// Replaces it by what was offered; its settings, and what it keeps for its volumes, stay.
///
/// # Errors
/// [`Error::Enabled`], and where the layers can't be had.
pub fn upgrade(
    roots: &Roots,
    name: &str,
    offered: &Offered,
    place: &ImageReference,
    options: &PullOptions<'_>,
) -> Result<Managed, Error> {
    let _lock = lock(roots)?;
    let plugin = disabled(roots, name)?;
    let config = parse(&plugin.name, &offered.config)?;
    run::remove(roots, &plugin)?;
    let store = Store::open(&engine(roots));
    let image = remote::fetch(&store, offered, place, &image_name(&plugin.id), options)?;
    let text = String::from_utf8_lossy(&offered.config).into_owned();
    let (reference, digest) = (place.familiar(), offered.digest.to_string());
    let plugin = keep(roots, Managed { reference, digest, image: image.reference, config, text, ..plugin })?;
    store.prune(image::Prune::Nameless)?;
    Ok(plugin)
}

/// Removes it and all that it keeps.
///
/// # Errors
/// [`Error::Enabled`] and [`Error::InUse`] without `force`.
pub fn remove(roots: &Roots, name: &str, force: bool) -> Result<Managed, Error> {
    let _lock = lock(roots)?;
    let plugin = get(roots, name)?;
    refuse_users(roots, &plugin, force)?;
    if plugin.enabled && !force {
        return Err(Error::Enabled { name: plugin.name });
    }
    run::remove(roots, &plugin)?;
    let data = run::data(roots, &plugin);
    match fs::remove_dir_all(&data) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_at(&data)(error)),
        _ => {}
    }
    let store = Store::open(&engine(roots));
    match store.remove(&plugin.image) {
        Err(image::Error::NotFound(_)) => {}
        done => drop(done?),
    }
    // The record goes last: as long as it is there, all else can be removed again.
    state::remove_durably(&records(roots).join(format!("{}.json", plugin.id)))?;
    Ok(plugin)
}

/// The volumes that it makes.
pub fn users(roots: &Roots, plugin: &Managed) -> Result<Vec<String>, Error> {
    let all = volume::list(roots).map_err(Box::new)?.into_iter();
    let own = |one: &volume::Volume| one.config.plugin().is_some_and(|driver| full(driver) == plugin.name);
    Ok(all.filter(own).map(|one| format!("volume {}", one.config.name)).collect())
}

fn refuse_users(roots: &Roots, plugin: &Managed, force: bool) -> Result<(), Error> {
    let users = if force { Vec::new() } else { users(roots, plugin)? };
    if users.is_empty() { Ok(()) } else { Err(Error::InUse { name: plugin.name.clone(), users }) }
}

/// Whether it runs now.
pub fn is_running(roots: &Roots, plugin: &Managed) -> bool {
    container::get(&engine(roots), plugin.short_id()).is_ok_and(|found| found.is_running())
}

/// The first process of one that is enabled, started where it does not run.
///
/// # Errors
/// [`Error::Disabled`], [`Error::NotStarted`].
pub fn ensure(roots: &Roots, plugin: &Managed) -> Result<ProcessId, Error> {
    if !plugin.enabled {
        return Err(Error::Disabled { name: plugin.name.clone() });
    }
    run::ensure(roots, plugin, START)?;
    Ok(container::get(&engine(roots), plugin.short_id())?.status.process)
}

/// Starts all that are enabled; what fails is told of each.
pub fn boot(roots: &Roots) -> Result<Vec<(String, Error)>, Error> {
    let all = list(roots)?.into_iter().filter(|one| one.enabled);
    Ok(all.filter_map(|one| Some((one.name.clone(), ensure(roots, &one).err()?))).collect())
}

/// Ends all, as the host does; those that are enabled come back at the next boot.
pub fn halt(roots: &Roots) -> Result<Vec<(String, Error)>, Error> {
    let end = |one: Managed| match container::halt(&engine(roots), one.short_id()) {
        Ok(()) | Err(container::Error::NotFound(_)) => None,
        Err(error) => Some((one.name, error.into())),
    };
    Ok(list(roots)?.into_iter().filter_map(end).collect())
}

/// 256 random bits as text.
fn new_id() -> Result<String, Error> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0_u8; 32];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).map_err(io_at(path))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
