//! Published ports: who reaches them, and whom they show.

use std::net::Ipv4Addr;

use crate::support::eventually;
use crate::support::island::{BEYOND, HERE, OUTSIDE, THERE, ask, ask_datagram, client, line, on_an_island, sh};

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn a_published_port_is_reached_from_where_it_is_published_to() {
    on_an_island(|island| {
        island.apply(
            "stack.yaml",
            r#"
name: shop
containers:
  web:
    image: builtin:whoami
    networks: [front, back]
    ports: ["0.0.0.0:8080:80", "192.0.2.1:8081:80", "8082:80", "127.0.0.1:8083:80", "0.0.0.0:9000-9001:80-81"]
  echo: {image: builtin:whoami, command: [udp-echo, "53"], networks: [front], ports: ["0.0.0.0:5353:53/udp"]}
  client: {image: builtin:whoami, command: [sleep, forever], networks: [front]}
  stranger: {image: builtin:whoami, command: [sleep, forever], networks: [other]}
  db: {image: builtin:whoami, command: [sleep, forever], networks: [back]}
networks: {front: {}, other: {}, back: {internal: true}}
"#,
        );
        let (outside, beyond) = (&island.outside, &island.beyond);
        let [web, sibling, stranger, db] =
            ["web", "client", "stranger", "db"].map(|name| island.container(&format!("shop-{name}-1")));
        // From other hosts, with their own addresses; one is published on one address only, which both can reach.
        assert_eq!(client(outside.ask(HERE, 8080)), OUTSIDE.to_string());
        assert_eq!(client(outside.ask(HERE, 9000)), OUTSIDE.to_string());
        assert_eq!(client(beyond.ask(THERE, 8080)), BEYOND.to_string());
        assert_eq!(client(beyond.ask(HERE, 8081)), BEYOND.to_string());
        assert!(beyond.ask(THERE, 8081).is_err());
        eventually("it echoes", || outside.ask_datagram(HERE, 5353, "far").is_ok_and(|back| back == "far"));
        // What says no address is on loopback in a native file.
        for port in [8082, 8083] {
            assert!(outside.ask(HERE, port).is_err() && beyond.ask(HERE, port).is_err(), "{port}");
            assert!(ask(LOCAL, port).is_ok(), "{port}");
            assert!(ask(HERE, port).is_err(), "{port}");
            assert!(sibling.ask(HERE, port).is_err(), "{port}");
        }
        // A name server of the container's own has port 53 of all addresses to itself, and still can ask for names.
        assert!(island.world.ok(&["exec", "shop-echo-1", "/whoami", "resolve", "web"]).contains('.'));
        // From this host, and from containers: itself, one beside it, one of another network.
        assert!(ask(LOCAL, 8080).is_ok() && ask(HERE, 8080).is_ok() && ask(HERE, 8081).is_ok());
        assert_eq!(
            (ask_datagram(LOCAL, 5353, "a").unwrap(), ask_datagram(HERE, 5353, "b").unwrap()),
            ("a".into(), "b".into())
        );
        for place in [&web, &sibling, &stranger] {
            assert!(place.ask(HERE, 8080).is_ok());
            assert_eq!(place.ask_datagram(HERE, 5353, "near").unwrap(), "near");
        }
        assert!(db.ask(HERE, 8080).is_err(), "internal");
        // Nothing but what is published: neither the container's own address nor another port of it.
        let address = island.address("shop-client-1");
        island.container("shop-client-1").serve(80);
        assert!(web.ask(address, 80).is_ok());
        assert!(outside.ask(address, 80).is_err() && stranger.ask(address, 80).is_err());
        island.world.ok(&["destroy", "shop"]);
    });
}

/// What is on loopback stays there, also where a neighbour sends packets for 127.0.0.1 by this host's link, and while the
/// rules are gone.
#[test]
fn nobody_outside_reaches_loopback() {
    on_an_island(|island| {
        island
            .apply("stack.yaml", "name: shop\ncontainers: {web: {image: \"builtin:whoami\", ports: [\"8080:80\"]}}\n");
        let knock = || {
            island.outside.sh(&format!(
                "ip route del local 127.0.0.0/8 dev lo table local; ip addr flush dev lo; \
                 ip route replace 127.0.0.1/32 via {HERE} dev eth0 src {OUTSIDE}; \
                 ip route get 127.0.0.1 >&2"
            ));
            let reached = island.outside.ask(LOCAL, 8080);
            island.outside.sh("ip route del 127.0.0.1/32; ip addr add 127.0.0.1/8 dev lo");
            reached
        };
        assert!(ask(LOCAL, 8080).is_ok());
        // The way is there: the same neighbour reaches a port of the host proper by it.
        let before = sh("cat /proc/net/dev | grep up0");
        assert!(knock().is_err());
        assert_ne!(sh("cat /proc/net/dev | grep up0"), before, "the packets did arrive");
        for link in ["all", "up0", "lo"] {
            assert_eq!(sh(&format!("cat /proc/sys/net/ipv4/conf/{link}/route_localnet")).trim(), "0", "{link}");
        }
        island.world.ok(&["destroy", "shop"]);
    });
}

#[test]
fn replicas_share_a_range_and_any_free_port_can_be_asked_for() {
    on_an_island(|island| {
        island.apply(
            "stack.yaml",
            r#"
name: shop
containers:
  web: {image: builtin:whoami, replicas: 3, ports: ["0.0.0.0:8000-8002:80"]}
  any: {image: builtin:whoami, replicas: 2, ports: ["0.0.0.0::80"]}
"#,
        );
        let names = [8000, 8001, 8002].map(|port| line(&island.outside.ask(HERE, port).unwrap(), "name:").unwrap());
        assert_eq!(names, ["shop-web-1", "shop-web-2", "shop-web-3"]);
        let ports = ["shop-any-1", "shop-any-2"].map(|name| {
            let shown = island.world.ok(&["ps", "--format", "json"]);
            let all: Vec<serde_json::Value> = serde_json::from_str(&shown).unwrap();
            let port = &all.iter().find(|one| one["name"] == name).unwrap()["ports"][0]["host_port"];
            port.as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or_else(|| panic!("{shown}"))
        });
        assert_ne!(ports[0], ports[1]);
        for (port, name) in ports.into_iter().zip(["shop-any-1", "shop-any-2"]) {
            assert_eq!(line(&island.outside.ask(HERE, port).unwrap(), "name:").unwrap(), name);
        }
        island.world.ok(&["destroy", "shop"]);
    });
}
