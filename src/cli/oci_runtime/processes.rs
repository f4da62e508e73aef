//! `create`, `run` and `exec`: what makes processes.

use std::fs;
use std::io::{self, IoSlice, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use oci_spec::runtime::{Capability, LinuxCapabilities, Process, Spec};

use super::args;
use super::{Done, Failure, now, write_pid};
use crate::cli::terminal;
use crate::runtime::bundle::{self, Create, Exec, Room, Scope};
use crate::runtime::cgroup::Cgroup;
use crate::runtime::container::exec;
use crate::runtime::init::{Launched, Stdio};
use crate::runtime::systemd;

pub fn create(room: &Room, wanted: &args::Create, systemd: bool) -> Done {
    made(room, wanted, systemd).map(|_| ExitCode::SUCCESS)
}

/// The container with its terminal given away, where it has one and somebody wants it.
fn made(room: &Room, wanted: &args::Create, systemd: bool) -> Result<(Launched, Spec), Failure> {
    if wanted.no_pivot {
        return Err("--no-pivot is not supported: the root is always changed by pivot_root(2)".into());
    }
    let bundle = fs::canonicalize(&wanted.bundle);
    let bundle = bundle.map_err(|error| format!("--bundle {}: {error}", wanted.bundle.display()))?;
    let spec = bundle::read_config(&bundle.join("config.json"))?;
    let console = console(spec.process().as_ref(), wanted.console_socket.as_deref())?;
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    let (cgroup, scope) = cgroup(path.as_deref(), &wanted.id, systemd, systemd && is_managed()?)?;
    let stdio = stdio(spec.process().as_ref())?;
    let preserved = preserved(wanted.preserve_fds);
    let plain_lines = plain_lines(console.is_some());
    let (id, bundle, cgroup) = (wanted.id.as_str(), bundle.as_path(), cgroup.as_str());
    let create = Create { id, bundle, cgroup, scope, stdio, preserved, plain_lines, now: now() };
    let mut launched = bundle::create(room, &spec, create)?;
    let told = tell(&mut launched, console, wanted.pidfd_socket.as_deref(), wanted.pid_file.as_deref());
    if let Err(failure) = told {
        room.delete(&wanted.id, true)?;
        return Err(failure);
    }
    Ok((launched, spec))
}

/// With those of a service that is started by its sockets (sd_listen_fds(3)).
fn preserved(asked: u32) -> u32 {
    let listening = std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse::<u32>().ok());
    asked + listening.unwrap_or(0)
}

/// Where the control group of a container is: below each hierarchy, and in which unit where systemd is to make it.
type Place = (String, Option<Scope>);

/// Without systemd there is nobody to make slices, so its names become directories of the same tree that it would have.
fn cgroup(path: Option<&Path>, id: &str, systemd: bool, is_running: bool) -> Result<Place, Failure> {
    let path = path.filter(|path| !path.as_os_str().is_empty());
    let text = path.map_or(Some(""), Path::to_str).ok_or("linux.cgroupsPath is no text")?;
    if path.is_some_and(|path| path.components().any(|part| part == std::path::Component::ParentDir)) {
        return Err(format!("linux.cgroupsPath {text:?} leads out of the groups").into());
    }
    if !systemd {
        return Ok((if text.is_empty() { id } else { text.trim_start_matches('/') }.to_owned(), None));
    }
    let whole = if text.is_empty() { format!(":stack:{id}") } else { text.to_owned() };
    let [slice, prefix, name] = whole.split(':').collect::<Vec<_>>()[..] else {
        return Err(format!("linux.cgroupsPath {text:?}: with --systemd-cgroup it is slice:prefix:name").into());
    };
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let unit = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
    let scope = is_running.then(|| Scope { slice: slice.to_owned(), unit: unit.clone() });
    Ok((systemd::path(slice, &unit), scope))
}

/// Whether systemd is there to make groups.
///
/// # Errors
/// Where it is, and has several hierarchies.
fn is_managed() -> Result<bool, Failure> {
    if systemd::is_running() && !Cgroup::named("").is_unified() {
        return Err(
            "--systemd-cgroup is not supported where systemd has control groups of version 1: have the engine \
                    use the cgroupfs driver (`native.cgroupdriver=cgroupfs`, `cgroup_manager = \"cgroupfs\"`)"
                .into(),
        );
    }
    Ok(systemd::is_running())
}

fn has_terminal(process: Option<&Process>) -> bool {
    process.and_then(Process::terminal).unwrap_or(false)
}

/// Whoever reads a file or a pipe wants lines to end as the program ends them; a terminal is its owner's affair.
fn plain_lines(is_given_away: bool) -> bool {
    !is_given_away && !io::stdout().is_terminal()
}

/// Where the terminal is to be sent.
fn console(process: Option<&Process>, socket: Option<&Path>) -> Result<Option<UnixStream>, Failure> {
    match (socket, has_terminal(process)) {
        (Some(_), false) => Err("--console-socket is for a process with a terminal alone".into()),
        (Some(path), true) => {
            let opened = UnixStream::connect(path);
            opened.map(Some).map_err(|error| format!("--console-socket {}: {error}", path.display()).into())
        }
        (None, _) => Ok(None),
    }
}

/// This process's own, or a terminal to be made.
fn stdio(process: Option<&Process>) -> Result<Stdio, Failure> {
    if has_terminal(process) {
        let (rows, columns) = match process.and_then(Process::console_size) {
            Some(size) => (size.height() as u16, size.width() as u16),
            None => terminal::size(),
        };
        return Ok(Stdio::Terminal { rows, columns });
    }
    let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
    Ok(Stdio::Pipes {
        stdin: Some(copy(io::stdin().as_fd())?),
        stdout: copy(io::stdout().as_fd())?,
        stderr: copy(io::stderr().as_fd())?,
    })
}

/// Gives its terminal, its descriptor and its number to whoever asked for them.
fn tell(
    launched: &mut Launched,
    console: Option<UnixStream>,
    pidfd: Option<&Path>,
    pid: Option<&Path>,
) -> Result<(), Failure> {
    if let Some(console) = console {
        let terminal = launched.terminal.take().ok_or("the process has no terminal to give away")?;
        send(&console, "/dev/ptmx", &terminal).map_err(|error| format!("--console-socket: {error}"))?;
    }
    if let Some(path) = pidfd {
        let sent = UnixStream::connect(path).and_then(|socket| send(&socket, "pidfd", &launched.pidfd));
        sent.map_err(|error| format!("--pidfd-socket {}: {error}", path.display()))?;
    }
    pid.map_or(Ok(()), |path| write_pid(path, launched.pid))
}

fn send(socket: &UnixStream, name: &str, descriptor: &OwnedFd) -> io::Result<()> {
    let fds = [descriptor.as_raw_fd()];
    let name = [IoSlice::new(name.as_bytes())];
    sendmsg::<()>(socket.as_raw_fd(), &name, &[ControlMessage::ScmRights(&fds)], MsgFlags::empty(), None)?;
    Ok(())
}

pub fn run(room: &Room, wanted: &args::Run, systemd: bool) -> Done {
    let (mut launched, spec) = made(room, &wanted.create, systemd)?;
    let id = &wanted.create.id;
    if wanted.detach && has_terminal(spec.process().as_ref()) && wanted.create.console_socket.is_none() {
        room.delete(id, true)?;
        return Err("a terminal of a container that is left alone needs --console-socket".into());
    }
    if let Err(error) = bundle::start(room, id) {
        room.delete(id, true)?;
        return Err(error.into());
    }
    if wanted.detach {
        return Ok(ExitCode::SUCCESS);
    }
    let ended = follow(&mut launched);
    if !wanted.keep {
        room.delete(id, true)?;
    }
    ended
}

/// Until its end, with its terminal in this one.
fn follow(launched: &mut Launched) -> Done {
    if let Some(master) = launched.terminal.take() {
        terminal::relay_terminal(launched, master, true, terminal::DetachKeys::new(Vec::new()))?;
    }
    Ok(ExitCode::from(exec::wait(launched)? as u8))
}

/// As runc's: 255 where there was no process whose code could be passed on.
pub fn exec(room: &Room, wanted: &args::Exec) -> Done {
    executed(room, wanted).map_err(|failure| Failure { code: 255, ..failure })
}

fn executed(room: &Room, wanted: &args::Exec) -> Done {
    let process = process(room, wanted)?;
    let console = console(Some(&process), wanted.console_socket.as_deref())?;
    if wanted.detach && has_terminal(Some(&process)) && console.is_none() {
        return Err("a terminal of a process that is left alone needs --console-socket".into());
    }
    let exec = Exec {
        process: &process,
        stdio: stdio(Some(&process))?,
        preserved: preserved(wanted.preserve_fds),
        plain_lines: plain_lines(console.is_some()),
        ignore_paused: wanted.ignore_paused,
        groups: &wanted.cgroup,
    };
    let mut launched = room.exec(&wanted.id, exec)?;
    tell(&mut launched, console, wanted.pidfd_socket.as_deref(), wanted.pid_file.as_deref())?;
    if wanted.detach { Ok(ExitCode::SUCCESS) } else { follow(&mut launched) }
}

fn process(room: &Room, wanted: &args::Exec) -> Result<Process, Failure> {
    if let Some(path) = &wanted.process {
        let process = bundle::read_process(&read(path)?);
        let mut process = process.map_err(|error| format!("--process {}: {error}", path.display()))?;
        if process.capabilities().is_none() {
            process.set_capabilities(room.process_of(&wanted.id)?.capabilities().clone());
        }
        return Ok(process);
    }
    let mut process = room.process_of(&wanted.id)?;
    if wanted.apparmor.is_some() {
        process.set_apparmor_profile(wanted.apparmor.clone());
    }
    if wanted.process_label.is_some() {
        process.set_selinux_label(wanted.process_label.clone());
    }
    process.set_args(Some(wanted.args.clone()));
    process.set_terminal(Some(wanted.tty));
    process.set_console_size(None);
    let env = process.env().clone().unwrap_or_default().into_iter().chain(wanted.env.iter().cloned());
    process.set_env(Some(env.collect()));
    if let Some(cwd) = &wanted.cwd {
        process.set_cwd(cwd.clone());
    }
    if wanted.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    let mut user = process.user().clone();
    if let Some(text) = &wanted.user {
        let (uid, gid) = text.split_once(':').unwrap_or((text, ""));
        let number = |text: &str| text.parse::<u32>().map_err(|_| format!("--user {text:?}: a number is meant"));
        user.set_uid(number(uid)?);
        if !gid.is_empty() {
            user.set_gid(number(gid)?);
        }
    }
    if !wanted.additional_gids.is_empty() {
        user.set_additional_gids(Some(wanted.additional_gids.clone()));
    }
    process.set_user(user);
    add_capabilities(&mut process, &wanted.cap)?;
    Ok(process)
}

fn add_capabilities(process: &mut Process, names: &[String]) -> Result<(), Failure> {
    let mut sets: LinuxCapabilities = process.capabilities().clone().unwrap_or_default();
    for name in names {
        let full = name.to_uppercase();
        let full = if full.starts_with("CAP_") { full } else { format!("CAP_{full}") };
        let one: Capability =
            serde_json::from_value(full.into()).map_err(|_| format!("--cap {name:?}: no such capability"))?;
        let with = |set: &Option<std::collections::HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(one);
            Some(set)
        };
        sets.set_bounding(with(sets.bounding()));
        sets.set_effective(with(sets.effective()));
        sets.set_permitted(with(sets.permitted()));
        if sets.inheritable().is_some() {
            sets.set_ambient(with(sets.ambient()));
        }
    }
    process.set_capabilities(Some(sets));
    Ok(())
}

/// `-` is standard input.
pub fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let read = match path.to_str() {
        Some("-") => io::Read::read_to_end(&mut io::stdin(), &mut text),
        _ => fs::File::open(path).and_then(|mut file| io::Read::read_to_end(&mut file, &mut text)),
    };
    read.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_the_names_that_engines_give_them() {
        let of = |path: &str, systemd| cgroup(Some(Path::new(path)), "id", systemd, true).ok();
        let plain = |name: &str| Some((name.to_owned(), None));
        assert_eq!(of("/docker/abc", false), plain("docker/abc"));
        assert_eq!(of("", false), plain("id"));
        assert_eq!(of("/a/../b", false), None);
        let in_scope = |slice: &str, unit: &str, path: &str| {
            Some((path.to_owned(), Some(Scope { slice: slice.to_owned(), unit: unit.to_owned() })))
        };
        let docker = in_scope("system.slice", "docker-abc.scope", "system.slice/docker-abc.scope");
        assert_eq!(of("system.slice:docker:abc", true), docker);
        assert_eq!(of("a-b.slice:x:y", true), in_scope("a-b.slice", "x-y.scope", "a.slice/a-b.slice/x-y.scope"));
        assert_eq!(of("", true), in_scope("system.slice", "stack-id.scope", "system.slice/stack-id.scope"));
        assert_eq!(of("/plain", true), None);
        let without = cgroup(Some(Path::new("system.slice:docker:abc")), "id", true, false).ok();
        assert_eq!(without, plain("system.slice/docker-abc.scope"));
    }
}
