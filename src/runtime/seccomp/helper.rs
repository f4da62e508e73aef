//! Filters for parts of the engine that read what strangers wrote: what containers may call, without what is not needed
//! there.

use std::collections::{BTreeMap, BTreeSet};

use libc::sock_filter;

use super::{
    ALLOW, ALLOWED, NAMESPACE_FLAGS, REFUSED, argument, decide, fail, jump, load, profile, ranges, socket_rule,
};

/// What the helper does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helper {
    /// On what is open.
    Computes,
    MakesFiles,
    Asks,
    /// With threads, and in network namespaces that it enters.
    Serves,
}

/// Ways to other programs and processes.
const PROCESSES: &[i64] = numbers![
    SYS_clone SYS_fork SYS_vfork SYS_execve SYS_execveat SYS_kill SYS_tkill SYS_rt_sigqueueinfo SYS_pidfd_send_signal
    SYS_prlimit64 SYS_setrlimit SYS_personality
];
/// Ways to others on the network.
const SOCKETS: &[i64] = numbers![SYS_socket SYS_socketpair SYS_connect SYS_bind SYS_listen SYS_accept SYS_accept4];
/// Ways to what is not open.
const FILES: &[i64] = numbers![
    SYS_open SYS_openat SYS_openat2 SYS_creat SYS_mkdir SYS_mkdirat SYS_mknod SYS_mknodat SYS_link SYS_linkat
    SYS_symlink SYS_symlinkat SYS_unlink SYS_unlinkat SYS_rmdir SYS_rename SYS_renameat SYS_renameat2 SYS_truncate
    SYS_chmod SYS_fchmodat SYS_fchmodat2 SYS_chown SYS_lchown SYS_fchownat SYS_setxattr SYS_lsetxattr SYS_removexattr
    SYS_lremovexattr SYS_utime SYS_utimes SYS_futimesat SYS_utimensat SYS_chdir SYS_fchdir
];

/// clone(2) makes threads, and nothing else.
fn threads_alone() -> [sock_filter; 6] {
    [
        jump(libc::BPF_JEQ, libc::SYS_clone as u32, 0, 5),
        load(argument(0)),
        jump(libc::BPF_JSET, NAMESPACE_FLAGS, 1, 0),
        jump(libc::BPF_JSET, libc::CLONE_THREAD as u32, 1, 0),
        fail(libc::EPERM),
        ALLOW,
    ]
}

/// setns(2) enters networks, and nothing else.
fn networks_alone() -> [sock_filter; 5] {
    [
        jump(libc::BPF_JEQ, libc::SYS_setns as u32, 0, 4),
        load(argument(1)),
        jump(libc::BPF_JEQ, libc::CLONE_NEWNET as u32, 1, 0),
        fail(libc::EPERM),
        ALLOW,
    ]
}

/// The filter for this helper.
pub fn of_helper(helper: Helper) -> Vec<sock_filter> {
    let closed: &[&[i64]] = match helper {
        Helper::Computes => &[PROCESSES, SOCKETS, FILES],
        Helper::MakesFiles => &[PROCESSES, SOCKETS],
        Helper::Asks => &[PROCESSES, FILES],
        Helper::Serves => &[PROCESSES],
    };
    let closed: BTreeSet<i64> = closed.iter().copied().flatten().copied().collect();
    let mut own = Vec::new();
    if !closed.contains(&libc::SYS_socket) {
        let capabilities = if helper == Helper::Serves { &["CAP_NET_RAW".to_owned()][..] } else { &[] };
        own.extend(socket_rule(libc::SYS_socket as u32, &capabilities.iter().cloned().collect()));
    }
    if helper == Helper::Serves {
        own.extend(threads_alone());
        own.extend(networks_alone());
    }
    let refused = REFUSED.iter().chain(&closed).map(|call| (*call as u32, fail(libc::EPERM).k));
    let open = ALLOWED.iter().filter(|call| !closed.contains(*call)).map(|call| (*call as u32, ALLOW.k));
    let answers: BTreeMap<u32, u32> = refused.chain(open).collect();
    decide(&ranges(answers, fail(libc::ENOSYS).k), &mut own);
    profile::by_architecture(&own, &[fail(libc::ENOSYS)], &[fail(libc::ENOSYS)])
}
