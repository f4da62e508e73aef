//! The store: `images/` below the durable root.
//!
//! - `index.json` (format 1): what each name stands for: configuration, manifest digest, layers.
//! - `layers/HEX/fs`: a layer, unpacked, named by the SHA-256 of its archive (the OCI "DiffID"). One is there whole or
//!   not at all: it is unpacked under `tmp/`, synced and renamed.
//! - `steps/HEX.json`: what steps of builds made ([`super::steps`]).
//! - `tmp/`: gone when its writer is done, or else emptied by the next; nothing in it is ever believed.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::unpack::{UnpackError, unpack};
use super::{Digest, Error, Healthcheck, ImageReference, archive, builtin, io_at};
use crate::runtime::container;
use crate::runtime::roots::Roots;
use crate::runtime::state::{self, Contention, Lock};
use crate::runtime::sys;

const VERSION: u32 = 1;

/// An image that can be run.
#[derive(Clone, Debug)]
pub struct Image {
    /// The name it was asked for by.
    pub reference: String,
    /// The digest of its configuration, as docker's image id.
    pub id: Digest,
    /// The digest that a registry knows it by; that of the configuration where it came from no registry.
    pub digest: Digest,
    pub config: ImageConfiguration,
    pub health: Healthcheck,
    /// Unpacked layers, the lowest first.
    pub layers: Vec<PathBuf>,
    /// Bytes of the layers' archives.
    pub size: u64,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// The configuration's exact text, whose digest is the id; empty where an older program stored the image.
    pub text: String,
    /// The digests of the layers' archives, in the order of `layers`.
    pub diff_ids: Vec<Digest>,
    /// What the layer above asked for, where the image was made here; not looked at here.
    pub declared: Value,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Index {
    version: u32,
    images: BTreeMap<String, Record>,
}

/// One image of the index.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub id: Digest,
    pub digest: Digest,
    pub config: ImageConfiguration,
    #[serde(default)]
    pub health: Healthcheck,
    pub layers: Vec<Digest>,
    pub size: u64,
    pub created_ms: u64,
    #[serde(default)]
    pub text: String,
    #[serde(default)]
    pub declared: Value,
}

/// An image that was made here, to be listed.
#[derive(Clone, Debug)]
pub struct Made {
    /// All names that it gets, at least one.
    pub names: Vec<String>,
    /// The configuration's exact bytes.
    pub config: Vec<u8>,
    /// Its layers, the lowest first, which the store has.
    pub layers: Vec<Digest>,
    /// Bytes of the layers' archives.
    pub size: u64,
    /// Kept for whoever asked for it.
    pub declared: Value,
}

/// The images of one engine.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
    roots: Roots,
}

/// Holding it, nobody else writes to the store.
pub(super) struct Writer<'a> {
    store: &'a Store,
    _lock: Lock,
    /// How many layers were begun: several may be unpacked at a time.
    layers: AtomicUsize,
}

impl Store {
    /// The store below these roots, which need not exist yet.
    pub fn open(roots: &Roots) -> Self {
        Self { directory: roots.durable("images"), roots: roots.clone() }
    }

    fn index(&self) -> Result<Index, Error> {
        let index = state::read_json(&self.directory.join("index.json"))?;
        Ok(index.unwrap_or(Index { version: VERSION, ..Index::default() }))
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.layer(diff_id).is_dir()
    }

    /// The names of the layers that containers stand on, also where the image's name means another one by now.
    fn layers_of_containers(&self) -> Result<BTreeSet<String>, Error> {
        let all = container::list(&self.roots).map_err(|error| Error::Containers(Box::new(error)))?;
        let layers = all.iter().flat_map(|one| &one.config.layers);
        let names = layers.filter_map(|layer| layer.parent()?.file_name()?.to_str().map(str::to_owned));
        Ok(names.collect())
    }

    /// Where the layer of this digest is, unpacked.
    pub fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.directory.join("layers").join(diff_id.hex()).join("fs")
    }

    fn image(&self, reference: &str, record: Record) -> Image {
        Image {
            reference: reference.to_owned(),
            layers: record.layers.iter().map(|layer| self.layer(layer)).collect(),
            diff_ids: record.layers,
            text: record.text,
            declared: record.declared,
            id: record.id,
            digest: record.digest,
            config: record.config,
            health: record.health,
            size: record.size,
            created_ms: record.created_ms,
        }
    }

    /// The image of this name, or whose id begins so, if it is here with all its layers.
    pub fn get(&self, name: &str) -> Result<Option<Image>, Error> {
        let index = self.index()?;
        let found = match index.images.get_key_value(name).or_else(|| by_meaning(&index, name)) {
            Some(found) => Some(found),
            None => {
                let hex = name.strip_prefix("sha256:").unwrap_or(name);
                let by_id = |record: &Record| hex.len() >= 4 && record.id.hex().starts_with(hex);
                index.images.iter().find(|(_, record)| by_id(record))
            }
        };
        let image = found.map(|(reference, record)| self.image(reference, record.clone()));
        Ok(image.filter(|image| image.layers.iter().all(|layer| layer.is_dir())))
    }

    /// All images, by name.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        let index = self.index()?;
        Ok(index.images.into_iter().map(|(reference, record)| self.image(&reference, record)).collect())
    }

    /// Bytes of all layers on disk, as their archives count them, each once.
    pub fn size(&self) -> Result<u64, Error> {
        let index = self.index()?;
        let unique: BTreeMap<&Digest, u64> = index.images.values().map(|record| (&record.id, record.size)).collect();
        Ok(unique.values().sum())
    }

    pub(super) fn writer(&self) -> Result<Writer<'_>, Error> {
        state::make_directory(&self.directory)?;
        let lock = Lock::take(&self.directory.join("lock"), Contention::Wait)?;
        let writer = Writer { store: self, _lock: lock, layers: AtomicUsize::new(0) };
        let rest = writer.temporary();
        if rest.exists() {
            fs::remove_dir_all(&rest).map_err(io_at(&rest))?;
        }
        state::make_directory(&rest)?;
        Ok(writer)
    }

    /// Puts the built-in image of this name into the store, under `builtin:NAME`.
    pub fn builtin(&self, name: &str) -> Result<Image, Error> {
        let reference = format!("builtin:{name}");
        let wanted = builtin::build(name)?;
        match self.get(&reference)? {
            Some(present) if present.id == wanted.id => Ok(present),
            _ => {
                let writer = self.writer()?;
                let layer = writer.add_layer(wanted.layer, Some(&wanted.diff_id))?;
                writer.publish(&reference, None, wanted.config, vec![layer])
            }
        }
    }

    /// Takes an image from a docker or OCI archive (tar, also compressed), and lists it under `name`, or else under
    /// the names that the archive has.
    pub fn load_archive(&self, path: &Path, name: Option<&str>) -> Result<Vec<Image>, Error> {
        archive::load(&self.writer()?, path, name)
    }

    /// Makes an image with one layer from a directory or a tar of a root file system.
    pub fn import_rootfs(&self, path: &Path, name: &str) -> Result<Image, Error> {
        let writer = self.writer()?;
        let layer = if path.is_dir() {
            let tar = writer.temporary().join("rootfs.tar");
            archive::pack(path, &tar)?;
            writer.add_layer(File::open(&tar).map_err(io_at(&tar))?, None)?
        } else {
            writer.add_layer(File::open(path).map_err(io_at(path))?, None)?
        };
        writer.publish(name, None, builtin::configuration(&layer.0, builtin::Words::default())?, vec![layer])
    }

    /// Takes the name away, and the layers that no image uses then. A name that is not there is fine.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let writer = self.writer()?;
        let mut index = self.index()?;
        index.images.remove(name);
        writer.write(&index)?;
        writer.sweep(&index)
    }

    /// Lists an image that was made here under all of its names. Returns it by its first.
    ///
    /// # Errors
    /// [`Error::Busy`] where one of its layers has gone meanwhile.
    pub fn publish(&self, made: Made) -> Result<Image, Error> {
        let first = made.names.first().cloned().unwrap_or_default();
        let writer = self.writer()?;
        if made.layers.iter().any(|layer| !self.has_layer(layer)) {
            return Err(Error::Busy(first));
        }
        let record = record(&first, None, made.config, made.layers, made.size)?;
        let record = Record { declared: made.declared, ..record };
        let mut index = self.index()?;
        index.images.extend(made.names.into_iter().map(|name| (name, record.clone())));
        writer.write(&index)?;
        Ok(self.image(&first, record))
    }

    /// Removes all images that are not among `in_use`, names or ids. Returns the names that went.
    pub fn prune(&self, in_use: &BTreeSet<String>) -> Result<Vec<String>, Error> {
        let writer = self.writer()?;
        let mut index = self.index()?;
        let unused = |name: &String, record: &Record| !in_use.contains(name) && !in_use.contains(record.id.as_str());
        let gone: Vec<String> =
            index.images.iter().filter(|(name, record)| unused(name, record)).map(|(name, _)| name.clone()).collect();
        index.images.retain(|name, _| !gone.contains(name));
        writer.write(&index)?;
        writer.sweep(&index)?;
        Ok(gone)
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        // What can't be removed now is removed by the next writer.
        drop(fs::remove_dir_all(self.temporary()));
    }
}

impl Writer<'_> {
    pub fn temporary(&self) -> PathBuf {
        self.store.directory.join("tmp")
    }

    fn write(&self, index: &Index) -> Result<(), Error> {
        Ok(state::write_json(&self.store.directory.join("index.json"), index)?)
    }

    /// Unpacks a layer, compressed or not; what it is named by is the digest of its uncompressed bytes, which must be
    /// `expected` where that is known. Returns it and its size.
    pub fn add_layer(&self, archive: impl Read, expected: Option<&Digest>) -> Result<(Digest, u64), Error> {
        let temporary = self.temporary().join(format!("layer-{}", self.layers.fetch_add(1, Ordering::Relaxed)));
        let directory = temporary.join("fs");
        fs::create_dir_all(&directory).map_err(io_at(&directory))?;
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&directory, readable).map_err(io_at(&directory))?;
        let named =
            |source: UnpackError| Error::Layer { layer: expected.map_or("new".to_owned(), Digest::to_string), source };
        let received = Rc::new(Cell::new(0));
        let archive = Counting { inner: archive, count: received.clone() };
        let inner = decompress(archive).map_err(|error| named(error.into()))?;
        let mut reader = Hashing { inner, hasher: Sha256::new(), count: 0, received };
        unpack(&mut reader, &directory).map_err(named)?;
        // What follows the archive's end belongs to its digest too.
        io::copy(&mut reader, &mut io::sink()).map_err(|error| named(error.into()))?;
        let size = reader.count;
        let found = Digest::finish(reader.hasher);
        if let Some(expected) = expected.filter(|expected| **expected != found) {
            return Err(Error::Mismatch {
                what: "layer".into(),
                expected: expected.to_string(),
                found: found.to_string(),
            });
        }
        self.publish_layer(&temporary, &found)?;
        Ok((found, size))
    }

    /// Renamed only when all of it is on the disk.
    fn publish_layer(&self, temporary: &Path, diff_id: &Digest) -> Result<(), Error> {
        let layers = self.store.directory.join("layers");
        state::make_directory(&layers)?;
        let target = layers.join(diff_id.hex());
        if target.is_dir() {
            return fs::remove_dir_all(temporary).map_err(io_at(temporary));
        }
        let directory = File::open(temporary).map_err(io_at(temporary))?;
        sys::sync_file_system(directory.as_fd()).map_err(io_at(temporary))?;
        fs::rename(temporary, &target).map_err(io_at(&target))?;
        File::open(&layers).and_then(|layers| layers.sync_all()).map_err(io_at(&layers))
    }

    pub fn has_layer(&self, diff_id: &Digest) -> bool {
        self.store.has_layer(diff_id)
    }

    /// Lists the image under this name. `config` is the configuration's exact bytes; `digest` the manifest's, where it
    /// has one.
    pub fn publish(
        &self,
        reference: &str,
        digest: Option<Digest>,
        config: Vec<u8>,
        layers: Vec<(Digest, u64)>,
    ) -> Result<Image, Error> {
        let size = layers.iter().map(|(_, size)| size).sum();
        let layers = layers.into_iter().map(|(layer, _)| layer).collect();
        let record = record(reference, digest, config, layers, size)?;
        let mut index = self.store.index()?;
        index.images.insert(reference.to_owned(), record.clone());
        self.write(&index)?;
        Ok(self.store.image(reference, record))
    }

    pub(super) fn store(&self) -> &Store {
        self.store
    }

    pub(super) fn sweep_layers(&self) -> Result<(), Error> {
        self.sweep(&self.store.index()?)
    }

    /// Removes the layers that neither an image of the index nor a step of a build has. Each leaves its place in one
    /// step, since whatever is at its place is believed to be whole.
    fn sweep(&self, index: &Index) -> Result<(), Error> {
        let of_steps = self.layers_of_steps()?;
        let of_images = index.images.values().flat_map(|record| &record.layers);
        let of_containers = self.store.layers_of_containers()?;
        let mut used: BTreeSet<&str> = of_images.chain(&of_steps).map(Digest::hex).collect();
        used.extend(of_containers.iter().map(String::as_str));
        let layers = self.store.directory.join("layers");
        let entries = match fs::read_dir(&layers) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_at(layers)(error)),
        };
        for entry in entries {
            let path = entry.map_err(io_at(&layers))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !used.contains(name) {
                let going = self.temporary().join(format!("going-{name}"));
                fs::rename(&path, &going).map_err(io_at(&path))?;
                fs::remove_dir_all(&going).map_err(io_at(&going))?;
            }
        }
        Ok(())
    }
}

fn record(
    reference: &str,
    digest: Option<Digest>,
    config: Vec<u8>,
    layers: Vec<Digest>,
    size: u64,
) -> Result<Record, Error> {
    let wrong =
        |reason: String| Error::Archive { path: reference.into(), reason: format!("its configuration: {reason}") };
    let id = Digest::of(&config);
    Ok(Record {
        digest: digest.unwrap_or_else(|| id.clone()),
        id,
        config: serde_json::from_slice(&config).map_err(|error| wrong(error.to_string()))?,
        health: Healthcheck::read(&config).map_err(|error| wrong(error.to_string()))?,
        size,
        layers,
        created_ms: now_ms(),
        text: String::from_utf8(config).map_err(|error| wrong(error.to_string()))?,
        declared: Value::Null,
    })
}

/// `nginx` is `nginx:latest`, and `docker.io/library/nginx` too.
fn by_meaning<'a>(index: &'a Index, name: &str) -> Option<(&'a String, &'a Record)> {
    let wanted = ImageReference::parse(name).ok()?;
    index.images.iter().find(|(other, _)| ImageReference::parse(other).is_ok_and(|other| other == wanted))
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_millis() as u64)
}

/// The uncompressed stream, by the first bytes: gzip, zstd, or as it is.
pub(super) fn decompress<'a>(archive: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut archive = BufReader::with_capacity(128 << 10, archive);
    let start = io::BufRead::fill_buf(&mut archive)?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(archive)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(archive)?),
        _ => Box::new(archive),
    })
}

/// Hashes and counts what passes.
struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    count: u64,
    /// How much of the compressed archive that came from.
    received: Rc<Cell<u64>>,
}

/// Whether so much was made of so little that it can only be meant to fill the disk.
fn is_bomb(received: u64, unpacked: u64) -> bool {
    const HARMLESS: u64 = 1 << 30;
    const MOST_EXPANSION: u64 = 1000;
    unpacked > HARMLESS && unpacked / MOST_EXPANSION > received
}

/// Counts what is read of a compressed archive.
struct Counting<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        if is_bomb(self.received.get(), self.count) {
            return Err(io::Error::other("it expands to more than 1,000 times its size"));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::is_bomb;

    #[test]
    fn a_bomb_is_told_from_a_layer_of_zeros() {
        for (received, unpacked, expected) in
            [(1, 1 << 30, false), (1 << 20, (1 << 30) + 1, true), (2 << 20, 2 << 30, true), (3 << 20, 2 << 30, false)]
        {
            assert_eq!(is_bomb(received, unpacked), expected, "{received} {unpacked}");
        }
    }
}
