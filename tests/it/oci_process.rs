//! `stack oci-runtime`: who answers what a filter leaves open, where processes run and as what, and what is said of them.

use std::fs;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::oci_runtime::Bundle;
use crate::support::{World, eventually};

/// What is sent to whoever listens, and the descriptor that comes with it.
fn receive(listener: &UnixListener) -> (String, OwnedFd) {
    let (stream, _) = listener.accept().unwrap();
    let mut bytes = vec![0; 1 << 16];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
    let fd = message.cmsgs().unwrap().find_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let length = message.bytes;
    // SAFETY: the kernel just gave us this descriptor.
    let descriptor = unsafe { OwnedFd::from_raw_fd(fd.unwrap()) };
    (String::from_utf8(bytes[..length].to_vec()).unwrap(), descriptor)
}

/// Answers one call of those that the kernel asks about with this error (seccomp_unotify(2)).
fn answer(asks: &OwnedFd, errno: i32) {
    const RECEIVE: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
    const SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;
    let mut question = [0_u64; 10];
    // SAFETY: the kernel writes one `seccomp_notif`, of 80 bytes.
    assert_eq!(unsafe { libc::ioctl(asks.as_raw_fd(), RECEIVE, question.as_mut_ptr()) }, 0);
    let mut said = [question[0], 0, u64::from((-errno) as u32)];
    // SAFETY: the kernel reads one `seccomp_notif_resp`, of 24 bytes.
    assert_eq!(unsafe { libc::ioctl(asks.as_raw_fd(), SEND, said.as_mut_ptr()) }, 0);
}

#[test]
fn calls_that_a_filter_leaves_open_are_answered_by_whoever_listens() {
    let world = World::new();
    let path = world.directory.join("agent");
    let listener = UnixListener::bind(&path).unwrap();
    for gains_nothing in [true, false] {
        let script = "mkdir /tmp/x 2>&1; exec sleep 1000";
        let bundle = Bundle::new(&world, script, |config| {
            config["process"]["noNewPrivileges"] = json!(gains_nothing);
            config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path,
                "listenerMetadata": "about", "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
                // The second is needed before the program begins, and by that of whoever has been told.
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
        });
        let (out, (text, asks)) = thread::scope(|scope| {
            let heard = scope.spawn(|| receive(&listener));
            (bundle.create(&[]), heard.join().unwrap())
        });
        let told: Value = serde_json::from_str(&text).unwrap();
        let state = bundle.state();
        assert_eq!((&told["fds"], &told["metadata"]), (&json!(["seccompFd"]), &json!("about")), "{told}");
        assert_eq!((&told["pid"], &told["state"]["pid"]), (&state["pid"], &state["pid"]), "{told}");
        assert_eq!((&told["state"]["id"], &told["state"]["status"]), (&json!(bundle.id), &json!("creating")), "{told}");
        bundle.ok(&["start", &bundle.id]);
        answer(&asks, libc::ENOMEDIUM);
        eventually("it hears", || fs::read_to_string(&out).unwrap().contains("No medium found"));
        let (output, (text, of_exec)) = thread::scope(|scope| {
            let heard = scope.spawn(|| {
                let (text, asks) = receive(&listener);
                answer(&asks, libc::EXDEV);
                (text, asks)
            });
            (bundle.run(&["exec", &bundle.id, "mkdir", "/tmp/x"]), heard.join().unwrap())
        });
        assert!(output.code == 1 && output.stderr.contains("Invalid cross-device link"), "{output:#?}");
        let told: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&told["state"]["status"], &told["state"]["pid"]), (&json!("running"), &state["pid"]), "{told}");
        assert_ne!(told["pid"], state["pid"], "{told}");
        drop((asks, of_exec));
        bundle.ok(&["delete", "--force", &bundle.id]);
        bundle.leaves_nothing();
    }
    let refused = |seccomp: Value, reason: &str| {
        let bundle = Bundle::new(&world, "true", |config| config["linux"]["seccomp"] = seccomp);
        let said = bundle.fails(&["create", "--bundle", bundle.directory.to_str().unwrap(), &bundle.id]);
        assert!(said.contains(reason), "{said}");
        bundle.leaves_nothing();
    };
    let calls = |name: &str| json!([{"names": [name], "action": "SCMP_ACT_NOTIFY"}]);
    refused(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": calls("mkdir")}), "needs a listenerPath");
    refused(
        json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "syscalls": calls("write")}),
        "cannot be used for the write syscall",
    );
    refused(
        json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/nowhere", "syscalls": calls("mkdir")}),
        "failed to connect with seccomp agent",
    );
}

/// Runs the words on the first processor alone.
fn on_the_first<T>(action: impl FnOnce() -> T) -> T {
    let this = Pid::from_raw(0);
    let all = sched_getaffinity(this).unwrap();
    let mut first = CpuSet::new();
    first.set(0).unwrap();
    sched_setaffinity(this, &first).unwrap();
    let done = action();
    sched_setaffinity(this, &all).unwrap();
    done
}

/// Of a thread, as the kernel shows it.
fn processors(text: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap_or_else(|| panic!("{text}")).trim().to_owned()
}

#[test]
fn processes_run_on_the_processors_that_are_said_whatever_their_starter_has() {
    let world = World::new();
    let all = processors(&fs::read_to_string("/proc/thread-self/status").unwrap());
    let bundle = Bundle::new(&world, "exec sleep 1000", |_| ());
    on_the_first(|| bundle.create(&[]));
    let status = || fs::read_to_string(format!("/proc/{}/status", bundle.state()["pid"])).unwrap();
    assert_eq!(processors(&status()), all);
    bundle.ok(&["start", &bundle.id]);
    assert_eq!(processors(&status()), all);
    let exec = |affinity: Value| {
        let path = world.directory.join("process.json");
        let process = json!({"args": ["cat", "/proc/self/status"], "cwd": "/", "env": ["PATH=/bin"],
                             "execCPUAffinity": affinity});
        fs::write(&path, process.to_string()).unwrap();
        on_the_first(|| bundle.run(&["exec", "--process", path.to_str().unwrap(), &bundle.id]))
    };
    assert_eq!(processors(&exec(json!({})).stdout), all);
    assert_eq!(processors(&exec(json!({"initial": "0"})).stdout), all);
    assert_eq!(processors(&exec(json!({"initial": "0", "final": "1"})).stdout), "1");
    assert_ne!(exec(json!({"final": "x"})).code, 0);
    bundle.ok(&["delete", "--force", &bundle.id]);
}

#[test]
fn a_process_is_scheduled_and_told_what_its_configuration_says() {
    let world = World::new();
    let script = "cut -d' ' -f19,41 /proc/self/stat; ionice; uname -m; echo $A $HOME $B; ls /proc/self/fd | wc -l";
    let bundle = Bundle::new(&world, script, |config| {
        config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
        config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
        config["process"]["env"] = json!(["PATH=/bin", "A=1", "HOME=", "A=2", "B="]);
        config["process"]["capabilities"]["ambient"] = json!(["CAP_KILL"]);
        config["process"]["capabilities"]["bounding"] = json!(["CAP_KILL", "CAP_NEW"]);
        config["process"].as_object_mut().unwrap().remove("user");
        config["linux"]["personality"] = json!({"domain": "LINUX32"});
    });
    let log = world.directory.join("log");
    let words = ["--debug", "--log", log.to_str().unwrap(), "--log-format", "json", "run", "--bundle"];
    let output = bundle.run(&[&words[..], &[bundle.directory.to_str().unwrap(), &bundle.id]].concat());
    assert_eq!(output.stdout, "5 3\nidle\ni686\n2 /root\n4\n", "{output:#?}");
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = |level: &str, words: &str| {
        lines.iter().any(|line| line["level"] == level && line["msg"].as_str().unwrap().contains(words))
    };
    assert!(said("warning", "ignoring unknown capabilities [\"CAP_NEW\"]"), "{text}");
    assert!(said("warning", "can't raise ambient capability CAP_KILL"), "{text}");
    assert!(said("debug", "program runs"), "{text}");
    let deadline = Bundle::new(&world, "true", |config| {
        config["process"]["scheduler"] =
            json!({"policy": "SCHED_DEADLINE", "runtime": 42_000, "deadline": 1_000_000, "period": 1_000_000});
        config["linux"]["resources"]["cpu"] = json!({"cpus": "0"});
    });
    let said = deadline.fails(&["create", "--bundle", deadline.directory.to_str().unwrap(), &deadline.id]);
    assert!(said.contains("can't be used together with AllowedCPUs"), "{said}");
    deadline.leaves_nothing();
}

#[test]
fn a_terminal_of_the_foreground_has_the_size_that_is_said() {
    let world = World::new();
    let bundle = Bundle::new(&world, "stty size; tty", |config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["consoleSize"] = json!({"height": 33, "width": 77});
    });
    let output = bundle.run(&["run", "--bundle", bundle.directory.to_str().unwrap(), &bundle.id]);
    assert_eq!(output.stdout, "33 77\n/dev/pts/0\n", "{output:#?}");
    bundle.leaves_nothing();
}

#[test]
fn who_asks_for_it_is_given_descriptors_and_gives_some() {
    let world = World::new();
    let path = world.directory.join("pidfd");
    let listener = UnixListener::bind(&path).unwrap();
    let bundle = Bundle::new(&world, "cat <&3", |_| ());
    let pidfd = thread::scope(|scope| {
        let heard = scope.spawn(|| receive(&listener));
        bundle.create(&["--pidfd-socket", path.to_str().unwrap()]);
        heard.join().unwrap().1
    });
    // It waits to be started, and ends by what would end its program.
    // SAFETY: a null siginfo is allowed and means "as kill(2) would".
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGTERM, 0, 0) };
    assert_eq!(sent, 0);
    eventually("it ends", || bundle.status() == "stopped");
    bundle.ok(&["delete", &bundle.id]);
    let words = ["run", "--preserve-fds", "1", "--bundle", bundle.directory.to_str().unwrap(), &bundle.id];
    let command = bundle.command(&words);
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg("exec \"$0\" \"$@\" 3< /proc/sys/kernel/ostype")
        .arg(command.get_program())
        .args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = shell.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "Linux\n", "{output:?}");
    bundle.leaves_nothing();
}

#[test]
fn further_processes_run_in_groups_below_that_of_the_container() {
    let world = World::new();
    let bundle = Bundle::new(&world, "exec sleep 1000", |_| ());
    bundle.create(&[]);
    bundle.ok(&["start", &bundle.id]);
    let groups = bundle.group();
    let group = groups.lines().find(|path| path.contains("/memory/")).or(groups.lines().next()).unwrap();
    let named = if group.contains("/memory/") { "memory:below" } else { "below" };
    fs::create_dir(format!("{group}/below")).unwrap();
    let shown = bundle.ok(&["exec", "--cgroup", named, &bundle.id, "cat", "/proc/self/cgroup"]);
    assert!(shown.lines().any(|line| line.ends_with("/below")), "{shown}");
    for (named, reason) in [("../x", "is not a sub cgroup path"), ("nosuch:below", "unknown controller")] {
        let said = bundle.fails(&["exec", "--cgroup", named, &bundle.id, "true"]);
        assert!(said.contains(reason), "{said}");
    }
    let other = Bundle::new(&world, "true", |config| config["linux"]["cgroupsPath"] = json!(format!("/{}", bundle.id)));
    let said = other.fails(&["create", "--bundle", other.directory.to_str().unwrap(), &other.id]);
    assert!(said.contains("container's cgroup is not empty"), "{said}");
    bundle.ok(&["pause", &bundle.id]);
    assert!(bundle.fails(&["exec", &bundle.id, "true"]).contains("--ignore-paused"));
    // It waits with the container.
    let mut waits = bundle.command(&["exec", "--ignore-paused", &bundle.id, "sh", "-c", "exit 9"]).spawn().unwrap();
    bundle.ok(&["resume", &bundle.id]);
    assert_eq!(waits.wait().unwrap().code(), Some(9));
    bundle.ok(&["delete", "--force", &bundle.id]);
    bundle.leaves_nothing();
}

#[test]
fn a_profile_of_a_security_module_that_is_off_is_refused_with_the_reason() {
    let world = World::new();
    let is_on = |path: &str| fs::read(path).is_ok_and(|text| !text.starts_with(b"N"));
    for (field, flag, switch) in [
        ("apparmorProfile", "--apparmor", "/sys/module/apparmor/parameters/enabled"),
        ("selinuxLabel", "--process-label", "/sys/fs/selinux/enforce"),
    ] {
        if is_on(switch) {
            continue;
        }
        let bundle = Bundle::new(&world, "exec sleep 1000", |_| ());
        bundle.create(&[]);
        bundle.ok(&["start", &bundle.id]);
        let said = bundle.fails(&["exec", flag, "x", &bundle.id, "true"]);
        assert!(said.contains(field) && said.contains("switched on"), "{said}");
        bundle.ok(&["delete", "--force", &bundle.id]);
    }
}
