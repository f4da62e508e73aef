//! Networks as containers and their neighbours see them: real packets, in namespaces that each test makes for itself.
//! The host's own network is never touched.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::bridge::cable;
use super::*;

/// A host of its own: `up0` is its uplink with 192.0.2.1, `outside` a neighbour there with 192.0.2.9; `up1` with
/// 198.51.100.1 and `beyond`, 198.51.100.9, are another of its networks. Both take this host for their router.
struct World {
    roots: Roots,
    outside: PathBuf,
    beyond: PathBuf,
    directory: PathBuf,
}

const UPLINK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const BEYOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

/// Runs the test on a thread with network and mounts of its own, which end with it.
fn in_a_world(test: impl FnOnce(&World) + Send + 'static) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("stack-network-{}-{number}", std::process::id()));
    let inner = directory.clone();
    let outcome = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        fs::create_dir_all(&inner).unwrap();
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        links::set_up(&mut Socket::route().unwrap(), links::existing("lo").unwrap()).unwrap();
        let neighbours = Roots::new(inner.join("neighbours"), inner.join("neighbours"));
        let world = World {
            outside: neighbour(&neighbours, "up0", UPLINK, OUTSIDE),
            beyond: neighbour(&neighbours, "up1", Ipv4Addr::new(198, 51, 100, 1), BEYOND),
            roots: Roots::new(inner.join("root"), inner.join("run")),
            directory: inner,
        };
        test(&world);
    })
    .join();
    fs::remove_dir_all(&directory).unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// A namespace that is plugged into a new link of this host.
fn neighbour(roots: &Roots, link: &str, here: Ipv4Addr, there: Ipv4Addr) -> PathBuf {
    let mut socket = Socket::route().unwrap();
    links::make_bridge(&mut socket, link, hardware_address(here.into()), 1500).unwrap();
    let index = links::existing(link).unwrap();
    links::set_up(&mut socket, index).unwrap();
    links::add_address(&mut socket, index, here.into(), 24).unwrap();
    let namespace = sandbox::ensure(roots, link, &sandbox::Owner::Host).unwrap();
    let file = fs::File::open(&namespace).unwrap();
    let peer = links::Peer { namespace: file.as_fd(), name: "eth0", address: hardware_address(there.into()) };
    links::make_cable(&mut socket, &format!("c-{link}"), index, &peer, 1500).unwrap();
    sandbox::inside(&namespace, move || {
        let mut socket = Socket::route()?;
        let index = links::existing("eth0")?;
        links::add_address(&mut socket, index, there.into(), 24)?;
        links::set_up(&mut socket, index)?;
        links::set_default_route(&mut socket, here.into(), index)
    })
    .unwrap();
    namespace
}

impl World {
    fn network(&self, name: &str) -> Network {
        create(&self.roots, &NetworkConfig { name: name.into(), ..NetworkConfig::default() }).unwrap()
    }

    fn internal(&self, name: &str) -> Network {
        create(&self.roots, &NetworkConfig { name: name.into(), internal: true, ..NetworkConfig::default() }).unwrap()
    }

    fn container(&self, name: &str, networks: &[&str], ports: &[Port]) -> Attachment {
        connect(&self.roots, &wish(name, networks, ports)).unwrap()
    }

    fn namespace(&self, container: &str) -> PathBuf {
        sandbox::path(&self.roots, container)
    }

    fn links(&self) -> Vec<String> {
        links::list(&mut Socket::route().unwrap()).unwrap().into_iter().map(|link| link.name).collect()
    }

    fn has_table(&self) -> bool {
        nft::exists(&mut Socket::netfilter().unwrap(), &table_name(&self.roots)).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        fn below(directory: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() { below(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        below(&self.directory.join("root"), &mut found);
        below(&self.directory.join("run"), &mut found);
        // The lock stays for the next, and the journal says what became of the networks.
        found.retain(|path| !path.ends_with("locks/network") && !path.ends_with("events/journal"));
        found
    }
}

/// What is lost but for `netd`, which does not run in these tests.
fn links_lost(seen: &Seen, network: &str) -> Vec<String> {
    let mut lost = seen.of_network(network);
    lost.retain(|words| !seen.unserved().contains(words));
    lost
}

fn wish(name: &str, networks: &[&str], ports: &[Port]) -> Connect {
    let join = |network: &&str| Join { network: (*network).into(), names: vec![name.into()], ..Join::default() };
    let joins = networks.iter().map(join).collect();
    Connect {
        container: name.into(),
        id: String::new(),
        joins,
        ports: ports.to_vec(),
        dns: Vec::new(),
        owner: sandbox::Owner::Host,
        transient: false,
        self_governed: false,
    }
}

fn port(host_port: u16, container_port: u16) -> Port {
    Port { host_ip: None, host_port, container_port, protocol: "tcp".into(), bypass: false }
}

fn address_in(attachment: &Attachment, network: &str) -> Ipv4Addr {
    match attachment.endpoints[network].address(Family::V4) {
        Some(IpAddr::V4(address)) => address,
        other => panic!("{other:?}"),
    }
}

fn gateway(network: &Network) -> Ipv4Addr {
    match network.range(Family::V4).unwrap().gateway {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address}"),
    }
}

/// A server in the namespace that tells each client its address; it ends with the test's namespaces at the latest.
fn serve(namespace: &Path, port: u16) {
    let listener = sandbox::inside(namespace, move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, client)) = listener.accept() {
            drop(stream.write_all(client.ip().to_string().as_bytes()));
        }
    });
}

/// What a server there says, or why it was not reached.
fn ask_from(namespace: &Path, address: Ipv4Addr, port: u16) -> io::Result<String> {
    sandbox::inside(namespace, move || ask(address, port))
}

/// What is answered in the end: on a busy host the first packet may be lost, and the kernel sends the next a second later.
fn answer_from(namespace: &Path, address: Ipv4Addr, port: u16) -> String {
    let begun = std::time::Instant::now();
    loop {
        match ask_from(namespace, address, port) {
            Err(error) if begun.elapsed() > Duration::from_secs(10) => panic!("{address}:{port}: {error}"),
            Err(_) => {}
            Ok(text) => return text,
        }
    }
}

fn ask(address: Ipv4Addr, port: u16) -> io::Result<String> {
    let limit = Duration::from_millis(400);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), limit)?;
    stream.set_read_timeout(Some(limit))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn containers_of_one_network_talk_and_others_do_not() {
    in_a_world(|world| {
        world.network("front");
        world.network("other");
        let back = world.internal("back");
        let web = world.container("web", &["front", "back"], &[]);
        world.container("client", &["front"], &[]);
        world.container("stranger", &["other"], &[]);
        let db = world.container("db", &["back"], &[]);
        serve(&world.namespace("web"), 80);
        serve(&world.namespace("db"), 5432);
        serve(&sandbox::path(&world.roots, "stranger"), 80);
        let [front_of_web, back_of_web] = ["front", "back"].map(|network| address_in(&web, network));
        let client = world.namespace("client");
        assert!(ask_from(&client, front_of_web, 80).is_ok());
        assert!(ask_from(&world.namespace("web"), address_in(&db, "back"), 5432).is_ok());
        assert!(ask_from(&world.namespace("stranger"), front_of_web, 80).is_err(), "networks are apart");
        assert!(ask_from(&client, back_of_web, 80).is_err(), "what is internal is reached from within alone");
        assert!(ask_from(&client, address_in(&db, "back"), 5432).is_err());
        // The host may ask a container of an internal network, but not the other way round.
        let host = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9000)).unwrap();
        assert!(ask(address_in(&db, "back"), 5432).is_ok());
        assert!(ask_from(&world.namespace("db"), gateway(&back), 9000).is_err());
        assert!(ask_from(&world.namespace("db"), UPLINK, 9000).is_err());
        drop(host);
    });
}

#[test]
fn packets_leave_under_the_hosts_address_and_the_host_is_no_router_for_strangers() {
    in_a_world(|world| {
        serve(&world.outside, 80);
        serve(&world.beyond, 80);
        world.network("front");
        world.internal("back");
        let web = world.container("web", &["front"], &[]);
        world.container("db", &["back"], &[]);
        serve(&world.namespace("web"), 8000);
        assert_eq!(ask_from(&world.namespace("web"), OUTSIDE, 80).unwrap(), UPLINK.to_string());
        assert!(ask_from(&world.namespace("web"), BEYOND, 80).is_ok());
        assert!(ask_from(&world.namespace("db"), OUTSIDE, 80).is_err(), "internal networks have no way out");
        assert!(ask_from(&world.outside, BEYOND, 80).is_err(), "strangers are not passed on");
        assert!(
            ask_from(&world.outside, address_in(&web, "front"), 8000).is_err(),
            "no way in but by a published port"
        );
        disconnect(&world.roots, "web").unwrap();
        remove(&world.roots, "front").unwrap();
        for link in ["up0", "up1"] {
            let path = format!("/proc/sys/net/ipv4/conf/{link}/forwarding");
            assert_eq!(fs::read_to_string(path).unwrap().trim(), "0", "{link} is as it was found");
        }
    });
}

#[test]
fn a_host_that_forwards_stays_as_it_is() {
    in_a_world(|world| {
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        serve(&world.beyond, 80);
        world.network("front");
        assert!(ask_from(&world.outside, BEYOND, 80).is_ok(), "what was passed on before still is");
        remove(&world.roots, "front").unwrap();
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
    });
}

#[test]
fn published_ports_are_reached_from_everywhere_and_show_the_clients_address() {
    in_a_world(|world| {
        world.network("front");
        world.network("other");
        world.internal("back");
        let only_outside = Port { host_ip: Some(IpAddr::V4(UPLINK)), ..port(8081, 80) };
        let loopback = Port { host_ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), ..port(8082, 80) };
        world.container("web", &["front", "back"], &[port(8080, 80), only_outside, loopback]);
        world.container("client", &["front"], &[]);
        world.container("stranger", &["other"], &[]);
        world.container("db", &["back"], &[]);
        serve(&world.namespace("web"), 80);
        serve(&world.beyond, 8080);
        let outside = OUTSIDE.to_string();
        assert_eq!(ask_from(&world.outside, UPLINK, 8080).unwrap(), outside);
        assert_eq!(ask_from(&world.outside, UPLINK, 8081).unwrap(), outside);
        assert!(ask_from(&world.outside, UPLINK, 8082).is_err(), "published on loopback only");
        assert!(ask(UPLINK, 8080).is_ok(), "from the host itself");
        for container in ["web", "client", "stranger"] {
            assert!(ask_from(&world.namespace(container), UPLINK, 8080).is_ok(), "{container}");
        }
        assert!(ask_from(&world.namespace("db"), UPLINK, 8080).is_err(), "internal");
        // A port of that number elsewhere is not taken for ours.
        assert_eq!(ask_from(&world.namespace("client"), BEYOND, 8080).unwrap(), "198.51.100.1");
        connect(&world.roots, &wish("web", &["front", "back"], &[])).unwrap();
        assert!(ask_from(&world.outside, UPLINK, 8080).is_err(), "no longer published");
    });
}

#[test]
fn datagrams_are_published_too() {
    in_a_world(|world| {
        world.network("front");
        world.container("dns", &["front"], &[Port { protocol: "udp".into(), ..port(53, 5353) }]);
        let server = sandbox::inside(&world.namespace("dns"), || UdpSocket::bind("0.0.0.0:5353")).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let client = sandbox::inside(&world.outside, || UdpSocket::bind("0.0.0.0:0")).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        client.send_to(b"?", (UPLINK, 53)).unwrap();
        let mut bytes = [0; 8];
        let (_, from) = server.recv_from(&mut bytes).unwrap();
        assert_eq!(from.ip(), IpAddr::V4(OUTSIDE));
        server.send_to(b"!", from).unwrap();
        assert_eq!(client.recv_from(&mut bytes).unwrap().1, SocketAddr::from((UPLINK, 53)));
    });
}

#[test]
fn nothing_is_left_when_all_is_removed() {
    in_a_world(|world| {
        let before = world.links();
        world.network("front");
        world.internal("back");
        world.container("web", &["front", "back"], &[port(8080, 80)]);
        world.container("lonely", &[], &[]);
        assert!(world.has_table());
        let refused = remove(&world.roots, "front").unwrap_err().to_string();
        assert!(refused.contains("web"), "{refused}");
        for container in ["web", "lonely", "never-there"] {
            disconnect(&world.roots, container).unwrap();
            disconnect(&world.roots, container).unwrap();
        }
        for network in ["front", "back", "never-there"] {
            remove(&world.roots, network).unwrap();
            remove(&world.roots, network).unwrap();
        }
        assert_eq!(world.links(), before);
        assert!(!world.has_table());
        assert_eq!(world.files(), Vec::<PathBuf>::new());
        assert!(!sandbox::exists(&world.roots, "web"));
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(!mounts.contains(world.roots.run.to_str().unwrap()), "{mounts}");
    });
}

#[test]
fn the_cable_of_one_that_goes_with_its_end_is_gone_at_once() {
    in_a_world(|world| {
        world.network("front");
        let before = world.links();
        for _ in 0..5 {
            connect(&world.roots, &Connect { transient: true, ..wish("web", &["front"], &[]) }).unwrap();
            assert_eq!(world.links().len(), before.len() + 1);
            assert!(disconnect(&world.roots, "web").unwrap());
            assert_eq!(world.links(), before);
        }
        links::remove_at_once("none").unwrap();
        // The loopback can't be removed: what the kernel says comes back.
        assert_eq!(links::remove_at_once("lo").unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    });
}

#[test]
fn what_was_lost_is_noticed_and_put_back() {
    in_a_world(|world| {
        let front = world.network("front");
        world.container("web", &["front"], &[port(8080, 80)]);
        serve(&world.namespace("web"), 80);
        let lost_now = || {
            let seen = Seen::look(&world.roots).unwrap();
            [links_lost(&seen, "front"), seen.of_container("web")].concat()
        };
        assert_eq!(lost_now(), Vec::<String>::new());
        let harm: [(&str, &dyn Fn()); 6] = [
            ("bridge", &|| links::remove(&mut Socket::route().unwrap(), &front.bridge).unwrap()),
            ("plug", &|| {
                let index = links::existing(&cable(&world.roots, "web", "front")).unwrap();
                links::set_bridge(&mut Socket::route().unwrap(), index, 0).unwrap();
            }),
            ("cable", &|| {
                links::remove(&mut Socket::route().unwrap(), &cable(&world.roots, "web", "front")).unwrap();
            }),
            ("table", &|| {
                let removal = nft::encode_removal(&table_name(&world.roots));
                Socket::netfilter().unwrap().batch(&removal).unwrap();
            }),
            ("forwarding of the bridge", &|| {
                fs::write(format!("/proc/sys/net/ipv4/conf/{}/forwarding", front.bridge), "0").unwrap();
            }),
            ("forwarding of the uplink", &|| fs::write("/proc/sys/net/ipv4/conf/up0/forwarding", "0").unwrap()),
        ];
        for (what, harm) in harm {
            harm();
            assert_ne!(lost_now(), Vec::<String>::new(), "{what}");
            reassert(&world.roots).unwrap();
            assert_eq!(lost_now(), Vec::<String>::new(), "{what}");
            assert_eq!(answer_from(&world.outside, UPLINK, 8080), OUTSIDE.to_string(), "{what}");
        }
    });
}

#[test]
fn each_rule_that_is_flushed_is_noticed() {
    in_a_world(|world| {
        world.network("front");
        let table = table_name(&world.roots);
        for words in [&["flush", "chain", "inet", &table, "forward"][..], &["flush", "table", "inet", &table][..]] {
            assert!(Command::new("nft").args(words).status().expect("Debian's nftables").success());
            assert_ne!(links_lost(&Seen::look(&world.roots).unwrap(), "front"), Vec::<String>::new(), "{words:?}");
            reassert(&world.roots).unwrap();
            assert_eq!(links_lost(&Seen::look(&world.roots).unwrap(), "front"), Vec::<String>::new(), "{words:?}");
        }
    });
}

#[test]
fn a_table_of_somebody_else_stays() {
    in_a_world(|world| {
        let theirs = nft::Table { name: "theirs".into(), remembers: Vec::new(), chains: Vec::new() };
        let mut socket = Socket::netfilter().unwrap();
        socket.batch(&nft::encode(&theirs)).unwrap();
        world.network("front");
        remove(&world.roots, "front").unwrap();
        assert!(nft::is_in_place(&mut socket, &theirs).unwrap());
    });
}

#[test]
fn addresses_stay_as_long_as_the_container_does() {
    in_a_world(|world| {
        world.network("front");
        let first = address_in(&world.container("a", &["front"], &[]), "front");
        let second = address_in(&world.container("b", &["front"], &[]), "front");
        assert_ne!(first, second);
        // As after a reboot: nothing but the records is left.
        for name in ["a", "b"] {
            sandbox::remove(&world.roots, name).unwrap();
        }
        fs::remove_dir_all(&world.roots.run).unwrap();
        assert_eq!(address_in(&world.container("b", &["front"], &[]), "front"), second);
        disconnect(&world.roots, "a").unwrap();
        assert_eq!(address_in(&world.container("b", &["front"], &[]), "front"), second);
        let mut fixed = wish("c", &["front"], &[]);
        fixed.joins[0].addresses = vec![second.into()];
        assert!(matches!(connect(&world.roots, &fixed), Err(Error::AddressTaken { .. })));
        fixed.joins[0].addresses = vec![first.into()];
        assert_eq!(address_in(&connect(&world.roots, &fixed).unwrap(), "front"), first);
    });
}

#[test]
fn a_container_moves_between_networks_and_its_default_route_with_it() {
    in_a_world(|world| {
        serve(&world.outside, 80);
        let [one, two] = ["one", "two"].map(|name| world.network(name));
        world.internal("back");
        let gateway_of = |networks: &[&str], priorities: &[i64]| {
            let mut wish = wish("web", networks, &[]);
            for (join, priority) in wish.joins.iter_mut().zip(priorities) {
                join.gateway_priority = *priority;
            }
            connect(&world.roots, &wish).unwrap();
            let routes = sandbox::inside(&world.namespace("web"), || fs::read_to_string("/proc/thread-self/net/route"));
            let routes = routes.unwrap();
            let default =
                routes.lines().map(|line| line.split('\t').collect::<Vec<_>>()).find(|at| at[1] == "00000000");
            default.map(|at| Ipv4Addr::from(u32::from_str_radix(at[2], 16).unwrap().to_be()))
        };
        assert_eq!(gateway_of(&["one", "two"], &[0, 0]), Some(gateway(&one)));
        assert_eq!(gateway_of(&["one", "two"], &[0, 1]), Some(gateway(&two)));
        assert_eq!(gateway_of(&["back", "two"], &[9, 0]), Some(gateway(&two)));
        assert!(ask_from(&world.namespace("web"), OUTSIDE, 80).is_ok());
        assert_eq!(gateway_of(&["back"], &[0]), None);
        let inside = sandbox::inside(&world.namespace("web"), || links::list(&mut Socket::route()?)).unwrap();
        assert_eq!(inside.iter().map(|link| &*link.name).collect::<Vec<_>>(), ["lo", "eth0"]);
        remove(&world.roots, "one").unwrap();
    });
}

#[test]
fn many_ports_fit_into_one_change() {
    in_a_world(|world| {
        world.network("front");
        let ports: Vec<Port> = (20_000..21_000).map(|number| port(number, number)).collect();
        world.container("many", &["front"], &ports);
        assert_eq!(links_lost(&Seen::look(&world.roots).unwrap(), "front"), Vec::<String>::new());
        serve(&world.namespace("many"), 20_999);
        assert!(ask_from(&world.outside, UPLINK, 20_999).is_ok());
    });
}

#[test]
fn callers_at_once_get_addresses_and_ports_of_their_own() {
    in_a_world(|world| {
        let one = |name: String| {
            let wish = wish(&name, &["front"], &[port(0, 80), port(0, 81)]);
            world.network("front");
            connect(&world.roots, &wish).unwrap()
        };
        let all: Vec<Attachment> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|number| scope.spawn(move || one(format!("c{number}")))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let addresses: BTreeSet<Ipv4Addr> = all.iter().map(|one| address_in(one, "front")).collect();
        let ports: BTreeSet<u16> = all.iter().flat_map(|one| one.ports.iter().map(|port| port.host_port)).collect();
        assert_eq!((addresses.len(), ports.len()), (8, 16));
    });
}

#[test]
fn a_held_port_names_its_holder() {
    in_a_world(|world| {
        world.network("front");
        world.container("web", &["front"], &[port(8080, 80)]);
        let held = |number, own: &[&str]| {
            let own: BTreeSet<String> = own.iter().map(|name| (*name).to_owned()).collect();
            let holders = host_ports_free(&world.roots, &[port(number, 80)], &own).unwrap();
            holders.into_iter().map(|holder| holder.holder).collect::<Vec<_>>().join(", ")
        };
        let listener = TcpListener::bind("127.0.0.1:8090").unwrap();
        assert!(held(8090, &[]).starts_with(&format!("process {} (", std::process::id())), "{}", held(8090, &[]));
        drop(listener);
        assert_eq!(held(8080, &[]), "container web");
        assert_eq!(held(8080, &["web"]), "");
        assert_eq!(held(8091, &[]), "");
    });
}

#[test]
fn a_network_is_made_once_and_new_labels_are_taken_over() {
    in_a_world(|world| {
        let made = world.network("front");
        assert_eq!(world.network("front"), made);
        let labels = [("a".to_owned(), "b".to_owned())].into();
        let labelled = NetworkConfig { labels, ..made.config.clone() };
        assert_eq!(create(&world.roots, &labelled).unwrap().config, labelled);
        let other = NetworkConfig { internal: true, ..made.config.clone() };
        assert!(matches!(create(&world.roots, &other), Err(Error::Exists(_))));
        let ipv4 = Some(Pool { subnet: Some("192.0.2.128/25".parse().unwrap()), ..Pool::default() });
        let overlapping = NetworkConfig { name: "x".into(), ipv4, ..NetworkConfig::default() };
        assert!(matches!(create(&world.roots, &overlapping), Err(Error::Overlap { .. })));
        assert!(matches!(get(&world.roots, "../front"), Err(Error::NotFound(_))));
    });
}

/// The owner of the host says where subnets come from.
#[test]
fn subnets_come_out_of_the_pools_that_the_host_names() {
    in_a_world(|world| {
        let roots = Roots { etc: world.directory.join("etc"), ..world.roots.clone() };
        let file = roots.etc.join("stack/networks.toml");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let first = "{base = \"10.99.0.0/30\", size = 30}";
        let more = "{base = \"10.98.0.0/16\", size = 26}, {base = \"fd99::/56\", size = 64}";
        fs::write(&file, format!("pools = [{first}, {more}]")).unwrap();
        let make = |name: &str| {
            let config = NetworkConfig { name: name.into(), ipv6: Some(Pool::default()), ..NetworkConfig::default() };
            let made = create(&roots, &config)?;
            Ok(made.ranges.iter().map(|range| range.subnet.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(make("one").unwrap(), ["10.99.0.0/30", "fd99::/64"]);
        assert_eq!(make("two").unwrap(), ["10.98.0.0/26", "fd99:0:0:1::/64"]);
        fs::write(&file, format!("pools = [{first}]")).unwrap();
        let refused: Error = make("three").unwrap_err();
        assert!(refused.to_string().contains("all IPv4 subnets") && refused.to_string().contains("10.99.0.0/30"));
        fs::write(&file, "pool = []").unwrap();
        assert!(matches!(make("four"), Err(Error::Settings { .. })));
        for name in ["one", "two"] {
            remove(&roots, name).unwrap();
        }
    });
}

/// An engine's own prefix is made once, and what comes of it stays.
#[test]
fn an_engine_has_a_prefix_of_its_own() {
    in_a_world(|world| {
        let six = |name: &str| {
            let config =
                NetworkConfig { name: name.into(), ipv4: None, ipv6: Some(Pool::default()), ..Default::default() };
            create(&world.roots, &config).unwrap().range(Family::V6).unwrap().subnet
        };
        let (one, two) = (six("one"), six("two"));
        let prefix = Subnet::new(one.network(), 48);
        assert!(one.to_string().starts_with("fd") && prefix.holds(two.network()) && !one.overlaps(two));
        remove(&world.roots, "one").unwrap();
        assert_eq!(six("three"), one);
        for name in ["two", "three"] {
            remove(&world.roots, name).unwrap();
        }
    });
}
