//! The outside, from containers of an ordinary user, and their ports from there.

use super::User;
use crate::networks::names::name_server;
use crate::support::island::{HERE, HERE6, Island, OUTSIDE, on_an_island};
use crate::support::{eventually, free_port};

const PORT: u16 = 8080;

fn stack(port: u16) -> String {
    format!(
        r#"
name: out
containers:
  web: {{image: "builtin:whoami", ports: ["0.0.0.0:{port}:80", "[::]:{port}:80"], stop_grace_period: 0s}}
  echo: {{image: "builtin:whoami", command: [udp-echo, "7"], ports: ["0.0.0.0:{port}:7/udp"], stop_grace_period: 0s}}
"#
    )
}

/// A server and a name server outside; what the latter says of every name is the former's address.
fn serve(island: &Island) {
    name_server(&island.outside, OUTSIDE);
    island.outside.sh("ip addr add 203.0.113.7/32 dev lo");
    island.outside.serve(PORT);
}

fn both_ways(island: &Island, user: &User) {
    let port = free_port();
    user.ok(&format!("stack apply {}", user.world.file("stack.yaml", &stack(port)).display()));
    let asks = |address: &str, expected: &str| {
        let script = format!("stack exec out-web-1 /whoami client http://{address}/");
        eventually(&format!("{address} answers"), || user.sh(&script).1.contains(expected));
    };
    for address in [format!("{OUTSIDE}:{PORT}"), format!("some.example:{PORT}")] {
        asks(&address, &format!("client: {HERE}"));
    }
    asks("web", "name: out-web-1");

    let outside = &island.outside;
    assert!(outside.ask(HERE, port).unwrap().contains("name: out-web-1"));
    assert!(outside.ask(HERE6, port).unwrap().contains("name: out-web-1"));
    eventually("it echoes", || outside.ask_datagram(HERE, port, "far").is_ok_and(|back| back == "far"));

    // What listens on the host's loopback is the host's own: neither as its address nor as the router's.
    let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let own = own.local_addr().unwrap().port();
    for address in [format!("127.0.0.1:{own}"), format!("10.0.2.2:{own}"), format!("{OUTSIDE}:{own}")] {
        user.fails(&format!("stack exec out-web-1 /whoami client http://{address}/"));
    }
    user.ok("stack destroy out");
    assert!(outside.ask(HERE, port).is_err());
}

#[test]
fn pasta_leads_to_the_outside() {
    on_an_island(|island| {
        serve(island);
        let user = User::lacking(true, &["slirp4netns"]);
        both_ways(island, &user);
    });
}

#[test]
fn slirp4netns_does_where_there_is_no_pasta() {
    on_an_island(|island| {
        serve(island);
        let user = User::lacking(false, &["pasta"]);
        both_ways(island, &user);
    });
}

/// Said by the first command and by `doctor`; all else works.
#[test]
fn without_either_containers_reach_each_other() {
    let user = User::lacking(false, &["pasta", "slirp4netns"]);
    let port = free_port();
    let said = user.ok(&format!("stack apply {}", user.world.file("stack.yaml", &stack(port)).display()));
    assert!(said.contains("nothing outside: neither pasta nor slirp4netns is installed"), "{said}");
    assert!(user.ok("stack exec out-web-1 /whoami client http://web/").contains("name: out-web-1"));
    assert!(crate::support::get(port, "/").unwrap().contains("name: out-web-1"));
    let said = user.ok("stack doctor");
    assert!(said.contains("way out: neither pasta nor slirp4netns is there"), "{said}");
    assert!(said.contains("`apt install passt` or `apt install slirp4netns`"), "{said}");
    user.ok("stack destroy out");
}
