//! The last steps of a process that is made as its specification says to the letter, for whoever wrote that: nothing of
//! the engine's own defaults is added, and nothing of it is left out.

use std::convert::Infallible;
use std::fs;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{AccessFlags, access, eaccess};
use oci_spec::runtime::{Process, Spec};

use super::credentials::{self, Identity};
use super::labels::Labels;
use super::launcher::Mode;
use super::{Channel, Hold, InitError, child, files};
use crate::runtime::seccomp::{self, Profile};
use crate::runtime::sys;

/// The ids of the specification. The container's own files are asked for nothing but the home directory.
pub fn identity(root: BorrowedFd<'_>, process: &Process) -> Result<Identity, InitError> {
    let user = process.user();
    let (uid, gid) = (user.uid(), user.gid());
    let found = credentials::lookup(root, &format!("{uid}:{gid}"), &[], None);
    let home = found.map_or_else(|_| "/".to_owned(), |found| found.home);
    Ok(Identity { uid, gid, groups: user.additional_gids().clone().unwrap_or_default(), home })
}

/// All that is taken from the process before it may run the container's program; the filter is last, or comes before
/// what takes the right to put it there.
pub fn restrict(
    process: &Process,
    identity: &Identity,
    spec: &Spec,
    preserved: u32,
    channel: &Channel,
) -> Result<(), InitError> {
    let cwd = process.cwd();
    let at = |step: &str| InitError::step(step.to_owned());
    sys::close_on_exec_from(3).map_err(at("close descriptors"))?;
    sys::keep_on_exec_from(3, preserved).map_err(at("process descriptors to preserve"))?;
    files::enter(cwd).map_err(at(&format!("working directory {}", cwd.display())))?;
    credentials::set_rlimits(process)?;
    credentials::reset_signals().and_then(|()| credentials::end_by_signals()).map_err(at("signals"))?;
    let mask = process.user().umask().unwrap_or(0o022);
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask));
    super::scheduling::apply(process, spec)?;
    let filter = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let mut filter = filter.map(Profile::of).transpose().map_err(|reason| failed("system call filter", &reason))?;
    if let Some(filter) = &mut filter {
        filter.let_launcher_through(files::LAUNCHER_PATH.as_ptr() as u64);
    }
    give_up(process, identity, filter.as_ref(), channel)?;
    find_program(process)
}

fn failed(step: &str, reason: &dyn std::fmt::Display) -> InitError {
    InitError::Step { step: step.to_owned(), reason: reason.to_string() }
}

/// User, groups, the five sets of capabilities, no_new_privs, and the filter.
fn give_up(
    process: &Process,
    identity: &Identity,
    filter: Option<&Profile>,
    channel: &Channel,
) -> Result<(), InitError> {
    let at = InitError::step;
    let sets = credentials::Sets::of(process);
    let held = credentials::held_capabilities().map_err(at("own capabilities"))?;
    credentials::drop_bounding(sets.bounding).map_err(at("process.capabilities.bounding"))?;
    nix::sys::prctl::set_keepcaps(true).map_err(|error| at("keep capabilities")(error.into()))?;
    credentials::change_ids(identity).map_err(at("process.user"))?;
    credentials::set_capabilities(held).map_err(at("capabilities"))?;
    let stays = process.no_new_privileges().unwrap_or(false);
    if stays {
        nix::sys::prctl::set_no_new_privs().map_err(|error| at("process.noNewPrivileges")(error.into()))?;
    }
    let install = || {
        let Some(filter) = filter else { return Ok(()) };
        let installed = seccomp::install_with(&filter.program, filter.flags);
        let given = installed.and_then(|listener| match listener {
            Some(listener) => child::give_listener(channel, listener),
            None => Ok(()),
        });
        given.map_err(at("linux.seccomp"))
    };
    // Without no_new_privs the kernel takes a filter only from the privileged.
    if !stays {
        install()?;
    }
    sets.become_own(held).map_err(at("process.capabilities"))?;
    if stays { install() } else { Ok(()) }
}

/// A program that is not there is told of before the container is said to be made, in words that engines look for.
fn find_program(process: &Process) -> Result<(), InitError> {
    let program = process.args().as_ref().and_then(|args| args.first()).cloned().unwrap_or_default();
    let env = process.env().iter().flatten();
    let path = env.filter_map(|entry| entry.strip_prefix("PATH=")).next_back().unwrap_or(files::DEFAULT_PATH);
    let mut found = false;
    for candidate in files::candidates(&program, path) {
        match check_program(&candidate) {
            Ok(()) => return Ok(()),
            Err(error) => found |= error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    let reason = match found {
        true => "permission denied".to_owned(),
        false if program.contains('/') => format!("stat {program}: no such file or directory"),
        false => "executable file not found in $PATH".to_owned(),
    };
    Err(InitError::Exec { program, reason, found })
}

fn check_program(path: &Path) -> io::Result<()> {
    let found = fs::metadata(path)?;
    if found.is_dir() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    match eaccess(path, AccessFlags::X_OK) {
        // A filter may forbid the question; the mode answers for most.
        Err(nix::Error::ENOSYS | nix::Error::EPERM) if found.mode() & 0o111 != 0 => Ok(()),
        Err(nix::Error::ENOSYS) => Ok(access(path, AccessFlags::X_OK)?),
        other => Ok(other?),
    }
}

/// Waits until somebody opens the gate, then becomes the program.
pub fn wait_and_exec(
    process: &Process,
    identity: &Identity,
    channel: &Channel,
    hold: &Hold<'_>,
    labels: Labels,
) -> Result<Infallible, InitError> {
    let mut byte = [0];
    let gate = hold.gate.try_clone().map_err(InitError::step("wait for the start"))?;
    fs::File::from(gate).read_exact(&mut byte).map_err(InitError::step("wait for the start"))?;
    let started = (hold.before_program)(&files::environment(process, identity))
        .and_then(|()| labels.write().map_err(InitError::step("process.apparmorProfile and selinuxLabel")))
        .and_then(|()| files::exec(process, identity, channel, &hold.outcome, Mode::Exec));
    let Err(error) = started;
    super::process::report_and_exit(&hold.outcome, &error)
}
