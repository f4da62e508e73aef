//! Whatever stands in a file, loading ends with a stack or with errors that point into the file; it never panics.

use proptest::prelude::*;

use super::{Memory, options};
use crate::spec::load::load_from;
use crate::spec::{Diagnostics, LoadOptions};

/// Loads `text` as a file called `name` and checks what is said about it.
fn check(name: &str, text: &[u8]) {
    let mut memory = Memory::new(&[]);
    memory.files.insert(super::normalise(&std::path::Path::new(super::START).join(name)), text.to_vec());
    let options = LoadOptions { profiles: vec!["*".into()], ..options() };
    match load_from(&options, &mut memory) {
        Ok((_, warnings)) => check_spans(&warnings),
        Err(faults) => {
            assert!(!faults.list.is_empty(), "it failed without saying why");
            check_spans(&faults);
        }
    }
}

fn check_spans(diagnostics: &Diagnostics) {
    for one in &diagnostics.list {
        let related = one.related.iter().map(|(span, _)| *span);
        for span in one.span.into_iter().chain(related) {
            let source = diagnostics.sources.get(span.source).expect("the source of a span exists");
            assert!(span.start <= span.end && span.end <= source.text.len(), "{span:?} of {one:?}");
        }
    }
    assert_eq!(diagnostics.render(false).is_empty(), diagnostics.list.is_empty());
    assert_eq!(diagnostics.to_json().len(), diagnostics.list.len());
}

/// Words that real files are made of, in any order.
fn words() -> impl Strategy<Value = String> {
    let words = [
        "services:",
        "containers:",
        "web:",
        "image: x",
        "ports:",
        "- 80:80",
        "\n",
        "\n  ",
        "\n    ",
        "\n      ",
        "volumes:",
        "- ./a:/b",
        "environment:",
        "A: ${B:-c}",
        "${",
        "$",
        "}",
        "{",
        "[",
        "]",
        ",",
        "&a",
        "*a",
        "<<: *a",
        "depends_on:",
        "[web]",
        "build: .",
        "!reset",
        "!override",
        "- ",
        "|",
        ">",
        "'",
        "\"",
        "healthcheck:",
        "test: [CMD, x]",
        "networks:",
        "deploy:",
        "include: a.yaml",
        "extends: web",
        "ü",
        "\t",
        "#",
        "---",
        "...",
        "? ",
        ": ",
        "null",
        "-1",
        "0o17",
        "x-stack:",
        "configs:",
        "secrets:",
        "name: ä",
        "~",
        "\r\n",
        "\u{feff}",
    ];
    prop::collection::vec(prop::sample::select(words.to_vec()), 0..40).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_as_yaml(text in "\\PC{0,200}") {
        check("compose.yaml", text.as_bytes());
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        check("stack.yaml", &bytes);
    }

    #[test]
    fn any_text_as_toml(text in "[\\[\\]a-z={}\"'\n., #0-9]{0,120}") {
        check("stack.toml", text.as_bytes());
    }

    #[test]
    fn words_of_real_files(text in words()) {
        check("compose.yaml", text.as_bytes());
    }

    #[test]
    fn any_value_under_any_key(key in prop::sample::select(KEYS.to_vec()), value in value()) {
        check("compose.yaml", format!("services:\n  web:\n    image: x\n    {key}: {value}\n").as_bytes());
    }
}

const KEYS: [&str; 40] = [
    "build",
    "command",
    "configs",
    "cpus",
    "depends_on",
    "deploy",
    "devices",
    "dns",
    "entrypoint",
    "env_file",
    "environment",
    "expose",
    "extends",
    "extra_hosts",
    "gpus",
    "healthcheck",
    "labels",
    "links",
    "logging",
    "mem_limit",
    "memswap_limit",
    "network_mode",
    "networks",
    "pids_limit",
    "ports",
    "post_start",
    "profiles",
    "pull_policy",
    "restart",
    "secrets",
    "security_opt",
    "shm_size",
    "stop_grace_period",
    "sysctls",
    "tmpfs",
    "ulimits",
    "volumes",
    "volumes_from",
    "cpuset",
    "oom_score_adj",
];

/// A flow value of YAML of any shape.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "[a-z0-9:./_-]{0,12}".prop_map(|text| format!("'{text}'")),
        any::<i64>().prop_map(|number| number.to_string()),
        Just("null".to_owned()),
        Just("true".to_owned()),
        prop::sample::select(vec![
            "'999999999999999999999g'",
            "'1e400'",
            "'0-0'",
            "'65535-65535'",
            "'::::'",
            "'a=b'",
            "'/'",
            "'..'",
            "'é:é'"
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let keys = prop::sample::select(vec![
            "source",
            "target",
            "type",
            "test",
            "interval",
            "resources",
            "limits",
            "memory",
            "condition",
            "web",
            "path",
            "published",
            "soft",
            "hard",
            "x",
            "file",
            "service",
            "context",
            "args",
            "replicas",
            "driver",
            "options",
            "count",
            "command",
            "bind",
            "tmpfs",
            "mode",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::vec((keys, inner), 0..4).prop_map(|entries| {
                let mut seen = std::collections::BTreeMap::new();
                seen.extend(entries);
                let entries: Vec<String> = seen.iter().map(|(key, value)| format!("{key}: {value}")).collect();
                format!("{{{}}}", entries.join(", "))
            }),
        ]
    })
}

#[test]
fn bombs_are_bounded() {
    let mut bomb = String::from("x-0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let previous = level - 1;
        bomb.push_str(&format!("x-{level}: &a{level} [{}]\n", vec![format!("*a{previous}"); 10].join(", ")));
    }
    bomb.push_str("services: {web: {image: x}}\n");
    check("compose.yaml", bomb.as_bytes());
    for text in ["[".repeat(100_000), "{a: ".repeat(50_000), "- ".repeat(50_000), "a:\n ".repeat(5_000)] {
        check("compose.yaml", text.as_bytes());
    }
    check("stack.toml", format!("a = {}", "[".repeat(100_000)).as_bytes());
    check("stack.toml", format!("a{} = 1", ".a".repeat(20_000)).as_bytes());
    check("compose.yaml", format!("services: {{web: {{image: '{}'}}}}", "${A:-".repeat(50_000)).as_bytes());
}
