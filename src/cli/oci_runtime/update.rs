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
    let pids = wanted.pids_limit.map(|limit| json!({"limit": limit}));
    let value = json!({
        "memory": {"limit": wanted.memory, "reservation": wanted.memory_reservation, "swap": wanted.memory_swap},
        "cpu": {"shares": wanted.cpu_shares, "quota": wanted.cpu_quota, "period": wanted.cpu_period,
                "cpus": wanted.cpuset_cpus, "mems": wanted.cpuset_mems},
        "pids": pids,
    });
    Ok(serde_json::from_value(value)?)
}
