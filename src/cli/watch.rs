//! `watch`: converges whenever the file or the host changes, until told to stop. Containers run on after it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use notify::Watcher;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::args::Watch;
use super::failure::Failure;
use super::{converge, stack_file};
use crate::engine::native::Native;
use crate::reconcile::controller::{self, Source, SourceError, WatchEvent, WatchOptions};
use crate::reconcile::desired::Desired;
use crate::reconcile::engine::Engine;
use crate::runtime::roots::Roots;
use crate::spec::{self, LoadOptions};

pub fn watch(roots: &Roots, arguments: &Watch) -> Result<ExitCode, Failure> {
    let engine = Arc::new(Native::new(roots));
    let options = stack_file::options(&arguments.file)?;
    // A file that is wrong from the start is an error at once; later it is only reported.
    let first = stack_file::lower(&stack_file::read(&options)?, engine.capabilities())?;
    let _lock = converge::lock(roots, &first.stack)?;
    converge::block_on(async {
        let mut source = Files::new(options, Arc::clone(&engine))?;
        let watch_options =
            WatchOptions { interval: Duration::from_secs(arguments.interval.max(1)), ..WatchOptions::default() };
        let stop = stop_signal()?;
        eprintln!("watching {}", first.stack.as_str());
        controller::watch(&engine, &mut source, &watch_options, stop, &|event| report(&event)).await;
        eprintln!("stopped watching {}; its containers run on", first.stack.as_str());
        Ok(ExitCode::SUCCESS)
    })
}

fn stop_signal() -> Result<watch::Receiver<bool>, Failure> {
    let (sender, receiver) = watch::channel(false);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // Nobody listens when the loop has ended already.
        sender.send(true).ok();
    });
    Ok(receiver)
}

fn report(event: &WatchEvent<'_>) {
    match event {
        WatchEvent::Invalid(error) => eprintln!("{error}\nthe last good version stays in force"),
        WatchEvent::ObserveFailed(error) => eprintln!("error: {error}"),
        WatchEvent::Refused(_, objections) => objections.iter().for_each(|objection| eprintln!("error: {objection}")),
        WatchEvent::Planned(plan) => eprint!("{}", plan.text()),
        WatchEvent::Step(_, event) => converge::progress(event, false),
        WatchEvent::Converged(_) => eprintln!("converged"),
        WatchEvent::Failed { retry_in, .. } => {
            eprintln!("some steps failed; trying again in {} s", retry_in.as_secs_f32())
        }
    }
}

/// The stack's files, and the directories that they are in: editors replace a file rather than write it.
struct Files {
    options: LoadOptions,
    engine: Arc<Native>,
    watcher: notify::RecommendedWatcher,
    directories: BTreeSet<PathBuf>,
    files: Arc<std::sync::Mutex<BTreeSet<PathBuf>>>,
    changes: mpsc::Receiver<()>,
}

impl Files {
    fn new(options: LoadOptions, engine: Arc<Native>) -> Result<Self, Failure> {
        let (sender, changes) = mpsc::channel(1);
        let files: Arc<std::sync::Mutex<BTreeSet<PathBuf>>> = Arc::default();
        let known = Arc::clone(&files);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let ours = event.is_ok_and(|event| {
                let known = known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                !event.kind.is_access() && event.paths.iter().any(|path| known.contains(path))
            });
            if ours {
                // One notice that waits is as good as many.
                sender.try_send(()).ok();
            }
        })?;
        Ok(Self { options, engine, watcher, directories: BTreeSet::new(), files, changes })
    }

    fn follow(&mut self, files: &[PathBuf]) {
        for directory in files.iter().filter_map(|file| file.parent()) {
            if self.directories.insert(directory.to_owned()) {
                // One that can't be watched is still looked at on the timer.
                drop(self.watcher.watch(directory, notify::RecursiveMode::NonRecursive));
            }
        }
        *self.files.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = files.iter().cloned().collect();
    }
}

impl Source for Files {
    async fn load(&mut self) -> Result<Desired, SourceError> {
        let wrong = |diagnostics: String| SourceError { diagnostics };
        match spec::load(&self.options) {
            Ok(loaded) => {
                self.follow(&loaded.files);
                stack_file::lower(&loaded, self.engine.capabilities()).map_err(|failure| wrong(failure.to_string()))
            }
            Err(diagnostics) => {
                self.follow(&diagnostics.files);
                Err(wrong(diagnostics.render(stack_file::color())))
            }
        }
    }

    async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
