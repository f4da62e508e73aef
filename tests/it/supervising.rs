//! What the supervisor does when nobody looks: it outlives terminals, keeps logs within bounds, and restarts with pauses.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::support::terminal::Terminal;
use crate::support::{World, eventually, free_port};

/// A shell on a terminal has started containers in each of the ways there are; then the window is closed: whoever is on
/// the terminal gets SIGHUP.
#[test]
fn the_end_of_a_terminal_is_not_the_end_of_containers() {
    let world = World::new();
    world.busybox("root");
    world.file(
        "stack.yaml",
        "name: s\ncontainers: {applied: {image: \"builtin:whoami\", command: [sleep, forever], network_mode: none, stop_grace_period: 1s}}\n",
    );
    let mut shell = std::process::Command::new("sh");
    let program = world.roots.program.display();
    shell.arg("-c").arg(format!(
        "{program} apply stack.yaml; {program} run -d --name loose --network none builtin:whoami sleep forever; \
         {program} run --name watched --network none builtin:whoami sleep forever"
    ));
    shell.env("STACK_ROOT", &world.roots.root).env("STACK_RUN_ROOT", &world.roots.run).current_dir(&world.directory);
    let mut terminal = Terminal::start(shell);
    let names = ["s-applied-1", "loose", "watched"];
    eventually("all run", || names.iter().all(|name| world.field(name, "state") == "running"));
    let pids = names.map(|name| world.field(name, "pid"));
    let leader = terminal.pid();
    terminal.close();
    eventually("whoever was on the terminal is gone", || !Path::new(&format!("/proc/{leader}")).exists());
    for (name, pid) in names.into_iter().zip(pids) {
        assert_eq!((world.field(name, "state"), world.field(name, "pid")), ("running".into(), pid), "{name}");
        world.ok(&["exec", name, "/whoami", "true"]);
    }
    world.ok(&["rm", "-f", "loose", "watched"]);
    world.ok(&["destroy", "s"]);
}

/// More than fits into its files: they stay within their bounds, and who follows misses nothing.
#[test]
fn a_log_that_rotates_is_followed_without_a_gap() {
    let world = World::new();
    let bounds = ["--log-opt", "max-size=20k", "--log-opt", "max-file=3"];
    let what = ["--network", "none", "-i", "builtin:whoami", "cat"];
    let mut command = world.command(&[&["run", "--name", "talk"], &bounds[..], &what].concat());
    let mut talk = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut input = talk.stdin.take().unwrap();
    eventually("it runs", || world.field("talk", "state") == "running");
    let mut follow = world.command(&["logs", "-f", "talk"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    // Each is seen before the next is written, so that the reader is never a whole file behind.
    for number in 0..1500 {
        std::io::Write::write_all(&mut input, format!("line {number}\n").as_bytes()).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), format!("line {number}"));
    }
    let logs = world.roots.root.join("containers/talk/log");
    let mut files: Vec<(String, u64)> = fs::read_dir(&logs)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
        .collect();
    files.sort();
    assert_eq!(
        files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["json.log", "json.log.1", "json.log.2"]
    );
    assert!(files.iter().all(|(_, size)| *size <= 20 << 10), "{files:?}");
    drop(input);
    assert!(lines.next().is_none());
    assert!(talk.wait().unwrap().success() && follow.wait().unwrap().success());
    // What is left begins somewhere and ends with the last.
    let kept = world.ok(&["logs", "talk"]);
    let kept: Vec<&str> = kept.lines().collect();
    assert!(kept.len() > 100 && kept.len() < 1500 && *kept.last().unwrap() == "line 1499", "{}", kept.len());
    let times = world.ok(&["logs", "-t", "talk"]);
    let times: Vec<&str> = times.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1]) && times.iter().all(|time| time.ends_with('Z')));
    world.ok(&["rm", "talk"]);
}

/// 100 ms, then twice as long each time.
/// `run` forks the supervisor off, whose words and variables were the command's.
#[test]
fn a_supervisor_shows_nothing_of_the_command_that_it_came_from() {
    let world = World::new();
    let words =
        ["run", "--name", "it", "--network", "none", "-e", "KEY=hush-hush", "builtin:whoami", "sleep", "forever"];
    let mut run = world.command(&words).stdout(Stdio::null()).spawn().unwrap();
    eventually("it runs", || world.run(&["inspect", "it"]).code == 0 && world.field("it", "state") == "running");
    let status = fs::read(world.roots.run.join("containers/it/status.json")).unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    let supervisor = &status["shim"]["pid"];
    assert_ne!(supervisor, run.id());
    let shown = fs::read_to_string(format!("/proc/{supervisor}/cmdline")).unwrap();
    assert!(!shown.contains("hush"), "{shown:?}");
    world.ok(&["rm", "-f", "it"]);
    run.wait().unwrap();
}

#[test]
fn the_pauses_between_restarts_double() {
    let world = World::new();
    let policy = ["run", "-d", "--name", "it", "--network", "none", "--restart", "on-failure:4"];
    world.ok(&[&policy[..], &["builtin:whoami", "cat", "/nosuch"]].concat());
    world.ok(&["wait", "it"]);
    assert_eq!(world.field("it", "restarts"), 4);
    let log = world.ok(&["logs", "-t", "it"]) + &world.run(&["logs", "-t", "it"]).stderr;
    let times: Vec<Duration> = log
        .lines()
        .filter_map(|line| line.split(' ').next()?.parse::<jiff::Timestamp>().ok())
        .map(|time| Duration::from_nanos(time.as_nanosecond() as u64))
        .collect();
    assert_eq!(times.len(), 5, "{log}");
    for (pair, least) in times.windows(2).zip([100, 200, 400, 800]) {
        let pause = pair[1] - pair[0];
        assert!(pause >= Duration::from_millis(least), "{pause:?} instead of {least} ms");
    }
    world.ok(&["rm", "it"]);
}

/// A lock or a pipe of whoever typed the command is not held for as long as the container runs.
#[test]
fn nothing_of_the_caller_is_kept_open() {
    let world = World::new();
    let (mut read, write) = std::io::pipe().unwrap();
    fcntl(&write, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let port = free_port();
    let file = world.file(
        "stack.yaml",
        &format!(
            "name: s\ncontainers: {{a: {{image: \"builtin:whoami\", ports: [\"{port}:80\"], stop_grace_period: 1s}}}}\n"
        ),
    );
    world.ok(&["apply", file.to_str().unwrap()]);
    world.ok(&["run", "-d", "--name", "it", "--network", "none", "builtin:whoami", "sleep", "forever"]);
    drop(write);
    // Other tests fork too, and their children have the descriptor until they execute something.
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut read, &mut rest).unwrap();
    assert_eq!(world.field("s-a-1", "state"), "running");
    world.ok(&["rm", "-f", "it"]);
    world.ok(&["destroy", "s"]);
}
