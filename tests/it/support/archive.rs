//! Image archives, made for a test.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

pub fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A docker archive of an image with these layers, each of files with their contents.
pub fn write_archive(path: &Path, name: &str, layers: &[Vec<(String, Vec<u8>)>]) {
    let layers: Vec<Vec<u8>> = layers.iter().map(|files| tarball(files)).collect();
    let digests: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", hex_digest(layer))).collect();
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {},
                                    "rootfs": {"type": "layers", "diff_ids": digests}});
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}.tar")).collect();
    let tag = format!("{name}:latest");
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [tag], "Layers": names}]);
    let mut files = vec![
        ("manifest.json".to_owned(), manifest.to_string().into_bytes()),
        ("config.json".to_owned(), config.to_string().into_bytes()),
    ];
    files.extend(names.into_iter().zip(layers));
    fs::write(path, tarball(&files)).unwrap();
}

fn tarball(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}
