//! The process that keeps an ordinary user's namespaces: this program with the first word `holder`.
//!
//! It makes them, lets commands in, and opens sockets of the host's network for `netd` (see [`super::outside`]). When
//! the last command leaves and no other process is in the user namespace, it ends, and the namespaces with it: the next
//! command makes them anew, as after a reboot.
//!
//! On its socket (`RUN/holder.sock`) it greets with a byte, after which it stays at least until the connection ends;
//! each byte that it is sent asks for a socket.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use super::uplink::{self, Program, Uplink};
use super::{groups, ids, network_file, outside};
use crate::runtime::network::sandbox;
use crate::runtime::roots::Roots;
use crate::runtime::sys;

/// What it says on its standard output once it lets commands in; a warning may follow.
const READY: &str = "ready";
const GREETING: &[u8] = b"i";
/// What connects the network and ends sooner than this after its start is not started again.
const SHORT_LIFE: Duration = Duration::from_secs(5);

/// Where commands are let in.
pub fn socket(roots: &Roots) -> PathBuf {
    roots.volatile("holder.sock")
}

/// Why the network has no way out, as the last holder found it; for `doctor`.
pub fn complaint(roots: &Roots) -> Option<String> {
    fs::read_to_string(roots.volatile("uplink.error")).ok()
}

/// Starts a holder, where none is; whoever calls holds the lock. Gives what people are to be told.
///
/// # Errors
/// Why there can be none, for people.
pub fn start(roots: &Roots) -> Result<Option<String>, String> {
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
        READY => Ok(Some(rest.trim().to_owned()).filter(|rest| !rest.is_empty())),
        "" => Err("the process that makes it ended without a word".to_owned()),
        _ => Err(text.trim().to_owned()),
    }
}

/// The process. `search` is where programs are looked for, as the environment has it.
pub fn main(roots: &Roots, search: Option<OsString>) -> ExitCode {
    let search = search.unwrap_or_default();
    // Debian's ordinary users have no sbin there.
    let search = [search, "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into()].join(":".as_ref());
    match begin(roots, &search) {
        Ok(code) => code,
        Err(reason) => say(&reason),
    }
}

fn say(reason: &str) -> ExitCode {
    // Whoever waits may have gone.
    writeln!(io::stdout(), "{reason}").ok();
    ExitCode::FAILURE
}

/// Forks the process into new namespaces, gives it its ids from outside, and ends: it is nobody's child.
fn begin(roots: &Roots, search: &OsStr) -> Result<ExitCode, String> {
    let text = |error: io::Error| error.to_string();
    leave().map_err(text)?;
    let given = ids::given(search).ok();
    let (go, told) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|error| error.to_string())?;
    let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS;
    let Some((pid, pidfd)) = sys::clone_process(flags, None).map_err(refused)? else {
        drop(told);
        if wait(go).is_err() {
            // The other one says why.
            return Ok(ExitCode::FAILURE);
        }
        let begun = Holder::new(roots, uplink::programs(search));
        return Ok(match begun {
            Ok(holder) => holder.run(),
            Err(error) => say(&error.to_string()),
        });
    };
    drop(go);
    let done = ids::give(pid, given.as_ref()).and_then(|()| File::from(told).write_all(b"g").map_err(text));
    if done.is_err() {
        // It waits for a word that does not come.
        drop(sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL));
    }
    done.map(|()| ExitCode::SUCCESS)
}

/// What the kernel's refusal of a user namespace comes from.
fn refused(error: io::Error) -> String {
    let cause = match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EUSERS) => " (user.max_user_namespaces)",
        Some(libc::EPERM | libc::EACCES) => " (the host's settings forbid it to ordinary users)",
        Some(libc::EINVAL) => " (this kernel has none)",
        _ => "",
    };
    format!("{error}{cause}")
}

fn wait(go: OwnedFd) -> io::Result<()> {
    File::from(go).read_exact(&mut [0])
}

/// Takes nothing along from whoever typed the command.
fn leave() -> io::Result<()> {
    nix::unistd::setsid()?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    std::env::set_current_dir("/")?;
    sys::close_from(3)
}

struct Holder {
    roots: Roots,
    listener: UnixListener,
    clients: Vec<UnixStream>,
    programs: Vec<Program>,
    uplink: Option<Uplink>,
}

impl Holder {
    /// In the user namespace, whose root this process is.
    fn new(roots: &Roots, programs: Vec<Program>) -> io::Result<Self> {
        let at = |what: &'static str| move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)
            .map_err(|error| at("mount namespace")(error.into()))?;
        groups::show(&roots.key()).map_err(at("control groups"))?;
        make_network(roots).map_err(at("network namespace"))?;
        let (socket, error) = (socket(roots), roots.volatile("uplink.error"));
        for path in [&socket, &error] {
            remove(path)?;
        }
        let mut words = READY.to_owned();
        let uplink = match uplink::start(&programs, &network_file(roots), &roots.run) {
            Ok(uplink) => Some(uplink),
            Err(reason) => {
                fs::write(&error, &reason)?;
                words = format!("{READY}\ncontainers reach each other, but nothing outside: {reason}");
                None
            }
        };
        let listener = UnixListener::bind(&socket).map_err(at("socket"))?;
        listener.set_nonblocking(true)?;
        // Its starter may have been killed; the next command comes all the same.
        writeln!(io::stdout(), "{words}").ok();
        let null = File::options().write(true).open("/dev/null")?;
        nix::unistd::dup2_stdout(&null)?;
        Ok(Self { roots: roots.clone(), listener, clients: Vec::new(), programs, uplink })
    }

    fn run(mut self) -> ExitCode {
        loop {
            let Ok(ready) = self.wait() else { return ExitCode::FAILURE };
            let before = self.clients.len();
            // From the last to the first, so that the numbers of the others stay.
            for index in ready.iter().rev().copied() {
                if serve(&self.clients[index]).is_err() {
                    drop(self.clients.remove(index));
                }
            }
            let left = self.clients.len() < before;
            self.accept();
            if left && self.clients.is_empty() && self.is_alone() {
                return self.end();
            }
        }
    }

    /// The clients that have said something or have left.
    fn wait(&mut self) -> nix::Result<Vec<usize>> {
        let uplink = self.uplink.as_ref().map(|uplink| uplink.process.as_fd());
        let all = self.clients.iter().map(AsFd::as_fd).chain([self.listener.as_fd()]).chain(uplink);
        let mut all: Vec<PollFd<'_>> = all.map(|fd: BorrowedFd<'_>| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut all, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error),
        }
        let fired = |one: &PollFd<'_>| one.revents().is_some_and(|flags| !flags.is_empty());
        let count = self.clients.len();
        let ready = all[..count].iter().enumerate().filter(|(_, one)| fired(one)).map(|(index, _)| index).collect();
        if all.get(count + 1).is_some_and(fired) {
            self.connect_again();
        }
        Ok(ready)
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

    /// Whether no other process is in the user namespace, but for what connects the network.
    fn is_alone(&self) -> bool {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).ok();
        let Some(own) = namespace("self") else { return false };
        let number = std::process::id().to_string();
        let Ok(all) = fs::read_dir("/proc") else { return false };
        let pids = all.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut others = pids.filter(|pid| *pid != number && namespace(pid).as_ref() == Some(&own));
        !others.any(|pid| !is_uplink(&pid))
    }

    fn end(self) -> ExitCode {
        if let Some(uplink) = self.uplink {
            uplink.end();
        }
        // What is left there is of namespaces that are gone in a moment.
        for name in ["holder.sock", "pasta.pid", "pasta.log", "uplink.error"] {
            remove(&self.roots.volatile(name)).ok();
        }
        ExitCode::SUCCESS
    }
}

fn is_uplink(pid: &str) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    ["pasta", "slirp4netns", "passt"].iter().any(|known| name.starts_with(known))
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
