//! Files that are encrypted on the disk, opened in memory: age (age-encryption.org/v1) and SOPS with age recipients.
//!
//! The primitives are `ring`'s, `x25519-dalek`'s and `aes-gcm`'s; here are the two formats around them. What is
//! decrypted is returned and written nowhere; no error says anything of it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

mod age;
mod sops;
mod tree;

/// The most that is read of an encrypted file, in bytes.
const LARGEST: u64 = 4 << 20;

/// Of which kind a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    Age,
    Sops,
}

/// Why a file can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is larger than {} MiB", path.display(), LARGEST >> 20)]
    Large { path: PathBuf },
    #[error("{} is encrypted, and nobody says with which key it is opened\n  help: name a file of age identities by `keys:`, or in SOPS_AGE_KEY_FILE", path.display())]
    NoKeys { path: PathBuf },
    #[error("{} holds no age identity\n  help: `age-keygen -o FILE` makes such a file", path.display())]
    NoIdentity { path: PathBuf },
    #[error("{}: {reason}", path.display())]
    Format { path: PathBuf, reason: String },
    #[error("{}: none of the identities in {} opens it\n  help: it is encrypted for {recipients}", path.display(), keys.display())]
    NotForUs { path: PathBuf, keys: PathBuf, recipients: String },
}

/// What is wrong with the bytes, before it is known whose they are.
#[derive(Debug, PartialEq, Eq)]
enum Wrong {
    Format(&'static str),
    /// Who could open it, as far as it says.
    NotForUs(Vec<String>),
}

/// The content of the file, decrypted with the identities of the other one.
///
/// # Errors
/// Where none of them fits, or the file is damaged or was tampered with.
pub fn open(path: &Path, encryption: Encryption, keys: Option<&Path>) -> Result<Vec<u8>, Error> {
    let sealed = read(path)?;
    let Some(keys) = keys else { return Err(Error::NoKeys { path: path.to_owned() }) };
    let text = read(keys)?;
    let identities = age::identities(&String::from_utf8_lossy(&text));
    if identities.is_empty() {
        return Err(Error::NoIdentity { path: keys.to_owned() });
    }
    let opened = match encryption {
        Encryption::Age => age::open(&sealed, &identities),
        Encryption::Sops => sops::open(&sealed, path, &identities),
    };
    opened.map_err(|wrong| match wrong {
        Wrong::Format(reason) => Error::Format { path: path.to_owned(), reason: reason.to_owned() },
        Wrong::NotForUs(recipients) => {
            let recipients = if recipients.is_empty() { "others".to_owned() } else { recipients.join(", ") };
            Error::NotForUs { path: path.to_owned(), keys: keys.to_owned(), recipients }
        }
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let at = |source| Error::Io { path: path.to_owned(), source };
    if !fs::metadata(path).map_err(at)?.is_file() {
        return Err(at(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(at)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::Large { path: path.to_owned() });
    }
    Ok(bytes)
}
