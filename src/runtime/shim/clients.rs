//! Who talks to the supervisor, and what they said: requests come in, output goes out, input is passed on.
//!
//! Nothing here blocks. What a client does not take in time is queued; when a queue is full the container's output is
//! not read any more, so that a slow reader slows the container and loses nothing.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};

use super::client::{Request, Response, decode, encode, frame};
use crate::runtime::container::logs::{self, Select};
use crate::runtime::roots::Roots;
use crate::runtime::sys;

/// Bytes that wait for one client, or for the container's input, before more is read.
const QUEUE: usize = 1 << 20;
/// The longest request line, in bytes.
const LONGEST_REQUEST: usize = 64 << 10;
/// Clients at once.
const MOST: usize = 64;
/// With more of them the supervisor does not sleep.
const MOST_ASLEEP: usize = 16;
/// How long clients may take to hear that the container has ended, all of them together.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a client wants of the supervisor.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    Stop { signal: Option<String>, grace_ms: u64 },
    Kill { signal: String },
    Freeze(bool),
    Reload,
    Rename { name: String, netns: Option<PathBuf> },
    Attach { replay_since: Option<String> },
    Resize { rows: u16, columns: u16 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    /// Has not said what it wants, or has been answered.
    Asking,
    /// Is answered when the container has ended.
    Waiting,
    Attached,
}

/// What is kept of a client while the supervisor sleeps.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Memory {
    descriptor: RawFd,
    kind: Kind,
}

impl Memory {
    pub fn descriptor(&self) -> RawFd {
        self.descriptor
    }
}

struct Client {
    stream: UnixStream,
    kind: Kind,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
}

#[derive(Default)]
pub struct Clients {
    clients: BTreeMap<usize, Client>,
    next: usize,
    /// The container's standard input, while somebody may still write to it.
    pub input: Option<OwnedFd>,
    /// It stays open when a client's own input ends: the next one may have more.
    pub lasting_input: bool,
    pending: Vec<u8>,
    end_of_input: bool,
}

impl Clients {
    /// Whether nothing is on its way, and there are not too many.
    pub fn may_rest(&self) -> bool {
        let is_quiet = |client: &Client| client.inbox.is_empty() && client.outbox.is_empty();
        self.pending.is_empty() && self.clients.len() <= MOST_ASLEEP && self.clients.values().all(is_quiet)
    }

    pub fn memory(&self) -> Vec<Memory> {
        let memory = |client: &Client| Memory { descriptor: client.stream.as_raw_fd(), kind: client.kind };
        self.clients.values().map(memory).collect()
    }

    /// Those that were there before a sleep.
    pub fn resume(memory: Vec<Memory>, input: Option<OwnedFd>) -> io::Result<Self> {
        let client = |(index, one): (usize, Memory)| {
            let stream = UnixStream::from(sys::adopt(one.descriptor)?);
            Ok((index, Client { stream, kind: one.kind, inbox: vec![], outbox: vec![] }))
        };
        let clients = memory.into_iter().enumerate().map(client).collect::<io::Result<BTreeMap<_, _>>>()?;
        Ok(Self { next: clients.len(), clients, input, ..Self::default() })
    }

    /// Takes a connection. Only root, or the engine's own user, may talk to a supervisor.
    pub fn accept(&mut self, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
            let own = nix::unistd::geteuid().as_raw();
            let peer = getsockopt(&stream, PeerCredentials).map(|credentials| credentials.uid());
            let allowed = peer.is_ok_and(|uid| uid == 0 || uid == own);
            if !allowed || self.clients.len() >= MOST || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let client = Client { stream, kind: Kind::Asking, inbox: vec![], outbox: vec![] };
            self.clients.insert(self.next, client);
            self.next += 1;
        }
    }

    /// What to wait for, by client.
    pub fn sources(&self) -> Vec<(usize, BorrowedFd<'_>, PollFlags)> {
        let input_full = self.pending.len() >= QUEUE;
        let flags = |client: &Client| {
            let read = if client.kind == Kind::Attached && input_full { PollFlags::empty() } else { PollFlags::POLLIN };
            if client.outbox.is_empty() { read } else { read | PollFlags::POLLOUT }
        };
        self.clients.iter().map(|(index, client)| (*index, client.stream.as_fd(), flags(client))).collect()
    }

    /// The container's input, while something waits to be written to it.
    pub fn waiting_input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().filter(|_| !self.pending.is_empty()).map(AsFd::as_fd)
    }

    /// Whether somebody is so far behind that the container must wait.
    pub fn are_full(&self) -> bool {
        self.clients.values().any(|client| client.kind == Kind::Attached && client.outbox.len() >= QUEUE)
    }

    /// A piece of the container's output, for all that are attached.
    pub fn output(&mut self, stream: usize, bytes: &[u8]) {
        let kind = if stream == 0 { frame::STDOUT } else { frame::STDERR };
        let bytes = encode(kind, bytes);
        self.each(|client| client.kind == Kind::Attached, &bytes);
    }

    fn each(&mut self, wanted: impl Fn(&Client) -> bool, bytes: &[u8]) {
        let indices: Vec<usize> =
            self.clients.iter().filter(|(_, client)| wanted(client)).map(|(index, _)| *index).collect();
        for index in indices {
            self.send(index, bytes);
        }
    }

    fn send(&mut self, index: usize, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(&index) else { return };
        client.outbox.extend_from_slice(bytes);
        if !client.flush() {
            self.clients.remove(&index);
        }
    }

    /// Something happened with this client.
    pub fn read(&mut self, index: usize) -> Option<Wish> {
        let client = self.clients.get_mut(&index)?;
        if !client.flush() || !client.fill() {
            self.clients.remove(&index);
            return None;
        }
        self.more(index)
    }

    fn request(&mut self, index: usize) -> Option<Wish> {
        let client = self.clients.get_mut(&index)?;
        let Some(end) = client.inbox.iter().position(|byte| *byte == b'\n') else {
            if client.inbox.len() > LONGEST_REQUEST {
                self.clients.remove(&index);
            }
            return None;
        };
        let rest = client.inbox.split_off(end + 1);
        let line = std::mem::replace(&mut client.inbox, rest);
        let wish = match serde_json::from_slice(&line) {
            Ok(Request::Stop { signal, grace_ms }) => Wish::Stop { signal, grace_ms },
            Ok(Request::Kill { signal }) => Wish::Kill { signal },
            Ok(Request::Pause) => Wish::Freeze(true),
            Ok(Request::Resume) => Wish::Freeze(false),
            Ok(Request::Reload) => Wish::Reload,
            Ok(Request::Rename { name, netns }) => Wish::Rename { name, netns },
            Ok(Request::Attach { replay_since }) => Wish::Attach { replay_since },
            Err(error) => {
                self.answer(index, Err(error.to_string()));
                return None;
            }
        };
        if matches!(wish, Wish::Stop { .. }) {
            client.kind = Kind::Waiting;
        }
        Some(wish)
    }

    /// What else this client has said already, behind a wish that was granted.
    pub fn more(&mut self, index: usize) -> Option<Wish> {
        match self.clients.get(&index)?.kind {
            Kind::Asking => self.request(index),
            Kind::Attached => self.frames(index),
            Kind::Waiting => None,
        }
    }

    fn frames(&mut self, index: usize) -> Option<Wish> {
        loop {
            let client = self.clients.get_mut(&index)?;
            match decode(&mut client.inbox) {
                Ok(Some((frame::STDIN, content))) => self.pending.extend(content),
                Ok(Some((frame::STDIN_END, _))) => self.end_of_input = !self.lasting_input,
                Ok(Some((frame::RESIZE, content))) => {
                    if let [a, b, c, d] = content[..] {
                        let (rows, columns) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                        return Some(Wish::Resize { rows, columns });
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    self.clients.remove(&index);
                    break;
                }
            }
        }
        self.flush_input();
        None
    }

    /// Passes on to the container what it takes now.
    pub fn flush_input(&mut self) {
        let Some(input) = &self.input else {
            self.pending.clear();
            return;
        };
        while !self.pending.is_empty() {
            match nix::unistd::write(input, &self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => return,
                Err(_) => {
                    self.pending.clear();
                    self.input = None;
                    return;
                }
            }
        }
        if self.end_of_input {
            self.input = None;
        }
    }

    /// Answers a request; the client may ask another.
    pub fn answer(&mut self, index: usize, result: Result<(), String>) {
        self.respond(index, &result.map_or_else(Response::Failed, |()| Response::Done));
    }

    fn respond(&mut self, index: usize, response: &Response) {
        let mut text = serde_json::to_vec(response).unwrap_or_default();
        text.push(b'\n');
        self.send(index, &text);
    }

    /// From here on the client gets frames; first, where asked, what the log of this container holds.
    pub fn attach(
        &mut self,
        index: usize,
        replay_since: Option<String>,
        log_of: (&Roots, &str),
        unfinished: &[Vec<u8>; 2],
    ) {
        self.answer(index, Ok(()));
        if let Some(since) = replay_since {
            let (roots, name) = log_of;
            let mut bytes = Vec::new();
            let select = Select { since: Some(since), ..Select::default() };
            let read = logs::read(roots, name, &select, &mut |line| {
                let kind = if line.stream == "stderr" { frame::STDERR } else { frame::STDOUT };
                bytes.extend(encode(kind, line.log.as_bytes()));
                true
            });
            // Without a log there is nothing to replay.
            drop(read);
            for (stream, piece) in unfinished.iter().enumerate().filter(|(_, piece)| !piece.is_empty()) {
                bytes.extend(encode(if stream == 0 { frame::STDOUT } else { frame::STDERR }, piece));
            }
            self.send(index, &bytes);
        }
        if let Some(client) = self.clients.get_mut(&index) {
            client.kind = Kind::Attached;
        }
    }

    /// The container has ended for good: tells everybody who waits, those too who are just connecting.
    pub fn finish(&mut self, listener: &UnixListener, code: i32) {
        self.accept(listener);
        let asking: Vec<usize> =
            self.clients.iter().filter(|(_, client)| client.kind == Kind::Asking).map(|(index, _)| *index).collect();
        for index in asking {
            match self.read(index) {
                Some(Wish::Attach { .. }) | None => {}
                Some(Wish::Stop { .. }) => {}
                Some(_) => self.respond(index, &Response::Ended),
            }
        }
        self.each(|client| client.kind == Kind::Attached, &encode(frame::EXIT, &code.to_be_bytes()));
        let waiting: Vec<usize> =
            self.clients.iter().filter(|(_, client)| client.kind == Kind::Waiting).map(|(index, _)| *index).collect();
        for index in waiting {
            self.answer(index, Ok(()));
        }
        self.take_leave(Instant::now() + FAREWELL);
        self.clients.clear();
    }

    /// Whoever does not listen any more is told nothing.
    fn take_leave(&mut self, until: Instant) {
        loop {
            self.clients.retain(|_, client| client.flush() && !client.outbox.is_empty());
            let left = until.saturating_duration_since(Instant::now());
            if self.clients.is_empty() || left.is_zero() {
                return;
            }
            let streams = self.clients.values().map(|client| client.stream.as_fd());
            let mut waited: Vec<_> = streams.map(|stream| PollFd::new(stream, PollFlags::POLLOUT)).collect();
            match poll(&mut waited, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

impl Client {
    /// Writes what the client takes now. `false` when it is gone.
    fn flush(&mut self) -> bool {
        while !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(count) => drop(self.outbox.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    /// Reads what the client has sent. `false` when it has closed.
    fn fill(&mut self) -> bool {
        let mut piece = [0; 16 << 10];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return false,
                Ok(count) => {
                    self.inbox.extend_from_slice(&piece[..count]);
                    if self.inbox.len() >= QUEUE {
                        return true;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }
}
