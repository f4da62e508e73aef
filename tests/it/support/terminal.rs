//! The program on a terminal of its own, typed at and read as a person does.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use super::{PATIENCE, World};

pub struct Terminal {
    child: Child,
    /// Until it is closed.
    master: Option<File>,
    /// Kept open, so that the terminal can be looked at when the program has ended.
    slave: OwnedFd,
    /// What was read and not asked for yet.
    seen: String,
}

impl World {
    /// Starts the program as the leader of a session on a terminal of 30 rows and 100 columns.
    pub fn terminal(&self, words: &[&str]) -> Terminal {
        Terminal::start(self.command(words))
    }
}

impl Terminal {
    pub fn start(mut command: Command) -> Self {
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).unwrap();
        // Nobody but the test holds that end, or it would not be the last one to close it.
        fcntl(&pair.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        let own = || Stdio::from(pair.slave.try_clone().unwrap());
        command.stdin(own()).stdout(own()).stderr(own()).env("TERM", "xterm");
        let controlling = || {
            nix::unistd::setsid()?;
            // SAFETY: the argument is a number; standard input is the terminal by now.
            match unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: only system calls are made between fork and exec.
        let child = unsafe { command.pre_exec(controlling) }.spawn().unwrap();
        // The command holds copies of the terminal until it is dropped.
        drop(command);
        Self { child, master: Some(File::from(pair.master)), slave: pair.slave, seen: String::new() }
    }

    pub fn types(&mut self, text: &str) {
        self.master().write_all(text.as_bytes()).unwrap();
    }

    fn master(&self) -> &File {
        self.master.as_ref().expect("it is not closed")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As when its window is closed; waits for the program's end.
    pub fn close(&mut self) {
        self.master = None;
        self.child.wait().unwrap();
    }

    /// Reads until this text has come; gives what came up to its end.
    #[track_caller]
    pub fn reads(&mut self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(begun.elapsed() < PATIENCE, "no {text:?} in {:?}", self.seen);
            assert!(self.read_some(), "the program ended before {text:?} came: {:?}", self.seen);
        }
    }

    /// `false` when the program has ended and all is read.
    fn read_some(&mut self) -> bool {
        let mut fds = [PollFd::new(self.master().as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(100_u16)).unwrap();
        if ready == 0 {
            return self.child.try_wait().unwrap().is_none();
        }
        let mut piece = [0; 4096];
        let count = self.master().read(&mut piece).unwrap_or(0);
        self.seen.push_str(&String::from_utf8_lossy(&piece[..count]));
        count > 0
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the argument points at a winsize that outlives the call.
        assert_eq!(unsafe { libc::ioctl(self.master().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }, 0);
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Whether keys are echoed and lines collected, as a shell's user expects it.
    pub fn is_sane(&self) -> bool {
        tcgetattr(&self.slave).unwrap().local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end: its code, or 128 and the signal's number, and what came last.
    pub fn end(&mut self) -> (i32, String) {
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "it does not end: {:?}", self.seen);
            self.read_some();
        }
        while self.read_some() {}
        let status = self.child.wait().unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        (status.code().unwrap_or_else(|| 128 + signal.unwrap_or(0)), std::mem::take(&mut self.seen))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
