//! A document as SOPS sees it: its values in the order in which they stand, YAML and JSON alike.

use saphyr_parser::{Event, Parser, ScalarStyle};

/// How deep and how large one may be.
const DEEPEST: usize = 64;
const LARGEST: usize = 100_000;

#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
    /// On a line of its own, from behind its mark. It counts, and is not kept.
    Comment(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    Text(String),
    /// As it is written: a number, true, false, null.
    Plain(String),
}

impl Node {
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(own, _)| own == key).map(|(_, node)| node),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Scalar(Scalar::Text(text) | Scalar::Plain(text)) => Some(text),
            _ => None,
        }
    }

    /// JSON, which YAML includes.
    pub fn to_json(&self) -> String {
        match self {
            Self::Scalar(Scalar::Text(text)) => quoted(text),
            Self::Scalar(Scalar::Plain(text)) => text.clone(),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(Self::to_json).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Map(entries) => {
                let entries = entries.iter().map(|(key, node)| format!("{}: {}", quoted(key), node.to_json()));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
            }
            Self::Comment(_) => String::new(),
        }
    }

    /// Without its comments.
    pub fn bare(self) -> Self {
        let is_comment = |node: &Self| matches!(node, Self::Comment(_));
        match self {
            Self::List(items) => {
                Self::List(items.into_iter().filter(|node| !is_comment(node)).map(Self::bare).collect())
            }
            Self::Map(entries) => {
                let entries = entries.into_iter().filter(|(_, node)| !is_comment(node));
                Self::Map(entries.map(|(key, node)| (key, node.bare())).collect())
            }
            other => other,
        }
    }

    /// YAML with a line for each value.
    pub fn to_yaml(&self) -> String {
        let mut text = String::new();
        self.write(0, &mut text);
        text
    }

    fn write(&self, depth: usize, text: &mut String) {
        let indent = "  ".repeat(depth);
        let mut put = |head: String, node: &Self| match node {
            Self::Map(entries) if !entries.is_empty() => {
                text.push_str(&format!("{indent}{head}\n"));
                node.write(depth + 1, text);
            }
            Self::List(items) if !items.is_empty() => {
                text.push_str(&format!("{indent}{head}\n"));
                node.write(depth + 1, text);
            }
            _ => text.push_str(&format!("{indent}{head} {}\n", node.to_json())),
        };
        match self {
            Self::Map(entries) => entries.iter().for_each(|(key, node)| put(format!("{}:", plain_key(key)), node)),
            Self::List(items) => items.iter().for_each(|node| put("-".to_owned(), node)),
            Self::Scalar(_) | Self::Comment(_) => text.push_str(&(self.to_json() + "\n")),
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// As it stands, where nothing else could be meant.
fn plain_key(key: &str) -> String {
    let is_word = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    let means_something = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let is_plain = is_word && !means_something.contains(&key.to_ascii_lowercase().as_str());
    if is_plain { key.to_owned() } else { quoted(key) }
}

enum Frame {
    List(Vec<Node>),
    Map(Vec<(String, Node)>, Option<String>),
}

/// Its one document. Aliases and several documents are not for encrypted files.
pub fn parse(text: &str) -> Option<Node> {
    let (mut frames, mut root, mut count, mut early) = (Vec::new(), None, 0, Vec::new());
    let mut comments = comments(text).peekable();
    for event in Parser::new_from_str(text) {
        count += 1;
        if count > LARGEST || frames.len() > DEEPEST {
            return None;
        }
        let (event, span) = event.ok()?;
        // A comment belongs to what comes after it.
        let begins = matches!(event, Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..));
        while begins && let Some((_, comment)) = comments.next_if(|(line, _)| *line < span.start.line()) {
            let comment = Node::Comment(comment.to_owned());
            match frames.last_mut() {
                Some(Frame::Map(entries, None)) => entries.push((String::new(), comment)),
                Some(Frame::List(items)) => items.push(comment),
                _ => early.push(comment),
            }
        }
        let done = match event {
            Event::Scalar(value, style, ..) => Node::Scalar(scalar(value.into_owned(), style)),
            Event::SequenceStart(..) => {
                frames.push(Frame::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                frames.push(Frame::Map(Vec::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match frames.pop()? {
                Frame::List(items) => Node::List(items),
                Frame::Map(entries, None) => Node::Map(entries),
                Frame::Map(_, Some(_)) => return None,
            },
            Event::Alias(_) => return None,
            _ => continue,
        };
        match frames.last_mut() {
            None if root.is_some() => return None,
            None => root = Some(done),
            Some(Frame::List(items)) => items.push(done),
            Some(Frame::Map(entries, key)) => match key.take() {
                None => *key = Some(done.text()?.to_owned()),
                Some(key) => entries.push((key, done)),
            },
        }
    }
    match root {
        // Those above the first key, and those below the last value.
        Some(Node::Map(entries)) => {
            let late = comments.map(|(_, comment)| Node::Comment(comment.to_owned()));
            let of_root = |comment: Node| (String::new(), comment);
            let early = early.into_iter().map(of_root);
            Some(Node::Map(early.chain(entries).chain(late.map(of_root)).collect()))
        }
        other => other,
    }
}

/// Lines that are comments, by their number, without the mark.
fn comments(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate();
    lines.filter_map(|(index, line)| Some((index + 1, line.trim().strip_prefix('#')?)))
}

fn scalar(text: String, style: ScalarStyle) -> Scalar {
    let is_word = ["true", "false", "null", "~", ""].contains(&text.as_str());
    let is_number = text.parse::<f64>().is_ok_and(f64::is_finite) && text.chars().any(|c| c.is_ascii_digit());
    match style {
        ScalarStyle::Plain if matches!(text.as_str(), "~" | "") => Scalar::Plain("null".to_owned()),
        ScalarStyle::Plain if is_word || is_number => Scalar::Plain(text),
        _ => Scalar::Text(text),
    }
}
