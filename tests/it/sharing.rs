//! Containers that live in namespaces of others.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{World, eventually};

const STACK: &str = r#"
name: pair
containers:
  owner:
    image: builtin:whoami
    command: [sleep, forever]
    networks: [net]
    stop_grace_period: 1s
  guest:
    image: builtin:whoami
    command: [sleep, forever]
    pid: "service:owner"
    ipc: "service:owner"
    network_mode: "service:owner"
    stop_grace_period: 1s
networks: {net: {}}
"#;

fn namespace(world: &World, container: &str, kind: &str) -> String {
    let pid = world.field(container, "pid");
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
}

#[track_caller]
fn together(world: &World) {
    for kind in ["pid", "ipc", "net"] {
        assert_eq!(namespace(world, "pair-owner-1", kind), namespace(world, "pair-guest-1", kind), "{kind}");
    }
    for kind in ["mnt", "uts", "cgroup"] {
        assert_ne!(namespace(world, "pair-owner-1", kind), namespace(world, "pair-guest-1", kind), "{kind}");
    }
}

#[test]
fn a_container_shares_what_it_asks_for_and_nothing_else() {
    let world = World::new();
    let file = world.file("stack.yaml", STACK);
    let file = file.to_str().unwrap();
    world.ok(&["apply", file]);
    together(&world);
    world.ok(&["exec", "pair-owner-1", "/whoami", "write", "/dev/shm/word", "shared"]);
    assert_eq!(world.ok(&["exec", "pair-guest-1", "/whoami", "cat", "/dev/shm/word"]), "shared\n");
    world.fails(1, &["exec", "pair-guest-1", "/whoami", "cat", "/etc/nosuch"]);
    // Whoever lives in another's namespaces is started again with it.
    let changed = world.file("stack.yaml", &STACK.replacen("networks: [net]", "networks: [net]\n    tty: true", 1));
    let plan = world.ok(&["plan", changed.to_str().unwrap()]);
    assert!(plan.contains("container/owner-1 is restarted"), "{plan}");
    world.ok(&["apply", file]);
    together(&world);
    world.ok(&["plan", "--detailed-exitcode", file]);
    world.ok(&["destroy", "pair"]);
}

#[test]
fn what_shares_follows_its_owner_when_that_is_killed() {
    let world = World::new();
    let text = STACK.replace("stop_grace_period: 1s", "stop_grace_period: 1s\n    restart: always");
    let file = world.file("stack.yaml", &text);
    world.ok(&["apply", file.to_str().unwrap()]);
    let pid = world.field("pair-owner-1", "pid");
    kill(Pid::from_raw(pid.as_i64().unwrap() as i32), Signal::SIGKILL).unwrap();
    eventually("both run again", || {
        let running = |name| world.field(name, "state") == "running";
        running("pair-owner-1") && running("pair-guest-1") && world.field("pair-owner-1", "pid") != pid
    });
    together(&world);
    world.ok(&["destroy", "pair"]);
}

/// Its policy starts it again: the network namespace that it had is shared by others, and stays.
#[test]
fn one_without_networks_keeps_its_namespace_when_it_is_started_again() {
    for users in ["host", "private"] {
        let world = World::new();
        let text = format!(
            "name: pair\ncontainers:\n  owner: {{image: \"builtin:whoami\", command: [sleep, forever], network_mode: none, \
             restart: always, userns_mode: {users}, stop_grace_period: 1s}}\n  guest: {{image: \"builtin:whoami\", \
             command: [serve], network_mode: \"service:owner\", stop_grace_period: 1s}}\n"
        );
        let file = world.file("stack.yaml", &text);
        world.ok(&["apply", file.to_str().unwrap()]);
        let before = namespace(&world, "pair-guest-1", "net");
        assert_eq!(namespace(&world, "pair-owner-1", "net"), before);
        for _ in 0..2 {
            let pid = world.field("pair-owner-1", "pid").as_i64().unwrap();
            kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
            let again = || world.field("pair-owner-1", "pid").as_i64().is_some_and(|now| now > 0 && now != pid);
            eventually("it runs again", || world.field("pair-owner-1", "state") == "running" && again());
            assert_eq!(namespace(&world, "pair-owner-1", "net"), before, "{users}");
        }
        world.ok(&["exec", "pair-owner-1", "/whoami", "health"]);
        world.ok(&["restart", "-t", "1", "pair-owner-1"]);
        assert_eq!(namespace(&world, "pair-owner-1", "net"), before, "{users}");
        world.ok(&["destroy", "pair"]);
    }
}

#[test]
fn nobody_joins_what_does_not_run() {
    let world = World::new();
    let run = ["run", "--rm", "--network", "none"];
    let said = world.fails(125, &[&run[..], &["--pid", "container:gone", "builtin:whoami", "true"]].concat());
    assert!(said.contains("join the pid namespace of container \"gone\""), "{said}");
    let said = world.fails(125, &[&run[..], &["--ipc", "container:gone", "builtin:whoami", "true"]].concat());
    assert!(said.contains("join the ipc namespace of container \"gone\""), "{said}");
    assert_eq!(world.ok(&["ps", "-aq"]), "");
    // The host's own.
    let seen = world.ok(&[&run[..], &["--pid", "host", "builtin:whoami", "cat", "/proc/1/comm"]].concat());
    assert_eq!(seen, fs::read_to_string("/proc/1/comm").unwrap());
    let name = format!("stack-test-{}", std::process::id());
    let path = format!("/dev/shm/{name}");
    world.ok(&[&run[..], &["--ipc", "host", "builtin:whoami", "write", &path, "x"]].concat());
    assert_eq!(fs::read_to_string(&path).unwrap(), "x\n");
    fs::remove_file(&path).unwrap();
}
