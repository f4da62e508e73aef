//! What a container lost of the host's network while it is supervised: the file that holds its namespace.

use std::fs::File;
use std::os::fd::AsFd;

use super::containers::{self, Error, prepare};
use crate::reconcile::resource::ContainerConfig;
use crate::runtime::container;
use crate::runtime::network::{self, sandbox};
use crate::runtime::roots::Roots;

/// Holds the namespace of a container that runs again; one that is to be started again gets another in its place, with
/// the addresses that it had. Cables are put back by [`super::networks::repair`].
pub fn hold_network(roots: &Roots, wanted: &ContainerConfig) -> Result<(), Error> {
    let name = wanted.name.as_str();
    let found = match container::get(roots, name) {
        Err(container::Error::NotFound(_)) => return Ok(()),
        found => found?,
    };
    let own = containers::start_of(roots, &found.config)?.netns.is_some_and(|path| path == sandbox::path(roots, name));
    if !found.is_running() || !own || sandbox::exists(roots, name) {
        return Ok(());
    }
    let process = found.status.process;
    match File::open(format!("/proc/{}/ns/net", process.pid)) {
        // Its number may have become another process's before the namespace was open.
        Ok(namespace) if process.is_alive() => Ok(network::hold(roots, name, namespace.as_fd()).map(drop)?),
        _ => prepare(roots, wanted, &found.config).map(drop),
    }
}
