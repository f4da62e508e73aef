//! Configs and secrets that the engine keeps: `stack config create`, `stack secret ls`, and so on, in docker's words. What
//! a secret holds is never printed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::args::{InspectOne, List, ObjectCommand, ObjectCreate, ObjectNames};
use super::failure::Failure;
use super::filter::{Filters, name_matches};
use super::format::{Column, Listing, Row, Template};
use super::{options, view};
use crate::engine::native::object_users;
use crate::runtime::objects::{self, Existing, Kind, LARGEST, Object};
use crate::runtime::roots::Roots;

const COLUMNS: &[Column] = &[
    ("ID", "ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("CreatedAt", "CREATED"),
    ("UpdatedAt", "UPDATED"),
    ("Containers", "CONTAINERS"),
    ("Labels", "LABELS"),
];

pub fn command(roots: &Roots, kind: Kind, command: &ObjectCommand) -> Result<ExitCode, Failure> {
    match command {
        ObjectCommand::Create(arguments) => create(roots, kind, arguments),
        ObjectCommand::Ls(arguments) => list(roots, kind, arguments),
        ObjectCommand::Inspect(arguments) => inspect(roots, kind, arguments),
        ObjectCommand::Rm(arguments) => rm(roots, kind, arguments),
    }
}

fn create(roots: &Roots, kind: Kind, arguments: &ObjectCreate) -> Result<ExitCode, Failure> {
    let mut content = Vec::new();
    // One byte more tells that it is too large.
    let limit = LARGEST as u64 + 1;
    if arguments.file.as_os_str() == "-" {
        io::stdin().take(limit).read_to_end(&mut content)?;
    } else {
        let at = |error: io::Error| Failure::new(format!("{}: {error}", arguments.file.display()));
        File::open(&arguments.file).map_err(at)?.take(limit).read_to_end(&mut content).map_err(at)?;
    }
    let labels: Result<BTreeMap<_, _>, Failure> =
        arguments.label.iter().map(|text| Ok(options::setting("--label", text)?)).collect();
    let existing = if arguments.replace { Existing::Replace } else { Existing::Refuse };
    let made = objects::create(roots, kind, &arguments.name, labels?, &content, existing)?;
    view::out(&format!("{}\n", made.id))?;
    Ok(ExitCode::SUCCESS)
}

fn list(roots: &Roots, kind: Kind, arguments: &List) -> Result<ExitCode, Failure> {
    let filters = Filters::parse(&arguments.filter.filter, &["id", "label", "label!", "name"])?;
    let wanted = |one: &Object| {
        filters.labels(&one.labels)
            && filters.any("name", |pattern| name_matches(&one.name, pattern))
            && filters.any("id", |id| one.id.starts_with(id))
    };
    let all: Vec<Object> = objects::list(roots, kind)?.into_iter().filter(wanted).collect();
    if arguments.quiet {
        view::out(&all.iter().map(|one| one.id.clone() + "\n").collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut listing = Listing::new(COLUMNS, &["ID", "Name", "CreatedAt", "UpdatedAt", "Containers"]);
    for one in &all {
        listing.push(row(one, object_users(roots, kind, &one.name)?.len()));
    }
    listing.print(&arguments.format.format)?;
    Ok(ExitCode::SUCCESS)
}

fn row(one: &Object, containers: usize) -> Row {
    let labels: Vec<String> = one.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let (created, updated) = (view::time(one.created_ms), view::time(one.updated_ms));
    let value = json!({"id": one.id, "name": one.name, "created_at": created, "updated_at": updated,
                       "containers": containers, "labels": one.labels});
    let cells = [
        ("ID", one.id.clone()),
        ("Name", one.name.clone()),
        ("Driver", String::new()),
        ("CreatedAt", view::ago(one.created_ms)),
        ("UpdatedAt", view::ago(one.updated_ms)),
        ("Containers", containers.to_string()),
        ("Labels", labels.join(",")),
    ];
    Row::new(cells, value).with_labels(&one.labels)
}

fn inspect(roots: &Roots, kind: Kind, arguments: &InspectOne) -> Result<ExitCode, Failure> {
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for name in &arguments.names {
        match objects::get(roots, kind, name) {
            Ok(one) => found.push(described(roots, kind, &one)?),
            Err(error) => failures.push(error.into()),
        }
    }
    if matches!(arguments.format.as_str(), "json" | "") {
        view::json(&found)?;
    } else {
        let text = arguments.format.replace("\\t", "\t").replace("\\n", "\n");
        let wrong = |reason| Failure::new(format!("--format {text:?}: {reason}"));
        let template = Template::parse(&text).map_err(wrong)?;
        for value in &found {
            view::out(&(template.render(value)? + "\n"))?;
        }
    }
    Failure::of_all(failures)
}

/// As docker describes one.
fn described(roots: &Roots, kind: Kind, one: &Object) -> Result<Value, Failure> {
    let mut value = json!({
        "ID": one.id,
        "Version": {"Index": one.updated_ms},
        "CreatedAt": view::time(one.created_ms),
        "UpdatedAt": view::time(one.updated_ms),
        "Spec": {"Name": one.name, "Labels": one.labels},
        "Stack": {"UsedBy": object_users(roots, kind, &one.name)?},
    });
    if kind == Kind::Config {
        value["Spec"]["Data"] = STANDARD.encode(objects::read(roots, kind, &one.name)?).into();
    }
    Ok(value)
}

fn rm(roots: &Roots, kind: Kind, arguments: &ObjectNames) -> Result<ExitCode, Failure> {
    let mut failures = Vec::new();
    for word in &arguments.names {
        match rm_one(roots, kind, word) {
            Ok(()) => view::out(&format!("{word}\n"))?,
            Err(_) if arguments.force && objects::get(roots, kind, word).is_err() => {}
            Err(failure) => failures.push(failure),
        }
    }
    Failure::of_all(failures)
}

fn rm_one(roots: &Roots, kind: Kind, word: &str) -> Result<(), Failure> {
    let name = objects::get(roots, kind, word)?.name;
    let users = object_users(roots, kind, &name)?;
    if !users.is_empty() {
        let (what, users) = (kind.word(), users.join(", "));
        return Err(Failure::new(format!("{what} {name} is used by {users}\n  help: remove these containers first")));
    }
    Ok(objects::remove(roots, kind, &name)?)
}
