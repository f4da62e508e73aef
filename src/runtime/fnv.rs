//! FNV-1a of 64 bits: tells names apart, the same on every host and in every version. Nothing that somebody gains by
//! finding two of the same hash may rest on it.

/// The hash of these bytes.
pub fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
