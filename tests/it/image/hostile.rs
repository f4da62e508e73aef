//! Layers by an author who means harm. `canary` stands for the host: nothing of it may change.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use tar::{Builder, EntryType, Header};

use super::World;

/// An entry: kind, path, link target, content.
type Entry<'a> = (EntryType, &'a str, &'a str, &'a [u8]);

fn tarball(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (kind, path, link, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(if *kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_size(content.len() as u64);
        // Raw, since the library refuses to write what it is to be tested with.
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Everything there is to see of a directory.
fn state(directory: &Path) -> Vec<(String, u64, u32, u32, Vec<u8>)> {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.push(directory.to_owned());
    entries.sort();
    let seen = |path: &std::path::PathBuf| {
        let data = fs::metadata(path).unwrap();
        let content = if data.is_file() { fs::read(path).unwrap() } else { Vec::new() };
        (path.display().to_string(), data.ino(), data.mode(), data.nlink() as u32, content)
    };
    entries.iter().map(seen).collect()
}

#[test]
fn no_layer_reaches_the_host() {
    use EntryType as T;
    let world = World::new();
    let canary = world.directory.join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("file"), "alive").unwrap();
    fs::set_permissions(canary.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let before = state(&canary);
    let host = canary.to_str().unwrap();
    let file = format!("{host}/file");
    let up = format!("{}{host}", "../".repeat(20));
    let evil: &[u8] = b"evil";
    let table: Vec<(&str, Vec<Entry<'_>>)> = vec![
        ("dots", vec![(T::Regular, "../../../../canary/new", "", evil)]),
        ("absolute", vec![(T::Regular, &file, "", evil)]),
        ("through a link", vec![(T::Symlink, "l", host, b""), (T::Regular, "l/file", "", evil)]),
        ("through dots in a link", vec![(T::Symlink, "l", &up, b""), (T::Regular, "l/file", "", evil)]),
        ("over a link", vec![(T::Symlink, "l", &file, b""), (T::Regular, "l", "", evil)]),
        ("a directory over a link", vec![(T::Symlink, "l", host, b""), (T::Directory, "l", "", b"")]),
        ("hard link", vec![(T::Link, "h", &file, b""), (T::Regular, "h", "", evil)]),
        ("hard link by dots", vec![(T::Link, "h", "../../../../../../../../etc/shadow", b"")]),
        ("hard link by a link", vec![(T::Symlink, "l", host, b""), (T::Link, "h", "l/file", b"")]),
        ("whiteout by a link", vec![(T::Symlink, "l", host, b""), (T::Regular, "l/.wh.file", "", b"")]),
        ("whiteout of dots", vec![(T::Regular, ".wh...", "", b"")]),
        ("whiteout of a dot", vec![(T::Regular, ".wh..", "", b"")]),
        ("whiteout of nothing", vec![(T::Regular, ".wh.", "", b"")]),
        ("opaque by a link", vec![(T::Symlink, "l", host, b""), (T::Regular, "l/.wh..wh..opq", "", b"")]),
        ("a loop", vec![(T::Symlink, "a", "b", b""), (T::Symlink, "b", "a", b""), (T::Regular, "a/x", "", evil)]),
        ("unknown kind", vec![(T::new(b'V'), "v", "", b"")]),
        ("a link to procfs", vec![(T::Symlink, "p", "/proc/self/root", b""), (T::Regular, "p/x", "", evil)]),
    ];
    for (name, entries) in table {
        let path = world.directory.join("layer.tar");
        fs::write(&path, tarball(&entries)).unwrap();
        // Refused or kept inside; the canary says which it may not be.
        let result = world.store.import_rootfs(&path, "hostile");
        assert_eq!(state(&canary), before, "{name}: {result:?}");
        if let Ok(image) = result {
            for entry in fs::read_dir(&image.layers[0]).unwrap() {
                let data = fs::symlink_metadata(entry.unwrap().path()).unwrap();
                assert_ne!(data.ino(), before[1].1, "{name}: a link of the host's file");
            }
        }
    }
}

#[test]
fn the_later_of_two_entries_counts() {
    use EntryType as T;
    let world = World::new();
    let path = world.directory.join("layer.tar");
    let entries: Vec<Entry<'_>> = vec![
        (T::Regular, "a", "", b"first"),
        (T::Regular, "a", "", b"second"),
        (T::Directory, "d", "", b""),
        (T::Regular, "d/x", "", b"x"),
        (T::Regular, "d", "", b"now a file"),
        (T::Regular, "n", "", b"one"),
        (T::Link, "m", "n", b""),
    ];
    fs::write(&path, tarball(&entries)).unwrap();
    let image = world.store.import_rootfs(&path, "twice").unwrap();
    let read = |name: &str| fs::read_to_string(image.layers[0].join(name)).unwrap();
    assert_eq!((read("a"), read("d"), read("m")), ("second".into(), "now a file".into(), "one".into()));
    assert_eq!(fs::metadata(image.layers[0].join("m")).unwrap().nlink(), 2);
}

#[test]
fn truncation_is_refused() {
    use EntryType as T;
    let world = World::new();
    let path = world.directory.join("layer.tar");
    let whole = tarball(&[(T::Regular, "a", "", &[1; 5000])]);
    fs::write(&path, &whole[..3000]).unwrap();
    assert!(world.store.import_rootfs(&path, "cut").is_err());
    assert!(world.store.get("cut").unwrap().is_none());
}

#[test]
fn a_link_in_a_directory_that_is_imported_stays_a_link() {
    let world = World::new();
    let tree = world.directory.join("tree");
    fs::create_dir(&tree).unwrap();
    symlink("/etc/shadow", tree.join("l")).unwrap();
    fs::write(tree.join("f"), "f").unwrap();
    let image = world.store.import_rootfs(&tree, "tree").unwrap();
    assert_eq!(fs::read_link(image.layers[0].join("l")).unwrap(), Path::new("/etc/shadow"));
    assert_eq!(fs::read_to_string(image.layers[0].join("f")).unwrap(), "f");
}
