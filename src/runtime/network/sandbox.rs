//! Network namespaces that outlive the processes in them: each is held by a mount of it on a file, `netns/CONTAINER`
//! below the volatile root. The directory is a shared mount, so that a supervisor's own mount namespace does not keep
//! a namespace alive that was removed here.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::fstat;
use nix::sys::statfs::{NSFS_MAGIC, statfs};

use super::links;
use super::netlink::Socket;
use crate::runtime::roots::Roots;
use crate::runtime::state;
use crate::runtime::userns::{self, IdRange};

/// Where the namespace of a container is held.
pub fn path(roots: &Roots, container: &str) -> PathBuf {
    directory(roots).join(container)
}

pub(super) fn directory(roots: &Roots) -> PathBuf {
    roots.volatile("netns")
}

/// Whether the directory is a mount of its own, as far as the table of mounts tells.
fn is_mounted(directory: &Path) -> bool {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let Ok(wanted) = directory.canonicalize() else { return false };
    // Blanks and backslashes are written in octal there (proc(5)).
    let wanted = wanted.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011");
    text.lines().any(|line| line.split(' ').nth(4) == Some(wanted.as_str()))
}

fn is_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|about| about.filesystem_type() == NSFS_MAGIC)
}

/// Whether the file stands for a namespace, and not for the empty file that a killed command left.
pub fn exists(roots: &Roots, container: &str) -> bool {
    is_namespace(&path(roots, container))
}

fn share_directory(directory: &Path) -> io::Result<()> {
    state::make_private(directory)?;
    if !is_mounted(directory) {
        mount(Some(directory), directory, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    }
    Ok(mount(None::<&str>, directory, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?)
}

/// The user namespace that a container's network namespace belongs to.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Owner {
    /// That of this process.
    #[default]
    Host,
    /// A new one with these ids, which the network namespace holds, too.
    New(IdRange),
    /// The one at this path.
    Other(PathBuf),
}

/// Whether the container's namespace belongs to this one, or is yet to be made.
pub fn is_of(roots: &Roots, container: &str, owner: &Owner) -> io::Result<bool> {
    let path = path(roots, container);
    if !is_namespace(&path) {
        return Ok(true);
    }
    let found = userns::owner_of(File::open(path)?.as_fd())?;
    let same = |path: &Path| Ok(fs::metadata(path)?.ino() == fstat(&found)?.st_ino);
    match owner {
        Owner::Host => same(Path::new("/proc/self/ns/user")),
        Owner::New(ids) => Ok(userns::has(found.as_fd(), *ids)),
        Owner::Other(path) => same(path),
    }
}

/// Makes the namespace where it is missing, with its loopback up.
pub fn ensure(roots: &Roots, container: &str, owner: &Owner) -> io::Result<PathBuf> {
    let path = path(roots, container);
    if is_namespace(&path) {
        return Ok(path);
    }
    share_directory(&directory(roots))?;
    File::create(&path)?;
    let (target, owner) = (path.clone(), owner.clone());
    on_thread(move || {
        match owner {
            Owner::Host => unshare(CloneFlags::CLONE_NEWNET)?,
            Owner::New(ids) => setns(userns::create_with_network(ids)?.1, CloneFlags::CLONE_NEWNET)?,
            Owner::Other(path) => setns(userns::network_of(File::open(path)?.as_fd())?, CloneFlags::CLONE_NEWNET)?,
        }
        furnish()?;
        Ok(mount(Some("/proc/thread-self/ns/net"), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
    })?;
    Ok(path)
}

/// One that only its descriptor holds, with its loopback up.
pub fn unnamed() -> io::Result<OwnedFd> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        furnish()?;
        Ok(File::open("/proc/thread-self/ns/net")?.into())
    })
}

/// What every new network namespace of a container has: its loopback up, and no IPv6 until a network of the container
/// has it. For a thread in that namespace that still sees the host's /proc.
pub fn furnish() -> io::Result<()> {
    // First, so that the loopback gets no address of it that is taken away again.
    write_if_there("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")?;
    write_if_there("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
    set_loopback_up()
}

/// The first link of every namespace (linux/if_link.h, `LOOPBACK_IFINDEX`).
pub fn set_loopback_up() -> io::Result<()> {
    links::set_up(&mut Socket::route()?, 1)
}

/// Holds the container's namespace, where nothing does yet.
pub fn hold(roots: &Roots, container: &str, namespace: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let path = path(roots, container);
    if !is_namespace(&path) {
        share_directory(&directory(roots))?;
        File::create(&path)?;
        let namespace = format!("/proc/self/fd/{}", namespace.as_raw_fd());
        mount(Some(namespace.as_str()), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    }
    Ok(path)
}

/// A kernel without the setting does not need it.
fn write_if_there(path: &str, value: &str) -> io::Result<()> {
    match File::options().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => opened?.write_all(value.as_bytes()),
    }
}

/// Holds the namespace under another name.
pub fn rename(roots: &Roots, container: &str, new: &str) -> io::Result<()> {
    let (from, to) = (path(roots, container), path(roots, new));
    if !is_namespace(&from) {
        return Ok(());
    }
    if !is_namespace(&to) {
        File::create(&to)?;
        mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    }
    while is_namespace(&from) {
        umount2(&from, MntFlags::MNT_DETACH)?;
    }
    fs::remove_file(&from)
}

/// Lets go of the namespace, if there is one; the links in it end with it. The last one takes the directory's mount with
/// it.
pub fn remove(roots: &Roots, container: &str) -> io::Result<()> {
    let path = path(roots, container);
    while is_namespace(&path) {
        umount2(&path, MntFlags::MNT_DETACH)?;
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let directory = directory(roots);
    let empty = fs::read_dir(&directory).is_ok_and(|mut entries| entries.next().is_none());
    if !empty {
        return Ok(());
    }
    while is_mounted(&directory) {
        umount2(&directory, MntFlags::MNT_DETACH)?;
    }
    // The directory itself stays: it is what `netd` may look into.
    Ok(())
}

/// Runs this with a thread in the namespace of that file.
pub fn inside<T: Send + 'static>(
    namespace: &Path,
    action: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let file = File::open(namespace)?;
    on_thread(move || {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        action()
    })
}

/// A thread of its own, since the namespace belongs to the thread.
fn on_thread<T: Send + 'static>(action: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let failed = |_| io::Error::other("the thread in the network namespace failed");
    thread::Builder::new().name("netns".into()).spawn(action)?.join().map_err(failed)?
}
