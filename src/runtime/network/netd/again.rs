//! Sends in again what the host's firewall has let in to a published port, so that it is led to the container this time
//! (see `network::say`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::runtime::network::links;
use crate::runtime::network::netlink::{ACK, Message, Socket, attributes};
use crate::runtime::network::say::{BACK, Way, group};
use crate::runtime::roots::Roots;
use crate::runtime::sys;

/// `NFNL_SUBSYS_ULOG`, `NFULNL_MSG_CONFIG` (linux/netfilter/nfnetlink_log.h).
const CONFIGURE: u16 = 4 << 8 | 1;
const BIND: u8 = 1;
const WHOLE_PACKETS: u8 = 2;
/// Packets taken before others get their turn.
const TURN: usize = 64;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// Hears of packets, and sends them.
pub struct Again {
    copies: Socket,
    frames: OwnedFd,
    way: Way,
}

impl Again {
    pub fn new(roots: &Roots) -> io::Result<Self> {
        let mut copies = Socket::netfilter()?;
        let message = || Message::new(CONFIGURE, ACK, &[&[0, 0][..], &group(roots).to_be_bytes()].concat());
        let mut bind = message();
        bind.attribute(1, &[BIND]);
        copies.ask(&bind)?;
        let mut whole = message();
        // Each at once.
        whole.attribute(2, &[0, 0, 0xff, 0xff, WHOLE_PACKETS, 0]).big(5, 1);
        copies.ask(&whole)?;
        let frames =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        Ok(Self { copies, frames, way: Way::of(roots) })
    }

    /// Sends all that has come, up to a turn. What can't be sent is tried again by who sent it at first.
    pub fn forward(&mut self) {
        for _ in 0..TURN {
            let mut packets = Vec::new();
            let heard = self.copies.heard(&mut |body| {
                let all = attributes(body.get(4..).unwrap_or_default());
                packets.extend(all.into_iter().find(|(kind, _)| *kind == 9).map(|(_, packet)| packet.to_vec()));
            });
            if !heard.unwrap_or(false) {
                return;
            }
            let Ok(Some(out)) = links::index(&self.way.out) else { continue };
            for frame in packets.iter_mut().filter_map(|packet| frame(packet)) {
                sys::send_frame(self.frames.as_fd(), out, &frame).ok();
            }
        }
    }
}

impl AsFd for Again {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.copies.as_fd()
    }
}

/// What a packet's header says of it.
struct Headed {
    /// Of the link layer (`ETH_P_IP`, `ETH_P_IPV6`).
    ether_type: [u8; 2],
    /// Where what it carries begins, and where it ends.
    content: std::ops::Range<usize>,
    protocol: u8,
    addresses: std::ops::Range<usize>,
}

fn headed(packet: &[u8]) -> Option<Headed> {
    let number = |place: usize| Some(usize::from(u16::from_be_bytes([*packet.get(place)?, *packet.get(place + 1)?])));
    let first = *packet.first()?;
    match first >> 4 {
        4 => {
            let begin = Some(usize::from(first & 15) * 4).filter(|length| *length >= 20)?;
            let content = begin..number(2)?;
            Some(Headed { ether_type: [8, 0], content, protocol: *packet.get(9)?, addresses: 12..20 })
        }
        // One with further headers before what it carries is none that a published port's rule has matched at all.
        6 => {
            let content = 40..40 + number(4)?;
            Some(Headed { ether_type: [0x86, 0xdd], content, protocol: *packet.get(6)?, addresses: 8..40 })
        }
        _ => None,
    }
}

/// The packet for the link that brings it back. Its checksum is made anew: one that never was on a wire has none.
/// `None` for what is no whole packet of IPv4 or IPv6 with TCP or UDP; SCTP's does not depend on addresses.
fn frame(packet: &mut [u8]) -> Option<Vec<u8>> {
    let Headed { ether_type, content, protocol, addresses } = headed(packet)?;
    let packet = packet.get_mut(..content.end)?;
    let addresses = packet.get(addresses)?.to_vec();
    let transport = packet.get_mut(content)?;
    let place = match protocol {
        TCP => 16,
        UDP => 6,
        SCTP => return Some([&BACK[..], &[0; 6], &ether_type, packet].concat()),
        _ => return None,
    };
    transport.get_mut(place..place + 2)?.fill(0);
    let rest = [&[0, protocol][..], &u16::try_from(transport.len()).ok()?.to_be_bytes()].concat();
    let sum = [&addresses[..], &rest, transport].into_iter().fold(0, add);
    // Of UDP, 0 says that there is none.
    let checksum = match !fold(sum) {
        0 if protocol == UDP => 0xffff,
        checksum => checksum,
    };
    transport.get_mut(place..place + 2)?.copy_from_slice(&checksum.to_be_bytes());
    Some([&BACK[..], &[0; 6], &ether_type, packet].concat())
}

/// The sum of these as numbers of sixteen bits (RFC 1071).
fn add(sum: u64, bytes: &[u8]) -> u64 {
    let pairs = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0)));
    sum + pairs.sum::<u64>()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From 192.0.2.2:1 to 192.0.2.1:2, four bytes of data; its sum is left out, as a virtual link does.
    fn datagram() -> Vec<u8> {
        let header = [0x45, 0, 0, 32, 0, 0, 0, 0, 64, UDP, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1];
        [&header[..], &[0, 1, 0, 2, 0, 12, 0xaa, 0xaa, b'a', b'b', b'c', b'd']].concat()
    }

    #[test]
    fn a_frame_is_the_packet_with_its_checksum() {
        let sent = frame(&mut datagram()).unwrap();
        assert_eq!(sent[..6], BACK);
        assert_eq!(sent[12..14], [8, 0]);
        let transport = &sent[14 + 20..];
        let sum = [&sent[14 + 12..14 + 20], &[0, UDP, 0, 12], transport].into_iter().fold(0, add);
        assert_eq!(fold(sum), 0xffff, "who receives it finds nothing wrong");
    }

    #[test]
    fn a_frame_of_ipv6_is_one_of_its_kind() {
        let mut packet = [&[0x60, 0, 0, 0, 0, 12, UDP, 64][..], &[0xfd; 32], &datagram()[20..]].concat();
        let sent = frame(&mut packet).unwrap();
        assert_eq!(sent[12..14], [0x86, 0xdd]);
        let sum = [&[0xfd; 32][..], &[0, UDP, 0, 12], &sent[14 + 40..]].into_iter().fold(0, add);
        assert_eq!(fold(sum), 0xffff);
        assert_eq!(frame(&mut packet[..51]), None, "cut off");
    }

    #[test]
    fn what_is_no_whole_packet_is_left() {
        for length in 0..32 {
            assert_eq!(frame(&mut datagram()[..length]), None, "{length}");
        }
        let with = |place: usize, value: u8| {
            let mut packet = datagram();
            packet[place] = value;
            frame(&mut packet)
        };
        assert_eq!(with(0, 0x65), None, "IPv6");
        assert_eq!(with(0, 0x44), None, "a short header");
        assert_eq!(with(0, 0x4f), None, "a header longer than the packet");
        assert_eq!(with(9, 1), None, "ICMP");
        assert_eq!(with(3, 255), None, "longer than what came");
    }
}
