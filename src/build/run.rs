//! A program of a `RUN`: an ordinary container of this engine, with no more rights than any, that ends with the build.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use super::users;
use super::workshop::{Workshop, WorkshopError, remove_container};
use crate::runtime::container::{self, Config, ProcessId, Removal, Start, logs};
use crate::runtime::image::Contents;
use crate::runtime::init::spec::{Mount, MountSource, Namespace, Request};
use crate::runtime::network::{self, Connect, Join, NetworkConfig, netd, sandbox};
use crate::runtime::shim::client::{self, decode, frame};
use crate::runtime::userns::IdRange;

/// The network of containers that name none.
const DEFAULT_NETWORK: &str = "default";
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where `netd` answers questions for names, in each namespace.
const NAME_SERVER: &str = "127.0.0.11";
const PIECE: usize = 64 << 10;

/// How a step reaches the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// As a container that names none.
    #[default]
    Default,
    None,
    Host,
}

/// What to run, and on what.
#[derive(Clone, Debug, Default)]
pub struct Program {
    pub layers: Vec<PathBuf>,
    /// What is in these.
    pub contents: Contents,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub user: String,
    pub mounts: Vec<Mount>,
    pub network: Network,
    /// Name and address, `host-gateway` for this host.
    pub extra_hosts: Vec<(String, String)>,
    pub shm_size: Option<u64>,
    pub ulimits: BTreeMap<String, (i64, i64)>,
}

/// Why a program could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Container(#[from] container::Error),
    #[error(transparent)]
    Network(#[from] network::Error),
    #[error(transparent)]
    Workshop(#[from] WorkshopError),
    #[error("output: {0}")]
    Output(#[from] io::Error),
}

/// A container whose program has ended, and what it changed; removed when this is dropped.
#[derive(Debug)]
pub struct Ran<'a> {
    workshop: &'a Workshop,
    name: String,
    pub code: i32,
    pub upper: PathBuf,
}

impl Drop for Ran<'_> {
    fn drop(&mut self) {
        if let Err(error) = remove_container(&self.workshop.roots, &self.name) {
            tracing::warn!(container = self.name, %error, "left for the end of the build");
        }
    }
}

/// Runs the program to its end. `started` hears the container's name, `output` what it writes: whether on standard
/// error, and the bytes.
///
/// # Errors
/// Where it can't be started; how it ends is in [`Ran::code`].
pub fn run<'a>(
    workshop: &'a Workshop,
    program: &Program,
    started: &mut dyn FnMut(&str),
    output: &mut dyn FnMut(bool, &[u8]),
) -> Result<Ran<'a>, RunError> {
    let roots = &workshop.roots;
    let name = workshop.container_name();
    let mut ran = Ran { workshop, name: name.clone(), code: 0, upper: PathBuf::new() };
    let users = users::of(roots, program, program.contents);
    let made = container::create(roots, &config(program, &name, users))?;
    ran.upper = container::Paths::of(roots, &name).upper;
    let start = connect(workshop, program, &name, users)?;
    container::start(roots, &made, &start, container::Supervision::Anew, || ())?;
    started(&name);
    ran.code = listen(workshop, &name, output)?;
    Ok(ran)
}

fn config(program: &Program, name: &str, users: Option<IdRange>) -> Config {
    let mut env = program.env.clone();
    if !env.iter().any(|entry| entry.starts_with("PATH=")) {
        env.push(DEFAULT_PATH.to_owned());
    }
    let request = Request {
        args: program.args.clone(),
        env,
        cwd: program.cwd.clone(),
        hostname: "build".to_owned(),
        mounts: program.mounts.iter().map(|mount| mapped(mount, users.is_some())).collect(),
        users,
        ulimits: program.ulimits.clone(),
        network: if program.network == Network::Host { Namespace::Host } else { Namespace::New },
        shm_size: program.shm_size,
        ..Request::default()
    };
    Config {
        name: name.to_owned(),
        layers: program.layers.clone(),
        request,
        user: program.user.clone(),
        // Nothing of it is written to the disk to stay, secrets in its environment least of all.
        removal: Removal::Maker,
        owner: Some(ProcessId::of(std::process::id() as i32)),
        ..Config::default()
    }
}

/// The same, with the ids on the disk seen as they are.
fn mapped(mount: &Mount, mapped: bool) -> Mount {
    let source = match &mount.source {
        MountSource::Bind { source, propagation, .. } => {
            MountSource::Bind { source: source.clone(), propagation: propagation.clone(), mapped }
        }
        other => other.clone(),
    };
    Mount { source, ..mount.clone() }
}

fn connect(workshop: &Workshop, program: &Program, name: &str, users: Option<IdRange>) -> Result<Start, RunError> {
    let roots = &workshop.roots;
    let hosts = |gateway: &str| {
        let line = |(name, address): &(String, String)| {
            format!("{}\t{name}\n", if address == "host-gateway" { gateway } else { address })
        };
        program.extra_hosts.iter().map(line).collect::<String>()
    };
    let local = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    let owner = users.map_or(sandbox::Owner::Host, sandbox::Owner::New);
    let mut connect = Connect { container: name.to_owned(), owner, transient: true, ..Connect::default() };
    match program.network {
        Network::Host => {
            let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
            let hosts = read("/etc/hosts") + &hosts("127.0.0.1");
            Ok(Start { hosts, resolv_conf: read("/etc/resolv.conf"), ..Start::default() })
        }
        Network::None => {
            network::connect(roots, &connect)?;
            let netns = Some(sandbox::path(roots, name));
            Ok(Start { netns, hosts: local.to_owned() + &hosts("127.0.0.1"), ..Start::default() })
        }
        Network::Default => {
            ensure_default(workshop)?;
            connect.joins = vec![Join { network: DEFAULT_NETWORK.to_owned(), ..Join::default() }];
            network::connect(roots, &connect)?;
            netd::ensure(roots)?;
            let network = network::get(roots, DEFAULT_NETWORK)?;
            let gateway = network.ranges.first().map(|range| range.gateway.to_string()).unwrap_or_default();
            let resolv_conf = format!("nameserver {NAME_SERVER}\noptions ndots:0\n");
            Ok(Start {
                netns: Some(sandbox::path(roots, name)),
                hosts: local.to_owned() + &hosts(&gateway),
                resolv_conf,
                ..Start::default()
            })
        }
    }
}

fn ensure_default(workshop: &Workshop) -> Result<(), network::Error> {
    match network::get(&workshop.roots, DEFAULT_NETWORK) {
        Err(network::Error::NotFound(_)) => {
            let config = NetworkConfig { name: DEFAULT_NETWORK.to_owned(), ..NetworkConfig::default() };
            network::create(&workshop.roots, &config).map(drop)
        }
        other => other.map(drop),
    }
}

/// Passes on what the program writes, from its first byte on, and gives its exit code.
fn listen(workshop: &Workshop, name: &str, output: &mut dyn FnMut(bool, &[u8])) -> Result<i32, RunError> {
    let roots = &workshop.roots;
    let mut heard = false;
    if let Ok(mut stream) = client::attach(&container::Paths::of(roots, name), name, Some(String::new())) {
        let (mut inbox, mut piece) = (Vec::new(), vec![0; PIECE]);
        loop {
            let count = stream.read(&mut piece)?;
            if count == 0 {
                break;
            }
            inbox.extend_from_slice(&piece[..count]);
            while let Some((kind, content)) = decode(&mut inbox)? {
                heard = true;
                match kind {
                    frame::STDOUT | frame::STDERR => output(kind == frame::STDERR, &content),
                    _ => {}
                }
            }
        }
    }
    let code = container::wait(roots, name, None)?;
    if !heard {
        // It ended before it could be listened to: what it wrote is in its log.
        logs::read(roots, name, &logs::Select::default(), &mut |line| {
            output(line.stream == "stderr", line.log.as_bytes());
            true
        })?;
    }
    Ok(code)
}
