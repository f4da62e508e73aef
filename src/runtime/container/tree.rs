//! The files of a container as its processes see them, with its volumes, whether or not it runs; read and written from
//! outside. Every path is opened inside its root by openat2(2): no link of the container's leads out of it, and one
//! that is changed meanwhile does not either.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{SFlag, fstat};

use super::{Container, Error, Paths, State, get, io_at, lock};
use crate::runtime::image::{Pack, UnpackError, extract_over, pack_one};
use crate::runtime::init::{self, spec::MountSource};
use crate::runtime::overlay::{self, Changes};
use crate::runtime::roots::Roots;
use crate::runtime::state::Lock;
use crate::runtime::userns::IdRange;
use crate::runtime::{shim, sys, volume};

/// `MOUNT_ATTR_RDONLY` of mount_setattr(2).
const READ_ONLY: u64 = 1;

/// What can't be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("there is no {0}")]
    NotFound(PathBuf),
    #[error("there is no directory {0}\n  help: without the slash at its end it is made")]
    NoDirectory(PathBuf),
    #[error("{0} is a file, and what is copied a directory")]
    OntoFile(PathBuf),
    #[error("{0} is not a directory")]
    NotDirectory(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Unpack { path: PathBuf, source: UnpackError },
}

fn at(path: &Path) -> impl Fn(io::Error) -> CopyError + '_ {
    move |source| CopyError::Io { path: path.to_owned(), source }
}

/// A tree of files with a root that nothing leads out of.
pub struct Tree {
    root: OwnedFd,
    /// The ids that the files have from outside, in a running user namespace.
    users: Option<IdRange>,
    /// Nobody starts the container meanwhile.
    _held: Option<Lock>,
}

/// Something to be copied.
pub struct Source {
    file: OwnedFd,
    path: PathBuf,
    is_directory: bool,
}

/// Where it goes to.
enum Target {
    /// Into this directory, under this name; what is in it where there is none.
    Into(OwnedFd, Option<OsString>),
    /// In place of what this file holds.
    Over(OwnedFd),
}

impl Tree {
    /// The host's own files.
    pub fn of_host() -> io::Result<Self> {
        let root = File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open("/")?;
        Ok(Self { root: root.into(), users: None, _held: None })
    }

    /// The container's. One that does not run is not started as long as this lives.
    ///
    /// # Errors
    /// Where its files can't be mounted, or it is just about to start again.
    pub fn of_container(roots: &Roots, name: &str) -> Result<Self, Error> {
        let container = get(roots, name)?;
        let name = container.config.name.as_str();
        if container.is_running() {
            return Self::of_process(&container);
        }
        let paths = Paths::of(roots, name);
        let held = lock(&paths)?;
        super::remove::end_supervisor(roots, name)?;
        let again = get(roots, name)?;
        if again.is_running() {
            drop(held);
            return Self::of_process(&again);
        }
        super::skeleton::ensure(&paths.skeleton)?;
        let root = assemble(roots, &again, &paths).map_err(io_at(&paths.upper))?;
        Ok(Self { root, users: None, _held: Some(held) })
    }

    fn of_process(container: &Container) -> Result<Self, Error> {
        let name = || container.config.name.clone();
        let process = container.status.process;
        if container.status.state == State::Restarting || !process.is_alive() {
            return Err(Error::Between(name()));
        }
        let place = PathBuf::from(format!("/proc/{}/root", process.pid));
        let root = File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(&place);
        let root = root.map_err(io_at(&place))?;
        // Its number may have become another process's before the root was open.
        if !process.is_alive() {
            return Err(Error::Between(name()));
        }
        Ok(Self { root: root.into(), users: container.config.request.users, _held: None })
    }

    fn open(&self, path: &Path, flags: i32) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        sys::open_in_root(self.root.as_fd(), path, flags, 0)
    }

    /// What is at this path. A link is itself, unless it is to be followed or a slash behind it asks for its directory.
    ///
    /// # Errors
    /// [`CopyError::NotFound`].
    pub fn source(&self, path: &Path, follow: bool) -> Result<Source, CopyError> {
        let flags = libc::O_PATH | if follow || wants_directory(path) { 0 } else { libc::O_NOFOLLOW };
        let file = self.open(path, flags).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CopyError::NotFound(path.to_owned()),
            io::ErrorKind::NotADirectory => CopyError::NotDirectory(path.to_owned()),
            _ => at(path)(error),
        })?;
        let is_directory = is_directory(&file).map_err(at(path))?;
        if !is_directory && wants_directory(path) {
            return Err(CopyError::NotDirectory(path.to_owned()));
        }
        Ok(Source { file, path: path.to_owned(), is_directory })
    }

    /// Writes it as a tar. `owner` is whose everything is to be; their own where absent.
    pub fn write(&self, source: &Source, owner: Option<(u32, u32)>, out: impl Write) -> Result<u64, CopyError> {
        let name = source.name().unwrap_or_default();
        self.pack(source, Path::new(&name), owner, out).map_err(at(&source.path))
    }

    fn pack(&self, source: &Source, name: &Path, owner: Option<(u32, u32)>, out: impl Write) -> io::Result<u64> {
        let first_id = self.users.map_or(0, |users| users.first);
        let options = Pack { owner, first_id, ..Pack::default() };
        pack_one(source.file.as_fd(), name, &options, out)
    }

    /// Unpacks a tar in this directory, which must be there.
    pub fn read(&self, path: &Path, archive: impl Read) -> Result<(), CopyError> {
        let directory = self.open(path, libc::O_RDONLY | libc::O_DIRECTORY).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CopyError::NotFound(path.to_owned()),
            io::ErrorKind::NotADirectory => CopyError::NotDirectory(path.to_owned()),
            _ => at(path)(error),
        })?;
        self.unpack(&directory, path, archive)
    }

    fn unpack(&self, directory: &OwnedFd, path: &Path, archive: impl Read) -> Result<(), CopyError> {
        let first_id = self.users.map_or(0, |users| users.first);
        let mut refused = None;
        let unpacked = self.as_their_root(|| {
            refused = extract_over(archive, directory.as_fd(), first_id).err();
            Ok(())
        });
        match (unpacked, refused) {
            (Err(source), _) => Err(at(path)(source)),
            (Ok(()), Some(source)) => Err(CopyError::Unpack { path: path.to_owned(), source }),
            (Ok(()), None) => Ok(()),
        }
    }

    /// In a user namespace, the host's root can't make files: its ids are not known there.
    fn as_their_root<T>(&self, action: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.users {
            Some(users) => init::with_files_of_root(users, action),
            None => action(),
        }
    }

    /// Copies what `source` is of `other`'s to this path, by docker's rules for what is there already and for slashes.
    /// Returns the bytes of all files.
    pub fn copy(
        &self,
        path: &Path,
        other: &Self,
        source: &Source,
        owner: Option<(u32, u32)>,
    ) -> Result<u64, CopyError> {
        match self.target(path, source)? {
            Target::Over(file) => self.overwrite(&file, source, owner).map_err(at(path)),
            Target::Into(directory, name) => {
                let (read, write) = io::pipe().map_err(at(path))?;
                thread::scope(|scope| {
                    let name = name.unwrap_or_default();
                    let packed = scope.spawn(move || other.pack(source, Path::new(&name), owner, write));
                    let unpacked = self.unpack(&directory, path, read);
                    let packed = packed.join().unwrap_or_else(|_| Err(io::Error::other("reading it failed")));
                    match (unpacked, packed) {
                        // Then what could not be read is why nothing more came.
                        (_, Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(at(&source.path)(error)),
                        (Err(error), _) => Err(error),
                        (Ok(()), packed) => packed.map_err(at(&source.path)),
                    }
                })
            }
        }
    }

    fn target(&self, path: &Path, source: &Source) -> Result<Target, CopyError> {
        match self.open(path, libc::O_PATH) {
            Ok(there) if is_directory(&there).map_err(at(path))? => {
                let directory = self.open(path, libc::O_RDONLY | libc::O_DIRECTORY).map_err(at(path))?;
                Ok(Target::Into(directory, source.name()))
            }
            Ok(_) if wants_directory(path) => Err(CopyError::NotDirectory(path.to_owned())),
            Ok(_) if source.is_directory => Err(CopyError::OntoFile(path.to_owned())),
            Ok(_) => match self.open(path, libc::O_WRONLY | libc::O_NONBLOCK) {
                Ok(file) if is_of_kind(&source.file, SFlag::S_IFREG) => Ok(Target::Over(file)),
                // A link replaces it; so does a file that is just being executed.
                Ok(_) => self.beside(path),
                Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) => self.beside(path),
                Err(error) => Err(at(path)(error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => match wants_directory(path) {
                true if !source.is_directory => Err(CopyError::NoDirectory(path.to_owned())),
                _ => self.beside(path),
            },
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(CopyError::NotDirectory(path.to_owned())),
            Err(error) => Err(at(path)(error)),
        }
    }

    /// In the directory that the path is in, which must be there.
    fn beside(&self, path: &Path) -> Result<Target, CopyError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let directory = self.open(parent, libc::O_RDONLY | libc::O_DIRECTORY).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CopyError::NotFound(parent.to_owned()),
            _ => at(parent)(error),
        })?;
        let name = path.file_name().ok_or_else(|| CopyError::NotFound(path.to_owned()))?;
        Ok(Target::Into(directory, Some(name.to_owned())))
    }

    fn overwrite(&self, file: &OwnedFd, source: &Source, owner: Option<(u32, u32)>) -> io::Result<u64> {
        let mut from = File::open(format!("/proc/self/fd/{}", source.file.as_raw_fd()))?;
        let mut to = File::from(file.try_clone()?);
        let data = from.metadata()?;
        to.set_len(0)?;
        let bytes = io::copy(&mut from, &mut to)?;
        let first = self.users.map_or(0, |users| users.first);
        if let Some((uid, gid)) = owner {
            fchown(&to, Some(uid + first), Some(gid + first))?;
        }
        to.set_permissions(fs::Permissions::from_mode(data.permissions().mode() & 0o7777))?;
        to.set_modified(data.modified()?)?;
        Ok(bytes)
    }
}

impl Source {
    /// What it is called where it goes to; nothing where only what is in it is meant (`DIR/.`, the root).
    fn name(&self) -> Option<OsString> {
        let bytes = self.path.as_os_str().as_bytes();
        if bytes.ends_with(b"/.") || bytes == b"." {
            return None;
        }
        match self.path.components().next_back() {
            Some(Component::Normal(name)) => Some(name.to_owned()),
            _ => None,
        }
    }
}

/// `DIR/` and `DIR/.` are directories, whatever else is there.
fn wants_directory(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.ends_with(b"/") || bytes.ends_with(b"/.") || path.file_name().is_none_or(|name| name == OsStr::new(".."))
}

fn is_of_kind(file: &OwnedFd, kind: SFlag) -> bool {
    fstat(file).is_ok_and(|stat| stat.st_mode & SFlag::S_IFMT.bits() == kind.bits())
}

fn is_directory(file: &OwnedFd) -> io::Result<bool> {
    Ok(fstat(file)?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}

/// The root of a container that does not run, with what is bound into it. Made in a mount namespace of a thread's own,
/// and taken along: nobody else sees it, and it goes with the descriptor.
fn assemble(roots: &Roots, container: &Container, paths: &Paths) -> io::Result<OwnedFd> {
    let roots = roots.clone();
    let layers = [std::slice::from_ref(&paths.skeleton), container.config.layers.as_slice()].concat();
    let (upper, work, request) = (paths.upper.clone(), paths.work.clone(), container.config.request.clone());
    let make = move || -> io::Result<OwnedFd> {
        let none = None::<&str>;
        let tree = overlay::open(&layers, Some(Changes { upper: &upper, work: &work }))?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        sys::attach_mount(tree.as_fd(), File::open(&upper)?.as_fd())?;
        for wanted in &request.mounts {
            let copy = match &wanted.source {
                MountSource::Bind { source, .. } => match volume::open_inside(&roots, source) {
                    Ok(Some(inside)) => sys::clone_mount_of(inside.as_fd()),
                    Ok(None) => sys::clone_mount(source),
                    Err(error) => Err(error),
                },
                MountSource::Image { layers, subpath, .. } => shim::image_tree(layers, subpath.as_deref(), &work),
                MountSource::Tmpfs { .. } => continue,
            };
            // What only a start makes is not there after a reboot.
            let Ok(copy) = copy else { continue };
            sys::set_propagation(copy.as_fd(), libc::MS_PRIVATE)?;
            if wanted.read_only {
                sys::restrict_mount(copy.as_fd(), READ_ONLY, true)?;
            }
            init::attach(&copy, tree.as_fd(), &wanted.target)?;
        }
        if request.read_only {
            sys::restrict_mount(tree.as_fd(), READ_ONLY, false)?;
        }
        sys::clone_mount(&upper)
    };
    let failed = |_| io::Error::other("the thread that mounted the files failed");
    thread::Builder::new().name("files".into()).spawn(make)?.join().map_err(failed)?
}
