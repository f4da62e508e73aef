//! A plan that is written down and executed later, word for word, or not at all.
//!
//! The file is JSON: `{"version": 2, "fingerprints": {"container/web-1": …}, "plan": …}`. It holds no content of configs and secrets that are
//! written in the stack or come from the environment, only their hashes: [`SavedPlan::restore`] takes the content from
//! the stack as it is then, and refuses where it is another. Environment variables of containers are part of it: the
//! file is as confidential as the stack.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Plan;
use crate::reconcile::check::{Objection, check};
use crate::reconcile::desired::Desired;
use crate::reconcile::engine::{Action, Check, Observed, RunState};
use crate::reconcile::facts::hash;
use crate::reconcile::resource::{Config, ContainerConfig, FileMount, FileSource, ImageConfig, ImageSource};

const VERSION: u32 = 2;

/// A plan and the state of the host that it was made for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedPlan {
    version: u32,
    /// See [`fingerprints`].
    fingerprints: BTreeMap<String, String>,
    plan: Plan,
}

/// Why a saved plan is not executed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("the saved plan can't be read: {0}")]
    Format(#[from] serde_json::Error),
    #[error("the saved plan has version {0}; this program reads version {VERSION}")]
    Version(u32),
    #[error("the saved plan is for stack `{planned}`, not for `{asked}`")]
    Stack { planned: String, asked: String },
    #[error("the host has changed since the plan was made: {}; plan again", .0.join(", "))]
    HostMoved(Vec<String>),
    #[error("the saved plan was tampered with: {0}")]
    Contradiction(Objection),
    #[error("the content of `{name}` has changed since the plan was made; plan again")]
    ContentMoved { name: String },
}

impl SavedPlan {
    pub fn new(plan: &Plan, observed: &Observed) -> Self {
        Self { version: VERSION, fingerprints: fingerprints(observed), plan: plan.clone() }
    }

    /// The stack that it is for, to observe before restoring.
    pub fn stack(&self) -> &crate::reconcile::engine::StackName {
        &self.plan.stack
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a plan has only string keys and finite numbers") + "\n"
    }

    pub fn from_json(text: &str) -> Result<Self, RestoreError> {
        #[derive(Deserialize)]
        struct Header {
            version: u32,
        }
        match serde_json::from_str::<Header>(text)?.version {
            VERSION => Ok(serde_json::from_str(text)?),
            other => Err(RestoreError::Version(other)),
        }
    }

    /// The plan, ready to execute, if the host is as it was then and the stack still has the contents that are needed.
    pub fn restore(mut self, desired: &Desired, observed: &Observed) -> Result<Plan, RestoreError> {
        if self.plan.stack != desired.stack {
            let (planned, asked) = (self.plan.stack.as_str().to_owned(), desired.stack.as_str().to_owned());
            return Err(RestoreError::Stack { planned, asked });
        }
        let moved = moved(&self.fingerprints, &fingerprints(observed));
        if !moved.is_empty() {
            return Err(RestoreError::HostMoved(moved));
        }
        let contradiction = check(&self.plan).into_iter().find(|it| matches!(it, Objection::Order { .. }));
        if let Some(contradiction) = contradiction {
            return Err(RestoreError::Contradiction(contradiction));
        }
        let contents = contents(desired);
        for step in &mut self.plan.steps {
            for file in files_of(&mut step.action) {
                fill(file, &contents)?;
            }
            fill_build(&mut step.action, desired)?;
        }
        Ok(self.plan)
    }
}

/// A value for each thing that was observed and that a plan depends on: configurations, what runs, images. Health is left
/// out: it comes and goes by itself.
pub fn fingerprints(observed: &Observed) -> BTreeMap<String, String> {
    let resources = observed.resources.iter().map(|(id, found)| {
        let run = match &found.run {
            Some(RunState::Running { .. }) => serde_json::json!("running"),
            other => serde_json::json!(other),
        };
        let state = serde_json::json!([found.phase, found.config, run, found.drift]);
        (id.to_string(), hash(state.to_string().as_bytes()))
    });
    let containers = observed.resources.values().filter_map(|found| match &found.config {
        Config::Container(config) => Some(config),
        _ => None,
    });
    let names = containers.flat_map(|one| std::iter::once(one.image.as_str()).chain(one.mounted_images()));
    let digests = names.filter_map(|name| Some((format!("image/{name}"), observed.digests.get(name)?.clone())));
    resources.chain(digests).collect()
}

/// What is another than it was, one thing each.
fn moved(then: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let names: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
    let of = |name: &String| match (then.get(name), now.get(name)) {
        (Some(then), Some(now)) if then == now => None,
        (Some(_), Some(_)) => Some(format!("{name} is not what it was")),
        (None, _) => Some(format!("{name} is new")),
        (_, None) => Some(format!("{name} is gone")),
    };
    names.into_iter().filter_map(of).collect()
}

/// Content by its hash, of every config and secret that is not a file.
fn contents(desired: &Desired) -> BTreeMap<&str, &str> {
    let files = desired.containers().flat_map(|(container, _)| &container.files);
    let contents = files.filter_map(|file| match &file.source {
        FileSource::Content(text) => Some((file.content_hash.as_str(), text.as_str())),
        FileSource::File(_) | FileSource::Encrypted { .. } | FileSource::External(_) => None,
    });
    contents.collect()
}

fn files_of(action: &mut Action) -> &mut [FileMount] {
    let container: Option<&mut ContainerConfig> = match action {
        Action::Create { config: Config::Container(config), .. }
        | Action::Update { config: Config::Container(config), .. }
        | Action::Repair { config: Config::Container(config), .. } => Some(config),
        Action::Check {
            check:
                Check::PortsFree { container, .. }
                | Check::SourcesReadable { container }
                | Check::UserKnown { container }
                | Check::ProgramPresent { container },
        } => Some(container),
        _ => None,
    };
    container.map_or(&mut [], |config| &mut config.files)
}

/// Secrets of a build that are no files are in the stack only; the files that an image is made from may have changed.
fn fill_build(action: &mut Action, desired: &Desired) -> Result<(), RestoreError> {
    let Action::Create { id, config: Config::Image(image) } = action else { return Ok(()) };
    let moved = || RestoreError::ContentMoved { name: id.to_string() };
    let now = desired.resources.get(id).map(|resource| &resource.config);
    let build = match &mut image.source {
        ImageSource::Build(build) => build,
        ImageSource::Archive(_) | ImageSource::Rootfs(_) => {
            let same = matches!(now, Some(Config::Image(now)) if now.source == image.source);
            return if same { Ok(()) } else { Err(moved()) };
        }
        ImageSource::Pull { .. } | ImageSource::Builtin(_) => return Ok(()),
    };
    match now {
        Some(Config::Image(ImageConfig { source: ImageSource::Build(now), .. })) if now.content == build.content => {
            build.secrets.clone_from(&now.secrets);
            Ok(())
        }
        _ => Err(moved()),
    }
}

fn fill(file: &mut FileMount, contents: &BTreeMap<&str, &str>) -> Result<(), RestoreError> {
    if let FileSource::Content(text) = &mut file.source {
        let found = contents.get(file.content_hash.as_str());
        *text = (*found.ok_or_else(|| RestoreError::ContentMoved { name: file.name.clone() })?).to_owned();
    }
    Ok(())
}
