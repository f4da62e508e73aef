//! Images that a stack declares by where they come from: what the file says is what runs, and goes on to be.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::image::server::{Registry, layer_tar};
use crate::support::{World, eventually};

/// Which container it is and since when it runs.
pub fn identity(world: &World, name: &str) -> (String, String) {
    let text = world.ok(&["inspect", name]);
    let known: serde_json::Value = serde_json::from_str(&text).unwrap();
    let known = if known.is_array() { known[0].clone() } else { known };
    assert_eq!(known["State"]["Status"], "running", "{name}: {known}");
    (known["Id"].to_string(), known["State"]["StartedAt"].to_string())
}

/// A container of this image that only lives.
fn sleeper(image: &str) -> String {
    format!("{{image: {image}, command: [/bin/sleep, \"1000000\"], stop_signal: KILL, network_mode: none}}")
}

fn word(world: &World, container: &str) -> String {
    world.ok(&["exec", container, "/bin/cat", "/word"])
}

/// A root file system with a shell and this word in it.
fn root(world: &World, word: &str) {
    if !world.directory.join("root").exists() {
        world.busybox("root");
    }
    fs::write(world.directory.join("root/word"), word).unwrap();
}

/// An OCI archive with one layer, the folder `root`; `damage` changes the layer that its manifest tells of.
fn oci_archive(world: &World, name: &str, damage: bool) {
    let parts = world.directory.join(format!("{name}.oci"));
    let blobs = parts.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8], kind: &str| {
        let digest = stack::reconcile::facts::hash(bytes);
        fs::write(blobs.join(&digest), bytes).unwrap();
        json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len()})
    };
    let layer = world.directory.join("layer.tar");
    tar(&layer, &world.directory.join("root"), ".");
    let bytes = fs::read(&layer).unwrap();
    let own = put(&bytes, "application/vnd.oci.image.layer.v1.tar");
    let config = json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [own["digest"]]}});
    let config = put(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [own]});
    let manifest = put(manifest.to_string().as_bytes(), kind);
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(parts.join("index.json"), index.to_string()).unwrap();
    fs::write(parts.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    if damage {
        let path = blobs.join(own["digest"].as_str().unwrap().trim_start_matches("sha256:"));
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    tar(&world.directory.join(name), &parts, ".");
}

fn tar(archive: &Path, directory: &Path, name: &str) {
    let made = std::process::Command::new("tar").arg("-C").arg(directory).arg("-cf").arg(archive).arg(name).status();
    assert!(made.unwrap().success());
}

#[test]
fn an_image_comes_from_where_it_is_declared() {
    let world = World::new();
    let registry = Registry::start(&world.directory, None);
    let busybox = fs::read("/bin/busybox").unwrap();
    let layer = |word: &str| {
        let program = busybox.as_slice();
        layer_tar(&[("bin/cat", 0o755, program), ("bin/sleep", 0o755, program), ("word", 0o644, word.as_bytes())])
    };
    let pinned = registry.push("app", "1", &[layer("pulled")], None);
    let digest = pinned["digest"].as_str().unwrap().to_owned();
    // The tag moves on; the digest does not.
    registry.push("app", "1", &[layer("moved")], None);
    root(&world, "docker");
    world.archive("docker.tar", "root", &json!({}));
    root(&world, "oci");
    oci_archive(&world, "oci.tar", false);
    root(&world, "tar");
    tar(&world.directory.join("root.tar"), &world.directory.join("root"), ".");
    root(&world, "directory");
    let pull = format!("{}/app:1", registry.address);
    let names = ["pulled", "docker", "oci", "tar", "directory"];
    let containers: String = names.map(|name| format!("  {name}: {}\n", sleeper(name))).concat();
    let text = format!(
        r#"
name: from
images:
  pulled: {{pull: "{pull}", digest: "{digest}"}}
  docker: {{archive: docker.tar}}
  oci: {{archive: oci.tar}}
  tar: {{rootfs: root.tar}}
  directory: {{rootfs: root}}
  who: {{builtin: whoami}}
containers:
{containers}  who: {{image: who, network_mode: none}}
"#
    );
    let file = world.file("stack.yaml", &text);
    let file = file.to_str().unwrap();
    world.ok(&["apply", file]);
    for name in names {
        assert_eq!(word(&world, &format!("from-{name}-1")), name);
    }
    assert!(world.ok(&["exec", "from-who-1", "/whoami", "env"]).contains("PATH=/"));
    let before = identity(&world, "from-pulled-1");
    assert!(world.run(&["apply", file]).stderr.contains("nothing to do"));
    // Another digest than the registry has is refused, and what runs runs on.
    let other = format!("sha256:{}", "0".repeat(64));
    world.file("stack.yaml", &text.replace(&digest, &other));
    let said = world.fails(1, &["apply", file]);
    assert!(said.contains(&other) && said.contains("--> stack.yaml:4:"), "{said}");
    assert_eq!(identity(&world, "from-pulled-1"), before);
    world.ok(&["destroy", "from"]);
    drop(registry);
}

#[test]
fn a_changed_file_of_an_image_is_a_change_of_its_containers() {
    let world = World::new();
    root(&world, "one");
    world.archive("docker.tar", "root", &json!({}));
    root(&world, "uno");
    let text = format!(
        "name: own\nimages: {{packed: {{archive: docker.tar}}, tree: {{rootfs: root}}}}\ncontainers:\n  packed: {}\n  \
         tree: {}\n  who: {{image: builtin:whoami, network_mode: none}}\n",
        sleeper("packed"),
        sleeper("tree")
    );
    let file = world.file("stack.yaml", &text);
    let file = file.to_str().unwrap();
    world.ok(&["apply", file]);
    let ids = || ["own-packed-1", "own-tree-1", "own-who-1"].map(|name| identity(&world, name));
    let before = ids();
    assert_eq!(world.ok(&["plan", file]), "");

    root(&world, "two");
    fs::remove_dir_all(world.directory.join("docker.tar.parts")).unwrap();
    world.archive("docker.tar", "root", &json!({}));
    root(&world, "uno");
    let plan = world.ok(&["plan", file]);
    let line = |id: &str| plan.lines().find(|line| line.contains(id)).unwrap_or_else(|| panic!("{id}: {plan}"));
    assert!(line("image/own-packed").contains("load") && line("image/own-packed").contains("archive changed (sha256:"));
    assert!(line("container/packed-1").contains("replace"), "{plan}");
    assert!(!plan.contains("who-1"), "{plan}");
    world.ok(&["apply", file]);
    assert_eq!(word(&world, "own-packed-1"), "two");
    let after = ids();
    assert!(after[0] != before[0] && after[2] == before[2]);

    // Of the same length, with the old time put back.
    let path = world.directory.join("root/word");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "due").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let plan = world.ok(&["plan", file]);
    assert!(plan.contains("rootfs changed (sha256:") && !plan.contains("packed"), "{plan}");
    world.ok(&["apply", file]);
    assert_eq!(word(&world, "own-tree-1"), "due");
    assert_eq!(ids()[0], after[0]);
    assert!(world.run(&["apply", file]).stderr.contains("nothing to do"));
    world.ok(&["destroy", "own"]);
}

#[test]
fn a_watched_archive_is_followed() {
    let world = World::new();
    root(&world, "one");
    world.archive("app.tar", "root", &json!({}));
    let text =
        format!("name: followed\nimages: {{app: {{archive: app.tar}}}}\ncontainers: {{app: {}}}\n", sleeper("app"));
    world.file("stack.yaml", &text);
    let mut watcher =
        world.command(&["watch", "--interval", "3600"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    eventually("it runs", || world.field("followed-app-1", "state") == "running");
    root(&world, "two");
    fs::remove_dir_all(world.directory.join("app.tar.parts")).unwrap();
    world.archive("next.tar", "root", &json!({}));
    fs::rename(world.directory.join("next.tar"), world.directory.join("app.tar")).unwrap();
    let says = || world.run(&["exec", "followed-app-1", "/bin/cat", "/word"]).stdout;
    eventually("the new one runs", || says() == "two");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(watcher.id() as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(watcher.wait().unwrap().success());
    world.ok(&["destroy", "followed"]);
}

/// What is wrong with an archive shows before anything that runs is touched.
#[test]
fn a_broken_archive_stops_nothing() {
    let world = World::new();
    root(&world, "good");
    world.archive("app.tar", "root", &json!({}));
    let text = format!(
        "name: kept\nimages:\n  app: {{archive: app.tar}}\ncontainers:\n  app: {}\n  who: {{image: builtin:whoami, \
         environment: {{A: b}}, network_mode: none}}\n",
        sleeper("app")
    );
    let file = world.file("stack.yaml", &text);
    let file = file.to_str().unwrap();
    world.ok(&["apply", file]);
    let ids = || ["kept-app-1", "kept-who-1"].map(|name| identity(&world, name));
    let before = ids();
    // The other container would change, too.
    world.file("stack.yaml", &text.replace("A: b", "A: c"));
    let archive = world.directory.join("app.tar");
    fs::write(&archive, "this is no tar").unwrap();
    let said = world.fails(1, &["apply", file]);
    assert!(said.contains("app.tar") && said.contains("--> stack.yaml:3:"), "{said}");
    assert_eq!(ids()[0], before[0]);
    tar(&archive, &world.directory.join("root"), ".");
    let said = world.fails(1, &["apply", file]);
    assert!(said.contains("neither a docker archive") && said.contains("`rootfs:`"), "{said}");
    oci_archive(&world, "app.tar", true);
    let said = world.fails(1, &["apply", file]);
    assert!(said.contains("layer: expected sha256:"), "{said}");
    assert_eq!(ids()[0], before[0]);
    fs::remove_file(&archive).unwrap();
    for command in ["validate", "plan", "apply"] {
        let said = world.fails(1, &[command, file]);
        let place = "error: the archive app.tar of image `app` is not there\n --> stack.yaml:3:18";
        assert!(said.contains(place) && said.contains("help: make it"), "{command}: {said}");
    }
    assert_eq!(ids()[0], before[0]);
    world.ok(&["destroy", "kept"]);
}

/// What one stack calls `app` is another stack's `app` no more than any other image.
#[test]
fn two_stacks_may_give_one_name_to_two_images() {
    let world = World::new();
    for name in ["left", "right"] {
        root(&world, name);
        world.archive(&format!("{name}.tar"), "root", &json!({}));
        let images = format!("images: {{app: {{archive: {name}.tar}}}}");
        world.file(
            &format!("{name}.yaml"),
            &format!("name: {name}\n{images}\ncontainers: {{app: {}}}\n", sleeper("app")),
        );
        world.ok(&["apply", &format!("{name}.yaml")]);
    }
    for name in ["left", "right"] {
        assert_eq!(word(&world, &format!("{name}-app-1")), name);
        assert_eq!(world.ok(&["plan", &format!("{name}.yaml")]), "");
        world.ok(&["destroy", name]);
    }
}

#[test]
fn a_platform_is_the_hosts_own_or_an_error() {
    let world = World::new();
    let registry = Registry::start(&world.directory, None);
    let busybox = fs::read("/bin/busybox").unwrap();
    registry.push("app", "1", &[layer_tar(&[("bin/sleep", 0o755, busybox.as_slice())])], None);
    let image = format!("\"{}/app:1\"", registry.address);
    let one = |platform: &str| sleeper(&image).replacen('{', &format!("{{platform: {platform}, "), 1);
    // Two names of the host's own platform and none are one image.
    let text = format!(
        "name: where\ncontainers:\n  none: {}\n  own: {}\n  same: {}\n",
        sleeper(&image),
        one("linux/amd64"),
        one("linux/x86_64")
    );
    let file = world.file("stack.yaml", &text);
    let file = file.to_str().unwrap();
    world.ok(&["apply", file]);
    assert_eq!(world.ok(&["images", "-q"]).lines().count(), 1);
    let before = identity(&world, "where-own-1");
    // s390x is emulated nowhere that these tests run.
    world.file("stack.yaml", &text.replace("linux/amd64", "linux/s390x"));
    for command in ["plan", "apply"] {
        let said = world.fails(1, &[command, file]);
        assert!(said.contains("not of linux/s390x\n --> stack.yaml:4:19") && said.contains("qemu-user"), "{said}");
    }
    assert_eq!(identity(&world, "where-own-1"), before);
    // What is declared for a platform and is for another one is not taken for it.
    root(&world, "x");
    world.archive("app.tar", "root", &json!({}));
    world.file(
        "stack.yaml",
        "name: where\ncontainers: {own: {build: {context: ., dockerfile_inline: \"FROM scratch\"}, platform: linux/s390x}}\n",
    );
    let said = world.fails(1, &["apply", file]);
    assert!(said.contains("for linux/amd64 only\n --> stack.yaml:2:"), "{said}");
    world.ok(&["destroy", "where"]);
    drop(registry);
}
