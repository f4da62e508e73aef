//! Which container has which ids of the host: `ids/FIRST` below the durable root, format 1. Each is a symbolic link that
//! leads nowhere; its text is `NAME:PID:START`, the container and the process that made it. So taking a range is one
//! step, and nobody waits for anybody.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{Config, Error, Paths, ProcessId, io_at, list, observe};
use crate::runtime::roots::Roots;
use crate::runtime::state::{self, Contention, Lock};
use crate::runtime::userns::{IdRange, candidates, given_to_users};

/// A range that no other container of these roots has, nor a user of the host: the one that a container of this name had
/// before, as long as it is free. `None`: there is none left.
///
/// # Errors
/// Where it can't be written down.
pub fn claim(roots: &Roots, name: &str) -> Result<Option<IdRange>, Error> {
    let directory = directory(roots)?;
    let given = given_to_users();
    let free = candidates(&format!("{}/{name}", roots.key()));
    for ids in free.filter(|ids| !given.iter().any(|other| ids.overlaps(*other))) {
        if take(roots, &place(&directory, ids), ids, name)? {
            return Ok(Some(ids));
        }
    }
    Ok(None)
}

/// Whether a container of this name has the range, be it half made.
pub fn is_held(roots: &Roots, name: &str, ids: IdRange) -> bool {
    is_own(roots, ids, name)
}

/// Undoes [`claim`] for a container that could not be made.
///
/// # Errors
/// Where it can't be written down.
pub fn give_back(roots: &Roots, name: &str, ids: IdRange) -> Result<(), Error> {
    let is_used = has(roots, name)? == Some(ids);
    if is_used || !is_own(roots, ids, name) { Ok(()) } else { remove(&place(&roots.durable("ids"), ids)) }
}

/// The range is another name's from now on.
pub(super) fn rename(roots: &Roots, config: &Config, new: &str) -> Result<(), Error> {
    match config.request.users {
        Some(ids) if is_own(roots, ids, &config.name) => put(&place(&roots.durable("ids"), ids), new),
        _ => Ok(()),
    }
}

/// Lets go of the container's range, where it has one for itself.
pub(super) fn release(roots: &Roots, config: &Config) -> Result<(), Error> {
    match config.request.users {
        Some(ids) if is_own(roots, ids, &config.name) => remove(&place(&roots.durable("ids"), ids)),
        _ => Ok(()),
    }
}

/// Removes what makers that were killed have left.
///
/// # Errors
/// Where it can't be looked at.
pub fn sweep(roots: &Roots) -> Result<(), Error> {
    let directory = roots.durable("ids");
    for first in observe::names_in(&directory)?.iter().filter_map(|name| name.parse().ok()) {
        let ids = IdRange { first, size: crate::runtime::userns::SIZE };
        if is_left(roots, ids) {
            let _held = lock(roots)?;
            if is_left(roots, ids) {
                remove(&place(&directory, ids))?;
            }
        }
    }
    Ok(())
}

fn place(directory: &Path, ids: IdRange) -> PathBuf {
    directory.join(ids.first.to_string())
}

fn lock(roots: &Roots) -> Result<Lock, Error> {
    Ok(Lock::take(&roots.volatile("locks").join("ids"), Contention::Wait)?)
}

/// Made with what containers have that are older than it.
fn directory(roots: &Roots) -> Result<PathBuf, Error> {
    let directory = roots.durable("ids");
    if directory.exists() {
        return Ok(directory);
    }
    let _held = lock(roots)?;
    if !directory.exists() {
        let making = roots.durable("ids.making");
        super::remove::discard(&making)?;
        state::make_directory(&making)?;
        for one in list(roots)? {
            if let Some(ids) = one.config.request.users {
                put(&place(&making, ids), &one.config.name)?;
            }
        }
        fs::rename(&making, &directory).map_err(io_at(&directory))?;
    }
    Ok(directory)
}

fn take(roots: &Roots, path: &Path, ids: IdRange, name: &str) -> Result<bool, Error> {
    match symlink(text(name), path) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io_at(path)(error)),
        Err(_) => {}
    }
    if !is_own(roots, ids, name) && !is_left(roots, ids) {
        return Ok(false);
    }
    let _held = lock(roots)?;
    let free = is_own(roots, ids, name) || is_left(roots, ids);
    if free {
        put(path, name)?;
    }
    Ok(free)
}

fn text(name: &str) -> String {
    let maker = ProcessId::of(std::process::id() as i32);
    format!("{name}:{}:{}", maker.pid, maker.start)
}

/// In the place of what is there.
fn put(path: &Path, name: &str) -> Result<(), Error> {
    let making = path.with_extension("making");
    remove(&making)?;
    symlink(text(name), &making).and_then(|()| fs::rename(&making, path)).map_err(io_at(path))
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}

/// The name and the maker of who has the range.
fn holder(roots: &Roots, ids: IdRange) -> Option<(String, ProcessId)> {
    let text = fs::read_link(place(&roots.durable("ids"), ids)).ok()?.into_os_string().into_string().ok()?;
    let mut parts = text.rsplitn(3, ':');
    let (start, pid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((parts.next()?.to_owned(), ProcessId { pid, start }))
}

fn is_own(roots: &Roots, ids: IdRange, name: &str) -> bool {
    holder(roots, ids).is_some_and(|(holder, _)| holder == name)
}

/// Whether nobody needs it: its maker has ended, and there is no such container, or it has another one.
fn is_left(roots: &Roots, ids: IdRange) -> bool {
    let Some((name, maker)) = holder(roots, ids) else { return false };
    !maker.is_alive() && has(roots, &name).is_ok_and(|found| found != Some(ids))
}

/// What the container has that is called so.
fn has(roots: &Roots, name: &str) -> Result<Option<IdRange>, Error> {
    let found = observe::read_record(&Paths::of(roots, name))?;
    Ok(found.and_then(|one| one.config.request.users))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_range_keeps_it() {
        let folder = std::env::temp_dir().join(format!("stack-ids-{}", std::process::id()));
        let roots = Roots::new(folder.join("root"), folder.join("run"));
        state::make_private(&roots.root).unwrap();
        let web = claim(&roots, "web").unwrap().unwrap();
        let golden = fs::read_link(place(&roots.durable("ids"), web)).unwrap();
        assert!(golden.to_str().unwrap().starts_with(&format!("web:{}:", std::process::id())), "{golden:?}");
        assert_eq!(claim(&roots, "web").unwrap(), Some(web));
        // Somebody else has it, whose maker lives; then one that was killed, and left no container.
        let path = place(&roots.durable("ids"), web);
        put(&path, "other").unwrap();
        let next = claim(&roots, "web").unwrap().unwrap();
        assert!(!next.overlaps(web));
        remove(&path).unwrap();
        symlink(format!("other:{}:1", std::process::id()), &path).unwrap();
        assert_eq!(claim(&roots, "web").unwrap(), Some(web));
        let mut config = Config { name: "web".to_owned(), ..Config::default() };
        config.request.users = Some(web);
        rename(&roots, &config, "old").unwrap();
        release(&roots, &config).unwrap();
        assert!(is_own(&roots, web, "old"));
        config.name = "old".to_owned();
        release(&roots, &config).unwrap();
        assert_eq!(holder(&roots, web), None);
        assert!(is_own(&roots, next, "web"));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_killed_makers_left_is_swept_away() {
        let folder = std::env::temp_dir().join(format!("stack-ids-left-{}", std::process::id()));
        let roots = Roots::new(folder.join("root"), folder.join("run"));
        state::make_private(&roots.root).unwrap();
        let mine = claim(&roots, "mine").unwrap().unwrap();
        let left = candidates("x").find(|ids| !ids.overlaps(mine)).unwrap();
        symlink("gone:1:1", place(&roots.durable("ids"), left)).unwrap();
        sweep(&roots).unwrap();
        assert_eq!((holder(&roots, left), is_own(&roots, mine, "mine")), (None, true));
        fs::remove_dir_all(folder).unwrap();
    }
}
