//! Containers' places in networks, as far as one plan moves several of them.

use crate::reconcile::engine::Observed;
use crate::reconcile::resource::{Config, NetworkMode, ResourceId};

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
