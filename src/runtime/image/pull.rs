//! Fetching images from registries: what the name stands for, then its layers beside each other ([`super::download`]),
//! and all of it into the store at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::document::Platform;
use super::download::Downloads;
use super::early::written_early;
use super::registry::{Access, Client, RegistryError, Resolved};
use super::store::Publication;
use super::unpack::Budget;
use super::{Digest, Error, Image, ImageReference, Store, config};

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
    /// Another process fetches layers of which this may be one; told after a moment of waiting for it.
    Waiting {
        layer: &'a Digest,
        holder: &'a str,
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
        let wanted = manifest.layers.into_iter().zip(checked.diff_ids).collect::<Vec<_>>();
        let layers = written_early(self.directory(), |early| {
            let budget = Budget::new(self.limits(), size).written_early(early);
            let (progress, lease) = (options.progress, &lease);
            let downloads = Downloads { store: self, lease, clients, progress, budget: &budget };
            each(&wanted, |(blob, diff_id), stop| downloads.layer(blob, diff_id, stop))
        })?;
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

/// What the tag, or the digest, of this reference stands for now.
///
/// # Errors
/// Where neither a mirror nor the registry can tell.
pub fn digest_of(place: &ImageReference, access: Access<'_>) -> Result<Digest, Error> {
    if let Some(digest) = &place.digest {
        return Ok(digest.clone());
    }
    let tag = place.tag.as_deref().unwrap_or("latest");
    Ok(try_each(&Client::all(place, access), |client| client.digest_of(tag))?)
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

/// Whether the others' work is of no use any more, since one of them failed.
#[derive(Debug, Default)]
pub(super) struct Stop(AtomicBool);

impl Stop {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Does the work for all, some at a time, results in order; after a failure, begins no more. The first failure is the
/// result.
pub(super) fn each<T: Sync, R: Send>(
    all: &[T],
    work: impl Fn(&T, &Stop) -> Result<R, Error> + Sync,
) -> Result<Vec<R>, Error> {
    let (next, stop) = (AtomicUsize::new(0), Stop::default());
    let failure = Mutex::new(None);
    let results: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::with_capacity(all.len()));
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL.min(all.len()) {
            scope.spawn(|| {
                while !stop.is_set() {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = all.get(at) else { break };
                    match work(one, &stop) {
                        Ok(result) => results.lock().expect("no holder panics").push((at, result)),
                        Err(error) => {
                            failure.lock().expect("no holder panics").get_or_insert(error);
                            // Not before: who gives up because of it must not be the first.
                            stop.0.store(true, Ordering::Release);
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
