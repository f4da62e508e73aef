//! Volumes that are a mount: mounted before a container uses them, unmounted when they are removed.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};

use super::file_system::{self, Refusal};
use super::options::{Backing, MountOptions};
use super::{Error, Volume, driver, existing, get, io_at, lock};
use crate::runtime::roots::Roots;

/// Makes the volume's data reachable and gives its directory. Idempotent: what is mounted already stays.
pub fn mount(roots: &Roots, name: &str) -> Result<PathBuf, Error> {
    if existing(roots, name)?.config.plugin().is_some() {
        return driver::acquire(roots, name, &of_this_process());
    }
    let _lock = lock(roots, name)?;
    let volume = existing(roots, name)?;
    mount_locked(&volume)?;
    Ok(volume.data)
}

/// What a driver knows this process by, for as long as it looks at a volume itself.
fn of_this_process() -> String {
    format!("command-{}", std::process::id())
}

/// Undoes [`mount`] of this process where a plugin has mounted it; what this host mounts itself stays for the next.
pub fn let_go(roots: &Roots, name: &str) -> Result<(), Error> {
    match get(roots, name)? {
        Some(volume) if volume.config.plugin().is_some() => driver::release(roots, name, &of_this_process()),
        _ => Ok(()),
    }
}

/// Undoes [`mount`]; nothing to do for a plain directory. A container that still runs keeps its own mount.
pub fn unmount(roots: &Roots, name: &str) -> Result<(), Error> {
    let _lock = lock(roots, name)?;
    unmount_locked(roots, &existing(roots, name)?)
}

pub(super) fn mount_locked(volume: &Volume) -> Result<(), Error> {
    let name = &volume.config.name;
    let backing = volume.config.backing().map_err(|source| Error::Options { name: name.clone(), source })?;
    let Backing::Mount(options) = backing else { return Ok(()) };
    if is_mounted(&volume.data)? {
        return Ok(());
    }
    attach(&options, &volume.data).map_err(|source| Error::Refused { name: name.clone(), source })
}

pub(super) fn unmount_locked(_roots: &Roots, volume: &Volume) -> Result<(), Error> {
    if volume.config.driver_opts.is_empty() {
        return Ok(());
    }
    while is_mounted(&volume.data)? {
        nix::mount::umount2(&volume.data, MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|error| Error::Unmount { name: volume.config.name.clone(), source: error.into() })?;
    }
    Ok(())
}

/// Whether something is mounted on exactly this directory.
pub(super) fn is_mounted(data: &Path) -> Result<bool, Error> {
    let own = fs::canonicalize(data).map_err(io_at(data))?;
    Ok(mounts_below(data).map_err(io_at(data))?.contains(&own))
}

fn attach(options: &MountOptions, data: &Path) -> Result<(), Refusal> {
    if !options.flags.contains(MsFlags::MS_BIND) {
        return file_system::mount(options, data);
    }
    bind(options, data).map_err(|source| Refusal::Device { device: options.device.clone(), source })
}

fn bind(options: &MountOptions, data: &Path) -> io::Result<()> {
    nix::mount::mount(Some(options.device.as_str()), data, None::<&str>, options.flags, None::<&str>)?;
    let restricted = options.flags.difference(MsFlags::MS_BIND | MsFlags::MS_REC);
    if !restricted.is_empty() {
        // A bind mount takes its flags only when it is mounted again (mount(2)).
        let again = restricted | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
        if let Err(error) = nix::mount::mount(None::<&str>, data, None::<&str>, again, None::<&str>) {
            // Rather no mount than one that may be written to.
            nix::mount::umount2(data, MntFlags::MNT_DETACH)?;
            return Err(error.into());
        }
    }
    Ok(())
}

/// The mount points at or below the directory, as this process's mount namespace has them.
pub fn mounts_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let directory = match fs::canonicalize(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let text = fs::read("/proc/self/mountinfo")?;
    let points = text.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    Ok(points.map(unescape).filter(|point| point.starts_with(&directory)).collect())
}

/// `\040` and the like, as proc_pid_mountinfo(5) writes spaces.
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.filter(|_| *first == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let cases: [(&[u8], &[u8]); 3] = [(b"/a", b"/a"), (br"/a\040b\134", br"/a b\"), (br"/a\9", br"/a\9")];
        for (text, expected) in cases {
            assert_eq!(unescape(text).as_os_str().as_bytes(), expected);
        }
    }
}
