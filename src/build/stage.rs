//! One stage: its instructions one after another, each a change of the draft of an image.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::dockerfile::expand::{Problem, Quotes};
use super::dockerfile::{Command, Instruction, Kind, Word, parse_triggers};
use super::draft::Draft;
use super::execute::Shared;
use super::graph::{self, Node, Place};
use super::scope::Scope;
use super::{Error, Event, NamedContext, StepName};
use crate::diagnostics::{Diagnostic, Sources, Span};
use crate::runtime::image::{Digest, Image, Step};

/// The longest text of a step that is shown, in characters.
const SHOWN: usize = 120;

/// A stage at work.
pub(super) struct Worker<'a, 'b> {
    pub shared: &'a Shared<'b>,
    pub node: &'a Node,
    pub draft: Draft,
    pub scope: Scope,
    /// The texts that spans of the present instruction point into.
    pub sources: Sources,
    number: usize,
    total: usize,
}

/// Builds one stage.
pub(super) fn stage(shared: &Shared<'_>, node: &Node) -> Result<Draft, Error> {
    let stage = &shared.file.stages[node.stage];
    let first = StepName { stage: node.label.clone(), number: 1, total: node.steps, text: stage.text.clone() };
    let sources = shared.file.sources.clone();
    let draft = begin(shared, node, &first).map_err(|error| located(error, &sources, stage.image.span))?;
    let mut worker = Worker { shared, node, draft, scope: Scope::default(), sources, number: 1, total: node.steps };
    worker.triggers(&stage.image.text)?;
    for instruction in &stage.instructions {
        worker.instruction(instruction)?;
    }
    Ok(worker.draft)
}

/// An error that has no place in the file is told at the instruction that it came from.
fn located(error: Error, sources: &Sources, span: Span) -> Error {
    match error {
        Error::Dockerfile(_) | Error::Failed { .. } | Error::Cancelled => error,
        // The whole build is begun again for it.
        Error::Image(crate::runtime::image::Error::Busy(_)) => error,
        other => {
            let text = other.to_string();
            let (message, help) =
                text.split_once("\n  help: ").map_or((text.as_str(), None), |(text, help)| (text, Some(help)));
            let mut diagnostic = Diagnostic::error(message, span);
            diagnostic.help = help.map(str::to_owned);
            Error::at(sources, diagnostic)
        }
    }
}

/// What the stage is built on.
fn begin(shared: &Shared<'_>, node: &Node, name: &StepName) -> Result<Draft, Error> {
    let image = |reference: &str| -> Result<Draft, Error> {
        let begun = Instant::now();
        (shared.events)(Event::Started(name));
        let image = {
            let _permit = shared.permit()?;
            image(shared, reference)?
        };
        (shared.events)(Event::Finished { step: name, took: begun.elapsed() });
        let wrong =
            |error: super::draft::DraftError| Error::Input { path: reference.into(), reason: error.to_string() };
        Draft::from_image(&image).map_err(wrong)
    };
    let mut draft = match &node.base {
        Place::Scratch | Place::Context => {
            let host = super::scope::Platform::host();
            Ok(Draft::scratch(&host.os, &host.architecture))
        }
        Place::Stage(other) => Ok(Draft::from_stage(&shared.result(*other)?)),
        Place::Image(reference) => image(reference),
        Place::Named(name) => match shared.request.contexts.get(name) {
            Some(NamedContext::Image(reference)) => image(reference),
            Some(NamedContext::Directory(path)) => {
                let reason = "a directory can't be built on; copy from it".to_owned();
                Err(Error::Input { path: path.clone(), reason })
            }
            None => Err(Error::Cancelled),
        },
    }?;
    if let Some(epoch) = shared.request.epoch {
        draft.created = epoch;
    }
    Ok(draft)
}

/// An image of this name, whose layers stay here while steps remember them.
pub(super) fn image(shared: &Shared<'_>, reference: &str) -> Result<Image, Error> {
    let image = (shared.provide)(reference, shared.request.pull)?;
    let layers: Vec<(Digest, u64)> = image.diff_ids.iter().map(|layer| (layer.clone(), 0)).collect();
    let step = Step { layers, ..Step::default() };
    let key = key(&serde_json::json!({"op": "from", "id": image.id}));
    if shared.store.step(&key)?.as_ref() != Some(&step) {
        shared.store.keep_step(&key, &step)?;
    }
    Ok(image)
}

/// What a step depends on, as one digest. A field that is added later changes every key, and that is right.
pub(super) fn key(inputs: &serde_json::Value) -> Digest {
    Digest::of(format!("stack build step 1\n{inputs}").as_bytes())
}

fn shell(draft: &Draft, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(words) => words.clone(),
        Command::Shell(text) => draft.shell().into_iter().chain([text.clone()]).collect(),
    }
}

impl Worker<'_, '_> {
    /// What images below asked of whoever builds on them.
    fn triggers(&mut self, image: &str) -> Result<(), Error> {
        let triggers = self.draft.take_triggers();
        if triggers.is_empty() {
            return Ok(());
        }
        let parsed = parse_triggers(image, &triggers).map_err(|found| Error::Dockerfile(Box::new(found)));
        let (instructions, sources) = parsed?;
        let own = std::mem::replace(&mut self.sources, sources);
        self.total += instructions.iter().filter(|one| graph::is_step(&one.kind)).count();
        for instruction in &instructions {
            self.instruction(instruction)?;
        }
        self.sources = own;
        Ok(())
    }

    fn instruction(&mut self, one: &Instruction) -> Result<(), Error> {
        if self.shared.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let sources = self.sources.clone();
        self.carry_out(one).map_err(|error| located(error, &sources, one.span))
    }

    fn carry_out(&mut self, one: &Instruction) -> Result<(), Error> {
        match &one.kind {
            Kind::Arg(arguments) => {
                for argument in arguments {
                    let declared = self.scope.declare(argument, self.shared.given, &self.draft);
                    declared.map_err(|problem| self.problem(problem))?;
                }
            }
            Kind::Env(pairs) => {
                // All values are seen as they were before the line.
                for (key, value) in self.pairs(pairs)? {
                    self.draft.set_variable(&key, &value);
                }
            }
            Kind::Label(pairs) => {
                for (key, value) in self.pairs(pairs)? {
                    self.draft.add_label(&key, &value);
                }
            }
            Kind::Run(run) => return self.run(one, run),
            Kind::Copy(copy) => return self.copy(one, copy),
            Kind::Workdir(word) => return self.workdir(one, word),
            Kind::User(word) => {
                let user = self.expand(word)?;
                self.draft.set_user(&user);
            }
            Kind::Entrypoint(command) => {
                let words = shell(&self.draft, command);
                self.draft.set_entrypoint(&words);
            }
            Kind::Cmd(command) => {
                let words = shell(&self.draft, command);
                self.draft.set_command(&words);
            }
            Kind::Shell(words) => self.draft.set_shell(words),
            Kind::Expose(words) => {
                for word in words {
                    for port in ports(&self.expand(word)?).ok_or_else(|| self.wrong(word, "is no port"))? {
                        self.draft.add_port(&port);
                    }
                }
            }
            Kind::Volume(words) => {
                for word in words {
                    let path = self.expand(word)?;
                    self.draft.add_volume(&path);
                }
            }
            Kind::StopSignal(word) => {
                let signal = self.expand(word)?;
                self.draft.set_stop_signal(&signal);
            }
            Kind::Healthcheck(check) => self.draft.set_healthcheck(check),
            Kind::Onbuild(trigger) => self.draft.add_trigger(trigger),
            Kind::Maintainer(author) => self.draft.set_author(author),
        }
        self.draft.remember(&one.text, false);
        Ok(())
    }

    fn pairs(&self, pairs: &[(Word, Word)]) -> Result<Vec<(String, String)>, Error> {
        pairs.iter().map(|(key, value)| Ok((self.expand(key)?, self.expand(value)?))).collect()
    }

    pub fn expand(&self, word: &Word) -> Result<String, Error> {
        let value = self.scope.expand(word, Quotes::Word, self.shared.given, &self.draft);
        value.map_err(|problem| self.problem(problem))
    }

    pub fn problem(&self, (word, problem): (Word, Problem)) -> Error {
        Error::at(&self.sources, Diagnostic::error(problem.to_string(), word.span))
    }

    pub fn wrong(&self, word: &Word, what: &str) -> Error {
        Error::at(&self.sources, Diagnostic::error(format!("`{}` {what}", word.text), word.span))
    }

    /// Whether what is remembered of steps is to be used.
    fn may_remember(&self) -> bool {
        let request = self.shared.request;
        !request.no_cache && !request.no_cache_filter.contains(&self.node.label)
    }

    /// The next step: taken from memory, or carried out by `make`, which gets its name.
    pub fn step(
        &mut self,
        one: &Instruction,
        key: &Digest,
        make: impl FnOnce(&Self, &StepName) -> Result<Step, Error>,
    ) -> Result<(), Error> {
        self.number += 1;
        let text: String = one.text.lines().next().unwrap_or_default().chars().take(SHOWN).collect();
        let name = StepName { stage: self.node.label.clone(), number: self.number, total: self.total, text };
        let known = if self.may_remember() { self.shared.store.step(key)? } else { None };
        let step = match known {
            Some(step) => {
                (self.shared.events)(Event::Cached(&name));
                self.shared.cached.fetch_add(1, Ordering::Relaxed);
                step
            }
            None => {
                let _permit = self.shared.permit()?;
                let begun = Instant::now();
                (self.shared.events)(Event::Started(&name));
                self.shared.executed.fetch_add(1, Ordering::Relaxed);
                let step = make(self, &name)?;
                (self.shared.events)(Event::Finished { step: &name, took: begun.elapsed() });
                step
            }
        };
        self.draft.push_layers(&step.layers);
        if !step.layers.is_empty() {
            self.draft.created = step.created;
        }
        self.draft.remember(&one.text, !step.layers.is_empty());
        Ok(())
    }
}

/// `80`, `80/udp`, `8000-8010/tcp`: each port with its protocol.
fn ports(text: &str) -> Option<Vec<String>> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_lowercase();
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    let good = matches!(protocol.as_str(), "tcp" | "udp" | "sctp") && first > 0 && first <= last;
    good.then(|| (first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_protocols_and_ranges() {
        for (text, expected) in [
            ("80", Some(vec!["80/tcp"])),
            ("53/UDP", Some(vec!["53/udp"])),
            ("8-10/tcp", Some(vec!["8/tcp", "9/tcp", "10/tcp"])),
            ("0", None),
            ("70000", None),
            ("10-8", None),
            ("80/x", None),
            ("", None),
        ] {
            let expected = expected.map(|list| list.into_iter().map(str::to_owned).collect());
            assert_eq!(ports(text), expected, "{text}");
        }
    }
}
