//! Sleeping: what the supervisor knows is put into a file of memory, and read again when it wakes up.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::clock_gettime;
use serde::{Deserialize, Serialize};

use super::{Run, Supervisor, signals};
use crate::runtime::container::{self, Config, Paths, ProcessId, Start, Status};
use crate::runtime::init::{InitError, Launched};
use crate::runtime::roots::Roots;
use crate::runtime::shim::check::{self, Check};
use crate::runtime::shim::clients::{self, Clients};
use crate::runtime::shim::output::{self, Writer};
use crate::runtime::shim::{sleeper, step};
use crate::runtime::sys;

/// How long nothing must have happened before it goes to sleep.
const QUIET: Duration = Duration::from_secs(2);

/// All that is not on the disk. Only ever read by the very program that wrote it.
#[derive(Serialize, Deserialize)]
struct Memory {
    config: Config,
    maker: ProcessId,
    start: Start,
    status: Status,
    mounted: bool,
    failures: u32,
    unhealthy: bool,
    begun_ms: u64,
    check: check::Memory,
    clients: Vec<clients::Memory>,
    writer: output::Memory,
    /// When it went to sleep, by the clock that [`Instant`] has.
    since_ms: u64,
    open: Descriptors,
}

/// The numbers of what is open.
#[derive(Serialize, Deserialize)]
struct Descriptors {
    host: RawFd,
    listener: RawFd,
    signals: RawFd,
    process: RawFd,
    output: [Option<RawFd>; 2],
    terminal: Option<RawFd>,
    input: Option<RawFd>,
    users: Option<RawFd>,
    network: Option<RawFd>,
    owner: Option<RawFd>,
    timer: Option<RawFd>,
}

impl Descriptors {
    fn awaited(&self) -> Vec<RawFd> {
        let always = [self.listener, self.signals, self.process];
        let more = [self.output[0], self.output[1], self.owner, self.timer];
        always.into_iter().chain(more.into_iter().flatten()).collect()
    }

    fn held(&self) -> Vec<RawFd> {
        let more = [self.terminal, self.input, self.users, self.network];
        [self.host].into_iter().chain(more.into_iter().flatten()).collect()
    }
}

fn clock_ms() -> io::Result<u64> {
    let now = Duration::from(clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?);
    Ok(now.as_millis() as u64)
}

impl Supervisor {
    /// When it will have been quiet for long enough; `None` while something is under way.
    pub(super) fn rest_at(&self, now: Instant) -> Option<Instant> {
        let busy = self.sleepless
            || self.awaited.is_some()
            || self.kill_at.is_some()
            || self.restart_at.is_some()
            || !self.writer.may_rest();
        let idle = !busy && self.run.is_some() && self.check.may_rest(now) && self.clients.may_rest();
        idle.then(|| self.active + QUIET)
    }

    /// Returns only where there is no sleep to be had; then it is not tried again.
    pub(super) fn rest(&mut self) {
        let error = match self.memory() {
            Ok((memory, _timer)) => self.become_sleeper(&memory),
            Err(error) => error,
        };
        tracing::debug!(%error, "sleep");
        self.sleepless = true;
    }

    fn become_sleeper(&self, memory: &Memory) -> io::Error {
        let text = match serde_json::to_vec(memory) {
            Ok(text) => text,
            Err(error) => return error.into(),
        };
        let clients = memory.clients.iter().map(clients::Memory::descriptor);
        let awaited: Vec<RawFd> = memory.open.awaited().into_iter().chain(clients).collect();
        match words(&self.roots, &self.config.name) {
            Ok(words) => sleeper::sleep(words, &text, &awaited, &memory.open.held()),
            Err(error) => error,
        }
    }

    fn memory(&self) -> io::Result<(Memory, Option<TimerFd>)> {
        let now = Instant::now();
        let run = self.run.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        let timer = self.check.next().map(|at| timer(at.saturating_duration_since(now))).transpose()?;
        let number = |fd: &OwnedFd| fd.as_raw_fd();
        let open = Descriptors {
            host: number(&self.host),
            listener: self.listener.as_raw_fd(),
            signals: self.signals.as_raw_fd(),
            process: number(&run.process.pidfd),
            output: [0, 1].map(|index: usize| run.output[index].as_ref().map(number)),
            terminal: run.process.terminal.as_ref().map(number),
            input: self.clients.input.as_ref().map(number),
            users: self.users.as_ref().map(number),
            network: self.network.as_ref().map(number),
            owner: self.owner.as_ref().map(number),
            timer: timer.as_ref().map(|timer| timer.as_fd().as_raw_fd()),
        };
        let memory = Memory {
            config: self.config.clone(),
            maker: self.maker,
            start: self.start.clone(),
            status: self.status.clone(),
            mounted: self.mounted,
            failures: self.failures,
            unhealthy: self.unhealthy,
            begun_ms: (now - run.begun).as_millis() as u64,
            check: self.check.memory(now),
            clients: self.clients.memory(),
            writer: self.writer.memory(),
            since_ms: clock_ms()?,
            open,
        };
        Ok((memory, timer))
    }

    /// As it was when it went to sleep. `word` is the one that [`sleeper::sleep`] has added to its own.
    pub fn wake(roots: &Roots, word: &str) -> Result<Self, InitError> {
        Self::remember(roots, word).map_err(|error| step("wake up", error))
    }

    fn remember(roots: &Roots, word: &str) -> io::Result<Self> {
        let memory: Memory = serde_json::from_slice(&sleeper::memory(word)?)?;
        let open = memory.open;
        let some = |number: Option<RawFd>| number.map(sys::adopt).transpose();
        // It has told that its time is up.
        drop(some(open.timer)?);
        drop(sys::adopt(open.signals)?);
        let now = Instant::now();
        let slept = Duration::from_millis(clock_ms()?.saturating_sub(memory.since_ms));
        let ago = |ms: u64| now.checked_sub(Duration::from_millis(ms) + slept).unwrap_or(now);
        let pidfd = sys::adopt(open.process)?;
        let process = Launched { pid: memory.status.process.pid, pidfd, terminal: some(open.terminal)? };
        let output = [some(open.output[0])?, some(open.output[1])?];
        let paths = Paths::of(roots, &memory.config.name);
        let mut writer = Writer::new(&paths.logs, &memory.config);
        writer.resume(memory.writer);
        let check = Check::resume(memory.config.health.clone(), &memory.status, memory.check, ago, slept);
        let mut clients = Clients::resume(memory.clients, some(open.input)?)?;
        clients.lasting_input = !memory.config.stdin_once;
        Ok(Self {
            roots: roots.clone(),
            host: sys::adopt(open.host)?,
            cgroup: container::cgroup(roots, &memory.config),
            users: some(open.users)?,
            network: some(open.network)?,
            signals: signals()?,
            listener: sys::adopt(open.listener)?.into(),
            clients,
            writer,
            run: Some(Run { process, output, begun: ago(memory.begun_ms) }),
            owner: some(open.owner)?,
            awaited: None,
            check,
            kill_at: None,
            restart_at: None,
            failures: memory.failures,
            unhealthy: memory.unhealthy,
            leaving: false,
            mounted: memory.mounted,
            sleepless: false,
            active: now,
            paths,
            config: memory.config,
            maker: memory.maker,
            start: memory.start,
            status: memory.status,
        })
    }
}

/// As [`container::start`] types them.
fn words(roots: &Roots, name: &str) -> io::Result<Vec<CString>> {
    let (root, run) = (roots.root.as_os_str(), roots.run.as_os_str());
    let fixed = |word: &'static str| std::ffi::OsStr::new(word);
    let words = [fixed("stack"), fixed("shim"), fixed("--root"), root, fixed("--run-root"), run, name.as_ref()];
    words.into_iter().map(sys::c_string).collect()
}

fn timer(left: Duration) -> io::Result<TimerFd> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
    // No time at all would disarm it.
    let left = left.max(Duration::from_millis(1));
    timer.set(Expiration::OneShot(TimeSpec::from_duration(left)), TimerSetTimeFlags::empty())?;
    Ok(timer)
}
