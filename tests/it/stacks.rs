//! Small stacks for tests, as values.

use std::collections::BTreeMap;

use stack::engine::simulated::Simulated;
use stack::reconcile::desired::{Desired, lower};
use stack::reconcile::engine::{Capabilities, Health, Observed, ObservedResource, Phase, RunState, linux_change};
use stack::reconcile::facts::{Files, hash};
use stack::reconcile::resource::Config;
use stack::spec::{
    Condition, Container, Dependency, Format, HealthTest, Healthcheck, Image, ImageSource, Mount, MountKind, Network,
    NetworkAttachment, Port, PortMode, PortRange, Protocol, Spans, Stack, Volume,
};

/// A stack named `shop` with these containers; networks and volumes that they use are declared.
pub fn stack<const N: usize>(containers: [(&str, Container); N]) -> Stack {
    let mut stack = Stack {
        name: "shop".to_owned(),
        format: Format::Native,
        images: BTreeMap::new(),
        containers: containers.into_iter().map(|(name, container)| (name.to_owned(), container)).collect(),
        disabled: Vec::new(),
        networks: BTreeMap::new(),
        volumes: BTreeMap::new(),
        configs: BTreeMap::new(),
        secrets: BTreeMap::new(),
        not_honoured: Vec::new(),
        directory: "/shop".into(),
        files: vec!["/shop/stack.yaml".into()],
        policy: None,
        lock: None,
        pins: BTreeMap::new(),
        spans: Spans::default(),
    };
    declare_used(&mut stack);
    stack
}

/// Declares networks and volumes that containers use and that are not declared yet.
pub fn declare_used(stack: &mut Stack) {
    for container in stack.containers.values() {
        for key in container.networks.keys() {
            let network = Network { name: format!("shop_{key}"), ..Network::default() };
            stack.networks.entry(key.clone()).or_insert(network);
        }
        for mount in &container.mounts {
            if let MountKind::Volume { name: Some(key), .. } = &mount.kind {
                let volume = Volume { name: format!("shop_{key}"), ..Volume::default() };
                stack.volumes.entry(key.clone()).or_insert(volume);
            }
        }
    }
}

/// One replica of nginx:1.27 without networks.
pub fn container() -> Container {
    image(Container { replicas: 1, ..Container::default() }, "nginx:1.27")
}

pub fn image(mut container: Container, reference: &str) -> Container {
    let source = ImageSource::Pull { reference: reference.to_owned(), digest: None };
    container.image = Image { reference: reference.to_owned(), source };
    container
}

pub fn replicas(mut container: Container, replicas: u32) -> Container {
    container.replicas = replicas;
    container
}

pub fn on_network(mut container: Container, network: &str) -> Container {
    container.networks.insert(network.to_owned(), NetworkAttachment::default());
    container
}

pub fn with_volume(mut container: Container, volume: &str) -> Container {
    let kind =
        MountKind::Volume { name: Some(volume.to_owned()), nocopy: false, subpath: None, labels: BTreeMap::new() };
    container.mounts.push(Mount {
        target: format!("/{volume}"),
        read_only: false,
        on_change: Default::default(),
        kind,
    });
    container
}

pub fn with_port(mut container: Container, published: u16) -> Container {
    container.ports.push(Port {
        host_ip: None,
        published: Some(PortRange { start: published, end: published }),
        target: 80,
        protocol: Protocol::Tcp,
        mode: PortMode::Ingress,
        app_protocol: None,
        name: None,
    });
    container
}

pub fn needs(mut container: Container, on: &str, condition: Condition) -> Container {
    container.depends_on.insert(on.to_owned(), Dependency { condition, restart: false, required: true });
    container
}

pub fn restarts_with(mut container: Container, on: &str) -> Container {
    let dependency = Dependency { condition: Condition::Started, restart: true, required: true };
    container.depends_on.insert(on.to_owned(), dependency);
    container
}

pub fn checked(mut container: Container) -> Container {
    let test = HealthTest::Shell("true".to_owned());
    container.healthcheck = Some(Healthcheck { test, ..Healthcheck::default() });
    container
}

/// The container after a change, for tables.
pub fn with(mut container: Container, change: impl FnOnce(&mut Container)) -> Container {
    change(&mut container);
    container
}

pub fn capabilities() -> Capabilities {
    Capabilities {
        name: "simulated",
        platform: "linux/amd64".to_owned(),
        change: linux_change,
        renames: true,
        not_honoured: Vec::new(),
        unsupported: |_| Vec::new(),
    }
}

pub fn desired(stack: &Stack) -> Desired {
    lower(stack, &capabilities(), &Files::new()).unwrap()
}

/// The world in which this stack was just applied and everything runs.
pub fn applied(stack: &Stack) -> Observed {
    let mut observed = Observed::default();
    for (id, resource) in desired(stack).resources {
        let mut config = resource.config;
        let mut run = None;
        match &mut config {
            Config::Image(image) => {
                observed.digests.insert(image.reference.clone(), digest(&image.reference));
                continue;
            }
            Config::Container(container) => {
                container.image_digest = digest(&container.image);
                let health = if container.healthcheck.is_some() { Health::Healthy } else { Health::None };
                run = Some(RunState::Running { health });
            }
            Config::Network(_) | Config::Volume(_) => {}
        }
        observed.resources.insert(id, ObservedResource { phase: Phase::Created, config, run, drift: Vec::new() });
    }
    observed
}

/// What the simulated registry serves under this name.
pub fn digest(reference: &str) -> String {
    format!("sha256:{}", hash(reference.as_bytes()))
}

/// A world, shared as executing wants it.
pub fn world() -> std::sync::Arc<Simulated> {
    std::sync::Arc::new(Simulated::new())
}
