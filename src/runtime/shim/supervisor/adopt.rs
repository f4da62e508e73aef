//! Taking over a container whose supervisor was killed. Its program runs on, or has ended unseen; what it writes waits in
//! its pipes, which it holds open itself (see [`lasting_pipe`]).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, fstat};

use super::{Run, Supervisor, nonblocking, outlives, policy};
use crate::runtime::container::{self, State, Status};
use crate::runtime::init::{InitError, Launched};
use crate::runtime::roots::Roots;
use crate::runtime::shim::check::{self, Check};
use crate::runtime::shim::step;
use crate::runtime::{state, sys};

/// How long whoever has inherited an ended process may take to collect it.
const COLLECTED_MS: u16 = 5000;
/// What an exit code that nobody knows is called, as containerd has it.
pub const UNKNOWN: i32 = 255;
/// The code and the word of what does not outlive its supervisor.
pub const KILLED: (i32, &str) = (137, "its supervisor was killed, and it with it");
pub const UNSEEN: &str = "its supervisor was killed, and it ended unseen: its exit code is not known";

/// A pipe whose end for the program is open for reading, too: so it is never without a reader, and what is written to it
/// waits, as long as the program has it. Nobody gets SIGPIPE because a supervisor was killed.
pub(super) fn lasting_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let own = format!("/proc/self/fd/{}", write.as_raw_fd());
    let both = open(own.as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    nonblocking(&read)?;
    Ok((read, both))
}

/// Which pipe this is; 0 is none.
pub(super) fn number_of(pipe: Option<&OwnedFd>) -> u64 {
    let data = pipe.and_then(|pipe| fstat(pipe).ok());
    data.filter(|data| data.st_mode & libc::S_IFMT == libc::S_IFIFO).map_or(0, |data| data.st_ino)
}

impl Supervisor {
    /// For a container that another one has supervised, which was killed.
    pub fn adopt(roots: &Roots, name: &str, host: OwnedFd) -> Result<Self, InitError> {
        let mut own = Self::new(roots, name, host)?;
        let failed = |error: state::Error| step("status", io::Error::other(error));
        let before = state::read_json::<Status>(&own.paths.status).map_err(failed)?.unwrap_or_default();
        own.status = Status { shim: own.status.shim, ..before };
        let began = own.status.started_ms;
        let age = Duration::from_millis(container::now_ms().saturating_sub(began));
        let now = Instant::now();
        let begun = now.checked_sub(age).unwrap_or(now);
        match own.program(begun) {
            Some(run) if !outlives(&own.config) => own.end_stranded(&run),
            Some(run) => {
                own.remember_namespaces(run.process.pid).map_err(|error| step("namespaces", error))?;
                own.run = Some(run);
                let memory = check::Memory::of_age(age);
                let ago = |_| begun;
                own.check = Check::resume(own.config.health.clone(), &own.status, memory, ago, Duration::ZERO);
                own.save();
                own.tell("adopt");
            }
            None => own.ended_unseen(),
        }
        Ok(own)
    }

    /// The very process that ran last, and its pipes.
    fn program(&self, begun: Instant) -> Option<Run> {
        let process = self.status.process;
        let pidfd = sys::pidfd_open(process.pid).ok()?;
        // The number may have been another's when the descriptor was opened.
        if !process.is_alive() {
            return None;
        }
        let processes = container::processes_of(&self.cgroup, process);
        let output = self.status.pipes.map(|number| find_pipe(&processes, number));
        Some(Run { process: Launched { pid: process.pid, pidfd, terminal: None }, output, begun })
    }

    /// The kernel has not ended it with its supervisor, since a runtime of others made it.
    fn end_stranded(&mut self, run: &Run) {
        // It may just have ended by itself.
        drop(sys::pidfd_send_signal(run.process.pidfd.as_fd(), libc::SIGKILL));
        self.ended_as(KILLED.0, KILLED.1);
    }

    /// Those that the next start is to be in again.
    fn remember_namespaces(&mut self, pid: i32) -> io::Result<()> {
        if self.config.request.users.is_some() {
            self.users = Some(File::open(format!("/proc/{pid}/ns/user"))?.into());
        }
        self.keep_network(pid);
        Ok(())
    }

    /// It has ended while nobody looked.
    fn ended_unseen(&mut self) {
        match outlives(&self.config) {
            true => self.ended_as(UNKNOWN, UNSEEN),
            false => self.ended_as(KILLED.0, KILLED.1),
        }
    }

    fn ended_as(&mut self, code: i32, word: &str) {
        let by_hand = self.status.by_hand;
        let before = (self.status.state, self.status.finished_ms);
        let code = if before.0 == State::Restarting { self.status.exit_code } else { code };
        self.set_exited(code, self.cgroup.oom_kills() > 0);
        if before.0 == State::Restarting {
            self.status.finished_ms = before.1;
        } else {
            self.status.error = Some(word.to_owned());
            self.tell_end(code);
        }
        let pause = policy::restart_after(&self.config, code, by_hand, self.status.restarts, 0);
        self.next(pause);
    }
}

/// The code of a process that is another's child by now, where the kernel tells it (Linux 6.15 and later do).
pub(super) fn code_of_stranger(process: &Launched) -> Option<i32> {
    // Known once it is collected; the descriptor says so by hanging up. Where it never will be, that is not waited for.
    sys::pidfd_exit_status(process.pidfd.as_fd()).ok()?;
    let mut end = [PollFd::new(process.pidfd.as_fd(), PollFlags::empty())];
    poll(&mut end, PollTimeout::from(COLLECTED_MS)).ok()?;
    let status = sys::pidfd_exit_status(process.pidfd.as_fd()).ok()??;
    Some(if status & 0x7f == 0 { status >> 8 & 0xff } else { 128 + (status & 0x7f) })
}

/// The pipe of this number, from whichever process of the container holds it. What a descriptor leads to is the
/// container's to choose: nothing but that pipe is ever opened.
fn find_pipe(processes: &[i32], number: u64) -> Option<OwnedFd> {
    if number == 0 {
        return None;
    }
    let folders = processes.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok());
    let descriptors = folders.flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut found = descriptors.filter_map(|path| {
        let file = open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
        is_pipe(&file, number).then_some(file)
    });
    let file = found.next()?;
    let read = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    open(format!("/proc/self/fd/{}", file.as_raw_fd()).as_str(), read, Mode::empty()).ok()
}

/// Numbers are those of one file system; named pipes are on others.
fn is_pipe(file: &OwnedFd, number: u64) -> bool {
    let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let kind = fs::metadata(format!("/proc/self/fd/{}", file.as_raw_fd())).map(|data| data.file_type().is_fifo());
    link.is_ok_and(|link| link.as_os_str() == format!("pipe:[{number}]").as_str()) && kind.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_pipe_outlives_its_reader_and_is_found_again() {
        let (read, both) = lasting_pipe().unwrap();
        let number = number_of(Some(&read));
        drop(read);
        let mut write = File::from(both);
        write.write_all(b"while nobody reads").unwrap();
        let own = [std::process::id() as i32];
        assert!(find_pipe(&own, number + 1_000_000).is_none());
        let mut found = File::from(find_pipe(&own, number).unwrap());
        drop(write);
        let mut text = String::new();
        found.read_to_string(&mut text).unwrap();
        assert_eq!(text, "while nobody reads");
    }
}
