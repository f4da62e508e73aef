//! Sending images to registries: what is there is not sent again, what another repository of the same registry has is
//! taken from it. The manifest goes last, so that a tag never names what is not whole.

use std::fs::File;

use super::document::{Descriptor, OCI_CONFIG};
use super::download::hash;
use super::pull::{Progress, PullOptions, each};
use super::registry::{Client, RegistryError, Upload};
use super::{Digest, Error, ImageReference, Store, io_at};

impl Store {
    /// Sends the image of this name to where `place` says. Returns the digest that the registry knows it by.
    ///
    /// # Errors
    /// Where the image is not here or damaged, or the registry refuses.
    pub fn push(&self, name: &str, place: &ImageReference, options: &PullOptions<'_>) -> Result<Digest, Error> {
        let image = self.get(name)?.ok_or_else(|| Error::NotFound(name.to_owned()))?;
        let lease = self.lease()?;
        let layers = self.archives(&image)?;
        self.protect(&lease, layers.iter().map(|layer| &layer.digest).chain([&image.id, &image.manifest]))?;
        let (manifest, config) = self.documents(&image)?;
        let client = Client::new(place, options.access);
        let same_host = image.place.as_deref().and_then(|from| from.strip_prefix(&format!("{}/", place.registry)));
        (options.progress)(Progress::Resolved { digest: &image.manifest, layers: layers.len() });
        let config = Descriptor::new(OCI_CONFIG, image.id.clone(), config.len() as u64);
        let all: Vec<Descriptor> = layers.into_iter().chain([config]).collect();
        each(&all, |blob, _| self.send(&client, blob, same_host, options))?;
        let target = place.tag.clone().unwrap_or_else(|| image.manifest.to_string());
        client.put_manifest(&target, &manifest)?;
        Ok(image.manifest)
    }

    fn send(
        &self,
        client: &Client<'_>,
        blob: &Descriptor,
        mount_from: Option<&str>,
        options: &PullOptions<'_>,
    ) -> Result<(), Error> {
        let path = self.blob(&blob.digest);
        let damaged = |reason: String| Error::Damaged { digest: blob.digest.to_string(), reason };
        let file = File::open(&path).map_err(|error| damaged(error.to_string()))?;
        let (found, size) = hash(&file).map_err(io_at(&path))?;
        if found != blob.digest {
            return Err(damaged("its content is another".into()));
        }
        let layer = &blob.digest;
        let sent = |sent: u64| (options.progress)(Progress::Uploading { layer, sent, size });
        let upload = Upload { file: &path, digest: &blob.digest, size, mount_from, sent: &sent };
        client.upload(&upload).map_err(|error: RegistryError| Error::from(error))?;
        (options.progress)(Progress::Uploaded { layer });
        Ok(())
    }
}
