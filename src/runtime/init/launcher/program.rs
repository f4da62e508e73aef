//! The program between the engine and the container's: it does nothing but become the container's program, or stay in
//! front of it as process 1 that passes signals on and reaps what is orphaned (`init: true`).
//!
//! A process of the engine never executes what a container names. A script that begins with `#!/proc/self/exe` would
//! have it execute the engine's own binary, with the container's libraries (CVE-2019-5736), and process 1 would show the
//! engine's arguments and memory. Of this program there is nothing to see and nothing to gain: it holds no secrets, has
//! the rights of the container's program by the time it begins, and is behind a mount that nobody can write to.
//!
//! `init exec|reap ERRORS COUNT CANDIDATE… ARGUMENT…`: tries COUNT paths, in this order, with these arguments. ERRORS is
//! the descriptor on which the starter waits. It takes `x` right before the program, and is closed by that; or an errno
//! as four bytes after the `x` where nothing could be executed, after a `p` where there could be no further process.
#![no_main]

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulong, c_void};
use std::ptr::null;

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
    fn _exit(code: c_int) -> !;
    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int;
    fn execve(path: *const c_char, arguments: *const *const c_char, environment: *const *const c_char) -> c_int;
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn fork() -> c_int;
    fn getpid() -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn setpgid(pid: c_int, group: c_int) -> c_int;
    fn sigemptyset(set: *mut Signals) -> c_int;
    fn sigfillset(set: *mut Signals) -> c_int;
    fn sigprocmask(how: c_int, set: *const Signals, before: *mut Signals) -> c_int;
    fn sigwait(set: *const Signals, signal: *mut c_int) -> c_int;
    fn tcsetpgrp(fd: c_int, group: c_int) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn write(fd: c_int, bytes: *const c_void, count: usize) -> isize;
}

/// `sigset_t` of the C library.
type Signals = [c_ulong; 128 / size_of::<c_ulong>()];

const F_SETFD: c_int = 2;
const FD_CLOEXEC: c_int = 1;
const PR_SET_NAME: c_int = 15;
const SIG_SETMASK: c_int = 2;
const SIGCHLD: c_int = 17;
const WNOHANG: c_int = 1;
const ENOENT: c_int = 2;
const ENOTDIR: c_int = 20;
const ENOTTY: c_int = 25;
/// As docker's: not found, found but not executable, anything before that.
const NOT_FOUND: c_int = 127;
const NOT_EXECUTABLE: c_int = 126;
const FAILED: c_int = 125;

/// What the arguments say. The pointers are those of the kernel, and end with this process's program.
struct Task<'a> {
    reaps: bool,
    errors: c_int,
    candidates: &'a [*const c_char],
    arguments: &'a [*const c_char],
    environment: *const *const c_char,
}

#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, arguments: *const *const c_char, environment: *const *const c_char) -> c_int {
    // SAFETY: the kernel gives this many arguments, and a null pointer at their end.
    let words = unsafe { std::slice::from_raw_parts(arguments, count as usize + 1) };
    // Anybody in the container can execute this program through /proc; nothing comes of it.
    let Some(task) = task(words, environment) else { return FAILED };
    // SAFETY: takes integers.
    unsafe { fcntl(task.errors, F_SETFD, FD_CLOEXEC) };
    if task.reaps {
        split(&task);
    }
    become_program(&task)
}

fn task<'a>(words: &'a [*const c_char], environment: *const *const c_char) -> Option<Task<'a>> {
    let mode = word(words, 1)?;
    let (errors, count): (c_int, usize) = (word(words, 2)?.parse().ok()?, word(words, 3)?.parse().ok()?);
    let rest = words.get(4..)?;
    let reaps = match mode {
        "exec" => false,
        "reap" => true,
        _ => return None,
    };
    Some(Task { reaps, errors, candidates: rest.get(..count)?, arguments: rest.get(count..)?, environment })
}

fn word<'a>(words: &[*const c_char], index: usize) -> Option<&'a str> {
    let word = *words.get(index)?;
    if word.is_null() {
        return None;
    }
    // SAFETY: an argument of the kernel's, NUL-terminated, that stays as long as this program.
    unsafe { CStr::from_ptr(word) }.to_str().ok()
}

fn errno() -> c_int {
    // SAFETY: always points at this thread's own.
    unsafe { *__errno_location() }
}

fn say(errors: c_int, bytes: &[u8]) {
    // SAFETY: the bytes outlive the call and their count is passed. When the starter is gone there is nobody to tell.
    unsafe { write(errors, bytes.as_ptr().cast(), bytes.len()) };
}

/// As execvp(3): what can't be executed is remembered, and the search goes on.
fn become_program(task: &Task<'_>) -> ! {
    say(task.errors, b"x");
    let mut last = ENOENT;
    for candidate in task.candidates {
        // SAFETY: NUL-terminated strings and lists of such with a null pointer at their end, all of them the kernel's.
        unsafe { execve(*candidate, task.arguments.as_ptr(), task.environment) };
        if errno() != ENOENT && errno() != ENOTDIR {
            last = errno();
        }
    }
    say(task.errors, &last.to_ne_bytes());
    // SAFETY: ends this process.
    unsafe { _exit(if last == ENOENT { NOT_FOUND } else { NOT_EXECUTABLE }) }
}

/// Forks: the child returns and becomes the program, this process stays as process 1 and never returns.
fn split(task: &Task<'_>) {
    let mut all: Signals = Signals::default();
    // SAFETY: the sets outlive the calls, the name is NUL-terminated. Signals are taken by sigwait later, so that none is
    // lost between fork and the loop. The program, which may look at once, sees process 1 by its name.
    unsafe {
        sigfillset(&raw mut all);
        sigprocmask(SIG_SETMASK, &raw const all, std::ptr::null_mut());
        prctl(PR_SET_NAME, c"init".as_ptr(), null::<c_char>(), null::<c_char>(), null::<c_char>());
    }
    // SAFETY: this process has one thread, so the child may do whatever the parent could.
    match unsafe { fork() } {
        -1 => fail(task),
        0 => {
            if !lead_foreground() {
                fail(task);
            }
            let mut none: Signals = Signals::default();
            // SAFETY: the set outlives the calls.
            unsafe {
                sigemptyset(&raw mut none);
                sigprocmask(SIG_SETMASK, &raw const none, std::ptr::null_mut());
            }
        }
        child => {
            // SAFETY: closes what is not used again, the pipe that the starter waits on among it.
            unsafe {
                close_range(3, c_uint::MAX, 0);
            }
            serve(child, &all)
        }
    }
}

fn fail(task: &Task<'_>) -> ! {
    let mut text = [b'p'; 5];
    text[1..].copy_from_slice(&errno().to_ne_bytes());
    say(task.errors, &text);
    // SAFETY: ends this process.
    unsafe { _exit(FAILED) }
}

/// Keys like Ctrl-C are for the program alone, not for process 1 to pass on a second time.
fn lead_foreground() -> bool {
    // SAFETY: takes integers.
    unsafe { setpgid(0, 0) == 0 && (tcsetpgrp(0, getpid()) == 0 || errno() == ENOTTY) }
}

fn serve(child: c_int, signals: &Signals) -> ! {
    loop {
        let mut signal = 0;
        // SAFETY: both outlive the call.
        if unsafe { sigwait(signals, &raw mut signal) } != 0 {
            continue;
        }
        if signal == SIGCHLD {
            reap(child);
        } else {
            // SAFETY: takes integers. It may just have ended; then SIGCHLD follows.
            unsafe { kill(child, signal) };
        }
    }
}

/// Takes the exit of all that have ended. Ends with the program: its own code, 128 and the signal where one killed it.
fn reap(child: c_int) {
    let mut code = None;
    loop {
        let mut status = 0;
        // SAFETY: the status outlives the call.
        match unsafe { waitpid(-1, &raw mut status, WNOHANG) } {
            pid if pid == child => code = Some(if status & 0x7f == 0 { status >> 8 & 0xff } else { 128 + (status & 0x7f) }),
            pid if pid > 0 => {}
            _ => break,
        }
    }
    if let Some(code) = code {
        // SAFETY: ends this process, and with it the container.
        unsafe { _exit(code) };
    }
}
