//! Stacks on the real host, through the command line.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{self, World, eventually, finish, free_port, get};

fn hello(port: u16) -> String {
    support::hello(port, "interval: 200ms, retries: 20")
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn hits(port: u16) -> u32 {
    let page = get(port, "/").unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix("hits: "));
    line.unwrap_or_else(|| panic!("{page}")).parse().unwrap()
}

#[test]
fn a_stack_is_made_kept_and_destroyed_and_its_data_survives() {
    let world = World::new();
    let port = free_port();
    let file = world.file("stack.yaml", &hello(port));
    let file = file.to_str().unwrap();
    world.fails(2, &["plan", "--detailed-exitcode", file]);
    assert_eq!(world.ok(&["ps", "-aq"]), "");
    world.ok(&["apply", file]);
    assert_eq!(world.field("hello-counter-1", "health"), "healthy");
    assert_eq!(hits(port), 1);
    assert_eq!(hits(port), 2);
    let pid = world.field("hello-counter-1", "pid");
    let again = world.run(&["apply", file]);
    assert!(again.code == 0 && again.stderr.contains("nothing to do"), "{again:?}");
    assert_eq!(world.field("hello-counter-1", "pid"), pid);
    world.ok(&["status", file]);
    world.ok(&["destroy", "hello"]);
    assert_eq!(world.ok(&["ps", "-aq"]), "");
    world.ok(&["apply", file]);
    assert_eq!(hits(port), 3);
    world.ok(&["destroy", file]);
    world.fails(1, &["destroy", "hello", "--volumes"]);
    assert!(world.ok(&["volume", "ls"]).contains("hello_data"));
    world.ok(&["destroy", "hello", "--volumes", "--yes=volumes"]);
    assert!(!world.ok(&["volume", "ls"]).contains("hello_data"));
}

#[test]
fn one_changed_field_touches_only_what_it_must() {
    let world = World::new();
    let text = hello(free_port());
    let file = world.file("stack.yaml", &text);
    let file = file.to_str().unwrap();
    world.ok(&["apply", file]);
    let pids = || ["hello-counter-1", "hello-greeter-1"].map(|name| world.field(name, "pid"));
    let before = pids();
    world.file(
        "stack.yaml",
        &text.replace(
            "    networks: [front]\n    depends_on",
            "    mem_limit: 64m\n    restart: always\n    networks: [front]\n    depends_on",
        ),
    );
    let plan = world.ok(&["plan", file]);
    assert!(plan.contains("~ container/greeter-1") && plan.contains("restart: no -> always"), "{plan}");
    assert_eq!(plan.lines().filter(|line| !line.starts_with(' ')).count(), 1, "{plan}");
    world.ok(&["apply", file]);
    assert_eq!(pids(), before);
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", before[1])).unwrap();
    let group = |controller: &str| {
        let of =
            |line: &&str| line.split(':').nth(1).is_some_and(|names| names.split(',').any(|name| name == controller));
        groups.lines().find(of).and_then(|line| line.splitn(3, ':').nth(2)).unwrap_or_default().to_owned()
    };
    let limit = format!("/sys/fs/cgroup/memory{}/memory.limit_in_bytes", group("memory"));
    let unified = format!("/sys/fs/cgroup{}/memory.max", group(""));
    let limit = fs::read_to_string(limit).or_else(|_| fs::read_to_string(unified)).unwrap();
    assert_eq!(limit.trim(), (64 << 20).to_string());
    world.file(
        "stack.yaml",
        &text.replace(
            "    networks: [front]\n    depends_on",
            "    environment: {X: y}\n    networks: [front]\n    depends_on",
        ),
    );
    world.ok(&["apply", file]);
    let after = pids();
    assert_eq!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
    let without: String =
        text.split("  greeter:").next().unwrap().to_owned() + "volumes: {data: {}}\nnetworks: {front: {}}\n";
    world.file("stack.yaml", &without);
    world.ok(&["apply", file]);
    assert_eq!(world.names(), ["hello-counter-1"]);
    assert_eq!(world.field("hello-counter-1", "pid"), before[0]);
    world.ok(&["destroy", "hello"]);
}

#[test]
fn a_bad_file_changes_nothing_and_says_everything() {
    let world = World::new();
    let text = hello(free_port());
    let file = world.file("stack.yaml", &text);
    world.ok(&["apply", file.to_str().unwrap()]);
    let pid = world.field("hello-counter-1", "pid");
    let bad = text
        .replace("image: builtin:whoami\n    networks", "imge: builtin:whoami\n    networks")
        .replace("volumes: [\"data:", "volumes: [\"date:");
    world.file("stack.yaml", &bad);
    let said = world.fails(1, &["apply", file.to_str().unwrap()]);
    assert!(said.contains("did you mean `image`?") && said.contains("did you mean `data`?"), "{said}");
    assert!(said.contains("stack.yaml:"), "{said}");
    assert_eq!(world.field("hello-counter-1", "pid"), pid);
    world.ok(&["destroy", "hello"]);
}

#[test]
fn a_busy_port_is_noticed_before_anything_is_stopped() {
    let world = World::new();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = held.local_addr().unwrap().port();
    let text = hello(free_port());
    let file = world.file("stack.yaml", &text);
    world.ok(&["apply", file.to_str().unwrap()]);
    let pid = world.field("hello-counter-1", "pid");
    let first = text.split("ports: [\"").nth(1).unwrap().split(':').next().unwrap().to_owned();
    world.file("stack.yaml", &text.replace(&first, &busy.to_string()));
    let said = world.fails(1, &["apply", file.to_str().unwrap()]);
    assert!(said.contains(&format!("port {busy}/tcp is taken by process {}", std::process::id())), "{said}");
    assert_eq!(world.field("hello-counter-1", "pid"), pid);
    world.ok(&["destroy", "hello"]);
}

#[test]
fn two_applies_at_once_end_as_one() {
    let world = World::new();
    let file = world.file("stack.yaml", &hello(free_port()));
    let file = file.to_str().unwrap();
    let start = || world.command(&["apply", file]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let running = [start(), start(), start()];
    let ended = running.map(|child| finish(child, &["apply"]));
    assert!(ended.iter().all(|one| one.code == 0), "{ended:#?}");
    let made = |one: &&crate::support::Output| one.stderr.contains("create container/");
    let idle = |one: &&crate::support::Output| one.stderr.contains("nothing to do");
    let counts = (ended.iter().filter(made).count(), ended.iter().filter(idle).count());
    assert_eq!(counts, (1, 2), "one does it all, the others wait and find it done: {ended:#?}");
    // Or "another process", where that one has not come to writing down who it is.
    let waited = |one: &crate::support::Output| {
        one.stderr.contains("waiting for process") || one.stderr.contains("waiting for another process")
    };
    assert!(ended.iter().any(waited), "{ended:#?}");
    assert_eq!(world.names(), ["hello-counter-1", "hello-greeter-1"]);
    world.ok(&["status", file]);
    world.ok(&["destroy", "hello"]);
}

/// Whatever an apply had done when it was killed, the next one goes on from there, and destroy leaves nothing.
#[test]
fn an_apply_that_is_killed_at_any_moment_is_finished_by_the_next() {
    let world = World::new();
    let port = free_port();
    let text = hello(port);
    let file = world.file("stack.yaml", &text);
    let file = file.to_str().unwrap();
    let begun = Instant::now();
    world.ok(&["apply", file]);
    let applying = begun.elapsed();
    let begun = Instant::now();
    world.ok(&["destroy", "hello"]);
    let destroying = begun.elapsed();
    // The same sequence each time: a small linear generator.
    let mut random: u64 = 42;
    for round in 0..30 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // A random moment of the round's own thirtieth of the whole, so that no part is left out.
        let moment = (f64::from(round) + (random >> 40) as f64 / f64::from(1 << 24)) / 30.0;
        let mut child = world.command(&["apply", file]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(applying.mul_f64(moment));
        child.kill().unwrap();
        child.wait().unwrap();
        let output = world.run(&["apply", file]);
        assert_eq!(output.code, 0, "round {round}, killed at {moment} of {applying:?}: {output:#?}");
        world.ok(&["status", file]);
        assert!(hits(port) > 0);
        let mut child =
            world.command(&["destroy", "hello"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(destroying.mul_f64(moment));
        child.kill().unwrap();
        child.wait().unwrap();
        world.ok(&["destroy", "hello"]);
        assert_eq!(world.ok(&["ps", "-aq"]), "", "round {round}");
    }
    assert_eq!(world.left(), Vec::<String>::new());
}

#[test]
fn a_full_disk_is_said_and_nothing_is_lost() {
    let world = World::new();
    let small = world.directory.join("small");
    fs::create_dir_all(&small).unwrap();
    let mount = |options: &str| {
        Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(&small).status().unwrap()
    };
    assert!(mount("size=4m").success());
    let inner = World::at(small.clone());
    let file = inner.file("stack.yaml", &hello(free_port()));
    let file = file.to_str().unwrap();
    inner.ok(&["apply", file]);
    let fill = Command::new("dd")
        .args(["if=/dev/zero", "bs=4k"])
        .arg(format!("of={}/fill", small.display()))
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!fill.success());
    let text = fs::read_to_string(file).unwrap();
    let extra = "  extra:\n    image: builtin:whoami\n    networks: [front]\nvolumes: {data";
    let other = world.file("other.yaml", &text.replace("volumes: {data", extra));
    let said = inner.fails(1, &["apply", other.to_str().unwrap()]);
    assert!(said.contains("No space left"), "{said}");
    assert_eq!(inner.field("hello-counter-1", "state"), "running");
    fs::remove_file(small.join("fill")).unwrap();
    inner.ok(&["apply", other.to_str().unwrap()]);
    assert_eq!(inner.field("hello-extra-1", "state"), "running");
    inner.ok(&["destroy", "hello"]);
    drop(inner);
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
}

#[test]
fn a_watched_stack_follows_its_file_and_mends_what_is_broken() {
    let world = World::new();
    let text = hello(free_port());
    let file = world.file("stack.yaml", &text);
    let said = fs::File::create(world.directory.join("said")).unwrap();
    let mut watcher = world.command(&["watch", "stack.yaml", "--interval", "1"]).stderr(said).spawn().unwrap();
    eventually("the stack runs", || world.field("hello-greeter-1", "state") == "running");
    // As editors save: another file, renamed over the old one.
    let new = world.file(
        "new",
        &text.replace(
            "image: builtin:whoami\n    networks",
            "image: builtin:whoami\n    environment: {X: y}\n    networks",
        ),
    );
    fs::rename(new, &file).unwrap();
    eventually("the change is made", || {
        world.names().contains(&"hello-greeter-1".to_owned())
            && world.run(&["exec", "hello-greeter-1", "/whoami", "env"]).stdout.contains("X=y")
    });
    world.file("stack.yaml", "name: hello\ncontainers: nonsense\n");
    world.ok(&["rm", "-f", "hello-greeter-1"]);
    eventually("what was removed is back, by the last good file", || {
        world.field("hello-greeter-1", "state") == "running"
    });
    let pid = world.field("hello-counter-1", "pid");
    signal(pid.as_i64().unwrap() as i32, Signal::SIGKILL);
    // Its process first: health alone may still be that of the one before.
    let is_back = || {
        let now = world.field("hello-counter-1", "pid");
        now.as_i64().is_some_and(|number| number > 0)
            && now != pid
            && world.field("hello-counter-1", "health") == "healthy"
    };
    eventually("what was killed is back", is_back);
    signal(watcher.id() as i32, Signal::SIGTERM);
    assert!(watcher.wait().unwrap().success());
    assert_eq!(world.field("hello-counter-1", "state"), "running");
    let said = fs::read_to_string(world.directory.join("said")).unwrap();
    assert!(said.contains("the last good version stays in force"), "{said}");
    assert!(!said.contains("WARN") && !said.contains('\x1b'), "that containers come and go is no news: {said}");
    world.ok(&["destroy", "hello"]);
}

/// However files come to have another content: written in place, replaced, gone for a moment, behind links that are
/// swapped, in a directory that is another one by now. The timer is far away.
#[test]
fn a_watched_stack_follows_every_way_of_saving() {
    let world = World::new();
    let text = |value: &str| {
        format!(
            "name: w\ninclude: [other.yaml]\nservices:\n  a: {{image: \"builtin:whoami\", network_mode: none, command: [sleep, \
             forever], stop_grace_period: 1s, env_file: [a.env], environment: {{V: \"{value}\"}}, configs: [c]}}\n\
             configs: {{c: {{file: ./c.txt}}}}\n"
        )
    };
    let other = |value: &str| {
        format!(
            "services:\n  b: {{image: \"builtin:whoami\", network_mode: none, command: [sleep, forever], \
             stop_grace_period: 1s, environment: {{I: \"{value}\"}}}}\n"
        )
    };
    let write = |name: &str, text: &str| world.file(&format!("w/{name}"), text);
    for version in ["..v1", "..v2"] {
        write(&format!("{version}/stack.yaml"), &text(version));
    }
    write("a.env", "A=1\n");
    write("c.txt", "one\n");
    write("other.yaml", &other("1"));
    let directory = world.directory.join("w");
    let file = directory.join("stack.yaml");
    symlink("..v1", directory.join("..data")).unwrap();
    symlink("..data/stack.yaml", &file).unwrap();
    let words = ["watch", "w/stack.yaml", "--interval", "3600"];
    let mut watcher = world.command(&words).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = std::io::BufRead::lines(std::io::BufReader::new(watcher.stderr.take().unwrap()));
    let mut hears = |what: &str| while !told.next().unwrap().unwrap().contains(what) {};
    let has = |name: &str, variable: &str| {
        let shown = world.run(&["exec", name, "/whoami", "env"]).stdout;
        assert!(shown.lines().any(|line| line == variable), "no {variable} in {shown}");
    };
    hears("converged");
    has("w-a-1", "V=..v1");
    symlink("..v2", directory.join("..new")).unwrap();
    fs::rename(directory.join("..new"), directory.join("..data")).unwrap();
    hears("converged");
    has("w-a-1", "V=..v2");
    fs::remove_file(&file).unwrap();
    hears("no file");
    fs::write(&file, text("back")).unwrap();
    hears("± container/a-1");
    hears("converged");
    has("w-a-1", "V=back");
    // In place; as vim does; as `sed -i` does.
    fs::write(&file, text("written")).unwrap();
    hears("± container/a-1");
    hears("converged");
    fs::rename(&file, directory.join("stack.yaml~")).unwrap();
    fs::write(&file, text("renamed")).unwrap();
    hears("environment.V: written -> renamed");
    hears("converged");
    write("sedXYZ", &text("replaced"));
    fs::rename(directory.join("sedXYZ"), &file).unwrap();
    hears("environment.V: renamed -> replaced");
    hears("converged");
    // What it is made of.
    write("a.env", "A=2\n");
    hears("environment.A: 1 -> 2");
    hears("converged");
    write("other.yaml", &other("2"));
    hears("environment.I: 1 -> 2");
    hears("converged");
    write("c.txt", "two\n");
    hears("content changed");
    hears("converged");
    assert_eq!(world.ok(&["exec", "w-a-1", "/whoami", "cat", "/c"]), "two\n");
    let pid = world.field("w-a-1", "pid");
    write("stack.yaml", "name: w\nservices: [\n");
    hears("the last good version stays in force");
    assert_eq!(world.field("w-a-1", "pid"), pid);
    // Another directory of the same name.
    let before = world.directory.join("before");
    fs::rename(&directory, &before).unwrap();
    assert!(Command::new("cp").arg("-a").arg(&before).arg(&directory).status().unwrap().success());
    write("stack.yaml", &text("moved"));
    hears("environment.V: replaced -> moved");
    hears("converged");
    write("stack.yaml", &text("last"));
    hears("environment.V: moved -> last");
    hears("converged");
    has("w-a-1", "V=last");
    signal(watcher.id() as i32, Signal::SIGTERM);
    hears("stopped watching w; its containers run on");
    assert!(watcher.wait().unwrap().success());
    assert_eq!(world.field("w-a-1", "state"), "running");
    world.ok(&["destroy", "w"]);
}
