//! Options of a mount in mount(8)'s words, as a specification has them: pure.

pub const READ_ONLY: u64 = 0x1;
pub const NO_SUID: u64 = 0x2;
pub const NO_DEV: u64 = 0x4;
pub const NO_EXEC: u64 = 0x8;
/// `MOUNT_ATTR__ATIME`: who changes one of these lifts the others.
const ACCESS_TIME: u64 = 0x70;
const NO_ACCESS_TIME: u64 = 0x10;
const STRICT_ACCESS_TIME: u64 = 0x20;
const NO_DIRECTORY_ACCESS_TIME: u64 = 0x80;
const NO_LINKS: u64 = 0x20_0000;

/// All words that are not the file system's own.
pub const WORDS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// Bits to set and to lift.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub set: u64,
    pub clear: u64,
}

impl Change {
    /// Later words win over earlier ones.
    fn and(&mut self, set: u64, clear: u64) {
        self.set = self.set & !clear | set;
        self.clear |= clear;
    }

    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// What all options of one mount mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options<'a> {
    /// The mount at something that is there already, and whether those below it come with it.
    pub bind: Option<Below>,
    /// Of this mount.
    pub own: Change,
    /// Of this one and all below it.
    pub all: Change,
    /// `MS_*`, and whether it is for those below, too.
    pub propagation: Vec<(u64, bool)>,
    /// The mount shows its files with other ids than they have, and so do those below it.
    pub ids: Option<Below>,
    /// What is mounted there is changed, and nothing is mounted.
    pub remount: bool,
    /// The file system begins with a copy of what it covers.
    pub copy_up: bool,
    /// The file system's own.
    pub data: Vec<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    With,
    Without,
}

/// # Errors
/// A word that this program knows and can't do.
pub fn parse<'a>(words: &[&'a str]) -> Result<Options<'a>, String> {
    let mut options = Options::default();
    for word in words {
        match *word {
            "bind" => options.bind = options.bind.or(Some(Below::Without)),
            "rbind" => options.bind = Some(Below::With),
            "tmpcopyup" => options.copy_up = true,
            "defaults" | "silent" | "loud" => {}
            "idmap" => options.ids = options.ids.or(Some(Below::Without)),
            "ridmap" => options.ids = Some(Below::With),
            "remount" => options.remount = true,
            "mand" => return Err("option \"mand\" is not supported: the kernel has no mandatory locks".to_owned()),
            word => match (propagation(word), attribute(word), of_super_block(word)) {
                (Some(kind), ..) => options.propagation.push(kind),
                (_, Some((set, clear)), _) => options.own.and(set, clear),
                (_, _, Some(own)) => options.data.extend(own),
                _ => match word.strip_prefix('r').and_then(attribute) {
                    Some((set, clear)) => options.all.and(set, clear),
                    None => options.data.push(word),
                },
            },
        }
    }
    Ok(options)
}

fn propagation(word: &str) -> Option<(u64, bool)> {
    let kind = |word: &str| match word {
        "private" => Some(libc::MS_PRIVATE),
        "shared" => Some(libc::MS_SHARED),
        "slave" => Some(libc::MS_SLAVE),
        "unbindable" => Some(libc::MS_UNBINDABLE),
        _ => None,
    };
    match kind(word) {
        Some(found) => Some((found, false)),
        None => Some((kind(word.strip_prefix('r')?)?, true)),
    }
}

/// What it sets, and what it lifts.
fn attribute(word: &str) -> Option<(u64, u64)> {
    let times = |set| (set, ACCESS_TIME);
    Some(match word {
        "ro" => (READ_ONLY, 0),
        "rw" => (0, READ_ONLY),
        "nosuid" => (NO_SUID, 0),
        "suid" => (0, NO_SUID),
        "nodev" => (NO_DEV, 0),
        "dev" => (0, NO_DEV),
        "noexec" => (NO_EXEC, 0),
        "exec" => (0, NO_EXEC),
        "nosymfollow" => (NO_LINKS, 0),
        "symfollow" => (0, NO_LINKS),
        "nodiratime" => (NO_DIRECTORY_ACCESS_TIME, 0),
        "diratime" => (0, NO_DIRECTORY_ACCESS_TIME),
        "noatime" => times(NO_ACCESS_TIME),
        "strictatime" => times(STRICT_ACCESS_TIME),
        "atime" | "relatime" | "norelatime" | "nostrictatime" => times(0),
        _ => return None,
    })
}

/// Words of mount(8) that are the file system's and have another name or none there (fsconfig(2)).
fn of_super_block(word: &str) -> Option<Option<&'static str>> {
    Some(match word {
        "sync" => Some("sync"),
        "dirsync" => Some("dirsync"),
        "lazytime" => Some("lazytime"),
        "async" | "nolazytime" | "iversion" | "noiversion" | "nomand" => None,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_understood_in_their_order() {
        let all = parse(&["rbind", "rprivate", "ro", "rw", "rro", "noatime", "size=4k", "sync", "async"]).unwrap();
        assert_eq!(all.bind, Some(Below::With));
        assert_eq!(all.propagation, [(libc::MS_PRIVATE, true)]);
        assert_eq!(all.own, Change { set: NO_ACCESS_TIME, clear: READ_ONLY | ACCESS_TIME });
        assert_eq!(all.all, Change { set: READ_ONLY, clear: 0 });
        assert_eq!(all.data, ["size=4k", "sync"]);
        assert_eq!(parse(&["ridmap", "idmap"]).unwrap().ids, Some(Below::With));
        assert!(parse(&["mand"]).unwrap_err().contains("mand"));
        for word in WORDS {
            assert!(
                parse(&[word]).unwrap().data.iter().all(|own| ["sync", "dirsync", "lazytime"].contains(own)),
                "{word}"
            );
        }
    }
}
