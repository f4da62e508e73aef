//! What becomes of the container's output: cut into lines, written to files, given to a service.
//!
//! The container is never stopped because a line could not be kept: lines that were lost are counted, and said in the log
//! itself when it goes on.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Instant;

use nix::poll::PollFlags;
use serde::{Deserialize, Serialize};

use self::delivery::Delivery;
use self::kept::Kept;
use self::link::Receiver;
use crate::runtime::container::logs::form::Piece;
use crate::runtime::container::{Config, LogLoss, LogService, plugin_pipe};

mod apart;
mod delivery;
mod files;
mod kept;
mod link;
mod lookup;
mod message;
mod scribe;
mod tls;

/// A line is cut here, as docker does.
const LONGEST_LINE: usize = 16 << 10;

/// Where all output goes.
pub struct Writer {
    /// Files that are written by this process itself.
    kept: Option<Kept>,
    /// Who is sent each line: a service, and who writes the files where nobody is to wait for a disk.
    deliveries: Vec<Delivery>,
    /// The beginnings of lines that have no end yet: of standard output and error.
    partial: [Vec<u8>; 2],
}

/// What is kept of it while the supervisor sleeps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Memory {
    unfinished: [Vec<u8>; 2],
    kept: Option<kept::Loss>,
    deliveries: Vec<delivery::Loss>,
}

impl Writer {
    /// Of this container, to files in this directory.
    pub fn new(directory: &Path, config: &Config) -> Self {
        let log = &config.log;
        let kept = if log.buffer.is_none() { Kept::new(directory, config) } else { None };
        let scribe = (log.files.is_some() && kept.is_none()).then(|| Receiver::Files(directory.to_owned()));
        let service = log.service.clone().map(|service| match service {
            LogService::Plugin { .. } => Receiver::Pipe(plugin_pipe(directory, config)),
            service => Receiver::Service(service),
        });
        let receivers = scribe.into_iter().chain(service);
        let deliveries = receivers.map(|receiver| Delivery::new(receiver, config)).collect();
        Self { kept, deliveries, partial: [Vec::new(), Vec::new()] }
    }

    /// Goes on as it was before a sleep.
    pub fn resume(&mut self, memory: Memory) {
        self.partial = memory.unfinished;
        if let (Some(kept), Some(loss)) = (&mut self.kept, memory.kept) {
            kept.resume(loss);
        }
        for (delivery, loss) in self.deliveries.iter_mut().zip(memory.deliveries) {
            delivery.resume(loss);
        }
    }

    pub fn memory(&self) -> Memory {
        Memory {
            unfinished: self.partial.clone(),
            kept: self.kept.as_ref().map(|kept| kept.loss().clone()),
            deliveries: self.deliveries.iter().map(|delivery| delivery.loss().clone()).collect(),
        }
    }

    /// The container has another name from now on, and its log another directory; files that are open are those.
    pub fn renamed(&mut self, directory: &Path, config: &Config) {
        if let Some(kept) = &mut self.kept {
            kept.renamed(directory, config);
        }
        for delivery in &mut self.deliveries {
            delivery.renamed(directory, config);
        }
    }

    /// Takes a piece of output. `stream` is 0 for standard output, 1 for error.
    pub fn take(&mut self, stream: usize, bytes: &[u8]) {
        if self.kept.is_none() && self.deliveries.is_empty() {
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
        let kept = self.kept.as_ref().map(Kept::loss);
        let mut all = LogLoss {
            lines: kept.map_or(0, |loss| loss.lines),
            unsent: 0,
            reason: kept.and_then(|loss| loss.reason.clone()),
        };
        for delivery in &self.deliveries {
            let lines = if delivery.is_for_files() { &mut all.lines } else { &mut all.unsent };
            *lines += delivery.loss().lines;
            all.reason = all.reason.or_else(|| delivery.reason());
        }
        all
    }

    /// Whether the service that it is for is where it is looked for; else what is missing.
    pub fn is_served(&self) -> Result<(), String> {
        self.deliveries.iter().try_for_each(Delivery::is_served)
    }

    /// Whether the container must wait before more is taken.
    pub fn is_full(&self, now: Instant) -> bool {
        self.deliveries.iter().any(|delivery| delivery.is_full(now))
    }

    /// Whether there is something to do when nothing else is.
    pub fn has_work(&self) -> bool {
        self.kept.as_ref().is_some_and(Kept::has_work)
    }

    /// Does a piece of that.
    pub fn work(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.work();
        }
    }

    /// Whether nothing is on its way.
    pub fn may_rest(&self) -> bool {
        !self.has_work() && self.deliveries.iter().all(Delivery::is_idle)
    }

    /// What to wait for.
    pub fn sources(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.deliveries.iter().filter_map(Delivery::source)
    }

    /// When something has to be done next.
    pub fn next(&self) -> Option<Instant> {
        self.deliveries.iter().filter_map(Delivery::next).min()
    }

    /// Something has happened with those, or it is time.
    pub fn proceed(&mut self, now: Instant) {
        self.deliveries.iter_mut().for_each(|delivery| delivery.proceed(now));
    }

    /// There is nothing more to come: what can be sent is.
    pub fn close(&mut self) {
        self.deliveries.iter_mut().for_each(Delivery::finish);
    }

    fn write(&mut self, pieces: &[Piece<'_>]) {
        if pieces.is_empty() {
            return;
        }
        if let Some(kept) = &mut self.kept {
            kept.write(pieces);
        }
        for delivery in &mut self.deliveries {
            delivery.take(pieces, Instant::now());
        }
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
