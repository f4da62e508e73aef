//! What the host's own firewall has to say on published ports.
//!
//! A port that is published is passed on to the container, and what is passed on never comes to the chains in which a host
//! says who may speak to it (the `input` hook: ufw, firewalld, an `inet filter` table). So where there are such chains, the
//! packet that begins a connection is not passed on at first. It goes where it would go if the host itself were to answer,
//! through all of these chains; what they drop is dropped. What is left comes to the last chain of all, which is ours:
//! the connection is remembered for some seconds ([`Expression::Admit`](super::nft::Expression)), the packet is copied to
//! `netd`, and goes no further. `netd` sends the copy in again, by one of two links that lead to each other ([`Way`]); now
//! the connection is one that was let in, and is passed on, with all that follows and with the client's address. That takes
//! a fraction of a millisecond, once a connection. Without `netd` the client's own second attempt, a second later, is
//! passed on.
//!
//! Where the host has no such chains, nothing of this is there.

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use super::netlink::Socket;
use super::{Error, kernel, link_name, links, nft, route_socket, set_if_there};
use crate::runtime::roots::Roots;

/// Of iptables' old kind, which tells of its tables but not of their rules: a table that is there has something to say.
const OLD_TABLES: [&str; 2] = ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"];

/// Whether the host judges who may speak to it, in the network namespace of the thread.
pub fn is_there() -> Result<bool, Error> {
    let failed = kernel("list the host's firewall chains");
    Ok(has_old_table()
        || Socket::netfilter().and_then(|mut socket| nft::others_judge_input(&mut socket)).map_err(failed)?)
}

pub fn has_old_table() -> bool {
    let has = |path: &&str| fs::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == "filter"));
    OLD_TABLES.iter().any(has)
}

/// The number under which `netd` is sent copies: an engine's own, as far as sixteen bits can tell.
pub fn group(roots: &Roots) -> u16 {
    // The low ones are other programs'.
    let sum = roots.key().bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    1024 + (sum % 60_000) as u16
}

/// Two links that lead to each other: what `netd` sends by one comes in by the other as if from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub out: String,
    pub back: String,
}

/// What frames to the link that brings back are addressed to.
pub const BACK: [u8; 6] = [0x02, 0x42, 0, 0, 0, 2];
const OUT: [u8; 6] = [0x02, 0x42, 0, 0, 0, 1];
/// This host's, by any name.
const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 12);
/// Whatever came in as one packet.
const LARGEST: u32 = 65_535;

impl Way {
    pub fn of(roots: &Roots) -> Self {
        Self { out: link_name(roots, &["way", "out"]), back: link_name(roots, &["way", "back"]) }
    }

    /// Makes it, or what is missing of it.
    pub fn ensure(&self) -> Result<(), Error> {
        let failed = |what: &str| kernel(format!("the way by which packets come in again: {what}"));
        let mut socket = route_socket()?;
        links::make_pair(&mut socket, (&self.out, OUT), (&self.back, BACK), LARGEST).map_err(failed("make it"))?;
        // Nothing is asked or told by them.
        set_if_there(&format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", self.out), "1")?;
        for (name, value) in [("addr_gen_mode", "1"), ("accept_ra", "0"), ("disable_ipv6", "0")] {
            set_if_there(&format!("/proc/sys/net/ipv6/conf/{}/{name}", self.back), value)?;
        }
        for name in [&self.out, &self.back] {
            let index = links::existing(name).map_err(failed("find it"))?;
            links::set_up(&mut socket, index).map_err(failed("set it up"))?;
        }
        // By this link come the addresses of all the world, and go on to containers. A host that is strict on all links
        // (`net.ipv4.conf.all.rp_filter=1`) has to be told that here any way back will do, which it only hears of a link
        // that has an address.
        let index = links::existing(&self.back).map_err(failed("find it"))?;
        links::add_address(&mut socket, index, HERE.into(), 32).map_err(failed("give it an address"))?;
        set_if_there(&format!("/proc/sys/net/ipv4/conf/{}/rp_filter", self.back), "2")?;
        set_if_there(&format!("/proc/sys/net/ipv4/conf/{}/forwarding", self.back), "1")?;
        set_if_there(&format!("/proc/sys/net/ipv6/conf/{}/force_forwarding", self.back), "1")
    }

    pub fn is_there(&self) -> io::Result<bool> {
        Ok(links::index(&self.out)?.is_some() && links::index(&self.back)?.is_some())
    }

    /// Takes it away; one that is not there is fine.
    pub fn remove(&self) -> Result<(), Error> {
        let failed = || kernel("remove the way by which packets come in again");
        if self.is_there().map_err(failed())? {
            links::remove(&mut route_socket()?, &self.out).map_err(failed())?;
        }
        Ok(())
    }
}
