//! Programs of containers on the user's terminal: keys, job control, sizes, detaching, and a terminal that is left as it
//! was found.

use nix::sys::signal::Signal;

use crate::support::terminal::Terminal;
use crate::support::{World, eventually};

/// A world with the image `shell:latest`, and a container `box` of it that runs.
fn with_shell() -> World {
    let world = World::new();
    world.busybox("root");
    let archive = world.archive("shell", "root", &serde_json::json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}));
    world.ok(&["image", "load", "-i", archive.to_str().unwrap()]);
    world.ok(&["run", "-d", "--init", "--name", "box", "--network", "none", "shell:latest", "sleep", "100000"]);
    world
}

const RUN: &[&str] = &["run", "--rm", "-it", "--name", "front", "--network", "none", "shell:latest"];
const EXEC: &[&str] = &["exec", "-it", "box", "sh"];

fn shell(world: &World, words: &[&str]) -> Terminal {
    let mut terminal = world.terminal(words);
    terminal.reads("/ # ");
    terminal
}

#[test]
fn a_shell_has_size_job_control_and_signals() {
    let world = with_shell();
    for words in [RUN, EXEC] {
        let mut terminal = shell(&world, words);
        assert!(!terminal.is_sane(), "keys are to be passed on as they are");
        terminal.types("busybox stty size\n");
        terminal.reads("30 100");
        terminal.resize(41, 123);
        // The size is passed on by another process: it is asked for until it has come.
        terminal.types("until busybox stty size | grep '41 123'; do :; done\n");
        terminal.reads("\n41 123");
        terminal.types("sh -c 'echo started; exec sleep 1000'\n");
        terminal.reads("\nstarted");
        terminal.types("\x03");
        terminal.reads("/ # ");
        terminal.types("echo code $?\n");
        terminal.reads("code 130");
        terminal.types("sh -c 'echo started; exec sleep 1000'\n");
        terminal.reads("\nstarted");
        terminal.types("\x1a");
        terminal.reads("Stopped");
        terminal.types("kill -9 %1; echo $TERM; exit 7\n");
        terminal.reads("xterm\r\n");
        // A shell asks twice where jobs are left.
        terminal.types("exit 7\n");
        let (code, rest) = terminal.end();
        assert_eq!(code, 7, "{rest}");
        assert!(terminal.is_sane());
    }
    world.ok(&["rm", "-f", "box"]);
    assert_eq!(world.names(), [""; 0]);
}

/// Keys that are typed while the window changes its size are not lost behind it.
#[test]
fn typing_and_resizing_at_once_loses_nothing() {
    let world = with_shell();
    let mut terminal = shell(&world, RUN);
    for number in 0..50 {
        terminal.resize(30 + number, 100);
        terminal.types(&format!("echo at-{number}-end\n"));
        terminal.reads(&format!("\nat-{number}-end"));
    }
    terminal.types("exit\n");
    assert_eq!(terminal.end().0, 0);
    world.ok(&["rm", "-f", "box"]);
}

#[test]
fn a_terminal_is_given_back_when_the_command_is_told_to_end() {
    let world = with_shell();
    for (words, signal) in [(RUN, Signal::SIGTERM), (EXEC, Signal::SIGTERM), (EXEC, Signal::SIGHUP)] {
        let mut terminal = shell(&world, words);
        assert!(!terminal.is_sane());
        terminal.signal(signal);
        assert_eq!(terminal.end().0, 128 + signal as i32);
        assert!(terminal.is_sane(), "{words:?}");
    }
    // As with docker, the container runs on; what was to go with its end still does.
    assert_eq!(world.field("front", "state"), "running");
    world.ok(&["stop", "-t", "0", "front"]);
    eventually("it is gone", || world.names() == ["box"]);
    eventually("shells of exec have ended with their terminal", || !world.ok(&["top", "box"]).contains("sh\n"));
    world.ok(&["rm", "-f", "box"]);
}

#[test]
fn detach_keys_leave_the_container_running() {
    let world = with_shell();
    let mut terminal = shell(&world, &["run", "-it", "--name", "left", "--network", "none", "shell:latest"]);
    terminal.types("\x10\x11");
    let (code, said) = terminal.end();
    assert_eq!(code, 0);
    assert!(said.contains("left runs on") && terminal.is_sane(), "{said}");
    assert_eq!(world.field("left", "state"), "running");
    let mut terminal = world.terminal(&["attach", "--detach-keys", "ctrl-a,d", "left"]);
    // A Ctrl-P alone is the shell's; Enter first, so that there is a prompt.
    terminal.types("\n");
    terminal.reads("/ # ");
    terminal.types("echo here\n");
    terminal.reads("\nhere");
    terminal.types("\x01d");
    assert_eq!(terminal.end().0, 0);
    let mut terminal = world.terminal(&["attach", "left"]);
    terminal.types("exit 4\n");
    assert_eq!(terminal.end().0, 4);
    let mut terminal = shell(&world, &["start", "-a", "-i", "left"]);
    terminal.types("exit 5\n");
    assert_eq!(terminal.end().0, 5);
    world.ok(&["rm", "-f", "left", "box"]);
}

/// Without a terminal of its own, Ctrl-C is passed on; one that does not listen is left at the third.
#[test]
fn ctrl_c_reaches_a_program_without_a_terminal() {
    let world = with_shell();
    let run = |words: &[&str]| {
        world.terminal(&[&["run", "--rm", "--name", "front", "--network", "none", "shell:latest"], words].concat())
    };
    let mut terminal = run(&["sh", "-c", "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done"]);
    terminal.reads("ready");
    terminal.types("\x03");
    terminal.reads("caught");
    assert_eq!(terminal.end().0, 9);
    let mut terminal = run(&["sh", "-c", "trap '' INT; echo ready; while :; do sleep 1; done"]);
    terminal.reads("ready");
    // Two that come at once are one to the kernel.
    eventually("it has had enough", || {
        terminal.types("\x03");
        terminal.has_ended()
    });
    assert_eq!(terminal.end().0, 130);
    eventually("it is gone", || world.names() == ["box"]);
    world.ok(&["rm", "-f", "box"]);
}

#[test]
fn progress_is_drawn_on_a_terminal_only() {
    let world = World::new();
    let file = world.file("stack.yaml", "name: s\ncontainers: {a: {image: \"builtin:whoami\", network_mode: none}}\n");
    let file = file.to_str().unwrap();
    let mut terminal = world.terminal(&["apply", file]);
    let (code, said) = terminal.end();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("✔") && said.contains("start container/a-1") && said.contains("s: "), "{said}");
    assert!(said.contains("\x1b[32m"), "{said:?}");
    world.ok(&["destroy", "s"]);
    let mut command = world.command(&["apply", file]);
    command.env("NO_COLOR", "1");
    let (code, said) = Terminal::start(command).end();
    assert!(code == 0 && !said.contains("\x1b[32m"), "{said:?}");
    let quiet = world.terminal(&["apply", "--quiet", file]).end();
    assert_eq!(quiet, (0, String::new()));
    let plain = world.run(&["destroy", "s"]);
    assert!(plain.stderr.contains("  done     stop container/a-1\n"), "{plain:?}");
    assert!(!plain.stderr.contains('\x1b'), "{plain:?}");
}
