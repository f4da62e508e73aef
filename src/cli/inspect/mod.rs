//! `inspect`: everything known about a thing, in docker's words, so that templates and scripts written for docker read
//! it. What only this engine has is below the key `Stack`.

use std::process::ExitCode;

use serde_json::Value;

use super::args::{Inspect, InspectOne};
use super::failure::Failure;
use super::format::Template;
use super::{images, names, view};
use crate::runtime::image::Store;
use crate::runtime::plugin::managed;
use crate::runtime::roots::Roots;
use crate::runtime::{container, network, volume};

mod of_container;
mod of_object;

pub use super::args::Kind;

/// Where `inspect` looks, in this order.
const ALL: [Kind; 4] = [Kind::Container, Kind::Image, Kind::Network, Kind::Volume];

pub fn inspect(roots: &Roots, arguments: &Inspect) -> Result<ExitCode, Failure> {
    let kinds = arguments.kind.map_or(ALL.to_vec(), |kind| vec![kind]);
    show(roots, &arguments.names, &arguments.format, &kinds, arguments.size)
}

pub fn one_kind(roots: &Roots, arguments: &InspectOne, kind: Kind) -> Result<ExitCode, Failure> {
    show(roots, &arguments.names, &arguments.format, &[kind], false)
}

/// Plugins, which have names of their own.
pub fn plugins(roots: &Roots, arguments: &InspectOne) -> Result<ExitCode, Failure> {
    let look = |name: &String| match managed::look(roots, name)? {
        Some(found) => Ok(Ok(super::plugins::described(roots, &found))),
        None => Ok(Err(Failure::from(managed::Error::Unknown { name: name.clone() }))),
    };
    print(&arguments.names, &arguments.format, look)
}

/// What is found is shown although something else is not, as docker does.
fn show(roots: &Roots, wanted: &[String], format: &str, kinds: &[Kind], size: bool) -> Result<ExitCode, Failure> {
    print(wanted, format, |name| match find(roots, name, kinds, size)? {
        Some(value) => Ok(Ok(value)),
        None => Ok(Err(absent(roots, name, kinds)?)),
    })
}

fn print(
    wanted: &[String],
    format: &str,
    look: impl Fn(&String) -> Result<Result<Value, Failure>, Failure>,
) -> Result<ExitCode, Failure> {
    let template = template(format)?;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for name in wanted {
        match look(name)? {
            Ok(value) => found.push(value),
            Err(failure) => failures.push(failure),
        }
    }
    match template {
        None => view::json(&found)?,
        Some(template) => {
            for value in &found {
                view::out(&(template.render(value)? + "\n"))?;
            }
        }
    }
    Failure::of_all(failures)
}

fn template(format: &str) -> Result<Option<Template>, Failure> {
    match format {
        "json" | "" => Ok(None),
        text => {
            let text = text.replace("\\t", "\t").replace("\\n", "\n");
            Ok(Some(Template::parse(&text).map_err(|reason| Failure::new(format!("--format {text:?}: {reason}")))?))
        }
    }
}

fn find(roots: &Roots, name: &str, kinds: &[Kind], size: bool) -> Result<Option<Value>, Failure> {
    for kind in kinds {
        let found = match kind {
            Kind::Container => match container::get(roots, name) {
                Ok(one) => Some(of_container::value(roots, &names::supervised(roots, one)?, size)?),
                Err(container::Error::NotFound(_)) => None,
                Err(error) => return Err(error.into()),
            },
            Kind::Image => Store::open(roots).get(name)?.map(|image| of_object::image(&image)),
            Kind::Network => {
                let found = network::list(roots)?.into_iter().find(|one| one.config.name == name);
                found.map(|one| of_object::network(roots, &one)).transpose()?
            }
            Kind::Volume => {
                let found = volume::list(roots)?.into_iter().find(|one| one.config.name == name);
                found.map(|one| of_object::volume(roots, &one)).transpose()?
            }
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The error that names the nearest of the kinds that were looked among.
fn absent(roots: &Roots, name: &str, kinds: &[Kind]) -> Result<Failure, Failure> {
    let mut known = Vec::new();
    for kind in kinds {
        match kind {
            Kind::Container => known.extend(container::list(roots)?.into_iter().map(|one| one.config.name)),
            Kind::Image => known.extend(Store::open(roots).list()?.into_iter().map(|image| image.reference)),
            Kind::Network => known.extend(network::list(roots)?.into_iter().map(|one| one.config.name)),
            Kind::Volume => known.extend(volume::list(roots)?.into_iter().map(|one| one.config.name)),
        }
    }
    let (what, list) = match kinds {
        [Kind::Container] => ("no container", "`stack ps -a` lists them"),
        [Kind::Image] => return Ok(images::get(roots, name).err().unwrap_or_else(|| Failure::new("it is there now"))),
        [Kind::Network] => ("no network", "`stack network ls` lists them"),
        [Kind::Volume] => ("no volume", "`stack volume ls` lists them"),
        _ => ("no container, image, network or volume", "`stack ps -a` and `stack images` list what there is"),
    };
    let help = names::hint(name, known.iter().map(String::as_str), list);
    Ok(Failure::new(format!("{what} {name:?}\n  help: {help}")))
}
