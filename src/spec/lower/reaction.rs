//! `on_change` and `decrypt`: our words of files that containers have.

use std::path::PathBuf;

use crate::spec::fields::Fields;
use crate::spec::lower::Context;
use crate::spec::lower::container::stop_signal;
use crate::spec::reaction::{Encryption, Reaction};
use crate::spec::stack::FileSource;
use crate::spec::tree::Node;

/// What `signal` alone sends.
const USUAL_SIGNAL: &str = "SIGHUP";

#[derive(Clone, Copy)]
enum Word {
    Recreate,
    Restart,
    Signal,
    None,
}

/// `recreate`, `restart`, `signal`, `none`, or `{signal: NAME}` or `{exec: [WORD, …]}`.
pub fn on_change(node: Node, path: &str, cx: &mut Context<'_>) -> Option<Reaction> {
    if node.text().is_some() {
        let words =
            [("recreate", Word::Recreate), ("restart", Word::Restart), ("signal", Word::Signal), ("none", Word::None)];
        return Some(match cx.choice(&node, &words)? {
            Word::Recreate => Reaction::Recreate,
            Word::Restart => Reaction::Restart,
            Word::Signal => Reaction::Signal(USUAL_SIGNAL.to_owned()),
            Word::None => Reaction::None,
        });
    }
    let span = node.span;
    let mut fields = Fields::open(node, path, cx)?;
    let signal = fields.take("signal").and_then(|node| stop_signal(&node, cx));
    let exec = fields.list("exec", cx);
    fields.finish(cx);
    match (signal, exec.is_empty()) {
        (Some(signal), true) => Some(Reaction::Signal(signal)),
        (None, false) => Some(Reaction::Exec(exec)),
        _ => {
            cx.error_help("one of `signal` and `exec` is needed", span, "such as `{exec: [nginx, -s, reload]}`");
            None
        }
    }
}

/// `age` or `sops`, or `{with: …, keys: FILE}`: the file as one that is decrypted when it is used.
pub fn decrypt(node: Node, path: &str, file: PathBuf, cx: &mut Context<'_>) -> Option<FileSource> {
    let words = [("age", Encryption::Age), ("sops", Encryption::Sops)];
    if node.text().is_some() {
        let encryption = cx.choice(&node, &words)?;
        return Some(FileSource::Encrypted { path: file, encryption, keys: usual_keys(cx) });
    }
    let span = node.span;
    let mut fields = Fields::open(node, path, cx)?;
    let encryption = fields.choice("with", &words, cx);
    let keys = fields.file("keys", cx);
    fields.finish(cx);
    let Some(encryption) = encryption else {
        cx.error_help("`with` is missing", span, "it is `age` or `sops`");
        return None;
    };
    Some(FileSource::Encrypted { path: file, encryption, keys: keys.or_else(|| usual_keys(cx)) })
}

/// Where sops itself looks.
fn usual_keys(cx: &Context<'_>) -> Option<PathBuf> {
    let variable = |name: &str| cx.environment.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let of_user = || variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    variable("SOPS_AGE_KEY_FILE").or_else(|| Some(of_user()?.join("sops/age/keys.txt")))
}
