//! `stack oci-runtime`: a bundle through its whole life, and dockerd with it as a runtime.

use std::fs;
use std::io::{IoSliceMut, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};

use crate::support::docker::Docker;
use crate::support::island::on_an_island;
use crate::support::{Output, World, eventually};

/// A bundle with a shell in it.
pub struct Bundle<'a> {
    world: &'a World,
    pub directory: PathBuf,
    pub id: String,
}

impl<'a> Bundle<'a> {
    /// Its program is this script; `change` has the last word about its configuration.
    pub fn new(world: &'a World, script: &str, change: impl FnOnce(&mut Value)) -> Self {
        let is_free = |suffix: &String| !world.directory.join(format!("bundle{suffix}")).exists();
        let suffixes = [String::new()].into_iter().chain((1..9).map(|number| format!("-{number}")));
        let suffix = suffixes.into_iter().find(is_free).unwrap();
        let root = world.busybox(&format!("bundle{suffix}/rootfs"));
        let directory = root.parent().unwrap().to_owned();
        let number = world.directory.file_name().unwrap().to_string_lossy().into_owned();
        let bundle = Self { world, directory, id: format!("oci-{number}{suffix}") };
        assert_eq!(bundle.run(&["spec", "--bundle", bundle.directory.to_str().unwrap()]).code, 0);
        let path = bundle.directory.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/sh", "-c", script]);
        config["root"]["readonly"] = json!(false);
        config["linux"]["cgroupsPath"] = json!(format!("/{}", bundle.id));
        change(&mut config);
        fs::write(path, config.to_string()).unwrap();
        bundle
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let root = self.world.directory.join("oci");
        let mut command = self.world.command(&["oci-runtime", "--root", root.to_str().unwrap()]);
        command.args(words);
        command
    }

    pub fn run(&self, words: &[&str]) -> Output {
        let mut command = self.command(words);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        crate::support::finish(child, words)
    }

    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.code, 0, "{words:?}: {output:#?}");
        output.stdout
    }

    #[track_caller]
    pub fn fails(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_ne!(output.code, 0, "{words:?}: {output:#?}");
        output.stderr
    }

    /// Makes it, with what it writes in a file: a container outlives who made it.
    #[track_caller]
    pub fn create(&self, more: &[&str]) -> PathBuf {
        let path = self.world.directory.join("out");
        let mut words = vec!["create", "--bundle", self.directory.to_str().unwrap()];
        words.extend(more);
        words.push(&self.id);
        let out = fs::File::create(&path).unwrap();
        let errors = self.world.directory.join("errors");
        let mut command = self.command(&words);
        command.stdin(Stdio::null()).stdout(out).stderr(fs::File::create(&errors).unwrap());
        assert!(command.status().unwrap().success(), "{}", fs::read_to_string(errors).unwrap());
        path
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", &self.id])).unwrap()
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    pub fn group(&self) -> String {
        let found = Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", &self.id]).output().unwrap();
        String::from_utf8(found.stdout).unwrap()
    }

    #[track_caller]
    pub fn leaves_nothing(&self) {
        assert_eq!(self.group(), "");
        assert!(!self.world.directory.join("oci").join(&self.id).exists());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&*self.directory.to_string_lossy()), "{mounts}");
    }
}

#[test]
fn a_bundle_is_created_started_killed_and_deleted() {
    let world = World::new();
    let bundle = Bundle::new(&world, "echo begun; exec sleep 1000", |_| ());
    let pid_file = world.directory.join("pid");
    let out = bundle.create(&["--pid-file", pid_file.to_str().unwrap()]);
    let state = bundle.state();
    assert_eq!((&state["status"], &state["id"]), (&json!("created"), &json!(bundle.id)), "{state}");
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), state["pid"].to_string());
    assert_eq!(fs::read_to_string(&out).unwrap(), "", "its program waits");
    assert!(bundle.fails(&["create", "--bundle", bundle.directory.to_str().unwrap(), &bundle.id]).contains("exists"));
    bundle.ok(&["start", &bundle.id]);
    assert_eq!(bundle.status(), "running");
    eventually("it writes", || fs::read_to_string(&out).unwrap() == "begun\n");
    assert!(bundle.fails(&["start", &bundle.id]).contains("cannot start"));
    assert!(bundle.fails(&["delete", &bundle.id]).contains("it is running"));
    assert_eq!(bundle.ok(&["list", "--quiet"]), format!("{}\n", bundle.id));
    assert_eq!(bundle.run(&["exec", &bundle.id, "sh", "-c", "exit 7"]).code, 7);
    assert_eq!(
        bundle.ok(&["exec", "--env", "A=b", "--user", "1000:1000", &bundle.id, "sh", "-c", "id -u; echo $A"]),
        "1000\nb\n"
    );
    let pids: Vec<i32> = serde_json::from_str(&bundle.ok(&["ps", "--format", "json", &bundle.id])).unwrap();
    assert_eq!(json!(pids), json!([state["pid"]]));
    bundle.ok(&["pause", &bundle.id]);
    assert_eq!(bundle.status(), "paused");
    bundle.ok(&["resume", &bundle.id]);
    bundle.ok(&["update", "--pids-limit", "17", &bundle.id]);
    let groups = bundle.group();
    let limit = groups.lines().find_map(|group| fs::read_to_string(format!("{group}/pids.max")).ok());
    assert_eq!(limit.as_deref(), Some("17\n"));
    let stats: Value = serde_json::from_str(&bundle.ok(&["events", "--stats", &bundle.id])).unwrap();
    assert_eq!(stats["data"]["pids"]["current"], 1, "{stats}");
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    eventually("it ends", || bundle.status() == "stopped");
    assert!(bundle.fails(&["kill", &bundle.id, "TERM"]).contains("container not running"));
    bundle.ok(&["delete", &bundle.id]);
    bundle.leaves_nothing();
    assert!(bundle.fails(&["state", &bundle.id]).contains("does not exist"));
    bundle.ok(&["delete", "--force", &bundle.id]);
}

#[test]
fn one_that_runs_is_deleted_by_force_and_one_that_was_not_started_without() {
    let world = World::new();
    let bundle = Bundle::new(&world, "sleep 1000 & exec sleep 1000", |_| ());
    bundle.create(&[]);
    bundle.ok(&["delete", &bundle.id]);
    bundle.leaves_nothing();
    bundle.create(&[]);
    bundle.ok(&["start", &bundle.id]);
    bundle.ok(&["pause", &bundle.id]);
    bundle.ok(&["delete", "--force", &bundle.id]);
    bundle.leaves_nothing();
}

#[test]
fn what_shares_the_hosts_processes_is_killed_whole() {
    let world = World::new();
    let bundle = Bundle::new(&world, "sleep 1000 & sleep 1000 & wait", |config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "pid");
    });
    bundle.create(&[]);
    bundle.ok(&["start", &bundle.id]);
    let processes =
        || -> Vec<i32> { serde_json::from_str(&bundle.ok(&["ps", "--format", "json", &bundle.id])).unwrap() };
    eventually("it has begun all", || processes().len() == 3);
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    assert_eq!(processes(), [0; 0]);
    bundle.ok(&["delete", &bundle.id]);
    bundle.leaves_nothing();
}

#[test]
fn scripts_find_what_runc_gives_them() {
    let world = World::new();
    let bundle = Bundle::new(&world, "exec sleep 1000", |_| ());
    bundle.create(&[]);
    bundle.ok(&["start", &bundle.id]);
    let start = format!("[{{\"ociVersion\":\"1.2.1\",\"id\":\"{}\",\"pid\":{},", bundle.id, bundle.state()["pid"]);
    let list = bundle.ok(&["list", "--format", "json"]);
    assert!(list.starts_with(&(start + "\"status\":\"running\",\"bundle\":")), "{list}");
    bundle.ok(&["kill", &bundle.id, "0"]);
    assert_eq!(bundle.run(&["exec", "--pid-file", "/nowhere/pid", &bundle.id, "true"]).code, 255);
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    eventually("it ends", || bundle.status() == "stopped");
    assert!(bundle.fails(&["kill", &bundle.id, "0"]).contains("container not running"));
    bundle.ok(&["delete", &bundle.id]);
}

#[test]
fn the_process_is_as_its_configuration_says() {
    let world = World::new();
    let script = "id -u; id -g; id -G; umask; grep -E 'CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp:' /proc/self/status; \
                  mkdir /tmp/x || echo refused; cat /proc/self/oom_score_adj; ls /added; cat /proc/sys/net/ipv4/ip_forward";
    let bundle = Bundle::new(&world, script, |config| {
        config["process"]["user"] = json!({"uid": 7, "gid": 8, "additionalGids": [9, 10], "umask": 0o27});
        let some = json!(["CAP_CHOWN", "CAP_KILL"]);
        config["process"]["capabilities"] = json!({"bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_FOWNER"],
            "permitted": some, "effective": ["CAP_KILL"], "inheritable": some,
            // The second can't be granted, which is no error.
            "ambient": ["CAP_KILL", "CAP_FOWNER"]});
        config["process"]["oomScoreAdj"] = json!(321);
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]});
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        config["mounts"].as_array_mut().unwrap().push(json!({"destination": "/added", "type": "tmpfs", "source": "x",
            "options": ["nosuid", "size=64k", "mode=1777"]}));
    });
    let output = bundle.run(&["run", "--bundle", bundle.directory.to_str().unwrap(), &bundle.id]);
    let expected = "7\n8\n8 9 10\n0027\nCapInh:\t0000000000000021\nCapPrm:\t0000000000000020\nCapEff:\t0000000000000020\n\
                    CapBnd:\t0000000000000029\nCapAmb:\t0000000000000020\nNoNewPrivs:\t1\nSeccomp:\t2\nrefused\n321\n1\n";
    assert_eq!(output.stdout, expected, "{output:#?}");
    bundle.leaves_nothing();
}

/// Assembles a static program, of 32 or 64 bits, in the root file system.
fn assemble(bundle: &Bundle<'_>, bits: &str, machine: &str, name: &str, text: &str) {
    let path = |ending: &str| bundle.world.directory.join(format!("{name}{ending}"));
    fs::write(path(".s"), text).unwrap();
    let assembled = Command::new("as").arg(bits).arg("-o").arg(path(".o")).arg(path(".s")).status().unwrap();
    let program = bundle.directory.join("rootfs/bin").join(name);
    let linked = Command::new("ld").args(["-m", machine, "-o"]).arg(program).arg(path(".o")).status().unwrap();
    assert!(assembled.success() && linked.success());
}

#[test]
fn a_filter_is_for_the_programs_of_each_architecture_that_it_names() {
    let world = World::new();
    let code = |architectures: &[&str]| {
        let bundle = Bundle::new(&world, "narrow", |config| {
            config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures,
                "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 33}]});
        });
        // Exits with the error number of getppid(2).
        let text =
            ".globl _start\n_start: mov $64, %eax\nint $0x80\nneg %eax\nmov %eax, %ebx\nmov $1, %eax\nint $0x80\nhlt\n";
        assemble(&bundle, "--32", "elf_i386", "narrow", text);
        bundle.run(&["run", "--bundle", bundle.directory.to_str().unwrap(), &bundle.id]).code
    };
    assert_eq!(code(&["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]), 33);
    assert_ne!(code(&["SCMP_ARCH_X86_64"]), 33);
}

/// What starts the container's program needs the call; the program does not get it by that.
#[test]
fn a_filter_without_execveat_starts_programs_that_do_not_have_it() {
    let world = World::new();
    let bundle = Bundle::new(&world, "echo begun; exec forbidden", |config| {
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["execveat"], "action": "SCMP_ACT_KILL_PROCESS"}]});
    });
    let text = ".globl _start\n_start: mov $322, %eax\nmov $0, %edi\nlea empty(%rip), %rsi\nmov $0, %edx\nmov $0, %r10d\n\
                mov $0x1000, %r8d\nsyscall\nmov $60, %eax\nmov $0, %edi\nsyscall\nempty: .byte 0\n";
    assemble(&bundle, "--64", "elf_x86_64", "forbidden", text);
    let output = bundle.run(&["run", "--bundle", bundle.directory.to_str().unwrap(), &bundle.id]);
    assert_eq!((output.code, output.stdout.as_str()), (128 + libc::SIGSYS, "begun\n"), "{output:#?}");
    bundle.leaves_nothing();
}

/// Each is refused by its name, before anything is made.
#[test]
fn what_can_not_be_done_is_refused_by_name() {
    let world = World::new();
    let bundle = Bundle::new(&world, "true", |_| ());
    let path = bundle.directory.join("config.json");
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let cases: &[(&str, Value, &str)] = &[
        ("/linux/intelRdt", json!({"closID": "x"}), "linux.intelRdt"),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND"}), "linux.memoryPolicy"),
        ("/linux/mountLabel", json!("x"), "linux.mountLabel"),
        ("/linux/personality", json!({"domain": "LINUX", "flags": ["x"]}), "linux.personality.flags"),
        ("/linux/rootfsPropagation", json!("loud"), "linux.rootfsPropagation"),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "linux.seccomp"),
        ("/linux/resources", json!({"memory": {"kernel": 1}}), "linux.resources.memory.kernel"),
        ("/linux/resources", json!({"blockIO": {"leafWeight": 10}}), "linux.resources.blockIO.leafWeight"),
        ("/linux/namespaces", json!([]), "linux.namespaces"),
        ("/process/apparmorProfile", json!("x"), "process.apparmorProfile"),
        ("/process/selinuxLabel", json!("x"), "process.selinuxLabel"),
        ("/process/execCPUAffinity", json!({"final": "x"}), "execCPUAffinity"),
        ("/process/cwd", json!("relative"), "process.cwd"),
        ("/process/args", json!([]), "without args"),
        ("/mounts/0/options", json!(["mand"]), "mounts[0].options"),
        ("/mounts/0/options", json!(["idmap"]), "mounts[0].options"),
        ("/mounts/0/uidMappings", json!([{"containerID": 0, "hostID": 1, "size": 1}]), "both are needed"),
        ("/linux/uidMappings", json!([{"containerID": 0, "hostID": 1, "size": 1}]), "without a user namespace"),
        ("/linux/namespaces", json!([{"type": "mount"}, {"type": "user"}]), "linux.uidMappings"),
        ("/linux/namespaces", json!([{"type": "mount"}, {"type": "mount"}]), "twice"),
        ("/linux/namespaces", json!([{"type": "mount", "path": "/proc/self/ns/mnt"}]), "the host's own"),
        ("/linux/timeOffsets", json!({"boottime": {"secs": 1}}), "linux.timeOffsets"),
        ("/windows", json!({"layerFolders": []}), "windows"),
        ("/ociVersion", json!("2.0.0"), "ociVersion"),
    ];
    for (pointer, value, name) in cases {
        let mut config = good.clone();
        let (above, key) = pointer.rsplit_once('/').unwrap();
        match config.pointer_mut(above).unwrap() {
            Value::Array(all) => all[key.parse::<usize>().unwrap()] = value.clone(),
            place => place[key] = value.clone(),
        }
        fs::write(&path, config.to_string()).unwrap();
        let log = world.directory.join("log.json");
        let words = ["--log", log.to_str().unwrap(), "--log-format", "json", "create", "--bundle"];
        let said = bundle.fails(&[&words[..], &[bundle.directory.to_str().unwrap(), &bundle.id]].concat());
        assert!(said.contains(name), "{pointer}: {said}");
        let text = fs::read_to_string(&log).unwrap();
        let line: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(line["level"], "error", "{line}");
        assert!(line["msg"].as_str().unwrap().contains(name) && line["time"].is_string(), "{line}");
    }
    assert!(bundle.fails(&["checkpoint", &bundle.id]).contains("checkpoint is not supported"));
    bundle.leaves_nothing();
}

#[test]
fn hooks_run_in_their_order_and_places() {
    let world = World::new();
    let log = world.directory.join("bundle/rootfs/log");
    let outside = |name: &str| {
        let script = format!("echo {name} $(readlink /proc/self/ns/mnt) $(cat) >> {}", log.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
    };
    let bundle = Bundle::new(&world, "echo program >> /log", |config| {
        let mut hooks = json!({});
        for name in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
            hooks[name] = outside(name);
        }
        hooks["startContainer"] =
            json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo startContainer in $(cat) >> /log"]}]);
        config["hooks"] = hooks;
    });
    bundle.create(&[]);
    let made = fs::read_to_string(&log).unwrap();
    let pid = bundle.state()["pid"].to_string();
    bundle.ok(&["start", &bundle.id]);
    eventually("it ends", || bundle.status() == "stopped");
    bundle.ok(&["delete", &bundle.id]);
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.splitn(3, ' ').collect()).collect();
    let order: Vec<&str> =
        lines.iter().map(|line| line[0]).filter(|name| !["program", "poststart"].contains(name)).collect();
    assert_eq!(order, ["prestart", "createRuntime", "createContainer", "startContainer", "poststop"], "{text}");
    assert!(text.contains("\nprogram\n") && text.contains("\npoststart "), "{text}");
    assert_eq!(made.lines().count(), 3, "{made}");
    let host = fs::read_link("/proc/self/ns/mnt").unwrap().to_string_lossy().into_owned();
    for (line, status) in
        lines.iter().filter(|line| line.len() == 3 && line[1] != "in").zip(["creating", "creating", "creating"])
    {
        assert_eq!(line[1] == host, line[0] != "createContainer", "{line:?}");
        let state: Value = serde_json::from_str(line[2]).unwrap();
        assert_eq!((&state["status"], &state["id"]), (&json!(status), &json!(bundle.id)), "{line:?}");
        if line[0] == "prestart" {
            assert_eq!(state["pid"].to_string(), pid);
        }
    }
    bundle.leaves_nothing();
}

#[test]
fn a_hook_that_fails_or_takes_too_long_leaves_nothing() {
    let world = World::new();
    for (script, reason) in [("exit 3", "exit status: 3"), ("sleep 1000", "longer than 1 s")] {
        let bundle = Bundle::new(&world, "true", |config| {
            config["hooks"] =
                json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1}]});
        });
        let said = bundle.fails(&["create", "--bundle", bundle.directory.to_str().unwrap(), &bundle.id]);
        assert!(said.contains("error running createRuntime hook #0: /bin/sh") && said.contains(reason), "{said}");
        bundle.leaves_nothing();
        fs::remove_dir_all(&bundle.directory).unwrap();
    }
}

#[test]
fn the_terminal_is_sent_to_the_console_socket() {
    let world = World::new();
    let bundle = Bundle::new(&world, "read line; echo got $line", |config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["consoleSize"] = json!({"height": 33, "width": 77});
    });
    let path = world.directory.join("console");
    let listener = UnixListener::bind(&path).unwrap();
    bundle.create(&["--console-socket", path.to_str().unwrap()]);
    let (stream, _) = listener.accept().unwrap();
    let mut byte = [0; 64];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty()).unwrap();
    let fd = message.cmsgs().unwrap().find_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    // SAFETY: the kernel just gave us this descriptor.
    let mut terminal = fs::File::from(unsafe { OwnedFd::from_raw_fd(fd.unwrap()) });
    bundle.ok(&["start", &bundle.id]);
    std::io::Write::write_all(&mut terminal, b"words\n").unwrap();
    let mut said = Vec::new();
    // Ends with an error when the last of the other end is closed.
    terminal.read_to_end(&mut said).ok();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("got words"), "{said}");
    eventually("it ends", || bundle.status() == "stopped");
    bundle.ok(&["delete", &bundle.id]);
    bundle.leaves_nothing();
}

#[test]
fn dockerd_runs_containers_with_it() {
    on_an_island(|island| {
        let world = &island.world;
        let runtime = json!({"path": world.roots.program, "runtimeArgs": ["oci-runtime"]});
        let docker = Docker::start_with(world, &json!({"runtimes": {"stack": runtime}}));
        let root = world.busybox("root");
        let archive = world.directory.join("root.tar");
        assert!(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").status().unwrap().success());
        docker.ok(&["import", archive.to_str().unwrap(), "shell"]);
        let run = |more: &[&str]| {
            let output = docker.command(&[&["run", "--rm", "--runtime", "stack"], more].concat()).output().unwrap();
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
        };
        let (code, out, _) =
            run(&["shell", "sh", "-c", "echo out; echo err >&2; grep CapEff /proc/self/status; exit 3"]);
        assert_eq!((code, out.as_str()), (3, "out\nCapEff:\t00000000a80425fb\n"));
        assert_eq!(run(&["-u", "1000:1000", "shell", "id", "-u"]), (0, "1000\n".to_owned(), String::new()));
        for (words, code, reason) in [
            (&["shell", "nosuch"][..], 127, "executable file not found in $PATH"),
            (&["shell", "/nosuch"], 127, "no such file or directory"),
            (&["shell", "/etc/passwd"], 126, "permission denied"),
        ] {
            let said = run(words);
            assert!(said.0 == code && said.2.contains(reason), "{words:?}: {said:?}");
        }
        let (code, out, _) = run(&["-t", "shell", "sh", "-c", "test -t 0 && test -t 1 && echo terminal"]);
        assert_eq!((code, out.as_str()), (0, "terminal\r\n"));
        assert_eq!(run(&["--privileged", "shell", "test", "-e", "/dev/loop-control"]).0, 0);
        assert_ne!(run(&["--read-only", "shell", "touch", "/x"]).0, 0);
        assert_eq!(run(&["-m", "16m", "shell", "sh", "-c", "x=a; while :; do x=$x$x; done"]).0, 137);
        let words = ["run", "-d", "--runtime", "stack", "--name", "one", "-m", "64m", "--restart", "always", "shell"];
        docker.ok(&[&words[..], &["sh", "-c", "trap 'exit 4' TERM; echo ready; while :; do sleep 1; done"]].concat());
        let ready = |count: usize| docker.ok(&["logs", "one"]).matches("ready").count() == count;
        eventually("it runs", || ready(1));
        assert_eq!(docker.ok(&["exec", "-e", "A=b", "-w", "/tmp", "one", "sh", "-c", "echo $A $PWD"]), "b /tmp");
        assert_eq!(docker.command(&["exec", "one", "sh", "-c", "exit 5"]).status().unwrap().code(), Some(5));
        assert_eq!(docker.ok(&["exec", "-t", "one", "sh", "-c", "test -t 1 && echo terminal"]), "terminal");
        assert!(docker.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "one"]).ends_with("/ 64MiB"));
        docker.ok(&["pause", "one"]);
        assert_eq!(docker.ok(&["inspect", "-f", "{{.State.Status}}", "one"]), "paused");
        docker.ok(&["unpause", "one"]);
        docker.ok(&["update", "-m", "128m", "--memory-swap", "256m", "one"]);
        assert!(docker.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "one"]).ends_with("/ 128MiB"));
        docker.ok(&["exec", "one", "kill", "1"]);
        eventually("it is started again by its policy", || ready(2));
        docker.ok(&["restart", "-t", "10", "one"]);
        eventually("it is started again by command", || ready(3));
        docker.ok(&["stop", "-t", "10", "one"]);
        assert_eq!(docker.ok(&["inspect", "-f", "{{.State.ExitCode}}", "one"]), "4");
        docker.ok(&["rm", "one"]);
        let left =
            Command::new("find").arg(docker.directory.join("exec")).args(["-name", "state.json"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    });
}
