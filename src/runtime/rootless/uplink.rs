//! What connects the network namespace of an ordinary user's networks to the outside: pasta(1), else slirp4netns(1),
//! where the host has one. Nothing comes in by it (published ports are `netd`'s), and the host's own loopback is not
//! reached through it.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::fcntl::OFlag;

use super::ids::find;
use super::survivors;
use crate::runtime::sys;

/// A program that connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub name: &'static str,
    path: PathBuf,
}

/// Those that this host has, the better first.
pub fn programs(search: &OsStr) -> Vec<Program> {
    let found = |name| find(search, name).map(|path| Program { name, path });
    ["pasta", "slirp4netns"].into_iter().filter_map(found).collect()
}

/// Whether the device that both need can be opened.
///
/// # Errors
/// What the kernel says.
pub fn tunnel() -> io::Result<()> {
    fs::File::options().read(true).write(true).open("/dev/net/tun").map(drop)
}

/// One that runs. It is ended by [`Uplink::end`], and by itself when the namespace is gone.
pub struct Uplink {
    pub process: OwnedFd,
    pub begun: Instant,
}

impl Uplink {
    pub fn end(self) {
        // It may have ended by itself.
        drop(sys::pidfd_send_signal(self.process.as_fd(), libc::SIGTERM));
    }
}

/// Whether that process is one, of anybody's.
pub fn is_one(pid: i32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    ["pasta", "slirp4netns", "passt"].iter().any(|known| name.starts_with(known))
}

/// The one that connects the namespace already.
fn running(namespace: &Path) -> Option<Uplink> {
    let wanted = namespace.as_os_str().as_encoded_bytes();
    let names_it = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == wanted)
    };
    let found = survivors::processes().into_iter().filter(|pid| is_one(*pid)).find(names_it)?;
    Some(Uplink { process: sys::pidfd_open(found).ok()?, begun: Instant::now() })
}

/// As [`start`], where none runs. One that runs is of another namespace where `is_new` is said, and ended.
///
/// # Errors
/// As [`start`].
pub fn take_or_start(programs: &[Program], namespace: &Path, notes: &Path, is_new: bool) -> Result<Uplink, String> {
    match running(namespace) {
        Some(uplink) if !is_new => return Ok(uplink),
        Some(uplink) => uplink.end(),
        None => {}
    }
    start(programs, namespace, notes)
}

/// Connects the namespace; returns when that is done.
///
/// # Errors
/// Why none of the programs could, for people.
pub fn start(programs: &[Program], namespace: &Path, notes: &Path) -> Result<Uplink, String> {
    if programs.is_empty() {
        return Err("neither pasta nor slirp4netns is installed".to_owned());
    }
    let mut reasons = Vec::new();
    for program in programs {
        let started = match program.name {
            "pasta" => pasta(program, namespace, notes),
            _ => slirp(program, namespace),
        };
        match started {
            Ok(process) => return Ok(Uplink { process, begun: Instant::now() }),
            Err(reason) => reasons.push(format!("{}: {reason}", program.name)),
        }
    }
    Err(reasons.join("; "))
}

/// It goes to the background when all is set up, and has written its number then.
fn pasta(program: &Program, namespace: &Path, notes: &Path) -> Result<OwnedFd, String> {
    let (number, words) = (notes.join("pasta.pid"), notes.join("pasta.log"));
    let failed = |error: io::Error| error.to_string();
    let log = fs::File::create(&words).map_err(failed)?;
    let mut command = Command::new(&program.path);
    command.args(["--config-net", "--no-map-gw", "-q", "-t", "none", "-u", "none", "-T", "none", "-U", "none", "-P"]);
    command.arg(&number).arg("--netns").arg(namespace).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let status = command.status().map_err(failed)?;
    if !status.success() {
        let said = fs::read_to_string(&words).unwrap_or_default();
        // It also complains of each word that the host's log does not take.
        let said = said.lines().rev().find(|line| !line.is_empty() && !line.contains("syslog"));
        return Err(said.unwrap_or("it failed").trim().to_owned());
    }
    let text = fs::read_to_string(&number).map_err(failed)?;
    let pid = text.trim().parse().map_err(|_| "it did not say which process it is".to_owned())?;
    sys::pidfd_open(pid).map_err(failed)
}

/// It stays in the foreground, and says when it is ready.
fn slirp(program: &Program, namespace: &Path) -> Result<OwnedFd, String> {
    let failed = |error: io::Error| error.to_string();
    let mut command = Command::new(&program.path);
    let (ready, told) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|error| error.to_string())?;
    sys::keep_on_exec(told.as_fd()).map_err(failed)?;
    command.args(["--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path", "--ready-fd"]);
    command.arg(told.as_raw_fd().to_string()).arg(namespace).arg("tap0");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(failed)?;
    drop(told);
    if fs::File::from(ready).read(&mut [0]).map_err(failed)? == 0 {
        let status = child.wait().map_err(failed)?;
        return Err(format!("it ended with {status}"));
    }
    sys::pidfd_open(child.id() as i32).map_err(failed)
}
