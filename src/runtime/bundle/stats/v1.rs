//! Figures of version 1, from Documentation/admin-guide/cgroup-v1/.

use serde_json::{Value, json};

use super::{entry, keyed, list, number, of, pages, some};
use crate::runtime::cgroup::Cgroup;

/// Nanoseconds of a tick: Linux shows a hundred of them a second, whatever it counts.
const TICK_NS: u64 = 10_000_000;

pub fn figures(group: &Cgroup) -> Value {
    json!({
        "cpu": processors(group),
        "cpuset": sets(group),
        "memory": memory(group),
        "pids": some([("current", json!(number(group, "pids.current"))), ("limit", json!(limit(group)))]),
        "blkio": disks(group),
        "hugetlb": pages(group, "usage_in_bytes", Some("max_usage_in_bytes"), |size| {
            number(group, &format!("hugetlb.{size}.failcnt"))
        }),
    })
}

/// How many processes there may be; none is said where that is not limited.
fn limit(group: &Cgroup) -> Option<u64> {
    Some(number(group, "pids.max")).filter(|limit| *limit != u64::MAX)
}

fn processors(group: &Cgroup) -> Value {
    let text = |file: &str| group.text(file).unwrap_or_default();
    let each = |file: &str, column: usize| {
        let lines = text(file);
        let numbers = lines.lines().filter_map(|line| line.split_whitespace().nth(column)?.parse::<u64>().ok());
        numbers.collect::<Vec<_>>()
    };
    let every: Vec<u64> = text("cpuacct.usage_percpu").split_whitespace().filter_map(|one| one.parse().ok()).collect();
    let time = keyed(&text("cpuacct.stat"));
    let mut usage = some([
        ("total", json!(number(group, "cpuacct.usage"))),
        ("percpu", json!(every)),
        // `cpu user system`, below a line of these names.
        ("percpu_kernel", json!(each("cpuacct.usage_all", 2))),
        ("percpu_user", json!(each("cpuacct.usage_all", 1))),
    ]);
    (usage["kernel"], usage["user"]) = (json!(of(&time, "system") * TICK_NS), json!(of(&time, "user") * TICK_NS));
    let stat = keyed(&text("cpu.stat"));
    let throttling = [
        ("periods", json!(of(&stat, "nr_periods"))),
        ("throttledPeriods", json!(of(&stat, "nr_throttled"))),
        ("throttledTime", json!(of(&stat, "throttled_time"))),
    ];
    json!({"usage": usage, "throttling": some(throttling)})
}

fn sets(group: &Cgroup) -> Value {
    let listed = |file: &str| json!(list(&group.text(file).unwrap_or_default()));
    let mut value = some([("cpus", listed("cpuset.cpus")), ("mems", listed("cpuset.mems"))]);
    for name in [
        "cpu_exclusive",
        "mem_hardwall",
        "mem_exclusive",
        "memory_migrate",
        "memory_spread_page",
        "memory_spread_slab",
        "memory_pressure",
        "sched_load_balance",
    ] {
        value[name] = json!(number(group, &format!("cpuset.{name}")));
    }
    let level = group.text("cpuset.sched_relax_domain_level").and_then(|text| text.trim().parse::<i64>().ok());
    value["sched_relax_domain_level"] = json!(level.unwrap_or(0));
    value
}

fn memory(group: &Cgroup) -> Value {
    let raw = keyed(&group.text("memory.stat").unwrap_or_default());
    let mut value = some([("cache", json!(of(&raw, "cache")))]);
    for (name, kind) in [("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernelTCP", "kmem.tcp.")] {
        let figure = |file: &str| json!(number(group, &format!("memory.{kind}{file}")));
        let mut entry = some([("usage", figure("usage_in_bytes")), ("max", figure("max_usage_in_bytes"))]);
        (entry["limit"], entry["failcnt"]) = (figure("limit_in_bytes"), figure("failcnt"));
        value[name] = entry;
    }
    value["raw"] = Value::Object(raw);
    value
}

/// Of the first of the kernel's schedulers that has counted anything: BFQ, or what throttles.
fn disks(group: &Cgroup) -> Value {
    let first = |files: [&str; 2]| {
        let all = files.iter().filter_map(|file| group.text(file)).map(|text| entries(&text));
        json!({ all }.find(|entries| !entries.is_empty()).unwrap_or_default())
    };
    let bfq = |name: &str| json!(group.text(&format!("blkio.bfq.{name}_recursive")).map(|text| entries(&text)));
    let throttle =
        |name: &str| first([&format!("blkio.bfq.{name}_recursive"), &format!("blkio.throttle.{name}_recursive")]);
    some([
        ("ioServiceBytesRecursive", throttle("io_service_bytes")),
        ("ioServicedRecursive", throttle("io_serviced")),
        ("ioQueueRecursive", bfq("io_queued")),
        ("ioServiceTimeRecursive", bfq("io_service_time")),
        ("ioWaitTimeRecursive", bfq("io_wait_time")),
        ("ioMergedRecursive", bfq("io_merged")),
        ("ioTimeRecursive", bfq("time")),
        ("sectorsRecursive", bfq("sectors")),
    ])
}

/// Lines of `8:0 Read 7`, some without the operation; the sums at the end have no device.
fn entries(text: &str) -> Vec<Value> {
    let one = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [device, operation, value] => entry(device, Some(operation), value),
        [device, value] => entry(device, None, value),
        _ => None,
    };
    text.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_devices() {
        assert_eq!(
            json!(entries("8:0 Read 7\n8:0 Total 7\n8:16 5\nTotal 12\n")),
            json!([{"major": 8, "op": "Read", "value": 7}, {"major": 8, "op": "Total", "value": 7},
                   {"major": 8, "minor": 16, "value": 5}])
        );
    }
}
