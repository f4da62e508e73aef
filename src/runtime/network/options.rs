//! Options of a bridge, under the names that docker gives them. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Error, Family};

const NAME: &str = "com.docker.network.bridge.name";
const TALK: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const INHIBIT: &str = "com.docker.network.bridge.inhibit_ipv4";
const MODE: [&str; 2] = ["com.docker.network.bridge.gateway_mode_ipv4", "com.docker.network.bridge.gateway_mode_ipv6"];
const PREFIX: &str = "com.docker.network.container_iface_prefix";
pub const MTU: &str = "com.docker.network.driver.mtu";
const OLD_MTU: &str = "com.docker.network.mtu";

/// Those that have an effect.
pub const KNOWN: [&str; 10] = [NAME, TALK, MASQUERADE, BINDING, INHIBIT, MODE[0], MODE[1], PREFIX, MTU, OLD_MTU];

/// What a gateway does with packets between its containers and the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// They leave under this host's address; published ports are let in under it.
    #[default]
    Nat,
    /// As `nat`, and whoever has a route to the containers reaches all of their ports.
    NatUnprotected,
    /// They leave under their own address; published ports are let in under that.
    Routed,
    /// There is none: the bridge has no address. Of an internal network.
    Isolated,
}

const MODES: [(&str, Mode); 4] = [
    ("nat", Mode::Nat),
    ("nat-unprotected", Mode::NatUnprotected),
    ("routed", Mode::Routed),
    ("isolated", Mode::Isolated),
];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BridgeOptions {
    /// Of the link; one of the engine's own when unset.
    pub name: Option<String>,
    /// Containers reach each other by it, and not only by published ports.
    pub talk: bool,
    /// What leaves gets this host's address.
    pub masquerade: bool,
    /// Where ports are published that say no address.
    pub binding: Option<IpAddr>,
    /// The bridge has no address of IPv4.
    pub inhibit_ipv4: bool,
    pub mode_ipv4: Mode,
    pub mode_ipv6: Mode,
    /// What the names of interfaces begin with, in containers.
    pub interface_prefix: Option<String>,
}

impl Default for BridgeOptions {
    fn default() -> Self {
        Self {
            name: None,
            talk: true,
            masquerade: true,
            binding: None,
            inhibit_ipv4: false,
            mode_ipv4: Mode::default(),
            mode_ipv6: Mode::default(),
            interface_prefix: None,
        }
    }
}

impl BridgeOptions {
    /// What these say; what is none of [`KNOWN`] is left alone.
    ///
    /// # Errors
    /// [`Error::Option`] names the one that can't be understood.
    pub fn parse(options: &BTreeMap<String, String>) -> Result<Self, Error> {
        let mut read = Self::default();
        for (key, value) in options {
            match key.as_str() {
                NAME => read.name = Some(link_name(key, value)?),
                TALK => read.talk = truth(key, value)?,
                MASQUERADE => read.masquerade = truth(key, value)?,
                BINDING => read.binding = binding(key, value)?,
                INHIBIT => read.inhibit_ipv4 = truth(key, value)?,
                PREFIX => read.interface_prefix = Some(link_name(key, value)?),
                key if key == MODE[0] => read.mode_ipv4 = mode(key, value)?,
                key if key == MODE[1] => read.mode_ipv6 = mode(key, value)?,
                _ => {}
            }
        }
        Ok(read)
    }

    /// Whether a network that is `internal` or not, and whose packets of IPv6 have this size at most, can have these.
    ///
    /// # Errors
    /// [`Error::Option`].
    pub fn fits(&self, internal: bool, mtu_of_ipv6: Option<u32>) -> Result<(), Error> {
        let isolated = Family::ALL.into_iter().zip(MODE).find(|(family, _)| self.mode(*family) == Mode::Isolated);
        match (isolated, mtu_of_ipv6) {
            (Some((_, key)), _) if !internal => {
                Err(wrong(key, "isolated", "for a network that leads out: say `internal: true`"))
            }
            (_, Some(mtu)) if mtu < LEAST_OF_IPV6 => {
                Err(wrong(MTU, &mtu.to_string(), "enough: IPv6 takes 1280 bytes at least"))
            }
            _ => Ok(()),
        }
    }

    pub fn mode(&self, family: Family) -> Mode {
        match family {
            Family::V4 => self.mode_ipv4,
            Family::V6 => self.mode_ipv6,
        }
    }

    /// Whether the bridge has an address of this family.
    pub fn has_address(&self, family: Family) -> bool {
        self.mode(family) != Mode::Isolated && !(family == Family::V4 && self.inhibit_ipv4)
    }

    /// Whether packets leave under this host's address.
    pub fn hides(&self, family: Family) -> bool {
        self.masquerade && matches!(self.mode(family), Mode::Nat | Mode::NatUnprotected)
    }
}

/// What each link of IPv6 has to take (RFC 8200 section 5).
const LEAST_OF_IPV6: u32 = 1280;

/// The largest packet that was asked for.
///
/// # Errors
/// [`Error::Option`].
pub fn mtu(options: &BTreeMap<String, String>) -> Result<Option<u32>, Error> {
    let Some((key, value)) = options.get_key_value(MTU).or_else(|| options.get_key_value(OLD_MTU)) else {
        return Ok(None);
    };
    match value.parse() {
        Ok(0) => Ok(None),
        Ok(mtu @ 68..=65_535) => Ok(Some(mtu)),
        _ => Err(wrong(key, value, "a number of bytes, 68 to 65535")),
    }
}

fn wrong(key: &str, value: &str, expected: &'static str) -> Error {
    Error::Option { key: key.to_owned(), value: value.to_owned(), expected }
}

fn truth(key: &str, value: &str) -> Result<bool, Error> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "t" => Ok(true),
        "false" | "0" | "f" => Ok(false),
        _ => Err(wrong(key, value, "true or false")),
    }
}

fn mode(key: &str, value: &str) -> Result<Mode, Error> {
    let found = MODES.iter().find(|(word, _)| *word == value).map(|(_, mode)| *mode);
    found.ok_or_else(|| wrong(key, value, "nat, nat-unprotected, routed or isolated"))
}

/// The address that means all of the host's is none to be bound to.
fn binding(key: &str, value: &str) -> Result<Option<IpAddr>, Error> {
    let address: IpAddr = value.parse().map_err(|_| wrong(key, value, "an address of this host"))?;
    Ok(Some(address).filter(|address| !address.is_unspecified()))
}

fn link_name(key: &str, value: &str) -> Result<String, Error> {
    let good = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    let is_name = (1..16).contains(&value.len()) && value.chars().all(good) && value != "." && value != "..";
    if is_name { Ok(value.to_owned()) } else { Err(wrong(key, value, "a link's name, 15 letters and digits at most")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_have_dockers_names_and_values() {
        let read = BridgeOptions::parse(&of(&[
            (NAME, "br-web"),
            (TALK, "false"),
            (MASQUERADE, "0"),
            (BINDING, "127.0.0.1"),
            (MODE[1], "routed"),
            (PREFIX, "lan"),
            ("theirs", "x"),
        ]))
        .unwrap();
        assert_eq!((read.name.as_deref(), read.talk, read.masquerade), (Some("br-web"), false, false));
        assert_eq!((read.binding, read.interface_prefix.as_deref()), ("127.0.0.1".parse().ok(), Some("lan")));
        assert!(!read.hides(Family::V6) && read.has_address(Family::V6));
        assert_eq!(BridgeOptions::parse(&of(&[])).unwrap(), BridgeOptions::default());
        assert_eq!(mtu(&of(&[(MTU, "1400")])).unwrap(), Some(1400));
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        for (key, value) in
            [(TALK, "maybe"), (BINDING, "here"), (MODE[0], "proxy"), (NAME, "a name"), (NAME, "0123456789abcdef")]
        {
            let error = BridgeOptions::parse(&of(&[(key, value)])).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(value), "{error}");
        }
        assert!(mtu(&of(&[(MTU, "much")])).is_err());
        let isolated = BridgeOptions::parse(&of(&[(MODE[0], "isolated")])).unwrap();
        assert!(isolated.fits(true, None).is_ok() && isolated.fits(false, None).is_err());
        assert!(BridgeOptions::default().fits(false, Some(1000)).is_err());
    }
}
