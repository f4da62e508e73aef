//! One logical line → one instruction. What is wrong is reported with its place, and reading goes on.

use crate::diagnostics::{Diagnostic, Severity, Span, did_you_mean};

use super::expand;
use super::flags::{self, Flags, Form};
use super::lines::{Line, Text, list, words};
use super::mounts;
use super::{Argument, Command, Copy, Instruction, Kind, Parsed, Run, Stage, Word};
use crate::build::units::duration_ms;
use crate::runtime::image::Healthcheck;

const KNOWN: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// The flags of an instruction.
fn known_flags(name: &str) -> &'static [(&'static str, Form)] {
    match name {
        "FROM" => &[("platform", Form::Value)],
        "RUN" => &[("mount", Form::Values), ("network", Form::Value), ("security", Form::Value)],
        "COPY" => &[
            ("from", Form::Value),
            ("chown", Form::Value),
            ("chmod", Form::Value),
            ("link", Form::Switch),
            ("parents", Form::Switch),
            ("exclude", Form::Values),
        ],
        "ADD" => &[
            ("chown", Form::Value),
            ("chmod", Form::Value),
            ("link", Form::Switch),
            ("exclude", Form::Values),
            ("checksum", Form::Value),
            ("keep-git-dir", Form::Switch),
            ("unpack", Form::Switch),
        ],
        "HEALTHCHECK" => &[
            ("interval", Form::Value),
            ("timeout", Form::Value),
            ("start-period", Form::Value),
            ("start-interval", Form::Value),
            ("retries", Form::Value),
        ],
        _ => &[],
    }
}

/// Reads lines and gathers what is wrong with them.
pub struct Parser {
    escape: char,
    found: Vec<Diagnostic>,
}

/// The rest of a line, behind the instruction's name and flags.
#[derive(Clone, Copy)]
struct Rest<'a> {
    line: &'a Text,
    start: usize,
}

impl<'a> Rest<'a> {
    fn text(self) -> &'a str {
        self.line.text[self.start..].trim_end()
    }

    fn span(self) -> Span {
        self.line.span(self.start..self.start + self.text().len())
    }

    fn word(self) -> Word {
        Word { text: self.text().to_owned(), span: self.span() }
    }

    /// Words divided by white space, whatever is quoted.
    fn plain_words(self) -> Vec<Word> {
        let text = self.text();
        let mut found = Vec::new();
        let mut at = 0;
        for piece in text.split_whitespace() {
            let start = at + text[at..].find(piece).unwrap_or(0);
            at = start + piece.len();
            let span = self.line.span(self.start + start..self.start + at);
            found.push(Word { text: piece.to_owned(), span });
        }
        found
    }

    /// As a JSON list, or else as words.
    fn list_or_words(self) -> Vec<Word> {
        match list(self.text()) {
            Some(texts) => texts.into_iter().map(|text| Word { text, span: self.span() }).collect(),
            None => self.plain_words(),
        }
    }
}

impl Parser {
    pub fn new(escape: char, found: Vec<Diagnostic>) -> Self {
        Self { escape, found }
    }

    pub fn error_help(&mut self, message: impl Into<String>, span: Span, help: impl Into<String>) {
        self.found.push(Diagnostic::error(message, span).help(help));
    }

    fn error(&mut self, message: impl Into<String>, span: Span) {
        self.found.push(Diagnostic::error(message, span));
    }

    pub fn failed(&self) -> bool {
        self.found.iter().any(|one| one.severity == Severity::Error)
    }

    /// The warnings, or else all that was found.
    pub fn finish(self) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        if self.failed() { Err(self.found) } else { Ok(self.found) }
    }

    /// `None` where it was wrong, which is reported.
    pub fn line(&mut self, line: &Line) -> Option<Parsed> {
        let text = &line.text;
        let end = text.text.find(char::is_whitespace).unwrap_or(text.text.len());
        let name = text.text[..end].to_ascii_uppercase();
        let name_span = text.span(0..end);
        let Some(name) = KNOWN.iter().copied().find(|known| *known == name) else {
            let help = did_you_mean(&name, KNOWN).unwrap_or_else(|| format!("there is {}", KNOWN.join(", ")));
            self.error_help(format!("unknown instruction `{}`", &text.text[..end]), name_span, help);
            return None;
        };
        let before = self.found.len();
        let (mut flags, start) = flags::take(text, end, known_flags(name), self.escape, &mut self.found);
        let rest = Rest { line: text, start };
        if rest.text().is_empty() {
            self.error(format!("`{name}` needs an argument"), name_span);
            return None;
        }
        let parsed = match name {
            "FROM" => self.from(rest, &mut flags, text.whole()).map(|stage| Parsed::From(Box::new(stage))),
            _ => self.kind(name, rest, &mut flags, line).map(|kind| {
                Parsed::Instruction(Instruction { kind, span: text.whole(), text: text.text.trim().to_owned() })
            }),
        };
        let failed = self.found[before..].iter().any(|one| one.severity == Severity::Error);
        parsed.filter(|_| !failed)
    }

    fn kind(&mut self, name: &str, rest: Rest<'_>, flags: &mut Flags, line: &Line) -> Option<Kind> {
        Some(match name {
            "ARG" => Kind::Arg(self.arguments(rest)?),
            "ENV" => Kind::Env(self.pairs(rest, name)?),
            "LABEL" => Kind::Label(self.pairs(rest, name)?),
            "RUN" => Kind::Run(Box::new(self.run(rest, flags, line)?)),
            "COPY" | "ADD" => Kind::Copy(Box::new(self.copy(name == "ADD", rest, flags, line)?)),
            "WORKDIR" => Kind::Workdir(self.checked(rest.word())?),
            "USER" => Kind::User(self.checked(rest.word())?),
            "STOPSIGNAL" => Kind::StopSignal(self.checked(rest.word())?),
            "ENTRYPOINT" => Kind::Entrypoint(self.command(rest)),
            "CMD" => Kind::Cmd(self.command(rest)),
            "SHELL" => Kind::Shell(self.shell(rest)?),
            "EXPOSE" => Kind::Expose(self.all_checked(rest.plain_words())?),
            "VOLUME" => Kind::Volume(self.volumes(rest)?),
            "HEALTHCHECK" => Kind::Healthcheck(self.healthcheck(rest, flags)?),
            "ONBUILD" => Kind::Onbuild(self.onbuild(rest)?),
            "MAINTAINER" => {
                let warning = Diagnostic::warning("`MAINTAINER` is deprecated", rest.span());
                self.found.push(warning.help("write `LABEL org.opencontainers.image.authors=…`"));
                Kind::Maintainer(rest.text().to_owned())
            }
            _ => return None,
        })
    }

    /// A word whose variables can be understood.
    fn checked(&mut self, word: Word) -> Option<Word> {
        match expand::check(&word.text, self.escape) {
            Ok(()) => Some(word),
            Err(problem) => {
                self.error(problem.to_string(), word.span);
                None
            }
        }
    }

    fn all_checked(&mut self, words: Vec<Word>) -> Option<Vec<Word>> {
        let count = words.len();
        let checked: Vec<Word> = words.into_iter().filter_map(|word| self.checked(word)).collect();
        (checked.len() == count).then_some(checked)
    }

    fn from(&mut self, rest: Rest<'_>, flags: &mut Flags, span: Span) -> Option<Stage> {
        let platform = flags.value("platform");
        let words = rest.plain_words();
        let name = match words.as_slice() {
            [_] => None,
            [_, between, name] if between.text.eq_ignore_ascii_case("as") => Some(name.clone()),
            [_, more, ..] => {
                self.error_help(
                    format!("`{}` is not expected here", more.text),
                    more.span,
                    "it is `FROM IMAGE` or `FROM IMAGE AS NAME`",
                );
                return None;
            }
            [] => return None,
        };
        let name = match name {
            Some(name) => Some(self.stage_name(&name)?),
            None => None,
        };
        let image = self.checked(words.into_iter().next()?)?;
        let text = rest.line.text.trim().to_owned();
        Some(Stage { image, platform, name, span, text, instructions: Vec::new() })
    }

    fn stage_name(&mut self, name: &Word) -> Option<String> {
        let lower = name.text.to_lowercase();
        let first = lower.starts_with(|c: char| c.is_ascii_lowercase());
        if !first || !lower.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c)) {
            self.error_help(
                format!("`{}` can't be a stage's name", name.text),
                name.span,
                "a letter first, then letters, digits, `_`, `.` and `-`",
            );
            return None;
        }
        Some(lower)
    }

    /// Two stages of one name: what is meant by it later?
    pub fn check_name(&mut self, stage: &Stage, before: &[Stage]) {
        let Some(first) = before.iter().find(|other| other.name.is_some() && other.name == stage.name) else { return };
        let name = stage.name.as_deref().unwrap_or_default();
        let error = Diagnostic::error(format!("two stages are named `{name}`"), stage.span);
        self.found.push(error.related(first.span, "the first"));
    }

    /// `NAME[=VALUE]`, several on a line.
    fn arguments(&mut self, rest: Rest<'_>) -> Option<Vec<Argument>> {
        let mut arguments = Vec::new();
        for range in words(rest.text(), self.escape) {
            let text = &rest.text()[range.clone()];
            let span = rest.line.span(rest.start + range.start..rest.start + range.end);
            let (name, default) = match text.split_once('=') {
                Some((name, value)) => {
                    let start = rest.start + range.start + name.len() + 1;
                    let span = rest.line.span(start..start + value.len());
                    (name, Some(self.checked(Word { text: value.to_owned(), span })?))
                }
                None => (text, None),
            };
            let name: String = name.chars().filter(|c| !matches!(c, '"' | '\'')).collect();
            let good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
            if !good {
                self.error_help(
                    format!("`{name}` can't be an argument's name"),
                    span,
                    "it is `ARG NAME` or `ARG NAME=DEFAULT`",
                );
                continue;
            }
            arguments.push(Argument { name, default, span });
        }
        Some(arguments)
    }

    /// `KEY=VALUE …`, or the old `KEY VALUE`, where the value is all the rest.
    fn pairs(&mut self, rest: Rest<'_>, name: &str) -> Option<Vec<(Word, Word)>> {
        let text = rest.text();
        let ranges = words(text, self.escape);
        let word = |range: std::ops::Range<usize>| Word {
            text: text[range.clone()].to_owned(),
            span: rest.line.span(rest.start + range.start..rest.start + range.end),
        };
        let first = ranges.first()?.clone();
        if !text[first.clone()].contains('=') {
            let value = first.end + (text[first.end..].len() - text[first.end..].trim_start().len());
            if value >= text.len() {
                self.error_help(
                    format!("`{}` has no value", &text[first.clone()]),
                    word(first).span,
                    format!("write `{name} KEY=VALUE`"),
                );
                return None;
            }
            let warning = Diagnostic::warning(format!("`{name} KEY VALUE` is an old form"), rest.span());
            self.found.push(warning.help(format!("write `{name} KEY=VALUE`")));
            let (key, value) = (self.checked(word(first))?, self.checked(word(value..text.len()))?);
            return Some(vec![(key, value)]);
        }
        let mut pairs = Vec::new();
        for range in ranges {
            let Some(at) = text[range.clone()].find('=').map(|at| range.start + at) else {
                self.error_help(
                    format!("`{}` has no value", &text[range.clone()]),
                    word(range).span,
                    "each is written KEY=VALUE; quote a value that has spaces",
                );
                continue;
            };
            if at == range.start {
                self.error("there is no name before `=`", word(range).span);
                continue;
            }
            let key = self.checked(word(range.start..at));
            let value = self.checked(word(at + 1..range.end));
            pairs.extend(key.zip(value));
        }
        Some(pairs)
    }

    fn command(&mut self, rest: Rest<'_>) -> Command {
        match list(rest.text()) {
            Some(words) => Command::Exec(words),
            None => {
                self.suspect_list(rest);
                Command::Shell(rest.text().to_owned())
            }
        }
    }

    /// `['a', "b"]` is a shell's command to docker; it is hardly ever meant so.
    fn suspect_list(&mut self, rest: Rest<'_>) {
        let text = rest.text();
        if text.starts_with('[') && text.ends_with(']') && !text.starts_with("[ ") && !text.starts_with("[[") {
            let warning = Diagnostic::warning("this is not a JSON list, so a shell gets it as it is", rest.span());
            self.found.push(warning.help("a JSON list has words in double quotes, with commas between"));
        }
    }

    fn shell(&mut self, rest: Rest<'_>) -> Option<Vec<String>> {
        let words = list(rest.text()).filter(|words| !words.is_empty());
        if words.is_none() {
            self.error_help("`SHELL` takes a JSON list", rest.span(), "such as `SHELL [\"/bin/bash\", \"-c\"]`");
        }
        words
    }

    fn volumes(&mut self, rest: Rest<'_>) -> Option<Vec<Word>> {
        let words = rest.list_or_words();
        if words.is_empty() || words.iter().any(|word| word.text.trim().is_empty()) {
            self.error("a volume's path can't be empty", rest.span());
            return None;
        }
        self.all_checked(words)
    }

    fn run(&mut self, rest: Rest<'_>, flags: &mut Flags, line: &Line) -> Option<Run> {
        let mut mounted = Vec::new();
        for word in flags.values("mount") {
            mounted.extend(mounts::parse(&word, &mut self.found));
        }
        if let Some(word) = flags.value("security").filter(|word| word.text != "sandbox") {
            self.error_help(
                format!("`--security={}`: a build has the rights of an ordinary container", word.text),
                word.span,
                "leave it out",
            );
        }
        let network = flags.value("network");
        if let Some(word) = &network
            && !matches!(word.text.as_str(), "default" | "none" | "host")
        {
            self.error_help(format!("unknown network `{}`", word.text), word.span, "there is default, none and host");
        }
        let command = self.command(rest);
        Some(Run { command, heredocs: line.heredocs.clone(), mounts: mounted, network })
    }

    fn copy(&mut self, add: bool, rest: Rest<'_>, flags: &mut Flags, line: &Line) -> Option<Copy> {
        let name = if add { "ADD" } else { "COPY" };
        let mut words = rest.list_or_words();
        if words.len() < 2 {
            self.error_help(
                format!("`{name}` needs a source and a target"),
                rest.span(),
                format!("it is `{name} SOURCE… TARGET`"),
            );
            return None;
        }
        let target = words.pop()?;
        // Here-documents are sources of their own, named by their words.
        words.retain(|word| !line.heredocs.iter().any(|one| one.word == word.text));
        if let Some(url) = words.iter().find(|word| is_remote(&word.text)) {
            let (text, span) = (url.text.clone(), url.span);
            let help = if add { "fetch it in a `RUN`" } else { "`COPY` takes files of the context" };
            self.error_help(format!("`{text}`: fetching is not there yet"), span, help);
        }
        let mut switch = |name: &str| flags.switch(name, &mut self.found);
        let (link, parents, unpack) = (switch("link"), switch("parents"), switch("unpack"));
        switch("keep-git-dir");
        let (owner, mode) = (flags.value("chown"), flags.value("chmod"));
        if let Some(mode) = &mode
            && !mode.text.contains('$')
            && super::super::mode::Mode::parse(&mode.text).is_none()
        {
            self.error_help(
                format!("`{}` is not a mode", mode.text),
                mode.span,
                "an octal number such as 0755, or a form such as u+x,g=r",
            );
        }
        let sources = self.all_checked(words)?;
        Some(Copy {
            add,
            sources,
            heredocs: line.heredocs.clone(),
            target: self.checked(target)?,
            from: flags.value("from"),
            owner,
            mode,
            link: link.unwrap_or(false),
            parents: parents.unwrap_or(false),
            exclude: flags.values("exclude"),
            unpack,
            checksum: flags.value("checksum"),
        })
    }

    fn healthcheck(&mut self, rest: Rest<'_>, flags: &mut Flags) -> Option<Healthcheck> {
        let text = rest.text();
        let (kind, arguments) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let arguments = arguments.trim_start();
        let test = match (kind.to_ascii_uppercase().as_str(), arguments) {
            ("NONE", "") => vec!["NONE".to_owned()],
            ("CMD", arguments) if !arguments.is_empty() => match list(arguments) {
                Some(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
                None => vec!["CMD-SHELL".to_owned(), arguments.to_owned()],
            },
            _ => {
                self.error_help("unknown form of a health check", rest.span(), "it is `CMD …` or `NONE`");
                return None;
            }
        };
        let mut duration = |name: &str| {
            let word = flags.value(name)?;
            let found = duration_ms(&word.text);
            if found.is_none() {
                let error = Diagnostic::error(format!("`{}` is not a duration", word.text), word.span);
                self.found.push(error.help("such as 30s or 1m30s"));
            }
            found
        };
        let (interval_ms, timeout_ms) = (duration("interval"), duration("timeout"));
        let (start_period_ms, start_interval_ms) = (duration("start-period"), duration("start-interval"));
        let retries = flags.value("retries").and_then(|word| match word.text.parse() {
            Ok(number) => Some(number),
            Err(_) => {
                self.error(format!("`{}` is not a number", word.text), word.span);
                None
            }
        });
        let shell = Vec::new();
        Some(Healthcheck { test, interval_ms, timeout_ms, start_period_ms, start_interval_ms, retries, shell })
    }

    /// The trigger is read now, so that a mistake is found here and not by whoever builds on the image.
    fn onbuild(&mut self, rest: Rest<'_>) -> Option<String> {
        let text = rest.text();
        let name = text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        if matches!(name.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
            self.error(format!("`{name}` can't be a trigger"), rest.span());
            return None;
        }
        if words(text, self.escape).iter().any(|range| text[range.clone()].starts_with("<<")) {
            self.error_help("a trigger has no here-documents", rest.span(), "write it in one line");
            return None;
        }
        let at = rest.line.span(rest.start..rest.start).start;
        let line = Line { text: Text::new(rest.span().source, text, at), heredocs: Vec::new() };
        self.line(&line)?;
        Some(text.to_owned())
    }
}

fn is_remote(text: &str) -> bool {
    ["http://", "https://", "git@", "git://", "ssh://"].iter().any(|start| text.starts_with(start))
}
