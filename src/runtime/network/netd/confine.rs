//! What the server may do once it serves: containers and servers of names elsewhere send it what they like.
//!
//! It keeps the records of networks, opens what it serves in the namespaces of containers, and mends links, settings and
//! rules of the host's network. It starts nothing, mounts nothing, and has no other files.

use std::io;
use std::path::{Path, PathBuf};

use super::server::RESOLV_CONF;
use crate::runtime::confine::{self, Access};
use crate::runtime::init;
use crate::runtime::network::{records, sandbox};
use crate::runtime::roots::Roots;
use crate::runtime::state;

/// Over links and rules; packets that are sent in again; ports below 1024; namespaces of containers (setns(2)).
const CAPABILITIES: [&str; 4] = ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE", "CAP_SYS_ADMIN"];

/// For this process, which has one thread, and for good.
pub fn confine(roots: &Roots) -> io::Result<()> {
    let own = records::directories(roots).into_iter().chain(["links", "locks"].map(|name| roots.volatile(name)));
    let (own, namespaces) = (own.collect::<Vec<PathBuf>>(), sandbox::directory(roots));
    for path in own.iter().chain([&namespaces]) {
        // What is made later would be another directory than the one that is allowed.
        state::make_directory(path).map_err(io::Error::other)?;
    }
    let resolv_conf = Path::new(RESOLV_CONF).canonicalize().unwrap_or_else(|_| RESOLV_CONF.into());
    let mut places: Vec<(&Path, Access)> = own.iter().map(|path| (path.as_path(), Access::Change)).collect();
    places.extend([
        (namespaces.as_path(), Access::ReadFiles),
        (Path::new("/proc"), Access::Read),
        (Path::new("/proc/sys/net"), Access::Write),
        // Replaced where it is, by whoever configures the host.
        (Path::new("/etc"), Access::ReadFiles),
    ]);
    places.extend(resolv_conf.parent().map(|place| (place, Access::ReadFiles)));
    init::keep_capabilities(&CAPABILITIES)?;
    confine::to_serving(&places)
}
