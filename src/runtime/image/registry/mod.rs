//! A client of registries (OCI distribution specification). HTTPS, and plain HTTP only to this very host or where the
//! host's owner declares a registry insecure. The digest decides what is accepted, never the connection it came by.

mod auth;
pub mod credentials;
mod lookup;
mod pushing;
mod transport;
mod waiting;

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

pub use auth::Credentials;
use auth::Known;
pub use pushing::Upload;
pub use transport::SYSTEM_ROOTS;
use transport::{Origin, Payload, Request, Transport};
use ureq::Body;
use ureq::http::{Method, Response, StatusCode, Uri};
pub use waiting::ATTEMPTS;
use waiting::backoff;

use super::document::{self, Descriptor, Document, Manifest, Platform};
use super::settings::{Settings, SettingsError};
use super::{Digest, ImageReference};

/// What went wrong with which registry, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("{url}: {reason}\n  help: {help}")]
    Unreachable { url: String, reason: String, help: &'static str, tls: bool },
    #[error("{image}: the registry does not have it (HTTP 404)\n  help: check the name and the tag")]
    NotFound { image: String },
    #[error("{host} refuses {what} (HTTP {status}){said}\n  help: {help}")]
    Denied { host: String, what: String, status: u16, said: String, help: String },
    #[error("{url}: HTTP {status}{said}\n  help: the registry has a fault or is overloaded; try again later")]
    Status { url: String, status: u16, said: String },
    #[error("{url}: HTTP {status}{said}\n  help: the registry does not do this")]
    Unsupported { url: String, status: u16, said: String },
    #[error(
        "{from} redirects to {to}: {reason}\n  help: ask the registry's owner; `insecure` in images.toml names who may do without TLS"
    )]
    Redirect { from: String, to: String, reason: &'static str },
    #[error("{what} of {host}: {reason}\n  help: nothing of it was kept; whoever publishes it has to mend it")]
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
        "{what} of {host}: the manifest says {expected} bytes, the registry has {found}\n  help: nothing of it was kept; whoever publishes it has to push it again"
    )]
    Length { what: String, host: String, expected: u64, found: u64 },
    #[error(
        "{what} of {host}: it broke off after {received} of {size} bytes, and again when resumed: {reason}\n  help: try again; what was received is kept"
    )]
    Interrupted { what: String, host: String, received: u64, size: u64, reason: String },
    #[error(
        "{path}: {reason}\n  help: certs.d holds certificates as PEM: *.crt to trust, *.cert with *.key to be known by"
    )]
    Certificate { path: PathBuf, reason: String },
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// Whose answer to "who are you" is used: called with the place, as `docker.io/library/x` or `localhost:5000/app`.
pub type Keyring<'a> = dyn Fn(&str) -> Option<Credentials> + Sync + 'a;

/// What is waited for, told before the pause.
pub struct Wait<'a> {
    pub host: &'a str,
    pub reason: &'a str,
    pub seconds: f64,
}

/// How registries are spoken to.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    pub settings: &'a Settings,
    pub keyring: &'a Keyring<'a>,
    pub waiting: &'a (dyn Fn(&Wait<'_>) + Sync),
}

impl<'a> Access<'a> {
    /// Without any password, and silent.
    pub fn anonymous(settings: &'a Settings) -> Self {
        Self { settings, keyring: &|_| None, waiting: &|_| () }
    }
}

/// What a registry sends of a blob.
pub struct Content<R> {
    pub body: R,
    /// The byte of the blob that it begins with: the one that was asked for, or the very first.
    pub begins: u64,
}

/// Where a repository is served: by its own registry, or by a mirror of it.
struct Endpoint {
    /// What it is called, `docker.io` or `mirror.lan:5000`.
    name: String,
    /// `HOST[:PORT]` that is connected to.
    authority: String,
    /// Where a mirror's URL says it.
    scheme: Option<&'static str>,
    scheme_found: OnceLock<&'static str>,
}

impl Endpoint {
    fn of_registry(name: &str) -> Self {
        let authority = if name == "docker.io" { "registry-1.docker.io" } else { name };
        Self { name: name.to_owned(), authority: authority.to_owned(), scheme: None, scheme_found: OnceLock::new() }
    }

    fn of_mirror(url: &str) -> Self {
        let (scheme, rest) = match url.strip_prefix("http://") {
            Some(rest) => ("http", rest),
            None => ("https", url.strip_prefix("https://").unwrap_or(url)),
        };
        let authority = rest.split('/').next().unwrap_or(rest).to_owned();
        Self { name: authority.clone(), authority, scheme: Some(scheme), scheme_found: OnceLock::new() }
    }
}

/// One repository of one registry, for the time of a pull or push.
pub struct Client<'a> {
    transport: Transport<'a>,
    repository: &'a str,
    access: Access<'a>,
    endpoint: Endpoint,
    authorization: Mutex<Option<String>>,
}

/// What is asked of a repository.
struct Ask<'a> {
    method: Method,
    /// Below `/v2/REPOSITORY/`, or a whole URL that the registry gave.
    path: Path<'a>,
    headers: Vec<(&'static str, String)>,
    payload: &'a Payload<'a>,
}

enum Path<'a> {
    Below(&'a str),
    Whole(&'a Uri),
}

impl<'a> Client<'a> {
    /// Of the image's own registry.
    pub fn new(image: &'a ImageReference, access: Access<'a>) -> Self {
        Self::at(Endpoint::of_registry(&image.registry), &image.repository, access)
    }

    /// Of a registry as such.
    pub fn of_registry(name: &str, access: Access<'a>) -> Self {
        Self::at(Endpoint::of_registry(name), "", access)
    }

    /// Of each mirror of the image's registry, then of the registry itself.
    pub fn all(image: &'a ImageReference, access: Access<'a>) -> Vec<Self> {
        let mirrors = access.settings.mirrors(&image.registry).iter();
        let mirrors = mirrors.map(|url| Self::at(Endpoint::of_mirror(url), &image.repository, access));
        mirrors.chain([Self::new(image, access)]).collect()
    }

    fn at(endpoint: Endpoint, repository: &'a str, access: Access<'a>) -> Self {
        let transport = Transport::new(access.settings);
        Self { transport, repository, access, endpoint, authorization: Mutex::new(None) }
    }

    /// What the registry is called.
    pub fn host(&self) -> &str {
        &self.endpoint.name
    }

    fn place(&self) -> String {
        if self.repository.is_empty() {
            return self.endpoint.name.clone();
        }
        format!("{}/{}", self.endpoint.name, self.repository)
    }

    /// `https`, but for this very host and what is declared insecure, where it is found out by asking; without a
    /// password, since whoever answers is not known yet.
    fn scheme(&self) -> Result<&'static str, RegistryError> {
        if let Some(known) = self.endpoint.scheme.or(self.endpoint.scheme_found.get().copied()) {
            return Ok(known);
        }
        let authority = &self.endpoint.authority;
        let trusted = self.access.settings.certificates(authority).is_some();
        let found = match (transport::is_loopback(authority), self.access.settings.is_insecure(authority)) {
            (_, true) => {
                if matches!(self.ping("https"), Err(RegistryError::Unreachable { .. })) {
                    "http"
                } else {
                    "https"
                }
            }
            (true, false) if !trusted => {
                let plain = self.ping("http").is_ok_and(|status| status != StatusCode::BAD_REQUEST);
                // One that is not there speaks neither.
                let absent = |error| matches!(error, RegistryError::Unreachable { tls: false, .. });
                if plain || self.ping("https").is_err_and(absent) { "http" } else { "https" }
            }
            _ => "https",
        };
        Ok(*self.endpoint.scheme_found.get_or_init(|| found))
    }

    fn ping(&self, scheme: &str) -> Result<StatusCode, RegistryError> {
        let url = format!("{scheme}://{}/v2/", self.endpoint.authority);
        let uri: Uri = url.parse().map_err(|_| self.wrong("address", format!("{url} is not a URL")))?;
        Ok(self.transport.send(&Request::get(&uri, "application/json"))?.status())
    }

    /// Whether the registry lets this user in.
    pub fn check_login(&self) -> Result<(), RegistryError> {
        let scheme = self.scheme()?;
        let url = format!("{scheme}://{}/v2/", self.endpoint.authority);
        let uri: Uri = url.parse().map_err(|_| self.wrong("address", format!("{url} is not a URL")))?;
        let ask = Ask { method: Method::GET, path: Path::Whole(&uri), headers: vec![], payload: &Payload::None };
        self.ask(&ask).map(drop)
    }

    /// The manifest of the image for this platform, through an index where there is one, with the digest that the
    /// reference itself stands for.
    pub fn resolve(&self, image: &ImageReference, platform: &Platform) -> Result<Resolved, RegistryError> {
        let (digest, mut bytes) = self.document(image.digest.as_ref(), image.tag.as_deref())?;
        let mut found = digest.clone();
        for _ in 0..3 {
            let wrong = |reason| self.wrong(&format!("manifest {found}"), reason);
            match document::parse(&bytes, &self.access.settings.limits).map_err(wrong)? {
                Document::Manifest(manifest) => return Ok(Resolved { digest, own: found, bytes, manifest }),
                Document::Index(index) => {
                    let next = index.choose(platform, image)?.digest.clone();
                    (found, bytes) = self.document(Some(&next), None)?;
                }
            }
        }
        Err(self.wrong("index", "indexes of indexes are nested too deep".into()))
    }

    fn wrong(&self, what: &str, reason: String) -> RegistryError {
        RegistryError::Document { what: what.into(), host: self.endpoint.name.clone(), reason }
    }

    fn document(&self, digest: Option<&Digest>, tag: Option<&str>) -> Result<(Digest, Vec<u8>), RegistryError> {
        let target = digest.map_or_else(|| tag.unwrap_or("latest").to_owned(), Digest::to_string);
        let path = format!("manifests/{target}");
        let most = self.access.settings.limits.manifest_bytes;
        let (response, bytes) = self.whole(&format!("manifest {target}"), &path, document::ACCEPT, most)?;
        let stated = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        let stated = stated.and_then(|text| Digest::parse(text).ok());
        let found = Digest::of(&bytes);
        match digest.cloned().or(stated) {
            Some(expected) if expected != found => Err(self.mismatch("manifest", &expected, &found)),
            _ => Ok((found, bytes)),
        }
    }

    /// The manifest or index with this digest, as it is.
    pub fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, RegistryError> {
        Ok(self.document(Some(digest), None)?.1)
    }

    /// The manifest or index that has this tag, as it is.
    pub fn manifest_of(&self, tag: &str) -> Result<Vec<u8>, RegistryError> {
        Ok(self.document(None, Some(tag))?.1)
    }

    pub(super) fn mismatch(&self, what: &str, expected: &Digest, found: &Digest) -> RegistryError {
        let (expected, found) = (expected.to_string(), found.to_string());
        RegistryError::Mismatch { what: what.into(), host: self.endpoint.name.clone(), expected, found }
    }

    /// Something small, asked for again where the connection breaks off.
    fn whole(
        &self,
        what: &str,
        path: &str,
        accept: &str,
        most: u64,
    ) -> Result<(Response<Body>, Vec<u8>), RegistryError> {
        let mut attempt = 1;
        loop {
            let mut response = self.get(path, accept, 0)?;
            match self.read_all(what, most, &mut response) {
                Err(RegistryError::Interrupted { reason, .. }) if attempt < ATTEMPTS => self.pause(&reason, attempt),
                other => return Ok((response, other?)),
            }
            attempt += 1;
        }
    }

    fn read_all(&self, what: &str, most: u64, response: &mut Response<Body>) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        let size = response.body().content_length().unwrap_or(0);
        if let Err(error) = response.body_mut().as_reader().take(most + 1).read_to_end(&mut bytes) {
            let (what, host, received) = (what.to_owned(), self.endpoint.name.clone(), bytes.len() as u64);
            return Err(RegistryError::Interrupted { what, host, received, size, reason: self.why(&error) });
        }
        if bytes.len() as u64 > most {
            return Err(self.wrong(what, format!("it is larger than {most} bytes")));
        }
        Ok(bytes)
    }

    /// A small blob as a whole: the configuration.
    pub fn config(&self, blob: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        self.small("configuration", blob, self.access.settings.limits.config_bytes)
    }

    /// A blob of at most so many bytes, as a whole.
    pub fn small(&self, what: &str, blob: &Descriptor, most: u64) -> Result<Vec<u8>, RegistryError> {
        if blob.size > most {
            return Err(self.wrong(what, format!("it is larger than {most} bytes")));
        }
        let (_, bytes) = self.whole(what, &format!("blobs/{}", blob.digest), "*/*", most)?;
        let found = Digest::of(&bytes);
        if found == blob.digest { Ok(bytes) } else { Err(self.mismatch(what, &blob.digest, &found)) }
    }

    /// The content of a blob from this byte on, or all of it where the registry can't begin there.
    ///
    /// # Errors
    /// Where the registry does not have it, or not with this length.
    pub fn blob(&self, blob: &Descriptor, from: u64) -> Result<Content<impl Read + use<>>, RegistryError> {
        let path = format!("blobs/{}", blob.digest);
        let mut response = match self.get(&path, "*/*", from) {
            Err(RegistryError::Status { status: 416, .. }) if from > 0 => self.get(&path, "*/*", 0)?,
            other => other?,
        };
        let mut part = transport::part(&response);
        // A piece that nobody asked for is of no use.
        if part.is_some_and(|(begins, _)| begins != from) {
            response = self.get(&path, "*/*", 0)?;
            part = None;
        }
        let found = part.map_or_else(|| response.body().content_length(), |(_, whole)| whole);
        if let Some(found) = found.filter(|found| *found != blob.size) {
            let (what, host) = (format!("blob {}", blob.digest), self.endpoint.name.clone());
            return Err(RegistryError::Length { what, host, expected: blob.size, found });
        }
        Ok(Content { body: response.into_body().into_reader(), begins: part.map_or(0, |(begins, _)| begins) })
    }

    fn get(&self, path: &str, accept: &str, from: u64) -> Result<Response<Body>, RegistryError> {
        let mut headers = vec![("accept", accept.to_owned())];
        if from > 0 {
            headers.push(("range", format!("bytes={from}-")));
        }
        self.ask(&Ask { method: Method::GET, path: Path::Below(path), headers, payload: &Payload::None })
    }

    /// Asks again with what the registry wants to know, and where a pause may help, after the pause. What succeeded is
    /// the result; everything else an error.
    fn ask(&self, ask: &Ask<'_>) -> Result<Response<Body>, RegistryError> {
        let uri = self.uri(&ask.path)?;
        // Where the registry sends an upload is its own affair; who we are is for the registry alone.
        let home = Origin::of(&self.uri(&Path::Below(""))?) == Origin::of(&uri);
        let mut introduced = None;
        let mut attempt = 1;
        loop {
            let authorization = self.authorization.lock().expect("no holder panics").clone().filter(|_| home);
            let request = Request {
                method: ask.method.clone(),
                uri: &uri,
                headers: ask.headers.clone(),
                authorization: authorization.as_deref(),
                payload: ask.payload.again(),
            };
            let last = attempt >= ATTEMPTS;
            let pause = match self.transport.send(&request) {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && introduced.is_none() && home => {
                    let known = self.introduce(&uri, &ask.method, &response)?;
                    *self.authorization.lock().expect("no holder panics") = Some(known.authorization.clone());
                    introduced = Some(known);
                    continue;
                }
                Ok(response) if last || !waiting::may_pass(response.status()) => {
                    return Err(self.refused(&uri, ask, response, introduced));
                }
                Ok(response) => {
                    let pause = waiting::asked_for(&response).unwrap_or_else(|| backoff(attempt));
                    self.say(&format!("it answered HTTP {}", response.status().as_u16()), pause)
                }
                Err(RegistryError::Unreachable { tls: false, reason, .. }) if !last => {
                    self.say(&reason, backoff(attempt))
                }
                Err(error) => return Err(error),
            };
            // There is no event to wait for: the registry names a time, or is hoped to recover.
            std::thread::sleep(pause);
            attempt += 1;
        }
    }

    /// Before something is asked for again, for which there is no event to wait: whoever broke off is hoped to recover.
    pub(super) fn pause(&self, reason: &str, attempt: u32) {
        std::thread::sleep(self.say(reason, backoff(attempt)));
    }

    /// Why a body ended before its time.
    pub(super) fn why(&self, error: &io::Error) -> String {
        transport::why(error, self.access.settings)
    }

    fn say(&self, reason: &str, pause: std::time::Duration) -> std::time::Duration {
        (self.access.waiting)(&Wait { host: &self.endpoint.name, reason, seconds: pause.as_secs_f64() });
        pause
    }

    fn uri(&self, path: &Path<'_>) -> Result<Uri, RegistryError> {
        let path = match path {
            Path::Whole(uri) => return Ok((*uri).clone()),
            Path::Below(path) => path,
        };
        let url = format!("{}://{}/v2/{}/{path}", self.scheme()?, self.endpoint.authority, self.repository);
        url.parse().map_err(|_| self.wrong(path, "not a URL".into()))
    }

    fn introduce(&self, uri: &Uri, method: &Method, response: &Response<Body>) -> Result<Known, RegistryError> {
        let actions = match *method {
            Method::GET | Method::HEAD => "pull",
            Method::DELETE => "delete",
            _ => "pull,push",
        };
        let scope = match self.repository {
            "" => String::new(),
            repository => format!("repository:{repository}:{actions}"),
        };
        let place = self.place();
        let asked = auth::Asked {
            transport: &self.transport,
            access: self.access,
            registry: &self.endpoint.name,
            place: &place,
            uri,
            scope: &scope,
        };
        auth::answer(&asked, response)
    }

    fn refused(
        &self,
        uri: &Uri,
        ask: &Ask<'_>,
        mut response: Response<Body>,
        introduced: Option<Known>,
    ) -> RegistryError {
        let status = response.status().as_u16();
        let said = transport::said(&mut response);
        let host = self.endpoint.name.clone();
        let url = uri.to_string().split('?').next().unwrap_or_default().to_owned();
        match (status, &ask.path) {
            (401 | 403, _) => {
                let known = (self.access.keyring)(&self.place()).is_some();
                let help = introduced.map(|introduced| introduced.advice);
                let help = help.unwrap_or_else(|| auth::help(known, &self.place()).to_owned());
                RegistryError::Denied { host, what: self.place(), status, said, help }
            }
            (404, Path::Below(path)) if path.starts_with("manifests/") => {
                let target = path.trim_start_matches("manifests/");
                let joint = if target.contains(':') { '@' } else { ':' };
                RegistryError::NotFound { image: format!("{}{joint}{target}", self.place()) }
            }
            (404 | 405 | 501, _) if ask.method != Method::GET => RegistryError::Unsupported { url, status, said },
            _ => RegistryError::Status { url, status, said },
        }
    }
}

/// What a reference stands for in a registry.
pub struct Resolved {
    /// The digest of what the tag names: an index where there is one.
    pub digest: Digest,
    /// The digest of this platform's manifest.
    pub own: Digest,
    /// The manifest's very bytes.
    pub bytes: Vec<u8>,
    pub manifest: Manifest,
}
