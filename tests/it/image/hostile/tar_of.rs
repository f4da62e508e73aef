//! Archives, header by header, as no decent library writes them.

const BLOCK: usize = 512;

#[derive(Clone, Default)]
pub struct Tar {
    bytes: Vec<u8>,
    unmarked: bool,
}

/// Filled up to whole blocks.
pub fn blocks(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// As many octal digits as fit, or GNU's binary form.
fn number(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    if value < 1 << (3 * digits) {
        field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
        return;
    }
    let width = field.len();
    field.fill(0);
    field[width - 8..].copy_from_slice(&value.to_be_bytes());
    field[0] |= 0x80;
}

fn header(kind: u8, path: &str, link: &str, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..path.len()].copy_from_slice(path.as_bytes());
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    for (at, width, value) in
        [(100, 8, if kind == b'5' { 0o755 } else { 0o644 }), (108, 8, 0), (116, 8, 0), (124, 12, size), (136, 12, 7)]
    {
        number(&mut block[at..at + width], value);
    }
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar  \0");
    block
}

fn summed(mut block: [u8; BLOCK]) -> [u8; BLOCK] {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    /// Without the content that it speaks of.
    pub fn raw_header(self, kind: u8, path: &str, size: u64) -> Self {
        self.raw(&summed(header(kind, path, "", size)))
    }

    /// The header as `edit` leaves it, with the right sum. A name that is too long for it is written before.
    pub fn edited(self, kind: u8, path: &str, link: &str, content: &[u8], edit: impl FnOnce(&mut [u8; BLOCK])) -> Self {
        let mut tar = self;
        for (long, text) in [(b'L', path), (b'K', link)] {
            if text.len() > 100 {
                tar = tar.long(long, text.as_bytes());
            }
        }
        let short = |text: &str| text.get(..text.len().min(100)).unwrap_or_default().to_owned();
        let mut block = header(kind, &short(path), &short(link), content.len() as u64);
        edit(&mut block);
        tar.raw(&summed(block)).raw(&blocks(content))
    }

    pub fn file(self, path: &str, content: &[u8]) -> Self {
        self.edited(b'0', path, "", content, |_| ())
    }

    pub fn dir(self, path: &str) -> Self {
        self.edited(b'5', path, "", b"", |_| ())
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.edited(b'2', path, target, b"", |_| ())
    }

    pub fn link(self, path: &str, target: &str) -> Self {
        self.edited(b'1', path, target, b"", |_| ())
    }

    pub fn device(self, kind: u8, path: &str, (major, minor): (u64, u64)) -> Self {
        self.edited(kind, path, "", b"", |block| {
            number(&mut block[329..337], major);
            number(&mut block[337..345], minor);
        })
    }

    pub fn extended(self, kind: u8, content: &[u8]) -> Self {
        self.raw_header(kind, "x", content.len() as u64).raw(&blocks(content))
    }

    pub fn long(self, kind: u8, name: &[u8]) -> Self {
        self.extended(kind, &[name, b"\0"].concat())
    }

    pub fn pax<K: AsRef<str>, V: AsRef<[u8]>>(self, records: &[(K, V)]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let (key, value) = (key.as_ref(), value.as_ref());
            let rest = key.len() + value.len() + 3;
            let length = (rest..).find(|length| length.to_string().len() + rest == *length).unwrap();
            bytes.extend(format!("{length} {key}=").into_bytes());
            bytes.extend(value);
            bytes.push(b'\n');
        }
        self.extended(b'x', &bytes)
    }

    /// GNU's form, with up to four pieces.
    pub fn sparse(self, path: &str, pieces: &[(u64, u64)], size: u64, content: &[u8]) -> Self {
        self.edited(b'S', path, "", content, |block| {
            for (at, (offset, length)) in pieces.iter().enumerate() {
                number(&mut block[386 + at * 24..][..12], *offset);
                number(&mut block[398 + at * 24..][..12], *length);
            }
            number(&mut block[483..495], size);
        })
    }

    /// Without the mark of the end.
    pub fn cut(mut self) -> Self {
        self.unmarked = true;
        self
    }

    pub fn cut_to(mut self, length: usize) -> Self {
        self.bytes.truncate(length);
        self.cut()
    }

    pub fn damage(mut self, at: usize) -> Self {
        self.bytes[at] ^= 1;
        self
    }

    pub fn end(mut self) -> Vec<u8> {
        if !self.unmarked {
            self.bytes.extend([0; 2 * BLOCK]);
        }
        self.bytes
    }
}
