//! Devices of this host, as containers get them: with the permissions and the owner that they have here.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::runtime::init::spec::Device;

/// What lies in /dev and is each container's own.
const OWN: [&str; 7] =
    ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console", "/dev/ptmx", "/dev/hugepages"];

/// The device at this path, to be seen at another one.
///
/// # Errors
/// Where there is none, or it is something else.
pub fn of(source: &Path, target: PathBuf) -> io::Result<Device> {
    let data = fs::metadata(source)?;
    let kind = match (data.file_type().is_char_device(), data.file_type().is_block_device()) {
        (true, _) => 'c',
        (_, true) => 'b',
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a device")),
    };
    let (major, minor) = (nix::sys::stat::major(data.rdev()) as i64, nix::sys::stat::minor(data.rdev()) as i64);
    let (source, access) = (source.to_owned(), "rwm".to_owned());
    let (mode, uid, gid) = (Some(data.mode() & 0o777), data.uid(), data.gid());
    Ok(Device { source, path: target, kind, major, minor, access, mode, uid, gid })
}

/// All of them, for a container that is to have every one. What goes meanwhile, or can't be looked at, is left out.
pub fn of_host() -> Vec<Device> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::from("/dev")];
    while let Some(directory) = waiting.pop() {
        let entries = fs::read_dir(&directory).into_iter().flatten().filter_map(Result::ok);
        for entry in entries.filter(|entry| !OWN.iter().any(|own| entry.path() == Path::new(own))) {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(entry.path()),
                Ok(kind) if kind.is_char_device() || kind.is_block_device() => {
                    found.extend(of(&entry.path(), entry.path()));
                }
                _ => {}
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}
