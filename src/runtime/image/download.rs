//! The way of a blob from a registry to this disk: resumed where it broke off, and believed by its digest alone.
//!
//! `downloads/HEX.part` is what was received of a blob so far, also by a process that is gone; `downloads/HEX` a whole
//! one that no image has yet. `downloads/locks/XX` lets one process at a time fetch blobs whose digest begins so, and is
//! never removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::document::Descriptor;
use super::pull::{Progress, Stop};
use super::registry::{ATTEMPTS, Client, RegistryError};
use super::store::{Layer, Lease, unpack_to};
use super::unpack::Budget;
use super::{Digest, Error, Store, io_at};
use crate::runtime::state::{self, Contention, Lock};

/// A wait that is no news.
const MOMENT: Duration = Duration::from_secs(1);

/// Where layers are fetched to, and from whom.
pub(super) struct Downloads<'a> {
    pub store: &'a Store,
    pub lease: &'a Lease,
    pub clients: &'a [Client<'a>],
    pub progress: &'a (dyn Fn(Progress<'_>) + Sync),
    pub budget: &'a Budget<'a>,
}

/// What was received of a blob.
struct Part {
    file: File,
    path: PathBuf,
    hasher: Sha256,
    received: u64,
}

/// The digest and length of what a file holds.
pub(super) fn hash(mut file: &File) -> io::Result<(Digest, u64)> {
    let (hasher, received) = hash_on(&mut file)?;
    Ok((Digest::finish(hasher), received))
}

fn hash_on(file: &mut impl Read) -> io::Result<(Sha256, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    let mut received = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((hasher, received));
        }
        hasher.update(&buffer[..count]);
        received += count as u64;
    }
}

impl Part {
    /// What a former attempt left, hashed again; content is believed by its digest alone.
    fn open(path: PathBuf) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        let (hasher, received) = hash_on(&mut file)?;
        Ok(Self { file, path, hasher, received })
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.hasher = Sha256::new();
        self.received = 0;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.received += bytes.len() as u64;
        Ok(())
    }
}

impl Downloads<'_> {
    /// Fetches and unpacks what the store does not have.
    pub fn layer(&self, blob: &Descriptor, diff_id: &Digest, stop: &Stop) -> Result<Layer, Error> {
        let (has_blob, has_tree) = (self.store.blob(&blob.digest).exists(), self.store.has_layer(diff_id));
        let mut layer = Layer { diff_id: diff_id.clone(), blob: blob.clone(), waiting_blob: None, waiting_tree: None };
        if has_blob && has_tree {
            (self.progress)(Progress::Present { layer: &blob.digest });
            return Ok(layer);
        }
        let path = match has_blob {
            true => self.store.blob(&blob.digest),
            false => {
                let path = self.fetch(blob, stop)?;
                layer.waiting_blob = Some(path.clone());
                path
            }
        };
        if !has_tree {
            (self.progress)(Progress::Unpacking { layer: &blob.digest });
            let target = self.lease.temporary("layer")?;
            let archive = open_either(&path, &self.store.blob(&blob.digest))?;
            let unpacked = unpack_to(archive, Some(diff_id), &target, self.budget);
            if let (Err(_), Some(path)) = (&unpacked, &layer.waiting_blob)
                && *path != self.store.blob(&blob.digest)
            {
                // It is what its digest says, and of no use all the same.
                forget(path)?;
            }
            unpacked?;
            layer.waiting_tree = Some(target);
        }
        (self.progress)(Progress::Unpacked { layer: &blob.digest });
        Ok(layer)
    }

    /// Fetches the layer's blob, unless another process did while we waited for it. Returns where it is.
    fn fetch(&self, blob: &Descriptor, stop: &Stop) -> Result<PathBuf, Error> {
        let directory = self.store.directory().join("downloads");
        state::make_directory(&directory)?;
        let digest = &blob.digest;
        let _lock = self.lock(&directory.join("locks").join(&digest.hex()[..2]), digest)?;
        let whole = directory.join(digest.hex());
        if self.store.blob(digest).exists() {
            return Ok(self.store.blob(digest));
        }
        if let Ok(file) = File::open(&whole) {
            // Somebody else's, or of before a power cut.
            if hash(&file).map_err(io_at(&whole))?.0 == *digest {
                (self.progress)(Progress::Present { layer: digest });
                return Ok(whole);
            }
            forget(&whole)?;
        }
        let path = whole.with_extension("part");
        let mut part = Part::open(path.clone()).map_err(io_at(&path))?;
        let mut fresh = part.received == 0;
        let mut client = 0;
        loop {
            client = self.receive(blob, &mut part, client, stop)?;
            let found = Digest::finish(part.hasher.clone());
            if found == *digest {
                fs::rename(&path, &whole).map_err(io_at(&whole))?;
                return Ok(whole);
            }
            part.restart().map_err(io_at(&path))?;
            // What an earlier process left may have been what was wrong.
            if fresh {
                let error = self.clients[client].mismatch("layer", digest, &found);
                client += 1;
                if client == self.clients.len() {
                    fs::remove_file(&path).map_err(io_at(&path))?;
                    return Err(error.into());
                }
                tracing::warn!("mirror: {error}; asking the next");
            }
            fresh = true;
        }
    }

    /// Says whom it waits for, where that takes more than a moment.
    fn lock(&self, path: &Path, layer: &Digest) -> Result<Lock, Error> {
        let holder = match Lock::take(path, Contention::Refuse) {
            Err(state::Error::Held { holder, .. }) => holder,
            other => return Ok(other?),
        };
        let (taken, waits) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                if waits.recv_timeout(MOMENT) == Err(RecvTimeoutError::Timeout) {
                    (self.progress)(Progress::Waiting { layer, holder: &holder });
                }
            });
            let lock = Lock::take(path, Contention::Wait);
            drop(taken);
            Ok(lock?)
        })
    }

    /// Fetches a blob whatever the store has, to a path of the caller's.
    pub fn fetch_to(&self, blob: &Descriptor, to: &Path) -> Result<(), Error> {
        let mut part = Part::open(to.to_owned()).map_err(io_at(to))?;
        let client = self.receive(blob, &mut part, 0, &Stop::default())?;
        let found = Digest::finish(part.hasher);
        if found == blob.digest {
            return Ok(());
        }
        Err(self.clients[client].mismatch("blob", &blob.digest, &found).into())
    }

    /// Until the part is as long as the blob; a connection that breaks off is resumed as long as that brings something.
    /// Begins with this client, and returns which one sent the last of it.
    fn receive(&self, blob: &Descriptor, part: &mut Part, first: usize, stop: &Stop) -> Result<usize, Error> {
        let mut at = first;
        while part.received < blob.size {
            match self.receive_from(&self.clients[at], blob, part, stop) {
                // A mirror may lack what it promised.
                Err(Error::Registry(error)) if at + 1 < self.clients.len() && !stop.is_set() => {
                    tracing::warn!("mirror {}: {error}; asking the next", self.clients[at].host());
                    at += 1;
                }
                other => other?,
            }
        }
        if part.received > blob.size {
            part.restart().map_err(io_at(&part.path))?;
        }
        Ok(at)
    }

    fn receive_from(&self, client: &Client<'_>, blob: &Descriptor, part: &mut Part, stop: &Stop) -> Result<(), Error> {
        let mut failures = 0;
        loop {
            let before = part.received;
            let answer = client.blob(blob, before)?;
            if answer.begins != before {
                part.restart().map_err(io_at(&part.path))?;
            }
            let Err(reason) = self.copy(client, answer.body, (blob, part), stop)? else { return Ok(()) };
            failures = if part.received > before { 1 } else { failures + 1 };
            if failures >= ATTEMPTS || stop.is_set() {
                let host = client.host().to_owned();
                let (received, size) = (part.received, blob.size);
                return Err(RegistryError::Interrupted { what: "layer".into(), host, received, size, reason }.into());
            }
            client.pause(&reason, failures);
        }
    }

    /// Inner: why the body ended before its time.
    fn copy(
        &self,
        client: &Client<'_>,
        mut body: impl Read,
        (blob, part): (&Descriptor, &mut Part),
        stop: &Stop,
    ) -> Result<Result<(), String>, Error> {
        let mut buffer = vec![0; 128 << 10];
        while part.received < blob.size {
            if stop.is_set() {
                return Ok(Err("another layer failed".into()));
            }
            let room = usize::try_from(blob.size - part.received).unwrap_or(usize::MAX).min(buffer.len());
            match body.read(&mut buffer[..room]) {
                Ok(0) => return Ok(Err("the connection was closed".into())),
                Ok(count) => {
                    part.append(&buffer[..count]).map_err(io_at(&part.path))?;
                    self.budget.wrote(count as u64);
                }
                Err(error) => return Ok(Err(client.why(&error))),
            }
            let (layer, received) = (&blob.digest, part.received);
            (self.progress)(Progress::Downloading { layer, received, size: blob.size });
        }
        Ok(Ok(()))
    }
}

/// Another process may move it from one place to the other meanwhile.
fn open_either(path: &Path, other: &Path) -> Result<File, Error> {
    File::open(path).or_else(|_| File::open(other)).map_err(io_at(path))
}

fn forget(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}
