//! Between the user's terminal and a container: raw mode, sizes, signals, and the passing on of bytes.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::runtime::init::{self, Launched};
use crate::runtime::shim::client::{decode, encode, frame};

const PIECE: usize = 32 << 10;

/// The user's terminal hands every key on as it is, until this is dropped.
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// `None` where standard input is no terminal.
    pub fn begin() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing can be done for a terminal that has gone.
        tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before).ok();
    }
}

/// What is typed is not shown, until this is dropped.
pub struct Hidden {
    before: Termios,
}

impl Hidden {
    pub fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(nix::sys::termios::LocalFlags::ECHO);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Nothing can be done for a terminal that has gone.
        tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before).ok();
    }
}

/// Rows and columns of the user's terminal; 0 where there is none.
pub fn size() -> (u16, u16) {
    init::terminal_size(io::stdout().as_fd()).unwrap_or((0, 0))
}

/// Signals that are passed on to the container, and those about the terminal, as something to wait for.
fn signals(terminal: bool) -> io::Result<SignalFd> {
    let mut wanted = vec![Signal::SIGWINCH];
    if !terminal {
        wanted.extend([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT]);
    }
    let set: SigSet = wanted.into_iter().collect();
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

fn wait(fds: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    match poll(&mut polled, PollTimeout::NONE) {
        Ok(_) => Ok(polled.iter().map(|fd| fd.revents().is_some_and(|flags| !flags.is_empty())).collect()),
        Err(nix::Error::EINTR) => Ok(vec![false; fds.len()]),
        Err(error) => Err(error.into()),
    }
}

/// Output that nobody reads any more is no reason to stop.
fn write(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// What a foreground `run` or `attach` passes on.
pub struct Attached<'a> {
    pub stream: UnixStream,
    /// Standard input, too.
    pub interactive: bool,
    pub terminal: bool,
    /// Sends a signal to the container.
    pub signal: &'a dyn Fn(i32),
}

/// Until the container has ended: its exit code; `None` when the supervisor went away without saying it.
/// `heard` tells whether anything came at all.
pub fn relay(attached: Attached<'_>) -> io::Result<(Option<i32>, bool)> {
    let _raw = if attached.terminal && attached.interactive { RawMode::begin()? } else { None };
    let signals = signals(attached.terminal && attached.interactive)?;
    let stdin = io::stdin();
    let mut open = attached.interactive;
    let mut stream = attached.stream.try_clone()?;
    let mut inbox = Vec::new();
    let mut heard = false;
    if attached.terminal {
        send_size(&mut stream)?;
    }
    loop {
        let mut fds = vec![stream.as_fd(), signals.as_fd()];
        if open {
            fds.push(stdin.as_fd());
        }
        let ready = wait(&fds)?;
        if ready[1] {
            pass_signals(&signals, attached.terminal, &mut stream, attached.signal)?;
        }
        if ready.get(2) == Some(&true) {
            open = send_input(&mut stream)?;
        }
        if !ready[0] {
            continue;
        }
        let mut piece = vec![0; PIECE];
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok((None, heard));
        }
        inbox.extend_from_slice(&piece[..count]);
        while let Some((kind, content)) = decode(&mut inbox)? {
            heard = true;
            match kind {
                frame::STDOUT => write(&mut io::stdout(), &content)?,
                frame::STDERR => write(&mut io::stderr(), &content)?,
                frame::EXIT => return Ok((content.try_into().ok().map(i32::from_be_bytes), true)),
                _ => {}
            }
        }
    }
}

fn send_size(stream: &mut UnixStream) -> io::Result<()> {
    let (rows, columns) = size();
    let content = [rows.to_be_bytes(), columns.to_be_bytes()].concat();
    if rows == 0 { Ok(()) } else { write(stream, &encode(frame::RESIZE, &content)) }
}

fn pass_signals(signals: &SignalFd, terminal: bool, stream: &mut UnixStream, send: &dyn Fn(i32)) -> io::Result<()> {
    while let Some(info) = signals.read_signal()? {
        match info.ssi_signo as i32 {
            libc::SIGWINCH if terminal => send_size(stream)?,
            libc::SIGWINCH => {}
            number => send(number),
        }
    }
    Ok(())
}

/// `false` when there is no more input.
fn send_input(stream: &mut UnixStream) -> io::Result<bool> {
    let mut piece = vec![0; PIECE];
    let count = io::stdin().read(&mut piece)?;
    let message = if count == 0 { encode(frame::STDIN_END, &[]) } else { encode(frame::STDIN, &piece[..count]) };
    write(stream, &message)?;
    Ok(count > 0)
}

/// The caller's ends of an `exec` without a terminal.
pub struct Pipes {
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// Passes bytes on until the process has ended and its output is read. A background process that it left with the
/// output open is not waited for.
pub fn relay_pipes(process: &Launched, pipes: Pipes) -> io::Result<()> {
    let mut input = pipes.stdin.map(File::from);
    let mut outputs = [Some(File::from(pipes.stdout)), Some(File::from(pipes.stderr))];
    let stdin = io::stdin();
    let mut ended = false;
    loop {
        let open: Vec<usize> = (0..2).filter(|index| outputs[*index].is_some()).collect();
        if ended || open.is_empty() {
            return Ok(());
        }
        let mut fds = vec![process.pidfd.as_fd()];
        fds.extend(open.iter().filter_map(|index| outputs[*index].as_ref()).map(AsFd::as_fd));
        if input.is_some() {
            fds.push(stdin.as_fd());
        }
        let ready = wait(&fds)?;
        let readable: Vec<usize> =
            open.iter().enumerate().filter(|(at, _)| ready[at + 1]).map(|(_, index)| *index).collect();
        let typed = ready.get(open.len() + 1) == Some(&true);
        for index in &readable {
            pass_output(&mut outputs[*index], *index)?;
        }
        if typed {
            pass_input(&mut input)?;
        }
        // What it wrote before its end was readable by then.
        ended = ready[0] && readable.is_empty();
    }
}

fn pass_output(output: &mut Option<File>, index: usize) -> io::Result<()> {
    let Some(file) = output else { return Ok(()) };
    let mut piece = vec![0; PIECE];
    match file.read(&mut piece) {
        Ok(0) => *output = None,
        Ok(count) if index == 0 => write(&mut io::stdout(), &piece[..count])?,
        Ok(count) => write(&mut io::stderr(), &piece[..count])?,
        Err(error) => return Err(error),
    }
    Ok(())
}

fn pass_input(input: &mut Option<File>) -> io::Result<()> {
    let Some(file) = input else { return Ok(()) };
    let mut piece = vec![0; PIECE];
    let count = io::stdin().read(&mut piece)?;
    let gone = count > 0 && file.write_all(&piece[..count]).is_err();
    if count == 0 || gone {
        *input = None;
    }
    Ok(())
}

/// Passes bytes on between the user's terminal and the process's own, until it ends.
pub fn relay_terminal(process: &Launched, terminal: OwnedFd, interactive: bool) -> io::Result<()> {
    let _raw = if interactive { RawMode::begin()? } else { None };
    let signals = signals(true)?;
    let stdin = io::stdin();
    let mut open = interactive;
    let mut file = File::from(terminal.try_clone()?);
    loop {
        let mut fds = vec![file.as_fd(), signals.as_fd(), process.pidfd.as_fd()];
        if open {
            fds.push(stdin.as_fd());
        }
        let ready = wait(&fds)?;
        if ready[1] {
            while signals.read_signal()?.is_some() {
                let (rows, columns) = size();
                init::resize(&terminal, rows, columns)?;
            }
        }
        if ready[0] {
            let mut piece = vec![0; PIECE];
            match file.read(&mut piece) {
                Ok(count) if count > 0 => write(&mut io::stdout(), &piece[..count])?,
                // The last program has closed it.
                _ => return Ok(()),
            }
        } else if ready[2] {
            return Ok(());
        }
        if ready.get(3) == Some(&true) {
            let mut piece = vec![0; PIECE];
            let count = io::stdin().read(&mut piece)?;
            open = count > 0;
            file.write_all(&piece[..count])?;
        }
    }
}
