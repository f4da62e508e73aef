//! What happens to containers, networks, volumes and images, as a journal: whoever acts appends a line.
//!
//! `events/journal` below the volatile root, and `events/journal.1`, what was before; each ends at `LARGEST` bytes, so
//! that the oldest events are forgotten. A line is one [`Event`] as JSON, format 1, written by one write(2): lines of
//! several writers do not mix. Gone at reboot. Nothing decides by it: an event that could not be written down changes
//! nothing for who acted.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::{Deserialize, Serialize};

use super::roots::Roots;
use super::state;

/// Bytes of a file before the next is begun.
const LARGEST: u64 = 1 << 20;

/// What something happened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
        }
    }
}

/// Something that happened, in docker's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    pub kind: Kind,
    pub action: String,
    /// Of a container or an image; the name of anything else.
    pub id: String,
    pub name: String,
    /// Labels, the image of a container, and what the action is about: `exitCode`, `signal`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// That happens now.
    pub fn now(kind: Kind, action: &str, id: &str, name: &str) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let text = str::to_owned;
        Self { time_ns, kind, action: text(action), id: text(id), name: text(name), attributes: BTreeMap::new() }
    }

    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.attributes.insert(key.to_owned(), value.to_string());
        self
    }

    /// What stands already wins.
    pub fn with_labels(mut self, labels: &BTreeMap<String, String>) -> Self {
        for (key, value) in labels {
            self.attributes.entry(key.clone()).or_insert_with(|| value.clone());
        }
        self
    }
}

fn directory(roots: &Roots) -> PathBuf {
    roots.volatile("events")
}

/// Writes it down.
pub fn record(roots: &Roots, event: &Event) {
    let directory = directory(roots);
    let written = append(&directory, event).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => state::make_private(&directory).and_then(|()| append(&directory, event)),
        _ => Err(error),
    });
    if let Err(error) = written {
        tracing::debug!(%error, "an event was not written down");
    }
}

fn append(directory: &Path, event: &Event) -> io::Result<()> {
    let path = directory.join("journal");
    let mut file = File::options().append(true).create(true).open(&path)?;
    if file.metadata()?.len() >= LARGEST {
        turn(&path, file)?;
        file = File::options().append(true).create(true).open(&path)?;
    }
    file.write_all((serde_json::to_string(event)? + "\n").as_bytes())
}

/// Begins the next file, unless somebody else just has.
fn turn(path: &Path, file: File) -> io::Result<()> {
    let held = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| io::Error::from(error))?;
    if fs::metadata(path).is_ok_and(|now| now.ino() == held.metadata().map_or(0, |own| own.ino())) {
        fs::rename(path, path.with_extension("1"))?;
    }
    Ok(())
}

/// Which events are read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Select {
    /// Nanoseconds since 1970; from now on where absent.
    pub since_ns: Option<u64>,
    /// Reading ends with this moment; it goes on and on where absent.
    pub until_ns: Option<u64>,
}

/// Reads events in the order in which they were written, waiting for more, until `each` says that it has enough or the
/// time is up.
pub fn read(roots: &Roots, select: Select, each: &mut dyn FnMut(&Event) -> bool) -> io::Result<()> {
    let directory = directory(roots);
    state::make_private(&directory)?;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    inotify.add_watch(&directory, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
    let since_ns = select.since_ns.unwrap_or_else(now_ns);
    let mut wanted = |event: &Event| {
        let is_early = event.time_ns < since_ns;
        let is_late = select.until_ns.is_some_and(|until| event.time_ns > until);
        is_early || is_late || each(event)
    };
    let mut journal = Journal::open(&directory)?;
    loop {
        if !journal.read(&mut wanted)? {
            return Ok(());
        }
        let left = select.until_ns.map(|until| Duration::from_nanos(until.saturating_sub(now_ns())));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(());
        }
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        // What happened stands in the journal.
        drop(inotify.read_events());
    }
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Both files, as far as they were read.
struct Journal {
    path: PathBuf,
    before: Option<File>,
    file: Option<File>,
    /// The beginning of a line whose rest is not there yet.
    rest: Vec<u8>,
}

impl Journal {
    fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join("journal");
        loop {
            let file = optional(File::open(&path))?;
            let before = optional(File::open(path.with_extension("1")))?;
            let inode = |file: &Option<File>| file.as_ref().and_then(|file| Some(file.metadata().ok()?.ino()));
            // The next file was begun between the two looks: look again.
            if file.is_none() || inode(&file) != inode(&before) {
                return Ok(Self { path, before, file, rest: Vec::new() });
            }
        }
    }

    /// Reads what is new; `false` once somebody has enough.
    fn read(&mut self, each: &mut dyn FnMut(&Event) -> bool) -> io::Result<bool> {
        if let Some(before) = self.before.take()
            && !self.read_file(before, each)?.0
        {
            return Ok(false);
        }
        loop {
            let Some(file) =
                self.file.take().map_or_else(|| optional(File::open(&self.path)), |file| Ok(Some(file)))?
            else {
                return Ok(true);
            };
            let inode = file.metadata()?.ino();
            // Asked before reading: what is written until the next file is begun is in this one.
            let is_last = fs::metadata(&self.path).is_ok_and(|now| now.ino() == inode);
            let (goes_on, file) = self.read_file(file, each)?;
            if !goes_on {
                return Ok(false);
            }
            if is_last {
                self.file = Some(file);
                return Ok(true);
            }
            self.rest.clear();
        }
    }

    fn read_file(&mut self, mut file: File, each: &mut dyn FnMut(&Event) -> bool) -> io::Result<(bool, File)> {
        file.read_to_end(&mut self.rest)?;
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.rest.drain(..end).collect();
        for line in lines.split(|byte| *byte == b'\n') {
            // A line of a later version of this program is not understood.
            let Ok(event) = serde_json::from_slice::<Event>(line) else { continue };
            if !each(&event) {
                return Ok((false, file));
            }
        }
        Ok((true, file))
    }
}

fn optional(file: io::Result<File>) -> io::Result<Option<File>> {
    match file {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(roots: &Roots) -> Vec<Event> {
        let mut found = Vec::new();
        let select = Select { since_ns: Some(0), until_ns: Some(now_ns()) };
        read(roots, select, &mut |event| {
            found.push(event.clone());
            true
        })
        .unwrap();
        found
    }

    /// Many writers at once, over several files: every line is whole, and the newest are all there.
    #[test]
    fn lines_stay_whole_and_the_files_small() {
        let directory = std::env::temp_dir().join(format!("events-{}", std::process::id()));
        let roots = Roots::new(directory.join("r"), directory.join("n"));
        let filler = "x".repeat(1000);
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let (roots, filler) = (&roots, &filler);
                scope.spawn(move || {
                    for number in 0..700 {
                        let event = Event::now(Kind::Container, "start", "id", &format!("{writer}-{number}"));
                        record(roots, &event.with("filler", filler));
                    }
                });
            }
        });
        let found = all(&roots);
        for writer in 0..4 {
            let prefix = format!("{writer}-");
            let own: Vec<u32> =
                found.iter().filter_map(|event| event.name.strip_prefix(&prefix)?.parse().ok()).collect();
            // Of one that was done long before the others nothing may be left.
            let Some(first) = own.first() else { continue };
            assert!(own.is_sorted() && own.len() == 700 - *first as usize, "a gap of {writer}: {own:?}");
        }
        let size = |name: &str| fs::metadata(roots.volatile("events").join(name)).unwrap().len();
        assert!(size("journal") + size("journal.1") > LARGEST, "the newest are kept");
        // Each of the writers may have found room for its line at the same moment.
        assert!(size("journal") <= LARGEST + 5000 && size("journal.1") <= LARGEST + 5000);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_follower_misses_nothing_when_the_next_file_begins() {
        let directory = std::env::temp_dir().join(format!("events-follow-{}", std::process::id()));
        let roots = Roots::new(directory.join("r"), directory.join("n"));
        let reader = {
            let roots = roots.clone();
            std::thread::spawn(move || {
                let mut seen = 0;
                read(&roots, Select { since_ns: Some(0), until_ns: None }, &mut |event| {
                    assert_eq!(event.name, seen.to_string());
                    seen += 1;
                    seen < 1500
                })
                .unwrap();
                seen
            })
        };
        for number in 0..1500 {
            let event = Event::now(Kind::Volume, "create", "v", &number.to_string());
            record(&roots, &event.with("filler", "x".repeat(1000)));
        }
        assert_eq!(reader.join().unwrap(), 1500);
        fs::remove_dir_all(directory).unwrap();
    }
}
