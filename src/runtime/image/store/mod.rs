//! The store: `images/` below the durable root, an OCI image layout with what is unpacked beside it.
//!
//! - `oci-layout`, `index.json`: which name stands for which manifest ([`index`]).
//! - `blobs/sha256/HEX`: manifests, configurations, layers' archives, as they came. In it is only what was verified and
//!   is on the disk.
//! - `layers/HEX/fs`: a layer, unpacked, named by the SHA-256 of its uncompressed archive (the OCI "DiffID");
//!   `layers/HEX/blob.json`: the descriptor of the archive that it was unpacked from; `layers/HEX/contents.json`: what it
//!   has of programs that raise rights ([`contents`]).
//! - `steps/HEX.json`: what steps of builds made ([`super::steps`]).
//! - `downloads/`: what is being fetched ([`super::pull`]); `tmp/ID`, `leases/ID`: who works here ([`lease`]).
//! - `seen/HEX.json`: the digests of archives and root file systems of the host that images were made from
//!   ([`super::content`]).
//! - `signatures/HEX.json`: who signed what has this digest ([`signatures`]).
//! - `uses/HEX`: its time is when the image of this manifest was last used.
//! - `lock`: held for as long as the index is changed, never while something is fetched or unpacked.
//!
//! Publishing is one order of steps: everything is written elsewhere, one syncfs(2), renames, the index. A crash leaves
//! the old or the new image; what it leaves of the rest is removed by the next collection.

mod ahead;
mod collect;
mod contents;
mod index;
mod layer;
mod lease;
mod signatures;
mod verify;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;
use serde::Deserialize;
use serde_json::Value;

pub use collect::Prune;
pub use contents::Contents;
pub(super) use index::Record;
pub use index::spellings;
use index::{Index, full_name};
pub use layer::Layer;
pub(super) use layer::{decompress, media_type, unpack_to};
pub use lease::Lease;
pub(super) use lease::{entries, remove_all};
pub use verify::{Damage, Found};

use super::document::{self, Descriptor, Document, Manifest, Platform};
use super::limits::Limits;
use super::unpack::Budget;
use super::{Digest, Error, Healthcheck, Pack, builtin, config, io_at, pack};
use crate::runtime::events::{self, Event};
use crate::runtime::overlay::Marks;
use crate::runtime::roots::Roots;
use crate::runtime::state::{self, Contention, Lock};
use crate::runtime::sys;
use crate::runtime::volume::attributes;

/// An image that can be run.
#[derive(Clone, Debug)]
pub struct Image {
    /// The name it was asked for by, as people write it; `<none>` for one that has none.
    pub reference: String,
    /// The digest of its configuration, as docker's image id.
    pub id: Digest,
    /// The digest that its registry knows it by: that of an index where there is one, else that of its manifest.
    pub digest: Digest,
    pub manifest: Digest,
    /// `HOST/REPOSITORY` it was fetched from.
    pub place: Option<String>,
    pub config: ImageConfiguration,
    pub health: Healthcheck,
    /// Unpacked layers, the lowest first, without those that a later one hides whole.
    pub layers: Vec<PathBuf>,
    /// The digests of all its layers, uncompressed, the lowest first.
    pub diff_ids: Vec<Digest>,
    /// Bytes of the layers' archives.
    pub size: u64,
    /// When it came here, in milliseconds since 1970.
    pub created_ms: u64,
    /// The configuration's exact text, whose digest is the id.
    pub text: String,
    /// What the layer above asked for, where the image was made here; not looked at here.
    pub declared: Value,
}

impl Image {
    /// What it is for.
    pub fn platform(&self) -> Platform {
        let (os, architecture) = (self.config.os().to_string(), self.config.architecture().to_string());
        Platform { os, architecture, variant: self.config.variant().clone() }
    }
}

/// An image that was made here of layers that the store has, to be listed.
#[derive(Clone, Debug)]
pub struct Made {
    /// All names that it gets; without any it is kept until the next `prune`.
    pub names: Vec<String>,
    /// The configuration's exact bytes.
    pub config: Vec<u8>,
    /// Its layers, the lowest first.
    pub layers: Vec<Digest>,
    /// Bytes of the layers' archives; told by the archives themselves.
    pub size: u64,
    /// Kept for whoever asked for it.
    pub declared: Value,
}

/// The images of one engine.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
    limits: Limits,
    roots: Roots,
}

/// What is to become an image.
pub(super) struct Publication<'a> {
    /// `None`: kept without a name.
    pub name: Option<&'a str>,
    /// What its registry calls it; its manifest's digest where it came from none.
    pub digest: Option<Digest>,
    pub place: Option<String>,
    /// The manifest's very bytes; made where it came without one.
    pub manifest: Option<Vec<u8>>,
    pub config: &'a [u8],
    pub layers: Vec<Layer>,
    pub declared: Value,
}

impl Store {
    /// The store below these roots, which need not exist yet.
    pub fn open(roots: &Roots) -> Self {
        Self { directory: roots.durable("images"), limits: Limits::default(), roots: roots.clone() }
    }

    /// The same with other limits.
    pub fn with_limits(self, limits: &Limits) -> Self {
        Self { limits: limits.clone(), ..self }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    fn index_path(&self) -> PathBuf {
        self.directory.join("index.json")
    }

    fn index(&self) -> Result<Index, Error> {
        Index::read(&self.index_path())
    }

    pub(super) fn lock(&self) -> Result<Lock, Error> {
        state::make_directory(&self.directory)?;
        Ok(Lock::take(&self.directory.join("lock"), Contention::Wait)?)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where a blob is, or would be.
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.hex())
    }

    fn layer_folder(&self, diff_id: &Digest) -> PathBuf {
        self.directory.join("layers").join(diff_id.hex())
    }

    /// Where the layer of this digest is, unpacked.
    pub fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.layer_folder(diff_id).join("fs")
    }

    /// The archive that the layer was unpacked from.
    fn archive_of(&self, diff_id: &Digest) -> Result<Option<Descriptor>, Error> {
        Ok(state::read_json(&self.layer_folder(diff_id).join("blob.json"))?)
    }

    pub(super) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.layer_folder(diff_id).join("fs").is_dir()
    }

    /// Says that the image is used now, for who collects what is not.
    pub fn touch(&self, image: &Image) -> Result<(), Error> {
        let folder = self.directory.join("uses");
        state::make_directory(&folder)?;
        let path = folder.join(image.manifest.hex());
        let file = File::options().create(true).append(true).open(&path).map_err(io_at(&path))?;
        file.set_modified(std::time::SystemTime::now()).map_err(io_at(&path))
    }

    fn last_use(&self, manifest: &Digest) -> std::time::SystemTime {
        let known = fs::metadata(self.directory.join("uses").join(manifest.hex()));
        let known = known.or_else(|_| fs::metadata(self.blob(manifest)));
        known.and_then(|data| data.modified()).unwrap_or(std::time::UNIX_EPOCH)
    }

    fn manifest_of(&self, record: &Record) -> Result<Manifest, Error> {
        let digest = &record.manifest.digest;
        let bytes = read_checked(&self.blob(digest), digest)?;
        match document::parse(&bytes, &self.limits) {
            Ok(Document::Manifest(manifest)) => Ok(manifest),
            Ok(Document::Index(_)) => Err(damaged(digest, "it is an index".into())),
            Err(reason) => Err(damaged(digest, reason)),
        }
    }

    fn image(&self, record: &Record) -> Result<Image, Error> {
        let manifest = self.manifest_of(record)?;
        let text = read_checked(&self.blob(&manifest.config.digest), &manifest.config.digest)?;
        let config =
            serde_json::from_slice(&text).map_err(|error| damaged(&manifest.config.digest, error.to_string()))?;
        let health = Healthcheck::read(&text).map_err(|error| damaged(&manifest.config.digest, error.to_string()))?;
        let diff_ids = diff_ids(&text)?;
        let layers = diff_ids.iter().map(|layer| self.layer(layer)).collect();
        Ok(Image {
            health,
            diff_ids,
            text: String::from_utf8_lossy(&text).into_owned(),
            declared: record.declared.clone(),
            reference: record.name.as_deref().map_or_else(|| "<none>".to_owned(), familiar),
            id: manifest.config.digest,
            digest: record.digest.clone(),
            manifest: record.manifest.digest.clone(),
            place: record.place.clone(),
            config,
            layers: visible(layers),
            size: manifest.layers.iter().map(|layer| layer.size).sum(),
            created_ms: record.created_ms,
        })
    }

    /// `None` for one that was removed since the index was read.
    fn look(&self, record: &Record) -> Result<Option<Image>, Error> {
        match self.image(record) {
            Err(error @ Error::Damaged { .. }) => {
                let listed = self.index()?.records.iter().any(|one| one.manifest.digest == record.manifest.digest);
                if listed { Err(error) } else { Ok(None) }
            }
            other => other.map(Some),
        }
    }

    /// By name, by the digest of its manifest, or by its id or the begin of it.
    fn find<'a>(&self, index: &'a Index, name: &str) -> Result<Option<&'a Record>, Error> {
        if let Some(found) = index.by_name(name) {
            return Ok(Some(found));
        }
        if let Some((place, digest)) = name.split_once('@') {
            let place = full_name(place);
            let same = |one: &&Record| {
                one.digest.as_str() == digest && one.place.as_ref().is_some_and(|own| place.starts_with(own.as_str()))
            };
            return Ok(index.records.iter().find(same));
        }
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if hex.len() < 4 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(None);
        }
        for record in &index.records {
            if record.manifest.digest.hex().starts_with(hex) && hex.len() == 64 {
                return Ok(Some(record));
            }
            // One that is damaged has no id.
            if self.manifest_of(record).is_ok_and(|manifest| manifest.config.digest.hex().starts_with(hex)) {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// The image of this name, or whose id begins so, if it is here with all its layers.
    pub fn get(&self, name: &str) -> Result<Option<Image>, Error> {
        let index = self.index()?;
        let Some(record) = self.find(&index, name)? else { return Ok(None) };
        let Some(mut image) = self.look(record)? else { return Ok(None) };
        if record.name.as_deref() == Some(full_name(name).as_str()) {
            image.reference = familiar(&full_name(name));
        }
        Ok(Some(image).filter(|image| image.layers.iter().all(|layer| layer.is_dir())))
    }

    /// What was fetched last for this tag: under its name, else under its name with a digest.
    pub fn get_tag(&self, name: &str) -> Result<Option<Image>, Error> {
        if let Some(image) = self.get(name)? {
            return Ok(Some(image));
        }
        let (tag, rest) = name.split_once(' ').map_or((name, ""), |(tag, rest)| (tag, rest));
        let begin = format!("{}@", full_name(tag));
        let pinned = |record: &&Record| {
            let name = record.name.as_deref().unwrap_or_default();
            let (name, platform) = name.split_once(' ').unwrap_or((name, ""));
            name.starts_with(&begin) && platform == rest
        };
        let index = self.index()?;
        let last = index.records.iter().filter(pinned).max_by_key(|record| record.created_ms);
        let image = last.map(|record| self.look(record)).transpose()?.flatten();
        Ok(image.filter(|image| image.layers.iter().all(|layer| layer.is_dir())))
    }

    /// The image that has this very name, if it is here with all its layers.
    pub(super) fn get_named(&self, name: &str) -> Result<Option<Image>, Error> {
        let index = self.index()?;
        let image = index.by_name(name).map(|record| self.image(record)).transpose();
        // One that is damaged is fetched as if it were not here.
        Ok(image.unwrap_or(None).filter(|image| image.layers.iter().all(|layer| layer.is_dir())))
    }

    /// All images, by name. One that is damaged is left out, and said.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        let mut all = Vec::new();
        for record in self.index()?.records {
            match self.look(&record) {
                Ok(image) => all.extend(image),
                Err(error) => tracing::warn!("{error}"),
            }
        }
        Ok(all)
    }

    /// What each name stands for, in every spelling of the name; reads one file only.
    pub fn names(&self) -> Result<Vec<(String, Digest)>, Error> {
        let records = self.index()?.records.into_iter();
        let named = records.filter_map(|record| Some((record.name?, record.digest)));
        Ok(named
            .flat_map(|(name, digest)| spellings(&name).into_iter().map(move |name| (name, digest.clone())))
            .collect())
    }

    /// As [`Store::names`], of what was fetched also under the name with its digest, by which it is found, too.
    pub fn names_and_digests(&self) -> Result<Vec<(String, Digest)>, Error> {
        let fetched = self.index()?.records.into_iter().filter(|record| record.place.is_some());
        let tags = fetched.filter_map(|record| Some((record.name?, record.digest)));
        let tags = tags.filter(|(name, _)| !name.contains(['@', ' ']));
        let by_digest = tags.flat_map(|(name, digest)| {
            let names = spellings(&format!("{name}@{digest}"));
            names.into_iter().map(move |name| (name, digest.clone()))
        });
        Ok(self.names()?.into_iter().chain(by_digest).collect())
    }

    /// What the images that were made here were asked to be, by all spellings of their names; reads one file only.
    pub fn made(&self) -> Result<Vec<(Vec<String>, Value)>, Error> {
        let records = self.index()?.records.into_iter().filter(|record| !record.declared.is_null());
        Ok(records.filter_map(|record| Some((spellings(&record.name?), record.declared))).collect())
    }

    /// Bytes of all blobs, each once.
    pub fn size(&self) -> Result<u64, Error> {
        let blobs = lease::entries(&self.directory.join("blobs/sha256"))?;
        Ok(blobs.iter().filter_map(|path| fs::metadata(path).ok()).map(|data| data.len()).sum())
    }

    /// An image's manifest and configuration, as they are.
    pub fn documents(&self, image: &Image) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let manifest = read_checked(&self.blob(&image.manifest), &image.manifest)?;
        Ok((manifest, read_checked(&self.blob(&image.id), &image.id)?))
    }

    /// The layers of an image's manifest, the lowest first.
    pub(super) fn archives(&self, image: &Image) -> Result<Vec<Descriptor>, Error> {
        let bytes = read_checked(&self.blob(&image.manifest), &image.manifest)?;
        match document::parse(&bytes, &self.limits) {
            Ok(Document::Manifest(manifest)) => Ok(manifest.layers),
            Ok(Document::Index(_)) => Err(damaged(&image.manifest, "it is an index".into())),
            Err(reason) => Err(damaged(&image.manifest, reason)),
        }
    }

    /// Puts the built-in image of this name into the store, under `builtin:NAME`.
    pub fn builtin(&self, name: &str) -> Result<Image, Error> {
        let reference = format!("builtin:{name}");
        let wanted = builtin::build(name)?;
        match self.get(&reference)? {
            Some(present) if present.id == wanted.id => Ok(present),
            _ => {
                let lease = self.lease()?;
                let layer = self.add_layer(&lease, wanted.layer)?;
                self.add_image(&lease, Some(&reference), &wanted.config, vec![layer])
            }
        }
    }

    /// Makes an image with one layer from a directory or a tar of a root file system.
    pub fn import_rootfs(&self, path: &Path, name: &str) -> Result<Image, Error> {
        self.import_rootfs_for(path, name, &Platform::host(), Value::Null)
    }

    /// As [`Store::import_rootfs`], for a platform, and with what it was asked to be.
    pub fn import_rootfs_for(
        &self,
        path: &Path,
        name: &str,
        platform: &Platform,
        declared: Value,
    ) -> Result<Image, Error> {
        let lease = self.lease()?;
        let layer = if path.is_dir() {
            let tar = lease.temporary("rootfs")?;
            let file = File::create_new(&tar).map_err(io_at(&tar))?;
            let directory = File::open(path).map_err(io_at(path))?;
            pack(directory.as_fd(), None, &Pack::default(), io::BufWriter::new(file)).map_err(io_at(path))?;
            self.add_layer(&lease, File::open(&tar).map_err(io_at(&tar))?)?
        } else {
            self.add_layer(&lease, File::open(path).map_err(io_at(path))?)?
        };
        let config = builtin::configuration(&layer.diff_id, builtin::Words::default(), platform)?;
        let (name, layers) = (Some(name), vec![layer]);
        let publication =
            Publication { name, digest: None, place: None, manifest: None, config: &config, layers, declared };
        let image = self.install(&lease, publication)?;
        self.tell("import", &image.id.to_string(), &image.reference);
        Ok(image)
    }

    /// Takes a layer's archive, compressed or not. The layer belongs to the lease until an image has it.
    pub fn add_layer(&self, lease: &Lease, archive: impl Read + Send) -> Result<Layer, Error> {
        let layer = layer::stage(lease, archive, &Budget::new(&self.limits, 0))?;
        self.protect(lease, [&layer.diff_id, &layer.blob.digest])?;
        Ok(layer)
    }

    /// Puts layers in their place although no image has them yet.
    pub(super) fn keep_layers(&self, lease: &Lease, layers: &[Layer]) -> Result<(), Error> {
        self.place(lease, &[], layers)
    }

    /// Lists an image that was made here under all of its names. Returns it by its first.
    ///
    /// # Errors
    /// [`Error::Busy`] where one of its layers has gone meanwhile.
    pub fn publish(&self, made: Made) -> Result<Image, Error> {
        let name = made.names.first().map(String::as_str);
        let lease = self.lease()?;
        self.protect(&lease, &made.layers)?;
        let mut layers = Vec::new();
        for diff_id in &made.layers {
            let gone = || Error::Busy(name.unwrap_or("<none>").to_owned());
            let blob = self.archive_of(diff_id)?.filter(|_| self.has_layer(diff_id)).ok_or_else(gone)?;
            layers.push(Layer { diff_id: diff_id.clone(), blob, waiting_blob: None, waiting_tree: None });
        }
        self.protect(&lease, layers.iter().map(|layer| &layer.blob.digest))?;
        let wanted = Publication {
            name,
            digest: None,
            place: None,
            manifest: None,
            config: &made.config,
            layers,
            declared: made.declared,
        };
        let image = self.install(&lease, wanted)?;
        for other in made.names.iter().skip(1) {
            self.tag(image.manifest.as_str(), other)?;
        }
        Ok(image)
    }

    /// From now on the image stays, with all that it needs, as long as the lease. `false` where it was removed before.
    pub fn hold(&self, lease: &Lease, image: &Image) -> Result<bool, Error> {
        self.protect(lease, image.diff_ids.iter().chain([&image.id, &image.manifest]))?;
        let listed = self.index()?.records.iter().any(|one| one.manifest.digest == image.manifest);
        Ok(listed && image.layers.iter().all(|layer| layer.is_dir()))
    }

    /// The layers of an image of the store, to make another one on top of it.
    pub fn layers_of(&self, lease: &Lease, image: &Image) -> Result<Vec<Layer>, Error> {
        let diff_ids = image.diff_ids.clone();
        let blobs = self.archives(image)?;
        self.protect(lease, diff_ids.iter().chain(blobs.iter().map(|blob| &blob.digest)))?;
        let layers = blobs.into_iter().zip(diff_ids);
        Ok(layers.map(|(blob, diff_id)| Layer { diff_id, blob, waiting_blob: None, waiting_tree: None }).collect())
    }

    /// Where the layer's tree is, in the store or not yet, for who makes the next one on top of it.
    pub fn directory_of(&self, layer: &Layer) -> PathBuf {
        layer.waiting_tree.clone().unwrap_or_else(|| self.layer_folder(&layer.diff_id)).join("fs")
    }

    /// Makes an image of layers and a configuration whose `rootfs.diff_ids` are those layers'. Without a name it is kept
    /// until the next `prune`.
    pub fn add_image(
        &self,
        lease: &Lease,
        name: Option<&str>,
        config: &[u8],
        layers: Vec<Layer>,
    ) -> Result<Image, Error> {
        let declared = Value::Null;
        self.install(lease, Publication { name, digest: None, place: None, manifest: None, config, layers, declared })
    }

    /// Gives an image of the store another name.
    pub fn tag(&self, image: &str, name: &str) -> Result<(), Error> {
        let name = super::ImageReference::parse(name)?.to_string();
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let record = self.find(&index, image)?.cloned().ok_or_else(|| Error::NotFound(image.to_owned()))?;
        let id = self.id_text(&record);
        index.insert(Record { name: Some(name.clone()), ..record });
        index.write(&self.index_path())?;
        self.tell("tag", &id, &name);
        Ok(())
    }

    /// Gives an image that is here, and is found by a name with a digest, that name: so that it is listed by it.
    ///
    /// # Errors
    /// Where it is not here, or the store can't be written to.
    pub fn name_by_digest(&self, name: &str) -> Result<(), Error> {
        let full = full_name(name);
        if self.index()?.by_name(name).is_some() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let record = self.find(&index, name)?.cloned().ok_or_else(|| Error::NotFound(name.to_owned()))?;
        index.insert(Record { name: Some(full), ..record });
        index.write(&self.index_path())
    }

    /// For who follows what happens.
    pub(in crate::runtime::image) fn tell(&self, action: &str, id: &str, name: &str) {
        events::record(&self.roots, &Event::now(events::Kind::Image, action, id, name));
    }

    /// Puts everything in its place and lists the image.
    pub(super) fn install(&self, lease: &Lease, wanted: Publication<'_>) -> Result<Image, Error> {
        let wrong = |reason| Error::Configuration { image: wanted.name.unwrap_or("<none>").to_owned(), reason };
        let checked = config::parse(wanted.config, wanted.layers.len(), &self.limits).map_err(wrong)?;
        if let Some((layer, _)) = { wanted.layers.iter().zip(&checked.diff_ids) }.find(|(own, id)| own.diff_id != **id)
        {
            return Err(wrong(format!("it does not name the layer {}", layer.diff_id)));
        }
        let blobs: Vec<Descriptor> = wanted.layers.iter().map(|layer| layer.blob.clone()).collect();
        let own = Descriptor::new(document::OCI_CONFIG, Digest::of(wanted.config), wanted.config.len() as u64);
        let manifest = wanted.manifest.unwrap_or_else(|| document::write_manifest(&own, &blobs));
        let kind = document::media_type(&manifest);
        let described = Descriptor::new(&kind, Digest::of(&manifest), manifest.len() as u64);
        self.protect(lease, [&described.digest, &own.digest])?;
        self.place(lease, &[(&described.digest, &manifest), (&own.digest, wanted.config)], &wanted.layers)?;
        let record = Record {
            name: wanted.name.map(full_name),
            digest: wanted.digest.unwrap_or_else(|| described.digest.clone()),
            manifest: described,
            place: wanted.place,
            created_ms: now_ms(),
            declared: wanted.declared,
        };
        let _lock = self.lock()?;
        let mut index = self.index()?;
        index.insert(record.clone());
        index.write(&self.index_path())?;
        self.image(&record)
    }

    /// One sync for all of it, then renames, each of which is whole or not at all.
    fn place(&self, lease: &Lease, small: &[(&Digest, &[u8])], layers: &[Layer]) -> Result<(), Error> {
        let (blobs, trees) = (self.directory.join("blobs/sha256"), self.directory.join("layers"));
        for folder in [self.directory.join("blobs"), blobs.clone(), trees.clone()] {
            state::make_directory(&folder)?;
        }
        let mut moves = Vec::new();
        let layout = self.directory.join("oci-layout");
        if !layout.exists() {
            let path = lease.temporary("oci-layout")?;
            fs::write(&path, "{\"imageLayoutVersion\":\"1.0.0\"}\n").map_err(io_at(&path))?;
            moves.push((path, layout));
        }
        for (digest, bytes) in small {
            let path = lease.temporary("document")?;
            fs::write(&path, bytes).map_err(io_at(&path))?;
            moves.push((path, self.blob(digest)));
        }
        for layer in layers {
            moves.extend(layer.waiting_blob.iter().map(|path| (path.clone(), self.blob(&layer.blob.digest))));
            if let Some(tree) = &layer.waiting_tree {
                self.note_archive(tree, &layer.blob)?;
            }
            moves.extend(layer.waiting_tree.iter().map(|path| (path.clone(), self.layer_folder(&layer.diff_id))));
        }
        let directory = File::open(&self.directory).map_err(io_at(&self.directory))?;
        sys::sync_file_system(directory.as_fd()).map_err(io_at(&self.directory))?;
        for (from, to) in &moves {
            put(from, to)?;
        }
        let named =
            [&blobs, &trees].map(|folder| File::open(folder).and_then(|open| open.sync_all()).map_err(io_at(folder)));
        named.into_iter().collect()
    }
}

impl Store {
    /// Beside a tree: what it was unpacked from.
    fn note_archive(&self, tree: &Path, blob: &Descriptor) -> Result<(), Error> {
        Ok(state::write_json_volatile(&tree.join("blob.json"), blob)?)
    }
}

/// Another process may have put the same there meanwhile: content is what it is named by.
fn put(from: &Path, to: &Path) -> Result<(), Error> {
    match fs::rename(from, to) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST)) => lease::remove_all(from),
        Err(error) if error.kind() == io::ErrorKind::NotFound && to.exists() => Ok(()),
        other => other.map_err(io_at(to)),
    }
}

fn damaged(digest: &Digest, reason: String) -> Error {
    Error::Damaged { digest: digest.to_string(), reason }
}

/// A small blob, whose content must be what it is named by.
fn read_checked(path: &Path, digest: &Digest) -> Result<Vec<u8>, Error> {
    let bytes = fs::read(path).map_err(|error| damaged(digest, error.to_string()))?;
    if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(damaged(digest, "its content is another".into())) }
}

fn diff_ids(config: &[u8]) -> Result<Vec<Digest>, Error> {
    #[derive(Deserialize)]
    struct Rootfs {
        #[serde(default)]
        diff_ids: Vec<Digest>,
    }
    #[derive(Deserialize)]
    struct Config {
        rootfs: Rootfs,
    }
    let parsed: Result<Config, _> = serde_json::from_slice(config);
    Ok(parsed.map_err(|error| damaged(&Digest::of(config), error.to_string()))?.rootfs.diff_ids)
}

/// As people write it.
fn familiar(name: &str) -> String {
    if name.starts_with("builtin:") {
        return name.to_owned();
    }
    super::ImageReference::parse(name).map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

/// Without the layers below one whose root is opaque: overlayfs does not look at a root's attribute.
fn visible(layers: Vec<PathBuf>) -> Vec<PathBuf> {
    let opaque = |layer: &PathBuf| {
        File::open(layer)
            .and_then(|open| attributes::get(open.as_fd(), Marks::own().opaque()))
            .is_ok_and(|value| value == b"y")
    };
    // Below the lowest there is nothing to hide.
    let first = layers.iter().skip(1).rposition(opaque).map_or(0, |above| above + 1);
    layers.into_iter().skip(first).collect()
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_millis() as u64)
}
