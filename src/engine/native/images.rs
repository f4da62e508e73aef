//! Images as they are declared.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::failed;
use crate::reconcile::engine::EngineError;
use crate::reconcile::resource::{HostContent, ImageConfig, ImageSource, PullPolicy, ResourceId};
use crate::runtime::image::archive::{LoadOptions, load};
use crate::runtime::image::policy::Verified;
use crate::runtime::image::registry::credentials;
use crate::runtime::image::settings::Collect;
use crate::runtime::image::{
    self, Access, Digest, Error, Image, ImageReference, Lease, Platform, Progress, PullOptions, Settings, Store, Wait,
};
use crate::runtime::roots::Roots;

const BUILTIN: &str = "builtin:";

/// Who is told how far a pull is.
pub trait Watcher: Send + Sync {
    fn progress(&self, image: &str, progress: Progress<'_>);
    fn waiting(&self, image: &str, wait: &Wait<'_>);
}

/// Nobody.
pub struct Silent;

impl Watcher for Silent {
    fn progress(&self, _: &str, _: Progress<'_>) {}
    fn waiting(&self, _: &str, _: &Wait<'_>) {}
}

/// As an engine keeps it.
pub type SharedWatcher = Arc<dyn Watcher>;

/// Puts the image into the store, from where it is declared to come.
///
/// # Errors
/// Where it can't be had, or its content is not what the declared digest says.
pub fn ensure(roots: &Roots, wanted: &ImageConfig, watcher: &dyn Watcher) -> Result<Image, Error> {
    let settings = Settings::of_host(roots)?;
    let store = Store::open(roots).with_limits(&settings.limits);
    let image = match &wanted.source {
        ImageSource::Builtin(name) => return store.builtin(name),
        ImageSource::Archive(content) => archive(&store, wanted, content)?,
        ImageSource::Rootfs(content) => rootfs(&store, wanted, content)?,
        ImageSource::Build(_) => return Err(Error::NotFound(wanted.reference.clone())),
        ImageSource::Pull { reference, digest } => {
            let pull = || pull(&store, &settings, wanted, (reference, digest.as_deref()), watcher);
            match settings.collect {
                None => pull()?,
                Some(when) => {
                    let lease = store.lease()?;
                    let image = held(&store, &lease, pull)?;
                    make_room(&store, when)?;
                    image
                }
            }
        }
    };
    suits(&image, wanted)?;
    Ok(image)
}

fn platform(wanted: &ImageConfig) -> Result<Platform, Error> {
    match &wanted.platform {
        Some(text) => Platform::parse(text).ok_or_else(|| Error::Platform(text.clone())),
        None => Ok(Platform::host()),
    }
}

fn archive(store: &Store, wanted: &ImageConfig, content: &HostContent) -> Result<Image, Error> {
    let platform = platform(wanted)?;
    let declared = serde_json::to_value(wanted).unwrap_or_default();
    let options = LoadOptions { name: Some(&wanted.reference), platform: Some(&platform), declared };
    let images = load(store, &content.path, options, &|_| ())?;
    images.into_iter().next().ok_or_else(|| Error::NotFound(wanted.reference.clone()))
}

fn rootfs(store: &Store, wanted: &ImageConfig, content: &HostContent) -> Result<Image, Error> {
    let declared = serde_json::to_value(wanted).unwrap_or_default();
    store.import_rootfs_for(&content.path, &wanted.reference, &platform(wanted)?, declared)
}

/// The image is for the platform that is asked for, or for one that this host runs.
fn suits(image: &Image, wanted: &ImageConfig) -> Result<(), Error> {
    let found = image.platform();
    let help = match &wanted.platform {
        Some(text) if Platform::parse(text).is_some_and(|platform| !platform.suits(&found)) => {
            "take the image of that platform, or name the one that it is for as its `platform`"
        }
        None if !image::runs(&found) => {
            "take the image of this host's platform, or register an emulator (Debian: qemu-user-binfmt) and say `platform`"
        }
        _ => return Ok(()),
    };
    let wanted = platform(wanted)?.to_string();
    Err(Error::OtherPlatform { image: image.reference.clone(), found: found.to_string(), wanted, help })
}

fn pull(
    store: &Store,
    settings: &Settings,
    wanted: &ImageConfig,
    (reference, digest): (&str, Option<&str>),
    watcher: &dyn Watcher,
) -> Result<Image, Error> {
    if let Some(name) = reference.strip_prefix(BUILTIN) {
        return store.builtin(name);
    }
    let name = wanted.reference.as_str();
    let access = Access { settings, keyring: &credentials::of_user, waiting: &|wait| watcher.waiting(name, wait) };
    let present = store.get(name)?;
    match (wanted.pull_policy, present) {
        (PullPolicy::Missing | PullPolicy::Never, Some(image)) => {
            guard(store, settings, &image, (reference, digest), access)?;
            if name.contains('@') {
                store.name_by_digest(name)?;
            }
            Ok(image)
        }
        (PullPolicy::Never, None) => Err(Error::NotFound(wanted.reference.clone())),
        _ => {
            let mut place = ImageReference::parse(reference)?;
            if let Some(digest) = digest {
                place.digest = Some(Digest::parse(digest)?);
            }
            let policy = &settings.policy;
            policy.admit(&place, place.digest.is_some())?;
            let mut verified = Verified::default();
            if policy.wants_signature(&place) {
                let digest = image::digest_of(&place, access)?;
                verified = policy.verify(store, &place, &digest, access)?;
                // What was verified, whatever becomes of the tag.
                place.digest = Some(digest);
            }
            let progress = |progress: Progress<'_>| watcher.progress(name, progress);
            let options = PullOptions { platform: wanted.platform.as_deref(), access, progress: &progress };
            let image = store.pull(&place, name, &options)?;
            store.keep_signatures(&image.digest, &verified)?;
            Ok(image)
        }
    }
}

/// The host's policy lets this image, which is here, be used by that name. One that was made here passes.
fn guard(
    store: &Store,
    settings: &Settings,
    image: &Image,
    (reference, digest): (&str, Option<&str>),
    access: Access<'_>,
) -> Result<(), Error> {
    let policy = &settings.policy;
    let Some(fetched) = image.place.as_ref().filter(|_| !policy.is_empty()) else { return Ok(()) };
    let hex = reference.strip_prefix("sha256:").unwrap_or(reference);
    let has_digest = digest.is_some() || reference.contains('@') || image.id.hex().starts_with(hex);
    let place = ImageReference::parse(fetched)?;
    policy.admit(&place, has_digest)?;
    if policy.wants_signature(&place) {
        let verified = policy.verify(store, &place, &image.digest, access)?;
        store.keep_signatures(&image.digest, &verified)?;
    }
    Ok(())
}

/// The content that is meant: what the reference pins, what is here, or what the registry has for the tag now.
pub(super) fn pin_of(place: &ImageReference, here: Option<&Image>, access: Access<'_>) -> Result<Digest, Error> {
    match (&place.digest, here) {
        (Some(digest), _) => Ok(digest.clone()),
        (None, Some(image)) => Ok(image.digest.clone()),
        (None, None) => image::digest_of(place, access),
    }
}

/// The digest that the registry, or the first mirror of it that knows it, has for the tag now.
pub fn newest(roots: &Roots, reference: &str, watcher: &dyn Watcher) -> Result<Digest, Error> {
    let settings = Settings::of_host(roots)?;
    let place = ImageReference::parse(reference)?;
    let access = Access {
        settings: &settings,
        keyring: &credentials::of_user,
        waiting: &|wait| watcher.waiting(reference, wait),
    };
    image::digest_of(&place, access)
}

/// The digest of the registry's content that the store has under this name.
pub fn fetched(roots: &Roots, reference: &str) -> Result<Option<Digest>, Error> {
    let found = Store::open(roots).get_tag(reference)?;
    Ok(found.filter(|image| image.place.is_some()).map(|image| image.digest))
}

/// Gives builds the images that they build on, by their names; the flag asks the registry for the newest.
pub fn provide(roots: &Roots) -> impl Fn(&str, bool) -> Result<Image, Error> + Sync {
    let roots = roots.clone();
    move |name: &str, newest: bool| {
        let source = ImageSource::Pull { reference: name.to_owned(), digest: None };
        let pull_policy = if newest { PullPolicy::Always } else { PullPolicy::Missing };
        ensure(&roots, &ImageConfig { reference: name.to_owned(), source, pull_policy, platform: None }, &Silent)
    }
}

/// How often an image is got that others remove at the same moment.
const ROUNDS: u32 = 8;

/// The image that `get` gives; it stays as long as the lease.
///
/// # Errors
/// As `get`; [`Error::Busy`] where it is removed again and again.
pub fn held(store: &Store, lease: &Lease, get: impl Fn() -> Result<Image, Error>) -> Result<Image, Error> {
    for _ in 0..ROUNDS {
        let image = get()?;
        if store.hold(lease, &image)? {
            return Ok(image);
        }
    }
    Err(Error::Busy("images are removed as fast as they come".to_owned()))
}

/// The images that an engine works with: nobody else collects them meanwhile.
#[derive(Debug, Default)]
pub struct Held(Mutex<Option<Arc<Lease>>>);

impl Held {
    /// Those of these that are here, and nothing else any more.
    pub fn anew<'a>(&self, roots: &Roots, references: impl Iterator<Item = &'a str>) -> Result<(), Error> {
        let store = Store::open(roots);
        let mut lease = None;
        for reference in references.filter(|reference| !reference.starts_with(BUILTIN)) {
            // One that is damaged is not held, but fetched again.
            let Ok(Some(image)) = store.get(reference) else { continue };
            let lease = match &mut lease {
                Some(lease) => lease,
                none => none.insert(store.lease()?),
            };
            store.hold(lease, &image)?;
        }
        // The old one goes after the new one is there.
        *self.lock() = lease.map(Arc::new);
        Ok(())
    }

    /// Makes the image and holds it.
    pub fn hold(
        &self,
        roots: &Roots,
        id: &ResourceId,
        make: impl Fn() -> Result<Image, EngineError>,
    ) -> Result<(), EngineError> {
        let store = Store::open(roots);
        for _ in 0..ROUNDS {
            let image = make()?;
            if image.reference.starts_with(BUILTIN) {
                return Ok(());
            }
            let held = self.lease(&store).and_then(|lease| store.hold(&lease, &image));
            if held.map_err(|error| failed(id, error))? {
                return Ok(());
            }
        }
        Err(failed(id, Error::Busy("images are removed as fast as they come".to_owned())))
    }

    fn lease(&self, store: &Store) -> Result<Arc<Lease>, Error> {
        let mut own = self.lock();
        if let Some(lease) = own.as_ref() {
            return Ok(lease.clone());
        }
        Ok(own.insert(Arc::new(store.lease()?)).clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Lease>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(store: &Store, when: Collect) -> Result<(), Error> {
    for name in store.collect(when)? {
        tracing::info!("image {name} was not used for longest, and the disk is full: removed");
    }
    Ok(())
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
