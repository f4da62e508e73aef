//! `apply`, `plan`, `destroy`, `status`: what a stack's file asks of the host.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::args::{Apply, Consent, Destroy, FileArguments, Plan as PlanArguments, PullWhen, Status};
use super::display::Display;
use super::failure::Failure;
use super::format::{Format, print_value};
use super::places::Places;
use super::stack_file::Asking;
use super::{history, lock as lock_file, progress, prune, ps, stack_file, view};
use crate::engine::native::Native;
use crate::reconcile::check::check;
use crate::reconcile::controller::{ConvergeError, converge};
use crate::reconcile::desired::Desired;
use crate::reconcile::engine::{Engine, Observed, StackName};
use crate::reconcile::execute::{Event, ExecuteOptions, Report};
use crate::reconcile::history::{Author, executed, generation};
use crate::reconcile::plan::{self, DestroyOptions, Plan, PlanOptions, SavedPlan};
use crate::reconcile::resource::{MountSource, label};
use crate::runtime::roots::Roots;
use crate::runtime::state::{Contention, Durability, Error as StateError, Lock, replace};
use crate::runtime::volume::Removal;
use crate::runtime::{container, network};

/// A runtime for the duration of one command. The engine's own threads do what blocks; one that still waits for
/// something when the command is over is not waited for.
pub fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(future);
    // Not waiting for threads that wait: whoever gave up on them is not kept.
    runtime.shutdown_background();
    result
}

/// Nobody else applies or destroys this stack meanwhile. Whom it waits for is said.
pub fn lock(roots: &Roots, stack: &StackName) -> Result<Lock, Failure> {
    let path = roots.volatile("locks").join(format!("stack-{}", stack.as_str()));
    match Lock::take(&path, Contention::Refuse) {
        Err(StateError::Held { holder, .. }) => {
            view::note(&format!("waiting for {holder}, which works on stack {}", stack.as_str()));
            Ok(Lock::take(&path, Contention::Wait)?)
        }
        other => Ok(other?),
    }
}

/// Turns true at the first Ctrl-C or SIGTERM: no further step begins, and what only waits is left. The second one ends
/// this program at once, which loses nothing: the next apply goes on from whatever there is.
fn cancellation(display: &Display) -> Result<watch::Receiver<bool>, Failure> {
    let (sender, receiver) = watch::channel(false);
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let display = display.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        };
        next().await;
        display
            .insist("interrupted: steps that have begun are finished, no further one begins; once more stops at once");
        // The receiver is gone when the command has ended anyway.
        sender.send(true).ok();
        std::process::exit(next().await);
    });
    Ok(receiver)
}

pub fn apply(roots: &Roots, arguments: &Apply) -> Result<ExitCode, Failure> {
    if arguments.dry_run && !arguments.scale.is_empty() {
        return Err(Failure::new("--scale and --dry-run\n  help: `replicas:` in the file is what a plan is made of"));
    }
    if arguments.dry_run {
        return show(roots, &arguments.file, &Looked::of_apply(arguments));
    }
    let display = Display::new(arguments.quiet);
    let native = Native::new(roots).with_watcher(Arc::new(display.clone()));
    let engine = Arc::new(native.with_listener(progress::listener(&display)));
    let loaded = stack_file::scaled(stack_file::load(&arguments.file)?, &arguments.scale)?;
    // A saved plan says itself what is used.
    let asking = if arguments.plan.is_some() { Asking::Planned } else { Asking::Newest };
    let desired = stack_file::lower(&loaded, &engine, arguments.pull, asking)?;
    let (loaded, mut desired) = match (arguments.locked, &arguments.plan) {
        (false, Some(_)) => (loaded, desired),
        (locked, _) => lock_file::complete(roots, &engine, loaded, desired, locked, arguments.pull)?,
    };
    let loaded = Arc::new(loaded);
    desired.places = stack_file::places(&loaded);
    let terms = Terms::of_apply(arguments, &desired, loaded.files.first().map(PathBuf::as_path));
    let display = display.with_places(Places::new(loaded, desired.clone()));
    let stack = desired.stack.clone();
    let _lock = lock(roots, &stack)?;
    engine.hold(&desired);
    // What to go back to, and what takes the place of what generations don't hold.
    let before = || Some((generation::last(engine.as_ref(), &stack).ok()?, desired.clone()));
    let before = if arguments.rollback_on_failure { before() } else { None };
    if arguments.snapshot {
        history::take_snapshots(roots, &engine, &stack, arguments.yes.is_some())?;
    }
    let done = block_on(async {
        let applied = async {
            match &arguments.plan {
                Some(file) => apply_saved(&engine, &desired, file, &terms, &display).await,
                None => apply_now(&engine, desired, arguments, terms, &display).await,
            }
        };
        let applied = async {
            let changed = applied.await?;
            if changed {
                show_ports(roots, &stack, &display)?;
            }
            Ok(ExitCode::SUCCESS)
        };
        let Some(seconds) = arguments.wait_timeout else { return applied.await };
        let late = || {
            Failure::new(format!("not everything was up within {seconds} s\n  help: `stack ps -a` shows what is not"))
        };
        tokio::time::timeout(Duration::from_secs(seconds), applied).await.unwrap_or_else(|_| Err(late()))
    });
    match (done, before) {
        (Err(failure), Some((number, now))) => {
            display.insist(&format!("error: {failure}"));
            go_back(roots, &engine, (&now, number), arguments, &display)
        }
        (done, _) => done,
    }
}

/// Back to what was there before an apply that failed. The apply has failed all the same.
fn go_back(
    roots: &Roots,
    engine: &Arc<Native>,
    (now, number): (&Desired, u64),
    arguments: &Apply,
    display: &Display,
) -> Result<ExitCode, Failure> {
    display.insist(&format!("going back to generation {number}"));
    let chosen = generation::get(engine.as_ref(), &now.stack, number)?;
    let desired = history::restored(roots, &chosen, Some(now))?;
    let author = history::author(&format!("rollback {number} after a failed apply"), None);
    let options = PlanOptions { wait: true, ..PlanOptions::default() };
    let terms = Terms { options, parallel: arguments.parallel, consent: None, author };
    block_on(whole(engine, &desired, terms, display))?;
    Err(Failure::new(format!("the apply failed; {} is as in generation {number} again", now.stack.as_str())))
}

/// Where the stack is reached from outside, now that something has changed.
fn show_ports(roots: &Roots, stack: &StackName, display: &Display) -> Result<(), Failure> {
    let attachments = network::attachments(roots)?;
    for one in container::list(roots)? {
        let of_stack = one.config.labels.get(label::STACK).is_some_and(|name| name == stack.as_str());
        let own = attachments.iter().filter(|own| of_stack && one.is_running() && own.container == one.config.name);
        for port in own.flat_map(|own| &own.ports) {
            let (outside, inside) = (ps::host_port(port), port.container_port);
            display.say(&format!("  {outside} -> {} port {inside}/{}", one.config.name, port.protocol));
        }
    }
    Ok(())
}

/// How a whole stack is converged.
pub struct Terms {
    pub options: PlanOptions,
    pub parallel: usize,
    pub consent: Option<Consent>,
    pub author: Author,
}

impl Terms {
    fn of_apply(arguments: &Apply, desired: &Desired, file: Option<&std::path::Path>) -> Self {
        let author = Author { places: desired.places.clone(), ..history::author("apply", file) };
        Self { options: plan_options(arguments), parallel: arguments.parallel, consent: arguments.yes, author }
    }

    fn execution(&self, display: &Display) -> Result<ExecuteOptions, Failure> {
        let (cancel, author) = (Some(cancellation(display)?), self.author.clone());
        Ok(ExecuteOptions { parallel: self.parallel, cancel, author })
    }
}

fn plan_options(arguments: &Apply) -> PlanOptions {
    let wait = arguments.wait || arguments.wait_timeout.is_some() || arguments.rollback_on_failure;
    PlanOptions {
        consent_volumes: arguments.yes == Some(Consent::Volumes),
        refresh: true,
        wait,
        ..PlanOptions::default()
    }
}

/// Sources of bind mounts that are made, since nothing forbids it; more often than not the path is a slip.
fn missing_sources(desired: &Desired) -> BTreeSet<(String, PathBuf)> {
    let sources = desired.containers().flat_map(|(container, _)| {
        container.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Bind { source, create: true, .. } => Some((container.service.clone(), source.clone())),
            _ => None,
        })
    });
    sources.filter(|(_, source)| !source.exists()).collect()
}

async fn apply_now(
    engine: &Arc<Native>,
    desired: Desired,
    arguments: &Apply,
    terms: Terms,
    display: &Display,
) -> Result<bool, Failure> {
    for note in &desired.not_honoured {
        display.insist(&format!("warning: not honoured yet: {note}"));
    }
    for (container, source) in missing_sources(&desired) {
        let source = source.display();
        display.insist(&format!("warning: container {container}: {source} is not there: an empty directory is made"));
    }
    if !arguments.target.is_empty() {
        let observed = engine.observe(&desired.stack).await?;
        let (desired, observed) = plan::target(&desired, &observed, &arguments.target)?;
        let plan = plan::plan(&desired, &observed, engine.capabilities(), &terms.options);
        return carry_out(engine, &plan, &terms.execution(display)?, terms.consent, display).await;
    }
    whole(engine, &desired, terms, display).await
}

/// Converges all of a stack; says whether there was something to do.
pub async fn whole(engine: &Arc<Native>, desired: &Desired, terms: Terms, display: &Display) -> Result<bool, Failure> {
    let options = terms.execution(display)?;
    let observer = |_: &Plan, event: Event<'_>| display.step(&event);
    let rounds = converge(engine, desired, &terms.options, &options, &observer).await;
    let rounds = rounds.map_err(|error| match error {
        ConvergeError::Observe(error) => Failure::from(error),
        ConvergeError::Refused(_) => Failure::new(format!("{error}\n  help: {}", refused(terms.consent))),
    })?;
    match rounds.last() {
        None => display.say(&format!("nothing to do: {} is as declared", desired.stack.as_str())),
        Some(round) => return outcome(&round.plan, &round.report, display),
    }
    Ok(false)
}

async fn apply_saved(
    engine: &Arc<Native>,
    desired: &Desired,
    file: &std::path::Path,
    terms: &Terms,
    display: &Display,
) -> Result<bool, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    let saved = SavedPlan::from_json(&text)?;
    let observed = engine.observe(saved.stack()).await?;
    let plan = saved.restore(desired, &observed)?;
    let changed = carry_out(engine, &plan, &terms.execution(display)?, terms.consent, display).await?;
    if let Err(error) = generation::reached(engine.as_ref(), desired, &terms.author).await {
        display.insist(&format!("warning: this generation is not kept: {error}"));
    }
    Ok(changed)
}

/// What can be done about steps that are refused.
fn refused(consent: Option<Consent>) -> &'static str {
    match consent {
        Some(Consent::Volumes) => {
            "nothing was changed; a volume loses its protection by an `apply` without `protect: true`"
        }
        _ => "nothing was changed; `--yes=volumes` consents to the loss of data",
    }
}

/// Executes a plan unless something is to be refused; says whether there was something to do.
async fn carry_out(
    engine: &Arc<Native>,
    plan: &Plan,
    options: &ExecuteOptions,
    consent: Option<Consent>,
    display: &Display,
) -> Result<bool, Failure> {
    let objections = check(plan);
    if !objections.is_empty() {
        let lines: Vec<String> = objections.iter().map(|objection| format!("error: {objection}")).collect();
        return Err(Failure::new(format!("{}\n  help: {}", lines.join("\n"), refused(consent))));
    }
    if plan.is_empty() && plan.steps.is_empty() {
        display.say("nothing to do");
        return Ok(false);
    }
    let report = executed(engine, plan, options, &|event| display.step(&event)).await;
    outcome(plan, &report, display)
}

fn outcome(plan: &Plan, report: &Report, display: &Display) -> Result<bool, Failure> {
    if report.succeeded() {
        display.done(plan.stack.as_str(), &plan.summary());
        return Ok(true);
    }
    if report.cancelled() {
        return Err(Failure::new("interrupted\n  help: the next `stack apply` goes on from here").with_code(130));
    }
    let count = report.failures().count();
    let steps = if count == 1 { "step" } else { "steps" };
    Err(Failure::new(format!(
        "{count} {steps} failed; what does not depend on them was done\n  help: mend the cause, then apply again"
    )))
}

/// What of a plan is shown, and how.
struct Looked<'a> {
    targets: &'a [String],
    pull: Option<PullWhen>,
    locked: bool,
    format: Format,
    out: Option<&'a std::path::Path>,
    detailed: bool,
}

impl<'a> Looked<'a> {
    fn of_apply(arguments: &'a Apply) -> Self {
        let (targets, pull, locked) = (arguments.target.as_slice(), arguments.pull, arguments.locked);
        Self { targets, pull, locked, format: Format::Table, out: None, detailed: false }
    }
}

pub fn plan(roots: &Roots, arguments: &PlanArguments) -> Result<ExitCode, Failure> {
    let looked = Looked {
        targets: &arguments.target,
        pull: arguments.pull,
        locked: arguments.locked,
        format: arguments.format.format.clone(),
        out: arguments.out.as_deref(),
        detailed: arguments.detailed_exitcode,
    };
    show(roots, &arguments.file, &looked)
}

fn show(roots: &Roots, file: &FileArguments, looked: &Looked<'_>) -> Result<ExitCode, Failure> {
    let engine = Native::new(roots);
    let loaded = stack_file::load(file)?;
    let desired = stack_file::lower(&loaded, &engine, looked.pull, Asking::Newest)?;
    if looked.locked {
        lock_file::check(&loaded, &desired)?;
    }
    let (mut plan, observed) = block_on(async {
        let observed = engine.observe(&desired.stack).await?;
        let (desired, observed) = match looked.targets {
            [] => (desired, observed),
            targets => plan::target(&desired, &observed, targets)?,
        };
        let options = PlanOptions { refresh: true, ..PlanOptions::default() };
        Ok((plan::plan(&desired, &observed, engine.capabilities(), &options), observed))
    })?;
    plan.notes.extend(engine.protection(&plan)?);
    print(&plan, &looked.format)?;
    if let Some(out) = looked.out {
        let saved = SavedPlan::new(&plan, &observed).to_json();
        // It holds values of variables: for its owner alone.
        replace(out, saved.as_bytes(), Durability::Volatile)
            .map_err(|error| Failure::new(format!("{}: {error}", out.display())))?;
        view::note(&format!("saved to {0}; `stack apply --plan {0}` executes it", out.display()));
    }
    Ok(if looked.detailed && !plan.is_empty() { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

pub fn print(plan: &Plan, format: &Format) -> Result<(), Failure> {
    print_value(format, &serde_json::to_value(plan.view())?, || plan.text())?;
    if matches!(format, Format::Table) {
        let stack = plan.stack.as_str();
        view::note(&match plan.is_empty() {
            true => format!("nothing to do: {stack} is as declared"),
            false => format!("{stack}: {}", plan.summary()),
        });
    }
    Ok(())
}

pub fn status(roots: &Roots, arguments: &Status) -> Result<ExitCode, Failure> {
    let engine = Native::new(roots);
    let loaded = stack_file::load(&arguments.file)?;
    let desired = stack_file::lower(&loaded, &engine, None, Asking::Nothing)?;
    let plan = block_on(async {
        let observed = engine.observe(&desired.stack).await?;
        Ok(plan::plan(&desired, &observed, engine.capabilities(), &PlanOptions::default()))
    })?;
    print(&plan, &arguments.format.format)?;
    Ok(if plan.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

pub fn destroy(roots: &Roots, arguments: &Destroy) -> Result<ExitCode, Failure> {
    let stack = stack_of(arguments)?;
    let _lock = lock(roots, &stack)?;
    let removal = if arguments.now { Removal::Now } else { Removal::Trash };
    let engine = Arc::new(Native::new(roots).with_removal(removal));
    let display = Display::new(arguments.quiet);
    block_on(async {
        let observed = engine.observe(&stack).await?;
        let consent = arguments.yes == Some(Consent::Volumes) || (arguments.volumes && consents(&observed)?);
        let options = DestroyOptions { volumes: arguments.volumes, consent_volumes: consent };
        let plan = plan::destroy(&stack, &observed, options);
        let author = history::author("destroy", None);
        let options = ExecuteOptions { cancel: Some(cancellation(&display)?), author, ..ExecuteOptions::default() };
        let consent = if consent { Some(Consent::Volumes) } else { arguments.yes };
        carry_out(&engine, &plan, &options, consent, &display).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// A name, or the name that a file says.
fn stack_of(arguments: &Destroy) -> Result<StackName, Failure> {
    let wrong = |text: &str| Failure::new(format!("{text:?} is neither a file nor a stack's name"));
    let file = &arguments.file;
    let words: Vec<String> = file.files.iter().map(|path| path.display().to_string()).collect();
    match (words.as_slice(), &file.project_name) {
        ([], Some(name)) if file.more_files.is_empty() => StackName::new(name).ok_or_else(|| wrong(name)),
        ([text], None) if file.more_files.is_empty() && !stack_file::looks_like_file(text) => {
            StackName::new(text).ok_or_else(|| wrong(text))
        }
        _ => {
            let loaded = stack_file::load(file)?;
            StackName::new(&loaded.stack.name).ok_or_else(|| wrong(&loaded.stack.name))
        }
    }
}

/// Asked only where somebody can answer.
fn consents(observed: &Observed) -> Result<bool, Failure> {
    let volumes: Vec<String> = observed
        .resources
        .keys()
        .filter(|id| id.kind == crate::reconcile::resource::Kind::Volume)
        .map(ToString::to_string)
        .collect();
    Ok(volumes.is_empty() || prune::asked(&format!("remove {} and all data in them?", volumes.join(", ")))?)
}
