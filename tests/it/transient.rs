//! Containers that go with their end (`run --rm`): nothing of them stays, whoever is killed, and no reboot brings them
//! back.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{World, eventually};

/// A command that stays with its container, once that runs.
fn attended(world: &World, words: &[&str]) -> Child {
    let all = [&["run", "--rm", "--name", "it"], words, &["builtin:whoami", "sleep", "forever"]].concat();
    let child = world.command(&all).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the container runs", || world.field("it", "state") == "running");
    child
}

fn kill_command(mut command: Child) {
    command.kill().unwrap();
    command.wait().unwrap();
}

fn kill_supervisor(world: &World) {
    let status = fs::read_to_string(world.roots.run.join("containers/it/status.json")).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let (shim, pid) = (status["shim"]["pid"].as_i64().unwrap(), status["process"]["pid"].as_i64().unwrap());
    kill(Pid::from_raw(shim as i32), Signal::SIGKILL).unwrap();
    // It would outlive its supervisor.
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    eventually("the program ended, too", || !Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn its_supervisor_removes_it_when_the_command_was_killed() {
    let world = World::new();
    let command = attended(&world, &[]);
    kill_command(command);
    assert_eq!(world.field("it", "state"), "running");
    world.ok(&["exec", "it", "/whoami", "true"]);
    world.ok(&["stop", "it"]);
    eventually("it is removed", || world.ok(&["ps", "-aq"]).is_empty());
    world.ok(&["network", "rm", "default"]);
}

#[test]
fn the_next_command_removes_it_when_both_were_killed() {
    let world = World::new();
    let command = attended(&world, &[]);
    kill_supervisor(&world);
    kill_command(command);
    world.ok(&["run", "--rm", "--network", "none", "builtin:whoami", "true"]);
    assert_eq!(world.ok(&["ps", "-aq"]), "");
    // Its name and its address are free again.
    world.ok(&["run", "--rm", "--name", "it", "builtin:whoami", "true"]);
    world.ok(&["network", "rm", "default"]);
}

#[test]
fn in_the_background_it_goes_by_itself() {
    let world = World::new();
    world.ok(&["run", "-d", "--rm", "--name", "it", "builtin:whoami", "sleep", "forever"]);
    world.ok(&["kill", "it"]);
    eventually("it is removed", || world.ok(&["ps", "-aq"]).is_empty());
    world.ok(&["network", "rm", "default"]);
}

#[test]
fn a_reboot_ends_it() {
    let world = World::new();
    // All that a reboot leaves: what is below the volatile root is gone.
    let rest = world.roots.root.join("containers/.transient-it");
    fs::create_dir_all(rest.join("upper/data")).unwrap();
    fs::create_dir_all(rest.join("work/work")).unwrap();
    assert_eq!(world.ok(&["ps", "-aq"]), "");
    world.ok(&["run", "--rm", "--network", "none", "builtin:whoami", "true"]);
    assert!(!rest.exists());
}

#[test]
fn a_container_without_networks_can_share_that_with_others() {
    let world = World::new();
    let mut command = attended(&world, &["--network", "none"]);
    let shared = ["run", "--rm", "--network", "container:it", "builtin:whoami", "ls", "/sys/class/net"];
    assert_eq!(world.ok(&shared), "lo\n");
    let up = world.ok(&["exec", "it", "/whoami", "cat", "/sys/class/net/lo/flags"]);
    assert_eq!(up, "0x9\n");
    world.ok(&["stop", "it"]);
    command.wait().unwrap();
    assert_eq!(world.ok(&["ps", "-aq"]), "");
}
