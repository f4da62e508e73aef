//! `http`, `tcp`, `grpc` and `on_failure` of a health check: our words, in a short and a long form each.

use std::collections::BTreeMap;

use crate::spec::container::HealthAction;
use crate::spec::fields::Fields;
use crate::spec::lower::Context;
use crate::spec::probe::{self, Budget, GrpcProbe, HttpProbe, Place, Probe};
use crate::spec::tree::{Node, Value};

/// The one probe of this health check, and where it stands.
pub fn probe(fields: &mut Fields, cx: &mut Context<'_>) -> Option<(Node, Probe)> {
    let keys: [(&'static str, Reader); 3] = [("http", http), ("tcp", tcp), ("grpc", grpc)];
    let mut found = Vec::new();
    for (key, reader) in keys {
        let path = fields.path_of(key);
        if let Some(node) = fields.take_ours(key) {
            found.push((node.clone(), reader(node, &path, cx)));
        }
    }
    if let [_, (second, _), ..] = found.as_slice() {
        cx.error_help("a health check has one probe", second.span, ONE_PROBE);
        return None;
    }
    found.pop().and_then(|(node, probe)| Some((node, probe?)))
}

pub const ONE_PROBE: &str = "keep one of `test`, `http`, `tcp` and `grpc`; a file that overrides another one takes away \
                             what stands there with `!reset null`";

type Reader = fn(Node, &str, &mut Context<'_>) -> Option<Probe>;

const HTTP: &str = "a place such as `:8080/health`, `/health` or `https://127.0.0.1:8443/`";
const TCP: &str = "a port, or a place such as `:5432`";
const GRPC: &str = "a port, or a place such as `:9000/my.Service`";
const HOST: &str = "an address of the container, such as 127.0.0.1, or localhost";

fn http(node: Node, path: &str, cx: &mut Context<'_>) -> Option<Probe> {
    if node.text().is_some() {
        return cx.parsed(&node, HTTP, HttpProbe::parse).map(Probe::Http);
    }
    let mut fields = Fields::open(node, path, cx)?;
    let tls = fields.choice("scheme", &[("http", false), ("https", true), ("HTTP", false), ("HTTPS", true)], cx);
    let tls = tls.unwrap_or_default();
    let place = place(&mut fields, Some(probe::default_port(tls)), cx);
    let path = fields.take("path").map_or(Some("/".to_owned()), |node| {
        cx.parsed(&node, "a path from `/` on", |text| probe::is_path(text).then(|| text.to_owned()))
    });
    let headers = fields.take("headers").map_or(Some(BTreeMap::new()), |node| headers(node, cx));
    let status = fields.take("status").map_or(Some(vec![HttpProbe::GOOD]), |node| {
        let items = if node.text().is_some() { vec![node] } else { cx.items(node) };
        let range =
            |item: &Node, cx: &mut Context<'_>| cx.parsed(item, "a status such as 200 or 200-299", probe::status);
        items.iter().map(|item| range(item, cx)).collect()
    });
    fields.finish(cx);
    Some(Probe::Http(HttpProbe { place: place?, path: path?, tls, headers: headers?, status: status? }))
}

fn tcp(node: Node, path: &str, cx: &mut Context<'_>) -> Option<Probe> {
    if node.text().is_some() {
        return cx.parsed(&node, TCP, |text| Place::parse(text, None)).map(Probe::Tcp);
    }
    let mut fields = Fields::open(node, path, cx)?;
    let place = place(&mut fields, None, cx);
    fields.finish(cx);
    place.map(Probe::Tcp)
}

fn grpc(node: Node, path: &str, cx: &mut Context<'_>) -> Option<Probe> {
    if node.text().is_some() {
        return cx.parsed(&node, GRPC, GrpcProbe::parse).map(Probe::Grpc);
    }
    let mut fields = Fields::open(node, path, cx)?;
    let place = place(&mut fields, None, cx);
    let service = fields.take("service").map_or(Some(String::new()), |node| {
        cx.parsed(&node, "a service's name", |text| probe::is_service(text).then(|| text.to_owned()))
    });
    if let Some(node) = fields.take("tls")
        && cx.flag(&node) == Some(true)
    {
        let help = "ask a port without TLS, or run a client of the image by `test`";
        cx.error_help("grpc is asked without TLS", node.span, help);
    }
    fields.finish(cx);
    Some(Probe::Grpc(GrpcProbe { place: place?, service: service? }))
}

/// `host` and `port` of a long form.
fn place(fields: &mut Fields, default: Option<u16>, cx: &mut Context<'_>) -> Option<Place> {
    let host = fields.take("host").map_or(Some(None), |node| cx.parsed(&node, HOST, probe::host));
    let port = match (fields.take("port"), default) {
        (Some(node), _) => cx.parsed(&node, "a port from 1 to 65535", probe::port),
        (None, Some(port)) => Some(port),
        (None, None) => {
            cx.error_help("the port is missing", fields.span, "write `port: 5432`");
            None
        }
    };
    Some(Place { host: host?, port: port? })
}

fn headers(node: Node, cx: &mut Context<'_>) -> Option<BTreeMap<String, String>> {
    let span = node.span;
    let mut headers = BTreeMap::new();
    for (name, value) in cx.pairs(node) {
        let value = value.unwrap_or_default();
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) || !value.chars().all(|c| c == '\t' || !c.is_control()) {
            cx.error(format!("`{name}: {value}` is not a header"), span);
            return None;
        }
        headers.insert(name, value);
    }
    Some(headers)
}

/// `restart`, or `{action: restart, max: 3, within: 10m}`.
pub fn on_failure(node: Node, path: &str, cx: &mut Context<'_>) -> Option<(HealthAction, Option<Budget>)> {
    let actions = [
        ("none", HealthAction::None),
        ("restart", HealthAction::Restart),
        ("recreate", HealthAction::Recreate),
        ("stop", HealthAction::Stop),
    ];
    if !matches!(node.value, Value::Mapping(_)) {
        return cx.choice(&node, &actions).map(|action| (action, None));
    }
    let span = node.span;
    let mut fields = Fields::open(node, path, cx)?;
    let action = fields.choice("action", &actions, cx);
    let (max, within) = (fields.take("max"), fields.take("within"));
    fields.finish(cx);
    let Some(action) = action else {
        cx.error_help("the action is missing", span, "write `action: restart`");
        return None;
    };
    match (&max, &within) {
        (None, Some(within)) => {
            cx.error_help("`within` needs `max`", within.span, "say how often at most in that time: `max: 3`");
        }
        (Some(max), _) if !matches!(action, HealthAction::Restart | HealthAction::Recreate) => {
            cx.error("only `restart` and `recreate` have a budget", max.span);
        }
        _ => {}
    }
    let times = |text: &str| text.parse().ok().filter(|max| (1..=MOST_TIMES).contains(max));
    let max = max.and_then(|node| cx.parsed(&node, "a number of times from 1 to 1000", times));
    let within_ms = within.and_then(|node| cx.duration(&node)).filter(|within| *within > 0);
    Some((action, max.map(|max| Budget { max, within_ms })))
}

/// Each is remembered.
const MOST_TIMES: u32 = 1000;
