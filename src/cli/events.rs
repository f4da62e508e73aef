//! `events`: what happens, as it happens.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::Events;
use super::failure::Failure;
use super::filter::Filters;
use super::format::{Format, Template};
use super::{logs, view};
use crate::reconcile::resource::label;
use crate::runtime::events::{self, Event, Kind, Select};
use crate::runtime::roots::Roots;

const FILTERS: &[&str] =
    &["container", "event", "image", "label", "label!", "name", "network", "service", "stack", "type", "volume"];

pub fn events(roots: &Roots, arguments: &Events) -> Result<ExitCode, Failure> {
    let filters = Filters::parse(&arguments.filter.filter, FILTERS)?;
    let now = jiff::Timestamp::now();
    let moment = |flag: &str, text: &Option<String>| -> Result<Option<u64>, Failure> {
        let moment = text.as_deref().map(|text| logs::moment(flag, text, now)).transpose()?;
        Ok(moment.map(|moment| u64::try_from(moment.as_nanosecond()).unwrap_or(0)))
    };
    let select =
        Select { since_ns: moment("--since", &arguments.since)?, until_ns: moment("--until", &arguments.until)? };
    let template = match &arguments.format.format {
        Format::Template(template) => Some(template.clone()),
        Format::TableTemplate(_) => return Err(Failure::new("--format: events have no table with headings")),
        Format::Table | Format::Json => None,
    };
    let is_json = matches!(arguments.format.format, Format::Json);
    let mut printed = Ok(());
    events::read(roots, select, &mut |event| {
        if holds(&filters, event) {
            printed = print(event, is_json, template.as_ref());
        }
        printed.is_ok()
    })?;
    logs::unless_gone(printed)?;
    Ok(ExitCode::SUCCESS)
}

fn holds(filters: &Filters, event: &Event) -> bool {
    let of = |kind: Kind, value: &str| {
        event.kind == kind && (event.name == value || (value.len() > 2 && event.id.starts_with(value)))
    };
    let attribute = |key: &str, value: &str| event.attributes.get(key).is_some_and(|found| found == value);
    filters.any("type", |value| event.kind.as_str() == value)
        && filters.any("event", |value| event.action.split(':').next() == Some(value) || event.action == value)
        && filters.any("name", |value| event.name == value)
        && filters.any("container", |value| of(Kind::Container, value) || attribute("container", value))
        && filters.any("image", |value| of(Kind::Image, value) || attribute("image", value))
        && filters.any("network", |value| of(Kind::Network, value))
        && filters.any("volume", |value| of(Kind::Volume, value))
        && filters.any("service", |value| attribute(label::SERVICE, value))
        && filters.any("stack", |value| attribute(label::STACK, value))
        && filters.labels(&event.attributes)
}

fn print(event: &Event, is_json: bool, template: Option<&Template>) -> io::Result<()> {
    let text = match (template, is_json) {
        (Some(template), _) => template.render(&in_dockers_words(event)).map_err(io::Error::other)?,
        (None, true) => json!({"time": time(event), "type": event.kind.as_str(), "action": event.action,
            "id": event.id, "name": event.name, "attributes": event.attributes})
        .to_string(),
        (None, false) => line(event),
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush())
}

/// `2024-05-06T07:08:09.123456789Z container start 3fa2… (image=nginx, name=web)`, as docker has it.
fn line(event: &Event) -> String {
    let name = ("name", event.name.as_str());
    let others = event.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let mut attributes: Vec<_> = others.chain([name]).collect();
    attributes.sort_unstable();
    let attributes: Vec<String> = attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let (kind, action, id) = (event.kind.as_str(), &event.action, &event.id);
    view::printable(&format!("{} {kind} {action} {id} ({})", time(event), attributes.join(", ")))
}

fn time(event: &Event) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(event.time_ns));
    time.map(|time| format!("{time:.9}")).unwrap_or_default()
}

/// What templates name.
fn in_dockers_words(event: &Event) -> Value {
    let mut attributes = event.attributes.clone();
    attributes.insert("name".to_owned(), event.name.clone());
    json!({
        "Type": event.kind.as_str(),
        "Action": event.action,
        "Status": event.action,
        "ID": event.id,
        "From": event.attributes.get("image"),
        "Actor": {"ID": event.id, "Attributes": attributes},
        "Time": event.time_ns / 1_000_000_000,
        "TimeNano": event.time_ns,
        // As `{{json .}}` has them in docker.
        "id": event.id,
        "status": event.action,
        "from": event.attributes.get("image"),
        "scope": "local",
        "time": event.time_ns / 1_000_000_000,
        "timeNano": event.time_ns,
    })
}
