//! What people do with containers that are there: by service and stack, renamed, changed in place, compared with their
//! image.

use serde_json::Value;

use crate::support::World;

const SHOP: &str = "name: shop\ncontainers:\n  \
    web: {image: \"builtin:whoami\", network_mode: none, replicas: 2}\n  \
    db: {image: \"builtin:whoami\", network_mode: none}\n";

fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// A service is meant in the stack of the folder, and no name at all means that whole stack.
#[test]
fn services_are_named_in_the_folder_of_their_stack() {
    let world = World::new();
    let file = world.file("shop/stack.yaml", SHOP);
    let other = world.file("other/stack.yaml", &SHOP.replace("name: shop", "name: other"));
    world.ok(&["apply", file.to_str().unwrap()]);
    let inside = |words: &[&str]| {
        let mut command = world.command(words);
        let command = command.current_dir(world.directory.join("shop"));
        let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        crate::support::finish(child, words)
    };
    let ok = |words: &[&str]| {
        let output = inside(words);
        assert_eq!(output.code, 0, "{words:?}: {output:?}");
        output.stdout
    };
    // One stack only: its services are known everywhere.
    assert_eq!(world.ok(&["stop", "-t", "0", "db"]), "db\n");
    assert_eq!(world.field("shop-db-1", "state"), "exited");
    world.ok(&["apply", other.to_str().unwrap()]);
    let said = world.fails(1, &["restart", "db"]);
    assert!(said.contains("the stacks other, shop all have") && said.contains("-p STACK"), "{said}");
    assert_eq!(world.ok(&["-p", "shop", "start", "db"]), "db\n");
    assert_eq!(world.field("shop-db-1", "state"), "running");
    assert_eq!(lines(&ok(&["stop", "-t", "0", "web"])), ["shop-web-1", "shop-web-2"]);
    assert_eq!(world.field("shop-web-2", "state"), "exited");
    assert_eq!(world.field("other-web-2", "state"), "running");
    assert_eq!(lines(&ok(&["start"])), ["shop-db-1", "shop-web-1", "shop-web-2"]);
    assert_eq!(lines(&ok(&["restart", "-t", "0"])).len(), 3);
    assert_eq!(ok(&["exec", "db", "/whoami", "echo", "hi"]), "hi\n");
    assert!(inside(&["exec", "web", "/whoami"]).stderr.contains("shop-web-1, shop-web-2"));
    assert!(ok(&["logs"]).contains("shop-web-2 | shop-web-2 listens"));
    assert_eq!(lines(&ok(&["kill", "web"])), ["shop-web-1", "shop-web-2"]);
    assert_eq!(ok(&["wait", "web"]), "137\n137\n");
    assert_eq!(ok(&["rm", "web"]), "web\n");
    assert!(world.ok(&["logs", "shop/stack.yaml"]).contains("shop-db-1 listens"));
    assert!(world.fails(1, &["logs", "shop/none.yaml"]).contains("there is no file shop/none.yaml"));
    assert_eq!(lines(&world.ok(&["stop", "-t", "0", "shop"])), ["shop"]);
    let said = world.fails(1, &["restart"]);
    assert!(said.contains("no stack file") && said.contains("name a container"), "{said}");
    world.ok(&["destroy", "shop"]);
    world.ok(&["destroy", "other"]);
}

/// It runs on under its new name, and nothing keeps the old one.
#[test]
fn a_container_gets_another_name() {
    let world = World::new();
    world.ok(&["network", "create", "net"]);
    world.ok(&["run", "-d", "--name", "old", "--network", "net", "builtin:whoami"]);
    world.ok(&["run", "-d", "--name", "asks", "--network", "net", "builtin:whoami"]);
    let pid = world.field("old", "pid");
    world.ok(&["rename", "old", "new"]);
    assert_eq!(world.field("new", "pid"), pid);
    assert_eq!(world.names(), ["asks", "new"]);
    assert!(world.ok(&["exec", "asks", "/whoami", "client", "new"]).contains("name: "));
    world.fails(1, &["inspect", "old"]);
    assert_eq!(world.ok(&["restart", "-t", "0", "new"]), "new\n");
    assert!(world.ok(&["exec", "asks", "/whoami", "client", "new"]).contains("name: "));
    for (words, part) in [
        (["rename", "new", "asks"], "there already"),
        (["rename", "new", "new"], "has that name already"),
        (["rename", "nw", "x"], "did you mean `new`?"),
        (["rename", "new", "a/b"], "container name"),
    ] {
        let said = world.fails(1, &words);
        assert!(said.contains(part), "{words:?}: {said}");
    }
    world.ok(&["rm", "-f", "new", "asks"]);
    world.ok(&["network", "rm", "net"]);
}

/// What the kernel enforces is another limit at once, without a restart; the file's word comes back with the next apply.
#[test]
fn limits_change_while_it_runs() {
    let world = World::new();
    world.ok(&["run", "-d", "--name", "box", "--network", "none", "--memory", "64m", "builtin:whoami"]);
    let pid = world.field("box", "pid");
    world.ok(&["update", "--memory", "32m", "--cpus", "0.5", "--pids-limit", "7", "--restart", "always", "box"]);
    assert_eq!(world.field("box", "pid"), pid);
    let seen = |template: &str| world.ok(&["inspect", "-f", template, "box"]).trim().to_owned();
    assert_eq!(seen("{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}"), "33554432 500000000");
    assert_eq!(seen("{{.HostConfig.RestartPolicy.Name}}"), "always");
    assert_eq!(limit(&pid, &["memory.limit_in_bytes", "memory.max"]), "33554432");
    assert_eq!(limit(&pid, &["pids.max"]), "7");
    // What was not asked for stays.
    world.ok(&["update", "--memory", "48m", "box"]);
    assert_eq!(seen("{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}"), "50331648 500000000");
    assert!(world.fails(1, &["update", "box"]).contains("nothing is to be changed"));
    assert!(world.fails(1, &["update", "--memory", "much", "box"]).contains("--memory"));
    world.ok(&["rm", "-f", "box"]);
    let file = world.file("stack.yaml", "name: s\ncontainers: {a: {image: \"builtin:whoami\", network_mode: none}}\n");
    world.ok(&["apply", file.to_str().unwrap()]);
    world.ok(&["update", "--memory", "32m", "s-a-1"]);
    assert_eq!(world.run(&["status", file.to_str().unwrap()]).code, 2);
    world.ok(&["apply", file.to_str().unwrap()]);
    assert_eq!(world.ok(&["inspect", "-f", "{{.HostConfig.Memory}}", "s-a-1"]), "0\n");
    world.ok(&["destroy", "s"]);
}

/// A file of the process's control group, whichever version has it.
fn limit(pid: &Value, files: &[&str]) -> String {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap(), parts.next().unwrap());
        for file in files {
            let mount = if controllers.is_empty() { String::new() } else { format!("/{controllers}") };
            if let Ok(text) = std::fs::read_to_string(format!("/sys/fs/cgroup{mount}{path}/{file}")) {
                return text.trim().to_owned();
            }
        }
    }
    panic!("none of {files:?} in {groups}")
}

#[test]
fn changed_files_are_listed() {
    let world = World::new();
    let root = world.busybox("root");
    std::fs::create_dir_all(root.join("d/inner")).unwrap();
    for file in ["d/inner/x", "d/y", "gone"] {
        std::fs::write(root.join(file), "image").unwrap();
    }
    let archive = world.archive("shell", "root", &serde_json::json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}));
    world.ok(&["image", "load", "-i", archive.to_str().unwrap()]);
    let script =
        "rm -r /d/inner && mkdir /d/inner && touch /d/inner/new && rm /gone && echo x >> /d/y && echo x > /tmp/a";
    world.ok(&["run", "--name", "box", "--network", "none", "-v", "vol:/v", "shell", "sh", "-c", script]);
    let text = world.ok(&["diff", "box"]);
    let changes: Vec<&str> = text.lines().filter(|line| !line.ends_with(" /v")).collect();
    assert_eq!(
        changes,
        ["C /d", "C /d/inner", "A /d/inner/new", "D /d/inner/x", "C /d/y", "D /gone", "C /tmp", "A /tmp/a"]
    );
    let json: Vec<Value> = serde_json::from_str(&world.ok(&["diff", "--format", "json", "box"])).unwrap();
    assert!(json.contains(&serde_json::json!({"kind": "deleted", "path": "/gone"})), "{json:?}");
    world.ok(&["rm", "box"]);
    world.ok(&["volume", "rm", "vol"]);
}

/// What `config` prints is the same stack, wherever it is read again.
#[test]
fn a_file_is_printed_as_it_is_understood() {
    let world = World::new();
    world.file("stack/.env", "TAG=whoami\n");
    let text = "name: s\nx-a: &a {network_mode: none}\ncontainers:\n  a: {<<: *a, image: \"builtin:${TAG}\", \
                command: [echo, \"$$HOME\"], environment: {N: 010}}\nvolumes: {v: {}}\n";
    let file = world.file("stack/stack.yaml", text);
    let printed = world.ok(&["config", file.to_str().unwrap()]);
    assert!(printed.contains("image: \"builtin:whoami\"") && printed.contains("$$HOME"), "{printed}");
    world.ok(&["apply", file.to_str().unwrap()]);
    let again = world.file("again/stack.yaml", &printed);
    let status = world.run(&["status", again.to_str().unwrap()]);
    assert_eq!(status.code, 0, "{status:?}\n{printed}");
    assert_eq!(world.ok(&["config", "--services", file.to_str().unwrap()]), "a\n");
    assert_eq!(world.ok(&["config", "--images", file.to_str().unwrap()]), "builtin:whoami\n");
    assert_eq!(world.ok(&["config", "--volumes", file.to_str().unwrap()]), "v\n");
    let json: Value = serde_json::from_str(&world.ok(&["config", "--format", "json", file.to_str().unwrap()])).unwrap();
    assert_eq!(json["containers"]["a"]["network_mode"], "none");
    assert_eq!(world.ok(&["config", "-q", file.to_str().unwrap()]), "");
    world.ok(&["destroy", "s"]);
}

/// As Compose's `--scale`: for this once, whatever the file says.
#[test]
fn so_many_are_made_as_are_asked_for() {
    let world = World::new();
    let text = SHOP.replace(", replicas: 2", "");
    let file = world.file("stack.yaml", &text);
    let file = file.to_str().unwrap();
    world.ok(&["up", "--scale", "web=3", file]);
    assert_eq!(world.names(), ["shop-db-1", "shop-web-1", "shop-web-2", "shop-web-3"]);
    assert!(world.fails(1, &["apply", "--scale", "wep=3", file]).contains("did you mean `web`?"));
    assert!(world.fails(1, &["apply", "--scale", "web", file]).contains("expected NAME=N"));
    world.ok(&["apply", "--scale", "web=0", file]);
    assert_eq!(world.names(), ["shop-db-1"]);
    world.ok(&["apply", file]);
    assert_eq!(world.names(), ["shop-db-1", "shop-web-1"]);
    world.ok(&["destroy", "shop"]);
}

/// What lies in the trash and in snapshots is counted, and a stack can go without leaving something there.
#[test]
fn the_disk_that_is_taken_is_told_in_full() {
    let world = World::new();
    let text = "name: s\ncontainers: {a: {image: \"builtin:whoami\", network_mode: none, volumes: [\"data:/data\"]}}\nvolumes: {data: {}}\n";
    let file = world.file("stack.yaml", text);
    let file = file.to_str().unwrap();
    let bytes = |kind: &str| -> (u64, u64) {
        let all: Vec<Value> = serde_json::from_str(&world.ok(&["system", "df", "--format", "json"])).unwrap();
        let found = all.iter().find(|one| one["kind"] == kind).unwrap();
        (found["count"].as_u64().unwrap(), found["reclaimable_bytes"].as_u64().unwrap())
    };
    world.ok(&["apply", file]);
    world.file("big", &"x".repeat(100_000));
    world.ok(&["cp", "big", "s-a-1:/data/"]);
    world.ok(&["volume", "snapshot", "--yes", "--live", "s_data", "one"]);
    assert_eq!(bytes("snapshot"), (1, 0));
    assert_eq!(bytes("trash"), (0, 0));
    world.ok(&["destroy", "s", "--volumes", "--yes=volumes"]);
    let (count, size) = bytes("trash");
    assert!(count == 1 && size > 200_000, "{count} {size}");
    world.ok(&["volume", "prune", "--trash", "--force"]);
    world.ok(&["apply", file]);
    world.ok(&["destroy", "s", "--volumes", "--now", "--yes=volumes"]);
    assert_eq!(bytes("trash"), (0, 0));
}
