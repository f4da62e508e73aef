//! Which images of registries may be used on this host: where they come from, whether they are named by digest, and who
//! signed them. What can't be found out is refused.
//!
//! What was verified is what is used: a tag is looked up once, the digest is what is asked for from then on, and a
//! container is made only of an image whose signature is kept beside it. Images that were made here (built, loaded,
//! imported, committed) are this host's own, and no matter of a policy.

mod fetch;
mod key;
mod proof;

use std::path::{Path, PathBuf};

use fetch::Found;
use key::Key;
pub(super) use proof::Proof;
use serde::Deserialize;

use super::registry::{Access, Client};
use super::{Digest, Error, Image, ImageReference, Store};

/// How many reasons why signatures do not count are told.
const MOST_REASONS: usize = 3;

/// All rules together: each of them has to be kept.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    all: Vec<Rules>,
}

/// What one file says.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The file, for people.
    pub origin: String,
    /// Only these; `None`: all.
    pub registries: Option<Vec<Pattern>>,
    pub needs_digest: bool,
    pub signatures: Vec<Signer>,
}

/// Whose signature images must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    pub images: Pattern,
    /// Files of public keys; the signature by one of them is enough.
    pub keys: Vec<PathBuf>,
}

/// `registry.lan:5000/team/app`, everything below a name as `registry.lan:5000/team/*`, or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

/// `[policy]` of `images.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Text {
    registries: Option<Vec<String>>,
    digest: Option<DigestWord>,
    #[serde(default)]
    signatures: Vec<SignerText>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum DigestWord {
    Required,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignerText {
    images: String,
    key: Keys,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Keys {
    One(PathBuf),
    Some(Vec<PathBuf>),
}

impl Pattern {
    /// # Errors
    /// For text that would match something else than it says.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix("/*").unwrap_or(text);
        let host = name.split('/').next().unwrap_or_default();
        let is_host = host.contains(['.', ':']) || host == "localhost";
        let clean = name.split('/').all(|part| !part.is_empty()) && !name.contains(['*', '@', ' ']);
        let tagged = name.split_once('/').is_some_and(|(_, path)| path.contains(':'));
        if text == "*" || (clean && is_host && !tagged && (name.contains('/') || text.ends_with("/*"))) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "{text:?} is no name of images such as docker.io/library/nginx, registry.lan:5000/team/* or *, without a tag"
        ))
    }

    fn matches(&self, place: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(begin) => place.starts_with(begin),
            None => place == self.0,
        }
    }
}

impl Rules {
    /// `directory` is what relative paths of keys are below.
    pub(super) fn of_text(text: Text, origin: &Path) -> Result<Self, String> {
        let directory = origin.parent().unwrap_or(Path::new("/"));
        let registries = text.registries.map(|all| all.iter().map(|one| Pattern::parse(one)).collect()).transpose()?;
        let signer = |one: SignerText| {
            let keys = match one.key {
                Keys::One(key) => vec![key],
                Keys::Some(keys) => keys,
            };
            let keys = keys.iter().map(|key| directory.join(key)).collect();
            Ok::<_, String>(Signer { images: Pattern::parse(&one.images)?, keys })
        };
        let signatures = text.signatures.into_iter().map(signer).collect::<Result<_, _>>()?;
        let needs_digest = matches!(text.digest, Some(DigestWord::Required));
        Ok(Self { origin: origin.display().to_string(), registries, needs_digest, signatures })
    }
}

/// `docker.io/library/nginx`.
fn name_of(place: &ImageReference) -> String {
    format!("{}/{}", place.registry, place.repository)
}

fn refused(image: &str, reason: String, help: String) -> Error {
    Error::Refused { image: image.to_owned(), reason, help }
}

impl Policy {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Both: nothing that was refused before is allowed now.
    pub fn and(mut self, rules: Rules) -> Self {
        self.all.push(rules);
        self
    }

    /// Whether images from there may be used at all, and by such a name.
    ///
    /// # Errors
    /// [`Error::Refused`] where not.
    pub fn admit(&self, place: &ImageReference, has_digest: bool) -> Result<(), Error> {
        let name = name_of(place);
        for rules in &self.all {
            let listed = |all: &Vec<Pattern>| all.iter().any(|pattern| pattern.matches(&name));
            if rules.registries.as_ref().is_some_and(|all| !listed(all)) {
                let reason = format!("`registries` of the policy in {} does not list {name}", rules.origin);
                return Err(refused(
                    &place.to_string(),
                    reason,
                    "use an image from there, or add it to the list".into(),
                ));
            }
            if rules.needs_digest && !has_digest {
                let reason = format!("the policy in {} wants a digest, and this is a tag", rules.origin);
                let help = "name it with @sha256:…; in a stack, `stack pull --update` pins all its tags".to_owned();
                return Err(refused(&place.to_string(), reason, help));
            }
        }
        Ok(())
    }

    /// Whether an image that is here may be used, by where it was fetched. Images that were made here may.
    ///
    /// # Errors
    /// [`Error::Refused`] where not.
    pub fn admit_here(&self, image: &Image) -> Result<(), Error> {
        place_of(image).map_or(Ok(()), |place| self.admit(&place?, true))
    }

    /// Whether somebody's signature is wanted.
    pub fn wants_signature(&self, place: &ImageReference) -> bool {
        self.signers(&name_of(place)).next().is_some()
    }

    fn signers(&self, name: &str) -> impl Iterator<Item = (&Rules, &Signer)> {
        let all = self.all.iter().flat_map(|rules| rules.signatures.iter().map(move |signer| (rules, signer)));
        all.filter(move |(_, signer)| signer.images.matches(name))
    }

    /// The signatures of the content with this digest that all signers' rules are kept by: those that are kept here, else
    /// those of the registry and its mirrors.
    ///
    /// # Errors
    /// [`Error::Refused`] where one is missing or can't be looked for.
    pub fn verify(
        &self,
        store: &Store,
        place: &ImageReference,
        digest: &Digest,
        access: Access<'_>,
    ) -> Result<Verified, Error> {
        let image = format!("{}@{digest}", ImageReference { digest: None, ..place.clone() });
        let wanted = self.keys(place, &image)?;
        let here = Found { proofs: store.signatures(digest)?, problems: Vec::new() };
        let mut outcome = judge(&wanted, &here, digest);
        let clients = if outcome.is_err() { Client::all(place, access) } else { Vec::new() };
        for client in clients {
            outcome = match fetch::fetch(&client, digest, &access.settings.limits) {
                Ok(found) => judge(&wanted, &found, digest),
                Err(error) => Err(format!("its signatures can't be looked for: {error}").replace("\n  help: ", "; ")),
            };
            if outcome.is_ok() {
                break;
            }
        }
        outcome.map_err(|reason| refused(&image, reason, "have it signed, or use an image that is".into()))
    }

    /// As [`Policy::verify`], of an image that is here, by what is kept of its signatures. Images that were made here
    /// pass.
    ///
    /// # Errors
    /// As [`Policy::verify`].
    pub fn check(&self, store: &Store, image: &Image) -> Result<(), Error> {
        let Some(place) = place_of(image).filter(|_| !self.is_empty()) else { return Ok(()) };
        let place = place?;
        self.admit(&place, true)?;
        let text = place.to_string();
        let wanted = self.keys(&place, &text)?;
        let here = Found { proofs: store.signatures(&image.digest)?, problems: Vec::new() };
        let help = "`stack pull` fetches the image with its signature".to_owned();
        judge(&wanted, &here, &image.digest).map(drop).map_err(|reason| refused(&text, reason, help))
    }

    fn keys(&self, place: &ImageReference, image: &str) -> Result<Vec<Wanted>, Error> {
        let read = |(rules, signer): (&Rules, &Signer)| {
            let keys = signer.keys.iter().map(|path| {
                let key = Key::read(path).map_err(|reason| {
                    let reason = format!("{}, a key of the policy in {}: {reason}", path.display(), rules.origin);
                    refused(image, reason, "put the signer's public key there".into())
                });
                key.map(|key| (path.display().to_string(), key))
            });
            Ok(Wanted { keys: keys.collect::<Result<_, _>>()? })
        };
        self.signers(&name_of(place)).map(read).collect()
    }
}

/// Where the image was fetched; `None` where it was made here.
fn place_of(image: &Image) -> Option<Result<ImageReference, Error>> {
    let place = image.place.as_ref()?;
    let parsed = ImageReference::parse(place);
    Some(parsed.map_err(Error::from).map(|place| ImageReference {
        tag: None,
        digest: Some(image.digest.clone()),
        ..place
    }))
}

/// What is known of an image whose signatures were looked at.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// The files of the keys, one a rule.
    pub keys: Vec<String>,
    /// To be kept beside the image.
    pub(super) proofs: Vec<Proof>,
}

/// One of these keys.
struct Wanted {
    keys: Vec<(String, Key)>,
}

/// Every rule is kept by some signature; or why not.
fn judge(wanted: &[Wanted], found: &Found, image: &Digest) -> Result<Verified, String> {
    let mut verified = Verified::default();
    for wanted in wanted {
        let mut reasons = found.problems.clone();
        let signed = found.proofs.iter().find_map(|proof| {
            let (key, _) = wanted.keys.iter().find(|(_, key)| match proof.check(image, key) {
                Ok(()) => true,
                Err(reason) => {
                    reasons.push(reason);
                    false
                }
            })?;
            Some((key.clone(), proof.clone()))
        });
        let Some((key, proof)) = signed else {
            let keys = wanted.keys.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>().join(" or ");
            reasons.dedup();
            let more = reasons.iter().take(MOST_REASONS).map(|reason| reason.replace("\n  help: ", "; "));
            let more = more.collect::<Vec<_>>().join("; ");
            let more = if more.is_empty() { "there is no signature".to_owned() } else { more };
            return Err(format!("it is not signed by {keys}: {more}"));
        };
        verified.keys.push(key);
        verified.proofs.push(proof);
    }
    Ok(verified)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_what_it_says() {
        let matches = |pattern: &str, place: &str| Pattern::parse(pattern).unwrap().matches(place);
        assert!(matches("*", "docker.io/library/nginx"));
        assert!(matches("docker.io/library/*", "docker.io/library/nginx"));
        assert!(matches("r.lan:5000/*", "r.lan:5000/a/b"));
        assert!(matches("localhost/*", "localhost/a"));
        assert!(matches("r.lan/app", "r.lan/app"));
        for (pattern, place) in [
            ("docker.io/library/*", "docker.io/libraryx/nginx"),
            ("r.lan/*", "r.lan.evil.example/a"),
            ("r.lan/*", "r.lan:5000/a"),
            ("r.lan/app", "r.lan/app2"),
            ("r.lan/app", "r.lan/app/b"),
        ] {
            assert!(!matches(pattern, place), "{pattern} {place}");
        }
        for wrong in
            ["", "nginx", "library/*", "r.lan", "r.lan/a*", "r.lan/*/b", "r.lan/a:1", "r.lan/a@x", "r.lan//*", "/*"]
        {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
