//! `watch`: converges whenever the file or the host changes, until told to stop. Containers run on after it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use notify::Watcher;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::args::Watch;
use super::display::Display;
use super::failure::Failure;
use super::stack_file::Asking;
use super::{converge, history, progress, stack_file, view};
use crate::engine::native::{Native, builds};
use crate::reconcile::controller::{self, Source, SourceError, WatchEvent, WatchOptions};
use crate::reconcile::desired::Desired;
use crate::reconcile::resource::ImageSource;
use crate::runtime::roots::Roots;
use crate::spec::{self, Diagnostics, LoadOptions, Loaded};

pub fn watch(roots: &Roots, arguments: &Watch, quiet: bool) -> Result<ExitCode, Failure> {
    let display = Display::new(quiet);
    let native = Native::new(roots).with_watcher(Arc::new(display.clone()));
    let engine = Arc::new(native.with_listener(progress::listener(&display)));
    let options = stack_file::options(&arguments.file)?;
    // A file that is wrong from the start is an error at once; later it is only reported.
    let loaded = stack_file::read(&options)?;
    let first = stack_file::lower(&loaded, &engine, None, Asking::Nothing)?;
    let _lock = converge::lock(roots, &first.stack)?;
    converge::block_on(async {
        let mut source = Files::new(options, Arc::clone(&engine))?;
        let watch_options = WatchOptions {
            interval: Duration::from_secs(arguments.interval.max(1)),
            author: history::author("watch", loaded.files.first().map(PathBuf::as_path)),
            ..WatchOptions::default()
        };
        let stop = stop_signal()?;
        display.say(&format!("watching {}", first.stack.as_str()));
        controller::watch(&engine, &mut source, &watch_options, stop, &|event| report(&event, &display)).await;
        display.say(&format!("stopped watching {}; its containers run on", first.stack.as_str()));
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

fn report(event: &WatchEvent<'_>, display: &Display) {
    match event {
        WatchEvent::Invalid(error) => display.insist(&format!("{error}\nthe last good version stays in force")),
        WatchEvent::ObserveFailed(error) => display.insist(&format!("error: {error}")),
        WatchEvent::Refused(_, objections) => {
            objections.iter().for_each(|objection| display.insist(&format!("error: {objection}")));
        }
        WatchEvent::Planned(plan) => display.say(plan.text().trim_end()),
        WatchEvent::Step(_, event) => display.step(event),
        WatchEvent::Converged(_) => display.say("converged"),
        WatchEvent::Failed { retry_in, .. } => {
            display.insist(&format!("some steps failed; trying again in {} s", retry_in.as_secs_f32()));
        }
    }
}

/// What counts of what happens on the disk.
#[derive(Default)]
struct Known {
    files: BTreeSet<PathBuf>,
    /// Contexts of builds, with all that is in them.
    trees: BTreeSet<PathBuf>,
}

impl Known {
    fn concerns(&self, path: &Path) -> bool {
        self.files.contains(path) || path.ancestors().any(|above| self.trees.contains(above))
    }
}

/// The stack's files, and the directories that they are in: editors replace a file rather than write it, and whoever rolls
/// out a new version replaces a directory, or a link to one.
struct Files {
    options: LoadOptions,
    engine: Arc<Native>,
    watcher: notify::RecommendedWatcher,
    /// What is watched, by path, as device and inode: another directory may have the path by now.
    directories: BTreeMap<PathBuf, (u64, u64)>,
    trees: BTreeSet<PathBuf>,
    known: Arc<std::sync::Mutex<Known>>,
    changes: mpsc::Receiver<()>,
}

impl Files {
    fn new(options: LoadOptions, engine: Arc<Native>) -> Result<Self, Failure> {
        let (sender, changes) = mpsc::channel(1);
        let known: Arc<std::sync::Mutex<Known>> = Arc::default();
        let shared = Arc::clone(&known);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let ours = event.is_ok_and(|event| {
                let known = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                !event.kind.is_access() && event.paths.iter().any(|path| known.concerns(path))
            });
            if ours {
                // One notice that waits is as good as many.
                sender.try_send(()).ok();
            }
        })?;
        let (directories, trees) = (BTreeMap::new(), BTreeSet::new());
        Ok(Self { options, engine, watcher, directories, trees, known, changes })
    }

    /// Whether there is a directory that was not watched when the files were read.
    fn follow(&mut self, files: &[PathBuf]) -> bool {
        let mut steps = BTreeSet::new();
        files.iter().for_each(|file| walk(file, &mut steps, MOST_LINKS));
        let wanted: BTreeSet<&Path> = steps.iter().filter_map(|step| step.parent()).collect();
        let mut more = false;
        for directory in wanted {
            let Ok(found) = std::fs::metadata(directory) else { continue };
            let id = (found.dev(), found.ino());
            if self.directories.insert(directory.to_owned(), id) != Some(id) {
                // What had the path before is gone, or watched elsewhere. What can't be watched is looked at on the timer.
                drop(self.watcher.unwatch(directory));
                more |= self.watcher.watch(directory, notify::RecursiveMode::NonRecursive).is_ok();
            }
        }
        self.known().files = steps;
        more
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The contexts of the stack's builds, and root file systems.
    fn follow_trees(&mut self, desired: &mut Desired) {
        let trees: BTreeSet<PathBuf> = desired.images_mut().flat_map(|(image, _)| directories(&image.source)).collect();
        for tree in trees.difference(&self.trees) {
            drop(self.watcher.watch(tree, notify::RecursiveMode::Recursive));
        }
        self.trees.extend(trees.iter().cloned());
        self.known().trees = trees;
    }
}

/// The directories that an image is made from.
fn directories(source: &ImageSource) -> Vec<PathBuf> {
    match source {
        ImageSource::Build(build) => builds::directories(build),
        ImageSource::Rootfs(content) if content.path.is_dir() => vec![content.path.clone()],
        _ => Vec::new(),
    }
}

/// As many symbolic links on the way to a file as the kernel follows.
const MOST_LINKS: u32 = 40;

/// Everything on the way to a file that can be replaced by another: the file, directories, and links with all on the way
/// to where they lead.
fn walk(path: &Path, steps: &mut BTreeSet<PathBuf>, links: u32) {
    let mut at = PathBuf::new();
    let mut rest = path.components();
    while let Some(component) = rest.next() {
        match component {
            Component::ParentDir => drop(at.pop()),
            Component::CurDir => {}
            other => at.push(other),
        }
        steps.insert(at.clone());
        if let Ok(target) = std::fs::read_link(&at)
            && links > 0
        {
            let directory = at.parent().unwrap_or(Path::new("/"));
            return walk(&directory.join(target).join(rest.as_path()), steps, links - 1);
        }
    }
}

impl Files {
    /// Read again where directories are watched from now on only: what happened in them until then went unheard.
    fn read(&mut self) -> Result<Loaded, Diagnostics> {
        loop {
            let read = spec::load(&self.options);
            let files = match &read {
                Ok(loaded) => &loaded.files,
                Err(diagnostics) => &diagnostics.files,
            };
            if !self.follow(files) {
                return read;
            }
        }
    }
}

impl Source for Files {
    async fn load(&mut self) -> Result<Desired, SourceError> {
        let wrong = |diagnostics: String| SourceError { diagnostics };
        match self.read() {
            Ok(loaded) => {
                let lowered = stack_file::lower(&loaded, &self.engine, None, Asking::Nothing);
                let mut desired = lowered.map_err(|failure| wrong(failure.to_string()))?;
                desired.places = stack_file::places(&Arc::new(loaded));
                self.follow_trees(&mut desired);
                self.engine.hold(&desired);
                Ok(desired)
            }
            Err(diagnostics) => Err(wrong(diagnostics.render(view::color()))),
        }
    }

    async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_on_the_way_to_a_file_counts() {
        let directory = std::env::temp_dir().join(format!("stack-walk-{}", std::process::id()));
        let below = |names: &[&str]| names.iter().map(|name| directory.join(name)).collect::<Vec<_>>();
        std::fs::create_dir_all(directory.join("v1")).unwrap();
        std::os::unix::fs::symlink("v1", directory.join("now")).unwrap();
        std::os::unix::fs::symlink("now/../now/stack.yaml", directory.join("link")).unwrap();
        std::os::unix::fs::symlink("loop", directory.join("loop")).unwrap();
        let mut steps = BTreeSet::new();
        walk(&directory.join("link"), &mut steps, MOST_LINKS);
        let found: Vec<_> = steps.into_iter().filter(|step| step.parent() >= Some(&directory)).collect();
        assert_eq!(found, below(&["link", "now", "v1", "v1/stack.yaml"]));
        walk(&directory.join("loop"), &mut BTreeSet::new(), MOST_LINKS);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
