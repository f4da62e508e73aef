//! The types of a stack: what a user declared, parsed once, with every default that the file format defines filled in.
//!
//! Values that an image may supply (user, command, working directory, …) stay `Option`: `None` means "what the image says".
//! Everything here is plain data with a stable serialised order, so two equal declarations are equal values and equal bytes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;

pub use super::container::*;
pub use super::diagnostics::{Location, Span};
use super::lock::Lock;
use super::reaction::{Encryption, Reaction};

/// One declared stack. A Compose file's "project" is the same thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stack {
    pub name: String,
    pub format: Format,
    /// The `images:` section. Containers carry their resolved image themselves ([`Container::image`]).
    pub images: BTreeMap<String, Image>,
    /// Enabled containers (Compose: services) only; those of inactive profiles are in [`Stack::disabled`].
    pub containers: BTreeMap<String, Container>,
    /// Names of containers that are declared but whose profiles are not active.
    pub disabled: Vec<String>,
    /// Declared networks plus the implicit `default` one when a container uses it. Key = name inside the file.
    pub networks: BTreeMap<String, Network>,
    pub volumes: BTreeMap<String, Volume>,
    pub configs: BTreeMap<String, FileObject>,
    pub secrets: BTreeMap<String, FileObject>,
    /// What the file asks for and this engine parses but never carries out; shown in the plan, never dropped silently.
    pub not_honoured: Vec<NotHonoured>,
    /// Absolute directory that relative paths of the first file are resolved against.
    pub directory: PathBuf,
    /// Files that the stack was read from, in the order they were merged.
    pub files: Vec<PathBuf>,
    /// What images must be, besides what the host says.
    pub policy: Option<Policy>,
    /// What `stack.lock` beside the first file says, where there is one.
    pub lock: Option<Lock>,
    /// Names of images → the digests that they were pinned to by others than the files: [`Stack::pin`].
    pub pins: BTreeMap<String, String>,
    /// Where each value was written.
    #[serde(skip)]
    pub spans: Spans,
}

/// What a stack wants of the images that it takes from registries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Only these; `None`: all.
    pub registries: Option<Vec<String>>,
    pub needs_digest: bool,
    pub signatures: Vec<Signer>,
}

/// Whose signature which images must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signer {
    pub images: String,
    /// Files of public keys, absolute paths; one of them is enough.
    pub keys: Vec<PathBuf>,
}

/// Which of the two formats a stack was written in. Some defaults differ: see [`Port::host_ip`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    Native,
    Compose,
}

impl Format {
    /// The user's word for a container, for messages: `container` or `service`.
    pub fn container_word(self) -> &'static str {
        match self {
            Self::Native => "container",
            Self::Compose => "service",
        }
    }

    /// The user's word for the section that holds containers.
    pub fn containers_key(self) -> &'static str {
        match self {
            Self::Native => "containers",
            Self::Compose => "services",
        }
    }
}

/// An attribute that was understood but has no effect on this engine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NotHonoured {
    /// Always in native words: `containers.web.develop`.
    pub path: String,
    pub location: Option<Location>,
    pub reason: String,
}

/// Path (`containers.web.image`, always in native words) → where its value was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spans(pub BTreeMap<String, Span>);

impl Spans {
    /// The place of `path`, or of the nearest enclosing path that was written; what is ours stands below `x-stack` in a
    /// Compose file.
    pub fn find(&self, path: &str) -> Option<Span> {
        self.enclosing(path).or_else(|| self.enclosing(&format!("x-stack.{path}")))
    }

    fn enclosing(&self, path: &str) -> Option<Span> {
        let mut path = path;
        loop {
            if let Some(span) = self.0.get(path) {
                return Some(*span);
            }
            path = &path[..path.rfind('.')?];
        }
    }
}

/// An image under the name that containers, `ps` and tags use for it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Image {
    /// The reference the image goes by: what was written, or the default tag of a build (`{stack}-{container}`).
    pub reference: String,
    pub source: ImageSource,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    Pull {
        reference: String,
        /// `sha256:…` that the pulled manifest must have.
        digest: Option<String>,
    },
    /// A docker or OCI archive, absolute path.
    Archive(PathBuf),
    /// A directory or tar file that is the root file system, absolute path.
    Rootfs(PathBuf),
    /// An image that is compiled into the binary.
    Builtin(String),
    Build(Box<Build>),
}

/// How to build an image. Fields follow Compose's `build`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Build {
    pub context: BuildContext,
    /// Relative to the context unless absolute.
    pub dockerfile: Option<String>,
    pub dockerfile_inline: Option<String>,
    pub target: Option<String>,
    /// `None` = taken from the environment by that name and unset there.
    pub args: BTreeMap<String, Option<String>>,
    pub labels: BTreeMap<String, String>,
    pub additional_contexts: BTreeMap<String, String>,
    pub cache_from: Vec<String>,
    pub cache_to: Vec<String>,
    pub no_cache: bool,
    pub no_cache_filter: Vec<String>,
    pub pull: bool,
    pub network: Option<String>,
    pub platforms: Vec<String>,
    pub tags: Vec<String>,
    pub shm_size_bytes: Option<u64>,
    pub extra_hosts: BTreeMap<String, Vec<HostAddress>>,
    pub secrets: Vec<FileGrant>,
    pub ssh: Vec<String>,
    pub ulimits: BTreeMap<String, Ulimit>,
    pub privileged: bool,
    pub entitlements: Vec<String>,
}

/// What is sent to the builder.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildContext {
    /// Absolute path.
    Directory(PathBuf),
    /// A git or archive URL.
    Remote(String),
}

impl Default for BuildContext {
    fn default() -> Self {
        Self::Directory(PathBuf::new())
    }
}

/// A network that the stack declares, or that exists already (`external`).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Network {
    /// The name on the host: `name:`, or `{stack}_{key}`; for an external one `name:` or the key.
    pub name: String,
    pub external: bool,
    /// `None` = the engine's bridge.
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    pub internal: bool,
    pub attachable: bool,
    pub enable_ipv4: Option<bool>,
    pub enable_ipv6: Option<bool>,
    pub ipam: Ipam,
    pub labels: BTreeMap<String, String>,
}

/// Address management of a network.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Ipam {
    pub driver: Option<String>,
    pub options: BTreeMap<String, String>,
    pub pools: Vec<IpamPool>,
}

/// One address pool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IpamPool {
    pub subnet: Option<Subnet>,
    pub ip_range: Option<Subnet>,
    pub gateway: Option<IpAddr>,
    pub aux_addresses: BTreeMap<String, IpAddr>,
}

impl IpamPool {
    /// Of which family it is, by what it names; IPv4 where it names nothing.
    pub fn is_ipv6(&self) -> bool {
        let named = self.subnet.or(self.ip_range).map(|subnet| subnet.address);
        named.or(self.gateway).or(self.aux_addresses.values().next().copied()).is_some_and(|it| it.is_ipv6())
    }
}

/// An address prefix. The host bits of `address` are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    pub address: IpAddr,
    pub prefix_length: u8,
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_length)
    }
}

impl Serialize for Subnet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A named volume.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Volume {
    /// The name on the host: `name:`, or `{stack}_{key}`; for an external one `name:` or the key.
    pub name: String,
    pub external: bool,
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Our word: data of a protected volume is never removed, with or without consent on the command line.
    pub protect: bool,
}

/// A config or a secret: bytes that containers see as a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileObject {
    /// The name on the host: `name:`, or `{stack}_{key}`.
    pub name: String,
    pub source: FileSource,
    pub labels: BTreeMap<String, String>,
    /// Ours: for containers that say nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_change: Option<Reaction>,
}

/// Where the bytes of a config or secret come from.
#[derive(Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileSource {
    /// Absolute path.
    File(PathBuf),
    /// Resolved when the file was loaded. The value is secret: `Debug` and serialised forms leave it out.
    Environment {
        variable: String,
        #[serde(skip)]
        value: String,
    },
    Content(String),
    /// Ours. Decrypted in memory when it is used.
    Encrypted {
        /// Absolute path.
        path: PathBuf,
        encryption: Encryption,
        /// The file of identities that decrypt it; unset: the caller has none.
        keys: Option<PathBuf>,
    },
    /// Exists already under [`FileObject::name`].
    External,
}

impl std::fmt::Debug for FileSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Encrypted { path, .. } => f.debug_tuple("Encrypted").field(path).finish(),
            Self::Environment { variable, .. } => f.debug_struct("Environment").field("variable", variable).finish(),
            Self::Content(text) => f.debug_struct("Content").field("bytes", &text.len()).finish(),
            Self::External => f.write_str("External"),
        }
    }
}
