//! Commands at points of a container's life, as Compose has them.

use std::fs;

use crate::sources::identity;
use crate::support::{World, eventually};

/// A stack of one service with these keys, of an image with a shell.
fn apply(world: &World, keys: &str) -> (i32, String) {
    if !world.directory.join("root").exists() {
        world.busybox("root");
        fs::create_dir_all(world.directory.join("shared")).unwrap();
    }
    let text = format!(
        "name: h\nimages: {{shell: {{rootfs: root}}}}\ncontainers:\n  web:\n    image: shell\n    network_mode: none\n    \
         volumes: [\"./shared:/shared\", /anonymous]\n    environment: {{WHO: web}}\n{keys}"
    );
    world.file("stack.yaml", &text);
    let output = world.run(&["apply", "stack.yaml"]);
    (output.code, output.stderr)
}

const LIVES: &str = "    command: [/bin/sh, -c, \"trap 'echo stopped >> /shared/log; exit 0' TERM; echo started >> /shared/log; while :; do sleep 0.1; done\"]\n";

/// What was written so far, a word each.
fn log(world: &World) -> Vec<String> {
    let text = fs::read_to_string(world.directory.join("shared/log")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn hooks_run_where_and_as_they_say() {
    let world = World::new();
    let keys = format!(
        r#"{LIVES}    user: "1000"
    working_dir: /tmp
    post_start:
      - {{command: [/bin/sh, -c, "echo $(id -u):$$PWD:$$WHO:$(grep CapEff /proc/self/status) > /shared/plain"], user: root}}
      - command: [/bin/sh, -c, "echo $(id -u):$$PWD:$$WHO:$$MORE:$(grep CapEff /proc/self/status) > /shared/special"]
        user: root
        privileged: true
        working_dir: /etc
        environment: {{WHO: hook, MORE: more}}
      - {{command: "/bin/sh -c 'echo $(id -u) > /tmp/own'"}}
    pre_stop:
      - {{command: [/bin/sh, -c, "echo flushed >> /shared/log"], user: root}}
"#
    );
    fs::create_dir_all(world.directory.join("shared")).unwrap();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    std::os::unix::fs::chown(world.directory.join("shared"), Some(1000), Some(1000)).unwrap();
    world.busybox("root");
    fs::write(world.directory.join("root/tmp/own"), "").unwrap();
    std::os::unix::fs::chown(world.directory.join("root/tmp/own"), Some(1000), Some(1000)).unwrap();
    let (code, said) = apply(&world, &keys);
    assert_eq!(code, 0, "{said}");
    assert!(!said.contains("not honoured"), "{said}");
    let read = |name: &str| fs::read_to_string(world.directory.join("shared").join(name)).unwrap().replace('\t', " ");
    assert!(read("plain").starts_with("0:/tmp:web:CapEff: 00000000"), "{}", read("plain"));
    assert!(read("special").starts_with("0:/etc:hook:more:CapEff: 000001ff"), "{}", read("special"));
    assert_eq!(world.ok(&["exec", "h-web-1", "/bin/cat", "/tmp/own"]), "1000\n");
    let before = identity(&world, "h-web-1");
    assert!(world.run(&["apply", "stack.yaml"]).stderr.contains("nothing to do"));
    eventually("it has started", || log(&world) == ["started"]);
    // What runs before a stop alone is changed in place; then it is what runs.
    let (code, said) = apply(&world, &keys.replace("echo flushed", "echo saved"));
    assert!(code == 0 && identity(&world, "h-web-1") == before, "{said}");
    world.ok(&["restart", "h-web-1"]);
    eventually("it has started again", || log(&world) == ["started", "saved", "stopped", "started"]);
    // Another environment makes another container.
    assert_eq!(apply(&world, &keys.replace("MORE: more", "MORE: less")).0, 0);
    assert!(read("special").contains(":less:"));
    eventually("the new one has started", || log(&world).len() == 7);
    world.ok(&["destroy", "h"]);
    assert_eq!(log(&world)[3..], ["started", "saved", "stopped", "started", "flushed", "stopped"]);
}

#[test]
fn a_hook_that_fails_is_said_and_tried_again() {
    let world = World::new();
    let keys =
        format!("{LIVES}    post_start: [{{command: [/bin/sh, -c, \"echo no such luck; test -e /shared/luck\"]}}]\n");
    for _ in 0..2 {
        let (code, said) = apply(&world, &keys);
        assert_eq!(code, 1, "{said}");
        let expected = ["post_start hook `/bin/sh -c", "ended with code 1: no such luck", "--> stack.yaml:4:"];
        assert!(expected.iter().all(|text| said.contains(text)), "{said}");
    }
    assert!(world.ok(&["plan", "stack.yaml"]).contains("post_start has not run to its end"));
    let before = identity(&world, "h-web-1");
    fs::write(world.directory.join("shared/luck"), "").unwrap();
    assert_eq!(apply(&world, &keys).0, 0);
    assert_eq!(identity(&world, "h-web-1"), before);
    assert_eq!(world.ok(&["plan", "stack.yaml"]), "");
    // A hook before the stop that fails keeps it from being stopped, until it is mended or removed by force.
    let keys = format!("{LIVES}    pre_stop: [{{command: [/bin/none]}}]\n");
    assert_eq!(apply(&world, &keys).0, 0);
    let before = identity(&world, "h-web-1");
    let said = world.fails(1, &["destroy", "h"]);
    assert!(said.contains("pre_stop hook `/bin/none` of h-web-1 ended with code 127"), "{said}");
    assert_eq!(identity(&world, "h-web-1"), before);
    world.ok(&["rm", "-f", "h-web-1"]);
    world.ok(&["destroy", "h"]);
}

#[test]
fn what_comes_before_a_start_runs_to_its_end_in_containers_of_its_own() {
    let world = World::new();
    let keys = r#"    replicas: 2
    command: [/bin/sh, -c, "cat /shared/seed /anonymous/seed /setting >> /shared/log; while :; do sleep 0.1; done"]
    stop_signal: KILL
    configs: [setting]
    pre_start:
      - {command: [/bin/sh, -c, "echo once-$(cat /setting)-$$WHO >> /shared/log; echo seed > /shared/seed"]}
      - {image: "builtin:whoami", command: [write, /shared/other, "of another image"]}
      - command: [/bin/sh, -c, "echo each-$$WHO >> /shared/log; echo own > /anonymous/seed"]
        per_replica: true
        environment: {WHO: hook}
configs: {setting: {content: "set\n"}}
"#;
    let (code, said) = apply(&world, keys);
    assert_eq!(code, 0, "{said}");
    eventually("both have started", || log(&world).len() == 9);
    let log = log(&world);
    assert_eq!(log[..2], ["once-set-web", "each-hook"]);
    let count = |word: &str| log.iter().filter(|one| *one == word).count();
    assert_eq!((count("once-set-web"), count("each-hook"), count("own"), count("seed")), (1, 2, 2, 2), "{log:?}");
    assert_eq!(fs::read_to_string(world.directory.join("shared/other")).unwrap(), "of another image\n");
    assert_eq!(world.names(), ["h-web-1", "h-web-2"]);
    // One that fails starts nothing.
    let (code, said) = apply(&world, &keys.replace("echo seed", "echo out of seeds; exit 3; echo"));
    assert_eq!(code, 1, "{said}");
    let expected = ["pre_start hook", "of h-web-1 ended with code 3: out of seeds", "the container was not started"];
    assert!(expected.iter().all(|text| said.contains(text)), "{said}");
    assert_ne!(world.field("h-web-1", "state"), "running");
    assert_eq!(world.names(), ["h-web-1", "h-web-2"], "nothing is left of the hooks");
    let (code, said) = apply(&world, keys);
    assert_eq!(code, 0, "{said}");
    world.ok(&["destroy", "h"]);
}

/// Whoever hangs does not keep the command waiting for ever.
#[test]
fn a_hook_that_takes_too_long_is_killed_and_has_failed() {
    let world = World::new();
    let slow = "{command: [/bin/sleep, \"1000\"], timeout: 300ms}";
    for kind in ["pre_start", "post_start"] {
        let (code, said) = apply(&world, &format!("{LIVES}    {kind}: [{slow}]\n"));
        assert!(code == 1 && said.contains(kind), "{kind}: {said}");
        assert!(said.contains("it took longer than 0.3 s, and was killed"), "{kind}: {said}");
    }
    let (code, said) = apply(&world, &format!("{LIVES}    pre_stop: [{slow}]\n"));
    assert_eq!(code, 0, "{said}");
    let said = world.fails(1, &["stop", "h-web-1"]);
    assert!(said.contains("took longer than 0.3 s") && said.contains("was not stopped"), "{said}");
    assert_eq!(world.field("h-web-1", "state"), "running");
    world.ok(&["rm", "-f", "h-web-1"]);
    world.ok(&["destroy", "h", "--volumes", "--yes=volumes"]);
}
