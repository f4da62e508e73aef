//! What is kept of volumes: snapshots, copies, archives, and the trash.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::args::{
    VolumeClone, VolumeExport, VolumeImport, VolumeRestore, VolumeRmSnapshot, VolumeSnapshot, VolumeSnapshots,
    VolumeUndelete,
};
use super::failure::Failure;
use super::format::{Column, Format, Listing, Row};
use super::{prune, view};
use crate::engine::native::volume_users;
use crate::runtime::container;
use crate::runtime::image::{self, Pack};
use crate::runtime::roots::Roots;
use crate::runtime::volume::snapshot::{self, Cost, Snapshot};
use crate::runtime::volume::trash::{self, Trashed};
use crate::runtime::volume::{self, VolumeConfig};

const SNAPSHOTS: &[Column] = &[("Volume", "VOLUME"), ("Name", "SNAPSHOT"), ("Created", "CREATED"), ("Size", "SIZE")];
const TRASH: &[Column] =
    &[("Name", "NAME"), ("ID", "ID"), ("Removed", "REMOVED"), ("Expires", "EXPIRES"), ("Size", "SIZE")];

pub fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// Those of its containers that run.
pub fn running(roots: &Roots, name: &str) -> Result<Vec<String>, Failure> {
    let runs = |name: &String| container::get(roots, name).is_ok_and(|found| found.is_running());
    Ok(volume_users(roots, name)?.into_iter().filter(runs).collect())
}

/// Asks before disk is taken.
fn afford(what: &str, cost: Cost, consents: bool) -> Result<(), Failure> {
    let Cost::Copied(bytes) = cost else { return Ok(()) };
    let size = view::size(bytes);
    if consents || prune::asked(&format!("{what} copies {size}, since its file system can't share blocks; go on?"))? {
        return Ok(());
    }
    Err(Failure::new(format!("{what} would copy {size}: nothing was done\n  help: `--yes` consents to it")))
}

pub fn snapshot(roots: &Roots, arguments: &VolumeSnapshot) -> Result<ExitCode, Failure> {
    let volume = &arguments.volume;
    let found = super::volumes::existing(roots, volume)?;
    let users = running(roots, volume)?;
    if !users.is_empty() && !arguments.pause && !arguments.live {
        let text = format!("volume {volume} is in use: {} run", users.join(", "));
        let help = "`--pause` suspends them meanwhile, `--live` takes what is there while they write";
        return Err(Failure::new(format!("{text}\n  help: {help}")));
    }
    afford("the snapshot", snapshot::cost(&found.data)?, arguments.yes)?;
    let now = now_ms();
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string(),
    };
    let take = || snapshot::take(roots, volume, &name, now).map_err(Failure::from);
    let taken = if arguments.pause { paused(roots, &users, take) } else { take() };
    view::out(&format!("{}\n", taken?.name))?;
    Ok(ExitCode::SUCCESS)
}

/// Takes a snapshot of this name while its containers are suspended, in place of one that has the name already.
pub fn take_again(roots: &Roots, volume: &str, name: &str, consents: bool) -> Result<(), Failure> {
    let found = super::volumes::existing(roots, volume)?;
    afford(&format!("the snapshot of volume {volume}"), snapshot::cost(&found.data)?, consents)?;
    if snapshot::find(roots, volume, name).is_ok() {
        snapshot::remove(roots, volume, name)?;
    }
    let users = running(roots, volume)?;
    paused(roots, &users, || snapshot::take(roots, volume, name, now_ms()).map_err(Failure::from))?;
    Ok(())
}

/// Does it while these containers are suspended; whatever happens, those that were suspended here go on.
fn paused<T>(roots: &Roots, users: &[String], act: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut suspended = Vec::new();
    let mut failures = Vec::new();
    for user in users {
        match container::pause(roots, user) {
            Ok(()) => suspended.push(user),
            // Somebody else has suspended it, and lets it go on.
            Err(container::Error::Paused(_)) => {}
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    let done = if failures.is_empty() { Some(act()) } else { None };
    for user in suspended {
        failures.extend(container::unpause(roots, user).err().map(Failure::from));
    }
    match done {
        Some(done) if failures.is_empty() => done,
        Some(Err(failure)) => Err(failure),
        _ => Failure::of_all(failures).and_then(|_| Err(Failure::new("nothing could be suspended"))),
    }
}

pub fn list_snapshots(roots: &Roots, arguments: &VolumeSnapshots) -> Result<ExitCode, Failure> {
    let names = match &arguments.names[..] {
        [] => volume::list(roots)?.into_iter().map(|one| one.config.name).collect(),
        names => names.to_vec(),
    };
    let mut listing = Listing::new(SNAPSHOTS, &["Volume", "Name", "Created", "Size"]);
    for name in &names {
        super::volumes::existing(roots, name)?;
        for one in snapshot::list(roots, name)? {
            listing.push(snapshot_row(name, &one));
        }
    }
    listing.print(&arguments.format.format)?;
    Ok(ExitCode::SUCCESS)
}

fn snapshot_row(volume: &str, one: &Snapshot) -> Row {
    let size = volume::disk_use(&one.data);
    let value = json!({
        "volume": volume,
        "name": one.name,
        "created_at": view::time(one.created_ms),
        "directory": one.data,
        "size_bytes": size,
    });
    let cells = [
        ("Volume", volume.to_owned()),
        ("Name", one.name.clone()),
        ("Created", view::ago(one.created_ms)),
        ("Size", view::size(size)),
    ];
    Row::new(cells, value)
}

pub fn remove_snapshots(roots: &Roots, arguments: &VolumeRmSnapshot) -> Result<ExitCode, Failure> {
    super::volumes::existing(roots, &arguments.volume)?;
    let mut failures = Vec::new();
    for name in &arguments.names {
        match snapshot::remove(roots, &arguments.volume, name) {
            Ok(()) => view::out(&format!("{name}\n"))?,
            Err(error) => failures.push(error.into()),
        }
    }
    Failure::of_all(failures)
}

pub fn restore(roots: &Roots, arguments: &VolumeRestore) -> Result<ExitCode, Failure> {
    let (volume, name) = (&arguments.volume, &arguments.snapshot);
    super::volumes::existing(roots, volume)?;
    let found = snapshot::find(roots, volume, name)?;
    let users = running(roots, volume)?;
    if users.is_empty() {
        afford("the restore", snapshot::cost(&found.data)?, arguments.yes)?;
    }
    snapshot::restore(roots, volume, name, &users, now_ms())?;
    view::out(&format!("{volume}\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub fn clone(roots: &Roots, arguments: &VolumeClone) -> Result<ExitCode, Failure> {
    let source = super::volumes::existing(roots, &arguments.volume)?;
    let data = match &arguments.snapshot {
        Some(name) => snapshot::find(roots, &arguments.volume, name)?.data,
        None => volume::mount(roots, &arguments.volume)?,
    };
    let cost = if source.config.driver_opts.is_empty() {
        snapshot::cost(&data)?
    } else {
        Cost::Copied(volume::disk_use(&data))
    };
    afford("the clone", cost, arguments.yes)?;
    snapshot::clone(roots, &plain(&arguments.new), &data)?;
    view::out(&format!("{}\n", arguments.new))?;
    Ok(ExitCode::SUCCESS)
}

/// A volume of nobody's stack.
fn plain(name: &str) -> VolumeConfig {
    VolumeConfig { name: name.to_owned(), ..VolumeConfig::default() }
}

pub fn export(roots: &Roots, arguments: &VolumeExport) -> Result<ExitCode, Failure> {
    super::volumes::existing(roots, &arguments.volume)?;
    let data = match &arguments.snapshot {
        Some(name) => snapshot::find(roots, &arguments.volume, name)?.data,
        None => volume::mount(roots, &arguments.volume)?,
    };
    let top = File::open(&data).map_err(|error| Failure::new(format!("{}: {error}", data.display())))?;
    match &arguments.output {
        None if io::stdout().is_terminal() => {
            Err(Failure::new("an archive is not for a terminal\n  help: write it to a file with `-o FILE`"))
        }
        None => pack(&top, io::stdout().lock()),
        Some(path) => whole(path, |file| pack(&top, file)),
    }
}

fn pack(top: &File, mut out: impl Write) -> Result<ExitCode, Failure> {
    image::pack(top.as_fd(), None, &Pack::default(), &mut out)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// For its owner alone, and under its name only when it is complete.
fn whole<T>(path: &Path, write: impl FnOnce(&mut File) -> Result<T, Failure>) -> Result<T, Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = Path::new(&name);
    let about = |error: io::Error| Failure::new(format!("{}: {error}", part.display()));
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(part).map_err(about)?;
    let written = write(&mut file).and_then(|done| file.sync_all().map(|()| done).map_err(about));
    match written {
        Ok(done) => std::fs::rename(part, path).map(|()| done).map_err(about),
        Err(failure) => {
            std::fs::remove_file(part).map_err(about)?;
            Err(failure)
        }
    }
}

pub fn import(roots: &Roots, arguments: &VolumeImport) -> Result<ExitCode, Failure> {
    let archive: Box<dyn Read> = match &arguments.input {
        Some(path) => Box::new(File::open(path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?),
        None if io::stdin().is_terminal() => {
            return Err(Failure::new("no archive comes from a terminal\n  help: read it from a file with `-i FILE`"));
        }
        None => Box::new(io::stdin().lock()),
    };
    let extract = |data: &Path| {
        let wrong = |error: &dyn std::fmt::Display| volume::Error::Io {
            path: data.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidData, format!("the archive: {error}")),
        };
        let top = File::open(data).map_err(|error| wrong(&error))?;
        image::extract_over(archive, top.as_fd(), 0).map_err(|error| wrong(&error))
    };
    snapshot::fill(roots, &plain(&arguments.volume), extract)?;
    view::out(&format!("{}\n", arguments.volume))?;
    Ok(ExitCode::SUCCESS)
}

pub fn undelete(roots: &Roots, arguments: &VolumeUndelete) -> Result<ExitCode, Failure> {
    let back = trash::undelete(roots, &arguments.name, arguments.new.as_deref())?;
    view::out(&format!("{}\n", back.config.name))?;
    Ok(ExitCode::SUCCESS)
}

/// `volume ls --trash`.
pub fn list_trash(roots: &Roots, quiet: bool, format: &Format) -> Result<ExitCode, Failure> {
    let kept = u64::try_from(trash::time_to_live(roots)?.as_millis()).unwrap_or(u64::MAX);
    let all = trash::list(roots)?;
    if quiet {
        view::out(&all.iter().map(|one| one.id.clone() + "\n").collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut listing = Listing::new(TRASH, &["Name", "ID", "Removed", "Expires", "Size"]);
    for one in &all {
        listing.push(trash_row(one, one.removed_ms.saturating_add(kept)));
    }
    listing.print(format)?;
    Ok(ExitCode::SUCCESS)
}

fn trash_row(one: &Trashed, expires_ms: u64) -> Row {
    let size = volume::disk_use(&one.volume.data);
    let config = &one.volume.config;
    let expires = view::time(expires_ms);
    let value = json!({
        "name": config.name,
        "id": one.id,
        "removed_at": view::time(one.removed_ms),
        "expires_at": expires,
        "size_bytes": size,
        "labels": config.labels,
    });
    let cells = [
        ("Name", config.name.clone()),
        ("ID", one.id.clone()),
        ("Removed", view::ago(one.removed_ms)),
        ("Expires", expires.as_str().unwrap_or_default().to_owned()),
        ("Size", view::size(size)),
    ];
    Row::new(cells, value).with_labels(&config.labels)
}
