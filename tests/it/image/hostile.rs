//! Layers and archives by an author who means harm. Each is refused, whole, or unpacked inside; `canary` stands for the
//! host, of which nothing may change.

mod noise;
pub mod tar_of;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use stack::runtime::image::archive::{LoadOptions, load};

use super::World;
use super::server::gzip;
use tar_of::{Tar, blocks};

/// How it must end.
enum Outcome {
    /// The error says this; nothing of it stays.
    Refused(&'static str),
    /// The unpacked layer is so.
    Inside(fn(&Path)),
    /// Either, as long as the canary lives.
    Harmless,
}
use Outcome::{Harmless, Inside, Refused};

type Row = (&'static str, Tar, Outcome);

/// Everything there is to see of a directory.
fn state(directory: &Path) -> Vec<(String, u64, u32, u32, u64, Vec<u8>)> {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.push(directory.to_owned());
    entries.sort();
    let seen = |path: &std::path::PathBuf| {
        let data = fs::symlink_metadata(path).unwrap();
        let content = if data.is_file() { fs::read(path).unwrap() } else { Vec::new() };
        (path.display().to_string(), data.ino(), data.mode(), data.uid(), data.nlink(), content)
    };
    entries.iter().map(seen).collect()
}

/// Every inode below a directory.
fn inodes(directory: &Path) -> Vec<u64> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let data = fs::symlink_metadata(&path).unwrap();
        all.push(data.ino());
        if data.is_dir() {
            all.extend(inodes(&path));
        }
    }
    all
}

pub fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let (file, name) = (File::open(path).unwrap(), std::ffi::CString::new(name).unwrap());
    let mut value = vec![0; 4096];
    // SAFETY: the name ends with a NUL, and the buffer is as long as is said.
    let length = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(length).ok()?);
    Some(value)
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All rows are tried, whatever the first does.
fn check(settings: &str, rows: impl Fn(&Path) -> Vec<Row>, packed: impl Fn(&[u8]) -> Vec<u8>) {
    let world = World::with_settings(settings);
    let canary = world.directory.join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("file"), "alive").unwrap();
    fs::set_permissions(canary.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&canary, fs::Permissions::from_mode(0o751)).unwrap();
    let before = state(&canary);
    let mut failed = Vec::new();
    for (name, tar, outcome) in rows(&canary) {
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let path = world.directory.join("layer.tar");
            fs::write(&path, packed(&tar.end())).unwrap();
            let begun = Instant::now();
            let result = world.store.import_rootfs(&path, "hostile");
            assert!(begun.elapsed() < Duration::from_secs(10), "{name}: {:?}", begun.elapsed());
            assert_eq!(state(&canary), before, "{name}: {result:?}");
            match (&result, outcome) {
                (Err(error), Refused(word)) => {
                    let said = error.to_string();
                    assert!(said.contains(word), "{name}: no {word:?} in {said}");
                    assert!(!said.contains('\u{1b}'), "{name}: {said:?}");
                    assert_eq!(world.everything(), Vec::<String>::new(), "{name}: something half made stays");
                }
                (Ok(image), Inside(look)) => look(&image.layers[0]),
                (_, Harmless) => {}
                (result, _) => panic!("{name}: {result:?}"),
            }
            if let Ok(image) = result {
                let inside = inodes(&image.layers[0]);
                assert!(before.iter().all(|one| !inside.contains(&one.1)), "{name}: the host's file, by another name");
            }
        }));
        failed.extend(tried.err().map(|_| name));
        if world.store.get("hostile").unwrap().is_some() {
            world.remove("hostile");
        }
        assert_eq!(state(&canary), before, "{name}: removed");
    }
    assert!(failed.is_empty(), "{failed:?}");
}

fn as_it_is(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

fn names(canary: &Path) -> Vec<Row> {
    let host = canary.to_str().unwrap();
    let evil = b"evil";
    vec![
        ("dots", Tar::new().file("../../../../canary/new", evil), Refused("leads out")),
        ("dots in the middle", Tar::new().file("a/../../x", evil), Refused("leads out")),
        ("dots that come back", Tar::new().file("a/../x", evil), Refused("leads out")),
        ("dots behind escape codes", Tar::new().file("\u{1b}[31m/../../x", evil), Refused("leads out")),
        ("absolute", Tar::new().file(&format!("{host}/file"), evil), Harmless),
        (
            "absolute, inside",
            Tar::new().file("/etc/new", evil),
            Inside(|root| assert_eq!(text(&root.join("etc/new")), "evil")),
        ),
        ("two slashes", Tar::new().file("//a//b", evil), Inside(|root| assert_eq!(text(&root.join("a/b")), "evil"))),
        (
            "dots of no effect",
            Tar::new().file("./././a", evil),
            Inside(|root| assert_eq!(text(&root.join("a")), "evil")),
        ),
        ("a dot at its end", Tar::new().file("a/.", evil), Inside(|root| assert_eq!(text(&root.join("a")), "evil"))),
        ("no name", Tar::new().file("", evil), Refused("only a directory can be the root")),
        ("the root as a link", Tar::new().symlink(".", host), Refused("only a directory can be the root")),
        ("a NUL", Tar::new().pax(&[("path", b"a\0b")]).file("a", evil), Refused("NUL")),
        ("5000 bytes", Tar::new().long(b'L', "a/".repeat(2500).as_bytes()).file("a", evil), Refused("5000 bytes")),
        ("a name of 256 bytes", Tar::new().long(b'L', "a".repeat(256).as_bytes()).file("a", evil), Refused("too long")),
        ("1000 directories", Tar::new().pax(&[("path", "a/".repeat(1000).as_bytes())]).dir("a"), Harmless),
        (
            "escape codes",
            Tar::new().file("a\n\u{1b}]0;x\u{7}", evil),
            Inside(|root| assert_eq!(text(&root.join("a\n\u{1b}]0;x\u{7}")), "evil")),
        ),
        (
            "no text",
            Tar::new().pax(&[("path", b"\xff\xfe")]).file("a", evil),
            Inside(|root| {
                assert_eq!(text(&root.join(std::ffi::OsStr::from_bytes(b"\xff\xfe"))), "evil");
            }),
        ),
    ]
}

fn links(canary: &Path) -> Vec<Row> {
    let host = canary.to_str().unwrap();
    let file = format!("{host}/file");
    let up = format!("{}{host}", "../".repeat(20));
    let evil = b"evil";
    let chain = (0..50).fold(Tar::new(), |tar, at| tar.symlink(&format!("l{at}"), &format!("l{}", at + 1)));
    let to = |target: &str| Tar::new().symlink("l", target);
    vec![
        ("through a link", to(host).file("l/file", evil), Refused("No such file")),
        (
            "through a link, to be made",
            to("/made").dir("made").file("l/x", evil),
            Inside(|root| assert_eq!(text(&root.join("made/x")), "evil")),
        ),
        ("through dots in a link", to(&up).file("l/file", evil), Refused("No such file")),
        ("through a chain", chain.symlink("l50", host).file("l0/file", evil), Refused("")),
        ("a loop", to("m").symlink("m", "l").file("l/x", evil), Refused("symbolic links")),
        (
            "over a link",
            to(&file).file("l", evil),
            Inside(|root| assert!(fs::symlink_metadata(root.join("l")).unwrap().is_file())),
        ),
        (
            "a directory over a link",
            to(host).dir("l"),
            Inside(|root| assert!(fs::symlink_metadata(root.join("l")).unwrap().is_dir())),
        ),
        (
            "a device over a link",
            to(&file).device(b'3', "l", (1, 3)),
            Inside(|root| assert!(fs::symlink_metadata(root.join("l")).unwrap().file_type().is_char_device())),
        ),
        (
            "permissions through a link",
            to(host).edited(b'5', "l", "", b"", |h| h[100..107].copy_from_slice(b"0000777")),
            Inside(|root| assert!(fs::symlink_metadata(root.join("l")).unwrap().is_dir())),
        ),
        (
            "a directory that becomes a link",
            Tar::new().dir("d").symlink("d", host).file("d/file", evil),
            Refused("No such file"),
        ),
        (
            "a directory with files that becomes a link",
            Tar::new().file("d/x", evil).symlink("d", host).file("d/file", evil),
            Refused("No such file"),
        ),
        ("attributes through a link", to(host).pax(&[("SCHILY.xattr.user.evil", b"x")]).dir("l"), Inside(|_| ())),
        ("a link to procfs", to("/proc/self/root").file("l/x", evil), Refused("No such file")),
        (
            "a link to a descriptor",
            to("/proc/self/fd/0").file("l", evil),
            Inside(|root| assert_eq!(text(&root.join("l")), "evil")),
        ),
        ("a link without a target", to("").file("x", evil), Refused("without a target")),
        (
            "a link that is too long",
            Tar::new().long(b'K', "a/".repeat(2500).as_bytes()).symlink("l", "x"),
            Refused("5000 bytes"),
        ),
        (
            "links as data",
            to(&file),
            Inside(|root| assert!(fs::read_link(root.join("l")).unwrap().ends_with("canary/file"))),
        ),
        ("a hard link out", Tar::new().link("h", &file).file("h", evil), Refused("does not have")),
        ("a hard link by dots", Tar::new().link("h", "../../../../../../../../etc/shadow"), Refused("leads out")),
        ("a hard link by a link", to(host).link("h", "l/file"), Refused("does not have")),
        (
            "a hard link of a link",
            to(&file).link("h", "l"),
            Inside(|root| assert!(fs::symlink_metadata(root.join("h")).unwrap().is_symlink())),
        ),
        ("a hard link too early", Tar::new().link("h", "a").file("a", evil), Refused("does not have")),
        ("a hard link of itself", Tar::new().file("h", evil).link("h", "h"), Refused("does not have")),
        ("a hard link of the root", Tar::new().link("h", "/"), Refused("a link to the root")),
        ("a hard link of a directory", Tar::new().dir("d").link("h", "d"), Refused("")),
        (
            "a hard link that is written to",
            Tar::new().file("a", b"good").link("h", "a").file("h", evil),
            Inside(|root| assert_eq!((text(&root.join("a")), text(&root.join("h"))), ("good".into(), "evil".into()))),
        ),
        (
            "a hard link with content",
            Tar::new().file("a", b"good").edited(b'1', "h", "a", evil, |_| ()),
            Refused("is no file"),
        ),
        (
            "a name twice",
            Tar::new().file("a", b"first").file("a", b"second"),
            Inside(|root| assert_eq!(text(&root.join("a")), "second")),
        ),
        (
            "a tree that becomes a file",
            Tar::new().file("d/e/f", evil).file("d", b"file"),
            Inside(|root| assert_eq!(text(&root.join("d")), "file")),
        ),
        ("a file that becomes a tree", Tar::new().file("d", b"file").file("d/e", evil), Refused("")),
        (
            "names of one file",
            Tar::new().file("n", b"one").link("m", "n"),
            Inside(|root| assert_eq!(fs::metadata(root.join("m")).unwrap().nlink(), 2)),
        ),
    ]
}

fn whiteouts(canary: &Path) -> Vec<Row> {
    let host = canary.to_str().unwrap();
    let up = format!("{}{host}", "../".repeat(20));
    let to = |target: &str| Tar::new().symlink("l", target);
    let overlay = |name: &str| Tar::new().pax(&[(&format!("SCHILY.xattr.{name}"), b"y")]).dir("d");
    vec![
        ("by a link", to(host).file("l/.wh.file", b""), Refused("No such file")),
        ("by dots in a link", to(&up).file("l/.wh.file", b""), Refused("No such file")),
        ("opaque by a link", to(host).file("l/.wh..wh..opq", b""), Refused("No such file")),
        ("of dots", Tar::new().file(".wh...", b""), Refused("a whiteout of nothing")),
        ("of a dot", Tar::new().file(".wh..", b""), Refused("a whiteout of nothing")),
        ("of nothing", Tar::new().file(".wh.", b""), Refused("a whiteout of nothing")),
        ("something below one", Tar::new().file("a/.wh.b/x", b""), Refused("below a whiteout")),
        ("a directory of that name", Tar::new().dir(".wh.b").file(".wh.b/x", b""), Refused("below a whiteout")),
        (
            "notes of aufs",
            Tar::new().dir(".wh..wh.plnk").file(".wh..wh.aufs", b""),
            Inside(|root| assert_eq!(fs::read_dir(root).unwrap().count(), 0)),
        ),
        (
            "of a lower file",
            Tar::new().file("d/.wh.a", b""),
            Inside(|root| {
                let data = fs::symlink_metadata(root.join("d/a")).unwrap();
                assert!(data.file_type().is_char_device() && data.rdev() == 0);
            }),
        ),
        (
            "of its own file",
            Tar::new().file("a", b"own").file(".wh.a", b""),
            Inside(|root| assert_eq!(text(&root.join("a")), "own")),
        ),
        (
            "then the file",
            Tar::new().file(".wh.a", b"").file("a", b"own"),
            Inside(|root| assert_eq!(text(&root.join("a")), "own")),
        ),
        ("then a directory", Tar::new().file(".wh.a", b"").file("a/b", b"own"), Harmless),
        (
            "opaque",
            Tar::new().file("d/.wh..wh..opq", b"").file("d/a", b"own"),
            Inside(|root| {
                assert_eq!(attribute(&root.join("d"), "trusted.overlay.opaque").unwrap(), b"y");
                assert_eq!(text(&root.join("d/a")), "own");
            }),
        ),
        (
            "opaque behind its content",
            Tar::new().file("d/a", b"own").file("d/.wh..wh..opq", b""),
            Inside(|root| assert_eq!(text(&root.join("d/a")), "own")),
        ),
        (
            "overlayfs's own mark",
            overlay("trusted.overlay.opaque"),
            Inside(|root| assert_eq!(attribute(&root.join("d"), "trusted.overlay.opaque"), None)),
        ),
        (
            "overlayfs's redirection",
            overlay("trusted.overlay.redirect"),
            Inside(|root| assert_eq!(attribute(&root.join("d"), "trusted.overlay.redirect"), None)),
        ),
        (
            "overlayfs's mark of users",
            overlay("user.overlay.opaque"),
            Inside(|root| assert_eq!(attribute(&root.join("d"), "user.overlay.opaque"), None)),
        ),
        (
            "another's label",
            overlay("trusted.evil"),
            Inside(|root| assert_eq!(attribute(&root.join("d"), "trusted.evil"), None)),
        ),
        (
            "an attribute of users",
            overlay("user.mine"),
            Inside(|root| assert_eq!(attribute(&root.join("d"), "user.mine").unwrap(), b"y")),
        ),
    ]
}

/// `vfs_ns_cap_data`, revision 3: CAP_NET_BIND_SERVICE for the root of user id 1000.
pub const CAPABILITY: [u8; 24] = {
    let mut bytes = [0; 24];
    (bytes[3], bytes[0], bytes[5], bytes[20], bytes[21]) = (3, 1, 4, 0xe8, 3);
    bytes
};

fn metadata(_: &Path) -> Vec<Row> {
    let number = |at: usize, bytes: &'static [u8]| {
        move |header: &mut [u8; 512]| header[at..at + bytes.len()].copy_from_slice(bytes)
    };
    let file = |edit: fn(&mut [u8; 512])| Tar::new().edited(b'0', "f", "", b"x", edit);
    let pax = |key: &str, value: &[u8]| Tar::new().pax(&[(key, value)]).file("f", b"x");
    vec![
        (
            "set-id bits, and an owner",
            Tar::new().pax(&[("uid", b"70000"), ("gid", b"70001")]).edited(
                b'0',
                "f",
                "",
                b"x",
                number(100, b"0006755"),
            ),
            Inside(|root| {
                let data = fs::metadata(root.join("f")).unwrap();
                assert_eq!((data.uid(), data.gid(), data.mode() & 0o7777), (70000, 70001, 0o6755));
            }),
        ),
        (
            "a sticky directory",
            Tar::new().edited(b'5', "d", "", b"", number(100, b"0001777")),
            Inside(|root| assert_eq!(fs::metadata(root.join("d")).unwrap().mode() & 0o7777, 0o1777)),
        ),
        (
            "more bits than there are",
            file(|h| h[100..107].copy_from_slice(b"7777777")),
            Inside(|root| assert_eq!(fs::metadata(root.join("f")).unwrap().mode() & 0o7777, 0o7777)),
        ),
        (
            "the largest owner",
            pax("uid", b"4294967294"),
            Inside(|root| assert_eq!(fs::metadata(root.join("f")).unwrap().uid(), 4_294_967_294)),
        ),
        ("an owner beyond", pax("uid", b"4294967295"), Refused("an owner that is no number")),
        ("an owner that wraps", pax("uid", b"4294967296"), Refused("an owner that is no number")),
        ("a group that wraps", pax("gid", b"4294967296"), Refused("an owner that is no number")),
        (
            "a binary owner that wraps",
            file(|h| h[108..116].copy_from_slice(&[0x80, 0, 0, 1, 0, 0, 0, 0])),
            Refused("an owner that is no number"),
        ),
        ("a binary owner below zero", file(|h| h[108..116].copy_from_slice(&[0xff; 8])), Refused("below zero")),
        (
            "a size beyond numbers",
            file(|h| {
                h[124..136].copy_from_slice(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])
            }),
            Refused("too large"),
        ),
        (
            "a time before time",
            pax("mtime", b"-1.5"),
            Inside(|root| {
                let data = fs::metadata(root.join("f")).unwrap();
                assert_eq!((data.mtime(), data.mtime_nsec()), (-2, 500_000_000));
            }),
        ),
        (
            "a capability",
            pax("SCHILY.xattr.security.capability", &CAPABILITY),
            Inside(|root| assert_eq!(attribute(&root.join("f"), "security.capability").unwrap(), CAPABILITY)),
        ),
        ("a capability that is none", pax("SCHILY.xattr.security.capability", b"x"), Refused("Invalid argument")),
        ("an attribute that is too large", pax("SCHILY.xattr.user.x", &vec![b'x'; 70_000]), Refused("\"f\"")),
        (
            "a name of an attribute that is too long",
            pax(&format!("SCHILY.xattr.user.{}", "x".repeat(300)), b"x"),
            Refused("\"f\""),
        ),
        (
            "many attributes",
            Tar::new()
                .pax(&(0..2000).map(|n| (format!("SCHILY.xattr.user.{n}"), vec![b'x'; 100])).collect::<Vec<_>>())
                .file("f", b"x"),
            Harmless,
        ),
        (
            "a label of the host's",
            pax("SCHILY.xattr.security.selinux", b"evil"),
            Inside(|root| assert_eq!(attribute(&root.join("f"), "security.selinux"), None)),
        ),
        (
            "a block device",
            Tar::new().device(b'4', "sda", (8, 0)),
            Inside(|root| {
                let data = fs::symlink_metadata(root.join("sda")).unwrap();
                assert!(data.file_type().is_block_device() && nix::sys::stat::major(data.rdev()) == 8);
            }),
        ),
        (
            "memory",
            Tar::new().device(b'3', "mem", (1, 1)),
            Inside(|root| assert!(fs::symlink_metadata(root.join("mem")).unwrap().file_type().is_char_device())),
        ),
        (
            "a pipe",
            Tar::new().device(b'6', "pipe", (8, 1)),
            Inside(|root| assert!(fs::symlink_metadata(root.join("pipe")).unwrap().file_type().is_fifo())),
        ),
        ("a volume's label", Tar::new().device(b'V', "v", (0, 0)), Refused("unknown kind")),
        ("a part of a file", Tar::new().device(b'M', "v", (0, 0)), Refused("unknown kind")),
        ("nothing that is known", Tar::new().device(b'Z', "v", (0, 0)), Refused("unknown kind")),
        (
            "a file that is contiguous",
            Tar::new().edited(b'7', "f", "", b"x", |_| ()),
            Inside(|root| assert_eq!(text(&root.join("f")), "x")),
        ),
        ("a directory with content", Tar::new().edited(b'5', "d", "", b"x", |_| ()), Refused("is no file")),
    ]
}

fn headers(_: &Path) -> Vec<Row> {
    let evil = b"evil";
    let two = |one: Tar| one.file("f", b"x").file("hidden", evil);
    vec![
        (
            "the size of the extended header counts",
            Tar::new().pax(&[("size", b"4")]).raw_header(b'0', "f", 0).raw(&blocks(evil)).file("next", b"x"),
            Inside(|root| {
                assert_eq!((text(&root.join("f")), text(&root.join("next"))), ("evil".into(), "x".into()));
            }),
        ),
        ("a size below zero", Tar::new().pax(&[("size", b"-1")]).file("f", b"x"), Refused("not a number")),
        ("a size beyond all", Tar::new().pax(&[("size", b"18446744073709551615")]).file("f", b"x"), Refused("no size")),
        ("two extended headers", two(Tar::new().pax(&[("path", b"a")]).pax(&[("path", b"b")])), Refused("of one kind")),
        ("two long names", two(Tar::new().long(b'L', b"a").long(b'L', b"b")), Refused("of one kind")),
        (
            "a name in either way",
            two(Tar::new().pax(&[("path", b"a")]).long(b'L', b"b")),
            Refused("two extended headers"),
        ),
        (
            "a name in either way, turned",
            two(Tar::new().long(b'L', b"b").pax(&[("path", b"a")])),
            Refused("two extended headers"),
        ),
        ("a record that is too long", two(Tar::new().extended(b'x', b"99 path=a\n")), Refused("malformed")),
        ("a record without end", two(Tar::new().extended(b'x', b"9 path=ab")), Refused("malformed")),
        ("a record without a length", two(Tar::new().extended(b'x', b"path=a\n")), Refused("malformed")),
        ("a record that wraps", two(Tar::new().extended(b'x', b"18446744073709551617 path=a\n")), Refused("malformed")),
        ("a name for all", two(Tar::new().extended(b'g', b"10 path=a\n")), Refused("global header")),
        (
            "a comment for all",
            Tar::new().extended(b'g', b"13 comment=a\n").file("f", b"x"),
            Inside(|root| assert_eq!(text(&root.join("f")), "x")),
        ),
        ("an extended header without end", Tar::new().raw_header(b'x', "x", 100 << 20), Refused("more than 1048576")),
        ("a long name without end", Tar::new().raw_header(b'L', "x", 1 << 40), Refused("more than 1048576")),
        ("a long name and nothing", Tar::new().long(b'L', b"a"), Refused("behind an extended header")),
        (
            "a sparse file in the newer form",
            Tar::new().pax(&[("GNU.sparse.major", b"1")]).file("f", b"x"),
            Refused("sparse"),
        ),
        (
            "a sparse file",
            Tar::new().sparse("s", &[(2, 1), (1000, 3)], 2000, b"abcd"),
            Inside(|root| {
                let bytes = fs::read(root.join("s")).unwrap();
                assert_eq!((bytes.len(), bytes[2], bytes[1000], bytes[0]), (2000, b'a', b'b', 0));
            }),
        ),
        ("a sparse file of 8 TiB", Tar::new().sparse("s", &[(0, 1)], 8 << 40, b"a"), Refused("too large")),
        ("a sparse file that overlaps", Tar::new().sparse("s", &[(2, 3), (3, 1)], 2000, b"abcd"), Refused("overlap")),
        (
            "a sparse file beyond its end",
            Tar::new().sparse("s", &[(1999, 4)], 2000, b"abcd"),
            Refused("not what its header says"),
        ),
        (
            "a sparse file of less",
            Tar::new().sparse("s", &[(0, 3)], 2000, b"abcd"),
            Refused("not what its header says"),
        ),
        (
            "10 GB in a kilobyte",
            Tar::new().raw_header(b'0', "f", 10 << 30).raw(&[1; 1024]),
            Refused("ends within an entry"),
        ),
        ("an end within a header", Tar::new().file("f", b"x").raw(&[1; 100]).cut(), Refused("ends within a header")),
        ("an end within a file", Tar::new().file("f", &[1; 5000]).cut_to(3000), Refused("ends within an entry")),
        ("no mark of the end", Tar::new().file("f", b"x").cut(), Inside(|root| assert_eq!(text(&root.join("f")), "x"))),
        ("half a mark of the end", Tar::new().raw(&[0; 512]).file("f", b"x"), Refused("half a mark")),
        (
            "garbage behind the end",
            Tar::new().file("f", b"x").raw(&[0; 1024]).file("g", b"x"),
            Inside(|root| assert!(root.join("f").exists() && !root.join("g").exists())),
        ),
        ("a wrong sum", Tar::new().file("f", b"x").damage(100), Refused("sum is wrong")),
        ("no archive at all", Tar::new().raw(&[7; 1024]).cut(), Refused("sum is wrong")),
    ]
}

#[test]
fn names_stay_inside() {
    check("", names, as_it_is);
}

#[test]
fn links_lead_nowhere() {
    check("", links, as_it_is);
}

#[test]
fn whiteouts_hide_and_remove_nothing() {
    check("", whiteouts, as_it_is);
}

#[test]
fn what_an_entry_is_comes_exactly_or_not() {
    check("", metadata, as_it_is);
}

#[test]
fn headers_are_read_in_one_way() {
    check("", headers, as_it_is);
}

const SMALL: &str = "[limits]\nentries = 100\nexpansion = 100\nexpansion_bytes = 1048576\nunpacked_bytes = 30000000\n\
                     unpacked_factor = 1\npath_bytes = 50\nname_bytes = 20\nheader_bytes = 2000\n";

#[test]
fn bombs_are_refused_at_the_limit() {
    let zeros = |_: &Path| {
        vec![("zeros", Tar::new().file("zeros", &vec![0; 20 << 20]), Refused("expands to more than 100 times"))]
    };
    check(SMALL, zeros, gzip);
    check(SMALL, zeros, |bytes| zstd::encode_all(bytes, 19).unwrap());
    check(
        SMALL,
        |_| vec![("a packed package", Tar::new().file("f", b"x"), Refused("header"))],
        |bytes| gzip(&gzip(bytes)),
    );
    check(
        SMALL,
        |_| vec![("a window of 128 MiB", Tar::new().file("f", &vec![7; 9 << 20]), Refused("too much memory"))],
        |bytes| {
            let mut packer = zstd::Encoder::new(Vec::new(), 1).unwrap();
            packer.window_log(27).unwrap();
            packer.include_contentsize(false).unwrap();
            std::io::Write::write_all(&mut packer, bytes).unwrap();
            packer.finish().unwrap()
        },
    );
    let rows = |_: &Path| {
        vec![
            (
                "101 files",
                (0..101).fold(Tar::new(), |tar, n| tar.file(&n.to_string(), b"")),
                Refused("more than 100 entries"),
            ),
            (
                "100 files",
                (0..100).fold(Tar::new(), |tar, n| tar.file(&n.to_string(), b"")),
                Inside(|root| assert_eq!(fs::read_dir(root).unwrap().count(), 100)),
            ),
            (
                "31 MB",
                Tar::new().file("a", &vec![1; 16 << 20]).file("b", &vec![1; 15 << 20]),
                Refused("unpacks to more"),
            ),
            ("a path of 51 bytes", Tar::new().file(&"a/".repeat(26), b""), Refused("52 bytes, more than 50")),
            ("a name of 21 bytes", Tar::new().file(&"a".repeat(21), b""), Refused("too long")),
            (
                "a header of 2001 bytes",
                Tar::new().extended(b'x', &[b' '; 2001]).file("a", b""),
                Refused("2001 bytes, more than 2000"),
            ),
        ]
    };
    check(SMALL, rows, as_it_is);
}

/// Less than `reserve_bytes` would be left: nothing is written.
#[test]
fn the_reserve_of_the_disk_is_not_touched() {
    let rows = |_: &Path| vec![("70 MB", Tar::new().file("a", &vec![1; 70 << 20]), Refused("disk is nearly full"))];
    check("[limits]\nreserve_bytes = 9000000000000000\n", rows, as_it_is);
}

#[test]
fn archives_of_images_are_read_by_name_and_within() {
    let world = World::new();
    let secret = world.directory.join("secret");
    fs::write(&secret, "secret").unwrap();
    let layer = Tar::new().file("f", b"x").end();
    let digest = stack::runtime::image::Digest::of(&layer);
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest]}})
    .to_string();
    let manifest = |tags: &[&str], layer: &str| {
        serde_json::json!([{"Config": "config.json", "RepoTags": tags, "Layers": [layer]}]).to_string()
    };
    let with =
        |manifest: &str| Tar::new().file("manifest.json", manifest.as_bytes()).file("config.json", config.as_bytes());
    let index = |digest: &str| {
        serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest, "size": 3}]})
        .to_string()
    };
    let app = ["app:1"];
    let rows: Vec<(&str, Tar, Result<(), &str>)> = vec![
        ("a good one", with(&manifest(&app, "layer.tar")).file("layer.tar", &layer), Ok(())),
        (
            "a layer by a link within",
            with(&manifest(&app, "l")).file("layer.tar", &layer).symlink("l", "layer.tar"),
            Ok(()),
        ),
        (
            "a layer that is a link out",
            with(&manifest(&app, "l")).symlink("l", secret.to_str().unwrap()),
            Err("\"l\" is missing"),
        ),
        (
            "a layer that is a hard link out",
            with(&manifest(&app, "l")).link("l", secret.to_str().unwrap()),
            Err("\"l\" is missing"),
        ),
        ("a layer by dots", with(&manifest(&app, "../../secret")).file("layer.tar", &layer), Err("is missing")),
        (
            "a layer by its path",
            with(&manifest(&app, secret.to_str().unwrap())).file("layer.tar", &layer),
            Err("is missing"),
        ),
        (
            "a member by dots",
            with(&manifest(&app, "layer.tar")).file("layer.tar", &layer).file("../../evil", b"x"),
            Ok(()),
        ),
        (
            "another layer",
            with(&manifest(&app, "layer.tar")).file("layer.tar", &Tar::new().file("g", b"").end()),
            Err("expected sha256:"),
        ),
        (
            "a tag twice",
            with(&manifest(&["app:1", "app:1"], "layer.tar")).file("layer.tar", &layer),
            Err("stands twice"),
        ),
        (
            "a manifest twice",
            with(&manifest(&app, "layer.tar")).file("layer.tar", &layer).file("manifest.json", b"[]"),
            Err("is in it twice"),
        ),
        (
            "a manifest of 4 GB",
            Tar::new().raw_header(b'0', "manifest.json", 4 << 30).raw(&[b' '; 1024]),
            Err("ends within"),
        ),
        (
            "a manifest that is too large",
            Tar::new().file("manifest.json", &vec![b' '; 5 << 20]),
            Err("larger than 4194304"),
        ),
        (
            "a configuration that is too large",
            Tar::new().file("manifest.json", manifest(&app, "l").as_bytes()).file("config.json", &vec![b' '; 5 << 20]),
            Err("larger than 4194304"),
        ),
        ("an index out", Tar::new().file("index.json", index("sha256:../../secret").as_bytes()), Err("index.json")),
        (
            "an index of nothing",
            Tar::new().file("index.json", index(&format!("sha256:{}", "a".repeat(64))).as_bytes()),
            Err("is missing"),
        ),
        (
            "JSON that is too deep",
            Tar::new().file("manifest.json", "[".repeat(100_000).as_bytes()),
            Err("deeper than 64"),
        ),
        ("no image", Tar::new().file("a", b""), Err("neither a docker archive")),
        ("no images", Tar::new().file("manifest.json", b"[]"), Err("no image in it")),
    ];
    for (name, tar, expected) in rows {
        let path = world.directory.join("image.tar");
        fs::write(&path, tar.end()).unwrap();
        match (load(&world.store, &path, LoadOptions::default(), &|_| ()), expected) {
            (Ok(images), Ok(())) => {
                assert_eq!(text(&images[0].layers[0].join("f")), "x", "{name}");
                world.remove("app:1");
            }
            (Err(error), Err(word)) => assert!(error.to_string().contains(word), "{name}: {error}"),
            (result, _) => panic!("{name}: {result:?}"),
        }
        assert_eq!(world.everything(), Vec::<String>::new(), "{name}: something stays");
        assert!(!world.directory.join("evil").exists() && text(&secret) == "secret");
    }
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
