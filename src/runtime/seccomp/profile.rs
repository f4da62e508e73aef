//! A system call filter from a specification (`linux.seccomp`), as a BPF program.
//!
//! Rules of one call are asked in their order, and the first that holds answers; a rule without conditions is asked
//! first. Calls that are newer than all that the profile names answer ENOSYS where it refuses by errno, so that libc
//! falls back. Programs of other architectures than this one, and than those that the profile names, are answered ENOSYS
//! whatever they call.

use std::collections::BTreeMap;

use libc::sock_filter;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompFilterFlag,
    LinuxSeccompOperator,
};

use super::{
    ALLOW, ARCH, ARCH_X86, ARCH_X86_64, NEW_LISTENER, NR, X32_BIT, answer, argument, fail, jump, load, names, ranges,
    statement,
};

/// What is to be installed.
#[derive(Clone, Debug)]
pub struct Profile {
    pub program: Vec<sock_filter>,
    /// Of seccomp(2).
    pub flags: u64,
    /// Whether execveat(2) is allowed to everybody.
    opens_execveat: bool,
}

/// How programs of an architecture call the kernel.
struct Table {
    number: fn(&str) -> Option<u32>,
    /// Its arguments have half the bits, and it has calls that stand for several.
    is_narrow: bool,
}

const OWN: Table = Table { number: names::number, is_narrow: false };
const X32: Table = Table { number: names::number_x32, is_narrow: false };
const X86: Table = Table { number: names::number_x86, is_narrow: true };

/// What the kernel takes as the length of a program.
const LONGEST: usize = 4096;

struct Rule {
    action: u32,
    conditions: Vec<LinuxSeccompArg>,
}

impl Profile {
    /// # Errors
    /// What this program can't do, by the name of its field.
    pub fn of(wanted: &LinuxSeccomp) -> Result<Self, String> {
        check(wanted)?;
        let named = |arch| wanted.architectures().iter().flatten().any(|one| *one == arch);
        let of = |arch, table: &Table| named(arch).then(|| section(wanted, table));
        let other = |section: Option<Vec<sock_filter>>| section.unwrap_or_else(|| vec![fail(libc::ENOSYS)]);
        let x32 = other(of(Arch::ScmpArchX32, &X32));
        let x86 = other(of(Arch::ScmpArchX86, &X86));
        let program = by_architecture(&section(wanted, &OWN), &x32, &x86);
        if program.len() > LONGEST - FOR_LAUNCHER {
            return Err(format!("{} steps, and the kernel takes {LONGEST}", program.len()));
        }
        let default = wanted.default_action();
        let opens_execveat = match rules(wanted, &OWN).remove(&(libc::SYS_execveat as u32)) {
            None => default == LinuxSeccompAction::ScmpActAllow,
            Some(rules) => rules.first().is_some_and(|rule| rule.conditions.is_empty() && rule.action == ALLOW.k),
        };
        Ok(Self { program, flags: flags(wanted), opens_execveat })
    }

    /// Lets one call of execveat(2) through: the launcher's, whose path, empty, is at `secret`. Nobody in the container
    /// can know where that is, since it goes with this process's memory; to all others the call is what the profile says.
    pub fn let_launcher_through(&mut self, secret: u64) {
        if self.opens_execveat {
            return;
        }
        let call = [
            (ARCH, ARCH_X86_64),
            (NR, libc::SYS_execveat as u32),
            (argument(4), libc::AT_EMPTY_PATH as u32),
            (argument(1), secret as u32),
            (argument(1) + 4, (secret >> 32) as u32),
        ];
        let mut program = Vec::with_capacity(self.program.len() + FOR_LAUNCHER);
        for (number, (word, value)) in call.into_iter().enumerate() {
            let left = 2 * (call.len() - number - 1) + 1;
            program.extend([load(word), jump(libc::BPF_JEQ, value, 0, left as u8)]);
        }
        program.push(ALLOW);
        program.append(&mut self.program);
        self.program = program;
    }
}

/// Steps of [`Profile::let_launcher_through`].
const FOR_LAUNCHER: usize = 11;

/// The answer by the kind of the program that calls.
pub(super) fn by_architecture(own: &[sock_filter], x32: &[sock_filter], x86: &[sock_filter]) -> Vec<sock_filter> {
    let this_machine = [&[load(NR), jump(libc::BPF_JGE, X32_BIT, 0, 1), skip(own.len())][..], own, x32].concat();
    let begin = [load(ARCH), jump(libc::BPF_JEQ, ARCH_X86_64, 1, 0), skip(this_machine.len())];
    let others = [jump(libc::BPF_JEQ, ARCH_X86, 1, 0), fail(libc::ENOSYS), load(NR)];
    [&begin[..], &this_machine, &others, x86].concat()
}

/// For programs of one kind; the number of the call is loaded.
fn section(wanted: &LinuxSeccomp, table: &Table) -> Vec<sock_filter> {
    let rules = rules(wanted, table);
    program(&rules, wanted.default_action().as_u32(wanted.default_errno_ret()), unknown(&rules, wanted))
}

/// Whoever is asked must have been told of it by a process that the filter holds already: it says so by write(2).
fn check(wanted: &LinuxSeccomp) -> Result<(), String> {
    if wanted.default_action() == LinuxSeccompAction::ScmpActNotify {
        return Err("SCMP_ACT_NOTIFY cannot be used as default action".to_owned());
    }
    if asked(wanted).any(|name| name == "write") {
        return Err("SCMP_ACT_NOTIFY cannot be used for the write syscall".to_owned());
    }
    let nobody = wanted.listener_path().as_ref().is_none_or(|path| path.as_os_str().is_empty());
    if nobody && asked(wanted).next().is_some() {
        return Err("SCMP_ACT_NOTIFY needs a listenerPath".to_owned());
    }
    Ok(())
}

/// The names of the calls that somebody else is asked about.
fn asked(wanted: &LinuxSeccomp) -> impl Iterator<Item = &String> {
    let calls = wanted.syscalls().iter().flatten();
    calls.filter(|call| call.action() == LinuxSeccompAction::ScmpActNotify).flat_map(|call| call.names())
}

/// Those of seccomp(2). To wait so that only a deadly signal ends it is a word about who is asked, and nothing where
/// nobody is; to be told of a thread that is in the way by other means than the result is needed where the result is a
/// descriptor.
fn flags(wanted: &LinuxSeccomp) -> u64 {
    const TSYNC: u64 = 1 << 0;
    const TSYNC_ESRCH: u64 = 1 << 4;
    const WAIT_KILLABLE_RECV: u64 = 1 << 5;
    let bit = |flag: &LinuxSeccompFilterFlag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => TSYNC,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => 1 << 1,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 1 << 2,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
    };
    let flags = wanted.flags().iter().flatten().map(bit).fold(0, |all, one| all | one);
    match asked(wanted).next() {
        None => flags & !WAIT_KILLABLE_RECV,
        Some(_) if flags & TSYNC != 0 => flags | NEW_LISTENER | TSYNC_ESRCH,
        Some(_) => flags | NEW_LISTENER,
    }
}

/// By number. What the table does not have is left out, as other runtimes do, since profiles name the calls of all
/// machines.
fn rules(wanted: &LinuxSeccomp, table: &Table) -> BTreeMap<u32, Vec<Rule>> {
    let default = wanted.default_action().as_u32(wanted.default_errno_ret());
    let mut rules: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for call in wanted.syscalls().iter().flatten() {
        let action = call.action().as_u32(call.errno_ret());
        let conditions = call.args().clone().unwrap_or_default();
        let conditions = if table.is_narrow { narrow(&conditions) } else { conditions };
        for name in call.names() {
            if let Some(number) = (table.number)(name) {
                let known = rules.entry(number).or_default();
                if action != default {
                    known.extend(split(&conditions).into_iter().map(|conditions| Rule { action, conditions }));
                }
            }
            // Its other way to the kernel has the arguments in memory, where no filter can look: there it is refused
            // whatever they are, and never allowed for some.
            let other_way = multiplexed(name).filter(|_| table.is_narrow && action != default);
            if let Some((number, which)) = other_way.filter(|_| conditions.is_empty() || action != ALLOW.k) {
                rules.entry(number).or_default().push(Rule { action, conditions: vec![which] });
            }
        }
    }
    for known in rules.values_mut() {
        known.sort_by_key(|rule| !rule.conditions.is_empty());
    }
    rules
}

/// What is compared has half the bits.
fn narrow(conditions: &[LinuxSeccompArg]) -> Vec<LinuxSeccompArg> {
    let half = |value: u64| value & u64::from(u32::MAX);
    let of = |one: &LinuxSeccompArg| {
        let narrowed = LinuxSeccompArgBuilder::default().index(one.index()).value(half(one.value())).op(one.op());
        match one.value_two() {
            Some(second) => narrowed.value_two(half(second)),
            None => narrowed,
        }
        .build()
        .unwrap_or(*one)
    };
    conditions.iter().map(of).collect()
}

/// The call that stands for this one too, and by which first argument (socketcall(2), ipc(2)).
fn multiplexed(name: &str) -> Option<(u32, LinuxSeccompArg)> {
    const SOCKETS: [&str; 20] = [
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    const IPC: [(&str, u64); 12] = [
        ("semop", 1),
        ("semget", 2),
        ("semctl", 3),
        ("semtimedop", 4),
        ("msgsnd", 11),
        ("msgrcv", 12),
        ("msgget", 13),
        ("msgctl", 14),
        ("shmat", 21),
        ("shmdt", 22),
        ("shmget", 23),
        ("shmctl", 24),
    ];
    let socket = SOCKETS.iter().position(|known| *known == name).map(|at| ("socketcall", at as u64 + 1));
    let ipc = || IPC.iter().find(|(known, _)| *known == name).map(|(_, which)| ("ipc", *which));
    let (call, which) = socket.or_else(ipc)?;
    let first = LinuxSeccompArgBuilder::default().index(0_usize).value(which).op(LinuxSeccompOperator::ScmpCmpEq);
    Some((names::number_x86(call)?, first.build().ok()?))
}

/// Several conditions on one argument are alternatives; on several arguments they hold together.
fn split(conditions: &[LinuxSeccompArg]) -> Vec<Vec<LinuxSeccompArg>> {
    let mut indices: Vec<usize> = conditions.iter().map(LinuxSeccompArg::index).collect();
    indices.sort_unstable();
    let repeated = indices.windows(2).any(|pair| pair[0] == pair[1]);
    if repeated { conditions.iter().map(|one| vec![*one]).collect() } else { vec![conditions.to_vec()] }
}

/// The first number that the profile can't have known of, and what it answers.
fn unknown(rules: &BTreeMap<u32, Vec<Rule>>, wanted: &LinuxSeccomp) -> Option<u32> {
    let by_errno = wanted.default_action() == LinuxSeccompAction::ScmpActErrno;
    rules.last_key_value().map(|(number, _)| number + 1).filter(|_| by_errno)
}

fn program(rules: &BTreeMap<u32, Vec<Rule>>, default: u32, unknown: Option<u32>) -> Vec<sock_filter> {
    let mut program = Vec::new();
    let is_simple = |rules: &[Rule]| rules.first().is_none_or(|rule| rule.conditions.is_empty());
    for (number, rules) in rules.iter().filter(|(_, rules)| !is_simple(rules)) {
        let mut body: Vec<sock_filter> = rules.iter().flat_map(rule).collect();
        body.push(answer(default));
        program.push(jump(libc::BPF_JEQ, *number, 1, 0));
        program.push(skip(body.len()));
        program.extend(body);
    }
    let simple = rules.iter().filter(|(_, rules)| is_simple(rules));
    let simple = simple.map(|(number, rules)| (*number, rules.first().map_or(default, |rule| rule.action)));
    let mut ranges = ranges(simple, default);
    if let Some(unknown) = unknown {
        ranges.retain(|(start, _)| *start < unknown);
        ranges.push((unknown, fail(libc::ENOSYS).k));
        ranges.dedup_by_key(|(_, action)| *action);
    }
    search(&ranges, &mut program);
    program
}

fn skip(count: usize) -> sock_filter {
    statement(libc::BPF_JMP | libc::BPF_JA, count as u32)
}

/// By halves, with jumps that may be long.
fn search(ranges: &[(u32, u32)], program: &mut Vec<sock_filter>) {
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let [(start, _), ..] = right else { return };
    if left.is_empty() {
        return program.extend(right.iter().map(|(_, action)| answer(*action)));
    }
    program.push(jump(libc::BPF_JGE, *start, 0, 1));
    let at = program.len();
    program.push(skip(0));
    search(left, program);
    program[at].k = (program.len() - at - 1) as u32;
    search(right, program);
}

/// Where a step leads to.
#[derive(Clone, Copy)]
enum To {
    Next,
    /// The condition holds.
    Holds,
    /// It does not, and with it the rule.
    Fails,
}

enum Step {
    Plain(sock_filter),
    Ask(u32, u32, To, To),
}

/// The conditions, one after the other, then the answer; where one fails, what follows that.
fn rule(rule: &Rule) -> Vec<sock_filter> {
    let parts: Vec<Vec<Step>> = rule.conditions.iter().map(condition).collect();
    let length: usize = parts.iter().map(Vec::len).sum();
    let mut steps = Vec::new();
    for part in parts {
        let end = steps.len() + part.len();
        for step in part {
            let here = steps.len() + 1;
            let offset = |to: To| match to {
                To::Next => 0,
                To::Holds => (end - here) as u8,
                To::Fails => (length + 1 - here) as u8,
            };
            steps.push(match step {
                Step::Plain(step) => step,
                Step::Ask(operation, value, yes, no) => jump(operation, value, offset(yes), offset(no)),
            });
        }
    }
    steps.push(answer(rule.action));
    steps
}

/// An argument has 64 bits and the machine 32: the upper half first.
fn condition(wanted: &LinuxSeccompArg) -> Vec<Step> {
    use Step::{Ask, Plain};
    use To::{Fails, Holds, Next};
    let (equal, greater, at_least) = (libc::BPF_JEQ, libc::BPF_JGT, libc::BPF_JGE);
    let offset = argument(wanted.index() as u32);
    let (low, high) = (Plain(load(offset)), Plain(load(offset + 4)));
    let half = |value: u64| (value as u32, (value >> 32) as u32);
    let (below, above) = half(wanted.value());
    let ordered = |upper: (To, To), last: (u32, To, To)| {
        vec![
            high_of(offset),
            Ask(greater, above, upper.0, Next),
            Ask(equal, above, Next, upper.1),
            Plain(load(offset)),
            Ask(last.0, below, last.1, last.2),
        ]
    };
    match wanted.op() {
        LinuxSeccompOperator::ScmpCmpEq => {
            vec![high, Ask(equal, above, Next, Fails), low, Ask(equal, below, Holds, Fails)]
        }
        LinuxSeccompOperator::ScmpCmpNe => {
            vec![high, Ask(equal, above, Next, Holds), low, Ask(equal, below, Fails, Holds)]
        }
        LinuxSeccompOperator::ScmpCmpGt => ordered((Holds, Fails), (greater, Holds, Fails)),
        LinuxSeccompOperator::ScmpCmpGe => ordered((Holds, Fails), (at_least, Holds, Fails)),
        LinuxSeccompOperator::ScmpCmpLt => ordered((Fails, Holds), (at_least, Fails, Holds)),
        LinuxSeccompOperator::ScmpCmpLe => ordered((Fails, Holds), (greater, Fails, Holds)),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            let and = |mask: u32| Plain(statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask));
            let (value_below, value_above) = half(wanted.value_two().unwrap_or(0));
            let upper = [high, and(above), Ask(equal, value_above, Next, Fails)];
            upper.into_iter().chain([low, and(below), Ask(equal, value_below, Holds, Fails)]).collect()
        }
    }
}

fn high_of(offset: u32) -> Step {
    Step::Plain(load(offset + 4))
}
