//! Volumes as objects.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::ExitCode;

use serde_json::json;

use super::args::{VolumeCommand, VolumeCreate, VolumeList, VolumeRm};
use super::failure::Failure;
use super::filter::{Filters, is_pattern, name_matches};
use super::format::{Column, Listing, Row};
use super::{inspect, kept, names, options, prune, view};
use crate::engine::native::{create_volume, is_anonymous_volume, volume_users};
use crate::reconcile::resource::{VolumeConfig, label};
use crate::runtime::roots::Roots;
use crate::runtime::volume::{self, Removal, Volume};

const COLUMNS: &[Column] = &[
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Size", "SIZE"),
    ("Links", "CONTAINERS"),
    ("Protected", "PROTECTED"),
    ("Stack", "STACK"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Scope", "SCOPE"),
    ("Labels", "LABELS"),
];

pub fn command(roots: &Roots, command: &VolumeCommand) -> Result<ExitCode, Failure> {
    match command {
        VolumeCommand::Ls(arguments) if arguments.trash => {
            kept::list_trash(roots, arguments.list.quiet, &arguments.list.format.format)
        }
        VolumeCommand::Ls(arguments) => list(roots, arguments),
        VolumeCommand::Create(arguments) => create(roots, arguments),
        VolumeCommand::Inspect(arguments) => inspect::one_kind(roots, arguments, inspect::Kind::Volume),
        VolumeCommand::Rm(arguments) => rm(roots, arguments),
        VolumeCommand::Undelete(arguments) => kept::undelete(roots, arguments),
        VolumeCommand::Snapshot(arguments) => kept::snapshot(roots, arguments),
        VolumeCommand::LsSnapshots(arguments) => kept::list_snapshots(roots, arguments),
        VolumeCommand::RmSnapshot(arguments) => kept::remove_snapshots(roots, arguments),
        VolumeCommand::Restore(arguments) => kept::restore(roots, arguments),
        VolumeCommand::Clone(arguments) => kept::clone(roots, arguments),
        VolumeCommand::Export(arguments) => kept::export(roots, arguments),
        VolumeCommand::Import(arguments) => kept::import(roots, arguments),
        VolumeCommand::Prune(arguments) => prune::volumes(roots, arguments),
    }
}

fn list(roots: &Roots, arguments: &VolumeList) -> Result<ExitCode, Failure> {
    let known = ["dangling", "driver", "label", "label!", "name", "stack"];
    let filters = Filters::parse(&arguments.list.filter.filter, &known)?;
    filters.each("name", "expected a regular expression", is_pattern)?;
    let dangling = filters.truth("dangling")?;
    let mut all = Vec::new();
    for one in volume::list(roots)? {
        let users = volume_users(roots, &one.config.name)?;
        let stack = one.config.labels.get(label::STACK);
        let wanted = filters.labels(&one.config.labels)
            && filters.any("name", |pattern| name_matches(&one.config.name, pattern))
            && filters.any("driver", |driver| driver == driver_of(&one))
            && filters.any("stack", |wanted| stack.is_some_and(|own| own == wanted))
            && dangling.is_none_or(|dangling| dangling == users.is_empty());
        if wanted {
            all.push((one, users.len()));
        }
    }
    if arguments.list.quiet {
        view::out(&all.iter().map(|(one, _)| one.config.name.clone() + "\n").collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = vec!["Name", "Driver", "Links", "Protected", "Stack"];
    if arguments.size {
        table.insert(2, "Size");
    }
    let mut listing = Listing::new(COLUMNS, &table);
    for (one, users) in &all {
        let size = if arguments.size { Some(volume::size(roots, &one.config.name)?) } else { None };
        listing.push(row(one, *users, size));
    }
    listing.print(&arguments.list.format.format)?;
    Ok(ExitCode::SUCCESS)
}

/// `local`, or the plugin that makes it.
pub fn driver_of(one: &Volume) -> &str {
    one.config.plugin().unwrap_or(volume::driver::LOCAL)
}

fn row(one: &Volume, users: usize, size: Option<u64>) -> Row {
    let config = &one.config;
    let stack = config.labels.get(label::STACK);
    let labels: Vec<String> = config.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut value = json!({
        "name": config.name,
        "driver": driver_of(one),
        "directory": one.data,
        "containers": users,
        "protected": config.protect,
        "anonymous": is_anonymous_volume(one),
        "driver_opts": config.driver_opts,
        "created_at": view::time(one.created * 1000),
        "labels": config.labels,
        "stack": stack,
    });
    if let Some(size) = size {
        value["size_bytes"] = json!(size);
    }
    let cells = [
        ("Name", config.name.clone()),
        ("Driver", driver_of(one).to_owned()),
        ("Size", size.map_or("N/A".to_owned(), view::size)),
        ("Links", users.to_string()),
        ("Protected", config.protect.to_string()),
        ("Stack", stack.cloned().unwrap_or_default()),
        ("Mountpoint", one.data.display().to_string()),
        ("Scope", "local".to_owned()),
        ("Labels", labels.join(",")),
    ];
    Row::new(cells, value).with_labels(&config.labels)
}

fn create(roots: &Roots, arguments: &VolumeCreate) -> Result<ExitCode, Failure> {
    let pairs = |flag, texts: &[String]| -> Result<BTreeMap<String, String>, Failure> {
        texts.iter().map(|text| Ok(options::setting(flag, text)?)).collect()
    };
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => random_name()?,
    };
    let wanted = VolumeConfig {
        name: name.clone(),
        driver: arguments.driver.clone(),
        driver_opts: pairs("--opt", &arguments.opt)?,
        labels: pairs("--label", &arguments.label)?,
        ..VolumeConfig::default()
    };
    create_volume(roots, &wanted)?;
    view::out(&format!("{name}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// As docker: 64 hexadecimal characters.
fn random_name() -> Result<String, Failure> {
    let mut bytes = [0_u8; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The volume of this name, or what was meant instead.
pub fn existing(roots: &Roots, name: &str) -> Result<Volume, Failure> {
    let all = volume::list(roots)?;
    if let Some(found) = all.iter().find(|one| one.config.name == name) {
        return Ok(found.clone());
    }
    let known = all.iter().map(|one| one.config.name.as_str());
    Err(Failure::new(format!(
        "no volume {name:?}\n  help: {}",
        names::hint(name, known, "`stack volume ls` lists them")
    )))
}

fn rm(roots: &Roots, arguments: &VolumeRm) -> Result<ExitCode, Failure> {
    let removal = if arguments.now { Removal::Now } else { Removal::Trash };
    let known: Vec<String> = volume::list(roots)?.into_iter().map(|one| one.config.name).collect();
    let mut failures = Vec::new();
    for name in &arguments.objects.names {
        if !known.contains(name) {
            if !arguments.objects.force {
                failures.extend(existing(roots, name).err());
            }
            continue;
        }
        match volume::remove(roots, name, &volume_users(roots, name)?, removal) {
            Ok(_) => view::out(&format!("{name}\n"))?,
            Err(error) => failures.push(error.into()),
        }
    }
    Failure::of_all(failures)
}
