//! Configs and secrets that the engine keeps by name, for stacks that say `external`.
//!
//! One file each, `ROOT/configs/NAME.json` and `ROOT/secrets/NAME.json`, format 1: the content in base64 beside its name,
//! replaced as a whole. They are root's alone (0600), and not encrypted: whoever reads the disk reads them. Never written
//! into: another content is another file under the same name.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::container::now_ms;
use super::roots::Roots;
use super::state::{self, Contention, Durability, Lock};

const VERSION: u32 = 1;
/// The most that one holds, in bytes; more is data, and belongs into a volume.
pub const LARGEST: usize = 1 << 20;
const SALT: &str = ".salt";

/// Of which kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Config,
    Secret,
}

impl Kind {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Secret => "secret",
        }
    }

    fn directory(self, roots: &Roots) -> PathBuf {
        roots.durable(match self {
            Self::Config => "configs",
            Self::Secret => "secrets",
        })
    }
}

/// One of them, without its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// 25 characters, as docker's.
    pub id: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    pub updated_ms: u64,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    #[serde(flatten)]
    object: Object,
    data: String,
}

/// What becomes of one of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Refuse,
    Replace,
}

/// Why one is not as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{name:?} can't name a {kind}\n  help: use letters, digits, `_`, `.` and `-`, beginning with a letter or digit, at most 200"
    )]
    Name { kind: &'static str, name: String },
    #[error(
        "there is a {kind} {name} already\n  help: `--replace` gives it another content, which the next apply brings to its containers"
    )]
    Exists { kind: &'static str, name: String },
    #[error("{kind} {name} holds {bytes} bytes, and {LARGEST} are the most\n  help: larger data belongs into a volume")]
    Large { kind: &'static str, name: String, bytes: usize },
    #[error(
        "no {kind} {name:?}\n  help: `stack {kind} create {name} FILE` makes it, `stack {kind} ls` lists what there is"
    )]
    Unknown { kind: &'static str, name: String },
    #[error("{}: its record is of version {version}, and this program knows {VERSION}", path.display())]
    Version { path: PathBuf, version: u32 },
    #[error("{}: its content is damaged", path.display())]
    Damaged { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    State(#[from] state::Error),
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// Keeps the content under the name.
///
/// # Errors
/// [`Error::Exists`] where it is not to be replaced.
pub fn create(
    roots: &Roots,
    kind: Kind,
    name: &str,
    labels: BTreeMap<String, String>,
    content: &[u8],
    existing: Existing,
) -> Result<Object, Error> {
    let path = path(roots, kind, name)?;
    if content.len() > LARGEST {
        return Err(Error::Large { kind: kind.word(), name: name.to_owned(), bytes: content.len() });
    }
    let _lock = lock(roots, kind)?;
    let before = read_record(&path)?;
    if before.is_some() && existing == Existing::Refuse {
        return Err(Error::Exists { kind: kind.word(), name: name.to_owned() });
    }
    let now = now_ms();
    let (id, created_ms) = match before {
        Some(before) => (before.object.id, before.object.created_ms),
        None => (new_id().map_err(io_at(Path::new("/dev/urandom")))?, now),
    };
    let object = Object { id, name: name.to_owned(), labels, created_ms, updated_ms: now };
    let record = Record { version: VERSION, object, data: STANDARD.encode(content) };
    state::write_json(&path, &record)?;
    Ok(record.object)
}

/// All of the kind, by name.
pub fn list(roots: &Roots, kind: Kind) -> Result<Vec<Object>, Error> {
    let directory = kind.directory(roots);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_at(&directory)(error)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(io_at(&directory))?.path();
        let is_record = path.extension().is_some_and(|extension| extension == "json");
        let is_whole = path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."));
        if is_record && is_whole {
            all.extend(read_record(&path)?.map(|record| record.object));
        }
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// The one of this name, or whose id begins so.
///
/// # Errors
/// [`Error::Unknown`].
pub fn get(roots: &Roots, kind: Kind, word: &str) -> Result<Object, Error> {
    let all = list(roots, kind)?;
    let named = all.iter().find(|one| one.name == word);
    let mut begun = all.iter().filter(|one| !word.is_empty() && one.id.starts_with(word));
    let found = named.or_else(|| begun.next().filter(|_| begun.next().is_none()));
    found.cloned().ok_or_else(|| Error::Unknown { kind: kind.word(), name: word.to_owned() })
}

/// What the one of this name holds.
///
/// # Errors
/// [`Error::Unknown`].
pub fn read(roots: &Roots, kind: Kind, name: &str) -> Result<Vec<u8>, Error> {
    let path = path(roots, kind, name)?;
    let record = read_record(&path)?;
    let record = record.ok_or_else(|| Error::Unknown { kind: kind.word(), name: name.to_owned() })?;
    STANDARD.decode(&record.data).map_err(|_| Error::Damaged { path })
}

/// Forgets it; one that is not there is fine.
pub fn remove(roots: &Roots, kind: Kind, name: &str) -> Result<(), Error> {
    let path = path(roots, kind, name)?;
    let _lock = lock(roots, kind)?;
    Ok(state::remove_durably(&path)?)
}

/// Tells one content from another, and on this host alone: nobody learns from it whether a guess is right.
pub fn fingerprint(roots: &Roots, content: &[u8]) -> Result<String, Error> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salt(roots)?);
    Ok(hmac::sign(&key, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Made once.
fn salt(roots: &Roots) -> Result<Vec<u8>, Error> {
    let path = Kind::Secret.directory(roots).join(SALT);
    let present = |path: &Path| match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).map_err(io_at(path)),
    };
    if let Some(salt) = present(&path)? {
        return Ok(salt);
    }
    let _lock = lock(roots, Kind::Secret)?;
    if let Some(salt) = present(&path)? {
        return Ok(salt);
    }
    let salt: [u8; 32] = random().map_err(io_at(Path::new("/dev/urandom")))?;
    state::replace(&path, &salt, Durability::Durable).map_err(io_at(&path))?;
    Ok(salt.to_vec())
}

fn read_record(path: &Path) -> Result<Option<Record>, Error> {
    let Some(record) = state::read_json::<Record>(path)? else { return Ok(None) };
    if record.version != VERSION {
        return Err(Error::Version { path: path.to_owned(), version: record.version });
    }
    Ok(Some(record))
}

/// A name becomes a file's; it never leaves the directory.
fn path(roots: &Roots, kind: Kind, name: &str) -> Result<PathBuf, Error> {
    let begins = name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
    let rest = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    match begins && rest && name.len() <= 200 {
        true => Ok(kind.directory(roots).join(format!("{name}.json"))),
        false => Err(Error::Name { kind: kind.word(), name: name.to_owned() }),
    }
}

fn lock(roots: &Roots, kind: Kind) -> Result<Lock, Error> {
    Ok(Lock::take(&kind.directory(roots).join(".lock"), Contention::Wait)?)
}

fn new_id() -> io::Result<String> {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz012345";
    let bytes: [u8; 25] = random()?;
    Ok(bytes.iter().map(|byte| char::from(DIGITS[usize::from(byte % 32)])).collect())
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_is_kept_is_roots_alone_and_whole() {
        let directory = std::env::temp_dir().join(format!("objects-{}", std::process::id()));
        let roots = Roots::new(directory.join("r"), directory.join("n"));
        let make = |content: &[u8], existing| create(&roots, Kind::Secret, "a", BTreeMap::new(), content, existing);
        let first = make(b"\0one\xff", Existing::Refuse).unwrap();
        assert_eq!(first.id.len(), 25);
        assert!(matches!(make(b"two", Existing::Refuse), Err(Error::Exists { .. })));
        assert_eq!(read(&roots, Kind::Secret, "a").unwrap(), b"\0one\xff");
        let second = make(b"two", Existing::Replace).unwrap();
        assert_eq!((&second.id, second.created_ms), (&first.id, first.created_ms));
        assert_eq!(get(&roots, Kind::Secret, &first.id[..5]).unwrap(), second);
        assert!(matches!(read(&roots, Kind::Config, "a"), Err(Error::Unknown { .. })));
        assert_eq!(fs::metadata(directory.join("r/secrets/a.json")).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(make(&vec![0; LARGEST + 1], Existing::Replace), Err(Error::Large { .. })));
        for wrong in ["", "../a", ".salt", "a/b"] {
            assert!(matches!(read(&roots, Kind::Secret, wrong), Err(Error::Name { .. })), "{wrong:?}");
        }
        let print = fingerprint(&roots, b"x").unwrap();
        assert_eq!(fingerprint(&roots, b"x").unwrap(), print);
        assert_ne!(fingerprint(&Roots::new(directory.join("s"), directory.join("n")), b"x").unwrap(), print);
        remove(&roots, Kind::Secret, "a").unwrap();
        remove(&roots, Kind::Secret, "a").unwrap();
        assert!(list(&roots, Kind::Secret).unwrap().is_empty());
        fs::remove_dir_all(directory).unwrap();
    }
}
