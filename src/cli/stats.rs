//! `stats`: what containers use. A rate needs two looks; between them is a fixed time.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};
use serde_json::json;

use super::args::Stats as Arguments;
use super::failure::Failure;
use super::format::{Column, Format, Listing, Row};
use super::names::Here;
use super::{names, view};
use crate::runtime::container::{self, Container, Stats};
use crate::runtime::roots::Roots;

const EVERY: Duration = Duration::from_secs(1);
/// For `--no-stream`, where somebody waits.
const SHORT: Duration = Duration::from_millis(500);

const COLUMNS: &[Column] = &[
    ("ID", "CONTAINER ID"),
    ("Container", "CONTAINER"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];
const TABLE: [&str; 8] = ["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"];

/// What was seen at one moment, by container.
struct Look {
    at: Instant,
    seen: BTreeMap<String, (Container, Stats, Traffic)>,
}

/// Bytes over all interfaces but the loopback.
#[derive(Clone, Copy, Default)]
struct Traffic {
    received: u64,
    sent: u64,
}

pub fn stats(roots: &Roots, here: &Here, arguments: &Arguments) -> Result<ExitCode, Failure> {
    // A name that is wrong from the start is an error; one that ends meanwhile only goes from the list.
    let named = if arguments.names.is_empty() { vec![] } else { names::several(roots, here, &arguments.names)? };
    let named: Vec<String> = named.into_iter().map(|one| one.config.name).collect();
    let live = !arguments.no_stream;
    let terminal = live && std::io::stdout().is_terminal() && matches!(arguments.format.format, Format::Table);
    let mut before = look(roots, &named, arguments.all)?;
    loop {
        pause(if live { EVERY } else { SHORT })?;
        let now = look(roots, &named, arguments.all)?;
        let text = text(&listing(&before, &now, arguments.no_trunc), &arguments.format.format, live)?;
        // The terminal is cleared only together with what replaces its content, so that nothing flickers.
        let text = if terminal { format!("\x1b[H\x1b[2J{text}") } else { text };
        if !view::try_out(&text)? || !live {
            return Ok(ExitCode::SUCCESS);
        }
        before = now;
    }
}

fn text(listing: &Listing, format: &Format, live: bool) -> Result<String, Failure> {
    match format {
        Format::Json if live => listing.json_lines(),
        format => listing.text(format),
    }
}

/// There is nothing to wait for but time.
fn pause(time: Duration) -> Result<(), Failure> {
    match poll(&mut [], PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn look(roots: &Roots, named: &[String], all: bool) -> Result<Look, Failure> {
    let wanted = |one: &Container| {
        if named.is_empty() { all || one.is_running() } else { named.contains(&one.config.name) }
    };
    let mut seen = BTreeMap::new();
    for one in container::adopt_all(roots, container::list(roots)?)?.into_iter().filter(wanted) {
        let traffic = if one.is_running() { traffic(one.status.process.pid) } else { Traffic::default() };
        match container::stats(roots, &one.config.name) {
            Ok(stats) => drop(seen.insert(one.config.name.clone(), (one, stats, traffic))),
            Err(container::Error::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Look { at: Instant::now(), seen })
}

/// From the kernel's table of the process's own network namespace.
fn traffic(pid: i32) -> Traffic {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let mut sum = Traffic::default();
    for (name, figures) in text.lines().filter_map(|line| line.split_once(':')) {
        let figures: Vec<u64> = figures.split_whitespace().filter_map(|figure| figure.parse().ok()).collect();
        if let ([received, ..], Some(sent), true) = (figures.as_slice(), figures.get(8), name.trim() != "lo") {
            sum.received += received;
            sum.sent += sent;
        }
    }
    sum
}

fn listing(before: &Look, now: &Look, whole: bool) -> Listing {
    let mut listing = Listing::new(COLUMNS, &TABLE);
    let elapsed = now.at.duration_since(before.at).as_nanos().max(1) as f64;
    let host = host_memory();
    for (name, (one, stats, traffic)) in &now.seen {
        // One that was started in between has its whole time before it.
        let earlier = before.seen.get(name).filter(|(other, ..)| other.status.process == one.status.process);
        let used = stats.cpu_ns.saturating_sub(earlier.map_or(stats.cpu_ns, |(_, stats, _)| stats.cpu_ns));
        listing.push(row(one, stats, *traffic, used as f64 / elapsed * 100.0, host, whole));
    }
    listing
}

fn row(one: &Container, stats: &Stats, traffic: Traffic, cpu: f64, host: u64, whole: bool) -> Row {
    let id = &one.config.id;
    let limit = stats.memory_limit.unwrap_or(host).max(1);
    let memory = stats.memory_bytes as f64 / limit as f64 * 100.0;
    let value = json!({
        "time": format!("{:.3}", jiff::Timestamp::now()),
        "name": one.config.name,
        "id": id,
        "cpu_percent": (cpu * 100.0).round() / 100.0,
        "cpu_ns": stats.cpu_ns,
        "memory_bytes": stats.memory_bytes,
        "memory_limit_bytes": stats.memory_limit,
        "memory_percent": (memory * 100.0).round() / 100.0,
        "network_received_bytes": traffic.received,
        "network_sent_bytes": traffic.sent,
        "read_bytes": stats.read_bytes,
        "written_bytes": stats.written_bytes,
        "pids": stats.processes,
    });
    let short = if whole { id.clone() } else { id.chars().take(12).collect() };
    let cells = [
        ("ID", short),
        ("Container", one.config.name.clone()),
        ("Name", one.config.name.clone()),
        ("CPUPerc", format!("{cpu:.2}%")),
        ("MemUsage", format!("{} / {}", view::binary_size(stats.memory_bytes), view::binary_size(limit))),
        ("MemPerc", format!("{memory:.2}%")),
        ("NetIO", format!("{} / {}", view::size(traffic.received), view::size(traffic.sent))),
        ("BlockIO", format!("{} / {}", view::size(stats.read_bytes), view::size(stats.written_bytes))),
        ("PIDs", stats.processes.to_string()),
    ];
    Row::new(cells, value)
}

/// What a container without a limit has for one.
fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}
