//! Who the container's program is, and what it may do.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::sys::prctl;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use oci_spec::runtime::{Capability, PosixRlimit, PosixRlimitBuilder, Process, Spec};

use super::spec::{self, ALL_CAPABILITIES};
use super::{InitError, files};
use crate::runtime::seccomp::Profile;
use crate::runtime::userns::{self, IdRange};
use crate::runtime::{seccomp, sys};

/// Ids to run with, and the home directory that `HOME` names when the container does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

/// The largest `/etc/passwd` and `/etc/group` of an image that are read, in bytes.
const LARGEST: u64 = 1 << 20;

/// Finds `user[:group]` and the further groups in the container's own files.
///
/// # Errors
/// Also where one of the ids is not among those of the container's user namespace.
pub fn lookup(
    root: BorrowedFd<'_>,
    user: &str,
    groups: &[String],
    ids: Option<IdRange>,
) -> Result<Identity, InitError> {
    let passwd = read(root, "etc/passwd");
    let group = read(root, "etc/group");
    let found = resolve(user, groups, &passwd, &group).and_then(|identity| within(ids, identity));
    found.map_err(|reason| InitError::User { user: user.to_owned(), reason })
}

fn within(ids: Option<IdRange>, identity: Identity) -> Result<Identity, String> {
    let own = || userns::own_size().map(|size| IdRange { first: 0, size });
    let Some(ids) = ids.or_else(own) else { return Ok(identity) };
    let outside = [identity.uid].iter().chain(&identity.groups).find(|id| ids.outside(**id).is_none()).copied();
    match outside {
        None => Ok(identity),
        Some(id) if ids.size == 1 => Err(format!(
            "id {id} is not in its user namespace, which has 0 alone; newuidmap and newgidmap (Debian: uidmap), and lines \
             for you in /etc/subuid and /etc/subgid, give it more"
        )),
        Some(id) => Err(format!("id {id} is not in its user namespace, which has 0 to {}", ids.size - 1)),
    }
}

/// An image need not have the file, and it may be anything: only a regular one is opened for reading.
fn read(root: BorrowedFd<'_>, path: &str) -> String {
    let open = || -> io::Result<String> {
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
        let regular = |file: &File| file.metadata().map(|found| found.is_file());
        let looked = File::from(sys::open_in_root(root, Path::new(path), libc::O_PATH, 0)?);
        let mut text = Vec::new();
        if regular(&looked)? {
            let file = File::from(sys::open_in_root(root, Path::new(path), flags, 0)?);
            if regular(&file)? {
                file.take(LARGEST).read_to_end(&mut text)?;
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    open().unwrap_or_default()
}

fn field(line: &str, index: usize) -> Option<&str> {
    line.split(':').nth(index)
}

/// 2^32 - 1 means "leave it" to setresuid(2), and half of the range is more than any image needs.
const LARGEST_ID: u32 = i32::MAX as u32;

fn id(line: &str, index: usize) -> Option<u32> {
    field(line, index)?.parse().ok().filter(|id| *id <= LARGEST_ID)
}

/// A number is never looked up as a name: an image could call root so (CVE-2026-46680). `None` for a name.
fn as_number(text: &str) -> Result<Option<u32>, String> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let number = text.parse().ok().filter(|id| *id <= LARGEST_ID && digits == text);
    number.map(Some).ok_or_else(|| format!("an id is a number from 0 to {LARGEST_ID}"))
}

/// Docker's rules: a name must be found, a number need not; the group defaults to the user's own, or 0; supplementary
/// groups of the files count only where no group is named.
fn resolve(user: &str, groups: &[String], passwd: &str, group: &str) -> Result<Identity, String> {
    let (name, group_name) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
    let name = if name.is_empty() { "0" } else { name };
    let number = as_number(name)?;
    let is_meant = |line: &&str| match number {
        Some(number) => id(line, 2) == Some(number),
        None => field(line, 0) == Some(name),
    };
    let line = passwd.lines().find(is_meant);
    let uid = number.or_else(|| id(line?, 2)).ok_or("no such user in the container's /etc/passwd")?;
    let gid = match group_name.filter(|name| !name.is_empty()) {
        Some(name) => group_id(name, group)?,
        None => line.and_then(|line| id(line, 3)).unwrap_or(0),
    };
    let mut all = groups.iter().map(|name| group_id(name, group)).collect::<Result<Vec<_>, _>>()?;
    if let (None, Some(member)) = (group_name, line.and_then(|line| field(line, 0))) {
        let of = |line: &&str| field(line, 3).is_some_and(|members| members.split(',').any(|name| name == member));
        all.extend(group.lines().filter(of).filter_map(|line| id(line, 2)));
    }
    all.push(gid);
    all.sort_unstable();
    all.dedup();
    let home = line.and_then(|line| field(line, 5)).filter(|home| !home.is_empty()).unwrap_or("/");
    Ok(Identity { uid, gid, groups: all, home: home.to_owned() })
}

fn group_id(name: &str, group: &str) -> Result<u32, String> {
    if let Some(number) = as_number(name)? {
        return Ok(number);
    }
    let line = group.lines().find(|line| field(line, 0) == Some(name));
    line.and_then(|line| id(line, 2)).ok_or_else(|| format!("no group {name:?} in the container's /etc/group"))
}

/// Nobody without `CAP_SYS_PTRACE` over this process may open its memory, descriptors or program.
pub fn not_dumpable() -> io::Result<()> {
    Ok(prctl::set_dumpable(false)?)
}

/// Nobody would hold the container's output, policy and root when its supervisor has been killed: it ends too.
pub fn die_with_parent() -> io::Result<()> {
    Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)
}

/// Signals that the engine ignores or blocks must not be so for the program.
pub fn reset_signals() -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    for number in 1..=31 {
        if number != libc::SIGKILL && number != libc::SIGSTOP {
            // SAFETY: restores the default action; no handler of ours is installed.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
    }
    Ok(())
}

/// A process that waits to be started ends by what would end its program. As the first process of its namespace the
/// kernel keeps from it what it has no handler for, and execve(2) takes the handlers away.
pub fn end_by_signals() -> io::Result<()> {
    extern "C" fn end(signal: libc::c_int) {
        // SAFETY: ends this process at once, which is allowed in a handler.
        unsafe { libc::_exit(128 + signal) }
    }
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2] {
        // SAFETY: the handler makes one system call and touches nothing.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// What only root of the host may give itself, before it is root of a user namespace alone: a lower score, and the right
/// to the limits that come later.
pub fn take_from_host(process: &Process) -> io::Result<()> {
    set_oom_score(process)?;
    process.rlimits().iter().flatten().try_for_each(|limit| {
        let resource = resource(limit);
        let own = own_rlimit(resource)?;
        let raised =
            if limit.hard() > own.rlim_max { apply_rlimit(resource, own.rlim_cur, limit.hard()) } else { Ok(()) };
        // Who may not is told so by what comes later, as without a user namespace.
        raised.or_else(|error| if error.raw_os_error() == Some(libc::EPERM) { Ok(()) } else { Err(error) })
    })
}

/// Written while still root: lowering it needs a capability.
pub fn set_oom_score(process: &Process) -> io::Result<()> {
    match process.oom_score_adj() {
        Some(score) => match fs::write("/proc/self/oom_score_adj", score.to_string()) {
            // An ordinary user's processes can't have a lower one than they were given.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && userns::own_size().is_some() => Ok(()),
            other => other,
        },
        None => Ok(()),
    }
}

pub fn set_rlimits(process: &Process) -> Result<(), InitError> {
    for limit in process.rlimits().iter().flatten() {
        set_rlimit(limit).map_err(InitError::step(format!("resource limit {}", limit.typ())))?;
    }
    Ok(())
}

fn resource(limit: &PosixRlimit) -> libc::__rlimit_resource_t {
    use oci_spec::runtime::PosixRlimitType as Kind;
    match limit.typ() {
        Kind::RlimitCpu => libc::RLIMIT_CPU,
        Kind::RlimitFsize => libc::RLIMIT_FSIZE,
        Kind::RlimitData => libc::RLIMIT_DATA,
        Kind::RlimitStack => libc::RLIMIT_STACK,
        Kind::RlimitCore => libc::RLIMIT_CORE,
        Kind::RlimitRss => libc::RLIMIT_RSS,
        Kind::RlimitNproc => libc::RLIMIT_NPROC,
        Kind::RlimitNofile => libc::RLIMIT_NOFILE,
        Kind::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        Kind::RlimitAs => libc::RLIMIT_AS,
        Kind::RlimitLocks => libc::RLIMIT_LOCKS,
        Kind::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        Kind::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        Kind::RlimitNice => libc::RLIMIT_NICE,
        Kind::RlimitRtprio => libc::RLIMIT_RTPRIO,
        Kind::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

fn own_rlimit(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut own = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit into `own`.
    if unsafe { libc::getrlimit(resource, &raw mut own) } < 0 { Err(io::Error::last_os_error()) } else { Ok(own) }
}

fn set_rlimit(limit: &PosixRlimit) -> io::Result<()> {
    let resource = resource(limit);
    match apply_rlimit(resource, limit.soft(), limit.hard()) {
        // An engine that may not raise its own limit gives what it has: stricter than asked, never laxer.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let own = own_rlimit(resource)?;
            apply_rlimit(resource, limit.soft().min(own.rlim_max), limit.hard().min(own.rlim_max))
        }
        other => other,
    }
}

/// The limits that this process can give: stricter ones than asked for where it may not raise its own, as for
/// `set_rlimits`.
///
/// # Errors
/// Where its own can't be read.
pub fn attainable(limits: &[PosixRlimit]) -> io::Result<Vec<PosixRlimit>> {
    const MAY_RAISE: &str = "CAP_SYS_RESOURCE";
    let may_raise = held_capabilities()? & mask_of(MAY_RAISE) != 0;
    let within = |limit: &PosixRlimit| {
        let own = if may_raise { u64::MAX } else { own_rlimit(resource(limit))?.rlim_max };
        let given =
            PosixRlimitBuilder::default().typ(limit.typ()).soft(limit.soft().min(own)).hard(limit.hard().min(own));
        given.build().map_err(io::Error::other)
    };
    limits.iter().map(within).collect()
}

fn mask_of(name: &str) -> u64 {
    number(name).map_or(0, |bit| 1 << bit)
}

/// These capabilities, as far as this process holds them: nobody gets of it what it has not.
///
/// # Errors
/// Where its own can't be read.
pub fn held_of(wanted: &HashSet<Capability>) -> io::Result<HashSet<Capability>> {
    let held = held_capabilities()?;
    Ok(wanted.iter().copied().filter(|one| mask_of(&one.to_string()) & held != 0).collect())
}

fn apply_rlimit(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> io::Result<()> {
    let value = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the limit outlives the call.
    if unsafe { libc::setrlimit(resource, &raw const value) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Bounding set, ids, the other sets, no_new_privs, filter: after this only the program's own rights are left.
pub fn drop_privileges(process: &Process, identity: &Identity, spec: &Spec) -> Result<(), InitError> {
    let filter = CallFilter::of(spec, process)?;
    let sets = Sets::of(process);
    let held = held_capabilities().map_err(InitError::step("own capabilities"))?;
    drop_bounding(sets.bounding).map_err(InitError::step("bounding capabilities"))?;
    prctl::set_keepcaps(true).map_err(|error| InitError::step("keep capabilities")(error.into()))?;
    change_ids(identity).map_err(InitError::step("user and groups"))?;
    // A change of the user made them ineffective, and the filter may need one.
    set_capabilities(held).map_err(InitError::step("capabilities"))?;
    let stays = process.no_new_privileges().unwrap_or(false);
    if stays {
        prctl::set_no_new_privs().map_err(|error| InitError::step("no_new_privs")(error.into()))?;
    }
    // Last but for what takes the rest away: without no_new_privs the kernel takes a filter only from the privileged.
    if !stays {
        filter.install()?;
    }
    // A user other than root gets its capabilities by exec of a file that has them, within the bounding set; root can't
    // get what the engine itself does not hold.
    let kept = if identity.uid == 0 { sets.permitted & held } else { 0 };
    set_capabilities(kept).map_err(InitError::step("capabilities"))?;
    // The container's own filter may forbid what was done until here.
    if stays { filter.install() } else { Ok(()) }
}

/// What answers the system calls of a container's program.
enum CallFilter {
    None,
    Own(Vec<libc::sock_filter>),
    OfContainer(Profile),
}

impl CallFilter {
    fn of(wanted: &Spec, process: &Process) -> Result<Self, InitError> {
        if let Some(own) = wanted.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
            let failed = |reason| InitError::Step { step: "system call filter".into(), reason };
            let mut profile = Profile::of(own).map_err(failed)?;
            profile.let_launcher_through(files::LAUNCHER_PATH.as_ptr() as u64);
            return Ok(Self::OfContainer(profile));
        }
        Ok(if spec::is_confined(wanted) { Self::Own(seccomp_filter(process)) } else { Self::None })
    }

    fn install(&self) -> Result<(), InitError> {
        let installed = match self {
            Self::None => Ok(()),
            Self::Own(program) => seccomp::install(program),
            Self::OfContainer(profile) => seccomp::install_with(&profile.program, profile.flags).map(drop),
        };
        installed.map_err(InitError::step("system call filter"))
    }
}

/// The user and group that own nothing.
const NOBODY: u32 = 65_534;

/// For a child that only talks to others: no right over this host is left, nor a way to one.
pub fn become_nobody() -> io::Result<()> {
    prctl::set_no_new_privs()?;
    let nobody = Identity { uid: NOBODY, gid: NOBODY, groups: Vec::new(), home: String::new() };
    match change_ids(&nobody) {
        // In a user namespace without that id: it is an ordinary user's there, and stays that.
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => return Err(error),
        _ => {}
    }
    set_capabilities(0)
}

/// Gives up all capabilities but these, of which it keeps what it has.
pub fn keep_capabilities(names: &[&str]) -> io::Result<()> {
    let kept = names.iter().fold(0, |mask, name| mask | mask_of(name));
    set_capabilities(kept & held_capabilities()?)
}

/// All ids become 0, which a new user namespace has mapped to an id of the host.
pub fn become_root() -> io::Result<()> {
    setgroups(&[])?;
    setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))?;
    setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))?;
    Ok(())
}

fn seccomp_filter(process: &Process) -> Vec<libc::sock_filter> {
    let bounding = process.capabilities().as_ref().and_then(|sets| sets.bounding().as_ref());
    let held = bounding.map_or(0, mask);
    let names = ALL_CAPABILITIES.iter().enumerate().filter(|(bit, _)| held & (1 << bit) != 0);
    seccomp::filter(&names.map(|(_, name)| (*name).to_owned()).collect())
}

/// The groups first: without root they can't be changed any more.
pub fn change_ids(identity: &Identity) -> io::Result<()> {
    let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    match setgroups(&groups) {
        // With one id there is one group, and those of the user, which can't be left (user_namespaces(7)).
        Err(nix::Error::EPERM) if userns::own_size() == Some(1) => {}
        other => other?,
    }
    let gid = Gid::from_raw(identity.gid);
    setresgid(gid, gid, gid)?;
    let uid = Uid::from_raw(identity.uid);
    setresuid(uid, uid, uid)?;
    Ok(())
}

fn number(name: &str) -> Option<u32> {
    let full = if name.starts_with("CAP_") { name.to_owned() } else { format!("CAP_{name}") };
    ALL_CAPABILITIES.iter().position(|known| *known == full).map(|position| position as u32)
}

fn mask(capabilities: &std::collections::HashSet<Capability>) -> u64 {
    capabilities.iter().filter_map(|one| number(&one.to_string())).fold(0, |mask, bit| mask | 1 << bit)
}

fn last_capability() -> u32 {
    let text = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
    text.trim().parse().unwrap_or(ALL_CAPABILITIES.len() as u32 - 1)
}

/// The five sets, as bits.
pub struct Sets {
    pub bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl Sets {
    /// What the specification does not name is empty.
    pub fn of(process: &Process) -> Self {
        let sets = process.capabilities().as_ref();
        let set = |wanted: Option<&std::collections::HashSet<Capability>>| wanted.map_or(0, mask);
        Self {
            bounding: set(sets.and_then(|sets| sets.bounding().as_ref())),
            effective: set(sets.and_then(|sets| sets.effective().as_ref())),
            permitted: set(sets.and_then(|sets| sets.permitted().as_ref())),
            inheritable: set(sets.and_then(|sets| sets.inheritable().as_ref())),
            ambient: set(sets.and_then(|sets| sets.ambient().as_ref())),
        }
    }

    /// Makes them this process's, as far as it holds them. Of the inheritable ones the kernel takes those alone that are
    /// in the bounding set, and of the ambient ones those that are inheritable and permitted; the rest can't be granted,
    /// which the specification has passed over.
    pub fn become_own(&self, held: u64) -> io::Result<()> {
        let (permitted, inheritable) = (self.permitted & held, self.inheritable & held & self.bounding);
        set_sets(self.effective & permitted, permitted, inheritable)?;
        let ambient = self.ambient & permitted & inheritable;
        for capability in (0..=last_capability()).filter(|bit| ambient & (1 << bit) != 0) {
            // SAFETY: takes integers.
            if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

pub fn drop_bounding(keep: u64) -> io::Result<()> {
    for capability in 0..=last_capability() {
        if keep & (1 << capability) == 0 {
            // SAFETY: takes integers.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Version 3 of capget(2) and capset(2), of this process.
const CAP_HEADER: CapHeader = CapHeader { version: 0x2008_0522, pid: 0 };

/// The permitted set.
pub fn held_capabilities() -> io::Result<u64> {
    let mut data = [CapData::default(); 2];
    let header = CAP_HEADER;
    // SAFETY: version 3 reads one header and writes two data structures, which outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    let held = u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32;
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(held) }
}

/// Effective and permitted become this; inheritable and, by that, ambient nothing.
pub fn set_capabilities(mask: u64) -> io::Result<()> {
    set_sets(mask, mask, 0)
}

fn set_sets(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let half = |set: u64, shift: u32| (set >> shift) as u32;
    let data = [0, 32].map(|shift| CapData {
        effective: half(effective, shift),
        permitted: half(permitted, shift),
        inheritable: half(inheritable, shift),
    });
    let header = CAP_HEADER;
    // SAFETY: version 3 reads one header and two data structures, which outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\naudio:x:29:other,app\nvideo:x:44:app2\n";

    #[test]
    fn users_are_found_as_docker_finds_them() {
        let of = |user: &str| resolve(user, &["video".into()], PASSWD, GROUP).map(|who| (who.uid, who.gid, who.groups));
        assert_eq!(of(""), Ok((0, 0, vec![0, 44])));
        assert_eq!(of("app"), Ok((1000, 1001, vec![29, 44, 1001])));
        assert_eq!(of("1000"), Ok((1000, 1001, vec![29, 44, 1001])));
        assert_eq!(of("1000:audio"), Ok((1000, 29, vec![29, 44])));
        assert_eq!(of("4242"), Ok((4242, 0, vec![0, 44])));
        assert_eq!(of("4242:7"), Ok((4242, 7, vec![7, 44])));
        assert!(of("nosuch").is_err());
        assert_eq!(of("0"), Ok((0, 0, vec![0, 44])));
        for wrong in ["99999999999999999999", "4294967296", "4294967295", "2147483648:0", "-1", "+1", "0:4294967295"] {
            let evil = format!("{wrong}:x:0:0::/:/bin/sh\n{PASSWD}");
            assert!(resolve(wrong, &[], &evil, GROUP).is_err(), "{wrong}");
        }
        assert!(of("app:nosuch").is_err());
    }

    #[test]
    fn capabilities_have_the_kernels_numbers() {
        for (name, bit) in [("CHOWN", 0), ("CAP_SYS_ADMIN", 21), ("CHECKPOINT_RESTORE", 40)] {
            assert_eq!(number(name), Some(bit));
        }
    }
}
