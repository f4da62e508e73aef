//! `exec`: a further program in a container, with its exit code as ours.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;

use nix::fcntl::OFlag;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::args::Exec;
use super::failure::Failure;
use super::names::{self, Here};
use super::run::{before_program, variables_of};
use super::terminal::{self, DetachKeys, End, Pipes};
use super::{options, stack_file, view};
use crate::runtime::container::{self, Container, exec};
use crate::runtime::events;
use crate::runtime::init::{self, Stdio, spec};
use crate::runtime::roots::Roots;

pub fn exec(roots: &Roots, here: &Here, arguments: &Exec) -> Result<ExitCode, Failure> {
    let found = names::one_or_service(roots, here, arguments.container())?;
    let keys = options::detach_keys(arguments.detach_keys.as_deref()).map_err(|error| before_program(error.into()))?;
    let request = exec::Exec {
        args: arguments.command().to_vec(),
        env: variables(arguments, &found)?,
        cwd: arguments.workdir.clone(),
        user: arguments.user.clone(),
        privileged: arguments.privileged,
        timeout_ms: None,
    };
    if arguments.privileged || spec::may_trace(&found.config.request) {
        seal()?;
    }
    let (stdio, pipes) = stdio(arguments)?;
    let told = Told::begin(roots, &found, arguments.command())?;
    let process = exec::exec(roots, &found.config.name, &request, stdio).map_err(|error| {
        // The engine itself did what it could: docker has no 125 here.
        let code = if let container::Error::Start { source, .. } = &error { source.exit_code().max(126) } else { 1 };
        told.end(i32::from(code));
        Failure::from(error).with_code(code)
    })?;
    if arguments.detach {
        return Ok(ExitCode::SUCCESS);
    }
    match (&process.terminal, pipes) {
        (Some(terminal), _) => {
            let terminal = terminal.try_clone()?;
            let again = terminal.try_clone()?;
            match terminal::relay_terminal(&process, terminal, arguments.interactive, DetachKeys::new(keys))? {
                End::Interrupted(number) => return Ok(ExitCode::from(128 + number as u8)),
                End::Detached => return leave(roots, again),
                End::Exited(_) | End::Lost { .. } => {}
            }
        }
        (None, Some(pipes)) => terminal::relay_pipes(&process, pipes)?,
        (None, None) => {}
    }
    let code = exec::wait(&process)?;
    told.end(code);
    Ok(ExitCode::from(code as u8))
}

/// What those who follow events hear of one program. The end of one that nobody waits for is not told.
struct Told<'a> {
    roots: &'a Roots,
    container: &'a Container,
    id: String,
}

impl<'a> Told<'a> {
    fn begin(roots: &'a Roots, container: &'a Container, words: &[String]) -> Result<Self, Failure> {
        let mut bytes = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let told = Self { roots, container, id: bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        // As docker writes it: a space behind the program, also where nothing follows.
        let (program, rest) = words.split_first().map_or(("", &[][..]), |(program, rest)| (program.as_str(), rest));
        for action in ["exec_create", "exec_start"] {
            told.tell(&told.event(&format!("{action}: {program} {}", rest.join(" "))));
        }
        Ok(told)
    }

    fn end(&self, code: i32) {
        self.tell(&self.event("exec_die").with("exitCode", code));
    }

    fn event(&self, action: &str) -> events::Event {
        container::event(&self.container.config, action).with("execID", &self.id)
    }

    fn tell(&self, event: &events::Event) {
        events::record(self.roots, event);
    }
}

/// The program runs on. Its terminal is there for as long as somebody holds this side of it, and reads what it writes.
fn leave(roots: &Roots, terminal: OwnedFd) -> Result<ExitCode, Failure> {
    let null = || std::process::Stdio::null();
    std::process::Command::new(&roots.program)
        .arg(READER)
        .stdin(terminal)
        .stdout(null())
        .stderr(null())
        .process_group(0)
        .spawn()?;
    view::note("\r\nit runs on, and nobody sees what it writes");
    Ok(ExitCode::SUCCESS)
}

/// The first word of the one that reads a terminal that was left.
pub const READER: &str = "terminal-reader";

/// Reads standard input to its end, which a terminal is at when its last program has closed it.
pub fn read_to_end() -> ExitCode {
    match std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// A container that may look into the process that joins it could keep this program's file open, and write to it one day:
/// it is to find one there that nobody can write to (CVE-2019-5736).
fn seal() -> Result<(), Failure> {
    let own = Path::new("/proc/self/exe");
    if statvfs(own)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    let sealed = init::sealed_engine(own)?;
    let mut again = std::process::Command::new(format!("/proc/self/fd/{}", sealed.as_raw_fd()));
    let mut words = std::env::args_os();
    again.arg0(words.next().unwrap_or_else(|| "stack".into())).args(words);
    Err(again.exec().into())
}

fn variables(arguments: &Exec, found: &Container) -> Result<Vec<String>, Failure> {
    let environment = stack_file::environment();
    let from_files = variables_of(&arguments.env_file)?;
    let lines: Vec<String> = from_files.into_iter().chain(arguments.env.iter().cloned()).collect();
    let own = lines.iter().filter_map(|line| options::variable(line, &environment));
    let terminal = arguments.tty && !found.config.request.env.iter().any(|entry| entry.starts_with("TERM="));
    let term = terminal.then(|| "TERM=xterm".to_owned());
    Ok(term.into_iter().chain(own.map(|(key, value)| format!("{key}={value}"))).collect())
}

/// Never the caller's own descriptors: the container could reopen what they lead to.
fn stdio(arguments: &Exec) -> Result<(Stdio, Option<Pipes>), Failure> {
    if arguments.tty {
        let (rows, columns) = terminal::size();
        return Ok((Stdio::Terminal { rows: rows.max(1), columns: columns.max(1) }, None));
    }
    if arguments.detach {
        let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
        return Ok((Stdio::Pipes { stdin: None, stdout: null()?, stderr: null()? }, None));
    }
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC);
    let ((stdout_read, stdout), (stderr_read, stderr)) = (pipe()?, pipe()?);
    let input = if arguments.interactive { Some(pipe()?) } else { None };
    let (stdin, stdin_write) = input.map_or((None, None), |(read, write)| (Some(read), Some(write)));
    let pipes = Pipes { stdin: stdin_write, stdout: stdout_read, stderr: stderr_read };
    Ok((Stdio::Pipes { stdin, stdout, stderr }, Some(pipes)))
}
