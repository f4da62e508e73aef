//! `--filter KEY=VALUE`: docker's way to say which objects. Several values of one key are alternatives, several keys
//! must all hold; labels must all hold, too.

use std::collections::BTreeMap;

use regex::bytes::{Regex, RegexBuilder};

use super::failure::Failure;
use crate::spec::diagnostics::nearest;

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    values: BTreeMap<String, Vec<String>>,
}

impl Filters {
    /// # Errors
    /// Where a key is none of `known`, or there is no `=`.
    pub fn parse(texts: &[String], known: &[&str]) -> Result<Self, Failure> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for text in texts {
            // `label!=x` is a key of its own.
            let parts = text.split_once("!=").map(|(key, value)| (format!("{key}!"), value));
            let parts = parts.or_else(|| text.split_once('=').map(|(key, value)| (key.to_owned(), value)));
            let (key, value) = parts
                .ok_or_else(|| Failure::new(format!("--filter {text:?}: expected KEY=VALUE, such as name=web")))?;
            if !known.contains(&key.as_str()) {
                let help = match nearest(&key, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("there are {}", known.join(", ")),
                };
                return Err(Failure::new(format!("--filter {text:?}: nothing is filtered by {key:?}\n  help: {help}")));
            }
            values.entry(key).or_default().push(value.to_owned());
        }
        Ok(Self { values })
    }

    /// Whether it holds for one of the values of this key; true where the key was not given.
    pub fn any(&self, key: &str, holds: impl Fn(&str) -> bool) -> bool {
        self.values.get(key).is_none_or(|values| values.iter().any(|value| holds(value)))
    }

    /// Whether all `label` and `label!` hold.
    pub fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let all = |key: &str| self.values.get(key).into_iter().flatten();
        all("label").all(|wanted| has_label(labels, wanted)) && !all("label!").any(|wanted| has_label(labels, wanted))
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub fn is_given(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    pub fn first(&self, key: &str) -> Option<&str> {
        self.values.get(key)?.first().map(String::as_str)
    }

    /// Looks at the values of a key.
    ///
    /// # Errors
    /// Where a value of this key is none of those that there are.
    pub fn each(&self, key: &str, expected: &str, is_known: impl Fn(&str) -> bool) -> Result<(), Failure> {
        match self.values.get(key).into_iter().flatten().find(|value| !is_known(value)) {
            Some(odd) => Err(Failure::new(format!("--filter {key}={odd}: {expected}"))),
            None => Ok(()),
        }
    }

    /// A key whose value is a truth.
    ///
    /// # Errors
    /// Where it is neither `true` nor `false`.
    pub fn truth(&self, key: &str) -> Result<Option<bool>, Failure> {
        match self.first(key) {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => Err(Failure::new(format!("--filter {key}={other}: expected true or false"))),
        }
    }
}

/// `KEY` or `KEY=VALUE`.
fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    }
}

/// Docker's rule for names: a regular expression that fits somewhere, also of the name behind a slash.
pub fn name_matches(name: &str, pattern: &str) -> bool {
    let fits = |pattern: Regex| pattern.is_match(name.as_bytes()) || pattern.is_match(format!("/{name}").as_bytes());
    expression(pattern).is_some_and(fits)
}

/// Whether names can be asked for by this.
pub fn is_pattern(pattern: &str) -> bool {
    expression(pattern).is_some()
}

/// Names are ASCII.
fn expression(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(pattern).unicode(false).build().ok()
}

/// `*` stands for anything, also nothing.
pub fn glob_matches(text: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => text == pattern,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| glob_matches(&rest[at..], tail))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(texts: &[&str]) -> Result<Filters, String> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        Filters::parse(&texts, &["name", "label", "label!", "dangling"]).map_err(|failure| failure.to_string())
    }

    #[test]
    fn values_are_alternatives_and_labels_are_not() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]);
        for (texts, expected) in [
            (vec!["label=a"], true),
            (vec!["label=a=1", "label=b"], true),
            (vec!["label=a=2"], false),
            (vec!["label=a", "label=c"], false),
            (vec!["label!=c"], true),
            (vec!["label!=a=1"], false),
        ] {
            assert_eq!(filters(&texts).unwrap().labels(&labels), expected, "{texts:?}");
        }
        let names = filters(&["name=x", "name=y"]).unwrap();
        assert!(names.any("name", |name| name == "y") && !names.any("name", |name| name == "z"));
        assert!(names.any("dangling", |_| false));
        assert!(filters(&["nam=x"]).unwrap_err().contains("did you mean `name`?"));
        assert!(filters(&["name"]).unwrap_err().contains("KEY=VALUE"));
        assert!(filters(&["dangling=maybe"]).unwrap().truth("dangling").is_err());
    }

    #[test]
    fn names_match_as_dockers_do() {
        for (pattern, expected) in [
            ("web", true),
            ("^shop", true),
            ("^web", false),
            ("1$", true),
            ("^/shop-web-1$", true),
            ("x", false),
            ("^shop-(web|db)-[0-9]+$", true),
            ("^shop.*2$", false),
            (r"\d", true),
            ("", true),
            ("(", false),
        ] {
            assert_eq!(name_matches("shop-web-1", pattern), expected, "{pattern}");
        }
        assert!(!is_pattern("(") && is_pattern("web"));
        for (pattern, expected) in [("*", true), ("ng*", true), ("*:1.*", true), ("nginx", false), ("*x*7", true)] {
            assert_eq!(glob_matches("nginx:1.27", pattern), expected, "{pattern}");
        }
    }
}
