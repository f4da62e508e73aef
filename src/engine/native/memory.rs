//! What became of the stacks of this host: `stacks/NAME/journal` and `stacks/NAME/generations/NUMBER-DIGEST.json` below the
//! durable root, for the engine's user alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Native, failed};
use crate::reconcile::engine::{EngineError, StackName};
use crate::reconcile::history::journal::Line;
use crate::reconcile::history::{Key, Memory};
use crate::runtime::roots::Roots;
use crate::runtime::state::{self, Durability, journal};

/// Below the durable root: a directory of each stack that anything was ever done to.
const STACKS: &str = "stacks";

impl Memory for Native {
    fn note(&self, stack: &StackName, line: &str, durable: bool) -> Result<(), EngineError> {
        let durability = if durable { Durability::Durable } else { Durability::Volatile };
        let path = self.of_stack(stack).join("journal");
        journal::append(&path, line, Line::begins(line), durability).map_err(|error| failed("journal", error))
    }

    fn notes(&self, stack: &StackName) -> Result<Vec<String>, EngineError> {
        journal::lines(&self.of_stack(stack).join("journal")).map_err(|error| failed("journal", error))
    }

    fn keep(&self, stack: &StackName, key: Key, text: &str) -> Result<(), EngineError> {
        let directory = self.generations(stack);
        state::make_directory(&directory).map_err(|error| failed("generations", error))?;
        let path = directory.join(name(key));
        state::replace(&path, text.as_bytes(), Durability::Durable).map_err(|error| at(&path, &error))
    }

    fn kept(&self, stack: &StackName) -> Result<Vec<Key>, EngineError> {
        let directory = self.generations(stack);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at(&directory, &error)),
        };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| at(&directory, &error))?;
            all.extend(entry.file_name().to_str().and_then(key));
        }
        all.sort_unstable();
        Ok(all)
    }

    fn recall(&self, stack: &StackName, key: Key) -> Result<Option<String>, EngineError> {
        let path = self.generations(stack).join(name(key));
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at(&path, &error)),
        }
    }

    fn forget(&self, stack: &StackName, key: Key) -> Result<(), EngineError> {
        let path = self.generations(stack).join(name(key));
        state::remove(&path).map_err(|error| failed("generations", error))
    }
}

impl Native {
    fn of_stack(&self, stack: &StackName) -> PathBuf {
        self.roots.durable(STACKS).join(stack.as_str())
    }

    fn generations(&self, stack: &StackName) -> PathBuf {
        self.of_stack(stack).join("generations")
    }
}

/// The stacks that something is remembered of.
///
/// # Errors
/// Where the disk can't be read.
pub fn remembered(roots: &Roots) -> Result<Vec<StackName>, EngineError> {
    let directory = roots.durable(STACKS);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at(&directory, &error)),
    };
    let names: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.file_name())).collect();
    let names = names.map_err(|error| at(&directory, &error))?;
    Ok(names.iter().filter_map(|name| StackName::new(name.to_str()?)).collect())
}

/// Forgets all of this stack; its lock is held.
///
/// # Errors
/// Where the disk can't be written to.
pub fn forget_stack(roots: &Roots, stack: &StackName) -> Result<(), EngineError> {
    let directory = roots.durable(STACKS).join(stack.as_str());
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&directory, &error)),
        _ => Ok(()),
    }
}

fn name(key: Key) -> String {
    format!("{}-{:016x}.json", key.number, key.digest)
}

/// Of a file of that name; anything else is not ours to count.
fn key(name: &str) -> Option<Key> {
    let (number, digest) = name.strip_suffix(".json")?.split_once('-')?;
    Some(Key { number: number.parse().ok()?, digest: u64::from_str_radix(digest, 16).ok()? })
}

fn at(path: &Path, error: &io::Error) -> EngineError {
    failed("generations", format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_its_name() {
        let own = Key { number: 12, digest: 0xab };
        assert_eq!(key(&name(own)), Some(own));
        for other in ["12-zz.json", "x-ab.json", "12.json", "12-ab", "12-ab.json.new"] {
            assert_eq!(key(other), None, "{other}");
        }
    }
}
