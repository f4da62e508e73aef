//! What a network is made of, and who makes it: the one place that asks which driver a network has.

use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cni::{self, Cni, Given, Wish};
use super::l2::{self, OnParent};
use super::records::{Attachment, Endpoint, Network, NetworkConfig, Port};
use super::{
    Connect, Error, Family, Join, Subnet, bridge, get, kernel, link_name, links, list, place, route_socket, sandbox,
};
use crate::runtime::roots::Roots;

/// Who makes links and addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// A bridge of this engine, with a cable to each container, and rules that lead in and out.
    #[default]
    Bridge,
    /// A link of the host, with a link on it for each container.
    OnParent(OnParent),
    /// Plugins of the host.
    Cni(Cni),
}

impl Driver {
    /// The word for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::OnParent(on) => on.name(),
            Self::Cni(_) => "cni",
        }
    }
}

/// Looks whether the host has what such a network needs; changes nothing.
///
/// # Errors
/// What it lacks: a parent, a configuration.
pub fn check(roots: &Roots, config: &NetworkConfig) -> Result<(), Error> {
    place::there(roots, || match &config.driver {
        Driver::Bridge => Ok(()),
        Driver::OnParent(_) => choose_link(roots, config).map(drop),
        Driver::Cni(cni) => Ok(cni::check(cni)?),
    })
}

/// The name of the link of the host that the network is to be on, and whether that is a parent that is made here.
pub(super) fn choose_link(roots: &Roots, config: &NetworkConfig) -> Result<(String, bool), Error> {
    match &config.driver {
        Driver::Bridge => match &config.options.name {
            Some(name) => Ok((bridge::free_name(config, name)?, false)),
            None => Ok((link_name(roots, &["bridge", &config.name]), false)),
        },
        Driver::OnParent(on) => {
            let others: Vec<Network> =
                list(roots)?.into_iter().filter(|other| other.config.name != config.name).collect();
            Ok(l2::choose(roots, config, on, &others)?)
        }
        Driver::Cni(_) => Ok((String::new(), false)),
    }
}

/// Makes what the network needs of the host. A subnet that somebody else took at the same moment is given, and theirs.
pub(super) fn claim(network: &Network) -> Result<Option<(Subnet, String)>, Error> {
    match &network.config.driver {
        Driver::Bridge => bridge::claim(network),
        Driver::OnParent(on) => l2::ensure(network, on).map(|()| None),
        Driver::Cni(_) => Ok(None),
    }
}

/// Undoes what calls that were cut off have left in the network.
pub(super) fn sweep(roots: &Roots, network: &Network) -> Result<(), Error> {
    match &network.config.driver {
        Driver::Cni(cni) => Ok(cni::sweep(roots, cni, &network.config.name)?),
        _ => Ok(()),
    }
}

/// Takes from the host what was made for the network alone.
pub(super) fn remove(roots: &Roots, network: &Network, others: &[Network]) -> Result<(), Error> {
    let name = &network.config.name;
    match &network.config.driver {
        Driver::Bridge => {
            let removed = links::remove(&mut route_socket()?, &network.bridge);
            removed.map_err(kernel(format!("remove the bridge of {name}")))
        }
        Driver::OnParent(_) => l2::remove(network, others),
        Driver::Cni(_) => Ok(cni::sweep_network(roots, name)?),
    }
}

/// The hardware address of an endpoint: what was `asked` for, or what was `made` for it, where the driver takes either.
pub(super) fn hardware_address(network: &Network, asked: Option<[u8; 6]>, made: [u8; 6]) -> Result<[u8; 6], Error> {
    match &network.config.driver {
        Driver::OnParent(on) => Ok(l2::hardware_address(network, on, asked, made)?),
        _ => Ok(asked.unwrap_or(made)),
    }
}

/// Addresses that the host has itself: in a network that both are in, nobody else can have them.
pub(super) fn addresses_of_host(network: &Network) -> Result<Vec<IpAddr>, Error> {
    if !matches!(network.config.driver, Driver::OnParent(_)) {
        return Ok(Vec::new());
    }
    let all = links::addresses(&mut route_socket()?).map_err(kernel("list the host's addresses"))?;
    Ok(all.into_iter().map(|(_, address)| address).collect())
}

/// Has plugins give what is theirs to give, and takes it into what is to be written down. Ports that nobody leads to the
/// container are left out.
pub(super) fn settle(
    roots: &Roots,
    connect: &Connect,
    before: &Attachment,
    attachment: &mut Attachment,
) -> Result<(), Error> {
    let known = known(roots, attachment)?;
    if known.iter().any(Network::is_of_plugins) {
        let made = sandbox::ensure(roots, &attachment.container, &connect.owner);
        made.map_err(kernel(format!("network of container {}: make its namespace", attachment.container)))?;
    }
    for join in &connect.joins {
        let Some(network) = known.iter().find(|network| network.config.name == join.network) else { continue };
        let Driver::Cni(cni) = &network.config.driver else { continue };
        if let Err(error) = join_by_plugins(roots, cni, join, &known, attachment) {
            leave_new(roots, before, &known, attachment);
            return Err(error);
        }
    }
    let leads = leader(attachment, &known);
    if leads.is_some_and(|network| matches!(network.config.driver, Driver::OnParent(_))) {
        attachment.ports.clear();
    }
    Ok(())
}

/// Undoes what plugins gave that is not to be written down: of another that failed. What does not go away now is in
/// their own record, for the next call.
fn leave_new(roots: &Roots, before: &Attachment, known: &[Network], attachment: &Attachment) {
    let names = known.iter().filter(|network| network.is_of_plugins()).map(|network| &network.config.name);
    let namespace = sandbox::path(roots, &attachment.container);
    for name in names.filter(|name| !before.endpoints.contains_key(*name)) {
        cni::remove(roots, attachment.line(), name, &namespace).ok();
    }
}

/// Who looks for what is lost, and puts it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looker {
    /// `netd`, which may neither read what plugins said nor start them: what is theirs waits for a command.
    Guard,
    Command,
}

/// As [`settle`], of what is written down, where the kernel has lost something of it.
pub(super) fn settle_again(roots: &Roots, attachment: &mut Attachment) -> Result<(), Error> {
    let known = known(roots, attachment)?;
    for network in &known {
        let name = network.config.name.clone();
        let (Driver::Cni(cni), Some(endpoint)) = (&network.config.driver, attachment.endpoints.get(&name)) else {
            continue;
        };
        let namespace = sandbox::path(roots, &attachment.container);
        if cni::lost(roots, attachment.line(), &name, &namespace)?.is_none() {
            continue;
        }
        let given = cni::again(roots, cni, attachment.line(), &name, endpoint, &namespace)?;
        if let (Some(given), Some(endpoint)) = (given, attachment.endpoints.get_mut(&name)) {
            take(endpoint, &given);
        }
    }
    Ok(())
}

fn known(roots: &Roots, attachment: &Attachment) -> Result<Vec<Network>, Error> {
    attachment.endpoints.keys().map(|name| get(roots, name)).collect()
}

/// The network by which a container leaves, whoever leads it out.
fn leader<'a>(attachment: &Attachment, known: &'a [Network]) -> Option<&'a Network> {
    let open = known.iter().filter(|network| !network.config.internal);
    let priority = |network: &&Network| attachment.endpoints.get(&network.config.name).map(|it| it.gateway_priority);
    open.min_by_key(|network| std::cmp::Reverse(priority(network)))
}

fn join_by_plugins(
    roots: &Roots,
    cni: &Cni,
    join: &Join,
    known: &[Network],
    attachment: &mut Attachment,
) -> Result<(), Error> {
    let leads = leader(attachment, known).is_some_and(|network| network.config.name == join.network);
    let ports: Vec<Port> = if leads { attachment.ports.clone() } else { Vec::new() };
    let owner = attachment.line().to_owned();
    let namespace = sandbox::path(roots, &attachment.container);
    let Some(endpoint) = attachment.endpoints.get_mut(&join.network) else { return Ok(()) };
    let wish = Wish {
        network: &join.network,
        owner: &owner,
        interface: &endpoint.interface,
        addresses: &join.addresses,
        hardware_address: join.hardware_address,
        names: &join.names,
        ports: &ports,
    };
    let given = cni::add(roots, cni, &wish, &namespace)?;
    take(endpoint, &given);
    if attachment.dns.is_empty() {
        attachment.dns = given.outcome.dns.nameservers;
    }
    Ok(())
}

fn take(endpoint: &mut Endpoint, given: &Given) {
    endpoint.addresses = given.outcome.addresses.iter().map(|(address, _)| *address).collect();
    endpoint.hardware_address = given.hardware_address;
}

/// Makes the container's link, where it is missing, which it says.
pub(super) fn plug(
    roots: &Roots,
    attachment: &Attachment,
    network: &Network,
    endpoint: &Endpoint,
    namespace: &Path,
) -> Result<bool, Error> {
    match &network.config.driver {
        Driver::Bridge => {
            let what = format!("network of container {}: join {}", attachment.container, network.config.name);
            bridge::plug(roots, attachment, network, endpoint, namespace).map_err(kernel(what))
        }
        Driver::OnParent(on) => l2::plug(network, on, endpoint, namespace),
        // Made before it was written down.
        Driver::Cni(_) => Ok(false),
    }
}

/// Whether who takes a cable away waits until no processor uses it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    None,
    Most,
}

/// Takes the container's link away; one that is not there is fine.
pub(super) fn unplug(
    roots: &Roots,
    attachment: &Attachment,
    network: &str,
    endpoint: &Endpoint,
    haste: Haste,
) -> Result<(), Error> {
    let failed = || kernel(format!("network of container {}: leave {network}", attachment.container));
    let driver = match get(roots, network) {
        Ok(network) => network.config.driver,
        Err(Error::NotFound(_)) => Driver::Bridge,
        Err(error) => return Err(error),
    };
    let namespace = sandbox::path(roots, &attachment.container);
    match driver {
        Driver::Bridge => {
            let cable = bridge::cable(roots, attachment.line(), network);
            match haste {
                Haste::Most => links::remove_at_once(&cable),
                Haste::None => links::remove(&mut route_socket()?, &cable),
            }
            .map_err(failed())
        }
        Driver::OnParent(_) if !sandbox::exists(roots, &attachment.container) => Ok(()),
        Driver::OnParent(_) => l2::unplug(endpoint, &namespace).map_err(failed()),
        Driver::Cni(_) => Ok(cni::remove(roots, attachment.line(), network, &namespace)?),
    }
}

/// What a container has is another name's from now on.
pub(super) fn renamed(roots: &Roots, attachment: &Attachment, new: &str) -> Result<(), Error> {
    let (from, to) = (sandbox::path(roots, &attachment.container), sandbox::path(roots, new));
    for network in known(roots, attachment)?.iter().filter(|network| network.is_of_plugins()) {
        cni::moved(roots, attachment.line(), &network.config.name, &from, &to)?;
    }
    Ok(())
}

/// Where what no other route is for goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WayOut {
    /// To the gateway, by the interface.
    To(IpAddr, String),
    /// To whoever takes it, by the interface.
    By(String),
    /// Nowhere.
    None,
    /// Where plugins have led it.
    OfPlugins,
}

/// A container's way out, of one family.
pub(super) fn way_out(attachment: &Attachment, networks: &[Network], family: Family) -> (Family, WayOut) {
    let Some(way) = attachment.way_out(networks, family) else {
        let of_plugins = networks.iter().any(Network::is_of_plugins);
        return (family, if of_plugins { WayOut::OfPlugins } else { WayOut::None });
    };
    let interface = way.endpoint.interface.clone();
    match &way.network.config.driver {
        Driver::OnParent(on) if on.is_routed() => (family, WayOut::By(interface)),
        _ => (family, WayOut::To(way.range.gateway, interface)),
    }
}

/// What is lost of a container's place in a network that has no bridge, in words.
pub(super) fn lost(
    roots: &Roots,
    attachment: &Attachment,
    network: &Network,
    endpoint: &Endpoint,
    looker: Looker,
) -> Result<Option<String>, Error> {
    let namespace = sandbox::path(roots, &attachment.container);
    let name = &network.config.name;
    let said = match &network.config.driver {
        Driver::Bridge => None,
        Driver::OnParent(_) => l2::lost(endpoint, &namespace).map_err(kernel(format!("look into {name}")))?,
        Driver::Cni(_) if looker == Looker::Guard => None,
        Driver::Cni(_) => cni::lost(roots, attachment.line(), name, &namespace)?,
    };
    Ok(said.map(|what| format!("{name}: {what}")))
}
