//! Mounts of somebody else's specification: as its options say, to the letter.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_spec::runtime::{Mount, Spec};

use super::InitError;
use super::mounts::{self, attach, directory, directory_without_links, kernel_files, kind_of, options_of, place};
use super::options::{self, Below, Options, READ_ONLY};
use super::users::listed;
use crate::runtime::cgroup::Cgroup;
use crate::runtime::sys;
use crate::runtime::userns;

/// Who makes what is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// The child, but for what only its starter can make.
    Child,
    /// The starter makes all: the child can't reach the sources.
    Starter,
}

/// What the starter has ready for a mount.
#[derive(Debug)]
pub enum Made {
    /// All of it, attached nowhere yet.
    Mount(OwnedFd),
    /// Its source is below the root, where earlier mounts are to be seen: this is its path there, and the user namespace
    /// whose ids it is to show.
    Below(PathBuf, Option<OwnedFd>),
}

/// What the starter makes, by its place in the specification.
pub fn prepare(
    spec: &Spec,
    rootfs: &Path,
    users: Option<&OwnedFd>,
    maker: Maker,
) -> Result<BTreeMap<usize, Made>, InitError> {
    let mut prepared = BTreeMap::new();
    for (index, wanted) in spec.mounts().iter().flatten().enumerate() {
        let step = || InitError::step(format!("mount {}", wanted.destination().display()));
        let words = options_of(wanted);
        let options = options::parse(&words).map_err(|word| step()(io::Error::other(word)))?;
        if !is_bind(wanted, &options) {
            continue;
        }
        let source = wanted.source().as_deref().unwrap_or(Path::new(""));
        let below = source.strip_prefix(rootfs).ok().filter(|below| !below.as_os_str().is_empty());
        if let Some(below) = below {
            let ids = users_of(wanted, &options, users).map_err(step())?;
            if ids.is_some() && users.is_some() {
                let reason = "ids of what is below the root can't be mapped from inside of a user namespace";
                return Err(step()(io::Error::new(io::ErrorKind::Unsupported, reason)));
            }
            prepared.insert(index, Made::Below(below.to_owned(), ids));
        } else if maker == Maker::Starter || is_of_starter(wanted, &options) {
            let users = users_of(wanted, &options, users).map_err(step())?;
            let made = source_of(source, &options).and_then(|copy| bind(copy, source, &options, users.as_ref()));
            prepared.insert(index, Made::Mount(made.map_err(step())?));
        }
    }
    Ok(prepared)
}

/// What is mounted below a shared source inside is to be seen outside, and the child's copies of the host's mounts do
/// not pass that on. Ids are mapped by who has rights over both file system and namespace.
fn is_of_starter(wanted: &Mount, options: &Options<'_>) -> bool {
    options.propagation.iter().any(|(kind, _)| *kind == libc::MS_SHARED) || maps_ids(wanted, options)
}

fn is_bind(wanted: &Mount, options: &Options<'_>) -> bool {
    !options.remount && (kind_of(wanted) == "bind" || options.bind.is_some())
}

fn has_mappings(wanted: &Mount) -> bool {
    wanted.uid_mappings().is_some() || wanted.gid_mappings().is_some()
}

fn maps_ids(wanted: &Mount, options: &Options<'_>) -> bool {
    options.ids.is_some() || has_mappings(wanted)
}

/// The user namespace whose ids the mount is to show: one of its own mappings, or the container's.
fn users_of(wanted: &Mount, options: &Options<'_>, container: Option<&OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match container {
        _ if !maps_ids(wanted, options) => Ok(None),
        _ if has_mappings(wanted) => {
            userns::with_mappings(&listed(wanted.uid_mappings()), &listed(wanted.gid_mappings())).map(Some)
        }
        Some(container) => container.try_clone().map(Some),
        None => Err(io::Error::other("it has neither mappings of its own nor a user namespace")),
    }
}

/// One mount, made by the child.
pub fn mount(wanted: &Mount, made: Option<&Made>, root: BorrowedFd<'_>, group: &Cgroup) -> io::Result<()> {
    let words = options_of(wanted);
    let options = options::parse(&words).map_err(io::Error::other)?;
    let (kind, destination) = (kind_of(wanted), wanted.destination());
    if options.remount {
        return remount(wanted, &options, root);
    }
    if is_bind(wanted, &options) {
        let source = wanted.source().as_deref().unwrap_or(Path::new(""));
        let bound = match made {
            Some(Made::Mount(mount)) => return attach_bound(mount, root, destination),
            Some(Made::Below(path, ids)) => bind(source_below(root, path, &options)?, source, &options, ids.as_ref()),
            None => bind(source_of(source, &options)?, source, &options, None),
        };
        return attach_bound(&bound?, root, destination);
    }
    let relative = destination.strip_prefix("/").unwrap_or(destination);
    let made = match kind {
        "cgroup" | "cgroup2" => return mounts::cgroup(root, place(destination)?, group, options.own.set),
        "proc" | "sysfs" => {
            let made = kernel_files(kind, options.own.set)?;
            // Both have no options of their own, and no source but their name.
            propagate(made.as_fd(), &options)?;
            return sys::attach_mount(made.as_fd(), directory_without_links(root, relative)?.as_fd());
        }
        kind => {
            let place = place(destination)?;
            // One that is made for this has no mode that anybody meant.
            let mode = match sys::open_in_root(root, place, libc::O_PATH | libc::O_DIRECTORY, 0) {
                Ok(covered) => Some(format!("{:o}", nix::sys::stat::fstat(&covered)?.st_mode & 0o7777)),
                Err(_) => None,
            };
            let target = directory(root, place, 0o755)?;
            let attributes = if is_dev(wanted) { options.own.set & !READ_ONLY } else { options.own.set };
            let made = sys::make_mount(kind, &parameters(wanted, &options, mode.as_deref()), attributes)?;
            if options.copy_up {
                copy_up(target.as_fd(), made.as_fd())?;
            }
            (made, target)
        }
    };
    propagate(made.0.as_fd(), &options)?;
    sys::attach_mount(made.0.as_fd(), made.1.as_fd())
}

/// Those of the file system. A tmpfs has the mode of what it covers, where none is asked for.
fn parameters<'a>(wanted: &'a Mount, options: &Options<'a>, mode: Option<&'a str>) -> Vec<(&'a str, Option<&'a str>)> {
    let mut all = own_parameters(options);
    if kind_of(wanted) == "tmpfs" && mode.is_some() && !all.iter().any(|(key, _)| *key == "mode") {
        all.push(("mode", mode));
    }
    let source = wanted.source().as_deref().and_then(Path::to_str).filter(|source| !source.is_empty());
    all.extend(source.map(|source| ("source", Some(source))));
    all
}

fn own_parameters<'a>(options: &Options<'a>) -> Vec<(&'a str, Option<&'a str>)> {
    let split = |option: &&'a str| option.split_once('=').map_or((*option, None), |(key, value)| (key, Some(value)));
    options.data.iter().map(split).collect()
}

/// Changes what was mounted at the destination before: with `bind` the mount alone, else its file system too.
fn remount(wanted: &Mount, options: &Options<'_>, root: BorrowedFd<'_>) -> io::Result<()> {
    let target = sys::open_in_root(root, wanted.destination(), libc::O_PATH, 0)?;
    if !sys::is_root_of_mount(target.as_fd())? {
        return Err(io::Error::other("remount: nothing is mounted there"));
    }
    if options.bind.is_none() {
        let mut parameters = own_parameters(options);
        let bit = |bits: u64, word| (bits & READ_ONLY != 0).then_some((word, None));
        parameters.extend(bit(options.own.set, "ro").or(bit(options.own.clear, "rw")));
        sys::reconfigure_mount(target.as_fd(), &parameters)?;
    }
    change(target.as_fd(), options)?;
    propagate(target.as_fd(), options)
}

/// A file system that devices are still to be made on.
fn is_dev(wanted: &Mount) -> bool {
    wanted.destination() == Path::new("/dev") && kind_of(wanted) == "tmpfs"
}

/// Write-protects /dev, where that was asked for, once all is made in it.
pub fn finish_dev(spec: &Spec, root: BorrowedFd<'_>) -> io::Result<()> {
    let Some(dev) = spec.mounts().iter().flatten().find(|wanted| is_dev(wanted)) else { return Ok(()) };
    let words = options_of(dev);
    let options = options::parse(&words).map_err(io::Error::other)?;
    if options.own.set & READ_ONLY == 0 {
        return Ok(());
    }
    sys::restrict_mount(sys::open_in_root(root, Path::new("dev"), libc::O_PATH, 0)?.as_fd(), READ_ONLY, false)
}

/// What is bound may be the host's /proc, where the container has its processes; nothing else takes that place.
fn attach_bound(mount: &OwnedFd, root: BorrowedFd<'_>, destination: &Path) -> io::Result<()> {
    /// `PROC_ROOT_INO` of the kernel.
    const TOPMOST: u64 = 1;
    let is_proc = destination == Path::new("/proc")
        && mounts::check_proc(mount).is_ok()
        && nix::sys::stat::fstat(mount)?.st_ino == TOPMOST;
    match is_proc {
        true => sys::attach_mount(mount.as_fd(), directory_without_links(root, Path::new("proc"))?.as_fd()),
        false => attach(mount, root, destination),
    }
}

/// A copy of what is to be bound, attached nowhere yet.
fn source_of(source: &Path, options: &Options<'_>) -> io::Result<OwnedFd> {
    let copy = match options.bind {
        Some(Below::Without) => sys::clone_mount_alone(source),
        _ => sys::clone_mount(source),
    };
    copy.map_err(|error| io::Error::new(error.kind(), format!("source {}: {error}", source.display())))
}

/// The same of what is below the root.
fn source_below(root: BorrowedFd<'_>, path: &Path, options: &Options<'_>) -> io::Result<OwnedFd> {
    let copy = sys::open_in_root(root, path, libc::O_PATH, 0).and_then(|source| match options.bind {
        Some(Below::Without) => sys::clone_mount_of_alone(source.as_fd()),
        _ => sys::clone_mount_of(source.as_fd()),
    });
    copy.map_err(|error| io::Error::new(error.kind(), format!("source /{}: {error}", path.display())))
}

/// Gives a copy what its options say.
fn bind(copy: OwnedFd, source: &Path, options: &Options<'_>, users: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    if let Some(users) = users {
        let below = options.ids == Some(Below::With);
        sys::map_mount_ids(copy.as_fd(), users.as_fd(), below).map_err(|error| cannot_map(source, error))?;
    }
    if options.propagation.is_empty() {
        sys::change_mounts(copy.as_fd(), 0, 0, libc::MS_PRIVATE, true)?;
    }
    propagate(copy.as_fd(), options)?;
    change(copy.as_fd(), options)?;
    Ok(copy)
}

fn cannot_map(source: &Path, error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EINVAL) => {
            let reason = format!("the file system of {} can't be mounted with mapped ids", source.display());
            io::Error::new(io::ErrorKind::Unsupported, reason)
        }
        _ => error,
    }
}

fn change(mount: BorrowedFd<'_>, options: &Options<'_>) -> io::Result<()> {
    for (change, below) in [(options.own, false), (options.all, true)] {
        if !change.is_none() {
            // What is lifted is lifted first, and of the access time the kernel wants all lifted that it may set one.
            sys::change_mounts(mount, change.set, change.clear, 0, below)?;
        }
    }
    Ok(())
}

fn propagate(mount: BorrowedFd<'_>, options: &Options<'_>) -> io::Result<()> {
    options.propagation.iter().try_for_each(|(kind, below)| sys::change_mounts(mount, 0, 0, *kind, *below))
}

/// Fills a new file system with what it is about to cover.
fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let readable = |directory: BorrowedFd<'_>| nix::fcntl::openat(directory, ".", flags, Mode::empty());
    crate::runtime::volume::copy_tree(readable(from)?.as_fd(), readable(to)?.as_fd())
}

/// How mounts of the container's namespace are passed on, once its root is its own.
pub fn set_root_propagation(spec: &Spec) -> io::Result<()> {
    let Some(wanted) = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_ref()) else {
        return Ok(());
    };
    let options = options::parse(&[wanted.as_str()]).map_err(io::Error::other)?;
    // The root itself: what was bound has its own word.
    let kept = options.propagation.iter().filter(|(kind, _)| [libc::MS_SHARED, libc::MS_UNBINDABLE].contains(kind));
    kept.into_iter().try_for_each(|(kind, _)| sys::change_mounts(mounts::open_root()?.as_fd(), 0, 0, *kind, false))
}
