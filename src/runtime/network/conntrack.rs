//! The kernel's memory of connections (linux/netfilter/nfnetlink_conntrack.h), where it leads to a container that is not
//! there any more. A client that goes on sending datagrams from one socket keeps its entry alive: without this it would
//! never reach the container's successor, and could come to reach another one that was given the address.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use super::address::Family;
use super::netlink::{DUMP, Message, Socket, attributes};
use super::records::{Attachment, Port};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ZONE: u16 = 18;
const UDP: u8 = 17;

/// Where packets of a connection come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    destination_port: u16,
}

/// One connection, with what the kernel knows it by.
struct Entry {
    family: Family,
    original: Way,
    reply: Way,
    known_by: Vec<(u16, Vec<u8>)>,
}

/// Forgets datagrams to the published ports of a container that lead elsewhere than to where it is now.
pub fn forget_misled(now: &Attachment) -> io::Result<()> {
    let published: Vec<&Port> = now.ports.iter().filter(|port| port.protocol == "udp").collect();
    if published.is_empty() {
        return Ok(());
    }
    let own = addresses(now);
    forget(|entry| is_misled(&published, &own, &entry.original, &entry.reply))
}

/// Forgets what leads from published ports to a container that goes.
pub fn forget_all(gone: &Attachment) -> io::Result<()> {
    if gone.ports.is_empty() {
        return Ok(());
    }
    let own = addresses(gone);
    forget(|entry| own.contains(&entry.reply.source) && entry.original.destination != entry.reply.source)
}

fn addresses(of: &Attachment) -> BTreeSet<IpAddr> {
    of.endpoints.values().flat_map(|endpoint| endpoint.addresses.iter().copied()).collect()
}

fn is_misled(published: &[&Port], own: &BTreeSet<IpAddr>, original: &Way, reply: &Way) -> bool {
    let is_of = |port: &&Port| {
        port.host_port == original.destination_port
            && port.host_ip.is_none_or(|ip| is_all(ip, original) || ip == original.destination)
    };
    original.protocol == UDP && published.iter().any(is_of) && !own.contains(&reply.source)
}

/// Whether this stands for all addresses of the family that the packet is of.
fn is_all(ip: IpAddr, original: &Way) -> bool {
    ip.is_unspecified() && Family::of(ip) == Family::of(original.destination)
}

fn forget(is: impl Fn(&Entry) -> bool) -> io::Result<()> {
    let mut socket = Socket::netfilter()?;
    let mut found = Vec::new();
    socket.dump(&Message::new(GET, DUMP, &[0; 4]), &mut |body| {
        found.extend(entry(body).filter(&is));
    })?;
    for entry in found {
        let mut message = Message::new(DELETE, 0, &[entry.family.number(), 0, 0, 0]);
        for (kind, value) in &entry.known_by {
            message.attribute(*kind, value);
        }
        match socket.ask(&message) {
            // It has ended by itself.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

fn entry(body: &[u8]) -> Option<Entry> {
    let family = Family::ALL.into_iter().find(|family| body.first() == Some(&family.number()))?;
    let all: BTreeMap<u16, &[u8]> = attributes(body.get(4..)?).into_iter().collect();
    let known_by = [(ORIGINAL, NESTED), (ZONE, 0)].into_iter();
    let known_by = known_by.filter_map(|(kind, flag)| Some((kind | flag, all.get(&kind)?.to_vec())));
    let way = |kind: u16| way(all.get(&kind)?, family);
    Some(Entry { family, original: way(ORIGINAL)?, reply: way(REPLY)?, known_by: known_by.collect() })
}

const NESTED: u16 = 0x8000;

fn way(bytes: &[u8], family: Family) -> Option<Way> {
    let parts: BTreeMap<u16, &[u8]> = attributes(bytes).into_iter().collect();
    let addresses: BTreeMap<u16, &[u8]> = attributes(parts.get(&1)?).into_iter().collect();
    let protocol: BTreeMap<u16, &[u8]> = attributes(parts.get(&2)?).into_iter().collect();
    let address = |kind: u16| family.address(addresses.get(&kind)?);
    let (source, destination) = if family == Family::V4 { (1, 2) } else { (3, 4) };
    // Not all protocols have ports.
    let port = protocol.get(&3).and_then(|bytes| <[u8; 2]>::try_from(*bytes).ok()).map_or(0, u16::from_be_bytes);
    let number = *protocol.get(&1)?.first()?;
    let (source, destination) = (address(source)?, address(destination)?);
    Some(Way { source, destination, protocol: number, destination_port: port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_datagrams_to_a_published_port_that_lead_elsewhere_are_misled() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let port = Port {
            host_ip: Some(ip("192.0.2.1")),
            host_port: 53,
            container_port: 5353,
            protocol: "udp".into(),
            bypass: false,
        };
        let (host, client) = (ip("192.0.2.1"), ip("192.0.2.9"));
        let (own, other) = (ip("10.210.0.2"), ip("10.210.0.3"));
        let misled = |protocol, destination, destination_port, answers| {
            let original = Way { source: client, destination, protocol, destination_port };
            let reply = Way { source: answers, destination: client, protocol, destination_port: 4000 };
            is_misled(&[&port], &BTreeSet::from([own]), &original, &reply)
        };
        assert!(misled(UDP, host, 53, other) && misled(UDP, host, 53, host));
        assert!(!misled(UDP, host, 53, own));
        assert!(!misled(6, host, 53, other) && !misled(UDP, host, 54, other) && !misled(UDP, other, 53, other));
    }
}
