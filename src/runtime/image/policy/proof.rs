//! What a signer says of an image, in the two forms that cosign writes: simple signing (specs/SIGNATURE_SPEC.md) and the
//! sigstore bundle (specs/BUNDLE_SPEC.md), with a statement in a DSSE envelope or with a signature of the manifest itself.
//! Signatures by a certificate alone ("keyless") mean nothing without the transparency log, and are not believed.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};

use super::key::Key;
use crate::runtime::image::{Digest, Limits, strict};

const PAYLOAD: &str = "cosign container image signature";
const STATEMENT: &str = "application/vnd.in-toto+json";
/// What a statement is that signs an image; others, as of provenance, say something else about it.
const SIGNS: &str = "https://sigstore.dev/cosign/sign/v1";

/// One signature, with all that it is checked by but the key: it can be kept beside the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "snake_case", deny_unknown_fields)]
pub enum Proof {
    Simple {
        payload: String,
        /// Base64.
        signature: String,
        keyless: bool,
    },
    Bundle {
        bundle: String,
        /// The image's manifest or index, where the signature is one of that very text.
        manifest: Option<String>,
    },
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: Signed,
}

#[derive(Deserialize)]
struct Signed {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    #[serde(default)]
    verification_material: serde_json::Map<String, serde_json::Value>,
    message_signature: Option<MessageSignature>,
    dsse_envelope: Option<Envelope>,
}

#[derive(Deserialize)]
struct MessageSignature {
    signature: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: std::collections::BTreeMap<String, String>,
}

const KEYLESS: &str =
    "it is signed by a certificate (keyless), which nobody can check without the transparency log: not supported";
const OTHER_KEY: &str = "it is signed by another key, or was changed since";

impl Proof {
    /// # Errors
    /// Says why this is no signature of the image by the key's owner.
    pub fn check(&self, image: &Digest, key: &Key) -> Result<(), String> {
        match self {
            Self::Simple { payload, signature, keyless } => {
                if !key.signed(payload.as_bytes(), &decode(signature)?) {
                    return Err(if *keyless { KEYLESS } else { OTHER_KEY }.into());
                }
                let payload: Payload = read(payload.as_bytes())?;
                if payload.critical.kind != PAYLOAD && payload.critical.kind != SIGNS {
                    return Err(format!("it is a signature of {:?}, not of an image", payload.critical.kind));
                }
                of_image(&payload.critical.image.digest, image)
            }
            Self::Bundle { bundle, manifest } => {
                let bundle: Bundle = read(bundle.as_bytes())?;
                if !is_bundle(&bundle.media_type) {
                    return Err(format!("its format {:?} is unknown", bundle.media_type));
                }
                let certificate = |name: &str| bundle.verification_material.contains_key(name);
                let keyless = certificate("certificate") || certificate("x509CertificateChain");
                let stranger = if keyless { KEYLESS } else { OTHER_KEY };
                match (&bundle.dsse_envelope, &bundle.message_signature) {
                    (Some(envelope), None) => envelope.check(image, key, stranger),
                    (None, Some(message)) => {
                        let manifest = manifest.as_ref().ok_or("what it signs is not at hand")?.as_bytes();
                        of_image(Digest::of(manifest).as_str(), image)?;
                        let signed = key.signed(manifest, &decode(&message.signature)?);
                        signed.then_some(()).ok_or_else(|| stranger.to_owned())
                    }
                    _ => Err("it holds no signature, or more than one".into()),
                }
            }
        }
    }

    /// Whether the image's manifest is needed to check it.
    pub fn signs_manifest(bundle: &str) -> bool {
        read::<Bundle>(bundle.as_bytes()).is_ok_and(|bundle| bundle.message_signature.is_some())
    }
}

/// `application/vnd.dev.sigstore.bundle.v0.3+json` and the older spelling of 0.1 and 0.2.
pub fn is_bundle(media_type: &str) -> bool {
    const OLDER: [&str; 3] = ["0.1", "0.2", "0.3"];
    media_type == "application/vnd.dev.sigstore.bundle.v0.3+json"
        || media_type
            .strip_prefix("application/vnd.dev.sigstore.bundle+json;version=")
            .is_some_and(|version| OLDER.contains(&version))
}

impl Envelope {
    /// As the DSSE protocol has it: what is signed is the type and the payload, each with its length.
    fn check(&self, image: &Digest, key: &Key, stranger: &str) -> Result<(), String> {
        let payload = decode(&self.payload)?;
        let mut message =
            format!("DSSEv1 {} {} {} ", self.payload_type.len(), self.payload_type, payload.len()).into_bytes();
        message.extend(&payload);
        let signed = |one: &EnvelopeSignature| decode(&one.sig).is_ok_and(|signature| key.signed(&message, &signature));
        if !self.signatures.iter().take(16).any(signed) {
            return Err(stranger.to_owned());
        }
        if self.payload_type != STATEMENT {
            return Err(format!("it signs something of type {:?}", self.payload_type));
        }
        let statement: Statement = read(&payload)?;
        if !statement.kind.starts_with("https://in-toto.io/Statement/") || statement.predicate_type != SIGNS {
            return Err(format!("it is a statement of {:?}, no signature", statement.predicate_type));
        }
        let [only] = statement.subject.as_slice() else { return Err("it is about several things".into()) };
        let digest = only.digest.get("sha256").ok_or("it names no digest")?;
        of_image(&format!("sha256:{digest}"), image)
    }
}

fn of_image(found: &str, image: &Digest) -> Result<(), String> {
    if found == image.as_str() { Ok(()) } else { Err(format!("it is the signature of another image, {found:?}")) }
}

fn read<T: for<'de> Deserialize<'de>>(text: &[u8]) -> Result<T, String> {
    strict::check(text, &Limits::default())?;
    serde_json::from_slice(text).map_err(|error| format!("its format is unknown: {error}"))
}

fn decode(text: &str) -> Result<Vec<u8>, String> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let standard = GeneralPurpose::new(&base64::alphabet::STANDARD, config);
    let url = GeneralPurpose::new(&base64::alphabet::URL_SAFE, config);
    let decoded = standard.decode(text).or_else(|_| url.decode(text));
    decoded.map_err(|error| format!("its signature is no base64: {error}"))
}
