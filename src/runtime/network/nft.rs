//! The firewall's language, as far as it is needed: a rule is a list of expressions that each test or do one thing
//! (linux/netfilter/nf_tables.h). [`encode`] turns a table into one transaction that replaces the old table: at no
//! moment is there half of it.

use std::fmt;
use std::net::Ipv4Addr;

use super::netlink::{ACK, APPEND, CREATE, Message};

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const INET: u8 = 1;
const IPV4: u32 = 2;

/// A table: chains with their rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub name: String,
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
        network: Ipv4Addr,
        prefix: u8,
    },
    Destination {
        network: Ipv4Addr,
        prefix: u8,
    },
    /// 6 TCP, 17 UDP.
    Protocol(u8),
    Port(u16),
    /// The destination is an address of this host.
    ToThisHost,
    /// Belongs to a connection that was let through before.
    Established,
    /// Its destination was changed by a published port.
    Published,
    Accept,
    Drop,
    SendTo {
        address: Ipv4Addr,
        port: u16,
    },
    Masquerade,
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |is: &bool| if *is { "" } else { "!= " };
        match self {
            Self::From { interface, is } => write!(f, "iifname {}{interface:?}", not(is)),
            Self::To { interface, is } => write!(f, "oifname {}{interface:?}", not(is)),
            Self::Source { network, prefix } => write!(f, "ip saddr {network}/{prefix}"),
            Self::Destination { network, prefix } => write!(f, "ip daddr {network}/{prefix}"),
            Self::Protocol(6) => f.write_str("meta l4proto tcp"),
            Self::Protocol(17) => f.write_str("meta l4proto udp"),
            Self::Protocol(number) => write!(f, "meta l4proto {number}"),
            Self::Port(port) => write!(f, "th dport {port}"),
            Self::ToThisHost => f.write_str("fib daddr type local"),
            Self::Established => f.write_str("ct state established,related"),
            Self::Published => f.write_str("ct status dnat"),
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::SendTo { address, port } => write!(f, "dnat ip to {address}:{port}"),
            Self::Masquerade => f.write_str("masquerade"),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {}", self.name)?;
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

fn header(family: u8, resource: u16) -> Vec<u8> {
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
    [vec![mark(BATCH_BEGIN)], messages, vec![mark(BATCH_END)]].concat()
}

/// The transaction that puts this table in the place of the one of its name, whether or not there is one.
pub fn encode(table: &Table) -> Vec<Message> {
    let mut messages = removal(&table.name);
    messages.push(table_message(NEW_TABLE, CREATE, &table.name));
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
    batch(messages)
}

/// Deleting a table that is not there is an error, making one that is there is not.
fn removal(name: &str) -> Vec<Message> {
    vec![table_message(NEW_TABLE, CREATE, name), table_message(DELETE_TABLE, 0, name)]
}

/// The transaction after which there is no table of this name.
pub fn encode_removal(name: &str) -> Vec<Message> {
    batch(removal(name))
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

fn address(list: &mut Message, offset: u32, network: Ipv4Addr, prefix: u8) {
    load(list, "meta", &[(2, 15), (1, 1)]);
    compare(list, &[IPV4 as u8], true);
    load(list, "payload", &[(1, 1), (2, 1), (3, offset), (4, 4)]);
    let bits = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0).to_be_bytes();
    mask(list, &bits);
    let network = u32::from_be_bytes(network.octets()) & u32::from_be_bytes(bits);
    compare(list, &network.to_be_bytes(), true);
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

/// Loads bits of the connection and goes on if one of these is set.
fn connection(list: &mut Message, key: u32, bits: u32) {
    load(list, "ct", &[(2, key), (1, 1)]);
    mask(list, &bits.to_ne_bytes());
    compare(list, &0_u32.to_ne_bytes(), false);
}

fn encode_expression(list: &mut Message, expression: &Expression) {
    match expression {
        Expression::From { interface: name, is } => interface(list, 6, name, *is),
        Expression::To { interface: name, is } => interface(list, 7, name, *is),
        Expression::Source { network, prefix } => address(list, 12, *network, *prefix),
        Expression::Destination { network, prefix } => address(list, 16, *network, *prefix),
        Expression::Protocol(number) => {
            load(list, "meta", &[(2, 16), (1, 1)]);
            compare(list, &[*number], true);
        }
        Expression::Port(port) => {
            load(list, "payload", &[(1, 1), (2, 2), (3, 2), (4, 2)]);
            compare(list, &port.to_be_bytes(), true);
        }
        Expression::ToThisHost => {
            // Address type of the destination; 2 is RTN_LOCAL.
            load(list, "fib", &[(1, 1), (2, 3), (3, 2)]);
            compare(list, &2_u32.to_ne_bytes(), true);
        }
        Expression::Established => connection(list, 0, 2 | 4),
        Expression::Published => connection(list, 2, 1 << 5),
        Expression::Accept => verdict(list, 1),
        Expression::Drop => verdict(list, 0),
        Expression::SendTo { address, port } => {
            immediate(list, 1, &address.octets());
            immediate(list, 2, &port.to_be_bytes());
            element(list, "nat", |data| {
                data.big(1, 1).big(2, IPV4).big(3, 1).big(5, 2);
            });
        }
        Expression::Masquerade => element(list, "masq", |_| {}),
    }
}
