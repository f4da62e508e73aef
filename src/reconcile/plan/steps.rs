//! From decisions to steps, and the edges between them.
//!
//! The rules of order: images first and all at once; whatever can be looked at beforehand is looked at before anything
//! that runs is stopped; a thing is made after what it needs and removed after what needs it; dependents stop before
//! their dependencies and start after them.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::graph::NodeIndex;

use super::decide::{
    Decision, Decisions, Fate, completed, is_live, names, shared_namespaces, uses_network, uses_volume,
};
use super::graph::{Do, Graph};
use super::{PlanOptions, destroy::label_edges, places};
use crate::reconcile::desired::{Desired, DesiredResource, Edge, clash};
use crate::reconcile::engine::{Action, Check, Condition, Health, Observed, RunState};
use crate::reconcile::resource::{
    BuildContext, Config, ContainerConfig, ImageSource, Kind, MountSource, NetworkConfig, NetworkMode, RETIRED_SUFFIX,
    ResourceId,
};
use crate::spec::network_driver;

/// The first step that takes something away from what runs.
const DISRUPTION: [Do; 3] = [Do::Rename, Do::Stop, Do::Remove];

/// What a container's own steps wait for.
const CHECKS: [Do; 4] = [Do::CheckPorts, Do::CheckSources, Do::CheckUser, Do::CheckProgram];

struct Planner<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    decisions: &'a Decisions,
    options: &'a PlanOptions,
    graph: Graph,
}

pub(super) fn steps(desired: &Desired, observed: &Observed, decisions: &Decisions, options: &PlanOptions) -> Graph {
    let mut planner = Planner { desired, observed, decisions, options, graph: Graph::default() };
    planner.add_nodes();
    planner.image_edges();
    planner.creation_edges();
    planner.removal_edges();
    planner.dependency_edges();
    planner.check_edges();
    planner.port_edges();
    planner.retirement();
    planner.waits();
    planner.stop_order();
    planner.rolling();
    planner.graph
}

impl Planner<'_> {
    fn add_nodes(&mut self) {
        for (id, decision) in self.decisions.iter().filter(|(_, it)| it.is_change() && it.fate != Fate::Refuse) {
            self.check_nodes(id, decision);
            self.resource_nodes(id, decision);
        }
    }

    fn check_nodes(&mut self, id: &ResourceId, decision: &Decision) {
        if let Config::Network(config) = &decision.config {
            self.network_check_node(id, decision, config);
        }
        let Config::Container(config) = &decision.config else { return };
        if !decision.start {
            return;
        }
        if config.ports.iter().any(|port| port.published != 0) {
            let check = Check::PortsFree { container: config.clone(), freed: self.freed() };
            self.graph.add(id, Do::CheckPorts, Action::Check { check });
        }
        let binds = config.mounts.iter().any(|mount| matches!(mount.source, MountSource::Bind { .. }));
        if binds || !config.files.is_empty() || !config.devices.is_empty() {
            let check = Check::SourcesReadable { container: config.clone() };
            self.graph.add(id, Do::CheckSources, Action::Check { check });
        }
        self.image_check_nodes(id, decision, config);
        for (kind, name) in self.desired.external.iter().filter(|(kind, name)| uses(config, *kind, name)) {
            let id = external_id(*kind, name);
            if self.graph.get(&id, Do::CheckExternal).is_none() {
                let check = Check::External { kind: *kind, name: name.clone() };
                self.graph.add(&id, Do::CheckExternal, Action::Check { check });
            }
        }
    }

    /// A bridge can be made anywhere; others need something that is the host's.
    fn network_check_node(&mut self, id: &ResourceId, decision: &Decision, config: &NetworkConfig) {
        let is_of_host = network_driver::options(&config.driver).is_some();
        if is_of_host && matches!(decision.fate, Fate::Create | Fate::Replace { .. }) {
            let check = Check::NetworkPossible { network: Box::new(config.clone()) };
            self.graph.add(id, Do::CheckNetwork, Action::Check { check });
        }
    }

    /// Only where something that runs is stopped: else the making and the start of the container say the same.
    fn image_check_nodes(&mut self, id: &ResourceId, decision: &Decision, config: &ContainerConfig) {
        let is_made = matches!(decision.fate, Fate::Create | Fate::Replace { .. });
        if !is_made || !self.decisions.values().any(Decision::disrupts) {
            return;
        }
        let container = || Box::new(config.clone());
        if config.user.is_some() || !config.group_add.is_empty() {
            let check = Check::UserKnown { container: container() };
            self.graph.add(id, Do::CheckUser, Action::Check { check });
        }
        let check = Check::ProgramPresent { container: container() };
        self.graph.add(id, Do::CheckProgram, Action::Check { check });
    }

    /// Names of the containers that give up their ports in this plan.
    fn freed(&self) -> Vec<String> {
        let freed = self.decisions.iter().filter(|(_, decision)| decision.disrupts());
        freed.filter_map(|(id, _)| Some(self.found(id)?.name.clone())).collect()
    }

    fn resource_nodes(&mut self, id: &ResourceId, decision: &Decision) {
        let config = || decision.config.clone();
        if decision.repair {
            self.graph.add(id, Do::Repair, Action::Repair { id: id.clone(), config: config() });
        }
        match decision.fate {
            Fate::Keep | Fate::Refuse => {}
            Fate::Pull | Fate::Create => {
                self.graph.add(id, Do::Create, Action::Create { id: id.clone(), config: config() });
            }
            Fate::Update => self.update_node(id, decision),
            Fate::Restart => {
                self.stop_node(id);
                if !decision.fields.is_empty() {
                    self.update_node(id, decision);
                }
            }
            Fate::Replace { start_first: true } => self.start_first_nodes(id, config()),
            Fate::Replace { start_first: false } => {
                self.stop_node(id);
                match places::successor(id, decision, self.observed, self.decisions) {
                    Some(config) => {
                        let action = Action::Vacate { id: id.clone(), config: Box::new(config.clone()) };
                        self.graph.add(id, Do::Remove, action);
                    }
                    None => self.remove_node(id),
                }
                self.graph.add(id, Do::Create, Action::Create { id: id.clone(), config: config() });
            }
            Fate::Remove => {
                self.stop_node(id);
                self.remove_node(id);
            }
        }
        self.start_node(id, decision);
        self.chain(id, decision.fate);
    }

    fn start_node(&mut self, id: &ResourceId, decision: &Decision) {
        let Config::Container(config) = &decision.config else { return };
        if decision.start && decision.fate != Fate::Remove {
            self.graph.add(id, Do::Start, Action::Start { id: id.clone(), name: config.name.clone() });
        }
    }

    fn update_node(&mut self, id: &ResourceId, decision: &Decision) {
        let fields = decision.fields.iter().map(|field| field.path.clone()).collect();
        self.graph.add(id, Do::Update, Action::Update { id: id.clone(), config: decision.config.clone(), fields });
    }

    fn stop_node(&mut self, id: &ResourceId) {
        let live = self.observed.resources.get(id).and_then(|found| found.run.as_ref()).is_some_and(is_live);
        if let Some(config) = self.found(id).filter(|_| live) {
            let name = config.name.clone();
            self.graph.add(id, Do::Stop, Action::Stop { id: id.clone(), name });
        }
    }

    fn remove_node(&mut self, id: &ResourceId) {
        if let Some(found) = self.observed.resources.get(id) {
            self.graph.add(id, Do::Remove, Action::Remove { id: id.clone(), config: found.config.clone() });
        }
    }

    /// The old one steps aside under another name, and goes when the new one is there.
    fn start_first_nodes(&mut self, id: &ResourceId, config: Config) {
        let Some(mut old) = self.found(id).cloned() else { return };
        let from = old.name.clone();
        old.name = format!("{from}{RETIRED_SUFFIX}");
        let (old_id, name) = (old.id(), old.name.clone());
        self.graph.add(id, Do::Rename, Action::Rename { id: id.clone(), from, to: name.clone() });
        self.graph.add(id, Do::Create, Action::Create { id: id.clone(), config });
        self.graph.add(id, Do::Stop, Action::Stop { id: old_id.clone(), name });
        let config = Config::Container(Box::new(old));
        self.graph.add(id, Do::Remove, Action::Remove { id: old_id, config });
    }

    /// The steps of one resource, each after the one before.
    fn chain(&mut self, id: &ResourceId, fate: Fate) {
        let start_first = [Do::Rename, Do::Create, Do::Start, Do::Stop, Do::Remove];
        let stop_first = [Do::Repair, Do::Stop, Do::Remove, Do::Create, Do::Update, Do::Start];
        let order = if fate == (Fate::Replace { start_first: true }) { &start_first[..] } else { &stop_first[..] };
        let nodes: Vec<NodeIndex> = order.iter().filter_map(|what| self.graph.get(id, *what)).collect();
        for pair in nodes.windows(2) {
            self.graph.require(Some(pair[1]), Some(pair[0]));
        }
        if fate == (Fate::Replace { start_first: true }) {
            let healthy = self.wait_node(id, Condition::Healthy);
            self.graph.require(self.graph.get(id, Do::Stop), healthy);
        }
    }

    /// An image that is built from another one of the stack comes after it.
    fn image_edges(&mut self) {
        let images = self.desired.resources.iter().filter_map(|(id, resource)| match &resource.config {
            Config::Image(image) => Some((id, image)),
            _ => None,
        });
        for (id, image) in images.clone() {
            let ImageSource::Build(build) = &image.source else { continue };
            for (other, base) in images.clone().filter(|(other, _)| *other != id) {
                let is_used = |context: &BuildContext| *context == BuildContext::Image(base.reference.clone());
                if build.contexts.values().any(is_used) {
                    self.graph.require(self.graph.get(id, Do::Create), self.graph.get(other, Do::Create));
                }
            }
        }
    }

    /// Images, networks and volumes before the containers that use them, and containers before those that live in their
    /// namespaces: whose ids these have is settled when they are made.
    fn creation_edges(&mut self) {
        let names = names(self.desired);
        for (id, config) in self.changing_containers() {
            for owner in shared_namespaces(&config).into_iter().filter_map(|name| names.get(name)) {
                self.graph.require(self.graph.get(&id, Do::Create), self.graph.get(owner, Do::Create));
            }
            let makers = [Do::Create, Do::Update, Do::Repair, Do::Start];
            for (other, needed) in self.desired.resources.iter().filter(|(_, it)| needs(&config, &it.config)) {
                debug_assert!(matches!(needed.config, Config::Image(_) | Config::Network(_) | Config::Volume(_)));
                for earlier in [Do::Create, Do::Update, Do::Repair] {
                    let earlier = self.graph.get(other, earlier);
                    self.graph.require(self.graph.first(&id, &makers), earlier);
                    self.graph.require(self.graph.get(&id, Do::Start), earlier);
                }
            }
            for (kind, name) in self.desired.external.iter().filter(|(kind, name)| uses(&config, *kind, name)) {
                let check = self.graph.get(&external_id(*kind, name), Do::CheckExternal);
                self.graph.require(self.graph.get(&id, Do::Create), check);
            }
            let image = self.graph.get(&ResourceId::new(Kind::Image, &config.image), Do::Create);
            for check in [Do::CheckUser, Do::CheckProgram] {
                self.graph.require(self.graph.get(&id, check), image);
            }
            for check in CHECKS {
                let check = self.graph.get(&id, check);
                self.graph.require(self.graph.get(&id, Do::Create), check);
                self.graph.require(self.graph.get(&id, Do::Start), check);
            }
        }
    }

    /// Networks and volumes go after the containers that hold them; names are free before they are taken again.
    fn removal_edges(&mut self) {
        for (id, config) in self.found_containers() {
            let released = self.graph.first(&id, &[Do::Remove, Do::Update]);
            let holds = self.observed.resources.iter().filter(|(_, it)| needs(&config, &it.config));
            for (other, _) in holds.filter(|(other, _)| other.kind != Kind::Image) {
                self.graph.require(self.graph.get(other, Do::Remove), released);
            }
            for (taker, wanted) in self.changing_containers().into_iter().filter(|(taker, _)| *taker != id) {
                if wanted.name == config.name {
                    self.graph.require(self.graph.get(&taker, Do::Create), self.graph.get(&id, Do::Remove));
                }
            }
        }
    }

    fn dependency_edges(&mut self) {
        let names = names(self.desired);
        for (id, resource) in self.desired.resources.iter().filter(|(id, _)| id.kind == Kind::Container) {
            let Some(start) = self.graph.get(id, Do::Start) else { continue };
            for edge in &resource.depends_on {
                let ready = self.ready(edge);
                if edge.required {
                    self.graph.require(Some(start), ready);
                } else {
                    self.graph.order(Some(start), ready);
                }
            }
            let Config::Container(config) = &resource.config else { continue };
            if config.number > 1 && config.pre_start.iter().any(|hook| !hook.per_replica) {
                // What runs once for all replicas runs with the first.
                let first = ResourceId::new(Kind::Container, format!("{}-1", config.service));
                self.graph.require(Some(start), self.graph.get(&first, Do::Start));
            }
            for owner in shared_namespaces(config).into_iter().filter_map(|name| names.get(name)) {
                self.graph.require(Some(start), self.graph.get(owner, Do::Start));
            }
        }
    }

    /// The step after which the condition holds; `None` where it holds already.
    fn ready(&mut self, edge: &Edge) -> Option<NodeIndex> {
        let start = self.graph.get(&edge.on, Do::Start);
        if edge.condition == Condition::Started || (start.is_none() && self.holds(&edge.on, edge.condition)) {
            return start;
        }
        self.wait_node(&edge.on, edge.condition)
    }

    fn holds(&self, id: &ResourceId, condition: Condition) -> bool {
        let Some(run) = self.observed.resources.get(id).and_then(|found| found.run.as_ref()) else { return false };
        let done = self.found(id).is_some_and(|config| completed(config, run));
        match condition {
            Condition::Started => is_live(run) || done,
            Condition::Healthy => done || matches!(run, RunState::Running { health: Health::Healthy | Health::None }),
            Condition::CompletedSuccessfully => matches!(run, RunState::Exited { code: 0, .. }),
        }
    }

    /// Waits for the condition, after the start if there is one.
    fn wait_node(&mut self, id: &ResourceId, condition: Condition) -> Option<NodeIndex> {
        let what = Do::Wait(condition.into());
        if let Some(node) = self.graph.get(id, what) {
            return Some(node);
        }
        let Config::Container(config) = &self.decisions.get(id)?.config else { return None };
        let action = Action::Wait { id: id.clone(), name: config.name.clone(), condition };
        let node = self.graph.add(id, what, action);
        let start = self.graph.first(id, &[Do::Start, Do::Update]);
        self.graph.require(Some(node), start);
        Some(node)
    }

    /// Nothing that runs is touched before all that can be looked at has been. What is stopped for the sake of something
    /// requires that its checks and images succeeded; those of others only come first.
    fn check_edges(&mut self) {
        let looks: BTreeMap<&ResourceId, Vec<NodeIndex>> = self.looks();
        let all: Vec<NodeIndex> = looks.values().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let disruptions: Vec<(ResourceId, NodeIndex)> = self
            .decisions
            .iter()
            .filter(|(_, it)| it.disrupts())
            .filter_map(|(id, _)| Some((id.clone(), self.graph.first(id, &DISRUPTION)?)))
            .collect();
        let mut required = Vec::new();
        for (id, node) in &disruptions {
            let connected = self.touched_dependencies(id);
            required.extend(connected.iter().filter_map(|it| looks.get(it)).flatten().map(|look| (*node, *look)));
        }
        for (_, node) in &disruptions {
            for look in &all {
                self.graph.order(Some(*node), Some(*look));
            }
        }
        for (node, look) in required {
            self.graph.require(Some(node), Some(look));
        }
    }

    /// Checks and pulls, by the container that needs them.
    fn looks(&self) -> BTreeMap<&ResourceId, Vec<NodeIndex>> {
        let mut looks: BTreeMap<&ResourceId, Vec<NodeIndex>> = BTreeMap::new();
        for (id, resource) in self.desired.resources.iter().filter(|(id, _)| id.kind == Kind::Container) {
            let Config::Container(config) = &resource.config else { continue };
            let own = CHECKS.into_iter().filter_map(|what| self.graph.get(id, what));
            let images = self.desired.resources.keys().filter(|other| other.kind == Kind::Image);
            let images = images.filter(|other| uses(config, Kind::Image, &other.name));
            let images: Vec<NodeIndex> = images.filter_map(|image| self.graph.get(image, Do::Create)).collect();
            let external = self.desired.external.iter().filter(|(kind, name)| uses(config, *kind, name));
            let external =
                external.filter_map(|(kind, name)| self.graph.get(&external_id(*kind, name), Do::CheckExternal));
            let networks = self.desired.resources.iter().filter(|(_, it)| needs(config, &it.config));
            let networks = networks.filter_map(|(network, _)| self.graph.get(network, Do::CheckNetwork));
            looks.entry(id).or_default().extend(own.chain(images).chain(external).chain(networks));
        }
        looks
    }

    /// The container itself and those it waits for that are stopped or started by this plan, too.
    fn touched_dependencies(&self, id: &ResourceId) -> BTreeSet<ResourceId> {
        let mut touched = BTreeSet::new();
        let mut open = vec![id.clone()];
        while let Some(id) = open.pop() {
            if !self.decisions.get(&id).is_some_and(Decision::is_change) || !touched.insert(id.clone()) {
                continue;
            }
            let edges = self.desired.resources.get(&id).map(|resource| &resource.depends_on);
            open.extend(edges.into_iter().flatten().map(|edge| edge.on.clone()));
        }
        touched
    }

    /// A port or an address is given up before it is taken.
    fn port_edges(&mut self) {
        let starting = self.changing_containers();
        for (holder, held) in self.found_containers() {
            let free = self.graph.first(&holder, &[Do::Stop, Do::Remove, Do::Update]);
            for (taker, wanted) in starting.iter().filter(|(taker, _)| *taker != holder) {
                let port = wanted.ports.iter().any(|port| held.ports.iter().any(|other| clash(port, other)));
                if port || same_address(wanted, &held) {
                    self.graph.prefer(self.graph.get(taker, Do::Start), free, true);
                }
            }
        }
    }

    /// One that was left behind while it gave way goes when its successor runs and is healthy.
    fn retirement(&mut self) {
        for (id, config) in self.found_containers().into_iter().filter(|(_, config)| config.is_retired()) {
            let successor = ResourceId::new(id.kind, id.name.trim_end_matches(RETIRED_SUFFIX));
            if config.service != self.service_of(&successor) {
                continue;
            }
            let start = self.graph.get(&successor, Do::Start);
            if start.is_some() || !self.holds(&successor, Condition::Healthy) {
                let healthy = self.wait_node(&successor, Condition::Healthy);
                self.graph.prefer(self.graph.first(&id, &DISRUPTION), healthy, true);
            }
        }
    }

    fn service_of(&self, id: &ResourceId) -> &str {
        match self.desired.resources.get(id).map(|it| &it.config) {
            Some(Config::Container(config)) => &config.service,
            _ => "",
        }
    }

    /// `--wait`: ends when everything runs and is healthy.
    fn waits(&mut self) {
        if !self.options.wait {
            return;
        }
        let jobs: BTreeSet<ResourceId> = self
            .desired
            .resources
            .values()
            .flat_map(|it| &it.depends_on)
            .filter(|edge| edge.condition == Condition::CompletedSuccessfully)
            .map(|edge| edge.on.clone())
            .collect();
        for id in self.desired.resources.keys().filter(|id| id.kind == Kind::Container) {
            let condition = if jobs.contains(id) { Condition::CompletedSuccessfully } else { Condition::Healthy };
            if self.graph.first(id, &[Do::Start, Do::Update]).is_some() || !self.holds(id, condition) {
                self.wait_node(id, condition);
            }
        }
    }

    /// Dependents stop before what they depend on.
    fn stop_order(&mut self) {
        for (id, config) in self.found_containers() {
            let edges = self.desired.resources.get(&id).map(|it| &it.depends_on);
            let declared = edges.into_iter().flatten().map(|edge| edge.on.clone());
            let found = label_edges(&config, self.observed);
            let stop = self.graph.get(&id, Do::Stop);
            for dependency in declared.chain(found).collect::<BTreeSet<_>>() {
                self.graph.prefer(self.graph.get(&dependency, Do::Stop), stop, false);
            }
        }
    }

    /// Replicas of one service give way one after another, as many at once as the service allows.
    fn rolling(&mut self) {
        let mut services: BTreeMap<String, Vec<(u32, ResourceId, &DesiredResource)>> = BTreeMap::new();
        for (id, resource) in &self.desired.resources {
            let Config::Container(config) = &resource.config else { continue };
            if self.graph.get(id, Do::Stop).is_some() {
                services.entry(config.service.clone()).or_default().push((config.number, id.clone(), resource));
            }
        }
        for mut replicas in services.into_values().filter(|replicas| replicas.len() > 1) {
            replicas.sort_by_key(|(number, ..)| *number);
            let width = replicas[0].2.parallelism as usize;
            if width == 0 {
                continue;
            }
            for pair in replicas.windows(width + 1) {
                let ((_, earlier, resource), (_, later, _)) = (&pair[0], &pair[width]);
                let ready = if may_be_checked(&resource.config) {
                    self.wait_node(earlier, Condition::Healthy)
                } else {
                    self.graph.get(earlier, Do::Start)
                };
                self.graph.prefer(self.graph.first(later, &DISRUPTION), ready, true);
            }
        }
    }

    fn found(&self, id: &ResourceId) -> Option<&ContainerConfig> {
        match &self.observed.resources.get(id)?.config {
            Config::Container(config) => Some(config),
            _ => None,
        }
    }

    fn found_containers(&self) -> Vec<(ResourceId, ContainerConfig)> {
        let ids = self.observed.resources.keys().filter(|id| self.decisions.get(*id).is_some_and(Decision::is_change));
        ids.filter_map(|id| Some((id.clone(), self.found(id)?.clone()))).collect()
    }

    /// Declared containers with any step.
    fn changing_containers(&self) -> Vec<(ResourceId, ContainerConfig)> {
        let changing = self.decisions.iter().filter(|(_, it)| it.is_change() && it.fate != Fate::Remove);
        let containers = changing.filter_map(|(id, decision)| match &decision.config {
            Config::Container(config) => Some((id.clone(), (**config).clone())),
            _ => None,
        });
        containers.collect()
    }
}

fn external_id(kind: Kind, name: &str) -> ResourceId {
    ResourceId::new(kind, format!("external {name}"))
}

fn uses(config: &ContainerConfig, kind: Kind, name: &str) -> bool {
    match kind {
        Kind::Network => uses_network(config, name),
        Kind::Volume => uses_volume(config, name),
        Kind::Image => {
            let of_hook = config.pre_start.iter().any(|hook| hook.image.as_deref() == Some(name));
            config.image == name || of_hook || config.mounted_images().any(|image| image == name)
        }
        Kind::Container => false,
    }
}

pub(super) fn needs(container: &ContainerConfig, other: &Config) -> bool {
    match other {
        Config::Image(image) => uses(container, Kind::Image, &image.reference),
        Config::Network(network) => uses(container, Kind::Network, &network.name),
        Config::Volume(volume) => uses(container, Kind::Volume, &volume.name),
        Config::Container(_) => false,
    }
}

fn same_address(one: &ContainerConfig, other: &ContainerConfig) -> bool {
    let (NetworkMode::Networks(one), NetworkMode::Networks(other)) = (&one.network, &other.network) else {
        return false;
    };
    let fixed = |name: &String| other.get(name).and_then(|it| it.ipv4_address.as_ref());
    one.iter().any(|(name, endpoint)| endpoint.ipv4_address.is_some() && endpoint.ipv4_address.as_ref() == fixed(name))
}

/// Its image may have a check even where the container declares none.
fn may_be_checked(config: &Config) -> bool {
    let Config::Container(config) = config else { return false };
    let none = |test: &[String]| test.first().is_some_and(|word| word == "NONE");
    config.healthcheck.as_ref().is_none_or(|check| !none(&check.test))
}
