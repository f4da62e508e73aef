//! Between the user's terminal and a container: raw mode, sizes, signals, and the passing on of bytes.
//!
//! Nothing is written that the other side does not take now: a side that does not read must never keep the other side's
//! output from being read, or both wait for ever.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::runtime::init::{self, Launched};
use crate::runtime::shim::client::{decode, encode, frame};
use crate::runtime::sys;

const PIECE: usize = 32 << 10;
/// How often a container that does not listen is told to end before this program ends without it.
const PATIENCE: usize = 3;
/// What a terminal takes for the end of its input.
const END_OF_INPUT: u8 = 4;
/// Signals that mean the container as much as this program.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

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

/// How the passing on came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The program has ended with this code.
    Exited(i32),
    /// By its keys: what runs, runs on.
    Detached,
    /// This program was told to end by this signal, which was not for the container, or was once too often.
    Interrupted(i32),
    /// The supervisor went away without a word. `heard` tells whether any output had come.
    Lost { heard: bool },
}

/// The keys that leave a terminal without ending what runs there, as far as they have been typed.
pub struct DetachKeys {
    keys: Vec<u8>,
    typed: usize,
}

impl DetachKeys {
    /// No keys: nothing detaches.
    pub fn new(keys: Vec<u8>) -> Self {
        Self { keys, typed: 0 }
    }

    /// What of the input is to be passed on now, and whether the keys are complete. Their beginning is held back until
    /// it is known not to be one.
    fn take(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(input.len());
        for byte in input {
            if self.keys.get(self.typed) == Some(byte) {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.typed]);
            self.typed = usize::from(self.keys.first() == Some(byte));
            if self.typed == 0 {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

/// Bytes on their way to somebody who takes them in his own time.
#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
}

impl Outbox {
    /// Writes what is taken now. `false` when nobody takes anything any more.
    fn flush(&mut self, to: &mut impl Write) -> bool {
        while !self.bytes.is_empty() {
            match to.write(&self.bytes) {
                Ok(count) => drop(self.bytes.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    fn wants(&self) -> PollFlags {
        if self.bytes.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT }
    }
}

/// Signals to be heard of rather than to be ended by.
fn signals() -> io::Result<SignalFd> {
    let set: SigSet = PASSED_ON.into_iter().chain([Signal::SIGWINCH]).collect();
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Waits for any of them; which of them have something to say.
fn wait(fds: &[(BorrowedFd<'_>, PollFlags)]) -> io::Result<Vec<PollFlags>> {
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|(fd, flags)| PollFd::new(*fd, *flags)).collect();
    match poll(&mut polled, PollTimeout::NONE) {
        Ok(_) => Ok(polled.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect()),
        Err(nix::Error::EINTR) => Ok(vec![PollFlags::empty(); fds.len()]),
        Err(error) => Err(error.into()),
    }
}

fn readable(flags: PollFlags) -> bool {
    flags.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR)
}

fn nonblocking(fd: impl AsFd) -> io::Result<()> {
    Ok(fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)?)
}

/// `false` when nobody reads any more.
fn write(to: &mut impl Write, bytes: &[u8]) -> io::Result<bool> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true),
    }
}

/// What was typed; nothing at the end, which a terminal that has gone is, too.
fn read_input() -> io::Result<Vec<u8>> {
    let mut piece = vec![0; PIECE];
    match io::stdin().read(&mut piece) {
        Ok(count) => piece.truncate(count),
        Err(error) if error.raw_os_error() == Some(libc::EIO) => piece.clear(),
        Err(error) => return Err(error),
    }
    Ok(piece)
}

/// What a foreground `run` or `attach` passes on.
pub struct Attached<'a> {
    pub stream: UnixStream,
    /// Standard input, too.
    pub interactive: bool,
    pub terminal: bool,
    /// Which of standard output and standard error are shown.
    pub outputs: [bool; 2],
    pub detach_keys: DetachKeys,
    /// Sends a signal to the container; without it signals are this program's own affair.
    pub signal: Option<&'a dyn Fn(i32)>,
}

/// Between the user and the container's supervisor, until one of them has enough.
pub fn relay(attached: Attached<'_>) -> io::Result<End> {
    let raw = if attached.terminal && attached.interactive { RawMode::begin()? } else { None };
    let signals = signals()?;
    let stdin = io::stdin();
    let (mut open, mut keys) = (attached.interactive, attached.detach_keys);
    let mut stream = attached.stream;
    stream.set_nonblocking(true)?;
    let mut outbox = Outbox::default();
    let (mut inbox, mut heard, mut asked) = (Vec::new(), false, 0);
    if attached.terminal {
        outbox.bytes.extend(size_frame());
    }
    loop {
        let takes_input = open && outbox.bytes.is_empty();
        let input = if takes_input { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut fds = vec![(stream.as_fd(), PollFlags::POLLIN | outbox.wants()), (signals.as_fd(), PollFlags::POLLIN)];
        if takes_input {
            fds.push((stdin.as_fd(), input));
        }
        let ready = wait(&fds)?;
        while let Some(info) = signals.read_signal()? {
            match info.ssi_signo as i32 {
                libc::SIGWINCH if attached.terminal => outbox.bytes.extend(size_frame()),
                libc::SIGWINCH => {}
                number => {
                    // In raw mode keys are not signals: whoever sends one means this program.
                    let Some(pass_on) = attached.signal.filter(|_| raw.is_none()) else {
                        return Ok(End::Interrupted(number));
                    };
                    asked += usize::from(matches!(number, libc::SIGINT | libc::SIGTERM));
                    if asked == PATIENCE {
                        return Ok(End::Interrupted(number));
                    }
                    pass_on(number);
                }
            }
        }
        if ready.get(2).is_some_and(|flags| readable(*flags)) {
            let typed = read_input()?;
            open = !typed.is_empty();
            let (passed, detached) = if raw.is_some() { keys.take(&typed) } else { (typed, false) };
            if detached {
                return Ok(End::Detached);
            }
            outbox.bytes.extend(input_frame(&passed, open, attached.terminal));
        }
        // A supervisor that takes nothing more has its last words read all the same.
        let taken = outbox.flush(&mut stream);
        if !taken {
            outbox.bytes.clear();
        }
        if readable(ready[0]) && !receive(&mut stream, &mut inbox)? {
            return Ok(deliver(&mut inbox, attached.outputs, &mut heard)?.unwrap_or(End::Lost { heard }));
        }
        if let Some(end) = deliver(&mut inbox, attached.outputs, &mut heard)? {
            return Ok(end);
        }
    }
}

fn size_frame() -> Vec<u8> {
    let (rows, columns) = size();
    let content = [rows.to_be_bytes(), columns.to_be_bytes()].concat();
    if rows == 0 { Vec::new() } else { encode(frame::RESIZE, &content) }
}

fn input_frame(typed: &[u8], open: bool, terminal: bool) -> Vec<u8> {
    match (open, terminal) {
        (true, _) if typed.is_empty() => Vec::new(),
        (true, _) => encode(frame::STDIN, typed),
        // A terminal has no end; what reads from it takes this byte for one.
        (false, true) => encode(frame::STDIN, &[END_OF_INPUT]),
        (false, false) => encode(frame::STDIN_END, &[]),
    }
}

/// `false` at the end of the stream.
fn receive(stream: &mut UnixStream, inbox: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = vec![0; PIECE];
    match stream.read(&mut piece) {
        Ok(count) => {
            inbox.extend_from_slice(&piece[..count]);
            Ok(count > 0)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
        Err(error) => Err(error),
    }
}

/// Passes on whole frames; the end, when one of them says it.
fn deliver(inbox: &mut Vec<u8>, outputs: [bool; 2], heard: &mut bool) -> io::Result<Option<End>> {
    while let Some((kind, content)) = decode(inbox)? {
        *heard = true;
        match kind {
            frame::STDOUT if !outputs[0] => {}
            frame::STDERR if !outputs[1] => {}
            frame::STDOUT if !write(&mut io::stdout(), &content)? => return Ok(Some(End::Interrupted(libc::SIGPIPE))),
            frame::STDERR => drop(write(&mut io::stderr(), &content)?),
            frame::EXIT => return Ok(content.try_into().ok().map(i32::from_be_bytes).map(End::Exited)),
            _ => {}
        }
    }
    Ok(None)
}

/// The caller's ends of an `exec` without a terminal.
pub struct Pipes {
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// Passes bytes and signals on until the process has ended and its output is read. A background process that it left
/// with the output open is not waited for.
pub fn relay_pipes(process: &Launched, pipes: Pipes) -> io::Result<()> {
    let signals = signals()?;
    let mut input = pipes.stdin.map(File::from);
    if let Some(input) = &input {
        nonblocking(input)?;
    }
    let mut outputs = [Some(File::from(pipes.stdout)), Some(File::from(pipes.stderr))];
    let stdin = io::stdin();
    let (mut open, mut outbox) = (input.is_some(), Outbox::default());
    loop {
        let mut fds = vec![(process.pidfd.as_fd(), PollFlags::POLLIN), (signals.as_fd(), PollFlags::POLLIN)];
        let listened: Vec<usize> = (0..2).filter(|index| outputs[*index].is_some()).collect();
        fds.extend(outputs.iter().flatten().map(|output| (output.as_fd(), PollFlags::POLLIN)));
        let typing = (open && outbox.bytes.is_empty()).then_some(fds.len());
        if typing.is_some() {
            fds.push((stdin.as_fd(), PollFlags::POLLIN));
        } else if let Some(input) = &input {
            fds.push((input.as_fd(), outbox.wants()));
        }
        let ready = wait(&fds)?;
        pass_signals(&signals, process)?;
        let mut heard = false;
        for (at, index) in listened.iter().enumerate().filter(|(at, _)| readable(ready[at + 2])) {
            debug_assert!(at < 2);
            heard = true;
            pass_output(&mut outputs[*index], *index)?;
        }
        if typing.is_some_and(|at| readable(ready[at])) {
            outbox.bytes = read_input()?;
            open = !outbox.bytes.is_empty();
        }
        let taken = input.as_mut().is_none_or(|input| outbox.flush(input));
        if !taken || (!open && outbox.bytes.is_empty()) {
            (input, open) = (None, false);
        }
        // What it wrote before its end was readable by then.
        if readable(ready[0]) && !heard {
            return Ok(());
        }
    }
}

fn pass_signals(signals: &SignalFd, process: &Launched) -> io::Result<()> {
    while let Some(info) = signals.read_signal()? {
        if info.ssi_signo as i32 != libc::SIGWINCH {
            // It may just have ended.
            drop(sys::pidfd_send_signal(process.pidfd.as_fd(), info.ssi_signo as i32));
        }
    }
    Ok(())
}

fn pass_output(output: &mut Option<File>, index: usize) -> io::Result<()> {
    let Some(file) = output else { return Ok(()) };
    let mut piece = vec![0; PIECE];
    let count = file.read(&mut piece)?;
    let heard = match (count, index) {
        (0, _) => false,
        (_, 0) => write(&mut io::stdout(), &piece[..count])?,
        _ => write(&mut io::stderr(), &piece[..count])?,
    };
    // The process learns from its closed end that nobody reads, as in any pipe.
    if !heard {
        *output = None;
    }
    Ok(())
}

/// Passes bytes on between the user's terminal and the process's own. `Exited` here only says that it has ended; its
/// code is for the caller to ask for.
pub fn relay_terminal(
    process: &Launched,
    terminal: OwnedFd,
    interactive: bool,
    mut keys: DetachKeys,
) -> io::Result<End> {
    let raw = if interactive { RawMode::begin()? } else { None };
    let signals = signals()?;
    let stdin = io::stdin();
    let (mut open, mut outbox) = (interactive, Outbox::default());
    let mut file = File::from(terminal);
    nonblocking(&file)?;
    loop {
        let mut fds = vec![
            (file.as_fd(), PollFlags::POLLIN | outbox.wants()),
            (signals.as_fd(), PollFlags::POLLIN),
            (process.pidfd.as_fd(), PollFlags::POLLIN),
        ];
        if open && outbox.bytes.is_empty() {
            fds.push((stdin.as_fd(), PollFlags::POLLIN));
        }
        let ready = wait(&fds)?;
        while let Some(info) = signals.read_signal()? {
            match info.ssi_signo as i32 {
                libc::SIGWINCH => resize(&file)?,
                number if raw.is_some() => return Ok(End::Interrupted(number)),
                number => drop(sys::pidfd_send_signal(process.pidfd.as_fd(), number)),
            }
        }
        if readable(ready[0]) {
            let mut piece = vec![0; PIECE];
            match file.read(&mut piece) {
                Ok(count) if count > 0 => {
                    if !write(&mut io::stdout(), &piece[..count])? {
                        return Ok(End::Interrupted(libc::SIGPIPE));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The last program has closed it.
                _ => return Ok(End::Exited(0)),
            }
        } else if readable(ready[2]) {
            return Ok(End::Exited(0));
        }
        if ready.get(3).is_some_and(|flags| readable(*flags)) {
            let typed = read_input()?;
            open = !typed.is_empty();
            let (passed, detached) = if raw.is_some() { keys.take(&typed) } else { (typed, false) };
            if detached {
                return Ok(End::Detached);
            }
            outbox.bytes = if open { passed } else { vec![END_OF_INPUT] };
        }
        if !outbox.flush(&mut file) {
            outbox.bytes.clear();
        }
    }
}

fn resize(terminal: &File) -> io::Result<()> {
    let (rows, columns) = size();
    if rows == 0 { Ok(()) } else { init::resize(&terminal.try_clone()?.into(), rows, columns) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_held_back_only_as_long_as_they_may_come() {
        let check = |inputs: &[&[u8]], expected: &[u8], detached: bool| {
            let mut keys = DetachKeys::new(vec![16, 17]);
            let mut passed = Vec::new();
            let mut done = false;
            for input in inputs {
                let (bytes, complete) = keys.take(input);
                passed.extend(bytes);
                done |= complete;
            }
            assert_eq!((passed.as_slice(), done), (expected, detached), "{inputs:?}");
        };
        check(&[b"abc"], b"abc", false);
        check(&[b"a\x10\x11b"], b"a", true);
        check(&[b"\x10", b"\x11"], b"", true);
        check(&[b"\x10", b"x"], b"\x10x", false);
        check(&[b"\x10\x10\x11"], b"\x10", true);
        check(&[b"\x10"], b"", false);
        let mut none = DetachKeys::new(Vec::new());
        assert_eq!(none.take(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }
}
