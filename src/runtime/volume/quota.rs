//! How much a directory may hold, on disks that count by project (quotactl(2)): the directory and all that is made in it
//! belong to a project of its own, and the project has a limit. Ids of projects that count nothing are given out again;
//! the first is far from those that people and other engines begin with.
//!
//! The kernel holds nobody to it who may override limits (CAP_SYS_RESOURCE on the host): a privileged container is not held.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::runtime::roots::Roots;
use crate::runtime::state::{self, Contention, Lock};

const FIRST: u32 = 0x5f00_0000;
const LAST: u32 = FIRST + 0xffff;

/// linux/quota.h, linux/dqblk_xfs.h and linux/fs.h.
const PROJECT: libc::c_uint = 2;
const GET_LIMITS: libc::c_uint = 0x80_0007;
const SET_LIMITS: libc::c_uint = 0x80_0008;
const GET_STATE: libc::c_uint = 0x5808;
const PROJECTS_ARE_HELD: u16 = 1 << 5;
const BLOCK_LIMITS: u32 = 1;
const BLOCK: u64 = 1024;
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl;
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820;
const INHERITED: u32 = 0x200;

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Default)]
struct Limits {
    /// Hard, soft, and the bytes that there are.
    blocks: [u64; 2],
    bytes: u64,
    /// Hard, soft, and the inodes that there are.
    inode_limits: [u64; 2],
    inodes: u64,
    times: [u64; 2],
    valid: u32,
}

/// `struct fs_quota_statv`: of its 160 bytes, the first says which version of it is wanted.
#[repr(C, align(8))]
struct State {
    version: u8,
    padding: u8,
    flags: u16,
    rest: [u8; 252],
}

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    hints: [u32; 2],
    project: u32,
    more: [u32; 3],
}

/// Why a directory can't be limited.
#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    #[error(
        "driver_opts.size: the disk of {} does not limit projects: {reason}\n  help: mount it with the option `prjquota` (xfs; ext4 after `tune2fs -O quota,project`), or take `size` away", path.display()
    )]
    Unsupported { path: PathBuf, reason: String },
    #[error("driver_opts.size: all {} ids of projects are in use", LAST - FIRST + 1)]
    Exhausted,
    #[error("driver_opts.size: {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    State(#[from] state::Error),
}

/// Holds an empty directory to so many bytes.
///
/// # Errors
/// [`QuotaError::Unsupported`] where the disk or the kernel can't.
pub(super) fn limit(roots: &Roots, directory: &Path, bytes: u64) -> Result<(), QuotaError> {
    let at = |source| QuotaError::Io { path: directory.to_owned(), source };
    let opened = File::open(directory).map_err(at)?;
    let unsupported = |reason: String| QuotaError::Unsupported { path: directory.to_owned(), reason };
    let mut state = State { version: 1, padding: 0, flags: 0, rest: [0; 252] };
    quotactl(&opened, GET_STATE, 0, &mut state).map_err(|error| unsupported(error.to_string()))?;
    if state.flags & PROJECTS_ARE_HELD == 0 {
        return Err(unsupported("it is mounted without".to_owned()));
    }
    // From the choice of an id until the directory is counted in it, nobody else may choose.
    let _lock = Lock::take(&roots.durable(super::VOLUMES).join(".locks/.projects"), Contention::Wait)?;
    let project = unused(&opened).map_err(at)?.ok_or(QuotaError::Exhausted)?;
    let blocks = bytes.div_ceil(BLOCK).max(1);
    let mut limits = Limits { blocks: [blocks, blocks], valid: BLOCK_LIMITS, ..Limits::default() };
    quotactl(&opened, SET_LIMITS, project, &mut limits).map_err(at)?;
    assign(&opened, project).map_err(at)
}

fn unused(disk: &File) -> io::Result<Option<u32>> {
    for project in FIRST..=LAST {
        let mut limits = Limits::default();
        match quotactl(disk, GET_LIMITS, project, &mut limits) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Some(project)),
            Err(error) => return Err(error),
            Ok(()) if limits.bytes == 0 && limits.inodes == 0 => return Ok(Some(project)),
            Ok(()) => {}
        }
    }
    Ok(None)
}

fn quotactl<T>(disk: &File, command: libc::c_uint, id: u32, argument: &mut T) -> io::Result<()> {
    let command = command << 8 | PROJECT;
    let argument: *mut T = argument;
    // SAFETY: each command of this file comes with the structure that the kernel reads or fills, which outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_quotactl_fd, disk.as_raw_fd(), command, id, argument) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the directory, and what will be made in it, part of the project.
fn assign(directory: &File, project: u32) -> io::Result<()> {
    let mut attributes = Attributes::default();
    // SAFETY: the argument is a `struct fsxattr`, which the kernel fills.
    check(unsafe { libc::ioctl(directory.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut attributes) })?;
    attributes.project = project;
    attributes.flags |= INHERITED;
    // SAFETY: the argument is a `struct fsxattr`, which the kernel reads.
    check(unsafe { libc::ioctl(directory.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const attributes) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_the_kernels() {
        assert_eq!((size_of::<Limits>(), size_of::<Attributes>()), (72, 28));
        assert!(size_of::<State>() >= 160);
    }
}
