//! `volumes`, `tmpfs`, `volumes_from`, `devices`, and the files of `configs` and `secrets` in a container.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::spec::diagnostics::Span;
use crate::spec::fields::Fields;
use crate::spec::lower::{Context, reaction};
use crate::spec::reaction::Reaction;
use crate::spec::stack::*;
use crate::spec::tree::Node;
use crate::spec::units;

const PROPAGATIONS: [(&str, Propagation); 6] = [
    ("private", Propagation::Private),
    ("rprivate", Propagation::Rprivate),
    ("shared", Propagation::Shared),
    ("rshared", Propagation::Rshared),
    ("slave", Propagation::Slave),
    ("rslave", Propagation::Rslave),
];

/// `volumes` of a container.
pub fn volumes(node: Node, path: &str, cx: &mut Context<'_>) -> Vec<Mount> {
    let items = cx.items(node).into_iter().enumerate();
    items
        .filter_map(|(index, item)| match item.text() {
            Some(text) => short(text, item.span, cx),
            None => long(item, &format!("{path}.{index}"), cx),
        })
        .collect()
}

/// Options of the short syntax.
#[derive(Default)]
struct Options {
    read_only: bool,
    nocopy: bool,
    propagation: Propagation,
    selinux: Option<SelinuxLabel>,
}

fn short(text: &str, span: Span, cx: &mut Context<'_>) -> Option<Mount> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => {
            cx.error_help(
                format!("`{text}` has too many colons"),
                span,
                "a volume is written [source:]target[:options]",
            );
            return None;
        }
    };
    let options = read_options(options, span, cx)?;
    let target = check_target(target, span, cx)?;
    let kind = match source {
        None => MountKind::Volume { name: None, nocopy: options.nocopy, subpath: None, labels: BTreeMap::new() },
        Some("") => {
            cx.error("the source is missing before the colon", span);
            return None;
        }
        Some(source) if source.starts_with(['/', '.', '~']) => MountKind::Bind {
            source: cx.resolve(source, span),
            create_host_path: makes_sources(cx),
            propagation: options.propagation,
            recursive: BindRecursive::Enabled,
            selinux: options.selinux,
        },
        Some(name) if name.contains('/') => {
            cx.error_help(
                format!("`{name}` is not a volume's name"),
                span,
                format!("for a directory write `./{name}`"),
            );
            return None;
        }
        Some(name) => MountKind::Volume {
            name: Some(name.to_owned()),
            nocopy: options.nocopy,
            subpath: None,
            labels: BTreeMap::new(),
        },
    };
    Some(Mount { target, read_only: options.read_only, on_change: Reaction::default(), kind })
}

/// Whether a missing source of a bind mount is made where nothing is said of it. In Compose files it is, in both syntaxes;
/// in ours it is an error: more often than not the path is a slip.
fn makes_sources(cx: &Context<'_>) -> bool {
    cx.format == Format::Compose
}

fn read_options(text: &str, span: Span, cx: &mut Context<'_>) -> Option<Options> {
    let mut options = Options::default();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        match word {
            "ro" | "readonly" => options.read_only = true,
            "rw" | "cached" | "delegated" | "consistent" => {}
            "nocopy" | "volume-nocopy" => options.nocopy = true,
            "z" => options.selinux = Some(SelinuxLabel::Shared),
            "Z" => options.selinux = Some(SelinuxLabel::Private),
            _ => match PROPAGATIONS.iter().find(|(name, _)| *name == word) {
                Some((_, propagation)) => options.propagation = *propagation,
                None => {
                    cx.error_help(
                        format!("`{word}` is not an option of a volume"),
                        span,
                        "the options are ro, rw, nocopy, z, Z and (r)private, (r)shared, (r)slave",
                    );
                    return None;
                }
            },
        }
    }
    Some(options)
}

fn check_target(target: &str, span: Span, cx: &mut Context<'_>) -> Option<String> {
    if !target.starts_with('/') {
        cx.error(format!("the path in the container must begin with `/`, not `{target}`"), span);
        return None;
    }
    if target.split('/').any(|part| part == "..") {
        cx.error("the path in the container cannot have `..`", span);
        return None;
    }
    let trimmed = target.trim_end_matches('/');
    if trimmed.is_empty() {
        cx.error("the root of the container cannot be a mount", span);
        return None;
    }
    Some(trimmed.to_owned())
}

#[derive(Clone, Copy, PartialEq)]
enum Type {
    Volume,
    Bind,
    Tmpfs,
    Image,
    Other,
}

fn long(node: Node, path: &str, cx: &mut Context<'_>) -> Option<Mount> {
    let span = node.span;
    let mut fields = Fields::open(node, path, cx)?;
    let kinds = [
        ("volume", Type::Volume),
        ("bind", Type::Bind),
        ("tmpfs", Type::Tmpfs),
        ("image", Type::Image),
        ("npipe", Type::Other),
        ("cluster", Type::Other),
    ];
    let kind = fields.choice("type", &kinds, cx);
    let source = fields.take("source");
    let target = fields.take("target");
    let read_only = fields.flag("read_only", cx).unwrap_or_default();
    fields.skip("consistency");
    let volume = fields.take("volume");
    let bind = fields.take("bind");
    let tmpfs = fields.take("tmpfs");
    let image = fields.take("image");
    let on_change = fields.take_ours("on_change");
    let on_change = on_change.and_then(|node| reaction::on_change(node, &format!("{path}.on_change"), cx));
    let on_change = on_change.unwrap_or_default();
    fields.finish(cx);
    let Some(target) = target else {
        cx.error_help("the path in the container is missing", span, "add `target: /path`");
        return None;
    };
    let text = cx.text(&target)?;
    let target = check_target(&text, target.span, cx)?;
    let kind = match kind? {
        Type::Volume => long_volume(source, volume, path, cx)?,
        Type::Bind => long_bind(source, bind, path, span, cx)?,
        Type::Tmpfs => long_tmpfs(tmpfs, path, cx),
        Type::Image => long_image(source, image, path, span, cx)?,
        Type::Other => {
            cx.not_honoured(path.to_owned(), span, "this type of mount does not exist on this engine");
            return None;
        }
    };
    Some(Mount { target, read_only, on_change, kind })
}

fn long_volume(source: Option<Node>, options: Option<Node>, path: &str, cx: &mut Context<'_>) -> Option<MountKind> {
    let name = match source {
        None => None,
        Some(node) => Some(cx.text(&node)?).filter(|name| !name.is_empty()),
    };
    let (mut nocopy, mut subpath, mut labels) = (false, None, BTreeMap::new());
    if let Some(mut fields) = options.and_then(|node| Fields::open(node, &format!("{path}.volume"), cx)) {
        nocopy = fields.flag("nocopy", cx).unwrap_or_default();
        subpath = fields.word("subpath", cx);
        labels = fields.map("labels", cx);
        fields.finish(cx);
    }
    Some(MountKind::Volume { name, nocopy, subpath, labels })
}

fn long_bind(
    source: Option<Node>,
    options: Option<Node>,
    path: &str,
    span: Span,
    cx: &mut Context<'_>,
) -> Option<MountKind> {
    let Some(source) = source else {
        cx.error_help("a bind mount needs a path on the host", span, "add `source: ./path`");
        return None;
    };
    let source: PathBuf = cx.file(&source)?;
    let (mut create_host_path, mut propagation, mut recursive, mut selinux) = (makes_sources(cx), None, None, None);
    if let Some(mut fields) = options.and_then(|node| Fields::open(node, &format!("{path}.bind"), cx)) {
        create_host_path = fields.flag("create_host_path", cx).unwrap_or(create_host_path);
        propagation = fields.choice("propagation", &PROPAGATIONS, cx);
        selinux = fields.choice("selinux", &[("z", SelinuxLabel::Shared), ("Z", SelinuxLabel::Private)], cx);
        let modes = [
            ("enabled", BindRecursive::Enabled),
            ("disabled", BindRecursive::Disabled),
            ("writable", BindRecursive::Writable),
            ("readonly", BindRecursive::Readonly),
        ];
        recursive = fields.choice("recursive", &modes, cx);
        fields.finish(cx);
    }
    let (propagation, recursive) = (propagation.unwrap_or_default(), recursive.unwrap_or_default());
    Some(MountKind::Bind { source, create_host_path, propagation, recursive, selinux })
}

fn long_tmpfs(options: Option<Node>, path: &str, cx: &mut Context<'_>) -> MountKind {
    let (mut size_bytes, mut mode) = (None, None);
    if let Some(mut fields) = options.and_then(|node| Fields::open(node, &format!("{path}.tmpfs"), cx)) {
        size_bytes = fields.bytes("size", cx).filter(|size| *size > 0);
        mode = fields.take("mode").and_then(|node| cx.mode(&node));
        fields.finish(cx);
    }
    MountKind::Tmpfs { size_bytes, mode, options: Vec::new() }
}

fn long_image(
    source: Option<Node>,
    options: Option<Node>,
    path: &str,
    span: Span,
    cx: &mut Context<'_>,
) -> Option<MountKind> {
    let Some(source) = source else {
        cx.error("an image mount needs an image", span);
        return None;
    };
    let reference = cx.text(&source)?;
    let mut subpath = None;
    if let Some(mut fields) = options.and_then(|node| Fields::open(node, &format!("{path}.image"), cx)) {
        subpath = fields.word("subpath", cx);
        fields.finish(cx);
    }
    Some(MountKind::Image { reference, subpath })
}

/// `tmpfs`: `/path[:option,…]`.
pub fn tmpfs(node: Node, cx: &mut Context<'_>) -> Vec<Mount> {
    let items = if node.text().is_some() { vec![node] } else { cx.items(node) };
    items.iter().filter_map(|item| one_tmpfs(item, cx)).collect()
}

fn one_tmpfs(node: &Node, cx: &mut Context<'_>) -> Option<Mount> {
    let text = cx.text(node)?;
    let (target, words) = text.split_once(':').unwrap_or((&text, ""));
    let target = check_target(target, node.span, cx)?;
    let (mut size_bytes, mut mode, mut read_only, mut options) = (None, None, false, Vec::new());
    for word in words.split(',').filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            Some(("size", size)) => {
                size_bytes = cx.parsed(&Node::scalar(node.span, size), "a size such as 64m", units::bytes)
            }
            Some(("mode", bits)) => mode = cx.mode(&Node::scalar(node.span, bits)),
            None if word == "ro" => read_only = true,
            None if word == "rw" => {}
            _ => options.push(word.to_owned()),
        }
    }
    let kind = MountKind::Tmpfs { size_bytes, mode, options };
    Some(Mount { target, read_only, on_change: Reaction::default(), kind })
}

/// `volumes_from`: `service[:ro]` or `container:name[:ro]`.
pub fn volumes_from(node: Node, cx: &mut Context<'_>) -> Vec<(VolumesFrom, Span)> {
    let mut found = Vec::new();
    for item in cx.items(node) {
        let Some(text) = cx.text(&item) else { continue };
        let (container, rest) = match text.strip_prefix("container:") {
            Some(rest) => (true, rest),
            None => (false, text.as_str()),
        };
        let (name, mode) = rest.split_once(':').unwrap_or((rest, "rw"));
        if !matches!(mode, "ro" | "rw") {
            cx.error(format!("`{mode}` is not `ro` or `rw`"), item.span);
            continue;
        }
        let source = match container {
            true => ContainerReference::Container(name.to_owned()),
            false => ContainerReference::Service(name.to_owned()),
        };
        found.push((VolumesFrom { source, read_only: mode == "ro" }, item.span));
    }
    found
}

/// `devices`: `source[:target[:rwm]]` or a mapping.
pub fn devices(node: Node, path: &str, cx: &mut Context<'_>) -> Vec<Device> {
    let items = cx.items(node).into_iter().enumerate();
    items.filter_map(|(index, item)| device(item, &format!("{path}.{index}"), cx)).collect()
}

fn device(node: Node, path: &str, cx: &mut Context<'_>) -> Option<Device> {
    let span = node.span;
    let (source, target, permissions) = match node.text() {
        Some(text) => {
            let mut parts = text.splitn(3, ':').map(str::to_owned);
            (parts.next().unwrap_or_default(), parts.next(), parts.next())
        }
        None => {
            let mut fields = Fields::open(node, path, cx)?;
            let read = (
                fields.text("source", cx).unwrap_or_default(),
                fields.word("target", cx),
                fields.word("permissions", cx),
            );
            fields.finish(cx);
            read
        }
    };
    if !source.starts_with('/') && source.contains('=') {
        cx.not_honoured(path.to_owned(), span, "devices of the Container Device Interface are not supported yet");
        return None;
    }
    // `source:rwm` is allowed too.
    let is_permissions = |text: &String| !text.is_empty() && text.chars().all(|c| "rwm".contains(c));
    let (target, permissions) = match (target, permissions) {
        (Some(word), None) if is_permissions(&word) => (None, Some(word)),
        other => other,
    };
    let permissions = permissions.unwrap_or("rwm".into());
    let target = target.unwrap_or_else(|| source.clone());
    if !source.starts_with('/') || !target.starts_with('/') || !is_permissions(&permissions) {
        cx.error_help("this is not a device", span, "a device is written /dev/host[:/dev/container[:rwm]]");
        return None;
    }
    Some(Device { source: PathBuf::from(source), target, permissions })
}

/// `configs` and `secrets` of a container or a build. `directory` is where a name alone appears.
pub fn grants(node: Node, path: &str, directory: &str, cx: &mut Context<'_>) -> Vec<(FileGrant, Span)> {
    let items = cx.items(node).into_iter().enumerate();
    items.filter_map(|(index, item)| grant(item, &format!("{path}.{index}"), directory, cx)).collect()
}

fn grant(node: Node, path: &str, directory: &str, cx: &mut Context<'_>) -> Option<(FileGrant, Span)> {
    let span = node.span;
    if let Some(source) = node.text() {
        let grant = FileGrant {
            source: source.to_owned(),
            target: format!("{directory}/{source}"),
            uid: None,
            gid: None,
            mode: None,
            on_change: None,
        };
        return Some((grant, span));
    }
    let mut fields = Fields::open(node, path, cx)?;
    let source = fields.word("source", cx);
    let target = fields.word("target", cx);
    let uid = fields.number("uid", cx);
    let gid = fields.number("gid", cx);
    let mode = fields.take("mode").and_then(|node| cx.mode(&node));
    let on_change = fields.take_ours("on_change");
    let on_change = on_change.and_then(|node| reaction::on_change(node, &format!("{path}.on_change"), cx));
    fields.finish(cx);
    let Some(source) = source else {
        cx.error("`source` is missing", span);
        return None;
    };
    let target = match target {
        Some(target) if target.starts_with('/') => target,
        Some(target) => format!("{directory}/{target}"),
        None => format!("{directory}/{source}"),
    };
    Some((FileGrant { source, target, uid, gid, mode, on_change }, span))
}

impl Context<'_> {
    pub fn mode(&mut self, node: &Node) -> Option<u32> {
        let quoted = matches!(node.value, crate::spec::tree::Value::Scalar { quoted: true, .. });
        self.parsed(node, "permission bits such as 0440", |text| units::mode(text, quoted))
    }
}
