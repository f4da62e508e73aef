//! Names of images and of content: text is parsed once, at the edge.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The SHA-256 of some content, `sha256:` and 64 hexadecimal characters (OCI image specification, "Digests").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// Text that is not a name or digest.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    #[error("{0:?} is not a digest: expected sha256: and 64 hexadecimal characters")]
    Digest(String),
    #[error("{text:?} is not an image reference: {reason}")]
    Reference { text: String, reason: &'static str },
}

impl Digest {
    /// # Errors
    /// For another algorithm or form.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64);
        let valid = hex.is_some_and(|hex| hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        if valid { Ok(Self(text.to_owned())) } else { Err(ReferenceError::Digest(text.to_owned())) }
    }

    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::finish(Sha256::new_with_prefix(bytes))
    }

    /// The digest of what was hashed.
    pub fn finish(hasher: Sha256) -> Self {
        let hex: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("sha256:{hex}"))
    }

    /// The 64 characters, for a file's name.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = ReferenceError;
    fn try_from(text: String) -> Result<Self, ReferenceError> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

/// Where an image is: `[registry/]repository[:tag][@digest]`, with docker's defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageReference {
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl ImageReference {
    /// # Errors
    /// Where the text is not of that form; the reason says what is wrong.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let wrong = |reason| ReferenceError::Reference { text: text.to_owned(), reason };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            // A colon before a slash belongs to the registry's port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let (registry, repository) = match name.split_once('/') {
            Some(("docker.io" | "index.docker.io", rest)) if rest.contains('/') => {
                ("docker.io".to_owned(), rest.to_owned())
            }
            Some(("docker.io" | "index.docker.io", rest)) => ("docker.io".to_owned(), format!("library/{rest}")),
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first.to_owned(), rest.to_owned())
            }
            Some(_) => ("docker.io".to_owned(), name.to_owned()),
            None => ("docker.io".to_owned(), format!("library/{name}")),
        };
        if name.chars().any(|c| c.is_ascii_uppercase()) && registry == "docker.io" {
            return Err(wrong("the repository must be lower-case"));
        }
        if !repository.split('/').all(is_component) || repository.len() > 255 {
            return Err(wrong("a repository is words of a-z, 0-9, `.`, `_` and `-`, with `/` between"));
        }
        if !registry.split([':', '.']).all(is_host_part) {
            return Err(wrong("a registry is a host name, with `:PORT` where it needs one"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("a tag is at most 128 letters, digits, `_`, `.` and `-`, first no `.` or `-`"));
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self { registry, repository, tag, digest })
    }

    /// As people write it: without what docker would fill in.
    pub fn familiar(&self) -> String {
        let name = match (self.registry.as_str(), self.repository.strip_prefix("library/")) {
            ("docker.io", Some(short)) => short.to_owned(),
            ("docker.io", None) => self.repository.clone(),
            (registry, _) => format!("{registry}/{}", self.repository),
        };
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("{name}{tag}{digest}")
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

fn is_component(word: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let all = word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c));
    all && edge(word.chars().next()) && edge(word.chars().last())
}

fn is_host_part(part: &str) -> bool {
    !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

fn is_tag(tag: &str) -> bool {
    let first = tag.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    first && tag.len() <= 128 && tag.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_are_completed_as_docker_does() {
        for (text, full, familiar) in [
            ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27"),
            ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("index.docker.io/me/app", "docker.io/me/app:latest", "me/app:latest"),
            ("me/app", "docker.io/me/app:latest", "me/app:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("r.example/x", "r.example/x:latest", "r.example/x:latest"),
        ] {
            let parsed = ImageReference::parse(text).unwrap();
            assert_eq!((parsed.to_string().as_str(), parsed.familiar().as_str()), (full, familiar));
        }
        let pinned = format!("nginx@sha256:{}", "0".repeat(64));
        assert_eq!(ImageReference::parse(&pinned).unwrap().tag, None);
        for text in ["", "Nginx", "a b", "a//b", "a:-x", "a@sha256:12", "../x", "a/../b"] {
            assert!(ImageReference::parse(text).is_err(), "{text}");
        }
    }

    /// What is accepted becomes a URL and a key: it has nothing in it that could mean more than a name.
    fn check_parsed(text: &str) -> Result<(), TestCaseError> {
        let Ok(parsed) = ImageReference::parse(text) else { return Ok(()) };
        let full = parsed.to_string();
        prop_assert!(full.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:@".contains(c)), "{full:?}");
        prop_assert!(parsed.repository.split('/').all(|part| !part.is_empty() && part != "." && part != ".."));
        prop_assert!(!parsed.registry.is_empty() && !parsed.registry.contains(['/', '@']));
        prop_assert_eq!(ImageReference::parse(&full), Ok(parsed.clone()));
        prop_assert_eq!(ImageReference::parse(&parsed.familiar()), Ok(parsed));
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_reference_is_one_name_or_refused(text in ".*", words in "[a-zA-Z0-9._:/@-]{0,40}") {
            check_parsed(&text)?;
            check_parsed(&words)?;
        }

        #[test]
        fn a_name_of_good_parts_is_one_name(host in "([a-z]{1,5}\\.[a-z]{2}|localhost|docker\\.io)?(:[0-9]{1,4})?",
                                            path in "[a-z0-9]{1,4}(/[a-z0-9.]{1,4}){0,3}", tag in "(:[a-zA-Z0-9_.-]{1,6})?",
                                            digest in "(@sha256:[0-9a-f]{64})?") {
            let slash = if host.is_empty() { "" } else { "/" };
            check_parsed(&format!("{host}{slash}{path}{tag}{digest}"))?;
        }

        #[test]
        fn any_digest_is_one_or_refused(text in ".*", hex in "(sha256|sha512|md5):[0-9a-fA-F]{60,66}") {
            for text in [text, hex] {
                if let Ok(digest) = Digest::parse(&text) {
                    prop_assert_eq!(digest.hex().len(), 64);
                    prop_assert!(digest.hex().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
                }
            }
        }
    }
}
