//! Signatures of images, kept beside them so that they can be checked anew, by the keys of the moment, without a network:
//! `signatures/HEX.json`, by the digest that was signed. What is in there is believed only as far as a key says so.

use serde::{Deserialize, Serialize};

use super::index::Index;
use super::lease::{entries, remove_all};
use super::{Digest, Error, Store};
use crate::runtime::image::policy::{Proof, Verified};
use crate::runtime::state;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    proofs: Vec<Proof>,
}

impl Store {
    fn signatures_path(&self, digest: &Digest) -> std::path::PathBuf {
        self.directory().join("signatures").join(format!("{}.json", digest.hex()))
    }

    /// What is kept of the signatures of this content. A file that can't be read holds none: they are fetched again.
    pub(in crate::runtime::image) fn signatures(&self, digest: &Digest) -> Result<Vec<Proof>, Error> {
        match state::read_json::<Kept>(&self.signatures_path(digest)) {
            Ok(kept) => Ok(kept.filter(|kept| kept.version == VERSION).map(|kept| kept.proofs).unwrap_or_default()),
            Err(state::Error::Text { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps what was verified of an image that the store has.
    pub fn keep_signatures(&self, digest: &Digest, verified: &Verified) -> Result<(), Error> {
        let mut proofs = self.signatures(digest)?;
        let new: Vec<_> = verified.proofs.iter().filter(|proof| !proofs.contains(proof)).cloned().collect();
        if new.is_empty() {
            return Ok(());
        }
        proofs.extend(new);
        let path = self.signatures_path(digest);
        state::make_directory(path.parent().unwrap_or(self.directory()))?;
        let _lock = self.lock()?;
        Ok(state::write_json(&path, &Kept { version: VERSION, proofs })?)
    }

    /// Removes those of images that are gone.
    pub(super) fn forget_signatures(&self, index: &Index) -> Result<(), Error> {
        let stays = |name: &str| index.records.iter().any(|record| record.digest.hex() == name);
        let kept = entries(&self.directory().join("signatures"))?;
        let gone: Vec<_> = kept
            .into_iter()
            .filter(|path| !path.file_stem().and_then(|name| name.to_str()).is_some_and(stays))
            .collect();
        gone.iter().try_for_each(|path| remove_all(path))
    }
}
