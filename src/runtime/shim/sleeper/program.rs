//! What a supervisor is while nothing happens: a program of one page that waits, and becomes the engine again when there
//! is something to do.
//!
//! The engine is large. Its relocated tables and its heap are each process's own, and would stay in memory for as long as
//! a container only runs. So a supervisor that has had nothing to do for a moment executes this program in its place:
//! process, children, descriptors, mounts and blocked signals stay what they are. This one knows nothing of containers. It
//! needs no C library, no heap and no writable data, so that all it takes is its text and a piece of stack.
//!
//! `… ENGINE,MEMORY,FD,FD,…`: waits until one of the descriptors from the third on can be read or has come to its end,
//! then executes what ENGINE is open on, with the very words and variables that it was given itself.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::mem::MaybeUninit;
use core::panic::PanicInfo;
use core::ptr::null;

/// As many descriptors as are waited for at most.
const MOST: usize = 32;
const POLLIN: i16 = 1;
const AT_EMPTY_PATH: usize = 0x1000;
const PR_SET_DUMPABLE: usize = 4;
const PR_SET_NAME: usize = 15;

#[cfg(target_arch = "x86_64")]
mod number {
    pub const PRCTL: usize = 157;
    pub const PPOLL: usize = 271;
    pub const EXECVEAT: usize = 322;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const PRCTL: usize = 167;
    pub const PPOLL: usize = 73;
    pub const EXECVEAT: usize = 281;
}

// The kernel jumps here with the arguments on the stack; nobody is returned to.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {begin}", "ud2", begin = sym begin);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x0, sp", "bl {begin}", "brk #0", begin = sym begin);

/// `struct pollfd` of poll(2).
#[repr(C)]
struct Polled {
    descriptor: i32,
    events: i16,
    happened: i16,
}

/// `struct timespec`.
#[repr(C)]
struct Duration {
    seconds: i64,
    nanoseconds: i64,
}

/// # Safety
/// What the call does with its arguments is the caller's to answer for.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, arguments: [usize; 5]) -> isize {
    let [a, b, c, d, e] = arguments;
    let result;
    // SAFETY: the kernel's calling convention; it changes these registers only, and memory as the caller knows.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             in("r8") e, out("rcx") _, out("r11") _, options(nostack));
    }
    result
}

/// # Safety
/// What the call does with its arguments is the caller's to answer for.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, arguments: [usize; 5]) -> isize {
    let [a, b, c, d, e] = arguments;
    let result;
    // SAFETY: the kernel's calling convention; it changes these registers only, and memory as the caller knows.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d,
             in("x4") e, options(nostack));
    }
    result
}

/// The numbers of a text such as `3,4,17`; a NUL byte ends it.
struct Numbers(*const u8);

impl Iterator for Numbers {
    type Item = i32;

    fn next(&mut self) -> Option<i32> {
        let mut number = None;
        loop {
            // SAFETY: an argument of the kernel's, which ends with a NUL byte that is never gone beyond.
            let byte = unsafe { *self.0 };
            if byte == 0 {
                return number;
            }
            // SAFETY: the byte was not the last.
            self.0 = unsafe { self.0.add(1) };
            match byte {
                b'0'..=b'9' => {
                    number = Some(number.unwrap_or(0_i32).wrapping_mul(10).wrapping_add(i32::from(byte - b'0')));
                }
                _ => return number,
            }
        }
    }
}

/// `stack` is where the kernel puts how many arguments there are, then them, a null pointer, and the variables.
unsafe extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: that many words are there (execve(2), System V ABI).
    let (count, words) = unsafe { (*stack, stack.add(1).cast::<*const u8>()) };
    // SAFETY: as above. Without any argument there is nothing to do, and the null pointer reads as no numbers at all.
    let (last, variables) = unsafe { (*words.add(count.saturating_sub(1)), words.add(count + 1)) };
    if last.is_null() {
        loop {
            pause();
        }
    }
    // SAFETY: takes integers and a NUL-terminated name. Children of this process are in sight of containers.
    unsafe {
        call(number::PRCTL, [PR_SET_DUMPABLE, 0, 0, 0, 0]);
        call(number::PRCTL, [PR_SET_NAME, c"stack".as_ptr() as usize, 0, 0, 0]);
    }
    let mut numbers = Numbers(last);
    let engine = numbers.next().unwrap_or(-1);
    wait(numbers.skip(1));
    loop {
        let empty = c"".as_ptr() as usize;
        // SAFETY: NUL-terminated strings and lists of such with a null pointer at their end, all of them the kernel's.
        unsafe { call(number::EXECVEAT, [engine as usize, empty, words as usize, variables as usize, AT_EMPTY_PATH]) };
        // The host has no memory for it now.
        pause();
    }
}

fn wait(descriptors: impl Iterator<Item = i32>) {
    let mut polled: [MaybeUninit<Polled>; MOST] = [const { MaybeUninit::uninit() }; MOST];
    let mut count = 0;
    for (place, descriptor) in polled.iter_mut().zip(descriptors) {
        place.write(Polled { descriptor, events: POLLIN, happened: 0 });
        count += 1;
    }
    // SAFETY: so many of the list were written, and it outlives the call; without a time it waits for as long as it takes.
    while unsafe { call(number::PPOLL, [polled.as_mut_ptr() as usize, count, 0, 0, 0]) } <= 0 {}
}

/// A second.
fn pause() {
    let second = Duration { seconds: 1, nanoseconds: 0 };
    // SAFETY: no descriptors, and a time that outlives the call.
    unsafe { call(number::PPOLL, [null::<Polled>() as usize, 0, &raw const second as usize, 0, 0]) };
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        pause();
    }
}
