//! Copies a directory's content with everything that is kept about files; follows no symbolic link.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, futimens, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, symlinkat};

use super::attributes;
use crate::runtime::sys;

/// Each level keeps two descriptors open; no image needs more levels.
const DEEPEST: usize = 200;

/// Files with several names: device and inode of the source, and the first name made of it, from the top.
type Links = HashMap<(u64, u64), OsString>;

struct Copy<'a> {
    top: BorrowedFd<'a>,
    links: Links,
}

/// Copies what is in `source` into `target`, and gives `target` the owner, mode and times of `source`.
pub fn tree(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let mut copy = Copy { top: target, links: Links::new() };
    copy.directory(source, target, Path::new(""), 0)
}

impl Copy<'_> {
    fn directory(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        path: &Path,
        depth: usize,
    ) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(io::Error::new(io::ErrorKind::InvalidFilename, format!("deeper than {DEEPEST} directories")));
        }
        for name in names(source)? {
            let below = path.join(OsStr::from_bytes(name.to_bytes()));
            self.entry(source, target, &name, &below, depth)?;
        }
        finish(source, target, &fstat(source)?)
    }

    fn entry(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &CStr,
        path: &Path,
        depth: usize,
    ) -> io::Result<()> {
        let stat = fstatat(source, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if kind != SFlag::S_IFDIR && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                return Ok(nix::unistd::linkat(self.top, first.as_os_str(), target, name, AtFlags::empty())?);
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.as_os_str().to_owned());
        }
        match kind {
            SFlag::S_IFDIR => {
                mkdirat(target, name, Mode::S_IRWXU)?;
                let (from, to) = (open_directory(source, name)?, open_directory(target, name)?);
                self.directory(from.as_fd(), to.as_fd(), path, depth + 1)
            }
            SFlag::S_IFREG => regular(source, target, name),
            SFlag::S_IFLNK => {
                symlinkat(readlinkat(source, name)?.as_os_str(), target, name)?;
                own(target, name, &stat)
            }
            // A socket is nothing without the process that listens.
            SFlag::S_IFSOCK => Ok(()),
            _ => {
                mknodat(target, name, kind, Mode::from_bits_truncate(stat.st_mode & 0o7777), stat.st_rdev)?;
                own(target, name, &stat)?;
                // mknod(2) takes the umask into account, chown(2) clears set-id bits.
                let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
                nix::sys::stat::fchmodat(target, name, mode, nix::sys::stat::FchmodatFlags::NoFollowSymlink)?;
                Ok(())
            }
        }
    }
}

fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let again = openat(directory, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(again)?.iter() {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<std::os::fd::OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

fn regular(source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let read = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let make = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut from = File::from(openat(source, name, read, Mode::empty())?);
    let mut to = File::from(openat(target, name, make, Mode::S_IRUSR | Mode::S_IWUSR)?);
    if sys::share_blocks(from.as_fd(), to.as_fd()).is_err() {
        io::copy(&mut from, &mut to)?;
    }
    finish(from.as_fd(), to.as_fd(), &fstat(&from)?)
}

/// Owner, mode, attributes and times, in this order: chown(2) clears set-id bits and capabilities, any change the times.
fn finish(source: BorrowedFd<'_>, target: BorrowedFd<'_>, stat: &FileStat) -> io::Result<()> {
    fchown(target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(target, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
    copy_attributes(source, target)?;
    let (accessed, modified) = times(stat);
    Ok(futimens(target, &accessed, &modified)?)
}

fn own(target: BorrowedFd<'_>, name: &CStr, stat: &FileStat) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    fchownat(target, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let (accessed, modified) = times(stat);
    Ok(utimensat(target, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)?)
}

fn times(stat: &FileStat) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(stat.st_atime, stat.st_atime_nsec), TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))
}

/// Copies capabilities and what users attach. What belongs to overlayfs or to the host's security modules stays behind,
/// and so does everything where the volume's disk keeps no attributes.
fn copy_attributes(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    for name in attributes::list(source)? {
        let is_users = name.as_bytes().starts_with(b"user.") && !name.as_bytes().starts_with(b"user.overlay.");
        if is_users || name.as_bytes() == b"security.capability" {
            let value = attributes::get(source, &name)?;
            match attributes::set(target, &name, &value) {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(()),
                other => other?,
            }
        }
    }
    Ok(())
}

/// The bytes that the files below a directory take on disk, each file once whatever its names.
pub fn disk_use(top: &Path) -> u64 {
    let mut seen = std::collections::HashSet::new();
    let mut waiting = vec![top.to_owned()];
    let mut total = 0;
    while let Some(path) = waiting.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.nlink() == 1 || seen.insert((metadata.dev(), metadata.ino())) {
            total += metadata.blocks() * 512;
        }
        if metadata.is_dir() {
            waiting.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    total
}
