//! The processors that somebody else's process runs on: those for its way into the container, and those of its program
//! (`process.execCPUAffinity`). Where it says nothing, the program has all of its control group, whatever its starter has.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use oci_spec::runtime::ExecCPUAffinity;

const SELF: Pid = Pid::from_raw(0);

/// What is said of a process.
#[derive(Clone, Copy, Default)]
pub struct Processors<'a> {
    /// While it is on its way.
    initial: Option<&'a str>,
    /// Of its program.
    then: Option<&'a str>,
}

impl<'a> From<Option<&'a ExecCPUAffinity>> for Processors<'a> {
    fn from(wanted: Option<&'a ExecCPUAffinity>) -> Self {
        let text = |of: fn(&ExecCPUAffinity) -> &Option<String>| of(wanted?).as_deref();
        Self { initial: text(ExecCPUAffinity::initial), then: text(ExecCPUAffinity::cpu_affinity_final) }
    }
}

/// # Errors
/// The list that is none, by the name of its field.
pub fn check(wanted: &ExecCPUAffinity) -> Result<(), String> {
    let named = [("initial", wanted.initial()), ("final", wanted.cpu_affinity_final())];
    named.into_iter().try_for_each(|(name, list)| match list.as_deref().map(parse) {
        Some(Err(error)) => Err(format!("{name}: {error}")),
        _ => Ok(()),
    })
}

/// `0-3,7`; an empty list is none.
fn parse(list: &str) -> io::Result<Option<CpuSet>> {
    let wrong = || io::Error::other(format!("{list:?}: processors are meant, such as 0-3,7"));
    let mut set = CpuSet::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.parse::<usize>().map_err(|_| wrong());
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= CpuSet::count() {
            return Err(wrong());
        }
        for processor in first..=last {
            set.set(processor).map_err(|_| wrong())?;
        }
    }
    Ok(Some(set).filter(|set| *set != CpuSet::new()))
}

impl Processors<'_> {
    /// Runs what makes the child on the first ones: it keeps them, and this process, to which the action returns
    /// something, has those of before.
    pub fn fork<T>(self, action: impl FnOnce() -> io::Result<Option<T>>) -> io::Result<Option<T>> {
        let Some(wanted) = self.initial.map(parse).transpose()?.flatten() else { return action() };
        let before = sched_getaffinity(SELF)?;
        sched_setaffinity(SELF, &wanted)?;
        match action() {
            Ok(None) => Ok(None),
            done => sched_setaffinity(SELF, &before).map_err(io::Error::from).and(done),
        }
    }

    /// In the child, once it is in its control group: the processors for good.
    pub fn settle(self) -> io::Result<()> {
        let all = || {
            let mut all = CpuSet::new();
            (0..CpuSet::count()).try_for_each(|processor| all.set(processor)).map(|()| all)
        };
        match self.then.map(parse).transpose()?.flatten() {
            Some(wanted) => Ok(sched_setaffinity(SELF, &wanted)?),
            // Of all that there might be, the kernel takes those of the group.
            None => Ok(sched_setaffinity(SELF, &all()?)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_numbers_and_ranges() {
        let of = |list: &str| {
            let set = parse(list).ok()?.unwrap_or_default();
            Some((0..CpuSet::count()).filter(|processor| set.is_set(*processor).unwrap()).collect::<Vec<_>>())
        };
        assert_eq!(of("0-2,7"), Some(vec![0, 1, 2, 7]));
        assert_eq!(of(""), Some(vec![]));
        assert_eq!(["1-", "-1", "x", "2-1", "99999", "0-99999"].map(of), [const { None }; 6]);
    }
}
