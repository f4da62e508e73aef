//! `driver_opts` of docker's local driver as a decision: a plain directory, or something to mount on it.

use std::collections::BTreeMap;
use std::path::Path;

use nix::mount::MsFlags;

/// Where a volume's data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// In the volume's own directory.
    Directory,
    /// Mounted over the volume's directory while in use.
    Mount(MountOptions),
    /// Where this driver, a program of others, says at each mount.
    Plugin(String),
}

/// The arguments of mount(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// The file system; `none` for a bind mount.
    pub kind: String,
    pub device: String,
    pub flags: MsFlags,
    /// What the file system itself is told, comma-separated.
    pub data: String,
}

/// Why `driver_opts` can't be obeyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    #[error("driver_opts.{0} is not known\n  help: use type, o and device, or size")]
    Unknown(String),
    #[error(
        "driver_opts.size is for a directory on the engine's own disk\n  help: for a volume in memory, use type: tmpfs, o: size=..."
    )]
    SizeOfMount,
    #[error("driver_opts.size {0:?} is no size\n  help: write one such as 512m or 1g")]
    Size(String),
    #[error("driver_opts.{0} is missing")]
    Missing(&'static str),
    #[error("driver_opts.device {0:?} must be an absolute path")]
    Relative(String),
    #[error("driver_opts.device {0:?} must be SERVER:/PATH, or :/PATH with o: addr=SERVER")]
    Server(String),
}

/// Decides where the data is.
pub fn parse(driver_opts: &BTreeMap<String, String>) -> Result<Backing, OptionsError> {
    for key in driver_opts.keys() {
        match key.as_str() {
            "type" | "o" | "device" | "size" => {}
            _ => return Err(OptionsError::Unknown(key.clone())),
        }
    }
    let value = |key: &str| driver_opts.get(key).map(|text| text.trim()).filter(|text| !text.is_empty());
    let (flags, data) = flags(value("o").unwrap_or(""));
    let bind = flags.contains(MsFlags::MS_BIND);
    let (kind, device) = match (value("type"), value("device")) {
        (None, None) if value("o").is_none() => return size(driver_opts).map(|_| Backing::Directory),
        _ if value("size").is_some() => return Err(OptionsError::SizeOfMount),
        (Some("tmpfs"), device) => ("tmpfs", device.unwrap_or("tmpfs")),
        (_, None) => return Err(OptionsError::Missing("device")),
        (_, Some(device)) if bind => ("none", device),
        (None | Some("none"), Some(_)) => return Err(OptionsError::Missing("type")),
        (Some(kind), Some(device)) => (kind, device),
    };
    if (bind || device.starts_with('.')) && !Path::new(device).is_absolute() {
        return Err(OptionsError::Relative(device.to_owned()));
    }
    let (device, data) = if is_nfs(kind) { server(device, &data)? } else { (device.to_owned(), data.join(",")) };
    Ok(Backing::Mount(MountOptions { kind: kind.to_owned(), device, flags, data }))
}

/// How many bytes the volume's directory may hold, where that is limited.
///
/// # Errors
/// [`OptionsError::Size`].
pub fn size(driver_opts: &BTreeMap<String, String>) -> Result<Option<u64>, OptionsError> {
    let Some(text) = driver_opts.get("size").map(|text| text.trim()).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    bytes(text).map(Some).ok_or_else(|| OptionsError::Size(text.to_owned()))
}

/// A whole number with a unit of docker's (`b k m g t p`, also `kb` and `KiB`), powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let letter = match unit.strip_suffix('b') {
        Some(rest) => rest.strip_suffix('i').filter(|letter| !letter.is_empty()).unwrap_or(rest),
        None => &unit,
    };
    let shift = 10 * ["", "k", "m", "g", "t", "p"].iter().position(|known| *known == letter)?;
    number.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}

fn is_nfs(kind: &str) -> bool {
    matches!(kind, "nfs" | "nfs4")
}

impl MountOptions {
    /// Of a server, whose name the kernel wants as an address.
    pub fn is_remote(&self) -> bool {
        is_nfs(&self.kind) || matches!(self.kind.as_str(), "cifs" | "smb3")
    }

    /// The server: what stands before `:/`, or after `//`.
    pub fn server(&self) -> &str {
        match self.device.strip_prefix("//") {
            Some(rest) => rest.split('/').next().unwrap_or(rest),
            None => self.device.split_once(":/").map_or(&self.device, |(server, _)| server),
        }
    }
}

/// `SERVER:/PATH`, with the server also as `addr=`.
fn server(device: &str, data: &[String]) -> Result<(String, String), OptionsError> {
    let error = || OptionsError::Server(device.to_owned());
    let (host, path) = device.split_once(":/").ok_or_else(error)?;
    let told = data.iter().find_map(|option| option.strip_prefix("addr="));
    let address = told.or_else(|| Some(host).filter(|host| !host.is_empty())).ok_or_else(error)?;
    let mut all = data.to_vec();
    if told.is_none() {
        all.push(format!("addr={}", address.trim_matches(['[', ']'])));
    }
    let host = if host.is_empty() { address } else { host };
    Ok((format!("{host}:/{path}"), all.join(",")))
}

/// Splits mount options as mount(8) does: flags of the mount, and the rest for the file system.
fn flags(text: &str) -> (MsFlags, Vec<String>) {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in text.split(',').map(str::trim).filter(|option| !option.is_empty()) {
        match flag(option) {
            Some((flag, true)) => flags |= flag,
            Some((flag, false)) => flags &= !flag,
            None => data.push(option.to_owned()),
        }
    }
    (flags, data)
}

fn flag(option: &str) -> Option<(MsFlags, bool)> {
    Some(match option {
        "defaults" => (MsFlags::empty(), true),
        "ro" => (MsFlags::MS_RDONLY, true),
        "rw" => (MsFlags::MS_RDONLY, false),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, true),
        "dev" => (MsFlags::MS_NODEV, false),
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "sync" => (MsFlags::MS_SYNCHRONOUS, true),
        "async" => (MsFlags::MS_SYNCHRONOUS, false),
        "dirsync" => (MsFlags::MS_DIRSYNC, true),
        "noatime" => (MsFlags::MS_NOATIME, true),
        "atime" => (MsFlags::MS_NOATIME, false),
        "nodiratime" => (MsFlags::MS_NODIRATIME, true),
        "relatime" => (MsFlags::MS_RELATIME, true),
        "strictatime" => (MsFlags::MS_STRICTATIME, true),
        "bind" => (MsFlags::MS_BIND, true),
        "rbind" => (MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_numbers_of_bytes() {
        let cases = [("1g", 1 << 30), ("64 MiB", 64 << 20), ("3kb", 3072), ("7b", 7), ("1", 1)];
        for (text, expected) in cases {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for text in ["", "0", "-1", "1.5g", "g", "1x", "99999999999p", "1ib"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    fn parsed(text: &[(&str, &str)]) -> Result<Backing, OptionsError> {
        parse(&text.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    fn mount(kind: &str, device: &str, flags: MsFlags, data: &str) -> Result<Backing, OptionsError> {
        let (kind, device, data) = (kind.to_owned(), device.to_owned(), data.to_owned());
        Ok(Backing::Mount(MountOptions { kind, device, flags, data }))
    }

    #[test]
    fn options_are_split_between_the_mount_and_the_file_system() {
        let ro = MsFlags::MS_RDONLY;
        let cases = [
            (vec![], Ok(Backing::Directory)),
            (vec![("type", ""), ("o", ""), ("device", "")], Ok(Backing::Directory)),
            (vec![("type", "none"), ("o", "bind"), ("device", "/srv")], mount("none", "/srv", MsFlags::MS_BIND, "")),
            (
                vec![("o", "rbind,ro"), ("device", "/srv")],
                mount("none", "/srv", MsFlags::MS_BIND | MsFlags::MS_REC | ro, ""),
            ),
            (
                vec![("type", "tmpfs"), ("o", "size=1m,uid=7,noexec")],
                mount("tmpfs", "tmpfs", MsFlags::MS_NOEXEC, "size=1m,uid=7"),
            ),
            (vec![("type", "tmpfs"), ("o", "ro,rw"), ("device", "t")], mount("tmpfs", "t", MsFlags::empty(), "")),
            (
                vec![("type", "nfs"), ("o", "addr=10.0.0.9,nolock,soft,rw"), ("device", ":/a")],
                mount("nfs", "10.0.0.9:/a", MsFlags::empty(), "addr=10.0.0.9,nolock,soft"),
            ),
            (
                vec![("type", "nfs4"), ("device", "files:/a/b")],
                mount("nfs4", "files:/a/b", MsFlags::empty(), "addr=files"),
            ),
            (vec![("type", "ext4"), ("o", "ro"), ("device", "/dev/x")], mount("ext4", "/dev/x", ro, "")),
            (vec![("type", "nfs"), ("device", ":/a")], Err(OptionsError::Server(":/a".into()))),
            (vec![("o", "bind"), ("device", "srv")], Err(OptionsError::Relative("srv".into()))),
            (vec![("type", "ext4"), ("device", "./x")], Err(OptionsError::Relative("./x".into()))),
            (vec![("o", "bind")], Err(OptionsError::Missing("device"))),
            (vec![("device", "/srv")], Err(OptionsError::Missing("type"))),
            (vec![("size", "1g")], Ok(Backing::Directory)),
            (vec![("size", "0")], Err(OptionsError::Size("0".into()))),
            (vec![("type", "tmpfs"), ("size", "1g")], Err(OptionsError::SizeOfMount)),
            (vec![("colour", "red")], Err(OptionsError::Unknown("colour".into()))),
        ];
        for (options, expected) in cases {
            assert_eq!(parsed(&options), expected, "{options:?}");
        }
    }
}
