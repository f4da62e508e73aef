//! `logs`: of one container or of all of a stack.

use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;

use super::args::Logs;
use super::failure::Failure;
use crate::reconcile::resource::label;
use crate::runtime::container::logs::{self, Line, Select};
use crate::runtime::container::{self, Error};
use crate::runtime::roots::Roots;

pub fn logs(roots: &Roots, arguments: &Logs) -> Result<ExitCode, Failure> {
    let select = Select {
        since: arguments.since.as_deref().map(|text| time("--since", text)).transpose()?,
        until: arguments.until.as_deref().map(|text| time("--until", text)).transpose()?,
        tail: tail(&arguments.tail)?,
        follow: arguments.follow,
    };
    let names = names(roots, &arguments.names)?;
    let width = if names.len() > 1 { names.iter().map(String::len).max() } else { None };
    let readers: Vec<_> = names
        .into_iter()
        .map(|name| {
            let (roots, select, timestamps) = (roots.clone(), select.clone(), arguments.timestamps);
            let prefix = width.map(|width| format!("{name:width$} | "));
            thread::spawn(move || {
                logs::read(&roots, &name, &select, &mut |line| write(line, prefix.as_deref(), timestamps).is_ok())
            })
        })
        .collect();
    for reader in readers {
        reader.join().map_err(|_| Failure::new("a reader of logs failed"))??;
    }
    Ok(ExitCode::SUCCESS)
}

/// A line to where the container wrote it: standard output or error.
pub fn write(line: &Line, prefix: Option<&str>, timestamps: bool) -> io::Result<()> {
    let time = if timestamps { format!("{} ", line.time) } else { String::new() };
    let end = if prefix.is_some() && !line.log.ends_with('\n') { "\n" } else { "" };
    let text = format!("{}{time}{}{end}", prefix.unwrap_or(""), line.log);
    if line.stream == "stderr" {
        io::stderr().write_all(text.as_bytes())
    } else {
        io::stdout().write_all(text.as_bytes())
    }
}

/// Containers by name; a stack's name stands for all of its containers.
fn names(roots: &Roots, wanted: &[String]) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for name in wanted {
        match container::get(roots, name) {
            Ok(found) => names.push(found.config.name),
            Err(Error::NotFound(_)) => {
                let all = container::list(roots)?;
                let of_stack = all.into_iter().filter(|one| one.config.labels.get(label::STACK) == Some(name));
                let found: Vec<String> = of_stack.map(|one| one.config.name).collect();
                if found.is_empty() {
                    return Err(Error::NotFound(name.clone()).into());
                }
                names.extend(found);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(names)
}

fn tail(text: &str) -> Result<Option<usize>, Failure> {
    if text == "all" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Failure::new(format!("--tail {text:?}: expected a number of lines, or all")))
}

/// RFC 3339, seconds since 1970, or an age such as `10m`; as the logs' own form of time.
fn time(flag: &str, text: &str) -> Result<String, Failure> {
    let wrong =
        || Failure::new(format!("{flag} {text:?}: expected RFC 3339, seconds since 1970, or an age such as 10m"));
    let timestamp = if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        timestamp
    } else if let Ok(seconds) = text.parse::<i64>() {
        jiff::Timestamp::from_second(seconds).map_err(|_| wrong())?
    } else if let Ok(date) = text.parse::<jiff::civil::Date>() {
        date.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| wrong())?.timestamp()
    } else {
        let span: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
        jiff::Timestamp::now().checked_sub(span).map_err(|_| wrong())?
    };
    Ok(format!("{timestamp:.9}"))
}
