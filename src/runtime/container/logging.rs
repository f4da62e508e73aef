//! Where a container's output goes, as it is written down with the container.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Config;

/// Where output goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// What [`super::logs::read`] reads.
    pub files: Option<LogFiles>,
    /// Who is given each line, too.
    pub service: Option<LogService>,
    /// Bytes that may wait while the service is slow; what is more is dropped. Without it the container waits.
    pub buffer: Option<u64>,
    /// What goes with each line: labels and variables of the container.
    pub attributes: BTreeMap<String, String>,
    /// A template for the name that lines go by.
    pub tag: Option<String>,
}

impl Default for Log {
    fn default() -> Self {
        let files = Some(LogFiles::default());
        Self { files, service: None, buffer: None, attributes: BTreeMap::new(), tag: None }
    }
}

/// One file that grows, and some before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFiles {
    pub form: LogForm,
    /// Bytes of one file before the next is begun.
    pub max_size: u64,
    /// How many files at most.
    pub max_files: u32,
    /// Those that do not grow any more are.
    pub compress: bool,
}

impl Default for LogFiles {
    fn default() -> Self {
        Self { form: LogForm::Json, max_size: 10 << 20, max_files: 3, compress: false }
    }
}

impl LogFiles {
    /// The newest file in this directory.
    pub fn newest(&self, directory: &Path) -> PathBuf {
        directory.join(match self.form {
            LogForm::Json => "json.log",
            LogForm::Local => "local.log",
        })
    }
}

/// How lines are written to files; see [`super::logs::form`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogForm {
    Json,
    Local,
}

/// Who takes lines beside the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogService {
    Journald,
    Syslog(Syslog),
    /// Through a pipe that a plugin reads ([`plugin_pipe`]).
    Plugin {
        driver: String,
        options: BTreeMap<String, String>,
    },
}

/// Where the lines of this container go to a plugin, below the directory of its logs. Named by the id: plugins know the
/// pipe by its path, and a container of the same name is another one.
pub fn plugin_pipe(logs: &Path, config: &Config) -> PathBuf {
    logs.join(format!("{}.fifo", config.id.get(..12).unwrap_or(&config.id)))
}

/// A log server, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syslog {
    pub address: SyslogAddress,
    /// 0 to 23 (RFC 5424 section 6.2.1).
    pub facility: u8,
    pub form: SyslogForm,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyslogAddress {
    /// The host's own, where it usually is.
    Local,
    /// `HOST:PORT`.
    Udp(String),
    Tcp(String),
    Tls(String, SyslogTls),
    Unix(PathBuf),
    UnixDatagram(PathBuf),
}

/// Whom a log server is trusted to be, and who it is told that this is. Files are PEM, read at each connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyslogTls {
    /// Who is trusted; without it whom this host trusts.
    pub ca: Option<PathBuf>,
    /// The certificates to show, and the key of the first.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Anybody is.
    pub skip_verify: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyslogForm {
    /// RFC 3164 without the name of the host.
    Short,
    Rfc3164,
    Rfc5424,
    Rfc5424Micro,
}

/// Lines that were not kept, or that a service was not given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogLoss {
    /// That the files have not got, since the supervisor began.
    pub lines: u64,
    /// That the service was not given.
    pub unsent: u64,
    /// Why lines are lost at the moment.
    pub reason: Option<String>,
}

/// The value of a field of a tag's template, as docker names them.
fn tag_field(config: &Config, field: &str) -> String {
    let short = |id: &str| id.strip_prefix("sha256:").unwrap_or(id).chars().take(12).collect();
    match field {
        ".ID" => short(&config.id),
        ".FullID" => config.id.clone(),
        ".Name" => config.name.clone(),
        ".FullName" => format!("/{}", config.name),
        ".ImageID" => short(&config.image_id),
        ".ImageFullID" => config.image_id.clone(),
        ".ImageName" => config.image.clone(),
        ".DaemonName" => "stack".to_owned(),
        _ => String::new(),
    }
}

/// The template with each field's value in its place. A field that there is not is left out.
pub fn tag(template: &str, config: &Config) -> String {
    let mut pieces = template.split("{{");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (field, rest) = piece.split_once("}}").unwrap_or((piece, ""));
        text += &tag_field(config, field.trim_matches(|letter: char| letter.is_whitespace() || letter == '-'));
        text += rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_names_the_container_and_its_image() {
        let config = Config {
            name: "web".into(),
            id: "0123456789abcdef".into(),
            image: "nginx:1".into(),
            image_id: "sha256:fedcba98765432".into(),
            ..Config::default()
        };
        for (template, expected) in [
            ("{{.ID}}", "0123456789ab"),
            ("{{.ImageName}}/{{ .Name }}/{{.ImageID}}!", "nginx:1/web/fedcba987654!"),
            ("{{.FullName}} {{.FullID}}", "/web 0123456789abcdef"),
            ("plain", "plain"),
        ] {
            assert_eq!(tag(template, &config), expected);
        }
    }
}
