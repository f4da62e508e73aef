//! Restart policies are docker's: by what was really started again, and when.

use jiff::Timestamp;

use crate::support::{World, eventually};

fn run(world: &World, name: &str, policy: &str, words: &[&str]) {
    let flags = ["run", "-d", "--name", name, "--network", "none", "--restart", policy, "builtin:whoami"];
    world.ok(&[&flags[..], words].concat());
}

#[test]
fn a_policy_decides_by_the_exit_code_and_counts() {
    let world = World::new();
    for (name, policy, code, restarts) in
        [("no", "no", "1", 0), ("done", "on-failure", "0", 0), ("twice", "on-failure:2", "3", 2)]
    {
        run(&world, name, policy, &["exit", code]);
        eventually("it has ended for good", || world.field(name, "state") == "exited");
        assert_eq!(world.field(name, "restarts"), restarts, "{policy}");
        assert_eq!(world.field(name, "exit_code").to_string(), code, "{policy}");
        world.ok(&["rm", name]);
    }
}

#[test]
fn pauses_double_and_a_stop_by_command_ends_it() {
    let world = World::new();
    run(&world, "again", "always", &["echo", "begun"]);
    let begun = || -> Vec<Timestamp> {
        let text = world.ok(&["logs", "--timestamps", "again"]);
        text.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
    };
    eventually("five runs", || begun().len() >= 5);
    for (number, pair) in begun().windows(2).take(4).enumerate() {
        let pause = pair[1].duration_since(pair[0]).as_millis();
        let least = 100 << number;
        assert!((least..least + 2000).contains(&pause), "pause {number} took {pause} ms");
    }
    world.ok(&["stop", "again"]);
    let restarts = world.field("again", "restarts");
    assert_eq!(world.field("again", "state"), "exited");
    // Started by command it begins anew, and counts anew.
    world.ok(&["start", "again"]);
    eventually("it is started again", || world.field("again", "restarts").as_u64().unwrap() > 0);
    assert!(restarts.as_u64().unwrap() >= 4);
    world.ok(&["rm", "-f", "again"]);
}

/// The file that holds its namespace is gone, and with it the namespace: nothing of the container runs at that moment.
#[test]
fn what_waits_to_be_started_again_gets_its_network_back() {
    let world = World::new();
    let policy = "deploy: {restart_policy: {condition: any, delay: 1s, window: 1h}}";
    let web = format!("  web: {{image: 'builtin:whoami', command: [exit, '3'], networks: [net], {policy}}}");
    let file = world.file("stack.yaml", &format!("name: lose\nnetworks: {{net: {{}}}}\ncontainers:\n{web}\n"));
    let file = file.to_str().unwrap();
    world.ok(&["apply", file]);
    let restarts = || world.field("lose-web-1", "restarts").as_u64().unwrap();
    eventually("it waits", || restarts() > 0 && world.field("lose-web-1", "state") == "restarting");
    let held = world.roots.run.join("netns/lose-web-1");
    nix::mount::umount2(&held, nix::mount::MntFlags::MNT_DETACH).unwrap();
    std::fs::remove_file(&held).unwrap();
    let status = world.run(&["status", file]);
    assert!(status.code == 2 && status.stdout.contains("network namespace gone"), "{status:?}");
    world.ok(&["apply", file]);
    let before = restarts();
    eventually("it is started again", || restarts() > before + 1);
    assert_eq!(world.ok(&["inspect", "--format", "{{.State.Error}}", "lose-web-1"]), "\n");
    world.ok(&["destroy", "lose"]);
}

/// `kill` with what would stop it is a stop; another signal is none.
#[test]
fn what_is_killed_by_command_stays_down() {
    let world = World::new();
    for signal in ["KILL", "TERM"] {
        run(&world, "one", "always", &["sleep", "1000"]);
        world.ok(&["kill", "--signal", signal, "one"]);
        eventually(signal, || world.field("one", "state") == "exited");
        assert_eq!(world.field("one", "restarts"), 0, "{signal}");
        world.ok(&["rm", "one"]);
    }
    run(&world, "one", "always", &["sleep", "1000"]);
    world.ok(&["kill", "--signal", "INT", "one"]);
    eventually("it is started again", || world.field("one", "restarts") == 1);
    world.ok(&["rm", "-f", "one"]);
}
