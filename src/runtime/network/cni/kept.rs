//! What was asked of plugins for one container in one network, and what they answered: `cni/OWNER/NETWORK.json`, format 1.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::list::List;
use super::{Cni, Error, Outcome, Place, Wish};
use crate::runtime::network::records::Endpoint;
use crate::runtime::roots::Roots;
use crate::runtime::state;

const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    pub version: u32,
    pub cni: Cni,
    /// As it was when the container joined.
    pub list: List,
    pub interface: String,
    /// `CNI_ARGS`.
    pub arguments: String,
    /// What plugins are told that have the capability of that name.
    pub runtime: Map<String, Value>,
    /// The last plugin's answer, once there is one.
    pub result: Option<Value>,
    /// Whether plugins found all in order right after they had made it. Where they did not, they never will: what they
    /// say later tells nothing.
    pub is_checkable: bool,
}

impl Kept {
    /// Nothing is done yet.
    pub fn new(cni: &Cni, list: List, wish: &Wish<'_>) -> Self {
        let (interface, arguments, runtime) =
            (wish.interface.to_owned(), arguments(wish.addresses, wish.hardware_address), runtime(wish));
        Self {
            version: VERSION,
            cni: cni.clone(),
            list,
            interface,
            arguments,
            runtime,
            result: None,
            is_checkable: false,
        }
    }

    /// Whether the same would be asked now, but for what the configuration says by now: that is for containers to come.
    pub fn is_for(&self, cni: &Cni, wish: &Wish<'_>) -> bool {
        let same = (&self.interface, &self.arguments, &self.runtime);
        self.cni == *cni
            && same == (&wish.interface.to_owned(), &arguments(wish.addresses, wish.hardware_address), &runtime(wish))
    }

    /// To ask the same once more, and for what the container `had`, of what the configuration is by now.
    pub fn anew(&self, list: List, had: &Endpoint) -> Self {
        let arguments = arguments(&had.addresses, Some(had.hardware_address));
        Self { list, arguments, result: None, ..self.clone() }
    }

    pub fn outcome(&self) -> Option<Outcome> {
        Outcome::of(self.result.as_ref()?, &self.interface).ok()
    }

    pub fn place<'a>(&'a self, owner: &'a str, namespace: &'a Path) -> Place<'a> {
        Place {
            container: owner,
            namespace,
            interface: &self.interface,
            arguments: &self.arguments,
            plugins: &self.cni.plugins,
            patience: Duration::from_secs(self.cni.patience_s),
        }
    }

    pub fn read(roots: &Roots, owner: &str, network: &str) -> Result<Option<Self>, Error> {
        Ok(state::read_json(&file(roots, owner, network))?)
    }

    pub fn write(&self, roots: &Roots, owner: &str, network: &str) -> Result<(), Error> {
        let file = file(roots, owner, network);
        state::make_directory(file.parent().unwrap_or(Path::new("/")))?;
        Ok(state::write_json(&file, self)?)
    }
}

/// Plugins that do not know one of them pass over it. `IP` and `MAC` are what those that give addresses take (their
/// convention).
fn arguments(addresses: &[IpAddr], hardware_address: Option<[u8; 6]>) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let ip = if addresses.is_empty() { String::new() } else { format!(";IP={}", addresses.join(",")) };
    let mac = hardware_address.map(|bytes| format!(";MAC={}", colons(bytes))).unwrap_or_default();
    format!("IgnoreUnknown=1{ip}{mac}")
}

fn colons(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// By the names that CNI's conventions have for them.
fn runtime(wish: &Wish<'_>) -> Map<String, Value> {
    let mut told = Map::new();
    let ports = wish.ports.iter().map(|port| {
        let address = port.host_ip.map(|address| address.to_string()).unwrap_or_default();
        json!({"hostPort": port.host_port, "containerPort": port.container_port, "protocol": port.protocol,
               "hostIP": address})
    });
    if !wish.ports.is_empty() {
        told.insert("portMappings".to_owned(), ports.collect());
    }
    if let Some(bytes) = wish.hardware_address {
        told.insert("mac".to_owned(), json!(colons(bytes)));
    }
    told.insert("aliases".to_owned(), json!({wish.network: wish.names}));
    told
}

fn directory(roots: &Roots) -> PathBuf {
    roots.durable("cni")
}

pub fn file(roots: &Roots, owner: &str, network: &str) -> PathBuf {
    directory(roots).join(owner).join(format!("{network}.json"))
}

/// Containers for which something was asked.
pub fn owners(roots: &Roots) -> Result<Vec<String>, Error> {
    names(&directory(roots))
}

fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| state::Error::Io { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    Ok(names)
}

/// All of it is undone.
pub fn forget(roots: &Roots, owner: &str, network: &str) -> Result<(), Error> {
    let file = file(roots, owner, network);
    state::remove(&file)?;
    for directory in [directory(roots).join(owner), directory(roots)] {
        match fs::remove_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(state::Error::Io { path: directory, source }.into()),
            Ok(()) => {}
        }
    }
    Ok(())
}
