//! Drivers of networks and their options: what each takes, and what is wrong with what is written. Pure.

use std::collections::BTreeMap;

use super::diagnostics::did_you_mean;

/// For what leaves a container at once, in bytes; every driver but `cni` has it.
pub const MTU: &str = "com.docker.network.driver.mtu";
/// The link of the host that containers' links are on.
pub const PARENT: &str = "parent";
pub const MACVLAN_MODE: &str = "macvlan_mode";
pub const IPVLAN_MODE: &str = "ipvlan_mode";
pub const IPVLAN_FLAG: &str = "ipvlan_flag";
/// The name of a CNI configuration, where it is, where its plugins are (separated by `:`), and how long each may take.
pub const CONFIG: &str = "config";
pub const CONFIG_DIR: &str = "config_dir";
pub const PLUGIN_DIR: &str = "plugin_dir";
pub const TIMEOUT: &str = "timeout_s";

const MACVLAN_MODES: [&str; 4] = ["bridge", "private", "vepa", "passthru"];
const IPVLAN_MODES: [&str; 3] = ["l2", "l3", "l3s"];
const IPVLAN_FLAGS: [&str; 3] = ["bridge", "private", "vepa"];

/// What is wrong with one option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The option, where it is written.
    pub key: Option<&'static str>,
    pub message: String,
    pub help: String,
}

/// The options that a driver knows; `None` where the driver is not one of those that this is about.
pub fn options(driver: &str) -> Option<&'static [&'static str]> {
    match driver {
        "macvlan" => Some(&[PARENT, MACVLAN_MODE, MTU]),
        "ipvlan" => Some(&[PARENT, IPVLAN_MODE, IPVLAN_FLAG, MTU]),
        "cni" => Some(&[CONFIG, CONFIG_DIR, PLUGIN_DIR, TIMEOUT]),
        _ => None,
    }
}

/// Whether containers of such a network have published ports.
pub fn publishes(driver: &str) -> bool {
    !matches!(driver, "macvlan" | "ipvlan")
}

/// All that is wrong.
pub fn faults(driver: &str, written: &BTreeMap<String, String>) -> Vec<Fault> {
    if let "host" | "none" | "null" = driver {
        let mode = if driver == "host" { "host" } else { "none" };
        let message = format!("there is one network of `driver: {driver}`, and it is not made");
        return vec![Fault { key: None, message, help: format!("write `network_mode: {mode}` in its containers") }];
    }
    let Some(known) = options(driver) else { return Vec::new() };
    let mut found: Vec<Fault> = written.keys().filter_map(|key| unknown(driver, known, key)).collect();
    let value = |key: &'static str| Some((key, known.contains(&key).then(|| written.get(key))??.as_str()));
    let words = [(MACVLAN_MODE, &MACVLAN_MODES[..]), (IPVLAN_MODE, &IPVLAN_MODES), (IPVLAN_FLAG, &IPVLAN_FLAGS)];
    found.extend(words.into_iter().filter_map(|(key, words)| word(value(key)?, words)));
    found.extend(value(PARENT).and_then(parent));
    found.extend(value(MTU).and_then(|text| number(text, 68, 65_535, "bytes")));
    found.extend(value(TIMEOUT).and_then(|text| number(text, 1, 3600, "seconds")));
    found.extend([CONFIG_DIR, PLUGIN_DIR].into_iter().filter_map(|key| paths(value(key)?)));
    if driver == "cni" && written.get(CONFIG).is_none_or(String::is_empty) {
        found.push(Fault {
            key: None,
            message: "a network of `driver: cni` needs the name of a configuration".to_owned(),
            help: "write `driver_opts: {config: NAME}`, the `name` in a file of /etc/cni/net.d".to_owned(),
        });
    }
    found
}

/// An option of another engine's is no fault: it has no effect, and that is said elsewhere.
fn unknown(driver: &str, known: &[&'static str], key: &str) -> Option<Fault> {
    let of_other =
        ["macvlan", "ipvlan", "cni"].into_iter().find(|other| options(other).is_some_and(|it| it.contains(&key)));
    if known.contains(&key) || (of_other.is_none() && key.contains('.')) {
        return None;
    }
    let message = match of_other {
        Some(other) => format!("`{key}` is an option of `driver: {other}`, and this is `{driver}`"),
        None => format!("`driver: {driver}` has no option `{key}`"),
    };
    let help = did_you_mean(key, known.iter().copied()).unwrap_or_else(|| format!("it has {}", known.join(", ")));
    Some(Fault { key: None, message, help })
}

fn word((key, text): (&'static str, &str), words: &[&str]) -> Option<Fault> {
    let help =
        did_you_mean(text, words.iter().copied()).unwrap_or_else(|| format!("it is one of {}", words.join(", ")));
    (!words.contains(&text)).then(|| Fault { key: Some(key), message: format!("`{text}` is no `{key}`"), help })
}

fn number((key, text): (&'static str, &str), least: u32, most: u32, unit: &str) -> Option<Fault> {
    let fits = text.parse().is_ok_and(|number: u32| (least..=most).contains(&number));
    let message = format!("`{key}: {text}` is not a number of {unit}");
    (!fits).then(|| Fault { key: Some(key), message, help: format!("it is from {least} to {most}") })
}

/// A link's name, as the kernel has it; `LINK.ID` is a VLAN where there is no such link.
fn parent((key, text): (&'static str, &str)) -> Option<Fault> {
    let fault = |message: String, help: &str| Some(Fault { key: Some(key), message, help: help.to_owned() });
    if text.is_empty() || text.len() > 15 || text.contains(['/', ':']) || text.contains(char::is_whitespace) {
        return fault(
            format!("`{text}` is not the name of a link"),
            "a link's name has 15 characters at most: eth0, or eth0.100 for its VLAN 100",
        );
    }
    match text.rsplit_once('.').map(|(_, id)| id.parse::<u32>()) {
        Some(Ok(id)) if !(1..=4094).contains(&id) => {
            fault(format!("{id} is not the number of a VLAN"), "it is from 1 to 4094")
        }
        _ => None,
    }
}

fn paths((key, text): (&'static str, &str)) -> Option<Fault> {
    let absolute = text.split(':').all(|path| path.starts_with('/'));
    let message = format!("`{key}: {text}` is not an absolute path");
    (!absolute).then(|| Fault { key: Some(key), message, help: "write it from `/` on".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(driver: &str, options: &[(&str, &str)]) -> Vec<String> {
        let written = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        faults(driver, &written).into_iter().map(|fault| fault.message).collect()
    }

    #[test]
    fn what_is_right_has_no_fault() {
        for (driver, options) in [
            ("macvlan", &[("parent", "eth0.100"), ("macvlan_mode", "vepa"), (MTU, "1400")][..]),
            ("macvlan", &[("com.example.own", "x")]),
            ("ipvlan", &[("ipvlan_mode", "l3s"), ("ipvlan_flag", "private"), ("parent", "br.lan")]),
            ("cni", &[("config", "lan"), ("plugin_dir", "/a:/b"), ("timeout_s", "5")]),
            ("bridge", &[("whatever", "x")]),
        ] {
            assert_eq!(said(driver, options), [""; 0], "{driver} {options:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (driver, options, expected) in [
            ("macvlan", &[("macvlan_mode", "bridged")][..], "`bridged` is no `macvlan_mode`"),
            (
                "macvlan",
                &[("ipvlan_mode", "l2")],
                "`ipvlan_mode` is an option of `driver: ipvlan`, and this is `macvlan`",
            ),
            ("macvlan", &[("parnet", "eth0")], "`driver: macvlan` has no option `parnet`"),
            ("ipvlan", &[("parent", "eth0.5000")], "5000 is not the number of a VLAN"),
            ("ipvlan", &[("parent", "a name")], "`a name` is not the name of a link"),
            ("ipvlan", &[(MTU, "10")], "`com.docker.network.driver.mtu: 10` is not a number of bytes"),
            ("host", &[], "there is one network of `driver: host`, and it is not made"),
            ("cni", &[], "a network of `driver: cni` needs the name of a configuration"),
            ("cni", &[("config", "a"), ("config_dir", "net.d")], "`config_dir: net.d` is not an absolute path"),
        ] {
            assert_eq!(said(driver, options), [expected], "{driver} {options:?}");
        }
    }
}
