//! How a container ends, and what is known of it afterwards; who sees to the processes that its program leaves behind.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{World, eventually};

fn state(world: &World, name: &str) -> serde_json::Value {
    serde_json::from_str(world.ok(&["inspect", "--format", "{{json .State}}", name]).trim()).unwrap()
}

/// What happened to it, in order, with the exit code where there is one.
fn events(world: &World, name: &str) -> Vec<String> {
    let filter = format!("container={name}");
    let text = world.ok(&["events", "--since", "1h", "--until", "0s", "--filter", &filter, "--format", "json"]);
    let events = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let words = events.map(|event| {
        let code = event["attributes"]["exitCode"].as_str().map(str::to_owned);
        [event["action"].as_str().map(str::to_owned), code].into_iter().flatten().collect::<Vec<_>>().join(" ")
    });
    words.collect()
}

/// Memory that ran out is told from a kill, of each run anew.
#[test]
fn the_reason_of_an_end_is_recorded() {
    let world = World::new();
    let run = ["run", "-d", "--network", "none"];
    world.ok(&[&run[..], &["--name", "hog", "--memory", "32m", "builtin:whoami", "hold", "200"]].concat());
    world.ok(&[&run[..], &["--name", "killed", "builtin:whoami", "sleep", "forever"]].concat());
    world.ok(&[&run[..], &["--name", "failed", "builtin:whoami", "exit", "7"]].concat());
    world.ok(&["kill", "killed"]);
    for (name, code, oom, expected) in [
        ("hog", 137, true, &["oom", "die 137"][..]),
        ("killed", 137, false, &["kill", "die 137"]),
        ("failed", 7, false, &["die 7"]),
    ] {
        eventually("it has ended", || world.field(name, "state") == "exited");
        let state = state(&world, name);
        assert_eq!((&state["ExitCode"], &state["OOMKilled"]), (&code.into(), &oom.into()), "{name}: {state}");
        let events = events(&world, name);
        assert!(
            events.ends_with(&expected.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>()),
            "{name}: {events:?}"
        );
    }
    // Again, and this time it is not the memory.
    world.ok(&["update", "--memory", "512m", "hog"]);
    world.ok(&["start", "hog"]);
    world.ok(&["stop", "-t", "0", "hog"]);
    assert_eq!(state(&world, "hog")["OOMKilled"], false);
    world.ok(&["rm", "hog", "killed", "failed"]);
}

/// Where an end by lack of memory is what a policy starts again for, it is counted as a failure.
#[test]
fn a_policy_starts_again_who_ran_out_of_memory() {
    let world = World::new();
    let flags = ["run", "-d", "--name", "hog", "--network", "none", "--memory", "32m", "--restart", "on-failure:2"];
    world.ok(&[&flags[..], &["builtin:whoami", "hold", "200"]].concat());
    eventually("it has ended for good", || world.field("hog", "state") == "exited");
    assert_eq!(world.field("hog", "restarts"), 2);
    let ends: Vec<String> =
        events(&world, "hog").into_iter().filter(|it| it == "oom" || it.starts_with("die")).collect();
    assert_eq!(ends, ["oom", "die 137", "oom", "die 137", "oom", "die 137"]);
    world.ok(&["rm", "hog"]);
}

/// Process ids in the container that are zombies, and those that are not.
fn processes(world: &World, name: &str) -> (usize, usize) {
    let first = world.field(name, "pid").to_string();
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(&first);
    // Of a zombie the namespace can't be read; its parent is process 1, as for all that are orphaned.
    let stat = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let parent = |stat: &str| stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let (mut dead, mut alive) = (0, 0);
    for (pid, stat) in all.filter_map(|pid| stat(&pid).map(|stat| (pid, stat))) {
        if stat.contains(") Z ") && parent(&stat) == first {
            dead += 1;
        } else if own.is_some() && namespace(&pid) == own {
            alive += 1;
        }
    }
    (dead, alive)
}

/// `init: true`: whoever is orphaned is collected. Without it nobody does, as process 1 is a program that knows nothing of it.
#[test]
fn zombies_are_collected_where_that_is_asked_for() {
    let world = World::with_shell();
    let script = "i=0; while test $i -lt 20; do (sleep 0.1 &); i=$((i+1)); done; exec sleep 100000";
    for (name, flags) in [("with", &["--init"][..]), ("without", &[])] {
        let run = ["run", "-d", "--name", name, "--network", "none"];
        world.ok(&[&run[..], flags, &["shell", "/bin/sh", "-c", script]].concat());
    }
    // The program, and process 1 in front of it.
    eventually("all are collected", || processes(&world, "with") == (0, 2));
    eventually("all have ended, and stay", || processes(&world, "without") == (20, 1));
    world.ok(&["rm", "-f", "with", "without"]);
}

/// As many processes as it may have, each of which wants to run and to have children: they are ended all at once.
#[test]
fn who_forks_without_end_is_ended_in_seconds() {
    let world = World::with_shell();
    let bomb = "b() { b | b & while :; do :; done; }; b";
    let run = ["run", "-d", "--name", "bomb", "--network", "none", "--pids-limit", "1000", "--cpus", "1"];
    world.ok(&[&run[..], &["shell", "/bin/sh", "-c", bomb]].concat());
    eventually("there are many", || processes(&world, "bomb").1 > 500);
    let began = Instant::now();
    world.ok(&["rm", "-f", "bomb"]);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
}

/// Through process 1 in front of it, too, and its exit code comes back.
#[test]
fn signals_reach_the_program_and_its_answer_is_the_containers() {
    let world = World::with_shell();
    let script = "trap 'echo hup' HUP; trap 'echo int; exit 5' INT; echo ready; while :; do sleep 0.05; done";
    for flags in [&[][..], &["--init"]] {
        let run = ["run", "-d", "--name", "it", "--network", "none", "--stop-signal", "INT"];
        world.ok(&[&run[..], flags, &["shell", "/bin/sh", "-c", script]].concat());
        eventually("it listens", || world.ok(&["logs", "it"]).contains("ready"));
        world.ok(&["kill", "-s", "HUP", "it"]);
        eventually("it has heard", || world.ok(&["logs", "it"]).contains("hup"));
        assert_eq!(world.field("it", "state"), "running", "{flags:?}");
        let begun = Instant::now();
        world.ok(&["stop", "-t", "60", "it"]);
        assert!(begun.elapsed() < Duration::from_secs(30), "{flags:?}");
        assert_eq!(world.ok(&["logs", "it"]), "ready\nhup\nint\n", "{flags:?}");
        assert_eq!(world.field("it", "exit_code"), 5, "{flags:?}");
        world.ok(&["rm", "it"]);
    }
}

/// Clients that do not read are told of the end for a moment, all of them together.
#[test]
fn an_end_does_not_wait_for_who_does_not_listen() {
    let world = World::with_shell();
    let flags = ["run", "-d", "-i", "--name", "noisy", "--network", "none", "--log-driver", "none"];
    world.ok(&[&flags[..], &["shell", "/bin/sh", "-c", "read go; exec /bin/busybox yes"]].concat());
    let mut clients: Vec<_> = (0..4)
        .map(|_| world.command(&["attach", "noisy"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    std::io::Write::write_all(clients[0].stdin.as_mut().unwrap(), b"go\n").unwrap();
    let supervisor: i32 = world.ok(&["inspect", "--format", "{{.Stack.Supervisor}}", "noisy"]).trim().parse().unwrap();
    let begun = Instant::now();
    world.ok(&["kill", "noisy"]);
    eventually("it has ended", || world.field("noisy", "state") == "exited");
    eventually("its supervisor has gone", || stack::runtime::container::ProcessId::of(supervisor).start == 0);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    for client in &mut clients {
        client.kill().unwrap();
        client.wait().unwrap();
    }
    world.ok(&["rm", "noisy"]);
}
