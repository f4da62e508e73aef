//! `config.json` of a bundle: read, and looked through for what this program can't do, so that nothing of it is silently
//! left out. What the specification does not know is passed over, as it demands.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use oci_spec::runtime::{Capability, Linux, LinuxNamespaceType, Mount, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Error, limits};
use crate::runtime::init;

/// # Errors
/// [`Error::Config`] where it is not one.
pub fn read(path: &Path) -> Result<Spec, Error> {
    let wrong = |reason: String| Error::Config { path: path.to_owned(), reason };
    let text = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let mut spec: Spec = parse(&text, "/process").map_err(|error| wrong(error.to_string()))?;
    if !spec.version().starts_with("1.") {
        return Err(wrong(format!("ociVersion {:?}: this program knows 1.x", spec.version())));
    }
    new_where_unsaid(&mut spec);
    Ok(spec)
}

/// An empty path is none.
fn new_where_unsaid(spec: &mut Spec) {
    let namespaces = spec.linux_mut().as_mut().and_then(|linux| linux.namespaces_mut().as_mut());
    for one in namespaces.into_iter().flatten() {
        if one.path().as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            one.set_path(None);
        }
    }
}

/// Puts paths as they are meant: sources of what is bound from the bundle on, destinations from the root on.
pub fn settle_paths(spec: &mut Spec, bundle: &Path, rootfs: &Path) {
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let words = mount.options().clone().unwrap_or_default();
        let is_bind = mount.typ().as_deref().is_none_or(|kind| kind == "bind")
            || words.iter().any(|word| ["bind", "rbind"].contains(&word.as_str()));
        if let Some(source) = mount.source().clone().filter(|source| is_bind && source.is_relative()) {
            mount.set_source(Some(bundle.join(source)));
        }
        // Some writers give the path that it has for them.
        let below = mount.destination().strip_prefix(rootfs).ok().map(|below| Path::new("/").join(below));
        if let Some(below) = below.filter(|_| rootfs != Path::new("/")) {
            mount.set_destination(below);
        }
    }
}

/// A process alone, as in the configuration.
///
/// # Errors
/// Where it is none.
pub fn process(text: &[u8]) -> serde_json::Result<Process> {
    parse(text, "")
}

/// Capabilities that nobody knows are left out with a warning, as the specification wants it; who is not said to be
/// anybody is root, as other runtimes have it.
fn parse<T: DeserializeOwned>(text: &[u8], process: &str) -> serde_json::Result<T> {
    let mut value: Value = serde_json::from_slice(text)?;
    let Some(process) = value.pointer_mut(process).and_then(Value::as_object_mut) else {
        return serde_json::from_slice(text);
    };
    let nobody = !process.contains_key("user");
    if nobody {
        process.insert("user".to_owned(), json!({"uid": 0, "gid": 0}));
    }
    let unknown = remove_unknown(process.get_mut("capabilities"));
    if !unknown.is_empty() {
        tracing::warn!("ignoring unknown capabilities {unknown:?}");
    } else if !nobody {
        // The text has lines, which errors name.
        return serde_json::from_slice(text);
    }
    serde_json::from_value(value)
}

fn remove_unknown(sets: Option<&mut Value>) -> Vec<String> {
    let mut unknown = Vec::new();
    for (_, set) in sets.and_then(Value::as_object_mut).into_iter().flatten() {
        let Some(names) = set.as_array_mut() else { continue };
        names.retain(|name| {
            let known = serde_json::from_value::<Capability>(name.clone()).is_ok();
            let name = name.as_str().unwrap_or_default().to_owned();
            if !known && !unknown.contains(&name) {
                unknown.push(name);
            }
            known
        });
    }
    unknown
}

/// Of what can't be granted the caller is told.
fn warn_of_ambient(process: &Process) {
    let Some(sets) = process.capabilities() else { return };
    let has = |set: &Option<HashSet<Capability>>, one| set.as_ref().is_some_and(|set| set.contains(one));
    for one in sets.ambient().iter().flatten() {
        if !has(sets.inheritable(), one) || !has(sets.permitted(), one) {
            tracing::warn!("can't raise ambient capability CAP_{one}: it is not both inheritable and permitted");
        }
    }
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
    warn_of_ambient(process);
    init::check_labels(process).map_err(|(field, reason)| no(format!("process.{field}"), reason))?;
    match process.exec_cpu_affinity().as_ref().map(init::check_processors) {
        Some(Err(reason)) => Err(no("process.execCPUAffinity", reason)),
        _ => Ok(()),
    }
}

fn check_mounts(spec: &Spec) -> Result<(), Error> {
    let has_users = has_namespace(spec.linux().as_ref(), LinuxNamespaceType::User);
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let field = |name: &str| format!("mounts[{index}].{name} ({})", mount.destination().display());
        let words: Vec<&str> = mount.options().iter().flatten().map(String::as_str).collect();
        let maps = init::check_mount_options(&words).map_err(|reason| no(field("options"), reason))?;
        check_ids(mount, maps, &words, has_users).map_err(|(name, reason)| no(field(name), reason))?;
    }
    Ok(())
}

/// Of a mount that shows its files with other ids.
fn check_ids(mount: &Mount, maps: bool, words: &[&str], has_users: bool) -> Result<(), (&'static str, &'static str)> {
    let (users, groups) = (has_any(mount.uid_mappings()), has_any(mount.gid_mappings()));
    if users != groups {
        return Err(("uidMappings and gidMappings", "both are needed, or neither"));
    }
    if maps && !users && !has_users {
        return Err(("options", "idmap needs uidMappings and gidMappings, or a user namespace to have them of"));
    }
    let is_bind = mount.typ().as_deref() == Some("bind") || words.iter().any(|word| ["bind", "rbind"].contains(word));
    if (maps || users) && !is_bind {
        return Err(("uidMappings and gidMappings", "only what is bound has other ids than its file system"));
    }
    Ok(())
}

fn has_namespace(linux: Option<&Linux>, kind: LinuxNamespaceType) -> bool {
    linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten().any(|one| one.typ() == kind)
}

/// # Errors
/// Where namespaces contradict themselves or what belongs to them.
fn check_namespaces(linux: &Linux) -> Result<(), Error> {
    let all = || linux.namespaces().iter().flatten();
    if let Some(twice) = all().find(|one| all().filter(|other| one.typ() == other.typ()).count() > 1) {
        return Err(no(format!("linux.namespaces: {} twice", twice.typ()), "there is one of each kind"));
    }
    if !has_namespace(Some(linux), LinuxNamespaceType::Mount) {
        return Err(no("linux.namespaces without mount", "the host's own root would be changed"));
    }
    let is_new = |kind| all().any(|one| one.typ() == kind && one.path().is_none());
    let (users, groups) = (has_any(linux.uid_mappings()), has_any(linux.gid_mappings()));
    if (users || groups) && !has_namespace(Some(linux), LinuxNamespaceType::User) {
        return Err(no("linux.uidMappings and gidMappings without a user namespace", "there is nothing to map"));
    }
    if is_new(LinuxNamespaceType::User) && !(users && groups) {
        return Err(no("a user namespace without linux.uidMappings and gidMappings", "nobody would be in it"));
    }
    let offsets = linux.time_offsets().iter().flatten();
    if offsets.clone().next().is_some() && !is_new(LinuxNamespaceType::Time) {
        return Err(no("linux.timeOffsets without a new time namespace", "only a new one takes them"));
    }
    match offsets.map(|(clock, _)| clock).find(|clock| !["monotonic", "boottime"].contains(&clock.as_str())) {
        Some(clock) => Err(no(format!("linux.timeOffsets.{clock}"), "the kernel has monotonic and boottime")),
        None => Ok(()),
    }
}

fn check_linux(linux: &Linux) -> Result<(), Error> {
    check_namespaces(linux)?;
    let some = |there: bool, field: &str, reason: &str| if there { Err(no(field, reason)) } else { Ok(()) };
    some(linux.intel_rdt().is_some(), "linux.intelRdt", "cache and bandwidth of processors are not managed")?;
    some(linux.memory_policy().is_some(), "linux.memoryPolicy", "use linux.resources.cpu.mems")?;
    some(linux.net_devices().as_ref().is_some_and(|all| !all.is_empty()), "linux.netDevices", "not supported yet")?;
    let label = linux.mount_label().as_ref().is_some_and(|label| !label.is_empty());
    some(label, "linux.mountLabel", "files are not labelled by this program")?;
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
