//! Configurations of networks as CNI has them (its specification, section 1: network configuration format): a file with a
//! name and plugins, each with what it is to be told. Versions 0.3.0 to 1.1.0.
//!
//! What this engine does not know in them is the plugins' business, and is handed to them as it stands.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// What is wrong with a file, or that there is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}:{line}:{column}: {reason}")]
    Text { path: PathBuf, line: usize, column: usize, reason: String },
    #[error("no CNI configuration named {name:?} in {directory}\n  help: {help}")]
    NotFound { name: String, directory: PathBuf, help: String },
}

/// A version of the specification that this engine speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(u8, u8, u8);

impl Version {
    /// Since when `CHECK` is known, and what `ADD` said is told when it is undone.
    pub const CHECK: Self = Self(0, 4, 0);
    /// Since when `STATUS` and `GC` are known.
    pub const STATUS: Self = Self(1, 1, 0);
    const ALL: [Self; 5] = [Self(0, 3, 0), Self(0, 3, 1), Self(0, 4, 0), Self(1, 0, 0), Self(1, 1, 0)];
}

impl TryFrom<String> for Version {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let known = || Self::ALL.map(String::from).join(", ");
        let found = Self::ALL.into_iter().find(|version| String::from(*version) == text);
        found.ok_or_else(|| format!("version {text:?} of CNI is not one of {}", known()))
    }
}

impl From<Version> for String {
    fn from(Version(major, minor, patch): Version) -> Self {
        format!("{major}.{minor}.{patch}")
    }
}

/// A plugin's part of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The plugin's name.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it wants to be told of the container.
    #[serde(default)]
    pub capabilities: BTreeMap<String, bool>,
    /// All of it as it stands.
    #[serde(default)]
    pub text: Map<String, Value>,
}

impl Part {
    pub fn has(&self, capability: &str) -> bool {
        self.capabilities.get(capability).copied().unwrap_or(false)
    }
}

/// A configuration, its plugins in the order in which they add.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct List {
    pub name: String,
    pub version: Version,
    pub disable_check: bool,
    pub disable_gc: bool,
    pub plugins: Vec<Part>,
}

/// The keys of a file that are this engine's business.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Text<'a> {
    name: String,
    cni_version: Option<String>,
    #[serde(default)]
    cni_versions: Vec<String>,
    #[serde(default)]
    disable_check: bool,
    #[serde(default, rename = "disableGC")]
    disable_gc: bool,
    load_only_inlined_plugins: Option<bool>,
    #[serde(borrow)]
    plugins: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct Head {
    name: Option<String>,
}

const EXTENSIONS: [&str; 3] = ["conflist", "conf", "json"];

/// The configuration of this name, from the first file of the directory, by name, that has it.
///
/// # Errors
/// [`Error::NotFound`] says which there are, and which files can't be read.
pub fn find(directory: &Path, name: &str) -> Result<List, Error> {
    let (mut others, mut broken) = (Vec::new(), Vec::new());
    for path in files(directory)? {
        let text = fs::read_to_string(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        match serde_json::from_str::<Head>(&text) {
            Ok(head) if head.name.as_deref() == Some(name) => return parse(&path, &text),
            Ok(head) => others.extend(head.name),
            Err(error) => broken.push(at(&path, &text, 0, &error).to_string()),
        }
    }
    let help = match (others.is_empty(), broken.is_empty()) {
        (true, true) => "there is none: write NAME.conflist there, or name another place by `config_dir`".to_owned(),
        (false, true) => format!("these are there: {}", others.join(", ")),
        (_, false) => format!("these files can't be read: {}", broken.join("; ")),
    };
    Err(Error::NotFound { name: name.to_owned(), directory: directory.to_owned(), help })
}

/// A directory that is not there has none.
fn files(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::Io { path: directory.to_owned(), source }),
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let known = |path: &PathBuf| path.extension().is_some_and(|end| EXTENSIONS.iter().any(|known| end == *known));
    let mut found: Vec<PathBuf> = paths.filter(known).collect();
    found.sort_unstable();
    Ok(found)
}

/// The error's place in the whole text, where what was parsed begins `offset` bytes into it.
fn at(path: &Path, text: &str, offset: usize, error: &serde_json::Error) -> Error {
    let before = &text[..offset];
    let line = before.matches('\n').count() + error.line();
    let column = if error.line() == 1 { offset - before.rfind('\n').map_or(0, |end| end + 1) } else { 0 };
    let words = error.to_string();
    let reason = words.rsplit_once(" at line ").map_or(words.as_str(), |(reason, _)| reason).to_owned();
    Error::Text { path: path.to_owned(), line, column: column + error.column(), reason }
}

fn parse(path: &Path, text: &str) -> Result<List, Error> {
    let read: Text<'_> = serde_json::from_str(text).map_err(|error| at(path, text, 0, &error))?;
    let wrong = |key: &str, reason: String| {
        let offset = text.find(&format!("\"{key}\"")).unwrap_or(0);
        let before = &text[..offset];
        let column = offset - before.rfind('\n').map_or(0, |end| end + 1) + 1;
        Error::Text { path: path.to_owned(), line: before.matches('\n').count() + 1, column, reason }
    };
    if !super::super::is_name(&read.name) {
        return Err(wrong("name", format!("{:?} is not a name: letters, digits, `_`, `.` and `-` only", read.name)));
    }
    if read.load_only_inlined_plugins == Some(false) {
        return Err(wrong("loadOnlyInlinedPlugins", "plugins are read from this file only".to_owned()));
    }
    let version = version(&read).map_err(|reason| wrong("cniVersion", reason))?;
    let parts = match &read.plugins {
        Some(raw) => raw.iter().map(|raw| part(path, text, raw.get())).collect::<Result<Vec<Part>, Error>>()?,
        // One plugin, without a list around it.
        None => vec![part(path, text, text)?],
    };
    if parts.is_empty() {
        return Err(wrong("plugins", "there is no plugin in it".to_owned()));
    }
    let (disable_check, disable_gc) = (read.disable_check, read.disable_gc);
    Ok(List { name: read.name, version, disable_check, disable_gc, plugins: parts })
}

/// The highest that both sides speak.
fn version(read: &Text<'_>) -> Result<Version, String> {
    let listed = read.cni_versions.iter().filter_map(|text| Version::try_from(text.clone()).ok()).max();
    match (listed, &read.cni_version) {
        (Some(version), _) => Ok(version),
        (None, Some(text)) => Version::try_from(text.clone()),
        (None, None) => Err("`cniVersion` is missing".to_owned()),
    }
}

fn part(path: &Path, text: &str, own: &str) -> Result<Part, Error> {
    // It is a piece of the text.
    let offset = own.as_ptr() as usize - text.as_ptr() as usize;
    let failed = |error: serde_json::Error| at(path, text, offset, &error);
    let part: Part = serde_json::from_str(own).map_err(failed)?;
    if part.kind.is_empty() || part.kind.contains('/') {
        let line = text[..offset].matches('\n').count() + 1;
        let reason = format!("{:?} is not the name of a plugin", part.kind);
        return Err(Error::Text { path: path.to_owned(), line, column: 1, reason });
    }
    Ok(Part { text: serde_json::from_str(own).map_err(failed)?, ..part })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<List, String> {
        parse(Path::new("x.conflist"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_list_is_read_and_its_plugins_stand_as_they_are() {
        let list = parsed(
            r#"{"cniVersion": "0.4.0", "cniVersions": ["1.0.0", "9.0.0"], "name": "lan", "disableGC": true, "plugins": [
                {"type": "bridge", "isGateway": true}, {"type": "portmap", "capabilities": {"portMappings": true}}]}"#,
        )
        .unwrap();
        assert_eq!((list.version, list.disable_gc, list.disable_check), (Version(1, 0, 0), true, false));
        assert_eq!(list.plugins[0].text.get("isGateway"), Some(&Value::Bool(true)));
        assert!(list.plugins[1].has("portMappings") && !list.plugins[0].has("portMappings"));
        let one = parsed(r#"{"cniVersion": "0.3.1", "name": "one", "type": "macvlan", "master": "eth0"}"#).unwrap();
        assert_eq!(one.plugins[0].kind, "macvlan");
    }

    #[test]
    fn faults_have_their_place() {
        let said = |text: &str| parsed(text).unwrap_err();
        assert_eq!(said("{\n \"name\": 5}"), "x.conflist:2:10: invalid type: integer `5`, expected a string");
        assert_eq!(
            said(
                "{\"name\": \"a\", \"cniVersion\": \"1.0.0\",\n\"plugins\": [\n{\"type\": \"bridge\"},\n  {\n \"mtu\": 5\n}]}"
            ),
            "x.conflist:6:1: missing field `type`"
        );
        assert_eq!(
            said("{\"name\": \"a\",\n  \"cniVersion\": \"0.2.0\", \"plugins\": []}"),
            "x.conflist:2:3: version \"0.2.0\" of CNI is not one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"
        );
        assert_eq!(
            said("{\"name\": \"a\", \"cniVersion\": \"1.0.0\", \"plugins\": [\n{\"type\": \"../sh\"}]}"),
            "x.conflist:2:1: \"../sh\" is not the name of a plugin"
        );
        assert_eq!(
            said("{\"name\": \"a\", \"cniVersion\": \"1.0.0\",\n \"plugins\": []}"),
            "x.conflist:2:2: there is no plugin in it"
        );
    }
}
