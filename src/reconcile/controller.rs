//! Converges once, or again and again.
//!
//! Level-triggered: every round observes anew and acts on what it sees, never on the event that woke it. A hint may be
//! late, lost or repeated; the timer looks anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::{Stream, StreamExt};

use super::check::{Objection, check};
use super::desired::Desired;
use super::engine::{Engine, EngineError, Observed};
use super::execute::{Event, ExecuteOptions, Report};
use super::history::{Author, executed, generation};
use super::plan::{Plan, PlanOptions, plan};
use super::resource::ResourceId;

/// A stack may need a second round, where an image that was asked for again turned out to be another one.
const ROUNDS: usize = 2;

/// Why converging did not even begin.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConvergeError {
    #[error(transparent)]
    Observe(#[from] EngineError),
    /// Consent is missing, or the plan contradicts itself.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<Objection>),
}

/// One plan that was executed.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    pub plan: Plan,
    pub report: Report,
}

/// Observes, plans and executes, a second time where images were asked for again. The rounds that did something, in
/// order; none when the stack was converged. The last round's report tells whether it is now.
pub async fn converge<E: Engine + 'static>(
    engine: &Arc<E>,
    desired: &Desired,
    plan_options: &PlanOptions,
    options: &ExecuteOptions,
    observer: &(dyn Fn(&Plan, Event<'_>) + Sync),
) -> Result<Vec<Round>, ConvergeError> {
    let mut rounds = Vec::new();
    let mut plan_options = plan_options.clone();
    for _ in 0..ROUNDS {
        let observed = engine.observe(&desired.stack).await?;
        let plan = plan(desired, &observed, engine.capabilities(), &plan_options);
        if plan.is_empty() && plan.steps.is_empty() {
            told(generation::keep(engine.as_ref(), desired, &observed, &options.author));
            return Ok(rounds);
        }
        let objections = check(&plan);
        if !objections.is_empty() {
            return Err(ConvergeError::Refused(objections));
        }
        let report = executed(engine, &plan, options, &|event| observer(&plan, event)).await;
        let again = plan_options.refresh && report.succeeded();
        rounds.push(Round { plan, report });
        if !again {
            break;
        }
        plan_options.refresh = false;
    }
    if rounds.last().is_some_and(|round| round.report.succeeded()) {
        told(generation::reached(engine.as_ref(), desired, &options.author).await);
    }
    Ok(rounds)
}

/// A generation that can't be kept is one less to go back to, and keeps nobody from converging.
fn told<T>(kept: Result<T, EngineError>) {
    if let Err(error) = kept {
        tracing::warn!("this generation is not kept: {error}");
    }
}

/// Where declarations come from: files that are watched, later a repository.
pub trait Source: Send {
    /// The stack as it is declared now, or what is wrong with the files, ready to be shown.
    fn load(&mut self) -> impl Future<Output = Result<Desired, SourceError>> + Send;
    /// Returns when the files may have changed. Dropping the future loses nothing.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}

/// Files that declare no stack. The text is the rendered diagnostics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{diagnostics}")]
pub struct SourceError {
    pub diagnostics: String,
}

/// How to watch.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// Looks at the host this often without any hint.
    pub interval: Duration,
    /// Changes within this time of one another are one change.
    pub debounce: Duration,
    /// After a round that failed; doubles with every further failure, up to `backoff_limit`.
    pub backoff: Duration,
    pub backoff_limit: Duration,
    pub parallel: usize,
    /// Who is written down as having it done.
    pub author: Author,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            debounce: Duration::from_millis(200),
            backoff: Duration::from_secs(1),
            backoff_limit: Duration::from_secs(60),
            parallel: 8,
            author: Author::default(),
        }
    }
}

/// What the watcher has to tell.
#[derive(Debug)]
pub enum WatchEvent<'a> {
    /// The files declare no stack; the last good one is kept.
    Invalid(&'a SourceError),
    ObserveFailed(&'a EngineError),
    /// This plan is not executed until the files or the host change.
    Refused(&'a Plan, &'a [Objection]),
    /// There is something to do.
    Planned(&'a Plan),
    Step(&'a Plan, Event<'a>),
    /// The host holds what is declared. Told once, until something changes.
    Converged(&'a Observed),
    /// Some steps failed; the next try is after this time or when something changes.
    Failed {
        report: &'a Report,
        retry_in: Duration,
    },
}

/// Keeps the stack converged until `stop` turns `true` (or its sender is gone). What runs is left running.
pub async fn watch<E: Engine + 'static, S: Source>(
    engine: &Arc<E>,
    source: &mut S,
    options: &WatchOptions,
    mut stop: watch::Receiver<bool>,
    report: &(dyn Fn(WatchEvent<'_>) + Sync),
) {
    let mut watcher =
        Watcher { engine, options, report, stop: stop.clone(), rests: Rests::default(), told: Told::Nothing };
    let mut desired: Option<Desired> = None;
    let mut wrong: Option<SourceError> = None;
    let mut wake = Wake::Files;
    while !*stop.borrow() {
        // A file that changed unheard is found on the timer.
        if matches!(wake, Wake::Files | Wake::Time) {
            match source.load().await {
                Ok(loaded) => {
                    let same = wrong.take().is_none() && desired.as_ref() == Some(&loaded);
                    wake = if wake == Wake::Time && same { Wake::Host } else { Wake::Files };
                    desired = Some(loaded);
                }
                Err(error) => {
                    if wake == Wake::Files || wrong.as_ref() != Some(&error) {
                        report(WatchEvent::Invalid(&error));
                    }
                    wrong = Some(error);
                }
            }
        }
        if wake == Wake::Files {
            watcher.rests = Rests::default();
            watcher.told = Told::Nothing;
        }
        let Some(wanted) = &desired else {
            wake = wait(options, &mut stop, source, &mut pin!(tokio_stream::pending()), None).await;
            continue;
        };
        // Listens before it looks, so that nothing happens unheard in between.
        let mut hints = pin!(engine.hints(&wanted.stack));
        let next = watcher.settle(wanted, wake == Wake::Files).await;
        wake = wait(options, &mut stop, source, &mut hints, next).await;
    }
}

/// What ended a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    Files,
    Host,
    Time,
    Stop,
}

/// Waits for the first reason to look again and lets a burst of reasons pass.
async fn wait<S: Source, H: Stream<Item = ()> + Unpin>(
    options: &WatchOptions,
    stop: &mut watch::Receiver<bool>,
    source: &mut S,
    hints: &mut H,
    retry: Option<Instant>,
) -> Wake {
    let timer = Instant::now() + options.interval;
    let until = retry.map_or(timer, |retry| retry.min(timer));
    let first = next_wake(stop, source, hints, until).await;
    let Some(mut wake) = first else { return if until == timer { Wake::Time } else { Wake::Host } };
    while wake != Wake::Stop {
        match next_wake(stop, source, hints, Instant::now() + options.debounce).await {
            None => break,
            Some(Wake::Host) => {}
            Some(other) => wake = other,
        }
    }
    wake
}

/// The next reason, or `None` when the time is up.
async fn next_wake<S: Source, H: Stream<Item = ()> + Unpin>(
    stop: &mut watch::Receiver<bool>,
    source: &mut S,
    hints: &mut H,
    until: Instant,
) -> Option<Wake> {
    let hinted = async {
        if hints.next().await.is_none() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => Some(Wake::Stop),
        () = source.changed() => Some(Wake::Files),
        () = hinted => Some(Wake::Host),
        () = tokio::time::sleep_until(until) => None,
    }
}

/// What was last told, so that an unchanged state is told once.
#[derive(PartialEq)]
enum Told {
    Nothing,
    Converged,
    Refused(Plan),
}

struct Watcher<'a, E> {
    engine: &'a Arc<E>,
    options: &'a WatchOptions,
    report: &'a (dyn Fn(WatchEvent<'_>) + Sync),
    stop: watch::Receiver<bool>,
    rests: Rests,
    told: Told,
}

impl<E: Engine + 'static> Watcher<'_, E> {
    /// Rounds until nothing is left to do now. When to look again at the latest; `None` leaves it to the timer.
    async fn settle(&mut self, desired: &Desired, fresh: bool) -> Option<Instant> {
        let mut fresh = fresh;
        while !*self.stop.borrow() {
            let observed = match self.engine.observe(&desired.stack).await {
                Ok(observed) => observed,
                Err(error) => {
                    (self.report)(WatchEvent::ObserveFailed(&error));
                    return Some(Instant::now() + self.options.backoff);
                }
            };
            let options = PlanOptions { refresh: fresh, keep_stopped: !fresh, ..PlanOptions::default() };
            let whole = plan(desired, &observed, self.engine.capabilities(), &options);
            if whole.is_empty() {
                if self.told != Told::Converged {
                    told(generation::keep(self.engine.as_ref(), desired, &observed, &self.author(desired)));
                }
                self.tell(Told::Converged, WatchEvent::Converged(&observed));
                return None;
            }
            let objections = check(&whole);
            if !objections.is_empty() {
                self.tell(Told::Refused(whole.clone()), WatchEvent::Refused(&whole, &objections));
                return None;
            }
            let todo = whole.without(&self.rests.resting(Instant::now()));
            if todo.is_empty() {
                return self.rests.earliest();
            }
            self.told = Told::Nothing;
            self.round(desired, &todo).await;
            fresh = false;
        }
        None
    }

    fn tell(&mut self, state: Told, event: WatchEvent<'_>) {
        if self.told != state {
            (self.report)(event);
            self.told = state;
        }
    }

    /// Of what the files declare now.
    fn author(&self, desired: &Desired) -> Author {
        Author { places: desired.places.clone(), ..self.options.author.clone() }
    }

    async fn round(&mut self, desired: &Desired, plan: &Plan) {
        (self.report)(WatchEvent::Planned(plan));
        let (cancel, author) = (Some(self.stop.clone()), self.author(desired));
        let options = ExecuteOptions { parallel: self.options.parallel, cancel, author };
        let report = self.report;
        let outcome = executed(self.engine, plan, &options, &|event| report(WatchEvent::Step(plan, event))).await;
        self.rests.note(plan, &outcome, self.options, Instant::now());
        if outcome.failures().next().is_some() {
            let retry_in = self.rests.earliest().map_or(self.options.backoff, |at| at - Instant::now());
            (self.report)(WatchEvent::Failed { report: &outcome, retry_in });
        }
    }
}

/// How often a resource was acted on of late, and until when it is left alone.
struct Rest {
    attempts: u32,
    last: Instant,
    until: Instant,
}

/// What keeps failing, or keeps needing the same again, is left alone for longer and longer, each by itself.
#[derive(Default)]
struct Rests(BTreeMap<ResourceId, Rest>);

impl Rests {
    fn resting(&self, now: Instant) -> BTreeSet<ResourceId> {
        self.0.iter().filter(|(_, rest)| rest.until > now).map(|(id, _)| id.clone()).collect()
    }

    fn earliest(&self) -> Option<Instant> {
        let now = Instant::now();
        self.0.values().map(|rest| rest.until).filter(|until| *until > now).min()
    }

    fn note(&mut self, plan: &Plan, report: &Report, options: &WatchOptions, now: Instant) {
        // A check has no resource of its own: what it keeps from happening failed.
        let failed: BTreeSet<ResourceId> = plan
            .steps
            .iter()
            .zip(&report.outcomes)
            .filter(|(_, outcome)| !matches!(outcome, super::execute::Outcome::Done))
            .filter_map(|(step, _)| step.action.id().cloned())
            .collect();
        for entry in &plan.entries {
            let rest = self.0.entry(entry.id.clone()).or_insert(Rest { attempts: 0, last: now, until: now });
            if now.duration_since(rest.last) > options.backoff_limit * 2 {
                rest.attempts = 0;
            }
            rest.attempts += 1;
            rest.last = now;
            let exponent =
                if failed.contains(&entry.id) { Some(rest.attempts - 1) } else { rest.attempts.checked_sub(2) };
            let pause = exponent.map(|it| options.backoff * 2u32.saturating_pow(it.min(16)));
            rest.until = now + pause.map_or(Duration::ZERO, |pause| pause.min(options.backoff_limit));
        }
    }
}
