//! Where one build works: a directory below the durable root (it must be on the disk that holds the layers) and one
//! below the volatile root (for secrets). Both go with the build; what a killed build left is removed by the next
//! command that looks.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::runtime::container;
use crate::runtime::network::{self, netd};
use crate::runtime::roots::Roots;
use crate::runtime::state::{self, Contention, Lock};

/// What failed with the build's own files.
#[derive(Debug, thiserror::Error)]
pub enum WorkshopError {
    #[error(transparent)]
    State(#[from] state::Error),
    #[error(transparent)]
    Container(#[from] container::Error),
    #[error(transparent)]
    Network(#[from] network::Error),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> WorkshopError {
    let path = path.to_owned();
    move |source| WorkshopError::Io { path, source }
}

/// The place of one build, for as long as it lives.
#[derive(Debug)]
pub struct Workshop {
    pub roots: Roots,
    id: String,
    next: AtomicUsize,
    _lock: Lock,
}

fn durable(roots: &Roots) -> PathBuf {
    roots.durable("builds")
}

fn volatile(roots: &Roots) -> PathBuf {
    roots.volatile("builds")
}

/// Begun and swept one after another, so that no build is swept before it is locked.
fn gate(roots: &Roots) -> Result<Lock, WorkshopError> {
    Ok(Lock::take(&roots.volatile("locks").join("builds"), Contention::Wait)?)
}

impl Workshop {
    pub fn open(roots: &Roots) -> Result<Self, WorkshopError> {
        sweep(roots)?;
        let _gate = gate(roots)?;
        let mut bytes = [0; 4];
        let random = Path::new("/dev/urandom");
        fs::File::open(random).and_then(|mut file| file.read_exact(&mut bytes)).map_err(at(random))?;
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let lock = Lock::take(&durable(roots).join(&id).join("lock"), Contention::Refuse)?;
        state::make_directory(&volatile(roots).join(&id))?;
        Ok(Self { roots: roots.clone(), id, next: AtomicUsize::new(0), _lock: lock })
    }

    fn number(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A new and empty directory on the disk that holds the layers.
    pub fn directory(&self) -> Result<PathBuf, WorkshopError> {
        let path = durable(&self.roots).join(&self.id).join(self.number().to_string());
        state::make_directory(&path)?;
        Ok(path)
    }

    /// A new and empty directory that is gone at reboot at the latest.
    pub fn secret_directory(&self) -> Result<PathBuf, WorkshopError> {
        let path = volatile(&self.roots).join(&self.id).join(self.number().to_string());
        state::make_directory(&path)?;
        Ok(path)
    }

    /// The name of a container of this build that no other has.
    pub fn container_name(&self) -> String {
        format!("build-{}-{}", self.id, self.number())
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        if let Err(error) = clear(&self.roots, &self.id) {
            tracing::warn!(build = self.id, %error, "left for the next build to remove");
        }
    }
}

/// Removes the containers and files of builds that were killed.
///
/// # Errors
/// Where something can't be removed; the rest is removed all the same.
pub fn sweep(roots: &Roots) -> Result<(), WorkshopError> {
    let entries = match fs::read_dir(durable(roots)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at(&durable(roots))(error)),
    };
    let ids: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let _gate = gate(roots)?;
    let mut result = Ok(());
    for id in ids {
        // Only the lock of one that is gone can be taken.
        let lock = durable(roots).join(&id).join("lock");
        if let Ok(_held) = Lock::take(&lock, Contention::Refuse) {
            result = result.and(clear(roots, &id));
        }
    }
    result
}

fn clear(roots: &Roots, id: &str) -> Result<(), WorkshopError> {
    let prefix = format!("build-{id}-");
    for found in container::list(roots)?.into_iter().filter(|found| found.config.name.starts_with(&prefix)) {
        remove_container(roots, &found.config.name)?;
    }
    for path in [volatile(roots).join(id), durable(roots).join(id)] {
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// Removes a container of a build, and its place in the network.
pub fn remove_container(roots: &Roots, name: &str) -> Result<(), WorkshopError> {
    match container::stop(roots, name, &container::Stop::at_once()) {
        Ok(()) | Err(container::Error::NotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    network::disconnect(roots, name)?;
    netd::ensure(roots)?;
    Ok(container::remove(roots, name, true)?)
}
