//! One replica of one container.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use super::LowerError;
use super::lower::{container_name, depends_on_label, image_name, image_of_hook, named_replicas, plain_name};
use crate::reconcile::engine::Capabilities;
use crate::reconcile::facts::{FileFacts, Files, hash};
use crate::reconcile::resource::{
    ContainerConfig, DeviceMapping, Endpoint, FileMount, FileSource, Healthcheck, Hook, Logging, Mount, MountSource,
    NamespaceMode, NetworkMode, OWN_RUNTIMES, OnUnhealthy, Port, Resources, Restart, label,
};
use crate::spec;

/// Docker's pause between the stop signal and the kill signal.
const STOP_GRACE_MS: u64 = 10_000;

/// Read by anyone: the mode of a config that says nothing.
const FILE_MODE: u32 = 0o444;
/// Read by its owner, who is the container's user: the mode of a secret that says nothing.
const SECRET_MODE: u32 = 0o400;

type Differs = fn(&spec::Container, &spec::Container) -> bool;

macro_rules! differs {
    ($($field:ident).+) => { |one, other| one.$($field).+ != other.$($field).+ };
}

/// What of a container no engine of this room gets to see: whether it differs from what a container without it has, the
/// key as it is written, why.
const DROPPED: [(Differs, &str, &str); 14] = [
    (differs!(storage_opt), "storage_opt", "the file system of a container has no options"),
    (differs!(gpus), "gpus", DEVICES),
    (differs!(external_links), "external_links", "join the network of that container instead"),
    (
        differs!(resources.nano_cpus_reservation),
        "deploy.resources.reservations.cpus",
        "CPUs can be limited, not reserved",
    ),
    (differs!(deploy.reserved_devices), "deploy.resources.reservations.devices", DEVICES),
    (differs!(deploy.mode), "deploy.mode", "there is one host: the number of replicas counts"),
    (differs!(deploy.endpoint_mode), "deploy.endpoint_mode", "names resolve to the addresses of all replicas"),
    (differs!(deploy.labels), "deploy.labels", "there is no object but the containers; label these"),
    (differs!(deploy.placement), "deploy.placement", "there is one host"),
    (differs!(deploy.rollback_config), "deploy.rollback_config", "nothing is rolled back by itself"),
    (differs!(update.delay_ms), "update.delay", "the next replica follows at once"),
    (differs!(update.failure_action), "update.failure_action", "a failed step ends the update; the next apply goes on"),
    (differs!(update.monitor_ms), "update.monitor", UNWATCHED),
    (differs!(update.max_failure_ratio_millionths), "update.max_failure_ratio", UNWATCHED),
];
const DEVICES: &str = "devices are given by their path, under `devices`";
const UNWATCHED: &str = "an update ends when the container runs, or is healthy where others wait for that";

/// What lowering one stack carries along.
pub(super) struct Context<'a> {
    pub stack: &'a spec::Stack,
    pub capabilities: &'a Capabilities,
    pub files: &'a Files,
    pub errors: Vec<LowerError>,
    /// Path in the file → why it has no effect.
    pub notes: BTreeMap<String, String>,
}

impl Context<'_> {
    pub fn note(&mut self, path: String, reason: &str) {
        self.notes.entry(path).or_insert_with(|| reason.to_owned());
    }
}

pub(super) fn lower_container(
    context: &mut Context,
    service: &str,
    container: &spec::Container,
    number: u32,
) -> ContainerConfig {
    if number == 1 {
        context.errors.extend(named_replicas(service, container));
        context.errors.extend(missing(context.files, service, container));
        note_unused(context, service, container);
    }
    let mounts = lower_mounts(context, service, container);
    let resources = &container.resources;
    let mut config = ContainerConfig {
        name: container_name(context.stack, service, number),
        service: service.to_owned(),
        number,
        image: image_name(container, context.capabilities),
        image_digest: String::new(),
        command: container.command.clone(),
        entrypoint: container.entrypoint.clone(),
        environment: container.environment.clone(),
        labels: BTreeMap::new(),
        annotations: container.annotations.clone(),
        user: container.user.clone(),
        group_add: container.group_add.clone(),
        working_dir: container.working_dir.clone(),
        hostname: container.hostname.clone(),
        domainname: container.domainname.clone(),
        tty: container.tty,
        stdin_open: container.stdin_open,
        init: container.init.unwrap_or(false),
        read_only: container.read_only,
        privileged: container.privileged,
        cap_add: container.cap_add.clone(),
        cap_drop: container.cap_drop.clone(),
        security_opt: container.security_opt.iter().map(security_option).collect(),
        seccomp_content: seccomp_profiles(container).next_back().and_then(|(_, path)| content(context.files, path)),
        devices: container.devices.iter().map(device).collect(),
        device_cgroup_rules: container.device_cgroup_rules.clone(),
        sysctls: container.sysctls.clone(),
        ulimits: ulimits(&container.ulimits),
        bind_contents: bind_contents(context.files, &mounts),
        mounts,
        files: lower_files(context, service, container),
        network: network_mode(context, service, container, number),
        ports: container.ports.iter().map(|it| port(it, number, container.publish)).collect(),
        expose: container.expose.iter().map(|it| format!("{}/{}", it.ports, it.protocol)).collect(),
        dns: container.dns.iter().map(ToString::to_string).collect(),
        dns_search: container.dns_search.clone(),
        dns_opt: container.dns_opt.clone(),
        extra_hosts: hosts(&container.extra_hosts),
        pid: namespace(context.stack, container.pid.as_ref()),
        ipc: namespace(context.stack, container.ipc.as_ref()),
        uts_host: container.uts == Some(spec::NamespaceMode::Host),
        userns: users(container),
        cgroup_host: container.cgroup == Some(spec::NamespaceMode::Host),
        runtime: container.runtime.clone().filter(|name| !OWN_RUNTIMES.contains(&name.as_str())),
        restart: restart(container.restart.policy),
        restart_delay_ms: container.restart.delay_ms,
        restart_window_ms: container.restart.window_ms,
        healthcheck: container.healthcheck.as_ref().map(healthcheck),
        on_unhealthy: on_unhealthy(container),
        on_unhealthy_budget: container.healthcheck.as_ref().and_then(|check| check.on_failure_budget),
        recreated_ms: Vec::new(),
        stop_signal: container.stop_signal.clone(),
        stop_grace_ms: Some(container.stop_grace_period_ms.unwrap_or(STOP_GRACE_MS)),
        logging: logging(container),
        resources: lower_resources(resources),
        shm_size: container.shm_size_bytes,
        oom_score_adj: resources.oom_score_adj.map(i32::from),
        oom_kill_disable: resources.oom_kill_disable,
        cgroup_parent: container.cgroup_parent.clone(),
        pre_start: hooks(context.stack, &container.pre_start),
        post_start: hooks(context.stack, &container.post_start),
        pre_stop: hooks(context.stack, &container.pre_stop),
    };
    let hash =
        hash(&serde_json::to_vec(&public(&config)).expect("a configuration has only string keys and finite numbers"));
    config.labels = labels(context.stack, container, &config, hash);
    config
}

/// Without what would tell whether a guess of a secret is right.
fn public(config: &ContainerConfig) -> ContainerConfig {
    let mut config = config.clone();
    for file in config.files.iter_mut().filter(|file| file.secret) {
        file.content_hash.clear();
    }
    config
}

fn hooks(stack: &spec::Stack, hooks: &[spec::Hook]) -> Vec<Hook> {
    let hook = |hook: &spec::Hook| Hook {
        command: hook.command.clone().unwrap_or_default(),
        image: hook.image.as_ref().map(|name| plain_name(&image_of_hook(stack, name))),
        user: hook.user.clone(),
        privileged: hook.privileged,
        working_dir: hook.working_dir.clone(),
        environment: hook.environment.clone(),
        per_replica: hook.per_replica,
        timeout_ms: hook.timeout_ms,
    };
    hooks.iter().map(hook).collect()
}

fn labels(
    stack: &spec::Stack,
    container: &spec::Container,
    config: &ContainerConfig,
    hash: String,
) -> BTreeMap<String, String> {
    let mut labels = container.labels.clone();
    let files: Vec<_> = stack.files.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    labels.extend(
        [
            (label::STACK, stack.name.clone()),
            (label::SERVICE, config.service.clone()),
            (label::NUMBER, config.number.to_string()),
            (label::ONEOFF, "False".to_owned()),
            (label::CONFIG_HASH, hash),
            (label::WORKING_DIR, stack.directory.to_string_lossy().into_owned()),
            (label::CONFIG_FILES, files.join(",")),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    labels.extend(depends_on_label(container).map(|value| (label::DEPENDS_ON.to_owned(), value)));
    labels
}

/// Notes every key that has a value other than its default and that is not carried out.
fn note_unused(context: &mut Context, service: &str, container: &spec::Container) {
    let default = spec::Container::default();
    let by_deploy = container.deploy.update_config.as_ref() == Some(&container.update);
    for (_, key, reason) in DROPPED.iter().filter(|(differs, ..)| differs(container, &default)) {
        let key = match key.strip_prefix("update.") {
            Some(key) if by_deploy => format!("deploy.update_config.{key}"),
            _ => (*key).to_owned(),
        };
        context.note(format!("containers.{service}.{key}"), reason);
    }
    for ignored in context.capabilities.not_honoured.iter().filter(|ignored| (ignored.is_set)(container)) {
        context.note(format!("containers.{service}.{}", ignored.key), ignored.reason);
    }
    if container.ipc == Some(spec::NamespaceMode::None) {
        context.note(format!("containers.{service}.ipc"), "`none` is a namespace of its own, with /dev/shm");
    }
}

/// Sources of bind mounts that nobody makes, and devices, that are not there.
fn missing(files: &Files, service: &str, container: &spec::Container) -> Vec<LowerError> {
    let mounts = container.mounts.iter().enumerate().filter_map(|(index, mount)| match &mount.kind {
        spec::MountKind::Bind { source, create_host_path: false, .. } => Some(("bind mount", index, source)),
        _ => None,
    });
    let mounts = mounts.map(|(what, index, source)| (what, index, source.as_path()));
    let devices = container.devices.iter().enumerate();
    let devices = devices.map(|(index, device)| ("device", index, device.source.as_path()));
    let profiles = seccomp_profiles(container).map(|(index, path)| ("seccomp profile", index, path));
    let gone = mounts.chain(devices).chain(profiles).filter(|(.., path)| files.get(*path) == Some(&FileFacts::Missing));
    let error = |(what, index, path): (&'static str, usize, &Path)| LowerError::Missing {
        container: service.to_owned(),
        what,
        index,
        path: path.to_owned(),
    };
    gone.map(error).collect()
}

fn lower_mounts(context: &mut Context, service: &str, container: &spec::Container) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for mount in &container.mounts {
        mounts.extend(lower_mount(context, service, mount));
    }
    for from in &container.volumes_from {
        let spec::ContainerReference::Service(source) = &from.source else {
            let path = format!("containers.{service}.volumes_from");
            context.note(path, "only containers of the same stack can lend their volumes");
            continue;
        };
        let Some(lender) = context.stack.containers.get(source) else { continue };
        for mut mount in lower_mounts(context, source, lender) {
            mount.read_only |= from.read_only;
            if mounts.iter().all(|own| own.target != mount.target) {
                mounts.push(mount);
            }
        }
    }
    mounts
}

fn lower_mount(context: &mut Context, service: &str, mount: &spec::Mount) -> Option<Mount> {
    let path = |word: &str| format!("containers.{service}.volumes.{word}");
    let source = match &mount.kind {
        spec::MountKind::Volume { name, nocopy, subpath, labels } => {
            if !labels.is_empty() {
                context.note(path("volume.labels"), "label the volume where it is declared");
            }
            let volume = match name {
                None => None,
                Some(key) => Some(volume_name(context, service, key)?),
            };
            MountSource::Volume { volume, nocopy: *nocopy, subpath: subpath.clone() }
        }
        spec::MountKind::Bind { source, create_host_path, propagation, recursive, .. } => {
            if *recursive != spec::BindRecursive::Enabled {
                let path = path("bind.recursive");
                context.note(path, "bind mounts are recursive");
            }
            let propagation = (*propagation != spec::Propagation::default()).then(|| lower_case(propagation));
            MountSource::Bind { source: source.clone(), create: *create_host_path, propagation }
        }
        spec::MountKind::Tmpfs { size_bytes, mode, options } => {
            MountSource::Tmpfs { size: *size_bytes, mode: *mode, options: options.clone() }
        }
        spec::MountKind::Image { reference, subpath } => MountSource::Image {
            image: plain_name(&image_of_hook(context.stack, reference)),
            digest: String::new(),
            subpath: subpath.clone(),
        },
    };
    let read_only = mount.read_only || matches!(source, MountSource::Image { .. });
    let on_change = mount.on_change.clone();
    Some(Mount { target: mount.target.clone(), read_only, on_change, source })
}

fn volume_name(context: &mut Context, service: &str, key: &str) -> Option<String> {
    let name = context.stack.volumes.get(key).map(|volume| volume.name.clone());
    if name.is_none() {
        let (container, name) = (service.to_owned(), key.to_owned());
        context.errors.push(LowerError::Undeclared { container, what: "volume", name });
    }
    name
}

/// The word of a plain enum as it is written in files.
fn lower_case(word: &impl std::fmt::Debug) -> String {
    format!("{word:?}").to_lowercase()
}

/// The hash of what is in the file, where it counts.
fn content(files: &Files, path: &Path) -> Option<String> {
    match files.get(path) {
        Some(FileFacts::Content { hash }) => Some(hash.clone()),
        _ => None,
    }
}

/// The files that filters of system calls are in, and where they are named.
pub(super) fn seccomp_profiles(container: &spec::Container) -> impl DoubleEndedIterator<Item = (usize, &Path)> {
    container.security_opt.iter().enumerate().filter_map(|(index, option)| match option {
        spec::SecurityOption::Seccomp(Some(path)) if path != "builtin" => Some((index, Path::new(path.as_str()))),
        _ => None,
    })
}

fn bind_contents(files: &Files, mounts: &[Mount]) -> BTreeMap<String, String> {
    let hash = |source: &Path| content(files, source);
    let contents = mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Bind { source, .. } => Some((mount.target.clone(), hash(source)?)),
        _ => None,
    });
    contents.collect()
}

fn lower_files(context: &mut Context, service: &str, container: &spec::Container) -> Vec<FileMount> {
    let mut mounts = Vec::new();
    let grants = container.configs.iter().map(|grant| (grant, false));
    for (grant, secret) in grants.chain(container.secrets.iter().map(|grant| (grant, true))) {
        match lower_file(context, service, grant, secret) {
            Ok(mount) => mounts.push(mount),
            Err(error) => context.errors.push(error),
        }
    }
    mounts
}

fn lower_file(
    context: &Context,
    service: &str,
    grant: &spec::FileGrant,
    secret: bool,
) -> Result<FileMount, LowerError> {
    let (objects, what) = if secret { (&context.stack.secrets, "secret") } else { (&context.stack.configs, "config") };
    let (container, name) = (service.to_owned(), grant.source.clone());
    let Some(object) = objects.get(&grant.source) else {
        return Err(LowerError::Undeclared { container, what, name });
    };
    let (source, content_hash) = match &object.source {
        spec::FileSource::File(path) => match context.files.get(path) {
            Some(FileFacts::Content { hash }) => (FileSource::File(path.clone()), hash.clone()),
            facts => {
                let reason = unreadable(facts);
                return Err(LowerError::Unreadable { container, what, name, path: path.clone(), reason });
            }
        },
        spec::FileSource::Environment { value, .. } => (FileSource::Content(value.clone()), hash(value.as_bytes())),
        spec::FileSource::Content(text) => (FileSource::Content(text.clone()), hash(text.as_bytes())),
        spec::FileSource::Encrypted { path, encryption, keys } => {
            let (path, encryption, keys) = (path.clone(), *encryption, keys.clone());
            (FileSource::Encrypted { path, encryption, keys }, String::new())
        }
        spec::FileSource::External => (FileSource::External(object.name.clone()), String::new()),
    };
    let usual_mode = if secret { SECRET_MODE } else { FILE_MODE };
    // Docker's rule: one of the two alone leaves the other one root's.
    let other = |one: Option<u32>, other: Option<u32>| one.or(other.map(|_| 0));
    Ok(FileMount {
        name,
        target: grant.target.clone(),
        uid: other(grant.uid, grant.gid),
        gid: other(grant.gid, grant.uid),
        mode: grant.mode.unwrap_or(usual_mode),
        secret,
        source,
        content_hash,
        on_change: grant.on_change.clone().or_else(|| object.on_change.clone()).unwrap_or_default(),
    })
}

fn unreadable(facts: Option<&FileFacts>) -> String {
    match facts {
        Some(FileFacts::Opaque) => "not a regular file of at most 1 MiB".to_owned(),
        Some(FileFacts::Unreadable { reason }) => reason.clone(),
        Some(FileFacts::Missing | FileFacts::Content { .. }) | None => "no such file".to_owned(),
    }
}

fn network_mode(context: &mut Context, service: &str, container: &spec::Container, number: u32) -> NetworkMode {
    let stack = context.stack;
    match &container.network_mode {
        spec::NetworkMode::None => NetworkMode::None,
        spec::NetworkMode::Host => NetworkMode::Host,
        spec::NetworkMode::Container(name) => NetworkMode::Container(name.clone()),
        spec::NetworkMode::Service(other) => NetworkMode::Container(container_name(stack, other, 1)),
        spec::NetworkMode::Bridge => {
            let mut endpoints = BTreeMap::new();
            for (key, attachment) in &container.networks {
                let Some(network) = stack.networks.get(key) else {
                    let (container, name) = (service.to_owned(), key.clone());
                    context.errors.push(LowerError::Undeclared { container, what: "network", name });
                    continue;
                };
                note_attachment(context, service, key, attachment);
                let endpoint = endpoint(stack, service, key, container, attachment, number);
                endpoints.insert(network.name.clone(), endpoint);
            }
            note_ports(context, service, container);
            NetworkMode::Networks(endpoints)
        }
    }
}

/// Ports are published on the network that the container leaves by.
fn note_ports(context: &mut Context, service: &str, container: &spec::Container) {
    if container.ports.is_empty() {
        return;
    }
    let networks = container.networks.iter().filter_map(|(key, it)| Some((it, context.stack.networks.get(key)?)));
    let open = networks.filter(|(_, network)| !network.internal && !network.external);
    let way = open.min_by_key(|(attachment, network)| (std::cmp::Reverse(attachment.gw_priority), &network.name));
    if let Some(driver) = way.and_then(|(_, network)| network.driver.as_deref())
        && !spec::network_driver::publishes(driver)
    {
        let reason = format!(
            "nothing is published on a network of `driver: {driver}`: the container is reached by its own address there"
        );
        context.note(format!("containers.{service}.ports"), &reason);
    }
}

fn note_attachment(context: &mut Context, service: &str, key: &str, attachment: &spec::NetworkAttachment) {
    let path = format!("containers.{service}.networks.{key}");
    if !attachment.driver_opts.is_empty() {
        context.note(format!("{path}.driver_opts"), "endpoints have no options");
    }
}

fn endpoint(
    stack: &spec::Stack,
    service: &str,
    key: &str,
    container: &spec::Container,
    attachment: &spec::NetworkAttachment,
    number: u32,
) -> Endpoint {
    let mut aliases = vec![service.to_owned()];
    aliases.extend(attachment.aliases.iter().cloned());
    aliases.extend(link_aliases(stack, service, key));
    let mut seen = BTreeSet::new();
    aliases.retain(|alias| seen.insert(alias.clone()));
    // A MAC address of the container as a whole belongs to the network that is connected first.
    let first = container.networks.iter().max_by_key(|(key, it)| (it.priority, std::cmp::Reverse(*key)));
    let own_mac = container.mac_address.clone().filter(|_| first.is_some_and(|(name, _)| name == key));
    Endpoint {
        aliases,
        // Only one replica can have the address; the others get one of their own.
        ipv4_address: attachment.ipv4_address.filter(|_| number == 1).map(|address| address.to_string()),
        ipv6_address: attachment.ipv6_address.filter(|_| number == 1).map(|address| address.to_string()),
        link_local_ips: attachment.link_local_ips.iter().filter(|_| number == 1).map(IpAddr::to_string).collect(),
        mac_address: attachment.mac_address.clone().or(own_mac).filter(|_| number == 1),
        gw_priority: attachment.gw_priority,
        priority: attachment.priority,
        interface_name: attachment.interface_name.clone(),
    }
}

/// The names by which other containers of the network link to this one.
fn link_aliases(stack: &spec::Stack, service: &str, key: &str) -> Vec<String> {
    let linking = stack.containers.values().filter(|other| other.networks.contains_key(key));
    let links = linking.flat_map(|other| &other.links).filter(|link| link.container == service);
    links.map(|link| link.alias.clone()).collect()
}

/// Of a range of host ports, the replica with number n takes the nth.
fn port(port: &spec::Port, number: u32, publish: spec::Publish) -> Port {
    let nth = |range: spec::PortRange| {
        let offset = u16::try_from(number - 1).unwrap_or(u16::MAX);
        if range.is_single() { range.start } else { range.start.saturating_add(offset).min(range.end) }
    };
    Port {
        host_ip: port.host_ip.map(|ip| ip.to_string()),
        published: port.published.map_or(0, nth),
        target: port.target,
        protocol: port.protocol.to_string(),
        bypass: publish == spec::Publish::Bypass,
    }
}

pub(super) fn ulimits(ulimits: &BTreeMap<String, spec::Ulimit>) -> BTreeMap<String, (i64, i64)> {
    ulimits.iter().map(|(name, it)| (name.clone(), (limit(it.soft), limit(it.hard)))).collect()
}

pub(super) fn hosts(hosts: &BTreeMap<String, Vec<spec::HostAddress>>) -> Vec<(String, String)> {
    let address = |address: &spec::HostAddress| match address {
        spec::HostAddress::Ip(ip) => ip.to_string(),
        spec::HostAddress::HostGateway => "host-gateway".to_owned(),
    };
    hosts.iter().flat_map(|(name, addresses)| addresses.iter().map(move |it| (name.clone(), address(it)))).collect()
}

fn namespace(stack: &spec::Stack, mode: Option<&spec::NamespaceMode>) -> NamespaceMode {
    match mode {
        Some(spec::NamespaceMode::Host) => NamespaceMode::Host,
        Some(spec::NamespaceMode::Service(service)) => NamespaceMode::Container(container_name(stack, service, 1)),
        Some(spec::NamespaceMode::Container(name)) => NamespaceMode::Container(name.clone()),
        // A private namespace of ours may always be joined by name.
        None | Some(spec::NamespaceMode::Private | spec::NamespaceMode::Shareable | spec::NamespaceMode::None) => {
            NamespaceMode::Private
        }
    }
}

/// Where nothing is said the engine chooses.
fn users(container: &spec::Container) -> Option<String> {
    container.userns_mode.map(|mode| match mode {
        spec::UsersMode::Host => "host".to_owned(),
        spec::UsersMode::Private => "private".to_owned(),
    })
}

fn security_option(option: &spec::SecurityOption) -> String {
    match option {
        spec::SecurityOption::NoNewPrivileges(on) => format!("no-new-privileges:{on}"),
        spec::SecurityOption::Seccomp(None) => "seccomp=unconfined".to_owned(),
        spec::SecurityOption::Seccomp(Some(profile)) => format!("seccomp={profile}"),
        spec::SecurityOption::Apparmor(profile) => format!("apparmor={profile}"),
        spec::SecurityOption::Label(text) => format!("label={text}"),
        spec::SecurityOption::SystemPathsUnconfined => "systempaths=unconfined".to_owned(),
        spec::SecurityOption::WritableCgroups(on) => format!("writable-cgroups={on}"),
    }
}

fn device(device: &spec::Device) -> DeviceMapping {
    DeviceMapping {
        source: device.source.to_string_lossy().into_owned(),
        target: device.target.clone(),
        permissions: device.permissions.clone(),
    }
}

/// -1 is unlimited.
fn limit(limit: spec::Limit) -> i64 {
    match limit {
        spec::Limit::Unlimited => -1,
        spec::Limit::Of(count) => i64::try_from(count).unwrap_or(i64::MAX),
    }
}

fn restart(policy: spec::RestartPolicy) -> Restart {
    match policy {
        spec::RestartPolicy::No => Restart::No,
        spec::RestartPolicy::Always => Restart::Always,
        spec::RestartPolicy::UnlessStopped => Restart::UnlessStopped,
        spec::RestartPolicy::OnFailure { max_retries } => Restart::OnFailure { max_retries },
    }
}

fn healthcheck(check: &spec::Healthcheck) -> Healthcheck {
    let word = |word: &str| vec![word.to_owned()];
    let test = match &check.test {
        spec::HealthTest::FromImage | spec::HealthTest::Probe(_) => Vec::new(),
        spec::HealthTest::Disabled => word("NONE"),
        spec::HealthTest::Exec(args) => [word("CMD"), args.clone()].concat(),
        spec::HealthTest::Shell(line) => [word("CMD-SHELL"), word(line)].concat(),
    };
    let probe = if let spec::HealthTest::Probe(probe) = &check.test { Some(probe.clone()) } else { None };
    Healthcheck {
        test,
        probe,
        interval_ms: check.interval_ms,
        timeout_ms: check.timeout_ms,
        start_period_ms: check.start_period_ms,
        start_interval_ms: check.start_interval_ms,
        retries: check.retries,
    }
}

fn on_unhealthy(container: &spec::Container) -> OnUnhealthy {
    match container.healthcheck.as_ref().map(|check| check.on_failure) {
        Some(spec::HealthAction::Restart) => OnUnhealthy::Restart,
        Some(spec::HealthAction::Recreate) => OnUnhealthy::Recreate,
        Some(spec::HealthAction::Stop) => OnUnhealthy::Stop,
        None | Some(spec::HealthAction::None) => OnUnhealthy::None,
    }
}

fn logging(container: &spec::Container) -> Logging {
    let logging = container.logging.as_ref();
    logging.map_or_else(Logging::default, |it| Logging { driver: it.driver.clone(), options: it.options.clone() })
}

fn lower_resources(resources: &spec::Resources) -> Resources {
    Resources {
        memory: resources.memory_bytes,
        memory_reservation: resources.memory_reservation_bytes,
        memory_swap: resources.memory_swap_bytes.map(limit),
        nano_cpus: resources.nano_cpus,
        cpu_shares: resources.cpu_shares,
        cpuset: resources.cpuset.clone(),
        pids: resources.pids.map(limit),
        memory_swappiness: resources.memory_swappiness,
        cpu_quota_us: resources.cpu_quota_us,
        cpu_period_us: resources.cpu_period_us,
        // Words of the command line alone.
        cpuset_mems: None,
        blkio_weight: None,
    }
}
