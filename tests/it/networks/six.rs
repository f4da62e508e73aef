//! Networks with IPv6, beside IPv4 and alone: real packets between containers, to a neighbour and from it.

use std::net::{IpAddr, Ipv6Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};

use super::names::look_up;
use crate::support::eventually;
use crate::support::island::{HERE, HERE6, Island, OUTSIDE, OUTSIDE6, ask, client, line, on_an_island, sh};

const LOCAL6: Ipv6Addr = Ipv6Addr::LOCALHOST;

/// Without a container's own IPv6 in them.
const TEXT: &str = r#"
name: shop
containers:
  web:
    image: builtin:whoami
    networks: {both: {}, back: {}}
    stop_grace_period: 1s
    ports: ["[::]:8080:80", "0.0.0.0:8081:80", "[2001:db8:1::1]:8082:80", "[::1]:8083:80"]
  echo: {image: builtin:whoami, command: [udp-echo, "53"], networks: [both], ports: ["[::]:5353:53/udp"], stop_grace_period: 1s}
  new: {image: builtin:whoami, networks: [six], ports: ["0.0.0.0:8084:80", "[::]:8084:80"], stop_grace_period: 1s}
  old: {image: builtin:whoami, networks: [four], ports: ["0.0.0.0:8085:80", "[::]:8085:80"], stop_grace_period: 1s}
  client: {image: builtin:whoami, command: [sleep, forever], networks: {both: {ipv6_address: "fd00:77::99"}}, stop_grace_period: 1s}
networks:
  both: {enable_ipv6: true, ipam: {config: [{subnet: 10.77.3.0/24}, {subnet: "fd00:77::/64"}]}}
  six: {enable_ipv4: false, enable_ipv6: true}
  four: {}
  back: {enable_ipv6: true, internal: true}
"#;

#[test]
fn containers_talk_over_ipv6_among_themselves_and_with_the_world() {
    on_an_island(|island| {
        let file = island.apply("stack.yaml", TEXT);
        let [web, new, own, old] =
            ["web", "new", "client", "old"].map(|name| island.container(&format!("shop-{name}-1")));
        let web6 = island.address6("shop-web-1", "eth1");
        // Among themselves: by the address asked for, and by one of the engine's own prefix.
        assert_eq!(island.address6("shop-client-1", "eth0"), "fd00:77::99".parse::<Ipv6Addr>().unwrap());
        assert_eq!(client(own.ask(web6, 80)), "fd00:77::99");
        let new6 = island.address6("shop-new-1", "eth0");
        assert_eq!(new6.octets()[0], 0xfd);
        assert!(own.ask(new6, 80).is_err(), "another network");
        assert_eq!(new.sh("ip -4 -o addr show dev eth0"), "", "IPv6 alone");
        assert_eq!(old.sh("ip -6 -o addr show dev eth0"), "", "IPv4 alone");
        // Nobody waits for an address, or advises on routes.
        assert!(!own.sh("ip -6 addr show dev eth0").contains("tentative"));
        assert_eq!(own.sh("cat /proc/sys/net/ipv6/conf/eth0/accept_ra"), "0\n");
        // Out, under this host's address, each family by its own gateway.
        island.outside.serve(7000);
        assert_eq!(client(own.ask(OUTSIDE6, 7000)), HERE6.to_string());
        assert_eq!(client(own.ask(OUTSIDE, 7000)), HERE.to_string());
        assert_eq!(client(new.ask(OUTSIDE6, 7000)), HERE6.to_string());
        assert!(web.ask(OUTSIDE6, 7000).is_ok(), "by the network that leads out, not the internal one");
        assert!(island.outside.ask(new6, 80).is_err(), "who has a route reaches no port that is not published");
        names(island);
        island.world.ok(&["status", &file]);
        island.world.ok(&["destroy", "shop"]);
        assert_eq!(sh("ip -o link | grep -c stk || true; nft list tables"), "0\n");
        assert_eq!(
            sh("cat /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv6/conf/up0/force_forwarding"),
            "0\n0\n"
        );
    });
}

/// AAAA and back, and the container's own file.
fn names(island: &Island) {
    let (own, web6) = (island.container("shop-client-1"), island.address6("shop-web-1", "eth1"));
    let of = |kind| look_up(&own, "web.", kind);
    assert_eq!(of(RecordType::AAAA), (ResponseCode::NoError, [web6.to_string()].into()));
    assert_eq!(of(RecordType::A).1.len(), 1);
    let reverse = Name::from(IpAddr::from(web6)).to_ascii();
    let (code, answers) = look_up(&own, &reverse, RecordType::PTR);
    assert_eq!((code, answers), (ResponseCode::NoError, ["shop-web-1.shop_both.".to_owned()].into()));
    let new = island.container("shop-new-1");
    assert_eq!(look_up(&new, "new.", RecordType::A), (ResponseCode::NoError, [].into()));
    assert_eq!(look_up(&new, "new.", RecordType::AAAA).1.len(), 1);
    let hosts = island.world.ok(&["exec", "shop-client-1", "/whoami", "cat", "/etc/hosts"]);
    assert!(hosts.contains("fd00:77::99\t") && hosts.contains("10.77.3.") && hosts.contains("::1\t"), "{hosts}");
}

#[test]
fn ports_are_published_by_family_and_address() {
    on_an_island(|island| {
        island.apply("stack.yaml", TEXT);
        let outside = &island.outside;
        let own = island.container("shop-client-1");
        // From elsewhere, with their own address.
        assert_eq!(client(outside.ask(HERE6, 8080)), OUTSIDE6.to_string());
        assert!(outside.ask(HERE, 8080).is_err(), "of the other family");
        assert_eq!(client(outside.ask(HERE, 8081)), OUTSIDE.to_string());
        assert!(outside.ask(HERE6, 8081).is_err());
        assert_eq!(client(outside.ask(HERE6, 8082)), OUTSIDE6.to_string());
        assert!(outside.ask(HERE6, 8083).is_err(), "on loopback");
        eventually("it echoes", || outside.ask_datagram(HERE6, 5353, "far").is_ok_and(|back| back == "far"));
        // This host's own programs, by any of its addresses.
        for (address, port) in [(LOCAL6, 8080), (HERE6, 8080), (HERE6, 8082), (LOCAL6, 8083)] {
            assert!(ask(address, port).is_ok(), "{address} {port}");
        }
        assert!(ask(LOCAL6, 8082).is_err());
        // Containers: the one that publishes, a neighbour of its, one of another network.
        for name in ["shop-web-1", "shop-client-1", "shop-new-1"] {
            assert!(island.container(name).ask(HERE6, 8080).is_ok(), "{name}");
        }
        assert!(own.ask_datagram(HERE6, 5353, "near").is_ok_and(|back| back == "near"));
        // Who comes by a family that the container lacks is carried to the one that it has, and shows this host.
        let (six, four) = (client(outside.ask(HERE6, 8085)), client(outside.ask(HERE, 8084)));
        assert!(six.starts_with("10.") && four.starts_with("fd"), "{six} {four}");
        assert_eq!(client(outside.ask(HERE6, 8084)), OUTSIDE6.to_string());
        assert_eq!(client(outside.ask(HERE, 8085)), OUTSIDE.to_string());
        island.world.ok(&["destroy", "shop"]);
        assert_eq!(sh("ip -o link | grep -c stk || true; nft list tables"), "0\n");
    });
}

/// The host's own firewall judges who comes by IPv6 as it does who comes by IPv4, also a host that is strict on where
/// packets come from.
#[test]
fn the_hosts_own_firewall_judges_both_families() {
    on_an_island(|island| {
        sh("echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter");
        let text = "name: shop\ncontainers:\n  \
             web: {image: \"builtin:whoami\", ports: [\"0.0.0.0:8080:80\", \"[::]:8080:80\"], stop_grace_period: 1s}\n  \
             open: {image: \"builtin:whoami\", ports: [\"[::]:8081:80\"], publish: bypass, stop_grace_period: 1s}\n\
             networks: {default: {enable_ipv6: true}}\n";
        island.apply("stack.yaml", text);
        let way_in = |address: IpAddr, port| island.outside.ask(address, port).is_ok();
        let (four, six) = (IpAddr::from(HERE), IpAddr::from(HERE6));
        assert!(way_in(four, 8080) && way_in(six, 8080) && way_in(six, 8081));
        sh(
            "nft 'add table inet theirs; add chain inet theirs input { type filter hook input priority 0; policy drop; }'",
        );
        sh("nft 'add rule inet theirs input icmpv6 type { 135, 136 } accept'");
        eventually("the engine has heard of it", || !way_in(six, 8080) && !way_in(four, 8080));
        assert!(way_in(six, 8081), "it asked not to be judged");
        sh("nft 'add rule inet theirs input tcp dport 8080 accept'");
        // In less time than a client takes to try again, which is what `ask` allows.
        for _ in 0..4 {
            let said = [island.outside.ask(six, 8080), island.outside.ask(four, 8080)];
            let seen = said.map(|page| line(&page.unwrap(), "client:").unwrap());
            assert_eq!(seen, [OUTSIDE6.to_string(), OUTSIDE.to_string()]);
        }
        island.world.ok(&["destroy", "shop"]);
        assert_eq!(sh("nft list tables; ip -o link | grep -c stk || true"), "table inet theirs\n0\n");
    });
}

/// What the kernel forgets of IPv6 comes back: addresses of a bridge go when it is set down, and stay away.
#[test]
fn addresses_that_are_lost_come_back() {
    on_an_island(|island| {
        let text = "name: shop\ncontainers: {web: {image: \"builtin:whoami\", ports: [\"[::]:8080:80\"], stop_grace_period: 1s}}\n\
             networks: {default: {enable_ipv6: true, ipam: {config: [{subnet: \"fd00:77::/64\"}]}}}\n";
        island.apply("stack.yaml", text);
        let bridge = sh("ip -o link show type bridge | cut -d: -f2").trim().to_owned();
        let has_it = || sh(&format!("ip -6 addr show dev {bridge}")).contains("fd00:77::1/64");
        assert!(has_it());
        sh(&format!("ip -6 addr del fd00:77::1/64 dev {bridge}"));
        eventually("the address is back", has_it);
        sh(&format!("ip link set {bridge} down"));
        eventually("it is up again", || has_it() && island.outside.ask(HERE6, 8080).is_ok());
        sh("echo 0 > /proc/sys/net/ipv6/conf/up0/force_forwarding; nft flush ruleset");
        eventually("packets are passed on", || island.outside.ask(HERE6, 8080).is_ok());
        island.world.ok(&["destroy", "shop"]);
    });
}
