//! The user namespace of a container: one that is made with the ids of its specification, or another's.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceType, Spec};

use super::{Error, io_at};
use crate::runtime::init;
use crate::runtime::userns::{self, Mapping};

/// Where the specification asks for one. It says afterwards what the ids of a namespace that it names stand for.
///
/// # Errors
/// Where there is none at the path, or the kernel makes none.
pub fn namespace(spec: &mut Spec) -> Result<Option<OwnedFd>, Error> {
    let about = || io_at("linux.namespaces: user");
    let Some(linux) = spec.linux_mut() else { return Ok(None) };
    let mut all = linux.namespaces().iter().flatten();
    let Some(wanted) = all.find(|one| one.typ() == LinuxNamespaceType::User) else { return Ok(None) };
    let Some(path) = wanted.path() else {
        let [users, groups] = [linux.uid_mappings(), linux.gid_mappings()].map(init::mappings);
        return userns::with_mappings(&users, &groups).map(Some).map_err(about());
    };
    let namespace: OwnedFd = File::open(path).map_err(io_at(path.display().to_string()))?.into();
    let says = |list: &Option<Vec<LinuxIdMapping>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if !says(linux.uid_mappings()) && !says(linux.gid_mappings()) {
        let [users, groups] = userns::mappings_of(namespace.as_fd()).map_err(about())?;
        linux.set_uid_mappings(Some(users.iter().filter_map(written).collect()));
        linux.set_gid_mappings(Some(groups.iter().filter_map(written).collect()));
    }
    Ok(Some(namespace))
}

fn written(one: &Mapping) -> Option<LinuxIdMapping> {
    let mapping = LinuxIdMappingBuilder::default().container_id(one.inside).host_id(one.outside).size(one.size);
    mapping.build().ok()
}
