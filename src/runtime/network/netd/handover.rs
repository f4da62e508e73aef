//! One build of `netd` leaves its place to another without closing a socket: whoever asked starts a server of its own,
//! which is sent all descriptors over the connection of that question (unix(7), `SCM_RIGHTS`). The first is that of a
//! memory file that says what the others are. Format 2: one JSON document.
//!
//! Nobody executes anything here: the server may not (see `confine`). Clients of published datagram ports are not kept;
//! the next datagram of each is as if it were its first.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};

use super::PATIENCE;
use super::server::{Open, Server};
use super::streams::{Connection, Direction};
use super::wanted::{Listener, Protocol, Target};
use crate::runtime::roots::Roots;
use crate::runtime::sys;

const VERSION: u32 = 2;
/// What the server says to whom it will leave its place, a line.
pub const OFFER: &str = "take over";
/// So many descriptors at once; the kernel takes 253.
const BATCH: usize = 64;

/// Where a descriptor is in the order in which they are sent.
type Place = usize;

/// What one leaves to the next.
#[derive(Serialize, Deserialize)]
pub struct Handover {
    version: u32,
    /// How many descriptors follow.
    count: usize,
    control: Place,
    pub resolvers: Vec<ResolverPart>,
    pub ports: Vec<PortPart>,
    pub streams: Vec<StreamPart>,
}

#[derive(Serialize, Deserialize)]
pub struct ResolverPart {
    pub container: String,
    pub inode: u64,
    udp: Place,
    tcp: Place,
}

#[derive(Serialize, Deserialize)]
pub struct PortPart {
    pub listener: Listener,
    target: Target,
    socket: Place,
}

#[derive(Serialize, Deserialize)]
pub struct StreamPart {
    client: Place,
    server: Place,
    inward: Direction,
    outward: Direction,
}

/// The descriptors that came, each for one taker.
pub struct Received(Vec<Option<OwnedFd>>);

impl Received {
    fn take(&mut self, place: Place) -> io::Result<OwnedFd> {
        let taken = self.0.get_mut(place).and_then(Option::take);
        taken.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a descriptor that was not sent"))
    }
}

impl Handover {
    pub fn control(&self, received: &mut Received) -> io::Result<UnixListener> {
        Ok(received.take(self.control)?.into())
    }
}

impl ResolverPart {
    pub fn sockets(&self, received: &mut Received) -> io::Result<(UdpSocket, TcpListener)> {
        Ok((received.take(self.udp)?.into(), received.take(self.tcp)?.into()))
    }
}

impl PortPart {
    pub fn open(&self, received: &mut Received) -> io::Result<Open> {
        let socket = received.take(self.socket)?;
        Ok(match self.listener.protocol {
            Protocol::Tcp => Open::Tcp(socket.into()),
            Protocol::Udp => Open::Udp(Rc::new(socket.into())),
        })
    }

    pub fn target(&self) -> Target {
        self.target.clone()
    }
}

impl StreamPart {
    pub fn connection(&self, received: &mut Received) -> io::Result<Connection> {
        let mut socket = |place| Ok::<TcpStream, io::Error>(received.take(place)?.into());
        let (inward, outward) = (self.inward.clone(), self.outward.clone());
        Ok(Connection { client: socket(self.client)?, server: socket(self.server)?, inward, outward })
    }
}

/// Offers all to whoever is at the other end, and returns when somebody has it: there is nothing left to serve then. Where
/// that fails the server is as it was.
pub fn give(server: &Server, mut asking: &UnixStream) -> io::Result<()> {
    asking.set_read_timeout(Some(PATIENCE))?;
    asking.set_write_timeout(Some(PATIENCE))?;
    writeln!(asking, "{OFFER}")?;
    expect(asking)?;
    let mut descriptors = Vec::new();
    let left = describe(server, &mut descriptors);
    let mut memory = File::from(memfd_create("handover", MFdFlags::MFD_CLOEXEC)?);
    serde_json::to_writer(&memory, &left)?;
    memory.rewind()?;
    send(asking, &[memory.as_fd()])?;
    descriptors.chunks(BATCH).try_for_each(|batch| send(asking, batch))?;
    expect(asking)
}

/// A sign of the other one: that it is there, and that it has all.
fn expect(mut stream: &UnixStream) -> io::Result<()> {
    stream.read_exact(&mut [0])
}

fn send(stream: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&[0])], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// What was sent at once.
fn receive(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!([RawFd; BATCH]);
    let mut pieces = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut pieces, Some(&mut space), flags)?;
    let mut found = Vec::new();
    for one in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = one {
            found.extend(numbers.into_iter().map(sys::adopt).collect::<io::Result<Vec<_>>>()?);
        }
    }
    if found.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(found) }
}

fn describe<'a>(server: &'a Server, descriptors: &mut Vec<BorrowedFd<'a>>) -> Handover {
    let mut place = |one: BorrowedFd<'a>| -> Place {
        descriptors.push(one);
        descriptors.len() - 1
    };
    let control = place(server.control.as_fd());
    let mut resolvers = Vec::new();
    for (container, one) in &server.resolvers {
        let (udp, tcp) = (place(one.udp.as_fd()), place(one.tcp.as_fd()));
        resolvers.push(ResolverPart { container: container.clone(), inode: one.inode, udp, tcp });
    }
    let mut ports = Vec::new();
    for (listener, port) in &server.ports {
        let socket = match &port.open {
            Open::Tcp(socket) => place(socket.as_fd()),
            Open::Udp(socket) => place(socket.as_fd()),
        };
        ports.push(PortPart { listener: *listener, target: port.target.clone(), socket });
    }
    let mut streams = Vec::new();
    for one in server.streams.connections() {
        let (client, server) = (place(one.client.as_fd()), place(one.server.as_fd()));
        let (inward, outward) = (one.inward.clone(), one.outward.clone());
        streams.push(StreamPart { client, server, inward, outward });
    }
    Handover { version: VERSION, count: descriptors.len(), control, resolvers, ports, streams }
}

/// Goes on with what another build sends by this connection.
pub fn take(roots: &Roots, mut from: &UnixStream) -> io::Result<Server> {
    from.set_read_timeout(Some(PATIENCE))?;
    from.write_all(b"y")?;
    let memory = receive(from)?.pop().ok_or(io::ErrorKind::UnexpectedEof)?;
    let left: Handover = serde_json::from_reader(File::from(memory))?;
    if left.version != VERSION {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "another format"));
    }
    let mut received = Vec::new();
    while received.len() < left.count {
        received.extend(receive(from)?.into_iter().map(Some));
    }
    let server = Server::adopt(roots, &left, &mut Received(received))?;
    from.write_all(b"y")?;
    Ok(server)
}
