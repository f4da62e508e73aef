//! The ids of the host that the user namespaces of containers have: a range of its own for each.

use super::containers::Error;
use super::translate::private_users;
use crate::reconcile::resource::ContainerConfig;
use crate::runtime::container;
use crate::runtime::roots::Roots;
use crate::runtime::state::{Contention, Lock};
use crate::runtime::userns::{self, IdRange};

/// The range for this container, if it asks for a user namespace: the one that it has already, or a free one. Nobody
/// else is given one until the lock is dropped; by then the container must be written down.
pub fn allocate(roots: &Roots, wanted: &ContainerConfig) -> Result<(Option<IdRange>, Option<Lock>), Error> {
    if !private_users(wanted)? {
        return Ok((None, None));
    }
    let lock = Lock::take(&roots.volatile("locks").join("ids"), Contention::Wait)?;
    let mut taken = userns::given_to_users();
    for found in container::list(roots)? {
        match found.config.request.users {
            Some(ids) if found.config.name == wanted.name => return Ok((Some(ids), Some(lock))),
            other => taken.extend(other),
        }
    }
    let seed = format!("{}/{}", roots.key(), wanted.name);
    let ids = userns::choose(&seed, &taken).ok_or(Error::NoIds)?;
    Ok((Some(ids), Some(lock)))
}
