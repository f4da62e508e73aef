//! Control groups: what a container may use, what it did use, and which processes are its.
//!
//! Version 2 (one hierarchy) is the main case; version 1 and hybrid hosts mount a hierarchy a controller, and the same
//! name is made in each. See Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};

use super::userns;

mod below;
mod devices;
mod disks;
mod end;
mod limits;
mod none;
mod oom;

pub use end::remove_apart;
pub use limits::weight as weight_of_shares;
pub use oom::OomWatch;

const MOUNT: &str = "/sys/fs/cgroup";
/// Controllers of version 1 that a container is put under, where the host has them.
const V1_CONTROLLERS: [&str; 12] = [
    "memory", "cpu", "cpuacct", "cpuset", "pids", "devices", "freezer", "blkio", "hugetlb", "net_cls", "net_prio",
    "rdma",
];
/// Controllers of version 2 that the groups above a container hand down, where the host has them.
const V2_CONTROLLERS: [&str; 7] = ["memory", "cpu", "cpuset", "pids", "io", "hugetlb", "rdma"];

/// Hierarchies of a host with version 1 that have no controllers, where it has them: by these systemd tells processes apart,
/// and other programs make a container's group in them, too.
pub const TRACKING: [&str; 2] = ["systemd", "unified"];

/// How many processes a container has at most that says nothing of it.
pub const DEFAULT_PROCESSES: i64 = 4096;

/// What failed, and on which file.
#[derive(Debug, thiserror::Error)]
#[error("control group {path}: {source}")]
pub struct Error {
    pub path: PathBuf,
    pub source: io::Error,
}

impl Error {
    /// Whether it failed for want of the group, or of the controller.
    pub fn is_absent(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// The group of one container, in each hierarchy of this host.
#[derive(Clone, Debug)]
pub struct Cgroup {
    mount: PathBuf,
    hierarchies: Vec<Hierarchy>,
}

/// One directory of the group. Version 2 has a single one, for all controllers.
#[derive(Clone, Debug)]
struct Hierarchy {
    controller: Option<&'static str>,
    directory: PathBuf,
}

/// How a child comes into a group before it does anything else.
#[derive(Debug)]
pub struct Entrance {
    /// Version 2: the child is born in it, by clone3(2) with `CLONE_INTO_CGROUP`.
    pub birth: Option<OwnedFd>,
    /// Version 1: the files that the child writes itself into.
    tasks: Vec<(PathBuf, File)>,
}

impl Entrance {
    /// What is left to be done by the child itself, which has one thread. A thread that moves itself alone is the one
    /// case in which the kernel does not wait for all processors first, which takes milliseconds.
    ///
    /// # Errors
    /// What the kernel says; the child must not go on then.
    pub fn enter(self) -> Result<(), Error> {
        for (path, mut file) in self.tasks {
            file.write_all(b"0").map_err(|source| Error { path, source })?;
        }
        Ok(())
    }
}

/// Figures of a group at one moment; bytes, nanoseconds, counts. Zero where the kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub cpu_ns: u64,
    /// Without the file cache that the kernel can drop at once, as other engines count.
    pub memory_bytes: u64,
    /// `None` is unlimited.
    pub memory_limit: Option<u64>,
    pub processes: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
}

/// What the control groups of this host can limit, beside what all can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// How much memory and swap together is used.
    pub swap: bool,
    /// How soon memory goes to the swap.
    pub swappiness: bool,
    /// That nobody is killed for want of memory.
    pub oom_kill_disable: bool,
}

impl Abilities {
    /// Of this host.
    pub fn of_host() -> Self {
        let group = Cgroup::named("");
        let has = |file: &str| group.file(file).exists();
        // Of version 2 the topmost group has no limits; one with the controller always counts swap where there is any.
        let swap = if group.is_unified() { Path::new("/proc/swaps").exists() } else { has(limits::MEMORY_AND_SWAP) };
        Self { swap, swappiness: has("memory.swappiness"), oom_kill_disable: has("memory.oom_control") }
    }
}

impl Cgroup {
    /// The group with this name, whether or not it exists.
    pub fn named(name: &str) -> Self {
        Self::below(Path::new(MOUNT), name)
    }

    /// The same, of hierarchies that are mounted elsewhere.
    fn below(mount: &Path, name: &str) -> Self {
        let mount = mount.to_owned();
        if mount.join("cgroup.controllers").exists() {
            let directory = mount.join(name);
            return Self { mount, hierarchies: vec![Hierarchy { controller: None, directory }] };
        }
        // A directory alone, which somebody made to mount on, is no hierarchy.
        let is_mounted = |controller: &&str| mount.join(controller).join("cgroup.procs").exists();
        let mounted = V1_CONTROLLERS.into_iter().filter(is_mounted);
        let one = |controller| Hierarchy { controller: Some(controller), directory: mount.join(controller).join(name) };
        let hierarchies = mounted.map(one).collect();
        Self { mount, hierarchies }
    }

    /// Whether the host has version 2 alone.
    pub fn is_unified(&self) -> bool {
        matches!(self.hierarchies.as_slice(), [Hierarchy { controller: None, .. }])
    }

    /// Whether this host has none, or none for its user.
    pub fn is_nowhere(&self) -> bool {
        self.hierarchies.is_empty()
    }

    /// The directory of the group in each hierarchy, with the controller's name, which version 2 has none of.
    pub fn hierarchies(&self) -> Vec<(Option<&'static str>, &Path)> {
        self.hierarchies.iter().map(|one| (one.controller, one.directory.as_path())).collect()
    }

    /// The way in for a child that is about to be forked.
    ///
    /// # Errors
    /// Where the group does not exist.
    pub fn entrance(&self) -> Result<Entrance, Error> {
        if let [Hierarchy { controller: None, directory }] = self.hierarchies.as_slice() {
            let opened = File::open(directory);
            let group = opened.map_err(|source| Error { path: directory.clone(), source })?;
            return Ok(Entrance { birth: Some(group.into()), tasks: Vec::new() });
        }
        let open = |one: &Hierarchy| {
            let path = one.directory.join("tasks");
            match File::options().write(true).open(&path) {
                Ok(file) => Ok((path, file)),
                Err(source) => Err(Error { path, source }),
            }
        };
        let tasks = self.hierarchies.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Entrance { birth: None, tasks })
    }

    /// Makes the group, in every hierarchy. One that is there already stays.
    ///
    /// # Errors
    /// Where the kernel refuses, as when not root.
    pub fn create(&self) -> Result<(), Error> {
        for Hierarchy { controller, directory } in &self.hierarchies {
            fs::create_dir_all(directory).map_err(|source| Error { path: directory.clone(), source })?;
            let root = controller.map_or(self.mount.clone(), |controller| self.mount.join(controller));
            match controller {
                None => self.delegate(directory)?,
                Some("cpuset") => downwards(&root, directory).iter().skip(1).try_for_each(|one| inherit_cpuset(one))?,
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Version 2: the controllers must be switched on for the children of each group above.
    fn delegate(&self, directory: &Path) -> Result<(), Error> {
        for group in downwards(&self.mount, directory.parent().unwrap_or(&self.mount)) {
            let words = |file: &str| fs::read_to_string(group.join(file)).unwrap_or_default();
            let (there, on) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
            let has = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
            for controller in V2_CONTROLLERS.into_iter().filter(|name| has(&there, name) && !has(&on, name)) {
                let file = group.join("cgroup.subtree_control");
                match fs::write(&file, format!("+{controller}")) {
                    Ok(()) => {}
                    // Processes with real time are in the way of `cpu`; a limit that needs it fails by name later.
                    Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {}
                    Err(source) => return Err(Error { path: file, source }),
                }
            }
        }
        Ok(())
    }

    /// Applies limits to the group and to what runs in it. Those not named stay as they are.
    ///
    /// # Errors
    /// Where the kernel refuses a value, or lacks the controller for it.
    pub fn limit(&self, resources: &LinuxResources) -> Result<(), Error> {
        if self.is_nowhere() {
            return none::limit(self, resources);
        }
        self.check_use(resources)?;
        let mut later = Vec::new();
        for (file, value) in self.limits(resources) {
            match self.write(&file, &value) {
                // A shorter period with what is left of the longer one's quota may be more than the group above has.
                Err(error) if file == "cpu.cfs_period_us" && error.source.raw_os_error() == Some(libc::EINVAL) => {
                    later.push((file, value));
                }
                written => written?,
            }
        }
        later.iter().try_for_each(|(file, value)| self.write(file, value))?;
        match resources.devices() {
            // Only root of the host may; an ordinary user's containers open what the user may.
            Some(rules) if userns::own_size().is_none() => self.limit_devices(rules),
            _ => Ok(()),
        }
    }

    /// What is known to be refused before anything is changed.
    ///
    /// # Errors
    /// As [`Cgroup::limit`], where there are no groups.
    pub fn check(&self, resources: &LinuxResources) -> Result<(), Error> {
        if self.is_nowhere() { none::limit(self, resources) } else { Ok(()) }
    }

    fn check_use(&self, resources: &LinuxResources) -> Result<(), Error> {
        let file = if self.is_unified() { "memory.current" } else { "memory.usage_in_bytes" };
        let memory = resources.memory().as_ref();
        match memory.and_then(|memory| limits::is_too_much_in_use(memory, || self.number(file))) {
            Some(reason) => Err(Error { path: self.file(file), source: io::Error::other(reason) }),
            None => Ok(()),
        }
    }

    /// Applies these limits in the place of others: what only the others say is lifted.
    ///
    /// # Errors
    /// As [`Cgroup::limit`].
    pub fn limit_anew(&self, former: &LinuxResources, resources: &LinuxResources) -> Result<(), Error> {
        self.check(resources)?;
        let named: Vec<String> = self.limits(resources).into_iter().map(|(file, _)| file).collect();
        let mut lifted: Vec<String> = self.limits(former).into_iter().map(|(file, _)| file).collect();
        lifted.retain(|file| !named.contains(file));
        // Nothing limits a part where nothing limits the sum: the sum's is lifted first.
        lifted.sort_by_key(|file| file != limits::MEMORY_AND_SWAP);
        for file in &lifted {
            let path = self.file(file);
            let above = || path.parent().and_then(Path::parent).map(|above| above.join(file)).unwrap_or_default();
            let value = match limits::unset(file) {
                Some(value) => value.to_owned(),
                // Version 2 takes nothing for what the group above has.
                None if self.is_unified() => "\n".to_owned(),
                None => fs::read_to_string(above()).map_err(|source| Error { path: above(), source })?,
            };
            self.write(file, value.trim_end_matches(' '))?;
        }
        self.limit(resources)
    }

    fn limits(&self, resources: &LinuxResources) -> limits::Files {
        let group = |file: &str| self.text(file);
        if self.is_unified() { limits::v2(resources, &group) } else { limits::v1(resources, &group) }
    }

    fn limit_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<(), Error> {
        if let [Hierarchy { controller: None, directory }] = self.hierarchies.as_slice() {
            return devices::attach(directory, rules).map_err(|source| Error { path: directory.clone(), source });
        }
        // One rule a write.
        for lines in devices::v1(rules).chunk_by(|one, next| one.0 == next.0) {
            let path = self.file(lines[0].0);
            let write = || {
                let mut file = File::options().write(true).open(&path)?;
                lines.iter().try_for_each(|(_, line)| file.write_all(line.as_bytes()))
            };
            write().map_err(|source| Error { path: path.clone(), source })?;
        }
        Ok(())
    }

    /// Whether the group has this file.
    pub fn has(&self, file: &str) -> bool {
        self.file(file).exists()
    }

    /// What the group has in this file; `None` where it has no such file.
    pub fn text(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.file(file)).ok()
    }

    /// The names of the group's files of this controller.
    pub fn files(&self, controller: &str) -> Vec<String> {
        let place = self.file(&format!("{controller}."));
        let entries = place.parent().and_then(|directory| fs::read_dir(directory).ok()).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter(|name| name.strip_prefix(controller).is_some_and(|rest| rest.starts_with('.'))).collect()
    }

    fn write(&self, file: &str, value: &str) -> Result<(), Error> {
        let path = self.file(file);
        fs::write(&path, value).map_err(|source| Error { path, source })
    }

    /// Where the group has this file: in version 1, the part before the first dot names the hierarchy.
    fn file(&self, file: &str) -> PathBuf {
        let controller = file.split('.').next().unwrap_or(file);
        let own = self.hierarchies.iter().find(|one| one.controller.is_none_or(|name| name == controller));
        match own {
            Some(Hierarchy { directory, .. }) => directory.join(file),
            // Names what the host lacks in the error that follows.
            None => self.mount.join(controller).join(file),
        }
    }

    /// The processes in the group and in the groups that these made below it, none when it does not exist.
    pub fn processes(&self) -> Vec<i32> {
        let mut all: Vec<i32> = self.hierarchies.first().map(|one| processes_below(&one.directory)).unwrap_or_default();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Stops every process of the group from running, or lets them go on. Returns when that is so.
    pub fn freeze(&self, frozen: bool) -> Result<(), Error> {
        if self.is_nowhere() {
            return Err(none::refuse("freezer", "paused"));
        }
        end::freeze(self, frozen)
    }

    /// Whether every process of the group is kept from running.
    pub fn is_frozen(&self) -> bool {
        let (file, word) = if self.is_unified() { ("cgroup.freeze", "1") } else { ("freezer.state", "FROZEN") };
        fs::read_to_string(self.file(file)).is_ok_and(|text| text.trim() == word)
    }

    /// Kills every process of the group where they are many, as those of a program that forks without end are, and does not
    /// wait for their ends.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn kill_crowd(&self) -> Result<(), Error> {
        end::kill_crowd(self)
    }

    /// Kills every process of the group, and waits until all have ended.
    ///
    /// # Errors
    /// `TimedOut` where one does not end, as when it waits for a dead disk.
    pub fn kill_all(&self) -> Result<(), Error> {
        end::kill_all(self)
    }

    /// Removes the group in every hierarchy, with what its processes made below it; those that still run are killed.
    /// A group that is not there is fine.
    pub fn remove(&self) -> Result<(), Error> {
        end::remove(self)
    }

    /// How often the kernel killed a process of the group for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = if self.is_unified() { "memory.events" } else { "memory.oom_control" };
        self.keyed(file, "oom_kill")
    }

    /// What the group uses now.
    pub fn stats(&self) -> Stats {
        let processes = self.processes().len() as u64;
        if self.is_unified() {
            let io = fs::read_to_string(self.file("io.stat")).unwrap_or_default();
            return Stats {
                cpu_ns: self.keyed("cpu.stat", "usage_usec") * 1000,
                memory_bytes: self
                    .number("memory.current")
                    .unwrap_or(0)
                    .saturating_sub(self.keyed("memory.stat", "inactive_file")),
                memory_limit: self.number("memory.max"),
                processes,
                read_bytes: limits::sum(&io, "rbytes="),
                written_bytes: limits::sum(&io, "wbytes="),
            };
        }
        let io = fs::read_to_string(self.file("blkio.throttle.io_service_bytes")).unwrap_or_default();
        let used = self.number("memory.usage_in_bytes").unwrap_or(0);
        Stats {
            cpu_ns: self.number("cpuacct.usage").unwrap_or(0),
            memory_bytes: used.saturating_sub(self.keyed("memory.stat", "total_inactive_file")),
            // Version 1 says "unlimited" as the largest number of pages.
            memory_limit: self.number("memory.limit_in_bytes").filter(|limit| *limit < 1 << 60),
            processes,
            read_bytes: limits::sum(&io, "Read "),
            written_bytes: limits::sum(&io, "Write "),
        }
    }

    fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }

    /// The value of a key of a file of lines `key value`.
    fn keyed(&self, file: &str, key: &str) -> u64 {
        let text = fs::read_to_string(self.file(file)).unwrap_or_default();
        let value = text.lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == key);
        value.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
    }
}

/// The groups from the topmost one down to this one.
fn downwards(root: &Path, directory: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        { directory.ancestors() }.take_while(|one| one.starts_with(root)).map(Path::to_owned).collect();
    all.reverse();
    all
}

fn processes_below(directory: &Path) -> Vec<i32> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let own = text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0);
    let below = children(directory).into_iter().flat_map(|child| processes_below(&child));
    own.chain(below).collect()
}

/// The groups right below this one. The kernel counts them as a directory's links.
fn children(directory: &Path) -> Vec<PathBuf> {
    if fs::symlink_metadata(directory).is_ok_and(|data| data.nlink() <= 2) {
        return Vec::new();
    }
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Version 1: a new cpuset is empty, and takes no process until it has processors and memory nodes.
fn inherit_cpuset(directory: &Path) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let path = directory.join(file);
        let own = fs::read_to_string(&path).unwrap_or_default();
        if own.trim().is_empty() {
            let parent = directory.parent().map(|parent| parent.join(file)).unwrap_or_default();
            let value = fs::read_to_string(&parent).map_err(|source| Error { path: parent, source })?;
            fs::write(&path, value.trim()).map_err(|source| Error { path, source })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_goes_with_those_that_were_made_below_it() {
        let group = Cgroup::named(&format!("stack-test-below-{}", std::process::id()));
        group.create().unwrap();
        // Made again: what is there stays.
        group.create().unwrap();
        let (_, first) = group.hierarchies()[0];
        fs::create_dir_all(first.join("a/b")).unwrap();
        assert_eq!(children(first), [first.join("a")]);
        group.remove().unwrap();
        assert!(group.hierarchies().iter().all(|(_, directory)| !directory.exists()));
        // Removed again: what is not there is fine.
        group.remove().unwrap();
    }
}
