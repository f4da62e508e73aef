//! What was changed on top of an image becomes a layer: the upper directory of an overlay as a tar whose bytes depend on
//! its content alone (OCI image specification, "Layer"). The other direction is [`super::unpack`].

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use tar::{Builder, EntryType, Header};

use crate::runtime::overlay::Marks;
use crate::runtime::{sys, volume::attributes};

/// How changes become a layer.
#[derive(Clone, Debug, Default)]
pub struct Pack {
    /// Seconds since 1970: a later time of a file becomes this one.
    pub latest: Option<u64>,
    /// Paths that were made only for something to be mounted there; they are left out unless something is in them.
    pub stubs: BTreeSet<PathBuf>,
    /// Whose everything is, whoever it belongs to.
    pub owner: Option<(u32, u32)>,
    /// The id that 0 stands for in the tree (a user namespace's first): the archive has ids from there on.
    pub first_id: u32,
}

/// What exists in a container only because something is mounted there: the targets, and what is missing above them.
pub fn stubs<'a>(targets: impl IntoIterator<Item = &'a Path>, below: Option<BorrowedFd<'_>>) -> BTreeSet<PathBuf> {
    let fixed = ["proc", "sys", "dev", "etc/hosts", "etc/resolv.conf", "etc/hostname"].map(Path::new);
    let exists = |path: &Path| {
        below.is_some_and(|root| sys::open_in_root(root, path, libc::O_PATH | libc::O_NOFOLLOW, 0).is_ok())
    };
    let mut stubs = BTreeSet::new();
    for target in fixed.into_iter().chain(targets) {
        let target = target.strip_prefix("/").unwrap_or(target);
        let missing = target.ancestors().filter(|path| !path.as_os_str().is_empty() && !exists(path));
        stubs.extend(missing.map(Path::to_owned));
    }
    stubs
}

struct Packer<'a, W: Write> {
    tar: Builder<W>,
    /// The tree before the changes.
    below: Option<BorrowedFd<'a>>,
    options: &'a Pack,
    /// Device and inode of a file with several names, and the first of them.
    links: HashMap<(u64, u64), PathBuf>,
    entries: u64,
    bytes: u64,
}

/// Writes the changes in `upper`, made on top of `below`, as a layer. Returns how many entries it has.
///
/// # Errors
/// Where something can't be read, or can't be said in a layer.
pub fn pack(upper: BorrowedFd<'_>, below: Option<BorrowedFd<'_>>, options: &Pack, out: impl Write) -> io::Result<u64> {
    let mut packer = Packer { tar: Builder::new(out), below, options, links: HashMap::new(), entries: 0, bytes: 0 };
    packer.directory(upper, Path::new(""))?;
    let entries = packer.entries;
    packer.tar.into_inner()?.flush()?;
    Ok(entries)
}

/// Writes one file, or a directory and all in it, as an ordinary archive. `path` is what it is called there; of a
/// directory without a name only what is in it is written. Returns the bytes of all files.
///
/// # Errors
/// Where something can't be read, or is neither a file, a directory, a link nor a pipe.
pub fn pack_one(file: BorrowedFd<'_>, path: &Path, options: &Pack, out: impl Write) -> io::Result<u64> {
    let mut packer =
        Packer { tar: Builder::new(out), below: None, options, links: HashMap::new(), entries: 0, bytes: 0 };
    packer.opened(file, path).map_err(|error| about(path, error))?;
    let bytes = packer.bytes;
    packer.tar.into_inner()?.flush()?;
    Ok(bytes)
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
    names.sort_unstable();
    Ok(names)
}

fn open(parent: BorrowedFd<'_>, name: &CStr, flags: OFlag) -> io::Result<OwnedFd> {
    let flags = flags | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    attributes::get(directory, Marks::own().opaque()).is_ok_and(|value| value == b"y")
}

/// How much is read of a file that does not tell its size, in bytes.
const MOST_UNTOLD: u64 = 16 << 20;

impl<W: Write> Packer<'_, W> {
    fn directory(&mut self, directory: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
        for name in names(directory)? {
            let below = path.join(OsStr::from_bytes(name.to_bytes()));
            self.entry(directory, &name, &below).map_err(|error| about(&below, error))?;
        }
        Ok(())
    }

    /// What this descriptor stands for, which may have been opened for nothing but its place (`O_PATH`).
    fn opened(&mut self, file: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
        let stat = nix::sys::stat::fstat(file)?;
        match kind(&stat) {
            SFlag::S_IFDIR => {
                let directory = open(file, c".", OFlag::O_DIRECTORY)?;
                if !path.as_os_str().is_empty() {
                    self.append(&stat, EntryType::Directory, path, Some(directory.as_fd()), io::empty(), 0)?;
                }
                self.directory(directory.as_fd(), path)
            }
            SFlag::S_IFREG => {
                let file = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
                let size = file.metadata()?.len();
                let attributes = file.try_clone()?;
                if size > 0 {
                    return self.append(&stat, EntryType::Regular, path, Some(attributes.as_fd()), &file, size);
                }
                // Files of the kernel's own, as in /proc, don't tell how much there is.
                let mut content = Vec::new();
                Read::take(file, MOST_UNTOLD).read_to_end(&mut content)?;
                let size = content.len() as u64;
                self.append(&stat, EntryType::Regular, path, Some(attributes.as_fd()), content.as_slice(), size)
            }
            SFlag::S_IFLNK => {
                let target = readlinkat(file, "")?;
                self.link(&stat, EntryType::Symlink, path, Path::new(&target))
            }
            SFlag::S_IFIFO => self.append(&stat, EntryType::Fifo, path, None, io::empty(), 0),
            _ => Err(io::Error::other("it is neither a file, a directory nor a link")),
        }
    }

    fn entry(&mut self, parent: BorrowedFd<'_>, name: &CStr, path: &Path) -> io::Result<()> {
        let stat = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        match kind(&stat) {
            SFlag::S_IFCHR if stat.st_rdev == 0 => self.whiteout(path),
            SFlag::S_IFDIR => {
                let directory = open(parent, name, OFlag::O_DIRECTORY)?;
                let opaque = is_opaque(directory.as_fd());
                if self.is_for_mounts_only(directory.as_fd(), &stat, path, opaque)? {
                    return Ok(());
                }
                if attributes::get(directory.as_fd(), Marks::own().redirect()).is_ok() {
                    return Err(io::Error::other("a directory of a lower layer was renamed in place"));
                }
                self.append(&stat, EntryType::Directory, path, Some(directory.as_fd()), io::empty(), 0)?;
                if opaque {
                    self.mark(&path.join(".wh..wh..opq"))?;
                }
                self.directory(directory.as_fd(), path)
            }
            SFlag::S_IFREG if stat.st_size == 0 && self.options.stubs.contains(path) => Ok(()),
            SFlag::S_IFREG if self.is_further_name(&stat, path) => {
                let first = self.links[&(stat.st_dev, stat.st_ino)].clone();
                self.link(&stat, EntryType::Link, path, &first)
            }
            SFlag::S_IFREG => {
                let file = File::from(open(parent, name, OFlag::empty())?);
                let size = file.metadata()?.len();
                let attributes = file.try_clone()?;
                self.append(&stat, EntryType::Regular, path, Some(attributes.as_fd()), &file, size)
            }
            SFlag::S_IFLNK => {
                let target = readlinkat(parent, name)?;
                self.link(&stat, EntryType::Symlink, path, Path::new(&target))
            }
            SFlag::S_IFIFO => self.append(&stat, EntryType::Fifo, path, None, io::empty(), 0),
            // A socket is nothing without who listens, and images have no devices.
            _ => Ok(()),
        }
    }

    /// Remembers the first name of a file that has several.
    fn is_further_name(&mut self, stat: &FileStat, path: &Path) -> bool {
        if stat.st_nlink < 2 {
            return false;
        }
        let known = self.links.contains_key(&(stat.st_dev, stat.st_ino));
        self.links.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| path.to_owned());
        known
    }

    /// A directory that is here only because something was mounted in it or below it.
    fn is_for_mounts_only(
        &self,
        directory: BorrowedFd<'_>,
        stat: &FileStat,
        path: &Path,
        opaque: bool,
    ) -> io::Result<bool> {
        let concerned = self.options.stubs.iter().any(|stub| stub.starts_with(path));
        if !concerned || opaque || !self.holds_stubs_only(directory, path)? {
            return Ok(false);
        }
        if self.options.stubs.contains(path) {
            return Ok(true);
        }
        let Some(below) = self.below else { return Ok(false) };
        let before = sys::open_in_root(below, path, libc::O_PATH | libc::O_NOFOLLOW, 0);
        let Some(before) = before.ok().and_then(|before| nix::sys::stat::fstat(&before).ok()) else { return Ok(false) };
        let same = |one: &FileStat| (one.st_mode, one.st_uid, one.st_gid);
        Ok(same(&before) == same(stat))
    }

    fn holds_stubs_only(&self, directory: BorrowedFd<'_>, path: &Path) -> io::Result<bool> {
        for name in names(directory)? {
            let below = path.join(OsStr::from_bytes(name.to_bytes()));
            let stat = fstatat(directory, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            let only = match kind(&stat) {
                SFlag::S_IFDIR => {
                    let inner = open(directory, &name, OFlag::O_DIRECTORY)?;
                    let opaque = is_opaque(inner.as_fd());
                    self.is_for_mounts_only(inner.as_fd(), &stat, &below, opaque)?
                }
                SFlag::S_IFREG => stat.st_size == 0 && self.options.stubs.contains(&below),
                _ => false,
            };
            if !only {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn header(&self, stat: &FileStat, kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        let inside = |id: u32| id.wrapping_sub(self.options.first_id);
        let (uid, gid) = self.options.owner.unwrap_or((inside(stat.st_uid), inside(stat.st_gid)));
        header.set_uid(u64::from(uid));
        header.set_gid(u64::from(gid));
        let mtime = u64::try_from(stat.st_mtime).unwrap_or(0);
        header.set_mtime(self.options.latest.map_or(mtime, |latest| mtime.min(latest)));
        header.set_size(size);
        header
    }

    fn append(
        &mut self,
        stat: &FileStat,
        kind: EntryType,
        path: &Path,
        attributes: Option<BorrowedFd<'_>>,
        content: impl io::Read,
        size: u64,
    ) -> io::Result<()> {
        self.entries += 1;
        self.bytes += size;
        if let Some(file) = attributes {
            self.attributes(file)?;
        }
        let mut header = self.header(stat, kind, size);
        // The size was written down already; a file that grows meanwhile must not shift what follows.
        self.tar.append_data(&mut header, path, content.take(size))
    }

    fn link(&mut self, stat: &FileStat, kind: EntryType, path: &Path, target: &Path) -> io::Result<()> {
        self.entries += 1;
        let mut header = self.header(stat, kind, 0);
        self.tar.append_link(&mut header, path, target)
    }

    fn whiteout(&mut self, path: &Path) -> io::Result<()> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut hidden = OsStr::new(".wh.").to_owned();
        hidden.push(name);
        self.mark(&path.with_file_name(hidden))
    }

    fn mark(&mut self, path: &Path) -> io::Result<()> {
        self.entries += 1;
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(0);
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        self.tar.append_data(&mut header, path, io::empty())
    }

    /// Capabilities and what users attach, as records of a pax header in front of the entry.
    fn attributes(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        let mut names = attributes::list(file)?;
        names.retain(|name| {
            (name.as_bytes().starts_with(b"user.") && !name.as_bytes().starts_with(b"user.overlay."))
                || name.as_bytes() == b"security.capability"
        });
        names.sort_unstable();
        let mut records = Vec::new();
        for name in names {
            let value = attributes::get(file, &name)?;
            records.extend(record(&[b"SCHILY.xattr.", name.as_bytes()].concat(), &value));
        }
        if records.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_path("pax")?;
        header.set_size(records.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.tar.append(&header, records.as_slice())
    }
}

/// `LENGTH KEY=VALUE\n`, whose length counts its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() != rest.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn about(path: &Path, error: io::Error) -> io::Error {
    // Said once, by whoever is nearest to it.
    if error.get_ref().is_some() { error } else { io::Error::new(error.kind(), format!("{}: {error}", path.display())) }
}
