//! What steps of builds made, by what went into them: `images/steps/HEX.json` (format 1), named by the digest of all
//! that a step depends on. A layer that such a record names is kept although no image has it.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::store::{Store, entries, remove_all};
use super::{Digest, Error, io_at};
use crate::runtime::state;

const VERSION: u32 = 1;

/// The result of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// What it put on top, with the bytes of their archives. None where it changed nothing.
    pub layers: Vec<(Digest, u64)>,
    /// Seconds since 1970.
    pub created: u64,
    /// Something that was found out at some cost, such as a digest of files.
    pub note: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    step: Step,
}

impl Store {
    /// What this step made before, if all of it is still here.
    ///
    /// # Errors
    /// Where the record can't be read.
    pub fn step(&self, key: &Digest) -> Result<Option<Step>, Error> {
        let record: Option<Record> = state::read_json(&self.step_file(key))?;
        let step = record.filter(|record| record.version == VERSION).map(|record| record.step);
        Ok(step.filter(|step| step.layers.iter().all(|(layer, _)| self.has_layer(layer))))
    }

    /// Remembers what a step made; its layers, if any, are here already.
    ///
    /// # Errors
    /// [`Error::Busy`] where a layer has gone meanwhile.
    pub fn keep_step(&self, key: &Digest, step: &Step) -> Result<(), Error> {
        let _lock = self.lock()?;
        if step.layers.iter().any(|(layer, _)| !self.has_layer(layer)) {
            return Err(Error::Busy("a build".into()));
        }
        state::make_directory(&self.directory().join("steps"))?;
        Ok(state::write_json(&self.step_file(key), &Record { version: VERSION, step: step.clone() })?)
    }

    /// Makes a layer of what `write` writes, a tar, and remembers it as the result of this step. `write` says how many
    /// entries there were: without any there is no layer.
    ///
    /// # Errors
    /// Where the layer can't be written or stored.
    pub fn commit_step(
        &self,
        key: &Digest,
        created: u64,
        write: impl FnOnce(&mut dyn Write) -> io::Result<u64> + Send,
    ) -> Result<Step, Error> {
        let lease = self.lease()?;
        let (layer, entries) = std::thread::scope(|scope| {
            let (reader, mut sink) = io::pipe().map_err(io_at("pipe"))?;
            let packing = scope.spawn(move || write(&mut sink));
            let layer = self.add_layer(&lease, reader);
            let packed = packing.join().unwrap_or_else(|_| Err(io::Error::other("packing failed")));
            // A reader that gave up makes the writer fail too; its own reason is the better one.
            match (layer, packed) {
                (Ok(layer), Ok(entries)) => Ok((layer, entries)),
                (Err(error), Ok(_)) => Err(error),
                (Err(error), Err(broken)) if broken.kind() == io::ErrorKind::BrokenPipe => Err(error),
                (_, Err(error)) => Err(io_at("layer")(error)),
            }
        })?;
        let mut step = Step { layers: Vec::new(), created, note: None };
        if entries > 0 {
            step.layers.push((layer.diff_id.clone(), layer.blob.size));
            self.keep_layers(&lease, std::slice::from_ref(&layer))?;
        }
        self.keep_step(key, &step)?;
        Ok(step)
    }

    /// Forgets all steps, and removes the layers that no image has. Returns how many records went.
    ///
    /// # Errors
    /// Where something can't be removed.
    pub fn prune_steps(&self) -> Result<usize, Error> {
        let mut count = 0;
        let lock = self.lock()?;
        for path in entries(&self.directory().join("steps"))? {
            remove_all(&path)?;
            count += 1;
        }
        drop(lock);
        if count > 0 {
            self.sweep()?;
        }
        Ok(count)
    }

    fn step_file(&self, key: &Digest) -> std::path::PathBuf {
        self.directory().join("steps").join(format!("{}.json", key.hex()))
    }

    /// The layers that records of steps name. A record that can't be read names none, and is of no use to anybody.
    pub(super) fn layers_of_steps(&self) -> Result<Vec<Digest>, Error> {
        let mut layers = Vec::new();
        for path in entries(&self.directory().join("steps"))? {
            let record = state::read_json::<Record>(&path).ok().flatten();
            layers.extend(record.into_iter().flat_map(|record| record.step.layers).map(|(layer, _)| layer));
        }
        Ok(layers)
    }
}
