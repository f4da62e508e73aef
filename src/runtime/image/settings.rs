//! What this host says about registries and images: `/etc/stack/images.toml`, then the user's own
//! `~/.config/stack/images.toml`, and what docker's `/etc/docker/daemon.json` says about mirrors and insecure
//! registries. Certificates: `certs.d/HOST[:PORT]/` of `/etc/stack`, `/etc/docker`, `/etc/containers` and of the user,
//! `*.crt` to trust, `*.cert` with `*.key` to be known by.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::limits::Limits;
use super::policy::{self, Policy, Rules};
use crate::runtime::roots::Roots;

/// The file that can't be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}\n  help: mend the file; docs/images.md describes it")]
pub struct SettingsError {
    pub path: PathBuf,
    pub reason: String,
}

/// Everything that a host may say about images.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Folders with `certs.d` in them.
    folders: Vec<PathBuf>,
    insecure: Vec<Insecure>,
    mirrors: BTreeMap<String, Vec<String>>,
    token_services: BTreeMap<String, Vec<String>>,
    pub limits: Limits,
    pub collect: Option<Collect>,
    /// Of the host, and what its user adds.
    pub policy: Policy,
}

/// When the store removes by itself what was not used for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collect {
    /// Percent of the store's disk in use at which it begins…
    pub high_percent: u8,
    /// …and at which it is content.
    pub low_percent: u8,
}

/// Registries that may be spoken to without a certificate that is trusted, or without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Insecure {
    Host(String),
    Network(IpAddr, u8),
}

/// `images.toml`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    insecure: Vec<String>,
    mirrors: BTreeMap<String, Vec<String>>,
    token_services: BTreeMap<String, Vec<String>>,
    limits: Option<Limits>,
    collect: Option<Collect>,
    policy: Option<policy::Text>,
}

/// The part of docker's `daemon.json` that is about registries.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Daemon {
    registry_mirrors: Vec<String>,
    insecure_registries: Vec<String>,
}

impl Settings {
    /// What the files of this host and of this user say.
    ///
    /// # Errors
    /// Where a file is there and can't be understood: what it restricts must not be forgotten.
    pub fn of_host(roots: &Roots) -> Result<Self, SettingsError> {
        let user = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
        let user = user.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")));
        Self::read(&roots.etc, user.as_deref())
    }

    /// What the files below `etc` and below a user's `.config` say.
    ///
    /// # Errors
    /// As [`Settings::of_host`].
    pub fn read(etc: &Path, user: Option<&Path>) -> Result<Self, SettingsError> {
        let all = [Some(etc), user].into_iter().flatten();
        let folders = all.clone().flat_map(|top| ["stack", "docker", "containers"].map(|name| top.join(name)));
        let mut settings = Self { folders: folders.collect(), ..Self::default() };
        settings.add_daemon(&etc.join("docker/daemon.json"))?;
        for top in all {
            settings.add_file(&top.join("stack/images.toml"))?;
        }
        Ok(settings)
    }

    fn add_file(&mut self, path: &Path) -> Result<(), SettingsError> {
        let Some(text) = read(path)? else { return Ok(()) };
        let wrong = |reason: String| SettingsError { path: path.to_owned(), reason };
        let file: File = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        for text in &file.insecure {
            self.insecure.push(Insecure::parse(text).ok_or_else(|| wrong(format!("insecure: {text:?} is no host")))?);
        }
        for (registry, mirrors) in file.mirrors {
            if let Some(bad) = mirrors.iter().find(|mirror| !is_mirror(mirror)) {
                return Err(wrong(format!("mirrors: {bad:?} is not a URL such as https://mirror.example:5000")));
            }
            self.mirrors.insert(registry, mirrors);
        }
        self.token_services.extend(file.token_services);
        if let Some(collect) = file.collect {
            if collect.low_percent > collect.high_percent || collect.high_percent > 100 {
                return Err(wrong("collect: low_percent <= high_percent <= 100 must hold".into()));
            }
            self.collect = Some(collect);
        }
        if let Some(text) = file.policy {
            let rules = Rules::of_text(text, path).map_err(|reason| wrong(format!("policy: {reason}")))?;
            self.policy = std::mem::take(&mut self.policy).and(rules);
        }
        self.limits = file.limits.unwrap_or_else(|| self.limits.clone());
        Ok(())
    }

    fn add_daemon(&mut self, path: &Path) -> Result<(), SettingsError> {
        let Some(text) = read(path)? else { return Ok(()) };
        let wrong = |reason: String| SettingsError { path: path.to_owned(), reason };
        let file: Daemon = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        self.insecure.extend(file.insecure_registries.iter().filter_map(|text| Insecure::parse(text)));
        if let Some(bad) = file.registry_mirrors.iter().find(|mirror| !is_mirror(mirror)) {
            return Err(wrong(format!("registry-mirrors: {bad:?} is not a URL such as https://mirror.example:5000")));
        }
        if !file.registry_mirrors.is_empty() {
            self.mirrors.insert("docker.io".into(), file.registry_mirrors);
        }
        Ok(())
    }

    /// Whether this registry, `HOST[:PORT]`, may be spoken to without TLS or without a trusted certificate.
    pub fn is_insecure(&self, authority: &str) -> bool {
        let authority = authority.to_ascii_lowercase();
        let host = bare_host(&authority);
        self.insecure.iter().any(|one| match one {
            Insecure::Host(name) => *name == authority || *name == host,
            Insecure::Network(network, bits) => {
                host.parse().is_ok_and(|address: IpAddr| within(address, *network, *bits))
            }
        })
    }

    /// URLs to be asked before this registry.
    pub fn mirrors(&self, registry: &str) -> &[String] {
        self.mirrors.get(registry).map_or(&[], Vec::as_slice)
    }

    /// Whether the host's owner said that this registry's passwords may be told to that token service.
    pub fn trusts_token_service(&self, registry: &str, host: &str) -> bool {
        self.token_services.get(registry).is_some_and(|hosts| hosts.iter().any(|one| one.eq_ignore_ascii_case(host)))
    }

    /// The folder with this registry's certificates, where there is one.
    pub fn certificates(&self, authority: &str) -> Option<PathBuf> {
        let plain = !authority.is_empty() && !authority.contains('/') && !authority.starts_with('.');
        let folders = self.folders.iter().map(|folder| folder.join("certs.d").join(authority));
        folders.filter(|_| plain).find(|folder| folder.is_dir())
    }

    /// How long a connection may be silent.
    pub fn stall(&self) -> Duration {
        Duration::from_secs(self.limits.stall_seconds.max(1))
    }
}

fn read(path: &Path) -> Result<Option<String>, SettingsError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(error) => Err(SettingsError { path: path.to_owned(), reason: error.to_string() }),
    }
}

/// `https://HOST[:PORT]`. A path would be left out of what is asked, and a password is not kept here.
fn is_mirror(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or(text.strip_prefix("http://"));
    let host = rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest)).unwrap_or_default();
    !host.is_empty() && !host.contains(['/', '@', '?', '#', ' '])
}

/// The host of `HOST[:PORT]`, an IPv6 address without its brackets.
pub fn bare_host(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.rsplit_once(':').filter(|(name, _)| !name.contains(':')).map_or(authority, |(name, _)| name),
    }
}

impl Insecure {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_end_matches('/').to_ascii_lowercase();
        let text = text.strip_prefix("http://").or(text.strip_prefix("https://")).unwrap_or(&text);
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().ok()?;
            let bits: u8 = bits.parse().ok()?;
            return (u32::from(bits) <= if address.is_ipv4() { 32 } else { 128 })
                .then_some(Self::Network(address, bits));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        (!text.is_empty() && text.chars().all(plain)).then(|| Self::Host(text.to_owned()))
    }
}

fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let same = |a: u128, b: u128, shift: u32| a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0);
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            same(u128::from(a.to_bits()), u128::from(b.to_bits()), 32 - u32::from(bits.min(32)))
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128 - u32::from(bits.min(128))),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(etc: &str, files: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let directory = std::env::temp_dir().join(format!("stack-settings-{etc}-{}", std::process::id()));
        for (name, text) in files {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let settings = Settings::read(&directory, None);
        fs::remove_dir_all(directory).unwrap();
        settings
    }

    #[test]
    fn files_are_read_together() {
        let own = "insecure = [\"r.lan:5000\"]\n[mirrors]\n\"r.example\" = [\"https://m.example\"]\n\
                   [token_services]\n\"r.example\" = [\"a.example\"]\n[limits]\nlayers = 3\n";
        let daemon =
            "{\"registry-mirrors\": [\"https://hub.lan\"], \"insecure-registries\": [\"10.1.0.0/16\"], \"x\": 1}";
        let settings = with("good", &[("stack/images.toml", own), ("docker/daemon.json", daemon)]).unwrap();
        assert_eq!(settings.mirrors("docker.io"), ["https://hub.lan"]);
        assert_eq!(settings.mirrors("r.example"), ["https://m.example"]);
        for (host, expected) in [
            ("r.lan:5000", true),
            ("R.LAN:5000", true),
            ("r.lan", false),
            ("r.lan:5001", false),
            ("10.1.2.3:80", true),
            ("10.2.2.3", false),
        ] {
            assert_eq!(settings.is_insecure(host), expected, "{host}");
        }
        assert!(settings.trusts_token_service("r.example", "A.example"));
        assert!(!settings.trusts_token_service("x.example", "a.example"));
        assert_eq!((settings.limits.layers, settings.limits.config_bytes), (3, 4 << 20));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (name, text) in [
            ("stack/images.toml", "insecur = []"),
            ("stack/images.toml", "insecure = [\"a b\"]"),
            ("stack/images.toml", "[mirrors]\n\"x\" = [\"m.example\"]"),
            ("stack/images.toml", "[mirrors]\n\"x\" = [\"https://m.example/below\"]"),
            ("docker/daemon.json", "{\"registry-mirrors\": [\"m.example\"]}"),
            ("stack/images.toml", "[collect]\nhigh_percent = 50\nlow_percent = 60"),
            ("docker/daemon.json", "{"),
        ] {
            let error = with("bad", &[(name, text)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn certificates_are_looked_for_by_a_name_and_nothing_else() {
        let directory = std::env::temp_dir().join(format!("stack-certs-{}", std::process::id()));
        fs::create_dir_all(directory.join("docker/certs.d/r.example:5000")).unwrap();
        let settings = Settings::read(&directory, None).unwrap();
        assert!(settings.certificates("r.example:5000").is_some());
        for none in ["r.example", "", "..", "../certs.d/r.example:5000"] {
            assert_eq!(settings.certificates(none), None, "{none}");
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
