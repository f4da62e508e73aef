//! What the host holds of a stack, as resources.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{declared, failed, hooks};
use crate::reconcile::engine::{self, EngineError, Health, Observed, ObservedResource, RunState, StackName};
use crate::reconcile::resource::{
    CHOSEN, Config, ContainerConfig, ImageConfig, Kind, NetworkConfig, NetworkMode, ResourceId, VolumeConfig, label,
};
use crate::runtime::container::{self, Container, Phase, State};
use crate::runtime::image::Store;
use crate::runtime::network::{self, Seen};
use crate::runtime::roots::Roots;
use crate::runtime::volume;

/// Everything with the stack's label; without a name, all that is of no stack.
pub fn observe(roots: &Roots, stack: Option<&StackName>) -> Result<Observed, EngineError> {
    let mut observed = Observed { now_ms: container::now_ms(), ..Observed::default() };
    super::containers::sweep(roots).map_err(|error| failed("containers", error))?;
    container::ids::sweep(roots).map_err(|error| failed("ids of containers", error))?;
    crate::build::sweep(roots).map_err(|error| failed("builds", error))?;
    let of_stack = |labels: &std::collections::BTreeMap<String, String>| {
        let named = labels.get(label::STACK).filter(|_| labels.get(label::ONEOFF).is_none_or(|word| word != "True"));
        named.map(String::as_str) == stack.map(StackName::as_str)
    };
    let seen = Seen::look(roots).map_err(|error| failed("networks", error))?;
    let mut of_this_stack = BTreeSet::new();
    for found in network::list(roots).map_err(|error| failed("networks", error))? {
        let Some(wanted) = read::<NetworkConfig>(&found.config.declared).filter(|wanted| of_stack(&wanted.labels))
        else {
            continue;
        };
        let drift = seen.of_network(&wanted.name);
        of_this_stack.insert(wanted.name.clone());
        let id = ResourceId::new(Kind::Network, short(&wanted.labels, label::NETWORK, &wanted.name));
        let phase = engine::Phase::Created;
        observed.resources.insert(id, ObservedResource { phase, config: Config::Network(wanted), run: None, drift });
    }
    let containers = container::list(roots).and_then(|all| container::adopt_all(roots, all));
    let containers = containers.map_err(|error| failed("containers", error))?;
    super::logging::settle(roots, &containers);
    for found in containers.into_iter().filter(|found| of_stack(&found.config.labels)) {
        let Some(mut wanted) = declared(&found) else { continue };
        wanted.userns.get_or_insert_with(|| chosen_users(&found));
        let mut drift = drift(&seen, &of_this_stack, &found, &wanted);
        if found.is_running() {
            let edited = super::places::edited(roots, &wanted);
            drift.extend(edited.map_err(|error| failed(wanted.id(), error))?);
        }
        if found.is_running() && hooks::are_pending(roots, &wanted) {
            drift.push("post_start has not run to its end".to_owned());
        }
        let (id, config) = (wanted.id(), Config::Container(Box::new(wanted)));
        let run = Some(run_state(&found));
        observed.resources.insert(id, ObservedResource { phase: phase(found.phase), config, run, drift });
    }
    for found in volume::list(roots).map_err(|error| failed("volumes", error))? {
        let Some(wanted) = read::<VolumeConfig>(&found.config.declared).filter(|wanted| of_stack(&wanted.labels))
        else {
            continue;
        };
        let drift = super::volumes::drift(roots, &found).map_err(|error| failed("volumes", error))?;
        let id = ResourceId::new(Kind::Volume, short(&wanted.labels, label::VOLUME, &wanted.name));
        let phase = engine::Phase::Created;
        observed.resources.insert(id, ObservedResource { phase, config: Config::Volume(wanted), run: None, drift });
    }
    for (name, digest) in Store::open(roots).names_and_digests().map_err(|error| failed("images", error))? {
        observed.digests.insert(name, digest.to_string());
    }
    for (names, declared) in Store::open(roots).made().map_err(|error| failed("images", error))? {
        // Its further names are nobody's own.
        if let Some(config) = read::<ImageConfig>(&declared).filter(|config| names.contains(&config.reference)) {
            observed.made.insert(config.reference.clone(), config);
        }
    }
    Ok(observed)
}

/// What this engine chose when the container was made.
fn chosen_users(found: &Container) -> String {
    format!("{CHOSEN}{}", if found.config.request.users.is_some() { "private" } else { "host" })
}

fn read<T: serde::de::DeserializeOwned>(declared: &Value) -> Option<T> {
    T::deserialize(declared).ok()
}

/// The name within the stack.
fn short(labels: &std::collections::BTreeMap<String, String>, key: &str, name: &str) -> String {
    labels.get(key).cloned().unwrap_or_else(|| name.to_owned())
}

fn phase(phase: Phase) -> engine::Phase {
    match phase {
        Phase::Creating => engine::Phase::Creating,
        Phase::Created => engine::Phase::Created,
    }
}

/// Only of what runs: a stopped container's network is put in order when it starts. Names and ports that are not served
/// are told of the networks of the stack; a container that is in others' only tells it itself.
fn drift(
    seen: &Seen,
    networks_of_stack: &BTreeSet<String>,
    found: &Container,
    wanted: &ContainerConfig,
) -> Vec<String> {
    if !found.is_running() {
        return Vec::new();
    }
    let mut drift = seen.of_container(&found.config.name);
    let NetworkMode::Networks(networks) = &wanted.network else { return drift };
    if !networks.is_empty() && !networks.keys().any(|name| networks_of_stack.contains(name)) {
        drift.extend(seen.unserved().iter().cloned());
    }
    drift
}

fn run_state(found: &Container) -> RunState {
    match found.status.state {
        State::Created => RunState::Created,
        State::Running => RunState::Running {
            health: match found.status.health {
                container::Health::None => Health::None,
                container::Health::Starting => Health::Starting,
                container::Health::Healthy => Health::Healthy,
                container::Health::Unhealthy => Health::Unhealthy,
            },
        },
        State::Paused => RunState::Paused,
        State::Restarting => RunState::Restarting,
        State::Exited if found.status.interrupted && !found.status.by_hand => RunState::Interrupted,
        State::Exited => RunState::Exited { code: found.status.exit_code, by_hand: found.status.by_hand },
    }
}
