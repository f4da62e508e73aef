//! The plan that removes a stack, made from what is found alone: no file is needed.

use super::build::assemble;
use super::decide::{Decision, Decisions, Fate};
use super::{DestroyOptions, Plan, PlanOptions};
use crate::reconcile::desired::Desired;
use crate::reconcile::engine::{Observed, StackName};
use crate::reconcile::resource::{Config, ContainerConfig, ResourceId, label};

/// Removes everything of the stack that is found, dependents first. Images stay; volumes go only where asked for, with
/// consent, and unless protected.
pub fn destroy(stack: &StackName, observed: &Observed, options: DestroyOptions) -> Plan {
    let mut decisions = Decisions::new();
    for (id, found) in &observed.resources {
        let (fate, reason) = match &found.config {
            Config::Image(_) => continue,
            Config::Volume(_) if !options.volumes => continue,
            Config::Volume(volume) if volume.protect => (Fate::Refuse, Some("the volume is protected")),
            Config::Volume(_) if !options.consent_volumes => (Fate::Refuse, Some("data would be lost")),
            Config::Volume(_) => (Fate::Remove, Some("data is lost")),
            Config::Network(_) | Config::Container(_) => (Fate::Remove, None),
        };
        decisions.insert(id.clone(), Decision::removal(fate, &found.config, reason));
    }
    assemble(&Desired::nothing(stack), observed, &decisions, &PlanOptions::default())
}

/// The containers found that this one depends on, as its label tells: the file that declared it may be gone.
pub(super) fn label_edges(config: &ContainerConfig, observed: &Observed) -> Vec<ResourceId> {
    let Some(text) = config.labels.get(label::DEPENDS_ON) else { return Vec::new() };
    let services: Vec<&str> = text.split(',').filter_map(|part| part.split(':').next()).collect();
    let of_service = |found: &Config| matches!(found, Config::Container(it) if services.contains(&it.service.as_str()));
    let found = observed.resources.iter().filter(|(_, found)| of_service(&found.config));
    found.map(|(id, _)| id.clone()).collect()
}
