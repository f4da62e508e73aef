//! What the kernel of this host has of what containers need, asked of the kernel itself.

use std::fs;
use std::path::Path;

use super::network::netlink::Socket;

/// One thing that is there or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub what: &'static str,
    pub ok: bool,
    /// Containers can't run without it.
    pub needed: bool,
    /// What was found, or what to do.
    pub detail: String,
}

fn fact(what: &'static str, needed: bool, ok: bool, found: impl Into<String>, mend: &str) -> Fact {
    Fact { what, ok, needed, detail: if ok { found.into() } else { mend.to_owned() } }
}

/// All facts; changes nothing.
pub fn probe() -> Vec<Fact> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim().to_owned();
    let root = nix::unistd::geteuid().is_root();
    let systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let has = |name: &str| systems.lines().any(|line| line.split_whitespace().last() == Some(name));
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let v1 = Path::new("/sys/fs/cgroup/memory").is_dir();
    let groups = if unified { "version 2" } else { "version 1" };
    let seccomp = Path::new("/proc/sys/kernel/seccomp/actions_avail").exists();
    let namespace = |name: &str| Path::new("/proc/self/ns").join(name).exists();
    let spaces = ["mnt", "pid", "net", "ipc", "uts", "cgroup"].into_iter().all(namespace);
    vec![
        fact(
            "root",
            true,
            root,
            "uid 0",
            "this program is not run as root: use `sudo stack …` (without root is not there yet)",
        ),
        fact(
            "kernel",
            true,
            newer(&release, (5, 12)),
            &release,
            "needs Linux 5.12 or later (mount_setattr): upgrade the kernel",
        ),
        fact(
            "overlayfs",
            true,
            has("overlay"),
            "",
            "`modprobe overlay`; in the kernel's configuration: CONFIG_OVERLAY_FS",
        ),
        fact(
            "control groups",
            true,
            unified || v1,
            groups,
            "nothing is mounted at /sys/fs/cgroup: `mount -t cgroup2 none /sys/fs/cgroup`",
        ),
        fact("namespaces", true, spaces, "", "the kernel was built without one of mnt, pid, net, ipc, uts, cgroup"),
        fact("seccomp", true, seccomp, "", "in the kernel's configuration: CONFIG_SECCOMP_FILTER"),
        fact(
            "nftables",
            true,
            nftables(),
            "",
            "`modprobe nf_tables`; in the kernel's configuration: CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT",
        ),
        fact("user namespaces", false, namespace("user"), "", "in the kernel's configuration: CONFIG_USER_NS"),
        fact("landlock", false, landlock(), "", "boot with `lsm=landlock,…`"),
    ]
}

/// Whether `6.1.0-18-amd64` is at least this.
fn newer(release: &str, least: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= least
}

fn nftables() -> bool {
    Socket::netfilter().is_ok()
}

fn landlock() -> bool {
    fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|list| list.contains("landlock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_by_number() {
        for (release, expected) in [("6.1.0-18-amd64", true), ("5.12.0", true), ("5.4.0", false), ("", false)] {
            assert_eq!(newer(release, (5, 12)), expected, "{release}");
        }
    }
}
