//! One call of a plugin (the specification, section 2: execution protocol): what it is told goes by its environment and
//! its standard input, what it says comes by its standard output. It has so long and so much, and no more: a plugin that
//! hangs is killed with all that it started, one that says too much is told so.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::Value;

use crate::runtime::sys;

/// What a plugin may say, in bytes.
const MOST: usize = 1 << 20;
/// Where plugins look for what they call themselves.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What one plugin did not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("CNI plugin {plugin:?} is in none of {directories}\n  help: install it, or name its place by `plugin_dir`")]
    NotFound { plugin: String, directories: String },
    #[error("CNI plugin {path}: {source}")]
    Start { path: PathBuf, source: io::Error },
    #[error("CNI plugin {path}, {command}: no answer within {seconds} s, and it was killed")]
    Late { path: PathBuf, command: &'static str, seconds: u64 },
    #[error("CNI plugin {path}, {command}: it says more than {MOST} bytes")]
    Long { path: PathBuf, command: &'static str },
    /// What it says itself.
    #[error("CNI plugin {path}, {command}: {message} (code {code})")]
    Said { path: PathBuf, command: &'static str, code: u32, message: String },
    #[error("CNI plugin {path}, {command}: {status}{output}")]
    Died { path: PathBuf, command: &'static str, status: ExitStatus, output: String },
    #[error("CNI plugin {path}, {command}: not an answer: {source}")]
    Answer { path: PathBuf, command: &'static str, source: serde_json::Error },
}

/// What all calls for one container in one network have in common.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    pub container: &'a str,
    /// Empty where there is none any more.
    pub namespace: &'a Path,
    pub interface: &'a str,
    pub arguments: &'a str,
    pub plugins: &'a [PathBuf],
    pub patience: Duration,
}

/// A plugin's own words on what went wrong (the specification, section 5: result types, error).
#[derive(Deserialize)]
struct Fault {
    code: u32,
    msg: String,
    #[serde(default)]
    details: String,
}

/// Calls the plugin, and gives what it answers: `null` where it says nothing.
pub fn call(place: &Place<'_>, plugin: &str, command: &'static str, configuration: &Value) -> Result<Value, Error> {
    let path = find(place.plugins, plugin)?;
    let started = start(place, &path, command, configuration);
    let (mut child, output, errors) = started.map_err(|source| Error::Start { path: path.clone(), source })?;
    let heard = hear(&mut child, output, errors, place.patience);
    let heard = heard.map_err(|source| Error::Start { path: path.clone(), source })?;
    let Heard { status, output, errors, late } = heard;
    if late {
        return Err(Error::Late { path, command, seconds: place.patience.as_secs() });
    }
    if output.len() > MOST {
        return Err(Error::Long { path, command });
    }
    if !status.success() {
        return Err(fault(path, command, status, &output, &errors));
    }
    if output.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&output).map_err(|source| Error::Answer { path, command, source })
}

fn find(directories: &[PathBuf], plugin: &str) -> Result<PathBuf, Error> {
    let found = directories.iter().map(|directory| directory.join(plugin)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let names: Vec<String> = directories.iter().map(|directory| directory.display().to_string()).collect();
        Error::NotFound { plugin: plugin.to_owned(), directories: names.join(", ") }
    })
}

fn fault(path: PathBuf, command: &'static str, status: ExitStatus, output: &[u8], errors: &[u8]) -> Error {
    if let Ok(Fault { code, msg, details }) = serde_json::from_slice(output) {
        let message = if details.is_empty() { msg } else { format!("{msg}: {details}") };
        return Error::Said { path, command, code, message };
    }
    let errors = String::from_utf8_lossy(errors);
    let last = errors.trim_end().lines().next_back().unwrap_or_default();
    let output = if last.is_empty() { String::new() } else { format!(": {last}") };
    Error::Died { path, command, status, output }
}

/// It leads a group of processes, so that all of them can be ended.
fn start(
    place: &Place<'_>,
    path: &Path,
    command: &'static str,
    configuration: &Value,
) -> io::Result<(Child, OwnedFd, OwnedFd)> {
    // A file, so that one who does not read can't keep us from going on.
    let mut input = File::from(memfd_create("configuration", MFdFlags::MFD_CLOEXEC)?);
    input.write_all(&serde_json::to_vec(configuration)?)?;
    input.rewind()?;
    let (output, output_end) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let (errors, errors_end) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let directories = std::env::join_paths(place.plugins).map_err(io::Error::other)?;
    let mut started = Command::new(path);
    started.env_clear().env("PATH", PATH).env("CNI_COMMAND", command).env("CNI_PATH", directories);
    if !place.container.is_empty() {
        started.env("CNI_CONTAINERID", place.container).env("CNI_NETNS", place.namespace);
        started.env("CNI_IFNAME", place.interface).env("CNI_ARGS", place.arguments);
    }
    started.stdin(Stdio::from(input)).stdout(output_end).stderr(errors_end).process_group(0);
    let child = started.spawn()?;
    Ok((child, output, errors))
}

struct Heard {
    status: ExitStatus,
    output: Vec<u8>,
    errors: Vec<u8>,
    late: bool,
}

/// Reads until the plugin has ended, whoever else holds the other ends of the pipes, or its time is over.
fn hear(child: &mut Child, output: OwnedFd, errors: OwnedFd, patience: Duration) -> io::Result<Heard> {
    let until = Instant::now() + patience;
    let process = sys::pidfd_open(child.id() as i32)?;
    let mut pipes = [Pipe::new(output)?, Pipe::new(errors)?];
    let late = loop {
        let left = until.saturating_duration_since(Instant::now());
        let ended = wait(&process, &pipes, left)?;
        for pipe in &mut pipes {
            pipe.take()?;
        }
        let late = !ended && Instant::now() >= until;
        if ended || late || pipes[0].taken.len() > MOST {
            break late;
        }
    };
    // What it left behind has nothing more to do; of a group that is gone nothing is left.
    killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL).ok();
    let status = child.wait()?;
    let [output, errors] = pipes;
    Ok(Heard { status, output: output.taken, errors: errors.taken, late })
}

/// Until something is said, the process has ended (which is what it gives), or the time is up.
fn wait(process: &OwnedFd, pipes: &[Pipe; 2], left: Duration) -> io::Result<bool> {
    let mut waiting = vec![PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    let open = pipes.iter().filter_map(|pipe| pipe.open.as_ref());
    waiting.extend(open.map(|open| PollFd::new(open.as_fd(), PollFlags::POLLIN)));
    // Rounded up: not to ask again and again in the last millisecond.
    let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut waiting, left) {
        Ok(_) => Ok(waiting[0].any().unwrap_or(false)),
        Err(nix::Error::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

struct Pipe {
    open: Option<File>,
    taken: Vec<u8>,
}

impl Pipe {
    fn new(end: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_truncate(fcntl(&end, FcntlArg::F_GETFL)?);
        fcntl(&end, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self { open: Some(File::from(end)), taken: Vec::new() })
    }

    /// Takes what is there, a little more than the most at last.
    fn take(&mut self) -> io::Result<()> {
        let mut piece = [0; 4096];
        while let Some(open) = &mut self.open
            && self.taken.len() <= MOST
        {
            match open.read(&mut piece) {
                Ok(0) => self.open = None,
                Ok(count) => self.taken.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::json;

    use super::*;

    /// What a plugin with this text answers, or why it does not.
    fn answer(script: &str) -> Result<Value, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("stack-plugin-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("plugin");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let place = Place {
            container: "web",
            namespace: Path::new("/run/netns/web"),
            interface: "eth0",
            arguments: "IgnoreUnknown=1",
            plugins: std::slice::from_ref(&directory),
            patience: Duration::from_secs(2),
        };
        let said = call(&place, "plugin", "ADD", &json!({"name": "lan"})).map_err(|error| error.to_string());
        std::fs::remove_dir_all(&directory).unwrap();
        said.map_err(|text| text.replace(&path.display().to_string(), "P"))
    }

    #[test]
    fn a_plugin_is_told_all_and_answers() {
        let told = answer(
            r#"printf '{"in": %s, "env": "%s %s %s %s"}' "$(cat)" $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS"#,
        );
        assert_eq!(told.unwrap(), json!({"in": {"name": "lan"}, "env": "ADD web eth0 /run/netns/web"}));
        assert_eq!(answer("true").unwrap(), Value::Null);
    }

    #[test]
    fn a_plugin_that_fails_is_named_with_its_words() {
        let cases = [
            (r#"echo '{"code": 7, "msg": "no", "details": "way"}'; exit 1"#, "CNI plugin P, ADD: no: way (code 7)"),
            ("echo first >&2; echo last >&2; exit 3", "CNI plugin P, ADD: exit status: 3: last"),
            ("kill -9 $$", "CNI plugin P, ADD: signal: 9 (SIGKILL)"),
            ("echo nonsense", "CNI plugin P, ADD: not an answer: expected ident at line 1 column 2"),
            ("yes", "CNI plugin P, ADD: it says more than 1048576 bytes"),
            ("sleep 1000 & sleep 1000", "CNI plugin P, ADD: no answer within 2 s, and it was killed"),
        ];
        for (script, expected) in cases {
            assert_eq!(answer(script).unwrap_err(), expected, "{script}");
        }
    }

    /// What a plugin leaves running has its pipes, and is not waited for.
    #[test]
    fn what_a_plugin_leaves_behind_is_ended() {
        let begun = Instant::now();
        assert_eq!(answer("sleep 1000 & echo '{}'").unwrap(), json!({}));
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
