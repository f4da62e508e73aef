//! The small static program that becomes the container's program, as a file that no container can write to. What it is
//! for is said in `program.rs`; the build script compiles it, and it is a part of this one.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::InitError;
use super::mounts::{NO_DEV, NO_EXEC, NO_SUID, READ_ONLY};
use crate::runtime::roots::Roots;
use crate::runtime::state::{self, Contention, Durability, Lock};
use crate::runtime::sys;

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/launcher"));
/// Tells this build of it from others.
const DIGEST: &str = include_str!(concat!(env!("OUT_DIR"), "/launcher.digest"));

/// What it says on the pipe of its starter: right before the program, and before an errno.
const EXEC: u8 = b'x';
const FORK: u8 = b'p';

/// What it shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Exec,
    Reap,
}

/// The file, made where it is missing: of this build alone, since those of others may be executed at this moment.
///
/// # Errors
/// Where it can't be written.
pub fn ensure(roots: &Roots) -> io::Result<PathBuf> {
    let path = roots.durable(format!("launcher-{DIGEST}"));
    let is_whole = || fs::metadata(&path).is_ok_and(|found| found.len() == PROGRAM.len() as u64);
    if is_whole() {
        return Ok(path);
    }
    let lock = Lock::take(&roots.volatile("locks").join("launcher"), Contention::Wait);
    let _lock = lock.map_err(io::Error::other)?;
    if is_whole() {
        return Ok(path);
    }
    // It can be executed before it has the name that everybody looks for.
    let making = roots.durable(".launcher.new");
    state::replace(&making, PROGRAM, Durability::Durable)?;
    fs::set_permissions(&making, fs::Permissions::from_mode(0o755))?;
    fs::rename(&making, &path)?;
    Ok(path)
}

/// The file behind a read-only mount of its own, which is attached nowhere.
pub fn open(file: &Path) -> io::Result<OwnedFd> {
    let sealed = sys::clone_mount(file)?;
    // The directory may be on a file system that is mounted `noexec`, as /run often is.
    sys::change_mount(sealed.as_fd(), READ_ONLY | NO_SUID | NO_DEV, NO_EXEC)?;
    Ok(sealed)
}

/// Its arguments, for the program that these paths lead to.
pub fn arguments(mode: Mode, errors: i32, candidates: Vec<CString>, args: Vec<CString>) -> io::Result<Vec<CString>> {
    let mode = if mode == Mode::Reap { c"reap" } else { c"exec" };
    let number = |number: String| CString::new(number).map_err(io::Error::other);
    let mut words = vec![c"init".to_owned(), mode.to_owned(), number(errors.to_string())?];
    words.push(number(candidates.len().to_string())?);
    words.extend(candidates.into_iter().chain(args));
    Ok(words)
}

/// What all that came through the pipe until its end means: the program runs, or why not. `None` where these are not the
/// launcher's words.
pub fn outcome(words: &[u8], program: &str) -> Option<Result<(), InitError>> {
    let errno = |bytes: &[u8]| Some(io::Error::from_raw_os_error(i32::from_ne_bytes(bytes.try_into().ok()?)));
    match words.split_first()? {
        (&EXEC, []) => Some(Ok(())),
        (&EXEC, rest) => Some(Err(not_executed(&errno(rest)?, program))),
        (&FORK, rest) => Some(Err(InitError::step("process 1")(errno(rest)?))),
        _ => None,
    }
}

fn not_executed(error: &io::Error, program: &str) -> InitError {
    let found = error.raw_os_error() != Some(libc::ENOENT);
    let reason = if found {
        nix::Error::from_raw(error.raw_os_error().unwrap_or_default()).desc()
    } else {
        "no such file in the container, nor in its PATH"
    };
    InitError::Exec { program: program.to_owned(), reason: reason.to_owned(), found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_words_say_what_became_of_the_program() {
        let failed = |code: u8, errno: i32| outcome(&[&[code], &errno.to_ne_bytes()[..]].concat(), "it").unwrap();
        assert_eq!(outcome(b"x", "it"), Some(Ok(())));
        let exec = |found, reason: &str| InitError::Exec { program: "it".into(), reason: reason.into(), found };
        assert_eq!(failed(EXEC, libc::ENOENT), Err(exec(false, "no such file in the container, nor in its PATH")));
        assert_eq!(failed(EXEC, libc::EACCES), Err(exec(true, "Permission denied")));
        assert!(matches!(failed(FORK, libc::EAGAIN), Err(InitError::Step { step, .. }) if step == "process 1"));
        assert_eq!((outcome(b"", "it"), outcome(b"{}", "it")), (None, None));
    }
}
