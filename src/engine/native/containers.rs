//! Containers as they are declared: made, started with their networks, changed, removed. Also what `stack run` and
//! `stack start` call.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use super::translate::{Facts, TranslateError, translate};
use super::users::{self, Users};
use super::{declared, drivers, files, filters, hooks, images, logging, names, networks, places, reload, volumes};
use crate::reconcile::resource::{ContainerConfig, DeviceMapping, Mount, MountSource, NetworkMode, RETIRED_SUFFIX};
use crate::runtime::container::{self, Config, Container, Declared, Phase, Removal, Start, Supervision, Tree};
use crate::runtime::image::{self, Image, Lease, Settings, Store};
use crate::runtime::init::spec::{self, Device, Namespace};
use crate::runtime::network::{self, sandbox};
use crate::runtime::roots::Roots;
use crate::runtime::{devices, events, objects, outside, plugin, sealed, state, volume};

/// What failed with a declared container.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Container(#[from] container::Error),
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error(transparent)]
    Network(#[from] network::Error),
    #[error(transparent)]
    Driver(#[from] drivers::Error),
    #[error(transparent)]
    Volume(#[from] volume::Error),
    #[error(transparent)]
    Plugin(#[from] plugin::Error),
    #[error(transparent)]
    Translate(#[from] TranslateError),
    #[error(transparent)]
    Filter(#[from] filters::Error),
    #[error("{what} {path}: {source}")]
    Path { what: &'static str, path: PathBuf, source: io::Error },
    #[error("container {0:?} was not made from a declaration; it can't be started again")]
    Undeclared(String),
    #[error("{what} of container {name:?}, which does not run\n  help: start that one first")]
    NotRunning { what: &'static str, name: String },
    #[error(
        "container {name:?} is in network {network:?} already\n  help: disconnect it first to give it another place there"
    )]
    Joined { name: String, network: String },
    #[error("container {name:?} is not in network {network:?}")]
    NotJoined { name: String, network: String },
    #[error(
        "container {name:?} {mode}, and can't be connected to others or disconnected from that\n  help: make it anew with other networks"
    )]
    NoNetworks { name: String, mode: String },
    #[error(
        "container {0:?} is half made\n  help: `stack apply` of its file makes it, `stack rm` removes what is left of it"
    )]
    HalfMade(String),
    #[error("the content of {0:?} was lost with the last reboot\n  help: `stack apply` puts it back")]
    ContentLost(String),
    #[error("{name:?}: its owner {uid}:{gid} is not among the ids of the container's user namespace")]
    Owner { name: String, uid: u32, gid: u32 },
    #[error(
        "`{command}` ended with code {code} in {name}, whose files have changed: {output}\n  help: mend it, and the next apply runs it again"
    )]
    Reaction { name: String, command: String, code: i32, output: String },
    #[error(transparent)]
    Object(#[from] objects::Error),
    #[error(transparent)]
    Sealed(#[from] sealed::Error),
    #[error("{kind} hook `{command}` of {name} ended with code {code}: {output}\n  help: {help}")]
    Hook { kind: &'static str, name: String, command: String, code: i32, output: String, help: String },
    #[error(transparent)]
    Runtime(#[from] outside::FindError),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error("no range of ids is left on this host for another user namespace\n  help: `userns_mode: host` needs none")]
    NoIds,
    #[error("user namespace: {0}\n  help: `userns_mode: host` needs none")]
    Namespace(io::Error),
    #[error("the declaration can't be written down: {0}")]
    Declaration(#[from] serde_json::Error),
}

/// Makes the container; the image must be in the store.
pub fn create(roots: &Roots, wanted: &ContainerConfig) -> Result<(), Error> {
    create_with(roots, wanted, |config| config).map(drop)
}

/// As [`create`], with a last word on what the runtime gets.
pub fn create_with(
    roots: &Roots,
    wanted: &ContainerConfig,
    last: impl FnOnce(Config) -> Config,
) -> Result<Container, Error> {
    create_leased(roots, wanted, last).map(|(made, _)| made)
}

/// As [`create_with`]. The lease is needed no longer; letting go of it takes the disk a moment.
pub fn create_leased(
    roots: &Roots,
    wanted: &ContainerConfig,
    last: impl FnOnce(Config) -> Config,
) -> Result<(Container, Lease), Error> {
    let store = Store::open(roots);
    // Until the container is written down nobody else knows that its layers are needed.
    let lease = store.lease()?;
    let image = images::held(&store, &lease, || images::present(roots, &wanted.image))?;
    // The very content that the container will stand on, whoever gave it its name meanwhile.
    Settings::of_host(roots).map_err(image::Error::from)?.policy.check(&store, &image)?;
    store.touch(&image)?;
    let runtime = wanted.runtime.as_deref().map(|name| outside::find(roots, name)).transpose()?;
    let mounted = mounted_images(roots, &store, &lease, wanted)?;
    let users = users::allocate(roots, wanted, &image, store.contents(&image)?)?;
    let ids = users.ids();
    let made = config(roots, wanted, &image, mounted, users).and_then(|mut config| {
        config.request.seccomp = filters::of(wanted, &config.request)?;
        Ok(container::create(roots, &Config { runtime, ..last(config) })?)
    });
    if let (Err(_), Some(ids)) = (&made, ids) {
        container::ids::give_back(roots, &wanted.name, ids)?;
    }
    Ok((made?, lease))
}

/// The images that it mounts, by the mount's target. They stay as long as the lease.
fn mounted_images(
    roots: &Roots,
    store: &Store,
    lease: &Lease,
    wanted: &ContainerConfig,
) -> Result<BTreeMap<String, Image>, Error> {
    let policy = Settings::of_host(roots).map_err(image::Error::from)?.policy;
    let mut images = BTreeMap::new();
    for mount in &wanted.mounts {
        let MountSource::Image { image, .. } = &mount.source else { continue };
        let found = images::held(store, lease, || images::present(roots, image))?;
        policy.check(store, &found)?;
        store.touch(&found)?;
        images.insert(mount.target.clone(), found);
    }
    Ok(images)
}

fn config(
    roots: &Roots,
    wanted: &ContainerConfig,
    image: &Image,
    mounted: BTreeMap<String, Image>,
    users: Users,
) -> Result<Config, Error> {
    let facts = facts(roots, wanted, image, mounted, users);
    volumes::let_go(roots, wanted)?;
    let facts = facts?;
    let mut config = translate(wanted, image, &facts)?;
    let mut declared = ContainerConfig { image_digest: image.digest.to_string(), ..wanted.clone() };
    for mount in &mut declared.mounts {
        if let (MountSource::Image { digest, .. }, Some(image)) =
            (&mut mount.source, facts.mounted_images.get(&mount.target))
        {
            *digest = image.digest.to_string();
        }
    }
    config.declared = Declared::new(&declared)?;
    Ok(config)
}

/// What the host has to be asked, or to provide, before the container can be described.
fn facts(
    roots: &Roots,
    wanted: &ContainerConfig,
    image: &Image,
    mounted_images: BTreeMap<String, Image>,
    users: Users,
) -> Result<Facts, Error> {
    let mut volumes = BTreeMap::new();
    for mount in &wanted.mounts {
        match &mount.source {
            MountSource::Volume { volume, nocopy, subpath } => {
                let name = volume.clone().unwrap_or_else(|| names::anonymous_volume(&wanted.name, &mount.target));
                let labels = if volume.is_none() { volumes::anonymous_labels(wanted) } else { BTreeMap::new() };
                let data = volumes::provide(roots, &name, labels, image, (!nocopy).then_some(&mount.target))?;
                volumes.insert(mount.target.clone(), volumes::subpath(&data, subpath.as_deref())?);
            }
            MountSource::Bind { source, create: true, .. } if !source.exists() => {
                let failed =
                    |error| Error::Path { what: "make the bind mount's source", path: source.clone(), source: error };
                std::fs::create_dir_all(source).map_err(failed)?;
            }
            _ => {}
        }
    }
    let mut image_volumes = BTreeMap::new();
    let own = image.config.config().as_ref().and_then(|own| own.volumes().as_ref());
    for target in own.into_iter().flatten().filter(|target| !wanted.mounts.iter().any(|mount| mount.target == **target))
    {
        let name = names::anonymous_volume(&wanted.name, target);
        let labels = volumes::anonymous_labels(wanted);
        image_volumes.insert(target.clone(), volumes::provide(roots, &name, labels, image, Some(target))?);
    }
    let mut devices: Vec<Device> = wanted.devices.iter().map(device).collect::<Result<_, _>>()?;
    if wanted.privileged && users.ids().is_none() {
        let more = devices::of_host().into_iter();
        let given: Vec<PathBuf> = devices.iter().map(|device| device.path.clone()).collect();
        devices.extend(more.filter(|one| !given.contains(&one.path)));
    }
    let contents = Store::open(roots).contents(image)?;
    let user = wanted.user.clone().or_else(|| image.config.config().as_ref()?.user().clone()).unwrap_or_default();
    let files = files::write(roots, wanted, users.ids(), || users::ids_of(&image.layers, &user))?;
    Ok(Facts { devices, volumes, mounted_images, files, image_volumes, users, contents })
}

pub(super) fn device(mapping: &DeviceMapping) -> Result<Device, Error> {
    let path = PathBuf::from(&mapping.source);
    let found = devices::of(&path, PathBuf::from(&mapping.target));
    let found = found.map_err(|source| Error::Path { what: "device", path, source })?;
    Ok(Device { access: mapping.permissions.clone(), ..found })
}

/// Starts the container with the networks and ports that it is declared with.
pub fn start(roots: &Roots, name: &str) -> Result<(), Error> {
    start_under(roots, &container::get(roots, name)?, Supervision::Anew, || ())
}

/// As [`start`], under a supervisor that comes from there. While it works, `meanwhile` is done.
pub fn start_under(
    roots: &Roots,
    found: &Container,
    supervision: Supervision,
    meanwhile: impl FnOnce(),
) -> Result<(), Error> {
    if found.is_running() {
        return Ok(());
    }
    if found.phase == Phase::Creating {
        return Err(Error::HalfMade(found.config.name.clone()));
    }
    let wanted = declared(found).ok_or_else(|| Error::Undeclared(found.config.name.clone()))?;
    let request = &found.config.request;
    files::write(roots, &wanted, request.users, || users::ids_of(&found.config.layers, &found.config.user))?;
    // Hooks come before whoever attaches, and the program must not wait for them to be heard.
    let supervision = if wanted.post_start.is_empty() { supervision } else { Supervision::Anew };
    let id = &found.config.id;
    let started = volumes::mount_all(roots, &wanted, id).and_then(|()| {
        hooks::before_start(roots, &wanted)?;
        let had_network = sandbox::exists(roots, &wanted.name);
        let start = prepare(roots, &wanted, &found.config)?;
        if had_network {
            places::tell_guests(roots, &wanted.name, &start)?;
        }
        logging::begin(roots, &found.config)?;
        hooks::note_start(roots, &wanted)?;
        Ok(container::start(roots, found, &start, supervision, meanwhile)?)
    });
    if started.is_err() {
        logging::end_or_say(roots, &found.config);
        volumes::release(roots, &wanted, id);
    }
    started?;
    volumes::hand_over(roots, &wanted, id)?;
    hooks::after_start(roots, &wanted)
}

/// Stops the container, after what it declares to be run before that.
pub fn stop(roots: &Roots, name: &str, how: &container::Stop) -> Result<(), Error> {
    let found = container::get(roots, name)?;
    if let Some(wanted) = declared(&found).filter(|wanted| !wanted.pre_stop.is_empty()) {
        hooks::before_stop(roots, &found.config.name, &wanted)?;
    }
    container::stop(roots, &found.config.name, how)?;
    unmount(roots, &found);
    Ok(())
}

/// Has plugins unmount the volumes of a container that has ended, and tells them that it writes no more.
fn unmount(roots: &Roots, ended: &Container) {
    logging::end_or_say(roots, &ended.config);
    if let Some(wanted) = declared(ended) {
        volumes::release(roots, &wanted, &ended.config.id);
    }
}

/// As [`stop`], for who shuts the host down.
pub fn halt(roots: &Roots, name: &str) -> Result<(), Error> {
    let found = container::get(roots, name)?;
    if let Some(wanted) = declared(&found).filter(|wanted| found.is_running() && !wanted.pre_stop.is_empty()) {
        hooks::before_stop(roots, &found.config.name, &wanted)?;
    }
    container::halt(roots, &found.config.name)?;
    unmount(roots, &found);
    Ok(())
}

/// Runs what is left of the hooks after the container's start.
pub fn finish_start(roots: &Roots, wanted: &ContainerConfig) -> Result<(), Error> {
    match container::get(roots, &wanted.name) {
        Ok(found) if found.is_running() => hooks::after_start(roots, wanted),
        Ok(_) | Err(container::Error::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The network of a start, and the files that name it.
pub(super) fn prepare(roots: &Roots, wanted: &ContainerConfig, config: &Config) -> Result<Start, Error> {
    match &wanted.network {
        NetworkMode::Host => Ok(networks::of_host(wanted)),
        NetworkMode::Container(name) => {
            let other = container::get(roots, name)?;
            let netns = network::hold(roots, &other.config.name, places::namespace(&other)?.as_fd())?;
            if places::may_govern(wanted) {
                network::leave_alone(roots, &other.config.name)?;
            }
            let paths = container::Paths::of(roots, &other.config.name);
            let (hosts, resolv_conf) = (places::own_file(&paths.hosts), places::own_file(&paths.resolv_conf));
            let hostname = Some(other.config.request.hostname);
            Ok(Start { netns: Some(netns), hostname, hosts, resolv_conf, awaited: None })
        }
        NetworkMode::None | NetworkMode::Networks(_) => {
            let shared = joined_users(roots, config)?;
            let of = |users: &File| sandbox::Owner::Other(format!("/proc/self/fd/{}", users.as_raw_fd()).into());
            let own = || config.request.users.map_or(sandbox::Owner::Host, sandbox::Owner::New);
            networks::connect(roots, wanted, config, shared.as_ref().map_or_else(own, of))
        }
    }
}

/// The user namespace of the container whose processes or messages this one shares, where it has its ids.
fn joined_users(roots: &Roots, config: &Config) -> Result<Option<File>, Error> {
    let request = &config.request;
    let other = [&request.pid, &request.ipc].into_iter().find_map(|one| match one {
        Namespace::Container(name) => Some(name),
        _ => None,
    });
    let Some(name) = other.filter(|_| request.users.is_some()) else { return Ok(None) };
    let found = container::get(roots, name)?;
    let process = found.status.process;
    let users = File::open(format!("/proc/{}/ns/user", process.pid)).ok();
    // Where it does not run the start will say so.
    Ok(users.filter(|_| found.is_running() && process.is_alive()))
}

/// The mounts of a container that others may share: its volumes by name, those that only it asks for among them, and what
/// is bound from the host.
pub fn lent(roots: &Roots, found: &Container) -> Result<Vec<Mount>, Error> {
    let name = &found.config.name;
    let wanted = declared(found).ok_or_else(|| Error::Undeclared(name.clone()))?;
    let more = hooks::of_image(roots, &wanted)?;
    let named = wanted.mounts.into_iter().chain(more).map(|mount| match mount.source {
        MountSource::Volume { volume: None, nocopy, subpath } => {
            let volume = Some(names::anonymous_volume(name, &mount.target));
            Mount { source: MountSource::Volume { volume, nocopy, subpath }, ..mount }
        }
        _ => mount,
    });
    Ok(named.filter(|mount| !matches!(mount.source, MountSource::Tmpfs { .. })).collect())
}

/// The container's files, its volumes among them.
pub fn files_of(roots: &Roots, name: &str) -> Result<Tree, Error> {
    let found = container::get(roots, name)?;
    if let Some(wanted) = declared(&found).filter(|_| !found.is_running()) {
        volumes::mount_all(roots, &wanted, &found.config.id)?;
    }
    Ok(Tree::of_container(roots, &found.config.name)?)
}

/// Applies what may change while it runs; `fields` are those that differ.
pub fn update(roots: &Roots, wanted: &ContainerConfig, fields: &[String]) -> Result<(), Error> {
    let found = container::get(roots, &wanted.name)?;
    let present = found.config.clone();
    let Some(image) = Store::open(roots).get(&present.image)? else { return create(roots, wanted) };
    let digest = declared_digest(&present);
    let mut config = config(roots, wanted, &image, BTreeMap::new(), Users::of(&present))?;
    // An update brings no other content.
    let mounted = present.request.mounts.iter().filter(|mount| matches!(mount.source, spec::MountSource::Image { .. }));
    config.request.mounts.extend(mounted.cloned());
    config.image_id = present.image_id;
    config.layers = present.layers;
    config.runtime = present.runtime;
    // As its own image has it, whatever has that name by now.
    config.request.no_new_privileges = present.request.no_new_privileges;
    // And as its file was when it was made.
    config.request.seccomp = present.request.seccomp;
    config.removal = present.removal;
    config.stdin_once = present.stdin_once;
    config.declared = Declared::new(&ContainerConfig { image_digest: digest, ..wanted.clone() })?;
    // First: once it is declared to be there, nobody looks whether it is.
    if declared(&found).is_none_or(|before| before.network != wanted.network) {
        places::follow(roots, wanted, &found)?;
    }
    reload::reload(roots, wanted, fields)?;
    container::update(roots, &config)?;
    events::record(roots, &container::event(&config, "update"));
    Ok(())
}

/// Gives a container another name; one that runs goes on, with its files and its place in networks. Done again after a
/// crash half way, it goes on from there.
pub fn rename(roots: &Roots, name: &str, new: &str) -> Result<(), Error> {
    let netns = match container::get(roots, name) {
        Ok(found) => start_of(roots, &found.config)?.netns,
        Err(container::Error::NotFound(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let own = netns.as_deref() == Some(sandbox::path(roots, name).as_path());
    files::rename(roots, name, new)?;
    container::rename(roots, name, new, if own { Some(sandbox::path(roots, new)) } else { netns })?;
    let mut config = container::get(roots, new)?.config;
    files::moved(roots, name, new, &mut config.request.mounts);
    container::update(roots, &config)?;
    networks::claim(roots, &config)
}

pub(super) fn start_of(roots: &Roots, config: &Config) -> Result<Start, Error> {
    let file = container::Paths::of(roots, &config.name).start;
    Ok(state::read_json(&file)?.unwrap_or_default())
}

/// An update does not move the container to another image.
fn declared_digest(config: &Config) -> String {
    config.declared.read::<ContainerConfig>().unwrap_or_default().image_digest
}

/// Removes the container, its place in networks and its files. Its volumes stay.
pub fn remove(roots: &Roots, name: &str, force: bool) -> Result<(), Error> {
    let (name, found) = match container::get(roots, name) {
        Ok(found) => (found.config.name.clone(), Some(found)),
        Err(container::Error::NotFound(_)) => (name.to_owned(), None),
        Err(error) => return Err(error.into()),
    };
    if found.as_ref().is_some_and(Container::is_running) {
        if !force {
            return Err(container::Error::Running(name).into());
        }
        container::stop(roots, &name, &container::Stop::at_once())?;
    }
    if let Some(found) = &found {
        unmount(roots, found);
    }
    // The container itself goes last: as long as it is there, whoever comes after a crash knows what else there is.
    if let Some(found) = found
        && name.ends_with(RETIRED_SUFFIX)
    {
        networks::claim(roots, &found.config)?;
    }
    let_go(roots, &name)?;
    Ok(container::remove(roots, &name, force)?)
}

/// Removes the container, but for its place in networks, which its successor of the same name takes: the namespace with
/// all that lives in it, addresses, names, and those ports that the successor publishes too.
pub fn vacate(roots: &Roots, successor: &ContainerConfig) -> Result<(), Error> {
    let name = &successor.name;
    let found = match container::get(roots, name) {
        Err(container::Error::NotFound(_)) => return Ok(()),
        found => found?,
    };
    if found.config.name != *name || found.config.removal != Removal::Nobody {
        return Ok(());
    }
    if found.is_running() {
        container::stop(roots, name, &container::Stop::at_once())?;
    }
    unmount(roots, &found);
    if network::vacate(roots, name, &networks::ports(successor))? {
        networks::settle(roots)?;
    }
    files::remove(roots, name)?;
    Ok(container::vacate(roots, name)?)
}

/// Takes away what only the container has of the network, and its files.
fn let_go(roots: &Roots, name: &str) -> Result<(), Error> {
    if network::disconnect(roots, name)? {
        networks::settle(roots)?;
    }
    files::remove(roots, name)
}

/// Removes the containers that should have gone with their end, and what is left of makers and removers that were killed.
pub fn sweep(roots: &Roots) -> Result<(), Error> {
    container::sweep(roots)?;
    for over in container::over(roots)? {
        let_go(roots, &over.name)?;
        over.remove(roots)?;
    }
    volumes::settle(roots)
}

/// Stops and starts it again, with its networks put in order.
pub fn restart(roots: &Roots, name: &str, how: &container::Stop) -> Result<(), Error> {
    stop(roots, name, how)?;
    start(roots, name)
}
