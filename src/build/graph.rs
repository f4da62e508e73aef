//! Which stages a target needs, and what each is built on: a directed graph without cycles, since a stage can only name
//! those before it. Pure.

use std::collections::BTreeSet;

use super::dockerfile::{Dockerfile, Instruction, Kind, MountKind, Stage, Word};
use super::scope::{Given, Platform};
use crate::diagnostics::{Diagnostic, Span, did_you_mean};

/// What a build does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// The stages that are needed, in the order of the file; each needs only those before it.
    pub nodes: Vec<Node>,
    /// Index into the file's stages.
    pub target: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Index into the file's stages.
    pub stage: usize,
    /// The stage's name, for people; empty where there is only one stage.
    pub label: String,
    pub base: Place,
    /// How many of its instructions are shown as steps.
    pub steps: usize,
}

/// Where files come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An empty file system.
    Scratch,
    /// The build's own context.
    Context,
    /// A context that was given under this name.
    Named(String),
    Stage(usize),
    Image(String),
}

/// The instructions that are shown as steps: those that may make a layer.
pub fn is_step(kind: &Kind) -> bool {
    matches!(kind, Kind::Run(_) | Kind::Copy(_) | Kind::Workdir(_))
}

/// The stages that `target` needs (the last one where none is named). Errors are all that are found.
pub fn graph(
    file: &Dockerfile,
    target: Option<&str>,
    given: &Given,
    contexts: &BTreeSet<String>,
) -> Result<Graph, Vec<Diagnostic>> {
    let mut found = Vec::new();
    let target = match target {
        None => file.stages.len().saturating_sub(1),
        Some(name) => match stage_by_name(&file.stages, name) {
            Some(index) => index,
            None => {
                let names = file.stages.iter().filter_map(|stage| stage.name.as_deref());
                let mut error = Diagnostic::error(format!("there is no stage `{name}` to build"), None);
                error.help = did_you_mean(name, names);
                return Err(vec![error]);
            }
        },
    };
    let mut needed = BTreeSet::from([target]);
    let mut nodes = Vec::new();
    // From the target back: whatever a stage needs comes before it.
    for index in (0..=target).rev() {
        if !needed.contains(&index) {
            continue;
        }
        let stage = &file.stages[index];
        let base = base(file, index, given, contexts, &mut found).unwrap_or(Place::Scratch);
        let mut places = vec![base.clone()];
        for word in stage.instructions.iter().flat_map(sources) {
            match place(word, index, &file.stages, contexts) {
                Ok(place) => places.push(place),
                Err(error) => found.push(error),
            }
        }
        needed.extend(places.iter().filter_map(|place| match place {
            Place::Stage(other) => Some(*other),
            _ => None,
        }));
        let steps = 1 + stage.instructions.iter().filter(|one| is_step(&one.kind)).count();
        nodes.push(Node { stage: index, label: label(&file.stages, index), base, steps });
    }
    nodes.reverse();
    if found.is_empty() { Ok(Graph { nodes, target }) } else { Err(found) }
}

fn label(stages: &[Stage], index: usize) -> String {
    match &stages[index].name {
        Some(name) => name.clone(),
        None if stages.len() == 1 => String::new(),
        None => format!("stage-{index}"),
    }
}

/// A stage's name, in any case, or its number.
fn stage_by_name(stages: &[Stage], name: &str) -> Option<usize> {
    let lower = name.to_lowercase();
    let by_name = stages.iter().rposition(|stage| stage.name.as_ref() == Some(&lower));
    by_name.or_else(|| name.parse().ok().filter(|index| *index < stages.len()))
}

fn base(
    file: &Dockerfile,
    index: usize,
    given: &Given,
    contexts: &BTreeSet<String>,
    found: &mut Vec<Diagnostic>,
) -> Option<Place> {
    let stage = &file.stages[index];
    let mut value = |word: &Word| match given.global(word) {
        Ok(value) => Some(value),
        Err((word, problem)) => {
            found.push(Diagnostic::error(problem.to_string(), word.span));
            None
        }
    };
    let image = value(&stage.image)?;
    let platform = match &stage.platform {
        Some(word) => Some((value(word)?, word.span)),
        None => None,
    };
    if let Some((text, span)) = platform.filter(|(text, _)| !text.is_empty() && !Platform::host().is(text)) {
        let message = format!("platform `{text}`: this host is {}", Platform::host());
        found.push(Diagnostic::error(message, span).help("building for other platforms is not there yet"));
        return None;
    }
    if image.is_empty() {
        let help = "give the argument a default before the first `FROM`, or a value with --build-arg";
        found.push(Diagnostic::error("the image's name is empty", stage.image.span).help(help));
        return None;
    }
    let lower = image.to_lowercase();
    let earlier = file.stages[..index].iter().rposition(|stage| stage.name.as_ref() == Some(&lower));
    Some(match earlier {
        Some(earlier) => Place::Stage(earlier),
        None if contexts.contains(&image) => Place::Named(image),
        None if image == "scratch" => Place::Scratch,
        None => Place::Image(image),
    })
}

/// The words of an instruction that name places to take files from.
fn sources(instruction: &Instruction) -> Vec<&Word> {
    match &instruction.kind {
        Kind::Copy(copy) => copy.from.iter().collect(),
        Kind::Run(run) => {
            let from = run.mounts.iter().filter_map(|mount| match &mount.kind {
                MountKind::Bind { from, .. } | MountKind::Cache { from, .. } => from.as_ref(),
                MountKind::Tmpfs { .. } | MountKind::Secret { .. } => None,
            });
            from.collect()
        }
        _ => Vec::new(),
    }
}

/// What `--from=NAME` means in the stage with this index.
///
/// # Errors
/// Where it names a stage that comes later, or itself.
pub fn place(word: &Word, index: usize, stages: &[Stage], contexts: &BTreeSet<String>) -> Result<Place, Diagnostic> {
    if word.text.contains('$') {
        let help = "name a stage with the variable in its `FROM`, and take the files from that stage";
        return Err(Diagnostic::error("there are no variables in `from`", word.span).help(help));
    }
    match stage_by_name(stages, &word.text) {
        Some(found) if found < index => return Ok(Place::Stage(found)),
        Some(found) => {
            let which = if found == index { "this very stage" } else { "a later stage" };
            return Err(later(word.span, &word.text, which, stages[found].span));
        }
        None => {}
    }
    if contexts.contains(&word.text) {
        return Ok(Place::Named(word.text.clone()));
    }
    match word.text.as_str() {
        "scratch" => Ok(Place::Scratch),
        "context" => Ok(Place::Context),
        _ => Ok(Place::Image(word.text.clone())),
    }
}

fn later(span: Span, name: &str, which: &str, there: Span) -> Diagnostic {
    let error = Diagnostic::error(format!("`{name}` is {which}"), span).related(there, "it begins here");
    error.help("files can only be taken from stages that come before")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::dockerfile::parse;
    use std::collections::BTreeMap;

    fn of(text: &str, target: Option<&str>) -> Result<Vec<(String, Place)>, Vec<String>> {
        let file = parse("Dockerfile", text).unwrap();
        let mut given = Given::new(&BTreeMap::from([("V".to_owned(), "9".to_owned())]), "", None, '\\');
        given.declare_globals(&file.arguments).unwrap();
        let contexts = BTreeSet::from(["extra".to_owned()]);
        match graph(&file, target, &given, &contexts) {
            Ok(graph) => Ok(graph.nodes.into_iter().map(|node| (node.label, node.base)).collect()),
            Err(found) => Err(found.into_iter().map(|one| one.message).collect()),
        }
    }

    #[test]
    fn only_what_the_target_needs_is_built() {
        let text = "ARG V=1\nFROM a:$V AS one\nFROM b AS two\nFROM scratch AS three\nCOPY --from=ONE x y\n\
                    FROM three\nRUN --mount=from=1,target=/t true\nFROM extra AS last\n";
        let image = |name: &str| Place::Image(name.to_owned());
        let one = ("one".to_owned(), image("a:9"));
        let three = ("three".to_owned(), Place::Scratch);
        assert_eq!(of(text, Some("three")), Ok(vec![one.clone(), three.clone()]));
        let fourth = ("stage-3".to_owned(), Place::Stage(2));
        assert_eq!(of(text, Some("3")), Ok(vec![one, ("two".to_owned(), image("b")), three, fourth]));
        assert_eq!(of(text, None), Ok(vec![("last".to_owned(), Place::Named("extra".into()))]));
    }

    #[test]
    fn what_can_not_be_is_said() {
        for (text, expected) in [
            ("FROM a AS x\nCOPY --from=y a b\nFROM b AS y\nCOPY --from=x a b", "`y` is a later stage"),
            ("FROM a AS x\nCOPY --from=x a b", "`x` is this very stage"),
            ("FROM a\nCOPY --from=$x a b", "there are no variables in `from`"),
            ("FROM $NONE", "the image's name is empty"),
            ("FROM ${NONE:?no}", "variable `NONE`: no"),
            ("FROM --platform=plan9/mips a", "platform `plan9/mips`: this host is"),
        ] {
            let found = of(text, None).unwrap_err();
            assert!(found[0].starts_with(expected), "{text}: {found:?}");
        }
        assert_eq!(of("FROM a AS build", Some("biuld")).unwrap_err(), ["there is no stage `biuld` to build"]);
    }
}
