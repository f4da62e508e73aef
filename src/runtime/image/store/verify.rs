//! Whether the store still holds what it says: every blob is hashed again, and every layer unpacked again and compared
//! with what lies there. What is damaged can be fetched again, by its digest.

use std::fs::{self, File};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::lease::{Lease, remove_all};
use super::{Record, Store, diff_ids, read_checked};
use crate::runtime::image::document::Descriptor;
use crate::runtime::image::download::{self, Downloads};
use crate::runtime::image::registry::{Access, Client};
use crate::runtime::image::unpack::Budget;
use crate::runtime::image::{Digest, Error, ImageReference, io_at, tree};

/// What is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A blob is missing, or its content is another.
    Blob(Digest),
    /// The unpacked layer is missing or differs, first in this place.
    Layer { layer: Digest, place: String },
}

/// What was found about one image.
#[derive(Clone, Debug)]
pub struct Found {
    pub name: String,
    pub damages: Vec<Damage>,
    /// Whether everything is right again.
    pub repaired: bool,
}

impl Store {
    /// Verifies this image, or all; with `repair`, what can be had again is put in place.
    pub fn verify(&self, name: Option<&str>, repair: Option<Access<'_>>) -> Result<Vec<Found>, Error> {
        let index = self.index()?;
        let records: Vec<Record> = match name {
            None => index.records,
            Some(name) => {
                let record = self.find(&index, name)?.cloned();
                vec![record.ok_or_else(|| Error::NotFound(name.to_owned()))?]
            }
        };
        records.iter().map(|record| self.verify_one(record, repair)).collect()
    }

    fn verify_one(&self, record: &Record, repair: Option<Access<'_>>) -> Result<Found, Error> {
        let lease = self.lease()?;
        let name = record.name.clone().unwrap_or_else(|| record.manifest.digest.to_string());
        let mut found = Found { name, damages: Vec::new(), repaired: true };
        let mut verify = Verify { store: self, lease: &lease, record, repair, found: &mut found };
        verify.all()?;
        found.repaired &= repair.is_some() || found.damages.is_empty();
        Ok(found)
    }
}

struct Verify<'a> {
    store: &'a Store,
    lease: &'a Lease,
    record: &'a Record,
    repair: Option<Access<'a>>,
    found: &'a mut Found,
}

impl Verify<'_> {
    fn all(&mut self) -> Result<(), Error> {
        if !self.blob(&self.record.manifest, true)? {
            return Ok(());
        }
        let manifest = self.store.manifest_of(self.record)?;
        if !self.blob(&manifest.config, false)? {
            return Ok(());
        }
        let config = read_checked(&self.store.blob(&manifest.config.digest), &manifest.config.digest)?;
        let size = manifest.layers.iter().map(|layer| layer.size).sum();
        let budget = Budget::new(self.store.limits(), size);
        for (layer, diff_id) in manifest.layers.iter().zip(diff_ids(&config)?) {
            if self.blob(layer, false)? {
                self.layer(layer, &diff_id, &budget)?;
            }
        }
        Ok(())
    }

    /// Whether it is right, or is so again.
    fn blob(&mut self, blob: &Descriptor, manifest: bool) -> Result<bool, Error> {
        let digest = &blob.digest;
        let path = self.store.blob(digest);
        if is_whole(&path, digest) {
            return Ok(true);
        }
        self.found.damages.push(Damage::Blob(digest.clone()));
        let Some(access) = self.repair else { return Ok(false) };
        let repaired = self.fetch(blob, manifest, access, &path)?;
        self.found.repaired &= repaired;
        Ok(repaired)
    }

    fn fetch(&self, blob: &Descriptor, manifest: bool, access: Access<'_>, to: &Path) -> Result<bool, Error> {
        let Some(place) = &self.record.place else { return Ok(false) };
        let mut reference = ImageReference::parse(place)?;
        reference.tag = None;
        let temporary = self.lease.temporary("repaired")?;
        if manifest {
            let bytes = Client::new(&reference, access).manifest(&blob.digest)?;
            fs::write(&temporary, bytes).map_err(io_at(&temporary))?;
        } else {
            let (store, lease, clients) = (self.store, self.lease, Client::all(&reference, access));
            let budget = Budget::new(store.limits(), blob.size);
            Downloads { store, lease, clients: &clients, progress: &|_| (), budget: &budget }
                .fetch_to(blob, &temporary)?;
        }
        File::open(&temporary).and_then(|file| file.sync_all()).map_err(io_at(&temporary))?;
        fs::rename(&temporary, to).map_err(io_at(to))?;
        Ok(true)
    }

    fn layer(&mut self, blob: &Descriptor, diff_id: &Digest, budget: &Budget<'_>) -> Result<(), Error> {
        let fresh = self.lease.temporary("layer")?;
        let path = self.store.blob(&blob.digest);
        super::unpack_to(File::open(&path).map_err(io_at(&path))?, Some(diff_id), &fresh, budget)?;
        let present = self.store.layer_folder(diff_id);
        let difference = tree::difference(&fresh.join("fs"), &present.join("fs")).map_err(io_at(&present))?;
        if let Some(place) = difference {
            self.found.damages.push(Damage::Layer { layer: diff_id.clone(), place });
            if self.repair.is_some() {
                self.store.note_archive(&fresh, blob)?;
                self.exchange(&fresh, &present)?;
            }
        }
        remove_all(&fresh)
    }

    /// In one step; a container that runs goes on with what it has.
    fn exchange(&self, fresh: &Path, present: &Path) -> Result<(), Error> {
        let file = File::open(fresh).map_err(io_at(fresh))?;
        crate::runtime::sys::sync_file_system(std::os::fd::AsFd::as_fd(&file)).map_err(io_at(fresh))?;
        match renameat2(AT_FDCWD, fresh, AT_FDCWD, present, RenameFlags::RENAME_EXCHANGE) {
            Err(nix::Error::ENOENT) => fs::rename(fresh, present).map_err(io_at(present)),
            other => other.map_err(|error| io_at(present)(error.into())),
        }
    }
}

fn is_whole(path: &Path, digest: &Digest) -> bool {
    File::open(path).and_then(|file| download::hash(&file)).is_ok_and(|(found, _)| found == *digest)
}
