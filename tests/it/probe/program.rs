//! The probe: says what a container may do, a line each, so that two containers can be compared by eye. Each call is made
//! harmlessly, in a child of its own. What depends on the host alone is left out, or said in one word for all hosts.
//!
//! `probe` prints all of it; `probe ids` only whose process it is; `probe cwd` where it is.

use std::ffi::{CString, c_int, c_long};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn fork() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(code: c_int) -> !;
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn close(fd: c_int) -> c_int;
    fn geteuid() -> u32;
    fn getegid() -> u32;
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn name(errno: i32) -> String {
    let known = [(1, "EPERM"), (2, "ENOENT"), (13, "EACCES"), (22, "EINVAL"), (30, "EROFS"), (38, "ENOSYS")];
    let more = [(93, "EPROTONOSUPPORT"), (94, "ESOCKTNOSUPPORT"), (97, "EAFNOSUPPORT")];
    let found = known.into_iter().chain(more).find(|(number, _)| *number == errno);
    found.map_or_else(|| format!("errno {errno}"), |(_, name)| name.to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn is_filtered() -> bool {
    read("/proc/self/status").lines().any(|line| line == "Seccomp:\t2")
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("ids") => println!("{} {}", unsafe { geteuid() }, unsafe { getegid() }),
        Some("cwd") => println!("{}", std::env::current_dir().map_or("none".into(), |path| path.display().to_string())),
        _ => {
            process();
            calls();
            sockets();
            settings();
            paths();
            devices();
            mounts();
        }
    }
    std::io::stdout().flush().unwrap();
}

fn process() {
    let keys = ["Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    for line in read("/proc/self/status").lines() {
        let (key, value) = line.split_once(':').unwrap();
        if keys.contains(&key) {
            let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
            println!("process {key} {}", if key.starts_with("Cap") { capabilities(&value) } else { value });
        }
    }
    for line in read("/proc/self/limits").lines().skip(1) {
        let (key, rest) = line.split_at(26);
        let words: Vec<&str> = rest.split_whitespace().take(2).collect();
        // Never more than the host lets the engine have.
        if !["Max open files", "Max processes"].contains(&key.trim()) {
            println!("limit {} {}", key.trim().trim_start_matches("Max "), words.join(" "));
        }
    }
    println!("process umask {}", read("/proc/self/status").lines().find_map(|line| line.strip_prefix("Umask:\t")).unwrap());
    let mut open: Vec<String> =
        fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    open.sort();
    // The listing itself opens one more.
    open.pop();
    println!("process descriptors {}", open.join(" "));
    println!("process oom_score_adj {}", read("/proc/self/oom_score_adj").trim());
}

/// Of one that has all, CAP_SYS_RESOURCE does not count: an engine may lack that.
fn capabilities(set: &str) -> String {
    let bits = u64::from_str_radix(set, 16).unwrap();
    let all = bits & 1 << CAP_SYS_MODULE != 0;
    format!("{:016x}", if all { bits & !(1 << CAP_SYS_RESOURCE) } else { bits })
}

const CAP_SYS_MODULE: u32 = 16;
const CAP_SYS_RESOURCE: u32 = 24;
const NEW_MOUNT: u64 = 0x0002_0000;
const NEW_CGROUP: u64 = 0x0200_0000;
const NEW_UTS: u64 = 0x0400_0000;
const NEW_IPC: u64 = 0x0800_0000;
const NEW_USER: u64 = 0x1000_0000;
const NEW_PID: u64 = 0x2000_0000;
const NEW_NETWORK: u64 = 0x4000_0000;
const SIGCHLD: u64 = 17;
/// An address that is nobody's.
const WRONG: u64 = 1;
const NONE: u64 = u64::MAX;
const X32: c_long = 0x4000_0000;

/// Name, number of x86-64, arguments that ask for nothing.
#[rustfmt::skip]
const CALLS: &[(&str, c_long, [u64; 5])] = &[
    ("read", 0, [NONE, 0, 0, 0, 0]),
    ("ptrace", 101, [9999, 0, 0, 0, 0]),
    ("syslog", 103, [9, 0, 0, 0, 0]),
    ("personality", 135, [0xffff_ffff, 0, 0, 0, 0]),
    ("uselib", 134, [0, 0, 0, 0, 0]),
    ("ustat", 136, [0, 0, 0, 0, 0]),
    ("sysfs", 139, [3, 0, 0, 0, 0]),
    ("vhangup", 153, [0; 5]),
    ("modify_ldt", 154, [0, 0, 0, 0, 0]),
    ("pivot_root", 155, [WRONG, WRONG, 0, 0, 0]),
    ("_sysctl", 156, [WRONG, 0, 0, 0, 0]),
    ("adjtimex", 159, [WRONG, 0, 0, 0, 0]),
    ("chroot", 161, [WRONG, 0, 0, 0, 0]),
    ("acct", 163, [WRONG, 0, 0, 0, 0]),
    ("settimeofday", 164, [WRONG, 0, 0, 0, 0]),
    ("mount", 165, [WRONG, WRONG, 0, 0, 0]),
    ("umount2", 166, [WRONG, 0, 0, 0, 0]),
    ("swapon", 167, [WRONG, 0, 0, 0, 0]),
    ("swapoff", 168, [WRONG, 0, 0, 0, 0]),
    ("reboot", 169, [0, 0, 0, 0, 0]),
    ("sethostname", 170, [WRONG, NONE, 0, 0, 0]),
    ("setdomainname", 171, [WRONG, NONE, 0, 0, 0]),
    ("iopl", 172, [9, 0, 0, 0, 0]),
    ("ioperm", 173, [NONE, 1, 1, 0, 0]),
    ("create_module", 174, [0; 5]),
    ("init_module", 175, [WRONG, 0, WRONG, 0, 0]),
    ("delete_module", 176, [WRONG, 0, 0, 0, 0]),
    ("quotactl", 179, [NONE, WRONG, 0, 0, 0]),
    ("clock_settime", 227, [0, WRONG, 0, 0, 0]),
    ("mbind", 237, [0, 0, 0xffff, 0, 0]),
    ("set_mempolicy", 238, [0xffff, 0, 0, 0, 0]),
    ("get_mempolicy", 239, [0, 0, 0, 0, 0xffff]),
    ("kexec_load", 246, [0, NONE, 0, 0, 0]),
    ("add_key", 248, [WRONG, 0, 0, 0, 0]),
    ("request_key", 249, [WRONG, 0, 0, 0, 0]),
    ("keyctl", 250, [NONE, 0, 0, 0, 0]),
    ("migrate_pages", 256, [0, NONE, WRONG, WRONG, 0]),
    ("unshare mount", 272, [NEW_MOUNT, 0, 0, 0, 0]),
    ("unshare user", 272, [NEW_USER, 0, 0, 0, 0]),
    ("unshare network", 272, [NEW_NETWORK, 0, 0, 0, 0]),
    ("move_pages", 279, [0, 1, WRONG, WRONG, 0]),
    ("perf_event_open", 298, [WRONG, 0, 0, 0, 0]),
    ("fanotify_init", 300, [0xffff_ffff, 0, 0, 0, 0]),
    ("name_to_handle_at", 303, [NONE, WRONG, WRONG, WRONG, 0]),
    ("open_by_handle_at", 304, [NONE, WRONG, 0, 0, 0]),
    ("clock_adjtime", 305, [0, WRONG, 0, 0, 0]),
    ("setns", 308, [NONE, 0, 0, 0, 0]),
    ("process_vm_readv", 310, [0, WRONG, 1, WRONG, 1]),
    ("process_vm_writev", 311, [0, WRONG, 1, WRONG, 1]),
    ("kcmp", 312, [0, 0, 99, 0, 0]),
    ("finit_module", 313, [NONE, WRONG, 0, 0, 0]),
    ("seccomp", 317, [99, 0, 0, 0, 0]),
    ("memfd_create", 319, [WRONG, 0, 0, 0, 0]),
    ("kexec_file_load", 320, [NONE, NONE, 0, 0, 0xffff]),
    ("bpf", 321, [NONE, 0, 0, 0, 0]),
    ("userfaultfd", 323, [NONE, 0, 0, 0, 0]),
    ("pkey_alloc", 330, [NONE, 0, 0, 0, 0]),
    ("statx", 332, [NONE, WRONG, 0, 0, 0]),
    ("io_uring_setup", 425, [0, WRONG, 0, 0, 0]),
    ("io_uring_enter", 426, [NONE, 0, 0, 0, 0]),
    ("io_uring_register", 427, [NONE, 0, 0, 0, 0]),
    ("open_tree", 428, [NONE, WRONG, 0, 0, 0]),
    ("move_mount", 429, [NONE, WRONG, NONE, WRONG, 0]),
    ("fsopen", 430, [WRONG, 0, 0, 0, 0]),
    ("fsconfig", 431, [NONE, 0, 0, 0, 0]),
    ("fsmount", 432, [NONE, 0, 0, 0, 0]),
    ("fspick", 433, [NONE, WRONG, 0, 0, 0]),
    ("pidfd_open", 434, [0, 0, 0, 0, 0]),
    ("clone3", 435, [WRONG, 0, 0, 0, 0]),
    ("openat2", 437, [NONE, WRONG, WRONG, 0, 0]),
    ("pidfd_getfd", 438, [NONE, 0, 0, 0, 0]),
    ("process_madvise", 440, [NONE, WRONG, 1, 0, 0]),
    ("mount_setattr", 442, [NONE, WRONG, 0, WRONG, 0]),
    ("quotactl_fd", 443, [NONE, 0, 0, 0, 0]),
    ("landlock_restrict_self", 446, [NONE, 0, 0, 0, 0]),
    ("memfd_secret", 447, [NONE, 0, 0, 0, 0]),
    ("statmount", 457, [WRONG, 0, 0, 0, 0]),
    ("lsm_set_self_attr", 460, [0, WRONG, 0, 0, 0]),
    ("a call of the future", 9999, [0; 5]),
    ("x32 getpid", X32 | 39, [0; 5]),
];

/// Without a filter it depends on the kernel whether a call is there: then only what is forbidden is told.
fn answer(result: c_long, filtered: bool) -> String {
    match (result, errno()) {
        (0.., _) => "open".to_owned(),
        (_, error @ 1) => name(error),
        (_, error @ 38) if filtered => name(error),
        _ => "open".to_owned(),
    }
}

fn calls() {
    let filtered = is_filtered();
    // With few capabilities and without a filter it is the host's choice.
    if !filtered && !is_privileged() {
        return println!("call any: by the host");
    }
    for (call, number, [a, b, c, d, e]) in CALLS {
        alone(&format!("call {call}"), || answer(unsafe { syscall(*number, *a, *b, *c, *d, *e, 0_u64) }, filtered));
    }
    let kinds = [
        ("mount", NEW_MOUNT),
        ("cgroup", NEW_CGROUP),
        ("uts", NEW_UTS),
        ("ipc", NEW_IPC),
        ("user", NEW_USER),
        ("pid", NEW_PID),
        ("network", NEW_NETWORK),
    ];
    for (kind, flag) in kinds {
        alone(&format!("call clone {kind}"), || {
            let result = unsafe { syscall(56, flag | SIGCHLD, 0_u64, 0_u64, 0_u64, 0_u64) };
            if result == 0 {
                unsafe { _exit(0) };
            }
            answer(result, filtered)
        });
    }
}

/// Prints what a child finds out.
fn alone(what: &str, look: impl FnOnce() -> String) {
    std::io::stdout().flush().unwrap();
    match unsafe { fork() } {
        0 => {
            let found = look();
            println!("{what}: {found}");
            std::io::stdout().flush().unwrap();
            unsafe { _exit(0) }
        }
        child => {
            let mut status = 0;
            unsafe { waitpid(child, &raw mut status, 0) };
            if status != 0 {
                println!("{what}: ended with status {status:#x}");
            }
        }
    }
}

/// Whether a family can be had at all; one that this kernel lacks looks as one that is forbidden.
fn family(number: c_int) -> bool {
    [1, 2, 3, 5].into_iter().any(|kind| {
        let made = unsafe { socket(number, kind, 0) };
        let error = errno();
        if made >= 0 {
            unsafe { close(made) };
        }
        made >= 0 || error != 97
    })
}

fn sockets() {
    // Without a filter it is the kernel's choice.
    if is_filtered() {
        let open: Vec<String> = (0..=45).filter(|number| family(*number)).map(|number| number.to_string()).collect();
        println!("socket families {}", open.join(" "));
    }
    let raw = |family: c_int, kind: c_int, protocol: c_int| match unsafe { socket(family, kind, protocol) } {
        0.. => "open".to_owned(),
        _ => name(errno()),
    };
    println!("socket netlink route: {}", raw(16, 3, 0));
    println!("socket netlink xfrm: {}", raw(16, 3, 6));
    println!("socket raw icmp: {}", raw(2, 3, 1));
    println!("socket ping: {}", raw(2, 2, 1));
    println!("socket packet: {}", raw(17, 3, 0x0300));
}

fn settings() {
    for key in ["net/ipv4/ping_group_range", "net/ipv4/ip_unprivileged_port_start", "net/ipv4/conf/all/route_localnet"] {
        println!("setting {key} {}", read(&format!("/proc/sys/{key}")).split_whitespace().collect::<Vec<_>>().join(" "));
    }
    for key in ["kernel/core_pattern", "kernel/hostname", "vm/overcommit_memory", "net/ipv4/ip_forward", "kernel/shmmax"] {
        println!("setting {key}: {}", writable(&format!("/proc/sys/{key}")));
    }
}

/// Whether it opens for writing; nothing is written. What this kernel lacks can't be written to, either.
fn writable(path: &str) -> &'static str {
    // O_NONBLOCK: nobody waits for the other end of a pipe.
    let opened = fs::OpenOptions::new().write(true).custom_flags(0o4000).open(path);
    if opened.is_ok() { "writable" } else { "not writable" }
}

/// Whether a path shows anything: of what a kernel lacks there is nothing to be seen, either.
fn shows(path: &str) -> bool {
    match fs::metadata(path) {
        Err(_) => false,
        Ok(data) if data.is_dir() => fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()),
        Ok(_) => {
            let mut byte = [0];
            fs::File::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut byte)).is_ok_and(|count| count > 0)
        }
    }
}

fn paths() {
    let masked = [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ];
    let throttle = (0..64).map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"));
    let seen: Vec<String> = masked.into_iter().map(str::to_owned).chain(throttle).filter(|path| shows(path)).collect();
    // Where nothing is hidden, it is the host's choice what there is to be seen.
    let shown = if seen.contains(&"/proc/interrupts".to_owned()) { "much".to_owned() } else { seen.join(" ") };
    println!("hidden all but [{shown}]");
    for path in ["/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/proc/self/attr/exec", "/proc/self/oom_score_adj", "/sys/kernel/uevent_helper"] {
        println!("path {path}: {}", writable(path));
    }
    for directory in ["/", "/etc", "/tmp", "/dev", "/dev/shm", "/dev/mqueue", "/proc", "/sys", "/sys/fs/cgroup", "/proc/bus", "/proc/fs"] {
        let path = format!("{}/probe", directory.trim_end_matches('/'));
        let made = fs::OpenOptions::new().write(true).create_new(true).open(&path);
        let said = match made {
            Ok(_) => "files can be made".to_owned(),
            // Of procfs and sysfs, where the directory is not there, or is write-protected or not.
            Err(error) if matches!(error.raw_os_error(), Some(2 | 13 | 30)) => "no files can be made".to_owned(),
            Err(error) => name(error.raw_os_error().unwrap_or(0)),
        };
        drop(fs::remove_file(&path));
        println!("path {directory}: {said}");
    }
}

fn devices() {
    let mut names: Vec<String> =
        fs::read_dir("/dev").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let ours = ["console", "full", "null", "ptmx", "random", "tty", "urandom", "zero"];
    for name in names {
        let path = format!("/dev/{name}");
        let data = fs::symlink_metadata(&path).unwrap();
        let kind = data.file_type();
        if kind.is_symlink() {
            println!("device {name} -> {}", fs::read_link(&path).unwrap().display());
        } else if kind.is_char_device() && ours.contains(&name.as_str()) {
            let (major, minor) = (data.rdev() >> 8 & 0xfff, data.rdev() & 0xff);
            println!("device {name} c {major}:{minor} {:o} {}:{}", data.mode() & 0o7777, data.uid(), data.gid());
        } else if is_privileged() {
            // Those of the host.
        } else if kind.is_dir() {
            println!("device {name}/");
        } else {
            println!("device {name} {:o}", data.mode());
        }
    }
    for (what, kind, major, minor) in [("disk", 0o060_000_u64, 8_u64, 0_u64), ("mem", 0o020_000, 1, 1), ("null", 0o020_000, 1, 3)] {
        let path = CString::new(format!("/tmp/{what}")).unwrap();
        let made = unsafe { syscall(133, path.as_ptr(), kind | 0o600, major << 8 | minor) };
        println!("make device {what}: {}", if made < 0 { name(errno()) } else { "made".to_owned() });
        if made == 0 {
            let opened = fs::OpenOptions::new().read(true).open(format!("/tmp/{what}"));
            println!("open device {what}: {}", match opened {
                // A device that the host does not have would open, if it were there.
                Ok(_) => "open".to_owned(),
                Err(error) if matches!(error.raw_os_error(), Some(6 | 19 | 123)) => "open".to_owned(),
                Err(error) => name(error.raw_os_error().unwrap_or(0)),
            });
        }
        drop(fs::remove_file(format!("/tmp/{what}")));
    }
}

/// It has all capabilities; then the devices are the host's.
fn is_privileged() -> bool {
    let text = read("/proc/self/status");
    let set = text.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    u64::from_str_radix(set, 16).unwrap() & 1 << CAP_SYS_MODULE != 0
}

fn mounts() {
    let text = read("/proc/self/mountinfo");
    let mut lines: Vec<String> = text.lines().filter_map(mount).collect();
    lines.sort();
    lines.dedup();
    lines.iter().for_each(|line| println!("mount {line}"));
}

/// Place, kind and options, without those that are the host's: where layers are, what its files are on.
fn mount(line: &str) -> Option<String> {
    let (left, right) = line.split_once(" - ")?;
    let place = left.split(' ').nth(4)?;
    let own = left.split(' ').nth(5)?;
    let mut right = right.split(' ');
    let (kind, options) = (right.next()?, right.nth(1)?);
    let is_file = place.starts_with("/etc/") || place.starts_with("/dev/") && kind != "tmpfs" && kind != "devpts" && kind != "mqueue";
    let kept = ["size=", "mode=", "ptmxmode=", "nr_inodes="];
    let options: Vec<&str> =
        options.split(',').filter(|option| kept.iter().any(|key| option.starts_with(key))).collect();
    let (kind, options) = if is_file { ("host", Vec::new()) } else { (kind, options) };
    if place.starts_with("/sys/fs/cgroup/") {
        // Which there are, the host's hierarchy says.
        let access = own.split(',').next()?;
        return (access == "rw" && !is_privileged()).then(|| "/sys/fs/cgroup/CONTROLLER rw".to_owned());
    }
    // Of all hidden or write-protected places it depends on the host which there are.
    if place.starts_with("/proc/") || place.starts_with("/sys/") && place != "/sys/fs/cgroup" {
        let kind = if ["proc", "sysfs"].contains(&kind) { "its own" } else { "cover" };
        let access = own.split(',').next()?;
        return Some(format!("{}/PLACE {kind} {access}", &place[..place[1..].find('/')? + 1]));
    }
    let own: Vec<&str> = own.split(',').filter(|option| !option.ends_with("atime")).collect();
    let kind = if place == "/sys/fs/cgroup" { "cgroup" } else { kind };
    let options = if kind == "cgroup" { Vec::new() } else { options };
    Some(format!("{place} {kind} {} {}", own.join(","), options.join(",")).trim_end().to_owned())
}
