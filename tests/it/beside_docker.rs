//! A docker daemon on the same host: neither engine touches what is the other's.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::island::{HERE, ask, on_an_island, sh};
use crate::support::{World, eventually};

/// Debian's daemon, with everything of it in a directory of its own; to be started on an island.
pub struct Docker {
    pub directory: PathBuf,
    daemon: Child,
}

impl Docker {
    pub fn start(world: &World) -> Self {
        let directory = world.directory.join("d");
        fs::create_dir_all(directory.join("run")).unwrap();
        let log = fs::File::create(directory.join("log")).unwrap();
        let mut command = Command::new("dockerd");
        command.arg("-H").arg(format!("unix://{}/s", directory.display()));
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(flag).arg(directory.join(name));
        }
        command.args(["--storage-driver", "vfs", "--bip", "10.99.0.1/24"]);
        let daemon =
            command.stdout(log.try_clone().unwrap()).stderr(log).spawn().expect("dockerd, of Debian's docker.io");
        let mut docker = Self { directory, daemon };
        eventually("the daemon answers", || {
            let said = || fs::read_to_string(docker.directory.join("log")).unwrap();
            assert!(docker.daemon.try_wait().unwrap().is_none(), "it ended: {}", said());
            docker.command(&["version"]).status().unwrap().success()
        });
        docker
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("-H").arg(format!("unix://{}/s", self.directory.display())).args(words);
        command
            .env("DOCKER_CONFIG", &self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "docker {words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        kill(Pid::from_raw(self.daemon.id() as i32), Signal::SIGTERM).unwrap();
        self.daemon.wait().unwrap();
        // It leaves mounts of its own behind when it was killed.
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(4)).rev();
        for place in places.filter(|place| place.starts_with(&*self.directory.to_string_lossy())) {
            Command::new("umount").args(["-l", place]).status().unwrap();
        }
    }
}

/// All of docker's that ours could touch. The counters of rules do not count.
fn theirs(docker: &Docker) -> String {
    let rules = sh("nft list ruleset | sed 's/counter packets [0-9]* bytes [0-9]*/counter/'");
    let ours = |text: &str| {
        text.split("table ").filter(|part| !part.starts_with("inet stack-")).collect::<Vec<_>>().join("table ")
    };
    let links = sh("ip -o link show | grep -v ': stk' | cut -d: -f2 | sort");
    let containers = docker.ok(&["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.State}} {{.Ports}}"]);
    let others = docker.ok(&["network", "ls", "-q"]) + &docker.ok(&["volume", "ls", "-q"]);
    format!("{}\n{links}\n{containers}\n{others}", ours(&rules))
}

fn ours(world: &World) -> String {
    let key = world.roots.key();
    let rules = sh(&format!("nft list table inet stack-{key}"));
    let links = sh(&format!("ip -o link show | grep -o ': stk{key}[^:@]*' | sort"));
    let groups = sh(&format!("find /sys/fs/cgroup -type d -name '*{key}*' | sort"));
    format!("{rules}\n{links}\n{groups}\n{}", world.ok(&["ps", "-a", "--format", "{{.Name}} {{.State}}"]))
}

#[test]
fn docker_and_this_engine_leave_each_other_alone() {
    on_an_island(|island| {
        let world = &island.world;
        let docker = Docker::start(world);
        let root = world.busybox("root");
        let archive = world.directory.join("root.tar");
        assert!(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").status().unwrap().success());
        docker.ok(&["import", archive.to_str().unwrap(), "shell"]);
        let serve = "while :; do printf 'HTTP/1.0 200 OK\\r\\n\\r\\ndocker\\n' | busybox nc -l -p 80; done";
        docker.ok(&["run", "-d", "--name", "web", "-p", "9090:80", "-v", "data:/data", "shell", "sh", "-c", serve]);
        docker.ok(&["network", "create", "extra"]);
        let served = || ask(HERE, 9090).is_ok_and(|body| body == "docker\n");
        eventually("docker's container answers", served);
        // Docker forbids whatever it did not ask for to be passed on; docs/networks.md says how to allow it.
        sh("iptables -I DOCKER-USER -o stk+ -j ACCEPT; iptables -I DOCKER-USER -i stk+ -j ACCEPT");
        let before = theirs(&docker);
        let file = island.apply(
            "stack.yaml",
            "name: web\ncontainers: {web: {image: \"builtin:whoami\", ports: [\"0.0.0.0:8080:80\"], networks: [extra], volumes: [\"data:/data\"], stop_grace_period: 1s}}\nnetworks: {extra: {}}\nvolumes: {data: {}}\n",
        );
        assert!(island.outside.ask(HERE, 9090).is_ok());
        assert!(island.outside.ask(HERE, 8080).is_ok(), "{}", sh("nft list ruleset"));
        assert_eq!(theirs(&docker), before, "after our apply");
        // And theirs: a change of everything that it has.
        let own = ours(world);
        docker.ok(&["restart", "-t", "0", "web"]);
        docker.ok(&["rm", "-f", "web"]);
        docker.ok(&["system", "prune", "--all", "--volumes", "--force"]);
        assert_eq!(ours(world), own, "after docker's");
        world.ok(&["status", &file]);
        assert!(island.outside.ask(HERE, 8080).is_ok());
        docker.ok(&["import", archive.to_str().unwrap(), "shell"]);
        docker.ok(&["run", "-d", "--name", "web", "-p", "9090:80", "-v", "data:/data", "shell", "sh", "-c", serve]);
        eventually("docker's container answers", served);
        let before = theirs(&docker);
        world.ok(&["destroy", "web", "--volumes", "--yes=volumes"]);
        world.ok(&["system", "prune", "--all", "--volumes", "--force"]);
        assert_eq!(theirs(&docker), before, "after our destroy and prune");
        assert!(island.outside.ask(HERE, 9090).is_ok());
        docker.ok(&["rm", "-f", "web"]);
    });
}
