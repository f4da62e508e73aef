//! Which devices a group may open: lines for version 1, a BPF program for version 2. The last rule that matches decides,
//! and what none matches is refused. See Documentation/admin-guide/cgroup-v1/devices.rst and bpf(2).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// The files and lines of version 1.
pub fn v1(rules: &[LinuxDeviceCgroup]) -> Vec<(&'static str, String)> {
    rules.iter().map(|rule| (if rule.allow() { "devices.allow" } else { "devices.deny" }, line(rule))).collect()
}

fn is_any(rule: &LinuxDeviceCgroup) -> bool {
    rule.typ().is_none_or(|kind| kind == LinuxDeviceType::A)
}

fn line(rule: &LinuxDeviceCgroup) -> String {
    if is_any(rule) {
        return "a".to_owned();
    }
    let kind = if rule.typ() == Some(LinuxDeviceType::B) { 'b' } else { 'c' };
    let number = |number: Option<i64>| number.filter(|one| *one >= 0).map_or("*".to_owned(), |one| one.to_string());
    // What is no kind of access the kernel would refuse, and other runtimes pass over.
    let access: String = rule.access().as_deref().unwrap_or("rwm").chars().filter(|one| "rwm".contains(*one)).collect();
    format!("{kind} {}:{} {access}", number(rule.major()), number(rule.minor()))
}

/// One instruction (`struct bpf_insn`, linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Source register in the upper, destination in the lower half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: source << 4 | destination, offset, immediate }
}
/// `destination = *(u32 *)(source + offset)`
const fn load(destination: u8, source: u8, offset: i16) -> Instruction {
    instruction(0x61, destination, source, offset, 0)
}
const fn set(destination: u8, value: i32) -> Instruction {
    instruction(0xb7, destination, 0, 0, value)
}
const EXIT: Instruction = instruction(0x95, 0, 0, 0, 0);

/// Access kinds of `struct bpf_cgroup_dev_ctx`.
fn access_mask(access: &str) -> i32 {
    let bit = |letter| match letter {
        'm' => 1,
        'r' => 2,
        'w' => 4,
        _ => 0,
    };
    access.chars().map(bit).fold(0, |all, one| all | one)
}

/// The program: registers 2 kind, 3 access, 4 major, 5 minor; 1 for yes. The last rule is asked first.
fn program(rules: &[LinuxDeviceCgroup]) -> Vec<Instruction> {
    let mut program = vec![
        load(2, 1, 0),
        instruction(0x54, 2, 0, 0, 0xffff), // w2 &= 0xffff: the kind
        load(3, 1, 0),
        instruction(0x74, 3, 0, 0, 16), // w3 >>= 16: the access
        load(4, 1, 4),
        load(5, 1, 8),
    ];
    for rule in rules.iter().rev() {
        program.extend(one(rule));
        if is_any(rule) {
            // Nothing passes a rule for all devices.
            return program;
        }
    }
    program.extend([set(0, 0), EXIT]);
    program
}

fn one(rule: &LinuxDeviceCgroup) -> Vec<Instruction> {
    let answer = [set(0, i32::from(rule.allow())), EXIT];
    if is_any(rule) {
        return answer.to_vec();
    }
    let mut tests = vec![instruction(0x56, 2, 0, 0, if rule.typ() == Some(LinuxDeviceType::B) { 1 } else { 2 })];
    let mask = access_mask(rule.access().as_deref().unwrap_or("rwm"));
    // w1 = w3 & ~mask, which must be nothing: all that is wanted is covered by the rule.
    tests.extend([instruction(0xbc, 1, 3, 0, 0), instruction(0x54, 1, 0, 0, !mask), instruction(0x56, 1, 0, 0, 0)]);
    let number = |register, wanted: Option<i64>| wanted.filter(|one| *one >= 0).map(|one| (register, one as i32));
    let numbers = [number(4, rule.major()), number(5, rule.minor())];
    tests.extend(numbers.into_iter().flatten().map(|(register, wanted)| instruction(0x56, register, 0, 0, wanted)));
    let length = tests.len();
    for (at, test) in tests.iter_mut().enumerate() {
        // Jumps if not equal: to what follows the answer.
        if test.code == 0x56 {
            test.offset = (length - at - 1 + answer.len()) as i16;
        }
    }
    tests.into_iter().chain(answer).collect()
}

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_QUERY: i32 = 16;
const CGROUP_DEVICE_PROGRAM: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    rest: [u64; 13],
}

#[repr(C)]
#[derive(Default)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    rest: [u64; 14],
}

#[repr(C)]
#[derive(Default)]
struct QueryAttributes {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
    rest: [u64; 12],
}

fn bpf<T>(command: i32, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: each structure is laid out as `union bpf_attr` has it for its command, is followed by zeroes, and
    // outlives the call, as do the buffers it points at.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), std::mem::size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// Version 2: attaches the program to the group, unless it has one from an earlier start.
pub fn attach(directory: &Path, rules: &[LinuxDeviceCgroup]) -> io::Result<()> {
    if rules.last().is_some_and(|rule| is_any(rule) && rule.allow()) {
        return Ok(());
    }
    let group = File::open(directory)?;
    let target = group.as_raw_fd() as u32;
    let mut query = QueryAttributes { target, attach_type: CGROUP_DEVICE, ..QueryAttributes::default() };
    bpf(PROG_QUERY, &mut query)?;
    if query.count > 0 {
        return Ok(());
    }
    let instructions = program(rules);
    let mut load = LoadAttributes {
        program_type: CGROUP_DEVICE_PROGRAM,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..LoadAttributes::default()
    };
    let loaded = bpf(PROG_LOAD, &mut load)?;
    // SAFETY: the kernel just returned this descriptor to us.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    let program = loaded.as_raw_fd() as u32;
    let mut attach =
        AttachAttributes { target, program, attach_type: CGROUP_DEVICE, flags: ALLOW_MULTI, ..Default::default() };
    bpf(PROG_ATTACH, &mut attach).map(drop)
}
