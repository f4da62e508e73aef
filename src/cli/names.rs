//! From what is typed to what there is: containers by name, by the beginning of an id, by service, by stack.

use super::failure::Failure;
use crate::reconcile::resource::label;
use crate::runtime::container::{self, Container, Error};
use crate::runtime::roots::Roots;
use crate::spec::diagnostics::nearest;

/// The container of this name, or the only one whose id begins so.
///
/// # Errors
/// With the nearest name where there is none.
pub fn one(roots: &Roots, name: &str) -> Result<Container, Failure> {
    match container::get(roots, name) {
        Err(Error::NotFound(_)) => Err(unknown(name, &container::list(roots)?)),
        other => Ok(other?),
    }
}

/// As [`one`]; also the only container of this service, for commands that look and change nothing.
pub fn one_or_service(roots: &Roots, name: &str) -> Result<Container, Failure> {
    match container::get(roots, name) {
        Err(Error::NotFound(_)) => {
            let all = container::list(roots)?;
            let mut of_service: Vec<&Container> = all.iter().filter(|one| is(one, label::SERVICE, name)).collect();
            match (of_service.pop(), of_service.len()) {
                (Some(only), 0) => Ok(only.clone()),
                (Some(last), _) => {
                    let names = of_service.iter().chain([&last]).map(|one| one.config.name.as_str());
                    let names = names.collect::<Vec<_>>().join(", ");
                    Err(Failure::new(format!("service {name:?} has several containers\n  help: name one of {names}")))
                }
                (None, _) => Err(unknown(name, &all)),
            }
        }
        other => Ok(other?),
    }
}

/// The containers that each word means: one, those of a service, or those of a stack.
pub fn several(roots: &Roots, wanted: &[String]) -> Result<Vec<Container>, Failure> {
    let all = container::list(roots)?;
    let mut found: Vec<Container> = Vec::new();
    for name in wanted {
        let of = |key: &str| all.iter().filter(|one| is(one, key, name)).cloned().collect::<Vec<_>>();
        let meant = match container::get(roots, name) {
            Ok(one) => vec![one],
            Err(Error::NotFound(_)) => {
                let of_stack = of(label::STACK);
                if of_stack.is_empty() { of(label::SERVICE) } else { of_stack }
            }
            Err(error) => return Err(error.into()),
        };
        if meant.is_empty() {
            return Err(unknown(name, &all));
        }
        found.extend(meant);
    }
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|one| seen.insert(one.config.name.clone()));
    Ok(found)
}

fn is(one: &Container, key: &str, value: &str) -> bool {
    one.config.labels.get(key).is_some_and(|found| found == value)
}

fn unknown(name: &str, all: &[Container]) -> Failure {
    let labels = |key: &'static str| all.iter().filter_map(move |one| one.config.labels.get(key));
    let names = all.iter().map(|one| &one.config.name);
    let known = names.chain(labels(label::SERVICE)).chain(labels(label::STACK)).map(String::as_str);
    let help = match nearest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`stack ps -a` lists those that there are".to_owned(),
    };
    Failure::new(format!("no container {name:?}\n  help: {help}"))
}

/// What there is of another kind, nearest to this name; for the end of an error.
pub fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>, otherwise: &str) -> String {
    nearest(name, known).map_or_else(|| otherwise.to_owned(), |near| format!("did you mean `{near}`?"))
}
