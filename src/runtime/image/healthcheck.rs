//! What docker adds to an OCI image's configuration about health: read from the configuration's text, since the OCI
//! specification has no place for it (docker's image specification 1.2, `Healthcheck` and `Shell`).

use serde::{Deserialize, Serialize};

/// How an image wants its containers' health to be found out. Unset fields are docker's defaults; times in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    /// `["CMD", …]`, `["CMD-SHELL", …]`, `["NONE"]`; empty says nothing.
    pub test: Vec<String>,
    pub interval_ms: Option<u64>,
    pub timeout_ms: Option<u64>,
    pub start_period_ms: Option<u64>,
    pub start_interval_ms: Option<u64>,
    pub retries: Option<u32>,
    /// What runs a line of `CMD-SHELL`, whoever wrote it; empty is `/bin/sh -c`.
    pub shell: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    config: Option<Words>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Words {
    healthcheck: Option<Check>,
    shell: Option<Vec<String>>,
}

/// Nanoseconds; 0 is unset.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Check {
    test: Option<Vec<String>>,
    interval: u64,
    timeout: u64,
    start_period: u64,
    start_interval: u64,
    retries: u32,
}

impl Healthcheck {
    /// From an image's configuration.
    ///
    /// # Errors
    /// Where it is there and is not what docker writes.
    pub fn read(configuration: &[u8]) -> serde_json::Result<Self> {
        let words = serde_json::from_slice::<Document>(configuration)?.config.unwrap_or_default();
        let check = words.healthcheck.unwrap_or_default();
        // Docker's smallest is a millisecond.
        let time = |nanoseconds: u64| (nanoseconds > 0).then(|| nanoseconds.div_ceil(1_000_000));
        Ok(Self {
            test: check.test.unwrap_or_default(),
            interval_ms: time(check.interval),
            timeout_ms: time(check.timeout),
            start_period_ms: time(check.start_period),
            start_interval_ms: time(check.start_interval),
            retries: (check.retries > 0).then_some(check.retries),
            shell: words.shell.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_writes_is_read() {
        let text = br#"{"config":{"Shell":["/bin/bash","-c"],
            "Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":5000000000,"Retries":2}}}"#;
        let read = Healthcheck::read(text).unwrap();
        let expected = Healthcheck {
            test: vec!["CMD-SHELL".into(), "true".into()],
            interval_ms: Some(5000),
            retries: Some(2),
            shell: vec!["/bin/bash".into(), "-c".into()],
            ..Healthcheck::default()
        };
        assert_eq!(read, expected);
        for none in ["{}", r#"{"config":null}"#, r#"{"config":{"Healthcheck":null}}"#] {
            assert_eq!(Healthcheck::read(none.as_bytes()).unwrap(), Healthcheck::default(), "{none}");
        }
        assert!(Healthcheck::read(br#"{"config":{"Healthcheck":{"Test":"true"}}}"#).is_err());
    }
}
