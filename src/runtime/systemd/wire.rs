//! Messages of D-Bus, as far as systemd's manager is spoken to: calls are written, answers and signals are read
//! (D-Bus specification, "Message Protocol"). Little endian both ways, as all that systemd runs on here.

use std::io::{self, Read};

/// The longest message that is read; systemd's answers have some hundred bytes.
const LONGEST: u32 = 1 << 20;

/// The value of a property, by its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    Text(String),
    Number(u64),
    /// `au`: processes.
    Numbers(Vec<u32>),
    /// `ay`: a set of processors or memory nodes, a bit each.
    Bits(Vec<u8>),
    /// `a(ss)`: devices and what is allowed of them.
    Pairs(Vec<(String, String)>),
}

/// A body that is being written; a value begins at a multiple of its size, counted from the body's begin.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn align(&mut self, size: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(size), 0);
    }

    fn u32(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend(value.to_le_bytes());
    }

    pub fn boolean(&mut self, value: bool) {
        self.u32(u32::from(value));
    }

    pub fn text(&mut self, value: &str) {
        self.u32(value.len() as u32);
        self.bytes.extend(value.as_bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, value: &str) {
        self.bytes.push(value.len() as u8);
        self.bytes.extend(value.as_bytes());
        self.bytes.push(0);
    }

    /// The length counts from the first element on, not what aligns that.
    pub fn array(&mut self, size: usize, elements: impl FnOnce(&mut Self)) {
        self.u32(0);
        let place = self.bytes.len() - 4;
        self.align(size);
        let begin = self.bytes.len();
        elements(self);
        let length = (self.bytes.len() - begin) as u32;
        self.bytes[place..place + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// `a(sv)`
    pub fn properties(&mut self, properties: &[(&str, Value)]) {
        self.array(8, |array| {
            for (name, value) in properties {
                array.align(8);
                array.text(name);
                array.variant(value);
            }
        });
    }

    fn variant(&mut self, value: &Value) {
        match value {
            Value::Bool(value) => {
                self.signature("b");
                self.boolean(*value);
            }
            Value::Text(value) => {
                self.signature("s");
                self.text(value);
            }
            Value::Number(value) => {
                self.signature("t");
                self.align(8);
                self.bytes.extend(value.to_le_bytes());
            }
            Value::Numbers(all) => {
                self.signature("au");
                self.array(4, |array| all.iter().for_each(|one| array.u32(*one)));
            }
            Value::Bits(bits) => {
                self.signature("ay");
                self.array(1, |array| array.bytes.extend(bits));
            }
            Value::Pairs(all) => {
                self.signature("a(ss)");
                self.array(8, |array| {
                    for (one, other) in all {
                        array.align(8);
                        array.text(one);
                        array.text(other);
                    }
                });
            }
        }
    }
}

/// A call of a method.
pub struct Call<'a> {
    pub serial: u32,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub destination: &'a str,
    /// Of the body; empty where there is none.
    pub signature: &'a str,
}

/// The whole message.
pub fn call(call: &Call<'_>, body: Writer) -> Vec<u8> {
    const LITTLE_ENDIAN: u8 = b'l';
    const METHOD_CALL: u8 = 1;
    const VERSION: u8 = 1;
    let mut message = Writer { bytes: vec![LITTLE_ENDIAN, METHOD_CALL, 0, VERSION] };
    message.u32(body.bytes.len() as u32);
    message.u32(call.serial);
    let texts = [(1, "o", call.path), (2, "s", call.interface), (3, "s", call.member), (6, "s", call.destination)];
    message.array(8, |fields| {
        for (code, kind, text) in texts {
            fields.align(8);
            fields.bytes.push(code);
            fields.signature(kind);
            fields.text(text);
        }
        if !call.signature.is_empty() {
            fields.align(8);
            fields.bytes.push(8);
            fields.signature("g");
            fields.signature(call.signature);
        }
    });
    message.align(8);
    message.bytes.extend(body.bytes);
    message.bytes
}

/// What came, as far as it is looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// 2: an answer, 3: an error, 4: a signal.
    pub kind: u8,
    /// The call that it answers.
    pub reply_to: u32,
    /// The name of the signal, or of the error.
    pub name: String,
    /// The texts and paths of the body, in their order.
    pub texts: Vec<String>,
}

/// Reads one message.
///
/// # Errors
/// Where the other side ends, or says what is no message.
pub fn read(from: &mut impl Read) -> io::Result<Message> {
    let mut head = [0; 16];
    from.read_exact(&mut head)?;
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (body, fields) = (number(4), number(12));
    if head[0] != b'l' || body > LONGEST || fields > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no message of D-Bus"));
    }
    let mut rest = vec![0; (fields as usize).next_multiple_of(8) + body as usize];
    from.read_exact(&mut rest)?;
    let mut message = Message { kind: head[1], ..Message::default() };
    let mut signature = String::new();
    let mut reader = Reader { bytes: &rest[..fields as usize], at: 0 };
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "a broken message of D-Bus");
    while reader.at < reader.bytes.len() {
        reader.align(8);
        let code = reader.byte().ok_or_else(broken)?;
        let kind = reader.signature().ok_or_else(broken)?;
        match (code, kind.as_str()) {
            (3 | 4, "s") => message.name = reader.text().ok_or_else(broken)?,
            (5, "u") => message.reply_to = reader.u32().ok_or_else(broken)?,
            (8, "g") => signature = reader.signature().ok_or_else(broken)?,
            (_, "s" | "o") => drop(reader.text().ok_or_else(broken)?),
            (_, "u") => drop(reader.u32().ok_or_else(broken)?),
            (_, "g") => drop(reader.signature().ok_or_else(broken)?),
            _ => return Err(broken()),
        }
    }
    let mut reader = Reader { bytes: &rest[(fields as usize).next_multiple_of(8)..], at: 0 };
    // Signals and answers of other kinds are nobody's here; the texts before such a value are enough.
    for kind in signature.chars() {
        match kind {
            's' | 'o' => message.texts.push(reader.text().ok_or_else(broken)?),
            'u' | 'i' | 'b' => drop(reader.u32().ok_or_else(broken)?),
            _ => break,
        }
    }
    Ok(message)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, size: usize) {
        self.at = self.at.next_multiple_of(size);
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4);
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = self.u32()?;
        self.ended_by_zero(length as usize)
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.byte()?;
        self.ended_by_zero(length.into())
    }

    fn ended_by_zero(&mut self, length: usize) -> Option<String> {
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.byte().map(|_| text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<u8> {
        let mut body = Writer::default();
        body.text("a.scope");
        body.text("fail");
        body.properties(&[
            ("PIDs", Value::Numbers(vec![7])),
            ("Delegate", Value::Bool(true)),
            ("TasksMax", Value::Number(9)),
            ("DeviceAllow", Value::Pairs(vec![("/dev/null".to_owned(), "rw".to_owned())])),
        ]);
        let words =
            Call { serial: 3, path: "/x", interface: "a.b", member: "M", destination: "c.d", signature: "ssa(sv)" };
        call(&words, body)
    }

    /// Read back, texts and name are those that were written.
    #[test]
    fn a_message_is_read_as_it_was_written() {
        let message = read(&mut example().as_slice()).unwrap();
        assert_eq!((message.kind, message.name.as_str()), (1, "M"));
        assert_eq!(message.texts, ["a.scope", "fail"]);
    }

    #[test]
    fn what_is_cut_or_broken_is_an_error() {
        let whole = example();
        for length in 0..whole.len() {
            assert!(read(&mut &whole[..length]).is_err(), "{length}");
        }
        for place in 12..whole.len() {
            let mut broken = whole.clone();
            broken[place] ^= 0xff;
            // Whatever it is taken for, it ends.
            drop(read(&mut broken.as_slice()));
        }
    }
}
