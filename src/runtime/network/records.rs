//! What is written down about networks and the containers in them: pure but for reading and writing files. Format 2 of
//! both files; format 1, which knew IPv4 alone, is read too.
//!
//! `networks/NAME.json` and `endpoints/CONTAINER.json` below the durable root, so that all can be put back after a
//! reboot with the same addresses; the endpoints of a container that goes with its end are below the volatile root.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::address::{Family, Pool, Range};
use super::driver::Driver;
use super::options::BridgeOptions;
use super::{Error, io_at};
use crate::runtime::roots::Roots;
use crate::runtime::state;

/// A network as it is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkConfig {
    pub name: String,
    /// Where it has IPv4.
    pub ipv4: Option<Pool>,
    /// Where it has IPv6.
    pub ipv6: Option<Pool>,
    /// No way in or out, but between its containers.
    pub internal: bool,
    pub mtu: Option<u32>,
    pub options: BridgeOptions,
    pub driver: Driver,
    pub labels: BTreeMap<String, String>,
    /// What the layer above asked for; not looked at here.
    pub declared: Value,
}

/// IPv4 in any free subnet.
impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            ipv4: Some(Pool::default()),
            ipv6: None,
            internal: false,
            mtu: None,
            options: BridgeOptions::default(),
            driver: Driver::Bridge,
            labels: BTreeMap::new(),
            declared: Value::Null,
        }
    }
}

impl NetworkConfig {
    /// What it asks for of each family that it has, in the order of [`Family::ALL`].
    pub fn pools(&self) -> impl Iterator<Item = (Family, &Pool)> {
        Family::ALL
            .into_iter()
            .zip([&self.ipv4, &self.ipv6])
            .filter_map(|(family, pool)| Some((family, pool.as_ref()?)))
    }
}

/// A network as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    pub version: u32,
    pub config: NetworkConfig,
    /// The link of the host that it is on: a bridge of this engine, or a parent. Empty where plugins make what there is.
    pub bridge: String,
    /// The parent was made here, and is removed with the last network that is on it.
    #[serde(default)]
    pub makes_link: bool,
    /// One of each family that it has, IPv4's first.
    pub ranges: Vec<Range>,
}

impl Network {
    /// What it has of this family.
    pub fn range(&self, family: Family) -> Option<&Range> {
        self.ranges.iter().find(|range| range.family() == family)
    }

    /// What the bridge is to have as its addresses.
    pub fn own_ranges(&self) -> impl Iterator<Item = &Range> {
        self.ranges.iter().filter(|range| self.config.options.has_address(range.family()))
    }

    /// The range that this address is of.
    pub fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.ranges.iter().find(|range| range.subnet.holds(address))
    }

    /// Whether it has a bridge, with this engine's rules on what comes in and goes out.
    pub fn is_bridge(&self) -> bool {
        self.config.driver == Driver::Bridge
    }

    /// Whether plugins give addresses and ways out.
    pub fn is_of_plugins(&self) -> bool {
        matches!(self.config.driver, Driver::Cni(_))
    }

    /// Whether it was made from this, but for what is only written down.
    pub(super) fn is(&self, config: &NetworkConfig) -> bool {
        let NetworkConfig { labels, declared, .. } = config.clone();
        NetworkConfig { labels, declared, ..self.config.clone() } == *config
    }
}

/// A container's place in one network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// One of each family that the network has, IPv4's first. Format 1 had one `address`.
    #[serde(alias = "address", deserialize_with = "one_or_more")]
    pub addresses: Vec<IpAddr>,
    /// Further ones that count on the link alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub link_local: Vec<IpAddr>,
    /// Given by the user, or made from the first address.
    pub hardware_address: [u8; 6],
    pub interface: String,
    /// Names by which others of this network find it, the container's own among them.
    pub names: Vec<String>,
    /// The highest gives the default route.
    pub gateway_priority: i64,
}

impl Endpoint {
    /// The address of this family.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Addresses {
        One(IpAddr),
        More(Vec<IpAddr>),
    }
    Ok(match Addresses::deserialize(deserializer)? {
        Addresses::One(address) => vec![address],
        Addresses::More(addresses) => addresses,
    })
}

/// A port of the host that leads to one of the container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// All addresses of the host when unset.
    pub host_ip: Option<IpAddr>,
    /// 0 asks for any free one; never 0 in a record.
    pub host_port: u16,
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
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
    /// Its id: it stays when the container gets another name.
    #[serde(default)]
    pub id: String,
    /// The id of the first container that had this place, where that is another one: cables are named after it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub line: String,
    /// The container is gone, and its successor is to have all this.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub vacant: bool,
    /// By network.
    pub endpoints: BTreeMap<String, Endpoint>,
    pub ports: Vec<Port>,
    /// Name servers to ask for names that are not of a network; the host's when empty.
    pub dns: Vec<String>,
    /// The container's programs may change its network themselves: what they make of it is left alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub self_governed: bool,
}

impl Attachment {
    /// The container's id, or its name where no id is known.
    pub fn owner(&self) -> &str {
        if self.id.is_empty() { &self.container } else { &self.id }
    }

    /// What its cables are named after.
    pub fn line(&self) -> &str {
        if self.line.is_empty() { self.owner() } else { &self.line }
    }

    /// The network that gives this family's default route, on which its ports are published too, and the place in it: of
    /// those that are not internal the one with the highest priority, of equals the first by name. None where that is one of
    /// plugins: they lead out themselves.
    pub fn way_out<'a>(&self, networks: &'a [Network], family: Family) -> Option<WayOut<'a, '_>> {
        let network = |name: &String| networks.iter().find(|network| network.config.name == *name);
        let places = self.endpoints.iter().filter_map(|(name, endpoint)| Some((network(name)?, endpoint)));
        let open = places.filter(|(network, endpoint)| {
            let has_family = network.range(family).is_some() && endpoint.address(family).is_some();
            !network.config.internal && (has_family || network.is_of_plugins())
        });
        let (network, endpoint) = open.min_by_key(|(_, endpoint)| std::cmp::Reverse(endpoint.gateway_priority))?;
        Some(WayOut { network, endpoint, range: network.range(family)?, address: endpoint.address(family)? })
    }
}

/// By which a container leaves its networks.
#[derive(Clone, Copy, Debug)]
pub struct WayOut<'a, 'b> {
    pub network: &'a Network,
    pub range: &'a Range,
    pub endpoint: &'b Endpoint,
    /// The container's own there.
    pub address: IpAddr,
}

pub(super) const VERSION: u32 = 2;

/// Of format 1: one subnet of IPv4 and this host's address in it, as asked for and as given.
fn upgrade(mut network: Value) -> Value {
    if network["version"] != json!(1) {
        return network;
    }
    let mut take = |place: &str, key: &str| {
        network.pointer_mut(place).and_then(Value::as_object_mut).and_then(|part| part.remove(key))
    };
    let pool = json!({"subnet": take("/config", "subnet"), "gateway": take("/config", "gateway")});
    let range = json!({"subnet": take("", "subnet"), "gateway": take("", "gateway")});
    network["config"]["ipv4"] = pool;
    network["ranges"] = json!([range]);
    network["version"] = json!(VERSION);
    network
}

/// The network that is written down there, by this version or an earlier one.
pub(super) fn read_network(path: &Path) -> Result<Option<Network>, Error> {
    let Some(value) = state::read_json::<Value>(path)? else { return Ok(None) };
    let read = serde_json::from_value(upgrade(value));
    read.map(Some).map_err(|error| io_at(path)(io::Error::new(io::ErrorKind::InvalidData, error)))
}

fn networks(roots: &Roots) -> PathBuf {
    roots.durable("networks")
}

/// Where the records of containers are: of those that stay, and of those that go with their end.
fn attachment_directories(roots: &Roots) -> [PathBuf; 2] {
    [roots.durable("endpoints"), roots.volatile("endpoints")]
}

/// All that hold records.
pub(super) fn directories(roots: &Roots) -> [PathBuf; 3] {
    let [durable, volatile] = attachment_directories(roots);
    [networks(roots), durable, volatile]
}

pub(super) fn network_file(roots: &Roots, name: &str) -> PathBuf {
    networks(roots).join(format!("{name}.json"))
}

/// Where the record of a container is, or is to be.
pub(super) fn attachment_file(roots: &Roots, container: &str, transient: bool) -> PathBuf {
    let [durable, volatile] = attachment_directories(roots).map(|place| place.join(format!("{container}.json")));
    if transient || volatile.exists() { volatile } else { durable }
}

fn records<T>(directory: &Path, read: impl Fn(&Path) -> Result<Option<T>, Error>) -> Result<Vec<T>, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_at(directory)(error)),
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect();
    paths.sort_unstable();
    paths.iter().filter_map(|path| read(path).transpose()).collect()
}

/// All networks, by name.
pub fn list(roots: &Roots) -> Result<Vec<Network>, Error> {
    records(&networks(roots), read_network)
}

/// What all containers have of the network, by their names.
pub fn attachments(roots: &Roots) -> Result<Vec<Attachment>, Error> {
    let read = |path: &Path| Ok(state::read_json::<Attachment>(path)?);
    let mut all =
        attachment_directories(roots).iter().map(|place| records(place, read)).collect::<Result<Vec<_>, _>>()?.concat();
    all.sort_by(|a, b| a.container.cmp(&b.container));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_the_first_format_are_read() {
        let text = r#"{"version": 1, "bridge": "stk0", "subnet": "10.1.2.0/24", "gateway": "10.1.2.1", "config":
            {"name": "n", "subnet": null, "gateway": "10.1.2.1", "internal": true, "mtu": 1400, "labels": {}, "declared": null}}"#;
        let network: Network = serde_json::from_value(upgrade(serde_json::from_str(text).unwrap())).unwrap();
        let gateway: IpAddr = "10.1.2.1".parse().unwrap();
        let range = network.range(Family::V4).unwrap();
        assert_eq!((range.subnet.to_string().as_str(), range.gateway), ("10.1.2.0/24", gateway));
        let pool = Pool { gateway: Some(gateway), ..Pool::default() };
        let config = NetworkConfig {
            name: "n".into(),
            ipv4: Some(pool),
            internal: true,
            mtu: Some(1400),
            ..NetworkConfig::default()
        };
        assert!(network.is(&config), "what was asked for then is what is asked for now");
        let now = serde_json::to_value(&network).unwrap();
        assert_eq!(serde_json::from_value::<Network>(upgrade(now)).unwrap(), network);
        let text = r#"{"address": "10.1.2.3", "hardware_address": [2, 66, 10, 1, 2, 3], "interface": "eth0", "names": [],
            "gateway_priority": 0}"#;
        let endpoint: Endpoint = serde_json::from_str(text).unwrap();
        assert_eq!(endpoint.address(Family::V4), Some("10.1.2.3".parse().unwrap()));
        let now = serde_json::to_string(&endpoint).unwrap();
        assert_eq!(serde_json::from_str::<Endpoint>(&now).unwrap(), endpoint);
    }
}
