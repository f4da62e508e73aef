//! Images in files: docker's archives (`manifest.json`, image specification v1.2) and OCI's (`index.json`, OCI image
//! layout), both tars; and plain root file systems.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci_spec::image::{ImageIndex, ImageManifest};
use serde::Deserialize;
use tar::{Archive, Builder, EntryType};

use super::store::{Image, Writer, decompress};
use super::{Digest, Error, ImageReference, io_at};

/// The largest `manifest.json` and the like that is read, in bytes.
const LARGEST_DOCUMENT: u64 = 4 << 20;
const REFERENCE_NAME: &str = "org.opencontainers.image.ref.name";

/// One image of a docker archive's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Takes all images of the archive into the store.
pub fn load(writer: &Writer<'_>, path: &Path, name: Option<&str>) -> Result<Vec<Image>, Error> {
    let wrong = |reason: String| Error::Archive { path: path.to_owned(), reason };
    let files = extract(writer, path)?;
    let images = if let Some(text) = document(&files, "manifest.json")? {
        let images: Vec<DockerImage> =
            serde_json::from_slice(&text).map_err(|error| wrong(format!("manifest.json: {error}")))?;
        images.iter().map(|image| docker_image(writer, &files, image, name, path)).collect::<Result<Vec<_>, _>>()?
    } else if let Some(text) = document(&files, "index.json")? {
        let index: ImageIndex = serde_json::from_slice(&text).map_err(|error| wrong(format!("index.json: {error}")))?;
        oci_images(writer, &files, &index, name, path)?
    } else {
        return Err(wrong("neither a docker archive (manifest.json) nor an OCI one (index.json)\n  help: a plain root file system is taken by `rootfs:`".into()));
    };
    if images.is_empty() {
        return Err(wrong("there is no image in it".into()));
    }
    Ok(images)
}

/// The archive's files, under numbers, so that no name of the archive becomes a path. Links are followed by name.
struct Files {
    archive: PathBuf,
    by_name: BTreeMap<String, PathBuf>,
}

fn extract(writer: &Writer<'_>, path: &Path) -> Result<Files, Error> {
    let unreadable = |error: io::Error| Error::Archive { path: path.to_owned(), reason: error.to_string() };
    let archive = File::open(path).map_err(io_at(path))?;
    let mut archive = Archive::new(decompress(archive).map_err(unreadable)?);
    let mut by_name: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut links = Vec::new();
    for (number, entry) in archive.entries().map_err(unreadable)?.enumerate() {
        let mut entry = entry.map_err(unreadable)?;
        let name = clean(&entry.path().map_err(unreadable)?);
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                let target = writer.temporary().join(format!("file-{number}"));
                let mut file = File::create(&target).map_err(io_at(&target))?;
                io::copy(&mut entry, &mut file).map_err(io_at(&target))?;
                by_name.insert(name, target);
            }
            EntryType::Symlink | EntryType::Link => {
                if let Some(target) = entry.link_name().map_err(unreadable)? {
                    let beside = Path::new(&name).parent().unwrap_or(Path::new("")).join(&target);
                    links.push((name, clean(&beside), clean(&target)));
                }
            }
            _ => {}
        }
    }
    for (name, beside, target) in links {
        if let Some(found) = by_name.get(&beside).or_else(|| by_name.get(&target)).cloned() {
            by_name.insert(name, found);
        }
    }
    Ok(Files { archive: path.to_owned(), by_name })
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

impl Files {
    fn path(&self, name: &str) -> Result<&PathBuf, Error> {
        let missing = || Error::Archive { path: self.archive.clone(), reason: format!("{name} is missing in it") };
        self.by_name.get(&clean(Path::new(name))).ok_or_else(missing)
    }

    fn open(&self, name: &str) -> Result<File, Error> {
        let path = self.path(name)?;
        File::open(path).map_err(io_at(path))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.open(name)?.take(LARGEST_DOCUMENT).read_to_end(&mut bytes).map_err(io_at(&self.archive))?;
        Ok(bytes)
    }

    /// A blob, whose content must be what its name says.
    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let bytes = self.read(&format!("blobs/sha256/{}", digest.hex()))?;
        let found = Digest::of(&bytes);
        if found == *digest {
            return Ok(bytes);
        }
        Err(Error::Mismatch { what: "blob".into(), expected: digest.to_string(), found: found.to_string() })
    }
}

fn document(files: &Files, name: &str) -> Result<Option<Vec<u8>>, Error> {
    if files.by_name.contains_key(name) { files.read(name).map(Some) } else { Ok(None) }
}

fn docker_image(
    writer: &Writer<'_>,
    files: &Files,
    image: &DockerImage,
    name: Option<&str>,
    path: &Path,
) -> Result<Image, Error> {
    let config = files.read(&image.config)?;
    let layers = image.layers.iter().map(String::as_str).collect::<Vec<_>>();
    let layers = add_layers(writer, files, &config, &layers)?;
    let tags = image.repo_tags.clone().unwrap_or_default();
    publish(writer, &name_of(name, tags.first(), path), None, config, layers)
}

fn publish(
    writer: &Writer<'_>,
    name: &str,
    digest: Option<Digest>,
    config: Vec<u8>,
    layers: Vec<(Digest, u64)>,
) -> Result<Image, Error> {
    writer.publish(name, digest, config, layers)
}

/// The name given, the archive's own in full, or the file's.
fn name_of(given: Option<&str>, own: Option<&String>, path: &Path) -> String {
    let own = own.and_then(|own| ImageReference::parse(own).ok()).map(|reference| reference.to_string());
    let file = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    given.map(str::to_owned).or(own).unwrap_or_else(file)
}

/// Each layer's content must be what the configuration says.
fn add_layers(writer: &Writer<'_>, files: &Files, config: &[u8], names: &[&str]) -> Result<Vec<(Digest, u64)>, Error> {
    #[derive(Deserialize)]
    struct Rootfs {
        diff_ids: Vec<Digest>,
    }
    #[derive(Deserialize)]
    struct Config {
        rootfs: Rootfs,
    }
    let wrong = |reason: String| Error::Archive { path: files.archive.clone(), reason };
    let config: Config =
        serde_json::from_slice(config).map_err(|error| wrong(format!("its configuration: {error}")))?;
    let diff_ids = config.rootfs.diff_ids;
    if diff_ids.len() != names.len() {
        return Err(wrong(format!("{} layers, but its configuration names {}", names.len(), diff_ids.len())));
    }
    let pairs = diff_ids.iter().zip(names);
    pairs.map(|(diff_id, name)| writer.add_layer(files.open(name)?, Some(diff_id))).collect()
}

fn oci_images(
    writer: &Writer<'_>,
    files: &Files,
    index: &ImageIndex,
    name: Option<&str>,
    path: &Path,
) -> Result<Vec<Image>, Error> {
    let wrong = |reason: String| Error::Archive { path: path.to_owned(), reason };
    let mut images = Vec::new();
    for descriptor in index.manifests() {
        let digest = Digest::parse(descriptor.digest().as_ref())?;
        let text = files.blob(&digest)?;
        let own = descriptor.annotations().as_ref().and_then(|notes| notes.get(REFERENCE_NAME));
        let name = name_of(name, own, path);
        if let Ok(nested) = serde_json::from_slice::<ImageIndex>(&text) {
            let nested: Vec<_> = nested.manifests().iter().filter(|one| for_this_host(one)).cloned().collect();
            let Some(first) = nested.first() else { continue };
            let digest = Digest::parse(first.digest().as_ref())?;
            images.push(oci_image(writer, files, &files.blob(&digest)?, digest, &name)?);
            continue;
        }
        images.push(oci_image(writer, files, &text, digest, &name).map_err(|error| wrong(error.to_string()))?);
    }
    Ok(images)
}

fn for_this_host(descriptor: &oci_spec::image::Descriptor) -> bool {
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    descriptor
        .platform()
        .as_ref()
        .is_none_or(|platform| platform.architecture().to_string() == own && platform.os().to_string() == "linux")
}

fn oci_image(writer: &Writer<'_>, files: &Files, text: &[u8], digest: Digest, name: &str) -> Result<Image, Error> {
    let unreadable = |error: serde_json::Error| Error::Archive {
        path: files.archive.clone(),
        reason: format!("manifest {digest}: {error}"),
    };
    let manifest: ImageManifest = serde_json::from_slice(text).map_err(unreadable)?;
    let config = files.blob(&Digest::parse(manifest.config().digest().as_ref())?)?;
    let names: Vec<String> = manifest
        .layers()
        .iter()
        .map(|layer| layer.digest().to_string().replace(':', "/"))
        .map(|name| format!("blobs/{name}"))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let layers = add_layers(writer, files, &config, &names)?;
    publish(writer, name, Some(digest), config, layers)
}

/// The directory as a tar whose bytes depend on its content alone: names in order.
pub fn pack(directory: &Path, target: &Path) -> Result<(), Error> {
    let mut tar = Builder::new(File::create(target).map_err(io_at(target))?);
    tar.follow_symlinks(false);
    let mut waiting = vec![PathBuf::new()];
    while let Some(relative) = waiting.pop() {
        let path = directory.join(&relative);
        let data = fs::symlink_metadata(&path).map_err(io_at(&path))?;
        if !relative.as_os_str().is_empty() {
            tar.append_path_with_name(&path, &relative).map_err(io_at(&path))?;
        }
        if data.is_dir() {
            let entries = fs::read_dir(&path).map_err(io_at(&path))?;
            let names = entries.map(|entry| Ok(relative.join(entry?.file_name()))).collect::<io::Result<Vec<_>>>();
            let mut names = names.map_err(io_at(&path))?;
            names.sort_unstable_by(|a, b| b.cmp(a));
            waiting.extend(names);
        }
    }
    tar.finish().map_err(io_at(target))
}
