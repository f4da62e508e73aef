//! From the flags of `stack run` to the container that they ask for: pure, one function a flag that has a form of its
//! own. The words and their forms are docker's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::args::Run;
use crate::reconcile::resource::{
    ContainerConfig, Endpoint, Mount, MountSource, NamespaceMode, NetworkMode, Port, Resources, Restart, label,
};

/// A flag's value that can't be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{flag} {value:?}: {expected}")]
pub struct FlagError {
    pub flag: &'static str,
    pub value: String,
    pub expected: &'static str,
}

fn wrong(flag: &'static str, value: &str, expected: &'static str) -> FlagError {
    FlagError { flag, value: value.to_owned(), expected }
}

/// The container that `run`'s flags ask for. `environment` is that of the caller (for `-e NAME`), `here` the folder
/// that relative sources of bind mounts are in, `file_environment` what `--env-file` held.
pub fn container(
    run: &Run,
    name: &str,
    here: &Path,
    environment: &BTreeMap<String, String>,
    file_environment: BTreeMap<String, String>,
) -> Result<ContainerConfig, FlagError> {
    let mut mounts = run.volume.iter().map(|text| mount(text, here)).collect::<Result<Vec<_>, _>>()?;
    mounts.extend(run.tmpfs.iter().map(|text| tmpfs(text)));
    let mut variables = file_environment;
    variables.extend(run.env.iter().filter_map(|text| variable(text, environment)));
    let labels = run.label.iter().map(|text| pair(text)).chain([(label::ONEOFF.to_owned(), "True".to_owned())]);
    Ok(ContainerConfig {
        name: name.to_owned(),
        service: name.to_owned(),
        number: 1,
        image: run.image.clone(),
        command: (!run.command.is_empty()).then(|| run.command.clone()),
        entrypoint: run.entrypoint.as_ref().map(|word| if word.is_empty() { vec![] } else { vec![word.clone()] }),
        environment: variables,
        labels: labels.collect(),
        user: run.user.clone(),
        working_dir: run.workdir.clone(),
        hostname: run.hostname.clone(),
        tty: run.tty,
        stdin_open: run.interactive,
        init: run.init,
        read_only: run.read_only,
        privileged: run.privileged,
        cap_add: run.cap_add.clone(),
        cap_drop: run.cap_drop.clone(),
        security_opt: run.security_opt.clone(),
        mounts,
        network: network(run),
        userns: users(run.userns.as_deref())?,
        pid: namespace("--pid", run.pid.as_deref())?,
        ipc: namespace("--ipc", run.ipc.as_deref())?,
        ports: run.publish.iter().map(|text| ports(text)).collect::<Result<Vec<_>, _>>()?.concat(),
        restart: restart(&run.restart)?,
        stop_signal: run.stop_signal.clone(),
        stop_grace_ms: run.stop_timeout.map(|seconds| seconds * 1000),
        resources: resources(run)?,
        ..ContainerConfig::default()
    })
}

fn pair(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}

/// `KEY=VALUE`, or `KEY` for the caller's own value; absent when the caller has none.
fn variable(text: &str, environment: &BTreeMap<String, String>) -> Option<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) => Some((key.to_owned(), value.to_owned())),
        None => environment.get(text).map(|value| (text.to_owned(), value.clone())),
    }
}

fn resources(run: &Run) -> Result<Resources, FlagError> {
    let memory = run.memory.as_deref().map(bytes).transpose()?;
    let nano_cpus = run.cpus.map(|cpus| (cpus * 1e9).round() as u64);
    Ok(Resources { memory, nano_cpus, pids: run.pids_limit, ..Resources::default() })
}

/// `512`, `64k`, `1.5g`: bytes in powers of 1024, as docker's `--memory`.
pub fn bytes(text: &str) -> Result<u64, FlagError> {
    let error = || wrong("--memory", text, "expected a number of bytes such as 512m or 2g");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(error()),
    };
    let number: f64 = digits.parse().map_err(|_| error())?;
    if number.is_finite() && number >= 0.0 { Ok((number * f64::from(2).powi(shift)) as u64) } else { Err(error()) }
}

/// `SOURCE:TARGET[:OPTIONS]` or `TARGET`. A source with a slash is a path, another word names a volume.
fn mount(text: &str, here: &Path) -> Result<Mount, FlagError> {
    let error = || wrong("--volume", text, "expected SOURCE:TARGET[:ro], the target an absolute path");
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(error()),
    };
    if !target.starts_with('/') {
        return Err(error());
    }
    let options: Vec<&str> = options.split(',').filter(|option| !option.is_empty()).collect();
    let known = ["ro", "rw", "z", "Z", "nocopy", "rprivate", "private", "rshared", "shared", "rslave", "slave"];
    if options.iter().any(|option| !known.contains(option)) {
        return Err(error());
    }
    let propagation = options.iter().find(|option| option.ends_with("shared") || option.ends_with("slave"));
    let source = match source {
        Some(path) if path.contains('/') || path.starts_with('.') => MountSource::Bind {
            source: clean(&here.join(path)),
            create: true,
            propagation: propagation.map(|option| (*option).to_owned()),
        },
        name => {
            MountSource::Volume { volume: name.map(str::to_owned), nocopy: options.contains(&"nocopy"), subpath: None }
        }
    };
    Ok(Mount { target: target.to_owned(), read_only: options.contains(&"ro"), source })
}

/// The path without `.` and with `..` taken back, by its text alone.
fn clean(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut clean, component| {
        match component {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
        clean
    })
}

/// `TARGET[:size=…,mode=…,…]`; what is not said keeps its safe default.
fn tmpfs(text: &str) -> Mount {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let option = |key: &str| options.split(',').find_map(|option| option.strip_prefix(key));
    let size = option("size=").and_then(|text| bytes(text).ok());
    let mode = option("mode=").and_then(|text| u32::from_str_radix(text, 8).ok());
    let read_only = options.split(',').any(|option| option == "ro");
    let known = |option: &&str| ["size=", "mode="].iter().any(|key| option.starts_with(key));
    let own = options.split(',').filter(|option| !matches!(*option, "" | "ro" | "rw") && !known(option));
    let options = own.map(str::to_owned).collect();
    Mount { target: target.to_owned(), read_only, source: MountSource::Tmpfs { size, mode, options } }
}

/// No `--network` is the engine's `default` network, as docker's `bridge`.
fn network(run: &Run) -> NetworkMode {
    let endpoint = Endpoint { aliases: run.network_alias.clone(), ..Endpoint::default() };
    match run.network.as_deref() {
        Some("none") => NetworkMode::None,
        Some("host") => NetworkMode::Host,
        None | Some("bridge" | "default") => NetworkMode::Networks(BTreeMap::from([("default".to_owned(), endpoint)])),
        Some(other) => match other.strip_prefix("container:") {
            Some(container) => NetworkMode::Container(container.to_owned()),
            None => NetworkMode::Networks(BTreeMap::from([(other.to_owned(), endpoint)])),
        },
    }
}

fn users(text: Option<&str>) -> Result<Option<String>, FlagError> {
    match text {
        None | Some("" | "host") => Ok(None),
        Some("private" | "auto") => Ok(Some("private".to_owned())),
        Some(other) => Err(wrong("--userns", other, "expected host, private or auto")),
    }
}

fn namespace(flag: &'static str, text: Option<&str>) -> Result<NamespaceMode, FlagError> {
    match text {
        None | Some("" | "private") => Ok(NamespaceMode::Private),
        // Every namespace of ours may be joined.
        Some("shareable") if flag == "--ipc" => Ok(NamespaceMode::Private),
        Some("host") => Ok(NamespaceMode::Host),
        Some(other) => match other.strip_prefix("container:") {
            Some(name) if !name.is_empty() => Ok(NamespaceMode::Container(name.to_owned())),
            _ => Err(wrong(flag, other, "expected host, private or container:NAME")),
        },
    }
}

/// `[[IP:]HOST:]CONTAINER[/PROTOCOL]`, with ranges `8000-8010:8000-8010` and `[IPv6]` in brackets.
pub fn ports(text: &str) -> Result<Vec<Port>, FlagError> {
    let error = || wrong("--publish", text, "expected [IP:]HOST:CONTAINER[/tcp|udp], for example 127.0.0.1:8080:80");
    let (address, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !["tcp", "udp"].contains(&protocol) {
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
    };
    Ok((0..=last - first).map(one).collect())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some((first, last))
}

/// `no`, `always`, `unless-stopped`, `on-failure[:N]`.
pub fn restart(text: &str) -> Result<Restart, FlagError> {
    let error = || wrong("--restart", text, "expected no, always, unless-stopped or on-failure[:N]");
    Ok(match text.split_once(':') {
        None => match text {
            "no" | "" => Restart::No,
            "always" => Restart::Always,
            "unless-stopped" => Restart::UnlessStopped,
            "on-failure" => Restart::OnFailure { max_retries: None },
            _ => return Err(error()),
        },
        Some(("on-failure", count)) => Restart::OnFailure { max_retries: Some(count.parse().map_err(|_| error())?) },
        Some(_) => return Err(error()),
    })
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
        };
        for (text, expected) in [
            ("80", vec![port(None, 0, 80, "tcp")]),
            ("8080:80", vec![port(None, 8080, 80, "tcp")]),
            ("53:53/udp", vec![port(None, 53, 53, "udp")]),
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
    fn a_source_with_a_slash_is_a_path() {
        let here = Path::new("/home/me");
        let source = |text: &str| mount(text, here).map(|mount| (mount.source, mount.read_only));
        let bind = |path: &str| MountSource::Bind { source: path.into(), create: true, propagation: None };
        let volume = |name: &str| MountSource::Volume { volume: Some(name.into()), nocopy: false, subpath: None };
        assert_eq!(source("./a/../b:/x:ro"), Ok((bind("/home/me/b"), true)));
        assert_eq!(source("data:/x"), Ok((volume("data"), false)));
        assert!(source("data:x").is_err());
        assert!(source("data:/x:fast").is_err());
    }

    #[test]
    fn sizes_count_in_powers_of_1024() {
        for (text, expected) in [("512", 512), ("64k", 65_536), ("1.5g", 1_610_612_736), ("2MB", 2_097_152)] {
            assert_eq!(bytes(text), Ok(expected));
        }
        assert!(bytes("much").is_err());
    }
}
