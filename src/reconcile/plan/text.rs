//! How a plan reads. The columns are a contract: people learn them, golden tests compare them.

use serde::Serialize;
use serde_json::Value;

use super::{Entry, Plan, Verb};
use crate::reconcile::diff::{FieldChange, is_mounted_digest};
use crate::reconcile::engine::Check;
use crate::reconcile::history::journal::Change;

/// Where the columns begin: verb, fields, reason, how. The first grows with the longest name.
const COLUMNS: [usize; 4] = [23, 18, 30, 33];

/// How many characters of a value are shown.
const VALUE_WIDTH: usize = 80;

/// How many resources are treated how; one resource counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub pull: usize,
    pub build: usize,
    pub create: usize,
    pub update: usize,
    pub restart: usize,
    pub replace: usize,
    pub remove: usize,
    pub refused: usize,
}

impl Summary {
    pub(super) fn of(plan: &Plan) -> Self {
        let mut summary = Self::default();
        for entry in &plan.entries {
            let count = match entry.verb {
                _ if entry.refused.is_some() => &mut summary.refused,
                Verb::Pull | Verb::Load => &mut summary.pull,
                Verb::Build => &mut summary.build,
                Verb::Create => &mut summary.create,
                Verb::Update | Verb::Repair => &mut summary.update,
                Verb::Start | Verb::Restart => &mut summary.restart,
                Verb::Replace => &mut summary.replace,
                Verb::Remove => &mut summary.remove,
            };
            *count += 1;
        }
        summary
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counts = [
            (self.pull, "to pull"),
            (self.build, "to build"),
            (self.create, "to create"),
            (self.update, "to update"),
            (self.restart, "to start"),
            (self.replace, "to replace"),
            (self.remove, "to remove"),
            (self.refused, "refused"),
        ];
        let parts: Vec<String> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
        if parts.is_empty() { f.write_str("nothing to do") } else { f.write_str(&parts.join(", ")) }
    }
}

pub(super) fn render(plan: &Plan) -> String {
    let longest = plan.entries.iter().map(|entry| entry.id.to_string().chars().count() + 4).max().unwrap_or(0);
    let first = COLUMNS[0].max(longest);
    let mut text: String = plan.entries.iter().map(|entry| render_entry(entry, first)).collect();
    for note in &plan.not_honoured {
        text.push_str(&format!("  not honoured: {note}\n"));
    }
    for note in &plan.notes {
        text.push_str(&line(&[(0, format!("  note: {note}"))]));
    }
    text
}

/// One change as it was written down, in a line.
pub fn change_line(change: &Change) -> String {
    let Change { id, verb, fields, reason, how, .. } = change;
    let entry = Entry { id: id.clone(), verb: *verb, fields: Vec::new(), reason: None, refused: None, how: None };
    let fields = fields.iter().map(render_field).collect::<Vec<_>>().join("; ");
    let cause = [fields, reason.clone().unwrap_or_default(), how.clone().unwrap_or_default()];
    let cause: Vec<String> = cause.into_iter().filter(|text| !text.is_empty()).collect();
    let cells = [(0, format!("{} {} {id}", sign(&entry), verb_word(*verb))), (0, cause.join(", "))];
    line(&cells).trim_end().to_owned()
}

fn render_entry(entry: &Entry, first: usize) -> String {
    let mut fields = entry.fields.iter().map(render_field);
    let refused = entry.refused.as_ref().map(|reason| format!("refused: {reason}"));
    let head = format!("{} {}", sign(entry), entry.id);
    let cells = [
        (first, head),
        (COLUMNS[1], verb_word(entry.verb).to_owned()),
        (COLUMNS[2], fields.next().unwrap_or_default()),
        (COLUMNS[3], refused.or_else(|| entry.reason.clone()).unwrap_or_default()),
        (0, entry.how.clone().unwrap_or_default()),
    ];
    let mut text = line(&cells);
    for field in fields {
        text.push_str(&line(&[(first + COLUMNS[1], String::new()), (0, field)]));
    }
    text
}

/// Each cell begins at its column, or two spaces after the one before where that was too long. Control characters are
/// shown escaped: names and values come from files and images.
fn line(cells: &[(usize, String)]) -> String {
    let (mut text, mut column, mut length) = (String::new(), 0usize, 0usize);
    for (width, cell) in cells {
        let cell: String = cell.chars().flat_map(printable).collect();
        if !cell.is_empty() {
            let padding = if length == 0 { column } else { column.saturating_sub(length).max(2) };
            text.push_str(&" ".repeat(padding));
            length += padding + cell.chars().count();
            text.push_str(&cell);
        }
        column += width;
    }
    text + "\n"
}

fn printable(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}

fn sign(entry: &Entry) -> char {
    match entry.verb {
        _ if entry.refused.is_some() => '!',
        Verb::Build | Verb::Load if !entry.fields.is_empty() => '~',
        Verb::Pull | Verb::Load | Verb::Build | Verb::Create => '+',
        Verb::Update | Verb::Repair | Verb::Start | Verb::Restart => '~',
        Verb::Replace => '±',
        Verb::Remove => '-',
    }
}

fn verb_word(verb: Verb) -> &'static str {
    match verb {
        Verb::Pull => "pull",
        Verb::Load => "load",
        Verb::Build => "build",
        Verb::Create => "create",
        Verb::Update => "update in place",
        Verb::Repair => "repair",
        Verb::Start => "start",
        Verb::Restart => "restart",
        Verb::Replace => "replace",
        Verb::Remove => "remove",
    }
}

/// `image: nginx:1.27 -> nginx:1.28`. Contents are told by the fact that they changed, secrets not at all.
fn render_field(field: &FieldChange) -> String {
    let path = field.path.strip_prefix("source.").unwrap_or(&field.path);
    if let Some(what) = path.strip_suffix(".digest").filter(|what| matches!(*what, "archive" | "rootfs")) {
        let [old, new] = [&field.old, &field.new].map(|value| short_digest(value.as_str().unwrap_or_default()));
        return format!("{what} changed ({old} -> {new})");
    }
    if let Some(what) = path.strip_prefix("build.content.") {
        return format!("{what}: content changed");
    }
    if path == "seccomp_content" && !field.old.is_null() && !field.new.is_null() {
        return "seccomp profile: content changed".to_owned();
    }
    if let Some(file) = path.strip_suffix(".content_hash") {
        return format!("{file}: content changed");
    }
    if let Some(target) = path.strip_prefix("bind_contents.") {
        return match (&field.old, &field.new) {
            (Value::Null, _) => format!("{target}: content counts from now on"),
            _ => format!("{target}: content changed"),
        };
    }
    if let Some(network) = path.strip_prefix("network.networks.") {
        match (&field.old, &field.new) {
            (Value::Null, Value::Object(_)) => return format!("network {network}: joined"),
            (Value::Object(_), Value::Null) => return format!("network {network}: left"),
            _ => {}
        }
    }
    let path = path.strip_prefix("network.").unwrap_or(path);
    if HOOKS.contains(&path) {
        return format!("{path}: {} -> {}", commands(&field.old), commands(&field.new));
    }
    let [old, new] = [&field.old, &field.new].map(|value| render_value(path, &without_secrets(path, value)));
    format!("{path}: {old} -> {new}")
}

const HOOKS: [&str; 3] = ["pre_start", "post_start", "pre_stop"];

/// What the hooks run; not with which variables.
fn commands(hooks: &Value) -> String {
    let command = |hook: &Value| {
        let words = hook["command"].as_array().into_iter().flatten().filter_map(Value::as_str);
        words.collect::<Vec<_>>().join(" ")
    };
    let commands: Vec<String> = hooks.as_array().into_iter().flatten().map(command).collect();
    if commands.is_empty() { "(none)".to_owned() } else { render_value("", &Value::from(commands.join("; "))) }
}

/// Environment variables and options whose name, or whose value itself, says that they are nobody's business.
fn is_confidential(path: &str, value: &Value) -> bool {
    let words =
        ["password", "passwd", "secret", "token", "credential", "apikey", "api_key", "private_key", "access_key"];
    let of_whom = ["environment.", "build.args.", "source.build.args.", "driver_opts.", "options.", "logging.options."];
    let Some(name) = of_whom.iter().find_map(|start| path.strip_prefix(start)) else { return false };
    let name = name.to_lowercase();
    words.iter().any(|word| name.contains(word)) || value.as_str().is_some_and(holds_password)
}

/// `postgres://user:password@host`, and `username=…,password=…` as a mount's options are written.
fn holds_password(text: &str) -> bool {
    let has_user = |rest: &str| {
        let place = rest.split(['/', '?', '#', ' ']).next().unwrap_or_default();
        place.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    };
    let is_password = |part: &str| ["password=", "passwd=", "pass="].iter().any(|name| part.trim().starts_with(name));
    text.split("://").skip(1).any(has_user) || text.split(',').any(is_password)
}

/// The value with every confidential part replaced.
fn without_secrets(path: &str, value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::Object(all) => {
            let part =
                |(key, value): (&String, &Value)| (key.clone(), without_secrets(&format!("{path}.{key}"), value));
            Value::Object(all.iter().map(part).collect())
        }
        _ if is_confidential(path, value) => Value::from("(hidden)"),
        other => other.clone(),
    }
}

/// The entry with every confidential value replaced.
pub(crate) fn hide_values(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    for field in entry.fields.iter_mut().filter(|field| HOOKS.contains(&field.path.as_str())) {
        (field.old, field.new) = (commands(&field.old).into(), commands(&field.new).into());
    }
    for field in &mut entry.fields {
        let [old, new] = [&field.old, &field.new].map(|value| without_secrets(&field.path, value));
        (field.old, field.new) = (old, new);
    }
    entry
}

fn render_value(path: &str, value: &Value) -> String {
    let text = match value {
        Value::Null => "(none)".to_owned(),
        Value::String(text) if path == "image_digest" || is_mounted_digest(path) => short_digest(text),
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) if path == "ports" => {
            let ports: Vec<String> = list.iter().map(render_port).collect();
            if ports.is_empty() { "(none)".to_owned() } else { ports.join(" ") }
        }
        Value::Object(policy) if path == "restart" => render_policy(policy),
        other => other.to_string(),
    };
    match text.char_indices().nth(VALUE_WIDTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// `on-failure:3`, as it is written.
fn render_policy(policy: &serde_json::Map<String, Value>) -> String {
    let parts = policy.iter().map(|(name, limits)| match &limits["max_retries"] {
        Value::Null => name.clone(),
        retries => format!("{name}:{retries}"),
    });
    parts.collect()
}

fn short_digest(digest: &str) -> String {
    let length = if digest.starts_with("sha256:") { "sha256:".len() + 12 } else { digest.len() };
    digest.chars().take(length).collect()
}

fn render_port(port: &Value) -> String {
    serde_json::from_value::<crate::reconcile::resource::Port>(port.clone())
        .map_or_else(|_| port.to_string(), |port| port.to_string())
}

/// A check in few words: `ports of web-1`.
pub(super) fn check_word(check: &Check) -> String {
    match check {
        Check::PortsFree { container, .. } => format!("ports of {}", container.id()),
        Check::SourcesReadable { container } => format!("files of {}", container.id()),
        Check::UserKnown { container } => format!("user of {}", container.id()),
        Check::ProgramPresent { container } => format!("program of {}", container.id()),
        Check::NetworkPossible { network } => format!("what network/{} needs of the host", network.name),
        Check::External { kind, name } => format!("external {kind}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_nobodys_business_is_hidden_wherever_it_is_said() {
        for (path, value, hidden) in [
            ("environment.API_TOKEN", "a", true),
            ("environment.token.of.whom", "a", true),
            ("environment.DATABASE_URL", "postgres://app:hush@db:5432/app", true),
            ("environment.HOME_PAGE", "http://web:80/@me", false),
            ("environment.USER", "password", false),
            ("logging.options.splunk-token", "a", true),
            ("driver_opts.o", "addr=nas,username=u,password=hush", true),
            ("driver_opts.o", "addr=nas,vers=4", false),
            ("options.parent", "up0", false),
            ("args.0", "--token=a", false),
        ] {
            assert_eq!(without_secrets(path, &value.into()) == "(hidden)", hidden, "{path}: {value}");
            let field = FieldChange { path: path.to_owned(), old: Value::Null, new: value.into() };
            assert_eq!(render_field(&field).ends_with("(none) -> (hidden)"), hidden, "{path}: {value}");
        }
        let build = json!({"context": "/c", "args": {"VERSION": "1", "NPM_TOKEN": "hush"}});
        let told = json!({"context": "/c", "args": {"VERSION": "1", "NPM_TOKEN": "(hidden)"}});
        assert_eq!(without_secrets("source.build", &build), told);
    }
}
