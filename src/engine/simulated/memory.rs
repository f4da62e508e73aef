//! What the world in memory remembers: as long as it is there.

use std::collections::BTreeMap;

use super::Simulated;
use crate::reconcile::engine::{EngineError, StackName};
use crate::reconcile::history::{Key, Memory};

/// Of one stack.
#[derive(Default)]
pub struct Remembered {
    journal: Vec<String>,
    kept: BTreeMap<Key, String>,
}

impl Simulated {
    fn remembered<T>(&self, stack: &StackName, act: impl FnOnce(&mut Remembered) -> T) -> Result<T, EngineError> {
        let mut world = self.world();
        // Who is dead writes nothing down.
        if world.dead {
            return Err(super::rules::failed("engine", "the process is dead"));
        }
        Ok(act(world.remembered.entry(stack.as_str().to_owned()).or_default()))
    }
}

impl Memory for Simulated {
    fn note(&self, stack: &StackName, line: &str, _: bool) -> Result<(), EngineError> {
        self.remembered(stack, |of| of.journal.push(line.to_owned()))
    }

    fn notes(&self, stack: &StackName) -> Result<Vec<String>, EngineError> {
        self.remembered(stack, |of| of.journal.clone())
    }

    fn keep(&self, stack: &StackName, key: Key, text: &str) -> Result<(), EngineError> {
        self.remembered(stack, |of| drop(of.kept.insert(key, text.to_owned())))
    }

    fn kept(&self, stack: &StackName) -> Result<Vec<Key>, EngineError> {
        self.remembered(stack, |of| of.kept.keys().copied().collect())
    }

    fn recall(&self, stack: &StackName, key: Key) -> Result<Option<String>, EngineError> {
        self.remembered(stack, |of| of.kept.get(&key).cloned())
    }

    fn forget(&self, stack: &StackName, key: Key) -> Result<(), EngineError> {
        self.remembered(stack, |of| drop(of.kept.remove(&key)))
    }
}
