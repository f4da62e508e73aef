//! What lives on in the user's namespaces when the process that kept them was killed: supervisors of containers, what
//! serves the network, commands. Any of them is a way back, since each is in these namespaces or has them open.
//!
//! Which they are is written down by who makes them, in `RUN/namespaces`: a line each for the user and the mount
//! namespace, as links in `/proc/PID/ns` have it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};

use crate::runtime::container::{self, ProcessId};
use crate::runtime::roots::Roots;
use crate::runtime::sys;

/// How long who is killed may take to be gone.
const PATIENCE_MS: u16 = 5000;

fn file(roots: &Roots) -> PathBuf {
    roots.volatile("namespaces")
}

/// Writes down which namespaces this process is in.
pub fn note(roots: &Roots) -> io::Result<()> {
    let link = |kind: &str| Ok::<_, io::Error>(fs::read_link(format!("/proc/self/ns/{kind}"))?.display().to_string());
    fs::write(file(roots), format!("{}\n{}\n", link("user")?, link("mnt")?))
}

/// The namespaces that were written down, opened.
pub struct Way {
    users: OwnedFd,
    mounts: OwnedFd,
}

impl Way {
    /// Brings this process there, which must have one thread.
    pub fn take(&self) -> io::Result<()> {
        setns(&self.users, CloneFlags::CLONE_NEWUSER)?;
        Ok(setns(&self.mounts, CloneFlags::CLONE_NEWNS)?)
    }
}

/// The way back, where one of the user's processes has it.
pub fn way(roots: &Roots) -> Option<Way> {
    let text = fs::read_to_string(file(roots)).ok()?;
    let (users, mounts) = text.trim().split_once('\n')?;
    let in_them = |pid: &i32| namespace(*pid, "user").is_some_and(|link| link == Path::new(users));
    processes().into_iter().filter(|pid| is_of(*pid, roots)).filter(in_them).find_map(|pid| {
        let users = File::open(place(pid).join("ns/user")).ok()?.into();
        Some(Way { users, mounts: mounts_of(pid, Path::new(mounts))? })
    })
}

/// The mount namespace, as this process is in it or, as a supervisor does, keeps it open.
fn mounts_of(pid: i32, wanted: &Path) -> Option<OwnedFd> {
    if namespace(pid, "mnt").is_some_and(|link| link == wanted) {
        return Some(File::open(place(pid).join("ns/mnt")).ok()?.into());
    }
    let open = fs::read_dir(place(pid).join("fd")).ok()?.flatten().map(|entry| entry.path());
    let link = open.into_iter().find(|path| fs::read_link(path).is_ok_and(|link| link == wanted))?;
    Some(File::open(link).ok()?.into())
}

/// Ends what there is no way to: containers that nobody supervises any more. Gives how many processes they were, which
/// does not count those that are left to others.
pub fn end_lost(roots: &Roots, is_spared: impl Fn(i32) -> bool) -> usize {
    let first = |one: container::Container| Some(one.status.process).filter(|process| process.is_alive());
    let own = namespace(std::process::id() as i32, "user");
    let spaces: BTreeSet<PathBuf> = container::list(roots)
        .unwrap_or_default()
        .into_iter()
        .filter_map(first)
        .filter_map(|process: ProcessId| namespace(process.pid, "user"))
        .filter(|space| Some(space) != own.as_ref())
        .collect();
    let is_lost = |pid: &i32| namespace(*pid, "user").is_some_and(|space| spaces.contains(&space));
    let is_lost = |pid: &i32| is_lost(pid) && !is_spared(*pid);
    processes().into_iter().filter(is_lost).filter(|pid| end(*pid).is_ok()).count()
}

fn end(pid: i32) -> io::Result<()> {
    let process = sys::pidfd_open(pid)?;
    sys::pidfd_send_signal(process.as_fd(), libc::SIGKILL)?;
    poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], PollTimeout::from(PATIENCE_MS))?;
    Ok(())
}

/// One other process of the user namespace that this one is in, if there is any but those that `is_spared`; one of this
/// program's, which live longest, before others.
pub fn another(roots: &Roots, is_spared: impl Fn(i32) -> bool) -> Option<OwnedFd> {
    let own = std::process::id() as i32;
    let users = namespace(own, "user")?;
    let is_inside = |pid: &i32| *pid != own && namespace(*pid, "user").as_ref() == Some(&users) && !is_spared(*pid);
    let mut found: Vec<i32> = processes().into_iter().filter(is_inside).collect();
    found.sort_by_key(|pid| !is_of(*pid, roots));
    found.into_iter().find_map(|pid| sys::pidfd_open(pid).ok())
}

/// All but those that have ended, and that nobody has collected.
pub fn processes() -> Vec<i32> {
    let names =
        fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).filter(|pid| ProcessId::of(*pid).is_alive()).collect()
}

fn place(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

fn namespace(pid: i32, kind: &str) -> Option<PathBuf> {
    fs::read_link(place(pid).join("ns").join(kind)).ok()
}

/// Whether it is this program, working for these roots.
fn is_of(pid: i32, roots: &Roots) -> bool {
    let line = fs::read(place(pid).join("cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let run = roots.run.as_os_str().as_encoded_bytes();
    words.windows(2).any(|pair| pair == [b"--run-root".as_slice(), run])
}
