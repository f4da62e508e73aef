//! Who works with the store says what must stay. A lease is a file of digests, `leases/ID`, locked as long as its holder
//! lives, and a folder `tmp/ID` where something is half made. The collector spares what is named in locked ones, and
//! removes those whose holder is gone, with their folders.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{Flock, FlockArg};

use super::Store;
use crate::runtime::image::{Digest, Error, io_at};
use crate::runtime::state;

/// Keeps what it names from being collected, until it is dropped or its process ends.
#[derive(Debug)]
pub struct Lease {
    file: Flock<File>,
    path: PathBuf,
    folder: PathBuf,
    next: AtomicU64,
}

impl Store {
    /// A new lease, of nothing yet.
    pub fn lease(&self) -> Result<Lease, Error> {
        let leases = self.directory.join("leases");
        state::make_directory(&self.directory)?;
        state::make_directory(&leases)?;
        self.sweep_leases()?;
        let process = std::process::id();
        for number in 0_u64.. {
            let id = format!("{process}-{number}");
            let path = leases.join(&id);
            let open = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
            let Ok(file) = Flock::lock(open.map_err(io_at(&path))?, FlockArg::LockExclusiveNonblock) else { continue };
            // Whoever collects may have removed the file between the two.
            if !is_at(&file, &path) {
                continue;
            }
            let folder = self.directory.join("tmp").join(id);
            remove_all(&folder)?;
            file.set_len(0).map_err(io_at(&path))?;
            return Ok(Lease { file, path, folder, next: AtomicU64::new(0) });
        }
        Err(Error::Busy("leases".to_owned()))
    }

    /// From now on these stay. Taken under the store's lock: a collection is either over, or sees them.
    pub fn protect<'a>(&self, lease: &Lease, digests: impl IntoIterator<Item = &'a Digest>) -> Result<(), Error> {
        let _lock = self.lock()?;
        let lines: String = digests.into_iter().map(|digest| format!("{}\n", digest.hex())).collect();
        (&*lease.file).write_all(lines.as_bytes()).map_err(io_at(&lease.path))
    }

    /// What live leases name; the rest of dead ones is removed. To be called with the store's lock.
    pub(super) fn leased(&self) -> Result<BTreeSet<String>, Error> {
        let live = self.sweep_leases()?.into_iter().map(|path| fs::read_to_string(path).unwrap_or_default());
        Ok(live.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect())
    }

    /// Removes what dead leases left; returns the live ones.
    fn sweep_leases(&self) -> Result<Vec<PathBuf>, Error> {
        let mut live = Vec::new();
        for path in entries(&self.directory.join("leases"))? {
            let file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(io_at(&path))?,
            };
            // Held while its rest is removed: a new process with the old one's number takes another name meanwhile.
            let Ok(_dead) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
                live.push(path);
                continue;
            };
            remove_all(&self.directory.join("tmp").join(path.file_name().unwrap_or_default()))?;
            remove_all(&path)?;
        }
        Ok(live)
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if same(&a, &b))
}

/// What is in a directory; nothing where there is none.
pub(in crate::runtime::image) fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(io_at(directory))?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io_at(directory)(error)),
    }
}

/// Removes a file or a tree; one that is not there is fine.
pub(in crate::runtime::image) fn remove_all(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(data) if data.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}

impl Lease {
    /// A new path in the lease's folder, which is made with the first.
    pub(in crate::runtime::image) fn temporary(&self, name: &str) -> Result<PathBuf, Error> {
        for directory in self.folder.parent().into_iter().chain([self.folder.as_path()]) {
            state::make_directory(directory)?;
        }
        Ok(self.folder.join(format!("{name}-{}", self.next.fetch_add(1, Ordering::Relaxed))))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What can't be removed now is removed by the next collection.
        if let Err(error) = remove_all(&self.folder).and_then(|()| remove_all(&self.path)) {
            tracing::debug!(%error, "a lease's rest stays");
        }
    }
}
