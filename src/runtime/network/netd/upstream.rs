//! Questions that the engine can't answer, asked of others from the host's network.
//!
//! Each is one short-lived thread that waits, so that the steps read in order; there is a bound to how many there are.
//! Every attempt has a socket of its own, thus a port that the kernel chose, and an id that nobody can guess.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use super::message::{self, Transport};
use super::sockets;
use crate::runtime::roots::Roots;

/// How long to wait for one server. Resolvers in containers give up after five seconds of their own.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to try all servers.
const ALL: Duration = Duration::from_secs(8);
/// All servers are asked this often.
const ROUNDS: usize = 2;
/// As many as resolv.conf(5) allows.
const SERVERS: usize = 3;

/// Asks the servers in turn and gives the first good reply, with the id of the question. Where all failed, the failure
/// that the last one replied, or `None`.
pub fn ask(roots: &Roots, packet: &[u8], transport: Transport, servers: &[SocketAddr]) -> Option<Vec<u8>> {
    let begun = Instant::now();
    let mut failed = None;
    for server in std::iter::repeat_n(servers, ROUNDS).flatten() {
        if begun.elapsed() >= ALL {
            break;
        }
        let question = message::with_id(packet, message::random_id());
        let reply = match transport {
            Transport::Udp => ask_udp(roots, &question, *server),
            Transport::Tcp => ask_tcp(roots, &question, *server),
        };
        let Ok(reply) = reply else { continue };
        let own = message::with_id(&reply, u16::from_be_bytes([packet[0], packet[1]]));
        if !message::is_failure(&reply) {
            return Some(own);
        }
        failed = Some(own);
    }
    failed
}

fn ask_udp(roots: &Roots, question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let socket = sockets::question_udp(roots, server)?;
    socket.send(question)?;
    let until = Instant::now() + PATIENCE;
    let mut buffer = vec![0; 65535];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = socket.recv(&mut buffer)?;
        if message::is_reply_to(&buffer[..length], question) {
            return Ok(buffer[..length].to_vec());
        }
    }
}

fn ask_tcp(roots: &Roots, question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = sockets::question_tcp(roots, server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write_message(&mut stream, question)?;
    let reply = read_message(&mut stream)?;
    if message::is_reply_to(&reply, question) { Ok(reply) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// A message behind its length (RFC 1035 section 4.2.2).
pub fn write_message(stream: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed)
}

/// The inverse of [`write_message`].
pub fn read_message(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// The servers of a container, or those in the host's file, read anew each time: they change with the host's network.
pub fn servers(named: &[String], resolv_conf: &Path) -> Vec<SocketAddr> {
    if named.is_empty() {
        return parse_resolv_conf(&fs::read_to_string(resolv_conf).unwrap_or_default());
    }
    named.iter().filter_map(|text| server(text)).take(SERVERS).collect()
}

/// The `nameserver` lines of resolv.conf(5).
fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let first = named.filter(|rest| rest.starts_with([' ', '\t'])).filter_map(|rest| rest.split_whitespace().next());
    first.filter_map(server).take(SERVERS).collect()
}

/// `ADDRESS` or `ADDRESS:PORT`.
fn server(text: &str) -> Option<SocketAddr> {
    text.parse::<IpAddr>().map(|address| SocketAddr::from((address, 53))).or_else(|_| text.parse()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_the_c_library_does() {
        let text = "# nameserver 1.1.1.1\nsearch x\nnameserver 10.0.0.1 # main\n nameserver\t::1\nnameserverx 2.2.2.2\n\
                    nameserver bad\nnameserver 3.3.3.3\nnameserver 4.4.4.4\n";
        let expected = ["10.0.0.1:53", "[::1]:53", "3.3.3.3:53"].map(|text| text.parse::<SocketAddr>().unwrap());
        assert_eq!(parse_resolv_conf(text), expected);
        let named = ["9.9.9.9".to_owned(), "127.0.0.1:5353".to_owned(), "x".to_owned()];
        let expected = ["9.9.9.9:53", "127.0.0.1:5353"].map(|text| text.parse::<SocketAddr>().unwrap());
        assert_eq!(servers(&named, Path::new("/nowhere")), expected);
        assert_eq!(servers(&[], Path::new("/nowhere")), []);
    }
}
