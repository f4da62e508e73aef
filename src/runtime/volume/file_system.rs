//! A file system that `driver_opts` ask for, mounted with the calls that take one option at a time: where the kernel
//! refuses, it is known which option it was, and the kernel's own words can be passed on.

use std::fs::File;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::mount::MsFlags;

use super::loop_device::LoopDevice;
use super::options::MountOptions;
use crate::runtime::sys;

/// Why it can't be mounted.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(
        "this kernel has no file system {0:?}\n  help: correct driver_opts.type, or install the kernel module of it"
    )]
    Type(String),
    /// Without its value, which may be a password.
    #[error("driver_opts.o: `{option}`: {said}\n  help: correct the option, or take it away")]
    Option { option: String, said: String },
    #[error("driver_opts.device: {device}: {source}\n  help: make it, or correct the path")]
    Device { device: String, source: io::Error },
    #[error(
        "driver_opts.device: {file} as a block device: {source}\n  help: the kernel needs loop devices (`modprobe loop`)"
    )]
    Loop { file: String, source: io::Error },
    #[error(
        "driver_opts.device: there is no {kind} on {device}, or it is damaged: {said}\n  help: correct driver_opts.type, or make one: `mkfs -t {kind} {device}`"
    )]
    Content { kind: String, device: String, said: String },
    #[error("the server {server} has no address: {source}\n  help: correct its name in driver_opts")]
    Name { server: String, source: io::Error },
    #[error(
        "the server {server} does not answer: {said}\n  help: see that it runs, exports this, and that no firewall is between"
    )]
    Server { server: String, said: String },
    #[error("{0}")]
    Other(String),
}

/// Mounts it on the directory.
///
/// # Errors
/// Where the kernel refuses; nothing is mounted and no device is taken then.
pub(super) fn mount(options: &MountOptions, data: &Path) -> Result<(), Refusal> {
    let read_only = options.flags.contains(MsFlags::MS_RDONLY);
    let lend = |file: &Path| {
        LoopDevice::of(file, read_only).map_err(|source| Refusal::Loop { file: options.device.clone(), source })
    };
    let lent = image(&options.device).map(lend).transpose()?;
    let source = lent.as_ref().and_then(|device| device.path.to_str()).unwrap_or(&options.device);
    let made = make(options, source)?;
    let onto = File::open(data).map_err(|error| Refusal::Other(error.to_string()))?;
    sys::attach_mount(made.as_fd(), onto.as_fd()).map_err(|error| Refusal::Other(error.to_string()))
}

/// The file that a file system is in, where it is in one: not a device, a directory, or a word that only this type knows.
fn image(device: &str) -> Option<&Path> {
    let path = Path::new(device);
    (path.is_absolute() && path.is_file()).then_some(path)
}

fn make(options: &MountOptions, source: &str) -> Result<OwnedFd, Refusal> {
    let other = |error: io::Error| Refusal::Other(error.to_string());
    let kind = sys::c_string(&options.kind).map_err(other)?;
    let context = sys::open_file_system(&kind).map_err(|error| match error.raw_os_error() {
        Some(libc::ENODEV) => Refusal::Type(options.kind.clone()),
        _ => other(error),
    })?;
    let device = |source| Refusal::Device { device: options.device.clone(), source };
    sys::set_option(&context, "source", Some(source)).map_err(device)?;
    for word in words(options.flags) {
        set(&context, word, None)?;
    }
    let data = if options.is_remote() { resolve(&options.data)? } else { options.data.clone() };
    for option in data.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some((key, value)) => set(&context, key, Some(value))?,
            None => set(&context, option, None)?,
        }
    }
    sys::create_mount(&context, attributes(options.flags))
        .map_err(|error| refusal(options, said(&context, &error), &error))
}

fn set(context: &OwnedFd, key: &str, value: Option<&str>) -> Result<(), Refusal> {
    sys::set_option(context, key, value)
        .map_err(|error| Refusal::Option { option: key.to_owned(), said: said(context, &error) })
}

/// The kernel's words, and without any what the number of the error says.
fn said(context: &OwnedFd, error: &io::Error) -> String {
    let mut words = Vec::new();
    let mut message = [0; 1024];
    while let Ok(length) = nix::unistd::read(context, &mut message) {
        // A letter says how grave it is: `e ext4: Unknown parameter 'x'`.
        let text = String::from_utf8_lossy(&message[..length]);
        words.push(text.split_once(' ').map_or(&*text, |(_, rest)| rest).trim().to_owned());
    }
    match words.is_empty() {
        true => error.to_string(),
        false => format!("{} ({error})", words.join("; ")),
    }
}

/// What a whole file system is refused for.
fn refusal(options: &MountOptions, said: String, error: &io::Error) -> Refusal {
    let device = options.device.clone();
    match error.raw_os_error() {
        Some(
            libc::ETIMEDOUT
            | libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ECONNABORTED,
        ) if options.is_remote() => Refusal::Server { server: options.server().to_owned(), said },
        Some(libc::ENOENT) if device.starts_with('/') && !options.is_remote() => {
            Refusal::Device { device, source: io::Error::from_raw_os_error(libc::ENOENT) }
        }
        Some(libc::EINVAL | libc::EUCLEAN | libc::EBADMSG) if device.starts_with('/') && !options.is_remote() => {
            Refusal::Content { kind: options.kind.clone(), device, said }
        }
        _ => Refusal::Other(said),
    }
}

/// The flags that are the file system's own (fsconfig(2)).
fn words(flags: MsFlags) -> impl Iterator<Item = &'static str> {
    let all = [(MsFlags::MS_RDONLY, "ro"), (MsFlags::MS_SYNCHRONOUS, "sync"), (MsFlags::MS_DIRSYNC, "dirsync")];
    all.into_iter().filter(move |(flag, _)| flags.contains(*flag)).map(|(_, word)| word)
}

/// Those that are the mount's (fsmount(2)).
fn attributes(flags: MsFlags) -> u64 {
    let all = [
        (MsFlags::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
        (MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
        (MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV),
        (MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
        (MsFlags::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
    ];
    let set = all.into_iter().filter(|(flag, _)| flags.contains(*flag)).fold(0, |set, (_, bit)| set | bit);
    // One of three, of which the kernel takes no two.
    set | if flags.contains(MsFlags::MS_NOATIME) {
        libc::MOUNT_ATTR_NOATIME
    } else if flags.contains(MsFlags::MS_STRICTATIME) {
        libc::MOUNT_ATTR_STRICTATIME
    } else {
        libc::MOUNT_ATTR_RELATIME
    }
}

/// The kernel's clients of servers take addresses only.
fn resolve(data: &str) -> Result<String, Refusal> {
    let mut all = Vec::new();
    for option in data.split(',') {
        match option.strip_prefix("addr=") {
            Some(host) if host.parse::<IpAddr>().is_err() => {
                let wrong = |source| Refusal::Name { server: host.to_owned(), source };
                let found = (host, 0).to_socket_addrs().map_err(wrong)?.next();
                let found = found.ok_or_else(|| wrong(io::ErrorKind::NotFound.into()))?;
                all.push(format!("addr={}", found.ip()));
            }
            _ => all.push(option.to_owned()),
        }
    }
    Ok(all.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kind: &str, device: &str, number: i32) -> String {
        let (kind, device) = (kind.to_owned(), device.to_owned());
        let options = MountOptions { kind, device, flags: MsFlags::empty(), data: String::new() };
        let error = io::Error::from_raw_os_error(number);
        refusal(&options, error.to_string(), &error).to_string()
    }

    #[test]
    fn a_refusal_names_what_is_wrong_by_what_was_asked_for() {
        let cases = [
            ("nfs", "files:/a", libc::ETIMEDOUT, "the server files does not answer: Connection timed out"),
            ("nfs4", "[fd00::1]:/a", libc::ECONNREFUSED, "the server [fd00::1] does not answer: Connection refused"),
            ("cifs", "//files/a", libc::EHOSTUNREACH, "the server files does not answer: No route to host"),
            ("nfs", "files:/a", libc::EACCES, "Permission denied"),
            ("ext4", "/dev/x", libc::EINVAL, "driver_opts.device: there is no ext4 on /dev/x, or it is damaged"),
            ("ext4", "/dev/x", libc::ENOENT, "driver_opts.device: /dev/x: No such file or directory"),
            ("tmpfs", "tmpfs", libc::EINVAL, "Invalid argument"),
        ];
        for (kind, device, number, expected) in cases {
            let said = refused(kind, device, number);
            assert!(said.starts_with(expected), "{said}");
        }
    }

    #[test]
    fn flags_go_to_the_mount_and_to_the_file_system() {
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOATIME | MsFlags::MS_NOEXEC | MsFlags::MS_SYNCHRONOUS;
        let expected = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOATIME | libc::MOUNT_ATTR_NOEXEC;
        assert_eq!(attributes(flags), expected);
        assert_eq!(words(flags).collect::<Vec<_>>(), ["ro", "sync"]);
    }
}
