//! `stack.lock`: written by `apply` for tags that are new, and by `pull --update` for all.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::args::{FileArguments, Pull, PullWhen};
use super::bars::{Bars, Show};
use super::failure::Failure;
use super::format::Format;
use super::stack_file::Asking;
use super::{registries, stack_file, view};
use crate::engine::native::{Native, Silent, ensure_image, fetched_digest, newest_digest};
use crate::reconcile::desired::Desired;
use crate::reconcile::resource::{ImageConfig, ImageSource, PullPolicy};
use crate::runtime::roots::Roots;
use crate::runtime::state::{Durability, replace};
use crate::spec::{Fault, Loaded, Lock, lock::FILE};

/// A tag that the lock holds, or may hold.
struct Tag {
    image: ImageConfig,
    /// As the stack writes it.
    reference: String,
    /// Where that is.
    place: String,
    is_locked: bool,
}

fn tags(loaded: &Loaded, desired: &Desired) -> Vec<Tag> {
    let mut desired = desired.clone();
    // Others, too, pin a tag: whoever verified its content.
    let pinned = std::mem::take(&mut desired.locked);
    let lock = loaded.stack.lock.as_ref();
    let tags = desired.images_mut().filter_map(|(image, place)| match &image.source {
        ImageSource::Pull { reference, digest } if !reference.contains('@') => {
            let is_locked = lock.is_some_and(|lock| lock.images.contains_key(reference));
            let is_tag = digest.is_none() || pinned.contains(&image.reference);
            let (image, reference, place) = (image.clone(), reference.clone(), place.to_owned());
            is_tag.then_some(Tag { image, reference, place, is_locked })
        }
        _ => None,
    });
    tags.filter(|tag| !tag.reference.starts_with("builtin:")).collect()
}

/// # Errors
/// Where a tag of the stack is in no lock.
pub fn check(loaded: &Loaded, desired: &Desired) -> Result<(), Failure> {
    let missing = tags(loaded, desired).into_iter().filter(|tag| !tag.is_locked).map(|tag| {
        let help = format!("`stack pull --update` writes {FILE}; without --locked, `stack apply` adds to one");
        Fault { path: tag.place, message: format!("{} is not in {FILE}", tag.reference), help: Some(help) }
    });
    let missing: Vec<Fault> = missing.collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(loaded.diagnostics(missing).render(view::color()))),
    }
}

/// Where the stack has a lock, tags that are not in it are added: with the content that this host has of them already,
/// else with what the registry has now.
pub fn complete(
    roots: &Roots,
    engine: &Native,
    mut loaded: Loaded,
    desired: Desired,
    locked: bool,
    pull: Option<PullWhen>,
) -> Result<(Loaded, Desired), Failure> {
    if locked {
        check(&loaded, &desired)?;
    }
    let Some(lock) = loaded.stack.lock.clone() else { return Ok((loaded, desired)) };
    let mut new = BTreeMap::new();
    for tag in tags(&loaded, &desired).into_iter().filter(|tag| !tag.is_locked) {
        let here = match tag.image.pull_policy {
            PullPolicy::Always => None,
            PullPolicy::Missing | PullPolicy::Never => fetched_digest(roots, &tag.image.reference)?,
        };
        let digest = match (here, tag.image.pull_policy) {
            (Some(digest), _) => digest,
            // What was not fetched is somebody's own, and no registry is to be asked.
            (None, PullPolicy::Never) => continue,
            (None, _) => newest_digest(roots, &tag.reference, &Silent)?,
        };
        view::note(&format!("{FILE}: added {} as {digest}", tag.reference));
        new.insert(tag.reference, digest.to_string());
    }
    if new.is_empty() {
        return Ok((loaded, desired));
    }
    let images = lock.images.into_iter().chain(new.clone()).collect();
    write(&loaded.stack.lock_path(), &Lock { images })?;
    loaded.stack.pin(&new);
    let desired = stack_file::lower(&loaded, engine, pull, Asking::Newest)?;
    Ok((loaded, desired))
}

/// `stack pull --update`: everything is fetched before the lock says it.
pub fn update(roots: &Roots, arguments: &Pull) -> Result<ExitCode, Failure> {
    let shown = registries::shown(arguments.quiet, &arguments.format.format);
    let bars = Bars::new(shown);
    let loaded = stack_file::load(&FileArguments {
        files: arguments.references.iter().map(PathBuf::from).collect(),
        more_files: Vec::new(),
        project_name: None,
        profile: arguments.profile.clone(),
        env_file: arguments.env_file.clone(),
    })?;
    let desired = stack_file::lower(&loaded, &Native::new(roots), None, Asking::Planned)?;
    let before = loaded.stack.lock.clone().unwrap_or_default();
    let mut after = before.clone();
    let mut failures = Vec::new();
    let tags = tags(&loaded, &desired);
    for tag in &tags {
        match fetch(roots, tag, &bars) {
            Ok(digest) => drop(after.images.insert(tag.reference.clone(), digest)),
            Err(error) => failures.push(error),
        }
    }
    if !failures.is_empty() {
        view::note(&format!("{FILE} stays as it was"));
        return Failure::of_all(failures);
    }
    let path = loaded.stack.lock_path();
    if after != before || loaded.stack.lock.is_none() {
        write(&path, &after)?;
    }
    let (mut table, mut lines) = (String::new(), String::new());
    for tag in &tags {
        let (old, new) = (before.images.get(&tag.reference), &after.images[&tag.reference]);
        let state = match old {
            None => "added",
            Some(old) if old == new => "same",
            Some(_) => "moved",
        };
        let from = old.filter(|old| *old != new).map(|old| format!("{old} -> ")).unwrap_or_default();
        table.push_str(&format!("{state}  {}  {from}{new}\n", tag.reference));
        lines.push_str(&format!(
            "{}\n",
            json!({"image": tag.reference, "state": state, "old": old, "digest": new, "lock": path})
        ));
    }
    for name in before.images.keys().filter(|name| !tags.iter().any(|tag| tag.reference == **name)) {
        view::note(&format!("{FILE}: {name} is not used by this stack as it was read; its line stays"));
    }
    match (shown, &arguments.format.format) {
        (_, Format::Json) => view::out(&lines)?,
        (Show::Nothing, _) => {}
        _ => view::out(&table)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What the tag stands for now; the store has it then, under the name with the digest.
fn fetch(roots: &Roots, tag: &Tag, bars: &Bars) -> Result<String, Failure> {
    let digest = newest_digest(roots, &tag.reference, bars)?.to_string();
    let suffix = tag.image.reference.split_once(' ').map(|(_, platform)| format!(" {platform}")).unwrap_or_default();
    let image = ImageConfig {
        reference: format!("{}@{digest}{suffix}", tag.reference),
        source: ImageSource::Pull { reference: tag.reference.clone(), digest: Some(digest.clone()) },
        pull_policy: PullPolicy::Missing,
        platform: tag.image.platform.clone(),
    };
    ensure_image(roots, &image, bars)?;
    Ok(digest)
}

fn write(path: &Path, lock: &Lock) -> Result<(), Failure> {
    let wrong = |error: std::io::Error| {
        Failure::new(format!(
            "{}: {error}\n  help: it lies beside the stack's file; `--locked` refuses new tags instead of writing",
            path.display()
        ))
    };
    let mode = fs::metadata(path).map_or(0o644, |data| data.permissions().mode() & 0o777);
    replace(path, lock.to_text().as_bytes(), Durability::Durable).map_err(wrong)?;
    // Unlike the engine's own files it is for everybody who reads the stack's.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(wrong)
}
