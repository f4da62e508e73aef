//! Which room may import which: the table of the architecture (`src/lib.rs`), enforced on the source text.
//!
//! A room is a folder or file right below `src/`. The scan is lexical: `crate::ROOM` outside comments is an import,
//! wherever it stands, and so is each name of `use crate::{…}`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Room, and the rooms that it may import. `lib.rs` and `main.rs` only join rooms together.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("diagnostics", &[]),
    ("spec", &["diagnostics"]),
    ("reconcile", &["spec"]),
    ("runtime", &[]),
    ("engine", &["reconcile", "spec", "runtime", "build"]),
    ("build", &["diagnostics", "runtime"]),
    ("plugin", &["runtime"]),
    ("source", &["spec"]),
    ("api", &["runtime", "build", "plugin"]),
    ("daemon", &["spec", "reconcile", "runtime", "engine", "build", "plugin", "source", "api"]),
    ("cli", &["diagnostics", "spec", "reconcile", "runtime", "engine", "build", "plugin", "source", "api", "daemon"]),
];

#[test]
fn rooms_import_only_what_the_architecture_allows() {
    let mut offences = Vec::new();
    for file in sources(&source_root()) {
        let room = room_of(&file);
        if room == "lib" || room == "main" {
            continue;
        }
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == room) else {
            offences.push(format!("{}: the room `{room}` is not in the table of this test", file.display()));
            continue;
        };
        let text = std::fs::read_to_string(&file).unwrap();
        for (line, imported) in imports(&text) {
            if imported != room && !allowed.contains(&imported.as_str()) {
                offences.push(format!("{}:{line}: `{room}` may not import `{imported}`", file.display()));
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn deciding_rooms_do_not_act() {
    // The pure modules: values in, values out.
    let pure = [
        "spec/stack.rs",
        "spec/container.rs",
        "reconcile/diff.rs",
        "reconcile/check.rs",
        "reconcile/plan/decide.rs",
        "reconcile/plan/steps.rs",
        "reconcile/plan/build.rs",
        "reconcile/desired/lower.rs",
        "reconcile/desired/container.rs",
    ];
    let acts = [
        "std::fs",
        "std::net::Tcp",
        "std::net::Udp",
        "std::process",
        "std::env",
        "SystemTime::now",
        "Instant::now",
        "println!",
        "tracing::",
    ];
    for file in pure.map(|name| source_root().join(name)).into_iter().filter(|file| file.exists()) {
        let text = std::fs::read_to_string(&file).unwrap();
        for (number, line) in code(text.split("\nmod tests").next().unwrap()) {
            for act in acts {
                assert!(!line.contains(act), "{}:{number}: a pure module names `{act}`", file.display());
            }
        }
    }
}

#[test]
fn the_scan_sees_imports_and_not_comments() {
    let text = "//! crate::api\nuse crate::{runtime::Roots, spec::{self, Stack}, cli};\nlet x = crate::build::y(); // crate::api\n";
    let names: Vec<_> = imports(text).into_iter().map(|(line, name)| format!("{line}:{name}")).collect();
    assert_eq!(names, ["2:runtime", "2:spec", "2:cli", "3:build"]);
    let nested = "use crate::{\n    runtime::Roots,\n    spec,\n};\n";
    assert_eq!(imports(nested).into_iter().map(|(_, name)| name).collect::<Vec<_>>(), ["runtime", "spec"]);
}

/// Where system calls are made that have no safe form, or a process is between clone and exec. Nowhere else.
const UNSAFE: &[&str] = &[
    "runtime/cgroup/devices.rs",
    "runtime/image/builtin/whoami.rs",
    "runtime/init/credentials.rs",
    "runtime/init/launcher/program.rs",
    "runtime/init/terminal.rs",
    "runtime/init/testprogram.rs",
    "runtime/init/tests.rs",
    "runtime/network/netd/mod.rs",
    "runtime/shim/mod.rs",
    "runtime/shim/sleeper/program.rs",
    "runtime/sys.rs",
    "runtime/volume/attributes.rs",
    "runtime/volume/loop_device.rs",
    "runtime/volume/quota.rs",
];

#[test]
fn unsafe_code_is_confined() {
    let has = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).unwrap();
        code(&text)
            .any(|(_, line)| line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe extern"))
    };
    let name = |file: &PathBuf| file.strip_prefix(source_root()).unwrap().display().to_string();
    let found: BTreeSet<String> = sources(&source_root()).iter().filter(|file| has(file)).map(name).collect();
    let allowed = UNSAFE.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(found, allowed, "put the call into runtime/sys.rs, or take the file off the list");
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { BTreeSet::from([path]) })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

fn room_of(file: &Path) -> String {
    let inside = file.strip_prefix(source_root()).unwrap();
    inside
        .components()
        .next()
        .map(|first| first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned())
        .unwrap()
}

/// Lines with their numbers, without comments. A `//` in a string cuts a line short, which can only hide, not invent.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line.split("//").next().unwrap_or("")))
}

/// (line, first name after `crate::`) of each import in a file.
fn imports(text: &str) -> Vec<(usize, String)> {
    let joined: String = code(text).flat_map(|(_, line)| [line, "\n"]).collect();
    let mut found = Vec::new();
    for (at, _) in joined.match_indices("crate::") {
        if joined[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue;
        }
        let line = joined[..at].matches('\n').count() + 1;
        let rest = &joined[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => top_level_names(group),
            None => vec![leading_name(rest)],
        };
        found.extend(names.into_iter().filter(|name| !name.is_empty()).map(|name| (line, name)));
    }
    found
}

fn leading_name(text: &str) -> String {
    text.trim_start().chars().take_while(|next| next.is_alphanumeric() || *next == '_').collect()
}

/// The first name of each member of a brace group, given the text behind its opening brace.
fn top_level_names(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut names = vec![leading_name(group)];
    for (at, next) in group.char_indices() {
        match next {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(leading_name(&group[at + 1..])),
            _ => {}
        }
    }
    names
}
