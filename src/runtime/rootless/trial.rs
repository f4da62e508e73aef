//! What an ordinary user's host has of what containers need, tried as root of a user namespace that ends with the trial.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use super::ids;
use crate::runtime::sys;

/// Does it with a fork of this process, which must have one thread, in user, mount and network namespaces of its own;
/// `None` where there are none to be had.
pub fn alone(trial: impl FnOnce() -> io::Result<()>) -> Option<io::Result<()>> {
    let (go, told) = nix::unistd::pipe2(OFlag::O_CLOEXEC).ok()?;
    let (said, say) = nix::unistd::pipe2(OFlag::O_CLOEXEC).ok()?;
    let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    let Some((pid, process)) = sys::clone_process(flags, None).ok()? else {
        drop((told, said));
        let tried = File::from(go).read_exact(&mut [0]).and_then(|()| trial());
        // Where nobody listens any more, there is nothing to say.
        File::from(say).write_all(words(tried.err()).as_bytes()).ok();
        sys::exit_now(0)
    };
    drop((go, say));
    let given = ids::give(pid, None).ok().and_then(|()| File::from(told).write_all(b"g").ok());
    let mut text = String::new();
    let read = File::from(said).read_to_string(&mut text);
    waitid(Id::PIDFd(process.as_fd()), WaitPidFlag::WEXITED).ok()?;
    given?;
    Some(read.and_then(|_| meaning(&text)))
}

/// The kernel's number of the error, if it is one of the kernel's, and what it says.
fn words(error: Option<io::Error>) -> String {
    error.map_or(String::new(), |error| format!("{} {error}", error.raw_os_error().unwrap_or(0)))
}

fn meaning(words: &str) -> io::Result<()> {
    match words.split_once(' ') {
        None => Ok(()),
        Some(("0", text)) => Err(io::Error::other(text.to_owned())),
        Some((number, text)) => {
            Err(number.parse().map_or_else(|_| io::Error::other(text.to_owned()), io::Error::from_raw_os_error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_comes_through_as_it_was() {
        assert!(meaning(&words(None)).is_ok());
        let kernel = meaning(&words(Some(io::Error::from_raw_os_error(libc::ENODEV)))).unwrap_err();
        assert_eq!(kernel.raw_os_error(), Some(libc::ENODEV));
        assert_eq!(meaning(&words(Some(io::Error::other("not so")))).unwrap_err().to_string(), "not so");
    }
}
