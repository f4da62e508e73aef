//! What this host has of what containers need. Where it can be tried, it is tried: a module that the kernel would load is
//! there, and a file system that refuses is not. What a trial makes, it takes away.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::sys::inotify::{InitFlags, Inotify};

use super::apparmor;
use super::cgroup::Cgroup;
use super::confine;
use super::home::Home;
use super::network;
use super::overlay::{self, Changes};
use super::rootless;
use super::roots::Roots;
use super::{sys, userns};

/// Less than this is no room for an image, in bytes.
const LEAST_SPACE: u64 = 64 << 20;
const LITTLE_SPACE: u64 = 1 << 30;
/// Each container takes one, and each command that waits for something.
const FEW_WATCHERS: u64 = 64;
const FEW_FILES: u64 = 1024;
const FEW_PROCESSES: u64 = 200;
/// Of what an ordinary user tries in a user namespace, where there is none.
const UNTRIED: &str = "not tried without a user namespace";

/// One thing that is there or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub what: &'static str,
    pub ok: bool,
    /// Containers can't run without it.
    pub needed: bool,
    /// What was found.
    pub found: String,
    /// Where it is not so: what that means, and how it is mended.
    pub means: &'static str,
    pub mend: String,
}

/// What was found, or what is wrong.
type Found = Result<String, String>;

pub fn fact(what: &'static str, needed: bool, found: Found, means: &'static str, mend: impl Into<String>) -> Fact {
    let (ok, found) = match found {
        Ok(found) => (true, found),
        Err(found) => (false, found),
    };
    Fact { what, ok, needed, found, means, mend: mend.into() }
}

fn when(holds: bool, found: impl Into<String>, otherwise: impl Into<String>) -> Found {
    if holds { Ok(found.into()) } else { Err(otherwise.into()) }
}

/// All facts about this host, for an engine at these roots.
/// `search` is where programs are looked for.
pub fn probe(roots: &Roots, search: &OsStr) -> Vec<Fact> {
    let root = nix::unistd::geteuid();
    // What such a root may do is seen by what it tries.
    let is_host = read("/proc/self/uid_map").split_whitespace().eq(["0", "0", "4294967295"]);
    let mut facts = vec![
        fact(
            "root",
            true,
            Ok(match (root.is_root(), is_host) {
                (true, true) => "uid 0".to_owned(),
                (true, false) => "uid 0 of a user namespace".to_owned(),
                (false, _) => format!("uid {root}, in a user namespace of its own"),
            }),
            "",
            "",
        ),
        kernel(),
        overlayfs(roots),
        control_groups(roots),
        namespaces(),
        fact(
            "seccomp",
            true,
            when(Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(), "", "not there"),
            "system calls can't be kept from containers",
            "in the kernel's configuration: CONFIG_SECCOMP_FILTER",
        ),
        landlock(),
        nftables(),
        links(),
        space(roots),
    ];
    facts.extend(limits());
    facts.extend(apparmor::state(roots).map(profiles));
    if !root.is_root() {
        facts.extend(rootless::facts::facts(roots, search));
    }
    facts.push(fact(
        "user namespaces",
        false,
        if root.is_root() && is_host { of_containers(roots) } else { user_namespaces() },
        "root of a container is root on the host, without its capabilities; `userns_mode: private` fails",
        "Linux 5.19 or later, with CONFIG_USER_NS; `sysctl user.max_user_namespaces=10000`; the engine's files on ext4, \
         xfs or btrfs",
    ));
    facts
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn number(path: &str) -> Option<u64> {
    read(path).parse().ok()
}

fn kernel() -> Fact {
    let release = read("/proc/sys/kernel/osrelease");
    fact(
        "kernel",
        true,
        when(newer(&release, (5, 12)), &*release, format!("Linux {release}")),
        "mount_setattr(2), by which mounts get their flags, is not there",
        "run Linux 5.12 or later",
    )
}

/// Whether `6.1.0-18-amd64` is at least this.
fn newer(release: &str, least: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= least
}

/// The directory, or what there is of the way to it.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn overlayfs(roots: &Roots) -> Fact {
    let place = existing(&roots.root);
    let module = "`modprobe overlay`; in the kernel's configuration: CONFIG_OVERLAY_FS".to_owned();
    let elsewhere = format!(
        "keep the engine's files on ext4, xfs or btrfs, writable and with extended attributes: `--root DIR` or \
         STACK_ROOT instead of {}",
        roots.root.display()
    );
    let is_root = nix::unistd::geteuid().is_root();
    let tried = if is_root { Some(try_overlay(&place)) } else { rootless::trial::alone(|| try_overlay(&place)) };
    let (found, mend) = match tried {
        None => (Ok(UNTRIED.into()), module),
        Some(Ok(())) => (Ok(format!("works in {}", place.display())), module),
        Some(Err(error)) if error.raw_os_error() == Some(libc::ENODEV) => {
            (Err("the kernel has no overlayfs".to_owned()), module)
        }
        Some(Err(error)) => (Err(format!("not in {}: {error}", place.display())), elsewhere),
    };
    fact("overlayfs", true, found, "containers can't have a file system of their own on top of an image's", mend)
}

/// Stacks two directories beside the engine's own, and writes into the stack.
fn try_overlay(place: &Path) -> io::Result<()> {
    let here = place.join(format!(".stack-doctor-{}", std::process::id()));
    let tried = (|| {
        let [low, lower, upper, work] = ["low", "lower", "upper", "work"].map(|name| here.join(name));
        for directory in [&low, &lower, &upper, &work] {
            fs::create_dir_all(directory)?;
        }
        let tree = overlay::open(&[low, lower], Some(Changes { upper: &upper, work: &work }))?;
        nix::sys::stat::mkdirat(&tree, "made", nix::sys::stat::Mode::S_IRWXU)?;
        Ok(())
    })();
    match fs::remove_dir_all(&here) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => tried.and(Err(error)),
        _ => tried,
    }
}

fn control_groups(roots: &Roots) -> Fact {
    let home = Home::of(roots, "");
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let above = home.as_ref().filter(|home| unified && home.exists()).map(|home| home.path() + "/");
    let name = format!("stack-{}-doctor-{}", roots.key(), std::process::id());
    let group = Cgroup::named(&(above.unwrap_or_default() + &name));
    let manager = match home {
        Some(home) => format!(", by systemd in {}", home.path()),
        None => ", by this program alone".to_owned(),
    };
    let version = if unified { "version 2" } else { "version 1" };
    let means = "processes of a container can't be counted, limited or ended together";
    let (found, mend) = if group.hierarchies().is_empty() {
        (Err("none is mounted at /sys/fs/cgroup".to_owned()), "`mount -t cgroup2 none /sys/fs/cgroup`")
    } else if nix::unistd::geteuid().is_root() {
        let tried = group.create().and_then(|()| group.remove()).map_err(|error| error.to_string());
        (
            tried.map(|()| controllers(version, &manager)),
            "`mount -o remount,rw /sys/fs/cgroup`; in a container: give it a writable one",
        )
    } else {
        (Ok(version.to_owned()), "")
    };
    fact("control groups", true, found, means, mend)
}

/// With those that limits need and that are not there.
fn controllers(version: &str, manager: &str) -> String {
    let unified = read("/sys/fs/cgroup/cgroup.controllers");
    let has = |name: &str| match version {
        "version 2" => unified.split_whitespace().any(|word| word == name),
        _ => Path::new("/sys/fs/cgroup").join(name).join("cgroup.procs").exists(),
    };
    let absent: Vec<&str> = ["memory", "cpu", "pids"].into_iter().filter(|name| !has(name)).collect();
    match absent.as_slice() {
        [] => format!("{version}{manager}"),
        absent => format!("{version}{manager}, without {}: such limits fail", absent.join(" and ")),
    }
}

fn namespaces() -> Fact {
    let absent = |name: &&str| !Path::new("/proc/self/ns").join(name).exists();
    let forbidden = |name: &&str| number(&format!("/proc/sys/user/max_{name}_namespaces")) == Some(0);
    let all = ["mnt", "pid", "net", "ipc", "uts", "cgroup"];
    let lacking: Vec<&str> = all.into_iter().filter(|name| absent(name) || forbidden(name)).collect();
    fact(
        "namespaces",
        true,
        when(lacking.is_empty(), "", format!("not of {}", lacking.join(", "))),
        "containers would see the host's",
        "`sysctl user.max_NAME_namespaces`; else the kernel was built without",
    )
}

/// As containers get them by default.
fn of_containers(roots: &Roots) -> Found {
    userns::trial::look(&roots.root).map_or_else(|| Ok("root of a container is nobody on the host".to_owned()), Err)
}

fn user_namespaces() -> Found {
    let most = number("/proc/sys/user/max_user_namespaces").unwrap_or(0);
    when(Path::new("/proc/self/ns/user").exists() && most > 0, "", "not there")
}

fn landlock() -> Fact {
    let version = sys::landlock_version();
    let works = version >= confine::LEAST_LANDLOCK;
    fact(
        "landlock",
        false,
        when(works, format!("version {version}"), "not in use, or too old"),
        "what unpacks layers and asks containers is kept from system calls, but not from other files",
        "Linux 5.19 or later, with CONFIG_SECURITY_LANDLOCK, and `landlock` among those of `lsm=`",
    )
}

fn profiles(found: Found) -> Fact {
    fact(
        "apparmor",
        false,
        found,
        "containers that name no profile have none; all that theirs would forbid is forbidden by other means, too",
        "`apt install apparmor`; `mount -t securityfs none /sys/kernel/security`; run as root, without a profile",
    )
}

fn nftables() -> Fact {
    fact(
        "nftables",
        true,
        alone(network::tables_work),
        "ports can't be published, and containers can't reach the outside; `--network none` and `host` would work",
        "`modprobe nf_tables`; in the kernel's configuration: CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT",
    )
}

fn links() -> Fact {
    fact(
        "bridges",
        true,
        alone(network::links_work),
        "containers can't be connected; `--network none` and `host` would work",
        "`modprobe bridge veth`; after an upgrade of the kernel, reboot; in its configuration: CONFIG_BRIDGE, CONFIG_VETH",
    )
}

/// In a network namespace of a thread's own, which ends with it; of an ordinary user, in a process of its own.
fn alone(trial: fn() -> io::Result<()>) -> Found {
    if !nix::unistd::geteuid().is_root() {
        let tried = rootless::trial::alone(trial).map(|tried| tried.map(|()| String::new()));
        return tried.unwrap_or(Ok(UNTRIED.into())).map_err(|error| error.to_string());
    }
    let tried =
        thread::spawn(move || unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| trial()));
    let tried = tried.join().unwrap_or_else(|_| Err(io::Error::other("the trial failed")));
    tried.map(|()| String::new()).map_err(|error| error.to_string())
}

fn space(roots: &Roots) -> Fact {
    let place = existing(&roots.root);
    let means = "images can't be unpacked, and containers can't write";
    let mend = "`stack system prune --all` makes room; `--root DIR` or STACK_ROOT is another place";
    let Ok(disk) = nix::sys::statvfs::statvfs(&place) else {
        return fact("space", true, Err(format!("{} can't be asked", place.display())), means, mend);
    };
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    let no_files = disk.files() > 0 && disk.files_available() < 1000;
    let found = format!("{} MiB free in {}{}", free >> 20, place.display(), if no_files { ", no files" } else { "" });
    let needed = free < LEAST_SPACE || no_files;
    fact("space", needed, when(free >= LITTLE_SPACE && !no_files, found.clone(), found), means, mend)
}

/// What wears out with many containers.
fn limits() -> Vec<Fact> {
    let watches = Inotify::init(InitFlags::IN_CLOEXEC);
    let instances = number("/proc/sys/fs/inotify/max_user_instances").unwrap_or(u64::MAX);
    let inotify = match &watches {
        Ok(_) => when(instances >= FEW_WATCHERS, "", format!("{instances} at most")),
        Err(error) => Err(error.to_string()),
    };
    let files = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard);
    let processes = processes_left();
    vec![
        fact(
            "inotify",
            watches.is_err(),
            inotify,
            "commands that wait for containers, and `stack watch`, can't hear of changes",
            "`sysctl fs.inotify.max_user_instances=1024 fs.inotify.max_user_watches=1048576`",
        ),
        fact(
            "open files",
            false,
            when(files >= FEW_FILES, "", format!("{files} at most")),
            "pulls and large stacks run out of them",
            "`ulimit -Hn 1048576`, or LimitNOFILE= of the service that starts this",
        ),
        fact(
            "processes",
            processes == Some(0),
            when(processes.is_none_or(|left| left >= FEW_PROCESSES), "", format!("{} left", processes.unwrap_or(0))),
            "containers start until there are no more, and then fail",
            "raise pids.max of the control group that this runs in (TasksMax= of its service), kernel.pid_max and \
             kernel.threads-max",
        ),
    ]
}

/// How many more the control group of this process allows, and those above it.
fn processes_left() -> Option<u64> {
    let groups = read("/proc/self/cgroup");
    let own = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        match (parts.next()?, parts.next()?) {
            ("", path) => Some(Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'))),
            ("pids", path) => Some(Path::new("/sys/fs/cgroup/pids").join(path.trim_start_matches('/'))),
            _ => None,
        }
        .filter(|place| place.join("pids.max").exists())
    });
    let left = |place: &Path| {
        let read = |file: &str| fs::read_to_string(place.join(file)).ok()?.trim().parse::<u64>().ok();
        Some(read("pids.max")?.saturating_sub(read("pids.current")?))
    };
    let of_groups = own.iter().flat_map(|own| own.ancestors()).filter_map(left).min();
    let of_kernel = number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max"));
    match (of_groups, of_kernel) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_by_number() {
        for (release, expected) in [("6.1.0-18-amd64", true), ("5.12.0", true), ("5.4.0", false), ("", false)] {
            assert_eq!(newer(release, (5, 12)), expected, "{release}");
        }
    }
}
