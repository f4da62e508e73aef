//! What is done in a container that goes on running when files that it has have another content.

use std::path::Path;

use super::containers::Error;
use crate::reconcile::resource::ContainerConfig;
use crate::runtime::container::{self, aside, exec::Exec};
use crate::runtime::roots::Roots;
use crate::spec::reaction::Reaction;

/// Shows it the new content of these fields, and tells it so, as it is declared. Where it does not run, its next start
/// does the same. Before the change is written down: what is cut short here is done again.
///
/// # Errors
/// Where the kernel says no, or its program fails.
pub fn reload(roots: &Roots, wanted: &ContainerConfig, fields: &[String]) -> Result<(), Error> {
    let changes = fields.iter().filter_map(|field| Some((target(field)?, wanted.reaction(field)?)));
    let changes: Vec<(&str, &Reaction)> = changes.filter(|(_, reaction)| reaction.is_in_place()).collect();
    let name = &wanted.name;
    if changes.is_empty() || !container::get(roots, name)?.is_running() {
        return Ok(());
    }
    for (target, _) in &changes {
        container::rebind(roots, name, Path::new(target))?;
    }
    let mut done: Vec<&Reaction> = Vec::new();
    for (_, reaction) in changes {
        // Once, however many of its files have changed.
        if !done.contains(&reaction) {
            tell(roots, name, reaction)?;
            done.push(reaction);
        }
    }
    Ok(())
}

fn target(field: &str) -> Option<&str> {
    field.strip_prefix("bind_contents.").or_else(|| field.strip_prefix("files.")?.strip_suffix(".content_hash"))
}

fn tell(roots: &Roots, name: &str, reaction: &Reaction) -> Result<(), Error> {
    match reaction {
        Reaction::Signal(signal) => Ok(container::kill(roots, name, signal)?),
        Reaction::Exec(words) => {
            let ended = aside::run(roots, name, &Exec { args: words.clone(), ..Exec::default() })?;
            match ended.code {
                0 => Ok(()),
                code => {
                    let (name, command) = (name.to_owned(), words.join(" "));
                    Err(Error::Reaction { name, command, code, output: ended.output })
                }
            }
        }
        Reaction::Recreate | Reaction::Restart | Reaction::None => Ok(()),
    }
}
