//! What scripts depend on: exit codes, what goes where, formats, names, filters, and what happens to wrong words.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{World, eventually};

const BOX: &[&str] = &["run", "-d", "--name", "box", "--network", "none", "builtin:whoami"];

/// Each wrong line ends with its code, says what is wrong, and writes nothing to standard output.
#[test]
fn wrong_words_are_told_with_the_right_ones() {
    let world = World::new();
    world.ok(BOX);
    world.ok(&["volume", "create", "data"]);
    for (line, code, part) in [
        ("appyl", 1, "'apply'"),
        ("ps --al", 1, "'--all'"),
        ("run --nmae x builtin:whoami", 125, "'--name'"),
        ("run", 125, "IMAGE"),
        ("exec box", 125, "COMMAND"),
        ("--root /nowhere run --nmae x y", 125, "'--name'"),
        ("container run --nmae x y", 125, "'--name'"),
        ("run --memory much builtin:whoami", 125, "--memory \"much\""),
        ("run builtin:whomai", 125, "builtin"),
        ("run --name box builtin:whoami", 125, "\"box\""),
        ("exec bx true", 1, "did you mean `box`?"),
        ("logs bx", 1, "did you mean `box`?"),
        ("start bx", 1, "did you mean `box`?"),
        ("rm bx", 1, "did you mean `box`?"),
        ("rm box", 1, "--force"),
        ("inspect bx", 1, "did you mean `box`?"),
        ("inspect --type image box", 1, "no image"),
        ("volume rm dta", 1, "did you mean `data`?"),
        ("volume inspect dta", 1, "did you mean `data`?"),
        ("network rm bck", 1, "no network"),
        ("image rm builtin:whomi", 1, "did you mean `builtin:whoami`?"),
        ("ps --filter nme=x", 1, "did you mean `name`?"),
        ("ps --filter name", 1, "KEY=VALUE"),
        ("ps --format yaml", 1, "table, json"),
        ("ps --format {{.Nam}}", 1, "did you mean `Name`?"),
        ("inspect -f {{.State.Stat}} box", 1, "no field `Stat`"),
        ("kill -s FLY box", 1, "signal"),
        ("stop -t soon box", 1, "soon"),
        ("logs --tail many box", 1, "--tail"),
        ("logs --since soon box", 1, "--since"),
        ("port box 80", 1, "publishes no port"),
        ("attach nosuch", 1, "no container"),
        ("apply nosuch.yaml", 1, "nosuch.yaml"),
        ("apply", 1, "no stack file"),
        ("apply --plan nosuch.json", 1, "no stack file"),
        ("destroy no/such.yaml", 1, "no/such.yaml"),
        ("destroy Not_A_Name", 1, "neither a file nor a stack's name"),
        ("system prune", 1, "--force"),
        ("volume create -o device=x data2", 1, "data2"),
        ("network create --subnet nonsense n", 1, "nonsense"),
        ("network create --driver macvlan -o macvlan_mode=none n", 1, "macvlan_mode"),
    ] {
        let output = world.run(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(output.code, code, "{line}: {output:?}");
        assert!(output.stderr.contains(part), "{line}: {output:?}");
        let empty = if line.starts_with("inspect b") || line.contains("--type") { "[]\n" } else { "" };
        assert!([empty, ""].contains(&output.stdout.as_str()) || line.contains("inspect"), "{line}: {output:?}");
    }
    world.ok(&["rm", "-f", "box"]);
    world.ok(&["rm", "-f", "box"]);
    world.ok(&["volume", "rm", "data"]);
    world.ok(&["network", "rm", "-f", "default"]);
}

#[test]
fn containers_are_named_by_the_beginning_of_their_id() {
    let world = World::new();
    let id = world.ok(BOX).trim().to_owned();
    assert_eq!(world.ok(&["ps", "-q"]).trim(), &id[..12]);
    assert_eq!(world.ok(&["ps", "-q", "--no-trunc"]).trim(), id);
    assert_eq!(world.ok(&["inspect", "-f", "{{.Name}}", &id[..3]]), "/box\n");
    world.fails(1, &["inspect", &id[..2]]);
    assert_eq!(world.ok(&["exec", &id[..12], "/whoami", "echo", "hi"]), "hi\n");
    assert_eq!(world.ok(&["kill", &id[..12]]), format!("{}\n", &id[..12]));
    assert_eq!(world.ok(&["wait", &id]), "137\n");
    assert_eq!(world.ok(&["rm", &id, "-f"]), format!("{id}\n"));
}

/// Several are treated although one of them fails, and the failure is told at the end.
#[test]
fn several_names_are_all_treated() {
    let world = World::new();
    for name in ["a", "b"] {
        world.ok(&["run", "-d", "--name", name, "--network", "none", "builtin:whoami"]);
    }
    let stopped = world.run(&["stop", "-t", "0", "a", "nosuch", "b"]);
    assert_eq!((stopped.code, stopped.stdout.as_str()), (1, "a\nb\n"));
    assert!(stopped.stderr.contains("nosuch"));
    assert_eq!(world.ok(&["start", "a", "b"]), "a\nb\n");
    assert_eq!(world.ok(&["restart", "-t", "0", "a", "b"]), "a\nb\n");
    assert_eq!(world.ok(&["pause", "a", "b"]), "a\nb\n");
    assert_eq!(world.field("b", "state"), "paused");
    assert_eq!(world.ok(&["unpause", "a", "b"]), "a\nb\n");
    assert_eq!(world.ok(&["kill", "-s", "KILL", "a", "b"]), "a\nb\n");
    assert_eq!(world.ok(&["wait", "a", "b"]), "137\n137\n");
    let removed = world.run(&["rm", "a", "nosuch", "b"]);
    assert_eq!((removed.code, removed.stdout.as_str()), (1, "a\nb\n"));
    assert_eq!(world.names(), [""; 0]);
}

/// Every command that lists has JSON, and a listing of nothing is still JSON.
#[test]
fn everything_that_lists_has_json_and_templates() {
    let world = World::new();
    let lists: &[&[&str]] = &[
        &["ps", "-a"],
        &["container", "ls", "-as"],
        &["images"],
        &["image", "ls"],
        &["network", "ls"],
        &["volume", "ls"],
        &["system", "df"],
        &["system", "df", "-v"],
        &["stats", "--no-stream"],
        &["doctor"],
    ];
    let json = |words: &[&str]| -> Vec<Value> {
        let text = world.ok(&[words, &["--format", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
    };
    for words in lists {
        json(words);
    }
    world.ok(&["network", "create", "net"]);
    world.ok(&["run", "-d", "--name", "box", "-v", "data:/data", "--network", "net", "builtin:whoami"]);
    for words in lists {
        assert!(!json(words).is_empty(), "{words:?}");
    }
    for words in [&["top", "box"][..], &["port", "box"], &["image", "history", "builtin:whoami"]] {
        json(words);
    }
    // Times are RFC 3339 wherever they stand.
    let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().is_ok();
    let one = &json(&["ps"])[0];
    assert!(time(&one["created_at"]) && time(&one["started_at"]) && one["finished_at"].is_null(), "{one}");
    assert!(time(&json(&["images"])[0]["created_at"]));
    assert!(time(&json(&["volume", "ls"])[0]["created_at"]));
    assert!(time(&json(&["stats", "--no-stream"])[0]["time"]));
    for (words, expected) in [
        (&["ps", "--format", "{{.Names}} {{.Image}} {{.State}} {{.Networks}}"][..], "box builtin:whoami running net\n"),
        (&["ps", "--format", "table {{.Names}}\\t{{.State}}"], "NAMES  STATE\nbox    running\n"),
        (&["ps", "--format", "{{.Label \"com.docker.compose.oneoff\"}}"], "True\n"),
        (&["images", "--format", "{{.Repository}}:{{.Tag}}"], "builtin:whoami\n"),
        (&["volume", "ls", "-q"], "data\n"),
        (&["network", "ls", "--format", "{{.Name}} {{.Containers}}"], "net 1\n"),
        (
            &["inspect", "-f", "{{.State.Status}} {{.State.Running}} {{.Config.Image}}", "box"],
            "running true builtin:whoami\n",
        ),
        (&["inspect", "-f", "{{(index .Mounts 0).Destination}} {{json .Args}}", "box"], "/data []\n"),
        (&["inspect", "-f", "{{.Config.Entrypoint}}", "box"], "[/whoami]\n"),
        (&["inspect", "-f", "{{range $name, $net := .NetworkSettings.Networks}}{{$name}}{{end}}", "box"], "net\n"),
        (&["network", "inspect", "-f", "{{range .Containers}}{{.Name}}{{end}}", "net"], "box\n"),
        (&["volume", "inspect", "-f", "{{.Driver}}", "data"], "local\n"),
        (&["image", "inspect", "-f", "{{.Os}} {{join .Config.Entrypoint \",\"}}", "builtin:whoami"], "linux /whoami\n"),
        (&["version", "--format", "{{.version}}"], concat!(env!("CARGO_PKG_VERSION"), "\n")),
    ] {
        assert_eq!(world.ok(words), expected, "{words:?}");
    }
    let address = world.ok(&["inspect", "-f", "{{.NetworkSettings.Networks.net.IPAddress}}", "box"]);
    assert!(address.trim().parse::<std::net::Ipv4Addr>().is_ok(), "{address}");
    world.ok(&["rm", "-f", "box"]);
    world.ok(&["network", "rm", "net"]);
    world.ok(&["volume", "rm", "data"]);
}

#[test]
fn filters_choose_as_dockers_do() {
    let world = World::new();
    let run = |name: &str, words: &[&str]| {
        world.ok(&[&["run", "--name", name, "--network", "none"], words].concat());
    };
    run("web", &["-d", "-l", "tier=front", "-v", "data:/d", "builtin:whoami"]);
    run("web2", &["-d", "-l", "tier=back", "builtin:whoami"]);
    assert_eq!(world.run(&["run", "--name", "done", "--network", "none", "builtin:whoami", "exit", "3"]).code, 3);
    for (filters, expected) in [
        (vec!["name=web"], "web web2"),
        (vec!["name=^web$"], "web"),
        (vec!["label=tier"], "web web2"),
        (vec!["label=tier=front"], "web"),
        (vec!["name=web", "label=tier=back"], "web2"),
        (vec!["name=web2", "name=done"], "done web2"),
        (vec!["status=exited"], "done"),
        (vec!["exited=3"], "done"),
        (vec!["exited=0"], ""),
        (vec!["ancestor=builtin:whoami", "status=running"], "web web2"),
        (vec!["ancestor=other"], ""),
        (vec!["volume=data"], "web"),
        (vec!["before=web2"], "web"),
        (vec!["since=web2"], "done"),
        (vec!["health=none", "name=2"], "web2"),
    ] {
        let words: Vec<&str> = filters.iter().flat_map(|filter| ["--filter", filter]).collect();
        let found = world.ok(&[&["ps", "-a", "--format", "{{.Names}}"], &words[..]].concat());
        assert_eq!(found.split_whitespace().collect::<Vec<_>>().join(" "), expected, "{filters:?}");
    }
    assert_eq!(world.ok(&["ps", "-l", "--format", "{{.Names}}"]), "done\n");
    assert_eq!(world.ok(&["ps", "-n", "2", "--format", "{{.Names}}"]), "done\nweb2\n");
    assert_eq!(world.ok(&["volume", "ls", "-q", "--filter", "dangling=true"]), "");
    world.ok(&["rm", "-f", "web", "web2", "done"]);
    assert_eq!(world.ok(&["volume", "ls", "-q", "--filter", "dangling=true"]), "data\n");
    world.ok(&["volume", "rm", "data"]);
}

/// What no stack and no container needs goes; a stack's own stays, also where it does not run.
#[test]
fn pruning_spares_what_belongs_to_a_stack() {
    let world = World::new();
    let file = world.file(
        "stack.yaml",
        "name: s\ncontainers:\n  job: {image: \"builtin:whoami\", command: [\"true\"], networks: [n], volumes: [\"v:/v\", /anonymous]}\n\
         networks: {n: {}}\nvolumes: {v: {}}\n",
    );
    world.ok(&["apply", file.to_str().unwrap()]);
    eventually("the job is done", || world.field("s-job-1", "state") == "exited");
    world.run(&["run", "--name", "old", "-v", "/anonymous", "--network", "none", "builtin:whoami", "write", "/f", "x"]);
    world.ok(&["network", "create", "unused"]);
    world.ok(&["volume", "create", "named"]);
    let anonymous = world.ok(&["inspect", "-f", "{{(index .Mounts 0).Name}}", "old"]);
    assert_eq!(world.ok(&["system", "prune", "-f", "--filter", "until=1h"]), "Total reclaimed space: 0B\n");
    let said = world.ok(&["system", "prune", "--force"]);
    assert!(said.contains("container old\n") && said.contains("network unused\n"), "{said}");
    assert!(!said.contains("volume") && !said.contains("s-job-1") && !said.contains("s_n"), "{said}");
    let said = world.ok(&["system", "prune", "--force", "--all", "--volumes"]);
    assert!(said.contains(&format!("volume {anonymous}")) && !said.contains("volume named"), "{said}");
    assert!(!said.contains("image"), "its image is in use: {said}");
    assert!(world.ok(&["volume", "prune", "--force", "--all"]).contains("volume named\n"));
    assert_eq!(world.names(), ["s-job-1"]);
    world.ok(&["status", file.to_str().unwrap()]);
    world.ok(&["destroy", "s", "--volumes", "--yes=volumes"]);
    assert!(world.ok(&["image", "prune", "--all", "--force"]).contains("image builtin:whoami\n"));
    world.ok(&["volume", "prune", "-f"]);
    assert_eq!(world.ok(&["volume", "ls", "-q"]), "");
}

#[test]
fn volumes_without_a_name_go_with_their_container() {
    let world = World::new();
    world.ok(&["run", "--rm", "-v", "/x", "--network", "none", "builtin:whoami", "true"]);
    assert_eq!(world.ok(&["volume", "ls", "-q"]), "");
    world.ok(&[
        "run",
        "-d",
        "--rm",
        "-v",
        "/x",
        "-v",
        "named:/y",
        "--network",
        "none",
        "builtin:whoami",
        "sleep",
        "0.2",
    ]);
    eventually("it has removed itself", || world.names().is_empty());
    eventually("with its volume", || world.ok(&["volume", "ls", "-q"]) == "named\n");
    world.run(&["run", "--name", "a", "-v", "/x", "--network", "none", "builtin:whoami", "true"]);
    world.ok(&["rm", "a"]);
    assert_eq!(world.ok(&["volume", "ls", "-q"]).lines().count(), 2);
    world.run(&["run", "--name", "a", "-v", "/x", "--network", "none", "builtin:whoami", "true"]);
    world.ok(&["rm", "-v", "a"]);
    assert_eq!(world.ok(&["volume", "ls", "-q"]), "named\n");
    world.ok(&["volume", "rm", "named"]);
}

/// `| head`: neither a panic nor a program that goes on for nobody.
#[test]
fn a_reader_that_goes_away_ends_the_command() {
    let world = World::new();
    world.ok(&["run", "-d", "--name", "talk", "--network", "none", "builtin:whoami", "lines", "100000"]);
    world.ok(&["wait", "talk"]);
    world.ok(&["run", "-d", "--name", "box", "--network", "none", "builtin:whoami"]);
    for (words, codes) in [
        (&["logs", "talk"][..], &[0][..]),
        (&["logs", "talk", "box"], &[0]),
        (&["ps", "-a"], &[0]),
        (&["--help"], &[0]),
        (&["completion", "bash"], &[0]),
        (&["run", "--rm", "--name", "loud", "--network", "none", "builtin:whoami", "lines", "10000000"], &[141]),
        (&["exec", "box", "/whoami", "lines", "10000000"], &[1, 101, 141]),
    ] {
        let mut command = world.command(words);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let ended = crate::support::finish(child, words);
        assert!(codes.contains(&ended.code), "{words:?}: {ended:?}");
        assert!(!ended.stderr.contains("stack: panicked") && !ended.stderr.contains("src/cli"), "{words:?}: {ended:?}");
    }
    eventually("what ran for the reader is gone", || world.names() == ["box", "talk"]);
    world.ok(&["rm", "-f", "box", "talk"]);
}

/// More than pipes hold, in and out at once: nobody waits for somebody who waits for him.
#[test]
fn much_input_and_output_at_once_do_not_lock_up() {
    let world = World::new();
    world.busybox("root");
    let archive = world.archive("shell", "root", &serde_json::json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}));
    world.ok(&["image", "load", "-i", archive.to_str().unwrap()]);
    world.ok(&["run", "-d", "--name", "box", "--network", "none", "shell:latest", "sleep", "1000000"]);
    let input = "0123456789abcdef\n".repeat(300_000);
    let twice = ["busybox", "sed", "s/.*/&&/"];
    for words in [
        [&["exec", "-i", "box"][..], &twice].concat(),
        [&["run", "-i", "--rm", "--network", "none", "shell:latest"][..], &twice].concat(),
    ] {
        // Input from a file: a pipe would be filled by this test only as fast as it is emptied.
        let file = std::fs::File::open(world.file("input", &input)).unwrap();
        let child = world.command(&words).stdin(file).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = crate::support::finish(child, &words);
        assert_eq!((output.code, output.stdout.len()), (0, input.len() * 2 - 300_000), "{words:?}: {}", output.stderr);
    }
    world.ok(&["rm", "-f", "box"]);
}

/// What needs root, or a place of the user's own, may be told from what runs anywhere; and nothing is touched without.
#[test]
fn without_root_or_a_place_it_says_so() {
    let world = World::new();
    let file = world.file("stack.yaml", "name: s\ncontainers: {a: {image: \"builtin:whoami\"}}\n");
    std::fs::set_permissions(&world.directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // A copy that everybody may run: where the program was built, perhaps only root may look.
    let program = world.directory.join("stack");
    // By a program of its own: this one's other threads may start programs meanwhile, which would have the file open for
    // writing for a moment.
    assert!(Command::new("cp").arg(&world.roots.program).arg(&program).status().unwrap().success());
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new(&program);
        command.args(words).current_dir("/").env("STACK_ROOT", &world.roots.root).uid(65534).gid(65534);
        command.env("STACK_RUN_ROOT", &world.roots.run);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        crate::support::finish(child, words)
    };
    for (words, code) in [(&["ps"][..], 1), (&["apply", file.to_str().unwrap()], 1), (&["run", "builtin:whoami"], 125)]
    {
        let said = as_nobody(words);
        assert_eq!(said.code, code, "{said:?}");
        assert!(said.stderr.contains("Permission denied") && said.stderr.contains("STACK_RUN_ROOT"), "{said:?}");
    }
    let doctor = as_nobody(&["doctor"]);
    assert!(doctor.stdout.contains("own user namespace") && doctor.stdout.contains("way out"), "{doctor:?}");
    assert_eq!(as_nobody(&["validate", file.to_str().unwrap()]).code, 0);
    assert_eq!(as_nobody(&["version"]).code, 0);
    assert!(!world.roots.root.exists());
}

#[test]
fn help_explains_with_examples() {
    let world = World::new();
    for words in [
        &["--help"][..],
        &["apply", "--help"],
        &["plan", "--help"],
        &["run", "--help"],
        &["exec", "--help"],
        &["ps", "--help"],
        &["logs", "--help"],
        &["inspect", "--help"],
        &["destroy", "--help"],
    ] {
        assert!(world.ok(words).contains("Examples:"), "{words:?}");
    }
    assert_eq!(world.ok(&["--version"]), concat!("stack ", env!("CARGO_PKG_VERSION"), "\n"));
}

/// As Compose's users type it.
#[test]
fn files_are_named_as_compose_has_it() {
    let world = World::new();
    let text = "services: {a: {image: \"builtin:whoami\", network_mode: none}}\n";
    world.file("compose.yaml", text);
    world.file("more.yaml", "services: {b: {image: \"builtin:whoami\", network_mode: none}}\n");
    world.ok(&["-p", "s", "-f", "compose.yaml", "-f", "more.yaml", "up", "-d", "--remove-orphans"]);
    assert_eq!(world.names(), ["s-a-1", "s-b-1"]);
    world.ok(&["up", "-p", "s", "-f", "compose.yaml", "-f", "more.yaml"]);
    world.ok(&["apply", "-p", "s", "compose.yaml", "-f", "more.yaml"]);
    world.ok(&["-p", "s", "-f", "compose.yaml", "up"]);
    assert_eq!(world.names(), ["s-a-1"]);
    world.ok(&["-f", "compose.yaml", "-p", "s", "down", "-v"]);
    assert_eq!(world.names(), [""; 0]);
    let mut command = world.command(&["up", "compose.yaml"]);
    assert!(command.env("COMPOSE_PROJECT_NAME", "named").status().unwrap().success());
    assert_eq!(world.names(), ["named-a-1"]);
    let logs = world.ok(&["logs", "a"]);
    assert!(logs.contains("listens"), "{logs}");
    assert_eq!(world.ok(&["exec", "a", "/whoami", "echo", "hi"]), "hi\n");
    world.ok(&["down", "-p", "named"]);
}

#[test]
fn waiting_has_an_end() {
    let world = World::new();
    let file = world.file(
        "stack.yaml",
        "name: s\ncontainers:\n  a:\n    image: \"builtin:whoami\"\n    network_mode: none\n    \
         healthcheck: {test: [CMD, /whoami, \"false\"], interval: 1s, retries: 1000}\n",
    );
    let file = file.to_str().unwrap();
    let begun = Instant::now();
    let said = world.fails(1, &["apply", "--wait-timeout", "1", file]);
    assert!(said.contains("not everything was up within 1 s"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(10), "it waited {:?}", begun.elapsed());
    // Interrupted, it ends although what it waits for never comes.
    let mut child = world.command(&["apply", "--wait", file]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    eventually("it waits", || {
        std::fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok() && world.names() == ["s-a-1"]
    });
    // Its handlers are in place once it holds the stack's lock and has begun to wait.
    eventually("it is interrupted", || {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        child.try_wait().unwrap().is_some()
    });
    drop(lines.next());
    assert!([Some(130), None].contains(&child.wait().unwrap().code()));
    world.ok(&["destroy", "s"]);
}

/// Several containers' lines are told apart, and come in the order in which they were written.
#[test]
fn logs_of_a_stack_are_one_stream() {
    let world = World::new();
    let file = world.file(
        "stack.yaml",
        "name: s\ncontainers:\n  one: {image: \"builtin:whoami\", command: [lines, \"2\"], network_mode: none}\n  \
         second: {image: \"builtin:whoami\", command: [echo-err, bad], network_mode: none, depends_on: {one: {condition: service_completed_successfully}}}\n",
    );
    world.ok(&["apply", file.to_str().unwrap()]);
    world.ok(&["wait", "s-one-1", "s-second-1"]);
    let logs = world.run(&["logs", "s"]);
    assert_eq!(logs.stdout, "s-one-1    | line 1\ns-one-1    | line 2\n");
    assert_eq!(logs.stderr, "s-second-1 | bad\n");
    assert_eq!(world.ok(&["logs", "--no-log-prefix", "s"]), "line 1\nline 2\n");
    assert_eq!(world.ok(&["logs", "-n", "1", "one"]), "line 2\n");
    assert_eq!(world.ok(&["logs", "-f", "s-one-1", "s-second-1"]).lines().count(), 2);
    let lines: Vec<Value> =
        world.ok(&["logs", "--format", "json", "s"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(
        (&lines[2]["container"], &lines[2]["stream"], &lines[2]["log"]),
        (&"s-second-1".into(), &"stderr".into(), &"bad".into())
    );
    world.ok(&["destroy", "s"]);
}

#[test]
fn stats_go_on_until_nobody_reads() {
    let world = World::new();
    world.ok(BOX);
    let words = ["stats", "--format", "json"];
    let mut child = world.command(&words).stdout(Stdio::piped()).spawn().unwrap();
    let lines: Vec<String> = BufReader::new(child.stdout.take().unwrap()).lines().take(2).map(Result::unwrap).collect();
    for line in lines {
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["name"], &value["pids"]), (&"box".into(), &1.into()), "{value}");
    }
    assert_eq!(crate::support::finish(child, &words).code, 0);
    world.ok(&["rm", "-f", "box"]);
}

/// Each flag of `run`, as the kernel or the program sees it.
#[test]
fn flags_of_run_take_effect() {
    let world = World::new();
    let run = |flags: &str, words: &str| {
        let line = format!("run --rm --network none {flags} builtin:whoami {words}");
        let output = world.run(&line.split_whitespace().collect::<Vec<_>>());
        (output.code, output.stdout + &output.stderr)
    };
    std::fs::write(world.directory.join("vars"), "# nothing\nA=1\nHOME\n").unwrap();
    std::fs::write(world.directory.join("host"), "of the host\n").unwrap();
    let here = world.directory.display().to_string();
    for (flags, words, expected) in [
        ("-h here", "hostname", "here\n"),
        ("-w /tmp", "pwd", "/tmp\n"),
        ("-e A=1 -e B=2", "env", "B=2\n"),
        ("--env-file vars", "env", "A=1\n"),
        ("-u 1000:100", "id", "Uid:\t1000"),
        ("-u 1000 --group-add 4242", "id", "4242"),
        ("--cap-drop ALL", "id", "CapBnd:\t0000000000000000"),
        ("--cap-add NET_RAW", "id", "CapBnd:\t00000000800425fb"),
        ("--security-opt no-new-privileges", "id", "NoNewPrivs:\t1"),
        ("--ulimit nofile=123:456", "cat /proc/self/limits", "123                  456"),
        ("--sysctl kernel.msgmax=12345", "cat /proc/sys/kernel/msgmax", "12345\n"),
        ("--oom-score-adj 321", "cat /proc/self/oom_score_adj", "321\n"),
        ("--tmpfs /t:size=1m", "cat /proc/self/mounts", "tmpfs /t tmpfs"),
        ("--mount type=tmpfs,target=/t,tmpfs-size=2m", "cat /proc/self/mounts", "size=2048k"),
        ("--shm-size 3m", "cat /proc/self/mounts", "size=3072k"),
        ("-v HERE/host:/f:ro", "cat /f", "of the host\n"),
        ("--mount type=bind,src=HERE/host,dst=/f,readonly", "cat /f", "of the host\n"),
        ("--add-host db:10.9.8.7", "cat /etc/hosts", "10.9.8.7\tdb\n"),
        ("--device /dev/full", "ls /dev", "full\n"),
        ("--init", "cat /proc/1/comm", ""),
        ("--entrypoint /whoami", "echo over", "over\n"),
        ("--uts host", "hostname", ""),
    ] {
        let (code, said) = run(&flags.replace("HERE", &here), words);
        assert!(code == 0 && said.contains(expected), "{flags}: {code} {said}");
    }
    for (flags, part) in [
        ("--mount type=bind,src=/no/such,dst=/f", "/no/such"),
        ("--cidfile vars", "--cidfile"),
        ("--restart always", "--restart"),
        ("--network nosuch", "nosuch"),
        ("--env-file nosuch", "nosuch"),
        ("--device /dev/nosuch", "/dev/nosuch"),
    ] {
        let line = format!("run --rm {flags} builtin:whoami true");
        let output = world.run(&line.split_whitespace().collect::<Vec<_>>());
        assert!(output.code == 125 && output.stderr.contains(part), "{flags}: {output:?}");
    }
    assert_eq!(world.names(), [""; 0]);
    let network = ["network", "rm", "default"];
    world.run(&network);
}

#[test]
fn places_in_networks_are_as_asked() {
    let world = World::new();
    world.ok(&["network", "create", "--subnet", "10.213.7.0/24", "--label", "a=b", "one"]);
    world.ok(&["network", "create", "two"]);
    let id_file = world.directory.join("id");
    let id = world.ok(&[
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "one",
        "--network",
        "two",
        "--ip",
        "10.213.7.77",
        "--mac-address",
        "02:42:00:00:00:07",
        "--network-alias",
        "also",
        "-P",
        "--expose",
        "9999",
        "--cidfile",
        id_file.to_str().unwrap(),
        "builtin:whoami",
    ]);
    assert_eq!(std::fs::read_to_string(id_file).unwrap(), id.trim());
    let seen = |template: &str| world.ok(&["inspect", "-f", template, "box"]).trim().to_owned();
    assert_eq!(seen("{{.NetworkSettings.Networks.one.IPAddress}}"), "10.213.7.77");
    assert_eq!(seen("{{.NetworkSettings.Networks.one.MacAddress}}"), "02:42:00:00:00:07");
    assert_eq!(seen("{{len .NetworkSettings.Networks}}"), "2");
    let resolved = world.ok(&["run", "--rm", "--network", "one", "builtin:whoami", "resolve", "also"]);
    assert_eq!(resolved, "10.213.7.77\n");
    let port: u16 = world.ok(&["port", "box", "9999"]).trim().rsplit(':').next().unwrap().parse().unwrap();
    assert!(port > 0);
    let refused = world.fails(1, &["network", "rm", "one"]);
    assert!(refused.contains("box"), "{refused}");
    assert_eq!(world.ok(&["network", "ls", "-q", "--filter", "label=a=b"]), "one\n");
    world.ok(&["rm", "-f", "box"]);
    world.ok(&["network", "rm", "one", "two"]);
}
