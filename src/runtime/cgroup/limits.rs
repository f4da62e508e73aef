//! Limits as the files and values of each version of control groups: pure.

use oci_spec::runtime::LinuxResources;

pub type Files = Vec<(&'static str, String)>;

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

/// Files and values in version 2's words.
pub fn v2(resources: &LinuxResources) -> Files {
    let mut files = Files::new();
    if let Some(memory) = resources.memory() {
        files.extend(memory.limit().map(|limit| ("memory.max", unlimited(limit))));
        files.extend(memory.reservation().map(|reservation| ("memory.low", unlimited(reservation))));
        if let (Some(limit), Some(swap)) = (memory.limit(), memory.swap()) {
            // Version 2 counts swap alone; the specification counts memory and swap together.
            files.push(("memory.swap.max", unlimited(if swap < 0 { -1 } else { (swap - limit).max(0) })));
        }
    }
    if let Some(cpu) = resources.cpu() {
        files.extend(cpu.shares().map(|shares| ("cpu.weight", weight(shares).to_string())));
        if let Some(period) = cpu.period() {
            files.push(("cpu.max", format!("{} {period}", unlimited(cpu.quota().unwrap_or(-1)))));
        }
        files.extend(cpu.cpus().clone().map(|cpus| ("cpuset.cpus", cpus)));
    }
    files.extend(resources.pids().map(|pids| ("pids.max", unlimited(pids.limit()))));
    files
}

/// Shares of 2..262144 as a weight of 1..10000, 1024 becoming 39, as runc and crun did for years.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Files and values in version 1's words.
pub fn v1(resources: &LinuxResources) -> Files {
    let mut files = Files::new();
    if let Some(memory) = resources.memory() {
        // Both together are never less than memory alone, whatever the two were before.
        files.extend(memory.limit().map(|_| (MEMORY_AND_SWAP, "-1".to_owned())));
        files.extend(memory.limit().map(|limit| ("memory.limit_in_bytes", limit.to_string())));
        files.extend(memory.limit().and(memory.swap()).map(|swap| (MEMORY_AND_SWAP, swap.to_string())));
        files.extend(memory.swappiness().map(|swappiness| ("memory.swappiness", swappiness.to_string())));
        files.extend(memory.disable_oom_killer().map(|disable| ("memory.oom_control", u8::from(disable).to_string())));
        files.extend(memory.reservation().map(|limit| ("memory.soft_limit_in_bytes", limit.to_string())));
    }
    if let Some(cpu) = resources.cpu() {
        files.extend(cpu.shares().map(|shares| ("cpu.shares", shares.to_string())));
        files.extend(cpu.period().map(|period| ("cpu.cfs_period_us", period.to_string())));
        files.extend(cpu.quota().map(|quota| ("cpu.cfs_quota_us", quota.to_string())));
        files.extend(cpu.cpus().clone().map(|cpus| ("cpuset.cpus", cpus)));
    }
    files.extend(resources.pids().map(|pids| ("pids.max", unlimited(pids.limit()))));
    files
}

/// The sum over the numbers that follow this word in a text of statistics.
pub fn sum(text: &str, word: &str) -> u64 {
    let after = text.match_indices(word).map(|(at, _)| &text[at + word.len()..]);
    let number = |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
    after.filter_map(number).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::init::spec::{Limits, resources};

    fn oci(limits: &Limits) -> LinuxResources {
        serde_json::from_value(resources(limits)).unwrap()
    }

    #[test]
    fn statistics_of_both_versions_are_summed() {
        assert_eq!(sum("8:0 rbytes=10 wbytes=2 rios=1\n8:16 rbytes=5 wbytes=1\n", "rbytes="), 15);
        assert_eq!(sum("8:0 Read 7\n8:0 Write 3\n8:0 Total 10\nTotal 10\n", "Write "), 3);
        assert_eq!(sum("", "Read "), 0);
    }

    #[test]
    fn limits_in_both_versions_words() {
        let limits = Limits {
            memory: Some(64 << 20),
            nano_cpus: Some(1_500_000_000),
            cpu_shares: Some(1024),
            pids: Some(-1),
            ..Limits::default()
        };
        let text = |files: Files| {
            files.into_iter().map(|(file, value)| format!("{file}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            text(v2(&oci(&limits))),
            "memory.max=67108864 memory.swap.max=67108864 cpu.weight=39 cpu.max=150000 100000 pids.max=max"
        );
        assert_eq!(
            text(v1(&oci(&limits))),
            "memory.memsw.limit_in_bytes=-1 memory.limit_in_bytes=67108864 memory.memsw.limit_in_bytes=134217728 cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=150000 pids.max=max"
        );
    }
}
