//! `image`, `build`, and the `images` section.

use std::collections::BTreeMap;

use crate::spec::diagnostics::{Span, did_you_mean, nearest};
use crate::spec::fields::Fields;
use crate::spec::lower::{Context, mount, process};
use crate::spec::names::BUILTINS;
use crate::spec::stack::*;
use crate::spec::tree::{Node, Value};

/// Prefix of references to images that are compiled into the binary.
const BUILTIN: &str = "builtin:";

/// One entry of `images`: a reference, or where the image comes from.
pub fn declared(node: Node, path: &str, key: &str, cx: &mut Context<'_>) -> Option<Image> {
    let span = node.span;
    if let Some(text) = node.text() {
        return by_reference(text, span, cx);
    }
    let mut fields = Fields::open(node, path, cx)?;
    let pull = fields.take("pull");
    let digest = fields.take("digest");
    let mut sources = Vec::new();
    if let Some(node) = pull {
        let reference = cx.text(&node)?;
        check(&reference, node.span, cx)?;
        let digest = digest.and_then(|node| {
            cx.parsed(&node, "a digest such as sha256:… with 64 digits", |text| {
                is_digest(text).then(|| text.to_owned())
            })
        });
        sources.push((reference.clone(), ImageSource::Pull { reference, digest }));
    } else if let Some(node) = digest {
        cx.error("`digest` belongs to `pull`", node.span);
    }
    // What another stack calls so is another image.
    let own = format!("{}-{key}", cx.project);
    sources.extend(fields.file("archive", cx).map(|path| (own.clone(), ImageSource::Archive(path))));
    sources.extend(fields.file("rootfs", cx).map(|path| (own.clone(), ImageSource::Rootfs(path))));
    if let Some(node) = fields.take("builtin")
        && let Some(name) = cx.text(&node)
    {
        known_builtin(&name, node.span, cx);
        sources.push((format!("{BUILTIN}{name}"), ImageSource::Builtin(name)));
    }
    if let Some(node) = fields.take("build") {
        let path = fields.path_of("build");
        let build = read_build(node, &path, cx)?;
        sources.push((own, ImageSource::Build(Box::new(build))));
    }
    fields.finish(cx);
    if sources.len() != 1 {
        let many = if sources.is_empty() { "has no source" } else { "has more than one source" };
        let help = "write one of `pull`, `archive`, `rootfs`, `builtin` and `build`";
        cx.error_help(format!("image `{key}` {many}"), span, help);
    }
    for (_, source) in &sources {
        if let ImageSource::Archive(path) | ImageSource::Rootfs(path) = source {
            cx.files.watch(path);
        }
    }
    sources.into_iter().next().map(|(reference, source)| Image { reference, source })
}

/// The image of a container: a declared one by its name, or a reference.
pub fn of_container(
    fields: &mut Fields,
    images: &BTreeMap<String, Image>,
    word: &str,
    name: &str,
    cx: &mut Context<'_>,
) -> Option<Image> {
    let image = fields.take("image");
    let build = fields.take("build");
    let is_built = build.is_some();
    let path = fields.path_of("build");
    let build = build.and_then(|node| read_build(node, &path, cx));
    match (image, is_built) {
        // It is built, and this is its name.
        (Some(node), true) => {
            let reference = cx.text(&node)?;
            check(&reference, node.span, cx)?;
            Some(Image { reference, source: ImageSource::Build(Box::new(build?)) })
        }
        (None, true) => {
            let reference = format!("{}-{name}", cx.project);
            Some(Image { reference, source: ImageSource::Build(Box::new(build?)) })
        }
        (Some(node), false) => {
            let text = cx.text(&node)?;
            match images.get(&text) {
                Some(image) => Some(image.clone()),
                None => {
                    not_declared(&text, node.span, images, cx)?;
                    by_reference(&text, node.span, cx)
                }
            }
        }
        // Told as a word that is not known.
        (None, false) if fields.misspells("image") => None,
        (None, false) => {
            let help = "add `image: NAME[:TAG]`, or `build: DIRECTORY`";
            cx.error_help(format!("{word} `{name}` has no image"), fields.span, help);
            None
        }
    }
}

/// A word that is nearly the name of a declared image was meant to be it.
fn not_declared(text: &str, span: Span, images: &BTreeMap<String, Image>, cx: &mut Context<'_>) -> Option<()> {
    let near = nearest(text, images.keys().map(String::as_str)).filter(|_| !text.contains([':', '/', '@']));
    let Some(near) = near else { return Some(()) };
    let help = format!("did you mean `{near}`? An image of a registry is meant when it has a tag: `{text}:latest`");
    cx.error_help(format!("the image `{text}` is not declared"), span, help);
    None
}

fn known_builtin(name: &str, span: Span, cx: &mut Context<'_>) {
    if !BUILTINS.contains(&name) {
        let help = did_you_mean(name, BUILTINS).unwrap_or_else(|| format!("there are: {}", BUILTINS.join(", ")));
        cx.error_help(format!("no image `{name}` is built into this program"), span, help);
    }
}

fn by_reference(text: &str, span: Span, cx: &mut Context<'_>) -> Option<Image> {
    if let Some(name) = text.strip_prefix(BUILTIN) {
        known_builtin(name, span, cx);
        return Some(Image { reference: text.to_owned(), source: ImageSource::Builtin(name.to_owned()) });
    }
    check(text, span, cx)?;
    Some(Image { reference: text.to_owned(), source: ImageSource::Pull { reference: text.to_owned(), digest: None } })
}

fn check(text: &str, span: Span, cx: &mut Context<'_>) -> Option<()> {
    let Err(reason) = check_reference(text) else { return Some(()) };
    cx.error_help(
        format!("`{text}` is not an image reference: {reason}"),
        span,
        "a reference is written [host[:port]/]name[:tag][@sha256:…]",
    );
    None
}

/// Whether `text` is a reference by the grammar of the distribution specification.
fn check_reference(text: &str) -> Result<(), &'static str> {
    let (text, digest) = match text.split_once('@') {
        Some((text, digest)) => (text, Some(digest)),
        None => (text, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Err("the digest is not sha256: with 64 hexadecimal digits");
    }
    let (name, tag) = match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    };
    let tag_char = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if tag.is_some_and(|tag| {
        tag.is_empty() || tag.len() > 128 || tag.starts_with(['.', '-']) || !tag.chars().all(tag_char)
    }) {
        return Err("the tag has letters, digits and `_ . -`");
    }
    if name.is_empty() || name.len() > 255 {
        return Err("the name is missing or too long");
    }
    let (host, path) = match name.split_once('/') {
        Some((host, path))
            if host.contains(['.', ':']) || host == "localhost" || host.chars().any(|c| c.is_ascii_uppercase()) =>
        {
            (Some(host), path)
        }
        _ => (None, name),
    };
    let host_char = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    if host.is_some_and(|host| host.is_empty() || !host.chars().all(host_char)) {
        return Err("the host is not a good one");
    }
    path.split('/').try_for_each(check_component)
}

fn check_component(part: &str) -> Result<(), &'static str> {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if part.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("the name has lower case letters only");
    }
    if !part.chars().all(|c| edge(c) || "_.-".contains(c)) {
        return Err("the name has lower case letters, digits and `_ . - /`");
    }
    match part.starts_with(edge) && part.ends_with(edge) {
        true => Ok(()),
        false => Err("each part of the name begins and ends with a letter or digit"),
    }
}

pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// Keys of `build` that are understood and not carried out.
const NOT_BUILT: [(&str, &str); 8] = [
    ("cache_from", "what steps made is remembered on this host only"),
    ("cache_to", "what steps made is remembered on this host only"),
    ("ssh", "agents of ssh are not lent to builds yet"),
    ("privileged", "a step has the rights of an ordinary container"),
    ("entitlements", "a step has the rights of an ordinary container"),
    ("isolation", "it is for Windows only"),
    ("provenance", "no attestations are made"),
    ("sbom", "no attestations are made"),
];

/// Reads `build`. `None` where it can't be built at all, which is reported.
fn read_build(node: Node, path: &str, cx: &mut Context<'_>) -> Option<Build> {
    let span = node.span;
    if let Value::Scalar { text, .. } = &node.value {
        let build = Build { context: context(text, span, cx)?, ..Build::default() };
        watch(&build, cx);
        return Some(build);
    }
    let mut fields = Fields::open(node, path, cx)?;
    let written = fields.take("context");
    let written = written.and_then(|node| cx.text(&node).map(|text| (text, node.span)));
    let (text, at) = written.unwrap_or((".".into(), span));
    for (key, reason) in NOT_BUILT {
        fields.not_honoured(key, reason, cx);
    }
    let context = context(&text, at, cx);
    let build = Build {
        dockerfile: fields.word("dockerfile", cx),
        dockerfile_inline: fields.text("dockerfile_inline", cx),
        target: fields.word("target", cx),
        args: arguments(&mut fields, cx),
        labels: fields.map("labels", cx),
        additional_contexts: contexts(&mut fields, cx),
        no_cache: fields.flag("no_cache", cx).unwrap_or_default(),
        no_cache_filter: fields.list("no_cache_filter", cx),
        pull: fields.flag("pull", cx).unwrap_or_default(),
        network: network(&mut fields, cx),
        platforms: fields.list("platforms", cx),
        tags: fields.list("tags", cx),
        shm_size_bytes: fields.bytes("shm_size", cx),
        extra_hosts: fields.take("extra_hosts").map(|node| super::attach::extra_hosts(node, cx)).unwrap_or_default(),
        secrets: fields
            .take("secrets")
            .map(|node| mount::grants(node, path, "/run/secrets", cx))
            .unwrap_or_default()
            .into_iter()
            .map(|(grant, _)| grant)
            .collect(),
        ulimits: fields.take("ulimits").map(|node| process::ulimits(node, path, cx)).unwrap_or_default(),
        context: context?,
        ..Build::default()
    };
    fields.finish(cx);
    if let (Some(_), Some(_)) = (&build.dockerfile, &build.dockerfile_inline) {
        cx.error("`dockerfile` and `dockerfile_inline` exclude each other", span);
    }
    for name in &build.tags {
        check(name, span, cx);
    }
    if !build.platforms.is_empty() {
        cx.not_honoured(format!("{path}.platforms"), span, "images are built for this host's platform");
    }
    watch(&build, cx);
    Some(build)
}

/// One without a value takes the caller's.
fn arguments(fields: &mut Fields, cx: &mut Context<'_>) -> BTreeMap<String, Option<String>> {
    let Some(node) = fields.take("args") else { return BTreeMap::new() };
    let pairs = cx.pairs(node).into_iter();
    pairs.map(|(name, value)| (name.clone(), value.or_else(|| cx.environment.get(&name).cloned()))).collect()
}

/// A network of the stack's own is not there yet when its images are built.
fn network(fields: &mut Fields, cx: &mut Context<'_>) -> Option<String> {
    let node = fields.take("network")?;
    let text = cx.text(&node)?;
    if matches!(text.as_str(), "default" | "none" | "host") {
        return Some(text);
    }
    cx.not_honoured(fields.path_of("network"), node.span, "steps are in the default network, in none or in the host's");
    None
}

/// Directories become absolute; what names an image or a service is kept.
fn contexts(fields: &mut Fields, cx: &mut Context<'_>) -> BTreeMap<String, String> {
    let Some(node) = fields.take("additional_contexts") else { return BTreeMap::new() };
    let span = node.span;
    let mut contexts = BTreeMap::new();
    for (name, place) in cx.pairs(node) {
        let place = place.unwrap_or_default();
        let kept = place.starts_with("docker-image://") || place.starts_with("service:");
        if !kept && is_remote(&place) {
            cx.error_help(format!("`{place}` can't be fetched yet"), span, "name a directory, or docker-image://IMAGE");
        } else {
            let place = if kept { place } else { cx.resolve(&place, span).display().to_string() };
            contexts.insert(name, place);
        }
    }
    contexts
}

/// The files that decide what is built, as far as they are known without reading them.
fn watch(build: &Build, cx: &mut Context<'_>) {
    let BuildContext::Directory(context) = &build.context else { return };
    if build.dockerfile_inline.is_none() {
        cx.files.watch(&context.join(build.dockerfile.as_deref().unwrap_or("Dockerfile")));
    }
    cx.files.watch(&context.join(".dockerignore"));
}

fn is_remote(text: &str) -> bool {
    text.contains("://") || text.starts_with("git@") || text.starts_with("github.com/")
}

fn context(text: &str, span: Span, cx: &mut Context<'_>) -> Option<BuildContext> {
    if is_remote(text) {
        cx.error_help(format!("`{text}` can't be fetched yet"), span, "the context of a build is a directory");
        return None;
    }
    Some(BuildContext::Directory(cx.resolve(text, span)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let good = [
            "nginx",
            "nginx:1.27",
            "library/nginx",
            "ghcr.io/a/b:v1",
            "localhost:5000/x",
            "a/b/c:T_a-g.1",
            "127.0.0.1:5000/x:1",
            "a__b",
            "a.b-c",
            &format!("nginx@{digest}"),
            &format!("r.io/n:1@{digest}"),
        ];
        for text in good {
            assert_eq!(check_reference(text), Ok(()), "{text}");
        }
        let bad = [
            "",
            ":",
            "Nginx",
            "nginx:",
            "nginx:-a",
            "a//b",
            "-a",
            "a-",
            "a b",
            "nginx@sha256:ab",
            "nginx@md5:x",
            "/a",
            "a/",
            "http://x/y",
        ];
        for text in bad {
            assert!(check_reference(text).is_err(), "{text}");
        }
    }
}
