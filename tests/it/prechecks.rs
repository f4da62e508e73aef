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
    assert!(ids().iter().zip(&before).all(|(now, before)| now != before), "nothing stood in its way any more");
    world.ok(&["destroy", "pre"]);
}
