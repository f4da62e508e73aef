//! The firewall table of one engine, from what is written down: pure, so that what is let through can be read and
//! tested as text. Nothing of anybody else's is looked at or changed.

use std::net::{IpAddr, Ipv4Addr};

use super::nft::{Chain, Expression, Rule, Table};
use super::records::{Attachment, Network, Port};

/// `None` where there is no network: then there is no table either.
pub fn table(name: &str, networks: &[Network], attachments: &[Attachment]) -> Option<Table> {
    if networks.is_empty() {
        return None;
    }
    let chain = |name, kind, hook, priority, rules| Chain { name, kind, hook, priority, rules };
    Some(Table {
        name: name.to_owned(),
        chains: vec![
            chain("prerouting", "nat", 0, -100, published(networks, attachments)),
            chain("postrouting", "nat", 4, 100, networks.iter().flat_map(masquerade).collect()),
            chain("input", "filter", 1, 0, networks.iter().filter_map(input).collect()),
            chain("forward", "filter", 2, 0, forward(networks)),
        ],
    })
}

fn from(network: &Network) -> Expression {
    Expression::From { interface: network.bridge.clone(), is: true }
}

fn to(network: &Network) -> Expression {
    Expression::To { interface: network.bridge.clone(), is: true }
}

/// Packets from elsewhere to a published port go to the container. Those of this host's own programs to a loopback
/// address never pass here; they are served by `netd`.
fn published(networks: &[Network], attachments: &[Attachment]) -> Vec<Rule> {
    let ports = attachments.iter().flat_map(|attachment| {
        let target = outward(networks, attachment);
        attachment.ports.iter().filter_map(move |port| Some((port, target?)))
    });
    ports.filter_map(|(port, target)| publish(port, target)).collect()
}

/// The address under which a container is reached from outside: in its first network that is not internal.
fn outward(networks: &[Network], attachment: &Attachment) -> Option<Ipv4Addr> {
    let open = |name: &str| networks.iter().any(|network| network.config.name == name && !network.config.internal);
    let endpoints = attachment.endpoints.iter().filter(|(name, _)| open(name));
    endpoints.max_by_key(|(_, endpoint)| endpoint.gateway_priority).map(|(_, endpoint)| endpoint.address)
}

fn publish(port: &Port, target: Ipv4Addr) -> Option<Rule> {
    let destination = match port.host_ip {
        Some(IpAddr::V4(address)) if address.is_loopback() => return None,
        Some(IpAddr::V4(address)) if !address.is_unspecified() => {
            Expression::Destination { network: address, prefix: 32 }
        }
        Some(IpAddr::V6(_)) => return None,
        _ => Expression::ToThisHost,
    };
    let protocol = Expression::Protocol(if port.protocol == "udp" { 17 } else { 6 });
    let target = Expression::SendTo { address: target, port: port.container_port };
    Some(Rule(vec![destination, protocol, Expression::Port(port.host_port), target]))
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

/// An internal network does not reach the host either.
fn input(network: &Network) -> Option<Rule> {
    network.config.internal.then(|| Rule(vec![from(network), Expression::Drop]))
}

/// Within a network everything; out of one that is not internal; in through published ports alone. What is neither
/// from nor to a network of ours is not decided here.
fn forward(networks: &[Network]) -> Vec<Rule> {
    let within = networks.iter().map(|network| Rule(vec![from(network), to(network), Expression::Accept]));
    let internal = networks.iter().filter(|network| network.config.internal);
    let closed = internal
        .flat_map(|network| [Rule(vec![from(network), Expression::Drop]), Rule(vec![to(network), Expression::Drop])]);
    let answers = [Rule(vec![Expression::Established, Expression::Accept])];
    let inward = networks.iter().filter(|network| !network.config.internal).flat_map(|network| {
        [Rule(vec![to(network), Expression::Published, Expression::Accept]), Rule(vec![to(network), Expression::Drop])]
    });
    within.chain(closed).chain(answers).chain(inward).collect()
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
        Network { version: 1, config, bridge: format!("stk-{name}"), gateway: subnet.address(1), subnet }
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
        assert_eq!(table("stack-x", &[], &[]), None);
        expect![[r#"
            table inet stack-x
              chain prerouting (nat hook 0 priority -100)
                fib daddr type local meta l4proto tcp th dport 8080 dnat ip to 10.210.0.2:80
                ip daddr 192.0.2.1/32 meta l4proto udp th dport 53 dnat ip to 10.210.0.2:80
              chain postrouting (nat hook 4 priority 100)
                ip saddr 10.210.0.0/24 oifname != "stk-front" masquerade
                ip saddr 10.210.0.0/24 oifname "stk-front" ct status dnat masquerade
              chain input (filter hook 1 priority 0)
                iifname "stk-back" drop
              chain forward (filter hook 2 priority 0)
                iifname "stk-back" oifname "stk-back" accept
                iifname "stk-front" oifname "stk-front" accept
                iifname "stk-back" drop
                oifname "stk-back" drop
                ct state established,related accept
                oifname "stk-front" ct status dnat accept
                oifname "stk-front" drop
        "#]]
        .assert_eq(&table("stack-x", &networks, &[web]).unwrap().to_string());
    }
}
