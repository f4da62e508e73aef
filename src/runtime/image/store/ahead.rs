//! Reading ahead: one thread decompresses and hashes an archive while another writes its files.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use crate::runtime::confine;

const PIECE: usize = 128 << 10;
/// Pieces that wait to be used, beside one that is made and one that is used.
const WAITING: usize = 4;

/// Reads what another thread has read already.
pub struct Ahead {
    full: Receiver<io::Result<Vec<u8>>>,
    used: Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

/// Works with what a thread of its own reads from the source, which must be open: no more than that is left to it. It ends
/// when the work does, wherever it is then.
pub fn read_ahead<T>(source: &mut (impl Read + Send), work: impl FnOnce(&mut Ahead) -> T) -> T {
    let (give, full) = sync_channel(WAITING);
    let (used, take) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || match confine::to_what_is_open() {
            Ok(()) => fill(source, &give, &take),
            // Where nobody wants it any more, nobody is told.
            Err(error) => give.send(Err(error)).unwrap_or_default(),
        });
        work(&mut Ahead { full, used, piece: Vec::new(), at: 0 })
    })
}

/// Until the source ends or fails, or nobody wants more of it.
fn fill(source: &mut impl Read, give: &SyncSender<io::Result<Vec<u8>>>, take: &Receiver<Vec<u8>>) {
    loop {
        let mut piece = take.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let read = loop {
            match source.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let ends = !matches!(read, Ok(count) if count > 0);
        let given = give.send(read.map(|count| {
            piece.truncate(count);
            piece
        }));
        if ends || given.is_err() {
            return;
        }
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            // Where the other thread has ended, so has the source.
            let next = self.full.recv().unwrap_or_else(|_| Ok(Vec::new()))?;
            let empty = std::mem::replace(&mut self.piece, next);
            self.at = 0;
            if self.used.send(empty).is_err() {
                tracing::trace!("all of it was read");
            }
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a byte at a time, then fails.
    struct Failing(u8);

    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(1).ok_or_else(|| io::Error::other("broken"))?;
            buffer[0] = self.0;
            Ok(1)
        }
    }

    #[test]
    fn what_was_read_ahead_is_the_same() {
        let source: Vec<u8> = (0..3_000_001_u32).map(|number| (number.wrapping_mul(number) / 7) as u8).collect();
        let mut found = Vec::new();
        let count = read_ahead(&mut &source[..], |reader| {
            reader.read_to_end(&mut found)?;
            // The end stays the end.
            reader.read(&mut [0; 9])
        });
        assert_eq!(count.unwrap(), 0);
        assert!(found == source);
    }

    #[test]
    fn a_source_that_fails_fails_where_it_does() {
        let mut found = Vec::new();
        let error = read_ahead(&mut Failing(20), |reader| reader.read_to_end(&mut found)).unwrap_err();
        assert_eq!((found.len(), error.to_string().as_str()), (20, "broken"));
    }

    #[test]
    fn a_source_without_end_ends_with_the_work() {
        let mut first = [0; 10];
        read_ahead(&mut io::repeat(7), |reader| reader.read_exact(&mut first)).unwrap();
        assert_eq!(first, [7; 10]);
    }
}
