//! Health probes that need nothing in the image: a question that is asked over the container's own network.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What is asked, and what counts as the answer of a healthy container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    Http(HttpProbe),
    /// A connection is accepted.
    Tcp(Place),
    Grpc(GrpcProbe),
}

/// Where the container is asked, as it sees itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// `None` = its loopback: 127.0.0.1, then ::1.
    pub host: Option<IpAddr>,
    pub port: u16,
}

/// One GET; a redirection is an answer and is not followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpProbe {
    pub place: Place,
    /// From `/` on, with the query.
    pub path: String,
    /// TLS, with whatever certificate the container has.
    pub tls: bool,
    pub headers: BTreeMap<String, String>,
    /// Inclusive ranges of the status codes that mean healthy.
    pub status: Vec<(u16, u16)>,
}

/// `grpc.health.v1.Health/Check` without TLS; healthy is `SERVING`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrpcProbe {
    pub place: Place,
    /// Empty is the server as a whole.
    pub service: String,
}

/// How often something may be done about a container that is unhealthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    pub max: u32,
    /// In this time; `None` = since it was started by command, or for `recreate` since it was declared so.
    pub within_ms: Option<u64>,
}

impl Budget {
    /// Those of the moments that count now.
    pub fn counted(self, spent: &[u64], now_ms: u64) -> Vec<u64> {
        let counts = |at: &&u64| self.within_ms.is_none_or(|within| at.saturating_add(within) > now_ms);
        spent.iter().filter(counts).copied().collect()
    }

    pub fn is_spent(self, spent: &[u64], now_ms: u64) -> bool {
        self.counted(spent, now_ms).len() >= self.max as usize
    }
}

impl Probe {
    /// From a URL: `http://:8080/health`, `https://:8443/`, `tcp://:5432`, `grpc://:9000/my.Service`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once("://")? {
            ("http" | "https", _) => HttpProbe::parse(text).map(Self::Http),
            ("tcp", rest) => Place::parse(rest, None).map(Self::Tcp),
            ("grpc", rest) => GrpcProbe::parse(rest).map(Self::Grpc),
            _ => None,
        }
    }
}

impl HttpProbe {
    /// Kubernetes' rule of what is healthy.
    pub const GOOD: (u16, u16) = (200, 399);

    /// `:8080/health`, `8080`, `/health`, `https://127.0.0.1/`.
    pub fn parse(text: &str) -> Option<Self> {
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return None,
            None => (false, text),
        };
        let (place, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        if rest.is_empty() || !is_path(path) {
            return None;
        }
        let place = Place::parse(place, Some(default_port(tls)))?;
        Some(Self { place, path: path.to_owned(), tls, headers: BTreeMap::new(), status: vec![Self::GOOD] })
    }
}

impl GrpcProbe {
    /// `9000`, `:9000/my.Service`.
    pub fn parse(text: &str) -> Option<Self> {
        let (place, service) = text.split_once('/').unwrap_or((text, ""));
        is_service(service).then_some(())?;
        Some(Self { place: Place::parse(place, None)?, service: service.to_owned() })
    }
}

impl Place {
    /// `5432`, `:5432`, `127.0.0.1:5432`, `[::1]:5432`; without a port only where there is a usual one.
    pub fn parse(text: &str, default: Option<u16>) -> Option<Self> {
        if let Some(port) = port(text) {
            return Some(Self { host: None, port });
        }
        let (before, after) = match text.rsplit_once(':') {
            Some((before, after)) if !after.contains(']') => (before, Some(after)),
            _ => (text, None),
        };
        // Without brackets nobody can tell where an address of version 6 ends.
        if before.contains(':') && !before.starts_with('[') {
            return None;
        }
        let port = after.map_or(default, port)?;
        Some(Self { host: host(before)?, port })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            None => write!(f, "localhost:{}", self.port),
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

impl fmt::Display for Probe {
    /// As a URL: `http://localhost:8080/health`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(http) => {
                write!(f, "{}://{}{}", if http.tls { "https" } else { "http" }, http.place, http.path)
            }
            Self::Tcp(place) => write!(f, "tcp://{place}"),
            Self::Grpc(grpc) => write!(f, "grpc://{}/{}", grpc.place, grpc.service),
        }
    }
}

pub(super) fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

pub(super) fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

/// `None` for what is no address; `Some(None)` is loopback.
pub(super) fn host(text: &str) -> Option<Option<IpAddr>> {
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text) {
        "" | "localhost" => Some(None),
        text => text.parse().ok().map(Some),
    }
}

pub(super) fn status(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let code = |text: &str| text.trim().parse().ok().filter(|code| (100..=599).contains(code));
    let range: (u16, u16) = (code(first)?, code(last)?);
    (range.0 <= range.1).then_some(range)
}

pub(super) fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic())
}

pub(super) fn is_service(text: &str) -> bool {
    text.len() <= 255 && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_are_places() {
        let http = |text: &str| HttpProbe::parse(text).map(|it| Probe::Http(it).to_string());
        for (text, url) in [
            (":8080/health", "http://localhost:8080/health"),
            ("8080", "http://localhost:8080/"),
            ("8080/a?b=c", "http://localhost:8080/a?b=c"),
            ("/health", "http://localhost:80/health"),
            ("https://127.0.0.1/x", "https://127.0.0.1:443/x"),
            ("http://[::1]:81", "http://[::1]:81/"),
            ("localhost:81/", "http://localhost:81/"),
        ] {
            assert_eq!(http(text).as_deref(), Some(url), "{text}");
        }
        for text in ["", "ftp://x/", ":0/", ":99999/", "example.com/", ":80/a b", "::1:80/", ":x/"] {
            assert_eq!(http(text), None, "{text}");
        }
        let tcp = |text: &str| Place::parse(text, None).map(|it| it.to_string());
        assert_eq!(tcp("5432").as_deref(), Some("localhost:5432"));
        assert_eq!(tcp("10.0.0.2:1").as_deref(), Some("10.0.0.2:1"));
        assert_eq!(["127.0.0.1", "", ":"].map(tcp), [None, None, None]);
        let grpc = GrpcProbe::parse(":9000/my.Service").unwrap();
        assert_eq!((grpc.place.port, grpc.service.as_str()), (9000, "my.Service"));
    }
}
