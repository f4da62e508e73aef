//! What ties a container to others: networks, dependencies, links, shared namespaces, host names.

use std::collections::BTreeMap;

use crate::spec::diagnostics::Span;
use crate::spec::fields::Fields;
use crate::spec::lower::Context;
use crate::spec::stack::*;
use crate::spec::tree::{Node, Value};

/// `networks` of a container: names, or names with options.
pub fn networks(node: Node, path: &str, cx: &mut Context<'_>) -> BTreeMap<String, NetworkAttachment> {
    let mut found = BTreeMap::new();
    let Value::Mapping(entries) = node.value else {
        cx.expected("a list or a mapping of networks", &node);
        return found;
    };
    for entry in entries {
        let path = format!("{path}.{}", entry.key);
        if let Some(attachment) = attachment(entry.value, &path, cx) {
            found.insert(entry.key, attachment);
        }
    }
    found
}

fn attachment(node: Node, path: &str, cx: &mut Context<'_>) -> Option<NetworkAttachment> {
    let mut fields = Fields::open(node, path, cx)?;
    let address = |key: &'static str, fields: &mut Fields| fields.take(key);
    let ipv4 = address("ipv4_address", &mut fields);
    let ipv6 = address("ipv6_address", &mut fields);
    let link_local = fields.items("link_local_ips", cx);
    let attachment = NetworkAttachment {
        aliases: fields.list("aliases", cx),
        ipv4_address: ipv4.and_then(|node| cx.parsed(&node, "an IPv4 address", |text| text.parse().ok())),
        ipv6_address: ipv6.and_then(|node| cx.parsed(&node, "an IPv6 address", |text| text.parse().ok())),
        link_local_ips: link_local
            .iter()
            .filter_map(|node| cx.parsed(node, "an address", |text| text.parse().ok()))
            .collect(),
        mac_address: fields.take("mac_address").and_then(|node| mac_address(&node, cx)),
        driver_opts: fields.map("driver_opts", cx),
        priority: fields.number("priority", cx).unwrap_or_default(),
        gw_priority: fields.number("gw_priority", cx).unwrap_or_default(),
        interface_name: fields.take("interface_name").and_then(|node| interface_name(&node, cx)),
    };
    fields.finish(cx);
    Some(attachment)
}

/// Six pairs of hexadecimal digits; lower case with colons comes out.
pub fn mac_address(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    cx.parsed(node, "a MAC address such as 02:42:ac:11:00:03", |text| {
        let text = text.to_ascii_lowercase().replace('-', ":");
        let parts: Vec<&str> = text.split(':').collect();
        let good = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        (parts.len() == 6 && parts.iter().all(good)).then_some(text)
    })
}

fn interface_name(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    cx.parsed(node, "a name of an interface of at most 15 letters and digits", |text| {
        let good =
            !text.is_empty() && text.len() <= 15 && text.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != ':');
        good.then(|| text.to_owned())
    })
}

/// `network_mode`.
pub fn network_mode(node: &Node, cx: &mut Context<'_>) -> Option<NetworkMode> {
    let text = cx.text(node)?;
    match text.split_once(':') {
        Some((kind @ ("service" | "container"), "")) => {
            cx.error_help(format!("`{kind}:` of which?"), node.span, format!("write `{kind}:NAME`"));
            None
        }
        Some(("service", name)) => Some(NetworkMode::Service(name.to_owned())),
        Some(("container", name)) => Some(NetworkMode::Container(name.to_owned())),
        _ => match text.as_str() {
            "" | "bridge" | "default" => Some(NetworkMode::Bridge),
            "none" => Some(NetworkMode::None),
            "host" => Some(NetworkMode::Host),
            _ => {
                let help =
                    "write `bridge`, `host`, `none`, `service:NAME` or `container:NAME`; networks go under `networks:`";
                cx.error_help(format!("`{text}` is not a network mode"), node.span, help);
                None
            }
        },
    }
}

/// `userns_mode`: the words of docker and of podman.
pub fn users(node: &Node, cx: &mut Context<'_>) -> Option<UsersMode> {
    let text = cx.text(node)?;
    match text.as_str() {
        "" => None,
        "host" => Some(UsersMode::Host),
        "private" | "auto" => Some(UsersMode::Private),
        _ => {
            cx.error(format!("`{text}` is not one of `private`, `auto`, `host`"), node.span);
            None
        }
    }
}

/// `pid`, `ipc`, `uts` and `cgroup`; `words` are those that this namespace knows.
pub fn namespace(node: &Node, words: &[&str], cx: &mut Context<'_>) -> Option<NamespaceMode> {
    let text = cx.text(node)?;
    if text.is_empty() {
        return None;
    }
    let mode = match text.split_once(':') {
        Some(("service", name)) => ("service", NamespaceMode::Service(name.to_owned())),
        Some(("container", name)) => ("container", NamespaceMode::Container(name.to_owned())),
        _ => match text.as_str() {
            "private" => ("private", NamespaceMode::Private),
            "host" => ("host", NamespaceMode::Host),
            "shareable" => ("shareable", NamespaceMode::Shareable),
            "none" => ("none", NamespaceMode::None),
            _ => ("", NamespaceMode::None),
        },
    };
    if words.contains(&mode.0) {
        return Some(mode.1);
    }
    let written: Vec<String> = words
        .iter()
        .map(
            |word| {
                if matches!(*word, "service" | "container") { format!("`{word}:NAME`") } else { format!("`{word}`") }
            },
        )
        .collect();
    cx.error(format!("`{text}` is not one of {}", written.join(", ")), node.span);
    None
}

/// `depends_on`.
pub fn depends_on(node: Node, path: &str, cx: &mut Context<'_>) -> BTreeMap<String, Dependency> {
    let mut found = BTreeMap::new();
    let Value::Mapping(entries) = node.value else {
        cx.expected("a list or a mapping of names", &node);
        return found;
    };
    for entry in entries {
        let path = format!("{path}.{}", entry.key);
        if let Some(dependency) = dependency(entry.value, &path, cx) {
            found.insert(entry.key, dependency);
        }
    }
    found
}

fn dependency(node: Node, path: &str, cx: &mut Context<'_>) -> Option<Dependency> {
    let mut fields = Fields::open(node, path, cx)?;
    let conditions = [
        ("service_started", Condition::Started),
        ("service_healthy", Condition::Healthy),
        ("service_completed_successfully", Condition::CompletedSuccessfully),
    ];
    let dependency = Dependency {
        condition: fields.choice("condition", &conditions, cx).unwrap_or(Condition::Started),
        restart: fields.flag("restart", cx).unwrap_or_default(),
        required: fields.flag("required", cx).unwrap_or(true),
    };
    fields.finish(cx);
    Some(dependency)
}

/// `links`: `name[:alias]`.
pub fn links(node: Node, cx: &mut Context<'_>) -> Vec<(Link, Span)> {
    let mut found = Vec::new();
    for item in cx.items(node) {
        let Some(text) = cx.text(&item) else { continue };
        let (container, alias) = text.split_once(':').unwrap_or((&text, &text));
        found.push((Link { container: container.to_owned(), alias: alias.to_owned() }, item.span));
    }
    found
}

/// `extra_hosts`: `name=address` or `name:address`, addresses of IPv6 with or without brackets.
pub fn extra_hosts(node: Node, cx: &mut Context<'_>) -> BTreeMap<String, Vec<HostAddress>> {
    let mut found: BTreeMap<String, Vec<HostAddress>> = BTreeMap::new();
    for item in cx.items(node) {
        let Some(text) = cx.text(&item) else { continue };
        let split = text.split_once('=').or_else(|| text.split_once(':'));
        let address = split.and_then(|(name, address)| Some((name.trim(), host_address(address.trim())?)));
        match address {
            Some((name, address)) if !name.is_empty() => found.entry(name.to_owned()).or_default().push(address),
            _ => cx.error_help(
                format!("`{text}` is not a host"),
                item.span,
                "a host is written NAME=ADDRESS, the address may be `host-gateway`",
            ),
        }
    }
    found
}

fn host_address(text: &str) -> Option<HostAddress> {
    match text {
        "host-gateway" => Some(HostAddress::HostGateway),
        text => text.trim_matches(['[', ']']).parse().ok().map(HostAddress::Ip),
    }
}
