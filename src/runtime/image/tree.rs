//! Trees to compare. A name that is a symbolic link is never followed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::runtime::overlay::Marks;
use crate::runtime::volume::attributes;

const PIECE: usize = 128 << 10;

fn is_opaque(path: &Path) -> bool {
    File::open(path)
        .and_then(|open| attributes::get(open.as_fd(), Marks::own().opaque()))
        .is_ok_and(|value| value == b"y")
}

/// What a layer keeps: capabilities and what users attach.
fn attributes_of(file: &File) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for name in attributes::list(file.as_fd())? {
        let Ok(key) = name.to_str() else { continue };
        if key == "security.capability" || (key.starts_with("user.") && !key.starts_with("user.overlay.")) {
            all.insert(key.to_owned(), attributes::get(file.as_fd(), &name)?);
        }
    }
    Ok(all)
}

/// The first place, in the order of names, in which two trees differ; `None` where they are alike in everything that a
/// layer keeps.
pub fn difference(wanted: &Path, found: &Path) -> io::Result<Option<String>> {
    let mut waiting = vec![PathBuf::new()];
    while let Some(relative) = waiting.pop() {
        let (a, b) = (wanted.join(&relative), found.join(&relative));
        let say = |what: &str| Ok(Some(format!("/{}: {what}", relative.display().to_string().escape_debug())));
        let Ok(data) = fs::symlink_metadata(&b) else { return say("missing") };
        let expected = fs::symlink_metadata(&a)?;
        if let Some(what) = differs(&expected, &data) {
            return say(what);
        }
        if expected.is_symlink() && fs::read_link(&a)? != fs::read_link(&b)? {
            return say("leads elsewhere");
        }
        if expected.is_file() || expected.is_dir() {
            let (one, other) = (File::open(&a)?, File::open(&b)?);
            if attributes_of(&one)? != attributes_of(&other)? || is_opaque(&a) != is_opaque(&b) {
                return say("other attributes");
            }
            if expected.is_file() && !same_content(one, other)? {
                return say("other content");
            }
        }
        if expected.is_dir() {
            let (names, others) = (names(&a)?, names(&b)?);
            if let Some(more) = others.iter().find(|name| !names.contains(*name)) {
                return say(&format!("{more:?} is not of the image"));
            }
            waiting.extend(names.iter().rev().map(|name| relative.join(name)));
        }
    }
    Ok(None)
}

fn differs(a: &Metadata, b: &Metadata) -> Option<&'static str> {
    let checks = [
        (a.mode() & libc::S_IFMT != b.mode() & libc::S_IFMT, "of another kind"),
        (a.mode() != b.mode(), "other permissions"),
        ((a.uid(), a.gid()) != (b.uid(), b.gid()), "another owner"),
        (a.is_file() && a.len() != b.len(), "another size"),
        (a.rdev() != b.rdev(), "another device"),
        (!a.is_dir() && a.nlink() != b.nlink(), "other hard links"),
        // A whiteout, and a directory that only the way to an entry made, have the time of their making.
        (a.is_file() && (a.mtime(), a.mtime_nsec()) != (b.mtime(), b.mtime_nsec()), "another time"),
    ];
    checks.iter().find(|(differs, _)| *differs).map(|(_, what)| *what)
}

fn names(directory: &Path) -> io::Result<std::collections::BTreeSet<OsString>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn same_content(mut a: File, mut b: File) -> io::Result<bool> {
    let (mut one, mut other) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let count = a.read(&mut one)?;
        if count == 0 {
            return Ok(b.read(&mut other)? == 0);
        }
        if b.read_exact(&mut other[..count]).is_err() || one[..count] != other[..count] {
            return Ok(false);
        }
    }
}
