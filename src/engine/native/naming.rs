//! The files by which a container finds names: /etc/hosts and /etc/resolv.conf. Pure; the host's own files come as text.

use std::net::IpAddr;

use crate::reconcile::resource::ContainerConfig;

/// Where `netd` answers questions for names, in each namespace.
const NAME_SERVER: &str = "127.0.0.11";

/// /etc/hosts of a container with these addresses. `gateway` is this host as the container sees it.
pub fn hosts(wanted: &ContainerConfig, hostname: &str, addresses: &[IpAddr], gateway: Option<IpAddr>) -> String {
    let mut text = "127.0.0.1\tlocalhost\n".to_owned();
    if addresses.iter().any(IpAddr::is_ipv6) {
        text.push_str("::1\tlocalhost ip6-localhost ip6-loopback\n");
    }
    let domain = wanted.domainname.as_ref().filter(|domain| !domain.is_empty());
    let whole = domain.map(|domain| format!("{hostname}.{domain} ")).unwrap_or_default();
    for address in addresses {
        text.push_str(&format!("{address}\t{whole}{hostname}\n"));
    }
    text + &extra_hosts(wanted, gateway)
}

/// The lines of `extra_hosts`.
pub fn extra_hosts(wanted: &ContainerConfig, gateway: Option<IpAddr>) -> String {
    let gateway = gateway.map_or("127.0.0.1".to_owned(), |gateway| gateway.to_string());
    let line = |(name, address): &(String, String)| {
        format!("{}\t{name}\n", if address == "host-gateway" { &gateway } else { address })
    };
    wanted.extra_hosts.iter().map(line).collect()
}

/// /etc/resolv.conf of a container in networks: `netd` asks the container's `dns` itself. Where it names no search
/// domains or options, the host's count; names without a dot are looked for as they are first.
pub fn resolv_conf(wanted: &ContainerConfig, host: &str) -> String {
    let mut options = if wanted.dns_opt.is_empty() { words(host, "options") } else { wanted.dns_opt.clone() };
    if !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".to_owned());
    }
    write(&[NAME_SERVER.to_owned()], &search(wanted, host), &options)
}

/// The same of a container in the host's network: its own words where it has some, else the host's.
pub fn resolv_conf_of_host(wanted: &ContainerConfig, host: &str) -> String {
    if wanted.dns.is_empty() && wanted.dns_search.is_empty() && wanted.dns_opt.is_empty() {
        return host.to_owned();
    }
    let servers = if wanted.dns.is_empty() { all(host, "nameserver") } else { wanted.dns.clone() };
    let options = if wanted.dns_opt.is_empty() { words(host, "options") } else { wanted.dns_opt.clone() };
    write(&servers, &search(wanted, host), &options)
}

/// `.` alone is: no search domain.
fn search(wanted: &ContainerConfig, host: &str) -> Vec<String> {
    match wanted.dns_search.as_slice() {
        [] => words(host, "search"),
        [dot] if dot == "." => Vec::new(),
        own => own.to_vec(),
    }
}

fn write(servers: &[String], search: &[String], options: &[String]) -> String {
    let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    for (key, words) in [("search", search), ("options", options)] {
        if !words.is_empty() {
            text.push_str(&format!("{key} {}\n", words.join(" ")));
        }
    }
    text
}

/// What follows the key in lines of resolv.conf(5).
fn lines<'a>(host: &'a str, key: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
    host.lines().filter_map(move |line| line.strip_prefix(key).filter(|rest| rest.starts_with([' ', '\t'])))
}

/// Of the last line with the key, which is the one that counts.
fn words(host: &str, key: &str) -> Vec<String> {
    let last = lines(host, key).next_back().unwrap_or_default();
    let before = last.split(['#', ';']).next().unwrap_or_default();
    before.split_whitespace().map(str::to_owned).collect()
}

/// The first word of each line with the key.
fn all(host: &str, key: &str) -> Vec<String> {
    lines(host, key).filter_map(|rest| rest.split_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "# made by hand\nnameserver 10.0.0.1\nsearch old.example\nsearch corp.example lab.example # both\n\
                        options edns0 trust-ad\nnameserver 10.0.0.2\n";

    fn words(text: &[&str]) -> Vec<String> {
        text.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn what_a_container_says_of_names_wins_over_what_the_host_says() {
        let none = ContainerConfig::default();
        let own = ContainerConfig {
            dns: words(&["9.9.9.9"]),
            dns_search: words(&["a.example"]),
            dns_opt: words(&["ndots:3"]),
            ..ContainerConfig::default()
        };
        let dot = ContainerConfig { dns_search: words(&["."]), ..ContainerConfig::default() };
        for (wanted, expected) in [
            (&none, "nameserver 127.0.0.11\nsearch corp.example lab.example\noptions edns0 trust-ad ndots:0\n"),
            (&own, "nameserver 127.0.0.11\nsearch a.example\noptions ndots:3\n"),
            (&dot, "nameserver 127.0.0.11\noptions edns0 trust-ad ndots:0\n"),
        ] {
            assert_eq!(resolv_conf(wanted, HOST), expected);
        }
        assert_eq!(resolv_conf(&none, ""), "nameserver 127.0.0.11\noptions ndots:0\n");
        assert_eq!(resolv_conf_of_host(&none, HOST), HOST);
        assert_eq!(resolv_conf_of_host(&own, HOST), "nameserver 9.9.9.9\nsearch a.example\noptions ndots:3\n");
        let expected = "nameserver 10.0.0.1\nnameserver 10.0.0.2\noptions edns0 trust-ad\n";
        assert_eq!(resolv_conf_of_host(&dot, HOST), expected);
    }

    #[test]
    fn a_container_knows_itself_and_has_the_loopback_names_of_its_families() {
        let gateway = "10.1.0.1".parse().ok();
        let extra = [("h", "1.2.3.4"), ("up", "host-gateway")];
        let wanted = ContainerConfig {
            extra_hosts: extra.map(|(name, address)| (name.to_owned(), address.to_owned())).to_vec(),
            domainname: Some("example".to_owned()),
            ..ContainerConfig::default()
        };
        let four: Vec<IpAddr> = vec!["10.1.0.2".parse().unwrap()];
        let expected = "127.0.0.1\tlocalhost\n10.1.0.2\tweb.example web\n1.2.3.4\th\n10.1.0.1\tup\n";
        assert_eq!(hosts(&wanted, "web", &four, gateway), expected);
        let six: Vec<IpAddr> = vec!["fd00::2".parse().unwrap()];
        let text = hosts(&ContainerConfig::default(), "web", &six, None);
        assert_eq!(text, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfd00::2\tweb\n");
    }
}
