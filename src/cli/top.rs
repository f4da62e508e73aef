//! `top`: the processes of a container, with the columns that ps(1) has and docker's users ask for by its options. No ps
//! is run: what it would tell is read from the kernel.

use std::process::ExitCode;

use jiff::tz::TimeZone;
use serde_json::json;

use super::args::Top;
use super::failure::Failure;
use super::format::{Column as Named, Format, Listing, Row};
use super::names::{self, Here};
use super::view::{self, Table};
use crate::runtime::container;
use crate::runtime::roots::Roots;

/// The kernel's clock ticks in a second, on all of its platforms that this program is for.
const TICKS: u64 = 100;
const KNOWN: &str = "understood are -ef, aux and -o with columns, as ps(1) has them";

/// What is known of one process. One that has just ended has nothing but its number.
#[derive(Debug, Default)]
struct Process {
    pid: i32,
    uid: u32,
    comm: String,
    args: String,
    /// The fields of /proc/PID/stat behind the name, the state first; see proc_pid_stat(5), from field 3 on.
    stat: Vec<String>,
    /// Seconds since the boot, and when that was in seconds since 1970.
    uptime: u64,
    booted: i64,
    /// Bytes of all memory.
    memory: u64,
}

/// A column as ps(1) has it.
struct Column {
    /// What `-o` calls it.
    words: &'static [&'static str],
    heading: &'static str,
    of: fn(&Process) -> String,
}

const COLUMNS: &[Column] = &[
    Column { words: &["pid"], heading: "PID", of: |one| one.pid.to_string() },
    Column { words: &["ppid"], heading: "PPID", of: |one| one.number(1).to_string() },
    Column { words: &["pgid", "pgrp"], heading: "PGID", of: |one| one.number(2).to_string() },
    Column { words: &["sid", "sess", "session"], heading: "SID", of: |one| one.number(3).to_string() },
    Column { words: &["user", "euser", "uname"], heading: "USER", of: Process::user },
    Column { words: &["uid", "euid"], heading: "UID", of: |one| one.uid.to_string() },
    Column { words: &["c"], heading: "C", of: |one| (one.permille() / 10).to_string() },
    Column { words: &["pcpu", "%cpu"], heading: "%CPU", of: |one| tenths(one.permille()) },
    Column { words: &["pmem", "%mem"], heading: "%MEM", of: |one| tenths(one.resident() * 1000 / one.memory.max(1)) },
    Column { words: &["vsz", "vsize"], heading: "VSZ", of: |one| (one.number(20) / 1024).to_string() },
    Column { words: &["rss", "rssize", "rsz"], heading: "RSS", of: |one| (one.resident() / 1024).to_string() },
    Column { words: &["tty", "tt", "tname"], heading: "TTY", of: Process::terminal },
    Column { words: &["stat", "state", "s"], heading: "STAT", of: |one| one.field(0).to_owned() },
    Column { words: &["nlwp", "thcount"], heading: "NLWP", of: |one| one.number(17).to_string() },
    Column { words: &["ni", "nice"], heading: "NI", of: |one| one.field(16).to_owned() },
    Column { words: &["stime", "start"], heading: "STIME", of: Process::begun },
    Column { words: &["time", "cputime"], heading: "TIME", of: |one| clock(one.worked() / TICKS, true) },
    Column { words: &["etime"], heading: "ELAPSED", of: |one| clock(one.age(), false) },
    Column { words: &["etimes"], heading: "ELAPSED", of: |one| one.age().to_string() },
    Column { words: &["comm", "ucmd", "ucomm"], heading: "COMMAND", of: |one| one.comm.clone() },
    Column { words: &["args", "cmd", "command"], heading: "COMMAND", of: Process::command },
];

/// `ps -ef`, as docker shows it where nothing is asked for.
const FULL: &str = "user=UID,pid,ppid,c,stime,tty,time,cmd=CMD";
/// `ps aux`.
const BSD: &str = "user,pid,%cpu,%mem,vsz,rss,tty,stat,start=START,time,command";

const PROCESS: &[Named] = &[("PID", "PID"), ("PPID", "PPID"), ("UID", "UID"), ("Time", "TIME"), ("Command", "COMMAND")];

pub fn top(roots: &Roots, here: &Here, arguments: &Top) -> Result<ExitCode, Failure> {
    let (format, options) = format(arguments)?;
    let columns = columns(options)?;
    let found = names::one_or_service(roots, here, &arguments.name)?;
    if !found.is_running() {
        return Err(container::Error::NotRunning(found.config.name).into());
    }
    let processes = container::processes(roots, &found.config.name)?.into_iter().map(Process::read);
    if matches!(format, Format::Table) {
        let mut table = Table::new(&columns.iter().map(|(heading, _)| heading.as_str()).collect::<Vec<_>>());
        processes.for_each(|one| table.row(columns.iter().map(|(_, column)| (column.of)(&one))));
        view::out(&table.render())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut listing = Listing::new(PROCESS, &["PID", "PPID", "UID", "Time", "Command"]);
    processes.for_each(|one| listing.push(one.row()));
    listing.print(&format)?;
    Ok(ExitCode::SUCCESS)
}

/// All that follows the container is ps(1)'s, but for our own `--format json` and templates.
fn format(arguments: &Top) -> Result<(Format, &[String]), Failure> {
    let own = |text: &str| matches!(text, "json" | "table") || text.contains("{{");
    match arguments.options.as_slice() {
        [flag, text] if flag == "--format" && own(text) => Ok((text.parse().map_err(Failure::new)?, &[])),
        [both] if both.strip_prefix("--format=").is_some_and(own) => {
            let text = both.trim_start_matches("--format=");
            Ok((text.parse().map_err(Failure::new)?, &[]))
        }
        options => Ok((arguments.format.format.clone(), options)),
    }
}

/// The columns that these options of ps(1) stand for, each with its heading.
fn columns(options: &[String]) -> Result<Vec<(String, &'static Column)>, Failure> {
    let mut lists = Vec::new();
    let mut words = options.iter();
    while let Some(word) = words.next() {
        let letters = word.trim_start_matches('-');
        match (word.strip_prefix("--format"), letters.split_once('o')) {
            (Some(rest), _) => lists.push(value(rest.trim_start_matches('='), &mut words)?),
            // `-o LIST`, `-eo LIST`, `-opid`.
            (None, Some((flags, list))) if flags.chars().all(|c| "eAax".contains(c)) => {
                lists.push(value(list, &mut words)?);
            }
            _ if !letters.is_empty() && letters.chars().all(|c| "eAfaxuw".contains(c)) => {
                let bsd = letters.contains('u') && !word.starts_with('-');
                lists.push(if bsd { BSD.to_owned() } else { FULL.to_owned() });
            }
            _ => return Err(Failure::new(format!("top {word:?}: no such option\n  help: {KNOWN}"))),
        }
    }
    if lists.is_empty() {
        lists.push(FULL.to_owned());
    }
    lists.iter().flat_map(|list| list.split(',')).map(column).collect()
}

fn value<'a>(text: &str, more: &mut impl Iterator<Item = &'a String>) -> Result<String, Failure> {
    let own = Some(text.to_owned()).filter(|text| !text.is_empty());
    own.or_else(|| more.next().cloned()).ok_or_else(|| Failure::new(format!("top -o: no columns\n  help: {KNOWN}")))
}

/// `pid`, or `pid=NUMBER` for another heading.
fn column(text: &str) -> Result<(String, &'static Column), Failure> {
    let (word, heading) = text.trim().split_once('=').map_or((text.trim(), None), |(word, own)| (word, Some(own)));
    let found = COLUMNS.iter().find(|column| column.words.contains(&word));
    let found = found.ok_or_else(|| {
        let known = COLUMNS.iter().filter_map(|column| column.words.first());
        let known = known.copied().collect::<Vec<_>>().join(", ");
        Failure::new(format!("top -o {word}: no such column\n  help: there are {known}"))
    })?;
    Ok((heading.unwrap_or(found.heading).to_owned(), found))
}

impl Process {
    fn read(pid: i32) -> Self {
        let text = |path: String| std::fs::read_to_string(path).unwrap_or_default();
        let stat = text(format!("/proc/{pid}/stat"));
        let name = stat.find('(').zip(stat.rfind(')'));
        let (comm, rest) = name.map_or(("", ""), |(from, to)| (&stat[from + 1..to], &stat[to + 1..]));
        let status = text(format!("/proc/{pid}/status"));
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let boot = text("/proc/stat".to_owned());
        let booted = boot.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|text| text.parse().ok());
        let memory = text("/proc/meminfo".to_owned());
        let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let first = |text: &str| text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        let uptime = text("/proc/uptime".to_owned());
        Self {
            pid,
            // The effective one.
            uid: uid.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or_default(),
            comm: comm.to_owned(),
            args: text(format!("/proc/{pid}/cmdline")).trim_end_matches('\0').replace('\0', " "),
            stat: rest.split_whitespace().map(str::to_owned).collect(),
            uptime: uptime.split('.').next().and_then(first).unwrap_or_default(),
            booted: booted.unwrap_or_default(),
            memory: memory.and_then(first).unwrap_or_default() << 10,
        }
    }

    fn field(&self, index: usize) -> &str {
        self.stat.get(index).map_or("", String::as_str)
    }

    fn number(&self, index: usize) -> u64 {
        self.field(index).parse().unwrap_or_default()
    }

    /// Ticks that it has had of the processors.
    fn worked(&self) -> u64 {
        self.number(11) + self.number(12)
    }

    /// Seconds since its start.
    fn age(&self) -> u64 {
        self.uptime.saturating_sub(self.number(19) / TICKS)
    }

    /// Of its time, how much it had of one processor.
    fn permille(&self) -> u64 {
        self.worked() * 1000 / TICKS / self.age().max(1)
    }

    fn resident(&self) -> u64 {
        self.number(21) * 4096
    }

    /// By the name that this host has for it, if it has one; the container may have another.
    fn user(&self) -> String {
        let found = nix::unistd::User::from_uid(self.uid.into()).ok().flatten();
        found.map_or_else(|| self.uid.to_string(), |user| user.name)
    }

    /// As the host numbers it.
    fn terminal(&self) -> String {
        let device = self.number(4);
        let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
        match major {
            0 => "?".to_owned(),
            136..144 => format!("pts/{}", minor + (major - 136) * 256),
            4 => format!("tty{minor}"),
            _ => format!("{major}:{minor}"),
        }
    }

    /// The time of its first day, then the day.
    fn begun(&self) -> String {
        let seconds = self.booted + (self.number(19) / TICKS) as i64;
        let Ok(begun) = jiff::Timestamp::from_second(seconds) else { return String::new() };
        let form = if self.age() < 86_400 { "%H:%M" } else { "%b%d" };
        begun.to_zoned(TimeZone::system()).strftime(form).to_string()
    }

    /// A process of the kernel, or one that is ending, has no arguments.
    fn command(&self) -> String {
        if self.args.is_empty() { format!("[{}]", self.comm) } else { self.args.clone() }
    }

    fn row(&self) -> Row {
        let value = json!({"pid": self.pid, "ppid": self.number(1), "uid": self.uid, "cpu_ms": self.worked() * 10,
                           "command": self.command()});
        let cells = [
            ("PID", self.pid.to_string()),
            ("PPID", self.number(1).to_string()),
            ("UID", self.uid.to_string()),
            ("Time", clock(self.worked() / TICKS, true)),
            ("Command", self.command()),
        ];
        Row::new(cells, value)
    }
}

/// `1.5` for 15.
fn tenths(amount: u64) -> String {
    format!("{}.{}", amount / 10, amount % 10)
}

/// `[DAYS-]HH:MM:SS`; the hours only where they are wanted, or there are some.
fn clock(seconds: u64, hours: bool) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let minutes = format!("{:02}:{:02}", rest / 60 % 60, rest % 60);
    match (days, rest / 3600) {
        (0, 0) if !hours => minutes,
        (0, hours) => format!("{hours:02}:{minutes}"),
        (days, hours) => format!("{days}-{hours:02}:{minutes}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headings(options: &[&str]) -> Result<String, String> {
        let options: Vec<String> = options.iter().map(|text| (*text).to_owned()).collect();
        let found = columns(&options).map_err(|failure| failure.to_string())?;
        Ok(found.into_iter().map(|(heading, _)| heading).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn options_are_pss() {
        let full = "UID PID PPID C STIME TTY TIME CMD";
        for (options, expected) in [
            (vec![], full),
            (vec!["-ef"], full),
            (vec!["aux"], "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
            (vec!["-o", "pid,comm"], "PID COMMAND"),
            (vec!["-opid", "-o", "rss=MEMORY"], "PID MEMORY"),
            (vec!["-eo", "pid,args"], "PID COMMAND"),
            (vec!["axo", "user,etime"], "USER ELAPSED"),
        ] {
            assert_eq!(headings(&options).as_deref(), Ok(expected), "{options:?}");
        }
        for (options, part) in
            [(vec!["-L"], "no such option"), (vec!["-o"], "no columns"), (vec!["-o", "x"], "there are pid")]
        {
            let error = headings(&options).unwrap_err();
            assert!(error.contains(part), "{options:?}: {error}");
        }
    }

    #[test]
    fn a_process_is_read_as_the_kernel_tells_it() {
        let own = Process::read(std::process::id() as i32);
        assert_eq!(own.number(1), u64::from(std::os::unix::process::parent_id()));
        assert!(own.resident() > 0 && own.age() < 86_400 && own.command().contains(&own.comm[..5]));
        for (seconds, expected) in [(59, "00:59"), (3600, "01:00:00"), (90_061, "1-01:01:01")] {
            assert_eq!(clock(seconds, false), expected);
        }
    }
}
