//! Reads the files whose content counts as configuration, so that `lower` stays pure. The one effect of this room
//! besides executing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Larger files that are bind-mounted are data, not configuration: their content is not looked at.
pub const CONTENT_LIMIT_BYTES: u64 = 1 << 20;

/// What is known of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileFacts {
    /// A regular file of at most [`CONTENT_LIMIT_BYTES`].
    Content {
        /// SHA-256 in hexadecimal.
        hash: String,
    },
    /// A directory, a device, a large file: changes of its content are no change of the stack.
    Opaque,
    Missing,
    Unreadable {
        reason: String,
    },
}

/// Path → what was found there.
pub type Files = BTreeMap<PathBuf, FileFacts>;

/// Looks at every path. Never fails: what can't be read is a fact too.
pub fn collect(paths: &BTreeSet<PathBuf>) -> Files {
    paths.iter().map(|path| (path.clone(), look(path))).collect()
}

/// Looks at one path.
pub fn look(path: &Path) -> FileFacts {
    match read_small(path) {
        Ok(Some(bytes)) => FileFacts::Content { hash: hash(&bytes) },
        Ok(None) => FileFacts::Opaque,
        Err(error) if error.kind() == io::ErrorKind::NotFound => FileFacts::Missing,
        Err(error) => FileFacts::Unreadable { reason: error.to_string() },
    }
}

/// The text of a small regular file; `None` where it is anything else.
pub fn text(path: &Path) -> io::Result<Option<String>> {
    Ok(read_small(path)?.and_then(|bytes| String::from_utf8(bytes).ok()))
}

/// The content of a small regular file; `None` where it is anything else. A fifo or device is never opened.
fn read_small(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > CONTENT_LIMIT_BYTES {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(CONTENT_LIMIT_BYTES + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= CONTENT_LIMIT_BYTES).then_some(bytes))
}

/// SHA-256 in hexadecimal.
pub fn hash(bytes: &[u8]) -> String {
    let digits = b"0123456789abcdef";
    let of = |byte: &u8| [byte >> 4, byte & 15].map(|half| char::from(digits[usize::from(half)]));
    Sha256::digest(bytes).iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_counts_only_for_small_regular_files() {
        let directory = std::env::temp_dir().join(format!("facts-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("small"), "x").unwrap();
        File::create(directory.join("large")).unwrap().set_len(CONTENT_LIMIT_BYTES + 1).unwrap();
        let paths = ["small", "large", "none", "."].map(|name| directory.join(name));
        let files = collect(&paths.iter().cloned().collect());
        std::fs::remove_dir_all(&directory).unwrap();
        let found: Vec<_> = paths.iter().map(|path| &files[path]).collect();
        let small = FileFacts::Content { hash: hash(b"x") };
        assert_eq!(found, [&small, &FileFacts::Opaque, &FileFacts::Missing, &FileFacts::Opaque]);
    }
}
