//! `create` and `start`: between the two the first process waits at the gate, with all that makes the container done.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxResources, Spec};

use super::hooks::{self, Kind};
use super::state::{State, Status};
use super::{Error, Room, Scope, check_id, config, files, io_at, limits, listener, users};
use crate::runtime::cgroup::Cgroup;
use crate::runtime::container::ProcessId;
use crate::runtime::init::{self, Hold, InitError, Launched, Stdio};
use crate::runtime::systemd;

const VERSION: u32 = 1;

/// What a container is made from.
pub struct Create<'a> {
    pub id: &'a str,
    pub bundle: &'a Path,
    /// Below each hierarchy of control groups.
    pub cgroup: &'a str,
    /// The unit of it, where systemd is to make it.
    pub scope: Option<Scope>,
    pub stdio: Stdio,
    /// How many descriptors from 3 on the first process is to find open.
    pub preserved: u32,
    /// As [`Hold::plain_lines`].
    pub plain_lines: bool,
    /// RFC 3339.
    pub now: String,
}

/// Makes the container; returns when its first process waits at the gate.
/// Must be called from a process with one thread.
///
/// # Errors
/// Nothing of the container is left then.
pub fn create(room: &Room, spec: &Spec, create: Create<'_>) -> Result<Launched, Error> {
    check_id(create.id)?;
    config::check(spec)?;
    let launcher = room.launcher()?;
    let directory = room.directory(create.id);
    if directory.exists() {
        return Err(Error::Exists(create.id.to_owned()));
    }
    let group = Cgroup::named(create.cgroup);
    if !group.processes().is_empty() {
        return Err(Error::Used { group: create.cgroup.to_owned() });
    }
    if group.is_frozen() {
        return Err(Error::Frozen { group: create.cgroup.to_owned() });
    }
    match fs::DirBuilder::new().mode(0o711).create(&directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(Error::Exists(create.id.to_owned())),
        made => made.map_err(io_at(directory.display().to_string()))?,
    }
    let scope = create.scope.clone();
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let resources = resources.map(limits::with_devices).unwrap_or_default();
    // A unit of this name that is there already is another's, as is all that is in it.
    let placeholder = scope.as_ref().map(|scope| scope.start(create.id, &resources)).transpose();
    let placeholder = placeholder.inspect_err(|_| given_up("its directory", fs::remove_dir_all(&directory)))?;
    let made = make(spec, create, &directory, &launcher, &group, &resources);
    drop(placeholder);
    if made.is_err() {
        given_up("its control group", group.remove());
        given_up("its unit", scope.map_or(Ok(()), |scope| systemd::stop(&scope.unit)));
        given_up("its directory", fs::remove_dir_all(&directory));
    }
    made
}

/// What failed is what the caller is told; what of it can't be removed is said in the log.
fn given_up<E: std::fmt::Display>(what: &str, removed: Result<(), E>) {
    if let Err(error) = removed {
        tracing::warn!(%error, what, "remove what was made");
    }
}

fn make(
    spec: &Spec,
    create: Create<'_>,
    directory: &Path,
    launcher: &Path,
    group: &Cgroup,
    resources: &LinuxResources,
) -> Result<Launched, Error> {
    let mut spec = spec.clone();
    let users = users::namespace(&mut spec)?;
    let root = spec.root().as_ref().map_or(Path::new("rootfs"), |root| root.path());
    let root = create.bundle.join(root);
    let rootfs = root.canonicalize().map_err(io_at(format!("root.path {}", root.display())))?;
    config::settle_paths(&mut spec, create.bundle, &rootfs);
    let spec = &spec;
    let mut state = State {
        version: VERSION,
        id: create.id.to_owned(),
        bundle: create.bundle.to_owned(),
        rootfs: rootfs.clone(),
        process: ProcessId::of(0),
        cgroup: create.cgroup.to_owned(),
        scope: create.scope.as_ref().map(|scope| scope.unit.clone()),
        created: create.now,
        annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect::<BTreeMap<_, _>>(),
    };
    files::write_json_volatile(&directory.join("config.json"), spec)?;
    files::write_json_volatile(&directory.join("state.json"), &state)?;
    group.create()?;
    group.limit(resources)?;
    tracing::debug!(group = create.cgroup, "control group made");
    let outside = |pid: i32| {
        let mut state = state.clone();
        state.process = ProcessId::of(pid);
        let text = state.text(Status::Creating);
        let run = |kind| hooks::run(hooks::of(spec, kind), kind, &text, &[]);
        run(Kind::Prestart).and_then(|()| run(Kind::CreateRuntime)).map_err(told)
    };
    let inside = |kind: Kind, status: Status, env: &[String]| {
        let mut state = state.clone();
        state.process = ProcessId::of(std::process::id() as i32);
        hooks::run(hooks::of(spec, kind), kind, &state.text(status), env).map_err(told)
    };
    let asked = |pid: i32, descriptor: OwnedFd| {
        let mut state = state.clone();
        state.process = ProcessId::of(pid);
        listener::tell(spec, &state, Status::Creating, pid, &descriptor)
    };
    let launched = init::launch(init::Launch {
        spec,
        rootfs: &rootfs,
        cgroup: group,
        stdio: create.stdio,
        launcher,
        user: "",
        groups: &[],
        reaper: false,
        lasting: true,
        users: users.as_ref(),
        mounts: Vec::new(),
        hold: Some(Hold {
            gate: fifo(&directory.join("gate"))?,
            outcome: fifo(&directory.join("outcome"))?,
            when_mounted: &outside,
            before_pivot: &|| inside(Kind::CreateContainer, Status::Creating, &[]),
            before_program: &|env| inside(Kind::StartContainer, Status::Created, env),
            when_asked: &asked,
            preserved: create.preserved,
            plain_lines: create.plain_lines,
        }),
    })?;
    state.process = ProcessId::of(launched.pid);
    files::write_json_volatile(&directory.join("state.json"), &state)?;
    tracing::debug!(pid = launched.pid, "first process waits to be started");
    Ok(launched)
}

fn told(error: Error) -> InitError {
    InitError::Step { step: "hook".into(), reason: error.to_string() }
}

/// Held at both ends by who opens it so: nobody who reads it sees its end while that process lives.
fn fifo(path: &PathBuf) -> Result<OwnedFd, Error> {
    let about = || path.display().to_string();
    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|error| io_at(about())(error.into()))?;
    let opened = File::options().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path);
    Ok(opened.map_err(io_at(about()))?.into())
}

/// Lets the first process go on, and returns when it runs its program.
///
/// # Errors
/// [`Error::Wrong`] where it was started before; [`Error::Start`] where the program can't be executed.
pub fn start(room: &Room, id: &str) -> Result<(), Error> {
    let mut state = room.get(id)?;
    let status = room.status(&state);
    if status != Status::Created {
        return Err(Error::Wrong { what: "start", id: id.to_owned(), status });
    }
    let spec = room.spec(id)?;
    let directory = room.directory(id);
    let (gate, outcome) = (directory.join("gate"), directory.join("outcome"));
    let gone = |_| Error::NotRunning { id: id.to_owned(), status: Status::Stopped };
    // Who opens the gate without waiting is refused when nobody waits at it any more.
    let mut waiting = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&gate).map_err(gone)?;
    let mut words = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&outcome).map_err(gone)?;
    fs::remove_file(&gate).map_err(io_at(gate.display().to_string()))?;
    waiting.write_all(b"g").map_err(gone)?;
    drop(waiting);
    let said = read_all(&mut words).map_err(io_at(outcome.display().to_string()))?;
    let args = spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default();
    init::outcome(&said, args.first().map_or("", String::as_str))?;
    tracing::debug!(pid = state.process.pid, "program runs");
    state.process = ProcessId::of(state.process.pid);
    let text = state.text(Status::Running);
    hooks::run(hooks::of(&spec, Kind::Poststart), Kind::Poststart, &text, &[])
}

/// All that comes until nobody has the other end open.
fn read_all(file: &mut File) -> io::Result<Vec<u8>> {
    let flags = nix::fcntl::OFlag::from_bits_truncate(nix::fcntl::fcntl(&*file, nix::fcntl::FcntlArg::F_GETFL)?);
    nix::fcntl::fcntl(&*file, nix::fcntl::FcntlArg::F_SETFL(flags - nix::fcntl::OFlag::O_NONBLOCK))?;
    let mut said = Vec::new();
    file.read_to_end(&mut said)?;
    Ok(said)
}
