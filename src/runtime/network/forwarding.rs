//! That the kernel passes packets between our bridges and the world, without making a router of the host.
//!
//! Passing on is decided by the link that a packet comes in by (`net.ipv4.conf.LINK.forwarding`), so it is turned on for
//! the bridges of networks that have a way out, and for the links that have an address of the host, where the answers
//! come in. Where the host forwards already (`net.ipv4.ip_forward`), nothing is changed. Links that were turned on are
//! written down in `RUN/forwarding.json` before that: strangers' packets that come in by them and are not for a bridge
//! of ours are dropped by our table (see `rules`), and with the last network they are turned off again. If somebody else
//! turns forwarding on for the whole host later, the record is dropped and the host is theirs.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::records::{Network, VERSION};
use super::{Error, io_at, is_link_name, kernel, links, remove_file, route_socket};
use crate::runtime::roots::Roots;
use crate::runtime::state;

/// `RUN/forwarding.json`.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// Links of the host that were turned on here.
    links: BTreeSet<String>,
}

fn file(roots: &Roots) -> PathBuf {
    roots.volatile("forwarding.json")
}

fn setting(link: &str) -> PathBuf {
    PathBuf::from(format!("/proc/sys/net/ipv4/conf/{link}/forwarding"))
}

/// `None` where there is no such link.
fn is_on(link: &str) -> Result<Option<bool>, Error> {
    let path = setting(link);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim() == "1")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_at(path)(error)),
    }
}

/// A link that has gone meanwhile is fine.
fn turn(link: &str, on: bool) -> Result<(), Error> {
    if is_on(link)?.is_none_or(|now| now == on) {
        return Ok(());
    }
    let path = setting(link);
    match fs::write(&path, if on { "1" } else { "0" }) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}

fn recorded(roots: &Roots) -> Result<BTreeSet<String>, Error> {
    Ok(state::read_json::<Record>(&file(roots))?.unwrap_or_default().links)
}

fn open_networks(networks: &[Network]) -> impl Iterator<Item = &Network> {
    networks.iter().filter(|network| !network.config.internal)
}

/// Turns on what these networks need and off what nobody needs any more. Gives the links whose strangers are kept out.
pub fn ensure(roots: &Roots, networks: &[Network]) -> Result<BTreeSet<String>, Error> {
    for network in open_networks(networks) {
        turn(&network.bridge, true)?;
    }
    let before = recorded(roots)?;
    if is_on("all")? == Some(true) {
        remove_file(&file(roots))?;
        return Ok(BTreeSet::new());
    }
    if open_networks(networks).next().is_none() {
        before.iter().try_for_each(|link| turn(link, false))?;
        remove_file(&file(roots))?;
        return Ok(BTreeSet::new());
    }
    let mut links = before.clone();
    for link in uplinks(networks)? {
        if is_on(&link)? == Some(false) {
            links.insert(link);
        }
    }
    if links != before {
        state::make_directory(&roots.run)?;
        state::write_json_volatile(&file(roots), &Record { version: VERSION, links: links.clone() })?;
    }
    links.iter().try_for_each(|link| turn(link, true))?;
    Ok(links)
}

/// The links by which the host is reached: those with an address, but for loopback and bridges of any such engine.
fn uplinks(networks: &[Network]) -> Result<Vec<String>, Error> {
    let mut socket = route_socket()?;
    let addressed = links::addresses(&mut socket).map_err(kernel("list the host's addresses"))?;
    let addressed: BTreeSet<i32> = addressed.into_iter().map(|(index, _)| index).collect();
    let links = links::list(&mut socket).map_err(kernel("list the host's links"))?;
    let ours = |name: &str| is_link_name(name) || networks.iter().any(|network| network.bridge == name);
    let names = links.into_iter().filter(|link| addressed.contains(&link.index)).map(|link| link.name);
    Ok(names.filter(|name| name != "lo" && !ours(name)).collect())
}

/// What the rules are to be made for, without changing anything.
pub fn kept_closed(roots: &Roots) -> Result<BTreeSet<String>, Error> {
    if is_on("all")? == Some(true) { Ok(BTreeSet::new()) } else { recorded(roots) }
}

/// The links that should pass packets on and do not, those that came to the host since the rules were made among them.
pub fn lost(roots: &Roots, networks: &[Network]) -> Result<Vec<String>, Error> {
    let mut wanted: BTreeSet<String> = open_networks(networks).map(|network| network.bridge.clone()).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    wanted.extend(recorded(roots)?);
    wanted.extend(uplinks(networks)?);
    let mut lost = Vec::new();
    for link in wanted {
        if is_on(&link)? == Some(false) {
            lost.push(link);
        }
    }
    Ok(lost)
}
