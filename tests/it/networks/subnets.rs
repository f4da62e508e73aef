//! Which subnets networks get on a host where others choose as well.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use crate::support::World;

fn subnet(world: &World, network: &str) -> String {
    let text = world.ok(&["network", "inspect", network, "--format", "{{range .IPAM.Config}}{{.Subnet}}{{end}}"]);
    text.trim().to_owned()
}

fn ip(words: &[&str]) {
    assert!(Command::new("ip").args(words).status().unwrap().success(), "ip {}", words.join(" "));
}

/// Engines with other roots know nothing of one another, and choose at the same moment.
#[test]
fn engines_that_choose_at_once_never_share_a_subnet() {
    let worlds: Vec<World> = (0..6).map(|_| World::new()).collect();
    for round in 0..5 {
        let name = format!("net{round}");
        let make = |world: &World| world.command(&["network", "create", &name]).stdout(Stdio::null()).spawn().unwrap();
        let making: Vec<_> = worlds.iter().map(make).collect();
        for mut child in making {
            assert!(child.wait().unwrap().success());
        }
    }
    let names = |world: &World| world.ok(&["network", "ls", "-q"]).lines().map(str::to_owned).collect::<Vec<_>>();
    let all: Vec<String> =
        worlds.iter().flat_map(|world| names(world).into_iter().map(|name| subnet(world, &name))).collect();
    assert_eq!(all.len(), 30);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 30, "{all:?}");
    for world in &worlds {
        for name in names(world) {
            world.ok(&["network", "rm", &name]);
        }
    }
}

/// A bridge that is none of ours.
struct Foreign(String);

impl Foreign {
    fn new(address: &str) -> Self {
        let name = format!("other{}", std::process::id());
        ip(&["link", "add", &name, "type", "bridge"]);
        let bridge = Self(name);
        ip(&["address", "add", address, "dev", &bridge.0]);
        ip(&["link", "set", &bridge.0, "up"]);
        bridge
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        ip(&["link", "delete", &self.0]);
    }
}

/// As after a reboot: the bridge is gone, and somebody else has its subnet now.
#[test]
fn a_subnet_that_was_taken_meanwhile_is_left_to_who_has_it() {
    let world = World::new();
    world.ok(&["network", "create", "free"]);
    let before = subnet(&world, "free");
    let record = std::fs::read_to_string(world.roots.root.join("networks/free.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let foreign = Foreign::new(&before.replace(".0/24", ".1/24"));
    ip(&["link", "delete", record["bridge"].as_str().unwrap()]);
    world.ok(&["run", "--rm", "--network", "free", "builtin:whoami", "true"]);
    assert_ne!(subnet(&world, "free"), before);
    // One that was asked for by its subnet can only say so.
    world.ok(&["network", "rm", "free"]);
    let said = world.fails(1, &["network", "create", "--subnet", &before, "wanted"]);
    assert!(said.contains("overlaps") && said.contains(&before), "{said}");
    assert_eq!(world.ok(&["network", "ls", "-q"]), "");
    drop(foreign);
}
