//! AppArmor as the machine's kernel has it: by what a process is told of itself, and by what it may not do.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use super::assert_in_the_machine;
use crate::oci_runtime::Bundle;
use crate::support::{Output, World};

const OWN: &str = "stack-default (enforce)\n";
/// Whose profile a process has: process 1's, and its own.
const LABELS: &str = "cat /proc/1/attr/current /proc/self/attr/current";

/// Two profiles that forbid one file each.
const PROFILES: &str = "\
profile no-first flags=(attach_disconnected) { capability, file, network, signal, deny /first r, }
profile no-second flags=(attach_disconnected) { capability, file, network, signal, deny /second r, }
";

fn parser(words: &[&str], text: &str) {
    let mut child = Command::new("apparmor_parser").args(words).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn run(world: &World, more: &[&str], script: &str) -> Output {
    world.run(&[&["run", "--rm", "--network", "none"], more, &["shell", "sh", "-c", script]].concat())
}

#[test]
#[ignore = "needs the machine"]
fn containers_have_the_engines_profile_unless_they_say_otherwise() {
    assert_in_the_machine();
    let world = World::with_shell();
    let label = |more: &[&str]| run(&world, more, LABELS).stdout;
    let option = |text: &'static str| ["--security-opt", text];
    for more in [&[][..], &["--init"], &["--user", "1000"], &["--userns", "host"], &option("apparmor=docker-default")] {
        assert_eq!(label(more), OWN.repeat(2), "{more:?}");
    }
    for more in [&["--privileged"][..], &option("apparmor=unconfined"), &option("apparmor:unconfined")] {
        assert_eq!(label(more), "unconfined\n".repeat(2), "{more:?}");
    }
    assert_eq!(label(&["--runtime", "runc"]), OWN.repeat(2), "made by a runtime of others");
    let doctor = world.run(&["doctor"]).stdout;
    assert!(doctor.contains("stack-default is loaded"), "{doctor}");

    // What it forbids is forbidden who has the right, and sees the file.
    let bold = ["--userns", "host", "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"];
    let bold = [&bold[..], &option("systempaths=unconfined")].concat();
    let mount = "mkdir /m; busybox mount -t tmpfs none /m && echo mounted";
    assert!(run(&world, &bold, mount).stderr.contains("Permission denied"));
    let lifted = [&bold[..], &option("apparmor=unconfined")].concat();
    assert_eq!(run(&world, &lifted, mount).stdout, "mounted\n");
    let panic = "cat /proc/sys/vm/swappiness > /proc/sys/vm/swappiness && echo written";
    assert!(run(&world, &bold, panic).stderr.contains("Permission denied"));
    assert_eq!(run(&world, &lifted, panic).stdout, "written\n");

    // Who joins it has its profile; it is stopped from outside.
    world.ok(&["run", "-d", "--name", "it", "--network", "none", "shell", "sh", "-c", "exec sleep 1000"]);
    assert_eq!(world.ok(&["exec", "it", "cat", "/proc/self/attr/current"]), OWN);
    assert_eq!(world.ok(&["exec", "--privileged", "it", "cat", "/proc/self/attr/current"]), "unconfined\n");
    world.ok(&["stop", "-t", "0", "it"]);
    world.ok(&["rm", "it"]);
    // Where nobody could load it they have none, and it is said.
    parser(&["--remove"], "profile stack-default {}\n");
    let doctor = world.run(&["doctor"]).stdout;
    assert!(doctor.contains("the first container that starts loads stack-default"), "{doctor}");
    assert_eq!(label(&[]), OWN.repeat(2), "whoever starts one loads it");
}

#[test]
#[ignore = "needs the machine"]
fn a_profile_that_is_named_holds() {
    assert_in_the_machine();
    parser(&["--replace"], PROFILES);
    let world = World::with_shell();
    let file = |profile: &str| {
        let text = format!(
            "name: x\ncontainers:\n  it:\n    image: shell\n    network_mode: none\n    security_opt:\n      \
             - apparmor={profile}\n    command: [sh, -c, 'echo 1 > /first; echo 2 > /second; exec sleep 1000']\n"
        );
        world.file("stack.yaml", &text);
    };
    let script = "until [ -e /second ]; do :; done; cat /first /second /proc/self/attr/current";
    let said = |name: &str| world.run(&["exec", name, "sh", "-c", script]);
    let denied = |output: &Output, which: &str, other: &str, profile: &str| {
        assert_eq!(output.stdout, format!("{other}\n{profile} (enforce)\n"), "{output:?}");
        assert!(output.stderr.contains(&format!("can't open '{which}': Permission denied")), "{output:?}");
    };
    file("no-first");
    world.ok(&["apply", "--yes"]);
    denied(&said("x-it-1"), "/first", "2", "no-first");
    file("no-second");
    let plan = world.ok(&["plan"]);
    assert!(plan.contains("security_opt") && !plan.contains("no effect"), "{plan}");
    world.ok(&["apply", "--yes"]);
    denied(&said("x-it-1"), "/second", "1", "no-second");
    file("no-such");
    let refused = world.fails(1, &["plan"]);
    assert!(
        refused.contains("stack.yaml:") && refused.contains("AppArmor has no profile \"no-such\" loaded"),
        "{refused}"
    );
    let refused =
        world.fails(125, &["run", "--rm", "--security-opt", "apparmor=no-such", "--network", "none", "shell", "true"]);
    assert!(refused.contains("AppArmor has no profile \"no-such\" loaded"), "{refused}");
    world.ok(&["destroy", "x"]);
    let output = run(&world, &["--privileged", "--security-opt", "apparmor=no-first"], "cat /proc/self/attr/current");
    assert_eq!(output.stdout, "no-first (enforce)\n", "{output:?}");
}

#[test]
#[ignore = "needs the machine"]
fn a_bundle_has_the_profile_of_its_configuration() {
    assert_in_the_machine();
    parser(&["--replace"], PROFILES);
    let world = World::new();
    let bundle = Bundle::new(&world, "echo 1 > /first; echo 2 > /second; exec sleep 1000", |config| {
        config["process"]["apparmorProfile"] = json!("no-first");
    });
    bundle.create(&[]);
    bundle.ok(&["start", &bundle.id]);
    let script = "until [ -e /second ]; do :; done; cat /first /second /proc/self/attr/current";
    let said = bundle.run(&["exec", &bundle.id, "sh", "-c", script]);
    assert_eq!(said.stdout, "2\nno-first (enforce)\n", "{said:?}");
    let said = bundle.run(&["exec", "--apparmor", "no-second", &bundle.id, "sh", "-c", script]);
    assert_eq!(said.stdout, "1\nno-second (enforce)\n", "{said:?}");
    let refused = bundle.fails(&["exec", "--apparmor", "no-such", &bundle.id, "sh", "-c", ":"]);
    assert!(refused.contains("AppArmor has no profile \"no-such\" loaded"), "{refused}");
    bundle.ok(&["delete", "--force", &bundle.id]);
    let absent = Bundle::new(&world, "true", |config| config["process"]["apparmorProfile"] = json!("no-such"));
    let directory = absent.directory.to_str().unwrap();
    let refused = absent.fails(&["run", "--bundle", directory, &absent.id]);
    assert!(refused.contains("AppArmor has no profile \"no-such\" loaded"), "{refused}");
    absent.leaves_nothing();
}
