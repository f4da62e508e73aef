//! Devices, names, kernel settings, the working directory, and the last step: becoming the program.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode as Permissions, SFlag, makedev, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Process, Spec};

use super::credentials::Identity;
use super::launcher::{self, Mode};
use super::{Channel, InitError, has_namespace, mounts, namespace_path};
use crate::runtime::{sys, userns};

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
/// The launcher's own, since its descriptor says what is meant: at one place in memory.
pub static LAUNCHER_PATH: &CStr = c"";
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The standard devices and links, on the file system that becomes /dev, which is empty: nothing of the image or of a
/// volume is touched. Devices of the specification whose parent is /dev itself go there too.
pub fn fill_dev(spec: &Spec, dev: BorrowedFd<'_>) -> Result<(), InitError> {
    for (name, major, minor) in DEVICES {
        let host = Path::new("/dev").join(name);
        let made = node(spec, dev, &host, SFlag::S_IFCHR, 0o666, makedev(major, minor));
        made.map_err(InitError::step(format!("make /dev/{name}")))?;
    }
    for (target, name) in LINKS {
        let made = symlinkat(target, dev, name).map_err(io::Error::from);
        made.map_err(InitError::step(format!("make /dev/{name}")))?;
    }
    Ok(())
}

/// The devices that the specification adds to those that every container has.
pub fn make_devices(spec: &Spec, root: BorrowedFd<'_>) -> Result<(), InitError> {
    // The link to that of the container's own devpts is there instead.
    let made = |device: &&LinuxDevice| device.path() != Path::new("/dev/ptmx");
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    for device in devices.into_iter().flatten().filter(made) {
        own_device(spec, device, root).map_err(InitError::step(format!("make {}", device.path().display())))?;
    }
    Ok(())
}

/// With the last part of the host's name for it. In a user namespace nobody may make nodes of devices: the host's own is
/// bound there.
fn node(spec: &Spec, directory: BorrowedFd<'_>, host: &Path, kind: SFlag, mode: u32, device: u64) -> io::Result<()> {
    let name = Path::new(host.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    let is_kept_from = has_namespace(spec, LinuxNamespaceType::User) || userns::own_size().is_some();
    if kind == SFlag::S_IFIFO || !is_kept_from {
        return Ok(mknodat(directory, name, kind, Permissions::from_bits_truncate(mode), device)?);
    }
    let about = |error: nix::Error| io::Error::new(io::Error::from(error).kind(), format!("the host's: {error}"));
    let source = open(host, OFlag::O_PATH | OFlag::O_CLOEXEC, Permissions::empty()).map_err(about)?;
    if nix::sys::stat::fstat(&source)?.st_rdev != device {
        return Err(io::Error::other("the host's device of this name is another one"));
    }
    let target = mounts::file(directory, name)?;
    sys::attach_mount(sys::clone_mount_of(source.as_fd())?.as_fd(), target.as_fd())
}

fn own_device(spec: &Spec, device: &LinuxDevice, root: BorrowedFd<'_>) -> io::Result<()> {
    let path = device.path().strip_prefix("/").unwrap_or(device.path());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = mounts::directory(root, parent, 0o755)?;
    let kind = match device.typ() {
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        _ => SFlag::S_IFCHR,
    };
    let number = makedev(device.major() as u64, device.minor() as u64);
    match node(spec, directory.as_fd(), device.path(), kind, device.file_mode().unwrap_or(0o666), number) {
        // One that is there already is not ours to change; it must be the very device that was meant.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = sys::open_in_root(directory.as_fd(), Path::new(name), libc::O_PATH | libc::O_NOFOLLOW, 0)?;
            let found = nix::sys::stat::fstat(&found)?;
            let same = found.st_rdev == number && found.st_mode & libc::S_IFMT == kind.bits();
            return if same { Ok(()) } else { Err(error) };
        }
        other => other?,
    }
    let owner = (Uid::from_raw(device.uid().unwrap_or(0)), Gid::from_raw(device.gid().unwrap_or(0)));
    // What is bound is the host's.
    if has_namespace(spec, LinuxNamespaceType::User)
        || userns::own_size().is_some()
        || (owner.0.is_root() && owner.1.as_raw() == 0)
    {
        return Ok(());
    }
    Ok(fchownat(&directory, name, Some(owner.0), Some(owner.1), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?)
}

/// The terminal under the name that system programs write to. It is bound by its descriptor, never by a name that
/// could be swapped (CVE-2025-52565).
pub fn make_console(root: BorrowedFd<'_>, terminal: BorrowedFd<'_>) -> io::Result<()> {
    let target = mounts::file(root, Path::new("dev/console"))?;
    sys::attach_mount(sys::clone_mount_of(terminal)?.as_fd(), target.as_fd())
}

/// The null device of the container. An image that puts something else there would have masks show that
/// (CVE-2025-31133), so what was opened is checked to be it.
pub fn null_path() -> io::Result<OwnedFd> {
    let null = open("/dev/null", OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Permissions::empty())?;
    let found = nix::sys::stat::fstat(&null)?;
    let is_null = found.st_mode & libc::S_IFMT == libc::S_IFCHR && found.st_rdev == makedev(1, 3);
    if is_null { Ok(null) } else { Err(io::Error::other("/dev/null is not the null device")) }
}

/// The null device, to read end of file from.
pub fn open_null() -> io::Result<OwnedFd> {
    let null = null_path()?;
    let path = format!("/proc/self/fd/{}", null.as_raw_fd());
    Ok(open(path.as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC, Permissions::empty())?)
}

/// Host and domain name, where the container has names of its own.
pub fn set_names(spec: &Spec) -> io::Result<()> {
    let own = has_namespace(spec, LinuxNamespaceType::Uts);
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

/// The namespace that a kernel setting belongs to, if it belongs to one at all (man 7 namespaces).
fn owner(key: &str) -> Option<LinuxNamespaceType> {
    let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
    match key {
        "kernel.hostname" | "kernel.domainname" => Some(LinuxNamespaceType::Uts),
        key if key.starts_with("net.") => Some(LinuxNamespaceType::Network),
        key if ipc.iter().any(|prefix| key.starts_with(prefix)) => Some(LinuxNamespaceType::Ipc),
        _ => None,
    }
}

/// Only settings that belong to a namespace of the container's own: others would change the host. They are written in
/// the procfs that was made for the container and checked to be one, and on no other mount (CVE-2025-52881).
pub fn set_sysctls(spec: &Spec, proc: BorrowedFd<'_>) -> Result<(), InitError> {
    let settings = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    for (key, value) in settings.into_iter().flatten() {
        let refused = || io::Error::new(io::ErrorKind::PermissionDenied, "it is not a container's own setting");
        let allowed = owner(key).is_some_and(|namespace| has_namespace(spec, namespace));
        let written = if allowed { set_sysctl(proc, key, value) } else { Err(refused()) };
        written.map_err(InitError::step(format!("sysctl {key}")))?;
    }
    Ok(())
}

fn set_sysctl(proc: BorrowedFd<'_>, key: &str, value: &str) -> io::Result<()> {
    let path = PathBuf::from("sys").join(key.replace('.', "/"));
    let file = sys::open_on_mount(proc, &path, libc::O_WRONLY)?;
    std::fs::File::from(file).write_all(value.as_bytes())
}

/// Docker makes a working directory that an image does not have, and so do we, inside the root (CVE-2026-55686).
pub fn make_directory(root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let relative = path.strip_prefix("/").map_err(|_| io::Error::other("it is not an absolute path"))?;
    if relative.as_os_str().is_empty() {
        return Ok(());
    }
    mounts::directory(root, relative, 0o755).map(drop)
}

/// Enters the working directory, and makes sure that it is inside the root: a descriptor to the host's file system
/// that leaked would let `/proc/self/fd/N` be one (CVE-2024-21626), so such links are not followed at all.
pub fn enter(path: &Path) -> io::Result<()> {
    let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Permissions::empty())?;
    let directory = sys::open_in_root(root.as_fd(), path, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    nix::unistd::fchdir(&directory)?;
    std::env::current_dir().map(drop)
}

/// The variables of a process, the last one of each name, and `HOME` in any case.
pub fn environment(process: &Process, identity: &Identity) -> Vec<String> {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let all = process.env().as_deref().unwrap_or_default();
    let is_last = |(index, entry): &(usize, &String)| !all[index + 1..].iter().any(|later| name(later) == name(entry));
    let last = all.iter().enumerate().filter(is_last).map(|(_, entry)| entry.clone());
    let mut env: Vec<String> = last.filter(|entry| entry != "HOME=").collect();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home));
    }
    env
}

/// Becomes the launcher, which becomes the program; returns only why not.
pub fn exec(
    process: &Process,
    identity: &Identity,
    channel: &Channel,
    errors: &OwnedFd,
    mode: Mode,
) -> Result<Infallible, InitError> {
    let args = process.args().clone().unwrap_or_default();
    let program = args.first().cloned().unwrap_or_default();
    let env = environment(process, identity);
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH).to_owned();
    let c_strings =
        |texts: &[String]| texts.iter().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, _>>();
    let (Ok(args), Ok(env)) = (c_strings(&args), c_strings(&env)) else {
        let reason = "an argument or variable holds a NUL byte".to_owned();
        return Err(InitError::Exec { program, reason, found: true });
    };
    let candidates = candidates(&program, &path).into_iter();
    let candidates = candidates.filter_map(|path| CString::new(path.into_os_string().into_encoded_bytes()).ok());
    let words = launcher::arguments(mode, errors.as_raw_fd(), candidates.collect(), args);
    let words = words.map_err(InitError::step("launcher"))?;
    sys::keep_on_exec(errors.as_fd()).map_err(InitError::step("launcher"))?;
    let Err(error) =
        nix::unistd::execveat(&channel.launcher, LAUNCHER_PATH, &words, &env, nix::fcntl::AtFlags::AT_EMPTY_PATH);
    Err(InitError::step("launcher")(error.into()))
}

/// The paths that are tried, as execvp(3) does.
pub fn candidates(program: &str, path: &str) -> Vec<PathBuf> {
    if program.is_empty() || program.contains('/') {
        return vec![PathBuf::from(program)];
    }
    let folder = |folder: &str| Path::new(if folder.is_empty() { "." } else { folder }).join(program);
    path.split(':').map(folder).collect()
}
