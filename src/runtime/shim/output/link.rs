//! The way to a service that takes messages: connected to without waiting, and again when it was lost.

use std::fs::File;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, SockaddrStorage, UnixAddr, connect,
    getsockopt, recv, send, sendmsg, shutdown, socket, sockopt,
};

use super::apart;
use super::lookup::Lookup;
use super::scribe::{self, Desk};
use super::tls::{self, Way};
use crate::runtime::container::{Config, LogService, SyslogAddress};
use crate::runtime::shim::sleeper;

const JOURNAL: &str = "/run/systemd/journal/socket";
/// Where log servers of this host usually are.
const USUAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// How long a server may take to accept.
const PATIENCE: Duration = Duration::from_secs(10);
/// And where it has to agree on keys, and is looked up before that.
const PATIENCE_WITH_KEYS: Duration = Duration::from_secs(30);
/// How much of what it says is listened to at once, in bytes.
const MOST_HEARD: usize = 64 << 10;

/// Who is given lines.
pub enum Receiver {
    /// Who writes the files in this directory.
    Files(PathBuf),
    Service(LogService),
    /// Who reads this pipe: a plugin.
    Pipe(PathBuf),
}

/// Who is spoken to.
enum Server {
    /// `HOST:PORT`.
    Host(String, SockType),
    /// The first of these that is there.
    Places(Vec<Place>),
    Scribe(Box<Desk>),
    /// By a process that speaks TLS to it.
    Tls(Box<Way>),
    Pipe(PathBuf),
}

#[derive(Clone)]
enum Place {
    Address(SocketAddr, SockType),
    Path(PathBuf, SockType),
}

enum State {
    Down,
    LookingUp(Lookup),
    Connecting {
        socket: OwnedFd,
        kind: SockType,
        until: Instant,
        others: Vec<Place>,
    },
    /// Somebody else connects, and will say so.
    Waiting {
        socket: OwnedFd,
        said: Vec<u8>,
        until: Instant,
    },
    Up {
        socket: OwnedFd,
        kind: SockType,
    },
}

pub struct Link {
    server: Server,
    /// What is too large for a datagram may come as a file.
    takes_files: bool,
    state: State,
    /// What it has said, and nobody has listened to yet.
    heard: Vec<u8>,
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// So many bytes of it; of a datagram it is all.
    Bytes(usize),
    /// Not now.
    Later,
    /// It is one that can't be sent, for this reason.
    Never(Errno),
}

impl Server {
    fn of(service: &LogService) -> Self {
        let LogService::Syslog(syslog) = service else {
            return Self::Places(vec![Place::Path(JOURNAL.into(), SockType::Datagram)]);
        };
        match &syslog.address {
            SyslogAddress::Udp(server) => Self::Host(server.clone(), SockType::Datagram),
            SyslogAddress::Tcp(server) => Self::Host(server.clone(), SockType::Stream),
            SyslogAddress::Tls(server, tls) => Self::Tls(Box::new(Way { server: server.clone(), tls: tls.clone() })),
            SyslogAddress::Unix(path) => Self::Places(vec![Place::Path(path.clone(), SockType::Stream)]),
            SyslogAddress::UnixDatagram(path) => Self::Places(vec![Place::Path(path.clone(), SockType::Datagram)]),
            SyslogAddress::Local => {
                let of = |kind| USUAL.iter().map(move |path| Place::Path(path.into(), kind));
                Self::Places(of(SockType::Datagram).chain(of(SockType::Stream)).collect())
            }
        }
    }
}

impl Link {
    /// For this container's lines.
    pub fn to(receiver: &Receiver, config: &Config) -> Self {
        let takes_files = matches!(receiver, Receiver::Service(LogService::Journald));
        let server = match receiver {
            Receiver::Files(directory) => {
                Server::Scribe(Box::new(Desk { directory: directory.clone(), config: config.clone() }))
            }
            Receiver::Service(service) => Server::of(service),
            Receiver::Pipe(path) => Server::Pipe(path.clone()),
        };
        Self { server, takes_files, state: State::Down, heard: Vec::new() }
    }

    /// Whether anything is where it is looked for first; of a server on the network nobody knows.
    pub fn is_there(&self) -> Result<(), String> {
        let places = match &self.server {
            Server::Places(places) => places,
            Server::Pipe(path) if !path.exists() => {
                return Err(format!("there is no pipe {}\n  help: `stack start` makes it", path.display()));
            }
            _ => return Ok(()),
        };
        let paths = places.iter().filter_map(|place| match place {
            Place::Path(path, _) => Some(path),
            Place::Address(..) => None,
        });
        if paths.clone().any(|path| path.exists()) {
            return Ok(());
        }
        let shown: Vec<String> = paths.take(USUAL.len()).map(|path| path.display().to_string()).collect();
        Err(format!(
            "no service listens at {} of this host\n  help: choose another logging driver or address",
            shown.join(", ")
        ))
    }

    pub fn is_down(&self) -> bool {
        matches!(self.state, State::Down)
    }

    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Begins to connect.
    pub fn begin(&mut self, now: Instant) -> io::Result<()> {
        match &self.server {
            Server::Scribe(desk) => {
                self.state = State::Up { socket: scribe::begin(desk)?, kind: SockType::Stream };
                Ok(())
            }
            Server::Tls(way) => {
                let socket = apart::begin(|messages| tls::pass_on(messages, way))?;
                self.state = State::Waiting { socket, said: Vec::new(), until: now + PATIENCE_WITH_KEYS };
                Ok(())
            }
            Server::Places(places) => self.try_places(places.clone(), now),
            // Fails where nobody reads (fifo(7)).
            Server::Pipe(path) => {
                let pipe = File::options().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)?;
                self.state = State::Up { socket: pipe.into(), kind: SockType::Stream };
                Ok(())
            }
            Server::Host(server, kind) => match server.parse() {
                Ok(address) => self.try_places(vec![Place::Address(address, *kind)], now),
                Err(_) => {
                    self.state = State::LookingUp(Lookup::begin(server, now)?);
                    Ok(())
                }
            },
        }
    }

    /// Something has happened with what is waited for.
    pub fn proceed(&mut self, now: Instant) -> io::Result<()> {
        match std::mem::replace(&mut self.state, State::Down) {
            State::LookingUp(mut lookup) => match lookup.read()? {
                None if lookup.until <= now => Err(io::ErrorKind::TimedOut.into()),
                None => {
                    self.state = State::LookingUp(lookup);
                    Ok(())
                }
                Some(addresses) => {
                    let kind = match &self.server {
                        Server::Host(_, kind) => *kind,
                        Server::Places(_) | Server::Scribe(_) | Server::Tls(_) | Server::Pipe(_) => SockType::Datagram,
                    };
                    let places = addresses.into_iter().map(|address| Place::Address(address, kind));
                    self.try_places(places.collect(), now)
                }
            },
            State::Connecting { socket, kind, until, others } => match getsockopt(&socket, sockopt::SocketError)? {
                0 if is_connected(&socket) => {
                    self.state = State::Up { socket, kind };
                    Ok(())
                }
                0 if now < until => {
                    self.state = State::Connecting { socket, kind, until, others };
                    Ok(())
                }
                0 => self.try_places_after(others, io::ErrorKind::TimedOut.into(), now),
                error => self.try_places_after(others, io::Error::from_raw_os_error(error), now),
            },
            State::Waiting { socket, said, until } => self.hear(socket, said, until, now),
            State::Up { socket, kind } => {
                if self.has_ended(&socket, kind) {
                    return Ok(());
                }
                self.state = State::Up { socket, kind };
                Ok(())
            }
            State::Down => Ok(()),
        }
    }

    /// Whether who connects has come to an end with it: a line says that it has, or why not.
    fn hear(&mut self, socket: OwnedFd, mut said: Vec<u8>, until: Instant, now: Instant) -> io::Result<()> {
        let mut piece = [0; 1024];
        let is_over = match recv(socket.as_raw_fd(), &mut piece, MsgFlags::MSG_DONTWAIT) {
            Ok(count) => {
                said.extend_from_slice(&piece[..count]);
                count == 0
            }
            Err(Errno::EAGAIN | Errno::EINTR) => false,
            Err(error) => return Err(error.into()),
        };
        if said == tls::READY {
            self.state = State::Up { socket, kind: SockType::Stream };
            return Ok(());
        }
        if let Some(reason) = said.strip_suffix(b"\n") {
            return Err(io::Error::other(String::from_utf8_lossy(reason).into_owned()));
        }
        match is_over {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false if until <= now => Err(io::ErrorKind::TimedOut.into()),
            false => {
                self.state = State::Waiting { socket, said, until };
                Ok(())
            }
        }
    }

    fn try_places(&mut self, places: Vec<Place>, now: Instant) -> io::Result<()> {
        self.try_places_after(places, io::ErrorKind::NotFound.into(), now)
    }

    /// `error` is what the one before has failed with.
    fn try_places_after(&mut self, places: Vec<Place>, mut error: io::Error, now: Instant) -> io::Result<()> {
        let mut others = places.into_iter();
        while let Some(place) = others.next() {
            let kind = place.kind();
            match place.connect() {
                Ok((socket, true)) => {
                    self.state = State::Up { socket, kind };
                    return Ok(());
                }
                Ok((socket, false)) => {
                    self.state = State::Connecting { socket, kind, until: now + PATIENCE, others: others.collect() };
                    return Ok(());
                }
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    pub fn close(&mut self) {
        self.state = State::Down;
    }

    /// There is nothing more to send. Says whether an answer is to be waited for.
    pub fn shut(&mut self) -> bool {
        match (&self.server, &self.state) {
            (Server::Scribe(_) | Server::Tls(_), State::Up { socket, .. }) => {
                shutdown(socket.as_raw_fd(), Shutdown::Write).is_ok()
            }
            _ => false,
        }
    }

    /// What it has said since this was asked last.
    pub fn listen(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.heard)
    }

    /// Reads what it says, until it says that it goes.
    fn has_ended(&mut self, socket: &OwnedFd, kind: SockType) -> bool {
        if matches!(self.server, Server::Pipe(_)) {
            let mut pipe = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            let looked = poll(&mut pipe, PollTimeout::ZERO);
            return looked.is_ok() && pipe[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLERR));
        }
        let mut piece = [0; 1024];
        // One that never stops talking is listened to again when it is its turn.
        for _ in 0..MOST_HEARD / piece.len() {
            match recv(socket.as_raw_fd(), &mut piece, MsgFlags::MSG_DONTWAIT) {
                Ok(0) if kind == SockType::Stream => return true,
                Ok(count) => {
                    // A server on the network has nothing to say.
                    if self.heard.len() < MOST_HEARD && matches!(self.server, Server::Scribe(_)) {
                        self.heard.extend_from_slice(&piece[..count]);
                    }
                }
                // Nobody listens where it was sent to, at the moment.
                Err(Errno::EINTR | Errno::ECONNREFUSED) => {}
                Err(Errno::EAGAIN) => return false,
                Err(_) => return true,
            }
        }
        false
    }

    /// What to wait for. `has_more`: something is to be sent.
    pub fn source(&self, has_more: bool) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.state {
            State::Down => None,
            State::LookingUp(lookup) => Some((lookup.source(), PollFlags::POLLIN)),
            State::Connecting { socket, .. } => Some((socket.as_fd(), PollFlags::POLLOUT)),
            State::Waiting { socket, .. } => Some((socket.as_fd(), PollFlags::POLLIN)),
            State::Up { socket, .. } => {
                let more = if has_more { PollFlags::POLLOUT } else { PollFlags::empty() };
                Some((socket.as_fd(), PollFlags::POLLIN | more))
            }
        }
    }

    /// When it has taken too long.
    pub fn until(&self) -> Option<Instant> {
        match &self.state {
            State::LookingUp(lookup) => Some(lookup.until),
            State::Connecting { until, .. } | State::Waiting { until, .. } => Some(*until),
            State::Down | State::Up { .. } => None,
        }
    }

    /// As much of the message as the service takes now.
    ///
    /// # Errors
    /// Where there is no connection any more.
    pub fn send(&mut self, message: &[u8]) -> io::Result<Sent> {
        let State::Up { socket, kind } = &self.state else { return Ok(Sent::Later) };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let mut sent = match self.server {
            Server::Pipe(_) => nix::unistd::write(socket, message),
            _ => send(socket.as_raw_fd(), message, flags),
        };
        let is_datagram = *kind == SockType::Datagram;
        let is_lossy = is_datagram && matches!(self.server, Server::Host(..));
        if is_lossy && sent.is_err() {
            // What is wrong may be the one before: somebody has said that nobody listens. That is no reason to wait.
            sent = send(socket.as_raw_fd(), message, flags);
        }
        let error = match sent {
            Ok(count) => return Ok(Sent::Bytes(count)),
            Err(error) => error,
        };
        match error {
            Errno::EAGAIN | Errno::EINTR => Ok(Sent::Later),
            Errno::EMSGSIZE | Errno::ENOBUFS if self.takes_files => Ok(match send_file(socket, message) {
                Ok(()) => Sent::Bytes(message.len()),
                Err(Errno::EAGAIN | Errno::EINTR) => Sent::Later,
                Err(error) => Sent::Never(error),
            }),
            Errno::EMSGSIZE | Errno::ENOBUFS if is_datagram => Ok(Sent::Never(error)),
            _ if is_lossy => Ok(Sent::Never(error)),
            other => {
                self.state = State::Down;
                Err(other.into())
            }
        }
    }
}

impl Place {
    fn kind(&self) -> SockType {
        match self {
            Self::Address(_, kind) | Self::Path(_, kind) => *kind,
        }
    }

    /// The socket, and whether it is connected already.
    fn connect(&self) -> io::Result<(OwnedFd, bool)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (family, kind) = match self {
            Self::Address(SocketAddr::V4(_), kind) => (AddressFamily::Inet, *kind),
            Self::Address(SocketAddr::V6(_), kind) => (AddressFamily::Inet6, *kind),
            Self::Path(_, kind) => (AddressFamily::Unix, *kind),
        };
        let socket = socket(family, kind, flags, None)?;
        let connected = match self {
            Self::Address(address, _) => connect(socket.as_raw_fd(), &SockaddrStorage::from(*address)),
            Self::Path(path, _) => connect(socket.as_raw_fd(), &UnixAddr::new(path)?),
        };
        match connected {
            Ok(()) => Ok((socket, true)),
            Err(Errno::EINPROGRESS) => Ok((socket, false)),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_connected(socket: &OwnedFd) -> bool {
    nix::sys::socket::getpeername::<SockaddrStorage>(socket.as_raw_fd()).is_ok()
}

/// As a file that nobody can change, where the message is too large for a datagram (systemd, JOURNAL_NATIVE_PROTOCOL).
fn send_file(socket: &OwnedFd, message: &[u8]) -> Result<(), Errno> {
    let file = sleeper::in_memory(c"message", message, false);
    let file = file.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))?;
    let descriptors = [file.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&descriptors)];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&[])], &control, flags, None).map(drop)
}
