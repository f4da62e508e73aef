//! The system calls a container may make, as a BPF program built from tables.
//!
//! An allow-list: what is not known answers ENOSYS, so that a new call of a new kernel is not open by itself and libc
//! falls back; what is known to be dangerous answers EPERM. Rare socket families answer EAFNOSUPPORT: that is where the
//! kernel's last escapes came through. See seccomp(2) and Documentation/userspace-api/seccomp_filter.rst.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;

use libc::sock_filter;

use super::sys::{self, NEW_LISTENER};

mod docker;
mod names;
mod narrow;
mod profile;
mod written;

pub use docker::{Kernel, Written};
pub use profile::Profile;
pub use written::written;

macro_rules! numbers {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

// Below the macro, which it uses.
mod helper;

pub use helper::{Helper, of_helper};

/// What ordinary programs need: files, memory, threads, signals, sockets, time.
const ALLOWED: &[i64] = numbers![
    SYS_read SYS_write SYS_open SYS_close SYS_stat SYS_fstat SYS_lstat SYS_poll SYS_lseek SYS_mmap SYS_mprotect
    SYS_munmap SYS_brk SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_ioctl SYS_pread64 SYS_pwrite64
    SYS_readv SYS_writev SYS_access SYS_pipe SYS_select SYS_sched_yield SYS_mremap SYS_msync SYS_mincore SYS_madvise
    SYS_shmget SYS_shmat SYS_shmctl SYS_dup SYS_dup2 SYS_pause SYS_nanosleep SYS_getitimer SYS_alarm SYS_setitimer
    SYS_getpid SYS_sendfile SYS_connect SYS_accept SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_shutdown
    SYS_bind SYS_listen SYS_getsockname SYS_getpeername SYS_socketpair SYS_setsockopt SYS_getsockopt SYS_fork
    SYS_vfork SYS_execve SYS_exit SYS_wait4 SYS_kill SYS_uname SYS_semget SYS_semop SYS_semctl SYS_shmdt SYS_msgget
    SYS_msgsnd SYS_msgrcv SYS_msgctl SYS_fcntl SYS_flock SYS_fsync SYS_fdatasync SYS_truncate SYS_ftruncate
    SYS_getdents SYS_getcwd SYS_chdir SYS_fchdir SYS_rename SYS_mkdir SYS_rmdir SYS_creat SYS_link SYS_unlink
    SYS_symlink SYS_readlink SYS_chmod SYS_fchmod SYS_chown SYS_fchown SYS_lchown SYS_umask SYS_gettimeofday
    SYS_getrlimit SYS_getrusage SYS_sysinfo SYS_times SYS_getuid SYS_getgid SYS_setuid SYS_setgid SYS_geteuid
    SYS_getegid SYS_setpgid SYS_getppid SYS_getpgrp SYS_setsid SYS_setreuid SYS_setregid SYS_getgroups SYS_setgroups
    SYS_setresuid SYS_getresuid SYS_setresgid SYS_getresgid SYS_getpgid SYS_setfsuid SYS_setfsgid SYS_getsid
    SYS_capget SYS_capset SYS_rt_sigpending SYS_rt_sigtimedwait SYS_rt_sigqueueinfo SYS_rt_sigsuspend SYS_sigaltstack
    SYS_utime SYS_mknod SYS_personality SYS_statfs SYS_fstatfs SYS_getpriority SYS_setpriority SYS_sched_setparam
    SYS_sched_getparam SYS_sched_setscheduler SYS_sched_getscheduler SYS_sched_get_priority_max
    SYS_sched_get_priority_min SYS_sched_rr_get_interval SYS_mlock SYS_munlock SYS_mlockall SYS_munlockall SYS_prctl
    SYS_arch_prctl SYS_setrlimit SYS_sync SYS_gettid SYS_readahead SYS_setxattr SYS_lsetxattr SYS_fsetxattr
    SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr SYS_removexattr
    SYS_lremovexattr SYS_fremovexattr SYS_tkill SYS_time SYS_futex SYS_sched_setaffinity SYS_sched_getaffinity
    SYS_io_setup SYS_io_destroy SYS_io_getevents SYS_io_submit SYS_io_cancel SYS_epoll_create SYS_remap_file_pages
    SYS_getdents64 SYS_set_tid_address SYS_restart_syscall SYS_semtimedop SYS_fadvise64 SYS_timer_create
    SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete SYS_clock_gettime SYS_clock_getres
    SYS_clock_nanosleep SYS_exit_group SYS_epoll_wait SYS_epoll_ctl SYS_tgkill SYS_utimes SYS_mq_open SYS_mq_unlink
    SYS_mq_timedsend SYS_mq_timedreceive SYS_mq_notify SYS_mq_getsetattr SYS_waitid SYS_ioprio_set SYS_ioprio_get
    SYS_inotify_init SYS_inotify_add_watch SYS_inotify_rm_watch SYS_openat SYS_mkdirat SYS_mknodat SYS_fchownat
    SYS_futimesat SYS_newfstatat SYS_unlinkat SYS_renameat SYS_linkat SYS_symlinkat SYS_readlinkat SYS_fchmodat
    SYS_faccessat SYS_pselect6 SYS_ppoll SYS_set_robust_list SYS_get_robust_list SYS_splice SYS_tee
    SYS_sync_file_range SYS_vmsplice SYS_utimensat SYS_epoll_pwait SYS_signalfd SYS_timerfd_create SYS_eventfd
    SYS_fallocate SYS_timerfd_settime SYS_timerfd_gettime SYS_accept4 SYS_signalfd4 SYS_eventfd2 SYS_epoll_create1
    SYS_dup3 SYS_pipe2 SYS_inotify_init1 SYS_preadv SYS_pwritev SYS_rt_tgsigqueueinfo SYS_recvmmsg SYS_prlimit64
    SYS_syncfs SYS_sendmmsg SYS_getcpu SYS_sched_setattr SYS_sched_getattr SYS_renameat2 SYS_seccomp SYS_getrandom
    SYS_memfd_create SYS_execveat SYS_membarrier SYS_mlock2 SYS_copy_file_range SYS_preadv2 SYS_pwritev2
    SYS_pkey_mprotect SYS_pkey_alloc SYS_pkey_free SYS_statx SYS_rseq SYS_pidfd_send_signal SYS_pidfd_open
    SYS_close_range SYS_openat2 SYS_faccessat2 SYS_epoll_pwait2 SYS_landlock_create_ruleset SYS_landlock_add_rule
    SYS_landlock_restrict_self SYS_futex_waitv SYS_fchmodat2 SYS_process_mrelease
];

/// Known, and refused with EPERM unless a capability opens it.
const REFUSED: &[i64] = numbers![
    SYS_mount SYS_umount2 SYS_pivot_root SYS_swapon SYS_swapoff SYS_reboot SYS_init_module SYS_finit_module
    SYS_delete_module SYS_kexec_load SYS_kexec_file_load SYS_unshare SYS_setns SYS_keyctl SYS_add_key SYS_request_key
    SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_open_by_handle_at SYS_io_uring_setup SYS_io_uring_enter
    SYS_io_uring_register SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_kcmp SYS_settimeofday
    SYS_clock_settime SYS_clock_adjtime SYS_adjtimex SYS_acct SYS_quotactl SYS_iopl SYS_ioperm SYS_syslog SYS_vhangup
    SYS_sethostname SYS_setdomainname SYS_fanotify_init SYS_lookup_dcookie SYS_name_to_handle_at SYS_move_pages
    SYS_mbind SYS_get_mempolicy SYS_set_mempolicy SYS_migrate_pages SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick
    SYS_open_tree SYS_move_mount SYS_mount_setattr SYS_pidfd_getfd
];

/// What a capability opens, as Docker's profile has it.
const OPENED: &[(&str, &[i64])] = &[
    (
        "CAP_SYS_ADMIN",
        numbers![SYS_mount SYS_umount2 SYS_pivot_root SYS_unshare SYS_setns SYS_bpf SYS_perf_event_open
        SYS_fanotify_init SYS_lookup_dcookie SYS_quotactl SYS_sethostname SYS_setdomainname SYS_syslog SYS_fsopen
        SYS_fsconfig SYS_fsmount SYS_fspick SYS_open_tree SYS_move_mount SYS_mount_setattr SYS_clone3
        SYS_name_to_handle_at],
    ),
    ("CAP_SYS_PTRACE", numbers![SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_kcmp SYS_pidfd_getfd]),
    ("CAP_SYS_TIME", numbers![SYS_settimeofday SYS_clock_settime SYS_clock_adjtime SYS_adjtimex]),
    ("CAP_SYS_MODULE", numbers![SYS_init_module SYS_finit_module SYS_delete_module]),
    ("CAP_SYS_BOOT", numbers![SYS_reboot]),
    ("CAP_SYS_CHROOT", numbers![SYS_chroot]),
    ("CAP_SYS_NICE", numbers![SYS_mbind SYS_get_mempolicy SYS_set_mempolicy SYS_move_pages SYS_migrate_pages]),
    ("CAP_SYS_PACCT", numbers![SYS_acct]),
    ("CAP_SYS_RAWIO", numbers![SYS_iopl SYS_ioperm]),
    ("CAP_SYS_TTY_CONFIG", numbers![SYS_vhangup]),
    ("CAP_SYSLOG", numbers![SYS_syslog]),
    ("CAP_BPF", numbers![SYS_bpf]),
    ("CAP_PERFMON", numbers![SYS_perf_event_open]),
    ("CAP_DAC_READ_SEARCH", numbers![SYS_open_by_handle_at]),
];

const ARCH_X86_64: u32 = 0xc000_003e;
const ARCH_X86: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;
const NAMESPACE_FLAGS: u32 = 0x7e02_0000;
const NR: u32 = 0;
const ARCH: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

const fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}
const fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}
const fn answer(action: u32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, action)
}
const fn jump(operation: u32, k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | operation | libc::BPF_K) as u16, jt: yes, jf: no, k }
}
const fn fail(errno: i32) -> sock_filter {
    answer(libc::SECCOMP_RET_ERRNO | errno as u32)
}
const ALLOW: sock_filter = answer(libc::SECCOMP_RET_ALLOW);

/// The filter for a process with these capabilities.
pub fn filter(capabilities: &BTreeSet<String>) -> Vec<sock_filter> {
    let opened: BTreeSet<i64> = OPENED
        .iter()
        .filter(|(name, _)| capabilities.contains(*name))
        .flat_map(|(_, calls)| calls.iter().copied())
        .collect();
    let own = section(|call| Some(call as u32), &opened, capabilities, [].into_iter());
    let forms = narrow::allowed().map(|call| (call, true)).chain(narrow::refused(&opened));
    let of_32_bits = section(narrow::number, &opened, capabilities, forms);
    profile::by_architecture(&own, &[fail(libc::ENOSYS)], &of_32_bits)
}

/// The answers for programs whose calls have these numbers; `more`: further calls, and whether they are open. The number
/// of the call is loaded.
fn section(
    number: impl Fn(i64) -> Option<u32>,
    opened: &BTreeSet<i64>,
    capabilities: &BTreeSet<String>,
    more: impl Iterator<Item = (u32, bool)>,
) -> Vec<sock_filter> {
    let mut program = Vec::new();
    if let (Some(clone), Some(socket)) = (number(libc::SYS_clone), number(libc::SYS_socket)) {
        program.extend(clone_rule(clone, opened));
        program.extend(socket_rule(socket, capabilities));
    }
    let number = |call: &i64| number(*call);
    let refused = REFUSED.iter().filter_map(number).map(|call| (call, false));
    let allowed = ALLOWED.iter().chain(opened).filter_map(number).map(|call| (call, true));
    let action = |(call, is_open)| (call, if is_open { ALLOW.k } else { fail(libc::EPERM).k });
    let answers: BTreeMap<u32, u32> = refused.chain(allowed).chain(more).map(action).collect();
    decide(&ranges(answers, fail(libc::ENOSYS).k), &mut program);
    program
}

/// The answer from each number on, up to the next of these. `answers`: by rising number; all others answer `default`.
fn ranges(answers: impl IntoIterator<Item = (u32, u32)>, default: u32) -> Vec<(u32, u32)> {
    let mut ranges = vec![(0, default)];
    for (call, action) in answers {
        // What was left open after the call before is closed here, unless this one is the very next.
        match ranges.last_mut() {
            Some((start, last)) if *start == call => *last = action,
            _ => ranges.push((call, action)),
        }
        ranges.push((call + 1, default));
    }
    ranges.dedup_by_key(|(_, action)| *action);
    ranges
}

/// A search by halves: each call meets a handful of comparisons, and the kernel, which tries all calls when it takes the
/// filter, has a twentieth of the work that a list would be.
fn decide(ranges: &[(u32, u32)], program: &mut Vec<sock_filter>) {
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let [(start, _), ..] = right else { return };
    if left.is_empty() {
        return program.extend(right.iter().map(|(_, action)| answer(*action)));
    }
    let at = program.len();
    program.push(jump(libc::BPF_JGE, *start, 0, 0));
    decide(left, program);
    program[at].jt = u8::try_from(program.len() - at - 1).expect("half of the tables is far less than 255 steps");
    decide(right, program);
}

/// clone(2) makes threads and processes, but no namespaces unless unshare(2) is open too.
fn clone_rule(number: u32, opened: &BTreeSet<i64>) -> Vec<sock_filter> {
    if opened.contains(&libc::SYS_unshare) {
        return vec![jump(libc::BPF_JEQ, number, 0, 1), ALLOW];
    }
    vec![
        jump(libc::BPF_JEQ, number, 0, 4),
        load(argument(0)),
        jump(libc::BPF_JSET, NAMESPACE_FLAGS, 0, 1),
        fail(libc::EPERM),
        ALLOW,
    ]
}

/// UNIX, INET, INET6, NETLINK but for its XFRM protocol, and PACKET for those who may send raw packets.
fn socket_rule(number: u32, capabilities: &BTreeSet<String>) -> Vec<sock_filter> {
    let mut body = vec![load(argument(0))];
    for family in families(capabilities) {
        body.extend([jump(libc::BPF_JEQ, family as u32, 0, 1), ALLOW]);
    }
    body.extend([
        jump(libc::BPF_JEQ, libc::AF_NETLINK as u32, 0, 3),
        load(argument(2)),
        jump(libc::BPF_JEQ, libc::NETLINK_XFRM as u32, 0, 2),
        fail(libc::EPROTONOSUPPORT),
        fail(libc::EAFNOSUPPORT),
        ALLOW,
    ]);
    // Not NETLINK skips to EAFNOSUPPORT; NETLINK of another protocol skips to the last line.
    let mut rule = vec![jump(libc::BPF_JEQ, number, 0, body.len() as u8)];
    rule.extend(body);
    rule
}

/// Those that are allowed whatever the protocol.
fn families(capabilities: &BTreeSet<String>) -> Vec<i32> {
    let packet = capabilities.contains("CAP_NET_RAW").then_some(libc::AF_PACKET);
    [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6].into_iter().chain(packet).collect()
}

/// Puts the filter on this process, for good. Needs no_new_privs or CAP_SYS_ADMIN.
///
/// # Errors
/// What the kernel says; the process must not go on then.
pub fn install(program: &[sock_filter]) -> io::Result<()> {
    install_with(program, 0).map(drop)
}

/// As [`install`], with flags of seccomp(2). Returns the descriptor on which the kernel asks, where the flags want one.
///
/// # Errors
/// As [`install`].
pub fn install_with(program: &[sock_filter], flags: u64) -> io::Result<Option<OwnedFd>> {
    sys::set_call_filter(program, flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn run(program: &[sock_filter], nr: i64, arguments: [u32; 3]) -> u32 {
        run_as(ARCH_X86_64, program, nr, arguments)
    }

    /// What the filter answers for a call, by running the program as the kernel would.
    fn run_as(architecture: u32, program: &[sock_filter], nr: i64, arguments: [u32; 3]) -> u32 {
        let word = |offset: u32| match offset {
            NR => nr as u32,
            ARCH => architecture,
            // The upper half of an argument.
            offset if offset % 8 == 4 => 0,
            offset => arguments[(offset as usize - 16) / 8],
        };
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let step = program[at];
            let code = u32::from(step.code);
            at += 1;
            if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
                accumulator = word(step.k);
            } else if code == libc::BPF_RET | libc::BPF_K {
                return step.k;
            } else if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K {
                accumulator &= step.k;
            } else if code == libc::BPF_JMP | libc::BPF_JA {
                at += step.k as usize;
            } else {
                let yes = match code & 0xf0 {
                    libc::BPF_JEQ => accumulator == step.k,
                    libc::BPF_JGE => accumulator >= step.k,
                    libc::BPF_JGT => accumulator > step.k,
                    _ => accumulator & step.k != 0,
                };
                at += usize::from(if yes { step.jt } else { step.jf });
            }
        }
    }

    #[test]
    fn the_default_answers() {
        let allow = libc::SECCOMP_RET_ALLOW;
        let errno = |errno: i32| libc::SECCOMP_RET_ERRNO | errno as u32;
        let netlink = libc::AF_NETLINK as u32;
        let table = [
            (libc::SYS_read, [0, 0, 0], allow),
            (libc::SYS_clone, [libc::SIGCHLD as u32, 0, 0], allow),
            (libc::SYS_clone, [libc::CLONE_NEWUSER as u32, 0, 0], errno(libc::EPERM)),
            (libc::SYS_clone3, [0, 0, 0], errno(libc::ENOSYS)),
            (libc::SYS_unshare, [0, 0, 0], errno(libc::EPERM)),
            (libc::SYS_io_uring_setup, [0, 0, 0], errno(libc::EPERM)),
            (libc::SYS_keyctl, [0, 0, 0], errno(libc::EPERM)),
            (libc::SYS_socket, [libc::AF_INET as u32, 0, 0], allow),
            (libc::SYS_socket, [netlink, 0, 0], allow),
            (libc::SYS_socket, [netlink, 0, libc::NETLINK_XFRM as u32], errno(libc::EPROTONOSUPPORT)),
            (libc::SYS_socket, [libc::AF_ALG as u32, 0, 0], errno(libc::EAFNOSUPPORT)),
            (libc::SYS_socket, [libc::AF_PACKET as u32, 0, 0], errno(libc::EAFNOSUPPORT)),
            (libc::SYS_getuid, [0, 0, 0], allow),
            (9999, [0, 0, 0], errno(libc::ENOSYS)),
            (i64::from(X32_BIT), [0, 0, 0], errno(libc::ENOSYS)),
        ];
        let program = filter(&BTreeSet::new());
        for (call, arguments, expected) in table {
            assert_eq!(run(&program, call, arguments), expected, "call {call} with {arguments:?}");
        }
    }

    #[test]
    fn every_call_gets_the_answer_of_the_tables() {
        let program = filter(&BTreeSet::new());
        assert!(program.len() < 700, "{}", program.len());
        // These two look at their arguments.
        for call in (0..1000).filter(|call| ![libc::SYS_clone, libc::SYS_socket].contains(call)) {
            let expected = match (ALLOWED.contains(&call), REFUSED.contains(&call)) {
                (true, _) => ALLOW,
                (false, true) => fail(libc::EPERM),
                (false, false) => fail(libc::ENOSYS),
            };
            assert_eq!(run(&program, call, [0; 3]), expected.k, "call {call}");
        }
    }

    /// By the numbers of their own table (arch/x86/entry/syscalls/syscall_32.tbl).
    #[test]
    fn programs_of_32_bits_have_the_same_policy() {
        let [read, clone, socketcall, socket, unshare, mount, stime, mmap2] = [3, 120, 102, 359, 310, 21, 25, 192];
        let errno = |errno: i32| fail(errno).k;
        let table = [
            (read, [0, 0, 0], ALLOW.k),
            (mmap2, [0, 0, 0], ALLOW.k),
            (socketcall, [1, 0, 0], ALLOW.k),
            (clone, [libc::SIGCHLD as u32, 0, 0], ALLOW.k),
            (clone, [libc::CLONE_NEWUSER as u32, 0, 0], errno(libc::EPERM)),
            (libc::SYS_clone3, [0, 0, 0], errno(libc::ENOSYS)),
            (unshare, [0, 0, 0], errno(libc::EPERM)),
            (mount, [0, 0, 0], errno(libc::EPERM)),
            (stime, [0, 0, 0], errno(libc::EPERM)),
            (libc::SYS_io_uring_setup, [0, 0, 0], errno(libc::EPERM)),
            (socket, [libc::AF_INET as u32, 0, 0], ALLOW.k),
            (socket, [libc::AF_ALG as u32, 0, 0], errno(libc::EAFNOSUPPORT)),
            (9999, [0, 0, 0], errno(libc::ENOSYS)),
        ];
        let program = filter(&BTreeSet::new());
        for (call, arguments, expected) in table {
            assert_eq!(run_as(ARCH_X86, &program, call, arguments), expected, "call {call} with {arguments:?}");
        }
        let admin = filter(&BTreeSet::from(["CAP_SYS_ADMIN".to_owned(), "CAP_SYS_TIME".to_owned()]));
        for call in [mount, stime, unshare] {
            assert_eq!(run_as(ARCH_X86, &admin, call, [0; 3]), ALLOW.k, "call {call}");
        }
        // Of all others no program is.
        assert_eq!(run_as(0x4000_0028, &program, read, [0; 3]), errno(libc::ENOSYS));
    }

    #[test]
    fn a_capability_opens_its_calls_and_no_others() {
        let program = filter(&BTreeSet::from(["CAP_SYS_ADMIN".to_owned()]));
        assert_eq!(run(&program, libc::SYS_mount, [0; 3]), libc::SECCOMP_RET_ALLOW);
        assert_eq!(run(&program, libc::SYS_clone, [libc::CLONE_NEWNS as u32, 0, 0]), libc::SECCOMP_RET_ALLOW);
        assert_eq!(run(&program, libc::SYS_kexec_load, [0; 3]), libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
    }

    #[test]
    fn the_allow_list_stays_within_its_bound() {
        assert!(ALLOWED.iter().collect::<BTreeSet<_>>().len() <= 295);
    }
}
