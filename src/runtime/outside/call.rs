//! One call of a runtime: its words, its log, and what its failure means.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;

use super::Program;
use crate::runtime::init::InitError;
use crate::runtime::sys;

/// How long a call may take; what takes longer is killed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much of a runtime's words is read, in bytes: the last ones. What it quotes may be a container's.
const MOST_SAID: u64 = 64 << 10;
/// What a runtime finds programs of the host by: the engine's own variables are not its.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Standard input, output and error.
pub type Streams = (Option<OwnedFd>, OwnedFd, OwnedFd);

/// Why a call has failed, in the runtime's words where it has any.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failed(String);

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl Failed {
    /// As the failure of the engine's own step would be told. Runtimes have no word for programs that are not there, but
    /// their text.
    pub fn about(self, runtime: &str, verb: &str, program: &str) -> InitError {
        match is_found(&self.0) {
            Some(found) => InitError::Exec { program: program.to_owned(), reason: self.0, found },
            None => InitError::Step { step: format!("runtime {runtime} {verb}"), reason: self.0 },
        }
    }
}

/// Whether the text says that the container's program is not there, or that it is and can't be executed. As docker, which
/// looks for the same words.
fn is_found(text: &str) -> Option<bool> {
    let text = text.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().all(|word| text.contains(word));
    if has(&["executable file", "not found"]) || has(&["exec", "no such file"]) || has(&["executable", "not found"]) {
        return Some(false);
    }
    let refused = ["permission denied", "is a directory", "correct permission"];
    let executed = has(&["exec:"]) || has(&["executable"]) || has(&["exec \""]);
    (executed && refused.iter().any(|word| text.contains(word))).then_some(true)
}

pub struct Call<'a> {
    pub program: &'a Program,
    pub root: &'a Path,
    pub log: &'a Path,
    pub words: Vec<OsString>,
}

impl Call<'_> {
    /// Runs it to its end. `streams` become those of the process that it makes.
    pub fn run(&self, streams: Option<Streams>) -> Result<(), Failed> {
        let said = self.log.with_extension("said");
        let ended = self.spawn(streams, &said);
        let told = ended.and_then(|code| match code {
            Some(0) => Ok(()),
            code => Err(self.reason(code, &said)),
        });
        for path in [self.log, &said] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        told
    }

    fn spawn(&self, streams: Option<Streams>, said: &Path) -> Result<Option<i32>, Failed> {
        let mut command = Command::new(&self.program.path);
        command.args(&self.program.args).arg("--root").arg(self.root).arg("--log").arg(self.log);
        command.args(["--log-format", "json"]).args(&self.words);
        command.env_clear().env("PATH", PATH).current_dir("/").stdin(Stdio::null());
        match streams {
            Some((stdin, stdout, stderr)) => {
                command.stdin(stdin.map_or_else(Stdio::null, Stdio::from)).stdout(stdout).stderr(stderr);
            }
            None => {
                let file = File::create(said)?;
                command.stdout(file.try_clone()?).stderr(file);
            }
        }
        let about = |error: io::Error| Failed(format!("{}: {error}", self.program.path.display()));
        let mut child = command.spawn().map_err(about)?;
        // The ends of the container's pipes that are not the child's.
        drop(command);
        let in_time = ends_within(&child, PATIENCE);
        if !matches!(in_time, Ok(true)) {
            child.kill()?;
        }
        let code = child.wait()?.code();
        if in_time? { Ok(code) } else { Err(Failed(format!("no answer within {} s", PATIENCE.as_secs()))) }
    }

    fn reason(&self, code: Option<i32>, said: &Path) -> Failed {
        let log = end_of(self.log).ok().and_then(|log| last_error(&log));
        let said = || end_of(said).ok().and_then(|said| last_error(&said));
        let code = || match code {
            Some(code) => format!("it ended with code {code} and without a word"),
            None => "it was killed".to_owned(),
        };
        Failed(log.or_else(said).unwrap_or_else(code))
    }
}

/// However often the waiting is interrupted.
fn ends_within(child: &Child, patience: Duration) -> io::Result<bool> {
    let until = Instant::now() + patience;
    let process = sys::pidfd_open(child.id() as i32)?;
    loop {
        // Rounded up: not to ask again and again in the last millisecond.
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], left) {
            Err(nix::Error::EINTR) if Instant::now() < until => {}
            Err(nix::Error::EINTR) => return Ok(false),
            Err(error) => return Err(error.into()),
            Ok(count) => return Ok(count > 0),
        }
    }
}

/// The last of what a file says.
fn end_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MOST_SAID)))?;
    let mut text = Vec::new();
    file.take(MOST_SAID).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The last error of a log of JSON objects, one a line, as each runtime has them; else its last line.
fn last_error(log: &str) -> Option<String> {
    let of = |line: &str| {
        let entry: Value = serde_json::from_str(line).ok()?;
        let is_error = entry["level"]
            .as_str()
            .is_some_and(|level| ["error", "fatal", "panic"].iter().any(|word| level.eq_ignore_ascii_case(word)));
        let text = entry["msg"].as_str().or_else(|| entry["fields"]["message"].as_str());
        text.filter(|_| is_error).map(str::to_owned)
    };
    let last = || log.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
    log.lines().rev().find_map(of).or_else(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_each_kind_of_log_is_found() {
        let runc =
            "{\"level\":\"warning\",\"msg\":\"a\"}\n{\"level\":\"error\",\"msg\":\"no cgroup\",\"time\":\"t\"}\n";
        let youki = "{\"timestamp\":\"t\",\"level\":\"ERROR\",\"fields\":{\"message\":\"no bundle\"}}\n";
        let of = |text: &str| last_error(text).unwrap_or_default();
        assert_eq!([runc, youki, "one\ntwo\n\n", ""].map(of), ["no cgroup", "no bundle", "two", ""]);
    }

    /// A file of 8 TiB could not be read as a whole.
    #[test]
    fn of_a_log_without_end_the_end_is_read() {
        let path = std::env::temp_dir().join(format!("stack-said-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"\nthe last words\n", 8 << 40).unwrap();
        let said = end_of(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!((said.len() as u64, last_error(&said).as_deref()), (MOST_SAID, Some("the last words")));
    }

    #[test]
    fn a_program_has_its_time_however_often_the_waiting_is_interrupted() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let begun = Instant::now();
        assert!(!ends_within(&child, Duration::from_millis(50)).unwrap());
        assert!((50..5000).contains(&begun.elapsed().as_millis()));
        child.kill().unwrap();
        assert!(ends_within(&child, Duration::from_secs(5)).unwrap());
        child.wait().unwrap();
    }

    #[test]
    fn programs_that_are_not_there_are_told_from_all_else() {
        for (text, found) in [
            ("runc create failed: exec: \"x\": executable file not found in $PATH", Some(false)),
            ("exec: \"/x\": stat /x: no such file or directory", Some(false)),
            ("executable file `x` not found: No such file or directory", Some(false)),
            ("runc create failed: exec: \"/etc\": permission denied", Some(true)),
            ("open executable: Permission denied", Some(true)),
            ("exec \"/bin/x\": permission denied", Some(true)),
            ("cannot set limit: permission denied", None),
            ("mount /x: no such file or directory", None),
        ] {
            assert_eq!(is_found(text), found, "{text}");
        }
    }
}
