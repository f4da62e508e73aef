//! Leaving networks.

use std::collections::BTreeSet;

use super::records::{self, Attachment};
use super::{Error, apply_rules, lock, unplug_changed};
use crate::runtime::roots::Roots;
use crate::runtime::state;

/// Takes a container out of all networks but these, also where it does not run: its addresses there are free. Says
/// whether it was in others.
pub(super) fn leave_all_but_there(roots: &Roots, container: &str, networks: &BTreeSet<&str>) -> Result<bool, Error> {
    let file = records::attachment_file(roots, container, false);
    let _lock = lock(roots)?;
    let Some(before) = state::read_json::<Attachment>(&file)? else { return Ok(false) };
    let mut after = before.clone();
    after.endpoints.retain(|name, _| networks.contains(name.as_str()));
    if after == before {
        return Ok(false);
    }
    // The record goes last: while it is there, the next call knows that something may be left.
    unplug_changed(roots, &before, &after)?;
    if file.starts_with(&roots.run) {
        state::write_json_volatile(&file, &after)?;
    } else {
        state::write_json(&file, &after)?;
    }
    apply_rules(roots)?;
    Ok(true)
}
