//! `stack oci-runtime`: the program as an OCI runtime for other engines, with runc's command line, exit codes and log.
//! What is said here is done by [`crate::runtime::bundle`].

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory;
use serde_json::Value;

mod args;
mod example;
mod log;
mod processes;
mod show;
mod update;

use args::{OciCommand, OciRuntime};

use crate::runtime::bundle::{self, Room};

/// The name under which the program is this without being told.
const NAME: &str = "stack-oci-runtime";

/// What went wrong, and the code to exit with.
#[derive(Debug)]
struct Failure {
    message: String,
    code: u8,
}

impl<E: Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { message: error.to_string(), code: 1 }
    }
}

type Done = Result<ExitCode, Failure>;

/// Every word of it, for who describes the command line.
pub fn words() -> clap::Command {
    OciRuntime::command()
}

/// Runs it, where the words ask for it.
pub fn role(words: &[OsString]) -> Option<ExitCode> {
    let name = words.first().and_then(|word| Path::new(word).file_name());
    let rest = match words.get(1) {
        Some(word) if word == OsStr::new("oci-runtime") => words.get(2..)?,
        _ if name == Some(OsStr::new(NAME)) => words.get(1..)?,
        _ => return None,
    };
    let words: Vec<_> = [OsString::from("stack oci-runtime")].into_iter().chain(rest.iter().cloned()).collect();
    Some(match OciRuntime::of(&words) {
        Ok(arguments) => run(&arguments),
        Err(error) => {
            let printed = error.print();
            if error.use_stderr() || printed.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
    })
}

fn run(arguments: &OciRuntime) -> ExitCode {
    if let Err(error) = log::start(&arguments.options) {
        super::view::note(&format!("error: {error}"));
        return ExitCode::FAILURE;
    }
    dispatch(arguments).unwrap_or_else(|failure| {
        if arguments.options.log.is_some() {
            tracing::error!("{}", failure.message);
        }
        super::view::note(&format!("error: {}", failure.message));
        ExitCode::from(failure.code)
    })
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

fn dispatch(arguments: &OciRuntime) -> Done {
    let root = std::path::absolute(&arguments.options.root)?;
    let room = Room::at(root);
    let done = |result: Result<(), bundle::Error>| Ok(result.map(|()| ExitCode::SUCCESS)?);
    match &arguments.command {
        OciCommand::Create(create) => processes::create(&room, create, arguments.options.systemd_cgroup),
        OciCommand::Start(one) => done(bundle::start(&room, &one.id)),
        OciCommand::Run(run) => processes::run(&room, run, arguments.options.systemd_cgroup),
        OciCommand::State(one) => show::state(&room, &one.id),
        OciCommand::Kill(kill) => done(room.kill(&kill.id, signal_number(&kill.signal)?, kill.all)),
        OciCommand::Delete(delete) => done(room.delete(&delete.id, delete.force)),
        OciCommand::Exec(exec) => processes::exec(&room, exec),
        OciCommand::Ps { format, id, .. } => show::processes(&room, id, *format),
        OciCommand::List { format, quiet } => show::list(&room, *format, *quiet),
        OciCommand::Spec { bundle, rootless } => example::write(bundle, *rootless),
        OciCommand::Features => show::features(),
        OciCommand::Update(update) => update::update(&room, update),
        OciCommand::Pause(one) => done(room.freeze(&one.id, true)),
        OciCommand::Resume(one) => done(room.freeze(&one.id, false)),
        OciCommand::Events { stats, interval, id } => show::events(&room, id, *stats, interval),
        OciCommand::Checkpoint { .. } => Err("checkpoint is not supported: this program has no criu".into()),
        OciCommand::Restore { .. } => Err("restore is not supported: this program has no criu".into()),
    }
}

/// `TERM`, `SIGTERM`, `15`; 0 sends nothing, and asks whether there is somebody.
fn signal_number(text: &str) -> Result<i32, Failure> {
    if text == "0" {
        return Ok(0);
    }
    crate::runtime::shim::signal_number(text).ok_or_else(|| format!("{text:?} is no signal").into())
}

/// A JSON value on standard output, as runc prints them.
fn print(value: &Value) -> Done {
    print_lines(&[format!("{value:#}")])
}

fn print_lines(lines: &[impl Display]) -> Done {
    let mut out = std::io::stdout().lock();
    let written = lines.iter().try_for_each(|line| writeln!(out, "{line}"));
    match written {
        // Whoever reads has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        written => Ok(written.map(|()| ExitCode::SUCCESS)?),
    }
}

/// The number of a process, whole or not at all: engines wait for the file.
fn write_pid(path: &Path, pid: i32) -> Result<(), Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let making: PathBuf = path.with_file_name(format!(".{name}"));
    let written = fs::write(&making, pid.to_string()).and_then(|()| fs::rename(&making, path));
    written.map_err(|error| format!("--pid-file {}: {error}", path.display()).into())
}
