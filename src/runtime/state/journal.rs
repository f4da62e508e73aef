//! A file of lines that only grows at its end, and is bounded: when it is full it becomes `NAME.1`, in place of the one
//! before, and a new one is begun.
//!
//! A line is written by one write(2). What a crash leaves of one is ended by the next writer, and is a line of its own that
//! means nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Durability, Error, io_at, make_directory};

/// Bytes of a file before the next is begun.
const LARGEST: u64 = 1 << 20;

/// Adds a line; its directory is made. `may_turn`: a new file may be begun with it. One writer at a time.
///
/// # Errors
/// Where the disk can't be written to: the line is not there then, or without its end.
pub fn append(path: &Path, line: &str, may_turn: bool, durability: Durability) -> Result<(), Error> {
    let at = |error| io_at(path)(error);
    if let Some(directory) = path.parent() {
        make_directory(directory)?;
    }
    if may_turn && fs::metadata(path).is_ok_and(|data| data.len() >= LARGEST) {
        fs::rename(path, before(path)).map_err(at)?;
    }
    let mut file = OpenOptions::new().append(true).read(true).create(true).mode(0o600).open(path).map_err(at)?;
    let torn = is_torn(&file).map_err(at)?;
    let text = format!("{}{line}\n", if torn { "\n" } else { "" });
    file.write_all(text.as_bytes()).map_err(at)?;
    if durability == Durability::Durable {
        file.sync_data().map_err(at)?;
    }
    Ok(())
}

/// The last line has no end.
fn is_torn(file: &File) -> io::Result<bool> {
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    Ok(last != [b'\n'])
}

/// All lines that are left, the oldest first; none where there is no file.
///
/// # Errors
/// Where a file is there and can't be read.
pub fn lines(path: &Path) -> Result<Vec<String>, Error> {
    let mut all = Vec::new();
    for path in [before(path), path.to_owned()] {
        match fs::read(&path) {
            Ok(bytes) => all.extend(String::from_utf8_lossy(&bytes).lines().map(str::to_owned)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_at(&path)(error)),
        }
    }
    Ok(all)
}

fn before(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_and_the_oldest_are_forgotten() {
        let directory = std::env::temp_dir().join(format!("stack-journal-{}", std::process::id()));
        let path = directory.join("below").join("journal");
        assert_eq!(lines(&path).unwrap(), Vec::<String>::new());
        append(&path, "one", true, Durability::Durable).unwrap();
        // A writer that died half way.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"tw").unwrap();
        append(&path, "three", true, Durability::Volatile).unwrap();
        assert_eq!(lines(&path).unwrap(), ["one", "tw", "three"]);
        let long = "x".repeat(LARGEST as usize);
        append(&path, &long, true, Durability::Volatile).unwrap();
        append(&path, "within", false, Durability::Volatile).unwrap();
        append(&path, "next", true, Durability::Volatile).unwrap();
        append(&path, &long, true, Durability::Volatile).unwrap();
        append(&path, "last", true, Durability::Volatile).unwrap();
        let found = lines(&path).unwrap();
        fs::remove_dir_all(directory).unwrap();
        assert_eq!(found.iter().map(String::len).collect::<Vec<_>>(), [4, LARGEST as usize, 4]);
    }
}
