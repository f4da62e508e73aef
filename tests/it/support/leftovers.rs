//! What an engine has left on the host: looked for in the kernel and on the disk, not asked of the engine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use stack::runtime::roots::Roots;

use super::processes;

/// A line for each thing of the engine with these roots, which are both below `directory`. Images and volumes are meant
/// to stay; whatever else is found is there by mistake, or because containers still run.
pub fn of(roots: &Roots, directory: &Path) -> Vec<String> {
    let own = Own { key: roots.key(), below: vec![directory.to_owned(), roots.root.clone(), roots.run.clone()] };
    let mut left = own.mounts();
    left.extend(own.processes());
    left.extend(own.sockets());
    left.extend(own.links());
    left.extend(own.rules());
    left.extend(own.groups());
    left.extend(files(roots));
    left
}

/// How the engine's things are known.
struct Own {
    key: String,
    below: Vec<PathBuf>,
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    all.sort();
    all
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Own {
    /// Whether the text has a path below one of the directories.
    fn is_in(&self, text: &str) -> bool {
        self.below.iter().any(|directory| text.contains(&format!("{}/", directory.display())))
    }

    /// The directory itself may be a mount of the test's.
    fn mounts(&self) -> Vec<String> {
        let ours = |line: &&str| line.split(' ').nth(4).is_some_and(|place| self.is_in(place));
        read("/proc/thread-self/mountinfo").lines().filter(ours).map(|line| format!("mount {line}")).collect()
    }

    /// By command line, control group, root directory, and open files; a container's process says nothing of us in its
    /// command line.
    fn processes(&self) -> Vec<String> {
        let own = std::process::id();
        let others = processes().into_iter().filter(|(pid, _)| *pid != own);
        others.filter_map(|(pid, line)| Some(format!("process {pid} ({line}): {}", self.has(pid, &line)?))).collect()
    }

    fn has(&self, pid: u32, line: &str) -> Option<String> {
        if self.is_in(line) {
            return Some("its command line".to_owned());
        }
        let proc = PathBuf::from(format!("/proc/{pid}"));
        if read(proc.join("cgroup")).contains(&format!("stack-{}", self.key)) {
            return Some("its control group".to_owned());
        }
        let mounts = read(proc.join("mountinfo"));
        let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/"));
        if root.is_some_and(|line| self.is_in(line)) {
            return Some("its root".to_owned());
        }
        let links = ["cwd", "exe"].map(|link| proc.join(link));
        let open = links.into_iter().chain(entries(&proc.join("fd"))).filter_map(|link| fs::read_link(link).ok());
        open.map(|target| target.display().to_string()).find(|target| self.is_in(target))
    }

    fn sockets(&self) -> Vec<String> {
        read("/proc/net/unix").lines().filter(|line| self.is_in(line)).map(|line| format!("socket {line}")).collect()
    }

    /// Of the network namespace of this thread; /sys may show another one's.
    fn links(&self) -> Vec<String> {
        let listed = Command::new("ip").args(["-o", "link"]).output().expect("ip");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let links = listed.lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned);
        let links = links.chain(entries(Path::new("/run/netns")).into_iter().map(|path| name(&path)));
        links.filter(|name| name.contains(&self.key)).map(|name| format!("link {name}")).collect()
    }

    /// In any table: what names our table, our links or our groups.
    fn rules(&self) -> Vec<String> {
        let listed = Command::new("nft").args(["list", "ruleset"]).output().expect("nft");
        assert!(listed.status.success(), "nft list ruleset: {}", String::from_utf8_lossy(&listed.stderr));
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        text.lines().filter(|line| line.contains(&self.key)).map(|line| format!("rule {}", line.trim())).collect()
    }

    /// In every hierarchy that this host has mounted.
    fn groups(&self) -> Vec<String> {
        let mounts = read("/proc/thread-self/mountinfo");
        let is_hierarchy = |line: &&str| line.split(" - ").nth(1).is_some_and(|kind| kind.starts_with("cgroup"));
        let places: Vec<&str> = mounts.lines().filter(is_hierarchy).filter_map(|line| line.split(' ').nth(4)).collect();
        assert!(!places.is_empty(), "no control groups are mounted:\n{mounts}");
        let mut found = Vec::new();
        for place in places {
            self.groups_below(Path::new(place), &mut found);
        }
        found
    }

    fn groups_below(&self, directory: &Path, found: &mut Vec<String>) {
        for group in entries(directory).into_iter().filter(|path| path.is_dir()) {
            if name(&group).contains(&self.key) {
                found.push(format!("group {}", group.display()));
            }
            self.groups_below(&group, found);
        }
    }
}

/// Below the volatile root only locks may stay, and what was found out about the host. Below the durable one nothing of containers and networks, and nothing
/// half made.
fn files(roots: &Roots) -> Vec<String> {
    let mut left = Vec::new();
    for directory in ["containers", "netns", "files", "outside"] {
        left.extend(entries(&roots.run.join(directory)));
    }
    for entry in entries(&roots.run) {
        left.extend((!entry.is_dir() && name(&entry) != "users.json").then_some(entry));
    }
    for directory in ["containers", "endpoints", "networks", "images/tmp", "ids", "ids.making", ".stack-users"] {
        // What the engine's own IPv6 addresses begin with is no network's.
        let is_prefix = |path: &PathBuf| directory == "networks" && name(path) == "prefix";
        left.extend(entries(&roots.root.join(directory)).into_iter().filter(|path| !is_prefix(path)));
    }
    half_made(&roots.root, &mut left);
    left.into_iter().map(|path| format!("file {}", path.display())).collect()
}

fn half_made(directory: &Path, left: &mut Vec<PathBuf>) {
    for entry in entries(directory) {
        let name = name(&entry);
        let is_data = ["_data", "fs"].contains(&name.as_str());
        if name.starts_with('.') && name.ends_with(".new") || name == "populating" {
            left.push(entry);
        } else if entry.is_dir() && !entry.is_symlink() && !is_data {
            half_made(&entry, left);
        }
    }
}
