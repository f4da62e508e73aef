//! A host where there are no control groups to be had: an ordinary user's, with none that is the user's to divide. What
//! they would do is refused by its name.

use std::io;
use std::path::PathBuf;

use oci_spec::runtime::LinuxResources;

use super::{Cgroup, DEFAULT_PROCESSES, Error};

const HELP: &str = "version 2 with a delegated group, as in `systemd-run --user --scope -p Delegate=yes stack …`; \
                    `stack doctor` says more";

/// `what` is the file that says it elsewhere.
pub fn refuse(what: &str, wish: &str) -> Error {
    let text = format!("an ordinary user has no control groups here, so nothing can be {wish}\n  help: {HELP}");
    Error { path: PathBuf::from(what), source: io::Error::new(io::ErrorKind::Unsupported, text) }
}

/// What was not asked for is left out.
pub fn limit(group: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    let unasked = |file: &str, value: &str| {
        ["-1", "max"].contains(&value) || (file == "pids.max" && value == DEFAULT_PROCESSES.to_string())
    };
    match group.limits(resources).into_iter().find(|(file, value)| !unasked(file, value)) {
        None => Ok(()),
        Some((file, _)) => Err(refuse(&file, "limited")),
    }
}
