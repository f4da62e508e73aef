//! Processes beside the supervisor that may wait for what it must not: a disk, or a server.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use nix::sched::CloneFlags;

use crate::runtime::container::exec;
use crate::runtime::init::Launched;
use crate::runtime::sys;

/// Starts one that is nobody's child, and so may outlive the supervisor, and gives the way to it. Its work is done when
/// that returns; it must let go of all that came along. This process must have one thread.
///
/// # Errors
/// Where there can be no further process.
pub fn begin(work: impl FnOnce(UnixStream) -> io::Result<()>) -> io::Result<OwnedFd> {
    let (own, theirs) = UnixStream::pair()?;
    match sys::clone_process(CloneFlags::empty(), None)? {
        Some((pid, pidfd)) => {
            // It ends at once.
            exec::wait(&Launched { pid, pidfd, terminal: None }).map_err(io::Error::other)?;
            own.set_nonblocking(true)?;
            Ok(own.into())
        }
        None => {
            let forked = sys::clone_process(CloneFlags::empty(), None);
            if matches!(forked, Ok(None)) {
                sys::exit_now(i32::from(work(theirs).is_err()));
            }
            sys::exit_now(i32::from(forked.is_err()))
        }
    }
}
