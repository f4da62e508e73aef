//! Networks as objects.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::json;

use super::args::{List, NetworkCommand, NetworkCreate, ObjectNames};
use super::failure::Failure;
use super::filter::{Filters, is_pattern, name_matches};
use super::format::{Column, Listing, Row};
use super::{connecting, exposing, inspect, names, options, prune, view};
use crate::engine::native::{create_network, remove_network};
use crate::reconcile::resource::{NetworkConfig, label};
use crate::runtime::network::{self, Network, Range};
use crate::runtime::roots::Roots;
use crate::spec::network_driver;

const COLUMNS: &[Column] = &[
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Subnet", "SUBNET"),
    ("Gateway", "GATEWAY"),
    ("Internal", "INTERNAL"),
    ("Containers", "CONTAINERS"),
    ("Stack", "STACK"),
    ("Scope", "SCOPE"),
    ("Labels", "LABELS"),
    ("ID", "NETWORK ID"),
];

const DRIVERS: [&str; 4] = ["bridge", "macvlan", "ipvlan", "cni"];

pub fn command(roots: &Roots, command: &NetworkCommand) -> Result<ExitCode, Failure> {
    match command {
        NetworkCommand::Ls(arguments) => list(roots, arguments),
        NetworkCommand::Create(arguments) => create(roots, arguments),
        NetworkCommand::Exposure(arguments) => exposing::exposure(roots, arguments),
        NetworkCommand::Connect(arguments) => connecting::connect(roots, arguments),
        NetworkCommand::Disconnect(arguments) => connecting::disconnect(roots, arguments),
        NetworkCommand::Inspect(arguments) => inspect::one_kind(roots, arguments, inspect::Kind::Network),
        NetworkCommand::Rm(arguments) => rm(roots, arguments),
        NetworkCommand::Prune(arguments) => prune::networks(roots, arguments),
    }
}

fn list(roots: &Roots, arguments: &List) -> Result<ExitCode, Failure> {
    let known = ["dangling", "driver", "id", "label", "label!", "name", "stack"];
    let filters = Filters::parse(&arguments.filter.filter, &known)?;
    filters.each("name", "expected a regular expression", is_pattern)?;
    let dangling = filters.truth("dangling")?;
    let attachments = network::attachments(roots)?;
    let users = |name: &str| attachments.iter().filter(|one| one.endpoints.contains_key(name)).count();
    let wanted = |one: &Network| {
        let name = &one.config.name;
        filters.labels(&one.config.labels)
            && filters.any("name", |pattern| name_matches(name, pattern))
            && filters.any("id", |id| name.starts_with(id))
            && filters.any("driver", |driver| driver == one.config.driver.name())
            && filters.any("stack", |stack| one.config.labels.get(label::STACK).is_some_and(|own| own == stack))
            && dangling.is_none_or(|dangling| dangling == (users(name) == 0))
    };
    let all: Vec<Network> = network::list(roots)?.into_iter().filter(wanted).collect();
    if arguments.quiet {
        view::out(&all.iter().map(|one| one.config.name.clone() + "\n").collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut listing = Listing::new(COLUMNS, &["Name", "Driver", "Subnet", "Internal", "Containers", "Stack"]);
    for one in &all {
        listing.push(row(one, users(&one.config.name)));
    }
    listing.print(&arguments.format.format)?;
    Ok(ExitCode::SUCCESS)
}

fn row(one: &Network, containers: usize) -> Row {
    let config = &one.config;
    let stack = config.labels.get(label::STACK);
    let labels: Vec<String> = config.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let all = |text: fn(&Range) -> String| one.ranges.iter().map(text).collect::<Vec<_>>();
    let value = json!({
        "name": config.name,
        "driver": config.driver.name(),
        "subnet": all(|range| range.subnet.to_string()).first(),
        "gateway": all(|range| range.gateway.to_string()).first(),
        "ranges": one.ranges,
        "bridge": one.bridge,
        "internal": config.internal,
        "containers": containers,
        "labels": config.labels,
        "stack": stack,
    });
    let cells = [
        ("Name", config.name.clone()),
        ("ID", config.name.clone()),
        ("Driver", config.driver.name().to_owned()),
        ("Subnet", all(|range| range.subnet.to_string()).join(",")),
        ("Gateway", all(|range| range.gateway.to_string()).join(",")),
        ("Internal", config.internal.to_string()),
        ("Containers", containers.to_string()),
        ("Stack", stack.cloned().unwrap_or_default()),
        ("Scope", "local".to_owned()),
        ("Labels", labels.join(",")),
    ];
    Row::new(cells, value).with_labels(&config.labels)
}

fn create(roots: &Roots, arguments: &NetworkCreate) -> Result<ExitCode, Failure> {
    let known = arguments.driver == "bridge" || network_driver::options(&arguments.driver).is_some();
    if !known {
        let help = names::hint(&arguments.driver, DRIVERS, "there are `bridge`, `macvlan`, `ipvlan` and `cni`");
        return Err(Failure::new(format!("there is no network driver {:?}\n  help: {help}", arguments.driver)));
    }
    if network::list(roots)?.iter().any(|one| one.config.name == arguments.name) {
        return Err(Failure::new(format!("a network {:?} is there already", arguments.name)));
    }
    let pairs = |flag, texts: &[String]| -> Result<BTreeMap<String, String>, Failure> {
        texts.iter().map(|text| Ok(options::setting(flag, text)?)).collect()
    };
    let wanted = NetworkConfig {
        name: arguments.name.clone(),
        driver: arguments.driver.clone(),
        options: pairs("--opt", &arguments.opt)?,
        internal: arguments.internal,
        attachable: arguments.attachable,
        labels: pairs("--label", &arguments.label)?,
        ..addresses(arguments)?
    };
    create_network(roots, &wanted)?;
    view::out(&format!("{}\n", arguments.name))?;
    Ok(ExitCode::SUCCESS)
}

/// The flags on addresses, each of the family that it names.
fn addresses(arguments: &NetworkCreate) -> Result<NetworkConfig, Failure> {
    let is_address = |flag, text: &String| options::address(flag, text);
    let gateway = arguments.gateway.iter().map(|text| is_address("--gateway", text)).collect::<Result<Vec<_>, _>>()?;
    let [subnet, ipv6_subnet] = of_families("--subnet", &arguments.subnet)?;
    let [ip_range, ipv6_range] = of_families("--ip-range", &arguments.ip_range)?;
    let [gateway, ipv6_gateway] = of_families("--gateway", &gateway)?;
    let mut aux_addresses = BTreeMap::new();
    for text in &arguments.aux_address {
        let (what, address) = options::setting("--aux-address", text)?;
        aux_addresses.insert(what, is_address("--aux-address", &address)?);
    }
    Ok(NetworkConfig {
        ipv4: arguments.ipv4,
        subnet,
        ip_range,
        gateway,
        ipv6: arguments.ipv6 || ipv6_subnet.is_some(),
        ipv6_subnet,
        ipv6_range,
        ipv6_gateway,
        aux_addresses,
        ..NetworkConfig::default()
    })
}

/// The value of IPv4 and the one of IPv6, which alone has colons.
fn of_families(flag: &str, texts: &[String]) -> Result<[Option<String>; 2], Failure> {
    let (six, four): (Vec<&String>, Vec<&String>) = texts.iter().partition(|text| text.contains(':'));
    match four.len() > 1 || six.len() > 1 {
        true => Err(Failure::new(format!("{flag}: a network has one of each family at most"))),
        false => Ok([four, six].map(|all| all.into_iter().next().cloned())),
    }
}

fn rm(roots: &Roots, arguments: &ObjectNames) -> Result<ExitCode, Failure> {
    let known: Vec<String> = network::list(roots)?.into_iter().map(|one| one.config.name).collect();
    let mut failures = Vec::new();
    for name in &arguments.names {
        if !known.contains(name) {
            if !arguments.force {
                let help = names::hint(name, known.iter().map(String::as_str), "`stack network ls` lists them");
                failures.push(Failure::new(format!("no network {name:?}\n  help: {help}")));
            }
            continue;
        }
        match remove_network(roots, name) {
            Ok(()) => view::out(&format!("{name}\n"))?,
            Err(error) => failures.push(error.into()),
        }
    }
    Failure::of_all(failures)
}
