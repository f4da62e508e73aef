//! Limits as the files and values of each version of control groups: pure.

use oci_spec::runtime::LinuxResources;

type Files = Vec<(&'static str, String)>;

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
        if let (Some(quota), Some(period)) = (cpu.quota(), cpu.period()) {
            files.push(("cpu.max", format!("{} {period}", unlimited(quota))));
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
        files.extend(memory.limit().map(|limit| ("memory.limit_in_bytes", limit.to_string())));
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
            "memory.limit_in_bytes=67108864 cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=150000 pids.max=max"
        );
    }
}
