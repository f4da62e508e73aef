//! What `logging` asks for: the drivers and their options, read from text once. The words are docker's.

use std::collections::BTreeMap;

use regex::Regex;

use super::diagnostics::did_you_mean;
use super::units;

/// Docker's drivers that need a service which is spoken to nowhere here. What is written for them is taken as it is.
pub const ELSEWHERE: &[&str] = &["awslogs", "etwlogs", "fluentd", "gcplogs", "gelf", "logentries", "splunk"];
const DRIVERS: &[&str] = &["json-file", "local", "journald", "syslog", "none"];
/// What all drivers take.
const DELIVERY: &[&str] = &["mode", "max-buffer-size"];
const FILES: &[&str] = &["max-size", "max-file", "compress"];
const ATTRIBUTES: &[&str] = &["labels", "labels-regex", "env", "env-regex", "tag"];
const CACHE: &[&str] = &["cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"];
const SYSLOG: &[&str] = &["syslog-address", "syslog-facility", "syslog-format"];
/// What only `tcp+tls` needs.
const TLS: &[&str] = &["syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify"];

/// Docker's sizes. The engine's own default bounds json-file, too.
const JSON_FILE: Files = Files { form: Form::JsonFile, max_size: 10 << 20, max_files: 3, compress: false };
const LOCAL: Files = Files { form: Form::Local, max_size: 20 << 20, max_files: 5, compress: true };
const BUFFER: u64 = 1_000_000;

/// The fields of a template for `tag`.
pub const TAG_FIELDS: &[&str] =
    &[".ID", ".FullID", ".Name", ".FullName", ".ImageID", ".ImageFullID", ".ImageName", ".DaemonName"];

const FACILITIES: &[&str] =
    &["kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"];
/// The number of `local0`; seven more follow.
const LOCAL0: u8 = 16;
const DAEMON: u8 = 3;

/// Where output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// What `logs` reads.
    pub files: Option<Files>,
    pub service: Option<Service>,
    /// Bytes that may wait for a slow service or disk; what is more is dropped. Without it the container waits.
    pub buffer: Option<u64>,
    pub attributes: Attributes,
    pub tag: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Files {
    pub form: Form,
    /// Bytes of one.
    pub max_size: u64,
    pub max_files: u32,
    /// All but the newest are compressed.
    pub compress: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    JsonFile,
    Local,
}

/// Who is given each line beside the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    Journald,
    Syslog {
        address: Address,
        facility: u8,
        form: Message,
    },
    /// A program of others that speaks docker's plugin protocol, with all that is written for it.
    Plugin {
        driver: String,
        options: BTreeMap<String, String>,
    },
}

/// A log server's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The host's own.
    Local,
    Udp(String),
    Tcp(String),
    Tls(String, Tls),
    Unix(String),
    UnixDatagram(String),
}

/// How a log server is known, and this host by it: absolute paths of files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    pub ca: Option<String>,
    /// Certificate and key.
    pub client: Option<(String, String)>,
    pub skip_verify: bool,
}

/// The form of a message to a log server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// RFC 3164 without a host name, as for the host's own.
    Short,
    Rfc3164,
    Rfc5424,
    Rfc5424Micro,
}

/// Which labels and variables of the container go with its lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    pub labels: Vec<String>,
    pub labels_regex: Option<String>,
    pub env: Vec<String>,
    pub env_regex: Option<String>,
}

impl Attributes {
    /// Those of these labels and variables, by their names.
    pub fn of<'a>(
        &self,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        env: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> BTreeMap<String, String> {
        let mut all = chosen(&self.labels, self.labels_regex.as_deref(), labels);
        all.extend(chosen(&self.env, self.env_regex.as_deref(), env));
        all
    }
}

fn chosen<'a>(
    names: &[String],
    pattern: Option<&str>,
    all: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> BTreeMap<String, String> {
    let pattern = pattern.and_then(|text| Regex::new(text).ok());
    let is_chosen = |name: &str| {
        names.iter().any(|known| known == name) || pattern.as_ref().is_some_and(|pattern| pattern.is_match(name))
    };
    let all = all.into_iter().filter(|(name, _)| is_chosen(name));
    all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Whether this driver is none of the engine's own.
pub fn is_plugin(driver: &str) -> bool {
    !driver.is_empty() && !DRIVERS.contains(&driver) && !ELSEWHERE.contains(&driver)
}

/// What is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub at: At,
    pub message: String,
    pub help: Option<String>,
}

/// Where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    Driver,
    /// The option's name itself.
    Key(String),
    /// What the option is set to.
    Value(String),
}

/// Reads what is written for this driver, without a word for the default one.
///
/// # Errors
/// All that is wrong, each with its place.
pub fn parse(driver: Option<&str>, options: &BTreeMap<String, String>) -> Result<Destination, Vec<Problem>> {
    let driver = driver.filter(|word| !word.is_empty()).unwrap_or("json-file");
    let mut reader = Reader { driver, options, known: Vec::new(), problems: Vec::new() };
    let destination = reader.destination();
    reader.refuse_unknown();
    if reader.problems.is_empty() { Ok(destination) } else { Err(reader.problems) }
}

/// Takes option by option: what was not taken is not known.
struct Reader<'a> {
    driver: &'a str,
    options: &'a BTreeMap<String, String>,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn destination(&mut self) -> Destination {
        let nothing =
            Destination { files: None, service: None, buffer: None, attributes: Attributes::default(), tag: None };
        match self.driver {
            "json-file" => {
                let files = Some(self.files(JSON_FILE, FILES));
                let tag = self.tag();
                Destination { files, buffer: self.buffer(), attributes: self.attributes(), tag, ..nothing }
            }
            "local" => Destination { files: Some(self.files(LOCAL, FILES)), buffer: self.buffer(), ..nothing },
            "journald" => self.served(Service::Journald),
            "syslog" => {
                let service = self.syslog();
                self.served(service)
            }
            "none" => {
                // What is thrown away needs no options; none of them is wrong.
                self.known.extend([DELIVERY, FILES, ATTRIBUTES, CACHE, SYSLOG, TLS].concat());
                nothing
            }
            other if ELSEWHERE.contains(&other) => {
                self.options = const { &BTreeMap::new() };
                Destination { files: Some(JSON_FILE), ..nothing }
            }
            other => {
                let options = self.options.clone();
                // What is nearly one of these is hardly the name of a plugin.
                if let Some(help) = did_you_mean(other, DRIVERS.iter().copied()) {
                    let message = format!("there is no logging driver `{other}`");
                    self.problems.push(Problem { at: At::Driver, message, help: Some(help) });
                }
                let destination = self.served(Service::Plugin { driver: other.to_owned(), options });
                // All others are for the plugin to know.
                self.options = const { &BTreeMap::new() };
                destination
            }
        }
    }

    /// With a copy for `logs`, unless that is not wanted.
    fn served(&mut self, service: Service) -> Destination {
        let files = self.files(LOCAL, &CACHE[1..]);
        let is_disabled = self.read("cache-disabled", "true or false", switch).unwrap_or(false);
        Destination {
            files: (!is_disabled).then_some(files),
            service: Some(service),
            buffer: self.buffer(),
            attributes: self.attributes(),
            tag: self.tag(),
        }
    }

    /// `names` are the options for the size, the number and the compression of files.
    fn files(&mut self, default: Files, names: &[&'static str]) -> Files {
        let [max_size, max_file, compress] = [names[0], names[1], names[2]];
        let size = |text: &str| units::bytes(text).filter(|bytes| *bytes > 0);
        let count = |text: &str| text.parse().ok().filter(|count| *count > 0);
        let files = Files {
            max_size: self.read(max_size, "bytes, such as 10m", size).unwrap_or(default.max_size),
            max_files: self.read(max_file, "a number of files, such as 3", count).unwrap_or(default.max_files),
            compress: self.read(compress, "true or false", switch).unwrap_or(default.compress),
            ..default
        };
        if files.compress && files.max_files == 1 && self.options.contains_key(compress) {
            let message = format!("`{compress}` is for files before the newest, and `{max_file}: 1` keeps none");
            self.wrong(compress, message, Some(format!("set `{max_file}` to 2 or more")));
        }
        files
    }

    fn buffer(&mut self) -> Option<u64> {
        let mode = |text: &str| match text {
            "" | "blocking" => Some(false),
            "non-blocking" => Some(true),
            _ => None,
        };
        let drops = self.read("mode", "blocking or non-blocking", mode).unwrap_or(false);
        let size = self.read("max-buffer-size", "bytes, such as 4m", units::bytes);
        if size.is_some() && !drops {
            let message = "`max-buffer-size` is for `mode: non-blocking` alone".to_owned();
            self.wrong("max-buffer-size", message, Some("add `mode: non-blocking`".to_owned()));
        }
        drops.then(|| size.unwrap_or(BUFFER))
    }

    fn attributes(&mut self) -> Attributes {
        let names = |text: &str| {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            Some(names.map(str::to_owned).collect::<Vec<_>>())
        };
        let pattern = |text: &str| Regex::new(text).ok().map(|_| text.to_owned()).filter(|text| !text.is_empty());
        Attributes {
            labels: self.read("labels", "names, with commas between", names).unwrap_or_default(),
            labels_regex: self.read("labels-regex", "a regular expression", pattern),
            env: self.read("env", "names, with commas between", names).unwrap_or_default(),
            env_regex: self.read("env-regex", "a regular expression", pattern),
        }
    }

    fn tag(&mut self) -> Option<String> {
        self.known.push("tag");
        let text = self.options.get("tag").filter(|text| !text.is_empty())?;
        if let Err(field) = tag_fields(text, |_| String::new()) {
            let message = format!("`tag`: there is no `{{{{{field}}}}}`");
            let fields: Vec<String> = TAG_FIELDS.iter().map(|field| format!("{{{{{field}}}}}")).collect();
            let help = format!("there are {}", fields.join(", "));
            self.wrong("tag", message, Some(help));
        }
        Some(text.clone())
    }

    fn syslog(&mut self) -> Service {
        let facility = self.read("syslog-facility", "a name such as local0, or 0 to 23", facility).unwrap_or(DAEMON);
        let form = self.read("syslog-format", "rfc3164, rfc5424 or rfc5424micro", message_form);
        let tls = self.tls();
        let address = match self.address() {
            Address::Tls(server, _) => Address::Tls(server, tls),
            other => other,
        };
        Service::Syslog { address, facility, form: form.unwrap_or(Message::Short) }
    }

    fn tls(&mut self) -> Tls {
        let path = |text: &str| text.starts_with('/').then(|| text.to_owned());
        let [ca, certificate, key] = ["syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key"]
            .map(|key| self.read(key, "the absolute path of a PEM file", path));
        let skip_verify = self.read("syslog-tls-skip-verify", "true or false", switch).unwrap_or_default();
        for (given, missing) in [(&certificate, "syslog-tls-key"), (&key, "syslog-tls-cert")] {
            if let (Some(_), false) = (given, self.options.contains_key(missing)) {
                let other = if missing == "syslog-tls-key" { "syslog-tls-cert" } else { "syslog-tls-key" };
                self.wrong(other, format!("`{other}` needs `{missing}`"), None);
            }
        }
        Tls { ca, client: certificate.zip(key), skip_verify }
    }

    fn address(&mut self) -> Address {
        self.known.push("syslog-address");
        let Some(text) = self.options.get("syslog-address").filter(|text| !text.is_empty()) else {
            return Address::Local;
        };
        let found = address(text);
        if found.is_none() {
            let message = format!("`syslog-address`: expected where a server is, found `{text}`");
            let forms = "write udp://, tcp:// or tcp+tls://HOST[:PORT], unix:///PATH or unixgram:///PATH";
            self.wrong("syslog-address", message, Some(forms.to_owned()));
        }
        found.unwrap_or(Address::Local)
    }

    fn read<T>(&mut self, key: &'static str, what: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.known.push(key);
        let text = self.options.get(key)?;
        let value = parse(text);
        if value.is_none() {
            self.wrong(key, format!("`{key}`: expected {what}, found `{text}`"), None);
        }
        value
    }

    fn wrong(&mut self, key: &str, message: String, help: Option<String>) {
        self.problems.push(Problem { at: At::Value(key.to_owned()), message, help });
    }

    fn refuse_unknown(&mut self) {
        for key in self.options.keys().filter(|key| !self.known.contains(&key.as_str())) {
            let help = did_you_mean(key, self.known.iter().copied());
            let shown = self.known.join(", ");
            self.problems.push(Problem {
                at: At::Key(key.clone()),
                message: format!("the logging driver `{}` has no option `{key}`", self.driver),
                help: Some(help.unwrap_or_else(|| format!("it takes {shown}"))),
            });
        }
    }
}

/// The template with each field's value in its place.
///
/// # Errors
/// The first field that there is not.
pub fn tag_fields(template: &str, value: impl Fn(&str) -> String) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (field, after) = after.split_once("}}").ok_or_else(|| after.to_owned())?;
        let field = field.trim_matches(|letter: char| letter.is_whitespace() || letter == '-');
        if !TAG_FIELDS.contains(&field) {
            return Err(field.to_owned());
        }
        text.push_str(before);
        text.push_str(&value(field));
        rest = after;
    }
    Ok(text + rest)
}

fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Some(true),
        "false" | "f" | "0" => Some(false),
        _ => None,
    }
}

fn facility(text: &str) -> Option<u8> {
    let local = |text: &str| text.strip_prefix("local")?.parse().ok().filter(|number| *number < 8);
    let named = || FACILITIES.iter().position(|name| *name == text).and_then(|place| u8::try_from(place).ok());
    let number = || text.parse().ok().filter(|number| *number < LOCAL0 + 8);
    named().or_else(|| local(text).map(|number: u8| LOCAL0 + number)).or_else(number)
}

fn message_form(text: &str) -> Option<Message> {
    match text {
        "" => Some(Message::Short),
        "rfc3164" => Some(Message::Rfc3164),
        "rfc5424" => Some(Message::Rfc5424),
        "rfc5424micro" => Some(Message::Rfc5424Micro),
        _ => None,
    }
}

fn address(text: &str) -> Option<Address> {
    let (scheme, rest) = text.split_once("://")?;
    match scheme {
        "udp" => host_and_port(rest).map(Address::Udp),
        "tcp" => host_and_port(rest).map(Address::Tcp),
        "tcp+tls" => host_and_port(rest).map(|server| Address::Tls(server, Tls::default())),
        "unix" if rest.starts_with('/') => Some(Address::Unix(rest.to_owned())),
        "unixgram" if rest.starts_with('/') => Some(Address::UnixDatagram(rest.to_owned())),
        _ => None,
    }
}

/// With the well-known port where none is written.
fn host_and_port(text: &str) -> Option<String> {
    const PORT: &str = "514";
    let bracketed = text.starts_with('[');
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !bracketed || host.ends_with(']') => (host, port),
        _ => (text, PORT),
    };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|letter| letter.is_ascii_alphanumeric() || ".-_".contains(letter)),
    };
    (is_host && port.parse::<u16>().is_ok_and(|port| port > 0)).then(|| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split_whitespace().filter_map(|word| word.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn said(driver: &str, text: &str) -> Vec<String> {
        let problems = parse(Some(driver), &options(text)).err().unwrap_or_default();
        let said = |it: Problem| format!("{:?} {} | {}", it.at, it.message, it.help.unwrap_or_default());
        problems.into_iter().map(said).collect()
    }

    #[test]
    fn every_driver_takes_its_own_options_and_no_others() {
        let everything = [DELIVERY, FILES, ATTRIBUTES, CACHE, SYSLOG].concat();
        for (driver, takes) in [
            ("json-file", [DELIVERY, FILES, ATTRIBUTES].concat()),
            ("local", [DELIVERY, FILES].concat()),
            ("journald", [DELIVERY, ATTRIBUTES, CACHE].concat()),
            ("syslog", [DELIVERY, ATTRIBUTES, CACHE, SYSLOG, TLS].concat()),
            ("none", everything.clone()),
        ] {
            for key in &everything {
                let unknown = said(driver, &format!("{key}=?")).iter().any(|text| text.contains("has no option"));
                assert_eq!(unknown, !takes.contains(key), "{driver} {key}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_what_to_do() {
        for (driver, text, expected) in [
            ("jsonfile", "", "Driver there is no logging driver `jsonfile` | did you mean `json-file`?"),
            (
                "json-file",
                "max-sise=1m",
                "Key(\"max-sise\") the logging driver `json-file` has no option `max-sise` | did",
            ),
            ("local", "labels=a", "| it takes max-size, max-file, compress, mode, max-buffer-size"),
            ("json-file", "max-size=much", "Value(\"max-size\") `max-size`: expected bytes, such as 10m, found `much`"),
            ("json-file", "max-size=0", "expected bytes"),
            ("json-file", "max-file=0", "expected a number of files"),
            ("json-file", "compress=true max-file=1", "| set `max-file` to 2 or more"),
            ("local", "mode=sometimes", "expected blocking or non-blocking"),
            ("local", "max-buffer-size=1m", "| add `mode: non-blocking`"),
            ("json-file", "labels-regex=(", "expected a regular expression"),
            ("json-file", "tag={{.Colour}}", "there is no `{{.Colour}}` | there are {{.ID}}, {{.FullID}}"),
            ("syslog", "syslog-address=here", "| write udp://, tcp:// or tcp+tls://HOST[:PORT]"),
            ("syslog", "syslog-address=tcp+tls://", "expected where a server is"),
            ("syslog", "syslog-address=udp://a:70000", "expected where a server is"),
            ("syslog", "syslog-tls-cert=/x", "Value(\"syslog-tls-cert\") `syslog-tls-cert` needs `syslog-tls-key`"),
            ("syslog", "syslog-tls-key=/x", "`syslog-tls-key` needs `syslog-tls-cert`"),
            ("syslog", "syslog-tls-ca-cert=x", "the absolute path of a PEM file"),
            ("syslog", "syslog-tls-skip-verify=maybe", "true or false"),
            ("syslog", "syslog-facility=local8", "such as local0"),
            ("syslog", "syslog-format=json", "rfc5424micro, found `json`"),
        ] {
            let said = said(driver, text);
            assert!(said.len() == 1 && said[0].contains(expected), "{driver} {text}: {said:?}");
        }
        assert_eq!(said("syslog", "max-size=1 mode=x syslog-format=y").len(), 3);
    }

    #[test]
    fn defaults_are_dockers_and_bounded() {
        let of = |driver, text: &str| parse(driver, &options(text)).unwrap();
        assert_eq!(of(None, "").files, Some(JSON_FILE));
        assert_eq!(of(Some("local"), "max-file=2").files, Some(Files { max_files: 2, ..LOCAL }));
        assert_eq!(of(Some("none"), "max-size=1m").files, None);
        assert_eq!(of(Some("gelf"), "gelf-address=udp://x").files, Some(JSON_FILE));
        let syslog = of(Some("syslog"), "");
        let service = Service::Syslog { address: Address::Local, facility: DAEMON, form: Message::Short };
        assert_eq!((syslog.service, syslog.files, syslog.buffer), (Some(service), Some(LOCAL), None));
        assert_eq!(of(Some("journald"), "cache-disabled=true").files, None);
        assert_eq!(of(None, "mode=non-blocking").buffer, Some(BUFFER));
        assert_eq!(of(None, "mode=non-blocking max-buffer-size=4k").buffer, Some(4096));
    }

    #[test]
    fn addresses_of_servers_have_a_port() {
        for (text, expected) in [
            ("udp://logs.example", Some(Address::Udp("logs.example:514".into()))),
            ("tcp://10.0.0.1:601", Some(Address::Tcp("10.0.0.1:601".into()))),
            ("tcp://[::1]", Some(Address::Tcp("[::1]:514".into()))),
            ("udp://[::1]:5", Some(Address::Udp("[::1]:5".into()))),
            ("unix:///dev/log", Some(Address::Unix("/dev/log".into()))),
            ("unixgram:///dev/log", Some(Address::UnixDatagram("/dev/log".into()))),
            ("unix://dev/log", None),
            ("udp://", None),
            ("udp://a b:1", None),
            ("http://a:1", None),
        ] {
            assert_eq!(address(text), expected, "{text}");
        }
        assert_eq!(
            ["kern", "ftp", "local0", "local7", "23", "24", ""].map(facility),
            [Some(0), Some(11), Some(16), Some(23), Some(23), None, None]
        );
    }

    #[test]
    fn attributes_are_chosen_by_name_and_by_pattern() {
        let attributes = parse(None, &options("labels=a,b labels-regex=^com env=X env-regex=^Y")).unwrap().attributes;
        let labels = [("a", "1"), ("c", "2"), ("com.example", "3")];
        let found = attributes.of(labels, [("X", "4"), ("YES", "5"), ("Z", "6")]);
        let names: Vec<String> = found.into_iter().map(|(name, value)| name + &value).collect();
        assert_eq!(names, ["X4", "YES5", "a1", "com.example3"]);
    }

    #[test]
    fn tags_are_templates() {
        let value = |field: &str| field.to_lowercase();
        let rendered = |template| tag_fields(template, value);
        assert_eq!(rendered("a/{{.Name}}/{{ .ImageName }}."), Ok("a/.name/.imagename.".to_owned()));
        assert_eq!(rendered("plain"), Ok("plain".to_owned()));
        assert_eq!(rendered("{{.Env}}"), Err(".Env".to_owned()));
        assert!(rendered("{{.Name").is_err());
    }
}
