//! Networks on a link of the host, their parent: each container has a link of its own on it (macvlan, ipvlan), and is one
//! more machine of the network that the parent is in. There is no bridge, no rule and no published port: who is in that
//! network reaches the container by its address. The host itself does not, as the kernel has it for such links.
//!
//! The parent is a link that is there; `LINK.ID` is made where there is no such link, as the VLAN of that number; without a
//! parent there is one that leads nowhere, and the network is internal. What was made here goes with the last network that
//! uses it.

mod kernel;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::netlink::Socket;
use super::records::{Endpoint, Network, NetworkConfig};
use super::{driver::Driver, link_name, links, route_socket, sandbox, set_if_there};
use crate::runtime::roots::Roots;
pub use kernel::set_default_route_by_link;

/// Why a network can't be on its parent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "network {network:?}: there is no link {parent:?} to be its parent\n  help: these are there: {links}; `LINK.ID` is the VLAN of that number, and without a `parent` the network leads nowhere"
    )]
    NoParent { network: String, parent: String, links: String },
    #[error(
        "network {network:?}: parent {parent:?} is used by network {other:?}, {as_what}\n  help: one parent has one kind of links, and `passthru` has it alone"
    )]
    Taken { network: String, parent: String, other: String, as_what: String },
    #[error(
        "network {network:?}: containers have the hardware address of its parent, and none of their own\n  help: take `mac_address` away, or use `driver: macvlan` in another mode than `passthru`"
    )]
    HardwareAddress { network: String },
    #[error("network {network:?}, parent {parent}: {what}: {source}{help}")]
    Kernel { network: String, parent: String, what: &'static str, source: io::Error, help: &'static str },
}

/// The kind of links that containers have, with what the kernel is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Macvlan(MacvlanMode),
    Ipvlan(IpvlanMode, IpvlanFlag),
}

/// Who hears whom of those on one parent (ip-link(8)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MacvlanMode {
    #[default]
    Bridge,
    Private,
    Vepa,
    Passthru,
}

/// Whether packets are switched or routed between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpvlanMode {
    #[default]
    L2,
    L3,
    L3s,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpvlanFlag {
    #[default]
    Bridge,
    Private,
    Vepa,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Macvlan(mode) => write!(f, "macvlan in mode {}", format!("{mode:?}").to_lowercase()),
            Self::Ipvlan(mode, flag) => {
                write!(
                    f,
                    "ipvlan in mode {} ({})",
                    format!("{mode:?}").to_lowercase(),
                    format!("{flag:?}").to_lowercase()
                )
            }
        }
    }
}

/// A network of this kind as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnParent {
    pub kind: Kind,
    /// None at all makes the network internal.
    pub parent: Option<String>,
}

impl OnParent {
    /// The word for people.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Macvlan(_) => "macvlan",
            Kind::Ipvlan(..) => "ipvlan",
        }
    }

    /// Whether packets are routed: there are no neighbours, and so no gateway.
    pub fn is_routed(&self) -> bool {
        matches!(self.kind, Kind::Ipvlan(IpvlanMode::L3 | IpvlanMode::L3s, _))
    }

    fn has_own_hardware_address(&self) -> bool {
        !matches!(self.kind, Kind::Ipvlan(..) | Kind::Macvlan(MacvlanMode::Passthru))
    }

    /// Whether both may have the same parent.
    fn agrees_with(&self, other: &Self) -> bool {
        let alone = Kind::Macvlan(MacvlanMode::Passthru);
        match (self.kind, other.kind) {
            (Kind::Macvlan(_), Kind::Macvlan(_)) => self.kind != alone && other.kind != alone,
            // The kernel keeps one mode for all of a parent.
            _ => self.kind == other.kind,
        }
    }
}

/// The link that is asked for as VLAN `id` of `base`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Vlan<'a> {
    base: &'a str,
    id: u16,
}

fn vlan(name: &str) -> Option<Vlan<'_>> {
    let (base, id) = name.rsplit_once('.')?;
    let id = id.parse().ok().filter(|id| (1..=4094).contains(id))?;
    (!base.is_empty() && name.len() <= super::LINK_LENGTH).then_some(Vlan { base, id })
}

/// The parent's name, and whether it is ours to make and to remove. Nothing is made yet.
///
/// # Errors
/// [`Error::NoParent`], and [`Error::Taken`] by another network that needs it otherwise.
pub fn choose(
    roots: &Roots,
    config: &NetworkConfig,
    wanted: &OnParent,
    others: &[Network],
) -> Result<(String, bool), Error> {
    let Some(parent) = &wanted.parent else { return Ok((link_name(roots, &["parent", &config.name]), true)) };
    let mut made = false;
    for other in others.iter().filter(|other| other.bridge == *parent) {
        match &other.config.driver {
            Driver::OnParent(driver) if driver.agrees_with(wanted) => made |= other.makes_link,
            Driver::OnParent(driver) => return Err(taken(config, parent, other, driver.kind.to_string())),
            _ => return Err(taken(config, parent, other, "as its bridge".to_owned())),
        }
    }
    if made || is_there(config, parent)? {
        return Ok((parent.clone(), made));
    }
    match vlan(parent) {
        Some(Vlan { base, .. }) if is_there(config, base)? => Ok((parent.clone(), true)),
        Some(Vlan { base, .. }) => Err(missing(config, base)),
        None => Err(missing(config, parent)),
    }
}

fn taken(config: &NetworkConfig, parent: &str, other: &Network, as_what: String) -> Error {
    let (network, parent, other) = (config.name.clone(), parent.to_owned(), other.config.name.clone());
    Error::Taken { network, parent, other, as_what }
}

fn is_there(config: &NetworkConfig, link: &str) -> Result<bool, Error> {
    links::index(link).map(|index| index.is_some()).map_err(failed(config, link, "find it"))
}

/// With the links of the host that could be meant.
fn missing(config: &NetworkConfig, parent: &str) -> Error {
    let links = Socket::route().and_then(|mut socket| links::list(&mut socket)).unwrap_or_default();
    let names: Vec<String> =
        links.into_iter().map(|link| link.name).filter(|name| name != "lo" && !super::is_link_name(name)).collect();
    let links = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Error::NoParent { network: config.name.clone(), parent: parent.to_owned(), links }
}

fn failed(config: &NetworkConfig, parent: &str, what: &'static str) -> impl FnOnce(io::Error) -> Error + use<> {
    let (network, parent) = (config.name.clone(), parent.to_owned());
    move |source| {
        let help = match source.raw_os_error() {
            Some(libc::EOPNOTSUPP) => {
                "\n  help: this kernel has no such links: `modprobe macvlan`, `ipvlan`, `8021q` or `dummy`, whichever it is"
            }
            Some(libc::EBUSY) => {
                "\n  help: the parent is part of a bridge or a bond, or has links of another kind on it: use that bridge, or another parent"
            }
            Some(libc::ENETDOWN) => "\n  help: the link below it is down: `ip link set LINK up`",
            _ => "",
        };
        Error::Kernel { network, parent, what, source, help }
    }
}

/// Makes the parent where it is ours and missing.
///
/// # Errors
/// [`Error::NoParent`] where it is the host's.
pub fn ensure(network: &Network, wanted: &OnParent) -> Result<(), super::Error> {
    let (config, parent) = (&network.config, network.bridge.as_str());
    let mut socket = route_socket()?;
    if !is_there(config, parent)? {
        if !network.makes_link {
            return Err(missing(config, parent).into());
        }
        make(&mut socket, network, wanted)?;
    }
    if network.makes_link {
        set_if_there(&format!("/proc/sys/net/ipv6/conf/{parent}/disable_ipv6"), "1")?;
        let index = links::existing(parent).map_err(failed(config, parent, "find it"))?;
        links::set_up(&mut socket, index).map_err(failed(config, parent, "set it up"))?;
    }
    Ok(())
}

fn make(socket: &mut Socket, network: &Network, wanted: &OnParent) -> Result<(), Error> {
    let (config, parent) = (&network.config, network.bridge.as_str());
    let Some(Vlan { base, id }) = wanted.parent.as_deref().and_then(vlan) else {
        return kernel::make_dummy(socket, parent).map_err(failed(config, parent, "make it"));
    };
    let below = links::index(base).map_err(failed(config, base, "find it"))?;
    let Some(below) = below else { return Err(missing(config, base)) };
    kernel::make_vlan(socket, parent, below, id).map_err(failed(config, parent, "make the VLAN"))
}

/// Removes the parent where it was made here and no other network is on it.
pub fn remove(network: &Network, others: &[Network]) -> Result<(), super::Error> {
    if !network.makes_link || others.iter().any(|other| other.bridge == network.bridge) {
        return Ok(());
    }
    let removed = links::remove(&mut route_socket()?, &network.bridge);
    Ok(removed.map_err(failed(&network.config, &network.bridge, "remove it"))?)
}

/// The hardware address that an endpoint is to have: what was asked for, what was `made` for it, or the parent's.
///
/// # Errors
/// [`Error::HardwareAddress`] where one is asked for and the kernel gives none but the parent's.
pub fn hardware_address(
    network: &Network,
    driver: &OnParent,
    asked: Option<[u8; 6]>,
    made: [u8; 6],
) -> Result<[u8; 6], Error> {
    match asked {
        Some(_) if !driver.has_own_hardware_address() => {
            Err(Error::HardwareAddress { network: network.config.name.clone() })
        }
        Some(asked) => Ok(asked),
        None if driver.has_own_hardware_address() => Ok(made),
        None => {
            let failed = failed(&network.config, &network.bridge, "ask for its hardware address");
            kernel::hardware_address(&network.bridge).map_err(failed)
        }
    }
}

/// Gives the container its link on the parent; one that is there stays.
pub fn plug(network: &Network, driver: &OnParent, endpoint: &Endpoint, namespace: &Path) -> Result<bool, super::Error> {
    let failed = |what| failed(&network.config, &network.bridge, what);
    let wanted = endpoint.interface.clone();
    let there = sandbox::inside(namespace, move || links::index(&wanted)).map_err(failed("look into the container"))?;
    if there.is_some() {
        return Ok(false);
    }
    let parent = links::existing(&network.bridge).map_err(failed("find it"))?;
    let file = File::open(namespace).map_err(failed("open the container's network namespace"))?;
    let link = kernel::Link {
        name: &endpoint.interface,
        parent,
        namespace: file.as_fd(),
        kind: driver.kind,
        address: driver.has_own_hardware_address().then_some(endpoint.hardware_address),
        mtu: network.config.mtu,
    };
    let mut socket = route_socket()?;
    kernel::make_link(&mut socket, &link).map_err(failed("make the container's link"))?;
    Ok(true)
}

/// Takes the link away; one that is not there is fine.
pub fn unplug(endpoint: &Endpoint, namespace: &Path) -> io::Result<()> {
    let name = endpoint.interface.clone();
    sandbox::inside(namespace, move || links::remove(&mut Socket::route()?, &name))
}

/// What is lost of the container's link, in words.
pub fn lost(endpoint: &Endpoint, namespace: &Path) -> io::Result<Option<String>> {
    let (links, addresses) = sandbox::inside(namespace, || {
        let mut socket = Socket::route()?;
        Ok((links::list(&mut socket)?, links::addresses(&mut socket)?))
    })?;
    let name = &endpoint.interface;
    let Some(link) = links.iter().find(|link| link.name == *name) else {
        return Ok(Some(format!("link {name} of the container gone")));
    };
    if !link.up {
        return Ok(Some(format!("link {name} of the container down")));
    }
    let missing = endpoint.addresses.iter().find(|address| !addresses.contains(&(link.index, **address)));
    Ok(missing.map(|address| format!("address {address} of link {name} of the container gone")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_is_a_link_and_a_number() {
        assert_eq!(vlan("eth0.100"), Some(Vlan { base: "eth0", id: 100 }));
        assert_eq!(vlan("br.lan.7"), Some(Vlan { base: "br.lan", id: 7 }));
        for other in ["eth0", "eth0.", ".5", "eth0.0", "eth0.4095", "eth0.x", "a-long-name-0.100"] {
            assert_eq!(vlan(other), None, "{other}");
        }
    }

    #[test]
    fn one_parent_has_links_of_one_kind() {
        let on = |kind| OnParent { kind, parent: Some("eth0".into()) };
        let macvlan = |mode| on(Kind::Macvlan(mode));
        let ipvlan = |mode| on(Kind::Ipvlan(mode, IpvlanFlag::Bridge));
        assert!(macvlan(MacvlanMode::Bridge).agrees_with(&macvlan(MacvlanMode::Vepa)));
        assert!(!macvlan(MacvlanMode::Passthru).agrees_with(&macvlan(MacvlanMode::Passthru)));
        assert!(!macvlan(MacvlanMode::Bridge).agrees_with(&ipvlan(IpvlanMode::L2)));
        assert!(ipvlan(IpvlanMode::L3).agrees_with(&ipvlan(IpvlanMode::L3)));
        assert!(!ipvlan(IpvlanMode::L3).agrees_with(&ipvlan(IpvlanMode::L2)));
    }
}
