//! How the process that keeps an ordinary user's namespaces begins: in new ones, or in those that the one before it was
//! killed in, when something lives on there.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use super::refusal::Refusal;
use super::{ids, survivors, uplink};
use crate::runtime::roots::Roots;
use crate::runtime::sys;

/// Which of the two processes this is now.
pub enum Birth {
    /// The one that was started; the other is nobody's child.
    Over,
    /// In new namespaces, of which it is root. So many processes of lost containers were ended before.
    New { ended: usize },
    /// In the namespaces that there were.
    Again,
}

/// Forks. Who is told that it is [`Birth::Over`] has nothing more to do.
///
/// # Errors
/// Why there can be no namespaces, for people.
pub fn begin(roots: &Roots, search: &OsStr) -> Result<Birth, String> {
    leave().map_err(|error| error.to_string())?;
    match survivors::way(roots) {
        Some(way) => {
            let forked = sys::clone_process(CloneFlags::empty(), None).map_err(|error| error.to_string())?;
            if forked.is_some() {
                return Ok(Birth::Over);
            }
            way.take().map_err(|error| format!("go back to your namespaces: {error}"))?;
            Ok(Birth::Again)
        }
        None => anew(survivors::end_lost(roots, uplink::is_one), search),
    }
}

/// Gives the new one its ids from outside.
fn anew(ended: usize, search: &OsStr) -> Result<Birth, String> {
    let given = ids::given(search).ok();
    let (go, told) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|error| error.to_string())?;
    let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS;
    let Some((pid, pidfd)) = sys::clone_process(flags, None).map_err(|error| Refusal::of(&error).to_string())? else {
        drop(told);
        // Where it ends without the word, the other one says why.
        return Ok(if wait(go).is_ok() { Birth::New { ended } } else { Birth::Over });
    };
    drop(go);
    let go_on = |()| File::from(told).write_all(b"g").map_err(|error| error.to_string());
    let done = ids::give(pid, given.as_ref()).and_then(go_on);
    if done.is_err() {
        // It waits for a word that does not come.
        drop(sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL));
    }
    done.map(|()| Birth::Over)
}

/// Whether the programs that give ids really do, for a namespace that ends at once.
///
/// # Errors
/// What they say.
pub fn try_ids(given: &ids::Given) -> Result<(), String> {
    let (go, told) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|error| error.to_string())?;
    let made = sys::clone_process(CloneFlags::CLONE_NEWUSER, None).map_err(|error| error.to_string())?;
    let Some((pid, process)) = made else {
        drop(told);
        wait(go).ok();
        sys::exit_now(0)
    };
    drop(go);
    let done = ids::give(pid, Some(given));
    drop(told);
    waitid(Id::PIDFd(process.as_fd()), WaitPidFlag::WEXITED).map_err(|error| error.to_string())?;
    done
}

fn wait(go: OwnedFd) -> io::Result<()> {
    File::from(go).read_exact(&mut [0])
}

/// Takes nothing along from whoever typed the command.
fn leave() -> io::Result<()> {
    nix::unistd::setsid()?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    std::env::set_current_dir("/")?;
    sys::close_from(3)
}
