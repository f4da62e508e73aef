//! Probes of our own: asked over a container's network, with nothing in its image, of servers that are real.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::{World, eventually};

/// The server of `probing/server.py` in the network of this container, until it is dropped.
struct Server(Child);

impl Server {
    fn start(world: &World, container: &str) -> Self {
        let certificate = world.directory.join("server.pem");
        let key = world.directory.join("server.key");
        let mut made = Command::new("openssl");
        made.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=nobody.example"]);
        made.arg("-keyout").arg(&key).arg("-out").arg(&certificate).stderr(Stdio::null());
        assert!(made.status().unwrap().success());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/probing/server.py");
        let pid = world.field(container, "pid").to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-n", "/usr/bin/python3", script]).arg(&certificate).arg(&key);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "Debian's package python3-grpcio");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What the last check of the container said.
fn said(world: &World, container: &str) -> String {
    let text = world.ok(&["inspect", "--format", "{{json .State.Health}}", container]);
    let health: Value = serde_json::from_str(&text).unwrap();
    health["Log"][0]["Output"].as_str().unwrap_or_default().to_owned()
}

/// Name, health check, whether it is healthy, and a part of what is said of it.
const ROWS: [(&str, &str, bool, &str); 26] = [
    ("h-short", "http: ':8080/ok?deep=1'", true, "GET http://127.0.0.1:8080/ok?deep=1: 200 OK"),
    ("h-long", "http: {port: 8080, path: /asked, headers: {X-Probe: 'yes'}}", true, "204"),
    ("h-host", "http: {port: 8080, path: /named, headers: {Host: shop.example}}", true, "200"),
    ("h-moved", "http: ':8080/moved'", true, "302 Found"),
    ("h-exact", "http: {port: 8080, path: /moved, status: 200-299}", false, "302 Found"),
    ("h-status", "http: {port: 8080, path: /teapot, status: [200, 418]}", true, "418"),
    ("h-bad", "http: ':8080/bad'", false, "503 Service Unavailable: no database"),
    ("h-slow", "http: ':8080/slow'", false, "it took longer than 1000 ms"),
    ("h-drip", "http: ':8080/drip'", false, ""),
    ("h-head", "http: ':8080/head'", false, "GET http://127.0.0.1:8080/head: "),
    ("h-body", "http: ':8080/body'", false, "500 Internal Server Error:  [31mno database"),
    ("h-none", "http: ':8079/'", false, "connect to 127.0.0.1:8079: Connection refused"),
    ("h-six", "http: ':8081/ok?deep=1'", true, "GET http://[::1]:8081/ok?deep=1: 200 OK"),
    ("h-four", "http: 'http://127.0.0.1:8081/'", false, "Connection refused"),
    ("h-tls", "http: 'https://127.0.0.1:8443/ok?deep=1'", true, "200 OK"),
    ("h-plain", "http: ':8443/'", false, "GET http://127.0.0.1:8443/: "),
    ("t-open", "tcp: 8080", true, "127.0.0.1:8080 accepts connections"),
    ("t-shut", "tcp: ':8079'", false, "Connection refused"),
    ("g-server", "grpc: 9000", true, "grpc 127.0.0.1:9000: SERVING"),
    ("g-up", "grpc: ':9000/up'", true, "SERVING"),
    ("g-down", "grpc: {port: 9000, service: down}", false, "NOT_SERVING"),
    ("g-unknown", "grpc: ':9000/other'", false, "NOT_FOUND"),
    ("g-never", "grpc: ':9000/never'", false, "it took longer than 1000 ms"),
    ("g-silent", "grpc: 9001", false, "UNIMPLEMENTED"),
    ("g-http", "grpc: 8080", false, "HTTP/2"),
    ("g-tls", "grpc: 8443", false, "grpc 127.0.0.1:8443: "),
];

#[test]
fn probes_ask_over_the_containers_network_with_nothing_in_its_image() {
    let world = World::new();
    let mut text =
        "name: ask\ncontainers:\n  base: {image: 'builtin:whoami', command: [sleep, '1000'], network_mode: none}\n"
            .to_owned();
    for (name, check, ..) in ROWS {
        let asked = format!("healthcheck: {{{check}, interval: 200ms, timeout: 1s, retries: 1}}");
        let rest =
            "image: 'builtin:whoami', command: [sleep, '1000'], network_mode: 'service:base', stop_grace_period: 1s";
        text.push_str(&format!("  {name}: {{{rest}, {asked}}}\n"));
    }
    let file = world.file("stack.yaml", &text);
    world.ok(&["apply", file.to_str().unwrap()]);
    // Nobody answers yet.
    eventually("it is unhealthy", || world.field("ask-h-short-1", "health") == "unhealthy");
    let server = Server::start(&world, "ask-base-1");
    for (name, check, healthy, part) in ROWS {
        let container = format!("ask-{name}-1");
        let wanted = if healthy { "healthy" } else { "unhealthy" };
        let mut last = String::new();
        let is = || {
            last = said(&world, &container);
            world.field(&container, "health") == wanted && last.contains(part)
        };
        eventually(&format!("{check}: {wanted}, {part}"), is);
        assert!(last.len() < 512 && !last.contains('\u{1b}'), "{last:?}");
    }
    assert!(world.ok(&["inspect", "ask-h-short-1"]).contains("\"http://localhost:8080/ok?deep=1\""));
    drop(server);
    eventually("its server has gone", || world.field("ask-t-open-1", "health") == "unhealthy");
    world.ok(&["destroy", "ask"]);
}

#[test]
fn a_probe_can_be_asked_for_on_the_command_line_and_in_a_compose_file() {
    let world = World::new();
    let words = ["run", "-d", "--name", "one", "--network", "none", "--health-probe", "http://:80/health"];
    world.ok(&[&words[..], &["--health-interval", "100ms", "builtin:whoami"]].concat());
    eventually("it is healthy", || world.field("one", "health") == "healthy");
    world.ok(&["rm", "-f", "one"]);
    let wrong = world.fails(125, &["run", "--health-probe", "http:8080", "builtin:whoami"]);
    assert!(wrong.contains("--health-probe") && wrong.contains("tcp://:5432"), "{wrong}");
    let check = "healthcheck: {interval: 100ms, x-stack: {tcp: 80}}";
    let file =
        world.file("compose.yaml", &format!("name: c\nservices: {{web: {{image: 'builtin:whoami', {check}}}}}\n"));
    world.ok(&["apply", "--wait", file.to_str().unwrap()]);
    assert_eq!(world.field("c-web-1", "health"), "healthy");
    world.ok(&["destroy", "c"]);
}

/// The child that asks holds nothing of the supervisor, and has no right over the host.
#[test]
fn whoever_asks_has_no_rights() {
    let world = World::new();
    let check = "healthcheck: {http: ':8080/slow', interval: 100ms, timeout: 20s}";
    let base = "image: 'builtin:whoami', command: [sleep, '1000'], network_mode: none, stop_grace_period: 1s";
    let file = world.file("stack.yaml", &format!("name: ask\ncontainers: {{base: {{{base}, {check}}}}}\n"));
    world.ok(&["apply", file.to_str().unwrap()]);
    let server = Server::start(&world, "ask-base-1");
    let supervisor = world.ok(&["inspect", "--format", "{{.Stack.Supervisor}}", "ask-base-1"]).trim().to_owned();
    let children = format!("/proc/{supervisor}/task/{supervisor}/children");
    let first = world.field("ask-base-1", "pid").to_string();
    let mut asks = String::new();
    eventually("somebody asks", || {
        let all = std::fs::read_to_string(&children).unwrap();
        asks = all.split_whitespace().find(|pid| **pid != first).unwrap_or_default().to_owned();
        let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let open = std::fs::read_dir(format!("/proc/{asks}/fd")).map_or(0, Iterator::count);
        !asks.is_empty() && network(&asks) == network(&first) && open == 2
    });
    let status = std::fs::read_to_string(format!("/proc/{asks}/status")).unwrap();
    for line in [
        "Uid:\t65534\t65534\t65534\t65534",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    // It ends with its container.
    world.ok(&["stop", "ask-base-1"]);
    assert!(!std::path::Path::new(&format!("/proc/{asks}")).exists());
    drop(server);
    world.ok(&["destroy", "ask"]);
}
