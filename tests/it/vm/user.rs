//! An ordinary user in the machine: with a group of control groups of version 2 that is the user's to divide, and without.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use stack::runtime::roots::Roots;

use super::assert_in_the_machine;
use super::inside::setting;
use crate::support::{Output, World, eventually, finish};

const UID: u32 = 1000;
const MOUNT: &str = "/sys/fs/cgroup";
/// What no host has set unless it means to.
const SWITCH: &str = "/proc/sys/kernel/unprivileged_userns_clone";

/// Where the user logs in, and the group that a login begins in.
struct User {
    world: World,
    group: PathBuf,
}

impl User {
    /// As systemd delegates: the directory and three of its files are the user's.
    fn with_group(name: &str) -> Self {
        let user = Self::without_group(name);
        for controller in ["memory", "cpu", "cpuset", "pids", "io"] {
            // As many as this kernel has.
            fs::write(Path::new(MOUNT).join("cgroup.subtree_control"), format!("+{controller}")).ok();
        }
        for file in [".", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            chown(user.group.join(file), Some(UID), Some(UID)).unwrap();
        }
        user
    }

    fn without_group(name: &str) -> Self {
        let world = World::new();
        let home = world.directory.join("home");
        fs::create_dir_all(home.join("run")).unwrap();
        for directory in [home.join("run"), home] {
            chown(&directory, Some(UID), Some(UID)).unwrap();
            fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();
        }
        let group = Path::new(MOUNT).join(name);
        fs::create_dir(&group).unwrap();
        Self { world, group }
    }

    fn roots(&self) -> Roots {
        let home = self.world.directory.join("home");
        Roots::new(home.join(".local/share/stack"), home.join("run/stack"))
    }

    fn run(&self, words: &[&str]) -> Output {
        let home = self.world.directory.join("home");
        let mut command = Command::new(&self.world.roots.program);
        command.args(words).env("HOME", &home).env("XDG_RUNTIME_DIR", home.join("run")).current_dir(&home);
        command.uid(UID).gid(UID).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // What may be moved is decided by who opened the file.
        let mut procs = File::options().write(true).open(self.group.join("cgroup.procs"));
        if procs.is_err() || !setting(&self.group, "cgroup.subtree_control").is_empty() {
            procs = File::options().write(true).open(self.group.join("stack-others/cgroup.procs"));
        }
        let mut procs = procs.unwrap();
        // SAFETY: only a system call is made between fork and exec.
        unsafe { command.pre_exec(move || procs.write_all(b"0")) };
        finish(command.spawn().unwrap(), words)
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.code, 0, "{words:?}: {output:?}");
        output.stdout
    }

    /// The group of the only container.
    fn container(&self) -> PathBuf {
        let own = self.group.join(format!("stack-{}", self.roots().key()));
        let entries = fs::read_dir(&own).unwrap().map(|entry| entry.unwrap().path());
        let mut groups = entries.filter(|path| path.is_dir());
        groups.next().expect("a container has a group")
    }

    /// Nothing of the user's runs any more, and no group of the engine's is there.
    fn leaves_nothing(&self) {
        let is_ours = |entry: &fs::DirEntry| entry.metadata().is_ok_and(|data| data.uid() == UID);
        let none = || fs::read_dir("/proc").unwrap().flatten().filter(is_ours).count() == 0;
        eventually("nothing of the user's runs", none);
        let groups = fs::read_dir(&self.group).unwrap().flatten().filter(|entry| entry.path().is_dir());
        assert_eq!(groups.map(|entry| entry.path()).collect::<Vec<_>>(), Vec::<PathBuf>::new());
        fs::remove_dir(&self.group).unwrap();
    }
}

#[test]
#[ignore = "needs the machine"]
fn limits_are_set_in_a_delegated_group() {
    assert_in_the_machine();
    let user = User::with_group("delegated");
    let run = ["run", "-d", "--name", "one", "--network", "none"];
    user.ok(&[&run[..], &["-m", "64m", "--cpus", "0.5", "--pids-limit", "100", "builtin:whoami"]].concat());
    let group = user.container();
    let limits = || ["memory.max", "cpu.max", "pids.max"].map(|file| setting(&group, file));
    assert_eq!(limits(), ["67108864", "50000 100000", "100"]);
    let pid = user.ok(&["inspect", "-f", "{{.State.Pid}}", "one"]);
    assert_eq!(setting(&group, "cgroup.procs"), pid.trim());
    user.ok(&["update", "--memory", "96m", "--cpus", "0.25", "one"]);
    assert_eq!(limits(), ["100663296", "25000 100000", "100"]);

    user.ok(&["pause", "one"]);
    assert!(setting(&group, "cgroup.events").contains("frozen 1"));
    user.ok(&["unpause", "one"]);
    assert!(setting(&group, "cgroup.events").contains("frozen 0"));
    let stats: serde_json::Value =
        serde_json::from_str(&user.ok(&["stats", "--no-stream", "--format", "json", "one"])).unwrap();
    assert!(stats[0]["memory_limit_bytes"] == 96 << 20 && stats[0]["pids"] == 1, "{stats}");
    assert!(user.ok(&["top", "one"]).contains("/whoami"));
    let doctor = user.run(&["doctor", "--format", "json"]).stdout;
    assert!(doctor.contains(user.group.to_str().unwrap()), "{doctor}");
    user.ok(&["rm", "-f", "one"]);
    assert!(!group.exists());

    // Who takes more than was given is killed, and nobody else.
    let hog = user.run(&["run", "--rm", "--network", "none", "-m", "32m", "builtin:whoami", "hold", "200"]);
    assert_eq!(hog.code, 137, "{hog:?}");
    user.leaves_nothing();
}

#[test]
#[ignore = "needs the machine"]
fn a_user_without_a_group_is_told() {
    assert_in_the_machine();
    let user = User::without_group("session");
    let said = user.run(&["run", "--rm", "--network", "none", "-m", "64m", "builtin:whoami", "id"]);
    assert!(said.code == 125 && said.stderr.contains("Delegate=yes"), "{said:?}");
    user.ok(&["run", "--rm", "--network", "none", "builtin:whoami", "id"]);
    assert!(user.run(&["doctor"]).stdout.contains("own control group: none is yours"));

    // Of Debian's kernels.
    fs::write(SWITCH, "0").unwrap();
    let (run, doctor) = (user.run(&["ps"]), user.run(&["doctor"]));
    fs::write(SWITCH, "1").unwrap();
    let cure = "as root: `sysctl kernel.unprivileged_userns_clone=1`";
    assert!(run.code == 1 && run.stderr.contains(cure), "{run:?}");
    assert!(doctor.code == 1 && doctor.stdout.contains(cure), "{doctor:?}");
    user.leaves_nothing();
}
