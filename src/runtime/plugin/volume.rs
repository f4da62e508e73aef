//! Volume drivers: `/VolumeDriver.*` of docker's plugin protocol.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, Plugin, VOLUME_DRIVER, activate};
use crate::runtime::container::ProcessId;
use crate::runtime::roots::Roots;

/// A plugin that makes volumes.
#[derive(Debug)]
pub struct VolumeDriver(Plugin);

/// A volume as its driver knows it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Described {
    pub name: String,
    #[serde(default)]
    pub mountpoint: String,
    #[serde(default)]
    pub status: serde_json::Value,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Question<'a> {
    name: &'a str,
    #[serde(rename = "ID", skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opts: Option<&'a BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Mounted {
    mountpoint: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Got {
    volume: Described,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    #[serde(default)]
    volumes: Option<Vec<Described>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Capable {
    #[serde(default)]
    capabilities: Option<Capabilities>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Capabilities {
    #[serde(default)]
    scope: String,
}

/// An answer without fields.
#[derive(Deserialize)]
struct Done {}

impl VolumeDriver {
    /// The driver of this name.
    ///
    /// # Errors
    /// Where there is no such plugin, or it makes no volumes.
    pub fn open(roots: &Roots, name: &str) -> Result<Self, Error> {
        activate(roots, name, VOLUME_DRIVER).map(Self)
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, call: &str, question: &Question<'_>) -> Result<T, Error> {
        self.0.call(&format!("VolumeDriver.{call}"), question)
    }

    /// Makes the volume, or finds that the driver has it.
    ///
    /// # Errors
    /// As any call.
    pub fn create(&self, name: &str, options: &BTreeMap<String, String>) -> Result<(), Error> {
        if self.get(name)?.is_some() {
            return Ok(());
        }
        let Done {} = self.ask("Create", &Question { name, id: None, opts: Some(options) })?;
        Ok(())
    }

    /// Removes the volume with its data. One that the driver has not is fine.
    ///
    /// # Errors
    /// As any call.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        if self.get(name)?.is_none() {
            return Ok(());
        }
        let Done {} = self.ask("Remove", &Question { name, id: None, opts: None })?;
        Ok(())
    }

    /// The volume as the driver knows it. `None` where the driver says that it has none: the protocol has no other word
    /// for it than an error.
    ///
    /// # Errors
    /// As any call, but for a refusal.
    pub fn get(&self, name: &str) -> Result<Option<Described>, Error> {
        match self.ask::<Got>("Get", &Question { name, id: None, opts: None }) {
            Ok(got) if got.volume.name == name => Ok(Some(got.volume)),
            Ok(got) => Err(self.broken("Get", format!("asked for {name:?}, it tells of {:?}", got.volume.name))),
            Err(error) if error.is_refusal() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All volumes that the driver has.
    ///
    /// # Errors
    /// As any call.
    pub fn list(&self) -> Result<Vec<Described>, Error> {
        let Listed { volumes } = self.0.call("VolumeDriver.List", &serde_json::json!({}))?;
        Ok(volumes.unwrap_or_default())
    }

    /// `local` or `global`; a driver that does not say is local, as docker has it.
    ///
    /// # Errors
    /// As any call, but for a refusal.
    pub fn scope(&self) -> Result<String, Error> {
        let capable: Capable = match self.0.call("VolumeDriver.Capabilities", &serde_json::json!({})) {
            Err(error) if error.is_refusal() => return Ok("local".to_owned()),
            capable => capable?,
        };
        let scope = capable.capabilities.map(|all| all.scope).unwrap_or_default();
        Ok(if scope == "global" { scope } else { "local".to_owned() })
    }

    /// Whose view of the host the driver's mounts are in, where that is not this process's own.
    pub fn process(&self) -> Option<ProcessId> {
        self.0.process
    }

    /// Mounts the volume for this one user of it, and says where.
    ///
    /// # Errors
    /// As any call; also where the place is no directory of this host.
    pub fn mount(&self, name: &str, id: &str) -> Result<PathBuf, Error> {
        let Mounted { mountpoint } = self.ask("Mount", &Question { name, id: Some(id), opts: None })?;
        let path = PathBuf::from(&mountpoint);
        let is_there = || self.0.process.is_some() || path.is_dir();
        if !is_plain(&path) || !is_there() {
            return Err(self.broken("Mount", format!("{mountpoint:?} is no directory of this host")));
        }
        Ok(path)
    }

    /// Says that this user needs the mount no longer.
    ///
    /// # Errors
    /// As any call.
    pub fn unmount(&self, name: &str, id: &str) -> Result<(), Error> {
        let Done {} = self.ask("Unmount", &Question { name, id: Some(id), opts: None })?;
        Ok(())
    }

    fn broken(&self, call: &str, reason: String) -> Error {
        let reason = super::harmless(&reason);
        Error::Broken { plugin: self.0.name.clone(), call: format!("VolumeDriver.{call}"), reason }
    }
}

/// Absolute, and without a way back.
fn is_plain(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}
