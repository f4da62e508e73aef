//! A container's place in networks outlives the container: it is kept while there is none, and taken over by the next one
//! of the name, with the namespace and all that lives in it, the cables, the addresses and the names.

use super::records::{self, Attachment, Port};
use super::{Connect, Error, apply_rules, kernel, lock, ports, sandbox, unplug_all};
use crate::runtime::roots::Roots;
use crate::runtime::state;

pub(super) fn vacate_there(roots: &Roots, container: &str, wanted: &[Port]) -> Result<bool, Error> {
    let file = records::attachment_file(roots, container, false);
    let _lock = lock(roots)?;
    let before = match state::read_json::<Attachment>(&file)? {
        Some(before) => before,
        // Without networks, but others live there.
        None if sandbox::exists(roots, container) => {
            Attachment { version: records::VERSION, container: container.to_owned(), ..Attachment::default() }
        }
        None => return Ok(false),
    };
    let kept = before.ports.iter().filter(|port| wanted.iter().any(|one| ports::answers(port, one)));
    let after = Attachment { vacant: true, ports: kept.cloned().collect(), ..before.clone() };
    if after != before {
        state::make_directory(file.parent().unwrap_or(&roots.root))?;
        state::write_json(&file, &after)?;
        apply_rules(roots)?;
    }
    Ok(true)
}

/// Where the namespace belongs to another user namespace than the successor is to be in, it gets another one, with the same
/// addresses. The lock is held.
pub(super) fn take_over(roots: &Roots, connect: &Connect) -> Result<(), Error> {
    let container = &connect.container;
    let failed = |what: &str| kernel(format!("network of container {container}: {what}"));
    if sandbox::is_of(roots, container, &connect.owner).map_err(failed("find whose its namespace is"))? {
        return Ok(());
    }
    unplug_all(roots, container)?;
    sandbox::remove(roots, container).map_err(failed("remove its namespace"))
}

/// From now on the container's network is its programs' to change: one of them, or one that lives with them, may.
pub(super) fn leave_alone_there(roots: &Roots, container: &str) -> Result<(), Error> {
    let file = records::attachment_file(roots, container, false);
    let _lock = lock(roots)?;
    match state::read_json::<Attachment>(&file)? {
        Some(before) if !before.self_governed => {
            Ok(state::write_json(&file, &Attachment { self_governed: true, ..before })?)
        }
        _ => Ok(()),
    }
}

/// What the cables of the container are named after.
pub(super) fn line(connect: &Connect, before: &Attachment) -> String {
    let line = if before.vacant { before.line() } else { &before.line };
    if line == connect.id { String::new() } else { line.to_owned() }
}
