//! Links, addresses and routes (rtnetlink(7)), one function a thing. All act in the network namespace of the thread.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::netlink::{ACK, CREATE, DUMP, EXCLUSIVE, Message, Socket, attributes};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const UP: u32 = 1;

fn link_header(index: i32, flags: u32, change: u32) -> Vec<u8> {
    [&[0; 4][..], &index.to_ne_bytes(), &flags.to_ne_bytes(), &change.to_ne_bytes()].concat()
}

/// The links of this namespace: index and name.
pub fn list(socket: &mut Socket) -> io::Result<Vec<(i32, String)>> {
    let mut found = Vec::new();
    socket.dump(&Message::new(GET_LINK, DUMP, &link_header(0, 0, 0)), &mut |body| {
        let index = body.get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
        let name = attributes(body.get(16..).unwrap_or_default()).into_iter().find(|(kind, _)| *kind == 3);
        if let Some((_, name)) = name {
            found.push((index, String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()));
        }
    })?;
    Ok(found)
}

/// The link's index, if there is one of this name.
pub fn index(socket: &mut Socket, name: &str) -> io::Result<Option<i32>> {
    Ok(list(socket)?.into_iter().find(|(_, found)| found == name).map(|(index, _)| index))
}

/// Makes a bridge, if there is none of this name. `address` keeps its hardware address from changing with its members.
pub fn make_bridge(socket: &mut Socket, name: &str, address: [u8; 6], mtu: Option<u32>) -> io::Result<()> {
    let mut message = Message::new(NEW_LINK, ACK | CREATE | EXCLUSIVE, &link_header(0, UP, UP));
    message.text(3, name).attribute(1, &address);
    if let Some(mtu) = mtu {
        message.number(4, mtu);
    }
    message.nested(18, |info| {
        info.text(1, "bridge");
    });
    exists_is_fine(socket.ask(&message))
}

fn exists_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// One end of a virtual cable in another namespace.
pub struct Peer<'a> {
    pub namespace: BorrowedFd<'a>,
    pub name: &'a str,
    pub address: [u8; 6],
}

/// Makes a cable from `name` here, plugged into `bridge`, to the peer's namespace.
pub fn make_cable(socket: &mut Socket, name: &str, bridge: i32, peer: &Peer<'_>, mtu: Option<u32>) -> io::Result<()> {
    let mut message = Message::new(NEW_LINK, ACK | CREATE | EXCLUSIVE, &link_header(0, UP, UP));
    message.text(3, name).number(10, bridge as u32);
    if let Some(mtu) = mtu {
        message.number(4, mtu);
    }
    message.nested(18, |info| {
        info.text(1, "veth").nested(2, |data| {
            data.nested(1, |other| {
                other.raw(&link_header(0, 0, 0));
                other.text(3, peer.name).attribute(1, &peer.address);
                other.number(28, peer.namespace.as_raw_fd() as u32);
                if let Some(mtu) = mtu {
                    other.number(4, mtu);
                }
            });
        });
    });
    socket.ask(&message)
}

pub fn set_up(socket: &mut Socket, index: i32) -> io::Result<()> {
    socket.ask(&Message::new(NEW_LINK, ACK, &link_header(index, UP, UP)))
}

/// Removes the link of this name; one that is not there is fine.
pub fn remove(socket: &mut Socket, name: &str) -> io::Result<()> {
    let mut message = Message::new(DELETE_LINK, ACK, &link_header(0, 0, 0));
    message.text(3, name);
    match socket.ask(&message) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// Gives the link an address.
pub fn add_address(socket: &mut Socket, index: i32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let header = [&[libc::AF_INET as u8, prefix, 0, 0][..], &index.to_ne_bytes()].concat();
    let mut message = Message::new(NEW_ADDRESS, ACK | CREATE | EXCLUSIVE, &header);
    let broadcast = u32::from(address) | u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    message.attribute(2, &address.octets()).attribute(1, &address.octets()).attribute(4, &broadcast.to_be_bytes());
    exists_is_fine(socket.ask(&message))
}

/// Everything that no other route is for goes to `gateway`.
pub fn add_default_route(socket: &mut Socket, gateway: Ipv4Addr, index: i32) -> io::Result<()> {
    // Main table, static, global scope, unicast.
    let header = [libc::AF_INET as u8, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];
    let mut message = Message::new(NEW_ROUTE, ACK | CREATE | EXCLUSIVE, &header);
    message.attribute(5, &gateway.octets()).number(4, index as u32);
    exists_is_fine(socket.ask(&message))
}

/// Networks that are in use in this namespace: those of routes and addresses, with their prefix lengths.
pub fn networks_in_use(socket: &mut Socket) -> io::Result<Vec<(Ipv4Addr, u8)>> {
    let mut found = Vec::new();
    let four = |bytes: &[u8]| bytes.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets));
    let mut header = [0_u8; 12];
    header[0] = libc::AF_INET as u8;
    socket.dump(&Message::new(GET_ROUTE, DUMP, &header), &mut |body| {
        let destination = attributes(body.get(12..).unwrap_or_default()).into_iter().find(|(kind, _)| *kind == 1);
        if let (Some(prefix), Some(address)) = (body.get(1), destination.and_then(|(_, value)| four(value))) {
            found.push((address, *prefix));
        }
    })?;
    let mut header = [0_u8; 8];
    header[0] = libc::AF_INET as u8;
    socket.dump(&Message::new(GET_ADDRESS, DUMP, &header), &mut |body| {
        let address = attributes(body.get(8..).unwrap_or_default()).into_iter().find(|(kind, _)| *kind == 1);
        if let (Some(prefix), Some(address)) = (body.get(1), address.and_then(|(_, value)| four(value))) {
            found.push((address, *prefix));
        }
    })?;
    Ok(found)
}
