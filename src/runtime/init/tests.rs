//! Real containers: each test forks a process with one thread, launches from it, and looks at what the program says.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::runtime::roots::Roots;

use super::spec::{Mount, MountSource, Namespace, Request, build};
use super::*;

/// Where the test's files are; the last test to end leaves the program there, for the process is one and the same.
fn scratch(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("stack-init-{}-{number}-{name}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

/// A static program that does what its arguments say, built once.
fn program() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let folder = scratch("program");
        fs::write(folder.join("p.rs"), include_str!("testprogram.rs")).unwrap();
        let built = Command::new("rustc")
            .args(["--edition=2024", "-Ctarget-feature=+crt-static", "-Copt-level=0", "-o", "p", "p.rs"])
            .current_dir(&folder)
            .status();
        assert!(built.unwrap().success());
        let bytes = fs::read(folder.join("p")).unwrap();
        fs::remove_dir_all(folder).unwrap();
        bytes
    })
}

static FORKING: Mutex<()> = Mutex::new(());

struct Case {
    folder: PathBuf,
    request: Request,
    user: String,
    groups: Vec<String>,
    reaper: bool,
    terminal: bool,
    /// Arguments of a second process, which joins the first and whose output and exit code count instead.
    exec: Option<Vec<String>>,
    change: fn(&mut Spec),
}

struct Outcome {
    started: Result<(), InitError>,
    code: i32,
    out: String,
}

impl Case {
    fn new(args: &[&str]) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let folder = scratch("case");
        let root = folder.join("root");
        for directory in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        let bytes = program();
        // No other test may fork while the file is open for writing: its child could not be executed then.
        let forking = FORKING.lock().unwrap();
        fs::write(root.join("bin/p"), bytes).unwrap();
        drop(forking);
        fs::set_permissions(root.join("bin/p"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n").unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\naudio:x:29:app\n").unwrap();
        let request = Request {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: vec!["PATH=/bin".into()],
            hostname: "box".into(),
            ..Request::default()
        };
        let (user, groups) = (String::new(), Vec::new());
        Self { folder, request, user, groups, reaper: false, terminal: false, exec: None, change: |_| {} }
    }

    fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    fn run(&self) -> Outcome {
        let group = Cgroup::named(&format!("stack-test-{}", self.folder.file_name().unwrap().to_str().unwrap()));
        group.create().unwrap();
        let mut spec = build(&self.request).unwrap();
        (self.change)(&mut spec);
        group.limit(spec.linux().as_ref().unwrap().resources().as_ref().unwrap()).unwrap();
        let (mut read, write) = std::io::pipe().unwrap();
        let forking = FORKING.lock().unwrap();
        // SAFETY: the child makes no use of locks that other threads of this process may hold, but malloc's, which fork
        // takes care of.
        let helper = unsafe { libc::fork() };
        if helper == 0 {
            let code = self.help(&spec, &group, OwnedFd::from(write));
            // SAFETY: ends the helper without the test harness's exit handlers.
            unsafe { libc::_exit(code) };
        }
        drop(forking);
        drop(write);
        let mut out = Vec::new();
        read.read_to_end(&mut out).unwrap();
        let mut status = 0;
        // SAFETY: waits for the child made above.
        unsafe { libc::waitpid(helper, &raw mut status, 0) };
        group.remove().unwrap();
        let out = String::from_utf8_lossy(&out).into_owned();
        match out.strip_prefix("ERROR ") {
            Some(text) => Outcome {
                started: Err(serde_json::from_str(text).unwrap()),
                code: libc::WEXITSTATUS(status),
                out: String::new(),
            },
            None => Outcome { started: Ok(()), code: libc::WEXITSTATUS(status), out },
        }
    }

    /// Runs in a process with one thread. Returns the exit code of the process that counts.
    fn help(&self, spec: &Spec, cgroup: &Cgroup, out: OwnedFd) -> i32 {
        let users = self.request.users.map(|ids| crate::runtime::userns::create(ids).unwrap());
        let launcher = launcher::ensure(&Roots::new(&self.folder, &self.folder)).unwrap();
        let launched = launch(Launch {
            spec,
            launcher: &launcher,
            rootfs: &self.root(),
            cgroup,
            stdio: if self.exec.is_some() { silent() } else { self.stdio(&out) },
            user: &self.user,
            groups: &self.groups,
            reaper: self.reaper,
            lasting: false,
            users: users.as_ref(),
            mounts: Vec::new(),
            hold: None,
        });
        let first = match launched {
            Ok(first) => first,
            Err(error) => return say(out, &error),
        };
        let Some(args) = &self.exec else { return finish(first, out) };
        let joined = join(Join {
            spec,
            launcher: &launcher,
            pidfd: &first.pidfd,
            pid: first.pid,
            cgroup,
            stdio: self.stdio(&out),
            args,
            env: &["PATH=/bin".to_owned(), "SECOND=yes".to_owned()],
            cwd: if self.request.cwd.is_empty() { "/" } else { &self.request.cwd },
            user: &self.user,
            groups: &self.groups,
            exactly: None,
        });
        let code = match joined {
            Ok(second) => finish(second, out),
            Err(error) => say(out, &error),
        };
        process::end(&first.pidfd);
        code
    }

    fn stdio(&self, out: &OwnedFd) -> Stdio {
        if self.terminal {
            return Stdio::Terminal { rows: 33, columns: 77 };
        }
        let copy = || out.try_clone().unwrap();
        Stdio::Pipes { stdin: None, stdout: copy(), stderr: copy() }
    }
}

fn silent() -> Stdio {
    let null = || OwnedFd::from(File::options().write(true).open("/dev/null").unwrap());
    Stdio::Pipes { stdin: None, stdout: null(), stderr: null() }
}

fn say(out: OwnedFd, error: &InitError) -> i32 {
    File::from(out).write_all(format!("ERROR {}", serde_json::to_string(error).unwrap()).as_bytes()).unwrap();
    i32::from(error.exit_code())
}

/// Copies what the terminal says, and waits for the end.
fn finish(process: Launched, out: OwnedFd) -> i32 {
    if let Some(terminal) = process.terminal {
        let (mut terminal, mut out, mut buffer) = (File::from(terminal), File::from(out), [0; 4096]);
        // The kernel says EIO when the last user of the other end is gone.
        while let Ok(count @ 1..) = terminal.read(&mut buffer) {
            out.write_all(&buffer[..count]).unwrap();
        }
    }
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
    match waitid(Id::PIDFd(process.pidfd.as_fd()), WaitPidFlag::WEXITED).unwrap() {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => panic!("{other:?}"),
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

fn mount(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        target: target.into(),
        read_only,
        source: MountSource::Bind { source: source.to_owned(), propagation: None, mapped: true },
    }
}

#[track_caller]
fn ok(case: &Case) -> String {
    let outcome = case.run();
    assert_eq!((&outcome.started, outcome.code), (&Ok(()), 0), "{}", outcome.out);
    outcome.out
}

#[test]
fn the_first_process_is_alone_in_its_world() {
    let out = ok(&Case::new(&["p", "facts"]));
    for line in [
        "pid 1",
        "ppid 0",
        "hostname box",
        "cwd /",
        "Seccomp:\t2",
        "NoNewPrivs:\t0",
        "CapInh:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "CapBnd:\t00000000800405fb",
        "CapEff:\t00000000800405fb",
        "Groups:\t0 ",
        "umask 022",
        "fds 0 1 2",
        "env HOME=/root",
        "dev console 0",
        "session 1",
        "ino / 0",
    ]
    .into_iter()
    .filter(|line| !line.starts_with("ino") && !line.starts_with("dev console"))
    {
        assert!(out.lines().any(|found| found == line), "{line} in\n{out}");
    }
    for (target, kind) in [
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev", "tmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
    ] {
        let line = format!("mount {target} {kind}");
        assert!(out.lines().any(|found| found == line), "{line} in\n{out}");
    }
    assert!(!out.contains("oldroot") && !out.lines().any(|line| line.starts_with("mount /tmp")), "{out}");
}

#[test]
fn what_the_kernel_shows_of_the_host_is_hidden() {
    let out = ok(&Case::new(&[
        "p",
        "read:/proc/interrupts",
        "read:/proc/timer_list",
        "list:/sys/firmware",
        "write:/proc/irq/default_smp_affinity:1",
        "write:/proc/sys/kernel/core_pattern:x",
        "write:/sys/fs/cgroup/pids/pids.max:5",
        "write:/dev/null:x",
        "links:/dev",
    ]));
    let expected = [
        "read /proc/interrupts 0",
        "read /proc/timer_list 0",
        "list /sys/firmware ",
        "write /proc/irq/default_smp_affinity errno 30",
        "write /proc/sys/kernel/core_pattern errno 30",
        "write /sys/fs/cgroup/pids/pids.max errno 30",
        "write /dev/null ok",
        "links /dev fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn dangerous_calls_are_refused() {
    let out = ok(&Case::new(&[
        "p",
        "call:unshare",
        "call:mount",
        "call:keyctl",
        "call:clone3",
        "call:bpf",
        "call:af_alg",
        "call:netlink",
    ]));
    let expected = ["unshare 1", "mount 1", "keyctl 1", "clone3 38", "bpf 1", "af_alg 97", "netlink 0"];
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn exit_codes_are_dockers() {
    assert_eq!(Case::new(&["p", "exit:7"]).run().code, 7);
    let missing = Case::new(&["nosuch"]).run();
    assert!(matches!(missing.started, Err(InitError::Exec { found: false, .. })), "{:?}", missing.started);
    assert_eq!(missing.code, 127);
    assert_eq!(Case::new(&["/bin/nosuch"]).run().code, 127);
    assert_eq!(Case::new(&["/etc/passwd"]).run().code, 126);
    assert_eq!(Case::new(&["/etc"]).run().code, 126);
    let mut stranger = Case::new(&["p"]);
    stranger.user = "nosuch".into();
    assert_eq!(stranger.run().code, 125);
    let mut late = Case::new(&["p"]);
    late.request.sysctls.insert("kernel.core_pattern".into(), "x".into());
    assert!(matches!(late.run().started, Err(InitError::Step { step, .. }) if step == "sysctl kernel.core_pattern"));
}

#[test]
fn a_user_and_its_groups_are_found_in_the_image() {
    for no_new_privileges in [false, true] {
        let mut case = Case::new(&["p", "facts"]);
        case.user = "app".into();
        case.groups = vec!["7".into()];
        case.request.no_new_privileges = no_new_privileges;
        let out = ok(&case);
        for line in [
            "Uid:\t1000\t1000\t1000\t1000",
            "Gid:\t1001\t1001\t1001\t1001",
            "Groups:\t7 29 1001 ",
            "CapEff:\t0000000000000000",
            "CapPrm:\t0000000000000000",
            "env HOME=/home/app",
            "Seccomp:\t2",
            if no_new_privileges { "NoNewPrivs:\t1" } else { "NoNewPrivs:\t0" },
        ] {
            assert!(out.lines().any(|found| found == line), "{line} in\n{out}");
        }
    }
}

#[test]
fn a_read_only_root_and_mounts_of_all_kinds() {
    let mut case = Case::new(&[
        "p",
        "write:/new:x",
        "cat:/in/file",
        "write:/in/file:y",
        "cat:/etc/one",
        "write:/etc/one:z",
        "write:/scratch/a:b",
        "list:/deep",
        "facts",
    ]);
    let source = case.folder.join("source");
    fs::create_dir_all(source.join("deep")).unwrap();
    fs::write(source.join("file"), "from the host\n").unwrap();
    fs::create_dir_all(case.root().join("in")).unwrap();
    case.request.read_only = true;
    case.request.cwd = "/work/new".into();
    case.request.mounts = vec![
        mount(&source, "/in", true),
        mount(&source.join("file"), "/etc/one", false),
        mount(&source, "/deep", false),
        Mount {
            target: "/scratch".into(),
            read_only: false,
            source: MountSource::Tmpfs { size: Some(4096), mode: None, options: Vec::new() },
        },
    ];
    let out = ok(&case);
    let expected = [
        "write /new errno 30",
        "from the host",
        "write /in/file errno 30",
        "from the host",
        "write /etc/one ok",
        "write /scratch/a ok",
        "list /deep deep file",
    ];
    assert_eq!(out.lines().take(expected.len()).collect::<Vec<_>>(), expected);
    assert!(out.lines().any(|line| line == "cwd /work/new"));
    assert_eq!(fs::read_to_string(source.join("file")).unwrap(), "z");
}

/// What a hostile image may point at: nothing of it may change.
fn canary(case: &Case) -> PathBuf {
    let canary = case.folder.join("canary");
    fs::create_dir_all(&canary).unwrap();
    fs::write(canary.join("ptmx"), "untouched").unwrap();
    canary
}

#[track_caller]
fn untouched(canary: &Path) {
    let names: Vec<_> = fs::read_dir(canary).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["ptmx"]);
    assert_eq!(fs::read_to_string(canary.join("ptmx")).unwrap(), "untouched");
}

#[test]
fn no_link_of_an_image_leads_out() {
    for link in ["absolute", "relative"] {
        let mut case = Case::new(&["p", "exit:0"]);
        let canary = canary(&case);
        let target = if link == "absolute" {
            canary.clone()
        } else {
            PathBuf::from("../../../../..").join(canary.strip_prefix("/").unwrap())
        };
        let source = case.folder.join("source");
        fs::create_dir_all(&source).unwrap();
        fs::write(source.join("file"), "x").unwrap();
        symlink(&target, case.root().join("l")).unwrap();
        case.request.cwd = "/l/cwd".into();
        case.request.mounts = vec![
            mount(&source, "/l/volume", false),
            mount(&source.join("file"), "/l/sub/file", false),
            mount(&source, "/l", false),
        ];
        let outcome = case.run();
        assert!(matches!(outcome.started, Ok(()) | Err(InitError::Step { .. })), "{:?}", outcome.started);
        untouched(&canary);
    }
}

#[test]
fn dev_may_be_a_link_but_not_out() {
    let case = Case::new(&["p", "write:/dev/null:x"]);
    let canary = canary(&case);
    fs::remove_dir(case.root().join("dev")).unwrap();
    symlink(&canary, case.root().join("dev")).unwrap();
    let outcome = case.run();
    assert!(matches!(outcome.started, Ok(()) | Err(InitError::Step { .. })), "{:?}", outcome.started);
    untouched(&canary);
}

#[test]
fn proc_is_the_kernels_or_nothing_starts() {
    for name in ["proc", "sys"] {
        let case = Case::new(&["p", "exit:0"]);
        fs::remove_dir(case.root().join(name)).unwrap();
        fs::create_dir(case.root().join("evil")).unwrap();
        symlink("/evil", case.root().join(name)).unwrap();
        assert_eq!(case.run().code, 125, "{name}");
    }
    for target in ["/proc", "/proc/sys", "/proc/self/attr", "/tmp/../proc"] {
        let mut case = Case::new(&["p", "exit:0"]);
        case.request.mounts = vec![mount(&case.folder, target, false)];
        assert_eq!(case.run().code, 125, "{target}");
    }
}

#[test]
fn no_descriptor_leads_the_working_directory_out() {
    for number in 0..40 {
        let mut case = Case::new(&["p", "facts"]);
        case.request.cwd = format!("/proc/self/fd/{number}");
        let outcome = case.run();
        assert_eq!(outcome.code, 125, "{number}: {}", outcome.out);
        case.request.cwd = "/".into();
        case.exec = Some(vec!["p".into(), "facts".into()]);
        case.request.args = vec!["p".into(), "wait".into()];
        assert_eq!(case.run().code, 0);
        if number > 4 {
            break;
        }
    }
}

#[test]
fn a_terminal_is_of_the_container_itself() {
    let mut case = Case::new(&["p", "tty", "links:/dev"]);
    case.terminal = true;
    case.request.terminal = true;
    let out = ok(&case).replace('\r', "");
    assert!(out.starts_with("tty 1 /dev/pts/0 33 77\ncontrolling true\nlinks /dev console "), "{out}");
    case.exec = Some(case.request.args.clone());
    case.request.args = vec!["p".into(), "wait".into()];
    let out = ok(&case).replace('\r', "");
    assert!(out.starts_with("tty 1 /dev/pts/0 33 77\ncontrolling true\n"), "{out}");
}

#[test]
fn a_second_process_has_the_first_ones_world_and_bounds() {
    let mut case = Case::new(&["p", "wait"]);
    case.exec = Some(vec!["p".into(), "facts".into(), "call:unshare".into()]);
    case.request.cwd = "/tmp".into();
    case.request.no_new_privileges = true;
    let out = ok(&case);
    for line in [
        "ppid 0",
        "hostname box",
        "cwd /tmp",
        "Seccomp:\t2",
        "NoNewPrivs:\t1",
        "CapBnd:\t00000000800405fb",
        "CapInh:\t0000000000000000",
        "env SECOND=yes",
        "fds 0 1 2",
        "mount /proc proc",
        "unshare 1",
        "umask 022",
    ] {
        assert!(out.lines().any(|found| found == line), "{line} in\n{out}");
    }
    assert!(out.contains("pid 2\n"), "{out}");
    case.exec = Some(vec!["nosuch".into()]);
    assert_eq!(case.run().code, 127);
}

#[test]
fn a_small_process_1_reaps_and_passes_signals_on() {
    let mut case = Case::new(&["p", "facts", "orphan", "exit:9"]);
    case.reaper = true;
    let outcome = case.run();
    assert_eq!((outcome.started, outcome.code), (Ok(()), 9));
    assert!(outcome.out.contains("\nppid 1\n") || outcome.out.contains("ppid 1\n"), "{}", outcome.out);
    // The program asks process 1 to end; process 1 tells the program, which dies by it.
    case.request.args = vec!["p".into(), "signal:1".into()];
    assert_eq!(case.run().code, 128 + 15);
    case.request.args = vec!["nosuch".into()];
    assert_eq!(case.run().code, 127);
}

#[test]
fn rights_that_were_asked_for() {
    let mut case = Case::new(&["p", "facts", "call:unshare"]);
    case.request.privileged = true;
    let out = ok(&case);
    assert!(out.lines().any(|line| line == "Seccomp:\t0"), "{out}");
    case.request = Request {
        cap_drop: vec!["all".into()],
        cap_add: vec!["net_admin".into()],
        privileged: false,
        ..case.request.clone()
    };
    case.request.ulimits.insert("nofile".into(), (100, 200));
    case.request.oom_score_adj = Some(300);
    let out = ok(&case);
    for line in ["CapEff:\t0000000000001000", "CapBnd:\t0000000000001000", "oom 300"] {
        assert!(out.lines().any(|found| found == line), "{line} in\n{out}");
    }
    assert!(
        out.lines().any(|line| line.split_whitespace().eq(["Max", "open", "files", "100", "200", "files"])),
        "{out}"
    );
}

#[test]
fn namespaces_of_others_are_joined() {
    let mut case = Case::new(&["p", "facts", "list:/sys/class/net"]);
    case.request.network = Namespace::Path("/proc/self/ns/net".into());
    case.request.pid = Namespace::Host;
    case.request.sysctls.clear();
    case.change = |spec| {
        spec.linux_mut().as_mut().unwrap().set_sysctl(None);
    };
    let out = ok(&case);
    assert!(!out.contains("\npid 1\n"), "{out}");
    assert!(out.contains(" eth0") || out.contains("lo"), "{out}");
    // A setting of the host's network may not be changed by a container that shares it.
    let mut shared = Case::new(&["p", "exit:0"]);
    shared.request.network = Namespace::Host;
    shared.request.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
    assert_eq!(shared.run().code, 125);
}
