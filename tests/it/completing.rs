//! Completion in the shells themselves: bash, zsh and fish load their scripts, and offer commands, flags, words and names
//! of what there is.

use std::process::{Command, Stdio};

use crate::support::World;

/// What this shell does with a script, with `stack` in its PATH.
fn shell(world: &World, program: &str, words: &[&str]) -> String {
    let programs = world.directory.join("bin");
    if !programs.exists() {
        std::fs::create_dir(&programs).unwrap();
        std::os::unix::fs::symlink(&world.roots.program, programs.join("stack")).unwrap();
    }
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(program);
    command.args(words).current_dir(&world.directory).env("PATH", path).env("HOME", &world.directory);
    command.env("STACK_ROOT", &world.roots.root).env("STACK_RUN_ROOT", &world.roots.run).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("Debian's package {program}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && error.is_empty(), "{program} {words:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// What the shell offers at the end of the line, a candidate a line.
type Offer<'a> = Box<dyn Fn(&str) -> Vec<String> + 'a>;

fn lines(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn bash<'a>(world: &'a World, script: &'a str) -> Offer<'a> {
    Box::new(move |line| {
        let test = format!(
            "set -eu; . {script}; complete -p stack | grep -q _stack; COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; \
             _stack; for one in \"${{COMPREPLY[@]}}\"; do echo \"$one\"; done"
        );
        lines(&shell(world, "bash", &["--norc", "-c", &test]))
    })
}

/// Only what shows the candidates is ours here: the rest of zsh's completion works within its line editor alone.
fn zsh<'a>(world: &'a World, script: &'a str) -> Offer<'a> {
    Box::new(move |line| {
        let test = format!(
            "autoload -Uz compinit; compinit -u -D; source {script}; [[ $_comps[stack] == _stack ]] || exit 9
             _describe() {{ for one in \"${{(@P)2}}\"; do one=\"${{one//\\\\:/;}}\"; print -r -- \"${{${{one%%:*}}//;/:}}\"; done }}
             compadd() {{ print -l -- \"${{(@P)4}}\" }}; _files() {{ ls }}
             line='{line}'; words=(\"${{(@s: :)line}}\"); CURRENT=${{#words}}; _stack"
        );
        lines(&shell(world, "zsh", &["-f", "-c", &test]))
    })
}

fn fish<'a>(world: &'a World, script: &'a str) -> Offer<'a> {
    Box::new(move |line| {
        let test = format!("source {script}; complete -C '{line}'");
        let found = lines(&shell(world, "fish", &["--no-config", "-c", &test]));
        found.into_iter().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    })
}

#[test]
fn shells_offer_commands_flags_and_what_there_is() {
    let world = World::new();
    let file =
        world.file("stack.yaml", "name: shop\ncontainers: {web: {image: \"builtin:whoami\", network_mode: none}}\n");
    world.ok(&["apply", file.to_str().unwrap()]);
    world.ok(&["volume", "create", "data"]);
    let script = |shell: &str| world.file(shell, &world.ok(&["completion", shell])).display().to_string();
    let scripts = ["bash", "zsh", "fish"].map(script);
    let offers = [bash(&world, &scripts[0]), zsh(&world, &scripts[1]), fish(&world, &scripts[2])];
    for (shell, offer) in ["bash", "zsh", "fish"].into_iter().zip(&offers) {
        for (line, expected) in [
            ("stack app", &["apply"][..]),
            ("stack volume cr", &["create"]),
            ("stack apply --pro", &["--project-name", "--profile"]),
            ("stack apply --pull a", &["always"]),
            ("stack exec shop-w", &["shop-web-1"]),
            ("stack logs -f sho", &["shop", "shop-web-1"]),
            ("stack stop we", &["web"]),
            ("stack stop -t 5 we", &["web"]),
            ("stack volume rm d", &["data"]),
            ("stack run --rm builtin:wh", if shell == "bash" { &["whoami"] } else { &["builtin:whoami"] }),
            ("stack destroy sh", &["shop"]),
            ("stack completion z", &["zsh"]),
            ("stack rename shop-web-1 we", &[]),
            ("stack validate stac", &["stack.yaml"]),
            ("stack cp sho", &["shop-web-1:"]),
            ("stack exec shop-web-1 sho", &[]),
        ] {
            let mut found = offer(line);
            // Our stand-in for zsh's own function for files is given no word.
            found.retain(|one| shell != "zsh" || one.starts_with(line.rsplit(' ').next().unwrap()));
            found.sort();
            let mut expected = expected.to_vec();
            expected.sort_unstable();
            assert_eq!(found, expected, "{shell}: {line}");
        }
        let commands = offer("stack ");
        assert!(commands.iter().any(|one| one == "up") && commands.len() > 45, "{shell}: {commands:?}");
        assert!(!commands.contains(&"complete".to_owned()));
    }
    world.ok(&["destroy", "shop"]);
    world.ok(&["volume", "rm", "data"]);
}
