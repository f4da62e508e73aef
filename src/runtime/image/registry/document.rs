//! Manifests and indexes (OCI image specification; docker's schema 2), as a stranger sends them.

use std::fmt;

use serde::Deserialize;

use super::super::{Digest, ImageReference};
use super::RegistryError;

/// The largest manifest or configuration that is read, in bytes; registries have the same bound.
pub const LARGEST_DOCUMENT: u64 = 4 << 20;
const MOST_LAYERS: usize = 500;
const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const LAYERS: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// What a manifest points to (specification, "Content Descriptors").
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blob {
    pub media_type: String,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    platform: Option<Platform>,
}

/// For which machines an image is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Manifest {
    pub config: Blob,
    pub layers: Vec<Blob>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Index(Vec<Blob>);

#[derive(Debug, PartialEq, Eq)]
pub enum Document {
    Manifest(Manifest),
    Index(Index),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Blob>,
    layers: Option<Vec<Blob>>,
    manifests: Option<Vec<Blob>>,
}

/// # Errors
/// Says what is wrong, where the text is not exactly one manifest or one index of a kind that is understood.
pub fn parse(text: &[u8]) -> Result<Document, String> {
    let raw: Raw = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if raw.schema_version != 2 {
        return Err(format!(
            "its schema version is {}, only 2 is understood; push the image again",
            raw.schema_version
        ));
    }
    let kind = raw.media_type.as_deref();
    match (raw.config, raw.layers, raw.manifests) {
        (None, None, Some(all)) if kind.is_none_or(|kind| INDEXES.contains(&kind)) => Ok(Document::Index(Index(all))),
        (Some(config), Some(layers), None) if kind.is_none_or(|kind| MANIFESTS.contains(&kind)) => {
            check_layers(&layers)?;
            Ok(Document::Manifest(Manifest { config, layers }))
        }
        (_, Some(_), Some(_)) => Err("it is a manifest and an index at once".into()),
        _ => Err(format!("neither the manifest of an image nor an index (its type: {:?})", kind.unwrap_or("none"))),
    }
}

fn check_layers(layers: &[Blob]) -> Result<(), String> {
    if layers.len() > MOST_LAYERS {
        return Err(format!("it has {} layers, more than {MOST_LAYERS}", layers.len()));
    }
    // Foreign layers, which other hosts serve, are refused with the rest.
    match layers.iter().find(|layer| !LAYERS.contains(&layer.media_type.as_str())) {
        Some(unknown) => Err(format!("a layer of type {:?} can't be unpacked", unknown.media_type)),
        None => Ok(()),
    }
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

    fn suits(&self, other: &Self) -> bool {
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
    /// The first that suits, as the specification says.
    pub fn choose(&self, wanted: &Platform, image: &ImageReference) -> Result<Digest, RegistryError> {
        let suits = |blob: &&Blob| blob.platform.as_ref().is_none_or(|platform| wanted.suits(platform));
        let known = self.0.iter().filter(|blob| {
            INDEXES.contains(&blob.media_type.as_str()) || MANIFESTS.contains(&blob.media_type.as_str())
        });
        if let Some(found) = { known }.find(suits) {
            return Ok(found.digest.clone());
        }
        let platforms =
            self.0.iter().filter_map(|blob| blob.platform.as_ref()).filter(|platform| platform.os != "unknown");
        let clean = |platform: &Platform| platform.to_string().chars().filter(|c| !c.is_control()).collect::<String>();
        let available = platforms.map(clean).take(30).collect::<Vec<_>>().join(", ");
        Err(RegistryError::Platform { image: image.to_string(), wanted: wanted.to_string(), available })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(kind: &str, digit: char) -> serde_json::Value {
        serde_json::json!({"mediaType": kind, "digest": format!("sha256:{}", digit.to_string().repeat(64)), "size": 3})
    }

    #[test]
    fn a_document_is_one_thing() {
        let (config, layer) = (blob("application/vnd.oci.image.config.v1+json", 'a'), blob(LAYERS[1], 'b'));
        let good = serde_json::json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        assert!(matches!(parse(good.to_string().as_bytes()), Ok(Document::Manifest(_))));
        let change = |key: &str, value: serde_json::Value| {
            let mut document = good.clone();
            document[key] = value;
            document.to_string()
        };
        for (bad, expected) in [
            (change("manifests", serde_json::json!([])), "at once"),
            (change("schemaVersion", 1.into()), "schema version is 1"),
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
                    serde_json::json!({"mediaType": "x", "digest": format!("sha256:{}", "a".repeat(64)), "size": -1}),
                ),
                "-1",
            ),
            (format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000)), "missing field"),
            ("{\"schemaVersion\":2,\"schemaVersion\":2}".into(), "duplicate"),
            ("\"x\"".into(), "expected struct"),
        ] {
            let error = parse(bad.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{error} / {expected}");
        }
    }

    #[test]
    fn the_platform_chooses() {
        let entry = |platform: &str, digit: char| {
            let platform = Platform::parse(platform).unwrap();
            let digest = Digest::parse(&format!("sha256:{}", digit.to_string().repeat(64))).unwrap();
            Blob { media_type: MANIFESTS[0].into(), digest, size: 1, platform: Some(platform) }
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
            assert_eq!(&found.hex()[..1], expected, "{wanted}");
        }
        let error = index.choose(&Platform::parse("linux/s390x").unwrap(), &image).unwrap_err().to_string();
        assert!(error.contains("linux/arm/v7") && error.contains("linux/s390x"), "{error}");
    }
}
