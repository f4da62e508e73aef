//! Files of SOPS whose data key is encrypted for age recipients: YAML, JSON, `.env`, and whole files of anything.
//!
//! Each value is encrypted for itself with AES-256-GCM, its path being authenticated with it; a code over all values in
//! their order, encrypted likewise, tells that none was taken, moved or added. Comments count among them, and are not kept.

use std::path::Path;

use aes_gcm::aead::consts::U32;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::aes::Aes256;
use aes_gcm::{AesGcm, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256, Sha512};

use super::tree::{self, Node, Scalar};
use super::{Wrong, age};

const METADATA: &str = "sops";
const DAMAGED: Wrong =
    Wrong::Format("one of its values is damaged, or stands at another place than it was encrypted for");
const NONE: Wrong = Wrong::Format("it is no file of SOPS: it has no `sops` section with age recipients");

/// What the file holds, in its own format: which one that is its name says.
pub fn open(sealed: &[u8], path: &Path, identities: &[age::Identity]) -> Result<Vec<u8>, Wrong> {
    let text = std::str::from_utf8(sealed).map_err(|_| Wrong::Format("it is no text, as files of SOPS are"))?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_env = name.ends_with(".env") || name == ".env" || name.contains(".env.");
    if is_env {
        let (tree, metadata) = read_env(text)?;
        return Ok(write_env(&Document { tree, metadata }.decrypt(identities)?));
    }
    let tree = tree::parse(text).ok_or(Wrong::Format("it is neither YAML nor JSON"))?;
    let metadata = tree.get(METADATA).cloned().ok_or(NONE)?;
    let Node::Map(entries) = tree else { return Err(NONE) };
    let tree = Node::Map(entries.into_iter().filter(|(key, _)| key != METADATA).collect());
    let tree = Document { tree, metadata }.decrypt(identities)?;
    let is_yaml = name.ends_with(".yaml") || name.ends_with(".yml");
    let is_json = name.ends_with(".json");
    match (&tree, tree.get("data").and_then(Node::text)) {
        // A whole file is the one value of a JSON document.
        (Node::Map(entries), Some(data)) if entries.len() == 1 && !is_yaml && !is_json => Ok(data.as_bytes().to_vec()),
        _ if is_json => Ok((tree.to_json() + "\n").into_bytes()),
        _ => Ok(tree.to_yaml().into_bytes()),
    }
}

struct Document {
    tree: Node,
    metadata: Node,
}

impl Document {
    fn decrypt(mut self, identities: &[age::Identity]) -> Result<Node, Wrong> {
        let key = self.data_key(identities)?;
        let only_encrypted = self.metadata.get("mac_only_encrypted").and_then(Node::text) == Some("true");
        let mut code = Sha512::new();
        if only_encrypted {
            code.update(Sha256::digest(METADATA));
        }
        let mut walk = Walk { key: &key, code, only_encrypted };
        walk.node(&mut self.tree, &mut Vec::new())?;
        let code: String = walk.code.finalize().iter().map(|byte| format!("{byte:02X}")).collect();
        let word = |name: &str| self.metadata.get(name).and_then(Node::text);
        let (written, modified) = word("mac").zip(word("lastmodified")).ok_or(Wrong::Format("it has no `mac`"))?;
        let written = Encrypted::parse(written).and_then(|one| one.decrypt(&key, modified));
        match written.is_some_and(|(bytes, _)| bytes == code.as_bytes()) {
            true => Ok(self.tree.bare()),
            false => {
                Err(Wrong::Format("its `mac` does not fit its values: it was changed by something else than SOPS"))
            }
        }
    }

    /// Any one recipient will do.
    fn data_key(&self, identities: &[age::Identity]) -> Result<Vec<u8>, Wrong> {
        if self.metadata.get("shamir_threshold").is_some() {
            return Err(Wrong::Format("its key is divided among several groups, which is not supported"));
        }
        let Some(Node::List(recipients)) = self.metadata.get("age") else { return Err(NONE) };
        let mut others = Vec::new();
        for recipient in recipients {
            let Some(sealed) = recipient.get("enc").and_then(Node::text) else { return Err(NONE) };
            match age::open(sealed.as_bytes(), identities) {
                Ok(key) => return Ok(key),
                Err(Wrong::NotForUs(_)) => others.extend(recipient.get("recipient").and_then(Node::text)),
                Err(other) => return Err(other),
            }
        }
        Err(Wrong::NotForUs(others.into_iter().map(str::to_owned).collect()))
    }
}

/// Decrypts in place, value after value.
struct Walk<'a> {
    key: &'a [u8],
    code: Sha512,
    only_encrypted: bool,
}

impl Walk<'_> {
    /// Places in a list are not part of the path.
    fn node(&mut self, node: &mut Node, path: &mut Vec<String>) -> Result<(), Wrong> {
        match node {
            Node::Map(entries) => {
                for (key, node) in entries {
                    if matches!(node, Node::Comment(_)) {
                        self.node(node, path)?;
                        continue;
                    }
                    path.push(key.clone());
                    self.node(node, path)?;
                    path.pop();
                }
                Ok(())
            }
            Node::List(items) => items.iter_mut().try_for_each(|node| self.node(node, path)),
            Node::Scalar(scalar) => self.scalar(scalar, path),
            Node::Comment(text) => {
                let mut text = Scalar::Text(text.clone());
                self.scalar(&mut text, path)
            }
        }
    }

    fn scalar(&mut self, scalar: &mut Scalar, path: &[String]) -> Result<(), Wrong> {
        let (Scalar::Text(text) | Scalar::Plain(text)) = &*scalar;
        let Some(encrypted) = Encrypted::parse(text) else {
            if !self.only_encrypted {
                self.code.update(plain_bytes(scalar));
            }
            return Ok(());
        };
        let place = path.join(":") + ":";
        let (bytes, kind) = encrypted.decrypt(self.key, &place).ok_or(DAMAGED)?;
        self.code.update(&bytes);
        let text = String::from_utf8(bytes).map_err(|_| Wrong::Format("one of its values is no text"))?;
        *scalar = match kind.as_str() {
            "int" | "float" => Scalar::Plain(text),
            "bool" => Scalar::Plain(text.to_ascii_lowercase()),
            _ => Scalar::Text(text),
        };
        Ok(())
    }
}

/// What counts of a value that is not encrypted.
fn plain_bytes(scalar: &Scalar) -> Vec<u8> {
    match scalar {
        Scalar::Text(text) => text.clone().into_bytes(),
        Scalar::Plain(word) => match word.as_str() {
            "null" => Vec::new(),
            "true" => b"True".to_vec(),
            "false" => b"False".to_vec(),
            number => match (number.parse::<i64>(), number.parse::<f64>()) {
                (Ok(whole), _) => whole.to_string().into_bytes(),
                (_, Ok(number)) => number.to_string().into_bytes(),
                _ => number.as_bytes().to_vec(),
            },
        },
    }
}

/// `ENC[AES256_GCM,data:…,iv:…,tag:…,type:…]`.
struct Encrypted {
    data: Vec<u8>,
    nonce: [u8; 32],
    kind: String,
}

impl Encrypted {
    fn parse(text: &str) -> Option<Self> {
        let inner = text.strip_prefix("ENC[AES256_GCM,")?.strip_suffix(']')?;
        let part = |name: &str| inner.split(',').find_map(|part| part.strip_prefix(name));
        let bytes = |name: &str| STANDARD.decode(part(name)?).ok();
        let data = [bytes("data:")?, bytes("tag:")?].concat();
        Some(Self { data, nonce: bytes("iv:")?.try_into().ok()?, kind: part("type:")?.to_owned() })
    }

    fn decrypt(self, key: &[u8], place: &str) -> Option<(Vec<u8>, String)> {
        let cipher = AesGcm::<Aes256, U32>::new_from_slice(key).ok()?;
        let payload = Payload { msg: &self.data, aad: place.as_bytes() };
        Some((cipher.decrypt(&Nonce::<U32>::from(self.nonce), payload).ok()?, self.kind))
    }
}

/// `NAME=VALUE` lines; what begins with `sops_` is the metadata, flattened.
fn read_env(text: &str) -> Result<(Node, Node), Wrong> {
    let (mut own, mut about, mut recipients) = (Vec::new(), Vec::new(), Vec::<Vec<(String, Node)>>::new());
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if let Some(comment) = line.strip_prefix('#') {
            own.push((String::new(), Node::Comment(comment.to_owned())));
            continue;
        }
        let (name, value) = line.split_once('=').ok_or(Wrong::Format("one of its lines is no NAME=VALUE"))?;
        let node = Node::Scalar(Scalar::Text(value.replace("\\n", "\n")));
        let Some(rest) = name.strip_prefix("sops_") else {
            own.push((name.to_owned(), node));
            continue;
        };
        match rest.strip_prefix("age__list_").and_then(|rest| rest.split_once("__map_")) {
            Some((index, key)) => {
                let index: usize = index.parse().ok().filter(|index| *index < 1000).ok_or(NONE)?;
                recipients.resize(recipients.len().max(index + 1), Vec::new());
                recipients[index].push((key.to_owned(), node));
            }
            None => about.push((rest.to_owned(), node)),
        }
    }
    about.push(("age".to_owned(), Node::List(recipients.into_iter().map(Node::Map).collect())));
    Ok((Node::Map(own), Node::Map(about)))
}

fn write_env(tree: &Node) -> Vec<u8> {
    let Node::Map(entries) = tree else { return Vec::new() };
    let line =
        |(name, node): &(String, Node)| format!("{name}={}\n", node.text().unwrap_or_default().replace('\n', "\\n"));
    entries.iter().map(line).collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::age::tests::KEY;
    use super::*;

    /// Written by another program than this one, with the values in SOPS' order and form.
    const SAMPLES: [(&str, &str, &str); 4] = [
        (
            "a.yaml",
            include_str!("testdata/sops.yaml"),
            "db:\n  user: \"shop\"\n  password: \"hush\\n\\\"quoted\\\" é\"\n  port: 5432\n  ratio: 0.5\n  tls: true\nhosts:\n  - \"a\"\n  - \"b\"\nnote_unencrypted: \"plain\"\n",
        ),
        ("a.json", include_str!("testdata/sops.json"), "{\"z\": \"last\", \"a\": [1, false]}\n"),
        ("a.bin", include_str!("testdata/sops.bin"), "whole\nfile"),
        ("a.env", include_str!("testdata/sops.env"), "TOKEN=hush\nUSER=shop\n"),
    ];

    fn opened(name: &str, text: &str) -> Result<String, Wrong> {
        open(text.as_bytes(), Path::new(name), &age::identities(KEY)).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn every_format_is_read() {
        for (name, text, expected) in SAMPLES {
            assert_eq!(opened(name, text).as_deref(), Ok(expected), "{name}");
        }
    }

    #[test]
    fn what_was_changed_is_refused() {
        let [(_, yaml, _), (_, json, _), ..] = SAMPLES;
        let without = |part: &str| {
            let lines = yaml.lines().filter(|line| !line.contains(part));
            lines.map(|line| format!("{line}\n")).collect::<String>()
        };
        assert_ne!(without("user:"), yaml);
        for changed in [without("user:"), without("mac:"), without("type:comment"), yaml.replace(": plain", ": plane")]
        {
            let said = opened("a.yaml", &changed);
            assert!(matches!(said, Err(Wrong::Format(_))), "{said:?}");
        }
        // A value at another place.
        assert_eq!(opened("a.yaml", &yaml.replace("  user:", "  owner:")), Err(DAMAGED));
        assert_eq!(opened("a.yaml", "a: b\n"), Err(NONE));
        assert_eq!(opened("a.json", &json.replace("last", "lost")).is_ok(), !json.contains("last"));
        let others = open(yaml.as_bytes(), Path::new("a.yaml"), &age::identities(super::super::age::tests::OTHER));
        assert!(matches!(others, Err(Wrong::NotForUs(recipients)) if recipients[0].starts_with("age1")));
    }
}
