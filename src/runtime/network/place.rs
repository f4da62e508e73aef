//! Where links and rules are made: in the network of the host, or, for an ordinary user, in a network namespace of the
//! user's own ([`rootless`]).

use std::collections::BTreeSet;

use super::records::NetworkConfig;
use super::{Error, Network, Port, kernel};
use crate::runtime::rootless;
use crate::runtime::roots::Roots;

/// Does this there.
pub fn there<T: Send>(roots: &Roots, action: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    rootless::in_network(roots, kernel("enter the network namespace of your networks"), action)
}

/// Makes the network, or what is missing of it. Labels and declaration of one that is there are taken over.
///
/// # Errors
/// [`Error::Exists`] where another one has the name, [`Error::Overlap`] where the subnet is in use on the host.
pub fn create(roots: &Roots, config: &NetworkConfig) -> Result<Network, Error> {
    there(roots, || super::create_there(roots, config))
}

/// Removes the network. One that is not there is fine.
///
/// # Errors
/// [`Error::InUse`] names the containers that are in it.
pub fn remove(roots: &Roots, name: &str) -> Result<(), Error> {
    there(roots, || super::remove_there(roots, name))
}

/// Takes everything of the network from a container. Says whether there was anything.
pub fn disconnect(roots: &Roots, container: &str) -> Result<bool, Error> {
    there(roots, || super::disconnect_there(roots, container))
}

/// Takes a container out of all networks but these, also where it does not run. Says whether it was in others.
pub fn leave_all_but(roots: &Roots, container: &str, networks: &BTreeSet<&str>) -> Result<bool, Error> {
    there(roots, || super::leaving::leave_all_but_there(roots, container, networks))
}

/// Keeps what a container that goes has of the network for its successor of the same name, of its ports those that are
/// among these. Says whether there is anything.
pub fn vacate(roots: &Roots, container: &str, ports: &[Port]) -> Result<bool, Error> {
    there(roots, || super::succession::vacate_there(roots, container, ports))
}

/// From now on a container's network is its programs' to change.
pub fn leave_alone(roots: &Roots, container: &str) -> Result<(), Error> {
    there(roots, || super::succession::leave_alone_there(roots, container))
}

/// What a container has of the network is another name's from now on; nothing of it changes for the container. One that
/// has nothing is fine.
pub fn rename(roots: &Roots, container: &str, new: &str) -> Result<(), Error> {
    there(roots, || super::rename_there(roots, container, new))
}

/// Puts back what the kernel lost of all networks and of the containers that have a namespace.
pub fn reassert(roots: &Roots) -> Result<(), Error> {
    there(roots, || super::reassert_there(roots))
}

/// As [`reassert`], but only where something is lost, of these containers also inside their namespaces. Says whether
/// there was anything.
pub fn mend(roots: &Roots, inside: &BTreeSet<String>) -> Result<bool, Error> {
    there(roots, || super::mend_there(roots, inside))
}
