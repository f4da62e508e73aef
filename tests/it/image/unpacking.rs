//! What layers hold is what containers see, whoever is root in them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use stack::runtime::image::Digest;

use super::hostile::tar_of::Tar;
use super::hostile::{CAPABILITY, attribute};
use super::memory::peak_of;
use super::registries::User;
use super::server::{Registry, gzip, layer_tar};
use crate::support::{World, eventually};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn owned(tar: Tar, uid: u32) -> Tar {
    let id = uid.to_string();
    tar.pax(&[("uid", id.as_bytes()), ("gid", id.as_bytes())])
}

fn layers() -> [Vec<u8>; 2] {
    let busybox = fs::read("/bin/busybox").unwrap();
    let base =
        Tar::new().dir("bin").edited(b'0', "bin/busybox", "", &busybox, |h| h[100..107].copy_from_slice(b"0000755"));
    let base =
        owned(base.dir("etc"), 1000).edited(b'0', "etc/own", "", b"own", |h| h[100..107].copy_from_slice(b"0006750"));
    let base = base.link("etc/again", "etc/own").file("etc/gone", b"gone").dir("o").file("o/old", b"old").dir("data");
    let base = base.sparse("data/sparse", &[(1 << 20, 4)], 64 << 20, b"word").symlink("data/link", "../etc/own");
    let base = base.pax(&[("SCHILY.xattr.user.mine", b"yes".as_slice())]).file("data/named", b"x");
    let base = base.pax(&[("SCHILY.xattr.security.capability", CAPABILITY.as_slice())]).file("data/able", b"x");
    let top =
        Tar::new().dir("etc").file("etc/.wh.gone", b"").dir("o").file("o/.wh..wh..opq", b"").file("o/new", b"new");
    let top = owned(top, 65_535).file("data/last", b"x").link("data/other", "data/last").file("data/.wh.link", b"");
    [base.end(), top.end()]
}

const LOOK: &str = "busybox stat -c '%n %u %g %a %h %s' /etc/own /etc/again /data/last /data/other /data/sparse; \
                    busybox ls /etc /o /data; busybox tail -c +1048577 /data/sparse | busybox head -c 4";
const SEEN: &str = "/etc/own 1000 1000 6750 2 3\n/etc/again 1000 1000 6750 2 3\n/data/last 65535 65535 644 2 1\n\
                    /data/other 65535 65535 644 2 1\n/data/sparse 0 0 644 1 67108864\n\
                    /data:\nable\nlast\nnamed\nother\nsparse\n\n/etc:\nagain\nown\n\n/o:\nnew\nword";

fn files(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

#[test]
fn what_layers_hold_is_there_and_no_user_namespace_copies_it() {
    let world = World::new();
    let user = User { world: &world };
    let registry = Registry::start(&world.directory, None);
    registry.push("app", "1", &layers(), None);
    let image = format!("{}/app:1", registry.address);
    user.ok(&["pull", &image]);
    let trees = world.roots.root.join("images/layers");
    let [base, top] = layers().map(|layer| trees.join(Digest::of(&layer).hex()).join("fs"));
    assert!(fs::metadata(base.join("data/sparse")).unwrap().blocks() < 100, "holes stay holes");
    for (name, userns) in [("host", "host"), ("mapped", "private")] {
        let run =
            ["run", "-d", "--name", name, "--userns", userns, "--network", "none", "--stop-signal", "KILL", &image];
        user.ok(&[&run[..], &["/bin/busybox", "sleep", "1000"]].concat());
        let output = user.ok(&["exec", name, "/bin/busybox", "sh", "-c", LOOK]);
        // The engine's own files are in every container's `/etc`.
        let made = ["hostname", "hosts", "resolv.conf", "mtab"];
        let seen: Vec<&str> = output.lines().filter(|line| !made.contains(line)).collect();
        assert_eq!(seen.join("\n"), SEEN, "{userns}");
        let pid = world.field(name, "pid");
        let root = Path::new("/proc").join(pid.to_string()).join("root");
        assert_eq!(attribute(&root.join("data/named"), "user.mine").unwrap(), b"yes", "{userns}");
        if userns == "host" {
            assert_eq!(attribute(&root.join("data/able"), "security.capability").unwrap(), CAPABILITY);
        }
        let upper = world.roots.root.join("containers").join(name).join("upper");
        assert_eq!(files(&upper), 0, "{userns}: nothing of the image was copied");
        assert_eq!(fs::metadata(base.join("etc/own")).unwrap().uid(), 1000, "{userns}");
        assert_eq!(fs::metadata(top.join("data/last")).unwrap().uid(), 65_535, "{userns}");
    }
    assert_eq!(fs::read_dir(&trees).unwrap().count(), 2);
    user.ok(&["image", "verify"]);
    user.ok(&["rm", "-f", "host", "mapped"]);
    eventually("they are gone", || world.names().is_empty());
}

/// As the formats' descriptions say: ordinary layers for who does not know them, with a table of what is where.
#[test]
fn layers_made_to_be_read_in_pieces_are_ordinary_ones() {
    let world = World::new();
    let user = User { world: &world };
    let registry = Registry::start(&world.directory, None);
    let busybox = fs::read("/bin/busybox").unwrap();
    let table =
        json!({"version": 1, "entries": [{"name": "bin/busybox", "type": "reg", "size": busybox.len()}]}).to_string();

    // eStargz: a member of gzip for each entry, a mark, the table as an entry, a footer that is an empty member.
    let entries: Vec<(&str, u32, &[u8])> = vec![
        (".no.prefetch.landmark", 0o644, &[0xf]),
        ("bin/busybox", 0o755, &busybox),
        ("stargz.index.json", 0o644, table.as_bytes()),
    ];
    let parts: Vec<Vec<u8>> = entries
        .iter()
        .enumerate()
        .map(|(at, entry)| {
            let tar = layer_tar(&[*entry]);
            let marks = if at + 1 == entries.len() { 0 } else { 1024 };
            tar[..tar.len() - marks].to_vec()
        })
        .collect();
    let plain = parts.concat();
    let mut footer = flate2::GzBuilder::new()
        .extra(format!("SG\x16\x00{:016x}STARGZ", 51))
        .write(Vec::new(), flate2::Compression::none());
    footer.flush().unwrap();
    let footer = footer.finish().unwrap();
    let stargz = [parts.iter().map(|part| gzip(part)).collect::<Vec<_>>().concat(), footer].concat();

    // zstd:chunked: a frame for each entry, the table and the footer in frames that others skip.
    let skipped = |text: &[u8]| [&0x184d_2a50_u32.to_le_bytes(), &(text.len() as u32).to_le_bytes(), text].concat();
    let frames: Vec<u8> = parts.iter().flat_map(|part| zstd::encode_all(part.as_slice(), 3).unwrap()).collect();
    let packed_table = zstd::encode_all(table.as_bytes(), 3).unwrap();
    let chunked = [frames, skipped(&packed_table), skipped(&[b"GNUlInUx".as_slice(), &[0; 56]].concat())].concat();

    let chunked_notes = json!({"io.github.containers.zstd-chunked.manifest-checksum": Digest::of(&packed_table).to_string(),
        "io.github.containers.zstd-chunked.manifest-position": "1:2:3:1"});
    let stargz_notes = json!({"containerd.io/snapshot/stargz/toc.digest": Digest::of(table.as_bytes()).to_string(),
        "io.containers.estargz.uncompressed-size": plain.len().to_string()});
    for (tag, kind, packed, notes) in
        [("chunked", "zstd", chunked, chunked_notes), ("stargz", "gzip", stargz, stargz_notes)]
    {
        let config = json!({"architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&plain)]}});
        let mut config = registry.blob("app", config.to_string().as_bytes(), None);
        config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        let mut layer = registry.blob("app", &packed, None);
        layer["mediaType"] = format!("application/vnd.oci.image.layer.v1.tar+{kind}").into();
        layer["annotations"] = notes;
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
        let pushed = registry.document("app", tag, MANIFEST, &manifest, None);
        let image = format!("{}/app:{tag}", registry.address);
        let run = ["run", "--rm", "--network", "none", &image, "/bin/busybox", "echo", "alive"];
        assert_eq!(user.ok(&run), "alive\n", "{tag}");
        user.ok(&["image", "verify"]);
        user.ok(&["push", &image, &format!("{}/again:{tag}", registry.address)]);
        let digest = user.ok(&["images", "--format", "{{.Digest}}", &image]);
        assert_eq!(pushed["digest"], digest.trim(), "{tag}: with its annotations");
        user.ok(&["rmi", &image]);
    }
}

/// Who a user is stands in files of the image, which can be anything: read within the image, soon, and in no more memory
/// than is theirs.
#[test]
fn files_of_users_that_are_none_end_no_engine() {
    let world = World::new();
    let user = User { world: &world };
    let secret = world.file("secret", "app:x:0:0::/:/bin/sh\n");
    let line = "x".repeat(100 << 20);
    let base = || {
        Tar::new().dir("bin").edited(b'0', "bin/busybox", "", &fs::read("/bin/busybox").unwrap(), |h| {
            h[100..107].copy_from_slice(b"0000755");
        })
    };
    let run = ["run", "--rm", "--network", "none", "--user", "app"];
    let (least, said) = peak_of(&user, &[&run[..], &["builtin:whoami", "id"]].concat());
    assert!(!said.contains("error"), "{said}");
    for (name, tar) in [
        ("the-hosts", base().dir("etc").symlink("etc/passwd", secret.to_str().unwrap())),
        ("endless", base().dir("etc").symlink("etc/passwd", "/dev/zero")),
        ("a-device", base().dir("etc").device(b'3', "etc/passwd", (1, 5))),
        ("a-pipe", base().dir("etc").device(b'6', "etc/passwd", (0, 0))),
        ("a-directory", base().dir("etc").dir("etc/passwd")),
        ("holes", base().dir("etc").sparse("etc/passwd", &[(0, 1)], 4 << 30, b"x")),
        ("one-line", base().dir("etc").file("etc/passwd", line.as_bytes())),
    ] {
        let archive = world.directory.join("root.tar");
        fs::write(&archive, tar.end()).unwrap();
        user.ok(&["import", archive.to_str().unwrap(), name]);
        let begun = Instant::now();
        let (most, said) = peak_of(&user, &[&run[..], &[name, "/bin/busybox", "id"]].concat());
        assert!(said.contains("error") && said.contains("app"), "{name}: {said}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{name}: {:?}", begun.elapsed());
        assert!(most < least + (32 << 10), "{name}: {most} KiB, for a small one {least}");
        user.ok(&["rmi", name]);
    }
}
