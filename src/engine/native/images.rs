//! Images as they are declared.

use crate::reconcile::resource::{ImageConfig, ImageSource, PullPolicy};
use crate::runtime::image::registry::credentials;
use crate::runtime::image::{Digest, Error, Image, ImageReference, PullOptions, Store};
use crate::runtime::roots::Roots;

const BUILTIN: &str = "builtin:";

/// Puts the image into the store, from where it is declared to come.
///
/// # Errors
/// Where it can't be had, or its content is not what the declared digest says.
pub fn ensure(roots: &Roots, wanted: &ImageConfig) -> Result<Image, Error> {
    let store = Store::open(roots);
    match &wanted.source {
        ImageSource::Builtin(name) => store.builtin(name),
        ImageSource::Archive(path) => {
            let images = store.load_archive(path, Some(&wanted.reference))?;
            images.into_iter().next().ok_or_else(|| Error::NotFound(wanted.reference.clone()))
        }
        ImageSource::Rootfs(path) => store.import_rootfs(path, &wanted.reference),
        ImageSource::Pull { reference, digest } => pull(&store, wanted, reference, digest.as_deref()),
    }
}

fn pull(store: &Store, wanted: &ImageConfig, reference: &str, digest: Option<&str>) -> Result<Image, Error> {
    if let Some(name) = reference.strip_prefix(BUILTIN) {
        return store.builtin(name);
    }
    let present = store.get(&wanted.reference)?;
    match (wanted.pull_policy, present) {
        (PullPolicy::Missing | PullPolicy::Never, Some(image)) => Ok(image),
        (PullPolicy::Never, None) => Err(Error::NotFound(wanted.reference.clone())),
        _ => {
            let mut place = ImageReference::parse(reference)?;
            if let Some(digest) = digest {
                place.digest = Some(Digest::parse(digest)?);
            }
            let keyring = |registry: &str| credentials::of_user(registry);
            let options =
                PullOptions { platform: wanted.platform.as_deref(), keyring: &keyring, ..PullOptions::default() };
            store.pull(&place, &wanted.reference, &options)
        }
    }
}

/// Gives builds the images that they build on, by their names; the flag asks the registry for the newest.
pub fn provide(roots: &Roots) -> impl Fn(&str, bool) -> Result<Image, Error> + Sync {
    let roots = roots.clone();
    move |name: &str, newest: bool| {
        let source = ImageSource::Pull { reference: name.to_owned(), digest: None };
        let pull_policy = if newest { PullPolicy::Always } else { PullPolicy::Missing };
        ensure(&roots, &ImageConfig { reference: name.to_owned(), source, pull_policy, platform: None })
    }
}

/// The image of a container: it must be here. The built-in one always is.
pub fn present(roots: &Roots, reference: &str) -> Result<Image, Error> {
    let store = Store::open(roots);
    match (store.get(reference)?, reference.strip_prefix(BUILTIN)) {
        (Some(image), _) => Ok(image),
        (None, Some(name)) => store.builtin(name),
        (None, None) => Err(Error::NotFound(reference.to_owned())),
    }
}
