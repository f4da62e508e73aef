//! A layer's archive becomes a directory that overlayfs stacks. The author of the archive is not trusted: every path
//! is opened inside the directory by openat2(2), so that no name, link or order of entries leads out of it.
//!
//! Whiteouts (OCI image specification, "Whiteouts") become what overlayfs understands: a character device 0/0, or the
//! attribute `trusted.overlay.opaque` of a directory. Device nodes are not made: `/dev` of a container is its own.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use tar::{Archive, Entry, EntryType};

use crate::runtime::sys;

/// More than any honest layer holds.
const MOST_ENTRIES: u64 = 2_000_000;
const MOST_BYTES: u64 = 256 << 30;
const LONGEST_PATH: usize = 4096;

/// Why a layer was refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("entry {path:?}: {reason}")]
    Entry { path: PathBuf, reason: String },
    #[error("the archive can't be read: {0}")]
    Archive(#[from] io::Error),
    #[error("the layer is too large: more than {0}")]
    TooLarge(&'static str),
}

/// What names of whiteouts mean.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whiteouts {
    /// What overlayfs understands.
    Marks,
    /// Ordinary files.
    Files,
}

/// Writes the entries of a layer below `directory`, which must be empty.
pub fn unpack(archive: impl Read, directory: &Path) -> Result<(), UnpackError> {
    let root: OwnedFd = File::open(directory)?.into();
    entries(archive, root.as_fd(), Whiteouts::Marks)
}

/// Writes the entries of an ordinary archive (not of a layer) below a directory that may hold something already.
///
/// # Errors
/// See [`UnpackError`].
pub fn extract(archive: impl Read, directory: BorrowedFd<'_>) -> Result<(), UnpackError> {
    entries(archive, directory, Whiteouts::Files)
}

fn entries(archive: impl Read, root: BorrowedFd<'_>, whiteouts: Whiteouts) -> Result<(), UnpackError> {
    let mut archive = Archive::new(archive);
    let mut directories: Vec<(PathBuf, u32, u64)> = Vec::new();
    let (mut entries, mut bytes) = (0_u64, 0_u64);
    for entry in archive.entries()? {
        let mut entry = entry?;
        entries += 1;
        bytes = bytes.saturating_add(entry.size());
        if entries > MOST_ENTRIES {
            return Err(UnpackError::TooLarge("2,000,000 entries"));
        }
        if bytes > MOST_BYTES {
            return Err(UnpackError::TooLarge("256 GiB"));
        }
        let path = entry.path()?.into_owned();
        let failed = |reason: String| UnpackError::Entry { path: path.clone(), reason };
        let Some(inside) = inside(&path).map_err(|reason| failed(reason.to_owned()))? else { continue };
        one(&mut entry, root, &inside, whiteouts).map_err(|error| failed(error.to_string()))?;
        if entry.header().entry_type() == EntryType::Directory {
            let header = entry.header();
            directories.push((inside, header.mode()? & 0o7777, number(header.as_old().mtime, header.mtime())?));
        }
    }
    // Last, since writing into a directory changes its time, and a mode may forbid it.
    for (path, mode, mtime) in directories.iter().rev() {
        let failed = |error: io::Error| UnpackError::Entry { path: path.clone(), reason: error.to_string() };
        // It may have been replaced by a later entry.
        let Ok(found) = sys::open_in_root(root, path, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0) else {
            continue;
        };
        fs::set_permissions(by_fd(&found), Permissions::from_mode(*mode)).map_err(failed)?;
        set_time(found.as_fd(), OsStr::new("."), *mtime).map_err(failed)?;
    }
    Ok(())
}

/// The path below the root, `None` for the root itself.
fn inside(path: &Path) -> Result<Option<PathBuf>, &'static str> {
    if path.as_os_str().len() > LONGEST_PATH {
        return Err("its path is too long");
    }
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inside.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir => return Err("its path leads out of the layer"),
            Component::Prefix(_) => return Err("its path is not one of Linux"),
        }
    }
    Ok((!inside.as_os_str().is_empty()).then_some(inside))
}

fn by_fd(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn one(entry: &mut Entry<'_, impl Read>, root: BorrowedFd<'_>, path: &Path, whiteouts: Whiteouts) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    let parent = parent(root, path.parent().unwrap_or(Path::new("")))?;
    let marks = whiteouts == Whiteouts::Marks;
    if marks && name == ".wh..wh..opq" {
        return sys::set_attribute(&by_fd(&parent), "trusted.overlay.opaque", b"y");
    }
    if marks && let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
        let hidden = OsStr::from_bytes(hidden);
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(io::Error::other("a whiteout of nothing"));
        }
        remove(parent.as_fd(), hidden)?;
        return Ok(mknodat(&parent, hidden, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))?);
    }
    let kind = entry.header().entry_type();
    let is_directory = kind == EntryType::Directory;
    if !(is_directory && is_plain_directory(parent.as_fd(), &name)) {
        remove(parent.as_fd(), &name)?;
    }
    match kind {
        EntryType::Directory => make_directory(parent.as_fd(), &name)?,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => file(entry, parent.as_fd(), &name)?,
        EntryType::Symlink => {
            let target = entry.link_name()?.ok_or_else(|| io::Error::other("a link without a target"))?;
            symlinkat(target.as_ref(), &parent, name.as_os_str())?;
        }
        EntryType::Link => return hard_link(entry, root, parent.as_fd(), &name),
        EntryType::Fifo => mknodat(&parent, name.as_os_str(), SFlag::S_IFIFO, Mode::empty(), 0)?,
        // Of an image's author nobody needs a device; what a container may use is in its own /dev.
        EntryType::Char | EntryType::Block => return Ok(()),
        EntryType::XGlobalHeader => return Ok(()),
        other => return Err(io::Error::other(format!("an entry of unknown kind {other:?}"))),
    }
    describe(entry, parent.as_fd(), &name, kind)
}

/// Opens a directory inside the root, making what is missing of its path.
fn parent(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    if path.as_os_str().is_empty() {
        return sys::open_in_root(root, Path::new("."), flags, 0);
    }
    match sys::open_in_root(root, path, flags, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let above = parent(root, path.parent().unwrap_or(Path::new("")))?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    make_directory(above.as_fd(), name)?;
    sys::open_in_root(root, path, flags, 0)
}

fn make_directory(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match mkdirat(parent, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(nix::Error::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_plain_directory(parent: BorrowedFd<'_>, name: &OsStr) -> bool {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty()).is_ok()
}

/// Makes room for an entry: a later one of the same name replaces the earlier.
fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
        Err(nix::Error::EISDIR | nix::Error::EPERM) => {
            fs::remove_dir_all(PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name))
        }
        Err(error) => Err(error.into()),
    }
}

fn file(entry: &mut Entry<'_, impl Read>, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(parent, name, flags, Mode::from_bits_truncate(0o600))?);
    io::copy(entry, &mut file).map(drop)
}

/// The target is another entry of this layer; a link of it is no link of something outside.
fn hard_link(
    entry: &Entry<'_, impl Read>,
    root: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    name: &OsStr,
) -> io::Result<()> {
    let target = entry.link_name()?.ok_or_else(|| io::Error::other("a link without a target"))?;
    let target = inside(&target).map_err(io::Error::other)?.ok_or_else(|| io::Error::other("a link to the root"))?;
    let found = sys::open_in_root(root, &target, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    Ok(linkat(&found, "", parent, name, AtFlags::AT_EMPTY_PATH)?)
}

/// Owner, mode, attributes and time, in an order in which the earlier do not undo the later.
fn describe(entry: &mut Entry<'_, impl Read>, parent: BorrowedFd<'_>, name: &OsStr, kind: EntryType) -> io::Result<()> {
    let header = entry.header();
    let (uid, gid) = (number(header.as_old().uid, header.uid())?, number(header.as_old().gid, header.gid())?);
    let (mode, mtime) = (header.mode()? & 0o7777, number(header.as_old().mtime, header.mtime())?);
    let id = |id: u64| u32::try_from(id).map_err(|_| io::Error::other("its owner is not a number of Linux"));
    let (uid, gid) = (Uid::from_raw(id(uid)?), Gid::from_raw(id(gid)?));
    fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if kind == EntryType::Symlink {
        return set_time(parent, name, mtime);
    }
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = by_fd_of(openat(parent, name, flags, Mode::empty())?);
    if kind != EntryType::Directory {
        fs::set_permissions(&made.1, Permissions::from_mode(mode))?;
    }
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let Some(key) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) else { continue };
        // Others are the host's affair: labels of its security module, overlayfs's own marks.
        if key == "security.capability" || key.starts_with("user.") {
            sys::set_attribute(&made.1, key, extension.value_bytes())?;
        }
    }
    set_time(parent, name, mtime)
}

/// A field that was left empty is 0, as other readers of archives have it.
fn number(field: impl AsRef<[u8]>, parsed: io::Result<u64>) -> io::Result<u64> {
    let empty = field.as_ref().iter().all(|byte| matches!(byte, 0 | b' '));
    if empty { Ok(0) } else { parsed }
}

fn by_fd_of(fd: OwnedFd) -> (OwnedFd, PathBuf) {
    let path = by_fd(&fd);
    (fd, path)
}

fn set_time(parent: BorrowedFd<'_>, name: &OsStr, mtime: u64) -> io::Result<()> {
    let time = TimeSpec::new(i64::try_from(mtime).unwrap_or(0), 0);
    Ok(utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}
