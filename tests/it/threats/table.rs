//! `table.txt` says which test stands for which hole. What it names is there, and what tests stand for is named in it;
//! docs/threats.md is made of it. `UPDATE_EXPECT=1` writes that anew.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const TABLE: &str = include_str!("table.txt");
const DOCUMENT: &str = "docs/threats.md";
const HEAD: &str = "# Known holes, and the test of each

Made of tests/it/threats/table.txt. Each test builds what the author of the attack had, and looks at the host. That it fails
when the guard is taken out is seen by tests/guards.py, which takes them out one after another. Races run 50 rounds, and 500 in
`tests/run.sh nightly`. What the defaults mean for those who run containers, and how they are lifted, is in
[docs/security.md](security.md).
";

struct Row {
    ids: &'static str,
    what: &'static str,
    tests: Vec<&'static str>,
}

fn rows(section: &'static str) -> Vec<Row> {
    let row = |line: &'static str| {
        let parts: Vec<&str> = line.split(" | ").collect();
        let [ids, what, tests] = parts[..] else { panic!("expected `id | what it was | tests`: {line}") };
        Row { ids, what, tests: tests.split(", ").collect() }
    };
    section.lines().skip(1).filter(|line| !line.is_empty()).map(row).collect()
}

/// Heading and rows of each section.
fn sections() -> Vec<(&'static str, Vec<Row>)> {
    TABLE.split("\n## ").skip(1).map(|section| (section.lines().next().unwrap(), rows(section))).collect()
}

fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The file and the name of a test.
fn place(test: &str) -> (PathBuf, &str) {
    let (module, name) = test.rsplit_once("::").unwrap_or(("", test));
    let find = |folder: &str, module: &str| {
        // `a::b` is in a/b.rs, a/b/mod.rs, or in a module of a.rs.
        let path = home().join(folder).join(module.replace("::", "/"));
        let above = path.parent().unwrap().to_owned();
        let found = [path.with_extension("rs"), path.join("mod.rs"), above.with_extension("rs"), above.join("mod.rs")];
        found.into_iter().find(|file| file.is_file()).unwrap_or_else(|| panic!("no file of {test}"))
    };
    let file = match (module.strip_prefix("crate::"), module.strip_prefix("unit::")) {
        (Some(module), _) => find("tests/it", module),
        (_, Some(module)) => find("src", module),
        _ => find("tests/it", format!("threats::{module}").trim_end_matches("::")),
    };
    (file, name)
}

#[test]
fn each_hole_has_tests_that_are_there() {
    let mut seen = BTreeSet::new();
    for row in sections().into_iter().flat_map(|(_, rows)| rows) {
        for id in row.ids.split(", ") {
            assert!(seen.insert(id), "{id} has two rows");
        }
        for test in row.tests {
            let (file, name) = place(test);
            let text = fs::read_to_string(&file).unwrap();
            let is_there = text.split("#[test]\n").skip(1).any(|rest| {
                let mut lines = rest.lines().skip_while(|line| line.trim().starts_with('#'));
                lines.next().is_some_and(|line| line.trim().starts_with(&format!("fn {name}(")))
            });
            assert!(is_there, "{}: {} has no test {name}", row.ids, file.display());
        }
    }
    assert!(seen.len() > 70, "{seen:?}");
    // The other way round: no test stands for a hole that has no row.
    let folder = home().join("tests/it");
    let files = fs::read_dir(folder.join("threats")).unwrap().map(|entry| entry.unwrap().path());
    for file in files.chain([folder.join("threats.rs")]).filter(|file| file.extension().is_some_and(|end| end == "rs"))
    {
        let text = fs::read_to_string(&file).unwrap();
        let ids = text.split("CVE-").skip(1).map(|rest| {
            rest.trim_end_matches('.').chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect::<String>()
        });
        for id in ids.filter(|id| !id.is_empty()) {
            assert!(seen.contains(format!("CVE-{id}").as_str()), "{}: CVE-{id} has no row", file.display());
        }
    }
}

/// What `tests/guards.py` takes out is where it looks for it.
#[test]
fn guards_are_where_they_are_looked_for() {
    let mut found = 0;
    for block in include_str!("guards.txt").split("\n\n# ").skip(1) {
        let (title, edits) = block.split_once('\n').unwrap();
        for edit in edits.split("@ ").skip(1) {
            let (file, lines) = edit.split_once('\n').unwrap();
            let text = fs::read_to_string(home().join(file)).unwrap();
            let gone: Vec<&str> = lines.split('\n').map(|line| line.strip_prefix('-').unwrap_or("")).collect();
            for old in gone.split(|line| line.is_empty()).filter(|old| !old.is_empty()).map(|old| old.join("\n")) {
                assert_eq!(text.matches(&old).count(), 1, "{title}: {file}:\n{old}");
                found += 1;
            }
        }
    }
    assert!(found > 40, "{found}");
}

#[test]
fn the_document_is_what_the_table_says() {
    let mut text = HEAD.to_owned();
    for (heading, rows) in sections() {
        write!(text, "\n## {heading}\n\n| | | test |\n|---|---|---|\n").unwrap();
        for row in rows {
            let tests = row.tests.iter().map(|test| {
                let (file, name) = place(test);
                format!("{}: `{name}`", file.strip_prefix(home()).unwrap().display())
            });
            writeln!(text, "| {} | {} | {} |", row.ids, row.what, tests.collect::<Vec<_>>().join("<br>")).unwrap();
        }
    }
    let path = home().join(DOCUMENT);
    if std::env::var("UPDATE_EXPECT").is_ok_and(|word| word == "1") {
        fs::write(&path, &text).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == text,
        "{DOCUMENT} is not true any more: UPDATE_EXPECT=1 writes it anew"
    );
}
