//! Probes that ask over the container's network: each by a child of the supervisor that enters the network, gives up
//! every right, asks once, and ends with the answer. What a container answers is parsed there and nowhere else: the
//! supervisor sees an exit code and a line of text, and kills the child whose time is up.

use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns};

use crate::runtime::container::{Place, Probe};
use crate::runtime::init::{self, Launched};
use crate::runtime::{confine, sys};

mod grpc;
mod hpack;
mod http;

/// The longest that is said of an answer, in bytes.
const LONGEST: usize = 256;

/// Asks from inside the network of this process; the child's code is 0 for a healthy answer, and what it says of it
/// goes to `output`.
///
/// # Errors
/// Where there can be no further process.
pub fn begin(probe: &Probe, of: &OwnedFd, output: OwnedFd) -> io::Result<Launched> {
    if let Some((pid, pidfd)) = sys::clone_process(CloneFlags::empty(), None)? {
        return Ok(Launched { pid, pidfd, terminal: None });
    }
    let answer =
        confine(of, &output).map_err(|error| format!("ask from its network: {error}")).and_then(|()| ask(probe));
    let (code, said) = match answer {
        Ok(said) => (0, said),
        Err(said) => (1, said),
    };
    // Nobody listens any more where the supervisor is gone.
    drop(File::from(output).write_all(said.as_bytes()));
    sys::exit_now(code)
}

/// In the container's network and with nothing else: no descriptor but the one that takes the answer, no right.
fn confine(of: &OwnedFd, output: &OwnedFd) -> io::Result<()> {
    init::die_with_parent()?;
    setns(of, CloneFlags::CLONE_NEWNET)?;
    sys::close_all_but(output.as_fd())?;
    init::become_nobody()?;
    confine::to_asking()
}

fn ask(probe: &Probe) -> Result<String, String> {
    match probe {
        Probe::Tcp { place } => connect(place).map(|(_, address)| format!("{address} accepts connections")),
        Probe::Http { place, path, tls, headers, status } => http::ask(place, path, *tls, headers, status),
        Probe::Grpc { place, service } => {
            let (stream, address) = connect(place)?;
            grpc::ask(stream, &address.to_string(), service)
        }
    }
}

/// The addresses that a place stands for, in the order they are tried.
fn addresses(place: &Place) -> Vec<SocketAddr> {
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let hosts = place.host.map_or_else(|| loopback.to_vec(), |host| vec![host]);
    hosts.into_iter().map(|host| SocketAddr::new(host, place.port)).collect()
}

/// The first address that takes a connection; the reason is the first one's, where none does.
fn connect(place: &Place) -> Result<(TcpStream, SocketAddr), String> {
    let mut refused = None;
    for address in addresses(place) {
        match TcpStream::connect(address) {
            Ok(stream) => return Ok((stream, address)),
            Err(error) => {
                refused.get_or_insert_with(|| format!("connect to {address}: {error}"));
            }
        }
    }
    Err(refused.unwrap_or_default())
}

/// The beginning of what somebody else wrote, fit to be shown on a terminal.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]);
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
