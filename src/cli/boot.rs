//! `system boot|halt|unit`: what the host's start and end mean for all that this engine holds.
//!
//! Each stack is planned and carried out by itself, all at once, by the code that applies them.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::converge::block_on;
use super::failure::Failure;
use super::view;
use crate::engine::native::Native;
use crate::reconcile::engine::{Engine, Observed, StackName};
use crate::reconcile::execute::{Event, ExecuteOptions, execute};
use crate::reconcile::plan::{self, Plan, describe};
use crate::reconcile::resource::label;
use crate::runtime::container;
use crate::runtime::plugin::managed;
use crate::runtime::roots::Roots;
use crate::runtime::state::{Contention, Error as StateError, Lock};
use crate::runtime::userns;

/// What is told of containers without a stack goes by this name.
const OTHERS: &str = "containers";

/// How the plan of one stack is made.
type Planned = fn(&StackName, &Observed, &Native) -> Plan;

pub fn boot(roots: &Roots, quiet: bool) -> Result<ExitCode, Failure> {
    let failed = told_of_plugins(managed::boot(roots)?);
    let done = all(roots, quiet, |stack, observed, engine| plan::boot(stack, observed, engine.capabilities()));
    failed.and(done)
}

pub fn halt(roots: &Roots, quiet: bool) -> Result<ExitCode, Failure> {
    let done = all(roots, quiet, |stack, observed, _| plan::halt(stack, observed));
    // Volumes are unmounted by those who have mounted them.
    told_of_plugins(managed::halt(roots)?).and(done)
}

fn told_of_plugins(failed: Vec<(String, managed::Error)>) -> Result<ExitCode, Failure> {
    Failure::of_all(failed.into_iter().map(|(_, error)| error.into()).collect())
}

fn all(roots: &Roots, quiet: bool, planned: Planned) -> Result<ExitCode, Failure> {
    let engine = Arc::new(Native::new(roots));
    let mut locks = Vec::new();
    let mut stacks = vec![None];
    for stack in stacks_of(roots)? {
        match Lock::take(&roots.volatile("locks").join(format!("stack-{}", stack.as_str())), Contention::Refuse) {
            Ok(lock) => {
                locks.push(lock);
                stacks.push(Some(stack));
            }
            // `stack watch` of it, most likely, which brings it up itself.
            Err(StateError::Held { holder, .. }) => {
                view::note(&format!("{}: left to {holder}, which works on it", stack.as_str()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    block_on(async {
        let mut running = JoinSet::new();
        for stack in stacks {
            let engine = Arc::clone(&engine);
            running.spawn(async move { one(&engine, stack, planned, quiet).await });
        }
        let mut failures = Vec::new();
        while let Some(ended) = running.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => failures.push(failure),
                Err(error) => failures.push(Failure::new(error.to_string())),
            }
        }
        Failure::of_all(failures)
    })
}

/// The stacks that there is anything of.
fn stacks_of(roots: &Roots) -> Result<BTreeSet<StackName>, Failure> {
    let all = container::list(roots)?;
    Ok(all.iter().filter_map(|one| StackName::new(one.config.labels.get(label::STACK)?)).collect())
}

async fn one(engine: &Arc<Native>, stack: Option<StackName>, planned: Planned, quiet: bool) -> Result<(), Failure> {
    let name = stack.as_ref().map_or(OTHERS, StackName::as_str).to_owned();
    let observed = match &stack {
        Some(stack) => engine.observe(stack).await?,
        None => engine.observe_others().await?,
    };
    let stack = stack.or_else(|| StackName::new(OTHERS)).expect("the word is a stack's name");
    let plan = planned(&stack, &observed, engine);
    let report = execute(engine, &plan, &ExecuteOptions::default(), &|event| told(&name, &event, quiet)).await;
    match report.failures().count() {
        0 => Ok(()),
        1 => Err(Failure::new(format!("{name}: 1 step failed"))),
        count => Err(Failure::new(format!("{name}: {count} steps failed"))),
    }
}

fn told(stack: &str, event: &Event<'_>, quiet: bool) {
    match event {
        Event::Failed { step, error, .. } => {
            view::note(&format!("{stack}: failed: {}: {error}", describe(&step.action)))
        }
        Event::Skipped { step, .. } => view::note(&format!("{stack}: skipped: {}", describe(&step.action))),
        Event::Finished { step, .. } if !quiet => view::note(&format!("{stack}: {}", describe(&step.action))),
        Event::Finished { .. } | Event::Started { .. } => {}
    }
}

/// The text of a unit that calls this very program, with these roots.
/// Of the host's systemd, or of an ordinary user's own.
pub fn unit(roots: &Roots) -> Result<ExitCode, Failure> {
    let program = std::env::current_exe()?;
    let stack = format!("{} --root {} --run-root {}", program.display(), roots.root.display(), roots.run.display());
    let is_users = userns::own_size().is_some();
    let (root, run) = (roots.root.display(), roots.run.display());
    let after = format!(
        "After=network-online.target local-fs.target time-sync.target\nWants=network-online.target\n\
         RequiresMountsFor={root} {run}\n"
    );
    // A user's systemd knows nothing of the host's targets, and starts when the host is up. What it makes is in groups
    // below the unit's own.
    let (after, delegate, target) =
        if is_users { ("", "Delegate=yes\n", "default") } else { (after.as_str(), "", "multi-user") };
    view::out(&format!(
        "\
[Unit]
Description=Containers of stack
{after}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={stack} system boot
ExecStop={stack} system halt
# Containers take the time that they are given, and no process is this unit's.
TimeoutStartSec=infinity
TimeoutStopSec=infinity
KillMode=process
{delegate}
[Install]
WantedBy={target}.target
"
    ))?;
    Ok(ExitCode::SUCCESS)
}
