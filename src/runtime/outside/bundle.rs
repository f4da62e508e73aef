//! From the specification that the engine's own [`init`] executes to one that says all of it in the
//! words that every runtime knows: pure.
//!
//! The engine's own says less, since its parts know each other: the user is looked up later, the filter is built from the
//! capabilities, `/proc/self` is this process, `ro` holds for all mounts below. What has come to the specification after
//! its version 1.0.2 is said in older words, or made by the engine beforehand: a runtime passes over what it does not know.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    BoxBuilder, Capability, LinuxCapabilities, LinuxNamespaceType, Mount, MountBuilder, PosixRlimit, Process, Root,
    Spec, User,
};

use crate::runtime::init::{self, Identity, spec};
use crate::runtime::seccomp;

/// What the bundle's words are about: 1.0.2 with the answer of a filter by errno, which all runtimes know.
const VERSION: &str = "1.0.2";
/// Where the small process 1 is, that goes in front of the program.
pub const REAPER: &str = "/dev/init";

/// What of the host the specification names.
pub struct Host<'a> {
    pub rootfs: &'a Path,
    /// Below each hierarchy of control groups.
    pub cgroup: &'a str,
    /// Whose open files `/proc/self` means: this process's.
    pub own: u32,
    /// Where each mount is that was made beforehand, by where it belongs in the container.
    pub mounts: &'a [(PathBuf, PathBuf)],
}

/// What of a process only its maker knows.
pub struct Person {
    pub identity: Identity,
    /// As far as this process can give them.
    pub limits: Vec<PosixRlimit>,
    pub capabilities: HashSet<Capability>,
}

impl Person {
    /// For a process of this specification.
    ///
    /// # Errors
    /// Where the own limits can't be read.
    pub fn new(identity: Identity, process: &Process) -> io::Result<Self> {
        let limits = process.rlimits().as_deref().unwrap_or_default();
        let bounding = process.capabilities().as_ref().and_then(|sets| sets.bounding().clone()).unwrap_or_default();
        Ok(Self { identity, limits: init::attainable(limits)?, capabilities: init::held_of(&bounding)? })
    }
}

/// The whole bundle, for a process that is this person's.
pub fn write(built: &Spec, person: &Person, host: &Host<'_>) -> Spec {
    let mut spec = built.clone();
    spec.set_version(VERSION.to_owned());
    let mut root = Root::default();
    root.set_path(host.rootfs.to_owned());
    root.set_readonly(built.root().as_ref().and_then(Root::readonly));
    spec.set_root(Some(root));
    spec.set_process(built.process().as_ref().map(|own| process(own, person)));
    let mounts = built.mounts().iter().flatten();
    spec.set_mounts(Some(mounts.map(|own| mount(own, host.mounts)).collect()));
    set_linux(&mut spec, host);
    set_names(&mut spec);
    set_annotations(&mut spec);
    spec
}

/// A process with its user in numbers, and with the capabilities that it has from its first program on: like exec of a
/// file without any, a change to another user than root leaves it none but those that it may get by such a file.
pub fn process(own: &Process, person: &Person) -> Process {
    let identity = &person.identity;
    let mut process = own.clone();
    let mut user = User::default();
    user.set_uid(identity.uid);
    user.set_gid(identity.gid);
    user.set_additional_gids(Some(identity.groups.clone()));
    process.set_user(user);
    process.set_capabilities(Some(capabilities(person)));
    process.set_rlimits(Some(person.limits.clone()));
    let mut env = own.env().clone().unwrap_or_default();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home));
    }
    process.set_env(Some(env));
    if own.terminal() == Some(true) {
        let size = BoxBuilder::default().height(24_u64).width(80_u64).build();
        process.set_console_size(size.ok());
    }
    process
}

fn capabilities(person: &Person) -> LinuxCapabilities {
    let none = HashSet::new;
    let own = if person.identity.uid == 0 { person.capabilities.clone() } else { none() };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(person.capabilities.clone()));
    sets.set_effective(Some(own.clone()));
    sets.set_permitted(Some(own));
    sets.set_inheritable(Some(none()));
    sets.set_ambient(Some(none()));
    sets
}

/// What was made beforehand is only bound, under the name that it has there.
fn mount(own: &Mount, made: &[(PathBuf, PathBuf)]) -> Mount {
    let Some((_, place)) = made.iter().find(|(target, _)| target == own.destination()) else { return own.clone() };
    let mut mount = own.clone();
    let words = own.options().iter().flatten().filter(|word| *word != "ridmap").cloned();
    let is_bind = own.typ().as_deref() == Some("bind");
    let options = if is_bind { words.collect() } else { vec!["rbind".to_owned(), "rprivate".to_owned()] };
    mount.set_typ(Some("bind".to_owned()));
    mount.set_source(Some(place.clone()));
    mount.set_options(Some(options));
    mount
}

fn set_linux(spec: &mut Spec, host: &Host<'_>) {
    let filter = filter(spec);
    let Some(linux) = spec.linux_mut() else { return };
    linux.set_cgroups_path(Some(Path::new("/").join(host.cgroup)));
    linux.set_seccomp(filter);
    for namespace in linux.namespaces_mut().iter_mut().flatten() {
        if let Some(path) = namespace.path().as_ref().and_then(|path| path.strip_prefix("/proc/self").ok()) {
            let path = Path::new("/proc").join(host.own.to_string()).join(path);
            namespace.set_path(Some(path));
        }
    }
}

/// The container's own, or the engine's for these capabilities, unless the container does without.
fn filter(spec: &Spec) -> Option<oci_spec::runtime::LinuxSeccomp> {
    if let Some(own) = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone()) {
        return Some(own);
    }
    let sets = spec.process().as_ref()?.capabilities().as_ref()?;
    // The type writes them without what the kernel's names begin with.
    let full = |one: &Capability| format!("CAP_{}", one.to_string().trim_start_matches("CAP_"));
    let held: BTreeSet<String> = sets.bounding().iter().flatten().map(full).collect();
    spec::is_confined(spec).then(|| seccomp::written(&held))
}

/// The name of the domain has no field before 1.1, and is a kernel setting; the host's names are not the container's.
fn set_names(spec: &mut Spec) {
    if !init::has_namespace(spec, LinuxNamespaceType::Uts) {
        spec.set_hostname(None);
        spec.set_domainname(None);
        return;
    }
    let domain = spec.domainname().clone().filter(|name| !name.is_empty());
    spec.set_domainname(None);
    if let (Some(domain), Some(linux)) = (domain, spec.linux_mut()) {
        let mut sysctl: HashMap<String, String> = linux.sysctl().clone().unwrap_or_default();
        sysctl.insert("kernel.domainname".to_owned(), domain);
        linux.set_sysctl(Some(sysctl));
    }
}

/// Marks of the engine's are its own.
fn set_annotations(spec: &mut Spec) {
    let mut notes = spec.annotations().clone().unwrap_or_default();
    notes.remove(spec::UNCONFINED);
    spec.set_annotations(Some(notes).filter(|notes| !notes.is_empty()));
}

/// Puts the small process 1 in front of the program: the file is bound from `source`.
pub fn add_reaper(spec: &mut Spec, source: &Path) {
    let options = ["rbind", "rprivate", "ro", "nosuid", "nodev"].map(str::to_owned).to_vec();
    let bound = MountBuilder::default().destination(REAPER).typ("bind").source(source).options(options).build();
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.extend(bound.ok());
    spec.set_mounts(Some(mounts));
    let Some(process) = spec.process_mut() else { return };
    let args = process.args().clone().unwrap_or_default();
    let words = init::reaper_arguments(REAPER, &args, process.env().iter().flatten());
    process.set_args(Some(words));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::runtime::init::spec::{Mount as Wanted, MountSource, Namespace, Request, build};

    /// The bundle of this request, for this user.
    fn written(request: &Request, uid: u32) -> Value {
        let built = build(request).unwrap();
        let identity = Identity { uid, gid: 5, groups: vec![5, 7], home: "/home/it".into() };
        let sets = built.process().as_ref().unwrap().capabilities().clone().unwrap();
        let person = Person { identity, limits: Vec::new(), capabilities: sets.bounding().clone().unwrap() };
        let places = [("/data", "/m/0"), ("/sys/fs/cgroup", "/m/1"), ("/dev/shm", "/m/2")];
        let mounts = places.map(|(target, place)| (PathBuf::from(target), PathBuf::from(place)));
        let host = Host { rootfs: Path::new("/r"), cgroup: "a/b", own: 42, mounts: &mounts };
        serde_json::to_value(write(&built, &person, &host)).unwrap()
    }

    fn request() -> Request {
        let source = MountSource::Bind { source: "/host/data".into(), propagation: None, mapped: true };
        Request {
            args: vec!["true".into()],
            env: vec!["PATH=/bin:/usr/bin".into()],
            hostname: "h".into(),
            domainname: "d.example".into(),
            network: Namespace::Path("/proc/self/fd/7".into()),
            mounts: vec![Wanted { target: "/data".into(), read_only: true, source }],
            sysctls: BTreeMap::from([("kernel.shmmax".to_owned(), "1".to_owned())]),
            ..Request::default()
        }
    }

    #[test]
    fn it_says_what_the_engines_parts_know_of_each_other() {
        let bundle = written(&request(), 0);
        assert_eq!(bundle["ociVersion"], "1.0.2");
        assert_eq!(bundle["root"], json!({"path": "/r", "readonly": false}));
        assert_eq!(bundle["process"]["user"], json!({"uid": 0, "gid": 5, "additionalGids": [5, 7]}));
        assert_eq!(bundle["process"]["env"], json!(["PATH=/bin:/usr/bin", "HOME=/home/it"]));
        assert_eq!(bundle["linux"]["cgroupsPath"], "/a/b");
        assert_eq!(bundle["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
        let network = json!({"type": "network", "path": "/proc/42/fd/7"});
        assert!(bundle["linux"]["namespaces"].as_array().unwrap().contains(&network), "{bundle}");
        assert_eq!((&bundle["hostname"], &bundle["domainname"]), (&json!("h"), &Value::Null));
        assert_eq!(bundle["linux"]["sysctl"]["kernel.domainname"], "d.example");
        assert_eq!(bundle["linux"]["sysctl"]["kernel.shmmax"], "1");
    }

    #[test]
    fn what_was_made_beforehand_is_bound() {
        let bundle = written(&request(), 0);
        let at = |target: &str| {
            let all = bundle["mounts"].as_array().unwrap();
            all.iter().find(|mount| mount["destination"] == target).cloned().unwrap()
        };
        let bound = |target: &str, source: &str, options: &[&str]| {
            assert_eq!(
                at(target),
                json!({"destination": target, "type": "bind", "source": source, "options": options})
            );
        };
        bound("/data", "/m/0", &["rbind", "rprivate", "ro"]);
        bound("/sys/fs/cgroup", "/m/1", &["rbind", "rprivate"]);
        bound("/dev/shm", "/m/2", &["rbind", "rprivate"]);
        assert_eq!(at("/proc")["type"], "proc");
    }

    #[test]
    fn others_than_root_begin_without_capabilities_and_the_hosts_names_stay() {
        let bundle = written(&Request { uts_host: true, privileged: true, ..request() }, 9);
        let sets = &bundle["process"]["capabilities"];
        let count = |set: &str| sets[set].as_array().map_or(0, Vec::len);
        assert_eq!(["bounding", "effective", "permitted", "ambient"].map(count), [41, 0, 0, 0]);
        assert_eq!((&bundle["hostname"], &bundle["linux"]["seccomp"]), (&Value::Null, &Value::Null));
        assert_eq!(bundle["linux"]["sysctl"]["kernel.domainname"], Value::Null);
        assert_eq!(bundle["annotations"], Value::Null, "marks of the engine's own are not told");
    }

    #[test]
    fn the_small_process_1_is_bound_and_looks_for_the_program() {
        let mut spec = serde_json::from_value(written(&request(), 0)).unwrap();
        add_reaper(&mut spec, Path::new("/m/3"));
        let args = spec.process().as_ref().unwrap().args().clone().unwrap();
        assert_eq!(args, ["/dev/init", "reap", "-1", "2", "/bin/true", "/usr/bin/true", "true"]);
        let last = spec.mounts().as_ref().unwrap().last().unwrap();
        assert_eq!(
            (last.destination().as_path(), last.source().as_deref()),
            (Path::new(REAPER), Some(Path::new("/m/3")))
        );
    }
}
