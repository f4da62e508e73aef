//! `stack oci-runtime`: user, time, mount and control group namespaces, and mounts whose files have other ids.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, Command};

use serde_json::{Value, json};

use crate::oci_runtime::Bundle;
use crate::support::{World, eventually};

/// Gives the root file system to the root of [`with_users`], as engines do.
pub fn give_files(bundle: &Bundle<'_>) {
    let root = bundle.directory.join("rootfs");
    assert!(Command::new("chown").args(["-R", "100000:100000"]).arg(root).status().unwrap().success());
}

/// Adds a user namespace whose root is 100000 of the host.
fn with_users(config: &mut Value) {
    let linux = &mut config["linux"];
    linux["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let mappings = json!([{"containerID": 0, "hostID": 100_000, "size": 1000},
                          {"containerID": 1000, "hostID": 5000, "size": 10}]);
    linux["uidMappings"] = mappings.clone();
    linux["gidMappings"] = mappings;
    linux.as_object_mut().unwrap().remove("sysctl");
}

fn namespace_of(config: &mut Value, kind: &str, path: &str) {
    let all = config["linux"]["namespaces"].as_array_mut().unwrap();
    all.retain(|one| one["type"] != kind);
    all.push(json!({"type": kind, "path": path}));
}

fn mount(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().unwrap().push(mount);
}

fn output_of(bundle: &Bundle<'_>) -> String {
    let output = bundle.run(&["run", "--bundle", bundle.directory.to_str().unwrap(), &bundle.id]);
    assert_eq!(output.code, 0, "{output:#?}");
    bundle.leaves_nothing();
    output.stdout
}

#[test]
fn root_of_a_user_namespace_has_the_ids_of_its_mappings() {
    let world = World::new();
    let script = "id -u; tr -s ' ' < /proc/self/uid_map; cat /proc/self/oom_score_adj; touch /dev/shm/x; echo > /dev/stderr; \
                  exec sleep 1000";
    let bundle = Bundle::new(&world, script, |config| {
        with_users(config);
        config["process"]["oomScoreAdj"] = json!(77);
        config["linux"]["devices"] = json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]);
    });
    give_files(&bundle);
    let out = bundle.create(&[]);
    let pid = bundle.state()["pid"].to_string();
    bundle.ok(&["start", &bundle.id]);
    let expected = "0\n 0 100000 1000\n 1000 5000 10\n77\n";
    eventually("it writes", || fs::read_to_string(&out).unwrap() == expected);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t100000\t100000\t100000\t100000\n"), "{status}");
    assert_eq!(bundle.ok(&["exec", "--user", "1003:1004", &bundle.id, "sh", "-c", "id -u; id -g"]), "1003\n1004\n");
    let same = Bundle::new(&world, "id -u; tr -s ' ' < /proc/self/gid_map", |config| {
        config["linux"].as_object_mut().unwrap().remove("sysctl");
        namespace_of(config, "user", &format!("/proc/{pid}/ns/user"));
    });
    give_files(&same);
    let output = same.run(&["run", "--bundle", same.directory.to_str().unwrap(), &same.id]);
    assert_eq!(output.stdout, "0\n 0 100000 1000\n 1000 5000 10\n", "{output:#?}");
    bundle.ok(&["delete", "--force", &bundle.id]);
    bundle.leaves_nothing();
}

#[test]
fn what_is_bound_shows_its_files_with_mapped_ids() {
    let world = World::new();
    let source = world.directory.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "").unwrap();
    chown(source.join("file"), Some(3), Some(4)).unwrap();
    let bind =
        |to: &str, options: &[&str]| json!({"destination": to, "type": "bind", "source": source, "options": options});
    let with = |mut mount: Value| {
        mount["uidMappings"] = json!([{"containerID": 3, "hostID": 33, "size": 1}]);
        mount["gidMappings"] = json!([{"containerID": 4, "hostID": 44, "size": 1}]);
        mount
    };
    let script = |paths: &str| format!("for path in {paths}; do stat -c '%u %g' $path/file; done");
    let bundle = Bundle::new(&world, &script("/plain /own"), |config| {
        mount(config, bind("/plain", &["rbind"]));
        mount(config, with(bind("/own", &["rbind", "ridmap"])));
    });
    assert_eq!(output_of(&bundle), "3 4\n33 44\n");
    let bundle = Bundle::new(&world, &script("/container /none"), |config| {
        with_users(config);
        mount(config, bind("/container", &["bind", "idmap"]));
        mount(config, bind("/none", &["bind"]));
    });
    give_files(&bundle);
    assert_eq!(output_of(&bundle), "3 4\n65534 65534\n");
}

#[test]
fn clocks_begin_where_the_configuration_says() {
    let world = World::new();
    let days = 864_000;
    let bundle = Bundle::new(&world, "exec sleep 1000", |config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
        config["linux"]["timeOffsets"] = json!({"boottime": {"secs": days}, "monotonic": {"secs": 5, "nanosecs": 7}});
    });
    bundle.create(&[]);
    bundle.ok(&["start", &bundle.id]);
    let uptime = |text: &str| text.split('.').next().unwrap().parse::<i64>().unwrap();
    let host = uptime(&fs::read_to_string("/proc/uptime").unwrap());
    let pid = bundle.state()["pid"].to_string();
    let inside = bundle.ok(&["exec", &bundle.id, "cat", "/proc/uptime", "/proc/self/timens_offsets"]);
    assert!((host + days..host + days + 100).contains(&uptime(&inside)), "{host}: {inside}");
    let offsets: Vec<&str> = inside.split_whitespace().skip(2).collect();
    assert_eq!(offsets, ["monotonic", "5", "7", "boottime", "864000", "0"]);
    let joined = |of: &str| fs::read_link(format!("/proc/{of}/ns/time")).unwrap();
    assert_ne!(joined(&pid), joined("self"));
    let same = Bundle::new(&world, "cat /proc/uptime", |config| {
        namespace_of(config, "time", &format!("/proc/{pid}/ns/time"));
    });
    let output = same.run(&["run", "--bundle", same.directory.to_str().unwrap(), &same.id]);
    assert!(uptime(&output.stdout) >= host + days, "{output:#?}");
    bundle.ok(&["delete", "--force", &bundle.id]);
    bundle.leaves_nothing();
}

/// A process that waits in new namespaces, and is ended with this.
struct Waiting(Child);

impl Waiting {
    fn new(words: &[&str]) -> Self {
        let child = Command::new("unshare").args(words).args(["sleep", "1000"]).spawn().unwrap();
        let started = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap().starts_with(b"sleep");
        eventually("it waits in its namespaces", || started(child.id()));
        Self(child)
    }

    fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.0.id())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn mount_and_cgroup_namespaces_are_joined_by_path() {
    let world = World::new();
    let waiting = Waiting::new(&["--mount", "--cgroup"]);
    let script = "stat -L -c %i /proc/self/ns/mnt /proc/self/ns/cgroup; cat /bound/file; touch /inside";
    let source = world.directory.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "bound\n").unwrap();
    let bundle = Bundle::new(&world, script, |config| {
        namespace_of(config, "mount", &waiting.path("mnt"));
        namespace_of(config, "cgroup", &waiting.path("cgroup"));
        mount(config, json!({"destination": "/bound", "source": source, "options": ["rbind", "ro"]}));
    });
    let number = |kind: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(waiting.path(kind)).unwrap());
    assert_eq!(output_of(&bundle), format!("{}\n{}\nbound\n", number("mnt"), number("cgroup")));
    assert!(bundle.directory.join("rootfs/inside").exists() && !Path::new("/inside").exists());
}

#[test]
fn what_was_mounted_is_changed_by_a_later_remount() {
    let world = World::new();
    let script = "grep -E ' /(one|two) ' /proc/mounts | cut -d ' ' -f 2,4; touch /one/x || echo refused";
    let tmpfs =
        |to: &str| json!({"destination": to, "type": "tmpfs", "source": "x", "options": ["size=64k", "mode=755"]});
    let bundle = Bundle::new(&world, script, |config| {
        for one in [
            tmpfs("/one"),
            tmpfs("/two"),
            json!({"destination": "/one", "type": "none", "options": ["bind", "remount", "ro", "nosuid"]}),
            json!({"destination": "/two", "type": "tmpfs", "options": ["remount", "size=128k", "noexec"]}),
        ] {
            mount(config, one);
        }
    });
    let text = output_of(&bundle);
    let options = |path: &str| text.lines().find_map(|line| line.strip_prefix(path)).unwrap().trim().to_owned();
    assert!(options("/one").starts_with("ro,nosuid") && options("/one").contains("size=64k"), "{text}");
    assert!(options("/two").starts_with("rw,noexec") && options("/two").contains("size=128k"), "{text}");
    assert!(text.ends_with("refused\n"), "{text}");
    let bundle = Bundle::new(&world, "true", |config| {
        mount(config, json!({"destination": "/bin", "options": ["bind", "remount", "ro"]}));
    });
    let said = bundle.fails(&["create", "--bundle", bundle.directory.to_str().unwrap(), &bundle.id]);
    assert!(said.contains("nothing is mounted there"), "{said}");
    bundle.leaves_nothing();
}
