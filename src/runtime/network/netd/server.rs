//! The server's loop: one thread for ports and questions that it can answer itself, a short-lived one for each question
//! that somebody else has to be asked.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::socket::{Backlog, listen};

use super::again::Again;
use super::datagrams::Datagrams;
use super::handover::{self, Handover, Received};
use super::message::{self, Outcome, Transport};
use super::poller::{Poller, Token};
use super::streams::Streams;
use super::wanted::{Listener, Protocol, Target, Wanted};
use super::zone::Zone;
use super::{OVER, build, sockets, upstream, wanted};
use crate::runtime::network::{resolver, sandbox};
use crate::runtime::roots::Roots;

/// Connections and clients of all ports together.
const MOST: usize = 4096;
/// Questions that wait for others at once; more are answered with a failure.
const MOST_QUESTIONS: usize = 256;
/// Questions taken from one socket before others get their turn.
const TURN: usize = 64;
const PATIENCE: Duration = Duration::from_secs(5);
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How long whoever asks may take to say what; they have it ready.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// Answers questions in one namespace.
pub(super) struct Resolver {
    /// Which namespace: a container that was removed and made again has another.
    pub inode: u64,
    pub udp: Arc<UdpSocket>,
    pub tcp: TcpListener,
    udp_token: Token,
    tcp_token: Token,
}

pub(super) enum Open {
    Tcp(TcpListener),
    Udp(Rc<UdpSocket>),
}

pub(super) struct Port {
    pub open: Open,
    token: Token,
    pub target: Target,
}

pub struct Server {
    roots: Roots,
    pub(super) control: UnixListener,
    control_token: Token,
    poller: Poller,
    zone: Arc<Zone>,
    pub(super) resolvers: BTreeMap<String, Resolver>,
    pub(super) ports: BTreeMap<Listener, Port>,
    pub(super) streams: Streams,
    datagrams: Datagrams,
    /// Where ports are published, and the kernel tells of packets.
    again: Option<(Again, Token)>,
    turn: usize,
    questions: Arc<AtomicUsize>,
}

impl Server {
    pub fn new(roots: &Roots) -> io::Result<Self> {
        Self::with(roots, UnixListener::bind(super::socket(roots))?)
    }

    fn with(roots: &Roots, control: UnixListener) -> io::Result<Self> {
        control.set_nonblocking(true)?;
        let mut poller = Poller::new()?;
        let control_token = poller.token();
        poller.add_readable(&control, control_token)?;
        Ok(Self {
            roots: roots.clone(),
            control,
            control_token,
            poller,
            zone: Arc::default(),
            resolvers: BTreeMap::new(),
            ports: BTreeMap::new(),
            streams: Streams::new(MOST),
            datagrams: Datagrams::new(MOST),
            again: None,
            turn: 0,
            questions: Arc::default(),
        })
    }

    /// Until nothing is left to serve.
    pub fn run(&mut self) -> ExitCode {
        loop {
            let unfinished = self.streams.unfinished();
            let idle = self.datagrams.expire();
            let timeout = if unfinished.is_empty() { idle } else { Some(Duration::ZERO) };
            let Ok(ready) = self.poller.wait(timeout) else { return ExitCode::FAILURE };
            for token in unfinished.into_iter().chain(ready) {
                if token == self.control_token {
                    if self.controlled() {
                        return ExitCode::SUCCESS;
                    }
                } else {
                    self.handle(token);
                }
            }
        }
    }

    fn handle(&mut self, token: Token) {
        if self.streams.has(token) {
            return self.streams.pump(token);
        }
        if self.datagrams.has(token) {
            return self.datagrams.reply(token);
        }
        if let Some((again, _)) = self.again.as_mut().filter(|(_, own)| *own == token) {
            return again.forward();
        }
        if let Some(port) = self.ports.values().find(|port| port.token == token) {
            let target = port.target.address;
            return match &port.open {
                Open::Tcp(listener) => self.streams.accept(&mut self.poller, listener, target),
                Open::Udp(socket) => self.datagrams.receive(&mut self.poller, socket, token, target),
            };
        }
        let found = self.resolvers.iter().find(|(_, one)| one.udp_token == token || one.tcp_token == token);
        let Some((container, resolver)) = found else { return };
        if resolver.udp_token == token {
            let (container, udp) = (container.clone(), Arc::clone(&resolver.udp));
            self.datagram_questions(&container, &udp);
        } else {
            while let Ok((stream, _)) = resolver.tcp.accept() {
                self.turn += 1;
                stream_questions(
                    &self.roots,
                    stream,
                    Arc::clone(&self.zone),
                    container.clone(),
                    self.turn,
                    &self.questions,
                );
            }
        }
    }

    fn datagram_questions(&mut self, container: &str, udp: &Arc<UdpSocket>) {
        let mut buffer = [0; 4096];
        for _ in 0..TURN {
            let Ok((length, from)) = udp.recv_from(&mut buffer) else { return };
            let packet = &buffer[..length];
            self.turn += 1;
            match message::handle(&self.zone, container, packet, Transport::Udp, self.turn) {
                // A lost answer is asked for again.
                Outcome::Reply(reply) => drop(udp.send_to(&reply, from)),
                Outcome::Forward(servers) => {
                    let (udp, packet) = (Arc::clone(udp), packet.to_vec());
                    self.ask_others(servers, packet, move |reply| drop(udp.send_to(&reply, from)));
                }
                Outcome::Drop => {}
            }
        }
    }

    fn ask_others(&self, servers: Vec<String>, packet: Vec<u8>, send: impl FnOnce(Vec<u8>) + Send + 'static) {
        let roots = self.roots.clone();
        let spawned = one_more(&self.questions, move || {
            if let Some(reply) = forwarded(&roots, &packet, Transport::Udp, &servers) {
                send(message::fit(reply, &packet, Transport::Udp));
            }
        });
        // Too many wait already: the container asks again.
        drop(spawned);
    }

    /// Goes on with the sockets of another build of this program.
    pub fn adopt(roots: &Roots, left: &Handover, received: &mut Received) -> io::Result<Self> {
        let control = left.control(received)?;
        // Whoever connects from now on sees that it is this process that answers (unix(7), `SO_PEERCRED`).
        listen(&control, Backlog::MAXALLOWABLE)?;
        let mut server = Self::with(roots, control)?;
        for part in &left.resolvers {
            let (udp, tcp) = part.sockets(received)?;
            let resolver = server.add_resolver(part.inode, udp, tcp)?;
            server.resolvers.insert(part.container.clone(), resolver);
        }
        for part in &left.ports {
            let port = server.add_port(part.open(received)?, part.target())?;
            server.ports.insert(part.listener, port);
        }
        for part in &left.streams {
            server.streams.resume(&mut server.poller, part.connection(received)?)?;
        }
        Ok(server)
    }

    /// Somebody has changed something. `true` when there is nothing left to serve.
    fn controlled(&mut self) -> bool {
        while let Ok((stream, _)) = self.control.accept() {
            // Who only looks whether somebody listens says nothing.
            let Ok(Some(theirs)) = question(&stream) else { continue };
            // Where that fails, this one goes on serving.
            if build(Path::new("/proc/self/exe")).is_ok_and(|own| own != theirs)
                && handover::give(self, &stream).is_ok()
            {
                return true;
            }
            let mut failures = self.look();
            let over = self.is_idle();
            // Whoever asked holds the lock, and removes the socket.
            failures.extend(over.then(|| OVER.to_owned()));
            // One that does not listen any more needs no answer.
            tell(&stream, &failures).ok();
            if over {
                return true;
            }
        }
        false
    }

    fn is_idle(&self) -> bool {
        self.resolvers.is_empty() && self.ports.is_empty() && wanted(&self.roots).is_ok_and(|wanted| wanted.is_empty())
    }

    /// Serves what is written down now. Returns what could not be served.
    pub fn look(&mut self) -> Vec<String> {
        match wanted(&self.roots) {
            Ok(wanted) => self.serve(&wanted),
            Err(error) => vec![error.to_string().replace('\n', " ")],
        }
    }

    /// Opens what is missing and closes what is no longer wanted. Returns what could not be opened.
    fn serve(&mut self, wanted: &Wanted) -> Vec<String> {
        self.zone = Arc::new(wanted.zone.clone());
        let mut failures = Vec::new();
        let roots = self.roots.clone();
        let inode =
            |container: &str| fs::metadata(sandbox::path(&roots, container)).map(|data| data.ino()).unwrap_or(0);
        self.resolvers.retain(|name, one| wanted.resolvers.contains(name) && one.inode == inode(name));
        for container in &wanted.resolvers {
            if !self.resolvers.contains_key(container) {
                match self.resolver(container, inode(container)) {
                    Ok(resolver) => drop(self.resolvers.insert(container.clone(), resolver)),
                    // Taken away meanwhile.
                    Err(_) if !sandbox::exists(&roots, container) => {}
                    Err(error) => failures.push(format!("names for {container}: {error}")),
                }
            }
        }
        let gone: Vec<Listener> = self.ports.keys().filter(|one| !wanted.ports.contains_key(one)).copied().collect();
        for port in gone.iter().filter_map(|listener| self.ports.remove(listener)) {
            self.datagrams.close(port.token);
        }
        if wanted.ports.is_empty() {
            self.again = None;
        } else if self.again.is_none() {
            // A kernel without such copies leaves it to the client to try again.
            self.again = self.again().ok();
        }
        for (listener, target) in &wanted.ports {
            match self.ports.get_mut(listener) {
                Some(port) => port.target = target.clone(),
                None => match self.port(listener, target) {
                    Ok(port) => drop(self.ports.insert(*listener, port)),
                    Err(_) if target.optional => {}
                    Err(error) => failures.push(format!("port {listener} of {}: {error}", target.container)),
                },
            }
        }
        failures
    }

    fn resolver(&mut self, container: &str, inode: u64) -> io::Result<Resolver> {
        let (udp, tcp) = sandbox::inside(&sandbox::path(&self.roots, container), || {
            let address = SocketAddr::from((resolver::ADDRESS, resolver::PORT));
            Ok((UdpSocket::bind(address)?, TcpListener::bind(address)?))
        })?;
        self.add_resolver(inode, udp, tcp)
    }

    fn add_resolver(&mut self, inode: u64, udp: UdpSocket, tcp: TcpListener) -> io::Result<Resolver> {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let (udp_token, tcp_token) = (self.poller.token(), self.poller.token());
        self.poller.add_readable(&udp, udp_token)?;
        self.poller.add_readable(&tcp, tcp_token)?;
        Ok(Resolver { inode, udp: Arc::new(udp), tcp, udp_token, tcp_token })
    }

    fn again(&mut self) -> io::Result<(Again, Token)> {
        let (again, token) = (Again::new(&self.roots)?, self.poller.token());
        self.poller.add_readable(&again, token)?;
        Ok((again, token))
    }

    fn port(&mut self, listener: &Listener, target: &Target) -> io::Result<Port> {
        let open = match listener.protocol {
            Protocol::Tcp => Open::Tcp(sockets::listen_tcp(&self.roots, listener.address)?),
            Protocol::Udp => Open::Udp(Rc::new(sockets::bind_udp(&self.roots, listener.address)?)),
        };
        self.add_port(open, target.clone())
    }

    fn add_port(&mut self, open: Open, target: Target) -> io::Result<Port> {
        let token = self.poller.token();
        match &open {
            Open::Tcp(socket) => self.poller.add_readable(socket, token)?,
            Open::Udp(socket) => self.poller.add_readable(socket, token)?,
        }
        Ok(Port { open, token, target })
    }
}

/// Which build asks to look again; `None` where nobody asks anything.
fn question(stream: &UnixStream) -> io::Result<Option<String>> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(SHORT_PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim().strip_prefix("look ").map(str::to_owned))
}

/// A line a failure, then an empty one.
fn tell(mut stream: &UnixStream, failures: &[String]) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let lines: String = failures.iter().map(|failure| format!("{failure}\n")).collect();
    stream.write_all(format!("{lines}\n").as_bytes())
}

/// The reply of others, or a failure to send back.
fn forwarded(roots: &Roots, packet: &[u8], transport: Transport, servers: &[String]) -> Option<Vec<u8>> {
    let servers = upstream::servers(servers, Path::new(RESOLV_CONF));
    upstream::ask(roots, packet, transport, &servers).or_else(|| message::server_failure(packet))
}

/// Runs this on a thread, unless too many run already.
fn one_more(count: &Arc<AtomicUsize>, action: impl FnOnce() + Send + 'static) -> io::Result<()> {
    if count.fetch_add(1, Ordering::Relaxed) >= MOST_QUESTIONS {
        count.fetch_sub(1, Ordering::Relaxed);
        return Err(io::ErrorKind::QuotaExceeded.into());
    }
    let running = Arc::clone(count);
    let spawned = std::thread::Builder::new().name("question".into()).spawn(move || {
        action();
        running.fetch_sub(1, Ordering::Relaxed);
    });
    if spawned.is_err() {
        count.fetch_sub(1, Ordering::Relaxed);
    }
    spawned.map(drop)
}

/// Questions over TCP, one after the other, until the client closes or is silent.
fn stream_questions(
    roots: &Roots,
    stream: TcpStream,
    zone: Arc<Zone>,
    container: String,
    turn: usize,
    count: &Arc<AtomicUsize>,
) {
    let roots = roots.clone();
    let answered = one_more(count, move || {
        // The client sees the end of the connection.
        answer_stream(&roots, stream, &zone, &container, turn).ok();
    });
    // Too many: the connection is closed.
    drop(answered);
}

fn answer_stream(roots: &Roots, mut stream: TcpStream, zone: &Zone, container: &str, turn: usize) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    loop {
        let packet = upstream::read_message(&mut stream)?;
        let reply = match message::handle(zone, container, &packet, Transport::Tcp, turn) {
            Outcome::Reply(reply) => Some(reply),
            Outcome::Forward(servers) => forwarded(roots, &packet, Transport::Tcp, &servers),
            Outcome::Drop => None,
        };
        upstream::write_message(&mut stream, &reply.ok_or(io::ErrorKind::InvalidData)?)?;
    }
}
