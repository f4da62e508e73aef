//! Protection that nobody asks for: from what an image is, and told before it counts.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use crate::support::World;

/// An image of this name from a folder of the world, whose `bin/mine` is a copy of busybox with this mode.
fn image(world: &World, name: &str, mode: u32) -> PathBuf {
    let root = world.busybox(name);
    fs::create_dir_all(root.join("data")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/mine")).unwrap();
    fs::set_permissions(root.join("bin/mine"), fs::Permissions::from_mode(mode)).unwrap();
    root
}

fn load(world: &World, name: &str) {
    let words = serde_json::json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]});
    let archive = world.archive(&format!("{name}.tar"), name, &words);
    world.ok(&["load", "-q", "-i", archive.to_str().unwrap()]);
    world.ok(&["tag", &format!("{name}.tar"), name]);
}

/// `NoNewPrivs` of the status of a program in a container of this image.
fn no_new_privileges(world: &World, image: &str, flags: &[&str]) -> String {
    let words = [
        &["run", "--rm", "--network", "none"],
        flags,
        &[image, "/bin/busybox", "grep", "NoNewPrivs", "/proc/self/status"],
    ];
    world.ok(&words.concat()).trim().replace("NoNewPrivs:\t", "")
}

#[test]
fn where_no_program_of_the_image_raises_rights_nothing_else_does() {
    let world = World::new();
    for (name, mode, raises) in [("plain", 0o755, "1"), ("user", 0o4755, "0"), ("group", 0o2755, "0")] {
        image(&world, name, mode);
        load(&world, name);
        assert_eq!(no_new_privileges(&world, name, &[]), raises, "{name}");
    }
    let root = image(&world, "capable", 0o755);
    // `struct vfs_cap_data` of CAP_NET_BIND_SERVICE, permitted and effective.
    let capable = [0x0200_0001_u32, 1 << 10, 0, 0, 0].map(u32::to_le_bytes).concat();
    stack::runtime::sys::set_attribute(&root.join("bin/mine"), "security.capability", &capable).unwrap();
    let tar = world.directory.join("capable.tar");
    let mut pack = Command::new("tar");
    pack.args(["--xattrs", "--xattrs-include=security.*", "-C"]).arg(&root).arg("-cf").arg(&tar).arg(".");
    assert!(pack.status().unwrap().success());
    world.ok(&["import", tar.to_str().unwrap(), "capable"]);
    assert_eq!(no_new_privileges(&world, "capable", &[]), "0");
    // Lifted, and asked for.
    assert_eq!(no_new_privileges(&world, "plain", &["--security-opt", "no-new-privileges:false"]), "0");
    assert_eq!(no_new_privileges(&world, "plain", &["--privileged"]), "0");
    assert_eq!(no_new_privileges(&world, "user", &["--security-opt", "no-new-privileges"]), "1");
    // Also for further programs, and after the container has become an image, with what was added to it.
    world.ok(&["run", "-d", "--name", "box", "--network", "none", "plain", "sleep", "1000000"]);
    let joined = world.ok(&["exec", "box", "grep", "NoNewPrivs", "/proc/self/status"]);
    assert_eq!(joined.trim(), "NoNewPrivs:\t1");
    world.ok(&["commit", "-q", "box", "same"]);
    world.ok(&["exec", "box", "/bin/busybox", "chmod", "4755", "/bin/mine"]);
    world.ok(&["commit", "-q", "box", "more"]);
    world.ok(&["rm", "-f", "box"]);
    assert_eq!(no_new_privileges(&world, "same", &[]), "1");
    assert_eq!(no_new_privileges(&world, "more", &[]), "0");
    // A layer that an older build has unpacked is looked at.
    for entry in fs::read_dir(world.roots.root.join("images/layers")).unwrap() {
        fs::remove_file(entry.unwrap().path().join("contents.json")).unwrap();
    }
    assert_eq!(no_new_privileges(&world, "plain", &[]), "1");
    for image in ["user", "group", "capable", "more"] {
        assert_eq!(no_new_privileges(&world, image, &[]), "0", "{image}");
    }
}

/// What the default is for: a program that others can write into a volume raises nobody.
#[test]
fn a_program_that_is_not_of_the_image_raises_nobody() {
    let world = World::new();
    image(&world, "plain", 0o755);
    load(&world, "plain");
    image(&world, "raising", 0o4755);
    load(&world, "raising");
    let tool = world.directory.join("tool");
    crate::probe::put(&tool);
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(fs::metadata(&tool).unwrap().uid(), 0);
    let bind = format!("{}:/data/tool", tool.display());
    let run = |image: &str, program: &str| {
        let words = ["run", "--rm", "--network", "none", "-u", "app", "-v", &bind, image, program, "ids"];
        world.ok(&words).trim().to_owned()
    };
    assert_eq!(run("plain", "/data/tool"), "1000 1000");
    assert_eq!(run("raising", "/data/tool"), "0 1000");
}

#[test]
fn what_protects_a_container_is_said_beforehand_and_afterwards() {
    let world = World::new();
    image(&world, "plain", 0o755);
    image(&world, "raising", 0o4755);
    let text = |option: &str| {
        let text = format!(
            "name: safe\nimages:\n  plain: {{rootfs: ./plain}}\n  raising: {{rootfs: ./raising}}\ncontainers:\n\
             {0} a: {{image: plain{option}{1}}}\n{0} b: {{image: raising{1}}}\n",
            " ", ", command: [/bin/sleep, \"1000000\"], stop_grace_period: 0s"
        );
        world.file("stack.yaml", &text).to_str().unwrap().to_owned()
    };
    let plan = world.ok(&["plan", &text("")]);
    assert!(
        plan.contains("note: safe-a-1, safe-b-1: what protects it depends on its image, which is not here yet"),
        "{plan}"
    );
    world.ok(&["apply", &text("")]);
    assert_eq!(world.ok(&["plan", &text("")]), "");
    let protected = |name: &str| world.ok(&["inspect", "--format", "{{.Stack.Protection.NoNewPrivileges}}", name]);
    assert_eq!((protected("safe-a-1").trim(), protected("safe-b-1").trim()), ("true", "false"));
    let plan = world.ok(&["plan", &text(", security_opt: [no-new-privileges:false]")]);
    assert!(plan.contains("note: safe-a-1: new privileges are possible, as it asks for"), "{plan}");
    world.ok(&["destroy", "safe"]);
    let plan = world.ok(&["plan", &text("")]);
    assert!(plan.contains("note: safe-a-1: no new privileges"), "{plan}");
    assert!(plan.contains("note: safe-b-1: new privileges are possible: programs of its image raise them"), "{plan}");
    world.ok(&["apply", &text(", security_opt: [no-new-privileges:false]")]);
    assert_eq!(protected("safe-a-1").trim(), "false");
    world.ok(&["destroy", "safe"]);
}
