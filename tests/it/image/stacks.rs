//! Pulls for the sake of stacks: when they happen, whom they wait for, and what others who make room leave to them.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::proxy::Proxy;
use super::server::{Registry, gzip, layer_tar};
use crate::sources::identity;
use crate::support::{World, eventually, finish};
use stack::runtime::image::Digest;

/// Longer than any of these tests takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A registry that sends none of these layers before the gate is open.
struct Gate {
    state: Arc<(Mutex<Passage>, Condvar)>,
    proxy: Proxy,
    _registry: Registry,
}

#[derive(Default)]
struct Passage {
    asked: BTreeSet<String>,
    open: bool,
}

impl Gate {
    /// Images of these names: all have one layer in common and one of their own, which waits at the gate if they are
    /// among the first `closed`.
    fn new(world: &World, names: &[&str], closed: usize) -> Self {
        let registry = Registry::start(&world.directory, None);
        let program = std::fs::read("/bin/busybox").expect("Debian's package busybox-static");
        let common = layer_tar(&[("bin/sleep", 0o755, &program)]);
        let mut held = BTreeSet::new();
        for (number, name) in names.iter().enumerate() {
            let own = layer_tar(&[("name", 0o644, name.as_bytes())]);
            registry.push(name, "1", &[common.clone(), own.clone()], None);
            if number < closed {
                held.insert(Digest::of(&gzip(&own)).to_string());
            }
        }
        let state = Arc::<(Mutex<Passage>, Condvar)>::default();
        let shared = Arc::clone(&state);
        let proxy = Proxy::start(&registry.address, move |_, request, _| {
            let Some(layer) = held.iter().find(|layer| request.is_blob() && request.path.ends_with(*layer)) else {
                return;
            };
            let (lock, changed) = &*shared;
            let mut state = lock.lock().unwrap();
            state.asked.insert(layer.clone());
            changed.notify_all();
            drop(changed.wait_timeout_while(state, PATIENCE, |state| !state.open).unwrap());
        });
        Self { state, proxy, _registry: registry }
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}:1", self.proxy.address)
    }

    /// Returns when so many layers have been asked for and none was sent.
    fn wait_for(&self, count: usize) {
        let (lock, changed) = &*self.state;
        let few = |state: &mut Passage| state.asked.len() < count;
        let (state, waited) = changed.wait_timeout_while(lock.lock().unwrap(), PATIENCE, few).unwrap();
        assert!(!waited.timed_out(), "{} of {count} layers were asked for", state.asked.len());
    }

    fn open(&self) {
        self.state.0.lock().unwrap().open = true;
        self.state.1.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

fn begin(world: &World, words: &[&str]) -> Child {
    world.command(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn sleeper(image: &str, keys: &str) -> String {
    format!("{{image: \"{image}\", command: [/bin/sleep, \"1000000\"], stop_signal: KILL{keys}}}")
}

#[test]
fn pulls_come_first_all_at_once_and_nothing_is_stopped_meanwhile() {
    const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let world = World::new();
    let gate = Gate::new(&world, &NAMES, NAMES.len());
    let file = world.file("stack.yaml", "name: pull\ncontainers: {a: {image: builtin:whoami}}\n");
    let file = file.to_str().unwrap();
    world.ok(&["apply", file]);
    let before = identity(&world, "pull-a-1");
    let there = || [world.names(), lines(&world, &["network", "ls", "-q"]), lines(&world, &["volume", "ls", "-q"])];
    let first = there();

    let containers = NAMES.map(|name| {
        let keys = format!(", networks: [x], volumes: [\"{name}:/data\"]");
        format!("  {name}: {}\n", sleeper(&gate.name(name), &keys))
    });
    let volumes = NAMES.map(|name| format!("  {name}: {{}}\n"));
    let text = format!(
        "name: pull\ncontainers:\n{}networks: {{x: {{}}}}\nvolumes:\n{}",
        containers.concat(),
        volumes.concat()
    );
    world.file("stack.yaml", &text);
    let apply = begin(&world, &["apply", file]);
    gate.wait_for(NAMES.len());
    assert_eq!(identity(&world, "pull-a-1"), before);
    assert_eq!(there(), first, "nothing is made before the pulls, which fill all places of the default");
    gate.open();
    let applied = finish(apply, &["apply"]);
    assert_eq!(applied.code, 0, "{applied:?}");
    assert_ne!(identity(&world, "pull-a-1"), before);
    for name in NAMES {
        identity(&world, &format!("pull-{name}-1"));
    }
    world.ok(&["destroy", "pull", "--volumes", "--yes=volumes"]);
}

fn lines(world: &World, words: &[&str]) -> Vec<String> {
    world.ok(words).lines().map(str::to_owned).collect()
}

#[test]
fn who_makes_room_leaves_an_apply_its_images() {
    let world = World::new();
    let gate = Gate::new(&world, &["slow", "fast", "here", "other"], 1);
    let [slow, fast, here, other] = ["slow", "fast", "here", "other"].map(|name| gate.name(name));
    world.ok(&["pull", &here, &other]);
    let of = |images: [&str; 3]| {
        let [a, b, c] = images.map(|image| sleeper(image, ", network_mode: none"));
        world.file("stack.yaml", &format!("name: room\ncontainers:\n  a: {a}\n  b: {b}\n  c: {c}\n"))
    };
    let file = of([&other; 3]);
    let file = file.to_str().unwrap();
    world.ok(&["apply", file]);
    of([&slow, &fast, &here]);
    let apply = begin(&world, &["apply", file]);
    gate.wait_for(1);
    let images = || world.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    eventually("the other image is here", || images().contains(&fast));
    // Its containers are made only when all images are here.
    for words in [&["image", "prune", "-a", "-f"][..], &["system", "prune", "-a", "-f"]] {
        world.ok(words);
        assert!(images().contains(&fast) && images().contains(&here), "{words:?}: {}", images());
    }
    gate.open();
    let applied = finish(apply, &["apply"]);
    assert_eq!(applied.code, 0, "{applied:?}");
    for (container, name) in [("room-a-1", "slow"), ("room-b-1", "fast"), ("room-c-1", "here")] {
        world.ok(&["cp", &format!("{container}:/name"), "name"]);
        assert_eq!(std::fs::read_to_string(world.directory.join("name")).unwrap(), name);
    }
    // Over is over.
    world.ok(&["destroy", "room"]);
    world.ok(&["image", "prune", "-a", "-f"]);
    assert_eq!(images(), "");
}

#[test]
fn whose_pull_is_waited_for_is_said() {
    let world = World::new();
    let gate = Gate::new(&world, &["app"], 1);
    let app = gate.name("app");
    let first = begin(&world, &["pull", &app]);
    gate.wait_for(1);
    let holder = format!("process {} (stack pull)", first.id());
    let said = format!("waiting for {holder}, which fetches layers");

    let mut plain = begin(&world, &["pull", &app]);
    let mut heard = BufReader::new(plain.stderr.take().unwrap()).lines();
    assert!(heard.any(|line| line.unwrap().contains(&said)), "the pull ended without a word");
    let mut json = begin(&world, &["pull", "--format", "json", &app]);
    let mut told = BufReader::new(json.stdout.take().unwrap()).lines();
    let waits = |line: String| {
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        value["state"] == "waiting" && value["for"] == holder && value["image"] == app && value["layer"].is_string()
    };
    assert!(told.any(|line| waits(line.unwrap())), "the pull ended without a word");
    let mut bars = world.terminal(&["pull", &app]);
    bars.reads(&said);
    let file = world.file("stack.yaml", &format!("name: w\ncontainers: {{a: {}}}\n", sleeper(&app, "")));
    let mut live = world.terminal(&["apply", file.to_str().unwrap()]);
    live.reads(&said);

    gate.open();
    assert_eq!(finish(first, &["pull"]).code, 0);
    let rest = std::thread::spawn(move || (heard.count(), told.count()));
    assert!(plain.wait().unwrap().success() && json.wait().unwrap().success());
    rest.join().unwrap();
    assert_eq!((bars.end().0, live.end().0), (0, 0));
    let layers = gate.proxy.asked(|request| request.is_blob());
    let distinct: BTreeSet<&String> = layers.iter().map(|seen| &seen.request.path).collect();
    let fetched = |path: &&String| layers.iter().filter(|seen| seen.request.path == ***path).count();
    let twice: Vec<_> = distinct.iter().filter(|path| fetched(path) > 1).collect();
    assert!(twice.len() <= 1, "only the configuration is asked for by each: {twice:?}");
    world.ok(&["destroy", "w"]);
}

#[test]
fn a_name_that_nobody_knows_is_told_from_a_registry_that_does_not_answer() {
    let world = World::new();
    let mut command = world.command(&["pull", "registry.invalid/app:1"]);
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"] {
        command.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    let said = finish(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap(), &["pull"]);
    assert_eq!(said.code, 1, "{said:?}");
    let words = ["registry.invalid", "its name can't be looked up", "help: check the registry's name", "DNS servers"];
    assert!(words.iter().all(|word| said.stderr.contains(word)), "{}", said.stderr);
}
