//! How much a stranger may ask of this host. Beyond a limit an image is refused, whole.

use serde::Deserialize;

/// Each can be set in `images.toml`, section `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of a manifest or an index.
    pub manifest_bytes: u64,
    /// Bytes of an image's configuration.
    pub config_bytes: u64,
    /// How deep the JSON of either may be nested.
    pub json_depth: usize,
    /// Values in the JSON of either: numbers, texts, lists, objects. What is read of one can be fifty times as long as
    /// its text.
    pub json_values: usize,
    /// Layers of one image.
    pub layers: usize,
    /// Entries of all layers of one image.
    pub entries: u64,
    /// Bytes of a path, without the closing NUL.
    pub path_bytes: usize,
    /// Bytes of one name of a path.
    pub name_bytes: usize,
    /// Bytes of one extended header of an archive: long names, attributes.
    pub header_bytes: u64,
    /// Bytes that a layer may unpack to, whatever its size…
    pub unpacked_bytes: u64,
    /// …and so many times its size on top.
    pub unpacked_factor: u64,
    /// How many times its size a stream may expand to…
    pub expansion: u64,
    /// …beyond so many bytes, which are harmless.
    pub expansion_bytes: u64,
    /// Bytes that stay free on the store's disk.
    pub reserve_bytes: u64,
    /// Seconds without a byte before a connection is given up.
    pub stall_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest_bytes: 4 << 20,
            config_bytes: 4 << 20,
            json_depth: 64,
            json_values: 100_000,
            layers: 500,
            entries: 2_000_000,
            path_bytes: 4095,
            name_bytes: 255,
            header_bytes: 1 << 20,
            unpacked_bytes: 32 << 30,
            unpacked_factor: 10,
            expansion: 1000,
            expansion_bytes: 1 << 30,
            reserve_bytes: 64 << 20,
            stall_seconds: 60,
        }
    }
}
