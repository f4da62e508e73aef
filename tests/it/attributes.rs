//! Every attribute of the Compose specification has an effect, or is named in the plan, or is refused: none is dropped
//! silently. `attributes/table.txt` lists them, each with a sample; the table in docs/compose.md is what comes out.
//!
//! `UPDATE_EXPECT=1` writes the table anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use stack::engine::native::Native;
use stack::reconcile::desired::{self, Desired};
use stack::reconcile::facts;
use stack::runtime::cgroup::Abilities;
use stack::spec::{self, LoadOptions, Policy};

use crate::support::World;

const TABLE: &str = include_str!("attributes/table.txt");
const DOCUMENT: &str = "docs/compose.md";
const BEGIN: &str = "<!-- made by tests/it/attributes.rs, from here -->\n";
const END: &str = "<!-- to here -->\n";

/// One line of the table.
struct Row {
    path: &'static str,
    sample: &'static str,
    /// Why the attribute has nothing to change.
    nothing: Option<&'static str>,
}

/// What becomes of an attribute.
#[derive(Debug, PartialEq)]
enum Outcome {
    CarriedOut,
    Named(String),
    Refused(String),
    Nothing(&'static str),
}

fn rows() -> Vec<Row> {
    let lines = TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let row = |line: &'static str| {
        let (path, rest) = line.split_once("  ").unwrap_or_else(|| panic!("{line}"));
        let (sample, nothing) = match rest.split_once(" ## ") {
            Some((sample, reason)) => (sample, Some(reason.trim())),
            None => (rest, None),
        };
        Row { path, sample: sample.trim(), nothing }
    };
    lines.map(row).collect()
}

/// The sample with (or without) what the attribute adds.
fn sample(text: &str, with: bool) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('«') {
        let (marked, tail) = after.split_once('»').unwrap_or_else(|| panic!("{text}"));
        let (yes, no) = marked.split_once('|').unwrap_or((marked, ""));
        out.push_str(before);
        out.push_str(if with { yes } else { no });
        rest = tail;
    }
    out + rest
}

/// A whole file around the sample.
fn document(path: &str, sample: &str) -> String {
    let mut sections: BTreeMap<&str, String> = BTreeMap::from([
        ("name", "shop".to_owned()),
        (
            "networks",
            "{back: {ipam: {config: [{subnet: 10.5.0.0/16}, {subnet: \"fd00:5::/64\"}]}}, front: {}}".to_owned(),
        ),
        ("volumes", "{data: {}}".to_owned()),
        ("configs", "{settings: {content: x}, other: {content: y}}".to_owned()),
        ("secrets", "{token: {file: app.env}, key: {file: other.env}}".to_owned()),
    ]);
    let (section, inner) = path.split_once('.').unwrap_or((path, ""));
    let mut web = "image: \"builtin:whoami\", networks: [back], configs: [settings], secrets: [token]".to_owned();
    let mut more = String::new();
    match section {
        "services" if inner.is_empty() => more = sample.to_owned(),
        "services" => {
            let image = if sample.starts_with("image:") { "" } else { "image: \"builtin:whoami\", " };
            web = format!("{image}{sample}");
        }
        "networks" | "volumes" | "configs" | "secrets" if !inner.is_empty() => {
            let key = match section {
                "networks" => "back",
                "volumes" => "data",
                "configs" => "settings",
                _ => "token",
            };
            sections.insert(section, format!("{{{key}: {{{sample}}}}}"));
        }
        _ => {
            let (key, value) = sample.split_once(':').map_or(("x-none", ""), |(key, value)| (key.trim(), value));
            sections.insert(key, value.trim().to_owned());
        }
    }
    // Whatever the container under test does: somebody uses the network and the volume.
    let health = "healthcheck: {test: \"true\"}";
    if section == "x-stack" {
        web = "image: own".to_owned();
    }
    let db = format!("{{image: \"builtin:whoami\", networks: [back], volumes: [\"data:/data\"], {health}}}");
    let mut text: String = sections.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
    text.push_str(&format!(
        "services: {{web: {{{web}}}, db: {db}, web3: {{image: \"builtin:whoami\", tty: true}}, {more}}}\n"
    ));
    text
}

const EVERYTHING: Abilities = Abilities { swap: true, swappiness: true, oom_kill_disable: true };
const NOTHING: Abilities = Abilities { swap: false, swappiness: false, oom_kill_disable: false };

/// What the engine would hold on a host that can do this and what it would demand of images, or what is wrong with the
/// file.
fn read(world: &World, text: &str, host: Abilities) -> Result<(Desired, Option<Policy>), String> {
    let file = world.file("compose.yaml", text);
    let environment = [("TOKEN", "x"), ("HOME", "/root")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let options = LoadOptions {
        files: vec![file],
        start: world.directory.clone(),
        environment: environment.into(),
        ..LoadOptions::default()
    };
    let loaded = spec::load(&options).map_err(|faults| faults.to_string())?;
    let files = facts::collect(&desired::files(&loaded.stack));
    let lowered = desired::lower(&loaded.stack, &Native::capabilities_on(host), &files);
    let desired = lowered.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    Ok((desired, loaded.stack.policy))
}

/// Whether a note about `note` (`services.web.gpus`) says what becomes of the attribute `path` (`services.gpus.count`).
fn names(note: &str, path: &str) -> bool {
    let words: Vec<&str> = note.split('.').collect();
    let section = words[0];
    let written: Vec<&str> = path.split('.').filter(|word| *word != "x-stack").collect();
    // Without the name of the container, and without indexes and names below it.
    let words: Vec<&str> = words.iter().skip(2).copied().filter(|word| word.parse::<u32>().is_err()).collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !matches!(*word, "back" | "front" | "db" | "llm")).collect();
    let below = &written[1.min(written.len())..];
    section == written[0] && below.starts_with(&words)
}

fn outcome(world: &World, row: &Row, host: Abilities) -> Result<Outcome, String> {
    let texts = [true, false].map(|with| document(row.path, &sample(row.sample, with)));
    let (with, demanded) = match read(world, &texts[0], host) {
        Ok(read) => read,
        Err(error) => return Ok(Outcome::Refused(error)),
    };
    let (without, demanded_without) =
        read(world, &texts[1], host).map_err(|error| format!("without it: {error}\n{}", texts[1]))?;
    let note = with.not_honoured.iter().find_map(|note| {
        let (place, reason) = note.split_once(": ")?;
        names(place, row.path).then(|| reason.to_owned())
    });
    let changed = with.resources != without.resources
        || with.external != without.external
        || with.stack != without.stack
        || demanded != demanded_without;
    match (note, changed, row.nothing) {
        (Some(note), ..) => Ok(Outcome::Named(note)),
        (None, true, None) => Ok(Outcome::CarriedOut),
        (None, false, Some(reason)) => Ok(Outcome::Nothing(reason)),
        (None, true, Some(_)) => Err("it is said to change nothing, and changes something".to_owned()),
        (None, false, None) => Err("it is dropped silently".to_owned()),
    }
}

fn world() -> World {
    let world = World::new();
    world.file("app.env", "A='x'\n");
    world.file("other.env", "B=y\n");
    let extra = "image: \"builtin:whoami\", command: [\"${B:-none}\"], volumes: [\"./v:/v\"]";
    world.file("other.yaml", &format!("services: {{extra: {{{extra}}}}}\n"));
    world.file("more.yaml", "services: {extra: {tty: true}}\n");
    world.file("base.yaml", "services: {db: {image: \"builtin:whoami\", tty: true}}\n");
    world
}

#[test]
fn the_words_of_the_kernel_are_those_that_the_runtime_knows() {
    use stack::runtime::{init, shim};
    use stack::spec::names;
    let capabilities: Vec<String> = names::CAPABILITIES.iter().map(|name| format!("CAP_{name}")).collect();
    assert_eq!(capabilities, init::spec::ALL_CAPABILITIES);
    for name in names::SIGNALS.iter().chain(&["RTMIN", "RTMIN+3", "SIGRTMIN+30", "9", "64"]) {
        assert!(names::is_signal(name) && shim::signal_number(name).is_some(), "{name}");
    }
    for name in ["FOO", "0", "65", "RTMIN+31", "RTMIN-1", ""] {
        assert!(!names::is_signal(name) && shim::signal_number(name).is_none(), "{name}");
    }
}

/// Every attribute of the table has its line in the description of our own format, or its word in the line of the
/// whole; and no line describes a key that is not known.
#[test]
fn every_key_is_described() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/file-format.md");
    let text = fs::read_to_string(path).unwrap();
    let line = |key: &str| text.lines().rev().find(|line| line.starts_with(&format!("| `{key}` |")));
    let first = |key: &str| text.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
    let mut absent = Vec::new();
    for row in rows() {
        let words: Vec<&str> = row.path.split('.').filter(|word| *word != "x-stack").collect();
        let described = match words[..] {
            ["services"] => line("containers").is_some(),
            ["services", "build" | "deploy" | "develop" | "blkio_config" | "volumes", _, ..] => true,
            ["services", key] => first(key).is_some(),
            ["services", key, part, ..] => first(key).is_some_and(|line| line.contains(&format!("`{part}`"))),
            [key] => line(key).is_some(),
            [key, .., part] => line(key).is_some_and(|line| line.contains(&format!("`{part}`"))),
            [] => true,
        };
        if !described {
            absent.push(row.path);
        }
    }
    assert!(absent.is_empty(), "docs/file-format.md says nothing of {absent:?}");
    let known: Vec<&str> = rows().iter().filter_map(|row| row.path.strip_prefix("services.")).collect();
    let keys = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let ours = ["name", "include", "version", "images", "policy", "containers", "x-…"];
    for (key, _) in keys.filter(|(key, _)| !ours.contains(key)) {
        let is_known = known.iter().any(|path| path.trim_start_matches("x-stack.") == key);
        assert!(is_known || rows().iter().any(|row| row.path == key), "{key} is described and not known");
    }
}

#[test]
fn no_attribute_is_dropped_silently() {
    let world = world();
    let mut silent = Vec::new();
    let mut told: Vec<(&str, Outcome)> = Vec::new();
    let mut table = String::from("| attribute | what becomes of it | why |\n|---|---|---|\n");
    for row in rows() {
        let [everywhere, here] = [NOTHING, EVERYTHING].map(|host| outcome(&world, &row, host));
        match here {
            Err(reason) => silent.push(format!("{}: {reason}", row.path)),
            Ok(Outcome::CarriedOut) if everywhere != Ok(Outcome::CarriedOut) => {
                let Ok(Outcome::Named(reason)) = everywhere else { panic!("{}: {everywhere:?}", row.path) };
                table.push_str(&format!("| `{}` | carried out | or named: {reason} |\n", row.path));
            }
            // The row of the whole speaks for the part.
            Ok(outcome) if told.iter().any(|(path, whole)| is_below(row.path, path) && *whole == outcome) => {}
            Ok(outcome) => {
                table.push_str(&line(&row, &outcome));
                told.push((row.path, outcome));
            }
        }
    }
    assert!(silent.is_empty(), "{}", silent.join("\n"));
    compare(&table);
}

/// What the engine says that it ignores is named where it is written: its sample is not taken for carried out.
#[test]
fn what_the_engine_ignores_is_named() {
    let world = world();
    for ignored in Native::capabilities_on(NOTHING).not_honoured {
        let path = format!("services.{}", ignored.key);
        let row = rows().into_iter().find(|row| row.path == path).unwrap_or_else(|| panic!("{path} has no row"));
        assert_eq!(outcome(&world, &row, NOTHING), Ok(Outcome::Named(ignored.reason.to_owned())), "{path}");
    }
}

/// Whatever the reading of files takes has a row: `src/spec/lower` is searched for the names of keys.
#[test]
fn every_key_that_is_read_has_a_row() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/spec/lower");
    let takers = ["take", "take_ours", "text", "word", "flag", "number", "bytes", "duration", "list", "items", "map"];
    let takers = takers.into_iter().chain(["choice", "file", "not_honoured", "skip", "namespace", "hooks"]);
    let takers: Vec<String> =
        takers.map(|name| format!("{name}(\"")).chain(["capabilities(f, \"".to_owned()]).collect();
    let known: BTreeSet<&str> = rows().iter().flat_map(|row| row.path.split('.')).collect();
    // Of our own format alone, and what stands in the sample of a whole list.
    let ours = [
        "archive",
        "rootfs",
        "builtin",
        "digest",
        "on_failure",
        "containers",
        "spread",
        "path",
        "headers",
        "status",
        "host",
        "port",
        "service",
        "tls",
        "scheme",
        "action",
        "max",
        "within",
    ];
    let (mut read, mut absent) = (0, BTreeSet::new());
    for file in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&file).unwrap();
        let production = text.split("#[cfg(test)]").next().unwrap();
        let keys = takers.iter().flat_map(|taker| production.split(taker.as_str()).skip(1));
        let keys = keys.filter_map(|rest| rest.split_once('"')).map(|(key, _)| key.to_owned());
        let listed = production.split("const NOT_").skip(1).filter_map(|rest| rest.split_once("];"));
        let listed = listed.flat_map(|(list, _)| list.split("(\"").skip(1)).filter_map(|rest| rest.split_once('"'));
        for key in keys.chain(listed.map(|(key, _)| key.to_owned())) {
            read += 1;
            if !known.contains(key.as_str()) && !ours.contains(&key.as_str()) {
                absent.insert(key);
            }
        }
    }
    assert!(read > 150, "the search found {read} keys only");
    assert!(absent.is_empty(), "attributes/table.txt has no row for {absent:?}");
}

fn is_below(path: &str, whole: &str) -> bool {
    path.strip_prefix(whole).is_some_and(|rest| rest.starts_with('.')) && whole.contains('.')
}

fn line(row: &Row, outcome: &Outcome) -> String {
    let (word, remark) = match outcome {
        Outcome::CarriedOut => ("carried out", ""),
        Outcome::Named(reason) => ("named", reason.as_str()),
        Outcome::Refused(reason) => ("refused", first_line(reason)),
        Outcome::Nothing(reason) => ("no effect", *reason),
    };
    format!("| `{}` | {word} | {} |\n", row.path, remark.replace('|', "\\|"))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim_start_matches("error: ")
}

/// The part of the document between the marks is the table.
fn compare(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap_or_else(|| panic!("{DOCUMENT} lacks {BEGIN}"));
    let (found, after) = rest.split_once(END).unwrap_or_else(|| panic!("{DOCUMENT} lacks {END}"));
    if found == table {
        return;
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        return;
    }
    let wrong: Vec<&str> = table.lines().filter(|line| !found.lines().any(|old| old == *line)).collect();
    panic!("{DOCUMENT} is not true any more (UPDATE_EXPECT=1 writes it anew):\n{}", wrong.join("\n"));
}
