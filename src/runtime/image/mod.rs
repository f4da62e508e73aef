//! Images: named, content-addressed, unpacked. Knows registries and archives; knows nothing of containers, which get a
//! list of directories.

mod archive;
mod builtin;
mod healthcheck;
mod pack;
mod pull;
pub mod reference;
pub mod registry;
mod steps;
mod store;
mod unpack;
mod view;

use std::io;
use std::path::PathBuf;

pub use healthcheck::Healthcheck;
pub use oci_spec::image::ImageConfiguration;
pub use pack::{Pack, pack};
pub use pull::{Progress, PullOptions};
pub use reference::{Digest, ImageReference, ReferenceError};
pub use registry::{Credentials, RegistryError};
pub use steps::Step;
pub use store::{Image, Made, Store};
pub use unpack::{UnpackError, extract};
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
    #[error(
        "{what}: expected {expected}, its content has {found}\n  help: it was damaged or tampered with on its way; nothing of it was kept"
    )]
    Mismatch { what: String, expected: String, found: String },
    #[error("{0:?} is not a platform: expected os/architecture, as linux/arm64")]
    Platform(String),
    #[error("{0}: another process keeps removing its layers\n  help: try again when it has ended")]
    Busy(String),
    #[error("which layers containers stand on can't be told: {0}")]
    Containers(Box<super::container::Error>),
    #[error(transparent)]
    Registry(#[from] RegistryError),
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
