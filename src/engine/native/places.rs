//! A container's place in networks, changed while it runs: cables are plugged and unplugged, and the files that tell its
//! programs of it follow.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use super::containers::{self, Error};
use super::{declared, networks};
use crate::reconcile::resource::{ContainerConfig, Endpoint, NetworkMode};
use crate::runtime::container::{self, Container, Paths, Start};
use crate::runtime::events::{self, Event};
use crate::runtime::network::{self, sandbox};
use crate::runtime::roots::Roots;
use crate::runtime::state;

/// How much of a file that a container may write to is looked at, in bytes.
const MOST_READ: u64 = 4 << 20;

/// Has a container that runs be where it is declared to be. One that does not leaves what it is no longer to be in, and
/// gets its place in the rest when it starts.
pub fn follow(roots: &Roots, wanted: &ContainerConfig, found: &Container) -> Result<(), Error> {
    let NetworkMode::Networks(joined) = &wanted.network else { return Ok(()) };
    let name = &found.config.name;
    if !found.is_running() {
        return leave_all_but(roots, name, &joined.keys().map(String::as_str).collect());
    }
    if !sandbox::exists(roots, name) {
        // It has been without any network so far, in a namespace that only its program holds.
        network::hold(roots, name, namespace(found)?.as_fd())?;
    }
    let start = networks::connect(roots, wanted, &found.config, sandbox::Owner::Host)?;
    tell_programs(roots, name, start)
}

/// The network namespace of a container that runs, and not of a later process of its number.
pub(super) fn namespace(found: &Container) -> Result<File, Error> {
    let process = found.status.process;
    let gone = || Error::NotRunning { what: "the network", name: found.config.name.clone() };
    let namespace = File::open(format!("/proc/{}/ns/net", process.pid)).map_err(|_| gone())?;
    if found.is_running() && process.is_alive() { Ok(namespace) } else { Err(gone()) }
}

/// The files by which it finds names, and of all that live in its network.
fn tell_programs(roots: &Roots, name: &str, start: Start) -> Result<(), Error> {
    tell_guests(roots, name, &start)?;
    write(roots, name, start)
}

/// The same files of all that live in its network.
pub(super) fn tell_guests(roots: &Roots, name: &str, start: &Start) -> Result<(), Error> {
    for guest in guests(roots, name)? {
        let before = containers::start_of(roots, &guest.config)?;
        let (hosts, resolv_conf) = (start.hosts.clone(), start.resolv_conf.clone());
        let texts = Start { hosts, resolv_conf, ..before.clone() };
        if texts != before {
            write(roots, &guest.config.name, texts)?;
        }
    }
    Ok(())
}

/// The running containers that live in the network of this one.
pub(super) fn guests(roots: &Roots, name: &str) -> Result<Vec<Container>, Error> {
    let lives_there = |one: &Container| {
        one.is_running() && declared(one).is_some_and(|it| it.network == NetworkMode::Container(name.to_owned()))
    };
    Ok(container::list(roots)?.into_iter().filter(lives_there).collect())
}

/// Whether the network is the container's own to change: its programs may, or those of another that lives there.
pub(super) fn is_self_governed(roots: &Roots, wanted: &ContainerConfig) -> Result<bool, Error> {
    if may_govern(wanted) || !sandbox::exists(roots, &wanted.name) {
        return Ok(may_govern(wanted));
    }
    let guests = guests(roots, &wanted.name)?;
    Ok(guests.iter().filter_map(declared).any(|guest| may_govern(&guest)))
}

/// Whether its programs may set addresses, routes and rules.
pub(super) fn may_govern(wanted: &ContainerConfig) -> bool {
    let named = |name: &String| {
        let upper = name.to_ascii_uppercase();
        matches!(upper.strip_prefix("CAP_").unwrap_or(&upper), "ALL" | "NET_ADMIN")
    };
    wanted.privileged || wanted.cap_add.iter().any(named)
}

/// Which of the files by which it finds names no longer says what it was made with. What a program adds is its own affair,
/// as is all of it where the network is.
pub(super) fn edited(roots: &Roots, wanted: &ContainerConfig) -> Result<Vec<String>, Error> {
    if may_govern(wanted) {
        return Ok(Vec::new());
    }
    let paths = Paths::of(roots, &wanted.name);
    let start: Start = state::read_json(&paths.start)?.unwrap_or_default();
    let texts =
        [("/etc/hosts", &paths.hosts, &start.hosts), ("/etc/resolv.conf", &paths.resolv_conf, &start.resolv_conf)];
    let lacks = |path: &Path, text: &str| {
        let found = own_file(path);
        let lines: BTreeSet<&str> = found.lines().collect();
        !text.lines().all(|line| lines.contains(line))
    };
    let own = |target: &str| !wanted.mounts.iter().any(|mount| mount.target == target);
    let edited = texts.into_iter().filter(|(target, path, text)| own(target) && lacks(path, text));
    Ok(edited.map(|(target, ..)| format!("{target} edited")).collect())
}

/// What a file says by now that a container may write to, as far as it is looked at: it may be made without end. Nothing
/// where it can't be read.
pub(super) fn own_file(path: &Path) -> String {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MOST_READ).read_to_end(&mut text));
    read.map(|_| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
}

/// Writes these files as they were.
pub(super) fn restore(roots: &Roots, wanted: &ContainerConfig) -> Result<(), Error> {
    if edited(roots, wanted)?.is_empty() {
        return Ok(());
    }
    let start: Start = state::read_json(&Paths::of(roots, &wanted.name).start)?.unwrap_or_default();
    write(roots, &wanted.name, start)
}

fn write(roots: &Roots, name: &str, start: Start) -> Result<(), Error> {
    let paths = Paths::of(roots, name);
    for (path, text) in [(&paths.hosts, &start.hosts), (&paths.resolv_conf, &start.resolv_conf)] {
        let failed = |source| Error::Path { what: "write", path: path.clone(), source };
        if !text.is_empty() {
            overwrite(path, text).map_err(failed)?;
        }
    }
    let before: Start = state::read_json(&paths.start)?.unwrap_or_default();
    let start = Start { hostname: before.hostname.clone(), ..start };
    if start != before {
        state::write_json_volatile(&paths.start, &start)?;
    }
    Ok(())
}

/// The very file that the container has mounted, and never empty on the way.
fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(false).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

fn leave_all_but(roots: &Roots, name: &str, networks: &BTreeSet<&str>) -> Result<(), Error> {
    if network::leave_all_but(roots, name, networks)? {
        networks::settle(roots)?;
    }
    Ok(())
}

/// Joins one more network, by command.
///
/// # Errors
/// [`Error::Joined`] where it is in that, [`Error::NoNetworks`] where it can't be in any.
pub fn connect(roots: &Roots, found: &Container, network: &str, endpoint: Endpoint) -> Result<(), Error> {
    network::get(roots, network)?;
    let mut wanted = own(found)?;
    let joined = networks_of(&mut wanted)?;
    if joined.contains_key(network) {
        return Err(Error::Joined { name: found.config.name.clone(), network: network.to_owned() });
    }
    joined.insert(network.to_owned(), endpoint);
    containers::update(roots, &wanted, &[])?;
    tell(roots, "connect", network, found);
    Ok(())
}

/// Leaves a network, by command.
///
/// # Errors
/// [`Error::NotJoined`] where it is not in that, [`Error::NoNetworks`] where it can't be in any.
pub fn disconnect(roots: &Roots, found: &Container, network: &str) -> Result<(), Error> {
    let mut wanted = own(found)?;
    if networks_of(&mut wanted)?.remove(network).is_none() {
        return Err(Error::NotJoined { name: found.config.name.clone(), network: network.to_owned() });
    }
    containers::update(roots, &wanted, &[])?;
    tell(roots, "disconnect", network, found);
    Ok(())
}

/// Takes what a container that is not there any more has left of itself out of a network. Says whether there was any.
pub fn disconnect_rest(roots: &Roots, name: &str, network: &str) -> Result<bool, Error> {
    let all = network::attachments(roots)?;
    let Some(rest) = all.iter().find(|one| one.container == name && one.endpoints.contains_key(network)) else {
        return Ok(false);
    };
    let others = rest.endpoints.keys().map(String::as_str).filter(|other| *other != network);
    leave_all_but(roots, name, &others.collect())?;
    Ok(true)
}

fn own(found: &Container) -> Result<ContainerConfig, Error> {
    declared(found).ok_or_else(|| Error::Undeclared(found.config.name.clone()))
}

fn networks_of(wanted: &mut ContainerConfig) -> Result<&mut BTreeMap<String, Endpoint>, Error> {
    let refused = |mode: &str| Error::NoNetworks { name: wanted.name.clone(), mode: mode.to_owned() };
    match &mut wanted.network {
        NetworkMode::Networks(networks) => Ok(networks),
        NetworkMode::None => Err(refused("is without network")),
        NetworkMode::Host => Err(refused("is in the host's network")),
        NetworkMode::Container(other) => Err(refused(&format!("is in the network of {other}"))),
    }
}

fn tell(roots: &Roots, action: &str, network: &str, found: &Container) {
    let event = Event::now(events::Kind::Network, action, network, network);
    events::record(roots, &event.with("container", &found.config.id).with("type", "bridge"));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of 8 TiB could not be read as a whole.
    #[test]
    fn of_a_file_without_end_the_beginning_is_read() {
        let path = std::env::temp_dir().join(format!("stack-hosts-{}", std::process::id()));
        std::fs::write(&path, "127.0.0.1 localhost\n").unwrap();
        File::options().write(true).open(&path).unwrap().set_len(8 << 40).unwrap();
        let found = own_file(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!((found.len() as u64, found.lines().next()), (MOST_READ, Some("127.0.0.1 localhost")));
        assert_eq!(own_file(&path), "");
    }
}
