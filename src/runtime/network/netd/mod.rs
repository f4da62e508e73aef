//! Names and local ports, served for all containers of one engine by one process: this program with the first word
//! `netd`. It is started when there is something to serve, told to look again by every command that changes a
//! container's network, and ends when nothing is left.
//!
//! It is two processes: one that serves, and one that does nothing but start it again when it was killed. When both
//! were, the next command that changes something starts them anew, and `observe` reports it until then. A program of
//! another build that finds it running takes its place, without closing a socket (`handover`). One that does not answer is
//! killed. What serves reads what strangers send, and has few rights (`confine`).
//!
//! Beside serving it watches the kernel's links and rules, and puts back at once what somebody took away (`guard`).
//!
//! In the namespace of each container it answers questions for names at 127.0.0.11 (see `resolver`). On the host it listens on
//! published ports: that keeps them from being taken by others, and carries connections of the host's own programs to
//! the container, which the firewall never sees. Those from elsewhere never come here; the firewall's rules lead them. Where
//! the host's own firewall judges them first, it sends in again what that lets in (`again`).

mod again;
mod confine;
mod datagrams;
mod guard;
mod handover;
mod message;
mod poller;
mod server;
mod sockets;
mod streams;
mod upstream;
mod wanted;
mod zone;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setsid};

use super::{Error, kernel, records, sandbox};
use crate::runtime::home::Home;
use crate::runtime::rootless;
use crate::runtime::roots::Roots;
use crate::runtime::state::{Contention, Lock};
use crate::runtime::sys;

/// What the server says on its standard output once it listens.
const READY: &str = "ready";
/// What it answers when nothing is left to serve, and it ends.
const OVER: &str = "over";
/// The further word of one that takes the place of another build, to which its standard input is a connection.
pub const HEIR: &str = "heir";
/// How long to wait for an answer of the server. Serving anew takes it milliseconds a container.
const PATIENCE: Duration = Duration::from_secs(10);
/// A server that ended sooner than this after its start would end again: its next start has to wait.
const SHORT_LIFE: Duration = Duration::from_secs(5);
const LONGEST_REST: Duration = Duration::from_secs(30);

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

/// What is to be served and is not, as words: empty when a server listens or nothing is to be served.
///
/// # Errors
/// Where records can't be read.
pub fn lost(roots: &Roots) -> Result<Vec<String>, Error> {
    let served = UnixStream::connect(socket(roots)).is_ok() || wanted(roots)?.is_empty();
    Ok(if served { Vec::new() } else { vec!["names and local ports are not served".to_owned()] })
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
    let _lock = lock(roots)?;
    if nothing && UnixStream::connect(&path).is_err() {
        return remove_socket(roots);
    }
    let stream = connect_or_start(roots)?;
    let mut failures = match look_again(roots, &stream) {
        Ok(failures) => failures,
        Err(_) => {
            end(&stream).map_err(kernel("netd does not answer, and can't be ended"))?;
            look_again(roots, &connect_or_start(roots)?).map_err(kernel("netd"))?
        }
    };
    if failures.last().is_some_and(|last| last == OVER) {
        failures.pop();
        remove_socket(roots)?;
    }
    if failures.is_empty() { Ok(()) } else { Err(Error::NotServed { failures: failures.join("; ") }) }
}

/// A server that is being started while its starter does other things.
pub struct Starting {
    child: Child,
    _lock: Lock,
}

impl Starting {
    /// Returns when it listens. [`ensure`] then has it serve what is written down by now.
    ///
    /// # Errors
    /// What it said instead.
    pub fn finish(mut self) -> Result<(), Error> {
        wait_until_ready(&mut self.child).map_err(kernel("start netd"))
    }
}

/// Begins to start the server, unless one listens already. Nothing else of this module may be called before
/// [`Starting::finish`].
///
/// # Errors
/// Where the program can't be run.
pub fn begin_to_start(roots: &Roots) -> Result<Option<Starting>, Error> {
    if UnixStream::connect(socket(roots)).is_ok() {
        return Ok(None);
    }
    let lock = lock(roots)?;
    if UnixStream::connect(socket(roots)).is_ok() {
        return Ok(None);
    }
    remove_socket(roots)?;
    let child = run(roots, None).map_err(kernel("start netd"))?;
    Ok(Some(Starting { child, _lock: lock }))
}

fn lock(roots: &Roots) -> Result<Lock, Error> {
    Ok(Lock::take(&roots.volatile("locks").join("netd"), Contention::Wait)?)
}

fn connect_or_start(roots: &Roots) -> Result<UnixStream, Error> {
    if let Ok(stream) = UnixStream::connect(socket(roots)) {
        return Ok(stream);
    }
    remove_socket(roots)?;
    start(roots)?;
    UnixStream::connect(socket(roots)).map_err(kernel("netd"))
}

/// Kills the server at the other end. The process that starts it again finds another one in its place.
fn end(stream: &UnixStream) -> io::Result<()> {
    let pidfd = match sys::pidfd_open(getsockopt(stream, sockopt::PeerCredentials)?.pid()) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        other => other?,
    };
    match sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
        _ => {}
    }
    let patience = PollTimeout::try_from(PATIENCE).map_err(io::Error::other)?;
    poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], patience)?;
    Ok(())
}

fn remove_socket(roots: &Roots) -> Result<(), Error> {
    match std::fs::remove_file(socket(roots)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(kernel("netd")(error)),
        _ => Ok(()),
    }
}

/// Asks the server to read the records; it says what it could not serve, a line each, and then an empty line. The
/// question tells which program asks: a server that is another offers its place first.
fn look_again(roots: &Roots, stream: &UnixStream) -> io::Result<Vec<String>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut writer = stream;
    writeln!(writer, "look {}", build(&roots.program)?)?;
    let mut failures = Vec::new();
    for line in BufReader::new(stream).lines() {
        match line? {
            line if line.is_empty() => return Ok(failures),
            line if line == handover::OFFER => return look_again(roots, &succeed(roots, stream)?),
            line => failures.push(line),
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Starts a server of this build in the place of the one at the other end.
fn succeed(roots: &Roots, stream: &UnixStream) -> io::Result<UnixStream> {
    wait_until_ready(&mut run(roots, Some(stream.as_fd().try_clone_to_owned()?))?)?;
    UnixStream::connect(socket(roots))
}

/// Tells the file of this program from that of any other build.
fn build(program: &Path) -> io::Result<String> {
    let file = std::fs::metadata(program)?;
    Ok(format!("{}:{}:{}:{}", file.dev(), file.ino(), file.mtime(), file.mtime_nsec()))
}

fn start(roots: &Roots) -> Result<(), Error> {
    run(roots, None).and_then(|mut child| wait_until_ready(&mut child)).map_err(kernel("start netd"))
}

fn run(roots: &Roots, predecessor: Option<OwnedFd>) -> io::Result<Child> {
    Command::new(&roots.program)
        .arg("netd")
        .arg("--root")
        .arg(&roots.root)
        .arg("--run-root")
        .arg(&roots.run)
        .args(predecessor.is_some().then_some(HEIR))
        .env_clear()
        .stdin(predecessor.map_or_else(Stdio::null, Stdio::from))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

fn wait_until_ready(child: &mut Child) -> io::Result<()> {
    let mut text = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut text)?;
    }
    child.wait()?;
    match text.trim() {
        READY => Ok(()),
        "" => Err(io::Error::other("it ended without a word, as where another one has its place: try again")),
        said => Err(io::Error::other(said.to_owned())),
    }
}

/// The server's processes. `heir`: they take the place of another build's.
pub fn main(roots: &Roots, heir: bool) -> ExitCode {
    if let Err(error) = rootless::enter_network(roots) {
        return say(&error.to_string(), ExitCode::FAILURE);
    }
    if let Some(home) = Home::of(roots, "") {
        // Where that fails it serves until the session of whoever typed the command ends; the next command has another.
        home.enter(roots).ok();
    }
    // SAFETY: this process has one thread: it has just been started.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { .. }) => return ExitCode::SUCCESS,
        Ok(ForkResult::Child) => {}
        Err(error) => return say(&error.to_string(), ExitCode::FAILURE),
    }
    if let Err(error) = leave() {
        return say(&error.to_string(), ExitCode::FAILURE);
    }
    sys::be_chosen_last();
    keep(roots, if heir { Beginning::Heir } else { Beginning::First })
}

/// How a server begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// Somebody waits for a word.
    First,
    /// The same, and sends what another build served.
    Heir,
    /// After one that was killed.
    Again,
}

/// Starts the server, and again whenever it does not end by itself, more slowly if it never lives long.
fn keep(roots: &Roots, mut beginning: Beginning) -> ExitCode {
    let mut short_lives = 0_u32;
    loop {
        let begun = Instant::now();
        // SAFETY: this process has one thread.
        let child = match unsafe { fork() } {
            Ok(ForkResult::Parent { child }) => child,
            Ok(ForkResult::Child) => return begin(roots, beginning),
            Err(error) => return say(&error.to_string(), ExitCode::FAILURE),
        };
        if null().and_then(|null| leave_streams(&null)).is_err() || ended_by_itself(child) {
            return ExitCode::SUCCESS;
        }
        beginning = Beginning::Again;
        short_lives = if begun.elapsed() < SHORT_LIFE { short_lives + 1 } else { 1 };
        let rest = Duration::from_millis(25) * 2_u32.saturating_pow(short_lives.min(16) - 1);
        // Nothing to wait for but time.
        poll(&mut [], PollTimeout::try_from(rest.min(LONGEST_REST)).unwrap_or(PollTimeout::ZERO)).ok();
    }
}

fn ended_by_itself(server: Pid) -> bool {
    loop {
        match waitpid(server, None) {
            Ok(WaitStatus::Exited(_, 0)) => return true,
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => return false,
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(_) => return true,
        }
    }
}

/// The server's process. The first of them was started by somebody who holds the lock and waits for a word.
fn begin(roots: &Roots, beginning: Beginning) -> ExitCode {
    // Each container has two descriptors here, each connection two.
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    // With fewer, what there is no descriptor for is refused, and said.
    raised.ok();
    let first = beginning != Beginning::Again;
    let confined = |server| null().and_then(|null| confine::confine(roots).map(|()| (server, null)));
    match server(roots, beginning).and_then(confined) {
        Ok((server, null)) => {
            if first {
                say(READY, ExitCode::SUCCESS);
            }
            if leave_streams(&null).is_ok() { serve(roots, server) } else { ExitCode::SUCCESS }
        }
        // Another one serves.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => ExitCode::SUCCESS,
        // Whoever waits has been told; there is no reason to try again without being asked.
        Err(error) if first => say(&error.to_string(), ExitCode::SUCCESS),
        Err(_) => ExitCode::FAILURE,
    }
}

fn server(roots: &Roots, beginning: Beginning) -> io::Result<server::Server> {
    match beginning {
        Beginning::First => server::Server::new(roots),
        Beginning::Heir => {
            let predecessor = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
            handover::take(roots, &predecessor)
        }
        Beginning::Again => again(roots),
    }
}

/// In the place of a server that was killed: with all that is written down.
fn again(roots: &Roots) -> io::Result<server::Server> {
    let _lock = lock(roots).map_err(io::Error::other)?;
    if UnixStream::connect(socket(roots)).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    remove_socket(roots).map_err(io::Error::other)?;
    let mut server = server::Server::new(roots)?;
    server.look();
    Ok(server)
}

fn serve(roots: &Roots, mut server: server::Server) -> ExitCode {
    // Without the guard, what is lost is put back by the next command.
    drop(guard::spawn(roots));
    server.run()
}

/// Takes nothing along from whoever typed the command.
fn leave() -> io::Result<()> {
    setsid()?;
    std::env::set_current_dir("/")?;
    sys::close_from(3)
}

fn null() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}

/// Whoever waits for the end of these sees it.
fn leave_streams(null: &File) -> io::Result<()> {
    nix::unistd::dup2_stdin(null)?;
    Ok(nix::unistd::dup2_stdout(null)?)
}

fn say(text: &str, code: ExitCode) -> ExitCode {
    // The starter may be gone; the next one asks by the socket.
    writeln!(io::stdout(), "{text}").ok();
    code
}
