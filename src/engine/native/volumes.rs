//! Volumes as they are declared, and their first filling from an image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use super::containers::Error;
use super::{declared, names};
use crate::reconcile::resource::{self, ContainerConfig, MountSource, label};
use crate::runtime::image::Image;
use crate::runtime::init::spec;
use crate::runtime::roots::Roots;
use crate::runtime::sys;
use crate::runtime::volume::{self, Removal, VolumeConfig};
use crate::runtime::{container, image};

/// Marks a volume that only a container's mount asked for.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

pub(super) fn config(wanted: &resource::VolumeConfig) -> Result<VolumeConfig, Error> {
    Ok(VolumeConfig {
        name: wanted.name.clone(),
        driver: wanted.driver.clone(),
        driver_opts: wanted.driver_opts.clone(),
        labels: wanted.labels.clone(),
        protect: wanted.protect,
        declared: serde_json::to_value(wanted)?,
    })
}

/// Makes the volume.
pub fn create(roots: &Roots, wanted: &resource::VolumeConfig) -> Result<(), Error> {
    volume::create(roots, &config(wanted)?)?;
    Ok(())
}

/// Takes over new labels and protection.
pub fn update(roots: &Roots, wanted: &resource::VolumeConfig) -> Result<(), Error> {
    volume::update(roots, &config(wanted)?)?;
    Ok(())
}

/// Mounts again what a plugin has mounted and is no longer.
pub fn repair(roots: &Roots, name: &str) -> Result<(), Error> {
    match volume::get(roots, name)? {
        Some(found) if found.config.plugin().is_some() => Ok(volume::driver::repair(roots, name)?),
        _ => Ok(()),
    }
}

/// What is not as it should be with the volume as this host has it.
pub fn drift(roots: &Roots, found: &volume::Volume) -> Result<Vec<String>, Error> {
    let wrong = if found.config.plugin().is_some() { volume::driver::drift(roots, found)? } else { None };
    Ok(wrong.into_iter().collect())
}

/// Removes the volume with its data; refused while a container mounts it.
pub fn remove(roots: &Roots, name: &str, removal: Removal) -> Result<(), Error> {
    volume::remove(roots, name, &users(roots, name)?, removal)?;
    Ok(())
}

/// The containers that mount it.
pub fn users(roots: &Roots, name: &str) -> Result<Vec<String>, Error> {
    let all = container::list(roots)?;
    let volume = volume::get(roots, name)?;
    let uses = |wanted: ContainerConfig| wanted.mounts.iter().any(|mount| mounts(&wanted.name, mount, name));
    // Those that only the image asks for are declared nowhere.
    let has = |one: &container::Container| volume.as_ref().is_some_and(|volume| is_mounted(one, volume));
    let users = all.into_iter().filter(|one| has(one) || declared(one).is_some_and(uses));
    Ok(users.map(|one| one.config.name).collect())
}

fn is_mounted(one: &container::Container, volume: &volume::Volume) -> bool {
    one.config.request.mounts.iter().any(|mount| match &mount.source {
        spec::MountSource::Bind { source, .. } => source.starts_with(&volume.data),
        spec::MountSource::Tmpfs { .. } | spec::MountSource::Image { .. } => false,
    })
}

/// The volumes of this container that nothing names: those of mounts without a source, and those that its image asks for.
pub fn anonymous(roots: &Roots, found: &container::Container) -> Result<Vec<String>, Error> {
    let all = volume::list(roots)?.into_iter();
    let own = all.filter(|volume| is_anonymous(volume) && is_mounted(found, volume));
    Ok(own.map(|volume| volume.config.name).collect())
}

/// Whether only a container's mount asked for it.
pub fn is_anonymous(volume: &volume::Volume) -> bool {
    volume.config.labels.contains_key(ANONYMOUS)
}

fn mounts(container: &str, mount: &resource::Mount, name: &str) -> bool {
    match &mount.source {
        MountSource::Volume { volume: Some(volume), .. } => volume == name,
        MountSource::Volume { volume: None, .. } => names::anonymous_volume(container, &mount.target) == name,
        _ => false,
    }
}

/// What is said of a volume that only a mount of this container asks for: it is of the container's stack.
pub fn anonymous_labels(wanted: &ContainerConfig) -> BTreeMap<String, String> {
    let stack = wanted
        .labels
        .get(label::STACK)
        .filter(|_| wanted.labels.get(label::ONEOFF).is_none_or(|oneoff| oneoff != "True"));
    let stack = stack.map(|stack| (label::STACK.to_owned(), stack.clone()));
    stack.into_iter().chain([(ANONYMOUS.to_owned(), String::new())]).collect()
}

/// The volume's directory, made with these labels where it is missing and filled from the image where it is empty.
pub fn provide(
    roots: &Roots,
    name: &str,
    labels: BTreeMap<String, String>,
    image: &Image,
    fill_from: Option<&String>,
) -> Result<PathBuf, Error> {
    if volume::get(roots, name)?.is_none() {
        let wanted = resource::VolumeConfig { name: name.to_owned(), labels, ..Default::default() };
        create(roots, &wanted)?;
    }
    let data = volume::mount(roots, name)?;
    if let Some(target) = fill_from {
        let (roots, name, target) = (roots.clone(), name.to_owned(), PathBuf::from(target));
        image::view(&roots.clone(), image, move |root| volume::populate(&roots, &name, root, &target))??;
    }
    Ok(data)
}

/// A directory of the volume. What containers wrote there decides about no part of the way: a symbolic link on it is
/// refused, wherever it leads; each start looks again ([`volume::open_inside`]).
pub fn subpath(data: &Path, subpath: Option<&str>) -> Result<PathBuf, Error> {
    let Some(subpath) = subpath else { return Ok(data.to_owned()) };
    let path = data.join(subpath);
    let failed = |source| Error::Path { what: "subpath", path: path.clone(), source };
    let inside = Path::new(subpath).components().all(|component| matches!(component, Component::Normal(_)));
    if !inside {
        return Err(failed(std::io::ErrorKind::InvalidInput.into()));
    }
    let volume = File::open(data).map_err(failed)?;
    sys::open_without_links(volume.as_fd(), Path::new(subpath), libc::O_PATH).map_err(failed)?;
    Ok(path)
}

/// The volumes of a container that have a name.
fn named(wanted: &ContainerConfig) -> impl Iterator<Item = &String> {
    wanted.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Volume { volume: Some(name), .. } => Some(name),
        _ => None,
    })
}

/// Those of them that a plugin makes.
fn of_plugins(roots: &Roots, wanted: &ContainerConfig) -> Result<BTreeSet<String>, Error> {
    let mut found = BTreeSet::new();
    for name in named(wanted) {
        let volume = volume::get(roots, name)?;
        found.extend(volume.filter(|volume| volume.config.plugin().is_some()).map(|volume| volume.config.name));
    }
    Ok(found)
}

/// Mounts what the container's volumes are, for the container of this id: plugins count their users. After a reboot,
/// volumes that are mounts have to be mounted again.
pub fn mount_all(roots: &Roots, wanted: &ContainerConfig, id: &str) -> Result<(), Error> {
    let of_plugins = of_plugins(roots, wanted)?;
    for name in named(wanted) {
        if of_plugins.contains(name) {
            volume::driver::acquire(roots, name, id)?;
        } else {
            volume::mount(roots, name)?;
        }
    }
    Ok(())
}

/// The container runs: what was mounted for it is its own now.
pub fn hand_over(roots: &Roots, wanted: &ContainerConfig, id: &str) -> Result<(), Error> {
    of_plugins(roots, wanted)?.iter().try_for_each(|name| Ok(volume::driver::hand_over(roots, name, id)?))
}

/// What was mounted for this process's own look at the container's volumes is needed no longer.
pub fn let_go(roots: &Roots, wanted: &ContainerConfig) -> Result<(), Error> {
    of_plugins(roots, wanted)?.iter().try_for_each(|name| Ok(volume::let_go(roots, name)?))
}

/// What was mounted for this container is needed no longer. A plugin that can't be told is told by a later command.
pub fn release(roots: &Roots, wanted: &ContainerConfig, id: &str) {
    let released = of_plugins(roots, wanted)
        .and_then(|names| names.iter().try_for_each(|name| Ok(volume::driver::release(roots, name, id)?)));
    if let Err(error) = released {
        tracing::warn!("container {}: still mounted: {error}", wanted.name);
    }
}

/// Unmounts what plugins have mounted for containers and commands that are no more.
pub fn settle(roots: &Roots) -> Result<(), Error> {
    if !volume::driver::is_any_mounted(roots) {
        return Ok(());
    }
    let all = container::list(roots)?;
    let running: BTreeSet<String> = all.into_iter().filter(|one| one.is_running()).map(|one| one.config.id).collect();
    Ok(volume::driver::settle(roots, |id| running.contains(id))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subpath_stays_in_its_volume() {
        let data = std::env::temp_dir().join(format!("stack-subpath-{}", std::process::id()));
        std::fs::create_dir_all(data.join("a/b")).unwrap();
        std::os::unix::fs::symlink("/etc", data.join("out")).unwrap();
        std::os::unix::fs::symlink("a", data.join("in")).unwrap();
        assert_eq!(subpath(&data, None).unwrap(), data);
        assert_eq!(subpath(&data, Some("a/b")).unwrap(), data.join("a/b"));
        for wrong in ["out", "out/apt", "in/b", "../a", "/etc", "absent"] {
            assert!(subpath(&data, Some(wrong)).is_err(), "{wrong}");
        }
        std::fs::remove_dir_all(data).unwrap();
    }
}
