//! The host around networks: its own firewall, another engine beside ours, what changes under us, and what is not there.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::island::{HERE, ask, line, on_an_island, sh};
use crate::support::{World, eventually};

/// A client that keeps its socket reaches whatever is behind the port now; what the kernel remembers of the container
/// before would lead it nowhere for as long as it goes on asking.
#[test]
fn a_datagram_client_reaches_the_containers_successor() {
    on_an_island(|island| {
        // Takes the address that was the first one's.
        let text = |variable: &str, between: &str| {
            format!(
                "name: shop\ncontainers:\n{between}  echo: {{image: \"builtin:whoami\", command: [udp-echo, \"53\"], \
                 ports: [\"0.0.0.0:5353:53/udp\"], environment: {{X: \"{variable}\"}}, stop_grace_period: 1s}}\n"
            )
        };
        island.apply("stack.yaml", &text("1", ""));
        let first = island.address("shop-echo-1");
        let socket = island.outside.inside(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.connect((HERE, 5353)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            socket
        });
        let echoes = || {
            socket.send(b"hello").ok();
            socket.recv(&mut [0; 16]).is_ok_and(|length| length == 5)
        };
        eventually("it echoes", echoes);
        island.world.ok(&["rm", "-f", "shop-echo-1"]);
        // Meanwhile it asks in vain, which the kernel remembers too.
        assert!(!echoes());
        island.world.ok(&[
            "run",
            "-d",
            "--name",
            "other",
            "--network",
            "shop_default",
            "builtin:whoami",
            "udp-echo",
            "53",
        ]);
        assert_eq!(island.address("other"), first);
        assert!(!echoes(), "who has the address now has published nothing");
        island.apply("stack.yaml", &text("2", ""));
        assert_ne!(island.address("shop-echo-1"), first);
        eventually("the successor echoes", echoes);
        let entries = sh("grep -c 'dport=5353' /proc/net/nf_conntrack || true");
        assert!(entries.trim().parse::<u32>().unwrap_or(1) <= 1, "{entries}");
        island.world.ok(&["rm", "-f", "other"]);
        island.world.ok(&["destroy", "shop"]);
    });
}

/// What the host's owner forbids to be passed on is not. What they forbid to come to the host itself does not hold for
/// published ports, which are passed on before that is asked.
#[test]
fn the_hosts_own_firewall_has_its_say_on_what_is_passed_on() {
    on_an_island(|island| {
        island.apply(
            "stack.yaml",
            "name: shop\ncontainers: {web: {image: \"builtin:whoami\", ports: [\"0.0.0.0:8080:80\"]}}\n",
        );
        island.outside.serve(7000);
        let way_out = || island.container("shop-web-1").ask(crate::support::island::OUTSIDE, 7000).is_ok();
        let way_in = || island.outside.ask(HERE, 8080).is_ok();
        assert!(way_in() && way_out());
        sh(
            "nft 'add table inet filter; add chain inet filter forward { type filter hook forward priority 0; policy drop; }'",
        );
        assert!(!way_in() && !way_out());
        sh(
            "nft 'add rule inet filter forward ct status dnat accept; add rule inet filter forward ct state established accept'",
        );
        assert!(way_in() && !way_out());
        island.world.ok(&["destroy", "shop"]);
        // Nothing of theirs went with ours.
        assert_eq!(sh("nft list tables"), "table inet filter\n");
    });
}

/// Who may speak to the host may speak to its published ports, and nobody else, whenever the host's chains came.
#[test]
fn the_hosts_own_firewall_judges_who_reaches_a_published_port() {
    on_an_island(|island| {
        let open = "open: {image: \"builtin:whoami\", ports: [\"0.0.0.0:8081:80\"], publish: bypass}";
        let echo = "echo: {image: \"builtin:whoami\", command: [udp-echo, \"53\"], ports: [\"0.0.0.0:5353:53/udp\"]}";
        let web = "web: {image: \"builtin:whoami\", ports: [\"0.0.0.0:8080:80\"]}";
        island.apply("stack.yaml", &format!("name: shop\ncontainers:\n  {web}\n  {open}\n  {echo}\n"));
        let way_in = |port| island.outside.ask(HERE, port).is_ok();
        let echoes = || {
            let socket = island.outside.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            socket.send_to(b"hello", (HERE, 5353)).unwrap();
            socket.recv(&mut [0; 16]).is_ok_and(|length| length == 5)
        };
        assert!(way_in(8080) && way_in(8081) && echoes());
        assert_eq!(sh("nft list chains | grep -c judged || true"), "0\n", "nobody to ask");
        sh(
            "nft 'add table inet theirs; add chain inet theirs input { type filter hook input priority 0; policy drop; }'",
        );
        sh(
            "nft 'add rule inet theirs input ct state established accept; add rule inet theirs input udp dport 5353 accept'",
        );
        eventually("the engine has heard of it", || !way_in(8080));
        assert!(way_in(8081), "it asked not to be judged");
        assert!(echoes(), "the first datagram of a client is not lost");
        assert!(ask(HERE, 8080).is_ok(), "the host's own programs are not from elsewhere");
        // Those that were let in see the client's own address.
        sh("nft 'add rule inet theirs input tcp dport 8080 ip saddr 203.0.113.0/24 accept'");
        assert!(!way_in(8080), "somebody else was let in");
        sh(
            "nft flush chain inet theirs input; nft add rule inet theirs input tcp dport 8080 ip saddr != 203.0.113.0/24 accept",
        );
        let said = island.outside.ask(HERE, 8080).unwrap();
        let from = line(&said, "client:").unwrap();
        assert_eq!(from, crate::support::island::OUTSIDE.to_string());
        assert!(!echoes());
        // Without chains of theirs all is as before.
        sh("nft 'delete chain inet theirs input'");
        eventually("nobody is asked", || sh("nft list chains | grep -c judged || true") == "0\n");
        assert!(way_in(8080) && echoes());
        island.world.ok(&["destroy", "shop"]);
        assert_eq!(sh("nft list tables"), "table inet theirs\n");
        assert_eq!(sh("ip -o link | grep -c stk || true"), "0\n");
    });
}

/// Two engines on one host, each with a stack of the same name and the same file.
#[test]
fn two_engines_do_not_see_each_other() {
    on_an_island(|island| {
        let other = World::new();
        let text = |port: u16| {
            format!(
                "name: shop\ncontainers:\n  web: {{image: \"builtin:whoami\", ports: [\"0.0.0.0:{port}:80\"], networks: [net], \
                 volumes: [\"data:/data\"], environment: {{COUNTER_FILE: /data/hits}}, stop_grace_period: 1s}}\n\
                 networks: {{net: {{}}}}\nvolumes: {{data: {{}}}}\n"
            )
        };
        let file = island.apply("stack.yaml", &text(8080));
        let theirs = other.file("stack.yaml", &text(8081));
        let theirs = theirs.to_str().unwrap();
        other.ok(&["apply", theirs]);
        let hits = |port| line(&ask(HERE, port).unwrap(), "hits:").unwrap();
        assert_eq!((hits(8080), hits(8080), hits(8081)), ("1".into(), "2".into(), "1".into()));
        let pid = island.world.field("shop-web-1", "pid");
        assert_ne!(other.field("shop-web-1", "pid"), pid);
        let said = other.fails(1, &["apply", other.file("taken.yaml", &text(8080)).to_str().unwrap()]);
        assert!(said.contains("8080"), "{said}");
        other.ok(&["destroy", "shop", "--volumes", "--yes=volumes"]);
        other.ok(&["system", "prune", "--all", "--volumes", "--force"]);
        assert_eq!(other.left(), Vec::<String>::new());
        island.world.ok(&["status", &file]);
        assert_eq!(island.world.field("shop-web-1", "pid"), pid);
        assert_eq!(hits(8080), "3");
        island.world.ok(&["destroy", "shop"]);
    });
}

#[test]
fn another_subnet_is_another_network_and_the_plan_says_why() {
    on_an_island(|island| {
        let text = |subnet: &str, mtu: u32| {
            format!(
                "name: shop\ncontainers:\n  web: {{image: \"builtin:whoami\", networks: [net], stop_grace_period: 1s}}\n  \
                 alone: {{image: \"builtin:whoami\", network_mode: none, stop_grace_period: 1s}}\nnetworks:\n  net:\n    \
                 driver_opts: {{com.docker.network.driver.mtu: {mtu}}}\n    ipam: {{config: [{{subnet: {subnet}}}]}}\n"
            )
        };
        let file = island.apply("stack.yaml", &text("10.77.1.0/24", 1400));
        let settings = |name: &str| island.world.ok(&["exec", "shop-web-1", "/whoami", "cat", name]);
        assert!(island.address("shop-web-1").to_string().starts_with("10.77.1."));
        assert_eq!(settings("/sys/class/net/eth0/mtu"), "1400\n");
        // No router of the neighbourhood decides on a container's ways.
        assert_eq!(settings("/proc/sys/net/ipv6/conf/eth0/disable_ipv6"), "1\n");
        let bridge = sh("ip -o link show type bridge | cut -d: -f2").trim().to_owned();
        assert_eq!(sh(&format!("cat /proc/sys/net/ipv6/conf/{bridge}/disable_ipv6")), "1\n");
        assert!(sh(&format!("ip -o link show dev {bridge}")).contains(" mtu 1400 "));
        let alone = island.world.field("shop-alone-1", "pid");
        island.world.file("stack.yaml", &text("10.77.2.0/24", 1400));
        let plan = island.world.ok(&["plan", &file]);
        let cause = |resource: &str| plan.lines().find(|line| line.contains(resource)).unwrap_or_default().to_owned();
        assert!(cause("network/net").contains("subnet: 10.77.1.0/24 -> 10.77.2.0/24"), "{plan}");
        assert!(cause("container/web-1").contains("network/net"), "{plan}");
        assert!(cause("container/alone-1").is_empty(), "{plan}");
        island.world.ok(&["apply", &file]);
        assert!(island.address("shop-web-1").to_string().starts_with("10.77.2."));
        assert_eq!(island.world.field("shop-alone-1", "pid"), alone);
        island.world.ok(&["status", &file]);
        island.world.ok(&["destroy", "shop"]);
    });
}

/// How often a command, and all that it starts, turns to the kernel's firewall.
fn firewall_calls(world: &World, words: &[&str]) -> usize {
    let log = world.directory.join("calls");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=socket", "-o"]).arg(&log).arg(&world.roots.program).args(words);
    command.env("STACK_ROOT", &world.roots.root).env("STACK_RUN_ROOT", &world.roots.run).current_dir(&world.directory);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().expect("strace, which tests/run.sh installs").success(), "{words:?}");
    std::fs::read_to_string(log).unwrap().lines().filter(|line| line.contains("NETLINK_NETFILTER")).count()
}

/// Who has no network needs nothing of the kernel for it.
#[test]
fn without_networks_no_firewall_is_needed() {
    let world = World::new();
    assert_eq!(firewall_calls(&world, &["run", "--rm", "--network", "none", "builtin:whoami", "true"]), 0);
    assert_eq!(firewall_calls(&world, &["run", "--rm", "--network", "host", "builtin:whoami", "true"]), 0);
    assert_eq!(firewall_calls(&world, &["ps", "-a"]), 0);
    let file = world.file(
        "stack.yaml",
        "name: s\ncontainers: {a: {image: \"builtin:whoami\", command: [exit, \"0\"], network_mode: none}}\n",
    );
    world.ok(&["apply", file.to_str().unwrap()]);
    world.ok(&["wait", "s-a-1"]);
    for words in [["status", "stack.yaml"], ["destroy", "s"]] {
        assert_eq!(firewall_calls(&world, &words), 0, "{words:?}");
    }
}

#[test]
fn fifty_containers_share_a_network() {
    on_an_island(|island| {
        let text = "name: many\ncontainers: {web: {image: \"builtin:whoami\", replicas: 50, stop_grace_period: 1s}}\n";
        let file = island.world.file("stack.yaml", text);
        island.world.ok(&["apply", "--parallel", "50", file.to_str().unwrap()]);
        let addresses: BTreeSet<Ipv4Addr> =
            (1..=50).map(|number| island.address(&format!("many-web-{number}"))).collect();
        assert_eq!(addresses.len(), 50);
        let (first, last) = (island.container("many-web-1"), island.address("many-web-50"));
        assert_eq!(line(&first.ask(last, 80).unwrap(), "name:").unwrap(), "many-web-50");
        let found = island.world.ok(&["exec", "many-web-50", "/whoami", "resolve", "many-web-17"]);
        assert_eq!(found.trim(), island.address("many-web-17").to_string());
        let again = island.world.run(&["apply", file.to_str().unwrap()]);
        assert!(again.code == 0 && again.stderr.contains("nothing to do"), "{again:?}");
        island.world.ok(&["destroy", "many"]);
    });
}
