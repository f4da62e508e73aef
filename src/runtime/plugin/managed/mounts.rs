//! What a plugin has mounted where only it sees it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use crate::runtime::container::ProcessId;
use crate::runtime::sys;

/// A copy of what is at this path inside the process's root, with all that is mounted below it; attached nowhere yet. No
/// link of the plugin's leads out of its root.
pub fn take(process: ProcessId, place: &Path) -> io::Result<OwnedFd> {
    let of = |what: &str| File::open(format!("/proc/{}/{what}", process.pid));
    let (root, mounts) = (of("root")?, of("ns/mnt")?);
    // Its number may have become another process's before both were open.
    if !process.is_alive() {
        return Err(io::Error::other("the plugin has ended"));
    }
    let inside: PathBuf = place.strip_prefix("/").unwrap_or(place).to_owned();
    // Only who is in the mount namespace may copy of it; a thread of its own goes there and ends.
    let work = move || {
        unshare(CloneFlags::CLONE_FS)?;
        setns(&mounts, CloneFlags::CLONE_NEWNS)?;
        let found = sys::open_in_root(root.as_fd(), &inside, libc::O_PATH | libc::O_DIRECTORY, 0)?;
        let copy = sys::clone_mount_of(found.as_fd())?;
        sys::set_propagation(copy.as_fd(), libc::MS_PRIVATE)?;
        Ok(copy)
    };
    let failed = |_| io::Error::other("the thread that copied the mount failed");
    thread::Builder::new().name("mounts".into()).spawn(work)?.join().map_err(failed)?
}
