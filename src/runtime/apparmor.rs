//! AppArmor, where the kernel has it switched on: which profile a process may be given, and the one that containers have
//! which name none. That is this engine's own, loaded by the program that every owner of profiles loads them with
//! (apparmor_parser(8)); where that is not there, or this process is not free to give profiles, they have none.
//!
//! What the profile forbids is forbidden by other means, too: it is for the day on which one of these fails.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::roots::Roots;
use super::userns;

/// The name of the profile of containers that name none.
pub const DEFAULT: &str = "stack-default";
/// What AppArmor calls having none.
pub const UNCONFINED: &str = "unconfined";
/// docker's name for its own default, which means the engine's own here.
pub const OF_DOCKER: &str = "docker-default";

const SWITCH: &str = "/sys/module/apparmor/parameters/enabled";
/// What is loaded: root's alone to read, and only where securityfs is mounted.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
const PARSER: &str = "apparmor_parser";

/// Everything, but for what is the host's below /proc and /sys, for mounts, and for processes of others. As the rest of
/// the engine's defaults it is lifted by `privileged`, and by a profile that the container names.
const TEXT: &str = "\
profile stack-default flags=(attach_disconnected, mediate_deleted) {
  capability,
  file,
  network,
  umount,
  signal (receive) peer=unconfined,
  signal (send, receive) peer=stack-default,
  ptrace (trace, read, tracedby, readby) peer=stack-default,

  # Files of the kernel itself, and of its tables, but for those of processes and for shared memory.
  deny /proc/* w,
  deny /proc/{acpi,bus,driver,fs,irq,scsi,tty}/** w,
  deny /proc/sys/{abi,debug,dev,fs,user,vm}/** w,
  deny /proc/sys/kernel/{[^s],s[^h],sh[^m]}** w,
  deny /proc/{kcore,sysrq-trigger} rwklx,

  # Of devices, drivers and modules; control groups are divided by whoever may.
  deny /sys/{block,bus,class,dev,devices,hypervisor,kernel,module,power}/** wklx,
  deny /sys/fs/[^c]** wklx,
  deny /sys/{firmware,kernel/security,devices/virtual/powercap}/** rwklx,

  deny mount,
}
";

/// Why a process can't have the profile that it names.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Absent {
    #[error("the kernel of this host has no AppArmor switched on")]
    Off,
    #[error("AppArmor has no profile {0:?} loaded\n  help: `apparmor_parser -r FILE` loads those of a file")]
    Profile(String),
}

/// Whether the kernel has it switched on.
pub fn is_on() -> bool {
    fs::read(SWITCH).is_ok_and(|text| text.starts_with(b"Y"))
}

/// Whether a container may name this profile, as far as it is known here: who may not read which are loaded learns it
/// from the kernel when the container starts.
///
/// # Errors
/// Why not.
pub fn check(name: &str) -> Result<(), Absent> {
    match name {
        UNCONFINED | OF_DOCKER => Ok(()),
        _ if !is_on() => Err(Absent::Off),
        DEFAULT => Ok(()),
        _ if is_loaded(name) == Some(false) => Err(Absent::Profile(name.to_owned())),
        _ => Ok(()),
    }
}

/// The profile of a container that names none.
pub fn default_profile() -> Option<String> {
    (is_on() && is_loaded(DEFAULT) == Some(true) && is_free()).then(|| DEFAULT.to_owned())
}

/// Has the engine's own profile loaded, where that can be. Where it can't, containers go without; `doctor` says so.
pub fn ensure(roots: &Roots) {
    if !is_on() || is_loaded(DEFAULT) == Some(true) || !is_free() {
        return;
    }
    let Some(parser) = parser(&roots.programs) else { return };
    if let Err(error) = load(&parser) {
        tracing::warn!(%error, "AppArmor: load {DEFAULT}, which containers go without now");
    }
}

/// What containers that name no profile have here; `None` where the kernel has no AppArmor.
pub fn state(roots: &Roots) -> Option<Result<String, String>> {
    if !is_on() {
        return None;
    }
    Some(match (is_loaded(DEFAULT), parser(&roots.programs)) {
        _ if !is_free() => Err("who calls has a profile, or is no root: containers get none".to_owned()),
        (Some(true), _) => Ok(format!("{DEFAULT} is loaded")),
        (None, _) => Err("securityfs is not mounted at /sys/kernel/security".to_owned()),
        (Some(false), Some(_)) => Ok(format!("the first container that starts loads {DEFAULT}")),
        (Some(false), None) => Err(format!("there is no {PARSER}")),
    })
}

/// Only who has no profile and is root of the host gives others one.
fn is_free() -> bool {
    let own = fs::read_to_string("/proc/self/attr/apparmor/current")
        .or_else(|_| fs::read_to_string("/proc/self/attr/current"));
    userns::own_size().is_none() && own.is_ok_and(|label| label.trim_end_matches(['\n', '\0']) == UNCONFINED)
}

/// `None` where that can't be read.
fn is_loaded(name: &str) -> Option<bool> {
    Some(names(&fs::read_to_string(LOADED).ok()?).any(|loaded| loaded == name))
}

/// `NAME (MODE)`, a line each.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| Some(line.rsplit_once(" (")?.0))
}

fn parser(programs: &[PathBuf]) -> Option<PathBuf> {
    programs.iter().map(|folder| folder.join(PARSER)).find(|path| path.is_file())
}

/// Without its cache, which is for those of files.
fn load(parser: &Path) -> io::Result<()> {
    let mut child = Command::new(parser)
        .args(["--skip-cache", "--replace"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let written = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(TEXT.as_bytes()));
    let output = child.wait_with_output()?;
    match output.status.success() {
        true => written,
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_loaded_is_read_by_name() {
        let text = "stack-default (enforce)\n/usr/bin/man (complain)\nwith space (unconfined)\n";
        assert_eq!(names(text).collect::<Vec<_>>(), [DEFAULT, "/usr/bin/man", "with space"]);
        assert!(TEXT.starts_with(&format!("profile {DEFAULT} ")));
    }
}
