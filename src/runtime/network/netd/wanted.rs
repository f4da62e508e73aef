//! What `netd` is to serve, decided from the records of networks and containers. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::zone::{Client, Zone};
use crate::runtime::network::Family;
use crate::runtime::network::options::Mode;
use crate::runtime::network::records::{Attachment, Endpoint, Network, Port, WayOut};

/// How what is published is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Tcp { "tcp" } else { "udp" })
    }
}

/// An address of the host to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listener {
    pub protocol: Protocol,
    pub address: SocketAddr,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.protocol)
    }
}

/// Where what arrives at a [`Listener`] goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub container: String,
    pub address: SocketAddr,
    /// Nobody asked for it by itself: it may fail, as IPv6 does on a host that has none.
    pub optional: bool,
}

/// All that is to be served.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    pub zone: Zone,
    /// Containers in whose namespaces names are answered.
    pub resolvers: BTreeSet<String>,
    pub ports: BTreeMap<Listener, Target>,
}

impl Wanted {
    /// Nothing to do, so no reason to run.
    pub fn is_empty(&self) -> bool {
        self.resolvers.is_empty() && self.ports.is_empty()
    }
}

/// Decides what to serve. `present` are the containers that have a network namespace now: only these are reached.
pub fn wanted(all: &[Network], attachments: &[Attachment], present: &BTreeSet<String>) -> Wanted {
    let networks: BTreeMap<&str, &Network> =
        all.iter().map(|network| (network.config.name.as_str(), network)).collect();
    let mut wanted = Wanted::default();
    for network in networks.values() {
        let subnets = network.ranges.iter().map(|range| range.subnet).collect();
        wanted.zone.add_network(&network.config.name, subnets);
    }
    for attachment in attachments.iter().filter(|attachment| present.contains(&attachment.container)) {
        let known: Vec<(&String, &Endpoint)> =
            attachment.endpoints.iter().filter(|(name, _)| networks.contains_key(name.as_str())).collect();
        if known.is_empty() {
            continue;
        }
        for (network, endpoint) in &known {
            for address in &endpoint.addresses {
                wanted.zone.add_endpoint(network, &attachment.container, &endpoint.names, *address);
            }
        }
        let open = |name: &str| networks.get(name).is_some_and(|network| !network.config.internal);
        let client = Client {
            networks: known.iter().map(|(name, _)| (*name).clone()).collect(),
            outside: known.iter().any(|(name, _)| open(name)),
            servers: attachment.dns.clone(),
        };
        wanted.zone.add_client(&attachment.container, client);
        wanted.resolvers.insert(attachment.container.clone());
        // The same choice as the firewall's, so that both ways in lead to the same address.
        let ways = Family::ALL.map(|family| Some((family, attachment.way_out(all, family)?)));
        // Where packets are routed to the container itself, no port of this host leads there.
        let address = |(family, way): (Family, WayOut<'_, '_>)| {
            let leads = way.network.is_bridge() && way.network.config.options.mode(family) != Mode::Routed;
            (family, Some(way.address).filter(|_| leads))
        };
        let ways = ways.into_iter().flatten().map(address).collect();
        for port in &attachment.ports {
            publish(&mut wanted.ports, &attachment.container, &ways, port);
        }
    }
    wanted
}

/// Who comes by one family reaches the container by the same, or by the one that it has.
fn publish(
    ports: &mut BTreeMap<Listener, Target>,
    container: &str,
    ways: &BTreeMap<Family, Option<IpAddr>>,
    port: &Port,
) {
    let protocol = match port.protocol.as_str() {
        "udp" => Protocol::Udp,
        "tcp" => Protocol::Tcp,
        // Others are led by rules alone.
        _ => return,
    };
    let mut add = |host: IpAddr, optional: bool| {
        let Some(Some(address)) = ways.get(&Family::of(host)).or_else(|| ways.values().next()) else { return };
        let target = SocketAddr::new(*address, port.container_port);
        let listener = Listener { protocol, address: SocketAddr::from((host, port.host_port)) };
        let target = Target { container: container.to_owned(), address: target, optional };
        ports.entry(listener).or_insert(target);
    };
    match port.host_ip {
        Some(address) => add(address, false),
        None => {
            add(Family::V4.unspecified(), false);
            add(Family::V6.unspecified(), true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::network::records::NetworkConfig;
    use crate::runtime::network::{Range, Subnet};

    fn network(name: &str, subnet: &str, internal: bool) -> Network {
        let subnet: Subnet = subnet.parse().unwrap();
        let config = NetworkConfig { name: name.into(), internal, ..NetworkConfig::default() };
        Network { version: 2, config, bridge: String::new(), makes_link: false, ranges: vec![Range::new(subnet)] }
    }

    fn attachment(container: &str, places: &[(&str, &str, i64)], ports: &[Port]) -> Attachment {
        let endpoint = |address: &str, gateway_priority| Endpoint {
            addresses: address.split(' ').map(|text| text.parse().unwrap()).collect(),
            link_local: vec![],
            hardware_address: [0; 6],
            interface: "eth0".into(),
            names: vec![container.to_owned()],
            gateway_priority,
        };
        let endpoints = places.iter().map(|(name, address, priority)| ((*name).into(), endpoint(address, *priority)));
        Attachment {
            version: 1,
            container: container.into(),
            id: String::new(),
            line: String::new(),
            vacant: false,
            self_governed: false,
            endpoints: endpoints.collect(),
            ports: ports.to_vec(),
            dns: vec![],
        }
    }

    fn port(host_ip: Option<&str>, host_port: u16, protocol: &str) -> Port {
        let host_ip = host_ip.map(|text| text.parse().unwrap());
        Port { host_ip, host_port, container_port: 80, protocol: protocol.into(), bypass: false }
    }

    #[test]
    fn published_ports_lead_to_the_network_that_leads_out() {
        let networks = [network("back", "10.1.0.0/24", true), network("front", "10.2.0.0/24", false)];
        let ports = [port(None, 8080, "tcp"), port(Some("127.0.0.1"), 53, "udp"), port(Some("::1"), 9, "tcp")];
        let web = attachment("web", &[("back", "10.1.0.2", 9), ("front", "10.2.0.2", 0)], &ports);
        let database = attachment("db", &[("back", "10.1.0.3", 0), ("gone", "10.9.0.1", 0)], &ports);
        let stopped = attachment("old", &[("front", "10.2.0.9", 0)], &[port(None, 1, "tcp")]);
        let alone = attachment("alone", &[], &[]);
        let present = ["web", "db", "alone"].map(str::to_owned).into();
        let found = wanted(&networks, &[web, database, stopped, alone], &present);

        let lines: Vec<String> =
            found.ports.iter().map(|(from, to)| format!("{from} {} {}", to.address, to.optional)).collect();
        let expected = [
            "0.0.0.0:8080/tcp 10.2.0.2:80 false",
            "[::]:8080/tcp 10.2.0.2:80 true",
            "[::1]:9/tcp 10.2.0.2:80 false",
            "127.0.0.1:53/udp 10.2.0.2:80 false",
        ];
        assert_eq!(lines, expected);
        assert_eq!(found.resolvers, ["db", "web"].map(str::to_owned).into());
        assert!(wanted(&networks, &[], &present).is_empty());
    }

    #[test]
    fn a_client_comes_by_its_own_family_where_the_container_has_it() {
        let mut both = network("both", "10.1.0.0/24", false);
        both.ranges.push(Range::new("fd00:1::/64".parse().unwrap()));
        let six = network("six", "fd00:2::/64", false);
        let ports = |port| [self::port(None, port, "tcp")];
        let web = attachment("web", &[("both", "10.1.0.2 fd00:1::2", 0)], &ports(80));
        let new = attachment("new", &[("six", "fd00:2::2", 0)], &ports(81));
        let found = wanted(&[both, six], &[web, new], &["web", "new"].map(str::to_owned).into());
        let lines: Vec<String> = found.ports.iter().map(|(from, to)| format!("{from} {}", to.address)).collect();
        let expected = [
            "0.0.0.0:80/tcp 10.1.0.2:80",
            "0.0.0.0:81/tcp [fd00:2::2]:80",
            "[::]:80/tcp [fd00:1::2]:80",
            "[::]:81/tcp [fd00:2::2]:80",
        ];
        assert_eq!(lines, expected);
    }
}
