//! The firewall table of one engine, from what is written down: pure, so that what is let through can be read and
//! tested as text. Nothing of anybody else's is looked at or changed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::address::{Family, Range};
use super::nft::{Chain, Expression, Rule, Table};
use super::options::Mode;
use super::records::{Attachment, Network, Port};

/// What the rules depend on of the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// Its links that pass packets of a family on only because of us.
    pub closed: BTreeSet<(Family, String)>,
    /// Where its own firewall judges who may speak to it: the group by which `netd` hears of what that lets in (see `say`).
    pub judge: Option<u16>,
}

/// After all others have judged, before the kernel takes note of a connection that came in (`NF_IP_PRI_CONNTRACK_CONFIRM`).
const LAST: i32 = i32::MAX - 1;

/// `None` where there is no bridge: then there is no table either.
pub fn table(name: &str, networks: &[Network], attachments: &[Attachment], host: &Host) -> Option<Table> {
    let bridges: Vec<Network> = networks.iter().filter(|network| network.is_bridge()).cloned().collect();
    if bridges.is_empty() {
        return None;
    }
    let ports = published(networks, attachments);
    let chain = |name, kind, hook, priority, rules| Chain { name, kind, hook, priority, rules };
    let mut chains = vec![
        chain("prerouting", "nat", 0, -100, ports.iter().map(|port| port.inward(host.judge.is_some())).collect()),
        chain("output", "nat", 3, -100, ports.iter().map(Published::of_this_host).collect()),
        chain("postrouting", "nat", 4, 100, bridges.iter().flat_map(masquerade).collect()),
        chain("input", "filter", 1, 0, input(&bridges)),
        chain("forward", "filter", 2, 0, forward(&bridges, attachments, &host.closed)),
    ];
    let judged = host.judge.map(|group| ports.iter().flat_map(|port| port.judged(group)).collect::<Vec<_>>());
    let judged = judged.filter(|rules| !rules.is_empty());
    let families = |port: &Published<'_>| (!port.port.bypass).then_some(port.family());
    let families: BTreeSet<Family> = ports.iter().filter(|_| judged.is_some()).filter_map(families).collect();
    let remembers = families.into_iter().collect();
    chains.extend(judged.map(|rules| chain("judged", "filter", 1, LAST, rules)));
    Some(Table { name: name.to_owned(), remembers, chains })
}

/// Whether the host's firewall is asked on this port. To a loopback address nothing comes from elsewhere.
pub fn is_judged(port: &Port) -> bool {
    !port.bypass && is_led(port)
}

/// Whether packets to it are led to the container by rules.
pub fn is_led(port: &Port) -> bool {
    port.host_ip.is_none_or(|address| !address.is_loopback())
}

/// As the internet protocol numbers them.
pub fn protocol_number(word: &str) -> u8 {
    match word {
        "udp" => 17,
        "sctp" => 132,
        _ => 6,
    }
}

fn from(network: &Network) -> Expression {
    Expression::From { interface: network.bridge.clone(), is: true }
}

fn to(network: &Network) -> Expression {
    Expression::To { interface: network.bridge.clone(), is: true }
}

/// A port of this host that leads to a container, as far as it is of one family: what comes by the other is carried
/// by `netd`, which the host's firewall sees as any program.
struct Published<'a> {
    port: &'a Port,
    target: IpAddr,
}

/// Those of the ports that rules lead.
fn published<'a>(networks: &[Network], attachments: &'a [Attachment]) -> Vec<Published<'a>> {
    let of = |attachment: &'a Attachment, family| {
        let way = attachment.way_out(networks, family).filter(|way| way.network.is_bridge());
        let target = way.filter(|way| way.network.config.options.mode(family) != Mode::Routed).map(|way| way.address);
        let led = attachment
            .ports
            .iter()
            .filter(move |port| is_led(port) && port.host_ip.is_none_or(|address| Family::of(address) == family));
        led.filter_map(move |port| Some(Published { port, target: target? }))
    };
    let both = attachments.iter().flat_map(|one| Family::ALL.map(|family| (one, family)));
    both.flat_map(|(one, family)| of(one, family)).collect()
}

impl Published<'_> {
    fn family(&self) -> Family {
        Family::of(self.target)
    }

    /// Packets to the port, at this host. What goes elsewhere is left alone whatever port it is for, and so is what comes
    /// from an address that nobody can answer across a router.
    fn to_it(&self) -> Vec<Expression> {
        let destination = match self.port.host_ip {
            Some(network) if !network.is_unspecified() => {
                Some(Expression::Destination { network, prefix: Family::of(network).bits() })
            }
            _ => None,
        };
        let protocol = Expression::Protocol(protocol_number(&self.port.protocol));
        let rest = [Expression::ToThisHost, protocol, Expression::Port(self.port.host_port)];
        let far = (self.family() == Family::V6).then_some(Expression::NotFromNeighbour);
        far.into_iter().chain(destination).chain(rest).collect()
    }

    fn send(&self) -> Expression {
        Expression::SendTo { address: self.target, port: self.port.container_port }
    }

    /// From elsewhere to the container; where the host judges, what it has let in.
    fn inward(&self, judged: bool) -> Rule {
        let family = self.family();
        let admitted = (judged && !self.port.bypass).then_some([Expression::Of(family), Expression::Admitted(family)]);
        Rule([self.to_it(), admitted.into_iter().flatten().collect(), vec![self.send()]].concat())
    }

    /// From this host's own programs. To a loopback address they do not: those are served by `netd`.
    fn of_this_host(&self) -> Rule {
        let elsewhere = vec![Expression::NotToLoopback(self.family())];
        Rule([elsewhere, self.to_it(), vec![self.send()]].concat())
    }

    /// What the host's firewall has let in: it comes again. Nothing else of it goes on to who listens here, which is
    /// `netd` for this host's own programs.
    fn judged(&self, group: u16) -> Vec<Rule> {
        if self.port.bypass {
            return Vec::new();
        }
        let elsewhere = Expression::From { interface: "lo".to_owned(), is: false };
        let it = [vec![Expression::Of(self.family()), elsewhere], self.to_it()].concat();
        let admit = vec![Expression::Admit(self.family()), Expression::Copy(group), Expression::Drop];
        vec![Rule([it.clone(), admit].concat()), Rule([it, vec![Expression::Drop]].concat())]
    }
}

/// Packets that leave get the host's address; so do those that come back to the same network through a published port,
/// or their answers would take a way of their own.
fn masquerade(network: &Network) -> Vec<Rule> {
    if network.config.internal {
        return Vec::new();
    }
    let options = &network.config.options;
    let of_range = |range: &Range| {
        let source = Expression::Source { network: range.subnet.network(), prefix: range.subnet.prefix() };
        let elsewhere = Expression::To { interface: network.bridge.clone(), is: false };
        [
            Rule(vec![source.clone(), elsewhere, Expression::Masquerade]),
            Rule(vec![source, to(network), Expression::Published, Expression::Masquerade]),
        ]
    };
    network.ranges.iter().filter(|range| options.hides(range.family())).flat_map(of_range).collect()
}

/// An internal network does not reach the host either; it answers what the host asks, also where it is
/// (neighbour solicitations and advertisements, RFC 4861, which belong to no connection).
fn input(networks: &[Network]) -> Vec<Rule> {
    let internal = networks.iter().filter(|network| network.config.internal);
    let rules = internal.flat_map(|network| {
        let has_ipv6 = network.range(Family::V6).is_some();
        let neighbours = [135, 136].into_iter().filter(move |_| has_ipv6);
        let neighbours = neighbours.map(|kind| Rule(vec![from(network), Expression::Icmp6(kind), Expression::Accept]));
        let answers = Rule(vec![from(network), Expression::Established, Expression::Accept]);
        neighbours.chain([answers, Rule(vec![from(network), Expression::Drop])])
    });
    rules.collect()
}

/// Within a network everything; out of one that is not internal; in through published ports alone. What is neither
/// from nor to a network of ours is not decided here, unless the host would not pass it on but for us.
fn forward(networks: &[Network], attachments: &[Attachment], strangers: &BTreeSet<(Family, String)>) -> Vec<Rule> {
    let within = networks.iter().map(|network| match network.config.options.talk {
        true => Rule(vec![from(network), to(network), Expression::Accept]),
        false => Rule(vec![from(network), to(network), Expression::NotPublished, Expression::Drop]),
    });
    let internal = networks.iter().filter(|network| network.config.internal);
    let closed = internal
        .flat_map(|network| [Rule(vec![from(network), Expression::Drop]), Rule(vec![to(network), Expression::Drop])]);
    let answers = [Rule(vec![Expression::Established, Expression::Accept])];
    let inward = networks.iter().filter(|network| !network.config.internal).flat_map(|network| {
        let published = Rule(vec![to(network), Expression::Published, Expression::Accept]);
        let shut = Rule(vec![to(network), Expression::Drop]);
        [published].into_iter().chain(opened(network, networks, attachments)).chain([shut])
    });
    let strangers = strangers.iter().map(|(family, link)| {
        let from = Expression::From { interface: link.clone(), is: true };
        Rule(vec![Expression::Of(*family), from, Expression::NotPublished, Expression::Drop])
    });
    within.chain(closed).chain(answers).chain(inward).chain(strangers).collect()
}

/// What is let in under the containers' own addresses.
fn opened(network: &Network, networks: &[Network], attachments: &[Attachment]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for range in &network.ranges {
        let of = Expression::Of(range.family());
        match network.config.options.mode(range.family()) {
            Mode::NatUnprotected => rules.push(Rule(vec![to(network), of, Expression::Accept])),
            Mode::Routed => {
                let echo = Expression::Protocol(if range.family() == Family::V4 { 1 } else { 58 });
                rules.push(Rule(vec![to(network), of, echo, Expression::Accept]));
                rules.extend(attachments.iter().flat_map(|one| routed(network, range.family(), networks, one)));
            }
            Mode::Nat | Mode::Isolated => {}
        }
    }
    rules
}

/// The container's published ports, under its own address in the network that is its way out.
fn routed(network: &Network, family: Family, networks: &[Network], attachment: &Attachment) -> Vec<Rule> {
    let way = attachment.way_out(networks, family).filter(|way| way.network.config.name == network.config.name);
    let Some(way) = way else { return Vec::new() };
    let destination = Expression::Destination { network: way.address, prefix: family.bits() };
    let rule = |port: &Port| {
        let protocol = Expression::Protocol(protocol_number(&port.protocol));
        let place = [to(network), destination.clone(), protocol, Expression::Port(port.container_port)];
        Rule(place.into_iter().chain([Expression::Accept]).collect())
    };
    attachment.ports.iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::expect;

    use super::super::records::{Endpoint, NetworkConfig};
    use super::*;

    fn network(name: &str, subnets: &[&str], internal: bool) -> Network {
        let range = |text: &&str| Range::new(text.parse().unwrap());
        let config = NetworkConfig { name: name.into(), internal, ..NetworkConfig::default() };
        Network {
            version: 2,
            config,
            bridge: format!("stk-{name}"),
            makes_link: false,
            ranges: subnets.iter().map(range).collect(),
        }
    }

    #[test]
    fn the_table_reads_as_it_is_meant() {
        let networks = [network("back", &["10.210.1.0/24"], true), network("front", &["10.210.0.0/24"], false)];
        let endpoint = |text: &str| Endpoint {
            addresses: text.split(' ').map(|text| text.parse().unwrap()).collect(),
            link_local: vec![],
            hardware_address: [0; 6],
            interface: "eth0".into(),
            names: vec![],
            gateway_priority: 0,
        };
        let port = |host_ip: Option<&str>, host_port, protocol: &str| Port {
            host_ip: host_ip.map(|text| text.parse().unwrap()),
            host_port,
            container_port: 80,
            protocol: protocol.into(),
            bypass: false,
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
        let host = Host { closed: BTreeSet::from([(Family::V4, "eth0".to_owned())]), judge: None };
        assert_eq!(table("stack-x", &[], &[], &host), None);
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
                meta nfproto ipv4 iifname "eth0" ct status & dnat == 0 drop
        "#]]
        .assert_eq(&table("stack-x", &networks, std::slice::from_ref(&web), &host).unwrap().to_string());
        let judged = Host { judge: Some(1234), ..Host::default() };
        let mut past = web;
        past.ports[1].bypass = true;
        expect![[r#"
            table inet stack-x
              set admitted (timeout 5 s size 65535)
              chain prerouting (nat hook 0 priority -100)
                fib daddr type local meta l4proto tcp th dport 8080 meta nfproto ipv4 ip saddr . th sport . ip daddr . th dport . meta l4proto @admitted dnat ip to 10.210.0.2:80
                ip daddr 192.0.2.1/32 fib daddr type local meta l4proto udp th dport 53 dnat ip to 10.210.0.2:80
              chain output (nat hook 3 priority -100)
                ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto tcp th dport 8080 dnat ip to 10.210.0.2:80
                ip daddr != 127.0.0.0/8 ip daddr 192.0.2.1/32 fib daddr type local meta l4proto udp th dport 53 dnat ip to 10.210.0.2:80
              chain postrouting (nat hook 4 priority 100)
                ip saddr 10.210.0.0/24 oifname != "stk-front" masquerade
                ip saddr 10.210.0.0/24 oifname "stk-front" ct status dnat masquerade
              chain input (filter hook 1 priority 0)
              chain forward (filter hook 2 priority 0)
                iifname "stk-front" oifname "stk-front" accept
                ct state established,related accept
                oifname "stk-front" ct status dnat accept
                oifname "stk-front" drop
              chain judged (filter hook 1 priority 2147483646)
                meta nfproto ipv4 iifname != "lo" fib daddr type local meta l4proto tcp th dport 8080 add @admitted { ip saddr . th sport . ip daddr . th dport . meta l4proto } log group 1234 drop
                meta nfproto ipv4 iifname != "lo" fib daddr type local meta l4proto tcp th dport 8080 drop
        "#]].assert_eq(&table("stack-x", &networks[1..], std::slice::from_ref(&past), &judged).unwrap().to_string());
        past.ports.truncate(0);
        assert!(table("stack-x", &networks[1..], &[past], &judged).unwrap().remembers.is_empty());
    }

    #[test]
    fn ports_of_containers_of_both_families_are_led_by_both() {
        let mut six = network("six", &["10.210.2.0/24", "fd00:2::/64"], false);
        let endpoint = Endpoint {
            addresses: vec!["10.210.2.2".parse().unwrap(), "fd00:2::2".parse().unwrap()],
            link_local: vec![],
            hardware_address: [0; 6],
            interface: "eth0".into(),
            names: vec![],
            gateway_priority: 0,
        };
        let port = |host_ip: Option<&str>, host_port, protocol: &str, bypass| Port {
            host_ip: host_ip.map(|text| text.parse().unwrap()),
            host_port,
            container_port: 80,
            protocol: protocol.into(),
            bypass,
        };
        let ports = vec![
            port(None, 80, "tcp", false),
            port(Some("2001:db8::1"), 81, "sctp", true),
            port(Some("::1"), 82, "tcp", false),
        ];
        let endpoints = BTreeMap::from([("six".into(), endpoint)]);
        let web = Attachment { container: "web".into(), endpoints, ports, ..Attachment::default() };
        let host = Host { closed: BTreeSet::new(), judge: Some(7) };
        expect![[r#"
            table inet stack-x
              set admitted (timeout 5 s size 65535)
              set admitted6 (timeout 5 s size 65535)
              chain prerouting (nat hook 0 priority -100)
                fib daddr type local meta l4proto tcp th dport 80 meta nfproto ipv4 ip saddr . th sport . ip daddr . th dport . meta l4proto @admitted dnat ip to 10.210.2.2:80
                ip6 saddr != fe80::/10 fib daddr type local meta l4proto tcp th dport 80 meta nfproto ipv6 ip6 saddr . th sport . ip6 daddr . th dport . meta l4proto @admitted6 dnat ip6 to [fd00:2::2]:80
                ip6 saddr != fe80::/10 ip6 daddr 2001:db8::1/128 fib daddr type local meta l4proto 132 th dport 81 dnat ip6 to [fd00:2::2]:80
              chain output (nat hook 3 priority -100)
                ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto tcp th dport 80 dnat ip to 10.210.2.2:80
                ip6 daddr != ::1/128 ip6 saddr != fe80::/10 fib daddr type local meta l4proto tcp th dport 80 dnat ip6 to [fd00:2::2]:80
                ip6 daddr != ::1/128 ip6 saddr != fe80::/10 ip6 daddr 2001:db8::1/128 fib daddr type local meta l4proto 132 th dport 81 dnat ip6 to [fd00:2::2]:80
              chain postrouting (nat hook 4 priority 100)
                ip saddr 10.210.2.0/24 oifname != "stk-six" masquerade
                ip saddr 10.210.2.0/24 oifname "stk-six" ct status dnat masquerade
                ip6 saddr fd00:2::/64 oifname != "stk-six" masquerade
                ip6 saddr fd00:2::/64 oifname "stk-six" ct status dnat masquerade
              chain input (filter hook 1 priority 0)
              chain forward (filter hook 2 priority 0)
                iifname "stk-six" oifname "stk-six" accept
                ct state established,related accept
                oifname "stk-six" ct status dnat accept
                oifname "stk-six" drop
              chain judged (filter hook 1 priority 2147483646)
                meta nfproto ipv4 iifname != "lo" fib daddr type local meta l4proto tcp th dport 80 add @admitted { ip saddr . th sport . ip daddr . th dport . meta l4proto } log group 7 drop
                meta nfproto ipv4 iifname != "lo" fib daddr type local meta l4proto tcp th dport 80 drop
                meta nfproto ipv6 iifname != "lo" ip6 saddr != fe80::/10 fib daddr type local meta l4proto tcp th dport 80 add @admitted6 { ip6 saddr . th sport . ip6 daddr . th dport . meta l4proto } log group 7 drop
                meta nfproto ipv6 iifname != "lo" ip6 saddr != fe80::/10 fib daddr type local meta l4proto tcp th dport 80 drop
        "#]].assert_eq(
            &table("stack-x", std::slice::from_ref(&six), std::slice::from_ref(&web), &host).unwrap().to_string(),
        );
        six.config.options.mode_ipv6 = Mode::Routed;
        six.config.options.talk = false;
        six.config.options.masquerade = false;
        expect![[r#"
            table inet stack-x
              chain prerouting (nat hook 0 priority -100)
                fib daddr type local meta l4proto tcp th dport 80 dnat ip to 10.210.2.2:80
              chain output (nat hook 3 priority -100)
                ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto tcp th dport 80 dnat ip to 10.210.2.2:80
              chain postrouting (nat hook 4 priority 100)
              chain input (filter hook 1 priority 0)
              chain forward (filter hook 2 priority 0)
                iifname "stk-six" oifname "stk-six" ct status & dnat == 0 drop
                ct state established,related accept
                oifname "stk-six" ct status dnat accept
                oifname "stk-six" meta nfproto ipv6 meta l4proto 58 accept
                oifname "stk-six" ip6 daddr fd00:2::2/128 meta l4proto tcp th dport 80 accept
                oifname "stk-six" ip6 daddr fd00:2::2/128 meta l4proto 132 th dport 80 accept
                oifname "stk-six" ip6 daddr fd00:2::2/128 meta l4proto tcp th dport 80 accept
                oifname "stk-six" drop
        "#]]
        .assert_eq(&table("stack-x", &[six], &[web], &Host::default()).unwrap().to_string());
    }
}
