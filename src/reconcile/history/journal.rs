//! The lines of a stack's journal, and what they tell together.
//!
//! Each line is one JSON object, format 1. What one plan does begins with `planned`, is followed by `ended` for each
//! resource that is through, and closed by `over`; without that, whoever did it died of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Author;
use crate::reconcile::diff::FieldChange;
use crate::reconcile::plan::{Entry, Plan, Verb, hide_values};
use crate::reconcile::resource::{Kind, ResourceId};

/// Of a value that is written down, characters.
const LONGEST: usize = 200;
/// Of an error: what it quotes may be a stranger's, and the journal is bounded by its lines.
const LONGEST_ERROR: usize = 8000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "lowercase")]
pub enum Line {
    Planned(Planned),
    Ended {
        at_ms: u64,
        id: ResourceId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// A check of no single resource failed.
    Refused {
        at_ms: u64,
        error: String,
    },
    Over {
        at_ms: u64,
    },
}

/// What a plan is about to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    pub at_ms: u64,
    pub author: Author,
    pub changes: Vec<Change>,
}

/// What is done to one resource, and why. Values that are nobody's business are hidden, long ones cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub id: ResourceId,
    pub verb: Verb,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<String>,
    /// Where the first of the fields, else the resource, is declared: `stack.yaml:3:5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

impl Line {
    pub fn done(id: &ResourceId, at_ms: u64) -> Self {
        Self::Ended { at_ms, id: id.clone(), error: None }
    }

    pub fn failed(id: &ResourceId, at_ms: u64, error: &str) -> Self {
        Self::Ended { at_ms, id: id.clone(), error: Some(cut(error, LONGEST_ERROR)) }
    }

    pub fn refused(at_ms: u64, error: &str) -> Self {
        Self::Refused { at_ms, error: cut(error, LONGEST_ERROR) }
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a line has only string keys and finite numbers")
    }

    /// Begins what one plan did.
    pub fn begins(text: &str) -> bool {
        text.starts_with(r#"{"line":"planned""#)
    }
}

impl Planned {
    pub fn of(plan: &Plan, author: &Author, at_ms: u64) -> Self {
        let changes = plan.entries.iter().map(|entry| Change::of(entry, author)).collect();
        Self { at_ms, author: author.clone(), changes }
    }
}

impl Change {
    fn of(entry: &Entry, author: &Author) -> Self {
        let Entry { id, verb, mut fields, reason, how, .. } = hide_values(entry);
        for field in &mut fields {
            (field.old, field.new) = (shortened(&field.old), shortened(&field.new));
        }
        let declared = declared_at(&id);
        let place = match (&verb, fields.first()) {
            (Verb::Remove, _) => None,
            (_, Some(field)) => author.places.find(&format!("{declared}.{}", key_of(&field.path))),
            (_, None) => author.places.find(&declared),
        };
        Self { id, verb, fields, reason, how, place }
    }
}

/// The path of what declares this, in native words: `containers.web` of `container/web-1`.
fn declared_at(id: &ResourceId) -> String {
    match id.kind {
        Kind::Image => format!("images.{}", id.name),
        Kind::Network => format!("networks.{}", id.name),
        Kind::Volume => format!("volumes.{}", id.name),
        Kind::Container => {
            format!("containers.{}", id.name.rsplit_once('-').map_or(id.name.as_str(), |(service, _)| service))
        }
    }
}

/// The key of a file that a field comes from, where it has another name there.
fn key_of(field: &str) -> &str {
    match field.split('.').next().unwrap_or(field) {
        "image_digest" => "image",
        "network" => "networks",
        "mounts" | "bind_contents" => "volumes",
        "on_unhealthy" | "on_unhealthy_budget" => "healthcheck",
        "stop_grace_ms" => "stop_grace_period",
        "resources" => match field {
            "resources.memory" => "mem_limit",
            "resources.nano_cpus" => "cpus",
            "resources.pids" => "pids_limit",
            _ => field,
        },
        _ => field,
    }
}

fn shortened(value: &Value) -> Value {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let short = cut(&text, LONGEST);
    if short == text { value.clone() } else { short.into() }
}

fn cut(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What one plan did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Round {
    pub at_ms: u64,
    pub author: Author,
    pub changes: Vec<(Change, Fate)>,
    /// Checks of no single resource that failed.
    pub refused: Vec<String>,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    Done {
        at_ms: u64,
    },
    Failed {
        at_ms: u64,
        error: String,
    },
    /// Not tried, since something that it needs failed or somebody interrupted.
    Skipped,
    /// Under way, or who did it died of it.
    Open,
}

/// What the lines tell, the oldest first. A line that is no line of a journal, as a loss of power leaves it, is passed over.
pub fn rounds(lines: &[String]) -> Vec<Round> {
    let mut all: Vec<Round> = Vec::new();
    for line in lines.iter().filter_map(|line| serde_json::from_str(line).ok()) {
        match (line, all.last_mut()) {
            (Line::Planned(Planned { at_ms, author, changes }), _) => {
                let changes = changes.into_iter().map(|change| (change, Fate::Open)).collect();
                all.push(Round { at_ms, author, changes, refused: Vec::new() });
            }
            (Line::Ended { at_ms, id, error }, Some(round)) => {
                let fate = match error {
                    None => Fate::Done { at_ms },
                    Some(error) => Fate::Failed { at_ms, error },
                };
                let own = round.changes.iter_mut().find(|(change, _)| change.id == id);
                // A failure stays one, whatever else is done to the same.
                if let Some((_, known)) = own.filter(|(_, known)| !matches!(known, Fate::Failed { .. })) {
                    *known = fate;
                }
            }
            (Line::Refused { error, .. }, Some(round)) => round.refused.push(error),
            (Line::Over { .. }, Some(round)) => {
                let open = round.changes.iter_mut().filter(|(_, fate)| *fate == Fate::Open);
                open.for_each(|(_, fate)| *fate = Fate::Skipped);
            }
            // What it belongs to is forgotten already.
            (_, None) => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ResourceId {
        ResourceId::new(Kind::Container, name)
    }

    fn planned(names: &[&str]) -> String {
        let change = |name: &&str| Change {
            id: id(name),
            verb: Verb::Create,
            fields: Vec::new(),
            reason: Some("not found".into()),
            how: None,
            place: None,
        };
        let changes = names.iter().map(change).collect();
        Line::Planned(Planned { at_ms: 1, author: Author::default(), changes }).to_json()
    }

    #[test]
    fn lines_tell_what_became_of_each_change() {
        let lines = [
            Line::done(&id("forgotten"), 1).to_json(),
            planned(&["a-1", "b-1", "c-1"]),
            Line::done(&id("a-1"), 2).to_json(),
            r#"{"line":"ended","at_m"#.to_owned(),
            Line::failed(&id("b-1"), 3, "no room").to_json(),
            Line::Over { at_ms: 4 }.to_json(),
            planned(&["c-1"]),
        ];
        let all = rounds(&lines);
        let fates: Vec<&Fate> = all[0].changes.iter().map(|(_, fate)| fate).collect();
        assert_eq!(
            fates,
            [&Fate::Done { at_ms: 2 }, &Fate::Failed { at_ms: 3, error: "no room".into() }, &Fate::Skipped]
        );
        assert_eq!((all.len(), &all[1].changes[0].1), (2, &Fate::Open));
        assert!(Line::begins(&lines[1]) && !Line::begins(&lines[2]));
        let long = "é".repeat(1 << 20);
        for line in [Line::failed(&id("a"), 1, &long), Line::refused(1, &long)] {
            assert!(line.to_json().chars().count() < 2 * LONGEST_ERROR, "an error has its bound");
        }
    }

    #[test]
    fn a_change_tells_where_it_is_declared() {
        let locate = |path: &str| {
            let line = if path == "containers.web.mem_limit" { 4 } else { 2 };
            path.starts_with("containers.web").then(|| format!("s.yaml:{line}:3"))
        };
        let author = Author { places: crate::reconcile::history::Places::new(locate), ..Author::default() };
        let of = |verb, path: &str| {
            let field = FieldChange { path: path.into(), old: Value::Null, new: "x".repeat(300).into() };
            let (reason, refused, how) = (None, None, None);
            Change::of(&Entry { id: id("web-1"), verb, fields: vec![field], reason, refused, how }, &author)
        };
        assert_eq!(of(Verb::Update, "resources.memory").place.as_deref(), Some("s.yaml:4:3"));
        assert_eq!(of(Verb::Update, "environment.A").place.as_deref(), Some("s.yaml:2:3"));
        assert_eq!(of(Verb::Remove, "environment.A").place, None);
        assert_eq!(of(Verb::Update, "environment.A").fields[0].new.as_str().unwrap().chars().count(), 201);
        assert_eq!(of(Verb::Update, "environment.API_TOKEN").fields[0].new, "(hidden)");
    }
}
