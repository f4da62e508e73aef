//! Nothing that runs is touched before everything that can be looked at beforehand has been: each fault ends an apply with
//! code 1, says where in the file its cause stands and what to do, and leaves what runs as it is.

use std::net::TcpListener;

use crate::sources::identity;
use crate::support::World;

/// A stack whose container `web` would be replaced, with these keys besides.
fn text(variable: &str, keys: &str, sections: &str) -> String {
    let image = if keys.starts_with(", image:") { "" } else { "image: builtin:whoami, " };
    format!(
        "name: pre\ncontainers:\n  web: {{{image}environment: {{A: {variable}}}{keys}}}\n  side: {{image: builtin:whoami, \
         environment: {{PORT: \"81\"}}, network_mode: \"service:web\"}}\n{sections}"
    )
}

#[test]
fn what_can_be_known_beforehand_stops_nothing() {
    let world = World::new();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = held.local_addr().unwrap().port();
    let closed = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let port = format!(", ports: [\"{busy}:80\"]");
    let image = format!(", image: \"127.0.0.1:{closed}/none:1\"");
    let hook = format!(", pre_start: [{{image: \"127.0.0.1:{closed}/none:1\"}}]");
    let bind = ", volumes: [{type: bind, source: ./none, target: /x, bind: {create_host_path: false}}]";
    let never = ", image: \"none:1\", pull_policy: never";
    // What `web` says, what stands below, where the cause is, and words of what is said.
    let table: &[(&str, &str, &str, &[&str])] = &[
        (&image, "", "stack.yaml:3:", &["pull image/127.0.0.1", "help: "]),
        (&hook, "", "stack.yaml:3:", &["pull image/127.0.0.1", "help: "]),
        (never, "", "", &["image/none:1", "pull_policy is never"]),
        (&port, "", "stack.yaml:3:", &["is taken by process", "help: stop what holds it"]),
        (bind, "", "stack.yaml:3:", &["bind mount", "none: no such file", "help: make it"]),
        (
            ", secrets: [token]",
            "secrets: {token: {file: ./none}}\n",
            "stack.yaml:5:",
            &["secret `token`", "no such file"],
        ),
        (
            ", secrets: [token]",
            "secrets: {token: {file: /etc}}\n",
            "stack.yaml:5:",
            &["secret `token`", "not a regular file"],
        ),
        (", configs: [site]", "configs: {site: {file: ./none}}\n", "stack.yaml:5:", &["config `site`", "no such file"]),
        (", env_file: [none.env]", "", "stack.yaml:3:", &["none.env cannot be read: there is no such file"]),
        (
            ", networks: [out]",
            "networks: {out: {external: true}}\n",
            "stack.yaml:5:12",
            &["declared external", "help: make it"],
        ),
        (
            ", volumes: [\"out:/x\"]",
            "volumes: {out: {external: true}}\n",
            "stack.yaml:5:11",
            &["declared external", "help: make it"],
        ),
        (", devices: [/dev/none]", "", "stack.yaml:3:", &["device /dev/none: no such file", "help: make it"]),
        (
            ", devices: [\"/etc/hostname:/dev/x\"]",
            "",
            "stack.yaml:3:",
            &["device /etc/hostname: it is not a device", "help: correct the path"],
        ),
        (", platform: linux/s390x", "", "stack.yaml:3:", &["for linux/"]),
        (
            ", user: stranger",
            "",
            "stack.yaml:3:",
            &["\"stranger\": no such user", "help: name one that builtin:whoami has"],
        ),
        (", user: \"1:staff\"", "", "stack.yaml:3:", &["no group \"staff\"", "help: name one"]),
        (", group_add: [video]", "", "stack.yaml:3:", &["group_add: no group \"video\"", "help: name one"]),
        (
            ", entrypoint: [/none]",
            "",
            "stack.yaml:3:",
            &["program /none: no such file in builtin:whoami", "help: correct"],
        ),
        (
            ", entrypoint: [none]",
            "",
            "stack.yaml:3:",
            &["program none: no such file", "nor in its PATH", "help: correct"],
        ),
        (", entrypoint: [etc/none], working_dir: /", "", "stack.yaml:3:", &["program etc/none: no such file"]),
        (", entrypoint: [/etc]", "", "stack.yaml:3:", &["program /etc of builtin:whoami: it is a directory"]),
        (", entrypoint: [/etc/passwd]", "", "stack.yaml:3:", &["it is not executable"]),
        (", entrypoint: []", "", "stack.yaml:3:", &["names no program", "help: give `command:`"]),
        (", logging: {options: {max-size: much}}", "", "stack.yaml:3:", &["max-size", "such as 10m"]),
        (", userns_mode: private, pid: host", "", "stack.yaml:3:", &["userns_mode"]),
    ];
    let file = world.file("stack.yaml", &text("b", "", ""));
    let file = file.to_str().unwrap();
    world.ok(&["apply", file]);
    let ids = || ["pre-web-1", "pre-side-1"].map(|name| identity(&world, name));
    let before = ids();
    for (keys, sections, place, words) in table {
        world.file("stack.yaml", &text("c", keys, sections));
        let said = world.fails(1, &["apply", file]);
        assert!(said.contains(place), "{keys}: {place}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{keys}: {words:?}: {said}");
        assert_eq!(ids(), before, "{keys}: {said}");
    }
    // All of them are said at once.
    let several = ", devices: [/dev/none], volumes: [{type: bind, source: ./none, target: /x, bind: {create_host_path: false}}], \
                   secrets: [token]";
    world.file("stack.yaml", &text("c", several, "secrets: {token: {file: ./none}}\n"));
    let said = world.fails(1, &["plan", file]);
    assert_eq!(said.matches("error: ").count(), 3, "{said}");
    world.file("stack.yaml", &text("c", "", ""));
    world.ok(&["apply", file]);
    let [web, side] = ids();
    assert_ne!(web, before[0], "nothing stood in its way any more");
    assert_eq!(side, before[1], "who lives in its network stays");
    world.ok(&["destroy", "pre"]);
}

/// An image whose program is reached through links, one without a program, and what mounts lay over both.
#[test]
fn what_a_mount_covers_is_not_missed_in_the_image() {
    let world = World::new();
    let root = world.busybox("root");
    std::os::unix::fs::symlink("bin", root.join("programs")).unwrap();
    std::os::unix::fs::symlink("/programs/sh", root.join("sh")).unwrap();
    std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
    world.archive("bare", "root", &serde_json::json!({"Env": ["PATH=/programs"]}));
    std::fs::copy("/bin/busybox", world.directory.join("sh")).unwrap();
    world.file("passwd", "root:x:0:0::/:/bin/sh\nguest:x:7:7::/:/bin/sh\n");
    let file = |keys: &str| {
        let text = format!(
            "name: pre\nimages: {{bare: {{archive: ./bare}}}}\ncontainers:\n  web: {{image: bare, stop_grace_period: 0s, \
             healthcheck: {{disable: true}}{keys}}}\nvolumes: {{data: {{}}}}\n"
        );
        world.file("stack.yaml", &text).to_str().unwrap().to_owned()
    };
    let loops = "while test -d /; do sleep 1; done";
    world.ok(&["apply", &file(&format!(", command: [sh, -c, \"{loops}\"]"))]);
    let refused: &[(&str, &str)] = &[
        ("", "image pre-bare names no program, and neither does the container"),
        (", command: [/loop]", "program /loop: no such file in pre-bare"),
        (", command: [wget]", "program wget: no such file in pre-bare, nor in its PATH (/programs)"),
        (", command: [/opt/tools/sh], volumes: [\"data:/opt/tools/more\"]", "program /opt/tools/sh: no such file"),
        (", command: [sh, -c, x], user: guest", "no such user"),
    ];
    let before = identity(&world, "pre-web-1");
    for (keys, words) in refused {
        let said = world.fails(1, &["apply", &file(keys)]);
        assert!(said.contains(words), "{keys}: {said}");
        assert_eq!(identity(&world, "pre-web-1"), before, "{keys}: {said}");
    }
    let taken = [
        format!(", command: [/sh, -c, \"{loops}\"]"),
        format!(", command: [../bin/sh, -c, \"{loops}\"], working_dir: /tmp"),
        format!(", command: [sh, -c, \"{loops}\"], user: guest, volumes: [\"./passwd:/etc/passwd\"]"),
        format!(", command: [/opt/sh, -c, \"{loops}\"], volumes: [\"./sh:/opt/sh\"]"),
        format!(", command: [/opt/x/sh, -c, \"{loops}\"], volumes: [\".:/opt/x\"]"),
        // What the link leads to is covered.
        format!(", command: [/programs/more/sh, -c, \"{loops}\"], volumes: [\".:/bin/more\"]"),
    ];
    let mut last = before;
    for keys in &taken {
        world.ok(&["apply", &file(keys)]);
        let now = identity(&world, "pre-web-1");
        assert_ne!(now, last, "{keys}");
        last = now;
    }
    world.ok(&["destroy", "pre", "--volumes", "--yes=volumes"]);
}
