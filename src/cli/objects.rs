//! Images, networks and volumes as objects; the disk they take.

use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::{Inspect, List, ObjectCommand, SystemCommand};
use super::containers::show;
use super::failure::Failure;
use super::view::{self, Table};
use crate::engine::native::{containers, volume_users};
use crate::reconcile::resource::label;
use crate::runtime::image::{self, Store};
use crate::runtime::roots::Roots;
use crate::runtime::{container, network, volume};

fn quiet(names: impl Iterator<Item = String>) -> Result<ExitCode, Failure> {
    view::out(&names.map(|name| name + "\n").collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

pub fn networks(roots: &Roots, command: &ObjectCommand) -> Result<ExitCode, Failure> {
    match command {
        ObjectCommand::Ls(arguments) => {
            let all = network::list(roots)?;
            if arguments.quiet {
                return quiet(all.into_iter().map(|one| one.config.name));
            }
            let mut table = Table::new(&["NAME", "SUBNET", "INTERNAL", "STACK"]);
            for one in &all {
                let stack = one.config.labels.get(label::STACK).cloned().unwrap_or_default();
                table.row([one.config.name.clone(), one.subnet.into(), one.config.internal.to_string(), stack]);
            }
            let values: Vec<Value> = all.iter().map(network_value).collect();
            show(arguments.format.format, &table, &values)
        }
        ObjectCommand::Rm(arguments) => {
            for name in &arguments.names {
                network::get(roots, name)?;
                network::remove(roots, name)?;
                view::out(&format!("{name}\n"))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        ObjectCommand::Inspect(arguments) => inspect(roots, arguments, &[Kind::Network]),
    }
}

fn network_value(one: &network::Network) -> Value {
    json!({"kind": "network", "name": one.config.name, "subnet": one.subnet, "gateway": one.gateway, "bridge": one.bridge,
           "internal": one.config.internal, "labels": one.config.labels, "declared": one.config.declared})
}

pub fn volumes(roots: &Roots, command: &ObjectCommand) -> Result<ExitCode, Failure> {
    match command {
        ObjectCommand::Ls(arguments) => {
            let all = volume::list(roots)?;
            if arguments.quiet {
                return quiet(all.into_iter().map(|one| one.config.name));
            }
            let mut table = Table::new(&["NAME", "SIZE", "PROTECTED", "STACK"]);
            for one in &all {
                let stack = one.config.labels.get(label::STACK).cloned().unwrap_or_default();
                let size = view::size(volume::size(roots, &one.config.name)?);
                table.row([one.config.name.clone(), size, one.config.protect.to_string(), stack]);
            }
            let values: Vec<Value> = all.iter().map(volume_value).collect();
            show(arguments.format.format, &table, &values)
        }
        ObjectCommand::Rm(arguments) => {
            for name in &arguments.names {
                if !volume::remove(roots, name, &volume_users(roots, name)?)? {
                    return Err(Failure::new(format!("no volume {name:?}")));
                }
                view::out(&format!("{name}\n"))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        ObjectCommand::Inspect(arguments) => inspect(roots, arguments, &[Kind::Volume]),
    }
}

fn volume_value(one: &volume::Volume) -> Value {
    json!({"kind": "volume", "name": one.config.name, "directory": one.data, "protect": one.config.protect,
           "driver_opts": one.config.driver_opts, "labels": one.config.labels, "created_s": one.created})
}

/// Where `inspect` looks, in this order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

pub const ALL_KINDS: [Kind; 4] = [Kind::Container, Kind::Image, Kind::Network, Kind::Volume];

/// Everything known of each name, as one JSON array.
pub fn inspect(roots: &Roots, arguments: &Inspect, kinds: &[Kind]) -> Result<ExitCode, Failure> {
    let mut found = Vec::new();
    for name in &arguments.names {
        let mut value = None;
        for kind in kinds {
            value = match value {
                Some(value) => Some(value),
                None => look(roots, name, *kind)?,
            };
        }
        found.push(value.ok_or_else(|| Failure::new(format!("nothing is named {name:?}")))?);
    }
    view::json(&found)?;
    Ok(ExitCode::SUCCESS)
}

fn look(roots: &Roots, name: &str, kind: Kind) -> Result<Option<Value>, Failure> {
    Ok(match kind {
        Kind::Container => super::containers::inspect(roots, name)?,
        Kind::Image => Store::open(roots).get(name)?.map(|image| super::images::value(&image)),
        Kind::Network => network::list(roots)?.iter().find(|one| one.config.name == name).map(network_value),
        Kind::Volume => volume::list(roots)?.iter().find(|one| one.config.name == name).map(volume_value),
    })
}

pub fn system(roots: &Roots, command: &SystemCommand) -> Result<ExitCode, Failure> {
    match command {
        SystemCommand::Df(arguments) => df(roots, arguments),
        SystemCommand::Prune { all, force } => prune(roots, *all, *force),
    }
}

fn df(roots: &Roots, arguments: &List) -> Result<ExitCode, Failure> {
    let store = Store::open(roots);
    let volumes = volume::list(roots)?;
    let mut data = 0;
    for one in &volumes {
        data += volume::size(roots, &one.config.name)?;
    }
    let containers = container::list(roots)?;
    let rows = [
        ("images", store.list()?.len(), Some(store.size()?)),
        ("containers", containers.len(), None),
        ("volumes", volumes.len(), Some(data)),
    ];
    let mut table = Table::new(&["KIND", "COUNT", "SIZE"]);
    for (kind, count, size) in rows {
        table.row([kind.to_owned(), count.to_string(), size.map_or("-".to_owned(), view::size)]);
    }
    let values: Vec<Value> =
        rows.iter().map(|(kind, count, size)| json!({"kind": kind, "count": count, "size_bytes": size})).collect();
    show(arguments.format.format, &table, &values)
}

/// Stopped containers of no stack, networks and images that nothing uses. Never volumes.
fn prune(roots: &Roots, all: bool, force: bool) -> Result<ExitCode, Failure> {
    if !force && !asked("remove stopped containers of no stack, unused networks and unused images?")? {
        return Err(Failure::new("nothing was removed\n  help: `--force` consents where nobody can be asked"));
    }
    for one in container::list(roots)? {
        let of_stack = one.config.labels.contains_key(label::STACK);
        if !one.is_running() && (!of_stack || all) {
            containers::remove(roots, &one.config.name, false)?;
            view::out(&format!("container {}\n", one.config.name))?;
        }
    }
    let used: BTreeSet<String> =
        network::attachments(roots)?.into_iter().flat_map(|one| one.endpoints.into_keys()).collect();
    for one in network::list(roots)? {
        let of_stack = one.config.labels.contains_key(label::STACK);
        if !used.contains(&one.config.name) && !of_stack {
            network::remove(roots, &one.config.name)?;
            view::out(&format!("network {}\n", one.config.name))?;
        }
    }
    for name in Store::open(roots).prune(image::Prune::Unused)? {
        view::out(&format!("image {name}\n"))?;
    }
    crate::build::sweep(roots)?;
    let steps = Store::open(roots).prune_steps()?;
    if steps > 0 {
        view::out(&format!("{steps} remembered steps of builds\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn asked(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("{question} Type yes: ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
