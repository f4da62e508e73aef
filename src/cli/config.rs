//! `config` and `schema`: the file as it is understood, and how it may be written.

use std::process::ExitCode;

use super::args::{ConfigArguments, TextFormat};
use super::failure::Failure;
use super::{stack_file, view};
use crate::spec::{self, Stack};

pub fn config(arguments: &ConfigArguments) -> Result<ExitCode, Failure> {
    let options = stack_file::options(&arguments.file)?;
    let resolved = spec::resolve(&options);
    let (loaded, document) = resolved.map_err(|diagnostics| Failure::new(diagnostics.render(view::color())))?;
    let warnings = loaded.warnings.render(view::color());
    if !warnings.trim().is_empty() {
        view::note(warnings.trim_end());
    }
    match (names(arguments, &loaded.stack), arguments.format) {
        _ if arguments.quiet => {}
        (Some(names), _) => view::out(&names.iter().map(|name| format!("{name}\n")).collect::<String>())?,
        (None, TextFormat::Yaml) => view::out(&document.to_yaml())?,
        (None, TextFormat::Json) => view::json(&document.to_json())?,
    }
    Ok(ExitCode::SUCCESS)
}

pub fn schema() -> Result<ExitCode, Failure> {
    view::json(&spec::schema())?;
    Ok(ExitCode::SUCCESS)
}

/// What is asked for instead of the whole.
fn names<'a>(arguments: &ConfigArguments, stack: &'a Stack) -> Option<Vec<&'a str>> {
    if arguments.images {
        let mut images: Vec<&str> = stack.containers.values().map(|one| one.image.reference.as_str()).collect();
        images.sort_unstable();
        images.dedup();
        return Some(images);
    }
    let keys = |wanted: bool, keys: Vec<&'a str>| wanted.then_some(keys);
    keys(arguments.services, stack.containers.keys().map(String::as_str).collect())
        .or_else(|| keys(arguments.networks, stack.networks.keys().map(String::as_str).collect()))
        .or_else(|| keys(arguments.volumes, stack.volumes.keys().map(String::as_str).collect()))
}
