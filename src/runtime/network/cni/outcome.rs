//! What the plugins of a configuration say that they made (the specification, section 5: result types), and whether it is
//! so: a plugin is believed what the kernel confirms.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use crate::runtime::network::links::Link;

/// The parts of a result that are this engine's business.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Text {
    interfaces: Vec<Interface>,
    ips: Vec<Address>,
    dns: Dns,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Interface {
    name: String,
    sandbox: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    address: String,
    gateway: Option<IpAddr>,
    interface: Option<usize>,
}

/// What names are to be asked of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Dns {
    pub nameservers: Vec<String>,
    pub domain: Option<String>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

/// What a container was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// With their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    pub gateways: Vec<IpAddr>,
    pub dns: Dns,
}

impl Outcome {
    /// Of what was answered: the addresses of the interface of this name in the container.
    ///
    /// # Errors
    /// What is no result, in words.
    pub fn of(answer: &Value, interface: &str) -> Result<Self, String> {
        if answer.is_null() {
            return Err("it says nothing".to_owned());
        }
        let text = Text::deserialize(answer).map_err(|error| error.to_string())?;
        let mut outcome = Self { dns: text.dns, ..Self::default() };
        for ip in &text.ips {
            if let Some(place) = ip.interface {
                let Some(of) = text.interfaces.get(place) else {
                    return Err(format!(
                        "address {:?} is of interface {place}, of {}",
                        ip.address,
                        text.interfaces.len()
                    ));
                };
                if of.name != interface || of.sandbox.is_empty() {
                    continue;
                }
            }
            let address = parse(&ip.address).ok_or_else(|| format!("{:?} is not ADDRESS/PREFIX", ip.address))?;
            outcome.addresses.push(address);
            outcome.gateways.extend(ip.gateway);
        }
        Ok(outcome)
    }

    /// What of it is not so, where the container's namespace has these links and addresses.
    pub fn denied(&self, interface: &str, links: &[Link], addresses: &[(i32, IpAddr)]) -> Option<String> {
        let Some(link) = links.iter().find(|link| link.name == interface) else {
            return Some(format!("there is no link {interface} in the container"));
        };
        let has: BTreeSet<IpAddr> =
            addresses.iter().filter(|(index, _)| *index == link.index).map(|(_, address)| *address).collect();
        let missing = self.addresses.iter().find(|(address, _)| !has.contains(address));
        missing.map(|(address, _)| format!("link {interface} of the container has no address {address}"))
    }
}

fn parse(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let (address, prefix) = (address.parse::<IpAddr>().ok()?, prefix.parse().ok()?);
    (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, prefix))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_containers_own_addresses_are_taken() {
        let answer = json!({"cniVersion": "0.4.0", "interfaces": [{"name": "br"}, {"name": "eth0", "sandbox": "/run/x"}],
            "ips": [{"version": "4", "address": "10.9.0.1/24", "interface": 0},
                    {"version": "4", "address": "10.9.0.5/24", "gateway": "10.9.0.1", "interface": 1},
                    {"address": "fd00::5/64"}],
            "dns": {"nameservers": ["10.9.0.1"], "search": ["lan"]}});
        let outcome = Outcome::of(&answer, "eth0").unwrap();
        assert_eq!(outcome.addresses, [("10.9.0.5".parse().unwrap(), 24), ("fd00::5".parse().unwrap(), 64)]);
        assert_eq!(outcome.gateways, ["10.9.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!((outcome.dns.nameservers.len(), outcome.dns.search.len()), (1, 1));
        assert_eq!(Outcome::of(&json!({}), "eth0").unwrap(), Outcome::default());
    }

    #[test]
    fn what_is_no_result_is_said() {
        let said = |answer: Value| Outcome::of(&answer, "eth0").unwrap_err();
        assert_eq!(said(Value::Null), "it says nothing");
        assert_eq!(said(json!({"ips": [{"address": "10.9.0.1/33"}]})), "\"10.9.0.1/33\" is not ADDRESS/PREFIX");
        assert_eq!(said(json!({"ips": [{"address": "x", "interface": 3}]})), "address \"x\" is of interface 3, of 0");
        assert!(said(json!({"ips": 5})).contains("invalid type"));
    }
}
