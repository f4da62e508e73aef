//! Figures of version 2, from Documentation/admin-guide/cgroup-v2.rst.

use serde_json::{Map, Value, json};

use super::{entry, keyed, list, number, of, pages, some};
use crate::runtime::cgroup::Cgroup;

pub fn figures(group: &Cgroup) -> Value {
    let cpus = |file: &str| json!(list(&group.text(file).unwrap_or_default()));
    json!({
        "cpu": processors(group),
        "cpuset": some([("cpus", cpus("cpuset.cpus.effective")), ("mems", cpus("cpuset.mems.effective"))]),
        "memory": memory(group),
        "pids": some([("current", json!(number(group, "pids.current"))), ("limit", json!(limit(group)))]),
        "blkio": disks(group),
        "hugetlb": pages(group, "current", None, |size| {
            of(&keyed(&group.text(&format!("hugetlb.{size}.events")).unwrap_or_default()), "max")
        }),
    })
}

/// How many processes there may be; none is said where that is not limited.
fn limit(group: &Cgroup) -> Option<u64> {
    Some(number(group, "pids.max")).filter(|limit| *limit != u64::MAX)
}

fn processors(group: &Cgroup) -> Value {
    let stat = keyed(&group.text("cpu.stat").unwrap_or_default());
    // The kernel counts microseconds; runc says nanoseconds.
    let time = |key: &str| of(&stat, key) * 1000;
    let mut usage = some([("total", json!(time("usage_usec")))]);
    (usage["kernel"], usage["user"]) = (json!(time("system_usec")), json!(time("user_usec")));
    let throttling = [
        ("periods", json!(of(&stat, "nr_periods"))),
        ("throttledPeriods", json!(of(&stat, "nr_throttled"))),
        ("throttledTime", json!(time("throttled_usec"))),
    ];
    with_pressure(json!({"usage": usage, "throttling": some(throttling)}), group, "cpu.pressure")
}

fn memory(group: &Cgroup) -> Value {
    let raw = keyed(&group.text("memory.stat").unwrap_or_default());
    let events = keyed(&group.text("memory.events").unwrap_or_default());
    let (limit, usage) = (number(group, "memory.max"), number(group, "memory.current"));
    let (swap_limit, swap) = (number(group, "memory.swap.max"), number(group, "memory.swap.current"));
    let entry = |limit: u64, usage: u64, most: u64, failures: u64| {
        let mut value = some([("usage", json!(usage)), ("max", json!(most))]);
        (value["limit"], value["failcnt"]) = (json!(limit), json!(failures));
        value
    };
    let mut value = some([("cache", json!(of(&raw, "file")))]);
    value["usage"] = entry(limit, usage, number(group, "memory.peak"), of(&events, "max"));
    // As version 1 counts: memory and swap together.
    value["swap"] = entry(swap_limit.saturating_add(limit), swap + usage, 0, 0);
    value["kernel"] = entry(0, of(&raw, "kernel"), 0, 0);
    value["kernelTCP"] = entry(0, of(&raw, "sock"), 0, 0);
    value["raw"] = Value::Object(raw);
    with_pressure(value, group, "memory.pressure")
}

fn disks(group: &Cgroup) -> Value {
    let text = group.text("io.stat").unwrap_or_default();
    let (bytes, operations) = (entries(&text, "bytes"), entries(&text, "ios"));
    let value = some([("ioServiceBytesRecursive", json!(bytes)), ("ioServicedRecursive", json!(operations))]);
    with_pressure(value, group, "io.pressure")
}

/// The words of each device that end so: `8:0 rbytes=1 wbytes=2 rios=3 …`
fn entries(text: &str, end: &str) -> Vec<Value> {
    let one = |line: &str| {
        let (device, words) = line.split_once(' ')?;
        let of = |word: &str| {
            let (name, value) = word.split_once('=')?;
            let operation = match name.strip_suffix(end)? {
                "r" => "Read",
                "w" => "Write",
                "d" => "Discard",
                _ => return None,
            };
            entry(device, Some(operation), value)
        };
        Some(words.split_whitespace().filter_map(of).collect::<Vec<_>>())
    };
    text.lines().filter_map(one).flatten().collect()
}

/// How much processes waited (Documentation/accounting/psi.rst); nothing where the kernel does not count that.
fn with_pressure(mut value: Value, group: &Cgroup, file: &str) -> Value {
    if let Some(pressure) = group.text(file).as_deref().and_then(pressure) {
        value["psi"] = pressure;
    }
    value
}

fn pressure(text: &str) -> Option<Value> {
    let mut value = Map::new();
    for line in text.lines() {
        let (kind, words) = line.split_once(' ')?;
        let mut figures = Map::new();
        for (name, figure) in words.split_whitespace().filter_map(|word| word.split_once('=')) {
            let figure =
                if name == "total" { json!(figure.parse::<u64>().ok()?) } else { json!(figure.parse::<f64>().ok()?) };
            figures.insert(name.to_owned(), figure);
        }
        value.insert(kind.to_owned(), Value::Object(figures));
    }
    (!value.is_empty()).then_some(Value::Object(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_operations() {
        let text = "8:0 rbytes=10 wbytes=0 rios=1 wios=2 dbytes=3 dios=4\n8:16 \n";
        assert_eq!(
            json!(entries(text, "bytes")),
            json!([{"major": 8, "op": "Read", "value": 10}, {"major": 8, "op": "Write"},
                   {"major": 8, "op": "Discard", "value": 3}])
        );
        assert_eq!(entries(text, "ios").len(), 3);
    }

    #[test]
    fn pressure_of_both_kinds() {
        let text = "some avg10=0.12 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        let found = pressure(text).unwrap();
        assert_eq!(found["some"], json!({"avg10": 0.12, "avg60": 0.0, "avg300": 0.0, "total": 7}));
        assert_eq!(found["full"]["total"], 3);
        assert_eq!(pressure(""), None);
    }
}
