//! Which program a runtime's name stands for: what `/etc/stack/runtimes.toml` says, then docker's `daemon.json`, then the
//! well-known names on the PATH; or a path.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Program;
use crate::runtime::roots::Roots;
use crate::runtime::userns;

/// Those that are looked for on the PATH. Others are named by the host's settings: not every program there is a runtime.
const KNOWN: [&str; 4] = ["runc", "crun", "youki", "runsc"];

/// Why a runtime can't be had.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error(
        "{name} is not on this host\n  help: install it, or say in {settings} where it is: `[{name}]`, `path = \"…\"`"
    )]
    Absent { name: String, settings: PathBuf },
    #[error(
        "{name:?} is no runtime that this host knows\n  help: runc, crun, youki, runsc, an absolute path, or a name from \
         {settings}"
    )]
    Unknown { name: String, settings: PathBuf },
    #[error(
        "runtimes of others are for root alone: here the engine has the rights of an ordinary user\n  help: leave `runtime` \
         out, or run it as root"
    )]
    Rootless,
    #[error("{path}: {reason}\n  help: correct the path, or install the runtime")]
    Program { path: PathBuf, reason: String },
    #[error("{path}: {reason}\n  help: mend the file; docs/runtimes.md describes it")]
    Settings { path: PathBuf, reason: String },
}

/// One entry of `runtimes.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
}

/// The part of docker's `daemon.json` that is about runtimes.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Daemon {
    runtimes: BTreeMap<String, OfDaemon>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OfDaemon {
    path: Option<PathBuf>,
    runtime_args: Vec<String>,
}

/// The program.
///
/// # Errors
/// Where there is none, it can't be executed, or a file of settings can't be understood.
pub fn find(roots: &Roots, name: &str) -> Result<Program, FindError> {
    if userns::own_size().is_some() {
        return Err(FindError::Rootless);
    }
    let found = if name.contains('/') { Some((PathBuf::from(name), Vec::new())) } else { in_settings(roots, name)? };
    let settings = || roots.etc.join("stack/runtimes.toml");
    let (path, args) = match found {
        Some(found) => found,
        None if KNOWN.contains(&name) => {
            let on_path = roots.programs.iter().map(|folder| folder.join(name)).find(|path| check(path).is_ok());
            let absent = || FindError::Absent { name: name.to_owned(), settings: settings() };
            (on_path.ok_or_else(absent)?, Vec::new())
        }
        None => return Err(FindError::Unknown { name: name.to_owned(), settings: settings() }),
    };
    match check(&path) {
        Ok(()) => Ok(Program { name: name.to_owned(), path, args }),
        Err(error) => Err(FindError::Program { path, reason: error.to_string() }),
    }
}

fn check(path: &Path) -> io::Result<()> {
    if !path.is_absolute() {
        return Err(io::Error::other("it is not an absolute path"));
    }
    let found = fs::metadata(path)?;
    match found.is_file() && found.permissions().mode() & 0o111 != 0 {
        true => Ok(()),
        false => Err(io::Error::other("it is not a program")),
    }
}

fn in_settings(roots: &Roots, name: &str) -> Result<Option<(PathBuf, Vec<String>)>, FindError> {
    let wrong = |path: &Path, reason: String| FindError::Settings { path: path.to_owned(), reason };
    let path = roots.etc.join("stack/runtimes.toml");
    if let Some(text) = read(&path)? {
        let all: BTreeMap<String, Entry> = toml::from_str(&text).map_err(|error| wrong(&path, error.to_string()))?;
        if let Some((_, entry)) = all.into_iter().find(|(known, _)| known == name) {
            return Ok(Some((entry.path, entry.args)));
        }
    }
    let path = roots.etc.join("docker/daemon.json");
    let Some(text) = read(&path)? else { return Ok(None) };
    let mut daemon: Daemon = serde_json::from_str(&text).map_err(|error| wrong(&path, error.to_string()))?;
    match daemon.runtimes.remove(name) {
        None => Ok(None),
        Some(OfDaemon { path: Some(program), runtime_args }) => Ok(Some((program, runtime_args))),
        Some(OfDaemon { path: None, .. }) => {
            Err(wrong(&path, format!("runtime {name:?} has no `path`: shims of containerd can't be used")))
        }
    }
}

fn read(path: &Path) -> Result<Option<String>, FindError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FindError::Settings { path: path.to_owned(), reason: error.to_string() }),
    }
}
