//! The limits of a specification, in what they mean: some writers put 0 where they mean "as it is".

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

/// What neither this program nor this host can do.
///
/// # Errors
/// [`Error::Unsupported`], by the name of the field.
pub fn check(resources: &LinuxResources) -> Result<(), Error> {
    match refusal(resources, Cgroup::named("").is_unified()) {
        Some((field, reason)) => {
            Err(Error::Unsupported { field: format!("linux.resources.{field}"), reason: reason.to_owned() })
        }
        None => Ok(()),
    }
}

const NOT_IN_2: &str = "this host has control groups of version 2, which have none";

/// The first field that can't be done with this version of control groups, and why.
fn refusal(resources: &LinuxResources, unified: bool) -> Option<(String, &'static str)> {
    let memory = resources.memory().unwrap_or_default();
    let cpu = resources.cpu().clone().unwrap_or_default();
    let network = resources.network().clone().unwrap_or_default();
    let io = resources.block_io().clone().unwrap_or_default();
    let leaves = io.weight_device().iter().flatten().map(LinuxWeightDevice::leaf_weight).chain([io.leaf_weight()]);
    let no_file = |name: &&String| name.contains('/') || !name.contains('.');
    let unknown = resources.unified().iter().flatten().map(|(name, _)| name).find(no_file);
    let is_set = |number: Option<i64>| number.is_some_and(|number| number != 0);
    let realtime = is_set(cpu.realtime_runtime()) || cpu.realtime_period().is_some_and(|period| period != 0);
    let by_name = resources.unified().as_ref().is_some_and(|all| !all.is_empty());
    let priorities = network.priorities().as_ref().is_some_and(|all| !all.is_empty());
    let kernel = "kernels do not limit their own memory apart any more";
    let cases = [
        (memory.kernel().is_some_and(|limit| limit > 0), "memory.kernel", kernel),
        (memory.use_hierarchy() == Some(false), "memory.useHierarchy", "a group always counts those below it"),
        (unified && memory.kernel_tcp().is_some_and(|limit| limit > 0), "memory.kernelTCP", NOT_IN_2),
        (unified && memory.swappiness().is_some(), "memory.swappiness", NOT_IN_2),
        (unified && memory.disable_oom_killer() == Some(true), "memory.disableOOMKiller", NOT_IN_2),
        (unified && realtime, "cpu.realtimeRuntime and realtimePeriod", NOT_IN_2),
        (unified && network.class_id().is_some_and(|id| id > 0), "network.classID", NOT_IN_2),
        (unified && priorities, "network.priorities", NOT_IN_2),
        (leaves.flatten().any(|weight| weight > 0), "blockIO.leafWeight", "the kernel has it no more"),
        (!unified && by_name, "unified", "this host has control groups of version 1"),
    ];
    if let Some(name) = unknown {
        return Some((format!("unified ({name})"), "it is no file of a control group"));
    }
    { cases }.into_iter().find(|(there, ..)| *there).map(|(_, field, reason)| (field.to_owned(), reason))
}

/// Without what is there and says nothing.
pub fn meant(resources: &LinuxResources) -> LinuxResources {
    let mut resources = resources.clone();
    if let Some(memory) = resources.memory_mut() {
        memory.set_limit(memory.limit().filter(|limit| *limit != 0));
        memory.set_reservation(memory.reservation().filter(|limit| *limit != 0));
        memory.set_swap(memory.swap().filter(|limit| *limit != 0));
        memory.set_kernel_tcp(memory.kernel_tcp().filter(|limit| *limit != 0));
        memory.set_disable_oom_killer(memory.disable_oom_killer().filter(|disable| *disable));
    }
    if let Some(cpu) = resources.cpu_mut() {
        cpu.set_shares(cpu.shares().filter(|shares| *shares != 0));
        cpu.set_quota(cpu.quota().filter(|quota| *quota != 0));
        cpu.set_period(cpu.period().filter(|period| *period != 0));
        cpu.set_realtime_runtime(cpu.realtime_runtime().filter(|time| *time != 0));
        cpu.set_realtime_period(cpu.realtime_period().filter(|time| *time != 0));
        cpu.set_cpus(cpu.cpus().clone().filter(|cpus| !cpus.is_empty()));
        cpu.set_mems(cpu.mems().clone().filter(|mems| !mems.is_empty()));
    }
    if let Some(network) = resources.network_mut() {
        network.set_class_id(network.class_id().filter(|class| *class != 0));
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What is refused by name, first with version 2, then with version 1.
    #[test]
    fn each_version_refuses_what_it_has_not() {
        let cases: &[(Value, &str, &str)] = &[
            (json!({"memory": {"kernel": 1}}), "memory.kernel", "memory.kernel"),
            (json!({"memory": {"useHierarchy": false}}), "memory.useHierarchy", "memory.useHierarchy"),
            (json!({"memory": {"kernelTCP": 1}}), "memory.kernelTCP", ""),
            (json!({"memory": {"swappiness": 0}}), "memory.swappiness", ""),
            (json!({"memory": {"disableOOMKiller": true}}), "memory.disableOOMKiller", ""),
            (json!({"memory": {"disableOOMKiller": false, "limit": 1, "checkBeforeUpdate": true}}), "", ""),
            (json!({"cpu": {"realtimeRuntime": 1}}), "cpu.realtimeRuntime and realtimePeriod", ""),
            (json!({"cpu": {"realtimePeriod": 1}}), "cpu.realtimeRuntime and realtimePeriod", ""),
            (json!({"cpu": {"realtimePeriod": 0, "idle": 1, "burst": 1}}), "", ""),
            (json!({"network": {"classID": 1}}), "network.classID", ""),
            (json!({"network": {"priorities": [{"name": "lo", "priority": 1}]}}), "network.priorities", ""),
            (json!({"blockIO": {"leafWeight": 10}}), "blockIO.leafWeight", "blockIO.leafWeight"),
            (
                json!({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 10}]}}),
                "blockIO.leafWeight",
                "blockIO.leafWeight",
            ),
            (json!({"rdma": {"a": {"hcaHandles": 1}}, "hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}), "", ""),
            (json!({"unified": {"memory.high": "1"}}), "", "unified"),
            (json!({"unified": {"../x.y": "1"}}), "unified (../x.y)", "unified (../x.y)"),
            (json!({"unified": {"tasks": "1"}}), "unified (tasks)", "unified (tasks)"),
        ];
        for (value, two, one) in cases {
            let resources: LinuxResources = serde_json::from_value(value.clone()).unwrap();
            let refused = |unified| refusal(&resources, unified).map_or(String::new(), |(field, _)| field);
            assert_eq!((refused(true).as_str(), refused(false).as_str()), (*two, *one), "{value}");
        }
    }
}
