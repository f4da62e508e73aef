//! Holes of the engine itself: what others reach of its processes and files, and what becomes of these under pressure.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::{image, run};
use crate::support::{World, eventually, finish};

/// The supervisor of this container.
fn supervisor(world: &World, name: &str) -> u32 {
    world.ok(&["inspect", "--format", "{{.Stack.Supervisor}}", name]).trim().parse().unwrap()
}

/// The processes of the engine: those that run its program, and its supervisors, which may sleep in another.
fn processes(world: &World, containers: &[&str]) -> BTreeSet<u32> {
    let program = world.directory.display().to_string();
    let own = crate::support::processes().into_iter().filter(|(_, line)| line.contains(&program));
    own.map(|(pid, _)| pid).chain(containers.iter().map(|name| supervisor(world, name))).collect()
}

fn sockets_of(pid: u32) -> BTreeSet<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    let sockets =
        links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()));
    sockets.collect()
}

/// CVE-2020-15257: whoever shares the host's network sees its abstract sockets. The engine has none, and those with a path
/// can be reached by root of the host alone.
#[test]
fn no_socket_of_the_engine_is_reached_from_a_network() {
    let world = World::new();
    image(&world, "plain", &json!({}), |_| ());
    world.ok(&["run", "-d", "--name", "net", "plain.tar", "sleep", "1000000"]);
    world.ok(&["run", "-d", "--name", "box", "--network", "host", "plain.tar", "sleep", "1000000"]);
    let own: BTreeSet<String> = processes(&world, &["net", "box"]).into_iter().flat_map(sockets_of).collect();
    let seen = world.ok(&["exec", "box", "cat", "/proc/net/unix"]);
    let rows = || seen.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours: Vec<_> = rows().filter(|row| row.get(6).is_some_and(|inode| own.contains(*inode))).collect();
    assert!(!ours.is_empty(), "the test knows no socket of the engine: {own:?}");
    let named: Vec<&str> = ours.iter().filter_map(|row| row.get(7).copied()).collect();
    assert!(named.iter().all(|name| !name.starts_with('@')), "{named:?}");
    // Inside there is no such path; outside nobody but root may connect, though the path is known.
    assert!(named.iter().any(|name| name.starts_with(world.roots.run.to_str().unwrap())), "{named:?}");
    for name in named.iter().filter(|name| name.starts_with('/')) {
        assert_ne!(world.run(&["exec", "box", "test", "-e", name]).code, 0, "{name}");
        assert!(!connects(name, 65_534), "{name}");
    }
    // Not even where somebody has opened the way: a supervisor looks at who asks.
    let socket = named.iter().find(|name| name.contains("/containers/box/")).expect("the supervisor's socket");
    let way: Vec<&Path> = Path::new(socket).ancestors().take_while(|path| path.starts_with(&world.directory)).collect();
    let modes: Vec<_> = way.iter().map(|path| (path, fs::metadata(path).unwrap().permissions())).collect();
    for (path, _) in &modes {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    assert!(!is_answered(socket, 65_534) && is_answered(socket, 0));
    for (path, mode) in modes {
        fs::set_permissions(path, mode).unwrap();
    }
    world.ok(&["rm", "-f", "box", "net"]);
    world.ok(&["network", "rm", "default"]);
}

/// What python3 says as this user.
fn asks(user: u32, script: &str, socket: &str) -> String {
    let mut python = Command::new("python3");
    python.args(["-c", script, socket]).uid(user).gid(user);
    String::from_utf8(python.output().unwrap().stdout).unwrap()
}

fn connects(socket: &str, user: u32) -> bool {
    let script = "import socket,sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1]); print('connected')";
    asks(user, script, socket).contains("connected")
}

/// Whether a supervisor keeps the line open for this user: whom it does not serve it hangs up on.
fn is_answered(socket: &str, user: u32) -> bool {
    let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.settimeout(1)\n\
                  try: print('hung up' if s.recv(1) == b'' else 'answered')\n\
                  except TimeoutError: print('waits')";
    let said = asks(user, script, socket);
    assert!(!said.is_empty());
    !said.contains("hung up")
}

/// All that is below these roots, and who owns it.
fn files(world: &World) -> Vec<(PathBuf, fs::Metadata)> {
    fn add(path: &Path, all: &mut Vec<(PathBuf, fs::Metadata)>) {
        let Ok(data) = fs::symlink_metadata(path) else { return };
        if data.is_dir() {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.for_each(|entry| add(&entry.path(), all));
        }
        all.push((path.to_owned(), data));
    }
    let mut all = Vec::new();
    add(&world.roots.root, &mut all);
    add(&world.roots.run, &mut all);
    all
}

/// CVE-2021-21284: root of a user namespace is an ordinary user of the host. What it owns there is nothing that the engine
/// believes, and it reaches no file of the engine's: neither those, nor what containers have made setuid.
#[test]
fn the_user_that_root_inside_is_outside_reaches_nothing() {
    let world = World::new();
    image(&world, "plain", &json!({}), |_| ());
    world.file("stack.yaml", "name: own\nimages: {shell: {rootfs: ./plain}}\ncontainers:\n  box: {image: shell, command: [/bin/sleep, '1000000'], \
        userns_mode: private, network_mode: none, stop_grace_period: 0s, volumes: ['data:/data'], secrets: [key]}\n\
        secrets: {key: {content: hidden}}\nvolumes: {data: {}}\n");
    world.ok(&["apply"]);
    let inside =
        "for d in / /data /tmp; do /bin/busybox cp /bin/probe $d/raised; /bin/busybox chmod 4755 $d/raised; done";
    world.ok(&["exec", "-e", "PATH=/bin", "own-box-1", "sh", "-c", inside]);
    let pid = world.field("own-box-1", "pid");
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    let first: u32 = map.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_ne!(first, 0);
    fs::set_permissions(&world.directory, fs::Permissions::from_mode(0o755)).unwrap();
    let all = files(&world);
    let raised = all.iter().filter(|(path, data)| path.ends_with("raised") && data.mode() & 0o4000 != 0).count();
    assert!(raised >= 2, "the test made no setuid files: {raised}");
    for root in [&world.roots.root, &world.roots.run] {
        let found = Command::new("find").arg(root).args(["-mindepth", "1"]).uid(first).gid(first).output().unwrap();
        assert!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
    }
    // What it owns is what was made for it to read: files that are mounted in the container, no directory among them.
    let is_of_it = |data: &fs::Metadata| (first..first + 65_536).contains(&data.uid());
    let read = ["files/own-box-1/", "containers/own-box-1/"].map(|place| world.roots.run.join(place));
    for (path, data) in all.iter().filter(|(_, data)| is_of_it(data)) {
        let is_for_it =
            data.is_file() && data.mode() & 0o222 & !0o200 == 0 && read.iter().any(|place| path.starts_with(place));
        assert!(is_for_it, "{} is owned by root of the container", path.display());
    }
    world.ok(&["destroy", "own", "--volumes", "--yes=volumes"]);
}

/// CVE-2022-0847 and its class: what an image is made of is the same after a container has done what it could to it.
#[test]
fn layers_are_nobodys_to_change() {
    let world = World::new();
    image(&world, "plain", &json!({}), |_| ());
    let layers = || {
        let all = files(&world)
            .into_iter()
            .filter(|(path, data)| path.starts_with(world.roots.root.join("images/layers")) && data.is_file());
        all.map(|(path, data)| {
            (stack::reconcile::facts::hash(&fs::read(&path).unwrap()), data.mode(), data.uid(), path)
        })
        .collect::<BTreeSet<_>>()
    };
    let before = layers();
    assert!(before.len() > 3, "{before:?}");
    // busybox itself cannot be written to while it runs; a copy of it does the work.
    let script = "/bin/busybox cp /bin/busybox /tmp/b; for f in /bin/probe /etc/passwd /etc/group; do echo evil >>$f; \
                  /tmp/b chmod 0 $f; /tmp/b chown 7 $f; done; /tmp/b rm -rf /bin /etc; /tmp/b mkdir /bin; echo evil >/bin/sh; echo over";
    for users in ["host", "private"] {
        let output = run(&world, &["--userns", users, "--cap-add", "ALL"], "plain", &["sh", "-c", script]);
        assert_eq!(output.stdout, "over\n", "{users}: {output:?}");
        assert_eq!(layers(), before, "{users}");
    }
    world.ok(&["image", "verify"]);
}

/// CVE-2023-25809: who sees the host's tree of control groups does not write to it.
#[test]
fn control_groups_are_read_only_from_wherever_they_are_seen() {
    let world = World::new();
    image(&world, "plain", &json!({}), |_| ());
    let script = "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do test -d $d || continue; mkdir $d/evil; echo 1 >$d/cgroup.procs; \
                  echo 1 >$d/notify_on_release; done; echo over";
    let refused = run(&world, &["--cgroupns", "host"], "plain", &["sh", "-c", script]);
    assert!(refused.code == 125 && refused.stderr.contains("control groups of their own"), "{refused:?}");
    for flags in [&["--userns", "host"][..], &["--cgroupns", "private"], &["--userns", "private"]] {
        let output = run(&world, flags, "plain", &["sh", "-c", script]);
        assert_eq!(output.stdout, "over\n", "{flags:?}: {output:?}");
        let refused = |line: &str| line.contains("Read-only file system") || line.contains("nonexistent directory");
        assert!(output.stderr.lines().count() >= 3 && output.stderr.lines().all(refused), "{flags:?}: {output:?}");
    }
}

/// CVE-2023-25173, CVE-2022-36109, CVE-2022-2990: a user has the groups of the image's files and those that are added, and
/// no others: both for what a group may and for what a group alone may not.
#[test]
fn groups_are_those_of_the_files_and_those_that_are_added() {
    let world = World::new();
    image(&world, "plain", &json!({}), |root| {
        fs::write(root.join("etc/group"), "root:x:0:\napp:x:1000:\nmembers:x:2000:app\nothers:x:3000:\n").unwrap();
        for (name, group, mode) in [("for", 2000, 0o070), ("added", 3000, 0o070), ("against", 3000, 0o707)] {
            let path = root.join(name);
            fs::write(&path, format!("{name}\n")).unwrap();
            std::os::unix::fs::chown(&path, Some(0), Some(group)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    });
    let script = "id -G; cat /for /added /against 2>/dev/null; true";
    for (flags, groups, read) in [
        (&["-u", "app"][..], "1000 2000", "for\nagainst\n"),
        (&["-u", "1000"], "1000 2000", "for\nagainst\n"),
        // Who names a group has that one alone.
        (&["-u", "app:app"], "1000", "against\n"),
        (&["-u", "app", "--group-add", "others"], "1000 2000 3000", "for\nadded\n"),
        (&["-u", "1000:1000", "--group-add", "3000"], "1000 3000", "added\n"),
        (&["-u", "4000"], "0", "against\n"),
    ] {
        let words = ["sh", "-c", script];
        let output = run(&world, flags, "plain", &words);
        assert_eq!(output.stdout, format!("{groups}\n{read}"), "{flags:?}: {output:?}");
    }
    world.ok(&[
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "none",
        "--group-add",
        "others",
        "plain.tar",
        "sleep",
        "1000000",
    ]);
    let joined = world.ok(&["exec", "-u", "app", "box", "sh", "-c", script]);
    assert!(joined == "1000 2000 3000\nfor\nadded\n" || joined == "1000 2000\nfor\nagainst\n", "{joined}");
    world.ok(&["rm", "-f", "box"]);
}

fn score(pid: u32) -> i32 {
    fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
}

/// Bombs of memory and of processes in three containers: the engine, its supervisors and the neighbour go on.
#[test]
fn bombs_end_their_own_container_and_nothing_else() {
    let world = World::new();
    image(&world, "plain", &json!({}), |_| ());
    let memory = "a=xxxxxxxxxxxxxxxx; while :; do a=$a$a; done";
    // The first process needs none of the others.
    let processes = "f() { f | f & }; g() { while :; do f; done; }; g & exec sleep 1000000";
    // By somebody whom the kernel would choose soon.
    let mut start = Command::new("sh");
    start.args(["-c", "echo 500 >/proc/self/oom_score_adj && exec \"$0\" \"$@\""]).arg(&world.roots.program);
    start.env("STACK_ROOT", &world.roots.root).env("STACK_RUN_ROOT", &world.roots.run).stdout(Stdio::null());
    start.args(["run", "-d", "--name", "calm", "plain.tar", "sleep", "1000000"]);
    assert!(start.status().unwrap().success());
    for (name, script) in [("memory", memory), ("forks", processes), ("both", processes)] {
        let limits = ["-m", "48m", "--pids-limit", if name == "both" { "256" } else { "64" }, "--cpus", "0.5"];
        let box_ = ["run", "-d", "--name", name, "--network", "none"];
        world.ok(&[&box_[..], &limits, &["plain.tar", "sh", "-c", script]].concat());
    }
    let supervisors = ["calm", "forks", "both"].map(|name| supervisor(&world, name));
    eventually("the kernel ends who takes too much", || {
        world.field("memory", "status").as_str().is_some_and(|text| text.starts_with("Exited (137)"))
    });
    assert_eq!(world.ok(&["inspect", "--format", "{{.State.OOMKilled}}", "memory"]), "true\n");
    // A command takes its way through all of them.
    assert_eq!(world.ok(&["exec", "calm", "echo", "there"]), "there\n");
    // Where the host withholds the capability for it, it is as that of others.
    let mut lower = Command::new("sh");
    let lower = lower.args(["-c", "echo -999 >/proc/self/oom_score_adj"]).stderr(Stdio::null());
    let least = if lower.status().unwrap().success() { -999 } else { 0 };
    let servers = crate::support::processes().into_iter();
    let of_this = |line: &str| line.contains(" netd ") && line.contains(&*world.directory.to_string_lossy());
    let servers: Vec<u32> = servers.filter(|(_, line)| of_this(line)).map(|(pid, _)| pid).collect();
    assert!(servers.len() > 1 && servers.iter().all(|pid| score(*pid) == least), "{servers:?}");
    for (name, pid) in ["calm", "forks", "both"].into_iter().zip(supervisors) {
        assert_eq!(supervisor(&world, name), pid, "another supervisor for {name}");
        assert_eq!(score(pid), least, "{name}");
        assert_eq!(score(world.field(name, "pid").as_i64().unwrap() as u32), 0, "{name}");
    }
    world.ok(&["rm", "-f", "calm", "memory", "forks", "both"]);
    world.ok(&["network", "rm", "default"]);
}

/// CVE-2020-14370: a hundred containers at once, each with a variable of its own.
#[test]
fn the_environments_of_containers_made_at_once_do_not_mix() {
    let world = World::new();
    image(&world, "plain", &json!({}), |_| ());
    let start = |number: usize| -> Child {
        let own = format!("OWN_{number}=value-{number}");
        let words = ["run", "--rm", "--network", "none", "-e", &own, "plain.tar", "/bin/busybox", "env"];
        let mut command = world.command(&words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<Child> = (0..100).map(start).collect();
    for (number, child) in children.into_iter().enumerate() {
        let output = finish(child, &["run"]);
        let own: Vec<&str> = output.stdout.lines().filter(|line| line.starts_with("OWN_")).collect();
        assert_eq!(own, [format!("OWN_{number}=value-{number}")], "{output:?}");
    }
}
