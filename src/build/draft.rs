//! An image in the making: its configuration as the JSON that it will be (OCI image specification, "Image
//! Configuration", with docker's additions), and its layers. Pure. Fields that nobody here knows are kept.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::runtime::image::{Digest, Healthcheck, Image};

/// What stages hand on.
#[derive(Clone, Debug)]
pub struct Draft {
    value: Value,
    /// The lowest first.
    pub layers: Vec<Digest>,
    /// Bytes of the layers' archives.
    pub size: u64,
    /// Seconds since 1970 of the newest layer; what the image's own time will be.
    pub created: u64,
    /// `CMD` was said in this very stage.
    has_own_command: bool,
}

/// A base image that can't be built upon.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    #[error("the configuration of {0} can't be read: {1}")]
    Configuration(String, serde_json::Error),
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was just made one")
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

impl Draft {
    /// `FROM scratch`.
    pub fn scratch(os: &str, architecture: &str) -> Self {
        let value = json!({"architecture": architecture, "os": os, "config": {}, "history": []});
        Self { value, layers: Vec::new(), size: 0, created: 0, has_own_command: false }
    }

    /// `FROM` an image.
    ///
    /// # Errors
    /// Where its configuration can't be read.
    pub fn from_image(image: &Image) -> Result<Self, DraftError> {
        let wrong = |error| DraftError::Configuration(image.reference.clone(), error);
        let value: Value = match image.text.is_empty() {
            true => serde_json::to_value(&image.config).map_err(wrong)?,
            false => serde_json::from_str(&image.text).map_err(wrong)?,
        };
        let created = value.get("created").and_then(Value::as_str).and_then(|text| text.parse().ok());
        let created = created.map_or(0, |time: jiff::Timestamp| time.as_second().max(0) as u64);
        Ok(Self { value, layers: image.diff_ids.clone(), size: image.size, created, has_own_command: false })
    }

    /// `FROM` another stage.
    pub fn from_stage(stage: &Self) -> Self {
        Self { has_own_command: false, ..stage.clone() }
    }

    fn config(&self, key: &str) -> Option<&Value> {
        self.value.get("config")?.get(key)
    }

    fn set(&mut self, key: &str, value: Value) {
        let config = object(&mut self.value).entry("config").or_insert_with(|| json!({}));
        object(config).insert(key.to_owned(), value);
    }

    fn unset(&mut self, key: &str) {
        if let Some(config) = self.value.get_mut("config").and_then(Value::as_object_mut) {
            config.remove(key);
        }
    }

    fn text(&self, key: &str) -> String {
        self.config(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// `KEY=VALUE`, in the order in which they were first set.
    pub fn environment(&self) -> Vec<String> {
        strings(self.config("Env"))
    }

    pub fn variable(&self, name: &str) -> Option<String> {
        let env = self.config("Env").and_then(Value::as_array)?;
        let find = |entry: &Value| entry.as_str()?.split_once('=').filter(|(key, _)| *key == name)?.1.to_owned().into();
        env.iter().rev().find_map(find)
    }

    pub fn set_variable(&mut self, name: &str, value: &str) {
        let mut env = self.environment();
        let entry = format!("{name}={value}");
        match env.iter_mut().find(|entry| entry.split('=').next() == Some(name)) {
            Some(present) => *present = entry,
            None => env.push(entry),
        }
        self.set("Env", json!(env));
    }

    pub fn user(&self) -> String {
        self.text("User")
    }

    pub fn set_user(&mut self, user: &str) {
        self.set("User", json!(user));
    }

    /// `/` where none is set.
    pub fn working_directory(&self) -> String {
        let text = self.text("WorkingDir");
        if text.is_empty() { "/".to_owned() } else { text }
    }

    /// The path as seen from the working directory, absolute and without `..`.
    pub fn resolve(&self, path: &str) -> PathBuf {
        let whole =
            if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", self.working_directory()) };
        let parts = super::pattern::clean(&whole);
        PathBuf::from(format!("/{}", parts.join("/")))
    }

    pub fn set_working_directory(&mut self, path: &str) {
        let path = self.resolve(path);
        self.set("WorkingDir", json!(path));
    }

    pub fn shell(&self) -> Vec<String> {
        let shell = strings(self.config("Shell"));
        if shell.is_empty() { vec!["/bin/sh".to_owned(), "-c".to_owned()] } else { shell }
    }

    pub fn set_shell(&mut self, shell: &[String]) {
        self.set("Shell", json!(shell));
    }

    pub fn set_command(&mut self, words: &[String]) {
        self.set("Cmd", json!(words));
        self.has_own_command = true;
    }

    /// A command that came from below belonged to another entrypoint.
    pub fn set_entrypoint(&mut self, words: &[String]) {
        self.set("Entrypoint", json!(words));
        if !self.has_own_command {
            self.unset("Cmd");
        }
    }

    pub fn add_label(&mut self, key: &str, value: &str) {
        self.add("Labels", key, json!(value));
    }

    pub fn add_port(&mut self, port: &str) {
        self.add("ExposedPorts", port, json!({}));
    }

    pub fn add_volume(&mut self, path: &str) {
        self.add("Volumes", path, json!({}));
    }

    fn add(&mut self, map: &str, key: &str, value: Value) {
        let mut found = self.config(map).cloned().unwrap_or_else(|| json!({}));
        object(&mut found).insert(key.to_owned(), value);
        self.set(map, found);
    }

    pub fn set_stop_signal(&mut self, signal: &str) {
        self.set("StopSignal", json!(signal));
    }

    pub fn set_author(&mut self, author: &str) {
        object(&mut self.value).insert("author".to_owned(), json!(author));
    }

    /// Fields that are not given keep what the image below said; times are nanoseconds there.
    pub fn set_healthcheck(&mut self, check: &Healthcheck) {
        let nanoseconds = |ms: Option<u64>| ms.map(|ms| json!(ms.saturating_mul(1_000_000)));
        let fields = [
            ("Test", Some(json!(check.test))),
            ("Interval", nanoseconds(check.interval_ms)),
            ("Timeout", nanoseconds(check.timeout_ms)),
            ("StartPeriod", nanoseconds(check.start_period_ms)),
            ("StartInterval", nanoseconds(check.start_interval_ms)),
            ("Retries", check.retries.map(|retries| json!(retries))),
        ];
        let given = fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        self.set("Healthcheck", Value::Object(given.collect()));
    }

    pub fn add_trigger(&mut self, trigger: &str) {
        let mut triggers = strings(self.config("OnBuild"));
        triggers.push(trigger.to_owned());
        self.set("OnBuild", json!(triggers));
    }

    /// The triggers of the image below, which act now and are not handed on.
    pub fn take_triggers(&mut self) -> Vec<String> {
        let triggers = strings(self.config("OnBuild"));
        self.unset("OnBuild");
        triggers
    }

    pub fn push_layers(&mut self, layers: &[(Digest, u64)]) {
        self.layers.extend(layers.iter().map(|(layer, _)| layer.clone()));
        self.size += layers.iter().map(|(_, size)| size).sum::<u64>();
    }

    /// One entry of the history for each instruction.
    pub fn remember(&mut self, instruction: &str, made_layer: bool) {
        let mut entry = json!({"created": timestamp(self.created), "created_by": instruction});
        if !made_layer {
            entry["empty_layer"] = json!(true);
        }
        let history = object(&mut self.value).entry("history").or_insert_with(|| json!([]));
        match history.as_array_mut() {
            Some(list) => list.push(entry),
            None => *history = json!([entry]),
        }
    }

    /// The configuration's bytes: the same for the same draft.
    pub fn finish(&self) -> Vec<u8> {
        let mut value = self.value.clone();
        let root = object(&mut value);
        root.insert("created".to_owned(), json!(timestamp(self.created)));
        root.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": self.layers}));
        // Of a container that docker's own builder made the layer with; true of no layer of ours.
        for key in ["container", "container_config", "docker_version", "id", "parent", "throwaway"] {
            root.remove(key);
        }
        serde_json::to_vec(&value).expect("a tree of JSON has only string keys")
    }
}

fn timestamp(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_what_was_said() {
        let mut draft = Draft::scratch("linux", "amd64");
        draft.set_variable("A", "1");
        draft.set_variable("B", "2");
        draft.set_variable("A", "3");
        draft.set_working_directory("srv");
        draft.set_working_directory("../app/./x");
        draft.set_command(&["c".into()]);
        draft.set_entrypoint(&["e".into()]);
        draft.add_port("80/tcp");
        draft.remember("ENV A=1", false);
        let value: Value = serde_json::from_slice(&draft.finish()).unwrap();
        let expected = json!({
            "architecture": "amd64", "os": "linux", "created": "1970-01-01T00:00:00Z",
            "config": {"Env": ["A=3", "B=2"], "WorkingDir": "/app/x", "Cmd": ["c"], "Entrypoint": ["e"],
                       "ExposedPorts": {"80/tcp": {}}},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "ENV A=1", "empty_layer": true}],
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        assert_eq!(value, expected);
        let mut next = Draft::from_stage(&draft);
        next.set_entrypoint(&["f".into()]);
        assert_eq!(next.config("Cmd"), None);
        next.add_trigger("RUN x");
        assert_eq!((next.take_triggers(), next.take_triggers()), (vec!["RUN x".to_owned()], vec![]));
    }
}
