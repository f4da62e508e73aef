//! Tests that run in the machine whose first process is systemd, each ignored elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
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

/// The scope of the engine's own.
fn scope(world: &World) -> String {
    format!("stack-{}.scope", world.roots.key())
}

fn group(world: &World, above: &str, container: &str) -> PathBuf {
    let id = world.field(container, "id");
    let name = format!("stack-{}-{}", world.roots.key(), &id.as_str().unwrap()[..12]);
    PathBuf::from("/sys/fs/cgroup").join(above).join(name)
}

fn run(world: &World, name: &str, more: &[&str]) {
    let limits = ["--memory", "64m", "--cpus", "0.5", "--pids-limit", "23"];
    let words = [&["run", "-d", "--network", "none", "--name", name][..], &limits, more].concat();
    world.ok(&[&words[..], &["builtin:whoami", "sleep", "forever"]].concat());
}

fn supervisor(world: &World, container: &str) -> String {
    let status = world.roots.run.join("containers").join(container).join("status.json");
    let status: serde_json::Value = serde_json::from_slice(&fs::read(status).unwrap()).unwrap();
    fs::read_to_string(format!("/proc/{}/cgroup", status["shim"]["pid"])).unwrap()
}

#[test]
#[ignore = "needs the machine"]
fn own_containers_are_in_a_scope_that_systemd_leaves_alone() {
    assert_in_the_machine();
    let world = World::new();
    let unit = scope(&world);
    let home = format!("system.slice/{unit}");
    run(&world, "one", &[]);
    let one = group(&world, &home, "one");
    let limits = |group: &Path| {
        ["memory.max", "cpu.max", "pids.max"]
            .map(|file| fs::read_to_string(group.join(file)).unwrap().trim().to_owned())
    };
    let asked = ["67108864", "50000 100000", "23"];
    assert_eq!(limits(&one), asked);
    assert_eq!(supervisor(&world, "one"), format!("0::/{home}/engine\n"));
    let pid = world.field("one", "pid");
    systemctl(&["daemon-reload"]);
    systemctl(&["daemon-reexec"]);
    systemctl(&["set-property", "--runtime", "system.slice", "CPUWeight=200"]);
    systemctl(&["set-property", "--runtime", &unit, "MemoryMax=512M"]);
    systemctl(&["daemon-reload"]);
    assert_eq!(limits(&one), asked, "whatever systemd does");
    assert_eq!(fs::read_to_string(one.parent().unwrap().join("memory.max")).unwrap(), "536870912\n");
    assert_eq!(world.field("one", "pid"), pid);
    assert!(world.run(&["doctor"]).stdout.contains(&format!("version 2, by systemd in {home}")));

    world.ok(&["rm", "-f", "one"]);
    eventually("the scope ends with the last in it", || !Path::new("/sys/fs/cgroup").join(&home).exists());
    run(&world, "two", &["--restart", "always"]);
    assert_eq!(limits(&group(&world, &home, "two")), asked);
    run(&world, "three", &["--cgroup-parent", "shop.slice"]);
    let of_slice = format!("stack-{}-shop.scope", world.roots.key());
    assert_eq!(limits(&group(&world, &format!("shop.slice/{of_slice}"), "three")), asked);
    assert_eq!(supervisor(&world, "three"), format!("0::/{home}/engine\n"));

    systemctl(&["stop", &unit]);
    eventually("the scope's end is that of all in it", || world.field("two", "state") == "exited");
    world.ok(&["system", "boot"]);
    assert_eq!(world.field("two", "state"), "running");
    assert_eq!(limits(&group(&world, &home, "two")), asked);
    world.ok(&["rm", "-f", "two", "three"]);
    eventually("its end", || !Path::new("/sys/fs/cgroup").join(&home).exists());
}

/// Its hierarchies of controllers are nobody's; systemd knows processes by one of its own.
#[test]
#[ignore = "needs the machine"]
fn with_version_1_processes_are_in_the_scope() {
    assert_in_the_machine();
    let world = World::new();
    let home = format!("system.slice/{}", scope(&world));
    run(&world, "one", &[]);
    let limit = group(&world, "memory", "one").join("memory.limit_in_bytes");
    for pid in [world.field("one", "pid").to_string(), "self".to_owned()] {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let is_in = ["name=systemd:/", "0::/"].map(|begin| groups.contains(&format!("{begin}{home}\n")));
        assert_eq!(is_in, [pid != "self"; 2], "{groups}");
    }
    assert!(supervisor(&world, "one").contains(&format!("name=systemd:/{home}\n")));
    systemctl(&["daemon-reload"]);
    assert_eq!(fs::read_to_string(&limit).unwrap(), "67108864\n");
    assert!(world.run(&["doctor"]).stdout.contains(&format!("version 1, by systemd in {home}")));

    let bundle = Bundle::new(&world, "exec sleep 1000", |config| {
        config["linux"]["cgroupsPath"] = json!("system.slice:stack:one");
    });
    let directory = bundle.directory.to_str().unwrap();
    let refused = bundle.fails(&["--systemd-cgroup", "create", "--bundle", directory, &bundle.id]);
    assert!(
        refused.contains("--systemd-cgroup is not supported where systemd has control groups of version 1"),
        "{refused}"
    );
    world.ok(&["rm", "-f", "one"]);
}

/// Of controllers that hosts of containers hardly have any more.
#[test]
#[ignore = "needs the machine"]
fn with_version_1_packets_have_a_class_and_a_priority() {
    assert_in_the_machine();
    let world = World::new();
    let bundle = Bundle::new(&world, "exec sleep 1000", |config| {
        config["linux"]["resources"]["network"] =
            json!({"classID": 0x10_0001, "priorities": [{"name": "lo", "priority": 5}]});
    });
    bundle.create(&[]);
    let setting = |controller: &str, file: &str| {
        let group = Path::new("/sys/fs/cgroup").join(controller).join(&bundle.id);
        fs::read_to_string(group.join(file)).unwrap()
    };
    assert_eq!(setting("net_cls", "net_cls.classid"), "1048577\n");
    let priorities = setting("net_prio", "net_prio.ifpriomap");
    assert!(priorities.lines().any(|line| line == "lo 5"), "{priorities}");
    bundle.ok(&["delete", "--force", &bundle.id]);
    bundle.leaves_nothing();
}
