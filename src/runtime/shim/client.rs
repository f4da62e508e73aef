//! Talking to a supervisor: one request a connection, a line of JSON; the answer is a line of JSON. After the answer to
//! [`Request::Attach`] both sides send frames: a byte that says what it is, the length as four bytes (most significant
//! first), the content.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::runtime::container::{Error, Paths};

/// Format 1 of the conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase")]
pub enum Request {
    /// Answered when the container has ended.
    Stop {
        signal: Option<String>,
        grace_ms: u64,
    },
    Kill {
        signal: String,
    },
    Pause,
    Resume,
    /// Read the configuration again and apply what may change.
    Reload,
    /// Take another name, and the directories of that. `netns` is where the network namespace is held from then on.
    Rename {
        name: String,
        netns: Option<PathBuf>,
    },
    /// Frames from here on.
    Attach {
        /// First all that the log holds from this time on, in the log's own form; empty is from its beginning.
        replay_since: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    Done,
    Failed(String),
    /// The container has ended meanwhile.
    Ended,
}

/// Kinds of frames.
pub mod frame {
    pub const STDIN: u8 = 0;
    pub const STDOUT: u8 = 1;
    pub const STDERR: u8 = 2;
    /// Four bytes: the exit code.
    pub const EXIT: u8 = 3;
    pub const STDIN_END: u8 = 4;
    /// Two bytes rows, two bytes columns.
    pub const RESIZE: u8 = 5;
    /// The largest content that is accepted, in bytes.
    pub const LARGEST: usize = 1 << 20;
}

/// A frame as bytes.
pub fn encode(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((content.len() as u32).to_be_bytes());
    bytes.extend(content);
    bytes
}

/// Takes one whole frame from the front of `bytes`. `None` when it is not all there yet.
///
/// # Errors
/// Where it claims to be larger than [`frame::LARGEST`].
pub fn decode(bytes: &mut Vec<u8>) -> io::Result<Option<(u8, Vec<u8>)>> {
    let Some(&[kind, a, b, c, d]) = bytes.first_chunk::<5>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > frame::LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too large"));
    }
    if bytes.len() < 5 + length {
        return Ok(None);
    }
    let rest = bytes.split_off(5 + length);
    let content = std::mem::replace(bytes, rest).split_off(5);
    Ok(Some((kind, content)))
}

fn connect(paths: &Paths, name: &str) -> Result<UnixStream, Error> {
    UnixStream::connect(&paths.socket).map_err(|_| Error::NotRunning(name.to_owned()))
}

fn lost(name: &str) -> impl Fn(io::Error) -> Error {
    let name = name.to_owned();
    move |error| Error::Supervisor { name: name.clone(), reason: format!("ended while it was asked: {error}") }
}

/// Sends the request and waits for the answer.
pub fn ask(paths: &Paths, name: &str, request: &Request) -> Result<(), Error> {
    let mut stream = connect(paths, name)?;
    send(&mut stream, name, request)?;
    answer(&mut BufReader::new(stream), name)
}

fn send(stream: &mut UnixStream, name: &str, request: &Request) -> Result<(), Error> {
    let mut text = serde_json::to_vec(request).map_err(|error| lost(name)(error.into()))?;
    text.push(b'\n');
    stream.write_all(&text).map_err(lost(name))
}

fn answer(reader: &mut impl BufRead, name: &str) -> Result<(), Error> {
    let mut text = String::new();
    reader.read_line(&mut text).map_err(lost(name))?;
    match serde_json::from_str(&text) {
        Ok(Response::Done) => Ok(()),
        Ok(Response::Ended) => Err(Error::NotRunning(name.to_owned())),
        Ok(Response::Failed(reason)) => Err(Error::Refused { name: name.to_owned(), reason }),
        Err(error) => Err(lost(name)(error.into())),
    }
}

/// A connection to the container's input and output: both ends speak frames from here on.
pub fn attach(paths: &Paths, name: &str, replay_since: Option<String>) -> Result<UnixStream, Error> {
    let mut stream = connect(paths, name)?;
    send(&mut stream, name, &Request::Attach { replay_since })?;
    // Byte by byte: frames may follow the answer at once and belong to the caller.
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(lost(name))?;
        line.push(byte[0]);
    }
    answer(&mut line.as_slice(), name)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let mut bytes = [encode(frame::STDOUT, b"abc"), encode(frame::EXIT, &7_i32.to_be_bytes())].concat();
        let last = bytes.pop().unwrap();
        assert_eq!(decode(&mut bytes).unwrap(), Some((frame::STDOUT, b"abc".to_vec())));
        assert_eq!(decode(&mut bytes).unwrap(), None);
        bytes.push(last);
        assert_eq!(decode(&mut bytes).unwrap(), Some((frame::EXIT, vec![0, 0, 0, 7])));
        assert!(decode(&mut vec![1, 255, 255, 255, 255]).is_err());
    }
}
