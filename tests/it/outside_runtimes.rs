//! Containers whose processes a runtime of others makes: the engine's own in everything else, by what the kernel shows and
//! by what is left afterwards.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{World, eventually, free_port};

/// A world with the image `shell`, for containers without a network.
fn world() -> World {
    let world = World::new();
    world.busybox("root");
    let archive = world.archive("shell", "root", &serde_json::json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}));
    world.ok(&["load", "-q", "-i", archive.to_str().unwrap()]);
    world
}

/// Says that it has begun, and ends with code 3 when it is asked to.
const PATIENT: &str = "trap 'echo bye; exit 3' TERM; echo begun; while :; do sleep 0.02; done";
const RUNC: [&str; 4] = ["--runtime", "runc", "--network", "none"];

/// Whether the host has control groups of version 2 alone.
fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Those of Debian that work on this host; crun does not where both versions are mounted.
fn runtimes() -> &'static [&'static str] {
    if is_unified() { &["runc", "crun"] } else { &["runc"] }
}

fn flags(runtime: &str) -> [&str; 4] {
    ["--runtime", runtime, "--network", "none"]
}

fn background(world: &World, runtime: &str, name: &str, more: &[&str]) {
    world.ok(&[&["run", "-d", "--name", name], &flags(runtime)[..], more, &["shell", "sh", "-c", PATIENT]].concat());
    eventually("it has begun", || world.ok(&["logs", name]).contains("begun"));
}

fn inspect(world: &World, name: &str) -> Value {
    serde_json::from_str::<Value>(&world.ok(&["inspect", name])).unwrap()[0].clone()
}

/// What its runtime itself says of the container with this name.
fn state(world: &World, name: &str) -> Value {
    let found = inspect(world, name);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (id, runtime) = (text(&found["Id"]), text(&found["HostConfig"]["Runtime"]));
    let root = world.roots.run.join("outside").join(&id[..12]).join("state");
    let output = std::process::Command::new(runtime).arg("--root").arg(root).args(["state", &id]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

fn supervisor(world: &World, name: &str) -> i32 {
    inspect(world, name)["Stack"]["Supervisor"].as_i64().unwrap() as i32
}

fn pid(world: &World, name: &str) -> i32 {
    world.field(name, "pid").as_i64().unwrap() as i32
}

/// The file of the container's group, of either version.
fn group(pid: i32, controller: &str, file: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let line = text.lines().find(|line| line.split(':').nth(1) == Some(controller));
    let path = line.or_else(|| text.lines().last()).unwrap().rsplit(':').next().unwrap().trim_start_matches('/');
    let top =
        if line.is_some() { Path::new("/sys/fs/cgroup").join(controller) } else { PathBuf::from("/sys/fs/cgroup") };
    fs::read_to_string(top.join(path).join(file)).unwrap().trim().to_owned()
}

#[test]
fn exit_codes_output_and_input_are_the_programs() {
    let world = world();
    for runtime in runtimes() {
        let base = [&["run", "--rm", "-i"], &flags(runtime)[..]].concat();
        let run = |more: &[&str], words: &[&str]| world.run(&[&base[..], more, &["shell"], words].concat());
        let output = run(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (7, "out\n", "err\n"), "{runtime}");
        assert_eq!(run(&[], &["sh", "-c", "kill -9 $$; exit 1"]).code, 1, "process 1 of a namespace is spared that");
        let words = [&base[..], &["shell", "cat"]].concat();
        assert_eq!(world.run_with(&words, "to the end").stdout, "to the end");
        for (program, code) in [("nosuch", 127), ("/nosuch", 127), ("/etc/passwd", 126)] {
            let output = run(&[], &[program]);
            assert_eq!(output.code, code, "{runtime} {program}: {output:?}");
            assert!(output.stderr.contains(&format!("exec {program:?}")), "{output:?}");
        }
        // With a process 1 of the engine's in front.
        let output = run(&["--init"], &["sh", "-c", "echo $$; exit 5"]);
        assert_eq!(output.code, 5, "{output:?}");
        assert_ne!(output.stdout, "1\n");
    }
    assert_eq!(world.names(), [""; 0]);
}

/// The engine's own defaults hold whoever makes the process: what differs is written down here.
#[test]
fn it_may_do_what_a_container_of_the_engines_own_may() {
    let world = World::new();
    crate::probe::image(&world);
    let probe = |more: &[&str]| world.ok(&[&["run", "--rm", "--network", "none"], more, &["probe"]].concat());
    // A filter of libseccomp's kills programs of other machines; runc hides with what can be written to, and is lost.
    let known = ["call x32 getpid: ended with status 0x1f", "mount /proc/PLACE cover rw"];
    let compare = |flags: &[&str], theirs: &str| {
        // A container of an outside runtime is on the host's ids.
        let own = probe(&[&["--userns", "host"], flags].concat());
        let differing = |line: &&str| !own.lines().any(|one| one == *line) && !known.contains(line);
        assert_eq!(theirs.lines().filter(differing).collect::<Vec<_>>(), [""; 0], "{flags:?}: {own}");
    };
    for flags in [
        &[][..],
        &["--user", "app"],
        &["--cap-add", "SYS_ADMIN", "--cap-add", "NET_RAW"],
        &["--privileged"],
        &["--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined"],
    ] {
        compare(flags, &probe(&[&["--runtime", "runc"], flags].concat()));
    }
    world.ok(&[&["run", "-d", "--name", "box"], &RUNC[..], &["probe", "sleep", "1000000"]].concat());
    compare(&[], &world.ok(&["exec", "box", "probe"]));
    compare(&["--user", "app"], &world.ok(&["exec", "-u", "app", "box", "probe"]));
    world.ok(&["rm", "-f", "box"]);
}

#[test]
fn a_container_is_stopped_paused_changed_and_started_again() {
    let world = world();
    runtimes().iter().for_each(|runtime| is_led(&world, runtime));
}

fn is_led(world: &World, runtime: &str) {
    background(world, runtime, "it", &["--memory", "64m", "--pids-limit", "50", "--restart", "always"]);
    assert_eq!(state(world, "it")["status"], "running");
    assert_eq!(inspect(world, "it")["HostConfig"]["Runtime"], runtime);
    let first = pid(world, "it");
    let memory = || {
        let pid = pid(world, "it");
        match Path::new("/sys/fs/cgroup/memory").is_dir() {
            true => group(pid, "memory", "memory.limit_in_bytes"),
            false => group(pid, "memory", "memory.max"),
        }
    };
    assert_eq!(memory(), (64 << 20).to_string());
    assert_eq!(group(first, "pids", "pids.max"), "50");
    world.ok(&["update", "--memory", "32m", "it"]);
    assert_eq!(memory(), (32 << 20).to_string());
    world.ok(&["pause", "it"]);
    assert_eq!((world.field("it", "state"), state(world, "it")["status"].clone()), ("paused".into(), "paused".into()));
    world.ok(&["unpause", "it"]);
    assert!(world.ok(&["top", "it"]).contains("trap"));
    assert!(world.ok(&["stats", "--no-stream", "it"]).contains("32MiB"));
    // Its policy brings it back, and a stop by command does not.
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    eventually("it is another one", || ![0, first].contains(&pid(world, "it")));
    assert_eq!(world.field("it", "restarts"), 1);
    assert_eq!(memory(), (32 << 20).to_string());
    world.ok(&["rename", "it", "other"]);
    eventually("it has begun again", || world.ok(&["logs", "other"]).matches("begun").count() == 2);
    world.ok(&["stop", "other"]);
    assert_eq!((world.field("other", "state"), world.field("other", "exit_code")), ("exited".into(), 3.into()));
    assert!(world.ok(&["logs", "other"]).ends_with("bye\n"));
    assert_eq!(
        fs::read_dir(world.roots.run.join("outside")).unwrap().count(),
        0,
        "nothing of it is left when it ended"
    );
    world.ok(&["start", "other"]);
    eventually("it has begun", || world.ok(&["logs", "other"]).matches("begun").count() == 3);
    world.ok(&["rm", "-f", "other"]);
}

#[test]
fn who_does_not_listen_is_killed_when_its_time_is_up() {
    let world = world();
    let words = ["shell", "sh", "-c", "trap '' TERM; echo begun; while :; do sleep 0.02; done"];
    for runtime in runtimes() {
        world.ok(&[&["run", "-d", "--name", "deaf", "--stop-timeout", "1"], &flags(runtime)[..], &words].concat());
        eventually("it has begun", || world.ok(&["logs", "deaf"]).contains("begun"));
        world.ok(&["stop", "deaf"]);
        assert_eq!(world.field("deaf", "exit_code"), 137);
        world.ok(&["rm", "deaf"]);
    }
}

/// Namespaces and memory of others, the host's network, files that are read-only to the last mount, and the memory that
/// runs out.
#[test]
fn what_the_engine_shares_and_limits_holds_under_other_runtimes() {
    let world = world();
    for runtime in runtimes() {
        let run = |more: &[&str], words: &[&str]| {
            world.run(&[&["run", "--rm", "--runtime", runtime], more, &["shell"], words].concat())
        };
        world.ok(&["run", "-d", "--name", "other", "--network", "none", "shell", "sh", "-c", PATIENT]);
        let namespace = |kind: &str| {
            let link = fs::read_link(format!("/proc/{}/ns/{kind}", pid(&world, "other"))).unwrap();
            format!("{}\n", link.display())
        };
        let shared = ["--network", "container:other", "--pid", "container:other", "--ipc", "container:other"];
        for kind in ["net", "pid", "ipc"] {
            let output = run(&shared, &["busybox", "readlink", &format!("/proc/self/ns/{kind}")]);
            assert_eq!(output.stdout, namespace(kind), "{runtime}: {output:?}");
        }
        world.ok(&["exec", "other", "sh", "-c", "echo shared > /dev/shm/note"]);
        assert_eq!(run(&shared, &["cat", "/dev/shm/note"]).stdout, "shared\n");
        let own = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
        let host = ["--network", "host", "--pid", "host", "--uts", "host"];
        assert_eq!(run(&host, &["busybox", "readlink", "/proc/self/ns/net"]).stdout.trim(), own, "{runtime}");
        fs::create_dir_all(world.directory.join("data")).unwrap();
        let data = format!("{}:/data:ro", world.directory.join("data").display());
        let output =
            run(&["--network", "none", "-v", &data, "--read-only"], &["sh", "-c", "touch /data/x; touch /x; exit 3"]);
        assert_eq!((output.code, output.stderr.matches("Read-only file system").count()), (3, 2), "{output:?}");
        let names = ["--network", "none", "--hostname", "h", "--domainname", "d.example"];
        assert_eq!(
            run(&names, &["sh", "-c", "busybox hostname; cat /proc/sys/kernel/domainname"]).stdout,
            "h\nd.example\n"
        );
        let hog = [
            "run",
            "--name",
            "hog",
            "--runtime",
            runtime,
            "--network",
            "none",
            "--memory",
            "24m",
            "--memory-swap",
            "24m",
        ];
        let output = world.run(&[&hog[..], &["builtin:whoami", "hold", "200"]].concat());
        assert_eq!((output.code, world.field("hog", "oom_killed")), (137, true.into()), "{output:?}");
        world.ok(&["rm", "-f", "hog", "other"]);
    }
}

#[test]
fn programs_join_it_by_the_same_runtime() {
    let world = world();
    runtimes().iter().for_each(|runtime| is_joined(&world, runtime));
}

fn is_joined(world: &World, runtime: &str) {
    background(world, runtime, "it", &[]);
    let output =
        world.run(&["exec", "-u", "app", "-w", "/tmp", "-e", "A=b", "it", "sh", "-c", "id -u; pwd; echo $A; exit 9"]);
    assert_eq!((output.code, output.stdout.as_str()), (9, "1000\n/tmp\nb\n"), "{output:?}");
    assert_eq!(world.run_with(&["exec", "-i", "it", "cat"], "given").stdout, "given");
    assert_eq!(world.run(&["exec", "it", "/nosuch"]).code, 127);
    assert_eq!(world.run(&["exec", "-u", "nobody-here", "it", "id"]).code, 126);
    world.ok(&["exec", "-d", "it", "sh", "-c", "echo done > /tmp/done; sleep 1000"]);
    eventually("it has run", || world.run(&["exec", "it", "cat", "/tmp/done"]).stdout == "done\n");
    let mut terminal = world.terminal(&["exec", "-it", "it", "sh"]);
    terminal.reads("/ # ");
    terminal.types("busybox stty size; busybox tty\n");
    terminal.reads("30 100");
    terminal.reads("/dev/pts/0");
    terminal.types("exit 4\n");
    assert_eq!(terminal.end().0, 4);
    let left: Vec<_> =
        fs::read_dir(world.roots.run.join("outside")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut files: Vec<_> = fs::read_dir(&left[0]).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["config.json", "state"], "a call leaves no file");
    world.ok(&["rm", "-f", "it"]);
}

#[test]
fn a_terminal_is_passed_on() {
    let world = world();
    runtimes().iter().for_each(|runtime| has_terminal(&world, runtime));
}

fn has_terminal(world: &World, runtime: &str) {
    let words = [&["run", "--rm", "-it", "--name", "front"], &flags(runtime)[..], &["shell"]].concat();
    let mut terminal = world.terminal(&words);
    terminal.reads("/ # ");
    terminal.types("until busybox stty size | grep '30 100'; do :; done\n");
    terminal.reads("\n30 100");
    terminal.resize(41, 123);
    terminal.types("until busybox stty size | grep '41 123'; do :; done\n");
    terminal.reads("\n41 123");
    terminal.types("sh -c 'echo started; exec sleep 1000'\n");
    terminal.reads("\nstarted");
    terminal.types("\x03");
    terminal.reads("/ # ");
    terminal.types("exit 6\n");
    assert_eq!(terminal.end().0, 6);
    assert!(terminal.is_sane());
}

#[test]
fn a_stack_has_networks_ports_volumes_and_checks() {
    let world = World::new();
    let port = free_port();
    let text = |runtime: &str| {
        crate::support::hello(port, "interval: 100ms").replace(
            "    networks: [front]\n    healthcheck",
            &format!("{runtime}    networks: [front]\n    healthcheck"),
        )
    };
    let file = world.file("stack.yaml", &text("    runtime: runc\n    read_only: true\n"));
    let file = file.to_str().unwrap();
    let plan = world.ok(&["plan", file]);
    assert!(!plan.contains("runtime"), "nothing of it is left out: {plan}");
    world.ok(&["apply", "--yes", file]);
    assert_eq!(world.field("hello-counter-1", "health"), "healthy");
    assert_eq!(state(&world, "hello-counter-1")["status"], "running");
    assert!(world.ok(&["exec", "hello-greeter-1", "/whoami", "client", "counter"]).contains("name: "));
    let answer = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    assert!(answer(), "its port is published");
    world.ok(&["plan", "--detailed-exitcode", file]);
    // Another runtime is another container, with the same volume.
    let first = inspect(&world, "hello-counter-1")["Id"].clone();
    world.file("stack.yaml", &text(""));
    let plan = world.ok(&["plan", file]);
    assert!(plan.contains("runtime: runc -> "), "{plan}");
    world.ok(&["apply", "--yes", file]);
    assert_ne!(inspect(&world, "hello-counter-1")["Id"], first);
    assert_eq!(inspect(&world, "hello-counter-1")["HostConfig"]["Runtime"], "stack");
    // The engine's own by its name is no change.
    world.file("stack.yaml", &text("    runtime: stack\n"));
    assert!(!world.ok(&["plan", file]).contains("runtime"), "{}", world.ok(&["plan", file]));
    world.ok(&["destroy", "--yes", file]);
}

/// As the engine's own: the next command gives it another supervisor, which has what it wrote meanwhile.
#[test]
fn it_outlives_its_supervisor() {
    let world = world();
    background(&world, "runc", "it", &["--restart", "always"]);
    let first = pid(&world, "it");
    for _ in 0..2 {
        let before = supervisor(&world, "it");
        kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
        eventually("its supervisor is gone", || stack::runtime::container::ProcessId::of(before).start == 0);
        assert_eq!((world.field("it", "state"), pid(&world, "it")), ("running".into(), first));
        eventually("it has another", || ![0, before].contains(&supervisor(&world, "it")));
        assert_eq!(world.run(&["exec", "it", "sh", "-c", "exit 8"]).code, 8);
    }
    // Its end is seen by the one that has taken over, and its policy holds.
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    eventually("it is another one", || ![0, first].contains(&pid(&world, "it")));
    let second = pid(&world, "it");
    // Both at once: the next command starts it again.
    kill(Pid::from_raw(supervisor(&world, "it")), Signal::SIGKILL).unwrap();
    kill(Pid::from_raw(second), Signal::SIGKILL).unwrap();
    eventually("it is a third one", || ![0, first, second].contains(&pid(&world, "it")));
    world.ok(&["rm", "-f", "it"]);
}

/// The kernel does not end it for us, so the next command does.
#[test]
fn what_has_a_terminal_ends_with_its_supervisor() {
    let world = world();
    // It takes no notice when its terminal goes.
    let words = ["shell", "sh", "-c", "trap '' HUP; echo begun; while :; do sleep 0.02; done"];
    world.ok(&[&["run", "-dt", "--name", "it"], &RUNC[..], &words].concat());
    eventually("it has begun", || world.ok(&["logs", "it"]).contains("begun"));
    let pid = pid(&world, "it");
    kill(Pid::from_raw(supervisor(&world, "it")), Signal::SIGKILL).unwrap();
    eventually("it has ended", || world.field("it", "state") == "exited");
    assert!(!Path::new(&format!("/proc/{pid}/root/bin")).exists());
    let state = &inspect(&world, "it")["State"];
    assert_eq!(state["ExitCode"], 137, "{state}");
    assert!(state["Error"].as_str().unwrap().contains("its supervisor was killed"), "{state}");
    world.ok(&["rm", "it"]);
}

/// A runtime that is not there is said at its place, before anything is made.
#[test]
fn an_absent_runtime_is_an_error_with_its_place() {
    let world = World::new();
    let stack = |runtime: &str| {
        let text = format!(
            "name: x\ncontainers:\n  web:\n    image: builtin:whoami\n    runtime: {runtime}\nnetworks: {{n: {{}}}}\n"
        );
        world.file("stack.yaml", &text).to_str().unwrap().to_owned()
    };
    let plain = world.file("plain", "").to_str().unwrap().to_owned();
    for (runtime, said, help) in [
        ("nosuch", "\"nosuch\" is no runtime that this host knows", "runc, crun, youki, runsc, an absolute path"),
        ("youki", "youki is not on this host", "install it"),
        ("/no/such", "/no/such: No such file", "correct the path"),
        (plain.as_str(), "it is not a program", "correct the path"),
    ] {
        let file = stack(runtime);
        for words in [["plan", &file], ["apply", &file]] {
            let text = world.fails(1, &words);
            assert!(text.contains("stack.yaml:5:14") && text.contains(said) && text.contains(help), "{text}");
        }
        let text = world.fails(125, &["run", "--runtime", runtime, "builtin:whoami", "true"]);
        assert!(text.contains(said) && text.contains(help), "{text}");
    }
    let text = world.fails(125, &["run", "--runtime", "runc", "--userns", "private", "builtin:whoami", "true"]);
    assert!(text.contains("userns_mode: private can't be had with runtime `runc`"), "{text}");
    assert_eq!(world.names(), [""; 0]);
    assert_eq!(world.ok(&["network", "ls", "-q"]), "default\n");
    world.ok(&["network", "rm", "default"]);
}

/// A program with runc's words, given by its path or by a name of the host's settings.
fn wrapper(world: &World, name: &str, script: &str) -> PathBuf {
    let path = world.file(name, &format!("#!/bin/sh\n{script}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn what_a_runtime_says_of_its_failure_is_the_error() {
    let world = world();
    let cases = [
        // As crun, on a host that it can't work on.
        (
            "log",
            r#"while [ "$1" != --log ]; do shift; done; echo '{"msg":"no such cgroups here","level":"error"}' > "$2"; exit 1"#,
            "no such cgroups here",
        ),
        ("stderr", "echo what a pity >&2; exit 4", "it ended with code 4 and without a word"),
        ("liar", "exit 0", "create: No such file or directory"),
        ("killed", "kill -9 $$", "it was killed"),
    ];
    for (name, script, said) in cases {
        let path = wrapper(&world, name, script);
        let text = world.fails(125, &["run", "--network", "none", "--runtime", path.to_str().unwrap(), "shell"]);
        assert!(text.contains(said) && text.contains(&format!("runtime {} create", path.display())), "{text}");
    }
    let all = world.names();
    assert_eq!(all.len(), 4, "as with docker, what can't be started stays to be looked at");
    for name in all {
        assert_eq!((world.field(&name, "state"), world.field(&name, "exit_code")), ("exited".into(), 125.into()));
        world.ok(&["rm", &name]);
    }
}

/// Where it can't work, it says so.
#[test]
fn crun_says_what_it_needs() {
    let world = world();
    let output = world.run(&[&["run", "--rm"], &flags("crun")[..], &["shell", "sh", "-c", "exit 3"]].concat());
    let is_hybrid = Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists();
    match is_hybrid {
        false => assert_eq!(output.code, 3, "{output:?}"),
        true => {
            assert_eq!(output.code, 125, "{output:?}");
            assert!(output.stderr.contains("runtime crun create: cgroups in hybrid mode not supported"), "{output:?}");
        }
    }
}

/// As runsc, which leaves its group where no controller is.
#[test]
fn a_group_that_a_runtime_leaves_behind_is_removed() {
    let world = world();
    let hierarchy = Path::new("/sys/fs/cgroup/systemd");
    assert!(is_unified() || hierarchy.join("cgroup.procs").exists(), "a host with version 1 has it");
    let made = world.directory.join("made");
    let script = format!(
        r#"runc "$@"; code=$?
        case "$*" in *" delete "*)
            group={}$(sed -n 's/.*"cgroupsPath":"\([^"]*\)".*/\1/p' "${{2%/state}}/config.json")
            mkdir -p "$group/below" && echo "$group" > {} ;;
        esac; exit $code"#,
        hierarchy.display(),
        made.display()
    );
    let path = wrapper(&world, "careless", &script);
    let words = ["run", "--rm", "--network", "none", "--runtime", path.to_str().unwrap()];
    let output = world.run(&[&words[..], &["shell", "sh", "-c", "exit 3"]].concat());
    assert_eq!(output.code, 3, "{output:?}");
    if !is_unified() {
        let group = fs::read_to_string(made).unwrap();
        assert!(group.trim().len() > hierarchy.as_os_str().len() + 1);
        assert!(!Path::new(group.trim()).exists(), "{group}");
    }
}

/// The engine itself is a runtime of others, too, with arguments of the host's settings.
#[test]
fn settings_of_the_host_name_runtimes() {
    let world = world();
    let trace = world.directory.join("trace");
    let script =
        format!("echo \"$1\" >> {}; shift; exec {} oci-runtime \"$@\"", trace.display(), world.roots.program.display());
    let path = wrapper(&world, "mine.sh", &script);
    world.file("etc/stack/runtimes.toml", &format!("[mine]\npath = {path:?}\nargs = [\"--mine\"]\n"));
    let daemon = serde_json::json!({"runtimes": {"theirs": {"path": path, "runtimeArgs": ["--theirs"]}, "shim": {"runtimeType": "x"}}});
    world.file("etc/docker/daemon.json", &daemon.to_string());
    let stack = |words: &[&str]| {
        let mut command = world.command(words);
        let command = command.env("STACK_ETC", world.directory.join("etc"));
        let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        crate::support::finish(child, words)
    };
    for name in ["mine", "theirs"] {
        let output = stack(&["run", "--rm", "--network", "none", "--runtime", name, "shell", "sh", "-c", "id; exit 3"]);
        assert_eq!(output.code, 3, "{output:?}");
        assert!(output.stdout.starts_with("uid=0(root)"), "{output:?}");
    }
    let said = fs::read_to_string(&trace).unwrap();
    assert!(said.starts_with("--mine\n") && said.ends_with("--theirs\n"), "{said}");
    let output = stack(&["run", "--rm", "--runtime", "shim", "shell"]);
    assert!(output.code == 125 && output.stderr.contains("shims of containerd can't be used"), "{output:?}");
    // Once made it needs no settings, and further programs come by the same runtime.
    stack(&["run", "-d", "--name", "it", "--network", "none", "--runtime", "mine", "shell", "sh", "-c", PATIENT]);
    world.ok(&["restart", "-t", "0", "it"]);
    assert_eq!(world.run(&["exec", "it", "sh", "-c", "exit 6"]).code, 6);
    let mut terminal = world.terminal(&["exec", "-it", "it", "sh"]);
    terminal.reads("/ # ");
    terminal.types("exit 2\n");
    assert_eq!(terminal.end().0, 2);
    world.ok(&["rm", "-f", "it"]);
    let version = stack(&["network", "rm", "default"]);
    assert!(version.code <= 1, "{version:?}");
}
