//! What is written to a registry (OCI distribution specification, "Push", "Content Management", "Content Discovery").

use serde::Deserialize;
use ureq::http::{Method, Uri};

use super::transport::{Payload, resolve};
use super::{Ask, Client, Path, RegistryError};
use crate::runtime::image::Digest;
use crate::runtime::image::document::{self, Descriptor};

/// How much of a blob goes in one request.
const CHUNK: u64 = 16 << 20;
/// How many pages of a list are read; a registry that has more repeats itself.
const MOST_PAGES: usize = 1000;

/// A blob that is to be in the repository.
pub struct Upload<'a> {
    /// Opened anew for each piece, so that several are sent at once.
    pub file: &'a std::path::Path,
    pub digest: &'a Digest,
    pub size: u64,
    /// Another repository of the registry that has it, as far as we know.
    pub mount_from: Option<&'a str>,
    /// Told how much has been sent.
    pub sent: &'a dyn Fn(u64),
}

/// How a blob came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uploaded {
    WasThere,
    Mounted,
    Sent,
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Referrers {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

impl Client<'_> {
    /// Whether the repository has this blob.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let path = format!("blobs/{digest}");
        self.exists(&path)
    }

    /// Whether the repository has this manifest.
    pub fn has_manifest(&self, digest: &Digest) -> Result<bool, RegistryError> {
        self.exists(&format!("manifests/{digest}"))
    }

    fn exists(&self, path: &str) -> Result<bool, RegistryError> {
        let headers = vec![("accept", format!("{}, */*", document::ACCEPT))];
        let ask = Ask { method: Method::HEAD, path: Path::Below(path), headers, payload: &Payload::None };
        match self.ask(&ask) {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. } | RegistryError::Unsupported { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts the blob there unless it is: mounted from another repository where that works, else sent in pieces.
    pub fn upload(&self, upload: &Upload<'_>) -> Result<Uploaded, RegistryError> {
        if self.has_blob(upload.digest)? {
            return Ok(Uploaded::WasThere);
        }
        let start = match upload.mount_from.filter(|from| *from != self.repository) {
            Some(from) => format!("blobs/uploads/?mount={}&from={from}", upload.digest),
            None => "blobs/uploads/".to_owned(),
        };
        let response = match self.write(Method::POST, &Path::Below(&start), vec![], &Payload::None) {
            // Who may write here need not be allowed to read there.
            Err(RegistryError::Denied { .. }) if start.contains("?mount=") => {
                self.write(Method::POST, &Path::Below("blobs/uploads/"), vec![], &Payload::None)?
            }
            other => other?,
        };
        if response.status().as_u16() == 201 {
            return Ok(Uploaded::Mounted);
        }
        let mut place = self.location(&response)?;
        let mut sent = 0;
        while upload.size - sent > CHUNK {
            let payload = Payload::Piece { file: upload.file, from: sent, length: CHUNK };
            let headers = vec![
                ("content-type", "application/octet-stream".to_owned()),
                ("content-range", format!("{sent}-{}", sent + CHUNK - 1)),
            ];
            place = self.location(&self.write(Method::PATCH, &Path::Whole(&place), headers, &payload)?)?;
            sent += CHUNK;
            (upload.sent)(sent);
        }
        let joint = if place.query().is_some() { '&' } else { '?' };
        let last = format!("{place}{joint}digest={}", upload.digest);
        let last: Uri = last.parse().map_err(|_| self.wrong("upload", format!("{last} is not a URL")))?;
        let payload = Payload::Piece { file: upload.file, from: sent, length: upload.size - sent };
        let mut headers = vec![("content-type", "application/octet-stream".to_owned())];
        if sent > 0 {
            headers.push(("content-range", format!("{sent}-{}", upload.size.saturating_sub(1))));
        }
        self.write(Method::PUT, &Path::Whole(&last), headers, &payload)?;
        (upload.sent)(upload.size);
        Ok(Uploaded::Sent)
    }

    /// Puts a manifest or index there, under a tag or under its own digest.
    pub fn put_manifest(&self, target: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        let path = format!("manifests/{target}");
        let headers = vec![("content-type", document::media_type(bytes))];
        self.write(Method::PUT, &Path::Below(&path), headers, &Payload::Bytes(bytes)).map(drop)
    }

    /// Removes a manifest; the registry's owner collects its blobs. Most registries have to be allowed to.
    pub fn delete_manifest(&self, digest: &Digest) -> Result<(), RegistryError> {
        let path = format!("manifests/{digest}");
        self.write(Method::DELETE, &Path::Below(&path), vec![], &Payload::None).map(drop)
    }

    /// The digest that a tag stands for now.
    pub fn digest_of(&self, tag: &str) -> Result<Digest, RegistryError> {
        Ok(self.document(None, Some(tag))?.0)
    }

    /// All tags of the repository, page by page.
    pub fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let mut all = Vec::new();
        let mut next = self.uri(&Path::Below("tags/list"))?;
        for _ in 0..MOST_PAGES {
            let headers = vec![("accept", "application/json".to_owned())];
            let ask = Ask { method: Method::GET, path: Path::Whole(&next), headers, payload: &Payload::None };
            let mut response = self.ask(&ask)?;
            let bytes = self.read_all("list of tags", 16 << 20, &mut response)?;
            let page: Tags =
                serde_json::from_slice(&bytes).map_err(|error| self.wrong("list of tags", error.to_string()))?;
            all.extend(page.tags.unwrap_or_default());
            let link = response.headers().get("link").and_then(|value| value.to_str().ok());
            let Some(following) = link.and_then(|link| next_page(&next, link)) else { break };
            next = following;
        }
        // As the specification has it, and some registries don't.
        all.sort();
        Ok(all)
    }

    /// What refers to this manifest: signatures, attestations. None where the registry can't tell.
    pub fn referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>, RegistryError> {
        let found = self.get(&format!("referrers/{digest}"), document::OCI_INDEX, 0);
        let mut response = match found {
            Err(RegistryError::Status { status: 404, .. }) => return self.tagged_referrers(digest),
            other => other?,
        };
        self.read_referrers(&mut response)
    }

    /// The older way: an index under a tag made of the digest (specification, "Referrers Tag Schema").
    fn tagged_referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>, RegistryError> {
        match self.get(&format!("manifests/sha256-{}", digest.hex()), document::OCI_INDEX, 0) {
            Err(RegistryError::NotFound { .. }) => Ok(Vec::new()),
            other => self.read_referrers(&mut other?),
        }
    }

    fn read_referrers(
        &self,
        response: &mut ureq::http::Response<ureq::Body>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let bytes = self.read_all("referrers", self.access.settings.limits.manifest_bytes, response)?;
        let found: Referrers =
            serde_json::from_slice(&bytes).map_err(|error| self.wrong("referrers", error.to_string()))?;
        Ok(found.manifests)
    }

    fn write(
        &self,
        method: Method,
        path: &Path<'_>,
        headers: Vec<(&'static str, String)>,
        payload: &Payload<'_>,
    ) -> Result<ureq::http::Response<ureq::Body>, RegistryError> {
        let path = match path {
            Path::Below(path) => Path::Below(path),
            Path::Whole(uri) => Path::Whole(uri),
        };
        self.ask(&Ask { method, path, headers, payload })
    }

    /// Where the next piece goes; the registry may name another host, which is not told who we are.
    fn location(&self, response: &ureq::http::Response<ureq::Body>) -> Result<Uri, RegistryError> {
        let text = response.headers().get("location").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let base = self.uri(&Path::Below(""))?;
        let found = resolve(&base, text).ok_or_else(|| self.wrong("upload", format!("{text:?} is not a URL")))?;
        if super::Origin::of(&found).is_safe(self.access.settings) {
            return Ok(found);
        }
        Err(self.wrong("upload", "it is sent to a place without TLS".into()))
    }
}

/// `</v2/x/tags/list?last=a>; rel="next"`, on the same host.
fn next_page(base: &Uri, link: &str) -> Option<Uri> {
    let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    let next = resolve(base, target)?;
    (rest.contains("next") && super::Origin::of(&next) == super::Origin::of(base)).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_on_the_same_host() {
        let base: Uri = "https://r.example/v2/x/tags/list".parse().unwrap();
        let next = |link: &str| next_page(&base, link).map(|uri| uri.to_string());
        assert_eq!(next("</v2/x/tags/list?last=b>; rel=\"next\"").unwrap(), "https://r.example/v2/x/tags/list?last=b");
        for none in ["", "<x", "<https://evil.example/v2/>; rel=\"next\"", "</v2/x>; rel=\"prev\""] {
            assert_eq!(next(none), None, "{none}");
        }
    }
}
