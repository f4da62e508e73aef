//! Writing early: while an image is fetched and unpacked, the disk is given what waits in memory, so that the syncfs(2)
//! that comes before its publication finds little left to do.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::{Error, io_at};
use crate::runtime::sys;

/// How often, in bytes. More often, and the file system's journal is what is waited for.
const EVERY: u64 = 32 << 20;
/// What a file is besides its content.
const FILE: u64 = 1 << 10;

/// What was written since the disk was last given all of it.
#[derive(Debug)]
pub struct Early {
    bytes: AtomicU64,
    wake: SyncSender<()>,
}

impl Early {
    /// Says that so many bytes of a file, or of a part of one, have been written.
    pub fn wrote(&self, bytes: u64) {
        let bytes = bytes.saturating_add(FILE);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // Who counts past the mark is the one who says so; a round that waits already has this in it.
        if before / EVERY != before.wrapping_add(bytes) / EVERY && self.wake.try_send(()).is_err() {
            tracing::trace!("the disk is behind");
        }
    }
}

/// Does the work, which writes to this directory's file system, while another thread has the disk take what is written.
///
/// # Errors
/// Those of the work, then those of the disk: the kernel tells of a failed write once only.
pub fn written_early<T>(directory: &Path, work: impl FnOnce(&Early) -> Result<T, Error>) -> Result<T, Error> {
    let file = File::open(directory).map_err(io_at(directory))?;
    // One round at work, one that waits.
    let (wake, woken) = sync_channel(1);
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || write(&file, &woken));
        let early = Early { bytes: AtomicU64::new(0), wake };
        let done = work(&early);
        drop(early);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let done = done?;
        written.map_err(io_at(directory))?;
        Ok(done)
    })
}

fn write(file: &File, woken: &Receiver<()>) -> io::Result<()> {
    while woken.recv().is_ok() {
        sys::sync_file_system(file.as_fd())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_has_a_round_whenever_enough_was_written() {
        let (wake, woken) = sync_channel(1);
        let early = Early { bytes: AtomicU64::new(0), wake };
        early.wrote(EVERY / 2);
        assert!(woken.try_recv().is_err());
        early.wrote(EVERY / 2);
        assert!(woken.try_recv().is_ok());
        for _ in 0..EVERY / FILE - 3 {
            early.wrote(0);
        }
        assert!(woken.try_recv().is_err(), "too early");
        early.wrote(FILE);
        assert!(woken.try_recv().is_ok());
        // Nobody waits for a disk that is behind.
        for _ in 0..9 {
            early.wrote(EVERY);
        }
        assert!(woken.try_recv().is_ok());
        assert!(woken.try_recv().is_err());
    }

    #[test]
    fn what_the_work_says_is_what_comes_of_it() {
        let place = std::env::temp_dir();
        let done = written_early(&place, |early| {
            early.wrote(EVERY);
            Ok(5)
        });
        assert_eq!(done.unwrap(), 5);
        let failed = written_early::<()>(&place, |_| Err(Error::NotFound("x".into())));
        assert!(matches!(failed, Err(Error::NotFound(name)) if name == "x"));
    }
}
