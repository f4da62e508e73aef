//! User namespaces: root inside is nobody outside, and its files are its own all the same.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::{World, eventually, free_port, get};

/// The ids that the host knows a process by: `Uid` or `Gid` of its status.
fn ids(pid: i64, key: &str) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').split_whitespace().map(|word| word.parse().unwrap()).collect()
}

fn namespace(pid: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/user")).unwrap().display().to_string()
}

fn owner(path: &Path) -> (u32, u32) {
    let data = fs::metadata(path).unwrap();
    (data.uid(), data.gid())
}

fn stack(port: u16, users: &str, bind: &Path) -> String {
    format!(
        r#"
name: own
containers:
  box:
    image: builtin:whoami
    userns_mode: {users}
    networks: [net]
    ports: ["{port}:80"]
    volumes: ["data:/data", "{}:/bind"]
    secrets: [{{source: key, mode: 0400}}]
    stop_grace_period: 1s
secrets: {{key: {{content: "hidden"}}}}
networks: {{net: {{}}}}
volumes: {{data: {{}}}}
"#,
        bind.display()
    )
}

#[test]
fn root_of_a_user_namespace_is_nobody_outside() {
    let world = World::new();
    let port = free_port();
    let bind = world.directory.join("bind");
    fs::create_dir(&bind).unwrap();
    let file = world.file("stack.yaml", &stack(port, "private", &bind));
    let file = file.to_str().unwrap();
    world.ok(&["apply", file]);
    let pid = world.field("own-box-1", "pid").as_i64().unwrap();
    let first = ids(pid, "Uid")[0];
    assert!(first >= 524_288, "{first}");
    assert_eq!(ids(pid, "Gid"), [first; 4]);
    assert_ne!(namespace(&pid.to_string()), namespace("self"));
    let inside = |words: &[&str]| world.ok(&[&["exec", "own-box-1", "/whoami"], words].concat());
    assert!(inside(&["id"]).contains("Uid:\t0\t0\t0\t0"));
    let map: Vec<u32> =
        inside(&["cat", "/proc/self/uid_map"]).split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert_eq!(map, [0, first, 65_536]);
    // What it writes is root's on the disk, below directories that only root may enter.
    for path in ["/data/a", "/bind/a", "/a"] {
        inside(&["write", path, "x"]);
    }
    assert_eq!(owner(&world.roots.root.join("volumes/own_data/_data/a")), (0, 0));
    assert_eq!(owner(&world.roots.root.join("containers/own-box-1/upper/a")), (0, 0));
    assert_eq!(owner(&bind.join("a")), (0, 0));
    assert_eq!(inside(&["cat", "/run/secrets/key"]), "hidden");
    assert!(inside(&["cat", "/etc/hosts"]).contains("localhost"));
    assert!(get(port, "/").unwrap().contains("own-box-1"));
    world.ok(&["restart", "own-box-1"]);
    eventually("it serves again", || get(port, "/").is_ok());
    let again = world.field("own-box-1", "pid").as_i64().unwrap();
    assert_eq!(ids(again, "Uid"), [first; 4]);
    // And back: the volume is as it was.
    let plan = world.file("host.yaml", &stack(port, "host", &bind));
    let text = world.ok(&["plan", plan.to_str().unwrap()]);
    assert!(text.contains("userns: private -> (none)"), "{text}");
    world.ok(&["apply", plan.to_str().unwrap()]);
    let pid = world.field("own-box-1", "pid").as_i64().unwrap();
    assert_eq!(ids(pid, "Uid"), [0; 4]);
    assert_eq!(inside(&["cat", "/data/a"]), "x\n");
    world.ok(&["destroy", "own"]);
}

#[test]
fn the_ids_of_two_containers_are_apart() {
    let world = World::new();
    let start = |name: &str| {
        let words = ["run", "-d", "--name", name, "--network", "none", "--userns", "auto", "--user", "app"];
        world.ok(&[&words[..], &["builtin:whoami", "sleep", "forever"]].concat());
        ids(world.field(name, "pid").as_i64().unwrap(), "Uid")[0]
    };
    let (one, two) = (start("one"), start("two"));
    assert!(one.abs_diff(two) >= 65_536 && one % 65_536 == 1000, "{one} {two}");
    for name in ["one", "two"] {
        world.ok(&["rm", "-f", name]);
    }
}

#[test]
fn what_a_user_namespace_can_not_have_is_said() {
    let world = World::new();
    let run = |words: &[&str]| {
        let all = [&["run", "--rm", "--network", "none", "--userns", "private"], words].concat();
        world.fails(125, &all)
    };
    let said = run(&["--user", "70000", "builtin:whoami", "true"]);
    assert!(said.contains("id 70000 is not in its user namespace"), "{said}");
    let said = run(&["--pid", "host", "builtin:whoami", "true"]);
    assert!(said.contains("userns_mode: private can't be had with `pid` of others"), "{said}");
    let said = world.fails(125, &["run", "--rm", "--userns", "keep-id", "builtin:whoami", "true"]);
    assert!(said.contains("expected host, private or auto"), "{said}");
    // A file system that can't have its ids mapped.
    let said = run(&["-v", "/proc/fs:/x", "builtin:whoami", "true"]);
    assert!(said.contains("can't be mounted with mapped ids"), "{said}");
    assert_eq!(world.ok(&["ps", "-aq"]), "");
    let file = world.file("stack.yaml", "name: a\ncontainers: {b: {image: x, userns_mode: private, pid: host}}\n");
    let said = world.fails(1, &["validate", file.to_str().unwrap()]);
    assert!(said.contains("stack.yaml:2:") && said.contains("`pid` of others"), "{said}");
}
