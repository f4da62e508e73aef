//! `ports` and `expose`.

use std::net::{IpAddr, Ipv4Addr};

use crate::spec::fields::Fields;
use crate::spec::lower::Context;
use crate::spec::stack::*;
use crate::spec::tree::Node;

const PROTOCOLS: [(&str, Protocol); 3] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];
const FORM: &str = "a port is written [[address:]host:]container[/protocol], such as 8080:80 or 127.0.0.1:53:53/udp";

/// `ports`: short and long syntax; ranges of container ports become one value each.
pub fn ports(node: Node, path: &str, cx: &mut Context<'_>) -> Vec<Port> {
    let mut found: Vec<Port> = Vec::new();
    for (index, item) in cx.items(node).into_iter().enumerate() {
        let span = item.span;
        let ports = match item.text() {
            Some(text) => short(text, &item, cx),
            None => long(item, &format!("{path}.{index}"), cx),
        };
        for port in ports {
            cx.places.entry(format!("{path}.{}", port.place())).or_insert(span);
            if !found.contains(&port) {
                found.push(port);
            }
        }
    }
    found
}

fn default_address(cx: &Context<'_>) -> Option<IpAddr> {
    match cx.format {
        Format::Native => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Format::Compose => None,
    }
}

fn short(text: &str, node: &Node, cx: &mut Context<'_>) -> Vec<Port> {
    match parse(text, default_address(cx)) {
        Ok(ports) => ports,
        Err(reason) => {
            cx.error_help(format!("`{text}` is not a port: {reason}"), node.span, FORM);
            Vec::new()
        }
    }
}

fn parse(text: &str, default: Option<IpAddr>) -> Result<Vec<Port>, String> {
    let (ports, protocol) = match text.rsplit_once('/') {
        Some((ports, word)) => (ports, protocol(word)?),
        None => (text, Protocol::Tcp),
    };
    let (address, published, target) = split(ports)?;
    let target = range(target)?;
    let host_ip = match address {
        None | Some("") => default,
        Some(text) => Some(text.parse().map_err(|_| format!("`{text}` is not an address"))?),
    };
    let published = match published {
        None | Some("") => None,
        Some(text) => Some(range(text)?),
    };
    expand(published, target, |published, target| Port {
        host_ip,
        published,
        target,
        protocol,
        mode: PortMode::Ingress,
        app_protocol: None,
        name: None,
    })
}

/// Address, host part, container part. An IPv6 address stands in brackets.
fn split(text: &str) -> Result<(Option<&str>, Option<&str>, &str), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once("]:").ok_or("the bracket is not closed")?;
        let (published, target) = rest.split_once(':').ok_or("the container's port is missing")?;
        return Ok((Some(address), Some(published), target));
    }
    let parts: Vec<&str> = text.rsplitn(3, ':').collect();
    Ok(match parts[..] {
        [target] => (None, None, target),
        [target, published] => (None, Some(published), target),
        [target, published, address] => (Some(address), Some(published), target),
        _ => return Err("it is empty".into()),
    })
}

fn protocol(word: &str) -> Result<Protocol, String> {
    let found = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    found.map(|(_, protocol)| *protocol).ok_or(format!("`{word}` is not tcp, udp or sctp"))
}

/// `80` or `80-89`.
pub fn range(text: &str) -> Result<PortRange, String> {
    let one = |text: &str| match text.trim().parse::<u32>() {
        Ok(0) => Err("port 0 cannot be used".to_owned()),
        Ok(port) => u16::try_from(port).map_err(|_| format!("{port} is above 65535")),
        Err(_) => Err(format!("`{text}` is not a number")),
    };
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let range = PortRange { start: one(start)?, end: one(end)? };
    if range.start > range.end {
        return Err(format!("the range {start}-{end} goes down"));
    }
    Ok(range)
}

fn count(range: PortRange) -> u32 {
    u32::from(range.end) - u32::from(range.start) + 1
}

fn expand(
    published: Option<PortRange>,
    target: PortRange,
    port: impl Fn(Option<PortRange>, u16) -> Port,
) -> Result<Vec<Port>, String> {
    let Some(published) = published else {
        return Ok((target.start..=target.end).map(|target| port(None, target)).collect());
    };
    if target.is_single() {
        return Ok(vec![port(Some(published), target.start)]);
    }
    if count(published) != count(target) {
        return Err(format!("{} host ports for {} container ports", count(published), count(target)));
    }
    let pairs = (published.start..=published.end).zip(target.start..=target.end);
    Ok(pairs.map(|(host, target)| port(Some(PortRange { start: host, end: host }), target)).collect())
}

fn long(node: Node, path: &str, cx: &mut Context<'_>) -> Vec<Port> {
    let span = node.span;
    let Some(mut fields) = Fields::open(node, path, cx) else { return Vec::new() };
    let target = fields.take("target");
    let published = fields.take("published");
    let address = fields.take("host_ip");
    let protocol = fields.take("protocol").and_then(|node| cx.choice(&node, &PROTOCOLS)).unwrap_or_default();
    let mode =
        fields.choice("mode", &[("ingress", PortMode::Ingress), ("host", PortMode::Host)], cx).unwrap_or_default();
    let app_protocol = fields.word("app_protocol", cx);
    let name = fields.word("name", cx);
    fields.finish(cx);
    let Some(target) = target else {
        cx.error_help("the container's port is missing", span, "add `target: 80`");
        return Vec::new();
    };
    let Some(target) = read_range(&target, cx) else { return Vec::new() };
    let published = published.filter(|node| node.text() != Some("")).and_then(|node| read_range(&node, cx));
    let host_ip = match address.filter(|node| node.text() != Some("")) {
        None => default_address(cx),
        Some(node) => cx.parsed(&node, "an address", |text| text.trim_matches(['[', ']']).parse().ok()),
    };
    let port = |published, target| Port {
        host_ip,
        published,
        target,
        protocol,
        mode,
        app_protocol: app_protocol.clone(),
        name: name.clone(),
    };
    expand(published, target, port).unwrap_or_else(|reason| {
        cx.error(reason, span);
        Vec::new()
    })
}

fn read_range(node: &Node, cx: &mut Context<'_>) -> Option<PortRange> {
    let text = cx.text(node)?;
    range(&text).map_err(|reason| cx.error(format!("`{text}` is not a port: {reason}"), node.span)).ok()
}

/// `expose`.
pub fn expose(node: Node, cx: &mut Context<'_>) -> Vec<ExposedPort> {
    let mut found = Vec::new();
    for item in cx.items(node) {
        let Some(text) = cx.text(&item) else { continue };
        let (ports, word) = text.split_once('/').unwrap_or((&text, "tcp"));
        match range(ports).and_then(|ports| Ok(ExposedPort { ports, protocol: protocol(word)? })) {
            Ok(port) => found.push(port),
            Err(reason) => cx.error(format!("`{text}` is not a port: {reason}"), item.span),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> String {
        match parse(text, None) {
            Err(reason) => format!("error: {reason}"),
            Ok(ports) => {
                let one = |port: &Port| {
                    let ip = port.host_ip.map(|ip| format!("{ip} ")).unwrap_or_default();
                    let published = port.published.map_or("?".to_owned(), |range| range.to_string());
                    format!("{ip}{published}->{}/{}", port.target, port.protocol)
                };
                ports.iter().map(one).collect::<Vec<_>>().join(", ")
            }
        }
    }

    #[test]
    fn short_syntax() {
        let table = [
            ("80", "?->80/tcp"),
            ("8080:80", "8080->80/tcp"),
            ("8080:80/udp", "8080->80/udp"),
            ("127.0.0.1:8080:80", "127.0.0.1 8080->80/tcp"),
            ("127.0.0.1::80", "127.0.0.1 ?->80/tcp"),
            ("[::1]:8080:80", "::1 8080->80/tcp"),
            ("::1:8080:80", "::1 8080->80/tcp"),
            ("3000-3001", "?->3000/tcp, ?->3001/tcp"),
            ("8000-8001:80-81", "8000->80/tcp, 8001->81/tcp"),
            ("8000-8010:80", "8000-8010->80/tcp"),
            (":80", "?->80/tcp"),
            ("8000-8002:80-81", "error: 3 host ports for 2 container ports"),
            ("0:80", "error: port 0 cannot be used"),
            ("70000:80", "error: 70000 is above 65535"),
            ("90-80", "error: the range 90-80 goes down"),
            ("80/icmp", "error: `icmp` is not tcp, udp or sctp"),
            ("web:80:80", "error: `web` is not an address"),
            ("", "error: `` is not a number"),
        ];
        for (text, expected) in table {
            assert_eq!(show(text), expected, "{text}");
        }
    }
}
