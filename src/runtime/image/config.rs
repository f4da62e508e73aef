//! An image's configuration, as a stranger sends it: refused when it is taken in, not when it is run.

use std::fmt;

use oci_spec::image::ImageConfiguration;
use serde::Deserialize;

use super::limits::Limits;
use super::{Digest, strict};

/// What must hold of a configuration that is kept.
#[derive(Debug)]
pub struct Checked {
    pub config: ImageConfiguration,
    /// The digests of the unpacked layers, the lowest first.
    pub diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct Own {
    os: String,
    rootfs: Rootfs,
    #[serde(default)]
    config: Option<Words>,
}

#[derive(Deserialize)]
struct Rootfs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Words {
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    exposed_ports: Option<std::collections::BTreeMap<String, serde::de::IgnoredAny>>,
    volumes: Option<std::collections::BTreeMap<String, serde::de::IgnoredAny>>,
    labels: Option<std::collections::BTreeMap<String, String>>,
    env: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
}

/// # Errors
/// Says what is wrong with it. `layers` is how many the manifest has.
pub fn parse(text: &[u8], layers: usize, limits: &Limits) -> Result<Checked, String> {
    if text.len() as u64 > limits.config_bytes {
        return Err(format!("it is larger than {} bytes", limits.config_bytes));
    }
    strict::check(text, limits)?;
    let own: Own = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let config = serde_json::from_slice(text).map_err(|error: serde_json::Error| error.to_string())?;
    let diff_ids = own.rootfs.diff_ids.unwrap_or_default();
    if diff_ids.len() != layers {
        return Err(format!("it names {} layers, the manifest {layers}", diff_ids.len()));
    }
    if own.os != "linux" {
        return Err(format!("it is for the system {:?}, not for linux", own.os));
    }
    own.config.unwrap_or_default().check()?;
    Ok(Checked { config, diff_ids })
}

impl Words {
    fn check(&self) -> Result<(), String> {
        let wrong = |what: &str, text: &dyn fmt::Debug| Err(format!("its {what} is {text:?}, which is none"));
        if let Some(user) = self.user.as_ref().filter(|user| !is_user(user)) {
            return wrong("User", user);
        }
        let relative = |path: &&String| !path.is_empty() && !path.starts_with('/');
        if let Some(path) = self.working_dir.as_ref().filter(relative) {
            return wrong("WorkingDir", path);
        }
        if let Some(signal) = self.stop_signal.as_ref().filter(|signal| !is_signal(signal)) {
            return wrong("StopSignal", signal);
        }
        if let Some(port) = self.exposed_ports.iter().flat_map(|ports| ports.keys()).find(|port| !is_port(port)) {
            return wrong("ExposedPorts", port);
        }
        let words = [&self.env, &self.cmd, &self.entrypoint].into_iter().flatten().flatten();
        let words = words.chain(self.volumes.iter().flat_map(|volumes| volumes.keys())).chain(&self.working_dir);
        match words.chain(self.labels.iter().flatten().flat_map(|(key, value)| [key, value])).find(|w| w.contains('\0'))
        {
            Some(word) => Err(format!("{word:?} holds a NUL byte")),
            None => Ok(()),
        }
    }
}

/// `NAME[:GROUP]`, either by number; a number that the kernel could take for another one is none.
fn is_user(text: &str) -> bool {
    let is_one = |word: &str| {
        let number = word.strip_prefix(['-', '+']).unwrap_or(word);
        let numeric = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        !numeric || word.parse::<u32>().is_ok_and(|id| id < 1 << 31 && !word.starts_with('+'))
    };
    text.split(':').count() <= 2 && text.split(':').all(is_one) && !text.chars().any(char::is_control)
}

fn is_signal(text: &str) -> bool {
    let number = |text: &str| text.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number));
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let real_time = |text: &str| text.starts_with("RTMIN") || text.starts_with("RTMAX");
    text.is_empty()
        || number(text)
        || real_time(name)
        || format!("SIG{name}").parse::<nix::sys::signal::Signal>().is_ok()
}

/// `80`, `80/tcp`, `8000-8010/udp`.
fn is_port(text: &str) -> bool {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    matches!(protocol, "tcp" | "udp" | "sctp")
        && number(first).is_some_and(|first| number(last).is_some_and(|last| first <= last))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn parse_with(words: Value) -> Result<Checked, String> {
        let text = json!({"architecture": "amd64", "os": "linux", "config": words,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "a".repeat(64))]}});
        parse(text.to_string().as_bytes(), 1, &Limits::default())
    }

    #[test]
    fn what_docker_writes_is_taken() {
        for words in [
            json!(null),
            json!({"Entrypoint": null, "Cmd": ["x"], "Env": ["A=b", "C"], "Labels": null, "Volumes": {"/v": {}}}),
            json!({"User": "1000:1000", "WorkingDir": "/x", "StopSignal": "SIGQUIT", "ExposedPorts": {"80/tcp": {}}}),
            json!({"User": "www-data", "StopSignal": "RTMIN+3", "ExposedPorts": {"8000-8010/udp": {}, "9": {}}}),
            json!({"User": "0", "StopSignal": "9", "WorkingDir": "", "Healthcheck": {"Test": ["NONE"]}}),
        ] {
            parse_with(words.clone()).unwrap_or_else(|error| panic!("{words}: {error}"));
        }
    }

    #[test]
    fn what_is_wrong_is_refused_at_once() {
        for (words, expected) in [
            (json!({"Env": "A=b"}), "expected a sequence"),
            (json!({"Cmd": {"a": 1}}), "expected a sequence"),
            (json!({"User": 5}), "expected a string"),
            (json!({"Labels": ["x"]}), "expected a map"),
            (json!({"User": "99999999999999999999"}), "User"),
            (json!({"User": "4294967296"}), "User"),
            (json!({"User": "-1"}), "User"),
            (json!({"User": "2147483648:x"}), "User"),
            (json!({"User": "x:4294967295"}), "User"),
            (json!({"WorkingDir": "proc/self/fd/7"}), "WorkingDir"),
            (json!({"StopSignal": "999"}), "StopSignal"),
            (json!({"StopSignal": "SIGNOTHING"}), "StopSignal"),
            (json!({"ExposedPorts": {"0/tcp": {}}}), "ExposedPorts"),
            (json!({"ExposedPorts": {"70000": {}}}), "ExposedPorts"),
            (json!({"Env": ["A=\u{0}"]}), "NUL"),
        ] {
            let error = parse_with(words.clone()).unwrap_err();
            assert!(error.contains(expected), "{words}: {error}");
        }
        let other = |os: &str, layers: usize| {
            let text = json!({"architecture": "amd64", "os": os, "rootfs": {"type": "layers", "diff_ids": []}});
            parse(text.to_string().as_bytes(), layers, &Limits::default()).unwrap_err()
        };
        assert!(other("windows", 0).contains("windows"));
        assert!(other("linux", 1).contains("0 layers, the manifest 1"));
        let large = json!({"config": {"Labels": {"x": "y".repeat(10 << 20)}}}).to_string();
        assert!(parse(large.as_bytes(), 0, &Limits::default()).unwrap_err().contains("larger"));
    }

    proptest! {
        #[test]
        fn any_words_are_read_or_refused(user in ".*", directory in ".*", signal in ".*", port in ".*", word in ".*") {
            let words = json!({"User": user, "WorkingDir": directory, "StopSignal": signal, "ExposedPorts": {port: {}},
                "Env": [word], "Cmd": [word]});
            if parse_with(words).is_ok() {
                prop_assert!(directory.is_empty() || directory.starts_with('/'));
                prop_assert!(!word.contains('\0') && !user.contains('\n'));
                let number = user.split(':').next().unwrap_or_default().parse::<i128>();
                prop_assert!(number.is_err() || number.is_ok_and(|id| (0..1 << 31).contains(&id)));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused_too(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(&text, 1, &Limits::default()));
        }
    }
}
