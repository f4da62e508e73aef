//! Process 1 of a container that asks for `init: true`: passes signals on to the program and reaps what is orphaned.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::credentials;

/// Forks: the child returns and becomes the program, this process, which has no more rights than the program, stays as
/// process 1 and never returns. `errors` is
/// the pipe on which the starter waits: only the program's own exec may close it last.
pub fn split(errors: i32) -> io::Result<()> {
    // Taken by sigwait below, so that none is lost between fork and the loop.
    let all = SigSet::all();
    all.thread_block()?;
    // SAFETY: this process has one thread, so the child may do whatever the parent could.
    match unsafe { fork() }? {
        ForkResult::Child => {
            lead_foreground()?;
            Ok(SigSet::empty().thread_set_mask()?)
        }
        ForkResult::Parent { child } => {
            // This program is the engine's: the container must not open it through /proc/1/exe (CVE-2019-5736).
            credentials::not_dumpable()?;
            credentials::die_with_parent()?;
            // SAFETY: closes this process's copy of a descriptor that it does not use again.
            unsafe { libc::close(errors) };
            // SAFETY: closes what was marked to be closed by exec, which never comes here, and nothing is used again.
            unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
            serve(child, &all)
        }
    }
}

/// Keys like Ctrl-C are for the program alone, not for process 1 to pass on a second time.
fn lead_foreground() -> io::Result<()> {
    nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    match nix::unistd::tcsetpgrp(io::stdin(), nix::unistd::getpgrp()) {
        Ok(()) | Err(nix::Error::ENOTTY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn serve(child: Pid, signals: &SigSet) -> ! {
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = reap(child) {
                    // SAFETY: ends this process, and with it the container.
                    unsafe { libc::_exit(code) };
                }
            }
            // It may just have ended; then SIGCHLD follows.
            Ok(signal) => drop(nix::sys::signal::kill(child, signal)),
            Err(_) => {}
        }
    }
}

/// Takes the exit of all that have ended. The program's own code, 128 and the signal where it was killed by one.
fn reap(child: Pid) -> Option<i32> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => code = Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => code = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(_) => return code,
            Ok(_) => {}
        }
    }
}
