//! What archives and root file systems of the host hold, by digest: the same digest is the same content, wherever and
//! whenever it was written.
//!
//! Reading all of it each time would cost too much: `seen/HEX.json` of the store keeps a digest together with a stamp of
//! what the file system says of the file, or of everything below the directory (size, times, inode, mode, owner), HEX
//! being the SHA-256 of the path. Whoever changes content changes a time of inode change (inode(7)), which no program
//! sets: another stamp, and it is read again. What is younger than the grain of that clock is read again, too.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::store::entries;
use super::{Digest, Error, Pack, Store, io_at, pack};
use crate::runtime::state;

const VERSION: u32 = 1;
/// File systems tell time in steps of up to two seconds.
const GRAIN_SECONDS: i64 = 2;

/// `seen/HEX.json`.
#[derive(Serialize, Deserialize)]
struct Seen {
    version: u32,
    path: PathBuf,
    stamp: String,
    digest: Digest,
}

/// What the file system says of a file or of a whole tree.
struct Stamp {
    text: String,
    /// The newest time of change in it, in seconds since 1970.
    newest: i64,
}

impl Store {
    /// The digest of the file's bytes, or of everything that a layer keeps of the directory. Cheap where nothing was
    /// changed since it was asked for last.
    ///
    /// # Errors
    /// Where something of it can't be read.
    pub fn content(&self, path: &Path) -> Result<Digest, Error> {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let begun = seconds(SystemTime::now());
        let stamp = stamp(path).map_err(io_at(path))?;
        let folder = self.seen();
        let kept = folder.join(format!("{}.json", Digest::of(path.as_os_str().as_bytes()).hex()));
        // One that can't be read, of another version perhaps, is as good as none.
        let seen = state::read_json::<Seen>(&kept).unwrap_or_default();
        if let Some(seen) = seen.filter(|seen| seen.version == VERSION && seen.stamp == stamp.text) {
            return Ok(seen.digest);
        }
        let digest = read(path).map_err(io_at(path))?;
        if stamp.newest + GRAIN_SECONDS < begun {
            state::make_directory(&folder)?;
            let seen = Seen { version: VERSION, path: path.to_owned(), stamp: stamp.text, digest: digest.clone() };
            state::write_json_volatile(&kept, &seen)?;
        }
        Ok(digest)
    }

    fn seen(&self) -> PathBuf {
        self.directory().join("seen")
    }

    /// Forgets what is no longer there; all of it where no image is left that came from somewhere.
    pub(super) fn forget_seen(&self, all: bool) -> Result<(), Error> {
        for kept in entries(&self.seen())? {
            let seen = state::read_json::<Seen>(&kept).unwrap_or_default();
            if all || seen.is_none_or(|seen| !seen.path.exists()) {
                state::remove(&kept)?;
            }
        }
        Ok(())
    }
}

impl Store {
    /// Forgets what is not there any more.
    pub(super) fn forget_gone(&self) -> Result<(), Error> {
        for kept in entries(&self.directory().join("seen"))? {
            let seen = state::read_json::<Seen>(&kept).unwrap_or_default();
            if !seen.is_some_and(|seen| seen.path.exists()) {
                state::remove(&kept)?;
            }
        }
        Ok(())
    }
}

/// What is written is counted into the digest.
struct Hash(Sha256);

impl Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<Digest> {
    let mut hash = Hash(Sha256::new());
    let mut file = File::open(path)?;
    if file.metadata()?.is_dir() {
        pack(file.as_fd(), None, &Pack::default(), &mut hash)?;
    } else {
        io::copy(&mut file, &mut hash)?;
    }
    Ok(Digest::finish(hash.0))
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let data = fs::metadata(path)?;
    let mut hash = Sha256::new();
    let mut newest = note(&mut hash, Path::new(""), &data);
    let mut waiting: Vec<PathBuf> = data.is_dir().then(PathBuf::new).into_iter().collect();
    while let Some(relative) = waiting.pop() {
        let mut entries = fs::read_dir(path.join(&relative))?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_unstable_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (name, data) = (relative.join(entry.file_name()), entry.metadata()?);
            newest = newest.max(note(&mut hash, &name, &data));
            if data.is_dir() {
                waiting.push(name);
            }
        }
    }
    Ok(Stamp { text: Digest::finish(hash).to_string(), newest })
}

/// Counts one file in; its time of change.
fn note(hash: &mut Sha256, name: &Path, data: &Metadata) -> i64 {
    hash.update((name.as_os_str().len() as u64).to_le_bytes());
    hash.update(name.as_os_str().as_bytes());
    let times = [data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()];
    let numbers = [data.dev(), data.ino(), data.size(), data.mode().into(), data.uid().into(), data.gid().into()];
    times.into_iter().for_each(|number| hash.update(number.to_le_bytes()));
    numbers.into_iter().for_each(|number| hash.update(number.to_le_bytes()));
    data.ctime()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::roots::Roots;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("stack-content-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn store(&self) -> Store {
            Store::open(&Roots::new(self.0.join("root"), self.0.join("run")))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn content_is_known_by_what_it_is() {
        let place = Place::new("what");
        let (store, file, tree) = (place.store(), place.0.join("file"), place.0.join("tree"));
        fs::write(&file, "one").unwrap();
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc/a"), "one").unwrap();
        assert_eq!(store.content(&file).unwrap(), Digest::of(b"one"));
        let (time, before) = (fs::metadata(&file).unwrap().modified().unwrap(), store.content(&tree).unwrap());
        assert_eq!(store.content(&tree).unwrap(), before);
        // Of the same length, with the old time put back.
        for path in [&file, &tree.join("etc/a")] {
            fs::write(path, "two").unwrap();
            File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        }
        assert_eq!(store.content(&file).unwrap(), Digest::of(b"two"));
        assert_ne!(store.content(&tree).unwrap(), before);
        assert!(store.content(&place.0.join("none")).is_err());
        let seen = place.0.join("root/images/seen");
        fs::create_dir_all(&seen).unwrap();
        fs::write(seen.join("x.json"), r#"{"version": 1, "path": "/none", "stamp": "", "digest": ""}"#).unwrap();
        store.forget_gone().unwrap();
        assert!(!seen.join("x.json").exists());
    }

    /// What is known is not read again: a digest that somebody put there is believed while the stamp holds.
    #[test]
    fn what_did_not_change_is_not_read_again() {
        let place = Place::new("again");
        let store = place.store();
        // Of before the grain of any clock.
        let path = Path::new("/proc/self/exe").canonicalize().unwrap();
        let old = fs::metadata(&path).unwrap().ctime() + GRAIN_SECONDS;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        let digest = store.content(&path).unwrap();
        let kept: Vec<PathBuf> = fs::read_dir(place.0.join("root/images/seen"))
            .map(|all| all.map(|one| one.unwrap().path()).collect())
            .unwrap_or_default();
        assert_eq!(kept.is_empty(), old >= now);
        for path in kept {
            let text = fs::read_to_string(&path).unwrap();
            let other = Digest::of(b"other");
            fs::write(&path, text.replace(digest.as_str(), other.as_str())).unwrap();
            assert_eq!(store.content(&std::env::current_exe().unwrap().canonicalize().unwrap()).unwrap(), other);
            fs::write(&path, "{}").unwrap();
            assert_eq!(store.content(&std::env::current_exe().unwrap().canonicalize().unwrap()).unwrap(), digest);
        }
    }
}
