//! The types of a stack, and the way from text to them.
//!
//! ```text
//! bytes ─[yaml, toml]─▶ tree with spans ─[interpolate]─▶ tree ─[schema]─▶ checked tree ─[merge]─▶ one tree ─[lower]─▶ Stack ─[validate]─▶ Stack
//! ```
//! All of it is pure (files are read through an argument); `load` alone touches the disk. Every error is a
//! [`diagnostics::Diagnostic`] with a span, and all errors of all files are reported at once.

pub mod container;
mod discover;
mod document;
mod dotenv;
mod fields;
mod interpolate;
mod load;
pub mod lock;
pub mod logging;
mod lower;
mod merge;
pub mod names;
pub mod network_driver;
mod network_mode;
pub mod probe;
pub mod reaction;
mod schema;
pub mod stack;
mod toml;
mod tree;
pub mod units;
mod validate;
mod write;
mod yaml;

pub use crate::diagnostics;
pub use crate::diagnostics::{Diagnostic, Diagnostics};
pub use load::{Fault, LoadOptions, Loaded, load, resolve};
pub use lock::Lock;
pub use schema::schema;
pub use stack::*;
pub use write::Document;

#[cfg(test)]
mod tests;
