//! The health check: a program run in the container now and then, or a question that this program asks over its network
//! ([`probes`]); an exit code is the answer.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::policy::{self, HealthState};
use super::probes;
use crate::runtime::container::exec::{self, Exec};
use crate::runtime::container::{self, Checked, Health, HealthCheck, Status};
use crate::runtime::init::{Launched, Stdio};
use crate::runtime::roots::Roots;
use crate::runtime::sys;

/// How much of a check's output is kept, in bytes.
const KEPT: usize = 4096;
/// How many checks are remembered, as docker does.
const REMEMBERED: usize = 5;
/// The code of a check that did not come to an end of its own.
const NO_END: i32 = -1;

/// With less than this until the next one, sleep is not worth its while.
const WORTH_SLEEPING: Duration = Duration::from_secs(5);

/// What is kept of it while the supervisor sleeps, beside what is in the container's status.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Memory {
    begun_ms: u64,
    /// From when it went to sleep.
    next_ms: Option<u64>,
}

impl Memory {
    /// Of a container that runs since then, and whose next check is due.
    pub fn of_age(age: Duration) -> Self {
        Self { begun_ms: age.as_millis() as u64, next_ms: Some(0) }
    }
}

/// One check that runs.
struct Probe {
    process: Launched,
    /// Until it is closed.
    output: Option<File>,
    text: Vec<u8>,
    begun_ms: u64,
    deadline: Instant,
}

pub struct Check {
    config: Option<HealthCheck>,
    state: HealthState,
    begun: Instant,
    probe: Option<Probe>,
    next: Option<Instant>,
    log: Vec<Checked>,
}

impl Check {
    pub fn new(config: Option<HealthCheck>) -> Self {
        let state = HealthState { health: Health::None, streak: 0 };
        Self { config, state, begun: Instant::now(), probe: None, next: None, log: Vec::new() }
    }

    /// As it was before a sleep of this length. `ago` is the time so many milliseconds before that sleep.
    pub fn resume(
        config: Option<HealthCheck>,
        status: &Status,
        memory: Memory,
        ago: impl Fn(u64) -> Instant,
        slept: Duration,
    ) -> Self {
        let state = HealthState { health: status.health, streak: status.failing_streak };
        let left = |ms| Duration::from_millis(ms).saturating_sub(slept);
        let next = memory.next_ms.filter(|_| config.is_some()).map(|ms| Instant::now() + left(ms));
        let log = status.health_log.clone();
        Self { config, state, begun: ago(memory.begun_ms), probe: None, next, log }
    }

    /// Whether nothing runs, nor will soon.
    pub fn may_rest(&self, now: Instant) -> bool {
        self.probe.is_none() && self.next.is_none_or(|next| next > now + WORTH_SLEEPING)
    }

    pub fn memory(&self, now: Instant) -> Memory {
        let ms = |time: Duration| time.as_millis() as u64;
        let next_ms = self.next.map(|next| ms(next.saturating_duration_since(now)));
        Memory { begun_ms: ms(now.saturating_duration_since(self.begun)), next_ms }
    }

    /// The container has started.
    pub fn begin(&mut self, now: Instant) -> HealthState {
        let health = if self.config.is_some() { Health::Starting } else { Health::None };
        self.state = HealthState { health, streak: 0 };
        self.begun = now;
        self.log.clear();
        self.plan(now);
        self.state
    }

    /// The container has ended, and the probe in it with it.
    pub fn end(&mut self) {
        self.next = None;
        if let Some(probe) = self.probe.take() {
            kill(&probe);
        }
    }

    fn plan(&mut self, now: Instant) {
        let age = now - self.begun;
        self.next = self.config.as_ref().map(|config| now + policy::next_check(self.state, config, age));
    }

    /// When something has to be done next: a probe begun, or one ended that takes too long.
    pub fn next(&self) -> Option<Instant> {
        self.probe.as_ref().map(|probe| probe.deadline).or(self.next)
    }

    /// What to wait for: the probe's end and its output.
    pub fn sources(&self) -> Vec<BorrowedFd<'_>> {
        let Some(probe) = &self.probe else { return Vec::new() };
        [probe.process.pidfd.as_fd()].into_iter().chain(probe.output.as_ref().map(AsFd::as_fd)).collect()
    }

    /// The last checks since the container's start, the newest last.
    pub fn log(&self) -> &[Checked] {
        &self.log
    }

    /// Begins a probe, or ends one whose time is up.
    pub fn on_time(
        &mut self,
        now: Instant,
        start: impl FnOnce(&HealthCheck, Stdio) -> Result<Launched, String>,
    ) -> Option<HealthState> {
        let config = self.config.clone()?;
        if let Some(mut probe) = self.probe.take() {
            probe.take_output();
            kill(&probe);
            let output = format!("it took longer than {} ms\n{}", config.timeout_ms, probe.said());
            return self.finish(Checked { begun_ms: probe.begun_ms, code: NO_END, output, ..Checked::default() }, now);
        }
        self.next = None;
        match begin(&config, now, start) {
            Ok(probe) => {
                self.probe = Some(probe);
                None
            }
            Err(output) => {
                let begun_ms = container::now_ms();
                self.finish(Checked { begun_ms, code: NO_END, output, ..Checked::default() }, now)
            }
        }
    }

    /// The probe has written something, or has ended.
    pub fn read(&mut self, now: Instant) -> Option<HealthState> {
        let probe = self.probe.as_mut()?;
        let ended = probe.has_ended();
        // Not to the end of the pipe: something that the probe left running may hold it open.
        probe.take_output();
        if !ended {
            return None;
        }
        let probe = self.probe.take()?;
        let code = container::exec::wait(&probe.process).unwrap_or(1);
        self.finish(Checked { begun_ms: probe.begun_ms, code, output: probe.said(), ..Checked::default() }, now)
    }

    fn finish(&mut self, check: Checked, now: Instant) -> Option<HealthState> {
        let config = self.config.as_ref()?;
        let passed = check.code == 0;
        self.log.push(Checked { ended_ms: container::now_ms(), ..check });
        self.log.drain(..self.log.len().saturating_sub(REMEMBERED));
        self.state = policy::health_after(self.state, config, passed, now - self.begun);
        self.plan(now);
        Some(self.state)
    }
}

impl Probe {
    fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.process.pidfd.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
    }

    /// Reads what is there, also what is not kept: a check that writes much waits for nobody.
    fn take_output(&mut self) {
        let Some(output) = &mut self.output else { return };
        let mut piece = [0; KEPT];
        loop {
            match output.read(&mut piece) {
                Ok(count) if count > 0 => {
                    let room = (KEPT + 1).saturating_sub(self.text.len()).min(count);
                    self.text.extend_from_slice(&piece[..room]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Its end, or nothing that could be read.
                _ => break,
            }
        }
        self.output = None;
    }

    /// As docker shows it: dots stand for what is left out.
    fn said(&self) -> String {
        let kept = &self.text[..self.text.len().min(KEPT)];
        let dots = if self.text.len() > KEPT { "..." } else { "" };
        format!("{}{dots}", String::from_utf8_lossy(kept))
    }
}

/// Starts one check of this container, whose first process is `of`.
pub fn start(roots: &Roots, name: &str, of: &OwnedFd, config: &HealthCheck, stdio: Stdio) -> Result<Launched, String> {
    match (&config.probe, stdio) {
        (Some(probe), Stdio::Pipes { stdout, .. }) => {
            probes::begin(probe, of, stdout).map_err(|error| error.to_string())
        }
        (_, stdio) => {
            let exec = Exec { args: config.command.clone(), ..Exec::default() };
            exec::exec(roots, name, &exec, stdio).map_err(|error| error.to_string())
        }
    }
}

fn begin(
    config: &HealthCheck,
    now: Instant,
    start: impl FnOnce(&HealthCheck, Stdio) -> Result<Launched, String>,
) -> Result<Probe, String> {
    let begun_ms = container::now_ms();
    // What does not wait is this side of it only: for the check it is a pipe as any other.
    let (output, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|error| error.to_string())?;
    fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|error| error.to_string())?;
    let stderr = write.try_clone().map_err(|error| error.to_string())?;
    let process = start(config, Stdio::Pipes { stdin: None, stdout: write, stderr })?;
    let deadline = now + Duration::from_millis(config.timeout_ms);
    Ok(Probe { process, output: Some(output.into()), text: Vec::new(), begun_ms, deadline })
}

fn kill(probe: &Probe) {
    // It may have ended by itself.
    drop(sys::pidfd_send_signal(probe.process.pidfd.as_fd(), libc::SIGKILL));
    drop(container::exec::wait(&probe.process));
}
