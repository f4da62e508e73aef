//! Images in files: docker's archives (`manifest.json`, image specification v1.2) and OCI's (`index.json`, OCI image
//! layout), both tars; and what writes them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::document::{self, Descriptor, Document, Platform};
use super::download::hash;
use super::pull::{Progress, each};
use super::store::{Layer, Lease, Publication, decompress, media_type, unpack_to};
use super::tarball::{Kind, Reader};
use super::unpack::Budget;
use super::{Digest, Error, Image, ImageReference, Store, config, io_at, strict};

const REFERENCE_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// More files than any archive of images has, and more bytes than their names have.
const MOST_FILES: usize = 100_000;
const MOST_NAMES: usize = 16 << 20;

/// One image of a docker archive's `manifest.json`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct OciIndex {
    manifests: Vec<Descriptor>,
}

/// How the images of an archive are taken.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions<'a> {
    /// The name that its one image gets; its own names where there is none.
    pub name: Option<&'a str>,
    /// Another platform than this host's.
    pub platform: Option<&'a Platform>,
    /// What the image was asked to be; kept for whoever asked.
    pub declared: Value,
}

/// Takes all images of the archive into the store; `progress` hears of their layers.
///
/// # Errors
/// Where it is no archive of images, something in it is missing or is not what its digest says; and where several
/// images would get one name.
pub fn load(
    store: &Store,
    path: &Path,
    options: LoadOptions<'_>,
    progress: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<Vec<Image>, Error> {
    let lease = store.lease()?;
    let files = Files::open(store, &lease, path)?;
    let host = Platform::host();
    let LoadOptions { name, platform, declared } = options;
    let load =
        Load { store, lease: &lease, files: &files, name, platform: platform.unwrap_or(&host), declared, progress };
    let images = if files.by_name.contains_key("manifest.json") {
        load.docker()?
    } else if files.by_name.contains_key("index.json") {
        load.oci()?
    } else {
        return Err(files.wrong("neither a docker archive (manifest.json) nor an OCI one (index.json)\n  help: a plain root file system is taken by `rootfs:` and by `stack import`"));
    };
    if images.is_empty() {
        return Err(files.wrong("there is no image in it"));
    }
    Ok(images)
}

/// Where each file of the archive lies in it; nothing is written under a name that the archive says. Links are followed
/// by name, within the archive.
struct Files {
    archive: PathBuf,
    /// The archive itself, or its uncompressed copy.
    path: PathBuf,
    by_name: BTreeMap<String, (u64, u64)>,
}

impl Files {
    fn open(store: &Store, lease: &Lease, archive: &Path) -> Result<Self, Error> {
        let unreadable = |error: io::Error| Error::Archive { path: archive.to_owned(), reason: error.to_string() };
        let mut file = BufReader::new(File::open(archive).map_err(io_at(archive))?);
        let compressed = media_type(&mut file).map_err(unreadable)? != document::OCI_LAYER;
        let mut path = archive.to_owned();
        if compressed || !file.get_ref().metadata().map_err(io_at(archive))?.is_file() {
            path = lease.temporary("archive")?;
            let limits = store.limits();
            let length = file.get_ref().metadata().map_err(io_at(archive))?.len();
            let most = limits.unpacked_bytes.saturating_add(length.saturating_mul(limits.unpacked_factor));
            let mut copy = File::create(&path).map_err(io_at(&path))?;
            let mut plain = decompress(file).map_err(unreadable)?.take(most + 1);
            if io::copy(&mut plain, &mut copy).map_err(unreadable)? > most {
                return Err(unreadable(io::Error::other(format!("it unpacks to more than {most} bytes"))));
            }
        }
        let by_name = index(&path, store.limits()).map_err(unreadable)?;
        Ok(Self { archive: archive.to_owned(), path, by_name })
    }

    fn wrong(&self, reason: impl Into<String>) -> Error {
        Error::Archive { path: self.archive.clone(), reason: reason.into() }
    }

    fn content(&self, name: &str) -> Result<io::Take<File>, Error> {
        let found = self.by_name.get(&clean(Path::new(name)));
        let (at, length) = *found.ok_or_else(|| self.wrong(format!("{name:?} is missing in it")))?;
        let mut file = File::open(&self.path).map_err(io_at(&self.path))?;
        file.seek(SeekFrom::Start(at)).map_err(io_at(&self.path))?;
        Ok(file.take(length))
    }

    fn read(&self, name: &str, most: u64) -> Result<Vec<u8>, Error> {
        let mut content = self.content(name)?;
        if content.limit() > most {
            return Err(self.wrong(format!("{name:?} is larger than {most} bytes")));
        }
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(io_at(&self.archive))?;
        Ok(bytes)
    }

    /// A blob, whose content must be what its name says.
    fn blob(&self, digest: &Digest, most: u64) -> Result<Vec<u8>, Error> {
        let bytes = self.read(&blob_name(digest), most)?;
        let found = Digest::of(&bytes);
        if found == *digest {
            return Ok(bytes);
        }
        Err(Error::Mismatch { what: "blob".into(), expected: digest.to_string(), found: found.to_string() })
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn index(path: &Path, limits: &super::Limits) -> io::Result<BTreeMap<String, (u64, u64)>> {
    let mut reader = Reader::new(BufReader::with_capacity(1 << 20, File::open(path)?), limits);
    let (mut by_name, mut links, mut names) = (BTreeMap::new(), Vec::new(), 0);
    while let Some(entry) = reader.next()? {
        names += entry.path.as_os_str().len() + entry.link.as_os_str().len() + 100;
        if names > MOST_NAMES || by_name.len() + links.len() > MOST_FILES {
            return Err(io::Error::other("it holds more files than an archive of images has"));
        }
        let name = clean(&entry.path);
        match entry.kind {
            Kind::File if entry.pieces.is_none() => {
                let former = by_name.insert(name, (reader.position(), entry.size));
                if former.is_some() {
                    return Err(io::Error::other(format!("{:?} is in it twice", entry.path)));
                }
            }
            Kind::Symlink | Kind::Link => {
                let beside = Path::new(&name).parent().unwrap_or(Path::new("")).join(&entry.link);
                links.push((name, clean(&beside), clean(&entry.link)));
            }
            _ => {}
        }
    }
    for (name, beside, target) in links {
        if let Some(found) = by_name.get(&beside).or_else(|| by_name.get(&target)).copied() {
            by_name.insert(name, found);
        }
    }
    Ok(by_name)
}

/// A name without `.` and `..`, as a key.
fn clean(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}

struct Load<'a> {
    store: &'a Store,
    lease: &'a Lease,
    files: &'a Files,
    name: Option<&'a str>,
    platform: &'a Platform,
    declared: Value,
    progress: &'a (dyn Fn(Progress<'_>) + Sync),
}

impl Load<'_> {
    /// One name is for one image.
    fn check_count(&self, count: usize) -> Result<(), Error> {
        match self.name {
            Some(_) if count > 1 => Err(self.files.wrong(format!(
                "it holds {count} images, and one is wanted\n  help: `stack image load` takes them all, each under its own name"
            ))),
            _ => Ok(()),
        }
    }

    fn docker(&self) -> Result<Vec<Image>, Error> {
        let limits = self.store.limits();
        let text = self.files.read("manifest.json", limits.manifest_bytes)?;
        let unreadable = |reason: String| self.files.wrong(format!("manifest.json: {reason}"));
        strict::check(&text, limits).map_err(unreadable)?;
        let images: Vec<DockerImage> = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        let mut tags: Vec<&String> = images.iter().flat_map(|image| image.repo_tags.iter().flatten()).collect();
        tags.sort_unstable();
        if let Some(twice) = tags.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(unreadable(format!("the tag {:?} stands twice", twice[0])));
        }
        self.check_count(images.len())?;
        let alone = images.len() == 1;
        images.iter().map(|image| self.docker_image(image, alone)).collect()
    }

    fn docker_image(&self, image: &DockerImage, alone: bool) -> Result<Image, Error> {
        let config = self.files.read(&image.config, self.store.limits().config_bytes)?;
        let names: Vec<String> = image.layers.clone();
        let tags = image.repo_tags.clone().unwrap_or_default();
        self.publish(&config, &names, None, tags, alone)
    }

    fn oci(&self) -> Result<Vec<Image>, Error> {
        let limits = self.store.limits();
        let text = self.files.read("index.json", limits.manifest_bytes)?;
        let unreadable = |reason: String| self.files.wrong(format!("index.json: {reason}"));
        strict::check(&text, limits).map_err(unreadable)?;
        let index: OciIndex = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        let manifests = self.wanted(index.manifests)?;
        self.check_count(manifests.len())?;
        let alone = manifests.len() == 1;
        manifests.iter().map(|descriptor| self.oci_image(descriptor, alone)).collect()
    }

    /// Of one image for several platforms, where one is wanted, that of the platform.
    fn wanted(&self, manifests: Vec<Descriptor>) -> Result<Vec<Descriptor>, Error> {
        let variants = manifests.len() > 1 && manifests.iter().all(|one| one.platform.is_some());
        if self.name.is_none() || !variants {
            return Ok(manifests);
        }
        let name = ImageReference::parse("archive")?;
        Ok(vec![document::Index(manifests).choose(self.platform, &name)?.clone()])
    }

    fn oci_image(&self, descriptor: &Descriptor, alone: bool) -> Result<Image, Error> {
        let limits = self.store.limits();
        let own = descriptor.annotations.get(CONTAINERD_NAME).or(descriptor.annotations.get(REFERENCE_NAME));
        let mut digest = descriptor.digest.clone();
        for _ in 0..3 {
            let text = self.files.blob(&digest, limits.manifest_bytes)?;
            let wrong = |reason| self.files.wrong(format!("manifest {digest}: {reason}"));
            match document::parse(&text, limits).map_err(wrong)? {
                Document::Manifest(manifest) => {
                    let config = self.files.blob(&manifest.config.digest, limits.config_bytes)?;
                    let names: Vec<String> = manifest.layers.iter().map(|layer| blob_name(&layer.digest)).collect();
                    return self.publish(
                        &config,
                        &names,
                        Some((text, manifest.layers)),
                        own.cloned().into_iter().collect(),
                        alone,
                    );
                }
                Document::Index(index) => {
                    let name = ImageReference::parse("archive")?;
                    digest = index.choose(self.platform, &name)?.digest.clone();
                }
            }
        }
        Err(self.files.wrong("its indexes are nested too deep"))
    }

    /// Under the name that was given, its own names, or where it is the only one the file's.
    fn publish(
        &self,
        config: &[u8],
        names: &[String],
        manifest: Option<(Vec<u8>, Vec<Descriptor>)>,
        tags: Vec<String>,
        alone: bool,
    ) -> Result<Image, Error> {
        let wrong = |reason| self.files.wrong(format!("its configuration: {reason}"));
        let checked = config::parse(config, names.len(), self.store.limits()).map_err(wrong)?;
        let (manifest, blobs) = manifest.map_or((None, Vec::new()), |(text, blobs)| (Some(text), blobs));
        let size = names.iter().filter_map(|name| self.files.content(name).ok()).map(|content| content.limit()).sum();
        let budget = Budget::new(self.store.limits(), size);
        let wanted: Vec<(usize, &String)> = names.iter().enumerate().collect();
        let layers = each(&wanted, |(at, name), _| self.layer(name, &checked.diff_ids[*at], blobs.get(*at), &budget))?;
        let known = |name: &String| ImageReference::parse(name).ok().map(|name| name.to_string());
        let mut own: Vec<String> = tags.iter().filter_map(known).collect();
        if let Some(given) = self.name {
            own = vec![given.to_owned()];
        } else if own.is_empty() && alone {
            own = self.files.archive.file_stem().map(|stem| stem.to_string_lossy().into_owned()).into_iter().collect();
        }
        let name = own.first().map(String::as_str);
        let publication =
            Publication { name, digest: None, place: None, manifest, config, layers, declared: self.declared.clone() };
        let image = self.store.install(self.lease, publication)?;
        for other in own.iter().skip(1) {
            self.store.tag(image.manifest.as_str(), other)?;
        }
        Ok(image)
    }

    /// Each layer's content must be what the configuration and, where there is one, the manifest say.
    fn layer(
        &self,
        name: &str,
        diff_id: &Digest,
        stated: Option<&Descriptor>,
        budget: &Budget<'_>,
    ) -> Result<Layer, Error> {
        let blob = self.lease.temporary("blob")?;
        let mut file = File::options().read(true).write(true).create_new(true).open(&blob).map_err(io_at(&blob))?;
        io::copy(&mut self.files.content(name)?, &mut file).map_err(io_at(&blob))?;
        file.rewind().map_err(io_at(&blob))?;
        let (digest, size) = hash(&file).map_err(io_at(&blob))?;
        if let Some(stated) = stated.filter(|stated| stated.digest != digest || stated.size != size) {
            let (expected, found) = (stated.digest.to_string(), digest.to_string());
            return Err(Error::Mismatch { what: "layer".into(), expected, found });
        }
        let open = || File::open(&blob).map_err(io_at(&blob));
        let kind = media_type(&mut BufReader::new(open()?)).map_err(io_at(&blob))?;
        let described = stated.cloned().unwrap_or_else(|| Descriptor::new(kind, digest, size));
        self.store.protect(self.lease, [diff_id, &described.digest])?;
        let mut layer =
            Layer { diff_id: diff_id.clone(), blob: described, waiting_blob: Some(blob.clone()), waiting_tree: None };
        if self.store.has_layer(diff_id) {
            (self.progress)(Progress::Present { layer: diff_id });
            return Ok(layer);
        }
        (self.progress)(Progress::Unpacking { layer: diff_id });
        let target = self.lease.temporary("layer")?;
        unpack_to(open()?, Some(diff_id), &target, budget)?;
        layer.waiting_tree = Some(target);
        (self.progress)(Progress::Unpacked { layer: diff_id });
        Ok(layer)
    }
}

/// Which archive is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Docker,
    Oci,
}

/// Writes images, each with the names that it is to have, as docker's `save` or as an OCI layout.
pub fn save(store: &Store, images: &[(Image, Vec<String>)], format: Format, to: impl Write) -> Result<(), Error> {
    let mut save = Save { store, tar: Builder::new(to), written: std::collections::BTreeSet::new() };
    match format {
        Format::Docker => save.docker(images)?,
        Format::Oci => save.oci(images)?,
    }
    save.tar.into_inner().and_then(|mut to| to.flush()).map_err(io_at("archive"))
}

struct Save<'a, W: Write> {
    store: &'a Store,
    tar: Builder<W>,
    written: std::collections::BTreeSet<String>,
}

impl<W: Write> Save<'_, W> {
    fn docker(&mut self, images: &[(Image, Vec<String>)]) -> Result<(), Error> {
        let mut manifest = Vec::new();
        for (image, names) in images {
            let (_, config) = self.store.documents(image)?;
            let own = format!("{}.json", image.id.hex());
            self.bytes(&own, &config)?;
            let checked = config::parse(&config, self.store.archives(image)?.len(), self.store.limits());
            let wrong = |reason| Error::Damaged { digest: image.id.to_string(), reason };
            let diff_ids = checked.map_err(wrong)?.diff_ids;
            let mut layers = Vec::new();
            for (blob, diff_id) in self.store.archives(image)?.iter().zip(&diff_ids) {
                let name = format!("{}/layer.tar", diff_id.hex());
                self.uncompressed(&name, &blob.digest)?;
                layers.push(name);
            }
            manifest.push(DockerImage { config: own, repo_tags: Some(names.clone()), layers });
        }
        self.bytes("manifest.json", json!(manifest).to_string().as_bytes())
    }

    fn oci(&mut self, images: &[(Image, Vec<String>)]) -> Result<(), Error> {
        self.bytes("oci-layout", b"{\"imageLayoutVersion\":\"1.0.0\"}")?;
        let mut manifests = Vec::new();
        for (image, names) in images {
            let (manifest, config) = self.store.documents(image)?;
            for blob in self.store.archives(image)? {
                let path = self.store.blob(&blob.digest);
                let file = File::open(&path).map_err(io_at(&path))?;
                self.file(&blob_name(&blob.digest), file)?;
            }
            self.bytes(&blob_name(&image.id), &config)?;
            self.bytes(&blob_name(&image.manifest), &manifest)?;
            let own = Descriptor::new(&document::media_type(&manifest), image.manifest.clone(), manifest.len() as u64);
            let named = names.iter().map(|name| {
                let annotations = [(REFERENCE_NAME, name), (CONTAINERD_NAME, name)];
                let annotations = annotations.map(|(key, name)| (key.to_owned(), name.clone()));
                Descriptor { annotations: annotations.into_iter().collect(), ..own.clone() }
            });
            manifests.extend(named);
            if names.is_empty() {
                manifests.push(own);
            }
        }
        let index = json!({"schemaVersion": 2, "mediaType": document::OCI_INDEX, "manifests": manifests});
        self.bytes("index.json", index.to_string().as_bytes())
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        if !self.written.insert(name.to_owned()) {
            return Ok(());
        }
        self.tar.append_data(&mut header(bytes.len() as u64), name, bytes).map_err(io_at(name))
    }

    fn file(&mut self, name: &str, file: File) -> Result<(), Error> {
        if !self.written.insert(name.to_owned()) {
            return Ok(());
        }
        let length = file.metadata().map_err(io_at(name))?.len();
        self.tar.append_data(&mut header(length), name, file).map_err(io_at(name))
    }

    /// Docker's archives have plain tars, named by what they are when they are unpacked. How long one is has to be known
    /// before it is written.
    fn uncompressed(&mut self, name: &str, digest: &Digest) -> Result<(), Error> {
        let path = self.store.blob(digest);
        let open = || File::open(&path).and_then(decompress).map_err(io_at(&path));
        if !self.written.insert(name.to_owned()) {
            return Ok(());
        }
        let length = io::copy(&mut open()?, &mut io::sink()).map_err(io_at(&path))?;
        self.tar.append_data(&mut header(length), name, open()?.take(length)).map_err(io_at(name))
    }
}

fn header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}
