//! Networks on a link of the host: containers are machines of the network that the link is in.

use hickory_proto::rr::RecordType;

use super::names::{found, look_up};
use crate::support::eventually;
use crate::support::island::{HERE, Island, OUTSIDE, client, on_an_island, sh};
use crate::vm::assert_in_the_machine;

/// The addresses of `up0`, with a neighbour for a router.
const LAN: &str = "ipam: {config: [{subnet: 192.0.2.0/24, gateway: 192.0.2.9}]}";

/// The hardware address of the island's link.
fn hardware_address() -> String {
    sh("ip -o link show up0").split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned()
}

/// What links an island has beside its own.
fn strangers() -> Vec<String> {
    let links = sh("ip -o link | awk -F': ' '{print $2}' | cut -d@ -f1");
    links.lines().filter(|name| !["lo", "up0", "up1"].contains(name)).map(str::to_owned).collect()
}

fn stack(driver: &str, options: &str) -> String {
    format!(
        r#"
name: lan
containers:
  web: {{image: "builtin:whoami", stop_grace_period: 0s, networks: {{lan: {{ipv4_address: 192.0.2.50}}}}}}
  client: {{image: "builtin:whoami", command: [sleep, forever], stop_grace_period: 0s, networks: [lan]}}
networks: {{lan: {{driver: {driver}, driver_opts: {{{options}}}, {LAN}}}}}
"#
    )
}

/// Each is reached by the neighbour and by the other, by address and by name, and leaves by the router.
fn are_machines_of_the_lan(island: &Island) {
    let web = "192.0.2.50".parse().unwrap();
    assert_eq!(island.address("lan-web-1"), web);
    assert_ne!(island.address("lan-client-1"), HERE, "the host's own");
    assert_eq!(client(island.outside.ask(web, 80)), OUTSIDE.to_string());
    let other = island.container("lan-client-1");
    assert_eq!(client(other.ask(web, 80)), island.address("lan-client-1").to_string());
    assert_eq!(look_up(&other, "web.", RecordType::A), found([web]));
    assert!(other.sh("ip route").contains("default via 192.0.2.9 dev eth0"), "{}", other.sh("ip route"));
}

#[test]
fn containers_on_a_parent_are_machines_of_its_network() {
    on_an_island(|island| {
        for mode in ["bridge", "private", "vepa"] {
            let file = island.apply("stack.yaml", &stack("macvlan", &format!("parent: up0, macvlan_mode: {mode}")));
            let web = island.container("lan-web-1");
            assert!(web.sh("ip -d link show eth0").contains(&format!("macvlan mode {mode}")), "{mode}");
            if mode == "bridge" {
                are_machines_of_the_lan(island);
                // The kernel keeps the parent's own host away from them.
                assert!(web.ask(HERE, 80).is_err());
                let inspected =
                    island.world.ok(&["network", "inspect", "lan_lan", "--format", "{{.Driver}} {{.Options.parent}}"]);
                assert_eq!(inspected.trim(), "macvlan up0");
                assert_eq!(island.world.ok(&["plan", &file, "--detailed-exitcode"]).matches("network/").count(), 0);
            }
            island.world.ok(&["destroy", &file]);
            assert_eq!(strangers(), [""; 0], "{mode}");
        }
    });
}

#[test]
fn a_parent_that_passes_all_through_has_one_container_with_its_own_address() {
    on_an_island(|island| {
        let text =
            stack("macvlan", "parent: up0, macvlan_mode: passthru").replace("networks: [lan]}", "network_mode: none}");
        let file = island.apply("stack.yaml", &text);
        let parent = hardware_address();
        let own = island.container("lan-web-1").sh("ip -o link show eth0");
        assert!(own.contains(parent.trim()), "{own}");
        let format = "{{.NetworkSettings.MacAddress}}";
        assert_eq!(island.world.ok(&["inspect", "lan-web-1", "--format", format]).trim(), parent.trim());
        assert_eq!(client(island.outside.ask([192, 0, 2, 50], 80)), OUTSIDE.to_string());
        let said = island
            .world
            .fails(1, &["network", "create", "-d", "macvlan", "-o", "parent=up0", "--subnet", "10.9.0.0/24", "second"]);
        assert!(said.contains("\"up0\" is used by network \"lan_lan\", macvlan in mode passthru"), "{said}");
        island.world.ok(&["destroy", &file]);
        assert_eq!(strangers(), [""; 0]);
    });
}

/// Before anything is made or stopped, with the links that could be meant.
#[test]
fn a_parent_that_is_missing_is_named_and_nothing_is_touched() {
    on_an_island(|island| {
        let file = island.apply("stack.yaml", &stack("macvlan", "parent: up0"));
        let pid = island.world.field("lan-web-1", "pid");
        for (parent, missing) in [("up9", "up9"), ("up7.5", "up7")] {
            island.world.file("stack.yaml", &stack("macvlan", &format!("parent: {parent}")));
            let said = island.world.fails(1, &["apply", &file]);
            assert!(said.contains(&format!("there is no link \"{missing}\" to be its parent")), "{said}");
            assert!(said.contains("these are there: up0, up1"), "{said}");
            assert_eq!(island.world.field("lan-web-1", "pid"), pid, "it runs on");
        }
        island.world.ok(&["destroy", &file]);
        let said = island.world.fails(1, &["network", "create", "-d", "macvlan", "-o", "macvlan_mode=brige", "x"]);
        assert!(said.contains("`brige` is no `macvlan_mode`") && said.contains("bridge"), "{said}");
    });
}

#[test]
fn what_a_container_lost_of_its_place_is_found_and_put_back() {
    on_an_island(|island| {
        let file = island.apply("stack.yaml", &stack("macvlan", "parent: up0"));
        let pid = island.world.field("lan-web-1", "pid");
        // Of these the host's kernel tells, or not.
        for harm in ["ip link del eth0", "ip link set eth0 down", "ip addr del 192.0.2.50/24 dev eth0"] {
            island.container("lan-web-1").sh(harm);
            island.world.ok(&["apply", &file]);
            are_machines_of_the_lan(island);
        }
        island.container("lan-web-1").sh("ip addr del 192.0.2.50/24 dev eth0");
        let said = island.world.run(&["status", &file]);
        assert!(said.stdout.contains("address 192.0.2.50 of link eth0 of the container gone"), "{said:?}");
        island.world.ok(&["apply", &file]);
        assert_eq!(island.world.field("lan-web-1", "pid"), pid, "mended while it runs");
        island.world.ok(&["destroy", &file]);
    });
}

#[test]
fn ports_are_not_published_there_and_that_is_said() {
    on_an_island(|island| {
        let text = stack("macvlan", "parent: up0")
            .replace("networks: {lan: {ipv4", "ports: [\"8080:80\"], networks: {lan: {ipv4");
        let file = island.world.file("stack.yaml", &text);
        let file = file.to_str().unwrap();
        let planned = island.world.run(&["plan", file]);
        let said = planned.stdout + &planned.stderr;
        assert!(said.contains("nothing is published on a network of `driver: macvlan`"), "{said}");
        island.world.ok(&["apply", file]);
        assert_eq!(island.world.ok(&["port", "lan-web-1"]), "");
        assert!(std::net::TcpStream::connect(("127.0.0.1", 8080)).is_err());
        assert_eq!(client(island.outside.ask([192, 0, 2, 50], 80)), OUTSIDE.to_string());
        island.world.ok(&["destroy", file]);
    });
}

/// Packets are switched, or routed: then there are no neighbours to ask, and the way out has no gateway.
#[test]
#[ignore = "needs the machine"]
fn containers_share_their_parents_hardware_address() {
    assert_in_the_machine();
    on_an_island(|island| {
        for mode in ["l2", "l3", "l3s"] {
            let file = island.apply("stack.yaml", &stack("ipvlan", &format!("parent: up0, ipvlan_mode: {mode}")));
            let web = island.container("lan-web-1");
            let link = web.sh("ip -d link show eth0");
            assert!(link.contains("ipvlan") && link.contains(&format!("mode {mode} ")), "{link}");
            assert!(link.contains(hardware_address().trim()), "{link}");
            if mode == "l2" {
                are_machines_of_the_lan(island);
            } else {
                assert!(web.sh("ip route").contains("default dev eth0"), "{}", web.sh("ip route"));
                let other = island.container("lan-client-1");
                assert_eq!(client(other.ask([192, 0, 2, 50], 80)), island.address("lan-client-1").to_string());
                // Routed on one parent: the neighbour is told the way.
                island.outside.sh(&format!("ip route add 192.0.2.50/32 via {HERE}"));
                island.outside.sh("ip route del 192.0.2.50/32");
            }
            island.world.ok(&["destroy", &file]);
            assert_eq!(strangers(), [""; 0], "{mode}");
        }
        let said = island.world.fails(
            1,
            &[
                "apply",
                island
                    .world
                    .file(
                        "mac.yaml",
                        &stack("ipvlan", "parent: up0")
                            .replace("ipv4_address:", "mac_address: \"02:42:00:00:00:09\", ipv4_address:"),
                    )
                    .to_str()
                    .unwrap(),
            ],
        );
        assert!(said.contains("hardware address of its parent"), "{said}");
        island.world.ok(&["destroy", "lan"]);
    });
}

#[test]
#[ignore = "needs the machine"]
fn a_vlan_is_made_with_its_first_network_and_removed_with_its_last() {
    assert_in_the_machine();
    on_an_island(|island| {
        island.outside.sh("ip link add link eth0 name eth0.100 type vlan id 100; ip addr add 10.9.0.9/24 dev eth0.100; ip link set eth0.100 up");
        let text = stack("macvlan", "parent: up0.100").replace("192.0.2.", "10.9.0.");
        let file = island.apply("stack.yaml", &text);
        assert!(sh("ip -d link show up0.100").contains("vlan protocol 802.1Q id 100"));
        assert_eq!(sh("cat /proc/sys/net/ipv6/conf/up0.100/disable_ipv6").trim(), "1", "the host is not in it");
        assert_eq!(client(island.outside.ask([10, 9, 0, 50], 80)), "10.9.0.9");
        island.world.ok(&[
            "network",
            "create",
            "-d",
            "macvlan",
            "-o",
            "parent=up0.100",
            "--subnet",
            "10.8.0.0/24",
            "second",
        ]);
        // Whoever takes it away finds it put back, with the containers' links on it.
        sh("ip link del up0.100");
        eventually("the VLAN is back", || island.outside.ask([10, 9, 0, 50], 80).is_ok());
        island.world.ok(&["destroy", &file]);
        assert_eq!(strangers(), ["up0.100"], "the other network has it");
        island.world.ok(&["network", "rm", "second"]);
        assert_eq!(strangers(), [""; 0]);
        // One that was there is not ours to remove.
        sh("ip link add link up0 name up0.100 type vlan id 100; ip link set up0.100 up");
        island.apply("stack.yaml", &text);
        island.world.ok(&["destroy", &file]);
        assert_eq!(strangers(), ["up0.100"]);
    });
}

#[test]
#[ignore = "needs the machine"]
fn without_a_parent_a_network_leads_nowhere() {
    assert_in_the_machine();
    on_an_island(|island| {
        for driver in ["macvlan", "ipvlan"] {
            let file = island.apply("stack.yaml", &stack(driver, ""));
            let other = island.container("lan-client-1");
            assert_eq!(client(other.ask([192, 0, 2, 50], 80)), island.address("lan-client-1").to_string());
            assert_eq!(other.sh("ip route | grep default || true"), "");
            assert!(other.ask(OUTSIDE, 80).is_err() && island.outside.ask([192, 0, 2, 50], 80).is_err());
            assert_eq!(strangers().len(), 1);
            island.world.ok(&["destroy", &file]);
            assert_eq!(strangers(), [""; 0], "{driver}");
        }
    });
}
