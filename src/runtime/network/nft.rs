//! The firewall's language, as far as it is needed: a rule is a list of expressions that each test or do one thing
//! (linux/netfilter/nf_tables.h). [`encode`] turns a table into one transaction that replaces the old table: at no
//! moment is there half of it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::address::{Family, octets};
use super::netlink::{ACK, APPEND, CREATE, DUMP, EXCLUSIVE, Message, Socket, attributes};
use crate::runtime::fnv;

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
pub(super) const GET_CHAIN: u16 = SUBSYSTEM | 4;
const NEW_RULE: u16 = SUBSYSTEM | 6;
pub(super) const GET_RULE: u16 = SUBSYSTEM | 7;
const NEW_SET: u16 = SUBSYSTEM | 9;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const INET: u8 = 1;

/// A table: chains with their rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub name: String,
    /// The families whose connections it remembers ([`Expression::Admit`]).
    pub remembers: Vec<Family>,
    pub chains: Vec<Chain>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub name: &'static str,
    /// `nat` or `filter`.
    pub kind: &'static str,
    /// 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub hook: u32,
    pub priority: i32,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(pub Vec<Expression>);

/// One test or effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// The interface that it came in by is this one (or is not).
    From {
        interface: String,
        is: bool,
    },
    /// The interface that it leaves by is this one (or is not).
    To {
        interface: String,
        is: bool,
    },
    Source {
        network: IpAddr,
        prefix: u8,
    },
    Destination {
        network: IpAddr,
        prefix: u8,
    },
    /// 6 TCP, 17 UDP.
    Protocol(u8),
    Port(u16),
    SourcePort(u16),
    /// The port becomes this one without the kernel keeping track of it; the protocol tells where its checksum is.
    SetPort {
        protocol: u8,
        port: u16,
    },
    SetSourcePort {
        protocol: u8,
        port: u16,
    },
    /// Is of this family, and the destination is no loopback address.
    NotToLoopback(Family),
    /// Is of IPv6, and the source is not one that counts on its own link alone (fe80::/10).
    NotFromNeighbour,
    /// The destination is an address of this host.
    ToThisHost,
    /// Belongs to a connection that was let through before.
    Established,
    /// Its destination was changed by a published port.
    Published,
    /// Its destination is as its sender wrote it.
    NotPublished,
    Accept,
    Drop,
    SendTo {
        address: IpAddr,
        port: u16,
    },
    Masquerade,
    Of(Family),
    /// Is a message of ICMPv6 of this type.
    Icmp6(u8),
    /// Remembers the connection of this family that the packet begins, for a few seconds; where there is no room for it
    /// the rule ends.
    Admit(Family),
    /// Belongs to a connection of this family that is remembered.
    Admitted(Family),
    /// Whoever listens to this group (`NFNLGRP_NFLOG`'s) gets a copy of the packet.
    Copy(u16),
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |is: &bool| if *is { "" } else { "!= " };
        match self {
            Self::From { interface, is } => write!(f, "iifname {}{interface:?}", not(is)),
            Self::To { interface, is } => write!(f, "oifname {}{interface:?}", not(is)),
            Self::Source { network, prefix } => write!(f, "{} saddr {network}/{prefix}", word(Family::of(*network))),
            Self::Destination { network, prefix } => {
                write!(f, "{} daddr {network}/{prefix}", word(Family::of(*network)))
            }
            Self::Protocol(6) => f.write_str("meta l4proto tcp"),
            Self::Protocol(17) => f.write_str("meta l4proto udp"),
            Self::Protocol(number) => write!(f, "meta l4proto {number}"),
            Self::Port(port) => write!(f, "th dport {port}"),
            Self::SourcePort(port) => write!(f, "th sport {port}"),
            Self::SetPort { port, .. } => write!(f, "th dport set {port}"),
            Self::SetSourcePort { port, .. } => write!(f, "th sport set {port}"),
            Self::NotToLoopback(family) => {
                let (network, prefix) = loopback(*family);
                write!(f, "{} daddr != {network}/{prefix}", word(*family))
            }
            Self::NotFromNeighbour => f.write_str("ip6 saddr != fe80::/10"),
            Self::ToThisHost => f.write_str("fib daddr type local"),
            Self::Established => f.write_str("ct state established,related"),
            Self::Published => f.write_str("ct status dnat"),
            Self::NotPublished => f.write_str("ct status & dnat == 0"),
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::SendTo { address, port } => {
                write!(f, "dnat {} to {}", word(Family::of(*address)), SocketAddr::new(*address, *port))
            }
            Self::Masquerade => f.write_str("masquerade"),
            Self::Of(Family::V4) => f.write_str("meta nfproto ipv4"),
            Self::Of(Family::V6) => f.write_str("meta nfproto ipv6"),
            Self::Icmp6(kind) => write!(f, "meta l4proto 58 icmpv6 type {kind}"),
            Self::Admit(family) => write!(f, "add @{} {{ {} }}", set_name(*family), connection_text(*family)),
            Self::Admitted(family) => write!(f, "{} @{}", connection_text(*family), set_name(*family)),
            Self::Copy(group) => write!(f, "log group {group}"),
        }
    }
}

fn word(family: Family) -> &'static str {
    if family == Family::V4 { "ip" } else { "ip6" }
}

/// The set of connections of a family that are remembered.
fn set_name(family: Family) -> &'static str {
    if family == Family::V4 { "admitted" } else { "admitted6" }
}

/// How its elements read.
fn connection_text(family: Family) -> String {
    let word = word(family);
    format!("{word} saddr . th sport . {word} daddr . th dport . meta l4proto")
}

fn loopback(family: Family) -> (IpAddr, u8) {
    match family {
        Family::V4 => (Ipv4Addr::new(127, 0, 0, 0).into(), 8),
        Family::V6 => (Ipv6Addr::LOCALHOST.into(), 128),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {}", self.name)?;
        for family in &self.remembers {
            let (name, seconds) = (set_name(*family), REMEMBERED.as_secs());
            writeln!(f, "  set {name} (timeout {seconds} s size {MOST_REMEMBERED})")?;
        }
        for chain in &self.chains {
            writeln!(f, "  chain {} ({} hook {} priority {})", chain.name, chain.kind, chain.hook, chain.priority)?;
            for rule in &chain.rules {
                let words: Vec<String> = rule.0.iter().map(Expression::to_string).collect();
                writeln!(f, "    {}", words.join(" "))?;
            }
        }
        Ok(())
    }
}

impl Table {
    /// What is kept beside the table to tell whether it is this one: a hash of its text (FNV-1a), in the form in which
    /// `nft list ruleset` shows it as a comment (type 0, length, text with a NUL).
    fn comment(&self) -> Vec<u8> {
        let hash = fnv::hash(self.to_string().bytes());
        let text = format!("stack rules {hash:016x}\0");
        [&[0, text.len() as u8][..], text.as_bytes()].concat()
    }
}

pub(super) fn header(family: u8, resource: u16) -> Vec<u8> {
    [&[family, 0][..], &resource.to_be_bytes()].concat()
}

fn message(kind: u16, flags: u16) -> Message {
    Message::new(kind, flags | ACK, &header(INET, 0))
}

fn table_message(kind: u16, flags: u16, name: &str) -> Message {
    let mut message = message(kind, flags);
    message.text(1, name);
    message
}

fn batch(messages: Vec<Message>) -> Vec<Message> {
    let mark = |kind| Message::new(kind, 0, &header(0, 10));
    // An error is always reported; of a success one word is enough, and many would overrun the socket's buffer.
    let last = messages.len().saturating_sub(1);
    let quiet = |(number, mut message): (usize, Message)| {
        message.flags = message.flags & !ACK | if number == last { ACK } else { 0 };
        message
    };
    let messages = messages.into_iter().enumerate().map(quiet).collect();
    [vec![mark(BATCH_BEGIN)], messages, vec![mark(BATCH_END)]].concat()
}

/// The transaction that puts this table in the place of the one of its name, whether or not there is one.
pub fn encode(table: &Table) -> Vec<Message> {
    batch([removal(&table.name), creation(table, CREATE)].concat())
}

fn creation(table: &Table, flags: u16) -> Vec<Message> {
    let mut new = table_message(NEW_TABLE, flags, &table.name);
    new.attribute(6, &table.comment());
    let mut messages = vec![new];
    messages.extend(table.remembers.iter().map(|family| set_of_connections(&table.name, *family)));
    for chain in &table.chains {
        let mut new = message(NEW_CHAIN, CREATE);
        new.text(1, &table.name).text(3, chain.name);
        new.nested(4, |hook| {
            hook.big(1, chain.hook).big(2, chain.priority as u32);
        });
        // Accept what no rule decides: other engines and the host have rules of their own.
        new.big(5, 1).text(7, chain.kind);
        messages.push(new);
    }
    for chain in &table.chains {
        messages.extend(chain.rules.iter().map(|rule| encode_rule(&table.name, chain.name, rule)));
    }
    messages
}

/// What tells one connection from another, in the registers of four bytes from the first on.
const KEY: [Part; 5] = [Part::Source, Part::Transport(0), Part::Destination, Part::Transport(2), Part::Protocol];
const FIRST_REGISTER: u32 = 8;
/// How long a connection is remembered: a client that hears nothing asks again after one second, and then after two.
const REMEMBERED: Duration = Duration::from_secs(5);
const MOST_REMEMBERED: u32 = 65_535;

#[derive(Clone, Copy)]
enum Part {
    Source,
    Destination,
    /// Two bytes from here in the transport header.
    Transport(u32),
    Protocol,
}

impl Part {
    /// The kernel's data type, as `nft` numbers them.
    fn data_type(self, family: Family) -> u32 {
        match (self, family) {
            (Self::Source | Self::Destination, Family::V4) => 7,
            (Self::Source | Self::Destination, Family::V6) => 8,
            (Self::Transport(_), _) => 13,
            (Self::Protocol, _) => 12,
        }
    }

    /// How many registers it fills.
    fn registers(self, family: Family) -> u32 {
        match self {
            Self::Source | Self::Destination => u32::from(family.bits() / 32),
            Self::Transport(_) | Self::Protocol => 1,
        }
    }
}

/// Where source and destination begin in the network header, and how long each is.
fn places(family: Family) -> (u32, u32, u32) {
    match family {
        Family::V4 => (12, 16, 4),
        Family::V6 => (8, 24, 16),
    }
}

fn set_of_connections(table: &str, family: Family) -> Message {
    const MADE_BY_RULES_AND_EXPIRING: u32 = 0x10 | 0x20;
    let mut new = message(NEW_SET, CREATE);
    new.text(1, table).text(2, set_name(family)).big(3, MADE_BY_RULES_AND_EXPIRING);
    // Six bits a type, four bytes a register.
    let types = KEY.iter().fold(0, |all, part| all << 6 | part.data_type(family));
    new.big(4, types).big(5, 4 * KEY.iter().map(|part| part.registers(family)).sum::<u32>());
    new.nested(9, |description| {
        description.big(1, MOST_REMEMBERED);
    });
    new.big(10, if family == Family::V4 { 1 } else { 2 }).attribute(11, &(REMEMBERED.as_millis() as u64).to_be_bytes());
    new
}

/// The connection of the packet into the registers.
fn load_connection(list: &mut Message, family: Family) {
    let (source, destination, length) = places(family);
    let mut register = FIRST_REGISTER;
    for part in KEY {
        match part {
            Part::Source => load(list, "payload", &[(1, register), (2, 1), (3, source), (4, length)]),
            Part::Destination => load(list, "payload", &[(1, register), (2, 1), (3, destination), (4, length)]),
            Part::Transport(offset) => load(list, "payload", &[(1, register), (2, 2), (3, offset), (4, 2)]),
            Part::Protocol => load(list, "meta", &[(2, 16), (1, register)]),
        }
        register += part.registers(family);
    }
}

/// Makes the kernel hold this table. One that is in place is left alone: each change waits for all processors. Where
/// there is none of the name nothing is deleted, since closing the socket waits until what was deleted is out of use.
pub fn put(socket: &mut Socket, table: &Table) -> io::Result<()> {
    if comment_in_place(socket, &table.name)?.is_none() {
        match socket.batch(&batch(creation(table, CREATE | EXCLUSIVE))) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            done => return done,
        }
    }
    if is_in_place(socket, table)? { Ok(()) } else { socket.batch(&encode(table)) }
}

/// Deleting a table that is not there is an error, making one that is there is not.
fn removal(name: &str) -> Vec<Message> {
    vec![table_message(NEW_TABLE, CREATE, name), table_message(DELETE_TABLE, 0, name)]
}

/// The transaction after which there is no table of this name.
pub fn encode_removal(name: &str) -> Vec<Message> {
    batch(removal(name))
}

/// Whether the kernel holds this table: the same text, as its comment says, and as many rules in each chain. Somebody who
/// exchanges a rule for another is not noticed, one who flushes or deletes is.
pub fn is_in_place(socket: &mut Socket, table: &Table) -> io::Result<bool> {
    let Some(comment) = comment_in_place(socket, &table.name)? else { return Ok(false) };
    if comment != table.comment() {
        return Ok(false);
    }
    let wanted: BTreeMap<&str, usize> = table.chains.iter().map(|chain| (chain.name, chain.rules.len())).collect();
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    of_table(socket, GET_CHAIN, 3, &table.name, &mut |chain| {
        found.insert(chain, 0);
    })?;
    of_table(socket, GET_RULE, 2, &table.name, &mut |chain| *found.entry(chain).or_default() += 1)?;
    Ok(found.iter().map(|(chain, count)| (chain.as_str(), *count)).eq(wanted))
}

/// Whether there is a table of this name, whatever is in it.
pub fn exists(socket: &mut Socket, name: &str) -> io::Result<bool> {
    Ok(comment_in_place(socket, name)?.is_some())
}

/// The user data of the table, empty if it has none; `None` where there is no table.
fn comment_in_place(socket: &mut Socket, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut found = None;
    let asked = socket.dump(&table_message(GET_TABLE, 0, name), &mut |body| {
        let comment = attributes(body.get(4..).unwrap_or_default()).into_iter().find(|(kind, _)| *kind == 6);
        found = Some(comment.map(|(_, value)| value.to_vec()).unwrap_or_default());
    });
    match asked {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        other => other.map(|()| found),
    }
}

/// Whether others judge what comes in for this host: a chain at that hook that drops what it does not know, or has rules.
/// Tables of engines like this one do not count.
pub fn others_judge_input(socket: &mut Socket) -> io::Result<bool> {
    const INPUT: [u8; 4] = 1_u32.to_be_bytes();
    const DROP: [u8; 4] = 0_u32.to_be_bytes();
    let mut found: Vec<(u8, String, String, bool)> = Vec::new();
    let asked = socket.dump(&Message::new(GET_CHAIN, DUMP, &header(0, 0)), &mut |body| {
        let Some(&family) = body.first().filter(|family| [INET, nf(Family::V4), nf(Family::V6)].contains(family))
        else {
            return;
        };
        let all: BTreeMap<u16, &[u8]> = attributes(body.get(4..).unwrap_or_default()).into_iter().collect();
        let text = |kind| all.get(&kind).map(|value| text(value));
        let is_input = |value: &&[u8]| attributes(value).contains(&(1, &INPUT[..]));
        if let (Some(table), Some(name), Some("filter")) = (text(1), text(3), text(7).as_deref())
            && all.get(&4).is_some_and(is_input)
            && !table.starts_with(super::TABLE)
        {
            found.push((family, table, name, all.get(&5).is_some_and(|policy| **policy == DROP)));
        }
    });
    match asked {
        // A kernel without tables.
        Err(error) if super::is_unknown(&error) => return Ok(false),
        other => other?,
    }
    for (family, table, chain, drops) in found {
        let mut has_rules = drops;
        if !drops {
            let mut ask = Message::new(GET_RULE, DUMP, &header(family, 0));
            ask.text(1, &table).text(2, &chain);
            socket.dump(&ask, &mut |_| has_rules = true)?;
        }
        if has_rules {
            return Ok(true);
        }
    }
    Ok(false)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// The chain that each thing of this kind in the table is of; `naming` is the attribute that says so.
fn of_table(socket: &mut Socket, kind: u16, naming: u16, table: &str, each: &mut dyn FnMut(String)) -> io::Result<()> {
    let mut ask = Message::new(kind, DUMP, &header(INET, 0));
    ask.text(1, table);
    socket.dump(&ask, &mut |body| {
        let found: BTreeMap<u16, &[u8]> = attributes(body.get(4..).unwrap_or_default()).into_iter().collect();
        if found.get(&1).is_some_and(|value| text(value) == table)
            && let Some(chain) = found.get(&naming)
        {
            each(text(chain));
        }
    })
}

fn encode_rule(table: &str, chain: &str, rule: &Rule) -> Message {
    let mut new = message(NEW_RULE, CREATE | APPEND);
    new.text(1, table).text(2, chain).nested(4, |list| {
        for expression in &rule.0 {
            encode_expression(list, expression);
        }
    });
    new
}

/// Loads something into register 1.
fn load(list: &mut Message, name: &str, fields: &[(u16, u32)]) {
    element(list, name, |data| {
        for (kind, value) in fields {
            data.big(*kind, *value);
        }
    });
}

fn element(list: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    list.nested(1, |element| {
        element.text(1, name).nested(2, fill);
    });
}

/// Goes on only if register 1 holds this (or does not).
fn compare(list: &mut Message, value: &[u8], equal: bool) {
    element(list, "cmp", |data| {
        data.big(1, 1).big(2, u32::from(!equal)).nested(3, |inner| {
            inner.attribute(1, value);
        });
    });
}

fn mask(list: &mut Message, mask: &[u8]) {
    element(list, "bitwise", |data| {
        data.big(1, 1).big(2, 1).big(3, mask.len() as u32);
        data.nested(4, |inner| {
            inner.attribute(1, mask);
        });
        data.nested(5, |inner| {
            inner.attribute(1, &vec![0; mask.len()]);
        });
    });
}

fn interface(list: &mut Message, key: u32, name: &str, is: bool) {
    let mut padded = [0; 16];
    let length = name.len().min(15);
    padded[..length].copy_from_slice(&name.as_bytes()[..length]);
    load(list, "meta", &[(2, key), (1, 1)]);
    compare(list, &padded, is);
}

/// The kernel's number of the family in netfilter (`NFPROTO_IPV4`, `NFPROTO_IPV6`).
fn nf(family: Family) -> u8 {
    family.number()
}

fn is_of(list: &mut Message, family: Family) {
    load(list, "meta", &[(2, 15), (1, 1)]);
    compare(list, &[nf(family)], true);
}

/// `offset` is where the address begins in the network header.
fn address(list: &mut Message, offset: u32, network: IpAddr, prefix: u8, is: bool) {
    let family = Family::of(network);
    is_of(list, family);
    load(list, "payload", &[(1, 1), (2, 1), (3, offset), (4, u32::from(family.bits() / 8))]);
    let bit = |number: u8| if number < prefix { 0x80 >> (number % 8) } else { 0 };
    let bits: Vec<u8> = (0..family.bits() / 8).map(|byte| (byte * 8..=byte * 8 + 7).map(bit).sum()).collect();
    mask(list, &bits);
    let network: Vec<u8> = octets(network).iter().zip(&bits).map(|(byte, bits)| byte & bits).collect();
    compare(list, &network, is);
}

fn source(list: &mut Message, network: IpAddr, prefix: u8, is: bool) {
    address(list, places(Family::of(network)).0, network, prefix, is);
}

fn destination(list: &mut Message, network: IpAddr, prefix: u8, is: bool) {
    address(list, places(Family::of(network)).1, network, prefix, is);
}

fn transport_port(list: &mut Message, offset: u32, port: u16) {
    load(list, "payload", &[(1, 1), (2, 2), (3, offset), (4, 2)]);
    compare(list, &port.to_be_bytes(), true);
}

fn set_transport_port(list: &mut Message, offset: u32, protocol: u8, port: u16) {
    immediate(list, 1, &port.to_be_bytes());
    let checksum = if protocol == 17 { 6 } else { 16 };
    // From register 1 to the transport header, with the checksum of the internet protocols brought up to date.
    load(list, "payload", &[(5, 1), (2, 2), (3, offset), (4, 2), (6, 1), (7, checksum)]);
}

fn verdict(list: &mut Message, code: u32) {
    element(list, "immediate", |data| {
        data.big(1, 0).nested(2, |inner| {
            inner.nested(2, |verdict| {
                verdict.big(1, code);
            });
        });
    });
}

fn immediate(list: &mut Message, register: u32, value: &[u8]) {
    element(list, "immediate", |data| {
        data.big(1, register).nested(2, |inner| {
            inner.attribute(1, value);
        });
    });
}

/// Loads bits of the connection and goes on if one of these is set, or none.
fn connection(list: &mut Message, key: u32, bits: u32, set: bool) {
    load(list, "ct", &[(2, key), (1, 1)]);
    mask(list, &bits.to_ne_bytes());
    compare(list, &0_u32.to_ne_bytes(), !set);
}

fn encode_expression(list: &mut Message, expression: &Expression) {
    match expression {
        Expression::From { interface: name, is } => interface(list, 6, name, *is),
        Expression::To { interface: name, is } => interface(list, 7, name, *is),
        Expression::Source { network, prefix } => source(list, *network, *prefix, true),
        Expression::Destination { network, prefix } => destination(list, *network, *prefix, true),
        Expression::NotToLoopback(family) => {
            let (network, prefix) = loopback(*family);
            destination(list, network, prefix, false);
        }
        Expression::NotFromNeighbour => source(list, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(), 10, false),
        Expression::Protocol(number) => {
            load(list, "meta", &[(2, 16), (1, 1)]);
            compare(list, &[*number], true);
        }
        Expression::Port(port) => transport_port(list, 2, *port),
        Expression::SourcePort(port) => transport_port(list, 0, *port),
        Expression::SetPort { protocol, port } => set_transport_port(list, 2, *protocol, *port),
        Expression::SetSourcePort { protocol, port } => set_transport_port(list, 0, *protocol, *port),
        Expression::ToThisHost => {
            // Address type of the destination; 2 is RTN_LOCAL.
            load(list, "fib", &[(1, 1), (2, 3), (3, 2)]);
            compare(list, &2_u32.to_ne_bytes(), true);
        }
        Expression::Established => connection(list, 0, 2 | 4, true),
        Expression::Published => connection(list, 2, 1 << 5, true),
        Expression::NotPublished => connection(list, 2, 1 << 5, false),
        Expression::Accept => verdict(list, 1),
        Expression::Drop => verdict(list, 0),
        Expression::SendTo { address, port } => {
            immediate(list, 1, &octets(*address));
            immediate(list, 2, &port.to_be_bytes());
            element(list, "nat", |data| {
                data.big(1, 1).big(2, nf(Family::of(*address)).into()).big(3, 1).big(5, 2);
            });
        }
        Expression::Masquerade => element(list, "masq", |_| {}),
        Expression::Of(family) => is_of(list, *family),
        Expression::Icmp6(kind) => {
            load(list, "meta", &[(2, 16), (1, 1)]);
            compare(list, &[58], true);
            load(list, "payload", &[(1, 1), (2, 2), (3, 0), (4, 1)]);
            compare(list, &[*kind], true);
        }
        Expression::Admit(family) => {
            load_connection(list, *family);
            element(list, "dynset", |data| {
                data.text(1, set_name(*family)).big(2, 1).big(3, 0).big(4, FIRST_REGISTER);
            });
        }
        Expression::Admitted(family) => {
            load_connection(list, *family);
            element(list, "lookup", |data| {
                data.text(1, set_name(*family)).big(2, FIRST_REGISTER).big(4, 1);
            });
        }
        Expression::Copy(group) => element(list, "log", |data| {
            // Each packet at once.
            data.attribute(1, &group.to_be_bytes()).attribute(4, &1_u16.to_be_bytes());
        }),
    }
}
