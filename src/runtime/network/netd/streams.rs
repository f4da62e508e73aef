//! Connections to published ports, carried on to the container byte by byte. The end of one direction is passed on and
//! leaves the other open.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use serde::{Deserialize, Serialize};

use super::poller::{Poller, Token};
use super::sockets;

/// Bytes in one direction that may wait for a slow reader.
const BUFFER: usize = 32 * 1024;
/// Buffers that one connection may move before the others get their turn.
const TURN: usize = 16;
/// Connections taken from a listener before others get their turn.
const ACCEPTED: usize = 64;

/// One direction of a connection.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Direction {
    waiting: Vec<u8>,
    ended: bool,
    end_passed_on: bool,
}

/// Whether a direction can go on at once.
#[derive(PartialEq, Eq)]
enum Progress {
    Blocked,
    More,
}

impl Direction {
    fn pump(&mut self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<Progress> {
        let mut buffer = [0; BUFFER];
        for _ in 0..TURN {
            if !self.waiting.is_empty() {
                let Some(written) = unless_blocked(to.write(&self.waiting))? else { return Ok(Progress::Blocked) };
                self.waiting.drain(..written);
                continue;
            }
            if self.ended {
                if !self.end_passed_on {
                    to.shutdown(Shutdown::Write)?;
                    self.end_passed_on = true;
                }
                return Ok(Progress::Blocked);
            }
            let Some(length) = unless_blocked(from.read(&mut buffer))? else { return Ok(Progress::Blocked) };
            self.ended = length == 0;
            let Some(written) = unless_blocked(to.write(&buffer[..length]))? else {
                self.waiting.extend_from_slice(&buffer[..length]);
                return Ok(Progress::Blocked);
            };
            self.waiting.extend_from_slice(&buffer[written..length]);
        }
        Ok(Progress::More)
    }
}

fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Some(0)),
        Err(error) => Err(error),
    }
}

pub struct Connection {
    pub client: TcpStream,
    pub server: TcpStream,
    pub inward: Direction,
    pub outward: Direction,
}

impl Connection {
    /// `None` when it is over.
    fn pump(&mut self) -> Option<Progress> {
        let inward = self.inward.pump(&self.client, &self.server).ok()?;
        let outward = self.outward.pump(&self.server, &self.client).ok()?;
        if self.inward.end_passed_on && self.outward.end_passed_on {
            return None;
        }
        Some(if inward == Progress::More { inward } else { outward })
    }
}

/// All connections.
pub struct Streams {
    connections: HashMap<Token, Connection>,
    /// Those that stopped only to let others have their turn.
    unfinished: BTreeSet<Token>,
    most: usize,
}

impl Streams {
    /// At most `most` connections; more are closed at once.
    pub fn new(most: usize) -> Self {
        Self { connections: HashMap::new(), unfinished: BTreeSet::new(), most }
    }

    /// Takes what waits at the listener, to be carried to `target`.
    pub fn accept(&mut self, poller: &mut Poller, listener: &TcpListener, target: SocketAddr) {
        for _ in 0..ACCEPTED {
            // A client that left meanwhile, or nobody more.
            let Ok((client, _)) = listener.accept() else { return };
            if self.connections.len() < self.most {
                // What can't be carried on is closed, which is all that the client can be told.
                drop(self.begin(poller, client, target));
            }
        }
    }

    fn begin(&mut self, poller: &mut Poller, client: TcpStream, target: SocketAddr) -> io::Result<()> {
        client.set_nonblocking(true)?;
        client.set_nodelay(true)?;
        let server = sockets::begin_connect(target)?;
        server.set_nodelay(true)?;
        let (inward, outward) = Default::default();
        self.resume(poller, Connection { client, server, inward, outward })
    }

    /// Goes on with one that was begun.
    pub fn resume(&mut self, poller: &mut Poller, connection: Connection) -> io::Result<()> {
        let token = poller.token();
        poller.add_edges(&connection.client, token)?;
        poller.add_edges(&connection.server, token)?;
        self.connections.insert(token, connection);
        self.pump(token);
        Ok(())
    }

    /// All that are open.
    pub fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.connections.values()
    }

    /// Whether the token is a connection's.
    pub fn has(&self, token: Token) -> bool {
        self.connections.contains_key(&token)
    }

    /// Moves what can be moved.
    pub fn pump(&mut self, token: Token) {
        self.unfinished.remove(&token);
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match connection.pump() {
            None => drop(self.connections.remove(&token)),
            Some(Progress::More) => drop(self.unfinished.insert(token)),
            Some(Progress::Blocked) => {}
        }
    }

    /// Those that would not be reported again but have more to move.
    pub fn unfinished(&self) -> Vec<Token> {
        self.unfinished.iter().copied().collect()
    }
}
