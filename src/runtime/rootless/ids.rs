//! Which ids an ordinary user's namespace has: the user is 0, and what `/etc/subuid` and `/etc/subgid` give to the user
//! follows, mapped by newuidmap(1) and newgidmap(1), which are set-uid root and check that it is so (subuid(5)).

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{User, getegid, geteuid};

use super::super::userns::IdRange;

/// The two programs and the user's ranges, where all are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    uid_mapper: PathBuf,
    gid_mapper: PathBuf,
    uids: Vec<IdRange>,
    gids: Vec<IdRange>,
}

impl Given {
    /// How many ids of users there are beside the user's own.
    pub fn count(&self) -> u64 {
        self.uids.iter().map(|range| u64::from(range.size)).sum()
    }
}

/// Why there is only one id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// `/etc/passwd` does not know the user.
    Name,
    /// newuidmap or newgidmap.
    Program(&'static str),
    /// No line for the user in this file.
    Range(&'static str),
}

/// What the host gives to the user that this process is.
///
/// # Errors
/// What is lacking; a single id can always be had.
pub fn given(search: &OsStr) -> Result<Given, Lack> {
    let mapper = |name: &'static str| find(search, name).ok_or(Lack::Program(name));
    let (uid_mapper, gid_mapper) = (mapper("newuidmap")?, mapper("newgidmap")?);
    let user = geteuid();
    // The programs serve nobody without a name.
    let name = User::from_uid(user).ok().flatten().map(|user| user.name).ok_or(Lack::Name)?;
    let of = |path: &'static str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let ranges = ranges(&text, &name, user.as_raw());
        if ranges.is_empty() { Err(Lack::Range(path)) } else { Ok(ranges) }
    };
    Ok(Given { uid_mapper, gid_mapper, uids: of("/etc/subuid")?, gids: of("/etc/subgid")? })
}

/// The program of this name in one of the directories.
pub fn find(search: &OsStr, name: &str) -> Option<PathBuf> {
    let places = std::env::split_paths(search).filter(|place| place.is_absolute());
    places.map(|place| place.join(name)).find(|path| path.is_file())
}

/// The lines of a user, who is named or numbered there.
fn ranges(text: &str, name: &str, id: u32) -> Vec<IdRange> {
    let line = |line: &str| {
        let mut fields = line.trim().split(':');
        let who = fields.next()?;
        let is_meant = who == name || who.parse() == Ok(id);
        let range = IdRange { first: fields.next()?.parse().ok()?, size: fields.next()?.parse().ok()? };
        (is_meant && range.size > 0).then_some(range)
    };
    text.lines().filter_map(line).collect()
}

/// Inside, outside, how many: as newuidmap(1) takes them and uid_map shows them.
fn mapping(own: u32, more: &[IdRange]) -> Vec<[u32; 3]> {
    let mut next = 1;
    let mut lines = vec![[0, own, 1]];
    for range in more {
        lines.push([next, range.first, range.size]);
        next = next.saturating_add(range.size);
    }
    lines
}

/// Gives the ids to the user namespace of that process, which waits.
///
/// # Errors
/// What the programs or the kernel say.
pub fn give(pid: i32, given: Option<&Given>) -> Result<(), String> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    match given {
        Some(given) => {
            run(&given.uid_mapper, pid, &mapping(uid, &given.uids))?;
            run(&given.gid_mapper, pid, &mapping(gid, &given.gids))
        }
        None => {
            // Or leaving a group that is kept from something would be a way to it (user_namespaces(7)).
            let lines = [
                ("setgroups", "deny".to_owned()),
                ("uid_map", format!("0 {uid} 1\n")),
                ("gid_map", format!("0 {gid} 1\n")),
            ];
            lines.iter().try_for_each(|(file, text)| {
                let path = format!("/proc/{pid}/{file}");
                fs::write(&path, text).map_err(|error| format!("{path}: {error}"))
            })
        }
    }
}

fn run(program: &Path, pid: i32, lines: &[[u32; 3]]) -> Result<(), String> {
    let numbers = lines.iter().flatten().map(u32::to_string);
    let mut command = Command::new(program);
    command.arg(pid.to_string()).args(numbers).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("{}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_ranges_follow_each_other() {
        let text = "ann:100000:65536\n# bob:1:2\n1000:300000:10\nbob:200000:5\nann:x:1\n";
        let found = ranges(text, "ann", 1000);
        assert_eq!(found, [IdRange { first: 100_000, size: 65_536 }, IdRange { first: 300_000, size: 10 }]);
        assert_eq!(mapping(1000, &found), [[0, 1000, 1], [1, 100_000, 65_536], [65_537, 300_000, 10]]);
        assert_eq!(ranges(text, "joe", 7), []);
    }
}
