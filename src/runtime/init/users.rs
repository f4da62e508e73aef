//! What a user namespace changes for those who start processes in it.

use std::io;
use std::os::fd::OwnedFd;

use nix::unistd::{Gid, Uid, fchown, setfsgid, setfsuid};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};

use super::{InitError, Stdio, credentials, has_namespace};
use crate::runtime::userns::{self, IdRange, Mapping};

/// The ids that the specification gives to its user namespace; `None` where it has none.
pub fn ids(spec: &Spec) -> Option<IdRange> {
    let first = |mappings: &Option<Vec<LinuxIdMapping>>| mappings.as_ref()?.first().copied();
    let mapping = first(spec.linux().as_ref()?.uid_mappings())?;
    let wanted = has_namespace(spec, LinuxNamespaceType::User);
    wanted.then(|| IdRange { first: mapping.host_id(), size: mapping.size() })
}

/// What the users and the groups of the specification's user namespace stand for.
pub fn mappings(spec: &Spec) -> [Vec<Mapping>; 2] {
    match spec.linux().as_ref().filter(|_| has_namespace(spec, LinuxNamespaceType::User)) {
        Some(linux) => [linux.uid_mappings(), linux.gid_mappings()].map(listed),
        None => [Vec::new(), Vec::new()],
    }
}

/// The lines of a specification.
pub fn listed(list: &Option<Vec<LinuxIdMapping>>) -> Vec<Mapping> {
    let of = |one: &LinuxIdMapping| Mapping { inside: one.container_id(), outside: one.host_id(), size: one.size() };
    list.iter().flatten().map(of).collect()
}

/// A copy of the namespace's descriptor, where the specification asks for one.
pub fn namespace(spec: &Spec, users: Option<&OwnedFd>) -> Result<Option<OwnedFd>, InitError> {
    if !has_namespace(spec, LinuxNamespaceType::User) {
        return Ok(None);
    }
    let missing = || InitError::Step { step: "user namespace".into(), reason: "there is none to start in".into() };
    let users = users.ok_or_else(missing)?;
    users.try_clone().map(Some).map_err(InitError::step("user namespace"))
}

/// Makes the ends of pipes the property of the namespace's root: to the container they would be nobody's, and
/// `/dev/stderr` could not be opened.
pub fn give(spec: &Spec, stdio: &Stdio) -> io::Result<()> {
    let Stdio::Pipes { stdin, stdout, stderr } = stdio else { return Ok(()) };
    let [users, groups] = mappings(spec);
    let (Some(user), Some(group)) = (userns::outside(&users, 0), userns::outside(&groups, 0)) else { return Ok(()) };
    for end in stdin.iter().chain([stdout, stderr]) {
        if nix::sys::stat::fstat(end)?.st_mode & libc::S_IFMT == libc::S_IFIFO {
            fchown(end, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
    }
    Ok(())
}

/// Makes files as the namespace's root, with all capabilities of the caller. What is remembered of who mounts an
/// overlay is this: it makes files for the container later, on layers that know only the namespace's ids.
pub fn with_files_of_root<T>(ids: IdRange, action: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let (uid, gid) = (Uid::from_raw(ids.first), Gid::from_raw(ids.first));
    let held = credentials::held_capabilities()?;
    let before = (setfsuid(uid), setfsgid(gid));
    // The change took those away that are about files.
    let result = credentials::set_capabilities(held).and_then(|()| action());
    setfsgid(before.1);
    setfsuid(before.0);
    // The calls say nothing but what was before.
    if (setfsuid(before.0), setfsgid(before.1)) == before {
        credentials::set_capabilities(held).and(result)
    } else {
        Err(io::Error::other("own ids of files could not be taken back"))
    }
}

/// Whether this process is where it was meant to be: a namespace with other ids, or the host's own, would make it
/// somebody else.
pub fn check(spec: &Spec) -> io::Result<()> {
    for (path, mut wanted) in ["/proc/self/uid_map", "/proc/self/gid_map"].into_iter().zip(mappings(spec)) {
        wanted.sort_unstable();
        if userns::read_mappings(path)? != wanted {
            return Err(io::Error::other(format!("{path} has other ids than were asked for")));
        }
    }
    Ok(())
}
