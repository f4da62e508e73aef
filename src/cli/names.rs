//! From what is typed to what there is: containers by name, by the beginning of an id, by service, by stack.

use std::collections::BTreeSet;

use super::args::{FileArguments, Which};
use super::failure::Failure;
use super::stack_file;
use crate::reconcile::resource::label;
use crate::runtime::container::{self, Container, Error};
use crate::runtime::roots::Roots;
use crate::spec::diagnostics::nearest;
use crate::spec::{self, Loaded};

/// Where the user stands: `-p`, `-f`, or the folder's file say which stack a service's name is meant in.
#[derive(Clone, Debug, Default)]
pub struct Here {
    file: FileArguments,
}

impl Here {
    pub fn new(file: FileArguments) -> Self {
        Self { file }
    }

    /// As these words say, where they say anything.
    pub fn with(&self, which: &Which) -> Self {
        let mut file = self.file.clone();
        file.more_files.extend(which.files.iter().cloned());
        file.project_name = which.project_name.clone().or(file.project_name);
        Self { file }
    }

    /// The stack that the user stands in, and its files: those can be missing or wrong where its name is said.
    ///
    /// # Errors
    /// Where nothing tells which stack it is.
    pub fn stack_and_files(&self) -> Result<(String, Option<Loaded>), Failure> {
        match (&self.file.project_name, spec::load(&stack_file::options(&self.file)?)) {
            (Some(name), loaded) => Ok((name.clone(), loaded.ok())),
            (None, Ok(loaded)) => Ok((loaded.stack.name.clone(), Some(loaded))),
            (None, Err(diagnostics)) => Err(Failure::new(format!(
                "{}\n  help: `-p NAME` names a stack whose file is not at hand",
                diagnostics.render(super::view::color()).trim_end()
            ))),
        }
    }

    /// The stack that the user stands in.
    ///
    /// # Errors
    /// Where its file is wrong, or there is none.
    pub fn stack(&self) -> Result<String, Failure> {
        match &self.file.project_name {
            Some(name) => Ok(name.clone()),
            None => {
                let loaded = spec::load(&stack_file::options(&self.file)?);
                Ok(loaded.map_err(|diagnostics| Failure::new(diagnostics.render(super::view::color())))?.stack.name)
            }
        }
    }
}

/// The container of this name, or the only one whose id begins so.
///
/// # Errors
/// With the nearest name where there is none.
pub fn one(roots: &Roots, name: &str) -> Result<Container, Failure> {
    match container::get(roots, name) {
        Err(Error::NotFound(_)) => Err(unknown(name, &container::list(roots)?)),
        other => supervised(roots, other?),
    }
}

/// As it is when its supervisor was killed and it has another.
pub fn supervised(roots: &Roots, found: Container) -> Result<Container, Failure> {
    if container::adopt(roots, &found)? { Ok(container::get(roots, &found.config.name)?) } else { Ok(found) }
}

/// As [`one`]; also the only container of this service.
pub fn one_or_service(roots: &Roots, here: &Here, name: &str) -> Result<Container, Failure> {
    let mut found = of_word(roots, here, name, &[label::SERVICE])?;
    match (found.pop(), found.as_slice()) {
        (Some(only), []) => Ok(only),
        (last, others) => {
            let names = others.iter().chain(&last).map(|one| one.config.name.as_str());
            let names = names.collect::<Vec<_>>().join(", ");
            Err(Failure::new(format!("service {name:?} has several containers\n  help: name one of {names}")))
        }
    }
}

/// The containers that each word means: one, those of a service, or those of a stack. Without a word: all of the stack
/// that the user stands in.
pub fn several(roots: &Roots, here: &Here, wanted: &[String]) -> Result<Vec<Container>, Failure> {
    if wanted.is_empty() {
        return of_stack_here(roots, here);
    }
    let mut found: Vec<Container> = Vec::new();
    for name in wanted {
        found.extend(match of_word(roots, here, name, &[label::SERVICE, label::STACK]) {
            // A stack's file stands for the stack, as with `apply`.
            Err(_) if stack_file::looks_like_file(name) => {
                let file = FileArguments { files: vec![name.into()], ..here.file.clone() };
                of_stack_here(roots, &Here { file })?
            }
            other => other?,
        });
    }
    let mut seen = BTreeSet::new();
    found.retain(|one| seen.insert(one.config.name.clone()));
    Ok(found)
}

fn of_stack_here(roots: &Roots, here: &Here) -> Result<Vec<Container>, Failure> {
    let help = "name a container, a service or a stack, or go to the folder of a stack";
    let stack = here.stack().map_err(|failure| Failure::new(format!("{failure}\n  help: {help}")))?;
    let mut all = container::adopt_all(roots, container::list(roots)?)?;
    all.retain(|one| is(one, label::STACK, &stack));
    let none = || Failure::new(format!("stack {stack:?} has no containers\n  help: `stack apply` makes them"));
    if all.is_empty() { Err(none()) } else { Ok(all) }
}

/// Those that one word means; a container's own name comes first, then what has it as one of these labels: of the stack
/// that the user stands in, else wherever there is only one.
pub fn of_word(roots: &Roots, here: &Here, name: &str, labels: &[&str]) -> Result<Vec<Container>, Failure> {
    match container::get(roots, name) {
        Ok(one) => return Ok(vec![supervised(roots, one)?]),
        Err(Error::NotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let all = container::adopt_all(roots, container::list(roots)?)?;
    for key in labels {
        let mut found: Vec<Container> = all.iter().filter(|one| is(one, key, name)).cloned().collect();
        let stacks: BTreeSet<String> = found.iter().filter_map(stack_of).collect();
        if stacks.len() > 1 {
            let own = here.stack().ok().filter(|stack| stacks.contains(stack));
            let own = own.ok_or_else(|| several_stacks(name, &stacks))?;
            found.retain(|one| is(one, label::STACK, &own));
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(unknown(name, &all))
}

fn several_stacks(service: &str, stacks: &BTreeSet<String>) -> Failure {
    let names = stacks.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    Failure::new(format!(
        "the stacks {names} all have a service {service:?}\n  help: `stack -p STACK …` says which, or go to its folder"
    ))
}

fn stack_of(one: &Container) -> Option<String> {
    one.config.labels.get(label::STACK).cloned()
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
