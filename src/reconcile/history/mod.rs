//! What became of a stack: a journal of all that was done to it and why, and its generations, the states that it reached.
//!
//! Nothing is decided by it. A line that can't be written keeps nobody from converging; it is only told.

pub mod generation;
pub mod journal;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::engine::{Engine, EngineError, StackName};
use super::execute::{Event, ExecuteOptions, Report, execute};
use super::plan::Plan;
use super::resource::ResourceId;
use journal::{Line, Planned};

/// Where an engine keeps what became of its stacks. Texts are the business of this room alone.
pub trait Memory: Send + Sync {
    /// Adds a line to the journal of the stack, whole or not at all. `durable`: it is there after a loss of power, as is
    /// all before it. The oldest lines are forgotten where there are too many, never within what one plan did.
    fn note(&self, stack: &StackName, line: &str, durable: bool) -> Result<(), EngineError>;
    /// The lines of the journal, the oldest first; none of a stack that nobody knows.
    fn notes(&self, stack: &StackName) -> Result<Vec<String>, EngineError>;
    /// Keeps a text by its key, in place of any other that has it.
    fn keep(&self, stack: &StackName, key: Key, text: &str) -> Result<(), EngineError>;
    /// The keys of what is kept, by rising number.
    fn kept(&self, stack: &StackName) -> Result<Vec<Key>, EngineError>;
    fn recall(&self, stack: &StackName, key: Key) -> Result<Option<String>, EngineError>;
    /// What is not there is fine.
    fn forget(&self, stack: &StackName, key: Key) -> Result<(), EngineError>;
}

/// Which generation, and what it is, in short: two with the same digest are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub number: u64,
    pub digest: u64,
}

/// Who has something done, and by which command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    pub user: String,
    /// `apply`, `watch`, `rollback 3`.
    pub command: String,
    /// The commit that the directory of the stack's file stands at, where it is a git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Of what is told now; not written down with it.
    #[serde(skip)]
    pub places: Places,
}

/// Tells where in the files a path of the stack, or the nearest around it, is declared: `containers.web.image` at
/// `stack.yaml:3:5`. What a stack asks for is the same wherever it says so: all of these are equal.
#[derive(Clone, Default)]
pub struct Places(Option<Arc<Locate>>);

type Locate = dyn Fn(&str) -> Option<String> + Send + Sync;

impl Places {
    pub fn new(locate: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(locate)))
    }

    fn find(&self, path: &str) -> Option<String> {
        self.0.as_ref().and_then(|locate| locate(path))
    }
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Places {}

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Places")
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Executes the plan and writes down what is done and what became of it.
pub async fn executed<E: Engine + 'static>(
    engine: &Arc<E>,
    plan: &Plan,
    options: &ExecuteOptions,
    observer: &(dyn Fn(Event<'_>) + Sync),
) -> Report {
    if plan.entries.is_empty() {
        return execute(engine, plan, options, observer).await;
    }
    let scribe = Scribe { engine: engine.as_ref(), stack: &plan.stack };
    scribe.write(&Line::Planned(Planned::of(plan, &options.author, now_ms())), true);
    // How many steps of each resource are still to be taken.
    let mut open: BTreeMap<&ResourceId, usize> = BTreeMap::new();
    plan.steps.iter().filter_map(|step| step.action.id()).for_each(|id| *open.entry(id).or_default() += 1);
    let open = std::sync::Mutex::new(open);
    let take = |id: &ResourceId| {
        let mut open = open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let left = open.get_mut(id)?;
        *left -= 1;
        (*left == 0).then_some(())
    };
    let report = execute(engine, plan, options, &|event| {
        match &event {
            Event::Finished { step, .. } => {
                if let Some(id) = step.action.id()
                    && take(id).is_some()
                {
                    scribe.write(&Line::done(id, now_ms()), false);
                }
            }
            Event::Failed { step, error, .. } => {
                let error = error.to_string();
                match step.action.id() {
                    Some(id) => scribe.write(&Line::failed(id, now_ms(), &error), false),
                    None => scribe.write(&Line::refused(now_ms(), &error), false),
                }
            }
            Event::Started { .. } | Event::Skipped { .. } => {}
        }
        observer(event);
    })
    .await;
    scribe.write(&Line::Over { at_ms: now_ms() }, true);
    report
}

struct Scribe<'a, E> {
    engine: &'a E,
    stack: &'a StackName,
}

impl<E: Engine> Scribe<'_, E> {
    fn write(&self, line: &Line, durable: bool) {
        if let Err(error) = self.engine.note(self.stack, &line.to_json(), durable) {
            tracing::warn!("what is done to {} is not written down: {error}", self.stack.as_str());
        }
    }
}
