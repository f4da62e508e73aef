//! The driver that a network is declared with, in the runtime's words.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::reconcile::resource::NetworkConfig;
use crate::runtime::network::cni::Cni;
use crate::runtime::network::driver::Driver;
use crate::runtime::network::l2::{IpvlanFlag, IpvlanMode, Kind, MacvlanMode, OnParent};
use crate::runtime::roots::Roots;
use crate::spec::network_driver::{
    self, CONFIG, CONFIG_DIR, IPVLAN_FLAG, IPVLAN_MODE, MACVLAN_MODE, PARENT, PLUGIN_DIR, TIMEOUT,
};

/// A network that is declared with what its driver does not take.
#[derive(Debug, thiserror::Error)]
#[error("network {network:?}: {message}\n  help: {help}")]
pub struct Error {
    network: String,
    message: String,
    help: String,
}

/// Where a system has CNI's plugins: where their makers put them, and where Debian does.
const PLUGINS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];
/// How long a plugin may take, in seconds: one that asks for addresses over the network needs some.
const PATIENCE_S: u64 = 30;

/// A driver that this engine does not know is a bridge; the plan says so.
pub fn driver(roots: &Roots, wanted: &NetworkConfig) -> Result<Driver, Error> {
    let options = &wanted.options;
    if let Some(fault) = network_driver::faults(&wanted.driver, options).into_iter().next() {
        return Err(Error { network: wanted.name.clone(), message: fault.message, help: fault.help });
    }
    let on = |kind| Driver::OnParent(OnParent { kind, parent: options.get(PARENT).cloned() });
    Ok(match wanted.driver.as_str() {
        "macvlan" => on(Kind::Macvlan(macvlan_mode(options))),
        "ipvlan" => on(Kind::Ipvlan(ipvlan_mode(options), ipvlan_flag(options))),
        "cni" => Driver::Cni(cni(roots, options)),
        _ => Driver::Bridge,
    })
}

/// The first word is what there is without one.
fn word<'a>(options: &'a BTreeMap<String, String>, key: &str) -> &'a str {
    options.get(key).map_or("", String::as_str)
}

fn macvlan_mode(options: &BTreeMap<String, String>) -> MacvlanMode {
    match word(options, MACVLAN_MODE) {
        "private" => MacvlanMode::Private,
        "vepa" => MacvlanMode::Vepa,
        "passthru" => MacvlanMode::Passthru,
        _ => MacvlanMode::Bridge,
    }
}

fn ipvlan_mode(options: &BTreeMap<String, String>) -> IpvlanMode {
    match word(options, IPVLAN_MODE) {
        "l3" => IpvlanMode::L3,
        "l3s" => IpvlanMode::L3s,
        _ => IpvlanMode::L2,
    }
}

fn ipvlan_flag(options: &BTreeMap<String, String>) -> IpvlanFlag {
    match word(options, IPVLAN_FLAG) {
        "private" => IpvlanFlag::Private,
        "vepa" => IpvlanFlag::Vepa,
        _ => IpvlanFlag::Bridge,
    }
}

fn cni(roots: &Roots, options: &BTreeMap<String, String>) -> Cni {
    let plugins = match options.get(PLUGIN_DIR) {
        Some(text) => text.split(':').map(PathBuf::from).collect(),
        None => PLUGINS.map(PathBuf::from).into(),
    };
    Cni {
        configuration: word(options, CONFIG).to_owned(),
        directory: options.get(CONFIG_DIR).map_or_else(|| roots.etc.join("cni/net.d"), PathBuf::from),
        plugins,
        patience_s: options.get(TIMEOUT).and_then(|text| text.parse().ok()).unwrap_or(PATIENCE_S),
    }
}
