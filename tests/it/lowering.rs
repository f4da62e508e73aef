//! From a stack to resources: names, defaults, edges, contents, and what can't be.

use std::collections::BTreeMap;
use std::path::PathBuf;

use stack::reconcile::desired::{files, lower};
use stack::reconcile::diff::diff;
use stack::reconcile::engine::{Capabilities, Ignored};
use stack::reconcile::facts::{FileFacts, Files, hash};
use stack::reconcile::resource::{Config, ContainerConfig, Kind, NetworkMode, ResourceId, label};
use stack::spec::{
    self, Build, BuildContext, Condition, Container, ContainerReference, FileGrant, FileObject, FileSource, Format,
    ImageSource, Mount, MountKind, Stack, VolumesFrom,
};

use crate::stacks::{
    capabilities, container, desired, image, needs, on_network, replicas, stack, with, with_port, with_volume,
};

fn config(shop: &Stack, name: &str) -> Box<ContainerConfig> {
    match &desired(shop).resources[&ResourceId::new(Kind::Container, name)].config {
        Config::Container(config) => config.clone(),
        other => panic!("{other:?}"),
    }
}

fn errors(shop: &Stack, files: &Files) -> Vec<String> {
    lower(shop, &capabilities(), files).unwrap_err().iter().map(ToString::to_string).collect()
}

fn ids(shop: &Stack) -> Vec<String> {
    desired(shop).resources.keys().map(ToString::to_string).collect()
}

fn names(mode: &NetworkMode) -> Vec<&str> {
    match mode {
        NetworkMode::Networks(endpoints) => endpoints.keys().map(String::as_str).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_follow_compose() {
    let web = replicas(on_network(with_volume(container(), "data"), "back"), 2);
    let fixed = with(container(), |it| it.container_name = Some("the-db".into()));
    let shop = stack([("db", fixed), ("web", web)]);
    assert_eq!(
        ids(&shop),
        ["image/nginx:1.27", "network/back", "volume/data", "container/db-1", "container/web-1", "container/web-2"]
    );
    assert_eq!(config(&shop, "db-1").name, "the-db");
    let web = config(&shop, "web-2");
    assert_eq!((web.name.as_str(), names(&web.network)), ("shop-web-2", vec!["shop_back"]));
}

#[test]
fn labels_are_those_that_other_tools_key_on() {
    let web = config(&stack([("db", container()), ("web", needs(container(), "db", Condition::Healthy))]), "web-1");
    let label = |name: &str| web.labels[name].as_str();
    assert_eq!((label(label::STACK), label(label::SERVICE), label(label::NUMBER)), ("shop", "web", "1"));
    assert_eq!((label(label::ONEOFF), label(label::DEPENDS_ON)), ("False", "db:service_healthy:false"));
    assert_eq!(label(label::CONFIG_HASH).len(), 64);
}

#[test]
fn the_config_hash_changes_with_the_configuration_alone() {
    let hash = |it: Container| config(&stack([("web", it)]), "web-1").labels[label::CONFIG_HASH].clone();
    assert_eq!(hash(container()), hash(container()));
    assert_ne!(hash(container()), hash(with(container(), |it| it.tty = true)));
}

#[test]
fn sharing_names_the_first_replica() {
    let side = with(needs(container(), "web", Condition::Started), |it| {
        it.network_mode = spec::NetworkMode::Service("web".into());
        it.pid = Some(spec::NamespaceMode::Service("web".into()));
    });
    let side = config(&stack([("side", side), ("web", container())]), "side-1");
    assert_eq!(side.network, NetworkMode::Container("shop-web-1".into()));
    assert_eq!(side.pid, stack::reconcile::resource::NamespaceMode::Container("shop-web-1".into()));
}

#[test]
fn edges_reach_every_replica() {
    let shop = stack([("db", replicas(container(), 2)), ("web", needs(container(), "db", Condition::Healthy))]);
    let edges = &desired(&shop).resources[&ResourceId::new(Kind::Container, "web-1")].depends_on;
    let on: Vec<String> = edges.iter().map(|edge| edge.on.to_string()).collect();
    assert_eq!(on, ["container/db-1", "container/db-2"]);
}

#[test]
fn port_ranges_are_shared_out_among_replicas() {
    let ranged = with(replicas(with_port(container(), 8000), 3), |it| {
        it.ports[0].published = Some(spec::PortRange { start: 8000, end: 8002 });
    });
    let shop = stack([("web", ranged)]);
    let ports = ["web-1", "web-2", "web-3"].map(|name| config(&shop, name).ports[0].published);
    assert_eq!(ports, [8000, 8001, 8002]);
}

#[test]
fn volumes_from_lends_mounts() {
    let borrower = with(needs(container(), "db", Condition::Started), |it| {
        it.volumes_from.push(VolumesFrom { source: ContainerReference::Service("db".into()), read_only: true });
    });
    let web = config(&stack([("db", with_volume(container(), "data")), ("web", borrower)]), "web-1");
    assert_eq!((web.mounts[0].target.as_str(), web.mounts[0].read_only), ("/data", true));
}

#[test]
fn a_pinned_digest_is_part_of_the_name() {
    let pinned = with(container(), |it| {
        it.image.source = ImageSource::Pull { reference: "nginx:1.27".into(), digest: Some("sha256:ab".into()) };
    });
    assert_eq!(config(&stack([("web", pinned)]), "web-1").image, "nginx:1.27@sha256:ab");
}

#[test]
fn only_used_images_are_wanted_and_compose_makes_only_used_networks() {
    let mut shop = stack([("web", on_network(replicas(image(container(), "nginx:1"), 0), "back"))]);
    assert_eq!(ids(&shop), ["network/back"]);
    shop.containers.get_mut("web").unwrap().networks.clear();
    assert_eq!(ids(&shop), ["network/back"]);
    shop.format = Format::Compose;
    assert_eq!(ids(&shop), Vec::<String>::new());
}

#[test]
fn external_things_are_no_resources() {
    let mut shop = stack([("web", with_volume(on_network(container(), "back"), "data"))]);
    shop.networks.get_mut("back").unwrap().external = true;
    shop.volumes.get_mut("data").unwrap().external = true;
    let desired = desired(&shop);
    assert_eq!(desired.external, [(Kind::Network, "shop_back".into()), (Kind::Volume, "shop_data".into())]);
    assert_eq!(ids(&shop), ["image/nginx:1.27", "container/web-1"]);
}

/// A stack whose container has a config from a file, a secret from the environment, and a file bound into it.
fn with_files() -> Stack {
    let grant = |source: &str| FileGrant {
        source: source.into(),
        target: format!("/run/{source}"),
        uid: None,
        gid: None,
        mode: None,
        on_change: None,
    };
    let web = with(container(), |it| {
        it.configs.push(grant("settings"));
        it.secrets.push(grant("token"));
        let kind = MountKind::Bind {
            source: "/shop/nginx.conf".into(),
            create_host_path: false,
            propagation: Default::default(),
            recursive: Default::default(),
            selinux: None,
        };
        it.mounts.push(Mount {
            target: "/etc/nginx.conf".into(),
            read_only: true,
            on_change: Default::default(),
            kind,
        });
    });
    let mut shop = stack([("web", web)]);
    let object = |source| FileObject { name: "x".into(), source, labels: BTreeMap::new(), on_change: None };
    shop.configs.insert("settings".into(), object(FileSource::File("/shop/settings".into())));
    let value = FileSource::Environment { variable: "TOKEN".into(), value: "hush".into() };
    shop.secrets.insert("token".into(), object(value));
    shop
}

fn facts(settings: &str, nginx: &str) -> Files {
    let content = |path: &str, text: &str| (PathBuf::from(path), FileFacts::Content { hash: hash(text.as_bytes()) });
    Files::from([content("/shop/settings", settings), content("/shop/nginx.conf", nginx)])
}

#[test]
fn content_counts() {
    let shop = with_files();
    let wanted: Vec<PathBuf> = files(&shop).into_iter().collect();
    assert_eq!(wanted, [PathBuf::from("/shop/nginx.conf"), PathBuf::from("/shop/settings")]);
    let lowered = |settings: &str, nginx: &str| {
        let desired = lower(&shop, &capabilities(), &facts(settings, nginx)).unwrap();
        desired.resources[&ResourceId::new(Kind::Container, "web-1")].config.clone()
    };
    let changed = |settings: &str, nginx: &str| {
        diff(&lowered("a", "a"), &lowered(settings, nginx)).into_iter().map(|it| it.path).collect::<Vec<_>>()
    };
    assert_eq!(changed("a", "a"), Vec::<String>::new());
    assert_eq!(changed("b", "a"), ["files./run/settings.content_hash"]);
    assert_eq!(changed("a", "b"), ["bind_contents./etc/nginx.conf"]);
}

#[test]
fn secrets_are_written_nowhere() {
    let desired = lower(&with_files(), &capabilities(), &facts("a", "a")).unwrap();
    let configs: Vec<&Config> = desired.resources.values().map(|it| &it.config).collect();
    assert!(!serde_json::to_string(&configs).unwrap().contains("hush"));
}

#[test]
fn what_cannot_be_is_told_all_at_once() {
    let remote = Build { context: BuildContext::Remote("https://example.com/x.git".into()), ..Build::default() };
    let build = with(container(), |it| it.image.source = ImageSource::Build(Box::new(remote)));
    let named = with(replicas(container(), 2), |it| it.container_name = Some("x".into()));
    let lost = with(on_network(container(), "gone"), |it| it.ports = with_port(container(), 80).ports);
    let mut shop = stack([("build", build), ("named", named), ("lost", lost), ("web", with_port(container(), 80))]);
    shop.networks.clear();
    let mut found = errors(&shop, &Files::new());
    found.sort();
    assert_eq!(
        found,
        [
            "container build: the context of its image's build is not a directory of this host",
            "container lost: network `gone` is not declared",
            "container named: `container_name` gives one name, but there are 2 replicas",
            "containers lost-1 and web-1 both want the host's port 80:80/tcp",
            "containers named-1 and named-2 would both be named `x`",
        ]
    );
    let message = "container web: config `settings` can't be read: /shop/settings: no such file";
    assert_eq!(errors(&with_files(), &Files::new()), [message]);
}

#[test]
fn what_has_no_effect_is_noted() {
    let runtime = Ignored { key: "runtime", is_set: |it| it.runtime.is_some(), reason: "there is one runtime" };
    let engine = Capabilities { not_honoured: vec![runtime], ..capabilities() };
    let web = with(container(), |it| {
        it.runtime = Some("runsc".into());
        it.storage_opt.insert("size".into(), "1g".into());
    });
    let desired = lower(&stack([("web", web), ("plain", container())]), &engine, &Files::new()).unwrap();
    assert_eq!(
        desired.not_honoured,
        [
            "containers.web.runtime: there is one runtime",
            "containers.web.storage_opt: the file system of a container has no options",
        ]
    );
}
