//! The files of a log: written, rotated by size, and compressed behind the newest one a piece at a time, so that nobody
//! waits for it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::runtime::container::LogFiles;
use crate::runtime::container::logs::files::{before, compressed, with_end};

/// How much is compressed at once, in bytes: four times as much as is written at once, so that a file is done before the
/// next is full.
const PIECE: usize = 256 << 10;

/// The files of one container.
pub struct Files {
    newest: PathBuf,
    kept: LogFiles,
    file: Option<File>,
    size: u64,
    compressing: Option<Compressing>,
}

/// Entries that are written together.
#[derive(Default)]
pub struct Batch {
    pub bytes: Vec<u8>,
    /// Where each entry ends.
    pub ends: Vec<usize>,
}

struct Compressing {
    source: File,
    into: GzEncoder<File>,
}

impl Files {
    /// In this directory. The newest is begun or gone on with at the first line.
    pub fn new(directory: &Path, kept: LogFiles) -> Self {
        Self { newest: kept.newest(directory), kept, file: None, size: 0, compressing: None }
    }

    /// The directory has another name from now on; files that are open are those.
    pub fn moved(&mut self, directory: &Path) {
        self.newest = self.kept.newest(directory);
    }

    /// Writes the entries down, in as many files as they need. Where that fails, whole entries are in the file, and those
    /// that are not are left in the batch.
    pub fn append(&mut self, batch: &mut Batch) -> io::Result<()> {
        let mut done = 0;
        let result = self.append_from(batch, &mut done);
        let bytes = done.checked_sub(1).map_or(0, |last| batch.ends[last]);
        batch.bytes.drain(..bytes);
        batch.ends.drain(..done);
        batch.ends.iter_mut().for_each(|end| *end -= bytes);
        result
    }

    fn append_from(&mut self, batch: &Batch, done: &mut usize) -> io::Result<()> {
        while *done < batch.ends.len() {
            self.open()?;
            let start = done.checked_sub(1).map_or(0, |last| batch.ends[last]);
            let room = start.saturating_add(usize::try_from(self.kept.max_size.saturating_sub(self.size)).unwrap_or(0));
            let fitting = batch.ends[*done..].partition_point(|end| *end <= room);
            // An entry that is larger than a file may be has one to itself.
            let count = if fitting == 0 && self.size == 0 { 1 } else { fitting };
            if count == 0 {
                self.rotate()?;
                continue;
            }
            self.write(&batch.bytes[start..batch.ends[*done + count - 1]])?;
            *done += count;
        }
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.newest)?;
            self.size = file.metadata()?.len();
            self.file = Some(file);
        }
        Ok(())
    }

    /// All of it or nothing.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        match file.write_all(bytes) {
            Ok(()) => {
                self.size += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half an entry would be read as none, and what comes after it perhaps, too.
                file.set_len(self.size)?;
                Err(error)
            }
        }
    }

    /// `json.log` becomes `json.log.1` and so on; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        while self.compressing.is_some() {
            self.compress();
        }
        self.file = None;
        let kept = self.kept.max_files.max(1) - 1;
        if kept == 0 {
            return fs::remove_file(&self.newest);
        }
        let numbered = |number| before(&self.newest, number);
        for oldest in [numbered(kept), compressed(&numbered(kept))] {
            done_already(fs::remove_file(oldest))?;
        }
        for number in (1..kept).rev() {
            let (from, to) = (numbered(number), numbered(number + 1));
            done_already(fs::rename(compressed(&from), compressed(&to)))?;
            done_already(fs::rename(from, to))?;
        }
        fs::rename(&self.newest, numbered(1))?;
        if self.kept.compress {
            // Uncompressed it is as good, but for its size.
            self.compressing = Compressing::begin(&numbered(1)).ok();
        }
        Ok(())
    }

    /// Whether a file is being compressed.
    pub fn is_compressing(&self) -> bool {
        self.compressing.is_some()
    }

    /// Compresses the next piece. A file that can't be, since the disk is full, stays as it is.
    pub fn compress(&mut self) {
        let Some(mut work) = self.compressing.take() else { return };
        let plain = before(&self.newest, 1);
        match work.step() {
            Ok(false) => self.compressing = Some(work),
            Ok(true) => {
                if let Err(error) = work.finish(&plain) {
                    tracing::debug!(%error, "compress a log");
                    drop(fs::remove_file(unfinished(&plain)));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "compress a log");
                drop(fs::remove_file(unfinished(&plain)));
            }
        }
    }
}

impl Compressing {
    fn begin(plain: &Path) -> io::Result<Self> {
        let source = File::open(plain)?;
        let into = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(unfinished(plain))?;
        Ok(Self { source, into: GzEncoder::new(into, Compression::fast()) })
    }

    /// Whether that was all.
    fn step(&mut self) -> io::Result<bool> {
        let mut piece = vec![0; PIECE];
        let count = self.source.read(&mut piece)?;
        self.into.write_all(&piece[..count])?;
        Ok(count == 0)
    }

    /// The compressed file takes the place of the other one. Whoever reads finds one of them at any time.
    fn finish(self, plain: &Path) -> io::Result<()> {
        self.into.finish()?;
        fs::rename(unfinished(plain), compressed(plain))?;
        fs::remove_file(plain)
    }
}

fn unfinished(plain: &Path) -> PathBuf {
    with_end(plain, ".gz.new")
}

fn done_already(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
