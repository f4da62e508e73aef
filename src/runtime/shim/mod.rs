//! The supervisor of one container: this program, started by [`super::container::start`] with the first word `shim`.
//!
//! One thread, no timer without cause. It holds the container's first process by a descriptor, its input and output,
//! writes the log (or has it written by a process that may wait for the disk, where the container shall not), runs the
//! health check, restarts by policy, answers on a socket and writes `status.json` at each
//! change. The container's root is mounted in a mount namespace of the supervisor's own, so that the mount ends with
//! it. After a moment without anything to do it becomes a program of one page that only waits (`sleeper`), and wakes
//! up as this one again. When it is killed, the container goes on, what it writes waits, and the next command gives it
//! another supervisor; only what has a terminal, or belongs to a process, is killed by the kernel with it
//! (`PR_SET_PDEATHSIG`).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, fork, setsid};

use super::container::{Config, Paths, Removal};
use super::home::Home;
use super::init::{self, InitError};
use super::overlay;
use super::roots::Roots;
use super::state::Durability;
use super::sys;
use super::userns::IdRange;

mod check;
pub mod client;
mod clients;
mod images;
mod joined;
mod output;
mod policy;
mod probes;
mod sleeper;
mod supervisor;

pub use images::tree as image_tree;
pub use policy::restart_after;
pub use supervisor::{KILLED, UNKNOWN, UNSEEN, outlives, signal_number};

/// What the supervisor of a container begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Starting its program.
    Launch,
    /// Taking over a program, or its end, from a supervisor that was killed.
    Adopt,
}

/// The further word for [`Beginning::Adopt`].
pub const ADOPT: &str = "adopt";

/// What the supervisor says on its standard output once the container's program runs; anything else is an
/// [`InitError`] as JSON.
pub const STARTED: &str = "started";

/// Supervises the container with this name until it has ended for good. The further word is [`ADOPT`], or what the
/// sleeper hands on.
pub fn main(roots: &Roots, name: &str, further: Option<&str>) -> ExitCode {
    let beginning = match further {
        None => Beginning::Launch,
        Some(ADOPT) => Beginning::Adopt,
        Some(word) => return wake(roots, word),
    };
    // SAFETY: this process has one thread: it has just been started.
    match unsafe { fork() } {
        // The starter waits for this one only, and never for the supervisor itself.
        Ok(ForkResult::Parent { .. }) => return ExitCode::SUCCESS,
        Ok(ForkResult::Child) => {}
        Err(error) => return say(&step("fork", error.into())),
    }
    supervise(roots, name, beginning)
}

/// Without a word when that fails: nobody listens. The next command finds a container without a supervisor.
fn wake(roots: &Roots, word: &str) -> ExitCode {
    let Ok(mut supervisor) = supervisor::Supervisor::wake(roots, word) else { return ExitCode::FAILURE };
    supervisor.run();
    ExitCode::SUCCESS
}

/// As [`main`], in a fork of this process, which must have one thread. What it says goes to `words`.
///
/// # Errors
/// Where there can be no further process.
pub fn fork_off(roots: &Roots, name: &str, words: OwnedFd) -> io::Result<()> {
    // What waits in the buffer would be written twice.
    io::stdout().flush()?;
    // SAFETY: the caller has made sure that this process has one thread.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        return Ok(());
    }
    let code = match take_leave(words) {
        Ok(()) => supervise(roots, name, Beginning::Launch),
        Err(_) => ExitCode::FAILURE,
    };
    // SAFETY: ends this process only; what the fork brought along is the other one's to clean up.
    unsafe { libc::_exit(i32::from(code != ExitCode::SUCCESS)) }
}

/// Keeps none of the descriptors that came along: they would hold locks and pipes of the one who started it; nor the
/// environment and the words of its command line, which the supervisor would show for as long as it lives.
fn take_leave(words: OwnedFd) -> io::Result<()> {
    sys::forget_environment()?;
    sys::hide_arguments()?;
    nix::unistd::dup2_stdout(words)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    std::mem::forget(null);
    sys::close_from(3)
}

fn supervise(roots: &Roots, name: &str, beginning: Beginning) -> ExitCode {
    let begun = go_home(roots).and_then(|()| prepare()).and_then(|host| match beginning {
        Beginning::Launch => supervisor::Supervisor::launched(roots, name, host),
        Beginning::Adopt => supervisor::Supervisor::adopt(roots, name, host),
    });
    let mut supervisor = match begun {
        Ok(supervisor) => supervisor,
        Err(error) => return say(&error),
    };
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

/// The session or service of whoever typed the command may end.
fn go_home(roots: &Roots) -> Result<(), InitError> {
    let entered = Home::of(roots, "").map_or(Ok(()), |home| home.enter(roots));
    entered.map_err(|error| step("enter the engine's control group", io::Error::other(error)))
}

fn leave_stdout() -> io::Result<()> {
    Ok(nix::unistd::dup2_stdout(File::options().write(true).open("/dev/null")?)?)
}

/// Takes nothing along from whoever typed the command: terminal, directory, descriptors, mask, mounts. Returns the
/// mount namespace of the host.
fn prepare() -> Result<OwnedFd, InitError> {
    let done = (|| -> io::Result<OwnedFd> {
        setsid()?;
        std::env::set_current_dir("/")?;
        nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
        sys::close_from(3)?;
        let host = File::open("/proc/self/ns/mnt")?;
        // Sees unmounts of the host, but its own mounts are seen by nobody.
        unshare(CloneFlags::CLONE_NEWNS)?;
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)?;
        Ok(host.into())
    })();
    let host = done.map_err(|error| step("prepare the supervisor", error))?;
    sys::be_chosen_last();
    Ok(host)
}

/// The most that mount(2) takes as data, with room for what it adds.
const MOUNT_DATA: usize = 4000;
/// As overlayfs has it (Documentation/filesystems/overlayfs.rst).
const MOST_LAYERS: usize = 500;

/// Mounts the container's root: its layers, and what it changes on top. In a user namespace the ids on the disk are the
/// container's own.
fn mount_root(config: &Config, paths: &Paths, users: Option<&OwnedFd>) -> io::Result<()> {
    std::fs::create_dir_all(&paths.rootfs)?;
    let layers = layers(config, paths);
    let mount = |keep| match (users, config.request.users) {
        (Some(users), Some(ids)) => mount_mapped(&layers, paths, users, ids, keep),
        _ => mount_layers(&layers, &paths.upper, &paths.work, &paths.rootfs, keep),
    };
    if config.removal == Removal::Nobody {
        return mount(Durability::Durable);
    }
    forget_last_mount(&paths.work)?;
    match mount(Durability::Volatile) {
        // Linux before 5.10.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => mount(Durability::Durable),
        other => other,
    }
}

/// The kernel leaves a mark of each volatile mount and refuses the next one, since the host may have crashed between
/// them. It has not: such a container does not outlive the boot.
fn forget_last_mount(work: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(work.join("work/incompat")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The image's layers on top of the one that all containers have, if overlayfs takes one more.
fn layers(config: &Config, paths: &Paths) -> Vec<PathBuf> {
    let own = overlay::distinct(&config.layers);
    let room = (1..MOST_LAYERS).contains(&own.len());
    room.then(|| paths.skeleton.clone()).into_iter().chain(own).collect()
}

/// What is written to a volatile one is lost when the host crashes, and its end does not wait for the disk.
fn mount_layers(layers: &[PathBuf], upper: &Path, work: &Path, rootfs: &Path, keep: Durability) -> io::Result<()> {
    let none = None::<&str>;
    if layers.is_empty() {
        return Ok(mount(Some(upper), rootfs, none, MsFlags::MS_BIND, none)?);
    }
    let text = |path: &Path| path.display().to_string();
    let names: Vec<String> = layers.iter().rev().map(|path| text(path)).collect();
    let data = overlay_options(&names, &text(upper), &text(work), keep);
    let is_plain = |path: &Path| !text(path).contains([':', ',', '\\']);
    if data.len() < MOUNT_DATA && layers.iter().map(PathBuf::as_path).chain([upper, work]).all(is_plain) {
        return Ok(mount(Some("overlay"), rootfs, Some("overlay"), MsFlags::empty(), Some(data.as_str()))?);
    }
    mount_by_number(layers, upper, work, rootfs, keep)
}

fn overlay_options(layers: &[String], upper: &str, work: &str, keep: Durability) -> String {
    let volatile = if keep == Durability::Volatile { ",volatile" } else { "" };
    let marks = if overlay::Marks::own() == overlay::Marks::User { ",userxattr" } else { "" };
    format!("lowerdir={},upperdir={upper},workdir={work}{volatile}{marks}", layers.join(":"))
}

/// Where paths are too long together, or hold what the options' text can't: each directory is named by the number of its
/// descriptor, seen from the directory of these. Linux 6.5 and later would take layers one by one; this works on all.
fn mount_by_number(layers: &[PathBuf], upper: &Path, work: &Path, rootfs: &Path, keep: Durability) -> io::Result<()> {
    let open = layers.iter().rev().map(|path| directory(path)).collect::<io::Result<Vec<_>>>()?;
    let (upper, work) = (directory(upper)?, directory(work)?);
    let number = |fd: &OwnedFd| fd.as_raw_fd().to_string();
    let data = overlay_options(&open.iter().map(number).collect::<Vec<_>>(), &number(&upper), &number(&work), keep);
    std::env::set_current_dir("/proc/self/fd")?;
    let mounted = mount(Some("overlay"), rootfs, Some("overlay"), MsFlags::empty(), Some(data.as_str()));
    std::env::set_current_dir("/")?;
    Ok(mounted?)
}

/// Every layer is first mounted by itself with mapped ids, and let go of again: the overlay keeps what it needs.
fn mount_mapped(layers: &[PathBuf], paths: &Paths, users: &OwnedFd, ids: IdRange, keep: Durability) -> io::Result<()> {
    let scratch = scratch(paths)?;
    let layers = mapped_all(&scratch, layers, users)?;
    // Both on one mount, as overlayfs asks for.
    let own = mapped(&scratch, &paths.directory, "own", users)?;
    let below = |path: &Path| path.strip_prefix(&paths.directory).map(|name| own.join(name)).unwrap_or_default();
    let mount_all = || mount_layers(&layers, &below(&paths.upper), &below(&paths.work), &paths.rootfs, keep);
    let mounted = init::with_files_of_root(ids, mount_all);
    mounted.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => io::Error::other(
            "overlayfs of this kernel takes no layers with mapped ids (Linux 5.19 and later do), as a user namespace \
             needs it; `userns_mode: host` does without",
        ),
        _ => error,
    })?;
    let_go(&scratch)
}

/// A place for mounts that something else is made of, in this process's mount namespace.
fn scratch(paths: &Paths) -> io::Result<PathBuf> {
    let scratch = paths.run.join("layers");
    std::fs::create_dir_all(&scratch)?;
    mount(Some("layers"), &scratch, Some("tmpfs"), MsFlags::empty(), Some("size=1m,mode=700"))?;
    Ok(scratch)
}

fn let_go(scratch: &Path) -> io::Result<()> {
    umount2(scratch, MntFlags::MNT_DETACH)?;
    std::fs::remove_dir(scratch)
}

fn mapped_all(scratch: &Path, sources: &[PathBuf], users: &OwnedFd) -> io::Result<Vec<PathBuf>> {
    let sources = sources.iter().enumerate();
    sources.map(|(number, source)| mapped(scratch, source, &number.to_string(), users)).collect()
}

/// The source mounted below the scratch directory, with the ids on the disk those of the user namespace.
fn mapped(scratch: &Path, source: &Path, name: &str, users: &OwnedFd) -> io::Result<PathBuf> {
    let target = scratch.join(name);
    std::fs::create_dir(&target)?;
    let copy = sys::clone_mount(source)?;
    init::map_ids(&copy, source, users)?;
    sys::attach_mount(copy.as_fd(), directory(&target)?.as_fd())?;
    Ok(target)
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}
