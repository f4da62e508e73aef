//! Who we are, told to whom: the answer to `401` (RFC 7235; distribution, "Token Authentication").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::Body;
use ureq::http::{Response, Uri};

use super::transport::{self, Origin, Request, Transport};
use super::{ATTEMPTS, Access, RegistryError, Wait, waiting};
use crate::runtime::image::settings::Settings;

/// What a registry is told.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Password {
        user: String,
        password: String,
    },
    /// A refresh token, `identitytoken` of docker's files.
    IdentityToken(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    fn basic(&self) -> Option<String> {
        match self {
            Self::Password { user, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            Self::IdentityToken(_) => None,
        }
    }
}

/// What a registry wants to know.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// Who asks whom for what.
pub struct Asked<'a> {
    pub transport: &'a Transport<'a>,
    pub access: Access<'a>,
    /// The registry as it is known, `docker.io`, and what of it: `HOST/REPOSITORY`.
    pub registry: &'a str,
    pub place: &'a str,
    pub uri: &'a Uri,
    /// What is asked for, where the registry does not say it.
    pub scope: &'a str,
}

/// As whom a registry knows us.
pub struct Known {
    /// The value of `Authorization`.
    pub authorization: String,
    /// What to do where that is not enough.
    pub advice: String,
}

/// What answers this `401`.
pub fn answer(asked: &Asked<'_>, response: &Response<Body>) -> Result<Known, RegistryError> {
    let known = (asked.access.keyring)(asked.place);
    let denied = |help: String| RegistryError::Denied {
        host: asked.registry.to_owned(),
        what: asked.place.to_owned(),
        status: 401,
        said: String::new(),
        help,
    };
    let headers = response.headers().get_all("www-authenticate").iter();
    let challenges: Vec<Challenge> = headers.filter_map(|value| parse(value.to_str().ok()?)).collect();
    let bearer = challenges.iter().find_map(|challenge| match challenge {
        Challenge::Bearer { realm, service, scope } => Some((realm, service.as_deref(), scope.as_deref())),
        Challenge::Basic => None,
    });
    let settings = asked.transport.settings();
    let origin = Origin::of(asked.uri);
    let Some((realm, service, scope)) = bearer else {
        let basic = known.as_ref().and_then(Credentials::basic).filter(|_| origin.is_safe(settings));
        let known = |authorization| Known { authorization, advice: help(true, asked.place).into() };
        return basic.map(known).ok_or_else(|| denied(help(false, asked.place).into()));
    };
    let not_url = || denied("the registry names a token service that is not a URL".into());
    let realm: Uri = realm.parse().map_err(|_| not_url())?;
    let service_origin = Origin::of(&realm);
    if realm.host().is_none() {
        return Err(not_url());
    }
    if !service_origin.is_safe(settings) {
        return Err(denied("the registry names a token service without TLS; nothing was sent to it".into()));
    }
    let told = belongs(asked.registry, &origin, &service_origin, settings);
    let advice = match (&known, told) {
        (None, _) => help(false, asked.place).to_owned(),
        (Some(_), true) => help(true, asked.place).to_owned(),
        (Some(_), false) => format!(
            "its token service is {0}, which was not told the password of {1}; where that is right, say so in \
             images.toml: [token_services] \"{1}\" = [\"{0}\"]",
            service_origin.host(),
            asked.registry
        ),
    };
    let known = known.filter(|_| told);
    let scope = scope.unwrap_or(asked.scope);
    let token = fetch(asked, &TokenRequest { realm: &realm, service: service.unwrap_or_default(), scope, known })?;
    match token {
        Some(token) => Ok(Known { authorization: format!("Bearer {token}"), advice }),
        None => Err(denied(advice)),
    }
}

/// What to do where a registry lets nobody, or not this user, in. `place` is a registry alone while somebody logs in.
pub fn help(known: bool, place: &str) -> &'static str {
    match (known, place.contains('/')) {
        (true, true) => {
            "the user or password in ~/.docker/config.json is wrong, or may not do this; `stack login` gives another"
        }
        (true, false) => "the user or the password is wrong; nothing was kept",
        (false, _) => "the image is private or does not exist; `stack login` tells who you are (~/.docker/config.json)",
    }
}

/// Whether a registry's password may be told to this token service: the very host, one above or below it, whose owner
/// owns it too, docker's own, or one that this host's owner names.
fn belongs(registry: &str, asked: &Origin, realm: &Origin, settings: &Settings) -> bool {
    let (host, service) = (asked.host(), realm.host());
    let name = |host: &str| !host.starts_with('[') && host.parse::<std::net::IpAddr>().is_err() && host.contains('.');
    let below = |one: &str, other: &str| {
        name(one) && name(other) && one.strip_suffix(other).is_some_and(|rest| rest.ends_with('.'))
    };
    let hub = registry == "docker.io" && host == "registry-1.docker.io" && service == "auth.docker.io";
    host == service
        || below(service, host)
        || below(host, service)
        || hub
        || settings.trusts_token_service(registry, service)
}

/// What a token service is asked.
struct TokenRequest<'a> {
    realm: &'a Uri,
    service: &'a str,
    scope: &'a str,
    known: Option<Credentials>,
}

/// `None` where the service knows nobody like us.
fn fetch(asked: &Asked<'_>, request: &TokenRequest<'_>) -> Result<Option<String>, RegistryError> {
    let mut attempt = 1;
    loop {
        let Some(mut response) = request.send(asked.transport)? else { return Ok(None) };
        let status = response.status();
        if status.is_success() {
            return Ok(token(&mut response));
        }
        let said = transport::said(&mut response);
        if matches!(status.as_u16(), 400 | 401 | 403) {
            tracing::debug!(status = status.as_u16(), said, "no token");
            return Ok(None);
        }
        if attempt >= ATTEMPTS || !waiting::may_pass(status) {
            let url = transport::without_query(&request.realm.to_string());
            return Err(RegistryError::Status { url, status: status.as_u16(), said });
        }
        let pause = waiting::asked_for(&response).unwrap_or_else(|| waiting::backoff(attempt));
        let (host, reason) =
            (request.realm.host().unwrap_or_default(), format!("it answered HTTP {}", status.as_u16()));
        (asked.access.waiting)(&Wait { host, reason: &reason, seconds: pause.as_secs_f64() });
        // There is no event to wait for: the service names a time, or is hoped to recover.
        std::thread::sleep(pause);
        attempt += 1;
    }
}

impl TokenRequest<'_> {
    fn send(&self, transport: &Transport<'_>) -> Result<Option<Response<Body>>, RegistryError> {
        if let Some(Credentials::IdentityToken(token)) = &self.known {
            let form = [
                ("grant_type", "refresh_token"),
                ("service", self.service),
                ("client_id", "stack"),
                ("scope", self.scope),
                ("refresh_token", token.as_str()),
            ];
            return transport.post_form(self.realm, &form).map(Some);
        }
        let joint = if self.realm.query().is_some() { '&' } else { '?' };
        let mut url = format!("{}{joint}service={}", self.realm, escape(self.service));
        for one in self.scope.split(' ').filter(|one| !one.is_empty()) {
            url.push_str(&format!("&scope={}", escape(one)));
        }
        let Ok(uri) = url.parse() else { return Ok(None) };
        let authorization = self.known.as_ref().and_then(Credentials::basic);
        let request = Request::get(&uri, "application/json");
        transport.send(&Request { authorization: authorization.as_deref(), ..request }).map(Some)
    }
}

fn token(response: &mut Response<Body>) -> Option<String> {
    let limited = response.body_mut().with_config().limit(1 << 20);
    let token: Token = serde_json::from_str(&limited.read_to_string().ok()?).ok()?;
    let token = token.token.or(token.access_token)?;
    (!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())).then_some(token)
}

fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// One challenge of a `WWW-Authenticate` header: a scheme, and parameters whose values may be quoted.
fn parse(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut found = parameters(rest);
    let mut take = |key: &str| found.iter().position(|(name, _)| name == key).map(|at| found.swap_remove(at).1);
    Some(Challenge::Bearer { realm: take("realm")?, service: take("service"), scope: take("scope") })
}

fn parameters(mut text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some((name, rest)) = text.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        found.push((name, value.to_owned()));
        text = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.map(Into::into),
                scope: scope.map(Into::into),
            })
        };
        for (header, expected) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            ("Negotiate", None),
            ("Bearer service=\"s\"", None),
            ("Bearer realm=\"https://a/t\"", bearer("https://a/t", None, None)),
            (
                "Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:x:pull,push\"",
                bearer("https://a/t", Some("s"), Some("repository:x:pull,push")),
            ),
            ("bearer Realm=https://a/t, Service=s", bearer("https://a/t", Some("s"), None)),
        ] {
            assert_eq!(parse(header), expected, "{header}");
        }
    }

    #[test]
    fn a_password_stays_with_its_owner() {
        let origin = |host: &str| Origin::of(&format!("https://{host}").parse().unwrap());
        for (name, registry, realm, expected) in [
            ("docker.io", "registry-1.docker.io", "auth.docker.io", true),
            ("ghcr.io", "ghcr.io", "ghcr.io", true),
            ("registry.gitlab.com", "registry.gitlab.com", "gitlab.com", true),
            ("r.example.com", "r.example.com", "auth.r.example.com", true),
            ("r.example.com", "r.example.com", "auth.example.com", false),
            ("r.example.com", "r.example.com", "evil.com", false),
            ("r.example.com", "r.example.com", "example.com.evil.com", false),
            ("r.example.co.uk", "r.example.co.uk", "evil.co.uk", false),
            ("r.example.com", "r.example.com", "xr.example.com", false),
            ("localhost", "localhost", "evil.localhost", false),
            ("10.0.0.1", "10.0.0.1", "0.0.1", false),
            ("10.0.0.1", "10.0.0.1", "10.1.0.1", false),
            ("docker.io", "mirror.lan", "auth.docker.io", false),
        ] {
            let found = belongs(name, &origin(registry), &origin(realm), &Settings::default());
            assert_eq!(found, expected, "{registry} {realm}");
        }
    }

    proptest! {
        #[test]
        fn any_challenge_is_read_or_refused(header in ".*", realm in "[a-z:/.\"=, ]*") {
            drop(parse(&header));
            drop(parse(&format!("Bearer realm={realm},service=\"{header}")));
        }
    }
}
