//! The image that is compiled into the program: a static helper, a few files, no network needed. The build script makes
//! it of `builtin/content.rs`, and says its digests.

use serde_json::json;

use super::document::Platform;
use super::{Digest, Error};

const LAYER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/whoami.tar"));
const DIFF_ID: &str = include_str!(concat!(env!("OUT_DIR"), "/whoami.diff_id"));

/// An image that is not in a store yet.
pub struct Built {
    pub id: Digest,
    pub config: Vec<u8>,
    pub layer: &'static [u8],
}

/// What an image says about how to run it.
#[derive(Default)]
pub struct Words {
    pub entrypoint: Vec<&'static str>,
    pub environment: Vec<&'static str>,
}

/// The built-in image of this name; the same bytes each time.
pub fn build(name: &str) -> Result<Built, Error> {
    if name != "whoami" {
        return Err(Error::Builtin(name.to_owned()));
    }
    let diff_id: Digest = Digest::parse(DIFF_ID)?;
    let words = Words { entrypoint: vec!["/whoami"], environment: vec!["PATH=/"] };
    let config = configuration(&diff_id, words, &Platform::host())?;
    Ok(Built { id: Digest::of(&config), config, layer: LAYER })
}

/// The OCI configuration of an image with this one layer.
pub fn configuration(diff_id: &Digest, words: Words, platform: &Platform) -> Result<Vec<u8>, Error> {
    let config = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {"Entrypoint": words.entrypoint, "Env": words.environment},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    serde_json::to_vec(&config)
        .map_err(|error| Error::Archive { path: "configuration".into(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_is_the_one_that_the_build_script_named() {
        assert_eq!(Digest::of(LAYER).to_string(), DIFF_ID);
    }
}
