//! The engine of an ordinary user: what root does on the host is done by root of a user namespace of the user's own, and
//! nothing else changes.
//!
//! A process that outlives commands ([`holder`]) keeps that namespace, with a mount namespace and a network namespace in
//! it. Each command joins the first two and starts again there ([`enter`]), as uid 0: from then on it is the engine that
//! root has. It stays in the host's network, so that images come from where the user reaches them; bridges and rules are
//! in the network namespace ([`network_of`]), which a program of the host connects to the outside ([`uplink`]).
//! Ports of the host are opened by the holder, which is in the host's network too ([`outside`]).
//!
//! Ids: 0 is the user, 1 and on are those that `/etc/subuid` and `/etc/subgid` give to the user. Without these, or
//! without newuidmap(1), there is only 0, and all files of images are its ([`squashes`]).

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::statfs::{NSFS_MAGIC, statfs};

use super::roots::Roots;
use super::state::{self, Contention, Lock};
use super::{sys, userns};

mod birth;
pub mod facts;
mod groups;
pub mod holder;
pub mod ids;
pub mod outside;
mod refusal;
mod survivors;
pub mod trial;
pub mod uplink;

/// The first word of a command that has joined.
pub const WORD: &str = "inside";

/// Why an ordinary user's command can't run here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {reason}\n  help: `stack` keeps there what only you may touch; choose another with {variable}")]
    Place { path: PathBuf, reason: String, variable: &'static str },
    #[error(
        "no user namespace for you: {reason}\n  help: `stack doctor` says what this host lacks; `sudo stack …` does without"
    )]
    Holder { reason: String },
    #[error("join your user namespace: {0}\n  help: `stack doctor` says what this host lacks")]
    Join(io::Error),
    #[error(transparent)]
    State(#[from] state::Error),
}

/// Where the network namespace of an ordinary user's networks is held.
fn network_file(roots: &Roots) -> PathBuf {
    roots.volatile("network")
}

/// The network namespace that bridges, rules and cables are to be made in, where it is not that of the host: an
/// ordinary user's.
pub fn network_of(roots: &Roots) -> Option<PathBuf> {
    let file = network_file(roots);
    statfs(&file).is_ok_and(|about| about.filesystem_type() == NSFS_MAGIC).then_some(file)
}

/// Whether owners of files can only be the user: there is one id.
pub fn squashes() -> bool {
    userns::own_size() == Some(1)
}

/// Starts this command again as root of the user's own namespace, with `words` after the roots. What is said of the
/// network when the namespace was made is passed to `warn`.
///
/// # Errors
/// Where the host does not let the user have one.
pub fn enter(roots: &Roots, words: &[OsString], warn: impl Fn(&str)) -> Result<Infallible, Error> {
    own(&roots.run, "XDG_RUNTIME_DIR or STACK_RUN_ROOT")?;
    own(&roots.root, "XDG_DATA_HOME or STACK_ROOT")?;
    let door = door(roots, warn)?;
    let program = fs::read_link("/proc/self/exe").map_err(Error::Join)?;
    let here = std::env::current_dir();
    let holder = getsockopt(&door, sockopt::PeerCredentials).map_err(|error| Error::Join(error.into()))?;
    let holder = sys::pidfd_open(holder.pid()).map_err(Error::Join)?;
    let both = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS;
    setns(&holder, both).map_err(|error| Error::Join(error.into()))?;
    if let Ok(here) = here {
        // One that has gone is as gone inside.
        std::env::set_current_dir(here).ok();
    }
    sys::keep_on_exec(door.as_fd()).map_err(Error::Join)?;
    start_again(&program, roots, &door, words).map_err(Error::Join)
}

/// A program that was replaced meanwhile is still this one.
fn start_again(program: &Path, roots: &Roots, door: &UnixStream, words: &[OsString]) -> io::Result<Infallible> {
    let door = door.as_raw_fd().to_string();
    let (root, run) = (roots.root.as_os_str(), roots.run.as_os_str());
    let own = [WORD.as_ref(), "--root".as_ref(), root, "--run-root".as_ref(), run, door.as_ref()];
    let name = words.first().map_or("stack".as_ref(), OsString::as_os_str);
    let rest = words.iter().skip(1).map(OsString::as_os_str);
    let all = std::iter::once(name).chain(own).chain(rest);
    let all = all.map(sys::c_string).collect::<io::Result<Vec<CString>>>()?;
    let program = if program.exists() { program } else { Path::new("/proc/self/exe") };
    match nix::unistd::execv(&sys::c_string(program)?, &all) {
        Ok(never) => Ok(never),
        Err(error) => Err(error.into()),
    }
}

/// The connection by which the holder knows that a command is there; for as long as this process lives.
///
/// # Errors
/// Where the number is not that of an open descriptor.
pub fn keep_door_open(descriptor: i32) -> io::Result<()> {
    std::mem::forget(sys::adopt(descriptor)?);
    Ok(())
}

/// A directory of the user's alone; made where it is missing.
fn own(path: &Path, variable: &'static str) -> Result<(), Error> {
    let wrong = |reason: String| Error::Place { path: path.to_owned(), reason, variable };
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(wrong(error.to_string())),
        _ => {}
    }
    let found = fs::symlink_metadata(path).map_err(|error| wrong(error.to_string()))?;
    let user = nix::unistd::geteuid().as_raw();
    if !found.is_dir() {
        return Err(wrong("it is not a directory".to_owned()));
    }
    if found.uid() != user {
        return Err(wrong(format!("it belongs to uid {}, and you are {user}", found.uid())));
    }
    if found.mode() & 0o022 != 0 {
        return Err(wrong("others may write to it".to_owned()));
    }
    Ok(())
}

/// A connection to the holder, which is started where there is none.
fn door(roots: &Roots, warn: impl Fn(&str)) -> Result<UnixStream, Error> {
    if let Some(door) = knock(roots) {
        return Ok(door);
    }
    let _lock = Lock::take(&holder::lock(roots), Contention::Wait)?;
    if let Some(door) = knock(roots) {
        return Ok(door);
    }
    for words in holder::start(roots).map_err(|reason| Error::Holder { reason })? {
        warn(&words);
    }
    knock(roots).ok_or_else(|| Error::Holder { reason: "it ended as soon as it was made".to_owned() })
}

/// A holder that lets somebody in stays for as long as the connection does.
fn knock(roots: &Roots) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(holder::socket(roots)).ok()?;
    let mut word = [0];
    stream.read_exact(&mut word).ok()?;
    Some(stream)
}

/// What holds a network namespace, opened.
fn open(namespace: &Path) -> io::Result<OwnedFd> {
    Ok(File::open(namespace)?.into())
}

/// Brings this thread, and those that it starts, into the network namespace of the user's networks, where there is one.
///
/// # Errors
/// Where the kernel refuses.
pub fn enter_network(roots: &Roots) -> io::Result<()> {
    match network_of(roots) {
        Some(file) => Ok(setns(open(&file)?, CloneFlags::CLONE_NEWNET)?),
        None => Ok(()),
    }
}

fn is_own_network(file: &Path) -> bool {
    let inode = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    inode(file).is_some_and(|one| inode(Path::new("/proc/thread-self/ns/net")) == Some(one))
}

/// Does this with a thread in the network namespace of the user's networks; right here where there is none.
///
/// # Errors
/// What `action` says, or `wrong` makes of a namespace that can't be entered.
pub fn in_network<T: Send, E: Send>(
    roots: &Roots,
    wrong: impl FnOnce(io::Error) -> E,
    action: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    // `netd` is there already, and may not open what others are.
    let Some(file) = network_of(roots).filter(|file| !is_own_network(file)) else { return action() };
    let done = std::thread::scope(|scope| {
        let thread = scope.spawn(|| -> io::Result<Result<T, E>> {
            setns(open(&file)?, CloneFlags::CLONE_NEWNET)?;
            Ok(action())
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the network namespace failed")))
    });
    done.unwrap_or_else(|error| Err(wrong(error)))
}
