//! Devices, names, kernel settings, the working directory, and the last step: becoming the program.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, makedev, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Process, Spec};

use super::credentials::Identity;
use super::{InitError, mounts, namespace_path};
use crate::runtime::sys;

/// Devices that every container has: name, major, minor.
const DEVICES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The standard devices and links below `/dev`, then those that the specification adds.
pub fn make_devices(spec: &Spec, root: BorrowedFd<'_>) -> Result<(), InitError> {
    let dev = mounts::directory(root, Path::new("dev"), 0o755).map_err(InitError::step("open /dev"))?;
    for (name, major, minor) in DEVICES {
        node(dev.as_fd(), name, SFlag::S_IFCHR, 0o666, makedev(major, minor))
            .map_err(InitError::step(format!("make /dev/{name}")))?;
    }
    for (target, name) in LINKS {
        let made = already(symlinkat(target, &dev, name));
        made.map_err(InitError::step(format!("make /dev/{name}")))?;
    }
    for device in spec.linux().as_ref().and_then(|linux| linux.devices().as_ref()).into_iter().flatten() {
        own_device(device, root).map_err(InitError::step(format!("make {}", device.path().display())))?;
    }
    Ok(())
}

fn already(result: nix::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(nix::Error::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn node(directory: BorrowedFd<'_>, name: &str, kind: SFlag, mode: u32, device: u64) -> io::Result<()> {
    already(mknodat(directory, name, kind, Mode::from_bits_truncate(mode), device))?;
    let file = sys::open_in_root(directory, Path::new(name), libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    // The mask of this process took bits from the mode.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

fn own_device(device: &LinuxDevice, root: BorrowedFd<'_>) -> io::Result<()> {
    let path = device.path().strip_prefix("/").unwrap_or(device.path());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = mounts::directory(root, parent, 0o755)?;
    let kind = if device.typ() == LinuxDeviceType::B { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
    let number = makedev(device.major() as u64, device.minor() as u64);
    node(directory.as_fd(), name, kind, device.file_mode().unwrap_or(0o666), number)?;
    let owner = (Uid::from_raw(device.uid().unwrap_or(0)), Gid::from_raw(device.gid().unwrap_or(0)));
    fchownat(&directory, name, Some(owner.0), Some(owner.1), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// Masking with a file that an image put at /dev/null would show that file (CVE-2025-31133).
pub fn check_null(path: &Path) -> io::Result<()> {
    let found = std::fs::symlink_metadata(path)?;
    let is_null = found.file_type().is_char_device() && found.rdev() == makedev(1, 3);
    if is_null { Ok(()) } else { Err(io::Error::other("/dev/null is not the null device")) }
}

/// Host and domain name, where the container has names of its own.
pub fn set_names(spec: &Spec) -> io::Result<()> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let own = namespaces.is_some_and(|all| all.iter().any(|one| one.typ() == LinuxNamespaceType::Uts));
    if !own || namespace_path(spec, LinuxNamespaceType::Uts).is_some() {
        return Ok(());
    }
    if let Some(name) = spec.hostname() {
        nix::unistd::sethostname(name)?;
    }
    match spec.domainname().as_deref().filter(|name| !name.is_empty()) {
        Some(name) => sys::set_domain_name(name),
        None => Ok(()),
    }
}

/// Only settings that belong to a namespace of the container's own: others would change the host.
pub fn set_sysctls(spec: &Spec) -> Result<(), InitError> {
    let settings = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    for (key, value) in settings.into_iter().flatten() {
        let path = PathBuf::from("/proc/sys").join(key.replace('.', "/"));
        let own =
            ["net.", "kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.", "kernel.domainname", "kernel.hostname"];
        let refused = || io::Error::new(io::ErrorKind::PermissionDenied, "it is not a container's own setting");
        let allowed = own.iter().any(|prefix| key.starts_with(prefix)) && !key.contains("..");
        let result = if allowed { std::fs::write(&path, value) } else { Err(refused()) };
        result.map_err(InitError::step(format!("sysctl {key}")))?;
    }
    Ok(())
}

/// Docker makes a working directory that an image does not have.
pub fn make_directory(path: &Path) -> io::Result<()> {
    let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let relative = path.strip_prefix("/").unwrap_or(path);
    if relative.as_os_str().is_empty() {
        return Ok(());
    }
    match mounts::directory(root.as_fd(), relative, 0o755) {
        // A read-only root that lacks it: entering it says so.
        Err(error) if error.raw_os_error() == Some(libc::EROFS) => Ok(()),
        other => other.map(drop),
    }
}

/// Enters the working directory, and makes sure that it is inside the root: a descriptor to the host's file system
/// that leaked would let `/proc/self/fd/N` be one (CVE-2024-21626).
pub fn enter(path: &Path) -> io::Result<()> {
    std::env::set_current_dir(path)?;
    std::env::current_dir().map(drop)
}

/// Becomes the program; returns only why not.
pub fn exec(process: &Process, identity: &Identity) -> Result<Infallible, InitError> {
    let args = process.args().clone().unwrap_or_default();
    let program = args.first().cloned().unwrap_or_default();
    let mut env = process.env().clone().unwrap_or_default();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home));
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH).to_owned();
    let failed = |reason: String, found| InitError::Exec { program: program.clone(), reason, found };
    let c_strings =
        |texts: &[String]| texts.iter().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, _>>();
    let (Ok(args), Ok(env)) = (c_strings(&args), c_strings(&env)) else {
        return Err(failed("an argument or variable holds a NUL byte".to_owned(), true));
    };
    let mut last = nix::Error::ENOENT;
    for candidate in candidates(&program, &path) {
        let Ok(candidate) = CString::new(candidate.into_os_string().into_encoded_bytes()) else { continue };
        let Err(error) = nix::unistd::execve(&candidate, &args, &env);
        // As execvp(3): what can't be executed is remembered, and the search goes on.
        if error != nix::Error::ENOENT && error != nix::Error::ENOTDIR {
            last = error;
        }
    }
    let found = last != nix::Error::ENOENT;
    let reason = if found { last.desc() } else { "no such file in the container, nor in its PATH" };
    Err(failed(reason.to_owned(), found))
}

fn candidates(program: &str, path: &str) -> Vec<PathBuf> {
    if program.is_empty() || program.contains('/') {
        return vec![PathBuf::from(program)];
    }
    let folder = |folder: &str| Path::new(if folder.is_empty() { "." } else { folder }).join(program);
    path.split(':').map(folder).collect()
}
