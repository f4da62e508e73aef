//! Links, addresses and routes (rtnetlink(7)), one function a thing. All act in the network namespace of the thread.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread;

use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::address::{Family, Subnet, octets};
use super::netlink::{self, ACK, CREATE, DUMP, EXCLUSIVE, Message, REPLACE, Socket, attributes};

pub(super) const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
pub(super) const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const UP: u32 = 1;

pub(super) fn link_header(index: i32, flags: u32, change: u32) -> Vec<u8> {
    [&[0; 4][..], &index.to_ne_bytes(), &flags.to_ne_bytes(), &change.to_ne_bytes()].concat()
}

/// A link of this namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: i32,
    pub name: String,
    pub mtu: u32,
    pub up: bool,
    /// The index of the bridge that it is plugged into.
    pub bridge: Option<i32>,
    /// Where it has one of Ethernet's.
    pub hardware_address: Option<[u8; 6]>,
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// The links of this namespace. Their counters are left out (`RTEXT_FILTER_SKIP_STATS`): they are most of the work.
pub fn list(socket: &mut Socket) -> io::Result<Vec<Link>> {
    let mut found = Vec::new();
    let mut message = Message::new(GET_LINK, DUMP, &link_header(0, 0, 0));
    message.number(29, 1 << 3);
    socket.dump(&message, &mut |body| found.push(link(body)))?;
    Ok(found)
}

fn link(body: &[u8]) -> Link {
    let index = body.get(4..).and_then(number).unwrap_or(0) as i32;
    let up = body.get(8..).and_then(number).is_some_and(|flags| flags & UP != 0);
    let mut link = Link { index, name: String::new(), mtu: 1500, up, bridge: None, hardware_address: None };
    for (kind, value) in attributes(body.get(16..).unwrap_or_default()) {
        match kind {
            1 => link.hardware_address = value.try_into().ok(),
            3 => link.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
            4 => link.mtu = number(value).unwrap_or(link.mtu),
            10 => link.bridge = number(value).map(|index| index as i32),
            _ => {}
        }
    }
    link
}

/// The link's index, if there is one of this name in the namespace of the thread.
pub fn index(name: &str) -> io::Result<Option<i32>> {
    match if_nametoindex(name) {
        Ok(index) => Ok(Some(index as i32)),
        Err(nix::Error::ENODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The index of a link that must be there.
pub fn existing(name: &str) -> io::Result<i32> {
    index(name)?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no link {name}")))
}

/// Makes a bridge that is down, if there is none of this name. `address` keeps its hardware address from changing with
/// its members.
pub fn make_bridge(socket: &mut Socket, name: &str, address: [u8; 6], mtu: u32) -> io::Result<()> {
    let mut message = Message::new(NEW_LINK, ACK | CREATE | EXCLUSIVE, &link_header(0, 0, 0));
    message.text(3, name).attribute(1, &address).number(4, mtu);
    message.nested(18, |info| {
        info.text(1, "bridge");
    });
    exists_is_fine(socket.ask(&message))
}

pub(super) fn exists_is_fine(result: io::Result<()>) -> io::Result<()> {
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
pub fn make_cable(socket: &mut Socket, name: &str, bridge: i32, peer: &Peer<'_>, mtu: u32) -> io::Result<()> {
    let mut message = Message::new(NEW_LINK, ACK | CREATE | EXCLUSIVE, &link_header(0, UP, UP));
    message.text(3, name).number(10, bridge as u32).number(4, mtu);
    message.nested(18, |info| {
        info.text(1, "veth").nested(2, |data| {
            data.nested(1, |other| {
                other.raw(&link_header(0, 0, 0));
                other.text(3, peer.name).attribute(1, &peer.address);
                other.number(28, peer.namespace.as_raw_fd() as u32).number(4, mtu);
            });
        });
    });
    socket.ask(&message)
}

/// Makes two links of this namespace that lead to each other, both down, if there is none of the first's name.
pub fn make_pair(socket: &mut Socket, one: (&str, [u8; 6]), other: (&str, [u8; 6]), mtu: u32) -> io::Result<()> {
    let mut message = Message::new(NEW_LINK, ACK | CREATE | EXCLUSIVE, &link_header(0, 0, 0));
    message.text(3, one.0).attribute(1, &one.1).number(4, mtu);
    message.nested(18, |info| {
        info.text(1, "veth").nested(2, |data| {
            data.nested(1, |peer| {
                peer.raw(&link_header(0, 0, 0));
                peer.text(3, other.0).attribute(1, &other.1).number(4, mtu);
            });
        });
    });
    exists_is_fine(socket.ask(&message))
}

/// Plugs a link into a bridge; one that is there already stays.
pub fn set_bridge(socket: &mut Socket, index: i32, bridge: i32) -> io::Result<()> {
    let mut message = Message::new(NEW_LINK, ACK, &link_header(index, 0, 0));
    message.number(10, bridge as u32);
    socket.ask(&message)
}

pub fn set_up(socket: &mut Socket, index: i32) -> io::Result<()> {
    socket.ask(&Message::new(NEW_LINK, ACK, &link_header(index, UP, UP)))
}

/// Whether the bridge sends back by this port of it what came in by it: a container that reaches itself through a
/// published port needs that where rules are applied to bridged packets too (br_netfilter). And whether it keeps apart
/// this port and others that it does (`IFLA_BRPORT_ISOLATED`).
pub fn set_port(socket: &mut Socket, index: i32, hairpin: bool, isolated: bool) -> io::Result<()> {
    let mut header = link_header(index, 0, 0);
    header[0] = libc::AF_BRIDGE as u8;
    let mut message = Message::new(SET_LINK, ACK, &header);
    message.nested(12, |port| {
        port.attribute(4, &[u8::from(hairpin)]).attribute(33, &[u8::from(isolated)]);
    });
    socket.ask(&message)
}

/// Removes the link of this name; one that is not there is fine.
pub fn remove(socket: &mut Socket, name: &str) -> io::Result<()> {
    gone_is_fine(socket.ask(&removal(name)))
}

/// As [`remove`], but returns as soon as the link is gone: the kernel has who asks for it wait until all processors have
/// passed on, which takes it 10 ms and more. A child waits.
pub fn remove_at_once(name: &str) -> io::Result<()> {
    if index(name)?.is_none() {
        return Ok(());
    }
    let changes = netlink::changes_of_links()?;
    let mut socket = Socket::route()?;
    let child = socket.ask_by_child(&removal(name))?;
    let mut ended = false;
    while index(name)?.is_some() && !ended {
        let mut waiting =
            [PollFd::new(changes.as_fd(), PollFlags::POLLIN), PollFd::new(child.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        ended = waiting[1].any().unwrap_or(false);
        netlink::drain(&changes);
    }
    if !ended {
        // Whoever stays longer than the child takes its exit.
        thread::Builder::new().spawn(move || waitid(Id::PIDFd(child.as_fd()), WaitPidFlag::WEXITED))?;
        return Ok(());
    }
    match waitid(Id::PIDFd(child.as_fd()), WaitPidFlag::WEXITED)? {
        WaitStatus::Exited(_, 0) => gone_is_fine(socket.acknowledged()),
        other => Err(io::Error::other(format!("the kernel was not asked: {other:?}"))),
    }
}

fn removal(name: &str) -> Message {
    let mut message = Message::new(DELETE_LINK, ACK, &link_header(0, 0, 0));
    message.text(3, name);
    message
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// Gives the link an address. It can be used at once: that nobody else has it is known (`IFA_F_NODAD`).
pub fn add_address(socket: &mut Socket, index: i32, address: IpAddr, prefix: u8) -> io::Result<()> {
    const UNASKED: u8 = 2;
    const OF_THIS_HOST: u8 = 254;
    let flags = if address.is_ipv6() { UNASKED } else { 0 };
    let scope = if address.is_loopback() { OF_THIS_HOST } else { 0 };
    let header = [&[Family::of(address).number(), prefix, flags, scope][..], &index.to_ne_bytes()].concat();
    let mut message = Message::new(NEW_ADDRESS, ACK | CREATE | EXCLUSIVE, &header);
    message.attribute(2, &octets(address)).attribute(1, &octets(address));
    if let IpAddr::V4(address) = address {
        let broadcast = u32::from(address) | u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        message.attribute(4, &broadcast.to_be_bytes());
    }
    exists_is_fine(socket.ask(&message))
}

/// Everything of the gateway's family that no other route is for goes to `gateway`, and no longer where it went before.
pub fn set_default_route(socket: &mut Socket, gateway: IpAddr, index: i32) -> io::Result<()> {
    // Main table, static, global scope, unicast.
    let header = [Family::of(gateway).number(), 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];
    let mut message = Message::new(NEW_ROUTE, ACK | CREATE | REPLACE, &header);
    message.attribute(5, &octets(gateway)).number(4, index as u32);
    socket.ask(&message)
}

/// No way for what of this family no other route is for.
pub fn remove_default_route(socket: &mut Socket, family: Family) -> io::Result<()> {
    // Main table, any scope, unicast.
    let header = [family.number(), 0, 0, 0, 254, 0, 255, 1, 0, 0, 0, 0];
    match socket.ask(&Message::new(DELETE_ROUTE, ACK, &header)) {
        Err(error) if is_none_there(&error) => Ok(()),
        other => other,
    }
}

/// No such route, of the one family or the other, or a kernel without the family.
fn is_none_there(error: &io::Error) -> bool {
    let said = error.raw_os_error().unwrap_or_default();
    [libc::ESRCH, libc::ENOENT, libc::EAFNOSUPPORT, libc::EOPNOTSUPP].contains(&said)
}

/// Indices of the links that default routes leave by.
pub fn default_route_links(socket: &mut Socket) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    socket.dump(&Message::new(GET_ROUTE, DUMP, &[0; 12]), &mut |body| {
        let link = attributes(body.get(12..).unwrap_or_default()).into_iter().find(|(kind, _)| *kind == 4);
        if let (Some(0), Some(index)) = (body.get(1), link.and_then(|(_, value)| number(value))) {
            found.push(index as i32);
        }
    })?;
    Ok(found)
}

/// The addresses of this namespace, each with the index of its link.
pub fn addresses(socket: &mut Socket) -> io::Result<Vec<(i32, IpAddr)>> {
    let mut found = Vec::new();
    socket.dump(&Message::new(GET_ADDRESS, DUMP, &[0; 8]), &mut |body| {
        let index = body.get(4..).and_then(number);
        let all = attributes(body.get(8..).unwrap_or_default());
        let one = |wanted| all.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
        // The link's own, which on a point-to-point link is not the first that is told.
        let own = family(body).zip(one(2).or(one(1))).and_then(|(family, value)| family.address(value));
        found.extend(index.zip(own).map(|(index, own)| (index as i32, own)));
    })?;
    Ok(found)
}

/// What an answer on an address or a route is about, `None` where it is neither of IPv4 nor IPv6.
fn family(body: &[u8]) -> Option<Family> {
    Family::ALL.into_iter().find(|family| body.first() == Some(&family.number()))
}

/// Networks that are in use in this namespace by other links than this one: those of routes and addresses, with the
/// index of the link where there is one.
pub fn networks_in_use(socket: &mut Socket, but_by: Option<i32>) -> io::Result<Vec<(Subnet, Option<i32>)>> {
    let mut found = Vec::new();
    let used = |body: &[u8], address: Option<&[u8]>, link: Option<u32>| {
        let subnet = Subnet::new(family(body)?.address(address?)?, *body.get(1).filter(|prefix| **prefix <= 128)?);
        let link = link.map(|index| index as i32);
        (but_by.is_none() || link != but_by).then_some((subnet, link))
    };
    socket.dump(&Message::new(GET_ROUTE, DUMP, &[0; 12]), &mut |body| {
        let all = attributes(body.get(12..).unwrap_or_default());
        let one = |wanted| all.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
        found.extend(used(body, one(1), one(4).and_then(number)));
    })?;
    socket.dump(&Message::new(GET_ADDRESS, DUMP, &[0; 8]), &mut |body| {
        let address = attributes(body.get(8..).unwrap_or_default()).into_iter().find(|(kind, _)| *kind == 1);
        found.extend(used(body, address.map(|(_, value)| value), body.get(4..).and_then(number)));
    })?;
    Ok(found)
}
