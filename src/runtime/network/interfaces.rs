//! What the interfaces of a container are called: pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Join;

/// Of each of these, in their order: what it asks for, what it was called before, or the prefix that is given with it and
/// its place in the order where that is free, else the first number that is. So nothing changes for networks that a
/// container stays in when it joins others. `before` is by network.
pub(super) fn names(joins: &[(&Join, &str)], before: &BTreeMap<&str, &str>) -> Vec<String> {
    let kept = |join: &Join, prefix: &str| {
        let own = before.get(join.network.as_str()).filter(|name| is_numbered(name, prefix));
        own.map(|name| (*name).to_owned())
    };
    let fixed = joins.iter().map(|(join, prefix)| join.interface.clone().or_else(|| kept(join, prefix)));
    let fixed: Vec<Option<String>> = fixed.collect();
    let mut taken: BTreeSet<String> = fixed.iter().flatten().cloned().collect();
    let name = |(place, (fixed, (_, prefix))): (usize, (&Option<String>, &(&Join, &str)))| match fixed {
        Some(fixed) => fixed.clone(),
        None => {
            let numbers = [place].into_iter().chain(0..);
            let mut names = numbers.map(|number| format!("{prefix}{number}"));
            let name = names.find(|name| !taken.contains(name)).unwrap_or_default();
            taken.insert(name.clone());
            name
        }
    };
    fixed.iter().zip(joins).enumerate().map(name).collect()
}

fn is_numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|number| number.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(before: &[(&str, &str)], joins: &[(&str, Option<&str>)], expected: &[&str]) {
        let join = |(network, interface): &(&str, Option<&str>)| Join {
            network: (*network).to_owned(),
            interface: interface.map(str::to_owned),
            ..Join::default()
        };
        let joins: Vec<Join> = joins.iter().map(join).collect();
        let joins: Vec<(&Join, &str)> = joins.iter().map(|join| (join, "eth")).collect();
        assert_eq!(names(&joins, &before.iter().copied().collect()), expected);
    }

    #[test]
    fn an_interface_keeps_its_name_while_others_come_and_go() {
        check(&[], &[("a", None), ("b", Some("lan")), ("c", None)], &["eth0", "lan", "eth2"]);
        check(&[("b", "eth0")], &[("a", None), ("b", None)], &["eth1", "eth0"]);
        check(&[("a", "eth0"), ("b", "eth1")], &[("b", None), ("c", None)], &["eth1", "eth0"]);
        check(&[("a", "lan")], &[("a", None)], &["eth0"]);
        check(&[("a", "eth0")], &[("a", Some("lan"))], &["lan"]);
        check(&[("a", "eth1")], &[("a", Some("eth0")), ("b", None)], &["eth0", "eth1"]);
    }
}
