//! A container's place in networks outlives it: its successor has the namespace, the addresses and the ports, and what
//! lives there notices nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use stack::engine::native::{containers, declared};
use stack::runtime::container;

use crate::support::island::{HERE, Island, on_an_island};
use crate::support::{World, eventually};

/// `echo` lives in the network of `vpn`.
fn text(users: &str, version: u32) -> String {
    format!(
        "name: shop\ncontainers:\n  vpn: {{image: \"builtin:whoami\", networks: [net], ports: [\"0.0.0.0:8080:80\", \
         \"0.0.0.0:7007:7\"], userns_mode: {users}, environment: {{X: \"{version}\"}}, stop_grace_period: 1s}}\n  \
         echo: {{image: \"builtin:whoami\", command: [tcp-echo, \"7\"], network_mode: \"service:vpn\", \
         stop_grace_period: 1s}}\n  peer: {{image: \"builtin:whoami\", networks: [net], stop_grace_period: 1s}}\n\
         networks: {{net: {{}}}}\n"
    )
}

/// What stays the same: the namespace, addresses and hardware address, who lives there, and what names lead to.
#[derive(Debug, PartialEq)]
struct Identity {
    namespace: u64,
    links: String,
    guest: serde_json::Value,
    name: String,
}

fn identity(island: &Island) -> Identity {
    let world = &island.world;
    let place = island.container("shop-echo-1");
    Identity {
        namespace: place.inside(|| fs::metadata("/proc/thread-self/ns/net").unwrap().ino()),
        links: place.sh("ip -o link show dev eth0; ip -4 -o addr show dev eth0; ip route"),
        guest: world.field("shop-echo-1", "pid"),
        name: world.run(&["exec", "shop-peer-1", "/whoami", "resolve", "vpn"]).stdout,
    }
}

struct Connection(TcpStream);

impl Connection {
    fn new(address: Ipv4Addr, port: u16) -> Self {
        let stream = TcpStream::connect(SocketAddr::from((address, port))).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self(stream)
    }

    #[track_caller]
    fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
        let mut back = vec![0; text.len()];
        self.0.read_exact(&mut back).unwrap();
        assert_eq!(back, text.as_bytes());
    }
}

#[test]
fn who_lives_in_a_containers_network_stays_when_that_is_replaced() {
    for users in ["host", "private"] {
        on_an_island(move |island| {
            let world = &island.world;
            island.apply("stack.yaml", &text(users, 1));
            let before = identity(island);
            let main = world.field("shop-vpn-1", "pid");
            let mut near = Connection::new(island.address("shop-vpn-1"), 7);
            let mut far = island.outside.inside(|| Connection::new(HERE, 7007));
            near.say("before");
            far.say("before");
            let changed = world.file("changed.yaml", &text(users, 2));
            let plan = world.ok(&["plan", changed.to_str().unwrap()]);
            assert!(plan.contains("container/vpn-1") && !plan.contains("container/echo-1"), "{plan}");
            for version in 2..4 {
                island.apply("stack.yaml", &text(users, version));
                assert_eq!(identity(island), before);
                near.say("after");
                far.say("after");
            }
            assert_ne!(world.field("shop-vpn-1", "pid"), main);
            assert!(island.outside.ask(HERE, 8080).is_ok());
            // The two are in one network, and in one user namespace.
            let [vpn, echo] = ["shop-vpn-1", "shop-echo-1"].map(|name| world.field(name, "pid"));
            for kind in ["net", "user"] {
                let of = |pid: &serde_json::Value| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
                assert_eq!(of(&vpn), of(&echo), "{kind}");
            }
            world.ok(&["status", "stack.yaml"]);
            world.ok(&["destroy", "shop"]);
        });
    }
}

/// The old one is gone, and the new one is not there yet.
fn vacate(world: &World) {
    let found = container::get(&world.roots, "shop-vpn-1").unwrap();
    container::stop(&world.roots, "shop-vpn-1", &container::Stop::at_once()).unwrap();
    containers::vacate(&world.roots, &declared(&found).unwrap()).unwrap();
}

#[test]
fn what_is_kept_for_a_successor_waits_for_it_or_goes_with_the_stack() {
    on_an_island(|island| {
        let world = &island.world;
        island.apply("stack.yaml", &text("private", 1));
        let before = identity(island);
        let mut near = Connection::new(island.address("shop-vpn-1"), 7);
        vacate(world);
        near.say("alone");
        assert!(world.ok(&["ps", "-a"]).contains("Half made"));
        assert!(world.fails(1, &["start", "shop-vpn-1"]).contains("half made"));
        let said = world.fails(1, &["network", "rm", "shop_net"]);
        assert!(said.contains("shop-vpn-1"), "{said}");
        let plan = world.run(&["plan", "--detailed-exitcode", "stack.yaml"]);
        assert!(plan.code == 2 && plan.stdout.contains("half made") && !plan.stdout.contains("echo-1"), "{plan:?}");
        world.ok(&["apply", "stack.yaml"]);
        near.say("finished");
        assert_eq!(identity(island), before);
        // Another version than was begun.
        vacate(world);
        island.apply("stack.yaml", &text("private", 2));
        near.say("another");
        assert_eq!(identity(island), before);
        world.ok(&["status", "stack.yaml"]);
        vacate(world);
        world.ok(&["destroy", "shop"]);
        eventually("nothing is left", || world.left().is_empty());
    });
}

/// The moments cover the whole of it, from the first look to the last word.
#[test]
fn a_replacement_that_is_killed_at_any_moment_keeps_its_place() {
    const MOMENTS: u32 = 10;
    on_an_island(|island| {
        let world = &island.world;
        island.apply("stack.yaml", &text("private", 0));
        let before = identity(island);
        let mut near = Connection::new(island.address("shop-vpn-1"), 7);
        let begun = Instant::now();
        island.apply("stack.yaml", &text("private", 1));
        let took = begun.elapsed();
        for moment in 0..MOMENTS {
            let file = world.file("stack.yaml", &text("private", 2 + moment));
            let words = ["apply", file.to_str().unwrap()];
            let mut child = world.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(took * moment / MOMENTS);
            child.kill().unwrap();
            child.wait().unwrap();
            near.say("killed");
            world.ok(&words);
            near.say("finished");
            assert_eq!(identity(island), before, "killed at {moment}/{MOMENTS} of {took:?}");
            assert!(island.outside.ask(HERE, 8080).is_ok());
        }
        world.ok(&["destroy", "shop"]);
    });
}

/// Whoever was in it is started again with it.
#[test]
fn another_user_namespace_has_another_network_at_the_same_addresses() {
    on_an_island(|island| {
        let world = &island.world;
        island.apply("stack.yaml", &text("private", 1));
        let before = identity(island);
        island.apply("stack.yaml", &text("host", 1));
        let after = identity(island);
        assert_ne!((after.namespace, &after.guest), (before.namespace, &before.guest));
        assert_eq!(after.name, before.name);
        Connection::new(island.address("shop-vpn-1"), 7).say("anew");
        world.ok(&["status", "stack.yaml"]);
        world.ok(&["destroy", "shop"]);
    });
}

/// A container that somebody removed comes back with another namespace: whoever lived in the old one has to follow.
#[test]
fn who_lived_with_a_container_that_was_removed_follows_the_new_one() {
    on_an_island(|island| {
        let world = &island.world;
        island.apply("stack.yaml", &text("private", 1));
        let guest = world.field("shop-echo-1", "pid");
        world.ok(&["rm", "-f", "shop-vpn-1"]);
        let plan = world.ok(&["plan", "stack.yaml"]);
        assert!(plan.contains("container/vpn-1 is made anew"), "{plan}");
        world.ok(&["apply", "stack.yaml"]);
        assert_ne!(world.field("shop-echo-1", "pid"), guest);
        Connection::new(island.address("shop-vpn-1"), 7).say("together");
        world.ok(&["destroy", "shop"]);
    });
}
