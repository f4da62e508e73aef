//! Images against a real registry (Debian's `docker-registry`) on loopback, and against one that misbehaves.

mod authority;
mod exchanging;
mod faults;
mod hostile;
mod locking;
mod memory;
mod proxy;
mod registries;
pub mod server;
mod signing;
mod stacks;
mod storing;
mod sweeping;
mod unpacking;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use server::{Cutter, Registry, Target, gzip, layer_tar};
use stack::runtime::image::{
    Access, Credentials, Error, Image, ImageReference, Progress, PullOptions, RegistryError, Settings, Store,
};
use stack::runtime::roots::Roots;

/// A store of its own, gone with the value.
struct World {
    directory: PathBuf,
    store: Store,
    settings: Settings,
}

impl World {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("stack-it-image-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let store = Store::open(&Roots::new(directory.join("root"), directory.join("run")));
        Self { directory, store, settings: Settings::default() }
    }

    /// Anonymous and silent.
    fn options(&self) -> PullOptions<'_> {
        PullOptions::new(Access::anonymous(&self.settings))
    }

    fn pull(&self, name: &str) -> Result<Image, Error> {
        self.pull_with(name, &self.options())
    }

    fn remove(&self, name: &str) {
        self.store.remove(name).unwrap();
    }

    fn pull_with(&self, name: &str, options: &PullOptions<'_>) -> Result<Image, Error> {
        self.store.pull(&ImageReference::parse(name).unwrap(), name, options)
    }

    /// As the host's `images.toml` says.
    fn with_settings(text: &str) -> Self {
        let mut world = Self::new();
        let file = world.directory.join("etc/stack/images.toml");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
        world.settings = Settings::read(&world.directory.join("etc"), None).unwrap();
        world.store = world.store.clone().with_limits(&world.settings.limits);
        world
    }

    /// What is there of images, and of work that is not done, but for what was received of blobs.
    fn everything(&self) -> Vec<String> {
        let all = ["blobs/sha256", "layers", "tmp", "leases"];
        all.iter()
            .flat_map(|folder| self.rest(folder).into_iter().map(move |name| format!("{folder}/{name}")))
            .collect()
    }

    /// What is below `images/`, without the layers' content.
    fn rest(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.directory.join("root/images").join(folder)) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "locks").collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).unwrap();
    }
}

/// Two layers; the second hides a file of the first.
fn sample() -> Vec<Vec<u8>> {
    let first = layer_tar(&[("bin/tool", 0o4755, b"tool"), ("etc/a", 0o644, b"a"), ("etc/b", 0o600, b"b")]);
    let second = layer_tar(&[("etc/.wh.a", 0, b""), ("data/c", 0o644, &[7; 300_000])]);
    vec![first, second]
}

#[test]
fn an_image_is_pulled_once_and_removed_whole() {
    let world = World::new();
    let registry = Registry::start(&world.directory, None);
    registry.push("team/app", "1.0", &sample(), None);
    let name = format!("{}/team/app:1.0", registry.address);
    let image = world.pull(&name).unwrap();
    assert_eq!(image.layers.len(), 2);
    let tool = fs::metadata(image.layers[0].join("bin/tool")).unwrap();
    assert_eq!(tool.permissions().mode() & 0o7777, 0o4755);
    let hidden = fs::symlink_metadata(image.layers[1].join("etc/a")).unwrap();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&hidden.file_type()), "a whiteout");
    assert_eq!(fs::read(image.layers[1].join("data/c")).unwrap().len(), 300_000);
    assert_eq!((world.rest("downloads"), world.rest("tmp")), (vec![], vec![]), "nothing is left of the way");

    let fetched = AtomicUsize::new(0);
    let count = |progress: Progress<'_>| {
        if matches!(progress, Progress::Downloading { .. }) {
            fetched.fetch_add(1, Ordering::Relaxed);
        }
    };
    let other = format!("{}/team/app@{}", registry.address, image.digest);
    let options = PullOptions { progress: &count, ..world.options() };
    assert_eq!(world.pull_with(&other, &options).unwrap().layers, image.layers);
    assert_eq!(fetched.load(Ordering::Relaxed), 0, "what is here is not fetched again");

    let missing = world.pull(&format!("{}/team/app:2.0", registry.address)).unwrap_err();
    assert!(matches!(missing, Error::Registry(RegistryError::NotFound { .. })), "{missing}");
    world.remove(&name);
    assert_eq!(world.rest("layers").len(), 2, "the other name still needs them");
    world.remove(&other);
    assert_eq!(world.rest("layers"), Vec::<String>::new());
}

#[test]
fn an_index_is_followed_for_the_platform() {
    let world = World::new();
    let registry = Registry::start(&world.directory, None);
    let arm = registry.push("app", "arm", &sample()[..1], None);
    let amd = registry.push("app", "amd", &sample(), None);
    registry.push_index("app", "all", &[("linux/arm64", &arm), ("linux/amd64", &amd)]);
    let name = format!("{}/app:all", registry.address);
    for (platform, layers) in [("linux/amd64", 2), ("arm64", 1)] {
        let options = PullOptions { platform: Some(platform), ..world.options() };
        assert_eq!(world.pull_with(&name, &options).unwrap().layers.len(), layers);
    }
    let options = PullOptions { platform: Some("linux/s390x"), ..world.options() };
    let error = world.pull_with(&name, &options).unwrap_err().to_string();
    assert!(error.contains("linux/arm64, linux/amd64"), "{error}");
}

#[test]
fn a_password_is_asked_for_and_used() {
    let world = World::new();
    let registry = Registry::start(&world.directory, Some(("ann", "s3cret")));
    registry.push("app", "1", &sample(), Some(("ann", "s3cret")));
    let name = format!("{}/app:1", registry.address);
    let anonymous = world.pull(&name).unwrap_err().to_string();
    assert!(anonymous.contains("HTTP 401") && anonymous.contains("config.json"), "{anonymous}");
    let pull = |password: &str| {
        let keyring = |place: &str| {
            assert_eq!(place, format!("{}/app", registry.address));
            Some(Credentials::Password { user: "ann".into(), password: password.into() })
        };
        let options = world.options();
        world.pull_with(&name, &PullOptions { access: Access { keyring: &keyring, ..options.access }, ..options })
    };
    let wrong = pull("guess").unwrap_err().to_string();
    assert!(wrong.contains("is wrong") && !wrong.contains("guess"), "{wrong}");
    assert_eq!(pull("s3cret").unwrap().layers.len(), 2);
}

#[test]
fn a_blob_that_was_changed_is_refused() {
    let world = World::new();
    let registry = Registry::start(&world.directory, None);
    registry.push("app", "1", &sample(), None);
    let digest = stack::runtime::image::Digest::of(&gzip(&sample()[1]));
    registry.corrupt(digest.hex());
    let error = world.pull(&format!("{}/app:1", registry.address)).unwrap_err();
    assert!(matches!(error, Error::Registry(RegistryError::Mismatch { .. })), "{error}");
    assert!(world.store.list().unwrap().is_empty());
    let left = world.rest("downloads");
    assert!(!left.iter().any(|name| name.starts_with(digest.hex())), "{left:?}");
}

#[test]
fn a_connection_that_breaks_off_is_resumed() {
    let world = World::new();
    let registry = Registry::start(&world.directory, None);
    let noise: Vec<u8> = (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    registry.push("app", "1", &[layer_tar(&[("noise", 0o644, &noise)])], None);
    let cutter = Cutter::start(&registry.address, 500_000);
    let image = world.pull(&format!("{}/app:1", cutter.address)).unwrap();
    assert!(fs::read(image.layers[0].join("noise")).unwrap() == noise);
    assert!(cutter.connections() > 3, "it was cut");
}

#[test]
fn a_registry_that_dies_is_an_error_and_a_later_pull_goes_on() {
    let world = World::new();
    let registry = Registry::start(&world.directory, None);
    let noise: Vec<u8> = (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    registry.push("app", "1", &[layer_tar(&[("noise", 0o644, &noise)])], None);
    let name = "app:1";
    let cutter = Cutter::start(&registry.address, 500_000);
    cutter.die_after(2);
    let error = world.pull(&format!("{}/{name}", cutter.address)).unwrap_err();
    assert!(matches!(error, Error::Registry(_)), "{error}");
    assert!(world.store.list().unwrap().is_empty());
    assert_eq!(world.rest("downloads").len(), 1, "what was received is kept");
    let first = Mutex::new(None);
    let note = |progress: Progress<'_>| {
        if let Progress::Downloading { received, .. } = progress {
            first.lock().unwrap().get_or_insert(received);
        }
    };
    let options = PullOptions { progress: &note, ..world.options() };
    world.pull_with(&format!("{}/{name}", registry.address), &options).unwrap();
    assert!(first.into_inner().unwrap().unwrap() > 300_000, "it went on where it was");
}

#[test]
fn two_pulls_of_one_image_fetch_it_once() {
    let world = World::new();
    let registry = Registry::start(&world.directory, None);
    registry.push("app", "1", &sample(), None);
    let name = format!("{}/app:1", registry.address);
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| world.pull(&name).unwrap().layers)).collect();
        for pull in pulls {
            assert!(pull.join().unwrap().iter().all(|layer| layer.is_dir()));
        }
    });
    assert_eq!(world.rest("layers").len(), 2);
}

#[test]
fn a_redirect_gets_no_password() {
    let world = World::new();
    let target = Target::start(|_| "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into());
    let away = target.address.clone();
    let asks = Target::start(move |request| {
        if request.to_ascii_lowercase().contains("authorization: basic") {
            format!(
                "HTTP/1.1 307 Moved\r\nlocation: http://{away}/elsewhere\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
        } else {
            "HTTP/1.1 401 No\r\nwww-authenticate: Basic realm=\"x\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                .into()
        }
    });
    let keyring = |_: &str| Some(Credentials::Password { user: "ann".into(), password: "s3cret".into() });
    let options = world.options();
    let options = PullOptions { access: Access { keyring: &keyring, ..options.access }, ..options };
    world.pull_with(&format!("{}/app:1", asks.address), &options).unwrap_err();
    let seen = target.requests();
    assert!(!seen.is_empty(), "it was redirected");
    assert!(seen.iter().all(|request| !request.to_ascii_lowercase().contains("authorization")), "{seen:?}");
}
