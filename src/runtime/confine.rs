//! What is left to those parts of the engine that read what strangers wrote: landlock(7) keeps them from files, where the
//! kernel has it, and a system call filter from calls that they do not need. Both hold for one thread and what it starts,
//! for good. What is open stays open.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::prctl;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::seccomp::{self, Helper};
use super::sys;

/// The least version that lets files of one directory be linked in another (Linux 5.19).
pub const LEAST_LANDLOCK: u32 = 2;

/// For a thread that computes on what is open.
///
/// # Errors
/// What the kernel says; the thread must not go on then.
pub fn to_what_is_open() -> io::Result<()> {
    confine(&[], Network::None, Helper::Computes)
}

/// For a thread that makes files below this directory, which it may do as it likes.
///
/// # Errors
/// As [`to_what_is_open`].
pub fn to_files_below(directory: &Path) -> io::Result<()> {
    confine(&[(directory, Access::All)], Network::None, Helper::MakesFiles)
}

/// For a process that asks somebody over the network.
///
/// # Errors
/// As [`to_what_is_open`].
pub fn to_asking() -> io::Result<()> {
    confine(&[], Network::Asks, Helper::Asks)
}

/// For a process that serves others over the network, with threads, in several network namespaces.
///
/// # Errors
/// As [`to_what_is_open`], and where one of the places is not there.
pub fn to_serving(places: &[(&Path, Access)]) -> io::Result<()> {
    confine(places, Network::Serves, Helper::Serves)
}

/// What may be done below a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    All,
    /// Files are read.
    ReadFiles,
    /// And directories listed.
    Read,
    /// And files written that are there.
    Write,
    /// And files made and removed.
    Change,
}

impl Access {
    /// Bits of linux/landlock.h.
    fn bits(self) -> u64 {
        const WRITE_FILE: u64 = 1 << 1;
        const READ_FILE: u64 = 1 << 2;
        const READ_DIR: u64 = 1 << 3;
        const REMOVE_FILE: u64 = 1 << 5;
        const MAKE_REG: u64 = 1 << 8;
        const TRUNCATE: u64 = 1 << 14;
        match self {
            Self::All => u64::MAX,
            Self::ReadFiles => READ_FILE,
            Self::Read => READ_FILE | READ_DIR,
            Self::Write => READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE,
            Self::Change => READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | MAKE_REG | REMOVE_FILE,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Network {
    None,
    Asks,
    Serves,
}

fn confine(places: &[(&Path, Access)], network: Network, helper: Helper) -> io::Result<()> {
    prctl::set_no_new_privs()?;
    keep_from_files(sys::landlock_version(), places, network)?;
    seccomp::install(&seccomp::of_helper(helper))
}

/// Attributes of a set of rules, as many as the version knows (linux/landlock.h): what is refused unless a rule allows it.
fn attributes(version: u32, network: Network) -> Vec<u64> {
    const BIND: u64 = 1;
    const CONNECT: u64 = 1 << 1;
    const ABSTRACT_SOCKETS: u64 = 1;
    let ports = match network {
        Network::None => BIND | CONNECT,
        Network::Asks => BIND,
        Network::Serves => 0,
    };
    match version {
        0..4 => vec![to_files(version)],
        4..6 => vec![to_files(version), ports],
        6.. => vec![to_files(version), ports, ABSTRACT_SOCKETS],
    }
}

/// All accesses to files that the version knows: from the first bit on, more with each.
fn to_files(version: u32) -> u64 {
    let known = match version {
        0..=1 => 13,
        2 => 14,
        3..=4 => 15,
        5.. => 16,
    };
    (1 << known) - 1
}

fn keep_from_files(version: u32, places: &[(&Path, Access)], network: Network) -> io::Result<()> {
    if version < LEAST_LANDLOCK {
        return Ok(());
    }
    let rules = sys::landlock_rules(&attributes(version, network))?;
    for (place, access) in places {
        let directory = File::open(place)?;
        sys::landlock_allow_below(rules.as_fd(), directory.as_fd(), access.bits() & to_files(version))?;
        if fstatfs(&directory)?.filesystem_type() == PROC_SUPER_MAGIC {
            // A directory of procfs that nobody holds is made anew when it is next looked up, and would not be this one.
            std::mem::forget(directory);
        }
    }
    sys::landlock_restrict_self(rules.as_fd())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    /// In a thread of its own, which is confined first.
    fn confined<T: Send + 'static>(
        confine: impl FnOnce() -> io::Result<()> + Send + 'static,
        action: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let thread = std::thread::spawn(move || {
            confine().unwrap();
            action()
        });
        thread.join().unwrap()
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("stack-confined-{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join("in/deep")).unwrap();
        fs::create_dir_all(folder.join("out")).unwrap();
        folder
    }

    fn is_refused<T>(result: io::Result<T>) -> bool {
        matches!(result.err().and_then(|error| error.raw_os_error()), Some(libc::EACCES | libc::EPERM))
    }

    fn programs_and_sockets_are_refused(port: u16) -> bool {
        is_refused(Command::new("/bin/true").spawn())
            && is_refused(TcpStream::connect((Ipv4Addr::LOCALHOST, port)))
            && is_refused(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            && is_refused(std::thread::Builder::new().spawn(|| ()))
    }

    #[test]
    fn who_makes_files_makes_them_below_its_directory_alone() {
        let (folder, port) = (folder("files"), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let port = port.local_addr().unwrap().port();
        let (place, inside) = (folder.join("in"), folder.clone());
        let found = confined(
            move || to_files_below(&place),
            move || {
                let (within, without) = (inside.join("in"), inside.join("out"));
                fs::write(within.join("a"), "x").unwrap();
                fs::hard_link(within.join("a"), within.join("deep/b")).unwrap();
                fs::rename(within.join("deep/b"), within.join("c")).unwrap();
                let refused = [
                    is_refused(fs::write(without.join("a"), "x")),
                    is_refused(fs::hard_link(within.join("a"), without.join("a"))),
                    is_refused(File::open("/etc/shadow")),
                    is_refused(fs::create_dir("/tmp/stack-confined")),
                ];
                (refused, programs_and_sockets_are_refused(port))
            },
        );
        if sys::landlock_version() < LEAST_LANDLOCK {
            eprintln!("this kernel has no landlock: programs and sockets are refused all the same");
        } else {
            assert_eq!(found.0, [true; 4]);
        }
        assert!(found.1);
        assert!(!folder.join("out/a").exists() && folder.join("in/c").exists());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn who_computes_and_who_asks_open_nothing() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let opens = || is_refused(File::open("/etc/hostname")) && is_refused(fs::create_dir("/tmp/stack-confined"));
        assert_eq!(confined(to_what_is_open, move || (opens(), programs_and_sockets_are_refused(port))), (true, true));
        let asks = move || {
            let asked = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
            (opens(), asked, is_refused(Command::new("/bin/true").spawn()))
        };
        assert_eq!(confined(to_asking, asks), (true, true, true));
    }

    #[test]
    fn who_serves_changes_what_is_its_own_and_starts_nothing() {
        let folder = folder("serves");
        let place = folder.clone();
        let places =
            move || to_serving(&[(&place.join("in"), Access::Change), (&place.join("out"), Access::ReadFiles)]);
        fs::write(folder.join("out/a"), "x").unwrap();
        let inside = folder.clone();
        let found = confined(places, move || {
            let (own, other) = (inside.join("in"), inside.join("out"));
            fs::write(own.join("a"), "x").unwrap();
            fs::rename(own.join("a"), own.join("b")).unwrap();
            assert_eq!(fs::read_to_string(other.join("a")).unwrap(), "x");
            let thread = std::thread::Builder::new().spawn(|| is_refused(File::open("/etc/passwd")));
            let network = nix::sched::setns(
                File::open("/proc/self/ns/net").unwrap_or_else(|_| File::open(own.join("b")).unwrap()),
                nix::sched::CloneFlags::CLONE_NEWUTS,
            );
            let calls = [
                is_refused(Command::new("/bin/true").spawn()),
                is_refused(network.map_err(io::Error::from)),
                is_refused(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).map_err(io::Error::from)),
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).is_err(),
            ];
            let files = [thread.unwrap().join().unwrap(), is_refused(fs::write(other.join("a"), "y"))];
            (calls, files)
        });
        assert_eq!(found.0, [true, true, true, false]);
        if sys::landlock_version() >= LEAST_LANDLOCK {
            assert_eq!(found.1, [true, true]);
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn each_version_is_told_what_it_knows() {
        let of = |version| attributes(version, Network::None);
        assert_eq!((of(2), of(3)), (vec![0x3fff], vec![0x7fff]));
        assert_eq!((of(4), of(5)), (vec![0x7fff, 3], vec![0xffff, 3]));
        assert_eq!((of(6), attributes(9, Network::Asks)), (vec![0xffff, 3, 1], vec![0xffff, 1, 1]));
    }
}
