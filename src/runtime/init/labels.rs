//! The profile or label under which a program runs where a security module of the kernel is switched on: written by the
//! process itself, to be taken at its next execve(2) (proc(5), `/proc/PID/attr/exec`).

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use oci_spec::runtime::Process;

use super::mounts;

/// What AppArmor calls having none.
const UNCONFINED: &str = "unconfined";

fn apparmor_is_on() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

fn selinux_is_on() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

fn named(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// Whether what the process asks for can be had here.
///
/// # Errors
/// The field, and why not.
pub fn check(process: &Process) -> Result<(), (&'static str, &'static str)> {
    let profile = named(process.apparmor_profile()).filter(|name| *name != UNCONFINED);
    if profile.is_some() && !apparmor_is_on() {
        return Err(("apparmorProfile", "the kernel of this host has no AppArmor switched on"));
    }
    if named(process.selinux_label()).is_some() && !selinux_is_on() {
        return Err(("selinuxLabel", "the kernel of this host has no SELinux switched on"));
    }
    Ok(())
}

/// Files of the kernel, opened while the host's procfs can still be reached, and what is to be written to them.
#[derive(Debug, Default)]
pub struct Labels(Vec<(File, String)>);

impl Labels {
    /// # Errors
    /// Where it is not the kernel's procfs, or has no such file.
    pub fn prepare(process: &Process) -> io::Result<Self> {
        let mut all = Vec::new();
        if let Some(name) = named(process.apparmor_profile()).filter(|_| apparmor_is_on()) {
            // Where several modules are on, the second path is another one's.
            let file = open("/proc/thread-self/attr/apparmor/exec").or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => open("/proc/thread-self/attr/exec"),
                _ => Err(error),
            });
            all.push((file?, format!("exec {name}")));
        }
        if let Some(label) = named(process.selinux_label()) {
            all.push((open("/proc/thread-self/attr/exec")?, label.to_owned()));
        }
        Ok(Self(all))
    }

    /// # Errors
    /// Where the kernel knows no such profile or label, or does not let this process have it.
    pub fn write(self) -> io::Result<()> {
        self.0.into_iter().try_for_each(|(mut file, text)| {
            let written = file.write_all(text.as_bytes());
            written.map_err(|error| io::Error::new(error.kind(), format!("{text:?}: {error}")))
        })
    }
}

fn open(path: &str) -> io::Result<File> {
    let file = File::options().write(true).open(path)?;
    mounts::check_proc(&file).map(|()| file)
}
