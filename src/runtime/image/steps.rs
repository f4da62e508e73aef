//! What steps of builds made, by what went into them: `images/steps/HEX.json` (format 1), named by the digest of all
//! that a step depends on. A layer that such a record names is kept although no image has it.

use std::fs;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::store::{Store, Writer};
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
        let writer = self.writer()?;
        if step.layers.iter().any(|(layer, _)| !self.has_layer(layer)) {
            return Err(Error::Busy("a build".into()));
        }
        writer.keep_step(key, step)
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
        let writer = self.writer()?;
        let (layer, entries) = std::thread::scope(|scope| {
            let (reader, mut sink) = io::pipe().map_err(io_at("pipe"))?;
            let packing = scope.spawn(move || write(&mut sink));
            let layer = writer.add_layer(reader, None);
            let packed = packing.join().unwrap_or_else(|_| Err(io::Error::other("packing failed")));
            // A reader that gave up makes the writer fail too; its own reason is the better one.
            match (layer, packed) {
                (Ok(layer), Ok(entries)) => Ok((layer, entries)),
                (Err(error), Ok(_)) => Err(error),
                (Err(error), Err(broken)) if broken.kind() == io::ErrorKind::BrokenPipe => Err(error),
                (_, Err(error)) => Err(io_at("layer")(error)),
            }
        })?;
        let layers = if entries == 0 { Vec::new() } else { vec![layer] };
        let step = Step { layers, created, note: None };
        writer.keep_step(key, &step)?;
        Ok(step)
    }

    /// Forgets all steps, and removes the layers that no image has. Returns how many records went.
    ///
    /// # Errors
    /// Where something can't be removed.
    pub fn prune_steps(&self) -> Result<usize, Error> {
        let writer = self.writer()?;
        let directory = self.directory().join("steps");
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(io_at(directory)(error)),
        };
        let mut count = 0;
        for entry in entries {
            let path = entry.map_err(io_at(&directory))?.path();
            fs::remove_file(&path).map_err(io_at(&path))?;
            count += 1;
        }
        writer.sweep_layers()?;
        Ok(count)
    }

    fn step_file(&self, key: &Digest) -> std::path::PathBuf {
        self.directory().join("steps").join(format!("{}.json", key.hex()))
    }
}

impl Writer<'_> {
    fn keep_step(&self, key: &Digest, step: &Step) -> Result<(), Error> {
        let file = self.store().step_file(key);
        state::make_directory(&self.store().directory().join("steps"))?;
        Ok(state::write_json(&file, &Record { version: VERSION, step: step.clone() })?)
    }

    /// The layers that records of steps name. A record that can't be read names none, and is of no use to anybody.
    pub(super) fn layers_of_steps(&self) -> Result<Vec<Digest>, Error> {
        let directory = self.store().directory().join("steps");
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_at(directory)(error)),
        };
        let mut layers = Vec::new();
        for entry in entries {
            let path = entry.map_err(io_at(&directory))?.path();
            let record = state::read_json::<Record>(&path).ok().flatten();
            layers.extend(record.into_iter().flat_map(|record| record.step.layers).map(|(layer, _)| layer));
        }
        Ok(layers)
    }
}
