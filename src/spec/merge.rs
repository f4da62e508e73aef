//! One tree over another by Compose's rules: mappings merge, lists append, scalars replace, with the exceptions below.
//! Also used for `extends`. Works on trees in native words (`containers:`).

use super::diagnostics::Span;
use super::tree::{Entry, MergeTag, Node, Value};

/// What a path means for merging.
enum Rule {
    /// Mappings merge, lists append, scalars replace.
    Natural,
    /// The later value replaces the earlier one.
    Replace,
    /// A list of `key=value` is the same thing as a mapping.
    Pairs,
    /// A list of names is a mapping of names to nothing.
    Names,
    /// One string is a list of one; equal items appear once.
    Set,
    /// A mapping of names to addresses is the list of `name=address`; a name may have several.
    Hosts,
    /// Items with the same identity are merged or replaced; which part of an item it is, is the function's matter.
    Keyed(fn(&Node) -> Option<String>),
    /// As [`Rule::Keyed`], but items with the same identity merge.
    Merged(fn(&Node) -> Option<String>),
    /// A mapping that another one of another `driver` replaces.
    Driver,
    /// A string is the mapping with that string under this key.
    Short(&'static str),
}

/// The rule for a path below a container.
fn container_rule(path: &[&str]) -> Rule {
    match path {
        ["command" | "entrypoint"] | ["healthcheck", "test"] => Rule::Replace,
        ["environment" | "labels" | "annotations" | "sysctls" | "storage_opt"] => Rule::Pairs,
        ["build", "args" | "labels" | "additional_contexts"] | ["deploy", "labels"] => Rule::Pairs,
        ["extra_hosts"] | ["build", "extra_hosts"] => Rule::Hosts,
        ["build"] => Rule::Short("context"),
        ["logging"] => Rule::Driver,
        ["depends_on" | "networks"] => Rule::Names,
        ["cap_add" | "cap_drop" | "dns" | "dns_opt" | "dns_search" | "expose" | "group_add" | "security_opt"] => {
            Rule::Set
        }
        ["profiles" | "tmpfs" | "env_file" | "label_file" | "external_links" | "links" | "volumes_from"] => Rule::Set,
        ["build", "tags" | "platforms" | "cache_from" | "cache_to"] | ["device_cgroup_rules"] => Rule::Set,
        ["ports"] => Rule::Keyed(port_identity),
        ["volumes" | "devices"] => Rule::Keyed(mount_target),
        ["configs" | "secrets"] | ["build", "secrets"] => Rule::Keyed(grant_target),
        _ => Rule::Natural,
    }
}

fn rule(path: &[&str]) -> Rule {
    match path {
        ["containers", _, rest @ ..] => container_rule(rest),
        ["networks" | "volumes" | "configs" | "secrets", _, "labels"] => Rule::Pairs,
        ["networks", _, "ipam", "config"] => Rule::Merged(subnet),
        _ => Rule::Natural,
    }
}

/// `over` merged over `base`, both whole documents.
pub fn merge(base: Node, over: Node) -> Node {
    merge_at(&mut Vec::new(), base, over)
}

/// `over` merged over `base`, both containers.
pub fn merge_container(base: Node, over: Node) -> Node {
    merge_at(&mut vec!["containers", ""], base, over)
}

fn merge_at(path: &mut Vec<&str>, base: Node, over: Node) -> Node {
    let rule = rule(path);
    if over.tag.is_some() || base.tag == Some(MergeTag::Reset) {
        return over;
    }
    let driver = |node: &Node| node.get("driver").and_then(Node::text).map(str::to_owned);
    let replaces = match rule {
        Rule::Replace => true,
        Rule::Driver => driver(&base).zip(driver(&over)).is_some_and(|(base, over)| base != over),
        _ => false,
    };
    if replaces {
        return over;
    }
    if over.is_null() {
        return base;
    }
    let span = over.span;
    let (base, over) = (canonical(&rule, base), canonical(&rule, over));
    let value = match (base.value, over.value) {
        (Value::Mapping(base), Value::Mapping(over)) => Value::Mapping(merge_entries(path, base, over)),
        (Value::Sequence(base), Value::Sequence(over)) => Value::Sequence(merge_items(&rule, base, over)),
        (_, over) => over,
    };
    Node::new(span, value)
}

fn merge_entries(path: &[&str], mut base: Vec<Entry>, over: Vec<Entry>) -> Vec<Entry> {
    for entry in over {
        match base.iter().position(|own| own.key == entry.key) {
            None => base.push(entry),
            Some(at) => {
                let own = std::mem::replace(&mut base[at].value, Node::null(entry.key_span));
                let mut path = path.to_vec();
                path.push(&entry.key);
                base[at].value = merge_at(&mut path, own, entry.value);
                base[at].key_span = entry.key_span;
            }
        }
    }
    base
}

fn merge_items(rule: &Rule, mut base: Vec<Node>, over: Vec<Node>) -> Vec<Node> {
    for item in over {
        let same = match rule {
            Rule::Set | Rule::Hosts => base.iter().position(|own| own.text().is_some() && own.text() == item.text()),
            Rule::Keyed(identity) | Rule::Merged(identity) => {
                identity(&item).and_then(|key| base.iter().position(|own| identity(own) == Some(key.clone())))
            }
            _ => None,
        };
        match same {
            Some(at) if matches!(rule, Rule::Merged(_)) => {
                let own = std::mem::replace(&mut base[at], Node::null(item.span));
                base[at] = merge_at(&mut Vec::new(), own, item);
            }
            Some(at) => base[at] = item,
            None => base.push(item),
        }
    }
    base
}

/// Brings short and long forms to the form that the rule works on. What does not fit is left for the reader to report.
fn canonical(rule: &Rule, node: Node) -> Node {
    let Node { span, value, tag } = node;
    let value = match (rule, value) {
        (Rule::Pairs, Value::Sequence(items)) => pairs(items),
        (Rule::Names, Value::Sequence(items)) => names(items),
        (Rule::Set, Value::Scalar { text, quoted }) => {
            Value::Sequence(vec![Node::new(span, Value::Scalar { text, quoted })])
        }
        (Rule::Hosts, Value::Mapping(entries)) => Value::Sequence(hosts(entries)),
        (Rule::Short(key), Value::Scalar { text, quoted }) => {
            let value = Node::new(span, Value::Scalar { text, quoted });
            Value::Mapping(vec![Entry { key: (*key).to_owned(), key_span: span, value }])
        }
        (_, value) => value,
    };
    Node { span, value, tag }
}

fn pairs(items: Vec<Node>) -> Value {
    if !items.iter().all(|item| item.text().is_some()) {
        return Value::Sequence(items);
    }
    let mut entries: Vec<Entry> = Vec::new();
    for item in items {
        let Some(text) = item.text() else { continue };
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Node::scalar(item.span, value)),
            None => (text.to_owned(), Node::null(item.span)),
        };
        entries.retain(|entry| entry.key != key);
        entries.push(Entry { key, key_span: item.span, value });
    }
    Value::Mapping(entries)
}

fn names(items: Vec<Node>) -> Value {
    if !items.iter().all(|item| item.text().is_some()) {
        return Value::Sequence(items);
    }
    let mut entries: Vec<Entry> = Vec::new();
    for item in items {
        let Some(key) = item.text().map(str::to_owned) else { continue };
        if !entries.iter().any(|entry| entry.key == key) {
            entries.push(Entry { key, key_span: item.span, value: Node::null(item.span) });
        }
    }
    Value::Mapping(entries)
}

fn hosts(entries: Vec<Entry>) -> Vec<Node> {
    let mut items = Vec::new();
    for entry in entries {
        let addresses = match entry.value.value {
            Value::Sequence(addresses) => addresses,
            _ => vec![entry.value],
        };
        let key = &entry.key;
        let line = |address: Node| Node::scalar(address.span, format!("{key}={}", address.text().unwrap_or_default()));
        items.extend(addresses.into_iter().map(line));
    }
    items
}

/// Host address, published and container port, protocol: the whole of a port's short form.
fn port_identity(node: &Node) -> Option<String> {
    if let Some(text) = node.text() {
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        return Some(format!("{ports}/{protocol}"));
    }
    let part = |key: &str| node.get(key).and_then(Node::text).unwrap_or_default().to_owned();
    let mut text = part("target");
    for outer in [part("published"), part("host_ip")] {
        if !outer.is_empty() {
            text = format!("{outer}:{text}");
        }
    }
    let protocol = Some(part("protocol")).filter(|word| !word.is_empty()).unwrap_or("tcp".to_owned());
    Some(format!("{text}/{protocol}"))
}

fn subnet(node: &Node) -> Option<String> {
    node.get("subnet").and_then(Node::text).map(str::to_owned)
}

fn mount_target(node: &Node) -> Option<String> {
    let target = match node.text() {
        Some(text) => {
            let parts: Vec<&str> = text.split(':').collect();
            parts.get(1).or(parts.first()).copied().unwrap_or_default().to_owned()
        }
        None => node.get("target").and_then(Node::text)?.to_owned(),
    };
    let trimmed = target.trim_end_matches('/');
    Some(if trimmed.is_empty() { target } else { trimmed.to_owned() })
}

fn grant_target(node: &Node) -> Option<String> {
    node.text()
        .or_else(|| node.get("target").and_then(Node::text))
        .or_else(|| node.get("source").and_then(Node::text))
        .map(str::to_owned)
}

/// Removes what `!reset` marks and brings every merged section to its canonical form, also in a file that is alone.
pub fn settle(node: Node) -> Node {
    settle_at(&[], node)
}

fn settle_at(path: &[&str], node: Node) -> Node {
    let Node { span, value, .. } = canonical(&rule(path), node);
    let value = match value {
        Value::Mapping(entries) => Value::Mapping(settle_entries(path, entries)),
        Value::Sequence(items) => {
            Value::Sequence(items.into_iter().filter(|item| item.tag != Some(MergeTag::Reset)).collect())
        }
        other => other,
    };
    Node::new(span, value)
}

fn settle_entries(path: &[&str], entries: Vec<Entry>) -> Vec<Entry> {
    let kept = entries.into_iter().filter(|entry| entry.value.tag != Some(MergeTag::Reset));
    kept.map(|entry| {
        let mut inner = path.to_vec();
        inner.push(&entry.key);
        let value = settle_at(&inner, entry.value);
        Entry { key: entry.key, key_span: entry.key_span, value }
    })
    .collect()
}

/// Where every value stands, by its path.
pub fn paths(node: &Node, path: &str, found: &mut Vec<(String, Span)>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match &node.value {
        Value::Mapping(entries) => {
            for entry in entries {
                let inner = below(&entry.key);
                found.push((
                    inner.clone(),
                    if entry.value.entries().is_some() { entry.key_span } else { entry.value.span },
                ));
                paths(&entry.value, &inner, found);
            }
        }
        Value::Sequence(items) => {
            for (index, item) in items.iter().enumerate() {
                let inner = below(&index.to_string());
                found.push((inner.clone(), item.span));
                paths(item, &inner, found);
            }
        }
        Value::Null | Value::Scalar { .. } => {}
    }
}
