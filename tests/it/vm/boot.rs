//! What a boot brings back: tests that run in the machine, one a boot, each ignored elsewhere.

use std::fs;
use std::path::PathBuf;

use super::assert_in_the_machine;
use super::inside::{PORT, hits};
use crate::support::{World, eventually, get};

/// As on a real machine: what is durable on the disk, the rest in memory.
pub fn persistent() -> World {
    let mut world = World::at(PathBuf::from("/disk/w"));
    world.roots.run = PathBuf::from("/run/n");
    world
}

/// The machine goes off with all that runs; nothing is to be asserted or cleared away before.
fn leave(world: World) {
    std::mem::forget(world);
}

/// A counter that others wait for, a job that is done once, and what somebody stops.
fn shop() -> String {
    format!(
        r#"
name: shop
containers:
  counter:
    image: builtin:whoami
    environment: {{COUNTER_FILE: /data/hits}}
    volumes: ["data:/data"]
    ports: ["{PORT}:80"]
    networks: [front]
    restart: always
    healthcheck: {{test: ["CMD", "/whoami", "health"], interval: 1s, retries: 60}}
    configs: [{{source: note, target: /note}}]
  greeter:
    image: builtin:whoami
    networks: [front]
    restart: unless-stopped
    depends_on: {{counter: {{condition: service_healthy}}}}
  job: {{image: builtin:whoami, command: ["true"]}}
  worker:
    image: builtin:whoami
    restart: on-failure
    depends_on: {{job: {{condition: service_completed_successfully}}, stopped: {{condition: service_started}}}}
  once: {{image: builtin:whoami}}
  stopped: {{image: builtin:whoami, restart: unless-stopped}}
  always: {{image: builtin:whoami, restart: always}}
volumes: {{data: {{}}}}
networks: {{front: {{}}}}
configs: {{note: {{content: "kept"}}}}
"#
    )
}

#[test]
#[ignore = "needs the machine"]
fn stacks_are_made_until_the_power_is_cut() {
    assert_in_the_machine();
    let world = persistent();
    world.file("shop.yaml", &shop());
    world.ok(&["apply", "shop.yaml"]);
    world.ok(&["run", "-d", "--name", "single", "--restart", "always", "--network", "none", "builtin:whoami"]);
    world.ok(&["run", "-d", "--name", "gone", "--rm", "--network", "none", "builtin:whoami"]);
    world.ok(&["stop", "shop-stopped-1", "shop-always-1"]);
    assert_eq!((hits(), hits()), (1, 2));
    // For the machine whose first process is systemd, as if enabled.
    fs::write("/disk/stack.service", world.ok(&["system", "unit"])).unwrap();
    nix::unistd::sync();
    println!("\ncut now");
    leave(world);
    loop {
        std::thread::park();
    }
}

/// `start shop-counter-1` and the like, of this boot, in their order.
fn events(world: &World) -> Vec<String> {
    let words = ["events", "--since", "0", "--until", "0s", "--filter", "type=container"];
    let words = [&words[..], &["--format", "{{.Action}} {{.Actor.Attributes.name}}"]].concat();
    world.ok(&words).lines().map(str::to_owned).collect()
}

fn place(events: &[String], wanted: &str) -> usize {
    let found = events.iter().position(|event| event == wanted);
    found.unwrap_or_else(|| panic!("no {wanted:?} in {events:#?}"))
}

/// What ran is back, in its order, and nothing else.
fn assert_back(world: &World, visits: u32) {
    let state = |name: &str| world.field(name, "state").as_str().unwrap_or("absent").to_owned();
    for name in ["shop-counter-1", "shop-greeter-1", "shop-worker-1", "shop-always-1", "single"] {
        assert_eq!(state(name), "running", "{name}");
    }
    for (name, code) in [("shop-job-1", 0), ("shop-stopped-1", 0), ("shop-once-1", 255)] {
        assert_eq!((state(name).as_str(), world.field(name, "exit_code")), ("exited", code.into()), "{name}");
    }
    assert_eq!(state("gone"), "absent");
    let events = events(world);
    assert!(place(&events, "health_status: healthy shop-counter-1") < place(&events, "start shop-greeter-1"));
    for name in ["shop-job-1", "shop-stopped-1", "shop-once-1"] {
        assert!(!events.contains(&format!("start {name}")), "{events:#?}");
    }
    assert_eq!(hits(), visits, "the volume's data is still there");
    let greeter = ["exec", "shop-greeter-1", "/whoami", "client", "http://counter/health"];
    assert_eq!(world.ok(&greeter).trim(), "healthy", "the network and its names are back");
    assert_eq!(world.ok(&["exec", "shop-counter-1", "/whoami", "cat", "/note"]), "kept");
}

/// By the unit that systemd has started before this test.
#[test]
#[ignore = "needs the machine"]
fn all_is_back() {
    assert_in_the_machine();
    let world = persistent();
    let visits = fs::read_to_string("/disk/visits").map_or(3, |text| text.parse::<u32>().unwrap());
    assert_back(&world, visits);
    fs::write("/disk/visits", (visits + 1).to_string()).unwrap();
    leave(world);
}

#[test]
#[ignore = "needs the machine"]
fn a_command_brings_all_back_and_another_ends_it() {
    assert_in_the_machine();
    let world = persistent();
    for name in ["shop-counter-1", "shop-greeter-1", "shop-once-1"] {
        assert_eq!(world.field(name, "state"), "exited", "{name}");
    }
    world.fails(2, &["status", "shop.yaml"]);
    world.ok(&["system", "boot"]);
    assert_back(&world, 3);
    assert_eq!(world.run(&["system", "boot"]).stderr, "", "what is there is left alone");
    let plan = world.ok(&["plan", "shop.yaml"]);
    let changed: Vec<&str> = plan.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(changed, ["container/once-1", "container/stopped-1"], "{plan}");

    world.ok(&["system", "halt"]);
    let events = events(&world);
    assert!(place(&events, "die shop-greeter-1") < place(&events, "die shop-counter-1"), "{events:#?}");
    for name in world.names() {
        assert_eq!(world.field(&name, "state"), "exited", "{name}");
    }
    leave(world);
}

#[test]
#[ignore = "needs the machine"]
fn watch_brings_its_stack_back() {
    assert_in_the_machine();
    let world = persistent();
    let mut watcher = world.command(&["watch", "shop.yaml"]).spawn().unwrap();
    eventually("it runs again", || world.field("shop-greeter-1", "state") == "running" && get(PORT, "/health").is_ok());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(watcher.id() as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(watcher.wait().unwrap().success());
    world.ok(&["status", "shop.yaml"]);
    assert_eq!(hits(), 4);
    world.ok(&["destroy", "shop", "--volumes", "--yes=volumes"]);
    world.ok(&["volume", "prune", "--trash", "--force"]);
    world.ok(&["rm", "-f", "single"]);
}
