//! Telling containers to stop, start and go away.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::args::{Diff, Kill, Names, PortArguments, Rename, Rm, Start, Stop, Update};
use super::failure::Failure;
use super::format::{Column, Format, Listing, Row};
use super::names::Here;
use super::{names, options, ps, run, view};
use crate::engine::native::{anonymous_volumes, containers, declared, volume_users};
use crate::reconcile::resource::{Resources, label};
use crate::runtime::container::{self, Change, Container};
use crate::runtime::roots::Roots;
use crate::runtime::{network, volume};

/// Does it with each and prints what was typed, or the containers' names where a word means several; those after one
/// that failed are done too.
fn each(
    roots: &Roots,
    here: &Here,
    words: &[String],
    mut action: impl FnMut(&Container) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    let mut failures = Vec::new();
    let mut act = |one: &Container, said: &str| -> Result<(), Failure> {
        match action(one) {
            Ok(()) => view::out(&format!("{said}\n"))?,
            Err(failure) => failures.push(failure),
        }
        Ok(())
    };
    if words.is_empty() {
        for one in names::several(roots, here, words)? {
            act(&one, &one.config.name)?;
        }
    }
    let mut unknown = Vec::new();
    for word in words {
        match names::several(roots, here, std::slice::from_ref(word)) {
            Ok(found) => match found.as_slice() {
                [only] => act(only, word)?,
                several => several.iter().try_for_each(|one| act(one, &one.config.name))?,
            },
            Err(failure) => unknown.push(failure),
        }
    }
    failures.extend(unknown);
    Failure::of_all(failures)
}

pub fn start(roots: &Roots, here: &Here, arguments: &Start) -> Result<ExitCode, Failure> {
    if arguments.attach || arguments.interactive {
        return run::start_attached(roots, here, arguments);
    }
    each(roots, here, &arguments.names, |one| Ok(containers::start(roots, &one.config.name)?))
}

fn how(arguments: &Stop) -> Result<container::Stop, Failure> {
    let signal = arguments.signal.clone().map(|text| options::signal("--signal", text)).transpose()?;
    Ok(container::Stop { signal, grace: arguments.time.map(Duration::from_secs) })
}

pub fn stop(roots: &Roots, here: &Here, arguments: &Stop) -> Result<ExitCode, Failure> {
    let how = how(arguments)?;
    each(roots, here, &arguments.names, |one| Ok(containers::stop(roots, &one.config.name, &how)?))
}

pub fn restart(roots: &Roots, here: &Here, arguments: &Stop) -> Result<ExitCode, Failure> {
    let how = how(arguments)?;
    each(roots, here, &arguments.names, |one| Ok(containers::restart(roots, &one.config.name, &how)?))
}

pub fn kill(roots: &Roots, here: &Here, arguments: &Kill) -> Result<ExitCode, Failure> {
    let signal = options::signal("--signal", arguments.signal.clone())?;
    each(roots, here, &arguments.names, |one| Ok(container::kill(roots, &one.config.name, &signal)?))
}

pub fn pause(roots: &Roots, here: &Here, arguments: &Names) -> Result<ExitCode, Failure> {
    each(roots, here, &arguments.names, |one| Ok(container::pause(roots, &one.config.name)?))
}

pub fn unpause(roots: &Roots, here: &Here, arguments: &Names) -> Result<ExitCode, Failure> {
    each(roots, here, &arguments.names, |one| Ok(container::unpause(roots, &one.config.name)?))
}

pub fn rm(roots: &Roots, here: &Here, arguments: &Rm) -> Result<ExitCode, Failure> {
    let mut failures = Vec::new();
    for name in &arguments.names {
        // With --force only what stays is an error, not what is gone already.
        if arguments.force && matches!(container::get(roots, name), Err(container::Error::NotFound(_))) {
            continue;
        }
        let found = names::of_word(roots, here, name, &[label::SERVICE]);
        let removed = found.and_then(|found| {
            found.iter().try_for_each(|one| remove(roots, &one.config.name, arguments.force, arguments.volumes))
        });
        match removed {
            Ok(()) => view::out(&format!("{name}\n"))?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::of_all(failures)
}

/// Removes the container; where asked also the volumes that only it has.
pub fn remove(roots: &Roots, name: &str, force: bool, volumes: bool) -> Result<(), Failure> {
    let own = match container::get(roots, name) {
        Ok(found) if volumes => anonymous_volumes(roots, &found)?,
        _ => Vec::new(),
    };
    containers::remove(roots, name, force)?;
    for volume in own {
        let users = volume_users(roots, &volume)?;
        if users.is_empty() {
            volume::remove(roots, &volume, &users, volume::Removal::Now)?;
        }
    }
    Ok(())
}

pub fn rename(roots: &Roots, here: &Here, arguments: &Rename) -> Result<ExitCode, Failure> {
    let found = names::one_or_service(roots, here, &arguments.name)?;
    if found.config.name == arguments.new {
        return Err(Failure::new(format!("container {:?} has that name already", arguments.new)));
    }
    if container::get(roots, &arguments.new).is_ok_and(|other| other.config.name == arguments.new) {
        return Err(container::Error::Exists(arguments.new.clone()).into());
    }
    containers::rename(roots, &found.config.name, &arguments.new)?;
    Ok(ExitCode::SUCCESS)
}

/// Changes limits and the restart policy, while it runs; all else stays.
pub fn update(roots: &Roots, here: &Here, arguments: &Update) -> Result<ExitCode, Failure> {
    let asked = options::resources(&arguments.limits)?;
    let restart = arguments.restart.as_deref().map(options::restart).transpose()?;
    if asked == Resources::default() && restart.is_none() {
        return Err(Failure::new("nothing is to be changed\n  help: name a limit or a policy, such as --memory 512m"));
    }
    each(roots, here, &arguments.names, |one| {
        let name = &one.config.name;
        let mut wanted = declared(one).ok_or_else(|| containers::Error::Undeclared(name.clone()))?;
        wanted.resources = with(wanted.resources, asked.clone());
        wanted.restart = restart.clone().unwrap_or(wanted.restart);
        Ok(containers::update(roots, &wanted, &[])?)
    })
}

/// What is asked for, else what there is.
fn with(present: Resources, asked: Resources) -> Resources {
    // Another limit of memory takes its own share of swap with it, unless that is asked for, too.
    let memory_swap =
        if asked.memory.is_some() { asked.memory_swap } else { asked.memory_swap.or(present.memory_swap) };
    // Two words for the same limit: the later one counts.
    let by_period = asked.cpu_quota_us.is_some() || asked.cpu_period_us.is_some();
    Resources {
        memory: asked.memory.or(present.memory),
        memory_reservation: asked.memory_reservation.or(present.memory_reservation),
        memory_swap,
        nano_cpus: asked.nano_cpus.or(present.nano_cpus.filter(|_| !by_period)),
        cpu_quota_us: asked.cpu_quota_us.or(present.cpu_quota_us.filter(|_| asked.nano_cpus.is_none())),
        cpu_period_us: asked.cpu_period_us.or(present.cpu_period_us.filter(|_| asked.nano_cpus.is_none())),
        cpu_shares: asked.cpu_shares.or(present.cpu_shares),
        cpuset: asked.cpuset.or(present.cpuset),
        cpuset_mems: asked.cpuset_mems.or(present.cpuset_mems),
        blkio_weight: asked.blkio_weight.or(present.blkio_weight),
        pids: asked.pids.or(present.pids),
        ..present
    }
}

/// Prints the codes in the order of the names.
pub fn wait(roots: &Roots, here: &Here, arguments: &Names) -> Result<ExitCode, Failure> {
    let mut failures = Vec::new();
    for name in &arguments.names {
        let found = names::of_word(roots, here, name, &[label::SERVICE]);
        let codes = found.and_then(|found| {
            found.iter().map(|one| Ok(container::wait(roots, &one.config.name, None)?)).collect::<Result<Vec<i32>, _>>()
        });
        match codes {
            Ok(codes) => codes.iter().try_for_each(|code| view::out(&format!("{code}\n")))?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::of_all(failures)
}

const CHANGE: &[Column] = &[("Kind", "KIND"), ("Path", "PATH")];

/// `A /new`, `C /changed`, `D /gone`, as docker prints them.
pub fn diff(roots: &Roots, here: &Here, arguments: &Diff) -> Result<ExitCode, Failure> {
    let found = names::one_or_service(roots, here, &arguments.name)?;
    let mut listing = Listing::new(CHANGE, &["Kind", "Path"]);
    let mut text = String::new();
    for (path, change) in container::changes(roots, &found.config.name)? {
        let (sign, word) = match change {
            Change::Added => ("A", "added"),
            Change::Changed => ("C", "changed"),
            Change::Deleted => ("D", "deleted"),
        };
        let path = path.display().to_string();
        text.push_str(&format!("{sign} {}\n", view::printable(&path)));
        listing
            .push(Row::new([("Kind", sign.to_owned()), ("Path", path.clone())], json!({"kind": word, "path": path})));
    }
    match &arguments.format.format {
        Format::Table => view::out(&text)?,
        format => listing.print(format)?,
    }
    Ok(ExitCode::SUCCESS)
}

const PORT: &[Column] = &[("Port", "CONTAINER PORT"), ("Host", "HOST")];

/// `80/tcp -> 127.0.0.1:8080`, or the latter part alone where a port was asked for.
pub fn port(roots: &Roots, here: &Here, arguments: &PortArguments) -> Result<ExitCode, Failure> {
    let found = names::one_or_service(roots, here, &arguments.name)?;
    let name = found.config.name.clone();
    let own = network::attachments(roots)?.into_iter().find(|one| one.container == name && found.is_running());
    let mut ports = own.map(|own| own.ports).unwrap_or_default();
    if let Some(wanted) = &arguments.port {
        let wanted = if wanted.contains('/') { wanted.clone() } else { format!("{wanted}/tcp") };
        ports.retain(|port| format!("{}/{}", port.container_port, port.protocol) == wanted);
        if ports.is_empty() {
            return Err(Failure::new(format!(
                "container {name:?} publishes no port {wanted}\n  help: `stack port {name}` lists what it does"
            )));
        }
    }
    let mut listing = Listing::new(PORT, &["Port", "Host"]);
    let mut text = String::new();
    for port in &ports {
        let (inner, outer) = (format!("{}/{}", port.container_port, port.protocol), ps::host_port(port));
        text.push_str(&if arguments.port.is_some() { format!("{outer}\n") } else { format!("{inner} -> {outer}\n") });
        listing.push(Row::new([("Port", inner), ("Host", outer)], json!(port)));
    }
    match &arguments.format.format {
        Format::Table => view::out(&text)?,
        format => listing.print(format)?,
    }
    Ok(ExitCode::SUCCESS)
}
