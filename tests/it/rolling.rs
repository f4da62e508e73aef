//! `update: {order: start-first}`: the successor is there and healthy before the old container goes.

use std::process::Stdio;

use crate::support::{World, eventually, finish};

/// `web` is healthy when somebody has written /ready in it. `patience` is how long that may take, in seconds.
fn stack(version: &str, patience: u32, ports: &str) -> String {
    format!(
        r#"
name: roll
containers:
  web:
    image: builtin:whoami
    environment: {{VERSION: "{version}"}}
    networks: [net]
    secrets: [key]
    stop_grace_period: 1s
    update: {{order: start-first}}
    healthcheck:
      test: [CMD, /whoami, cat, /ready]
      interval: 100ms
      start_interval: 100ms
      start_period: {patience}s
      retries: 2
    {ports}
  client:
    image: builtin:whoami
    command: [sleep, forever]
    networks: [net]
    stop_grace_period: 1s
networks: {{net: {{}}}}
secrets: {{key: {{content: "{version}"}}}}
"#
    )
}

/// Applies what becomes healthy only by our hand.
fn apply(world: &World, text: &str, meanwhile: impl FnOnce()) {
    let file = world.file("stack.yaml", text);
    let words = ["apply", "--wait", file.to_str().unwrap()];
    let child = world.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    meanwhile();
    let ready = ["exec", "roll-web-1", "/whoami", "write", "/ready", "yes"];
    eventually("it is made ready", || world.run(&ready).code == 0);
    let output = finish(child, &words);
    assert_eq!(output.code, 0, "{output:#?}");
}

/// Found by the service's name, from another container; a moment after its start it may not listen yet.
fn answers(world: &World) {
    let ask = ["exec", "roll-client-1", "/whoami", "client", "web:80"];
    eventually("it answers", || world.run(&ask).stdout.contains("name: roll-web-1"));
}

#[test]
fn the_old_container_serves_until_the_new_one_is_healthy() {
    let world = World::new();
    apply(&world, &stack("1", 60, ""), || {});
    let old = world.field("roll-web-1", "pid");
    let client = world.field("roll-client-1", "pid");
    apply(&world, &stack("2", 60, ""), || {
        eventually("the new one runs beside the old one", || {
            let pid = world.field("roll-web-1", "pid");
            pid.is_number() && pid != 0 && pid != old && world.field("roll-web-1.old", "pid") == old
        });
        assert_eq!(world.field("roll-web-1.old", "health"), "healthy");
        let read = |container: &str, path: &str| world.ok(&["exec", container, "/whoami", "cat", path]);
        assert_eq!(read("roll-web-1.old", "/run/secrets/key"), "1");
        assert_eq!(read("roll-web-1", "/run/secrets/key"), "2");
        // Both are found by the service's name, and both answer.
        let found = world.ok(&["exec", "roll-client-1", "/whoami", "resolve", "web"]);
        assert_eq!(found.lines().count(), 2, "{found}");
        for address in found.lines() {
            let address = format!("{address}:80");
            let ask = ["exec", "roll-client-1", "/whoami", "client", &address];
            eventually("it answers", || world.run(&ask).stdout.contains("name: roll-web-1"));
        }
        assert!(world.ok(&["logs", "roll-web-1.old"]).contains("listens on port 80"));
    });
    assert_eq!(world.field("roll-web-1.old", "name"), serde_json::Value::Null);
    let found = world.ok(&["exec", "roll-client-1", "/whoami", "resolve", "web"]);
    assert_eq!(found.lines().count(), 1, "{found}");
    assert_eq!(world.field("roll-client-1", "pid"), client);
    // It keeps its place when it is started again.
    world.ok(&["restart", "roll-web-1"]);
    answers(&world);
    world.ok(&["destroy", "roll"]);
}

#[test]
fn a_successor_that_is_no_good_leaves_the_old_container_serving() {
    let world = World::new();
    apply(&world, &stack("1", 60, ""), || {});
    let old = world.field("roll-web-1", "pid");
    let file = world.file("stack.yaml", &stack("bad", 0, ""));
    let said = world.fails(1, &["apply", file.to_str().unwrap()]);
    assert!(said.contains("\"roll-web-1\" is unhealthy"), "{said}");
    assert_eq!(world.field("roll-web-1.old", "pid"), old);
    assert_eq!(world.field("roll-web-1.old", "health"), "healthy");
    // The next try leaves it alone, too, until it has come up.
    world.file("stack.yaml", &stack("3", 60, ""));
    let plan = world.ok(&["plan", file.to_str().unwrap()]);
    assert!(plan.contains("stop first, not start first (container/web-1.old still runs)"), "{plan}");
    apply(&world, &stack("3", 60, ""), || {
        eventually("the third one runs", || {
            world.run(&["exec", "roll-web-1", "/whoami", "cat", "/run/secrets/key"]).stdout == "3"
        });
        assert_eq!(world.field("roll-web-1.old", "pid"), old);
    });
    assert_eq!(world.field("roll-web-1.old", "name"), serde_json::Value::Null);
    world.ok(&["destroy", "roll"]);
}

#[test]
fn the_plan_says_why_it_can_not_start_first() {
    let world = World::new();
    let port = crate::support::free_port();
    let ports = format!("ports: [\"{port}:80\"]");
    apply(&world, &stack("1", 60, &ports), || {});
    let file = world.file("stack.yaml", &stack("2", 60, &ports));
    let plan = world.ok(&["plan", file.to_str().unwrap()]);
    assert!(plan.contains(&format!("stop first, not start first (port {port})")), "{plan}");
    world.ok(&["destroy", "roll"]);
}

/// Whatever had its new name already when the apply was killed, the next one ends with one container and all that is its.
#[test]
fn an_update_that_is_killed_at_any_moment_is_finished_by_the_next() {
    let world = World::new();
    let text = |version: u32| {
        let whole = stack(&version.to_string(), 60, "");
        let (before, rest) = whole.split_once("    healthcheck:").unwrap();
        let after = rest.split_once("retries: 2").unwrap().1;
        format!("{before}{after}")
    };
    let file = world.file("stack.yaml", &text(0));
    let file = file.to_str().unwrap();
    world.ok(&["apply", file]);
    // The same sequence each time: a small linear generator.
    let mut random: u64 = 7;
    for round in 1..=15 {
        world.file("stack.yaml", &text(round));
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let microseconds = (random >> 33) % 120_000;
        let mut child = world.command(&["apply", file]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(microseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        let output = world.run(&["apply", file]);
        assert_eq!(output.code, 0, "round {round}, killed after {microseconds} µs: {output:#?}");
        let names = world.ok(&["ps", "-a"]);
        assert!(!names.contains(".old"), "{names}");
        answers(&world);
        let key = world.ok(&["exec", "roll-web-1", "/whoami", "cat", "/run/secrets/key"]);
        assert_eq!(key, round.to_string());
        world.ok(&["plan", "--detailed-exitcode", file]);
    }
    world.ok(&["destroy", "roll"]);
    assert_eq!(world.left(), Vec::<String>::new());
}
