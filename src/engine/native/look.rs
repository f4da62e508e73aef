//! What images are made from on this host is looked at before anything is planned: changed content is a change, and what
//! can't be had is said at its place in the file.

use std::collections::BTreeMap;

use super::{builds, files, translate};
use crate::reconcile::desired::Desired;
use crate::reconcile::resource::{Config, FileSource, ImageConfig, ImageSource};
use crate::runtime::apparmor;
use crate::runtime::image::{Platform, Store, runs};
use crate::runtime::objects::{self, Kind};
use crate::runtime::roots::Roots;
use crate::runtime::volume::driver::LOCAL;
use crate::runtime::{outside, plugin};
use crate::spec::{Fault, logging};

/// Fills in what archives, root file systems and builds read of the host. Returns all that is wrong with them; files of
/// builds show their own places.
pub fn look(roots: &Roots, desired: &mut Desired) -> (Vec<Fault>, Vec<builds::Wrong>) {
    let (mut faults, mut wrong) = (foreign_platforms(desired), Vec::new());
    faults.extend(absent_runtimes(roots, desired));
    faults.extend(absent_drivers(roots, desired));
    faults.extend(absent_profiles(desired));
    faults.extend(super::filters::faults(desired));
    faults.extend(contents(roots, desired));
    faults.extend(absent_log_drivers(roots, desired));
    for (image, place) in desired.images_mut() {
        let name = image.reference.clone();
        let (word, content) = match &mut image.source {
            ImageSource::Archive(content) => ("archive", content),
            ImageSource::Rootfs(content) => ("rootfs", content),
            ImageSource::Build(build) => {
                wrong.extend(builds::look(&name, build).err().map(|error| builds::Wrong { name, error }));
                continue;
            }
            ImageSource::Pull { .. } | ImageSource::Builtin(_) => continue,
        };
        match Store::open(roots).content(&content.path) {
            Ok(digest) => content.digest = digest.to_string(),
            Err(error) => {
                let text = format!("the {word} of image {name} can't be read: {error}");
                faults.push(Fault::new(format!("{place}.{word}"), &text));
            }
        }
    }
    (faults, wrong)
}

/// Says which content configs and secrets have that are kept by the engine or encrypted, and which one secrets have, by a
/// hash that tells nobody whether a guess is right.
pub(super) fn contents(roots: &Roots, desired: &mut Desired) -> Vec<Fault> {
    let mut faults = BTreeMap::new();
    let containers = desired.resources.values_mut().filter_map(|resource| match &mut resource.config {
        Config::Container(container) => Some(container),
        _ => None,
    });
    for file in containers.flat_map(|container| &mut container.files) {
        let is_known = !matches!(file.source, FileSource::External(_) | FileSource::Encrypted { .. });
        if is_known && !file.secret {
            continue;
        }
        let kind = if file.secret { Kind::Secret } else { Kind::Config };
        let found = files::bytes(roots, &file.source, kind);
        match found.and_then(|bytes| Ok(objects::fingerprint(roots, &bytes)?)) {
            Ok(hash) => file.content_hash = hash,
            Err(error) => {
                let place = format!("{}s.{}", kind.word(), file.name);
                faults.insert(place.clone(), Fault::new(place, &error.to_string()));
            }
        }
    }
    faults.into_values().collect()
}

/// The containers whose runtime this host has not.
fn absent_runtimes(roots: &Roots, desired: &Desired) -> Vec<Fault> {
    let containers = desired.containers().filter_map(|(container, place)| Some((container.runtime.as_deref()?, place)));
    let wrong = |name: &str| outside::find(roots, name).err().map(|error| error.to_string());
    containers.filter_map(|(name, place)| Some(Fault::new(format!("{place}.runtime"), &wrong(name)?))).collect()
}

/// The volumes whose driver is no plugin that this host has. Whether it runs is for the volume's making to say.
fn absent_drivers(roots: &Roots, desired: &Desired) -> Vec<Fault> {
    let volumes = desired.resources.values().filter_map(|resource| match &resource.config {
        Config::Volume(volume) if volume.driver != LOCAL => Some((&volume.driver, &resource.place)),
        _ => None,
    });
    let wrong = |name: &str| plugin::find(roots, name).err().map(|error| error.to_string());
    volumes.filter_map(|(name, place)| Some(Fault::new(format!("{place}.driver"), &wrong(name)?))).collect()
}

/// The containers whose AppArmor profile this host has not.
fn absent_profiles(desired: &Desired) -> Vec<Fault> {
    let containers =
        desired.containers().filter_map(|(container, place)| Some((translate::profile(container)?, place)));
    let wrong = |name: &str| apparmor::check(name).err().map(|error| error.to_string());
    containers.filter_map(|(name, place)| Some(Fault::new(format!("{place}.security_opt"), &wrong(&name)?))).collect()
}

/// The containers whose logs are for a plugin that this host has not.
fn absent_log_drivers(roots: &Roots, desired: &Desired) -> Vec<Fault> {
    let containers =
        desired.containers().filter_map(|(container, place)| Some((container.logging.driver.as_deref()?, place)));
    let containers = containers.filter(|(name, _)| logging::is_plugin(name));
    let wrong = |name: &str| plugin::find(roots, name).err().map(|error| error.to_string());
    containers.filter_map(|(name, place)| Some(Fault::new(format!("{place}.logging.driver"), &wrong(name)?))).collect()
}

/// The containers that ask for a platform which this host can't run.
fn foreign_platforms(desired: &Desired) -> Vec<Fault> {
    let images = desired.resources.values().filter_map(|resource| match &resource.config {
        Config::Image(image) => Some((image.reference.as_str(), foreign(image)?)),
        _ => None,
    });
    let images: BTreeMap<&str, String> = images.collect();
    let containers =
        desired.containers().filter_map(|(container, place)| Some((images.get(container.image.as_str())?, place)));
    containers.map(|(text, place)| Fault::new(format!("{place}.platform"), text)).collect()
}

/// Why this host can't run the image.
fn foreign(image: &ImageConfig) -> Option<String> {
    let text = image.platform.as_deref()?;
    let runnable = Platform::parse(text).is_some_and(|platform| runs(&platform));
    (!runnable).then(|| {
        let host = Platform::host();
        format!(
            "this host runs programs of {host}, not of {text}\n  help: register an emulator for it (Debian: \
             qemu-user-binfmt), or take `platform` away"
        )
    })
}
