//! Limits as properties of a unit, so that systemd, which writes its own of each unit anew at a reload, writes these.
//! What it has no property for stays as it was written into the group.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::{Properties, Value};
use crate::runtime::cgroup::weight_of_shares;

/// systemd's word for no limit.
const INFINITY: u64 = u64::MAX;
/// Microseconds of a period, where nobody says another.
const PERIOD_US: u64 = 100_000;

/// The properties of these limits, of a host with one hierarchy or with several.
pub fn of(resources: &LinuxResources, unified: bool) -> Properties {
    let mut properties = Properties::new();
    properties.extend(resources.memory().iter().flat_map(|memory| of_memory(memory, unified)));
    properties.extend(resources.cpu().iter().flat_map(|cpu| of_processors(cpu, unified)));
    properties.extend(resources.pids().map(|pids| ("TasksMax", limit(pids.limit()))));
    if unified {
        properties.extend(by_name(&|file| Some(resources.unified().as_ref()?.get(file)?.trim().to_owned())));
    }
    properties
}

fn limit(value: i64) -> Value {
    Value::Number(u64::try_from(value).unwrap_or(INFINITY))
}

fn of_memory(memory: &LinuxMemory, unified: bool) -> Properties {
    if !unified {
        return memory.limit().map(|most| ("MemoryLimit", limit(most))).into_iter().collect();
    }
    let mut properties = Properties::new();
    properties.extend(memory.limit().map(|most| ("MemoryMax", limit(most))));
    properties.extend(memory.reservation().map(|least| ("MemoryLow", limit(least))));
    let swap = match (memory.swap(), memory.limit()) {
        (Some(swap), _) if swap < 0 => Some(-1),
        (Some(both), Some(most)) if most >= 0 => Some((both - most).max(0)),
        _ => None,
    };
    properties.extend(swap.map(|most| ("MemorySwapMax", limit(most))));
    properties
}

fn of_processors(cpu: &LinuxCpu, unified: bool) -> Properties {
    let mut properties = Properties::new();
    if let Some(quota) = cpu.quota() {
        let period = cpu.period().unwrap_or(PERIOD_US).max(1);
        // systemd counts for each second, in steps of ten milliseconds.
        let each_second =
            u64::try_from(quota).map_or(INFINITY, |quota| (quota * 1_000_000 / period).next_multiple_of(10_000));
        properties.push(("CPUQuotaPerSecUSec", Value::Number(each_second)));
    }
    properties.extend(cpu.period().map(|period| ("CPUQuotaPeriodUSec", Value::Number(period))));
    let shares = cpu.shares().filter(|_| cpu.idle() != Some(1));
    match unified {
        true => properties.extend(shares.map(|shares| ("CPUWeight", Value::Number(weight_of_shares(shares))))),
        false => properties.extend(shares.map(|shares| ("CPUShares", Value::Number(shares)))),
    }
    if unified {
        properties.extend(cpu.cpus().as_deref().map(|list| ("AllowedCPUs", Value::Bits(bits(list)))));
        properties.extend(cpu.mems().as_deref().map(|list| ("AllowedMemoryNodes", Value::Bits(bits(list)))));
    }
    properties
}

/// Version 2's own files that systemd has a property for.
fn by_name(value: &dyn Fn(&str) -> Option<String>) -> Properties {
    let numbers = [
        ("memory.max", "MemoryMax"),
        ("memory.high", "MemoryHigh"),
        ("memory.low", "MemoryLow"),
        ("memory.min", "MemoryMin"),
        ("memory.swap.max", "MemorySwapMax"),
        ("pids.max", "TasksMax"),
        ("cpu.weight", "CPUWeight"),
    ];
    let number = |text: String| if text == "max" { Some(INFINITY) } else { text.parse().ok() };
    let found = numbers.into_iter().filter_map(|(file, name)| Some((name, Value::Number(number(value(file)?)?))));
    let mut properties: Properties = found.collect();
    let sets = [("cpuset.cpus", "AllowedCPUs"), ("cpuset.mems", "AllowedMemoryNodes")];
    properties.extend(sets.into_iter().filter_map(|(file, name)| Some((name, Value::Bits(bits(&value(file)?))))));
    properties
}

/// `0-2,8` as a bit each, the first in the lowest of the first byte.
fn bits(list: &str) -> Vec<u8> {
    let mut bits = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<u16>()) else { continue };
        for number in first..=usize::from(last) {
            bits.resize(bits.len().max(number / 8 + 1), 0);
            bits[number / 8] |= 1 << (number % 8);
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_are_properties_of_a_unit() {
        let resources: LinuxResources = serde_json::from_value(json!({
            "memory": {"limit": 100, "swap": 150, "reservation": 50}, "pids": {"limit": -1},
            "cpu": {"quota": 50_000, "period": 200_000, "shares": 1024, "cpus": "0-2,8"},
            "unified": {"memory.high": "90", "memory.oom.group": "1"}}))
        .unwrap();
        let number = Value::Number;
        assert_eq!(
            of(&resources, true),
            [
                ("MemoryMax", number(100)),
                ("MemoryLow", number(50)),
                ("MemorySwapMax", number(50)),
                ("CPUQuotaPerSecUSec", number(250_000)),
                ("CPUQuotaPeriodUSec", number(200_000)),
                ("CPUWeight", number(100)),
                ("AllowedCPUs", Value::Bits(vec![7, 1])),
                ("TasksMax", number(u64::MAX)),
                ("MemoryHigh", number(90)),
            ]
        );
    }
}
