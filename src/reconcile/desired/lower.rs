//! A whole stack: its networks, volumes, images and the edges between its containers.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::build::lower_build;
use super::container::{Context, lower_container, seccomp_profiles};
use super::{Desired, DesiredResource, Edge, LowerError};
use crate::reconcile::engine::{Capabilities, Condition, StackName};
use crate::reconcile::facts::Files;
use crate::reconcile::history::Places;
use crate::reconcile::resource::{
    Config, HostContent, ImageConfig, ImageSource, Kind, NetworkConfig, Port, PullPolicy, ResourceId, VolumeConfig,
    label,
};
use crate::spec;

/// The files whose content is part of what [`lower`] makes: configs, secrets, and sources of bind mounts; and devices,
/// which must be there.
pub fn files(stack: &spec::Stack) -> BTreeSet<PathBuf> {
    let objects = stack.configs.values().chain(stack.secrets.values());
    let objects = objects.filter_map(|object| match &object.source {
        spec::FileSource::File(path) => Some(path.clone()),
        _ => None,
    });
    let mounts = stack.containers.values().flat_map(|container| &container.mounts);
    let binds = mounts.filter_map(|mount| match &mount.kind {
        spec::MountKind::Bind { source, .. } => Some(source.clone()),
        _ => None,
    });
    let devices = stack.containers.values().flat_map(|container| &container.devices);
    let profiles = stack.containers.values().flat_map(seccomp_profiles).map(|(_, path)| path.to_owned());
    objects.chain(binds).chain(devices.map(|device| device.source.clone())).chain(profiles).collect()
}

/// The stack as resources of this engine. All errors at once.
pub fn lower(stack: &spec::Stack, capabilities: &Capabilities, files: &Files) -> Result<Desired, Vec<LowerError>> {
    let name = StackName::new(&stack.name).ok_or_else(|| vec![LowerError::StackName(stack.name.clone())])?;
    let mut context = Context { stack, capabilities, files, errors: Vec::new(), notes: BTreeMap::new() };
    for note in &stack.not_honoured {
        context.notes.insert(note.path.clone(), note.reason.clone());
    }
    let mut resources = BTreeMap::new();
    let mut add = |id: ResourceId, config: Config, place: String| {
        let alone = DesiredResource { config, depends_on: Vec::new(), start_first: false, parallelism: 1, place };
        resources.insert(id, alone);
    };
    let used = Used::of(stack);
    for (key, network) in stack.networks.iter().filter(|(key, it)| !it.external && used.networks.contains(*key)) {
        let config = Config::Network(lower_network(key, network, &mut context));
        add(ResourceId::new(Kind::Network, key), config, format!("networks.{key}"));
    }
    for (key, volume) in stack.volumes.iter().filter(|(key, it)| !it.external && used.volumes.contains(*key)) {
        let config = Config::Volume(lower_volume(&stack.name, key, volume));
        add(ResourceId::new(Kind::Volume, key), config, format!("volumes.{key}"));
    }
    for (image, place) in lower_images(&mut context) {
        add(ResourceId::new(Kind::Image, &image.reference), Config::Image(image), place);
    }
    for (service, container) in &stack.containers {
        for number in 1..=container.replicas {
            let config = lower_container(&mut context, service, container, number);
            let depends_on = edges(stack, container);
            let start_first = container.update.order == spec::UpdateOrder::StartFirst;
            let id = config.id();
            let config = Config::Container(Box::new(config));
            let parallelism = container.update.parallelism.unwrap_or(1);
            let place = format!("containers.{service}");
            resources.insert(id, DesiredResource { config, depends_on, start_first, parallelism, place });
        }
    }
    context.errors.extend(collisions(&resources));
    if !context.errors.is_empty() {
        return Err(context.errors);
    }
    let not_honoured = not_honoured(&mut context, &resources);
    let locked = locked(stack, &resources);
    let notes = unlocked(stack, &resources)
        .map(|name| format!("{name} is not in {}: `stack apply` adds it", spec::lock::FILE))
        .collect();
    Ok(Desired {
        stack: name,
        resources,
        external: used.external(stack),
        not_honoured,
        notes,
        locked,
        places: Places::default(),
    })
}

fn locked(stack: &spec::Stack, resources: &BTreeMap<ResourceId, DesiredResource>) -> BTreeSet<String> {
    let images = pulled(resources).filter(|(_, reference, digest)| stack.pins.get(*reference) == *digest);
    images.filter(|(_, _, digest)| digest.is_some()).map(|(image, ..)| image.reference.clone()).collect()
}

/// Tags that a stack with a lock has and the lock has not.
fn unlocked<'a>(
    stack: &'a spec::Stack,
    resources: &'a BTreeMap<ResourceId, DesiredResource>,
) -> impl Iterator<Item = &'a str> {
    let tags =
        pulled(resources).filter(|(_, reference, digest)| digest.is_none() || stack.pins.contains_key(*reference));
    let missing = |reference: &&str| stack.lock.as_ref().is_some_and(|lock| !lock.images.contains_key(*reference));
    tags.map(|(_, reference, _)| reference).filter(missing)
}

/// The images of registries that are named by a tag: name there, and the digest where it is pinned elsewhere.
fn pulled(
    resources: &BTreeMap<ResourceId, DesiredResource>,
) -> impl Iterator<Item = (&ImageConfig, &str, Option<&String>)> {
    resources.values().filter_map(|resource| match &resource.config {
        Config::Image(image) => match &image.source {
            ImageSource::Pull { reference, digest } if !reference.contains('@') => {
                Some((image, reference.as_str(), digest.as_ref()))
            }
            _ => None,
        },
        _ => None,
    })
}

/// One line for each key that has no effect, in the words of the file's format.
fn not_honoured(context: &mut Context, resources: &BTreeMap<ResourceId, DesiredResource>) -> Vec<String> {
    for (id, resource) in resources {
        let place = match &resource.config {
            Config::Container(config) => format!("containers.{}", config.service),
            Config::Network(_) => format!("networks.{}", id.name),
            Config::Volume(_) => format!("volumes.{}", id.name),
            Config::Image(_) => format!("images.{}", id.name),
        };
        for one in (context.capabilities.unsupported)(&resource.config) {
            context.note(format!("{place}.{}", one.key), &one.reason);
        }
    }
    let section = context.stack.format.containers_key();
    let line = |(path, reason): (&String, &String)| match path.strip_prefix("containers.") {
        Some(rest) => format!("{section}.{rest}: {reason}"),
        None => format!("{path}: {reason}"),
    };
    context.notes.iter().map(line).collect()
}

/// Keys of the networks and volumes that are made. A Compose file's unused ones are not, as with Compose.
struct Used {
    networks: BTreeSet<String>,
    volumes: BTreeSet<String>,
}

impl Used {
    fn of(stack: &spec::Stack) -> Self {
        if stack.format == spec::Format::Native {
            return Self {
                networks: stack.networks.keys().cloned().collect(),
                volumes: stack.volumes.keys().cloned().collect(),
            };
        }
        let networks = stack.containers.values().flat_map(|it| it.networks.keys().cloned()).collect();
        let mounts = stack.containers.values().flat_map(|it| &it.mounts);
        let volumes = mounts.filter_map(|mount| match &mount.kind {
            spec::MountKind::Volume { name, .. } => name.clone(),
            _ => None,
        });
        Self { networks, volumes: volumes.collect() }
    }

    fn external(&self, stack: &spec::Stack) -> Vec<(Kind, String)> {
        let networks = stack.networks.iter().filter(|(key, it)| it.external && self.networks.contains(*key));
        let volumes = stack.volumes.iter().filter(|(key, it)| it.external && self.volumes.contains(*key));
        let networks = networks.map(|(_, it)| (Kind::Network, it.name.clone()));
        networks.chain(volumes.map(|(_, it)| (Kind::Volume, it.name.clone()))).collect()
    }
}

fn owned(labels: &BTreeMap<String, String>, stack: &str, kind_label: &str, key: &str) -> BTreeMap<String, String> {
    let mut labels = labels.clone();
    labels.insert(label::STACK.to_owned(), stack.to_owned());
    labels.insert(kind_label.to_owned(), key.to_owned());
    labels
}

fn lower_network(key: &str, network: &spec::Network, context: &mut Context) -> NetworkConfig {
    let path = |word: &str| format!("networks.{key}.{word}");
    let [four, six] = [false, true].map(|ipv6| {
        let mut pools = network.ipam.pools.iter().filter(|pool| pool.is_ipv6() == ipv6);
        (pools.next(), pools.next().is_some())
    });
    if four.1 || six.1 {
        context.note(path("ipam.config"), "only the first address pool of each family is used");
    }
    let (four, six) = (four.0, six.0);
    let (ipv4, ipv6) = (network.enable_ipv4 != Some(false), network.enable_ipv6.unwrap_or(six.is_some()));
    if four.is_some() && !ipv4 || six.is_some() && !ipv6 {
        context.note(path("ipam.config"), "the pool of a family that is not enabled is not used");
    }
    let (four, six) = (four.filter(|_| ipv4), six.filter(|_| ipv6));
    if network.ipam.driver.as_deref().is_some_and(|driver| driver != "default") {
        context.note(path("ipam.driver"), "addresses are managed by the engine's own rules");
    }
    if !network.ipam.options.is_empty() {
        context.note(path("ipam.options"), "addresses are managed by the engine's own rules");
    }
    let aux_addresses = [four, six].into_iter().flatten().flat_map(|pool| &pool.aux_addresses);
    let subnet = |pool: Option<&spec::IpamPool>| pool.and_then(|pool| pool.subnet).map(|it| it.to_string());
    let range = |pool: Option<&spec::IpamPool>| pool.and_then(|pool| pool.ip_range).map(|it| it.to_string());
    let gateway = |pool: Option<&spec::IpamPool>| pool.and_then(|pool| pool.gateway).map(|it| it.to_string());
    NetworkConfig {
        name: network.name.clone(),
        driver: network.driver.clone().unwrap_or_else(|| "bridge".to_owned()),
        options: network.driver_opts.clone(),
        internal: network.internal,
        ipv4,
        subnet: subnet(four),
        ip_range: range(four),
        gateway: gateway(four),
        ipv6,
        ipv6_subnet: subnet(six),
        ipv6_range: range(six),
        ipv6_gateway: gateway(six),
        aux_addresses: aux_addresses.map(|(what, address)| (what.clone(), address.to_string())).collect(),
        attachable: network.attachable,
        external: false,
        labels: owned(&network.labels, &context.stack.name, label::NETWORK, key),
    }
}

fn lower_volume(stack: &str, key: &str, volume: &spec::Volume) -> VolumeConfig {
    VolumeConfig {
        name: volume.name.clone(),
        driver: volume.driver.clone().unwrap_or_else(|| "local".to_owned()),
        driver_opts: volume.driver_opts.clone(),
        protect: volume.protect,
        external: false,
        labels: owned(&volume.labels, stack, label::VOLUME, key),
    }
}

/// The images that containers use, each once, with where it is declared; the one with the strictest pull policy wins.
fn lower_images(context: &mut Context) -> Vec<(ImageConfig, String)> {
    let mut images: BTreeMap<String, (ImageConfig, String)> = BTreeMap::new();
    let stack = context.stack;
    let with_hooks = stack.containers.iter().flat_map(|(service, container)| {
        let mounted = container.mounts.iter().filter_map(|mount| match &mount.kind {
            spec::MountKind::Image { reference, .. } => Some(reference.as_str()),
            _ => None,
        });
        let hooks = container.pre_start.iter().filter_map(|hook| hook.image.as_deref()).chain(mounted);
        // What runs before the container, or is mounted, is of the host's own platform.
        let own =
            move |name| spec::Container { image: image_of_hook(stack, name), platform: None, ..container.clone() };
        std::iter::once((service, Cow::Borrowed(container)))
            .chain(hooks.map(move |name| (service, Cow::Owned(own(name)))))
    });
    for (service, container) in with_hooks.filter(|(_, it)| it.replicas > 0) {
        let container = &*container;
        let image = match lower_image(context.stack, service, container, context.capabilities) {
            Ok(image) => image,
            Err(error) => {
                context.errors.push(error);
                continue;
            }
        };
        if matches!(container.pull_policy, spec::PullPolicy::Every { .. }) {
            context
                .notes
                .insert(format!("containers.{service}.pull_policy"), "intervals count as `missing`".to_owned());
        }
        let always = image.pull_policy == PullPolicy::Always;
        let place = || image_place(context.stack, service, &container.image);
        let (entry, _) = images.entry(image.reference.clone()).or_insert_with(|| (image.clone(), place()));
        match (&entry.source, &image.source) {
            (ImageSource::Build(first), ImageSource::Build(second)) if first != second => {
                let name = image.reference.clone();
                context.errors.push(LowerError::SameImage { container: service.clone(), name });
            }
            // Who only names it means the one that is built.
            (_, ImageSource::Build(_)) => entry.source = image.source,
            _ => {}
        }
        if always {
            entry.pull_policy = PullPolicy::Always;
        }
    }
    images.into_values().collect()
}

fn image_place(stack: &spec::Stack, service: &str, image: &spec::Image) -> String {
    match stack.images.iter().find(|(_, declared)| *declared == image) {
        Some((key, _)) => format!("images.{key}"),
        None if matches!(image.source, spec::ImageSource::Build(_)) => format!("containers.{service}.build"),
        None => format!("containers.{service}.image"),
    }
}

fn lower_image(
    stack: &spec::Stack,
    service: &str,
    container: &spec::Container,
    capabilities: &Capabilities,
) -> Result<ImageConfig, LowerError> {
    let platform = foreign_platform(container, capabilities);
    if let (Some(platform), spec::ImageSource::Build(_) | spec::ImageSource::Builtin(_)) =
        (&platform, &container.image.source)
    {
        let (container, platform) = (service.to_owned(), platform.clone());
        return Err(LowerError::Platform { container, platform, host: capabilities.platform.clone() });
    }
    let source = match &container.image.source {
        spec::ImageSource::Pull { reference, digest } => {
            ImageSource::Pull { reference: reference.clone(), digest: digest.clone() }
        }
        spec::ImageSource::Archive(path) => ImageSource::Archive(on_host(path)),
        spec::ImageSource::Rootfs(path) => ImageSource::Rootfs(on_host(path)),
        spec::ImageSource::Builtin(name) => ImageSource::Builtin(name.clone()),
        spec::ImageSource::Build(build) => {
            ImageSource::Build(Box::new(lower_build(stack, service, build, capabilities)?))
        }
    };
    let is_built = matches!(source, ImageSource::Build(_));
    let pull_policy = match container.pull_policy {
        spec::PullPolicy::Always => PullPolicy::Always,
        spec::PullPolicy::Build if is_built => PullPolicy::Always,
        spec::PullPolicy::Never => PullPolicy::Never,
        spec::PullPolicy::Missing | spec::PullPolicy::Every { .. } | spec::PullPolicy::Build => PullPolicy::Missing,
    };
    Ok(ImageConfig { reference: image_name(container, capabilities), source, pull_policy, platform })
}

/// The platform that the container asks for, where it is not the engine's own.
fn foreign_platform(container: &spec::Container, capabilities: &Capabilities) -> Option<String> {
    container.platform.clone().filter(|platform| *platform != capabilities.platform)
}

fn on_host(path: &std::path::Path) -> HostContent {
    HostContent { path: path.to_owned(), digest: String::new() }
}

/// The name that the store lists the image under. A pinned digest is part of it, as is a platform that is not the
/// engine's own: another one is another image.
pub(super) fn image_name(container: &spec::Container, capabilities: &Capabilities) -> String {
    let name = plain_name(&container.image);
    match foreign_platform(container, capabilities) {
        Some(platform) => format!("{name} ({platform})"),
        None => name,
    }
}

fn edges(stack: &spec::Stack, container: &spec::Container) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (service, dependency) in &container.depends_on {
        let replicas = stack.containers.get(service).map_or(0, |it| it.replicas);
        let condition = match dependency.condition {
            spec::Condition::Started => Condition::Started,
            spec::Condition::Healthy => Condition::Healthy,
            spec::Condition::CompletedSuccessfully => Condition::CompletedSuccessfully,
        };
        edges.extend((1..=replicas).map(|number| Edge {
            on: ResourceId::new(Kind::Container, format!("{service}-{number}")),
            condition,
            restart: dependency.restart,
            required: dependency.required,
        }));
    }
    edges
}

/// Two containers that want one name or one port of the host.
fn collisions(resources: &BTreeMap<ResourceId, DesiredResource>) -> Vec<LowerError> {
    let mut errors = Vec::new();
    let mut names: BTreeMap<&str, &ResourceId> = BTreeMap::new();
    let mut ports: Vec<(&Port, &ResourceId)> = Vec::new();
    for (id, resource) in resources {
        let Config::Container(config) = &resource.config else { continue };
        if let Some(first) = names.insert(&config.name, id) {
            errors.push(LowerError::SameName {
                first: first.name.clone(),
                second: id.name.clone(),
                name: config.name.clone(),
            });
        }
        for port in config.ports.iter().filter(|port| port.published != 0) {
            if let Some((_, first)) = ports.iter().find(|(other, _)| clash(port, other)) {
                errors.push(LowerError::SamePort {
                    first: first.name.clone(),
                    second: id.name.clone(),
                    port: port.to_string(),
                });
            }
            ports.push((port, id));
        }
    }
    errors
}

/// Both can't be published on one host.
pub(crate) fn clash(one: &Port, other: &Port) -> bool {
    let address = match (&one.host_ip, &other.host_ip) {
        (None, _) | (_, None) => true,
        (Some(one), Some(other)) => {
            let every = |ip: &String| ip == "0.0.0.0" || ip == "::";
            one == other || one.contains(':') == other.contains(':') && (every(one) || every(other))
        }
    };
    one.published != 0 && one.published == other.published && one.protocol == other.protocol && address
}

/// The name on the engine of one replica of a service.
pub(super) fn container_name(stack: &spec::Stack, service: &str, number: u32) -> String {
    let fixed = stack.containers.get(service).and_then(|container| container.container_name.clone());
    fixed.unwrap_or_else(|| format!("{}-{service}-{number}", stack.name))
}

/// As [`image_name`], for the engine's own platform.
pub(super) fn plain_name(image: &spec::Image) -> String {
    match &image.source {
        spec::ImageSource::Pull { digest: Some(digest), .. } if !image.reference.contains('@') => {
            format!("{}@{digest}", image.reference)
        }
        _ => image.reference.clone(),
    }
}

/// A declared image by its name, a built-in one, or a reference.
pub(super) fn image_of_hook(stack: &spec::Stack, name: &str) -> spec::Image {
    let reference = name.to_owned();
    match (stack.images.get(name), name.strip_prefix("builtin:")) {
        (Some(image), _) => image.clone(),
        (None, Some(builtin)) => spec::Image { reference, source: spec::ImageSource::Builtin(builtin.to_owned()) },
        (None, None) => {
            let source = spec::ImageSource::Pull { reference: reference.clone(), digest: None };
            let mut image = spec::Image { reference, source };
            image.pin(&stack.pins);
            image
        }
    }
}

/// The value of [`label::DEPENDS_ON`].
pub(super) fn depends_on_label(container: &spec::Container) -> Option<String> {
    let word = |condition| match condition {
        spec::Condition::Started => "service_started",
        spec::Condition::Healthy => "service_healthy",
        spec::Condition::CompletedSuccessfully => "service_completed_successfully",
    };
    let parts = container.depends_on.iter();
    let optional = |required: bool| if required { "" } else { ":optional" };
    let part = |name: &str, it: &spec::Dependency| {
        format!("{name}:{}:{}{}", word(it.condition), it.restart, optional(it.required))
    };
    let parts: Vec<String> = parts.map(|(name, it)| part(name, it)).collect();
    (!parts.is_empty()).then(|| parts.join(","))
}

pub(super) fn named_replicas(service: &str, container: &spec::Container) -> Option<LowerError> {
    (container.container_name.is_some() && container.replicas > 1)
        .then(|| LowerError::NamedReplicas { container: service.to_owned(), replicas: container.replicas })
}
