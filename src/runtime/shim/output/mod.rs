//! What becomes of the container's output: cut into lines, written to files, given to a service.
//!
//! The container is never stopped because a line could not be kept: lines that were lost are counted, and said in the log
//! itself when it goes on.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Instant;

use nix::poll::PollFlags;
use serde::{Deserialize, Serialize};

use self::delivery::Delivery;
use self::files::{Batch, Files};
use crate::runtime::container::logs::form::{Encoder, Piece};
use crate::runtime::container::{Config, LogForm, LogLoss, tag};

mod delivery;
mod files;
mod link;
mod lookup;
mod message;

/// A line is cut here, as docker does.
const LONGEST_LINE: usize = 16 << 10;

/// Where all output goes.
pub struct Writer {
    kept: Option<Kept>,
    delivery: Option<Delivery>,
    /// The beginnings of lines that have no end yet: of standard output and error.
    partial: [Vec<u8>; 2],
}

/// What is kept of it while the supervisor sleeps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Memory {
    unfinished: [Vec<u8>; 2],
    kept: Option<Loss>,
    delivery: Option<delivery::Loss>,
}

/// What the files have not got.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Loss {
    /// Since the supervisor began.
    lines: u64,
    /// Why lines are lost at the moment.
    reason: Option<String>,
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
    loss: Loss,
}

impl Writer {
    /// Of this container, to files in this directory.
    pub fn new(directory: &Path, config: &Config) -> Self {
        let kept = config.log.files.map(|files| Kept {
            files: Files::new(directory, files),
            encoder: encoder(files.form, config),
            loss: Loss::default(),
        });
        let delivery = config.log.service.as_ref().map(|service| Delivery::new(service, config));
        Self { kept, delivery, partial: [Vec::new(), Vec::new()] }
    }

    /// Goes on as it was before a sleep.
    pub fn resume(&mut self, memory: Memory) {
        self.partial = memory.unfinished;
        if let (Some(kept), Some(loss)) = (&mut self.kept, memory.kept) {
            kept.loss = loss;
        }
        if let (Some(delivery), Some(loss)) = (&mut self.delivery, memory.delivery) {
            delivery.resume(loss);
        }
    }

    pub fn memory(&self) -> Memory {
        Memory {
            unfinished: self.partial.clone(),
            kept: self.kept.as_ref().map(|kept| kept.loss.clone()),
            delivery: self.delivery.as_ref().map(|delivery| delivery.loss().clone()),
        }
    }

    /// The container has another name from now on, and its log another directory; files that are open are those.
    pub fn renamed(&mut self, directory: &Path, config: &Config) {
        if let (Some(kept), Some(files)) = (&mut self.kept, config.log.files) {
            kept.files.moved(directory);
            kept.encoder = encoder(files.form, config);
        }
        if let (Some(delivery), Some(service)) = (&mut self.delivery, &config.log.service) {
            delivery.renamed(service, config);
        }
    }

    /// Takes a piece of output. `stream` is 0 for standard output, 1 for error.
    pub fn take(&mut self, stream: usize, bytes: &[u8]) {
        if self.kept.is_none() && self.delivery.is_none() {
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
    pub fn loss(&self) -> LogLoss {
        let kept = self.kept.as_ref().map(|kept| &kept.loss);
        let sent = self.delivery.as_ref().map(Delivery::loss);
        LogLoss {
            lines: kept.map_or(0, |loss| loss.lines),
            unsent: sent.map_or(0, |loss| loss.lines),
            reason: kept.and_then(|loss| loss.reason.clone()).or_else(|| sent?.reason.clone()),
        }
    }

    /// Whether the service that it is for is where it is looked for; else what is missing.
    pub fn is_served(&self) -> Result<(), String> {
        self.delivery.as_ref().map_or(Ok(()), Delivery::is_served)
    }

    /// Whether the container must wait before more is taken.
    pub fn is_full(&self, now: Instant) -> bool {
        self.delivery.as_ref().is_some_and(|delivery| delivery.is_full(now))
    }

    /// Whether there is something to do when nothing else is.
    pub fn has_work(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.files.is_compressing())
    }

    /// Does a piece of that.
    pub fn work(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.files.compress();
        }
    }

    /// Whether nothing is on its way.
    pub fn may_rest(&self) -> bool {
        !self.has_work() && self.delivery.as_ref().is_none_or(Delivery::is_idle)
    }

    /// What to wait for.
    pub fn source(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.delivery.as_ref()?.source()
    }

    /// When something has to be done next.
    pub fn next(&self) -> Option<Instant> {
        self.delivery.as_ref()?.next()
    }

    /// Something has happened with that, or it is time.
    pub fn proceed(&mut self, now: Instant) {
        if let Some(delivery) = &mut self.delivery {
            delivery.proceed(now);
        }
    }

    /// There is nothing more to come: what can be sent is.
    pub fn close(&mut self) {
        if let Some(delivery) = &mut self.delivery {
            delivery.finish();
        }
    }

    fn write(&mut self, pieces: &[Piece<'_>]) {
        if pieces.is_empty() {
            return;
        }
        if let Some(kept) = &mut self.kept {
            kept.write(pieces);
        }
        if let Some(delivery) = &mut self.delivery {
            delivery.take(pieces, Instant::now());
        }
    }
}

fn encoder(form: LogForm, config: &Config) -> Encoder {
    let tag = config.log.tag.as_ref().map(|template| ("tag".to_owned(), tag(template, config)));
    Encoder::new(form, config.log.attributes.clone().into_iter().chain(tag).collect())
}

impl Kept {
    fn write(&mut self, pieces: &[Piece<'_>]) {
        let (lost, result) = self.try_write(pieces);
        self.loss.lines += lost;
        self.loss.reason = result.err().map(|error| error.to_string());
    }

    /// How many of these were lost, and why.
    fn try_write(&mut self, pieces: &[Piece<'_>]) -> (u64, io::Result<()>) {
        let said = self.loss.gap.as_ref().map(Gap::text);
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
        let lost = left.min(pieces.len()) as u64;
        let before = self.loss.gap.take().filter(|_| left > pieces.len());
        if lost > 0 {
            let before = before.unwrap_or_else(|| Gap { lines: 0, since: format!("{first:.9}") });
            self.loss.gap = Some(Gap { lines: before.lines + lost, ..before });
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
    use crate::runtime::container::{Log, LogFiles};

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
            assert_eq!(writer.loss(), LogLoss::default());
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
        while writer.has_work() {
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
        assert_eq!(writer.loss(), LogLoss { lines: 3, ..LogLoss::default() });
        writer.take(0, b"five\n");
        let kept: Vec<String> = lines(&directory.join("later"), &log).into_iter().map(|line| line.log).collect();
        assert_eq!(kept.len(), 3);
        assert!(kept[0].starts_with("stack: 3 lines are missing here, since 2"), "{kept:?}");
        assert_eq!(kept[1..], ["four\n", "five\n"]);
        fs::remove_dir_all(directory).unwrap();
    }
}
