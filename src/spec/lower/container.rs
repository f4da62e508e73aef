//! One container (Compose: service).

use std::collections::BTreeMap;

use crate::spec::diagnostics::{did_you_mean, nearest};
use crate::spec::fields::Fields;
use crate::spec::lower::{Context, attach, deploy, image, mount, port, process};
use crate::spec::names;
use crate::spec::stack::*;
use crate::spec::tree::Node;
use crate::spec::units;

/// What is understood and has no effect here.
const NOT_HONOURED: [(&str, &str); 11] = [
    ("develop", "`stack watch` builds anew where sources changed; nothing is copied into what runs"),
    ("blkio_config", "limits of block devices are not supported yet"),
    ("cpu_count", "this limit exists on Windows only"),
    ("cpu_percent", "this limit exists on Windows only"),
    ("cpu_rt_period", "real-time scheduling of cgroups is not supported"),
    ("cpu_rt_runtime", "real-time scheduling of cgroups is not supported"),
    ("credential_spec", "this exists on Windows only"),
    ("isolation", "this exists on Windows only"),
    ("models", "AI models are not supported"),
    ("use_api_socket", "handing the API socket to a container is not supported"),
    ("pull_refresh_after", "use `pull_policy: every_<duration>`"),
];

/// Reads a container. Errors are reported; `None` when it is not even a mapping.
pub fn container(
    node: Node,
    path: &str,
    name: &str,
    images: &BTreeMap<String, Image>,
    cx: &mut Context<'_>,
) -> Option<Container> {
    let word = cx.format.container_word();
    let mut fields = Fields::open(node, path, cx)?;
    let f = &mut fields;
    f.skip("extends");
    let provider = f.take("provider");
    if let Some(node) = &provider {
        cx.not_honoured(f.path_of("provider"), node.span, "external providers are not supported");
    }
    let image = image::of_container(f, images, word, name, cx);
    let mut container = Container { image: image.unwrap_or_default(), attach: true, ..Container::default() };
    process_keys(f, &mut container, cx);
    network_keys(f, &mut container, cx);
    storage_keys(f, &mut container, cx);
    life_keys(f, &mut container, cx);
    security_keys(f, &mut container, cx);
    deploy_keys(f, &mut container, cx);
    dependencies(f, &mut container, cx);
    for (key, reason) in NOT_HONOURED {
        f.not_honoured(key, reason, cx);
    }
    fields.finish(cx);
    // Also without an image, so that others which name it are not told that it does not exist.
    Some(container)
}

fn process_keys(f: &mut Fields, container: &mut Container, cx: &mut Context<'_>) {
    container.pull_policy = f.take("pull_policy").and_then(|node| pull_policy(&node, cx)).unwrap_or_default();
    container.platform = f.take("platform").and_then(|node| platform(&node, cx));
    container.command = f.take("command").and_then(|node| cx.command(node));
    container.entrypoint = f.take("entrypoint").and_then(|node| cx.command(node));
    container.environment = process::environment(f, cx);
    container.user = f.word("user", cx);
    container.group_add = f.list("group_add", cx);
    container.working_dir = f.word("working_dir", cx);
    container.hostname = f.word("hostname", cx);
    container.domainname = f.word("domainname", cx);
    container.container_name = f.word("container_name", cx);
    container.labels = process::labels(f, cx);
    container.annotations = f.map("annotations", cx);
    container.profiles = f.list("profiles", cx);
    container.tty = f.flag("tty", cx).unwrap_or_default();
    container.stdin_open = f.flag("stdin_open", cx).unwrap_or_default();
    container.attach = f.flag("attach", cx).unwrap_or(true);
}

fn pull_policy(node: &Node, cx: &mut Context<'_>) -> Option<PullPolicy> {
    const DAY_MS: u64 = 86_400_000;
    let text = cx.text(node)?;
    if let Some(text) = text.strip_prefix("every_") {
        let interval_ms =
            cx.parsed(&Node::scalar(node.span, text), "a duration such as 12h after `every_`", units::duration_ms)?;
        return Some(PullPolicy::Every { interval_ms });
    }
    let words = [
        ("always", PullPolicy::Always),
        ("missing", PullPolicy::Missing),
        ("if_not_present", PullPolicy::Missing),
        ("never", PullPolicy::Never),
        ("build", PullPolicy::Build),
        ("daily", PullPolicy::Every { interval_ms: DAY_MS }),
        ("weekly", PullPolicy::Every { interval_ms: 7 * DAY_MS }),
    ];
    cx.choice(node, &words)
}

fn network_keys(f: &mut Fields, container: &mut Container, cx: &mut Context<'_>) {
    let ports = f.path_of("ports");
    container.ports = f.take("ports").map(|node| port::ports(node, &ports, cx)).unwrap_or_default();
    container.expose = f.take("expose").map(|node| port::expose(node, cx)).unwrap_or_default();
    let mode = f.take("network_mode");
    let networks = f.take("networks").filter(|node| node.items().is_none_or(|items| !items.is_empty()));
    if let (Some(mode), Some(networks)) = (&mode, &networks) {
        let diagnostic =
            crate::spec::Diagnostic::error("`network_mode` and `networks` exclude each other", networks.span);
        cx.diagnostics.push(diagnostic.related(mode.span, "the network mode"));
    }
    container.network_mode = mode.and_then(|node| attach::network_mode(&node, cx)).unwrap_or_default();
    let path = f.path_of("networks");
    container.networks = networks.map(|node| attach::networks(node, &path, cx)).unwrap_or_default();
    if container.network_mode == NetworkMode::Bridge && container.networks.is_empty() {
        container.networks.insert("default".into(), NetworkAttachment::default());
    }
    if container.network_mode != NetworkMode::Bridge {
        container.networks.clear();
    }
    container.mac_address = f.take("mac_address").and_then(|node| attach::mac_address(&node, cx));
    container.external_links = f.list("external_links", cx);
    container.dns = addresses(f, cx);
    container.dns_search = f.list("dns_search", cx);
    container.dns_opt = f.list("dns_opt", cx);
    container.extra_hosts = f.take("extra_hosts").map(|node| attach::extra_hosts(node, cx)).unwrap_or_default();
}

fn addresses(f: &mut Fields, cx: &mut Context<'_>) -> Vec<std::net::IpAddr> {
    let Some(node) = f.take("dns") else { return Vec::new() };
    let items = if node.text().is_some() { vec![node] } else { cx.items(node) };
    items.iter().filter_map(|item| cx.parsed(item, "an address", |text| text.parse().ok())).collect()
}

fn storage_keys(f: &mut Fields, container: &mut Container, cx: &mut Context<'_>) {
    let path = f.path_of("volumes");
    container.mounts = f.take("volumes").map(|node| mount::volumes(node, &path, cx)).unwrap_or_default();
    container.mounts.extend(f.take("tmpfs").map(|node| mount::tmpfs(node, cx)).unwrap_or_default());
    let path = f.path_of("configs");
    let configs = f.take("configs").map(|node| mount::grants(node, &path, "", cx)).unwrap_or_default();
    container.configs = configs.into_iter().map(|(grant, _)| grant).collect();
    let path = f.path_of("secrets");
    let secrets = f.take("secrets").map(|node| mount::grants(node, &path, "/run/secrets", cx)).unwrap_or_default();
    container.secrets = secrets.into_iter().map(|(grant, _)| grant).collect();
    let path = f.path_of("devices");
    container.devices = f.take("devices").map(|node| mount::devices(node, &path, cx)).unwrap_or_default();
    let rules = f.items("device_cgroup_rules", cx);
    container.device_cgroup_rules = rules.iter().filter_map(|node| device_rule(node, cx)).collect();
    container.shm_size_bytes = f.bytes("shm_size", cx).filter(|bytes| *bytes > 0);
    container.storage_opt = f.map("storage_opt", cx);
    container.read_only = f.flag("read_only", cx).unwrap_or_default();
}

fn life_keys(f: &mut Fields, container: &mut Container, cx: &mut Context<'_>) {
    let path = f.path_of("healthcheck");
    container.healthcheck = f.take("healthcheck").and_then(|node| process::healthcheck(node, &path, cx));
    container.stop_signal = f.take("stop_signal").and_then(|node| stop_signal(&node, cx));
    container.stop_grace_period_ms = f.duration("stop_grace_period", cx);
    container.init = f.flag("init", cx);
    let path = f.path_of("logging");
    container.logging = f.take("logging").and_then(|node| process::logging(node, &path, cx));
    let mut hooks = |key: &'static str, cx: &mut Context<'_>| {
        let path = f.path_of(key);
        f.take(key).map(|node| process::hooks(node, &path, cx)).unwrap_or_default()
    };
    container.pre_start = hooks("pre_start", cx);
    container.post_start = hooks("post_start", cx);
    container.pre_stop = hooks("pre_stop", cx);
}

fn security_keys(f: &mut Fields, container: &mut Container, cx: &mut Context<'_>) {
    let path = f.path_of("ulimits");
    container.ulimits = f.take("ulimits").map(|node| process::ulimits(node, &path, cx)).unwrap_or_default();
    container.sysctls = sysctls(f, cx);
    container.cap_add = capabilities(f, "cap_add", cx);
    container.cap_drop = capabilities(f, "cap_drop", cx);
    container.privileged = f.flag("privileged", cx).unwrap_or_default();
    container.security_opt = f.take("security_opt").map(|node| process::security_opt(node, cx)).unwrap_or_default();
    let mut namespace = |key: &'static str, words: &[&str], cx: &mut Context<'_>| {
        let node = f.take(key)?;
        attach::namespace(&node, words, cx)
    };
    container.pid = namespace("pid", &["host", "private", "service", "container"], cx);
    container.ipc = namespace("ipc", &["host", "private", "shareable", "none", "service", "container"], cx);
    container.uts = namespace("uts", &["host", "private"], cx);
    container.cgroup = namespace("cgroup", &["host", "private"], cx);
    container.userns_mode = f.take("userns_mode").and_then(|node| attach::users(&node, cx));
    container.cgroup_parent = f.take("cgroup_parent").and_then(|node| group_above(&node, cx));
    container.runtime = f.word("runtime", cx);
}

fn capabilities(f: &mut Fields, key: &'static str, cx: &mut Context<'_>) -> Vec<String> {
    let Some(node) = f.take(key) else { return Vec::new() };
    let items = if node.text().is_some() { vec![node] } else { cx.items(node) };
    items.iter().filter_map(|item| capability(item, cx)).collect()
}

/// Upper case without `CAP_`.
fn capability(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    let text = cx.text(node)?;
    let upper = text.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if short == "ALL" || names::CAPABILITIES.contains(&short) {
        return Some(short.to_owned());
    }
    let help = did_you_mean(short, names::CAPABILITIES).unwrap_or_else(|| "they are listed in capabilities(7)".into());
    cx.error_help(format!("`{text}` is not a capability"), node.span, help);
    None
}

pub(super) fn stop_signal(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    let text = cx.text(node).filter(|text| !text.is_empty())?;
    if names::is_signal(&text) {
        return Some(text);
    }
    let upper = text.to_ascii_uppercase();
    let near = nearest(upper.strip_prefix("SIG").unwrap_or(&upper), names::SIGNALS);
    let help = near
        .map_or_else(|| "write a name of signal(7) or a number".into(), |near| format!("did you mean `SIG{near}`?"));
    cx.error_help(format!("`{text}` is not a signal"), node.span, help);
    None
}

fn platform(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    let part = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    let good = |text: &str| text.split('/').all(part) && (2..=3).contains(&text.split('/').count());
    if node.text() == Some("") {
        return None;
    }
    cx.parsed(node, "a platform such as linux/arm64", |text| good(text).then(|| plain_platform(text)))
}

/// One platform has one name: `linux/aarch64` and `linux/arm64/v8` are `linux/arm64`.
fn plain_platform(text: &str) -> String {
    let mut parts: Vec<&str> = text.split('/').collect();
    parts[1] = match parts[1] {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "x86" | "i386" => "386",
        other => other,
    };
    if matches!(parts[1..], ["arm64", "v8"] | ["amd64", "v1"]) {
        parts.pop();
    }
    parts.join("/")
}

/// `c 1:3 mr`: kind, numbers, access.
fn device_rule(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    let number = |text: &str| text == "*" || text.parse::<u32>().is_ok();
    let good = |text: &str| match text.split_whitespace().collect::<Vec<_>>()[..] {
        ["a" | "b" | "c", numbers, access] => {
            numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
                && access.chars().all(|letter| "rwm".contains(letter))
        }
        _ => false,
    };
    cx.parsed(node, "a rule such as `c 1:3 mr` or `b 8:* r`", |text| good(text).then(|| text.to_owned()))
}

/// A path below the topmost group.
fn group_above(node: &Node, cx: &mut Context<'_>) -> Option<String> {
    let part = |part: &str| part != ".." && part != "." && !part.contains('\0');
    let good = |text: &str| text.split('/').all(part);
    cx.parsed(node, "the path of a control group, without `..`", |text| good(text).then(|| text.to_owned()))
        .filter(|text| !text.trim_matches('/').is_empty())
}

fn sysctls(f: &mut Fields, cx: &mut Context<'_>) -> BTreeMap<String, String> {
    let Some(node) = f.take("sysctls") else { return BTreeMap::new() };
    let span = node.span;
    let mut found = BTreeMap::new();
    for (key, value) in cx.pairs(node) {
        match value {
            Some(value) => drop(found.insert(key, value)),
            None => {
                cx.error_help(format!("the kernel parameter `{key}` has no value"), span, format!("write `{key}=1`"))
            }
        }
    }
    found
}

fn deploy_keys(f: &mut Fields, container: &mut Container, cx: &mut Context<'_>) {
    let path = f.path_of("deploy");
    let read = f.take("deploy").and_then(|node| deploy::deploy(node, &path, cx)).unwrap_or_default();
    let restart = f.take("restart").and_then(|node| deploy::restart(&node, cx));
    container.restart = read.restart.or(restart).unwrap_or_default();
    let scale_node = f.take("scale");
    let scale: Option<u32> = scale_node.as_ref().and_then(|node| cx.number(node));
    if let (Some(node), Some(scale), Some(replicas)) = (&scale_node, scale, read.replicas)
        && scale != replicas
    {
        deploy::differ("scale", "deploy.replicas", node.span, cx);
    }
    let publish = f.take_ours("publish");
    let words = [("obey", Publish::Obey), ("bypass", Publish::Bypass)];
    container.publish = publish.and_then(|node| cx.choice(&node, &words)).unwrap_or_default();
    let replicas = f.take_ours("replicas").and_then(|node| cx.number(&node));
    container.replicas = replicas.or(scale).or(read.replicas).unwrap_or(1);
    container.resources = deploy::flat(f, read.resources, cx);
    let path = f.path_of("gpus");
    container.gpus = f.take("gpus").map(|node| deploy::gpus(node, &path, cx)).unwrap_or_default();
    let path = f.path_of("update");
    let update = f.take_ours("update").and_then(|node| deploy::update(node, &path, cx));
    container.update = update.or(read.deploy.update_config.clone()).unwrap_or_default();
    container.deploy = read.deploy;
}

/// `depends_on` and what other keys imply.
fn dependencies(f: &mut Fields, container: &mut Container, cx: &mut Context<'_>) {
    let path = f.path_of("depends_on");
    container.depends_on = f.take("depends_on").map(|node| attach::depends_on(node, &path, cx)).unwrap_or_default();
    container.links = f
        .take("links")
        .map(|node| attach::links(node, cx))
        .unwrap_or_default()
        .into_iter()
        .map(|(link, _)| link)
        .collect();
    let volumes_from = f.take("volumes_from").map(|node| mount::volumes_from(node, cx)).unwrap_or_default();
    container.volumes_from = volumes_from.into_iter().map(|(from, _)| from).collect();
    for name in implied(container) {
        container.depends_on.entry(name.0).or_insert(Dependency { restart: name.1, ..Dependency::default() });
    }
}

/// Names that other keys refer to; true where the one is restarted with the other. Compose does that also with who lives
/// in the other's network: here the network outlives who it belongs to, and the plan says where it does not.
fn implied(container: &Container) -> Vec<(String, bool)> {
    let mut names = Vec::new();
    if let NetworkMode::Service(name) = &container.network_mode {
        names.push((name.clone(), false));
    }
    for mode in [&container.pid, &container.ipc, &container.uts, &container.cgroup] {
        if let Some(NamespaceMode::Service(name)) = mode {
            names.push((name.clone(), true));
        }
    }
    names.extend(container.links.iter().map(|link| (link.container.clone(), true)));
    let from = container.volumes_from.iter().filter_map(|from| match &from.source {
        ContainerReference::Service(name) => Some((name.clone(), false)),
        ContainerReference::Container(_) => None,
    });
    names.extend(from);
    names
}
