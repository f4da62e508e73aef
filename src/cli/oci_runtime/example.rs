//! `spec`: a configuration to begin with, as engines and scripts know it from runc.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use nix::unistd::{getegid, geteuid};
use oci_spec::runtime::{LinuxDeviceCgroupBuilder, LinuxNamespaceType, Spec};

use super::{Done, Failure};
use crate::runtime::bundle;

/// A shell, alone in a root file system that it can't write to; `rootless`: for an ordinary user, who is root of it.
pub fn write(bundle: &Path, rootless: bool) -> Done {
    let path = bundle.join("config.json");
    let mut text = serde_json::to_vec_pretty(&example(rootless)?)?;
    text.push(b'\n');
    let file = fs::File::options().write(true).create_new(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(&text));
    written.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn example(rootless: bool) -> Result<Spec, Failure> {
    let mut spec = match rootless {
        true => Spec::rootless(geteuid().as_raw(), getegid().as_raw()),
        false => Spec::default(),
    };
    spec.set_version(bundle::VERSION.to_owned());
    spec.set_hostname(Some("stack".to_owned()));
    if let Some(process) = spec.process_mut() {
        process.set_terminal(Some(true));
        process.set_no_new_privileges(Some(true));
        let mut sets = process.capabilities().clone().unwrap_or_default();
        // A file's capabilities are its own.
        sets.set_inheritable(None).set_ambient(None);
        process.set_capabilities(Some(sets));
    }
    if let Some(linux) = spec.linux_mut() {
        if let Some(resources) = linux.resources_mut().as_mut().filter(|_| !rootless) {
            let none = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build()?;
            resources.set_devices(Some(vec![none]));
        }
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        if rootless {
            // An ordinary user has no control groups, and the network of whoever starts it.
            linux.set_resources(None);
            namespaces.retain(|one| one.typ() != LinuxNamespaceType::Network);
        }
        if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            // Of version 1 there are programs that look for their own group by its name on the host.
            namespaces.retain(|one| one.typ() != LinuxNamespaceType::Cgroup);
        }
        linux.set_namespaces(Some(namespaces));
    }
    Ok(spec)
}
