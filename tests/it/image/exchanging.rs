//! Images in files go to docker's own daemon and come from it, and stay what they were: the same ids, files and words.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::World;
use crate::support::docker::Docker;
use crate::support::island::on_an_island;

/// Two layers: a root file system, and what a container has changed of it.
const CHANGE: &str = "echo new >/etc/word; rm /etc/group; mv /tmp/d /tmp/e; chown 70000:70001 /etc/word; \
                      chmod 4750 /etc/word; ln /etc/word /etc/again";
/// What a container sees of that.
const LOOK: &str = "cat /etc/word; busybox stat -c '%a %u %g %h' /etc/word; ls /etc /tmp/e; echo $A $PWD";
const SEEN: &str = "new\n4750 70000 70001 2\n/etc:\nagain\npasswd\nword\n\n/tmp/e:\nx\n1 /tmp\n";

/// What docker puts into every container, and into its `/etc`.
fn without_dockers(text: &str) -> String {
    text.lines()
        .filter(|line| !["hostname", "hosts", "mtab", "resolv.conf"].contains(line))
        .fold(String::new(), |all, line| all + line + "\n")
}

fn root(world: &World) -> PathBuf {
    let root = world.busybox("root");
    fs::create_dir(root.join("tmp/d")).unwrap();
    fs::write(root.join("tmp/d/x"), "x").unwrap();
    root
}

fn ids(text: &str) -> Vec<String> {
    let mut all: Vec<String> = text.lines().map(str::to_owned).collect();
    all.sort();
    all
}

/// `from | to`, as people write it.
fn pipe(mut from: Command, mut to: Command) -> String {
    let mut from = from.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let output = to.stdin(from.stdout.take().unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    assert!(from.wait().unwrap().success() && output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run_here(world: &World, image: &str) -> String {
    without_dockers(&world.ok(&["run", "--rm", "--network", "none", image, "sh", "-c", LOOK]))
}

fn run_there(docker: &Docker, image: &str) -> String {
    without_dockers(&(docker.ok(&["run", "--rm", "--network", "none", image, "sh", "-c", LOOK]) + "\n"))
}

#[test]
fn docker_loads_what_is_saved_here_and_the_other_way_round() {
    on_an_island(|island| {
        let world = &island.world;
        let docker = Docker::start(world);
        let root = root(world);
        let inspect = |text: String| serde_json::from_str::<Value>(&text).unwrap()[0]["Config"].clone();

        world.ok(&["import", root.to_str().unwrap(), "own:1"]);
        let run = ["run", "--name", "one", "--network", "none", "-e", "A=1", "-w", "/tmp", "-l", "mine=yes"];
        // It gives files to ids that a user namespace has not.
        let run = [&run[..], &["--userns", "host", "own:1"]].concat();
        world.ok(&[&run[..], &["sh", "-c", CHANGE]].concat());
        world.ok(&["commit", "one", "own:2"]);
        world.ok(&["rm", "one"]);
        let said = pipe(world.command(&["save", "own:1", "own:2"]), docker.command(&["load"]));
        assert!(said.contains("own:1") && said.contains("own:2"), "{said}");
        let theirs = docker.ok(&["images", "-q", "--no-trunc"]);
        assert_eq!(ids(&theirs), ids(&world.ok(&["images", "-q", "--no-trunc"])), "the same images");
        assert_eq!(run_there(&docker, "own:2"), SEEN);
        assert_eq!(run_here(world, "own:2"), SEEN);
        let (config, own) = (inspect(docker.ok(&["inspect", "own:2"])), inspect(world.ok(&["inspect", "own:2"])));
        for key in ["Cmd", "Env", "WorkingDir", "Labels"] {
            assert_eq!(config[key], own[key], "{key}");
        }

        // What docker has made, and what it was given, come back.
        let archive = world.directory.join("root.tar");
        assert!(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").status().unwrap().success());
        docker.ok(&["import", archive.to_str().unwrap(), "theirs:1"]);
        let run =
            ["run", "--name", "one", "--network", "none", "-e", "A=1", "-w", "/tmp", "theirs:1", "sh", "-c", CHANGE];
        docker.ok(&run);
        docker.ok(&["commit", "one", "theirs:2"]);
        docker.ok(&["tag", "theirs:2", "theirs:again"]);
        world.ok(&["image", "prune", "--all", "--force"]);
        assert_eq!(world.ok(&["images", "-q"]), "");
        let saved = world.directory.join("saved.tar");
        let names = ["theirs:1", "theirs:2", "theirs:again", "own:2"];
        docker.ok(&[&["save", "-o", saved.to_str().unwrap()], &names[..]].concat());
        world.ok(&["load", "-i", saved.to_str().unwrap()]);
        for name in names {
            let theirs = docker.ok(&["images", "-q", "--no-trunc", name]);
            assert_eq!(world.ok(&["images", "-q", "--no-trunc", name]).trim(), theirs, "{name}");
        }
        for name in ["theirs:again", "own:2"] {
            assert_eq!(run_here(world, name), SEEN, "{name}");
        }
        world.ok(&["image", "verify"]);
        world.ok(&["image", "prune", "--all", "--force"]);
        pipe(docker.command(&["save", "theirs:2"]), world.command(&["load"]));
        assert_eq!(run_here(world, "theirs:2"), SEEN, "through a pipe");
        docker.ok(&["rm", "one"]);
    });
}

fn unpacked(world: &World, archive: &Path) -> PathBuf {
    let directory = world.directory.join("unpacked");
    fs::create_dir(&directory).unwrap();
    let unpacked = Command::new("tar").arg("-C").arg(&directory).arg("-xf").arg(archive).status().unwrap();
    assert!(unpacked.success());
    directory
}

fn json(path: PathBuf) -> Value {
    serde_json::from_reader(File::open(path).unwrap()).unwrap()
}

/// As the OCI image layout specification says, read without this engine; and then with it, in another store.
#[test]
fn an_oci_archive_is_what_the_specification_says() {
    let world = World::new();
    world.ok(&["import", root(&world).to_str().unwrap(), "own:1"]);
    world.ok(&["tag", "own:1", "own:again"]);
    let archive = world.directory.join("oci.tar");
    world.ok(&["save", "--format", "oci-archive", "-o", archive.to_str().unwrap(), "own:1", "own:again"]);
    assert_eq!(fs::metadata(&archive).unwrap().permissions().mode() & 0o77, 0, "for its owner alone");
    let directory = unpacked(&world, &archive);
    assert_eq!(json(directory.join("oci-layout"))["imageLayoutVersion"], "1.0.0");
    let index = json(directory.join("index.json"));
    let manifests = index["manifests"].as_array().unwrap();
    let names = manifests.iter().map(|one| one["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["docker.io/library/own:1", "docker.io/library/own:again"]);
    let blob = |descriptor: &Value| {
        let hex = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let path = directory.join("blobs/sha256").join(hex);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(crate::support::archive::hex_digest(&bytes), hex);
        assert_eq!(descriptor["size"], bytes.len(), "{descriptor}");
        path
    };
    let manifest = json(blob(&manifests[0]));
    let config = json(blob(&manifest["config"]));
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), layers.len());
    let packed = File::open(blob(&layers[0])).unwrap();
    let mut entries = tar::Archive::new(flate2::read::GzDecoder::new(packed));
    assert!(entries.entries().unwrap().any(|entry| entry.unwrap().path().unwrap().ends_with("bin/busybox")));

    let other = World::new();
    let said = other.ok(&["load", "--format", "json", "-i", archive.to_str().unwrap()]);
    let states =
        said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["state"].as_str().unwrap().to_owned());
    assert_eq!(states.collect::<Vec<_>>(), ["unpacking", "done", "is here", "loaded", "loaded"], "{said}");
    assert_eq!(other.ok(&["load", "-q", "-i", archive.to_str().unwrap()]), "own:1\nown:again\n");
    let digest = |world: &World| world.ok(&["images", "--format", "{{.ID}} {{.Digest}}", "--no-trunc", "own:again"]);
    assert_eq!(digest(&world), digest(&other), "byte for byte");
    let tree = fs::read_dir(other.roots.root.join("images/layers")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::metadata(tree.join("fs/bin/busybox")).unwrap().size(), fs::metadata("/bin/busybox").unwrap().size());
}
