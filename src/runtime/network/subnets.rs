//! Which subnet a network gets: one that nobody on this host uses.
//!
//! Nothing of the host's says "this subnet is mine" but the address itself, and others choose at the same time: another
//! engine of this kind with its own roots, or one that knows nothing of us. So it is taken first, by giving it to the
//! bridge, and then looked whether somebody else has it too; whoever sees that lets go and chooses again. Both may, but
//! never neither.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::address::{Family, Subnet};
use super::netlink::Socket;
use super::records::{self, Network};
use super::{Error, kernel, links, route_socket, settings};
use crate::runtime::roots::Roots;
use crate::runtime::state;

/// Where subnets of IPv4 come from when none is asked for: /24 networks of the first of these /16 that has one.
const POOLS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 210, 0, 0), Ipv4Addr::new(172, 29, 0, 0), Ipv4Addr::new(192, 168, 0, 0)];
/// How many networks of one pool are looked at, as bits of their number.
const MOST_BITS: u8 = 16;

/// Pools, each with the length of the prefix of the networks that are made of it: those that the host names, or ours.
fn pools(roots: &Roots, family: Family) -> Result<Vec<(Subnet, u8)>, Error> {
    if let Some(named) = settings::pools(roots, family)? {
        return Ok(named.into_iter().map(|pool| (pool.base, pool.size)).collect());
    }
    match family {
        Family::V4 => Ok(POOLS.into_iter().map(|pool| (Subnet::new(pool.into(), 16), 24)).collect()),
        Family::V6 => Ok(vec![(own_prefix(roots)?, 64)]),
    }
}

/// `ROOT/networks/prefix`: the engine's own part of the addresses that anybody may use and nobody routes (RFC 4193).
#[derive(Serialize, Deserialize)]
struct Prefix {
    version: u32,
    prefix: Subnet,
}

/// Made at random when it is first needed, so that networks of two engines that are joined some day do not collide.
fn own_prefix(roots: &Roots) -> Result<Subnet, Error> {
    let directory = roots.durable("networks");
    let file = directory.join("prefix");
    if let Some(stored) = state::read_json::<Prefix>(&file)? {
        return Ok(stored.prefix);
    }
    let mut bytes = [0; 16];
    let random = super::io_at("/dev/urandom");
    File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes[1..6])).map_err(random)?;
    bytes[0] = 0xfd;
    let prefix = Subnet::new(IpAddr::from(bytes), 48);
    state::make_directory(&directory)?;
    state::write_json(&file, &Prefix { version: 1, prefix })?;
    Ok(prefix)
}

/// A subnet that was free a moment ago, but for those that were `lost` to others. Two who lost one to each other look on
/// in different places.
pub(super) fn free(roots: &Roots, family: Family, bridge: &str, lost: &[Subnet]) -> Result<Subnet, Error> {
    let ours = records::list(roots)?.into_iter().flat_map(|network| network.ranges).map(|range| range.subnet);
    let others = of_others(&mut route_socket()?, None)?.into_iter().map(|(subnet, _)| subnet);
    let taken: Vec<Subnet> = ours.chain(others).chain(lost.iter().copied()).collect();
    let place = if lost.is_empty() { 0 } else { place(bridge) };
    let pools = pools(roots, family)?;
    let text = || pools.iter().map(|(pool, _)| pool.to_string()).collect::<Vec<_>>().join(", ");
    choose(&pools, &taken, place).ok_or_else(|| Error::NoSubnet(family, text()))
}

/// What else of this host has this subnet, or a part of it, but for this link: in words.
pub(super) fn other_user(subnet: Subnet, bridge: Option<i32>) -> Result<Option<String>, Error> {
    let mut socket = route_socket()?;
    let others = of_others(&mut socket, bridge)?;
    // The whole of a network tells more than one address in it.
    let overlapping = others.into_iter().filter(|(other, _)| other.overlaps(subnet));
    let Some((other, link)) = overlapping.min_by_key(|(other, _)| other.prefix()) else { return Ok(None) };
    let links = links::list(&mut socket).map_err(kernel("list the host's links"))?;
    let name = links.into_iter().find(|one| Some(one.index) == link).map(|link| link.name);
    Ok(Some(name.map_or_else(|| format!("{other}, a route"), |name| format!("{other} of link {name}"))))
}

/// Another network of this engine that has this subnet, or a part of it: in words.
pub(super) fn own_user(networks: &[Network], subnet: Subnet) -> Option<String> {
    let mut ranges =
        networks.iter().flat_map(|network| network.ranges.iter().map(move |range| (network, range.subnet)));
    let (network, other) = ranges.find(|(_, other)| other.overlaps(subnet))?;
    Some(format!("{other} of network {:?}", network.config.name))
}

/// The networks of this host but for those of this link, each with its link.
fn of_others(socket: &mut Socket, bridge: Option<i32>) -> Result<Vec<(Subnet, Option<i32>)>, Error> {
    let found = links::networks_in_use(socket, bridge).map_err(kernel("list the host's routes"))?;
    Ok(found.into_iter().filter(|(subnet, _)| subnet.prefix() > 0).collect())
}

fn place(name: &str) -> usize {
    name.bytes().fold(0, |sum: usize, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
}

/// The first subnet of this size of the pools, from this place on, that overlaps none of these.
fn choose(pools: &[(Subnet, u8)], taken: &[Subnet], place: usize) -> Option<Subnet> {
    let count = |pool: &(Subnet, u8)| 1_usize << pool.1.saturating_sub(pool.0.prefix()).min(MOST_BITS);
    let number = |pool: &(Subnet, u8), number: usize| {
        let size = u32::from(pool.0.family().bits() - pool.1);
        Subnet::new(pool.0.address((number as u128) << size), pool.1)
    };
    let all: usize = pools.iter().map(count).sum();
    let candidates = pools.iter().flat_map(|pool| (0..count(pool)).map(move |index| number(pool, index)));
    let place = place % all.max(1);
    let in_order = candidates.clone().skip(place).chain(candidates.take(place));
    let is_free = |candidate: &Subnet| !taken.iter().any(|other| other.overlaps(*candidate));
    in_order.take(all).find(is_free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_is_avoided() {
        let taken: Vec<Subnet> =
            ["10.210.0.0/24", "10.210.1.0/25", "10.210.2.0/23"].map(|text| text.parse().unwrap()).into();
        let pools: Vec<(Subnet, u8)> = POOLS.into_iter().map(|pool| (Subnet::new(pool.into(), 16), 24)).collect();
        let chosen = |taken: &[Subnet], place| choose(&pools, taken, place).map(String::from);
        assert_eq!(chosen(&taken, 0).unwrap(), "10.210.4.0/24");
        assert_eq!(chosen(&taken, 768 + 9).unwrap(), "10.210.9.0/24");
        assert_eq!(chosen(&["192.168.0.0/16".parse().unwrap()], 600).unwrap(), "10.210.0.0/24");
        assert_eq!(chosen(&["10.0.0.0/8".parse().unwrap()], 0).unwrap(), "172.29.0.0/24");
        assert_eq!(chosen(&["0.0.0.0/0".parse().unwrap()], 5), None);
        let six = [("fd12:3456:789a::/48".parse().unwrap(), 64)];
        let chosen = |taken: &str| choose(&six, &[taken.parse().unwrap()], 0).unwrap().to_string();
        assert_eq!(chosen("fd12:3456:789b::/48"), "fd12:3456:789a::/64");
        assert_eq!(chosen("fd12:3456:789a::/63"), "fd12:3456:789a:2::/64");
    }
}
