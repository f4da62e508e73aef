//! Public keys of signers: PEM, as `cosign generate-key-pair` and `openssl pkey -pubout` write them. What is computed with
//! them is ring's.

use std::io::Read;
use std::path::Path;

use base64::Engine as _;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};

const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";
/// Larger than any key.
const MOST: u64 = 64 << 10;

/// The algorithms' identifiers, as the key's own text has them (RFC 5480, RFC 8410, RFC 3279), without their outer header.
const P256: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const ED: &[u8] = &[6, 3, 0x2b, 0x65, 0x70];
const RSA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];

/// A key whose signatures count.
pub struct Key {
    algorithm: &'static dyn VerificationAlgorithm,
    /// As the algorithm wants it.
    key: Vec<u8>,
}

impl Key {
    /// # Errors
    /// Says why the file is no key that can be used.
    pub fn read(path: &Path) -> Result<Self, String> {
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
        file.take(MOST).read_to_string(&mut text).map_err(|error| error.to_string())?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let rest = text.split_once(BEGIN).map(|(_, rest)| rest);
        let Some((body, after)) = rest.and_then(|rest| rest.split_once(END)) else {
            return Err(match text.contains("PRIVATE KEY") {
                true => "it is a private key; only the public one belongs here".into(),
                false => "it is no public key: expected PEM that begins with BEGIN PUBLIC KEY".into(),
            });
        };
        if after.contains(BEGIN) {
            return Err("it holds several keys; give each a file of its own".into());
        }
        let body: String = body.split_whitespace().collect();
        let der = base64::engine::general_purpose::STANDARD.decode(body).map_err(|error| error.to_string())?;
        let (algorithm, key) = split(&der).ok_or("its content is no public key")?;
        let algorithm: &'static dyn VerificationAlgorithm = match algorithm {
            P256 => &ECDSA_P256_SHA256_ASN1,
            ED => &ED25519,
            RSA => &RSA_PKCS1_2048_8192_SHA256,
            _ => return Err("keys are of ECDSA P-256, Ed25519 or RSA (2048 bits and more); this is another one".into()),
        };
        Ok(Self { algorithm, key: key.to_owned() })
    }

    /// Whether who has the private key signed this.
    pub fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm, &self.key).verify(message, signature).is_ok()
    }
}

/// The algorithm's identifier and the key of a SubjectPublicKeyInfo (RFC 5280, 4.1).
fn split(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (outer, rest) = element(der, 0x30)?;
    let (algorithm, tail) = element(outer, 0x30)?;
    let (bits, end) = element(tail, 0x03)?;
    let (unused, key) = bits.split_first()?;
    (rest.is_empty() && end.is_empty() && *unused == 0).then_some((algorithm, key))
}

/// The content of the first element, which must be of this kind, and what comes after it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), rest.get(2..)?),
        short if *short < 0x80 => (usize::from(*short), rest),
        _ => return None,
    };
    (*found == tag).then(|| rest.split_at_checked(length))?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `openssl genpkey -algorithm ed25519`, its public half.
    const GOOD: &str = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";

    fn pem(body: &str) -> String {
        format!("{BEGIN}\n{body}\n{END}\n")
    }

    #[test]
    fn what_is_no_key_is_told() {
        assert!(Key::parse(&pem(GOOD)).is_ok());
        let twice = pem(GOOD).repeat(2);
        for (text, reason) in [
            ("", "BEGIN PUBLIC KEY"),
            ("-----BEGIN EC PRIVATE KEY-----\n-----END EC PRIVATE KEY-----", "private key"),
            (&pem("AAAA"), "no public key"),
            (&pem("!"), "Invalid"),
            (&pem("MCowBQYDK2VuAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="), "another one"),
            (&twice, "several keys"),
        ] {
            let error = Key::parse(text).err().unwrap();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_split_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            split(&bytes);
            Key::parse(&pem(&base64::engine::general_purpose::STANDARD.encode(&bytes))).err();
        }
    }
}
