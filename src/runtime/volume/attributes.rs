//! Extended attributes of an open file, which `nix` lacks.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

fn size(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The names of a file's attributes; none where its disk keeps none.
pub fn list(file: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut buffer = vec![0_u8; 65536];
    // SAFETY: the buffer is as long as is said.
    let length = unsafe { libc::flistxattr(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    let length = match size(length) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let names = buffer[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.filter_map(|name| CString::new(name).ok()).collect())
}

/// The value of an attribute; 64 KiB is the most that Linux allows.
pub fn get(file: BorrowedFd<'_>, name: &CStr) -> io::Result<Vec<u8>> {
    match get_at_most(file, name, 256) {
        Err(error) if error.raw_os_error() == Some(libc::ERANGE) => get_at_most(file, name, 65536),
        got => got,
    }
}

fn get_at_most(file: BorrowedFd<'_>, name: &CStr, most: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0_u8; most];
    // SAFETY: the name is NUL-terminated and the buffer is as long as is said.
    let length = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    buffer.truncate(size(length)?);
    Ok(buffer)
}

/// Sets an attribute.
pub fn set(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: the name is NUL-terminated and the value is as long as is said.
    let done = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
