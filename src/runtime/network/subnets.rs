//! Which subnet a network gets: one that nobody on this host uses.
//!
//! Nothing of the host's says "this subnet is mine" but the address itself, and others choose at the same time: another
//! engine of this kind with its own roots, or one that knows nothing of us. So it is taken first, by giving it to the
//! bridge, and then looked whether somebody else has it too; whoever sees that lets go and chooses again. Both may, but
//! never neither.

use std::net::Ipv4Addr;

use super::netlink::Socket;
use super::records::{self, Network, Subnet};
use super::{Error, kernel, links, route_socket};
use crate::runtime::roots::Roots;

/// Where subnets come from when none is asked for: /24 networks of the first of these /16 that has one.
const POOLS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 210, 0, 0), Ipv4Addr::new(172, 29, 0, 0), Ipv4Addr::new(192, 168, 0, 0)];

/// A subnet that was free a moment ago, but for those that were `lost` to others. Two who lost one to each other look on
/// in different places.
pub(super) fn free(roots: &Roots, bridge: &str, lost: &[Subnet]) -> Result<Subnet, Error> {
    let ours = records::list(roots)?.into_iter().map(|network| network.subnet);
    let taken: Vec<Subnet> = ours.chain(of_others(&mut route_socket()?, None)?).chain(lost.iter().copied()).collect();
    choose(&taken, if lost.is_empty() { 0 } else { place(bridge) })
}

/// Who else has this subnet, or a part of it.
pub(super) fn other_user(subnet: Subnet, bridge: Option<i32>) -> Result<Option<Subnet>, Error> {
    let others = of_others(&mut route_socket()?, bridge)?;
    Ok(others.into_iter().find(|other| other.overlaps(subnet)))
}

/// Another network of this engine that has this subnet, or a part of it.
pub(super) fn own_user(networks: &[Network], subnet: Subnet) -> Option<Subnet> {
    networks.iter().map(|network| network.subnet).find(|other| other.overlaps(subnet))
}

/// The networks of this host but for those of this link.
fn of_others(socket: &mut Socket, bridge: Option<i32>) -> Result<Vec<Subnet>, Error> {
    let found = links::networks_in_use(socket, bridge).map_err(kernel("list the host's routes"))?;
    let found = found.into_iter().filter(|(_, prefix)| *prefix > 0);
    Ok(found.map(|(address, prefix)| Subnet::new(address, prefix)).collect())
}

fn place(name: &str) -> usize {
    name.bytes().fold(0, |sum: usize, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
}

/// The first subnet of the pools, from this place on, that overlaps none of these.
fn choose(taken: &[Subnet], place: usize) -> Result<Subnet, Error> {
    let number = |pool: Ipv4Addr, number: u32| Subnet::new(Ipv4Addr::from(u32::from(pool) + (number << 8)), 24);
    let mut candidates: Vec<Subnet> =
        POOLS.into_iter().flat_map(|pool| (0..=255).map(move |index| number(pool, index))).collect();
    let place = place % candidates.len();
    candidates.rotate_left(place);
    let free = |candidate: &Subnet| !taken.iter().any(|other| other.overlaps(*candidate));
    candidates.into_iter().find(free).ok_or(Error::NoSubnet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_is_avoided() {
        let taken: Vec<Subnet> =
            ["10.210.0.0/24", "10.210.1.0/25", "10.210.2.0/23"].map(|text| text.parse().unwrap()).into();
        let chosen = |taken: &[Subnet], place| choose(taken, place).map(String::from);
        assert_eq!(chosen(&taken, 0).unwrap(), "10.210.4.0/24");
        assert_eq!(chosen(&taken, 768 + 9).unwrap(), "10.210.9.0/24");
        assert_eq!(chosen(&["192.168.0.0/16".parse().unwrap()], 600).unwrap(), "10.210.0.0/24");
        assert_eq!(chosen(&["10.0.0.0/8".parse().unwrap()], 0).unwrap(), "172.29.0.0/24");
        assert!(matches!(choose(&["0.0.0.0/0".parse().unwrap()], 5), Err(Error::NoSubnet)));
        for text in ["10.0.0.0", "10.0.0.0/31", "x/24", "10.0.0.0/-1"] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }
}
