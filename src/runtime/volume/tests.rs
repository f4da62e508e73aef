use std::os::unix::fs::{PermissionsExt, chown, symlink};

use super::*;

/// A root of its own, gone with everything mounted in it.
struct Place(Roots);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("stack-volume-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("image")).unwrap();
        Self(Roots::new(path.join("root"), path.join("run")))
    }

    fn image(&self) -> PathBuf {
        self.0.root.parent().unwrap().join("image")
    }

    fn create(&self, name: &str, driver_opts: &[(&str, &str)]) -> Volume {
        create(&self.0, &config(name, driver_opts)).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for volume in list(&self.0).unwrap() {
            mounting::unmount_locked(&self.0, &volume).unwrap();
        }
        fs::remove_dir_all(self.0.root.parent().unwrap()).unwrap();
    }
}

fn config(name: &str, driver_opts: &[(&str, &str)]) -> VolumeConfig {
    let driver_opts = driver_opts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    VolumeConfig { name: name.to_owned(), driver_opts, ..VolumeConfig::default() }
}

#[test]
fn a_volume_is_made_once_listed_and_removed() {
    let place = Place::new("life");
    let roots = &place.0;
    let made = place.create("b", &[]);
    assert_eq!(made, place.create("b", &[]));
    place.create("a", &[]);
    assert_eq!(list(roots).unwrap().iter().map(|volume| volume.config.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    fs::write(made.data.join("x"), vec![1; 5000]).unwrap();
    assert!(size(roots, "b").unwrap() >= 8192);

    let used = remove(roots, "b", &["c1".to_owned()], Removal::Now).unwrap_err();
    assert_eq!(used.to_string(), "volume b is used by c1\n  help: remove these containers first");
    update(roots, &VolumeConfig { protect: true, ..config("b", &[]) }).unwrap();
    assert!(matches!(remove(roots, "b", &[], Removal::Now), Err(Error::Protected { .. })));
    update(roots, &config("b", &[])).unwrap();
    assert!(remove(roots, "b", &[], Removal::Now).unwrap());
    assert!(!remove(roots, "b", &[], Removal::Now).unwrap());
    assert!(!made.data.exists());
    assert!(matches!(create(roots, &config("a", &[("type", "tmpfs")])), Err(Error::Differs { .. })));
    for name in ["", ".", "..", "a/b", ".locks", "-a", "é"] {
        assert!(matches!(create(roots, &config(name, &[])), Err(Error::Name { .. })), "{name:?}");
        assert!(matches!(get(roots, name), Err(Error::Name { .. })), "{name:?}");
    }
}

#[test]
fn the_rest_of_a_create_or_remove_cut_short_is_cleared() {
    let place = Place::new("rest");
    let volume = place.create("v", &[]);
    fs::write(volume.data.join("old"), "").unwrap();
    fs::remove_file(directory(&place.0, "v").join(RECORD)).unwrap();
    assert_eq!(list(&place.0).unwrap(), []);
    assert!(!place.create("v", &[]).data.join("old").exists());
}

#[test]
fn a_bound_directory_outlives_its_volume() {
    let place = Place::new("bind");
    let device = place.image();
    fs::write(device.join("kept"), "").unwrap();
    let volume = place.create("v", &[("o", "bind,ro"), ("device", device.to_str().unwrap())]);
    let data = mount(&place.0, "v").unwrap();
    assert_eq!(mount(&place.0, "v").unwrap(), volume.data);
    assert!(data.join("kept").exists());
    assert!(fs::write(data.join("x"), "").is_err(), "must be read-only");
    assert!(remove(&place.0, "v", &[], Removal::Now).unwrap());
    assert!(device.join("kept").exists());
    assert_eq!(mounting::mounts_below(&place.0.root).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn a_volume_in_memory_has_its_size_and_a_foreign_mount_is_refused() {
    let place = Place::new("tmpfs");
    place.create("v", &[("type", "tmpfs"), ("o", "size=64k,mode=700")]);
    let data = mount(&place.0, "v").unwrap();
    assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(fs::write(data.join("x"), vec![0; 100_000]).is_err());
    unmount(&place.0, "v").unwrap();

    let plain = place.create("plain", &[]);
    let below = plain.data.join("below");
    fs::create_dir(&below).unwrap();
    nix::mount::mount(Some("t"), &below, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>).unwrap();
    assert!(matches!(remove(&place.0, "plain", &[], Removal::Now), Err(Error::Mounted { .. })));
    nix::mount::umount(&below).unwrap();
    assert!(remove(&place.0, "plain", &[], Removal::Now).unwrap());
}

fn fill(directory: &Path) {
    fs::create_dir_all(directory.join("deep/er")).unwrap();
    fs::write(directory.join("deep/er/file"), "text").unwrap();
    fs::hard_link(directory.join("deep/er/file"), directory.join("again")).unwrap();
    chown(directory.join("again"), Some(70), Some(71)).unwrap();
    fs::set_permissions(directory.join("again"), fs::Permissions::from_mode(0o4750)).unwrap();
    symlink("/etc/passwd", directory.join("link")).unwrap();
    nix::unistd::mkfifo(&directory.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o622)).unwrap();
    chown(directory, Some(33), Some(34)).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o1733)).unwrap();
}

#[test]
fn an_empty_volume_gets_the_content_of_the_image_once() {
    let place = Place::new("populate");
    let image = place.image();
    fs::create_dir(image.join("data")).unwrap();
    fill(&image.join("data"));
    symlink("/data", image.join("absolute")).unwrap();
    symlink("../../../../etc", image.join("escape")).unwrap();
    let volume = place.create("v", &[]);
    let data = &volume.data;
    let populate = |name: &str, target: &str| populate(&place.0, name, &image, Path::new(target)).unwrap();
    assert_eq!(populate("v", "/absent"), Populated::NothingToCopy);
    assert_eq!(populate("v", "/escape"), Populated::NothingToCopy, "must not leave the image");
    assert_eq!(populate("v", "/absolute"), Populated::Copied);

    let stat = |path: &Path| fs::symlink_metadata(path).unwrap();
    let (file, top) = (stat(&data.join("again")), stat(data));
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777, file.nlink()), (70, 71, 0o4750, 2));
    assert_eq!((top.uid(), top.gid(), top.mode() & 0o7777), (33, 34, 0o1733));
    assert_eq!(stat(&data.join("fifo")).mode() & 0o7777, stat(&image.join("data/fifo")).mode() & 0o7777);
    assert_eq!(file.mtime_nsec(), stat(&image.join("data/again")).mtime_nsec());
    assert_eq!(fs::read_to_string(data.join("deep/er/file")).unwrap(), "text");
    assert_eq!(fs::read_link(data.join("link")).unwrap(), Path::new("/etc/passwd"));

    fs::remove_file(data.join("again")).unwrap();
    assert_eq!(populate("v", "/data"), Populated::HadContent);
    assert!(!data.join("again").exists());
}

#[test]
fn half_a_copy_is_done_again() {
    let place = Place::new("half");
    let image = place.image();
    fs::write(image.join("file"), "whole").unwrap();
    let volume = place.create("v", &[]);
    fs::write(directory(&place.0, "v").join("populating"), "").unwrap();
    fs::write(volume.data.join("file"), "wh").unwrap();
    fs::create_dir(volume.data.join("stray")).unwrap();
    assert_eq!(populate(&place.0, "v", &image, Path::new("/")).unwrap(), Populated::Copied);
    assert_eq!(fs::read_to_string(volume.data.join("file")).unwrap(), "whole");
    assert!(!volume.data.join("stray").exists());
    assert_eq!(populate(&place.0, "v", &image, Path::new("/")).unwrap(), Populated::HadContent);
}

#[test]
fn what_was_removed_comes_back_whole_until_its_time_is_over() {
    let place = Place::new("trash");
    let roots = &place.0;
    let made = place.create("v", &[]);
    fs::write(made.data.join("word"), "first").unwrap();
    snapshot::take(roots, "v", "old", 7).unwrap();
    assert!(remove(roots, "v", &[], Removal::Trash).unwrap());
    assert!(get(roots, "v").unwrap().is_none() && list(roots).unwrap().is_empty());
    // Another one of its name has no part in it.
    let second = place.create("v", &[]);
    assert_eq!(fs::read_dir(&second.data).unwrap().count(), 0);
    let taken = trash::undelete(roots, "v", None).unwrap_err().to_string();
    assert!(taken.contains("volume v is there again") && taken.contains("--as NAME"), "{taken}");
    let back = trash::undelete(roots, "v", Some("w")).unwrap();
    assert_eq!((back.config.name.as_str(), back.created), ("w", made.created));
    assert_eq!(fs::read_to_string(back.data.join("word")).unwrap(), "first");
    assert_eq!(snapshot::list(roots, "w").unwrap()[0].created_ms, 7);
    assert!(matches!(trash::undelete(roots, "v", None), Err(Error::NotInTrash { .. })));
    // By time: what is older goes, and what was half deleted.
    remove(roots, "w", &[], Removal::Trash).unwrap();
    let half = roots.durable("volumes/.trash/half@5/_data");
    fs::create_dir_all(&half).unwrap();
    let removed = trash::list(roots).unwrap()[0].removed_ms;
    assert!(trash::purge(roots, removed - 1).unwrap().0.is_empty() && !half.exists());
    assert_eq!(trash::purge(roots, removed).unwrap().0[0].volume.config.name, "w");
    assert_eq!(fs::read_dir(roots.durable("volumes/.trash")).unwrap().count(), 0);
}

#[test]
fn a_host_says_how_long_the_trash_is_kept() {
    let mut place = Place::new("keep");
    place.0.etc = place.image();
    assert_eq!(trash::time_to_live(&place.0).unwrap().as_secs(), 72 * 3600);
    let file = place.0.etc.join("stack/volumes.toml");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "trash_days = 1").unwrap();
    let wrong = trash::time_to_live(&place.0).unwrap_err().to_string();
    assert!(wrong.contains("volumes.toml") && wrong.contains("trash_days"), "{wrong}");
    fs::write(&file, "trash_hours = 0").unwrap();
    place.create("v", &[]);
    remove(&place.0, "v", &[], Removal::Trash).unwrap();
    assert!(trash::list(&place.0).unwrap().is_empty());
}

#[test]
fn a_snapshot_comes_back_and_what_it_replaced_is_in_the_trash() {
    let place = Place::new("snapshot");
    let roots = &place.0;
    let made = place.create("v", &[]);
    fs::write(made.data.join("word"), "first").unwrap();
    fs::set_permissions(&made.data, fs::Permissions::from_mode(0o1730)).unwrap();
    snapshot::take(roots, "v", "one", 1).unwrap();
    fs::write(made.data.join("word"), "second").unwrap();
    fs::write(made.data.join("more"), "").unwrap();
    assert!(matches!(snapshot::take(roots, "v", "one", 2), Err(Error::SnapshotExists { .. })));
    let unknown = snapshot::restore(roots, "v", "two", &[], 3).unwrap_err().to_string();
    assert!(unknown.contains("it has one"), "{unknown}");
    assert!(matches!(snapshot::restore(roots, "v", "one", &["c".into()], 3), Err(Error::Running { .. })));
    // What was cut short is none, and is in nobody's way.
    for half in ["snapshots/two/_data", "restoring"] {
        fs::create_dir_all(roots.durable("volumes/v").join(half)).unwrap();
    }
    assert_eq!(snapshot::list(roots, "v").unwrap().len(), 1);
    snapshot::restore(roots, "v", "one", &[], 3).unwrap();
    assert_eq!(fs::read_to_string(made.data.join("word")).unwrap(), "first");
    assert_eq!(fs::metadata(&made.data).unwrap().permissions().mode() & 0o7777, 0o1730);
    assert!(!made.data.join("more").exists() && !roots.durable("volumes/v/restoring").exists());
    assert!(!roots.durable("volumes/v/snapshots/two").exists());
    let old = &trash::list(roots).unwrap()[0];
    assert_eq!(fs::read_to_string(old.volume.data.join("word")).unwrap(), "second");
    let copy = snapshot::clone(roots, &config("w", &[]), &made.data).unwrap();
    assert_eq!(fs::read_to_string(copy.data.join("word")).unwrap(), "first");
    assert!(matches!(snapshot::clone(roots, &config("w", &[]), &made.data), Err(Error::Exists { .. })));
    snapshot::remove(roots, "v", "one").unwrap();
    assert!(snapshot::list(roots, "v").unwrap().is_empty());
    place.create("memory", &[("type", "tmpfs")]);
    let backed = snapshot::take(roots, "memory", "one", 4).unwrap_err().to_string();
    assert!(backed.contains("volume export"), "{backed}");
}
