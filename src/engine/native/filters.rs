//! `security_opt: [seccomp=FILE]`: a container's own filter of system calls, from a profile as docker reads it.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxSeccomp;

use crate::reconcile::desired::Desired;
use crate::reconcile::resource::ContainerConfig;
use crate::runtime::init::spec::{self, Request};
use crate::runtime::seccomp::{Kernel, Written};
use crate::spec::Fault;

/// Why a file gives no filter.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("seccomp profile {path}: {reason}", path = .0.display(), reason = .1)]
    File(PathBuf, String),
    #[error("seccomp profile {path}:{line}: {reason}", path = .0.display(), line = .1, reason = .2)]
    Line(PathBuf, usize, String),
    #[error(transparent)]
    Capabilities(#[from] spec::BuildError),
}

/// The filter that the container asks for; `None` where it takes the engine's own, or none.
pub fn of(wanted: &ContainerConfig, request: &Request) -> Result<Option<LinuxSeccomp>, Error> {
    let Some(path) = wanted.seccomp_profile() else { return Ok(None) };
    let failed = |reason: String| Error::File(path.clone(), reason);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").map_err(|error| failed(error.to_string()))?;
    let kernel = Kernel::parse(&release).ok_or_else(|| failed(format!("the kernel is called {release:?}")))?;
    let capabilities = spec::capabilities(request)?;
    written(&path)?.resolve(&capabilities, kernel).map(Some).map_err(failed)
}

fn written(path: &Path) -> Result<Written, Error> {
    let text = fs::read_to_string(path).map_err(|error| Error::File(path.to_owned(), error.to_string()))?;
    Written::parse(&text).map_err(|(line, reason)| Error::Line(path.to_owned(), line, reason))
}

/// The containers whose profile can't be read or understood.
pub fn faults(desired: &Desired) -> Vec<Fault> {
    let containers = desired.containers().filter_map(|(container, place)| Some((container.seccomp_profile()?, place)));
    let wrong = |path: &Path| written(path).err().map(|error| error.to_string());
    containers.filter_map(|(path, place)| Some(Fault::new(format!("{place}.security_opt"), &wrong(&path)?))).collect()
}
