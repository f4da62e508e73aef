//! The process that serves names and local ports: killed, stopped, replaced by another build; and what it guards.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use stack::runtime::state::{Contention, Lock};

use crate::support::island::{HERE, ask, on_an_island, sh};
use crate::support::{World, eventually, processes};

const STACK: &str = r#"
name: shop
containers:
  web: {image: builtin:whoami, ports: ["0.0.0.0:8080:80"], networks: [front]}
  echo: {image: builtin:whoami, command: [tcp-echo, "7"], ports: ["7007:7"], networks: [front]}
  client: {image: builtin:whoami, command: [sleep, forever], networks: [front]}
networks: {front: {}}
"#;

/// The one that starts the server, and the server.
fn servers(world: &World) -> Vec<i32> {
    let root = world.roots.root.to_str().unwrap().to_owned();
    let ours = processes().into_iter().filter(|(_, line)| line.contains(" netd ") && line.contains(&root));
    let mut pids: Vec<i32> = ours.map(|(pid, _)| pid as i32).collect();
    let parent = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<i32>().ok())
    };
    let all = pids.clone();
    pids.sort_by_key(|pid| parent(pid).is_some_and(|parent| all.contains(&parent)));
    pids
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn is_served(world: &World) -> bool {
    let named = world.run(&["exec", "shop-client-1", "/whoami", "resolve", "web"]);
    named.code == 0 && ask(Ipv4Addr::LOCALHOST, 8080).is_ok()
}

#[test]
fn a_server_that_is_killed_is_there_again_at_once() {
    on_an_island(|island| {
        let file = island.apply("stack.yaml", STACK);
        assert!(is_served(&island.world));
        let [keeper, server] = servers(&island.world)[..] else { panic!() };
        signal(server, Signal::SIGKILL);
        eventually("another one serves", || is_served(&island.world));
        let [same, other] = servers(&island.world)[..] else { panic!() };
        assert!(same == keeper && other != server);

        signal(keeper, Signal::SIGKILL);
        signal(other, Signal::SIGKILL);
        eventually("both are gone", || servers(&island.world).is_empty());
        assert!(!is_served(&island.world));
        let plan = island.world.run(&["status", &file]);
        assert!(plan.code == 2 && plan.stdout.contains("names and local ports are not served"), "{plan:?}");
        island.world.ok(&["apply", &file]);
        assert!(is_served(&island.world));
        island.world.ok(&["destroy", "shop"]);
        eventually("it ends with the last container", || servers(&island.world).is_empty());
    });
}

#[test]
fn a_server_that_hangs_is_replaced() {
    on_an_island(|island| {
        island.apply("stack.yaml", STACK);
        let hung = servers(&island.world)[1];
        {
            // Not while it puts something in order, which all others wait for.
            let path = island.world.roots.volatile("locks").join("network");
            let _at_rest = Lock::take(&path, Contention::Wait).unwrap();
            signal(hung, Signal::SIGSTOP);
        }
        // Whoever waits for it, waits no longer than its patience.
        island.world.ok(&["restart", "-t", "1", "shop-client-1"]);
        assert!(!servers(&island.world).contains(&hung));
        assert!(is_served(&island.world));
        island.world.ok(&["destroy", "shop"]);
    });
}

#[test]
fn another_build_takes_over_without_breaking_a_connection() {
    on_an_island(|island| {
        island.apply("stack.yaml", STACK);
        let server = servers(&island.world)[1];
        let mut stream = TcpStream::connect(("127.0.0.1", 7007)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut say = |text: &str| {
            stream.write_all(text.as_bytes()).unwrap();
            let mut back = vec![0; text.len()];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, text.as_bytes());
        };
        say("before");
        let mut other = World::at(island.world.directory.clone());
        let copy = island.world.directory.join("upgraded");
        fs::copy(&other.roots.program, &copy).unwrap();
        other.roots.program.clone_from(&copy);
        other.ok(&["restart", "-t", "1", "shop-client-1"]);
        eventually("the one before has ended", || servers(&island.world).len() == 2);
        for pid in servers(&island.world) {
            assert!(pid != server && fs::read_link(format!("/proc/{pid}/exe")).unwrap() == copy, "of another program");
        }
        say("after");
        assert!(is_served(&island.world));
        // And back.
        island.world.ok(&["restart", "-t", "1", "shop-client-1"]);
        say("and again");
        std::mem::forget(other);
        island.world.ok(&["destroy", "shop"]);
    });
}

/// A firewall that is reloaded usually flushes everything first.
#[test]
fn what_somebody_takes_away_is_back_within_two_seconds() {
    on_an_island(|island| {
        island.apply("stack.yaml", STACK);
        let reached = || island.outside.ask(HERE, 8080).is_ok();
        assert!(reached());
        let bridge = || sh("ip -o link show type bridge | cut -d: -f2").trim().to_owned();
        let first = bridge();
        let harm = [
            "nft flush ruleset".to_owned(),
            format!("nft flush chain inet stack-{} forward", island.world.roots.key()),
            format!("ip link del {first}"),
            format!("ip link set {first} down"),
            format!("ip addr flush dev {first}"),
        ];
        for harm in harm {
            sh(&harm);
            let begun = Instant::now();
            let mended = || {
                let file = island.world.directory.join("stack.yaml");
                reached() && island.world.run(&["status", file.to_str().unwrap()]).code == 0
            };
            eventually(&harm, mended);
            assert!(begun.elapsed() < Duration::from_secs(2), "{harm}: {:?}", begun.elapsed());
        }
        island.world.ok(&["destroy", "shop"]);
        assert_eq!(sh("nft list ruleset"), "");
        assert_eq!(bridge(), "");
    });
}
