//! Top-level `networks`, `volumes`, `configs` and `secrets`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::spec::diagnostics::Span;
use crate::spec::fields::Fields;
use crate::spec::lower::{Context, reaction};
use crate::spec::stack::*;
use crate::spec::tree::{Node, parse_bool};

/// `external: true`, or the old `external: {name: …}`; with the name that it gives.
fn external(fields: &mut Fields, cx: &mut Context<'_>) -> (bool, Option<String>) {
    let Some(node) = fields.take("external") else { return (false, None) };
    if node.entries().is_none() {
        return (cx.parsed(&node, "true or false", parse_bool).unwrap_or_default(), None);
    }
    let path = fields.path_of("external");
    let Some(mut inner) = Fields::open(node, &path, cx) else { return (true, None) };
    let name = inner.word("name", cx);
    inner.finish(cx);
    (true, name)
}

/// The name on the host.
fn host_name(key: &str, external: bool, name: Option<String>, cx: &Context<'_>) -> String {
    match name {
        Some(name) => name,
        None if external => key.to_owned(),
        None => format!("{}_{key}", cx.project),
    }
}

pub fn network(node: Node, path: &str, key: &str, cx: &mut Context<'_>) -> Option<Network> {
    let mut fields = Fields::open(node, path, cx)?;
    let name = fields.word("name", cx);
    let (external, old_name) = external(&mut fields, cx);
    let network = Network {
        name: host_name(key, external, name.or(old_name), cx),
        external,
        driver: fields.word("driver", cx),
        driver_opts: fields.map("driver_opts", cx),
        internal: fields.flag("internal", cx).unwrap_or_default(),
        attachable: fields.flag("attachable", cx).unwrap_or_default(),
        enable_ipv4: fields.flag("enable_ipv4", cx),
        enable_ipv6: fields.flag("enable_ipv6", cx),
        ipam: fields.take("ipam").map(|node| ipam(node, &format!("{path}.ipam"), cx)).unwrap_or_default(),
        labels: fields.map("labels", cx),
    };
    fields.finish(cx);
    Some(network)
}

fn ipam(node: Node, path: &str, cx: &mut Context<'_>) -> Ipam {
    let Some(mut fields) = Fields::open(node, path, cx) else { return Ipam::default() };
    let driver = fields.word("driver", cx);
    let options = fields.map("options", cx);
    let pools = fields.items("config", cx).into_iter().enumerate();
    let pools = pools.filter_map(|(index, node)| pool(node, &format!("{path}.config.{index}"), cx)).collect();
    fields.finish(cx);
    Ipam { driver, options, pools }
}

fn pool(node: Node, path: &str, cx: &mut Context<'_>) -> Option<IpamPool> {
    let span = node.span;
    let mut fields = Fields::open(node, path, cx)?;
    let mut prefix = |key: &'static str, cx: &mut Context<'_>| {
        let node = fields.take(key)?;
        cx.parsed(&node, "an address prefix such as 10.5.0.0/16", subnet)
    };
    let subnet = prefix("subnet", cx);
    let ip_range = prefix("ip_range", cx);
    let gateway =
        fields.take("gateway").and_then(|node| cx.parsed(&node, "an address", |text| text.parse::<IpAddr>().ok()));
    let mut aux_addresses = BTreeMap::new();
    for (name, value) in fields.map("aux_addresses", cx) {
        match value.parse() {
            Ok(address) => drop(aux_addresses.insert(name, address)),
            Err(_) => cx.error(format!("`{value}` is not an address"), span),
        }
    }
    fields.finish(cx);
    if let Some(subnet) = subnet {
        for address in gateway.iter().chain(aux_addresses.values()) {
            if !contains(subnet, *address) {
                cx.error(format!("{address} is not in the subnet {subnet}"), span);
            }
        }
        if ip_range.is_some_and(|range| range.prefix_length < subnet.prefix_length || !contains(subnet, range.address))
        {
            cx.error(format!("`ip_range` is not in the subnet {subnet}"), span);
        }
    }
    Some(IpamPool { subnet, ip_range, gateway, aux_addresses })
}

/// `address/length`; host bits are cleared.
pub fn subnet(text: &str) -> Option<Subnet> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let prefix_length: u8 = length.parse().ok()?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    (prefix_length <= width).then(|| Subnet { address: masked(address, prefix_length), prefix_length })
}

pub fn contains(subnet: Subnet, address: IpAddr) -> bool {
    subnet.address.is_ipv4() == address.is_ipv4() && masked(address, subnet.prefix_length) == subnet.address
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((u128::from(address) & mask).into())
        }
    }
}

pub fn volume(node: Node, path: &str, key: &str, cx: &mut Context<'_>) -> Option<Volume> {
    let mut fields = Fields::open(node, path, cx)?;
    let name = fields.word("name", cx);
    let (external, old_name) = external(&mut fields, cx);
    let driver = fields.word("driver", cx);
    let written = fields.span_of("driver_opts");
    let mut driver_opts = fields.map("driver_opts", cx);
    if let Some(span) = written.filter(|_| driver.as_deref().is_none_or(|driver| driver == "local")) {
        resolve_device(&mut driver_opts, span, cx);
    }
    let volume = Volume {
        name: host_name(key, external, name.or(old_name), cx),
        external,
        driver,
        driver_opts,
        labels: fields.map("labels", cx),
        protect: fields.take_ours("protect").and_then(|node| cx.flag(&node)).unwrap_or_default(),
    };
    fields.finish(cx);
    Some(volume)
}

/// A `device` that is a path beside the file: any where it is bound, as in Compose; else one that begins with a dot, since
/// others are words of the file system.
fn resolve_device(driver_opts: &mut BTreeMap<String, String>, span: Span, cx: &Context<'_>) {
    let bound = driver_opts.get("o").is_some_and(|o| o.split(',').any(|word| matches!(word.trim(), "bind" | "rbind")));
    if let Some(device) = driver_opts.get_mut("device").filter(|device| !device.is_empty())
        && (bound || device.starts_with("./") || device.starts_with("../"))
    {
        *device = cx.resolve(device, span).to_string_lossy().into_owned();
    }
}

/// An entry of `configs` or `secrets`.
pub fn file_object(node: Node, path: &str, key: &str, cx: &mut Context<'_>) -> Option<FileObject> {
    let span = node.span;
    let mut fields = Fields::open(node, path, cx)?;
    let name = fields.word("name", cx);
    let (external, old_name) = external(&mut fields, cx);
    let labels = fields.map("labels", cx);
    let file = fields.file("file", cx);
    let variable = fields.take("environment");
    let content = fields.text("content", cx);
    let decrypt = fields.take_ours("decrypt");
    let on_change = fields.take_ours("on_change");
    let on_change = on_change.and_then(|node| reaction::on_change(node, &format!("{path}.on_change"), cx));
    fields.not_honoured("driver", "drivers of secrets and configs are Swarm's", cx);
    fields.not_honoured("driver_opts", "drivers of secrets and configs are Swarm's", cx);
    fields.not_honoured("template_driver", "templates of secrets and configs are Swarm's", cx);
    fields.finish(cx);
    let mut sources = Vec::new();
    if external {
        sources.push(FileSource::External);
    }
    match (decrypt, file) {
        (None, file) => sources.extend(file.map(FileSource::File)),
        (Some(node), Some(file)) => {
            cx.files.watch(&file);
            let plain = FileSource::File(file.clone());
            sources.push(reaction::decrypt(node, &format!("{path}.decrypt"), file, cx).unwrap_or(plain));
        }
        (Some(node), None) => cx.error_help("`decrypt` is of a file", node.span, "name it by `file`"),
    }
    sources.extend(content.map(FileSource::Content));
    if let Some(node) = variable {
        sources.push(from_environment(&node, cx).unwrap_or(FileSource::External));
    }
    if let [FileSource::File(path)] = &sources[..] {
        cx.files.watch(path);
    }
    if sources.len() != 1 {
        let many = if sources.is_empty() { "has no source" } else { "has more than one source" };
        cx.error_help(
            format!("`{key}` {many}"),
            span,
            "write one of `file`, `environment`, `content` and `external: true`",
        );
    }
    let name = host_name(key, external, name.or(old_name), cx);
    // Also when it is wrong, so that those who name it are not told that it does not exist.
    Some(FileObject { name, source: sources.into_iter().next().unwrap_or(FileSource::External), labels, on_change })
}

fn from_environment(node: &Node, cx: &mut Context<'_>) -> Option<FileSource> {
    let variable = cx.text(node)?;
    let Some(value) = cx.environment.get(&variable).cloned() else {
        cx.error_help(
            format!("the variable `{variable}` is not set"),
            node.span,
            "set it in the environment or in .env",
        );
        return None;
    };
    Some(FileSource::Environment { variable, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let table = [
            ("10.5.6.7/16", Some("10.5.0.0/16")),
            ("fd00::1/64", Some("fd00::/64")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("10.0.0.0/33", None),
            ("10.0.0.0", None),
            ("x/8", None),
        ];
        for (text, expected) in table {
            assert_eq!(subnet(text).map(|subnet| subnet.to_string()).as_deref(), expected, "{text}");
        }
    }
}
