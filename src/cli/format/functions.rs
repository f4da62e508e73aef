//! The functions of templates: Go's own that are of use here, and docker's.

use std::cmp::Ordering;

use serde_json::{Value, json};

use crate::spec::diagnostics::nearest;

const NAMES: [&str; 23] = [
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not", "or", "pad", "print",
    "printf", "println", "slice", "split", "title", "truncate", "upper",
];

pub fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let few = || format!("`{name}` needs more arguments");
    let first = || arguments.first().ok_or_else(few);
    let second = || arguments.get(1).ok_or_else(few);
    Ok(match name {
        "json" => json!(first()?.to_string()),
        "upper" => json!(text(first()?).to_uppercase()),
        "lower" => json!(text(first()?).to_lowercase()),
        "title" => json!(title(&text(first()?))),
        "len" => json!(length(first()?)?),
        "join" => json!(join(first()?, &text(second()?))),
        "split" => json!(text(first()?).split(text(second()?).as_str()).collect::<Vec<_>>()),
        "truncate" => json!(text(first()?).chars().take(number(second()?)?).collect::<String>()),
        "pad" => {
            let right = number(arguments.get(2).ok_or_else(few)?)?;
            json!(format!("{}{}{}", " ".repeat(number(second()?)?), text(first()?), " ".repeat(right)))
        }
        "slice" => slice(first()?, &arguments[1..])?,
        "index" => arguments[1..].iter().try_fold(first()?.clone(), index)?,
        "print" => json!(arguments.iter().map(text).collect::<Vec<_>>().join(" ")),
        "println" => json!(arguments.iter().map(text).collect::<Vec<_>>().join(" ") + "\n"),
        "printf" => json!(printf(&text(first()?), &arguments[1..])?),
        "not" => json!(!truth(first()?)),
        "and" => arguments.iter().find(|value| !truth(value)).or(arguments.last()).ok_or_else(few)?.clone(),
        "or" => arguments.iter().find(|value| truth(value)).or(arguments.last()).ok_or_else(few)?.clone(),
        "eq" => json!(arguments.get(1..).ok_or_else(few)?.iter().any(|other| same(&arguments[0], other))),
        "ne" => json!(!same(first()?, second()?)),
        "lt" => json!(order(first()?, second()?)? == Ordering::Less),
        "le" => json!(order(first()?, second()?)? != Ordering::Greater),
        "gt" => json!(order(first()?, second()?)? == Ordering::Greater),
        "ge" => json!(order(first()?, second()?)? != Ordering::Less),
        _ => {
            let near = nearest(name, NAMES).map_or(NAMES.join(", "), |near| format!("did you mean `{near}`?"));
            return Err(format!("there is no function `{name}`\n  help: {near}"));
        }
    })
}

/// As Go prints a value.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(all) => format!("[{}]", all.iter().map(text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| format!("{key}:{}", text(value)));
            format!("map[{}]", entries.collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

/// What `if` takes for true: what is neither false, nor zero, nor empty.
pub fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(all) => !all.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn title(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn length(value: &Value) -> Result<usize, String> {
    match value {
        Value::String(text) => Ok(text.len()),
        Value::Array(all) => Ok(all.len()),
        Value::Object(map) => Ok(map.len()),
        Value::Null => Ok(0),
        other => Err(format!("{other} has no length")),
    }
}

fn join(value: &Value, separator: &str) -> String {
    match value {
        Value::Array(all) => all.iter().map(text).collect::<Vec<_>>().join(separator),
        Value::Null => String::new(),
        other => text(other),
    }
}

fn number(value: &Value) -> Result<usize, String> {
    value.as_u64().and_then(|number| usize::try_from(number).ok()).ok_or_else(|| format!("{value} is not a count"))
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value, String> {
    let whole = length(value)?;
    let from = bounds.first().map(number).transpose()?.unwrap_or(0);
    let to = bounds.get(1).map(number).transpose()?.unwrap_or(whole);
    let outside = || format!("{from}..{to} is outside of {whole}");
    match value {
        Value::String(text) => text.get(from..to).map(|part| json!(part)).ok_or_else(outside),
        Value::Array(all) => all.get(from..to).map(|part| json!(part)).ok_or_else(outside),
        other => Err(format!("{other} can't be cut")),
    }
}

/// A key that a map does not have gives nothing; an index outside of a list is an error.
fn index(value: Value, key: &Value) -> Result<Value, String> {
    match value {
        Value::Object(map) => Ok(map.get(&text(key)).cloned().unwrap_or_else(|| json!(""))),
        Value::Array(all) => {
            let at = number(key)?;
            all.get(at).cloned().ok_or_else(|| format!("index {at} is outside of {}", all.len()))
        }
        Value::Null => Ok(json!("")),
        other => Err(format!("{other} has no parts")),
    }
}

/// `%s %v %d %q %x %t %%`, with a width such as `%-20s`.
fn printf(format: &str, arguments: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let end = rest.find(|c: char| c.is_alphabetic() || c == '%').ok_or("printf: `%` at the end")?;
        let (width, verb) = (&rest[..end], &rest[end..=end]);
        rest = &rest[end + 1..];
        if verb == "%" {
            out.push('%');
            continue;
        }
        let value = arguments.next().ok_or("printf: fewer values than `%`")?;
        let shown = match verb {
            "s" | "v" | "d" | "t" => text(value),
            "q" => json!(text(value)).to_string(),
            "x" => value.as_u64().map_or_else(|| text(value), |number| format!("{number:x}")),
            other => return Err(format!("printf: `%{other}` is not known here")),
        };
        let columns: usize = width.trim_start_matches('-').parse().unwrap_or(0);
        out.push_str(&if width.starts_with('-') { format!("{shown:<columns$}") } else { format!("{shown:>columns$}") });
    }
    Ok(out + rest)
}

fn same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

fn order(one: &Value, other: &Value) -> Result<Ordering, String> {
    let unlike = || format!("{one} and {other} can't be compared");
    match (one, other) {
        (Value::String(one), Value::String(other)) => Ok(one.cmp(other)),
        _ => {
            let (one, other) = (one.as_f64().ok_or_else(unlike)?, other.as_f64().ok_or_else(unlike)?);
            one.partial_cmp(&other).ok_or_else(unlike)
        }
    }
}
