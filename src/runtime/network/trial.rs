//! Whether the kernel makes what networks are made of. Tried in a network namespace that nobody else is in: nothing is
//! left when the thread that asks has ended.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use super::netlink::Socket;
use super::{links, nft};

const MTU: u32 = 1500;

/// Makes a bridge and plugs a virtual cable into it.
pub fn links_work() -> io::Result<()> {
    let about = |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    let mut socket = Socket::route()?;
    links::make_bridge(&mut socket, "trial", [2, 0, 0, 0, 0, 1], MTU).map_err(|error| about("bridge", error))?;
    let namespace = File::open("/proc/thread-self/ns/net")?;
    let peer = links::Peer { namespace: namespace.as_fd(), name: "peer", address: [2, 0, 0, 0, 0, 2] };
    let bridge = links::existing("trial")?;
    links::make_cable(&mut socket, "cable", bridge, &peer, MTU).map_err(|error| about("veth", error))
}

/// Makes a table and takes it away.
pub fn tables_work() -> io::Result<()> {
    Socket::netfilter()?.batch(&nft::encode_removal("trial"))
}
