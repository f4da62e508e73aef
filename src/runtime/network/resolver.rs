//! Where a container asks for names: 127.0.0.11, port 53. Nobody listens on that port there: a name server that is the
//! container's own program wants it on all addresses. Two rules in the container's namespace lead to another port and
//! back, without the kernel tracking connections for it.

use std::io;
use std::net::Ipv4Addr;

use super::netlink::Socket;
use super::nft::{self, Chain, Expression, Rule, Table};

pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// Where answers really come from; assigned to nothing (IANA's list of port numbers).
pub const PORT: u16 = 6;
const ASKED: u16 = 53;

/// Makes the rules in the thread's namespace, where they are missing.
pub fn lead_there() -> io::Result<()> {
    nft::put(&mut Socket::netfilter()?, &table())
}

fn table() -> Table {
    let rules = [6, 17].into_iter().flat_map(|protocol| {
        let of = Expression::Protocol(protocol);
        let to = Expression::Destination { network: ADDRESS.into(), prefix: 32 };
        let from = Expression::Source { network: ADDRESS.into(), prefix: 32 };
        let there = Expression::SetPort { protocol, port: PORT };
        let back = Expression::SetSourcePort { protocol, port: ASKED };
        [
            Rule(vec![to, of.clone(), Expression::Port(ASKED), there]),
            Rule(vec![from, of, Expression::SourcePort(PORT), back]),
        ]
    });
    // Before whatever rules the container makes for its own packets: they see the port that is really used.
    let output = Chain { name: "output", kind: "filter", hook: 3, priority: -300, rules: rules.collect() };
    Table { name: "stack-names".to_owned(), remembers: Vec::new(), chains: vec![output] }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn questions_are_led_to_the_server_and_answers_back() {
        expect![[r#"
            table inet stack-names
              chain output (filter hook 3 priority -300)
                ip daddr 127.0.0.11/32 meta l4proto tcp th dport 53 th dport set 6
                ip saddr 127.0.0.11/32 meta l4proto tcp th sport 6 th sport set 53
                ip daddr 127.0.0.11/32 meta l4proto udp th dport 53 th dport set 6
                ip saddr 127.0.0.11/32 meta l4proto udp th sport 6 th sport set 53
        "#]]
        .assert_eq(&table().to_string());
    }
}
