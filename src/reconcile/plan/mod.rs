//! The difference as a contract: which resources change and why ([`Entry`]), and the steps that do it ([`Step`]), a
//! directed graph without cycles. `apply` executes exactly this.
//!
//! Pure. An empty plan is the definition of "converged".

mod boot;
mod build;
mod decide;
mod destroy;
mod graph;
mod places;
mod saved;
mod steps;
mod text;
mod unhealthy;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use boot::{boot, halt};
pub use build::{plan, target};
pub use destroy::destroy;
pub use saved::{RestoreError, SavedPlan};
pub(crate) use text::hide_values;
pub use text::{Summary, change_line};

use super::diff::FieldChange;
use super::engine::{Action, Condition, StackName};
use super::resource::{Config, ImageSource, ResourceId};

/// What the caller wants of this plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// Data of volumes may be lost (`--yes=volumes`).
    pub consent_volumes: bool,
    /// Ask registries about images with `pull_policy: always`, too. Off where a plan only looks (`status`, a timer).
    pub refresh: bool,
    /// Leave containers alone that somebody stopped by command.
    pub keep_stopped: bool,
    /// Containers that are not started, whatever they do.
    pub resting: BTreeSet<ResourceId>,
    /// Ends with waiting until everything runs and is healthy.
    pub wait: bool,
}

/// `--target` names nothing that is declared or found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing is named `{0}`: neither declared nor found")]
pub struct TargetError(pub String);

/// What `destroy` may remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DestroyOptions {
    /// Volumes, too (`--volumes`).
    pub volumes: bool,
    /// Data of volumes may be lost (`--yes=volumes`).
    pub consent_volumes: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub stack: StackName,
    /// One a resource that changes, in the order of the text form.
    pub entries: Vec<Entry>,
    /// Each after those it names in [`Step::after`]; these have lower indices.
    pub steps: Vec<Step>,
    /// Understood, but not carried out by this engine.
    pub not_honoured: Vec<String>,
    /// What else is to be known of it: tags that no lock has, who signed an image.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One resource that changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub id: ResourceId,
    pub verb: Verb,
    /// Field by field; empty where the cause is in `reason` alone.
    pub fields: Vec<FieldChange>,
    /// `not found`, `no longer declared`, `network/back is replaced`.
    pub reason: Option<String>,
    /// Set: this entry keeps the whole plan from being executed.
    pub refused: Option<String>,
    /// `after network/backend`, `stop first (port 80)`.
    pub how: Option<String>,
}

/// What happens to a resource, as a user sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    Pull,
    /// An image from an archive, a directory, or out of this program.
    Load,
    /// An image from a Dockerfile.
    Build,
    Create,
    Update,
    Repair,
    Start,
    Restart,
    Replace,
    Remove,
}

/// One action and what it waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub action: Action,
    pub after: Vec<After>,
}

/// An edge of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct After {
    /// Index into [`Plan::steps`].
    pub step: usize,
    /// This step is skipped when that one fails; otherwise it only comes later.
    pub required: bool,
}

impl Plan {
    /// Nothing to do: the host holds what is declared.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// This plan without these resources, and without those whose steps require theirs.
    pub fn without(&self, resting: &BTreeSet<ResourceId>) -> Self {
        let mut left_out = resting.clone();
        let id_of = |step: &Step| step.action.id().cloned();
        loop {
            let out = |after: &After| id_of(&self.steps[after.step]).is_some_and(|id| left_out.contains(&id));
            let follows = |step: &&Step| step.after.iter().any(|after| after.required && out(after));
            let more: Vec<ResourceId> =
                self.steps.iter().filter(follows).filter_map(id_of).filter(|id| !left_out.contains(id)).collect();
            if more.is_empty() {
                break;
            }
            left_out.extend(more);
        }
        let keeps = |step: &Step| id_of(step).is_none_or(|id| !left_out.contains(&id));
        let mut place = Vec::new();
        let mut steps: Vec<Step> = Vec::new();
        for step in &self.steps {
            place.push(steps.len());
            if keeps(step) {
                let kept = step.after.iter().filter(|after| keeps(&self.steps[after.step]));
                let after = kept.map(|after| After { step: place[after.step], required: after.required }).collect();
                steps.push(Step { action: step.action.clone(), after });
            }
        }
        let entries = self.entries.iter().filter(|entry| !left_out.contains(&entry.id)).cloned().collect();
        Self { entries, steps, ..self.clone() }
    }

    /// The entries that keep this plan from being executed.
    pub fn refusals(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.refused.is_some())
    }

    /// `2 added, 1 changed`, of a plan that tells what differs between two states.
    pub fn counts(&self) -> String {
        let count = |wanted: &[Verb]| self.entries.iter().filter(|entry| wanted.contains(&entry.verb)).count();
        let changed = [Verb::Update, Verb::Restart, Verb::Replace];
        let all =
            [(count(&[Verb::Create]), "added"), (count(&changed), "changed"), (count(&[Verb::Remove]), "removed")];
        let parts: Vec<String> =
            all.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
        parts.join(", ")
    }

    pub fn summary(&self) -> Summary {
        Summary::of(self)
    }

    /// For `--format json`.
    pub fn view(&self) -> PlanView {
        let step = |step: &Step| StepView { step: describe(&step.action), after: step.after.clone() };
        PlanView {
            stack: self.stack.clone(),
            summary: self.summary(),
            entries: self.entries.iter().map(text::hide_values).collect(),
            steps: self.steps.iter().map(step).collect(),
            not_honoured: self.not_honoured.clone(),
            notes: self.notes.clone(),
        }
    }

    /// The text form, a line a resource and a further one for each further field; empty for an empty plan.
    pub fn text(&self) -> String {
        text::render(self)
    }
}

/// A plan for programs that show it: without configurations, and without values that are nobody's business.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanView {
    pub stack: StackName,
    pub summary: Summary,
    pub entries: Vec<Entry>,
    pub steps: Vec<StepView>,
    pub not_honoured: Vec<String>,
    /// What else is to be known of it: tags that no lock has, who signed an image.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One step in words, and the indices of those that it waits for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepView {
    pub step: String,
    pub after: Vec<After>,
}

/// A step in the words of a progress display: `create container/db-1`.
pub fn describe(action: &Action) -> String {
    match action {
        Action::Create { id, config: Config::Image(image) } => match image.source {
            ImageSource::Pull { .. } => format!("pull {id}"),
            ImageSource::Build(_) => format!("build {id}"),
            _ => format!("load {id}"),
        },
        Action::Create { id, .. } => format!("create {id}"),
        Action::Update { id, .. } => format!("update {id}"),
        Action::Repair { id, .. } => format!("repair {id}"),
        Action::Remove { id, .. } | Action::Vacate { id, .. } => format!("remove {id}"),
        Action::Start { id, .. } => format!("start {id}"),
        Action::Stop { id, .. } | Action::Halt { id, .. } => format!("stop {id}"),
        Action::Rename { id, to, .. } => format!("rename {id} to {to}"),
        Action::Wait { id, condition, .. } => format!("wait for {id} {}", condition_word(*condition)),
        Action::Check { check } => format!("check {}", text::check_word(check)),
    }
}

/// How a condition reads after a container's name.
pub(crate) fn condition_word(condition: Condition) -> &'static str {
    match condition {
        Condition::Started => "started",
        Condition::Healthy => "healthy",
        Condition::CompletedSuccessfully => "completed",
    }
}
