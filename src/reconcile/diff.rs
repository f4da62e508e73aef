//! Compares two configurations field by field, as JSON trees: dotted path, old value, new value.
//!
//! Pure. Lists of things that have a `target` (mounts, files, devices) are compared by it, so that one more mount is one
//! change and not a new list.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::engine::{Capabilities, Change};
use super::resource::{Config, Kind, label};

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
    if observed == desired {
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

/// Follows from other fields, or is not known yet: no change of its own.
fn is_derived(change: &FieldChange) -> bool {
    let hash = change.path.strip_prefix("labels.").is_some_and(|name| name == label::CONFIG_HASH);
    let unknown = |value: &Value| value.as_str() == Some("");
    hash || (change.path == "image_digest" && (unknown(&change.old) || unknown(&change.new)))
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
            (Some(old), Some(new)) => compare_keyed(path, &old, &new, changes),
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
    let before = changes.len();
    for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        let side = |map: &BTreeMap<&str, &Value>| map.get(*key).map_or(Value::Null, |value| (*value).clone());
        compare(&join(path, key), &side(old), &side(new), changes);
    }
    if changes.len() == before {
        let order = |map: &BTreeMap<&str, &Value>| Value::from(map.keys().copied().collect::<Vec<_>>());
        changes.push(FieldChange { path: join(path, "order"), old: order(old), new: order(new) });
    }
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
