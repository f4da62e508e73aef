//! The few system calls that `nix` lacks, as safe functions. All `unsafe` of the runtime room lives in this file and in
//! `init`, which must act between fork and exec.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sched::CloneFlags;

/// A path or name as the kernel takes it.
///
/// # Errors
/// `InvalidInput` where it holds a NUL byte.
pub fn c_string(text: impl AsRef<OsStr>) -> io::Result<CString> {
    CString::new(text.as_ref().as_bytes()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "holds a NUL byte"))
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(result)? as RawFd;
    // SAFETY: the kernel just returned this descriptor to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens `path` as if `root` were the root directory: symbolic links and `..` never leave it, and the magic links of
/// procfs are not followed (openat2(2), `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`). `O_CLOEXEC` is always added.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    open_how(root, path, flags, mode, libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS)
}

fn open_how(root: BorrowedFd<'_>, path: &Path, flags: i32, mode: u32, resolve: u64) -> io::Result<OwnedFd> {
    let path = c_string(path)?;
    // SAFETY: open_how is plain data for which all zeroes is a valid value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = if flags & libc::O_CREAT != 0 { u64::from(mode) } else { 0 };
    how.resolve = resolve;
    loop {
        // SAFETY: the path is NUL-terminated and `how` outlives the call; its size is passed.
        let result = owned(unsafe {
            libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), &how, std::mem::size_of_val(&how))
        });
        match result {
            // A rename elsewhere on the host can make the kernel unsure that `..` stayed inside; it asks to try again.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            other => return other,
        }
    }
}

/// A descriptor that stands for the process, whatever becomes of its number (pidfd_open(2)).
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Sends a signal to the process that the descriptor stands for; `ESRCH` when it has ended.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo is allowed and means "as kill(2) would".
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) }).map(drop)
}

/// A copy of a descriptor of the process, by the number that it has there (pidfd_getfd(2)).
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes integers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })
}

/// How the process ended, as wait(2) has it, whoever's child it was (`PIDFD_GET_INFO`, Linux 6.15); `None` while it is
/// not collected.
///
/// # Errors
/// Where the kernel does not tell.
pub fn pidfd_exit_status(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    /// linux/pidfd.h, the first version of it.
    #[repr(C)]
    struct Information {
        mask: u64,
        group: u64,
        numbers: [u32; 11],
        exit_status: i32,
    }
    const GET_INFO: libc::Ioctl = 0xc040_ff0b_u32 as libc::Ioctl;
    const EXIT: u64 = 1 << 3;
    let mut information = Information { mask: EXIT, group: 0, numbers: [0; 11], exit_status: 0 };
    // SAFETY: the request's number has the structure's size in it, and the structure outlives the call.
    check(i64::from(unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut information) }))?;
    Ok((information.mask & EXIT != 0).then_some(information.exit_status))
}

/// Closes every descriptor from `first` on. Whoever owns one of them must not use it again, nor close it.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: takes integers; what is closed is not used any more, as the caller promises.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Takes over a descriptor that another program has left open in this process, to be closed by the next execve(2).
///
/// # Errors
/// Where there is no such descriptor.
pub fn adopt(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes integers; fails where the descriptor is not open.
    check(unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: it is open, and this program, which has just been started, made none of that number itself.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Closes every descriptor but this one, for a child that shall keep nothing open.
pub fn close_all_but(kept: BorrowedFd<'_>) -> io::Result<()> {
    let kept = kept.as_raw_fd() as u32;
    if kept > 0 {
        // SAFETY: takes integers; the child uses none of these, nor drops who owns them.
        check(unsafe { libc::syscall(libc::SYS_close_range, 0, kept - 1, 0) })?;
    }
    close_from(kept + 1)
}

/// Ends a child at once: nothing that it has of its parent is dropped or written.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends this process only.
    unsafe { libc::_exit(code) }
}

/// Lets a descriptor outlive the next execve(2).
pub fn keep_on_exec(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes integers; the descriptor is open.
    check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, 0) }.into()).map(drop)
}

/// Makes this process show an empty command line: its arguments are the engine's (proc(5), `arg_start`, `arg_end`).
pub fn hide_arguments() -> io::Result<()> {
    wipe(48, 49)
}

/// Forgets the environment that this process was started with, in which secrets may be (`env_start`, `env_end`). For a
/// process with one thread: it is empty from here on.
pub fn forget_environment() -> io::Result<()> {
    wipe(50, 51)
}

/// Fills with NUL bytes what lies between the addresses in these two fields of the process's own `stat`.
fn wipe(first: usize, last: usize) -> io::Result<()> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is the program's name in brackets and may hold anything.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let address = |field: usize| fields.get(field - 3).and_then(|word| word.parse::<usize>().ok());
    let (Some(start), Some(end)) = (address(first), address(last)) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if start == 0 || end < start {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: the kernel says that this process's arguments or variables are there: its own writable memory, text that
    // ends with NUL bytes, and all of it does when it is all NUL bytes. Nobody else writes to it: those who call have one
    // thread.
    unsafe { std::ptr::write_bytes(start as *mut u8, 0, end - start) };
    Ok(())
}

/// Under memory pressure this process had better outlive those that it is there for. No promise: a host may withhold the
/// capability for it. Then it is at least as good a choice as they are, whoever started it.
pub fn be_chosen_last() {
    let choose = |score: &str| std::fs::write("/proc/self/oom_score_adj", score);
    drop(choose("-999").or_else(|_| choose("0")));
}

/// Marks every descriptor from `first` on to be closed by the next execve(2).
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: takes integers; closes nothing now.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Lets so many descriptors from `first` on outlive the next execve(2).
///
/// # Errors
/// `EBADF` where one of them is not open.
pub fn keep_on_exec_from(first: RawFd, count: u32) -> io::Result<()> {
    for descriptor in first..first.saturating_add_unsigned(count) {
        // SAFETY: takes integers; fails where the descriptor is not open.
        check(unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) }.into())?;
    }
    Ok(())
}

/// `struct sched_attr` of its first version (sched_setattr(2)).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SchedulerAttributes {
    /// Written by [`set_scheduler`].
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// How this process is scheduled from now on.
pub fn set_scheduler(attributes: &SchedulerAttributes) -> io::Result<()> {
    let mut attributes = *attributes;
    attributes.size = std::mem::size_of_val(&attributes) as u32;
    // SAFETY: the structure says its size, and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

/// Class and level of this process's input and output (ioprio_set(2)).
pub fn set_io_priority(value: i32) -> io::Result<()> {
    const OF_PROCESS: i32 = 1;
    // SAFETY: takes integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, OF_PROCESS, 0, value) }).map(drop)
}

/// Sends a frame, its link header with it, by this link (packet(7)).
pub fn send_frame(socket: BorrowedFd<'_>, link: i32, frame: &[u8]) -> io::Result<()> {
    let family = libc::AF_PACKET as libc::c_ushort;
    let to = libc::sockaddr_ll {
        sll_family: family,
        sll_protocol: 0,
        sll_ifindex: link,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    let (bytes, count) = (frame.as_ptr().cast(), frame.len());
    // SAFETY: both buffers outlive the call, each with its length beside it; the kernel only reads them.
    let sent = unsafe { libc::sendto(socket.as_raw_fd(), bytes, count, 0, (&raw const to).cast(), length) };
    check(sent as libc::c_long).map(drop)
}

/// What kind of machine this process is told that it runs on (personality(2)).
pub fn set_personality(domain: libc::c_ulong) -> io::Result<()> {
    // SAFETY: takes an integer.
    check(i64::from(unsafe { libc::personality(domain) })).map(drop)
}

/// Puts the process's root where `.` is and the old one on top of it (pivot_root(2) with both arguments `.`).
pub fn pivot_root_here() -> io::Result<()> {
    let here: &CStr = c".";
    // SAFETY: both paths are static and NUL-terminated.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, here.as_ptr(), here.as_ptr()) }).map(drop)
}

/// Makes the mount at `target` and all below it read-only or otherwise restricted (mount_setattr(2)); `attributes` are
/// `MOUNT_ATTR_*` bits to set.
pub fn restrict_mount(target: BorrowedFd<'_>, attributes: u64, recursive: bool) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    set_mount_attributes(target, &attr, recursive)
}

/// As [`restrict_mount`] of this mount alone; what `clear` has is lifted.
pub fn change_mount(target: BorrowedFd<'_>, set: u64, clear: u64) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    set_mount_attributes(target, &attr, false)
}

/// Takes a copy of the mount at `source` (and of those below it), attached nowhere yet (open_tree(2)).
pub fn clone_mount(source: &Path) -> io::Result<OwnedFd> {
    open_tree(libc::AT_FDCWD, &c_string(source)?, libc::AT_RECURSIVE)
}

/// As [`clone_mount`], without the mounts below it.
pub fn clone_mount_alone(source: &Path) -> io::Result<OwnedFd> {
    open_tree(libc::AT_FDCWD, &c_string(source)?, 0)
}

fn open_tree(directory: RawFd, path: &CStr, how: i32) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | how as u32;
    // SAFETY: the path is NUL-terminated.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, directory, path.as_ptr(), flags) })
}

/// Sets and lifts `MOUNT_ATTR_*` bits and, where it is not 0, the propagation: of this mount, or of those below it, too.
pub fn change_mounts(
    target: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    propagation: u64,
    recursive: bool,
) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 };
    set_mount_attributes(target, &attr, recursive)
}

/// Attaches a detached mount on the very file or directory that `target` is open on, whatever its path now is.
pub fn attach_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let empty = c"".as_ptr();
    // SAFETY: both paths are empty and NUL-terminated; the descriptors say what is meant.
    let moved =
        unsafe { libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), empty, target.as_raw_fd(), empty, flags) };
    check(moved).map(drop)
}

/// As [`attach_mount`], but below what is mounted there already (Linux 6.5).
pub fn attach_mount_beneath(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    /// linux/mount.h
    const BENEATH: u32 = 0x200;
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH | BENEATH;
    let empty = c"".as_ptr();
    // SAFETY: both paths are empty and NUL-terminated; the descriptors say what is meant.
    let moved =
        unsafe { libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), empty, target.as_raw_fd(), empty, flags) };
    check(moved).map(drop)
}

/// Makes a file system of this type with these options, attached nowhere yet (fsopen(2), fsconfig(2), fsmount(2)).
/// An option without a value is a flag.
pub fn make_mount(kind: &str, options: &[(&str, Option<&str>)], attributes: u64) -> io::Result<OwnedFd> {
    let context = open_file_system(&c_string(kind)?)?;
    configure_all(&context, options)?;
    create_mount(&context, attributes)
}

/// As [`make_mount`] without options, by system calls alone.
pub fn make_plain_mount(kind: &CStr) -> io::Result<OwnedFd> {
    create_mount(&open_file_system(kind)?, 0)
}

/// Begins a file system of this type (fsopen(2)). What the kernel says of it can be read from the descriptor, one message
/// a read.
pub fn open_file_system(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated.
    owned(unsafe {
        libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1 /* FSOPEN_CLOEXEC */)
    })
}

/// Makes the file system that was begun and configured, attached nowhere yet. `attributes` are `MOUNT_ATTR_*` bits.
pub fn create_mount(context: &OwnedFd, attributes: u64) -> io::Result<OwnedFd> {
    configure(context, CREATE, None, None)?;
    // SAFETY: takes integers.
    owned(unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1 /* FSMOUNT_CLOEXEC */, attributes)
    })
}

/// Makes all ids 0, by system calls alone: for the child of a process that may have other threads, which the C library
/// would want to take along.
pub fn become_root_alone() -> io::Result<()> {
    // SAFETY: takes integers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, 0, 0, 0) })?;
    // SAFETY: takes integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) }).map(drop)
}

/// Makes the effective user another one, by system calls alone (see [`become_root_alone`]). What that user may not do this
/// process may not do any more, but may still take back.
pub fn change_effective_user(user: u32) -> io::Result<()> {
    // SAFETY: takes integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, -1, user, -1) }).map(drop)
}

/// Lifts the soft and the hard limit of a resource, where this process may (setrlimit(2)).
pub fn lift_limit(resource: libc::__rlimit_resource_t) -> io::Result<()> {
    let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit outlives the call.
    check(unsafe { libc::setrlimit(resource, &raw const all) }.into()).map(drop)
}

/// Changes options of the file system whose mount `target` is on (fspick(2)).
pub fn reconfigure_mount(target: BorrowedFd<'_>, options: &[(&str, Option<&str>)]) -> io::Result<()> {
    const CLOEXEC_AND_EMPTY_PATH: u32 = 1 | 8;
    // SAFETY: the empty path is NUL-terminated.
    let context =
        owned(unsafe { libc::syscall(libc::SYS_fspick, target.as_raw_fd(), c"".as_ptr(), CLOEXEC_AND_EMPTY_PATH) })?;
    configure_all(&context, options)?;
    configure(&context, RECONFIGURE, None, None)
}

/// Commands of fsconfig(2).
const SET_FLAG: u32 = 0;
const SET_STRING: u32 = 1;
const CREATE: u32 = 6;
const RECONFIGURE: u32 = 7;

fn configure_all(context: &OwnedFd, options: &[(&str, Option<&str>)]) -> io::Result<()> {
    options.iter().try_for_each(|(key, value)| set_option(context, key, *value))
}

/// Gives one option to a file system that was begun; one without a value is a flag.
pub fn set_option(context: &OwnedFd, key: &str, value: Option<&str>) -> io::Result<()> {
    configure(context, if value.is_some() { SET_STRING } else { SET_FLAG }, Some(key), value)
}

fn configure(context: &OwnedFd, command: u32, key: Option<&str>, value: Option<&str>) -> io::Result<()> {
    let key = key.map(c_string).transpose()?;
    let value = value.map(c_string).transpose()?;
    let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
    // SAFETY: each pointer is null or NUL-terminated, and outlives the call.
    let done =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, pointer(&key), pointer(&value), 0) };
    check(done).map(drop)
}

/// Sets how mounts and unmounts below this mount are passed on: `MS_PRIVATE`, `MS_SLAVE` or `MS_SHARED`, recursively.
pub fn set_propagation(target: BorrowedFd<'_>, propagation: u64) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: 0, attr_clr: 0, propagation, userns_fd: 0 };
    set_mount_attributes(target, &attr, true)
}

/// The NIS domain name of this UTS namespace (setdomainname(2)).
pub fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: the text outlives the call and its length is passed.
    check(i64::from(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) })).map(drop)
}

/// Sets an extended attribute of what the path leads to (setxattr(2)).
pub fn set_attribute(path: &Path, key: &str, value: &[u8]) -> io::Result<()> {
    let path = c_string(path)?;
    let key = c_string(key)?;
    // SAFETY: both names are NUL-terminated, the value's length is passed, and all outlive the call.
    let done = unsafe { libc::setxattr(path.as_ptr(), key.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    check(i64::from(done)).map(drop)
}

/// Writes all of the file system that holds this file to the disk (syncfs(2)).
pub fn sync_file_system(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes an integer.
    check(i64::from(unsafe { libc::syncfs(file.as_raw_fd()) })).map(drop)
}

/// One heap for all threads of this process. Of glibc each thread has one of its own, that is mapped, grown page by page
/// and unmapped again: for threads that live for a millisecond that is most of what they do.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes integers. Where it is refused, all goes on as before.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Leaves the session keyring of whoever started this process, for a new and empty one (keyctl(2)).
pub fn new_session_keyring() -> io::Result<()> {
    let anonymous: *const libc::c_char = std::ptr::null();
    // SAFETY: a null name is allowed and means a keyring without one.
    check(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, anonymous) }).map(drop)
}

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`: the kernel asks what the filter leaves open, on a descriptor.
pub const NEW_LISTENER: u64 = 1 << 3;

/// Puts a filter of system calls on this process, for good (seccomp(2), `SECCOMP_SET_MODE_FILTER`). Returns the descriptor
/// on which the kernel asks, where the flags want one.
pub fn set_call_filter(program: &[libc::sock_filter], flags: u64) -> io::Result<Option<OwnedFd>> {
    let header = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the header and the program outlive the call; the kernel copies them and does not write.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &header) };
    match check(result)? {
        listener if flags & NEW_LISTENER != 0 => owned(listener).map(Some),
        0 => Ok(None),
        thread => Err(io::Error::other(format!("thread {thread} has a filter of its own"))),
    }
}

/// As [`open_in_root`], but a symbolic link anywhere on the way is an error (`ELOOP`).
pub fn open_without_links(root: BorrowedFd<'_>, path: &Path, flags: i32) -> io::Result<OwnedFd> {
    open_how(root, path, flags, 0, libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_SYMLINKS)
}

/// As [`open_in_root`], but what is mounted anywhere on the way is an error (`EXDEV`).
pub fn open_on_mount(root: BorrowedFd<'_>, path: &Path, flags: i32) -> io::Result<OwnedFd> {
    open_how(root, path, flags, 0, libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_NO_XDEV)
}

/// Whether the file or directory is the root of a mount (statx(2); Linux before 5.8 does not say, which is a no).
pub fn is_root_of_mount(file: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: statx is plain data for which all zeroes is a valid value.
    let mut about: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the empty path is NUL-terminated, and `about` outlives the call.
    let done = unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, 0, &raw mut about) };
    check(i64::from(done))?;
    Ok(about.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0)
}

/// A copy of the mount that `source` is open on, with that file or directory as its root, and of those below it;
/// attached nowhere yet.
pub fn clone_mount_of(source: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // With an empty path the descriptor says what is meant.
    open_tree(source.as_raw_fd(), c"", libc::AT_RECURSIVE | libc::AT_EMPTY_PATH)
}

/// Ends this process, a copy of another: what that has registered for its end is not done.
pub fn end_at_once(code: i32) -> ! {
    // SAFETY: asks nothing of its caller.
    unsafe { libc::_exit(code) }
}

/// As [`clone_mount_of`], without the mounts below it.
pub fn clone_mount_of_alone(source: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    open_tree(source.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
}

/// linux/sched.h; libc's has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks into new namespaces, and into a group of version 2 where one is named (clone3(2)). The child, for which this
/// returns `None`, has its own copy of memory, as after fork(2): where the process had other threads, it may only make
/// system calls. With `CLONE_PARENT` the new process is its caller's sibling, and the descriptor is the caller's alone.
pub fn clone_process(flags: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Option<(i32, OwnedFd)>> {
    let mut pidfd: i32 = -1;
    // SAFETY: clone_args is plain data for which all zeroes is a valid value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags.bits() as u64 | libc::CLONE_PIDFD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    arguments.pidfd = &raw mut pidfd as u64;
    // A sibling ends with the signal that its caller would.
    arguments.exit_signal = if flags.contains(CloneFlags::CLONE_PARENT) { 0 } else { libc::SIGCHLD as u64 };
    // SAFETY: without CLONE_VM the child has its own copy of memory; what it may do with it is said above. The
    // arguments outlive the call and their size is passed.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, std::mem::size_of_val(&arguments)) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        // SAFETY: the kernel has put a new descriptor there, and nobody else knows it.
        pid => Ok(Some((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))),
    }
}

/// The version of landlock(7) that this kernel has; 0 where it has none, or none in use.
pub fn landlock_version() -> u32 {
    const VERSION: u32 = 1;
    let none: *const u8 = std::ptr::null();
    // SAFETY: with this flag the kernel reads no attributes.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    u32::try_from(version).unwrap_or(0)
}

/// A set of rules with these attributes (`struct landlock_ruleset_attr`, as far as the kernel knows it).
pub fn landlock_rules(attributes: &[u64]) -> io::Result<OwnedFd> {
    let size = std::mem::size_of_val(attributes);
    // SAFETY: the attributes outlive the call, and their size is passed.
    owned(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, attributes.as_ptr(), size, 0) })
}

/// Allows these accesses to all below the directory.
pub fn landlock_allow_below(rules: BorrowedFd<'_>, directory: BorrowedFd<'_>, accesses: u64) -> io::Result<()> {
    /// `struct landlock_path_beneath_attr`.
    #[repr(C, packed)]
    struct Below {
        accesses: u64,
        directory: RawFd,
    }
    const PATH_BENEATH: u32 = 1;
    let rule = Below { accesses, directory: directory.as_raw_fd() };
    // SAFETY: the rule is of the kind that is named, and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), PATH_BENEATH, &raw const rule, 0) })
        .map(drop)
}

/// Puts the rules on this thread, for good. Needs no_new_privs or CAP_SYS_ADMIN.
pub fn landlock_restrict_self(rules: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes integers.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) }).map(drop)
}

/// The user namespace that owns this namespace (ioctl_ns(2), `NS_GET_USERNS`).
pub fn owning_user_namespace(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    // SAFETY: takes no argument; returns a new descriptor.
    owned(i64::from(unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) }))
}

/// Shows the files of a mount that is attached nowhere yet, and maybe of those below it, with the ids that this user
/// namespace gives to theirs on the disk (mount_setattr(2), `MOUNT_ATTR_IDMAP`).
pub fn map_mount_ids(mount: BorrowedFd<'_>, users: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let users = users.as_raw_fd() as u64;
    let attr = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd: users };
    set_mount_attributes(mount, &attr, recursive)
}

fn set_mount_attributes(mount: BorrowedFd<'_>, attr: &libc::mount_attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let size = std::mem::size_of_val(attr);
    let attr = std::ptr::from_ref(attr);
    // SAFETY: the empty path is NUL-terminated, `attr` outlives the call and its size is passed.
    check(unsafe { libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), c"".as_ptr(), flags, attr, size) })
        .map(drop)
}

/// Lets a new file have the blocks of another one, until one of them is written to (ioctl_ficlone(2)).
///
/// # Errors
/// Where the file system can't, or the files are on two.
pub fn share_blocks(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    const FICLONE: u32 = 0x4004_9409;
    // SAFETY: the request takes a descriptor by value, and both stay open.
    check(unsafe { libc::ioctl(to.as_raw_fd(), FICLONE as _, from.as_raw_fd()) }.into()).map(drop)
}

/// Swaps what two names stand for, at one moment (renameat2(2), RENAME_EXCHANGE).
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let (one, other) = (c_string(one)?, c_string(other)?);
    let here = libc::AT_FDCWD;
    // SAFETY: both names are NUL-terminated and outlive the call.
    let done =
        unsafe { libc::syscall(libc::SYS_renameat2, here, one.as_ptr(), here, other.as_ptr(), libc::RENAME_EXCHANGE) };
    check(done).map(drop)
}
