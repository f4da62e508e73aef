//! The addresses of a host, without waiting for them: whoever answers may take its time, and the container's output must
//! not wait for that. A fork of this process asks, and says what it heard in a pipe.

use std::fs::File;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::unistd::pipe2;

use crate::runtime::container::exec;
use crate::runtime::init::Launched;
use crate::runtime::sys;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than one host has.
const LONGEST: usize = 4096;

pub struct Lookup {
    process: Launched,
    answer: OwnedFd,
    heard: Vec<u8>,
    pub until: Instant,
}

impl Lookup {
    /// Of `HOST:PORT`. This process must have one thread.
    pub fn begin(server: &str, now: Instant) -> io::Result<Self> {
        let (answer, words) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        match sys::clone_process(CloneFlags::empty(), None)? {
            Some((pid, pidfd)) => {
                let process = Launched { pid, pidfd, terminal: None };
                Ok(Self { process, answer, heard: Vec::new(), until: now + PATIENCE })
            }
            None => {
                let told = ask(server, words);
                sys::exit_now(i32::from(told.is_err()))
            }
        }
    }

    pub fn source(&self) -> BorrowedFd<'_> {
        self.answer.as_fd()
    }

    /// The addresses, once they are known.
    pub fn read(&mut self) -> io::Result<Option<Vec<SocketAddr>>> {
        let mut piece = [0; LONGEST];
        loop {
            match nix::unistd::read(&self.answer, &mut piece) {
                Ok(0) => break,
                Ok(count) if self.heard.len() + count <= LONGEST => self.heard.extend_from_slice(&piece[..count]),
                Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        let text = String::from_utf8_lossy(&self.heard);
        match text.strip_prefix('!') {
            Some(reason) => Err(io::Error::other(reason.to_owned())),
            None => Ok(Some(text.lines().filter_map(|line| line.parse().ok()).collect())),
        }
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        // It may have ended already.
        drop(sys::pidfd_send_signal(self.process.pidfd.as_fd(), libc::SIGKILL));
        drop(exec::wait(&self.process));
    }
}

/// A line an address, or `!` and why there is none.
fn ask(server: &str, words: OwnedFd) -> io::Result<()> {
    // It holds nothing of the container's, whose end others wait for.
    sys::close_all_but(words.as_fd())?;
    let text = match server.to_socket_addrs() {
        Ok(addresses) => addresses.map(|address| format!("{address}\n")).collect(),
        Err(error) => format!("!{error}"),
    };
    File::from(words).write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn addresses(server: &str) -> io::Result<Vec<SocketAddr>> {
        let mut lookup = Lookup::begin(server, Instant::now())?;
        loop {
            poll(&mut [PollFd::new(lookup.source(), PollFlags::POLLIN)], PollTimeout::NONE)?;
            if let Some(found) = lookup.read()? {
                return Ok(found);
            }
        }
    }

    #[test]
    fn names_become_addresses_elsewhere() {
        let found = addresses("localhost:514").unwrap();
        assert!(!found.is_empty() && found.iter().all(|one| one.ip().is_loopback() && one.port() == 514), "{found:?}");
        assert!(addresses("no.such.name.invalid:1").is_err());
    }
}
