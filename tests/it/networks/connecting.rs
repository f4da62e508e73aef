//! Networks that are joined and left while a container runs: by a changed file, and by command.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::island::{Island, on_an_island};
use crate::support::{World, eventually};

fn text(networks: &str) -> String {
    format!(
        "name: shop\ncontainers:\n  echo: {{image: \"builtin:whoami\", command: [tcp-echo, \"7\"], networks: {networks}, \
         stop_grace_period: 1s}}\n  other: {{image: \"builtin:whoami\", networks: [back], stop_grace_period: 1s}}\n\
         networks: {{front: {{}}, back: {{ipam: {{config: [{{subnet: 10.78.1.0/24}}]}}}}}}\n"
    )
}

fn resolved(world: &World, by: &str, name: &str) -> String {
    world.run(&["exec", by, "/whoami", "resolve", name]).stdout.trim().to_owned()
}

fn interfaces(island: &Island, container: &str) -> Vec<String> {
    let all = island.container(container).sh("ip -o link | cut -d: -f2 | cut -d@ -f1");
    let mut found: Vec<String> =
        all.lines().map(|line| line.trim().to_owned()).filter(|it| it.starts_with("eth")).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The program goes on, and what it says over the network that it stays in.
#[test]
fn a_changed_file_plugs_and_unplugs_what_runs() {
    on_an_island(|island| {
        let world = &island.world;
        island.apply("stack.yaml", &text("[front]"));
        let pid = world.field("shop-echo-1", "pid");
        let mut stream = TcpStream::connect((island.address("shop-echo-1"), 7)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut say = |text: &str| {
            stream.write_all(text.as_bytes()).unwrap();
            let mut back = vec![0; text.len()];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, text.as_bytes());
        };
        say("before");
        assert_eq!(resolved(world, "shop-other-1", "echo"), "");
        let more = world.file("more.yaml", &text("{front: {}, back: {aliases: [mirror]}}"));
        let plan = world.ok(&["plan", more.to_str().unwrap()]);
        assert!(plan.contains("~ container/echo-1") && plan.contains("update in place"), "{plan}");
        island.apply("stack.yaml", &text("{front: {}, back: {aliases: [mirror]}}"));
        say("joined");
        assert_eq!(world.field("shop-echo-1", "pid"), pid);
        assert_eq!(interfaces(island, "shop-echo-1"), ["eth0", "eth1"]);
        let found = resolved(world, "shop-other-1", "mirror");
        assert!(
            island.container("shop-echo-1").sh("ip -o addr show dev eth1").contains(&format!(" {found}/")),
            "{found}"
        );
        let hosts = world.ok(&["exec", "shop-echo-1", "/whoami", "cat", "/etc/hosts"]);
        assert!(hosts.contains(&found), "{hosts}");
        // Another name, another address.
        let address = "10.78.1.77".to_owned();
        island.apply(
            "stack.yaml",
            &text(&format!("{{front: {{}}, back: {{aliases: [copy], ipv4_address: {address}}}}}")),
        );
        assert_eq!(
            (resolved(world, "shop-other-1", "copy"), resolved(world, "shop-other-1", "mirror")),
            (address, String::new())
        );
        say("moved");
        // Its way out is another one's now.
        let route = || island.container("shop-echo-1").sh("ip route show default");
        assert!(route().contains("dev eth1"), "{}", route());
        island.apply("stack.yaml", &text("{front: {gw_priority: 9}, back: {}}"));
        assert!(route().contains("dev eth0"), "{}", route());
        island.apply("stack.yaml", &text("[front]"));
        say("left");
        assert!(route().contains("dev eth0"), "{}", route());
        assert_eq!(interfaces(island, "shop-echo-1"), ["eth0"]);
        assert_eq!(resolved(world, "shop-other-1", "echo"), "");
        assert_eq!(world.field("shop-echo-1", "pid"), pid);
        world.ok(&["status", "stack.yaml"]);
        world.ok(&["destroy", "shop"]);
    });
}

#[test]
fn a_container_is_connected_and_disconnected_by_command() {
    on_an_island(|island| {
        let world = &island.world;
        world.ok(&["network", "create", "one"]);
        world.ok(&["network", "create", "two"]);
        world.ok(&["run", "-d", "--name", "peer", "--network", "two", "builtin:whoami"]);
        world.ok(&["run", "-d", "--name", "it", "--network", "one", "builtin:whoami"]);
        assert_eq!(world.ok(&["network", "connect", "--alias", "nick", "--gw-priority", "5", "two", "it"]), "");
        assert!(island.container("it").sh("ip route show default").contains("dev eth1"));
        let address = resolved(world, "peer", "nick");
        assert!(island.container("peer").ask(address.parse::<std::net::Ipv4Addr>().unwrap(), 80).is_ok());
        let said = world.fails(1, &["network", "connect", "two", "it"]);
        assert!(said.contains("is in network \"two\" already"), "{said}");
        // It stays so when it is started again.
        world.ok(&["restart", "-t", "1", "it"]);
        assert_eq!(resolved(world, "peer", "nick"), address);
        assert_eq!(world.ok(&["network", "disconnect", "two", "it"]), "");
        assert_eq!(resolved(world, "peer", "nick"), "");
        assert_eq!(interfaces(island, "it"), ["eth0"]);
        let said = world.fails(1, &["network", "disconnect", "two", "it"]);
        assert!(said.contains("is not in network \"two\""), "{said}");
        // Out of the last one, and into one again.
        world.ok(&["network", "disconnect", "one", "it"]);
        assert_eq!(interfaces(island, "it"), Vec::<String>::new());
        world.ok(&[
            "network",
            "connect",
            "--ip",
            &address,
            "--driver-opt",
            "com.docker.network.endpoint.ifname=lan",
            "two",
            "it",
        ]);
        assert!(island.container("it").sh("ip -o addr show dev lan").contains(&format!(" {address}/")));
        world.ok(&["stop", "-t", "1", "it"]);
        world.ok(&["network", "disconnect", "two", "it"]);
        world.ok(&["network", "connect", "one", "it"]);
        world.ok(&["start", "it"]);
        assert_eq!(interfaces(island, "it"), ["eth0"]);
        // Of one that never ran.
        world.ok(&["create", "--name", "new", "--network", "one", "builtin:whoami"]);
        world.ok(&["network", "connect", "two", "new"]);
        world.ok(&["start", "new"]);
        assert_eq!(interfaces(island, "new"), ["eth0", "eth1"]);
        assert!(world.fails(1, &["network", "connect", "two", "nobody"]).contains("nobody"));
        assert!(world.fails(1, &["network", "connect", "nowhere", "it"]).contains("nowhere"));
        world.ok(&["run", "-d", "--name", "hermit", "--network", "none", "builtin:whoami"]);
        let said = world.fails(1, &["network", "connect", "two", "hermit"]);
        assert!(said.contains("without network"), "{said}");
        assert!(world.fails(1, &["network", "rm", "two"]).contains("new, peer"), "it is not");
        world.ok(&["rm", "-f", "it", "peer", "new", "hermit"]);
        world.ok(&["network", "rm", "one", "two"]);
        eventually("nothing is left", || world.left().is_empty());
    });
}
