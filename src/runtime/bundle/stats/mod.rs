//! What a container uses, in the words of runc's `events` (its package `types`). What is nothing is left out where runc
//! leaves it out; what this program does not manage (`intel_rdt`, `network_interfaces`) is not there at all.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::State;
use crate::runtime::cgroup::Cgroup;

mod v1;
mod v2;

/// One event of the kind `stats`.
pub fn statistics(state: &State) -> Event<'_> {
    let group = state.group();
    let data = if group.is_unified() { v2::figures(&group) } else { v1::figures(&group) };
    Event { kind: "stats", id: &state.id, data: Some(data) }
}

/// In runc's order: there are scripts that read it as text.
#[derive(Debug, Serialize)]
pub struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

impl Event<'_> {
    /// One line.
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("text and numbers are always written")
    }
}

/// One event of the kind `oom`: the kernel has killed a process for want of memory.
pub fn out_of_memory(state: &State) -> Event<'_> {
    Event { kind: "oom", id: &state.id, data: None }
}

/// An object without what is nothing.
fn some(pairs: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let is_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Array(all) => all.is_empty(),
        _ => false,
    };
    let there = pairs.into_iter().filter(|(_, value)| !is_nothing(value));
    Value::Object(there.map(|(name, value)| (name.to_owned(), value)).collect())
}

/// What a disk did of one operation; `device` is its `major:minor`.
fn entry(device: &str, operation: Option<&str>, value: &str) -> Option<Value> {
    let (major, minor) = device.split_once(':')?;
    let (major, minor): (u64, u64) = (major.parse().ok()?, minor.parse().ok()?);
    let value: u64 = value.parse().ok()?;
    Some(some([("major", json!(major)), ("minor", json!(minor)), ("op", json!(operation)), ("value", json!(value))]))
}

/// The number in a file; 0 where there is none, the largest where it says `max`.
fn number(group: &Cgroup, file: &str) -> u64 {
    let text = group.text(file).unwrap_or_default();
    if text.trim() == "max" { u64::MAX } else { text.trim().parse().unwrap_or(0) }
}

/// Lines of `key number`.
fn keyed(text: &str) -> Map<String, Value> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.filter_map(|(key, value)| Some((key.to_owned(), json!(value.trim().parse::<u64>().ok()?)))).collect()
}

fn of(map: &Map<String, Value>, key: &str) -> u64 {
    map.get(key).and_then(Value::as_u64).unwrap_or(0)
}

/// `0-3,5` one by one.
fn list(text: &str) -> Vec<u64> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u64>().ok()?..=last.parse::<u64>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// Huge pages by size: the files of the group that have these names after it.
fn pages(group: &Cgroup, used: &str, most: Option<&str>, failures: impl Fn(&str) -> u64) -> Value {
    let names = group.files("hugetlb");
    let sizes = names.iter().filter_map(|name| name.strip_prefix("hugetlb.")?.strip_suffix(used)?.strip_suffix('.'));
    // Those that are only reserved are another figure.
    let one = |size: &str| {
        let figure = |name: &str| number(group, &format!("hugetlb.{size}.{name}"));
        let mut value = some([("usage", json!(figure(used))), ("max", json!(most.map(&figure)))]);
        value["failcnt"] = json!(failures(size));
        (size.to_owned(), value)
    };
    Value::Object(sizes.filter(|size| !size.contains('.')).map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_counted_out() {
        assert_eq!(list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(list("\n"), [0_u64; 0]);
    }

    #[test]
    fn what_is_nothing_is_left_out() {
        assert_eq!(some([("a", json!(0)), ("b", json!([])), ("c", Value::Null), ("d", json!(1))]), json!({"d": 1}));
    }
}
