//! The limits of a specification, in what they mean: some writers put 0 where they mean "as it is".

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxResources, LinuxWeightDevice,
};

use super::Error;
use crate::runtime::cgroup::Cgroup;

/// Devices that the specification wants in every container, and nodes that may be made anywhere.
const ALWAYS: &[(LinuxDeviceType, Option<i64>, Option<i64>, &str)] = &[
    (LinuxDeviceType::C, None, None, "m"),
    (LinuxDeviceType::B, None, None, "m"),
    (LinuxDeviceType::C, Some(1), Some(3), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(5), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(7), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(8), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(9), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(0), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(2), "rwm"),
    (LinuxDeviceType::C, Some(136), None, "rwm"),
];

/// What this program can't do.
///
/// # Errors
/// [`Error::Unsupported`], by the name of the field.
pub fn check(resources: &LinuxResources) -> Result<(), Error> {
    let no = |field: &str, reason: &str| {
        Err(Error::Unsupported { field: format!("linux.resources.{field}"), reason: reason.to_owned() })
    };
    if let Some(memory) = resources.memory() {
        if memory.kernel_tcp().is_some_and(|limit| limit > 0) {
            return no("memory.kernelTCP", "the specification has it no more");
        }
        if memory.check_before_update() == Some(true) {
            return no("memory.checkBeforeUpdate", "the kernel reclaims, or kills, as it does");
        }
    }
    if let Some(cpu) = resources.cpu() {
        let realtime =
            cpu.realtime_runtime().is_some_and(|time| time != 0) || cpu.realtime_period().is_some_and(|time| time != 0);
        if realtime {
            return no("cpu.realtimeRuntime and realtimePeriod", "most kernels are built without");
        }
    }
    if resources.rdma().as_ref().is_some_and(|all| !all.is_empty()) {
        return no("rdma", "no such devices are known");
    }
    if let Some(io) = resources.block_io() {
        let leaf = |all: &Option<Vec<LinuxWeightDevice>>| {
            all.iter().flatten().any(|one| one.leaf_weight().is_some_and(|weight| weight > 0))
        };
        if io.leaf_weight().is_some_and(|weight| weight > 0) || leaf(io.weight_device()) {
            return no("blockIO.leafWeight", "the kernel has it no more");
        }
    }
    let bad = |name: &&String| name.contains('/') || !name.contains('.');
    if let Some(name) = resources.unified().iter().flatten().map(|(name, _)| name).find(bad) {
        return no(&format!("unified ({name})"), "it is no file of a control group");
    }
    match resources.network() {
        Some(network) if network.class_id().is_some_and(|id| id > 0) => no("network.classID", "version 1's alone"),
        Some(network) if network.priorities().as_ref().is_some_and(|all| !all.is_empty()) => {
            no("network.priorities", "version 1's alone")
        }
        _ => Ok(()),
    }
}

/// Without what is there and says nothing.
pub fn meant(resources: &LinuxResources) -> LinuxResources {
    let mut resources = resources.clone();
    if let Some(memory) = resources.memory_mut() {
        memory.set_limit(memory.limit().filter(|limit| *limit != 0));
        memory.set_reservation(memory.reservation().filter(|limit| *limit != 0));
        memory.set_swap(memory.swap().filter(|limit| *limit != 0));
        memory.set_disable_oom_killer(memory.disable_oom_killer().filter(|disable| *disable));
    }
    if let Some(cpu) = resources.cpu_mut() {
        cpu.set_shares(cpu.shares().filter(|shares| *shares != 0));
        cpu.set_quota(cpu.quota().filter(|quota| *quota != 0));
        cpu.set_period(cpu.period().filter(|period| *period != 0));
        cpu.set_cpus(cpu.cpus().clone().filter(|cpus| !cpus.is_empty()));
        cpu.set_mems(cpu.mems().clone().filter(|mems| !mems.is_empty()));
    }
    if resources.pids().is_some_and(|pids| pids.limit() == 0) {
        resources.set_pids(None);
    }
    resources
}

/// With the devices of [`ALWAYS`], where any rule is given at all.
pub fn with_devices(resources: &LinuxResources) -> LinuxResources {
    let mut resources = meant(resources);
    let always = ALWAYS.iter().filter_map(|(kind, major, minor, access)| rule(*kind, *major, *minor, access));
    let devices = resources.devices().clone().filter(|rules| !rules.is_empty());
    resources.set_devices(devices.map(|rules| rules.into_iter().chain(always).collect()));
    resources
}

fn rule(kind: LinuxDeviceType, major: Option<i64>, minor: Option<i64>, access: &str) -> Option<LinuxDeviceCgroup> {
    let rule = LinuxDeviceCgroupBuilder::default().allow(true).typ(kind).access(access);
    let rule = rule.major(major.unwrap_or(-1)).minor(minor.unwrap_or(-1));
    rule.build().ok()
}

/// # Errors
/// What the kernel refuses.
pub fn apply(group: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    group.limit(resources)?;
    let unified = group.is_unified();
    if !unified && resources.unified().as_ref().is_some_and(|all| !all.is_empty()) {
        let reason = "this host has control groups of version 1".to_owned();
        return Err(Error::Unsupported { field: "linux.resources.unified".to_owned(), reason });
    }
    let mut files = of_processors(resources, unified);
    files.extend(of_disks(resources, unified, |file| group.has(file)));
    for limit in resources.hugepage_limits().iter().flatten() {
        let name = if unified { "max" } else { "limit_in_bytes" };
        files.push((format!("hugetlb.{}.{name}", limit.page_size()), limit.limit().to_string()));
    }
    let named: BTreeMap<_, _> = resources.unified().iter().flatten().collect();
    files.extend(named.into_iter().map(|(name, value)| (name.clone(), value.clone())));
    Ok(files.iter().try_for_each(|(file, value)| group.set(file, value))?)
}

type Files = Vec<(String, String)>;

fn of_processors(resources: &LinuxResources, unified: bool) -> Files {
    let Some(cpu) = resources.cpu() else { return Files::new() };
    let burst = if unified { "cpu.max.burst" } else { "cpu.cfs_burst_us" };
    let values = [
        ("cpuset.mems", cpu.mems().clone()),
        (burst, cpu.burst().map(|burst| burst.to_string())),
        ("cpu.idle", cpu.idle().map(|idle| idle.to_string())),
    ];
    values.into_iter().filter_map(|(file, value)| Some((file.to_owned(), value?))).collect()
}

/// Weights are of BFQ where the kernel knows no other scheduler by proportion.
fn of_disks(resources: &LinuxResources, unified: bool, has: impl Fn(&str) -> bool) -> Files {
    let Some(io) = resources.block_io() else { return Files::new() };
    let (plain, bfq) = if unified { ("io.weight", "io.bfq.weight") } else { ("blkio.weight", "blkio.bfq.weight") };
    let weight = if has(plain) { plain } else { bfq };
    let mut files = Files::new();
    files.extend(io.weight().filter(|one| *one > 0).map(|one| (weight.to_owned(), one.to_string())));
    let devices = if unified { weight.to_owned() } else { format!("{weight}_device") };
    for one in io.weight_device().iter().flatten() {
        let value = one.weight().map(|weight| format!("{}:{} {weight}", one.major(), one.minor()));
        files.extend(value.map(|value| (devices.clone(), value)));
    }
    let throttles = [
        ("blkio.throttle.read_bps_device", "rbps", io.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", "wbps", io.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", "riops", io.throttle_read_iops_device()),
        ("blkio.throttle.write_iops_device", "wiops", io.throttle_write_iops_device()),
    ];
    for (file, word, devices) in throttles {
        for one in devices.iter().flatten() {
            let (number, rate) = (format!("{}:{}", one.major(), one.minor()), one.rate());
            files.push(match unified {
                true => ("io.max".to_owned(), format!("{number} {word}={rate}")),
                false => (file.to_owned(), format!("{number} {rate}")),
            });
        }
    }
    files
}
