//! The flags about networks: `--network`, `--publish`, `--expose`, `--add-host`, addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{FlagError, wrong};
use crate::cli::args::Run;
use crate::reconcile::resource::{Endpoint, NetworkMode, Port};

/// No `--network` is the engine's `default` network, as docker's `bridge`. Address and names belong to the first.
pub fn network(run: &Run) -> Result<NetworkMode, FlagError> {
    let flags = &run.networking;
    let names: Vec<&str> = flags.network.iter().map(String::as_str).collect();
    let own = |name: &str| own_name(name).to_owned();
    let first = Endpoint {
        aliases: flags.network_alias.clone(),
        ipv4_address: flags.ip.as_deref().map(|text| ipv4("--ip", text)).transpose()?,
        ipv6_address: flags.ip6.as_deref().map(|text| ipv6("--ip6", text)).transpose()?,
        link_local_ips: flags
            .link_local_ip
            .iter()
            .map(|text| address("--link-local-ip", text))
            .collect::<Result<_, _>>()?,
        mac_address: flags.mac_address.as_deref().map(mac_address).transpose()?,
        ..Endpoint::default()
    };
    let special = |name: &str| matches!(name, "none" | "host") || name.starts_with("container:");
    let mode = match names[..] {
        [] => NetworkMode::Networks(BTreeMap::from([("default".to_owned(), first.clone())])),
        ["none"] => NetworkMode::None,
        ["host"] => NetworkMode::Host,
        [only] if only.starts_with("container:") => {
            NetworkMode::Container(only.trim_start_matches("container:").to_owned())
        }
        _ => {
            if let Some(odd) = names.iter().find(|name| special(name)) {
                return Err(wrong("--network", odd, "it can't be combined with other networks"));
            }
            let mut all: BTreeMap<String, Endpoint> =
                names.iter().map(|name| (own(name), Endpoint::default())).collect();
            all.insert(own(names[0]), first.clone());
            NetworkMode::Networks(all)
        }
    };
    if let (NetworkMode::Container(_), Some(flag)) = (&mode, of_network(run)) {
        let message = "the network of another container has its names and ports, too: name them where that one is made";
        return Err(wrong(flag, names[0], message));
    }
    let placed = first != Endpoint::default();
    if placed && !matches!(mode, NetworkMode::Networks(_)) {
        return Err(wrong("--network", names[0], "without a network there is no address, alias or hardware address"));
    }
    Ok(mode)
}

/// The engine's word for the network that docker calls `bridge`.
pub fn own_name(name: &str) -> &str {
    if name == "bridge" { "default" } else { name }
}

/// A flag that says something of the network that only its owner can.
fn of_network(run: &Run) -> Option<&'static str> {
    let flags = &run.networking;
    let given = [
        ("--publish", !flags.publish.is_empty()),
        ("--publish-all", flags.publish_all),
        ("--expose", !flags.expose.is_empty()),
        ("--hostname", flags.hostname.is_some()),
        ("--add-host", !flags.add_host.is_empty()),
        ("--dns", !flags.dns.is_empty()),
    ];
    given.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
}

pub fn ipv4(flag: &'static str, text: &str) -> Result<String, FlagError> {
    match text.parse::<std::net::Ipv4Addr>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(wrong(flag, text, "expected an IPv4 address")),
    }
}

fn ipv6(flag: &'static str, text: &str) -> Result<String, FlagError> {
    match text.parse::<std::net::Ipv6Addr>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(wrong(flag, text, "expected an IPv6 address")),
    }
}

fn mac_address(text: &str) -> Result<String, FlagError> {
    let byte = |part: &str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let good = parts.len() == 6 && parts.iter().all(|part| byte(part));
    if good { Ok(text.to_owned()) } else { Err(wrong("--mac-address", text, "expected six bytes: 02:42:ac:11:00:02")) }
}

/// `PORT[-PORT][/PROTOCOL]`, as `PORT/PROTOCOL` each.
pub fn expose(text: &str) -> Result<Vec<String>, FlagError> {
    let error = || wrong("--expose", text, "expected PORT[/tcp|udp|sctp]");
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range(numbers).filter(|_| ["tcp", "udp", "sctp"].contains(&protocol)).ok_or_else(error)?;
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// `-P`: those of these exposed ports that no flag publishes, each from any free port of this host.
pub fn published(exposed: &[String], already: &[Port]) -> Vec<Port> {
    let port = |text: &String| {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let target = number.parse().ok()?;
        Some(Port { host_ip: None, published: 0, target, protocol: protocol.to_owned(), bypass: false })
    };
    let known = |port: &Port| already.iter().any(|own| own.target == port.target && own.protocol == port.protocol);
    exposed.iter().filter_map(port).filter(|port| !known(port)).collect()
}

/// `[[IP:]HOST:]CONTAINER[/PROTOCOL]`, with ranges `8000-8010:8000-8010` and `[IPv6]` in brackets.
pub fn ports(text: &str) -> Result<Vec<Port>, FlagError> {
    let error =
        || wrong("--publish", text, "expected [IP:]HOST:CONTAINER[/tcp|udp|sctp], for example 127.0.0.1:8080:80");
    let (address, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !["tcp", "udp", "sctp"].contains(&protocol) {
        return Err(error());
    }
    let (rest, target) = address.rsplit_once(':').map_or(("", address), |(rest, target)| (rest, target));
    let (ip, host) = match rest.rsplit_once(':') {
        Some((ip, host)) => (Some(ip.trim_matches(['[', ']']).to_owned()), host),
        None => (None, rest),
    };
    if ip.as_ref().is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_err()) {
        return Err(error());
    }
    let (first, last) = range(target).ok_or_else(error)?;
    let published = if host.is_empty() { None } else { Some(range(host).ok_or_else(error)?) };
    if published.is_some_and(|(from, to)| to - from != last - first) {
        return Err(error());
    }
    let one = |offset: u16| Port {
        host_ip: ip.clone(),
        published: published.map_or(0, |(from, _)| from + offset),
        target: first + offset,
        protocol: protocol.to_owned(),
        bypass: false,
    };
    Ok((0..=last - first).map(one).collect())
}

/// `80` or `80-90`.
pub fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some((first, last))
}

/// `NAME:ADDRESS`, the address also in brackets, or `host-gateway`.
pub fn host(text: &str) -> Result<(String, String), FlagError> {
    let error = || wrong("--add-host", text, "expected NAME:ADDRESS, such as db:10.0.0.5 or host:host-gateway");
    let (name, place) = text.split_once([':', '=']).filter(|(name, _)| !name.is_empty()).ok_or_else(error)?;
    let place = place.trim_matches(['[', ']']);
    let known = place == "host-gateway" || place.parse::<IpAddr>().is_ok();
    if known { Ok((name.to_owned(), place.to_owned())) } else { Err(error()) }
}

/// An IP address.
pub fn address(flag: &'static str, text: &str) -> Result<String, FlagError> {
    match text.parse::<IpAddr>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(wrong(flag, text, "expected an IP address")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_dockers_forms() {
        let port = |ip: Option<&str>, published, target, protocol: &str| Port {
            host_ip: ip.map(str::to_owned),
            published,
            target,
            protocol: protocol.to_owned(),
            bypass: false,
        };
        for (text, expected) in [
            ("80", vec![port(None, 0, 80, "tcp")]),
            ("8080:80", vec![port(None, 8080, 80, "tcp")]),
            ("53:53/udp", vec![port(None, 53, 53, "udp")]),
            ("36:36/sctp", vec![port(None, 36, 36, "sctp")]),
            ("127.0.0.1:8080:80", vec![port(Some("127.0.0.1"), 8080, 80, "tcp")]),
            ("[::1]:8080:80", vec![port(Some("::1"), 8080, 80, "tcp")]),
            ("10-11:20-21", vec![port(None, 10, 20, "tcp"), port(None, 11, 21, "tcp")]),
        ] {
            assert_eq!(ports(text), Ok(expected), "{text}");
        }
        for text in ["", "a:80", "0:80", "80:80/icmp", "10-12:20-21", "1.2.3:80:80"] {
            assert!(ports(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_the_image_exposes_is_published_once() {
        let already = ports("8080:80").unwrap();
        let exposed: Vec<String> = ["80/tcp", "81/tcp", "53/udp"].map(str::to_owned).into();
        let found: Vec<String> = published(&exposed, &already).iter().map(Port::to_string).collect();
        assert_eq!(found, ["81/tcp", "53/udp"]);
        assert_eq!(expose("80-81").unwrap(), ["80/tcp", "81/tcp"]);
        assert!(expose("80/icmp").is_err() && expose("x").is_err());
    }

    #[test]
    fn addresses_are_addresses() {
        assert_eq!(host("db:10.0.0.5"), Ok(("db".into(), "10.0.0.5".into())));
        assert_eq!(host("db=[::1]"), Ok(("db".into(), "::1".into())));
        assert_eq!(host("me:host-gateway"), Ok(("me".into(), "host-gateway".into())));
        assert!(host("db").is_err() && host("db:there").is_err() && host(":10.0.0.1").is_err());
        assert!(mac_address("02:42:ac:11:00:02").is_ok() && mac_address("02:42:ac").is_err());
        assert!(ipv4("--ip", "10.0.0.300").is_err() && address("--dns", "::1").is_ok());
    }
}
