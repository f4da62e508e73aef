//! Docker's options of a bridge, and what cannot be had of a network: who has it, and what to do.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

use crate::support::eventually;
use crate::support::island::{HERE, HERE6, OUTSIDE, OUTSIDE6, ask, client, on_an_island, sh};

#[test]
fn options_of_a_bridge_have_dockers_effect() {
    on_an_island(|island| {
        let text = r#"
name: shop
services:
  web: {image: "builtin:whoami", networks: [apart], ports: ["8080:80"], stop_grace_period: 1s}
  other: {image: "builtin:whoami", networks: [apart], stop_grace_period: 1s}
  plain: {image: "builtin:whoami", networks: [plain], ports: ["8081:80"], stop_grace_period: 1s}
networks:
  apart:
    driver_opts:
      com.docker.network.bridge.name: br-apart
      com.docker.network.bridge.enable_icc: "false"
      com.docker.network.bridge.host_binding_ipv4: 127.0.0.1
      com.docker.network.container_iface_prefix: lan
  plain:
    enable_ipv6: true
    ipam: {config: [{subnet: 10.77.4.0/24, ip_range: 10.77.4.64/26}, {subnet: "fd00:78::/64", aux_addresses: {router: "fd00:78::2"}}]}
    driver_opts:
      com.docker.network.bridge.enable_ip_masquerade: "false"
      com.docker.network.bridge.gateway_mode_ipv6: routed
"#;
        island.apply("compose.yaml", text);
        let [other, plain] = ["other", "plain"].map(|name| island.container(&format!("shop-{name}-1")));
        // A name of its own, for the bridge and for what is in containers.
        sh("ip link show br-apart");
        let web: Ipv4Addr = island
            .container("shop-web-1")
            .sh("ip -4 -o addr show dev lan0 | awk '{print $4}' | cut -d/ -f1")
            .trim()
            .parse()
            .unwrap();
        // Containers of the network don't reach each other; this host, and they the world, they do.
        assert!(other.ask(web, 80).is_err() && ask(web, 80).is_ok());
        island.outside.serve(7000);
        assert_eq!(client(other.ask(OUTSIDE, 7000)), HERE.to_string());
        // Published where the network says.
        assert!(ask(Ipv4Addr::LOCALHOST, 8080).is_ok() && island.outside.ask(HERE, 8080).is_err());
        assert!(ask(Ipv6Addr::LOCALHOST, 8080).is_err());
        // Addresses of the part that is given out, and not those that somebody else has.
        assert_eq!(island.address("shop-plain-1").to_string(), "10.77.4.64");
        let plain6 = island.address6("shop-plain-1", "eth0");
        assert_eq!(plain6.to_string(), "fd00:78::3");
        // Under its own address, out and, where it is routed, in.
        assert_eq!(client(plain.ask(OUTSIDE, 7000)), "10.77.4.64");
        // Neighbours that have only just come up are asked for more than once.
        eventually("the world answers", || client(plain.ask(OUTSIDE6, 7000)) == plain6.to_string());
        assert_eq!(client(island.outside.ask(plain6, 80)), OUTSIDE6.to_string());
        assert!(island.outside.ask(HERE, 8081).is_ok() && island.outside.ask(HERE6, 8081).is_err());
        island.world.ok(&["destroy", "shop"]);
        assert_eq!(sh("ip -o link | grep -c -e stk -e br-apart || true; nft list tables"), "0\n");
    });
}

#[test]
fn what_cannot_be_had_is_named_with_who_has_it() {
    on_an_island(|island| {
        let world = &island.world;
        let run = |more: &[&str]| {
            let words = [&["run", "-d"], more, &["builtin:whoami"]].concat();
            let outcome = world.run(&words);
            assert_ne!(outcome.code, 0, "{words:?}");
            outcome.stderr
        };
        world.ok(&["network", "create", "--subnet", "10.77.9.0/24", "--ip-range", "10.77.9.8/30", "one"]);
        let said = world.fails(1, &["network", "create", "--subnet", "10.77.9.128/25", "two"]);
        assert!(said.contains("overlaps 10.77.9.0/24 of network \"one\""), "{said}");
        let said = world.fails(1, &["network", "create", "--subnet", "192.0.2.0/25", "two"]);
        assert!(said.contains("192.0.2.0/24 of link up0"), "{said}");
        let said = world.fails(1, &["network", "create", "--subnet", "2001:db8::/32", "two"]);
        assert!(said.contains("2001:db8:1::/64 of link up0"), "{said}");
        let said = world.fails(1, &["network", "create", "--subnet", "10.78.0.0/24", "--gateway", "10.79.0.1", "two"]);
        assert!(said.contains("10.79.0.1 is not in the subnet 10.78.0.0/24"), "{said}");
        let said = world.fails(1, &["network", "create", "-o", "com.docker.network.bridge.name=up0", "two"]);
        assert!(said.contains("a link \"up0\" is there already"), "{said}");
        let said = world.fails(1, &["network", "create", "--ipv4=false", "two"]);
        assert!(said.contains("neither IPv4 nor IPv6"), "{said}");
        world.ok(&["run", "-d", "--name", "first", "--network", "one", "--ip", "10.77.9.7", "builtin:whoami"]);
        let said = run(&["--network", "one", "--ip", "10.77.9.7"]);
        assert!(said.contains("10.77.9.7") && said.contains("taken by container first"), "{said}");
        let said = run(&["--network", "one", "--ip6", "fd00::7"]);
        assert!(said.contains("has no IPv6") && said.contains("enable_ipv6"), "{said}");
        for name in ["a", "b", "c", "d"] {
            world.ok(&["run", "-d", "--name", name, "--network", "one", "builtin:whoami"]);
        }
        let said = run(&["--network", "one"]);
        assert!(said.contains("no free address left in 10.77.9.8/30"), "{said}");
        let own = format!("process {}", std::process::id());
        let taken = TcpListener::bind((Ipv6Addr::LOCALHOST, 8090)).unwrap();
        let said = run(&["-p", "[::1]:8090:80"]);
        assert!(said.contains("[::1]:8090") && said.contains(&own), "{said}");
        drop(taken);
        world.ok(&["container", "prune", "--force"]);
        world.ok(&["network", "rm", "default"]);
        world.ok(&["rm", "-f", "first", "a", "b", "c", "d"]);
        world.ok(&["network", "rm", "one"]);
    });
}
