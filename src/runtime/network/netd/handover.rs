//! One build of `netd` becomes another without closing a socket: it executes the program of whoever asks, in its own
//! process, with the descriptor of a memory file that says what the others are. Format 1: one JSON document.
//!
//! Clients of published datagram ports are not kept; the next datagram of each is as if it were its first.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::rc::Rc;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{getsockopt, sockopt};
use serde::{Deserialize, Serialize};

use super::server::{Open, Server};
use super::streams::{Connection, Direction};
use super::wanted::{Listener, Target};
use crate::runtime::roots::Roots;
use crate::runtime::sys;

const VERSION: u32 = 1;

/// What one leaves to the next. Numbers are descriptors.
#[derive(Serialize, Deserialize)]
pub struct Handover {
    version: u32,
    control: RawFd,
    asking: RawFd,
    pub resolvers: Vec<ResolverPart>,
    pub ports: Vec<PortPart>,
    pub streams: Vec<StreamPart>,
}

#[derive(Serialize, Deserialize)]
pub struct ResolverPart {
    pub container: String,
    pub inode: u64,
    udp: RawFd,
    tcp: RawFd,
}

#[derive(Serialize, Deserialize)]
pub struct PortPart {
    pub listener: Listener,
    target: Target,
    socket: RawFd,
}

#[derive(Serialize, Deserialize)]
pub struct StreamPart {
    client: RawFd,
    server: RawFd,
    inward: Direction,
    outward: Direction,
}

impl Handover {
    pub fn control(&self) -> io::Result<UnixListener> {
        Ok(sys::adopt(self.control)?.into())
    }

    /// Who asked, and is owed an answer.
    pub fn asking(&self) -> io::Result<UnixStream> {
        Ok(sys::adopt(self.asking)?.into())
    }
}

impl ResolverPart {
    pub fn sockets(&self) -> io::Result<(UdpSocket, TcpListener)> {
        Ok((sys::adopt(self.udp)?.into(), sys::adopt(self.tcp)?.into()))
    }
}

impl PortPart {
    pub fn open(&self) -> io::Result<Open> {
        let socket = sys::adopt(self.socket)?;
        Ok(match self.listener.protocol {
            super::wanted::Protocol::Tcp => Open::Tcp(socket.into()),
            super::wanted::Protocol::Udp => Open::Udp(Rc::new(socket.into())),
        })
    }

    pub fn target(&self) -> Target {
        self.target.clone()
    }
}

impl StreamPart {
    pub fn connection(&self) -> io::Result<Connection> {
        let socket = |descriptor| Ok::<TcpStream, io::Error>(sys::adopt(descriptor)?.into());
        let (inward, outward) = (self.inward.clone(), self.outward.clone());
        Ok(Connection { client: socket(self.client)?, server: socket(self.server)?, inward, outward })
    }
}

/// Becomes the program of whoever is at the other end of `asking`. Returns only where that fails; the server then is as
/// it was.
pub fn give(server: &Server, roots: &Roots, asking: &UnixStream) -> io::Result<()> {
    let program = format!("/proc/{}/exe", getsockopt(asking, sockopt::PeerCredentials)?.pid());
    let left = describe(server, asking);
    let mut memory = File::from(memfd_create("handover", MFdFlags::MFD_CLOEXEC)?);
    serde_json::to_writer(&memory, &left)?;
    memory.flush()?;
    memory.rewind()?;
    let descriptors: Vec<BorrowedFd<'_>> = kept(server).chain([asking.as_fd(), memory.as_fd()]).collect();
    let keep = |flags: FdFlag| descriptors.iter().try_for_each(|one| fcntl(*one, FcntlArg::F_SETFD(flags)).map(drop));
    keep(FdFlag::empty())?;
    let mut command = Command::new(program);
    command.arg("netd").arg("--root").arg(&roots.root).arg("--run-root").arg(&roots.run);
    let failed = command.arg(memory.as_raw_fd().to_string()).exec();
    keep(FdFlag::FD_CLOEXEC)?;
    Err(failed)
}

fn kept(server: &Server) -> impl Iterator<Item = BorrowedFd<'_>> {
    let resolvers = server.resolvers.values().flat_map(|one| [one.udp.as_fd(), one.tcp.as_fd()]);
    let ports = server.ports.values().map(|port| match &port.open {
        Open::Tcp(socket) => socket.as_fd(),
        Open::Udp(socket) => socket.as_fd(),
    });
    let streams = server.streams.connections().flat_map(|one| [one.client.as_fd(), one.server.as_fd()]);
    resolvers.chain(ports).chain(streams).chain([server.control.as_fd()])
}

fn describe(server: &Server, asking: &UnixStream) -> Handover {
    let resolvers = server.resolvers.iter().map(|(container, one)| ResolverPart {
        container: container.clone(),
        inode: one.inode,
        udp: one.udp.as_raw_fd(),
        tcp: one.tcp.as_raw_fd(),
    });
    let ports = server.ports.iter().map(|(listener, port)| PortPart {
        listener: *listener,
        target: port.target.clone(),
        socket: match &port.open {
            Open::Tcp(socket) => socket.as_raw_fd(),
            Open::Udp(socket) => socket.as_raw_fd(),
        },
    });
    let streams = server.streams.connections().map(|one| StreamPart {
        client: one.client.as_raw_fd(),
        server: one.server.as_raw_fd(),
        inward: one.inward.clone(),
        outward: one.outward.clone(),
    });
    Handover {
        version: VERSION,
        control: server.control.as_raw_fd(),
        asking: asking.as_raw_fd(),
        resolvers: resolvers.collect(),
        ports: ports.collect(),
        streams: streams.collect(),
    }
}

/// Goes on with what another build has left at this descriptor.
pub fn take(roots: &Roots, descriptor: RawFd) -> io::Result<Server> {
    let left: Handover = serde_json::from_reader(File::from(sys::adopt(descriptor)?))?;
    if left.version != VERSION {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "another format"));
    }
    Server::adopt(roots, left)
}
