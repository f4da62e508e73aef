//! Whose ids the program of a `RUN` has: those of a user namespace for builds, wherever that takes nothing away from it. What
//! it makes belongs, on the disk and in the layer, to the ids that it sees.
//!
//! All steps have the same ids of the host, which nobody else has, and so many that an archive may name any: programs of
//! steps are strangers to each other by their other namespaces, and none lives long.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::run::{Network, Program};
use crate::runtime::image::Contents;
use crate::runtime::init::spec::{Mount, MountSource};
use crate::runtime::roots::Roots;
use crate::runtime::userns::{self, IdRange, trial};

/// 2147483648 to 4294967293: no system gives them to users, and containers have others.
const IDS: IdRange = IdRange { first: 1 << 31, size: (1 << 31) - 2 };

/// Those of this program on layers with these contents; `None` where it needs what is the host's.
pub fn of(roots: &Roots, program: &Program, contents: Contents) -> Option<IdRange> {
    let given = userns::given_to_users();
    let has_none = program.network == Network::Host
        || contents.largest_id >= IDS.size
        || numbers(&program.user).any(|id| id >= IDS.size)
        || given.iter().any(|other| IDS.overlaps(*other))
        || trial::obstacle(roots).is_some();
    if has_none {
        return None;
    }
    let mut sources = program.mounts.iter().filter_map(source).peekable();
    if sources.peek().is_none() {
        return Some(IDS);
    }
    let namespace = userns::create(IDS).ok()?;
    sources.all(|source| maps(source, &namespace)).then_some(IDS)
}

fn numbers(user: &str) -> impl Iterator<Item = u32> {
    user.split(':').filter_map(|part| part.parse().ok())
}

fn source(mount: &Mount) -> Option<&Path> {
    match &mount.source {
        MountSource::Bind { source, .. } => Some(source),
        // Steps of builds mount no images in this way.
        MountSource::Tmpfs { .. } | MountSource::Image { .. } => None,
    }
}

fn maps(source: &Path, namespace: &OwnedFd) -> bool {
    let has_ids = fs::metadata(source).is_ok_and(|data| data.uid().max(data.gid()) < IDS.size);
    has_ids && trial::maps(source, namespace).unwrap_or(false)
}
