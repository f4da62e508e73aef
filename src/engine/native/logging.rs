//! Logs that go to plugins: the command that starts a container makes the pipe and has the plugin read it, and whoever sees
//! that the container has ended tells the plugin. Which plugin was told of which pipe is written down before, beside the
//! container's logs: a command that was killed in between is made good for by the next.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::containers::Error;
use crate::runtime::container::{Config, Container, LogService, Paths, plugin_pipe};
use crate::runtime::plugin::log::{Info, LogDriver};
use crate::runtime::roots::Roots;
use crate::runtime::state;

const VERSION: u32 = 1;

/// `log/plugin.json` of a container.
#[derive(Serialize, Deserialize)]
struct Told {
    version: u32,
    driver: String,
    /// By the name that it had then.
    pipe: PathBuf,
}

fn record(roots: &Roots, config: &Config) -> PathBuf {
    Paths::of(roots, &config.name).logs.join("plugin.json")
}

/// Has the plugin read what the container is about to write; nothing to do for other drivers.
pub fn begin(roots: &Roots, config: &Config) -> Result<(), Error> {
    let Some(LogService::Plugin { driver, options }) = &config.log.service else { return Ok(()) };
    end(roots, config)?;
    let plugin = LogDriver::open(roots, driver)?;
    let logs = Paths::of(roots, &config.name).logs;
    state::make_directory(&logs)?;
    let pipe = plugin_pipe(&logs, config);
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
    match nix::unistd::mkfifo(&pipe, mode) {
        Ok(()) | Err(nix::Error::EEXIST) => {}
        Err(error) => return Err(Error::Path { what: "make the pipe", path: pipe, source: error.into() }),
    }
    let told = Told { version: VERSION, driver: driver.clone(), pipe: pipe.clone() };
    state::write_json_volatile(&record(roots, config), &told)?;
    Ok(plugin.start(&pipe, &info(config, options.clone()))?)
}

/// Tells the plugin that there is no more to come, where one has been told that there is.
pub fn end(roots: &Roots, config: &Config) -> Result<(), Error> {
    let record = record(roots, config);
    let Some(told) = state::read_json::<Told>(&record)?.filter(|told| told.version == VERSION) else { return Ok(()) };
    match LogDriver::open(roots, &told.driver).and_then(|plugin| plugin.stop(&told.pipe)) {
        Err(error) if !error.is_refusal() => return Err(error.into()),
        _ => {}
    }
    let pipe = plugin_pipe(&Paths::of(roots, &config.name).logs, config);
    match std::fs::remove_file(&pipe) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(Error::Path { what: "remove the pipe", path: pipe, source });
        }
        _ => {}
    }
    Ok(state::remove(&record)?)
}

/// As [`end`], for who has other things to do; a plugin that can't be told is told by a later command.
pub fn end_or_say(roots: &Roots, config: &Config) {
    if let Err(error) = end(roots, config) {
        tracing::warn!("container {}: its log driver was not told of its end: {error}", config.name);
    }
}

/// Tells plugins of all containers that have ended and nobody has told of.
pub fn settle(roots: &Roots, all: &[Container]) {
    let ended = all.iter().filter(|one| !one.is_running() && one.status.started_ms > 0);
    for one in ended.filter(|one| matches!(one.config.log.service, Some(LogService::Plugin { .. }))) {
        end_or_say(roots, &one.config);
    }
}

fn info(config: &Config, options: std::collections::BTreeMap<String, String>) -> Info {
    let mut words = config.request.args.iter();
    let created = i64::try_from(config.created_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    Info {
        config: options,
        container_id: config.id.clone(),
        container_name: format!("/{}", config.name),
        container_entrypoint: words.next().cloned().unwrap_or_default(),
        container_args: words.cloned().collect(),
        container_image_id: config.image_id.clone(),
        container_image_name: config.image.clone(),
        container_created: created.unwrap_or_default().to_string(),
        container_env: config.request.env.clone(),
        container_labels: config.labels.clone(),
        log_path: String::new(),
        daemon_name: "stack".to_owned(),
    }
}
