//! The files of a log: which there are, and how the newest is read as it grows.
//!
//! `json.log` (or `local.log`) grows; `json.log.1` is the one before it, `json.log.2` older. Where they are compressed, one
//! is `json.log.1.gz` as soon as it is whole under that name, and `json.log.1` goes after that: one of them is always
//! there.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::Line;
use super::form::Decoder;
use crate::runtime::container::LogFiles;

/// How much is read at once, in bytes.
const PIECE: usize = 64 << 10;

/// The file before the newest, so many before it.
pub fn before(newest: &Path, number: u32) -> PathBuf {
    with_end(newest, &format!(".{number}"))
}

/// The same one, compressed.
pub fn compressed(plain: &Path) -> PathBuf {
    with_end(plain, ".gz")
}

pub fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// A file, and what it is read through.
pub enum Old {
    Plain(File),
    Compressed(Box<MultiGzDecoder<File>>),
}

impl Read for Old {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(bytes),
            Self::Compressed(file) => file.read(bytes),
        }
    }
}

/// All files before the newest, the youngest first, as far as `known` has not been opened before: whoever opens the newest
/// first misses nothing when they are renamed meanwhile.
pub fn older(newest: &Path, max_files: u32, known: Option<u64>) -> io::Result<Vec<Old>> {
    let mut files = Vec::new();
    let mut seen: Vec<u64> = known.into_iter().collect();
    for number in 1..=max_files.max(1) {
        let plain = before(newest, number);
        let found = match open(&plain)? {
            Some(file) => Some((file.metadata()?.ino(), Old::Plain(file))),
            None => match open(&compressed(&plain))? {
                Some(file) => Some((file.metadata()?.ino(), Old::Compressed(Box::new(MultiGzDecoder::new(file))))),
                None => None,
            },
        };
        if let Some((inode, file)) = found
            && !seen.contains(&inode)
        {
            seen.push(inode);
            files.push(file);
        }
    }
    Ok(files)
}

pub fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Hands over every line of it, until `each` says `false`. Returns whether it never did.
pub fn all(mut file: impl Read, mut decoder: Decoder, each: &mut dyn FnMut(Line) -> bool) -> io::Result<bool> {
    let mut piece = vec![0; PIECE];
    loop {
        let count = match file.read(&mut piece) {
            Ok(0) => return Ok(true),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // What a power cut has left of a compressed file is read as far as it goes.
            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput) => {
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        decoder.feed(&piece[..count]);
        if !decoder.by_ref().all(&mut *each) {
            return Ok(false);
        }
    }
}

/// Reads the newest file as it grows, and its successors when it is rotated away.
pub struct Growing {
    newest: PathBuf,
    files: LogFiles,
    file: Option<File>,
    decoder: Decoder,
}

impl Growing {
    pub fn open(newest: PathBuf, files: LogFiles) -> io::Result<Self> {
        let file = open(&newest)?;
        Ok(Self { newest, files, file, decoder: Decoder::new(files.form) })
    }

    /// Which file it is that is open.
    pub fn inode(&self) -> io::Result<Option<u64>> {
        self.file.as_ref().map(|file| file.metadata().map(|data| data.ino())).transpose()
    }

    /// Hands over what was written since, until `each` says `false`. Returns whether it never did.
    pub fn more(&mut self, each: &mut dyn FnMut(Line) -> bool) -> io::Result<bool> {
        let mut piece = vec![0; PIECE];
        loop {
            while let Some(file) = &mut self.file {
                let count = file.read(&mut piece)?;
                if count == 0 {
                    break;
                }
                self.decoder.feed(&piece[..count]);
                if !self.decoder.by_ref().all(&mut *each) {
                    return Ok(false);
                }
            }
            let Some(next) = self.successor()? else { return Ok(true) };
            // The last lines of the one before may have come since it was read.
            if let Some(mut file) = self.file.replace(next) {
                let rest = std::mem::replace(&mut self.decoder, Decoder::new(self.files.form));
                if !all(&mut file, rest, each)? {
                    return Ok(false);
                }
            }
        }
    }

    /// The file after the one that is open; `None` while that is the newest.
    fn successor(&self) -> io::Result<Option<File>> {
        let Some(newest) = open(&self.newest)? else { return Ok(None) };
        let Some(own) = self.inode()? else { return Ok(Some(newest)) };
        if newest.metadata()?.ino() == own {
            return Ok(None);
        }
        let mut younger = newest;
        for number in 1..self.files.max_files {
            let Some(file) = open(&before(&self.newest, number))? else { break };
            if file.metadata()?.ino() == own {
                break;
            }
            younger = file;
        }
        Ok(Some(younger))
    }
}
