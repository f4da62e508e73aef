//! A further process in a running container, run to its end by a caller with several threads: this program, started
//! again with the first word `aside`, is the one thread that joining a container needs.
//!
//! It reads an [`Exec`] as JSON on its standard input, and ends with the code of the program, or the one that docker
//! would exit with where it could not be started; then it says why.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::exec::{self, Exec};
use super::{Error, io_at};
use crate::runtime::roots::Roots;
use crate::runtime::{init, sys};

/// How much of what it writes is kept, in bytes: the last ones.
const KEPT: usize = 4096;

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: i32,
    /// The last of what it wrote.
    pub output: String,
}

/// Runs it in the container and waits for its end; what it leaves behind in the background is not waited for.
///
/// # Errors
/// Where this program can't be started again.
pub fn run(roots: &Roots, name: &str, exec: &Exec) -> Result<Ended, Error> {
    let failed = |error: io::Error| Error::Supervisor { name: name.to_owned(), reason: error.to_string() };
    run_to_end(roots, name, exec).map_err(failed)
}

fn run_to_end(roots: &Roots, name: &str, exec: &Exec) -> io::Result<Ended> {
    let (output, end) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let mut command = Command::new(&roots.program);
    command.arg("aside").arg("--root").arg(&roots.root).arg("--run-root").arg(&roots.run).arg(name);
    let mut child = command.stdin(Stdio::piped()).stdout(end.try_clone()?).stderr(end).spawn()?;
    // It holds the ends of the pipe that are the child's.
    drop(command);
    let written = child.stdin.take().map(|mut input| input.write_all(&serde_json::to_vec(exec)?));
    let (status, output) = gather(&mut child, output)?;
    written.transpose()?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(Ended { code, output: String::from_utf8_lossy(&output).trim_end().to_owned() })
}

/// Reads until the child has ended, whoever else holds the other end of the pipe.
fn gather(child: &mut Child, output: OwnedFd) -> io::Result<(ExitStatus, Vec<u8>)> {
    let process = sys::pidfd_open(child.id() as i32)?;
    let flags = OFlag::from_bits_truncate(fcntl(&output, FcntlArg::F_GETFL)?);
    fcntl(&output, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    let mut output = Some(File::from(output));
    let mut kept = Vec::new();
    loop {
        let mut polled = vec![PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        polled.extend(output.as_ref().map(|output| PollFd::new(output.as_fd(), PollFlags::POLLIN)));
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = polled[0].any().unwrap_or(false);
        if let Some(open) = &mut output
            && take(open, &mut kept)?
        {
            output = None;
        }
        if ended {
            return Ok((child.wait()?, kept));
        }
    }
}

/// Takes what is there; whether nothing will come any more.
fn take(output: &mut File, kept: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0; KEPT];
    loop {
        match output.read(&mut piece) {
            Ok(0) => return Ok(true),
            Ok(count) => {
                kept.extend_from_slice(&piece[..count]);
                kept.drain(..kept.len().saturating_sub(KEPT));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The one that is started.
pub fn main(roots: &Roots, name: &str) -> ExitCode {
    match join(roots, name) {
        Ok(code) => ExitCode::from(code as u8),
        Err(error) => {
            // Whoever started it may be gone.
            drop(writeln!(io::stdout(), "{error}"));
            ExitCode::from(if let Error::Start { source, .. } = &error { source.exit_code() } else { 125 })
        }
    }
}

fn join(roots: &Roots, name: &str) -> Result<i32, Error> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(io_at("standard input"))?;
    let wrong = |error: serde_json::Error| io_at("standard input")(error.into());
    let wanted: Exec = serde_json::from_str(&text).map_err(wrong)?;
    // Pipes that lead to whoever waits: the program can do nothing with them but write.
    let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map_err(io_at("standard output"));
    let (stdout, stderr) = (copy(io::stdout().as_fd())?, copy(io::stderr().as_fd())?);
    let process = exec::exec(roots, name, &wanted, init::Stdio::Pipes { stdin: None, stdout, stderr })?;
    let Some(ms) = wanted.timeout_ms else { return exec::wait(&process) };
    let (code, killed) = exec::wait_within(&process, Duration::from_millis(ms))?;
    if killed {
        // Whoever started this one may be gone.
        drop(writeln!(io::stdout(), "it took longer than {} s, and was killed", ms as f64 / 1000.0));
    }
    Ok(code)
}
