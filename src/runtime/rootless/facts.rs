//! What an ordinary user lacks on this host, for `doctor`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;

use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::ids::{self, Lack};
use super::refusal::Refusal;
use super::{birth, groups, holder, uplink};
use crate::runtime::probe::{Fact, fact};
use crate::runtime::roots::Roots;
use crate::runtime::sys;

/// All of it; `search` is where programs are looked for.
pub fn facts(roots: &Roots, search: &OsStr) -> Vec<Fact> {
    vec![namespace(), own_ids(search), way_out(roots, search), delegation()]
}

fn namespace() -> Fact {
    let tried = try_namespace();
    let cure = tried.as_ref().err().map_or("", |refusal| refusal.cure);
    let found = tried.map(|()| "containers run in it without root".to_owned()).map_err(|refusal| refusal.reason);
    let mend = format!("as root: {cure} (settings are kept by a file in /etc/sysctl.d); or `sudo stack …`");
    fact("own user namespace", true, found, "only root can run containers here", mend)
}

/// Makes one, with a process that ends at once. Where a rule takes away what root of it may, mounts fail.
fn try_namespace() -> Result<(), Refusal> {
    let refused = |error: io::Error| Refusal::of(&error);
    let made = sys::clone_process(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS, None).map_err(refused)?;
    let Some((_, process)) = made else {
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let mounted = mount(None::<&str>, "/", None::<&str>, flags, None::<&str>);
        sys::exit_now(mounted.err().map_or(0, |error| error as i32))
    };
    match waitid(Id::PIDFd(process.as_fd()), WaitPidFlag::WEXITED) {
        Ok(WaitStatus::Exited(_, 0)) => Ok(()),
        Ok(WaitStatus::Exited(_, code)) => Err(refused(io::Error::from_raw_os_error(code))),
        Ok(_) => Err(refused(io::ErrorKind::Interrupted.into())),
        Err(error) => Err(refused(error.into())),
    }
}

fn own_ids(search: &OsStr) -> Fact {
    let found = match ids::given(search) {
        Ok(given) => match birth::try_ids(&given) {
            Ok(()) => Ok(format!("{} beside your own", given.count())),
            Err(reason) => Err(reason),
        },
        Err(Lack::Name) => Err("one: /etc/passwd does not know you".to_owned()),
        Err(Lack::Program(name)) => Err(format!("one: there is no {name}")),
        Err(Lack::Range(path)) => Err(format!("one: {path} gives you none")),
    };
    fact(
        "ids",
        false,
        found,
        "all files of an image are its root's, and programs that change to another user fail; where newuidmap is there and \
         fails, so does every command",
        "`apt install uidmap`; `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`; where newuidmap \
         fails: `dpkg-reconfigure uidmap` or `chmod u+s` for both programs, on a file system without nosuid",
    )
}

fn way_out(roots: &Roots, search: &OsStr) -> Fact {
    let programs = uplink::programs(search);
    let found = match (programs.first(), uplink::tunnel(), holder::complaint(roots)) {
        (None, ..) => Err("neither pasta nor slirp4netns is there".to_owned()),
        (_, Err(error), _) => Err(format!("/dev/net/tun: {error}")),
        (_, _, Some(complaint)) => Err(complaint),
        (Some(program), ..) => Ok(program.name.to_owned()),
    };
    fact(
        "way out",
        false,
        found,
        "containers reach each other, and their published ports are reached, but they reach nothing outside",
        "`apt install passt` or `apt install slirp4netns`; `modprobe tun` and `chmod 666 /dev/net/tun`",
    )
}

fn delegation() -> Fact {
    let found = groups::delegated().map(|group| group.display().to_string());
    fact(
        "own control group",
        false,
        found.ok_or_else(|| "none is yours".to_owned()),
        "limits that are asked for are refused, as is `pause`; `stats` and `top` show little",
        "version 2 with a delegated group: `systemd-run --user --scope -p Delegate=yes stack …`",
    )
}
