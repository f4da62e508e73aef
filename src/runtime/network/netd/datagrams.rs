//! Datagrams to published ports. Each client gets a socket of its own towards the container, so that replies find back.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::poller::{Poller, Token};

/// A client that was silent for this long, and was sent nothing, is forgotten.
const IDLE: Duration = Duration::from_secs(60);
/// Datagrams taken from one socket before others get their turn.
const TURN: usize = 64;

struct Client {
    /// The published port's, from which replies come.
    port: Rc<UdpSocket>,
    port_token: Token,
    address: SocketAddr,
    server: UdpSocket,
    target: SocketAddr,
    seen: Instant,
}

/// All clients of all ports.
pub struct Datagrams {
    clients: HashMap<Token, Client>,
    tokens: HashMap<(Token, SocketAddr), Token>,
    most: usize,
    buffer: Vec<u8>,
}

impl Datagrams {
    /// At most `most` clients; the datagrams of others are dropped.
    pub fn new(most: usize) -> Self {
        Self { clients: HashMap::new(), tokens: HashMap::new(), most, buffer: vec![0; 65536] }
    }

    /// Carries what waits at the port to `target`.
    pub fn receive(&mut self, poller: &mut Poller, port: &Rc<UdpSocket>, port_token: Token, target: SocketAddr) {
        for _ in 0..TURN {
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = port.recv_from(&mut buffer);
            if let Ok((length, address)) = received {
                let known = self.client(poller, port, port_token, address, target).ok();
                if let Some(client) = known.and_then(|token| self.clients.get_mut(&token)) {
                    client.seen = Instant::now();
                    // Lost datagrams are the protocol's; the sender copes.
                    drop(client.server.send(&buffer[..length]));
                }
            }
            self.buffer = buffer;
            if received.is_err() {
                return;
            }
        }
    }

    fn client(
        &mut self,
        poller: &mut Poller,
        port: &Rc<UdpSocket>,
        port_token: Token,
        address: SocketAddr,
        target: SocketAddr,
    ) -> io::Result<Token> {
        if let Some(token) = self.tokens.get(&(port_token, address)).copied() {
            if self.clients.get(&token).is_some_and(|client| client.target == target) {
                return Ok(token);
            }
            self.forget(token);
        }
        if self.clients.len() >= self.most {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let any = if target.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let server = UdpSocket::bind::<SocketAddr>(any)?;
        server.connect(target)?;
        server.set_nonblocking(true)?;
        let token = poller.token();
        poller.add_readable(&server, token)?;
        let port = Rc::clone(port);
        let client = Client { port, port_token, address, server, target, seen: Instant::now() };
        self.clients.insert(token, client);
        self.tokens.insert((port_token, address), token);
        Ok(token)
    }

    fn forget(&mut self, token: Token) {
        if let Some(client) = self.clients.remove(&token) {
            self.tokens.remove(&(client.port_token, client.address));
        }
    }

    /// Whether the token is a client's.
    pub fn has(&self, token: Token) -> bool {
        self.clients.contains_key(&token)
    }

    /// Carries the container's replies back to the client.
    pub fn reply(&mut self, token: Token) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        for _ in 0..TURN {
            match client.server.recv(&mut self.buffer) {
                Ok(length) => {
                    client.seen = Instant::now();
                    drop(client.port.send_to(&self.buffer[..length], client.address));
                }
                // Nothing more, or that nobody listens in the container, which was read and is done with.
                Err(_) => return,
            }
        }
    }

    /// Forgets those of a port that is no longer published.
    pub fn close(&mut self, port_token: Token) {
        self.clients.retain(|_, client| client.port_token != port_token);
        self.tokens.retain(|(port, _), _| *port != port_token);
    }

    /// Forgets who was silent, and says when to come again.
    pub fn expire(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let silent = |client: &Client| now.duration_since(client.seen) >= IDLE;
        let gone: Vec<Token> =
            self.clients.iter().filter(|(_, client)| silent(client)).map(|(token, _)| *token).collect();
        gone.into_iter().for_each(|token| self.forget(token));
        (!self.clients.is_empty()).then_some(Duration::from_secs(10))
    }
}
