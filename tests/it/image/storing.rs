//! What the store keeps whoever works with it at once, whatever is killed, and how much memory and screen that takes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stack::runtime::image::Digest;

use super::proxy::{End, Proxy, Request};
use super::registries::User;
use super::server::{Registry, gzip, layer_tar};
use crate::support::terminal::Terminal;
use crate::support::{World, eventually, finish};

/// What can't be compressed, the same each time.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let word =
        |n: u64| (n ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (0..length as u64 / 8).flat_map(|n| word(n).to_le_bytes()).collect()
}

pub fn layer(name: &str, length: usize) -> Vec<u8> {
    let seed = name.bytes().fold(1_u64, |all, byte| all * 257 + u64::from(byte));
    layer_tar(&[(name, 0o644, &noise(length, seed))])
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut all: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

fn images(world: &World, below: &str) -> PathBuf {
    world.roots.root.join("images").join(below)
}

fn is_of(packed: &[u8]) -> impl Fn(&Request) -> bool + use<> {
    let path = format!("/blobs/{}", Digest::of(packed));
    move |request| request.is_blob() && request.path.ends_with(&path)
}

#[test]
fn a_pull_that_is_stopped_by_a_signal_is_gone_on_with() {
    let served = World::new();
    let registry = Registry::start(&served.directory, None);
    let large = layer("large", 900_000);
    registry.push("app", "1", &[layer("small", 1000), large.clone()], None);
    let packed = gzip(&large);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let world = World::new();
        let user = User { world: &world };
        let (stalls, is_large) = (Arc::new(AtomicBool::new(true)), is_of(&packed));
        let stalling = stalls.clone();
        let proxy = Proxy::start(&registry.address, move |_, request, answer| {
            if is_large(request) && stalling.load(Ordering::SeqCst) {
                answer.end = End::Stall(600_000);
            }
        });
        let image = format!("{}/app:1", proxy.address);
        let mut child = user.command(&["pull", &image]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let part = images(&world, &format!("downloads/{}.part", Digest::of(&packed).hex()));
        eventually("600,000 bytes are there", || fs::metadata(&part).is_ok_and(|data| data.len() == 600_000));
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(signal as i32));
        assert_eq!(fs::metadata(&part).unwrap().len(), 600_000, "it stays");
        assert_eq!(user.ok(&["images", "-q"]), "");
        stalls.store(false, Ordering::SeqCst);
        user.ok(&["pull", &image]);
        let asked = proxy.asked(is_of(&packed));
        assert_eq!(asked.len(), 2);
        assert_eq!(asked[1].request.header("range"), Some("bytes=600000-"), "{signal}");
        assert_eq!(asked[1].sent, packed.len() - 600_000, "the rest, and nothing else");
        for folder in ["tmp", "leases"] {
            assert_eq!(names(&images(&world, folder)), Vec::<String>::new(), "{signal}: {folder}");
        }
        assert_eq!(names(&images(&world, "downloads")), ["locks"]);
        user.ok(&["image", "verify"]);
    }
    drop(registry);
}

#[test]
fn pulls_at_once_fetch_a_layer_once_and_shared_layers_are_kept_once() {
    let world = World::new();
    let user = User { world: &world };
    let registry = Registry::start(&world.directory, None);
    let all = ["shared", "one", "two"].map(|name| layer(name, 400_000));
    registry.push("app", "1", &[all[0].clone(), all[1].clone()], None);
    registry.push("app", "2", &[all[0].clone(), all[2].clone()], None);
    let proxy = Proxy::start(&registry.address, |_, _, _| ());
    let names_of = ["1", "2", "1", "2"].map(|tag| format!("{}/app:{tag}", proxy.address));
    let pulls = names_of
        .iter()
        .map(|name| user.command(&["pull", name]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    for pull in pulls.collect::<Vec<_>>() {
        let output = finish(pull, &["pull"]);
        assert_eq!(output.code, 0, "{output:?}");
    }
    for layer in &all {
        let asked = proxy.asked(is_of(&gzip(layer)));
        assert_eq!(asked.len(), 1, "by four processes");
    }
    assert_eq!(names(&images(&world, "layers")).len(), 3);
    user.ok(&["rmi", &names_of[0]]);
    assert_eq!(names(&images(&world, "layers")).len(), 2, "the other one's stay");
    user.ok(&["pull", &names_of[0]]);
    assert_eq!(proxy.asked(is_of(&gzip(&all[0]))).len(), 1, "what is here is not fetched again");
    user.ok(&["image", "verify"]);
}

#[test]
fn what_was_damaged_is_found_and_fetched_again() {
    let world = World::new();
    let user = User { world: &world };
    let registry = Registry::start(&world.directory, None);
    let tar = layer_tar(&[("etc/word", 0o644, b"word"), ("bin/tool", 0o4755, b"tool")]);
    let manifest = registry.push("app", "1", std::slice::from_ref(&tar), None);
    let image = format!("{}/app:1", registry.address);
    user.ok(&["pull", &image]);
    assert!(user.ok(&["image", "verify"]).contains("ok"));
    let blob = |digest: &str| images(&world, "blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let flip = |path: PathBuf| {
        move || {
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    };
    let tree = images(&world, "layers").join(Digest::of(&tar).hex()).join("fs");
    let (archive, config) =
        (blob(Digest::of(&gzip(&tar)).as_str()), blob(user.ok(&["images", "-q", "--no-trunc"]).trim()));
    let at = |name: &str| tree.join(name);
    type Damage = (&'static str, &'static str, Box<dyn Fn()>);
    let damages: Vec<Damage> = vec![
        ("a bit of an archive", "blob sha256:", Box::new(flip(archive.clone()))),
        ("a bit of a configuration", "blob sha256:", Box::new(flip(config))),
        ("a bit of a manifest", "blob sha256:", Box::new(flip(blob(manifest["digest"].as_str().unwrap())))),
        (
            "no archive",
            "blob sha256:",
            Box::new({
                let archive = archive.clone();
                move || fs::remove_file(&archive).unwrap()
            }),
        ),
        (
            "half an archive",
            "blob sha256:",
            Box::new(move || fs::File::options().write(true).open(&archive).unwrap().set_len(20).unwrap()),
        ),
        (
            "a bit of a file",
            "differs at /etc/word: other content",
            Box::new({
                let path = at("etc/word");
                move || {
                    let times = fs::metadata(&path).unwrap().modified().unwrap();
                    fs::write(&path, "ward").unwrap();
                    fs::File::options().append(true).open(&path).unwrap().set_modified(times).unwrap();
                }
            }),
        ),
        (
            "permissions",
            "differs at /bin/tool: other permissions",
            Box::new({
                let path = at("bin/tool");
                move || fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap()
            }),
        ),
        (
            "one file more",
            "is not of the image",
            Box::new({
                let path = at("etc/more");
                move || fs::write(&path, "").unwrap()
            }),
        ),
        (
            "one file less",
            "differs at /etc/word: missing",
            Box::new({
                let path = at("etc/word");
                move || fs::remove_file(&path).unwrap()
            }),
        ),
        (
            "no tree",
            "missing",
            Box::new({
                let path = tree.clone();
                move || fs::remove_dir_all(&path).unwrap()
            }),
        ),
    ];
    for (name, said, damage) in damages {
        damage();
        let output = world.run(&["image", "verify"]);
        assert_eq!(output.code, 1, "{name}: {output:?}");
        assert!(output.stdout.contains("DAMAGED") && output.stdout.contains(said), "{name}: {}", output.stdout);
        let repaired = user.ok(&["image", "verify", "--repair"]);
        assert!(repaired.contains("repaired"), "{name}: {repaired}");
        assert!(!user.ok(&["image", "verify"]).contains("DAMAGED"), "{name}");
        assert_eq!(fs::read(at("etc/word")).unwrap(), b"word", "{name}");
        assert_eq!(fs::metadata(at("bin/tool")).unwrap().permissions().mode() & 0o7777, 0o4755, "{name}");
    }
    // Without the registry it can't be had again: that is said, and the rest of the image not lost.
    flip(tree.join("../../../blobs/sha256").join(Digest::of(&gzip(&tar)).hex()))();
    drop(registry);
    let output = world.run(&["image", "verify", "--repair"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("check that the registry runs"), "{output:?}");
    assert_eq!(fs::read(at("etc/word")).unwrap(), b"word");
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn images_are_removed_beside_pulls_and_runs() {
    let served = World::new();
    let registry = Registry::start(&served.directory, None);
    let busybox = fs::read("/bin/busybox").unwrap();
    registry.push("app", "1", &[layer_tar(&[("bin/busybox", 0o755, &busybox)]), layer("one", 200_000)], None);
    registry.push("app", "2", &[layer("one", 200_000), layer("two", 200_000)], None);
    let world = World::new();
    let image = |tag: &str| format!("{}/app:{tag}", registry.address);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pruning = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::SeqCst) {
                world.ok(&["image", "prune", "--all", "--force"]);
                rounds += 1;
            }
            rounds
        });
        // Also where something here fails.
        let end = Ends(&done);
        let pulls = scope.spawn(|| (0..8).for_each(|_| drop(world.ok(&["pull", "-q", &image("2")]))));
        for number in 0..8 {
            let words = ["run", "--rm", "--network", "none", &image("1"), "/bin/busybox", "echo", "alive"];
            let output = world.run(&words);
            assert_eq!((output.code, output.stdout.as_str()), (0, "alive\n"), "{number}: {}", output.stderr);
        }
        pulls.join().unwrap();
        drop(end);
        assert!(pruning.join().unwrap() > 3, "they met");
    });
    world.ok(&["pull", "-q", &image("1"), &image("2")]);
    world.ok(&["image", "verify"]);
    drop(registry);
}

#[test]
fn what_a_container_stands_on_stays_when_its_name_goes_on() {
    let world = World::new();
    let root = world.busybox("busybox");
    let import = |text: &str| {
        fs::write(root.join("etc/word"), text).unwrap();
        world.ok(&["import", root.to_str().unwrap(), "app"]).trim().to_owned()
    };
    let old = import("old");
    world.ok(&[
        "run",
        "-d",
        "--name",
        "one",
        "--network",
        "none",
        "--stop-signal",
        "KILL",
        "app",
        "/bin/sleep",
        "1000",
    ]);
    let said = world.fails(1, &["rmi", "app"]);
    assert!(said.contains("is used by one") && said.contains("`stack rm`"), "{said}");
    let new = import("new");
    assert_ne!(old, new);
    let said = world.fails(1, &["rmi", &old]);
    assert!(said.contains("is used by one"), "{said}");
    world.ok(&["image", "prune", "--all", "--force"]);
    assert_eq!(world.ok(&["exec", "one", "cat", "/etc/word"]), "old");
    world.ok(&["restart", "one"]);
    assert_eq!(world.ok(&["exec", "one", "cat", "/etc/word"]), "old", "the name has gone on without it");
    assert_eq!(names(&images(&world, "layers")).len(), 1, "only the new one was unused");
    world.ok(&["rm", "-f", "one"]);
    world.ok(&["image", "prune", "--all", "--force"]);
    assert_eq!(names(&images(&world, "layers")), Vec::<String>::new());
}

#[test]
fn a_container_becomes_an_image() {
    let world = World::new();
    let root = world.busybox("busybox");
    world.ok(&["import", root.to_str().unwrap(), "base"]);
    let words =
        ["run", "-d", "--name", "one", "--network", "none", "--stop-signal", "KILL", "-e", "A=1", "-l", "mine=yes"];
    world.ok(&[&words[..], &["-v", "kept:/srv/data", "-w", "/tmp", "base", "sleep", "1000"]].concat());
    world.ok(&[
        "exec",
        "one",
        "sh",
        "-c",
        "echo new >/etc/word; rm /etc/group; echo x >/srv/data/x; chmod 4755 /bin/busybox",
    ]);
    let id = world.ok(&["commit", "-a", "me", "-m", "a word", "one", "patched:1"]);
    assert_eq!(world.field("one", "state"), "running", "it goes on");
    assert_eq!(world.ok(&["exec", "one", "echo", "alive"]), "alive\n");
    let inspected: serde_json::Value = serde_json::from_str(&world.ok(&["inspect", "patched:1"])).unwrap();
    let config = &inspected[0]["Config"];
    assert_eq!((inspected[0]["Id"].as_str(), &inspected[0]["Author"]), (Some(id.trim()), &"me".into()));
    assert_eq!((&config["Cmd"], &config["WorkingDir"]), (&serde_json::json!(["sleep", "1000"]), &"/tmp".into()));
    assert_eq!((&config["Labels"]["mine"], &config["StopSignal"]), (&"yes".into(), &"KILL".into()));
    assert!(config["Env"].as_array().unwrap().contains(&"A=1".into()), "{config}");
    assert!(world.ok(&["history", "patched:1"]).contains("a word"));
    let run = |image: &str, script: &str| world.ok(&["run", "--rm", "--network", "none", image, "sh", "-c", script]);
    assert_eq!(run("patched:1", "cat /etc/word; echo $A $PWD; test -e /etc/group || echo gone"), "new\n1 /tmp\ngone\n");
    let layer = inspected[0]["RootFS"]["Layers"][1].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let top = images(&world, "layers").join(layer).join("fs");
    assert_eq!(names(&top), ["bin", "etc"], "what was only mounted on is not of the image");
    assert_eq!(names(&top.join("etc")), ["group", "word"]);
    assert_eq!(fs::metadata(top.join("bin/busybox")).unwrap().permissions().mode() & 0o7777, 0o4755);

    world.ok(&["stop", "one"]);
    let id = world.ok(&["commit", "-c", "CMD cat /etc/word", "-c", "ENV A=2 B=3", "one", "changed"]);
    assert_eq!(world.ok(&["run", "--rm", "--network", "none", "changed"]), "new\n");
    assert_eq!(run("changed", "echo $A $B"), "2 3\n");
    assert_eq!(world.ok(&["images", "-q", "--no-trunc", "changed"]), id);
    assert_eq!(world.ok(&["images", "--filter", "dangling=true", "-q"]), "", "nothing is left on the way");
    let refused = world.fails(1, &["commit", "-c", "RUN rm -rf /", "one", "evil"]);
    assert!(refused.contains("RUN rm -rf /") && refused.contains("help: CMD"), "{refused}");
    let nameless = world.ok(&["commit", "one"]);
    assert_eq!(world.ok(&["images", "--filter", "dangling=true", "-q", "--no-trunc"]), nameless);
    world.ok(&["image", "verify"]);
    world.ok(&["rm", "-f", "one"]);
    world.ok(&["volume", "rm", "kept"]);
}

#[test]
fn a_full_disk_is_relieved_of_what_was_not_used_for_longest() {
    let outer = World::new();
    let small = outer.directory.join("small");
    fs::create_dir_all(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "none"]).arg(&small).status();
    assert!(mounted.unwrap().success());
    let registry = Registry::start(&outer.directory, None);
    let busybox = fs::read("/bin/busybox").unwrap();
    let tools = layer_tar(&[("bin/busybox", 0o755, &busybox)]);
    for tag in ["used", "a", "b", "c", "d"] {
        registry.push("app", tag, &[tools.clone(), layer(tag, 3_000_000)], None);
    }
    {
        let world = World::at(small.clone());
        let user = User { world: &world };
        world.file(
            "etc/stack/images.toml",
            "[collect]\nhigh_percent = 60\nlow_percent = 45\n[limits]\nreserve_bytes = 0\n",
        );
        let image = |tag: &str| format!("{}/app:{tag}", registry.address);
        let here =
            || user.ok(&["images", "--format", "{{.Tag}}"]).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        user.ok(&["pull", &image("used")]);
        user.ok(&[
            "run",
            "-d",
            "--name",
            "one",
            "--network",
            "none",
            "--stop-signal",
            "KILL",
            &image("used"),
            "/bin/busybox",
            "sleep",
            "1000",
        ]);
        // Each is two times three million bytes: the archive, and what is unpacked of it.
        user.ok(&["pull", &image("a")]);
        user.ok(&["pull", &image("b")]);
        assert_eq!(here(), ["a", "b", "used"]);
        user.ok(&["run", "--rm", "--network", "none", &image("a"), "/bin/busybox", "true"]);
        user.ok(&["pull", &image("c")]);
        user.ok(&["pull", &image("d")]);
        let left = here();
        assert!(left.contains(&"used".to_owned()) && left.contains(&"d".to_owned()), "{left:?}");
        assert!(!left.contains(&"b".to_owned()), "it was not used for longest: {left:?}");
        user.ok(&["restart", "one"]);
        user.ok(&["image", "verify"]);
        user.ok(&["rm", "-f", "one"]);
    }
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
    drop(registry);
}

/// A disk that is always too full: every pull collects what no container is made from, also what another process is just
/// about to start.
#[test]
fn a_full_disk_is_relieved_beside_pulls_and_runs() {
    let world = World::new();
    let user = User { world: &world };
    world.file("etc/stack/images.toml", "[collect]\nhigh_percent = 1\nlow_percent = 0\n");
    let served = World::new();
    let registry = Registry::start(&served.directory, None);
    let busybox = fs::read("/bin/busybox").unwrap();
    let tools = layer_tar(&[("bin/busybox", 0o755, &busybox)]);
    for tag in ["kept", "a", "b", "c"] {
        registry.push("app", tag, &[tools.clone(), layer(tag, 100_000)], None);
    }
    let image = |tag: &str| format!("{}/app:{tag}", registry.address);
    let kept = ["run", "-d", "--name", "one", "--network", "none", "--stop-signal", "KILL", &image("kept")];
    user.ok(&[&kept[..], &["/bin/busybox", "sleep", "1000"]].concat());
    let collected = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for tag in ["a", "b", "c"] {
            let (user, image, collected) = (&user, image(tag), &collected);
            scope.spawn(move || {
                for round in 0..5 {
                    user.ok(&["pull", "-q", &image]);
                    let words = ["run", "--rm", "--network", "none", &image, "/bin/busybox", "echo", "alive"];
                    assert_eq!(user.ok(&words), "alive\n", "{tag}, round {round}");
                    let all = user.ok(&["images", "--format", "{{.Tag}}"]);
                    assert!(all.lines().any(|tag| tag == "kept"), "{all}");
                    collected.fetch_or(all.lines().count() < 4, Ordering::SeqCst);
                }
            });
        }
    });
    assert!(collected.load(Ordering::SeqCst), "something was collected meanwhile");
    user.ok(&["pull", "-q", &image("a")]);
    let mut left: Vec<String> = user.ok(&["images", "--format", "{{.Tag}}"]).lines().map(str::to_owned).collect();
    left.sort();
    assert_eq!(left, ["a", "kept"], "what is used, and what was just fetched");
    assert_eq!(names(&images(&world, "layers")).len(), 3);
    user.ok(&["image", "verify"]);
    user.ok(&["restart", "one"]);
    user.ok(&["rm", "-f", "one"]);
    drop(registry);
}

#[test]
fn progress_is_bars_on_a_terminal_and_lines_or_json_elsewhere() {
    let world = World::new();
    let user = User { world: &world };
    world.file("etc/stack/images.toml", "[limits]\nstall_seconds = 1\n");
    let registry = Registry::start(&world.directory, None);
    let large = layer("large", 3_000_000);
    registry.push("app", "1", &[layer("small", 1000), large.clone()], None);
    let (is_large, packed) = (is_of(&gzip(&large)), gzip(&large));
    let proxy = Proxy::start(&registry.address, move |_, request, answer| {
        if is_large(request) && request.header("range").is_none() {
            answer.end = End::Stall(2 << 20);
        }
    });
    let image = format!("{}/app:1", proxy.address);
    let hex = Digest::of(&packed).hex()[..12].to_owned();
    let mut terminal = Terminal::start(user.command(&["pull", &image]));
    let shown = terminal.reads("2.00 MiB");
    assert!(shown.contains(&hex) && shown.contains("2 layers"), "{shown:?}");
    terminal.reads("waiting");
    terminal.reads("no byte came for 1 s");
    let (code, rest) = terminal.end();
    assert_eq!(code, 0, "{rest:?}");
    assert!(rest.contains("done") && rest.trim_end().ends_with("app:1"), "{rest:?}");
    assert_eq!(rest.matches("\u{1b}[?25l").count(), rest.matches("\u{1b}[?25h").count(), "the cursor is there again");
    assert!(terminal.is_sane());
    user.ok(&["rmi", &image]);

    let pull = |words: &[&str]| {
        let words = [&["pull"], words, &[image.as_str()]].concat();
        let child = user.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = finish(child, &words);
        assert_eq!(output.code, 0, "{output:?}");
        user.ok(&["rmi", &image]);
        (output.stdout, output.stderr)
    };
    let (out, err) = pull(&[]);
    assert_eq!(out, format!("{image}\n"));
    assert!(err.contains(&format!("{hex}: downloading")) && err.contains(&format!("{hex}: done")), "{err}");
    assert!(!err.contains(['\u{1b}', '\r']), "{err:?}");
    let (out, err) = pull(&["--format", "json"]);
    assert_eq!(err, "");
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let states: Vec<&str> = lines.iter().map(|line| line["state"].as_str().unwrap()).collect();
    assert_eq!((states[0], states[states.len() - 1]), ("resolved", "pulled"), "{out}");
    assert!(states.contains(&"waiting") && states.contains(&"unpacking"), "{out}");
    let most = lines.iter().filter(|line| line["layer"].as_str().is_some_and(|layer| layer.contains(&hex)));
    assert_eq!(most.filter_map(|line| line["current"].as_u64()).max(), Some(packed.len() as u64));
    let (out, err) = pull(&["-q"]);
    assert_eq!((out, err), (format!("{image}\n"), String::new()));
}
