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
    sources.extend(fields.file("archive", cx).map(|path| (key.to_owned(), ImageSource::Archive(path))));
    sources.extend(fields.file("rootfs", cx).map(|path| (key.to_owned(), ImageSource::Rootfs(path))));
    if let Some(node) = fields.take("builtin")
        && let Some(name) = cx.text(&node)
    {
        known_builtin(&name, node.span, cx);
        sources.push((format!("{BUILTIN}{name}"), ImageSource::Builtin(name)));
    }
    if let Some(node) = fields.take("build") {
        cx.error_help(
            "building images comes later",
            node.span,
            "give the image with `pull`, `archive`, `rootfs` or `builtin`",
        );
        return None;
    }
    fields.finish(cx);
    if sources.len() != 1 {
        let many = if sources.is_empty() { "has no source" } else { "has more than one source" };
        cx.error_help(format!("image `{key}` {many}"), span, "write one of `pull`, `archive`, `rootfs` and `builtin`");
    }
    for (_, source) in &sources {
        if let ImageSource::Archive(path) = source {
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
    let build_span = build.as_ref().map(|node| node.span);
    if let Some(node) = build {
        let path = fields.path_of("build");
        read_build(node, &path, cx);
    }
    match (image, build_span) {
        (Some(node), build) => {
            if let Some(span) = build {
                cx.not_honoured(
                    fields.path_of("build"),
                    span,
                    "building images comes later; the image is taken by its name",
                );
            }
            let text = cx.text(&node)?;
            match images.get(&text) {
                Some(image) => Some(image.clone()),
                None => {
                    not_declared(&text, node.span, images, cx)?;
                    by_reference(&text, node.span, cx)
                }
            }
        }
        (None, Some(span)) => {
            cx.error_help("building images comes later", span, format!("give {word} `{name}` an `image:` that exists"));
            None
        }
        // Told as a word that is not known.
        (None, None) if fields.misspells("image") => None,
        (None, None) => {
            cx.error_help(format!("{word} `{name}` has no image"), fields.span, "add `image: NAME[:TAG]`");
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

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// Reads `build`, so that mistakes in it are found now.
fn read_build(node: Node, path: &str, cx: &mut Context<'_>) -> Option<Build> {
    let span = node.span;
    if let Value::Scalar { text, .. } = &node.value {
        return Some(Build { context: context(text, span, cx), ..Build::default() });
    }
    let mut fields = Fields::open(node, path, cx)?;
    let written = fields.take("context");
    let written = written.and_then(|node| cx.text(&node).map(|text| (text, node.span)));
    let (text, at) = written.unwrap_or((".".into(), span));
    let build = Build {
        context: context(&text, at, cx),
        dockerfile: fields.word("dockerfile", cx),
        dockerfile_inline: fields.text("dockerfile_inline", cx),
        target: fields.word("target", cx),
        args: fields.take("args").map(|node| cx.pairs(node).into_iter().collect()).unwrap_or_default(),
        labels: fields.map("labels", cx),
        additional_contexts: fields.map("additional_contexts", cx),
        cache_from: fields.list("cache_from", cx),
        cache_to: fields.list("cache_to", cx),
        no_cache: fields.flag("no_cache", cx).unwrap_or_default(),
        no_cache_filter: fields.list("no_cache_filter", cx),
        pull: fields.flag("pull", cx).unwrap_or_default(),
        network: fields.word("network", cx),
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
        ssh: fields
            .take("ssh")
            .map(|node| cx.pairs(node))
            .unwrap_or_default()
            .into_iter()
            .map(|(id, path)| path.map_or(id.clone(), |path| format!("{id}={path}")))
            .collect(),
        ulimits: fields.take("ulimits").map(|node| process::ulimits(node, path, cx)).unwrap_or_default(),
        privileged: fields.flag("privileged", cx).unwrap_or_default(),
        entitlements: fields.list("entitlements", cx),
    };
    for key in ["isolation", "provenance", "sbom"] {
        fields.skip(key);
    }
    fields.finish(cx);
    if let (Some(_), Some(_)) = (&build.dockerfile, &build.dockerfile_inline) {
        cx.error("`dockerfile` and `dockerfile_inline` exclude each other", span);
    }
    Some(build)
}

fn context(text: &str, span: Span, cx: &Context<'_>) -> BuildContext {
    let remote = text.contains("://") || text.starts_with("git@") || text.starts_with("github.com/");
    if remote { BuildContext::Remote(text.to_owned()) } else { BuildContext::Directory(cx.resolve(text, span)) }
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
