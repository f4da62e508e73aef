//! What a declared resource asks for and this engine does not do, beside the keys that it never does: pure. Named in the
//! plan, so that nothing is dropped silently.

use crate::reconcile::engine::Unsupported;
use crate::reconcile::resource::{Config, ContainerConfig, Logging, MountSource, NetworkConfig};
use crate::runtime::network::options;
use crate::spec::logging;
use crate::spec::network_driver;

/// All of them, in no particular order.
pub fn unsupported(config: &Config) -> Vec<Unsupported> {
    match config {
        Config::Image(_) | Config::Volume(_) => Vec::new(),
        Config::Network(network) => of_network(network),
        Config::Container(container) => of_container(container),
    }
}

fn one(key: impl Into<String>, reason: impl Into<String>) -> Unsupported {
    Unsupported { key: key.into(), reason: reason.into() }
}

fn of_network(network: &NetworkConfig) -> Vec<Unsupported> {
    let mut found = Vec::new();
    let own = network_driver::options(&network.driver);
    if own.is_none() && network.driver != "bridge" {
        found.push(one("driver", format!("there is no driver `{}`: it is a bridge", network.driver)));
    }
    for key in network.options.keys().filter(|key| !own.unwrap_or(&options::KNOWN).contains(&key.as_str())) {
        found.push(one("driver_opts", format!("the option `{key}` has no effect")));
    }
    if network.driver == "cni" {
        let by_plugins = "the plugins of the configuration give addresses and ways out";
        let written = [("ipam", network.subnet.is_some()), ("internal", network.internal)];
        found.extend(written.into_iter().filter(|(_, is_so)| *is_so).map(|(key, _)| one(key, by_plugins)));
    }
    found
}

fn of_container(container: &ContainerConfig) -> Vec<Unsupported> {
    let mut found = of_logging(&container.logging);
    found.extend(container.security_opt.iter().filter_map(|option| of_security(option)));
    if container.cgroup_host {
        found.push(one("cgroup", "containers have control groups of their own"));
    }
    for mount in &container.mounts {
        if let MountSource::Bind { propagation: Some(word), .. } = &mount.source
            && word.ends_with("shared")
        {
            let reason = format!("`{word}`: mounts of the host are seen in the container, not the other way round");
            found.push(one("volumes.bind.propagation", reason));
        }
    }
    found
}

fn of_logging(wanted: &Logging) -> Vec<Unsupported> {
    match wanted.driver.as_deref() {
        Some(other) if logging::ELSEWHERE.contains(&other) => {
            vec![one("logging.driver", format!("there is no driver `{other}`: logs are kept as files"))]
        }
        Some("none") => {
            let option =
                |key: &String| one("logging.options", format!("`{key}`: nothing is kept that it could be for"));
            wanted.options.keys().map(option).collect()
        }
        _ => Vec::new(),
    }
}

/// What lifts a protection that is not there needs no doing; a protection that is not given is named.
fn of_security(option: &str) -> Option<Unsupported> {
    let text = option.replacen('=', ":", 1);
    let reason = match text.split_once(':').unwrap_or((&text, "")) {
        ("no-new-privileges", _) | ("seccomp", _) | ("systempaths", _) => return None,
        ("apparmor", _) | ("label", "disable") => return None,
        ("label", _) => "SELinux labels are not set",
        _ => "it has no effect",
    };
    Some(one("security_opt", format!("`{option}`: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_done_is_named_and_what_is_done_is_not() {
        let named = |option: &str| of_security(option).is_some();
        let done = [
            "no-new-privileges:true",
            "seccomp=unconfined",
            "seccomp=/p.json",
            "label=disable",
            "apparmor=docker-default",
        ];
        assert!(!done.into_iter().any(named));
        assert!(["label=type:x", "writable-cgroups=true"].into_iter().all(named));
        let network =
            NetworkConfig { driver: "other".into(), ip_range: Some("10.0.0.0/8".into()), ..Default::default() };
        let keys: Vec<String> = of_network(&network).into_iter().map(|it| it.key).collect();
        assert_eq!(keys, ["driver"]);
    }
}
