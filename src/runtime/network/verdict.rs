//! What chains of others say of a packet that begins a connection, as far as that can be told without sending it.
//!
//! A rule is read as its expressions are (linux/netfilter/nf_tables.h): each test holds, does not, or depends on what is
//! not known beforehand, as who sends the packet. So the answer is one of four ([`Verdict`]), and never wrong where it is
//! sure. Chains of the old iptables (`iptables-legacy`) can't be read: they may do anything.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use super::netlink::{DUMP, Message, Socket, attributes};
use super::nft::{GET_CHAIN, GET_RULE, header};
use super::{TABLE, is_unknown};

/// `NF_INET_LOCAL_IN` and `NF_INET_FORWARD`.
pub const INPUT: u32 = 1;
pub const FORWARD: u32 = 2;

/// What is known of a packet that begins a connection.
#[derive(Clone, Debug)]
pub struct Packet {
    /// 6 TCP, 17 UDP.
    pub protocol: u8,
    /// `None`: any of its family that is this host's.
    pub destination: Option<IpAddr>,
    pub is_ipv6: bool,
    pub port: u16,
    /// Where it is passed on, the interface that it leaves by; its destination was changed then.
    pub to: Option<String>,
}

/// What happens to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    LetIn,
    /// By this chain, whoever sends it.
    Dropped(String),
    /// Some are dropped, and some not, by this chain.
    Depends(String),
}

/// What others' chains at this hook do, one after the other: each may drop what the others let through.
pub fn ask(socket: &mut Socket, hook: u32, packet: &Packet) -> io::Result<Verdict> {
    let chains = chains_of_others(socket)?;
    let mut rules = Rules { socket, packet, read: BTreeMap::new() };
    let mut found = Verdict::LetIn;
    for chain in chains.iter().filter(|chain| chain.hook == hook && speaks_of(chain.family, packet)) {
        match rules.judge(chain)? {
            Verdict::LetIn => {}
            dropped @ Verdict::Dropped(_) => return Ok(dropped),
            depends => found = depends,
        }
    }
    Ok(found)
}

/// A chain that somebody else has at a hook.
struct Chain {
    family: u8,
    table: String,
    name: String,
    hook: u32,
    /// What no rule decides.
    drops: bool,
}

fn chains_of_others(socket: &mut Socket) -> io::Result<Vec<Chain>> {
    let mut found = Vec::new();
    let asked = socket.dump(&Message::new(GET_CHAIN, DUMP, &header(0, 0)), &mut |body| {
        let all = fields(body.get(4..).unwrap_or_default());
        let (Some(family), Some(table), Some(name)) = (body.first(), all.get(&1), all.get(&3)) else { return };
        let (family, table, name) = (*family, text(table), text(name));
        let hook = all.get(&4).map(|value| big(&fields(value), 1));
        let filters = all.get(&7).is_some_and(|kind| text(kind) == "filter");
        if let Some(hook) = hook.filter(|_| filters && !table.starts_with(TABLE)) {
            found.push(Chain { family, table, name, hook, drops: all.contains_key(&5) && big(&all, 5) == 0 });
        }
    });
    match asked {
        // A kernel without tables.
        Err(error) if is_unknown(&error) => Ok(Vec::new()),
        other => other.map(|()| found),
    }
}

fn family_word(family: u8) -> &'static str {
    match family {
        INET => "inet",
        IPV6 => "ip6",
        _ => "ip",
    }
}

const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

fn speaks_of(family: u8, packet: &Packet) -> bool {
    family == INET || family == if packet.is_ipv6 { IPV6 } else { IPV4 }
}

/// Whether a test holds; `None` where that depends.
type Truth = Option<bool>;

/// How the walk through a chain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Accept,
    Drop,
    /// Went on after its last rule.
    Over,
}

#[derive(Clone, Copy, Debug, Default)]
struct Maybe {
    accepts: bool,
    drops: bool,
}

/// One rule: its tests and what it does where they hold.
#[derive(Clone, Debug)]
struct Rule {
    holds: Truth,
    effect: Effect,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Effect {
    None,
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// An extension that may do anything.
    Unknown,
}

struct Rules<'a> {
    socket: &'a mut Socket,
    packet: &'a Packet,
    read: BTreeMap<(u8, String, String), Vec<Rule>>,
}

/// More than any set of rules that the kernel takes nests (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: usize = 16;

impl Rules<'_> {
    fn judge(&mut self, chain: &Chain) -> io::Result<Verdict> {
        let mut maybe = Maybe::default();
        let end = self.walk(chain.family, &chain.table, &chain.name, &mut maybe, 0)?;
        let name = format!("chain {} of table {} {}", chain.name, family_word(chain.family), chain.table);
        Ok(match end {
            End::Drop if !maybe.accepts => Verdict::Dropped(name),
            End::Over if chain.drops && !maybe.accepts => Verdict::Dropped(format!("{name} (its policy)")),
            End::Drop => Verdict::Depends(name),
            End::Over if chain.drops => Verdict::Depends(name),
            End::Accept | End::Over if maybe.drops => Verdict::Depends(name),
            End::Accept | End::Over => Verdict::LetIn,
        })
    }

    fn walk(&mut self, family: u8, table: &str, chain: &str, maybe: &mut Maybe, depth: usize) -> io::Result<End> {
        if depth > DEEPEST {
            return Ok(End::Over);
        }
        for rule in self.rules(family, table, chain)? {
            let Some(sure) = rule.holds.map_or(Some(false), |holds| holds.then_some(true)) else { continue };
            let end = match &rule.effect {
                Effect::None => continue,
                Effect::Accept => End::Accept,
                Effect::Drop => End::Drop,
                Effect::Return if sure => return Ok(End::Over),
                // What comes after it holds for some only.
                Effect::Return | Effect::Unknown => {
                    (maybe.accepts, maybe.drops) = (true, true);
                    continue;
                }
                Effect::Jump(target) => match self.walk(family, table, target, maybe, depth + 1)? {
                    End::Over => continue,
                    end => end,
                },
                Effect::Goto(target) => {
                    let end = self.walk(family, table, target, maybe, depth + 1)?;
                    if sure {
                        return Ok(end);
                    }
                    end
                }
            };
            if sure {
                return Ok(end);
            }
            maybe.accepts |= end == End::Accept;
            maybe.drops |= end == End::Drop;
        }
        Ok(End::Over)
    }

    fn rules(&mut self, family: u8, table: &str, chain: &str) -> io::Result<Vec<Rule>> {
        let key = (family, table.to_owned(), chain.to_owned());
        if let Some(known) = self.read.get(&key) {
            return Ok(known.clone());
        }
        let mut found = Vec::new();
        let packet = self.packet;
        let mut question = Message::new(GET_RULE, DUMP, &header(family, 0));
        question.text(1, table).text(2, chain);
        self.socket.dump(&question, &mut |body| found.push(rule(body, packet)))?;
        self.read.insert(key, found.clone());
        Ok(found)
    }
}

/// The registers while a rule is read: bytes where they are known.
#[derive(Default)]
struct Registers(BTreeMap<u32, Value>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Known(Vec<u8>),
    /// The name or number of an interface that is not the loopback's.
    Link,
    Unknown,
}

fn big(all: &BTreeMap<u16, &[u8]>, kind: u16) -> u32 {
    all.get(&kind).and_then(|value| value.first_chunk::<4>()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

fn fields(bytes: &[u8]) -> BTreeMap<u16, &[u8]> {
    attributes(bytes).into_iter().collect()
}

/// The bytes in a value (`NFTA_DATA_VALUE`).
fn data(value: Option<&&[u8]>) -> Vec<u8> {
    value.and_then(|value| fields(value).get(&1).map(|bytes| bytes.to_vec())).unwrap_or_default()
}

fn rule(body: &[u8], packet: &Packet) -> Rule {
    let all = fields(body.get(4..).unwrap_or_default());
    let mut registers = Registers::default();
    let mut read = Rule { holds: Some(true), effect: Effect::None };
    for (_, element) in all.get(&4).map(|list| attributes(list)).unwrap_or_default() {
        let element = fields(element);
        let name = element.get(&1).map(|value| text(value)).unwrap_or_default();
        let parts = element.get(&2).map(|value| fields(value)).unwrap_or_default();
        match name.as_str() {
            "immediate" if big(&parts, 1) == 0 => read.effect = verdict(&parts),
            "reject" => read.effect = Effect::Drop,
            "target" => read.effect = target(&parts),
            "counter" | "log" | "notrack" | "last" => {}
            _ => read.holds = and(read.holds, registers.test(&name, &parts, packet)),
        }
        if read.holds == Some(false) {
            break;
        }
    }
    read
}

fn and(one: Truth, other: Truth) -> Truth {
    match (one, other) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

fn verdict(parts: &BTreeMap<u16, &[u8]>) -> Effect {
    let data = parts.get(&2).map(|value| fields(value)).unwrap_or_default();
    let code = data.get(&2).map(|value| fields(value)).unwrap_or_default();
    let chain = || code.get(&2).map(|value| text(value)).unwrap_or_default();
    match big(&code, 1).cast_signed() {
        0 => Effect::Drop,
        1 => Effect::Accept,
        -3 => Effect::Jump(chain()),
        -4 => Effect::Goto(chain()),
        -5 => Effect::Return,
        -1 => Effect::None,
        _ => Effect::Unknown,
    }
}

/// An extension of iptables.
fn target(parts: &BTreeMap<u16, &[u8]>) -> Effect {
    match parts.get(&1).map(|value| text(value)).as_deref() {
        Some("REJECT") => Effect::Drop,
        Some("LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TRACE") => Effect::None,
        _ => Effect::Unknown,
    }
}

impl Registers {
    /// What an expression tests; one that only loads holds.
    fn test(&mut self, name: &str, parts: &BTreeMap<u16, &[u8]>, packet: &Packet) -> Truth {
        match name {
            "meta" => self.load(big(parts, 1), meta(big(parts, 2), packet)),
            "payload" => self.load(big(parts, 1), payload(big(parts, 2), big(parts, 3), big(parts, 4), packet)),
            "ct" => self.load(big(parts, 1), tracked(big(parts, 2), packet)),
            "fib" => self.load(big(parts, 1), Value::Unknown),
            "immediate" => self.load(big(parts, 1), Value::Known(data(parts.get(&2)))),
            "bitwise" => {
                let (mask, flip) = (data(parts.get(&4)), data(parts.get(&5)));
                let result = match self.0.get(&big(parts, 1)) {
                    Some(Value::Known(bytes)) => {
                        let each = bytes.iter().zip(&mask).zip(&flip);
                        Value::Known(each.map(|((byte, mask), flip)| byte & mask ^ flip).collect())
                    }
                    _ => Value::Unknown,
                };
                self.load(big(parts, 2), result)
            }
            "cmp" => self.compare(big(parts, 1), big(parts, 2), &data(parts.get(&3))),
            "range" => {
                let (from, to) = (data(parts.get(&3)), data(parts.get(&4)));
                let within = and(self.compare(big(parts, 1), 5, &from), self.compare(big(parts, 1), 3, &to));
                if big(parts, 2) == 0 { within } else { within.map(|within| !within) }
            }
            "match" => matches(parts, packet),
            _ => None,
        }
    }

    fn load(&mut self, register: u32, value: Value) -> Truth {
        self.0.insert(register, value);
        Some(true)
    }

    /// `operation` is of `enum nft_cmp_ops`: equal, not equal, less, at most, more, at least.
    fn compare(&self, register: u32, operation: u32, other: &[u8]) -> Truth {
        let known = match self.0.get(&register) {
            Some(Value::Known(bytes)) => bytes,
            Some(Value::Link) if is_loopback(other) && operation < 2 => return Some(operation == 1),
            _ => return None,
        };
        let known = known.get(..other.len())?;
        Some(match operation {
            0 => known == other,
            1 => known != other,
            2 => known < other,
            3 => known <= other,
            4 => known > other,
            _ => known >= other,
        })
    }
}

/// By its name, or its number.
fn is_loopback(bytes: &[u8]) -> bool {
    text(bytes) == "lo" || bytes == 1_u32.to_ne_bytes()
}

fn meta(key: u32, packet: &Packet) -> Value {
    const IN_NUMBER: u32 = 4;
    const OUT_NUMBER: u32 = 5;
    const IN_NAME: u32 = 6;
    const OUT_NAME: u32 = 7;
    const FAMILY: u32 = 15;
    const PROTOCOL: u32 = 16;
    match (key, &packet.to) {
        (PROTOCOL, _) => Value::Known(vec![packet.protocol]),
        (FAMILY, _) => Value::Known(vec![if packet.is_ipv6 { 10 } else { 2 }]),
        (OUT_NAME, Some(name)) => {
            let mut bytes = name.clone().into_bytes();
            bytes.resize(16, 0);
            Value::Known(bytes)
        }
        (IN_NUMBER | IN_NAME | OUT_NUMBER, _) => Value::Link,
        _ => Value::Unknown,
    }
}

fn payload(base: u32, offset: u32, length: u32, packet: &Packet) -> Value {
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    let destination = match packet.destination {
        Some(IpAddr::V4(address)) => (16, address.octets().to_vec()),
        Some(IpAddr::V6(address)) => (24, address.octets().to_vec()),
        None => (0, Vec::new()),
    };
    match (base, offset, length) {
        (TRANSPORT, 2, 2) => Value::Known(packet.port.to_be_bytes().to_vec()),
        (NETWORK, 9, 1) if !packet.is_ipv6 => Value::Known(vec![packet.protocol]),
        (NETWORK, at, length) if !destination.1.is_empty() && at == destination.0 => {
            Value::Known(destination.1.into_iter().take(length as usize).collect())
        }
        _ => Value::Unknown,
    }
}

/// It begins a connection, and where it is passed on its destination was changed.
fn tracked(key: u32, packet: &Packet) -> Value {
    const STATE: u32 = 0;
    const STATUS: u32 = 2;
    const NEW: u32 = 8;
    const CHANGED: u32 = 0x20;
    match key {
        STATE => Value::Known(NEW.to_ne_bytes().to_vec()),
        STATUS if packet.to.is_some() => Value::Known(CHANGED.to_ne_bytes().to_vec()),
        _ => Value::Unknown,
    }
}

/// An extension of iptables: ports (`struct xt_tcp`, `struct xt_udp`).
fn matches(parts: &BTreeMap<u16, &[u8]>, packet: &Packet) -> Truth {
    let name = parts.get(&1).map(|value| text(value)).unwrap_or_default();
    let info = parts.get(&3)?;
    let number = |at: usize| Some(u16::from_ne_bytes(*info.get(at..)?.first_chunk::<2>()?));
    let flipped = match name.as_str() {
        "comment" => return Some(true),
        "tcp" if *info.get(9)? != 0 => return None,
        "tcp" => *info.get(11)? & 2 != 0,
        "udp" => *info.get(8)? & 2 != 0,
        _ => return None,
    };
    let any_source = number(0)? == 0 && number(2)? == u16::MAX;
    let is = (number(4)?..=number(6)?).contains(&packet.port) != flipped;
    if is && !any_source { None } else { Some(is) }
}
