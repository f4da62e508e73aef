//! Reading what a container wrote: the supervisor's files, oldest first, and what is still being written.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::{Deserialize, Serialize};

use super::{Error, Paths, get, io_at};
use crate::runtime::roots::Roots;

/// One line, in docker's json-file format. `log` ends with a line feed unless the program's line was cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub log: String,
    pub stream: String,
    /// RFC 3339 with nanoseconds, UTC.
    pub time: String,
}

/// Which lines. Times compare as text, since all have one form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Select {
    pub since: Option<String>,
    pub until: Option<String>,
    /// Only so many of the last ones.
    pub tail: Option<usize>,
    pub follow: bool,
}

/// Hands the lines to `each` until there are no more, or `each` says `false`. Following ends when the container has.
pub fn read(roots: &Roots, name: &str, select: &Select, each: &mut dyn FnMut(&Line) -> bool) -> Result<(), Error> {
    let container = get(roots, name)?;
    let paths = Paths::of(roots, &container.config.name);
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
    let inotify = inotify.map_err(|error| io_at("inotify")(error.into()))?;
    if select.follow {
        // Before the first look, so that nothing falls between.
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(&paths.logs, flags).map_err(|error| io_at(&paths.logs)(error.into()))?;
        if paths.run.is_dir() {
            inotify.add_watch(&paths.run, flags).map_err(|error| io_at(&paths.run)(error.into()))?;
        }
    }
    let mut reader = Reader { file: None, partial: String::new() };
    let wanted = |line: &Line| {
        select.since.as_ref().is_none_or(|since| line.time >= *since)
            && select.until.as_ref().is_none_or(|until| line.time <= *until)
    };
    let old: Vec<Line> = past(&paths, &mut reader)?.into_iter().filter(wanted).collect();
    let skip = select.tail.map_or(0, |tail| old.len().saturating_sub(tail));
    if !old.iter().skip(skip).all(&mut *each) || !select.follow {
        return Ok(());
    }
    loop {
        // Asked before reading: what is written before the end is then read for certain.
        let running = get(roots, name).is_ok_and(|container| container.is_running());
        for line in reader.more(&paths)?.iter().filter(|line| wanted(line)) {
            if !each(line) {
                return Ok(());
            }
        }
        if !running {
            return Ok(());
        }
        match poll(&mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(io_at("poll")(error.into())),
        }
        // What was written is read from the files themselves.
        drop(inotify.read_events());
    }
}

/// All lines of the files that are complete by now, the oldest file first.
fn past(paths: &Paths, reader: &mut Reader) -> Result<Vec<Line>, Error> {
    let mut lines = Vec::new();
    for path in rotated(paths)? {
        match File::open(&path) {
            Ok(file) => lines.extend(parse(BufReader::new(file)).map_err(io_at(&path))?),
            // Rotated away between the listing and now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_at(path)(error)),
        }
    }
    lines.extend(reader.more(paths)?);
    Ok(lines)
}

/// `json.log.2`, `json.log.1`.
fn rotated(paths: &Paths) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(&paths.logs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_at(&paths.logs)(error)),
    };
    let number = |name: String| name.strip_prefix("json.log.")?.parse::<u32>().ok();
    let mut numbers: Vec<u32> =
        entries.filter_map(|entry| number(entry.ok()?.file_name().into_string().ok()?)).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    Ok(numbers.into_iter().map(|number| paths.logs.join(format!("json.log.{number}"))).collect())
}

/// A line that is not JSON is one that a full disk cut; the rest is still good.
fn parse(reader: impl BufRead) -> io::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for line in reader.lines() {
        lines.extend(serde_json::from_str(&line?).ok());
    }
    Ok(lines)
}

/// Reads the newest file as it grows, and its successor when it is rotated away.
struct Reader {
    file: Option<BufReader<File>>,
    /// The beginning of a line whose end is not written yet.
    partial: String,
}

impl Reader {
    fn more(&mut self, paths: &Paths) -> Result<Vec<Line>, Error> {
        let mut lines = Vec::new();
        loop {
            if let Some(file) = &mut self.file {
                while file.read_line(&mut self.partial).map_err(io_at(&paths.log))? > 0 {
                    if !self.partial.ends_with('\n') {
                        break;
                    }
                    lines.extend(serde_json::from_str(&self.partial).ok());
                    self.partial.clear();
                }
            }
            if !self.renew(paths)? {
                return Ok(lines);
            }
        }
    }

    /// Opens the newest file where it is not the one that is open.
    fn renew(&mut self, paths: &Paths) -> Result<bool, Error> {
        let newest = match File::open(&paths.log) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(io_at(&paths.log)(error)),
        };
        let inode = |file: &File| file.metadata().map(|data| data.ino()).map_err(io_at(&paths.log));
        if let Some(open) = &self.file
            && inode(open.get_ref())? == inode(&newest)?
        {
            return Ok(false);
        }
        self.file = Some(BufReader::new(newest));
        Ok(true)
    }
}
