//! The command line: arguments, one file a command, views.
//!
//! Standard output carries data, standard error progress and diagnostics. Exit codes are part of the contract: 0 done,
//! 1 failed, 2 changes pending or drifted where asked; `run` and `exec` pass on the container's, with docker's
//! 125, 126 and 127. The environment is read here and nowhere else.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

mod args;
mod failure;
mod options;
mod view;

use args::{Arguments, Command};
use failure::Failure;

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

/// `WORD --root DIR --run-root DIR [NAME]`, which only this program itself types.
fn role(words: &[OsString]) -> Option<ExitCode> {
    let word = words.get(1)?.to_str()?;
    let roots = || Some(Roots::new(words.get(3)?, words.get(5)?));
    match word {
        "shim" => Some(shim::main(&roots()?, words.get(6)?.to_str()?)),
        _ => None,
    }
}

fn command(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "stack", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(Failure::new("this command is not wired yet")),
    }
}
