//! `config.json` of a bundle: read, and looked through for what this program can't do, so that nothing of it is silently
//! left out. What the specification does not know is passed over, as it demands.

use std::fs;
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};

use super::{Error, limits};
use crate::runtime::init;

/// # Errors
/// [`Error::Config`] where it is not one.
pub fn read(path: &Path) -> Result<Spec, Error> {
    let wrong = |reason: String| Error::Config { path: path.to_owned(), reason };
    let text = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let spec: Spec = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if !spec.version().starts_with("1.") {
        return Err(wrong(format!("ociVersion {:?}: this program knows 1.x", spec.version())));
    }
    Ok(spec)
}

fn no(field: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Unsupported { field: field.into(), reason: reason.into() }
}

/// Whether all that it asks for can be done.
///
/// # Errors
/// [`Error::Unsupported`], by the first field that can't.
pub fn check(spec: &Spec) -> Result<(), Error> {
    let foreign = [
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
    ];
    if let Some((field, _)) = foreign.into_iter().find(|(_, there)| *there) {
        return Err(no(field, "this is Linux, and a container is no machine"));
    }
    let process = spec.process().as_ref().ok_or_else(|| no("a configuration without process", "nothing would run"))?;
    check_process(process)?;
    check_mounts(spec)?;
    spec.linux().as_ref().map_or(Ok(()), check_linux)
}

/// # Errors
/// As [`check`].
pub fn check_process(process: &Process) -> Result<(), Error> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(no("a process without args", "nothing would run"));
    }
    if !process.cwd().is_absolute() {
        return Err(no("process.cwd", "it must be an absolute path"));
    }
    let named = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if named(process.apparmor_profile()) {
        return Err(no("process.apparmorProfile", "this program does not know AppArmor"));
    }
    if named(process.selinux_label()) {
        return Err(no("process.selinuxLabel", "this program does not know SELinux"));
    }
    if process.exec_cpu_affinity().is_some() {
        return Err(no("process.execCPUAffinity", "use linux.resources.cpu.cpus"));
    }
    Ok(())
}

fn check_mounts(spec: &Spec) -> Result<(), Error> {
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let field = |name: &str| format!("mounts[{index}].{name} ({})", mount.destination().display());
        if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
            return Err(no(field("uidMappings and gidMappings"), "user namespaces are not supported yet"));
        }
        let words: Vec<&str> = mount.options().iter().flatten().map(String::as_str).collect();
        init::check_mount_options(&words).map_err(|reason| no(field("options"), reason))?;
    }
    Ok(())
}

fn check_linux(linux: &Linux) -> Result<(), Error> {
    for namespace in linux.namespaces().iter().flatten() {
        let path = namespace.path().is_some();
        match namespace.typ() {
            LinuxNamespaceType::User => return Err(no("linux.namespaces: user", "not supported yet")),
            LinuxNamespaceType::Time => return Err(no("linux.namespaces: time", "not supported yet")),
            LinuxNamespaceType::Mount if path => {
                return Err(no("linux.namespaces: mount by path", "the root is changed in a new one alone"));
            }
            LinuxNamespaceType::Cgroup if path => {
                return Err(no("linux.namespaces: cgroup by path", "not supported yet"));
            }
            _ => {}
        }
    }
    if !linux.namespaces().iter().flatten().any(|one| one.typ() == LinuxNamespaceType::Mount) {
        return Err(no("linux.namespaces without mount", "the host's own root would be changed"));
    }
    let some = |there: bool, field: &str, reason: &str| if there { Err(no(field, reason)) } else { Ok(()) };
    some(has_any(linux.uid_mappings()), "linux.uidMappings", "user namespaces are not supported yet")?;
    some(has_any(linux.gid_mappings()), "linux.gidMappings", "user namespaces are not supported yet")?;
    some(linux.time_offsets().as_ref().is_some_and(|all| !all.is_empty()), "linux.timeOffsets", "not supported yet")?;
    some(linux.intel_rdt().is_some(), "linux.intelRdt", "cache and bandwidth of processors are not managed")?;
    some(linux.memory_policy().is_some(), "linux.memoryPolicy", "use linux.resources.cpu.mems")?;
    some(linux.net_devices().as_ref().is_some_and(|all| !all.is_empty()), "linux.netDevices", "not supported yet")?;
    let label = linux.mount_label().as_ref().is_some_and(|label| !label.is_empty());
    some(label, "linux.mountLabel", "this program does not know SELinux")?;
    let flags = linux.personality().as_ref().and_then(|one| one.flags().as_ref());
    some(flags.is_some_and(|flags| !flags.is_empty()), "linux.personality.flags", "the specification has none")?;
    if let Some(propagation) = linux.rootfs_propagation() {
        let known = ["private", "slave", "shared", "unbindable"];
        let word = propagation.strip_prefix('r').unwrap_or(propagation);
        some(!propagation.is_empty() && !known.contains(&word), "linux.rootfsPropagation", "no such word")?;
    }
    if let Some(seccomp) = linux.seccomp() {
        crate::runtime::seccomp::Profile::of(seccomp).map_err(|reason| no("linux.seccomp", reason))?;
    }
    linux.resources().as_ref().map_or(Ok(()), limits::check)
}

fn has_any<T>(all: &Option<Vec<T>>) -> bool {
    all.as_ref().is_some_and(|all| !all.is_empty())
}
