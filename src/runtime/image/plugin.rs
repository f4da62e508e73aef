//! Plugins as registries have them: a manifest like an image's, whose configuration describes a plugin and names the
//! layers of its root file system. In the store it becomes an image that says nothing of what it runs.

use std::fs;

use super::document::{self, Descriptor, Document, Manifest, Platform};
use super::download::Downloads;
use super::early::written_early;
use super::pull::{Progress, PullOptions, each};
use super::registry::{Client, RegistryError, Upload};
use super::store::Publication;
use super::unpack::Budget;
use super::{Digest, Error, Image, ImageReference, Store, io_at};

/// The media type of a plugin's configuration.
pub const PLUGIN_CONFIG: &str = "application/vnd.docker.plugin.v1+json";
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// A plugin that a registry has, before anything but its description was fetched.
pub struct Offered {
    /// Of its manifest.
    pub digest: Digest,
    /// The very text of its configuration.
    pub config: Vec<u8>,
    manifest: Manifest,
    diff_ids: Vec<Digest>,
}

#[derive(serde::Deserialize)]
struct Config {
    rootfs: Rootfs,
}

#[derive(serde::Deserialize)]
struct Rootfs {
    diff_ids: Vec<Digest>,
}

/// What the plugin is, without its layers.
///
/// # Errors
/// Where the registry can't be reached, or what it has there is no plugin.
pub fn offered(store: &Store, place: &ImageReference, options: &PullOptions<'_>) -> Result<Offered, Error> {
    let client = Client::new(place, options.access);
    let bytes = match &place.digest {
        Some(digest) => client.manifest(digest)?,
        None => client.manifest_of(place.tag.as_deref().unwrap_or("latest"))?,
    };
    let host = client.host().to_owned();
    let wrong = |what: &str, reason| RegistryError::Document { what: what.to_owned(), host: host.clone(), reason };
    let manifest = match document::parse_of(&bytes, store.limits(), &[PLUGIN_CONFIG]) {
        Ok(Document::Manifest(manifest)) => manifest,
        Ok(Document::Index(_)) => return Err(wrong("manifest", "it is an index, not a plugin".to_owned()).into()),
        Err(reason) => return Err(wrong("manifest", reason).into()),
    };
    let config = client.config(&manifest.config)?;
    let known: Config = serde_json::from_slice(&config).map_err(|error| wrong("configuration", error.to_string()))?;
    let diff_ids = known.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        let reason = format!("it names {} layers, the manifest {}", diff_ids.len(), manifest.layers.len());
        return Err(wrong("configuration", reason).into());
    }
    Ok(Offered { digest: Digest::of(&bytes), config, manifest, diff_ids })
}

/// Fetches the layers and keeps them under this name, with the configuration as what was declared.
///
/// # Errors
/// As for images.
pub fn fetch(
    store: &Store,
    offered: &Offered,
    place: &ImageReference,
    name: &str,
    options: &PullOptions<'_>,
) -> Result<Image, Error> {
    let clients = [Client::new(place, options.access)];
    let layers = &offered.manifest.layers;
    (options.progress)(Progress::Resolved { digest: &offered.digest, layers: layers.len() });
    let lease = store.lease()?;
    store.protect(&lease, offered.diff_ids.iter().chain(layers.iter().map(|layer| &layer.digest)))?;
    let size = layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
    let wanted: Vec<(Descriptor, Digest)> = layers.iter().cloned().zip(offered.diff_ids.iter().cloned()).collect();
    let layers = written_early(store.directory(), |early| {
        let budget = Budget::new(store.limits(), size).written_early(early);
        let downloads =
            Downloads { store, lease: &lease, clients: &clients, progress: options.progress, budget: &budget };
        each(&wanted, |(blob, diff_id), stop| downloads.layer(blob, diff_id, stop))
    })?;
    let config = image_config(&offered.diff_ids)?;
    let declared = serde_json::Value::String(String::from_utf8_lossy(&offered.config).into_owned());
    let place = Some(format!("{}/{}", place.registry, place.repository));
    let publication =
        Publication { name: Some(name), digest: None, place, manifest: None, config: &config, layers, declared };
    store.install(&lease, publication)
}

/// What an image says that has these layers and nothing else.
fn image_config(diff_ids: &[Digest]) -> Result<Vec<u8>, Error> {
    let config = serde_json::json!({
        "architecture": Platform::host().architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    serde_json::to_vec(&config)
        .map_err(|error| Error::Archive { path: "configuration".into(), reason: error.to_string() })
}

/// Sends a plugin of the store to a registry. Returns the digest of its manifest.
///
/// # Errors
/// Where it is damaged, or the registry refuses.
pub fn send(
    store: &Store,
    image: &Image,
    config: &[u8],
    place: &ImageReference,
    options: &PullOptions<'_>,
) -> Result<Digest, Error> {
    let lease = store.lease()?;
    let layers = store.archives(image)?;
    let path = lease.temporary("plugin")?;
    fs::write(&path, config).map_err(io_at(&path))?;
    let client = Client::new(place, options.access);
    let own = Descriptor::new(PLUGIN_CONFIG, Digest::of(config), config.len() as u64);
    let files = layers.iter().map(|layer| (layer, store.blob(&layer.digest))).chain([(&own, path.clone())]);
    for (blob, file) in files {
        let (layer, size) = (&blob.digest, blob.size);
        let sent = |sent: u64| (options.progress)(Progress::Uploading { layer, sent, size });
        client.upload(&Upload { file: &file, digest: layer, size, mount_from: None, sent: &sent })?;
        (options.progress)(Progress::Uploaded { layer });
    }
    let layers: Vec<Descriptor> =
        layers.iter().map(|one| Descriptor::new(LAYER, one.digest.clone(), one.size)).collect();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": own, "layers": layers});
    let manifest = manifest.to_string().into_bytes();
    let digest = Digest::of(&manifest);
    client.put_manifest(&place.tag.clone().unwrap_or_else(|| digest.to_string()), &manifest)?;
    Ok(digest)
}
