//! Where docker compose's own loader (2.40) has a rule that one would not guess. Each case was compared with it.

use super::{LoadOptions, faults_of, load_files, options, stack_of};
use crate::spec::Container;

fn container(files: &[(&str, &str)], name: &str) -> Container {
    let mut stack = stack_of(files);
    stack.containers.remove(name).unwrap_or_else(|| panic!("{name} is not declared"))
}

/// `A=1 B=2` of the container `w`.
fn environment(files: &[(&str, &str)]) -> String {
    let pairs = container(files, "w").environment;
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn numbers_without_quotes_become_text_as_go_prints_them() {
    let text = r#"
services:
  w:
    image: x
    environment: {A: 1.50, B: 010, C: True, D: 0x10, E: "1.50", F: "${N:-1.50}", G: 1e21, H: on}
"#;
    let found = environment(&[("compose.yaml", text)]);
    assert_eq!(found, "A=1.5 B=8 C=true D=16 E=1.50 F=1.50 G=1e+21 H=on");
    let listed = "services: {w: {image: x, environment: [A=1.50, B=010]}}";
    assert_eq!(environment(&[("compose.yaml", listed)]), "A=1.50 B=010");
}

#[test]
fn a_dollar_that_begins_nothing_is_a_dollar() {
    let text = r#"services: {w: {image: x, command: ["awk", "{print $1}", "5$", "a$ b", "$$HOME"]}}"#;
    let command = container(&[("compose.yaml", text)], "w").command;
    assert_eq!(command.unwrap(), ["awk", "{print $1}", "5$", "a$ b", "$HOME"]);
}

#[test]
fn variables_in_env_files_come_from_the_caller_then_environment_then_the_file_then_files_before() {
    let text = "services: {w: {image: x, env_file: [a.env, b.env], environment: {C: own, TAG: own}}}";
    let files = [("compose.yaml", text), ("a.env", "A=a\nZ=z"), ("b.env", "B=$A-$Z-$C-$TAG\nA=b\nD=$A")];
    assert_eq!(environment(&files), "A=b B=a-z-own-1.27 C=own D=b TAG=own Z=z");
}

#[test]
fn options_of_another_logging_driver_are_not_kept() {
    let base = "services: {w: {image: x, logging: {driver: json-file, options: {max-size: 1m}}}}";
    let options = |over: &str| {
        let logging = container(&[("compose.yaml", base), ("compose.override.yaml", over)], "w").logging.unwrap();
        logging.options.into_keys().collect::<Vec<_>>()
    };
    assert!(options("services: {w: {logging: {driver: none}}}").is_empty());
    assert_eq!(options("services: {w: {logging: {options: {max-file: 2}}}}"), ["max-file", "max-size"]);
}

#[test]
fn address_pools_of_one_subnet_are_one_pool() {
    let base = "services: {w: {image: x, networks: [n]}}\nnetworks: {n: {ipam: {config: [{subnet: 10.0.0.0/24}]}}}";
    let over = "networks: {n: {ipam: {config: [{subnet: 10.0.0.0/24, gateway: 10.0.0.9}, {subnet: 10.1.0.0/24}]}}}";
    let stack = stack_of(&[("compose.yaml", base), ("compose.override.yaml", over)]);
    let pools = &stack.networks["n"].ipam.pools;
    assert_eq!((pools.len(), pools[0].gateway), (2, Some("10.0.0.9".parse().unwrap())));
}

#[test]
fn a_health_check_can_be_disabled_over_its_test() {
    let base = "services: {w: {image: x, healthcheck: {test: [CMD, a]}}}";
    let over = "services: {w: {healthcheck: {disable: true}}}";
    let check = container(&[("compose.yaml", base), ("compose.override.yaml", over)], "w").healthcheck.unwrap();
    assert_eq!(check.test, crate::spec::HealthTest::Disabled);
}

#[test]
fn an_override_reaches_what_is_included() {
    let base = "include: [a.yaml]\nservices: {w: {image: x}}";
    let files = [
        ("compose.yaml", base),
        ("compose.override.yaml", "services: {s: {tty: true}}"),
        ("a.yaml", "services: {s: {image: y}}"),
    ];
    let included = container(&files, "s");
    assert_eq!((included.image.reference.as_str(), included.tty), ("y", true));
}

#[test]
fn names_of_projects_are_mended_where_a_file_says_them() {
    let loaded = load_files(&[("compose.yaml", "name: My_App!\nservices: {w: {image: x}}")], &options());
    let (stack, warnings) = loaded.unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(stack.name, "my_app");
    assert!(warnings.to_string().contains("the stack is called `my_app`"), "{warnings}");
    assert_eq!(stack_of(&[("compose.yaml", "name: \"\"\nservices: {w: {image: x}}")]).name, "shop");
    let given = LoadOptions { project_name: Some("My_App".into()), ..options() };
    assert!(load_files(&[("compose.yaml", "services: {w: {image: x}}")], &given).is_err());
    assert!(faults_of(&[("stack.yaml", "name: My_App\ncontainers: {w: {image: x}}")]).contains("such as `my_app`"));
}

#[test]
fn two_keys_for_one_thing_must_agree() {
    let wrong = |keys: &str| faults_of(&[("compose.yaml", &format!("services: {{w: {{image: x, {keys}}}}}"))]);
    for keys in [
        "scale: 2, deploy: {replicas: 3}",
        "mem_limit: 1g, deploy: {resources: {limits: {memory: 2g}}}",
        "cpus: 1, deploy: {resources: {limits: {cpus: 2}}}",
        "pids_limit: 1, deploy: {resources: {limits: {pids: 2}}}",
    ] {
        assert!(wrong(keys).contains("say different things"), "{keys}");
    }
    let same = "services: {w: {image: x, scale: 2, deploy: {replicas: 2}}}";
    assert_eq!(container(&[("compose.yaml", same)], "w").replicas, 2);
}
