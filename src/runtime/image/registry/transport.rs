//! One request, with its redirects. Authorization goes to the scheme, host and port it was meant for and to no other.

use std::io::Read;
use std::net::IpAddr;
use std::time::Duration;

use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

use super::RegistryError;

const MOST_REDIRECTS: u32 = 5;
const CONNECT: Duration = Duration::from_secs(10);
/// Without a byte for so long, a connection is given up.
const STALLED: Duration = Duration::from_secs(60);

pub struct Request<'a> {
    pub uri: &'a Uri,
    pub accept: &'a str,
    pub authorization: Option<&'a str>,
    /// The first byte that is wanted.
    pub from: u64,
}

pub struct Transport {
    remote: Agent,
    /// Never through a proxy.
    local: Agent,
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

    /// Whether what is sent there can be read by nobody on the way.
    pub fn is_safe(&self) -> bool {
        self.0 == "https" || (self.0 == "http" && is_loopback(&self.1))
    }
}

/// Whether a host, with a port or not, is this very machine by its own word.
pub fn is_loopback(host: &str) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.rsplit_once(':').filter(|(name, _)| !name.contains(':')).map_or(host, |(name, _)| name),
    };
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Transport {
    pub fn new() -> Self {
        let config = || {
            Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .user_agent(concat!("stack/", env!("CARGO_PKG_VERSION")))
                .accept_encoding("identity")
                .timeout_connect(Some(CONNECT))
                .timeout_recv_response(Some(STALLED))
                .timeout_per_read(Some(STALLED))
        };
        Self { remote: config().build().into(), local: config().proxy(None).build().into() }
    }

    fn once(
        &self,
        uri: &Uri,
        request: &Request<'_>,
        authorization: Option<&str>,
    ) -> Result<Response<Body>, RegistryError> {
        let local = uri.host().is_some_and(is_loopback);
        let agent = if local { &self.local } else { &self.remote };
        let mut builder = agent.get(uri).header("accept", request.accept);
        if let Some(authorization) = authorization {
            builder = builder.header("authorization", authorization);
        }
        if request.from > 0 {
            builder = builder.header("range", format!("bytes={}-", request.from));
        }
        builder.call().map_err(|error| unreachable(uri, &error))
    }

    /// The answer at the end of the redirects, whatever its status.
    pub fn get(&self, request: &Request<'_>) -> Result<Response<Body>, RegistryError> {
        let home = Origin::of(request.uri);
        let mut uri = request.uri.clone();
        let mut authorization = request.authorization;
        for _ in 0..=MOST_REDIRECTS {
            let response = self.once(&uri, request, authorization)?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get("location").and_then(|value| value.to_str().ok()).unwrap_or_default();
            let refused = |reason| RegistryError::Redirect { from: uri.to_string(), to: location.into(), reason };
            let next = resolve(&uri, location).ok_or_else(|| refused("that is not a URL"))?;
            if !Origin::of(&next).is_safe() {
                return Err(refused("plain HTTP is only spoken with this very host"));
            }
            // Once away, a way back does not bring it back either: the place in between chose it.
            if Origin::of(&next) != home {
                authorization = None;
            }
            uri = next;
        }
        let to = uri.to_string();
        Err(RegistryError::Redirect { from: request.uri.to_string(), to, reason: "that was one redirect too many" })
    }

    /// Sends a form; never redirected.
    pub fn post_form(&self, uri: &Uri, form: &[(&str, &str)]) -> Result<Response<Body>, RegistryError> {
        let agent = if uri.host().is_some_and(is_loopback) { &self.local } else { &self.remote };
        agent.post(uri).send_form(form.iter().copied()).map_err(|error| unreachable(uri, &error))
    }
}

fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let text = if location.starts_with('/') && !location.starts_with("//") {
        format!("{}://{}{location}", base.scheme_str()?, base.authority()?)
    } else {
        location.to_owned()
    };
    text.parse::<Uri>().ok().filter(|uri| uri.scheme().is_some() && uri.host().is_some())
}

fn unreachable(uri: &Uri, error: &ureq::Error) -> RegistryError {
    let help = match error {
        ureq::Error::HostNotFound => "check the registry's name and this host's DNS (/etc/resolv.conf)",
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => {
            "its certificate must be valid for this name; plain HTTP is only spoken with this very host"
        }
        ureq::Error::Timeout(_) => "check the network and any proxy (HTTPS_PROXY) between here and there",
        _ => "check that the registry runs, and the network and any proxy between here and there",
    };
    // A token may stand in the query; nobody else needs to read it.
    let url = uri.to_string().split('?').next().unwrap_or_default().to_owned();
    RegistryError::Unreachable { url, reason: error.to_string(), help }
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
        assert!(!origin("http://a.example").is_safe());
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
}
