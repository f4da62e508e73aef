//! Files that do not load: what the user is told.

use expect_test::expect;

use super::{Memory, faults_of, load_files, load_from, options};

#[test]
fn all_errors_at_once_with_nearest_words() {
    let faults = faults_of(&[(
        "compose.yaml",
        r#"
services:
  web:
    imge: nginx
    image: nginx
    ports: ["80:80:80:80:80"]
    depends_on: [bd]
    restart: allways
    volumes: ["dat:/data"]
    networks: [frnt]
  db:
    image: Postgres
    mem_limit: lots
networks: {front: {}}
volumes: {data: {}}
"#,
    )]);
    expect![[r#"
        error: unknown key `imge` in service `web`
         --> compose.yaml:4:5
          |
        4 |     imge: nginx
          |     ^^^^
          |
          = help: did you mean `image`?

        error: `80:80:80:80:80` is not a port: `80:80:80` is not an address
         --> compose.yaml:6:13
          |
        6 |     ports: ["80:80:80:80:80"]
          |             ^^^^^^^^^^^^^^^^
          |
          = help: a port is written [[address:]host:]container[/protocol], such as 8080:80 or 127.0.0.1:53:53/udp

        error: the service `bd` is not declared
         --> compose.yaml:7:18
          |
        7 |     depends_on: [bd]
          |                  ^^
          |
          = help: did you mean `db`?

        error: `allways` is not a restart policy
         --> compose.yaml:8:14
          |
        8 |     restart: allways
          |              ^^^^^^^
          |
          = help: did you mean `always`?

        error: the volume `dat` is not declared
         --> compose.yaml:9:15
          |
        9 |     volumes: ["dat:/data"]
          |               ^^^^^^^^^^^
          |
          = help: did you mean `data`?

        error: the network `frnt` is not declared
          --> compose.yaml:10:16
           |
        10 |     networks: [frnt]
           |                ^^^^
           |
           = help: did you mean `front`?

        error: `Postgres` is not an image reference: the name has lower case letters only
          --> compose.yaml:12:12
           |
        12 |     image: Postgres
           |            ^^^^^^^^
           |
           = help: a reference is written [host[:port]/]name[:tag][@sha256:…]

        error: expected a size such as 512m or 1.5g, found `lots`
          --> compose.yaml:13:16
           |
        13 |     mem_limit: lots
           |                ^^^^"#]]
    .assert_eq(&faults);
}

#[test]
fn a_cycle_is_printed_as_a_path() {
    let faults = faults_of(&[(
        "stack.yaml",
        r#"
containers:
  a: {image: x, depends_on: [b]}
  b: {image: x, depends_on: {c: {condition: service_healthy}}}
  c: {image: x, network_mode: "service:a"}
"#,
    )]);
    expect![[r#"
        error: dependencies go in a circle: a → b → c → a
         --> stack.yaml:3:30
          |
        3 |   a: {image: x, depends_on: [b]}
          |                              ^ `a` needs `b`
        4 |   b: {image: x, depends_on: {c: {condition: service_healthy}}}
          |                              - `b` needs `c`
        5 |   c: {image: x, network_mode: "service:a"}
          |                               ----------- `c` needs `a`"#]]
    .assert_eq(&faults);
}

#[test]
fn what_a_network_mode_excludes_is_refused_as_docker_does() {
    let of = |mode: &str, keys: &str| {
        let text = format!("services:\n  a: {{image: x}}\n  b: {{image: x, network_mode: \"{mode}\", {keys}}}\n");
        let said = match load_files(&[("compose.yaml", &text)], &options()) {
            Ok((_, warnings)) => warnings.to_string(),
            Err(faults) => faults.to_string(),
        };
        said.lines()
            .filter(|line| line.starts_with("error") || line.starts_with("warning"))
            .collect::<Vec<_>>()
            .join("; ")
    };
    let another = "a container in another's network cannot";
    for (keys, what) in [
        ("ports: [\"80:80\"]", "publish ports"),
        ("expose: [80]", "expose ports"),
        ("hostname: h", "have a host name of its own"),
        ("links: [a]", "have links"),
        ("dns: [1.1.1.1]", "have name servers of its own"),
        ("extra_hosts: [\"x:1.1.1.1\"]", "have names for addresses of its own"),
        ("mac_address: \"02:42:ac:11:00:03\"", "have a hardware address of its own"),
    ] {
        for mode in ["service:a", "container:a"] {
            assert_eq!(of(mode, keys), format!("error: {another} {what}"), "{mode} {keys}");
        }
    }
    for (mode, keys, expected) in [
        (
            "host",
            "links: [a]",
            "error: `links` need a network of containers, and with `network_mode: host` there is none",
        ),
        ("none", "links: [a]", "error: `links` need a network, and with `network_mode: none` there is none"),
        (
            "host",
            "ports: [\"80:80\"]",
            "warning: ports have no effect with `network_mode: host`: they are the host's already",
        ),
        (
            "none",
            "ports: [\"80:80\"]",
            "warning: ports have no effect with `network_mode: none`: nothing reaches the container",
        ),
        (
            "none",
            "mac_address: \"02:42:ac:11:00:03\"",
            "warning: `mac_address` has no effect with `network_mode: none`: there is no link",
        ),
        ("host", "hostname: h, dns: [1.1.1.1], extra_hosts: [\"x:1.1.1.1\"]", ""),
        ("host", "networks: [n]", "error: `network_mode` and `networks` exclude each other"),
        (
            "host",
            "uts: host, hostname: h",
            "error: a container with the host's names (`uts: host`) has no `hostname` of its own",
        ),
        ("service:", "labels: {}", "error: `service:` of which?"),
        ("container:", "labels: {}", "error: `container:` of which?"),
        ("nonesuch", "labels: {}", "error: `nonesuch` is not a network mode"),
    ] {
        assert_eq!(of(mode, keys), expected, "{mode} {keys}");
    }
}

#[test]
fn unknown_words_and_wrong_types() {
    let faults = faults_of(&[(
        "compose.yaml",
        r#"
services:
  web:
    imge: nginx
    ports: 80
    environment: [A: b]
    command: {a: b}
    restart: true
    volumes: data:/x
    cap_add: [NET_ADMN]
    stop_signal: SIGTREM
    platform: amd64
    sysctls: [net.core.somaxconn]
    tty: maybe
    healthcheck: {test: [curl, x], interval: 30, retires: 3}
  db: postgres
"#,
    )]);
    expect![[r#"
        error: unknown key `imge` in service `web`
         --> compose.yaml:4:5
          |
        4 |     imge: nginx
          |     ^^^^
          |
          = help: did you mean `image`?

        error: expected a list, found one value
         --> compose.yaml:5:12
          |
        5 |     ports: 80
          |            ^^
          |
          = help: write `[80]`

        error: expected key=value, found a mapping
         --> compose.yaml:6:19
          |
        6 |     environment: [A: b]
          |                   ^^^^
          |
          = help: write `A=b`, or a mapping without the list

        error: expected a list, found a mapping
         --> compose.yaml:7:14
          |
        7 |     command: {a: b}
          |              ^^^^^^

        error: `true` is not a restart policy
         --> compose.yaml:8:14
          |
        8 |     restart: true
          |              ^^^^
          |
          = help: write "no", always, unless-stopped or on-failure[:N]

        error: expected a list, found one value
         --> compose.yaml:9:14
          |
        9 |     volumes: data:/x
          |              ^^^^^^^
          |
          = help: write `["data:/x"]`

        error: `NET_ADMN` is not a capability
          --> compose.yaml:10:15
           |
        10 |     cap_add: [NET_ADMN]
           |               ^^^^^^^^
           |
           = help: did you mean `NET_ADMIN`?

        error: `SIGTREM` is not a signal
          --> compose.yaml:11:18
           |
        11 |     stop_signal: SIGTREM
           |                  ^^^^^^^
           |
           = help: did you mean `SIGTERM`?

        error: expected a platform such as linux/arm64, found `amd64`
          --> compose.yaml:12:15
           |
        12 |     platform: amd64
           |               ^^^^^

        error: the kernel parameter `net.core.somaxconn` has no value
          --> compose.yaml:13:14
           |
        13 |     sysctls: [net.core.somaxconn]
           |              ^^^^^^^^^^^^^^^^^^^^
           |
           = help: write `net.core.somaxconn=1`

        error: expected true or false, found `maybe`
          --> compose.yaml:14:10
           |
        14 |     tty: maybe
           |          ^^^^^

        error: a test begins with `CMD`, `CMD-SHELL` or `NONE`, not `curl`
          --> compose.yaml:15:25
           |
        15 |     healthcheck: {test: [curl, x], interval: 30, retires: 3}
           |                         ^^^^^^^^^
           |
           = help: write it as ["CMD", …], or as one string for the shell

        error: the duration `30` has no unit
          --> compose.yaml:15:46
           |
        15 |     healthcheck: {test: [curl, x], interval: 30, retires: 3}
           |                                              ^^
           |
           = help: write `30s` for seconds

        error: unknown key `retires` in `healthcheck` of service `web`
          --> compose.yaml:15:50
           |
        15 |     healthcheck: {test: [curl, x], interval: 30, retires: 3}
           |                                                  ^^^^^^^
           |
           = help: did you mean `retries`?

        error: expected a mapping in service `db`, found a string
          --> compose.yaml:16:7
           |
        16 |   db: postgres
           |       ^^^^^^^^
           |
           = help: write `db: {image: postgres}`"#]]
    .assert_eq(&faults);
}

#[test]
fn names_that_nobody_declares() {
    let faults = faults_of(&[(
        "stack.yaml",
        r#"
images: {app: {builtin: whoami}}
containers:
  web: {image: ap, networks: [bak], volumes: ["dta:/d"], secrets: [tokn], configs: [settngs], depends_on: [bd]}
  db: {image: "builtin:whoani", network_mode: "service:wbe"}
networks: {back: {}}
volumes: {data: {}}
secrets: {token: {file: ./token}}
configs: {settings: {content: x}}
"#,
    )]);
    expect![[r#"
        error: the image `ap` is not declared
         --> stack.yaml:4:16
          |
        4 |   web: {image: ap, networks: [bak], volumes: ["dta:/d"], secrets: [tokn], configs: [settngs], depends_on: [bd]}
          |                ^^
          |
          = help: did you mean `app`? An image of a registry is meant when it has a tag: `ap:latest`

        error: the network `bak` is not declared
         --> stack.yaml:4:31
          |
        4 |   web: {image: ap, networks: [bak], volumes: ["dta:/d"], secrets: [tokn], configs: [settngs], depends_on: [bd]}
          |                               ^^^
          |
          = help: did you mean `back`?

        error: the volume `dta` is not declared
         --> stack.yaml:4:47
          |
        4 |   web: {image: ap, networks: [bak], volumes: ["dta:/d"], secrets: [tokn], configs: [settngs], depends_on: [bd]}
          |                                               ^^^^^^^^
          |
          = help: did you mean `data`?

        error: the secret `tokn` is not declared
         --> stack.yaml:4:68
          |
        4 |   web: {image: ap, networks: [bak], volumes: ["dta:/d"], secrets: [tokn], configs: [settngs], depends_on: [bd]}
          |                                                                    ^^^^
          |
          = help: did you mean `token`?

        error: the config `settngs` is not declared
         --> stack.yaml:4:85
          |
        4 |   web: {image: ap, networks: [bak], volumes: ["dta:/d"], secrets: [tokn], configs: [settngs], depends_on: [bd]}
          |                                                                                     ^^^^^^^
          |
          = help: did you mean `settings`?

        error: the container `bd` is not declared
         --> stack.yaml:4:108
          |
        4 |   web: {image: ap, networks: [bak], volumes: ["dta:/d"], secrets: [tokn], configs: [settngs], depends_on: [bd]}
          |                                                                                                            ^^
          |
          = help: did you mean `db`?

        error: no image `whoani` is built into this program
         --> stack.yaml:5:15
          |
        5 |   db: {image: "builtin:whoani", network_mode: "service:wbe"}
          |               ^^^^^^^^^^^^^^^^
          |
          = help: did you mean `whoami`?

        error: the container `wbe` is not declared
         --> stack.yaml:5:47
          |
        5 |   db: {image: "builtin:whoani", network_mode: "service:wbe"}
          |                                               ^^^^^^^^^^^^^
          |
          = help: did you mean `web`?"#]].assert_eq(&faults);
}

#[test]
fn host_ports() {
    let faults = faults_of(&[(
        "compose.yaml",
        r#"
services:
  a: {image: x, ports: ["80:80", "8000-8010:8000-8010"]}
  b: {image: x, ports: ["127.0.0.1:80:80"]}
  c: {image: x, ports: ["127.0.0.1:8005:1", "127.0.0.1:9000:1"]}
  d: {image: x, ports: ["0.0.0.0:9000:1", "127.0.0.2:9000:1", "[::1]:9000:1"]}
  e: {image: x, ports: [{target: 1, published: 7000}, "7000:2"], scale: 2}
"#,
    )]);
    expect![[r#"
        error: `a` and `b` both want host port 80/tcp
         --> compose.yaml:4:25
          |
        3 |   a: {image: x, ports: ["80:80", "8000-8010:8000-8010"]}
          |                         ------- `a` wants it on every address
        4 |   b: {image: x, ports: ["127.0.0.1:80:80"]}
          |                         ^^^^^^^^^^^^^^^^^ `b` wants it on 127.0.0.1

        error: `a` and `c` both want host port 8005/tcp
         --> compose.yaml:5:25
          |
        3 |   a: {image: x, ports: ["80:80", "8000-8010:8000-8010"]}
          |                                  --------------------- `a` wants it on every address
        4 |   b: {image: x, ports: ["127.0.0.1:80:80"]}
        5 |   c: {image: x, ports: ["127.0.0.1:8005:1", "127.0.0.1:9000:1"]}
          |                         ^^^^^^^^^^^^^^^^^^ `c` wants it on 127.0.0.1

        error: `c` and `d` both want host port 9000/tcp
         --> compose.yaml:6:25
          |
        5 |   c: {image: x, ports: ["127.0.0.1:8005:1", "127.0.0.1:9000:1"]}
          |                                             ------------------ `c` wants it on 127.0.0.1
        6 |   d: {image: x, ports: ["0.0.0.0:9000:1", "127.0.0.2:9000:1", "[::1]:9000:1"]}
          |                         ^^^^^^^^^^^^^^^^ `d` wants it on 0.0.0.0

        error: host port 9000/tcp is published twice
         --> compose.yaml:6:43
          |
        6 |   d: {image: x, ports: ["0.0.0.0:9000:1", "127.0.0.2:9000:1", "[::1]:9000:1"]}
          |                         ----------------  ^^^^^^^^^^^^^^^^^^ `d` wants it on 127.0.0.2
          |                         |
          |                         `d` wants it on 0.0.0.0

        error: 2 replicas cannot all have host port 7000
         --> compose.yaml:7:25
          |
        7 |   e: {image: x, ports: [{target: 1, published: 7000}, "7000:2"], scale: 2}
          |                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: leave the host port out, or give a range such as 7000-7001

        error: host port 7000/tcp is published twice
         --> compose.yaml:7:25
          |
        7 |   e: {image: x, ports: [{target: 1, published: 7000}, "7000:2"], scale: 2}
          |                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^ `e` wants it on every address"#]]
    .assert_eq(&faults);
}

#[test]
fn an_alias_bomb() {
    let faults = faults_of(&[(
        "stack.yaml",
        r#"
a: &a [x, x, x, x, x, x, x, x, x, x]
b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]
c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]
d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]
e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]
f: &f [*e, *e, *e, *e, *e, *e, *e, *e, *e, *e]
containers: {}
"#,
    )]);
    expect![[r#"
        error: with its aliases expanded this file has more than 200000 values
         --> stack.yaml:7:8
          |
        7 | f: &f [*e, *e, *e, *e, *e, *e, *e, *e, *e, *e]
          |        ^^"#]]
    .assert_eq(&faults);
}

#[test]
fn a_key_twice() {
    let faults = faults_of(&[(
        "stack.yaml",
        r#"
containers:
  web:
    image: x
    image: y
  web: {image: z}
"#,
    )]);
    expect![[r#"
        error: the key `image` is written twice
         --> stack.yaml:5:5
          |
        4 |     image: x
          |     ----- first here
        5 |     image: y
          |     ^^^^^ again here

        error: the key `web` is written twice
         --> stack.yaml:6:3
          |
        3 |   web:
          |   --- first here
        ...
        6 |   web: {image: z}
          |   ^^^ again here"#]]
    .assert_eq(&faults);
}

#[test]
fn tabs() {
    let faults = faults_of(&[("stack.yaml", "containers:\n\tweb: {image: x}\n")]);
    expect![[r#"
        error: this is not valid YAML: tabs disallowed within this context (block indentation)
         --> stack.yaml:2:2
          |
        2 |     web: {image: x}
          |     ^
          |
          = help: YAML is indented with spaces, never with tabs"#]]
    .assert_eq(&faults);
}

#[test]
fn indentation() {
    let faults = faults_of(&[(
        "stack.yaml",
        r#"containers:
  web:
    image: x
   tty: true
"#,
    )]);
    expect![[r#"
        error: this is not valid YAML: while parsing a block mapping, did not find expected key
         --> stack.yaml:4:4
          |
        4 |    tty: true
          |    ^
          |
          = help: this line is not indented like those that it belongs to, or lacks a colon"#]]
    .assert_eq(&faults);
}

#[test]
fn an_open_bracket() {
    let faults = faults_of(&[(
        "stack.yaml",
        r#"containers:
  web: {image: x, ports: [80}
"#,
    )]);
    expect![[r#"
        error: this is not valid YAML: while parsing a flow sequence, expected ',' or ']'
         --> stack.yaml:2:29
          |
        2 |   web: {image: x, ports: [80}
          |                             ^
          |
          = help: a bracket is not closed, or a value with one of `, [ ] { }` has no quotes"#]]
    .assert_eq(&faults);
}

#[test]
fn a_variable_between_brackets() {
    let faults = faults_of(&[(
        "stack.yaml",
        r#"containers: {web: {image: x, environment: {A: ${A}}}}
"#,
    )]);
    expect![[r#"
        error: this is not valid YAML: while parsing a flow mapping, did not find expected ',' or '}'
         --> stack.yaml:1:48
          |
        1 | containers: {web: {image: x, environment: {A: ${A}}}}
          |                                                ^
          |
          = help: between `{ }` and `[ ]`, write "${…}" in quotes"#]]
    .assert_eq(&faults);
}

#[test]
fn a_colon_in_a_value() {
    let faults = faults_of(&[(
        "stack.yaml",
        r#"containers:
  web:
    image: x
    command: echo a: b
"#,
    )]);
    expect![[r#"
        error: this is not valid YAML: mapping values are not allowed in this context
         --> stack.yaml:4:20
          |
        4 |     command: echo a: b
          |                    ^
          |
          = help: a value with `: ` in it is written in quotes; a key inside another stands on a line of its own, further in"#]].assert_eq(&faults);
}

#[test]
fn a_list_of_containers() {
    let faults = faults_of(&[(
        "stack.yaml",
        r#"containers:
  - image: x
"#,
    )]);
    expect![[r#"
        error: expected a mapping, found a list
         --> stack.yaml:2:3
          |
        2 |   - image: x
          |   ^^^^^^^^^^
          |
          = help: `containers:` gives each one a name, followed by a colon and what it is"#]]
    .assert_eq(&faults);
}

#[test]
fn an_empty_file() {
    let faults = faults_of(&[("compose.yaml", "")]);
    expect![[r#"
        error: this file declares no services
         --> compose.yaml:1:1
          |
        1 |
          | ^
          |
          = help: write them under `services:`; `services: {}` says that there shall be none"#]]
    .assert_eq(&faults);
}

#[test]
fn a_file_without_containers() {
    let faults = faults_of(&[(
        "compose.yaml",
        r#"version: "3"
volumes: {data: {}}
"#,
    )]);
    expect![[r#"
        error: this file declares no services
         --> compose.yaml:1:1
          |
        1 | version: "3"
          | ^
          |
          = help: write them under `services:`; `services: {}` says that there shall be none"#]]
    .assert_eq(&faults);
}

#[test]
fn an_emptied_section() {
    let faults = faults_of(&[(
        "stack.yaml",
        r#"name: shop
containers:
  # web: {image: x}
"#,
    )]);
    expect![[r#"
        error: this file declares no containers
         --> stack.yaml:2:1
          |
        2 | containers:
          | ^^^^^^^^^^
          |
          = help: write them under `containers:`; `containers: {}` says that there shall be none"#]]
    .assert_eq(&faults);
}

#[test]
fn a_variable_that_must_be_set() {
    let faults = faults_of(&[(
        "compose.yaml",
        r#"services: {web: {image: "nginx:${VERSION:?say which}", command: "${OPEN"}}
"#,
    )]);
    expect![[r#"
        error: the variable `VERSION` must be set: say which
         --> compose.yaml:1:32
          |
        1 | services: {web: {image: "nginx:${VERSION:?say which}", command: "${OPEN"}}
          |                                ^^^^^^^^^^^^^^^^^^^^^
          |
          = help: set VERSION in the environment or in .env

        error: `${` is not closed
         --> compose.yaml:1:66
          |
        1 | services: {web: {image: "nginx:${VERSION:?say which}", command: "${OPEN"}}
          |                                                                  ^^^^^^
          |
          = help: add `}`, or write `$$` for a dollar sign"#]]
    .assert_eq(&faults);
}

#[test]
fn toml() {
    let faults = faults_of(&[(
        "stack.toml",
        r#"name = "shop"
[containers.web]
imge = "nginx"
ports = "80"
[containers.db]
image = "postgres"
depends_on = ["wbe"]
restart = true
"#,
    )]);
    expect![[r#"
        error: unknown key `imge` in container `web`
         --> stack.toml:3:1
          |
        3 | imge = "nginx"
          | ^^^^
          |
          = help: did you mean `image`?

        error: expected a list, found a string
         --> stack.toml:4:9
          |
        4 | ports = "80"
          |         ^^^^
          |
          = help: write `["80"]`

        error: the container `wbe` is not declared
         --> stack.toml:7:15
          |
        7 | depends_on = ["wbe"]
          |               ^^^^^
          |
          = help: did you mean `web`?

        error: `true` is not a restart policy
         --> stack.toml:8:11
          |
        8 | restart = true
          |           ^^^^
          |
          = help: write "no", always, unless-stopped or on-failure[:N]"#]]
    .assert_eq(&faults);
}

#[test]
fn toml_syntax() {
    let faults = faults_of(&[(
        "stack.toml",
        r#"[containers.web]
image = nginx
image = "x"
ports = [80
"#,
    )]);
    expect![[r#"
        error: this is not valid TOML: invalid float, expected `nan`
         --> stack.toml:2:9
          |
        2 | image = nginx
          |         ^^^^^

        error: this is not valid TOML: duplicate key
         --> stack.toml:3:1
          |
        3 | image = "x"
          | ^^^^^

        error: this is not valid TOML: unclosed array, expected `]`
         --> stack.toml:4:12
          |
        4 | ports = [80
          |            ^"#]]
    .assert_eq(&faults);
}

#[test]
fn two_formats() {
    let faults = faults_of(&[(
        "stack.yaml",
        r#"containers: {}
services: {}
"#,
    )]);
    expect![[r#"
        error: `containers` and `services` are the same thing in two formats
         --> stack.yaml:1:1
          |
        1 | containers: {}
          | ^^^^^^^^^^
        2 | services: {}
          | -------- the Compose format
          |
          = help: use one of them"#]]
    .assert_eq(&faults);
}

#[test]
fn a_wrong_name_of_the_stack_hides_nothing_else() {
    for (name, said) in [("!!", "`!!` is not a good name"), ("[x]", "expected"), ("${Q?}", "`Q` must be set")] {
        let text = format!("name: \"{name}\"\ncontainers: {{a: {{}}}}\n").replace("\"[x]\"", "[x]");
        let faults = faults_of(&[("stack.yaml", &text)]);
        assert!(faults.contains(said) && faults.contains("container `a` has no image"), "{name}: {faults}");
        assert_eq!(faults.matches("error: ").count(), 2, "{name}: {faults}");
    }
}

/// All at once; what nobody uses may be made later.
#[test]
fn archives_and_root_file_systems_are_there() {
    let native = r#"
images: {db: {archive: ./db.tar}, dir: {archive: ./tools}, tools: {rootfs: ./none}, later: {archive: ./later.tar}}
containers: {a: {image: db}, b: {image: dir}, c: {image: tools}, d: {image: other:1, profiles: [no]}}
"#;
    expect![[r#"
        error: the archive db.tar of image `db` is not there
         --> stack.yaml:2:24
          |
        2 | images: {db: {archive: ./db.tar}, dir: {archive: ./tools}, tools: {rootfs: ./none}, later: {archive: ./later.tar}}
          |                        ^^^^^^^^
          |
          = help: make it, or correct the path

        error: the archive tools of image `dir` is a directory, not a file
         --> stack.yaml:2:50
          |
        2 | images: {db: {archive: ./db.tar}, dir: {archive: ./tools}, tools: {rootfs: ./none}, later: {archive: ./later.tar}}
          |                                                  ^^^^^^^
          |
          = help: a directory is taken by `rootfs:`

        error: the rootfs none of image `tools` is not there
         --> stack.yaml:2:76
          |
        2 | images: {db: {archive: ./db.tar}, dir: {archive: ./tools}, tools: {rootfs: ./none}, later: {archive: ./later.tar}}
          |                                                                            ^^^^^^
          |
          = help: make it, or correct the path"#]]
    .assert_eq(&faults_of(&[("stack.yaml", native), ("tools/etc/passwd", "")]));
    let compose = "x-stack: {images: {db: {archive: ./db.tar}}}\nservices: {a: {image: db}}\n";
    assert!(faults_of(&[("compose.yaml", compose)]).contains("compose.yaml:1:34"));
}

#[test]
fn images() {
    let faults = faults_of(&[(
        "stack.yaml",
        r#"
images:
  a: {pull: x, archive: ./y}
  b: {}
  c: {pull: "x y"}
  d: {pull: x, digest: "sha256:12"}
  e: {builtin: whoani}
containers: {w: {image: x}}
"#,
    )]);
    expect![[r#"
        error: image `a` has more than one source
         --> stack.yaml:3:6
          |
        3 |   a: {pull: x, archive: ./y}
          |      ^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: write one of `pull`, `archive`, `rootfs`, `builtin` and `build`

        error: image `b` has no source
         --> stack.yaml:4:6
          |
        4 |   b: {}
          |      ^^
          |
          = help: write one of `pull`, `archive`, `rootfs`, `builtin` and `build`

        error: `x y` is not an image reference: the name has lower case letters, digits and `_ . - /`
         --> stack.yaml:5:13
          |
        5 |   c: {pull: "x y"}
          |             ^^^^^
          |
          = help: a reference is written [host[:port]/]name[:tag][@sha256:…]

        error: expected a digest such as sha256:… with 64 digits, found `sha256:12`
         --> stack.yaml:6:24
          |
        6 |   d: {pull: x, digest: "sha256:12"}
          |                        ^^^^^^^^^^^

        error: no image `whoani` is built into this program
         --> stack.yaml:7:16
          |
        7 |   e: {builtin: whoani}
          |                ^^^^^^
          |
          = help: did you mean `whoami`?"#]]
    .assert_eq(&faults);
}

#[test]
fn a_place_in_each_of_several_files() {
    let faults = faults_of(&[
        ("compose.yaml", "include: [sub/more.yaml]\nservices:\n  web: {image: nginx, tty: perhaps}\n"),
        ("compose.override.yaml", "services:\n  web:\n    restart: allways\n    env_file: [web.env]\n"),
        (
            "sub/more.yaml",
            "services:\n  db: {image: postgres, user: {a: b}, extends: {file: base.yaml, service: bsae}}\n",
        ),
        ("sub/base.yaml", "services: {base: {image: x}}"),
        ("web.env", "A=1\nB C=2\n"),
    ]);
    expect![[r#"
        error: expected true or false, found `perhaps`
         --> compose.yaml:3:28
          |
        3 |   web: {image: nginx, tty: perhaps}
          |                            ^^^^^^^

        error: `allways` is not a restart policy
         --> compose.override.yaml:3:14
          |
        3 |     restart: allways
          |              ^^^^^^^
          |
          = help: did you mean `always`?

        error: expected a string, found a mapping
         --> sub/more.yaml:2:31
          |
        2 |   db: {image: postgres, user: {a: b}, extends: {file: base.yaml, service: bsae}}
          |                               ^^^^^^

        error: there is no service `bsae` to extend
         --> sub/more.yaml:2:48
          |
        2 |   db: {image: postgres, user: {a: b}, extends: {file: base.yaml, service: bsae}}
          |                                                ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: did you mean `base`?

        error: a variable name has letters, digits and `_ . -`
         --> web.env:2:2
          |
        2 | B C=2
          |  ^
          |
          = help: a line is NAME=value; comments begin with `#`"#]]
    .assert_eq(&faults);
}

#[test]
fn not_utf_8() {
    let fault = |bytes: &[u8]| {
        let mut files = Memory::new(&[("stack.yaml", "")]);
        files.put("stack.yaml", bytes);
        load_from(&options(), &mut files).expect_err("this is no text").to_string()
    };
    expect![[r#"
        error: this file is not UTF-8 text
         --> stack.yaml:2:19
          |
        2 |   web: {image: caf�}
          |                   ^ the byte e9 does not belong here
          |
          = help: save it as UTF-8"#]]
    .assert_eq(&fault(b"containers:\n  web: {image: caf\xe9}\n"));
    expect![[r#"
        error: this file is not UTF-8 text
         --> stack.yaml:1:1
          |
        1 | ��c␀o␀n␀
          | ^ the byte ff does not belong here
          |
          = help: it looks like UTF-16: save it as UTF-8"#]]
    .assert_eq(&fault(b"\xff\xfec\0o\0n\0"));
}

#[test]
fn too_much() {
    let deep = format!("containers: {}{}", "[".repeat(70), "]".repeat(70));
    expect![[r#"
        error: this is nested more than 64 levels deep
         --> stack.yaml:1:76
          |
        1 | containers: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]...
          |                                                                            ^"#]].assert_eq(&faults_of(&[("stack.yaml", &deep)]));
    let huge = "#".repeat((8 << 20) + 1);
    expect!["error: stack.yaml cannot be read: it is larger than 8 MiB"]
        .assert_eq(&faults_of(&[("stack.yaml", &huge)]));
}
