//! Where plugins are: sockets, and files that say where a plugin listens.
//!
//! In each folder, in this order: `NAME.sock`, `NAME/NAME.sock`, `NAME.spec`, `NAME/NAME.spec`, `NAME.json`,
//! `NAME/NAME.json`. A `.spec` holds one line, `unix:///PATH`, `tcp://HOST:PORT` or `http(s)://HOST:PORT`; a `.json` an
//! object with `Name`, `Addr` and maybe `TLSConfig`. The folders are docker's.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::{Address, Error, Tls, managed};
use crate::runtime::roots::Roots;

const SOCKETS: &str = "/run/docker/plugins";
const SPECS: &str = "/usr/lib/docker/plugins";
/// A description is a few lines.
const MOST_BYTES: u64 = 64 << 10;

/// `plugins.toml` of the host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where plugins are looked for; the first that has one wins.
    pub folders: Vec<PathBuf>,
    /// How long a plugin may take for an answer.
    pub timeout_seconds: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { folders: Vec::new(), timeout_seconds: 120 }
    }
}

impl Settings {
    /// What `/etc/stack/plugins.toml` says, or docker's folders and two minutes.
    ///
    /// # Errors
    /// [`Error::Settings`] where the file is there and can't be understood.
    pub fn of_host(roots: &Roots) -> Result<Self, Error> {
        let path = roots.etc.join("stack/plugins.toml");
        let wrong = |reason: String| Error::Settings { path: path.clone(), reason };
        let mut settings: Self = match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| wrong(error.message().to_owned()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(wrong(error.to_string())),
        };
        if settings.timeout_seconds == 0 {
            return Err(wrong("timeout_seconds must be at least 1".to_owned()));
        }
        if settings.folders.is_empty() {
            settings.folders = vec![SOCKETS.into(), roots.etc.join("docker/plugins"), SPECS.into()];
        }
        Ok(settings)
    }

    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }
}

/// Where the plugin of this name listens: one that is installed, else one that is found by files. Nobody is connected to.
///
/// # Errors
/// [`Error::Absent`], and [`Error::Description`] where a file about it can't be understood.
pub fn find(roots: &Roots, name: &str) -> Result<Address, Error> {
    if let Some(plugin) = managed::look(roots, name).map_err(Box::new)? {
        return Ok(Address::Own(managed::socket(roots, &plugin)));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) || !name.chars().all(fits) {
        return Err(Error::Name { name: name.to_owned() });
    }
    let folders = Settings::of_host(roots)?.folders;
    for folder in &folders {
        for extension in ["sock", "spec", "json"] {
            let file = format!("{name}.{extension}");
            for path in [folder.join(&file), folder.join(name).join(&file)] {
                if let Some(address) = at(&path)? {
                    return Ok(address);
                }
            }
        }
    }
    Err(Error::Absent { name: name.to_owned(), folders })
}

/// The names of all plugins that are found by files, whether or not they answer.
pub fn list(roots: &Roots) -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::new();
    for folder in Settings::of_host(roots)?.folders {
        for entry in fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
            let path = entry.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let name = if path.is_dir() { path.file_name().and_then(|name| name.to_str()) } else { Some(stem) };
            names.extend(name.filter(|name| find(roots, name).is_ok()).map(str::to_owned));
        }
    }
    Ok(names)
}

/// What this file is or says; `None` where there is none.
fn at(path: &Path) -> Result<Option<Address>, Error> {
    let wrong = |reason: String| Error::Description { path: path.to_owned(), reason };
    let about = match fs::metadata(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        about => about.map_err(|error| wrong(error.to_string()))?,
    };
    if path.extension().is_some_and(|extension| extension == "sock") {
        return Ok(about.file_type().is_socket().then(|| Address::Unix(path.to_owned())));
    }
    if !about.is_file() || about.len() > MOST_BYTES {
        return Err(wrong("that describes no plugin".to_owned()));
    }
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let (address, tls) = if path.extension().is_some_and(|extension| extension == "json") {
        let described: Described = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        (described.address, described.tls)
    } else {
        (text.trim().to_owned(), None)
    };
    parse(&address, tls)
        .map(Some)
        .ok_or_else(|| wrong(format!("{address:?} is no address: unix:///PATH or tcp://HOST:PORT")))
}

/// A plugin's JSON file.
#[derive(Deserialize)]
struct Described {
    #[serde(rename = "Addr")]
    address: String,
    #[serde(rename = "TLSConfig")]
    tls: Option<Tls>,
}

fn parse(text: &str, tls: Option<Tls>) -> Option<Address> {
    let (scheme, rest) = text.split_once("://")?;
    match scheme {
        "unix" if rest.starts_with('/') => Some(Address::Unix(rest.into())),
        "tcp" | "http" | "https" if !rest.trim_end_matches('/').is_empty() => {
            let secure = tls.is_some() || scheme == "https";
            let url = format!("{}://{}", if secure { "https" } else { "http" }, rest.trim_end_matches('/'));
            Some(Address::Tcp { url, tls: if secure { Some(tls.unwrap_or_default()) } else { None } })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_sockets_or_servers() {
        let unix = |path: &str| Some(Address::Unix(path.into()));
        let tcp = |url: &str, tls| Some(Address::Tcp { url: url.into(), tls });
        assert_eq!(parse("unix:///run/a.sock", None), unix("/run/a.sock"));
        assert_eq!(parse("tcp://localhost:8080", None), tcp("http://localhost:8080", None));
        assert_eq!(parse("tcp://a:1", Some(Tls::default())), tcp("https://a:1", Some(Tls::default())));
        assert_eq!(parse("https://a/", None), tcp("https://a", Some(Tls::default())));
        for wrong in ["", "unix://", "unix://a.sock", "tcp://", "ftp://a", "/run/a.sock"] {
            assert_eq!(parse(wrong, None), None, "{wrong}");
        }
    }
}
