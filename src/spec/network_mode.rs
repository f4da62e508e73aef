//! Keys that a container's `network_mode` leaves nothing to do for, or that contradict it. What docker refuses is an error.

use super::{Container, NamespaceMode, NetworkMode};

/// A key that the mode excludes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub key: &'static str,
    pub message: String,
    /// What to do about it; without it, it is a warning.
    pub help: Option<&'static str>,
}

/// All of them, in the order of the keys here.
pub fn conflicts(container: &Container) -> Vec<Conflict> {
    let mut found = match &container.network_mode {
        NetworkMode::Bridge => Vec::new(),
        NetworkMode::None => alone(container),
        NetworkMode::Host => of_host(container),
        NetworkMode::Container(_) | NetworkMode::Service(_) => of_another(container),
    };
    if container.uts == Some(NamespaceMode::Host) && container.hostname.is_some() {
        let help = Some("take one of the two away");
        let message = "a container with the host's names (`uts: host`) has no `hostname` of its own".to_owned();
        found.push(Conflict { key: "hostname", message, help });
    }
    found
}

fn warning(key: &'static str, message: &str) -> Conflict {
    Conflict { key, message: message.to_owned(), help: None }
}

fn alone(container: &Container) -> Vec<Conflict> {
    let ports = warning("ports", "ports have no effect with `network_mode: none`: nothing reaches the container");
    let links = Conflict {
        key: "links",
        message: "`links` need a network, and with `network_mode: none` there is none".to_owned(),
        help: Some("take one of the two away"),
    };
    let address = warning("mac_address", "`mac_address` has no effect with `network_mode: none`: there is no link");
    only([
        (!container.ports.is_empty(), ports),
        (!container.links.is_empty(), links),
        (container.mac_address.is_some(), address),
    ])
}

fn of_host(container: &Container) -> Vec<Conflict> {
    let ports = warning("ports", "ports have no effect with `network_mode: host`: they are the host's already");
    let links = Conflict {
        key: "links",
        message: "`links` need a network of containers, and with `network_mode: host` there is none".to_owned(),
        help: Some("reach the other container by a port that it publishes, or take `network_mode` away"),
    };
    let address = warning("mac_address", "`mac_address` has no effect with `network_mode: host`: links are the host's");
    only([
        (!container.ports.is_empty(), ports),
        (!container.links.is_empty(), links),
        (container.mac_address.is_some(), address),
    ])
}

/// Host name, names and ports are those of the network's owner.
fn of_another(container: &Container) -> Vec<Conflict> {
    let one = |key, what: &str, help| Conflict {
        key,
        message: format!("a container in another's network cannot {what}"),
        help: Some(help),
    };
    let owner = "set it for the container that owns the network";
    only([
        (
            !container.ports.is_empty(),
            one("ports", "publish ports", "publish them on the container that owns the network"),
        ),
        (!container.expose.is_empty(), one("expose", "expose ports", owner)),
        (container.hostname.is_some(), one("hostname", "have a host name of its own", owner)),
        (!container.links.is_empty(), one("links", "have links", owner)),
        (!container.dns.is_empty(), one("dns", "have name servers of its own", owner)),
        (!container.extra_hosts.is_empty(), one("extra_hosts", "have names for addresses of its own", owner)),
        (container.mac_address.is_some(), one("mac_address", "have a hardware address of its own", owner)),
    ])
}

fn only<const N: usize>(all: [(bool, Conflict); N]) -> Vec<Conflict> {
    all.into_iter().filter_map(|(is_so, conflict)| is_so.then_some(conflict)).collect()
}
