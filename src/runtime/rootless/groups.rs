//! Control groups of an ordinary user: those below a group of version 2 that is the user's to divide, as systemd
//! delegates them (Documentation/admin-guide/cgroup-v2.rst, "Delegation"). What the engine finds at `/sys/fs/cgroup` is
//! that group, and nothing where there is none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{AccessFlags, access};

const MOUNT: &str = "/sys/fs/cgroup";
/// Where those go that are in the group that is divided: one with groups below it has no processes of its own.
const LEAF: &str = "stack-others";

/// The topmost group above this process that its user may divide, on a host with version 2 alone.
pub fn delegated() -> Option<PathBuf> {
    let mount = Path::new(MOUNT);
    mount.join("cgroup.controllers").exists().then_some(())?;
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = mount.join(own);
    let above: Vec<&Path> = own.ancestors().take_while(|one| one.starts_with(mount)).collect();
    above.into_iter().rev().find(|one| may_divide(one)).map(Path::to_owned)
}

fn may_divide(group: &Path) -> bool {
    let may_write = |path: &Path| access(path, AccessFlags::W_OK).is_ok();
    may_write(group) && may_write(&group.join("cgroup.procs")) && may_write(&group.join("cgroup.subtree_control"))
}

/// Shows the user's group, or none, where the engine looks; for the mount namespace that this process is in. `key` tells
/// one engine's group from another's.
///
/// # Errors
/// What the kernel says.
pub fn show(key: &str) -> io::Result<()> {
    if !Path::new(MOUNT).is_dir() {
        return Ok(());
    }
    let none = None::<&str>;
    if let Some(above) = delegated() {
        let group = above.join(format!("stack-{key}"));
        fs::create_dir_all(&group)?;
        divide(&above)?;
        return Ok(mount(Some(&group), MOUNT, none, MsFlags::MS_BIND, none)?);
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("none"), MOUNT, Some("tmpfs"), flags, Some("size=4k,nr_inodes=2"))?)
}

/// Takes away the user's group of [`show`], where nothing needs it any more: from this mount namespace and for good.
pub fn remove(key: &str) {
    // What holds others, or was never made, stays as it is.
    if umount2(MOUNT, MntFlags::MNT_DETACH).is_ok()
        && let Some(above) = delegated()
    {
        fs::remove_dir(above.join(format!("stack-{key}"))).ok();
        unite(&above).ok();
    }
}

/// Undoes [`divide`], where no other group was made since: those who had to go come back.
fn unite(group: &Path) -> io::Result<()> {
    let leaf = group.join(LEAF);
    let entries = fs::read_dir(group)?.flatten();
    let others = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != LEAF);
    if !leaf.is_dir() || others.count() > 0 {
        return Ok(());
    }
    let control = group.join("cgroup.subtree_control");
    let present = fs::read_to_string(&control)?;
    let off: Vec<String> = present.split_whitespace().map(|name| format!("-{name}")).collect();
    fs::write(&control, off.join(" "))?;
    move_all(&leaf, group)?;
    fs::remove_dir(leaf)
}

fn move_all(from: &Path, to: &Path) -> io::Result<()> {
    for pid in fs::read_to_string(from.join("cgroup.procs"))?.lines() {
        match fs::write(to.join("cgroup.procs"), pid) {
            // It has ended.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Switches on for the groups below what this one has. Processes that are in it go to a group of their own first.
fn divide(group: &Path) -> io::Result<()> {
    let control = group.join("cgroup.subtree_control");
    let wanted = fs::read_to_string(group.join("cgroup.controllers"))?;
    let present = fs::read_to_string(&control)?;
    let has = |name: &&str| !present.split_whitespace().any(|one| one == *name);
    let missing: Vec<String> = wanted.split_whitespace().filter(has).map(|name| format!("+{name}")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    match fs::write(&control, missing.join(" ")) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let leaf = group.join(LEAF);
            fs::create_dir_all(&leaf)?;
            move_all(group, &leaf)?;
            fs::write(&control, missing.join(" "))
        }
        other => other,
    }
}
