//! The manual is true: docs/cli.md is made from the words that the program understands, what documents point at is
//! there, and what they show as a file is one. `UPDATE_EXPECT=1` writes docs/cli.md anew.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};

use crate::support::World;

const DOCUMENT: &str = "docs/cli.md";
const BEGIN: &str = "<!-- made by tests/it/manual.rs, from here -->\n";
const END: &str = "<!-- to here -->\n";

fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and everything in docs/.
fn documents() -> Vec<PathBuf> {
    let docs = fs::read_dir(home().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    all.push(home().join("README.md"));
    all.sort();
    assert!(all.len() > 5, "{all:?}");
    all
}

#[test]
fn the_command_line_is_described_as_it_is() {
    let path = home().join(DOCUMENT);
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap_or_else(|| panic!("{DOCUMENT} lacks {BEGIN}"));
    let (found, after) = rest.split_once(END).unwrap_or_else(|| panic!("{DOCUMENT} lacks {END}"));
    let wanted = commands();
    if found == wanted {
        return;
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
        return;
    }
    let wrong: Vec<&str> = wanted.lines().filter(|line| !found.lines().any(|old| old == *line)).collect();
    panic!("{DOCUMENT} is not true any more (UPDATE_EXPECT=1 writes it anew):\n{}", wrong.join("\n"));
}

/// A table of all commands, then each with its words.
fn commands() -> String {
    let mut top = stack::cli::words();
    top.build();
    let mut text = "| command | meaning |\n|---|---|\n".to_owned();
    for command in shown(&top) {
        let title = title(&top, command);
        writeln!(text, "| [`{title}`](#{}) | {} |", anchor(&title), about(command)).unwrap();
    }
    text.push_str("\n## For every command\n\n");
    text.push_str(&arguments(top.get_arguments()));
    let mut known = Vec::new();
    for command in shown(&top) {
        text.push_str(&section(command, &title(&top, command), &mut known));
    }
    text
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

fn title(above: &Command, command: &Command) -> String {
    format!("{} {}", above.get_name(), command.get_name())
}

/// As GitHub makes it of a heading.
fn anchor(title: &str) -> String {
    let kept = title.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn about(command: &Command) -> String {
    let aliases: Vec<String> = command.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
    let also = if aliases.is_empty() { String::new() } else { format!(" (also {})", aliases.join(", ")) };
    cell(&command.get_about().unwrap_or_else(|| panic!("{} says nothing", command.get_name())).to_string()) + &also
}

fn section(command: &Command, title: &str, known: &mut Vec<(String, String)>) -> String {
    let level = "#".repeat(title.split(' ').count());
    let mut text = format!("\n{level} {title}\n\n{}.\n", about(command));
    if command.has_subcommands() {
        for inner in shown(command) {
            text.push_str(&section(inner, &format!("{title} {}", inner.get_name()), known));
        }
        return text;
    }
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").trim();
    let usage = if usage.starts_with("stack") { usage.to_owned() } else { format!("{title} {usage}") };
    let words = arguments(command.get_arguments().filter(|argument| !argument.is_global_set()));
    // Docker's long forms take the same words as the short ones.
    let same = known.iter().find(|(_, other)| *other == words && words.lines().count() > 4);
    if let Some((name, _)) = same
        && name.ends_with(command.get_name())
    {
        writeln!(text, "\nWith the words of [`{name}`](#{}).", anchor(name)).unwrap();
        return text;
    }
    write!(text, "\n```text\n{usage}\n```\n\n{words}").unwrap();
    known.push((title.to_owned(), words));
    if let Some(more) = command.get_after_long_help() {
        let more = more.to_string();
        let (examples, rest) = more.split_once("\n\n").unwrap_or((&more, ""));
        let examples = examples.strip_prefix("Examples:\n").unwrap_or(examples);
        let examples: Vec<&str> = examples.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
        write!(text, "\n```text\n{}\n```\n", examples.join("\n")).unwrap();
        if !rest.is_empty() {
            write!(text, "\n{rest}\n").unwrap();
        }
    }
    text
}

fn arguments<'a>(all: impl Iterator<Item = &'a Arg>) -> String {
    let rows: Vec<String> = all.filter(|one| !one.is_hide_set() && !is_help(one)).map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("| | | default |\n|---|---|---|\n{}", rows.concat())
}

fn is_help(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong)
}

fn row(argument: &Arg) -> String {
    let help = argument.get_help().unwrap_or_else(|| panic!("{} says nothing", argument.get_id()));
    let defaults: Vec<String> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy().into()).collect();
    let takes_values = argument.get_action().takes_values();
    let default =
        if takes_values && !defaults.is_empty() { format!("`{}`", defaults.join(",")) } else { String::new() };
    format!("| {} | {}{} | {default} |\n", spelling(argument, takes_values), cell(&help.to_string()), choices(argument))
}

/// `-f`, `--file FILE`, or the name of a word without a dash.
fn spelling(argument: &Arg, takes_values: bool) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    let value: String = names.iter().map(|name| format!(" {name}")).collect();
    let value = match argument.get_num_args() {
        _ if !takes_values => String::new(),
        Some(count) if count.min_values() == 0 && argument.get_long().is_some() => format!("[={}]", value.trim()),
        _ => value,
    };
    if argument.is_positional() {
        let many = if matches!(argument.get_action(), ArgAction::Append) { "..." } else { "" };
        return format!("`{}{many}`", cell(value.trim()));
    }
    let short = argument.get_short().map(|short| format!("-{short}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let mut spellings: Vec<String> = short.into_iter().chain(long).collect();
    if let Some(last) = spellings.last_mut() {
        last.push_str(&value);
    }
    spellings.iter().map(|spelling| format!("`{}`", cell(spelling))).collect::<Vec<_>>().join(", ")
}

/// The words that it takes, where there are only these.
fn choices(argument: &Arg) -> String {
    let values: Vec<String> =
        argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    let is_flag = !argument.get_action().takes_values();
    if is_flag || values.is_empty() { String::new() } else { format!(": {}", values.join(", ")) }
}

fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}

/// Links to files and headings, and paths of this repository in the text.
#[test]
fn what_documents_point_at_is_there() {
    let mut dead = Vec::new();
    let mut checked = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        let folder = document.parent().unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.contains("://")) {
            checked += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { document.clone() } else { folder.join(file) };
            if !target.exists() || (!heading.is_empty() && !has_heading(&target, heading)) {
                dead.push(format!("{}: {link}", document.display()));
            }
        }
        let is_path = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
        for word in text.split(|c| !is_path(c)).map(|word| word.trim_end_matches('.')) {
            let ours = ["src/", "tests/", "docs/", "examples/", "benches/"];
            if ours.iter().any(|room| word.starts_with(room)) {
                checked += 1;
                if !home().join(word).exists() {
                    dead.push(format!("{}: {word}", document.display()));
                }
            }
        }
    }
    assert!(dead.is_empty(), "these are not there:\n{}", dead.join("\n"));
    assert!(checked > 40, "{checked}");
}

fn has_heading(file: &Path, wanted: &str) -> bool {
    let text = fs::read_to_string(file).unwrap();
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).any(|found| found == wanted)
}

/// Blocks marked `yaml` and `toml` are whole stacks; `toml images.toml`, `toml networks.toml` and `toml stack.lock` are those
/// files; a fragment says that it is one.
#[test]
fn files_that_documents_show_are_valid() {
    let mut stacks = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for block in text.split("\n```").skip(1).step_by(2) {
            let (kind, content) = block.split_once('\n').unwrap_or((block, ""));
            let world = World::new();
            // What the files name beside them.
            world.file("web.tar", "");
            world.file("tools/bin/sh", "");
            world.file("app/Dockerfile", "FROM builtin:whoami\n");
            let checked = match kind {
                "yaml" => world.run(&["validate", world.file("stack.yaml", content).to_str().unwrap()]),
                "toml" => world.run(&["validate", world.file("stack.toml", content).to_str().unwrap()]),
                "toml images.toml" => {
                    world.file("etc/stack/images.toml", content);
                    world.run(&["--etc", world.directory.join("etc").to_str().unwrap(), "image", "verify"])
                }
                "toml networks.toml" => {
                    world.file("etc/stack/networks.toml", content);
                    let etc = world.directory.join("etc");
                    let made = world.run(&["--etc", etc.to_str().unwrap(), "network", "create", "--ipv6", "shown"]);
                    world.ok(&["network", "rm", "shown"]);
                    made
                }
                "toml stack.lock" => {
                    world.file("stack.lock", content);
                    world.file("stack.yaml", "containers: {web: {image: \"nginx:1.27\"}}\n");
                    world.run(&["plan", "--locked"])
                }
                other => {
                    assert!(!other.contains("yaml") || other.contains("fragment"), "{}: {other}", document.display());
                    continue;
                }
            };
            assert_eq!(checked.code, 0, "{}: {checked:#?}\n{content}", document.display());
            stacks += 1;
        }
    }
    assert!(stacks >= 2, "{stacks}");
}
