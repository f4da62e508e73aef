//! Control groups: what a container may use, what it did use, and which processes are its.
//!
//! Version 2 (one hierarchy) is the main case; version 1 and hybrid hosts mount a hierarchy a controller, and the same
//! name is made in each. See Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

mod limits;

const MOUNT: &str = "/sys/fs/cgroup";
/// Controllers of version 1 that a container is put under, where the host has them.
const V1_CONTROLLERS: [&str; 8] = ["memory", "cpu", "cpuacct", "cpuset", "pids", "devices", "freezer", "blkio"];

/// What failed, and on which file.
#[derive(Debug, thiserror::Error)]
#[error("control group {path}: {source}")]
pub struct Error {
    pub path: PathBuf,
    pub source: io::Error,
}

/// The group of one container, in each hierarchy of this host.
#[derive(Clone, Debug)]
pub struct Cgroup {
    unified: bool,
    directories: Vec<PathBuf>,
}

/// Figures of a group at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    pub processes: u64,
}

impl Cgroup {
    /// The group with this name, `stack-KEY/CONTAINER`, whether or not it exists.
    pub fn named(name: &str) -> Self {
        let unified = Path::new(MOUNT).join("cgroup.controllers").exists();
        let directories = if unified {
            vec![Path::new(MOUNT).join(name)]
        } else {
            let mounted = V1_CONTROLLERS.iter().map(|controller| Path::new(MOUNT).join(controller));
            mounted.filter(|directory| directory.is_dir()).map(|directory| directory.join(name)).collect()
        };
        Self { unified, directories }
    }

    /// Makes the group, in every hierarchy.
    ///
    /// # Errors
    /// Where the kernel refuses, as when not root.
    pub fn create(&self) -> Result<(), Error> {
        for directory in &self.directories {
            fs::create_dir_all(directory).map_err(|source| Error { path: directory.clone(), source })?;
            let parent = directory.parent().unwrap_or(Path::new(MOUNT));
            if self.unified {
                self.delegate(parent)?;
            } else if directory.starts_with("/sys/fs/cgroup/cpuset") {
                inherit_cpuset(parent)?;
                inherit_cpuset(directory)?;
            }
        }
        Ok(())
    }

    /// Version 2: the controllers must be switched on for the children of each group above.
    fn delegate(&self, parent: &Path) -> Result<(), Error> {
        for group in [Path::new(MOUNT), parent] {
            for controller in ["memory", "cpu", "cpuset", "pids", "io"] {
                let file = group.join("cgroup.subtree_control");
                match fs::write(&file, format!("+{controller}")) {
                    Ok(()) => {}
                    // The host's kernel lacks it; a limit that needs it fails by name later.
                    Err(error)
                        if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::EINVAL) => {}
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
        let files = if self.unified { limits::v2(resources) } else { limits::v1(resources) };
        for (file, value) in files {
            let path = self.file(file);
            fs::write(&path, &value).map_err(|source| Error { path, source })?;
        }
        Ok(())
    }

    /// Where the group has this file: in version 1, the part before the first dot names the hierarchy.
    fn file(&self, file: &str) -> PathBuf {
        let controller = file.split('.').next().unwrap_or(file);
        let of_controller = |directory: &&PathBuf| directory.starts_with(Path::new(MOUNT).join(controller));
        let directory = self.directories.iter().find(of_controller).or(self.directories.first());
        directory.map(|directory| directory.join(file)).unwrap_or_else(|| Path::new(MOUNT).join(file))
    }

    /// Puts a process into the group.
    pub fn add(&self, pid: i32) -> Result<(), Error> {
        for directory in &self.directories {
            let path = directory.join("cgroup.procs");
            fs::write(&path, pid.to_string()).map_err(|source| Error { path, source })?;
        }
        Ok(())
    }

    /// The processes in the group, none when it does not exist.
    pub fn processes(&self) -> Vec<i32> {
        let file = self.directories.first().map(|directory| directory.join("cgroup.procs"));
        let text = file.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Stops every process of the group from running, or lets them go on.
    pub fn freeze(&self, frozen: bool) -> Result<(), Error> {
        let (file, value) = match (self.unified, frozen) {
            (true, frozen) => ("cgroup.freeze", if frozen { "1" } else { "0" }),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        };
        let path = if self.unified { self.directories[0].join(file) } else { self.file(file) };
        fs::write(&path, value).map_err(|source| Error { path, source })
    }

    /// How often the kernel killed a process of the group for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = if self.unified { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.file(file)).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    }

    /// What the group uses now.
    pub fn stats(&self) -> Stats {
        let number = |file: &str| fs::read_to_string(self.file(file)).ok().and_then(|text| text.trim().parse().ok());
        let (cpu_ns, memory_bytes) = if self.unified {
            let text = fs::read_to_string(self.file("cpu.stat")).unwrap_or_default();
            let usage =
                text.lines().find_map(|line| line.strip_prefix("usage_usec ")).and_then(|n| n.parse::<u64>().ok());
            (usage.unwrap_or(0) * 1000, number("memory.current").unwrap_or(0))
        } else {
            (number("cpuacct.usage").unwrap_or(0), number("memory.usage_in_bytes").unwrap_or(0))
        };
        Stats { cpu_ns, memory_bytes, processes: self.processes().len() as u64 }
    }

    /// Removes the group, which must be empty, in every hierarchy, and the engine's own group above it when that was
    /// the last. A group that is not there is fine.
    pub fn remove(&self) -> Result<(), Error> {
        for directory in &self.directories {
            match fs::remove_dir(directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error { path: directory.clone(), source }),
            }
            if let Some(parent) = directory.parent() {
                // Fails while other containers are in it, which is what should keep it.
                drop(fs::remove_dir(parent));
            }
        }
        Ok(())
    }
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
