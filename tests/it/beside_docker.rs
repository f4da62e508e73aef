//! A docker daemon on the same host: neither engine touches what is the other's.

use std::process::Command;

use crate::support::docker::Docker;
use crate::support::island::{HERE, ask, on_an_island, sh};
use crate::support::{World, eventually};

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
