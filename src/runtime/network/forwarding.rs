//! That the kernel passes packets between our bridges and the world, without making a router of the host.
//!
//! Passing on is decided by the link that a packet comes in by, and for each family by itself
//! (`net.ipv4.conf.LINK.forwarding`, `net.ipv6.conf.LINK.force_forwarding`), so it is turned on for the bridges of
//! networks that have a way out, and for the links that have an address of the host, where the answers come in. Where the
//! host forwards already (`net.ipv4.ip_forward`, `net.ipv6.conf.all.forwarding`), nothing is changed. Links that were
//! turned on are written down in `RUN/links/forwarding.json` before that: strangers' packets that come in by them and are not
//! for a bridge of ours are dropped by our table (see `rules`), and with the last network they are turned off again. If
//! somebody else turns forwarding on for the whole host later, the record is dropped and the host is theirs.
//!
//! An older kernel knows no such setting by link for IPv6: there the host as a whole has it turned on, with the links
//! that learn their routes from routers going on to do so (`accept_ra=2`), and all links are written down.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::address::Family;
use super::records::Network;
use super::{Error, io_at, is_link_name, kernel, links, remove_file, route_socket};
use crate::runtime::roots::Roots;
use crate::runtime::state;

const VERSION: u32 = 1;

/// `RUN/links/forwarding.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// Links of the host that were turned on here, for IPv4.
    links: BTreeSet<String>,
    /// The same for IPv6.
    #[serde(default)]
    links6: BTreeSet<String>,
    /// IPv6 was turned on for the whole host.
    #[serde(default)]
    whole6: bool,
}

impl Record {
    fn links(&self, family: Family) -> &BTreeSet<String> {
        if family == Family::V4 { &self.links } else { &self.links6 }
    }

    fn links_mut(&mut self, family: Family) -> &mut BTreeSet<String> {
        if family == Family::V4 { &mut self.links } else { &mut self.links6 }
    }

    fn is_empty(&self) -> bool {
        self.links.is_empty() && self.links6.is_empty() && !self.whole6
    }
}

fn file(roots: &Roots) -> PathBuf {
    roots.volatile("links").join("forwarding.json")
}

fn settings(family: Family, link: &str) -> PathBuf {
    let family = if family == Family::V4 { "ipv4" } else { "ipv6" };
    PathBuf::from(format!("/proc/sys/net/{family}/conf/{link}"))
}

/// By link. A kernel without IPv6 needs nothing of it.
fn setting(family: Family, link: &str) -> PathBuf {
    settings(family, link).join(if family == Family::V4 { "forwarding" } else { "force_forwarding" })
}

/// Of the whole host.
fn whole(family: Family) -> PathBuf {
    settings(family, "all").join("forwarding")
}

fn knows_links(family: Family) -> bool {
    family == Family::V4 || setting(family, "all").exists()
}

/// `None` where there is no such setting, for want of the link.
fn is_on(path: &Path) -> Result<Option<bool>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim() != "0")),
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => Ok(None),
        Err(error) => Err(io_at(path)(error)),
    }
}

/// A link that has gone meanwhile is fine.
fn turn(path: &Path, on: bool) -> Result<(), Error> {
    if is_on(path)?.is_none_or(|now| now == on) {
        return Ok(());
    }
    match fs::write(path, if on { "1" } else { "0" }) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}

fn recorded(roots: &Roots) -> Result<Record, Error> {
    Ok(state::read_json::<Record>(&file(roots))?.unwrap_or_default())
}

/// Bridges of networks of this family that have a way out.
fn open_bridges(networks: &[Network], family: Family) -> Vec<String> {
    let open = networks
        .iter()
        .filter(|network| network.is_bridge() && !network.config.internal && network.range(family).is_some());
    open.map(|network| network.bridge.clone()).collect()
}

/// Links by family.
pub type Links = BTreeSet<(Family, String)>;

/// Turns on what these networks need and off what nobody needs any more. Gives the links whose strangers are kept out.
pub fn ensure(roots: &Roots, networks: &[Network]) -> Result<Links, Error> {
    let before = recorded(roots)?;
    let mut now = before.clone();
    for family in Family::ALL {
        decide(networks, family, &mut now)?;
    }
    if now.is_empty() {
        perform(networks, &before, &now)?;
        remove_file(&file(roots))?;
        return Ok(Links::new());
    }
    if now != before {
        state::make_directory(&roots.volatile("links"))?;
        state::write_json_volatile(&file(roots), &Record { version: VERSION, ..now.clone() })?;
    }
    perform(networks, &before, &now)?;
    Ok(closed(&now))
}

/// Writes into the record what is to be on for this family because of us.
fn decide(networks: &[Network], family: Family, record: &mut Record) -> Result<(), Error> {
    let bridges = open_bridges(networks, family);
    let of_others = is_on(&whole(family))? == Some(true) && !(family == Family::V6 && record.whole6);
    if bridges.is_empty() || of_others {
        record.links_mut(family).clear();
        record.whole6 &= family != Family::V6;
        return Ok(());
    }
    let by_link = knows_links(family);
    record.whole6 |= !by_link;
    for link in uplinks(networks, family)? {
        if !by_link || is_on(&setting(family, &link))? == Some(false) {
            record.links_mut(family).insert(link);
        }
    }
    Ok(())
}

/// Makes the kernel be as written down.
fn perform(networks: &[Network], before: &Record, now: &Record) -> Result<(), Error> {
    for family in Family::ALL {
        let bridges = open_bridges(networks, family);
        bridges.iter().chain(now.links(family)).try_for_each(|link| turn(&setting(family, link), true))?;
        // Where the host forwards as a whole by now it is theirs to say for each link.
        if is_on(&whole(family))? != Some(true) {
            let gone = before.links(family).difference(now.links(family));
            gone.into_iter().try_for_each(|link| turn(&setting(family, link), false))?;
        }
    }
    if now.whole6 {
        now.links6.iter().try_for_each(|link| keep_learning(link))?;
    }
    if now.whole6 != before.whole6 { turn(&whole(Family::V6), now.whole6) } else { Ok(()) }
}

/// A link that listens to routers would not any more if the host was one.
fn keep_learning(link: &str) -> Result<(), Error> {
    let path = settings(Family::V6, link).join("accept_ra");
    match fs::read_to_string(&path) {
        Ok(text) if text.trim() == "1" => fs::write(&path, "2").map_err(io_at(path)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}

fn closed(record: &Record) -> Links {
    Family::ALL
        .into_iter()
        .flat_map(|family| record.links(family).iter().map(move |link| (family, link.clone())))
        .collect()
}

/// The links by which the host is reached: those with an address, but for loopback and bridges of any such engine.
fn uplinks(networks: &[Network], family: Family) -> Result<Vec<String>, Error> {
    let mut socket = route_socket()?;
    let addressed = links::addresses(&mut socket).map_err(kernel("list the host's addresses"))?;
    let addressed = addressed.into_iter().filter(|(_, address)| Family::of(*address) == family && is_routed(*address));
    let addressed: BTreeSet<i32> = addressed.map(|(index, _)| index).collect();
    let links = links::list(&mut socket).map_err(kernel("list the host's links"))?;
    let ours = |name: &str| is_link_name(name) || networks.iter().any(|network| network.bridge == name);
    let names = links.into_iter().filter(|link| addressed.contains(&link.index)).map(|link| link.name);
    Ok(names.filter(|name| name != "lo" && !ours(name)).collect())
}

/// Whether somebody beyond the link may have sent to it.
fn is_routed(address: IpAddr) -> bool {
    !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// What the rules are to be made for, without changing anything.
pub fn kept_closed(roots: &Roots) -> Result<Links, Error> {
    let record = recorded(roots)?;
    let mut links = closed(&record);
    if is_on(&whole(Family::V4))? == Some(true) {
        links.retain(|(family, _)| *family != Family::V4);
    }
    if !record.whole6 && is_on(&whole(Family::V6))? == Some(true) {
        links.retain(|(family, _)| *family != Family::V6);
    }
    Ok(links)
}

/// The links that should pass packets on and do not, those that came to the host since the rules were made among them.
pub fn lost(roots: &Roots, networks: &[Network]) -> Result<Vec<String>, Error> {
    let record = recorded(roots)?;
    let mut lost = BTreeSet::new();
    for family in Family::ALL {
        let mut wanted: BTreeSet<String> = open_bridges(networks, family).into_iter().collect();
        if wanted.is_empty() || is_on(&whole(family))? == Some(true) && family == Family::V6 {
            continue;
        }
        wanted.extend(record.links(family).iter().cloned());
        wanted.extend(uplinks(networks, family)?);
        for link in wanted {
            if is_on(&setting(family, &link))? == Some(false) {
                lost.insert(link);
            }
        }
    }
    Ok(lost.into_iter().collect())
}
