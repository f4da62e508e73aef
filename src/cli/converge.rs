//! `apply`, `plan`, `destroy`, `status`: what a stack's file asks of the host.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::args::{Apply, Consent, Destroy, FileArguments, Format, Plan as PlanArguments, Status};
use super::bars::{Bars, Show};
use super::failure::Failure;
use super::{progress, stack_file, view};
use crate::engine::native::Native;
use crate::reconcile::check::check;
use crate::reconcile::controller::{ConvergeError, converge};
use crate::reconcile::desired::Desired;
use crate::reconcile::engine::{Engine, Observed, StackName};
use crate::reconcile::execute::{Event, ExecuteOptions, Report, Skip, execute};
use crate::reconcile::plan::{self, DestroyOptions, Plan, PlanOptions, SavedPlan, describe};
use crate::runtime::roots::Roots;
use crate::runtime::state::{Contention, Durability, Error as StateError, Lock, replace};

/// A runtime for the duration of one command. The engine's own threads do what blocks.
pub fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// Nobody else applies or destroys this stack meanwhile. Whom it waits for is said.
pub fn lock(roots: &Roots, stack: &StackName) -> Result<Lock, Failure> {
    let path = roots.volatile("locks").join(format!("stack-{}", stack.as_str()));
    match Lock::take(&path, Contention::Refuse) {
        Err(StateError::Held { holder, .. }) => {
            eprintln!("waiting for {holder}, which works on stack {}", stack.as_str());
            Ok(Lock::take(&path, Contention::Wait)?)
        }
        other => Ok(other?),
    }
}

/// Turns true at the first Ctrl-C: no further step begins.
fn cancellation() -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            eprintln!(
                "interrupted: steps that have begun are finished, no further one begins; once more stops at once"
            );
            // The receiver is gone when the command has ended anyway.
            sender.send(true).ok();
            // A pull can take long, and goes on where it was the next time.
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(130);
            }
        }
    });
    receiver
}

pub fn apply(roots: &Roots, arguments: &Apply) -> Result<ExitCode, Failure> {
    if arguments.dry_run {
        return show(roots, &arguments.file, &arguments.target, arguments.pull, Format::Table, None, false);
    }
    let bars = Arc::new(Bars::new(if arguments.quiet { Show::Nothing } else { Show::People }));
    let engine =
        Arc::new(Native::new(roots).with_watcher(bars.clone()).with_listener(progress::listener(arguments.quiet)));
    let loaded = stack_file::load(&arguments.file)?;
    let desired = stack_file::with_pull(stack_file::lower(&loaded, engine.capabilities())?, arguments.pull);
    let _lock = lock(roots, &desired.stack)?;
    block_on(async {
        let applied = async {
            match &arguments.plan {
                Some(file) => apply_saved(&engine, &desired, file, arguments, &bars).await,
                None => apply_now(&engine, desired, arguments, &bars).await,
            }
        };
        match arguments.wait_timeout {
            Some(seconds) => match tokio::time::timeout(Duration::from_secs(seconds), applied).await {
                Ok(result) => result,
                Err(_) => Err(Failure::new(format!(
                    "not everything was up within {seconds} s\n  help: `stack ps` shows what is not"
                ))),
            },
            None => applied.await,
        }
    })
}

fn execute_options(arguments: &Apply) -> ExecuteOptions {
    ExecuteOptions { parallel: arguments.parallel, cancel: Some(cancellation()) }
}

fn plan_options(arguments: &Apply) -> PlanOptions {
    let wait = arguments.wait || arguments.wait_timeout.is_some();
    PlanOptions {
        consent_volumes: arguments.yes == Some(Consent::Volumes),
        refresh: true,
        wait,
        ..PlanOptions::default()
    }
}

async fn apply_now(
    engine: &Arc<Native>,
    desired: Desired,
    arguments: &Apply,
    bars: &Bars,
) -> Result<ExitCode, Failure> {
    for note in &desired.not_honoured {
        eprintln!("warning: not honoured yet: {note}");
    }
    let options = execute_options(arguments);
    let quiet = arguments.quiet;
    if !arguments.target.is_empty() {
        let observed = engine.observe(&desired.stack).await?;
        let (desired, observed) = plan::target(&desired, &observed, &arguments.target)?;
        let plan = plan::plan(&desired, &observed, engine.capabilities(), &plan_options(arguments));
        return carry_out(engine, &plan, &options, bars).await;
    }
    let observer = |_: &Plan, event: Event<'_>| bars.above(|| progress(&event, quiet));
    let rounds = converge(engine, &desired, &plan_options(arguments), &options, &observer).await;
    let rounds = rounds.map_err(|error| match error {
        ConvergeError::Observe(error) => Failure::from(error),
        ConvergeError::Refused(_) => {
            Failure::new(format!("{error}\n  help: nothing was changed; `--yes=volumes` consents to the loss of data"))
        }
    })?;
    match rounds.last() {
        None => say(quiet, &format!("nothing to do: {} is as declared", desired.stack.as_str())),
        Some(round) => return outcome(&round.plan, &round.report, quiet),
    }
    Ok(ExitCode::SUCCESS)
}

async fn apply_saved(
    engine: &Arc<Native>,
    desired: &Desired,
    file: &std::path::Path,
    arguments: &Apply,
    bars: &Bars,
) -> Result<ExitCode, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    let saved = SavedPlan::from_json(&text)?;
    let observed = engine.observe(saved.stack()).await?;
    let plan = saved.restore(desired, &observed)?;
    carry_out(engine, &plan, &execute_options(arguments), bars).await
}

/// Executes a plan unless something is to be refused.
async fn carry_out(
    engine: &Arc<Native>,
    plan: &Plan,
    options: &ExecuteOptions,
    bars: &Bars,
) -> Result<ExitCode, Failure> {
    let quiet = bars.is_silent();
    let objections = check(plan);
    if !objections.is_empty() {
        let lines: Vec<String> = objections.iter().map(|objection| format!("error: {objection}")).collect();
        return Err(Failure::new(format!(
            "{}\n  help: nothing was changed; `--yes=volumes` consents to the loss of data",
            lines.join("\n")
        )));
    }
    if plan.is_empty() && plan.steps.is_empty() {
        say(quiet, "nothing to do");
        return Ok(ExitCode::SUCCESS);
    }
    let report = execute(engine, plan, options, &|event| bars.above(|| progress(&event, quiet))).await;
    outcome(plan, &report, quiet)
}

fn say(quiet: bool, text: &str) {
    if !quiet {
        eprintln!("{text}");
    }
}

/// A line on standard error for each step that is over.
pub fn progress(event: &Event<'_>, quiet: bool) {
    match event {
        Event::Started { .. } => {}
        Event::Finished { step, .. } => say(quiet, &format!("  done     {}", describe(&step.action))),
        Event::Failed { step, error, .. } => eprintln!("  failed   {}: {error}", describe(&step.action)),
        Event::Skipped { step, because: Skip::Cancelled, .. } => {
            say(quiet, &format!("  skipped  {} (interrupted)", describe(&step.action)))
        }
        Event::Skipped { step, .. } => {
            say(quiet, &format!("  skipped  {} (needs one that failed)", describe(&step.action)))
        }
    }
}

fn outcome(plan: &Plan, report: &Report, quiet: bool) -> Result<ExitCode, Failure> {
    if report.succeeded() {
        say(quiet, &format!("{}: {}", plan.stack.as_str(), plan.summary()));
        return Ok(ExitCode::SUCCESS);
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

pub fn plan(roots: &Roots, arguments: &PlanArguments) -> Result<ExitCode, Failure> {
    let format = arguments.format.format;
    let out = arguments.out.as_deref();
    show(roots, &arguments.file, &arguments.target, arguments.pull, format, out, arguments.detailed_exitcode)
}

fn show(
    roots: &Roots,
    file: &FileArguments,
    targets: &[String],
    pull: Option<super::args::PullWhen>,
    format: Format,
    out: Option<&std::path::Path>,
    detailed: bool,
) -> Result<ExitCode, Failure> {
    let engine = Native::new(roots);
    let loaded = stack_file::load(file)?;
    let desired = stack_file::with_pull(stack_file::lower(&loaded, engine.capabilities())?, pull);
    let (plan, observed) = block_on(async {
        let observed = engine.observe(&desired.stack).await?;
        let (desired, observed) =
            if targets.is_empty() { (desired, observed) } else { plan::target(&desired, &observed, targets)? };
        let options = PlanOptions { refresh: true, ..PlanOptions::default() };
        Ok((plan::plan(&desired, &observed, engine.capabilities(), &options), observed))
    })?;
    print(&plan, format)?;
    if let Some(out) = out {
        let saved = SavedPlan::new(&plan, &observed).to_json();
        // It holds values of variables: for its owner alone.
        replace(out, saved.as_bytes(), Durability::Volatile)
            .map_err(|error| Failure::new(format!("{}: {error}", out.display())))?;
        eprintln!("saved to {0}; `stack apply --plan {0}` executes it", out.display());
    }
    Ok(if detailed && !plan.is_empty() { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

fn print(plan: &Plan, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => view::json(&plan.view())?,
        Format::Table => {
            view::out(&plan.text())?;
            if plan.is_empty() {
                eprintln!("nothing to do: {} is as declared", plan.stack.as_str());
            } else {
                eprintln!("{}: {}", plan.stack.as_str(), plan.summary());
            }
        }
    }
    Ok(())
}

pub fn status(roots: &Roots, arguments: &Status) -> Result<ExitCode, Failure> {
    let engine = Native::new(roots);
    let loaded = stack_file::load(&arguments.file)?;
    let desired = stack_file::lower(&loaded, engine.capabilities())?;
    let plan = block_on(async {
        let observed = engine.observe(&desired.stack).await?;
        Ok(plan::plan(&desired, &observed, engine.capabilities(), &PlanOptions::default()))
    })?;
    print(&plan, arguments.format.format)?;
    Ok(if plan.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

pub fn destroy(roots: &Roots, arguments: &Destroy) -> Result<ExitCode, Failure> {
    let stack = stack_of(arguments)?;
    let _lock = lock(roots, &stack)?;
    let engine = Arc::new(Native::new(roots));
    block_on(async {
        let observed = engine.observe(&stack).await?;
        let consent = arguments.yes == Some(Consent::Volumes) || (arguments.volumes && consents(&observed)?);
        let options = DestroyOptions { volumes: arguments.volumes, consent_volumes: consent };
        let plan = plan::destroy(&stack, &observed, options);
        let options = ExecuteOptions { parallel: 8, cancel: Some(cancellation()) };
        let bars = Bars::new(if arguments.quiet { Show::Nothing } else { Show::People });
        carry_out(&engine, &plan, &options, &bars).await
    })
}

/// A name, or the name that a file says.
fn stack_of(arguments: &Destroy) -> Result<StackName, Failure> {
    let wrong = |text: &str| Failure::new(format!("{text:?} is neither a file nor a stack's name"));
    match (&arguments.project_name, &arguments.target) {
        (Some(name), None) => StackName::new(name).ok_or_else(|| wrong(name)),
        (None, Some(text)) if !stack_file::looks_like_file(text) => StackName::new(text).ok_or_else(|| wrong(text)),
        (name, target) => {
            let files = target.iter().map(std::path::PathBuf::from).collect();
            let file = FileArguments { files, project_name: name.clone(), ..FileArguments::default() };
            let loaded = stack_file::load(&file)?;
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
    if volumes.is_empty() || !std::io::stdin().is_terminal() {
        return Ok(volumes.is_empty());
    }
    eprint!("remove {} and all data in them? Type yes: ", volumes.join(", "));
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
