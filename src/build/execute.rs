//! Carries out a graph: a thread a stage, so many steps at a time. A stage waits where it needs another one's result;
//! when one fails, what runs is killed and nothing further begins.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::dockerfile::{self, Dockerfile};
use super::draft::Draft;
use super::graph::{Graph, graph};
use super::inputs;
use super::scope::Given;
use super::tree::Tree;
use super::workshop::Workshop;
use super::{Built, Error, Event, Provide, Request, stage};
use crate::diagnostics::{Diagnostic, Diagnostics};
use crate::runtime::container;
use crate::runtime::image::{Digest, Made, Store};
use crate::runtime::roots::Roots;

/// Steps at a time, where the request does not say.
const PARALLEL: usize = 4;
/// More stages than anybody has; each has a thread.
const MOST_STAGES: usize = 500;
/// How often it is begun again when another process took layers away meanwhile.
const ROUNDS: usize = 3;

/// What the threads of one build share.
pub(super) struct Shared<'a> {
    pub request: &'a Request,
    pub file: &'a Dockerfile,
    pub graph: &'a Graph,
    pub given: &'a Given,
    pub contexts: BTreeSet<String>,
    pub store: Store,
    pub workshop: &'a Workshop,
    pub context: Option<&'a Arc<Tree>>,
    pub events: &'a (dyn Fn(Event<'_>) + Sync),
    pub provide: Provide<'a>,
    pub executed: AtomicUsize,
    pub cached: AtomicUsize,
    cancelled: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By the stage's index; `None` in it: it failed.
    results: Vec<Option<Option<Draft>>>,
    /// How many more steps may begin.
    free: usize,
    running: BTreeSet<String>,
}

/// A step that was let begin; another may when this is dropped.
pub(super) struct Permit<'a, 'b>(&'a Shared<'b>);

impl Drop for Permit<'_, '_> {
    fn drop(&mut self) {
        self.0.state().free += 1;
        self.0.changed.notify_all();
    }
}

impl<'b> Shared<'b> {
    /// A thread that panicked left nothing half done in here.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Waits until a step may begin.
    pub fn permit(&self) -> Result<Permit<'_, 'b>, Error> {
        let mut state = self.state();
        while state.free == 0 && !self.is_cancelled() {
            state = self.wait(state);
        }
        if self.is_cancelled() {
            return Err(Error::Cancelled);
        }
        state.free -= 1;
        Ok(Permit(self))
    }

    /// What another stage became. It waits for it without a permit.
    pub fn result(&self, stage: usize) -> Result<Draft, Error> {
        let mut state = self.state();
        loop {
            match state.results.get(stage) {
                Some(Some(Some(draft))) => return Ok(draft.clone()),
                Some(Some(None)) | None => return Err(Error::Cancelled),
                Some(None) => state = self.wait(state),
            }
        }
    }

    fn finish(&self, stage: usize, result: Option<Draft>) {
        let failed = result.is_none();
        let mut state = self.state();
        if let Some(place) = state.results.get_mut(stage) {
            *place = Some(result);
        }
        if failed {
            self.cancelled.store(true, Ordering::Relaxed);
            for name in &state.running {
                // It may have ended by itself meanwhile.
                drop(container::kill(&self.workshop.roots, name, "KILL"));
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// A container that is killed when another stage fails.
    pub fn runs(&self, name: &str) {
        self.state().running.insert(name.to_owned());
        if self.is_cancelled() {
            drop(container::kill(&self.workshop.roots, name, "KILL"));
        }
    }

    pub fn has_run(&self, name: &str) {
        self.state().running.remove(name);
    }
}

/// Builds the image and lists it under its names.
///
/// # Errors
/// See [`Error`]. The store is then as it was, but for steps that succeeded, which are remembered.
pub fn build(
    roots: &Roots,
    request: &Request,
    provide: Provide<'_>,
    events: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Built, Error> {
    let (name, text) = inputs::dockerfile(request)?;
    let file = dockerfile::parse(&name, &text).map_err(|found| Error::Dockerfile(Box::new(found)))?;
    let (given, graph) = plan(request, &file)?;
    warn(request, &file, events);
    let context = inputs::context(request)?;
    let mut round = 0;
    loop {
        round += 1;
        let workshop = Workshop::open(roots)?;
        let shared = Shared {
            request,
            file: &file,
            graph: &graph,
            given: &given,
            contexts: request.contexts.keys().cloned().collect(),
            store: Store::open(roots),
            workshop: &workshop,
            context: context.as_ref(),
            events,
            provide,
            executed: AtomicUsize::new(0),
            cached: AtomicUsize::new(0),
            cancelled: AtomicBool::new(false),
            state: Mutex::new(State {
                results: vec![None; file.stages.len()],
                free: if request.parallel == 0 { PARALLEL } else { request.parallel },
                running: BTreeSet::new(),
            }),
            changed: Condvar::new(),
        };
        match stages(&shared).and_then(|()| publish(&shared)) {
            Err(Error::Image(crate::runtime::image::Error::Busy(_))) if round < ROUNDS => {}
            other => return other,
        }
    }
}

/// What is known before anything is done.
pub(super) fn plan(request: &Request, file: &Dockerfile) -> Result<(Given, Graph), Error> {
    let target = request.target.as_deref().unwrap_or("default");
    let mut given = Given::new(&request.arguments, target, request.epoch, file.directives.escape);
    let wrong = |found| Error::Dockerfile(Box::new(Diagnostics::new(found, file.sources.clone())));
    given
        .declare_globals(&file.arguments)
        .map_err(|(word, problem)| wrong(vec![Diagnostic::error(problem.to_string(), word.span)]))?;
    let contexts = request.contexts.keys().cloned().collect();
    let graph = graph(file, request.target.as_deref(), &given, &contexts).map_err(wrong)?;
    if graph.nodes.len() > MOST_STAGES {
        return Err(wrong(vec![Diagnostic::error(format!("more than {MOST_STAGES} stages"), None)]));
    }
    Ok((given, graph))
}

fn warn(request: &Request, file: &Dockerfile, events: &(dyn Fn(Event<'_>) + Sync)) {
    let declared = |name: &String| {
        let of_stages = file.stages.iter().flat_map(|stage| &stage.instructions);
        let of_stages = of_stages.filter_map(|one| match &one.kind {
            dockerfile::Kind::Arg(arguments) => Some(arguments),
            _ => None,
        });
        file.arguments.iter().chain(of_stages.flatten()).any(|argument| argument.name == *name)
            || super::scope::PROXIES.contains(&name.as_str())
            || name == "SOURCE_DATE_EPOCH"
    };
    let unused = request.arguments.keys().filter(|name| !declared(name));
    let unused = unused.map(|name| Diagnostic::warning(format!("no `ARG` takes the build argument `{name}`"), None));
    let list: Vec<Diagnostic> = file.warnings.iter().cloned().chain(unused).collect();
    if !list.is_empty() {
        events(Event::Warning(&Diagnostics::new(list, file.sources.clone())));
    }
}

/// All stages. The error that is told is the one that came first, not those that followed from it.
fn stages(shared: &Shared<'_>) -> Result<(), Error> {
    let first: Mutex<Option<Error>> = Mutex::new(None);
    thread::scope(|scope| {
        for node in &shared.graph.nodes {
            let first = &first;
            scope.spawn(move || {
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stage::stage(shared, node)));
                let result = match done {
                    Ok(Ok(draft)) => Some(draft),
                    Ok(Err(error)) => {
                        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                        if !matches!(error, Error::Cancelled) && first.is_none() {
                            *first = Some(error);
                        }
                        None
                    }
                    Err(_) => None,
                };
                shared.finish(node.stage, result);
            });
        }
    });
    match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None if shared.is_cancelled() => Err(Error::Cancelled),
        None => Ok(()),
    }
}

fn publish(shared: &Shared<'_>) -> Result<Built, Error> {
    let mut draft = shared.result(shared.graph.target)?;
    for (key, value) in &shared.request.labels {
        draft.add_label(key, value);
    }
    let config = draft.finish();
    let names = match shared.request.names.is_empty() {
        true => vec![Digest::of(&config).to_string()],
        false => shared.request.names.clone(),
    };
    let declared = shared.request.declared.clone();
    let image = shared.store.publish(Made { names, config, layers: draft.layers, size: draft.size, declared })?;
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    Ok(Built { image, executed: count(&shared.executed), cached: count(&shared.cached) })
}
