//! What the records promise and the kernel no longer holds: as words for people, empty when all is there. The kernel is
//! asked once for all.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::bridge::cable;
use super::driver::Looker;
use super::links::Link;
use super::netlink::Socket;
use super::records::{Attachment, Network, attachments, list};
use super::rules::Host;
use super::say::Way;
use super::{
    Error, driver, forwarding, inside, judge, kernel, links, netd, nft, place, route_socket, rules, sandbox, table_name,
};
use crate::runtime::roots::Roots;

/// The networks of one engine as they are written down, and as the kernel has them at one moment.
pub struct Seen {
    roots: Roots,
    networks: Vec<Network>,
    attachments: Vec<Attachment>,
    links: BTreeMap<String, Link>,
    addresses: Vec<(i32, IpAddr)>,
    has_rules: bool,
    /// Links that should pass packets on and do not.
    closed: Vec<String>,
    /// Words on names and local ports.
    unserved: Vec<String>,
}

impl Seen {
    /// Looks, changes nothing.
    ///
    /// # Errors
    /// What the kernel says when asked, or records that can't be read.
    pub fn look(roots: &Roots) -> Result<Self, Error> {
        place::there(roots, || Self::look_there(roots))
    }

    fn look_there(roots: &Roots) -> Result<Self, Error> {
        let (networks, attachments) = (list(roots)?, attachments(roots)?);
        let mut socket = route_socket()?;
        let links = links::list(&mut socket).map_err(kernel("list the host's links"))?;
        let addresses = links::addresses(&mut socket).map_err(kernel("list the host's addresses"))?;
        Ok(Self {
            has_rules: has_rules(roots, &networks, &attachments)?,
            closed: forwarding::lost(roots, &networks)?,
            unserved: netd::lost(roots)?,
            links: links.into_iter().map(|link| (link.name.clone(), link)).collect(),
            roots: roots.clone(),
            networks,
            attachments,
            addresses,
        })
    }

    /// What is lost of a network: its bridge, its way out, the engine's table, or that its names are served. Nothing
    /// where there is no such network.
    pub fn of_network(&self, name: &str) -> Vec<String> {
        let Some(network) = self.networks.iter().find(|network| network.config.name == name) else { return Vec::new() };
        let mut lost = self.of_link(network);
        if !network.is_bridge() {
            lost.extend(self.unserved.iter().cloned());
            return lost;
        }
        if !network.config.internal {
            lost.extend(self.closed.iter().map(|link| format!("forwarding on {link} off")));
        }
        if !self.has_rules {
            lost.push(format!("firewall table {} gone or changed", table_name(&self.roots)));
        }
        lost.extend(self.unserved.iter().cloned());
        lost
    }

    /// Of the link of the host that it is on. A parent of the host's may be down as the host likes.
    fn of_link(&self, network: &Network) -> Vec<String> {
        let name = &network.bridge;
        match self.links.get(name) {
            _ if network.is_of_plugins() => Vec::new(),
            Some(_) if !network.is_bridge() && !network.makes_link => Vec::new(),
            Some(link) if !network.is_bridge() && link.up => Vec::new(),
            None => vec![format!("link {name} gone")],
            Some(link) if !link.up => vec![format!("link {name} down")],
            Some(link) => {
                let gateways = network.own_ranges().map(|range| range.gateway);
                let lost = gateways.filter(|gateway| !self.addresses.contains(&(link.index, *gateway)));
                lost.map(|gateway| format!("address {gateway} of link {name} gone")).collect()
            }
        }
    }

    /// What is lost of a container's network: its namespace, its cables, or addresses and routes inside. What names and
    /// ports it has are not looked at.
    pub fn of_container(&self, container: &str) -> Vec<String> {
        let Some(attachment) = self.attachments.iter().find(|attachment| attachment.container == container) else {
            return Vec::new();
        };
        let lost = self.of_attachment(attachment, Looker::Command);
        if !lost.is_empty() {
            return lost;
        }
        // One that ends at this moment has lost nothing.
        inside::lost(&self.roots, &self.networks, attachment).unwrap_or_default()
    }

    fn of_attachment(&self, attachment: &Attachment, looker: Looker) -> Vec<String> {
        if !sandbox::exists(&self.roots, &attachment.container) {
            return vec!["network namespace gone".to_owned()];
        }
        let network = |name: &String| self.networks.iter().find(|network| network.config.name == *name);
        let is_plugged = |name: &&String| {
            let bridge = network(name).and_then(|network| self.links.get(&network.bridge)).map(|link| link.index);
            let cable = self.links.get(&cable(&self.roots, attachment.line(), name));
            bridge.is_some() && cable.is_some_and(|link| link.up && link.bridge == bridge)
        };
        let is_bridge = |name: &&String| network(name).is_none_or(Network::is_bridge);
        let unplugged = attachment.endpoints.keys().filter(is_bridge).filter(|name| !is_plugged(name));
        let unplugged = unplugged.map(|name| format!("link to {name} gone"));
        let others = attachment.endpoints.iter().filter_map(|(name, endpoint)| Some((network(name)?, endpoint)));
        let others = others.filter_map(|(network, endpoint)| {
            driver::lost(&self.roots, attachment, network, endpoint, looker)
                .unwrap_or_else(|error| Some(error.to_string()))
        });
        unplugged.chain(others).collect()
    }

    /// Whether names and local ports are served.
    pub fn unserved(&self) -> &[String] {
        &self.unserved
    }

    /// Whether links or rules are lost of any network, or of any container that has a namespace.
    pub(super) fn has_lost(&self) -> bool {
        let open = self.networks.iter().any(|network| !network.config.internal);
        let of_containers =
            || self.attachments.iter().filter(|attachment| sandbox::exists(&self.roots, &attachment.container));
        (open && !self.closed.is_empty())
            || !self.has_rules
            || self.networks.iter().any(|network| !self.of_link(network).is_empty())
            || of_containers().any(|attachment| !self.of_attachment(attachment, Looker::Guard).is_empty())
    }
}

fn has_rules(roots: &Roots, networks: &[Network], attachments: &[Attachment]) -> Result<bool, Error> {
    let name = table_name(roots);
    let host = Host { closed: forwarding::kept_closed(roots)?, judge: judge(roots, attachments)? };
    let Some(table) = rules::table(&name, networks, attachments, &host) else { return Ok(true) };
    if !table.remembers.is_empty()
        && !Way::of(roots).is_there().map_err(kernel("find the way by which packets come in again"))?
    {
        return Ok(false);
    }
    let asked = Socket::netfilter().and_then(|mut socket| nft::is_in_place(&mut socket, &table));
    asked.map_err(kernel(format!("firewall table {name}")))
}
