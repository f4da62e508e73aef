//! Images: listed, named, kept in files, verified, removed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::{
    ArchiveFormat, Commit, Export, History, ImageCommand, ImageRm, Images, Import, Load, Save, Tag, Verify,
};
use super::bars::{Bars, Show};
use super::failure::Failure;
use super::filter::{Filters, glob_matches};
use super::format::{Column, Listing, Row};
use super::names::Here;
use super::{inspect, names, prune, ps, registries, view};
use crate::engine::native::{Watcher, commit};
use crate::runtime::image::archive;
use crate::runtime::image::registry::credentials;
use crate::runtime::image::{self, Access, Damage, Image, ImageReference, Platform, Settings, Store, Wait};
use crate::runtime::init::spec::MountSource;
use crate::runtime::roots::Roots;
use crate::runtime::{container, overlay};

const COLUMNS: &[Column] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("Name", "NAME"),
];

pub fn command(roots: &Roots, command: &ImageCommand) -> Result<ExitCode, Failure> {
    match command {
        ImageCommand::Ls(arguments) => list(roots, arguments),
        ImageCommand::Pull(arguments) => registries::pull(roots, arguments),
        ImageCommand::Push(arguments) => registries::push(roots, arguments),
        ImageCommand::Tag(arguments) => tag(roots, arguments),
        ImageCommand::Inspect(arguments) => inspect::one_kind(roots, arguments, inspect::Kind::Image),
        ImageCommand::History(arguments) => history(roots, arguments),
        ImageCommand::Load(arguments) => load(roots, arguments),
        ImageCommand::Save(arguments) => save(roots, arguments),
        ImageCommand::Import(arguments) => import(roots, arguments),
        ImageCommand::Verify(arguments) => verify(roots, arguments),
        ImageCommand::Rm(arguments) => rm(roots, arguments),
        ImageCommand::Prune(arguments) => prune::images(roots, arguments),
    }
}

pub fn list(roots: &Roots, arguments: &Images) -> Result<ExitCode, Failure> {
    let images = find(roots, arguments)?;
    if arguments.list.quiet {
        // An image with two names is listed once.
        let mut seen = std::collections::BTreeSet::new();
        let ids = images.iter().filter(|image| seen.insert(image.id.clone()));
        view::out(&ids.map(|image| short_id(image, arguments.no_trunc) + "\n").collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = vec!["Repository", "Tag", "ID", "CreatedSince", "Size"];
    if arguments.digests {
        table.insert(2, "Digest");
    }
    let containers = container::list(roots)?;
    let mut listing = Listing::new(COLUMNS, &table);
    for image in &images {
        let users = containers.iter().filter(|one| one.config.image_id == image.id.to_string()).count();
        listing.push(row(image, users, arguments.no_trunc));
    }
    listing.print(&arguments.list.format.format)?;
    Ok(ExitCode::SUCCESS)
}

fn find(roots: &Roots, arguments: &Images) -> Result<Vec<Image>, Failure> {
    let known = ["before", "dangling", "label", "label!", "reference", "since"];
    let filters = Filters::parse(&arguments.list.filter.filter, &known)?;
    let images = Store::open(roots).list()?;
    let bound = |key: &str| -> Result<Option<u64>, Failure> {
        filters.first(key).map(|name| Ok(created_ms(&get(roots, name)?))).transpose()
    };
    let (before, since, dangling) = (bound("before")?, bound("since")?, filters.truth("dangling")?);
    let wanted = |image: &Image| {
        arguments.name.as_ref().is_none_or(|name| is_named(image, name))
            && filters.any("reference", |pattern| is_named(image, pattern))
            && filters.labels(&labels(image))
            && dangling.is_none_or(|dangling| dangling == (image.reference == NAMELESS))
            && before.is_none_or(|at| created_ms(image) < at)
            && since.is_none_or(|at| created_ms(image) > at)
    };
    Ok(images.into_iter().filter(wanted).collect())
}

/// `nginx`, `nginx:1.27`, `ng*`, in any way in which people write the name.
fn is_named(image: &Image, pattern: &str) -> bool {
    image::spellings(&image.reference).iter().any(|name| {
        let (repository, tag) = split(name);
        glob_matches(repository, pattern) || glob_matches(&format!("{repository}:{tag}"), pattern)
    })
}

/// What the store calls an image that has no name any more.
pub const NAMELESS: &str = "<none>";

pub fn labels(image: &Image) -> BTreeMap<String, String> {
    image.config.labels_of_config().map(|labels| labels.clone().into_iter().collect()).unwrap_or_default()
}

/// Repository and tag. A colon before a slash belongs to a registry's port.
fn split(reference: &str) -> (&str, &str) {
    if reference == NAMELESS {
        return (NAMELESS, NAMELESS);
    }
    let (name, digest) = reference.split_once('@').map_or((reference, false), |(name, _)| (name, true));
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ if digest => (name, "<none>"),
        _ => (name, "latest"),
    }
}

/// When it was made, or came here where it does not say, or says the beginning of time as reproducible builds do.
pub fn created_ms(image: &Image) -> u64 {
    const A_DAY: u64 = 86_400_000;
    let said = image.config.created().as_ref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let said = said.and_then(|time| u64::try_from(time.as_millisecond()).ok());
    said.filter(|ms| *ms > A_DAY).unwrap_or(image.created_ms)
}

/// Of this host, in the word that images use for it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn short_id(image: &Image, whole: bool) -> String {
    if whole { image.id.to_string() } else { image.id.hex().chars().take(12).collect() }
}

fn row(image: &Image, containers: usize, whole: bool) -> Row {
    let (repository, tag) = split(&image.reference);
    let created = created_ms(image);
    let cells = [
        ("Repository", repository.to_owned()),
        ("Tag", tag.to_owned()),
        ("Digest", image.digest.to_string()),
        ("ID", short_id(image, whole)),
        ("CreatedSince", view::ago(created)),
        ("CreatedAt", ps::created_at(created)),
        ("Size", view::size(image.size)),
        ("Containers", containers.to_string()),
        ("Name", image.reference.clone()),
    ];
    Row::new(cells, value(image, containers))
}

/// What programs read: an object of `images --format json`.
fn value(image: &Image, containers: usize) -> Value {
    let (repository, tag) = split(&image.reference);
    json!({
        "name": image.reference,
        "repository": repository,
        "tag": tag,
        "id": image.id,
        "digest": image.digest,
        "manifest": image.manifest,
        "place": image.place,
        "size_bytes": image.size,
        "created_at": view::time(created_ms(image)),
        "stored_at": view::time(image.created_ms),
        "architecture": image.config.architecture(),
        "os": image.config.os(),
        "labels": labels(image),
        "containers": containers,
    })
}

/// The image of this name or id.
///
/// # Errors
/// With the nearest name where there is none.
pub fn get(roots: &Roots, name: &str) -> Result<Image, Failure> {
    let store = Store::open(roots);
    if let Some(image) = store.get(name)? {
        return Ok(image);
    }
    let known: Vec<String> = store.list()?.into_iter().map(|image| image.reference).collect();
    let help = names::hint(name, known.iter().map(String::as_str), "`stack images` lists what there is");
    Err(Failure::new(format!("no image {name:?}\n  help: {help}")))
}

fn store(roots: &Roots) -> Result<(Store, Settings), Failure> {
    let settings = Settings::of_host(roots)?;
    Ok((Store::open(roots).with_limits(&settings.limits), settings))
}

pub fn tag(roots: &Roots, arguments: &Tag) -> Result<ExitCode, Failure> {
    get(roots, &arguments.image)?;
    Store::open(roots).tag(&arguments.image, &arguments.name)?;
    Ok(ExitCode::SUCCESS)
}

pub fn rm(roots: &Roots, arguments: &ImageRm) -> Result<ExitCode, Failure> {
    let mut failures = Vec::new();
    for name in &arguments.names {
        if arguments.force && Store::open(roots).get(name)?.is_none() {
            continue;
        }
        match rm_one(roots, name) {
            Ok(()) => view::out(&format!("{name}\n"))?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::of_all(failures)
}

fn rm_one(roots: &Roots, name: &str) -> Result<(), Failure> {
    let image = get(roots, name)?;
    let refused = |error: image::Error| match error {
        image::Error::InUse(_) => used_by(roots, name, &image),
        other => other.into(),
    };
    Store::open(roots).remove(name).map(drop).map_err(refused)
}

/// Names the containers that are made from it.
fn used_by(roots: &Roots, name: &str, image: &Image) -> Failure {
    let id = image.id.to_string();
    let mounts = |one: &container::Container| {
        let mut sources = one.config.request.mounts.iter().map(|mount| &mount.source);
        sources.any(|source| matches!(source, MountSource::Image { id: own, .. } if *own == id))
    };
    let uses = |one: &container::Container| one.config.image_id == id || mounts(one);
    match container::list(roots) {
        Ok(all) => {
            let users: Vec<String> = all.into_iter().filter(uses).map(|one| one.config.name).collect();
            Failure::new(format!("image {name:?} is used by {}\n  help: `stack rm` these first", users.join(", ")))
        }
        Err(error) => error.into(),
    }
}

const STEPS: &[Column] =
    &[("CreatedSince", "CREATED"), ("CreatedBy", "CREATED BY"), ("Comment", "COMMENT"), ("CreatedAt", "CREATED AT")];

pub fn history(roots: &Roots, arguments: &History) -> Result<ExitCode, Failure> {
    let image = get(roots, arguments.name.as_deref().unwrap_or_default())?;
    let mut listing = Listing::new(STEPS, &["CreatedSince", "CreatedBy", "Comment"]);
    for step in image.config.history().iter().flatten().rev() {
        let created = step.created().as_ref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let created = created.and_then(|time| u64::try_from(time.as_millisecond()).ok()).unwrap_or(0);
        let by = step.created_by().clone().unwrap_or_default();
        let comment = step.comment().clone().unwrap_or_default();
        let value = json!({"created_at": view::time(created), "created_by": by, "comment": comment,
                           "empty_layer": step.empty_layer().unwrap_or(false)});
        let cells = [
            ("CreatedSince", if created == 0 { String::new() } else { view::ago(created) }),
            ("CreatedBy", if arguments.no_trunc { by } else { view::cut(&by, 45) }),
            ("Comment", comment),
            ("CreatedAt", if created == 0 { String::new() } else { ps::created_at(created) }),
        ];
        listing.push(Row::new(cells, value));
    }
    listing.print(&arguments.format.format)?;
    Ok(ExitCode::SUCCESS)
}

pub fn load(roots: &Roots, arguments: &Load) -> Result<ExitCode, Failure> {
    let (store, _) = store(roots)?;
    let platform = arguments.platform.as_deref();
    let wrong = |text: &str| image::Error::Platform(text.to_owned());
    let platform = platform.map(|text| Platform::parse(text).ok_or_else(|| wrong(text))).transpose()?;
    let input = arguments.input.as_deref().unwrap_or(Path::new("/dev/stdin"));
    let (name, platform) = (arguments.tag.as_deref(), platform.as_ref());
    let options = archive::LoadOptions { name, platform, ..Default::default() };
    let shown = registries::shown(arguments.quiet, &arguments.format.format);
    let bars = Bars::new(shown);
    let archive = input.display().to_string();
    for image in archive::load(&store, input, options, &|progress| bars.progress(&archive, progress))? {
        let name = if image.reference == NAMELESS { image.id.to_string() } else { image.reference };
        match shown {
            Show::Programs => {
                let value = json!({"image": name, "state": "loaded", "digest": image.manifest});
                view::out(&format!("{value}\n"))?;
            }
            Show::People | Show::Nothing => view::out(&format!("{name}\n"))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub fn save(roots: &Roots, arguments: &Save) -> Result<ExitCode, Failure> {
    let (store, _) = store(roots)?;
    let mut images: Vec<(Image, Vec<String>)> = Vec::new();
    for name in &arguments.names {
        let image = get(roots, name)?;
        let own = (image.reference != "<none>" && !image.id.hex().starts_with(name.trim_start_matches("sha256:")))
            .then(|| {
                ImageReference::parse(&image.reference).map_or_else(|_| image.reference.clone(), |one| one.to_string())
            });
        match images.iter_mut().find(|(one, _)| one.manifest == image.manifest) {
            Some((_, names)) => names.extend(own),
            None => images.push((image, own.into_iter().collect())),
        }
    }
    let format = match arguments.format {
        ArchiveFormat::DockerArchive => archive::Format::Docker,
        ArchiveFormat::OciArchive => archive::Format::Oci,
    };
    written(arguments.output.as_deref(), |to| Ok(archive::save(&store, &images, format, to)?))
}

/// To a file for its owner alone, which is there whole or not at all, or to standard output, which must not be a terminal.
fn written(
    path: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    let Some(path) = path else {
        if std::io::stdout().is_terminal() {
            return Err(Failure::new("an archive is not written to a terminal\n  help: `-o FILE`, or a pipe"));
        }
        write(&mut std::io::stdout().lock())?;
        return Ok(ExitCode::SUCCESS);
    };
    let at = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    let regular = std::fs::metadata(path).map_or(true, |data| data.is_file());
    if !regular {
        write(&mut File::options().write(true).open(path).map_err(at)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let temporary = path.with_file_name(name);
    let done = (|| {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary).map_err(at)?;
        write(&mut file)?;
        std::fs::rename(&temporary, path).map_err(at)
    })();
    if done.is_err() {
        std::fs::remove_file(&temporary).ok();
    }
    done?;
    Ok(ExitCode::SUCCESS)
}

pub fn import(roots: &Roots, arguments: &Import) -> Result<ExitCode, Failure> {
    let (store, _) = store(roots)?;
    let source = arguments.source.as_path();
    let source = if source == Path::new("-") { Path::new("/dev/stdin") } else { source };
    let image = store.import_rootfs(source, &arguments.name)?;
    view::out(&format!("{}\n", image.id))?;
    Ok(ExitCode::SUCCESS)
}

/// A container's whole file system, as a tar.
pub fn export(roots: &Roots, arguments: &Export) -> Result<ExitCode, Failure> {
    let found = names::one(roots, &arguments.container)?;
    let upper = container::Paths::of(roots, &found.config.name).upper;
    let layers: Vec<_> = found.config.layers.iter().cloned().chain([upper]).collect();
    written(arguments.output.as_deref(), |to| {
        let whole = overlay::open(&layers, None)?;
        image::pack(whole.as_fd(), None, &image::Pack::default(), std::io::BufWriter::with_capacity(1 << 20, to))?;
        Ok(())
    })
}

/// Makes an image of a container.
pub fn commit(roots: &Roots, here: &Here, arguments: &Commit) -> Result<ExitCode, Failure> {
    let found = names::one_or_service(roots, here, &arguments.container)?;
    let wanted = commit::Commit {
        name: arguments.name.clone(),
        author: arguments.author.clone(),
        message: arguments.message.clone(),
        changes: arguments.changes.clone(),
        pause: arguments.pause,
        created: jiff::Timestamp::now(),
    };
    let image = commit::commit(roots, &found, &wanted)?;
    view::out(&format!("{}\n", image.id))?;
    Ok(ExitCode::SUCCESS)
}

pub fn verify(roots: &Roots, arguments: &Verify) -> Result<ExitCode, Failure> {
    let (store, settings) = store(roots)?;
    let waiting = |wait: &Wait<'_>| {
        view::note(&format!("waiting {:.1} s for {}: {}", wait.seconds, wait.host, wait.reason));
    };
    let access = Access { settings: &settings, keyring: &credentials::of_user, waiting: &waiting };
    let repair = arguments.repair.then_some(access);
    let mut found = Vec::new();
    if arguments.names.is_empty() {
        found = store.verify(None, repair)?;
    }
    for name in &arguments.names {
        found.extend(store.verify(Some(name), repair)?);
    }
    let mut listing = Listing::new(DAMAGES, &["Image", "State", "Detail"]);
    for one in &found {
        let state = match (one.damages.is_empty(), one.repaired) {
            (true, _) => "ok",
            (false, true) => "repaired",
            (false, false) => "DAMAGED",
        };
        let details: Vec<String> = one.damages.iter().map(damage).collect();
        let value = json!({"name": one.name, "state": state.to_ascii_lowercase(), "damages": details});
        let cells = [("Image", one.name.clone()), ("State", state.to_owned()), ("Detail", details.join("; "))];
        listing.push(Row::new(cells, value));
    }
    listing.print(&arguments.format.format)?;
    let good = found.iter().all(|one| one.damages.is_empty() || one.repaired);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

const DAMAGES: &[Column] = &[("Image", "IMAGE"), ("State", "STATE"), ("Detail", "DETAIL")];

fn damage(damage: &Damage) -> String {
    match damage {
        Damage::Blob(digest) => format!("blob {digest} is missing or damaged"),
        Damage::Layer { layer, place } => format!("layer {layer} differs at {place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_repository_and_tag() {
        for (reference, expected) in [
            ("nginx", ("nginx", "latest")),
            ("nginx:1.27", ("nginx", "1.27")),
            ("localhost:5000/a", ("localhost:5000/a", "latest")),
            ("localhost:5000/a:b", ("localhost:5000/a", "b")),
            ("a@sha256:0", ("a", "<none>")),
            ("builtin:whoami", ("builtin", "whoami")),
            (NAMELESS, (NAMELESS, NAMELESS)),
        ] {
            assert_eq!(split(reference), expected);
        }
    }
}
