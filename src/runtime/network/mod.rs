//! Networks: a bridge each, a namespace and a cable a container, one firewall table for the engine.
//!
//! What is asked for is written down first ([`records`]), then the kernel is made to match; every call does the whole
//! of that, so that one that was killed half way is finished by the next. Concurrent callers queue on a lock.

pub mod address;
mod bridge;
pub mod cni;
mod conntrack;
pub mod driver;
mod exposure;
mod forwarding;
mod inside;
mod interfaces;
pub mod l2;
mod leaving;
mod links;
mod lost;
pub mod netd;
pub mod netlink;
mod nft;
pub mod options;
mod place;
mod ports;
pub mod records;
mod resolver;
mod rules;
pub mod sandbox;
mod say;
mod settings;
mod six;
mod subnets;
mod succession;
#[cfg(test)]
mod tests;
mod trial;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use address::hardware_address;
pub use address::{Family, Pool, Range, Subnet};
use driver::{Driver, Looker, WayOut};
pub use exposure::{Exposure, Firewall, exposures};
pub use inside::{Ear, listen};
pub use lost::Seen;
use netlink::Socket;
pub use place::{create, disconnect, leave_all_but, leave_alone, mend, reassert, remove, rename, vacate};
pub use ports::{PortHolder, host_ports_free, taken_by_others};
pub use records::{Attachment, Endpoint, Network, NetworkConfig, Port, attachments, list};
use rules::Host;
use say::Way;
pub use trial::{links_work, tables_work};

use super::events::{self, Event};
use super::fnv;
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
    #[error("{0:?} is not a subnet: expected ADDRESS/PREFIX with room for two hosts at least, such as 10.5.0.0/24")]
    Subnet(String),
    #[error(
        "subnet {subnet} of network {name:?} overlaps {other}, which is in use on this host\n  help: choose another `subnet`"
    )]
    Overlap { name: String, subnet: String, other: String },
    #[error(
        "all {0} subnets that networks are given ({1}) are in use on this host\n  help: name a free one, `ipam: {{config: [{{subnet: …}}]}}`, or give the engine other pools: docs/networks.md"
    )]
    NoSubnet(Family, String),
    #[error("network {network:?} has no free address left in {part}\n  help: a larger `subnet` or `ip_range` has more")]
    NoAddress { network: String, part: Subnet },
    #[error("address {address} of network {network:?} is taken by {holder}\n  help: ask for another one, or for none")]
    AddressTaken { address: IpAddr, network: String, holder: String },
    #[error("address {address} is not in the subnet {subnet} of network {network:?}")]
    OutsideSubnet { address: IpAddr, network: String, subnet: Subnet },
    #[error("address {address}: network {network:?} has no {family}\n  help: `enable_{word}: true` gives it that", family = Family::of(*address), word = Family::of(*address).to_string().to_lowercase())]
    NoFamily { address: IpAddr, network: String },
    #[error("network {0:?} has neither IPv4 nor IPv6\n  help: remove `enable_ipv4: false`, or say `enable_ipv6: true`")]
    NoFamilies(String),
    #[error("{path}: {reason}\n  help: mend the file; docs/networks.md describes it")]
    Settings { path: PathBuf, reason: String },
    #[error("option {key}: {value:?} is not {expected}")]
    Option { key: String, value: String, expected: &'static str },
    #[error(
        "network {network:?}: a link {link:?} is there already, and is not of this engine\n  help: name another one, or remove that: `ip link delete {link}`"
    )]
    LinkTaken { network: String, link: String },
    #[error("port {port} is taken by {holder}\n  help: publish another host port, or stop what holds it")]
    PortTaken { port: String, holder: String },
    #[error("network {0:?}: letters, digits, `_`, `.` and `-` only, first a letter or digit, 128 at most")]
    Name(String),
    #[error("not served: {failures}\n  help: where another program holds the port, `ss -lntup` shows which")]
    NotServed { failures: String },
    #[error("container {0:?} would have two interfaces named {1:?}")]
    Interface(String, String),
    #[error("container {0:?}: letters, digits, `_`, `.` and `-` only, first a letter or digit, 128 at most")]
    Container(String),
    #[error(transparent)]
    OnParent(#[from] l2::Error),
    #[error(transparent)]
    Cni(#[from] cni::Error),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error(
        "firewall table {table}: {source}\n  help: this kernel has no nf_tables: `modprobe nf_tables`, or see `stack doctor`; `network_mode: none` and `host` do without"
    )]
    NoFirewall { table: String, source: io::Error },
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
    /// Those that it is to have, one of a family at most.
    pub addresses: Vec<IpAddr>,
    /// Further ones, that count on the link alone.
    pub link_local: Vec<IpAddr>,
    pub hardware_address: Option<[u8; 6]>,
    pub interface: Option<String>,
    pub gateway_priority: i64,
}

/// All that a container is to have of the network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Connect {
    pub container: String,
    /// Its id, which no other container ever has.
    pub id: String,
    /// In the order in which their interfaces are numbered. Without any there is only loopback.
    pub joins: Vec<Join>,
    pub ports: Vec<Port>,
    pub dns: Vec<String>,
    /// Whose the network namespace is.
    pub owner: sandbox::Owner,
    /// It goes with its end: nobody wants its place back after a reboot.
    pub transient: bool,
    /// Its programs, or others that live there, may change the network themselves.
    pub self_governed: bool,
}

fn lock(roots: &Roots) -> Result<Lock, Error> {
    Ok(Lock::take(&roots.volatile("locks").join("network"), Contention::Wait)?)
}

fn route_socket() -> Result<Socket, Error> {
    Socket::route().map_err(kernel("open a netlink socket"))
}

/// What the names of all links begin with, and how long they are: as long as the kernel lets them be.
const LINK: &str = "stk";
const LINK_LENGTH: usize = 15;

/// A link's name: whose it is ([`Roots::key`]), and six characters that tell it from the engine's others (FNV-1a, base
/// 36).
fn link_name(roots: &Roots, parts: &[&str]) -> String {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    let hash = fnv::hash(bytes);
    let digit = |place: u32| char::from_digit((hash / 36_u64.pow(place) % 36) as u32, 36).unwrap_or('0');
    format!("{LINK}{}{}", roots.key(), (0..6).map(digit).collect::<String>())
}

/// Whether a link of this name was made by an engine like this one.
fn is_link_name(name: &str) -> bool {
    name.len() == LINK_LENGTH && name.starts_with(LINK)
}

/// What the names of all tables begin with.
const TABLE: &str = "stack-";

/// The table of this engine.
pub fn table_name(roots: &Roots) -> String {
    format!("{TABLE}{}", roots.key())
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
    let found = if is_name(name) { records::read_network(&records::network_file(roots, name))? } else { None };
    found.ok_or_else(|| Error::NotFound(name.to_owned()))
}

/// Makes the network, or what is missing of it. Labels and declaration of one that is there are taken over.
///
/// # Errors
/// [`Error::Exists`] where another one has the name, [`Error::Overlap`] where the subnet is in use on the host.
fn create_there(roots: &Roots, config: &NetworkConfig) -> Result<Network, Error> {
    if !is_name(&config.name) {
        return Err(Error::Name(config.name.clone()));
    }
    let _lock = lock(roots)?;
    let is_new = !records::network_file(roots, &config.name).exists();
    let network = ensure(roots, config)?;
    driver::sweep(roots, &network)?;
    apply_rules(roots)?;
    if is_new {
        tell(roots, "create", config);
    }
    Ok(network)
}

/// The record, and what the network needs of the host.
fn ensure(roots: &Roots, config: &NetworkConfig) -> Result<Network, Error> {
    let file = records::network_file(roots, &config.name);
    state::make_directory(file.parent().unwrap_or(Path::new("/")))?;
    let mut lost = Vec::new();
    loop {
        let before = records::read_network(&file)?;
        let network = match before.clone() {
            Some(present) if present.is(config) => Network { config: config.clone(), ..present },
            Some(_) => return Err(Error::Exists(config.name.clone())),
            None => plan(roots, config, &lost)?,
        };
        if before.as_ref() != Some(&network) {
            state::write_json(&file, &network)?;
        }
        match driver::claim(&network)? {
            None => return Ok(network),
            Some(other) => give_up(roots, &network, other, lost.len())?,
        }
        lost.extend(network.ranges.iter().map(|range| range.subnet));
    }
}

/// How often a subnet that others took at the same moment is given up for another one.
const ATTEMPTS: usize = 8;

/// Lets go of the subnets, of which another overlaps one, so that others can be chosen.
///
/// # Errors
/// [`Error::Overlap`] where no other one will do: it was asked for, or containers that run have addresses of it.
fn give_up(roots: &Roots, network: &Network, (own, other): (Subnet, String), given_up: usize) -> Result<(), Error> {
    let name = &network.config.name;
    let lives = |one: &Attachment| one.endpoints.contains_key(name) && sandbox::exists(roots, &one.container);
    let used = attachments(roots)?.iter().any(lives);
    links::remove(&mut route_socket()?, &network.bridge).map_err(kernel(format!("remove the bridge of {name}")))?;
    if !used {
        remove_file(&records::network_file(roots, name))?;
    }
    let asked_for = network.config.pools().any(|(_, pool)| pool.subnet == Some(own));
    if used || asked_for || given_up >= ATTEMPTS {
        return Err(overlap(&network.config, own, other));
    }
    Ok(())
}

fn overlap(config: &NetworkConfig, subnet: Subnet, other: String) -> Error {
    Error::Overlap { name: config.name.clone(), subnet: subnet.to_string(), other }
}

/// For who follows what happens.
fn tell(roots: &Roots, action: &str, config: &NetworkConfig) {
    let event = Event::now(events::Kind::Network, action, &config.name, &config.name);
    events::record(roots, &event.with_labels(&config.labels));
}

/// Takes over labels and the declaration of a network that is there.
pub fn update(roots: &Roots, config: &NetworkConfig) -> Result<(), Error> {
    let _lock = lock(roots)?;
    let mut network = get(roots, &config.name)?;
    network.config =
        NetworkConfig { labels: config.labels.clone(), declared: config.declared.clone(), ..network.config };
    Ok(state::write_json(&records::network_file(roots, &config.name), &network)?)
}

fn plan(roots: &Roots, config: &NetworkConfig, lost: &[Subnet]) -> Result<Network, Error> {
    let (bridge, makes_link) = driver::choose_link(roots, config)?;
    if config.pools().next().is_none() && !matches!(config.driver, Driver::Cni(_)) {
        return Err(Error::NoFamilies(config.name.clone()));
    }
    let ranges = config.pools().map(|(family, pool)| range(roots, config, family, pool, &bridge, lost));
    let ranges = ranges.collect::<Result<_, Error>>()?;
    Ok(Network { version: records::VERSION, config: config.clone(), bridge, makes_link, ranges })
}

/// The subnet that was asked for, or a free one.
fn range(
    roots: &Roots,
    config: &NetworkConfig,
    family: Family,
    pool: &Pool,
    bridge: &str,
    lost: &[Subnet],
) -> Result<Range, Error> {
    let subnet = match pool.subnet {
        Some(subnet) => match other_user(roots, config, subnet)? {
            Some(other) => return Err(overlap(config, subnet, other)),
            None => subnet,
        },
        None => subnets::free(roots, family, bridge, lost)?,
    };
    let gateway = pool.gateway.unwrap_or_else(|| subnet.address(1));
    let part = pool.ip_range.map(Subnet::network).filter(|address| !subnet.holds(*address));
    let mut named = std::iter::once(gateway).chain(pool.reserved.values().copied());
    match part.or_else(|| named.find(|address| !subnet.is_host(*address))) {
        Some(address) => Err(Error::OutsideSubnet { address, network: config.name.clone(), subnet }),
        None => Ok(Range { subnet, gateway, ip_range: pool.ip_range, reserved: pool.reserved.clone() }),
    }
}

/// Who else has this subnet, or a part of it. A network on a link of the host is in the host's own.
fn other_user(roots: &Roots, config: &NetworkConfig, subnet: Subnet) -> Result<Option<String>, Error> {
    match subnets::own_user(&list(roots)?, subnet) {
        None if config.driver == Driver::Bridge => subnets::other_user(subnet, None),
        found => Ok(found),
    }
}

/// A kernel without the setting does not need it.
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
    apply_rules_for(roots, &list(roots)?, &attachments(roots)?)
}

/// The group by which `netd` hears of packets that the host's firewall lets in, where there is one and ports are published.
fn judge(roots: &Roots, attachments: &[Attachment]) -> Result<Option<u16>, Error> {
    let publishes = attachments.iter().any(|one| one.ports.iter().any(rules::is_judged));
    Ok(if publishes && say::is_there()? { Some(say::group(roots)) } else { None })
}

/// The table that there is to be for these.
fn apply_rules_for(roots: &Roots, networks: &[Network], attachments: &[Attachment]) -> Result<(), Error> {
    let name = table_name(roots);
    let closed = forwarding::ensure(roots, networks)?;
    let table = rules::table(&name, networks, attachments, &Host { closed, judge: judge(roots, attachments)? });
    let way = Way::of(roots);
    let comes_again = table.as_ref().is_some_and(|table| !table.remembers.is_empty());
    if comes_again {
        way.ensure()?;
    }
    let applied = Socket::netfilter().and_then(|mut socket| match &table {
        Some(table) => nft::put(&mut socket, table),
        None if nft::exists(&mut socket, &name)? => socket.batch(&nft::encode_removal(&name)),
        None => Ok(()),
    });
    if !comes_again {
        way.remove()?;
    }
    match applied {
        // Where there can be no table there is none.
        Err(error) if is_unknown(&error) && networks.is_empty() => Ok(()),
        Err(source) if is_unknown(&source) => Err(Error::NoFirewall { table: name, source }),
        other => other.map_err(kernel(format!("firewall table {name}"))),
    }
}

/// Removes the network. One that is not there is fine.
///
/// # Errors
/// [`Error::InUse`] names the containers that are in it.
fn remove_there(roots: &Roots, name: &str) -> Result<(), Error> {
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
    // The record goes last: while it is there, the next call knows that something may be left.
    let others: Vec<Network> = list(roots)?.into_iter().filter(|other| other.config.name != name).collect();
    driver::remove(roots, &network, &others)?;
    apply_rules_for(roots, &others, &attachments(roots)?)?;
    remove_file(&records::network_file(roots, name))?;
    tell(roots, "destroy", &network.config);
    Ok(())
}

fn remove_file(path: &Path) -> Result<(), Error> {
    Ok(state::remove(path)?)
}

/// Gives a container its namespace, its place in networks and its published ports, as written in `connect`. What it
/// had before and still has stays, addresses too.
pub fn connect(roots: &Roots, connect: &Connect) -> Result<Attachment, Error> {
    if !is_name(&connect.container) {
        return Err(Error::Container(connect.container.clone()));
    }
    let _lock = lock(roots)?;
    let others: Vec<Attachment> =
        attachments(roots)?.into_iter().filter(|other| other.container != connect.container).collect();
    let file = records::attachment_file(roots, &connect.container, connect.transient);
    let mut before: Attachment = state::read_json(&file)?.unwrap_or_default();
    if before.vacant {
        place::there(roots, || succession::take_over(roots, connect))?;
    } else if !before.container.is_empty() && before.id != connect.id {
        // Of another container that had this name, and was not removed to the end.
        place::there(roots, || unplug_all(roots, &connect.container).and_then(|()| forget(roots, &connect.container)))?;
        before = Attachment::default();
    }
    // Of the host's network; all else is in that of the networks.
    let wanted = bound(roots, connect)?;
    let ports = ports::choose(&wanted, &before.ports, &others)?;
    place::there(roots, || connect_there(roots, connect, &before, &others, ports))
}

/// The ports that are asked for, those that name no address on the one that the network says.
fn bound(roots: &Roots, connect: &Connect) -> Result<Vec<Port>, Error> {
    let networks = connect.joins.iter().map(|join| get(roots, &join.network)).collect::<Result<Vec<_>, _>>()?;
    let joins = connect.joins.iter().zip(&networks).filter(|(_, network)| !network.config.internal);
    let way_out = joins.min_by_key(|(join, _)| (std::cmp::Reverse(join.gateway_priority), &join.network));
    let binding = way_out.and_then(|(_, network)| network.config.options.binding);
    let bind = |port: &Port| Port { host_ip: port.host_ip.or(binding), ..port.clone() };
    Ok(connect.ports.iter().map(bind).collect())
}

/// The lock is held.
fn connect_there(
    roots: &Roots,
    connect: &Connect,
    before: &Attachment,
    others: &[Attachment],
    ports: Vec<Port>,
) -> Result<Attachment, Error> {
    let file = records::attachment_file(roots, &connect.container, connect.transient);
    let mut attachment = Attachment {
        version: records::VERSION,
        container: connect.container.clone(),
        id: connect.id.clone(),
        line: succession::line(connect, before),
        vacant: false,
        endpoints: choose_endpoints(roots, connect, before, others)?,
        ports,
        dns: connect.dns.clone(),
        self_governed: connect.self_governed,
    };
    unplug_changed(roots, before, &attachment)?;
    driver::settle(roots, connect, before, &mut attachment)?;
    state::make_directory(file.parent().unwrap_or(Path::new("/")))?;
    if attachment != *before && connect.transient {
        state::write_json_volatile(&file, &attachment)?;
    } else if attachment != *before {
        state::write_json(&file, &attachment)?;
    }
    build(roots, &attachment, &connect.owner, Extent::All)?;
    apply_rules(roots)?;
    lead_anew(&attachment.container, conntrack::forget_misled(&attachment))?;
    Ok(attachment)
}

fn choose_endpoints(
    roots: &Roots,
    connect: &Connect,
    before: &Attachment,
    others: &[Attachment],
) -> Result<BTreeMap<String, Endpoint>, Error> {
    let mut endpoints = BTreeMap::new();
    let called = before.endpoints.iter().map(|(name, endpoint)| (name.as_str(), endpoint.interface.as_str()));
    let networks = connect.joins.iter().map(|join| get(roots, &join.network)).collect::<Result<Vec<_>, _>>()?;
    let prefixes = networks.iter().map(|network| network.config.options.interface_prefix.as_deref().unwrap_or("eth"));
    let interfaces = interfaces::names(&connect.joins.iter().zip(prefixes).collect::<Vec<_>>(), &called.collect());
    for (join, interface) in connect.joins.iter().zip(interfaces) {
        let network = ensure(roots, &get(roots, &join.network)?.config)?;
        let addresses = choose_addresses(&network, join, before, others)?;
        let own = addresses.first().map_or([0x02, 0x42, 0, 0, 0, 2], |address| hardware_address(*address));
        let endpoint = Endpoint {
            addresses,
            link_local: join.link_local.clone(),
            hardware_address: driver::hardware_address(&network, join.hardware_address, own)?,
            interface,
            names: join.names.clone(),
            gateway_priority: join.gateway_priority,
        };
        let name = &endpoint.interface;
        if name == "lo" || endpoints.values().any(|other: &Endpoint| other.interface == *name) {
            return Err(Error::Interface(connect.container.clone(), name.clone()));
        }
        endpoints.insert(join.network.clone(), endpoint);
    }
    Ok(endpoints)
}

/// One of each family that the network has: those asked for, those that it had, else free ones.
fn choose_addresses<'a>(
    network: &Network,
    join: &Join,
    before: &Attachment,
    others: &'a [Attachment],
) -> Result<Vec<IpAddr>, Error> {
    let name = &network.config.name;
    let of = |one: &Attachment| one.endpoints.get(name).map(|endpoint| endpoint.addresses.clone()).unwrap_or_default();
    let of_container = |one: &'a Attachment| of(one).into_iter().map(|address| (address, one.container.as_str()));
    let of_host = driver::addresses_of_host(network)?.into_iter().map(|address| (address, "this host"));
    let taken: BTreeMap<IpAddr, &str> = others.iter().flat_map(of_container).chain(of_host).collect();
    let before = of(before);
    if network.is_of_plugins() {
        return Ok(if join.addresses.is_empty() { before } else { join.addresses.clone() });
    }
    let choose = |range: &Range| {
        let own = |all: &[IpAddr]| all.iter().copied().find(|address| Family::of(*address) == range.family());
        let kept = own(&before).filter(|address| range.subnet.holds(*address) && !taken.contains_key(address));
        range.choose(name, own(&join.addresses).or(kept), &taken)
    };
    let stranger = join.addresses.iter().find(|address| network.range(Family::of(**address)).is_none());
    match stranger {
        Some(address) => Err(Error::NoFamily { address: *address, network: name.clone() }),
        None => network.ranges.iter().map(choose).collect(),
    }
}

/// Takes away cables that are no longer wanted or are to be others, before what they were is forgotten.
fn unplug_changed(roots: &Roots, before: &Attachment, after: &Attachment) -> Result<(), Error> {
    let same = |a: &Endpoint, b: &Endpoint| {
        let parts = |one: &Endpoint| {
            (one.addresses.clone(), one.link_local.clone(), one.hardware_address, one.interface.clone())
        };
        parts(a) == parts(b)
    };
    let stays = |name: &String, endpoint| after.endpoints.get(name).is_some_and(|other| same(endpoint, other));
    for (name, endpoint) in before.endpoints.iter().filter(|(name, endpoint)| !stays(name, endpoint)) {
        driver::unplug(roots, before, name, endpoint, driver::Haste::None)?;
    }
    Ok(())
}

/// What is put in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    All,
    /// What belongs to cables that are made anew: the rest is as the container's programs want it.
    Cables,
}

impl Extent {
    fn of(attachment: &Attachment) -> Self {
        if attachment.self_governed { Self::Cables } else { Self::All }
    }
}

/// Makes what the kernel lacks of this, in networks that are there.
fn build(roots: &Roots, attachment: &Attachment, owner: &sandbox::Owner, extent: Extent) -> Result<(), Error> {
    let container = &attachment.container;
    let failed = |what: &str| kernel(format!("network of container {container}: {what}"));
    let namespace = sandbox::ensure(roots, container, owner).map_err(failed("make its namespace"))?;
    let names = attachment.endpoints.keys();
    let networks = names.map(|name| get(roots, name)).collect::<Result<Vec<Network>, Error>>()?;
    let mut places = Vec::new();
    for network in &networks {
        let name = &network.config.name;
        let Some(endpoint) = attachment.endpoints.get(name) else { continue };
        let made = driver::plug(roots, attachment, network, endpoint, &namespace)?;
        if made || extent == Extent::All {
            // Addresses of plugins are the plugins' to give.
            let given = if network.is_of_plugins() { Vec::new() } else { endpoint.addresses.clone() };
            places.push(Placed::of(network, &Endpoint { addresses: given, ..endpoint.clone() }));
        }
    }
    if places.is_empty() && extent == Extent::Cables {
        return Ok(());
    }
    let ways_out = Family::ALL.map(|family| driver::way_out(attachment, &networks, family));
    sandbox::inside(&namespace, move || address(&places, ways_out)).map_err(failed("set its addresses and routes"))
}

/// An interface of a container, and its addresses with the lengths of their prefixes.
struct Placed {
    interface: String,
    addresses: Vec<(IpAddr, u8)>,
}

impl Placed {
    fn of(network: &Network, endpoint: &Endpoint) -> Self {
        let place = |address: &IpAddr| Some((*address, network.range_of(*address)?.subnet.prefix()));
        let nearby = endpoint.link_local.iter().map(|address| (*address, if address.is_ipv4() { 16 } else { 64 }));
        let addresses = endpoint.addresses.iter().filter_map(place).chain(nearby).collect();
        Self { interface: endpoint.interface.clone(), addresses }
    }

    fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|(address, _)| address.is_ipv6())
    }
}

/// Gives the interfaces of the thread's namespace their addresses, and the default routes their gateways.
fn address(places: &[Placed], ways_out: [(Family, WayOut); 2]) -> io::Result<()> {
    let mut socket = Socket::route()?;
    six::prepare(places)?;
    for place in places {
        let index = links::existing(&place.interface)?;
        // The neighbours hear of the address when the link comes up: it may have been another container's.
        fs::write(format!("/proc/sys/net/ipv4/conf/{}/arp_notify", place.interface), "1")?;
        for (address, prefix) in &place.addresses {
            links::add_address(&mut socket, index, *address, *prefix)?;
        }
        links::set_up(&mut socket, index)?;
    }
    if !places.is_empty() {
        resolver::lead_there()?;
    }
    for (family, way_out) in ways_out {
        match way_out {
            WayOut::To(gateway, interface) => {
                links::set_default_route(&mut socket, gateway, links::existing(&interface)?)?;
            }
            WayOut::By(interface) => {
                l2::set_default_route_by_link(&mut socket, family, links::existing(&interface)?)?;
            }
            WayOut::None => links::remove_default_route(&mut socket, family)?,
            WayOut::OfPlugins => {}
        }
    }
    Ok(())
}

/// The container's namespace, held for others to join whatever becomes of its processes.
pub fn hold(roots: &Roots, container: &str, namespace: BorrowedFd<'_>) -> Result<PathBuf, Error> {
    let _lock = lock(roots)?;
    sandbox::hold(roots, container, namespace).map_err(kernel(format!("hold the network namespace of {container}")))
}

/// Takes everything of the network from a container. Says whether there was anything.
fn disconnect_there(roots: &Roots, container: &str) -> Result<bool, Error> {
    let file = records::attachment_file(roots, container, false);
    if !file.exists() && !sandbox::path(roots, container).exists() {
        return Ok(false);
    }
    // Before the lock: the kernel takes 15 ms over each, but over many at once no longer. They are this container's alone.
    unplug_all(roots, container)?;
    let _lock = lock(roots)?;
    // What netd's guard has put back meanwhile, as long as it was written down.
    unplug_all(roots, container)?;
    forget(roots, container)?;
    Ok(true)
}

fn unplug_all(roots: &Roots, container: &str) -> Result<(), Error> {
    let file = records::attachment_file(roots, container, false);
    let Some(attachment) = state::read_json::<Attachment>(&file)? else { return Ok(()) };
    // Somebody waits for the end of one that goes with it, and most often only for that.
    let haste = if file.starts_with(&roots.run) { driver::Haste::Most } else { driver::Haste::None };
    for (network, endpoint) in &attachment.endpoints {
        driver::unplug(roots, &attachment, network, endpoint, haste)?;
    }
    Ok(())
}

/// The lock is held.
fn forget(roots: &Roots, container: &str) -> Result<(), Error> {
    let failed = |what: &str| kernel(format!("network of container {container}: {what}"));
    sandbox::remove(roots, container).map_err(failed("remove its namespace"))?;
    let file = records::attachment_file(roots, container, false);
    if !file.exists() {
        return Ok(());
    }
    // The record goes last: while it is there, the next call knows that something may be left.
    let (own, others): (Vec<Attachment>, Vec<Attachment>) =
        attachments(roots)?.into_iter().partition(|one| one.container == container);
    apply_rules_for(roots, &list(roots)?, &others)?;
    for gone in own {
        lead_anew(container, conntrack::forget_all(&gone))?;
    }
    remove_file(&file)
}

/// A kernel that does not tell of its connections keeps them as long as they like.
fn lead_anew(container: &str, forgotten: io::Result<()>) -> Result<(), Error> {
    match forgotten {
        Err(error) if is_unknown(&error) => Ok(()),
        other => other.map_err(kernel(format!("network of container {container}: forget its connections"))),
    }
}

/// What a kernel without a part of netfilter says when that is asked something.
fn is_unknown(error: &io::Error) -> bool {
    let said = error.raw_os_error().unwrap_or_default();
    [libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT, libc::EOPNOTSUPP, libc::EINVAL].contains(&said)
}

/// What a container has of the network is another name's from now on; nothing of it changes for the container. One that
/// has nothing is fine.
fn rename_there(roots: &Roots, container: &str, new: &str) -> Result<(), Error> {
    if !is_name(new) {
        return Err(Error::Container(new.to_owned()));
    }
    let _lock = lock(roots)?;
    let [from, to] = [container, new].map(|name| records::attachment_file(roots, name, false));
    if let Some(attachment) = state::read_json::<Attachment>(&from)? {
        let before: Option<Attachment> = state::read_json(&to)?;
        if before.is_some_and(|before| before.owner() != attachment.owner()) {
            unplug_all(roots, new)?;
            forget(roots, new)?;
        }
        driver::renamed(roots, &attachment, new)?;
        let id = attachment.owner().to_owned();
        state::write_json(&to, &Attachment { container: new.to_owned(), id, ..attachment })?;
    }
    sandbox::rename(roots, container, new).map_err(kernel(format!("network of container {container}: rename")))?;
    // The record goes last: while it is there, the next call knows that something may be left.
    remove_file(&from)?;
    apply_rules(roots)
}

/// Puts back what the kernel lost of all networks and of the containers that have a namespace.
fn reassert_there(roots: &Roots) -> Result<(), Error> {
    let _lock = lock(roots)?;
    put_back(roots, Looker::Command)
}

/// As [`reassert`], but only where something is lost, of these containers also inside their namespaces. Says whether
/// there was anything.
fn mend_there(roots: &Roots, inside: &BTreeSet<String>) -> Result<bool, Error> {
    let _lock = lock(roots)?;
    let seen = Seen::look(roots)?;
    let lost = seen.has_lost() || inside.iter().any(|container| !seen.of_container(container).is_empty());
    if lost {
        put_back(roots, Looker::Guard)?;
    }
    Ok(lost)
}

/// One network whose parent is gone keeps nothing from the others; what failed first is told.
fn put_back(roots: &Roots, looker: Looker) -> Result<(), Error> {
    let mut failed = None;
    for network in list(roots)? {
        failed = failed.or(ensure(roots, &network.config).err());
    }
    for attachment in attachments(roots)? {
        if sandbox::exists(roots, &attachment.container) {
            failed = failed.or(put_back_one(roots, &attachment, looker).err());
        }
    }
    apply_rules(roots)?;
    failed.map_or(Ok(()), Err)
}

fn put_back_one(roots: &Roots, attachment: &Attachment, looker: Looker) -> Result<(), Error> {
    let mut now = attachment.clone();
    if looker == Looker::Command {
        driver::settle_again(roots, &mut now)?;
    }
    if now != *attachment {
        state::write_json(&records::attachment_file(roots, &now.container, false), &now)?;
    }
    build(roots, &now, &sandbox::Owner::Host, Extent::of(&now))
}
