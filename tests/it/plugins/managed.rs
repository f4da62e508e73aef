//! Plugins that the engine runs itself, through a real registry.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::image::server::Registry;
use crate::support::{World, eventually};

/// A folder to make a plugin of: the program of `plugin.py`, and what it needs of this host.
fn folder(world: &World, description: &str) -> PathBuf {
    let folder = world.directory.join("plugin");
    let rootfs = folder.join("rootfs");
    let host = ["usr", "bin", "lib", "lib64", "etc/alternatives"];
    for name in host.iter().chain(&["state", "run/docker/plugins", "tmp", "proc", "dev", "sys"]) {
        fs::create_dir_all(rootfs.join(name)).unwrap();
    }
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/plugins/plugin.py");
    fs::copy(program, rootfs.join("plugin.py")).unwrap();
    let mounts: Vec<Value> = host.iter().filter(|name| PathBuf::from(format!("/{name}")).exists()).map(|name| {
        json!({"name": name, "source": format!("/{name}"), "destination": format!("/{name}"), "type": "bind", "options": ["rbind", "ro"]})
    }).collect();
    let config = json!({
        "description": description,
        "interface": {"types": ["docker.volumedriver/1.0"], "socket": "disks.sock"},
        "entrypoint": ["/usr/bin/python3", "/plugin.py", "/run/docker/plugins/disks.sock", "/state"],
        "network": {"type": "host"},
        "propagatedMount": "/state",
        "linux": {"capabilities": ["CAP_SYS_ADMIN"], "devices": null},
        "env": [{"name": "MODE", "settable": ["value"], "value": "plain"}, {"name": "FIXED", "value": "1"}],
        "mounts": mounts,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    folder
}

fn inspect(world: &World, template: &str) -> String {
    world.ok(&["plugin", "inspect", "disks", "--format", template]).trim().to_owned()
}

/// The first process of the only plugin.
fn process(world: &World) -> Pid {
    let containers = world.roots.run.join("plugins/containers");
    let one = fs::read_dir(containers).unwrap().next().unwrap().unwrap().path();
    let status: Value = serde_json::from_str(&fs::read_to_string(one.join("status.json")).unwrap()).unwrap();
    Pid::from_raw(i32::try_from(status["process"]["pid"].as_i64().unwrap()).unwrap())
}

fn started_with(pid: Pid, word: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/environ")).unwrap_or_default().split('\0').any(|one| one == word)
}

#[test]
fn a_plugin_is_made_pushed_installed_with_consent_and_used() {
    let world = World::new();
    let registry = Registry::start(&world.directory, None);
    let name = format!("{}/disks:1", registry.address);
    let made = folder(&world, "disks in memory");
    assert_eq!(world.ok(&["plugin", "create", &name, made.to_str().unwrap()]), format!("{name}\n"));
    let said = world.fails(1, &["plugin", "create", &name, made.to_str().unwrap()]);
    assert!(said.contains("is installed already"), "{said}");
    world.ok(&["plugin", "push", &name]);
    world.ok(&["plugin", "rm", &name]);
    assert_eq!(world.ok(&["plugin", "ls", "-q"]), "");
    // Nobody is there to be asked.
    let install = ["plugin", "install", "--alias", "disks", &name, "MODE=loud"];
    let said = world.fails(1, &install);
    for word in ["network: [host]", "mount: [/usr", "capabilities: [CAP_SYS_ADMIN]", "--grant-all-permissions"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(world.ok(&["plugin", "ls", "-q"]), "");
    let said = world.fails(1, &[&install[..], &["FIXED=2", "--grant-all-permissions"]].concat());
    assert!(said.contains("\"FIXED\" can't be set"), "{said}");
    world.ok(&[&install[..], &["--grant-all-permissions"]].concat());
    assert_eq!(inspect(&world, "{{.Name}} {{.Enabled}} {{.Stack.Running}}"), "disks:latest true true");
    assert!(started_with(process(&world), "MODE=loud"));
    assert_eq!(world.ok(&["ps", "-aq"]), "", "it is no container of the user's");
    assert_eq!(
        world.ok(&["plugin", "ls", "--filter", "capability=volumedriver", "--format", "{{.Name}}"]),
        "disks:latest\n"
    );

    let run =
        ["run", "-d", "--name", "c", "--network", "none", "-v", "data:/data", "builtin:whoami", "sleep", "forever"];
    world.ok(&["volume", "create", "-d", "disks", "data"]);
    world.ok(&run);
    world.ok(&["exec", "c", "/whoami", "write", "/data/word", "kept"]);
    let data = world.roots.root.join("volumes/data/_data");
    assert_ne!(fs::metadata(&data).unwrap().dev(), fs::metadata(&world.roots.root).unwrap().dev());
    assert_eq!(fs::read_to_string(data.join("word")).unwrap().trim(), "kept");
    for words in [["plugin", "disable", "disks"], ["plugin", "rm", "disks"]] {
        let said = world.fails(1, &words);
        assert!(said.contains("is used by volume data"), "{said}");
    }
    world.ok(&["rm", "-f", "c"]);
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0, "it is unmounted");
    // It crashes, and is there again without anybody's doing; what it keeps is kept.
    let before = process(&world);
    kill(before, Signal::SIGKILL).unwrap();
    eventually("another process", || process(&world) != before && kill(process(&world), None).is_ok());
    world.ok(&run);
    assert_eq!(world.ok(&["exec", "c", "/whoami", "cat", "/data/word"]).trim(), "kept");
    world.ok(&["rm", "-f", "c"]);
    world.ok(&["volume", "rm", "data"]);
    world.ok(&["plugin", "rm", "--force", "disks"]);
    assert_eq!(world.ok(&["plugin", "ls", "-q"]), "");
    assert_eq!(fs::read_dir(world.roots.root.join("plugins/containers")).unwrap().count(), 0);
}

#[test]
fn a_plugin_is_set_upgraded_and_comes_back_with_the_host() {
    let world = World::new();
    let registry = Registry::start(&world.directory, None);
    let name = format!("{}/disks:1", registry.address);
    let make = |description: &str| {
        let made = folder(&world, description);
        world.ok(&["plugin", "create", &name, made.to_str().unwrap()]);
        world.ok(&["plugin", "push", &name]);
        world.ok(&["plugin", "rm", &name]);
    };
    make("the first");
    world.ok(&["plugin", "install", "--alias", "disks", "--disable", "--grant-all-permissions", &name]);
    assert_eq!(inspect(&world, "{{.Enabled}} {{.Stack.Running}}"), "false false");
    let said = world.fails(1, &["volume", "create", "-d", "disks", "data"]);
    assert!(said.contains("plugin disks:latest is disabled") && said.contains("stack plugin enable"), "{said}");
    world.ok(&["plugin", "set", "disks", "MODE=quiet"]);
    world.ok(&["plugin", "enable", "disks"]);
    assert!(started_with(process(&world), "MODE=quiet"));
    for words in [["plugin", "set", "disks", "MODE=x"].as_slice(), &["plugin", "upgrade", "disks"]] {
        let said = world.fails(1, words);
        assert!(said.contains("is enabled"), "{said}");
    }
    world.ok(&["volume", "create", "-d", "disks", "data"]);
    world.ok(&["plugin", "disable", "--force", "disks"]);
    make("the second");
    world.ok(&["plugin", "upgrade", "disks"]);
    assert_eq!(inspect(&world, "{{.Config.description}} {{index .Settings.Env 0}}"), "the second MODE=quiet");
    world.ok(&["plugin", "enable", "disks"]);
    assert_eq!(world.ok(&["volume", "inspect", "data", "--format", "{{.Status.users}}"]), "0\n", "what it keeps stays");
    world.ok(&["system", "halt"]);
    assert_eq!(inspect(&world, "{{.Enabled}} {{.Stack.Running}}"), "true false");
    world.ok(&["system", "boot"]);
    assert_eq!(inspect(&world, "{{.Enabled}} {{.Stack.Running}}"), "true true");
    world.ok(&["volume", "rm", "data"]);
    world.ok(&["plugin", "rm", "-f", "disks"]);
    // What is no plugin is none.
    world.ok(&["run", "--rm", "--network", "none", "builtin:whoami", "id"]);
    world.ok(&["push", "builtin:whoami", &format!("{}/image:1", registry.address)]);
    let said = world.fails(1, &["plugin", "install", &format!("{}/image:1", registry.address)]);
    assert!(said.contains("not a plugin"), "{said}");
}
