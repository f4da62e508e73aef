//! Where in a stack's files the cause of a step stands.

use std::sync::Arc;

use crate::reconcile::desired::Desired;
use crate::reconcile::engine::{Action, Check};
use crate::reconcile::resource::{ContainerConfig, Kind, MountSource};
use crate::spec::{Loaded, Location};

/// The files of a stack and what they declare.
#[derive(Debug)]
pub struct Places {
    loaded: Arc<Loaded>,
    desired: Desired,
}

impl Places {
    pub fn new(loaded: Arc<Loaded>, desired: Desired) -> Self {
        Self { loaded, desired }
    }

    /// The place of what the step is about; `None` for what no file declares any more.
    pub fn find(&self, action: &Action) -> Option<Location> {
        let path = match action {
            Action::Check { check } => self.of_check(check)?,
            _ => self.desired.resources.get(action.id()?)?.place.clone(),
        };
        self.loaded.locate(&path)
    }

    fn of_check(&self, check: &Check) -> Option<String> {
        let stack = &self.loaded.stack;
        match check {
            Check::PortsFree { container, .. } => Some(format!("containers.{}.ports", container.service)),
            Check::SourcesReadable { container } => Some(of_sources(container)),
            Check::UserKnown { container } => Some(of_user(container)),
            Check::ProgramPresent { container } => Some(of_program(container)),
            Check::NetworkPossible { network } => {
                let found = stack.networks.iter().find(|(_, one)| !one.external && one.name == network.name);
                found.map(|(key, _)| format!("networks.{key}.driver_opts"))
            }
            Check::External { kind: Kind::Network, name } => {
                let found = stack.networks.iter().find(|(_, network)| network.external && network.name == *name);
                found.map(|(key, _)| format!("networks.{key}"))
            }
            Check::External { name, .. } => {
                let found = stack.volumes.iter().find(|(_, volume)| volume.external && volume.name == *name);
                found.map(|(key, _)| format!("volumes.{key}"))
            }
        }
    }
}

/// The section that the sources stand in, where it is one.
fn of_sources(container: &ContainerConfig) -> String {
    let binds = container.mounts.iter().any(|mount| matches!(mount.source, MountSource::Bind { .. }));
    let section = match (binds, container.files.is_empty(), container.devices.is_empty()) {
        (true, true, true) => ".volumes",
        (false, true, false) => ".devices",
        _ => "",
    };
    format!("containers.{}{section}", container.service)
}

fn of_user(container: &ContainerConfig) -> String {
    let key = if container.user.is_some() { "user" } else { "group_add" };
    format!("containers.{}.{key}", container.service)
}

/// The key that names the program, where it is not the image that does.
fn of_program(container: &ContainerConfig) -> String {
    let key = match (&container.entrypoint, &container.command) {
        (Some(words), _) if !words.is_empty() => ".entrypoint",
        (_, Some(words)) if !words.is_empty() => ".command",
        _ => "",
    };
    format!("containers.{}{key}", container.service)
}
