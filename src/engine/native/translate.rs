//! From a container as it is asked for, and the image that it is of, to what the runtime makes: pure. What had to be
//! looked up on the host (devices, directories of volumes) comes as an argument.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::users::Users;
use crate::reconcile::resource::{
    ContainerConfig, Healthcheck, MountSource, NamespaceMode, NetworkMode, OnUnhealthy, Resources, Restart, label,
};
use crate::runtime::apparmor;
use crate::runtime::container;
use crate::runtime::image::{self, Contents, Image};
use crate::runtime::init::spec::{self, Device, Limits, Namespace, Request};
use crate::spec::probe::{Place, Probe};

mod log;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_GRACE_MS: u64 = 10_000;

/// What the host knows and the request does not.
#[derive(Debug, Default)]
pub struct Facts {
    pub devices: Vec<Device>,
    /// The directory of each volume that the container mounts, by the mount's target.
    pub volumes: BTreeMap<String, PathBuf>,
    /// The images that it mounts, by the mount's target.
    pub mounted_images: BTreeMap<String, Image>,
    /// Files made for configs and secrets, by target.
    pub files: BTreeMap<String, PathBuf>,
    /// Volumes that only the image asks for, by target.
    pub image_volumes: BTreeMap<String, PathBuf>,
    pub users: Users,
    /// What the image's files are.
    pub contents: Contents,
}

/// A request that this engine can't carry out.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TranslateError {
    #[error("image {0} names no program, and neither does the container\n  help: give `command:` or `entrypoint:`")]
    NoProgram(String),
    #[error("userns_mode {0:?}: expected private, auto or host")]
    Users(String),
    #[error(
        "userns_mode: private can't be had with `{0}` of others: what is theirs is not its to mount\n  help: leave one of them out"
    )]
    UsersAndShared(&'static str),
    #[error(
        "userns_mode: private can't be had with runtime `{0}`: the engine's own makes user namespaces\n  help: leave one of \
         them out"
    )]
    UsersAndRuntime(String),
    #[error("health check {0:?}: expected CMD, CMD-SHELL or NONE first")]
    Healthcheck(String),
    #[error("logging: {message}{help}")]
    Logging { message: String, help: String },
}

/// The runtime's configuration of this container.
pub fn translate(wanted: &ContainerConfig, image: &Image, facts: &Facts) -> Result<container::Config, TranslateError> {
    let own = image.config.config().as_ref();
    private_users(wanted)?;
    let security = security(wanted);
    let hostname = wanted.hostname.clone().unwrap_or_else(|| wanted.name.chars().take(63).collect());
    let request = Request {
        hidden: Vec::new(),
        engine_ids: None,
        args: args(wanted, image)?,
        env: environment(wanted, image, &hostname),
        cwd: wanted.working_dir.clone().or_else(|| own?.working_dir().clone()).unwrap_or_default(),
        hostname,
        domainname: wanted.domainname.clone().unwrap_or_default(),
        terminal: wanted.tty,
        read_only: wanted.read_only,
        privileged: wanted.privileged,
        cap_add: wanted.cap_add.clone(),
        cap_drop: wanted.cap_drop.clone(),
        no_new_privileges: no_new_privileges(wanted, facts.contents),
        seccomp_unconfined: security.seccomp_unconfined,
        systempaths_unconfined: security.systempaths_unconfined,
        apparmor: security.apparmor,
        default_profile: None,
        ulimits: wanted.ulimits.clone(),
        mounts: mounts(wanted, facts),
        sysctls: wanted.sysctls.clone(),
        devices: facts.devices.clone(),
        device_rules: wanted.device_cgroup_rules.clone(),
        annotations: wanted.annotations.clone(),
        network: if wanted.network == NetworkMode::Host { Namespace::Host } else { Namespace::New },
        network_shared: matches!(wanted.network, NetworkMode::Container(_)),
        pid: namespace(&wanted.pid),
        ipc: namespace(&wanted.ipc),
        uts_host: wanted.uts_host,
        users: facts.users.ids(),
        limits: Limits { oom_kill_disable: wanted.oom_kill_disable, ..limits(&wanted.resources) },
        shm_size: wanted.shm_size,
        oom_score_adj: wanted.oom_score_adj,
        // From a file, which is read when the container is made.
        seccomp: None,
    };
    let log = log::log(wanted, &request.env)?;
    let stop_signal = wanted.stop_signal.clone().or_else(|| own?.stop_signal().clone());
    Ok(container::Config {
        name: wanted.name.clone(),
        image: wanted.image.clone(),
        image_id: image.id.to_string(),
        layers: image.layers.clone(),
        request,
        user: wanted.user.clone().or_else(|| own?.user().clone()).unwrap_or_default(),
        groups: wanted.group_add.clone(),
        cgroup_parent: wanted.cgroup_parent.clone().unwrap_or_default(),
        init: wanted.init,
        stdin_open: wanted.stdin_open,
        restart: restart(&wanted.restart),
        restart_delay_ms: wanted.restart_delay_ms,
        restart_window_ms: wanted.restart_window_ms,
        health: health(wanted.healthcheck.as_ref(), &image.health)?,
        on_unhealthy: match wanted.on_unhealthy {
            OnUnhealthy::None => container::OnUnhealthy::None,
            OnUnhealthy::Restart => container::OnUnhealthy::Restart,
            OnUnhealthy::Recreate => container::OnUnhealthy::Recreate,
            OnUnhealthy::Stop => container::OnUnhealthy::Stop,
        },
        on_unhealthy_budget: wanted
            .on_unhealthy_budget
            .map(|budget| container::Budget { max: budget.max, within_ms: budget.within_ms }),
        recreated_ms: wanted.recreated_ms.clone(),
        stop_signal: stop_signal.unwrap_or_default(),
        stop_grace_ms: wanted.stop_grace_ms.unwrap_or(DEFAULT_GRACE_MS),
        log,
        labels: labels(wanted, image),
        host_ids: facts.users.why().to_owned(),
        ..container::Config::default()
    })
}

/// The image's labels, and the container's over them. Those that say what a container belongs to are no image's to give:
/// it may have been made of another container.
fn labels(wanted: &ContainerConfig, image: &Image) -> BTreeMap<String, String> {
    let own = image.config.config().as_ref().and_then(|own| own.labels().clone()).unwrap_or_default();
    let own = own.into_iter().filter(|(key, _)| !key.starts_with(label::PREFIX));
    own.chain(wanted.labels.clone()).collect()
}

/// Whether the container asks for a user namespace of its own. One that says nothing is decided for in
/// [`super::users`].
///
/// # Errors
/// For words that are not known, and where it asks for namespaces of others, too.
pub fn private_users(wanted: &ContainerConfig) -> Result<bool, TranslateError> {
    match wanted.userns.as_deref() {
        None | Some("" | "host") => return Ok(false),
        Some("private" | "auto") => {}
        Some(other) => return Err(TranslateError::Users(other.to_owned())),
    }
    if let Some(runtime) = &wanted.runtime {
        return Err(TranslateError::UsersAndRuntime(runtime.clone()));
    }
    let shared = [("pid", &wanted.pid), ("ipc", &wanted.ipc)];
    match shared.into_iter().find(|(_, mode)| **mode != NamespaceMode::Private) {
        Some((what, _)) => Err(TranslateError::UsersAndShared(what)),
        None => Ok(true),
    }
}

/// Docker's rule: an entrypoint of the container's own takes the image's command away.
pub(super) fn args(wanted: &ContainerConfig, image: &Image) -> Result<Vec<String>, TranslateError> {
    let own = image.config.config().as_ref();
    let from_image = |words: Option<&Vec<String>>| words.cloned().unwrap_or_default();
    let image_command = || from_image(own.and_then(|own| own.cmd().as_ref()));
    let (entrypoint, command) = match (&wanted.entrypoint, &wanted.command) {
        (Some(entrypoint), command) => (entrypoint.clone(), command.clone().unwrap_or_default()),
        (None, command) => {
            let entrypoint = from_image(own.and_then(|own| own.entrypoint().as_ref()));
            (entrypoint, command.clone().unwrap_or_else(image_command))
        }
    };
    let args = [entrypoint, command].concat();
    if args.is_empty() { Err(TranslateError::NoProgram(wanted.image.clone())) } else { Ok(args) }
}

/// The image's variables, ours where it has none, and the container's over both.
pub(super) fn environment(wanted: &ContainerConfig, image: &Image, hostname: &str) -> Vec<String> {
    let own = image.config.config().as_ref().and_then(|own| own.env().as_ref());
    let terminal = wanted.tty.then(|| "TERM=xterm".to_owned());
    let ours = [DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")].into_iter().chain(terminal);
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for entry in ours.chain(own.into_iter().flatten().cloned()) {
        if let Some((key, value)) = entry.split_once('=') {
            all.insert(key.to_owned(), value.to_owned());
        }
    }
    all.extend(wanted.environment.clone());
    all.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
}

#[derive(Default)]
struct Security {
    /// What it says of it, if it says something.
    no_new_privileges: Option<bool>,
    seccomp_unconfined: bool,
    systempaths_unconfined: bool,
    /// But for docker's own default, which is the engine's here.
    apparmor: Option<String>,
}

/// Options that mean nothing here were named by [`super::unsupported::unsupported`].
fn security(wanted: &ContainerConfig) -> Security {
    let mut security = Security::default();
    for option in &wanted.security_opt {
        match option.replacen('=', ":", 1).as_str() {
            "no-new-privileges" | "no-new-privileges:true" => security.no_new_privileges = Some(true),
            "no-new-privileges:false" => security.no_new_privileges = Some(false),
            "seccomp:unconfined" => security.seccomp_unconfined = true,
            "systempaths:unconfined" => security.systempaths_unconfined = true,
            other => {
                if let Some(name) = other.strip_prefix("apparmor:") {
                    security.apparmor = (name != apparmor::OF_DOCKER).then(|| name.to_owned());
                }
            }
        }
    }
    security
}

/// The AppArmor profile that it names.
pub fn profile(wanted: &ContainerConfig) -> Option<String> {
    security(wanted).apparmor
}

/// Whether no program that is executed in it ever gets rights that its caller has not. Where nothing is asked for: if
/// that takes nothing away, since no program of the image would give any.
pub fn no_new_privileges(wanted: &ContainerConfig, contents: Contents) -> bool {
    let asked = security(wanted).no_new_privileges;
    asked.unwrap_or(!wanted.privileged && !contents.raises)
}

fn mounts(wanted: &ContainerConfig, facts: &Facts) -> Vec<spec::Mount> {
    let bind_as = |target: &str, source: PathBuf, read_only: bool, propagation: Option<String>| spec::Mount {
        target: PathBuf::from(target),
        read_only,
        source: spec::MountSource::Bind { source, propagation, mapped: true },
    };
    let file = |target: &String, source: &PathBuf| spec::Mount {
        target: PathBuf::from(target),
        read_only: true,
        source: spec::MountSource::Bind { source: source.clone(), propagation: None, mapped: false },
    };
    let bind = |target: &str, source: PathBuf, read_only: bool| bind_as(target, source, read_only, None);
    let declared = wanted.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Bind { source, propagation, .. } => {
            Some(bind_as(&mount.target, source.clone(), mount.read_only, propagation.clone()))
        }
        MountSource::Tmpfs { size, mode, options } => Some(spec::Mount {
            target: PathBuf::from(&mount.target),
            read_only: mount.read_only,
            source: spec::MountSource::Tmpfs { size: *size, mode: *mode, options: options.clone() },
        }),
        MountSource::Volume { .. } => {
            Some(bind(&mount.target, facts.volumes.get(&mount.target)?.clone(), mount.read_only))
        }
        MountSource::Image { subpath, .. } => {
            let image = facts.mounted_images.get(&mount.target)?;
            let (id, layers) = (image.id.to_string(), image.layers.clone());
            let source = spec::MountSource::Image { id, layers, subpath: subpath.as_ref().map(PathBuf::from) };
            Some(spec::Mount { target: PathBuf::from(&mount.target), read_only: true, source })
        }
    });
    let image = facts.image_volumes.iter().map(|(target, source)| bind(target, source.clone(), false));
    let files = facts.files.iter().map(|(target, source)| file(target, source));
    image.chain(declared).chain(files).collect()
}

fn namespace(mode: &NamespaceMode) -> Namespace {
    match mode {
        NamespaceMode::Private => Namespace::New,
        NamespaceMode::Host => Namespace::Host,
        NamespaceMode::Container(name) => Namespace::Container(name.clone()),
    }
}

fn limits(resources: &Resources) -> Limits {
    Limits {
        memory: resources.memory,
        memory_reservation: resources.memory_reservation,
        memory_swap: resources.memory_swap,
        nano_cpus: resources.nano_cpus,
        cpu_quota_us: resources.cpu_quota_us,
        cpu_period_us: resources.cpu_period_us,
        cpu_shares: resources.cpu_shares,
        cpuset: resources.cpuset.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        blkio_weight: resources.blkio_weight,
        pids: resources.pids,
        memory_swappiness: resources.memory_swappiness,
        oom_kill_disable: false,
    }
}

fn restart(policy: &Restart) -> container::Restart {
    match policy {
        Restart::No => container::Restart::No,
        Restart::Always => container::Restart::Always,
        Restart::UnlessStopped => container::Restart::UnlessStopped,
        Restart::OnFailure { max_retries } => container::Restart::OnFailure { max_retries: *max_retries },
    }
}

/// Docker's rule: field by field, what the container does not say is as the image says, and else docker's default.
/// `None` where there is no check.
fn health(
    wanted: Option<&Healthcheck>,
    image: &image::Healthcheck,
) -> Result<Option<container::HealthCheck>, TranslateError> {
    let none = Healthcheck::default();
    let wanted = wanted.unwrap_or(&none);
    let test = if wanted.test.is_empty() { &image.test } else { &wanted.test };
    let words: Vec<&str> = test.iter().map(String::as_str).collect();
    let command = match words.as_slice() {
        _ if wanted.probe.is_some() => Vec::new(),
        [] | ["NONE", ..] => return Ok(None),
        ["CMD", rest @ ..] if !rest.is_empty() => rest.iter().map(|word| (*word).to_owned()).collect(),
        ["CMD-SHELL", text] => shell(image).into_iter().chain([(*text).to_owned()]).collect(),
        _ => return Err(TranslateError::Healthcheck(test.join(" "))),
    };
    Ok(Some(container::HealthCheck {
        command,
        probe: wanted.probe.as_ref().map(probe),
        interval_ms: wanted.interval_ms.or(image.interval_ms).unwrap_or(30_000).max(1),
        timeout_ms: wanted.timeout_ms.or(image.timeout_ms).unwrap_or(30_000).max(1),
        start_period_ms: wanted.start_period_ms.or(image.start_period_ms).unwrap_or(0),
        start_interval_ms: wanted.start_interval_ms.or(image.start_interval_ms).unwrap_or(5_000).max(1),
        retries: wanted.retries.or(image.retries).unwrap_or(3),
    }))
}

fn probe(wanted: &Probe) -> container::Probe {
    let place = |place: &Place| container::Place { host: place.host, port: place.port };
    match wanted {
        Probe::Tcp(of) => container::Probe::Tcp { place: place(of) },
        Probe::Grpc(grpc) => container::Probe::Grpc { place: place(&grpc.place), service: grpc.service.clone() },
        Probe::Http(http) => container::Probe::Http {
            place: place(&http.place),
            path: http.path.clone(),
            tls: http.tls,
            headers: http.headers.clone().into_iter().collect(),
            status: http.status.clone(),
        },
    }
}

fn shell(image: &image::Healthcheck) -> Vec<String> {
    if image.shell.is_empty() { vec!["/bin/sh".to_owned(), "-c".to_owned()] } else { image.shell.clone() }
}

#[cfg(test)]
mod tests {
    use super::super::unsupported::unsupported;
    use super::*;
    use crate::runtime::cgroup::Abilities;
    use crate::runtime::image::{Digest, ImageConfiguration};

    fn image(config: &str) -> Image {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{config},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
        );
        let config: ImageConfiguration = serde_json::from_str(&text).unwrap();
        let id = Digest::of(b"x");
        Image {
            reference: "i".into(),
            digest: id.clone(),
            manifest: id.clone(),
            id,
            place: None,
            config,
            health: Default::default(),
            layers: vec![],
            size: 0,
            created_ms: 0,
            text: String::new(),
            diff_ids: vec![],
            declared: serde_json::Value::Null,
        }
    }

    #[test]
    fn an_entrypoint_of_its_own_takes_the_images_command_away() {
        let image = image(r#"{"Entrypoint":["/e"],"Cmd":["a","b"]}"#);
        let words = |text: Option<&[&str]>| text.map(|words| words.iter().map(|word| (*word).to_owned()).collect());
        for (entrypoint, command, expected) in [
            (None, None, vec!["/e", "a", "b"]),
            (None, Some(&["c"][..]), vec!["/e", "c"]),
            (Some(&["/x"][..]), None, vec!["/x"]),
            (Some(&[][..]), Some(&["c"][..]), vec!["c"]),
        ] {
            let wanted =
                ContainerConfig { entrypoint: words(entrypoint), command: words(command), ..Default::default() };
            assert_eq!(args(&wanted, &image).unwrap(), expected);
        }
    }

    /// Every field of a container, with a value that is not the default one.
    const SAMPLES: &str = r#"{
        "name": "n", "image": "other", "command": ["x"], "entrypoint": ["x"], "environment": {"A": "b"},
        "labels": {"a": "b"}, "user": "1", "group_add": ["7"], "working_dir": "/w", "hostname": "h", "domainname": "d",
        "tty": true, "stdin_open": true, "init": true, "read_only": true, "privileged": true, "cap_add": ["NET_RAW"],
        "cap_drop": ["KILL"], "security_opt": ["no-new-privileges:false"], "sysctls": {"a": "b"},
        "ulimits": {"core": [1, 1]},
        "mounts": [{"type": "bind", "target": "/t", "source": "/s", "read_only": false, "create": true, "propagation": null}],
        "pid": "host", "ipc": "host", "uts_host": true, "cgroup_host": true, "restart": "always",
        "restart_delay_ms": 1, "restart_window_ms": 1, "healthcheck": {"test": ["CMD", "x"]}, "on_unhealthy": "restart",
        "stop_signal": "SIGINT", "stop_grace_ms": 1, "logging": {"driver": "none", "options": {}},
        "resources": {"memory": 1}, "shm_size": 1, "oom_score_adj": 1, "oom_kill_disable": true,
        "annotations": {"a": "b"}, "device_cgroup_rules": ["c 1:3 r"], "cgroup_parent": "above",
        "network": "host"
    }"#;

    /// Fields that do their work elsewhere: the network room, files, what was looked up, and what only readers need.
    const ELSEWHERE: [&str; 17] = [
        "bind_contents",
        "devices",
        "dns",
        "dns_opt",
        "dns_search",
        "expose",
        "extra_hosts",
        "files",
        "image_digest",
        "number",
        "ports",
        "post_start",
        "pre_start",
        "pre_stop",
        "runtime",
        "service",
        "userns",
    ];

    #[test]
    fn every_field_reaches_the_runtime_or_is_named() {
        let image = image(r#"{"Cmd":["c"]}"#);
        let samples: BTreeMap<String, serde_json::Value> = serde_json::from_str(SAMPLES).unwrap();
        let plain = serde_json::to_value(ContainerConfig::default()).unwrap();
        let base = translate(&ContainerConfig::default(), &image, &Facts::default()).unwrap();
        for field in plain.as_object().unwrap().keys() {
            let ignored = super::super::ignored(Abilities { swap: false, swappiness: false, oom_kill_disable: false });
            let known = ELSEWHERE.contains(&field.as_str()) || ignored.iter().any(|ignored| ignored.key == field);
            let Some(value) = samples.get(field) else {
                assert!(known, "{field}: add a sample, or say where it is carried out");
                continue;
            };
            let mut tree = plain.clone();
            tree[field] = value.clone();
            let wanted: ContainerConfig = serde_json::from_value(tree).unwrap();
            let named = unsupported(&crate::reconcile::resource::Config::Container(Box::new(wanted.clone())));
            let changed = translate(&wanted, &image, &Facts::default()).unwrap() != base;
            assert!(changed || !named.is_empty(), "{field} is dropped silently");
        }
    }

    /// As [`every_field_reaches_the_runtime_or_is_named`], for the limits.
    #[test]
    fn every_limit_reaches_the_runtime_or_is_named() {
        let image = image(r#"{"Cmd":["c"]}"#);
        let base = translate(&ContainerConfig::default(), &image, &Facts::default()).unwrap();
        let plain = serde_json::to_value(Resources::default()).unwrap();
        for field in plain.as_object().unwrap().keys() {
            let value = if field == "cpuset" { serde_json::json!("0") } else { serde_json::json!(7) };
            let mut tree = plain.clone();
            tree[field] = value;
            let resources = serde_json::from_value(tree).unwrap();
            let wanted = ContainerConfig { resources, ..ContainerConfig::default() };
            let named = unsupported(&crate::reconcile::resource::Config::Container(Box::new(wanted.clone())));
            let changed = translate(&wanted, &image, &Facts::default()).unwrap() != base;
            assert!(changed || !named.is_empty(), "{field} is dropped silently");
        }
    }

    #[test]
    fn an_images_own_check_fills_in_what_the_container_does_not_say() {
        let own = image::Healthcheck {
            test: vec!["CMD-SHELL".into(), "probe".into()],
            interval_ms: Some(7_000),
            retries: Some(9),
            shell: vec!["/bin/ash".into(), "-ec".into()],
            ..Default::default()
        };
        let of = |wanted: Option<Healthcheck>| health(wanted.as_ref(), &own).unwrap();
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let found = of(None).unwrap();
        assert_eq!(found.command, ["/bin/ash", "-ec", "probe"]);
        assert_eq!((found.interval_ms, found.timeout_ms, found.retries), (7_000, 30_000, 9));
        let mixed = of(Some(Healthcheck { interval_ms: Some(1), ..Default::default() })).unwrap();
        assert_eq!((mixed.command, mixed.interval_ms, mixed.retries), (found.command, 1, 9));
        let other = of(Some(Healthcheck { test: words("CMD /x y"), ..Default::default() })).unwrap();
        assert_eq!((other.command, other.interval_ms), (words("/x y"), 7_000));
        assert_eq!(of(Some(Healthcheck { test: words("NONE"), ..Default::default() })), None);
        assert_eq!(
            health(Some(&Healthcheck { retries: Some(1), ..Default::default() }), &Default::default()),
            Ok(None)
        );
    }

    #[test]
    fn variables_of_the_container_win() {
        let image = image(r#"{"Env":["A=1","B=2","PATH=/bin"]}"#);
        let environment = environment(
            &ContainerConfig { environment: BTreeMap::from([("B".into(), "3".into())]), ..Default::default() },
            &image,
            "h",
        );
        assert_eq!(environment, ["A=1", "B=3", "HOSTNAME=h", "PATH=/bin"]);
    }
}
