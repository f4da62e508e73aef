//! Manifests and indexes (OCI image specification; docker's schema 2), as a stranger sends them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::limits::Limits;
use super::strict;
use super::{Digest, ImageReference, RegistryError};

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const INDEXES: [&str; 2] = [OCI_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFESTS: [&str; 2] = [OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"];
const CONFIGS: [&str; 2] = [OCI_CONFIG, "application/vnd.docker.container.image.v1+json"];
const LAYERS: [&str; 6] = [
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// What a document points to (specification, "Content Descriptors").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

impl Descriptor {
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        let media_type = media_type.to_owned();
        Self { media_type, digest, size, platform: None, annotations: BTreeMap::new(), artifact_type: None }
    }
}

/// For which machines an image is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// The manifest of one image: its configuration and its layers, the lowest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// Manifests of one image for several platforms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index(pub Vec<Descriptor>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    Manifest(Manifest),
    Index(Index),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// # Errors
/// Says what is wrong, where the text is not exactly one manifest or one index of a kind that is understood.
pub fn parse(text: &[u8], limits: &Limits) -> Result<Document, String> {
    parse_of(text, limits, &CONFIGS)
}

/// As [`parse`], of something whose configuration has one of these media types.
pub fn parse_of(text: &[u8], limits: &Limits, configs: &[&str]) -> Result<Document, String> {
    if text.len() as u64 > limits.manifest_bytes {
        return Err(format!("it is larger than {} bytes", limits.manifest_bytes));
    }
    strict::check(text, limits)?;
    let raw: Raw = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if raw.schema_version == 1 || raw.fs_layers.is_some() {
        return Err("it is of schema version 1, which names layers by nothing that can be verified; push the image \
                    again with a newer program"
            .into());
    }
    if raw.schema_version != 2 {
        return Err(format!("its schema version is {}, only 2 is understood", raw.schema_version));
    }
    let kind = raw.media_type.as_deref();
    match (raw.config, raw.layers, raw.manifests) {
        (None, None, Some(all)) if kind.is_none_or(|kind| INDEXES.contains(&kind)) => Ok(Document::Index(Index(all))),
        (Some(config), Some(layers), None) if kind.is_none_or(|kind| MANIFESTS.contains(&kind)) => {
            if raw.artifact_type.is_some() || !configs.contains(&config.media_type.as_str()) {
                let kind = raw.artifact_type.unwrap_or(config.media_type);
                let wanted = if configs == CONFIGS { "an image that can be run" } else { "a plugin" };
                return Err(format!("it is an artifact of type {kind:?}, not {wanted}"));
            }
            check_layers(&config, &layers, limits)?;
            Ok(Document::Manifest(Manifest { config, layers }))
        }
        (_, Some(_), Some(_)) | (Some(_), _, Some(_)) => Err("it is a manifest and an index at once".into()),
        _ => Err(format!("neither the manifest of an image nor an index (its type: {:?})", kind.unwrap_or("none"))),
    }
}

fn check_layers(config: &Descriptor, layers: &[Descriptor], limits: &Limits) -> Result<(), String> {
    if layers.len() > limits.layers {
        return Err(format!("it has {} layers, more than {}", layers.len(), limits.layers));
    }
    if layers.iter().any(|layer| layer.digest == config.digest) {
        return Err("its configuration is one of its layers".into());
    }
    if layers.iter().any(|layer| layer.size > i64::MAX as u64) {
        return Err("a layer's size is no size".into());
    }
    // Foreign layers, which other hosts serve, are refused with the rest.
    match layers.iter().find(|layer| !LAYERS.contains(&layer.media_type.as_str())) {
        Some(unknown) => Err(format!("a layer of type {:?} can't be unpacked", unknown.media_type)),
        None => Ok(()),
    }
}

/// The manifest's own text, for an image that came without one.
pub fn write_manifest(config: &Descriptor, layers: &[Descriptor]) -> Vec<u8> {
    let manifest =
        serde_json::json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
    manifest.to_string().into_bytes()
}

/// The media type of a manifest or index with this text, for a descriptor.
pub fn media_type(text: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let kind = serde_json::from_slice::<Kind>(text).ok();
    let index = kind.as_ref().is_some_and(|kind| kind.manifests.is_some());
    kind.and_then(|kind| kind.media_type).unwrap_or_else(|| if index { OCI_INDEX } else { OCI_MANIFEST }.into())
}

impl Platform {
    /// Of this host.
    pub fn host() -> Self {
        let architecture = normal(std::env::consts::ARCH).to_owned();
        let variant = (architecture == "arm").then(|| "v7".to_owned());
        Self { os: "linux".into(), architecture, variant }
    }

    /// `linux/arm64`, `linux/arm/v7`, or the architecture alone.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [architecture] => ("linux", architecture, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
            _ => return None,
        };
        let complete = !os.is_empty() && !architecture.is_empty();
        complete.then(|| Self { os: os.into(), architecture: normal(architecture).into(), variant })
    }

    /// The variant that need not be written.
    fn variant(&self) -> Option<&str> {
        let implied =
            matches!((&*self.architecture, self.variant.as_deref()), ("arm64", Some("v8")) | ("amd64", Some("v1")));
        self.variant.as_deref().filter(|_| !implied)
    }

    pub fn suits(&self, other: &Self) -> bool {
        self.os == other.os && self.architecture == normal(&other.architecture) && self.variant() == other.variant()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

fn normal(architecture: &str) -> &str {
    match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "x86" | "i386" => "386",
        other => other,
    }
}

impl Index {
    /// The first that suits, as the specification says. One without a platform counts only where it is alone.
    pub fn choose(&self, wanted: &Platform, image: &ImageReference) -> Result<&Descriptor, RegistryError> {
        let known: Vec<&Descriptor> = { self.0.iter() }
            .filter(|one| INDEXES.contains(&one.media_type.as_str()) || MANIFESTS.contains(&one.media_type.as_str()))
            .collect();
        let suits = |one: &&&Descriptor| one.platform.as_ref().is_some_and(|platform| wanted.suits(platform));
        match (known.as_slice(), known.iter().find(suits)) {
            (_, Some(found)) => return Ok(found),
            ([only], None) if only.platform.is_none() => return Ok(only),
            _ => {}
        }
        let platforms =
            self.0.iter().filter_map(|one| one.platform.as_ref()).filter(|platform| platform.os != "unknown");
        let clean = |platform: &Platform| platform.to_string().chars().filter(|c| !c.is_control()).collect::<String>();
        let available = platforms.map(clean).take(30).collect::<Vec<_>>().join(", ");
        Err(RegistryError::Platform { image: image.to_string(), wanted: wanted.to_string(), available })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blob(kind: &str, digit: char) -> serde_json::Value {
        serde_json::json!({"mediaType": kind, "digest": format!("sha256:{}", digit.to_string().repeat(64)), "size": 3})
    }

    #[test]
    fn a_document_is_one_thing() {
        let (config, layer) = (blob(OCI_CONFIG, 'a'), blob(LAYERS[1], 'b'));
        let good = serde_json::json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        assert!(matches!(parse(good.to_string().as_bytes(), &Limits::default()), Ok(Document::Manifest(_))));
        let change = |key: &str, value: serde_json::Value| {
            let mut document = good.clone();
            document[key] = value;
            document.to_string()
        };
        for (bad, expected) in [
            (change("manifests", serde_json::json!([])), "at once"),
            (change("schemaVersion", 1.into()), "schema version 1"),
            (change("mediaType", INDEXES[0].into()), "neither"),
            (
                change(
                    "layers",
                    serde_json::json!([blob("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", 'c')]),
                ),
                "can't be unpacked",
            ),
            (change("layers", serde_json::json!(vec![layer.clone(); 501])), "more than 500"),
            (change("config", serde_json::json!({"mediaType": "x", "digest": "md5:1", "size": 1})), "md5:1"),
            (
                change(
                    "config",
                    serde_json::json!({"mediaType": "x", "digest": format!("sha256:{}", "d".repeat(64)), "size": -1}),
                ),
                "-1",
            ),
            (format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000)), "deeper than 64"),
            ("{\"schemaVersion\":2,\"schemaVersion\":2}".into(), "twice"),
            (
                change(
                    "layers",
                    serde_json::json!([{"mediaType": LAYERS[1], "digest": good["config"]["digest"], "size": 1}]),
                ),
                "one of its layers",
            ),
            (change("artifactType", "application/x".into()), "artifact"),
            (change("config", blob("application/vnd.cncf.helm.config.v1+json", 'a')), "artifact"),
            (
                change("config", serde_json::json!({"mediaType": OCI_CONFIG, "digest": "sha256:ab", "size": 1})),
                "sha256:ab",
            ),
            (
                change(
                    "config",
                    serde_json::json!({"mediaType": OCI_CONFIG, "digest": format!("sha512:{}", "a".repeat(64)), "size": 1}),
                ),
                "sha512",
            ),
            ("{\"schemaVersion\":1,\"fsLayers\":[]}".into(), "schema version 1"),
            ("\"x\"".into(), "expected struct"),
        ] {
            let error = parse(bad.as_bytes(), &Limits::default()).unwrap_err();
            assert!(error.contains(expected), "{error} / {expected}");
        }
    }

    #[test]
    fn the_platform_chooses() {
        let entry = |platform: &str, digit: char| {
            let platform = Platform::parse(platform).unwrap();
            let digest = Digest::parse(&format!("sha256:{}", digit.to_string().repeat(64))).unwrap();
            Descriptor { platform: Some(platform), ..Descriptor::new(MANIFESTS[0], digest, 1) }
        };
        let index = Index(vec![
            entry("windows/amd64", '0'),
            entry("linux/amd64", '1'),
            entry("linux/arm64/v8", '2'),
            entry("linux/arm/v6", '3'),
            entry("linux/arm/v7", '4'),
        ]);
        let image = ImageReference::parse("x").unwrap();
        for (wanted, expected) in
            [("linux/amd64", "1"), ("x86_64", "1"), ("linux/arm64", "2"), ("aarch64", "2"), ("linux/arm/v7", "4")]
        {
            let found = index.choose(&Platform::parse(wanted).unwrap(), &image).unwrap();
            assert_eq!(&found.digest.hex()[..1], expected, "{wanted}");
        }
        let error = index.choose(&Platform::parse("linux/s390x").unwrap(), &image).unwrap_err().to_string();
        assert!(error.contains("linux/arm/v7") && error.contains("linux/s390x"), "{error}");
    }

    proptest! {
        /// A good document with some bytes of another kind is read or refused, and never taken for two things.
        #[test]
        fn any_document_is_read_or_refused(noise in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..4),
                                           tail in proptest::collection::vec(any::<u8>(), 0..40)) {
            let layers = serde_json::json!([blob(LAYERS[1], 'b')]);
            let good = serde_json::json!({"schemaVersion": 2, "config": blob(OCI_CONFIG, 'a'), "layers": layers});
            let mut text = good.to_string().into_bytes();
            for (at, byte) in noise {
                let length = text.len();
                text[at % length] = byte;
            }
            text.extend(tail);
            if let Ok(Document::Manifest(manifest)) = parse(&text, &Limits::default()) {
                prop_assert_eq!(manifest.layers.len(), 1);
            }
            drop(parse(&text[..text.len() / 2], &Limits::default()));
        }

        /// The same for an index; what is chosen of it is for the platform that was asked for, or alone and for any.
        #[test]
        fn any_index_is_read_or_refused(platforms in proptest::collection::vec("(linux|windows|\\PC{0,6})/(amd64|arm64|\\PC{0,6})", 0..4),
                                        noise in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..3)) {
            let entry = |platform: &String| {
                let (os, architecture) = platform.split_once('/').unwrap();
                let mut entry = blob(OCI_MANIFEST, 'c');
                entry["platform"] = serde_json::json!({"os": os, "architecture": architecture});
                entry
            };
            let manifests: Vec<_> = platforms.iter().map(entry).collect();
            let mut text = serde_json::json!({"schemaVersion": 2, "manifests": manifests}).to_string().into_bytes();
            for (at, byte) in noise {
                let length = text.len();
                text[at % length] = byte;
            }
            let wanted = Platform::parse("linux/amd64").unwrap();
            let Ok(Document::Index(index)) = parse(&text, &Limits::default()) else { return Ok(()) };
            match index.choose(&wanted, &ImageReference::parse("x").unwrap()) {
                Ok(found) => prop_assert!(found.platform.as_ref().is_none_or(|platform| wanted.suits(platform))),
                Err(error) => prop_assert!(!error.to_string().replace('\n', "").contains(char::is_control)),
            }
        }
    }
}
