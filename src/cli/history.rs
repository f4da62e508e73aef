//! `history`, `rollback`, `why`, and `diff` of two generations: what became of a stack, and the way back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use super::args::{Consent, History, Rollback, Why};
use super::converge::{self, Terms};
use super::display::Display;
use super::failure::Failure;
use super::format::{Column, Listing, Row, print_value};
use super::names::Here;
use super::stack_file::Asking;
use super::{kept, progress, prune, stack_file, view};
use crate::engine::native::Native;
use crate::reconcile::desired::Desired;
use crate::reconcile::engine::{Engine, StackName};
use crate::reconcile::facts;
use crate::reconcile::history::generation::{self, Generation};
use crate::reconcile::history::journal::{Change, Fate, Round, rounds};
use crate::reconcile::history::{Author, Memory};
use crate::reconcile::plan::{PlanOptions, change_line, plan};
use crate::reconcile::resource::Config;
use crate::runtime::container::{self, Stop};
use crate::runtime::image::Store;
use crate::runtime::roots::Roots;
use crate::runtime::volume::{self, snapshot};
use crate::spec::Loaded;

/// Who does this now, for whom it is written down. `file`: one of the stack's.
pub fn author(command: &str, file: Option<&Path>) -> Author {
    let user = std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| {
        let id = nix::unistd::getuid();
        let known = nix::unistd::User::from_uid(id).ok().flatten();
        known.map_or_else(|| id.to_string(), |user| user.name)
    });
    let commit = file.and_then(|file| commit_of(&std::path::absolute(file).ok()?));
    Author { user, command: command.to_owned(), commit, ..Author::default() }
}

/// What the git repository around this file stands at: its files as they are (gitrepository-layout(5)), no program is asked.
fn commit_of(file: &Path) -> Option<String> {
    let is_commit = |text: &str| matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    // Above the file are directories of others, such as /tmp: what is there may be a pipe, or without end.
    let read = |path: PathBuf| Some(facts::text(&path).ok()??.trim().to_owned());
    let place = file.ancestors().skip(1).map(|above| above.join(".git")).find(|place| place.exists())?;
    // A further working tree has a file there, which names its own directory.
    let own = match read(place.clone()) {
        Some(text) => place.parent()?.join(text.strip_prefix("gitdir:")?.trim()),
        None => place,
    };
    let head = read(own.join("HEAD"))?;
    let Some(name) = head.strip_prefix("ref: ") else { return Some(head).filter(|text| is_commit(text)) };
    let common = read(own.join("commondir")).map_or_else(|| own.clone(), |text| own.join(text));
    let packed = || {
        let all = read(common.join("packed-refs"))?;
        let line = all.lines().find(|line| line.split_once(' ').is_some_and(|(_, of)| of == name))?;
        Some(line.split_once(' ')?.0.to_owned())
    };
    read(common.join(name)).or_else(packed).filter(|text| is_commit(text))
}

/// The stack that is meant, and its files where they can be read.
fn stack_of(here: &Here) -> Result<(StackName, Option<Loaded>), Failure> {
    let (name, files) = here.stack_and_files()?;
    let wrong = || Failure::new(format!("{name:?} is not a stack's name"));
    Ok((StackName::new(&name).ok_or_else(wrong)?, files))
}

const GENERATIONS: &[Column] = &[
    ("Generation", "GENERATION"),
    ("Created", "CREATED"),
    ("By", "BY"),
    ("Commit", "COMMIT"),
    ("Changes", "CHANGES"),
    ("At", "AT"),
];

pub fn history(roots: &Roots, here: &Here, arguments: &History) -> Result<ExitCode, Failure> {
    let (stack, _) = stack_of(&here.with(&arguments.stack))?;
    let engine = Native::new(roots);
    let all = generation::all(&engine, &stack)?;
    if all.is_empty() {
        return Err(generation::Error::None { stack: stack.as_str().to_owned() }.into());
    }
    let mut listing = Listing::new(GENERATIONS, &["Generation", "Created", "By", "Commit", "Changes"]);
    for (index, one) in all.iter().enumerate().rev() {
        listing.push(generation_row(&engine, index.checked_sub(1).map(|before| &all[before]), one));
    }
    listing.print(&arguments.format.format)?;
    Ok(ExitCode::SUCCESS)
}

fn generation_row(engine: &Native, before: Option<&Generation>, one: &Generation) -> Row {
    let changes = match before {
        None => "the first that is kept".to_owned(),
        Some(before) => generation::between(before, one, engine.capabilities()).counts(),
    };
    let by = format!("{} ({})", one.author.command, one.author.user);
    let commit = one.author.commit.clone().unwrap_or_default();
    let value = json!({"generation": one.number, "at": view::time(one.at_ms), "user": one.author.user,
        "command": one.author.command, "commit": one.author.commit, "changes": changes, "images": one.digests});
    let cells = [
        ("Generation", one.number.to_string()),
        ("Created", view::ago(one.at_ms)),
        ("By", by),
        ("Commit", commit.chars().take(12).collect()),
        ("Changes", changes),
        ("At", view::time(one.at_ms).as_str().unwrap_or_default().to_owned()),
    ];
    Row::new(cells, value)
}

/// `diff 3 5`: what the later one asks for and the earlier does not.
pub fn diff(
    roots: &Roots,
    here: &Here,
    (old, new): (u64, u64),
    format: &super::format::Format,
) -> Result<ExitCode, Failure> {
    let (stack, _) = stack_of(here)?;
    let engine = Native::new(roots);
    let [old, new] = [generation::get(&engine, &stack, old)?, generation::get(&engine, &stack, new)?];
    let plan = generation::between(&old, &new, engine.capabilities());
    print_value(format, &serde_json::to_value(plan.view())?, || plan.text())?;
    Ok(ExitCode::SUCCESS)
}

pub fn rollback(roots: &Roots, here: &Here, arguments: &Rollback) -> Result<ExitCode, Failure> {
    let (stack, files) = stack_of(&here.with(&arguments.stack))?;
    let display = Display::new(arguments.quiet);
    let native = Native::new(roots).with_watcher(Arc::new(display.clone()));
    let engine = Arc::new(native.with_listener(progress::listener(&display)));
    let number = match arguments.generation {
        Some(number) => number,
        None => generation::previous(engine.as_ref(), &stack)?,
    };
    let chosen = generation::get(engine.as_ref(), &stack, number)?;
    // Files that are wrong by now keep nobody from going back.
    let now = files.and_then(|files| stack_file::lower(&files, &engine, None, Asking::Nothing).ok());
    let desired = restored(roots, &chosen, now.as_ref())?;
    for note in &desired.notes {
        display.insist(&format!("note: {note}"));
    }
    if arguments.dry_run {
        return preview(&engine, &desired);
    }
    let _lock = converge::lock(roots, &stack)?;
    engine.hold(&desired);
    if arguments.with_data {
        put_back(roots, &desired, number, arguments.yes)?;
    }
    let terms = Terms {
        options: PlanOptions {
            consent_volumes: arguments.yes == Some(Consent::Volumes),
            wait: arguments.wait,
            ..PlanOptions::default()
        },
        parallel: arguments.parallel,
        consent: arguments.yes,
        author: author(&format!("rollback {number}"), None),
    };
    converge::block_on(converge::whole(&engine, &desired, terms, &display))?;
    display.say(&format!("{} is as in generation {number}; its files still say what they said", stack.as_str()));
    Ok(ExitCode::SUCCESS)
}

/// What the generation asked for. What it was made of on this host must be here still.
pub fn restored(roots: &Roots, chosen: &Generation, now: Option<&Desired>) -> Result<Desired, Failure> {
    let mut desired = chosen.restore(now)?;
    if let Some(fault) = Native::new(roots).look_at_contents(&mut desired).into_iter().next() {
        let help = fault.help.map(|help| format!("\n  help: {help}")).unwrap_or_default();
        return Err(Failure::new(format!("generation {}: {}{help}", chosen.number, fault.message)));
    }
    let store = Store::open(roots);
    let mut missing = Vec::new();
    for (container, _) in desired.containers() {
        if container.image.starts_with("sha256:") && store.get(&container.image)?.is_none() {
            missing.push(format!(
                "the image of {} ({}) is not here any more",
                container.name,
                view::cut(&container.image, 20)
            ));
        }
    }
    if missing.is_empty() {
        return Ok(desired);
    }
    let help = "it was made on this host: make it again from what it was made of then, and apply that";
    Err(Failure::new(format!("generation {}: {}\n  help: {help}", chosen.number, missing.join("\n"))))
}

fn preview(engine: &Arc<Native>, desired: &Desired) -> Result<ExitCode, Failure> {
    let plan = converge::block_on(async {
        let observed = engine.observe(&desired.stack).await?;
        Ok(plan(desired, &observed, engine.capabilities(), &PlanOptions::default()))
    })?;
    converge::print(&plan, &super::format::Format::Table)?;
    Ok(ExitCode::SUCCESS)
}

/// The volumes of a stack that the engine keeps itself, as the engine names them.
fn volumes(desired: &Desired) -> impl Iterator<Item = &str> {
    desired.resources.values().filter_map(|resource| match &resource.config {
        Config::Volume(volume) if !volume.external => Some(volume.name.as_str()),
        _ => None,
    })
}

fn snapshot_name(number: u64) -> String {
    format!("generation-{number}")
}

/// Takes a snapshot of the data that the present generation has, before anything is changed.
pub fn take_snapshots(roots: &Roots, engine: &Native, stack: &StackName, consents: bool) -> Result<(), Failure> {
    let Ok(number) = generation::last(engine, stack) else { return Ok(()) };
    let present = generation::get(engine, stack, number)?;
    let name = snapshot_name(number);
    for volume in volumes(&present.desired) {
        if volume::get(roots, volume)?.is_some() {
            kept::take_again(roots, volume, &name, consents)?;
        }
    }
    Ok(())
}

/// Puts back the data that the generation had, in place of what there is, with all containers that use it stopped.
fn put_back(roots: &Roots, desired: &Desired, number: u64, consent: Option<Consent>) -> Result<(), Failure> {
    let name = snapshot_name(number);
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for volume in volumes(desired) {
        match volume::get(roots, volume)? {
            None => {}
            Some(_) if snapshot::find(roots, volume, &name).is_ok() => found.push(volume),
            Some(_) => missing.push(volume),
        }
    }
    if !missing.is_empty() {
        let list = missing.join(", ");
        let help = "`stack apply --snapshot` takes one before it changes anything; without --with-data the data stays as it is";
        return Err(Failure::new(format!(
            "there is no snapshot of generation {number} of volume {list}: nothing was changed\n  help: {help}"
        )));
    }
    let question = format!("put back the data of {} as in generation {number}?", found.join(", "));
    if !found.is_empty() && consent != Some(Consent::Volumes) && !prune::asked(&question)? {
        let help = "`--yes=volumes` consents to it";
        return Err(Failure::new(format!("data would be put back: nothing was changed\n  help: {help}")));
    }
    for volume in found {
        for user in kept::running(roots, volume)? {
            container::stop(roots, &user, &Stop::default())?;
        }
        snapshot::restore(roots, volume, &name, &[], kept::now_ms())?;
    }
    Ok(())
}

pub fn why(roots: &Roots, here: &Here, arguments: &Why) -> Result<ExitCode, Failure> {
    let (stack, _) = stack_of(&here.with(&arguments.stack))?;
    let engine = Native::new(roots);
    let mut found = rounds(&engine.notes(&stack)?);
    if found.is_empty() {
        return Err(Failure::new(format!("nothing was ever done to stack {:?}", stack.as_str())));
    }
    if let Some(name) = &arguments.name {
        for round in &mut found {
            round.changes.retain(|(change, _)| is_named(&change.id.to_string(), name));
        }
    }
    found.retain(|round| !round.changes.is_empty());
    let skipped = found.len().saturating_sub(arguments.last.unwrap_or(usize::MAX));
    found.drain(..skipped);
    if let (true, Some(name)) = (found.is_empty(), &arguments.name) {
        let help = "`stack why` without a name tells all that was done to the stack";
        return Err(Failure::new(format!("nothing is known of {name:?} in stack {}\n  help: {help}", stack.as_str())));
    }
    let value = Value::from(found.iter().map(round_value).collect::<Vec<_>>());
    print_value(&arguments.format.format, &value, || found.iter().map(round_text).collect())?;
    Ok(ExitCode::SUCCESS)
}

/// `web` means `container/web-1` and its like, `network/back` itself.
fn is_named(id: &str, name: &str) -> bool {
    let short = id.split_once('/').map_or(id, |(_, short)| short);
    id == name || short == name || short.rsplit_once('-').is_some_and(|(service, _)| service == name)
}

fn round_value(round: &Round) -> Value {
    let changes = round.changes.iter().map(|(change, fate)| {
        let mut value = json!(change);
        value["id"] = change.id.to_string().into();
        value["outcome"] = json!(fate);
        value
    });
    json!({"at": view::time(round.at_ms), "user": round.author.user, "command": round.author.command,
           "commit": round.author.commit, "changes": changes.collect::<Vec<_>>(), "refused": round.refused})
}

fn round_text(round: &Round) -> String {
    let Author { user, command, commit, .. } = &round.author;
    let commit = commit.as_ref().map(|commit| format!(", commit {}", view::cut(commit, 12))).unwrap_or_default();
    let at = view::time(round.at_ms);
    let mut text = format!("{}  {command} by {user}{commit}\n", at.as_str().unwrap_or_default());
    for (change, fate) in &round.changes {
        text.push_str(&change_text(change, fate, round.at_ms));
    }
    for error in &round.refused {
        text.push_str(&format!("  refused: {}\n", indented(error)));
    }
    text
}

fn change_text(change: &Change, fate: &Fate, begun_ms: u64) -> String {
    let place = change.place.as_ref().map(|place| format!("\n      --> {place}")).unwrap_or_default();
    let fate = match fate {
        Fate::Done { at_ms } => format!("done after {:.1} s", at_ms.saturating_sub(begun_ms) as f64 / 1000.0),
        Fate::Failed { error, .. } => format!("failed: {error}"),
        Fate::Skipped => "not done: something it needs failed, or it was interrupted".to_owned(),
        Fate::Open => "not finished".to_owned(),
    };
    format!("  {}{place}\n      {}\n", change_line(change), indented(&fate))
}

/// Its further lines below the first.
fn indented(text: &str) -> String {
    text.lines().map(view::printable).collect::<Vec<_>>().join("\n      ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_they_mean_elsewhere() {
        for (name, meant) in
            [("web", true), ("web-1", true), ("container/web-1", true), ("we", false), ("network/web-1", false)]
        {
            assert_eq!(is_named("container/web-1", name), meant, "{name}");
        }
        assert!(is_named("network/back", "back"));
    }

    #[test]
    fn the_commit_is_read_from_the_files_of_the_repository() {
        let directory = std::env::temp_dir().join(format!("stack-commit-{}", std::process::id()));
        let git = directory.join(".git");
        std::fs::create_dir_all(git.join("refs/heads")).unwrap();
        let file = directory.join("below").join("stack.yaml");
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        assert_eq!(commit_of(&file), None);
        std::fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        std::fs::write(git.join("packed-refs"), format!("# pack-refs\n{one} refs/heads/main\n")).unwrap();
        assert_eq!(commit_of(&file), Some(one.clone()));
        std::fs::write(git.join("refs/heads/main"), format!("{two}\n")).unwrap();
        assert_eq!(commit_of(&file), Some(two));
        std::fs::write(git.join("HEAD"), format!("{one}\n")).unwrap();
        assert_eq!(commit_of(&file), Some(one));
        // One of somebody else, which nobody writes to, and one without end.
        std::fs::remove_file(git.join("HEAD")).unwrap();
        nix::unistd::mkfifo(&git.join("HEAD"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(commit_of(&file), None);
        std::fs::remove_file(git.join("HEAD")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", git.join("HEAD")).unwrap();
        assert_eq!(commit_of(&file), None);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
