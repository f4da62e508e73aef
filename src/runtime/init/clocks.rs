//! Time namespaces: clocks of the container's own that began earlier or later than the host's (time_namespaces(7)).

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::{InitError, has_namespace, namespace_path};

/// linux/sched.h; not among nix's.
pub const CLONE_NEWTIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// A new time namespace with the offsets of the specification, where that asks for one.
pub fn namespace(spec: &Spec) -> Result<Option<OwnedFd>, InitError> {
    let kind = LinuxNamespaceType::Time;
    if !has_namespace(spec, kind) || namespace_path(spec, kind).is_some() {
        return Ok(None);
    }
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let line = |(clock, offset): (&String, &oci_spec::runtime::LinuxTimeOffset)| {
        format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0))
    };
    let lines: String = offsets.into_iter().flatten().map(line).collect();
    make(&lines).map(Some).map_err(InitError::step("time namespace"))
}

/// Only children are born in a new one, and none is until this process is back in its own.
fn make(offsets: &str) -> io::Result<OwnedFd> {
    let own = File::open("/proc/self/ns/time")?;
    unshare(CLONE_NEWTIME)?;
    let written = if offsets.is_empty() { Ok(()) } else { fs::write("/proc/self/timens_offsets", offsets) };
    let made = written.and_then(|()| File::open("/proc/self/ns/time_for_children"));
    setns(own, CLONE_NEWTIME)?;
    Ok(made?.into())
}
