//! Supervisors that nobody notices: one that has nothing to do is hardly there, and one that was killed is replaced.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stack::runtime::container::ProcessId;

use crate::support::{World, as_root_of, eventually};

/// What one container may cost in memory while it only runs, in KiB. Two pages are what it takes.
const LARGEST: u64 = 64;

/// Says what it is given in /tmp/say, and ends with code 3 when it is asked to.
const TALKER: &str = "trap 'echo bye; exit 3' TERM; echo begun; \
    while :; do if test -e /tmp/say; then cat /tmp/say; rm /tmp/say; fi; sleep 0.02; done";

fn status(world: &World, name: &str) -> serde_json::Value {
    let path = world.roots.run.join("containers").join(name).join("status.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn supervisor(world: &World, name: &str) -> i32 {
    status(world, name)["shim"]["pid"].as_i64().unwrap() as i32
}

fn program(world: &World, name: &str) -> i32 {
    status(world, name)["process"]["pid"].as_i64().unwrap() as i32
}

/// One number of a file such as /proc/PID/smaps_rollup.
fn number(path: &Path, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(u64::MAX)
}

fn share_kib(pid: i32) -> u64 {
    number(&PathBuf::from(format!("/proc/{pid}/smaps_rollup")), "Pss")
}

fn until_asleep(world: &World, name: &str) {
    let pid = supervisor(world, name);
    eventually("its supervisor sleeps", || share_kib(pid) <= LARGEST);
}

fn kill_supervisor(world: &World, name: &str) {
    let pid = supervisor(world, name);
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    eventually("its supervisor is gone", || ProcessId::of(pid).start == 0);
}

fn image(world: &World) {
    world.busybox("root");
    let archive = world.archive("talk.tar", "root", &serde_json::json!({}));
    world.ok(&["load", "-i", archive.to_str().unwrap()]);
}

fn talker(world: &World, name: &str, more: &[&str]) {
    if !world.directory.join("talk.tar").exists() {
        image(world);
    }
    let base = ["run", "-d", "--name", name, "--network", "none"];
    world.ok(&[&base[..], more, &["talk.tar", "/bin/sh", "-c", TALKER]].concat());
    eventually("it has begun", || world.ok(&["logs", name]).contains("begun"));
}

fn say(pid: i32, text: &str) {
    let folder = PathBuf::from(format!("/proc/{pid}/root/tmp"));
    as_root_of(pid, || {
        fs::write(folder.join("new"), text).unwrap();
        fs::rename(folder.join("new"), folder.join("say")).unwrap();
    });
    eventually("it has said that", || !folder.join("say").exists());
}

#[test]
fn a_supervisor_without_work_takes_next_to_nothing_and_does_not_wake_up() {
    let world = World::new();
    let names = ["one", "two", "three"];
    let check = ["--health-cmd", "/whoami true", "--health-interval", "1h"];
    for (name, more) in names.iter().zip([&[][..], &[], &check]) {
        let base = ["run", "-d", "--name", name, "--network", "none"];
        world.ok(&[&base[..], more, &["builtin:whoami", "sleep", "forever"]].concat());
    }
    for name in names {
        until_asleep(&world, name);
    }
    let switches = |name: &&str| {
        let path = PathBuf::from(format!("/proc/{}/status", supervisor(&world, name)));
        number(&path, "voluntary_ctxt_switches")
    };
    let before: Vec<u64> = names.iter().map(switches).collect();
    for _ in 0..10 {
        world.ok(&["run", "--rm", "--network", "none", "builtin:whoami", "true"]);
        assert_eq!(world.names(), ["one", "three", "two"]);
        world.ok(&["exec", "one", "/whoami", "true"]);
    }
    assert_eq!(names.iter().map(switches).collect::<Vec<_>>(), before, "somebody woke up");
    world.ok(&["rm", "-f", "one", "two", "three"]);
}

/// It wakes up as who it was: with its clients, the beginning of a line, its container's exit code, and what it was told.
#[test]
fn a_supervisor_that_slept_knows_everything() {
    let world = World::new();
    image(&world);
    let what = ["run", "--name", "it", "--network", "none", "-i", "--memory", "64m", "talk.tar", "/bin/cat"];
    let mut command = world.command(&what);
    let mut run = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = run.stdin.take().unwrap();
    let mut output = BufReader::new(run.stdout.take().unwrap());
    eventually("it runs", || world.field("it", "state") == "running");
    for piece in ["he", "llo", " there\n"] {
        until_asleep(&world, "it");
        input.write_all(piece.as_bytes()).unwrap();
        // Nothing of a line is held back from who is attached.
        let mut heard = vec![0; piece.len()];
        std::io::Read::read_exact(&mut output, &mut heard).unwrap();
        assert_eq!(heard, piece.as_bytes());
    }
    until_asleep(&world, "it");
    let pid = supervisor(&world, "it");
    assert_eq!(world.ok(&["logs", "it"]), "hello there\n");
    world.ok(&["rename", "it", "other"]);
    until_asleep(&world, "other");
    world.ok(&["update", "--memory", "32m", "other"]);
    until_asleep(&world, "other");
    world.ok(&["pause", "other"]);
    assert_eq!(world.field("other", "state"), "paused");
    until_asleep(&world, "other");
    world.ok(&["unpause", "other"]);
    until_asleep(&world, "other");
    assert_eq!(supervisor(&world, "other"), pid);
    drop(input);
    assert!(run.wait().unwrap().success());
    let mut rest = String::new();
    assert_eq!(output.read_line(&mut rest).unwrap(), 0, "{rest}");
    assert_eq!(world.field("other", "state"), "exited");
    world.ok(&["rm", "other"]);
}

#[test]
fn a_container_outlives_its_supervisor_and_gets_another() {
    let world = World::new();
    talker(&world, "it", &[]);
    let (first, pid) = (supervisor(&world, "it"), program(&world, "it"));
    for asleep in [false, true] {
        if asleep {
            until_asleep(&world, "it");
        }
        kill_supervisor(&world, "it");
        say(pid, &format!("while nobody listens, asleep {asleep}\n"));
        assert_eq!((world.field("it", "state"), world.field("it", "pid")), ("running".into(), pid.into()));
        eventually("what it said is in its log", || {
            world.ok(&["logs", "it"]).contains(&format!("while nobody listens, asleep {asleep}\n"))
        });
        world.ok(&["exec", "it", "/bin/test", "1"]);
    }
    assert_ne!(supervisor(&world, "it"), first);
    say(pid, "again\n");
    eventually("its log goes on", || world.ok(&["logs", "it"]).ends_with("again\n"));
    // The very command that asks replaces it, too.
    kill_supervisor(&world, "it");
    world.ok(&["stop", "it"]);
    assert!(world.ok(&["logs", "it"]).ends_with("bye\n"));
    known_or_said(&world, "it", 3);
    world.ok(&["rm", "it"]);
}

/// The kernel tells the code of another one's child since Linux 6.15; before, nobody claims to know it.
fn known_or_said(world: &World, name: &str, code: i64) {
    let found: serde_json::Value = serde_json::from_str(&world.ok(&["inspect", name])).unwrap();
    let state = &found[0]["State"];
    assert_eq!(state["Status"], "exited");
    let said = state["Error"].as_str().unwrap().contains("exit code is not known");
    assert!(state["ExitCode"] == code || state["ExitCode"] == 255 && said, "{state}");
}

#[test]
fn who_waits_and_who_stops_are_not_left_alone() {
    let world = World::new();
    talker(&world, "it", &[]);
    let mut wait = world.command(&["wait", "it"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut attached = world.command(&["attach", "--no-stdin", "it"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(attached.stdout.take().unwrap()).lines().map_while(Result::ok);
    let (sender, heard) = mpsc::channel();
    std::thread::spawn(move || lines.for_each(|line| drop(sender.send(line))));
    let pid = program(&world, "it");
    // What was said before it was attached, it does not hear.
    eventually("it is attached", || {
        say(pid, "before\n");
        heard.recv_timeout(Duration::from_millis(100)).is_ok_and(|line| line == "before")
    });
    let first = supervisor(&world, "it");
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    eventually("one of the two replaces it", || supervisor(&world, "it") != first);
    say(pid, "after\n");
    assert_eq!(heard.iter().find(|line| line != "before").as_deref(), Some("after"));
    // It takes no notice of being asked, and its supervisor is killed while the command waits.
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let stop = world.command(&["stop", "-t", "1", "it"]).stdout(Stdio::null()).spawn().unwrap();
    let second = supervisor(&world, "it");
    eventually("it was asked", || pending(pid));
    kill(Pid::from_raw(second), Signal::SIGKILL).unwrap();
    assert_eq!(crate::support::finish(stop, &["stop"]).code, 0);
    known_or_said(&world, "it", 137);
    assert!(wait.wait().unwrap().success());
    attached.wait().unwrap();
    world.ok(&["rm", "it"]);
}

/// Whether SIGTERM waits for the process.
fn pending(pid: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = text.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap_or("0");
    u64::from_str_radix(mask.trim(), 16).unwrap() & 1 << (Signal::SIGTERM as u64 - 1) != 0
}

#[test]
fn restart_policies_hold_for_who_ended_unseen_and_after() {
    let world = World::new();
    talker(&world, "comes", &["--restart", "always"]);
    talker(&world, "stays", &[]);
    for name in ["comes", "stays"] {
        let pid = program(&world, name);
        kill_supervisor(&world, name);
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        eventually("it has ended", || ProcessId::of(pid).start == 0);
    }
    eventually("its policy brings it back", || world.field("comes", "state") == "running");
    let found: serde_json::Value = serde_json::from_str(&world.ok(&["inspect", "stays"])).unwrap();
    assert_eq!((&found[0]["State"]["Status"], &found[0]["State"]["ExitCode"]), (&"exited".into(), &255.into()));
    assert!(found[0]["State"]["Error"].as_str().unwrap().contains("not known"), "{found}");
    // And once more, of a program whose second supervisor sees its end.
    kill_supervisor(&world, "comes");
    let (pid, killed) = (program(&world, "comes"), supervisor(&world, "comes"));
    assert_eq!(world.ok(&["inspect", "--format", "{{.State.Pid}}", "comes"]), format!("{pid}\n"));
    assert_ne!(supervisor(&world, "comes"), killed);
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    // In this order: what is asked for its state may still be the one that ends.
    let is_another = |now: i32| now > 0 && now != pid;
    eventually("it is another one", || {
        is_another(program(&world, "comes")) && world.field("comes", "state") == "running"
    });
    world.ok(&["exec", "comes", "/bin/test", "1"]);
    world.ok(&["rm", "-f", "comes", "stays"]);
}

/// What lives by its supervisor's terminal ends with it, and that is said.
#[test]
fn a_terminal_ends_with_its_supervisor() {
    let world = World::new();
    world.ok(&["run", "-dt", "--name", "it", "--network", "none", "builtin:whoami", "sleep", "forever"]);
    let pid = program(&world, "it");
    kill_supervisor(&world, "it");
    eventually("it has ended", || ProcessId::of(pid).start == 0);
    assert_eq!((world.field("it", "state"), world.field("it", "exit_code")), ("exited".into(), 137.into()));
    world.ok(&["rm", "it"]);
}

/// From its first instruction to long after its program has started.
#[test]
fn a_supervisor_killed_at_any_moment_leaves_a_container_that_can_be_started() {
    const MOMENTS: u64 = 24;
    let world = World::new();
    world.ok(&["run", "--rm", "--network", "none", "builtin:whoami", "true"]);
    let marker = format!("{}", world.roots.root.display());
    for moment in 0..MOMENTS {
        let words = ["run", "-d", "--name", "it", "--network", "none", "builtin:whoami", "sleep", "forever"];
        let run = world.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let is_supervisor = |(_, line): &(u32, String)| line.contains(" shim ") && line.contains(&marker);
        let mut shims = Vec::new();
        eventually("there is a supervisor", || {
            shims = crate::support::processes().into_iter().filter(is_supervisor).collect();
            !shims.is_empty()
        });
        // What is tried is time itself.
        std::thread::sleep(std::time::Duration::from_micros(moment * 500));
        let found = crate::support::processes().into_iter().filter(is_supervisor);
        let killed: Vec<ProcessId> = found.map(|(pid, _)| ProcessId::of(pid as i32)).collect();
        for process in &killed {
            kill(Pid::from_raw(process.pid), Signal::SIGKILL).ok();
        }
        // A program that has not become the container's own yet is among them: it runs for as long as it takes to die.
        eventually("they are gone", || !killed.iter().any(|process| process.is_alive()));
        crate::support::finish(run, &words);
        world.ok(&["start", "it"]);
        assert_eq!(world.field("it", "state"), "running", "moment {moment}");
        world.ok(&["exec", "it", "/whoami", "true"]);
        world.ok(&["rm", "-f", "it"]);
        assert_eq!(world.left(), Vec::<String>::new(), "moment {moment}");
    }
}
