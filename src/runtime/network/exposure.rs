//! What of containers can be reached from where, and what the host's firewall does about it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::netlink::Socket;
use super::records::{Attachment, Network, Port, WayOut, attachments, list};
use super::verdict::{self, FORWARD, INPUT, Packet, Verdict};
use super::{Error, Family, kernel, links, place, route_socket, rules, sandbox, say};
use crate::runtime::roots::Roots;

/// One way to a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exposure {
    pub container: String,
    /// `80/tcp`; `all` where every port that it listens on is meant.
    pub port: String,
    /// Where it is reached: `0.0.0.0:8080`, or its own address.
    pub at: String,
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// Who reaches it there, as far as the firewall lets them.
    pub from: Vec<String>,
    /// The network whose containers reach it, or by which it is published.
    pub network: String,
    /// What becomes of who comes from elsewhere.
    pub firewall: Firewall,
}

/// What the host's firewall does with who comes from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Firewall {
    /// `obey`, `bypass`, or `none` where nobody comes from elsewhere.
    pub mode: &'static str,
    /// `let in`, `dropped` or `depends`.
    pub verdict: &'static str,
    /// The chain that drops, or on which it depends.
    pub by: Option<String>,
}

impl Firewall {
    fn new(mode: &'static str, verdict: Verdict) -> Self {
        let (verdict, by) = match verdict {
            Verdict::LetIn => ("let in", None),
            Verdict::Dropped(by) => ("dropped", Some(by)),
            Verdict::Depends(by) => ("depends", Some(by)),
        };
        Self { mode, verdict, by }
    }

    fn nobody() -> Self {
        Self { mode: "none", verdict: "nobody comes from elsewhere", by: None }
    }
}

/// Every way to every container that has a network now, by container: its published ports, then its own addresses.
///
/// # Errors
/// What the kernel says when asked, or records that can't be read.
pub fn exposures(roots: &Roots) -> Result<Vec<Exposure>, Error> {
    place::there(roots, || there(roots))
}

fn there(roots: &Roots) -> Result<Vec<Exposure>, Error> {
    let (networks, attachments) = (list(roots)?, attachments(roots)?);
    let mut found = Vec::new();
    for attachment in attachments.iter().filter(|one| !one.vacant && sandbox::exists(roots, &one.container)) {
        for port in &attachment.ports {
            for family in Family::ALL {
                let Some(way) = attachment.way_out(&networks, family) else { continue };
                if port.host_ip.is_none_or(|address| Family::of(address) == family) {
                    found.push(published(&networks, attachment, port, way)?);
                }
            }
        }
        let places =
            networks.iter().filter_map(|network| Some((network, attachment.endpoints.get(&network.config.name)?)));
        let places = places.flat_map(|(network, place)| place.addresses.iter().map(move |address| (network, *address)));
        found.extend(places.map(|(network, address)| in_network(attachment, network, address)));
    }
    Ok(found)
}

fn word(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

fn in_network(attachment: &Attachment, network: &Network, address: IpAddr) -> Exposure {
    Exposure {
        container: attachment.container.clone(),
        port: "all".to_owned(),
        at: address.to_string(),
        family: word(address),
        from: vec!["this host".to_owned(), format!("containers of {}", network.config.name)],
        network: network.config.name.clone(),
        firewall: Firewall::nobody(),
    }
}

fn published(
    networks: &[Network],
    attachment: &Attachment,
    port: &Port,
    way: WayOut<'_, '_>,
) -> Result<Exposure, Error> {
    let host = port.host_ip.unwrap_or_else(|| Family::of(way.address).unspecified());
    let from_elsewhere = !host.is_loopback();
    let mut from = vec!["this host".to_owned()];
    if from_elsewhere {
        from.push("all containers".to_owned());
        from.extend(addresses(networks, host)?.into_iter().map(|address| format!("whoever reaches {address}")));
    }
    let firewall = if from_elsewhere { asked(way, port, host)? } else { Firewall::nobody() };
    Ok(Exposure {
        container: attachment.container.clone(),
        port: format!("{}/{}", port.container_port, port.protocol),
        at: SocketAddr::new(host, port.host_port).to_string(),
        family: word(host),
        from,
        network: way.network.config.name.clone(),
        firewall,
    })
}

/// This host's addresses by which somebody else may reach the port: neither the loopback's nor those of our bridges.
fn addresses(networks: &[Network], host: IpAddr) -> Result<Vec<IpAddr>, Error> {
    if !host.is_unspecified() {
        return Ok(vec![host]);
    }
    let all = links::addresses(&mut route_socket()?).map_err(kernel("list the host's addresses"))?;
    let all = all.into_iter().map(|(_, address)| address);
    let own = |address: &IpAddr| networks.iter().flat_map(|network| &network.ranges).any(|it| it.gateway == *address);
    let link_local = |address: &IpAddr| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    Ok(all
        .filter(|address| address.is_ipv4() == host.is_ipv4() && !address.is_loopback())
        .filter(|address| !own(address) && !link_local(address))
        .collect())
}

/// First as one that is for the host itself, where that counts, then as one that is passed on.
fn asked(way: WayOut<'_, '_>, port: &Port, host: IpAddr) -> Result<Firewall, Error> {
    let failed = || kernel("ask the host's firewall");
    let mode = if port.bypass { "bypass" } else { "obey" };
    let protocol = rules::protocol_number(&port.protocol);
    let incoming = Packet {
        protocol,
        destination: (!host.is_unspecified()).then_some(host),
        is_ipv6: host.is_ipv6(),
        port: port.host_port,
        to: None,
    };
    let mut socket = Socket::netfilter().map_err(failed())?;
    let mut verdict = Verdict::LetIn;
    if !port.bypass {
        verdict = judged(&mut socket, &incoming).map_err(failed())?;
    }
    if rules::is_led(port) && !matches!(verdict, Verdict::Dropped(_)) {
        let passed = Packet {
            destination: Some(way.address),
            port: port.container_port,
            to: Some(way.network.bridge.clone()),
            ..incoming
        };
        match verdict::ask(&mut socket, FORWARD, &passed).map_err(failed())? {
            Verdict::LetIn => {}
            other => verdict = other,
        }
    }
    Ok(Firewall::new(mode, verdict))
}

fn judged(socket: &mut Socket, packet: &Packet) -> io::Result<Verdict> {
    let verdict = verdict::ask(socket, INPUT, packet)?;
    if verdict == Verdict::LetIn && say::has_old_table() {
        return Ok(Verdict::Depends("rules of the old iptables, which can't be read".to_owned()));
    }
    Ok(verdict)
}
