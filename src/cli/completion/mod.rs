//! Completion: a small script for each shell, which asks the hidden command `complete` what may stand at the cursor. So
//! names of containers, images, networks and volumes are offered as they are now.

use std::process::ExitCode;

use clap::{Arg, ArgAction, Command, ValueEnum};

use super::failure::Failure;
use super::view;
use crate::reconcile::resource::label;
use crate::runtime::image::Store;
use crate::runtime::roots::Roots;
use crate::runtime::{container, network, volume};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script that makes a shell ask.
pub fn script(shell: Shell) -> Result<ExitCode, Failure> {
    view::out(match shell {
        Shell::Bash => include_str!("stack.bash"),
        Shell::Zsh => include_str!("stack.zsh"),
        Shell::Fish => include_str!("stack.fish"),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what may stand in place of the last word: a candidate a line, with a tab and what it means; `:files` asks for
/// the shell's own names of files.
pub fn complete(roots: &Roots, top: &Command, words: &[String]) -> Result<ExitCode, Failure> {
    let (last, before) = words.split_last().map_or(("", words), |(last, before)| (last.as_str(), before));
    let offered = match place(top, before, last) {
        Place::Nothing => Vec::new(),
        Place::Flags(command) => flags(command),
        Place::Commands(command) => subcommands(command),
        Place::Value { argument, path, prefix } => {
            let values = values(roots, argument, &path);
            values.into_iter().map(|(value, about)| (format!("{prefix}{value}"), about)).collect()
        }
    };
    let fits = |value: &str| value.starts_with(last) || value.ends_with(FILES);
    let lines = offered.iter().filter(|(value, _)| fits(value)).map(|(value, about)| match value.ends_with(FILES) {
        true => format!("{FILES}\n"),
        false => format!("{value}\t{}\n", about.lines().next().unwrap_or_default()),
    });
    view::out(&lines.collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

const FILES: &str = ":files";

/// What the cursor stands at.
enum Place<'a> {
    Nothing,
    Flags(&'a Command),
    Commands(&'a Command),
    Value { argument: &'a Arg, path: Vec<&'a str>, prefix: String },
}

/// Follows the words as clap reads them.
fn place<'a>(top: &'a Command, before: &[String], last: &str) -> Place<'a> {
    let (mut command, mut path) = (top, vec![top.get_name()]);
    let (mut position, mut awaits, mut only_words) = (0_usize, None::<&'a Arg>, false);
    for word in before {
        let own = positional(command, position);
        if awaits.take().is_some() {
        } else if word == "--" {
            only_words = true;
        } else if !only_words && word.starts_with('-') && word.len() > 1 {
            awaits = flag(top, command, word).filter(|argument| takes_next_word(argument) && !word.contains('='));
        } else if let Some(inner) = command.find_subcommand(word).filter(|_| position == 0) {
            (command, position) = (inner, 0);
            path.push(inner.get_name());
        } else {
            position += 1;
            // What follows the image or the container is the program's own.
            only_words |= own.is_some_and(Arg::is_trailing_var_arg_set);
        }
    }
    let value =
        |argument: &'a Arg, prefix: &str| Place::Value { argument, path: path.clone(), prefix: prefix.to_owned() };
    if let Some(argument) = awaits {
        return value(argument, "");
    }
    if !only_words && last.starts_with('-') {
        return match last.split_once('=').and_then(|(name, _)| Some((name, flag(top, command, name)?))) {
            Some((name, argument)) => value(argument, &format!("{name}=")),
            None => Place::Flags(command),
        };
    }
    match positional(command, position) {
        Some(argument) if !(argument.is_trailing_var_arg_set() && position > 0) => value(argument, ""),
        None if command.has_subcommands() => Place::Commands(command),
        _ => Place::Nothing,
    }
}

/// The argument of this place; the last one where it takes several words.
fn positional(command: &Command, position: usize) -> Option<&Arg> {
    let all: Vec<&Arg> = command.get_positionals().collect();
    let last = all.last().filter(|last| matches!(last.get_action(), ArgAction::Append));
    all.get(position).or(last).copied()
}

/// `--name`, `--name=value`, or the last of `-abc`.
fn flag<'a>(top: &'a Command, command: &'a Command, word: &str) -> Option<&'a Arg> {
    let mut all = command.get_arguments().chain(top.get_arguments());
    match word.strip_prefix("--") {
        Some(long) => {
            let long = long.split('=').next().unwrap_or_default();
            all.find(|argument| {
                argument.get_long() == Some(long)
                    || argument.get_all_aliases().is_some_and(|aliases| aliases.contains(&long))
            })
        }
        None => {
            let short = word.chars().next_back()?;
            all.find(|argument| argument.get_short() == Some(short))
        }
    }
}

fn takes_next_word(argument: &Arg) -> bool {
    argument.get_action().takes_values() && argument.get_num_args().is_none_or(|count| count.min_values() > 0)
}

fn flags(command: &Command) -> Vec<(String, String)> {
    let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
    let longs = shown.filter_map(|argument| Some((format!("--{}", argument.get_long()?), help(argument))));
    longs.chain([("--help".to_owned(), "Print help".to_owned())]).collect()
}

fn help(argument: &Arg) -> String {
    argument.get_help().map(ToString::to_string).unwrap_or_default()
}

fn subcommands(command: &Command) -> Vec<(String, String)> {
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set());
    let names = |one: &'_ Command| -> Vec<(String, String)> {
        let about = one.get_about().map(ToString::to_string).unwrap_or_default();
        let names = one.get_visible_aliases().chain([one.get_name()]);
        names.map(|name| (name.to_owned(), about.clone())).collect()
    };
    shown.flat_map(names).collect()
}

/// What may be given: one of a few words, the name of something that there is, or a file.
fn values(roots: &Roots, argument: &Arg, path: &[&str]) -> Vec<(String, String)> {
    let words = argument.get_possible_values();
    if !words.is_empty() {
        let about = |word: &clap::builder::PossibleValue| word.get_help().map(ToString::to_string).unwrap_or_default();
        return words.iter().map(|word| (word.get_name().to_owned(), about(word))).collect();
    }
    let name = argument.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect::<String>();
    let files = || vec![(FILES.to_owned(), String::new())];
    let of_group = path.get(1).copied().unwrap_or_default();
    match (name.as_str(), of_group) {
        (_, "network") | ("NETWORK", _) => networks(roots),
        (_, "volume") => volumes(roots),
        ("NAME" | "IMAGE" | "NAME[:TAG]", "image") | ("IMAGE" | "IMAGE [COMMAND] [ARG]" | "NAME[:TAG]", _) => {
            images(roots)
        }
        ("SOURCE|-" | "TARGET|-", _) => {
            let with_colon = |(name, about)| (format!("{name}:"), about);
            containers(roots, &[]).into_iter().map(with_colon).chain(files()).collect()
        }
        ("FILE|DIR|-" | "FILE" | "DIR" | "CONTEXT|-" | "FILE|NAME", "destroy") => {
            stacks(roots).into_iter().chain(files()).collect()
        }
        ("NAME", "inspect") => [containers(roots, &[]), images(roots), networks(roots), volumes(roots)].concat(),
        ("NAME", "logs" | "start" | "stop" | "restart" | "kill" | "update" | "stats") if argument.is_positional() => {
            containers(roots, &[label::SERVICE, label::STACK])
        }
        ("NEW", _) => Vec::new(),
        ("CONTAINER" | "CONTAINER COMMAND [ARG]", _) => containers(roots, &[label::SERVICE]),
        ("NAME", _) if argument.is_positional() => containers(roots, &[label::SERVICE]),
        (name, _) if ["FILE", "DIR", "CONTEXT"].iter().any(|word| name.contains(word)) => files(),
        _ => Vec::new(),
    }
}

/// Names of containers, and what they have as these labels. What can't be read is not offered.
fn containers(roots: &Roots, labels: &[&str]) -> Vec<(String, String)> {
    let all = container::list(roots).unwrap_or_default();
    let mut offered: Vec<(String, String)> =
        all.iter().map(|one| (one.config.name.clone(), one.config.image.clone())).collect();
    for key in labels {
        let word = if *key == label::STACK { "stack" } else { "service" };
        let values = all.iter().filter_map(|one| one.config.labels.get(*key));
        offered.extend(values.map(|value| (value.clone(), word.to_owned())));
    }
    offered.sort();
    offered.dedup_by(|one, other| one.0 == other.0);
    offered
}

fn stacks(roots: &Roots) -> Vec<(String, String)> {
    let all = container::list(roots).unwrap_or_default();
    let mut names: Vec<_> = all.iter().filter_map(|one| one.config.labels.get(label::STACK).cloned()).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(|name| (name, "stack".to_owned())).collect()
}

fn images(roots: &Roots) -> Vec<(String, String)> {
    let names = Store::open(roots).names().unwrap_or_default().into_iter().map(|(name, _)| name);
    let builtin = "builtin:whoami".to_owned();
    let mut names: Vec<String> = names.chain([builtin]).filter(|name| !name.starts_with('<')).collect();
    names.sort();
    names.dedup();
    // As people write them.
    let short = |name: String| match name.strip_prefix("docker.io/library/").or(name.strip_prefix("docker.io/")) {
        Some(short) => short.to_owned(),
        None => name,
    };
    names.into_iter().map(|name| (short(name), "image".to_owned())).collect()
}

fn networks(roots: &Roots) -> Vec<(String, String)> {
    let all = network::list(roots).unwrap_or_default();
    all.into_iter().map(|one| (one.config.name, "network".to_owned())).collect()
}

fn volumes(roots: &Roots) -> Vec<(String, String)> {
    let all = volume::list(roots).unwrap_or_default();
    all.into_iter().map(|one| (one.config.name, "volume".to_owned())).collect()
}
