//! A tree as a text again, which means the same when it is read: variables are replaced, files merged, and what is left
//! of dollars is written so that it stays one.

use serde_json::{Map, Value as Json};

use super::diagnostics::Span;
use super::stack::{Format, Stack};
use super::tree::{Entry, Node, Value};

/// The one document that a stack's files together are.
#[derive(Clone, Debug)]
pub struct Document(Node);

impl Document {
    pub(super) fn new(mut tree: Node, stack: &Stack) -> Self {
        if let Value::Mapping(entries) = &mut tree.value {
            entries.retain(|entry| entry.key != "name");
            let name = Node::scalar(Span::default(), stack.name.as_str());
            entries.insert(0, Entry { key: "name".to_owned(), key_span: Span::default(), value: name });
            // Inside, a service is called what we call it.
            let containers = entries.iter_mut().find(|entry| entry.key == "containers");
            if let Some(entry) = containers.filter(|_| stack.format == Format::Compose) {
                "services".clone_into(&mut entry.key);
            }
        }
        Self(tree)
    }

    pub fn to_yaml(&self) -> String {
        let mut text = String::new();
        write(&self.0, 0, &mut text);
        text.trim_start().to_owned()
    }

    pub fn to_json(&self) -> Json {
        json(&self.0)
    }
}

/// What stands behind a key or a dash, with the end of the line.
fn write(node: &Node, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match &node.value {
        Value::Null => text.push('\n'),
        Value::Scalar { text: scalar, quoted } => text.push_str(&format!(" {}\n", scalar_text(scalar, *quoted))),
        Value::Sequence(items) if items.is_empty() => text.push_str(" []\n"),
        Value::Mapping(entries) if entries.is_empty() => text.push_str(" {}\n"),
        Value::Sequence(items) => {
            text.push('\n');
            for item in items {
                text.push_str(&format!("{indent}-"));
                let mut inner = String::new();
                write(item, depth + 1, &mut inner);
                // The first key stands beside the dash.
                let nested = inner.strip_prefix('\n').map(str::trim_start).filter(|rest| !rest.is_empty());
                text.push_str(&nested.map_or(inner.clone(), |rest| format!(" {rest}")));
            }
        }
        Value::Mapping(entries) => {
            text.push('\n');
            for entry in entries {
                text.push_str(&format!("{indent}{}:", key_text(&entry.key)));
                write(&entry.value, depth + 1, text);
            }
        }
    }
}

fn key_text(key: &str) -> String {
    if is_plain(key) { key.to_owned() } else { quoted_text(key) }
}

fn scalar_text(text: &str, quoted: bool) -> String {
    let escaped = text.replace('$', "$$");
    let is_number = || text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(is_of_number);
    match quoted {
        false if is_number() || matches!(text, "true" | "false") => text.to_owned(),
        _ if is_plain(&escaped) => escaped,
        false if !text.is_empty() && is_bare(text) => escaped,
        _ => quoted_text(&escaped),
    }
}

fn is_of_number(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-')
}

/// A scalar without quotes may say something else with them: a word that is one only bare is left so.
fn is_bare(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-' | '~'))
        && !text.starts_with(['-', '.', '+', '~'])
}

/// Text that nobody takes for a number, a boolean or a sign of YAML's.
fn is_plain(text: &str) -> bool {
    let words = ["true", "false", "yes", "no", "y", "n", "on", "off", "null", "nan", "inf", "t", "f"];
    let inner = |c: char| c.is_alphanumeric() || matches!(c, '_' | '/' | '.' | '-' | '@' | '$' | '=' | '+');
    text.starts_with(|c: char| c.is_alphabetic() || matches!(c, '/' | '_' | '$'))
        && text.chars().all(inner)
        && !words.contains(&text.to_ascii_lowercase().as_str())
}

/// JSON's strings are YAML's, but for characters that YAML does not allow as they are.
fn quoted_text(text: &str) -> String {
    let json = Json::String(text.to_owned()).to_string();
    let escape = |c: char| match c {
        '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
            format!("\\u{:04x}", u32::from(c))
        }
        other => other.to_string(),
    };
    json.chars().map(escape).collect()
}

fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Scalar { text, quoted: false } => number_or_boolean(text).unwrap_or_else(|| text.as_str().into()),
        Value::Scalar { text, .. } => text.as_str().into(),
        Value::Sequence(items) => items.iter().map(json).collect(),
        Value::Mapping(entries) => {
            Json::Object(entries.iter().map(|entry| (entry.key.clone(), json(&entry.value))).collect::<Map<_, _>>())
        }
    }
}

fn number_or_boolean(text: &str) -> Option<Json> {
    match text {
        "true" => Some(true.into()),
        "false" => Some(false.into()),
        // `010` and `1.50` are no JSON, and mean something of their own.
        text => {
            serde_json::from_str::<serde_json::Number>(text).ok().filter(|it| it.to_string() == text).map(Json::from)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::load::load_with;
    use super::super::tests::{Memory, load_files, options};
    use super::*;
    use crate::spec::LoadOptions;

    /// The text that these files are together.
    pub fn resolved(files: &[(&str, &str)]) -> String {
        let mut tree = None;
        let loaded = load_with(&options(), &mut Memory::new(files), &mut |node| tree = Some(node.clone()));
        let (stack, _) = loaded.unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
        Document::new(tree.unwrap(), &stack).to_yaml()
    }

    #[test]
    fn the_text_reads_as_the_files_that_it_is_made_from() {
        let base = "services:\n  web:\n    image: 'nginx:${TAG}'\n    environment: {A: 010, B: '1.50', C: yes, D: \"on\", \
                    E: '', F: , G: 'a$$b', H: \"x\\ny: #\"}\n    command: [sh, -c, 'echo $$HOME']\n    ports: ['80:80', 81]\n  \
                    db: {extends: {service: web}}\n";
        let over = "services: {web: {tty: true, ports: [{target: 9, published: '90'}], labels: [a=b]}, db: {ports: !reset []}}";
        let files = [("compose.yaml", base), ("compose.override.yaml", over)];
        let text = resolved(&files);
        let comparable = |text: &[(&str, &str)]| {
            let (stack, _) = load_files(text, &LoadOptions { environment: Default::default(), ..options() })
                .or_else(|_| load_files(text, &options()))
                .unwrap_or_else(|diagnostics| panic!("{diagnostics}\n{}", text[0].1));
            Stack { files: Vec::<PathBuf>::new(), spans: Default::default(), ..stack }
        };
        assert_eq!(comparable(&[("compose.yaml", &text)]), comparable(&files), "{text}");
        assert!(text.contains("image: \"nginx:1.27\"") && text.starts_with("name: shop\n"), "{text}");
        assert_eq!(resolved(&[("compose.yaml", &text)]), text, "the text of a text is the same");
    }
}
