//! A file as a block device (loop(4)), for as long as a file system is mounted from it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// linux/loop.h
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;
const READ_ONLY: u32 = 1;
/// The kernel lets go of the file with the last mount and descriptor of the device, however these end.
const AUTOCLEAR: u32 = 4;
/// Another program may take the free device that we were told of.
const ATTEMPTS: usize = 64;

/// `struct loop_info64`.
#[repr(C)]
struct Status {
    /// Device number of the file's disk, the file's inode; then the device's own number, an offset and a limit.
    device: u64,
    inode: u64,
    others: [u64; 3],
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    names: [u8; 160],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    file: u32,
    block_size: u32,
    status: Status,
    reserved: [u64; 8],
}

impl Status {
    fn new(flags: u32) -> Self {
        Self {
            device: 0,
            inode: 0,
            others: [0; 3],
            number: 0,
            encryption: [0; 2],
            flags,
            names: [0; 160],
            init: [0; 2],
        }
    }
}

/// A device that has the file while this lives, and while something is mounted from it.
pub struct LoopDevice {
    pub path: PathBuf,
    _open: File,
}

impl LoopDevice {
    /// The device that has this file already - a file system that is mounted by two devices destroys itself -, else a free
    /// one.
    ///
    /// # Errors
    /// Where the file can't be opened, or this kernel has no loop devices.
    pub fn of(path: &Path, read_only: bool) -> io::Result<Self> {
        let file = File::options().read(true).write(!read_only).open(path)?;
        match Self::with(&file)? {
            Some(device) => Ok(device),
            None => Self::attach(&file, read_only),
        }
    }

    fn with(file: &File) -> io::Result<Option<Self>> {
        let wanted = file.metadata()?;
        for entry in fs::read_dir("/sys/block")? {
            let entry = entry?;
            if !entry.path().join("loop/backing_file").exists() {
                continue;
            }
            let path = Path::new("/dev").join(entry.file_name());
            let Ok(open) = File::open(&path) else { continue };
            if status(&open).is_ok_and(|status| (status.device, status.inode) == (wanted.dev(), wanted.ino())) {
                return Ok(Some(Self { path, _open: open }));
            }
        }
        Ok(None)
    }

    fn attach(file: &File, read_only: bool) -> io::Result<Self> {
        let control = File::options().read(true).write(true).open("/dev/loop-control")?;
        let flags = if read_only { AUTOCLEAR | READ_ONLY } else { AUTOCLEAR };
        for _ in 0..ATTEMPTS {
            let path = PathBuf::from(format!("/dev/loop{}", free(&control)?));
            let open = File::options().read(true).write(!read_only).open(&path)?;
            match configure(&open, file, flags) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                done => return done.map(|()| Self { path, _open: open }),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn free(control: &File) -> io::Result<libc::c_int> {
    // SAFETY: takes no argument.
    check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })
}

fn status(device: &File) -> io::Result<Status> {
    let mut status = Status::new(0);
    // SAFETY: the buffer is a `struct loop_info64`, which the kernel fills.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut status) })?;
    Ok(status)
}

fn configure(device: &File, file: &File, flags: u32) -> io::Result<()> {
    let file = file.as_raw_fd().unsigned_abs();
    let config = Config { file, block_size: 0, status: Status::new(flags), reserved: [0; 8] };
    // SAFETY: the argument is a `struct loop_config` that outlives the call; the kernel only reads it.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_the_kernels() {
        assert_eq!((size_of::<Status>(), size_of::<Config>()), (232, 304));
    }
}
