//! Docker's plugin protocol, with plugins that are programs of their own.

mod managed;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use stack::runtime::plugin::authz::{Chain, Exchange, Response};

use crate::support::{World, eventually};

/// A world with the plugin of `plugin.py` on its host, by the name `disks`.
struct Host {
    world: World,
    plugin: Option<Child>,
}

impl Host {
    fn new() -> Self {
        let world = World::new();
        let folder = world.directory.join("plugins");
        fs::create_dir_all(&folder).unwrap();
        world.file("etc/stack/plugins.toml", &format!("folders = [{folder:?}]\ntimeout_seconds = 3\n"));
        let mut host = Self { world, plugin: None };
        host.start();
        host
    }

    fn start(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/plugins/plugin.py");
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script).arg(self.world.directory.join("plugins/disks.sock")).arg(self.folder());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        self.plugin = Some(child);
    }

    fn stop(&mut self) {
        if let Some(mut plugin) = self.plugin.take() {
            plugin.kill().unwrap();
            plugin.wait().unwrap();
        }
    }

    /// What it does wrong from now on.
    fn wrong(&self, text: &str) {
        fs::write(self.folder().join("wrong"), text).unwrap();
    }

    fn folder(&self) -> PathBuf {
        self.world.directory.join("disks")
    }

    fn words(&self, words: &[&str]) -> Vec<String> {
        let etc = self.world.directory.join("etc").display().to_string();
        ["--etc".to_owned(), etc].into_iter().chain(words.iter().map(|word| (*word).to_owned())).collect()
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let words = self.words(words);
        self.world.ok(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[track_caller]
    fn fails(&self, words: &[&str]) -> String {
        let words = self.words(words);
        self.world.fails(1, &words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// For how many the plugin has this volume mounted; `None`: it has no such volume.
    fn users(&self, volume: &str) -> Option<usize> {
        let text = fs::read_to_string(self.folder().join("state.json")).ok()?;
        let state: serde_json::Value = serde_json::from_str(&text).unwrap();
        state.get(volume).map(|volume| volume["users"].as_array().unwrap().len())
    }

    /// The directory that containers find the volume at.
    fn data(&self, volume: &str) -> PathBuf {
        self.world.roots.root.join("volumes").join(volume).join("_data")
    }

    /// Mount points of this world.
    fn mounts(&self) -> Vec<String> {
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = |line: &&str| line.contains(&*self.world.directory.to_string_lossy());
        let places = ["/disks/mounts/", "/volumes/"];
        all.lines()
            .filter(own)
            .filter(|line| places.iter().any(|place| line.contains(place)))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn what_an_authorization_plugin_does_not_allow_is_denied_and_so_is_what_it_does_not_answer() {
    let mut host = Host::new();
    let mut roots = host.world.roots.clone();
    roots.etc = host.world.directory.join("etc");
    let chain = Chain::open(&roots, &["disks".to_owned()]).unwrap();
    let asked = |uri: &str, body: &str| Exchange {
        user: "eve".into(),
        request_method: "POST".into(),
        request_uri: uri.into(),
        request_body: body.into(),
        ..Exchange::default()
    };
    let answered = |body: &str| Exchange {
        response: Some(Response { status: 200, body: body.into(), ..Response::default() }),
        ..asked("/v1.43/info", "")
    };
    chain.request(&asked("/v1.43/containers/create", "{}")).unwrap();
    for wrong in [asked("/v1.43/forbidden", ""), asked("/v1.43/containers/create", "{\"forbidden\": 1}")] {
        let said = chain.request(&wrong).unwrap_err().to_string();
        assert_eq!(said, "authorization denied by plugin disks: eve may not do that");
    }
    // What can't be told of can't be hidden behind, either.
    let long = format!("{{\"a\": \"{}\", \"forbidden\": 1}}", "x".repeat(1 << 20));
    let said = chain.request(&asked("/v1.43/containers/create", &long)).unwrap_err().to_string();
    assert!(said.starts_with("authorization denied: a body of "), "{said}");
    chain.response(&answered("{}")).unwrap();
    let said = chain.response(&answered("a secret")).unwrap_err().to_string();
    assert_eq!(said, "authorization denied by plugin disks: that is secret");
    host.wrong("AuthZPlugin.AuthZReq lie");
    let said = chain.request(&asked("/v1.43/info", "")).unwrap_err().to_string();
    assert_eq!(said, "authorization denied by plugin disks: ", "what does not say yes says no");
    host.wrong("AuthZPlugin.AuthZReq hang");
    let said = chain.request(&asked("/v1.43/info", "")).unwrap_err().to_string();
    assert!(said.contains("has not answered AuthZPlugin.AuthZReq within 3 s"), "{said}");
    host.stop();
    let said = chain.request(&asked("/v1.43/info", "")).unwrap_err().to_string();
    assert!(said.contains("is not to be reached"), "{said}");
    assert!(Chain::open(&roots, &["disks".to_owned()]).is_err(), "no engine goes on without its guard");
}

#[test]
fn a_plugin_takes_logs_and_is_told_of_their_begin_and_end() {
    let mut host = Host::new();
    let file = host.world.file(
        "stack.yaml",
        r#"
name: l
containers:
  said:
    image: "builtin:whoami"
    command: [id]
    network_mode: none
    logging: {driver: disks, options: {colour: green}}
"#,
    );
    host.ok(&["apply", file.to_str().unwrap()]);
    host.ok(&["wait", "l-said-1"]);
    let logged = || fs::read_to_string(host.folder().join("logged")).unwrap_or_default();
    eventually("the plugin has read to the end", || logged().ends_with("/l-said-1 end green\n"));
    assert!(logged().contains(r"/l-said-1 b'\n\x06stdout\x1a"), "{}", logged());
    assert!(host.ok(&["logs", "l-said-1"]).starts_with("Uid:\t0"));
    let calls = || fs::read_to_string(host.folder().join("calls")).unwrap();
    host.ok(&["plan", file.to_str().unwrap()]);
    assert!(calls().ends_with("LogDriver.StopLogging\n"), "{}", calls());
    assert_eq!(host.ok(&["inspect", "l-said-1", "--format", "{{.HostConfig.LogConfig.Type}}"]), "disks\n");
    host.stop();
    let said = host.fails(&["start", "l-said-1"]);
    assert!(said.contains("plugin disks is not to be reached"), "{said}");
    host.ok(&["destroy", "l"]);
    let file = host.world.file("other.yaml", "name: l\ncontainers:\n  a: {image: x, logging: {driver: pigeon}}\n");
    let said = host.fails(&["plan", file.to_str().unwrap()]);
    assert!(said.contains("other.yaml:3:") && said.contains("no plugin \"pigeon\" is on this host"), "{said}");
}

const FILE: &str = r#"
name: p
containers:
  a: {image: "builtin:whoami", command: [sleep, forever], network_mode: none, volumes: ["data:/data"], stop_grace_period: 1s}
  b: {image: "builtin:whoami", command: [sleep, forever], network_mode: none, volumes: ["data:/data"], stop_grace_period: 1s}
volumes: {data: {driver: disks, driver_opts: {speed: high}}}
"#;

#[test]
fn a_volume_of_a_plugin_is_mounted_for_each_container_and_unmounted_after_the_last() {
    let host = Host::new();
    let file = host.world.file("stack.yaml", FILE);
    let file = file.to_str().unwrap();
    host.ok(&["apply", file]);
    assert_eq!(host.users("p_data"), Some(2));
    let device = |path: PathBuf| fs::metadata(path).unwrap().dev();
    assert_eq!(device(host.data("p_data")), device(host.folder().join("mounts/p_data")));
    host.ok(&["exec", "p-a-1", "/whoami", "write", "/data/word", "kept"]);
    assert_eq!(host.ok(&["exec", "p-b-1", "/whoami", "cat", "/data/word"]), "kept\n");
    assert!(host.world.run(&["--etc", "/nowhere", "status", file]).code != 0, "the plugin is not where others are");
    let again = host.ok(&["volume", "inspect", "p_data", "--format", "{{.Driver}} {{.Scope}} {{.Status.users}}"]);
    assert_eq!(again, "disks global 2\n");
    assert_eq!(host.ok(&["volume", "ls", "-q", "--filter", "driver=disks"]), "p_data\n");
    host.ok(&["stop", "p-a-1"]);
    assert_eq!(host.users("p_data"), Some(1));
    host.ok(&["stop", "p-b-1"]);
    assert_eq!((host.users("p_data"), host.mounts()), (Some(0), vec![]));
    // What was written is the plugin's to keep.
    host.ok(&["start", "p-a-1"]);
    assert_eq!(host.ok(&["exec", "p-a-1", "/whoami", "cat", "/data/word"]), "kept\n");
    assert!(host.fails(&["volume", "rm", "p_data"]).contains("is used by p-a-1, p-b-1"));
    host.ok(&["destroy", "p", "--volumes", "--yes=volumes"]);
    assert_eq!((host.users("p_data"), host.mounts()), (None, vec![]));
    assert_eq!(host.ok(&["volume", "ls", "-q"]) + &host.ok(&["volume", "ls", "--trash", "-q"]), "");
}

#[test]
fn what_a_killed_command_or_an_ended_container_leaves_mounted_the_next_command_unmounts() {
    let host = Host::new();
    host.ok(&["volume", "create", "-d", "disks", "-o", "speed=low", "data"]);
    let run = |name, command: &[&'static str]| {
        let words = ["run", "-d", "--name", name, "--network", "none", "-v", "data:/data", "builtin:whoami"];
        host.ok(&[&words, command].concat())
    };
    run("short", &["write", "/data/word", "said"]);
    host.ok(&["wait", "short"]);
    host.ok(&["status", host.world.file("other.yaml", "name: o\ncontainers: {}\n").to_str().unwrap()]);
    assert_eq!((host.users("data"), host.mounts()), (Some(0), vec![]));
    host.ok(&["rm", "short"]);
    // The supervisor that is killed, with its program left behind, is replaced; the mount stays for it.
    run("long", &["sleep", "forever"]);
    let status = fs::read_to_string(host.world.roots.run.join("containers/long/status.json")).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let shim = Pid::from_raw(i32::try_from(status["shim"]["pid"].as_i64().unwrap()).unwrap());
    kill(shim, Signal::SIGKILL).unwrap();
    eventually("the supervisor is gone", || kill(shim, None).is_err());
    host.ok(&["plan", host.world.file("other.yaml", "name: o\ncontainers: {}\n").to_str().unwrap()]);
    assert_eq!((host.users("data"), host.world.field("long", "state")), (Some(1), "running".into()));
    assert_eq!(host.ok(&["exec", "long", "/whoami", "cat", "/data/word"]), "said\n");
    host.ok(&["rm", "-f", "long"]);
    assert_eq!((host.users("data"), host.mounts()), (Some(0), vec![]));
    // A command that is killed while the plugin mounts, and before it has heard of it.
    host.wrong("Mount hang");
    let words = host.words(&["run", "--network", "none", "-v", "data:/data", "builtin:whoami", "sleep", "forever"]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut killed = host.world.command(&words).stderr(Stdio::null()).spawn().unwrap();
    let calls = || fs::read_to_string(host.folder().join("calls")).unwrap();
    eventually("the plugin mounts", || calls().lines().last() == Some("Mount"));
    killed.kill().unwrap();
    killed.wait().unwrap();
    host.wrong("");
    host.ok(&["plan", host.world.file("other.yaml", "name: o\ncontainers: {}\n").to_str().unwrap()]);
    assert_eq!(calls().lines().last(), Some("Unmount"));
    assert_eq!((host.users("data"), host.mounts()), (Some(0), vec![]));
    host.world.ok(&["container", "prune", "--force"]);
    host.ok(&["volume", "rm", "data"]);
    assert_eq!(host.users("data"), None);
}

#[test]
fn a_plugin_that_hangs_lies_or_dies_is_named_and_costs_a_bounded_time() {
    let mut host = Host::new();
    let file = host.world.file("stack.yaml", FILE);
    let file = file.to_str().unwrap();
    for (wrong, expected) in [
        ("Create hang", "plugin disks has not answered VolumeDriver.Create within 3 s"),
        ("Mount lie", "plugin disks has answered VolumeDriver.Mount with what is no answer: invalid type"),
        ("Mount chunks", "plugin disks has answered VolumeDriver.Mount with what is no answer: more than"),
        ("Mount die", "plugin disks is not to be reached at "),
    ] {
        host.wrong(wrong);
        let said = host.fails(&["apply", file]);
        assert!(said.contains("volume p_data") && said.contains(expected) && said.contains("help:"), "{wrong}: {said}");
    }
    // It comes back, and the next command goes on where the last one was cut short.
    host.stop();
    host.wrong("");
    host.start();
    host.ok(&["apply", file]);
    assert_eq!(host.users("p_data"), Some(2));
    // One that can't be told of an end is told by the next command.
    host.stop();
    host.ok(&["stop", "p-a-1", "p-b-1"]);
    assert_eq!(host.users("p_data"), Some(2));
    host.start();
    host.ok(&["apply", file, "--dry-run"]);
    assert_eq!((host.users("p_data"), host.mounts()), (Some(0), vec![]));
    host.ok(&["destroy", "p", "--volumes", "--yes=volumes"]);
}

#[test]
fn a_driver_that_is_not_there_is_said_at_its_place_and_a_lost_mount_is_drift() {
    let host = Host::new();
    let file = host.world.file("stack.yaml", &FILE.replace("driver: disks", "driver: tapes"));
    let said = host.fails(&["plan", file.to_str().unwrap()]);
    assert!(said.contains("stack.yaml:6:") && said.contains("no plugin \"tapes\" is on this host"), "{said}");
    let file = host.world.file("stack.yaml", FILE);
    let file = file.to_str().unwrap();
    host.ok(&["apply", file]);
    nix::mount::umount2(&host.data("p_data"), nix::mount::MntFlags::MNT_DETACH).unwrap();
    let plan = host.ok(&["plan", file]);
    assert!(plan.contains("volume/data") && plan.contains("its mount is gone"), "{plan}");
    host.ok(&["apply", file]);
    eventually("the plan is empty", || !host.ok(&["plan", file]).contains("volume/data"));
    let device = |path: PathBuf| fs::metadata(path).unwrap().dev();
    assert_eq!(device(host.data("p_data")), device(host.folder().join("mounts/p_data")));
    host.ok(&["destroy", "p", "--volumes", "--yes=volumes"]);
    let said = host.fails(&["volume", "create", "-d", "disks", "-o", "refuse=today", "x"]);
    assert!(said.contains("plugin disks refuses VolumeDriver.Create: no volume like that: today"), "{said}");
    assert_eq!(host.ok(&["volume", "ls", "-q"]), "");
}
