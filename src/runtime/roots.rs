//! Where an engine keeps what it holds. Two roots never touch each other's containers, bridges or rules.

use std::path::{Path, PathBuf};

use super::fnv;

/// The two directories of one engine. Everything that this engine makes on the host is named after [`Roots::key`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// Durable: images, containers, volumes. `/var/lib/stack` unless told otherwise.
    pub root: PathBuf,
    /// Gone at reboot: sockets, mounts, namespaces. `/run/stack` unless told otherwise.
    pub run: PathBuf,
    /// This very program, to be started again as a supervisor: `/proc/self/exe`, but for a test of the library.
    pub program: PathBuf,
    /// What the host's owner says: `/etc`, with `stack/`, and what of `docker/` and `containers/` is about registries.
    pub etc: PathBuf,
    /// Where programs of others are looked for by their names, in this order.
    pub programs: Vec<PathBuf>,
}

/// Where a system has its programs, whatever the PATH of who calls.
const PROGRAMS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

impl Roots {
    /// The roots at these two directories, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>, run: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            run: run.into(),
            program: PathBuf::from("/proc/self/exe"),
            etc: PathBuf::from("/etc"),
            programs: PROGRAMS.map(PathBuf::from).to_vec(),
        }
    }

    /// A folder below the durable root.
    pub fn durable(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// A folder below the volatile root.
    pub fn volatile(&self, name: impl AsRef<Path>) -> PathBuf {
        self.run.join(name)
    }

    /// Six hexadecimal characters that tell this engine's links, tables and cgroups from another engine's:
    /// a hash (FNV-1a) of both paths. Empty roots of two engines never share a key unless they share both paths.
    pub fn key(&self) -> String {
        let bytes =
            self.root.as_os_str().as_encoded_bytes().iter().chain([&0]).chain(self.run.as_os_str().as_encoded_bytes());
        let hash = fnv::hash(bytes.copied());
        format!("{:06x}", (hash ^ (hash >> 24)) & 0xff_ffff)
    }
}
