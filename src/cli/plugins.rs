//! Managed plugins, in docker's words.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::args::{
    List, PluginCommand, PluginCreate, PluginDisable, PluginEnable, PluginInstall, PluginPush, PluginRm, PluginSet,
    PluginUpgrade,
};
use super::bars::{Bars, Show};
use super::failure::Failure;
use super::filter::Filters;
use super::format::{Column, Listing, Row};
use super::{inspect, prune, view};
use crate::engine::native::Watcher;
use crate::runtime::image::registry::credentials;
use crate::runtime::image::{Access, ImageReference, Progress, PullOptions, Settings, Wait};
use crate::runtime::plugin::managed::{self, Config, Managed};
use crate::runtime::roots::Roots;

const COLUMNS: &[Column] = &[
    ("ID", "ID"),
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("Enabled", "ENABLED"),
    ("PluginReference", "REFERENCE"),
];

pub fn command(roots: &Roots, command: &PluginCommand) -> Result<ExitCode, Failure> {
    match command {
        PluginCommand::Ls(arguments) => list(roots, arguments),
        PluginCommand::Install(arguments) => install(roots, arguments),
        PluginCommand::Inspect(arguments) => inspect::plugins(roots, arguments),
        PluginCommand::Enable(arguments) => enable(roots, arguments),
        PluginCommand::Disable(arguments) => disable(roots, arguments),
        PluginCommand::Set(arguments) => set(roots, arguments),
        PluginCommand::Upgrade(arguments) => upgrade(roots, arguments),
        PluginCommand::Rm(arguments) => rm(roots, arguments),
        PluginCommand::Create(arguments) => create(roots, arguments),
        PluginCommand::Push(arguments) => push(roots, arguments),
    }
}

fn list(roots: &Roots, arguments: &List) -> Result<ExitCode, Failure> {
    let filters = Filters::parse(&arguments.filter.filter, &["capability", "enabled"])?;
    let enabled = filters.truth("enabled")?;
    let mut listing = Listing::new(COLUMNS, &["ID", "Name", "Description", "Enabled"]);
    let mut ids = String::new();
    for one in managed::list(roots)? {
        let has = |wanted: &str| one.config.capabilities().any(|word| word == wanted);
        if enabled.is_none_or(|enabled| enabled == one.enabled) && filters.any("capability", has) {
            ids += &format!("{}\n", &one.id[..12]);
            listing.push(row(roots, &one));
        }
    }
    if arguments.quiet {
        view::out(&ids)?;
    } else {
        listing.print(&arguments.format.format)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(roots: &Roots, one: &Managed) -> Row {
    let value = json!({
        "id": one.id, "name": one.name, "description": one.config.description, "enabled": one.enabled,
        "running": managed::is_running(roots, one), "reference": one.reference,
        "capabilities": one.config.capabilities().collect::<Vec<_>>(),
    });
    let cells = [
        ("ID", one.id[..12].to_owned()),
        ("Name", one.name.clone()),
        ("Description", one.config.description.clone()),
        ("Enabled", one.enabled.to_string()),
        ("PluginReference", one.reference.clone()),
    ];
    Row::new(cells, value)
}

/// As docker describes it.
pub fn described(roots: &Roots, one: &Managed) -> Value {
    let (config, settings) = (&one.config, &one.settings);
    let variables: Vec<String> = config.env.iter().map(|it| format!("{}={}", it.name, settings.env_of(it))).collect();
    let mounts = config
        .mounts
        .iter()
        .map(|it| json!({"Name": it.name, "Source": settings.source_of(it), "Destination": it.destination}));
    let devices = config.linux.devices.iter().map(|it| json!({"Name": it.name, "Path": settings.path_of(it)}));
    json!({
        "Id": one.id,
        "Name": one.name,
        "Enabled": one.enabled,
        "PluginReference": one.reference,
        "Settings": {
            "Env": variables,
            "Args": settings.args.as_ref().unwrap_or(&config.args.value),
            "Mounts": mounts.collect::<Vec<_>>(),
            "Devices": devices.collect::<Vec<_>>(),
        },
        "Config": serde_json::from_str::<Value>(&one.text).unwrap_or_default(),
        "Stack": {
            "Running": managed::is_running(roots, one),
            "Socket": managed::socket(roots, one),
            "Digest": one.digest,
            "CreatedAt": view::time(one.created_ms),
        },
    })
}

/// Lets `work` speak with registries, with the progress on the terminal.
fn with_registry<T>(
    roots: &Roots,
    name: &str,
    work: impl FnOnce(&PullOptions<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let settings = Settings::of_host(roots)?;
    let bars = Bars::new(Show::People);
    let waiting = |wait: &Wait<'_>| bars.waiting(name, wait);
    let access = Access { settings: &settings, keyring: &credentials::of_user, waiting: &waiting };
    let progress = |progress: Progress<'_>| bars.progress(name, progress);
    work(&PullOptions { platform: None, access, progress: &progress })
}

/// Asks for what the plugin wants of the host, where nobody has said yes to all of it.
fn consent(name: &str, config: &Config, granted: bool) -> Result<(), Failure> {
    let asked = config.privileges();
    if granted || asked.is_empty() {
        return Ok(());
    }
    view::note(&format!("plugin {name} asks for:"));
    for one in &asked {
        view::note(&format!(" - {}: [{}]", one.name, one.value.join(" ")));
    }
    if prune::asked("give it that?")? {
        return Ok(());
    }
    Err(Failure::new("nothing was installed\n  help: `--grant-all-permissions` consents where nobody can be asked"))
}

fn install(roots: &Roots, arguments: &PluginInstall) -> Result<ExitCode, Failure> {
    let place = ImageReference::parse(&arguments.plugin)?;
    let name = arguments.alias.clone().unwrap_or_else(|| place.familiar());
    let installed = with_registry(roots, &arguments.plugin, |options| {
        let (offered, config) = managed::offered(roots, &place, options)?;
        consent(&name, &config, arguments.grant_all_permissions)?;
        Ok(managed::install(roots, &offered, &place, &name, &arguments.settings, options)?)
    })?;
    if !arguments.disable {
        managed::enable(roots, &installed.name, managed::START)?;
    }
    view::out(&format!("{}\n", installed.name))?;
    Ok(ExitCode::SUCCESS)
}

fn upgrade(roots: &Roots, arguments: &PluginUpgrade) -> Result<ExitCode, Failure> {
    let present = managed::get(roots, &arguments.plugin)?;
    let place = ImageReference::parse(arguments.remote.as_deref().unwrap_or(&present.reference))?;
    let same = |one: &ImageReference| (one.registry.clone(), one.repository.clone());
    if same(&place) != same(&ImageReference::parse(&present.reference)?) && !arguments.skip_remote_check {
        return Err(Failure::new(format!(
            "plugin {} is {}, and {} is another one\n  help: `--skip-remote-check` replaces it all the same",
            present.name,
            present.reference,
            place.familiar()
        )));
    }
    let upgraded = with_registry(roots, &arguments.plugin, |options| {
        let (offered, config) = managed::offered(roots, &place, options)?;
        // What it was given before it has already.
        let new = config.privileges().iter().any(|one| !present.config.privileges().contains(one));
        consent(&present.name, &config, arguments.grant_all_permissions || !new)?;
        Ok(managed::upgrade(roots, &present.name, &offered, &place, options)?)
    })?;
    view::out(&format!("{}\n", upgraded.name))?;
    Ok(ExitCode::SUCCESS)
}

fn enable(roots: &Roots, arguments: &PluginEnable) -> Result<ExitCode, Failure> {
    let enabled = managed::enable(roots, &arguments.plugin, Duration::from_secs(arguments.timeout))?;
    view::out(&format!("{}\n", enabled.name))?;
    Ok(ExitCode::SUCCESS)
}

fn disable(roots: &Roots, arguments: &PluginDisable) -> Result<ExitCode, Failure> {
    view::out(&format!("{}\n", managed::disable(roots, &arguments.plugin, arguments.force)?.name))?;
    Ok(ExitCode::SUCCESS)
}

fn set(roots: &Roots, arguments: &PluginSet) -> Result<ExitCode, Failure> {
    managed::set(roots, &arguments.plugin, &arguments.settings)?;
    Ok(ExitCode::SUCCESS)
}

fn rm(roots: &Roots, arguments: &PluginRm) -> Result<ExitCode, Failure> {
    let mut failures = Vec::new();
    for name in &arguments.plugins {
        match managed::remove(roots, name, arguments.force) {
            Ok(removed) => view::out(&format!("{}\n", removed.name))?,
            Err(error) => failures.push(error.into()),
        }
    }
    Failure::of_all(failures)
}

fn create(roots: &Roots, arguments: &PluginCreate) -> Result<ExitCode, Failure> {
    let name = ImageReference::parse(&arguments.plugin)?.familiar();
    view::out(&format!("{}\n", managed::create(roots, &name, &arguments.folder)?.name))?;
    Ok(ExitCode::SUCCESS)
}

fn push(roots: &Roots, arguments: &PluginPush) -> Result<ExitCode, Failure> {
    let digest =
        with_registry(roots, &arguments.plugin, |options| Ok(managed::push(roots, &arguments.plugin, options)?))?;
    view::out(&format!("{}@{digest}\n", managed::get(roots, &arguments.plugin)?.name))?;
    Ok(ExitCode::SUCCESS)
}
