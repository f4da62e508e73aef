//! `on_failure: recreate`: who is made anew because its check fails, how often, and how the next one knows of it.

use crate::reconcile::desired::Desired;
use crate::reconcile::engine::{Health, Observed, ObservedResource, RunState};
use crate::reconcile::resource::{Config, OnUnhealthy, ResourceId};

/// Its check fails, and the file says that another one shall be made then, and not yet often enough.
pub(super) fn is_to_be_recreated(config: &Config, found: &ObservedResource, now_ms: u64) -> bool {
    is_unhealthy_to_recreate(config, found) && !is_budget_spent(config, now_ms)
}

fn is_unhealthy_to_recreate(config: &Config, found: &ObservedResource) -> bool {
    let Config::Container(container) = config else { return false };
    let unhealthy = RunState::Running { health: Health::Unhealthy };
    container.on_unhealthy == OnUnhealthy::Recreate && found.run.as_ref() == Some(&unhealthy)
}

fn is_budget_spent(config: &Config, now_ms: u64) -> bool {
    let Config::Container(container) = config else { return false };
    container.on_unhealthy_budget.is_some_and(|budget| budget.is_spent(&container.recreated_ms, now_ms))
}

/// What is declared knows nothing of how often it was made anew.
pub(super) fn with_history(mut config: Config, found: &Config) -> Config {
    if let (Config::Container(wanted), Config::Container(found)) = (&mut config, found) {
        wanted.recreated_ms = found.recreated_ms.clone();
    }
    config
}

/// The one that is made now remembers why. Where nothing limits it, nothing is remembered.
pub(super) fn spend(config: &mut Config, now_ms: u64) {
    if let Config::Container(container) = config
        && let Some(budget) = container.on_unhealthy_budget
    {
        container.recreated_ms = budget.counted(&container.recreated_ms, now_ms);
        container.recreated_ms.push(now_ms);
    }
}

/// Of each container that stays unhealthy although it was to be made anew.
pub(super) fn given_up(desired: &Desired, observed: &Observed) -> Vec<String> {
    let note = |(id, found): (&ResourceId, &ObservedResource)| {
        let config = with_history(desired.resources.get(id)?.config.clone(), &found.config);
        let given_up = is_unhealthy_to_recreate(&config, found) && is_budget_spent(&config, observed.now_ms);
        let Config::Container(container) = &config else { return None };
        let times = container.on_unhealthy_budget?.counted(&container.recreated_ms, observed.now_ms).len();
        let times = if times == 1 { "once".to_owned() } else { format!("{times} times") };
        given_up
            .then(|| format!("{id} is unhealthy and was made anew {times}: its budget is spent, it is left as it is"))
    };
    observed.resources.iter().filter_map(note).collect()
}
