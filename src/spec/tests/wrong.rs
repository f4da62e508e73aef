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
    expect![[r#""#]].assert_eq(&faults);
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
    expect![[r#""#]].assert_eq(&faults);
}
