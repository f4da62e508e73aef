//! What somebody takes from a container's network: found by `status`, put back by whoever guards it.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::island::{HERE, Island, on_an_island, sh};
use crate::support::{World, as_root_of, eventually, processes};

const STACK: &str = r#"
name: shop
containers:
  web: {image: builtin:whoami, ports: ["0.0.0.0:8080:80"], networks: [front], stop_grace_period: 1s}
  peer: {image: builtin:whoami, networks: [front], stop_grace_period: 1s}
networks: {front: {}}
"#;

/// How long it may take until what was taken away is back.
const LIMIT: Duration = Duration::from_secs(2);

fn kill_servers(world: &World) {
    let root = world.roots.root.to_str().unwrap().to_owned();
    let ours = || processes().into_iter().filter(|(_, line)| line.contains(" netd ") && line.contains(&root));
    // The one that starts the other again first.
    while let Some((pid, _)) = ours().next() {
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).ok();
    }
}

/// What can be taken, where, and what `status` says of it.
fn harms(island: &Island) -> Vec<(&'static str, String, &'static str)> {
    let bridge = sh("ip -o link show type bridge | cut -d: -f2").trim().to_owned();
    let address = island.address("shop-web-1");
    let place = "shop-web-1";
    vec![
        (place, "ip link set eth0 down".to_owned(), "interface eth0 down"),
        (place, "ip addr flush dev eth0".to_owned(), "interface eth0 gone"),
        (place, format!("ip addr add 10.99.0.1/24 dev eth0; ip addr del {address}/24 dev eth0"), "interface eth0 gone"),
        (place, "ip route del default".to_owned(), "default route by eth0 gone"),
        (place, "ip link del eth0".to_owned(), "link to shop_front gone"),
        ("", "nft flush ruleset".to_owned(), "gone or changed"),
        ("", format!("ip link del {bridge}"), "gone"),
        ("", format!("ip link set {bridge} down"), "down"),
        ("", format!("ip addr flush dev {bridge}"), "gone"),
    ]
}

fn harm(island: &Island, place: &str, script: &str) {
    if place.is_empty() {
        sh(script)
    } else {
        island.container(place).sh(script)
    };
}

fn is_whole(island: &Island) -> bool {
    island.outside.ask(HERE, 8080).is_ok()
        && island.container("shop-web-1").sh("ip route show default").contains("eth0")
        && island.world.run(&["status", "stack.yaml"]).code == 0
}

#[test]
fn what_is_taken_from_a_container_comes_back() {
    on_an_island(|island| {
        island.apply("stack.yaml", STACK);
        let pid = island.world.field("shop-web-1", "pid");
        for (place, script, _) in harms(island) {
            harm(island, place, &script);
            eventually(&script, || is_whole(island));
        }
        assert_eq!(island.world.field("shop-web-1", "pid"), pid);
        island.world.ok(&["destroy", "shop"]);
    });
}

/// Where nobody guards, `status` finds it and an apply mends it.
#[test]
fn what_is_taken_is_found_and_mended_by_an_apply() {
    on_an_island(|island| {
        let world = &island.world;
        island.apply("stack.yaml", STACK);
        let pid = world.field("shop-web-1", "pid");
        for (place, script, said) in harms(island) {
            kill_servers(world);
            harm(island, place, &script);
            let found = world.run(&["status", "stack.yaml"]);
            assert!(found.code == 2 && found.stdout.contains(said), "{script}: {found:?}");
            world.ok(&["apply", "stack.yaml"]);
            eventually(&script, || is_whole(island));
        }
        assert_eq!(world.field("shop-web-1", "pid"), pid);
        world.ok(&["destroy", "shop"]);
    });
}

struct Watching(Child);

impl Watching {
    fn new(world: &World) -> Self {
        let mut command = world.command(&["watch", "stack.yaml"]);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM).ok();
        self.0.wait().ok();
    }
}

/// What a program adds is its own affair; what it takes away of how it finds names is put back.
#[test]
fn a_resolver_file_that_is_edited_is_written_again() {
    on_an_island(|island| {
        let world = &island.world;
        island.apply("stack.yaml", STACK);
        let pid = world.field("shop-web-1", "pid").as_i64().unwrap() as i32;
        let path = |name: &str| format!("/proc/{pid}/root/etc/{name}");
        let edit = |name: &str, text: &str| as_root_of(pid, || fs::write(path(name), text).unwrap());
        let (resolv_conf, hosts) =
            (fs::read_to_string(path("resolv.conf")).unwrap(), fs::read_to_string(path("hosts")).unwrap());
        edit("hosts", &format!("{hosts}192.0.2.77 mine\n"));
        world.ok(&["status", "stack.yaml"]);
        edit("resolv.conf", "nameserver 192.0.2.66\n");
        edit("hosts", "127.0.0.1 localhost\n");
        let found = world.run(&["status", "stack.yaml"]);
        assert!(found.code == 2 && found.stdout.contains("/etc/hosts edited, /etc/resolv.conf edited"), "{found:?}");
        world.ok(&["apply", "stack.yaml"]);
        let is_back = || {
            fs::read_to_string(path("resolv.conf")).unwrap() == resolv_conf
                && fs::read_to_string(path("hosts")).unwrap() == hosts
        };
        assert!(is_back());
        let watching = Watching::new(world);
        for name in ["resolv.conf", "hosts"] {
            edit(name, "# nothing\n");
            let begun = Instant::now();
            eventually(name, is_back);
            // It has to begin to watch, the first time.
            assert!(begun.elapsed() < 2 * LIMIT, "{name}: {:?}", begun.elapsed());
        }
        drop(watching);
        assert_eq!(world.field("shop-web-1", "pid"), pid);
        world.ok(&["destroy", "shop"]);
    });
}

/// A program that may set routes has its reasons, such as that nothing leaves but through its tunnel.
#[test]
fn who_may_change_its_network_is_left_alone() {
    on_an_island(|island| {
        let world = &island.world;
        let text = STACK.replace("networks: [front], stop", "networks: [front], cap_add: [NET_ADMIN], stop");
        island.apply("stack.yaml", &text);
        let web = island.container("shop-web-1");
        web.sh("ip route del default");
        world.ok(&["status", "stack.yaml"]);
        sh("nft flush ruleset");
        let table = format!("table inet stack-{}\n", world.roots.key());
        eventually("the rules are back", || sh("nft list tables").contains(&table));
        world.ok(&["apply", "stack.yaml"]);
        assert_eq!(web.sh("ip route show default"), "");
        // A cable that is gone is none of its doing.
        web.sh("ip link del eth0");
        eventually("it is plugged in again", || web.sh("ip route show default").contains("eth0"));
        world.ok(&["destroy", "shop"]);
    });
}
