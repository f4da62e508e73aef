//! Networks that plugins make (CNI, <https://www.cni.dev/docs/spec/>, 0.3.0 to 1.1.0): a configuration of the host, found
//! by its name, says which programs are run for each container that joins and leaves. They give it its link, its addresses
//! and its routes; this engine has the container's namespace, its names, and the memory of what was done.
//!
//! What is asked of the plugins is written down before they are called, and what they answered after: `cni/OWNER/NETWORK.json`
//! below the durable root, format 1. So what was begun is undone after a crash or a reboot, by the configuration that it was
//! begun with, whatever the host has by then.

mod call;
mod kept;
mod list;
mod outcome;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::netlink::Socket;
use super::records::{self, Attachment, Endpoint, Port};
use super::{links, sandbox};
use crate::runtime::roots::Roots;
use crate::runtime::state;
use call::Place;
pub use kept::Kept;
use list::{List, Version};
pub use outcome::{Dns, Outcome};

/// What failed with a network of plugins.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    List(#[from] list::Error),
    #[error(transparent)]
    Call(#[from] call::Error),
    #[error(transparent)]
    State(#[from] state::Error),
    /// A plugin lied, or did not know what it did.
    #[error(
        "CNI configuration {configuration:?}, interface {interface}: {what}, although its plugins say that they are done"
    )]
    Untrue { configuration: String, interface: String, what: String },
    #[error(
        "network {network:?}: no plugin of CNI configuration {configuration:?} publishes ports\n  help: give it a plugin with the capability `portMappings`, such as portmap, or take `ports` away"
    )]
    NoPorts { network: String, configuration: String },
    #[error("{undone}\n  help: mend that plugin and try again, or remove {file} to have it forgotten")]
    NotUndone { undone: call::Error, file: PathBuf },
    #[error(transparent)]
    Records(Box<super::Error>),
    #[error("look into the container's network namespace: {0}")]
    Look(io::Error),
}

/// A network as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cni {
    /// The name that the configuration has in its file.
    pub configuration: String,
    /// Where configurations are.
    pub directory: PathBuf,
    /// Where plugins are, in this order.
    pub plugins: Vec<PathBuf>,
    /// How long one call may take.
    pub patience_s: u64,
}

/// A container that is to join.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    pub network: &'a str,
    /// The container's id.
    pub owner: &'a str,
    pub interface: &'a str,
    pub addresses: &'a [IpAddr],
    pub hardware_address: Option<[u8; 6]>,
    pub names: &'a [String],
    pub ports: &'a [Port],
}

/// What a container has by its plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub outcome: Outcome,
    /// As the kernel has it.
    pub hardware_address: [u8; 6],
}

/// Looks whether there is such a configuration, and whether its plugins are ready, as far as they can tell.
pub fn check(cni: &Cni) -> Result<(), Error> {
    let list = list::find(&cni.directory, &cni.configuration)?;
    status(cni, &list)
}

/// Plugins of version 1.1 say whether they can add at all.
fn status(cni: &Cni, list: &List) -> Result<(), Error> {
    if list.version < Version::STATUS {
        return Ok(());
    }
    for part in &list.plugins {
        call::call(&nowhere(&cni.plugins, patience(cni)), &part.kind, "STATUS", &told(list, part, None, None))?;
    }
    Ok(())
}

fn patience(cni: &Cni) -> Duration {
    Duration::from_secs(cni.patience_s)
}

/// Of calls that are about no container.
fn nowhere(plugins: &[PathBuf], patience: Duration) -> Place<'_> {
    Place { container: "", namespace: Path::new(""), interface: "", arguments: "", plugins, patience }
}

/// What a plugin is told: its part of the configuration, and what belongs to the call.
fn told(list: &List, part: &list::Part, runtime: Option<&Map<String, Value>>, before: Option<&Value>) -> Value {
    let mut text = part.text.clone();
    text.insert("name".to_owned(), json!(list.name));
    text.insert("cniVersion".to_owned(), json!(list.version));
    let wanted = runtime.into_iter().flatten().filter(|(capability, _)| part.has(capability));
    let wanted: Map<String, Value> = wanted.map(|(capability, value)| (capability.clone(), value.clone())).collect();
    if !wanted.is_empty() {
        text.insert("runtimeConfig".to_owned(), Value::Object(wanted));
    }
    if let Some(before) = before {
        text.insert("prevResult".to_owned(), before.clone());
    }
    Value::Object(text)
}

/// Gives the container what the plugins make for it. What it has already stays, where it is as it was asked for and
/// as it was made.
///
/// # Errors
/// What a plugin says; what was begun is undone.
pub fn add(roots: &Roots, cni: &Cni, wish: &Wish<'_>, namespace: &Path) -> Result<Given, Error> {
    if let Some(kept) = Kept::read(roots, wish.owner, wish.network)? {
        match kept.outcome().map(|outcome| confirmed(&kept, outcome, namespace)) {
            Some(Ok(given)) if kept.is_for(cni, wish) => return Ok(given),
            _ => undo(roots, &kept, wish.owner, wish.network, namespace)?,
        }
    }
    let list = list::find(&cni.directory, &cni.configuration)?;
    if !wish.ports.is_empty() && !list.plugins.iter().any(|part| part.has("portMappings")) {
        let (network, configuration) = (wish.network.to_owned(), list.name);
        return Err(Error::NoPorts { network, configuration });
    }
    status(cni, &list)?;
    perform(roots, Kept::new(cni, list, wish), wish.owner, wish.network, namespace)
}

/// Writes down what is to be asked, asks it, and writes down what was answered.
fn perform(roots: &Roots, mut kept: Kept, owner: &str, network: &str, namespace: &Path) -> Result<Given, Error> {
    kept.write(roots, owner, network)?;
    let added = add_all(&kept, owner, namespace).and_then(|answer| {
        let outcome = Outcome::of(&answer, &kept.interface).map_err(|what| untrue(&kept, what))?;
        Ok((confirmed(&kept, outcome, namespace)?, answer))
    });
    match added {
        Ok((given, answer)) => {
            kept.result = Some(answer);
            kept.is_checkable = objection(&kept, owner, namespace).is_none();
            kept.write(roots, owner, network)?;
            Ok(given)
        }
        Err(error) => {
            // What does not go away now is tried again by the next call: it is written down.
            undo(roots, &kept, owner, network, namespace).ok();
            Err(error)
        }
    }
}

fn untrue(kept: &Kept, what: String) -> Error {
    Error::Untrue { configuration: kept.list.name.clone(), interface: kept.interface.clone(), what }
}

fn add_all(kept: &Kept, owner: &str, namespace: &Path) -> Result<Value, Error> {
    let mut before = None;
    for part in &kept.list.plugins {
        let configuration = told(&kept.list, part, Some(&kept.runtime), before.as_ref());
        let answer = call::call(&kept.place(owner, namespace), &part.kind, "ADD", &configuration)?;
        before = Some(answer);
    }
    Ok(before.unwrap_or_default())
}

/// What the kernel says of it.
fn confirmed(kept: &Kept, outcome: Outcome, namespace: &Path) -> Result<Given, Error> {
    let (links, addresses) = sandbox::inside(namespace, || {
        let mut socket = Socket::route()?;
        Ok((links::list(&mut socket)?, links::addresses(&mut socket)?))
    })
    .map_err(Error::Look)?;
    if let Some(what) = outcome.denied(&kept.interface, &links, &addresses) {
        return Err(untrue(kept, what));
    }
    let link = links.into_iter().find(|link| link.name == kept.interface);
    let hardware_address = link.and_then(|link| link.hardware_address).unwrap_or_default();
    Ok(Given { outcome, hardware_address })
}

/// Has the plugins take away what they gave the container in the network; nothing where they gave nothing.
///
/// # Errors
/// [`Error::NotUndone`]; the other plugins have been called nevertheless.
pub fn remove(roots: &Roots, owner: &str, network: &str, namespace: &Path) -> Result<(), Error> {
    match Kept::read(roots, owner, network)? {
        Some(kept) => undo(roots, &kept, owner, network, namespace),
        None => Ok(()),
    }
}

fn undo(roots: &Roots, kept: &Kept, owner: &str, network: &str, namespace: &Path) -> Result<(), Error> {
    let there = if namespace.exists() { namespace } else { Path::new("") };
    let before = kept.result.as_ref().filter(|_| kept.list.version >= Version::CHECK);
    let mut failed = None;
    for part in kept.list.plugins.iter().rev() {
        let configuration = told(&kept.list, part, Some(&kept.runtime), before);
        let said = call::call(&kept.place(owner, there), &part.kind, "DEL", &configuration);
        failed = failed.or(said.err());
    }
    match failed {
        None => Ok(kept::forget(roots, owner, network)?),
        Some(undone) => Err(Error::NotUndone { undone, file: kept::file(roots, owner, network) }),
    }
}

/// Has the plugins give the container once more what they gave it, after it was lost: the same addresses, where they can.
/// `None` where nothing was asked of them.
pub fn again(
    roots: &Roots,
    cni: &Cni,
    owner: &str,
    network: &str,
    had: &Endpoint,
    namespace: &Path,
) -> Result<Option<Given>, Error> {
    let Some(kept) = Kept::read(roots, owner, network)? else { return Ok(None) };
    undo(roots, &kept, owner, network, namespace)?;
    let list = list::find(&cni.directory, &cni.configuration)?;
    let same = kept.anew(list.clone(), had);
    match perform(roots, same.clone(), owner, network, namespace) {
        Ok(given) => Ok(Some(given)),
        Err(_) if same.arguments != kept.arguments => {
            let any = Kept { list, result: None, ..kept };
            perform(roots, any, owner, network, namespace).map(Some)
        }
        Err(error) => Err(error),
    }
}

/// The container's namespace is held at another path from now on: plugins look there.
pub fn moved(roots: &Roots, owner: &str, network: &str, from: &Path, to: &Path) -> Result<(), Error> {
    let Some(mut kept) = Kept::read(roots, owner, network)? else { return Ok(()) };
    let interfaces = kept.result.as_mut().and_then(|result| result.get_mut("interfaces")?.as_array_mut());
    for sandbox in interfaces.into_iter().flatten().filter_map(|interface| interface.get_mut("sandbox")) {
        if sandbox.as_str().map(Path::new) == Some(from) {
            *sandbox = json!(to);
        }
    }
    kept.write(roots, owner, network)
}

/// What of a container's place is not as it was made, in words: as the kernel has it, and as plugins see it that can tell.
pub fn lost(roots: &Roots, owner: &str, network: &str, namespace: &Path) -> Result<Option<String>, Error> {
    let Some(kept) = Kept::read(roots, owner, network)? else { return Ok(Some("not made".to_owned())) };
    let Some(outcome) = kept.outcome() else { return Ok(Some("made half".to_owned())) };
    match confirmed(&kept, outcome, namespace) {
        Err(Error::Untrue { what, .. }) => Ok(Some(what)),
        Err(error) => Ok(Some(error.to_string())),
        Ok(_) if kept.is_checkable => Ok(objection(&kept, owner, namespace).map(|error| error.to_string())),
        Ok(_) => Ok(None),
    }
}

/// What the first plugin that is not content says, of those that can be asked.
fn objection(kept: &Kept, owner: &str, namespace: &Path) -> Option<call::Error> {
    if kept.list.version < Version::CHECK || kept.list.disable_check {
        return None;
    }
    kept.list.plugins.iter().find_map(|part| {
        let configuration = told(&kept.list, part, Some(&kept.runtime), kept.result.as_ref());
        call::call(&kept.place(owner, namespace), &part.kind, "CHECK", &configuration).err()
    })
}

/// Undoes what was begun for containers that are no more, and tells plugins that can collect their garbage (version 1.1)
/// which ones are.
pub fn sweep(roots: &Roots, cni: &Cni, network: &str) -> Result<(), Error> {
    let live = undo_dead(roots, network)?;
    let list = list::find(&cni.directory, &cni.configuration)?;
    if list.version < Version::STATUS || list.disable_gc {
        return Ok(());
    }
    let valid = live
        .iter()
        .filter_map(|one| Some(json!({"containerID": one.line(), "ifname": one.endpoints.get(network)?.interface})));
    let valid: Value = valid.collect();
    for part in &list.plugins {
        let mut configuration = told(&list, part, None, None);
        configuration["cni.dev/valid-attachments"] = valid.clone();
        call::call(&nowhere(&cni.plugins, patience(cni)), &part.kind, "GC", &configuration)?;
    }
    Ok(())
}

/// As [`sweep`], where the network goes and its configuration may be gone.
pub fn sweep_network(roots: &Roots, network: &str) -> Result<(), Error> {
    undo_dead(roots, network).map(drop)
}

/// Gives the containers that are in the network.
fn undo_dead(roots: &Roots, network: &str) -> Result<Vec<Attachment>, Error> {
    let mut live = records::attachments(roots).map_err(|error| Error::Records(Box::new(error)))?;
    live.retain(|one| one.endpoints.contains_key(network));
    for owner in kept::owners(roots)? {
        if !live.iter().any(|one| one.line() == owner) {
            remove(roots, &owner, network, Path::new(""))?;
        }
    }
    Ok(live)
}
