//! The command line: arguments, one file a command, views.
//!
//! Standard output carries data, standard error progress and diagnostics. Exit codes are part of the contract: 0 done,
//! 1 failed, 2 changes pending or drifted where asked; `run` and `exec` pass on the container's, with docker's
//! 125, 126 and 127. The environment is read here and nowhere else.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory;

mod args;
mod bars;
mod boot;
mod build;
mod completion;
mod config;
mod connecting;
mod containers;
mod converge;
mod copy;
mod display;
mod doctor;
mod events;
mod exec;
mod exposing;
mod failure;
mod filter;
mod format;
mod history;
mod images;
mod inspect;
mod kept;
mod kept_objects;
mod lock;
mod logs;
mod names;
mod networks;
mod oci_runtime;
mod options;
mod places;
mod plugins;
mod progress;
mod prune;
mod ps;
mod registries;
mod rootless;
mod run;
mod stack_file;
mod stats;
mod system;
mod terminal;
mod top;
mod validate;
mod view;
mod volumes;
mod watch;

use args::{Arguments, Command, ConfigArguments, ContainerCommand, FileArguments, Global};
use failure::Failure;
use names::Here;

use crate::runtime::container::aside;
use crate::runtime::network::netd;
use crate::runtime::rootless::holder;
use crate::runtime::roots::Roots;
use crate::runtime::{objects, shim, sys};

/// Runs the program. The first word chooses: an internal role (the shim, the network helper) or a command for people.
pub fn main() -> ExitCode {
    sys::share_heap();
    let words: Vec<OsString> = std::env::args_os().collect();
    let (inside, words) = rootless::inside(words);
    if let Some(code) = role(&words).or_else(|| oci_runtime::role(&words)) {
        return code;
    }
    let arguments = match Arguments::of(&words) {
        Ok(arguments) => arguments,
        Err(error) => return usage(&words, &error),
    };
    start_log(arguments.global.verbose.max(arguments.command.verbose()));
    match command(arguments, &words, inside) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// Every word of the command line, for who describes it: `docs/cli.md` is made from this.
pub fn words() -> clap::Command {
    Arguments::command().mut_subcommand("oci-runtime", |_| oci_runtime::words().name("oci-runtime"))
}

/// Wrong usage of `run`, `create` and `exec` exits 125 as docker's does, so that 1 is always the container's own.
fn usage(words: &[OsString], error: &clap::Error) -> ExitCode {
    let typed = typed(words).unwrap_or_default();
    if typed == "compose" {
        let help = "there is no `compose` in between: `stack up`, `stack logs -f`, `stack down`";
        return Failure::new(format!("no command \"compose\"\n  help: {help}")).report();
    }
    let printed = error.print();
    match (printed.is_ok(), error.use_stderr()) {
        (_, false) => ExitCode::SUCCESS,
        _ if ["run", "create", "exec"].contains(&typed.as_str()) => ExitCode::from(125),
        _ => ExitCode::FAILURE,
    }
}

/// The command that was typed, as far as can be told of a line that may be wrong; `container run` is `run`.
fn typed(words: &[OsString]) -> Option<String> {
    let mut rest = words.iter().skip(1).filter_map(|word| word.to_str());
    while let Some(word) = rest.next() {
        match word {
            "--root" | "--run-root" | "--etc" | "-f" | "--file" | "-p" | "--project-name" | "--profile"
            | "--env-file" => {
                rest.next();
            }
            "container" => {}
            word if word.starts_with('-') => {}
            word => return Some(word.to_owned()),
        }
    }
    None
}

/// `-v` shows what is decided, `-vv` each effect; `RUST_LOG` wins over both. That a watched directory has gone is no news:
/// containers come and go.
fn start_log(verbose: u8) {
    let level = ["warn", "info", "debug"][usize::from(verbose.min(2))];
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("{level},notify=error")));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(view::color());
    let log = log.without_time();
    // A second logger can't be set; the program has just begun, so there is none.
    drop(log.try_init());
}

/// `WORD --root DIR --run-root DIR [NAME or DESCRIPTOR [MORE]]`, which only this program itself types.
fn role(words: &[OsString]) -> Option<ExitCode> {
    let word = words.get(1)?.to_str()?;
    let roots = || Some(Roots::new(words.get(3)?, words.get(5)?));
    match word {
        exec::READER if words.len() == 2 => Some(exec::read_to_end()),
        "netd" => Some(netd::main(&roots()?, words.get(6).is_some_and(|word| word == netd::HEIR))),
        "aside" => Some(aside::main(&roots()?, words.get(6)?.to_str()?)),
        "shim" => {
            let further = words.get(7).and_then(|word| word.to_str());
            Some(shim::main(&roots()?, words.get(6)?.to_str()?, further))
        }
        "holder" => Some(holder::main(&roots()?, std::env::var_os("PATH"))),
        _ => None,
    }
}

fn command(mut arguments: Arguments, words: &[OsString], inside: Option<Roots>) -> Result<ExitCode, Failure> {
    let word = typed(words).unwrap_or_default();
    let global = &arguments.global;
    let place = |named: &Option<PathBuf>, variable: &str, usual: &Path| {
        let from_environment = || std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        // The supervisor works elsewhere: a relative root would mean another directory to it.
        std::path::absolute(named.clone().or_else(from_environment).unwrap_or_else(|| usual.into()))
    };
    let usual = rootless::usual_places();
    let root = place(&global.root, "STACK_ROOT", &usual.root)?;
    let run = place(&global.run_root, "STACK_RUN_ROOT", &usual.run)?;
    let mut roots = inside.clone().unwrap_or_else(|| Roots::new(root, run));
    roots.etc = place(&global.etc, "STACK_ETC", Path::new("/etc"))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    roots.programs.splice(0..0, std::env::split_paths(&path).filter(|folder| folder.is_absolute()));
    if let Some(file) = arguments.command.file() {
        before_the_command(global, file);
    }
    if needs_root(&arguments.command) && !nix::unistd::geteuid().is_root() {
        rootless::enter(&roots, words, &word, global.quiet)?;
    }
    let here = Here::new(FileArguments {
        more_files: global.files.clone(),
        project_name: global.project_name.clone(),
        profile: global.profile.clone(),
        env_file: global.env_file.clone(),
        ..FileArguments::default()
    });
    dispatch(&roots, &here, &arguments.command, global.quiet)
}

/// `stack -f FILE -p NAME up`, as Compose has it.
fn before_the_command(global: &Global, file: &mut FileArguments) {
    file.more_files.splice(0..0, global.files.iter().cloned());
    file.profile.splice(0..0, global.profile.iter().cloned());
    file.env_file.splice(0..0, global.env_file.iter().cloned());
    if let Some(name) = &global.project_name {
        file.project_name = Some(name.clone());
    }
}

/// Containers, mounts and firewall rules are root's, and so is all that is written down about them: of the host, or of
/// a user namespace.
fn needs_root(command: &Command) -> bool {
    !matches!(
        command,
        Command::Validate(_)
            | Command::Config(ConfigArguments { kept: None, .. })
            | Command::Schema
            | Command::Login(_)
            | Command::Logout { .. }
            | Command::Doctor(_)
            | Command::Completion { .. }
            | Command::Complete { .. }
            | Command::Version(_)
    )
}

fn dispatch(roots: &Roots, here: &Here, command: &Command, quiet: bool) -> Result<ExitCode, Failure> {
    match command {
        Command::Apply(arguments) => converge::apply(roots, arguments),
        Command::Plan(arguments) => converge::plan(roots, arguments),
        Command::Destroy(arguments) => converge::destroy(roots, arguments),
        Command::Status(arguments) => converge::status(roots, arguments),
        Command::Watch(arguments) => watch::watch(roots, arguments, quiet),
        Command::Validate(arguments) => validate::validate(arguments),
        Command::Config(arguments) => match &arguments.kept {
            Some(command) => kept_objects::command(roots, objects::Kind::Config, command),
            None => config::config(arguments),
        },
        Command::Schema => config::schema(),
        Command::Run(arguments) => run::run(roots, arguments),
        Command::Create(arguments) => run::create(roots, arguments),
        Command::Exec(arguments) => exec::exec(roots, here, arguments),
        Command::Attach(arguments) => run::attach(roots, here, arguments),
        Command::Ps(arguments) => ps::ps(roots, arguments),
        Command::Logs(arguments) => logs::logs(roots, here, arguments),
        Command::Stats(arguments) => stats::stats(roots, here, arguments),
        Command::Top(arguments) => top::top(roots, here, arguments),
        Command::Port(arguments) => containers::port(roots, here, arguments),
        Command::Inspect(arguments) => inspect::inspect(roots, arguments),
        Command::Events(arguments) => events::events(roots, arguments),
        Command::Start(arguments) => containers::start(roots, here, arguments),
        Command::Stop(arguments) => containers::stop(roots, here, arguments),
        Command::Restart(arguments) => containers::restart(roots, here, arguments),
        Command::Kill(arguments) => containers::kill(roots, here, arguments),
        Command::Pause(arguments) => containers::pause(roots, here, arguments),
        Command::Unpause(arguments) => containers::unpause(roots, here, arguments),
        Command::Wait(arguments) => containers::wait(roots, here, arguments),
        Command::Rename(arguments) => containers::rename(roots, here, arguments),
        Command::Update(arguments) => containers::update(roots, here, arguments),
        Command::Diff(arguments) => diff(roots, here, arguments),
        Command::Cp(arguments) => copy::cp(roots, here, arguments),
        Command::Rm(arguments) => containers::rm(roots, here, arguments),
        Command::Build(arguments) => build::build(roots, arguments),
        Command::Pull(arguments) => registries::pull(roots, arguments),
        Command::Push(arguments) => registries::push(roots, arguments),
        Command::Images(arguments) => images::list(roots, arguments),
        Command::Rmi(arguments) => images::rm(roots, arguments),
        Command::Tag(arguments) => images::tag(roots, arguments),
        Command::History(arguments) => history_of(roots, here, arguments),
        Command::Rollback(arguments) => history::rollback(roots, here, arguments),
        Command::Why(arguments) => history::why(roots, here, arguments),
        Command::Save(arguments) => images::save(roots, arguments),
        Command::Load(arguments) => images::load(roots, arguments),
        Command::Import(arguments) => images::import(roots, arguments),
        Command::Export(arguments) => images::export(roots, arguments),
        Command::Commit(arguments) => images::commit(roots, here, arguments),
        Command::Login(arguments) => registries::login(roots, arguments),
        Command::Logout { server } => registries::logout(server.as_deref()),
        Command::Registry(command) => registries::command(roots, command),
        Command::Container(command) => container(roots, here, command),
        Command::Image(command) => images::command(roots, command),
        Command::Network(command) => networks::command(roots, command),
        Command::Volume(command) => volumes::command(roots, command),
        Command::Secret(command) => kept_objects::command(roots, objects::Kind::Secret, command),
        Command::Plugin(command) => plugins::command(roots, command),
        Command::System(command) => system::command(roots, command),
        Command::Doctor(arguments) => doctor::doctor(roots, arguments),
        Command::Completion { shell } => completion::script(*shell),
        Command::Complete { words } => completion::complete(roots, &self::words(), words),
        Command::OciRuntime { .. } => Err(Failure::new("`oci-runtime` must be the first word: `stack oci-runtime …`")),
        Command::Version(arguments) => system::version(roots, arguments),
    }
}

/// Of an image, as docker has it, or of a stack.
fn history_of(roots: &Roots, here: &Here, arguments: &args::History) -> Result<ExitCode, Failure> {
    match arguments.name {
        Some(_) => images::history(roots, arguments),
        None => history::history(roots, here, arguments),
    }
}

/// Of a container, as docker has it, or of two generations of a stack.
fn diff(roots: &Roots, here: &Here, arguments: &args::Diff) -> Result<ExitCode, Failure> {
    let Some(new) = arguments.with else { return containers::diff(roots, here, arguments) };
    let wrong = || {
        Failure::new(format!(
            "{:?} is not the number of a generation\n  help: `stack history` lists them",
            arguments.name
        ))
    };
    history::diff(roots, here, (arguments.name.parse().map_err(|_| wrong())?, new), &arguments.format.format)
}

/// `stack container …`, docker's long forms.
fn container(roots: &Roots, here: &Here, command: &ContainerCommand) -> Result<ExitCode, Failure> {
    match command {
        ContainerCommand::Ls(arguments) => ps::ps(roots, arguments),
        ContainerCommand::Run(arguments) => run::run(roots, arguments),
        ContainerCommand::Create(arguments) => run::create(roots, arguments),
        ContainerCommand::Exec(arguments) => exec::exec(roots, here, arguments),
        ContainerCommand::Attach(arguments) => run::attach(roots, here, arguments),
        ContainerCommand::Logs(arguments) => logs::logs(roots, here, arguments),
        ContainerCommand::Stats(arguments) => stats::stats(roots, here, arguments),
        ContainerCommand::Top(arguments) => top::top(roots, here, arguments),
        ContainerCommand::Port(arguments) => containers::port(roots, here, arguments),
        ContainerCommand::Inspect(arguments) => inspect::one_kind(roots, arguments, inspect::Kind::Container),
        ContainerCommand::Start(arguments) => containers::start(roots, here, arguments),
        ContainerCommand::Stop(arguments) => containers::stop(roots, here, arguments),
        ContainerCommand::Restart(arguments) => containers::restart(roots, here, arguments),
        ContainerCommand::Kill(arguments) => containers::kill(roots, here, arguments),
        ContainerCommand::Pause(arguments) => containers::pause(roots, here, arguments),
        ContainerCommand::Unpause(arguments) => containers::unpause(roots, here, arguments),
        ContainerCommand::Wait(arguments) => containers::wait(roots, here, arguments),
        ContainerCommand::Rename(arguments) => containers::rename(roots, here, arguments),
        ContainerCommand::Update(arguments) => containers::update(roots, here, arguments),
        ContainerCommand::Diff(arguments) => containers::diff(roots, here, arguments),
        ContainerCommand::Commit(arguments) => images::commit(roots, here, arguments),
        ContainerCommand::Cp(arguments) => copy::cp(roots, here, arguments),
        ContainerCommand::Rm(arguments) => containers::rm(roots, here, arguments),
        ContainerCommand::Prune(arguments) => prune::containers(roots, arguments),
    }
}
