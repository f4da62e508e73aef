//! The process that keeps an ordinary user's namespaces: this program with the first word `holder`.
//!
//! It makes them, lets commands in, and opens sockets of the host's network for `netd` (see [`super::outside`]). When
//! the last command has left and no other process is in the user namespace, it ends, and the namespaces with it: the
//! next command makes them anew, as after a reboot. When it is killed while others live on there, the next command
//! starts another one in the same namespaces (see `survivors`).
//!
//! On its socket (`RUN/holder.sock`) it greets with a byte, after which it stays at least until the connection ends;
//! each byte that it is sent asks for a socket.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use super::birth::{self, Birth};
use super::uplink::{self, Program, Uplink};
use super::{groups, network_file, outside, survivors};
use crate::runtime::container;
use crate::runtime::network::sandbox;
use crate::runtime::roots::Roots;
use crate::runtime::state::{Contention, Lock};

/// What it says on its standard output once it lets commands in; warnings may follow.
const READY: &str = "ready";
const BETWEEN: &str = "\n\n";
const GREETING: &[u8] = b"i";
/// What connects the network and ends sooner than this after its start is not started again.
const SHORT_LIFE: Duration = Duration::from_secs(5);
/// How long who started it may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where commands are let in.
pub fn socket(roots: &Roots) -> PathBuf {
    roots.volatile("holder.sock")
}

/// Why the network has no way out, as the last holder found it; for `doctor`.
pub fn complaint(roots: &Roots) -> Option<String> {
    fs::read_to_string(roots.volatile("uplink.error")).ok()
}

/// Held by who starts one, and by one that takes leave.
pub fn lock(roots: &Roots) -> PathBuf {
    roots.volatile("locks").join("holder")
}

/// Starts a holder, where none is; whoever calls holds the lock. Gives what people are to be told.
///
/// # Errors
/// Why there can be none, for people.
pub fn start(roots: &Roots) -> Result<Vec<String>, String> {
    let mut child = Command::new(&roots.program)
        .args(["holder".as_ref(), "--root".as_ref(), roots.root.as_os_str(), "--run-root".as_ref()])
        .arg(&roots.run)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut text = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut text).map_err(|error| error.to_string())?;
    }
    child.wait().map_err(|error| error.to_string())?;
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    match first {
        READY => Ok(rest.split(BETWEEN).map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect()),
        "" => Err("the process that makes it ended without a word".to_owned()),
        _ => Err(text.trim().to_owned()),
    }
}

/// The process. `search` is where programs are looked for, as the environment has it.
pub fn main(roots: &Roots, search: Option<OsString>) -> ExitCode {
    let search = search.unwrap_or_default();
    // Debian's ordinary users have no sbin there.
    let search = [search, "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into()].join(":".as_ref());
    let begun = birth::begin(roots, &search).and_then(|birth| {
        let holder = Holder::new(roots, birth, uplink::programs(&search));
        holder.map_err(|error| error.to_string())
    });
    match begun {
        Ok(Some(holder)) => holder.run(),
        Ok(None) => ExitCode::SUCCESS,
        Err(reason) => say(&reason),
    }
}

fn say(reason: &str) -> ExitCode {
    // Whoever waits may have gone.
    writeln!(io::stdout(), "{reason}").ok();
    ExitCode::FAILURE
}

struct Holder {
    roots: Roots,
    listener: UnixListener,
    clients: Vec<UnixStream>,
    /// One of the processes for which it stays when no command is there.
    other: Option<OwnedFd>,
    programs: Vec<Program>,
    uplink: Option<Uplink>,
}

/// What has happened meanwhile.
struct Events {
    /// The clients that have said something or have left.
    clients: Vec<usize>,
    /// Whether the other process has ended.
    other: bool,
    /// Whether nobody has come since it began.
    idle: bool,
}

impl Holder {
    /// In the user namespace, whose root this process is; `None` where it is not the one that is to stay.
    fn new(roots: &Roots, birth: Birth, programs: Vec<Program>) -> io::Result<Option<Self>> {
        let mut words = vec![READY.to_owned()];
        match birth {
            Birth::Over => return Ok(None),
            Birth::Again => {}
            Birth::New { ended } => {
                make(roots)?;
                if ended > 0 {
                    words.push(format!(
                        "{ended} processes of containers that nobody supervised any more were ended\n  help: they are \
                         started again by `stack start` or `stack apply`"
                    ));
                }
            }
        }
        let error = roots.volatile("uplink.error");
        for path in [&socket(roots), &error] {
            remove(path)?;
        }
        let (namespace, is_new) = (network_file(roots), !matches!(birth, Birth::Again));
        let uplink = match uplink::take_or_start(&programs, &namespace, &roots.run, is_new) {
            Ok(uplink) => Some(uplink),
            Err(reason) => {
                fs::write(&error, &reason)?;
                words.push(format!(
                    "containers reach each other, but nothing outside: {reason}\n  help: `stack doctor` says what this \
                     host lacks"
                ));
                None
            }
        };
        let listener = UnixListener::bind(socket(roots)).map_err(at("socket"))?;
        listener.set_nonblocking(true)?;
        // Its starter may have been killed; the next command comes all the same.
        writeln!(io::stdout(), "{}", words.join(BETWEEN)).ok();
        let null = File::options().write(true).open("/dev/null")?;
        nix::unistd::dup2_stdout(&null)?;
        Ok(Some(Self { roots: roots.clone(), listener, clients: Vec::new(), other: None, programs, uplink }))
    }

    fn run(mut self) -> ExitCode {
        loop {
            let Ok(events) = self.wait() else { return ExitCode::FAILURE };
            let before = self.clients.len();
            // From the last to the first, so that the numbers of the others stay.
            for index in events.clients.iter().rev().copied() {
                if serve(&self.clients[index]).is_err() {
                    drop(self.clients.remove(index));
                }
            }
            let left = self.clients.len() < before;
            self.accept();
            if (left || events.other || events.idle) && self.clients.is_empty() {
                self.other = survivors::another(&self.roots, uplink::is_one);
                if self.other.is_none() && self.end() {
                    return ExitCode::SUCCESS;
                }
            }
        }
    }

    fn wait(&mut self) -> nix::Result<Events> {
        let uplink = self.uplink.as_ref().map(|uplink| uplink.process.as_fd());
        // A command that is there says itself when it leaves.
        let other = self.other.as_ref().filter(|_| self.clients.is_empty()).map(AsFd::as_fd);
        let fixed = [Some(self.listener.as_fd()), uplink, other];
        let places = fixed.map(|one| one.is_some());
        let all = self.clients.iter().map(AsFd::as_fd).chain(fixed.into_iter().flatten());
        let mut all: Vec<PollFd<'_>> = all.map(|fd: BorrowedFd<'_>| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let is_idle = self.clients.is_empty() && other.is_none();
        let timeout =
            if is_idle { PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX) } else { PollTimeout::NONE };
        let idle = match poll(&mut all, timeout) {
            Ok(count) => count == 0,
            Err(nix::Error::EINTR) => false,
            Err(error) => return Err(error),
        };
        let mut fired = all.iter().map(|one| one.revents().is_some_and(|flags| !flags.is_empty()));
        let clients = (0..self.clients.len()).filter(|_| fired.next() == Some(true)).collect();
        let [_, uplink, other] = places.map(|is_there| is_there && fired.next() == Some(true));
        if uplink {
            self.connect_again();
        }
        Ok(Events { clients, other, idle })
    }

    /// What connects the network has ended.
    fn connect_again(&mut self) {
        let Some(ended) = self.uplink.take() else { return };
        // Not a child where it went to the background by itself.
        waitid(Id::PIDFd(ended.process.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG).ok();
        if ended.begun.elapsed() < SHORT_LIFE {
            let reason = "what connected it ended at once";
            fs::write(self.roots.volatile("uplink.error"), reason).ok();
            return;
        }
        match uplink::start(&self.programs, &network_file(&self.roots), &self.roots.run) {
            Ok(uplink) => self.uplink = Some(uplink),
            Err(reason) => fs::write(self.roots.volatile("uplink.error"), reason).unwrap_or_default(),
        }
    }

    fn accept(&mut self) {
        while let Ok((mut stream, _)) = self.listener.accept() {
            // The first bytes of a connection always fit.
            if stream.set_nonblocking(true).is_ok() && stream.write_all(GREETING).is_ok() {
                self.clients.push(stream);
            }
        }
    }

    /// Takes leave, unless somebody comes at this very moment: who finds no socket waits for the lock.
    fn end(&mut self) -> bool {
        let Ok(_lock) = Lock::take(&lock(&self.roots), Contention::Refuse) else { return false };
        self.accept();
        if !self.clients.is_empty() {
            return false;
        }
        if let Some(uplink) = self.uplink.take() {
            uplink.end();
        }
        groups::remove(&self.roots.key());
        // The network's file is a mount of a namespace that is gone in a moment.
        let network = network_file(&self.roots);
        umount2(&network, MntFlags::MNT_DETACH).ok();
        let names = ["holder.sock", "namespaces", "network", "pasta.pid", "pasta.log", "uplink.error"];
        for name in names {
            remove(&self.roots.volatile(name)).ok();
        }
        true
    }
}

/// What a new mount namespace is to have.
fn make(roots: &Roots) -> io::Result<()> {
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>).map_err(|error| at("mount namespace")(error.into()))?;
    groups::show(&roots.key()).map_err(at("control groups"))?;
    make_network(roots).map_err(at("network namespace"))?;
    container::bury(roots).map_err(io::Error::other)?;
    survivors::note(roots).map_err(at("namespaces"))
}

fn at(what: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// All that a client asks for at this moment.
///
/// # Errors
/// Also when it has left.
fn serve(mut stream: &UnixStream) -> io::Result<()> {
    let mut word = [0];
    loop {
        match stream.read(&mut word) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => outside::answer(stream, word[0])?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The network namespace, held by a mount of it on a file. This thread's own stays the host's.
fn make_network(roots: &Roots) -> io::Result<()> {
    let file = network_file(roots);
    // What connected a namespace of before sees by this that it is gone.
    remove(&file)?;
    File::create(&file)?;
    let thread = std::thread::Builder::new().name("network".into()).spawn(move || -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        sandbox::set_loopback_up()?;
        Ok(mount(Some("/proc/thread-self/ns/net"), &file, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes it failed")))
}
