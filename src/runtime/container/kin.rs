//! The processes of a container without a control group, as an ordinary user's may be: those of its process namespace,
//! and what descends from its first process.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{ProcessId, Stats};

/// Hundredths of a second, on all kernels of this platform.
const TICK_NS: u64 = 10_000_000;

struct Process {
    pid: i32,
    parent: i32,
    namespace: Option<PathBuf>,
}

/// Those of the container whose first process this is, by rising numbers; none when that has ended.
pub fn of(first: ProcessId) -> Vec<i32> {
    if !first.is_alive() {
        return Vec::new();
    }
    let own = namespace(Path::new("/proc/self"));
    let theirs = namespace(&place(first.pid)).filter(|theirs| Some(theirs) != own.as_ref());
    let all = all();
    let is_inside = |one: &&Process| one.pid == first.pid || (theirs.is_some() && one.namespace == theirs);
    let mut kin: BTreeSet<i32> = all.iter().filter(is_inside).map(|one| one.pid).collect();
    loop {
        let before = kin.len();
        let children = all.iter().filter(|one| kin.contains(&one.parent)).map(|one| one.pid);
        kin.extend(children.collect::<Vec<_>>());
        if kin.len() == before {
            return kin.into_iter().collect();
        }
    }
}

/// What they use, as far as their own figures say.
pub fn stats(first: ProcessId) -> Stats {
    let kin = of(first);
    let sum = |figure: fn(i32) -> u64| kin.iter().map(|pid| figure(*pid)).sum();
    Stats { cpu_ns: sum(cpu_ns), memory_bytes: sum(memory_bytes), processes: kin.len() as u64, ..Stats::default() }
}

fn place(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

fn namespace(process: &Path) -> Option<PathBuf> {
    fs::read_link(process.join("ns/pid")).ok()
}

fn all() -> Vec<Process> {
    let names =
        fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let process = |pid: i32| {
        let parent = fields(pid).get(1)?.parse().ok()?;
        Some(Process { pid, parent, namespace: namespace(&place(pid)) })
    };
    names.filter_map(|name| process(name.parse().ok()?)).collect()
}

/// Of its stat, from the third on (proc_pid_stat(5)): the second is its name in brackets and may hold anything.
fn fields(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(place(pid).join("stat")).unwrap_or_default();
    let rest = text.rfind(')').map_or("", |at| &text[at + 1..]);
    rest.split_whitespace().map(str::to_owned).collect()
}

/// Its own time and that of its children that have ended.
fn cpu_ns(pid: i32) -> u64 {
    let ticks = fields(pid).into_iter().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok());
    ticks.sum::<u64>() * TICK_NS
}

/// Its part of what it shares with others.
fn memory_bytes(pid: i32) -> u64 {
    let text = fs::read_to_string(place(pid).join("smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_descends_from_a_process_is_its_kin() {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "sleep 60 & echo; wait"]).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let first = ProcessId::of(child.id() as i32);
        let kin = of(first);
        assert_eq!((kin.len(), kin.contains(&first.pid)), (2, true));
        assert!(stats(first).memory_bytes > 0);
        for pid in kin {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        child.wait().unwrap();
        assert!(of(first).is_empty());
    }
}
