//! `run`, `attach` and `start --attach`: a program in the foreground, with its exit code as ours.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use super::args::{Attach, PullWhen, Run, Start};
use super::bars::{Bars, Show};
use super::failure::Failure;
use super::names::Here;
use super::options::{self, Around};
use super::terminal::{self, Attached, DetachKeys, End};
use super::{containers as verbs, names, stack_file, view};
use crate::engine::native::{DEFAULT_NETWORK, containers, ensure_default_network, ensure_image, unsupported};
use crate::reconcile::resource::{Config, ContainerConfig, ImageConfig, ImageSource, Mount, NetworkMode, PullPolicy};
use crate::runtime::container::{self, Container, Removal, State, Supervision, logs};
use crate::runtime::image::{self, Image, Lease};
use crate::runtime::network;
use crate::runtime::roots::Roots;
use crate::runtime::shim::client;

/// Before the program itself has run, every failure is docker's 125; the program's own are 126 and 127.
pub(super) fn before_program(failure: Failure) -> Failure {
    failure.with_code(125)
}

fn start_failure(error: containers::Error) -> Failure {
    match &error {
        containers::Error::Container(container::Error::Start { source, .. }) => {
            let code = source.exit_code();
            Failure::from(error).with_code(code)
        }
        _ => Failure::from(error).with_code(125),
    }
}

pub fn run(roots: &Roots, arguments: &Run) -> Result<ExitCode, Failure> {
    let keys = options::detach_keys(arguments.detach_keys.as_deref()).map_err(|error| before_program(error.into()))?;
    let wanted = wanted(arguments).and_then(|wanted| lent(roots, arguments, wanted));
    let wanted = wanted.and_then(|wanted| linked(roots, arguments, wanted)).map_err(before_program)?;
    let id_file = arguments.cidfile.as_deref().map(new_file).transpose().map_err(before_program)?;
    containers::sweep(roots).map_err(|error| before_program(error.into()))?;
    let removal = match (arguments.rm, arguments.detach) {
        (false, _) => Removal::Nobody,
        (true, false) => Removal::Maker,
        (true, true) => Removal::Supervisor,
    };
    let (made, lease) = prepare(roots, arguments, wanted, removal).map_err(before_program)?;
    let (name, id) = (made.config.name.as_str(), made.config.id.as_str());
    if let Some(mut file) = id_file {
        file.write_all(id.as_bytes())?;
    }
    let supervision = if arguments.detach { Supervision::Anew } else { Supervision::Forked };
    if let Err(error) = containers::start_under(roots, &made, supervision, || drop(lease)) {
        if arguments.rm {
            verbs::remove(roots, name, true, true)?;
        }
        return Err(start_failure(error));
    }
    if arguments.detach {
        view::out(&format!("{id}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let takes_input = arguments.attach.is_empty() || options::names_stream(&arguments.attach, "stdin");
    let how = Foreground {
        interactive: arguments.interactive && takes_input,
        terminal: arguments.tty,
        keys,
        signals: arguments.sig_proxy,
        outputs: options::outputs(&arguments.attach),
        since: Some(String::new()),
    };
    let code = foreground(roots, name, how)?;
    match code {
        Code::Exited(code) => {
            if arguments.rm {
                verbs::remove(roots, name, true, true)?;
            }
            Ok(ExitCode::from(code as u8))
        }
        // It was to live no longer than this command.
        Code::Ended(number) if arguments.rm && !arguments.tty && arguments.sig_proxy => {
            verbs::remove(roots, name, true, true)?;
            Ok(ExitCode::from(128 + number as u8))
        }
        other => Ok(left(other)),
    }
}

/// As [`run`] makes it, without a start.
pub fn create(roots: &Roots, arguments: &Run) -> Result<ExitCode, Failure> {
    let wanted = linked(roots, arguments, lent(roots, arguments, wanted(arguments)?)?)?;
    let id_file = arguments.cidfile.as_deref().map(new_file).transpose()?;
    // Who starts it is not known yet; it lives until somebody has.
    let removal = if arguments.rm { Removal::Supervisor } else { Removal::Nobody };
    let (made, _lease) = prepare(roots, arguments, wanted, removal)?;
    if let Some(mut file) = id_file {
        file.write_all(made.config.id.as_bytes())?;
    }
    view::out(&format!("{}\n", made.config.id))?;
    Ok(ExitCode::SUCCESS)
}

fn wanted(arguments: &Run) -> Result<ContainerConfig, Failure> {
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => random_name(arguments.image())?,
    };
    let lines = |files: &[std::path::PathBuf]| -> Result<Vec<String>, Failure> {
        let texts = files.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
        Ok(texts.iter().flat_map(|text| options::lines(text)).collect())
    };
    let around = Around {
        here: std::env::current_dir()?,
        environment: stack_file::environment(),
        variables: variables_of(&arguments.program.env_file)?,
        labels: lines(&arguments.program.label_file)?,
    };
    let wanted = options::container(arguments, &name, &around)?;
    match unsupported(&Config::Container(Box::new(wanted.clone()))).first() {
        None => Ok(wanted),
        Some(odd) => Err(Failure::new(format!("{}: {}\n  help: leave it out", odd.key, odd.reason))),
    }
}

pub(super) fn variables_of(files: &[std::path::PathBuf]) -> Result<Vec<String>, Failure> {
    let mut all = Vec::new();
    for file in files {
        all.extend(options::variables(&read(file)?)?);
    }
    Ok(all)
}

/// The mounts of other containers that it shares, where it has nothing of its own in their places.
fn lent(roots: &Roots, arguments: &Run, mut wanted: ContainerConfig) -> Result<ContainerConfig, Failure> {
    for text in &arguments.files.volumes_from {
        let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
        if !matches!(mode, "ro" | "rw") {
            return Err(Failure::new(format!("--volumes-from {text:?}: expected CONTAINER or CONTAINER:ro")));
        }
        for mount in containers::lent(roots, &names::one(roots, name)?)? {
            if wanted.mounts.iter().all(|own| own.target != mount.target) {
                wanted.mounts.push(Mount { read_only: mount.read_only || mode == "ro", ..mount });
            }
        }
    }
    Ok(wanted)
}

/// The names of other containers by which it knows them, as they can be reached now.
fn linked(roots: &Roots, arguments: &Run, mut wanted: ContainerConfig) -> Result<ContainerConfig, Failure> {
    for text in &arguments.networking.link {
        let (name, alias) = text.split_once(':').unwrap_or((text, text.trim_start_matches('/')));
        let wrong = |reason: &str| Failure::new(format!("--link {text:?}: {reason}"));
        let other = names::one(roots, name)?;
        // Who is in no network of its own reaches nobody by a link; docker lets that pass.
        let NetworkMode::Networks(own) = &wanted.network else { continue };
        if !other.is_running() {
            return Err(wrong("it does not run"));
        }
        let attachments = network::attachments(roots)?;
        let place = attachments.iter().find(|one| one.container == other.config.name);
        let shared = place.and_then(|place| place.endpoints.iter().find(|(network, _)| own.contains_key(*network)));
        let Some((_, endpoint)) = shared else {
            return Err(wrong("it is in none of the container's networks\n  help: `--network` says which those are"));
        };
        for address in &endpoint.addresses {
            let line = |known: &str| (known.to_owned(), address.to_string());
            wanted.extra_hosts.extend([alias, &other.config.name].map(line));
        }
    }
    Ok(wanted)
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| Failure::new(format!("{}: {error}", file.display())))
}

/// For `--cidfile`: one that is there belongs to another container, which may still run.
fn new_file(path: &Path) -> Result<File, Failure> {
    File::options().write(true).create_new(true).open(path).map_err(|error| {
        Failure::new(format!("--cidfile {}: {error}\n  help: remove it when its container is gone", path.display()))
    })
}

/// `whoami-3fa2c1`: says what it is of, and is not taken.
fn random_name(image: &str) -> Result<String, Failure> {
    let mut bytes = [0; 3];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let last = image.split('@').next().and_then(|image| image.rsplit('/').next()).unwrap_or(image);
    let base = last.strip_prefix("builtin:").unwrap_or(last).split(':').next().unwrap_or_default();
    let clean: String = base.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let clean = clean.trim_start_matches('-');
    let clean = if clean.is_empty() { "container" } else { clean };
    Ok(format!("{clean}-{:02x}{:02x}{:02x}", bytes[0], bytes[1], bytes[2]))
}

/// Makes the container, and what it needs.
fn prepare(
    roots: &Roots,
    arguments: &Run,
    wanted: ContainerConfig,
    removal: Removal,
) -> Result<(Container, Lease), Failure> {
    let pull_policy = match arguments.pull {
        Some(PullWhen::Always) => PullPolicy::Always,
        Some(PullWhen::Never) => PullPolicy::Never,
        Some(PullWhen::Missing) | None => PullPolicy::Missing,
    };
    let source = ImageSource::Pull { reference: wanted.image.clone(), digest: None };
    let platform = arguments.platform.clone();
    let wanted_image = ImageConfig { reference: wanted.image.clone(), source, pull_policy, platform };
    let bars = Bars::new(if arguments.quiet { Show::Nothing } else { Show::People });
    if let Some(name) = &arguments.name
        && container::get(roots, name).is_ok_and(|found| found.config.name == *name)
    {
        return Err(container::Error::Exists(name.clone()).into());
    }
    let stdin_once = arguments.interactive && !arguments.detach;
    let mut rounds = 0;
    loop {
        let image = ensure_image(roots, &wanted_image, &bars)?;
        for mounted in wanted.mounted_images() {
            let (reference, platform) = (mounted.to_owned(), None);
            let source = ImageSource::Pull { reference: reference.clone(), digest: None };
            ensure_image(roots, &ImageConfig { reference, source, pull_policy, platform }, &bars)?;
        }
        // After the image: one that can't be had leaves nothing behind.
        if matches!(&wanted.network, NetworkMode::Networks(networks) if networks.contains_key(DEFAULT_NETWORK)) {
            ensure_default_network(roots)?;
        }
        let mut wanted = wanted.clone();
        if arguments.networking.publish_all {
            let exposed = [exposed(&image), wanted.expose.clone()].concat();
            let more = options::published(&exposed, &wanted.ports);
            wanted.ports.extend(more);
        }
        rounds += 1;
        match containers::create_leased(roots, &wanted, |config| container::Config { removal, stdin_once, ..config }) {
            // Somebody removed the image between its coming and the container.
            Err(containers::Error::Image(image::Error::NotFound(_))) if rounds < MOST_ROUNDS => {}
            made => return Ok(made?),
        }
    }
}

/// How often an image is fetched that somebody removes at once.
const MOST_ROUNDS: u32 = 8;

/// `80/tcp` each.
fn exposed(image: &Image) -> Vec<String> {
    let own = image.config.config().as_ref().and_then(|own| own.exposed_ports().clone());
    own.unwrap_or_default()
}

/// How a container's input and output are joined.
struct Foreground {
    interactive: bool,
    terminal: bool,
    keys: Vec<u8>,
    /// Pass signals on to it.
    signals: bool,
    /// Which of standard output and standard error are shown.
    outputs: [bool; 2],
    /// It was started for this command, at this time in its log's form: what it wrote before it could be attached to is
    /// shown, too. Empty is from its beginning.
    since: Option<String>,
}

/// What a command in the foreground exits with.
enum Code {
    /// The container has ended.
    Exited(i32),
    /// It runs on.
    Left,
    /// It runs on, and this command was ended by a signal.
    Ended(i32),
}

/// Passes on what the container writes, until it ends or the user leaves.
fn foreground(roots: &Roots, name: &str, how: Foreground) -> Result<Code, Failure> {
    let paths = container::Paths::of(roots, name);
    let (mut replay_since, mut heard) = (None, false);
    while let Ok(stream) = client::attach(&paths, name, replay_since) {
        let signal = |number: i32| {
            // It may have ended by itself meanwhile.
            drop(container::kill(roots, name, &number.to_string()));
        };
        let signal: Option<&dyn Fn(i32)> = if how.signals { Some(&signal) } else { None };
        let (interactive, terminal, outputs) = (how.interactive, how.terminal, how.outputs);
        let detach_keys = DetachKeys::new(how.keys.clone());
        match terminal::relay(Attached { stream, interactive, terminal, outputs, detach_keys, signal })? {
            End::Exited(code) => return Ok(Code::Exited(code)),
            End::Detached => {
                view::note(&format!("\r\n{name} runs on; `stack attach {name}` joins it again"));
                return Ok(Code::Left);
            }
            End::Interrupted(number) => return Ok(Code::Ended(number)),
            End::Lost { heard: some } => heard |= some,
        }
        // Its supervisor was killed; what it writes from here on the next one has.
        replay_since = Some(format!("{:.9}", jiff::Timestamp::now()));
        container::adopt_after_loss(roots, name)?;
    }
    // It ended before it could be attached to: what it wrote is in its log.
    let code = container::wait(roots, name, None)?;
    if !heard && how.since.is_some() {
        let select = logs::Select { since: how.since, ..logs::Select::default() };
        logs::read(roots, name, &select, &mut |line| super::logs::write_plain(line).is_ok())?;
    }
    Ok(Code::Exited(code))
}

fn left(code: Code) -> ExitCode {
    match code {
        Code::Exited(code) => ExitCode::from(code as u8),
        Code::Left => ExitCode::SUCCESS,
        Code::Ended(number) => ExitCode::from(128 + number as u8),
    }
}

pub fn attach(roots: &Roots, here: &Here, arguments: &Attach) -> Result<ExitCode, Failure> {
    let found = names::one_or_service(roots, here, &arguments.name)?;
    if !found.is_running() {
        return Err(container::Error::NotRunning(found.config.name).into());
    }
    if found.status.state == State::Paused {
        return Err(container::Error::Paused(found.config.name).into());
    }
    let how = Foreground {
        interactive: found.config.stdin_open && !arguments.no_stdin,
        terminal: found.config.request.terminal,
        keys: options::detach_keys(arguments.detach_keys.as_deref())?,
        signals: arguments.sig_proxy,
        outputs: [true; 2],
        since: None,
    };
    Ok(left(foreground(roots, &found.config.name, how)?))
}

/// Starts one and stays with it.
pub fn start_attached(roots: &Roots, here: &Here, arguments: &Start) -> Result<ExitCode, Failure> {
    let [name] = arguments.names.as_slice() else {
        return Err(Failure::new(
            "one container at a time can be attached to\n  help: name one, or leave --attach out",
        ));
    };
    let keys = options::detach_keys(arguments.detach_keys.as_deref())?;
    let found = names::one_or_service(roots, here, name)?;
    let now = jiff::Timestamp::now();
    containers::start_under(roots, &found, Supervision::Awaited, || ()).map_err(start_failure)?;
    let how = Foreground {
        interactive: arguments.interactive && found.config.stdin_open,
        terminal: found.config.request.terminal,
        keys,
        signals: arguments.sig_proxy,
        outputs: [true; 2],
        since: Some(format!("{now:.9}")),
    };
    Ok(left(foreground(roots, &found.config.name, how)?))
}
