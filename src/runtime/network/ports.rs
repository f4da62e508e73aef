//! Which ports of the host may be published: those that neither another container nor another program holds.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

use super::records::{Attachment, Port, attachments};
use super::{Error, Family};
use crate::runtime::roots::Roots;

/// Who holds a port that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortHolder {
    pub port: Port,
    /// `container web`, `process 12 (nginx)`, `another program`.
    pub holder: String,
}

/// Where it is published: on all addresses of both families where none is named.
fn addresses(port: &Port) -> Vec<IpAddr> {
    port.host_ip.map_or_else(|| Family::ALL.map(Family::unspecified).to_vec(), |address| vec![address])
}

fn collide(a: &Port, b: &Port) -> bool {
    let same = |a: &IpAddr, b: &IpAddr| {
        Family::of(*a) == Family::of(*b) && (a == b || a.is_unspecified() || b.is_unspecified())
    };
    let of_b = addresses(b);
    a.host_port == b.host_port
        && a.protocol == b.protocol
        && addresses(a).iter().any(|a| of_b.iter().any(|b| same(a, b)))
}

fn text(port: &Port) -> String {
    let address = port.host_ip.unwrap_or(Family::V4.unspecified());
    format!("{}/{}", SocketAddr::new(address, port.host_port), port.protocol)
}

/// The ports of these that can't be had, and who has them. What the containers `own` hold counts as free.
pub fn host_ports_free(roots: &Roots, wanted: &[Port], own: &BTreeSet<String>) -> Result<Vec<PortHolder>, Error> {
    let (mine, others): (Vec<Attachment>, Vec<Attachment>) =
        attachments(roots)?.into_iter().partition(|attachment| own.contains(&attachment.container));
    let held = |port: &Port| mine.iter().any(|attachment| attachment.ports.iter().any(|other| collide(other, port)));
    let ports = wanted.iter().filter(|port| port.host_port != 0);
    Ok(ports.filter_map(|port| holder(port, &others, held(port))).collect())
}

fn holder(port: &Port, others: &[Attachment], held_by_us: bool) -> Option<PortHolder> {
    let container = others.iter().find(|other| other.ports.iter().any(|taken| collide(taken, port)));
    let holder = match container {
        Some(container) => format!("container {}", container.container),
        None if held_by_us || is_free(port) => return None,
        None => process(port).unwrap_or_else(|| "another program".to_owned()),
    };
    Some(PortHolder { port: port.clone(), holder })
}

/// Whether this host could listen there now.
fn is_free(port: &Port) -> bool {
    let is_used = |address: &IpAddr| {
        let bound = listen(SocketAddr::new(*address, port.host_port), &port.protocol);
        bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    };
    !addresses(port).iter().any(is_used)
}

/// Takes the address for a moment, and gives its port. Nobody listens for other protocols than these by themselves.
fn listen(address: SocketAddr, protocol: &str) -> io::Result<u16> {
    let kind = match protocol {
        "tcp" => SockType::Stream,
        "udp" => SockType::Datagram,
        _ => return Ok(address.port()),
    };
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    if kind == SockType::Stream {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    if kind == SockType::Stream {
        nix::sys::socket::listen(&socket, Backlog::new(1)?)?;
        return Ok(TcpListener::from(socket).local_addr()?.port());
    }
    Ok(UdpSocket::from(socket).local_addr()?.port())
}

/// The first of these ports on which a process of the host listens, and which one, where that can be told.
pub fn taken_by_others(ports: &[Port]) -> Option<Error> {
    let taken = |port: &Port| Some(Error::PortTaken { port: text(port), holder: process(port)? });
    ports.iter().filter(|port| !is_free(port)).find_map(taken)
}

/// The process that listens there, found by its socket: /proc/PID/net/tcp gives the inode, /proc/PID/fd who has it.
fn process(port: &Port) -> Option<String> {
    let inode = ["", "6"].iter().find_map(|family| {
        let table = fs::read_to_string(format!("/proc/thread-self/net/{}{family}", port.protocol)).ok()?;
        let listening = if port.protocol == "udp" { "07" } else { "0A" };
        let wanted = format!(":{:04X}", port.host_port);
        table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (fields.get(1)?.ends_with(&wanted) && *fields.get(3)? == listening)
                .then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
        })
    })?;
    let processes = fs::read_dir("/proc").ok()?;
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let holds = |pid: &u32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
        fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.to_str() == Some(&inode)))
    };
    let pid = pids.into_iter().find(holds)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", name.trim()))
}

/// Whether one that was chosen is what is wanted.
pub(super) fn answers(chosen: &Port, wanted: &Port) -> bool {
    let any = wanted.host_port == 0;
    Port { host_port: if any { 0 } else { chosen.host_port }, ..chosen.clone() } == *wanted
}

/// The ports with a number each: what the container had before stays, 0 becomes a free one.
pub(super) fn choose(wanted: &[Port], before: &[Port], others: &[Attachment]) -> Result<Vec<Port>, Error> {
    let mut chosen: Vec<Port> = Vec::new();
    for port in wanted {
        let kept = before.iter().find(|other| answers(other, port) && !chosen.contains(other)).cloned();
        let port = match kept {
            Some(kept) => kept,
            _ if port.host_port == 0 => free(port, &chosen, others)?,
            _ => port.clone(),
        };
        let container = others.iter().find(|other| other.ports.iter().any(|taken| collide(taken, &port)));
        let holder = container.map(|other| format!("container {}", other.container));
        let twice = || chosen.iter().any(|other| collide(other, &port)).then(|| "another port of it".to_owned());
        if let Some(holder) = holder.or_else(twice) {
            return Err(Error::PortTaken { port: text(&port), holder });
        }
        chosen.push(port);
    }
    Ok(chosen)
}

/// How often the kernel is asked for a port that nobody has been promised.
const ATTEMPTS: usize = 64;

/// One that the kernel gives out now and that no container was given: containers' ports need have no socket.
fn free(port: &Port, chosen: &[Port], others: &[Attachment]) -> Result<Port, Error> {
    // Ports of SCTP are not the kernel's to give out here; one that is free for TCP is as good as any.
    let protocol = if port.protocol == "udp" { "udp" } else { "tcp" };
    let any = SocketAddr::new(addresses(port)[0], 0);
    let promised = |port: &Port| {
        let others = others.iter().flat_map(|other| &other.ports);
        others.chain(chosen).any(|other| collide(other, port))
    };
    for _ in 0..ATTEMPTS {
        let host_port = listen(any, protocol).map_err(super::kernel("find a free port"))?;
        let port = Port { host_port, ..port.clone() };
        if !promised(&port) && is_free(&port) {
            return Ok(port);
        }
    }
    Err(Error::PortTaken { port: text(port), holder: "other containers".to_owned() })
}
