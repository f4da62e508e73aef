//! `run` and `exec`: a program in the foreground, with its exit code as ours.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::ExitCode;

use nix::fcntl::OFlag;

use super::args::{Exec, PullWhen, Run};
use super::bars::{Bars, Show};
use super::failure::Failure;
use super::terminal::{self, Attached, Pipes};
use super::{options, stack_file, view};
use crate::engine::native::{DEFAULT_NETWORK, containers, ensure_default_network, ensure_image};
use crate::reconcile::resource::{ContainerConfig, ImageConfig, ImageSource, NetworkMode, PullPolicy};
use crate::runtime::container::{self, Container, Removal, Supervision, exec, logs};
use crate::runtime::init::Stdio;
use crate::runtime::roots::Roots;
use crate::runtime::shim::client;

/// Before the program itself has run, every failure is docker's 125; the program's own are 126 and 127.
fn before_program(failure: Failure) -> Failure {
    failure.with_code(125)
}

fn start_failure(error: containers::Error) -> Failure {
    match &error {
        containers::Error::Container(container::Error::Start { source, .. }) => {
            let code = source.exit_code();
            Failure::from(error).with_code(code)
        }
        _ => Failure::from(error).with_code(125),
    }
}

pub fn run(roots: &Roots, arguments: &Run) -> Result<ExitCode, Failure> {
    let wanted = wanted(arguments).map_err(before_program)?;
    containers::sweep(roots).map_err(|error| before_program(error.into()))?;
    prepare(roots, arguments, &wanted).map_err(before_program)?;
    let name = wanted.name.clone();
    let supervision = if arguments.detach { Supervision::Anew } else { Supervision::Forked };
    let started = containers::start_under(roots, &name, supervision);
    if let Err(error) = started {
        if arguments.rm {
            containers::remove(roots, &name, true)?;
        }
        return Err(start_failure(error));
    }
    if arguments.detach {
        view::out(&format!("{}\n", container::get(roots, &name)?.config.id))?;
        return Ok(ExitCode::SUCCESS);
    }
    let code = foreground(roots, &name, arguments)?;
    if arguments.rm {
        containers::remove(roots, &name, true)?;
    }
    Ok(ExitCode::from(code as u8))
}

fn wanted(arguments: &Run) -> Result<ContainerConfig, Failure> {
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => random_name(&arguments.image)?,
    };
    let mut from_files = BTreeMap::new();
    for file in &arguments.env_file {
        let text =
            std::fs::read_to_string(file).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        from_files.extend(
            lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
    }
    let environment = stack_file::environment();
    Ok(options::container(arguments, &name, &std::env::current_dir()?, &environment, from_files)?)
}

/// `whoami-3fa2c1`: says what it is of, and is not taken.
fn random_name(image: &str) -> Result<String, Failure> {
    let mut bytes = [0; 3];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let base = image.rsplit(['/', ':']).find(|part| part.starts_with(|c: char| c.is_ascii_alphabetic()));
    let last = image.split('@').next().and_then(|image| image.rsplit('/').next()).unwrap_or(image);
    let base = if image.starts_with("builtin:") { base } else { last.split(':').next() }.unwrap_or("container");
    let clean: String = base.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    Ok(format!("{clean}-{:02x}{:02x}{:02x}", bytes[0], bytes[1], bytes[2]))
}

fn prepare(roots: &Roots, arguments: &Run, wanted: &ContainerConfig) -> Result<(), Failure> {
    let pull_policy = match arguments.pull {
        Some(PullWhen::Always) => PullPolicy::Always,
        Some(PullWhen::Never) => PullPolicy::Never,
        Some(PullWhen::Missing) | None => PullPolicy::Missing,
    };
    let source = ImageSource::Pull { reference: wanted.image.clone(), digest: None };
    let image = ImageConfig { reference: wanted.image.clone(), source, pull_policy, platform: None };
    ensure_image(roots, &image, &Bars::new(Show::People))?;
    if matches!(&wanted.network, NetworkMode::Networks(networks) if networks.contains_key(DEFAULT_NETWORK)) {
        ensure_default_network(roots)?;
    }
    let removal = match (arguments.rm, arguments.detach) {
        (false, _) => Removal::Nobody,
        (true, false) => Removal::Maker,
        (true, true) => Removal::Supervisor,
    };
    containers::create_with(roots, wanted, |config| container::Config { removal, ..config })?;
    Ok(())
}

/// Passes on what the container writes, from its first line on, until it ends.
fn foreground(roots: &Roots, name: &str, arguments: &Run) -> Result<i32, Failure> {
    let paths = container::Paths::of(roots, name);
    let mut heard = false;
    if let Ok(stream) = client::attach(&paths, name, true) {
        let signal = |number: i32| {
            // It may have ended by itself meanwhile.
            drop(container::kill(roots, name, &number.to_string()));
        };
        let attached =
            Attached { stream, interactive: arguments.interactive, terminal: arguments.tty, signal: &signal };
        let (code, any) = terminal::relay(attached)?;
        if let Some(code) = code {
            return Ok(code);
        }
        heard = any;
    }
    // It ended before it could be attached to: what it wrote is in its log.
    let code = container::wait(roots, name, None)?;
    if !heard {
        logs::read(roots, name, &logs::Select::default(), &mut |line| super::logs::write(line, None, false).is_ok())?;
    }
    Ok(code)
}

pub fn exec(roots: &Roots, arguments: &Exec) -> Result<ExitCode, Failure> {
    let found = container::get(roots, &arguments.name).map_err(|error| before_program(error.into()))?;
    let request = exec::Exec {
        args: arguments.command.clone(),
        env: variables(arguments, &found),
        cwd: arguments.workdir.clone(),
        user: arguments.user.clone(),
        privileged: arguments.privileged,
    };
    let (stdio, pipes) = stdio(arguments)?;
    let process = exec::exec(roots, &found.config.name, &request, stdio).map_err(|error| {
        let code = if let container::Error::Start { source, .. } = &error { source.exit_code() } else { 1 };
        Failure::from(error).with_code(code)
    })?;
    if arguments.detach {
        return Ok(ExitCode::SUCCESS);
    }
    match (&process.terminal, pipes) {
        (Some(terminal), _) => terminal::relay_terminal(&process, terminal.try_clone()?, arguments.interactive)?,
        (None, Some(pipes)) => terminal::relay_pipes(&process, pipes)?,
        (None, None) => {}
    }
    Ok(ExitCode::from(exec::wait(&process)? as u8))
}

fn variables(arguments: &Exec, found: &Container) -> Vec<String> {
    let environment = stack_file::environment();
    let own = |text: &String| match text.contains('=') {
        true => Some(text.clone()),
        false => environment.get(text).map(|value| format!("{text}={value}")),
    };
    let terminal = arguments.tty && !found.config.request.env.iter().any(|entry| entry.starts_with("TERM="));
    let term = terminal.then(|| "TERM=xterm".to_owned());
    term.into_iter().chain(arguments.env.iter().filter_map(own)).collect()
}

/// Never the caller's own descriptors: the container could reopen what they lead to.
fn stdio(arguments: &Exec) -> Result<(Stdio, Option<Pipes>), Failure> {
    if arguments.tty {
        let (rows, columns) = terminal::size();
        return Ok((Stdio::Terminal { rows: rows.max(1), columns: columns.max(1) }, None));
    }
    if arguments.detach {
        let null = || std::fs::File::options().read(true).write(true).open("/dev/null").map(std::os::fd::OwnedFd::from);
        return Ok((Stdio::Pipes { stdin: None, stdout: null()?, stderr: null()? }, None));
    }
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC);
    let ((stdout_read, stdout), (stderr_read, stderr)) = (pipe()?, pipe()?);
    let input = if arguments.interactive { Some(pipe()?) } else { None };
    let (stdin, stdin_write) = input.map_or((None, None), |(read, write)| (Some(read), Some(write)));
    let pipes = Pipes { stdin: stdin_write, stdout: stdout_read, stderr: stderr_read };
    Ok((Stdio::Pipes { stdin, stdout, stderr }, Some(pipes)))
}
