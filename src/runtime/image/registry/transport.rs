//! One request, with its redirects. Authorization goes to the scheme, host and port it was meant for and to no other.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use ureq::http::{self, Method, Response, Uri};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body, SendBody};

use super::RegistryError;
use super::lookup::{self, Lookup};
use crate::runtime::image::settings::{Settings, bare_host};

const MOST_REDIRECTS: u32 = 5;
const CONNECT: Duration = Duration::from_secs(10);
const MOST_IDLE: usize = 8;
/// Where distributions keep what the host trusts; the first that is there.
pub const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/ssl/cert.pem",
];

pub struct Request<'a> {
    pub method: Method,
    pub uri: &'a Uri,
    pub headers: Vec<(&'static str, String)>,
    pub authorization: Option<&'a str>,
    pub payload: Payload<'a>,
}

/// What is sent along; can be sent again.
pub enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    /// A piece of a file.
    Piece {
        file: &'a Path,
        from: u64,
        length: u64,
    },
}

impl Payload<'_> {
    /// The same once more.
    pub fn again(&self) -> Payload<'_> {
        match self {
            Self::None => Payload::None,
            Self::Bytes(bytes) => Payload::Bytes(bytes),
            Self::Piece { file, from, length } => Payload::Piece { file, from: *from, length: *length },
        }
    }
}

impl<'a> Request<'a> {
    pub fn get(uri: &'a Uri, accept: &str) -> Self {
        let headers = vec![("accept", accept.to_owned())];
        Self { method: Method::GET, uri, headers, authorization: None, payload: Payload::None }
    }
}

pub struct Transport<'a> {
    settings: &'a Settings,
    /// By whom they trust, and whether they speak TLS: one that does not has read no certificates.
    agents: Mutex<HashMap<(Trust, bool), Agent>>,
    roots: OnceLock<Vec<Certificate<'static>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Trust {
    System,
    /// As the system, never through a proxy.
    Local,
    Folder(PathBuf),
    Anybody,
}

/// Scheme, host and port: what a password is given to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin(String, String, u16);

impl Origin {
    pub fn of(uri: &Uri) -> Self {
        let scheme = uri.scheme_str().unwrap_or("https").to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
        Self(scheme, uri.host().unwrap_or_default().to_ascii_lowercase(), port)
    }

    pub fn host(&self) -> &str {
        &self.1
    }

    /// Whether what is sent there can be read by nobody on the way, or the host's owner does not mind.
    pub fn is_safe(&self, settings: &Settings) -> bool {
        let declared = || settings.is_insecure(&format!("{}:{}", self.1, self.2)) || settings.is_insecure(&self.1);
        self.0 == "https" || (self.0 == "http" && (is_loopback(&self.1) || declared()))
    }
}

/// Whether a host, with a port or not, is this very machine by its own word.
pub fn is_loopback(host: &str) -> bool {
    let bare = bare_host(host);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl<'a> Transport<'a> {
    pub fn new(settings: &'a Settings) -> Self {
        Self { settings, agents: Mutex::default(), roots: OnceLock::new() }
    }

    pub fn settings(&self) -> &'a Settings {
        self.settings
    }

    fn trust(&self, uri: &Uri) -> Trust {
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let host = bare_host(authority);
        if let Some(folder) = self.settings.certificates(authority).or_else(|| self.settings.certificates(host)) {
            return Trust::Folder(folder);
        }
        match (is_loopback(authority), self.settings.is_insecure(authority)) {
            (_, true) => Trust::Anybody,
            (true, false) => Trust::Local,
            (false, false) => Trust::System,
        }
    }

    fn agent(&self, uri: &Uri) -> Result<Agent, RegistryError> {
        let secure = uri.scheme_str() == Some("https");
        let trust = (self.trust(uri), secure);
        let mut agents = self.agents.lock().expect("no holder panics");
        if let Some(agent) = agents.get(&trust) {
            return Ok(agent.clone());
        }
        let tls = if secure { Some(self.tls(&trust.0)?) } else { None };
        let stall = self.settings.stall();
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections_per_host(MOST_IDLE)
            .user_agent(concat!("stack/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(CONNECT.min(stall)))
            .timeout_connect(Some(CONNECT.min(stall)))
            .timeout_recv_response(Some(stall))
            .timeout_per_read(Some(stall))
            .timeout_per_write(Some(stall));
        if uri.host().is_some_and(is_loopback) {
            config = config.proxy(None);
        }
        if let Some(tls) = tls {
            config = config.tls_config(tls);
        }
        let agent = Agent::with_parts(config.build(), DefaultConnector::default(), Lookup::default());
        agents.insert(trust, agent.clone());
        Ok(agent)
    }

    fn tls(&self, trust: &Trust) -> Result<TlsConfig, RegistryError> {
        let builder = TlsConfig::builder();
        let system = || self.roots.get_or_init(system_roots).clone();
        Ok(match trust {
            Trust::Anybody => builder.disable_verification(true).build(),
            Trust::System | Trust::Local => {
                let roots = system();
                let roots = if roots.is_empty() { RootCerts::WebPki } else { RootCerts::from(roots) };
                builder.root_certs(roots).build()
            }
            Trust::Folder(folder) => {
                let own = Certificates::read(folder)?;
                let roots = RootCerts::from(system().into_iter().chain(own.roots));
                builder.root_certs(roots).client_cert(own.client).build()
            }
        })
    }

    fn once(
        &self,
        uri: &Uri,
        request: &Request<'_>,
        authorization: Option<&str>,
    ) -> Result<Response<Body>, RegistryError> {
        let agent = self.agent(uri)?;
        let mut builder = http::Request::builder().method(request.method.clone()).uri(uri);
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(authorization) = authorization {
            builder = builder.header("authorization", authorization);
        }
        let failed = |error: ureq::Error| unreachable(uri, &error, self.settings);
        let wrong = |error: http::Error| failed(error.into());
        match &request.payload {
            Payload::None if matches!(request.method, Method::GET | Method::HEAD | Method::DELETE) => {
                agent.run(builder.body(()).map_err(wrong)?)
            }
            Payload::None => agent.run(builder.header("content-length", "0").body(&[] as &[u8]).map_err(wrong)?),
            Payload::Bytes(bytes) => agent.run(builder.body(*bytes).map_err(wrong)?),
            Payload::Piece { file, from, length } => {
                let mut piece = piece(file, *from, *length).map_err(|error| failed(error.into()))?;
                let body = SendBody::from_reader(&mut piece);
                agent.run(builder.header("content-length", length.to_string()).body(body).map_err(wrong)?)
            }
        }
        .map_err(failed)
    }

    /// The answer at the end of the redirects, whatever its status. What is sent along is sent to nobody else: only a
    /// request without it is redirected.
    pub fn send(&self, request: &Request<'_>) -> Result<Response<Body>, RegistryError> {
        let home = Origin::of(request.uri);
        let mut uri = request.uri.clone();
        let mut authorization = request.authorization;
        for _ in 0..=MOST_REDIRECTS {
            let response = self.once(&uri, request, authorization)?;
            let moved = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !moved {
                return Ok(response);
            }
            let location = response.headers().get("location").and_then(|value| value.to_str().ok()).unwrap_or_default();
            let said = |uri: &Uri| without_query(&uri.to_string());
            let refused = |reason| RegistryError::Redirect { from: said(&uri), to: without_query(location), reason };
            if !matches!(request.method, Method::GET | Method::HEAD) {
                return Err(refused("what is written is not sent elsewhere"));
            }
            let next = resolve(&uri, location).ok_or_else(|| refused("that is not a URL"))?;
            if !Origin::of(&next).is_safe(self.settings) {
                return Err(refused(
                    "plain HTTP is only spoken with this very host, and where it is declared insecure",
                ));
            }
            // Once away, a way back does not bring it back either: the place in between chose it.
            if Origin::of(&next) != home {
                authorization = None;
            }
            uri = next;
        }
        let to = without_query(&uri.to_string());
        let from = without_query(&request.uri.to_string());
        Err(RegistryError::Redirect { from, to, reason: "that was one redirect too many" })
    }

    /// Sends a form; never redirected.
    pub fn post_form(&self, uri: &Uri, form: &[(&str, &str)]) -> Result<Response<Body>, RegistryError> {
        let sent = self.agent(uri)?.post(uri).send_form(form.iter().copied());
        sent.map_err(|error| unreachable(uri, &error, self.settings))
    }
}

/// A query can hold a token or a signature; nobody else needs to read it.
pub fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

fn piece(file: &Path, from: u64, length: u64) -> io::Result<impl Read> {
    let mut own = File::open(file)?;
    own.seek(SeekFrom::Start(from))?;
    Ok(own.take(length))
}

fn system_roots() -> Vec<Certificate<'static>> {
    let from_environment = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let file = from_environment.into_iter().chain(SYSTEM_ROOTS.map(PathBuf::from)).find(|path| path.is_file());
    let text = file.and_then(|path| fs::read(path).ok()).unwrap_or_default();
    certificates_of(&text)
}

fn certificates_of(pem: &[u8]) -> Vec<Certificate<'static>> {
    let items = ureq::tls::parse_pem(pem).filter_map(Result::ok);
    items.filter_map(|item| if let PemItem::Certificate(one) = item { Some(one) } else { None }).collect()
}

/// What a folder `certs.d/HOST` holds.
struct Certificates {
    roots: Vec<Certificate<'static>>,
    client: Option<ClientCert>,
}

impl Certificates {
    fn read(folder: &Path) -> Result<Self, RegistryError> {
        let failed = |path: &Path, reason: String| RegistryError::Certificate { path: path.to_owned(), reason };
        let entries = fs::read_dir(folder).map_err(|error| failed(folder, error.to_string()))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        let (mut roots, mut client) = (Vec::new(), None);
        for path in paths {
            let text = || fs::read(&path).map_err(|error| failed(&path, error.to_string()));
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => {
                    let found = certificates_of(&text()?);
                    if found.is_empty() {
                        return Err(failed(&path, "there is no certificate in it".into()));
                    }
                    roots.extend(found);
                }
                Some("cert") => {
                    let key = path.with_extension("key");
                    let own = fs::read(&key).map_err(|error| failed(&key, error.to_string()))?;
                    let own = PrivateKey::from_pem(&own).map_err(|error| failed(&key, error.to_string()))?;
                    client = Some(ClientCert::new_with_certs(&certificates_of(&text()?), own));
                }
                _ => {}
            }
        }
        Ok(Self { roots, client })
    }
}

pub fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let text = if location.starts_with('/') && !location.starts_with("//") {
        format!("{}://{}{location}", base.scheme_str()?, base.authority()?)
    } else {
        location.to_owned()
    };
    text.parse::<Uri>().ok().filter(|uri| uri.scheme().is_some() && uri.host().is_some())
}

fn unreachable(uri: &Uri, error: &ureq::Error, settings: &Settings) -> RegistryError {
    let url = without_query(&uri.to_string());
    let tls = match error {
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => true,
        // What a handshake fails of, a stranger's certificate or no TLS at all, comes as what the connection fails of.
        ureq::Error::Io(error) => uri.scheme_str() == Some("https") && error.kind() == io::ErrorKind::InvalidData,
        _ => false,
    };
    let help = match error {
        error if lookup::is_of_name(error) => {
            "check the registry's name, this host's DNS servers (/etc/resolv.conf) and any proxy (HTTPS_PROXY)"
        }
        _ if tls => {
            "its certificate must be valid for this name and of an authority that this host trusts (or of one in \
             certs.d); a registry without TLS has to be declared `insecure` in images.toml"
        }
        ureq::Error::Timeout(_) => "check the network and any proxy (HTTPS_PROXY) between here and there",
        _ => "check that the registry runs, and the network and any proxy between here and there",
    };
    let reason = match error {
        ureq::Error::Timeout(ureq::Timeout::Resolve) => "its name can't be looked up: no DNS server answers".to_owned(),
        ureq::Error::Timeout(_) => format!("no answer within {} s", settings.stall().as_secs()),
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Other(error) => error.to_string(),
        other => other.to_string(),
    };
    RegistryError::Unreachable { url, reason, help, tls }
}

/// Of an answer that is a piece of the whole: where it begins, and how long the whole is where that is said (RFC 9110,
/// "Content-Range").
pub fn part(response: &Response<Body>) -> Option<(u64, Option<u64>)> {
    if response.status() != http::StatusCode::PARTIAL_CONTENT {
        return None;
    }
    let range = response.headers().get("content-range").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let parsed = || {
        let (piece, whole) = range.strip_prefix("bytes ")?.split_once('/')?;
        Some((piece.split_once('-')?.0.parse().ok()?, whole.parse().ok()))
    };
    // One that does not say where it begins begins nowhere.
    Some(parsed().unwrap_or((u64::MAX, None)))
}

/// Why a body ended before its time.
pub fn why(error: &io::Error, settings: &Settings) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    match inner {
        Some(ureq::Error::Timeout(_)) => format!("no byte came for {} s", settings.stall().as_secs()),
        _ => error.to_string(),
    }
}

/// What a registry says about its refusal (specification, "Error Codes"), made harmless for a terminal.
pub fn said(response: &mut Response<Body>) -> String {
    let mut bytes = Vec::new();
    if response.body_mut().as_reader().take(16 << 10).read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let first = &document["errors"][0];
    let text = first["message"].as_str().or(first["code"].as_str()).unwrap_or_default();
    let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_is_loopback() {
        for (host, expected) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("localhost.example:80", false),
            ("127.0.0.1.example", false),
            ("10.0.0.1:5000", false),
            ("0.0.0.0:5000", false),
        ] {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |text: &str| Origin::of(&text.parse().unwrap());
        assert_eq!(origin("https://A.example/x"), origin("https://a.example:443/y"));
        for other in ["http://a.example:443", "https://a.example:444", "https://b.a.example", "https://a.example.b"] {
            assert_ne!(origin("https://a.example"), origin(other), "{other}");
        }
        assert!(!origin("http://a.example").is_safe(&Settings::default()));
        assert!(origin("http://127.0.0.1:5000").is_safe(&Settings::default()));
    }

    #[test]
    fn locations_are_resolved() {
        let base: Uri = "https://a.example/v2/x".parse().unwrap();
        assert_eq!(resolve(&base, "/y?z").unwrap().to_string(), "https://a.example/y?z");
        assert_eq!(resolve(&base, "https://b.example/q").unwrap().to_string(), "https://b.example/q");
        for bad in ["", "relative", "//b.example/x", "https:///x"] {
            assert!(resolve(&base, bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_piece_says_where_it_begins() {
        let piece = |status: u16, range: &str| {
            let response = Response::builder().status(status).header("content-range", range);
            part(&response.body(Body::builder().data(Vec::new())).unwrap())
        };
        for (status, range, expected) in [
            (200, "bytes 5-9/10", None),
            (206, "bytes 5-9/10", Some((5, Some(10)))),
            (206, "bytes 5-9/*", Some((5, None))),
            (206, "bytes */10", Some((u64::MAX, None))),
            (206, "bytes -5-9/10", Some((u64::MAX, None))),
            (206, "5-9/10", Some((u64::MAX, None))),
            (206, "", Some((u64::MAX, None))),
        ] {
            assert_eq!(piece(status, range), expected, "{status} {range}");
        }
    }
}
