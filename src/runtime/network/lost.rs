//! What the records promise and the kernel no longer holds: as words for people, empty when all is there.

use std::collections::BTreeMap;

use super::links::Link;
use super::netlink::Socket;
use super::records::{Attachment, Network, attachment_file, attachments, list};
use super::{Error, cable, forwarding, get, kernel, links, nft, route_socket, rules, sandbox, table_name};
use crate::runtime::roots::Roots;
use crate::runtime::state;

/// What the kernel lost of a network: its bridge, that packets leave it, or the engine's table.
///
/// # Errors
/// [`Error::NotFound`] where there is no such network.
pub fn lost(roots: &Roots, name: &str) -> Result<Vec<String>, Error> {
    let network = get(roots, name)?;
    let mut lost = Vec::new();
    if !is_there(&network.bridge)? {
        lost.push(format!("link {} gone", network.bridge));
    }
    lost.extend(forwarding::lost(roots, &network)?.iter().map(|link| format!("forwarding on {link} off")));
    if !rules_are_there(roots, &list(roots)?, &attachments(roots)?)? {
        lost.push(format!("firewall table {} gone or changed", table_name(roots)));
    }
    Ok(lost)
}

/// Links and networks as they are at one moment, to look at many containers by.
pub struct Present {
    links: BTreeMap<String, Link>,
    /// The bridge of each network.
    bridges: BTreeMap<String, String>,
}

/// What there is now.
///
/// # Errors
/// What the kernel says when asked.
pub fn present(roots: &Roots) -> Result<Present, Error> {
    let links = links::list(&mut route_socket()?).map_err(kernel("list the host's links"))?;
    Ok(Present {
        links: links.into_iter().map(|link| (link.name.clone(), link)).collect(),
        bridges: list(roots)?.into_iter().map(|network| (network.config.name, network.bridge)).collect(),
    })
}

/// What the kernel lost of a container's network: its namespace or cables.
///
/// # Errors
/// Where its record can't be read.
pub fn lost_of_container(roots: &Roots, present: &Present, container: &str) -> Result<Vec<String>, Error> {
    let attachment: Option<Attachment> = state::read_json(&attachment_file(roots, container, false))?;
    let Some(attachment) = attachment else { return Ok(Vec::new()) };
    if !sandbox::exists(roots, container) {
        return Ok(vec!["network namespace gone".to_owned()]);
    }
    let is_plugged = |network: &&String| {
        let bridge = present.bridges.get(*network).and_then(|bridge| present.links.get(bridge));
        let cable = present.links.get(&cable(roots, container, network));
        bridge.is_some_and(|bridge| cable.and_then(|cable| cable.bridge) == Some(bridge.index))
    };
    let lost = attachment.endpoints.keys().filter(|network| !is_plugged(network));
    Ok(lost.map(|network| format!("link to {network} gone")).collect())
}

fn is_there(link: &str) -> Result<bool, Error> {
    Ok(links::index(link).map_err(kernel(format!("look for link {link}")))?.is_some())
}

fn rules_are_there(roots: &Roots, networks: &[Network], attachments: &[Attachment]) -> Result<bool, Error> {
    let name = table_name(roots);
    let Some(table) = rules::table(&name, networks, attachments, &forwarding::kept_closed(roots)?) else {
        return Ok(true);
    };
    let asked = Socket::netfilter().and_then(|mut socket| nft::is_in_place(&mut socket, &table));
    asked.map_err(kernel(format!("firewall table {name}")))
}
