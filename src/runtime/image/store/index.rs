//! `index.json` of the store: an OCI image index (image specification, "Image Layout"), one descriptor for each name of
//! an image, and one for an image that lost its last name. What is ours stands in annotations:
//!
//! - `org.opencontainers.image.ref.name`: the name in full, as `docker.io/library/nginx:1.27`;
//! - `stack.digest`: what the registry's tag stood for, an index where there was one;
//! - `stack.place`: `HOST/REPOSITORY` it was fetched from;
//! - `stack.declared`: what an image that was made here was asked to be, as JSON;
//! - `stack.created`: when it came here, in milliseconds since 1970.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::runtime::image::document::{Descriptor, OCI_INDEX};
use crate::runtime::image::{Digest, Error, ImageReference};
use crate::runtime::state;

const NAME: &str = "org.opencontainers.image.ref.name";
const DIGEST: &str = "stack.digest";
const PLACE: &str = "stack.place";
const DECLARED: &str = "stack.declared";
const CREATED: &str = "stack.created";

/// One image, under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// In full; `None` for one that lost its name to another.
    pub name: Option<String>,
    pub manifest: Descriptor,
    pub digest: Digest,
    pub place: Option<String>,
    pub created_ms: u64,
    pub declared: Value,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    pub records: Vec<Record>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

impl Index {
    pub fn read(path: &Path) -> Result<Self, Error> {
        let file: Option<File> = state::read_json(path)?;
        let records = file.map(|file| file.manifests).unwrap_or_default().into_iter().map(Record::from);
        Ok(Self { records: records.collect() })
    }

    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let manifests = self.records.iter().cloned().map(Descriptor::from).collect();
        let file = File { schema_version: 2, media_type: OCI_INDEX.to_owned(), manifests };
        Ok(state::write_json(path, &file)?)
    }

    /// Gives the name to this image. Whoever had it keeps its content, without a name where that was its last one.
    pub fn insert(&mut self, record: Record) {
        self.take_name(record.name.as_deref());
        self.records.retain(|one| one.name.is_some() || one.manifest.digest != record.manifest.digest);
        self.records.push(record);
        self.records.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.created_ms.cmp(&b.created_ms)));
    }

    fn take_name(&mut self, name: Option<&str>) {
        let Some(at) = name.and_then(|name| self.records.iter().position(|one| one.name.as_deref() == Some(name)))
        else {
            return;
        };
        let mut loser = self.records.remove(at);
        loser.name = None;
        if !self.records.iter().any(|one| one.manifest.digest == loser.manifest.digest) {
            self.records.push(loser);
        }
    }

    /// By name, in any of its spellings; that of a built-in image as it is.
    pub fn by_name(&self, name: &str) -> Option<&Record> {
        let name = full_name(name);
        self.records.iter().find(|one| one.name.as_deref() == Some(name.as_str()))
    }
}

/// The name in full, as the store keeps it. What is no reference, such as `builtin:whoami`, is kept as it is.
pub fn full_name(name: &str) -> String {
    if name.starts_with("builtin:") {
        return name.to_owned();
    }
    ImageReference::parse(name).map_or_else(|_| name.to_owned(), |reference| reference.to_string())
}

/// All ways in which people write this name.
pub fn spellings(name: &str) -> Vec<String> {
    let reference = ImageReference::parse(name).ok().filter(|_| !name.starts_with("builtin:"));
    let Some(reference) = reference else { return vec![name.to_owned()] };
    let digest = reference.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
    let tags = match reference.tag.as_deref() {
        Some("latest") if digest.is_empty() => vec![String::new(), ":latest".to_owned()],
        Some(tag) => vec![format!(":{tag}")],
        None => vec![String::new()],
    };
    let mut places = vec![format!("{}/{}", reference.registry, reference.repository)];
    if reference.registry == "docker.io" {
        places.push(reference.repository.clone());
        if let Some(short) = reference.repository.strip_prefix("library/") {
            places.extend([short.to_owned(), format!("docker.io/{short}")]);
        }
    }
    places
        .iter()
        .flat_map(|place| tags.iter().map(move |tag| format!("{place}{tag}")))
        .map(|name| name + &digest)
        .collect()
}

impl From<Record> for Descriptor {
    fn from(record: Record) -> Self {
        let mut annotations = BTreeMap::from([
            (DIGEST.to_owned(), record.digest.to_string()),
            (CREATED.to_owned(), record.created_ms.to_string()),
        ]);
        annotations.extend(record.name.map(|name| (NAME.to_owned(), name)));
        annotations.extend((!record.declared.is_null()).then(|| (DECLARED.to_owned(), record.declared.to_string())));
        annotations.extend(record.place.map(|place| (PLACE.to_owned(), place)));
        Self { annotations, ..record.manifest }
    }
}

impl From<Descriptor> for Record {
    fn from(mut descriptor: Descriptor) -> Self {
        let mut annotations = std::mem::take(&mut descriptor.annotations);
        let digest = annotations.remove(DIGEST).and_then(|text| Digest::parse(&text).ok());
        Self {
            name: annotations.remove(NAME),
            digest: digest.unwrap_or_else(|| descriptor.digest.clone()),
            place: annotations.remove(PLACE),
            declared: annotations
                .remove(DECLARED)
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default(),
            created_ms: annotations.remove(CREATED).and_then(|text| text.parse().ok()).unwrap_or(0),
            manifest: descriptor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: Option<&str>, digit: char, created_ms: u64) -> Record {
        let digest = Digest::parse(&format!("sha256:{}", digit.to_string().repeat(64))).unwrap();
        let manifest = Descriptor::new("application/vnd.oci.image.manifest.v1+json", digest.clone(), 7);
        Record { name: name.map(full_name), manifest, digest, place: None, created_ms, declared: Value::Null }
    }

    #[test]
    fn a_name_moves_and_its_old_image_stays() {
        let mut index = Index::default();
        index.insert(record(Some("a"), '1', 1));
        index.insert(record(Some("b"), '1', 1));
        index.insert(record(Some("a"), '2', 2));
        let names = |index: &Index| -> Vec<(Option<String>, char)> {
            let digit = |one: &Record| one.manifest.digest.hex().chars().next().unwrap();
            index.records.iter().map(|one| (one.name.clone(), digit(one))).collect()
        };
        let full = |name: &str| Some(format!("docker.io/library/{name}:latest"));
        assert_eq!(names(&index), [(full("a"), '2'), (full("b"), '1')], "it has another name");
        index.insert(record(Some("b"), '2', 3));
        assert_eq!(names(&index), [(None, '1'), (full("a"), '2'), (full("b"), '2')]);
        index.insert(record(Some("c"), '1', 4));
        assert_eq!(names(&index), [(full("a"), '2'), (full("b"), '2'), (full("c"), '1')], "it has a name again");
        assert_eq!(index.by_name("docker.io/a"), index.by_name("library/a:latest"));
    }

    #[test]
    fn the_file_is_an_image_index() {
        let path = std::env::temp_dir().join(format!("stack-index-{}.json", std::process::id()));
        let place = Some("r.example/a".to_owned());
        let index = Index { records: vec![Record { place, ..record(Some("r.example/a:1"), '3', 5) }] };
        index.write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let hex = "3".repeat(64);
        let golden = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[{{\"mediaType\":\
             \"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"sha256:{hex}\",\"size\":7,\"annotations\":{{\
             \"org.opencontainers.image.ref.name\":\"r.example/a:1\",\"stack.created\":\"5\",\"stack.digest\":\
             \"sha256:{hex}\",\"stack.place\":\"r.example/a\"}}}}]}}\n"
        );
        assert_eq!(text, golden);
        assert_eq!(Index::read(&path).unwrap(), index);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_name_is_found_however_it_is_written() {
        for name in ["nginx", "nginx:latest", "docker.io/nginx", "docker.io/library/nginx:latest", "library/nginx"] {
            assert!(spellings("nginx").contains(&name.to_owned()), "{name}");
        }
        assert_eq!(spellings("r.example/a:1"), ["r.example/a:1"]);
        assert_eq!(spellings("builtin:whoami"), ["builtin:whoami"]);
        let pinned = format!("nginx:1@sha256:{}", "0".repeat(64));
        assert!(spellings(&pinned).contains(&pinned));
    }
}
