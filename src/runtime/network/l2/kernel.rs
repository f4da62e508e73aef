//! What rtnetlink(7) is told of links on links (linux/if_link.h). All act in the network namespace of the thread.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::super::address::Family;
use super::super::links::{self, NEW_LINK, NEW_ROUTE, exists_is_fine, link_header};
use super::super::netlink::{ACK, CREATE, EXCLUSIVE, Message, REPLACE, Socket};
use super::{IpvlanFlag, IpvlanMode, Kind, MacvlanMode};

/// A container's link.
pub struct Link<'a> {
    pub name: &'a str,
    pub parent: i32,
    pub namespace: BorrowedFd<'a>,
    pub kind: Kind,
    /// The kernel's choice when unset.
    pub address: Option<[u8; 6]>,
    /// The parent's when unset.
    pub mtu: Option<u32>,
}

fn creation() -> Message {
    Message::new(NEW_LINK, ACK | CREATE | EXCLUSIVE, &link_header(0, 0, 0))
}

/// Makes the link in its namespace, down.
pub fn make_link(socket: &mut Socket, link: &Link<'_>) -> io::Result<()> {
    let mut message = creation();
    message.text(3, link.name).number(5, link.parent as u32).number(28, link.namespace.as_raw_fd() as u32);
    if let Some(address) = link.address {
        message.attribute(1, &address);
    }
    if let Some(mtu) = link.mtu {
        message.number(4, mtu);
    }
    message.nested(18, |info| match link.kind {
        Kind::Macvlan(mode) => {
            let mode = match mode {
                MacvlanMode::Private => 1,
                MacvlanMode::Vepa => 2,
                MacvlanMode::Bridge => 4,
                MacvlanMode::Passthru => 8,
            };
            info.text(1, "macvlan").nested(2, |data| {
                data.number(1, mode);
            });
        }
        Kind::Ipvlan(mode, flag) => {
            let mode = match mode {
                IpvlanMode::L2 => 0_u16,
                IpvlanMode::L3 => 1,
                IpvlanMode::L3s => 2,
            };
            let flag = match flag {
                IpvlanFlag::Bridge => 0_u16,
                IpvlanFlag::Private => 1,
                IpvlanFlag::Vepa => 2,
            };
            info.text(1, "ipvlan").nested(2, |data| {
                data.attribute(1, &mode.to_ne_bytes()).attribute(2, &flag.to_ne_bytes());
            });
        }
    });
    socket.ask(&message)
}

/// Makes the VLAN of this number on a link, down, if there is none of this name.
pub fn make_vlan(socket: &mut Socket, name: &str, on: i32, id: u16) -> io::Result<()> {
    let mut message = creation();
    message.text(3, name).number(5, on as u32).nested(18, |info| {
        info.text(1, "vlan").nested(2, |data| {
            data.attribute(1, &id.to_ne_bytes());
        });
    });
    exists_is_fine(socket.ask(&message))
}

/// Makes a link that leads nowhere, down, if there is none of this name.
pub fn make_dummy(socket: &mut Socket, name: &str) -> io::Result<()> {
    let mut message = creation();
    message.text(3, name).nested(18, |info| {
        info.text(1, "dummy");
    });
    exists_is_fine(socket.ask(&message))
}

/// Everything of this family that no other route is for leaves by this link, to whoever takes it.
pub fn set_default_route_by_link(socket: &mut Socket, family: Family, index: i32) -> io::Result<()> {
    // Main table, static, link scope, unicast.
    let header = [family.number(), 0, 0, 0, 254, 4, 253, 1, 0, 0, 0, 0];
    let mut message = Message::new(NEW_ROUTE, ACK | CREATE | REPLACE, &header);
    message.number(4, index as u32);
    socket.ask(&message)
}

/// The hardware address of the link of this name.
pub fn hardware_address(name: &str) -> io::Result<[u8; 6]> {
    let found = links::list(&mut Socket::route()?)?.into_iter().find(|link| link.name == name);
    let found = found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no link {name}")))?;
    found.hardware_address.ok_or_else(|| io::Error::other(format!("link {name} has no hardware address")))
}
