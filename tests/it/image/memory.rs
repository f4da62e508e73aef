//! How much memory images take, whatever is in them: no more than [`ROOM`] beyond what the smallest one takes.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::process::Stdio;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use stack::runtime::image::Digest;

use super::hostile::tar_of::Tar;
use super::proxy::Proxy;
use super::registries::User;
use super::server::{Registry, gzip};
use super::storing::layer;
use crate::support::World;

/// In KiB.
const ROOM: u64 = 64 << 10;

/// Writes, and hashes what it writes.
struct Hashed<W>(W, Sha256);

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.0.write(bytes)?;
        self.1.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A tar of one file of zeros, written to `packer`.
fn zeros<W: Write>(packer: W, length: u64) -> (W, Digest) {
    let mut tar = tar::Builder::new(Hashed(packer, Sha256::new()));
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(length);
    tar.append_data(&mut header, "zeros", io::repeat(0).take(length)).unwrap();
    let Hashed(packer, hasher) = tar.into_inner().unwrap();
    let hex: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    (packer, Digest::parse(&format!("sha256:{hex}")).unwrap())
}

/// The largest that the program was while it did this, in KiB, and what it said of what was wrong.
pub fn peak_of(user: &User<'_>, words: &[&str]) -> (u64, String) {
    let said = user.world.directory.join("said");
    let mut child = user.command(words).stdout(Stdio::null()).stderr(File::create(&said).unwrap()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        most = most.max(now);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let (status, said) = (child.wait().unwrap(), fs::read_to_string(said).unwrap());
    assert_eq!(status.success(), !said.contains("error:"), "{words:?}: {status}: {said}");
    (most, said)
}

fn peak(user: &User<'_>, words: &[&str]) -> u64 {
    let (most, said) = peak_of(user, words);
    assert!(!said.contains("error:"), "{words:?}: {said}");
    most
}

#[test]
fn a_large_layer_takes_no_more_memory_than_a_small_one() {
    const LARGE: u64 = 400 << 20;
    let world = World::new();
    let user = User { world: &world };
    let registry = Registry::start(&world.directory, None);
    registry.push("app", "small", &[layer("small", 1000)], None);
    let (packer, by_gzip) = zeros(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()), LARGE);
    registry.push_packed("app", "gzip", &packer.finish().unwrap(), "gzip", &by_gzip);
    let mut packer = zstd::Encoder::new(Vec::new(), 1).unwrap();
    // The largest window that everybody must read.
    packer.window_log(23).unwrap();
    let (packer, by_zstd) = zeros(packer, LARGE / 2);
    registry.push_packed("app", "zstd", &packer.finish().unwrap(), "zstd", &by_zstd);
    registry.push("app", "noise", &[layer("noise", 24 << 20)], None);

    let image = |tag: &str| format!("{}/app:{tag}", registry.address);
    let base = peak(&user, &["pull", &image("small")]);
    assert!(base > 1000, "it was measured: {base}");
    for tag in ["gzip", "zstd", "noise"] {
        let most = peak(&user, &["pull", &image(tag)]);
        assert!(most < base + ROOM, "{tag}: {most} KiB, for a small one {base}");
    }
    let most = peak(&user, &["push", &image("noise"), &image("again")]);
    assert!(most < base + ROOM, "push: {most} KiB, for a small one {base}");
}

/// A zstd frame that begins so and then has nothing: magic number, frame header (RFC 8878, section 3.1.1).
fn frame(header: &[u8]) -> Vec<u8> {
    [&[0x28, 0xb5, 0x2f, 0xfd], header, &[1, 0, 0]].concat()
}

/// Compressed layers that are there to take memory, and what is said of them; nothing where they are taken.
fn hostile_layers() -> Vec<(&'static str, &'static str, Vec<u8>, &'static str)> {
    let mut window = zstd::Encoder::new(Vec::new(), 1).unwrap();
    window.window_log(27).unwrap();
    window.include_contentsize(false).unwrap();
    window.write_all(&Tar::new().file("f", &vec![7; 9 << 20]).end()).unwrap();
    let attributes = |count: usize| {
        let one = |n: usize| (format!("SCHILY.xattr.user.{n:06}"), Vec::new());
        Tar::new().pax(&(0..count).map(one).collect::<Vec<_>>()).file("f", b"x").end()
    };
    let comments =
        (0..200).fold(Tar::new(), |tar, n| tar.pax(&[("comment", vec![b'c'; 1_000_000])]).file(&n.to_string(), b"x"));
    let long = format!("{}/", "d".repeat(250)).repeat(14);
    let directories = (0..25_000).fold(Tar::new(), |tar, n| tar.long(b'L', format!("{long}{n}").as_bytes()).dir("d"));
    let pieces: Vec<(u64, u64)> = (0..4).map(|n| (n << 30, 1)).collect();
    let sparse = (0..2000).fold(Tar::new(), |tar, n| tar.sparse(&n.to_string(), &pieces, 1 << 33, b"abcd"));
    vec![
        ("a window of 128 MiB", "zstd", window.finish().unwrap(), "too much memory"),
        ("a window of 2 GiB", "zstd", frame(&[0x00, 0xa8]), "can't be read"),
        ("one piece of 1 TiB", "zstd", frame(&[0xe0, 0, 0, 0, 0, 0, 1, 0, 0]), "can't be read"),
        ("attributes without end", "gzip", gzip(&attributes(33_000)), "error"),
        ("an extended header without end", "gzip", gzip(&attributes(600_000)), "more than 1048576"),
        ("large extended headers", "gzip", gzip(&comments.end()), ""),
        ("long paths of many directories", "gzip", gzip(&directories.end()), ""),
        ("sparse files", "gzip", gzip(&sparse.end()), "unpacks to more"),
    ]
}

#[test]
fn a_hostile_layer_takes_no_more_memory_than_a_small_one() {
    let world = World::new();
    let user = User { world: &world };
    let registry = Registry::start(&world.directory, None);
    registry.push("app", "small", &[layer("small", 1000)], None);
    let image = |tag: &str| format!("{}/app:{tag}", registry.address);
    let base = peak(&user, &["pull", &image("small")]);
    for (name, kind, packed, expected) in hostile_layers() {
        let mut plain = Vec::new();
        if expected.is_empty() {
            flate2::read::MultiGzDecoder::new(packed.as_slice()).read_to_end(&mut plain).unwrap();
        }
        let tag = name.replace(' ', "-");
        registry.push_packed("app", &tag, &packed, kind, &Digest::of(&plain));
        let (most, said) = peak_of(&user, &["pull", &image(&tag)]);
        assert!(said.contains(expected) && said.contains("error:") != expected.is_empty(), "{name}: {said}");
        assert!(most < base + ROOM, "{name}: {most} KiB, for a small one {base}");
        if expected.is_empty() {
            user.ok(&["rmi", &image(&tag)]);
        }
    }
}

/// So many of something that its text is nearly as long as is read.
fn many(one: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for number in 0.. {
        let next = one(number);
        if text.len() + next.len() + 2000 > 4 << 20 {
            break;
        }
        text = text + if number == 0 { "" } else { "," } + &next;
    }
    text
}

/// Documents as long as they may be, of what takes the most memory for its length.
#[test]
fn a_giant_document_takes_no_more_memory_than_a_small_one() {
    let world = World::new();
    let user = User { world: &world };
    let registry = Registry::start(&world.directory, None);
    registry.push("app", "small", &[layer("small", 1000)], None);
    let base = peak(&user, &["pull", &format!("{}/app:small", registry.address)]);
    let nothing = Digest::of(b"");
    let descriptor = || json!({"digest": nothing, "size": 1}).to_string();
    let manifests = [
        ("empty lists", format!(r#"{{"x":[{}]}}"#, many(|_| "[]".into()))),
        ("keys", format!("{{{}}}", many(|n| format!("\"{n:x}\":0")))),
        ("layers", format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, descriptor(), many(|_| descriptor()))),
        ("manifests", format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, many(|_| descriptor()))),
        (
            "annotations",
            format!(
                r#"{{"schemaVersion":2,"manifests":[{{"digest":"{nothing}","size":1,"annotations":{{{}}}}}]}}"#,
                many(|n| format!("\"{n:x}\":\"\""))
            ),
        ),
    ];
    let check = |name: &str, proxy: &Proxy| {
        let (most, said) = peak_of(&user, &["pull", &format!("{}/app:small", proxy.address)]);
        assert!(said.contains("error:"), "{name}: {said}");
        assert!(!said.contains("larger than"), "{name} was read: {said}");
        assert!(most < base + ROOM, "{name}: {most} KiB, for a small one {base}");
    };
    for (name, text) in manifests {
        let proxy = Proxy::start(&registry.address, move |_, request, answer| {
            if request.is_manifest() {
                answer.headers.retain(|(key, _)| key != "docker-content-digest");
                answer.body = text.clone().into_bytes();
            }
        });
        check(name, &proxy);
    }
    let configurations = [
        ("history", format!(r#""history":[{}]"#, many(|_| "{}".into()))),
        ("words", format!(r#""config":{{"Cmd":[{}]}}"#, many(|_| "\"\"".into()))),
        ("labels", format!(r#""config":{{"Labels":{{{}}}}}"#, many(|n| format!("\"{n:x}\":\"\"")))),
        ("volumes", format!(r#""config":{{"Volumes":{{{}}}}}"#, many(|n| format!("\"/{n:x}\":{{}}")))),
        ("layers", format!(r#""x":[{}]"#, many(|_| "0".into()))),
    ];
    for (name, part) in configurations {
        let layers = json!({"type": "layers", "diff_ids": [nothing]});
        let text = format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{layers},{part}}}"#);
        let proxy = Proxy::start(&registry.address, move |_, request, answer| {
            if request.is_manifest() {
                let mut document: Value = serde_json::from_slice(&answer.body).unwrap();
                document["config"]["digest"] = Digest::of(text.as_bytes()).to_string().into();
                document["config"]["size"] = text.len().into();
                answer.headers.retain(|(key, _)| key != "docker-content-digest");
                answer.body = document.to_string().into_bytes();
            } else if request.is_blob() && request.path.ends_with(Digest::of(text.as_bytes()).hex()) {
                *answer = super::proxy::Answer::new(200, &[], text.clone());
            }
        });
        check(name, &proxy);
    }
}
