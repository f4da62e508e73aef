//! What can be looked at before anything that runs is touched.

use std::collections::BTreeSet;
use std::fs::File;

use super::{containers, networks, of_image};
use crate::reconcile::engine::{Check, EngineError};
use crate::reconcile::resource::{ContainerConfig, FileSource, Kind, MountSource, NetworkMode};
use crate::runtime::roots::Roots;
use crate::runtime::{network, volume};

/// Looks; changes nothing.
pub fn check(roots: &Roots, check: &Check) -> Result<(), EngineError> {
    match check {
        Check::PortsFree { container, freed } => ports(roots, container, freed),
        Check::SourcesReadable { container } => sources(container),
        Check::UserKnown { container } => of_image::user(roots, container),
        Check::ProgramPresent { container } => of_image::program(roots, container),
        Check::NetworkPossible { network } => networks::possible(roots, network)
            .map_err(|error| super::failed(format!("network/{}", network.name), error)),
        Check::External { kind, name } => external(roots, *kind, name),
    }
}

pub(super) fn refused(subject: &str, reason: String, help: &str) -> EngineError {
    EngineError::Refused { subject: subject.to_owned(), reason, help: Some(help.to_owned()) }
}

fn ports(roots: &Roots, wanted: &ContainerConfig, freed: &[String]) -> Result<(), EngineError> {
    if !matches!(wanted.network, NetworkMode::Networks(_)) {
        return Ok(());
    }
    let own: BTreeSet<String> = freed.iter().cloned().chain([wanted.name.clone()]).collect();
    let id = wanted.id().to_string();
    let held =
        network::host_ports_free(roots, &networks::ports(wanted), &own).map_err(|error| super::failed(&id, error))?;
    match held.first() {
        None => Ok(()),
        Some(first) => {
            let more = if held.len() > 1 { format!(" (and {} more)", held.len() - 1) } else { String::new() };
            let reason =
                format!("port {}/{} is taken by {}{more}", first.port.host_port, first.port.protocol, first.holder);
            Err(refused(&id, reason, "stop what holds it, or publish another host port"))
        }
    }
}

fn sources(wanted: &ContainerConfig) -> Result<(), EngineError> {
    let id = wanted.id().to_string();
    for mount in &wanted.mounts {
        if let MountSource::Bind { source, create: false, .. } = &mount.source
            && let Err(error) = std::fs::metadata(source)
        {
            let reason = format!("source {} of {}: {error}", source.display(), mount.target);
            return Err(refused(&id, reason, "make it, or correct the path"));
        }
    }
    for file in &wanted.files {
        if let FileSource::File(path) = &file.source
            && let Err(error) = File::open(path)
        {
            let reason = format!("{} of {}: {error}", path.display(), file.name);
            return Err(refused(&id, reason, "make it readable, or correct the path"));
        }
    }
    for mapping in &wanted.devices {
        if let Err(error) = containers::device(mapping) {
            return Err(refused(&id, error.to_string(), "correct the path, or load the driver that makes the device"));
        }
    }
    Ok(())
}

fn external(roots: &Roots, kind: Kind, name: &str) -> Result<(), EngineError> {
    let there = match kind {
        Kind::Network => network::get(roots, name).is_ok(),
        Kind::Volume => volume::get(roots, name).is_ok_and(|found| found.is_some()),
        Kind::Image | Kind::Container => true,
    };
    if there {
        return Ok(());
    }
    let reason = format!("{kind} {name} is declared external, and there is none");
    Err(refused(&format!("{kind}/{name}"), reason, "make it first, or take `external: true` away"))
}
