//! `grpc.health.v1.Health/Check` over HTTP/2 with prior knowledge (RFC 9113), and nothing else of it: one stream, one
//! message each way. Frames are read one at a time; their number and size are bounded.

use std::io::{self, Read, Write};

use super::hpack::{self, Found};
use crate::runtime::varint;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PATH: &str = "/grpc.health.v1.Health/Check";
/// What no answer exceeds that means health: frames, bytes of a frame (RFC 9113, 4.2), bytes of headers and message.
const MOST_FRAMES: usize = 64;
const LARGEST_FRAME: usize = 16 << 10;
const LARGEST_PART: usize = 16 << 10;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

pub fn ask(mut stream: impl Read + Write, authority: &str, service: &str) -> Result<String, String> {
    let said = |text: &str| format!("grpc {authority}: {text}");
    stream.write_all(&question(authority, service)).map_err(|error| said(&error.to_string()))?;
    let answer = answer(&mut stream).map_err(|error| said(&error.to_string()))?;
    let message = verdict(&answer).map_err(|reason| said(&reason))?;
    if message == SERVING { Ok(said(state(message))) } else { Err(said(state(message))) }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// All that is sent of our own accord: settings, the request's headers, its message.
fn question(authority: &str, service: &str) -> Vec<u8> {
    // No table of earlier header fields, and no pushed streams.
    let settings = [0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0];
    // Indexed: `:method: POST`, `:scheme: http`; literals that are not remembered for the rest.
    let mut headers = vec![0x83, 0x86];
    let numbered = [(4u8, PATH), (1, authority)];
    for (name, value) in numbered {
        headers.push(name);
        text(&mut headers, value);
    }
    for (name, value) in [("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "stack-probe")] {
        headers.push(0);
        text(&mut headers, name);
        text(&mut headers, value);
    }
    // Field 1, length-delimited; spec and command line keep names below a byte's size.
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        varint::put(&mut message, service.len() as u64);
        message.extend(service.as_bytes());
    }
    let length = (message.len() as u32).to_be_bytes();
    let body = [&[0][..], &length, &message].concat();
    [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, 0, &settings),
        frame(HEADERS, END_HEADERS, 1, &headers),
        frame(DATA, END_STREAM, 1, &body),
    ]
    .concat()
}

/// A string of HPACK as it is: its length with a prefix of seven bits, and its bytes.
fn text(block: &mut Vec<u8>, text: &str) {
    match text.len() {
        length if length < 0x7f => block.push(length as u8),
        length => {
            block.push(0x7f);
            varint::put(block, (length - 0x7f) as u64);
        }
    }
    block.extend(text.as_bytes());
}

/// What came on the stream until its end.
#[derive(Default)]
struct Answer {
    found: Found,
    body: Vec<u8>,
}

fn answer(stream: &mut (impl Read + Write)) -> io::Result<Answer> {
    let mut answer = Answer::default();
    let mut block = Vec::new();
    let mut last_block = false;
    for _ in 0..MOST_FRAMES {
        let frame = read_frame(stream)?;
        match (frame.kind, frame.stream) {
            (SETTINGS, 0) if frame.flags & ACK == 0 => stream.write_all(&self::frame(SETTINGS, ACK, 0, &[]))?,
            (PING, 0) if frame.flags & ACK == 0 => stream.write_all(&self::frame(PING, ACK, 0, &frame.payload))?,
            (GOAWAY, 0) => return Err(io::Error::other("the server goes away")),
            (RST_STREAM, 1) => return Err(io::Error::other("the server gave the call up")),
            (DATA, 1) => {
                let payload = unpadded(&frame, 0).ok_or_else(malformed)?;
                add(&mut answer.body, payload)?;
                if frame.flags & END_STREAM != 0 {
                    return Ok(answer);
                }
            }
            (HEADERS | CONTINUATION, 1) => {
                let priority = if frame.kind == HEADERS && frame.flags & PRIORITY != 0 { 5 } else { 0 };
                add(&mut block, unpadded(&frame, priority).ok_or_else(malformed)?)?;
                last_block |= frame.kind == HEADERS && frame.flags & END_STREAM != 0;
                if frame.flags & END_HEADERS != 0 {
                    hpack::read(&std::mem::take(&mut block), &mut answer.found).ok_or_else(malformed)?;
                    if last_block {
                        return Ok(answer);
                    }
                }
            }
            _ => {}
        }
    }
    Err(io::Error::other("the answer does not end"))
}

fn read_frame(stream: &mut impl Read) -> io::Result<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).map_err(no_http2)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    if length > LARGEST_FRAME {
        return Err(malformed());
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).map_err(no_http2)?;
    let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    Ok(Frame { kind: head[3], flags: head[4], stream: number, payload })
}

fn no_http2(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::other("the connection was closed before the answer's end"),
        _ => error,
    }
}

fn malformed() -> io::Error {
    io::Error::other("what answers does not speak HTTP/2 without TLS")
}

/// The payload without padding and, for headers, without the five bytes of a priority.
fn unpadded(frame: &Frame, skipped: usize) -> Option<&[u8]> {
    let padded = frame.flags & PADDED != 0 && matches!(frame.kind, DATA | HEADERS);
    let (pad, rest) = if padded { frame.payload.split_first()? } else { (&0, frame.payload.as_slice()) };
    rest.get(skipped..rest.len().checked_sub(usize::from(*pad))?)
}

fn add(whole: &mut Vec<u8>, part: &[u8]) -> io::Result<()> {
    if whole.len() + part.len() > LARGEST_PART {
        return Err(io::Error::other("the answer is too large"));
    }
    whole.extend_from_slice(part);
    Ok(())
}

const SERVING: u64 = 1;

/// `HealthCheckResponse.ServingStatus`.
fn state(number: u64) -> &'static str {
    match number {
        0 => "UNKNOWN",
        SERVING => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "a state that is not known",
    }
}

/// The state that the answer's message names, where the call as a whole was a success.
fn verdict(answer: &Answer) -> Result<u64, String> {
    match (answer.found.status, answer.found.grpc_status) {
        (Some(200) | None, Some(0)) => {}
        (Some(200) | None, Some(5)) => return Err("NOT_FOUND: the server does not know this service".into()),
        (Some(200) | None, Some(12)) => return Err("UNIMPLEMENTED: the server has no grpc.health.v1.Health".into()),
        (Some(200) | None, Some(code)) => return Err(format!("the call failed with code {code}")),
        (Some(200) | None, None) => return Err("the answer has no grpc-status".into()),
        (Some(status), _) => return Err(format!("HTTP status {status}")),
    }
    let message = match answer.body.split_first() {
        Some((0, rest)) => rest.get(4..).filter(|message| rest[..4] == (message.len() as u32).to_be_bytes()),
        _ => None,
    };
    message.and_then(serving_status).ok_or_else(|| "the answer is no HealthCheckResponse".to_owned())
}

/// Field 1 of the message, a varint; the last one counts, and none is 0. Unknown fields are passed over.
fn serving_status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let key = varint::take(&mut message)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = varint::take(&mut message)?,
            (_, 0) => drop(varint::take(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint::take(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that says this whatever it hears.
    struct Says<'a>(&'a [u8]);

    impl Read for Says<'_> {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            self.0.read(room)
        }
    }

    impl Write for Says<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn says(frames: &[Vec<u8>]) -> Result<String, String> {
        ask(Says(&frames.concat()), "x", "")
    }

    fn message(bytes: &[u8]) -> Vec<u8> {
        [&[0, 0, 0, 0, bytes.len() as u8][..], bytes].concat()
    }

    const TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";

    #[test]
    fn only_a_whole_call_that_says_serving_is_health() {
        let head = frame(HEADERS, END_HEADERS, 1, &[0x88]);
        let end = frame(HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS);
        let body = |bytes: &[u8]| frame(DATA, 0, 1, &message(bytes));
        let whole = |bytes: &[u8]| says(&[frame(SETTINGS, 0, 0, &[]), head.clone(), body(bytes), end.clone()]);
        assert_eq!(whole(&[8, 1]).unwrap(), "grpc x: SERVING");
        assert_eq!(whole(&[8, 2]).unwrap_err(), "grpc x: NOT_SERVING");
        assert_eq!(whole(&[]).unwrap_err(), "grpc x: UNKNOWN");
        assert_eq!(whole(&[0x12, 1, b'x', 8, 1]).unwrap(), "grpc x: SERVING");
        assert!(whole(&[8]).unwrap_err().contains("no HealthCheckResponse"));
        let unknown = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x88\x00\x0bgrpc-status\x0212");
        assert!(says(&[unknown]).unwrap_err().contains("UNIMPLEMENTED"));
        assert!(says(&[head.clone(), body(&[8, 1])]).unwrap_err().contains("closed before"));
        let cut = frame(DATA, END_STREAM, 1, &message(&[8, 1]));
        assert!(says(&[head, cut]).unwrap_err().contains("no grpc-status"));
    }

    #[test]
    fn what_answers_otherwise_is_bounded_and_unhealthy() {
        assert!(ask(Says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "x", "").unwrap_err().contains("HTTP/2"));
        let pings = vec![frame(PING, 0, 0, &[0; 8]); 1000];
        assert!(says(&pings).unwrap_err().contains("does not end"));
        let large = vec![frame(DATA, 0, 1, &[0; LARGEST_FRAME]); 3];
        assert!(says(&large).unwrap_err().contains("too large"));
        let endless = vec![frame(CONTINUATION, 0, 1, &[0; LARGEST_FRAME]); 3];
        assert!(says(&endless).unwrap_err().contains("too large"));
        for bad in [frame(DATA, PADDED, 1, &[9, 0]), frame(HEADERS, PADDED | PRIORITY | END_HEADERS, 1, &[0, 1])] {
            assert!(says(&[bad]).is_err());
        }
    }
}
