//! A client of registries (OCI distribution specification, "Pull"). Anonymous tokens and passwords; HTTPS, and plain
//! HTTP only to this very host. The digest decides what is accepted, never the connection it came by.

mod auth;
pub mod credentials;
mod document;
mod transport;

use std::io::Read;
use std::sync::Mutex;
use std::time::Duration;

pub use auth::Credentials;
pub use document::{Blob, Manifest, Platform};
use document::{Document, LARGEST_DOCUMENT};
use transport::{Request, Transport};
use ureq::http::{Response, StatusCode, Uri};

use super::{Digest, ImageReference};

/// What went wrong with which registry, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("{url}: {reason}\n  help: {help}")]
    Unreachable { url: String, reason: String, help: &'static str },
    #[error("{image}: the registry does not have it (HTTP 404)\n  help: check the name and the tag")]
    NotFound { image: String },
    #[error("{host} refuses {what} (HTTP {status}){said}\n  help: {help}")]
    Denied { host: String, what: String, status: u16, said: String, help: &'static str },
    #[error("{url}: HTTP {status}{said}\n  help: the registry has a fault or is overloaded; try again later")]
    Status { url: String, status: u16, said: String },
    #[error("{from} redirects to {to}: {reason}")]
    Redirect { from: String, to: String, reason: &'static str },
    #[error("{what} of {host}: {reason}")]
    Document { what: String, host: String, reason: String },
    #[error(
        "{image} is not there for {wanted}; there is: {available}\n  help: choose one with `platform:` or `--platform`"
    )]
    Platform { image: String, wanted: String, available: String },
    #[error(
        "{what} of {host}: expected {expected}, its content has {found}\n  help: the registry or something on the way changed it; nothing of it was kept"
    )]
    Mismatch { what: String, host: String, expected: String, found: String },
    #[error(
        "{what} of {host}: it broke off after {received} of {size} bytes, and again when resumed: {reason}\n  help: try again; what was received is kept"
    )]
    Interrupted { what: String, host: String, received: u64, size: u64, reason: String },
}

/// Whose answer to "who are you" is used: called with the registry's name, as `docker.io` or `localhost:5000`.
pub type Keyring<'a> = dyn Fn(&str) -> Option<Credentials> + Sync + 'a;

/// How often a request is made before its failure is final.
pub(super) const ATTEMPTS: u32 = 4;
/// The longest that a registry can make us wait between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// One repository of one registry, for the time of a pull.
pub struct Client<'a> {
    transport: Transport,
    image: &'a ImageReference,
    base: String,
    keyring: &'a Keyring<'a>,
    authorization: Mutex<Option<String>>,
}

impl<'a> Client<'a> {
    pub fn new(image: &'a ImageReference, keyring: &'a Keyring<'a>) -> Self {
        let host = if image.registry == "docker.io" { "registry-1.docker.io" } else { &image.registry };
        let scheme = if transport::is_loopback(host) { "http" } else { "https" };
        let base = format!("{scheme}://{host}/v2/{}", image.repository);
        Self { transport: Transport::new(), image, base, keyring, authorization: Mutex::new(None) }
    }

    /// The manifest of the image for this platform, through an index where there is one, and its digest.
    pub fn manifest(&self, platform: &Platform) -> Result<(Digest, Manifest), RegistryError> {
        let mut digest = self.image.digest.clone();
        for _ in 0..3 {
            let (found, bytes) = self.document(digest.as_ref())?;
            let wrong = |reason| self.wrong(&format!("manifest {found}"), reason);
            match document::parse(&bytes).map_err(wrong)? {
                Document::Manifest(manifest) => return Ok((found, manifest)),
                Document::Index(index) => digest = Some(index.choose(platform, self.image)?),
            }
        }
        Err(self.wrong("index", "indexes of indexes are nested too deep".into()))
    }

    fn wrong(&self, what: &str, reason: String) -> RegistryError {
        RegistryError::Document { what: what.into(), host: self.image.registry.clone(), reason }
    }

    fn document(&self, digest: Option<&Digest>) -> Result<(Digest, Vec<u8>), RegistryError> {
        let target = digest.map(Digest::to_string).or(self.image.tag.clone()).unwrap_or_else(|| "latest".into());
        let mut response = self.get(&format!("manifests/{target}"), document::ACCEPT, 0)?;
        let stated = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        let stated = stated.and_then(|text| Digest::parse(text).ok());
        let bytes = self.read_all(&format!("manifest {target}"), &mut response)?;
        let found = Digest::of(&bytes);
        match digest.cloned().or(stated) {
            Some(expected) if expected != found => Err(self.mismatch("manifest", &expected, &found)),
            _ => Ok((found, bytes)),
        }
    }

    pub(super) fn mismatch(&self, what: &str, expected: &Digest, found: &Digest) -> RegistryError {
        let (expected, found) = (expected.to_string(), found.to_string());
        RegistryError::Mismatch { what: what.into(), host: self.image.registry.clone(), expected, found }
    }

    fn read_all(&self, what: &str, response: &mut Response<ureq::Body>) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        let read = response.body_mut().as_reader().take(LARGEST_DOCUMENT + 1).read_to_end(&mut bytes);
        read.map_err(|error| self.wrong(what, error.to_string()))?;
        if bytes.len() as u64 > LARGEST_DOCUMENT {
            return Err(self.wrong(what, "it is larger than 4 MiB".into()));
        }
        Ok(bytes)
    }

    /// A small blob as a whole: the configuration.
    pub fn config(&self, blob: &Blob) -> Result<Vec<u8>, RegistryError> {
        if blob.size > LARGEST_DOCUMENT {
            return Err(self.wrong("configuration", "it is larger than 4 MiB".into()));
        }
        let mut response = self.get(&format!("blobs/{}", blob.digest), "*/*", 0)?;
        let bytes = self.read_all("configuration", &mut response)?;
        let found = Digest::of(&bytes);
        if found == blob.digest { Ok(bytes) } else { Err(self.mismatch("configuration", &blob.digest, &found)) }
    }

    /// The content of a blob from this byte on, and whether the registry did start there, not at the beginning.
    pub fn blob(&self, digest: &Digest, from: u64) -> Result<(impl Read + use<>, bool), RegistryError> {
        let response = self.get(&format!("blobs/{digest}"), "*/*", from)?;
        let range = response.headers().get("content-range").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT && range.starts_with(&format!("bytes {from}-"));
        Ok((response.into_body().into_reader(), resumed))
    }

    pub(super) fn host(&self) -> &str {
        &self.image.registry
    }

    /// Asks again with what the registry wants to know, and where a pause may help, after the pause.
    fn get(&self, path: &str, accept: &str, from: u64) -> Result<Response<ureq::Body>, RegistryError> {
        let uri: Uri = format!("{}/{path}", self.base).parse().map_err(|_| self.wrong(path, "not a URL".into()))?;
        let mut introduced = false;
        let mut attempt = 1;
        loop {
            let authorization = self.authorization.lock().expect("no holder panics").clone();
            let request = Request { uri: &uri, accept, authorization: authorization.as_deref(), from };
            let answer = self.transport.get(&request);
            let last = attempt >= ATTEMPTS;
            let pause = match answer {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !introduced => {
                    introduced = true;
                    let authorization = auth::answer(&self.transport, self.image, self.keyring, &uri, &response)?;
                    *self.authorization.lock().expect("no holder panics") = Some(authorization);
                    continue;
                }
                Ok(response) if last || !may_pass(response.status()) => return Err(self.refused(&uri, path, response)),
                Ok(response) => retry_after(&response).unwrap_or(backoff(attempt)).min(LONGEST_PAUSE),
                Err(error @ RegistryError::Unreachable { .. }) if !last => {
                    tracing::debug!(%error, attempt, "asking again");
                    backoff(attempt)
                }
                Err(error) => return Err(error),
            };
            // There is no event to wait for: the registry names a time, or is hoped to recover.
            std::thread::sleep(pause);
            attempt += 1;
        }
    }

    fn refused(&self, uri: &Uri, path: &str, mut response: Response<ureq::Body>) -> RegistryError {
        let status = response.status().as_u16();
        let said = transport::said(&mut response);
        let host = self.image.registry.clone();
        match status {
            401 | 403 => {
                let known = (self.keyring)(&host).is_some();
                let help = if known { WRONG_PASSWORD } else { NO_PASSWORD };
                RegistryError::Denied { host, what: self.image.to_string(), status, said, help }
            }
            404 if path.starts_with("manifests/") => RegistryError::NotFound { image: self.image.to_string() },
            _ => RegistryError::Status { url: uri.to_string(), status, said },
        }
    }
}

const NO_PASSWORD: &str = "the image is private or does not exist; give a user and password for this registry in ~/.docker/config.json (auths)";
const WRONG_PASSWORD: &str = "the user or password in ~/.docker/config.json is wrong, or may not read this repository";

/// Whether the same request may be answered otherwise a little later.
fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

pub(super) fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(200 << attempt.min(6))
}

/// The pause that a registry asks for, in seconds; the form with a date is rare and taken as not given.
fn retry_after(response: &Response<ureq::Body>) -> Option<Duration> {
    let value = response.headers().get("retry-after")?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}
