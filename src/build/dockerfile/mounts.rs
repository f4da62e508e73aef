//! `RUN --mount=type=…,key=value,…`.

use crate::diagnostics::{Diagnostic, Span, did_you_mean};

use super::Word;

/// One mount of a `RUN`. Values may still hold variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    pub kind: MountKind,
    pub target: Option<Word>,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, a stage or an image. What is written into it is thrown away.
    Bind {
        from: Option<Word>,
        source: Option<Word>,
        writable: bool,
    },
    /// A directory that outlives the build.
    Cache {
        id: Option<Word>,
        from: Option<Word>,
        source: Option<Word>,
        sharing: Sharing,
        mode: u32,
        uid: u32,
        gid: u32,
        read_only: bool,
    },
    Tmpfs {
        size: Option<u64>,
    },
    Secret {
        id: Option<Word>,
        env: Option<Word>,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// What happens when two steps want the same cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    #[default]
    Shared,
    /// Each has one of its own.
    Private,
    /// One waits for the other.
    Locked,
}

const KINDS: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];

/// The keys of one mount, each taken once.
struct Keys<'a> {
    given: Vec<(String, Option<Word>, Span)>,
    span: Span,
    found: &'a mut Vec<Diagnostic>,
}

/// Reads the value of one `--mount`. `None` where it was wrong, which is reported.
pub fn parse(word: &Word, found: &mut Vec<Diagnostic>) -> Option<MountOptions> {
    let before = found.len();
    let mut keys = Keys { given: split(word), span: word.span, found };
    let kind = keys.word("type").unwrap_or(Word { text: "bind".into(), span: word.span });
    let target = keys.any(&["target", "dst", "destination"]);
    let kind = match kind.text.as_str() {
        "bind" => keys.bind(),
        "cache" => keys.cache(),
        "tmpfs" => MountKind::Tmpfs { size: keys.size() },
        "secret" => keys.secret(),
        "ssh" => {
            keys.error(kind.span, "agents of ssh are not lent to builds yet".into(), None);
            return None;
        }
        other => {
            let help = did_you_mean(other, KINDS).unwrap_or_else(|| format!("there is {}", KINDS.join(", ")));
            keys.error(kind.span, format!("unknown type of mount `{other}`"), Some(help));
            return None;
        }
    };
    if target.is_none() && !matches!(kind, MountKind::Secret { .. }) {
        keys.error(word.span, "this mount has no target".into(), Some("add `target=/…`".into()));
    }
    keys.finish();
    (found.len() == before).then_some(MountOptions { kind, target, span: word.span })
}

fn split(word: &Word) -> Vec<(String, Option<Word>, Span)> {
    let mut at = 0;
    let mut given = Vec::new();
    for part in word.text.split(',') {
        let (key, value) = part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value)));
        let start = word.span.start + at + part.len() - value.map_or(part.len(), str::len);
        let span = Span { start, end: word.span.start + at + part.len(), ..word.span };
        let value = value.map(|value| Word { text: value.trim_matches('"').to_owned(), span });
        let begins = word.span.start + at;
        let key_span = Span { start: begins, end: begins + key.len(), ..word.span };
        given.push((key.trim().trim_matches('"').to_lowercase(), value, key_span));
        at += part.len() + 1;
    }
    given
}

impl Keys<'_> {
    fn error(&mut self, span: Span, message: String, help: Option<String>) {
        let mut error = Diagnostic::error(message, span);
        error.help = help;
        self.found.push(error);
    }

    fn take(&mut self, key: &str) -> Option<Option<Word>> {
        let at = self.given.iter().position(|(given, ..)| given == key)?;
        Some(self.given.remove(at).1)
    }

    fn word(&mut self, key: &str) -> Option<Word> {
        match self.take(key)? {
            Some(word) if !word.text.is_empty() => Some(word),
            _ => {
                self.error(self.span, format!("`{key}` needs a value"), None);
                None
            }
        }
    }

    fn any(&mut self, keys: &[&str]) -> Option<Word> {
        keys.iter().fold(None, |found, key| found.or(self.word(key)))
    }

    fn flag(&mut self, keys: &[&str]) -> Option<bool> {
        for key in keys {
            let Some(value) = self.take(key) else { continue };
            return match value.as_ref().map(|word| word.text.as_str()) {
                None | Some("true" | "1") => Some(true),
                Some("false" | "0") => Some(false),
                Some(other) => {
                    self.error(self.span, format!("`{key}={other}`: expected `true` or `false`"), None);
                    None
                }
            };
        }
        None
    }

    fn number(&mut self, key: &str, radix: u32) -> Option<u32> {
        let word = self.word(key)?;
        let number = u32::from_str_radix(&word.text, radix).ok().filter(|number| i32::try_from(*number).is_ok());
        if number.is_none() {
            let what = if radix == 8 { "an octal number such as 0755" } else { "a number" };
            self.error(word.span, format!("`{}`: expected {what}", word.text), None);
        }
        number
    }

    fn size(&mut self) -> Option<u64> {
        let word = self.word("size")?;
        let bytes = super::super::units::bytes(&word.text);
        if bytes.is_none() {
            self.error(word.span, format!("`{}`: expected a size such as 64m", word.text), None);
        }
        bytes
    }

    fn bind(&mut self) -> MountKind {
        let (from, source) = (self.word("from"), self.any(&["source", "src"]));
        let read_only = self.flag(&["readonly", "ro"]);
        let writable = self.flag(&["rw", "readwrite"]).or(read_only.map(|read_only| !read_only)).unwrap_or(false);
        MountKind::Bind { from, source, writable }
    }

    fn cache(&mut self) -> MountKind {
        let sharing = match self.word("sharing") {
            None => Sharing::Shared,
            Some(word) => match word.text.as_str() {
                "shared" => Sharing::Shared,
                "private" => Sharing::Private,
                "locked" => Sharing::Locked,
                other => {
                    let help = Some("shared, private or locked".to_owned());
                    self.error(word.span, format!("unknown sharing `{other}`"), help);
                    Sharing::Shared
                }
            },
        };
        MountKind::Cache {
            id: self.word("id"),
            from: self.word("from"),
            source: self.any(&["source", "src"]),
            sharing,
            mode: self.number("mode", 8).unwrap_or(0o755),
            uid: self.number("uid", 10).unwrap_or(0),
            gid: self.number("gid", 10).unwrap_or(0),
            read_only: self.flag(&["readonly", "ro"]).unwrap_or(false),
        }
    }

    fn secret(&mut self) -> MountKind {
        MountKind::Secret {
            id: self.any(&["id", "source", "src"]),
            env: self.word("env"),
            required: self.flag(&["required"]).unwrap_or(false),
            mode: self.number("mode", 8).unwrap_or(0o400),
            uid: self.number("uid", 10).unwrap_or(0),
            gid: self.number("gid", 10).unwrap_or(0),
        }
    }

    /// What is left is known for no mount, or for another kind of mount.
    fn finish(&mut self) {
        const ALL: [&str; 17] = [
            "type", "target", "source", "from", "readonly", "rw", "id", "sharing", "mode", "uid", "gid", "size",
            "required", "env", "ro", "dst", "src",
        ];
        for (key, _, span) in std::mem::take(&mut self.given) {
            let message = match ALL.contains(&key.as_str()) {
                true => format!("`{key}` is not known for this type of mount, or given twice"),
                false => format!("unknown key `{key}` of a mount"),
            };
            let help = if ALL.contains(&key.as_str()) { None } else { did_you_mean(&key, ALL) };
            self.error(span, message, help);
        }
    }
}
