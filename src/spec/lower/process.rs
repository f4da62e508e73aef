//! How a container's process runs: environment, health, logging, limits of the process, security, hooks.

use std::collections::BTreeMap;

use crate::spec::diagnostics::{Diagnostic, Span};
use crate::spec::dotenv;
use crate::spec::fields::Fields;
use crate::spec::logging;
use crate::spec::lower::{Context, probe};
use crate::spec::stack::*;
use crate::spec::tree::{Node, Value, parse_bool};

/// `env_file` below `environment`. A name without a value is taken from the surroundings, and absent when unset there.
pub fn environment(fields: &mut Fields, cx: &mut Context<'_>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let own = own_environment(fields, cx);
    let path = fields.path_of("env_file");
    if let Some(node) = fields.take("env_file") {
        for (index, item) in one_or_many(node).into_iter().enumerate() {
            env_file(item, &format!("{path}.{index}"), &own, &mut found, cx);
        }
    }
    for (name, value) in own {
        match value {
            Some(value) => drop(found.insert(name, value)),
            None => drop(found.remove(&name)),
        }
    }
    found
}

/// `environment`; `None` for what neither it nor the surroundings set.
fn own_environment(fields: &mut Fields, cx: &mut Context<'_>) -> BTreeMap<String, Option<String>> {
    let mut own = BTreeMap::new();
    let Some(node) = fields.take("environment") else { return own };
    let span = node.span;
    for (name, value) in cx.pairs(node) {
        if name.is_empty() || name.contains('\0') {
            cx.error("a variable has no name", span);
            continue;
        }
        let value = value.or_else(|| cx.environment.get(&name).cloned());
        own.insert(name, value);
    }
    own
}

fn one_or_many(node: Node) -> Vec<Node> {
    match node.value {
        Value::Sequence(items) => items,
        _ => vec![node],
    }
}

/// Adds one file to `found`. Variables in it come from the surroundings, then from `own`, then from the lines above, then
/// from the files before.
fn env_file(
    node: Node,
    path: &str,
    own: &BTreeMap<String, Option<String>>,
    found: &mut BTreeMap<String, String>,
    cx: &mut Context<'_>,
) {
    let span = node.span;
    let (file, required, raw) = match node.text() {
        Some(_) => (cx.file(&node), true, false),
        None => {
            let Some(mut fields) = Fields::open(node, path, cx) else { return };
            let file = fields.file("path", cx);
            let required = fields.flag("required", cx).unwrap_or(true);
            let raw = fields.choice("format", &[("raw", true), ("", false)], cx).unwrap_or_default();
            fields.finish(cx);
            if file.is_none() {
                cx.error("`path` is missing", span);
            }
            (file, required, raw)
        }
    };
    let Some(file) = file else { return };
    cx.files.watch(&file);
    if !required && !cx.files.exists(&file) {
        return;
    }
    let Some(source) = cx.read(&file, span) else { return };
    let text = cx.sources.get(source).map(|source| source.text.clone()).unwrap_or_default();
    let assignments = match raw {
        true => dotenv::parse_raw(&text, source),
        false => {
            let environment = &cx.environment;
            let lookup = |name: &str| environment.get(name).cloned().or_else(|| own.get(name).cloned().flatten());
            let fallback = |name: &str| found.get(name).cloned();
            dotenv::parse(&text, source, &lookup, &fallback, &mut cx.diagnostics)
        }
    };
    for one in assignments {
        match one.value {
            Some(value) => drop(found.insert(one.name, value)),
            None => drop(found.remove(&one.name)),
        }
    }
}

/// `label_file` below `labels`.
pub fn labels(fields: &mut Fields, cx: &mut Context<'_>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    if let Some(node) = fields.take("label_file") {
        for item in one_or_many(node) {
            let span = item.span;
            let Some(path) = cx.file(&item) else { continue };
            cx.files.watch(&path);
            let Some(source) = cx.read(&path, span) else { continue };
            let text = cx.sources.get(source).map(|source| source.text.clone()).unwrap_or_default();
            let environment = &cx.environment;
            let lookup = |name: &str| environment.get(name).cloned();
            let assignments = dotenv::parse(&text, source, &lookup, &|_| None, &mut cx.diagnostics);
            found.extend(assignments.into_iter().map(|one| (one.name, one.value.unwrap_or_default())));
        }
    }
    found.extend(fields.map("labels", cx));
    found
}

pub fn healthcheck(node: Node, path: &str, cx: &mut Context<'_>) -> Option<Healthcheck> {
    let mut fields = Fields::open(node, path, cx)?;
    let test = fields.take("test");
    let disable = fields.flag("disable", cx).unwrap_or_default();
    let probe = probe::probe(&mut fields, cx);
    let on_failure = fields.take_ours("on_failure");
    let on_failure = on_failure.and_then(|node| probe::on_failure(node, &format!("{path}.on_failure"), cx));
    let (on_failure, on_failure_budget) = on_failure.unwrap_or_default();
    if let (Some(test), Some(_)) = (&test, &probe) {
        cx.error_help("a health check has one probe", test.span, probe::ONE_PROBE);
    }
    let mut test = test.and_then(|node| health_test(node, cx)).unwrap_or_default();
    if let Some((_, probe)) = probe {
        test = HealthTest::Probe(probe);
    }
    // Also over a test: a file that overrides another one disables it so.
    if disable {
        test = HealthTest::Disabled;
    }
    let check = Healthcheck {
        test,
        interval_ms: fields.duration("interval", cx),
        timeout_ms: fields.duration("timeout", cx),
        retries: fields.number("retries", cx),
        start_period_ms: fields.duration("start_period", cx),
        start_interval_ms: fields.duration("start_interval", cx),
        on_failure,
        on_failure_budget,
    };
    fields.finish(cx);
    Some(check)
}

fn health_test(node: Node, cx: &mut Context<'_>) -> Option<HealthTest> {
    if let Some(text) = node.text() {
        if text.is_empty() {
            cx.error("the test is empty", node.span);
        }
        return Some(HealthTest::Shell(text.to_owned()));
    }
    let span = node.span;
    let mut words = cx.list(node);
    if words.is_empty() {
        return Some(HealthTest::FromImage);
    }
    let kind = words.remove(0);
    match (kind.as_str(), words.len()) {
        ("NONE", 0) => Some(HealthTest::Disabled),
        ("CMD", 1..) => Some(HealthTest::Exec(words)),
        ("CMD-SHELL", 1) => words.pop().map(HealthTest::Shell),
        ("CMD-SHELL", 2..) => {
            cx.error_help("`CMD-SHELL` takes one string", span, "join the words into one string, or use `CMD`");
            None
        }
        ("CMD" | "CMD-SHELL", 0) => {
            cx.error(format!("the command is missing after `{kind}`"), span);
            None
        }
        _ => {
            cx.error_help(
                format!("a test begins with `CMD`, `CMD-SHELL` or `NONE`, not `{kind}`"),
                span,
                "write it as [\"CMD\", …], or as one string for the shell",
            );
            None
        }
    }
}

pub fn logging(node: Node, path: &str, cx: &mut Context<'_>) -> Option<Logging> {
    let mut fields = Fields::open(node, path, cx)?;
    let driver_span = fields.span_of("driver");
    let driver = fields.word("driver", cx);
    let options = fields.take("options");
    let places = options.as_ref().map(option_spans).unwrap_or_default();
    let options = options.map(|node| cx.pairs(node)).unwrap_or_default().into_iter();
    let options: BTreeMap<String, String> = options.map(|(key, value)| (key, value.unwrap_or_default())).collect();
    let whole = fields.span;
    fields.finish(cx);
    for problem in logging::parse(driver.as_deref(), &options).err().unwrap_or_default() {
        let span = match &problem.at {
            logging::At::Driver => driver_span,
            logging::At::Key(key) => places.get(key).map(|(key, _)| *key),
            logging::At::Value(key) => places.get(key).map(|(_, value)| *value),
        };
        let diagnostic = Diagnostic::error(problem.message, span.unwrap_or(whole));
        cx.diagnostics.push(Diagnostic { help: problem.help, ..diagnostic });
    }
    Some(Logging { driver, options })
}

/// Of each option, where its name and where its value is.
fn option_spans(node: &Node) -> BTreeMap<String, (Span, Span)> {
    match &node.value {
        Value::Mapping(entries) => {
            entries.iter().map(|entry| (entry.key.clone(), (entry.key_span, entry.value.span))).collect()
        }
        Value::Sequence(items) => {
            let key = |item: &Node| Some(item.text()?.split('=').next().unwrap_or_default().to_owned());
            items.iter().filter_map(|item| Some((key(item)?, (item.span, item.span)))).collect()
        }
        _ => BTreeMap::new(),
    }
}

/// `pre_start`, `post_start` and `pre_stop`.
pub fn hooks(node: Node, path: &str, cx: &mut Context<'_>) -> Vec<Hook> {
    let items = cx.items(node).into_iter().enumerate();
    items.filter_map(|(index, item)| hook(item, &format!("{path}.{index}"), cx)).collect()
}

fn hook(node: Node, path: &str, cx: &mut Context<'_>) -> Option<Hook> {
    let mut fields = Fields::open(node, path, cx)?;
    // The others run in the container itself.
    let (image, per_replica) = match path.contains(".pre_start.") {
        true => (fields.word("image", cx), fields.flag("per_replica", cx)),
        false => (None, None),
    };
    let hook = Hook {
        command: fields.take("command").and_then(|node| cx.command(node)),
        image,
        user: fields.word("user", cx),
        privileged: fields.flag("privileged", cx).unwrap_or_default(),
        working_dir: fields.word("working_dir", cx),
        environment: environment(&mut fields, cx),
        per_replica: per_replica.unwrap_or_default(),
        timeout_ms: fields.take_ours("timeout").and_then(|node| cx.duration(&node)).filter(|ms| *ms > 0),
    };
    let span = fields.span;
    fields.finish(cx);
    if hook.command.as_ref().is_none_or(Vec::is_empty) && hook.image.is_none() {
        cx.error("the hook has no command", span);
        return None;
    }
    Some(hook)
}

/// A number, or -1 for no limit.
pub fn limit(node: &Node, cx: &mut Context<'_>) -> Option<Limit> {
    cx.parsed(node, "a whole number, or -1 for no limit", |text| match text.trim() {
        "-1" => Some(Limit::Unlimited),
        text => text.parse().ok().map(Limit::Of),
    })
}

const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

pub fn ulimits(node: Node, path: &str, cx: &mut Context<'_>) -> BTreeMap<String, Ulimit> {
    let mut found = BTreeMap::new();
    let Value::Mapping(entries) = node.value else {
        cx.expected("a mapping of limits", &node);
        return found;
    };
    for entry in entries {
        if !ULIMITS.contains(&entry.key.as_str()) {
            let help = crate::spec::diagnostics::did_you_mean(&entry.key, ULIMITS)
                .unwrap_or(format!("the limits are {}", ULIMITS.join(", ")));
            cx.error_help(format!("`{}` is not a limit", entry.key), entry.key_span, help);
            continue;
        }
        if let Some(limit) = ulimit(entry.value, &format!("{path}.{}", entry.key), cx) {
            found.insert(entry.key, limit);
        }
    }
    found
}

fn ulimit(node: Node, path: &str, cx: &mut Context<'_>) -> Option<Ulimit> {
    let span = node.span;
    if node.text().is_some() {
        let both = limit(&node, cx)?;
        return Some(Ulimit { soft: both, hard: both });
    }
    let mut fields = Fields::open(node, path, cx)?;
    let (soft, hard) = (fields.take("soft"), fields.take("hard"));
    fields.finish(cx);
    let (Some(soft), Some(hard)) = (soft, hard) else {
        cx.error("a limit has both `soft` and `hard`", span);
        return None;
    };
    let ulimit = Ulimit { soft: limit(&soft, cx)?, hard: limit(&hard, cx)? };
    let above = match (ulimit.soft, ulimit.hard) {
        (Limit::Unlimited, Limit::Of(_)) => true,
        (Limit::Of(soft), Limit::Of(hard)) => soft > hard,
        _ => false,
    };
    if above {
        cx.error("the soft limit is above the hard one", soft.span);
    }
    Some(ulimit)
}

pub fn security_opt(node: Node, cx: &mut Context<'_>) -> Vec<SecurityOption> {
    cx.items(node).iter().filter_map(|item| security_option(item, cx)).collect()
}

fn security_option(node: &Node, cx: &mut Context<'_>) -> Option<SecurityOption> {
    let text = cx.text(node)?;
    let (key, value) = text.split_once('=').or_else(|| text.split_once(':')).unwrap_or((&text, ""));
    let flag = |cx: &mut Context<'_>, span: Span| match value {
        "" => Some(true),
        value => cx.parsed(&Node::scalar(span, value), "true or false", parse_bool),
    };
    match key {
        "no-new-privileges" => flag(cx, node.span).map(SecurityOption::NoNewPrivileges),
        "writable-cgroups" => flag(cx, node.span).map(SecurityOption::WritableCgroups),
        "seccomp" if value == "unconfined" => Some(SecurityOption::Seccomp(None)),
        "seccomp" if value == "builtin" => Some(SecurityOption::Seccomp(Some(value.to_owned()))),
        "seccomp" if !value.is_empty() => {
            let path = cx.resolve(value, node.span);
            cx.files.watch(&path);
            Some(SecurityOption::Seccomp(Some(path.to_string_lossy().into_owned())))
        }
        "apparmor" if !value.is_empty() => Some(SecurityOption::Apparmor(value.to_owned())),
        "label" if !value.is_empty() => Some(SecurityOption::Label(value.to_owned())),
        "systempaths" if value == "unconfined" => Some(SecurityOption::SystemPathsUnconfined),
        _ => {
            let help = "known are no-new-privileges, seccomp=, apparmor=, label=, systempaths=unconfined and writable-cgroups=";
            cx.error_help(format!("`{text}` is not a security option"), node.span, help);
            None
        }
    }
}
