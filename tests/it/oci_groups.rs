//! `stack oci-runtime` and control groups: each limit of config.json as the kernel has it, in whichever version this
//! host has. The machine of tests/it/vm runs these with version 2.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::oci_runtime::Bundle;
use crate::support::{World, eventually};

/// Whether this host has version 2 alone.
fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// What the kernel has in this file of the container's group.
#[track_caller]
fn value(bundle: &Bundle<'_>, file: &str) -> String {
    let groups = bundle.group();
    let found = groups.lines().find_map(|group| fs::read_to_string(format!("{group}/{file}")).ok());
    found.unwrap_or_else(|| panic!("no {file} in {groups}")).trim().to_owned()
}

/// Files and values, of version 2 or of version 1.
#[track_caller]
fn assert_values(bundle: &Bundle<'_>, two: &[(&str, &str)], one: &[(&str, &str)]) {
    let expected = if is_unified() { two } else { one };
    let found: Vec<(&str, String)> = expected.iter().map(|(file, _)| (*file, value(bundle, file))).collect();
    let found: Vec<(&str, &str)> = found.iter().map(|(file, value)| (*file, value.as_str())).collect();
    assert_eq!(found, expected);
}

/// The number of some disk of this host.
fn disk() -> (u64, u64) {
    let disks = fs::read_dir("/sys/block").unwrap().map(|disk| disk.unwrap().path());
    let number = |path: &Path| fs::read_to_string(path.join("dev")).unwrap().trim().to_owned();
    let text = disks.map(|path| number(&path)).min().expect("a disk in /sys/block");
    let (major, minor) = text.split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

fn limited(config: &mut Value, limits: Value) {
    config["linux"]["resources"].as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
}

#[test]
fn limits_of_the_configuration_are_in_the_kernel() {
    let world = World::new();
    let (major, minor) = disk();
    let bundle = Bundle::new(&world, "sleep 1000", |config| {
        let rate = json!([{"major": major, "minor": minor, "rate": 1_048_576}]);
        let operations = json!([{"major": major, "minor": minor, "rate": 100}]);
        limited(
            config,
            json!({
                "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
                "cpu": {"shares": 512, "quota": 50_000, "period": 200_000, "burst": 10_000, "cpus": "0", "mems": "0"},
                "pids": {"limit": 23},
                "blockIO": {"throttleReadBpsDevice": rate, "throttleWriteIOPSDevice": operations},
            }),
        );
    });
    bundle.create(&[]);
    let device = format!("{major}:{minor}");
    assert_values(
        &bundle,
        &[
            ("memory.max", "67108864"),
            ("memory.swap.max", "33554432"),
            ("memory.low", "33554432"),
            ("cpu.weight", "59"),
            ("cpu.max", "50000 200000"),
            ("cpu.max.burst", "10000"),
            ("cpuset.cpus", "0"),
            ("cpuset.mems", "0"),
            ("pids.max", "23"),
            ("io.max", &format!("{device} rbps=1048576 wbps=max riops=max wiops=100")),
        ],
        &[
            ("memory.limit_in_bytes", "67108864"),
            ("memory.memsw.limit_in_bytes", "100663296"),
            ("memory.soft_limit_in_bytes", "33554432"),
            ("cpu.shares", "512"),
            ("cpu.cfs_quota_us", "50000"),
            ("cpu.cfs_period_us", "200000"),
            ("cpu.cfs_burst_us", "10000"),
            ("cpuset.cpus", "0"),
            ("cpuset.mems", "0"),
            ("pids.max", "23"),
            ("blkio.throttle.read_bps_device", &format!("{device} 1048576")),
            ("blkio.throttle.write_iops_device", &format!("{device} 100")),
        ],
    );
    bundle.ok(&["delete", &bundle.id]);
    bundle.leaves_nothing();
}

/// Each version has fields that the other has not: honoured by the one, refused by the other, by name.
#[test]
fn what_one_version_alone_has_is_refused_by_the_other() {
    let world = World::new();
    let attempt = |limits: Value, works: bool, name: &str, check: &dyn Fn(&Bundle<'_>)| {
        let bundle = Bundle::new(&world, "sleep 1000", |config| limited(config, limits));
        if works {
            bundle.create(&[]);
            check(&bundle);
            bundle.ok(&["delete", &bundle.id]);
        } else {
            let said = bundle.fails(&["create", "--bundle", bundle.directory.to_str().unwrap(), &bundle.id]);
            assert!(said.contains(name), "{name}: {said}");
        }
        bundle.leaves_nothing();
        fs::remove_dir_all(&bundle.directory).unwrap();
    };
    let unified = is_unified();
    let by_name = json!({"unified": {"memory.high": "33554432", "pids.max": "9", "cpu.weight": "77"}});
    attempt(by_name, unified, "linux.resources.unified", &|bundle| {
        let expected = [("memory.high", "33554432"), ("pids.max", "9"), ("cpu.weight", "77")];
        assert_values(bundle, &expected, &[]);
    });
    attempt(json!({"memory": {"swappiness": 7}}), !unified, "linux.resources.memory.swappiness", &|bundle| {
        assert_eq!(value(bundle, "memory.swappiness"), "7");
    });
    attempt(json!({"memory": {"disableOOMKiller": true}}), !unified, "memory.disableOOMKiller", &|bundle| {
        assert!(value(bundle, "memory.oom_control").contains("oom_kill_disable 1"));
    });
    attempt(json!({"memory": {"kernelTCP": 1 << 20}}), !unified, "linux.resources.memory.kernelTCP", &|bundle| {
        assert_eq!(value(bundle, "memory.kmem.tcp.limit_in_bytes"), "1048576");
    });
    let realtime = !unified && Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists();
    let refusal = if unified { "linux.resources.cpu.realtimeRuntime" } else { "cpu.rt_runtime_us" };
    attempt(json!({"cpu": {"realtimeRuntime": 1000}}), realtime, refusal, &|bundle| {
        assert_eq!(value(bundle, "cpu.rt_runtime_us"), "1000");
    });
    attempt(json!({"network": {"classID": 1_048_577}}), false, "net", &|_| {});
    let pages = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok_and(|all| all.contains("hugetlb"));
    let limit = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]});
    attempt(limit, pages, "hugetlb.2MB", &|bundle| {
        assert_values(bundle, &[("hugetlb.2MB.max", "4194304"), ("hugetlb.2MB.rsvd.max", "4194304")], &[]);
    });
    // No such adapter is there: the kernel says so, or that nobody counts them.
    attempt(json!({"rdma": {"mlx9_9": {"hcaHandles": 1}}}), false, "rdma.max", &|_| {});
}

#[test]
fn limits_change_while_it_runs() {
    let world = World::new();
    let bundle = Bundle::new(&world, "echo here; exec sleep 1000", |config| {
        limited(config, json!({"memory": {"limit": 64 << 20, "swap": 64 << 20}}));
    });
    let out = bundle.create(&[]);
    bundle.ok(&["start", &bundle.id]);
    eventually("it runs", || fs::read_to_string(&out).unwrap() == "here\n");
    let words = ["update", "--memory", "96m", "--memory-swap", "128m", "--memory-reservation", "16m", "--cpu-quota"];
    let more = ["40000", "--cpu-period", "80000", "--cpu-burst", "5000", "--cpu-shares", "2048", "--pids-limit", "31"];
    bundle.ok(&[&words[..], &more, &["--cpuset-cpus", "0", "--cpuset-mems", "0", &bundle.id]].concat());
    assert_values(
        &bundle,
        &[
            ("memory.max", "100663296"),
            ("memory.swap.max", "33554432"),
            ("memory.low", "16777216"),
            ("cpu.max", "40000 80000"),
            ("cpu.max.burst", "5000"),
            ("cpu.weight", "174"),
            ("cpuset.cpus", "0"),
            ("cpuset.mems", "0"),
            ("pids.max", "31"),
        ],
        &[
            ("memory.limit_in_bytes", "100663296"),
            ("memory.memsw.limit_in_bytes", "134217728"),
            ("memory.soft_limit_in_bytes", "16777216"),
            ("cpu.cfs_quota_us", "40000"),
            ("cpu.cfs_period_us", "80000"),
            ("cpu.cfs_burst_us", "5000"),
            ("cpu.shares", "2048"),
            ("cpuset.cpus", "0"),
            ("cpuset.mems", "0"),
            ("pids.max", "31"),
        ],
    );
    // What is not named stays; from a file as from words.
    let mut update = bundle.command(&["update", "--resources", "-", &bundle.id]);
    let mut child = update.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(br#"{"cpu": {"quota": 20000}, "memory": {"limit": 83886080}}"#).unwrap();
    assert!(child.wait().unwrap().success());
    assert_values(
        &bundle,
        &[("cpu.max", "20000 80000"), ("memory.max", "83886080"), ("memory.swap.max", "33554432")],
        &[
            ("cpu.cfs_quota_us", "20000"),
            ("cpu.cfs_period_us", "80000"),
            ("memory.limit_in_bytes", "83886080"),
            ("memory.memsw.limit_in_bytes", "134217728"),
        ],
    );
    let small = world.file("small.json", r#"{"memory": {"limit": 4096, "checkBeforeUpdate": true}}"#);
    let said = bundle.fails(&["update", "-r", small.to_str().unwrap(), &bundle.id]);
    assert!(said.contains("checkBeforeUpdate") && said.contains("in use"), "{said}");
    assert!(bundle.fails(&["update", "--l3-cache-schema", "x", &bundle.id]).contains("--l3-cache-schema"));
    assert!(bundle.fails(&["update", "--kernel-memory", "1m", &bundle.id]).contains("memory.kernel"));
    bundle.ok(&["delete", "--force", &bundle.id]);
    bundle.leaves_nothing();
}

/// A node of a device that was not given can be made, and does not open.
#[test]
fn devices_open_only_by_a_rule() {
    let world = World::new();
    let script = "/bin/busybox mknod /messages c 1 11; /bin/busybox head -c 0 /messages && echo opened; \
                  echo x > /messages || echo refused; echo x > /dev/null && echo usual";
    for (rule, expected) in [(None, "refused\nusual\n"), (Some("r"), "opened\nrefused\nusual\n")] {
        let bundle = Bundle::new(&world, script, |config| {
            for set in ["bounding", "permitted", "effective"] {
                let all = config["process"]["capabilities"][set].as_array_mut().unwrap();
                // The kernel's messages need the latter, too.
                all.extend([json!("CAP_MKNOD"), json!("CAP_SYSLOG")]);
            }
            let mut rules = vec![json!({"allow": false, "access": "rwm"})];
            rules.extend(
                rule.map(|access| json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": access})),
            );
            limited(config, json!({"devices": rules}));
        });
        let output = bundle.run(&["run", "--bundle", bundle.directory.to_str().unwrap(), &bundle.id]);
        assert_eq!(output.stdout, expected, "{output:#?}");
        bundle.leaves_nothing();
        fs::remove_dir_all(&bundle.directory).unwrap();
    }
}

#[test]
fn events_have_all_figures_and_tell_of_memory_that_ran_out() {
    let world = World::new();
    let hog = "read go; (x=a; while :; do x=$x$x; done); echo survived; exec sleep 1000";
    let bundle = Bundle::new(&world, &format!("echo here; mkfifo /gate; exec 0<>/gate; {hog}"), |config| {
        let cpu = json!({"quota": 100_000, "period": 100_000});
        limited(config, json!({"memory": {"limit": 24 << 20, "swap": 24 << 20}, "pids": {"limit": 9}, "cpu": cpu}));
    });
    std::os::unix::fs::symlink("busybox", bundle.directory.join("rootfs/bin/mkfifo")).unwrap();
    let out = bundle.create(&[]);
    bundle.ok(&["start", &bundle.id]);
    eventually("it runs", || fs::read_to_string(&out).unwrap() == "here\n");
    let stats: Value = serde_json::from_str(&bundle.ok(&["events", "--stats", &bundle.id])).unwrap();
    let data = &stats["data"];
    assert_eq!((&stats["type"], &stats["id"]), (&json!("stats"), &json!(bundle.id)));
    assert!(data["cpu"]["usage"]["total"].as_u64() > Some(0), "{stats}");
    assert!(data["cpu"]["usage"]["kernel"].is_u64() && data["cpu"]["usage"]["user"].is_u64(), "{stats}");
    assert_eq!(data["pids"], json!({"current": 1, "limit": 9}));
    assert_eq!(data["memory"]["usage"]["limit"], 24 << 20);
    assert_eq!(data["memory"]["usage"]["failcnt"], 0, "{stats}");
    assert!(data["memory"]["usage"]["usage"].as_u64() > Some(0), "{stats}");
    assert!(data["memory"]["raw"]["pgfault"].as_u64() > Some(0), "{stats}");
    assert_eq!(data["cpuset"]["mems"], json!([0]), "{stats}");
    assert!(data["blkio"].is_object() && data["hugetlb"].is_object() && data.get("intel_rdt").is_none(), "{stats}");
    if is_unified() && Path::new("/proc/pressure/cpu").exists() {
        assert!(
            data["cpu"]["psi"]["some"]["avg10"].is_f64() && data["memory"]["psi"]["full"]["total"].is_u64(),
            "{stats}"
        );
        assert!(data["hugetlb"]["2MB"]["failcnt"].is_u64(), "{stats}");
    }
    let mut follow = bundle.command(&["events", "--interval", "100ms", &bundle.id]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next = || lines.next().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    assert_eq!((next().unwrap()["type"].clone(), next().unwrap()["type"].clone()), (json!("stats"), json!("stats")));
    bundle.ok(&["exec", &bundle.id, "sh", "-c", "echo > /gate"]);
    while next().expect("an event of the kind oom")["type"] != "oom" {}
    eventually("its first process goes on", || fs::read_to_string(&out).unwrap().ends_with("survived\n"));
    let stats: Value = serde_json::from_str(&bundle.ok(&["events", "--stats", &bundle.id])).unwrap();
    assert!(stats["data"]["cpu"]["throttling"]["periods"].as_u64() > Some(0), "{stats}");
    assert!(stats["data"]["memory"]["usage"]["max"].as_u64() > Some(16 << 20), "{stats}");
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    while next().is_some() {}
    assert!(follow.wait().unwrap().success(), "it ends with the container");
    bundle.ok(&["delete", &bundle.id]);
    bundle.leaves_nothing();
}
