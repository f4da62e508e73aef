//! What the policies of the host and of a stack say of the stack's images, found out before anything is planned.

use std::collections::BTreeMap;

use super::images::{SharedWatcher, pin_of};
use crate::reconcile::desired::Desired;
use crate::reconcile::resource::{ImageConfig, ImageSource, PullPolicy};
use crate::runtime::image::policy::{Pattern, Policy, Rules, Signer};
use crate::runtime::image::registry::credentials;
use crate::runtime::image::{Access, Digest, Error, ImageReference, Settings, Store, Wait};
use crate::runtime::roots::Roots;
use crate::spec::{self, Fault};

/// What became of a stack's images.
#[derive(Debug, Default)]
pub struct Admitted {
    /// Tags whose content was verified → its digest: nothing else may be used for them.
    pub pins: BTreeMap<String, String>,
    /// Who signed what, one line each.
    pub notes: Vec<String>,
    pub faults: Vec<Fault>,
}

/// Looks at each image that comes from a registry. `newest`: as what is pulled always, the registry's tag is asked.
///
/// # Errors
/// Where the host's own files can't be understood.
pub fn admit(
    roots: &Roots,
    stack: &spec::Stack,
    desired: &Desired,
    newest: bool,
    watcher: &SharedWatcher,
) -> Result<Admitted, Error> {
    let settings = Settings::of_host(roots)?;
    let mut admitted = Admitted::default();
    let mut policy = settings.policy.clone();
    if let Some(wanted) = &stack.policy {
        match rules(wanted) {
            Ok(rules) => policy = policy.and(rules),
            Err(fault) => {
                admitted.faults.push(fault);
                return Ok(admitted);
            }
        }
    }
    if policy.is_empty() {
        return Ok(admitted);
    }
    let mut desired = desired.clone();
    for (image, place) in desired.images_mut() {
        match look(roots, &settings, &policy, image, newest, watcher) {
            Ok(None) => {}
            Ok(Some((digest, keys))) => {
                admitted.notes.push(format!(
                    "{} ({}) is signed by {}",
                    image.reference,
                    short(&digest),
                    keys.join(" and ")
                ));
                if let ImageSource::Pull { reference, digest: None } = &image.source {
                    admitted.pins.insert(reference.clone(), digest.to_string());
                }
            }
            Err(error) => admitted.faults.push(Fault::new(place, &error.to_string())),
        }
    }
    Ok(admitted)
}

fn short(digest: &Digest) -> &str {
    &digest.as_str()[..19]
}

fn rules(wanted: &spec::Policy) -> Result<Rules, Fault> {
    let pattern = |path: &str, text: &String| Pattern::parse(text).map_err(|reason| Fault::new(path, &reason));
    let registries = wanted.registries.as_ref();
    let registries = registries.map(|all| all.iter().map(|text| pattern("policy.registries", text)).collect());
    let signers = wanted.signatures.iter().enumerate().map(|(index, one)| {
        let images = pattern(&format!("policy.signatures.{index}"), &one.images)?;
        Ok(Signer { images, keys: one.keys.clone() })
    });
    Ok(Rules {
        origin: "the stack's file".to_owned(),
        registries: registries.transpose()?,
        needs_digest: wanted.needs_digest,
        signatures: signers.collect::<Result<_, Fault>>()?,
    })
}

/// The digest that was verified and by which keys, where somebody's signature is wanted.
fn look(
    roots: &Roots,
    settings: &Settings,
    policy: &Policy,
    image: &ImageConfig,
    newest: bool,
    watcher: &SharedWatcher,
) -> Result<Option<(Digest, Vec<String>)>, Error> {
    let ImageSource::Pull { reference, digest } = &image.source else { return Ok(None) };
    let store = Store::open(roots).with_limits(&settings.limits);
    let anew = newest && image.pull_policy == PullPolicy::Always;
    let here = if anew { None } else { store.get_tag(&image.reference)? };
    if let Some(image) = &here {
        if image.place.is_none() {
            return Ok(None);
        }
        policy.admit_here(image)?;
    }
    let mut place = ImageReference::parse(reference)?;
    if let Some(digest) = digest {
        place.digest = Some(Digest::parse(digest)?);
    }
    policy.admit(&place, place.digest.is_some())?;
    if !policy.wants_signature(&place) {
        return Ok(None);
    }
    let waiting = |wait: &Wait<'_>| watcher.waiting(&image.reference, wait);
    let access = Access { settings, keyring: &credentials::of_user, waiting: &waiting };
    let digest = pin_of(&place, here.as_ref(), access)?;
    let verified = policy.verify(&store, &place, &digest, access)?;
    if here.is_some_and(|image| image.digest == digest) {
        store.keep_signatures(&digest, &verified)?;
    }
    Ok(Some((digest, verified.keys)))
}
