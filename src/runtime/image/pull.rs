//! Fetching images from registries: layers are downloaded beside each other, resumed where they broke off, and unpacked
//! only when their digest is right.
//!
//! `downloads/HEX.part` is what was received of a blob so far, also by a process that is gone; `downloads/HEX` a whole
//! one that no image has yet. `downloads/locks/XX` lets one process at a time fetch blobs whose digest begins so, and is
//! never removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest as _, Sha256};

use super::document::{Descriptor, Platform};
use super::registry::{self, ATTEMPTS, Access, Client, RegistryError, Resolved};
use super::store::{Layer, Lease, Publication, unpack_to};
use super::unpack::Budget;
use super::{Digest, Error, Image, ImageReference, Store, config, io_at};
use crate::runtime::state::{self, Contention, Lock};

/// Layers fetched or unpacked at a time.
const PARALLEL: usize = 4;

/// How an image is fetched.
#[derive(Clone, Copy)]
pub struct PullOptions<'a> {
    /// Another platform than this host's, as `linux/arm64`.
    pub platform: Option<&'a str>,
    pub access: Access<'a>,
    pub progress: &'a (dyn Fn(Progress<'_>) + Sync),
}

impl<'a> PullOptions<'a> {
    /// For this host, and silent.
    pub fn new(access: Access<'a>) -> Self {
        Self { platform: None, access, progress: &|_| () }
    }
}

/// What is heard of during a pull or a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// The name stands for this content, which has so many layers.
    Resolved {
        digest: &'a Digest,
        layers: usize,
    },
    /// It is there already.
    Present {
        layer: &'a Digest,
    },
    Downloading {
        layer: &'a Digest,
        received: u64,
        size: u64,
    },
    Unpacking {
        layer: &'a Digest,
    },
    Unpacked {
        layer: &'a Digest,
    },
    Uploading {
        layer: &'a Digest,
        sent: u64,
        size: u64,
    },
    Uploaded {
        layer: &'a Digest,
    },
}

impl Store {
    /// Fetches the image and lists it under `name`. What the store has of it is not fetched again.
    ///
    /// # Errors
    /// Where the registry can't be reached, refuses, or sends what its digest denies. The store is then as it was.
    pub fn pull(&self, place: &ImageReference, name: &str, options: &PullOptions<'_>) -> Result<Image, Error> {
        let platform = match options.platform {
            Some(text) => Platform::parse(text).ok_or_else(|| Error::Platform(text.to_owned()))?,
            None => Platform::host(),
        };
        let clients = Client::all(place, options.access);
        let (first, resolved) = resolve(&clients, place, &platform)?;
        let Resolved { digest, own, bytes, manifest } = resolved;
        (options.progress)(Progress::Resolved { digest: &digest, layers: manifest.layers.len() });
        if let Some(present) =
            self.get_named(name)?.filter(|present| present.manifest == own && present.digest == digest)
        {
            return Ok(present);
        }
        let clients = &clients[first..];
        let config = try_each(clients, |client| client.config(&manifest.config))?;
        let host = clients[0].host().to_owned();
        let wrong = |reason| RegistryError::Document { what: "configuration".into(), host, reason };
        let checked = config::parse(&config, manifest.layers.len(), self.limits()).map_err(wrong)?;
        // An index has said already for whom it is.
        if digest == own {
            check_platform(options.platform, &platform, &checked.config, place)?;
        }

        let lease = self.lease()?;
        self.protect(&lease, checked.diff_ids.iter().chain(manifest.layers.iter().map(|layer| &layer.digest)))?;
        let size = manifest.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
        let budget = Budget::new(self.limits(), size);
        let downloads = Downloads { store: self, lease: &lease, clients, progress: options.progress, budget: &budget };
        let wanted = manifest.layers.into_iter().zip(checked.diff_ids).collect::<Vec<_>>();
        let layers = each(&wanted, |(blob, diff_id)| downloads.layer(blob, diff_id))?;
        let place = Some(format!("{}/{}", place.registry, place.repository));
        let publication = Publication {
            name: Some(name),
            digest: Some(digest),
            place,
            manifest: Some(bytes),
            config: &config,
            layers,
            declared: serde_json::Value::Null,
        };
        let image = self.install(&lease, publication)?;
        self.tell("pull", &image.id.to_string(), name);
        Ok(image)
    }
}

/// The first that has it: mirrors come before the registry itself, whose word is the last.
fn resolve<'a>(
    clients: &[Client<'a>],
    place: &ImageReference,
    platform: &Platform,
) -> Result<(usize, Resolved), Error> {
    for (at, client) in clients.iter().enumerate() {
        match client.resolve(place, platform) {
            Ok(resolved) => return Ok((at, resolved)),
            Err(error) if at + 1 < clients.len() => {
                tracing::warn!("mirror {}: {error}; asking the next", client.host());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::NotFound(place.to_string()))
}

fn try_each<'a, T>(
    clients: &[Client<'a>],
    ask: impl Fn(&Client<'a>) -> Result<T, RegistryError>,
) -> Result<T, RegistryError> {
    let (last, others) = clients.split_last().expect("the registry itself is always one");
    for client in others {
        match ask(client) {
            Ok(found) => return Ok(found),
            Err(error) => tracing::warn!("mirror {}: {error}; asking the next", client.host()),
        }
    }
    ask(last)
}

/// Whoever named a platform gets that one or none; who did not may know what to do with another.
fn check_platform(
    asked: Option<&str>,
    wanted: &Platform,
    config: &oci_spec::image::ImageConfiguration,
    place: &ImageReference,
) -> Result<(), Error> {
    let own = Platform { os: config.os().to_string(), architecture: config.architecture().to_string(), variant: None };
    let bare = Platform { variant: None, ..wanted.clone() };
    if bare.suits(&own) {
        return Ok(());
    }
    if asked.is_some() {
        let (image, wanted, available) = (place.to_string(), wanted.to_string(), own.to_string());
        return Err(RegistryError::Platform { image, wanted, available }.into());
    }
    tracing::warn!("{place} is made for {own}, this host is {wanted}");
    Ok(())
}

/// Does the work for all, some at a time, results in order; after a failure, begins no more. The first failure is the
/// result.
pub(super) fn each<T: Sync, R: Send>(all: &[T], work: impl Fn(&T) -> Result<R, Error> + Sync) -> Result<Vec<R>, Error> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let results: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::with_capacity(all.len()));
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL.min(all.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = all.get(at) else { break };
                    match work(one) {
                        Ok(result) => results.lock().expect("no holder panics").push((at, result)),
                        Err(error) => {
                            next.store(all.len(), Ordering::Relaxed);
                            failure.lock().expect("no holder panics").get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failure.into_inner().expect("no holder panics") {
        return Err(error);
    }
    let mut results = results.into_inner().expect("no holder panics");
    results.sort_by_key(|(at, _)| *at);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

struct Downloads<'a> {
    store: &'a Store,
    lease: &'a Lease,
    clients: &'a [Client<'a>],
    progress: &'a (dyn Fn(Progress<'_>) + Sync),
    budget: &'a Budget<'a>,
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
    fn layer(&self, blob: &Descriptor, diff_id: &Digest) -> Result<Layer, Error> {
        let (has_blob, has_tree) = (self.store.blob(&blob.digest).exists(), self.store.has_layer(diff_id));
        let mut layer = Layer { diff_id: diff_id.clone(), blob: blob.clone(), waiting_blob: None, waiting_tree: None };
        if has_blob && has_tree {
            (self.progress)(Progress::Present { layer: &blob.digest });
            return Ok(layer);
        }
        let path = match has_blob {
            true => self.store.blob(&blob.digest),
            false => {
                let path = self.fetch(blob)?;
                layer.waiting_blob = Some(path.clone());
                path
            }
        };
        if !has_tree {
            (self.progress)(Progress::Unpacking { layer: &blob.digest });
            let target = self.lease.temporary("layer")?;
            let archive = open_either(&path, &self.store.blob(&blob.digest))?;
            let unpacked = unpack_to(archive, Some(diff_id), &target, self.budget);
            if let (Err(_), Some(path)) = (&unpacked, &layer.waiting_blob) {
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
    fn fetch(&self, blob: &Descriptor) -> Result<PathBuf, Error> {
        let directory = self.store.directory().join("downloads");
        state::make_directory(&directory)?;
        let digest = &blob.digest;
        let _lock = Lock::take(&directory.join("locks").join(&digest.hex()[..2]), Contention::Wait)?;
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
        loop {
            let client = self.receive(blob, &mut part)?;
            let found = Digest::finish(part.hasher.clone());
            if found == *digest {
                fs::rename(&path, &whole).map_err(io_at(&whole))?;
                return Ok(whole);
            }
            part.restart().map_err(io_at(&path))?;
            if fresh {
                fs::remove_file(&path).map_err(io_at(&path))?;
                return Err(client.mismatch("layer", digest, &found).into());
            }
            // What an earlier process left may have been what was wrong.
            fresh = true;
        }
    }

    /// Until the part is as long as the blob; a connection that breaks off is resumed as long as that brings something.
    /// Returns who sent the last of it.
    fn receive(&self, blob: &Descriptor, part: &mut Part) -> Result<&Client<'_>, Error> {
        let mut client = 0;
        let mut failures = 0;
        while part.received < blob.size {
            let before = part.received;
            let asked = self.clients[client].blob(&blob.digest, before);
            let (body, resumed) = match asked {
                // A mirror may lack what it promised.
                Err(error) if client + 1 < self.clients.len() => {
                    tracing::warn!("mirror {}: {error}; asking the next", self.clients[client].host());
                    client += 1;
                    continue;
                }
                other => other?,
            };
            if !resumed && before > 0 {
                part.restart().map_err(io_at(&part.path))?;
            }
            let Err(reason) = self.copy(body, blob, part)? else { break };
            failures = if part.received > before { 1 } else { failures + 1 };
            if failures >= ATTEMPTS {
                let host = self.clients[client].host().to_owned();
                let (received, size) = (part.received, blob.size);
                return Err(RegistryError::Interrupted { what: "layer".into(), host, received, size, reason }.into());
            }
            // There is no event to wait for: a registry that broke off is hoped to recover.
            std::thread::sleep(registry::backoff(failures));
        }
        if part.received > blob.size {
            part.restart().map_err(io_at(&part.path))?;
        }
        Ok(&self.clients[client])
    }

    /// Inner: why the body ended before its time.
    fn copy(&self, mut body: impl Read, blob: &Descriptor, part: &mut Part) -> Result<Result<(), String>, Error> {
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
}

/// Another process may move it from one place to the other meanwhile.
fn open_either(path: &Path, other: &Path) -> Result<File, Error> {
    File::open(path).or_else(|_| File::open(other)).map_err(io_at(path))
}

/// A blob as a whole, to a path of the caller's.
pub(super) fn fetch_to(client: &Client<'_>, digest: &Digest, to: &Path) -> Result<(), Error> {
    let mut file = File::options().read(true).write(true).create_new(true).open(to).map_err(io_at(to))?;
    let (mut body, _) = client.blob(digest, 0)?;
    io::copy(&mut body, &mut file).map_err(io_at(to))?;
    file.rewind().map_err(io_at(to))?;
    let found = hash(&file).map_err(io_at(to))?.0;
    if found == *digest { Ok(()) } else { Err(client.mismatch("blob", digest, &found).into()) }
}

fn forget(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}
