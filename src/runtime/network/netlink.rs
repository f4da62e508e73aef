//! The netlink protocol (netlink(7)): messages with nested attributes, sent in one go, each acknowledged. Written here
//! since the host need have neither `ip` nor `nft`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt,
};

use crate::runtime::sys;

pub const REQUEST: u16 = 0x1;
pub const ACK: u16 = 0x4;
pub const DUMP: u16 = 0x300;
pub const REPLACE: u16 = 0x100;
pub const EXCLUSIVE: u16 = 0x200;
pub const CREATE: u16 = 0x400;
pub const APPEND: u16 = 0x800;

const HEADER: usize = 16;
/// What fits into a socket's buffer whatever the host's settings are.
const ROOM: usize = 64 << 10;
/// More than the kernel puts into one answer, in bytes.
const LARGEST: usize = 64 << 10;
/// Room for what comes back for one short message.
const SMALL: usize = 4 << 10;
const NESTED: u16 = 0x8000;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A message under construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: u16,
    pub flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// `fixed` is the structure that follows the header for this kind of message.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut message = Self { kind, flags, body: Vec::new() };
        message.raw(fixed);
        message
    }

    /// Bytes as they are, padded to four.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.body.extend_from_slice(bytes);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }

    /// One attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.body.extend(((value.len() + 4) as u16).to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.raw(value);
        self
    }

    /// Text with a NUL at its end.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// A number in the host's order, as rtnetlink has it.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// A number in network order, as nfnetlink has it.
    pub fn big(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Attributes in an attribute.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.body.len();
        self.body.extend([0; 4]);
        fill(self);
        let length = (self.body.len() - start) as u16;
        self.body[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.body[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
        self
    }

    fn encode(&self, sequence: u32, bytes: &mut Vec<u8>) {
        bytes.extend(((HEADER + self.body.len()) as u32).to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend((self.flags | REQUEST).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&self.body);
    }
}

/// A message that came back.
#[derive(Debug)]
struct Reply<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

fn replies(mut bytes: &[u8]) -> Vec<Reply<'_>> {
    let mut found = Vec::new();
    while let Some(header) = bytes.first_chunk::<HEADER>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if length < HEADER || length > bytes.len() {
            break;
        }
        found.push(Reply {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            body: &bytes[HEADER..length],
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The attributes of a message, after its fixed part.
pub fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let Some(&[a, b, c, d]) = bytes.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        if length < 4 || length > bytes.len() {
            break;
        }
        found.push((u16::from_ne_bytes([c, d]) & 0x3fff, &bytes[4..length]));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// A socket in the network namespace that the opening thread is in.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    /// Where answers are put, kept for the next.
    answer: Vec<u8>,
}

impl Socket {
    /// For links, addresses and routes.
    pub fn route() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// For rules.
    pub fn netfilter() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { fd, sequence: 1, answer: Vec::new() })
    }

    /// All in one datagram, for which the kernel's default room is soon too small when there are many rules.
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > ROOM {
            setsockopt(&self.fd, sockopt::SndBufForce, &(2 * bytes.len()))?;
        }
        send(self.fd.as_raw_fd(), bytes, MsgFlags::empty())?;
        Ok(())
    }

    /// `room` is more than can come back at once, in bytes.
    fn receive(&mut self, room: usize) -> io::Result<&[u8]> {
        if self.answer.len() < room {
            self.answer.resize(room, 0);
        }
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.answer, MsgFlags::empty()) {
                Ok(count) => return Ok(&self.answer[..count]),
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends one message and waits for its acknowledgement.
    pub fn ask(&mut self, message: &Message) -> io::Result<()> {
        let mut message = message.clone();
        message.flags |= ACK;
        self.batch(&[message])
    }

    /// Has a child send one message, since the kernel works on it before sending returns. What the kernel answers comes
    /// to this socket ([`Self::acknowledged`]).
    pub fn ask_by_child(&mut self, message: &Message) -> io::Result<OwnedFd> {
        let mut bytes = Vec::new();
        self.sequence += 1;
        message.encode(self.sequence, &mut bytes);
        match sys::clone_process(CloneFlags::empty(), None)? {
            Some((_, child)) => Ok(child),
            // System calls only: the parent may have other threads.
            None => {
                let sent = sys::close_all_but(self.fd.as_fd()).and_then(|()| self.send(&bytes));
                sys::exit_now(i32::from(sent.is_err()))
            }
        }
    }

    /// The kernel's answer to the last message.
    pub fn acknowledged(&mut self) -> io::Result<()> {
        self.wait_for(vec![self.sequence], SMALL)
    }

    /// Sends all messages as one, and waits for the acknowledgements of those that ask for one.
    pub fn batch(&mut self, messages: &[Message]) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut waiting = Vec::new();
        for message in messages {
            self.sequence += 1;
            message.encode(self.sequence, &mut bytes);
            if message.flags & ACK != 0 {
                waiting.push(self.sequence);
            }
        }
        self.send(&bytes)?;
        // Of a message that failed the kernel sends back all.
        self.wait_for(waiting, SMALL.max(2 * bytes.len()).min(LARGEST))
    }

    fn wait_for(&mut self, mut waiting: Vec<u32>, room: usize) -> io::Result<()> {
        while !waiting.is_empty() {
            let answer = self.receive(room)?;
            for reply in replies(answer).iter().filter(|reply| reply.kind == ERROR) {
                let code = reply.body.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
                if code != 0 {
                    return Err(io::Error::from_raw_os_error(-code));
                }
                waiting.retain(|sequence| *sequence != reply.sequence);
            }
        }
        Ok(())
    }

    /// Hands to `each` what the kernel has told meanwhile, one datagram of it, without waiting. Says whether there was any;
    /// that some was lost for want of room is no end of it.
    pub fn heard(&mut self, each: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        self.answer.resize(LARGEST, 0);
        match recv(self.fd.as_raw_fd(), &mut self.answer, MsgFlags::MSG_DONTWAIT) {
            Ok(count) => replies(&self.answer[..count]).iter().for_each(|reply| each(reply.body)),
            Err(nix::Error::EINTR | nix::Error::ENOBUFS) => {}
            Err(nix::Error::EAGAIN) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Sends one message and hands each answer's body to `each`. The message asks for a dump or for an acknowledgement:
    /// either marks the end.
    pub fn dump(&mut self, message: &Message, each: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.sequence += 1;
        let mut bytes = Vec::new();
        message.encode(self.sequence, &mut bytes);
        self.send(&bytes)?;
        loop {
            let answer = self.receive(LARGEST)?;
            for reply in replies(answer) {
                match reply.kind {
                    DONE => return Ok(()),
                    ERROR => {
                        let code = reply.body.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => each(reply.body),
                }
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Becomes readable when links or addresses of this namespace change (`RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`,
/// `RTMGRP_IPV6_IFADDR` of rtnetlink(7)).
pub fn changes_of_links() -> io::Result<OwnedFd> {
    listen(SockProtocol::NetlinkRoute, 0x1 | 0x10 | 0x100)
}

/// As [`changes_of_links`], also when routes change (`RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_ROUTE`).
pub fn changes_inside() -> io::Result<OwnedFd> {
    listen(SockProtocol::NetlinkRoute, 0x1 | 0x10 | 0x40 | 0x100 | 0x400)
}

/// Becomes readable when firewall rules of this namespace change (`NFNLGRP_NFTABLES`, the seventh group).
pub fn changes_of_rules() -> io::Result<OwnedFd> {
    listen(SockProtocol::NetlinkNetFilter, 1 << 6)
}

fn listen(protocol: SockProtocol, groups: u32) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(fd)
}

/// Reads away what has been told, and says whether there was anything; that something was lost for want of room is as
/// good as being told of it.
pub fn drain(changes: &OwnedFd) -> bool {
    let mut bytes = [0; 4096];
    let mut told = false;
    while matches!(recv(changes.as_raw_fd(), &mut bytes, MsgFlags::empty()), Ok(1..) | Err(nix::Error::ENOBUFS)) {
        told = true;
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_nest_and_are_padded() {
        let mut message = Message::new(16, 0, &[1, 2]);
        message.text(3, "ab").nested(18, |inner| {
            inner.text(1, "veth");
        });
        let mut bytes = Vec::new();
        message.encode(7, &mut bytes);
        assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len());
        let found = attributes(&bytes[HEADER + 4..]);
        assert_eq!(found[0], (3, &b"ab\0"[..]));
        assert_eq!(attributes(found[1].1), [(1, &b"veth\0"[..])]);
    }
}
