//! The command line: arguments, one file a command, views.
//!
//! Standard output carries data, standard error progress and diagnostics. Exit codes are part of the contract: 0 done,
//! 1 failed, 2 changes pending or drifted where asked; `run` and `exec` pass on the container's, with docker's
//! 125, 126 and 127. The environment is read here and nowhere else.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

mod args;
mod bars;
mod build;
mod containers;
mod converge;
mod doctor;
mod failure;
mod images;
mod logs;
mod objects;
mod options;
mod progress;
mod run;
mod stack_file;
mod terminal;
mod validate;
mod view;
mod watch;

use args::{Arguments, Command};
use failure::Failure;

use crate::runtime::network::netd;
use crate::runtime::roots::Roots;
use crate::runtime::shim;

/// Runs the program. The first word chooses: an internal role (the shim, the network helper) or a command for people.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = role(&words) {
        return code;
    }
    let arguments = match Arguments::try_parse_from(&words) {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    start_log(arguments.global.verbose);
    match command(arguments) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// Wrong usage of `run` and `exec` exits 125 as docker's does, so that 1 is always the container's own.
fn usage(error: &clap::Error) -> ExitCode {
    let printed = error.print();
    let in_container = std::env::args_os().nth(1).is_some_and(|word| word == "run" || word == "exec");
    match (printed.is_ok(), error.use_stderr()) {
        (true, false) => ExitCode::SUCCESS,
        _ if in_container => ExitCode::from(125),
        _ => ExitCode::FAILURE,
    }
}

/// `-v` shows what is decided, `-vv` each effect; `RUST_LOG` wins over both.
fn start_log(verbose: u8) {
    let level = ["warn", "info", "debug"][usize::from(verbose.min(2))];
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time();
    // A second logger can't be set; the program has just begun, so there is none.
    drop(log.try_init());
}

/// `WORD --root DIR --run-root DIR [NAME or DESCRIPTOR]`, which only this program itself types.
fn role(words: &[OsString]) -> Option<ExitCode> {
    let word = words.get(1)?.to_str()?;
    let roots = || Some(Roots::new(words.get(3)?, words.get(5)?));
    match word {
        "netd" => Some(netd::main(&roots()?, words.get(6).and_then(|word| word.to_str()?.parse().ok()))),
        "shim" => Some(shim::main(&roots()?, words.get(6)?.to_str()?)),
        _ => None,
    }
}

fn command(arguments: Arguments) -> Result<ExitCode, Failure> {
    let mut roots = Roots::new(absolute(&arguments.global.root)?, absolute(&arguments.global.run_root)?);
    roots.etc = absolute(&arguments.global.etc)?;
    let roots = &roots;
    match &arguments.command {
        Command::Apply(arguments) => converge::apply(roots, arguments),
        Command::Plan(arguments) => converge::plan(roots, arguments),
        Command::Destroy(arguments) => converge::destroy(roots, arguments),
        Command::Status(arguments) => converge::status(roots, arguments),
        Command::Watch(arguments) => watch::watch(roots, arguments),
        Command::Validate(arguments) => validate::validate(arguments),
        Command::Ps(arguments) => containers::ps(roots, arguments),
        Command::Logs(arguments) => logs::logs(roots, arguments),
        Command::Exec(arguments) => run::exec(roots, arguments),
        Command::Run(arguments) => run::run(roots, arguments),
        Command::Start(arguments) => containers::start(roots, arguments),
        Command::Stop(arguments) => containers::stop(roots, arguments),
        Command::Restart(arguments) => containers::restart(roots, arguments),
        Command::Kill(arguments) => containers::kill(roots, arguments),
        Command::Rm(arguments) => containers::rm(roots, arguments),
        Command::Wait(arguments) => containers::wait(roots, arguments),
        Command::Pause(arguments) => containers::pause(roots, arguments),
        Command::Unpause(arguments) => containers::unpause(roots, arguments),
        Command::Top(arguments) => containers::top(roots, &arguments.name),
        Command::Stats(arguments) => containers::stats(roots, arguments),
        Command::Inspect(arguments) => objects::inspect(roots, arguments, &objects::ALL_KINDS),
        Command::Build(arguments) => build::build(roots, arguments),
        Command::Pull(arguments) => images::pull(roots, arguments),
        Command::Push(arguments) => images::push(roots, arguments),
        Command::Images(arguments) => images::images(roots, arguments),
        Command::Rmi(arguments) => images::rmi(roots, arguments),
        Command::Tag { image, name } => images::tag(roots, image, name),
        Command::History { image, format } => images::history(roots, image, format.format),
        Command::Save(arguments) => images::save(roots, arguments),
        Command::Load(arguments) => images::load(roots, arguments),
        Command::Import { source, name } => images::import(roots, source, name),
        Command::Export(arguments) => images::export(roots, arguments),
        Command::Login(arguments) => images::login(roots, arguments),
        Command::Logout { server } => images::logout(server.as_deref()),
        Command::Image(command) => images::image(roots, command),
        Command::Registry(command) => images::registry(roots, command),
        Command::Network(command) => objects::networks(roots, command),
        Command::Volume(command) => objects::volumes(roots, command),
        Command::System(command) => objects::system(roots, command),
        Command::Doctor(arguments) => doctor::doctor(arguments),
        Command::Completion { shell } => {
            clap_complete::generate(*shell, &mut Arguments::command(), "stack", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Version(arguments) => version(arguments),
    }
}

/// The supervisor works elsewhere: a relative root would mean another directory to it.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    Ok(std::path::absolute(path)?)
}

fn version(arguments: &args::List) -> Result<ExitCode, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match arguments.format.format {
        args::Format::Json => view::json(&serde_json::json!({"version": version}))?,
        args::Format::Table => view::out(&format!("stack {version}\n"))?,
    }
    Ok(ExitCode::SUCCESS)
}
