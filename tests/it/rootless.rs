//! `stack` as an ordinary user: in a mount namespace whose `/etc` knows a user of the test's, with or without further ids.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{World, eventually, free_port, get};

const UID: u32 = 54_321;

/// The user's host, where each script is a login of theirs.
struct User {
    world: World,
    ids: bool,
}

impl User {
    fn new(ids: bool) -> Self {
        let world = World::new();
        fs::set_permissions(&world.directory, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["home", "home/run"] {
            fs::create_dir(world.directory.join(name)).unwrap();
            fs::set_permissions(world.directory.join(name), fs::Permissions::from_mode(0o700)).unwrap();
            chown(world.directory.join(name), Some(UID), Some(UID)).unwrap();
        }
        let program = world.directory.join("stack");
        fs::copy(&world.roots.program, &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { world, ids }
    }

    fn home(&self) -> PathBuf {
        self.world.directory.join("home")
    }

    /// How the script ended, and all that it printed.
    fn sh(&self, script: &str) -> (bool, String) {
        let directory = self.world.directory.display();
        let given = if self.ids { format!("echo {UID}:200000:65536") } else { "true".to_owned() };
        let prepare = format!(
            "mount --make-rprivate /; mkdir -p {directory}/e; mount -t tmpfs none {directory}/e; cd {directory}/e
             mknod -m 666 tun c 10 200; {given} > sub; (cat /etc/passwd; echo rootless:x:{UID}:{UID}::/:/bin/sh) > passwd
             touch /etc/subuid /etc/subgid; mount --bind passwd /etc/passwd
             if test -e /dev/net/tun; then mount --bind tun /dev/net/tun; fi
             mount --bind sub /etc/subuid; mount --bind sub /etc/subgid; cd {directory}
             export HOME={directory}/home XDG_RUNTIME_DIR={directory}/home/run PATH={directory}:$PATH
             exec setpriv --reuid {UID} --regid {UID} --clear-groups sh -c \"$1\""
        );
        let words = ["-m", "sh", "-euc", &prepare, "sh", script];
        let mut command = Command::new("unshare");
        for key in ["STACK_ROOT", "STACK_RUN_ROOT", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env_remove(key);
        }
        let output = command.args(words).stdin(Stdio::null()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    #[track_caller]
    fn ok(&self, script: &str) -> String {
        let (ok, text) = self.sh(script);
        assert!(ok, "{script}: {text}");
        text
    }

    /// The process that keeps the user's namespaces.
    fn holders(&self) -> Vec<String> {
        let home = self.home().display().to_string();
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().into_string().ok());
        let is_meant = |pid: &String| {
            let words = fs::read_to_string(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
            words.contains(&home)
        };
        pids.filter(|pid| pid.parse::<u32>().is_ok()).filter(is_meant).collect()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        for pid in self.holders() {
            Command::new("kill").args(["-9", &pid]).status().unwrap();
        }
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
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&hits).unwrap()), UID);
    user.ok("stack stop own-peer-1; stack rm own-peer-1; stack destroy --volumes --yes=volumes own");
    assert!(get(port, "/").is_err());
    assert!(!user.ok("stack ps -a").contains("own-"));
}

#[test]
fn a_user_with_one_id_runs_a_stack() {
    let user = User::new(false);
    let map = user.ok("stack run --rm --network none builtin:whoami cat /proc/self/uid_map");
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &UID.to_string(), "1"]);
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
    assert_eq!(words, ["0", &UID.to_string(), "1", "1", "200000", "65536"]);
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
