//! The plans of a host that comes up and goes down, made from what is found alone: no file is needed, and what a file says
//! by now is nobody's wish yet.
//!
//! Coming up is the plan of an apply that declares just what is there, but for the containers that stay down: which come
//! back is dockerd's rule for its own start, with the jobs that they wait for.

use std::collections::{BTreeMap, BTreeSet};

use super::decide::shared_namespaces;
use super::destroy::label_edges;
use super::graph::{Do, Graph};
use super::{Plan, PlanOptions, plan};
use crate::reconcile::desired::{Desired, DesiredResource, Edge};
use crate::reconcile::engine::{Action, Capabilities, Condition, Observed, RunState, StackName};
use crate::reconcile::resource::{Config, ContainerConfig, Kind, RETIRED_SUFFIX, ResourceId, Restart, label};

type Containers<'a> = BTreeMap<&'a ResourceId, (&'a ContainerConfig, &'a RunState)>;

/// What brings back what ran when the host went down, in the order that was declared, and nothing else: neither another
/// image nor a changed file.
pub fn boot(stack: &StackName, observed: &Observed, engine: &Capabilities) -> Plan {
    let containers = containers(observed);
    let up = coming_back(&containers, observed);
    let live = containers.iter().filter(|(_, (_, run))| super::decide::is_live(run)).map(|(id, _)| (*id).clone());
    let present: BTreeSet<ResourceId> = up.iter().cloned().chain(live).collect();
    let mut desired = Desired::nothing(stack);
    for (id, found) in &observed.resources {
        let mut depends_on = match &found.config {
            Config::Container(container) => edges(container, observed),
            _ => Vec::new(),
        };
        // Nobody waits for what stays down, as nobody does whose dependency is stopped later.
        depends_on.retain(|edge| present.contains(&edge.on));
        let place = id.to_string();
        let config = found.config.clone();
        let resource = DesiredResource { config, depends_on, start_first: false, parallelism: 0, place };
        desired.resources.insert(id.clone(), resource);
    }
    let resting = containers.keys().filter(|id| !up.contains(**id)).map(|id| (*id).clone()).collect();
    // What a tag stands for by now is no matter.
    let as_made = Observed { resources: observed.resources.clone(), ..Observed::default() };
    plan(&desired, &as_made, engine, &PlanOptions { resting, ..PlanOptions::default() })
}

/// Ends what runs, dependents first, so that the next boot brings it back.
pub fn halt(stack: &StackName, observed: &Observed) -> Plan {
    let containers = containers(observed);
    let running = || containers.iter().filter(|(_, (_, run))| super::decide::is_live(run));
    let mut graph = Graph::default();
    for (id, (config, _)) in running() {
        graph.add(id, Do::Stop, Action::Halt { id: (*id).clone(), name: config.name.clone() });
    }
    for (id, (config, _)) in running() {
        let shared = shared_namespaces(config);
        let owners = containers.iter().filter(|(_, (owner, _))| shared.contains(&owner.name.as_str()));
        let dependencies = label_edges(config, observed).into_iter().chain(owners.map(|(owner, _)| (*owner).clone()));
        for dependency in dependencies {
            graph.prefer(graph.get(&dependency, Do::Stop), graph.get(id, Do::Stop), false);
        }
    }
    let (entries, not_honoured, notes) = (Vec::new(), Vec::new(), Vec::new());
    Plan { stack: stack.clone(), entries, steps: graph.into_steps(), not_honoured, notes }
}

fn containers(observed: &Observed) -> Containers<'_> {
    let containers = observed.resources.iter().filter_map(|(id, found)| match (&found.config, &found.run) {
        (Config::Container(config), Some(run)) => Some((id, (&**config, run))),
        _ => None,
    });
    containers.collect()
}

/// The containers that the boot starts.
fn coming_back(containers: &Containers<'_>, observed: &Observed) -> BTreeSet<ResourceId> {
    let by_policy = containers.iter().filter(|(id, (config, run))| {
        let successor = ResourceId::new(id.kind, id.name.trim_end_matches(RETIRED_SUFFIX));
        let gives_way = id.name.ends_with(RETIRED_SUFFIX) && containers.contains_key(&successor);
        comes_back(&config.restart, run) && !gives_way
    });
    let mut up: BTreeSet<ResourceId> = by_policy.map(|(id, _)| (*id).clone()).collect();
    loop {
        let wanted = up.iter().filter_map(|id| containers.get(id)).flat_map(|(config, _)| edges(config, observed));
        let jobs = wanted.filter(|edge| edge.condition == Condition::CompletedSuccessfully).map(|edge| edge.on);
        let cut = |id: &ResourceId| {
            containers.get(id).is_some_and(|(_, run)| matches!(run, RunState::Created | RunState::Interrupted))
        };
        let more: Vec<ResourceId> = jobs.filter(|id| cut(id) && !up.contains(id)).collect();
        if more.is_empty() {
            return up;
        }
        up.extend(more);
    }
}

/// As dockerd decides at its start. What never ran was about to.
fn comes_back(restart: &Restart, run: &RunState) -> bool {
    match (restart, run) {
        (Restart::No, _) | (_, RunState::Running { .. } | RunState::Paused | RunState::Restarting) => false,
        (_, RunState::Created | RunState::Interrupted) | (Restart::Always, RunState::Exited { .. }) => true,
        (Restart::UnlessStopped, RunState::Exited { by_hand, .. }) => !by_hand,
        // It did its work, or its tries are spent, or somebody stopped it.
        (Restart::OnFailure { .. }, RunState::Exited { .. }) => false,
    }
}

/// What the container depends on, from its label.
fn edges(config: &ContainerConfig, observed: &Observed) -> Vec<Edge> {
    let text = config.labels.get(label::DEPENDS_ON).map_or("", String::as_str);
    let mut edges = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let mut words = part.split(':');
        let service = words.next().unwrap_or_default();
        let condition = match words.next() {
            Some("service_healthy") => Condition::Healthy,
            Some("service_completed_successfully") => Condition::CompletedSuccessfully,
            _ => Condition::Started,
        };
        let restart = words.next() == Some("true");
        let required = words.next() != Some("optional");
        let replica = |found: &Config| matches!(found, Config::Container(it) if it.service == service && it.name != config.name && !it.is_retired());
        let replicas =
            observed.resources.iter().filter(|(id, found)| id.kind == Kind::Container && replica(&found.config));
        edges.extend(replicas.map(|(id, _)| Edge { on: id.clone(), condition, restart, required }));
    }
    edges
}
