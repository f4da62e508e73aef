//! Tests that run in the machine, each ignored where there is none.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use super::assert_in_the_machine;
use super::boot::persistent;
use super::machine::SECRET;
use crate::oci_runtime::Bundle;
use crate::support::archive::{hex_digest, write_archive};
use crate::support::{World, eventually, get, leftovers};

pub const PORT: u16 = 8080;

/// The group of a container, which has all controllers.
fn group(world: &World, container: &str) -> PathBuf {
    let id = world.field(container, "id");
    let id = &id.as_str().unwrap()[..12];
    let group = PathBuf::from(format!("/sys/fs/cgroup/stack-{}-{id}", world.roots.key()));
    assert!(group.join("cgroup.controllers").exists(), "{} is of version 2", group.display());
    group
}

pub fn setting(group: &Path, file: &str) -> String {
    fs::read_to_string(group.join(file)).unwrap().trim().to_owned()
}

pub fn hits() -> u32 {
    let page = get(PORT, "/").unwrap();
    page.lines().find_map(|line| line.strip_prefix("hits: ")).unwrap().parse().unwrap()
}

/// An image of busybox alone, for containers with a shell.
fn tools(world: &World) -> PathBuf {
    let directory = world.directory.join("tools");
    fs::create_dir_all(directory.join("bin")).unwrap();
    fs::copy("/bin/busybox", directory.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", directory.join("bin/sh")).unwrap();
    directory
}

fn hello(limits: &str) -> String {
    let text = crate::support::hello(PORT, "interval: 1s, retries: 60");
    text.replace("  greeter:", &format!("    {limits}\n  greeter:"))
}

#[test]
#[ignore = "needs the machine"]
fn limits_are_in_the_kernel_and_change_in_place() {
    assert_in_the_machine();
    let world = World::new();
    world.file("stack.yaml", &hello("mem_limit: 64m\n    cpus: 0.5\n    pids_limit: 100"));
    world.ok(&["apply"]);
    let group = group(&world, "hello-counter-1");
    let limits = || ["memory.max", "cpu.max", "pids.max"].map(|file| setting(&group, file));
    assert_eq!(limits(), ["67108864", "50000 100000", "100"]);
    let pid = world.field("hello-counter-1", "pid");
    assert_eq!(setting(&group, "cgroup.procs").lines().next(), Some(pid.to_string().as_str()));
    assert_eq!(hits(), 1);

    world.file("stack.yaml", &hello("mem_limit: 96m\n    cpus: 0.25\n    pids_limit: 50"));
    world.ok(&["apply"]);
    assert_eq!(limits(), ["100663296", "25000 100000", "50"]);
    assert_eq!(world.field("hello-counter-1", "pid"), pid, "it was not restarted");
    assert_eq!(hits(), 2);

    let stats: Value =
        serde_json::from_str(&world.ok(&["stats", "--no-stream", "--format", "json", "hello-counter-1"])).unwrap();
    let stats = stats.get(0).unwrap_or(&stats).clone();
    let current: u64 = setting(&group, "memory.current").parse().unwrap();
    let memory = stats["memory_bytes"].as_u64().unwrap();
    assert!(memory > 0 && memory < 2 * current, "{stats} {current}");
    assert_eq!(stats["memory_limit_bytes"], 96 << 20);
    assert!(stats["cpu_ns"].as_u64().unwrap() > 0 && stats["pids"].as_u64().unwrap() > 0, "{stats}");
    let top = world.ok(&["top", "hello-counter-1"]);
    assert!(top.contains(&pid.to_string()) && top.contains("/whoami"), "{top}");

    world.ok(&["pause", "hello-counter-1"]);
    assert!(setting(&group, "cgroup.events").contains("frozen 1"));
    assert!(get(PORT, "/").is_err(), "what is frozen does not answer");
    world.ok(&["unpause", "hello-counter-1"]);
    assert!(setting(&group, "cgroup.events").contains("frozen 0"));
    world.ok(&["destroy", "hello"]);
    assert!(!group.exists());
}

#[test]
#[ignore = "needs the machine"]
fn a_hog_is_killed_and_its_supervisor_goes_on() {
    assert_in_the_machine();
    let world = World::new();
    let run = ["run", "-d", "--name", "hog", "--network", "none", "--memory", "32m", "--restart", "on-failure:2"];
    world.ok(&[&run[..], &["builtin:whoami", "hold", "200"]].concat());
    world.ok(&["run", "-d", "--name", "other", "--network", "none", "builtin:whoami", "sleep", "forever"]);
    let other = world.field("other", "pid");
    eventually("it has been killed three times", || {
        world.field("hog", "state") == "exited" && world.field("hog", "restarts") == 2
    });
    assert_eq!(world.field("hog", "exit_code"), 137);
    assert_eq!(world.field("hog", "oom_killed"), true);
    assert_eq!(world.field("other", "pid"), other);
    assert_eq!(world.field("other", "oom_killed"), false);
    world.ok(&["rm", "-f", "hog", "other"]);
}

/// By a program in the kernel, since version 2 has no file for it: a node that a container makes or is given in a mount
/// does not open.
#[test]
#[ignore = "needs the machine"]
fn devices_open_only_where_they_were_given() {
    assert_in_the_machine();
    let world = World::new();
    let disk = fs::metadata("/dev/vdc").unwrap().rdev();
    let (major, minor) = (nix::sys::stat::major(disk), nix::sys::stat::minor(disk));
    let node = format!("busybox mknod /node b {major} {minor}");
    let text = format!(
        r#"
name: devices
images: {{tools: {{rootfs: {}}}}}
containers:
  given:
    image: tools
    devices: ["/dev/vdc:/dev/disk:r"]
    command: ["/bin/sh", "-c", "busybox head -n 1 /dev/disk; busybox echo x > /dev/disk"]
  made:
    image: tools
    cap_add: [MKNOD]
    command: ["/bin/sh", "-c", "{node} && busybox echo made; busybox head -n 1 /node; busybox head -c 1 /dev/zero"]
  mounted:
    image: tools
    volumes: ["/dev/vdc:/dev/disk"]
    command: ["/bin/busybox", "head", "-n", "1", "/dev/disk"]
  privileged:
    image: tools
    privileged: true
    command: ["/bin/sh", "-c", "{node}; busybox head -n 1 /node"]
"#,
        tools(&world).display()
    );
    world.file("stack.yaml", &text);
    world.ok(&["apply"]);
    let logs = |name: &str| {
        world.run(&["wait", name]);
        let output = world.run(&["logs", name]);
        output.stdout + &output.stderr
    };
    let given = logs("devices-given-1");
    assert!(given.contains(SECRET) && given.contains("Operation not permitted"), "{given}");
    let made = logs("devices-made-1");
    assert!(made.contains("made\n") && made.contains("/node: Operation not permitted\n"), "{made}");
    assert!(made.contains('\0') && !made.contains(SECRET), "what every container has opens: {made:?}");
    let mounted = logs("devices-mounted-1");
    assert!(!mounted.contains(SECRET) && mounted.contains("denied") || mounted.contains("not permitted"), "{mounted}");
    assert_eq!(logs("devices-privileged-1"), SECRET);
    world.ok(&["destroy", "devices"]);
}

const ARCHIVE: &str = "/disk/image.tar";
const SUMS: &str = "busybox sha256sum -c -s /sums";

/// An image whose files a container can check by itself.
fn write_checked_archive(path: &Path) {
    let mut state: u64 = 7;
    let mut noise = |length: usize| -> Vec<u8> {
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..length).map(|_| byte()).collect()
    };
    let mut layers: Vec<Vec<(String, Vec<u8>)>> =
        (0..3).map(|layer| (0..20).map(|file| (format!("content/{layer}/{file}"), noise(30_000))).collect()).collect();
    let sum = |(path, bytes): &(String, Vec<u8>)| format!("{}  /{path}\n", hex_digest(bytes));
    let sums: String = layers.iter().flatten().map(sum).collect();
    layers[2].push(("sums".to_owned(), sums.into_bytes()));
    layers[0].push(("bin/busybox".to_owned(), fs::read("/bin/busybox").unwrap()));
    write_archive(path, "checked", &layers);
}

fn checked_stack() -> String {
    format!(
        r#"
name: hello
images: {{checked: {{archive: {ARCHIVE}}}}}
containers:
  counter:
    image: builtin:whoami
    ports: ["{PORT}:80"]
    networks: [front]
    healthcheck: {{test: ["CMD", "/whoami", "health"], interval: 1s, retries: 60}}
  image: {{image: checked, stop_signal: SIGKILL, command: ["/bin/busybox", "sleep", "100000"]}}
  volume:
    image: checked
    stop_signal: SIGKILL
    command: ["/bin/busybox", "sleep", "100000"]
    volumes: ["data:/content"]
    depends_on: {{counter: {{condition: service_healthy}}}}
volumes: {{data: {{}}}}
networks: {{front: {{}}}}
"#
    )
}

/// One round: mends what the power cut before left, sees that nothing of it remains, and makes it all again, during
/// which the power is cut, but for the last round.
#[test]
#[ignore = "needs the machine"]
fn what_was_cut_is_mended_and_made_again() {
    assert_in_the_machine();
    let world = persistent();
    if !Path::new(ARCHIVE).exists() {
        write_checked_archive(Path::new(ARCHIVE));
        world.file("stack.yaml", &checked_stack());
    } else {
        world.ok(&["apply"]);
        check_and_clear(&world);
    }
    nix::unistd::sync();
    println!("\napply begins");
    let begun = Instant::now();
    world.ok(&["apply"]);
    println!("\napply took ms: {}", begun.elapsed().as_millis());
    check_and_clear(&world);
    // The next boot goes on in this directory, whether the power was cut before this line or after it.
    std::mem::forget(world);
}

fn check_and_clear(world: &World) {
    world.ok(&["status"]);
    assert_eq!(get(PORT, "/health").unwrap(), "healthy\n");
    for name in ["hello-image-1", "hello-volume-1"] {
        world.ok(&["exec", name, "/bin/busybox", "sh", "-c", SUMS]);
    }
    world.ok(&["destroy", "hello", "--volumes", "--yes=volumes"]);
    world.ok(&["volume", "prune", "--trash", "--force"]);
    for image in world.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).lines() {
        world.ok(&["image", "rm", image]);
    }
    assert_eq!(leftovers(&world.roots, &world.directory), Vec::<String>::new());
    // Locks, what a store says of itself, the empty files that others are mounted on, the program that becomes each
    // container's, and what became of stacks; nothing of what was made.
    let constant = [".locks", "lock", "locks", "oci-layout", "skeleton", "stacks"];
    let is_constant = |path: &PathBuf| {
        let mut names = path.components().map(|part| part.as_os_str().to_string_lossy());
        names.any(|name| constant.contains(&name.as_ref()) || name.starts_with("launcher-"))
    };
    let files = files(&world.roots.root).into_iter().filter(|path| !is_constant(path));
    assert_eq!(files.collect::<Vec<_>>(), [world.roots.root.join("images/index.json")]);
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
#[ignore = "needs the machine"]
fn disks_are_shared_by_weight_and_limited_by_rate() {
    assert_in_the_machine();
    let world = World::new();
    let disk = fs::metadata("/dev/vdc").unwrap().rdev();
    let (major, minor) = (nix::sys::stat::major(disk), nix::sys::stat::minor(disk));
    let bundle = Bundle::new(&world, "exec sleep 1000", |config| {
        config["linux"]["resources"]["blockIO"] = json!({"weight": 500,
            "throttleWriteBpsDevice": [{"major": major, "minor": minor, "rate": 1 << 20}]});
    });
    bundle.create(&[]);
    let group = Path::new("/sys/fs/cgroup").join(&bundle.id);
    assert_eq!(setting(&group, "io.weight"), "default 4950");
    let rates = setting(&group, "io.max");
    assert!(rates.starts_with(&format!("{major}:{minor} ")) && rates.contains("wbps=1048576"), "{rates}");
    bundle.ok(&["delete", "--force", &bundle.id]);
    bundle.leaves_nothing();
}
