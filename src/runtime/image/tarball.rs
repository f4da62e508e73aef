//! Archives of files (POSIX ustar and pax, GNU's long names and sparse files), read as a stranger wrote them. One reading
//! or none: what two readers could understand differently is refused, and so is what would have to be held in memory
//! without bound.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::limits::Limits;

const BLOCK: usize = 512;
/// Pieces of one sparse file.
const MOST_PIECES: usize = 1 << 16;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Link,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// One entry, with long names and attributes resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: PathBuf,
    pub link: PathBuf,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Bytes of the file; more than the archive holds of it where it is sparse.
    pub size: u64,
    /// Where the bytes that the archive holds belong; `None` where it holds all of them.
    pub pieces: Option<Vec<(u64, u64)>>,
    pub device: (u32, u32),
    pub attributes: Vec<(String, Vec<u8>)>,
}

/// Reads entries; itself, the content of the current one.
pub struct Reader<R> {
    inner: R,
    /// Bytes of the current entry that were not read yet, and what fills its last block.
    left: u64,
    padding: u64,
    header_bytes: u64,
    path_bytes: usize,
    position: u64,
    ended: bool,
}

/// What headers before an entry say about it.
#[derive(Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    attributes: Vec<(String, Vec<u8>)>,
}

fn wrong(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

impl<R: Read> Reader<R> {
    pub fn new(inner: R, limits: &Limits) -> Self {
        let (header_bytes, path_bytes) = (limits.header_bytes, limits.path_bytes);
        Self { inner, left: 0, padding: 0, header_bytes, path_bytes, position: 0, ended: false }
    }

    /// Where in the archive the current entry's content begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next entry; `None` at the end of the archive, which has a mark or is the end of the stream.
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_content()?;
            let Some(block) = self.header()? else {
                let Extensions { long_name, long_link, pax } = extensions;
                let lost = long_name.is_some() || long_link.is_some() || pax.is_some();
                return if lost { Err(wrong("it ends behind an extended header")) } else { Ok(None) };
            };
            let size = unsigned(&block[124..136])?;
            match block[156] {
                b'x' => {
                    let bytes = self.extension(size)?;
                    once(&mut extensions.pax, pax(&bytes)?)?;
                }
                b'g' => check_global(&self.extension(size)?)?,
                b'L' => once(&mut extensions.long_name, self.long_name(size)?)?,
                b'K' => once(&mut extensions.long_link, self.long_name(size)?)?,
                kind => return self.entry(&block, kind, size, extensions).map(Some),
            }
        }
    }

    fn header(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        if self.ended {
            return Ok(None);
        }
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().all(|byte| *byte == 0) {
            self.ended = true;
            return match self.block()? {
                Some(second) if second.iter().any(|byte| *byte != 0) => {
                    Err(wrong("there is more behind half a mark of its end"))
                }
                _ => Ok(None),
            };
        }
        check_sum(&block)?;
        Ok(Some(block))
    }

    /// `None` where the stream ends here.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.inner.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(wrong("it ends within a header")),
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.position += BLOCK as u64;
        Ok(Some(block))
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > self.header_bytes {
            return Err(wrong(format!("an extended header of {size} bytes, more than {}", self.header_bytes)));
        }
        self.begin(size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn long_name(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let mut bytes = self.extension(size)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        if bytes[end..].iter().any(|byte| *byte != 0) {
            return Err(wrong("a long name with a NUL in it"));
        }
        bytes.truncate(end);
        Ok(bytes)
    }

    fn skip_content(&mut self) -> io::Result<()> {
        let wanted = self.left.checked_add(self.padding).ok_or_else(|| wrong("an entry without end"))?;
        let skipped = io::copy(&mut (&mut self.inner).take(wanted), &mut io::sink())?;
        self.position += skipped;
        // The filling of the very last entry is forgotten by some writers.
        if skipped < self.left {
            return Err(wrong("it ends within an entry"));
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn entry(&mut self, block: &[u8; BLOCK], kind: u8, size: u64, own: Extensions) -> io::Result<Entry> {
        let pax = own.pax.unwrap_or_default();
        if (pax.path.is_some() && own.long_name.is_some()) || (pax.link.is_some() && own.long_link.is_some()) {
            return Err(wrong("two extended headers name the same entry"));
        }
        let path = pax.path.or(own.long_name).unwrap_or_else(|| own_path(block));
        let link = pax.link.or(own.long_link).unwrap_or_else(|| until_nul(&block[157..257]).to_vec());
        let [path, link] = [path, link].map(|bytes| self.path(bytes));
        let (path, link) = (path?, link?);
        let kind = kind_of(kind, &path)?;
        let mut size = pax.size.unwrap_or(size);
        let mut pieces = None;
        if block[156] == b'S' {
            let (map, real) = self.sparse(block)?;
            self.begin(size);
            (pieces, size) = (Some(map), real);
        } else {
            self.begin(size);
        }
        if kind != Kind::File && size > 0 {
            return Err(wrong(format!("entry {path:?} has content, but is no file")));
        }
        if let Some(pieces) = &pieces {
            check_pieces(pieces, self.left, size)?;
        }
        let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        let owner = || wrong(format!("entry {path:?} has an owner that is no number of Linux"));
        let number = |range: std::ops::Range<usize>| unsigned(&block[range]);
        let device = |range| u32::try_from(number(range)?).map_err(|_| wrong("a device without such a number"));
        Ok(Entry {
            kind,
            mode: number(100..108)? as u32 & 0o7777,
            uid: id(pax.uid.map_or_else(|| number(108..116), Ok)?).ok_or_else(owner)?,
            gid: id(pax.gid.map_or_else(|| number(116..124), Ok)?).ok_or_else(owner)?,
            mtime: pax.mtime.map_or_else(|| Ok::<_, io::Error>((signed(&block[136..148])?, 0)), Ok)?,
            size,
            pieces,
            device: match kind {
                Kind::Character | Kind::Block => (device(329..337)?, device(337..345)?),
                _ => (0, 0),
            },
            attributes: pax.attributes,
            path,
            link,
        })
    }

    fn path(&self, bytes: Vec<u8>) -> io::Result<PathBuf> {
        if bytes.len() > self.path_bytes {
            return Err(wrong(format!("a path of {} bytes, more than {}", bytes.len(), self.path_bytes)));
        }
        if bytes.contains(&0) {
            return Err(wrong("a path with a NUL in it"));
        }
        Ok(Path::new(OsStr::from_bytes(&bytes)).to_owned())
    }

    /// GNU's map of a sparse file, which goes on in blocks of its own, and the file's real size.
    fn sparse(&mut self, block: &[u8; BLOCK]) -> io::Result<(Vec<(u64, u64)>, u64)> {
        let real = unsigned(&block[483..495])?;
        let mut pieces = Vec::new();
        let mut table = block[386..386 + 4 * 24].to_vec();
        let mut more = block[482] != 0;
        loop {
            for piece in table.chunks_exact(24).filter(|piece| piece[0] != 0) {
                pieces.push((unsigned(&piece[..12])?, unsigned(&piece[12..])?));
            }
            if pieces.len() > MOST_PIECES {
                return Err(wrong("a sparse file in too many pieces"));
            }
            if !more {
                return Ok((pieces, real));
            }
            let next = self.block()?.ok_or_else(|| wrong("it ends within a header"))?;
            table = next[..21 * 24].to_vec();
            more = next[504] != 0;
        }
    }
}

/// Of two headers for one entry, some readers take the first, some the last and some both.
fn once<T>(place: &mut Option<T>, value: T) -> io::Result<()> {
    match place.replace(value) {
        Some(_) => Err(wrong("two extended headers of one kind are for the same entry")),
        None => Ok(()),
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(wrong("it ends within an entry"));
        }
        self.left -= count as u64;
        self.position += count as u64;
        Ok(count)
    }
}

fn check_sum(block: &[u8; BLOCK]) -> io::Result<()> {
    // What is no archive at all has no number there either.
    let stated = unsigned(&block[148..156]).unwrap_or(u64::MAX);
    // The sum's own field counts as blanks.
    let counted = || block[..148].iter().chain(b"        ").chain(&block[156..]);
    let plain: u64 = counted().map(|byte| u64::from(*byte)).sum();
    let signed = || counted().map(|byte| i64::from(*byte as i8)).sum::<i64>();
    let good = stated == plain || i64::try_from(stated).is_ok_and(|stated| stated == signed());
    if good { Ok(()) } else { Err(wrong("a header whose sum is wrong; it is no archive of files, or a damaged one")) }
}

fn check_pieces(pieces: &[(u64, u64)], held: u64, size: u64) -> io::Result<()> {
    let mut end = 0;
    let mut total = 0_u64;
    for (offset, length) in pieces {
        if *offset < end {
            return Err(wrong("a sparse file whose pieces overlap"));
        }
        end = offset.checked_add(*length).ok_or_else(|| wrong("a sparse file without end"))?;
        total += length;
    }
    if total != held || end > size { Err(wrong("a sparse file that is not what its header says")) } else { Ok(()) }
}

fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
}

/// The name, behind the prefix that only POSIX's headers have.
fn own_path(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix = if block[257..263] == *b"ustar\0" { until_nul(&block[345..500]) } else { &[] };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn kind_of(kind: u8, path: &Path) -> io::Result<Kind> {
    let slash = path.as_os_str().as_bytes().ends_with(b"/");
    Ok(match kind {
        b'0' | 0 | b'7' if slash => Kind::Directory,
        b'0' | 0 | b'7' | b'S' => Kind::File,
        b'1' => Kind::Link,
        b'2' => Kind::Symlink,
        b'3' => Kind::Character,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => return Err(wrong(format!("entry {path:?} is of unknown kind {:?}", char::from(other)))),
    })
}

fn unsigned(field: &[u8]) -> io::Result<u64> {
    u64::try_from(signed(field)?).map_err(|_| wrong("a number below zero"))
}

/// Octal digits, or GNU's binary form, whose first bit is set. An empty field is 0, as other readers have it.
fn signed(field: &[u8]) -> io::Result<i64> {
    if field[0] & 0x80 != 0 {
        // Two's complement, as wide as the field, but for the bit that marks it.
        let negative = field[0] & 0x40 != 0;
        let first = i128::from(field[0] & 0x7f) - if negative { 0x80 } else { 0 };
        let value = field[1..].iter().fold(first, |value, byte| (value << 8) | i128::from(*byte));
        return i64::try_from(value).map_err(|_| wrong("a number that is too large"));
    }
    let text = std::str::from_utf8(field).map_err(|_| wrong("a number that is none"))?;
    let text = text.trim_matches([' ', '\0']);
    if text.is_empty() {
        return Ok(0);
    }
    if !text.bytes().all(|byte| matches!(byte, b'0'..=b'7')) {
        return Err(wrong(format!("{text:?} is not a number")));
    }
    i64::from_str_radix(text, 8).map_err(|_| wrong("a number that is too large"))
}

/// Records `LENGTH KEY=VALUE\n` (POSIX, "pax Extended Header").
fn records(mut bytes: &[u8]) -> io::Result<Vec<(&str, &[u8])>> {
    let malformed = || wrong("an extended header that is malformed");
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
        let digits = std::str::from_utf8(&bytes[..space]).map_err(|_| malformed())?;
        let plain = !digits.is_empty() && digits.len() < 10 && digits.bytes().all(|byte| byte.is_ascii_digit());
        let length: usize = digits.parse().ok().filter(|_| plain).ok_or_else(malformed)?;
        if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(malformed());
        }
        let record = &bytes[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
        let key = std::str::from_utf8(&record[..equals]).map_err(|_| malformed())?;
        all.push((key, &record[equals + 1..]));
        bytes = &bytes[length..];
    }
    Ok(all)
}

fn pax(bytes: &[u8]) -> io::Result<Pax> {
    let mut pax = Pax::default();
    for (key, value) in records(bytes)? {
        let number = || -> io::Result<u64> {
            let text = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            text.and_then(|text| text.parse().ok()).ok_or_else(|| wrong(format!("{key} that is not a number")))
        };
        match key {
            "path" => pax.path = Some(value.to_vec()),
            "linkpath" => pax.link = Some(value.to_vec()),
            "size" => {
                let size = number()?;
                if size > i64::MAX as u64 {
                    return Err(wrong("size that is no size"));
                }
                pax.size = Some(size);
            }
            "uid" => pax.uid = Some(number()?),
            "gid" => pax.gid = Some(number()?),
            "mtime" => pax.mtime = Some(time(value).ok_or_else(|| wrong("mtime that is not a time"))?),
            _ if key.starts_with("GNU.sparse.") => {
                return Err(wrong("a sparse file in the pax form, which is not understood here"));
            }
            _ => {
                if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                    pax.attributes.push((name.to_owned(), value.to_vec()));
                }
            }
        }
    }
    Ok(pax)
}

/// A header for all entries: its comment is nobody's affair, anything else would be read by some and not by others.
fn check_global(bytes: &[u8]) -> io::Result<()> {
    let changes = |key: &str| matches!(key, "path" | "linkpath" | "size" | "uid" | "gid") || key.starts_with("GNU.");
    match records(bytes)?.iter().find(|(key, _)| changes(key)) {
        Some((key, _)) => Err(wrong(format!("a global header that sets {key}"))),
        None => Ok(()),
    }
}

/// `-12.5`: seconds since 1970, rounded down, and nanoseconds.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole.strip_prefix('-').unwrap_or(whole)) || !digits(fraction) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanoseconds: u32 = format!("{fraction:0<9}")[..9].parse().ok()?;
    match (whole.starts_with('-'), nanoseconds) {
        (true, 1..) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
        _ => Some((seconds, nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(name: &str, kind: u8, size: u64) -> [u8; BLOCK] {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[156] = kind;
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(7);
        header.set_cksum();
        *header.as_bytes()
    }

    fn blocks(content: &[u8]) -> Vec<u8> {
        let mut bytes = content.to_vec();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn extended(kind: u8, content: &[u8]) -> Vec<u8> {
        [header("x", kind, content.len() as u64).to_vec(), blocks(content)].concat()
    }

    fn record(key: &str, value: &str) -> String {
        let rest = format!(" {key}={value}\n");
        let length = (1..).find(|length| length.to_string().len() + rest.len() == *length).unwrap();
        format!("{length}{rest}")
    }

    fn all(bytes: &[u8]) -> io::Result<Vec<(Entry, Vec<u8>)>> {
        let mut reader = Reader::new(bytes, &Limits::default());
        let mut found = Vec::new();
        while let Some(entry) = reader.next()? {
            let mut content = Vec::new();
            reader.read_to_end(&mut content)?;
            found.push((entry, content));
        }
        Ok(found)
    }

    #[test]
    fn extended_headers_mean_one_thing() {
        let file = [header("short", b'0', 3).to_vec(), blocks(b"abc")].concat();
        let pax = |records: &[(&str, &str)]| {
            extended(b'x', records.iter().map(|(key, value)| record(key, value)).collect::<String>().as_bytes())
        };
        let read = |parts: &[Vec<u8>]| all(&parts.concat());
        let found = read(&[pax(&[("path", "long"), ("uid", "70000"), ("mtime", "-1.25")]), file.clone()]).unwrap();
        assert_eq!((found[0].0.path.to_str().unwrap(), found[0].0.uid), ("long", 70000));
        assert_eq!((found[0].0.mtime, found[0].1.as_slice()), ((-2, 750_000_000), b"abc".as_slice()));
        // The size of the extended header is that of the entry behind it, and of nothing else.
        let lied = [header("short", b'0', 0).to_vec(), blocks(b"abc")].concat();
        let found = read(&[pax(&[("size", "3")]), lied, file.clone()]).unwrap();
        assert_eq!(found.iter().map(|(_, content)| content.len()).collect::<Vec<_>>(), [3, 3]);
        let found = read(&[extended(b'L', b"gnu\0"), file.clone()]).unwrap();
        assert_eq!(found[0].0.path.to_str().unwrap(), "gnu");
        for (parts, expected) in [
            (vec![pax(&[("path", "a")]), extended(b'L', b"b\0"), file.clone()], "two extended headers"),
            (vec![extended(b'L', b"b\0"), pax(&[("path", "a")]), file.clone()], "two extended headers"),
            (vec![extended(b'x', b"99 path=a\n"), file.clone()], "malformed"),
            (vec![extended(b'x', b"path=a\n"), file.clone()], "malformed"),
            (vec![extended(b'g', record("path", "a").as_bytes()), file.clone()], "global header"),
            (vec![pax(&[("path", "a\0b")]), file.clone()], "NUL"),
            (vec![pax(&[("path", &"a/".repeat(2600))]), file.clone()], "5200 bytes"),
            (vec![pax(&[("uid", "4294967296")]), file.clone()], "owner"),
            (vec![pax(&[("uid", "4294967295")]), file.clone()], "owner"),
            (vec![pax(&[("size", "-1")]), file.clone()], "not a number"),
            (vec![pax(&[("size", "9223372036854775808")]), file.clone()], "no size"),
            (vec![pax(&[("path", "a")]), pax(&[("path", "b")]), file.clone()], "of one kind"),
            (vec![extended(b'L', b"a\0"), extended(b'L', b"b\0"), file.clone()], "of one kind"),
            (vec![pax(&[("GNU.sparse.major", "1")]), file.clone()], "sparse"),
            (vec![header("l", b'2', 5).to_vec(), blocks(b"abcde")], "is no file"),
            (vec![header("v", b'V', 0).to_vec()], "unknown kind"),
            (vec![file[..514].to_vec()], "ends within"),
            (vec![extended(b'L', b"b\0")], "behind an extended header"),
            (vec![pax(&[("path", "b")])], "behind an extended header"),
            (vec![header("big", b'x', 100 << 20).to_vec()], "more than"),
            (vec![vec![0; BLOCK], file.clone()], "half a mark"),
        ] {
            let error = read(&parts).unwrap_err().to_string();
            assert!(error.contains(expected), "{error} / {expected}");
        }
    }

    #[test]
    fn numbers_never_wrap() {
        let mut large = [0xff_u8; 12];
        large[0] = 0x80;
        let mut negative = [0xff_u8; 12];
        negative[11] = 0xfe;
        let mut two = [0_u8; 8];
        (two[0], two[7]) = (0x80, 2);
        for (field, expected) in [
            (large.to_vec(), None),
            (negative.to_vec(), Some(-2)),
            (two.to_vec(), Some(2)),
            (b"0000644\0".to_vec(), Some(0o644)),
            (b" 644 \0\0\0".to_vec(), Some(0o644)),
            (b"\0\0\0\0\0\0\0\0".to_vec(), Some(0)),
            (b"-644\0\0\0\0".to_vec(), None),
            (b"888\0\0\0\0\0".to_vec(), None),
        ] {
            assert_eq!(signed(&field).ok(), expected, "{field:?}");
        }
    }

    #[test]
    fn a_sparse_file_is_put_together() {
        let mut block = header("s", b'S', 4);
        block[257..265].copy_from_slice(b"ustar  \0");
        block[345..].fill(0);
        for (at, number) in [(386, 2), (398, 1), (410, 1000), (422, 3), (483, 2000)] {
            block[at..at + 12].copy_from_slice(format!("{number:011o}\0").as_bytes());
        }
        let mut header = tar::Header::from_byte_slice(&block).clone();
        header.set_cksum();
        let bytes = [header.as_bytes().to_vec(), blocks(b"abcd")].concat();
        let (entry, content) = all(&bytes).unwrap().remove(0);
        assert_eq!((entry.size, entry.pieces), (2000, Some(vec![(2, 1), (1000, 3)])));
        assert_eq!(content, b"abcd");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(start in 0_usize..4, noise in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let begins = [vec![], header("a", b'0', 600).to_vec(), header("x", b'x', 40).to_vec(), header("s", b'S', 3).to_vec()];
            drop(all(&[begins[start].clone(), noise].concat()));
        }

        #[test]
        fn what_the_library_writes_is_read(name in "[a-z]{1,300}", size in 0_usize..2000, mode in 0_u32..0o10000) {
            let mut builder = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(size as u64);
            header.set_mode(mode);
            builder.append_data(&mut header, &name, vec![1; size].as_slice()).unwrap();
            let found = all(&builder.into_inner().unwrap()).unwrap();
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(found[0].0.path.to_str().unwrap(), name.as_str());
            prop_assert_eq!((found[0].1.len(), found[0].0.mode), (size, mode));
        }
    }
}
