//! TLS to a log server: a further process that connects, and passes messages on. The supervisor itself stays without keys
//! and without the memory that they take; it hears a line once the connection stands, or why it does not.
//!
//! The supervisor ends the connection by closing its own side: all that it has said before is passed on first.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::runtime::container::SyslogTls;
use crate::runtime::image::registry::SYSTEM_ROOTS;
use crate::runtime::{init, sys};

/// How long a server may take for each thing that it has to do.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much is read at once, in bytes.
const PIECE: usize = 16 << 10;

/// What is said once the connection stands.
pub const READY: &[u8] = b"+\n";

/// Where to, and whom to trust.
#[derive(Clone)]
pub struct Way {
    /// `HOST:PORT`.
    pub server: String,
    pub tls: SyslogTls,
}

/// Connects, and passes on what comes until its end.
///
/// # Errors
/// Where the supervisor can't be told.
pub fn pass_on(mut messages: UnixStream, way: &Way) -> io::Result<()> {
    sys::close_all_but(messages.as_fd())?;
    match Server::connect(way) {
        Ok(mut server) => {
            // What the server sends is a stranger's word; nothing but the two sockets is needed from here on.
            init::keep_capabilities(&[])?;
            messages.write_all(READY)?;
            server.serve(&mut messages)
        }
        Err(error) => messages.write_all(format!("{}: {error}\n", way.server).as_bytes()),
    }
}

struct Server {
    connection: ClientConnection,
    socket: TcpStream,
}

impl Server {
    fn connect(way: &Way) -> io::Result<Self> {
        let config = config(&way.tls)?;
        let host = way.server.rsplit_once(':').map_or(way.server.as_str(), |(host, _)| host);
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(io::Error::other)?;
        let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let mut socket = reach(&way.server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        connection.complete_io(&mut socket)?;
        Ok(Self { connection, socket })
    }

    fn serve(&mut self, messages: &mut UnixStream) -> io::Result<()> {
        let mut piece = [0; PIECE];
        loop {
            let waited = [messages.as_fd(), self.socket.as_fd()];
            let mut waited = waited.map(|source| PollFd::new(source, PollFlags::POLLIN));
            match poll(&mut waited, PollTimeout::NONE) {
                Ok(_) => {}
                Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let [has_message, has_answer] = waited.map(|one| one.revents().is_some_and(|flags| !flags.is_empty()));
            if has_answer && !self.listen()? {
                return Ok(());
            }
            if !has_message {
                continue;
            }
            match messages.read(&mut piece)? {
                0 => {
                    self.connection.send_close_notify();
                    return self.flush();
                }
                count => self.connection.writer().write_all(&piece[..count])?,
            }
            self.flush()?;
        }
    }

    /// What it says is of no interest, but for its end. `false` at that.
    fn listen(&mut self) -> io::Result<bool> {
        if self.connection.read_tls(&mut self.socket)? == 0 {
            return Ok(false);
        }
        let state = self.connection.process_new_packets().map_err(io::Error::other)?;
        let mut ignored = vec![0; state.plaintext_bytes_to_read()];
        self.connection.reader().read_exact(&mut ignored)?;
        self.flush()?;
        Ok(!state.peer_has_closed())
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

/// By the first of its addresses that answers.
fn reach(server: &str) -> io::Result<TcpStream> {
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for address in server.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn config(tls: &SyslogTls) -> io::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let builder = if tls.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        builder.with_root_certificates(roots(tls.ca.as_deref())?)
    };
    let Some((chain, key)) = &tls.client else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(chain)?;
    let own = PrivateKeyDer::from_pem_file(key).map_err(in_file(key))?;
    builder.with_client_auth_cert(chain, own).map_err(in_file(key))
}

fn roots(file: Option<&Path>) -> io::Result<RootCertStore> {
    let system = || SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.is_file());
    let file = file.or_else(system).ok_or_else(|| io::Error::other("this host has no file of trusted certificates"))?;
    let mut roots = RootCertStore::empty();
    match roots.add_parsable_certificates(certificates(file)?) {
        (0, _) => Err(in_file(file)("no certificate that can be trusted")),
        _ => Ok(roots),
    }
}

fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(file).map_err(in_file(file))?;
    found.collect::<Result<_, _>>().map_err(in_file(file))
}

fn in_file<E: ToString>(file: &Path) -> impl Fn(E) -> io::Error {
    move |error| io::Error::other(format!("{}: {}", file.display(), error.to_string()))
}

/// Takes every certificate (`syslog-tls-skip-verify`); who has its key is seen to all the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
