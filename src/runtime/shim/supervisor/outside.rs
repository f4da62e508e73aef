//! A container whose processes a runtime of others makes: what the engine does for it before, and how the two of them
//! share the rest.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use oci_spec::runtime::Spec;

use super::{Joined, Supervisor};
use crate::runtime::container;
use crate::runtime::init::spec::Namespace;
use crate::runtime::init::{self, InitError, Launched, Stdio};
use crate::runtime::network::sandbox;
use crate::runtime::outside::{Attached, Outside, bundle};
use crate::runtime::shim::step;

impl Supervisor {
    pub(super) fn outside(&self) -> Option<Outside> {
        Outside::of(&self.roots, &self.config)
    }

    /// The engine's own network namespaces are born with their programs; one that a runtime is to use must be there
    /// before.
    pub(super) fn make_network(&mut self) -> Result<(), InitError> {
        let is_new = self.config.request.network == Namespace::New && self.start.netns.is_none();
        if is_new && self.network.is_none() {
            self.network = Some(sandbox::unnamed().map_err(|error| step("network namespace", error))?);
        }
        Ok(())
    }

    /// Has the runtime make the first process, and start it. What it is to bind is attached in this process's mount
    /// namespace meanwhile.
    pub(super) fn launch_by(
        &self,
        outside: &Outside,
        spec: &Spec,
        joined: Joined,
        stdio: Stdio,
    ) -> Result<Launched, InitError> {
        // What a supervisor that was killed has left.
        outside.delete().map_err(|error| step("remove what is left", error))?;
        let mut mounts = init::bound(spec, self.users.as_ref(), joined.mounts)?;
        if self.config.init {
            mounts.push((PathBuf::from(bundle::REAPER), self.reaper().map_err(|error| step("launcher", error))?));
        }
        let mut attached = Attached::at(&outside.mounts(), &mounts).map_err(|error| step("mounts", error))?;
        let added = attached.add_groups(spec, &self.cgroup);
        let written = added.and_then(|()| self.bundle(spec, &attached));
        let made = written.and_then(|bundle| outside.create(&bundle, stdio));
        attached.detach().map_err(|error| step("mounts", error))?;
        let process = made?;
        match outside.start() {
            Ok(()) => Ok(process),
            Err(error) => {
                outside.delete().map_err(|error| step("remove what was made", error))?;
                Err(error)
            }
        }
    }

    fn reaper(&self) -> io::Result<OwnedFd> {
        init::launcher::open(&init::launcher::ensure(&self.roots)?)
    }

    fn bundle(&self, spec: &Spec, attached: &Attached) -> Result<Spec, InitError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(&self.paths.rootfs, flags, Mode::empty());
        let root: OwnedFd = root.map_err(|error| step("root file system", error.into()))?;
        let identity = init::identity(root.as_fd(), &self.config.user, &self.config.groups, spec)?;
        let process = spec.process().clone().unwrap_or_default();
        let person = bundle::Person::new(identity, &process).map_err(|error| step("resource limits", error))?;
        let host = bundle::Host {
            rootfs: &self.paths.rootfs,
            cgroup: &container::cgroup_name(&self.roots, &self.config),
            own: std::process::id(),
            mounts: &attached.places,
        };
        let mut written = bundle::write(spec, &person, &host);
        if let Some((_, source)) = attached.places.iter().find(|(target, _)| target == Path::new(bundle::REAPER)) {
            bundle::add_reaper(&mut written, source);
        }
        Ok(written)
    }
}
