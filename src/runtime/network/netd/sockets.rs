//! Sockets as `netd` needs them, which the standard library does not make: IPv6 apart from IPv4, and a connection that
//! is not waited for.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, setsockopt, socket, sockopt,
};

fn open(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let opened = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    if address.is_ipv6() {
        // Else [::] would take the port of 0.0.0.0 too.
        setsockopt(&opened, sockopt::Ipv6V6Only, &true)?;
    }
    Ok(opened)
}

/// Listens without blocking.
pub fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let opened = open(address, SockType::Stream)?;
    // Connections of before, which are about to end, don't hold the port.
    setsockopt(&opened, sockopt::ReuseAddr, &true)?;
    bind(opened.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&opened, Backlog::new(1024)?)?;
    Ok(opened.into())
}

/// Receives without blocking.
pub fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let opened = open(address, SockType::Datagram)?;
    bind(opened.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(opened.into())
}

/// Begins to connect; reading and writing report how that went.
pub fn begin_connect(address: SocketAddr) -> io::Result<TcpStream> {
    let opened = open(address, SockType::Stream)?;
    match connect(opened.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(nix::Error::EINPROGRESS) => Ok(opened.into()),
        Err(error) => Err(error.into()),
    }
}
