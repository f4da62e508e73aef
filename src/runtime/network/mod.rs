//! Networks: a bridge each, a namespace and a cable a container, one firewall table for the engine.
//!
//! What is asked for is written down first ([`records`]), then the kernel is made to match; every call does the whole
//! of that, so that one that was killed half way is finished by the next. Concurrent callers queue on a lock.

mod links;
pub mod netd;
pub mod netlink;
mod nft;
mod ports;
pub mod records;
mod rules;
pub mod sandbox;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use netlink::Socket;
pub use ports::{PortHolder, host_ports_free};
pub use records::{Attachment, Endpoint, Network, NetworkConfig, Port, Subnet, attachments, list};

use super::roots::Roots;
use super::state::{self, Contention, Lock};

/// What failed with which network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no network {0:?}\n  help: `stack network ls` lists those that there are")]
    NotFound(String),
    #[error("network {name:?} is used by {users}\n  help: remove these containers first")]
    InUse { name: String, users: String },
    #[error(
        "network {0:?} is there already, made from something else\n  help: remove it first, or choose another name"
    )]
    Exists(String),
    #[error("{0:?} is not an IPv4 subnet: expected ADDRESS/PREFIX with a prefix of 30 at most")]
    Subnet(String),
    #[error(
        "subnet {subnet} of network {name:?} overlaps {other}, which is in use on this host\n  help: choose another `subnet`"
    )]
    Overlap { name: String, subnet: String, other: String },
    #[error(
        "all subnets of 10.210.0.0/16 are in use on this host\n  help: name a free one, `ipam: {{config: [{{subnet: …}}]}}`"
    )]
    NoSubnet,
    #[error("network {0:?} has no free address left\n  help: a larger `subnet` has more")]
    NoAddress(String),
    #[error("address {address} of network {network:?} is taken")]
    AddressTaken { address: Ipv4Addr, network: String },
    #[error("address {address} is not in the subnet of network {network:?}")]
    OutsideSubnet { address: Ipv4Addr, network: String },
    #[error("port {port} is taken by {holder}\n  help: publish another host port, or stop what holds it")]
    PortTaken { port: String, holder: String },
    #[error("network {0:?}: letters, digits, `_`, `.` and `-` only, first a letter or digit, 128 at most")]
    Name(String),
    #[error("not served: {failures}\n  help: another program may hold the port; `ss -lntup` shows which")]
    NotServed { failures: String },
    #[error(transparent)]
    State(#[from] state::Error),
    #[error("{what}: {source}")]
    Kernel { what: String, source: io::Error },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

fn io_at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { path, source }
}

fn kernel(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Kernel { what, source }
}

/// How a container joins one network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Join {
    pub network: String,
    /// Names by which others find it, its own among them.
    pub names: Vec<String>,
    pub address: Option<Ipv4Addr>,
    pub hardware_address: Option<[u8; 6]>,
    pub interface: Option<String>,
    pub gateway_priority: i64,
}

/// All that a container is to have of the network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Connect {
    pub container: String,
    /// In the order in which their interfaces are numbered. Without any there is only loopback.
    pub joins: Vec<Join>,
    pub ports: Vec<Port>,
    pub dns: Vec<String>,
}

fn lock(roots: &Roots) -> Result<Lock, Error> {
    Ok(Lock::take(&roots.volatile("locks").join("network"), Contention::Wait)?)
}

fn route_socket() -> Result<Socket, Error> {
    Socket::route().map_err(kernel("open a netlink socket"))
}

/// Ten characters that tell names of this engine from those of others: FNV-1a of the engine's key and the name.
fn short(roots: &Roots, parts: &[&str]) -> String {
    let text = format!("{}\0{}", roots.key(), parts.join("\0"));
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{:010x}", (hash ^ (hash >> 24)) & 0xff_ffff_ffff)
}

/// The table of this engine.
pub fn table_name(roots: &Roots) -> String {
    format!("stack-{}", roots.key())
}

fn is_name(name: &str) -> bool {
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    first && name.len() <= 128 && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// The network of this name.
///
/// # Errors
/// [`Error::NotFound`].
pub fn get(roots: &Roots, name: &str) -> Result<Network, Error> {
    let found = if is_name(name) { state::read_json(&records::network_file(roots, name))? } else { None };
    found.ok_or_else(|| Error::NotFound(name.to_owned()))
}

/// Makes the network, or what is missing of it.
///
/// # Errors
/// [`Error::Exists`] where another one has the name, [`Error::Overlap`] where the subnet is in use on the host.
pub fn create(roots: &Roots, config: &NetworkConfig) -> Result<Network, Error> {
    if !is_name(&config.name) {
        return Err(Error::Name(config.name.clone()));
    }
    let _lock = lock(roots)?;
    let network = match state::read_json::<Network>(&records::network_file(roots, &config.name))? {
        Some(present) if present.config == *config => present,
        Some(_) => return Err(Error::Exists(config.name.clone())),
        None => plan(roots, config)?,
    };
    let file = records::network_file(roots, &config.name);
    state::make_directory(file.parent().unwrap_or(Path::new("/")))?;
    state::write_json(&file, &network)?;
    make(&network)?;
    apply_rules(roots)?;
    Ok(network)
}

/// Takes over labels and the declaration of a network that is there.
pub fn update(roots: &Roots, config: &NetworkConfig) -> Result<(), Error> {
    let _lock = lock(roots)?;
    let mut network = get(roots, &config.name)?;
    network.config =
        NetworkConfig { labels: config.labels.clone(), declared: config.declared.clone(), ..network.config };
    Ok(state::write_json(&records::network_file(roots, &config.name), &network)?)
}

fn plan(roots: &Roots, config: &NetworkConfig) -> Result<Network, Error> {
    let ours = list(roots)?;
    let host = links::networks_in_use(&mut route_socket()?).map_err(kernel("list the host's routes"))?;
    let host = host.into_iter().filter(|(_, prefix)| *prefix > 0).map(|(address, prefix)| Subnet::new(address, prefix));
    let taken: Vec<Subnet> = ours.iter().map(|network| network.subnet).chain(host).collect();
    let subnet = match config.subnet {
        Some(subnet) => match taken.iter().find(|other| other.overlaps(subnet)) {
            Some(other) => {
                let (subnet, other) = (String::from(subnet), String::from(*other));
                return Err(Error::Overlap { name: config.name.clone(), subnet, other });
            }
            None => subnet,
        },
        None => records::choose_subnet(&taken)?,
    };
    let gateway = config.gateway.unwrap_or_else(|| subnet.address(1));
    let bridge = format!("stk-{}", short(roots, &["bridge", &config.name]));
    Ok(Network { version: records::VERSION, config: config.clone(), bridge, subnet, gateway })
}

/// The bridge, its address, and that the kernel passes packets on.
fn make(network: &Network) -> Result<(), Error> {
    let failed = |what: &str| kernel(format!("network {}: {what}", network.config.name));
    let mut socket = route_socket()?;
    let address = records::hardware_address(network.gateway);
    links::make_bridge(&mut socket, &network.bridge, address, network.config.mtu).map_err(failed("make the bridge"))?;
    let index = links::index(&mut socket, &network.bridge).map_err(failed("find the bridge"))?;
    let index = index.ok_or_else(|| failed("find the bridge")(io::ErrorKind::NotFound.into()))?;
    links::set_up(&mut socket, index).map_err(failed("set the bridge up"))?;
    let prefix = network.subnet.prefix();
    links::add_address(&mut socket, index, network.gateway, prefix).map_err(failed("give the bridge its address"))?;
    set_if_there(&format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", network.bridge), "1")?;
    if network.config.internal { Ok(()) } else { set_if_there("/proc/sys/net/ipv4/ip_forward", "1") }
}

/// Written only when it changes something: a host that forwards already is left as it is.
fn set_if_there(path: &str, value: &str) -> Result<(), Error> {
    match fs::read_to_string(path) {
        Ok(present) if present.trim() == value => Ok(()),
        Ok(_) => fs::write(path, value).map_err(io_at(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_at(path)(error)),
    }
}

/// Replaces the engine's table by what is written down now; takes it away with the last network.
fn apply_rules(roots: &Roots) -> Result<(), Error> {
    let name = table_name(roots);
    let messages = match rules::table(&name, &list(roots)?, &attachments(roots)?) {
        Some(table) => nft::encode(&table),
        None => nft::encode_removal(&name),
    };
    let applied = Socket::netfilter().and_then(|mut socket| socket.batch(&messages));
    applied.map_err(kernel(format!("firewall table {name}")))
}

/// Removes the network. One that is not there is fine.
///
/// # Errors
/// [`Error::InUse`] names the containers that are in it.
pub fn remove(roots: &Roots, name: &str) -> Result<(), Error> {
    let _lock = lock(roots)?;
    let network = match get(roots, name) {
        Ok(network) => network,
        Err(Error::NotFound(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    let users: Vec<String> = attachments(roots)?
        .into_iter()
        .filter(|one| one.endpoints.contains_key(name))
        .map(|one| one.container)
        .collect();
    if !users.is_empty() {
        return Err(Error::InUse { name: name.to_owned(), users: users.join(", ") });
    }
    links::remove(&mut route_socket()?, &network.bridge).map_err(kernel(format!("remove the bridge of {name}")))?;
    remove_file(&records::network_file(roots, name))?;
    apply_rules(roots)
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}

/// Gives a container its namespace, its place in networks and its published ports, as written in `connect`. What it
/// had before and still has stays, addresses too.
pub fn connect(roots: &Roots, connect: &Connect) -> Result<Attachment, Error> {
    let _lock = lock(roots)?;
    let others: Vec<Attachment> =
        attachments(roots)?.into_iter().filter(|other| other.container != connect.container).collect();
    let file = records::attachment_file(roots, &connect.container);
    let before: Attachment = state::read_json(&file)?.unwrap_or_default();
    let attachment = Attachment {
        version: records::VERSION,
        container: connect.container.clone(),
        endpoints: choose_endpoints(roots, connect, &before, &others)?,
        ports: ports::choose(&connect.ports, &before.ports, &others)?,
        dns: connect.dns.clone(),
    };
    state::make_directory(file.parent().unwrap_or(Path::new("/")))?;
    if attachment != before {
        state::write_json(&file, &attachment)?;
    }
    build(roots, &attachment)?;
    apply_rules(roots)?;
    Ok(attachment)
}

fn choose_endpoints(
    roots: &Roots,
    connect: &Connect,
    before: &Attachment,
    others: &[Attachment],
) -> Result<BTreeMap<String, Endpoint>, Error> {
    let mut endpoints = BTreeMap::new();
    for (number, join) in connect.joins.iter().enumerate() {
        let network = get(roots, &join.network)?;
        let of = |other: &Attachment| other.endpoints.get(&join.network).map(|endpoint| endpoint.address);
        let taken: BTreeSet<Ipv4Addr> = others.iter().filter_map(of).collect();
        let kept = before.endpoints.get(&join.network).map(|endpoint| endpoint.address);
        let kept = kept.filter(|address| network.subnet.holds(*address) && !taken.contains(address));
        let address = records::choose_address(&network, join.address.or(kept), &taken)?;
        let endpoint = Endpoint {
            address,
            hardware_address: join.hardware_address.unwrap_or_else(|| records::hardware_address(address)),
            interface: join.interface.clone().unwrap_or_else(|| format!("eth{number}")),
            names: join.names.clone(),
            gateway_priority: join.gateway_priority,
        };
        endpoints.insert(join.network.clone(), endpoint);
    }
    Ok(endpoints)
}

/// Makes what the kernel lacks of this.
fn build(roots: &Roots, attachment: &Attachment) -> Result<(), Error> {
    let container = &attachment.container;
    let failed = |what: &str| kernel(format!("network of container {container}: {what}"));
    let namespace = sandbox::ensure(roots, container).map_err(failed("make its namespace"))?;
    for (name, endpoint) in &attachment.endpoints {
        let network = get(roots, name)?;
        make(&network)?;
        plug(roots, container, &network, endpoint, &namespace).map_err(failed(&format!("join {name}")))?;
    }
    let Some((gateway, interface)) = default_gateway(roots, attachment)? else { return Ok(()) };
    let routed = sandbox::inside(&namespace, move || {
        let mut socket = Socket::route()?;
        let index = links::index(&mut socket, &interface)?.ok_or(io::ErrorKind::NotFound)?;
        links::add_default_route(&mut socket, gateway, index)
    });
    routed.map_err(failed("route"))
}

/// Of the networks that lead out, the one with the highest priority; of equals the first by name.
fn default_gateway(roots: &Roots, attachment: &Attachment) -> Result<Option<(Ipv4Addr, String)>, Error> {
    let mut best: Option<(i64, Ipv4Addr, String)> = None;
    for (name, endpoint) in &attachment.endpoints {
        let network = get(roots, name)?;
        let better = best.as_ref().is_none_or(|(priority, ..)| endpoint.gateway_priority > *priority);
        if !network.config.internal && better {
            best = Some((endpoint.gateway_priority, network.gateway, endpoint.interface.clone()));
        }
    }
    Ok(best.map(|(_, gateway, interface)| (gateway, interface)))
}

fn cable(roots: &Roots, container: &str, network: &str) -> String {
    format!("stv-{}", short(roots, &["cable", container, network]))
}

fn plug(roots: &Roots, container: &str, network: &Network, endpoint: &Endpoint, namespace: &Path) -> io::Result<()> {
    let mut socket = Socket::route()?;
    let name = cable(roots, container, &network.config.name);
    let interface = endpoint.interface.clone();
    let wanted = interface.clone();
    let inside = sandbox::inside(namespace, move || links::index(&mut Socket::route()?, &wanted))?;
    if inside.is_none() || links::index(&mut socket, &name)?.is_none() {
        links::remove(&mut socket, &name)?;
        let bridge = links::index(&mut socket, &network.bridge)?.ok_or(io::ErrorKind::NotFound)?;
        let file = fs::File::open(namespace)?;
        let peer = links::Peer { namespace: file.as_fd(), name: &interface, address: endpoint.hardware_address };
        links::make_cable(&mut socket, &name, bridge, &peer, network.config.mtu)?;
        // The host has nothing to say on the cable itself.
        let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        if Path::new(&path).exists() {
            fs::write(path, "1")?;
        }
    }
    let (address, prefix) = (endpoint.address, network.subnet.prefix());
    sandbox::inside(namespace, move || {
        let mut socket = Socket::route()?;
        let index = links::index(&mut socket, &interface)?.ok_or(io::ErrorKind::NotFound)?;
        links::add_address(&mut socket, index, address, prefix)?;
        links::set_up(&mut socket, index)
    })
}

/// Takes everything of the network from a container. One that has nothing is fine.
pub fn disconnect(roots: &Roots, container: &str) -> Result<(), Error> {
    let _lock = lock(roots)?;
    let file = records::attachment_file(roots, container);
    let attachment: Option<Attachment> = state::read_json(&file)?;
    let failed = |what: &str| kernel(format!("network of container {container}: {what}"));
    let mut socket = route_socket()?;
    for network in attachment.iter().flat_map(|attachment| attachment.endpoints.keys()) {
        links::remove(&mut socket, &cable(roots, container, network)).map_err(failed("remove its cable"))?;
    }
    if sandbox::path(roots, container).exists() {
        sandbox::remove(roots, container).map_err(failed("remove its namespace"))?;
    }
    if attachment.is_none() {
        return Ok(());
    }
    remove_file(&file)?;
    apply_rules(roots)
}

/// What the kernel lost of a network: its bridge or the engine's table.
pub fn lost(roots: &Roots, name: &str) -> Result<Vec<String>, Error> {
    let network = get(roots, name)?;
    let links = links::list(&mut route_socket()?).map_err(kernel("list links"))?;
    let mut lost = Vec::new();
    if !links.iter().any(|(_, found)| *found == network.bridge) {
        lost.push(format!("link {} gone", network.bridge));
    }
    Ok(lost)
}

/// What the kernel lost of a container's network: its namespace or cables.
pub fn lost_of_container(roots: &Roots, container: &str) -> Result<Vec<String>, Error> {
    let attachment: Option<Attachment> = state::read_json(&records::attachment_file(roots, container))?;
    let Some(attachment) = attachment else { return Ok(Vec::new()) };
    if !sandbox::exists(roots, container) {
        return Ok(vec!["network namespace gone".to_owned()]);
    }
    let links = links::list(&mut route_socket()?).map_err(kernel("list links"))?;
    let gone = |network: &&String| !links.iter().any(|(_, found)| *found == cable(roots, container, network));
    Ok(attachment.endpoints.keys().filter(gone).map(|network| format!("link to {network} gone")).collect())
}

/// Puts back what the kernel lost of all networks and of the containers that have a namespace.
pub fn reassert(roots: &Roots) -> Result<(), Error> {
    let _lock = lock(roots)?;
    for network in list(roots)? {
        make(&network)?;
    }
    for attachment in attachments(roots)? {
        if sandbox::exists(roots, &attachment.container) {
            build(roots, &attachment)?;
        }
    }
    apply_rules(roots)
}
