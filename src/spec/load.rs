//! From files on disk to a [`Stack`]. The one place of this room that reads the disk.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::diagnostics::{Diagnostic, Diagnostics, Sources};
use super::stack::Stack;

/// What to load and in which surroundings. Nothing else is consulted: no process environment, no current directory.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Files as the user named them, merged in this order; a directory is searched for the usual names, `-` is
    /// [`LoadOptions::stdin`]. Empty = discovery from [`LoadOptions::start`] upwards.
    pub files: Vec<PathBuf>,
    /// Absolute directory where the user stands.
    pub start: PathBuf,
    /// `-p/--project-name`; wins over the file's `name:`.
    pub project_name: Option<String>,
    pub profiles: Vec<String>,
    /// Instead of `.env` beside the file.
    pub env_files: Vec<PathBuf>,
    /// The caller's environment; wins over `.env`.
    pub environment: BTreeMap<String, String>,
    /// Text for `-`.
    pub stdin: Option<String>,
}

/// A stack and how it came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// With [`Stack::not_honoured`].
    pub stack: Stack,
    /// Every file whose content matters, to watch: stack files, `.env`, env files, files of configs and secrets.
    pub files: Vec<PathBuf>,
    /// Nothing that stops an apply; render them on stderr.
    pub warnings: Diagnostics,
}

/// Reads, merges, checks. All errors of all files are returned at once.
pub fn load(options: &LoadOptions) -> Result<Loaded, Diagnostics> {
    let message = format!("loading files is not there yet ({} named)", options.files.len());
    Err(Diagnostics::new(vec![Diagnostic::error(message, None)], Sources::default()))
}
