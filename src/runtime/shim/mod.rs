//! The supervisor of one container: this program, started by [`super::container::start`] with the first word `shim`.
//!
//! One thread, no timer without cause. It holds the container's first process by a descriptor, its input and output,
//! writes the log, runs the health check, restarts by policy, answers on a socket and writes `status.json` at each
//! change. The container's root is mounted in a mount namespace of the supervisor's own, so that the mount ends with
//! it. When it is killed, the kernel kills the container (`PR_SET_PDEATHSIG`), and the next command finds that out.

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, fork, setsid};

use super::container::{Config, Paths};
use super::init::InitError;
use super::roots::Roots;
use super::sys;

mod check;
pub mod client;
mod clients;
mod output;
mod policy;
mod supervisor;

/// What the supervisor says on its standard output once the container's program runs; anything else is an
/// [`InitError`] as JSON.
pub const STARTED: &str = "started";

/// Supervises the container with this name until it has ended for good.
pub fn main(roots: &Roots, name: &str) -> ExitCode {
    // SAFETY: this process has one thread: it has just been started.
    match unsafe { fork() } {
        // The starter waits for this one only, and never for the supervisor itself.
        Ok(ForkResult::Parent { .. }) => return ExitCode::SUCCESS,
        Ok(ForkResult::Child) => {}
        Err(error) => return say(&step("fork", error.into())),
    }
    let mut supervisor = match prepare().and_then(|()| supervisor::Supervisor::new(roots, name)) {
        Ok(supervisor) => supervisor,
        Err(error) => return say(&error),
    };
    if let Err(error) = supervisor.begin() {
        return say(&error);
    }
    let told = writeln!(io::stdout(), "{STARTED}").and_then(|()| leave_stdout());
    if told.is_err() {
        // The starter was killed. The container runs, as it was asked to.
        drop(leave_stdout());
    }
    supervisor.run();
    ExitCode::SUCCESS
}

fn step(step: &str, error: io::Error) -> InitError {
    InitError::Step { step: step.to_owned(), reason: error.to_string() }
}

fn say(error: &InitError) -> ExitCode {
    let text = serde_json::to_string(error).unwrap_or_default();
    // The starter may be gone; the status file says it too.
    drop(writeln!(io::stdout(), "{text}"));
    ExitCode::FAILURE
}

fn leave_stdout() -> io::Result<()> {
    Ok(nix::unistd::dup2_stdout(File::options().write(true).open("/dev/null")?)?)
}

/// Takes nothing along from whoever typed the command: terminal, directory, descriptors, mask, mounts.
fn prepare() -> Result<(), InitError> {
    let done = (|| -> io::Result<()> {
        setsid()?;
        std::env::set_current_dir("/")?;
        nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
        sys::close_on_exec_from(3)?;
        // Sees unmounts of the host, but its own mounts are seen by nobody.
        unshare(CloneFlags::CLONE_NEWNS)?;
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        Ok(mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)?)
    })();
    done.map_err(|error| step("prepare the supervisor", error))?;
    // Under memory pressure the supervisor had better outlive what it supervises. No promise: a host may withhold the
    // capability for it.
    drop(std::fs::write("/proc/self/oom_score_adj", "-999"));
    Ok(())
}

/// The most that mount(2) takes as data, with room for what it adds.
const MOUNT_DATA: usize = 4000;

/// Mounts the container's root: its layers, and what it changes on top.
fn mount_root(config: &Config, paths: &Paths) -> io::Result<()> {
    std::fs::create_dir_all(&paths.rootfs)?;
    let none = None::<&str>;
    if config.layers.is_empty() {
        return Ok(mount(Some(&paths.upper), &paths.rootfs, none, MsFlags::MS_BIND, none)?);
    }
    let text = |path: &std::path::Path| path.display().to_string();
    let layers: Vec<String> = config.layers.iter().rev().map(|path| text(path)).collect();
    let data = format!("lowerdir={},upperdir={},workdir={}", layers.join(":"), text(&paths.upper), text(&paths.work));
    let special = layers.iter().any(|path| path.contains([':', ',', '\\']));
    if data.len() < MOUNT_DATA && !special {
        return Ok(mount(Some("overlay"), &paths.rootfs, Some("overlay"), MsFlags::empty(), Some(data.as_str()))?);
    }
    // Linux 6.5 and later take the layers one by one.
    let mut options: Vec<(&str, Option<&str>)> = layers.iter().map(|path| ("lowerdir+", Some(path.as_str()))).collect();
    let (upper, work) = (text(&paths.upper), text(&paths.work));
    options.extend([("upperdir", Some(upper.as_str())), ("workdir", Some(work.as_str()))]);
    let made = sys::make_mount("overlay", &options, 0)?;
    let target = open(&paths.rootfs, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    sys::attach_mount(std::os::fd::AsFd::as_fd(&made), std::os::fd::AsFd::as_fd(&target))
}
