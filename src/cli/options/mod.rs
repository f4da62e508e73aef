//! From the flags of `stack run` to the container that they ask for: pure, one function a flag that has a form of its
//! own. The words and their forms are docker's.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::args::{Limits, Run, RunLife};
use crate::reconcile::resource::{
    ContainerConfig, DeviceMapping, Healthcheck, Logging, NamespaceMode, OWN_RUNTIMES, Resources, Restart, label,
};
use crate::runtime::shim::signal_number;
use crate::spec::logging::At;
use crate::spec::probe::Probe;
use crate::spec::{self, units};

mod mounts;
mod network;

pub use network::{address, ipv4, own_name, ports, published, range};
use network::{expose, host, network};

/// A flag's value that can't be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{flag} {value:?}: {expected}")]
pub struct FlagError {
    pub flag: &'static str,
    pub value: String,
    pub expected: Cow<'static, str>,
}

fn wrong(flag: &'static str, value: &str, expected: impl Into<Cow<'static, str>>) -> FlagError {
    FlagError { flag, value: value.to_owned(), expected: expected.into() }
}

/// What `run`'s flags can only be understood with.
#[derive(Debug, Default)]
pub struct Around {
    /// The folder that relative sources of bind mounts are in.
    pub here: PathBuf,
    /// Of the caller, for `-e NAME`.
    pub environment: BTreeMap<String, String>,
    /// The lines of `--env-file` and `--label-file`.
    pub variables: Vec<String>,
    pub labels: Vec<String>,
}

/// The container that `run`'s flags ask for.
pub fn container(run: &Run, name: &str, around: &Around) -> Result<ContainerConfig, FlagError> {
    let (program, limits, security, life) = (&run.program, &run.limits, &run.security, &run.life);
    let lines = around.variables.iter().chain(&program.env);
    let labels = around.labels.iter().chain(&program.label).map(|text| pair(text));
    let exposed = run.networking.expose.iter().map(|text| expose(text)).collect::<Result<Vec<_>, _>>()?;
    Ok(ContainerConfig {
        name: name.to_owned(),
        service: name.to_owned(),
        number: 1,
        image: run.image().to_owned(),
        command: (!run.command().is_empty()).then(|| run.command().to_vec()),
        entrypoint: program.entrypoint.as_ref().map(|word| if word.is_empty() { vec![] } else { vec![word.clone()] }),
        environment: lines.filter_map(|text| variable(text, &around.environment)).collect(),
        labels: labels.chain([(label::ONEOFF.to_owned(), "True".to_owned())]).collect(),
        user: program.user.clone(),
        group_add: program.group_add.clone(),
        working_dir: program.workdir.clone(),
        hostname: run.networking.hostname.clone(),
        domainname: run.networking.domainname.clone(),
        tty: run.tty,
        stdin_open: run.interactive,
        init: program.init,
        read_only: run.files.read_only,
        privileged: security.privileged,
        cap_add: security.cap_add.clone(),
        cap_drop: security.cap_drop.clone(),
        security_opt: security.security_opt.iter().map(|text| security_option(text, &around.here)).collect(),
        devices: run.files.device.iter().map(|text| device(text)).collect::<Result<_, _>>()?,
        sysctls: security.sysctl.iter().map(|text| setting("--sysctl", text)).collect::<Result<_, _>>()?,
        ulimits: limits.ulimit.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?,
        mounts: mounts::mounts(run, &around.here)?,
        network: network(run)?,
        ports: run.networking.publish.iter().map(|text| ports(text)).collect::<Result<Vec<_>, _>>()?.concat(),
        expose: exposed.concat(),
        dns: run.networking.dns.iter().map(|text| address("--dns", text)).collect::<Result<_, _>>()?,
        dns_search: run.networking.dns_search.clone(),
        dns_opt: run.networking.dns_option.clone(),
        extra_hosts: run.networking.add_host.iter().map(|text| host(text)).collect::<Result<_, _>>()?,
        userns: users(security.userns.as_deref())?,
        pid: namespace("--pid", security.pid.as_deref())?,
        ipc: namespace("--ipc", security.ipc.as_deref())?,
        uts_host: host_namespace("--uts", security.uts.as_deref())?,
        cgroup_host: host_namespace("--cgroupns", security.cgroupns.as_deref())?,
        runtime: life.runtime.clone().filter(|name| !OWN_RUNTIMES.contains(&name.as_str())),
        restart: policy(run)?,
        healthcheck: healthcheck(life)?,
        stop_signal: life.stop_signal.clone().map(|text| signal("--stop-signal", text)).transpose()?,
        stop_grace_ms: life.stop_timeout.map(|seconds| seconds * 1000),
        logging: logging(life)?,
        resources: Resources { memory_swappiness: limits.memory_swappiness, ..resources(&limits.changeable)? },
        oom_kill_disable: limits.oom_kill_disable,
        cgroup_parent: limits.cgroup_parent.clone(),
        annotations: program.annotation.iter().map(|text| pair(text)).collect(),
        device_cgroup_rules: run.files.device_cgroup_rule.clone(),
        shm_size: run.files.shm_size.as_deref().map(|text| bytes("--shm-size", text)).transpose()?,
        oom_score_adj: limits.oom_score_adj,
        ..ContainerConfig::default()
    })
}

fn pair(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}

/// `KEY=VALUE`, both there.
pub fn setting(flag: &'static str, text: &str) -> Result<(String, String), FlagError> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(wrong(flag, text, "expected KEY=VALUE")),
    }
}

/// `KEY=VALUE`, or `KEY` for the caller's own value; absent when the caller has none.
pub fn variable(text: &str, environment: &BTreeMap<String, String>) -> Option<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) => Some((key.to_owned(), value.to_owned())),
        None => environment.get(text).map(|value| (text.to_owned(), value.clone())),
    }
}

/// The lines of `--env-file` and `--label-file` that say something.
pub fn lines(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// The lines of an `--env-file`.
///
/// # Errors
/// Where one names no variable: docker takes no spaces in names either.
pub fn variables(text: &str) -> Result<Vec<String>, FlagError> {
    let is_named = |line: &String| {
        let name = line.split('=').next().unwrap_or_default();
        !name.is_empty() && !name.contains(char::is_whitespace)
    };
    let lines = lines(text);
    match lines.iter().find(|line| !is_named(line)) {
        Some(line) => Err(wrong("--env-file", line, "expected NAME=VALUE or NAME, without spaces in the name")),
        None => Ok(lines),
    }
}

/// The limits that flags ask for.
pub fn resources(limits: &Limits) -> Result<Resources, FlagError> {
    let amount = |flag, text: &Option<String>| text.as_deref().map(|text| bytes(flag, text)).transpose();
    let swap = |text: &str| match text {
        "-1" => Ok(-1),
        text => bytes("--memory-swap", text).map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
    };
    let cpus = |text: &str| units::nanos(text).ok_or_else(|| wrong("--cpus", text, "expected a number such as 1.5"));
    let resources = Resources {
        memory: amount("--memory", &limits.memory)?,
        memory_reservation: amount("--memory-reservation", &limits.memory_reservation)?,
        memory_swap: limits.memory_swap.as_deref().map(swap).transpose()?,
        nano_cpus: limits.cpus.as_deref().map(cpus).transpose()?,
        cpu_shares: limits.cpu_shares,
        cpuset: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
        blkio_weight: limits.blkio_weight.map(blkio_weight).transpose()?.flatten(),
        pids: limits.pids_limit,
        cpu_period_us: limits.cpu_period,
        cpu_quota_us: limits.cpu_quota,
        ..Resources::default()
    };
    agreed(limits, &resources)?;
    Ok(resources)
}

fn blkio_weight(weight: u16) -> Result<Option<u16>, FlagError> {
    match weight {
        0 => Ok(None),
        10..=1000 => Ok(Some(weight)),
        other => Err(wrong("--blkio-weight", &other.to_string(), "expected 10 to 1000, or 0 for the usual weight")),
    }
}

/// What the kernel would refuse, in words.
fn agreed(limits: &Limits, asked: &Resources) -> Result<(), FlagError> {
    let Some(memory) = asked.memory else { return Ok(()) };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    if asked.memory_reservation.is_some_and(|reserved| reserved > memory) {
        let reserved = text(&limits.memory_reservation);
        return Err(wrong("--memory-reservation", &reserved, "expected at most what --memory allows"));
    }
    if asked.memory_swap.is_some_and(|swap| u64::try_from(swap).is_ok_and(|swap| swap < memory)) {
        let swap = text(&limits.memory_swap);
        return Err(wrong("--memory-swap", &swap, "it is memory and swap together: at least --memory, or -1"));
    }
    if limits.cpus.is_some() && (asked.cpu_quota_us.is_some() || asked.cpu_period_us.is_some()) {
        return Err(wrong(
            "--cpus",
            &text(&limits.cpus),
            "it sets --cpu-quota and --cpu-period: give one or the others",
        ));
    }
    Ok(())
}

/// `512`, `64k`, `1.5g`: bytes in powers of 1024.
pub fn bytes(flag: &'static str, text: &str) -> Result<u64, FlagError> {
    units::bytes(text).ok_or_else(|| wrong(flag, text, "expected a number of bytes such as 512m or 2g"))
}

fn duration(flag: &'static str, text: &str) -> Result<u64, FlagError> {
    units::duration_ms(text).ok_or_else(|| wrong(flag, text, "expected a duration such as 500ms, 30s or 1m30s"))
}

/// A name or number that the kernel knows.
pub fn signal(flag: &'static str, text: String) -> Result<String, FlagError> {
    match signal_number(&text) {
        Some(_) => Ok(text),
        None => Err(wrong(flag, &text, "expected a signal such as TERM, SIGHUP or 15")),
    }
}

fn logging(life: &RunLife) -> Result<Logging, FlagError> {
    // A file is told of it in its plan, and applied all the same.
    if let Some(driver) = life.log_driver.as_deref().filter(|driver| spec::logging::ELSEWHERE.contains(driver)) {
        return Err(wrong(
            "--log-driver",
            driver,
            "there is no such driver here: json-file, local, journald, syslog, none",
        ));
    }
    let options: BTreeMap<String, String> =
        life.log_opt.iter().map(|text| setting("--log-opt", text)).collect::<Result<_, _>>()?;
    let problems = spec::logging::parse(life.log_driver.as_deref(), &options).err().unwrap_or_default();
    if let Some(problem) = problems.into_iter().next() {
        let (flag, value) = match problem.at {
            At::Driver => ("--log-driver", life.log_driver.clone().unwrap_or_default()),
            At::Key(key) | At::Value(key) => ("--log-opt", format!("{key}={}", options[&key])),
        };
        let help = problem.help.map(|help| format!("\n  help: {help}")).unwrap_or_default();
        return Err(wrong(flag, &value, problem.message + &help));
    }
    Ok(Logging { driver: life.log_driver.clone(), options })
}

fn healthcheck(life: &RunLife) -> Result<Option<Healthcheck>, FlagError> {
    if life.no_healthcheck {
        return Ok(Some(Healthcheck { test: vec!["NONE".to_owned()], ..Healthcheck::default() }));
    }
    let time = |flag, text: &Option<String>| text.as_deref().map(|text| duration(flag, text)).transpose();
    let probe = life.health_probe.as_ref().map(|text| {
        Probe::parse(text).ok_or_else(|| {
            wrong("--health-probe", text, "expected a place such as http://:8080/health, tcp://:5432 or grpc://:9000")
        })
    });
    let test = life.health_cmd.as_ref().map(|command| vec!["CMD-SHELL".to_owned(), command.clone()]);
    let check = Healthcheck {
        test: test.unwrap_or_default(),
        probe: probe.transpose()?,
        interval_ms: time("--health-interval", &life.health_interval)?,
        timeout_ms: time("--health-timeout", &life.health_timeout)?,
        start_period_ms: time("--health-start-period", &life.health_start_period)?,
        start_interval_ms: time("--health-start-interval", &life.health_start_interval)?,
        retries: life.health_retries,
    };
    Ok((check != Healthcheck::default()).then_some(check))
}

/// `SOURCE[:TARGET[:rwm]]`.
fn device(text: &str) -> Result<DeviceMapping, FlagError> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, permissions) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, target] if target.starts_with('/') => (source, target, "rwm"),
        [source, permissions] => (source, source, permissions),
        [source, target, permissions] => (source, target, permissions),
        _ => ("", "", ""),
    };
    let known = !permissions.is_empty() && permissions.chars().all(|c| "rwm".contains(c));
    if !source.starts_with('/') || !target.starts_with('/') || !known {
        return Err(wrong("--device", text, "expected SOURCE[:TARGET[:rwm]], both absolute paths"));
    }
    Ok(DeviceMapping { source: source.to_owned(), target: target.to_owned(), permissions: permissions.to_owned() })
}

/// `NAME=SOFT[:HARD]`; -1 is unlimited.
fn ulimit(text: &str) -> Result<(String, (i64, i64)), FlagError> {
    let error = || wrong("--ulimit", text, "expected NAME=SOFT[:HARD], such as nofile=1024:2048");
    let (name, amounts) = text.split_once('=').ok_or_else(error)?;
    let (soft, hard) = amounts.split_once(':').unwrap_or((amounts, amounts));
    let amount = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= -1).ok_or_else(error);
    Ok((name.to_owned(), (amount(soft)?, amount(hard)?)))
}

/// Where a profile lies does not depend on who starts the container next.
fn security_option(text: &str, here: &Path) -> String {
    match text.split_once(['=', ':']) {
        Some(("seccomp", file)) if !["unconfined", "builtin", ""].contains(&file) => {
            format!("seccomp={}", here.join(file).display())
        }
        _ => text.to_owned(),
    }
}

fn users(text: Option<&str>) -> Result<Option<String>, FlagError> {
    match text {
        None | Some("") => Ok(None),
        Some("host") => Ok(Some("host".to_owned())),
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
            _ => Err(wrong(flag, other, "expected private, host or container:NAME")),
        },
    }
}

fn host_namespace(flag: &'static str, text: Option<&str>) -> Result<bool, FlagError> {
    match text {
        None | Some("" | "private") => Ok(false),
        Some("host") => Ok(true),
        Some(other) => Err(wrong(flag, other, "expected host, or nothing")),
    }
}

fn policy(run: &Run) -> Result<Restart, FlagError> {
    let policy = restart(&run.life.restart)?;
    if run.rm && policy != Restart::No {
        return Err(wrong("--restart", &run.life.restart, "a container that --rm removes can't be started again"));
    }
    Ok(policy)
}

/// Whether `--attach` names this stream.
pub fn names_stream(attach: &[String], stream: &str) -> bool {
    attach.iter().any(|named| named.eq_ignore_ascii_case(stream))
}

/// Which of standard output and standard error `--attach` leaves; without a word both.
pub fn outputs(attach: &[String]) -> [bool; 2] {
    ["stdout", "stderr"].map(|stream| attach.is_empty() || names_stream(attach, stream))
}

/// `ctrl-p,ctrl-q`, or single characters: the keys as the terminal sends them. Empty switches detaching off.
pub fn detach_keys(text: Option<&str>) -> Result<Vec<u8>, FlagError> {
    let Some(text) = text else { return Ok(vec![16, 17]) };
    let error = || wrong("--detach-keys", text, "expected keys such as ctrl-p,ctrl-q or ctrl-\\,d");
    let key = |word: &str| match word.as_bytes() {
        [single] if single.is_ascii() => Ok(*single),
        [b'c', b't', b'r', b'l', b'-', key] => match key.to_ascii_lowercase() {
            letter @ b'a'..=b'z' => Ok(letter - b'a' + 1),
            b'@' => Ok(0),
            b'[' => Ok(27),
            b'\\' => Ok(28),
            b']' => Ok(29),
            b'^' => Ok(30),
            b'_' => Ok(31),
            _ => Err(error()),
        },
        _ => Err(error()),
    };
    if text.is_empty() { Ok(Vec::new()) } else { text.split(',').map(key).collect() }
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
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Arguments, Command};

    fn container_of(line: &str) -> Result<ContainerConfig, String> {
        let words = ["stack", "run"].into_iter().chain(line.split_whitespace()).chain(["image", "word"]);
        let parsed = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        let Command::Run(run) = parsed.command else { unreachable!() };
        let environment = BTreeMap::from([("HOME".to_owned(), "/root".to_owned())]);
        let around = Around { here: "/here".into(), environment, ..Around::default() };
        container(&run, "name", &around).map_err(|error| error.to_string())
    }

    /// Each flag reaches the container that is made of it.
    #[test]
    fn every_flag_is_carried_over() {
        let plain = || container_of("").unwrap();
        let with = |change: &dyn Fn(&mut ContainerConfig)| {
            let mut config = plain();
            change(&mut config);
            config
        };
        let env = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        type Change<'a> = Box<dyn Fn(&mut ContainerConfig) + 'a>;
        let cases: Vec<(&str, Change<'_>)> = vec![
            ("-e A=1", Box::new(|c| c.environment = env("A", "1"))),
            ("-e HOME", Box::new(|c| c.environment = env("HOME", "/root"))),
            ("-e NOT_SET", Box::new(|_| {})),
            ("--entrypoint /x", Box::new(|c| c.entrypoint = Some(vec!["/x".into()]))),
            ("-u 1:2", Box::new(|c| c.user = Some("1:2".into()))),
            ("--group-add 7", Box::new(|c| c.group_add = vec!["7".into()])),
            ("-w /w", Box::new(|c| c.working_dir = Some("/w".into()))),
            ("-h host", Box::new(|c| c.hostname = Some("host".into()))),
            ("-t", Box::new(|c| c.tty = true)),
            ("-i", Box::new(|c| c.stdin_open = true)),
            ("--init", Box::new(|c| c.init = true)),
            ("--cpuset-mems 0-1", Box::new(|c| c.resources.cpuset_mems = Some("0-1".into()))),
            ("--blkio-weight 300", Box::new(|c| c.resources.blkio_weight = Some(300))),
            ("--blkio-weight 0", Box::new(|_| {})),
            ("-a stdin --attach STDERR", Box::new(|_| {})),
            ("--read-only", Box::new(|c| c.read_only = true)),
            ("--privileged", Box::new(|c| c.privileged = true)),
            ("--cap-add A --cap-drop B", Box::new(|c| (c.cap_add, c.cap_drop) = (vec!["A".into()], vec!["B".into()]))),
            ("--security-opt no-new-privileges", Box::new(|c| c.security_opt = vec!["no-new-privileges".into()])),
            (
                "--device /dev/fuse:/dev/f:r",
                Box::new(|c| {
                    c.devices = vec![DeviceMapping {
                        source: "/dev/fuse".into(),
                        target: "/dev/f".into(),
                        permissions: "r".into(),
                    }]
                }),
            ),
            ("--sysctl a.b=1", Box::new(|c| c.sysctls = env("a.b", "1"))),
            ("--ulimit nofile=1:2", Box::new(|c| c.ulimits = BTreeMap::from([("nofile".into(), (1, 2))]))),
            (
                "--pid host --ipc container:x --uts host",
                Box::new(|c| {
                    c.pid = NamespaceMode::Host;
                    c.ipc = NamespaceMode::Container("x".into());
                    c.uts_host = true;
                }),
            ),
            (
                "--add-host a:1.2.3.4 --dns 1.1.1.1 --dns-search d --dns-option o",
                Box::new(|c| {
                    c.extra_hosts = vec![("a".into(), "1.2.3.4".into())];
                    (c.dns, c.dns_search, c.dns_opt) = (vec!["1.1.1.1".into()], vec!["d".into()], vec!["o".into()]);
                }),
            ),
            ("--runtime runc", Box::new(|c| c.runtime = Some("runc".into()))),
            ("--runtime stack", Box::new(|c| c.runtime = None)),
            ("--userns auto", Box::new(|c| c.userns = Some("private".into()))),
            ("--restart on-failure:3", Box::new(|c| c.restart = Restart::OnFailure { max_retries: Some(3) })),
            (
                "--stop-signal INT --stop-timeout 3",
                Box::new(|c| {
                    c.stop_signal = Some("INT".into());
                    c.stop_grace_ms = Some(3000);
                }),
            ),
            (
                "--health-cmd true --health-interval 1s --health-retries 2",
                Box::new(|c| {
                    c.healthcheck = Some(Healthcheck {
                        test: vec!["CMD-SHELL".into(), "true".into()],
                        interval_ms: Some(1000),
                        retries: Some(2),
                        ..Healthcheck::default()
                    });
                }),
            ),
            (
                "--no-healthcheck",
                Box::new(|c| c.healthcheck = Some(Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() })),
            ),
            (
                "--log-driver none --log-opt max-size=1m",
                Box::new(|c| c.logging = Logging { driver: Some("none".into()), options: env("max-size", "1m") }),
            ),
            (
                "-m 64m --memory-reservation 32m --memory-swap -1 --cpus 1.5 --cpuset-cpus 0 -c 512 --pids-limit -1",
                Box::new(|c| {
                    c.resources = Resources {
                        memory: Some(64 << 20),
                        memory_reservation: Some(32 << 20),
                        memory_swap: Some(-1),
                        nano_cpus: Some(1_500_000_000),
                        cpuset: Some("0".into()),
                        cpu_shares: Some(512),
                        pids: Some(-1),
                        ..Resources::default()
                    };
                }),
            ),
            (
                "--shm-size 1m --oom-score-adj -5",
                Box::new(|c| (c.shm_size, c.oom_score_adj) = (Some(1 << 20), Some(-5))),
            ),
        ];
        assert_eq!(plain().command, Some(vec!["word".to_owned()]));
        for (line, change) in cases {
            assert_eq!(container_of(line), Ok(with(&*change)), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for line in [
            "--device fuse",
            "--device /dev/fuse:/x:q",
            "--ulimit nofile",
            "--ulimit nofile=a",
            "--sysctl x",
            "--pid me",
            "--uts mine",
            "--restart sometimes",
            "--rm --restart always",
            "--stop-signal FLY",
            "--health-interval soon",
            "-m much",
            "--cpus many",
            "--memory-swap -2",
            "--ip here",
            "--mac-address 1:2",
            "--dns there",
            "--network none --ip 10.0.0.1",
            "--network host --network a",
            "-v a:/x --tmpfs /x",
            "--log-opt size",
            "--log-driver fluentd",
            "--log-driver local --log-opt labels=a",
        ] {
            assert!(container_of(line).is_err(), "{line}");
        }
    }

    #[test]
    fn detach_keys_are_bytes() {
        for (text, expected) in [
            (None, Some(vec![16, 17])),
            (Some("ctrl-a,d"), Some(vec![1, b'd'])),
            (Some("ctrl-\\"), Some(vec![28])),
            (Some(""), Some(vec![])),
            (Some("ctrl-é"), None),
            (Some("meta-x"), None),
        ] {
            assert_eq!(detach_keys(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn sizes_count_in_powers_of_1024() {
        for (text, expected) in [("512", 512), ("64k", 65_536), ("1.5g", 1_610_612_736), ("2MB", 2_097_152)] {
            assert_eq!(bytes("--memory", text), Ok(expected));
        }
        assert!(bytes("--memory", "much").is_err());
    }
}
