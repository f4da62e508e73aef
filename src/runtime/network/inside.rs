//! What containers lost inside their own namespaces, where only the host's administrator could have taken it: a container
//! whose programs may change its network themselves is left alone ([`Attachment::self_governed`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use super::netlink::{self, Socket};
use super::records::{Attachment, Network, attachments};
use super::{Error, Family, kernel, links, sandbox};
use crate::runtime::roots::Roots;

/// What is lost of it, as words. One that has no namespace lost nothing of it.
pub(super) fn lost(roots: &Roots, networks: &[Network], attachment: &Attachment) -> Result<Vec<String>, Error> {
    if !is_looked_at(roots, attachment) {
        return Ok(Vec::new());
    }
    let places = attachment.endpoints.values().map(|endpoint| (endpoint.interface.clone(), endpoint.addresses.clone()));
    let places: Vec<(String, Vec<IpAddr>)> = places.collect();
    let ways = Family::ALL.into_iter().filter_map(|family| attachment.way_out(networks, family));
    let ways: BTreeSet<String> = ways.map(|way| way.endpoint.interface.clone()).collect();
    let path = sandbox::path(roots, &attachment.container);
    let looked = sandbox::inside(&path, move || missing(&places, &ways));
    looked.map_err(kernel(format!("look at the network of container {}", attachment.container)))
}

fn is_looked_at(roots: &Roots, attachment: &Attachment) -> bool {
    !attachment.self_governed && !attachment.endpoints.is_empty() && sandbox::exists(roots, &attachment.container)
}

/// Of the thread's namespace.
fn missing(places: &[(String, Vec<IpAddr>)], ways: &BTreeSet<String>) -> io::Result<Vec<String>> {
    let mut socket = Socket::route()?;
    let (links, addresses) = (links::list(&mut socket)?, links::addresses(&mut socket)?);
    let find = |name: &str| links.iter().find(|link| link.name == name);
    let mut lost = Vec::new();
    for (name, own) in places {
        match find(name) {
            None => lost.push(format!("interface {name} gone")),
            Some(link) if !link.up => lost.push(format!("interface {name} down")),
            Some(link) => {
                let gone = own.iter().filter(|address| !addresses.contains(&(link.index, **address)));
                lost.extend(gone.map(|address| format!("address {address} of interface {name} gone")));
            }
        }
    }
    let left_by = links::default_route_links(&mut socket)?;
    let gone = ways.iter().filter_map(|name| find(name)).filter(|link| !left_by.contains(&link.index));
    lost.extend(gone.map(|link| format!("default route by {} gone", link.name)));
    Ok(lost)
}

/// Becomes readable when something changes inside of a namespace.
pub struct Ear {
    inode: u64,
    pub changes: OwnedFd,
}

/// Has an ear in every namespace that is looked at, by container, and none where there is none any more. Returns the
/// containers that have a new one: what happened to them before went unheard.
pub fn listen(roots: &Roots, ears: &mut BTreeMap<String, Ear>) -> Result<Vec<String>, Error> {
    let all = attachments(roots)?;
    let wanted = all.iter().filter(|one| is_looked_at(roots, one)).map(|one| one.container.as_str());
    let inode = |container: &str| fs::metadata(sandbox::path(roots, container)).map(|data| data.ino()).ok();
    let wanted: BTreeMap<&str, u64> = wanted.filter_map(|one| Some((one, inode(one)?))).collect();
    ears.retain(|container, ear| wanted.get(container.as_str()) == Some(&ear.inode));
    let mut added = Vec::new();
    let new: Vec<(&str, u64)> = wanted.into_iter().filter(|(container, _)| !ears.contains_key(*container)).collect();
    for (container, inode) in new {
        // One that goes at this moment needs none.
        if let Ok(changes) = sandbox::inside(&sandbox::path(roots, container), netlink::changes_inside) {
            ears.insert(container.to_owned(), Ear { inode, changes });
            added.push(container.to_owned());
        }
    }
    Ok(added)
}
