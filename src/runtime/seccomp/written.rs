//! The engine's own filter in a specification's words (`linux.seccomp`), for runtimes of others: the same tables, and the
//! same answers, but that programs of other machines than this one are killed where the engine's own filter tells them
//! that there is no such call.

use std::collections::BTreeSet;

use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

use super::{ALLOWED, NAMESPACE_FLAGS, OPENED, REFUSED, families, names};

/// The filter for a process with these capabilities.
pub fn written(capabilities: &BTreeSet<String>) -> LinuxSeccomp {
    let opened: BTreeSet<i64> = OPENED
        .iter()
        .filter(|(name, _)| capabilities.contains(*name))
        .flat_map(|(_, calls)| calls.iter().copied())
        .collect();
    let allowed: BTreeSet<i64> = ALLOWED.iter().chain(&opened).copied().collect();
    let refused = REFUSED.iter().filter(|call| !allowed.contains(call)).copied();
    let mut calls = vec![allow(&words(allowed.iter().copied()), &[]), fail(&words(refused), libc::EPERM, &[])];
    calls.extend(clone_rules(opened.contains(&libc::SYS_unshare)));
    calls.extend(socket_rules(&families(capabilities)));
    let tree = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::ENOSYS,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": calls,
    });
    serde_json::from_value(tree).expect("it is written with the specification's own words")
}

fn words(calls: impl Iterator<Item = i64>) -> Vec<&'static str> {
    calls.filter_map(names::name).collect()
}

fn allow(names: &[&str], arguments: &[Value]) -> Value {
    json!({"names": names, "action": "SCMP_ACT_ALLOW", "args": arguments})
}

fn fail(names: &[&str], errno: i32, arguments: &[Value]) -> Value {
    json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": arguments})
}

fn compare(index: u32, operation: &str, value: i32) -> Value {
    json!({"index": index, "op": operation, "value": value})
}

/// Whether these bits of the first argument are so. Never two rules for one call: what libseccomp makes of rules that hold
/// at the same time is not said anywhere.
fn bits(mask: u32, are: u32) -> Value {
    json!({"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": mask, "valueTwo": are})
}

fn clone_rules(opened: bool) -> Vec<Value> {
    if opened {
        return vec![allow(&["clone"], &[])];
    }
    // By the lowest flag that is set: one rule each, of which one holds.
    let flags = (0..u32::BITS).map(|bit| 1_u32 << bit).filter(|bit| NAMESPACE_FLAGS & bit != 0);
    let refused = flags.map(|bit| {
        let lower = NAMESPACE_FLAGS & (bit - 1);
        fail(&["clone"], libc::EPERM, &[bits(lower | bit, bit)])
    });
    [allow(&["clone"], &[bits(NAMESPACE_FLAGS, 0)])].into_iter().chain(refused).collect()
}

fn socket_rules(families: &[i32]) -> Vec<Value> {
    let is = |family: i32| compare(0, "SCMP_CMP_EQ", family);
    let largest = families.iter().copied().chain([libc::AF_NETLINK]).max().unwrap_or(libc::AF_NETLINK);
    let others = (0..largest).filter(|family| !families.contains(family) && *family != libc::AF_NETLINK);
    let mut rules: Vec<Value> = families.iter().map(|family| allow(&["socket"], &[is(*family)])).collect();
    rules.extend(others.map(|family| fail(&["socket"], libc::EAFNOSUPPORT, &[is(family)])));
    rules.push(fail(&["socket"], libc::EAFNOSUPPORT, &[compare(0, "SCMP_CMP_GT", largest)]));
    let xfrm = |operation: &str| [is(libc::AF_NETLINK), compare(2, operation, libc::NETLINK_XFRM)];
    rules.push(allow(&["socket"], &xfrm("SCMP_CMP_NE")));
    rules.push(fail(&["socket"], libc::EPROTONOSUPPORT, &xfrm("SCMP_CMP_EQ")));
    rules
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::super::{Profile, filter};
    use super::*;

    /// What is written means what is executed, for each call and for each argument that is looked at.
    #[test]
    fn it_answers_as_the_engines_own_filter() {
        let sets: [&[&str]; 5] =
            [&[], &["CAP_NET_RAW"], &["CAP_SYS_ADMIN"], &["CAP_SYS_CHROOT", "CAP_BPF"], &["CAP_SYS_PTRACE"]];
        for set in sets {
            let held: BTreeSet<String> = set.iter().map(|name| (*name).to_owned()).collect();
            let (own, written) = (filter(&held), Profile::of(&written(&held)).unwrap().program);
            let same = |call: i64, arguments: [u32; 3]| {
                let answers = (run(&own, call, arguments), run(&written, call, arguments));
                assert_eq!(answers.0, answers.1, "{set:?}: call {call} with {arguments:?}");
            };
            for call in (0..600).filter(|call| ![libc::SYS_clone, libc::SYS_socket].contains(call)) {
                same(call, [0; 3]);
            }
            for bits in [0, libc::SIGCHLD as u32, libc::CLONE_VM as u32].into_iter().chain((0..32).map(|bit| 1 << bit))
            {
                for more in [0, libc::CLONE_NEWUSER as u32, libc::CLONE_NEWNS as u32] {
                    same(libc::SYS_clone, [bits | more, 0, 0]);
                }
            }
            for family in 0..64 {
                for protocol in [0, libc::NETLINK_XFRM as u32, 7] {
                    same(libc::SYS_socket, [family, 0, protocol]);
                }
            }
        }
    }
}
