//! Configs, secrets and single files that are bound: what becomes of a container when their content changes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::support::World;

/// One container with a file of each kind, whose shell writes down the signals that it gets.
fn stack(users: &str, reactions: [&str; 3]) -> String {
    let [config, secret, bound] = reactions;
    format!(
        "name: r\ncontainers:\n  web:\n    image: shell\n    userns_mode: {users}\n    network_mode: none\n    stop_grace_period: 0s\n    \
         user: app\n    tmpfs: [/tmp]\n    command: [sh, -c, 'trap \"echo got >> /tmp/signals\" HUP; while :; do sleep 0.05; done']\n    \
         configs: [{{source: settings, target: /etc/settings, on_change: {config}}}]\n    \
         secrets: [{{source: token, on_change: {secret}}}]\n    \
         volumes: [{{type: bind, source: ./bound, target: /bound, on_change: {bound}}}]\n\
         configs: {{settings: {{file: ./settings}}}}\nsecrets: {{token: {{file: ./token}}}}\n"
    )
}

fn write_all(world: &World, text: &str) {
    for name in ["settings", "token", "bound"] {
        // As an editor does: another file under the same name.
        world.file(&format!("{name}.new"), text);
        fs::rename(world.directory.join(format!("{name}.new")), world.directory.join(name)).unwrap();
    }
}

#[test]
fn changed_content_reaches_what_runs_and_the_reaction_is_as_declared() {
    let world = World::with_shell();
    fs::set_permissions(&world.directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for users in ["private", "host"] {
        write_all(&world, "one");
        world.file(
            "stack.yaml",
            &stack(users, ["{signal: SIGHUP}", "{exec: [sh, -c, 'cat /run/secrets/token >> /tmp/told']}", "none"]),
        );
        world.ok(&["apply"]);
        let cat = |path: &str| world.ok(&["exec", "r-web-1", "cat", path]);
        let all = || ["/etc/settings", "/run/secrets/token", "/bound"].map(cat);
        assert_eq!(all(), ["one", "one", "one"]);
        let started = world.field("r-web-1", "started_at");
        for text in ["two", "three and longer"] {
            write_all(&world, text);
            let plan = world.ok(&["plan"]);
            assert!(
                plan.contains("update in place")
                    && plan.contains("then signal SIGHUP")
                    && plan.contains("then exec sh -c"),
                "{plan}"
            );
            world.ok(&["apply"]);
            assert_eq!(all(), [text, text, text]);
            assert!(world.run(&["apply"]).stderr.contains("nothing to do"));
        }
        assert_eq!(world.field("r-web-1", "started_at"), started);
        assert_eq!(cat("/tmp/told"), "twothree and longer");
        let got = || world.run(&["exec", "r-web-1", "cat", "/tmp/signals"]).stdout;
        while got() != "got\ngot\n" {
            assert!(world.field("r-web-1", "state") == "running", "it ended");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        // There is one mount at each place, however often it was exchanged.
        let mounts = cat("/proc/self/mountinfo");
        assert_eq!(
            mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/run/secrets/token")).count(),
            1,
            "{mounts}"
        );
        // The secret is its user's alone, in memory, and in no file that survives a reboot.
        assert_eq!(
            world
                .ok(&["exec", "r-web-1", "ls", "-ln", "/run/secrets/token"])
                .split_whitespace()
                .take(4)
                .collect::<Vec<_>>(),
            ["-r--------", "1", "1000", "1000"]
        );
        assert!(
            mounts.lines().any(|line| line.contains(" /run/secrets/token ") && line.contains(" - tmpfs ")),
            "{mounts}"
        );
        world.ok(&["restart", "r-web-1"]);
        assert_eq!(all(), ["three and longer"; 3]);
        // A program that fails is told, and run again.
        world.file("stack.yaml", &stack(users, ["none", "{exec: [sh, -c, 'exit 3']}", "restart"]));
        world.ok(&["apply"]);
        world.file("token", "four");
        let said = world.fails(1, &["apply"]);
        assert!(said.contains("ended with code 3"), "{said}");
        assert!(world.fails(1, &["apply"]).contains("ended with code 3"));
        world.ok(&["destroy"]);
    }
}

#[test]
fn what_the_engine_keeps_is_used_by_name_and_never_shown() {
    let world = World::new();
    let text = "name: k\nservices:\n  web: {image: \"builtin:whoami\", command: [sleep, forever], network_mode: none, stop_grace_period: 0s, \
                secrets: [{source: token, x-stack: {on_change: none}}], configs: [{source: settings, target: /settings}]}\n\
                secrets: {token: {external: true}}\nconfigs: {settings: {external: true, name: shop.settings}}\n";
    world.file("compose.yaml", text);
    let said = world.fails(1, &["apply"]);
    assert!(said.contains("no secret \"token\"") && said.contains("compose.yaml:4"), "{said}");
    let id = world.run_with(&["secret", "create", "token", "-"], "hunter2-canary").stdout;
    assert_eq!(id.trim().len(), 25);
    world.file("settings", "of the shop");
    world.ok(&["config", "create", "-l", "a=b", "shop.settings", "settings"]);
    world.ok(&["apply"]);
    let cat = |path: &str| world.ok(&["exec", "k-web-1", "/whoami", "cat", path]);
    assert_eq!([cat("/run/secrets/token"), cat("/settings")], ["hunter2-canary", "of the shop"]);
    assert!(world.fails(1, &["secret", "rm", "token"]).contains("used by k-web-1"));
    assert!(world.fails(1, &["secret", "create", "token", "settings"]).contains("--replace"));
    world.run_with(&["secret", "create", "--replace", "token", "-"], "other-canary");
    let plan = world.ok(&["plan", "--format", "json"]);
    world.ok(&["apply"]);
    assert_eq!(cat("/run/secrets/token"), "other-canary");
    let shown = [
        plan,
        world.ok(&["inspect", "k-web-1"]),
        world.ok(&["secret", "inspect", "token"]),
        world.ok(&["secret", "ls", "--format", "json"]),
        world.ok(&["events", "--since", "1h", "--until", "0s"]),
        world.ok(&["config"]),
    ];
    let hashes = ["hunter2-canary", "other-canary"].map(|text| stack::reconcile::facts::hash(text.as_bytes()));
    for text in shown {
        assert!(!text.contains("canary") && !hashes.iter().any(|hash| text.contains(hash)), "{text}");
    }
    // Beside the store itself, no file of the disk has it, nor what a guess could be tried against.
    let found = Command::new("grep")
        .args(["-rlE", &format!("canary|{}|{}", hashes[0], hashes[1])])
        .arg(&world.roots.root)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    assert_eq!(fs::metadata(world.roots.root.join("secrets/token.json")).unwrap().mode() & 0o777, 0o600);
    assert!(world.ok(&["config", "inspect", "shop.settings"]).contains("b2YgdGhlIHNob3A="));
    world.ok(&["destroy", "k"]);
    world.ok(&["secret", "rm", "token"]);
    world.ok(&["config", "rm", "shop.settings"]);
    assert_eq!(world.ok(&["secret", "ls", "-q"]) + &world.ok(&["config", "ls", "-q"]), "");
}

#[test]
fn encrypted_files_are_opened_in_memory() {
    let world = World::new();
    let made = Command::new("age-keygen")
        .arg("-o")
        .arg(world.directory.join("keys.txt"))
        .output()
        .expect("Debian's package age");
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    let recipient = said.trim().strip_prefix("Public key: ").unwrap().to_owned();
    let seal = |text: &str| {
        let plain = world.file("plain", text);
        let sealed = world.directory.join("token.age");
        assert!(
            Command::new("age").args(["-r", &recipient, "-o"]).arg(&sealed).arg(&plain).status().unwrap().success()
        );
        fs::remove_file(plain).unwrap();
    };
    seal("first-canary");
    world.file(
        "stack.yaml",
        "name: e\ncontainers:\n  web: {image: \"builtin:whoami\", command: [sleep, forever], network_mode: none, stop_grace_period: 0s, secrets: [token]}\n\
         secrets: {token: {file: ./token.age, decrypt: {with: age, keys: ./keys.txt}, on_change: none}}\n",
    );
    world.ok(&["apply"]);
    let cat = || world.ok(&["exec", "e-web-1", "/whoami", "cat", "/run/secrets/token"]);
    assert_eq!(cat(), "first-canary");
    // Encrypted anew, the same content is the same.
    seal("first-canary");
    assert!(world.run(&["apply"]).stderr.contains("nothing to do"));
    seal("second-canary");
    world.ok(&["apply"]);
    assert_eq!(cat(), "second-canary");
    world.ok(&["restart", "e-web-1"]);
    assert_eq!(cat(), "second-canary");
    let found = Command::new("grep").args(["-rl", "canary"]).arg(&world.roots.root).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    Command::new("age-keygen").arg("-o").arg(world.directory.join("other.txt")).output().unwrap();
    world.file(
        "stack.yaml",
        &fs::read_to_string(world.directory.join("stack.yaml")).unwrap().replace("keys.txt", "other.txt"),
    );
    let said = world.fails(1, &["plan"]);
    assert!(said.contains("none of the identities in") && said.contains("stack.yaml:4"), "{said}");
    world.ok(&["destroy", "e"]);
}
