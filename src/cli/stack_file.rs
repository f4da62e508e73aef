//! From the files that the arguments name to what an engine is to hold. The one place that hands the environment on.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use super::args::{FileArguments, PullWhen};
use super::failure::Failure;
use super::{names, view};
use crate::engine::native::Native;
use crate::reconcile::desired::{self, Desired};
use crate::reconcile::engine::Engine;
use crate::reconcile::facts;
use crate::reconcile::history::Places;
use crate::reconcile::resource::{ImageSource, PullPolicy};
use crate::spec::{self, Fault, LoadOptions, Loaded, Stack};

/// The caller's variables; what is not UTF-8 can't be meant for a stack.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))).collect()
}

/// What the arguments say about how to load.
pub fn options(arguments: &FileArguments) -> Result<LoadOptions, Failure> {
    let files = [arguments.files.clone(), arguments.more_files.clone()].concat();
    let wants_stdin = files.iter().any(|file| file.as_os_str() == "-");
    let mut stdin = None;
    if wants_stdin {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        stdin = Some(text);
    }
    Ok(LoadOptions {
        files,
        start: std::env::current_dir()?,
        project_name: arguments.project_name.clone(),
        profiles: arguments.profile.clone(),
        env_files: arguments.env_file.clone(),
        environment: environment(),
        stdin,
    })
}

/// Reads the files; warnings are shown at once.
pub fn load(arguments: &FileArguments) -> Result<Loaded, Failure> {
    read(&options(arguments)?)
}

/// As [`load`], for options that were made before.
pub fn read(options: &LoadOptions) -> Result<Loaded, Failure> {
    let loaded = spec::load(options).map_err(|diagnostics| Failure::new(diagnostics.render(view::color())))?;
    let warnings = loaded.warnings.render(view::color());
    if !warnings.trim().is_empty() {
        view::note(warnings.trim_end());
    }
    Ok(loaded)
}

/// With so many of these containers, each `NAME=N`, as Compose's `--scale` has it.
///
/// # Errors
/// Where there is no such container, or it can be there only once.
pub fn scaled(mut loaded: Loaded, wanted: &[String]) -> Result<Loaded, Failure> {
    for text in wanted {
        let parts = text.split_once('=').and_then(|(name, count)| Some((name, count.parse::<u32>().ok()?)));
        let (name, count) = parts.ok_or_else(|| Failure::new(format!("--scale {text:?}: expected NAME=N")))?;
        let known: Vec<String> = loaded.stack.containers.keys().map(ToString::to_string).collect();
        let Some(container) = loaded.stack.containers.get_mut(name) else {
            let help = names::hint(name, known.iter().map(String::as_str), "`stack config --services` lists them");
            return Err(Failure::new(format!("--scale {text:?}: no such container\n  help: {help}")));
        };
        container.replicas = count;
    }
    let faults = loaded.faults();
    if faults.list.is_empty() { Ok(loaded) } else { Err(Failure::new(faults.render(view::color()))) }
}

/// What the engine is to hold; what images are made from on this host is part of it.
///
/// # Errors
/// All that is wrong at once, each at its place in the files.
pub fn lower(loaded: &Loaded, engine: &Native, pull: Option<PullWhen>, asking: Asking) -> Result<Desired, Failure> {
    let desired = with_pull(resources(loaded, &loaded.stack, engine)?, pull);
    if asking == Asking::Planned {
        return look(loaded, engine, desired);
    }
    let admitted = engine.admit(&loaded.stack, &desired, asking == Asking::Newest)?;
    if !admitted.faults.is_empty() {
        return Err(Failure::new(loaded.diagnostics(admitted.faults).render(view::color())));
    }
    let mut desired = match admitted.pins.is_empty() {
        true => desired,
        false => {
            let mut stack = loaded.stack.clone();
            stack.pin(&admitted.pins);
            with_pull(resources(loaded, &stack, engine)?, pull)
        }
    };
    desired.notes.extend(admitted.notes);
    look(loaded, engine, desired)
}

/// Tells where in these files what they declare stands.
pub fn places(loaded: &Arc<Loaded>) -> Places {
    let loaded = Arc::clone(loaded);
    Places::new(move |path| loaded.locate(path).map(|place| place.to_string()))
}

/// How the stack's images are looked at: whether the registries are asked what they have of those that are always pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    Newest,
    Nothing,
    /// What is used was decided before, or is decided later: the policies of the stack's images are no matter now.
    Planned,
}

fn resources(loaded: &Loaded, stack: &Stack, engine: &Native) -> Result<Desired, Failure> {
    let files = facts::collect(&desired::files(stack));
    desired::lower(stack, engine.capabilities(), &files).map_err(|errors| {
        let faults = errors.iter().map(|error| Fault::new(error.path(), &error.to_string()));
        Failure::new(loaded.diagnostics(faults.collect()).render(view::color()))
    })
}

fn look(loaded: &Loaded, engine: &Native, mut desired: Desired) -> Result<Desired, Failure> {
    let (faults, wrong) = engine.look(&mut desired);
    let mut texts: Vec<String> = wrong
        .iter()
        .map(|one| format!("error: image {} can't be built\n{}", one.name, one.error.render(view::color())))
        .collect();
    if !faults.is_empty() {
        texts.insert(0, loaded.diagnostics(faults).render(view::color()));
    }
    if texts.is_empty() { Ok(desired) } else { Err(Failure::new(texts.join("\n"))) }
}

/// `--pull` wins over the policies of the file.
fn with_pull(mut desired: Desired, pull: Option<PullWhen>) -> Desired {
    let Some(when) = pull else { return desired };
    let policy = match when {
        PullWhen::Always => PullPolicy::Always,
        PullWhen::Missing => PullPolicy::Missing,
        PullWhen::Never => PullPolicy::Never,
    };
    let images = desired.images_mut().map(|(image, _)| image);
    images
        .filter(|image| matches!(image.source, ImageSource::Pull { .. }))
        .for_each(|image| image.pull_policy = policy);
    desired
}

/// A file or directory that exists, or a word with a slash or an extension of one.
pub fn looks_like_file(text: &str) -> bool {
    let path = PathBuf::from(text);
    let extension = path.extension().and_then(|extension| extension.to_str());
    path.exists() || text == "-" || text.contains('/') || matches!(extension, Some("yaml" | "yml" | "toml"))
}
