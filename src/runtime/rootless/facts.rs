//! What an ordinary user lacks on this host, for `doctor`.

use std::ffi::OsStr;

use nix::sched::CloneFlags;
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use super::ids::{self, Lack};
use super::{groups, holder, uplink};
use crate::runtime::probe::{Fact, fact};
use crate::runtime::roots::Roots;
use crate::runtime::sys;

/// All of it; `search` is where programs are looked for.
pub fn facts(roots: &Roots, search: &OsStr) -> Vec<Fact> {
    vec![namespace(), own_ids(search), way_out(roots, search), delegation()]
}

fn namespace() -> Fact {
    fact(
        "own user namespace",
        true,
        try_namespace().map(|()| "containers run in it without root".to_owned()),
        "only root can run containers here",
        "`sysctl user.max_user_namespaces=10000`; where they are there: kernel.unprivileged_userns_clone=1, \
         kernel.apparmor_restrict_unprivileged_userns=0; or `sudo stack …`",
    )
}

/// Makes one, with a process that ends at once.
fn try_namespace() -> Result<(), String> {
    use std::os::fd::AsFd;
    match sys::clone_process(CloneFlags::CLONE_NEWUSER, None) {
        Ok(None) => sys::exit_now(0),
        Ok(Some((_, process))) => {
            waitid(Id::PIDFd(process.as_fd()), WaitPidFlag::WEXITED).map(drop).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn own_ids(search: &OsStr) -> Fact {
    let found = match ids::given(search) {
        Ok(given) => Ok(format!("{} beside your own", given.count())),
        Err(Lack::Name) => Err("one: /etc/passwd does not know you".to_owned()),
        Err(Lack::Program(name)) => Err(format!("one: there is no {name}")),
        Err(Lack::Range(path)) => Err(format!("one: {path} gives you none")),
    };
    fact(
        "ids",
        false,
        found,
        "all files of an image are its root's, and programs that change to another user fail",
        "`apt install uidmap`; `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`",
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
