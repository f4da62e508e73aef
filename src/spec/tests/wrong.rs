//! Files that do not load: what the user is told.

use expect_test::expect;

use super::faults_of;

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
