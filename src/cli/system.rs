//! The engine as a whole: what it takes on disk, and which version of it this is.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::{Show, SystemCommand};
use super::failure::Failure;
use super::format::{Column, Format, Listing, Row, print_value};
use super::view::{self, Table};
use super::{boot, images, prune};
use crate::engine::native::volume_users;
use crate::reconcile::resource::label;
use crate::runtime::image::Store;
use crate::runtime::roots::Roots;
use crate::runtime::{container, probe, volume};

pub fn command(roots: &Roots, command: &SystemCommand) -> Result<ExitCode, Failure> {
    match command {
        SystemCommand::Df { verbose, format } => df(roots, *verbose, &format.format),
        SystemCommand::Prune(arguments) => prune::system(roots, arguments),
        SystemCommand::Info(arguments) => version(roots, arguments),
        SystemCommand::Boot(arguments) => boot::boot(roots, arguments.quiet),
        SystemCommand::Halt(arguments) => boot::halt(roots, arguments.quiet),
        SystemCommand::Unit => boot::unit(roots),
    }
}

const COLUMNS: &[Column] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

/// One thing that takes disk.
struct Item {
    kind: &'static str,
    name: String,
    stack: Option<String>,
    bytes: u64,
    /// Some container uses it; of containers: it runs.
    active: bool,
}

fn df(roots: &Roots, verbose: bool, format: &Format) -> Result<ExitCode, Failure> {
    let items = items(roots)?;
    if verbose {
        return each(&items, format);
    }
    let mut listing = Listing::new(COLUMNS, &["Type", "TotalCount", "Active", "Size", "Reclaimable"]);
    for (kind, title) in [
        ("image", "Images"),
        ("container", "Containers"),
        ("volume", "Volumes"),
        ("snapshot", "Snapshots"),
        ("trash", "Trash"),
    ] {
        let own = || items.iter().filter(|item| item.kind == kind);
        let (total, active) = (own().count(), own().filter(|item| item.active).count());
        let bytes: u64 = own().map(|item| item.bytes).sum();
        let free: u64 = own().filter(|item| !item.active).map(|item| item.bytes).sum();
        let percent = (free * 100).checked_div(bytes).unwrap_or(0);
        let value = json!({"kind": kind, "count": total, "active": active, "size_bytes": bytes,
                           "reclaimable_bytes": free});
        let cells = [
            ("Type", title.to_owned()),
            ("TotalCount", total.to_string()),
            ("Active", active.to_string()),
            ("Size", view::size(bytes)),
            ("Reclaimable", format!("{} ({percent}%)", view::size(free))),
        ];
        listing.push(Row::new(cells, value));
    }
    listing.print(format)?;
    Ok(ExitCode::SUCCESS)
}

const EACH: &[Column] =
    &[("Type", "TYPE"), ("Name", "NAME"), ("Size", "SIZE"), ("Active", "ACTIVE"), ("Stack", "STACK")];

fn each(items: &[Item], format: &Format) -> Result<ExitCode, Failure> {
    let mut listing = Listing::new(EACH, &["Type", "Name", "Size", "Active", "Stack"]);
    for item in items {
        let value = json!({"kind": item.kind, "name": item.name, "size_bytes": item.bytes, "active": item.active,
                           "stack": item.stack});
        let cells = [
            ("Type", item.kind.to_owned()),
            ("Name", item.name.clone()),
            ("Size", view::size(item.bytes)),
            ("Active", item.active.to_string()),
            ("Stack", item.stack.clone().unwrap_or_default()),
        ];
        listing.push(Row::new(cells, value));
    }
    listing.print(format)?;
    Ok(ExitCode::SUCCESS)
}

fn items(roots: &Roots) -> Result<Vec<Item>, Failure> {
    let containers = container::list(roots)?;
    let mut items = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    // One image may have several names, and takes its place once.
    for image in Store::open(roots).list()?.into_iter().filter(|image| seen.insert(image.id.clone())) {
        let id = image.id.to_string();
        let active = containers.iter().any(|one| one.config.image_id == id);
        items.push(Item { kind: "image", name: image.reference, stack: None, bytes: image.size, active });
    }
    for one in &containers {
        items.push(Item {
            kind: "container",
            name: one.config.name.clone(),
            stack: one.config.labels.get(label::STACK).cloned(),
            bytes: container::written_bytes(roots, &one.config.name)?,
            active: one.is_running(),
        });
    }
    for one in volume::trash::list(roots)? {
        let bytes = one.volume.data.parent().map_or(0, volume::disk_use);
        items.push(Item { kind: "trash", name: one.id, stack: None, bytes, active: false });
    }
    for one in volume::list(roots)? {
        for snapshot in volume::snapshot::list(roots, &one.config.name)? {
            items.push(Item {
                kind: "snapshot",
                name: format!("{}@{}", one.config.name, snapshot.name),
                stack: one.config.labels.get(label::STACK).cloned(),
                bytes: volume::disk_use(&snapshot.data),
                // Only a command about this very one takes it away.
                active: true,
            });
        }
        items.push(Item {
            kind: "volume",
            stack: one.config.labels.get(label::STACK).cloned(),
            bytes: volume::size(roots, &one.config.name)?,
            active: !volume_users(roots, &one.config.name)?.is_empty(),
            name: one.config.name,
        });
    }
    Ok(items)
}

/// This program, the kernel below it, and what that has.
pub fn version(roots: &Roots, arguments: &Show) -> Result<ExitCode, Failure> {
    let value = version_value(roots);
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    print_value(&arguments.format.format, &value, || {
        let mut table = Table::new(&[]);
        table.row(["Version:".to_owned(), text("version")]);
        table.row(["Platform:".to_owned(), format!("{}/{}", text("os"), text("architecture"))]);
        table.row(["Kernel:".to_owned(), text("kernel")]);
        table.row(["Control groups:".to_owned(), text("cgroup")]);
        let features = value["features"].as_object().into_iter().flatten();
        let there = features.filter(|(_, there)| **there == json!(true)).map(|(name, _)| name.as_str());
        table.row(["Features:".to_owned(), there.collect::<Vec<_>>().join(", ")]);
        table.row(["Root:".to_owned(), text("root")]);
        table.row(["Run root:".to_owned(), text("run_root")]);
        format!("stack {}\n{}", text("version"), table.render().trim_start_matches('\n'))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn version_value(roots: &Roots) -> Value {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let features: serde_json::Map<String, Value> = probe::probe(roots, &std::env::var_os("PATH").unwrap_or_default())
        .into_iter()
        .map(|fact| (fact.what.replace(' ', "_"), json!(fact.ok)))
        .collect();
    let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "os": std::env::consts::OS,
        "architecture": images::architecture(),
        "kernel": release.trim(),
        "cgroup": if unified { "version 2" } else { "version 1" },
        "features": features,
        "root": roots.root,
        "run_root": roots.run,
    })
}
