//! What protects a container that does not say it itself: from what its image is. Told in the plan, so that nobody has to
//! guess.

use std::collections::BTreeMap;

use super::containers::Error;
use super::failed;
use super::translate::no_new_privileges;
use super::users::{Decision, Judge};
use crate::reconcile::engine::{Action, EngineError};
use crate::reconcile::plan::Plan;
use crate::reconcile::resource::{Config, ContainerConfig, VolumeConfig};
use crate::runtime::image::{Contents, Store};
use crate::runtime::roots::Roots;

/// A line for all containers that the plan makes and that are protected alike: `web-1, web-2: no new privileges`.
///
/// # Errors
/// Where the store can't be read.
pub fn notes(roots: &Roots, plan: &Plan) -> Result<Vec<String>, EngineError> {
    let mut judge = Judge::new(roots);
    judge.containers = plan.steps.iter().filter_map(made).map(|wanted| (wanted.name.as_str(), wanted)).collect();
    judge.volumes = plan.steps.iter().filter_map(volume).map(|wanted| (wanted.name.as_str(), wanted)).collect();
    let mut alike: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for wanted in plan.steps.iter().filter_map(made) {
        alike.entry(of(roots, &judge, wanted)?).or_default().push(&wanted.name);
    }
    Ok(alike.into_iter().map(|(what, names)| format!("{}: {what}", names.join(", "))).collect())
}

fn made(step: &crate::reconcile::plan::Step) -> Option<&ContainerConfig> {
    match &step.action {
        Action::Create { config: Config::Container(container), .. } => Some(container),
        _ => None,
    }
}

fn volume(step: &crate::reconcile::plan::Step) -> Option<&VolumeConfig> {
    match &step.action {
        Action::Create { config: Config::Volume(volume), .. } => Some(volume),
        _ => None,
    }
}

fn of(roots: &Roots, judge: &Judge<'_>, wanted: &ContainerConfig) -> Result<String, EngineError> {
    let failed = |error: Error| failed(wanted.id(), error);
    let store = Store::open(roots);
    let Some(image) = store.get(&wanted.image).map_err(|error| failed(error.into()))? else {
        return Ok("what protects it depends on its image, which is not here yet".to_owned());
    };
    let contents = store.contents(&image).map_err(|error| failed(error.into()))?;
    let users = judge.decide(wanted, &image, contents).map_err(failed)?;
    Ok(format!("{}; {}", privileges(wanted, contents), ids(&users)))
}

fn privileges(wanted: &ContainerConfig, contents: Contents) -> &'static str {
    match no_new_privileges(wanted, contents) {
        true => "no new privileges",
        false if contents.raises => "new privileges are possible: programs of its image raise them",
        false => "new privileges are possible, as it asks for",
    }
}

fn ids(users: &Decision) -> String {
    match users {
        Decision::Own => "root is nobody on the host".to_owned(),
        Decision::With(other) => format!("root is nobody on the host, as in {other}"),
        Decision::Host(why) => format!("on the host's ids: {why}"),
    }
}
