//! Compares two configurations field by field, as JSON trees: dotted path, old value, new value.
//!
//! Pure. Lists of things that have a `target` (mounts, files, devices) are compared by it, so that one more mount is one
//! change and not a new list.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::engine::{Capabilities, Change};
use crate::spec::reaction::Reaction;

use super::resource::{CHOSEN, Config, ContainerConfig, Kind, label};

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Dotted: `resources.memory`, `mounts./data.read_only`.
    pub path: String,
    /// `null`: was not there.
    pub old: Value,
    pub new: Value,
}

/// What differs between what a resource was made from and what is declared. Empty when nothing does.
pub fn diff(observed: &Config, desired: &Config) -> Vec<FieldChange> {
    if observed == desired || is_as_chosen(observed, desired) {
        return Vec::new();
    }
    let mut changes = Vec::new();
    compare("", &tree(observed), &tree(desired), &mut changes);
    changes.retain(|change| !is_derived(change));
    changes
}

/// The dearest of what these changes cost. `None` when there are none.
pub fn cost(kind: Kind, changes: &[FieldChange], capabilities: &Capabilities) -> Option<Change> {
    changes.iter().map(|change| (capabilities.change)(kind, &change.path)).max()
}

/// As [`cost`], of this configuration: it may say itself what changed content of its files costs.
pub fn cost_to(config: &Config, kind: Kind, changes: &[FieldChange], capabilities: &Capabilities) -> Option<Change> {
    changes.iter().map(|change| field_cost(config, kind, &change.path, capabilities.change)).max()
}

/// What the change of one field costs.
pub fn field_cost(config: &Config, kind: Kind, path: &str, change: fn(Kind, &str) -> Change) -> Change {
    let reaction = if let Config::Container(container) = config { container.reaction(path) } else { None };
    match reaction {
        Some(Reaction::Recreate) => Change::Replace,
        Some(reaction) if reaction.is_in_place() => Change::InPlace,
        _ => change(kind, path),
    }
}

/// As declared, but for what the engine has chosen.
fn is_as_chosen(observed: &Config, desired: &Config) -> bool {
    let (Config::Container(old), Config::Container(new)) = (observed, desired) else { return false };
    let fits = fits_choice(old.userns.as_deref(), new.userns.as_deref());
    fits && ContainerConfig { userns: new.userns.clone(), ..(**old).clone() } == **new
}

/// Nothing is said, or what the engine has chosen anyway.
fn fits_choice(old: Option<&str>, new: Option<&str>) -> bool {
    let chosen = old.and_then(|old| old.strip_prefix(CHOSEN));
    chosen.is_some_and(|chosen| new.is_none_or(|new| new == chosen))
}

/// Follows from other fields, or is not known yet: no change of its own.
fn is_derived(change: &FieldChange) -> bool {
    // Where the file lies says nothing of what it asks for.
    let derived = [label::CONFIG_HASH, label::CONFIG_FILES, label::WORKING_DIR];
    let hash = change.path.strip_prefix("labels.").is_some_and(|name| derived.contains(&name));
    let unknown = |value: &Value| value.as_str() == Some("");
    let chosen = change.path == "userns" && fits_choice(change.old.as_str(), change.new.as_str());
    let content = change.path == "image_digest" || is_mounted_digest(&change.path);
    hash || chosen || (content && (unknown(&change.old) || unknown(&change.new)))
}

/// Of an image that a container mounts.
pub fn is_mounted_digest(path: &str) -> bool {
    path.starts_with("mounts.") && path.ends_with(".digest")
}

fn tree(config: &Config) -> Value {
    serde_json::to_value(config).expect("a configuration has only string keys and finite numbers")
}

fn compare(path: &str, old: &Value, new: &Value, changes: &mut Vec<FieldChange>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let (old, new) = (old.get(key).unwrap_or(&Value::Null), new.get(key).unwrap_or(&Value::Null));
                compare(&join(path, key), old, new, changes);
            }
        }
        (Value::Array(olds), Value::Array(news)) => match (by_target(olds), by_target(news)) {
            (Some(old), Some(new)) => {
                let before = changes.len();
                compare_keyed(path, &old, &new, changes);
                if changes.len() == before {
                    changes.push(FieldChange { path: join(path, "order"), old: targets(olds), new: targets(news) });
                }
            }
            _ => changes.push(FieldChange { path: path.to_owned(), old: old.clone(), new: new.clone() }),
        },
        _ => changes.push(FieldChange { path: path.to_owned(), old: old.clone(), new: new.clone() }),
    }
}

fn compare_keyed(
    path: &str,
    old: &BTreeMap<&str, &Value>,
    new: &BTreeMap<&str, &Value>,
    changes: &mut Vec<FieldChange>,
) {
    for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        let side = |map: &BTreeMap<&str, &Value>| map.get(*key).map_or(Value::Null, |value| (*value).clone());
        compare(&join(path, key), &side(old), &side(new), changes);
    }
}

fn targets(list: &[Value]) -> Value {
    list.iter().map(|value| value["target"].clone()).collect()
}

/// The list as a map by `target`, where every element has one of its own.
fn by_target(list: &[Value]) -> Option<BTreeMap<&str, &Value>> {
    let map: BTreeMap<&str, &Value> =
        list.iter().filter_map(|value| Some((value.get("target")?.as_str()?, value))).collect();
    (map.len() == list.len()).then_some(map)
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reconcile::engine::linux_change;
    use crate::reconcile::resource::VolumeConfig;

    fn paths(old: Value, new: Value) -> Vec<String> {
        let mut changes = Vec::new();
        compare("", &old, &new, &mut changes);
        changes.iter().map(|change| format!("{}: {} -> {}", change.path, change.old, change.new)).collect()
    }

    /// A container is not replaced because a default has changed, nor because somebody wrote down what it has.
    #[test]
    fn what_the_engine_chose_is_no_change() {
        let of = |userns: Option<&str>| {
            Config::Container(Box::new(ContainerConfig {
                userns: userns.map(str::to_owned),
                ..ContainerConfig::default()
            }))
        };
        for (old, new, same) in [
            (Some("default: host"), None, true),
            (Some("default: private"), None, true),
            (Some("default: host"), Some("host"), true),
            (Some("default: private"), Some("private"), true),
            (Some("default: private"), Some("host"), false),
            (Some("default: host"), Some("private"), false),
            (Some("host"), None, false),
        ] {
            assert_eq!(diff(&of(old), &of(new)).is_empty(), same, "{old:?} {new:?}");
        }
    }

    #[test]
    fn differences_are_told_field_by_field() {
        let mount = |target: &str, ro: bool| json!({"target": target, "read_only": ro});
        let table = [
            (json!({"a": 1}), json!({"a": 1}), vec![]),
            (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": 3, "c": 2}}), vec!["a.b: 1 -> 3"]),
            (json!({"a": {}}), json!({"a": {"b": 1}}), vec!["a.b: null -> 1"]),
            (json!({"a": [1, 2]}), json!({"a": [2, 1]}), vec!["a: [1,2] -> [2,1]"]),
            (
                json!({"m": [mount("/x", true)]}),
                json!({"m": [mount("/x", false)]}),
                vec!["m./x.read_only: true -> false"],
            ),
            (
                json!({"m": [mount("/x", true), mount("/y", true)]}),
                json!({"m": [mount("/y", true), mount("/x", true)]}),
                vec![r#"m.order: ["/x","/y"] -> ["/y","/x"]"#],
            ),
            (
                json!({"m": [1]}),
                json!({"m": [mount("/x", true)]}),
                vec![r#"m: [1] -> [{"read_only":true,"target":"/x"}]"#],
            ),
        ];
        for (old, new, expected) in table {
            assert_eq!(paths(old, new), expected);
        }
    }

    #[test]
    fn the_dearest_field_tells_the_cost() {
        let capabilities = Capabilities {
            name: "test",
            platform: "linux/amd64".to_owned(),
            change: linux_change,
            renames: true,
            not_honoured: Vec::new(),
            unsupported: |_| Vec::new(),
        };
        let field = |path: &str| FieldChange { path: path.to_owned(), old: Value::Null, new: Value::Null };
        let table = [
            (Kind::Container, vec![], None),
            (Kind::Container, vec!["resources.memory", "labels.a"], Some(Change::InPlace)),
            (Kind::Container, vec!["resources.memory", "files./run/secrets/a.content_hash"], Some(Change::Restart)),
            (Kind::Container, vec!["bind_contents./etc/x", "environment.A"], Some(Change::Replace)),
            (Kind::Network, vec!["internal"], Some(Change::Replace)),
            (Kind::Volume, vec!["labels.a"], Some(Change::InPlace)),
            (Kind::Volume, vec!["driver"], Some(Change::LosesData)),
        ];
        for (kind, paths, expected) in table {
            let changes: Vec<FieldChange> = paths.into_iter().map(field).collect();
            assert_eq!(cost(kind, &changes, &capabilities), expected, "{changes:?}");
        }
    }

    #[test]
    fn what_follows_from_other_fields_is_no_change() {
        let container = |digest: &str, hash: &str| {
            let labels = [(label::CONFIG_HASH.to_owned(), hash.to_owned())].into();
            Config::Container(Box::new(ContainerConfig {
                image_digest: digest.to_owned(),
                labels,
                ..Default::default()
            }))
        };
        assert_eq!(diff(&container("sha256:a", "1"), &container("", "2")), vec![]);
        assert_eq!(diff(&container("sha256:a", "1"), &container("sha256:b", "1")).len(), 1);
        let volume = |name: &str| Config::Volume(VolumeConfig { name: name.to_owned(), ..Default::default() });
        assert_eq!(diff(&volume("a"), &volume("b"))[0].path, "name");
    }
}
