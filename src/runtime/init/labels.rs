//! The profile or label under which a program runs where a security module of the kernel is switched on: written by the
//! process itself, to be taken at its next execve(2) (proc(5), `/proc/PID/attr/exec`).

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use oci_spec::runtime::Process;

use super::mounts;
use crate::runtime::apparmor::{self, Absent, UNCONFINED};

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
pub fn check(process: &Process) -> Result<(), (&'static str, String)> {
    let profile = named(process.apparmor_profile()).filter(|name| *name != UNCONFINED);
    if profile.is_some() && !apparmor::is_on() {
        return Err(("apparmorProfile", Absent::Off.to_string()));
    }
    if named(process.selinux_label()).is_some() && !selinux_is_on() {
        return Err(("selinuxLabel", "the kernel of this host has no SELinux switched on".to_owned()));
    }
    Ok(())
}

/// Files of the kernel, opened while the host's procfs can still be reached, and what is to be written to them.
#[derive(Debug, Default)]
pub struct Labels(Vec<Label>);

/// One of them.
#[derive(Debug)]
struct Label {
    file: File,
    text: String,
    /// Where it is a profile of AppArmor: its name.
    profile: Option<String>,
}

impl Labels {
    /// # Errors
    /// Where it is not the kernel's procfs, or has no such file.
    pub fn prepare(process: &Process) -> io::Result<Self> {
        let mut all = Vec::new();
        if let Some(name) = named(process.apparmor_profile()).filter(|_| apparmor::is_on()) {
            // Where several modules are on, the second path is another one's.
            let file = open("/proc/thread-self/attr/apparmor/exec").or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => open("/proc/thread-self/attr/exec"),
                _ => Err(error),
            });
            all.push(Label { file: file?, text: format!("exec {name}"), profile: Some(name.to_owned()) });
        }
        if let Some(label) = named(process.selinux_label()) {
            let file = open("/proc/thread-self/attr/exec")?;
            all.push(Label { file, text: label.to_owned(), profile: None });
        }
        Ok(Self(all))
    }

    /// # Errors
    /// Where the kernel knows no such profile or label, or does not let this process have it.
    pub fn write(self) -> io::Result<()> {
        self.0.into_iter().try_for_each(|Label { mut file, text, profile }| {
            file.write_all(text.as_bytes()).map_err(|error| match (error.kind(), profile) {
                (io::ErrorKind::NotFound, Some(name)) => io::Error::other(Absent::Profile(name)),
                (kind, _) => io::Error::new(kind, format!("{text:?}: {error}")),
            })
        })
    }
}

fn open(path: &str) -> io::Result<File> {
    let file = File::options().write(true).open(path)?;
    mounts::check_proc(&file).map(|()| file)
}
