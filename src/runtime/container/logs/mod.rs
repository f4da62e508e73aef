//! Reading what a container wrote: the supervisor's files, oldest first, and what is still being written.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use self::files::Growing;
use self::form::Decoder;
use super::{Error, LogFiles, Paths, get, io_at};
use crate::runtime::roots::Roots;

pub mod files;
pub mod form;

/// One line. `log` ends with a line feed unless the program's line was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub log: String,
    pub stream: String,
    /// RFC 3339 with nanoseconds, UTC.
    pub time: String,
    /// Labels and variables of the container, where its log has any.
    pub attributes: BTreeMap<String, String>,
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

impl Select {
    fn takes(&self, line: &Line) -> bool {
        self.since.as_ref().is_none_or(|since| line.time >= *since)
            && self.until.as_ref().is_none_or(|until| line.time <= *until)
    }
}

/// Hands the lines to `each` until there are no more, or `each` says `false`. Following ends when the container has.
/// There are none where nothing is kept.
pub fn read(roots: &Roots, name: &str, select: &Select, each: &mut dyn FnMut(&Line) -> bool) -> Result<(), Error> {
    let container = get(roots, name)?;
    let paths = Paths::of(roots, &container.config.name);
    let kept = container.config.log.files;
    let inotify = watch(&paths, select)?;
    let mut growing = match kept {
        Some(kept) => {
            let newest = kept.newest(&paths.logs);
            let mut growing = Growing::open(newest, kept).map_err(io_at(&paths.logs))?;
            let goes_on = past(&mut growing, &paths, kept, select, each).map_err(io_at(&paths.logs))?;
            if !goes_on {
                return Ok(());
            }
            Some(growing)
        }
        None => None,
    };
    if !select.follow {
        return Ok(());
    }
    loop {
        // Asked before reading: what is written before the end is then read for certain.
        let running = get(roots, name).is_ok_and(|container| container.is_running());
        if let Some(growing) = &mut growing {
            let goes_on = growing.more(&mut |line| !select.takes(&line) || each(&line));
            if !goes_on.map_err(io_at(&paths.logs))? {
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

/// For who follows. Before the first look, so that nothing falls between.
fn watch(paths: &Paths, select: &Select) -> Result<Inotify, Error> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
    let inotify = inotify.map_err(|error| io_at("inotify")(error.into()))?;
    if select.follow {
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(&paths.logs, flags).map_err(|error| io_at(&paths.logs)(error.into()))?;
        if paths.run.is_dir() {
            inotify.add_watch(&paths.run, flags).map_err(|error| io_at(&paths.run)(error.into()))?;
        }
    }
    Ok(inotify)
}

/// The lines that are there by now. With an end of so many, as few files are read as have them.
fn past(
    growing: &mut Growing,
    paths: &Paths,
    kept: LogFiles,
    select: &Select,
    each: &mut dyn FnMut(&Line) -> bool,
) -> std::io::Result<bool> {
    let older = files::older(&kept.newest(&paths.logs), kept.max_files, growing.inode()?)?;
    let Some(tail) = select.tail else {
        for file in older.into_iter().rev() {
            let goes_on = files::all(file, Decoder::new(kept.form), &mut |line| !select.takes(&line) || each(&line))?;
            if !goes_on {
                return Ok(false);
            }
        }
        return growing.more(&mut |line| !select.takes(&line) || each(&line));
    };
    let mut last = Last::new(tail, select);
    growing.more(&mut |line| last.take(line))?;
    for file in older {
        if last.is_full() {
            break;
        }
        let mut before = Last::new(tail - last.lines.len(), select);
        files::all(file, Decoder::new(kept.form), &mut |line| before.take(line))?;
        before.lines.append(&mut last.lines);
        last.lines = before.lines;
    }
    Ok(last.lines.iter().all(each))
}

/// The last lines, so many at most.
struct Last<'a> {
    most: usize,
    select: &'a Select,
    lines: VecDeque<Line>,
}

impl<'a> Last<'a> {
    fn new(most: usize, select: &'a Select) -> Self {
        Self { most, select, lines: VecDeque::new() }
    }

    fn is_full(&self) -> bool {
        self.lines.len() >= self.most
    }

    fn take(&mut self, line: Line) -> bool {
        if self.select.takes(&line) {
            self.lines.push_back(line);
            if self.lines.len() > self.most {
                self.lines.pop_front();
            }
        }
        true
    }
}
