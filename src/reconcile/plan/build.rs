//! Desired and observed to a plan.

use std::collections::{BTreeMap, BTreeSet};

use super::decide::{Decision, Decisions, Fate, decide};
use super::graph::{Do, Graph};
use super::steps::steps;
use super::unhealthy::given_up;
use super::{Entry, Plan, PlanOptions, TargetError, Verb, condition_word};
use crate::reconcile::desired::{Desired, DesiredResource};
use crate::reconcile::engine::{Action, Capabilities, Observed};
use crate::reconcile::resource::{Config, ImageSource, Kind, ResourceId};

/// What has to happen so that the engine holds what is declared. Empty where it does.
pub fn plan(desired: &Desired, observed: &Observed, engine: &Capabilities, options: &PlanOptions) -> Plan {
    let decisions = decide(desired, observed, engine, options);
    assemble(desired, observed, &decisions, options)
}

pub(super) fn assemble(desired: &Desired, observed: &Observed, decisions: &Decisions, options: &PlanOptions) -> Plan {
    let graph = steps(desired, observed, decisions, options);
    let mut entries: Vec<Entry> = decisions
        .iter()
        .filter(|(_, it)| it.is_change())
        .map(|(id, decision)| entry(id, decision, &graph, decisions))
        .collect();
    // What is refused comes last, where it is seen.
    entries.sort_by_cached_key(|entry| (entry.refused.is_some(), natural(&entry.id)));
    Plan {
        stack: desired.stack.clone(),
        entries,
        steps: graph.into_steps(),
        not_honoured: desired.not_honoured.clone(),
        notes: desired.notes.iter().cloned().chain(given_up(desired, observed)).collect(),
    }
}

/// `web-10` comes after `web-2`.
fn natural(id: &ResourceId) -> (Kind, String, u64) {
    let split = id.name.rsplit_once('-').and_then(|(name, number)| Some((name, number.parse().ok()?)));
    let (name, number) = split.unwrap_or((&id.name, 0));
    (id.kind, name.to_owned(), number)
}

fn entry(id: &ResourceId, decision: &Decision, graph: &Graph, decisions: &Decisions) -> Entry {
    let refused = (decision.fate == Fate::Refuse).then(|| decision.reasons.join(", "));
    let reason = (refused.is_none() && !decision.reasons.is_empty()).then(|| decision.reasons.join(", "));
    Entry {
        id: id.clone(),
        verb: verb(decision),
        fields: decision.fields.clone(),
        reason,
        refused,
        how: how(id, decision, graph, decisions),
    }
}

fn verb(decision: &Decision) -> Verb {
    match decision.fate {
        Fate::Keep if decision.start => Verb::Start,
        Fate::Keep => Verb::Repair,
        Fate::Pull => match &decision.config {
            Config::Image(image) if matches!(image.source, ImageSource::Build(_)) => Verb::Build,
            Config::Image(image) if !matches!(image.source, ImageSource::Pull { .. }) => Verb::Load,
            _ => Verb::Pull,
        },
        Fate::Create => Verb::Create,
        Fate::Update => Verb::Update,
        Fate::Restart => Verb::Restart,
        Fate::Replace { .. } => Verb::Replace,
        Fate::Remove => Verb::Remove,
        Fate::Refuse if matches!(decision.config, Config::Image(_)) => Verb::Pull,
        Fate::Refuse if decision.fields.is_empty() => Verb::Remove,
        Fate::Refuse => Verb::Replace,
    }
}

/// `stop first (port 80), after network/backend`.
fn how(id: &ResourceId, decision: &Decision, graph: &Graph, decisions: &Decisions) -> Option<String> {
    let mut parts = Vec::new();
    match (decision.fate, &decision.config) {
        (Fate::Replace { start_first: true }, _) => parts.push("start first".to_owned()),
        (Fate::Replace { start_first: false }, Config::Container(config)) => {
            let ports: BTreeSet<u16> =
                config.ports.iter().map(|port| port.published).filter(|port| *port != 0).collect();
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            let word = if ports.len() == 1 { "port" } else { "ports" };
            let note = if ports.is_empty() { String::new() } else { format!(" ({word} {})", ports.join(", ")) };
            parts.push(match &decision.obstacle {
                Some(obstacle) => format!("stop first, not start first ({obstacle})"),
                None => format!("stop first{note}"),
            });
        }
        _ => {}
    }
    let after = waits_for(id, graph, decisions);
    if !after.is_empty() {
        parts.push(format!("after {}", after.join(", ")));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The other entries that this one is made or started after, with the condition where there is one.
fn waits_for(id: &ResourceId, graph: &Graph, decisions: &Decisions) -> Vec<String> {
    let mut found: BTreeMap<(Kind, String), String> = BTreeMap::new();
    let nodes = [Do::Create, Do::Update, Do::Start].into_iter().filter_map(|what| graph.get(id, what));
    for action in nodes.flat_map(|node| graph.requirements(node)) {
        let Some(other) = action.id().filter(|other| *other != id) else { continue };
        let (text, strength) = match action {
            Action::Wait { condition, .. } => (format!("{other} {}", condition_word(*condition)), true),
            Action::Stop { .. } | Action::Halt { .. } | Action::Remove { .. } | Action::Vacate { .. } => {
                (format!("{other} stopped"), false)
            }
            _ if decisions.get(other).is_some_and(Decision::is_change) => (other.to_string(), false),
            _ => continue,
        };
        let key = (other.kind, other.name.clone());
        if strength || !found.contains_key(&key) {
            found.insert(key, text);
        }
    }
    found.into_values().collect()
}

/// The part of a stack that the named things need: `web`, `container/web-1`, `network/back`. Everything else is left as
/// it is, declared or not.
pub fn target(desired: &Desired, observed: &Observed, targets: &[String]) -> Result<(Desired, Observed), TargetError> {
    let mut wanted: BTreeSet<ResourceId> = BTreeSet::new();
    for target in targets {
        let declared = desired.resources.iter().filter(|(id, it)| matches(target, id, &it.config)).map(|(id, _)| id);
        let found = observed.resources.iter().filter(|(id, it)| matches(target, id, &it.config)).map(|(id, _)| id);
        let ids: Vec<&ResourceId> = declared.chain(found).collect();
        if ids.is_empty() {
            return Err(TargetError(target.clone()));
        }
        wanted.extend(ids.into_iter().cloned());
    }
    let mut open: Vec<ResourceId> = wanted.iter().cloned().collect();
    while let Some(id) = open.pop() {
        for needed in desired.resources.get(&id).into_iter().flat_map(|it| requirements(it, desired)) {
            if wanted.insert(needed.clone()) {
                open.push(needed);
            }
        }
    }
    let mut desired = desired.clone();
    desired.resources.retain(|id, _| wanted.contains(id));
    let mut observed = observed.clone();
    observed.resources.retain(|id, _| wanted.contains(id));
    Ok((desired, observed))
}

fn matches(target: &str, id: &ResourceId, config: &Config) -> bool {
    let service = matches!(config, Config::Container(config) if config.service == target || config.name == target);
    service || id.to_string() == target
}

fn requirements(resource: &DesiredResource, desired: &Desired) -> Vec<ResourceId> {
    let Config::Container(config) = &resource.config else { return Vec::new() };
    let needed = desired.resources.iter().filter(|(_, it)| super::steps::needs(config, &it.config));
    let edges = resource.depends_on.iter().map(|edge| edge.on.clone());
    needed.map(|(id, _)| id.clone()).chain(edges).collect()
}
