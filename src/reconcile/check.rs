//! May this plan be executed? Pure; asked once, before the first step.

use super::plan::{Entry, Plan};
use super::resource::ResourceId;

/// Why a plan must not be executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// Needs consent that was not given, or can't be consented to.
    #[error("{id}: refused: {reason}")]
    Refused { id: ResourceId, reason: String },
    /// A step waits for one that does not come before it: not a plan that `plan` made.
    #[error("step {step} waits for step {after}, which does not come before it")]
    Order { step: usize, after: usize },
}

/// All objections; an empty list lets the plan pass.
pub fn check(plan: &Plan) -> Vec<Objection> {
    let refused = plan.refusals().map(refusal);
    refused.chain(misordered(plan)).collect()
}

fn refusal(entry: &Entry) -> Objection {
    Objection::Refused { id: entry.id.clone(), reason: entry.refused.clone().unwrap_or_default() }
}

fn misordered(plan: &Plan) -> impl Iterator<Item = Objection> {
    plan.steps.iter().enumerate().flat_map(|(step, it)| {
        let late = it.after.iter().filter(move |after| after.step >= step);
        late.map(move |after| Objection::Order { step, after: after.step })
    })
}
