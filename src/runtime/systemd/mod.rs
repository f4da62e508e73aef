//! systemd, where it runs: control groups belong to it there, and whoever wants some asks it for a unit of the kind
//! `scope` with `Delegate=yes` (systemd.resource-control(5), org.freedesktop.systemd1(5)).
//!
//! It is spoken to as systemctl does as root: over its own socket, without a bus between.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

mod placeholder;
mod properties;
mod wire;

pub use placeholder::Placeholder;
pub use properties::of as properties_of;
pub use wire::Value;

use wire::{Call, Message, Writer};

const SOCKET: &str = "/run/systemd/private";
/// The longest that systemd takes for any of these on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const ANSWER: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// Whether systemd is the first process of this host (sd_booted(3)).
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// What systemd did not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("systemd at {SOCKET}: {0}")]
    Unreachable(#[from] io::Error),
    #[error("systemd, {what} {unit}: {reason}")]
    Refused { what: &'static str, unit: String, name: String, reason: String },
}

/// Properties of a unit, by name.
pub type Properties = Vec<(&'static str, Value)>;

/// A scope as it is to be started.
pub struct Scope<'a> {
    /// `NAME.scope`
    pub unit: &'a str,
    /// `NAME.slice`
    pub slice: &'a str,
    pub description: &'a str,
    /// What is to be in it from the beginning.
    pub pid: i32,
    pub more: Properties,
}

/// Starts the scope; returns when its control group is there, with the process in it.
///
/// # Errors
/// Where there is such a unit already, or what systemd says.
pub fn start(scope: Scope<'_>) -> Result<(), Error> {
    let mut properties = delegated(scope.slice, scope.description);
    properties.push(("PIDs", Value::Numbers(vec![scope.pid as u32])));
    properties.extend(scope.more);
    start_transient(scope.unit, &properties)
}

fn delegated(slice: &str, description: &str) -> Properties {
    vec![
        ("Description", Value::Text(description.to_owned())),
        ("Slice", Value::Text(slice.to_owned())),
        ("Delegate", Value::Bool(true)),
        // Whoever made it ends it: it is in no order with the host's own units.
        ("DefaultDependencies", Value::Bool(false)),
        ("CPUAccounting", Value::Bool(true)),
        ("MemoryAccounting", Value::Bool(true)),
        ("IOAccounting", Value::Bool(true)),
        ("TasksAccounting", Value::Bool(true)),
        // What nobody limits has no limit, and not that of the host's usual units.
        ("TasksMax", Value::Number(u64::MAX)),
    ]
}

fn start_transient(unit: &str, properties: &[(&str, Value)]) -> Result<(), Error> {
    let mut manager = Manager::connect()?;
    // What is left of one that failed has its name still.
    manager.reset_failed(unit)?;
    manager.job("start", unit, "StartTransientUnit", "ssa(sv)a(sa(sv))", |body| {
        body.text(unit);
        body.text("fail");
        body.properties(properties);
        body.array(8, |_| {});
    })
}

/// Stops the unit, and forgets it; one that is not there is fine.
///
/// # Errors
/// What systemd says.
pub fn stop(unit: &str) -> Result<(), Error> {
    let mut manager = Manager::connect()?;
    let stopped = manager.job("stop", unit, "StopUnit", "ss", |body| {
        body.text(unit);
        body.text("replace");
    });
    absent_is_fine(stopped)?;
    manager.reset_failed(unit)
}

/// Changes these properties until the unit ends.
///
/// # Errors
/// What systemd says.
pub fn set(unit: &str, properties: &[(&str, Value)]) -> Result<(), Error> {
    let mut manager = Manager::connect()?;
    let changed = manager.call("change", unit, "SetUnitProperties", "sba(sv)", |body| {
        body.text(unit);
        body.boolean(true);
        body.properties(properties);
    });
    changed.map(drop)
}

fn absent_is_fine(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(Error::Refused { name, .. }) if name == NO_SUCH_UNIT => Ok(()),
        done => done,
    }
}

/// One conversation.
struct Manager {
    stream: UnixStream,
    serial: u32,
}

impl Manager {
    /// Says who we are (D-Bus specification, "EXTERNAL"): the number of the user in the hexadecimal of its digits. The
    /// last word goes with it, as systemctl has it: a message that came with that word would lie unread in systemd.
    fn connect() -> io::Result<Self> {
        let mut stream = UnixStream::connect(SOCKET)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let user: String = nix::unistd::geteuid().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {user}\r\nBEGIN\r\n").as_bytes())?;
        let answer = line(&mut stream)?;
        if !answer.starts_with("OK ") {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, answer));
        }
        Ok(Self { stream, serial: 0 })
    }

    fn send(&mut self, member: &str, signature: &str, body: Writer) -> io::Result<u32> {
        self.serial += 1;
        let call = Call {
            serial: self.serial,
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member,
            destination: "org.freedesktop.systemd1",
            signature,
        };
        self.stream.write_all(&wire::call(&call, body))?;
        Ok(self.serial)
    }

    fn call(
        &mut self,
        what: &'static str,
        unit: &str,
        member: &str,
        signature: &str,
        write: impl FnOnce(&mut Writer),
    ) -> Result<(Message, Vec<Message>), Error> {
        let mut body = Writer::default();
        write(&mut body);
        let serial = self.send(member, signature, body)?;
        let mut signals = Vec::new();
        loop {
            let message = wire::read(&mut self.stream)?;
            match message.kind {
                ANSWER if message.reply_to == serial => return Ok((message, signals)),
                ERROR if message.reply_to == serial => {
                    let reason = message.texts.first().unwrap_or(&message.name).clone();
                    return Err(Error::Refused { what, unit: unit.to_owned(), name: message.name, reason });
                }
                SIGNAL => signals.push(message),
                _ => {}
            }
        }
    }

    /// Calls what makes a job, and waits for that to be done. The end may be told before the answer.
    fn job(
        &mut self,
        what: &'static str,
        unit: &str,
        member: &str,
        signature: &str,
        write: impl FnOnce(&mut Writer),
    ) -> Result<(), Error> {
        self.call(what, unit, "Subscribe", "", |_| {})?;
        let (answer, mut signals) = self.call(what, unit, member, signature, write)?;
        loop {
            let end = signals.iter().find(|it| it.name == "JobRemoved" && it.texts.first() == answer.texts.first());
            match end.and_then(|end| end.texts.get(2)).map(String::as_str) {
                None => signals = vec![wire::read(&mut self.stream)?],
                Some("done" | "skipped") => return Ok(()),
                Some(result) => {
                    let (unit, reason) = (unit.to_owned(), format!("its job is {result}"));
                    return Err(Error::Refused { what, unit, name: String::new(), reason });
                }
            }
        }
    }

    fn reset_failed(&mut self, unit: &str) -> Result<(), Error> {
        let reset = self.call("forget", unit, "ResetFailedUnit", "s", |body| body.text(unit));
        absent_is_fine(reset.map(drop))
    }
}

/// What the other side says up to the end of its line, of which a short one is meant.
fn line(stream: &mut UnixStream) -> io::Result<String> {
    let mut said = Vec::new();
    while !said.ends_with(b"\n") && said.len() < 512 {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        said.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&said).trim().to_owned())
}

/// The path of a unit below the hierarchy: `a-b.slice` is in `a.slice` (systemd.slice(5)), `-.slice` is the topmost.
pub fn path(slice: &str, unit: &str) -> String {
    let stem = slice.trim_end_matches(".slice");
    let parts: Vec<&str> = stem.split('-').filter(|part| !part.is_empty()).collect();
    let above = (1..=parts.len()).map(|count| format!("{}.slice/", parts[..count].join("-")));
    above.collect::<String>() + unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_in_those_that_their_names_begin_with() {
        assert_eq!(path("system.slice", "a.scope"), "system.slice/a.scope");
        assert_eq!(path("a-b.slice", "x.scope"), "a.slice/a-b.slice/x.scope");
        assert_eq!(path("-.slice", "x.scope"), "x.scope");
    }
}
