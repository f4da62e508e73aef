//! What nobody needs any more. Marking happens under the store's lock and takes no longer than a few renames; the slow
//! removing happens after it, so that pulls and starts go on.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::index::{Index, Record};
use super::lease::{entries, remove_all};
use super::{Store, read_checked};
use crate::runtime::container;
use crate::runtime::image::document::Descriptor;
use crate::runtime::image::settings::Collect;
use crate::runtime::image::{Digest, Error, io_at};
use crate::runtime::init::spec::MountSource;
use crate::runtime::state;

/// What containers are made from, and what those who work here need.
#[derive(Clone, Debug, Default)]
struct InUse {
    /// Digests of images' configurations.
    images: BTreeSet<String>,
    /// Names of layers' folders.
    layers: BTreeSet<String>,
    /// Names of blobs and layers' folders in live leases.
    leased: BTreeSet<String>,
}

/// Which images [`Store::prune`] removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prune {
    /// Those without a name.
    Nameless,
    /// All that no container is made from.
    Unused,
}

impl Store {
    /// Takes a name away, and the image where that was its last one. A name that is not there is fine. An id removes
    /// all names. Returns what went, names and ids.
    ///
    /// # Errors
    /// [`Error::InUse`] where the image's last name would go while a container is made from it.
    pub fn remove(&self, name: &str) -> Result<Vec<String>, Error> {
        let lock = self.lock()?;
        let used = self.in_use()?;
        let mut index = self.index()?;
        let Some(record) = self.find(&index, name)?.cloned() else { return Ok(Vec::new()) };
        let whole = index.by_name(name).is_none();
        let goes = |one: &Record| match whole {
            true => one.manifest.digest == record.manifest.digest,
            false => one.name == record.name && one.manifest.digest == record.manifest.digest,
        };
        let (gone, stays): (Vec<Record>, Vec<Record>) = index.records.into_iter().partition(goes);
        let last = !stays.iter().any(|one| one.manifest.digest == record.manifest.digest);
        if last && self.id_of(&record).is_some_and(|id| used.images.contains(id.as_str())) {
            return Err(Error::InUse(name.to_owned()));
        }
        index = Index { records: stays };
        index.write(&self.index_path())?;
        let trash = self.mark(&index, &used)?;
        drop(lock);
        remove_all(&trash)?;
        let id = last.then(|| self.id_text(&record));
        for name in gone.iter().filter_map(|one| one.name.as_ref()) {
            self.tell("untag", &self.id_text(&record), name);
        }
        if let Some(id) = &id {
            self.tell("delete", id, name);
        }
        Ok(gone.into_iter().filter_map(|one| one.name).chain(id).collect())
    }

    fn id_of(&self, record: &Record) -> Option<Digest> {
        Some(self.manifest_of(record).ok()?.config.digest)
    }

    pub(super) fn id_text(&self, record: &Record) -> String {
        self.id_of(record).unwrap_or_else(|| record.manifest.digest.clone()).to_string()
    }

    /// Removes images that no container is made from, and what is left of pulls that never ended. Returns what went.
    pub fn prune(&self, which: Prune) -> Result<Vec<String>, Error> {
        self.prune_some(|record| which == Prune::Unused || record.name.is_none())
    }

    /// Of those that are not in use.
    fn prune_some(&self, mut goes: impl FnMut(&Record) -> bool) -> Result<Vec<String>, Error> {
        let lock = self.lock()?;
        let used = self.in_use()?;
        let index = self.index()?;
        let (gone, records): (Vec<Record>, Vec<Record>) =
            index.records.into_iter().partition(|record| !self.is_used(record, &used) && goes(record));
        let index = Index { records };
        let names: Vec<String> =
            gone.iter().map(|record| record.name.clone().unwrap_or_else(|| self.id_text(record))).collect();
        index.write(&self.index_path())?;
        let trash = self.mark(&index, &used)?;
        self.forget_downloads(&used)?;
        self.forget_gone()?;
        self.forget_signatures(&index)?;
        drop(lock);
        remove_all(&trash)?;
        Ok(names)
    }

    /// Makes room where the disk is fuller than is declared: what was not used for longest goes first, what containers
    /// are made from never. Returns what went.
    pub fn collect(&self, when: Collect) -> Result<Vec<String>, Error> {
        let mut all = Vec::new();
        if self.percent_used()? < when.high_percent {
            return Ok(all);
        }
        loop {
            let oldest = self.oldest(&self.in_use()?)?;
            let Some(oldest) = oldest.filter(|_| self.percent_used().is_ok_and(|now| now >= when.low_percent)) else {
                return Ok(all);
            };
            let digest = oldest.manifest.digest;
            let gone = self.prune_some(|record| record.manifest.digest == digest)?;
            if gone.is_empty() {
                return Ok(all);
            }
            all.extend(gone);
        }
    }

    fn oldest(&self, used: &InUse) -> Result<Option<Record>, Error> {
        let records = self.index()?.records.into_iter();
        let unused = records.filter(|one| !self.is_used(one, used));
        Ok(unused.min_by_key(|one| self.last_use(&one.manifest.digest)))
    }

    fn percent_used(&self) -> Result<u8, Error> {
        let disk = nix::sys::statvfs::statvfs(&self.directory).map_err(|error| io_at(&self.directory)(error.into()))?;
        let (total, free) = (disk.blocks() as u64, disk.blocks_available() as u64);
        Ok((100 - free.saturating_mul(100).checked_div(total).unwrap_or(100).min(100)) as u8)
    }

    fn is_used(&self, record: &Record, used: &InUse) -> bool {
        used.leased.contains(record.manifest.digest.hex())
            || self.id_of(record).is_some_and(|id| used.images.contains(id.as_str()))
    }

    /// Asked under the store's lock. Leases come first: whoever makes a container has one until it is written down, and
    /// is seen either way.
    fn in_use(&self) -> Result<InUse, Error> {
        let leased = self.leased()?;
        let all = container::list(&self.roots).map_err(|error| Error::Containers(Box::new(error)))?;
        let mounts = all.iter().flat_map(|one| &one.config.request.mounts);
        let mounted = mounts.filter_map(|mount| match &mount.source {
            MountSource::Image { id, layers, .. } => Some((id.clone(), layers)),
            _ => None,
        });
        let (mounted, below): (Vec<String>, Vec<&Vec<PathBuf>>) = mounted.unzip();
        let layers = all.iter().flat_map(|one| &one.config.layers).chain(below.into_iter().flatten());
        let layers = layers.filter_map(|layer| layer.parent()?.file_name()?.to_str().map(str::to_owned)).collect();
        let images = all.iter().map(|one| one.config.image_id.clone()).chain(mounted).collect();
        Ok(InUse { images, layers, leased })
    }

    /// Removes what nothing names.
    pub(in crate::runtime::image) fn sweep(&self) -> Result<(), Error> {
        let lock = self.lock()?;
        let trash = self.mark(&self.index()?, &self.in_use()?)?;
        drop(lock);
        remove_all(&trash)
    }

    /// Moves what neither the index nor a lease nor a container needs out of the way; returns where to.
    fn mark(&self, index: &Index, used: &InUse) -> Result<PathBuf, Error> {
        let mut kept = used.leased.clone();
        for record in &index.records {
            kept.extend(self.needs(record)?.iter().map(|digest| digest.hex().to_owned()));
        }
        kept.extend(self.layers_of_steps()?.iter().map(|digest| digest.hex().to_owned()));
        kept.extend(used.layers.iter().cloned());
        for path in entries(&self.directory.join("layers"))? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let archive: Option<Descriptor> =
                state::read_json(&path.join("blob.json"))?.filter(|_| kept.contains(name));
            kept.extend(archive.map(|archive| archive.digest.hex().to_owned()));
        }
        self.forget_seen(index.records.is_empty())?;
        let trash = self.new_trash()?;
        for folder in ["layers", "blobs/sha256", "uses"] {
            for path in entries(&self.directory.join(folder))? {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if !kept.contains(name) {
                    let to = trash.join(folder);
                    fs::create_dir_all(&to).map_err(io_at(&to))?;
                    fs::rename(&path, to.join(name)).map_err(io_at(&path))?;
                }
            }
        }
        for path in entries(&self.directory.join("tmp"))? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            // The trash of one that was killed before it was out.
            let other = name.strip_prefix("trash-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
            if other.is_some_and(|pid| pid != std::process::id() && !PathBuf::from(format!("/proc/{pid}")).exists()) {
                remove_all(&path)?;
            }
        }
        Ok(trash)
    }

    /// Another thread of this process may still be removing an older one.
    fn new_trash(&self) -> Result<PathBuf, Error> {
        let process = std::process::id();
        state::make_directory(&self.directory.join("tmp"))?;
        for number in 0_u64.. {
            let path = self.directory.join("tmp").join(format!("trash-{process}-{number}"));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                other => return other.map(|()| path.clone()).map_err(io_at(&path)),
            }
        }
        Err(Error::Busy("tmp".to_owned()))
    }

    /// All blobs and layers of an image.
    ///
    /// # Errors
    /// Where it is damaged: then nobody knows what it needs, and nothing may be collected.
    fn needs(&self, record: &Record) -> Result<Vec<Digest>, Error> {
        let manifest = self.manifest_of(record)?;
        let config = read_checked(&self.blob(&manifest.config.digest), &manifest.config.digest)?;
        let own = super::diff_ids(&config)?;
        let blobs = manifest.layers.iter().map(|layer| layer.digest.clone());
        Ok(blobs.chain(own).chain([record.manifest.digest.clone(), manifest.config.digest.clone()]).collect())
    }

    /// Removes what was received of blobs that nobody receives now.
    fn forget_downloads(&self, used: &InUse) -> Result<(), Error> {
        let downloads = self.directory.join("downloads");
        for path in entries(&downloads)? {
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            if name != "locks" && !used.leased.contains(name) {
                remove_all(&path)?;
            }
        }
        Ok(())
    }
}
