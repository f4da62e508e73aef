//! A container's control group as a unit of systemd.

use oci_spec::runtime::LinuxResources;

use super::{Error, io_at};
use crate::runtime::systemd::{self, Placeholder};

/// `slice:prefix:name` of `linux.cgroupsPath`, where systemd makes the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub slice: String,
    pub unit: String,
}

impl Scope {
    /// Starts it, with these limits and a process that holds its place until the container's own is there: a scope that
    /// nobody is in ends.
    pub(super) fn start(&self, id: &str, resources: &LinuxResources) -> Result<Placeholder, Error> {
        let holder = Placeholder::new().map_err(io_at("hold a place in the scope"))?;
        systemd::start(systemd::Scope {
            unit: &self.unit,
            slice: &self.slice,
            description: &format!("container {id}"),
            pid: holder.pid(),
            more: systemd::properties_of(resources, true),
        })?;
        Ok(holder)
    }
}
