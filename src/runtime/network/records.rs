//! What is written down about networks and the containers in them, and the choice of addresses: pure but for reading
//! and writing files. Format 1 of both files.
//!
//! `networks/NAME.json` and `endpoints/CONTAINER.json` below the durable root, so that all can be put back after a
//! reboot with the same addresses; the endpoints of a container that goes with its end are below the volatile root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Error, io_at};
use crate::runtime::roots::Roots;
use crate::runtime::state;

/// An IPv4 network, `10.210.3.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: u32,
    prefix: u8,
}

impl Subnet {
    /// `prefix` is the number of leading bits that all addresses share, 32 at most.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        Self { network: u32::from(address) & bits(prefix), prefix }
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from(self.network)
    }

    /// The address with this number in the network; 0 is the network's own.
    pub fn address(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.network.wrapping_add(number))
    }

    pub fn holds(self, address: Ipv4Addr) -> bool {
        u32::from(address) & bits(self.prefix) == self.network
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.holds(other.network()) || other.holds(self.network())
    }

    /// Whether something can have this address: neither the network's own nor the one that means everybody.
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        let number = u32::from(address) & !bits(self.prefix);
        self.holds(address) && number != 0 && number != !bits(self.prefix)
    }

    /// How many addresses it has for bridge and containers.
    fn hosts(self) -> u32 {
        (!bits(self.prefix)).saturating_sub(1)
    }
}

fn bits(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

impl FromStr for Subnet {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed =
            text.split_once('/').and_then(|(address, prefix)| Some((address.parse().ok()?, prefix.parse().ok()?)));
        match parsed {
            Some((address, prefix)) if prefix <= 30 => Ok(Self::new(address, prefix)),
            _ => Err(Error::Subnet(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        format!("{}/{}", subnet.network(), subnet.prefix)
    }
}

/// A network as it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkConfig {
    pub name: String,
    pub subnet: Option<Subnet>,
    pub gateway: Option<Ipv4Addr>,
    /// No way in or out, but between its containers.
    pub internal: bool,
    pub mtu: Option<u32>,
    pub labels: BTreeMap<String, String>,
    /// What the layer above asked for; not looked at here.
    pub declared: Value,
}

/// A network as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    pub version: u32,
    pub config: NetworkConfig,
    pub bridge: String,
    pub subnet: Subnet,
    pub gateway: Ipv4Addr,
}

impl Network {
    /// Whether it was made from this, but for what is only written down.
    pub(super) fn is(&self, config: &NetworkConfig) -> bool {
        let NetworkConfig { labels, declared, .. } = config.clone();
        NetworkConfig { labels, declared, ..self.config.clone() } == *config
    }
}

/// A container's place in one network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: Ipv4Addr,
    /// Given by the user, or made from the address.
    pub hardware_address: [u8; 6],
    pub interface: String,
    /// Names by which others of this network find it, the container's own among them.
    pub names: Vec<String>,
    /// The highest gives the default route.
    pub gateway_priority: i64,
}

/// A port of the host that leads to one of the container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// All addresses of the host when unset.
    pub host_ip: Option<IpAddr>,
    /// 0 asks for any free one; never 0 in a record.
    pub host_port: u16,
    pub container_port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The host's own firewall is not asked.
    #[serde(default)]
    pub bypass: bool,
}

/// What one container has of the network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    pub version: u32,
    pub container: String,
    /// What its cables are named after: it stays when the container gets another name.
    #[serde(default)]
    pub id: String,
    /// By network.
    pub endpoints: BTreeMap<String, Endpoint>,
    pub ports: Vec<Port>,
    /// Name servers to ask for names that are not of a network; the host's when empty.
    pub dns: Vec<String>,
}

impl Attachment {
    /// The container's id, or its name where no id is known.
    pub fn owner(&self) -> &str {
        if self.id.is_empty() { &self.container } else { &self.id }
    }

    /// The network that gives the default route, on which ports are published too, and the place in it: of those that
    /// are not internal the one with the highest priority, of equals the first by name.
    pub fn way_out<'a>(&self, networks: &'a [Network]) -> Option<(&'a Network, &Endpoint)> {
        let network = |name: &String| networks.iter().find(|network| network.config.name == *name);
        let places = self.endpoints.iter().filter_map(|(name, endpoint)| Some((network(name)?, endpoint)));
        let open = places.filter(|(network, _)| !network.config.internal);
        open.min_by_key(|(_, endpoint)| std::cmp::Reverse(endpoint.gateway_priority))
    }
}

pub(super) const VERSION: u32 = 1;

fn networks(roots: &Roots) -> PathBuf {
    roots.durable("networks")
}

/// Where the records of containers are: of those that stay, and of those that go with their end.
fn attachment_directories(roots: &Roots) -> [PathBuf; 2] {
    [roots.durable("endpoints"), roots.volatile("endpoints")]
}

pub(super) fn network_file(roots: &Roots, name: &str) -> PathBuf {
    networks(roots).join(format!("{name}.json"))
}

/// Where the record of a container is, or is to be.
pub(super) fn attachment_file(roots: &Roots, container: &str, transient: bool) -> PathBuf {
    let [durable, volatile] = attachment_directories(roots).map(|place| place.join(format!("{container}.json")));
    if transient || volatile.exists() { volatile } else { durable }
}

fn records<T: DeserializeOwned>(directory: &Path) -> Result<Vec<T>, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_at(directory)(error)),
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect();
    paths.sort_unstable();
    let read = |path: &PathBuf| state::read_json::<T>(path).map_err(Error::from).transpose();
    paths.iter().filter_map(read).collect()
}

/// All networks, by name.
pub fn list(roots: &Roots) -> Result<Vec<Network>, Error> {
    records(&networks(roots))
}

/// What all containers have of the network, by their names.
pub fn attachments(roots: &Roots) -> Result<Vec<Attachment>, Error> {
    let mut all =
        attachment_directories(roots).iter().map(|place| records(place)).collect::<Result<Vec<_>, _>>()?.concat();
    all.sort_by(|a: &Attachment, b| a.container.cmp(&b.container));
    Ok(all)
}

/// The address asked for, if it is free; else the first free one after the gateway.
pub(super) fn choose_address(
    network: &Network,
    wanted: Option<Ipv4Addr>,
    taken: &BTreeSet<Ipv4Addr>,
) -> Result<Ipv4Addr, Error> {
    let name = || network.config.name.clone();
    match wanted {
        Some(address) if !network.subnet.is_host(address) => Err(Error::OutsideSubnet { address, network: name() }),
        Some(address) if taken.contains(&address) || address == network.gateway => {
            Err(Error::AddressTaken { address, network: name() })
        }
        Some(address) => Ok(address),
        None => {
            let numbers = 1..=network.subnet.hosts();
            let free = |address: &Ipv4Addr| *address != network.gateway && !taken.contains(address);
            numbers.map(|number| network.subnet.address(number)).find(free).ok_or_else(|| Error::NoAddress(name()))
        }
    }
}

/// A locally administered hardware address that says which IP address it is of.
pub(super) fn hardware_address(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_once() {
        let subnet: Subnet = "10.1.2.0/29".parse().unwrap();
        let config = NetworkConfig::default();
        let gateway = subnet.address(1);
        let network = Network { version: 1, config, bridge: String::new(), gateway, subnet };
        let mut taken = BTreeSet::new();
        for number in 2..=6 {
            let address = choose_address(&network, None, &taken).unwrap();
            assert_eq!(address, subnet.address(number));
            taken.insert(address);
        }
        assert!(matches!(choose_address(&network, None, &taken), Err(Error::NoAddress(_))));
        let wanted = |text: &str| choose_address(&network, Some(text.parse().unwrap()), &taken);
        assert!(matches!(wanted("10.1.2.3"), Err(Error::AddressTaken { .. })));
        for outside in ["10.1.3.3", "10.1.2.0", "10.1.2.7"] {
            assert!(matches!(wanted(outside), Err(Error::OutsideSubnet { .. })), "{outside}");
        }
    }
}
