//! Networks that are bridges of this engine: each container has a virtual cable, plugged into its network's bridge.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::address::{Family, Subnet, hardware_address};
use super::netlink::Socket;
use super::records::{Attachment, Endpoint, Network, NetworkConfig};
use super::{Error, kernel, link_name, links, route_socket, sandbox, set_if_there, subnets};
use crate::runtime::roots::Roots;

/// Makes the bridge. Where there was none, a subnet may have gone to somebody else: it is returned, and theirs.
pub(super) fn claim(network: &Network) -> Result<Option<(Subnet, String)>, Error> {
    let failed = kernel(format!("network {}: find the bridge", network.config.name));
    let there = links::index(&network.bridge).map_err(failed)?.is_some();
    let bridge = make(network)?;
    if there {
        return Ok(None);
    }
    for range in &network.ranges {
        if let Some(other) = subnets::other_user(range.subnet, Some(bridge))? {
            return Ok(Some((range.subnet, other)));
        }
    }
    Ok(None)
}

/// A link's name that was asked for, unless somebody else's has it.
pub(super) fn free_name(config: &NetworkConfig, name: &str) -> Result<String, Error> {
    match links::index(name).map_err(kernel(format!("network {}: find the bridge", config.name)))? {
        Some(_) => Err(Error::LinkTaken { network: config.name.clone(), link: name.to_owned() }),
        None => Ok(name.to_owned()),
    }
}

/// What was asked for, or else the largest packet that the host's way out takes, at most Ethernet's.
fn mtu(socket: &mut Socket, network: &Network) -> io::Result<u32> {
    if let Some(mtu) = network.config.mtu {
        return Ok(mtu);
    }
    let ways = links::default_route_links(socket)?;
    let links = links::list(socket)?.into_iter().filter(|link| ways.contains(&link.index));
    Ok(links.map(|link| link.mtu).min().map_or(1500, |mtu| mtu.clamp(576, 1500)))
}

/// The bridge and its addresses, and the bridge's index. It takes no advice on routes, and has IPv6 only where the
/// network does.
fn make(network: &Network) -> Result<i32, Error> {
    let failed = |what: &str| kernel(format!("network {}: {what}", network.config.name));
    let mut socket = route_socket()?;
    let address = network.ranges.first().map_or([0x02, 0x42, 0, 0, 0, 1], |range| hardware_address(range.gateway));
    let mtu = mtu(&mut socket, network).map_err(failed("list the host's links"))?;
    links::make_bridge(&mut socket, &network.bridge, address, mtu).map_err(failed("make the bridge"))?;
    let index = links::existing(&network.bridge).map_err(failed("find the bridge"))?;
    let has_ipv6 = network.own_ranges().any(|range| range.family() == Family::V6);
    let off = if has_ipv6 { "0" } else { "1" };
    for (setting, value) in [("accept_ra", "0"), ("accept_dad", "0"), ("disable_ipv6", off)] {
        set_if_there(&format!("/proc/sys/net/ipv6/conf/{}/{setting}", network.bridge), value)?;
    }
    links::set_up(&mut socket, index).map_err(failed("set the bridge up"))?;
    for range in network.own_ranges() {
        let added = links::add_address(&mut socket, index, range.gateway, range.subnet.prefix());
        added.map_err(failed("give the bridge its address"))?;
    }
    Ok(index)
}

/// Named after the attachment's owner.
pub(super) fn cable(roots: &Roots, owner: &str, network: &str) -> String {
    link_name(roots, &["cable", owner, network])
}

/// Plugs the container into the network; its cable is made anew if either end is missing, which it says.
pub(super) fn plug(
    roots: &Roots,
    attachment: &Attachment,
    network: &Network,
    endpoint: &Endpoint,
    namespace: &Path,
) -> io::Result<bool> {
    let name = cable(roots, attachment.line(), &network.config.name);
    let bridge = links::existing(&network.bridge)?;
    let mut socket = Socket::route()?;
    let wanted = endpoint.interface.clone();
    let lacks = links::index(&name)?.is_none() || sandbox::inside(namespace, move || links::index(&wanted))?.is_none();
    if lacks {
        links::remove(&mut socket, &name)?;
        let file = fs::File::open(namespace)?;
        let address = endpoint.hardware_address;
        let peer = links::Peer { namespace: file.as_fd(), name: &endpoint.interface, address };
        let mtu = mtu(&mut socket, network)?;
        links::make_cable(&mut socket, &name, bridge, &peer, mtu)?;
    }
    // The host has nothing to say on the cable itself.
    let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    if Path::new(&path).exists() {
        fs::write(path, "1")?;
    }
    let index = links::existing(&name)?;
    links::set_bridge(&mut socket, index, bridge)?;
    links::set_port(&mut socket, index, !attachment.ports.is_empty(), !network.config.options.talk)?;
    Ok(lacks)
}
