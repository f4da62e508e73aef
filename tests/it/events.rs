//! `events`: everything that happens is told, once, in order, to who asks before and after.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::support::World;

/// `container start web` for each, without times and ids.
fn heard(world: &World, words: &[&str]) -> Vec<String> {
    let format =
        ["events", "--since", "1h", "--until", "0s", "--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}"];
    world.ok(&[&format, words].concat()).lines().map(str::to_owned).collect()
}

#[test]
fn what_happened_is_told_afterwards() {
    let world = World::new();
    assert_eq!(heard(&world, &[]), [""; 0]);
    world.ok(&["network", "create", "net"]);
    world.ok(&["volume", "create", "data"]);
    world.ok(&[
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "net",
        "-l",
        "tier=front",
        "-v",
        "data:/d",
        "builtin:whoami",
    ]);
    world.ok(&["pause", "box"]);
    world.ok(&["unpause", "box"]);
    world.ok(&["update", "--memory", "64m", "box"]);
    world.ok(&["kill", "box"]);
    world.ok(&["wait", "box"]);
    world.ok(&["start", "box"]);
    world.ok(&["rename", "box", "crate"]);
    world.ok(&["stop", "-t", "0", "crate"]);
    world.ok(&["rm", "crate"]);
    world.ok(&["volume", "rm", "data"]);
    world.ok(&["network", "rm", "net"]);
    world.ok(&["tag", "builtin:whoami", "other:1"]);
    world.ok(&["rmi", "other:1"]);
    let all = heard(&world, &[]);
    let of = |kind: &str| -> Vec<String> {
        let lines = all.iter().filter_map(|line| line.strip_prefix(kind));
        lines.map(|line| line.trim().to_owned()).collect()
    };
    let containers = of("container").join(", ");
    let expected = "create box, start box, pause box, unpause box, update box, kill box, die box, start box, rename crate, \
                    die crate, stop crate, destroy crate";
    assert_eq!(containers, expected);
    assert_eq!(of("network"), ["create net", "destroy net"]);
    assert_eq!(of("volume"), ["create data", "destroy data"]);
    let images = of("image").join(", ");
    assert!(images.ends_with("untag docker.io/library/other:1") && images.contains("tag docker.io"), "{images}");
    for (filter, count) in [
        ("type=volume", 2),
        ("event=start", 2),
        ("container=crate", 4),
        ("label=tier=front", 12),
        ("label=tier=back", 0),
        ("image=builtin:whoami", 12),
    ] {
        assert_eq!(heard(&world, &["--filter", filter]).len(), count, "{filter}: {all:?}");
    }
    let json = world.ok(&["events", "--since", "1h", "--until", "0s", "--filter", "event=die", "--format", "json"]);
    let values: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(values.len(), 2);
    assert!(values[0]["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    // The first was killed. The second was asked with no time to answer: which signal it heard first is the kernel's to say.
    assert_eq!(values[0]["attributes"]["exitCode"], "137");
    assert!(["0", "137"].map(Value::from).contains(&values[1]["attributes"]["exitCode"]));
    let text =
        world.ok(&["events", "--since", "1h", "--until", "0s", "--filter", "event=create", "--filter", "type=volume"]);
    assert!(text.ends_with("Z volume create data (name=data)\n"), "{text}");
    assert!(world.fails(1, &["events", "--filter", "evnt=die"]).contains("did you mean `event`?"));
    assert!(world.fails(1, &["events", "--since", "soon"]).contains("--since"));
}

/// Who follows hears it as it happens: health, and an end by itself, which its policy makes a start again.
#[test]
fn what_happens_is_told_as_it_happens() {
    let world = World::new();
    let words = ["events", "--filter", "stack=s", "--filter", "type=container"];
    let format = ["--format", "{{.Action}}", "--since", "1h"];
    let mut child = world.command(&[&words[..], &format].concat()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let check = "{test: [CMD, /whoami, health], interval: 1s}";
    let text = format!(
        "name: s\ncontainers: {{a: {{image: \"builtin:whoami\", network_mode: none, restart: always, healthcheck: {check}}}}}\n"
    );
    let file = world.file("stack.yaml", &text);
    world.ok(&["apply", "--wait", file.to_str().unwrap()]);
    let mut expect = |wanted: &[&str]| {
        for action in wanted {
            assert_eq!(lines.next().unwrap().unwrap(), *action);
        }
    };
    expect(&["create", "start", "health_status: healthy"]);
    let pid = world.field("s-a-1", "pid").as_i64().unwrap() as i32;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    expect(&["die", "start", "health_status: healthy"]);
    world.ok(&["destroy", "s"]);
    expect(&["die", "stop", "destroy"]);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    child.wait().unwrap();
}
