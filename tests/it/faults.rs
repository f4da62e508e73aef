//! What fails from outside: registries that die, disks that fill up, commands that are killed while they fetch.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::image::server::{Cutter, Registry, layer_tar};
use crate::support::archive::{hex_digest, write_archive};
use crate::support::{World, free_port, get, leftovers};

/// What can't be compressed, the same each time.
fn noise(length: usize, mut state: u64) -> Vec<u8> {
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| byte()).collect()
}

/// Layers whose content a container can check: busybox, two files of noise, and their sums.
fn checked() -> Vec<Vec<(String, Vec<u8>)>> {
    let files = [("one", noise(2_000_000, 1)), ("two", noise(2_000_000, 2))];
    let sums: String = files.iter().map(|(name, bytes)| format!("{}  /{name}\n", hex_digest(bytes))).collect();
    let [one, two] = files.map(|(name, bytes)| (name.to_owned(), bytes));
    let busybox = ("bin/busybox".to_owned(), fs::read("/bin/busybox").unwrap());
    vec![vec![busybox, one], vec![two, ("sums".to_owned(), sums.into_bytes())]]
}

fn push(registry: &Registry, name: &str) {
    let layers = checked();
    let tars = layers.iter().map(|files| {
        let files: Vec<(&str, u32, &[u8])> =
            files.iter().map(|(path, bytes)| (path.as_str(), 0o755, bytes.as_slice())).collect();
        layer_tar(&files)
    });
    registry.push(name, "1", &tars.collect::<Vec<_>>(), None);
}

fn check(world: &World, image: &str) {
    let check = ["/bin/busybox", "sha256sum", "-c", "/sums"];
    let said = world.ok(&[&["run", "--rm", "--network", "none", image], &check[..]].concat());
    assert_eq!(said, "/one: OK\n/two: OK\n");
}

fn left(world: &World) -> Vec<String> {
    leftovers(&world.roots, &world.directory)
}

/// The moments cover the whole of a pull, from the first connection to the last rename.
#[test]
fn a_pull_that_is_killed_at_any_moment_is_finished_by_the_next() {
    const MOMENTS: u32 = 12;
    let served = World::new();
    let registry = Registry::start(&served.directory, None);
    push(&registry, "app");
    let world = World::new();
    let image = format!("{}/app:1", registry.address);
    let begun = Instant::now();
    world.ok(&["pull", &image]);
    let took = begun.elapsed();
    world.ok(&["image", "rm", &image]);
    for moment in 0..MOMENTS {
        let mut child = world.command(&["pull", &image]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(took * moment / MOMENTS);
        child.kill().unwrap();
        child.wait().unwrap();
        world.ok(&["pull", &image]);
        check(&world, &image);
        world.ok(&["image", "rm", &image]);
        assert_eq!(left(&world), Vec::<String>::new(), "killed at {moment}/{MOMENTS} of {took:?}");
    }
    drop(registry);
}

/// What runs goes on running, the error says which registry, and the next apply goes on where it was.
#[test]
fn a_registry_that_dies_stops_only_what_needs_it() {
    let served = World::new();
    let registry = Registry::start(&served.directory, None);
    push(&registry, "app");
    let cutter = Cutter::start(&registry.address, 500_000);
    let world = World::new();
    let port = free_port();
    let text = |image: &str| {
        format!(
            r#"
name: shop
containers:
  web: {{image: "builtin:whoami", ports: ["{port}:80"]}}
  app: {{image: "{image}", stop_signal: SIGKILL, command: ["/bin/busybox", "sleep", "100000"]}}
"#
        )
    };
    world.file("stack.yaml", &text("builtin:whoami").replace("\"/bin/busybox\", ", ""));
    world.ok(&["apply"]);
    let pids = || ["shop-web-1", "shop-app-1"].map(|name| world.field(name, "pid"));
    let before = pids();
    world.file("stack.yaml", &text(&format!("{}/app:1", cutter.address)));
    cutter.die_after(2);
    let said = world.fails(1, &["apply"]);
    assert!(said.contains(&cutter.address), "{said}");
    assert_eq!(pids(), before, "neither was touched: {said}");
    assert!(get(port, "/").is_ok());
    cutter.die_after(usize::MAX);
    world.ok(&["apply"]);
    world.ok(&["exec", "shop-app-1", "/bin/busybox", "sha256sum", "-c", "/sums"]);
    assert_eq!(pids()[0], before[0]);
    world.ok(&["destroy", "shop"]);
    drop(registry);
}

#[test]
fn an_import_that_fills_the_disk_leaves_nothing_and_costs_nothing() {
    let outer = World::new();
    let small = outer.directory.join("small");
    fs::create_dir_all(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "none"]).arg(&small).status();
    assert!(mounted.unwrap().success());
    let world = World::at(small.clone());
    let archive = outer.directory.join("image.tar");
    write_archive(&archive, "checked", &checked());
    world.ok(&["run", "-d", "--name", "other", "--network", "none", "builtin:whoami", "sleep", "forever"]);
    let load = ["image", "load", "-i", archive.to_str().unwrap()];
    let said = world.fails(1, &load);
    assert!(said.contains("No space left"), "{said}");
    assert_eq!(world.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]), "builtin:whoami\n");
    assert_eq!(world.field("other", "state"), "running");
    assert_eq!(fs::read_dir(world.roots.root.join("images/layers")).unwrap().count(), 1, "of the built-in image");
    let grown = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&small).status();
    assert!(grown.unwrap().success());
    world.ok(&load);
    check(&world, "docker.io/library/checked:latest");
    world.ok(&["rm", "-f", "other"]);
    drop(world);
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
}
