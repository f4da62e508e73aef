//! What a supervisor becomes while nothing happens, so that it takes next to no memory: see `program.rs`, which the build
//! script compiles and which is a part of this program.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::unistd::execveat;

use crate::runtime::sys;

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sleeper"));
/// As many descriptors can be waited for at most.
pub const MOST: usize = 32;

/// Becomes it, and this program again, with these words and one more, when one of `awaited` can be read or has ended.
/// `held` are the descriptors that are open then, beside those. The further word is for [`memory`].
///
/// # Errors
/// Why it could not; all is as it was then.
pub fn sleep(words: Vec<CString>, memory: &[u8], awaited: &[RawFd], held: &[RawFd]) -> io::Error {
    let Err(error) = try_sleep(words, memory, awaited, held);
    // Nothing that is started from here on is to have any of it.
    sys::close_on_exec_from(3).err().unwrap_or(error)
}

fn try_sleep(
    mut words: Vec<CString>,
    memory: &[u8],
    awaited: &[RawFd],
    held: &[RawFd],
) -> io::Result<std::convert::Infallible> {
    if awaited.len() > MOST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let program = in_memory(c"stack", PROGRAM, true)?;
    let memory = in_memory(c"memory", memory, false)?;
    let engine = open("/proc/self/exe", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let own = [engine.as_raw_fd(), memory.as_raw_fd()];
    for number in own.iter().chain(awaited).chain(held) {
        sys::keep_on_exec_from(*number, 1)?;
    }
    let numbers: Vec<String> = own.iter().chain(awaited).map(RawFd::to_string).collect();
    words.push(sys::c_string(numbers.join(","))?);
    let pair = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        CString::new([name.into_vec(), value.into_vec()].join(&b'=')).ok()
    };
    let variables: Vec<CString> = std::env::vars_os().filter_map(pair).collect();
    Ok(execveat(program.as_fd(), c"", &words, &variables, AtFlags::AT_EMPTY_PATH)?)
}

/// A file that is nowhere, and that nobody can change any more.
pub fn in_memory(name: &std::ffi::CStr, content: &[u8], executable: bool) -> io::Result<OwnedFd> {
    /// linux/memfd.h, since Linux 6.3.
    const EXECUTABLE: MFdFlags = MFdFlags::from_bits_retain(0x10);
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let made = match memfd_create(name, if executable { flags | EXECUTABLE } else { flags }) {
        Err(Errno::EINVAL) => memfd_create(name, flags),
        other => other,
    };
    let mut file = File::from(made?);
    file.write_all(content)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// What was kept for this program while it slept, where this word is the further one of [`sleep`].
///
/// # Errors
/// Where it is not.
pub fn memory(word: &str) -> io::Result<Vec<u8>> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidInput);
    let mut numbers = word.split(',').map_while(|number| number.parse::<RawFd>().ok());
    let mut next = || sys::adopt(numbers.next().ok_or_else(wrong)?);
    // This program's own file: it is open for the next sleep only.
    drop(next()?);
    read(next()?.as_fd())
}

fn read(memory: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        match nix::sys::uio::pread(memory, &mut piece, text.len() as i64)? {
            0 => return Ok(text),
            count => text.extend_from_slice(&piece[..count]),
        }
    }
}
