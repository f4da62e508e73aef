//! Carries out a plan: as many steps at once as allowed, each after those it waits for. It decides nothing about what to
//! do; the plan has said everything.
//!
//! A failed step skips the steps that require it and nothing else. Cancelling starts no further step, leaves those that
//! only wait or fetch, and lets the others that run come to their end.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::engine::{Action, Engine, EngineError};
use super::history::Author;
use super::plan::{Plan, Step, describe};
use super::resource::Kind;

/// How to execute.
#[derive(Clone, Debug)]
pub struct ExecuteOptions {
    /// Steps that run at once, at least 1.
    pub parallel: usize,
    /// Turns `true` when no further step may start. `None`: cannot be cancelled.
    pub cancel: Option<watch::Receiver<bool>>,
    /// Who is written down as having it done.
    pub author: Author,
}

impl Default for ExecuteOptions {
    fn default() -> Self {
        Self { parallel: 8, cancel: None, author: Author::default() }
    }
}

/// What happens, as it happens; for progress displays. `index` is that of the step in the plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    Started { index: usize, step: &'a Step },
    Finished { index: usize, step: &'a Step },
    Failed { index: usize, step: &'a Step, error: &'a EngineError },
    Skipped { index: usize, step: &'a Step, because: Skip },
}

/// Why a step was not tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The step with this index, which it requires, failed or was skipped itself.
    Requires(usize),
    Cancelled,
}

/// What became of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed(EngineError),
    Skipped(Skip),
}

/// What became of all steps, by index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub outcomes: Vec<Outcome>,
}

impl Report {
    pub fn succeeded(&self) -> bool {
        self.outcomes.iter().all(|outcome| *outcome == Outcome::Done)
    }

    pub fn failures(&self) -> impl Iterator<Item = (usize, &EngineError)> {
        self.outcomes.iter().enumerate().filter_map(|(index, outcome)| match outcome {
            Outcome::Failed(error) => Some((index, error)),
            Outcome::Done | Outcome::Skipped(_) => None,
        })
    }

    pub fn cancelled(&self) -> bool {
        self.outcomes.contains(&Outcome::Skipped(Skip::Cancelled))
    }
}

/// Executes the plan on `engine`. `observer` hears of every step; it is called from one task, in order.
pub async fn execute<E: Engine + 'static>(
    engine: &Arc<E>,
    plan: &Plan,
    options: &ExecuteOptions,
    observer: &(dyn Fn(Event<'_>) + Sync),
) -> Report {
    let mut run = Run::new(plan, observer);
    let mut tasks: JoinSet<Result<(), EngineError>> = JoinSet::new();
    let mut running: HashMap<Id, (usize, AbortHandle)> = HashMap::new();
    let mut cancel = options.cancel.clone();
    loop {
        if cancel.as_ref().is_some_and(|cancel| *cancel.borrow()) {
            run.skip_waiting();
            for (index, task) in running.values().filter(|(index, _)| may_be_left(&plan.steps[*index].action)) {
                tracing::debug!(step = describe(&plan.steps[*index].action), "left");
                task.abort();
            }
        }
        while tasks.len() < options.parallel.max(1) {
            let Some(index) = run.next() else { break };
            let (engine, action) = (Arc::clone(engine), plan.steps[index].action.clone());
            let task = tasks.spawn(async move { engine.perform(&action).await });
            running.insert(task.id(), (index, task));
        }
        if tasks.is_empty() {
            return run.report();
        }
        tokio::select! {
            Some(joined) = tasks.join_next_with_id() => {
                let (id, result) = match joined {
                    Ok((id, result)) => (id, Some(result)),
                    Err(error) if error.is_cancelled() => (error.id(), None),
                    Err(error) => (error.id(), Some(Err(broken(&error)))),
                };
                let (index, _) = running.remove(&id).expect("only tasks of this plan are joined");
                match result {
                    Some(result) => run.settle(index, result),
                    None => run.close(index, Outcome::Skipped(Skip::Cancelled)),
                }
            }
            () = cancelled(&mut cancel) => {}
        }
    }
}

/// Nothing is half made when it is left: a look, a wait, or the fetching of an image, which goes on where it was.
fn may_be_left(action: &Action) -> bool {
    match action {
        Action::Check { .. } | Action::Wait { .. } => true,
        Action::Create { id, .. } => id.kind == Kind::Image,
        _ => false,
    }
}

/// Resolves when the wish to cancel arrives; never where nobody can wish it any more, or it has been heard already.
async fn cancelled(cancel: &mut Option<watch::Receiver<bool>>) {
    let heard = match cancel {
        Some(receiver) => !*receiver.borrow_and_update() && receiver.changed().await.is_ok(),
        None => false,
    };
    if !heard {
        std::future::pending::<()>().await;
    }
}

/// A step that did not come to its end: the engine has a bug.
fn broken(error: &JoinError) -> EngineError {
    EngineError::Failed { subject: "step".to_owned(), reason: error.to_string(), help: None }
}

/// How far the execution got.
struct Run<'a> {
    plan: &'a Plan,
    observer: &'a (dyn Fn(Event<'_>) + Sync),
    outcomes: Vec<Option<Outcome>>,
    /// How many steps each one still waits for.
    open: Vec<usize>,
    /// Who waits for it, and whether it is required.
    dependents: Vec<Vec<(usize, bool)>>,
    ready: BTreeSet<usize>,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, observer: &'a (dyn Fn(Event<'_>) + Sync)) -> Self {
        let mut dependents = vec![Vec::new(); plan.steps.len()];
        for (index, step) in plan.steps.iter().enumerate() {
            for after in &step.after {
                // An edge to nowhere leaves its step waiting for ever; `check` tells of it beforehand.
                if let Some(waiting) = dependents.get_mut(after.step) {
                    waiting.push((index, after.required));
                }
            }
        }
        let open: Vec<usize> = plan.steps.iter().map(|step| step.after.len()).collect();
        let ready = (0..open.len()).filter(|index| open[*index] == 0).collect();
        Self { plan, observer, outcomes: vec![None; open.len()], open, dependents, ready }
    }

    /// A step that may run now.
    fn next(&mut self) -> Option<usize> {
        let index = self.ready.pop_first()?;
        (self.observer)(Event::Started { index, step: &self.plan.steps[index] });
        Some(index)
    }

    fn settle(&mut self, index: usize, result: Result<(), EngineError>) {
        let step = &self.plan.steps[index];
        match result {
            Ok(()) => {
                (self.observer)(Event::Finished { index, step });
                self.close(index, Outcome::Done);
            }
            Err(error) => {
                tracing::debug!(step = describe(&step.action), %error, "step failed");
                (self.observer)(Event::Failed { index, step, error: &error });
                self.close(index, Outcome::Failed(error));
            }
        }
    }

    /// Records the outcome and lets those that wait for it go on, or skips them.
    fn close(&mut self, index: usize, outcome: Outcome) {
        let mut closing = vec![(index, outcome)];
        while let Some((index, outcome)) = closing.pop() {
            if self.outcomes[index].is_some() {
                continue;
            }
            let done = outcome == Outcome::Done;
            if let Outcome::Skipped(because) = outcome {
                self.ready.remove(&index);
                (self.observer)(Event::Skipped { index, step: &self.plan.steps[index], because });
            }
            self.outcomes[index] = Some(outcome);
            for (dependent, required) in std::mem::take(&mut self.dependents[index]) {
                self.open[dependent] -= 1;
                if required && !done {
                    closing.push((dependent, Outcome::Skipped(Skip::Requires(index))));
                } else if self.open[dependent] == 0 && self.outcomes[dependent].is_none() {
                    self.ready.insert(dependent);
                }
            }
        }
    }

    /// Skips every step that has not started.
    fn skip_waiting(&mut self) {
        while let Some(index) = self.ready.first().copied() {
            self.close(index, Outcome::Skipped(Skip::Cancelled));
        }
    }

    fn report(self) -> Report {
        let unmet = Outcome::Skipped(Skip::Cancelled);
        Report { outcomes: self.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| unmet.clone())).collect() }
    }
}
