//! Files of age (age-encryption.org/v1) for X25519 recipients, binary or armored.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};

use super::Wrong;

const VERSION: &str = "age-encryption.org/v1";
const BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const END: &str = "-----END AGE ENCRYPTED FILE-----";
/// Bytes of a piece of the payload, without its tag.
const PIECE: usize = 64 << 10;
const TAG: usize = 16;

/// A secret key.
pub struct Identity([u8; 32]);

/// The identities of a file: one a line, beside comments.
pub fn identities(text: &str) -> Vec<Identity> {
    text.lines().filter_map(|line| identity(line.trim())).collect()
}

/// Bech32 (BIP 173) in capital letters.
fn identity(line: &str) -> Option<Identity> {
    const DIGITS: &str = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    const PREFIX: &str = "age-secret-key-";
    let lower = line.to_ascii_lowercase();
    let data = lower.strip_prefix(PREFIX)?.strip_prefix('1')?;
    let values: Vec<u8> =
        data.chars().map(|digit| DIGITS.find(digit).and_then(|at| u8::try_from(at).ok())).collect::<Option<_>>()?;
    let human = PREFIX.bytes().map(|byte| byte >> 5).chain([0]).chain(PREFIX.bytes().map(|byte| byte & 31));
    if polymod(human.chain(values.iter().copied())) != 1 {
        return None;
    }
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for value in &values[..values.len().checked_sub(6)?] {
        bits = (bits << 5) | u32::from(*value);
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(Identity(bytes.try_into().ok()?))
}

fn polymod(values: impl Iterator<Item = u8>) -> u32 {
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    values.fold(1, |sum, value| {
        let next = ((sum & 0x1ff_ffff) << 5) ^ u32::from(value);
        let taps = GENERATOR.iter().enumerate().filter(|(bit, _)| sum >> 25 >> bit & 1 == 1);
        taps.fold(next, |sum, (_, tap)| sum ^ tap)
    })
}

/// What the file holds.
pub fn open(sealed: &[u8], identities: &[Identity]) -> Result<Vec<u8>, Wrong> {
    let bare;
    let sealed = match sealed.trim_ascii_start().starts_with(BEGIN.as_bytes()) {
        true => {
            bare = unarmor(sealed).ok_or(Wrong::Format("its armor is damaged"))?;
            bare.as_slice()
        }
        false => sealed,
    };
    let header = Header::read(sealed)?;
    let mut kinds = Vec::new();
    for stanza in &header.stanzas {
        if stanza.words.first() != Some(&"X25519") {
            kinds.extend(stanza.words.first().map(|kind| format!("a {kind} recipient")));
            continue;
        }
        kinds.push("another X25519 recipient".to_owned());
        if let Some(key) = identities.iter().find_map(|identity| unwrap(stanza, identity)) {
            header.check(&key)?;
            return payload(header.rest, &key).ok_or(Wrong::Format("its content is damaged, or was tampered with"));
        }
    }
    kinds.dedup();
    Err(Wrong::NotForUs(kinds))
}

fn unarmor(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let inner = text.strip_prefix(BEGIN)?.strip_suffix(END)?;
    STANDARD.decode(inner.split_ascii_whitespace().collect::<String>()).ok()
}

struct Stanza<'a> {
    words: Vec<&'a str>,
    body: Vec<u8>,
}

struct Header<'a> {
    stanzas: Vec<Stanza<'a>>,
    /// All that the code is over.
    authenticated: &'a [u8],
    code: Vec<u8>,
    rest: &'a [u8],
}

impl<'a> Header<'a> {
    fn read(sealed: &'a [u8]) -> Result<Self, Wrong> {
        Self::parse(sealed).ok_or(Wrong::Format("it is no file of age (age-encryption.org/v1)"))
    }

    fn parse(sealed: &'a [u8]) -> Option<Self> {
        let (first, mut rest) = line(sealed)?;
        if first != VERSION {
            return None;
        }
        let mut stanzas: Vec<Stanza<'a>> = Vec::new();
        loop {
            let start = sealed.len() - rest.len();
            let (text, after) = line(rest)?;
            rest = after;
            if let Some(code) = text.strip_prefix("--- ") {
                let code = STANDARD_NO_PAD.decode(code).ok()?;
                return Some(Self { stanzas, authenticated: &sealed[..start + 3], code, rest });
            }
            let words: Vec<&str> = text.strip_prefix("-> ")?.split(' ').collect();
            let mut encoded = String::new();
            loop {
                let (text, after) = line(rest)?;
                rest = after;
                encoded.push_str(text);
                // A shorter line is the last one of a body.
                if text.len() < 64 {
                    break;
                }
            }
            stanzas.push(Stanza { words, body: STANDARD_NO_PAD.decode(encoded).ok()? });
        }
    }

    fn check(&self, key: &[u8]) -> Result<(), Wrong> {
        let code = hmac::Key::new(hmac::HMAC_SHA256, &derive(&[], key, b"header"));
        hmac::verify(&code, self.authenticated, &self.code).map_err(|_| Wrong::Format("its header was tampered with"))
    }
}

fn line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

/// HKDF with SHA-256.
fn derive(salt: &[u8], secret: &[u8], info: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    let filled = extracted.expand(&[info], hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut key));
    filled.expect("a key is as long as the hash");
    key
}

fn decrypt(key: &[u8; 32], nonce: [u8; 12], sealed: &[u8]) -> Option<Vec<u8>> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).ok()?);
    let mut bytes = sealed.to_vec();
    let length = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut bytes).ok()?.len();
    bytes.truncate(length);
    Some(bytes)
}

/// The file's key, where the stanza is for this identity.
fn unwrap(stanza: &Stanza<'_>, identity: &Identity) -> Option<Vec<u8>> {
    let [_, share] = stanza.words[..] else { return None };
    let share: [u8; 32] = STANDARD_NO_PAD.decode(share).ok()?.try_into().ok()?;
    let shared = x25519(identity.0, share);
    // A share of low order would make a key that everybody knows.
    if shared == [0; 32] || stanza.body.len() != 16 + TAG {
        return None;
    }
    let salt = [share, x25519(identity.0, X25519_BASEPOINT_BYTES)].concat();
    decrypt(&derive(&salt, &shared, b"age-encryption.org/v1/X25519"), [0; 12], &stanza.body)
}

/// Pieces, each with its number and whether it is the last one in its nonce.
fn payload(sealed: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    let (salt, mut rest) = sealed.split_at_checked(16)?;
    let key = derive(salt, key, b"payload");
    let mut all = Vec::new();
    for number in 0_u64.. {
        let (piece, after) = rest.split_at(rest.len().min(PIECE + TAG));
        rest = after;
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&number.to_be_bytes());
        nonce[11] = u8::from(rest.is_empty());
        let opened = decrypt(&key, nonce, piece)?;
        // Only a file that holds nothing ends with a piece of nothing.
        if opened.is_empty() && number > 0 {
            return None;
        }
        all.extend(opened);
        if rest.is_empty() {
            break;
        }
    }
    Some(all)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Made for these tests by `age-keygen`.
    pub const KEY: &str = "AGE-SECRET-KEY-1AZCJKPXCYQU7QH64KLVX2YD8EKH8CZGJ0Q2T7A6U9REC97Y3PNHSZQ05A8";
    pub const OTHER: &str = "AGE-SECRET-KEY-140WV3TGZ7MG3UDX7CRKP33EQK6VNQS0WJ52VHUDTR5PMT65VSLJSFSS0W6";
    /// `printf 'hush\n' | age -a -r …`.
    const ARMORED: &str = "\
        -----BEGIN AGE ENCRYPTED FILE-----\n\
        YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSB6bitHTGs3S0FWUFpvcGZo\n\
        NXdTN080NDJ6RzNMaXd5REdPRm1FNkNwK2p3CnVVdmlIOHY2M0dBdi9SelpjekQr\n\
        VUdvTytJNGJmRzQrY2ZKY3BQdmhqMUkKLS0tIGhFWXZjM0pCb1NuU3Zpc2wzV0VK\n\
        S3ZRYXhGRC9SbG1LOURIZEdNeld3eEUKa1Y5f+Ao9UxP0OkUTMpbvVcjl9C98DGa\n\
        NfKVW1kReWgJCM3UXg==\n\
        -----END AGE ENCRYPTED FILE-----\n";

    #[test]
    fn a_file_opens_for_whom_it_is_and_only_whole() {
        let (own, other) = (identities(KEY), identities(OTHER));
        assert_eq!((own.len(), other.len()), (1, 1));
        assert_eq!(open(ARMORED.as_bytes(), &own).unwrap(), b"hush\n");
        assert_eq!(open(ARMORED.as_bytes(), &other), Err(Wrong::NotForUs(vec!["another X25519 recipient".to_owned()])));
        let bare = unarmor(ARMORED.as_bytes()).unwrap();
        assert_eq!(open(&bare, &own).unwrap(), b"hush\n");
        for at in 0..bare.len() {
            let mut broken = bare.clone();
            broken[at] ^= 1;
            assert!(open(&broken, &own).is_err(), "the byte {at} counts");
        }
        for end in 0..bare.len() {
            assert!(open(&bare[..end], &own).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_mistyped_identity_is_none() {
        let mistyped = KEY.replacen('Q', "P", 1);
        assert!(identities(&mistyped).is_empty());
        for text in ["", "AGE-SECRET-KEY-1", "AGE-SECRET-KEY-1QQ", "age1xyz", "# a comment"] {
            assert!(identities(text).is_empty(), "{text}");
        }
    }
}
