//! What becomes of the container's output: cut into lines, written to files, given to a service.
//!
//! The container is never stopped because a line could not be kept: lines that were lost are counted, and said in the log
//! itself when it goes on.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use self::files::{Batch, Files};
use crate::runtime::container::logs::form::{Encoder, Piece};
use crate::runtime::container::{Config, LogLoss, tag};

mod files;

/// A line is cut here, as docker does.
const LONGEST_LINE: usize = 16 << 10;

/// Where all output goes.
pub struct Writer {
    kept: Option<Kept>,
    /// The beginnings of lines that have no end yet: of standard output and error.
    partial: [Vec<u8>; 2],
    loss: LogLoss,
}

/// What is kept of it while the supervisor sleeps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Memory {
    unfinished: [Vec<u8>; 2],
    loss: LogLoss,
    gap: Option<Gap>,
}

/// Lines that are missing in the files from some time on.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Gap {
    lines: u64,
    /// RFC 3339.
    since: String,
}

struct Kept {
    files: Files,
    encoder: Encoder,
    gap: Option<Gap>,
}

impl Writer {
    /// Of this container, to files in this directory.
    pub fn new(directory: &Path, config: &Config) -> Self {
        let log = &config.log;
        let tag = log.tag.as_ref().map(|template| ("tag".to_owned(), tag(template, config)));
        let attributes: BTreeMap<_, _> = log.attributes.clone().into_iter().chain(tag).collect();
        let kept = log.files.map(|files| Kept {
            files: Files::new(directory, files),
            encoder: Encoder::new(files.form, attributes),
            gap: None,
        });
        Self { kept, partial: [Vec::new(), Vec::new()], loss: LogLoss::default() }
    }

    /// Goes on as it was before a sleep.
    pub fn resume(&mut self, memory: Memory) {
        self.partial = memory.unfinished;
        self.loss = memory.loss;
        if let Some(kept) = &mut self.kept {
            kept.gap = memory.gap;
        }
    }

    pub fn memory(&self) -> Memory {
        let gap = self.kept.as_ref().and_then(|kept| kept.gap.clone());
        Memory { unfinished: self.partial.clone(), loss: self.loss.clone(), gap }
    }

    /// The log has another directory from now on; files that are open are those.
    pub fn moved(&mut self, directory: &Path) {
        if let Some(kept) = &mut self.kept {
            kept.files.moved(directory);
        }
    }

    /// Takes a piece of output. `stream` is 0 for standard output, 1 for error.
    pub fn take(&mut self, stream: usize, bytes: &[u8]) {
        if self.kept.is_none() {
            return;
        }
        let mut text = std::mem::take(&mut self.partial[stream]);
        text.extend_from_slice(bytes);
        let time = jiff::Timestamp::now();
        let (lines, rest) = cut(&text);
        let pieces: Vec<Piece<'_>> = lines.into_iter().map(|text| Piece { stream, text, time }).collect();
        self.write(&pieces);
        self.partial[stream] = rest.to_vec();
    }

    /// Writes down beginnings of lines whose end will not come.
    pub fn finish(&mut self) {
        let partial = std::mem::take(&mut self.partial);
        let time = jiff::Timestamp::now();
        let pieces = partial.iter().enumerate().filter(|(_, text)| !text.is_empty());
        let pieces: Vec<Piece<'_>> = pieces.map(|(stream, text)| Piece { stream, text, time }).collect();
        self.write(&pieces);
    }

    /// What is not written down yet since its line has no end, by stream.
    pub fn unfinished(&self) -> &[Vec<u8>; 2] {
        &self.partial
    }

    /// What has been lost, and why.
    pub fn loss(&self) -> &LogLoss {
        &self.loss
    }

    /// Whether there is something to do when nothing else is.
    pub fn is_busy(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.files.is_compressing())
    }

    /// Does a piece of that.
    pub fn work(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.files.compress();
        }
    }

    fn write(&mut self, pieces: &[Piece<'_>]) {
        if pieces.is_empty() {
            return;
        }
        if let Some(kept) = &mut self.kept {
            let (lost, result) = kept.write(pieces);
            self.loss.lines += lost;
            self.loss.reason = result.err().map(|error| error.to_string());
        }
    }
}

impl Kept {
    /// How many of these were lost, and why.
    fn write(&mut self, pieces: &[Piece<'_>]) -> (u64, io::Result<()>) {
        let said = self.gap.as_ref().map(Gap::text);
        let first = pieces.first().map(|first| first.time).unwrap_or_default();
        let notice = said.as_ref().map(|text| Piece { stream: 1, text: text.as_bytes(), time: first });
        let mut batch = Batch::default();
        for piece in notice.iter().chain(pieces) {
            if let Err(error) = self.encoder.encode(&mut batch.bytes, *piece) {
                return (pieces.len() as u64, Err(error));
            }
            batch.ends.push(batch.bytes.len());
        }
        let result = self.files.append(&mut batch);
        let left = batch.ends.len();
        let is_said = left <= pieces.len();
        let lost = left.min(pieces.len()) as u64;
        let before = self.gap.take().filter(|_| !is_said);
        if lost > 0 {
            let before = before.unwrap_or_else(|| Gap { lines: 0, since: format!("{first:.9}") });
            self.gap = Some(Gap { lines: before.lines + lost, ..before });
        }
        (lost, result)
    }
}

impl Gap {
    fn text(&self) -> String {
        let lines = if self.lines == 1 { "1 line is".to_owned() } else { format!("{} lines are", self.lines) };
        format!("stack: {lines} missing here, since {}: the log could not be written\n", self.since)
    }
}

/// Lines with their ends, or parts of long ones, and the beginning of one that has no end yet.
fn cut(text: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut lines = Vec::new();
    let mut rest = text;
    loop {
        let within = &rest[..rest.len().min(LONGEST_LINE)];
        let end = match within.iter().position(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            None if within.len() == LONGEST_LINE => LONGEST_LINE,
            None => return (lines, rest),
        };
        let (line, after) = rest.split_at(end);
        lines.push(line);
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::runtime::container::logs::Line;
    use crate::runtime::container::logs::files::{Growing, all, older};
    use crate::runtime::container::logs::form::Decoder;
    use crate::runtime::container::{Log, LogFiles, LogForm};

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("stack-log-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    fn log(form: LogForm, max_size: u64, max_files: u32, compress: bool) -> Config {
        let log = Log { files: Some(LogFiles { form, max_size, max_files, compress }), ..Log::default() };
        Config { log, ..Config::default() }
    }

    fn lines(directory: &Path, config: &Config) -> Vec<Line> {
        let files = config.log.files.unwrap();
        let newest = files.newest(directory);
        let mut growing = Growing::open(newest.clone(), files).unwrap();
        let mut lines = Vec::new();
        let known = growing.inode().unwrap();
        for file in older(&newest, files.max_files, known).unwrap().into_iter().rev() {
            all(file, Decoder::new(files.form), &mut |line| {
                lines.push(line);
                true
            })
            .unwrap();
        }
        growing
            .more(&mut |line| {
                lines.push(line);
                true
            })
            .unwrap();
        lines
    }

    #[test]
    fn lines_are_cut_and_files_rotated() {
        for form in [LogForm::Json, LogForm::Local] {
            let directory = directory(&format!("rotated-{form:?}"));
            let log = log(form, 300, 2, false);
            let mut writer = Writer::new(&directory, &log);
            writer.take(0, b"one\ntw");
            writer.take(1, b"error\n");
            writer.take(0, b"o\nrest");
            writer.finish();
            let kept = lines(&directory, &log);
            let texts: Vec<_> = kept.iter().map(|line| (line.log.as_str(), line.stream.as_str())).collect();
            assert_eq!(texts, [("one\n", "stdout"), ("error\n", "stderr"), ("two\n", "stdout"), ("rest", "stdout")]);
            assert!(kept.iter().all(|line| line.time.len() == 30), "{kept:?}");
            for _ in 0..20 {
                writer.take(0, &[b'x'; 200]);
                writer.take(0, b"\n");
            }
            writer.take(0, "y\n".repeat(1000).as_bytes());
            let sizes = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
            let sizes: Vec<u64> = sizes.collect();
            assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= 300), "{sizes:?}");
            assert_eq!(writer.loss(), &LogLoss::default());
            fs::remove_dir_all(directory).unwrap();
        }
    }

    #[test]
    fn what_is_rotated_away_is_compressed_and_read_all_the_same() {
        let directory = directory("compressed");
        let log = log(LogForm::Local, 20_000, 4, true);
        let mut writer = Writer::new(&directory, &log);
        for number in 0..2000 {
            writer.take(0, format!("line {number}\n").as_bytes());
            writer.work();
        }
        while writer.is_busy() {
            writer.work();
        }
        let mut names: Vec<String> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["local.log", "local.log.1.gz", "local.log.2.gz", "local.log.3.gz"]);
        let kept = lines(&directory, &log);
        let first: usize = kept[0].log.trim().strip_prefix("line ").unwrap().parse().unwrap();
        assert!(kept.len() > 1500 && first + kept.len() == 2000, "{first} {}", kept.len());
        for (number, line) in kept.iter().enumerate() {
            assert_eq!(line.log, format!("line {}\n", first + number));
        }
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn lines_are_cut_where_docker_cuts_them() {
        let long = [b"x".repeat(LONGEST_LINE + 1), b"\n".to_vec(), b"y".repeat(LONGEST_LINE)].concat();
        let (lines, rest) = cut(&long);
        assert_eq!(lines.iter().map(|line| line.len()).collect::<Vec<_>>(), [LONGEST_LINE, 2, LONGEST_LINE]);
        assert!(rest.is_empty());
        assert_eq!(cut(b"a\nb"), (vec![&b"a\n"[..]], &b"b"[..]));
    }

    /// The directory is gone, as a stand-in for any failure; the test of a disk that is full is of a container.
    #[test]
    fn what_is_lost_is_counted_and_said_where_it_is_missing() {
        let directory = directory("lost");
        let log = log(LogForm::Json, 10_000, 2, false);
        let mut writer = Writer::new(&directory.join("later"), &log);
        writer.take(0, b"one\ntwo\n");
        writer.take(0, b"three\n");
        assert_eq!(writer.loss().lines, 3);
        assert!(writer.loss().reason.as_ref().unwrap().contains("No such file"));
        fs::create_dir(directory.join("later")).unwrap();
        writer.take(1, b"four\n");
        assert_eq!(*writer.loss(), LogLoss { lines: 3, reason: None });
        writer.take(0, b"five\n");
        let kept: Vec<String> = lines(&directory.join("later"), &log).into_iter().map(|line| line.log).collect();
        assert_eq!(kept.len(), 3);
        assert!(kept[0].starts_with("stack: 3 lines are missing here, since 2"), "{kept:?}");
        assert_eq!(kept[1..], ["four\n", "five\n"]);
        fs::remove_dir_all(directory).unwrap();
    }
}
