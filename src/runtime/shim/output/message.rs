//! A line as a message to a service: to journald in its native protocol, or to a log server.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use super::link::Receiver;
use super::scribe;
use crate::runtime::container::logs::form::Piece;
use crate::runtime::container::{Config, LogService, Syslog, SyslogForm, tag};
use crate::runtime::varint;

/// Severities (RFC 5424 section 6.2.1) of standard output and of error.
const SEVERITIES: [u8; 2] = [6, 3];
const DEFAULT_TAG: &str = "{{.ID}}";

/// Makes the messages of one container.
pub enum Form {
    /// The fields that are the same in all of them.
    Journald(Vec<u8>),
    Syslog(Header),
    /// For who writes the files.
    Frames,
    /// For a plugin.
    Entries,
}

/// What messages to a log server begin with.
pub struct Header {
    syslog: Syslog,
    tag: String,
    host: String,
    process: u32,
}

impl Form {
    /// `host` is this host's name, `process` who speaks.
    pub fn of(receiver: &Receiver, config: &Config, host: String, process: u32) -> Self {
        let tag = tag(config.log.tag.as_deref().unwrap_or(DEFAULT_TAG), config);
        match receiver {
            Receiver::Files(_) => Self::Frames,
            Receiver::Pipe(_) | Receiver::Service(LogService::Plugin { .. }) => Self::Entries,
            Receiver::Service(LogService::Journald) => Self::Journald(fields(config, &tag)),
            Receiver::Service(LogService::Syslog(syslog)) => {
                Self::Syslog(Header { syslog: syslog.clone(), tag, host, process })
            }
        }
    }

    pub fn message(&self, piece: Piece<'_>) -> Vec<u8> {
        match self {
            Self::Journald(fields) => journald(fields, piece),
            Self::Syslog(header) => header.message(piece, &TimeZone::system()),
            Self::Frames => scribe::frame(piece),
            Self::Entries => entry(piece),
        }
    }
}

/// Docker's, and what its options choose.
fn fields(config: &Config, tag: &str) -> Vec<u8> {
    let own = [
        ("CONTAINER_ID", config.id.get(..12).unwrap_or(&config.id)),
        ("CONTAINER_ID_FULL", &config.id),
        ("CONTAINER_NAME", &config.name),
        ("CONTAINER_TAG", tag),
        ("IMAGE_NAME", &config.image),
        ("SYSLOG_IDENTIFIER", tag),
    ];
    let chosen = config.log.attributes.iter().map(|(name, value)| (field_name(name), value.clone()));
    let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let all: BTreeMap<String, String> = own.into_iter().chain(chosen).collect();
    let mut bytes = Vec::new();
    for (name, value) in all.iter().filter(|(name, _)| !name.is_empty()) {
        field(&mut bytes, name, value.as_bytes());
    }
    bytes
}

/// Capital letters, digits and `_`, which it does not begin with.
fn field_name(text: &str) -> String {
    let letter = |letter: char| match letter.to_ascii_uppercase() {
        letter @ ('A'..='Z' | '0'..='9') => letter,
        _ => '_',
    };
    text.chars().map(letter).collect::<String>().trim_start_matches('_').to_owned()
}

/// `NAME=value`, or, where the value has lines, its name and its length before it (systemd, JOURNAL_NATIVE_PROTOCOL).
fn field(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    bytes.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        bytes.push(b'\n');
        bytes.extend((value.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend_from_slice(value);
    bytes.push(b'\n');
}

fn journald(fields: &[u8], piece: Piece<'_>) -> Vec<u8> {
    let mut bytes = fields.to_vec();
    let (text, is_partial) = text_of(piece);
    field(&mut bytes, "PRIORITY", SEVERITIES[piece.stream.min(1)].to_string().as_bytes());
    field(&mut bytes, "SYSLOG_TIMESTAMP", format!("{:.9}", piece.time).as_bytes());
    if is_partial {
        field(&mut bytes, "CONTAINER_PARTIAL_MESSAGE", b"true");
    }
    field(&mut bytes, "MESSAGE", text);
    bytes
}

/// Docker's `LogEntry` of protocol buffers, its length in four bytes before it: source 1, time in nanoseconds 2, line 3,
/// whether more of the line follows 4.
fn entry(piece: Piece<'_>) -> Vec<u8> {
    const TEXT: u64 = 2;
    let (text, is_partial) = text_of(piece);
    let mut bytes = vec![0; 4];
    let mut field = |number: u64, value: &[u8]| {
        varint::put(&mut bytes, number << 3 | TEXT);
        varint::put(&mut bytes, value.len() as u64);
        bytes.extend_from_slice(value);
    };
    field(1, if piece.stream == 0 { b"stdout" } else { b"stderr" });
    field(3, text);
    varint::put(&mut bytes, 2 << 3);
    varint::put(&mut bytes, u64::try_from(piece.time.as_nanosecond()).unwrap_or(0));
    if is_partial {
        bytes.extend([4 << 3, 1]);
    }
    let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn text_of<'a>(piece: Piece<'a>) -> (&'a [u8], bool) {
    piece.text.strip_suffix(b"\n").map_or((piece.text, true), |text| (text, false))
}

impl Header {
    fn message(&self, piece: Piece<'_>, zone: &TimeZone) -> Vec<u8> {
        let Self { syslog, tag, host, process } = self;
        let priority = syslog.facility << 3 | SEVERITIES[piece.stream.min(1)];
        let time = piece.time.to_zoned(zone.clone());
        let head = match syslog.form {
            SyslogForm::Short => format!("<{priority}>{} {tag}[{process}]: ", time.strftime("%b %e %H:%M:%S")),
            SyslogForm::Rfc3164 => {
                format!("<{priority}>{} {host} {tag}[{process}]: ", time.strftime("%b %e %H:%M:%S"))
            }
            SyslogForm::Rfc5424 | SyslogForm::Rfc5424Micro => {
                let fraction = if syslog.form == SyslogForm::Rfc5424 { "" } else { "%.6f" };
                let zone = if time.offset().is_zero() { "Z" } else { "%:z" };
                let time = time.strftime(&format!("%Y-%m-%dT%H:%M:%S{fraction}{zone}")).to_string();
                format!("<{priority}>1 {time} {host} {tag} {process} {tag} - ")
            }
        };
        [head.as_bytes(), text_of(piece).0, b"\n"].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::container::{Log, SyslogAddress};

    fn config() -> Config {
        let attributes = [("com.example/a".to_owned(), "two\nlines".to_owned()), ("__x".to_owned(), "1".to_owned())];
        Config {
            id: "0123456789abcdef".into(),
            name: "web".into(),
            image: "nginx".into(),
            log: Log { attributes: attributes.into(), tag: Some("t/{{.Name}}".into()), ..Log::default() },
            ..Config::default()
        }
    }

    fn piece(stream: usize, text: &[u8]) -> Piece<'_> {
        Piece { stream, text, time: "2024-05-06T07:08:09.000123456Z".parse().unwrap() }
    }

    #[test]
    fn the_journal_gets_dockers_fields() {
        let form = Form::of(&Receiver::Service(LogService::Journald), &config(), "host".into(), 7);
        let expected = b"COM_EXAMPLE_A\n\x09\0\0\0\0\0\0\0two\nlines\nCONTAINER_ID=0123456789ab\n\
            CONTAINER_ID_FULL=0123456789abcdef\nCONTAINER_NAME=web\nCONTAINER_TAG=t/web\nIMAGE_NAME=nginx\n\
            SYSLOG_IDENTIFIER=t/web\nX=1\nPRIORITY=3\nSYSLOG_TIMESTAMP=2024-05-06T07:08:09.000123456Z\nMESSAGE=oh\n";
        assert_eq!(String::from_utf8(form.message(piece(1, b"oh\n"))), String::from_utf8(expected.to_vec()));
        let partial = String::from_utf8(form.message(piece(0, b"oh"))).unwrap();
        assert!(partial.contains("PRIORITY=6\n") && partial.ends_with("CONTAINER_PARTIAL_MESSAGE=true\nMESSAGE=oh\n"));
    }

    #[test]
    fn a_plugin_gets_dockers_entries() {
        let form = Form::of(&Receiver::Pipe("/x".into()), &config(), "host".into(), 7);
        let whole = [&[0, 0, 0, 22, 10, 6][..], b"stderr", &[26, 2], b"oh", &[16]].concat();
        let said = form.message(piece(1, b"oh\n"));
        assert_eq!(said[..whole.len()], whole);
        assert_eq!(said.len(), 26);
        let partial = form.message(piece(0, b"oh"));
        assert!(partial.len() == 28 && partial.ends_with(&[4 << 3, 1]), "{partial:?}");
    }

    #[test]
    fn messages_to_a_server_have_four_forms() {
        for (form, expected) in [
            (SyslogForm::Short, "<134>May  6 09:08:09 t/web[7]: hi\n"),
            (SyslogForm::Rfc3164, "<134>May  6 09:08:09 host t/web[7]: hi\n"),
            (SyslogForm::Rfc5424, "<134>1 2024-05-06T09:08:09+02:00 host t/web 7 t/web - hi\n"),
            (SyslogForm::Rfc5424Micro, "<134>1 2024-05-06T09:08:09.000123+02:00 host t/web 7 t/web - hi\n"),
        ] {
            let syslog = Syslog { address: SyslogAddress::Local, facility: 16, form };
            let header = Header { syslog, tag: "t/web".into(), host: "host".into(), process: 7 };
            let message = header.message(piece(0, b"hi\n"), &TimeZone::fixed(jiff::tz::offset(2)));
            assert_eq!(String::from_utf8(message).unwrap(), expected);
        }
    }
}
