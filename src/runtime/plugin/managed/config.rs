//! What a managed plugin says of itself, what it asks of the host, and what its owner may set: pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A plugin's `config.json`, with docker's words in lower case: docker itself takes them in any.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    pub description: String,
    pub interface: Interface,
    pub entrypoint: Vec<String>,
    pub workdir: String,
    pub user: User,
    pub network: Network,
    pub linux: Linux,
    pub propagatedmount: String,
    pub ipchost: bool,
    pub pidhost: bool,
    pub env: Vec<Variable>,
    pub args: Arguments,
    pub mounts: Vec<Mount>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// `docker.volumedriver/1.0` and the like.
    pub types: Vec<String>,
    /// The socket's name below `/run/docker/plugins`.
    pub socket: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Network {
    #[serde(rename = "type")]
    pub kind: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Linux {
    pub capabilities: Vec<String>,
    pub allowalldevices: bool,
    pub devices: Vec<Device>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Device {
    pub name: String,
    pub path: String,
    pub settable: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Variable {
    pub name: String,
    pub value: String,
    pub settable: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Arguments {
    pub name: String,
    pub value: Vec<String>,
    pub settable: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Mount {
    pub name: String,
    pub source: String,
    pub destination: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub options: Vec<String>,
    pub settable: Vec<String>,
}

/// Something that a plugin asks of the host beyond what any container has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privilege {
    pub name: String,
    pub value: Vec<String>,
}

/// What its owner has set, over what it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub env: BTreeMap<String, String>,
    /// The source of each mount, by the mount's name.
    pub mounts: BTreeMap<String, String>,
    /// The path of each device, by the device's name.
    pub devices: BTreeMap<String, String>,
    pub args: Option<Vec<String>>,
}

impl Config {
    /// Reads the text.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let config: Self = serde_json::from_value(lower(value)).map_err(|error| error.to_string())?;
        let socket = &config.interface.socket;
        if socket.is_empty() || socket.contains('/') || socket.starts_with('.') || socket.len() > 40 {
            return Err(format!("interface.socket {socket:?} is no name of a socket"));
        }
        if config.entrypoint.is_empty() {
            return Err("it has no entrypoint".to_owned());
        }
        let absolute = |path: &str| path.is_empty() || path.starts_with('/');
        let places = config.mounts.iter().map(|mount| &mount.destination).chain([&config.propagatedmount]);
        if let Some(path) = places.into_iter().find(|path| !absolute(path)) {
            return Err(format!("{path:?} is no absolute path"));
        }
        Ok(config)
    }

    /// What it implements, in the words of the handshake: `VolumeDriver`, `authz`, …
    pub fn capabilities(&self) -> impl Iterator<Item = &str> {
        self.interface.types.iter().filter_map(|kind| kind.strip_prefix("docker.")?.split('/').next())
    }

    /// All that it asks for, as docker lists it.
    pub fn privileges(&self) -> Vec<Privilege> {
        let mut asked = Vec::new();
        let mut ask = |name: &str, value: Vec<String>| {
            if !value.is_empty() {
                asked.push(Privilege { name: name.to_owned(), value });
            }
        };
        let network = Some(&self.network.kind).filter(|kind| !matches!(kind.as_str(), "" | "null" | "none" | "bridge"));
        ask("network", network.cloned().into_iter().collect());
        ask("host ipc namespace", self.ipchost.then(|| "true".to_owned()).into_iter().collect());
        ask("host pid namespace", self.pidhost.then(|| "true".to_owned()).into_iter().collect());
        ask(
            "mount",
            self.mounts.iter().map(|mount| mount.source.clone()).filter(|source| !source.is_empty()).collect(),
        );
        ask("device", self.linux.devices.iter().map(|device| device.path.clone()).collect());
        ask("allow-all-devices", self.linux.allowalldevices.then(|| "true".to_owned()).into_iter().collect());
        ask("capabilities", self.linux.capabilities.clone());
        asked
    }
}

/// All keys in lower case, and without those that hold nothing.
fn lower(value: Value) -> Value {
    match value {
        Value::Object(all) => {
            let some = all.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(some.map(|(key, value)| (key.to_lowercase(), lower(value))).collect())
        }
        Value::Array(all) => Value::Array(all.into_iter().map(lower).collect()),
        other => other,
    }
}

impl Settings {
    /// Takes over `NAME=VALUE`, `NAME.source=PATH`, `NAME.path=PATH` or `args=WORDS`.
    ///
    /// # Errors
    /// Says why it can't be set.
    pub fn set(&mut self, config: &Config, text: &str) -> Result<(), String> {
        let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
        let (name, field) = key.split_once('.').map_or((key, None), |(name, field)| (name, Some(field)));
        let is = |wanted: &str| field.is_none_or(|field| field == wanted);
        let allowed = |settable: &[String], field: &str| match settable.iter().any(|one| one == field) {
            true => Ok(()),
            false => Err(format!("{name:?} can't be set: the plugin does not let it be")),
        };
        if let Some(one) = config.env.iter().find(|one| one.name == name && is("value")) {
            allowed(&one.settable, "value")?;
            self.env.insert(name.to_owned(), value.to_owned());
        } else if let Some(one) = config.mounts.iter().find(|one| one.name == name && is("source")) {
            allowed(&one.settable, "source")?;
            self.mounts.insert(name.to_owned(), value.to_owned());
        } else if let Some(one) = config.linux.devices.iter().find(|one| one.name == name && is("path")) {
            allowed(&one.settable, "path")?;
            self.devices.insert(name.to_owned(), value.to_owned());
        } else if name == "args" || name == config.args.name && !name.is_empty() {
            allowed(&config.args.settable, "value")?;
            self.args = Some(value.split_whitespace().map(str::to_owned).collect());
        } else {
            return Err(format!("it has no setting {key:?}"));
        }
        Ok(())
    }

    /// The value of this variable.
    pub fn env_of<'a>(&'a self, one: &'a Variable) -> &'a str {
        self.env.get(&one.name).unwrap_or(&one.value)
    }

    /// Where this mount comes from.
    pub fn source_of<'a>(&'a self, one: &'a Mount) -> &'a str {
        self.mounts.get(&one.name).unwrap_or(&one.source)
    }

    /// Where this device is.
    pub fn path_of<'a>(&'a self, one: &'a Device) -> &'a str {
        self.devices.get(&one.name).unwrap_or(&one.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let text = r#"{
            "Interface": {"Types": ["docker.volumedriver/1.0"], "Socket": "x.sock"}, "entrypoint": ["/x"],
            "Network": {"Type": "host"}, "PidHost": true, "args": {"name": "args", "settable": ["value"], "value": null},
            "linux": {"Capabilities": ["CAP_SYS_ADMIN"], "AllowAllDevices": false,
                      "devices": [{"Name": "fuse", "Path": "/dev/fuse", "settable": null}]},
            "env": [{"name": "DEBUG", "settable": ["value"], "value": "0"}, {"name": "FIXED", "value": "1"}],
            "mounts": [{"name": "state", "source": "/srv", "destination": "/state", "settable": ["source"], "type": "bind"}]
        }"#;
        Config::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_it_asks_for_is_listed() {
        let asked: Vec<String> =
            config().privileges().iter().map(|one| format!("{} {:?}", one.name, one.value)).collect();
        assert_eq!(
            asked,
            [
                r#"network ["host"]"#,
                r#"host pid namespace ["true"]"#,
                r#"mount ["/srv"]"#,
                r#"device ["/dev/fuse"]"#,
                r#"capabilities ["CAP_SYS_ADMIN"]"#
            ]
        );
        assert_eq!(config().capabilities().collect::<Vec<_>>(), ["volumedriver"]);
    }

    #[test]
    fn only_what_it_lets_be_set_is_set() {
        let (config, mut settings) = (config(), Settings::default());
        for good in ["DEBUG=1", "state.source=/other", "args=a  b"] {
            settings.set(&config, good).unwrap();
        }
        assert_eq!(settings.env_of(&config.env[0]), "1");
        assert_eq!(settings.source_of(&config.mounts[0]), "/other");
        assert_eq!(settings.args, Some(vec!["a".to_owned(), "b".to_owned()]));
        for (wrong, expected) in [
            ("DEBUG", "not KEY=VALUE"),
            ("FIXED=2", "can't be set"),
            ("fuse.path=/dev/null", "can't be set"),
            ("state.path=/x", "no setting"),
            ("OTHER=1", "no setting"),
        ] {
            let said = settings.set(&config, wrong).unwrap_err();
            assert!(said.contains(expected), "{wrong}: {said}");
        }
        assert!(Config::parse(br#"{"interface": {"socket": "../x"}, "entrypoint": ["/x"]}"#).is_err());
        assert!(Config::parse(br#"{"interface": {"socket": "x"}}"#).is_err());
    }
}
