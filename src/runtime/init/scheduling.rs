//! How the kernel is to schedule a process: scheduler, priority of its input and output, and what kind of machine it
//! is told that it runs on.

use std::io;

use oci_spec::runtime::{
    IOPriorityClass, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process, Scheduler, Spec,
};

use super::InitError;
use crate::runtime::sys;

/// Applies what the specification says; nothing is changed where it says nothing.
pub fn apply(process: &Process, spec: &Spec) -> Result<(), InitError> {
    if let Some(scheduler) = process.scheduler() {
        let set = sys::set_scheduler(&attributes(scheduler)).map_err(|error| match error.raw_os_error() {
            // A deadline holds for all processors, or for none (sched_setattr(2)).
            Some(libc::EPERM) if scheduler.policy() == &LinuxSchedulerPolicy::SchedDeadline => io::Error::new(
                error.kind(),
                "process scheduler can't be used together with AllowedCPUs (linux.resources.cpu.cpus)",
            ),
            _ => error,
        });
        set.map_err(InitError::step("process.scheduler"))?;
    }
    if let Some(wanted) = process.io_priority() {
        let class = match wanted.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let priority = i32::try_from(wanted.priority()).ok().filter(|level| (0..8).contains(level));
        let priority = priority.ok_or_else(|| io::Error::other("priority is a number from 0 to 7"));
        let set = priority.and_then(|level| sys::set_io_priority(class << 13 | level));
        set.map_err(InitError::step("process.ioPriority"))?;
    }
    if let Some(wanted) = spec.linux().as_ref().and_then(|linux| linux.personality().as_ref()) {
        let domain = match wanted.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => 8,
        };
        sys::set_personality(domain).map_err(InitError::step("linux.personality"))?;
    }
    Ok(())
}

/// In the words of sched_setattr(2).
fn attributes(wanted: &Scheduler) -> sys::SchedulerAttributes {
    let policy = match wanted.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let bit = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    sys::SchedulerAttributes {
        policy,
        flags: wanted.flags().iter().flatten().map(bit).fold(0, |all, one| all | one),
        nice: (*wanted.nice()).unwrap_or(0),
        priority: (*wanted.priority()).unwrap_or(0) as u32,
        runtime: (*wanted.runtime()).unwrap_or(0),
        deadline: (*wanted.deadline()).unwrap_or(0),
        period: (*wanted.period()).unwrap_or(0),
        ..sys::SchedulerAttributes::default()
    }
}
