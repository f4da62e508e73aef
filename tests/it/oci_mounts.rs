//! `stack oci-runtime`: mounts, how they are passed on, what is write-protected, and where they go.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::oci_namespaces::give_files;
use crate::oci_runtime::Bundle;
use crate::support::{World, eventually};

fn add(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().unwrap().push(mount);
}

fn bind(from: &Path, to: &str, options: &[&str]) -> Value {
    json!({"destination": to, "type": "bind", "source": from, "options": options})
}

fn output_of(bundle: &Bundle<'_>) -> String {
    let output = bundle.run(&["run", "--bundle", bundle.directory.to_str().unwrap(), &bundle.id]);
    assert_eq!(output.code, 0, "{output:#?}");
    bundle.leaves_nothing();
    output.stdout
}

/// A file system of the host's, of which others hear, that goes with the test.
struct Shared(PathBuf);

impl Shared {
    fn new(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        let none = None::<&str>;
        mount(Some("shared"), &path, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        mount(none, &path, none, MsFlags::MS_SHARED, none).unwrap();
        for name in ["before", "after", "inside"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        mount(Some("before"), &path.join("before"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
        Self(path)
    }

    fn has(&self, name: &str) -> bool {
        let path = self.0.join(name);
        fs::metadata(&path).unwrap().dev() != fs::metadata(&self.0).unwrap().dev()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for name in ["inside", "after", "before", ""] {
            umount2(&self.0.join(name), MntFlags::MNT_DETACH).ok();
        }
    }
}

#[test]
fn mounts_are_passed_on_as_their_options_say() {
    let world = World::new();
    let shared = Shared::new(world.directory.join("shared"));
    let bundle = Bundle::new(&world, "exec sleep 1000", |config| {
        for word in ["rslave", "rshared", "rprivate"] {
            add(config, bind(&shared.0, &format!("/{word}"), &["rbind", word]));
        }
        add(config, bind(&shared.0, "/alone", &["bind"]));
        for set in ["bounding", "permitted", "effective"] {
            config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
        }
        config["linux"]["rootfsPropagation"] = json!("shared");
    });
    bundle.create(&[]);
    bundle.ok(&["start", &bundle.id]);
    let none = None::<&str>;
    mount(Some("after"), &shared.0.join("after"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
    let kinds = |names: &str| {
        let script = format!("for path in {names}; do grep -o \" $path \" /proc/self/mountinfo; done");
        bundle.run(&["exec", &bundle.id, "sh", "-c", &script]).stdout
    };
    let at = |name: &str| kinds(&format!("/rslave/{name} /rshared/{name} /rprivate/{name} /alone/{name}"));
    assert_eq!(at("before"), " /rslave/before \n /rshared/before \n /rprivate/before \n");
    assert_eq!(at("after"), " /rslave/after \n /rshared/after \n");
    bundle.ok(&["exec", &bundle.id, "busybox", "mount", "-t", "tmpfs", "x", "/rslave/inside"]);
    assert!(!shared.has("inside"));
    bundle.ok(&["exec", &bundle.id, "busybox", "mount", "-t", "tmpfs", "x", "/rshared/inside"]);
    eventually("the host hears of it", || shared.has("inside"));
    let root = bundle.ok(&["exec", &bundle.id, "sh", "-c", "grep ' / / \\| /[^ ]*rootfs / ' /proc/self/mountinfo"]);
    assert!(root.contains(" shared:"), "{root}");
    bundle.ok(&["delete", "--force", &bundle.id]);
}

#[test]
fn what_is_write_protected_is_so_alone_or_with_all_below_it() {
    let world = World::new();
    let shared = Shared::new(world.directory.join("shared"));
    let script = "for path in /ro /rro /mixed; do for below in $path $path/before; do \
                  touch $below/x 2> /dev/null && echo $below; done; done; \
                  touch /dev/x 2> /dev/null || echo dev; echo > /dev/null; ls /dev/shm; \
                  grep -E ' /(noatime|strict) ' /proc/self/mounts | cut -d' ' -f4 | cut -d, -f1,2";
    let bundle = Bundle::new(&world, script, |config| {
        add(config, bind(&shared.0, "/ro", &["rbind", "ro"]));
        add(config, bind(&shared.0, "/rro", &["rbind", "rro"]));
        add(config, bind(&shared.0, "/mixed", &["rbind", "rro", "rw"]));
        add(config, bind(&shared.0.join("after"), "/noatime", &["rbind", "rnoatime"]));
        add(config, bind(&shared.0.join("after"), "/strict", &["bind", "noatime", "strictatime"]));
        let dev = config["mounts"].as_array_mut().unwrap().iter_mut().find(|one| one["destination"] == "/dev");
        dev.unwrap()["options"].as_array_mut().unwrap().push(json!("ro"));
    });
    assert_eq!(output_of(&bundle), "/ro/before\ndev\nrw,noatime\nrw\n");
}

#[test]
fn what_covers_begins_as_its_options_say() {
    let world = World::new();
    let script = "cat /copied/file /relative; stat -c %a /copied /new/place /there /said; ls /empty";
    let bundle = Bundle::new(&world, script, |config| {
        let tmpfs =
            |to: &str, options: Value| json!({"destination": to, "type": "tmpfs", "source": "x", "options": options});
        add(config, tmpfs("/copied", json!(["tmpcopyup"])));
        add(config, tmpfs("/empty", json!([])));
        add(config, tmpfs("/new/place", json!([])));
        add(config, tmpfs("/there", json!([])));
        add(config, tmpfs("/said", json!(["mode=1500"])));
        add(config, json!({"destination": "/relative", "source": "beside", "options": ["bind"]}));
    });
    let root = bundle.directory.join("rootfs");
    for (name, mode) in [("copied", 0o751), ("there", 0o710), ("said", 0o755), ("empty", 0o755)] {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("file"), "copied\n").unwrap();
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(bundle.directory.join("beside"), "beside\n").unwrap();
    assert_eq!(output_of(&bundle), "copied\nbeside\n751\n1777\n710\n1500\n");
}

#[test]
fn a_source_below_the_root_is_what_earlier_mounts_made_of_it() {
    let world = World::new();
    let source = world.directory.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "of an earlier mount\n").unwrap();
    for users in [false, true] {
        let bundle = Bundle::new(&world, "cat /copy/file /whole/file", |config| {
            let root = world.directory.join(if users { "bundle-1/rootfs" } else { "bundle/rootfs" });
            add(config, bind(&source, "/first", &["bind"]));
            add(config, bind(&root.join("first"), "/copy", &["rbind"]));
            // The destination too may be as it is seen from outside.
            add(config, bind(&root.join("first"), root.join("whole").to_str().unwrap(), &["bind"]));
            if users {
                config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
                let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
                config["linux"]["uidMappings"] = ids.clone();
                config["linux"]["gidMappings"] = ids;
            }
        });
        for name in ["first", "copy", "whole"] {
            fs::create_dir(bundle.directory.join("rootfs").join(name)).unwrap();
        }
        if users {
            give_files(&bundle);
        }
        assert_eq!(output_of(&bundle), "of an earlier mount\nof an earlier mount\n");
    }
}

#[test]
fn links_that_lead_to_nothing_are_followed_inside_of_the_root() {
    let world = World::new();
    let bundle = Bundle::new(&world, "cat /a/b/c/file /d/e", |config| {
        let source = Path::new("/proc/sys/kernel/ostype");
        add(config, bind(source, "/link/file", &["bind"]));
        add(config, bind(source, "/trailing", &["bind"]));
    });
    let root = bundle.directory.join("rootfs");
    symlink("/a/b/c", root.join("link")).unwrap();
    symlink("../../d/e", root.join("trailing")).unwrap();
    assert_eq!(output_of(&bundle), "Linux\nLinux\n");
    assert!(root.join("a/b/c/file").exists() && root.join("d/e").exists() && !Path::new("/d/e").exists());
    let proc = Bundle::new(&world, "true", |_| ());
    symlink("/elsewhere", proc.directory.join("rootfs/proc"))
        .or_else(|_| {
            fs::remove_dir_all(proc.directory.join("rootfs/proc"))?;
            symlink("/elsewhere", proc.directory.join("rootfs/proc"))
        })
        .unwrap();
    let said = proc.fails(&["create", "--bundle", proc.directory.to_str().unwrap(), &proc.id]);
    assert!(said.contains("must be mounted on ordinary directory"), "{said}");
}
