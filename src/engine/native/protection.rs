//! What protects a container that does not say it itself: from what its image is. Told in the plan, so that nobody has to
//! guess.

use std::collections::BTreeMap;

use super::failed;
use super::translate::no_new_privileges;
use crate::reconcile::engine::{Action, EngineError};
use crate::reconcile::plan::Plan;
use crate::reconcile::resource::{Config, ContainerConfig};
use crate::runtime::image::{Image, Store};
use crate::runtime::roots::Roots;

/// A line for all containers that the plan makes and that are protected alike: `web-1, web-2: no new privileges`.
///
/// # Errors
/// Where the store can't be read.
pub fn notes(roots: &Roots, plan: &Plan) -> Result<Vec<String>, EngineError> {
    let mut alike: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for wanted in plan.steps.iter().filter_map(made) {
        alike.entry(of(roots, wanted)?).or_default().push(&wanted.name);
    }
    Ok(alike.into_iter().map(|(what, names)| format!("{}: {what}", names.join(", "))).collect())
}

fn made(step: &crate::reconcile::plan::Step) -> Option<&ContainerConfig> {
    match &step.action {
        Action::Create { config: Config::Container(container), .. } => Some(container),
        _ => None,
    }
}

fn of(roots: &Roots, wanted: &ContainerConfig) -> Result<String, EngineError> {
    let store = Store::open(roots);
    let known =
        store.get(&wanted.image).and_then(|image| image.map(|image| privileges(&store, wanted, &image)).transpose());
    let unknown = || "what protects it depends on its image, which is not here yet".to_owned();
    Ok(known.map_err(|error| failed(wanted.id(), error))?.unwrap_or_else(unknown))
}

fn privileges(store: &Store, wanted: &ContainerConfig, image: &Image) -> Result<String, crate::runtime::image::Error> {
    let contents = store.contents(image)?;
    Ok(match no_new_privileges(wanted, contents) {
        true => "no new privileges".to_owned(),
        false if contents.raises => "new privileges are possible: programs of its image raise them".to_owned(),
        false => "new privileges are possible, as it asks for".to_owned(),
    })
}
