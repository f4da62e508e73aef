//! Programs of others that extend the engine, by docker's plugin protocol: JSON in HTTP POSTs to a socket that the plugin
//! listens at.
//!
//! A plugin is trusted as root is, for it runs as such; its words are not. Each answer has a bound in bytes and in time,
//! is parsed into what was asked for, and an error says which plugin, which call, and what to do. Nothing of a plugin is
//! kept in memory between commands: each finds it anew ([`find`], [`managed`]), and asks it what it implements before the first
//! call of its own.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::container::ProcessId;
use super::roots::Roots;

pub mod authz;
mod channel;
mod discover;
pub mod log;
pub mod managed;
pub mod volume;

pub use discover::{Settings, find, list};

use channel::{Channel, Failure};

/// What a plugin may say that it implements.
pub const VOLUME_DRIVER: &str = "VolumeDriver";
pub const LOG_DRIVER: &str = "LogDriver";
pub const AUTHORIZATION: &str = "authz";

/// Where a plugin listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    /// A socket where a plugin has made it that this engine runs: it can't be a link to another one of the host.
    Own(PathBuf),
    /// `http://HOST:PORT`, or `https://` with what its certificate is checked by.
    Tcp {
        url: String,
        tls: Option<Tls>,
    },
}

/// The `TLSConfig` of a plugin's JSON file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Tls {
    pub insecure_skip_verify: bool,
    #[serde(rename = "CAFile")]
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) | Self::Own(path) => write!(formatter, "{}", path.display()),
            Self::Tcp { url, .. } => write!(formatter, "{url}"),
        }
    }
}

/// Why a plugin is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no plugin {name:?} is on this host\n  help: start it; it is looked for in {}", places(folders))]
    Absent { name: String, folders: Vec<PathBuf> },
    #[error("{name:?} can't name a plugin\n  help: use letters, digits, `_`, `.` and `-`")]
    Name { name: String },
    #[error("{}: {reason}\n  help: mend the file, or remove it", path.display())]
    Description { path: PathBuf, reason: String },
    #[error("{}: {reason}\n  help: it may say `folders = [\"…\"]` and `timeout_seconds = 120`", path.display())]
    Settings { path: PathBuf, reason: String },
    #[error(
        "plugin {plugin} is not to be reached at {address} for {call}: {reason}\n  help: see whether it runs, and start it again"
    )]
    Unreachable { plugin: String, address: String, call: String, reason: String },
    #[error(
        "plugin {plugin} has not answered {call} within {seconds} s\n  help: see what it hangs on, and start it again; then try again"
    )]
    Silent { plugin: String, call: String, seconds: u64 },
    #[error(
        "plugin {plugin} has answered {call} with what is no answer: {reason}\n  help: tell its makers, or use another one"
    )]
    Broken { plugin: String, call: String, reason: String },
    #[error("plugin {plugin} refuses {call}: {said}")]
    Refused { plugin: String, call: String, said: String },
    #[error(
        "plugin {plugin} takes logs, which one that this engine runs can't\n  help: run it by itself, with a socket where plugins are looked for"
    )]
    Unseen { plugin: String },
    #[error(transparent)]
    Managed(#[from] Box<managed::Error>),
    #[error("plugin {plugin} is no {wanted}: it implements {}\n  help: name another plugin", list_of(has))]
    Lacks { plugin: String, wanted: &'static str, has: Vec<String> },
}

impl Error {
    /// Whether the plugin has understood the call and said no, so that asking again is of no use.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

fn places(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn list_of(words: &[String]) -> String {
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

/// A plugin that has said what it implements.
#[derive(Debug)]
pub struct Plugin {
    pub name: String,
    /// What it says it implements.
    pub implements: Vec<String>,
    /// The first process of one that this engine runs: what it mounts is where that one sees it.
    pub process: Option<ProcessId>,
    channel: Channel,
}

/// What every answer may hold instead of its own fields.
#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "Err", default)]
    err: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Activated {
    #[serde(default)]
    implements: Option<Vec<String>>,
}

/// The plugin of this name, if it is a driver of this kind.
///
/// # Errors
/// Where there is none, it can't be reached, or it is of another kind.
pub fn activate(roots: &Roots, name: &str, wanted: &'static str) -> Result<Plugin, Error> {
    let (process, address) = match managed::look(roots, name).map_err(Box::new)? {
        Some(plugin) => {
            let process = managed::ensure(roots, &plugin).map_err(Box::new)?;
            (Some(process), Address::Own(managed::socket(roots, &plugin)))
        }
        None => (None, find(roots, name)?),
    };
    let plugin = Plugin { process, ..Plugin::at(name, &address, &Settings::of_host(roots)?)? };
    if plugin.implements.iter().any(|one| one == wanted) {
        return Ok(plugin);
    }
    Err(Error::Lacks { plugin: name.to_owned(), wanted, has: plugin.implements })
}

impl Plugin {
    /// Shakes hands with who listens there.
    ///
    /// # Errors
    /// Where nobody does, or who does is no plugin.
    pub fn at(name: &str, address: &Address, settings: &Settings) -> Result<Self, Error> {
        let channel = Channel::new(address, settings.patience());
        let channel = channel.map_err(|failure| of(name, "Plugin.Activate", failure, settings.timeout_seconds))?;
        let mut plugin = Self { name: name.to_owned(), implements: Vec::new(), process: None, channel };
        let Activated { implements } = plugin.call("Plugin.Activate", &())?;
        plugin.implements = implements.unwrap_or_default().iter().map(|word| harmless(word)).collect();
        Ok(plugin)
    }

    /// One call and its answer. `()` asks without a body.
    ///
    /// # Errors
    /// [`Error::Refused`] with the plugin's own words; the others where there was no proper answer.
    pub fn call<T: DeserializeOwned>(&self, method: &str, question: &impl Serialize) -> Result<T, Error> {
        let failed = |failure| of(&self.name, method, failure, self.channel.patience().as_secs());
        let broken = |reason: String| failed(Failure::Broken(reason));
        let text = serde_json::to_vec(question).map_err(|error| broken(error.to_string()))?;
        let body: &[u8] = if text == b"null" { b"" } else { &text };
        let (status, answer) = self.channel.post(method, body).map_err(failed)?;
        let said = serde_json::from_slice::<Refusal>(&answer).ok().and_then(|refusal| refusal.err);
        match said.filter(|said| !said.is_empty()) {
            Some(said) => Err(failed(Failure::Refused(harmless(&said)))),
            None if status == 404 => Err(failed(Failure::Refused("it has no such call".to_owned()))),
            None if status != 200 => {
                let text = harmless(&String::from_utf8_lossy(&answer));
                Err(failed(Failure::Refused(format!(
                    "status {status}{}{text}",
                    if text.is_empty() { "" } else { ": " }
                ))))
            }
            None => {
                let text: &[u8] = if answer.trim_ascii().is_empty() { b"{}" } else { &answer };
                serde_json::from_slice(text).map_err(|error| broken(error.to_string()))
            }
        }
    }
}

fn of(plugin: &str, call: &str, failure: Failure, seconds: u64) -> Error {
    let (plugin, call) = (plugin.to_owned(), call.to_owned());
    match failure {
        Failure::Unreachable { address, reason } => Error::Unreachable { plugin, address, call, reason },
        Failure::Silent => Error::Silent { plugin, call, seconds },
        // A parser quotes what it has met.
        Failure::Broken(reason) => Error::Broken { plugin, call, reason: harmless(&reason) },
        Failure::Refused(said) => Error::Refused { plugin, call, said },
    }
}

/// A stranger's words, for a terminal: one line, and not without end.
fn harmless(text: &str) -> String {
    const MOST: usize = 500;
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().map(plain).take(MOST).collect()
}

#[cfg(test)]
mod tests;
