//! What is done to a container when a file that it has changes on this host: a config, a secret, or a single file that is
//! bound into it.

use serde::{Deserialize, Serialize};

/// The new content is in the container in any case, under the same path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reaction {
    /// A new container is made.
    Recreate,
    /// The same container is stopped and started.
    #[default]
    Restart,
    /// Its first process is sent this signal.
    Signal(String),
    /// This program is run in it, and has to end with 0.
    Exec(Vec<String>),
    /// Nothing: its programs look for themselves.
    None,
}

impl Reaction {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What runs goes on running.
    pub fn is_in_place(&self) -> bool {
        matches!(self, Self::Signal(_) | Self::Exec(_) | Self::None)
    }
}

/// How a file is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// age-encryption.org/v1, for X25519 recipients; armored or not.
    Age,
    /// A file of SOPS with age recipients; which kind its name says.
    Sops,
}
