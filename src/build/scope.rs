//! Which variables an instruction sees (Dockerfile reference, "ARG", "Scope"). Pure.

use std::collections::BTreeMap;

use super::dockerfile::expand::{self, Problem, Quotes};
use super::dockerfile::{Argument, Word};
use super::draft::Draft;

/// Arguments that every build has although no `ARG` declares them; they count neither for history nor for the cache.
pub const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The host, as images name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

impl Platform {
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "arm" => ("arm", Some("v7")),
            other => (other, None),
        };
        let variant = variant.map(str::to_owned);
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant }
    }

    /// Whether `linux/amd64` or the like means this one.
    pub fn is(&self, text: &str) -> bool {
        let mut parts = text.split('/');
        let (os, architecture, variant) = (parts.next(), parts.next(), parts.next());
        let known = match architecture {
            Some("x86_64") => Some("amd64"),
            Some("aarch64") => Some("arm64"),
            other => other,
        };
        // `arm64/v8` is arm64.
        let variant = variant.filter(|variant| !(known == Some("arm64") && *variant == "v8"));
        let same = variant.is_none_or(|variant| self.variant.as_deref() == Some(variant));
        os == Some(&self.os) && known == Some(&self.architecture) && same && parts.next().is_none()
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// What is given to the build as a whole.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// `--build-arg`.
    pub arguments: BTreeMap<String, String>,
    /// What is known without being given: `TARGETARCH`, `SOURCE_DATE_EPOCH`.
    pub known: BTreeMap<String, String>,
    /// `ARG` before the first `FROM`, with their values.
    pub globals: BTreeMap<String, String>,
    pub escape: char,
}

impl Given {
    pub fn new(arguments: &BTreeMap<String, String>, target: &str, epoch: Option<u64>, escape: char) -> Self {
        let platform = Platform::host();
        let mut known = BTreeMap::from([("TARGETSTAGE".to_owned(), target.to_owned())]);
        for word in ["TARGET", "BUILD"] {
            known.insert(format!("{word}PLATFORM"), platform.to_string());
            known.insert(format!("{word}OS"), platform.os.clone());
            known.insert(format!("{word}ARCH"), platform.architecture.clone());
            known.insert(format!("{word}VARIANT"), platform.variant.clone().unwrap_or_default());
        }
        known.extend(epoch.map(|epoch| ("SOURCE_DATE_EPOCH".to_owned(), epoch.to_string())));
        Self { arguments: arguments.clone(), known, globals: BTreeMap::new(), escape }
    }

    /// Gives the arguments before the first `FROM` their values, one after another.
    pub fn declare_globals(&mut self, arguments: &[Argument]) -> Result<(), (Word, Problem)> {
        for argument in arguments {
            let value = match (self.arguments.get(&argument.name), &argument.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.global(default)?),
                (None, None) => self.known.get(&argument.name).cloned(),
            };
            self.globals.extend(value.map(|value| (argument.name.clone(), value)));
        }
        Ok(())
    }

    /// A word of a `FROM`: it sees the arguments before the first one, and what is known of itself.
    pub fn global(&self, word: &Word) -> Result<String, (Word, Problem)> {
        let lookup = |name: &str| self.globals.get(name).or_else(|| self.known.get(name)).cloned();
        let value = expand::expand(&word.text, self.escape, Quotes::Word, &lookup);
        value.map_err(|problem| (word.clone(), problem))
    }

    /// Proxies that were given.
    pub fn proxies(&self) -> Vec<String> {
        let given = PROXIES.iter().filter_map(|name| Some(format!("{name}={}", self.arguments.get(*name)?)));
        given.collect()
    }
}

/// The arguments that a stage has declared so far.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    values: BTreeMap<String, String>,
}

impl Scope {
    /// `ARG`: the given value, else the default, else that of the same name before the first `FROM`.
    pub fn declare(&mut self, argument: &Argument, given: &Given, draft: &Draft) -> Result<(), (Word, Problem)> {
        let name = &argument.name;
        let value = match (given.arguments.get(name), &argument.default) {
            (Some(value), _) => Some(value.clone()),
            (None, Some(default)) => Some(self.expand(default, Quotes::Word, given, draft)?),
            (None, None) => given.globals.get(name).or_else(|| given.known.get(name)).cloned(),
        };
        self.values.extend(value.map(|value| (name.clone(), value)));
        Ok(())
    }

    /// The word's value: variables of the image win over arguments.
    pub fn expand(&self, word: &Word, quotes: Quotes, given: &Given, draft: &Draft) -> Result<String, (Word, Problem)> {
        let lookup = |name: &str| draft.variable(name).or_else(|| self.values.get(name).cloned());
        let value = expand::expand(&word.text, given.escape, quotes, &lookup);
        value.map_err(|problem| (word.clone(), problem))
    }

    /// The environment of a `RUN`: arguments that no variable of the image hides come first.
    pub fn environment(&self, draft: &Draft) -> Vec<String> {
        let hidden = |name: &String| draft.variable(name).is_some();
        let arguments = self.values.iter().filter(|(name, _)| !hidden(name) && !PROXIES.contains(&name.as_str()));
        let arguments = arguments.map(|(name, value)| format!("{name}={value}"));
        arguments.chain(draft.environment()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::Span;

    fn argument(name: &str, default: Option<&str>) -> Argument {
        let word = |text: &str| Word { text: text.to_owned(), span: Span::default() };
        Argument { name: name.to_owned(), default: default.map(word), span: Span::default() }
    }

    #[test]
    fn arguments_are_seen_where_they_are_declared() {
        let arguments = BTreeMap::from([("GIVEN".to_owned(), "g".to_owned())]);
        let mut given = Given::new(&arguments, "last", Some(7), '\\');
        given
            .declare_globals(&[argument("A", Some("1")), argument("B", Some("$A$GIVEN")), argument("GIVEN", None)])
            .unwrap();
        assert_eq!(given.globals["B"], "1");
        let mut draft = Draft::scratch("linux", "amd64");
        let mut scope = Scope::default();
        let value = |scope: &Scope, draft: &Draft, text: &str| {
            let word = Word { text: text.to_owned(), span: Span::default() };
            scope.expand(&word, Quotes::Word, &given, draft).unwrap()
        };
        assert_eq!(value(&scope, &draft, "$A$GIVEN"), "");
        for one in [argument("A", None), argument("GIVEN", Some("x")), argument("C", Some("${A}c"))] {
            scope.declare(&one, &given, &draft).unwrap();
        }
        assert_eq!(value(&scope, &draft, "$A$GIVEN$C"), "1g1c");
        draft.set_variable("A", "env");
        assert_eq!(value(&scope, &draft, "$A"), "env");
        assert_eq!(scope.environment(&draft), ["C=1c", "GIVEN=g", "A=env"]);
        scope.declare(&argument("SOURCE_DATE_EPOCH", None), &given, &draft).unwrap();
        assert_eq!(value(&scope, &draft, "$SOURCE_DATE_EPOCH"), "7");
    }

    #[test]
    fn platforms_have_several_names() {
        let arm = Platform { os: "linux".into(), architecture: "arm64".into(), variant: None };
        for (text, expected) in [
            ("linux/arm64", true),
            ("linux/aarch64", true),
            ("linux/arm64/v8", true),
            ("linux/amd64", false),
            ("linux", false),
        ] {
            assert_eq!(arm.is(text), expected, "{text}");
        }
    }
}
