//! `COPY` and `ADD`: files from a tree into the root file system of a stage. Both sides are resolved by openat2(2).

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode as FileMode, SFlag, UtimensatFlags, fstatat, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, symlinkat, unlinkat};

use super::mode::Mode;
use super::tree::{Entry, EntryKind, Hasher, Source, Tree, TreeError};
use crate::runtime::image::{Digest, UnpackError, extract};
use crate::runtime::sys;

/// Where and how files are put.
#[derive(Clone, Debug)]
pub struct Target {
    /// Absolute, without `..`.
    pub path: PathBuf,
    /// It was written with a `/` at its end, or there are several sources: files go into it under their own names.
    pub is_directory: bool,
    pub owner: Option<(u32, u32)>,
    pub mode: Option<Mode>,
    /// Seconds since 1970 for every file; unset keeps each file's own time.
    pub time: Option<u64>,
    /// Keep the path of each source: `--parents`.
    pub parents: bool,
    /// `ADD`: an archive is unpacked.
    pub unpack: bool,
}

/// Why files could not be put there.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("/{path}: {source}")]
    Target { path: PathBuf, source: io::Error },
    #[error("/{path} is a directory; a file can't take its place")]
    IsDirectory { path: PathBuf },
    #[error("/{path} is no directory; a directory can't take its place")]
    NotDirectory { path: PathBuf },
    #[error("{path}: {source}")]
    Unpack { path: PathBuf, source: UnpackError },
    #[error("{path} is compressed with {how}, which is not read yet")]
    Compression { path: PathBuf, how: &'static str },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CopyError {
    let path = path.to_owned();
    move |source| CopyError::Target { path, source }
}

struct Copy<'a> {
    tree: &'a Tree,
    root: BorrowedFd<'a>,
    target: &'a Target,
    hasher: Hasher,
}

/// Puts the sources below `root`. Returns their digest as they were copied, as [`Tree::digest`] computes it.
///
/// # Errors
/// See [`CopyError`].
pub fn copy(tree: &Tree, sources: &[Source], root: BorrowedFd<'_>, target: &Target) -> Result<Digest, CopyError> {
    let mut copy = Copy { tree, root, target, hasher: Hasher::default() };
    for source in sources {
        copy.hasher.source(source);
        copy.source(source)?;
    }
    Ok(copy.hasher.finish())
}

/// Makes a directory and what is missing above it; one that is there stays as it is.
///
/// # Errors
/// See [`CopyError`].
pub fn make_directories(
    root: BorrowedFd<'_>,
    path: &Path,
    owner: Option<(u32, u32)>,
    time: Option<u64>,
) -> Result<OwnedFd, CopyError> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    if path.as_os_str().is_empty() {
        return sys::open_in_root(root, Path::new("."), flags, 0).map_err(at(path));
    }
    match sys::open_in_root(root, path, flags, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(CopyError::NotDirectory { path: path.to_owned() });
        }
        found => return found.map_err(at(path)),
    }
    let above = make_directories(root, path.parent().unwrap_or(Path::new("")), owner, time)?;
    let name = path.file_name().ok_or_else(|| at(path)(io::ErrorKind::InvalidInput.into()))?;
    match mkdirat(&above, name, FileMode::from_bits_truncate(0o755)) {
        Ok(()) => {}
        Err(nix::Error::EEXIST) => return sys::open_in_root(root, path, flags, 0).map_err(at(path)),
        Err(error) => return Err(at(path)(error.into())),
    }
    let made = sys::open_in_root(root, path, flags | libc::O_NOFOLLOW, 0).map_err(at(path))?;
    let finished = (|| -> io::Result<()> {
        fs::set_permissions(by_fd(made.as_fd()), Permissions::from_mode(0o755))?;
        if let Some((uid, gid)) = owner {
            fchown(&made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        match time {
            Some(time) => set_time(made.as_fd(), (time as i64, 0)),
            None => Ok(()),
        }
    })();
    finished.map_err(at(path))?;
    Ok(made)
}

fn by_fd(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn set_time(file: BorrowedFd<'_>, (seconds, nanoseconds): (i64, i64)) -> io::Result<()> {
    let time = TimeSpec::new(seconds, nanoseconds);
    Ok(nix::sys::stat::futimens(file, &time, &time)?)
}

impl Copy<'_> {
    fn source(&mut self, source: &Source) -> Result<(), CopyError> {
        let place = self.place(source);
        if !source.is_directory {
            for entry in &source.entries {
                if !self.unpacked(source, entry)? {
                    self.put(source, entry, &place)?;
                }
            }
            return Ok(());
        }
        let existed = self.is_directory(&place);
        let made = self.directories(&place)?;
        // From the innermost out, since writing into a directory changes its time.
        let mut times = Vec::new();
        for entry in &source.entries {
            let path = if entry.path.as_os_str().is_empty() { place.clone() } else { place.join(&entry.path) };
            match entry.path.as_os_str().is_empty() {
                true => {
                    self.hasher.entry(entry);
                    if !existed {
                        self.describe(entry, made.as_fd(), true).map_err(at(&path))?;
                    }
                }
                false => self.put(source, entry, &path)?,
            }
            if entry.kind == EntryKind::Directory && !(existed && path == place) {
                times.push((path, entry.modified));
            }
        }
        for (path, modified) in times.into_iter().rev() {
            let flags = libc::O_RDONLY | libc::O_DIRECTORY;
            let directory = sys::open_in_root(self.root, &path, flags, 0).map_err(at(&path))?;
            set_time(directory.as_fd(), self.time(modified)).map_err(at(&path))?;
        }
        Ok(())
    }

    fn time(&self, modified: (i64, i64)) -> (i64, i64) {
        self.target.time.map_or(modified, |time| (time as i64, 0))
    }

    fn directories(&self, path: &Path) -> Result<OwnedFd, CopyError> {
        make_directories(self.root, path, self.target.owner, self.target.time)
    }

    /// Where the source goes, without the leading slash.
    fn place(&self, source: &Source) -> PathBuf {
        let target = self.target.path.strip_prefix("/").unwrap_or(&self.target.path);
        let name = source.path.file_name();
        if self.target.parents {
            return target.join(&source.path);
        }
        match name {
            Some(name) if !source.is_directory && (self.target.is_directory || self.is_directory(target)) => {
                target.join(name)
            }
            _ => target.to_owned(),
        }
    }

    fn is_directory(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || sys::open_in_root(self.root, path, libc::O_PATH | libc::O_DIRECTORY, 0).is_ok()
    }

    fn put(&mut self, source: &Source, entry: &Entry, path: &Path) -> Result<(), CopyError> {
        self.hasher.entry(entry);
        let parent = self.directories(path.parent().unwrap_or(Path::new("")))?;
        let name = path.file_name().ok_or_else(|| CopyError::IsDirectory { path: path.to_owned() })?;
        let failed = || at(path);
        match &entry.kind {
            EntryKind::Directory => return self.put_directory(entry, parent.as_fd(), path),
            EntryKind::File { size } => {
                self.make_room(parent.as_fd(), path)?;
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let made = openat(&parent, name, flags, FileMode::from_bits_truncate(0o600));
                let mut made = File::from(made.map_err(|error| failed()(error.into()))?);
                let from = self.tree.open(source, entry)?;
                self.content(from, &mut made, *size, source, entry)?;
                self.describe(entry, made.as_fd(), false).map_err(failed())?;
            }
            EntryKind::Link { target } => {
                self.make_room(parent.as_fd(), path)?;
                symlinkat(target.as_os_str(), &parent, name).map_err(|error| failed()(error.into()))?;
                self.own(entry, parent.as_fd(), path).map_err(failed())?;
            }
            EntryKind::Fifo => {
                self.make_room(parent.as_fd(), path)?;
                let mode = FileMode::from_bits_truncate(entry.mode);
                mknodat(&parent, name, SFlag::S_IFIFO, mode, 0).map_err(|error| failed()(error.into()))?;
                self.own(entry, parent.as_fd(), path).map_err(failed())?;
            }
        }
        Ok(())
    }

    /// One that is there already takes over mode and owner, as with docker; one that is reached by a link does not.
    fn put_directory(&self, entry: &Entry, parent: BorrowedFd<'_>, path: &Path) -> Result<(), CopyError> {
        let name = path.file_name().unwrap_or_default();
        match mkdirat(parent, name, FileMode::from_bits_truncate(0o755)) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(at(path)(error.into())),
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(parent, name, flags, FileMode::empty()) {
            Ok(made) => self.describe(entry, made.as_fd(), true).map_err(at(path)),
            Err(_) if self.is_directory(path) => Ok(()),
            Err(_) => Err(CopyError::NotDirectory { path: path.to_owned() }),
        }
    }

    /// What is there gives way, unless it is a directory.
    fn make_room(&self, parent: BorrowedFd<'_>, path: &Path) -> Result<(), CopyError> {
        let name = path.file_name().unwrap_or_default();
        match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
            Err(nix::Error::EISDIR | nix::Error::EPERM) => Err(CopyError::IsDirectory { path: path.to_owned() }),
            Err(error) => Err(at(path)(error.into())),
        }
    }

    /// Copies and hashes in one go.
    fn content(
        &mut self,
        from: File,
        to: &mut File,
        size: u64,
        source: &Source,
        entry: &Entry,
    ) -> Result<(), CopyError> {
        let path = source.path_of(entry);
        let mut from = from.take(size);
        let mut piece = vec![0; 128 << 10];
        let mut total = 0;
        loop {
            let count = from.read(&mut piece).map_err(at(&path))?;
            if count == 0 {
                break;
            }
            self.hasher.write_all(&piece[..count]).and_then(|()| to.write_all(&piece[..count])).map_err(at(&path))?;
            total += count as u64;
        }
        if total == size { Ok(()) } else { Err(TreeError::Changed { path }.into()) }
    }

    fn ids(&self, entry: &Entry) -> (Uid, Gid) {
        let (uid, gid) = self.target.owner.unwrap_or((entry.uid, entry.gid));
        (Uid::from_raw(uid), Gid::from_raw(gid))
    }

    /// Owner, mode, time, in an order in which the earlier do not undo the later.
    fn describe(&self, entry: &Entry, made: BorrowedFd<'_>, is_directory: bool) -> io::Result<()> {
        let (uid, gid) = self.ids(entry);
        fchown(made, Some(uid), Some(gid))?;
        let mode = self.target.mode.as_ref().map_or(entry.mode, |mode| mode.apply(entry.mode, is_directory));
        fs::set_permissions(by_fd(made), Permissions::from_mode(mode))?;
        set_time(made, self.time(entry.modified))
    }

    fn own(&self, entry: &Entry, parent: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default();
        let (uid, gid) = self.ids(entry);
        fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let (seconds, nanoseconds) = self.time(entry.modified);
        let time = TimeSpec::new(seconds, nanoseconds);
        fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        Ok(utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)?)
    }

    /// An archive of an `ADD` becomes what is in it.
    fn unpacked(&mut self, source: &Source, entry: &Entry) -> Result<bool, CopyError> {
        let EntryKind::File { size } = entry.kind else { return Ok(false) };
        if !self.target.unpack || size == 0 {
            return Ok(false);
        }
        let mut file = self.tree.open(source, entry)?;
        if !is_archive(&mut file, &source.path)? {
            return Ok(false);
        }
        file.rewind().map_err(at(&source.path))?;
        self.hasher.entry(entry);
        let target = self.directories(&self.target.path)?;
        let unreadable = |source_error: io::Error| CopyError::Unpack {
            path: source.path.clone(),
            source: UnpackError::Archive(source_error),
        };
        let mut hashed = Tee { inner: file.take(size), hasher: &mut self.hasher };
        {
            let mut stream = decompress(&mut hashed).map_err(unreadable)?;
            let failed = |error| CopyError::Unpack { path: source.path.clone(), source: error };
            extract(&mut stream, target.as_fd()).map_err(failed)?;
        }
        // What follows the archive's end counts for the digest too.
        io::copy(&mut hashed, &mut io::sink()).map_err(unreadable)?;
        Ok(true)
    }
}

/// Hashes what passes.
struct Tee<'a, R> {
    inner: R,
    hasher: &'a mut Hasher,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.write_all(&buffer[..count])?;
        Ok(count)
    }
}

fn decompress<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut stream = io::BufReader::with_capacity(128 << 10, stream);
    let start = io::BufRead::fill_buf(&mut stream)?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(stream)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(stream)?),
        _ => Box::new(stream),
    })
}

/// A tar, as it is or compressed. Other files that are compressed are copied as they are.
fn is_archive(file: &mut File, path: &Path) -> Result<bool, CopyError> {
    let mut start = [0; 6];
    let length = read_up_to(file, &mut start).map_err(at(path))?;
    for (magic, how) in [(&b"\xfd7zXZ\0"[..], "xz"), (&b"BZh"[..], "bzip2")] {
        if start[..length].starts_with(magic) {
            return Err(CopyError::Compression { path: path.to_owned(), how });
        }
    }
    file.rewind().map_err(at(path))?;
    let Ok(mut stream) = decompress(file) else { return Ok(false) };
    let mut block = [0; 512];
    let Ok(length) = read_up_to(&mut stream, &mut block) else { return Ok(false) };
    Ok(length == block.len() && (&block[257..262] == b"ustar" || has_checksum(&block)))
}

/// Old tars have no magic, only a sum of their header's bytes, its own field taken for blanks.
fn has_checksum(block: &[u8; 512]) -> bool {
    let field: String = block[148..156].iter().map(|byte| char::from(*byte)).collect();
    let written = u64::from_str_radix(field.trim_matches(['\0', ' ']), 8);
    let sum: u64 =
        block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) }).sum();
    block[0] != 0 && written == Ok(sum)
}

fn read_up_to(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match stream.read(&mut buffer[length..])? {
            0 => break,
            count => length += count,
        }
    }
    Ok(length)
}
