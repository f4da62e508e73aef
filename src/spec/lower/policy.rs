//! Top-level `policy`: what the stack wants of its images beyond what the host wants.

use crate::spec::fields::Fields;
use crate::spec::lower::Context;
use crate::spec::stack::{Policy, Signer};
use crate::spec::tree::{Node, Value};

pub fn policy(node: Node, cx: &mut Context<'_>) -> Option<Policy> {
    let mut fields = Fields::open(node, "policy", cx)?;
    // An empty list is one that nothing is in, not one that is not there.
    let registries = fields.take("registries").map(|node| cx.list(node));
    let needs_digest = fields.choice("digest", &[("required", true)], cx).unwrap_or_default();
    let signatures = fields.items("signatures", cx).into_iter().enumerate();
    let signatures = signatures.filter_map(|(index, node)| signer(node, index, cx)).collect();
    fields.finish(cx);
    Some(Policy { registries, needs_digest, signatures })
}

fn signer(node: Node, index: usize, cx: &mut Context<'_>) -> Option<Signer> {
    let span = node.span;
    let mut fields = Fields::open(node, &format!("policy.signatures.{index}"), cx)?;
    let images = fields.word("images", cx);
    let keys: Vec<Node> = match fields.take("key") {
        Some(Node { value: Value::Sequence(keys), .. }) => keys,
        Some(key) => vec![key],
        None => Vec::new(),
    };
    fields.finish(cx);
    let keys: Vec<_> = keys.iter().filter_map(|key| cx.file(key)).collect();
    keys.iter().for_each(|key| cx.files.watch(key));
    match images {
        Some(images) if !keys.is_empty() => Some(Signer { images, keys }),
        _ => {
            cx.error_help(
                "expected whose signature which images need",
                span,
                "write `{images: registry.example.com/team/*, key: ./team.pub}`",
            );
            None
        }
    }
}
