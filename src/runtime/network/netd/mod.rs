//! Names and local ports, served for all containers of one engine by one process: this program with the first word
//! `netd`. It is started when there is something to serve, told to look again by every command that changes a
//! container's network, and ends when nothing is left. Killed, it is started anew by the next command.
//!
//! In the namespace of each container it answers questions for names at 127.0.0.11. On the host it listens on
//! published ports: that keeps them from being taken by others, and carries connections of the host's own programs to
//! the container, which the firewall never sees. Those from elsewhere never come here; the firewall's rules lead them.

mod datagrams;
mod message;
mod poller;
mod server;
mod sockets;
mod streams;
mod upstream;
mod wanted;
mod zone;

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use nix::unistd::{ForkResult, fork, setsid};

use super::{Error, kernel, records, sandbox};
use crate::runtime::roots::Roots;
use crate::runtime::state::{Contention, Lock};
use crate::runtime::sys;

/// What the server says on its standard output once it listens.
const READY: &str = "ready";

fn socket(roots: &Roots) -> PathBuf {
    roots.volatile("netd.sock")
}

/// What is to be served, as written down now.
fn wanted(roots: &Roots) -> Result<wanted::Wanted, Error> {
    let attachments = records::attachments(roots)?;
    let there = attachments.iter().filter(|one| sandbox::exists(roots, &one.container));
    let present: BTreeSet<String> = there.map(|one| one.container.clone()).collect();
    Ok(wanted::wanted(&records::list(roots)?, &attachments, &present))
}

/// Returns when everything that is written down is served, and nothing else.
///
/// # Errors
/// [`Error::NotServed`] names the ports that another program holds.
pub fn ensure(roots: &Roots) -> Result<(), Error> {
    let path = socket(roots);
    let nothing = wanted(roots)?.is_empty();
    if nothing && !path.exists() {
        return Ok(());
    }
    let _lock = Lock::take(&roots.volatile("locks").join("netd"), Contention::Wait)?;
    let stream = match (UnixStream::connect(&path), nothing) {
        (Ok(stream), _) => stream,
        (Err(_), true) => return remove_socket(roots),
        (Err(_), false) => {
            remove_socket(roots)?;
            start(roots)?;
            UnixStream::connect(&path).map_err(kernel("netd"))?
        }
    };
    let failures = look_again(stream).map_err(kernel("netd"))?;
    if failures.is_empty() { Ok(()) } else { Err(Error::NotServed { failures: failures.join("; ") }) }
}

fn remove_socket(roots: &Roots) -> Result<(), Error> {
    match std::fs::remove_file(socket(roots)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(kernel("netd")(error)),
        _ => Ok(()),
    }
}

/// Asks the server to read the records; it says what it could not serve, a line each, and then an empty line.
fn look_again(mut stream: UnixStream) -> io::Result<Vec<String>> {
    stream.write_all(b"\n")?;
    let mut failures = Vec::new();
    for line in BufReader::new(stream).lines() {
        match line? {
            line if line.is_empty() => return Ok(failures),
            line => failures.push(line),
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn start(roots: &Roots) -> Result<(), Error> {
    let started = (|| {
        let mut child = Command::new(&roots.program)
            .arg("netd")
            .arg("--root")
            .arg(&roots.root)
            .arg("--run-root")
            .arg(&roots.run)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut text = String::new();
        if let Some(mut output) = child.stdout.take() {
            output.read_to_string(&mut text)?;
        }
        child.wait()?;
        if text.trim() == READY { Ok(()) } else { Err(io::Error::other(text.trim().to_owned())) }
    })();
    started.map_err(kernel("start netd"))
}

/// The server process.
pub fn main(roots: &Roots) -> ExitCode {
    // SAFETY: this process has one thread: it has just been started.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { .. }) => return ExitCode::SUCCESS,
        Ok(ForkResult::Child) => {}
        Err(error) => return say(&error.to_string(), ExitCode::FAILURE),
    }
    let server = leave().and_then(|()| server::Server::new(roots));
    match server {
        Ok(mut server) => {
            say(READY, ExitCode::SUCCESS);
            let null = std::fs::File::options().write(true).open("/dev/null");
            if null.is_ok_and(|null| nix::unistd::dup2_stdout(null).is_ok()) { server.run() } else { ExitCode::FAILURE }
        }
        Err(error) => say(&error.to_string(), ExitCode::FAILURE),
    }
}

/// Takes nothing along from whoever typed the command.
fn leave() -> io::Result<()> {
    setsid()?;
    std::env::set_current_dir("/")?;
    sys::close_on_exec_from(3)
}

fn say(text: &str, code: ExitCode) -> ExitCode {
    // The starter may be gone; the next one asks by the socket.
    writeln!(io::stdout(), "{text}").ok();
    code
}
