//! A further process that writes the files of a log, for a container that never waits (`mode: non-blocking`): a disk that
//! hangs holds up this process alone. What it can't take in time is dropped before it, and counted. It has files below the
//! log's directory, and no other right.
//!
//! A frame on its socket is a line: the stream as a byte, nanoseconds since 1970 as eight, the length as four (most
//! significant first), the text. It answers with what it has lost, a line of JSON at each change, and ends with the
//! socket.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::apart;
use super::kept::{Kept, Loss};
use crate::runtime::container::Config;
use crate::runtime::container::logs::form::Piece;
use crate::runtime::{confine, init, sys};

/// How much is read at once, in bytes.
const PIECE: usize = 64 << 10;
const HEAD: usize = 13;

/// Whose log it writes, and where.
pub struct Desk {
    pub directory: PathBuf,
    pub config: Config,
}

/// As one frame.
pub fn frame(piece: Piece<'_>) -> Vec<u8> {
    let nanoseconds = i64::try_from(piece.time.as_nanosecond()).unwrap_or_default();
    let length = u32::try_from(piece.text.len()).unwrap_or_default();
    let mut bytes = Vec::with_capacity(HEAD + piece.text.len());
    bytes.push(u8::from(piece.stream != 0));
    bytes.extend(nanoseconds.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend_from_slice(piece.text);
    bytes
}

/// The whole frames at the front, and how many bytes they are.
fn pieces(bytes: &[u8]) -> (Vec<Piece<'_>>, usize) {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(head) = bytes[at..].first_chunk::<HEAD>() {
        let [stream, a, b, c, d, e, f, g, h, i, j, k, l] = *head;
        let length = u32::from_be_bytes([i, j, k, l]) as usize;
        let Some(text) = bytes.get(at + HEAD..at + HEAD + length) else { break };
        let nanoseconds = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let time = jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default();
        found.push(Piece { stream: usize::from(stream), text, time });
        at += HEAD + length;
    }
    (found, at)
}

/// Starts one: it may outlive the supervisor for as long as the disk keeps it.
///
/// # Errors
/// Where there can be no further process.
pub fn begin(desk: &Desk) -> io::Result<OwnedFd> {
    apart::begin(|lines| write(lines, desk))
}

fn write(mut lines: UnixStream, desk: &Desk) -> io::Result<()> {
    sys::close_all_but(lines.as_fd())?;
    // The one before may still have something to write.
    let directory = File::open(&desk.directory)?;
    let _turn = Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, error)| io::Error::from(error))?;
    let Some(mut kept) = Kept::new(&desk.directory, &desk.config) else { return Ok(()) };
    init::keep_capabilities(&[])?;
    confine::to_files_below(&desk.directory)?;
    let (mut bytes, mut piece) = (Vec::new(), vec![0; PIECE]);
    let mut known = Loss::default();
    loop {
        if kept.has_work() && !has_more(&lines)? {
            kept.work();
            continue;
        }
        let count = match lines.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        bytes.extend_from_slice(&piece[..count]);
        let (found, length) = pieces(&bytes);
        if !found.is_empty() {
            kept.write(&found);
        }
        bytes.drain(..length);
        kept.work();
        if *kept.loss() != known {
            known = kept.loss().clone();
            let mut text = serde_json::to_vec(&known)?;
            text.push(b'\n');
            // Nobody listens any more where the supervisor is gone.
            drop(lines.write_all(&text));
        }
    }
    while kept.has_work() {
        kept.work();
    }
    Ok(())
}

fn has_more(lines: &UnixStream) -> io::Result<bool> {
    let mut waited = [PollFd::new(lines.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut waited, PollTimeout::ZERO)? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let time = "2024-05-06T07:08:09.000000123Z".parse().unwrap();
        let all = [Piece { stream: 0, text: b"one\n", time }, Piece { stream: 1, text: b"", time }];
        let bytes = all.map(frame).concat();
        for end in 0..bytes.len() {
            let (found, length) = pieces(&bytes[..end]);
            assert_eq!(found, all[..found.len()]);
            assert_eq!(length, all[..found.len()].iter().map(|piece| frame(*piece).len()).sum::<usize>());
        }
        assert_eq!(pieces(&bytes), (all.to_vec(), bytes.len()));
    }
}
