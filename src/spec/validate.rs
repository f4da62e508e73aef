//! Rules that span several values: references, cycles, host ports, addresses, names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::diagnostics::{Diagnostic, Span, did_you_mean};
use super::network_driver;
use super::network_mode::{self, Conflict};
use super::stack::*;

/// What the checks read and where they report.
struct Check<'a> {
    stack: &'a Stack,
    paths: &'a BTreeMap<String, Span>,
    diagnostics: &'a mut Vec<Diagnostic>,
}

/// Checks a whole stack; `paths` says where each value stands.
pub fn validate(stack: &Stack, paths: &BTreeMap<String, Span>, diagnostics: &mut Vec<Diagnostic>) {
    let mut check = Check { stack, paths, diagnostics };
    for (name, container) in &stack.containers {
        check.networks(name, container);
        check.mounts(name, container);
        check.grants(name, container);
        check.dependencies(name, container);
        check.replicas(name, container);
        check.names(name, container);
        check.health(name, container);
        check.network_mode(name, container);
        check.users(name, container);
    }
    check.cycles();
    check.host_ports();
    check.container_names();
    check.addresses();
    check.drivers();
    check.volumes();
}

impl Check<'_> {
    /// The place of `path`, or of what encloses it.
    fn span(&self, path: &str) -> Option<Span> {
        let mut path = path;
        loop {
            if let Some(span) = self.paths.get(path) {
                return Some(*span);
            }
            path = &path[..path.rfind('.')?];
        }
    }

    fn error(&mut self, path: &str, message: String) -> &mut Diagnostic {
        let diagnostic = Diagnostic::error(message, self.span(path));
        self.diagnostics.push(diagnostic);
        self.diagnostics.last_mut().expect("one was pushed just now")
    }

    fn warning(&mut self, path: &str, message: String) {
        let diagnostic = Diagnostic::warning(message, self.span(path));
        self.diagnostics.push(diagnostic);
    }

    fn undefined<'k>(
        &mut self,
        path: &str,
        kind: &str,
        section: &str,
        name: &str,
        known: impl IntoIterator<Item = &'k String>,
    ) {
        let help = did_you_mean(name, known.into_iter().map(String::as_str));
        let help = help.unwrap_or_else(|| format!("declare it under `{section}:`"));
        self.error(path, format!("the {kind} `{name}` is not declared")).help = Some(help);
    }

    fn networks(&mut self, name: &str, container: &Container) {
        let stack = self.stack;
        for (network, attachment) in &container.networks {
            let path = format!("containers.{name}.networks.{network}");
            let Some(declared) = stack.networks.get(network) else {
                self.undefined(&path, "network", "networks", network, stack.networks.keys());
                continue;
            };
            let addresses = [attachment.ipv4_address.map(IpAddr::V4), attachment.ipv6_address.map(IpAddr::V6)];
            for address in addresses.into_iter().flatten().filter(|_| !declared.external) {
                self.address_fits(&path, network, declared, address);
            }
            if container.replicas > 1 && (attachment.ipv4_address.is_some() || attachment.ipv6_address.is_some()) {
                self.error(&path, format!("{} replicas cannot share one address", container.replicas));
            }
        }
    }

    fn address_fits(&mut self, path: &str, network: &str, declared: &Network, address: IpAddr) {
        let subnets: Vec<Subnet> = declared.ipam.pools.iter().filter_map(|pool| pool.subnet).collect();
        if subnets.is_empty() {
            let help = format!("give the network `ipam: {{config: [{{subnet: …}}]}}` that has {address}");
            self.error(path, format!("a fixed address needs a network with a subnet, and `{network}` has none")).help =
                Some(help);
        } else if !subnets.iter().any(|subnet| super::lower::contains(*subnet, address)) {
            self.error(path, format!("{address} is not in a subnet of the network `{network}`"));
        } else if declared.ipam.pools.iter().any(|pool| pool.gateway == Some(address)) {
            self.error(path, format!("{address} is the gateway of the network `{network}`"));
        }
    }

    fn mounts(&mut self, name: &str, container: &Container) {
        let stack = self.stack;
        let mut targets = BTreeSet::new();
        for (index, mount) in container.mounts.iter().enumerate() {
            let path = format!("containers.{name}.volumes.{index}");
            if let MountKind::Volume { name: Some(volume), .. } = &mount.kind
                && !stack.volumes.contains_key(volume)
            {
                self.undefined(&path, "volume", "volumes", volume, stack.volumes.keys());
            }
            if let MountKind::Volume { subpath: Some(sub), .. } | MountKind::Image { subpath: Some(sub), .. } =
                &mount.kind
                && (sub.starts_with('/') || sub.split('/').any(|part| part == ".."))
            {
                self.error(&path, "`subpath` stays below the volume: no `..` and no `/` in front".into());
            }
            if !targets.insert(&mount.target) {
                self.error(&path, format!("two mounts at {}", mount.target));
            }
        }
    }

    fn grants(&mut self, name: &str, container: &Container) {
        let stack = self.stack;
        let sections = [
            ("config", "configs", &container.configs, &stack.configs),
            ("secret", "secrets", &container.secrets, &stack.secrets),
        ];
        for (kind, section, grants, declared) in sections {
            for (index, grant) in grants.iter().enumerate() {
                let path = format!("containers.{name}.{section}.{index}");
                if !declared.contains_key(&grant.source) {
                    self.undefined(&path, kind, section, &grant.source, declared.keys());
                }
                if grant.target.split('/').any(|part| part == "..") {
                    self.error(&path, format!("the {kind}'s target cannot have `..`"));
                }
            }
        }
    }

    /// What a user namespace does not own it can't mount: /proc of other processes, queues of other containers.
    fn users(&mut self, name: &str, container: &Container) {
        if container.userns_mode != Some(UsersMode::Private) {
            return;
        }
        let own = |mode: &Option<NamespaceMode>| {
            matches!(mode, None | Some(NamespaceMode::Private | NamespaceMode::Shareable | NamespaceMode::None))
        };
        for (key, mode) in [("pid", &container.pid), ("ipc", &container.ipc)] {
            if !own(mode) {
                let path = format!("containers.{name}.{key}");
                let help = "say `userns_mode: host`, or leave this out";
                self.error(&path, format!("`{key}` of others can't be had in a user namespace of its own")).help =
                    Some(help.to_owned());
            }
        }
    }

    fn dependencies(&mut self, name: &str, container: &Container) {
        let stack = self.stack;
        let word = stack.format.container_word();
        for (other, dependency) in &container.depends_on {
            let path = self.dependency_path(name, container, other);
            if let Some(target) = stack.containers.get(other) {
                self.condition(&path, other, dependency, target);
                continue;
            }
            if stack.disabled.contains(other) {
                if !dependency.required {
                    continue;
                }
                let help = format!(
                    "activate one of its profiles with --profile, or write `required: false` under `depends_on.{other}`"
                );
                self.error(&path, format!("{word} `{name}` depends on `{other}`, whose profiles are not active"))
                    .help = Some(help);
            } else {
                self.undefined(&path, word, stack.format.containers_key(), other, stack.containers.keys());
            }
        }
    }

    fn condition(&mut self, path: &str, other: &str, dependency: &Dependency, target: &Container) {
        let test = target.healthcheck.as_ref().map(|check| &check.test);
        if dependency.condition == Condition::Healthy && test == Some(&HealthTest::Disabled) {
            self.error(path, format!("`{other}` has its health check disabled, so it never becomes healthy"));
        }
        if dependency.condition == Condition::CompletedSuccessfully && target.restart.policy == RestartPolicy::Always {
            self.warning(path, format!("`{other}` is always restarted, so it never completes"));
        }
    }

    /// Where the dependency is written: under `depends_on`, or under a key that implies it.
    fn dependency_path(&self, name: &str, container: &Container, other: &str) -> String {
        let base = format!("containers.{name}");
        let written = format!("{base}.depends_on.{other}");
        if self.paths.contains_key(&written) {
            return written;
        }
        if container.network_mode == NetworkMode::Service(other.to_owned()) {
            return format!("{base}.network_mode");
        }
        if let Some(index) = container.links.iter().position(|link| link.container == other) {
            return format!("{base}.links.{index}");
        }
        let from = ContainerReference::Service(other.to_owned());
        if let Some(index) = container.volumes_from.iter().position(|one| one.source == from) {
            return format!("{base}.volumes_from.{index}");
        }
        let mode = Some(NamespaceMode::Service(other.to_owned()));
        let modes =
            [("pid", &container.pid), ("ipc", &container.ipc), ("uts", &container.uts), ("cgroup", &container.cgroup)];
        let key = modes.iter().find(|(_, value)| **value == mode).map(|(key, _)| *key);
        key.map_or(written, |key| format!("{base}.{key}"))
    }

    fn replicas(&mut self, name: &str, container: &Container) {
        if container.replicas < 2 {
            return;
        }
        if container.container_name.is_some() {
            let message = format!("{} replicas cannot have one `container_name`", container.replicas);
            self.error(&format!("containers.{name}.container_name"), message).help =
                Some("remove it; replicas get numbered names".into());
        }
        let word = self.stack.format.container_word();
        if container.mac_address.is_some() {
            self.error(
                &format!("containers.{name}.mac_address"),
                format!("replicas of a {word} cannot share one MAC address"),
            );
        }
    }

    fn names(&mut self, name: &str, container: &Container) {
        if let Some(fixed) = &container.container_name
            && !is_host_name(fixed)
        {
            let help = "names have letters, digits and `_ . -`, begin with a letter or digit, and have two or more";
            self.error(
                &format!("containers.{name}.container_name"),
                format!("`{fixed}` is not a good name of a container"),
            )
            .help = Some(help.into());
        }
        let hosts = [("hostname", &container.hostname), ("domainname", &container.domainname)];
        for (key, value) in hosts {
            if let Some(value) = value.as_ref().filter(|value| !is_dns_name(value)) {
                self.error(&format!("containers.{name}.{key}"), format!("`{value}` is not a good {key}"));
            }
        }
        for (index, profile) in container.profiles.iter().enumerate() {
            if !super::lower::is_name(profile) {
                self.error(
                    &format!("containers.{name}.profiles.{index}"),
                    format!("`{profile}` is not a good name of a profile"),
                );
            }
        }
    }

    fn health(&mut self, name: &str, container: &Container) {
        let Some(check) = &container.healthcheck else { return };
        let path = format!("containers.{name}.healthcheck");
        if check.on_failure != HealthAction::None && check.test == HealthTest::Disabled {
            self.error(&format!("{path}.on_failure"), "a disabled health check never fails".into());
        }
        if check.start_interval_ms.is_some() && check.start_period_ms.is_none_or(|period| period == 0) {
            self.warning(
                &format!("{path}.start_interval"),
                "`start_interval` has no effect without `start_period`".into(),
            );
        }
    }

    fn network_mode(&mut self, name: &str, container: &Container) {
        for Conflict { key, message, help } in network_mode::conflicts(container) {
            let path = format!("containers.{name}.{key}");
            match help {
                Some(help) => self.error(&path, message).help = Some(help.into()),
                None => self.warning(&path, message),
            }
        }
    }

    fn drivers(&mut self) {
        let stack = self.stack;
        for (key, network) in stack.networks.iter().filter(|(_, network)| !network.external) {
            let driver = network.driver.as_deref().unwrap_or_default();
            for fault in network_driver::faults(driver, &network.driver_opts) {
                let place = if network.driver_opts.is_empty() { "driver" } else { "driver_opts" };
                self.error(&format!("networks.{key}.{place}"), fault.message).help = Some(fault.help);
            }
        }
    }

    /// Reports each cycle of `depends_on` once, with every step of it.
    fn cycles(&mut self) {
        let mut done: BTreeSet<&str> = BTreeSet::new();
        let stack = self.stack;
        for start in stack.containers.keys() {
            if let Some(cycle) = find_cycle(stack, start, &mut done) {
                self.report_cycle(&cycle);
            }
        }
    }

    fn report_cycle(&mut self, cycle: &[&str]) {
        let steps: Vec<(&str, &str)> = cycle.iter().copied().zip(cycle.iter().copied().cycle().skip(1)).collect();
        let mut words = cycle.to_vec();
        words.extend(cycle.first());
        let mut diagnostic = Diagnostic::error(format!("dependencies go in a circle: {}", words.join(" → ")), None);
        for (from, to) in steps {
            let Some(container) = self.stack.containers.get(from) else { continue };
            let Some(span) = self.span(&self.dependency_path(from, container, to)) else { continue };
            let label = format!("`{from}` needs `{to}`");
            match diagnostic.span {
                None => (diagnostic.span, diagnostic.label) = (Some(span), Some(label)),
                Some(_) => diagnostic.related.push((span, label)),
            }
        }
        self.diagnostics.push(diagnostic);
    }

    /// Two containers (or replicas) cannot listen on one address and port.
    fn host_ports(&mut self) {
        let mut taken: Vec<(&str, &Port, PortRange)> = Vec::new();
        let stack = self.stack;
        for (name, container) in stack.containers.iter().filter(|(_, container)| container.replicas > 0) {
            let published = container
                .ports
                .iter()
                .filter_map(|port| Some((port, port.published.filter(|range| range.is_single())?)));
            for (port, range) in published {
                if container.replicas > 1 && container.network_mode == NetworkMode::Bridge {
                    let message = format!("{} replicas cannot all have host port {range}", container.replicas);
                    let help = format!(
                        "leave the host port out, or give a range such as {range}-{}",
                        u32::from(range.start) + container.replicas - 1
                    );
                    self.error(&format!("containers.{name}.ports.{}", port.place()), message).help = Some(help);
                }
                if let Some((other, held, _)) =
                    taken.iter().find(|(_, one, held)| held.overlaps(range) && clash(one, port))
                {
                    self.report_port((other, held), (name, port));
                }
                taken.push((name, port, range));
            }
        }
    }

    fn report_port(&mut self, (first, held): (&str, &Port), (second, port): (&str, &Port)) {
        let range = port.published.map(|range| range.to_string()).unwrap_or_default();
        let message = match first == second {
            true => format!("host port {range}/{} is published twice", port.protocol),
            false => format!("`{first}` and `{second}` both want host port {range}/{}", port.protocol),
        };
        let place = |name: &str, port: &Port| format!("containers.{name}.ports.{}", port.place());
        let (other, own) = (self.span(&place(first, held)), self.span(&place(second, port)));
        let mut diagnostic = Diagnostic::error(message, own);
        let label = |name: &str, port: &Port| match port.host_ip {
            Some(ip) => format!("`{name}` wants it on {ip}"),
            None => format!("`{name}` wants it on every address"),
        };
        diagnostic.label = Some(label(second, port));
        diagnostic.related.extend(other.filter(|_| other != own).map(|span| (span, label(first, held))));
        self.diagnostics.push(diagnostic);
    }

    fn container_names(&mut self) {
        let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
        let stack = self.stack;
        for (name, container) in &stack.containers {
            let Some(fixed) = &container.container_name else { continue };
            if let Some(first) = taken.insert(fixed, name) {
                let other = self.span(&format!("containers.{first}.container_name"));
                let diagnostic = self.error(
                    &format!("containers.{name}.container_name"),
                    format!("`{first}` and `{name}` both are called `{fixed}`"),
                );
                diagnostic.related.extend(other.map(|span| (span, "the other one".to_owned())));
            }
        }
    }

    fn addresses(&mut self) {
        let mut taken: BTreeMap<(&str, IpAddr), &str> = BTreeMap::new();
        let stack = self.stack;
        for (name, container) in &stack.containers {
            for (network, attachment) in &container.networks {
                let addresses = [attachment.ipv4_address.map(IpAddr::V4), attachment.ipv6_address.map(IpAddr::V6)];
                for address in addresses.into_iter().flatten() {
                    if let Some(first) = taken.insert((network, address), name) {
                        let path = format!("containers.{name}.networks.{network}");
                        self.error(&path, format!("`{first}` and `{name}` both want the address {address}"));
                    }
                }
            }
        }
    }

    fn volumes(&mut self) {
        let stack = self.stack;
        for (key, volume) in stack.volumes.iter().filter(|(_, volume)| volume.external) {
            let path = format!("volumes.{key}");
            if volume.protect {
                self.warning(&path, "an external volume is never removed, so `protect` adds nothing".into());
            }
            if volume.driver.is_some() || !volume.driver_opts.is_empty() {
                self.error(&path, format!("`{key}` is external: what it is made of was decided elsewhere")).help =
                    Some("remove `driver` and `driver_opts`".into());
            }
        }
        for (key, network) in stack.networks.iter().filter(|(_, network)| network.external) {
            if network.driver.is_some() || !network.driver_opts.is_empty() || !network.ipam.pools.is_empty() {
                let help = "remove `driver`, `driver_opts` and `ipam`";
                self.error(
                    &format!("networks.{key}"),
                    format!("`{key}` is external: what it is made of was decided elsewhere"),
                )
                .help = Some(help.into());
            }
        }
        let names = stack
            .networks
            .iter()
            .map(|(key, one)| ("networks", key, &one.name))
            .chain(stack.volumes.iter().map(|(key, one)| ("volumes", key, &one.name)));
        for (section, key, name) in names {
            if !is_host_name(name) {
                self.error(&format!("{section}.{key}.name"), format!("`{name}` is not a good name"));
            }
        }
    }
}

/// The first cycle that is reached from `start` through containers that were not looked at before.
fn find_cycle<'a>(stack: &'a Stack, start: &'a str, done: &mut BTreeSet<&'a str>) -> Option<Vec<&'a str>> {
    let next = |name: &str| {
        stack
            .containers
            .get(name)
            .map(|one| one.depends_on.keys().map(String::as_str).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    let mut trail: Vec<(&str, Vec<&str>)> = Vec::new();
    if done.insert(start) {
        trail.push((start, next(start)));
    }
    while let Some((_, open)) = trail.last_mut() {
        let Some(name) = open.pop() else {
            trail.pop();
            continue;
        };
        if let Some(at) = trail.iter().position(|(seen, _)| *seen == name) {
            return Some(trail[at..].iter().map(|(name, _)| *name).collect());
        }
        if done.insert(name) {
            trail.push((name, next(name)));
        }
    }
    None
}

fn clash(a: &Port, b: &Port) -> bool {
    let address = match (a.host_ip, b.host_ip) {
        (None, _) | (_, None) => true,
        (Some(a), Some(b)) => a == b || a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()),
    };
    a.protocol == b.protocol && address
}

/// Docker's rule for names on the host.
fn is_host_name(name: &str) -> bool {
    let mut chars = name.chars();
    name.len() >= 2
        && chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && chars.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
            && !label.starts_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}
