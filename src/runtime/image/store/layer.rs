//! A layer's way into the store: its archive is kept as a blob, and unpacked beside.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use sha2::{Digest as _, Sha256};

use super::ahead::read_ahead;
use super::lease::Lease;
use crate::runtime::confine;
use crate::runtime::image::document::{Descriptor, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
use crate::runtime::image::limits::Limits;
use crate::runtime::image::unpack::{Budget, Empty, UnpackError};
use crate::runtime::image::{Digest, Error, io_at};

/// A layer that waits in a lease's folder, or is in the store already.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The digest of its uncompressed archive.
    pub diff_id: Digest,
    /// Its archive, as it is kept.
    pub blob: Descriptor,
    /// Where the archive and the tree wait; `None` for what the store has.
    pub(in crate::runtime::image) waiting_blob: Option<PathBuf>,
    pub(in crate::runtime::image) waiting_tree: Option<PathBuf>,
}

/// Unpacks an archive, compressed or not, into a new `fs` below `target`; it is read by a thread of its own. Returns the digest of its uncompressed bytes,
/// which must be `expected` where that is known.
pub fn unpack_to(
    archive: impl Read + Send,
    expected: Option<&Digest>,
    target: &Path,
    budget: &Budget<'_>,
) -> Result<Digest, Error> {
    let directory = target.join("fs");
    fs::create_dir_all(&directory).map_err(io_at(&directory))?;
    // An archive that says nothing of its root means what everybody does.
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).map_err(io_at(&directory))?;
    let named =
        |source: UnpackError| Error::Layer { layer: expected.map_or("new".to_owned(), Digest::to_string), source };
    let received = Arc::new(AtomicU64::new(0));
    let archive = Counting { inner: archive, count: received.clone() };
    let inner = decompress(archive).map_err(|error| named(error.into()))?;
    let mut reader = Hashing { inner, hasher: Sha256::new(), count: 0, received, limits: budget.limits() };
    let empty = Empty::open(&directory).map_err(|error| named(error.into()))?;
    let unpacked = alone(|| {
        read_ahead(&mut reader, |ahead| {
            confine::to_files_below(&directory)?;
            let contents = empty.unpack(&mut *ahead, budget)?;
            // What follows the archive's end belongs to its digest too.
            io::copy(ahead, &mut io::sink())?;
            Ok(contents)
        })
    });
    unpacked.map_err(named)?.write(target)?;
    let found = Digest::finish(reader.hasher);
    match expected {
        Some(expected) if *expected != found => {
            Err(Error::Mismatch { what: "layer".into(), expected: expected.to_string(), found: found.to_string() })
        }
        _ => Ok(found),
    }
}

/// In a thread of its own, which may give up rights.
fn alone<T: Send>(work: impl FnOnce() -> Result<T, UnpackError> + Send) -> Result<T, UnpackError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("unpack".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that unpacked failed").into()))
    })
}

/// Keeps an archive and unpacks it, both in the lease's folder. One that is compressed is kept as it is, any other
/// compressed by gzip, which everybody reads.
pub fn stage(lease: &Lease, archive: impl Read + Send, budget: &Budget<'_>) -> Result<Layer, Error> {
    let mut archive = BufReader::with_capacity(BUFFER, archive);
    let path = lease.temporary("blob")?;
    let failed = |error: io::Error| io_at(&path)(error);
    let kind = compression(&mut archive).map_err(failed)?;
    let target = lease.temporary("layer")?;
    let file = File::create(&path).map_err(failed)?;
    let mut blob = HashingFile { file, hasher: Sha256::new(), size: 0 };
    let (diff_id, media_type) = match kind {
        Compression::None => {
            let mut packed = flate2::write::GzEncoder::new(&mut blob, flate2::Compression::fast());
            let tee = Tee { inner: &mut archive, to: &mut packed };
            let diff_id = unpack_to(tee, None, &target, budget)?;
            packed.finish().map_err(failed)?;
            (diff_id, OCI_LAYER_GZIP)
        }
        Compression::Gzip | Compression::Zstd => {
            let tee = Tee { inner: &mut archive, to: &mut blob };
            let diff_id = unpack_to(tee, None, &target, budget)?;
            (diff_id, if kind == Compression::Gzip { OCI_LAYER_GZIP } else { OCI_LAYER_ZSTD })
        }
    };
    let blob = Descriptor::new(media_type, Digest::finish(blob.hasher), blob.size);
    Ok(Layer { diff_id, blob, waiting_blob: Some(path), waiting_tree: Some(target) })
}

/// The media type of a layer's archive, by its first bytes.
pub fn media_type(archive: &mut impl io::BufRead) -> io::Result<&'static str> {
    Ok(match compression(archive)? {
        Compression::None => OCI_LAYER,
        Compression::Gzip => OCI_LAYER_GZIP,
        Compression::Zstd => OCI_LAYER_ZSTD,
    })
}

const BUFFER: usize = 128 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

fn compression(archive: &mut impl io::BufRead) -> io::Result<Compression> {
    Ok(match archive.fill_buf()? {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // A frame, or one that is to be skipped, as at the begin of a chunked archive.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        _ => Compression::None,
    })
}

/// The largest window of a zstd stream, 2^23 bytes: what every reader must have (RFC 8878), and what several layers at a
/// time may make us take.
const ZSTD_WINDOW: u32 = 23;

/// The uncompressed stream, by the first bytes: gzip, zstd, or as it is.
pub fn decompress<'a>(archive: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut archive = BufReader::with_capacity(BUFFER, archive);
    Ok(match compression(&mut archive)? {
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(archive)),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(archive)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            Box::new(decoder)
        }
        Compression::None => Box::new(archive),
    })
}

/// Hashes and counts what passes.
struct Hashing<'a, R> {
    inner: R,
    hasher: Sha256,
    count: u64,
    /// How much of the compressed archive that came from.
    received: Arc<AtomicU64>,
    limits: &'a Limits,
}

/// Whether so much was made of so little that it can only be meant to fill the disk.
fn is_bomb(received: u64, unpacked: u64, limits: &Limits) -> bool {
    unpacked > limits.expansion_bytes && unpacked / limits.expansion.max(1) > received
}

/// Counts what is read of a compressed archive.
struct Counting<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        if is_bomb(self.received.load(Ordering::Relaxed), self.count, self.limits) {
            return Err(io::Error::other(format!("it expands to more than {} times its size", self.limits.expansion)));
        }
        Ok(count)
    }
}

/// Writes down what is read.
struct Tee<R, W> {
    inner: R,
    to: W,
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.to.write_all(&buffer[..count])?;
        Ok(count)
    }
}

/// Hashes what is written.
struct HashingFile {
    file: File,
    hasher: Sha256,
    size: u64,
}

impl Write for HashingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_told_from_a_layer_of_zeros() {
        for (received, unpacked, expected) in
            [(1, 1 << 30, false), (1 << 20, (1 << 30) + 1, true), (2 << 20, 2 << 30, true), (3 << 20, 2 << 30, false)]
        {
            assert_eq!(is_bomb(received, unpacked, &Limits::default()), expected, "{received} {unpacked}");
        }
    }
}
