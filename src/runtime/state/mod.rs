//! What is kept on disk: small JSON files that are whole or absent at any moment, and locks that say who holds them.
//!
//! A file is written under a temporary name in the same directory, synced, and renamed over the old one; a reader sees
//! the old or the new text, never half of one, whenever power fails.

pub mod journal;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What failed, on which file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path}: not what this program wrote: {source}\n  help: restore it, or move it away to have it treated as absent"
    )]
    Text { path: PathBuf, source: serde_json::Error },
    #[error("{path} is in use by {holder}\n  help: wait for it to end")]
    Held { path: PathBuf, holder: String },
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// How much a loss of power may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Old or new after a power cut.
    Durable,
    /// For what does not outlive the boot anyway.
    Volatile,
}

/// Puts the value's JSON at the path. The directory must exist.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    write(path, value, Durability::Durable)
}

/// As [`write_json`], without waiting for the disk.
pub fn write_json_volatile(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    write(path, value, Durability::Volatile)
}

fn write(path: &Path, value: &impl Serialize, durability: Durability) -> Result<(), Error> {
    let mut text = serde_json::to_vec(value).map_err(|source| Error::Text { path: path.to_owned(), source })?;
    text.push(b'\n');
    replace(path, &text, durability).map_err(io_at(path))
}

/// Puts the bytes at the path, whole or not at all.
pub fn replace(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let temporary = temporary(path);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        if durability == Durability::Durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // Most likely the disk is full; the half-written file is of no use to anybody.
        drop(fs::remove_file(&temporary));
    }
    written?;
    if durability == Durability::Durable { File::open(directory)?.sync_all() } else { Ok(()) }
}

/// Where the new text is until it is whole. One name, so that the rest of a writer that was killed is overwritten by
/// the next; two writers of one file hold a lock.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("state");
    path.with_file_name(format!(".{name}.new"))
}

/// Removes the file, and the rest of a writer that was killed. One that is not there is fine.
pub fn remove(path: &Path) -> Result<(), Error> {
    for path in [temporary(path), path.to_owned()] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_at(&path)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// As [`remove`], also after a power cut.
pub fn remove_durably(path: &Path) -> Result<(), Error> {
    if !path.exists() {
        return Ok(());
    }
    remove(path)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io_at(directory))
}

/// Room for the text of most files.
const USUAL_LENGTH: usize = 4 << 10;

/// What is in a file that nobody writes into once it has its name: a read that does not fill its room is the last.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut text = vec![0; USUAL_LENGTH];
    let mut length = 0;
    loop {
        match file.read(&mut text[length..]) {
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if length < text.len() {
            text.truncate(length);
            return Ok(text);
        }
        text.resize(2 * length, 0);
    }
}

/// The value at the path; `None` when there is no such file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let text = match read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_at(path)(error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|source| Error::Text { path: path.to_owned(), source })
}

/// Makes a directory that only root may enter; those above it that are missing are such, too.
pub fn make_directory(path: &Path) -> Result<(), Error> {
    make_private(path).map_err(io_at(path))
}

/// As [`make_directory`]. Whoever is the first to write below a root makes the root itself by this.
pub fn make_private(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A lock on a file, held until dropped or the process ends. The file says who holds it.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: Flock<File>,
}

/// What to do when another process holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contention {
    Wait,
    Refuse,
}

impl Lock {
    /// Takes the lock; makes its file, and the directory of it, where missing.
    pub fn take(path: &Path, contention: Contention) -> Result<Self, Error> {
        if let Some(directory) = path.parent() {
            make_directory(directory)?;
        }
        let how = match contention {
            Contention::Wait => FlockArg::LockExclusive,
            Contention::Refuse => FlockArg::LockExclusiveNonblock,
        };
        loop {
            let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
            match Flock::lock(open.map_err(io_at(path))?, how) {
                // Its last holder took the file away: the next one to come makes another.
                Ok(file) if !is_at(&file, path) => {}
                Ok(mut file) => {
                    // For people only: that the lock is held does not depend on it. Never cut to nothing, which would
                    // have ext4 write it to the disk.
                    let name = own_name();
                    let written = file.rewind().and_then(|()| file.write_all(name.as_bytes()));
                    drop(written.and_then(|()| file.set_len(name.len() as u64)));
                    return Ok(Self { path: path.to_owned(), _file: file });
                }
                Err((mut file, nix::Error::EWOULDBLOCK)) => {
                    let mut holder = String::new();
                    file.read_to_string(&mut holder).map_err(io_at(path))?;
                    if holder.is_empty() {
                        // It holds the lock, and is about to write down who it is.
                        holder.push_str("another process");
                    }
                    return Err(Error::Held { path: path.to_owned(), holder });
                }
                Err((_, error)) => return Err(io_at(path)(error.into())),
            }
        }
    }

    /// Lets go of the lock for good: its file goes too.
    pub fn remove(self) -> Result<(), Error> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(&self.path)(error)),
            _ => Ok(()),
        }
    }
}

/// Whether the path leads to this very file.
fn is_at(file: &File, path: &Path) -> bool {
    let inode = |data: &fs::Metadata| (data.dev(), data.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(own), Ok(there)) if inode(&own) == inode(&there))
}

/// `process 123 (stack apply)`.
fn own_name() -> String {
    let mut words: Vec<String> = std::env::args().take(8).collect();
    if words.get(1).is_some_and(|word| word == crate::runtime::rootless::WORD) && words.len() > 7 {
        words.swap(1, 7);
    }
    let program = words.first().map(|word| word.rsplit('/').next().unwrap_or(word).to_owned()).unwrap_or_default();
    let verb = words.get(1).map(|word| format!(" {word}")).unwrap_or_default();
    format!("process {} ({program}{verb})", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("stack-state-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_stays() {
        let directory = temporary("replace");
        let path = directory.join("a.json");
        write_json(&path, &vec![1, 2]).unwrap();
        write_json(&path, &vec![3]).unwrap();
        assert_eq!(read_json::<Vec<u8>>(&path).unwrap(), Some(vec![3]));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        assert_eq!(read_json::<Vec<u8>>(&directory.join("none")).unwrap(), None);
        fs::write(&path, "[3").unwrap();
        assert!(matches!(read_json::<Vec<u8>>(&path), Err(Error::Text { .. })));
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_lock_says_who_holds_it() {
        let directory = temporary("lock");
        let path = directory.join("lock");
        let held = Lock::take(&path, Contention::Refuse).unwrap();
        let refused = Lock::take(&path, Contention::Refuse).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(held);
        Lock::take(&path, Contention::Refuse).unwrap().remove().unwrap();
        assert!(!path.exists());
        drop(Lock::take(&path, Contention::Refuse).unwrap());
        fs::remove_dir_all(directory).unwrap();
    }
}
