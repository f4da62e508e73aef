//! What a container may do, compared with what is written down in `tests/it/probe/*.golden`: a default that changes
//! changes a file. `UPDATE_EXPECT=1` writes them anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::World;

/// The static program, built once.
pub fn program() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("stack-probe-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("probe.rs"), include_str!("program.rs")).unwrap();
        let built = Command::new("rustc")
            .args(["--edition=2024", "-Ctarget-feature=+crt-static", "-Copt-level=0", "-o", "probe", "probe.rs"])
            .current_dir(&folder)
            .status();
        assert!(built.unwrap().success());
        let bytes = fs::read(folder.join("probe")).unwrap();
        fs::remove_dir_all(folder).unwrap();
        bytes
    })
}

/// Puts the program at this path below a root.
pub fn put(path: &Path) {
    fs::write(path, program()).unwrap();
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/probe").join(format!("{name}.golden"))
}

#[track_caller]
fn compare(name: &str, found: &str) {
    let path = golden(name);
    if std::env::var("UPDATE_EXPECT").is_ok_and(|word| word == "1") {
        fs::write(&path, found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap();
    let lines = |text: &str, other: &str, sign: &str| {
        let differing: Vec<String> = text
            .lines()
            .filter(|line| !other.lines().any(|one| one == *line))
            .map(|line| format!("{sign} {line}"))
            .collect();
        differing.join("\n")
    };
    let (gone, new) = (lines(&expected, found, "-"), lines(found, &expected, "+"));
    assert!(gone.is_empty() && new.is_empty(), "{name}: what a container may do has changed:\n{gone}\n{new}");
}

/// An image named `probe`, which has the program and nothing else that counts.
pub fn image(world: &World) {
    let root = world.busybox("probe");
    put(&root.join("bin/probe"));
    let archive = world.archive("probe.tar", "probe", &serde_json::json!({"Cmd": ["probe"], "Env": ["PATH=/bin"]}));
    world.ok(&["load", "-q", "-i", archive.to_str().unwrap()]);
    world.ok(&["tag", "probe.tar", "probe"]);
}

#[test]
fn what_containers_may_do_is_written_down() {
    let world = World::new();
    image(&world);
    let of_kind: [(&str, &[&str]); 6] = [
        ("default", &[]),
        ("user", &["--user", "app"]),
        ("host", &["--userns", "host"]),
        ("privileged", &["--privileged"]),
        ("admin", &["--cap-add", "SYS_ADMIN", "--cap-add", "NET_RAW"]),
        ("unconfined", &["--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined"]),
    ];
    for (name, flags) in of_kind {
        let found = world.ok(&[&["run", "--rm"], flags, &["probe"]].concat());
        compare(name, &found);
    }
    // A program that joins may do no more.
    world.ok(&["run", "-d", "--name", "box", "probe", "sleep", "1000000"]);
    compare("default", &world.ok(&["exec", "box", "probe"]));
    compare("user", &world.ok(&["exec", "-u", "app", "box", "probe"]));
    world.ok(&["rm", "-f", "box"]);
    world.ok(&["network", "rm", "default"]);
}
