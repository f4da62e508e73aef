//! `stack` as an ordinary user: in a mount namespace whose `/etc` knows a user of the test's, with or without further ids.

mod day_two;
mod host;
mod keeping;
mod outside;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use stack::runtime::roots::Roots;

use crate::support::{World, eventually, free_port, get, leftovers, processes};

/// As many ids as `/etc/subuid` gives to a user.
const MORE: u32 = 65_536;

/// The user's host, where each script is a login of theirs. Dropping it asserts that nothing of the user's is left.
struct User {
    world: World,
    uid: u32,
    ids: bool,
    /// Programs that the host lacks.
    lacks: &'static [&'static str],
    /// What a login goes through first.
    through: String,
}

impl User {
    fn new(ids: bool) -> Self {
        Self::lacking(ids, &[])
    }

    fn lacking(ids: bool, lacks: &'static [&'static str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id() % 400 * 32 + NUMBER.fetch_add(1, Ordering::Relaxed) % 32;
        let user = Self { world: World::new(), uid: 50_000 + number, ids, lacks, through: String::new() };
        fs::set_permissions(&user.world.directory, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["home", "home/run"] {
            user.own_directory(name);
        }
        let program = user.world.directory.join("stack");
        if fs::hard_link(&user.world.roots.program, &program).is_err() {
            fs::copy(&user.world.roots.program, &program).unwrap();
        }
        user
    }

    fn own_directory(&self, name: &str) {
        let directory = self.world.directory.join(name);
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
        chown(&directory, Some(self.uid), Some(self.uid)).unwrap();
    }

    fn home(&self) -> PathBuf {
        self.world.directory.join("home")
    }

    fn roots(&self) -> Roots {
        Roots::new(self.home().join(".local/share/stack"), self.home().join("run/stack"))
    }

    /// The first of the further ids.
    fn first(&self) -> u32 {
        1_000_000_000 + (self.uid - 50_000) * MORE
    }

    /// A login, in which the script is run.
    fn command(&self, script: &str) -> Command {
        let (uid, directory, through) = (self.uid, self.world.directory.display(), &self.through);
        let given = if self.ids { format!("echo {uid}:{}:{MORE}", self.first()) } else { "true".to_owned() };
        let hide = |name: &&str| format!("mount --bind /dev/null $(command -v {name}); ");
        let hidden: String = self.lacks.iter().map(hide).collect();
        let prepare = format!(
            "mount --make-rprivate /; mkdir -p {directory}/e; mount -t tmpfs none {directory}/e; cd {directory}/e
             mknod -m 666 tun c 10 200; {given} > sub; (cat /etc/passwd; echo rootless:x:{uid}:{uid}::/:/bin/sh) > passwd
             touch /etc/subuid /etc/subgid; mount --bind passwd /etc/passwd
             if test -e /dev/net/tun; then mount --bind tun /dev/net/tun; fi
             mount --bind sub /etc/subuid; mount --bind sub /etc/subgid; cd {directory}; {hidden}
             export HOME={directory}/home XDG_RUNTIME_DIR={directory}/home/run PATH={directory}:$PATH
             exec {through} setpriv --reuid {uid} --regid {uid} --clear-groups sh -c \"$1\""
        );
        let mut command = Command::new("unshare");
        for key in ["STACK_ROOT", "STACK_RUN_ROOT", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "DOCKER_CONFIG"] {
            command.env_remove(key);
        }
        command.args(["-m", "sh", "-euc", &prepare, "sh", script]).stdin(Stdio::null());
        command
    }

    /// How the script ended, and all that it printed.
    fn sh(&self, script: &str) -> (bool, String) {
        let output = self.command(script).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    #[track_caller]
    fn ok(&self, script: &str) -> String {
        let (ok, text) = self.sh(script);
        assert!(ok, "{script}: {text}");
        text
    }

    /// Gives what it says; it must fail.
    #[track_caller]
    fn fails(&self, script: &str) -> String {
        let (ok, text) = self.sh(script);
        assert!(!ok, "{script}: {text}");
        text
    }

    /// The user's processes, by their command lines, also those that are other ids of the user's.
    fn processes(&self) -> Vec<(u32, String)> {
        let is_own = |uid: u32| uid == self.uid || (self.ids && (self.first()..self.first() + MORE).contains(&uid));
        let is_alive = |status: &str| !status.contains("\nState:\tZ") && !status.contains("\nState:\tX");
        let is_meant = |pid: u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let uid =
                status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok());
            uid.is_some_and(is_own) && is_alive(&status)
        };
        processes().into_iter().filter(|(pid, _)| is_meant(*pid)).collect()
    }

    /// The processes in whose command lines this is.
    fn pids(&self, words: &str) -> Vec<u32> {
        self.processes().into_iter().filter(|(_, line)| line.contains(words)).map(|(pid, _)| pid).collect()
    }

    /// Kills those, and waits until they have ended.
    fn kill(&self, pids: &[u32]) {
        for pid in pids {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid as i32), nix::sys::signal::Signal::SIGKILL).ok();
        }
        eventually("they are gone", || !self.processes().iter().any(|(pid, _)| pids.contains(pid)));
    }

    fn kill_all(&self) {
        let all: Vec<u32> = self.processes().into_iter().map(|(pid, _)| pid).collect();
        self.kill(&all);
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            eventually("nothing of the user's runs", || self.processes().is_empty());
            let left = leftovers(&self.roots(), &self.home());
            assert!(left.is_empty(), "left behind by the user:\n{}", left.join("\n"));
        }
        self.kill_all();
    }
}

fn stack(port: u16) -> String {
    format!(
        r#"
name: own
containers:
  web:
    image: builtin:whoami
    ports: ["127.0.0.1:{port}:80"]
    volumes: ["data:/data"]
    environment: {{COUNTER_FILE: /data/hits}}
    stop_grace_period: 1s
  peer: {{image: "builtin:whoami", stop_grace_period: 1s}}
volumes: {{data: {{}}}}
"#
    )
}

/// Everything that a stack has, and that nothing of it is anybody's but the user's.
fn a_stack_runs(user: &User) {
    let port = free_port();
    let file = user.world.file("stack.yaml", &stack(port));
    user.ok(&format!("stack apply {}", file.display()));
    eventually("the port is served", || get(port, "/").is_ok());
    assert!(get(port, "/").unwrap().contains("own-web-1"));
    assert!(user.ok("stack exec own-peer-1 /whoami cat /etc/resolv.conf").contains("127.0.0.11"));
    assert!(user.ok("stack ps").contains(&format!("127.0.0.1:{port}->80/tcp")));
    assert!(user.ok(&format!("stack status {}", file.display())).contains("nothing to do"));
    let hits = user.home().join(".local/share/stack/volumes/own_data/_data/hits");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&hits).unwrap()), user.uid);
    user.ok("stack stop own-peer-1; stack rm own-peer-1; stack destroy --volumes --yes=volumes own");
    user.ok("stack volume prune --trash -f");
    assert!(get(port, "/").is_err());
    assert!(!user.ok("stack ps -a").contains("own-"));
}

#[test]
fn a_user_with_one_id_runs_a_stack() {
    let user = User::new(false);
    let map = user.ok("stack run --rm --network none builtin:whoami cat /proc/self/uid_map");
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &user.uid.to_string(), "1"]);
    a_stack_runs(&user);
    let (ok, said) = user.sh("stack run --rm --network none --user 1000 builtin:whoami id");
    assert!(!ok && said.contains("Debian: uidmap"), "{said}");
    // A limit that nothing can keep is refused by its name; the usual ones are left out.
    let (ok, said) = user.sh("stack run --rm --network none --memory 64m builtin:whoami id");
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        assert!(!ok && said.contains("memory") && said.contains("delegated"), "{said}");
    }
    let said = user.ok("stack doctor --format json");
    assert!(said.contains("own user namespace") && said.contains("one: /etc/subuid gives you none"), "{said}");
}

#[test]
fn a_user_with_more_ids_runs_a_stack() {
    let user = User::new(true);
    let map = user.ok("stack run --rm --network none --user 1000 builtin:whoami cat /proc/self/uid_map");
    let words: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(words, ["0", &user.uid.to_string(), "1", "1", &user.first().to_string(), &MORE.to_string()]);
    let said = user.ok("stack run --rm --network none --user 1000 builtin:whoami id");
    assert!(said.contains("Uid:\t1000\t1000"), "{said}");
    a_stack_runs(&user);
}

#[test]
fn places_of_others_are_refused() {
    let user = User::new(false);
    let others = user.world.directory.join("others");
    fs::create_dir(&others).unwrap();
    let (ok, said) = user.sh(&format!("STACK_RUN_ROOT={} stack ps", others.display()));
    assert!(!ok && said.contains("it belongs to uid 0"), "{said}");
    fs::set_permissions(user.home().join("run"), fs::Permissions::from_mode(0o700)).unwrap();
    let (ok, said) = user.sh("mkdir -m 777 $HOME/open; STACK_RUN_ROOT=$HOME/open stack ps");
    assert!(!ok && said.contains("others may write to it"), "{said}");
}
