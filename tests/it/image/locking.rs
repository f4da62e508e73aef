//! `stack.lock`: which content a stack runs while its registry moves on.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::registries::User;
use super::server::{Registry, layer_tar};
use crate::support::{World, eventually};

/// An image that runs and says which one it is.
pub fn runnable(text: &str) -> Vec<Vec<u8>> {
    let busybox = fs::read("/bin/busybox").expect("Debian's package busybox-static");
    let script = format!("#!/bin/busybox sh\necho {text}\nexec /bin/busybox sleep 1000\n");
    vec![layer_tar(&[("bin/busybox", 0o755, &busybox), ("bin/tool", 0o755, script.as_bytes())])]
}

/// A stack file with one container of this image.
pub fn file(world: &World, image: &str) {
    let text = format!("name: shop\ncontainers:\n  web:\n    image: {image}\n    stop_signal: SIGKILL\n");
    world.file("stack.yaml", &text);
}

/// The stack's container runs and is this one.
pub fn says(user: &User, text: &str) {
    eventually(text, || user.ok(&["logs", "shop-web-1"]) == format!("{text}\n"));
}

fn locked(world: &World) -> String {
    fs::read_to_string(world.directory.join("stack.lock")).unwrap()
}

#[test]
fn a_lock_keeps_the_content_until_it_is_moved() {
    let world = World::new();
    let user = User { world: &world };
    let registry = Registry::start(&world.directory, None);
    let image = format!("{}/team/app:1", registry.address);
    let first = registry.push("team/app", "1", &runnable("one"), None)["digest"].as_str().unwrap().to_owned();
    file(&world, &image);
    let written = fs::read(world.directory.join("stack.yaml")).unwrap();
    user.ok(&["apply"]);
    assert!(!world.directory.join("stack.lock").exists(), "a lock is for who asks for it");
    let id = world.field("shop-web-1", "id");

    // Taking up a lock leaves what runs alone.
    let said = user.ok(&["pull", "--update", "-q"]);
    assert_eq!(said, "");
    let text = locked(&world);
    assert!(text.ends_with(&format!("version = 1\n\n[images]\n\"{image}\" = \"{first}\"\n")), "{text}");
    let mode = fs::metadata(world.directory.join("stack.lock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "it is for everybody who reads the file");
    assert_eq!(user.ok(&["plan", "--detailed-exitcode"]), "");
    user.ok(&["apply", "--locked", "--pull", "always"]);
    assert_eq!(world.field("shop-web-1", "id"), id);

    // The registry moves on, the stack does not; also where nothing is here.
    let second = registry.push("team/app", "1", &runnable("two"), None)["digest"].as_str().unwrap().to_owned();
    user.ok(&["apply", "--pull", "always"]);
    assert_eq!(world.field("shop-web-1", "id"), id);
    user.ok(&["destroy"]);
    user.ok(&["image", "prune", "-a", "-f"]);
    user.ok(&["apply"]);
    says(&user, "one");

    let moved = user.ok(&["pull", "--update"]);
    assert_eq!(moved, format!("moved  {image}  {first} -> {second}\n"));
    assert!(locked(&world).contains(&second) && !locked(&world).contains(&first));
    let plan = user.ok(&["plan"]);
    let short = |digest: &str| digest[..19].to_owned();
    assert!(plan.contains(&format!("image_digest: {} -> {}", short(&first), short(&second))), "{plan}");
    let changes = plan.lines().filter(|line| !line.starts_with("  note: "));
    assert!(plan.contains("tag moved") && changes.count() == 1, "{plan}");
    user.ok(&["apply", "--locked"]);
    says(&user, "two");
    let same: Value =
        serde_json::from_str(user.ok(&["pull", "--update", "--format", "json"]).lines().last().unwrap()).unwrap();
    assert_eq!((&same["state"], &same["digest"]), (&"same".into(), &second.clone().into()));

    // Without the lock it is a tag again, and the same content is no change.
    fs::remove_file(world.directory.join("stack.lock")).unwrap();
    user.ok(&["apply", "--pull", "always"]);
    assert_eq!(user.ok(&["plan"]), "");
    registry.push("team/app", "1", &runnable("three"), None);
    user.ok(&["pull", &image]);
    let plan = user.ok(&["plan"]);
    assert!(plan.contains(&short(&second)) && plan.contains("tag moved"), "{plan}");
    user.ok(&["apply"]);
    says(&user, "three");
    assert_eq!(fs::read(world.directory.join("stack.yaml")).unwrap(), written, "the file is its author's");
    user.ok(&["destroy"]);
}

#[test]
fn a_new_tag_is_added_by_apply_and_refused_where_the_lock_is_final() {
    let world = World::new();
    let user = User { world: &world };
    let registry = Registry::start(&world.directory, None);
    let [one, two] = ["1", "2"].map(|tag| format!("{}/team/app:{tag}", registry.address));
    registry.push("team/app", "1", &runnable("one"), None);
    let second = registry.push("team/app", "2", &runnable("two"), None);
    file(&world, &one);
    let none = user.fails(&["apply", "--locked"]);
    assert!(none.contains(&format!("{one} is not in stack.lock")) && none.contains("stack.yaml:4:12"), "{none}");
    user.ok(&["pull", "--update"]);
    file(&world, &two);
    let before = locked(&world);
    let plan = user.ok(&["plan"]);
    assert!(plan.contains(&format!("note: {two} is not in stack.lock: `stack apply` adds it")), "{plan}");
    for words in [["plan", "--locked"], ["apply", "--locked"]] {
        assert!(user.fails(&words).contains(&format!("{two} is not in stack.lock")));
    }
    assert_eq!(locked(&world), before, "a plan writes nothing");
    assert!(world.names().is_empty());
    user.ok(&["apply"]);
    let after = locked(&world);
    assert!(after.starts_with(before.trim_end()), "{after}");
    assert!(after.contains(&format!("\"{two}\" = {}", second["digest"])), "{after}");
    user.ok(&["apply", "--locked"]);

    // What can't be had moves nothing.
    drop(registry);
    user.fails(&["pull", "--update"]);
    assert_eq!(locked(&world), after);
    user.ok(&["destroy"]);
}

#[test]
fn a_lock_that_is_wrong_is_an_error_at_its_place() {
    let world = World::new();
    let user = User { world: &world };
    file(&world, "x:1");
    for (text, place, reason) in [
        ("version = 1\n[images]\n\"x:1\" = \"sha256:ab\"\n", "stack.lock:3:9", "expected a digest"),
        ("version = 2\n", "stack.lock:1:11", "version 1"),
        ("version = 1\n[image]\n", "stack.lock:2:2", "unknown key `image` in `stack.lock`"),
        ("version = 1\n[images]\n<<<<<<< ours\n", "stack.lock:3:1", "not valid TOML"),
        ("version = 1\n[images]\n\"x\" = \"y\"\n\"x\" = \"y\"\n", "stack.lock:4:1", "not valid TOML"),
        ("", "stack.lock", "expected `version = 1`"),
    ] {
        world.file("stack.lock", text);
        for words in [&["validate"][..], &["plan"], &["apply"], &["pull", "--update"]] {
            let said = user.fails(words);
            assert!(said.contains(place) && said.contains(reason), "{text}: {said}");
        }
        assert_eq!(locked(&world), text);
    }
}
