//! Day two: what runs, and telling it to stop, start and go away.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::args::Format;
use super::args::{Kill, Names, Ps, Rm, Stats, StopArguments};
use super::failure::Failure;
use super::view::{self, Table};
use crate::engine::native::containers;
use crate::reconcile::resource::label;
use crate::runtime::container::{self, Container, Health, Phase, State, Stop};
use crate::runtime::network;
use crate::runtime::roots::Roots;

/// Does it with each; those after one that failed are done too.
fn each(names: &[String], mut action: impl FnMut(&str) -> Result<(), Failure>) -> Result<ExitCode, Failure> {
    let mut failures = Vec::new();
    for name in names {
        match action(name) {
            Ok(()) => view::out(&format!("{name}\n"))?,
            Err(failure) => failures.push(failure.to_string()),
        }
    }
    if failures.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(Failure::new(failures.join("\nerror: "))) }
}

fn how(arguments: &StopArguments) -> Stop {
    Stop { signal: None, grace: arguments.time.map(Duration::from_secs) }
}

pub fn start(roots: &Roots, arguments: &Names) -> Result<ExitCode, Failure> {
    each(&arguments.names, |name| Ok(containers::start(roots, name)?))
}

pub fn stop(roots: &Roots, arguments: &StopArguments) -> Result<ExitCode, Failure> {
    each(&arguments.names, |name| Ok(container::stop(roots, name, &how(arguments))?))
}

pub fn restart(roots: &Roots, arguments: &StopArguments) -> Result<ExitCode, Failure> {
    each(&arguments.names, |name| Ok(containers::restart(roots, name, &how(arguments))?))
}

pub fn kill(roots: &Roots, arguments: &Kill) -> Result<ExitCode, Failure> {
    each(&arguments.names, |name| Ok(container::kill(roots, name, &arguments.signal)?))
}

pub fn rm(roots: &Roots, arguments: &Rm) -> Result<ExitCode, Failure> {
    each(&arguments.names, |name| {
        // Only here is one that is not there an error: somebody typed the name.
        if !arguments.force {
            container::get(roots, name)?;
        }
        Ok(containers::remove(roots, name, arguments.force)?)
    })
}

pub fn pause(roots: &Roots, arguments: &Names) -> Result<ExitCode, Failure> {
    each(&arguments.names, |name| Ok(container::pause(roots, name)?))
}

pub fn unpause(roots: &Roots, arguments: &Names) -> Result<ExitCode, Failure> {
    each(&arguments.names, |name| Ok(container::unpause(roots, name)?))
}

pub fn wait(roots: &Roots, arguments: &Names) -> Result<ExitCode, Failure> {
    for name in &arguments.names {
        view::out(&format!("{}\n", container::wait(roots, name, None)?))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn top(roots: &Roots, name: &str) -> Result<ExitCode, Failure> {
    let mut table = Table::new(&["PID", "PPID", "UID", "COMMAND"]);
    for pid in container::processes(roots, name)? {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let status = read("status");
        let field = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.split_whitespace().next()).unwrap_or("").to_owned()
        };
        let command = read("cmdline").trim_end_matches('\0').replace('\0', " ");
        table.row([pid.to_string(), field("PPid:"), field("Uid:"), command]);
    }
    view::out(&table.render())?;
    Ok(ExitCode::SUCCESS)
}

pub fn stats(roots: &Roots, arguments: &Stats) -> Result<ExitCode, Failure> {
    let names = if arguments.names.is_empty() {
        let running = container::list(roots)?.into_iter().filter(Container::is_running);
        running.map(|one| one.config.name).collect()
    } else {
        arguments.names.clone()
    };
    let mut table = Table::new(&["NAME", "CPU TIME", "MEMORY", "LIMIT", "PIDS"]);
    let mut values = Vec::new();
    for name in &names {
        let stats = container::stats(roots, name)?;
        let seconds = stats.cpu_ns as f64 / 1e9;
        let limit = stats.memory_limit.map_or("none".to_owned(), view::size);
        table.row([
            name.clone(),
            format!("{seconds:.2}s"),
            view::size(stats.memory_bytes),
            limit,
            stats.processes.to_string(),
        ]);
        values.push(json!({"name": name, "cpu_ns": stats.cpu_ns, "memory_bytes": stats.memory_bytes,
                           "memory_limit_bytes": stats.memory_limit, "pids": stats.processes}));
    }
    show(arguments.format.format, &table, &values)
}

/// The table, or the same as JSON lines' array.
pub fn show(format: Format, table: &Table, values: &[Value]) -> Result<ExitCode, Failure> {
    match format {
        Format::Table => view::out(&table.render())?,
        Format::Json => view::json(&values)?,
    }
    Ok(ExitCode::SUCCESS)
}

pub fn ps(roots: &Roots, arguments: &Ps) -> Result<ExitCode, Failure> {
    let wanted = |one: &Container| {
        let of_stack =
            arguments.project_name.as_ref().is_none_or(|name| one.config.labels.get(label::STACK) == Some(name));
        of_stack && (arguments.all || one.is_running())
    };
    let all: Vec<Container> = container::list(roots)?.into_iter().filter(wanted).collect();
    if arguments.list.quiet {
        let names: String = all.iter().map(|one| format!("{}\n", one.config.name)).collect();
        view::out(&names)?;
        return Ok(ExitCode::SUCCESS);
    }
    let attachments = network::attachments(roots)?;
    let ports = |name: &str| {
        let found = attachments.iter().find(|one| one.container == name);
        found.map(|one| one.ports.clone()).unwrap_or_default()
    };
    let mut table = Table::new(&["NAME", "IMAGE", "STATUS", "PORTS"]);
    let mut values = Vec::new();
    for one in &all {
        let ports = if one.is_running() { ports(&one.config.name) } else { Vec::new() };
        let texts: Vec<String> = ports.iter().map(port).collect();
        table.row([one.config.name.clone(), one.config.image.clone(), status(one), texts.join(", ")]);
        values.push(value(one, &texts));
    }
    show(arguments.list.format.format, &table, &values)
}

fn port(port: &network::Port) -> String {
    let ip = port.host_ip.map_or("0.0.0.0".to_owned(), |ip| ip.to_string());
    format!("{ip}:{}->{}/{}", port.host_port, port.container_port, port.protocol)
}

/// `Up 5 minutes (healthy)`, `Exited (0) 3 hours ago`, in docker's words.
fn status(one: &Container) -> String {
    let now = jiff::Timestamp::now().as_millisecond();
    let since = |at: u64| view::age((now - i64::try_from(at).unwrap_or(now)) / 1000);
    let health = match one.status.health {
        Health::None => "",
        Health::Starting => " (health: starting)",
        Health::Healthy => " (healthy)",
        Health::Unhealthy => " (unhealthy)",
    };
    match one.status.state {
        _ if one.phase == Phase::Creating => "Half made".to_owned(),
        State::Created => "Created".to_owned(),
        State::Running => format!("Up {}{health}", since(one.status.started_ms)),
        State::Paused => format!("Up {} (Paused)", since(one.status.started_ms)),
        State::Restarting => format!("Restarting ({}) {} ago", one.status.exit_code, since(one.status.finished_ms)),
        State::Exited => format!("Exited ({}) {} ago", one.status.exit_code, since(one.status.finished_ms)),
    }
}

/// What programs read: `ps --format json`.
fn value(one: &Container, ports: &[String]) -> Value {
    json!({
        "name": one.config.name,
        "id": one.config.id,
        "image": one.config.image,
        "state": one.status.state,
        "health": one.status.health,
        "status": status(one),
        "exit_code": one.status.exit_code,
        "pid": one.status.process.pid,
        "restarts": one.status.restarts,
        "ports": ports,
        "labels": one.config.labels,
        "stack": one.config.labels.get(label::STACK),
        "service": one.config.labels.get(label::SERVICE),
    })
}

/// Everything known of one container.
pub fn inspect(roots: &Roots, name: &str) -> Result<Option<Value>, Failure> {
    let one = match container::get(roots, name) {
        Ok(one) => one,
        Err(container::Error::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let network = network::attachments(roots)?.into_iter().find(|found| found.container == one.config.name);
    Ok(Some(json!({
        "kind": "container",
        "name": one.config.name,
        "id": one.config.id,
        "image": one.config.image,
        "image_id": one.config.image_id,
        "created_ms": one.config.created_ms,
        "phase": one.phase,
        "status": one.status,
        "restart": one.config.restart,
        "labels": one.config.labels,
        "network": network,
        "runtime": one.config.request,
        "declared": one.config.declared,
    })))
}
