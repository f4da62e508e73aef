//! Where signatures are found: under a tag made of the image's digest, and among what refers to the image.

use serde::Deserialize;

use super::proof::{Proof, is_bundle};
use crate::runtime::image::document::Descriptor;
use crate::runtime::image::registry::{Client, RegistryError};
use crate::runtime::image::{Digest, Limits, strict};

const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
/// Signatures of one image that are looked at.
const MOST: usize = 64;
/// Bytes of one.
const MOST_BYTES: u64 = 1 << 20;

/// What a registry has of signatures of one image.
#[derive(Default)]
pub struct Found {
    pub proofs: Vec<Proof>,
    /// Why others are none.
    pub problems: Vec<String>,
}

#[derive(Deserialize)]
struct Artifact {
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// All signatures that this registry has of the image.
///
/// # Errors
/// Where the registry can't be asked. That there is none is no error; nor is one that is broken, beside others.
pub fn fetch(client: &Client<'_>, image: &Digest, limits: &Limits) -> Result<Found, RegistryError> {
    let mut found = Found::default();
    match client.manifest_of(&format!("sha256-{}.sig", image.hex())) {
        Err(RegistryError::NotFound { .. }) => {}
        text => found.simple(client, &text?, limits),
    }
    for one in client.referrers(image)?.iter().filter(|one| may_sign(one)).take(MOST) {
        match client.manifest(&one.digest) {
            Ok(text) => found.bundles(client, &text, image, limits),
            Err(error) => found.problems.push(error.to_string()),
        }
    }
    Ok(found)
}

/// Some registries list an artifact by the type of its configuration.
fn may_sign(one: &Descriptor) -> bool {
    let unknown = |kind: &str| kind.is_empty() || kind == "application/vnd.oci.empty.v1+json";
    one.artifact_type.as_deref().is_none_or(|kind| unknown(kind) || is_bundle(kind))
}

fn layers(text: &[u8], limits: &Limits) -> Result<Vec<Descriptor>, String> {
    strict::check(text, limits)?;
    Ok(serde_json::from_slice::<Artifact>(text).map_err(|error| error.to_string())?.layers)
}

impl Found {
    fn simple(&mut self, client: &Client<'_>, text: &[u8], limits: &Limits) {
        match layers(text, limits) {
            Err(reason) => self.problems.push(format!("its format is unknown: {reason}")),
            Ok(layers) => layers.iter().take(MOST).for_each(|layer| match simple(client, layer) {
                Ok(proof) => self.proofs.push(proof),
                Err(reason) => self.problems.push(reason),
            }),
        }
    }

    fn bundles(&mut self, client: &Client<'_>, text: &[u8], image: &Digest, limits: &Limits) {
        match layers(text, limits) {
            Err(reason) => self.problems.push(format!("its format is unknown: {reason}")),
            Ok(layers) => match layers.iter().find(|layer| is_bundle(&layer.media_type)) {
                // It refers to the image, and is something else.
                None => {}
                Some(layer) => match bundle(client, layer, image) {
                    Ok(proof) => self.proofs.push(proof),
                    Err(reason) => self.problems.push(reason),
                },
            },
        }
    }
}

fn simple(client: &Client<'_>, layer: &Descriptor) -> Result<Proof, String> {
    if layer.media_type != SIMPLE {
        return Err(format!("its format {:?} is unknown", layer.media_type));
    }
    let signature = layer.annotations.get(SIGNATURE).ok_or("it has no signature")?.clone();
    let payload = small(client, layer)?;
    Ok(Proof::Simple { payload, signature, keyless: layer.annotations.contains_key(CERTIFICATE) })
}

fn bundle(client: &Client<'_>, layer: &Descriptor, image: &Digest) -> Result<Proof, String> {
    let bundle = small(client, layer)?;
    let manifest = match Proof::signs_manifest(&bundle) {
        true => {
            let bytes = client.manifest(image).map_err(|error| error.to_string())?;
            Some(String::from_utf8(bytes).map_err(|_| "the image's manifest is no text")?)
        }
        false => None,
    };
    Ok(Proof::Bundle { bundle, manifest })
}

/// A blob whose digest was checked.
fn small(client: &Client<'_>, blob: &Descriptor) -> Result<String, String> {
    let bytes = client.small("signature", blob, MOST_BYTES).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|_| "its format is unknown: it is no text".into())
}
