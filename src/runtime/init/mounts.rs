//! The container's mount tree. Each target is opened inside the new root, so that no symbolic link of a hostile image
//! leads out of it, and mounts are attached to what was opened, not to its path (CVE-2025-31133 and its kin).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

pub use super::options::{NO_DEV, NO_EXEC, NO_SUID, READ_ONLY};
use super::{InitError, letter, namespace_path};
use crate::runtime::cgroup::Cgroup;
use crate::runtime::{sys, volume};

/// `PROC_SUPER_MAGIC` of statfs(2).
const PROC_MAGIC: i64 = 0x9fa0;

/// Nothing mounted from now on is seen outside this namespace. What the host mounts later below a source that is bound
/// with `rslave` still comes in.
pub fn make_private() -> io::Result<()> {
    Ok(mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?)
}

/// The root as a mount of its own, which pivot_root(2) asks for; opened, since its path ends at the pivot.
pub fn bind_root(rootfs: &Path) -> io::Result<OwnedFd> {
    let find = || open(rootfs, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let mut root = find()?;
    if !sys::is_root_of_mount(root.as_fd())? {
        mount(Some(rootfs), rootfs, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
        root = find()?;
    }
    sys::set_propagation(root.as_fd(), libc::MS_PRIVATE)?;
    Ok(root)
}

/// Mounts that the starter made, which the child only attaches. A process in a user namespace can neither reach what
/// only root of the host may, nor map the ids of a mount.
#[derive(Default)]
pub struct Prepared {
    pub root: Option<OwnedFd>,
    pub mounts: Vec<(PathBuf, OwnedFd)>,
    /// By their place in a specification that is taken to the letter.
    exact: BTreeMap<usize, letter::Made>,
}

impl Prepared {
    fn at(&self, destination: &Path) -> Option<&OwnedFd> {
        self.mounts.iter().find(|(target, _)| target == destination).map(|(_, mount)| mount)
    }
}

/// What the child can't make by itself: in a user namespace, or in a mount namespace of others, the root and everything
/// that is bound; and what the starter has open, which is of its mount namespace.
pub fn prepare(
    spec: &Spec,
    rootfs: &Path,
    users: Option<&OwnedFd>,
    mounts: Vec<(PathBuf, OwnedFd)>,
    letter: Letter,
) -> Result<Prepared, InitError> {
    let mut prepared = Prepared { root: None, mounts, ..Prepared::default() };
    let elsewhere = users.is_some() || namespace_path(spec, LinuxNamespaceType::Mount).is_some();
    if elsewhere {
        prepared.root = Some(sys::clone_mount(rootfs).map_err(InitError::step("root file system"))?);
    }
    match (letter, users) {
        (Letter::Exact, _) => {
            let maker = if elsewhere { letter::Maker::Starter } else { letter::Maker::Child };
            prepared.exact = letter::prepare(spec, rootfs, users, maker)?;
        }
        (Letter::Own, users) => {
            let is_of_starter = |source: &Path| users.is_some() || source.starts_with("/proc/self/fd");
            prepared.mounts = made(spec, users, std::mem::take(&mut prepared.mounts), is_of_starter)?;
        }
    }
    Ok(prepared)
}

/// All that the engine's own specification binds, made and attached nowhere yet, by where it belongs: beside what is
/// there already, or instead.
///
/// # Errors
/// The mount that can't be made.
pub fn bound(
    spec: &Spec,
    users: Option<&OwnedFd>,
    mounts: Vec<(PathBuf, OwnedFd)>,
) -> Result<Vec<(PathBuf, OwnedFd)>, InitError> {
    made(spec, users, mounts, |_| true)
}

/// Those whose sources are meant.
fn made(
    spec: &Spec,
    users: Option<&OwnedFd>,
    mut mounts: Vec<(PathBuf, OwnedFd)>,
    is_meant: impl Fn(&Path) -> bool,
) -> Result<Vec<(PathBuf, OwnedFd)>, InitError> {
    for wanted in spec.mounts().iter().flatten().filter(|wanted| kind_of(wanted) == "bind") {
        let (destination, options) = (wanted.destination(), options_of(wanted));
        let source = wanted.source().as_deref().unwrap_or(Path::new(""));
        if is_meant(source) && !mounts.iter().any(|(target, _)| target == destination) {
            let made = bind_source(source, &options, users);
            let made = made.map_err(InitError::step(format!("mount {}", destination.display())))?;
            mounts.push((destination.clone(), made));
        }
    }
    Ok(mounts)
}

/// The root that the starter made, on top of the host's, which ends with the pivot.
pub fn attach_root(root: OwnedFd) -> io::Result<OwnedFd> {
    let here = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    sys::attach_mount(root.as_fd(), here.as_fd())?;
    sys::set_propagation(root.as_fd(), libc::MS_PRIVATE)?;
    Ok(root)
}

/// Whose words a specification is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Letter {
    /// The engine's own, where `ro` holds for all that is mounted below, too.
    Own,
    /// Somebody else's, taken to the letter.
    Exact,
}

/// All mounts of the specification, in its order. Returns /proc, which is the kernel's, and on which nothing can have
/// been mounted but the few files of [`may_cover`].
/// To the letter there need not be one.
pub fn mount_all(
    spec: &Spec,
    root: BorrowedFd<'_>,
    group: &Cgroup,
    prepared: &Prepared,
    letter: Letter,
) -> Result<Option<OwnedFd>, InitError> {
    for (index, wanted) in spec.mounts().iter().flatten().enumerate() {
        let destination = wanted.destination();
        let step = || InitError::step(format!("mount {}", destination.display()));
        match (prepared.at(destination), letter) {
            (Some(mount), _) => attach(mount, root, destination).map_err(step())?,
            (None, Letter::Exact) => {
                letter::mount(wanted, prepared.exact.get(&index), root, group).map_err(step())?;
            }
            (None, Letter::Own) => one(wanted, root, group).map_err(step())?,
        }
        if destination == Path::new("/dev") && kind_of(wanted) == "tmpfs" {
            let dev = directory(root, Path::new("dev"), 0o755).map_err(step())?;
            super::files::fill_dev(spec, dev.as_fd())?;
        }
    }
    let is_proc = |wanted: &Mount| kind_of(wanted) == "proc" && wanted.destination() == Path::new("/proc");
    if letter == Letter::Exact && !spec.mounts().iter().flatten().any(is_proc) {
        return Ok(None);
    }
    let proc = sys::open_without_links(root, Path::new("proc"), libc::O_PATH).map_err(InitError::step("open /proc"))?;
    check_proc(proc.as_fd()).map_err(InitError::step("check /proc"))?;
    Ok(Some(proc))
}

/// Later steps read below /proc: it must be the kernel's, not a directory of the image (CVE-2019-19921).
pub fn check_proc(proc: impl AsFd) -> io::Result<()> {
    let found = nix::sys::statfs::fstatfs(proc.as_fd())?.filesystem_type().0;
    if found as i64 == PROC_MAGIC { Ok(()) } else { Err(io::Error::other("it is not the kernel's procfs")) }
}

pub fn kind_of(wanted: &Mount) -> &str {
    wanted.typ().as_deref().unwrap_or("bind")
}

pub fn options_of(wanted: &Mount) -> Vec<&str> {
    wanted.options().iter().flatten().map(String::as_str).collect()
}

/// The path below the root, if something may be mounted there.
pub fn place(destination: &Path) -> io::Result<&Path> {
    let relative = destination.strip_prefix("/").unwrap_or(destination);
    if may_cover(relative) {
        return Ok(relative);
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "nothing may be mounted on /proc or below it"))
}

fn one(wanted: &Mount, root: BorrowedFd<'_>, group: &Cgroup) -> io::Result<()> {
    let options = options_of(wanted);
    let kind = kind_of(wanted);
    let destination = wanted.destination();
    let relative =
        if kind == "proc" { destination.strip_prefix("/").unwrap_or(destination) } else { place(destination)? };
    match kind {
        "bind" => {
            let made = bind_source(wanted.source().as_deref().unwrap_or(Path::new("")), &options, None)?;
            attach(&made, root, destination)
        }
        "cgroup" => cgroup(root, relative, group, attributes(&options)),
        "proc" | "sysfs" => {
            let made = kernel_files(kind, attributes(&options))?;
            sys::attach_mount(made.as_fd(), directory_without_links(root, relative)?.as_fd())
        }
        _ => {
            let parameters: Vec<(&str, Option<&str>)> = parameters(kind, &options);
            let made = sys::make_mount(kind, &parameters, attributes(&options))?;
            let target = directory(root, relative, 0o755)?;
            sys::attach_mount(made.as_fd(), target.as_fd())
        }
    }
}

/// Files that programs of the container are told their limits by; below /proc all else stays the kernel's
/// (CVE-2019-16884).
fn may_cover(target: &Path) -> bool {
    let known = ["cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime"];
    match target.strip_prefix("proc") {
        Err(_) => !target.components().any(|part| part == std::path::Component::ParentDir),
        Ok(below) => known.iter().any(|name| below == Path::new(name)),
    }
}

/// In a user namespace, sysfs can only be made by who owns the network namespace too: the host's is bound then.
pub fn kernel_files(kind: &str, attributes: u64) -> io::Result<OwnedFd> {
    match sys::make_mount(kind, &[("source", Some(kind))], attributes) {
        Err(error) if kind == "sysfs" && error.raw_os_error() == Some(libc::EPERM) => {
            let copy = sys::clone_mount(Path::new("/sys"))?;
            sys::restrict_mount(copy.as_fd(), attributes | READ_ONLY, true)?;
            Ok(copy)
        }
        made => made,
    }
}

/// An image whose /proc is a symbolic link wants later steps to look elsewhere (CVE-2023-28642): refused.
pub fn directory_without_links(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let open = || sys::open_without_links(root, path, libc::O_PATH | libc::O_DIRECTORY);
    let found = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            directory(root, path, 0o755)?;
            open()
        }
        found => found,
    };
    found.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => io::Error::other("it must be mounted on ordinary directory, and there is a symbolic link"),
        _ => error,
    })
}

/// Options of the mount itself, as bits of mount_setattr(2).
fn attributes(options: &[&str]) -> u64 {
    let bit = |option: &&str| match *option {
        "ro" => READ_ONLY,
        "nosuid" => NO_SUID,
        "nodev" => NO_DEV,
        "noexec" => NO_EXEC,
        _ => 0,
    };
    options.iter().map(bit).fold(0, |all, one| all | one)
}

/// Options of the file system: all that are not of the mount.
fn parameters<'a>(kind: &str, options: &[&'a str]) -> Vec<(&'a str, Option<&'a str>)> {
    let of_mount = [
        "ro",
        "rw",
        "nosuid",
        "nodev",
        "noexec",
        "suid",
        "dev",
        "exec",
        "relatime",
        "atime",
        "noatime",
        "nodiratime",
        "strictatime",
        "sync",
        "async",
        "dirsync",
        "rprivate",
        "private",
        "rslave",
        "slave",
    ];
    let own = options.iter().filter(|option| !of_mount.contains(option));
    let split = own.map(|option| option.split_once('=').map_or((*option, None), |(key, value)| (key, Some(value))));
    let mut all: Vec<_> = split.collect();
    if kind == "tmpfs" {
        all.push(("source", Some("tmpfs")));
    }
    all
}

/// What the source is now, to be bound into a container that runs: as [`bound`] makes it at a start.
///
/// # Errors
/// What the kernel says.
pub fn bind(source: &Path, read_only: bool, users: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let access = if read_only { "ro" } else { "rw" };
    bind_source(source, &["rbind", "ridmap", access], users)
}

/// A copy of the source's mount with these options, attached nowhere yet.
fn bind_source(source: &Path, options: &[&str], users: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let about = |error: io::Error| io::Error::new(error.kind(), format!("source {}: {error}", source.display()));
    let copy = sys::clone_mount(source).map_err(about)?;
    if let Some(users) = users.filter(|_| options.contains(&"ridmap")) {
        map_ids(&copy, source, users)?;
    }
    let propagation = options.iter().find_map(|option| match *option {
        "rshared" | "shared" => Some(libc::MS_SHARED),
        "rslave" | "slave" => Some(libc::MS_SLAVE),
        _ => None,
    });
    sys::set_propagation(copy.as_fd(), propagation.unwrap_or(libc::MS_PRIVATE))?;
    let wanted = attributes(options);
    if wanted != 0 {
        sys::restrict_mount(copy.as_fd(), wanted, true)?;
    }
    Ok(copy)
}

/// Lets the container's ids be those on the disk. What has been mounted below the source and can't have its ids mapped
/// stays, and is nobody's in the container.
pub fn map_ids(mount: &OwnedFd, source: &Path, users: &OwnedFd) -> io::Result<()> {
    let is_impossible = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM));
    let map = |one: &OwnedFd, all| sys::map_mount_ids(one.as_fd(), users.as_fd(), all);
    match map(mount, true) {
        Err(error) if is_impossible(&error) => {}
        other => return other,
    }
    map(mount, false).map_err(|error| match is_impossible(&error) {
        true => io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "the file system of {} can't be mounted with mapped ids, as a user namespace needs it \
                 (on this kernel, or at all); `userns_mode: host` does without",
                source.display()
            ),
        ),
        false => error,
    })?;
    let source = source.canonicalize()?;
    for point in volume::mounts_below(&source)? {
        let Ok(below) = point.strip_prefix(&source) else { continue };
        if below.as_os_str().is_empty() {
            continue;
        }
        match sys::open_in_root(mount.as_fd(), below, libc::O_PATH | libc::O_NOFOLLOW, 0)
            .and_then(|one| map(&one, false))
        {
            Err(error) if !is_impossible(&error) && error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Puts a mount where it belongs: on a file where it is one, else on a directory.
pub fn attach(mount: &OwnedFd, root: BorrowedFd<'_>, destination: &Path) -> io::Result<()> {
    let target = place(destination)?;
    let is_directory = nix::sys::stat::fstat(mount)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let target = if is_directory { directory(root, target, 0o755)? } else { file(root, target)? };
    sys::attach_mount(mount.as_fd(), target.as_fd())
}

/// The container's own group, read-only unless it may do all. Version 1 and hybrid: an empty read-only directory with
/// the group of each controller.
pub fn cgroup(root: BorrowedFd<'_>, target: &Path, group: &Cgroup, attributes: u64) -> io::Result<()> {
    let view = |source: &Path| {
        let copy = sys::clone_mount(source)?;
        sys::restrict_mount(copy.as_fd(), attributes, true)?;
        Ok::<_, io::Error>(copy)
    };
    let mount_point = directory(root, target, 0o755)?;
    if let [(None, source)] = group.hierarchies().as_slice() {
        return sys::attach_mount(view(source)?.as_fd(), mount_point.as_fd());
    }
    let holder = sys::make_mount("tmpfs", &[("mode", Some("755")), ("size", Some("64k"))], attributes & !READ_ONLY)?;
    sys::attach_mount(holder.as_fd(), mount_point.as_fd())?;
    for (controller, source) in group.hierarchies() {
        let name = controller.unwrap_or("unified");
        nix::sys::stat::mkdirat(&holder, name, Mode::from_bits_truncate(0o755))?;
        let below = sys::open_without_links(holder.as_fd(), Path::new(name), libc::O_PATH | libc::O_DIRECTORY)?;
        sys::attach_mount(view(source)?.as_fd(), below.as_fd())?;
    }
    sys::restrict_mount(holder.as_fd(), READ_ONLY, false)
}

/// The control groups as the specification wants to see them, at another place for others to bind. Returns where they
/// belong; `None` where the specification does not want them.
pub fn groups_beside(
    spec: &Spec,
    root: BorrowedFd<'_>,
    place: &Path,
    group: &Cgroup,
) -> Result<Option<PathBuf>, InitError> {
    let Some(wanted) = spec.mounts().iter().flatten().find(|wanted| kind_of(wanted) == "cgroup") else {
        return Ok(None);
    };
    let made = cgroup(root, place, group, attributes(&options_of(wanted)));
    made.map_err(InitError::step(format!("mount {}", wanted.destination().display())))?;
    Ok(Some(wanted.destination().clone()))
}

/// Opens the directory inside the root, making what is missing of its path.
pub fn directory(root: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    match sys::open_in_root(root, path, flags, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let Some(name) = path.file_name() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let parent = directory(root, path.parent().unwrap_or(Path::new("")), mode)?;
    match nix::sys::stat::mkdirat(&parent, name, Mode::from_bits_truncate(mode)) {
        Ok(()) => sys::open_in_root(root, path, flags, 0),
        // There is something that leads to nothing, or it was made at this moment.
        Err(nix::Error::EEXIST) => match leads_to(&parent, path)? {
            Some(target) => directory(root, &target, mode),
            None => sys::open_in_root(root, path, flags, 0),
        },
        Err(error) => Err(error.into()),
    }
}

/// Where the last part of a path leads, as seen from the root, where that is a symbolic link in this directory. A circle
/// of them can't be asked about: to open it fails otherwise than for want of a file.
fn leads_to(parent: &OwnedFd, path: &Path) -> io::Result<Option<PathBuf>> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    match nix::fcntl::readlinkat(parent, name) {
        // An absolute target takes the place of the whole path, and that of the root is nothing.
        Ok(target) => {
            let target = path.parent().unwrap_or(Path::new("")).join(target);
            Ok(Some(target.strip_prefix("/").map(Path::to_owned).unwrap_or(target)))
        }
        Err(nix::Error::EINVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens the file inside the root, making it, empty, where it is missing.
pub fn file(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    match sys::open_in_root(root, path, libc::O_PATH, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let parent = directory(root, path.parent().unwrap_or(Path::new("")), 0o755)?;
    match leads_to(&parent, path) {
        Ok(Some(target)) => return file(root, &target),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    drop(sys::open_in_root(root, path, libc::O_CREAT | libc::O_WRONLY | libc::O_NONBLOCK, 0o644)?);
    sys::open_in_root(root, path, libc::O_PATH, 0)
}

/// Makes the opened directory the root, and lets go of the old one (pivot_root(2), "pivot_root(\".\", \".\")").
pub fn pivot(root: &OwnedFd) -> io::Result<()> {
    nix::unistd::fchdir(root)?;
    sys::pivot_root_here()?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(nix::unistd::chdir("/")?)
}

/// Hides and write-protects what the specification says. Runs inside the new root; `proc` is what [`mount_all`] found.
pub fn restrict_paths(spec: &Spec, proc: Option<&OwnedFd>) -> Result<(), InitError> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let root = open_root().map_err(InitError::step("open the root"))?;
    let root = Inside { root, proc };
    let mut covers = Covers::default();
    for path in linux.masked_paths().iter().flatten() {
        mask(&root, Path::new(path), &mut covers).map_err(InitError::step(format!("hide {path}")))?;
    }
    for path in linux.readonly_paths().iter().flatten() {
        protect(&root, Path::new(path)).map_err(InitError::step(format!("write-protect {path}")))?;
    }
    Ok(())
}

pub fn open_root() -> io::Result<OwnedFd> {
    Ok(open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// The new root, and the procfs in it: what is below that is looked for in that very one, though another container, which
/// shares the root, puts a link in its place meanwhile (CVE-2023-27561).
struct Inside<'a> {
    root: OwnedFd,
    proc: Option<&'a OwnedFd>,
}

impl Inside<'_> {
    /// What the kernel does not have needs no hiding.
    fn existing(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        let (root, path) = match (self.proc, path.strip_prefix("/proc")) {
            (Some(proc), Ok(below)) if !below.as_os_str().is_empty() => (proc, below),
            _ => (&self.root, path),
        };
        match sys::open_in_root(root.as_fd(), path, libc::O_PATH | libc::O_NOFOLLOW, 0) {
            Ok(found) => Ok(Some(found)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The first cover of each kind, once it is attached: further ones are copies of it.
#[derive(Default)]
struct Covers {
    directory: Option<OwnedFd>,
    file: Option<OwnedFd>,
}

/// A directory is covered by an empty read-only one, a file by the kernel's null device, which is checked to be it.
fn mask(root: &Inside<'_>, path: &Path, covers: &mut Covers) -> io::Result<()> {
    let Some(target) = root.existing(path)? else { return Ok(()) };
    let is_directory = nix::sys::stat::fstat(&target)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let (known, make): (_, fn() -> _) =
        if is_directory { (&mut covers.directory, empty) } else { (&mut covers.file, null) };
    if let Some(known) = known {
        return sys::attach_mount(sys::clone_mount_of(known.as_fd())?.as_fd(), target.as_fd());
    }
    let cover = make()?;
    sys::attach_mount(cover.as_fd(), target.as_fd())?;
    *known = Some(cover);
    Ok(())
}

fn empty() -> io::Result<OwnedFd> {
    let none = [("size", Some("4k")), ("nr_inodes", Some("2"))];
    sys::make_mount("tmpfs", &none, READ_ONLY | NO_SUID | NO_DEV | NO_EXEC)
}

fn null() -> io::Result<OwnedFd> {
    let null = sys::clone_mount_of(super::files::null_path()?.as_fd())?;
    sys::restrict_mount(null.as_fd(), READ_ONLY, false)?;
    Ok(null)
}

fn protect(root: &Inside<'_>, path: &Path) -> io::Result<()> {
    let Some(target) = root.existing(path)? else { return Ok(()) };
    let copy = sys::clone_mount_of(target.as_fd())?;
    sys::restrict_mount(copy.as_fd(), READ_ONLY, true)?;
    sys::attach_mount(copy.as_fd(), target.as_fd())
}

/// Write-protects the root itself, not what is mounted below it.
pub fn restrict_root(spec: &Spec) -> io::Result<()> {
    if spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly) != Some(true) {
        return Ok(());
    }
    sys::restrict_mount(open_root()?.as_fd(), READ_ONLY, false)
}
