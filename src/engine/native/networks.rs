//! Networks as they are declared, and a container's place in them.

use std::net::IpAddr;

use super::containers::Error;
use super::{drivers, naming, places};
use crate::reconcile::resource::{self, ContainerConfig, NetworkMode};
use crate::runtime::container::{self, Config, Removal, Start};
use crate::runtime::network::driver::Driver;
use crate::runtime::network::options::{self, BridgeOptions};
use crate::runtime::network::{
    self, Attachment, Connect, Family, Join, NetworkConfig, Pool, Port, Subnet, netd, sandbox,
};
use crate::runtime::roots::Roots;

/// The network of containers that name none, made when it is first needed.
pub const DEFAULT_NETWORK: &str = "default";

fn config(roots: &Roots, wanted: &resource::NetworkConfig) -> Result<NetworkConfig, Error> {
    let driver = drivers::driver(roots, wanted)?;
    // Who has no parent has no way out.
    let is_alone = matches!(&driver, Driver::OnParent(on) if on.parent.is_none());
    let has_addresses = !matches!(driver, Driver::Cni(_));
    let mtu = options::mtu(&wanted.options)?;
    let options =
        if driver == Driver::Bridge { BridgeOptions::parse(&wanted.options)? } else { BridgeOptions::default() };
    options.fits(wanted.internal, mtu.filter(|_| wanted.ipv6))?;
    let four = pool(wanted, Family::V4, [&wanted.subnet, &wanted.ip_range, &wanted.gateway])?;
    let six = pool(wanted, Family::V6, [&wanted.ipv6_subnet, &wanted.ipv6_range, &wanted.ipv6_gateway])?;
    Ok(NetworkConfig {
        name: wanted.name.clone(),
        ipv4: Some(four).filter(|_| wanted.ipv4 && has_addresses),
        ipv6: Some(six).filter(|_| wanted.ipv6 && has_addresses),
        options,
        internal: wanted.internal || is_alone,
        driver,
        mtu,
        labels: wanted.labels.clone(),
        declared: serde_json::to_value(wanted)?,
    })
}

fn pool(
    wanted: &resource::NetworkConfig,
    family: Family,
    [subnet, range, gateway]: [&Option<String>; 3],
) -> Result<Pool, Error> {
    let subnet_of = |text: &Option<String>| text.as_ref().map(|text| text.parse::<Subnet>()).transpose();
    let reserved = wanted.aux_addresses.iter().filter_map(|(what, text)| Some((what.clone(), text.parse().ok()?)));
    Ok(Pool {
        subnet: subnet_of(subnet)?,
        gateway: gateway.as_ref().and_then(|text| text.parse().ok()),
        ip_range: subnet_of(range)?,
        reserved: reserved.filter(|(_, address)| Family::of(*address) == family).collect(),
    })
}

/// Makes the network.
pub fn create(roots: &Roots, wanted: &resource::NetworkConfig) -> Result<(), Error> {
    network::create(roots, &config(roots, wanted)?)?;
    Ok(())
}

/// Looks whether the host has what it is made of; changes nothing.
pub fn possible(roots: &Roots, wanted: &resource::NetworkConfig) -> Result<(), Error> {
    Ok(network::driver::check(roots, &config(roots, wanted)?)?)
}

/// Takes over new labels.
pub fn update(roots: &Roots, wanted: &resource::NetworkConfig) -> Result<(), Error> {
    network::update(roots, &config(roots, wanted)?)?;
    Ok(())
}

/// Removes it, and what is only there for networks when it was the last.
pub fn remove(roots: &Roots, name: &str) -> Result<(), Error> {
    network::remove(roots, name)?;
    settle(roots)
}

/// Puts back links and rules that the host lost.
pub fn repair(roots: &Roots) -> Result<(), Error> {
    network::reassert(roots)?;
    settle(roots)
}

/// The network for containers of no stack.
pub fn ensure_default(roots: &Roots) -> Result<(), Error> {
    match network::get(roots, DEFAULT_NETWORK) {
        Ok(_) => Ok(()),
        Err(network::Error::NotFound(_)) => {
            let wanted = resource::NetworkConfig { name: DEFAULT_NETWORK.to_owned(), ..Default::default() };
            create(roots, &wanted)
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes names and local ports be served as written down now; ends the server when nothing is left to serve.
pub fn settle(roots: &Roots) -> Result<(), Error> {
    Ok(netd::ensure(roots)?)
}

/// The declared ports in the runtime's words.
pub fn ports(wanted: &ContainerConfig) -> Vec<Port> {
    let port = |port: &resource::Port| Port {
        host_ip: port.host_ip.as_ref().and_then(|text| text.parse().ok()),
        host_port: port.published,
        container_port: port.target,
        protocol: port.protocol.clone(),
        bypass: port.bypass,
    };
    wanted.ports.iter().map(port).collect()
}

/// Gives the container its namespace, addresses and ports. One without networks gets its namespace when it is born,
/// unless others hold one that it had.
pub fn connect(
    roots: &Roots,
    wanted: &ContainerConfig,
    config: &Config,
    owner: sandbox::Owner,
) -> Result<Start, Error> {
    let request = &config.request;
    let joins = joins(wanted);
    let lonely = joins.is_empty();
    if lonely && !sandbox::exists(roots, &wanted.name) {
        let hosts = naming::hosts(wanted, &request.hostname, &[], None);
        let resolv_conf = naming::resolv_conf_of_host(wanted, "");
        return Ok(Start { hosts, resolv_conf, ..Start::default() });
    }
    reclaim(roots, config)?;
    let ports = if lonely { Vec::new() } else { ports(wanted) };
    let connect = Connect {
        container: wanted.name.clone(),
        id: config.id.clone(),
        joins,
        ports,
        dns: wanted.dns.clone(),
        owner,
        transient: config.removal != Removal::Nobody,
        self_governed: places::is_self_governed(roots, wanted)?,
    };
    let attachment = connect_and_serve(roots, &connect)?;
    let gateway = first_gateway(roots, &attachment);
    let resolv_conf = match lonely {
        true => naming::resolv_conf_of_host(wanted, ""),
        false => naming::resolv_conf(wanted, &host_file("/etc/resolv.conf")),
    };
    let netns = Some(sandbox::path(roots, &wanted.name));
    let addresses: Vec<IpAddr> =
        attachment.endpoints.values().flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
    let hosts = naming::hosts(wanted, &request.hostname, &addresses, gateway);
    Ok(Start { netns, hosts, resolv_conf, ..Start::default() })
}

/// The server of names takes as long to start as the links take to make: both at once.
fn connect_and_serve(roots: &Roots, connect: &Connect) -> Result<Attachment, Error> {
    let starting = if connect.joins.is_empty() { None } else { netd::begin_to_start(roots)? };
    let connected = network::connect(roots, connect);
    let started = starting.map_or(Ok(()), netd::Starting::finish);
    // Also where nothing was connected: what was started for it ends then.
    let settled = settle(roots);
    let attachment = connected?;
    started?;
    match settled {
        Err(Error::Network(network::Error::NotServed { failures })) => {
            let holder = network::taken_by_others(&attachment.ports);
            Err(holder.unwrap_or(network::Error::NotServed { failures }).into())
        }
        settled => settled.map(|()| attachment),
    }
}

/// A container that got another name keeps its place in networks, even where whoever renamed it was killed half way.
fn reclaim(roots: &Roots, config: &Config) -> Result<(), Error> {
    let held = network::attachments(roots)?.into_iter().find(|one| one.container == config.name);
    match held.filter(|held| !held.id.is_empty() && held.id != config.id).map(|held| container::get(roots, &held.id)) {
        None | Some(Err(container::Error::NotFound(_))) => Ok(()),
        Some(Ok(owner)) => Ok(network::rename(roots, &config.name, &owner.config.name)?),
        Some(Err(error)) => Err(error.into()),
    }
}

/// What the container has of the network under the name that it had before is its new name's from now on.
pub fn claim(roots: &Roots, config: &Config) -> Result<(), Error> {
    let own = |one: &Attachment| one.id == config.id && one.container != config.name;
    match network::attachments(roots)?.into_iter().find(own) {
        None => Ok(()),
        Some(held) => {
            network::rename(roots, &held.container, &config.name)?;
            settle(roots)
        }
    }
}

fn joins(wanted: &ContainerConfig) -> Vec<Join> {
    let NetworkMode::Networks(networks) = &wanted.network else { return Vec::new() };
    let join = |(name, endpoint): (&String, &resource::Endpoint)| {
        let mut names = vec![wanted.name.clone(), wanted.service.clone()];
        names.extend(endpoint.aliases.clone());
        names.extend(wanted.hostname.clone());
        names.sort_unstable();
        names.dedup();
        Join {
            network: name.clone(),
            names,
            addresses: addresses(endpoint.ipv4_address.iter().chain(&endpoint.ipv6_address)),
            link_local: addresses(&endpoint.link_local_ips),
            hardware_address: endpoint.mac_address.as_ref().and_then(|text| hardware_address(text)),
            interface: endpoint.interface_name.clone(),
            gateway_priority: endpoint.gw_priority,
        }
    };
    // Connected in this order: the first is eth0.
    let mut networks: Vec<_> = networks.iter().collect();
    networks.sort_by_key(|(name, endpoint)| (std::cmp::Reverse(endpoint.priority), *name));
    networks.into_iter().map(join).collect()
}

fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}

fn hardware_address(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split([':', '-']).map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

fn first_gateway(roots: &Roots, attachment: &Attachment) -> Option<IpAddr> {
    let found = attachment.endpoints.keys().find_map(|name| network::get(roots, name).ok());
    found.and_then(|network| network.ranges.first().map(|range| range.gateway))
}

/// A container in the host's network: with the host's names, and its own words on them.
pub fn of_host(wanted: &ContainerConfig) -> Start {
    let hosts = host_file("/etc/hosts") + &naming::extra_hosts(wanted, None);
    let resolv_conf = naming::resolv_conf_of_host(wanted, &host_file("/etc/resolv.conf"));
    Start { hosts, resolv_conf, ..Start::default() }
}

/// Empty where the host has none.
fn host_file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
