//! `logs`: of one container, of a service's, or of all of a stack.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use serde_json::json;

use super::args::Logs;
use super::failure::Failure;
use super::format::{Format, Template};
use super::names::Here;
use super::{names, view};
use crate::runtime::container::logs::{self, Line, Select};
use crate::runtime::roots::Roots;

/// Lines that wait to be printed before readers wait, too.
const QUEUE: usize = 1024;
/// What names before lines are coloured with, in turn: cyan, yellow, green, magenta, blue, and their bright forms.
const COLORS: [u8; 10] = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94];

/// A line, and who wrote it.
type Heard = (String, Line);

pub fn logs(roots: &Roots, here: &Here, arguments: &Logs) -> Result<ExitCode, Failure> {
    let select = Select {
        since: arguments.since.as_deref().map(|text| time("--since", text)).transpose()?,
        until: arguments.until.as_deref().map(|text| time("--until", text)).transpose()?,
        tail: tail(&arguments.tail)?,
        follow: arguments.follow,
    };
    let names: Vec<String> =
        names::several(roots, here, &arguments.names)?.into_iter().map(|one| one.config.name).collect();
    let printer = Printer::new(&names, arguments)?;
    match names.as_slice() {
        [only] => {
            let mut printed = Ok(());
            logs::read(roots, only, &select, &mut |line| {
                printed = printer.print(only, line);
                printed.is_ok()
            })?;
            unless_gone(printed)?;
        }
        _ if arguments.follow => follow(roots, &names, &select, &printer)?,
        _ => {
            for (name, line) in sorted(roots, &names, &select)? {
                if let Err(error) = printer.print(&name, &line) {
                    unless_gone(Err(error))?;
                    break;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A reader that went away (`| head`) ends the printing, and is no error.
pub fn unless_gone(printed: io::Result<()>) -> io::Result<()> {
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// The lines of all of them, in the order in which they were written.
fn sorted(roots: &Roots, names: &[String], select: &Select) -> Result<Vec<Heard>, Failure> {
    let mut lines: Vec<Heard> = Vec::new();
    for name in names {
        logs::read(roots, name, select, &mut |line| {
            lines.push((name.clone(), line.clone()));
            true
        })?;
    }
    lines.sort_by(|(_, one), (_, other)| one.time.cmp(&other.time));
    Ok(lines)
}

/// Prints lines as they come, until all containers have ended or nobody reads any more.
fn follow(roots: &Roots, names: &[String], select: &Select, printer: &Printer) -> Result<(), Failure> {
    let (sender, receiver) = sync_channel::<Result<Heard, String>>(QUEUE);
    for name in names {
        let (roots, name, select, sender) = (roots.clone(), name.clone(), select.clone(), sender.clone());
        thread::spawn(move || read_into(&sender, &roots, &name, &select));
    }
    drop(sender);
    for heard in receiver {
        let (name, line) = heard.map_err(Failure::new)?;
        if let Err(error) = printer.print(&name, &line) {
            return Ok(unless_gone(Err(error))?);
        }
    }
    Ok(())
}

fn read_into(sender: &SyncSender<Result<Heard, String>>, roots: &Roots, name: &str, select: &Select) {
    let read = logs::read(roots, name, select, &mut |line| sender.send(Ok((name.to_owned(), line.clone()))).is_ok());
    if let Err(error) = read {
        // Nobody listens when printing has ended already.
        sender.send(Err(error.to_string())).ok();
    }
}

/// How lines look.
struct Printer {
    prefixes: BTreeMap<String, String>,
    timestamps: bool,
    details: bool,
    json: bool,
    template: Option<Template>,
}

impl Printer {
    fn new(names: &[String], arguments: &Logs) -> Result<Self, Failure> {
        let width = names.iter().map(String::len).max().unwrap_or(0);
        let colored = !arguments.no_color && view::out_color();
        let prefix = |(index, name): (usize, &String)| {
            let color = COLORS[index % COLORS.len()];
            let text = format!("{name:width$} | ");
            (name.clone(), if colored { format!("\x1b[{color}m{text}\x1b[0m") } else { text })
        };
        let wanted = names.len() > 1 && !arguments.no_log_prefix;
        let prefixes = if wanted { names.iter().enumerate().map(prefix).collect() } else { BTreeMap::new() };
        let template = match &arguments.format.format {
            Format::Template(template) => Some(template.clone()),
            Format::TableTemplate(_) => return Err(Failure::new("--format: logs have no table with headings")),
            Format::Table | Format::Json => None,
        };
        let json = matches!(arguments.format.format, Format::Json);
        Ok(Self { prefixes, timestamps: arguments.timestamps, details: arguments.details, json, template })
    }

    /// To where the container wrote it: standard output or error. As data, always to standard output.
    fn print(&self, name: &str, line: &Line) -> io::Result<()> {
        if self.json || self.template.is_some() {
            let text = line.log.trim_end_matches('\n');
            let value = json!({"container": name, "time": line.time, "stream": line.stream, "log": text});
            let shown = match &self.template {
                Some(template) => template.render(&value).map_err(io::Error::other)?,
                None => value.to_string(),
            };
            return writeln!(io::stdout(), "{shown}");
        }
        let prefix = self.prefixes.get(name).map(String::as_str);
        let time = if self.timestamps { format!("{} ", line.time) } else { String::new() };
        let details = if self.details { format!("{} ", details(line)) } else { String::new() };
        let end = if prefix.is_some() && !line.log.ends_with('\n') { "\n" } else { "" };
        write(line, &format!("{}{time}{details}{}{end}", prefix.unwrap_or(""), line.log))
    }
}

/// As docker has them: `NAME=VALUE` with commas between, and what could be taken for these by its number.
fn details(line: &Line) -> String {
    let pairs = line.attributes.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value)));
    pairs.collect::<Vec<_>>().join(",")
}

fn escaped(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let letter = |byte: u8| match byte {
        b' ' => "+".to_owned(),
        _ if is_plain(byte) => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(letter).collect()
}

/// A line as the container wrote it.
pub fn write_plain(line: &Line) -> io::Result<()> {
    write(line, &line.log)
}

fn write(line: &Line, text: &str) -> io::Result<()> {
    if line.stream == "stderr" {
        io::stderr().write_all(text.as_bytes())
    } else {
        io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush())
    }
}

fn tail(text: &str) -> Result<Option<usize>, Failure> {
    if text == "all" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Failure::new(format!("--tail {text:?}: expected a number of lines, or all")))
}

/// RFC 3339, seconds since 1970, or an age such as `10m`; as the logs' own form of time.
pub fn time(flag: &str, text: &str) -> Result<String, Failure> {
    Ok(format!("{:.9}", moment(flag, text, jiff::Timestamp::now())?))
}

/// The moment that `text` means when it is `now`.
pub fn moment(flag: &str, text: &str, now: jiff::Timestamp) -> Result<jiff::Timestamp, Failure> {
    let wrong =
        || Failure::new(format!("{flag} {text:?}: expected RFC 3339, seconds since 1970, or an age such as 10m"));
    if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        return Ok(timestamp);
    }
    if let Some(timestamp) = seconds(text) {
        return Ok(timestamp);
    }
    if let Ok(date) = text.parse::<jiff::civil::DateTime>() {
        return Ok(date.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| wrong())?.timestamp());
    }
    let age = crate::spec::units::duration_ms(text).and_then(|ms| i64::try_from(ms).ok()).ok_or_else(wrong)?;
    now.checked_sub(jiff::SignedDuration::from_millis(age)).map_err(|_| wrong())
}

/// `1700000000` or `1700000000.5`.
fn seconds(text: &str) -> Option<jiff::Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let nanoseconds: i32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    jiff::Timestamp::new(whole.parse().ok()?, nanoseconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_many_forms() {
        let now: jiff::Timestamp = "2024-05-06T07:08:09Z".parse().unwrap();
        for (text, expected) in [
            ("2024-01-02T03:04:05Z", Some("2024-01-02T03:04:05Z")),
            ("2024-01-02T03:04:05+01:00", Some("2024-01-02T02:04:05Z")),
            ("2024-01-02T03:04:05", Some("2024-01-02T03:04:05Z")),
            ("2024-01-02", Some("2024-01-02T00:00:00Z")),
            ("1700000000", Some("2023-11-14T22:13:20Z")),
            ("1700000000.5", Some("2023-11-14T22:13:20.5Z")),
            ("10m", Some("2024-05-06T06:58:09Z")),
            ("1h30m", Some("2024-05-06T05:38:09Z")),
            ("yesterday", None),
            ("", None),
        ] {
            let found = moment("--since", text, now).ok().map(|time| time.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }
}
