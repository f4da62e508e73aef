//! Layers stacked by overlayfs, reached through a descriptor: nothing is mounted that anybody else sees, and nothing is
//! left when the descriptor is closed, however this process ends.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::{sys, userns};

/// Where overlayfs keeps its marks: what only root of the host may write, or else an attribute that its mounter may
/// (Documentation/filesystems/overlayfs.rst, "User xattr").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    Trusted,
    User,
}

impl Marks {
    /// Those that this process makes and mounts with.
    pub fn own() -> Self {
        if userns::own_size().is_some() { Self::User } else { Self::Trusted }
    }

    /// The attribute of a directory that hides what is below it.
    pub fn opaque(self) -> &'static CStr {
        if self == Self::User { c"user.overlay.opaque" } else { c"trusted.overlay.opaque" }
    }

    /// That of a directory which was renamed.
    pub fn redirect(self) -> &'static CStr {
        if self == Self::User { c"user.overlay.redirect" } else { c"trusted.overlay.redirect" }
    }
}

/// `MOUNT_ATTR_RDONLY` of fsmount(2).
const READ_ONLY: u64 = 1;

/// Where changes go: both are empty directories of one file system.
#[derive(Clone, Copy, Debug)]
pub struct Changes<'a> {
    pub upper: &'a Path,
    pub work: &'a Path,
}

/// The layers without repetitions, which overlayfs refuses: an image may have the same one twice, as steps of a build
/// that change nothing do. What the lower of two says, the upper says again.
pub fn distinct(layers: &[PathBuf]) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut all: Vec<PathBuf> = layers.iter().rev().filter(|layer| seen.insert(*layer)).cloned().collect();
    all.reverse();
    all
}

/// The layers as one tree, the lowest first; read-only without `changes`.
///
/// # Errors
/// Where the kernel refuses to mount them.
pub fn open(layers: &[PathBuf], changes: Option<Changes<'_>>) -> io::Result<OwnedFd> {
    let layers = distinct(layers);
    match (layers.as_slice(), changes) {
        ([], None) => Err(io::Error::new(io::ErrorKind::InvalidInput, "no layers")),
        ([only], None) => Ok(File::open(only)?.into()),
        ([], Some(changes)) => Ok(File::open(changes.upper)?.into()),
        (layers, changes) => match by_context(layers, changes) {
            // Linux before 6.5 does not take layers one by one.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => by_thread(layers, changes),
            other => other,
        },
    }
}

fn by_context(layers: &[PathBuf], changes: Option<Changes<'_>>) -> io::Result<OwnedFd> {
    let layers: Vec<String> = layers.iter().rev().map(|layer| layer.display().to_string()).collect();
    let changes = changes.map(|changes| (changes.upper.display().to_string(), changes.work.display().to_string()));
    let mut options: Vec<(&str, Option<&str>)> =
        layers.iter().map(|layer| ("lowerdir+", Some(layer.as_str()))).collect();
    if let Some((upper, work)) = &changes {
        options.extend([("upperdir", Some(upper.as_str())), ("workdir", Some(work.as_str()))]);
    }
    if Marks::own() == Marks::User {
        options.push(("userxattr", None));
    }
    sys::make_mount("overlay", &options, if changes.is_some() { 0 } else { READ_ONLY })
}

/// In a mount namespace of a thread's own, whose mount is then taken along.
fn by_thread(layers: &[PathBuf], changes: Option<Changes<'_>>) -> io::Result<OwnedFd> {
    let text = |path: &Path| path.display().to_string();
    let lower: Vec<String> = layers.iter().rev().map(|layer| text(layer)).collect();
    let mut data = format!("lowerdir={}", lower.join(":"));
    if let Some(changes) = changes {
        data.push_str(&format!(",upperdir={},workdir={}", text(changes.upper), text(changes.work)));
    }
    if Marks::own() == Marks::User {
        data.push_str(",userxattr");
    }
    let flags = if changes.is_some() { MsFlags::empty() } else { MsFlags::MS_RDONLY };
    let place = layers.first().ok_or(io::ErrorKind::InvalidInput)?.clone();
    let make = move || -> io::Result<OwnedFd> {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("overlay"), &place, Some("overlay"), flags, Some(data.as_str()))?;
        sys::clone_mount(&place)
    };
    let failed = |_| io::Error::other("the thread that mounted the layers failed");
    thread::Builder::new().name("overlay".into()).spawn(make)?.join().map_err(failed)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;

    #[test]
    fn both_ways_stack_layers_and_leave_nothing() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let directory = std::env::temp_dir().join(format!("overlay-{}", std::process::id()));
        let path = |name: &str| directory.join(name);
        for name in ["a", "b", "upper", "work", "upper2", "work2"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        fs::write(path("a/x"), "low").unwrap();
        fs::write(path("b/x"), "high").unwrap();
        let layers = [path("a"), path("b")];
        for (upper, work, open) in
            [("upper", "work", by_context as fn(&[PathBuf], Option<Changes<'_>>) -> _), ("upper2", "work2", by_thread)]
        {
            let (upper, work) = (path(upper), path(work));
            let tree: io::Result<OwnedFd> = open(&layers, Some(Changes { upper: &upper, work: &work }));
            let tree = tree.unwrap();
            let read = sys::open_in_root(tree.as_fd(), Path::new("x"), libc::O_RDONLY, 0).unwrap();
            assert_eq!(io::read_to_string(File::from(read)).unwrap(), "high");
            let made = sys::open_in_root(tree.as_fd(), Path::new("y"), libc::O_CREAT | libc::O_WRONLY, 0o644).unwrap();
            drop((made, tree));
            assert!(upper.join("y").exists());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&directory.display().to_string()));
        fs::remove_dir_all(directory).unwrap();
    }
}
