//! User namespaces with a private range of the host's ids: root inside is nobody outside (user_namespaces(7)).
//!
//! A namespace is made by a process that only waits in it, is given its ids from outside, and is held by a descriptor
//! from then on. What the container writes keeps its own ids on the disk, by id-mapped mounts (mount_setattr(2)).

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use serde::{Deserialize, Serialize};

use super::init::credentials;
use super::{fnv, sys};

pub mod trial;

/// As many ids as images use: 0 to `nobody` and `nogroup`.
pub const SIZE: u32 = 65_536;
/// What is left to containers by the convention of systemd's `docs/UIDS-GIDS.md`: no user of the host is in it.
const FIRST: u32 = 524_288;
const LAST: u32 = 1_879_048_191;

/// Ids of the host: 0 in the namespace is `first` outside, 1 the one after, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    pub first: u32,
    pub size: u32,
}

impl IdRange {
    pub fn overlaps(self, other: Self) -> bool {
        let end = |range: Self| u64::from(range.first) + u64::from(range.size);
        u64::from(self.first) < end(other) && u64::from(other.first) < end(self)
    }

    /// The id of the host that this id inside stands for; `None` outside of the range.
    pub fn outside(self, id: u32) -> Option<u32> {
        (id < self.size).then(|| self.first + id)
    }
}

/// So many ids of a namespace, from `inside` on, stand for those from `outside` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapping {
    pub inside: u32,
    pub outside: u32,
    pub size: u32,
}

impl From<IdRange> for Mapping {
    fn from(ids: IdRange) -> Self {
        Self { inside: 0, outside: ids.first, size: ids.size }
    }
}

/// What this id inside stands for.
pub fn outside(mappings: &[Mapping], id: u32) -> Option<u32> {
    let of = |one: &Mapping| id.checked_sub(one.inside).filter(|offset| *offset < one.size).map(|at| one.outside + at);
    mappings.iter().find_map(of)
}

/// The lines of `/proc/PID/uid_map`, by rising ids inside.
pub fn read_mappings(path: &str) -> io::Result<Vec<Mapping>> {
    let text = fs::read_to_string(path)?;
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map_while(|word| word.parse().ok());
        Some(Mapping { inside: numbers.next()?, outside: numbers.next()?, size: numbers.next()? })
    };
    let mut all: Vec<Mapping> = text.lines().filter_map(line).collect();
    all.sort_unstable();
    Ok(all)
}

/// How many ids the user namespace of this process has, from 0 on; `None` in that of the host, which has all.
pub fn own_size() -> Option<u32> {
    let all = read_mappings("/proc/self/uid_map").unwrap_or_default();
    if all.contains(&Mapping { inside: 0, outside: 0, size: u32::MAX }) {
        return None;
    }
    // A user's own ranges follow each other.
    let next = |size: u32, one: &Mapping| if one.inside == size { size.saturating_add(one.size) } else { size };
    Some(all.iter().fold(0, next))
}

/// All ranges that containers may have, the same one first for the same seed.
pub fn candidates(seed: &str) -> impl Iterator<Item = IdRange> + use<> {
    let slots = (LAST - FIRST + 1) / SIZE;
    let hash = fnv::hash(seed.bytes());
    let start = ((hash ^ (hash >> 32)) % u64::from(slots)) as u32;
    (0..slots).map(move |offset| IdRange { first: FIRST + (start + offset) % slots * SIZE, size: SIZE })
}

/// The ranges that `/etc/subuid` and `/etc/subgid` give to users of this host (subuid(5)).
pub fn given_to_users() -> Vec<IdRange> {
    let texts = ["/etc/subuid", "/etc/subgid"].map(|path| fs::read_to_string(path).unwrap_or_default());
    texts.iter().flat_map(|text| text.lines()).filter_map(subordinate).collect()
}

fn subordinate(line: &str) -> Option<IdRange> {
    let mut fields = line.trim().split(':').skip(1);
    Some(IdRange { first: fields.next()?.parse().ok()?, size: fields.next()?.parse().ok()? })
}

/// A new user namespace that has these ids.
///
/// # Errors
/// Where the kernel has no user namespaces, or allows no more of them.
pub fn create(ids: IdRange) -> io::Result<OwnedFd> {
    let [user, _] = make(Maker::First(ids), &[ids.into()], &[ids.into()], CloneFlags::CLONE_NEWUSER)?;
    Ok(user)
}

/// A new user namespace with these users and these groups.
///
/// # Errors
/// As [`create`]; also where ids overlap.
pub fn with_mappings(users: &[Mapping], groups: &[Mapping]) -> io::Result<OwnedFd> {
    let [user, _] = make(Maker::Caller, users, groups, CloneFlags::CLONE_NEWUSER)?;
    Ok(user)
}

/// The users and the groups of a user namespace, as this process's own namespace knows them.
///
/// # Errors
/// Where it can't be entered.
pub fn mappings_of(users: BorrowedFd<'_>) -> io::Result<[Vec<Mapping>; 2]> {
    let child = Child::born(|| Ok(setns(users, CloneFlags::CLONE_NEWUSER)?))?;
    let of = |file: &str| read_mappings(&format!("/proc/{}/{file}", child.pid));
    let found = of("uid_map").and_then(|users| Ok([users, of("gid_map")?]));
    child.end()?;
    found
}

/// A new user namespace, and a network namespace that belongs to it: its root may configure that network.
pub fn create_with_network(ids: IdRange) -> io::Result<(OwnedFd, OwnedFd)> {
    let all = [ids.into()];
    let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET;
    let [user, network] = make(Maker::First(ids), &all, &all, flags)?;
    Ok((user, network))
}

/// A new network namespace that belongs to this user namespace.
///
/// # Errors
/// Where that can't be entered, or may have no further ones.
pub fn network_of(users: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let child = Child::born(|| {
        setns(users, CloneFlags::CLONE_NEWUSER)?;
        Ok(unshare(CloneFlags::CLONE_NEWNET)?)
    })?;
    let network = child.namespace("net");
    child.end()?;
    network
}

/// Whether this user namespace has exactly these ids. One that can't be entered, as the host's own, has others.
pub fn has(users: BorrowedFd<'_>, ids: IdRange) -> bool {
    let own = vec![Mapping::from(ids)];
    mappings_of(users).is_ok_and(|found| found == [own.clone(), own])
}

/// The user namespace that this namespace belongs to (ioctl_ns(2)).
pub fn owner_of(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    sys::owning_user_namespace(namespace)
}

/// Who the kernel takes for the maker of a user namespace, and counts it and what is in it for (`/proc/sys/user`,
/// inotify(7)).
#[derive(Clone, Copy)]
enum Maker {
    Caller,
    /// The first of its own ids: so that each has its own count.
    First(IdRange),
}

fn make(maker: Maker, users: &[Mapping], groups: &[Mapping], flags: CloneFlags) -> io::Result<[OwnedFd; 2]> {
    let line = |one: &Mapping| format!("{} {} {}\n", one.inside, one.outside, one.size);
    let child = Child::born(|| {
        lift_limits();
        if let Maker::First(ids) = maker {
            become_maker(ids.first)?;
        }
        Ok(unshare(flags)?)
    })?;
    let made = (|| {
        for (file, mappings) in [("uid_map", users), ("gid_map", groups)] {
            fs::write(format!("/proc/{}/{file}", child.pid), mappings.iter().map(line).collect::<String>())?;
        }
        Ok([child.namespace("user")?, child.namespace("net")?])
    })();
    child.end()?;
    made
}

/// A user namespace keeps its maker's limits as the most that all in it may have together; those of the container's
/// processes are theirs alone. Where they can't be lifted there is that further limit.
fn lift_limits() {
    for kind in [libc::RLIMIT_MEMLOCK, libc::RLIMIT_MSGQUEUE, libc::RLIMIT_NPROC, libc::RLIMIT_SIGPENDING] {
        drop(sys::lift_limit(kind));
    }
}

/// Makes the effective user another one, with all that this process may do.
fn become_maker(user: u32) -> io::Result<()> {
    let held = credentials::held_capabilities()?;
    sys::change_effective_user(user)?;
    credentials::set_capabilities(held)
}

/// A process that is in namespaces of its own until it is told to end.
struct Child {
    pid: i32,
    pidfd: OwnedFd,
    /// It waits for the end of this pipe: it ends with its maker, too.
    write: OwnedFd,
}

impl Child {
    /// `enter` is called in the child of a process that may have other threads: only system calls are safe there.
    fn born(enter: impl FnOnce() -> io::Result<()>) -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (inside, entered) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let Some((pid, pidfd)) = sys::clone_process(CloneFlags::empty(), None)? else {
            let error = enter().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
            match nix::unistd::write(&entered, &error.to_ne_bytes()) {
                Ok(_) if error == 0 => wait_for_end(&read),
                _ => sys::exit_now(1),
            }
        };
        drop((entered, read));
        let mut word = [0; 4];
        let heard = File::from(inside).read_exact(&mut word);
        let child = Self { pid, pidfd, write };
        match heard.map(|()| i32::from_ne_bytes(word)) {
            Ok(0) => Ok(child),
            other => {
                child.end()?;
                Err(other.map_or_else(|error| error, io::Error::from_raw_os_error))
            }
        }
    }

    fn namespace(&self, kind: &str) -> io::Result<OwnedFd> {
        File::open(format!("/proc/{}/ns/{kind}", self.pid)).map(OwnedFd::from)
    }

    fn end(self) -> io::Result<()> {
        drop(self.write);
        waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED)?;
        Ok(())
    }
}

/// The child of a process that may have had other threads: only system calls are safe here.
fn wait_for_end(read: &OwnedFd) -> ! {
    // With all that it has of its maker: the ends of its own pipe, and of the pipes of others that were made at the same
    // moment, who would wait for each other for ever.
    let closed = sys::close_all_but(read.as_fd());
    let heard = nix::unistd::read(read, &mut [0; 1]);
    sys::exit_now(i32::from(closed.is_err() || heard.is_err()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_apart() {
        let all: Vec<IdRange> = candidates("web").collect();
        assert_eq!(candidates("web").next(), all.first().copied());
        assert!(all.iter().all(|one| one.first >= FIRST && one.first + (one.size - 1) <= LAST));
        let firsts: std::collections::BTreeSet<u32> = all.iter().map(|one| one.first).collect();
        assert_eq!(firsts.len(), all.len());
        assert!(!all[0].overlaps(all[1]) && all[0].overlaps(all[0]));
        assert_eq!((all[0].outside(7), all[0].outside(SIZE)), (Some(all[0].first + 7), None));
    }

    #[test]
    fn subordinate_ids_are_read() {
        assert_eq!(subordinate("ann:100000:65536"), Some(IdRange { first: 100_000, size: 65_536 }));
        assert_eq!(subordinate("# ann"), None);
    }

    #[test]
    fn the_ids_of_a_namespace_are_those_that_it_was_given() {
        let of = |inside, outside, size| Mapping { inside, outside, size };
        let (users, groups) = ([of(0, 524_288, 10), of(10, 5, 1)], [of(0, 524_290, 7)]);
        let namespace = with_mappings(&users, &groups).unwrap();
        assert_eq!(mappings_of(namespace.as_fd()).unwrap(), [users.to_vec(), groups.to_vec()]);
        assert_eq!([0, 9, 10, 11].map(|id| outside(&users, id)), [Some(524_288), Some(524_297), Some(5), None]);
    }

    #[test]
    fn those_that_are_made_at_once_do_not_wait_for_each_other() {
        let all: Vec<IdRange> = candidates("at once").take(6).collect();
        std::thread::scope(|scope| {
            for ids in all {
                scope.spawn(move || (0..30).for_each(|_| drop(create(ids).unwrap())));
            }
        });
    }

    #[test]
    fn the_network_belongs_to_the_users() {
        let ids = candidates("test").next().unwrap();
        let (user, network) = create_with_network(ids).unwrap();
        let inode = |fd: &OwnedFd| nix::sys::stat::fstat(fd).unwrap().st_ino;
        assert_eq!(inode(&owner_of(network.as_fd()).unwrap()), inode(&user));
    }
}
