//! The two forms of a log file, both docker's.
//!
//! `json.log`: an object a line, `{"log":"…\n","stream":"stdout","attrs":{…},"time":"…"}`; `attrs` only where there are
//! any.
//!
//! `local.log`: an entry is its length as four bytes (most significant first), the message, and the length once more. The
//! message is in the wire format of protocol buffers: 1 the stream's name, 2 nanoseconds since 1970, 3 the text without
//! its line feed, 4 whether it ends without one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use super::Line;
use crate::runtime::container::LogForm;
use crate::runtime::varint;

const STREAMS: [&str; 2] = ["stdout", "stderr"];
/// A longer entry is none: a line is cut long before.
const LONGEST: usize = 1 << 20;

/// A piece of output: a line, or a part of one that is too long or has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// 0 is standard output, 1 is error.
    pub stream: usize,
    pub text: &'a [u8],
    pub time: jiff::Timestamp,
}

/// As a line of `json.log`.
#[derive(Serialize)]
struct Json<'a> {
    log: Cow<'a, str>,
    stream: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    attrs: Option<&'a BTreeMap<String, String>>,
    time: &'a str,
}

/// What was read of one.
#[derive(Deserialize)]
struct ReadJson {
    log: String,
    stream: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
    time: String,
}

/// Writes pieces in one form.
pub struct Encoder {
    form: LogForm,
    attributes: BTreeMap<String, String>,
    /// The last moment that was written, as text: many pieces come at once.
    moment: (jiff::Timestamp, String),
}

impl Encoder {
    pub fn new(form: LogForm, attributes: BTreeMap<String, String>) -> Self {
        Self { form, attributes, moment: (jiff::Timestamp::MIN, String::new()) }
    }

    /// Appends the entry to `bytes`.
    pub fn encode(&mut self, bytes: &mut Vec<u8>, piece: Piece<'_>) -> io::Result<()> {
        match self.form {
            LogForm::Json => self.json(bytes, piece),
            LogForm::Local => {
                local(bytes, piece);
                Ok(())
            }
        }
    }

    fn json(&mut self, bytes: &mut Vec<u8>, piece: Piece<'_>) -> io::Result<()> {
        if self.moment.0 != piece.time {
            self.moment = (piece.time, format!("{:.9}", piece.time));
        }
        let line = Json {
            log: String::from_utf8_lossy(piece.text),
            stream: STREAMS[piece.stream.min(1)],
            attrs: (!self.attributes.is_empty()).then_some(&self.attributes),
            time: &self.moment.1,
        };
        serde_json::to_writer(&mut *bytes, &line)?;
        bytes.push(b'\n');
        Ok(())
    }
}

fn local(bytes: &mut Vec<u8>, piece: Piece<'_>) {
    let (text, is_partial) = match piece.text.strip_suffix(b"\n") {
        Some(text) => (text, false),
        None => (piece.text, true),
    };
    let stream = STREAMS[piece.stream.min(1)].as_bytes();
    let start = bytes.len();
    bytes.extend([0; 4]);
    field(bytes, 1, stream);
    bytes.push(2 << 3);
    let nanoseconds = i64::try_from(piece.time.as_nanosecond()).unwrap_or_default();
    varint::put(bytes, nanoseconds.cast_unsigned());
    field(bytes, 3, text);
    if is_partial {
        bytes.extend([4 << 3, 1]);
    }
    let length = u32::try_from(bytes.len() - start - 4).unwrap_or_default().to_be_bytes();
    bytes[start..start + 4].copy_from_slice(&length);
    bytes.extend(length);
}

fn field(bytes: &mut Vec<u8>, number: u8, content: &[u8]) {
    bytes.push(number << 3 | 2);
    varint::put(bytes, content.len() as u64);
    bytes.extend_from_slice(content);
}

/// Finds the lines in what is read of a file, piece by piece.
pub struct Decoder {
    form: LogForm,
    bytes: Vec<u8>,
    /// So many of them are done with.
    at: usize,
}

impl Decoder {
    pub fn new(form: LogForm) -> Self {
        Self { form, bytes: Vec::new(), at: 0 }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }
}

/// The lines that are there whole. What is none, such as one that a full disk cut, is passed over.
impl Iterator for Decoder {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        loop {
            let rest = &self.bytes[self.at..];
            let (length, line) = match self.form {
                LogForm::Json => {
                    let end = rest.iter().position(|byte| *byte == b'\n')? + 1;
                    (end, serde_json::from_slice::<ReadJson>(&rest[..end]).ok().map(Line::from))
                }
                LogForm::Local => {
                    let length = u32::from_be_bytes(*rest.first_chunk()?) as usize;
                    if length > LONGEST {
                        // Nobody knows where the next begins.
                        (rest.len(), None)
                    } else {
                        (length + 8, read_local(rest.get(4..length + 8)?, length))
                    }
                }
            };
            self.at += length;
            if line.is_some() || length == 0 {
                return line;
            }
        }
    }
}

impl From<ReadJson> for Line {
    fn from(read: ReadJson) -> Self {
        Self { log: read.log, stream: read.stream, time: read.time, attributes: read.attrs }
    }
}

fn read_local(entry: &[u8], length: usize) -> Option<Line> {
    let (message, mirrored) = entry.split_at(length);
    if mirrored != u32::try_from(length).ok()?.to_be_bytes() {
        return None;
    }
    let mut rest = message;
    let (mut stream, mut nanoseconds, mut text, mut is_partial) = (&[][..], 0, &[][..], false);
    while let Some((tag, after)) = rest.split_first() {
        rest = after;
        let number = varint::take(&mut rest)?;
        match (tag >> 3, tag & 7) {
            (2, 0) => nanoseconds = number.cast_signed(),
            (4, 0) => is_partial = number != 0,
            (_, 0) => {}
            (field, 2) => {
                let (content, after) = rest.split_at_checked(usize::try_from(number).ok()?)?;
                rest = after;
                match field {
                    1 => stream = content,
                    3 => text = content,
                    _ => {}
                }
            }
            _ => return None,
        }
    }
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()?;
    Some(Line {
        log: String::from_utf8_lossy(text).into_owned() + if is_partial { "" } else { "\n" },
        stream: String::from_utf8_lossy(stream).into_owned(),
        time: format!("{time:.9}"),
        attributes: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time() -> jiff::Timestamp {
        "2024-05-06T07:08:09.000000123Z".parse().unwrap()
    }

    fn written(form: LogForm, pieces: &[(usize, &[u8])]) -> Vec<u8> {
        let mut encoder = Encoder::new(form, BTreeMap::new());
        let mut bytes = Vec::new();
        for (stream, text) in pieces {
            encoder.encode(&mut bytes, Piece { stream: *stream, text, time: time() }).unwrap();
        }
        bytes
    }

    /// As dockerd 20.10 writes them.
    #[test]
    fn samples_of_both_forms() {
        let mut encoder = Encoder::new(LogForm::Json, [("com.a".to_owned(), "b".to_owned())].into());
        let mut bytes = Vec::new();
        encoder.encode(&mut bytes, Piece { stream: 1, text: b"a <\"> \xff\n", time: time() }).unwrap();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            "{\"log\":\"a <\\\"> \u{fffd}\\n\",\"stream\":\"stderr\",\"attrs\":{\"com.a\":\"b\"},\
             \"time\":\"2024-05-06T07:08:09.000000123Z\"}\n"
        );
        let expected = b"\0\0\0\x16\x0a\x06stdout\x10\xfb\xf4\xfc\xaf\xbb\x92\xb5\xe6\x17\x1a\x02hi\0\0\0\x16";
        assert_eq!(written(LogForm::Local, &[(0, b"hi\n")]), expected);
    }

    #[test]
    fn lines_come_out_as_they_went_in_however_they_are_cut() {
        let pieces: [(usize, &[u8]); 5] =
            [(0, b"one\n"), (1, b"two"), (0, b"\n"), (1, "drei \u{fc}\n".as_bytes()), (0, b"")];
        for form in [LogForm::Json, LogForm::Local] {
            let bytes = written(form, &pieces);
            for step in [1, 7, bytes.len()] {
                let mut decoder = Decoder::new(form);
                let mut lines = Vec::new();
                for part in bytes.chunks(step) {
                    decoder.feed(part);
                    lines.extend(decoder.by_ref());
                }
                let found: Vec<(usize, &[u8])> =
                    lines.iter().map(|line| (usize::from(line.stream == "stderr"), line.log.as_bytes())).collect();
                assert_eq!(found, pieces, "{form:?} by {step}");
                assert!(lines.iter().all(|line| line.time == "2024-05-06T07:08:09.000000123Z"));
            }
        }
    }

    #[test]
    fn what_is_no_line_is_passed_over() {
        let mut decoder = Decoder::new(LogForm::Json);
        decoder.feed(b"{\"log\":\"cut\n{\"log\":\"whole\\n\",\"stream\":\"stdout\",\"time\":\"t\"}\n");
        assert_eq!(decoder.by_ref().map(|line| line.log).collect::<Vec<_>>(), ["whole\n"]);
        let mut bytes = written(LogForm::Local, &[(0, b"first\n"), (0, b"second\n"), (0, b"third\n")]);
        // Its second length is not the first.
        let middle = bytes.len() / 3 * 2 - 1;
        bytes[middle] ^= 1;
        let mut decoder = Decoder::new(LogForm::Local);
        decoder.feed(&bytes);
        assert!(decoder.by_ref().any(|line| line.log == "first\n"));
        let mut decoder = Decoder::new(LogForm::Local);
        decoder.feed(&[0xff; 64]);
        assert_eq!(decoder.next(), None);
    }
}
