//! The firewall table of one engine, from what is written down: pure, so that what is let through can be read and
//! tested as text. Nothing of anybody else's is looked at or changed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::nft::{Chain, Expression, Rule, Table};
use super::records::{Attachment, Network, Port};

/// `None` where there is no network: then there is no table either. `closed` are the links of the host that pass packets
/// on only because of us.
pub fn table(name: &str, networks: &[Network], attachments: &[Attachment], closed: &BTreeSet<String>) -> Option<Table> {
    if networks.is_empty() {
        return None;
    }
    let chain = |name, kind, hook, priority, rules| Chain { name, kind, hook, priority, rules };
    Some(Table {
        name: name.to_owned(),
        chains: vec![
            chain("prerouting", "nat", 0, -100, published(networks, attachments, &[])),
            chain("output", "nat", 3, -100, published(networks, attachments, &[Expression::NotToLoopback])),
            chain("postrouting", "nat", 4, 100, networks.iter().flat_map(masquerade).collect()),
            chain("input", "filter", 1, 0, input(networks)),
            chain("forward", "filter", 2, 0, forward(networks, closed)),
        ],
    })
}

fn from(network: &Network) -> Expression {
    Expression::From { interface: network.bridge.clone(), is: true }
}

fn to(network: &Network) -> Expression {
    Expression::To { interface: network.bridge.clone(), is: true }
}

/// Packets to a published port of this host go to the container, those of this host's own programs too. To a loopback
/// address they do not: those are served by `netd`. What goes elsewhere is left alone whatever port it is for.
fn published(networks: &[Network], attachments: &[Attachment], first: &[Expression]) -> Vec<Rule> {
    let ports = attachments.iter().flat_map(|attachment| {
        let target = attachment.way_out(networks).map(|(_, endpoint)| endpoint.address);
        attachment.ports.iter().filter_map(move |port| Some((port, target?)))
    });
    let rules = ports.filter_map(|(port, target)| publish(port, target));
    rules.map(|rule| Rule([first, &rule[..]].concat())).collect()
}

fn publish(port: &Port, target: Ipv4Addr) -> Option<Vec<Expression>> {
    let destination = match port.host_ip {
        Some(IpAddr::V4(address)) if address.is_loopback() => return None,
        Some(IpAddr::V6(_)) => return None,
        Some(IpAddr::V4(address)) if !address.is_unspecified() => {
            Some(Expression::Destination { network: address, prefix: 32 })
        }
        _ => None,
    };
    let protocol = Expression::Protocol(if port.protocol == "udp" { 17 } else { 6 });
    let target = Expression::SendTo { address: target, port: port.container_port };
    let rest = [Expression::ToThisHost, protocol, Expression::Port(port.host_port), target];
    Some(destination.into_iter().chain(rest).collect())
}

/// Packets that leave get the host's address; so do those that come back to the same network through a published port,
/// or their answers would take a way of their own.
fn masquerade(network: &Network) -> Vec<Rule> {
    if network.config.internal {
        return Vec::new();
    }
    let source = Expression::Source { network: network.subnet.network(), prefix: network.subnet.prefix() };
    let elsewhere = Expression::To { interface: network.bridge.clone(), is: false };
    vec![
        Rule(vec![source.clone(), elsewhere, Expression::Masquerade]),
        Rule(vec![source, to(network), Expression::Published, Expression::Masquerade]),
    ]
}

/// An internal network does not reach the host either; it answers what the host asks.
fn input(networks: &[Network]) -> Vec<Rule> {
    let internal = networks.iter().filter(|network| network.config.internal);
    let rules = internal.flat_map(|network| {
        [
            Rule(vec![from(network), Expression::Established, Expression::Accept]),
            Rule(vec![from(network), Expression::Drop]),
        ]
    });
    rules.collect()
}

/// Within a network everything; out of one that is not internal; in through published ports alone. What is neither
/// from nor to a network of ours is not decided here, unless the host would not pass it on but for us.
fn forward(networks: &[Network], strangers: &BTreeSet<String>) -> Vec<Rule> {
    let within = networks.iter().map(|network| Rule(vec![from(network), to(network), Expression::Accept]));
    let internal = networks.iter().filter(|network| network.config.internal);
    let closed = internal
        .flat_map(|network| [Rule(vec![from(network), Expression::Drop]), Rule(vec![to(network), Expression::Drop])]);
    let answers = [Rule(vec![Expression::Established, Expression::Accept])];
    let inward = networks.iter().filter(|network| !network.config.internal).flat_map(|network| {
        [Rule(vec![to(network), Expression::Published, Expression::Accept]), Rule(vec![to(network), Expression::Drop])]
    });
    let strangers = strangers.iter().map(|link| {
        let from = Expression::From { interface: link.clone(), is: true };
        Rule(vec![from, Expression::NotPublished, Expression::Drop])
    });
    within.chain(closed).chain(answers).chain(inward).chain(strangers).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::expect;

    use super::super::records::{Endpoint, NetworkConfig, Subnet, hardware_address};
    use super::*;

    fn network(name: &str, subnet: &str, internal: bool) -> Network {
        let subnet: Subnet = subnet.parse().unwrap();
        let config = NetworkConfig { name: name.into(), internal, ..NetworkConfig::default() };
        let bridge = format!("stk-{name}");
        Network { version: 1, config, bridge, gateway: subnet.address(1), subnet }
    }

    #[test]
    fn the_table_reads_as_it_is_meant() {
        let networks = [network("back", "10.210.1.0/24", true), network("front", "10.210.0.0/24", false)];
        let endpoint = |text: &str| {
            let address: Ipv4Addr = text.parse().unwrap();
            Endpoint {
                address,
                hardware_address: hardware_address(address),
                interface: "eth0".into(),
                names: vec![],
                gateway_priority: 0,
            }
        };
        let port = |host_ip: Option<&str>, host_port, protocol: &str| Port {
            host_ip: host_ip.map(|text| text.parse().unwrap()),
            host_port,
            container_port: 80,
            protocol: protocol.into(),
        };
        let web = Attachment {
            container: "web".into(),
            endpoints: BTreeMap::from([
                ("back".into(), endpoint("10.210.1.2")),
                ("front".into(), endpoint("10.210.0.2")),
            ]),
            ports: vec![port(None, 8080, "tcp"), port(Some("192.0.2.1"), 53, "udp"), port(Some("127.0.0.1"), 9, "tcp")],
            ..Attachment::default()
        };
        let closed = BTreeSet::from(["eth0".to_owned()]);
        assert_eq!(table("stack-x", &[], &[], &closed), None);
        expect![[r#"
            table inet stack-x
              chain prerouting (nat hook 0 priority -100)
                fib daddr type local meta l4proto tcp th dport 8080 dnat ip to 10.210.0.2:80
                ip daddr 192.0.2.1/32 fib daddr type local meta l4proto udp th dport 53 dnat ip to 10.210.0.2:80
              chain output (nat hook 3 priority -100)
                ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto tcp th dport 8080 dnat ip to 10.210.0.2:80
                ip daddr != 127.0.0.0/8 ip daddr 192.0.2.1/32 fib daddr type local meta l4proto udp th dport 53 dnat ip to 10.210.0.2:80
              chain postrouting (nat hook 4 priority 100)
                ip saddr 10.210.0.0/24 oifname != "stk-front" masquerade
                ip saddr 10.210.0.0/24 oifname "stk-front" ct status dnat masquerade
              chain input (filter hook 1 priority 0)
                iifname "stk-back" ct state established,related accept
                iifname "stk-back" drop
              chain forward (filter hook 2 priority 0)
                iifname "stk-back" oifname "stk-back" accept
                iifname "stk-front" oifname "stk-front" accept
                iifname "stk-back" drop
                oifname "stk-back" drop
                ct state established,related accept
                oifname "stk-front" ct status dnat accept
                oifname "stk-front" drop
                iifname "eth0" ct status & dnat == 0 drop
        "#]]
        .assert_eq(&table("stack-x", &networks, &[web], &closed).unwrap().to_string());
    }
}
