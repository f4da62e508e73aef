//! Programs that whoever wrote the specification wants to have run at points of a container's life. Each reads the
//! container's state on its standard input; one that fails, or takes longer than it may, ends the operation.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use oci_spec::runtime::{Hook, Spec};

use super::Error;
use crate::runtime::sys;

/// When they run, and where: in the namespaces of the caller, but for `CreateContainer` and `StartContainer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

/// Those of the specification.
pub fn of(spec: &Spec, kind: Kind) -> &[Hook] {
    let Some(hooks) = spec.hooks() else { return &[] };
    let found = match kind {
        Kind::Prestart => prestart(hooks),
        Kind::CreateRuntime => hooks.create_runtime(),
        Kind::CreateContainer => hooks.create_container(),
        Kind::StartContainer => hooks.start_container(),
        Kind::Poststart => hooks.poststart(),
        Kind::Poststop => hooks.poststop(),
    };
    found.as_deref().unwrap_or_default()
}

/// Deprecated by the specification, and what docker uses.
#[allow(deprecated)]
fn prestart(hooks: &oci_spec::runtime::Hooks) -> &Option<Vec<Hook>> {
    hooks.prestart()
}

/// Runs them one after the other, to the first that fails. What does not say its variables has these.
///
/// # Errors
/// [`Error::Hook`].
pub fn run(hooks: &[Hook], kind: Kind, state: &[u8], env: &[String]) -> Result<(), Error> {
    for (number, hook) in hooks.iter().enumerate() {
        let failed = |reason: String| Error::Hook { kind: kind.name(), number, path: hook.path().clone(), reason };
        // What a hook leaves running may keep it open for ever: a file has no end to be waited for.
        let said = memfd_create(c"hook", MFdFlags::MFD_CLOEXEC).map_err(|error| failed(error.to_string()))?.into();
        one(hook, state, env, &said).map_err(|error| failed(error.to_string())).and_then(|status| match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(failed(format!("{status}{}", last_words(said)))),
            None => Err(failed(format!("it took longer than {} s", hook.timeout().unwrap_or(0)))),
        })?;
    }
    Ok(())
}

/// `None` where its time was up. What it writes goes to `said`.
fn one(hook: &Hook, state: &[u8], env: &[String], said: &File) -> io::Result<Option<ExitStatus>> {
    let mut command = Command::new(hook.path());
    let args = hook.args().as_deref().unwrap_or_default();
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    let env = hook.env().as_deref().unwrap_or(env).iter().filter_map(|entry| entry.split_once('='));
    command.env_clear().envs(env).current_dir(Path::new("/"));
    // A group of its own, so that what it has started can be ended with it.
    command.stdin(Stdio::piped()).stdout(said.try_clone()?).stderr(said.try_clone()?);
    let mut child = command.process_group(0).spawn()?;
    let written = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(state));
    match written {
        // It need not read.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
        _ => {}
    }
    wait(&mut child, hook.timeout())
}

/// The end of what it wrote, for who is told that it failed.
fn last_words(mut said: File) -> String {
    const MOST: u64 = 2048;
    let mut bytes = Vec::new();
    let read = said.seek(io::SeekFrom::End(0)).and_then(|length| {
        said.seek(io::SeekFrom::Start(length.saturating_sub(MOST)))?;
        said.read_to_end(&mut bytes)
    });
    let text = String::from_utf8_lossy(&bytes);
    match (read, text.trim()) {
        (Ok(_), words) if !words.is_empty() => format!(": {words}"),
        _ => String::new(),
    }
}

fn wait(child: &mut Child, timeout: Option<i64>) -> io::Result<Option<ExitStatus>> {
    let process = sys::pidfd_open(child.id() as i32)?;
    let timeout = timeout.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let timeout = timeout.map_or(PollTimeout::NONE, |time| PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX));
    loop {
        match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => {
                killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL)?;
                child.wait()?;
                return Ok(None);
            }
            Ok(_) => return child.wait().map(Some),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
