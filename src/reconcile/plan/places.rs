//! Containers' places in networks: which of them a successor takes over, and what one plan moves.

use super::decide::{Decision, Decisions, Fate, held};
use crate::reconcile::engine::{Observed, Phase};
use crate::reconcile::resource::{Config, ContainerConfig, NetworkMode, ResourceId};

/// Fields of a container that settle whose its namespaces are, or that leave their mark in them.
const OF_NAMESPACE: [&str; 9] =
    ["userns", "privileged", "devices", "device_cgroup_rules", "cap_add", "pid", "ipc", "runtime", "sysctls"];

/// What of them is seen in a container that lives in the network of this one.
const SEEN_BY_GUESTS: [&str; 2] = ["hostname", "domainname"];

/// The successor of a container that is made anew, where it takes over what that has of the network.
pub(super) fn successor<'a>(
    id: &ResourceId,
    decision: &'a Decision,
    observed: &Observed,
    decisions: &Decisions,
) -> Option<&'a ContainerConfig> {
    let found = observed.resources.get(id)?;
    let (Config::Container(old), Config::Container(new)) = (&found.config, &decision.config) else { return None };
    let fits = decision.fate == Fate::Replace { start_first: false }
        && old.name == new.name
        && !touches(decision, &OF_NAMESPACE)
        && !held(&found.config, observed).iter().any(|it| decisions.get(it).is_some_and(Decision::disrupts))
        && keeps_places(old, new);
    fits.then_some(new)
}

/// Whether what lives in this container's network goes on, whatever happens to the container itself.
pub(super) fn is_kept(id: &ResourceId, observed: &Observed, decisions: &Decisions) -> bool {
    let Some(decision) = decisions.get(id) else { return true };
    match decision.fate {
        Fate::Keep | Fate::Update | Fate::Restart | Fate::Refuse | Fate::Pull => true,
        // Finishes what was begun.
        Fate::Create => observed.resources.get(id).is_some_and(|found| found.phase == Phase::Creating),
        Fate::Replace { .. } => {
            !touches(decision, &SEEN_BY_GUESTS) && successor(id, decision, observed, decisions).is_some()
        }
        Fate::Remove => false,
    }
}

fn touches(decision: &Decision, fields: &[&str]) -> bool {
    decision.fields.iter().any(|field| fields.contains(&field.path.split('.').next().unwrap_or_default()))
}

/// It stays in all networks that it is in, and gives up no address that another may want.
fn keeps_places(old: &ContainerConfig, new: &ContainerConfig) -> bool {
    let (NetworkMode::Networks(before), NetworkMode::Networks(after)) = (&old.network, &new.network) else {
        return old.network == NetworkMode::None && new.network == NetworkMode::None;
    };
    before.iter().all(|(name, place)| {
        after.get(name).is_some_and(|it| {
            (&it.ipv4_address, &it.mac_address, &it.interface_name, it.priority)
                == (&place.ipv4_address, &place.mac_address, &place.interface_name, place.priority)
        })
    })
}

/// Whether it is to have an address that another container has now. What runs can't be given that: two may want to
/// exchange theirs, and one of them would have to be without any.
pub(super) fn is_contested(id: &ResourceId, wanted: &Config, observed: &Observed) -> bool {
    let others = observed.resources.iter().filter(|(other, _)| *other != id);
    let held: Vec<_> = others.flat_map(|(_, found)| fixed(&found.config)).collect();
    fixed(wanted).any(|place| held.contains(&place))
}

/// Networks by their names on the engine, and the addresses in them that the file names.
fn fixed(config: &Config) -> impl Iterator<Item = (&str, &str)> {
    let networks = match config {
        Config::Container(container) => match &container.network {
            NetworkMode::Networks(networks) => Some(networks),
            NetworkMode::None | NetworkMode::Host | NetworkMode::Container(_) => None,
        },
        Config::Image(_) | Config::Network(_) | Config::Volume(_) => None,
    };
    networks
        .into_iter()
        .flatten()
        .filter_map(|(name, endpoint)| Some((name.as_str(), endpoint.ipv4_address.as_deref()?)))
}
