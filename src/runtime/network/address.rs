//! Addresses of both versions of the internet protocol: subnets, and what a network has of one. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Error;

/// Which version of the internet protocol an address is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Both, in the order in which they are shown.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// How many bits an address has.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The kernel's number for it.
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => libc::AF_INET as u8,
            Self::V6 => libc::AF_INET6 as u8,
        }
    }

    /// The address of these bytes, if there are as many as it has.
    pub fn address(self, bytes: &[u8]) -> Option<IpAddr> {
        match self {
            Self::V4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
            Self::V6 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        }
    }

    /// The address that means all of the host's.
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    fn numbered(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from(number as u32).into(),
            Self::V6 => Ipv6Addr::from(number).into(),
        }
    }

    /// A one for each bit that tells hosts of such a network apart.
    fn host_bits(self, prefix: u8) -> u128 {
        let count = self.bits().saturating_sub(prefix);
        u128::MAX.checked_shr(128 - u32::from(count)).unwrap_or(0)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::V4 { "IPv4" } else { "IPv6" })
    }
}

/// The bytes of an address as they are sent.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// A network of either version, `10.210.3.0/24` or `fd00:1::/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    family: Family,
    network: u128,
    prefix: u8,
}

impl Subnet {
    /// `prefix` is the number of leading bits that all addresses share, at most all of them.
    pub fn new(address: IpAddr, prefix: u8) -> Self {
        let family = Family::of(address);
        Self { family, network: number(address) & !family.host_bits(prefix), prefix }
    }

    pub fn family(self) -> Family {
        self.family
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub fn network(self) -> IpAddr {
        self.family.numbered(self.network)
    }

    /// The address with this number in the network; 0 is the network's own.
    pub fn address(self, number: u128) -> IpAddr {
        self.family.numbered(self.network.wrapping_add(number))
    }

    pub fn holds(self, address: IpAddr) -> bool {
        Family::of(address) == self.family && number(address) & !self.family.host_bits(self.prefix) == self.network
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.holds(other.network()) || other.holds(self.network())
    }

    /// Whether something can have this address: neither the network's own nor, of IPv4, the one that means everybody.
    pub fn is_host(self, address: IpAddr) -> bool {
        let own = number(address) & self.family.host_bits(self.prefix);
        self.holds(address) && own != 0 && (self.family == Family::V6 || own != self.family.host_bits(self.prefix))
    }

    /// The numbers of all its addresses.
    fn numbers(self) -> std::ops::RangeInclusive<u128> {
        0..=self.family.host_bits(self.prefix)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = text
            .split_once('/')
            .and_then(|(address, prefix)| Some((address.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?)));
        match parsed {
            Some((address, prefix)) if prefix + 2 <= Family::of(address).bits() => Ok(Self::new(address, prefix)),
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
        subnet.to_string()
    }
}

/// Addresses of one family as they are asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pool {
    /// A free one when unset.
    pub subnet: Option<Subnet>,
    /// The subnet's first when unset.
    pub gateway: Option<IpAddr>,
    /// The part of the subnet that containers get theirs from, unless they name one.
    pub ip_range: Option<Subnet>,
    /// Addresses that somebody else has, by what they are for.
    pub reserved: BTreeMap<String, IpAddr>,
}

/// What a network has of one family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Range {
    pub subnet: Subnet,
    /// Where containers send what is for elsewhere; this host's own address on a bridge.
    pub gateway: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<Subnet>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reserved: BTreeMap<String, IpAddr>,
}

/// How many addresses are looked at for a free one: those of the largest network that Linux bridges serve.
const MOST: usize = 1 << 17;

impl Range {
    /// The whole subnet, and its first address for this host.
    pub fn new(subnet: Subnet) -> Self {
        Self { subnet, gateway: subnet.address(1), ip_range: None, reserved: BTreeMap::new() }
    }

    pub fn family(&self) -> Family {
        self.subnet.family()
    }

    /// The address asked for, if it is free; else the first free one of those to be given out. `taken` tells which
    /// containers have which.
    pub(super) fn choose(
        &self,
        network: &str,
        wanted: Option<IpAddr>,
        taken: &BTreeMap<IpAddr, &str>,
    ) -> Result<IpAddr, Error> {
        let name = || network.to_owned();
        match wanted {
            Some(address) if !self.subnet.is_host(address) => {
                Err(Error::OutsideSubnet { address, network: name(), subnet: self.subnet })
            }
            Some(address) => match self.holder(address, taken) {
                Some(holder) => Err(Error::AddressTaken { address, network: name(), holder }),
                None => Ok(address),
            },
            None => {
                let part = self.ip_range.unwrap_or(self.subnet);
                let mut all = part.numbers().take(MOST).map(|number| part.address(number));
                let is_free =
                    |address: &IpAddr| self.subnet.is_host(*address) && self.holder(*address, taken).is_none();
                all.find(is_free).ok_or_else(|| Error::NoAddress { network: name(), part })
            }
        }
    }

    /// Who has this address, `None` where nobody does.
    fn holder(&self, address: IpAddr, taken: &BTreeMap<IpAddr, &str>) -> Option<String> {
        let reserved = || self.reserved.iter().find(|(_, other)| **other == address);
        match taken.get(&address) {
            Some(container) => Some(format!("container {container}")),
            None if address == self.gateway => Some("the network's gateway".to_owned()),
            None => reserved().map(|(what, _)| format!("{what}, of its aux_addresses")),
        }
    }
}

/// A locally administered hardware address that tells which IP address it is of.
pub(super) fn hardware_address(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [0x02, 0x42, a, b, c, d]
        }
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            [0x02, 0x46, a, b, c, d]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(subnet: &str) -> Range {
        Range::new(subnet.parse().unwrap())
    }

    #[test]
    fn addresses_are_given_once() {
        let range = range("10.1.2.0/29");
        let mut taken = BTreeMap::new();
        for number in 2..=6 {
            let address = range.choose("n", None, &taken).unwrap();
            assert_eq!(address, range.subnet.address(number));
            taken.insert(address, "web");
        }
        assert!(matches!(range.choose("n", None, &taken), Err(Error::NoAddress { .. })));
        let wanted = |text: &str| range.choose("n", Some(text.parse().unwrap()), &taken);
        let who = |text: &str| match wanted(text) {
            Err(Error::AddressTaken { holder, .. }) => holder,
            other => panic!("{other:?}"),
        };
        assert_eq!((who("10.1.2.3"), who("10.1.2.1")), ("container web".into(), "the network's gateway".into()));
        for outside in ["10.1.3.3", "10.1.2.0", "10.1.2.7", "fd00::1"] {
            assert!(matches!(wanted(outside), Err(Error::OutsideSubnet { .. })), "{outside}");
        }
    }

    #[test]
    fn what_is_reserved_or_out_of_the_range_is_not_given_out() {
        let mut six = range("fd00:1::/64");
        six.ip_range = Some("fd00:1::10/126".parse().unwrap());
        six.reserved.insert("router".into(), "fd00:1::10".parse().unwrap());
        let mut taken = BTreeMap::new();
        for expected in ["fd00:1::11", "fd00:1::12", "fd00:1::13"] {
            let address = six.choose("n", None, &taken).unwrap();
            assert_eq!(address, expected.parse::<IpAddr>().unwrap());
            taken.insert(address, "web");
        }
        assert!(matches!(six.choose("n", None, &taken), Err(Error::NoAddress { .. })));
        let wanted = |text: &str| six.choose("n", Some(text.parse().unwrap()), &taken);
        assert!(matches!(wanted("fd00:1::10"), Err(Error::AddressTaken { .. })));
        assert!(wanted("fd00:1::ffff").is_ok() && wanted("fd00:2::2").is_err());
    }

    #[test]
    fn subnets_are_of_one_family() {
        let subnet = |text: &str| text.parse::<Subnet>().unwrap();
        assert_eq!(subnet("fd00:1:2:3:4::9/64").to_string(), "fd00:1:2:3::/64");
        assert_eq!(subnet("10.1.2.3/16").to_string(), "10.1.0.0/16");
        assert!(subnet("fd00::/48").overlaps(subnet("fd00:0:0:9::/64")));
        assert!(!subnet("::/0").overlaps(subnet("0.0.0.0/0")));
        for text in ["10.0.0.0", "10.0.0.0/31", "x/24", "10.0.0.0/-1", "fd00::/127", "fd00::/129"] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }
}
