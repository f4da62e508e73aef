//! Dockerfiles: text → instructions with the place of every word (Dockerfile reference, syntax 1.x). Pure; all errors
//! of a file are found at once.
//!
//! What variables stand for is not known here: words that may hold some are kept as written ([`Word`]).

pub mod expand;
mod flags;
mod instructions;
pub mod lines;
mod mounts;

use std::path::PathBuf;

use crate::diagnostics::{Diagnostic, Diagnostics, Source, Sources, Span};
use crate::runtime::image::Healthcheck;

pub use lines::{Directives, Heredoc};
pub use mounts::{MountKind, MountOptions, Sharing};

/// A whole file.
#[derive(Clone, Debug)]
pub struct Dockerfile {
    pub sources: Sources,
    pub directives: Directives,
    /// `ARG` before the first `FROM`.
    pub arguments: Vec<Argument>,
    pub stages: Vec<Stage>,
    pub warnings: Vec<Diagnostic>,
}

/// `FROM` and what follows up to the next.
#[derive(Clone, Debug)]
pub struct Stage {
    pub image: Word,
    pub platform: Option<Word>,
    /// In lower case.
    pub name: Option<String>,
    pub span: Span,
    /// The line, for people.
    pub text: String,
    pub instructions: Vec<Instruction>,
}

#[derive(Clone, Debug)]
pub struct Instruction {
    pub kind: Kind,
    pub span: Span,
    /// The instruction in one line as it is written, for people, for history and for `ONBUILD`.
    pub text: String,
}

/// Text that may hold variables, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    pub span: Span,
}

/// `ARG name[=default]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    pub name: String,
    pub default: Option<Word>,
    pub span: Span,
}

/// Shell or exec form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Shell(String),
    Exec(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Arg(Vec<Argument>),
    Env(Vec<(Word, Word)>),
    Label(Vec<(Word, Word)>),
    Run(Box<Run>),
    /// `COPY` and `ADD`.
    Copy(Box<Copy>),
    Workdir(Word),
    User(Word),
    Entrypoint(Command),
    Cmd(Command),
    Shell(Vec<String>),
    Expose(Vec<Word>),
    Volume(Vec<Word>),
    StopSignal(Word),
    Healthcheck(Healthcheck),
    /// The trigger as text, executed when another build begins from the image.
    Onbuild(String),
    Maintainer(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub command: Command,
    pub heredocs: Vec<Heredoc>,
    pub mounts: Vec<MountOptions>,
    pub network: Option<Word>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// `ADD`: archives are unpacked.
    pub add: bool,
    pub sources: Vec<Word>,
    pub heredocs: Vec<Heredoc>,
    pub target: Word,
    pub from: Option<Word>,
    pub owner: Option<Word>,
    pub mode: Option<Word>,
    pub link: bool,
    pub parents: bool,
    pub exclude: Vec<Word>,
    /// `ADD --unpack`: whether archives are unpacked; unset is "local ones".
    pub unpack: Option<bool>,
    pub checksum: Option<Word>,
}

/// Reads a Dockerfile. `name` is what the user knows it as.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(name: &str, text: &str) -> Result<Dockerfile, Diagnostics> {
    let mut sources = Sources::default();
    let source = sources.add(Source::new(name.to_owned(), text.to_owned(), PathBuf::new()));
    let mut found = Vec::new();
    let (directives, lines) = lines::read(text, source, &mut found);
    let mut parser = instructions::Parser::new(directives.escape, found);
    let mut arguments = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    let whole = Text::new(source, text, 0).whole();
    for line in &lines {
        match parser.line(line) {
            Some(Parsed::From(stage)) => {
                parser.check_name(&stage, &stages);
                stages.push(*stage);
            }
            Some(Parsed::Instruction(instruction)) => match (stages.last_mut(), instruction.kind) {
                (Some(stage), kind) => stage.instructions.push(Instruction { kind, ..instruction }),
                (None, Kind::Arg(found)) => arguments.extend(found),
                (None, _) => parser.error_help(
                    "there is no stage yet",
                    instruction.span,
                    "the first instruction is `FROM`; only `ARG` may come before it",
                ),
            },
            None => {}
        }
    }
    if stages.is_empty() && !parser.failed() {
        let nothing = Span { end: whole.start, ..whole };
        parser.error_help("there is no `FROM`", nothing, "a Dockerfile begins with the image that it builds on");
    }
    match parser.finish() {
        Ok(warnings) => Ok(Dockerfile { sources, directives, arguments, stages, warnings }),
        Err(found) => Err(Diagnostics::new(found, sources)),
    }
}

/// Reads the triggers that an image was built with, as instructions of a stage.
///
/// # Errors
/// Everything that is wrong with them.
pub fn parse_triggers(image: &str, triggers: &[String]) -> Result<(Vec<Instruction>, Sources), Diagnostics> {
    let mut sources = Sources::default();
    let (mut instructions, mut found) = (Vec::new(), Vec::new());
    for trigger in triggers {
        let source = Source::new(format!("ONBUILD of {image}"), trigger.clone(), PathBuf::new());
        let source = sources.add(source);
        let (directives, lines) = lines::read(trigger, source, &mut found);
        let mut parser = instructions::Parser::new(directives.escape, std::mem::take(&mut found));
        for line in &lines {
            match parser.line(line) {
                Some(Parsed::Instruction(Instruction {
                    kind: Kind::Onbuild(_) | Kind::Maintainer(_), span, ..
                })) => {
                    parser.error_help("this can't be a trigger", span, "the image must be built anew without it");
                }
                Some(Parsed::Instruction(instruction)) => instructions.push(instruction),
                Some(Parsed::From(stage)) => parser.error_help("this can't be a trigger", stage.span, "no `FROM` here"),
                None => {}
            }
        }
        found = match parser.finish() {
            Ok(_) => Vec::new(),
            Err(found) => found,
        };
    }
    if found.is_empty() { Ok((instructions, sources)) } else { Err(Diagnostics::new(found, sources)) }
}

use lines::Text;

/// One logical line, understood.
enum Parsed {
    From(Box<Stage>),
    Instruction(Instruction),
}

#[cfg(test)]
mod tests;
