//! Whether containers can have user namespaces on this host: tried as a container's start does it, once a boot. That they
//! can is remembered in `users.json` below the volatile root, format 1; why they can't is found out anew each time.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use super::{IdRange, Mapping, candidates, own_size};
use crate::runtime::roots::Roots;
use crate::runtime::state::{self, Contention, Lock};
use crate::runtime::sys;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Remembered {
    version: u32,
}

/// What stands against user namespaces for containers of these roots; `None`: nothing.
pub fn obstacle(roots: &Roots) -> Option<String> {
    let nested = nested();
    if nested.is_some() {
        return nested;
    }
    let file = roots.volatile("users.json");
    let is_known = || {
        let known = state::read_json::<Remembered>(&file).ok().flatten();
        known.is_some_and(|known| known.version == VERSION)
    };
    if is_known() {
        return None;
    }
    let _one_at_a_time = Lock::take(&roots.volatile("locks").join("users"), Contention::Wait).ok();
    if is_known() {
        return None;
    }
    let found = look(&roots.root);
    if found.is_none() {
        // Where it can't be remembered it is tried again.
        drop(state::write_json_volatile(&file, &Remembered { version: VERSION }));
    }
    found
}

/// As [`obstacle`] for an engine whose files are in this directory, which need not be there yet; always tried.
pub fn look(root: &Path) -> Option<String> {
    let nested = nested();
    if nested.is_some() {
        return nested;
    }
    let place = root.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let tried = ids().and_then(kernel_files).and_then(|ids| {
        let of_files = |error| format!("file systems in {}: {error}", place.display());
        layers(place, ids).map_err(of_files)
    });
    tried.err()
}

/// An ordinary user's containers are nobody on the host anyway.
fn nested() -> Option<String> {
    own_size().map(|_| "the engine itself is in a user namespace".to_owned())
}

fn ids() -> Result<IdRange, String> {
    let ids = candidates("trial").next().ok_or("there are no ids for it")?;
    let made = super::create(ids);
    made.map(|_| ids).map_err(|error| format!("this host makes no user namespace: {error}"))
}

/// The file systems of the kernel that each container mounts: none may show more than the host's own, where that is
/// covered in places (`mount_too_revealing` in fs/namespace.c).
fn kernel_files(ids: IdRange) -> Result<IdRange, String> {
    const KINDS: [&CStr; 5] = [c"proc", c"sysfs", c"mqueue", c"devpts", c"tmpfs"];
    let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC;
    let failed = as_root_of(ids, own, || KINDS.iter().position(|kind| sys::make_plain_mount(kind).is_err()));
    match failed.map(|index| index.and_then(|index| KINDS.get(index))) {
        Ok(None) => Ok(ids),
        Ok(Some(kind)) => {
            Err(format!("this host lets none mount {}, which it covers itself in places", kind.to_string_lossy()))
        }
        Err(error) => Err(format!("this host makes no user namespace: {error}")),
    }
}

/// The first of these kernel settings, each named by its path below /proc/sys, that root of a user namespace may not
/// set for itself.
///
/// # Errors
/// Where it can't be tried.
pub fn unsettable(settings: &[CString], ids: IdRange) -> io::Result<Option<usize>> {
    let own = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    let may = |path: &CString| open(path.as_c_str(), OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()).is_ok();
    as_root_of(ids, own, || settings.iter().position(|path| !may(path)))
}

/// What `find` finds in a child that is root of a new user namespace with these ids, and of these further ones. It may only
/// make system calls.
fn as_root_of(ids: IdRange, further: CloneFlags, find: impl FnOnce() -> Option<usize>) -> io::Result<Option<usize>> {
    const NOTHING: u8 = u8::MAX;
    let (go, say) = (nix::unistd::pipe2(OFlag::O_CLOEXEC)?, nix::unistd::pipe2(OFlag::O_CLOEXEC)?);
    let Some((pid, pidfd)) = sys::clone_process(further | CloneFlags::CLONE_NEWUSER, None)? else {
        let mut byte = [0];
        // Or it would not hear of the end of its maker.
        drop(go.1);
        // Only what has ids may make anything.
        if nix::unistd::read(&go.0, &mut byte) == Ok(1) && sys::become_root_alone().is_ok() {
            let word = find().map_or(NOTHING, |index| u8::try_from(index).unwrap_or(NOTHING - 1));
            // Who does not hear it is told by the end of the pipe.
            nix::unistd::write(&say.1, &[word]).ok();
        }
        sys::exit_now(0)
    };
    drop(say.1);
    let line = {
        let Mapping { inside, outside, size } = ids.into();
        format!("{inside} {outside} {size}\n")
    };
    let map = |file: &str| fs::write(format!("/proc/{pid}/{file}"), &line);
    let mut word = [NOTHING];
    let heard = map("uid_map").and_then(|()| map("gid_map")).and_then(|()| {
        nix::unistd::write(&go.1, b"g")?;
        File::from(say.0).read_exact(&mut word)
    });
    drop(go);
    super::waitid(super::Id::PIDFd(pidfd.as_fd()), super::WaitPidFlag::WEXITED)?;
    heard.map(|()| (word[0] != NOTHING).then_some(usize::from(word[0])))
}

/// An overlay whose layers have mapped ids, as a container's root is one (Linux 5.19).
fn layers(place: &Path, ids: IdRange) -> Result<(), String> {
    // What a killed one left is taken over.
    let here = place.join(".stack-users");
    let [low, lower, own] = ["low", "lower", "own"].map(|name| here.join(name));
    let made = [&low, &lower, &own.join("upper"), &own.join("work")].into_iter().try_for_each(fs::create_dir_all);
    let tried = made.map_err(|error| error.to_string()).and_then(|()| {
        let users = super::create(ids).map_err(|error| error.to_string())?;
        let trial = thread::Builder::new().name("layers".into()).spawn(move || stack([low, lower, own], &users));
        let ended = trial.map_err(|error| error.to_string())?.join();
        ended.unwrap_or_else(|_| Err("the trial failed".to_owned()))
    });
    match fs::remove_dir_all(&here) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => tried.and(Err(error.to_string())),
        _ => tried,
    }
}

/// In a mount namespace of this thread's own, which ends with it.
fn stack(directories: [PathBuf; 3], users: &OwnedFd) -> Result<(), String> {
    let alone = || -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        Ok(mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?)
    };
    alone().map_err(|error| error.to_string())?;
    for directory in &directories {
        map(directory, users).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => "they can't be mounted with mapped ids".to_owned(),
            _ => error.to_string(),
        })?;
    }
    let [low, lower, own] = directories;
    let (below, upper, work) = (format!("{}:{}", low.display(), lower.display()), own.join("upper"), own.join("work"));
    let (upper, work) = (upper.display().to_string(), work.display().to_string());
    let options = [("lowerdir", Some(&*below)), ("upperdir", Some(&*upper)), ("workdir", Some(&*work))];
    let made = sys::make_mount("overlay", &options, 0);
    made.map(drop).map_err(|error| format!("overlayfs takes no layers with mapped ids (Linux 5.19 does): {error}"))
}

/// Covers the directory by itself, with mapped ids.
fn map(directory: &Path, users: &OwnedFd) -> io::Result<()> {
    let copy = sys::clone_mount(directory)?;
    sys::map_mount_ids(copy.as_fd(), users.as_fd(), true)?;
    let target = open(directory, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    sys::attach_mount(copy.as_fd(), target.as_fd())
}

/// Whether what is at this path, and all that is mounted below it, can be mounted with mapped ids.
///
/// # Errors
/// Where it can't be reached.
pub fn maps(path: &Path, users: &OwnedFd) -> io::Result<bool> {
    let copy = sys::clone_mount(path)?;
    match sys::map_mount_ids(copy.as_fd(), users.as_fd(), true) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_namespace_may_set_and_map_is_found_by_trying() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let ids = candidates("settings").next().unwrap();
        let path = |key: &str| CString::new(format!("/proc/sys/{key}")).unwrap();
        let own = [path("net/ipv4/ip_unprivileged_port_start"), path("net/ipv4/ip_forward")];
        assert_eq!(unsettable(&own, ids).unwrap(), None);
        let host = [path("net/ipv4/ip_forward"), path("vm/overcommit_memory"), path("kernel/panic")];
        assert_eq!(unsettable(&host, ids).unwrap(), Some(1));
        let users = super::super::create(ids).unwrap();
        assert!(!maps(Path::new("/proc"), &users).unwrap());
        let folder = std::env::temp_dir().join(format!("stack-maps-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        assert!(maps(&folder, &users).unwrap());
        fs::remove_dir(folder).unwrap();
    }

    #[test]
    fn a_host_that_can_is_tried_once() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let folder = std::env::temp_dir().join(format!("stack-trial-{}", std::process::id()));
        let roots = Roots::new(folder.join("root"), folder.join("run"));
        fs::create_dir_all(&roots.root).unwrap();
        state::make_private(&roots.run).unwrap();
        assert_eq!(obstacle(&roots), None);
        let golden = fs::read_to_string(folder.join("run/users.json")).unwrap();
        assert_eq!(golden.trim(), r#"{"version":1}"#);
        assert_eq!(fs::read_dir(&roots.root).unwrap().count(), 0);
        fs::remove_dir_all(folder).unwrap();
    }
}
