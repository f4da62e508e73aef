//! The program that the tests run as containers. Each argument is one thing to do, its answer one line.

use std::ffi::{c_int, c_long};
use std::fs;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn umask(mask: u32) -> u32;
    fn getsid(pid: c_int) -> c_int;
    fn isatty(fd: c_int) -> c_int;
    fn ioctl(fd: c_int, request: u64, ...) -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn fork() -> c_int;
    fn getppid() -> c_int;
}

fn errno(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(-1)
}

fn names(path: &str) -> String {
    let mut names: Vec<String> = match fs::read_dir(path) {
        Ok(entries) => entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect(),
        Err(error) => vec![format!("errno {}", errno(&error))],
    };
    names.sort();
    names.join(" ")
}

fn facts() {
    println!("pid {}", std::process::id());
    println!("ppid {}", unsafe { getppid() });
    println!("hostname {}", fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
    println!("cwd {}", std::env::current_dir().unwrap().display());
    print!("{}", fs::read_to_string("/proc/self/status").unwrap());
    print!("{}", fs::read_to_string("/proc/self/limits").unwrap());
    println!("oom {}", fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim());
    println!("umask {:03o}", unsafe { umask(0o022) });
    println!("session {}", unsafe { getsid(0) });
    let fds = names("/proc/self/fd");
    // The listing itself opens one more.
    println!("fds {}", fds.strip_suffix(" 3").unwrap_or(&fds));
    for (key, value) in std::env::vars() {
        println!("env {key}={value}");
    }
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
        let (left, right) = line.split_once(" - ").unwrap();
        println!("mount {} {}", left.split(' ').nth(4).unwrap(), right.split(' ').next().unwrap());
    }
}

fn call(name: &str) {
    let (number, a, b, c): (c_long, c_long, c_long, c_long) = match name {
        "unshare" => (272, 0x1000_0000, 0, 0),
        "mount" => (165, 0, 0, 0),
        "keyctl" => (250, 0, 0, 0),
        "clone3" => (435, 0, 0, 0),
        "bpf" => (321, 0, 0, 0),
        "af_alg" => (41, 38, 5, 0),
        "netlink" => (41, 16, 3, 0),
        other => panic!("{other}"),
    };
    let result = unsafe { syscall(number, a, b, c) };
    let error = if result < 0 { errno(&std::io::Error::last_os_error()) } else { 0 };
    println!("{name} {error}");
}

fn main() {
    for argument in std::env::args().skip(1) {
        let mut words = argument.splitn(3, ':');
        let (verb, what) = (words.next().unwrap(), words.next().unwrap_or(""));
        match verb {
            "facts" => facts(),
            "exit" => std::process::exit(what.parse().unwrap()),
            "read" => match fs::read(what) {
                Ok(bytes) => println!("read {what} {}", bytes.len()),
                Err(error) => println!("read {what} errno {}", errno(&error)),
            },
            "cat" => print!("{}", fs::read_to_string(what).unwrap_or_else(|error| format!("errno {}\n", errno(&error)))),
            "write" => match fs::write(what, words.next().unwrap_or("")) {
                Ok(()) => println!("write {what} ok"),
                Err(error) => println!("write {what} errno {}", errno(&error)),
            },
            "list" | "links" => println!("{verb} {what} {}", names(what)),
            "call" => call(what),
            "wait" => loop {
                std::thread::park();
            },
            "tty" => {
                let mut size = [0_u16; 4];
                unsafe { ioctl(0, 0x5413, size.as_mut_ptr()) };
                let name = fs::read_link("/proc/self/fd/0").unwrap();
                println!("tty {} {} {} {}", unsafe { isatty(0) }, name.display(), size[0], size[1]);
                println!("controlling {}", fs::write("/dev/tty", "").is_ok());
            }
            "orphan" => {
                // A grandchild whose parent ends is process 1's to reap.
                if unsafe { fork() } == 0 {
                    if unsafe { fork() } == 0 {
                        std::process::exit(0);
                    }
                    std::process::exit(0);
                }
            }
            "signal" => {
                unsafe { kill(what.parse().unwrap(), 15) };
                loop {
                    std::thread::park();
                }
            }
            other => panic!("{other}"),
        }
    }
}
