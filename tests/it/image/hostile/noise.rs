//! Archives of images with some bytes of another kind: each is taken as what it is, or refused, whole.

use std::fs;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use stack::runtime::image::Digest;
use stack::runtime::image::archive::{LoadOptions, load};

use super::tar_of::Tar;
use super::{World, gzip};

const CASES: u32 = 300;

fn docker(layer: &[u8], config: &str) -> Vec<u8> {
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": ["app:1"], "Layers": ["layer.tar"]}]);
    let tar = Tar::new().file("manifest.json", manifest.to_string().as_bytes()).file("config.json", config.as_bytes());
    tar.file("layer.tar", layer).end()
}

fn oci(layer: &[u8], config: &str) -> Vec<u8> {
    oci_with(layer, layer, config)
}

/// With other bytes where the layer should be.
fn oci_with(layer: &[u8], given: &[u8], config: &str) -> Vec<u8> {
    let name = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let descriptor = |kind: &str, bytes: &[u8]| serde_json::json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": Digest::of(bytes), "size": bytes.len()});
    let manifest = serde_json::json!({"schemaVersion": 2, "config": descriptor("config.v1+json", config.as_bytes()),
        "layers": [descriptor("layer.v1.tar", layer)]})
    .to_string();
    let index =
        serde_json::json!({"schemaVersion": 2, "manifests": [descriptor("manifest.v1+json", manifest.as_bytes())]});
    let tar = Tar::new().file("index.json", index.to_string().as_bytes());
    let tar = tar.file(&name(layer), given);
    [config, &manifest].iter().fold(tar, |tar, text| tar.file(&name(text.as_bytes()), text.as_bytes())).end()
}

fn config_of(layer: &[u8]) -> String {
    serde_json::json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(layer)]}})
    .to_string()
}

#[test]
fn any_archive_of_images_is_taken_or_refused_whole() {
    let world = World::new();
    let layer = Tar::new().file("f", b"x").end();
    let config = config_of(&layer);
    let path = world.directory.join("image.tar");
    let noise = proptest::collection::vec((any::<usize>(), any::<u8>(), any::<bool>()), 0..3);
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let tried = runner.run(&(any::<bool>(), noise, proptest::option::of(any::<usize>())), |(is_docker, noise, cut)| {
        let mut archive = if is_docker { docker(&layer, &config) } else { oci(&layer, &config) };
        for (at, byte, text) in noise {
            let length = archive.len();
            // Half of them where there is text.
            let texts: Vec<usize> = (0..length).filter(|at| archive[*at] != 0).collect();
            archive[if text { texts[at % texts.len()] } else { at % length }] = byte;
        }
        archive.truncate(cut.map_or(usize::MAX, |at| at % archive.len()));
        fs::write(&path, archive).unwrap();
        if let Ok(images) = load(&world.store, &path, LoadOptions::default(), &|_| ()) {
            // The layer is what the configuration's digest of it says.
            prop_assert_eq!(images.len(), 1);
            prop_assert_eq!(fs::read(images[0].layers[0].join("f")).unwrap(), b"x");
        }
        for image in world.store.list().unwrap() {
            world.remove(image.id.as_str());
        }
        prop_assert_eq!(world.everything(), Vec::<String>::new());
        Ok(())
    });
    tried.unwrap();
}

/// It unpacks to what the configuration says, and is not what the manifest says.
#[test]
fn the_same_layer_compressed_otherwise_is_another_one() {
    let world = World::new();
    let layer = Tar::new().file("f", b"x").end();
    let config = config_of(&layer);
    let path = world.directory.join("image.tar");
    fs::write(&path, oci_with(&layer, &gzip(&layer), &config)).unwrap();
    let error = load(&world.store, &path, LoadOptions::default(), &|_| ()).unwrap_err().to_string();
    assert!(error.contains("expected sha256:"), "{error}");
    assert_eq!(world.everything(), Vec::<String>::new());
}
