//! A further process in a running container, started by the caller itself: its exit and its terminal are the caller's.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use super::{Container, Error, State, cgroup, get, io_at};
use crate::runtime::apparmor;
use crate::runtime::init::{self, InitError, Launched, Stdio, spec};
use crate::runtime::outside::{Outside, bundle};
use crate::runtime::roots::Roots;
use crate::runtime::sys;

/// What to run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    pub args: Vec<String>,
    /// Added to the container's own variables.
    pub env: Vec<String>,
    /// The container's own when unset.
    pub cwd: Option<String>,
    pub user: Option<String>,
    pub privileged: bool,
    /// For who runs it to its end: how long it may take.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// Starts it. Must be called from a process with one thread, see [`init::join`].
///
/// # Errors
/// [`Error::NotRunning`], or [`Error::Start`] with the code that docker would exit with.
pub fn exec(roots: &Roots, name: &str, exec: &Exec, stdio: Stdio) -> Result<Launched, Error> {
    let container = get(roots, name)?;
    let config = &container.config;
    let process = container.status.process;
    let lost = || Error::NotRunning(config.name.clone());
    if !container.is_running() || !process.is_alive() {
        return Err(lost());
    }
    // What joins a suspended container is suspended, too, and whoever waits for it waits for ever.
    if container.status.state == State::Paused {
        return Err(Error::Paused(config.name.clone()));
    }
    let pidfd = sys::pidfd_open(process.pid).map_err(|_| lost())?;
    // The number may have been given to another process before the descriptor was ours.
    if !process.is_alive() {
        return Err(lost());
    }
    let mut request = config.request.clone();
    request.privileged |= exec.privileged;
    if exec.privileged {
        request.apparmor = None;
    }
    request.default_profile = apparmor::default_profile();
    request.terminal = matches!(stdio, Stdio::Terminal { .. });
    let env: Vec<String> = merge(&config.request.env, &exec.env);
    let spec = spec::build(&request)?;
    if let Some(outside) = Outside::of(roots, config) {
        let exec = Exec { env, ..exec.clone() };
        return by_runtime(&outside, &container, &spec, &exec, stdio);
    }
    let join = init::Join {
        spec: &spec,
        pidfd: &pidfd,
        pid: process.pid,
        cgroup: &cgroup(roots, config),
        stdio,
        launcher: &init::launcher::ensure(roots).map_err(io_at(&roots.root))?,
        args: &exec.args,
        env: &env,
        cwd: exec.cwd.as_deref().unwrap_or(if request.cwd.is_empty() { "/" } else { &request.cwd }),
        user: exec.user.as_deref().unwrap_or(&config.user),
        groups: &config.groups,
        exactly: None,
    };
    init::join(join).map_err(|source: InitError| Error::Start { name: config.name.clone(), source })
}

/// By who has made the container. The user is looked up as the container sees its files.
fn by_runtime(
    outside: &Outside,
    container: &Container,
    spec: &Spec,
    exec: &Exec,
    stdio: Stdio,
) -> Result<Launched, Error> {
    let config = &container.config;
    let failed = |source: InitError| Error::Start { name: config.name.clone(), source };
    let place = format!("/proc/{}/root", container.status.process.pid);
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(place.as_str(), flags, Mode::empty()).map_err(|error| io_at(&place)(error.into()))?;
    if !container.status.process.is_alive() {
        return Err(Error::NotRunning(config.name.clone()));
    }
    let user = exec.user.as_deref().unwrap_or(&config.user);
    let identity = init::identity(root.as_fd(), user, &config.groups, spec).map_err(failed)?;
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(exec.args.clone()));
    process.set_env(Some(exec.env.clone()));
    if let Some(cwd) = &exec.cwd {
        process.set_cwd(cwd.into());
    }
    let person = bundle::Person::new(identity, &process).map_err(io_at("resource limits"))?;
    outside.exec(&bundle::process(&process, &person), stdio).map_err(failed)
}

/// Later entries win over earlier ones of the same name.
fn merge(base: &[String], more: &[String]) -> Vec<String> {
    let key = |entry: &str| entry.split('=').next().unwrap_or(entry).to_owned();
    let replaced: Vec<String> = more.iter().map(|entry| key(entry)).collect();
    let kept = base.iter().filter(|entry| !replaced.contains(&key(entry)));
    kept.chain(more).cloned().collect()
}

/// As [`wait`]; a process that takes longer than this is killed. Whether it was.
pub fn wait_within(launched: &Launched, timeout: Duration) -> Result<(i32, bool), Error> {
    let end = Instant::now() + timeout;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(launched.pidfd.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) if Instant::now() < end => {}
            Ok(0) => {
                let killed = sys::pidfd_send_signal(launched.pidfd.as_fd(), libc::SIGKILL).is_ok();
                return Ok((wait(launched)?, killed));
            }
            Ok(_) => return Ok((wait(launched)?, false)),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(io_at("poll")(error.into())),
        }
    }
}

/// Waits for the process and gives its code: its own, or 128 and the signal's number.
pub fn wait(launched: &Launched) -> Result<i32, Error> {
    loop {
        match waitid(Id::PIDFd(launched.pidfd.as_fd()), WaitPidFlag::WEXITED) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(io_at("waitid")(error.into())),
        }
    }
}
