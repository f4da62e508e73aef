//! HTTP/1.1 to a plugin, over a unix socket or TCP: one POST a call, bounded in size and time.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, socket};
use nix::sys::stat::Mode;
use nix::sys::time::{TimeVal, TimeValLike};
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, LazyBuffers, NextTimeout, Transport,
};

use super::{Address, Tls};

/// What docker's plugins expect to be spoken to in.
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";
/// A plugin that has more to say has lost its mind; a list of ten thousand volumes fits.
const MOST_BYTES: u64 = 4 << 20;
const CONNECT: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    Unreachable { address: String, reason: String },
    Silent,
    Broken(String),
    Refused(String),
}

/// The way to one plugin.
#[derive(Debug)]
pub struct Channel {
    agent: Agent,
    base: String,
    address: String,
    patience: Duration,
}

impl Channel {
    /// Connects to nobody yet. No call takes longer than `patience`.
    pub fn new(address: &Address, patience: Duration) -> Result<Self, Failure> {
        let said = address.to_string();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .max_idle_connections(0)
            .user_agent(concat!("stack/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT.min(patience)))
            .timeout_global(Some(patience));
        let (agent, base) = match address {
            Address::Unix(path) | Address::Own(path) => {
                let connector = Unix { path: path.clone(), is_own: matches!(address, Address::Own(_)) };
                (
                    Agent::with_parts(config.build(), connector, DefaultResolver::default()),
                    "http://127.0.0.1".to_owned(),
                )
            }
            Address::Tcp { url, tls } => {
                let unusable = |error| Failure::Unreachable { address: said.clone(), reason: error };
                let config = match tls {
                    Some(tls) => config.tls_config(checked_by(tls).map_err(unusable)?),
                    None => config,
                };
                let parts = (DefaultConnector::default(), DefaultResolver::default());
                (Agent::with_parts(config.build(), parts.0, parts.1), url.trim_end_matches('/').to_owned())
            }
        };
        Ok(Self { agent, base, address: said, patience })
    }

    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Status and body of the answer.
    pub fn post(&self, method: &str, body: &[u8]) -> Result<(u16, Vec<u8>), Failure> {
        let request = self.agent.post(format!("{}/{method}", self.base));
        let request = request.header("Accept", MEDIA_TYPE).header("Content-Type", MEDIA_TYPE);
        let mut response = request.send(body).map_err(|error| self.failure(error))?;
        let status = response.status().as_u16();
        let read = response.body_mut().with_config().limit(MOST_BYTES).read_to_vec();
        read.map(|body| (status, body)).map_err(|error| self.failure(error))
    }

    fn failure(&self, error: ureq::Error) -> Failure {
        let unreachable = |reason: String| Failure::Unreachable { address: self.address.clone(), reason };
        match error {
            ureq::Error::Timeout(ureq::Timeout::Connect) => unreachable("nobody takes the connection".to_owned()),
            ureq::Error::Timeout(_) => Failure::Silent,
            ureq::Error::BodyExceedsLimit(_) => Failure::Broken(format!("more than {MOST_BYTES} bytes")),
            ureq::Error::Protocol(error) => Failure::Broken(error.to_string()),
            ureq::Error::Http(error) => Failure::Broken(error.to_string()),
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                unreachable("it has gone in the middle of its answer".to_owned())
            }
            ureq::Error::Io(error) => unreachable(error.to_string()),
            ureq::Error::ConnectionFailed => unreachable("nobody listens".to_owned()),
            other => unreachable(other.to_string()),
        }
    }
}

/// What a TLS connection to the plugin is checked by.
fn checked_by(tls: &Tls) -> Result<TlsConfig, String> {
    let read = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let certificates = |text: &[u8]| -> Vec<Certificate<'static>> {
        let items = ureq::tls::parse_pem(text).filter_map(Result::ok);
        items.filter_map(|item| if let PemItem::Certificate(one) = item { Some(one) } else { None }).collect()
    };
    let mut config = TlsConfig::builder().disable_verification(tls.insecure_skip_verify);
    if let Some(path) = &tls.ca_file {
        config = config.root_certs(RootCerts::from(certificates(&read(path)?)));
    }
    if let (Some(own), Some(key)) = (&tls.cert_file, &tls.key_file) {
        let pem = read(key)?;
        let secret = PrivateKey::from_pem(&pem).map_err(|error| format!("{}: {error}", key.display()))?;
        config = config.client_cert(Some(ClientCert::new_with_certs(&certificates(&read(own)?), secret)));
    }
    Ok(config.build())
}

/// Connects to one socket, whatever the URL says.
#[derive(Debug)]
struct Unix {
    path: PathBuf,
    is_own: bool,
}

impl Connector<()> for Unix {
    type Out = Stream;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Stream>, ureq::Error> {
        let connect = if self.is_own { connect_own } else { connect };
        let stream = connect(&self.path, rest(&details.timeout))?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Stream { stream, buffers }))
    }
}

/// Who listens and takes no connections would keep connect(2) for ever; it waits as long as a send may (unix(7)).
fn connect(path: &Path, within: Option<Duration>) -> io::Result<UnixStream> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let within = within.unwrap_or(CONNECT);
    setsockopt(&socket, SendTimeout, &TimeVal::microseconds(i64::try_from(within.as_micros()).unwrap_or(i64::MAX)))?;
    match nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(nix::Error::EAGAIN) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody takes the connection")),
        done => Ok(done.map(|()| UnixStream::from(socket))?),
    }
}

/// As [`connect`], to what is at this path itself: who made it there may have made a link that leads to a socket of the
/// host.
pub fn connect_own(path: &Path, within: Option<Duration>) -> io::Result<UnixStream> {
    let opened = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    connect(&PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())), within)
}

#[derive(Debug)]
struct Stream {
    stream: UnixStream,
    buffers: LazyBuffers,
}

/// What the kernel says of a time that is over is said as such.
fn in_time<T>(done: io::Result<T>, timeout: &NextTimeout) -> Result<T, ureq::Error> {
    match done {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Err(ureq::Error::Timeout(timeout.reason))
        }
        done => Ok(done?),
    }
}

/// How long the kernel is to wait; it takes zero for ever.
fn rest(timeout: &NextTimeout) -> Option<Duration> {
    timeout.not_zero().map(|left| (*left).max(Duration::from_millis(1)))
}

impl Transport for Stream {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.set_write_timeout(rest(&timeout))?;
        let written = self.stream.write_all(&self.buffers.output()[..amount]);
        in_time(written, &timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.set_read_timeout(rest(&timeout))?;
        let amount = loop {
            match self.stream.read(self.buffers.input_append_buf()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => break in_time(done, &timeout)?,
            }
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// Connections are not kept.
    fn is_open(&mut self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_link_of_a_plugin_leads_to_no_socket_of_the_host() {
        let folder = std::env::temp_dir().join(format!("stack-link-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (of_host, link) = (folder.join("host"), folder.join("link"));
        let _listener = UnixListener::bind(&of_host).unwrap();
        std::os::unix::fs::symlink(&of_host, &link).unwrap();
        let second = Some(Duration::from_secs(1));
        assert!(connect(&link, second).is_ok() && connect_own(&of_host, second).is_ok());
        assert!(connect_own(&link, second).is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
