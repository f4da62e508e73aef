//! `update`: limits from a file or from words.

use std::process::ExitCode;

use oci_spec::runtime::LinuxResources;
use serde_json::json;

use super::args::Update;
use super::processes::read;
use super::{Done, Failure};
use crate::runtime::bundle::Room;

pub fn update(room: &Room, wanted: &Update) -> Done {
    room.update(&wanted.id, &resources(wanted)?)?;
    Ok(ExitCode::SUCCESS)
}

fn resources(wanted: &Update) -> Result<LinuxResources, Failure> {
    if let Some(path) = &wanted.resources {
        let resources = serde_json::from_slice(&read(path)?);
        return resources.map_err(|error| format!("--resources {}: {error}", path.display()).into());
    }
    if wanted.l3_cache_schema.is_some() || wanted.mem_bw_schema.is_some() {
        return Err(
            "--l3-cache-schema and --mem-bw-schema are not supported: cache and bandwidth of processors are not \
                    managed"
                .into(),
        );
    }
    let pids = wanted.pids_limit.map(|limit| json!({"limit": limit}));
    let weight = wanted.blkio_weight.map(|weight| json!({"weight": weight}));
    let value = json!({
        "memory": {"limit": wanted.memory, "reservation": wanted.memory_reservation, "swap": wanted.memory_swap,
                   "kernel": wanted.kernel_memory, "kernelTCP": wanted.kernel_memory_tcp},
        "cpu": {"shares": wanted.cpu_shares, "quota": wanted.cpu_quota, "period": wanted.cpu_period,
                "burst": wanted.cpu_burst, "idle": wanted.cpu_idle, "realtimeRuntime": wanted.cpu_rt_runtime,
                "realtimePeriod": wanted.cpu_rt_period, "cpus": wanted.cpuset_cpus, "mems": wanted.cpuset_mems},
        "pids": pids,
        "blockIO": weight,
    });
    Ok(serde_json::from_value(value)?)
}
