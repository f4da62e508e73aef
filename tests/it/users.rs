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

/// `users`: what the file says of user namespaces.
fn stack(port: u16, users: &str, bind: &Path) -> String {
    format!(
        r#"
name: own
containers:
  box:
    image: builtin:whoami
    networks: [net]{users}
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

/// How a file says it, and what its containers have then.
const PRIVATE: &str = "\n    userns_mode: private";
const HOST: &str = "\n    userns_mode: host";

#[test]
fn root_of_a_container_is_nobody_outside() {
    root_is_nobody_outside("");
}

#[test]
fn root_of_a_user_namespace_is_nobody_outside() {
    root_is_nobody_outside(PRIVATE);
}

fn root_is_nobody_outside(said: &str) {
    let world = World::new();
    let port = free_port();
    let bind = world.directory.join("bind");
    fs::create_dir(&bind).unwrap();
    let file = world.file("stack.yaml", &stack(port, said, &bind));
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
    let plan = world.file("host.yaml", &stack(port, HOST, &bind));
    let text = world.ok(&["plan", plan.to_str().unwrap()]);
    let was = if said.is_empty() { "default: private" } else { "private" };
    assert!(text.contains(&format!("userns: {was} -> host")), "{text}");
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
        let words = ["run", "-d", "--name", name, "--network", "none", "--user", "app"];
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

/// Whether the program of this container has the host's ids, and why by what `inspect` says.
fn on_host(world: &World, name: &str) -> (bool, String) {
    let map = world.ok(&["exec", name, "/whoami", "cat", "/proc/self/uid_map"]);
    let is_host = map.split_whitespace().eq(["0", "0", "4294967295"]);
    let why = world.ok(&["inspect", "--format", "{{.Stack.Protection.HostIds}}", name]);
    (is_host, why.trim().to_owned())
}

/// What a user namespace would take something from, and why. Said beforehand, too.
#[test]
fn what_stays_on_the_hosts_ids_says_why() {
    let world = World::new();
    let socket = world.directory.join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let foreign = world.directory.join("foreign");
    fs::create_dir(&foreign).unwrap();
    std::os::unix::fs::chown(&foreign, Some(100_000), None).unwrap();
    let (socket, foreign) = (socket.display(), foreign.display());
    let cases = [
        ("privileged: true".to_owned(), "it is privileged"),
        ("devices: [/dev/null:/dev/mine]".to_owned(), "it is given devices"),
        ("device_cgroup_rules: [\"c 1:3 r\"]".to_owned(), "it is given devices"),
        ("network_mode: host".to_owned(), "it is in the host's network"),
        ("pid: host".to_owned(), "it sees the host's processes"),
        ("ipc: host".to_owned(), "it shares the host's messages and memory"),
        ("cap_add: [SYS_NICE]".to_owned(), "CAP_SYS_NICE counts on the host alone"),
        ("user: \"70000\"".to_owned(), "it needs id 70000, and 65535 is the largest inside"),
        ("group_add: [\"70001\"]".to_owned(), "it needs id 70001, and 65535 is the largest inside"),
        ("sysctls: {kernel.msgmax: 9000, net.unix.max_dgram_qlen: 9}".to_owned(), ""),
        ("volumes: [\"/proc/fs:/x\"]".to_owned(), "/proc/fs can't be mounted with mapped ids"),
        (
            "volumes: [{type: bind, source: /tmp, target: /x, bind: {propagation: rslave}}]".to_owned(),
            "what is mounted at /x",
        ),
        (format!("volumes: [\"{socket}:/x\"]"), "goes by the ids of the host"),
        (format!("volumes: [\"{foreign}:/x\"]"), "belongs to id 100000"),
        ("volumes: [\"memory:/x\"]".to_owned(), "volume u_memory is a mount of tmpfs"),
        ("network_mode: \"service:s0\"".to_owned(), "it joins u-s0-1, which is on the host's ids"),
        ("userns_mode: host".to_owned(), "as it asks for"),
    ];
    let services = cases.iter().enumerate().map(|(number, (words, _))| {
        format!(
            "  s{number}: {{image: \"builtin:whoami\", command: [sleep, forever], stop_grace_period: 0s, {words}}}\n"
        )
    });
    let text = format!(
        "name: u\ncontainers:\n{}volumes: {{memory: {{driver_opts: {{type: tmpfs, device: tmpfs}}}}}}\n",
        services.collect::<String>()
    );
    let file = world.file("stack.yaml", &text);
    let file = file.to_str().unwrap();
    // The image has to be there for what depends on it to be known.
    world.ok(&["run", "--rm", "--network", "none", "builtin:whoami", "true"]);
    let plan = world.ok(&["plan", file]);
    world.ok(&["apply", file]);
    for (number, (words, expected)) in cases.iter().enumerate() {
        let name = format!("u-s{number}-1");
        let (is_host, why) = on_host(&world, &name);
        if expected.is_empty() && !is_host {
            // A kernel that lets root of a user namespace set this.
            continue;
        }
        assert!(is_host && why.contains(expected), "{words}: {is_host} {why}");
        let note = plan.lines().find(|line| line.contains("note:") && line.contains(&name));
        let note = note.unwrap_or_else(|| panic!("{name}: {plan}"));
        assert!(note.contains(&format!("on the host's ids: {why}")), "{words}: {note}");
    }
    world.ok(&["destroy", "u", "--volumes", "--yes=volumes"]);
}

#[test]
fn who_shares_namespaces_shares_users() {
    let world = World::new();
    let run = |name: &str, words: &[&str]| {
        let all = [&["run", "-d", "--name", name], words, &["builtin:whoami", "sleep", "forever"]].concat();
        world.ok(&all);
        namespace(&world.field(name, "pid").to_string())
    };
    let owner = run("owner", &["--network", "none"]);
    assert_ne!(owner, namespace("self"));
    let cases: [&[&str]; 4] = [
        &["--network", "container:owner"],
        &["--network", "none", "--pid", "container:owner"],
        &["--network", "default", "--ipc", "container:owner"],
        &["--network", "container:owner", "--pid", "container:owner", "--ipc", "container:owner"],
    ];
    for words in cases {
        assert_eq!(run("guest", words), owner, "{words:?}");
        // What is mounted for the guest belongs to these users: its own of these, or the owner's.
        for path in ["/dev/shm/word", "/tmp/word"] {
            world.ok(&["exec", "guest", "/whoami", "write", path, "x"]);
        }
        let links = world.ok(&["exec", "guest", "/whoami", "cat", "/proc/1/comm"]);
        assert!(!links.is_empty());
        world.ok(&["rm", "-f", "guest"]);
    }
    // Also when both are started again, from the outside and by command.
    run("guest", cases[3]);
    for name in ["owner", "guest"] {
        world.ok(&["restart", "-t", "0", name]);
    }
    let of = |name: &str| namespace(&world.field(name, "pid").to_string());
    assert_eq!(of("owner"), of("guest"));
    for name in ["guest", "owner"] {
        world.ok(&["rm", "-f", name]);
    }
    world.ok(&["network", "rm", "default"]);
}

/// Both see the owners that are on the disk, whoever made the files.
#[test]
fn a_volume_is_the_same_on_the_hosts_ids_and_on_others() {
    let world = World::new();
    let inside = |users: &str, user: &str, words: &[&str]| {
        let run =
            ["run", "--rm", "--network", "none", "--userns", users, "-u", user, "-v", "data:/tmp", "builtin:whoami"];
        world.ok(&[&run[..], words].concat())
    };
    inside("host", "0", &["true"]);
    let data = world.roots.root.join("volumes/data/_data");
    fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    for (users, name) in [("host", "a"), ("private", "b")] {
        inside(users, "1000:100", &["write", &format!("/tmp/{name}"), "x"]);
        assert_eq!(owner(&data.join(name)), (1000, 100), "{users}");
        fs::set_permissions(data.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    for users in ["host", "private"] {
        for name in ["a", "b"] {
            assert_eq!(inside(users, "1000:100", &["cat", &format!("/tmp/{name}")]), "x\n", "{users} {name}");
        }
    }
    world.ok(&["volume", "rm", "data"]);
}

/// Limits and score of a container are those that it was given, whatever started the engine, as far as the host lets this
/// very process raise them; and they are not the container's to change.
#[test]
fn what_only_the_host_may_give_is_given_before() {
    let world = World::new();
    let held = fs::read_to_string("/proc/self/status").unwrap();
    let held = held.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let may_raise = u64::from_str_radix(held, 16).unwrap() & (1 << 24) != 0;
    let limited = |words: &[&str]| {
        let mut command = std::process::Command::new("bash");
        command.args(["-c", "ulimit -n 1024; ulimit -i 100; ulimit -l 64; exec \"$@\"", "bash"]);
        command.arg(&world.roots.program).args(words);
        command.env("STACK_ROOT", &world.roots.root).env("STACK_RUN_ROOT", &world.roots.run);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let (score, lower) = if may_raise { ("-7", "-8") } else { ("7", "-1") };
    let flags = ["--ulimit", "nofile=2000:3000", "--ulimit", "sigpending=7000", "--oom-score-adj", score];
    let run = ["run", "-d", "--name", "box", "--network", "none"];
    limited(&[&run[..], &flags[..], &["builtin:whoami", "sleep", "forever"]].concat());
    assert_eq!(on_host(&world, "box"), (false, String::new()));
    let expected = if may_raise { ("2000 3000", "7000 7000") } else { ("1024 1024", "100 100") };
    for text in [
        world.ok(&["exec", "box", "/whoami", "cat", "/proc/1/limits"]),
        limited(&["exec", "box", "/whoami", "cat", "/proc/self/limits"]),
    ] {
        let line = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
        };
        assert_eq!((&*line("Max open files"), &*line("Max pending signals")), expected, "{text}");
    }
    let inside = |words: &[&str]| world.run(&[&["exec", "box", "/whoami"], words].concat());
    assert_eq!(inside(&["cat", "/proc/1/oom_score_adj"]).stdout.trim(), score);
    assert_ne!(inside(&["write", "/proc/self/oom_score_adj", lower]).code, 0);
    world.ok(&["rm", "-f", "box"]);
}

/// A range is a container's own until it is removed, and the next one of its name has it again.
#[test]
fn a_container_that_is_made_anew_has_the_ids_that_it_had() {
    let world = World::new();
    let first = |name: &str| {
        let text = world.ok(&["inspect", "--format", "{{json .Stack.Protection.UserNamespace}}", name]);
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["First"].as_u64().unwrap()
    };
    let kept = || fs::read_dir(world.roots.root.join("ids")).unwrap().count();
    let run = |name: &str| {
        world.ok(&["run", "-d", "--name", name, "--network", "none", "builtin:whoami", "sleep", "forever"]);
        first(name)
    };
    let before = run("web");
    world.ok(&["rename", "web", "old"]);
    let beside = run("web");
    assert_ne!(before, beside);
    assert_eq!((first("old"), kept()), (before, 2));
    world.ok(&["rm", "-f", "old", "web"]);
    assert_eq!(kept(), 0);
    assert_eq!(run("web"), before);
    // One that could not be made has none.
    let part = "type=volume,source=x,target=/y,volume-subpath=nosuch";
    let flags = ["run", "--rm", "--network", "none", "--mount", part];
    let said = world.fails(125, &[&flags[..], &["builtin:whoami", "true"]].concat());
    assert!(!said.is_empty() && kept() == 1, "{said}");
    world.run(&["volume", "rm", "x"]);
    // What an engine that was killed has left goes with the next look.
    std::os::unix::fs::symlink("gone:1:1", world.roots.root.join("ids/524288")).unwrap();
    world.run(&["apply", world.file("stack.yaml", "name: none\ncontainers: {}\n").to_str().unwrap()]);
    assert_eq!(kept(), 1);
    world.ok(&["rm", "-f", "web"]);
}

/// One that an older version made is on the host's ids, and nothing else of it says so.
#[test]
fn a_container_of_an_older_version_stays_as_it_is() {
    let world = World::new();
    let text = |said: &str| {
        let text = format!(
            "name: old\ncontainers:\n  box: {{image: \"builtin:whoami\", command: [sleep, forever], \
             stop_grace_period: 0s{said}}}\n"
        );
        world.file("stack.yaml", &text).to_str().unwrap().to_owned()
    };
    world.ok(&["apply", &text(", userns_mode: host")]);
    let path = world.roots.root.join("containers/old-box-1/config.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["config"]["declared"]["userns"] = serde_json::Value::Null;
    record["config"].as_object_mut().unwrap().remove("host_ids").unwrap();
    fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    for said in ["", ", userns_mode: host"] {
        world.ok(&["plan", "--detailed-exitcode", &text(said)]);
    }
    let pid = world.field("old-box-1", "pid");
    world.ok(&["apply", &text("")]);
    assert_eq!(world.field("old-box-1", "pid"), pid);
    let plan = world.ok(&["plan", &text(", userns_mode: private")]);
    assert!(plan.contains("userns: default: host -> private"), "{plan}");
    world.ok(&["destroy", "old"]);
}

/// A file system that somebody mounts below a source later, and that can't have its ids mapped, is nobody's inside; all
/// else goes on.
#[test]
fn what_is_mounted_below_a_source_later_keeps_no_container_from_its_start() {
    let world = World::new();
    let source = world.directory.join("source");
    fs::create_dir_all(source.join("below")).unwrap();
    let bind = format!("{}:/x", source.display());
    world.ok(&["run", "-d", "--name", "box", "--network", "none", "-v", &bind, "builtin:whoami", "sleep", "forever"]);
    assert_eq!(on_host(&world, "box"), (false, String::new()));
    world.ok(&["stop", "-t", "0", "box"]);
    let mount = |words: &[&str]| {
        let done = std::process::Command::new(words[0]).args(&words[1..]).arg(source.join("below")).status();
        assert!(done.unwrap().success());
    };
    mount(&["mount", "-t", "proc", "proc"]);
    world.ok(&["start", "box"]);
    world.ok(&["exec", "box", "/whoami", "write", "/x/a", "x"]);
    assert!(world.ok(&["exec", "box", "/whoami", "cat", "/x/below/version"]).contains("Linux"));
    assert_ne!(world.run(&["exec", "box", "/whoami", "write", "/x/below/sys/vm/swappiness", "60"]).code, 0);
    assert_eq!(owner(&source.join("a")), (0, 0));
    world.ok(&["rm", "-f", "box"]);
    // One that is made now stays on the host's ids.
    world.ok(&["run", "-d", "--name", "box", "--network", "none", "-v", &bind, "builtin:whoami", "sleep", "forever"]);
    assert!(on_host(&world, "box").1.contains("can't be mounted with mapped ids"));
    world.ok(&["rm", "-f", "box"]);
    mount(&["umount"]);
}
