//! What is printed: states, lists, processes, figures, and what this program can do.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::args::Shape;
use super::{Done, Failure, print};
use crate::runtime::bundle::{self, Room, State};
use crate::runtime::init;

pub fn state(room: &Room, id: &str) -> Done {
    let state = room.get(id)?;
    super::print_lines(&[serde_json::to_string_pretty(&Described::of(room, &state))?])
}

/// The specification's words, and runc's beside them, in runc's order: there are scripts that read them as text.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Described<'a> {
    oci_version: &'static str,
    id: &'a str,
    pid: i32,
    status: String,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    annotations: &'a BTreeMap<String, String>,
    owner: &'static str,
}

impl<'a> Described<'a> {
    fn of(room: &Room, state: &'a State) -> Self {
        let status = room.status(state);
        Self {
            oci_version: bundle::VERSION,
            id: &state.id,
            pid: state.pid(status),
            status: status.to_string(),
            bundle: &state.bundle,
            rootfs: &state.rootfs,
            created: &state.created,
            annotations: &state.annotations,
            owner: "",
        }
    }
}

pub fn list(room: &Room, shape: Shape, quiet: bool) -> Done {
    let states = room.list()?;
    let all: Vec<Described<'_>> = states.iter().map(|state| Described::of(room, state)).collect();
    if quiet {
        let ids: Vec<&str> = all.iter().map(|one| one.id).collect();
        return super::print_lines(&ids);
    }
    if shape == Shape::Json {
        return super::print_lines(&[serde_json::to_string(&all)?]);
    }
    let mut lines = vec![format!("{:<24} {:>8} {:<8} {:<40} CREATED", "ID", "PID", "STATUS", "BUNDLE")];
    lines.extend(all.iter().map(|one| {
        format!("{:<24} {:>8} {:<8} {:<40} {}", one.id, one.pid, one.status, one.bundle.display(), one.created)
    }));
    super::print_lines(&lines)
}

pub fn processes(room: &Room, id: &str, shape: Shape) -> Done {
    let all = room.processes(id)?;
    if shape == Shape::Json {
        return super::print_lines(&[json!(all)]);
    }
    let mut lines = vec![format!("{:>8} {:>8} {:>8} CMD", "UID", "PID", "PPID")];
    lines.extend(all.iter().map(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|rest| rest.split_whitespace().next()).unwrap_or("?").to_owned()
        };
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).trim_end_matches('\0').replace('\0', " ");
        format!("{:>8} {pid:>8} {:>8} {words}", field("Uid"), field("PPid"))
    }));
    super::print_lines(&lines)
}

/// A line now, and one every interval and for each process that the kernel killed, until the container has ended.
pub fn events(room: &Room, id: &str, once: bool, interval: &str) -> Done {
    if once {
        return super::print_lines(&[room.statistics(id)?]);
    }
    // Whoever reads has read enough where it can't be written.
    room.follow(id, duration(interval)?, |event| writeln!(std::io::stdout(), "{event}").is_ok())?;
    Ok(ExitCode::SUCCESS)
}

/// As Go has them: `5s`, `1m30s`, `500ms`; plain numbers are seconds.
fn duration(text: &str) -> Result<Duration, Failure> {
    const UNITS: [(&str, f64); 6] = [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let wrong = || Failure::from(format!("--interval {text:?}: seconds, or a duration such as 500ms or 1m30s"));
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit = UNITS.iter().find(|(unit, _)| rest[end..].starts_with(unit));
        let (unit, length) = unit.copied().or((rest.len() == end).then_some(("", 1.0))).ok_or_else(wrong)?;
        seconds += number * length;
        rest = &rest[end + unit.len()..];
    }
    { Duration::try_from_secs_f64(seconds).ok() }.filter(|time| !time.is_zero()).ok_or_else(wrong)
}

pub fn features() -> Done {
    print(&json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": bundle::VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": init::MOUNT_OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": init::spec::ALL_CAPABILITIES.as_slice(),
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                            "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"],
                "operators": ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                              "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"],
                "archs": ["SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
                "knownFlags": FLAGS,
                "supportedFlags": FLAGS,
            },
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}},
        },
    }))
}

const FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_written_as_in_go() {
        let of = |text: &str| duration(text).map(|time| time.as_millis()).ok();
        assert_eq!(["5", "5s", "500ms", "1m30s", "1.5s"].map(of), [5000, 5000, 500, 90_000, 1500].map(Some));
        assert_eq!(["", "0", "s", "5x", "-1s", "1s2"].map(of), [None, None, None, None, None, Some(3000)]);
    }
}
