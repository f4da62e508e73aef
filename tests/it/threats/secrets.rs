//! CVE-2019-13509: secrets are where they are meant to be and nowhere else: not in what the engine says at its most
//! talkative, in what it shows, in what others see of its processes, nor on its disk.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Output, World, eventually, finish, processes};

const CANARIES: [&str; 5] =
    ["canary-content", "canary-of-file", "canary-of-environment", "canary-of-build", "canary-password"];

#[track_caller]
fn holds_none(what: &str, text: &str) {
    for canary in CANARIES {
        assert!(!text.contains(canary), "{what}: {canary}: {text}");
    }
}

const STACK: &str = r#"
name: safe
images: {built: {build: {context: ./app, secrets: [build]}}}
containers:
  box:
    image: built
    command: [/bin/sleep, "1000000"]
    network_mode: none
    stop_grace_period: 0s
    secrets: [content, file, environment]
secrets:
  content: {content: canary-content}
  file: {file: ./file}
  environment: {environment: CANARY}
  build: {file: ./build}
"#;

/// With its most talkative words, and the secret in its environment, where it is to be taken from.
fn loudly(world: &World, words: &[&str], input: &str) -> Output {
    let mut command = world.command(&[&["-vv"], words].concat());
    command.env("CANARY", "canary-of-environment").env("RUST_LOG", "trace");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    finish(child, words)
}

#[test]
fn secrets_are_seen_inside_and_nowhere_else() {
    let world = World::new();
    let root = world.busybox("app/root");
    assert!(root.exists());
    world.file("file", "canary-of-file");
    world.file("build", "canary-of-build");
    let dockerfile = "FROM scratch\nCOPY root /\nRUN --mount=type=secret,id=build,required [\"/bin/test\", \"-s\", \"/run/secrets/build\"]\n";
    world.file("app/Dockerfile", dockerfile);
    world.file("stack.yaml", STACK);
    let mut said = Vec::new();
    let mut say = |words: &[&str], input: &str, code: i32| {
        let output = loudly(&world, words, input);
        assert_eq!(output.code, code, "{words:?}: {output:#?}");
        said.push((words.join(" "), format!("{}{}", output.stdout, output.stderr)));
        output.stdout
    };
    say(&["plan"], "", 0);
    say(&["plan", "--format", "json"], "", 0);
    say(&["apply"], "", 0);
    // It is there, where it is meant to be.
    let inside = say(&["exec", "safe-box-1", "/bin/ls", "/run/secrets"], "", 0);
    assert_eq!(inside, "content\nenvironment\nfile\n");
    for name in ["content", "environment", "file"] {
        let path = format!("/run/secrets/{name}");
        let found = world.ok(&["exec", "safe-box-1", "/bin/cat", &path]);
        assert!(CANARIES.contains(&found.as_str()), "{found}");
    }
    say(&["plan"], "", 0);
    say(&["inspect", "safe-box-1"], "", 0);
    say(&["logs", "safe-box-1"], "", 0);
    say(&["ps", "-a", "--format", "json"], "", 0);
    say(&["top", "safe-box-1"], "", 0);
    say(&["events", "--since", "1h", "--until", "0s"], "", 0);
    let images = say(&["images", "-q"], "", 0);
    let built = images.lines().next().unwrap().to_owned();
    say(&["history", "--no-trunc", &built], "", 0);
    say(&["image", "inspect", &built], "", 0);
    // Nobody listens there.
    let nowhere = format!("127.0.0.1:{}", crate::support::free_port());
    say(&["login", "-u", "me", "--password-stdin", &nowhere], "canary-password\n", 1);
    for (words, text) in &said {
        holds_none(words, text);
    }
    // One whose command stays until its end has a supervisor of another kind.
    let words = ["run", "--name", "plain", "--network", "none", "builtin:whoami", "sleep", "1000000"];
    let mut waiting = world.command(&words);
    let mut waiting = waiting.env("CANARY", CANARIES[2]).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("it runs", || world.field("plain", "pid").as_i64().is_some_and(|pid| pid > 0));
    let supervisors =
        ["safe-box-1", "plain"].map(|name| world.ok(&["inspect", "--format", "{{.Stack.Supervisor}}", name]));
    for (pid, line) in processes() {
        // The arguments of this very test are none of the engine's business.
        holds_none("a command line", &line);
        let is_ours = supervisors.iter().any(|one| one.trim() == pid.to_string())
            || line.contains(&*world.directory.to_string_lossy());
        // The command has it from its caller.
        if is_ours && pid != waiting.id() {
            holds_none("environment", &fs::read_to_string(format!("/proc/{pid}/environ")).unwrap_or_default());
        }
    }
    let pid = world.field("safe-box-1", "pid");
    holds_none("environment", &fs::read_to_string(format!("/proc/{pid}/environ")).unwrap());
    // On the disk, which outlives the boot, there is nothing; in memory nobody but root reads it.
    let found = hits(&world.roots.root);
    assert!(found.is_empty(), "{found}");
    let volatile: Vec<String> = hits(&world.roots.run).lines().map(str::to_owned).collect();
    let files = world.roots.run.join("files/safe-box-1");
    assert!(volatile.len() == 3 && volatile.iter().all(|path| Path::new(path).starts_with(&files)), "{volatile:?}");
    world.ok(&["destroy", "safe"]);
    world.ok(&["rm", "-f", "plain"]);
    waiting.wait().unwrap();
    world.ok(&["network", "rm", "default"]);
    assert_eq!(hits(&world.roots.run), "");
}

/// The files below that hold one of the canaries.
fn hits(root: &Path) -> String {
    let mut grep = Command::new("grep");
    grep.args(["-rlE", &CANARIES.join("|")]).arg(root).stderr(Stdio::null());
    String::from_utf8(grep.output().unwrap().stdout).unwrap()
}
