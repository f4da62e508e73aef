//! Which names a container may see, and what to answer. Pure.
//!
//! A container sees the names of those that share a network with it, by name and by `NAME.NETWORK`. What is not one of
//! these is asked of the servers of the container or of the host, unless all its networks are internal: then nothing
//! leaves, not even a question.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use hickory_proto::rr::RecordType;

use crate::runtime::network::Subnet;

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Client {
    pub networks: Vec<String>,
    /// Whether one of its networks leads out.
    pub outside: bool,
    /// Servers to ask instead of the host's.
    pub servers: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Members {
    subnets: Vec<Subnet>,
    /// In lower case.
    names: BTreeMap<String, Vec<IpAddr>>,
    /// The container of each address.
    containers: BTreeMap<IpAddr, String>,
}

/// All names of one engine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Zone {
    clients: BTreeMap<String, Client>,
    networks: BTreeMap<String, Members>,
}

/// A question, its name without the last dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub name: String,
    pub kind: RecordType,
}

/// What to do with a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These addresses, in this order. None at all where the name exists and has no record of the kind asked for.
    Addresses(Vec<IpAddr>),
    /// The name of an address.
    Name(String),
    /// There is no such name.
    Unknown,
    /// To be asked of these, or of the host's where there are none.
    Forward(Vec<String>),
    /// Nobody may be asked.
    Refuse,
}

impl Zone {
    pub fn add_network(&mut self, name: &str, subnets: Vec<Subnet>) {
        self.networks.entry(name.to_owned()).or_default().subnets = subnets;
    }

    pub fn add_endpoint(&mut self, network: &str, container: &str, names: &[String], address: IpAddr) {
        let members = self.networks.entry(network.to_owned()).or_default();
        for name in std::iter::once(container).chain(names.iter().map(String::as_str)) {
            let addresses = members.names.entry(name.to_ascii_lowercase()).or_default();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        members.containers.insert(address, container.to_owned());
    }

    pub fn add_client(&mut self, container: &str, client: Client) {
        self.clients.insert(container.to_owned(), client);
    }

    fn shared<'a>(&'a self, client: &'a Client) -> impl Iterator<Item = (&'a String, &'a Members)> {
        client.networks.iter().filter_map(|name| Some((name, self.networks.get(name)?)))
    }

    /// Addresses of the name in the networks of the client, each once; of networks with the same name in them all.
    fn addresses(&self, client: &Client, name: &str) -> Option<Vec<IpAddr>> {
        let mut found: Option<Vec<IpAddr>> = None;
        for (network, members) in self.shared(client) {
            let network = network.to_ascii_lowercase();
            let within = name.strip_suffix(&network).and_then(|rest| rest.strip_suffix('.'));
            let of_name = members.names.get(name).or_else(|| members.names.get(within?));
            for address in of_name.into_iter().flatten() {
                let all = found.get_or_insert_default();
                if !all.contains(address) {
                    all.push(*address);
                }
            }
        }
        found
    }
}

/// Decides. `turn` goes up with each question, so that the addresses of a name take turns at being first.
pub fn answer(zone: &Zone, client: &str, query: &Query, turn: usize) -> Answer {
    let Some(client) = zone.clients.get(client) else { return Answer::Refuse };
    let name = query.name.to_ascii_lowercase();
    if let Some(mut addresses) = zone.addresses(client, &name) {
        addresses.retain(|address| query.kind == if address.is_ipv4() { RecordType::A } else { RecordType::AAAA });
        let first = turn % addresses.len().max(1);
        addresses.rotate_left(first);
        return Answer::Addresses(addresses);
    }
    if let Some(address) = reverse(&name) {
        let mut shared = zone.shared(client);
        let known = zone.shared(client).find_map(|(network, members)| {
            members.containers.get(&address).map(|container| format!("{container}.{network}"))
        });
        match known {
            Some(_) if query.kind != RecordType::PTR => return Answer::Addresses(Vec::new()),
            Some(name) => return Answer::Name(name),
            None if shared.any(|(_, members)| members.subnets.iter().any(|subnet| subnet.holds(address))) => {
                return Answer::Unknown;
            }
            None => {}
        }
    }
    match client.outside {
        true => Answer::Forward(client.servers.clone()),
        false if name.contains('.') => Answer::Refuse,
        false => Answer::Unknown,
    }
}

/// The address of `4.3.2.1.in-addr.arpa`, and of 32 digits before `.ip6.arpa` (RFC 3596 section 2.5).
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".ip6.arpa") {
        let labels: Vec<&str> = digits.rsplit('.').collect();
        let one_each = labels.len() == 32 && labels.iter().all(|label| label.len() == 1);
        let number = u128::from_str_radix(&labels.concat(), 16).ok().filter(|_| one_each)?;
        return Some(Ipv6Addr::from(number).into());
    }
    let labels: Vec<&str> = name.strip_suffix(".in-addr.arpa")?.rsplit('.').collect();
    labels.join(".").parse().ok().filter(IpAddr::is_ipv4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        let mut zone = Zone::default();
        let subnets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        zone.add_network("front", subnets(&["10.1.0.0/24"]));
        zone.add_network("back", subnets(&["10.2.0.0/24", "fd00:2::/64"]));
        let mut add = |network: &str, container: &str, names: &[&str], last: u8| {
            let third = if network == "front" { 1 } else { 2 };
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            zone.add_endpoint(network, container, &names, IpAddr::from([10, third, 0, last]));
        };
        add("front", "web-1", &["Web", "web-1"], 2);
        add("front", "web-2", &["Web"], 3);
        add("back", "web-1", &["web"], 2);
        add("back", "db-1", &["db", "database"], 4);
        zone.add_endpoint("back", "db-1", &["db".to_owned()], "fd00:2::4".parse().unwrap());
        let client = |networks: &[&str], outside: bool, servers: &[&str]| Client {
            networks: networks.iter().map(|name| (*name).to_owned()).collect(),
            outside,
            servers: servers.iter().map(|name| (*name).to_owned()).collect(),
        };
        zone.add_client("web-1", client(&["back", "front"], true, &["9.9.9.9"]));
        zone.add_client("web-2", client(&["front"], true, &[]));
        zone.add_client("db-1", client(&["back"], false, &["9.9.9.9"]));
        zone
    }

    #[test]
    fn each_container_sees_the_names_of_its_networks_only() {
        use Answer::{Addresses, Forward, Name, Refuse, Unknown};
        use RecordType::{A, AAAA, MX, PTR};
        let ip = |third, last| IpAddr::from([10, third, 0, last]);
        let six = format!("4{}.2.0.0.0.0.0.d.f.ip6.arpa", ".0".repeat(23));
        let unknown = six.replacen('4', "5", 1);
        let cases = [
            ("web-2", "web", A, 0, Addresses(vec![ip(1, 2), ip(1, 3)])),
            ("web-2", "WEB", A, 1, Addresses(vec![ip(1, 3), ip(1, 2)])),
            ("web-2", "web", A, usize::MAX, Addresses(vec![ip(1, 3), ip(1, 2)])),
            ("web-2", "web.front", A, 0, Addresses(vec![ip(1, 2), ip(1, 3)])),
            ("web-2", "web.back", A, 0, Forward(vec![])),
            ("web-2", "web-1", A, 0, Addresses(vec![ip(1, 2)])),
            ("web-2", "web-1", AAAA, 0, Addresses(vec![])),
            ("web-2", "web-1", MX, 0, Addresses(vec![])),
            ("web-2", "db", A, 0, Forward(vec![])),
            ("web-2", "example.com", A, 0, Forward(vec![])),
            ("web-1", "db", A, 0, Addresses(vec![ip(2, 4)])),
            ("web-1", "db", AAAA, 0, Addresses(vec!["fd00:2::4".parse().unwrap()])),
            ("web-1", &six, PTR, 0, Name("db-1.back".into())),
            ("web-1", &unknown, PTR, 0, Unknown),
            ("web-2", &six, PTR, 0, Forward(vec![])),
            ("web-1", "4.3.ip6.arpa", PTR, 0, Forward(vec!["9.9.9.9".into()])),
            ("web-1", "web", A, 0, Addresses(vec![ip(2, 2), ip(1, 2), ip(1, 3)])),
            ("web-1", "example.com", AAAA, 0, Forward(vec!["9.9.9.9".into()])),
            ("db-1", "web", A, 0, Addresses(vec![ip(2, 2)])),
            ("db-1", "web-2", A, 0, Unknown),
            ("db-1", "example.com", A, 0, Refuse),
            ("db-1", "2.0.2.10.in-addr.arpa", PTR, 0, Name("web-1.back".into())),
            ("db-1", "2.0.2.10.in-addr.arpa", A, 0, Addresses(vec![])),
            ("db-1", "9.0.2.10.in-addr.arpa", PTR, 0, Unknown),
            ("db-1", "3.0.1.10.in-addr.arpa", PTR, 0, Refuse),
            ("web-2", "4.0.2.10.in-addr.arpa", PTR, 0, Forward(vec![])),
            ("web-2", "x.in-addr.arpa", PTR, 0, Forward(vec![])),
            ("web-2", "", A, 0, Forward(vec![])),
            ("stranger", "web", A, 0, Refuse),
        ];
        for (client, name, kind, turn, expected) in cases {
            let query = Query { name: name.to_owned(), kind };
            assert_eq!(answer(&zone(), client, &query, turn), expected, "{client} asks for {name} {kind}");
        }
    }
}
