//! The supervisor's loop: waits for whatever happens next, and acts on the state that it sees then.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use oci_spec::runtime::{LinuxResources, Spec};

use super::check::{self, Check};
use super::clients::{Clients, Wish};
use super::joined::{self, Joined};
use super::output::Writer;
use super::policy::{self, HealthState};
use super::{mount_root, step};
use crate::runtime::cgroup::Cgroup;
use crate::runtime::container::{
    self, Config, Health, OnUnhealthy, Paths, ProcessId, Removal, Start, State, Status, config::Record,
};
use crate::runtime::init::spec::{Mount, MountSource, Namespace};
use crate::runtime::init::{self, InitError, Launched, Stdio, spec};
use crate::runtime::roots::Roots;
use crate::runtime::{apparmor, events, state, sys, userns};

mod adopt;
mod asleep;
mod outside;

pub use adopt::{KILLED, UNKNOWN, UNSEEN};

/// How much is read from a container at once, in bytes.
const PIECE: usize = 64 << 10;
/// How much of what an ended program wrote may wait, in bytes: the largest size of a pipe (`fs.pipe-max-size`).
const MOST_WAITING: usize = 1 << 20;

/// What the loop waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Signal,
    Process,
    /// 0 standard output or the terminal, 1 standard error.
    Output(usize),
    Input,
    /// Who is given the container's lines.
    Log,
    Check,
    Listener,
    /// The process that the container belongs to has ended.
    Owner,
    /// Who was to attach has ended.
    Awaited,
    Client(usize),
}

/// The running program.
struct Run {
    process: Launched,
    output: [Option<OwnedFd>; 2],
    begun: Instant,
}

pub struct Supervisor {
    roots: Roots,
    paths: Paths,
    config: Config,
    /// Who made it, where it goes with its end.
    maker: ProcessId,
    start: Start,
    /// The mount namespace of the host.
    host: OwnedFd,
    cgroup: Cgroup,
    /// The user namespace of the container, where it has one.
    users: Option<OwnedFd>,
    /// The network namespace that its program was born with, where it has no other.
    network: Option<OwnedFd>,
    status: Status,
    signals: SignalFd,
    listener: UnixListener,
    clients: Clients,
    writer: Writer,
    run: Option<Run>,
    owner: Option<OwnedFd>,
    /// Who is to attach before anything that the program does is looked at.
    awaited: Option<OwnedFd>,
    check: Check,
    kill_at: Option<Instant>,
    restart_at: Option<Instant>,
    failures: u32,
    /// The program ended because its check failed, so it is started again whatever its policy.
    unhealthy: bool,
    leaving: bool,
    /// The root file system is there, in this process's mounts.
    mounted: bool,
    /// There is no going to sleep on this host.
    sleepless: bool,
    /// When something has happened last.
    active: Instant,
}

impl Supervisor {
    /// Reads what to supervise, and makes the socket.
    fn new(roots: &Roots, name: &str, host: OwnedFd) -> Result<Self, InitError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: state::Error| InitError::Step { step: what, reason: error.to_string() }
        };
        let paths = Paths::of(roots, name);
        let record = state::read_json::<Record>(&paths.config).map_err(failed("configuration"))?;
        let missing = || InitError::Step { step: "configuration".into(), reason: "there is none".into() };
        let Record { config, maker, .. } = record.ok_or_else(missing)?;
        let config = Config { name: name.to_owned(), ..config };
        let start = state::read_json::<Start>(&paths.start).map_err(failed("start"))?.unwrap_or_default();
        let listener = listen(&paths).map_err(|error| step("socket", error))?;
        let owner = config.owner.map(alive).transpose().map_err(|error| step("owner", error))?;
        let status = Status { shim: ProcessId::of(std::process::id() as i32), ..Status::default() };
        Ok(Self {
            host,
            cgroup: container::cgroup(roots, &config),
            users: None,
            network: None,
            signals: signals().map_err(|error| step("signals", error))?,
            writer: Writer::new(&paths.logs, &config),
            clients: Clients::default(),
            check: Check::new(config.health.clone()),
            roots: roots.clone(),
            paths,
            config,
            maker,
            start,
            status,
            listener,
            run: None,
            owner,
            awaited: None,
            kill_at: None,
            restart_at: None,
            failures: 0,
            unhealthy: false,
            leaving: false,
            mounted: false,
            sleepless: false,
            active: Instant::now(),
        })
    }

    /// With its program started.
    pub fn launched(roots: &Roots, name: &str, host: OwnedFd) -> Result<Self, InitError> {
        let mut own = Self::new(roots, name, host)?;
        let served = own.writer.is_served().map_err(|reason| step("logging", io::Error::other(reason)));
        match served.and_then(|()| own.launch()) {
            Ok(()) => {
                // Who has ended already will not attach.
                own.awaited = own.start.awaited.and_then(|id| alive(id).ok());
                Ok(own)
            }
            Err(error) => {
                own.start_failed(&error);
                Err(error)
            }
        }
    }

    fn start_failed(&mut self, error: &InitError) {
        self.status.error = Some(error.to_string());
        self.set_exited(i32::from(error.exit_code()), false);
        self.save();
    }

    fn specification(&self) -> Result<(Spec, Joined), InitError> {
        let mut request = self.config.request.clone();
        if let Some(hostname) = &self.start.hostname {
            request.take_hostname(hostname);
        }
        request.hidden = init::thermal_counters();
        request.engine_ids = userns::own_size();
        request.default_profile = apparmor::default_profile();
        let joined = joined::resolve(&self.roots, &self.paths, &mut request, self.users.as_ref())?;
        match (&self.start.netns, &self.network) {
            (Some(held), _) => request.network = Namespace::Path(held.clone()),
            (None, Some(own)) => request.network = Namespace::Path(format!("/proc/self/fd/{}", own.as_raw_fd()).into()),
            (None, None) => {}
        }
        let texts = [
            ("/etc/hosts", &self.paths.hosts, self.start.hosts.is_empty()),
            ("/etc/resolv.conf", &self.paths.resolv_conf, self.start.resolv_conf.is_empty()),
            ("/etc/hostname", &self.paths.hostname, false),
        ];
        for (target, source, empty) in texts {
            let target = PathBuf::from(target);
            if !empty && !request.mounts.iter().any(|mount| mount.target == target) {
                let source = MountSource::Bind { source: source.clone(), propagation: None, mapped: false };
                request.mounts.push(Mount { target, read_only: false, source });
            }
        }
        let spec = spec::build(&request)
            .map_err(|error| InitError::Step { step: "specification".into(), reason: error.to_string() })?;
        Ok((spec, joined))
    }

    /// That of the container's own stays for as long as this process does, or its network namespace. Another's is looked
    /// up each time: it may have been started again, and have a new one.
    fn enter_users(&mut self) -> Result<(), InitError> {
        let failed = |error| step("user namespace", error);
        let shared = joined::users(&self.roots, &self.config.request)?;
        if let Some(found) =
            shared.map_or_else(|| of_network(&self.config, &self.start), |it| Ok(Some(it))).map_err(failed)?
        {
            self.users = Some(found);
        } else if let (None, Some(ids)) = (&self.users, self.config.request.users) {
            self.users = Some(userns::create(ids).map_err(failed)?);
        }
        Ok(())
    }

    /// Once: it stays for as long as this process does.
    fn mount(&mut self) -> Result<(), InitError> {
        self.enter_users()?;
        if self.mounted {
            return Ok(());
        }
        let mounted = mount_root(&self.config, &self.paths, self.users.as_ref());
        mounted.map_err(|error| step("mount the root file system", error))?;
        self.mounted = true;
        Ok(())
    }

    fn launch(&mut self) -> Result<(), InitError> {
        self.mount()?;
        let outside = self.outside();
        if outside.is_some() {
            self.make_network()?;
        }
        let (spec, joined) = self.specification()?;
        let group = |error: crate::runtime::cgroup::Error| InitError::Step {
            step: "control group".into(),
            reason: error.to_string(),
        };
        self.cgroup.create().map_err(group)?;
        if let Some(resources) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) {
            self.cgroup.limit(resources).map_err(group)?;
        }
        let (stdio, mut output, input) = self.stdio().map_err(|error| step("pipes", error))?;
        let process = match outside {
            Some(outside) => self.launch_by(&outside, &spec, joined, stdio)?,
            None => self.launch_own(&spec, joined, stdio)?,
        };
        self.keep_network(process.pid);
        self.clients.input = input;
        self.clients.lasting_input = !self.config.stdin_once;
        if let Some(terminal) = &process.terminal {
            let copies = terminal.try_clone().and_then(|output| Ok((output, terminal.try_clone()?)));
            let (reader, writer) = copies.map_err(|error| step("terminal", error))?;
            nonblocking(&reader).map_err(|error| step("terminal", error))?;
            output[0] = Some(reader);
            self.clients.input = Some(writer);
        }
        self.status.process = ProcessId::of(process.pid);
        self.status.pipes = [0, 1].map(|index: usize| adopt::number_of(output[index].as_ref()));
        self.status.state = State::Running;
        self.status.started_ms = container::now_ms();
        self.status.error = None;
        self.status.oom_killed = false;
        let now = Instant::now();
        let health = self.check.begin(now);
        self.set_health(health);
        self.run = Some(Run { process, output, begun: now });
        self.save();
        self.tell("start");
        Ok(())
    }

    fn launch_own(&self, spec: &Spec, mut joined: Joined, stdio: Stdio) -> Result<Launched, InitError> {
        init::launch(init::Launch {
            spec,
            rootfs: &self.paths.rootfs,
            cgroup: &self.cgroup,
            stdio,
            launcher: &init::launcher::ensure(&self.roots).map_err(|error| step("launcher", error))?,
            user: &self.config.user,
            groups: &self.config.groups,
            reaper: self.config.init,
            lasting: outlives(&self.config),
            users: self.users.as_ref(),
            mounts: std::mem::take(&mut joined.mounts),
            hold: None,
        })
    }

    /// A network namespace that was born with the program outlives it: others may live in it when the program is started
    /// again.
    fn keep_network(&mut self, pid: i32) {
        let is_new = self.config.request.network == Namespace::New && self.start.netns.is_none();
        if is_new && self.network.is_none() {
            // A program that has ended already had nobody in its namespace.
            self.network = File::open(format!("/proc/{pid}/ns/net")).ok().map(OwnedFd::from);
        }
    }

    /// The container's ends of its pipes, and ours.
    fn stdio(&self) -> io::Result<(Stdio, [Option<OwnedFd>; 2], Option<OwnedFd>)> {
        if self.config.request.terminal {
            return Ok((Stdio::Terminal { rows: 24, columns: 80 }, [None, None], None));
        }
        let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC);
        let ((stdout_read, stdout), (stderr_read, stderr)) = (adopt::lasting_pipe()?, adopt::lasting_pipe()?);
        let (stdin, input) = if self.config.stdin_open {
            let (stdin, input) = pipe()?;
            nonblocking(&input)?;
            (Some(stdin), Some(input))
        } else {
            (None, None)
        };
        Ok((Stdio::Pipes { stdin, stdout, stderr }, [Some(stdout_read), Some(stderr_read)], input))
    }

    /// Until the container has ended for good and everybody who waits has been told.
    pub fn run(&mut self) {
        while !self.leaving {
            let ready = self.wait();
            let now = Instant::now();
            if !ready.is_empty() {
                self.active = now;
            } else if self.rest_at(now).is_some_and(|at| at <= now) {
                self.rest();
            }
            for source in ready {
                self.handle(source);
            }
            self.writer.work();
            self.on_time(Instant::now());
        }
        self.keep_end();
        self.clients.finish(&self.listener, self.status.exit_code);
        if self.is_to_remove() {
            self.remove_container();
        }
    }

    /// What is ready now; nothing when only time has passed.
    fn wait(&self) -> Vec<Source> {
        let mut sources = vec![
            (Source::Signal, self.signals.as_fd(), PollFlags::POLLIN),
            (Source::Listener, self.listener.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(awaited) = &self.awaited {
            sources.push((Source::Awaited, awaited.as_fd(), PollFlags::POLLIN));
        } else if let Some(run) = &self.run {
            sources.push((Source::Process, run.process.pidfd.as_fd(), PollFlags::POLLIN));
            if !self.clients.are_full() && !self.writer.is_full(Instant::now()) {
                let open = run.output.iter().enumerate().filter_map(|(index, fd)| Some((index, fd.as_ref()?)));
                sources.extend(open.map(|(index, fd)| (Source::Output(index), fd.as_fd(), PollFlags::POLLIN)));
            }
        }
        sources.extend(self.owner.as_ref().map(|fd| (Source::Owner, fd.as_fd(), PollFlags::POLLIN)));
        sources.extend(self.check.sources().into_iter().map(|fd| (Source::Check, fd, PollFlags::POLLIN)));
        sources.extend(self.clients.waiting_input().map(|fd| (Source::Input, fd, PollFlags::POLLOUT)));
        sources.extend(self.writer.sources().map(|(fd, flags)| (Source::Log, fd, flags)));
        sources.extend(self.clients.sources().into_iter().map(|(index, fd, flags)| (Source::Client(index), fd, flags)));
        ready(&sources, self.timeout(Instant::now()))
    }

    fn timeout(&self, now: Instant) -> PollTimeout {
        if self.writer.has_work() {
            return PollTimeout::ZERO;
        }
        let next = [self.kill_at, self.restart_at, self.check.next(), self.writer.next(), self.rest_at(now)];
        let next = next.into_iter().flatten().min();
        let left = next.map(|next| next.saturating_duration_since(now) + Duration::from_millis(1));
        left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Signal => self.signalled(),
            Source::Process => self.ended(),
            Source::Output(index) => self.read_output(index),
            Source::Input => self.clients.flush_input(),
            Source::Log => self.log_proceeds(Instant::now()),
            Source::Check => self.checked(),
            Source::Listener => self.clients.accept(&self.listener),
            Source::Owner => self.abandoned(),
            Source::Awaited => self.awaited = None,
            Source::Client(index) => {
                let mut wish = self.clients.read(index);
                while let Some(granted) = wish {
                    self.grant(index, granted);
                    wish = self.clients.more(index);
                }
            }
        }
    }

    /// The host shuts down, or somebody ends the supervisor: so ends the container.
    fn signalled(&mut self) {
        if matches!(self.signals.read_signal(), Ok(Some(_))) {
            self.status.interrupted = true;
            self.end(None, self.config.stop_grace_ms);
        }
    }

    /// For the next boot, which takes what has no such word for interrupted. Nothing better can be done about a full disk
    /// than to go on.
    fn keep_end(&self) {
        let interrupted = self.status.interrupted && !self.status.by_hand;
        if self.config.removal == Removal::Nobody && !interrupted {
            // The numbers of processes are other ones' then.
            let ended = Status { shim: ProcessId::default(), pipes: [0; 2], ..self.status.clone() };
            drop(state::write_json(&self.paths.ended, &ended));
        }
    }

    /// Nobody is left to take what the container makes.
    fn abandoned(&mut self) {
        self.owner = None;
        self.config.removal = Removal::Supervisor;
        self.stop(Some("KILL"), 0);
    }

    fn on_time(&mut self, now: Instant) {
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.signal(libc::SIGKILL);
        }
        if self.writer.next().is_some_and(|at| at <= now) {
            self.log_proceeds(now);
        }
        if self.restart_at.is_some_and(|at| at <= now) {
            self.restart_at = None;
            self.again();
        }
        let is_due = self.status.state == State::Running && self.check.next().is_some_and(|at| at <= now);
        if let Some(run) = self.run.as_ref().filter(|_| is_due) {
            let (roots, name, of) = (&self.roots, &self.config.name, &run.process.pidfd);
            let result = self.check.on_time(now, |check, stdio| check::start(roots, name, of, check, stdio));
            self.apply_check(result);
        }
    }

    fn checked(&mut self) {
        let result = self.check.read(Instant::now());
        self.apply_check(result);
    }

    fn apply_check(&mut self, result: Option<HealthState>) {
        let Some(health) = result else { return };
        self.status.health_log = self.check.log().to_vec();
        let before = self.status.health;
        self.set_health(health);
        self.save();
        if health.health != before && health.health != Health::None {
            self.tell(&format!("health_status: {}", health.health.as_str()));
        }
        if health.health != Health::Unhealthy || self.unhealthy || self.kill_at.is_some() {
            return;
        }
        match self.config.on_unhealthy {
            OnUnhealthy::None => {}
            OnUnhealthy::Recreate => {
                // Done by who declared it, and only there counted.
                let mut spent = self.config.recreated_ms.clone();
                let allowed = policy::spend(self.config.on_unhealthy_budget, &mut spent, container::now_ms());
                self.note_budget(allowed);
            }
            OnUnhealthy::Restart => {
                if self.is_within_budget() {
                    self.unhealthy = true;
                    self.ask_to_end(None, self.config.stop_grace_ms);
                }
            }
            OnUnhealthy::Stop => self.stop(None, self.config.stop_grace_ms),
        }
    }

    /// Counts one more cure, or says once that there is none left.
    fn is_within_budget(&mut self) -> bool {
        let allowed = policy::spend(self.config.on_unhealthy_budget, &mut self.status.cured_ms, container::now_ms());
        self.note_budget(allowed);
        allowed
    }

    fn note_budget(&mut self, allowed: bool) {
        let before = std::mem::replace(&mut self.status.budget_spent, !allowed);
        if !allowed && !before {
            self.tell("health_budget_spent");
        }
        self.save();
    }

    fn set_health(&mut self, health: HealthState) {
        self.status.health = health.health;
        self.status.failing_streak = health.streak;
    }

    fn read_output(&mut self, index: usize) {
        let Some(fd) = self.run.as_ref().and_then(|run| run.output[index].as_ref()) else { return };
        let mut piece = vec![0; PIECE];
        match nix::unistd::read(fd, &mut piece) {
            Ok(count) if count > 0 => {
                piece.truncate(count);
                self.clients.output(index, &piece);
                // A full disk costs log lines, never the container.
                self.writer.take(index, &piece);
                self.note_loss();
            }
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
            // The end, or a terminal without a program.
            _ => {
                if let Some(run) = &mut self.run {
                    run.output[index] = None;
                }
            }
        }
    }

    fn log_proceeds(&mut self, now: Instant) {
        self.writer.proceed(now);
        self.note_loss();
    }

    /// Written down when lines begin to be lost, when they no longer are, and when twice as many are gone.
    fn note_loss(&mut self) {
        let (loss, known) = (self.writer.loss(), &self.status.log_loss);
        let begins = loss.reason.is_some() && known.reason.is_none();
        let ends = loss.reason.is_none() && known.reason.is_some();
        if !begins && !ends && loss.lines + loss.unsent <= 2 * (known.lines + known.unsent) {
            return;
        }
        self.status.log_loss = loss;
        self.save();
        if let Some(reason) = self.status.log_loss.reason.as_ref().filter(|_| begins) {
            events::record(&self.roots, &container::event(&self.config, "log_loss").with("reason", reason));
        }
    }

    /// The program has ended: reads what it still wrote, and decides what comes next.
    fn ended(&mut self) {
        let Some(run) = &self.run else { return };
        let known = container::exec::wait(&run.process).ok().or_else(|| adopt::code_of_stranger(&run.process));
        let code = known.unwrap_or(UNKNOWN);
        let ran = run.begun.elapsed();
        for index in 0..2 {
            self.drain(index);
        }
        self.run = None;
        self.kill_at = None;
        self.check.end();
        self.clients.input = None;
        self.writer.finish();
        self.note_loss();
        self.status.log_loss = self.writer.loss();
        self.set_exited(code, self.cgroup.oom_kills() > 0);
        if known.is_none() {
            self.status.error = Some(UNSEEN.to_owned());
        }
        self.tell_end(code);
        self.failures = policy::failures_after(&self.config, self.failures, ran);
        let by_hand = self.status.by_hand || self.status.interrupted;
        let failures = self.failures.saturating_sub(1);
        let mut pause = policy::restart_after(&self.config, code, by_hand, self.status.restarts, failures);
        if std::mem::take(&mut self.unhealthy) && !by_hand {
            pause = pause.or(Some(Duration::ZERO));
        }
        self.next(pause);
    }

    fn tell_end(&self, code: i32) {
        if self.status.oom_killed {
            self.tell("oom");
        }
        events::record(&self.roots, &container::event(&self.config, "die").with("exitCode", code));
    }

    fn drain(&mut self, index: usize) {
        let has = |fd: BorrowedFd<'_>| {
            let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
            matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
                && fds[0].revents().is_some_and(|flags| flags.contains(PollFlags::POLLIN))
        };
        // As much as a pipe holds: where it shares process ids with others, some of them may go on writing to it.
        for _ in 0..MOST_WAITING / PIECE {
            if !self.run.as_ref().and_then(|run| run.output[index].as_ref()).is_some_and(|fd| has(fd.as_fd())) {
                return;
            }
            self.read_output(index);
        }
    }

    fn set_exited(&mut self, code: i32, oom_killed: bool) {
        self.status.state = State::Exited;
        self.status.process = ProcessId::default();
        self.set_health(HealthState { health: Health::None, streak: 0 });
        self.status.exit_code = code;
        self.status.oom_killed = oom_killed;
        self.status.finished_ms = container::now_ms();
        if let Some(Err(error)) = self.outside().map(|outside| outside.delete()) {
            self.status.error = Some(error.to_string());
        }
        // The pid namespace has ended with its first process, and everything in it.
        if let Err(error) = self.cgroup.remove() {
            self.status.error = Some(error.to_string());
        }
    }

    fn next(&mut self, pause: Option<Duration>) {
        match pause {
            Some(pause) => {
                self.status.state = State::Restarting;
                self.restart_at = Some(Instant::now() + pause);
            }
            None => self.leave(),
        }
        self.save();
    }

    /// Before the end is known: who waits for it may remove the container at once.
    fn leave(&mut self) {
        self.writer.close();
        self.status.log_loss = self.writer.loss();
        self.leaving = true;
    }

    fn again(&mut self) {
        self.status.restarts += 1;
        if let Err(error) = self.launch() {
            self.start_failed(&error);
            self.failures += 1;
            let code = i32::from(error.exit_code());
            let failures = self.failures.saturating_sub(1);
            let pause = policy::restart_after(&self.config, code, false, self.status.restarts, failures);
            self.next(pause);
        }
    }

    fn grant(&mut self, client: usize, wish: Wish) {
        let answer = match wish {
            Wish::Stop { signal, grace_ms } => {
                self.stop(signal.as_deref(), grace_ms);
                // Answered by its end.
                return;
            }
            Wish::Kill { signal } => self.kill(&signal),
            Wish::Freeze(frozen) => self.freeze(frozen),
            Wish::Reload => self.reload(),
            Wish::Rename { name, netns } => self.rename(name, netns),
            Wish::Attach { replay_since } => {
                self.awaited = None;
                let log_of = (&self.roots, self.config.name.as_str());
                self.clients.attach(client, replay_since, log_of, self.writer.unfinished());
                return;
            }
            Wish::Resize { rows, columns } => {
                if let Some(terminal) = self.run.as_ref().and_then(|run| run.process.terminal.as_ref()) {
                    drop(init::resize(terminal, rows, columns));
                }
                return;
            }
        };
        self.clients.answer(client, answer);
    }

    fn stop(&mut self, signal: Option<&str>, grace_ms: u64) {
        self.status.by_hand = true;
        self.end(signal, grace_ms);
    }

    /// For good.
    fn end(&mut self, signal: Option<&str>, grace_ms: u64) {
        if self.restart_at.take().is_some() {
            self.status.state = State::Exited;
            self.leave();
            self.save();
        } else {
            self.ask_to_end(signal, grace_ms);
        }
    }

    fn ask_to_end(&mut self, signal: Option<&str>, grace_ms: u64) {
        if self.status.state == State::Paused {
            // A frozen process takes no signal.
            drop(self.cgroup.freeze(false));
        }
        let number = signal.or(Some(self.config.stop_signal.as_str())).and_then(signal_number);
        self.signal(number.unwrap_or(libc::SIGTERM));
        self.kill_at = Some(Instant::now() + Duration::from_millis(grace_ms));
    }

    fn signal(&self, number: i32) {
        let Some(run) = &self.run else { return };
        // What is behind a runtime need not be a process of this kernel; but what is to be killed is killed.
        let asked = self.outside().is_some_and(|outside| outside.kill(number).is_ok());
        if !asked {
            // It may just have ended.
            drop(sys::pidfd_send_signal(run.process.pidfd.as_fd(), number));
        }
        if number == libc::SIGKILL && self.outside().is_none() {
            // The first one takes all others with it, but does not come to that among thousands that want to run.
            drop(self.cgroup.kill_crowd());
        }
    }

    fn kill(&mut self, signal: &str) -> Result<(), String> {
        let number = signal_number(signal).ok_or_else(|| format!("there is no signal {signal:?}"))?;
        if self.run.is_none() {
            return Err("it does not run at the moment".to_owned());
        }
        // As docker has it: what would stop it is a stop, and its policy does not bring it back.
        let stops = signal_number(&self.config.stop_signal).unwrap_or(libc::SIGTERM);
        if number == libc::SIGKILL || number == stops {
            self.status.by_hand = true;
            if self.status.state == State::Paused {
                drop(self.cgroup.freeze(false));
            }
        }
        self.signal(number);
        events::record(&self.roots, &container::event(&self.config, "kill").with("signal", number));
        Ok(())
    }

    fn freeze(&mut self, frozen: bool) -> Result<(), String> {
        if self.run.is_none() {
            return Err("it does not run at the moment".to_owned());
        }
        self.cgroup.freeze(frozen).map_err(|error| error.to_string())?;
        self.status.state = if frozen { State::Paused } else { State::Running };
        self.save();
        self.tell(if frozen { "pause" } else { "unpause" });
        Ok(())
    }

    /// Takes over what may change while it runs.
    fn reload(&mut self) -> Result<(), String> {
        let record = state::read_json::<Record>(&self.paths.config).map_err(|error| error.to_string())?;
        let config = record.ok_or("its configuration is gone")?.config;
        let config = Config { name: self.config.name.clone(), ..config };
        let resources = |config: &Config| {
            let tree = spec::resources(&config.request.limits);
            serde_json::from_value::<LinuxResources>(tree).map_err(|error| error.to_string())
        };
        if self.run.is_some() {
            let (former, now) = (resources(&self.config)?, resources(&config)?);
            self.cgroup.limit_anew(&former, &now).map_err(|error| error.to_string())?;
        }
        if config.health != self.config.health {
            self.check.end();
            self.check = Check::new(config.health.clone());
            let health = self.check.begin(Instant::now());
            self.set_health(health);
        }
        self.config = config;
        self.save();
        Ok(())
    }

    /// The asker holds the locks of both names.
    fn rename(&mut self, name: String, netns: Option<PathBuf>) -> Result<(), String> {
        let to = Paths::of(&self.roots, &name);
        self.paths.move_to(&to).map_err(|error| error.to_string())?;
        self.paths = to;
        self.config.name = name;
        self.writer.renamed(&self.paths.logs, &self.config);
        self.start.netns = netns;
        self.save();
        state::write_json_volatile(&self.paths.start, &self.start).map_err(|error| error.to_string())
    }

    /// For who follows what happens.
    fn tell(&self, action: &str) {
        events::record(&self.roots, &container::event(&self.config, action));
    }

    /// Written at each change; whoever waits is woken by it. Nothing better can be done about a full disk than to go on.
    fn save(&mut self) {
        drop(state::write_json_volatile(&self.paths.status, &self.status));
    }

    /// Its maker may have been killed long ago, or somebody has removed it.
    fn is_to_remove(&self) -> bool {
        let left_to_us = match self.config.removal {
            Removal::Nobody => false,
            Removal::Maker => !self.maker.is_alive(),
            Removal::Supervisor => true,
        };
        left_to_us && self.paths.config.exists()
    }

    /// `--rm`: this program again, since networks are not this room's to let go of. In the host's mounts, which it is to
    /// change; by that the container's own come to their end.
    fn remove_container(&self) {
        if let Err(error) = setns(&self.host, CloneFlags::CLONE_NEWNS) {
            // Left for the next command.
            tracing::debug!(%error, "go back to the host's mounts");
            return;
        }
        let removal = std::process::Command::new(&self.roots.program)
            .arg("--root")
            .arg(&self.roots.root)
            .arg("--run-root")
            .arg(&self.roots.run)
            .args(["rm", "--force", "--volumes", &self.config.name])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        // Left for the next command where it can't be started.
        drop(removal);
    }
}

/// A network namespace of the container's own belongs to the user namespace that the container shall be in; so does one
/// of another container that has the same ids.
fn of_network(config: &Config, start: &Start) -> io::Result<Option<OwnedFd>> {
    let (Some(ids), Some(netns)) = (config.request.users, &start.netns) else { return Ok(None) };
    let owner = userns::owner_of(File::open(netns)?.as_fd())?;
    Ok((!config.request.network_shared || userns::has(owner.as_fd(), ids)).then_some(owner))
}

/// The process itself, not a later one of its number.
fn alive(id: ProcessId) -> io::Result<OwnedFd> {
    let pidfd = sys::pidfd_open(id.pid)?;
    if id.is_alive() { Ok(pidfd) } else { Err(io::Error::other("the process that it belongs to has ended")) }
}

/// Whether the program goes on when its supervisor is killed, for another to take over. A terminal would be gone, and with
/// it what the program lives by; and what belongs to a process must not live on unwatched.
pub fn outlives(config: &Config) -> bool {
    !config.request.terminal && config.owner.is_none()
}

/// Those that end the container, to be read as events.
fn signals() -> io::Result<SignalFd> {
    let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect::<SigSet>();
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    Ok(fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)?)
}

fn listen(paths: &Paths) -> io::Result<UnixListener> {
    match std::fs::remove_file(&paths.socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&paths.socket)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn ready(sources: &[(Source, BorrowedFd<'_>, PollFlags)], timeout: PollTimeout) -> Vec<Source> {
    let mut fds: Vec<PollFd<'_>> = sources.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
    if poll(&mut fds, timeout).is_err() {
        return Vec::new();
    }
    let fired = fds.iter().zip(sources).filter(|(fd, _)| fd.revents().is_some_and(|flags| !flags.is_empty()));
    fired.map(|(_, (source, ..))| *source).collect()
}

/// `TERM`, `SIGTERM`, `15`, `RTMIN+3`.
pub fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = short.strip_prefix("RTMIN") {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    format!("SIG{short}").parse::<Signal>().ok().map(|signal| signal as i32)
}
