//! Limits as the files and values of each version of control groups: pure, but for what a group has already, which
//! `Group` tells. The files are in the order in which the kernel takes them.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::disks;

pub type Files = Vec<(String, String)>;
/// What a group has in a file; `None` where it has no such file.
pub type Group<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Version 1's file for memory and swap together; absent where the kernel does not count swap.
pub const MEMORY_AND_SWAP: &str = "memory.memsw.limit_in_bytes";

/// What the kernel has for a file when nobody has limited anything; `None`: what the group above has.
pub fn unset(file: &str) -> Option<&'static str> {
    match file {
        "memory.limit_in_bytes" | MEMORY_AND_SWAP | "memory.soft_limit_in_bytes" | "cpu.cfs_quota_us" => Some("-1"),
        "cpu.shares" => Some("1024"),
        "cpu.cfs_period_us" => Some("100000"),
        "memory.oom_control" | "memory.low" => Some("0"),
        "memory.max" | "memory.swap.max" | "pids.max" => Some("max"),
        "cpu.weight" => Some("100"),
        "cpu.max" => Some("max 100000"),
        _ => None,
    }
}

fn unlimited(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn file(name: &str, value: impl ToString) -> (String, String) {
    (name.to_owned(), value.to_string())
}

/// Files and values in version 2's words.
pub fn v2(resources: &LinuxResources, group: Group<'_>) -> Files {
    let mut files = Files::new();
    files.extend(resources.memory().iter().flat_map(|memory| memory_v2(memory, group)));
    files.extend(resources.cpu().iter().flat_map(|cpu| cpu_v2(cpu, group)));
    files.extend(resources.pids().map(|pids| file("pids.max", unlimited(pids.limit()))));
    files.extend(resources.block_io().iter().flat_map(|io| disks::v2(io, group)));
    files.extend(pages(resources, ["max", "rsvd.max"], group));
    files.extend(adapters(resources));
    files.extend(as_written(resources));
    files
}

/// Version 2 counts swap alone; the specification counts memory and swap together.
fn memory_v2(memory: &LinuxMemory, group: Group<'_>) -> Files {
    let present = || group("memory.max").and_then(|text| text.trim().parse().ok());
    let swap = match (memory.swap(), memory.limit()) {
        (Some(swap), _) if swap < 0 => Some(-1),
        (Some(both), limit) => limit.or_else(present).filter(|limit| *limit >= 0).map(|limit| (both - limit).max(0)),
        (None, Some(limit)) if limit < 0 => Some(-1),
        (None, _) => None,
    };
    let mut files = Files::new();
    files.extend(swap.map(|swap| file("memory.swap.max", unlimited(swap))));
    files.extend(memory.limit().map(|limit| file("memory.max", unlimited(limit))));
    files.extend(memory.reservation().map(|reservation| file("memory.low", unlimited(reservation))));
    // A kernel that was told not to count swap has no file for it, and nothing to limit.
    files.retain(|(name, value)| name != "memory.swap.max" || value != "max" || group(name).is_some());
    files
}

fn cpu_v2(cpu: &LinuxCpu, group: Group<'_>) -> Files {
    let mut files = Files::new();
    files.extend(cpu.idle().map(|idle| file("cpu.idle", idle)));
    // The weight of what is idle has no meaning, and is refused.
    let shares = cpu.shares().filter(|_| cpu.idle() != Some(1));
    files.extend(shares.map(|shares| file("cpu.weight", weight(shares))));
    let present = || group("cpu.max").and_then(|text| Some(text.split_whitespace().next()?.to_owned()));
    let bandwidth = match (cpu.quota(), cpu.period()) {
        (None, None) => None,
        // The period stays as it is.
        (Some(quota), None) => Some(unlimited(quota)),
        (Some(quota), Some(period)) => Some(format!("{} {period}", unlimited(quota))),
        (None, Some(period)) => Some(format!("{} {period}", present().unwrap_or_else(|| "max".to_owned()))),
    };
    files.extend(around_burst(cpu, "cpu.max.burst", bandwidth.map(|value| file("cpu.max", value))));
    files.extend(sets(cpu));
    files
}

/// A burst is never more than the quota, whatever the two were before.
fn around_burst(cpu: &LinuxCpu, name: &str, bandwidth: impl IntoIterator<Item = (String, String)>) -> Files {
    let bandwidth: Files = bandwidth.into_iter().collect();
    let before = cpu.burst().filter(|burst| *burst > 0 && !bandwidth.is_empty());
    let mut files: Files = before.map(|_| file(name, 0)).into_iter().collect();
    files.extend(bandwidth);
    files.extend(cpu.burst().map(|burst| file(name, burst)));
    files
}

fn sets(cpu: &LinuxCpu) -> Files {
    let values = [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())];
    values.into_iter().filter_map(|(name, value)| Some(file(name, value.as_ref()?))).collect()
}

/// Shares of 2..262144 as a weight of 1..10000: a curve on which the least, the usual and the most of both meet, as in
/// runc 1.4 and crun 1.23 (1024 becomes 100).
pub fn weight(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            10_f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

/// Files and values in version 1's words.
pub fn v1(resources: &LinuxResources, group: Group<'_>) -> Files {
    let mut files = Files::new();
    files.extend(resources.memory().iter().flat_map(|memory| memory_v1(memory, group)));
    files.extend(resources.cpu().iter().flat_map(cpu_v1));
    files.extend(resources.pids().map(|pids| file("pids.max", unlimited(pids.limit()))));
    files.extend(resources.block_io().iter().flat_map(|io| disks::v1(io, group)));
    files.extend(pages(resources, ["limit_in_bytes", "rsvd.limit_in_bytes"], group));
    if let Some(network) = resources.network() {
        files.extend(network.class_id().map(|class| file("net_cls.classid", class)));
        let priorities = network.priorities().iter().flatten();
        files.extend(priorities.map(|one| file("net_prio.ifpriomap", format!("{} {}", one.name(), one.priority()))));
    }
    files.extend(adapters(resources));
    files
}

fn memory_v1(memory: &LinuxMemory, group: Group<'_>) -> Files {
    let mut files = Files::new();
    let limit = memory.limit().map(|limit| file("memory.limit_in_bytes", limit));
    // Nothing limits the sum where nothing limits a part of it.
    let sum = memory.swap().or(memory.limit().filter(|limit| *limit < 0));
    let both = sum.filter(|_| group(MEMORY_AND_SWAP).is_some()).map(|sum| file(MEMORY_AND_SWAP, sum));
    // Both together are never less than memory alone, neither before nor after either is written.
    let present = group(MEMORY_AND_SWAP).and_then(|text| text.trim().parse::<i64>().ok()).unwrap_or(i64::MAX);
    let grows = sum.is_some_and(|sum| sum < 0 || sum > present);
    files.extend(if grows { [both, limit] } else { [limit, both] }.into_iter().flatten());
    files.extend(memory.kernel_tcp().map(|limit| file("memory.kmem.tcp.limit_in_bytes", limit)));
    files.extend(memory.swappiness().map(|swappiness| file("memory.swappiness", swappiness)));
    files.extend(memory.disable_oom_killer().map(|disable| file("memory.oom_control", u8::from(disable))));
    files.extend(memory.reservation().map(|limit| file("memory.soft_limit_in_bytes", limit)));
    files
}

fn cpu_v1(cpu: &LinuxCpu) -> Files {
    let mut files = Files::new();
    files.extend(cpu.idle().map(|idle| file("cpu.idle", idle)));
    let shares = cpu.shares().filter(|_| cpu.idle() != Some(1));
    files.extend(shares.map(|shares| file("cpu.shares", shares)));
    let period = cpu.period().map(|period| file("cpu.cfs_period_us", period));
    let quota = cpu.quota().map(|quota| file("cpu.cfs_quota_us", quota));
    files.extend(around_burst(cpu, "cpu.cfs_burst_us", period.into_iter().chain(quota)));
    files.extend(cpu.realtime_period().map(|period| file("cpu.rt_period_us", period)));
    files.extend(cpu.realtime_runtime().map(|runtime| file("cpu.rt_runtime_us", runtime)));
    files.extend(sets(cpu));
    files
}

/// Huge pages, and where the kernel has that, those that are reserved as well.
fn pages(resources: &LinuxResources, names: [&str; 2], group: Group<'_>) -> Files {
    let mut files = Files::new();
    for limit in resources.hugepage_limits().iter().flatten() {
        let [used, reserved] = names.map(|name| format!("hugetlb.{}.{name}", limit.page_size()));
        let has_reserved = group(&reserved).is_some();
        files.push((used, limit.limit().to_string()));
        files.extend(has_reserved.then(|| (reserved, limit.limit().to_string())));
    }
    files
}

/// What adapters for remote memory may hand out.
fn adapters(resources: &LinuxResources) -> Files {
    let all: BTreeMap<_, _> = resources.rdma().iter().flatten().collect();
    let line = |(name, limit): (&String, &oci_spec::runtime::LinuxRdma)| {
        let parts = [("hca_handle", limit.hca_handles()), ("hca_object", limit.hca_objects())];
        let parts = parts.into_iter().filter_map(|(word, most)| Some(format!(" {word}={}", most?)));
        file("rdma.max", format!("{name}{}", parts.collect::<String>()))
    };
    all.into_iter().map(line).collect()
}

/// Version 2's own files by name; one that has a line for each device takes one at a time.
fn as_written(resources: &LinuxResources) -> Files {
    let named: BTreeMap<_, _> = resources.unified().iter().flatten().collect();
    let lines = |(name, value): (&String, &String)| {
        let name = name.clone();
        let lines: Vec<String> = value.trim().lines().map(str::to_owned).collect();
        lines.into_iter().map(move |line| (name.clone(), line))
    };
    named.into_iter().flat_map(lines).collect()
}

/// Why memory can't be limited so now, where that is to be looked at before (`checkBeforeUpdate`).
pub fn is_too_much_in_use(memory: &LinuxMemory, used: impl FnOnce() -> Option<u64>) -> Option<String> {
    let limit = memory.limit().and_then(|limit| u64::try_from(limit).ok());
    let limit = limit.filter(|limit| *limit > 0 && memory.check_before_update() == Some(true))?;
    let used = used().filter(|used| *used > limit)?;
    Some(format!("checkBeforeUpdate: {used} bytes are in use, more than the limit of {limit}"))
}

/// The sum over the numbers that follow this word in a text of statistics.
pub fn sum(text: &str, word: &str) -> u64 {
    let after = text.match_indices(word).map(|(at, _)| &text[at + word.len()..]);
    let number = |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
    after.filter_map(number).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::runtime::init::spec::{Limits, resources};

    fn text(files: Files) -> String {
        files.into_iter().map(|(file, value)| format!("{file}={value}")).collect::<Vec<_>>().join(" ")
    }

    /// In both versions' words, of a group that has these files.
    #[track_caller]
    fn check(resources: Value, present: &[(&str, &str)], two: &str, one: &str) {
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        let group = |name: &str| Some(present.iter().find(|(file, _)| *file == name)?.1.to_owned());
        assert_eq!(text(v2(&resources, &group)), two);
        assert_eq!(text(v1(&resources, &group)), one);
    }

    #[test]
    fn statistics_of_both_versions_are_summed() {
        assert_eq!(sum("8:0 rbytes=10 wbytes=2 rios=1\n8:16 rbytes=5 wbytes=1\n", "rbytes="), 15);
        assert_eq!(sum("8:0 Read 7\n8:0 Write 3\n8:0 Total 10\nTotal 10\n", "Write "), 3);
        assert_eq!(sum("", "Read "), 0);
    }

    #[test]
    fn the_limits_of_our_own_containers() {
        let limits = Limits {
            memory: Some(64 << 20),
            nano_cpus: Some(1_500_000_000),
            cpu_shares: Some(1024),
            pids: Some(-1),
            ..Limits::default()
        };
        check(
            resources(&limits),
            &[(MEMORY_AND_SWAP, "9223372036854771712\n")],
            "memory.swap.max=67108864 memory.max=67108864 cpu.weight=100 cpu.max=150000 100000 pids.max=max",
            "memory.limit_in_bytes=67108864 memory.memsw.limit_in_bytes=134217728 cpu.shares=1024 \
             cpu.cfs_period_us=100000 cpu.cfs_quota_us=150000 pids.max=max",
        );
    }

    #[test]
    fn memory_and_swap_change_in_an_order_that_the_kernel_takes() {
        let limits = json!({"memory": {"limit": 200, "swap": 300}});
        let small = [(MEMORY_AND_SWAP, "100\n"), ("memory.swap.max", "0\n")];
        let one = "memory.memsw.limit_in_bytes=300 memory.limit_in_bytes=200";
        check(limits.clone(), &small, "memory.swap.max=100 memory.max=200", one);
        let one = "memory.limit_in_bytes=200 memory.memsw.limit_in_bytes=300";
        check(limits, &[(MEMORY_AND_SWAP, "400")], "memory.swap.max=100 memory.max=200", one);
        // Swap alone is meant with the memory that is limited already.
        let present = [(MEMORY_AND_SWAP, "400"), ("memory.max", "150\n")];
        check(json!({"memory": {"swap": 250}}), &present, "memory.swap.max=100", "memory.memsw.limit_in_bytes=250");
        // Without any limit of memory there is none of swap; a kernel that does not count it has no file for it.
        check(json!({"memory": {"limit": -1}}), &[], "memory.max=max", "memory.limit_in_bytes=-1");
    }

    #[test]
    fn processors_change_one_word_at_a_time() {
        let present = [("cpu.max", "50000 100000\n")];
        check(json!({"cpu": {"quota": 20000}}), &present, "cpu.max=20000", "cpu.cfs_quota_us=20000");
        check(json!({"cpu": {"period": 20000}}), &present, "cpu.max=50000 20000", "cpu.cfs_period_us=20000");
        check(json!({"cpu": {"burst": 7}}), &present, "cpu.max.burst=7", "cpu.cfs_burst_us=7");
        check(
            json!({"cpu": {"quota": 20000, "burst": 7, "idle": 1, "shares": 5, "cpus": "0", "mems": "0"}}),
            &present,
            "cpu.idle=1 cpu.max.burst=0 cpu.max=20000 cpu.max.burst=7 cpuset.cpus=0 cpuset.mems=0",
            "cpu.idle=1 cpu.cfs_burst_us=0 cpu.cfs_quota_us=20000 cpu.cfs_burst_us=7 cpuset.cpus=0 cpuset.mems=0",
        );
    }

    #[test]
    fn shares_meet_weights_at_the_least_the_usual_and_the_most() {
        let found = [1, 2, 3, 512, 1024, 2048, 262_144, u64::MAX].map(weight);
        assert_eq!(found, [1, 1, 2, 59, 100, 174, 10_000, 10_000]);
    }

    #[test]
    fn what_only_some_hosts_have() {
        check(
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
                   "network": {"classID": 1_048_577, "priorities": [{"name": "lo", "priority": 3}]},
                   "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 4}, "mlx4_0": {"hcaObjects": 1}},
                   "unified": {"memory.high": "1000", "io.max": "8:0 rbps=1\n8:16 rbps=2\n"}}),
            &[("hugetlb.2MB.rsvd.max", "max")],
            "hugetlb.2MB.max=4194304 hugetlb.2MB.rsvd.max=4194304 rdma.max=mlx4_0 hca_object=1 \
             rdma.max=mlx5_1 hca_handle=3 hca_object=4 io.max=8:0 rbps=1 io.max=8:16 rbps=2 memory.high=1000",
            "hugetlb.2MB.limit_in_bytes=4194304 net_cls.classid=1048577 net_prio.ifpriomap=lo 3 \
             rdma.max=mlx4_0 hca_object=1 rdma.max=mlx5_1 hca_handle=3 hca_object=4",
        );
    }

    #[test]
    fn memory_in_use_is_looked_at_where_that_is_asked_for() {
        let memory = |value: Value| serde_json::from_value::<LinuxMemory>(value).unwrap();
        let asked = memory(json!({"limit": 100, "checkBeforeUpdate": true}));
        assert!(is_too_much_in_use(&asked, || Some(101)).unwrap().contains("101 bytes are in use"));
        assert_eq!(is_too_much_in_use(&asked, || Some(100)), None);
        assert_eq!(is_too_much_in_use(&memory(json!({"limit": 100})), || Some(101)), None);
    }
}
