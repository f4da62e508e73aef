//! Known holes of container engines, threat by threat, as black boxes: each test builds what the author of the attack had,
//! and looks at the host. `canary` is a directory of the host of which nothing may change.
//!
//! Races run 50 rounds; with the variable `STACK_RACES` so many.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::probe;
use crate::support::{Output, World};

mod engine;
mod races;
mod rights;
mod secrets;
mod table;

/// How often a race is run.
pub fn rounds() -> usize {
    std::env::var("STACK_RACES").map_or(50, |text| text.parse().expect("STACK_RACES is a number"))
}

/// A directory of the host, and all that may not change of it.
struct Canary {
    path: PathBuf,
    before: Vec<(PathBuf, u64, u32, u32, String)>,
}

impl Canary {
    fn new(world: &World) -> Self {
        let path = world.directory.join("canary");
        fs::create_dir_all(path.join("inner")).unwrap();
        fs::write(path.join("file"), "alive").unwrap();
        fs::write(path.join("ptmx"), "alive").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o751)).unwrap();
        std::os::unix::fs::chown(&path, Some(7), Some(7)).unwrap();
        let before = Self::state(&path);
        Self { path, before }
    }

    fn state(path: &Path) -> Vec<(PathBuf, u64, u32, u32, String)> {
        let data = fs::symlink_metadata(path).unwrap();
        let content = if data.is_file() { fs::read_to_string(path).unwrap() } else { String::new() };
        let mut all = vec![(path.to_owned(), data.ino(), data.mode(), data.uid(), content)];
        if data.is_dir() {
            let mut inner: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
            inner.sort();
            all.extend(inner.iter().flat_map(|path| Self::state(path)));
        }
        all
    }

    #[track_caller]
    fn is_untouched(&self, what: &str) {
        assert_eq!(Self::state(&self.path), self.before, "{what}");
    }
}

/// An image of this name: a shell and the probe, changed by `change`, with these words in its configuration.
fn image(world: &World, name: &str, words: &serde_json::Value, change: impl FnOnce(&Path)) {
    let root = world.busybox(name);
    probe::put(&root.join("bin/probe"));
    change(&root);
    let mut all = json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]});
    all.as_object_mut().unwrap().extend(words.as_object().unwrap().clone());
    let archive = world.archive(&format!("{name}.tar"), name, &all);
    world.ok(&["load", "-q", "-i", archive.to_str().unwrap()]);
}

fn run(world: &World, flags: &[&str], image: &str, words: &[&str]) -> Output {
    let image = format!("{image}.tar");
    world.run(&[&["run", "--rm", "--network", "none"], flags, &[&image], words].concat())
}

/// CVE-2019-16884, CVE-2019-19921, CVE-2023-28642: what the image or a mount has at /proc and /sys.
#[test]
fn proc_and_sys_are_the_kernels_or_nothing_starts() {
    let world = World::new();
    let canary = Canary::new(&world);
    image(&world, "plain", &json!({}), |_| ());
    // To the host's, and to what the image has itself.
    for target in [canary.path.clone(), PathBuf::from("/elsewhere")] {
        for place in ["proc", "sys"] {
            let name = format!("{place}-{}", target.file_name().unwrap().display());
            image(&world, &name, &json!({}), |root| {
                fs::create_dir(root.join("elsewhere")).unwrap();
                symlink(&target, root.join(place)).unwrap();
            });
            let refused = run(&world, &[], &name, &["sh", "-c", "echo ran"]);
            assert!(refused.code == 125 && refused.stdout.is_empty(), "{name}: {refused:?}");
        }
    }
    for (number, volume) in ["/proc", "/proc/sys", "/proc/self/attr"].iter().enumerate() {
        let name = format!("volume{number}");
        image(&world, &name, &json!({"Volumes": {*volume: {}}}), |_| ());
        let refused = run(&world, &[], &name, &["sh", "-c", "echo ran"]);
        assert!(refused.code == 125 && refused.stdout.is_empty(), "{volume}: {refused:?}");
        let flag = format!("v{number}:{volume}");
        let refused = run(&world, &["-v", &flag], "plain", &["sh", "-c", "echo ran"]);
        assert!(refused.code == 125 && refused.stdout.is_empty(), "{flag}: {refused:?}");
        world.ok(&["volume", "rm", &format!("v{number}")]);
    }
    canary.is_untouched("proc");
}

/// CVE-2022-23648, CVE-2026-55686, CVE-2026-41579, CVE-2025-31133: volumes, working directories and devices of an image
/// whose directories are links to the host's.
#[test]
fn links_of_an_image_lead_nowhere() {
    let world = World::new();
    let canary = Canary::new(&world);
    let absolute = canary.path.clone();
    let relative = Path::new("../../../../..").join(absolute.strip_prefix("/").unwrap());
    for (number, target) in [absolute, relative].into_iter().enumerate() {
        let named = |what: &str| format!("{what}{number}");
        let link = |root: &Path, name: &str| symlink(&target, root.join(name)).unwrap();
        image(
            &world,
            &named("volume"),
            &json!({"Volumes": {"/l": {}, "/l/new": {}, "/a/../../etc/made": {}}}),
            |root| {
                link(root, "l");
            },
        );
        image(&world, &named("workdir"), &json!({"WorkingDir": "/l/new/deep"}), |root| link(root, "l"));
        image(&world, &named("dev"), &json!({}), |root| link(root, "dev"));
        image(&world, &named("null"), &json!({}), |root| {
            fs::create_dir(root.join("dev")).unwrap();
            symlink(target.join("file"), root.join("dev/null")).unwrap();
        });
        for what in ["volume", "workdir", "dev", "null"] {
            let output =
                run(&world, &[], &named(what), &["sh", "-c", "echo evil >file; echo evil >/dev/null; echo ran"]);
            assert!(output.code == 125 || output.stdout == "ran\n", "{what}: {output:?}");
            canary.is_untouched(&named(what));
        }
        // What is hidden is hidden by the kernel's null device, whatever the image has in its place.
        let seen = run(&world, &[], &named("null"), &["sh", "-c", "cat /proc/timer_list /proc/keys; echo over"]);
        assert_eq!(seen.stdout, "over\n", "{seen:?}");
    }
    assert!(!Path::new("/etc/made").exists());
    for name in world.ok(&["volume", "ls", "-q"]).lines() {
        world.ok(&["volume", "rm", name]);
    }
}

/// CVE-2024-21626: a working directory by a descriptor that leaked.
#[test]
fn no_descriptor_is_a_way_out() {
    let world = World::new();
    image(&world, "plain", &json!({}), |_| ());
    world.ok(&["run", "-d", "--name", "box", "--network", "none", "plain.tar", "sleep", "1000000"]);
    for number in 0..=40 {
        let place = format!("/proc/self/fd/{number}");
        let joined = world.run(&["exec", "-w", &place, "box", "probe", "cwd"]);
        assert!(joined.code != 0 && joined.stdout.is_empty(), "exec {number}: {joined:?}");
    }
    for number in (0..=40).step_by(5).chain(3..10) {
        let place = format!("/proc/self/fd/{number}");
        let started = run(&world, &["-w", &place], "plain", &["probe", "cwd"]);
        assert!(started.code == 125 && started.stdout.is_empty(), "run {number}: {started:?}");
    }
    // As many as there are, and they are its own.
    assert_eq!(world.ok(&["exec", "box", "sh", "-c", "ls /proc/self/fd"]), "0\n1\n2\n3\n");
    world.ok(&["rm", "-f", "box"]);
}

/// CVE-2026-57231: a variable without a value; CVE-2026-46680, CVE-2024-40635, CVE-2016-3697: users that are no number.
#[test]
fn nothing_of_an_image_becomes_root_or_the_engines() {
    let world = World::new();
    image(&world, "plain", &json!({"Env": ["PATH=/bin", "CANARY_OF_THE_ENGINE"]}), |root| {
        let users =
            ["99999999999999999999", "4294967296", "-1", "4294967295"].map(|name| format!("{name}:x:0:0::/:/bin/sh\n"));
        fs::write(root.join("etc/passwd"), users.concat()).unwrap();
    });
    let mut command = world.command(&["run", "--rm", "--network", "none", "plain.tar", "/bin/busybox", "env"]);
    let output = command.env("CANARY_OF_THE_ENGINE", "taken").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("PATH=/bin") && !text.contains("CANARY"), "{text}");
    for user in ["99999999999999999999", "4294967296", "-1", "4294967295", "2147483648:0", "0:4294967296"] {
        let refused = run(&world, &["--user", user], "plain", &["probe", "ids"]);
        assert!(refused.code == 125 && refused.stdout.is_empty(), "{user}: {refused:?}");
        refused_at_load(&world, user);
    }
}

/// An image whose own user is none is not even taken.
fn refused_at_load(world: &World, user: &str) {
    let words = json!({"Cmd": ["sh"], "User": user});
    let archive = world.archive("stranger.tar", "plain", &words);
    let said = world.run(&["load", "-q", "-i", archive.to_str().unwrap()]);
    assert!(said.code == 1 && said.stderr.contains("User"), "{user}: {said:?}");
}

/// CVE-2021-43784: lengths that overflow what is told to the first process.
#[test]
fn no_length_is_cut_short() {
    let world = World::new();
    image(&world, "plain", &json!({}), |_| ());
    let long = "x".repeat(70_000);
    for flags in [["--tmpfs", &format!("/a:size=1m,{long}")], ["--hostname", &long], ["-w", &format!("/{long}")]] {
        let refused = run(&world, &flags, "plain", &["sh", "-c", "echo ran"]);
        assert!(refused.code != 0 && refused.stdout.is_empty(), "{}: {}", flags[0], refused.stderr);
    }
    let targets: Vec<String> = (0..1000).map(|number| format!("/m/{number}")).collect();
    let flags: Vec<&str> = targets.iter().flat_map(|target| ["--tmpfs", target.as_str()]).collect();
    let many = run(&world, &flags, "plain", &["sh", "-c", "grep -c ' /m/' /proc/self/mountinfo"]);
    assert!(many.code == 125 || many.stdout == "1000\n", "{many:?}");
    let given = run(&world, &["-e", &format!("LONG={long}")], "plain", &["sh", "-c", "echo ${#LONG}"]);
    assert_eq!(given.stdout, "70000\n", "{}", given.stderr);
}

/// What an image says is told with an error, and steers nobody's terminal.
#[test]
fn the_words_of_an_image_steer_no_terminal() {
    let world = World::new();
    image(&world, "evil", &json!({"WorkingDir": "/\u{1b}]0;evil\u{7}/../.."}), |_| ());
    for flags in [&[] as &[&str], &["-w", "/\u{1b}[31mevil/../.."]] {
        let refused = run(&world, flags, "evil", &["true"]);
        assert!(refused.code != 0 && refused.stderr.contains("evil"), "{refused:?}");
        assert!(!refused.stderr.contains(['\u{1b}', '\u{7}']), "{:?}", refused.stderr);
    }
}

/// CVE-2022-1227: `top` looks from outside. CVE-2026-53488 and its kin: labels of an image are an image's.
#[test]
fn an_image_steers_nothing() {
    let world = World::new();
    let canary = Canary::new(&world);
    let labels = json!({"com.docker.compose.project": "victim", "com.docker.compose.service": "web", "stack.name": "victim",
        "stack.stack": "victim", "com.docker.compose.oneoff": "False", "io.containerd.image.config.stop-signal": "9"});
    image(&world, "plain", &json!({"Labels": labels}), |root| {
        for name in ["ps", "nsenter", "top"] {
            let evil = format!("#!/bin/sh\necho evil\necho evil >{}/file\necho evil >/evil\n", canary.path.display());
            fs::remove_file(root.join("bin").join(name)).ok();
            fs::write(root.join("bin").join(name), evil).unwrap();
            fs::set_permissions(root.join("bin").join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
    });
    world.ok(&["run", "-d", "--name", "box", "--network", "none", "plain.tar", "sleep", "1000000"]);
    let told = world.ok(&["top", "box"]);
    assert!(told.contains("sleep 1000000") && !told.contains("evil"), "{told}");
    assert_eq!(world.ok(&["exec", "box", "sh", "-c", "test -e /evil || echo none"]), "none\n");
    canary.is_untouched("top");
    let file = world.file("stack.yaml", "name: victim\ncontainers: {}\n");
    world.run(&["apply", file.to_str().unwrap()]);
    world.run(&["destroy", "victim"]);
    assert!(world.field("box", "stack").is_null(), "it is said to be of a stack");
    assert_eq!(world.field("box", "status").as_str().map(|text| text.starts_with("Up")), Some(true), "it was adopted");
    world.ok(&["rm", "-f", "box"]);
}

/// CVE-2021-41103, CVE-2021-41091, CVE-2024-25621: layers and state are root's alone.
#[test]
fn nobody_reads_the_engines_files() {
    let world = World::new();
    image(&world, "plain", &json!({}), |root| {
        fs::set_permissions(root.join("bin/probe"), fs::Permissions::from_mode(0o4755)).unwrap();
    });
    world.ok(&["run", "-d", "--name", "box", "--network", "none", "-v", "data:/data", "plain.tar", "sleep", "1000000"]);
    fs::set_permissions(&world.directory, fs::Permissions::from_mode(0o755)).unwrap();
    for root in [&world.roots.root, &world.roots.run] {
        let mut find = std::process::Command::new("find");
        find.arg(root).args(["-mindepth", "1"]);
        let found =
            std::os::unix::process::CommandExt::uid(std::os::unix::process::CommandExt::gid(&mut find, 65534), 65534);
        let output = found.output().unwrap();
        assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"));
    }
    world.ok(&["rm", "-f", "box"]);
    world.ok(&["volume", "rm", "data"]);
}

/// CVE-2021-41089: a copy changes nothing of a directory of the host but what it puts there.
#[test]
fn a_copy_leaves_directories_of_the_host_as_they_are() {
    let world = World::new();
    image(&world, "plain", &json!({}), |_| ());
    world.ok(&["run", "-d", "--name", "box", "--network", "none", "plain.tar", "sleep", "1000000"]);
    world.ok(&[
        "exec",
        "box",
        "sh",
        "-c",
        "mkdir -p /out/inner; echo x >/out/inner/x; /bin/busybox chmod 777 /out /out/inner",
    ]);
    let target = world.directory.join("target");
    fs::create_dir_all(target.join("inner")).unwrap();
    let described = |path: &Path| fs::metadata(path).map(|data| (data.mode(), data.uid(), data.ino())).unwrap();
    for path in [target.clone(), target.join("inner")] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).unwrap();
    }
    let before = (described(&target), described(&world.directory));
    world.ok(&["cp", "-q", "box:/out/.", target.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(target.join("inner/x")).unwrap(), "x\n");
    world.ok(&["cp", "-q", target.to_str().unwrap(), "box:/tmp"]);
    assert_eq!((described(&target), described(&world.directory)), before);
    world.ok(&["rm", "-f", "box"]);
}

/// The limits of a container are its own, whatever the engine was started with.
#[test]
fn limits_come_from_nobody_else() {
    let world = World::new();
    image(&world, "plain", &json!({}), |_| ());
    let limits = |before: &str| {
        let script = format!("{before} exec \"$0\" run --rm --network none plain.tar cat /proc/self/limits");
        let mut shell = std::process::Command::new("bash");
        shell.args(["-c", &script]).arg(&world.roots.program);
        shell.env("STACK_ROOT", &world.roots.root).env("STACK_RUN_ROOT", &world.roots.run);
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let plain = limits("");
    assert_eq!(
        limits("ulimit -S -c 4096; ulimit -S -l 64; ulimit -S -s 4096; ulimit -S -u 500; ulimit -S -f 900000;"),
        plain
    );
    assert_eq!(limits("ulimit -S -n 512; ulimit -S -i 100; ulimit -S -q 1000; ulimit -S -t 1000;"), plain);
}
