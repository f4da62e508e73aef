//! `ps`: which containers there are, and what they do.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::Ps;
use super::failure::Failure;
use super::filter::{Filters, is_pattern, name_matches};
use super::format::{Column, Format, Listing, Row};
use super::{names, view};
use crate::engine::native::declared;
use crate::reconcile::resource::{MountSource, label};
use crate::runtime::container::{self, Container, Health, Phase, State};
use crate::runtime::network::{self, Attachment};
use crate::runtime::roots::Roots;

const COLUMNS: &[Column] = &[
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Health", "HEALTH"),
    ("ExitCode", "EXIT CODE"),
    ("Ports", "PORTS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Service", "SERVICE"),
    ("Project", "STACK"),
    ("Stack", "STACK"),
];

const FILTERS: &[&str] = &[
    "ancestor", "before", "exited", "expose", "health", "id", "label", "label!", "name", "network", "publish",
    "service", "since", "stack", "status", "volume",
];

/// A container, with what is kept of it elsewhere.
struct Found {
    container: Container,
    attachment: Attachment,
    /// What it mounts, in few words: names of volumes, else paths.
    mounts: Vec<String>,
    volumes: Vec<String>,
}

pub fn ps(roots: &Roots, arguments: &Ps) -> Result<ExitCode, Failure> {
    let all = find(roots, arguments)?;
    let mut listing = Listing::new(COLUMNS, &table(arguments));
    if arguments.list.quiet && matches!(arguments.list.format.format, Format::Table) {
        let ids = all.iter().map(|one| id(&one.container, arguments.no_trunc) + "\n");
        view::out(&ids.collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    for one in &all {
        let size =
            if arguments.size { Some(container::written_bytes(roots, &one.container.config.name)?) } else { None };
        listing.push(row(one, arguments.no_trunc, size));
    }
    listing.print(&arguments.list.format.format)?;
    Ok(ExitCode::SUCCESS)
}

fn table(arguments: &Ps) -> Vec<&'static str> {
    let mut table = vec!["Name", "Image", "Command", "RunningFor", "Status", "Ports"];
    if arguments.no_trunc {
        table.insert(0, "ID");
    }
    if arguments.size {
        table.push("Size");
    }
    table
}

fn find(roots: &Roots, arguments: &Ps) -> Result<Vec<Found>, Failure> {
    let filters = Filters::parse(&arguments.list.filter.filter, FILTERS)?;
    let bound = |key: &str| -> Result<Option<u64>, Failure> {
        filters.first(key).map(|name| Ok(names::one(roots, name)?.config.created_ms)).transpose()
    };
    let (before, since) = (bound("before")?, bound("since")?);
    filters.each("status", "expected created, running, paused, restarting or exited", |text| {
        ["created", "running", "paused", "restarting", "exited", "removing", "dead"].contains(&text)
    })?;
    filters.each("name", "expected a regular expression", is_pattern)?;
    filters.each("exited", "expected an exit code", |text| text.parse::<i32>().is_ok())?;
    let attachments = network::attachments(roots)?;
    let last = if arguments.latest { Some(1) } else { arguments.last };
    let everything = arguments.all || last.is_some() || filters.is_given("status") || filters.is_given("exited");
    let wanted = |one: &Found| {
        let config = &one.container.config;
        let stack = config.labels.get(label::STACK);
        (everything || one.container.is_running())
            && arguments.project_name.as_ref().is_none_or(|name| stack == Some(name))
            && before.is_none_or(|at| config.created_ms < at)
            && since.is_none_or(|at| config.created_ms > at)
            && matches(one, &filters)
    };
    let with = |container: Container| found(container, &attachments);
    let mut all: Vec<Found> =
        container::adopt_all(roots, container::list(roots)?)?.into_iter().map(with).filter(wanted).collect();
    if let Some(count) = last {
        all.sort_by_key(|one| std::cmp::Reverse(one.container.config.created_ms));
        all.truncate(count);
    }
    Ok(all)
}

fn found(container: Container, attachments: &[Attachment]) -> Found {
    let own = attachments.iter().find(|one| one.container == container.config.name);
    // Ports are only handed on to what runs.
    let ports = own.filter(|_| container.is_running()).map(|own| own.ports.clone()).unwrap_or_default();
    let attachment = Attachment { ports, ..own.cloned().unwrap_or_default() };
    let mounts = declared(&container).map(|wanted| wanted.mounts).unwrap_or_default();
    let volumes: Vec<String> = mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            MountSource::Volume { volume, .. } => Some(volume.clone().unwrap_or_else(|| mount.target.clone())),
            _ => None,
        })
        .collect();
    let binds = mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Bind { source, .. } => Some(source.display().to_string()),
        _ => None,
    });
    Found { mounts: volumes.iter().cloned().chain(binds).collect(), volumes, container, attachment }
}

fn matches(one: &Found, filters: &Filters) -> bool {
    let (config, status) = (&one.container.config, &one.container.status);
    let label_is = |key: &str, value: &str| config.labels.get(key).is_some_and(|found| found == value);
    let port_is = |number: u16, text: &str| {
        let (first, last) = text.split('/').next().and_then(super::options::range).unwrap_or((0, 0));
        (first..=last).contains(&number)
    };
    filters.labels(&config.labels)
        && filters.any("ancestor", |image| is_ancestor(config, image))
        && filters.any("exited", |code| status.state == State::Exited && code == status.exit_code.to_string())
        && filters.any("expose", |port| one.attachment.ports.iter().any(|own| port_is(own.container_port, port)))
        && filters.any("publish", |port| one.attachment.ports.iter().any(|own| port_is(own.host_port, port)))
        && filters.any("health", |health| health_word(status.health) == health)
        && filters.any("id", |id| config.id.starts_with(id))
        && filters.any("name", |name| name_matches(&config.name, name))
        && filters.any("network", |network| one.attachment.endpoints.contains_key(network))
        && filters.any("service", |service| label_is(label::SERVICE, service))
        && filters.any("stack", |stack| label_is(label::STACK, stack))
        && filters.any("status", |state| state_word(status.state) == state)
        && filters.any("volume", |volume| one.mounts.iter().any(|mount| mount == volume))
}

fn is_ancestor(config: &container::Config, image: &str) -> bool {
    let id = config.image_id.strip_prefix("sha256:").unwrap_or(&config.image_id);
    let wanted = image.strip_prefix("sha256:").unwrap_or(image);
    config.image == image
        || config.image.strip_suffix(":latest") == Some(image)
        || config.image == format!("{image}:latest")
        || (wanted.len() >= 3 && id.starts_with(wanted))
}

fn id(one: &Container, whole: bool) -> String {
    if whole { one.config.id.clone() } else { one.config.id.chars().take(12).collect() }
}

fn row(one: &Found, whole: bool, size: Option<u64>) -> Row {
    let config = &one.container.config;
    let command = config.request.args.join(" ");
    let list = |all: &[String]| if whole { all.join(",") } else { view::cut(&all.join(","), 40) };
    let labels: Vec<String> = config.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let label = |key: &str| config.labels.get(key).cloned().unwrap_or_default();
    let networks: Vec<String> = one.attachment.endpoints.keys().cloned().collect();
    let cells = [
        ("ID", id(&one.container, whole)),
        ("Name", config.name.clone()),
        ("Names", config.name.clone()),
        ("Image", config.image.clone()),
        ("Command", format!("\"{}\"", if whole { command } else { view::cut(&command, 20) })),
        ("CreatedAt", created_at(config.created_ms)),
        ("RunningFor", view::ago(config.created_ms)),
        ("Status", status(&one.container)),
        ("State", state_word(one.container.status.state).to_owned()),
        ("Health", health_word(one.container.status.health).to_owned()),
        ("ExitCode", one.container.status.exit_code.to_string()),
        ("Ports", one.attachment.ports.iter().map(port).collect::<Vec<_>>().join(", ")),
        ("Size", size.map(view::size).unwrap_or_default()),
        ("Labels", labels.join(",")),
        ("Mounts", list(&one.mounts)),
        ("LocalVolumes", one.volumes.len().to_string()),
        ("Networks", list(&networks)),
        ("Service", label(label::SERVICE)),
        ("Project", label(label::STACK)),
        ("Stack", label(label::STACK)),
    ];
    Row::new(cells, value(one, &networks, size)).with_labels(&config.labels)
}

/// As docker's templates have it: `2024-01-02 15:04:05 +0000 UTC`.
pub fn created_at(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map(|time| time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()).unwrap_or_default()
}

/// `127.0.0.1:8080->80/tcp`.
pub fn port(port: &network::Port) -> String {
    format!("{}->{}/{}", host_port(port), port.container_port, port.protocol)
}

/// `127.0.0.1:8080`, `[::1]:8080`.
pub fn host_port(port: &network::Port) -> String {
    match port.host_ip {
        Some(std::net::IpAddr::V6(ip)) => format!("[{ip}]:{}", port.host_port),
        Some(ip) => format!("{ip}:{}", port.host_port),
        None => format!("0.0.0.0:{}", port.host_port),
    }
}

pub fn state_word(state: State) -> &'static str {
    match state {
        State::Created => "created",
        State::Running => "running",
        State::Paused => "paused",
        State::Restarting => "restarting",
        State::Exited => "exited",
    }
}

pub fn health_word(health: Health) -> &'static str {
    match health {
        Health::None => "none",
        Health::Starting => "starting",
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
    }
}

/// `Up 5 minutes (healthy)`, `Exited (0) 3 hours ago`, in docker's words.
pub fn status(one: &Container) -> String {
    let up = |since: u64| view::ago(since).trim_end_matches(" ago").to_owned();
    let health = match one.status.health {
        Health::None => "",
        Health::Starting => " (health: starting)",
        Health::Healthy => " (healthy)",
        Health::Unhealthy if one.status.budget_spent => " (unhealthy, budget spent)",
        Health::Unhealthy => " (unhealthy)",
    };
    match one.status.state {
        _ if one.phase == Phase::Creating => "Half made".to_owned(),
        State::Created => "Created".to_owned(),
        State::Running => format!("Up {}{health}", up(one.status.started_ms)),
        State::Paused => format!("Up {} (Paused)", up(one.status.started_ms)),
        State::Restarting => format!("Restarting ({}) {}", one.status.exit_code, view::ago(one.status.finished_ms)),
        State::Exited => format!("Exited ({}) {}", one.status.exit_code, view::ago(one.status.finished_ms)),
    }
}

/// What programs read: an object of `ps --format json`.
fn value(one: &Found, networks: &[String], size: Option<u64>) -> Value {
    let (config, status_now) = (&one.container.config, &one.container.status);
    let mut value = json!({
        "name": config.name,
        "id": config.id,
        "image": config.image,
        "image_id": config.image_id,
        "command": config.request.args,
        "created_at": view::time(config.created_ms),
        "state": status_now.state,
        "health": status_now.health,
        "status": status(&one.container),
        "exit_code": status_now.exit_code,
        "oom_killed": status_now.oom_killed,
        "error": status_now.error,
        "pid": status_now.process.pid,
        "started_at": view::time(status_now.started_ms),
        "finished_at": view::time(status_now.finished_ms),
        "restarts": status_now.restarts,
        "ports": one.attachment.ports,
        "networks": networks,
        "mounts": one.mounts,
        "labels": config.labels,
        "stack": config.labels.get(label::STACK),
        "service": config.labels.get(label::SERVICE),
    });
    if let Some(size) = size {
        value["size_bytes"] = json!(size);
    }
    value
}
