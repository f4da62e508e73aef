//! A layer's archive becomes a directory that overlayfs stacks. The author of the archive is not trusted: every path
//! is opened inside the directory by openat2(2), so that no name, link or order of entries leads out of it.
//!
//! Whiteouts (OCI image specification, "Whiteouts") become what overlayfs understands: a character device 0/0, or the
//! attribute `trusted.overlay.opaque` of a directory. They are about the layers below: what this layer itself has stays.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, fstatat, futimens, makedev, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, getegid, geteuid, linkat, symlinkat, unlinkat};

use super::early::Early;
use super::limits::Limits;
use super::store::Contents;
use super::tarball::{Entry, Kind, Reader};
use crate::runtime::overlay::Marks;
use crate::runtime::{rootless, sys};

const BUFFER: usize = 128 << 10;
/// How often the disk is asked what is left of it, in bytes written.
const LOOK_EVERY: u64 = 64 << 20;

/// Why a layer was refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("entry {path:?}: {reason}")]
    Entry { path: PathBuf, reason: String },
    #[error("the archive can't be read: {0}")]
    Archive(#[from] io::Error),
    #[error("it is too large: {0}\n  help: docs/images.md tells how to raise a limit")]
    TooLarge(String),
    #[error("the disk is nearly full: less than {0} bytes would be left\n  help: `stack image prune` makes room")]
    DiskFull(u64),
}

/// What all layers of one image may take together.
#[derive(Debug)]
pub struct Budget<'a> {
    limits: &'a Limits,
    entries: AtomicU64,
    bytes: AtomicU64,
    early: Option<&'a Early>,
}

impl<'a> Budget<'a> {
    /// For an image whose layers are so many bytes as they came.
    pub fn new(limits: &'a Limits, size: u64) -> Self {
        let bytes = limits.unpacked_bytes.saturating_add(size.saturating_mul(limits.unpacked_factor));
        Self { limits, entries: AtomicU64::new(limits.entries), bytes: AtomicU64::new(bytes), early: None }
    }

    /// The same, of what is to be on the disk soon.
    pub fn written_early(self, early: &'a Early) -> Self {
        Self { early: Some(early), ..self }
    }

    pub fn limits(&self) -> &'a Limits {
        self.limits
    }

    /// Says that so many bytes have been written.
    pub fn wrote(&self, bytes: u64) {
        if let Some(early) = self.early {
            early.wrote(bytes);
        }
    }

    fn take(&self, bytes: u64) -> Result<(), UnpackError> {
        let less = |left: &AtomicU64, by: u64| {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(by)).is_ok()
        };
        if !less(&self.entries, 1) {
            return Err(UnpackError::TooLarge(format!("more than {} entries", self.limits.entries)));
        }
        if !less(&self.bytes, bytes) {
            return Err(UnpackError::TooLarge("it unpacks to more than an image of its size may".to_owned()));
        }
        Ok(())
    }
}

/// What names of whiteouts mean.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whiteouts {
    /// What overlayfs understands.
    Marks,
    /// Ordinary files.
    Files,
}

/// Where a layer is made.
struct Layer<'a> {
    root: OwnedFd,
    how: How,
    budget: &'a Budget<'a>,
    /// The directory of the last entry: the next one mostly has the same.
    last: Option<(PathBuf, Rc<OwnedFd>)>,
    /// Whose a new file is.
    own: (Uid, Gid),
    /// Times of directories, set when nothing is written into them any more. In a file, since they can be many.
    times: BufWriter<File>,
    written: u64,
    buffer: Vec<u8>,
}

/// An empty directory that a layer is to be unpacked into.
pub struct Empty {
    root: OwnedFd,
    how: How,
}

impl Empty {
    /// All that is asked of the host is asked here: who unpacks may have given up the right to ask.
    ///
    /// # Errors
    /// Where it can't be opened.
    pub fn open(directory: &Path) -> io::Result<Self> {
        Ok(Self { root: File::open(directory)?.into(), how: How::of_files(Whiteouts::Marks) })
    }

    /// Writes the archive's entries below it. Returns what they are.
    ///
    /// # Errors
    /// See [`UnpackError`].
    pub fn unpack(self, archive: impl Read, budget: &Budget<'_>) -> Result<Contents, UnpackError> {
        entries(archive, self.root, budget, self.how)
    }
}

/// Writes the entries of an ordinary archive (not of a layer) below a directory that may hold something already.
///
/// # Errors
/// See [`UnpackError`].
pub fn extract(archive: impl Read, directory: BorrowedFd<'_>) -> Result<(), UnpackError> {
    let limits = Limits::default();
    let how = How::of_files(Whiteouts::Files);
    entries(archive, directory.try_clone_to_owned()?, &Budget::new(&limits, 0), how).map(drop)
}

/// As [`extract`], of somebody's own files, however many: a directory is never replaced by what is none, nor the other
/// way round. Ids of the archive count from `first_id` on.
///
/// # Errors
/// See [`UnpackError`].
pub fn extract_over(archive: impl Read, directory: BorrowedFd<'_>, first_id: u32) -> Result<(), UnpackError> {
    let limits = Limits { entries: u64::MAX, unpacked_bytes: u64::MAX, ..Limits::default() };
    let how = How { first_id, keeps_kinds: true, ..How::of_files(Whiteouts::Files) };
    entries(archive, directory.try_clone_to_owned()?, &Budget::new(&limits, 0), how).map(drop)
}

/// What an archive's entries mean where they are written.
#[derive(Clone, Copy)]
struct How {
    whiteouts: Whiteouts,
    first_id: u32,
    keeps_kinds: bool,
    /// The mark of a directory that hides what lower layers have in it.
    opaque: &'static str,
    /// All is whoever unpacks: there is one id only.
    squashes: bool,
}

impl How {
    fn of_files(whiteouts: Whiteouts) -> Self {
        let opaque = Marks::own().opaque().to_str().unwrap_or_default();
        Self { whiteouts, first_id: 0, keeps_kinds: false, opaque, squashes: rootless::squashes() }
    }
}

fn entries(archive: impl Read, root: OwnedFd, budget: &Budget<'_>, how: How) -> Result<Contents, UnpackError> {
    let whiteouts = how.whiteouts;
    let (times, buffer) = (BufWriter::new(nameless_file(&root)?), vec![0; BUFFER]);
    let mut layer = Layer { root, how, budget, last: None, times, own: (geteuid(), getegid()), written: 0, buffer };
    let (mut reader, mut contents) = (Reader::new(archive, budget.limits), Contents::default());
    while let Some(mut entry) = reader.next()? {
        budget.take(entry.size)?;
        (entry.uid, entry.gid) = (entry.uid.wrapping_add(how.first_id), entry.gid.wrapping_add(how.first_id));
        if how.squashes {
            (entry.uid, entry.gid) = (0, 0);
        }
        contents.add(&entry);
        let failed = |reason: String| UnpackError::Entry { path: entry.path.clone(), reason };
        let Some(inside) = inside(&entry.path, budget.limits, whiteouts).map_err(|reason| failed(reason.to_owned()))?
        else {
            layer.describe_root(&entry).map_err(|error| failed(error.to_string()))?;
            continue;
        };
        if entry.kind == Kind::File {
            layer.look_at_disk(entry.size)?;
        }
        layer.one(&entry, &mut reader, &inside).map_err(|error| failed(error.to_string()))?;
        budget.wrote(entry.size);
    }
    layer.finish()?;
    Ok(contents)
}

/// On the same disk, or in memory where its file system has no files without a name.
fn nameless_file(directory: &OwnedFd) -> io::Result<File> {
    let open = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    match openat(directory, ".", open, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(file) => Ok(file.into()),
        Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOENT) => {
            let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
            Ok(nix::sys::memfd::memfd_create(c"times", flags)?.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// The path below the root, `None` for the root itself.
fn inside(path: &Path, limits: &Limits, whiteouts: Whiteouts) -> Result<Option<PathBuf>, &'static str> {
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) if name.len() > limits.name_bytes => return Err("a name of it is too long"),
            Component::Normal(name) => inside.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir => return Err("its path leads out of the layer"),
            Component::Prefix(_) => return Err("its path is not one of Linux"),
        }
    }
    // A whiteout has nothing below it; a reader that makes a directory of it hides who knows what.
    let above = inside.parent().into_iter().flat_map(Path::iter);
    if whiteouts == Whiteouts::Marks && above.into_iter().any(|name| name.as_bytes().starts_with(b".wh.")) {
        return Err("it is below a whiteout");
    }
    Ok((!inside.as_os_str().is_empty()).then_some(inside))
}

fn by_fd(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

impl Layer<'_> {
    fn one(&mut self, entry: &Entry, content: &mut impl Read, path: &Path) -> io::Result<()> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = self.parent(path.parent().unwrap_or(Path::new("")))?;
        let parent = parent.as_fd();
        if self.how.whiteouts == Whiteouts::Marks
            && let Some(hidden) = name.as_bytes().strip_prefix(b".wh.")
        {
            return whiteout(parent, OsStr::from_bytes(hidden), self.how.opaque);
        }
        // Mostly there is nothing of that name yet.
        if entry.kind == Kind::File
            && let Some(file) = self.create(entry, parent, name)?
        {
            return self.file(entry, content, file);
        }
        let there = kind_there(parent, name)?;
        let (was, is) = (there == Some(SFlag::S_IFDIR), entry.kind == Kind::Directory);
        if self.how.keeps_kinds && there.is_some() && was != is {
            let word = if was { "a directory is there" } else { "something that is no directory is there" };
            return Err(io::Error::other(format!("{word}, and is not replaced")));
        }
        if !(entry.kind == Kind::Directory && there == Some(SFlag::S_IFDIR)) && there.is_some() {
            self.last = None;
            remove(parent, name)?;
        }
        match entry.kind {
            Kind::File => {
                let file = self.create(entry, parent, name)?.ok_or(io::ErrorKind::AlreadyExists)?;
                self.file(entry, content, file)
            }
            Kind::Directory => self.directory(entry, parent, name, path, there),
            Kind::Symlink if entry.link.as_os_str().is_empty() => Err(io::Error::other("a link without a target")),
            Kind::Symlink => {
                symlinkat(entry.link.as_os_str(), parent, name)?;
                own(entry, parent, name)
            }
            Kind::Link => self.hard_link(entry, parent, name),
            Kind::Fifo => node(entry, parent, name, SFlag::S_IFIFO),
            // What a container may do with a device is decided by its control group, not by who made the node.
            Kind::Character => node(entry, parent, name, SFlag::S_IFCHR),
            Kind::Block => node(entry, parent, name, SFlag::S_IFBLK),
        }
    }

    /// The directory of an entry; what is missing of its path is made.
    fn parent(&mut self, path: &Path) -> io::Result<Rc<OwnedFd>> {
        if let Some((last, fd)) = &self.last
            && last == path
        {
            return Ok(fd.clone());
        }
        let found = Rc::new(parent(self.root.as_fd(), path)?);
        self.last = Some((path.to_owned(), found.clone()));
        Ok(found)
    }

    fn look_at_disk(&mut self, size: u64) -> Result<(), UnpackError> {
        self.written = self.written.saturating_add(size);
        if self.written < LOOK_EVERY && size < LOOK_EVERY {
            return Ok(());
        }
        self.written = 0;
        let disk = nix::sys::statvfs::fstatvfs(&self.root).map_err(io::Error::from)?;
        let free = (disk.blocks_available() as u64).saturating_mul(disk.fragment_size() as u64);
        let reserve = self.budget.limits.reserve_bytes;
        if free < size.saturating_add(reserve) { Err(UnpackError::DiskFull(reserve)) } else { Ok(()) }
    }

    /// `None` where something has the name. Until it is somebody else's nobody else may read it.
    fn create(&self, entry: &Entry, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<File>> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let is_own = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid)) == self.own;
        let mode = if is_own { entry.mode & 0o777 } else { 0o600 };
        match openat(parent, name, flags, Mode::from_bits_truncate(mode)) {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::EEXIST) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn file(&mut self, entry: &Entry, content: &mut impl Read, mut file: File) -> io::Result<()> {
        match &entry.pieces {
            None => loop {
                match content.read(&mut self.buffer)? {
                    0 => break,
                    count => file.write_all(&self.buffer[..count])?,
                }
            },
            Some(pieces) => {
                for (offset, length) in pieces {
                    self.piece(&file, content, *offset, *length)?;
                }
                file.set_len(entry.size)?;
            }
        }
        // Most are right as they were made; each change is one of the file system's journal.
        let made = fstat(&file)?;
        if (made.st_uid, made.st_gid) != (entry.uid, entry.gid) {
            fchown(&file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
        }
        // After the owner, whose change takes set-id bits and capabilities away.
        if made.st_mode & 0o7777 != entry.mode {
            fchmod(&file, Mode::from_bits_truncate(entry.mode))?;
        }
        attributes(entry, &by_fd(file.as_fd()))?;
        let time = time(entry);
        Ok(futimens(&file, &time, &time)?)
    }

    fn piece(&mut self, file: &File, content: &mut impl Read, mut at: u64, mut left: u64) -> io::Result<()> {
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER);
            let count = content.read(&mut self.buffer[..most])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            file.write_all_at(&self.buffer[..count], at)?;
            (at, left) = (at + count as u64, left - count as u64);
        }
        Ok(())
    }

    fn directory(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        there: Option<SFlag>,
    ) -> io::Result<()> {
        make_directory(parent, name)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made = openat(parent, name, flags, Mode::empty())?;
        if there == Some(SFlag::S_IFCHR) {
            // It was whited out before: what lower layers have of it stays hidden.
            sys::set_attribute(&by_fd(made.as_fd()), self.how.opaque, b"y")?;
        }
        describe_directory(entry, &made)?;
        let (seconds, nanoseconds) = entry.mtime;
        let mut line = format!("{seconds} {nanoseconds} ").into_bytes();
        line.extend(path.as_os_str().as_bytes());
        line.push(0);
        self.times.write_all(&line)
    }

    fn describe_root(&mut self, entry: &Entry) -> io::Result<()> {
        if entry.kind != Kind::Directory {
            return Err(io::Error::other("only a directory can be the root"));
        }
        describe_directory(entry, &self.root)
    }

    /// The target is another entry of this layer; a link of it is no link of something outside.
    fn hard_link(&self, entry: &Entry, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        let target = inside(&entry.link, self.budget.limits, self.how.whiteouts).map_err(io::Error::other)?;
        let target = target.ok_or_else(|| io::Error::other("a link to the root"))?;
        let found = sys::open_in_root(self.root.as_fd(), &target, libc::O_PATH | libc::O_NOFOLLOW, 0);
        let missing = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => {
                io::Error::other(format!("a link to {target:?}, which this layer does not have"))
            }
            _ => error,
        };
        Ok(linkat(&found.map_err(missing)?, "", parent, name, AtFlags::AT_EMPTY_PATH)?)
    }

    /// Last, since writing into a directory changes its time.
    fn finish(self) -> Result<(), UnpackError> {
        let mut times = self.times.into_inner().map_err(io::IntoInnerError::into_error)?;
        times.rewind()?;
        let mut times = BufReader::new(times);
        let mut line = Vec::new();
        while times.read_until(0, &mut line)? > 0 {
            line.pop();
            let mut parts = line.splitn(3, |byte| *byte == b' ');
            let mut part = || parts.next().unwrap_or_default();
            let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<i64>().ok());
            let (seconds, nanoseconds) = (number(part()).unwrap_or(0), number(part()).unwrap_or(0));
            let path = PathBuf::from(std::ffi::OsString::from_vec(part().to_vec()));
            line.clear();
            // It may have been replaced by a later entry.
            let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let Ok(found) = sys::open_in_root(self.root.as_fd(), &path, flags, 0) else { continue };
            let time = TimeSpec::new(seconds, nanoseconds);
            futimens(&found, &time, &time).map_err(io::Error::from)?;
        }
        Ok(())
    }
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
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn kind_there(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<SFlag>> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()))),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Hides what lower layers have under this name; what this layer has of it stays (specification, "Whiteouts").
fn whiteout(parent: BorrowedFd<'_>, hidden: &OsStr, opaque: &str) -> io::Result<()> {
    if hidden == ".wh..opq" {
        return sys::set_attribute(&by_fd(parent), opaque, b"y");
    }
    if hidden.as_bytes().starts_with(b".wh.") {
        // Notes of an older file system to itself.
        return Ok(());
    }
    if hidden.is_empty() || hidden == "." || hidden == ".." {
        return Err(io::Error::other("a whiteout of nothing"));
    }
    match kind_there(parent, hidden)? {
        None => Ok(mknodat(parent, hidden, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))?),
        Some(SFlag::S_IFDIR) => {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let own = openat(parent, hidden, flags, Mode::empty())?;
            sys::set_attribute(&by_fd(own.as_fd()), opaque, b"y")
        }
        Some(_) => Ok(()),
    }
}

/// Makes room for an entry: a later one of the same name replaces the earlier.
fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        // Follows no link, and opens each directory relative to the one above.
        Err(Errno::EISDIR | Errno::EPERM) => fs::remove_dir_all(by_fd(parent).join(name)),
        Err(error) => Err(error.into()),
    }
}

fn node(entry: &Entry, parent: BorrowedFd<'_>, name: &OsStr, kind: SFlag) -> io::Result<()> {
    let device = makedev(entry.device.0.into(), entry.device.1.into());
    mknodat(parent, name, kind, Mode::empty(), if kind == SFlag::S_IFIFO { 0 } else { device })?;
    fchownat(parent, name, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)), AtFlags::empty())?;
    // Just made by us, and no link.
    fchmodat(parent, name, Mode::from_bits_truncate(entry.mode), FchmodatFlags::FollowSymlink)?;
    let time = time(entry);
    Ok(utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

/// Of a symbolic link, which has neither mode nor attributes.
fn own(entry: &Entry, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
    fchownat(parent, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let time = time(entry);
    Ok(utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

fn describe_directory(entry: &Entry, made: &OwnedFd) -> io::Result<()> {
    fchown(made, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    fchmod(made, Mode::from_bits_truncate(entry.mode))?;
    attributes(entry, &by_fd(made.as_fd()))
}

fn attributes(entry: &Entry, path: &Path) -> io::Result<()> {
    for (key, value) in &entry.attributes {
        // Others are the host's affair: labels of its security module, overlayfs's own marks.
        if key == "security.capability" || (key.starts_with("user.") && !key.starts_with("user.overlay.")) {
            sys::set_attribute(path, key, value)?;
        }
    }
    Ok(())
}

fn time(entry: &Entry) -> TimeSpec {
    TimeSpec::new(entry.mtime.0, i64::from(entry.mtime.1))
}
