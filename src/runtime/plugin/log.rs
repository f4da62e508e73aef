//! Log drivers: `/LogDriver.*` of docker's plugin protocol. The plugin reads a pipe that the container's supervisor writes
//! docker's `LogEntry` into, and is told when that begins and ends.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Error, LOG_DRIVER, Plugin, activate};
use crate::runtime::roots::Roots;

/// A plugin that takes logs.
#[derive(Debug)]
pub struct LogDriver(Plugin);

/// Whose lines they are.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Info {
    /// What is written for the driver.
    pub config: BTreeMap<String, String>,
    #[serde(rename = "ContainerID")]
    pub container_id: String,
    pub container_name: String,
    pub container_entrypoint: String,
    pub container_args: Vec<String>,
    #[serde(rename = "ContainerImageID")]
    pub container_image_id: String,
    pub container_image_name: String,
    /// RFC 3339.
    pub container_created: String,
    pub container_env: Vec<String>,
    pub container_labels: BTreeMap<String, String>,
    pub log_path: String,
    pub daemon_name: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Question<'a> {
    file: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'a Info>,
}

/// An answer without fields.
#[derive(Deserialize)]
struct Done {}

impl LogDriver {
    /// The driver of this name. One that this engine runs sees none of the host's pipes.
    ///
    /// # Errors
    /// Where there is no such plugin, or it takes no logs.
    pub fn open(roots: &Roots, name: &str) -> Result<Self, Error> {
        let plugin = activate(roots, name, LOG_DRIVER)?;
        if plugin.process.is_some() {
            return Err(Error::Unseen { plugin: plugin.name });
        }
        Ok(Self(plugin))
    }

    /// Has the plugin read this pipe from now on.
    ///
    /// # Errors
    /// As any call.
    pub fn start(&self, pipe: &Path, info: &Info) -> Result<(), Error> {
        let Done {} = self.0.call("LogDriver.StartLogging", &Question { file: pipe, info: Some(info) })?;
        Ok(())
    }

    /// There is nothing more to come.
    ///
    /// # Errors
    /// As any call.
    pub fn stop(&self, pipe: &Path) -> Result<(), Error> {
        let Done {} = self.0.call("LogDriver.StopLogging", &Question { file: pipe, info: None })?;
        Ok(())
    }
}
