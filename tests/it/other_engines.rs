//! `stack oci-runtime` as what other engines call: containerd by its own client, dockerd with mapped ids.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::docker::Docker;
use crate::support::island::on_an_island;
use crate::support::{Output, World, eventually, finish};

/// Debian's daemon, with everything of it in a directory of its own, and a root file system for its containers.
struct Containerd<'a> {
    world: &'a World,
    socket: PathBuf,
    runtime: PathBuf,
    rootfs: PathBuf,
    daemon: Child,
}

impl<'a> Containerd<'a> {
    fn start(world: &'a World) -> Self {
        let directory = world.directory.join("c");
        fs::create_dir_all(&directory).unwrap();
        let runtime = directory.join("stack-oci-runtime");
        std::os::unix::fs::symlink(&world.roots.program, &runtime).unwrap();
        let place = |name: &str| directory.join(name);
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
            place("root"),
            place("state"),
            place("s")
        );
        let configuration = world.file("c/config.toml", &text);
        let log = fs::File::create(place("log")).unwrap();
        let mut command = Command::new("containerd");
        command.arg("--config").arg(configuration).stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = command.spawn().expect("containerd, of Debian's docker.io");
        let (socket, rootfs) = (place("s"), world.busybox("c/rootfs"));
        let engine = Self { world, socket, runtime, rootfs, daemon };
        eventually("the daemon answers", || engine.run(&["version"]).code == 0);
        engine
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        finish(command.spawn().unwrap(), words)
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.code, 0, "{words:?}: {output:?}");
        output.stdout
    }

    /// A container of this name, whose program is a script.
    fn container(&self, more: &[&str], name: &str, script: &str) -> Output {
        let (runtime, rootfs) = (self.runtime.to_str().unwrap(), self.rootfs.to_str().unwrap());
        let base = ["run", "--runc-binary", runtime];
        self.run(&[&base[..], more, &["--rootfs", rootfs, name, "/bin/sh", "-c", script]].concat())
    }

    fn state(&self, name: &str) -> String {
        let all = self.ok(&["task", "ls"]);
        let line = all.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.and_then(|line| line.split_whitespace().last()).unwrap_or("none").to_owned()
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        kill(Pid::from_raw(self.daemon.id() as i32), Signal::SIGTERM).unwrap();
        self.daemon.wait().unwrap();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.world.directory.join("c/log")).unwrap_or_default());
        }
    }
}

#[test]
fn containerd_has_its_containers_made() {
    let world = World::new();
    let engine = Containerd::start(&world);
    let output = engine.container(&["--rm", "--read-only"], "one", "echo out; echo x > /x; exit 7");
    assert_eq!((output.code, output.stdout.as_str()), (7, "out\n"), "{output:?}");
    assert!(output.stderr.contains("Read-only file system"), "{output:?}");
    let program = ["--rootfs", engine.rootfs.to_str().unwrap(), "two", "/bin/nosuch"];
    let absent =
        engine.run(&[&["run", "--rm", "--runc-binary", engine.runtime.to_str().unwrap()], &program[..]].concat());
    assert!(absent.code != 0 && absent.stderr.contains("exec \"/bin/nosuch\""), "{absent:?}");

    let script = "trap 'exit 3' TERM; while :; do sleep 0.02; done";
    let limit = ["-d", "--memory-limit", "33554432"];
    assert_eq!(engine.container(&limit, "it", script).code, 0);
    assert_eq!(engine.state("it"), "RUNNING");
    let found = engine.ok(&["task", "metrics", "--format", "json", "it"]);
    assert!(found.contains("33554432"), "{found}");
    let exec = ["task", "exec", "--exec-id", "further", "it", "/bin/sh", "-c", "echo in; exit 4"];
    let output = engine.run(&exec);
    assert_eq!((output.code, output.stdout.as_str()), (4, "in\n"), "{output:?}");
    engine.ok(&["task", "pause", "it"]);
    assert_eq!(engine.state("it"), "PAUSED");
    engine.ok(&["task", "resume", "it"]);
    engine.ok(&["task", "kill", "--signal", "TERM", "it"]);
    eventually("it has ended", || engine.state("it") == "STOPPED");
    let ended = engine.run(&["task", "rm", "it"]);
    assert!(ended.stderr.contains("exit code 3"), "{ended:?}");
    engine.ok(&["container", "rm", "it"]);
    for path in ["/sys/fs/cgroup/default", "/sys/fs/cgroup/memory/default"] {
        assert!(["it", "one", "two"].iter().all(|name| !Path::new(path).join(name).exists()), "{path}");
    }
}

/// A user to whom dockerd maps all ids, as `userns-remap` wants one; the island's own files say so.
fn remapped(world: &World) {
    let lines = [
        ("passwd", "remap:x:12345:12345::/:/bin/sh"),
        ("group", "remap:x:12345:"),
        ("subuid", "remap:300000:65536"),
        ("subgid", "remap:300000:65536"),
    ];
    for (name, line) in lines {
        let path = Path::new("/etc").join(name);
        let own = world.file(name, &format!("{}{line}\n", fs::read_to_string(&path).unwrap()));
        mount(Some(&own), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
}

#[test]
fn dockerd_maps_ids_and_shares_namespaces() {
    on_an_island(|island| {
        let world = &island.world;
        remapped(world);
        let runtime = json!({"path": world.roots.program, "runtimeArgs": ["oci-runtime"]});
        let docker = Docker::start_with(world, &json!({"runtimes": {"stack": runtime}, "userns-remap": "remap"}));
        let root = world.busybox("root");
        let archive = world.directory.join("root.tar");
        assert!(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").status().unwrap().success());
        docker.ok(&["import", archive.to_str().unwrap(), "shell"]);
        let base = ["run", "--rm", "--runtime", "stack"];
        let run = |more: &[&str], script: &str| docker.ok(&[&base[..], more, &["shell", "sh", "-c", script]].concat());
        let ids = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let map = "cat /proc/self/uid_map";
        assert_eq!(ids(&run(&["--network", "none"], map)), ["0", "300000", "65536"]);
        assert_eq!(ids(&run(&["--userns", "host", "--privileged"], map)), ["0", "0", "4294967295"]);
        assert_ne!(run(&["--init"], "echo $$"), "1", "another program is the first");

        docker.ok(&[
            "run",
            "-d",
            "--runtime",
            "stack",
            "--name",
            "web",
            "--ipc",
            "shareable",
            "shell",
            "sleep",
            "1000",
        ]);
        let namespaces = "for kind in net ipc pid; do busybox readlink /proc/self/ns/$kind; done";
        let names = ["network", "ipc", "pid"].map(|kind| format!("--{kind}=container:web"));
        let names = names.each_ref().map(String::as_str);
        assert_eq!(run(&names, namespaces), docker.ok(&["exec", "web", "sh", "-c", namespaces]));
        assert_eq!(ids(&docker.ok(&["exec", "web", "sh", "-c", map])), ["0", "300000", "65536"]);
        docker.ok(&["rm", "-f", "web"]);
    });
}
