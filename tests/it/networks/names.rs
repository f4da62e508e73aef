//! Names: who sees which, where questions go, and that nothing leaks.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::support::island::{OUTSIDE, Place, on_an_island};

const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// What the name server outside says of every name.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// A code, and what was answered, sorted.
pub type Answer = (ResponseCode, BTreeSet<String>);

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn data(bytes: &[u8]) -> (ResponseCode, Vec<String>) {
    let message = Message::from_vec(bytes).unwrap();
    (message.metadata.response_code, message.answers.iter().map(|record| record.data.to_string()).collect())
}

fn over_udp(question: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.send_to(question, (RESOLVER, 53)).unwrap();
    let mut bytes = [0; 4096];
    let length = socket.recv(&mut bytes).unwrap();
    bytes[..length].to_vec()
}

fn over_tcp(question: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect((RESOLVER, 53)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(&[&(question.len() as u16).to_be_bytes()[..], question].concat()).unwrap();
    read_framed(&mut stream)
}

fn read_framed(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// What a container is told.
pub fn look_up(place: &Place, name: &str, kind: RecordType) -> Answer {
    let question = question(name, kind);
    let (udp, tcp) = place.inside(move || (data(&over_udp(&question)), data(&over_tcp(&question))));
    let sorted = |(code, answers): (ResponseCode, Vec<String>)| (code, answers.into_iter().collect::<BTreeSet<_>>());
    let (udp, tcp) = (sorted(udp), sorted(tcp));
    assert_eq!(udp, tcp, "over UDP and TCP");
    udp
}

pub fn found<const N: usize>(addresses: [Ipv4Addr; N]) -> Answer {
    (ResponseCode::NoError, addresses.iter().map(Ipv4Addr::to_string).collect())
}

fn none(code: ResponseCode) -> Answer {
    (code, BTreeSet::new())
}

/// A name server there that knows every name, and remembers what it was asked.
pub fn name_server(place: &Place, address: Ipv4Addr) -> Arc<Mutex<Vec<String>>> {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let (udp, tcp) = place.inside(move || {
        let at = SocketAddr::from((address, 53));
        (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap())
    });
    let answer = |bytes: &[u8], asked: &Mutex<Vec<String>>| {
        let request = Message::from_vec(bytes).unwrap();
        let query = request.queries[0].clone();
        asked.lock().unwrap().push(query.name().to_ascii());
        let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
        reply.metadata.message_type = MessageType::Response;
        reply.add_queries([query.clone()]);
        if query.query_type() == RecordType::A {
            reply.add_answers([Record::from_rdata(query.name().clone(), 60, RData::A(A(ELSEWHERE)))]);
        }
        reply.to_vec().unwrap()
    };
    let heard = Arc::clone(&asked);
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut bytes) {
            udp.send_to(&answer(&bytes[..length], &heard), from).unwrap();
        }
    });
    let heard = Arc::clone(&asked);
    thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            let reply = answer(&read_framed(&mut stream), &heard);
            stream.write_all(&[&(reply.len() as u16).to_be_bytes()[..], &reply].concat()).unwrap();
        }
    });
    asked
}

#[test]
fn names_are_seen_by_those_who_share_a_network() {
    on_an_island(|island| {
        let asked = name_server(&island.outside, OUTSIDE);
        island.apply(
            "stack.yaml",
            r#"
name: shop
containers:
  web: {image: builtin:whoami, replicas: 3, networks: {front: {aliases: [site]}}, hostname: host-of-web}
  client: {image: builtin:whoami, command: [sleep, forever], networks: [front, back], links: ["db:storage"]}
  db: {image: builtin:whoami, command: [sleep, forever], networks: [back], container_name: the-db}
  alone: {image: builtin:whoami, command: [sleep, forever], network_mode: none}
  beside: {image: builtin:whoami, command: [sleep, forever], network_mode: "service:client"}
networks: {front: {}, back: {internal: true}}
"#,
        );
        let webs = [1, 2, 3].map(|number| island.address(&format!("shop-web-{number}")));
        let db_address = island.address("the-db");
        let [client, db, web, beside] =
            ["shop-client-1", "the-db", "shop-web-1", "shop-beside-1"].map(|name| island.container(name));
        for name in ["web.", "WEB.", "site.", "web.shop_front."] {
            assert_eq!(look_up(&client, name, RecordType::A), found(webs), "{name}");
        }
        assert_eq!(look_up(&client, "shop-web-2.", RecordType::A), found([webs[1]]));
        assert_eq!(look_up(&client, "web.", RecordType::AAAA), none(ResponseCode::NoError));
        for name in ["db.", "the-db.", "storage."] {
            assert_eq!(look_up(&client, name, RecordType::A), found([db_address]), "{name}");
            assert_eq!(look_up(&beside, name, RecordType::A), found([db_address]), "shares its network: {name}");
        }
        let first: BTreeSet<String> = (0..30)
            .map(|_| client.inside(|| data(&over_udp(&question("web.", RecordType::A))).1.first().unwrap().clone()))
            .collect();
        assert_eq!(first, webs.iter().map(Ipv4Addr::to_string).collect(), "each is the first in turn");
        let [a, b, c, d] = webs[0].octets();
        let reverse = look_up(&client, &format!("{d}.{c}.{b}.{a}.in-addr.arpa."), RecordType::PTR);
        assert_eq!(reverse, (ResponseCode::NoError, ["shop-web-1.shop_front.".to_owned()].into()));
        // No name, no packet.
        assert!(asked.lock().unwrap().is_empty(), "{asked:?}");
        assert_eq!(look_up(&web, "elsewhere.test.", RecordType::A), found([ELSEWHERE]));
        assert_eq!(look_up(&web, "the-db.", RecordType::A), found([ELSEWHERE]), "not a name of its networks");
        db.serve(5432);
        assert!(web.ask(db_address, 5432).is_err() && client.ask(db_address, 5432).is_ok());
        asked.lock().unwrap().clear();
        // Whoever is in internal networks only asks nobody outside, whatever it asks for.
        assert_eq!(look_up(&db, "elsewhere.test.", RecordType::A), none(ResponseCode::Refused));
        assert_eq!(look_up(&db, "web.", RecordType::A), none(ResponseCode::NXDomain));
        assert_eq!(
            look_up(&db, &format!("{d}.{c}.{b}.{a}.in-addr.arpa."), RecordType::PTR),
            none(ResponseCode::Refused)
        );
        assert!(db.ask_datagram(OUTSIDE, 53, "direct").is_err());
        assert!(asked.lock().unwrap().is_empty(), "{asked:?}");
        island.world.ok(&["destroy", "shop"]);
    });
}

#[test]
fn servers_search_domains_and_options_are_the_containers_own_or_the_hosts() {
    on_an_island(|island| {
        let hosts = name_server(&island.outside, OUTSIDE);
        let own = name_server(&island.beyond, crate::support::island::BEYOND);
        island.apply(
            "stack.yaml",
            r#"
name: shop
containers:
  plain: {image: builtin:whoami, command: [sleep, forever]}
  own:
    image: builtin:whoami
    command: [sleep, forever]
    dns: [198.51.100.9]
    dns_search: [one.example, two.example]
    dns_opt: ["ndots:3", "timeout:1"]
    extra_hosts: ["fixed:192.0.2.77", "host.docker.internal:host-gateway"]
  none: {image: builtin:whoami, command: [sleep, forever], dns_search: ["."]}
"#,
        );
        let read =
            |name: &str, file: &str| island.world.ok(&["exec", &format!("shop-{name}-1"), "/whoami", "cat", file]);
        let resolv_conf = |name| read(name, "/etc/resolv.conf");
        assert_eq!(resolv_conf("plain"), "nameserver 127.0.0.11\nsearch corp.example\noptions ndots:0\n");
        assert_eq!(
            resolv_conf("own"),
            "nameserver 127.0.0.11\nsearch one.example two.example\noptions ndots:3 timeout:1\n"
        );
        assert_eq!(resolv_conf("none"), "nameserver 127.0.0.11\noptions ndots:0\n");
        let hosts_file = read("own", "/etc/hosts");
        assert!(
            hosts_file.contains("192.0.2.77\tfixed\n") && hosts_file.contains("\thost.docker.internal\n"),
            "{hosts_file}"
        );
        assert!(!hosts_file.contains(':'), "there is no IPv6 here: {hosts_file}");
        assert_eq!(look_up(&island.container("shop-plain-1"), "a.test.", RecordType::A), found([ELSEWHERE]));
        assert_eq!(look_up(&island.container("shop-own-1"), "b.test.", RecordType::A), found([ELSEWHERE]));
        assert_eq!(*hosts.lock().unwrap(), ["a.test.", "a.test."]);
        assert_eq!(*own.lock().unwrap(), ["b.test.", "b.test."]);
        // `host-gateway` leads to this host.
        let gateway: IpAddr = hosts_file
            .lines()
            .find_map(|line| line.strip_suffix("\thost.docker.internal"))
            .and_then(|address| address.parse().ok())
            .unwrap();
        let server = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9999)).unwrap();
        let reached = island.container("shop-own-1").inside(move || {
            TcpStream::connect_timeout(&SocketAddr::from((gateway, 9999)), Duration::from_secs(2)).is_ok()
        });
        assert!(reached);
        drop(server);
        island.world.ok(&["destroy", "shop"]);
    });
}
