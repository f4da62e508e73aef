//! `doctor` on hosts that lack something: made so for one process, by mount namespaces, control groups and the kernel's
//! own refusals. Each finding says what it means and how it is mended, and exit 1 is for what containers can't do without.

use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::Value;

use crate::support::World;

/// A system call that fails with this error, as on a kernel without what it asks for.
struct Refusal {
    call: libc::c_long,
    /// Only with this as the third argument.
    third: Option<u32>,
    error: i32,
}

/// A classic BPF program for seccomp(2).
fn filter(refusal: &Refusal) -> Vec<libc::sock_filter> {
    let statement = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |offset: u32| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let unless = |value: u32, skip: u8| statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, value);
    let give = |value: u32| statement(libc::BPF_RET | libc::BPF_K, 0, 0, value);
    // Offsets in struct seccomp_data: the number, and the lower half of the third argument.
    let mut program = vec![load(0), unless(refusal.call as u32, if refusal.third.is_some() { 3 } else { 1 })];
    if let Some(third) = refusal.third {
        program.extend([load(16 + 2 * 8), unless(third, 1)]);
    }
    program.extend([give(libc::SECCOMP_RET_ERRNO | refusal.error as u32), give(libc::SECCOMP_RET_ALLOW)]);
    program
}

fn refuse(command: &mut Command, refusal: &Refusal) {
    let mut program = filter(refusal);
    // SAFETY: prctl(2) alone between fork and exec; the program lives in the closure.
    unsafe {
        command.pre_exec(move || {
            let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// What it says of `what`, and its exit code; what it says to people must hold the same.
fn diagnosis(world: &World, what: &str, run: &dyn Fn(&[&str]) -> (i32, String)) -> (i32, Value) {
    let (code, text) = run(&["doctor", "--format", "json"]);
    let facts: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let fact = facts.into_iter().find(|fact| fact["what"] == what).unwrap();
    let (again, text) = run(&["doctor"]);
    assert_eq!(code, again);
    if fact["ok"] == false {
        for key in ["means", "mend"] {
            assert!(text.contains(fact[key].as_str().unwrap()), "{text}");
        }
    }
    assert!(!world.roots.root.join("containers").exists(), "it changes nothing");
    (code, fact)
}

fn output(mut command: Command) -> (i32, String) {
    let output = command.output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn this_host_has_what_containers_need() {
    let world = World::new();
    let said = world.run(&["doctor"]);
    assert!(said.code == 0 && said.stdout.contains("Containers run here"), "{said:?}");
}

/// By what the kernel refuses.
#[test]
fn a_kernel_without_something_is_told() {
    let world = World::new();
    for (what, call, third, error, part) in [
        ("overlayfs", libc::SYS_fsopen, None, libc::ENODEV, "no overlayfs"),
        ("nftables", libc::SYS_socket, Some(libc::NETLINK_NETFILTER as u32), libc::EPROTONOSUPPORT, "not supported"),
        ("bridges", libc::SYS_socket, Some(libc::NETLINK_ROUTE as u32), libc::EPROTONOSUPPORT, "not supported"),
        ("inotify", libc::SYS_inotify_init1, None, libc::EMFILE, "too many open files"),
    ] {
        let run = |words: &[&str]| {
            let mut command = world.command(words);
            refuse(&mut command, &Refusal { call, third, error });
            output(command)
        };
        let (code, fact) = diagnosis(&world, what, &run);
        assert_eq!((code, &fact["ok"], &fact["needed"]), (1, &false.into(), &true.into()), "{fact}");
        assert!(fact["found"].as_str().unwrap().to_lowercase().contains(part), "{fact}");
    }
}

/// By what is mounted where, in a mount namespace of its own.
#[test]
fn a_host_that_is_mounted_otherwise_is_told() {
    let world = World::new();
    std::fs::create_dir_all(&world.roots.root).unwrap();
    let root = world.roots.root.display().to_string();
    let layers = world.directory.join("layers").display().to_string();
    let overlay = format!(
        "mkdir -p {layers}; mount -t tmpfs none {layers}; mkdir {layers}/l {layers}/u {layers}/w; \
         mount -t overlay none -o lowerdir={layers}/l,upperdir={layers}/u,workdir={layers}/w {root}"
    );
    let read_only = "for place in $(awk '$2 ~ \"^/sys/fs/cgroup\" {print $2}' /proc/self/mounts); do \
                     mount -o remount,bind,ro $place; done";
    for (what, script, code, part) in [
        ("control groups", "mount -t tmpfs none /sys/fs/cgroup", 1, "none is mounted"),
        ("control groups", read_only, 1, "Read-only"),
        ("space", &format!("mount -t tmpfs -o size=32m none {root}"), 1, "MiB free"),
        ("space", &format!("mount -t tmpfs -o size=500m none {root}"), 0, "MiB free"),
        ("overlayfs", &overlay, 1, "not in"),
        ("overlayfs", &format!("mount -t tmpfs -o size=2g,ro none {root}"), 1, "Read-only"),
        ("overlayfs", &format!("mount -t tmpfs -o size=2g none {root}"), 0, "works in"),
    ] {
        let run = |words: &[&str]| {
            let program = world.roots.program.display();
            let script = format!("{script}; exec {program} {}", words.join(" "));
            let mut command = Command::new("unshare");
            command.args(["-m", "--propagation", "private", "sh", "-c", &script]);
            command.env("STACK_ROOT", &world.roots.root).env("STACK_RUN_ROOT", &world.roots.run);
            output(command)
        };
        let (found_code, fact) = diagnosis(&world, what, &run);
        assert_eq!(found_code, code, "{script}: {fact}");
        assert!(fact["found"].as_str().unwrap().contains(part), "{script}: {fact}");
    }
}

/// Root of a user namespace alone is not root of this host.
#[test]
fn root_of_a_user_namespace_is_told() {
    let world = World::new();
    std::fs::create_dir_all(&world.roots.root).unwrap();
    let run = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["-Ur"]).arg(&world.roots.program).args(words);
        command.env("STACK_ROOT", &world.roots.root).env("STACK_RUN_ROOT", &world.roots.run);
        output(command)
    };
    let (code, fact) = diagnosis(&world, "overlayfs", &run);
    assert_eq!((code, &fact["ok"]), (1, &false.into()), "{fact}");
    let (_, fact) = diagnosis(&world, "root", &run);
    assert_eq!(fact["found"], "uid 0 of a user namespace");
}

/// In a control group that allows few processes, and with few open files: told, and no reason to say that nothing runs.
#[test]
fn low_limits_are_told() {
    let world = World::new();
    let version_1 = std::path::Path::new("/sys/fs/cgroup/pids");
    let above = if version_1.exists() { version_1 } else { std::path::Path::new("/sys/fs/cgroup") };
    let group = above.join(format!("doctor-{}", std::process::id()));
    std::fs::create_dir(&group).unwrap();
    std::fs::write(group.join("pids.max"), "50").unwrap();
    let place = group.display();
    for (what, script, part) in [
        ("processes", format!("echo $$ > {place}/cgroup.procs"), "left"),
        ("open files", "ulimit -n 512".to_owned(), "512 at most"),
    ] {
        let run = |words: &[&str]| {
            let script = format!("{script}; exec {} {}", world.roots.program.display(), words.join(" "));
            let mut command = Command::new("sh");
            command.args(["-c", &script]);
            command.env("STACK_ROOT", &world.roots.root).env("STACK_RUN_ROOT", &world.roots.run);
            output(command)
        };
        let (code, fact) = diagnosis(&world, what, &run);
        assert_eq!((code, &fact["ok"], &fact["needed"]), (0, &false.into(), &false.into()), "{fact}");
        assert!(fact["found"].as_str().unwrap().contains(part), "{fact}");
    }
    std::fs::remove_dir(group).unwrap();
}
