//! Images: named, content-addressed, unpacked. Knows registries and archives; of containers only which layers they stand
//! on, which are kept.
//!
//! What comes from outside is read by `document`, `config`, `tarball` and `strict`, and refused there where it is
//! not plain; what is unpacked goes through `unpack`; everything that is kept is kept by `store`.

pub mod archive;
mod builtin;
mod config;
mod content;
mod document;
mod download;
mod early;
mod emulation;
mod healthcheck;
mod limits;
mod pack;
pub mod plugin;
pub mod policy;
mod pull;
mod push;
pub mod reference;
pub mod registry;
pub mod settings;
mod steps;
mod store;
mod strict;
mod tarball;
mod tree;
mod unpack;
mod view;

use std::io;
use std::path::PathBuf;

pub use document::{Descriptor, Platform};
pub use emulation::runs;
pub use healthcheck::Healthcheck;
pub use limits::Limits;
pub use oci_spec::image::ImageConfiguration;
pub use pack::{Pack, pack, pack_one, stubs};
pub use pull::{Progress, PullOptions, digest_of};
pub use reference::{Digest, ImageReference, ReferenceError};
pub use registry::{Access, Client, Credentials, RegistryError, Wait};
pub use settings::Settings;
pub use steps::Step;
pub use store::{Contents, Damage, Found, Image, Layer, Lease, Made, Prune, Store, spellings};
pub use unpack::{UnpackError, extract, extract_over};
pub use view::view;

use super::state;

/// What failed with which image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no image {0:?} in the store\n  help: `stack pull {0}` fetches it; `stack images` lists what there is")]
    NotFound(String),
    #[error("no built-in image {0:?}\n  help: there is one, `builtin:whoami`")]
    Builtin(String),
    #[error("{path}: {reason}")]
    Archive { path: PathBuf, reason: String },
    #[error("layer {layer}: {source}")]
    Layer { layer: String, source: UnpackError },
    #[error("the configuration of {image}: {reason}")]
    Configuration { image: String, reason: String },
    #[error(
        "{what}: expected {expected}, its content has {found}\n  help: it was damaged or tampered with on its way; nothing of it was kept"
    )]
    Mismatch { what: String, expected: String, found: String },
    #[error("{digest} in the store is damaged: {reason}\n  help: `stack image verify --repair` fetches it again")]
    Damaged { digest: String, reason: String },
    #[error("image {0:?} is used by a container\n  help: remove the container first")]
    InUse(String),
    #[error("image {image} is for {found}, and {wanted} is wanted\n  help: {help}")]
    OtherPlatform { image: String, found: String, wanted: String, help: &'static str },
    #[error("{image} is refused: {reason}\n  help: {help}")]
    Refused { image: String, reason: String, help: String },
    #[error("{0:?} is not a platform\n  help: expected os/architecture, as linux/arm64")]
    Platform(String),
    #[error("{0}: others are always quicker\n  help: try again when they have ended")]
    Busy(String),
    #[error("which layers containers stand on can't be told: {0}")]
    Containers(Box<super::container::Error>),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Settings(#[from] settings::SettingsError),
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

fn io_at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { path, source }
}
