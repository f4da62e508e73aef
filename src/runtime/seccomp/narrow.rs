//! The same policy for 32-bit programs, whose calls have numbers of their own, and forms of their own of what has become
//! wider since.
//!
//! socketcall(2) stands for all calls about sockets and has its arguments in memory, where no filter can look: libraries of
//! 32-bit programs use it, so it is open, and with it all families (see docs/security.md).

use std::collections::BTreeSet;

use super::names;

#[rustfmt::skip]
/// Open: older, narrower and wider forms of what is open to 64-bit programs.
const ALLOWED: &[&str] = &[
    "_llseek", "_newselect", "chown32", "clock_getres_time64", "clock_gettime64", "clock_nanosleep_time64", "fadvise64_64",
    "fchown32", "fcntl64", "fstat64", "fstatat64", "fstatfs64", "ftruncate64", "futex_time64", "get_thread_area",
    "getegid32", "geteuid32", "getgid32", "getgroups32", "getresgid32", "getresuid32", "getuid32", "ipc", "lchown32",
    "lstat64", "mmap2", "mq_timedreceive_time64", "mq_timedsend_time64", "nice", "oldfstat", "oldlstat", "oldstat",
    "olduname", "oldolduname", "ppoll_time64", "pselect6_time64", "readdir", "recvmmsg_time64", "rt_sigtimedwait_time64",
    "sched_rr_get_interval_time64", "semtimedop_time64", "sendfile64", "set_thread_area", "setfsgid32", "setfsuid32",
    "setgid32", "setgroups32", "setregid32", "setresgid32", "setresuid32", "setreuid32", "setuid32", "sgetmask",
    "sigaction", "signal", "sigpending", "sigprocmask", "sigreturn", "sigsuspend", "socketcall", "ssetmask", "stat64",
    "statfs64", "timer_gettime64", "timer_settime64", "timerfd_gettime64", "timerfd_settime64", "truncate64",
    "ugetrlimit", "utimensat_time64", "waitpid",
];

/// Refused, but for a capability: forms of what is refused to 64-bit programs.
const REFUSED: &[(&str, i64)] = &[
    ("umount", libc::SYS_umount2),
    ("stime", libc::SYS_settimeofday),
    ("clock_settime64", libc::SYS_clock_settime),
    ("clock_adjtime64", libc::SYS_clock_adjtime),
];

/// The number that a call of 64-bit programs has here; `None` where there is none of its name.
pub fn number(call: i64) -> Option<u32> {
    names::name(call).and_then(names::number_x86)
}

/// What is open beside the calls of the same names.
pub fn allowed() -> impl Iterator<Item = u32> {
    ALLOWED.iter().filter_map(|name| names::number_x86(name))
}

/// What is refused beside the calls of the same names, and what of it a capability opens that opens these calls.
pub fn refused(opened: &BTreeSet<i64>) -> impl Iterator<Item = (u32, bool)> {
    REFUSED.iter().filter_map(|(name, like)| Some((names::number_x86(name)?, opened.contains(like))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_call() {
        for name in ALLOWED.iter().chain(REFUSED.iter().map(|(name, _)| name)) {
            assert!(names::number_x86(name).is_some(), "{name}");
            let follows = names::number(name).is_some_and(|number| super::super::ALLOWED.contains(&number.into()));
            assert!(!follows, "{name} is open to 64-bit programs, and follows from that");
        }
    }
}
