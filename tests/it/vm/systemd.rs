//! Tests that run in the machine whose first process is systemd, each ignored elsewhere.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use super::assert_in_the_machine;
use crate::oci_runtime::Bundle;
use crate::support::{World, eventually};

fn systemctl(words: &[&str]) -> String {
    let output = Command::new("systemctl").args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn properties(unit: &str, names: &str) -> Vec<String> {
    systemctl(&["show", "-p", names, unit]).lines().map(str::to_owned).collect()
}

/// A unit that says how processors are shared has systemd write its own limits of everything anew.
#[test]
#[ignore = "needs the machine"]
fn a_scope_holds_a_bundle_through_reloads() {
    assert_in_the_machine();
    let world = World::new();
    let bundle = Bundle::new(&world, "exec sleep 1000", |config| {
        let id = config["linux"]["cgroupsPath"].as_str().unwrap().trim_start_matches('/').to_owned();
        config["linux"]["cgroupsPath"] = json!(format!("shop-web.slice:stack:{id}"));
        let limits = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 23}, "unified": {"memory.high": "50331648"},
            "cpu": {"shares": 2048, "quota": 50_000, "period": 100_000, "burst": 5000, "cpus": "0"}});
        config["linux"]["resources"].as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
    });
    let unit = format!("stack-{}.scope", bundle.id);
    let group = PathBuf::from("/sys/fs/cgroup/shop.slice/shop-web.slice").join(&unit);
    let directory = bundle.directory.to_str().unwrap();
    let out = fs::File::create(world.directory.join("out")).unwrap();
    let mut create = bundle.command(&["--systemd-cgroup", "create", "--bundle", directory, &bundle.id]);
    assert!(create.stdout(out).status().unwrap().success());
    bundle.ok(&["start", &bundle.id]);
    let files = ["memory.max", "memory.high", "pids.max", "cpu.max", "cpu.max.burst", "cpu.weight", "cpuset.cpus"];
    let limits = || files.map(|file| fs::read_to_string(group.join(file)).unwrap().trim().to_owned());
    let before = ["67108864", "50331648", "23", "50000 100000", "5000", "174", "0"];
    assert_eq!(limits(), before);
    let names = "MemoryMax,MemoryHigh,TasksMax,CPUQuotaPerSecUSec,CPUWeight,Delegate,ActiveState";
    let mut found = properties(&unit, names);
    found.sort();
    let expected = [
        "ActiveState=active",
        "CPUQuotaPerSecUSec=500ms",
        "CPUWeight=174",
        "Delegate=yes",
        "MemoryHigh=50331648",
        "MemoryMax=67108864",
        "TasksMax=23",
    ];
    assert_eq!(found, expected);
    systemctl(&["daemon-reload"]);
    assert_eq!(limits(), before, "a reload changes nothing");
    assert!(bundle.fails(&["--systemd-cgroup", "create", "--bundle", directory, &bundle.id]).contains("exists"));

    bundle.ok(&[
        "--systemd-cgroup",
        "update",
        "--memory",
        "96m",
        "--pids-limit",
        "31",
        "--cpu-quota",
        "20000",
        &bundle.id,
    ]);
    let after = ["100663296", "50331648", "31", "20000 100000", "5000", "174", "0"];
    assert_eq!(limits(), after);
    systemctl(&["daemon-reload"]);
    systemctl(&["set-property", "--runtime", "shop-web.slice", "CPUWeight=200"]);
    assert_eq!(limits(), after, "nor does it after an update");

    bundle.ok(&["pause", &bundle.id]);
    assert!(fs::read_to_string(group.join("cgroup.events")).unwrap().contains("frozen 1"));
    bundle.ok(&["resume", &bundle.id]);
    assert_eq!(bundle.ok(&["exec", &bundle.id, "sh", "-c", "echo inside"]), "inside\n");
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    eventually("it ends", || bundle.status() == "stopped");
    bundle.ok(&["delete", &bundle.id]);
    assert_eq!(properties(&unit, "LoadState,ActiveState"), ["LoadState=not-found", "ActiveState=inactive"]);
    assert!(!group.exists());
    bundle.leaves_nothing();
}
