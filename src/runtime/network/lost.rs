//! What the records promise and the kernel no longer holds: as words for people, empty when all is there.

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

/// What the kernel lost of a container's network: its namespace or cables.
///
/// # Errors
/// What the kernel says when asked.
pub fn lost_of_container(roots: &Roots, container: &str) -> Result<Vec<String>, Error> {
    let attachment: Option<Attachment> = state::read_json(&attachment_file(roots, container, false))?;
    let Some(attachment) = attachment else { return Ok(Vec::new()) };
    if !sandbox::exists(roots, container) {
        return Ok(vec!["network namespace gone".to_owned()]);
    }
    let mut lost = Vec::new();
    let mut socket = route_socket()?;
    for name in attachment.endpoints.keys() {
        let found = links::get(&mut socket, &cable(roots, container, name)).map_err(kernel("look for its links"))?;
        let bridge = links::index(&get(roots, name)?.bridge).map_err(kernel("look for its bridges"))?;
        if bridge.is_none() || found.and_then(|link| link.bridge) != bridge {
            lost.push(format!("link to {name} gone"));
        }
    }
    Ok(lost)
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
