//! Fetching images from registries: layers are downloaded beside each other, resumed where they broke off, and unpacked
//! only when their digest is right.
//!
//! `downloads/HEX.part` is what was received of a blob so far, also by a process that is gone; `downloads/HEX` a whole
//! one; both go when their layer is unpacked. `downloads/locks/XX` lets one process at a time fetch blobs whose digest
//! begins so, and is never removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::registry::{self, ATTEMPTS, Blob, Client, Keyring, Manifest, Platform, RegistryError};
use super::store::Writer;
use super::{Digest, Error, Image, ImageReference, Store, io_at};
use crate::runtime::state::{self, Contention, Lock};

/// Layers fetched or unpacked at a time.
const PARALLEL: usize = 4;
/// How often layers are looked for again that another process removed meanwhile.
const ROUNDS: usize = 3;

/// How an image is fetched.
pub struct PullOptions<'a> {
    /// Another platform than this host's, as `linux/arm64`.
    pub platform: Option<&'a str>,
    pub keyring: &'a Keyring<'a>,
    pub progress: &'a (dyn Fn(Progress<'_>) + Sync),
}

impl Default for PullOptions<'_> {
    /// Anonymous, and silent.
    fn default() -> Self {
        Self { platform: None, keyring: &|_| None, progress: &|_| () }
    }
}

/// What is heard of during a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// The name stands for this manifest, which has so many layers.
    Resolved {
        digest: &'a Digest,
        layers: usize,
    },
    /// The store has it already.
    Present {
        layer: &'a Digest,
    },
    Downloading {
        layer: &'a Digest,
        received: u64,
        size: u64,
    },
    Unpacked {
        layer: &'a Digest,
    },
}

#[derive(Deserialize)]
struct Rootfs {
    diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: Rootfs,
}

/// A layer as it is downloaded, and as it is known unpacked.
struct Layer {
    blob: Blob,
    diff_id: Digest,
}

impl Store {
    /// Fetches the image and lists it under `name`. What the store has of it is not fetched again.
    ///
    /// # Errors
    /// Where the registry can't be reached, refuses, or sends what its digest denies. The store is then as it was.
    pub fn pull(&self, place: &ImageReference, name: &str, options: &PullOptions<'_>) -> Result<Image, Error> {
        let client = Client::new(place, options.keyring);
        let platform = match options.platform {
            Some(text) => Platform::parse(text).ok_or_else(|| Error::Platform(text.to_owned()))?,
            None => Platform::host(),
        };
        let (digest, manifest) = client.manifest(&platform)?;
        (options.progress)(Progress::Resolved { digest: &digest, layers: manifest.layers.len() });
        if let Some(present) = self.get(name)?.filter(|present| present.digest == digest) {
            return Ok(present);
        }
        let config = client.config(&manifest.config)?;
        let layers = layers(&client, manifest, &config)?;
        let downloads = Downloads { directory: self.directory().join("downloads"), client, progress: options.progress };
        for _ in 0..ROUNDS {
            each(&layers, |layer| {
                if self.has_layer(&layer.diff_id) { downloads.present(layer) } else { downloads.fetch(self, layer) }
            })?;
            let writer = self.writer()?;
            if { layers.iter() }
                .all(|layer| writer.has_layer(&layer.diff_id) || downloads.whole(&layer.blob.digest).exists())
            {
                each(&layers, |layer| downloads.unpack(&writer, layer))?;
                let layers = layers.into_iter().map(|layer| (layer.diff_id, layer.blob.size)).collect();
                return writer.publish(name, Some(digest), config, layers);
            }
        }
        Err(Error::Busy(name.to_owned()))
    }
}

fn layers(client: &Client<'_>, manifest: Manifest, config: &[u8]) -> Result<Vec<Layer>, Error> {
    let host = client.host().to_owned();
    let wrong = |reason: String| RegistryError::Document { what: "configuration".into(), host: host.clone(), reason };
    let parsed: Config = serde_json::from_slice(config).map_err(|error| wrong(error.to_string()))?;
    let diff_ids = parsed.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        let reason = format!("it names {} layers, the manifest {}", diff_ids.len(), manifest.layers.len());
        return Err(wrong(reason).into());
    }
    Ok(manifest.layers.into_iter().zip(diff_ids).map(|(blob, diff_id)| Layer { blob, diff_id }).collect())
}

/// Does the work for all, some at a time; after a failure, begins no more. The first failure is the result.
fn each<T: Sync>(all: &[T], work: impl Fn(&T) -> Result<(), Error> + Sync) -> Result<(), Error> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL.min(all.len()) {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = work(one) {
                        next.store(all.len(), Ordering::Relaxed);
                        failure.lock().expect("no holder panics").get_or_insert(error);
                    }
                }
            });
        }
    });
    failure.into_inner().expect("no holder panics").map_or(Ok(()), Err)
}

struct Downloads<'a> {
    directory: PathBuf,
    client: Client<'a>,
    progress: &'a (dyn Fn(Progress<'_>) + Sync),
}

/// What was received of a blob.
struct Part {
    file: File,
    path: PathBuf,
    hasher: Sha256,
    received: u64,
}

impl Part {
    /// What a former attempt left, hashed again; content is believed by its digest alone.
    fn open(path: PathBuf) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 128 << 10];
        let mut received = 0;
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok(Self { file, path, hasher, received });
            }
            hasher.update(&buffer[..count]);
            received += count as u64;
        }
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
    fn whole(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }

    fn present(&self, layer: &Layer) -> Result<(), Error> {
        (self.progress)(Progress::Present { layer: &layer.blob.digest });
        Ok(())
    }

    /// Fetches the layer's blob, unless another process did while we waited for it.
    fn fetch(&self, store: &Store, layer: &Layer) -> Result<(), Error> {
        state::make_directory(&self.directory)?;
        let digest = &layer.blob.digest;
        let _lock = Lock::take(&self.directory.join("locks").join(&digest.hex()[..2]), Contention::Wait)?;
        let whole = self.whole(digest);
        if store.has_layer(&layer.diff_id) || whole.exists() {
            return self.present(layer);
        }
        let path = whole.with_extension("part");
        let mut part = Part::open(path.clone()).map_err(io_at(&path))?;
        let mut fresh = part.received == 0;
        loop {
            self.receive(&layer.blob, &mut part)?;
            let found = Digest::finish(part.hasher.clone());
            if found == *digest {
                return fs::rename(&path, &whole).map_err(io_at(&whole));
            }
            part.restart().map_err(io_at(&path))?;
            if fresh {
                fs::remove_file(&path).map_err(io_at(&path))?;
                return Err(self.client.mismatch("layer", digest, &found).into());
            }
            // What an earlier process left may have been what was wrong.
            fresh = true;
        }
    }

    /// Until the part is as long as the blob; a connection that breaks off is resumed as long as that brings something.
    fn receive(&self, blob: &Blob, part: &mut Part) -> Result<(), Error> {
        let mut failures = 0;
        while part.received < blob.size {
            let before = part.received;
            let (body, resumed) = self.client.blob(&blob.digest, before)?;
            if !resumed && before > 0 {
                part.restart().map_err(io_at(&part.path))?;
            }
            let Err(reason) = self.copy(body, blob, part)? else { return Ok(()) };
            failures = if part.received > before { 1 } else { failures + 1 };
            if failures >= ATTEMPTS {
                let (received, size, host) = (part.received, blob.size, self.client.host().to_owned());
                return Err(RegistryError::Interrupted { what: "layer".into(), host, received, size, reason }.into());
            }
            // There is no event to wait for: a registry that broke off is hoped to recover.
            std::thread::sleep(registry::backoff(failures));
        }
        if part.received > blob.size {
            return part.restart().map_err(io_at(&part.path));
        }
        Ok(())
    }

    /// Inner: why the body ended before its time.
    fn copy(&self, mut body: impl Read, blob: &Blob, part: &mut Part) -> Result<Result<(), String>, Error> {
        let mut buffer = vec![0; 128 << 10];
        while part.received < blob.size {
            let room = usize::try_from(blob.size - part.received).unwrap_or(usize::MAX).min(buffer.len());
            match body.read(&mut buffer[..room]) {
                Ok(0) => return Ok(Err("the connection was closed".into())),
                Ok(count) => part.append(&buffer[..count]).map_err(io_at(&part.path))?,
                Err(error) => return Ok(Err(error.to_string())),
            }
            let (layer, received) = (&blob.digest, part.received);
            (self.progress)(Progress::Downloading { layer, received, size: blob.size });
        }
        Ok(Ok(()))
    }

    fn unpack(&self, writer: &Writer<'_>, layer: &Layer) -> Result<(), Error> {
        let whole = self.whole(&layer.blob.digest);
        if !writer.has_layer(&layer.diff_id) {
            let added =
                File::open(&whole).map_err(io_at(&whole)).and_then(|blob| writer.add_layer(blob, Some(&layer.diff_id)));
            if added.is_err() {
                forget(&whole)?;
            }
            added?;
            (self.progress)(Progress::Unpacked { layer: &layer.blob.digest });
        }
        forget(&whole)
    }
}

fn forget(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}
