//! The log of a container: docker's json-file format, rotated by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::runtime::container::Log;
use crate::runtime::container::logs::Line;

/// A line without an end is cut here, as docker does.
const LONGEST_LINE: usize = 16 << 10;

/// Appends what the container writes.
pub struct Writer {
    path: PathBuf,
    log: Log,
    file: Option<File>,
    size: u64,
    /// The beginnings of lines that have no end yet: of standard output and error.
    partial: [Vec<u8>; 2],
}

impl Writer {
    /// For the file at this path, which is begun or gone on with at the first line.
    pub fn new(path: PathBuf, log: Log) -> Self {
        Self { path, log, file: None, size: 0, partial: [Vec::new(), Vec::new()] }
    }

    /// The log has another place from now on; the file that is open is that one.
    pub fn moved(&mut self, path: PathBuf) {
        self.path = path;
    }

    /// Takes a piece of output. `stream` is 0 for standard output, 1 for error. An error is for the caller to report
    /// once; the container is never stopped for it.
    pub fn take(&mut self, stream: usize, bytes: &[u8]) -> io::Result<()> {
        if !self.log.keep {
            return Ok(());
        }
        let mut text = Vec::new();
        let time = jiff::Timestamp::now();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial[stream].extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.partial[stream].len() >= LONGEST_LINE {
                let line = std::mem::take(&mut self.partial[stream]);
                encode(&mut text, stream, &line, time)?;
            }
        }
        self.append(&text)
    }

    /// What is not written down yet since its line has no end, by stream.
    pub fn unfinished(&self) -> &[Vec<u8>; 2] {
        &self.partial
    }

    /// Goes on with these beginnings of lines.
    pub fn resume(&mut self, unfinished: [Vec<u8>; 2]) {
        self.partial = unfinished;
    }

    /// Writes down beginnings of lines whose end will not come.
    pub fn finish(&mut self) -> io::Result<()> {
        let mut text = Vec::new();
        for stream in 0..2 {
            let line = std::mem::take(&mut self.partial[stream]);
            if !line.is_empty() && self.log.keep {
                encode(&mut text, stream, &line, jiff::Timestamp::now())?;
            }
        }
        self.append(&text)
    }

    /// A piece of output may be larger than a file may be: it is shared out, line by line.
    fn append(&mut self, mut text: &[u8]) -> io::Result<()> {
        while !text.is_empty() {
            let file = match &mut self.file {
                Some(file) => file,
                empty => {
                    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
                    self.size = file.metadata()?.len();
                    empty.insert(file)
                }
            };
            let length = fitting(text, self.log.max_size.saturating_sub(self.size), self.size == 0);
            if length == 0 {
                self.rotate()?;
                continue;
            }
            file.write_all(&text[..length])?;
            self.size += length as u64;
            text = &text[length..];
        }
        Ok(())
    }

    /// `json.log` becomes `json.log.1` and so on; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let numbered = |number: u32| self.path.with_file_name(format!("json.log.{number}"));
        let kept = self.log.max_files.max(1) - 1;
        if kept == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (1..kept).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, numbered(1))
    }
}

/// The length of as many whole lines as there is room for; of one at least, where the file is empty.
fn fitting(text: &[u8], room: u64, empty: bool) -> usize {
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    if text.len() <= room {
        return text.len();
    }
    let end = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
    let first = || text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1);
    end(&text[..room]).unwrap_or_else(|| if empty { first() } else { 0 })
}

fn encode(text: &mut Vec<u8>, stream: usize, line: &[u8], time: jiff::Timestamp) -> io::Result<()> {
    let line = Line {
        log: String::from_utf8_lossy(line).into_owned(),
        stream: ["stdout", "stderr"][stream].to_owned(),
        time: format!("{time:.9}"),
    };
    serde_json::to_writer(&mut *text, &line)?;
    text.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_files_rotated() {
        let directory = std::env::temp_dir().join(format!("stack-log-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("json.log");
        let mut writer = Writer::new(path.clone(), Log { keep: true, max_size: 300, max_files: 2 });
        writer.take(0, b"one\ntw").unwrap();
        writer.take(1, b"error\n").unwrap();
        writer.take(0, b"o\nrest").unwrap();
        writer.finish().unwrap();
        let all = [path.with_file_name("json.log.1"), path.clone()]
            .map(|path| fs::read_to_string(path).unwrap_or_default())
            .concat();
        let lines: Vec<Line> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let texts: Vec<_> = lines.iter().map(|line| (line.log.as_str(), line.stream.as_str())).collect();
        assert_eq!(texts, [("one\n", "stdout"), ("error\n", "stderr"), ("two\n", "stdout"), ("rest", "stdout")]);
        assert!(lines.iter().all(|line| line.time.len() == 30), "{lines:?}");
        for _ in 0..20 {
            writer.take(0, &[b'x'; 200]).unwrap();
            writer.take(0, b"\n").unwrap();
        }
        writer.take(0, "y\n".repeat(1000).as_bytes()).unwrap();
        let sizes = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        let sizes: Vec<u64> = sizes.collect();
        assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= 300), "{sizes:?}");
        fs::remove_dir_all(directory).unwrap();
    }
}
