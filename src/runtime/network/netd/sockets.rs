//! Sockets as `netd` needs them, which the standard library does not make: IPv6 apart from IPv4, and a connection that
//! is not waited for.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockType, SockaddrStorage, bind, connect, getsockopt, listen, setsockopt, sockopt,
};

use crate::runtime::rootless::outside;
use crate::runtime::roots::Roots;

/// Of the network that this process is in.
fn open(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    apart(address, outside::make(family(address), kind)?)
}

/// Of the host's network.
fn open_outside(roots: &Roots, address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    apart(address, outside::ask(roots, family(address), kind)?)
}

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn apart(address: SocketAddr, opened: OwnedFd) -> io::Result<OwnedFd> {
    if address.is_ipv6() {
        // Else [::] would take the port of 0.0.0.0 too.
        setsockopt(&opened, sockopt::Ipv6V6Only, &true)?;
    }
    Ok(opened)
}

/// Listens on the host without blocking.
pub fn listen_tcp(roots: &Roots, address: SocketAddr) -> io::Result<TcpListener> {
    let opened = open_outside(roots, address, SockType::Stream)?;
    // Connections of before, which are about to end, don't hold the port.
    setsockopt(&opened, sockopt::ReuseAddr, &true)?;
    take(&opened, address)?;
    listen(&opened, Backlog::new(1024)?)?;
    Ok(opened.into())
}

/// Receives on the host without blocking.
pub fn bind_udp(roots: &Roots, address: SocketAddr) -> io::Result<UdpSocket> {
    let opened = open_outside(roots, address, SockType::Datagram)?;
    take(&opened, address)?;
    Ok(opened.into())
}

/// The socket's own address from now on.
fn take(opened: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    match bind(opened.as_raw_fd(), &SockaddrStorage::from(address)) {
        Err(nix::Error::EACCES) => {
            let port = address.port();
            let reason = format!(
                "only root may listen there (as root: `sysctl net.ipv4.ip_unprivileged_port_start={port}` allows it to all)"
            );
            Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
        }
        done => Ok(done?),
    }
}

/// Begins to connect; reading and writing report how that went.
pub fn begin_connect(address: SocketAddr) -> io::Result<TcpStream> {
    let opened = open(address, SockType::Stream)?;
    match connect(opened.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(nix::Error::EINPROGRESS) => Ok(opened.into()),
        Err(error) => Err(error.into()),
    }
}

/// A socket of the host's network for one question to a server: connected, so that the kernel drops what comes from
/// anybody else, and blocking.
pub fn question_udp(roots: &Roots, server: SocketAddr) -> io::Result<UdpSocket> {
    let any = if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = bind_udp(roots, any)?;
    socket.connect(server)?;
    socket.set_nonblocking(false)?;
    Ok(socket)
}

/// The same, as a stream; waits for the connection at most so long.
pub fn question_tcp(roots: &Roots, server: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let opened = open_outside(roots, server, SockType::Stream)?;
    match connect(opened.as_raw_fd(), &SockaddrStorage::from(server)) {
        Ok(()) => {}
        Err(nix::Error::EINPROGRESS) => {
            let limit = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
            if poll(&mut [PollFd::new(opened.as_fd(), PollFlags::POLLOUT)], limit)? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match getsockopt(&opened, sockopt::SocketError)? {
                0 => {}
                error => return Err(io::Error::from_raw_os_error(error)),
            }
        }
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(opened);
    stream.set_nonblocking(false)?;
    Ok(stream)
}
