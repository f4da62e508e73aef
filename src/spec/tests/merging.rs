//! Several files become one: overrides, `!reset`, `extends`, `include`, profiles.

use expect_test::expect;

use super::{LoadOptions, brief, faults_of, load_files, options, stack_of};
use crate::spec::{Container, Stack};

fn web(files: &[(&str, &str)]) -> Container {
    let mut stack = stack_of(files);
    stack.containers.remove("web").expect("`web` is declared")
}

fn environment(container: &Container) -> String {
    let pairs: Vec<String> = container.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(" ")
}

fn names(stack: &Stack) -> String {
    stack.containers.keys().cloned().collect::<Vec<_>>().join(" ")
}

#[test]
fn an_override_file_is_merged_key_by_key() {
    let base = r#"
services:
  web:
    image: nginx
    command: [a, b]
    environment: {A: "1", B: "2"}
    ports: ["80:80", "443:443"]
    volumes: ["./a:/data", "/etc/x:/x"]
    cap_add: [NET_ADMIN]
    dns: 1.1.1.1
    healthcheck: {test: [CMD, one], interval: 5s}
    networks: [one]
    depends_on: [db]
    labels: [a=1]
  db: {image: postgres}
networks: {one: {}, two: {}}
"#;
    let over = r#"
services:
  web:
    image: nginx:2
    command: [c]
    environment: [B=3, C=4]
    ports: ["80:80", "8080:80"]
    volumes: ["./b:/data/"]
    cap_add: [NET_ADMIN, SYS_TIME]
    dns: [8.8.8.8]
    healthcheck: {test: [CMD, two]}
    networks: {two: {aliases: [w]}}
    depends_on: {db: {condition: service_healthy}}
    labels: {b: "2"}
"#;
    let container = web(&[("compose.yaml", base), ("compose.override.yml", over)]);
    assert_eq!(container.image.reference, "nginx:2");
    assert_eq!(container.command, Some(vec!["c".to_owned()]));
    assert_eq!(environment(&container), "A=1 B=3 C=4");
    let ports: Vec<String> =
        container.ports.iter().map(|port| port.published.map_or("?".into(), |range| range.to_string())).collect();
    assert_eq!(ports, ["80", "443", "8080"]);
    expect![[r#"
        [
          {
            "kind": {
              "bind": {
                "create_host_path": true,
                "propagation": "rprivate",
                "recursive": "enabled",
                "source": "/srv/shop/b"
              }
            },
            "target": "/data"
          },
          {
            "kind": {
              "bind": {
                "create_host_path": true,
                "propagation": "rprivate",
                "recursive": "enabled",
                "source": "/etc/x"
              }
            },
            "target": "/x"
          }
        ]"#]]
    .assert_eq(&brief(&container.mounts));
    assert_eq!(container.cap_add, ["NET_ADMIN", "SYS_TIME"]);
    assert_eq!(container.dns.len(), 2);
    expect![[r#"
        {
          "interval_ms": 5000,
          "on_failure": "none",
          "test": {
            "exec": [
              "two"
            ]
          }
        }"#]]
    .assert_eq(&brief(&container.healthcheck));
    assert_eq!(container.networks.keys().collect::<Vec<_>>(), ["one", "two"]);
    expect![[r#"
        {
          "db": {
            "condition": "healthy",
            "required": true
          }
        }"#]]
    .assert_eq(&brief(&container.depends_on));
    assert_eq!(container.labels.len(), 2);
}

#[test]
fn reset_and_override_tags() {
    let base = r#"
services:
  web: {image: nginx, ports: ["80:80"], environment: {A: "1", B: "2"}, command: x, cap_add: [A]}
  old: {image: y}
"#;
    let over = r#"
services:
  web:
    ports: !override ["81:81"]
    environment: {A: !reset null}
    cap_add: !reset []
    command: !reset
  old: !reset null
"#;
    let files = [("compose.yaml", base), ("compose.override.yaml", over)];
    let container = web(&files);
    assert_eq!(container.ports.len(), 1);
    assert_eq!(container.ports[0].target, 81);
    assert_eq!(environment(&container), "B=2");
    assert_eq!((container.command, container.cap_add.len()), (None, 0));
    assert_eq!(names(&stack_of(&files)), "web");
}

#[test]
fn extends_in_the_same_and_in_another_file() {
    let files = [
        (
            "compose.yaml",
            r#"
services:
  base: {image: nginx, environment: {A: "1", B: "1"}, volumes: ["./here:/here"]}
  web:
    extends: {service: common, file: shared/common.yaml}
    environment: {C: "3"}
    volumes: ["./here:/here"]
  api: {extends: base, environment: {B: "2"}}
"#,
        ),
        (
            "shared/common.yaml",
            r#"
services:
  common: {extends: {service: root}, volumes: ["./there:/there"], environment: {B: "2"}}
  root: {image: "nginx:${TAG}", environment: {A: "1"}, env_file: c.env}
"#,
        ),
        ("shared/c.env", "FROM=c\nA=9\n"),
    ];
    let stack = stack_of(&files);
    let (web, api) = (&stack.containers["web"], &stack.containers["api"]);
    assert_eq!(web.image.reference, "nginx:1.27");
    assert_eq!(environment(web), "A=1 B=2 C=3 FROM=c");
    let shown = brief(&web.mounts);
    assert!(shown.contains("/srv/shop/shared/there") && shown.contains("/srv/shop/here"), "{shown}");
    assert_eq!(environment(api), "A=1 B=2");
}

#[test]
fn wrong_extends() {
    let faults = faults_of(&[(
        "compose.yaml",
        r#"
services:
  a: {extends: b, image: x}
  b: {extends: {service: a}, image: x}
  c: {extends: bb, image: x}
  d: {extends: {service: x, file: none.yaml, fil: y}, image: x}
"#,
    )]);
    expect![[r#"
        error: `extends` goes in a circle: a → b → a
         --> compose.yaml:3:16
          |
        3 |   a: {extends: b, image: x}
          |                ^

        error: `extends` goes in a circle: b → a → b
         --> compose.yaml:4:16
          |
        4 |   b: {extends: {service: a}, image: x}
          |                ^^^^^^^^^^^^

        error: there is no service `bb` to extend
         --> compose.yaml:5:16
          |
        5 |   c: {extends: bb, image: x}
          |                ^^
          |
          = help: did you mean `b`?

        error: none.yaml cannot be read: there is no such file
         --> compose.yaml:6:35
          |
        6 |   d: {extends: {service: x, file: none.yaml, fil: y}, image: x}
          |                                   ^^^^^^^^^

        error: unknown key `fil` in `extends`
         --> compose.yaml:6:46
          |
        6 |   d: {extends: {service: x, file: none.yaml, fil: y}, image: x}
          |                                              ^^^
          |
          = help: did you mean `file`?"#]]
    .assert_eq(&faults);
}

#[test]
fn include_brings_its_own_directory_and_environment() {
    let files = [
        (
            "compose.yaml",
            "include: [db/compose.yaml, {path: mq.yaml, env_file: mq.env}]\nservices: {web: {image: x, depends_on: [db, mq]}}",
        ),
        ("db/compose.yaml", "name: other\nservices: {db: {image: 'pg:${V}', volumes: ['./data:/data']}}"),
        ("db/.env", "V=17\n"),
        ("mq.yaml", "services: {mq: {image: 'mq:${V}'}}\nvolumes: {q: {}}"),
        ("mq.env", "V=4\n"),
    ];
    let stack = stack_of(&files);
    assert_eq!((stack.name.as_str(), names(&stack).as_str()), ("shop", "db mq web"));
    assert_eq!(stack.containers["db"].image.reference, "pg:17");
    assert_eq!(stack.containers["mq"].image.reference, "mq:4");
    assert!(brief(&stack.containers["db"]).contains("/srv/shop/db/data"));
    assert!(stack.volumes.contains_key("q"));
}

#[test]
fn wrong_includes() {
    let faults = faults_of(&[
        ("compose.yaml", "include: [a.yaml, gone.yaml]\nservices: {web: {image: x}}"),
        ("a.yaml", "include: a.yaml\nservices: {web: {image: y}}"),
    ]);
    expect![[r#"
        error: gone.yaml cannot be read: there is no such file
         --> compose.yaml:1:19
          |
        1 | include: [a.yaml, gone.yaml]
          |                   ^^^^^^^^^

        error: `web` is declared here and in an included file
         --> compose.yaml:2:12
          |
        1 | include: [a.yaml, gone.yaml]
          |          ------------------- included here
        2 | services: {web: {image: x}}
          |            ^^^
          |
         ::: a.yaml:2:12
          |
        2 | services: {web: {image: y}}
          |            --- the other one

        error: a.yaml includes itself
         --> a.yaml:1:10
          |
        1 | include: a.yaml
          |          ^^^^^^"#]]
    .assert_eq(&faults);
}

#[test]
fn profiles_choose_containers() {
    let text = r#"
services:
  web: {image: x, depends_on: {debug: {condition: service_started, required: false}}}
  debug: {image: x, profiles: [debug, dev]}
  test: {image: x, profiles: test, use_api_socket: true}
"#;
    let load = |profiles: &[&str], listed: &str| {
        let mut options = LoadOptions { profiles: profiles.iter().map(|name| name.to_string()).collect(), ..options() };
        options.environment.insert("COMPOSE_PROFILES".into(), listed.into());
        let (stack, _) = load_files(&[("compose.yaml", text)], &options).unwrap_or_else(|faults| panic!("{faults}"));
        format!("{} | {} | {}", names(&stack), stack.disabled.join(" "), stack.not_honoured.len())
    };
    assert_eq!(load(&[], ""), "web | debug test | 0");
    assert_eq!(load(&["dev"], ""), "debug web | test | 0");
    assert_eq!(load(&[], "test,debug"), "debug test web |  | 1");
    assert_eq!(load(&["*"], ""), "debug test web |  | 1");
    let faults =
        faults_of(&[("compose.yaml", "services: {a: {image: x, depends_on: [b]}, b: {image: x, profiles: [p]}}")]);
    expect![[r#"
        error: service `a` depends on `b`, whose profiles are not active
         --> compose.yaml:1:39
          |
        1 | services: {a: {image: x, depends_on: [b]}, b: {image: x, profiles: [p]}}
          |                                       ^
          |
          = help: activate one of its profiles with --profile, or write `required: false` under `depends_on.b`"#]]
    .assert_eq(&faults);
}

#[test]
fn anchors_merge_keys_and_extensions() {
    let container = web(&[(
        "compose.yaml",
        r#"
x-env: &env {A: "1", B: "${TAG}"}
x-base: &base
  image: nginx
  environment: &e
    <<: *env
    C: "3"
services:
  web:
    <<: *base
    environment:
      <<: [{A: "0"}, *env]
      D: "4"
    x-note: ignored
"#,
    )]);
    assert_eq!((container.image.reference.as_str(), environment(&container).as_str()), ("nginx", "A=0 B=1.27 D=4"));
}

#[test]
fn env_files_and_dot_env() {
    let files = [
        (
            "compose.yaml",
            r#"
services:
  web:
    image: "nginx:${FROM_DOTENV}"
    env_file:
      - a.env
      - {path: none.env, required: false}
      - {path: raw.env, format: raw}
    environment: {B: env, TAG: null, FROM_DOTENV: null}
"#,
        ),
        (".env", "FROM_DOTENV=dotenv\nTAG=loses\n"),
        ("a.env", "A=${TAG}\nB=file\nexport C='x y' # z\n"),
        ("raw.env", "D='${TAG}'\n"),
    ];
    assert_eq!(environment(&web(&files)), "A=1.27 B=env C=x y D='${TAG}' FROM_DOTENV=dotenv TAG=1.27");
    let mut memory = super::Memory::new(&files);
    crate::spec::load::load_from(&options(), &mut memory).expect("the files are right");
    let watched: Vec<String> = memory.watched.iter().map(|path| path.display().to_string()).collect();
    for name in ["compose.yaml", ".env", "a.env", "none.env", "raw.env"] {
        assert!(watched.contains(&format!("/srv/shop/{name}")), "{name}: {watched:?}");
    }
}

#[test]
fn toml_is_the_same_tree() {
    let yaml = "name: t\ncontainers: {web: {image: x, ports: ['80:80'], environment: {A: '1', N: 2}, read_only: true}}\nvolumes: {v: {protect: true}}";
    let toml = "name = 't'\n[containers.web]\nimage = 'x'\nports = ['80:80']\nread_only = true\n[containers.web.environment]\nA = '1'\nN = 2\n[volumes]\nv = {protect = true}\n";
    let (a, b) = (stack_of(&[("stack.yaml", yaml)]), stack_of(&[("stack.toml", toml)]));
    assert_eq!((a.containers, a.volumes, a.networks), (b.containers, b.volumes, b.networks));
}
