//! `network exposure`: what can be reached from where.

use std::process::ExitCode;

use super::args::NetworkExposure;
use super::failure::Failure;
use super::format::{Column, Listing, Row};
use crate::runtime::network::{self, Exposure};
use crate::runtime::roots::Roots;

const COLUMNS: &[Column] = &[
    ("Container", "CONTAINER"),
    ("Port", "PORT"),
    ("At", "AT"),
    ("From", "FROM"),
    ("Firewall", "FIREWALL"),
    ("Family", "FAMILY"),
    ("Network", "NETWORK"),
];

pub fn exposure(roots: &Roots, arguments: &NetworkExposure) -> Result<ExitCode, Failure> {
    let mut listing = Listing::new(COLUMNS, &["Container", "Port", "At", "From", "Firewall"]);
    for one in network::exposures(roots)? {
        let value = serde_json::to_value(&one)?;
        listing.push(Row::new(cells(&one), value));
    }
    listing.print(&arguments.format.format)?;
    Ok(ExitCode::SUCCESS)
}

fn cells(one: &Exposure) -> [(&'static str, String); 7] {
    [
        ("Container", one.container.clone()),
        ("Port", one.port.clone()),
        ("At", one.at.clone()),
        ("From", one.from.join(", ")),
        ("Firewall", firewall(one)),
        ("Family", one.family.to_owned()),
        ("Network", one.network.clone()),
    ]
}

/// `obey: dropped by chain input of table inet filter (its policy)`.
fn firewall(one: &Exposure) -> String {
    let it = &one.firewall;
    let by = it.by.as_ref().map(|by| format!(" {} {by}", if it.verdict == "depends" { "on" } else { "by" }));
    match it.mode {
        "none" => "-".to_owned(),
        mode => format!("{mode}: {}{}", it.verdict, by.unwrap_or_default()),
    }
}
