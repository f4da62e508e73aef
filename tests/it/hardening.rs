//! What a container may not do, and that nothing of its protection is optional.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::support::{Output, World, finish};

/// Runs a container whose `nth` call of this name fails, in whichever process of the engine makes it.
fn with_failing(world: &World, users: &str, call: &str, nth: usize) -> Output {
    let program = world.roots.program.to_str().unwrap();
    let inject = format!("inject={call}:error=EPERM:when={nth}");
    let words = [program, "run", "--rm", "--network", "none", "--userns", users, "builtin:whoami", "echo", "ran"];
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]).args(words);
    command.env("STACK_ROOT", &world.roots.root).env("STACK_RUN_ROOT", &world.roots.run).current_dir(&world.directory);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(command.spawn().expect("strace, which tests/run.sh installs"), &words)
}

/// The step that an error names: `error: container "it": STEP: Operation not permitted (os error 1)`.
fn step(said: &str) -> Option<String> {
    let rest = said.split_once("error: container \"")?.1.split_once("\": ")?.1;
    Some(rest.split_once(": Operation not permitted")?.0.to_owned())
}

#[test]
fn a_security_call_that_fails_ends_the_start_and_says_which() {
    failing_calls("host", &["capabilities", "mount /proc", "mount /sys"]);
}

/// Calls are counted by process, and some of the first are the supervisor's here.
#[test]
fn a_security_call_of_a_user_namespace_that_fails_ends_the_start() {
    failing_calls("private", &["mount the root file system", "root of the user namespace", "user namespace"]);
}

fn failing_calls(users: &str, own: &[&str]) {
    let world = World::new();
    // The images's own files, so that the calls that are counted are those of the start.
    world.ok(&["run", "--rm", "--network", "none", "builtin:whoami", "true"]);
    let mut steps = BTreeSet::new();
    let mut fail = |call: &str, nth: usize| {
        let output = with_failing(&world, users, call, nth);
        if output.code == 0 && output.stdout == "ran\n" {
            return false;
        }
        let step = step(&output.stderr).unwrap_or_else(|| panic!("{call} {nth}: {output:?}"));
        assert!(output.code == 125 && output.stdout.is_empty(), "{call} {nth}: {output:?}");
        steps.insert(step);
        true
    };
    // Until there is no further call of the name, and the program runs.
    for call in ["seccomp", "capset", "setgroups", "setresgid", "setresuid", "pivot_root", "move_mount"] {
        let failed = (1..60).take_while(|nth| fail(call, *nth)).count();
        assert!((1..59).contains(&failed), "{call}: {failed}");
    }
    // Of each kind one: protecting the process, the bounding set, keeping what the filter needs, no new rights.
    let last: usize = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap().trim().parse().unwrap();
    let dropped = last + 1 - 11;
    for nth in [1, 2, dropped + 1, dropped + 2] {
        assert!(fail("prctl", nth), "prctl {nth}");
    }
    for nth in (2..16).step_by(4) {
        assert!(fail("mount_setattr", nth), "mount_setattr {nth}");
    }
    let expected = [
        "bounding capabilities",
        "change the root directory",
        "hide /proc/kcore",
        "hide /proc/timer_list",
        "keep capabilities",
        "mount /dev",
        "mount /sys/fs/cgroup",
        "no_new_privs",
        "protect this process",
        "system call filter",
        "user and groups",
        "write-protect /proc/sys",
        "write-protect /proc/sysrq-trigger",
    ];
    // Not every kernel has all of these.
    let is_there =
        |step: &&str| step.split_once(" /proc/").is_none_or(|(_, name)| Path::new("/proc").join(name).exists());
    let missing: Vec<_> =
        expected.iter().chain(own).copied().filter(is_there).filter(|step| !steps.contains(*step)).collect();
    assert!(missing.is_empty(), "{missing:?} are not among {steps:?}");
}

const PROBE: &str = r#"
echo "caps $(grep CapBnd /proc/self/status | cut -f2)"
echo "inherited $(grep CapInh /proc/self/status | cut -f2)"
echo "filter $(grep Seccomp: /proc/self/status | cut -f2)"
echo "ping $(cat /proc/sys/net/ipv4/ping_group_range | tr '\t' ' ')"
grep 'core file' /proc/self/limits | tr -s ' '
grep 'open files' /proc/self/limits | tr -s ' '
echo "shm $(grep ' /dev/shm ' /proc/self/mountinfo | sed 's/.*\(size=[0-9a-z]*\).*/\1/')"
for file in interrupts kcore keys latency_stats timer_list timer_stats sched_debug; do
    echo "$file $(head -c 9 /proc/$file 2>/dev/null | wc -c)"
done
for directory in /proc/acpi /proc/asound /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do
    echo "$directory $(ls $directory 2>/dev/null | wc -l)"
done
ls -d /sys/devices/system/cpu/cpu*/thermal_throttle/* 2>/dev/null
for path in /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger /sys /sys/fs/cgroup; do
    echo "$path $(cut -d' ' -f5,6 /proc/self/mountinfo | grep "^$path " | tail -1 | grep -o 'r[ow]' | head -1)"
done
echo h > /proc/sysrq-trigger
echo 1 > /proc/sys/vm/drop_caches
mount -t tmpfs none /tmp
mknod /tmp/disk b 8 0
"#;

/// Threat by threat, what a container is given that asks for nothing: as seen from the inside, and on the host.
#[test]
fn what_a_container_has_that_asks_for_nothing() {
    let world = World::new();
    world.busybox("root");
    let script = world.file("root/probe", PROBE);
    let file = world.file(
        "stack.yaml",
        "name: plain\nimages: {shell: {rootfs: ./root}}\ncontainers:\n  box: {image: shell, command: [sh, -c, 'busybox --install -s /bin; exec sleep 10000'], secrets: [key], stop_grace_period: 0s, networks: [net]}\nsecrets: {key: {content: hidden}}\nnetworks: {net: {}}\n",
    );
    assert!(script.exists());
    world.ok(&["apply", file.to_str().unwrap()]);
    let probed = world.run(&["exec", "-e", "PATH=/bin", "plain-box-1", "/bin/busybox", "sh", "/probe"]);
    let lines: BTreeSet<&str> = probed.stdout.lines().collect();
    // Never more than the host lets this very process have.
    let most = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
    let open_files = format!("Max open files {} {} files ", most.min(65_536), most.min(1 << 20));
    let sysrq = Path::new("/proc/sysrq-trigger").exists();
    let expected = [
        "caps 00000000800405fb",
        "inherited 0000000000000000",
        "filter 2",
        "ping 0 65535",
        "Max core file size 0 0 bytes ",
        &open_files,
        "shm size=65536k",
        "interrupts 0",
        "kcore 0",
        "keys 0",
        "latency_stats 0",
        "timer_list 0",
        "timer_stats 0",
        "sched_debug 0",
        "/proc/acpi 0",
        "/proc/asound 0",
        "/proc/scsi 0",
        "/sys/firmware 0",
        "/sys/devices/virtual/powercap 0",
        "/proc/sys ro",
        "/proc/bus ro",
        "/proc/fs ro",
        "/proc/irq ro",
        if sysrq { "/proc/sysrq-trigger ro" } else { "/proc/sysrq-trigger " },
        "/sys ro",
        "/sys/fs/cgroup ro",
    ];
    for line in expected {
        assert!(lines.contains(line), "no {line:?} in {probed:#?}");
    }
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    let refused = ["drop_caches: Read-only", "mount: permission denied", "mknod: /tmp/disk: Operation not permitted"];
    for refused in refused.into_iter().chain(sysrq.then_some("sysrq-trigger: Read-only")) {
        assert!(probed.stderr.contains(refused), "no {refused:?} in {probed:#?}");
    }
    let pid = world.field("plain-box-1", "pid");
    let root = format!("/proc/{pid}/root");
    let secret = |name: &str| fs::metadata(format!("{root}/run/secrets/{name}")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&secret("key").permissions()) & 0o777, 0o400);
    assert_eq!(limit(pid.as_i64().unwrap(), "pids", "pids.max"), "4096");
    for root in [&world.roots.root, &world.roots.run] {
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(root).unwrap().permissions()) & 0o777, 0o700);
    }
    // No socket that is reached by its name alone, in whichever network namespace.
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    assert!(!sockets.lines().any(|line| line.contains('@') && line.contains("stack")), "{sockets}");
    world.ok(&["destroy", "plain"]);
}

fn limit(pid: i64, controller: &str, file: &str) -> String {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let found = groups.lines().find_map(|line| {
        let (names, path) = line.split_once(':')?.1.split_once(':')?;
        let place = if names.is_empty() { String::new() } else { format!("/{controller}") };
        let is = names.is_empty() || names.split(',').any(|name| name == controller);
        is.then(|| fs::read_to_string(format!("/sys/fs/cgroup{place}{path}/{file}")).ok()).flatten()
    });
    found.unwrap_or_else(|| panic!("{file} in {groups}")).trim().to_owned()
}

/// A library that an image has every program of it load: says what comes of writing to the program that it is loaded by.
const EVIL: &str = r#"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
__attribute__((constructor)) static void load(void) {
    char path[64], name[256] = "";
    int own = open("/proc/self/exe", O_RDONLY);
    if (own >= 0) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", own);
        errno = 0;
        printf("write %s\n", open(path, O_WRONLY) < 0 ? strerror(errno) : "OPENED");
    }
    fflush(stdout);
    _exit(0);
}
"#;

/// CVE-2019-5736: a container has the engine execute itself, with libraries of the container's.
#[test]
fn no_container_executes_or_writes_to_the_engine() {
    let world = World::new();
    let root = world.busybox("root");
    fs::create_dir_all(root.join("lib64")).unwrap();
    let source = world.file("evil.c", EVIL);
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(root.join("evil.so")).arg(source).status();
    assert!(built.unwrap().success());
    let listed = Command::new("ldd").arg(&world.roots.program).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let libraries: Vec<&str> = listed.split_whitespace().filter(|word| word.starts_with('/')).collect();
    assert!(libraries.iter().any(|library| library.contains("libc.so")), "{listed}");
    for library in libraries {
        fs::create_dir_all(root.join(&library[1..]).parent().unwrap()).unwrap();
        fs::copy(library, root.join(&library[1..])).unwrap();
    }
    for (name, text) in [("script", "#!/proc/self/exe\n"), ("link", "")] {
        let path = root.join(name);
        if text.is_empty() {
            std::os::unix::fs::symlink("/proc/self/exe", &path).unwrap();
            continue;
        }
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let archive = world.archive("evil.tar", "root", &serde_json::json!({"Env": ["LD_PRELOAD=/evil.so"]}));
    world.ok(&["load", "-i", archive.to_str().unwrap()]);
    let before = stack::reconcile::facts::hash(&fs::read(&world.roots.program).unwrap());
    for program in ["/script", "/link", "/proc/self/exe"] {
        let run = world.run(&["run", "--rm", "--network", "none", "--entrypoint", program, "evil.tar"]);
        assert!(!run.stdout.contains("write"), "{program}: the engine was executed: {run:?}");
        assert_ne!(run.code, 0, "{program}");
    }
    for rights in [&["--cap-add", "SYS_PTRACE"][..], &[]] {
        let box_ = ["run", "-d", "--name", "box", "--network", "none"];
        let rest = ["--entrypoint", "/bin/busybox", "-e", "LD_PRELOAD=", "evil.tar", "sleep", "1000"];
        world.ok(&[&box_[..], rights, &rest].concat());
        let joined = world.run(&["exec", "-e", "LD_PRELOAD=/evil.so", "box", "/script"]);
        assert!(!joined.stdout.contains("write"), "the engine was executed: {joined:?}");
        // Its supervisor, whose children the container sees for a moment, is of a file that nobody can write to.
        let status = fs::read_to_string(world.roots.run.join("containers/box/status.json")).unwrap();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let program = format!("/proc/{}/exe", status["shim"]["pid"]);
        // One that sleeps is of a file that is nowhere, and sealed.
        if fs::read_link(&program).unwrap().starts_with("/memfd:stack (deleted)") {
            let file = fs::File::open(&program).unwrap();
            let seals = SealFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GET_SEALS).unwrap());
            assert!(seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL), "{seals:?}");
        } else {
            let mounted = statvfs(program.as_str()).unwrap();
            assert!(mounted.flags().contains(FsFlags::ST_RDONLY), "{mounted:?}");
        }
        world.ok(&["rm", "-f", "box"]);
    }
    assert_eq!(stack::reconcile::facts::hash(&fs::read(&world.roots.program).unwrap()), before);
}

/// Neither the engine's arguments nor its memory are in a container, also where it has a process 1 of ours.
#[test]
fn process_1_shows_nothing_of_the_engine() {
    let world = World::new();
    let base = ["run", "--rm", "--network", "none", "-e", "TOKEN=hidden"];
    for flags in [&["--init"][..], &["--init", "--cap-add", "SYS_PTRACE"], &["--init", "--user", "1000"]] {
        let show = |file: &str| {
            let file = format!("/proc/1/{file}");
            world.run(&[&base[..], flags, &["builtin:whoami", "cat", &file]].concat()).stdout
        };
        let line = show("cmdline").replace('\0', " ");
        assert!(line.starts_with("init ") && line.ends_with("/whoami cat /proc/1/cmdline "), "{line}");
        assert_eq!(show("comm"), "init\n");
        let maps = show("maps");
        assert!(!maps.contains("stack\n") && !maps.contains(&*world.directory.to_string_lossy()), "{maps}");
    }
    assert!(Path::new("/proc/1/maps").exists());
}

/// A static program of 32 bits: an ELF header, one segment, and this code, which ends with what it says.
fn narrow_program() -> Vec<u8> {
    const START: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    const MESSAGE: &[u8] = b"32 bits\n";
    let move_to = |register: u8, value: u32| [&[register][..], &value.to_le_bytes()].concat();
    let (eax, ebx, ecx, edx) = (0xb8, 0xbb, 0xb9, 0xba);
    let call: &[u8] = &[0xcd, 0x80];
    // The code of an end that is not 0 says which of the calls was not answered as it should be.
    let end_if_not = |expected: i8, code: u8| {
        let end = [&move_to(eax, 1)[..], &move_to(ebx, code.into()), call].concat();
        [&[0x83, 0xf8, expected as u8, 0x74, end.len() as u8][..], &end].concat()
    };
    let code = |text: u32| {
        [
            // socketcall(SYS_SOCKET, {AF_UNIX, SOCK_STREAM, 0}), which gives descriptor 3.
            &[0x6a, 0, 0x6a, 1, 0x6a, 1, 0x89, 0xe1][..],
            &move_to(ebx, 1),
            &move_to(eax, 102),
            call,
            &end_if_not(3, 10),
            // socket(AF_ALG, SOCK_SEQPACKET, 0): EAFNOSUPPORT.
            &[move_to(eax, 359), move_to(ebx, 38), move_to(ecx, 5), move_to(edx, 0)].concat(),
            call,
            &end_if_not(-97, 11),
            // unshare(CLONE_NEWUSER): EPERM.
            &[move_to(eax, 310), move_to(ebx, 0x1000_0000)].concat(),
            call,
            &end_if_not(-1, 12),
            // io_uring_setup: EPERM; number 500 is no call: ENOSYS.
            &move_to(eax, 425),
            call,
            &end_if_not(-1, 13),
            &move_to(eax, 500),
            call,
            &end_if_not(-38, 14),
            &[move_to(eax, 4), move_to(ebx, 1), move_to(ecx, text), move_to(edx, MESSAGE.len() as u32)].concat(),
            call,
            &[move_to(eax, 1), move_to(ebx, 0)].concat(),
            call,
        ]
        .concat()
    };
    let text = START + HEADERS + code(0).len() as u32;
    let length = text - START + MESSAGE.len() as u32;
    let halves = |all: &[u16]| all.iter().flat_map(|half| half.to_le_bytes()).collect::<Vec<u8>>();
    let words = |all: &[u32]| all.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    [
        b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(),
        // An executable of the i386: entry, where the segment's description is, no sections.
        [halves(&[2, 3]), words(&[1, START + HEADERS, 52, 0, 0]), halves(&[52, 32, 1, 0, 0, 0])].concat(),
        words(&[1, 0, START, START, length, length, 5, 0x1000]),
        code(text),
        MESSAGE.to_vec(),
    ]
    .concat()
}

#[test]
fn programs_of_32_bits_run_and_may_do_no_more() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let program = world.busybox("narrow").join("bin/narrow");
    fs::write(&program, narrow_program()).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    match Command::new(&program).status() {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOEXEC) => {
            return eprintln!("SKIPPED: this kernel runs no programs of 32 bits");
        }
        // The host refuses none of it to root.
        ended => assert!(ended.unwrap().code().is_some_and(|code| code > 10)),
    }
    let archive = world.archive("narrow.tar", "narrow", &serde_json::json!({"Cmd": ["/bin/narrow"]}));
    world.ok(&["load", "-q", "-i", archive.to_str().unwrap()]);
    assert_eq!(world.ok(&["run", "--rm", "--network", "none", "narrow.tar"]), "32 bits\n");
}

/// What reads an archive, and what makes its files, has a filter of its own while the rest of the program has none.
#[test]
fn who_unpacks_a_layer_is_confined() {
    let world = World::new();
    let mut command = world.command(&["import", "-", "slow"]);
    let mut import = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let tasks = format!("/proc/{}/task", import.id());
    let confined = || {
        let all =
            fs::read_dir(&tasks).unwrap().filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
        let is_confined = |text: &String| text.contains("Seccomp:\t2") && text.contains("NoNewPrivs:\t1");
        all.filter(|text| text.contains("Name:\tunpack") && is_confined(text)).count()
    };
    // The beginning of an archive, whose rest is waited for.
    std::io::Write::write_all(import.stdin.as_mut().unwrap(), &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]).unwrap();
    crate::support::eventually("both threads are confined", || confined() == 2);
    let first = fs::read_to_string(format!("/proc/{}/status", import.id())).unwrap();
    assert!(first.contains("Seccomp:\t0"), "{first}");
    drop(import.stdin.take());
    assert!(!import.wait().unwrap().success());
}

/// A profile as docker reads it: of a command, and of a file, where its content counts.
#[test]
fn a_containers_own_filter_of_system_calls_is_dockers() {
    let world = World::with_shell();
    let profile = |action: &str| {
        let rule = format!("{{\"names\": [\"mkdir\", \"mkdirat\"], \"action\": \"{action}\", \"errnoRet\": 28}}");
        format!("{{\"defaultAction\": \"SCMP_ACT_ALLOW\",\n\"archMap\": [],\n\"syscalls\": [{rule}]}}")
    };
    let file = world.file("filter.json", &profile("SCMP_ACT_ERRNO"));
    let option = format!("seccomp={}", file.display());
    let run = ["run", "--rm", "--network", "none", "--security-opt", &option];
    let said =
        world.run(&[&run[..], &["shell", "/bin/sh", "-c", "mkdir /tmp/x; grep Seccomp: /proc/self/status"]].concat());
    assert!(said.stderr.contains("No space left") && said.stdout.contains("2"), "{said:?}");
    // Programs that join it have the same, and what may be done else is done.
    let stack = "name: sift\ncontainers:\n  it: {image: shell, command: [sleep, '1000'], network_mode: none, \
                 stop_grace_period: 0s, security_opt: ['seccomp=./filter.json', 'no-new-privileges:false']}\n";
    let stack = world.file("stack.yaml", stack);
    let stack = stack.to_str().unwrap();
    world.ok(&["apply", stack]);
    let made = |world: &World| world.run(&["exec", "sift-it-1", "mkdir", "/tmp/x"]);
    assert!(made(&world).stderr.contains("No space left"));
    assert!(world.ok(&["plan", stack]).is_empty());
    world.file("filter.json", &profile("SCMP_ACT_ALLOW"));
    let plan = world.ok(&["plan", stack]);
    assert!(plan.contains("replace") && plan.contains("seccomp profile: content changed"), "{plan}");
    world.ok(&["apply", stack]);
    assert_eq!(made(&world).code, 0);
    // What is wrong with it is told before anything is touched, with its line.
    world.file("filter.json", &profile("SCMP_ACT_NO"));
    let said = world.run(&["apply", stack]);
    assert!(said.code == 1 && said.stderr.contains("filter.json:3: unknown variant `SCMP_ACT_NO`"), "{said:?}");
    assert!(said.stderr.contains("stack.yaml:3"), "{said:?}");
    assert_eq!(world.run(&[&run[..], &["shell", "true"]].concat()).code, 125);
    fs::remove_file(&file).unwrap();
    let said = world.run(&["apply", stack]);
    assert!(said.code == 1 && said.stderr.contains("no such file"), "{said:?}");
    assert_eq!(made(&world).code, 1, "it is there already");
    world.ok(&["destroy", "sift"]);
}
