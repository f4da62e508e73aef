//! Single containers through the command line: what a docker user has in the fingers.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::support::archive::write_archive;
use crate::support::{World, eventually};

#[test]
fn a_program_runs_in_namespaces_of_its_own() {
    let world = World::new();
    let id = world.ok(&["run", "--rm", "--hostname", "here", "builtin:whoami", "id"]);
    assert!(id.contains("CapBnd:\t00000000800405fb"), "{id}");
    assert!(id.contains("Seccomp:\t2"), "{id}");
    assert_eq!(world.ok(&["run", "--rm", "--hostname", "here", "builtin:whoami", "hostname"]), "here\n");
    let proc = world.ok(&["run", "--rm", "builtin:whoami", "ls", "/proc"]);
    let pids: Vec<&str> = proc.lines().filter(|line| line.parse::<u32>().is_ok()).collect();
    assert_eq!(pids, ["1"]);
    assert_eq!(world.ok(&["run", "--rm", "builtin:whoami", "cat", "/proc/timer_list"]), "");
    world.fails(1, &["run", "--rm", "builtin:whoami", "write", "/proc/sys/kernel/hostname", "x"]);
    world.ok(&["network", "rm", "default"]);
}

#[test]
fn exit_codes_are_dockers() {
    let world = World::new();
    let run = |words: &[&str]| world.run(&[&["run", "--rm", "--network", "none"], words].concat()).code;
    assert_eq!(run(&["builtin:whoami", "true"]), 0);
    assert_eq!(run(&["builtin:whoami", "exit", "42"]), 42);
    assert_eq!(run(&["--entrypoint", "/nosuch", "builtin:whoami"]), 127);
    assert_eq!(run(&["--entrypoint", "/etc/passwd", "builtin:whoami"]), 126);
    assert_eq!(run(&["builtin:nosuch"]), 125);
    assert_eq!(run(&["--user", "nosuch", "builtin:whoami"]), 125);
    assert_eq!(run(&["--cap-add", "FLY", "builtin:whoami"]), 125);
    // Not even the network that it would have had.
    assert_eq!(world.run(&["run", "--rm", "builtin:nosuch"]).code, 125);
    assert_eq!(world.ok(&["ps", "-aq"]) + &world.ok(&["network", "ls", "-q"]), "");
}

#[test]
fn one_that_is_to_be_removed_goes_by_itself() {
    let world = World::new();
    world.ok(&["run", "-d", "--rm", "--network", "none", "builtin:whoami", "true"]);
    eventually("it is gone", || world.ok(&["ps", "-aq"]).is_empty());
}

#[test]
fn streams_stay_apart_and_input_is_passed_on() {
    let world = World::new();
    let both = world.run(&["run", "--rm", "--network", "none", "builtin:whoami", "echo-err", "bad"]);
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("", "bad\n"));
    let text = "line\n".repeat(20_000);
    let copy = world.run_with(&["run", "--rm", "-i", "--network", "none", "builtin:whoami", "cat"], &text);
    assert_eq!(copy.code, 0);
    assert!(copy.stdout == text, "{} bytes came back of {}", copy.stdout.len(), text.len());
}

#[test]
fn users_and_limits_hold() {
    let world = World::new();
    let run = |words: &[&str]| world.run(&[&["run", "--rm", "--network", "none"], words].concat());
    let id = run(&["--user", "app", "builtin:whoami", "id"]).stdout;
    assert!(id.contains("Uid:\t1000") && id.contains("Groups:\t100 1000"), "{id}");
    assert!(id.contains("CapEff:\t0000000000000000"), "{id}");
    assert_eq!(run(&["--read-only", "builtin:whoami", "write", "/x", "y"]).code, 1);
    assert_eq!(run(&["--read-only", "--tmpfs", "/t", "builtin:whoami", "write", "/t/x", "y"]).code, 0);
    assert_eq!(
        run(&["--pids-limit", "8", "builtin:whoami", "fork", "50"]).stdout.trim().parse::<u32>().map(|n| n < 8),
        Ok(true)
    );
    let held = run(&["--memory", "32m", "builtin:whoami", "hold", "200"]);
    assert_eq!(held.code, 137, "{held:?}");
}

#[test]
fn a_container_is_entered_watched_and_stopped() {
    let world = World::new();
    world.ok(&["run", "-d", "--name", "box", "--network", "none", "-e", "A=1", "builtin:whoami", "sleep", "forever"]);
    assert_eq!(world.field("box", "state"), "running");
    let env = world.ok(&["exec", "-e", "B=2", "box", "/whoami", "env"]);
    assert!(env.contains("A=1\n") && env.contains("B=2\n"), "{env}");
    assert_eq!(world.ok(&["exec", "-w", "/tmp", "box", "/whoami", "pwd"]), "/tmp\n");
    world.fails(7, &["exec", "box", "/whoami", "exit", "7"]);
    world.fails(127, &["exec", "box", "/nosuch"]);
    assert_eq!(world.run_with(&["exec", "-i", "box", "/whoami", "cat"], "typed").stdout, "typed");
    assert!(world.ok(&["exec", "-t", "box", "/whoami", "tty"]).starts_with("1 1"));
    assert!(world.ok(&["top", "box"]).contains("/whoami sleep forever"));
    world.ok(&["pause", "box"]);
    assert_eq!(world.field("box", "state"), "paused");
    world.ok(&["unpause", "box"]);
    world.ok(&["stop", "box"]);
    assert_eq!(world.field("box", "state"), "exited");
    world.fails(1, &["exec", "box", "/whoami", "true"]);
    world.ok(&["start", "box"]);
    assert_eq!(world.field("box", "state"), "running");
    world.fails(1, &["rm", "box"]);
    world.ok(&["rm", "-f", "box"]);
}

#[test]
fn a_program_that_ignores_the_signal_is_killed_when_its_time_is_up() {
    let world = World::new();
    world.ok(&["run", "-d", "--name", "deaf", "--network", "none", "builtin:whoami", "trap"]);
    eventually("it ignores the signal", || world.ok(&["logs", "deaf"]).contains("ignoring"));
    world.ok(&["stop", "-t", "1", "deaf"]);
    assert_eq!(world.field("deaf", "exit_code"), 137);
    world.ok(&["rm", "deaf"]);
}

#[test]
fn restart_policies_are_kept() {
    let world = World::new();
    let run = |name: &str, policy: &str, code: &str| {
        world.ok(&[
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "none",
            "--restart",
            policy,
            "builtin:whoami",
            "exit",
            code,
        ]);
    };
    run("twice", "on-failure:2", "3");
    run("never", "on-failure", "0");
    run("always", "always", "0");
    eventually("two restarts, then the end", || {
        world.field("twice", "state") == "exited" && world.field("twice", "restarts") == 2
    });
    eventually("the end", || world.field("never", "state") == "exited");
    assert_eq!(world.field("never", "restarts"), 0);
    eventually("many restarts", || world.field("always", "restarts").as_u64() > Some(2));
    world.ok(&["stop", "always"]);
    assert_eq!(world.field("always", "state"), "exited");
    for name in ["twice", "never", "always"] {
        world.ok(&["rm", name]);
    }
}

#[test]
fn logs_are_followed_to_the_end_and_cut_as_asked() {
    let world = World::new();
    world.ok(&["run", "-d", "--name", "talk", "--network", "none", "builtin:whoami", "lines", "500"]);
    let all = world.ok(&["logs", "-f", "talk"]);
    assert_eq!(all.lines().count(), 500);
    assert_eq!(world.ok(&["logs", "--tail", "2", "talk"]), "line 499\nline 500\n");
    let timed = world.ok(&["logs", "-t", "--tail", "1", "talk"]);
    assert!(timed.ends_with("Z line 500\n") && timed.len() == 30 + 1 + 9, "{timed}");
    assert_eq!(world.ok(&["logs", "--since", "2100-01-01T00:00:00Z", "talk"]), "");
    assert_eq!(world.ok(&["logs", "--since", "1h", "talk"]).lines().count(), 500);
    world.ok(&["rm", "talk"]);
}

/// As with a shell in a container: what is typed is echoed by the terminal, and its size is known.
#[test]
fn a_terminal_is_real() {
    let world = World::new();
    let mut command = world.command(&["run", "--rm", "-t", "-i", "--network", "none", "builtin:whoami", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"hello\n").unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let read: Vec<String> = (0..2).map(|_| lines.next().unwrap().unwrap()).collect();
    assert_eq!(read, ["hello", "hello"]);
    stdin.write_all(&[4]).unwrap();
    assert!(child.wait().unwrap().success());
}

/// More than fit into the one page that mount(2) takes, at paths that have to be quoted there.
#[test]
fn many_layers_at_odd_paths_are_stacked() {
    const LAYERS: usize = 100;
    let mut world = World::new();
    let odd = world.directory.join("a,b:c");
    world.roots.root = odd.join("r");
    let layer = |number: usize| {
        let text = format!("{number}\n");
        let program = fs::read("/bin/busybox").unwrap();
        let mut files = vec![(format!("l/{number}"), text.clone().into_bytes()), ("top".to_owned(), text.into_bytes())];
        files.extend((number == 0).then(|| ("bin/busybox".to_owned(), program)));
        files
    };
    let archive = world.directory.join("image.tar");
    let mut layers: Vec<_> = (0..LAYERS).map(layer).collect();
    // The same layer twice, as an image may have it.
    layers.insert(LAYERS / 2, layer(LAYERS - 1));
    write_archive(&archive, "many", &layers);
    world.ok(&["image", "load", "-i", archive.to_str().unwrap()]);
    let script = "busybox ls /l | busybox wc -l; busybox cat /top; busybox echo new > /l/0; busybox cat /l/0";
    let found = world.ok(&[
        "run",
        "--rm",
        "--network",
        "none",
        "docker.io/library/many:latest",
        "/bin/busybox",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(found, format!("{LAYERS}\n{}\nnew\n", LAYERS - 1));
}
