//! A container as docker describes one.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::cli::failure::Failure;
use crate::cli::ps::{health_word, state_word};
use crate::cli::view;
use crate::engine::native::declared;
use crate::reconcile::resource::{ContainerConfig, Mount, MountSource, NamespaceMode, NetworkMode, Port, label};
use crate::runtime::container::{self, Container, Health, Log, LogForm, LogService, Restart, State};
use crate::runtime::image::{Image, Store};
use crate::runtime::network::{self, Attachment, Family, Network};
use crate::runtime::roots::Roots;

pub fn value(roots: &Roots, one: &Container, size: bool) -> Result<Value, Failure> {
    let config = &one.config;
    let paths = container::Paths::of(roots, &config.name);
    let wanted = declared(one).unwrap_or_default();
    let attachment = network::attachments(roots)?.into_iter().find(|own| own.container == config.name);
    let attachment = attachment.unwrap_or_default();
    let networks = network::list(roots)?;
    let image = Store::open(roots).get(&config.image_id)?;
    let (path, arguments) = config.request.args.split_first().map_or(("", &[][..]), |(first, rest)| (first, rest));
    let layers: Vec<String> = config.layers.iter().rev().map(|layer| layer.display().to_string()).collect();
    let mut value = json!({
        "Id": config.id,
        "Created": view::time(config.created_ms),
        "Path": path,
        "Args": arguments,
        "State": state(one),
        "Image": config.image_id,
        "ResolvConfPath": paths.resolv_conf,
        "HostnamePath": paths.hostname,
        "HostsPath": paths.hosts,
        "LogPath": config.log.files.map(|files| files.newest(&paths.logs)).unwrap_or_default(),
        "Name": format!("/{}", config.name),
        "RestartCount": one.status.restarts,
        "Driver": "overlayfs",
        "Platform": "linux",
        "HostConfig": host_config(one, &wanted),
        "GraphDriver": {"Name": "overlayfs", "Data": {"LowerDir": layers.join(":"), "UpperDir": paths.upper,
                        "WorkDir": paths.work, "MergedDir": paths.rootfs}},
        "Mounts": wanted.mounts.iter().map(|mount| mounted(roots, one, mount)).collect::<Vec<_>>(),
        "Config": own_config(one, &wanted, image.as_ref()),
        "NetworkSettings": network_settings(one, &attachment, &networks),
        "Stack": {
            "Stack": config.labels.get(label::STACK),
            "Service": config.labels.get(label::SERVICE),
            "Phase": one.phase,
            "Supervisor": one.status.shim.pid,
            "Protection": protection(one),
            "LogLoss": {"Lines": one.status.log_loss.lines, "Unsent": one.status.log_loss.unsent,
                        "Reason": one.status.log_loss.reason},
            "Declared": config.declared,
        },
    });
    if size {
        value["SizeRw"] = json!(container::written_bytes(roots, &config.name)?);
    }
    Ok(value)
}

/// What holds for it, asked for or not.
fn protection(one: &Container) -> Value {
    let request = &one.config.request;
    json!({"NoNewPrivileges": request.no_new_privileges,
           "UserNamespace": request.users.map(|ids| json!({"First": ids.first, "Size": ids.size})),
           "HostIds": one.config.host_ids})
}

/// As it was asked for, and the bounds that hold where none were.
fn log_config(log: &Log, options: &BTreeMap<String, String>) -> Value {
    let driver = match (&log.service, log.files.map(|files| files.form)) {
        (Some(LogService::Journald), _) => "journald",
        (Some(LogService::Syslog(_)), _) => "syslog",
        (Some(LogService::Plugin { driver, .. }), _) => driver,
        (None, Some(LogForm::Json)) => "json-file",
        (None, Some(LogForm::Local)) => "local",
        (None, None) => "none",
    };
    let mut shown = options.clone();
    if let (Some(files), None) = (log.files, &log.service) {
        shown.entry("max-size".to_owned()).or_insert_with(|| files.max_size.to_string());
        shown.entry("max-file".to_owned()).or_insert_with(|| files.max_files.to_string());
    }
    json!({"Type": driver, "Config": shown})
}

/// Docker's word for a time that has not come.
fn time(ms: u64) -> Value {
    if ms == 0 { json!("0001-01-01T00:00:00Z") } else { view::time(ms) }
}

fn state(one: &Container) -> Value {
    let status = &one.status;
    let mut value = json!({
        "Status": state_word(status.state),
        "Running": one.is_running(),
        "Paused": status.state == State::Paused,
        "Restarting": status.state == State::Restarting,
        "OOMKilled": status.oom_killed,
        "Dead": false,
        "Pid": status.process.pid,
        "ExitCode": status.exit_code,
        "Error": status.error.clone().unwrap_or_default(),
        "StartedAt": time(status.started_ms),
        "FinishedAt": time(status.finished_ms),
        "Health": null,
    });
    if status.health != Health::None {
        let log = status.health_log.iter().map(|check| {
            json!({"Start": time(check.begun_ms), "End": time(check.ended_ms), "ExitCode": check.code,
                   "Output": check.output})
        });
        value["Health"] = json!({"Status": health_word(status.health), "FailingStreak": status.failing_streak,
                                 "Log": log.collect::<Vec<_>>(),
                                 "Cures": status.cured_ms.len() + one.config.recreated_ms.len(),
                                 "BudgetSpent": status.budget_spent});
    }
    value
}

/// Entrypoint and command as they took effect: an entrypoint of the container's own takes the image's command away.
fn words(wanted: &ContainerConfig, image: Option<&Image>) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let own = image.and_then(|image| image.config.config().as_ref());
    let command = || own.and_then(|own| own.cmd().clone());
    match (&wanted.entrypoint, &wanted.command) {
        (Some(entrypoint), command) => (Some(entrypoint.clone()), command.clone()),
        (None, wanted) => (own.and_then(|own| own.entrypoint().clone()), wanted.clone().or_else(command)),
    }
}

fn own_config(one: &Container, wanted: &ContainerConfig, image: Option<&Image>) -> Value {
    let config = &one.config;
    let (entrypoint, command) = words(wanted, image);
    let exposed = wanted.ports.iter().map(port_key).chain(wanted.expose.iter().cloned());
    let exposed: Map<String, Value> = exposed.map(|port| (port, json!({}))).collect();
    let check = config.health.as_ref().map(|check| {
        let ns = |ms: u64| ms * 1_000_000;
        let probe = wanted.healthcheck.as_ref().and_then(|wanted| wanted.probe.as_ref());
        let test = probe.map_or_else(|| check.command.clone(), |probe| vec!["PROBE".to_owned(), probe.to_string()]);
        json!({"Test": test, "Interval": ns(check.interval_ms), "Timeout": ns(check.timeout_ms),
               "StartPeriod": ns(check.start_period_ms), "StartInterval": ns(check.start_interval_ms),
               "Retries": check.retries})
    });
    json!({
        "Hostname": config.request.hostname,
        "Domainname": config.request.domainname,
        "User": config.user,
        "Tty": config.request.terminal,
        "OpenStdin": config.stdin_open,
        "Env": config.request.env,
        "Cmd": command,
        "Entrypoint": entrypoint,
        "Image": config.image,
        "WorkingDir": config.request.cwd,
        "Labels": config.labels,
        "StopSignal": if config.stop_signal.is_empty() { "SIGTERM" } else { &config.stop_signal },
        "StopTimeout": config.stop_grace_ms / 1000,
        "ExposedPorts": exposed,
        "Volumes": image.and_then(|image| image.config.config().as_ref()?.volumes().clone()).map(|all| {
            all.into_iter().map(|target| (target, json!({}))).collect::<Map<String, Value>>()
        }),
        "Healthcheck": check,
    })
}

fn host_config(one: &Container, wanted: &ContainerConfig) -> Value {
    let config = &one.config;
    let binds = wanted.mounts.iter().filter_map(bind).collect::<Vec<_>>();
    let (policy, retries) = match &config.restart {
        Restart::No => ("no", 0),
        Restart::Always => ("always", 0),
        Restart::UnlessStopped => ("unless-stopped", 0),
        Restart::OnFailure { max_retries } => ("on-failure", max_retries.unwrap_or(0)),
    };
    let network = match &wanted.network {
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Container(name) => format!("container:{name}"),
        NetworkMode::Networks(all) => all.keys().next().cloned().unwrap_or_else(|| "none".to_owned()),
    };
    let hosts: Vec<String> = wanted.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}")).collect();
    let limit = |(name, (soft, hard)): (&String, &(i64, i64))| json!({"Name": name, "Soft": soft, "Hard": hard});
    let device = |device: &crate::reconcile::resource::DeviceMapping| {
        json!({"PathOnHost": device.source, "PathInContainer": device.target,
               "CgroupPermissions": device.permissions})
    };
    let of_itself = json!({
        "Binds": binds,
        "Tmpfs": wanted.mounts.iter().filter_map(in_memory).collect::<Map<String, Value>>(),
        "NetworkMode": network,
        "PortBindings": bindings(wanted.ports.iter().map(|port| {
            (port_key(port), port.host_ip.clone().unwrap_or_default(), port.published)
        })),
        "RestartPolicy": {"Name": policy, "MaximumRetryCount": retries},
        "AutoRemove": config.removal != container::Removal::Nobody,
        "LogConfig": log_config(&config.log, &wanted.logging.options),
        "CapAdd": wanted.cap_add,
        "CapDrop": wanted.cap_drop,
        "SecurityOpt": wanted.security_opt,
        "GroupAdd": wanted.group_add,
        "Dns": wanted.dns,
        "DnsSearch": wanted.dns_search,
        "DnsOptions": wanted.dns_opt,
        "ExtraHosts": hosts,
        "Runtime": config.runtime.as_ref().map_or("stack", |runtime| &runtime.name),
        "Privileged": wanted.privileged,
        "ReadonlyRootfs": wanted.read_only,
        "Init": wanted.init,
        "PidMode": if wanted.pid == NamespaceMode::Private { String::new() } else { namespace(&wanted.pid) },
        "IpcMode": namespace(&wanted.ipc),
        "UTSMode": if wanted.uts_host { "host" } else { "" },
        "CgroupnsMode": if wanted.cgroup_host { "host" } else { "private" },
        "Sysctls": wanted.sysctls,
        "Ulimits": wanted.ulimits.iter().map(limit).collect::<Vec<_>>(),
        "Devices": wanted.devices.iter().map(device).collect::<Vec<_>>(),
    });
    let (Value::Object(mut all), Value::Object(limits)) = (of_itself, limits(config, wanted)) else {
        return Value::Null;
    };
    all.extend(limits);
    Value::Object(all)
}

/// What it may use, in the words of docker's `HostConfig`.
fn limits(config: &container::Config, wanted: &ContainerConfig) -> Value {
    let limits = &config.request.limits;
    json!({
        "Memory": limits.memory.unwrap_or(0),
        "MemoryReservation": limits.memory_reservation.unwrap_or(0),
        "MemorySwap": limits.memory_swap.or(limits.memory.map(|bytes| 2 * bytes as i64)).unwrap_or(0),
        "NanoCpus": limits.nano_cpus.unwrap_or(0),
        "CpuQuota": limits.cpu_quota_us.unwrap_or(0),
        "CpuPeriod": limits.cpu_period_us.unwrap_or(0),
        "CpuShares": limits.cpu_shares.unwrap_or(0),
        "CpusetCpus": limits.cpuset.clone().unwrap_or_default(),
        "CpusetMems": limits.cpuset_mems.clone().unwrap_or_default(),
        "BlkioWeight": limits.blkio_weight.unwrap_or(0),
        "PidsLimit": limits.pids,
        "ShmSize": wanted.shm_size.unwrap_or(64 << 20),
        "OomScoreAdj": wanted.oom_score_adj.unwrap_or(0),
        "OomKillDisable": limits.oom_kill_disable,
        "MemorySwappiness": limits.memory_swappiness,
        "CgroupParent": config.cgroup_parent,
        "DeviceCgroupRules": config.request.device_rules,
        "Annotations": config.request.annotations,
    })
}

fn namespace(mode: &NamespaceMode) -> String {
    match mode {
        NamespaceMode::Private => "private".to_owned(),
        NamespaceMode::Host => "host".to_owned(),
        NamespaceMode::Container(name) => format!("container:{name}"),
    }
}

fn port_key(port: &Port) -> String {
    format!("{}/{}", port.target, port.protocol)
}

fn bind(mount: &Mount) -> Option<String> {
    let end = if mount.read_only { ":ro" } else { "" };
    match &mount.source {
        MountSource::Bind { source, .. } => Some(format!("{}:{}{end}", source.display(), mount.target)),
        MountSource::Volume { volume: Some(name), .. } => Some(format!("{name}:{}{end}", mount.target)),
        _ => None,
    }
}

/// A directory in memory by its target, with its options in mount(8)'s words.
fn in_memory(mount: &Mount) -> Option<(String, Value)> {
    let MountSource::Tmpfs { size, mode, options } = &mount.source else { return None };
    let size = size.map(|size| format!("size={size}"));
    let mode = mode.map(|mode| format!("mode={mode:o}"));
    let all: Vec<String> = size.into_iter().chain(mode).chain(options.iter().cloned()).collect();
    Some((mount.target.clone(), json!(all.join(","))))
}

/// `{"80/tcp": [{"HostIp": …, "HostPort": …}]}`.
fn bindings(ports: impl Iterator<Item = (String, String, u16)>) -> Value {
    let mut all: Map<String, Value> = Map::new();
    for (key, ip, port) in ports {
        let bindings = all.entry(key).or_insert_with(|| json!([]));
        if let Some(bindings) = bindings.as_array_mut() {
            bindings.push(json!({"HostIp": ip, "HostPort": port.to_string()}));
        }
    }
    Value::Object(all)
}

fn mounted(roots: &Roots, one: &Container, mount: &Mount) -> Value {
    let (kind, name, source) = match &mount.source {
        MountSource::Bind { source, .. } => ("bind", String::new(), source.display().to_string()),
        MountSource::Tmpfs { .. } => ("tmpfs", String::new(), String::new()),
        MountSource::Image { image, .. } => ("image", String::new(), image.clone()),
        MountSource::Volume { volume, .. } => {
            let source = source_of(one, &mount.target);
            let in_volumes = roots.durable("volumes");
            let inner = source.strip_prefix(&format!("{}/", in_volumes.display())).unwrap_or_default();
            let found = inner.split('/').next().unwrap_or_default();
            ("volume", volume.clone().unwrap_or_else(|| found.to_owned()), source)
        }
    };
    json!({"Type": kind, "Name": name, "Source": source, "Destination": mount.target, "Driver":
           if kind == "volume" { "local" } else { "" }, "Mode": if mount.read_only { "ro" } else { "" },
           "RW": !mount.read_only, "Propagation": if kind == "bind" { "rprivate" } else { "" }})
}

/// Where on this host what is mounted at this target lies.
fn source_of(one: &Container, target: &str) -> String {
    use crate::runtime::init::spec::MountSource;
    let found = one.config.request.mounts.iter().find(|mount| mount.target == std::path::Path::new(target));
    match found.map(|mount| &mount.source) {
        Some(MountSource::Bind { source, .. }) => source.display().to_string(),
        _ => String::new(),
    }
}

fn network_settings(one: &Container, attachment: &Attachment, networks: &[Network]) -> Value {
    let ports = attachment.ports.iter().filter(|_| one.is_running()).map(|port| {
        let ip = port.host_ip.map_or("0.0.0.0".to_owned(), |ip| ip.to_string());
        (format!("{}/{}", port.container_port, port.protocol), ip, port.host_port)
    });
    let mut all: Map<String, Value> = Map::new();
    for (name, endpoint) in &attachment.endpoints {
        let network = networks.iter().find(|network| network.config.name == *name);
        let mac: Vec<String> = endpoint.hardware_address.iter().map(|byte| format!("{byte:02x}")).collect();
        let address = |family| endpoint.address(family).map(|address| address.to_string()).unwrap_or_default();
        let range = |family| network.and_then(|network| network.range(family));
        let gateway = |family| range(family).map(|range| range.gateway.to_string()).unwrap_or_default();
        let value = json!({
            "IPAddress": address(Family::V4),
            "IPPrefixLen": range(Family::V4).map_or(0, |range| range.subnet.prefix()),
            "Gateway": gateway(Family::V4),
            "GlobalIPv6Address": address(Family::V6),
            "GlobalIPv6PrefixLen": range(Family::V6).map_or(0, |range| range.subnet.prefix()),
            "IPv6Gateway": gateway(Family::V6),
            "MacAddress": mac.join(":"),
            "Aliases": endpoint.names,
            "DNSNames": endpoint.names,
            "NetworkID": name,
        });
        all.insert(name.clone(), value);
    }
    let mut ways = Family::ALL.into_iter().filter_map(|family| attachment.way_out(networks, family));
    let main = ways.next().map(|way| way.network.config.name.clone());
    let main = main.and_then(|name| all.get(&name)).or_else(|| all.values().next()).cloned().unwrap_or(json!({}));
    let of_main = |key: &str| main.get(key).cloned().unwrap_or_else(|| json!(""));
    json!({
        "Ports": bindings(ports),
        "IPAddress": of_main("IPAddress"),
        "Gateway": of_main("Gateway"),
        "GlobalIPv6Address": of_main("GlobalIPv6Address"),
        "IPv6Gateway": of_main("IPv6Gateway"),
        "MacAddress": of_main("MacAddress"),
        "Networks": all,
    })
}
