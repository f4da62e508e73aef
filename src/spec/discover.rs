//! Which files make up the stack.

use std::path::{Path, PathBuf};

use super::diagnostics::Diagnostic;
use super::load::{LoadOptions, normalise, read_env_file};
use super::lower::Context;

const NATIVE: [&str; 3] = ["stack.yaml", "stack.yml", "stack.toml"];
const COMPOSE: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];
const OVERRIDES: [&str; 4] =
    ["compose.override.yaml", "compose.override.yml", "docker-compose.override.yaml", "docker-compose.override.yml"];

/// One text to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    File(PathBuf),
    Stdin,
}

/// The files of a stack, in the order in which they are merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub inputs: Vec<Input>,
    /// What relative paths in all of them mean: the directory of the first file.
    pub directory: PathBuf,
}

impl Found {
    pub fn paths(&self) -> Vec<PathBuf> {
        let path = |input: &Input| match input {
            Input::File(path) => Some(path.clone()),
            Input::Stdin => None,
        };
        self.inputs.iter().filter_map(path).collect()
    }
}

/// Named files, else those of `COMPOSE_FILE`, else the usual names in this and parent folders.
pub fn find(options: &LoadOptions, cx: &mut Context<'_>) -> Result<Found, Diagnostic> {
    let mut named = options.files.clone();
    if named.is_empty() {
        named = compose_file(options, cx);
    }
    if named.is_empty() {
        return upwards(&options.start, cx);
    }
    let mut inputs = Vec::new();
    for name in named {
        if name == Path::new("-") {
            inputs.push(Input::Stdin);
            continue;
        }
        let path = normalise(&options.start.join(&name));
        if cx.files.is_directory(&path) {
            let found = in_directory(&path, cx);
            if found.is_empty() {
                return Err(
                    Diagnostic::error(format!("there is no stack file in {}", name.display()), None).help(names_help())
                );
            }
            inputs.extend(found.into_iter().map(Input::File));
        } else {
            cx.files.watch(&path);
            if !cx.files.exists(&path) {
                let message = format!("there is no file {}", name.display());
                return Err(Diagnostic::error(message, None).help("correct the path"));
            }
            inputs.push(Input::File(path));
        }
    }
    let directory = match inputs.first() {
        Some(Input::File(path)) => path.parent().unwrap_or(path).to_owned(),
        _ => options.start.clone(),
    };
    Ok(Found { inputs, directory })
}

/// `COMPOSE_FILE`, from the environment or from `.env` where the user stands.
fn compose_file(options: &LoadOptions, cx: &mut Context<'_>) -> Vec<PathBuf> {
    let dotenv = options.start.join(".env");
    let mut around = cx.environment.clone();
    if !around.contains_key("COMPOSE_FILE") && cx.files.exists(&dotenv) {
        // Its errors are reported when it is read as the stack's own.
        let (before, sources) = (cx.diagnostics.len(), cx.sources.clone());
        let read = read_env_file(&dotenv, &Default::default(), cx);
        cx.diagnostics.truncate(before);
        cx.sources = sources;
        for (name, value) in read {
            around.entry(name).or_insert(value);
        }
    }
    let separator = around.get("COMPOSE_PATH_SEPARATOR").cloned().filter(|word| !word.is_empty()).unwrap_or(":".into());
    let list = around.get("COMPOSE_FILE").map(String::as_str).unwrap_or_default();
    list.split(&separator).filter(|name| !name.is_empty()).map(PathBuf::from).collect()
}

fn upwards(start: &Path, cx: &mut Context<'_>) -> Result<Found, Diagnostic> {
    for directory in start.ancestors() {
        let files = in_directory(directory, cx);
        if !files.is_empty() {
            return Ok(Found { inputs: files.into_iter().map(Input::File).collect(), directory: directory.to_owned() });
        }
    }
    Err(Diagnostic::error("there is no stack file in this or a parent folder", None).help(names_help()))
}

fn in_directory(directory: &Path, cx: &mut Context<'_>) -> Vec<PathBuf> {
    let mut first = |names: &[&str]| names.iter().map(|name| directory.join(name)).find(|path| cx.files.exists(path));
    if let Some(native) = first(&NATIVE) {
        return vec![native];
    }
    let compose = first(&COMPOSE);
    let over = compose.as_ref().and_then(|_| first(&OVERRIDES));
    compose.into_iter().chain(over).collect()
}

fn names_help() -> String {
    format!("name a file, or call it one of {}, {}", NATIVE.join(", "), COMPOSE.join(", "))
}
